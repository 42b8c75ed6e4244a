//! The steps of a stage that another engine trains. The sequences that no model of the step writes are drawn
//! here, and so are the prompts of the others, or, with the weights of each step, its completions too. The
//! engine reports each step's completions, and the numbers of every token that the objective reads. So the
//! objective is evaluated here too: its loss must be the engine's, and its metrics are those of any other
//! stage.

use std::rc::Rc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mopd_expr::batch::Batch;
use mopd_plan::events::{Event, FailureKind, Seconds};
use mopd_plan::{Axis, CompletionsFrom, EngineStage, Role, ScorerId, Signal, Teacher};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tch::{Kind, no_grad_guard};

use super::batches::{Batches, RolloutCache, judge};
use super::diagnostics::{StepTotals, diagnose};
use super::models::Models;
use super::non_finite;
use super::objective::{ObjectiveProgram, add_uniforms};
use super::progress;
use super::scoring::{given, of_data};
use super::sequences::{Group, Sequences};
use super::stage::Stage;
use super::tokens;
use super::trainer::{RestoreMode, Trainer};
use super::views::{ScorerPrompts, StepContext, available};
use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::report::Record;
use crate::rollout::Sequence;
use crate::store::state::TrainState;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// The largest difference of the engine's loss and of the objective's on the same numbers, relative to the
/// larger of 1 and the loss. Both have single precision, and sum in other orders.
const TOLERANCE: f64 = 1e-4;

/// The steps of a stage.
pub struct EngineSteps<'a> {
    stage: &'a Stage<'a>,
    engine: &'a EngineStage,
    program: ObjectiveProgram<'a>,
    drawn: Drawn<'a>,
    /// The sequences of the step at work.
    current: Option<Sequences>,
}

/// What is drawn of the steps.
enum Drawn<'a> {
    /// All of them ahead, by step. Completions that the engine samples are empty.
    Ahead { groups: Vec<Vec<Group>>, models: Box<Models>, by_engine: bool },
    /// Each of them when it comes. The trainer has the engine's weights, and does not update them.
    EachStep(Box<Trainer<'a>>),
}

/// What the engine reports of a step.
#[derive(Deserialize)]
pub struct ReportedStep {
    pub step: u32,
    pub loss: f64,
    pub gradient_norm: f64,
    pub learning_rate: f64,
    /// Of the rollouts, and of the rest.
    pub seconds: [f64; 2],
    /// The numbers of the rows, in the order of all that follows.
    pub rows: Vec<u64>,
    /// The values of each live primitive, as bytes in base64.
    live: Vec<String>,
    signals: Vec<(Signal, String)>,
}

/// The completions of a step, of which the engine asks for some signals.
#[derive(Deserialize)]
pub struct Completed {
    pub step: u32,
    completions: Vec<Vec<Token>>,
    truncated: Vec<bool>,
    signals: Vec<Signal>,
}

impl<'a> EngineSteps<'a> {
    /// `stages` are the parts of the stage. Rollouts of frozen models that are written before the first step
    /// are written here, unless they are in the cache.
    pub fn draw(
        stages: &'a [Stage<'a>],
        engine: &'a EngineStage,
        cache: Option<RolloutCache>,
    ) -> Result<EngineSteps<'a>> {
        let stage = &stages[0];
        let drawn = match engine.completions {
            CompletionsFrom::EachStep => {
                let trainer = Trainer::among(stages, 0, &[Rc::new(stage.student())], cache, None)?;
                Drawn::EachStep(Box::new(trainer))
            }
            completions => {
                let models = Box::new(Models::new(stage)?);
                let groups = ahead(stage, &models, cache.as_ref())?;
                Drawn::Ahead { groups, models, by_engine: completions == CompletionsFrom::Engine }
            }
        };
        let program = ObjectiveProgram::new(&stage.train.objective, stage.control);
        Ok(EngineSteps { stage, engine, program, drawn, current: None })
    }

    pub fn steps(&self) -> u32 {
        match &self.drawn {
            // Epochs may end within a step.
            Drawn::Ahead { groups, .. } => groups.len() as u32,
            Drawn::EachStep(_) => self.stage.steps,
        }
    }

    /// The rows of all steps, one for each sequence; of steps that are drawn later, rows that stand for them.
    pub fn rows(&self) -> Vec<Value> {
        match &self.drawn {
            Drawn::Ahead { groups, by_engine, .. } => {
                let groups = groups.iter().flatten().enumerate();
                let rows = groups.flat_map(|(number, group)| {
                    group.iter().map(move |sequence| self.row(sequence, number, *by_engine))
                });
                rows.collect()
            }
            Drawn::EachStep(_) => {
                let rows = self.stage.steps as usize * self.stage.train.rollout.sequences() as usize;
                vec![json!({"prompt": [0]}); rows]
            }
        }
    }

    /// A sequence of the group with this number.
    fn row(&self, sequence: &Sequence, group: usize, by_engine: bool) -> Value {
        let models = self.roles().filter_map(|role| {
            let name = self.engine.name(self.teacher(role, sequence)?);
            Some((role.name(), json!(name)))
        });
        json!({
            "prompt": sequence.prompt(&self.stage.sources),
            "completion": (!by_engine).then_some(&*sequence.completion),
            "written": sequence.completion.mask()
                .map(|mask| mask.into_iter().map(u8::from).collect::<Vec<u8>>()),
            "domain": self.stage.sources[sequence.source].name,
            "models": models.collect::<Map<String, Value>>(),
            "group": group,
        })
    }

    /// The roles of other models that the objective reads.
    fn roles(&self) -> impl Iterator<Item = Role> {
        let train = self.stage.train;
        train.scorers.iter().map(|(role, _)| role).filter(|role| train.objective.reads(*role))
    }

    /// Who has a role for a sequence.
    fn teacher(&self, role: Role, sequence: &Sequence) -> Option<&Teacher> {
        let Role::Scorer(ScorerId(place)) = role else { return None };
        let source = &self.stage.sources[sequence.source];
        match place {
            0 => source.route.teacher(sequence.record).map(|routed| &routed.weights),
            place => source.scorers.get(place as usize - 1)?.as_ref().map(|choice| &choice.teacher),
        }
    }

    fn models(&self) -> &Models {
        match &self.drawn {
            Drawn::Ahead { models, .. } => models,
            Drawn::EachStep(trainer) => &trainer.models,
        }
    }

    /// Draws a step with the weights that the engine has before it. Returns its rows.
    pub fn draw_step(&mut self, step: u32, weights: &Weights) -> Result<Vec<Value>> {
        let Drawn::EachStep(trainer) = &mut self.drawn else {
            return Err(strange(step, "its completions are not drawn here"));
        };
        let model = trainer.student.model.clone();
        {
            let _guard = no_grad_guard();
            model.flat().shallow_clone().copy_(&weights.flat(model.kind(), model.device()));
        }
        if step > 0 {
            trainer.models.follow(&model, || weights.flat(Kind::Float, model.device()), step);
        }
        trainer.before_batch(step)?;
        let rollouts = trainer.rollouts_of(step)?.remove(0);
        let sequences = rollouts.sequences;
        let groups = zip_equal(&sequences.list, &sequences.layout.group_of_sequence);
        let rows = groups.enumerate().map(|(number, (sequence, group))| {
            let mut row = self.row(sequence, *group as usize, false);
            row["number"] = json!(number);
            row
        });
        let rows = rows.collect();
        self.current = Some(sequences);
        Ok(rows)
    }

    /// The numbers that the engine asks for of a step, once its completions are known; the turns of the
    /// tokens; and for each role the prompts that its models read in place of the rows' own.
    pub fn known(&mut self, asked: &Completed) -> Result<Value> {
        let step = asked.step;
        let sequences = match &self.drawn {
            Drawn::EachStep(_) => {
                let sequences = self.current.take().ok_or_else(|| strange(step, "it was not drawn"))?;
                compare(step, &sequences.list, &asked.completions)?;
                sequences
            }
            Drawn::Ahead { groups, by_engine, .. } => {
                let groups =
                    groups.get(step as usize).ok_or_else(|| strange(step, "there is no such step"))?;
                completed(self.stage, groups.clone(), *by_engine, asked)?
            }
        };
        let known = self.numbers_of(&sequences, step, &asked.signals)?;
        let values = |signal: &Signal| {
            let found = known.iter().find(|(known, _)| known == signal);
            let what = || strange(step, &format!("it asks for {signal:?}, which is of distributions"));
            found.map(|(_, values)| values).ok_or_else(what)
        };
        let signals: Vec<&Vec<f32>> = asked.signals.iter().map(values).collect::<Result<_>>()?;
        let mut shown = Map::new();
        for role in self.roles() {
            shown.extend(self.shown(role, &sequences, step)?.map(|prompts| (role.name(), prompts)));
        }
        let turns = sequences.layout.turns.as_ref().map(|turns| [&turns.of_token, &turns.parent]);
        let answer = json!({"signals": signals, "turns": turns, "shown": shown});
        self.current = Some(sequences);
        Ok(answer)
    }

    /// For each sequence the prompt that a role reads in place of the student's, if any has one.
    fn shown(&self, role: Role, sequences: &Sequences, step: u32) -> Result<Option<Value>> {
        let (stage, models) = (self.stage, self.models());
        let view = |member: usize| {
            let section = stage.sources.section_of(&sequences.list[member]);
            models.of_role(role)[section].and_then(|scored| models.sees(scored))
        };
        let learned = match &self.drawn {
            Drawn::EachStep(trainer) => trainer.parts[0].batches.learned(),
            Drawn::Ahead { .. } => None,
        };
        let members: Vec<usize> = (0..sequences.list.len()).collect();
        let mut prompts: Vec<Option<Vec<Token>>> = vec![None; members.len()];
        let context = stage.start.config.context;
        // Sequences of a section are adjacent.
        for run in members.chunk_by(|one, next| view(*one) == view(*next)) {
            let sees = view(run[0]);
            if sees.is_none() {
                continue;
            }
            let (members, now) = (run.iter().copied(), StepContext { step, learned });
            let shown = ScorerPrompts::new(stage.texts(), sees, context, sequences, members.clone(), now)?;
            shown.fit(&stage.sources, sequences, members, context)?;
            for member in run {
                let prompt = shown.prompt(&stage.sources, &sequences.list[*member], *member);
                prompts[*member] = Some(prompt.to_vec());
            }
        }
        Ok(prompts.iter().any(Option::is_some).then(|| json!(prompts)))
    }

    /// The signals of a step that are not of distributions: those of the data and of earlier steps, and those
    /// that are wanted.
    fn numbers_of(
        &self,
        sequences: &Sequences,
        step: u32,
        wanted: &[Signal],
    ) -> Result<Vec<(Signal, Vec<f32>)>> {
        let (stage, objective) = (self.stage, &self.stage.train.objective);
        let mut signals = of_data(stage.train, &stage.sources, sequences)?;
        if let Drawn::EachStep(trainer) = &self.drawn {
            signals.extend(trainer.losses.signals());
        }
        for signal in wanted {
            if signals.iter().any(|(known, _)| known == signal) {
                continue;
            }
            if let Signal::Available { role } = signal {
                signals.push((signal.clone(), self.availability(*role, sequences)?));
            } else if let Some(values) = given(signal, objective, sequences)? {
                signals.push((signal.clone(), values));
            }
        }
        let layout = sequences.layout.clone();
        let mut batch = Batch { layout, signals, step, steps: stage.steps, ..Batch::default() };
        add_uniforms(stage.keys(), objective, step, &mut batch);
        Ok(batch.signals)
    }

    /// 1 for each sequence for which a role has everything that it reads, otherwise 0.
    fn availability(&self, role: Role, sequences: &Sequences) -> Result<Vec<f32>> {
        let models = self.models();
        let of = |member: usize| {
            let section = self.stage.sources.section_of(&sequences.list[member]);
            match models.of_role(role)[section] {
                None => Ok(0.0),
                Some(scored) => Ok(f32::from(u8::from(available(models.sees(scored), sequences, member)?))),
            }
        };
        (0..sequences.list.len()).map(of).collect()
    }

    /// The state between two steps, where they are drawn one by one.
    pub fn state(&self, step: u32, record: &Record) -> Option<TrainState> {
        let Drawn::EachStep(trainer) = &self.drawn else { return None };
        Some(trainer.state(step, 0.0, record.clone()))
    }

    /// Whether steps are drawn one by one, so that they resume from a state.
    pub fn has_state(&self) -> bool {
        matches!(self.drawn, Drawn::EachStep(_))
    }

    pub fn restore(&mut self, state: &TrainState) -> Result<(), String> {
        match &mut self.drawn {
            Drawn::EachStep(trainer) => trainer.restore(state, RestoreMode::Resume),
            Drawn::Ahead { .. } => Ok(()),
        }
    }

    /// Adds a step to the record. Fails where the objective's loss on the reported numbers is not the
    /// engine's.
    pub fn note(&mut self, reported: &ReportedStep, record: &mut Record) -> Result<Event> {
        let ReportedStep { step, loss, gradient_norm, learning_rate, seconds, .. } = *reported;
        let (stage, objective) = (self.stage, &self.stage.train.objective);
        let before: usize = match &self.drawn {
            Drawn::Ahead { groups, .. } => groups[..step as usize].iter().flatten().map(Vec::len).sum(),
            Drawn::EachStep(_) => 0,
        };
        let sequences = self.current.take().ok_or_else(|| strange(step, "nothing was asked before it"))?;
        let expected = (before as u64..).take(sequences.list.len());
        if !reported.rows.iter().copied().eq(expected) {
            return Err(strange(step, "its rows are others than those of the step, or in another order"));
        }
        let mut signals = Vec::new();
        for (signal, values) in &reported.signals {
            if !signals.iter().any(|(known, _)| known == signal) {
                signals.push((signal.clone(), self.numbers(step, values, &sequences, signal.axis())?));
            }
        }
        let mut wanted = objective.signals();
        wanted.retain(|signal| !signals.iter().any(|(known, _)| known == signal));
        signals.extend(self.numbers_of(&sequences, step, &wanted)?);
        let live = reported.live.iter().map(|values| self.numbers(step, values, &sequences, Axis::Token));
        let batch = Batch {
            layout: sequences.layout.clone(),
            signals,
            live: live.collect::<Result<_>>()?,
            step,
            steps: stage.steps,
            carried: match &self.drawn {
                Drawn::EachStep(trainer) => trainer.parts[0].carried.clone(),
                Drawn::Ahead { .. } => Default::default(),
            },
            ..Batch::default()
        };
        non_finite::check_signals(objective, &stage.sources, &sequences, &batch)?;
        let outputs = self.program.run(&batch)?;
        non_finite::check(objective, &stage.sources, &sequences, &outputs)?;
        let own = f64::from(outputs.get(objective.loss)[0]);
        if (own - loss).abs() > TOLERANCE * loss.abs().max(1.0) {
            let what = format!("its loss is {loss}, but on its numbers the objective is {own}");
            return Err(strange(step, &what));
        }
        if !gradient_norm.is_finite() {
            let message = format!("the norm of the gradient is {gradient_norm}");
            return Err(Error::new(FailureKind::NonFinite, message).at_step(step));
        }
        let seconds = Seconds { rollout: seconds[0], scoring: 0.0, update: seconds[1] };
        let mut numbers = StepTotals {
            step,
            loss,
            states: Default::default(),
            learning_rate,
            drawn: stage.step(step),
            learned: None,
            chosen: vec![None; stage.sources.len()],
            gradient_norm,
            seconds,
            experts: None,
            trained_share: None,
        };
        let mut evaluated = [Some((batch, outputs))];
        if let Drawn::EachStep(trainer) = &mut self.drawn {
            numbers.states = trainer.losses.states.values();
            numbers.learned = trainer.parts[0].batches.learned();
            numbers.chosen = trainer.chosen();
            trainer.learn(&evaluated, step);
        }
        let evaluated = evaluated[0].take().expect("it was put there");
        let mut rows = vec![diagnose(stage, &sequences, Some(&evaluated), &numbers, false)];
        tokens::record(stage, &sequences, &evaluated.0, &evaluated.1, step, &mut record.tokens);
        progress::finish(&mut rows);
        if let Drawn::EachStep(trainer) = &mut self.drawn {
            trainer.hooks.iter_mut().for_each(|hook| hook.end_of_step(step, &mut rows));
        }
        let trained = sequences.layout.tokens() as u64;
        let event = progress::event(stage, step, &rows, trained, seconds, loss);
        record.rows.extend(rows.into_iter().flatten());
        Ok(event)
    }

    /// The numbers of a signal in a report.
    fn numbers(&self, step: u32, text: &str, sequences: &Sequences, axis: Axis) -> Result<Vec<f32>> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|error| strange(step, &error.to_string()))?;
        let (whole, rest) = bytes.as_chunks::<4>();
        let numbers: Vec<f32> = whole.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let expected = sequences.layout.len(axis);
        if !rest.is_empty() || numbers.len() != expected {
            let what = format!("it has {} numbers of a signal in place of {expected}", numbers.len());
            return Err(strange(step, &what));
        }
        Ok(numbers)
    }
}

/// All steps that are whole, as far as no model has to write.
fn ahead(stage: &Stage, models: &Models, cache: Option<&RolloutCache>) -> Result<Vec<Vec<Group>>> {
    let mut batches = Batches::new(stage, models, cache)?;
    let mut groups = Vec::new();
    for _ in 0..stage.steps {
        let step = batches.next_given(stage);
        // Epochs may end within a step.
        if step.len() < stage.train.rollout.groups as usize {
            break;
        }
        groups.push(step);
    }
    Ok(groups)
}

/// The sequences of a step with the engine's completions, judged.
fn completed(
    stage: &Stage,
    mut groups: Vec<Group>,
    by_engine: bool,
    Completed { step, completions, truncated, signals: _ }: &Completed,
) -> Result<Sequences> {
    if by_engine {
        let mut all: Vec<&mut Sequence> = groups.iter_mut().flatten().collect();
        if all.len() != completions.len() || all.len() != truncated.len() {
            let what = format!("it has {} completions in place of {}", completions.len(), all.len());
            return Err(strange(*step, &what));
        }
        for (sequence, (completion, truncated)) in zip_equal(&mut all, zip_equal(completions, truncated)) {
            sequence.completion = completion.clone().into();
            sequence.truncated = *truncated;
        }
        judge(stage.texts(), all)?;
    }
    let sequences = Sequences::of_groups(groups, stage.sources.len());
    compare(*step, &sequences.list, completions)?;
    Ok(sequences)
}

/// Fails where the engine has other completions than those of the step.
fn compare(step: u32, list: &[Sequence], completions: &[Vec<Token>]) -> Result<()> {
    if list.len() != completions.len() {
        let what = format!("it has {} completions in place of {}", completions.len(), list.len());
        return Err(strange(step, &what));
    }
    match zip_equal(list, completions).all(|(sequence, completion)| *sequence.completion == **completion) {
        true => Ok(()),
        false => Err(strange(step, "it trains on other completions than were given")),
    }
}

/// The error of a step that is not the one that was asked for.
fn strange(step: u32, what: &str) -> Error {
    Error::new(FailureKind::Runtime, format!("the engine does not train as planned: {what}"))
        .help(
            "this is a mistake in mopd's program for the engine, or a change in the engine: please report it",
        )
        .at_step(step)
}
