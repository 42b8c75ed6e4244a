//! The steps of a stage that another engine trains. The sequences that no model of the step writes are drawn
//! here, and so are the prompts of the others. The engine reports each step's completions, and the numbers of
//! every token that the objective reads. So the objective is evaluated here too: its loss must be the
//! engine's, and its metrics are those of any other stage.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mopd_expr::batch::Batch;
use mopd_plan::events::{Event, FailureKind, Seconds};
use mopd_plan::{Axis, Signal};
use serde::Deserialize;
use serde_json::{Value, json};

use super::batches::{Batches, RolloutCache, judge};
use super::diagnostics::{StepTotals, diagnose};
use super::models::Models;
use super::non_finite;
use super::objective::ObjectiveProgram;
use super::progress;
use super::scoring::{given, of_data};
use super::sequences::{Group, Sequences};
use super::stage::Stage;
use super::tokens;
use crate::failure::{Error, Result};
use crate::report::Record;
use crate::rollout::Sequence;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// The largest difference of the engine's loss and of the objective's on the same numbers, relative to the
/// larger of 1 and the loss. Both have single precision, and sum in other orders.
const TOLERANCE: f64 = 1e-4;

/// The steps of a stage, drawn ahead of its training.
pub struct EngineSteps<'a> {
    stage: &'a Stage<'a>,
    program: ObjectiveProgram<'a>,
    /// By step. Completions that the engine samples are empty.
    groups: Vec<Vec<Group>>,
    /// Whether the engine samples the completions.
    samples: bool,
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
    pub completions: Vec<Vec<Token>>,
    pub truncated: Vec<bool>,
    /// The values of each live primitive, as bytes in base64.
    live: Vec<String>,
    signals: Vec<(Signal, String)>,
}

/// Completions that wait for their rewards.
#[derive(Deserialize)]
pub struct ToJudge {
    pub step: u32,
    pub completions: Vec<Vec<Token>>,
}

impl<'a> EngineSteps<'a> {
    /// Draws all steps that are whole. Rollouts of frozen models are written here, unless they are in the
    /// cache.
    pub fn draw(stage: &'a Stage<'a>, cache: Option<&RolloutCache>) -> Result<EngineSteps<'a>> {
        let models = Models::new(stage)?;
        let mut batches = Batches::new(stage, &models, cache)?;
        let samples = stage.train.rollout.producer.is_redrawn();
        let mut groups = Vec::new();
        for _ in 0..stage.steps {
            let step = batches.next_given(stage);
            // Epochs may end within a step.
            if step.len() < stage.train.rollout.groups as usize {
                break;
            }
            groups.push(step);
        }
        let program = ObjectiveProgram::new(&stage.train.objective, stage.control);
        Ok(EngineSteps { stage, program, groups, samples })
    }

    pub fn steps(&self) -> u32 {
        self.groups.len() as u32
    }

    /// Whether completions are judged in each step.
    pub fn judges(&self) -> bool {
        self.samples || self.stage.train.objective.reads_reward()
    }

    /// The rows of all steps, one for each sequence. `teacher` is the name of the routed teacher of a
    /// sequence for the engine.
    pub fn rows<'s>(
        &'s self,
        teacher: impl Fn(&Sequence) -> Option<&'s str> + 's,
    ) -> impl Iterator<Item = Value> + 's {
        let groups = self.groups.iter().flatten().enumerate();
        groups.flat_map(move |(number, group)| {
            let row = |sequence: &Sequence| {
                json!({
                    "prompt": sequence.prompt(&self.stage.sources),
                    "completion": (!self.samples).then_some(&*sequence.completion),
                    "written": sequence.completion.mask()
                        .map(|mask| mask.into_iter().map(u8::from).collect::<Vec<u8>>()),
                    "domain": self.stage.sources[sequence.source].name,
                    "teacher": teacher(sequence),
                    "group": number,
                })
            };
            group.iter().map(row).collect::<Vec<_>>()
        })
    }

    /// The sequences of a step with the engine's completions, not judged yet.
    fn sequences(&self, step: u32, completions: &[Vec<Token>]) -> Result<Vec<Group>> {
        let groups = self.groups.get(step as usize).ok_or_else(|| strange(step, "there is no such step"))?;
        let mut groups = groups.clone();
        let mut all: Vec<&mut Sequence> = groups.iter_mut().flatten().collect();
        if all.len() != completions.len() {
            let what = format!("it has {} completions in place of {}", completions.len(), all.len());
            return Err(strange(step, &what));
        }
        for (sequence, completion) in zip_equal(&mut all, completions) {
            match self.samples {
                true => sequence.completion = completion.clone().into(),
                false if *sequence.completion == *completion => {}
                false => return Err(strange(step, "it trains on other completions than were given")),
            }
        }
        Ok(groups)
    }

    /// The sequences of a step, judged.
    pub fn judged(&self, asked: &ToJudge) -> Result<Vec<Group>> {
        let mut groups = self.sequences(asked.step, &asked.completions)?;
        if self.samples {
            judge(self.stage.texts(), groups.iter_mut().flatten())?;
        }
        Ok(groups)
    }

    /// Adds a step to the record. `judged` are its sequences with their rewards, if it was judged. Fails
    /// where the objective's loss on the reported numbers is not the engine's.
    pub fn note(
        &self,
        reported: &ReportedStep,
        judged: Option<Vec<Group>>,
        record: &mut Record,
    ) -> Result<Event> {
        let ReportedStep { step, loss, gradient_norm, learning_rate, seconds, .. } = *reported;
        let (stage, objective) = (self.stage, &self.stage.train.objective);
        let mut groups = match judged {
            Some(judged) => judged,
            None => self.sequences(step, &reported.completions)?,
        };
        let before: usize = self.groups[..step as usize].iter().flatten().map(Vec::len).sum();
        let expected = (before as u64..).take(reported.rows.len());
        if !reported.rows.iter().copied().eq(expected) {
            return Err(strange(step, "its rows are others than those of the step, or in another order"));
        }
        let all: Vec<&mut Sequence> = groups.iter_mut().flatten().collect();
        for (sequence, truncated) in zip_equal(all, &reported.truncated) {
            sequence.truncated = if self.samples { *truncated } else { sequence.truncated };
        }
        let sequences = Sequences::of_groups(groups, stage.sources.len());
        let mut signals = of_data(stage.train, &stage.sources, &sequences)?;
        for (signal, values) in &reported.signals {
            if !signals.iter().any(|(known, _)| known == signal) {
                signals.push((signal.clone(), self.numbers(step, values, &sequences, signal.axis())?));
            }
        }
        for signal in objective.signals() {
            if !signals.iter().any(|(known, _)| *known == signal)
                && let Some(values) = given(&signal, objective, &sequences)?
            {
                signals.push((signal, values));
            }
        }
        let live = reported.live.iter().map(|values| self.numbers(step, values, &sequences, Axis::Token));
        let batch = Batch {
            layout: sequences.layout.clone(),
            signals,
            live: live.collect::<Result<_>>()?,
            step,
            steps: stage.steps,
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
        let evaluated = (batch, outputs);
        let numbers = StepTotals {
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
        let mut rows = vec![diagnose(stage, &sequences, Some(&evaluated), &numbers, false)];
        tokens::record(stage, &sequences, &evaluated.0, &evaluated.1, step, &mut record.tokens);
        progress::finish(&mut rows);
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

/// The error of a step that is not the one that was asked for.
fn strange(step: u32, what: &str) -> Error {
    Error::new(FailureKind::Runtime, format!("the engine does not train as planned: {what}"))
        .help(
            "this is a mistake in mopd's program for the engine, or a change in the engine: please report it",
        )
        .at_step(step)
}
