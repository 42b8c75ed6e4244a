//! The batches of a stage: its producer makes sequences for the drawn prompts. Each kind of producer has a
//! file here, with the same name as in the plan (`compiler/plan/src/producers`).

mod attempts;
mod chosen;
mod curriculum;
mod data;
mod debate;
mod derived;
mod each_turn;
mod edited;
mod feedback;
mod filter;
mod first_epoch;
mod first_of;
mod guided;
mod keep;
mod learned;
mod mix;
mod model;
mod pairs;
mod prompts;
mod ranked;
mod refine;
mod replay;
mod retry;
mod rewrite;
mod sample;
mod sampled_by;
mod shares;
mod speculative;
mod state;
mod student;
mod teacher;
mod through;
mod turns;
mod words;

use std::cell::RefCell;
use std::rc::Rc;

use mopd_plan::events::FailureKind;
use mopd_plan::{Ladder, Length, Objective, Producer, Train};

pub use self::attempts::CorrectOf;
use self::curriculum::CurriculumState;
pub use self::data::all_examples;
use self::debate::Panels;
pub use self::derived::DerivedPrompt;
pub use self::first_epoch::FirstEpoch;
pub use self::learned::LearnedPolicy;
pub use self::pairs::ChosenSide;
use self::prompts::{by_share, draw, of_prompts, prompts, warn_shares_do_not_hold};
use self::replay::Buffer;
pub use self::replay::Replayed;
pub use self::sample::judge;
use self::sample::{NumberedDraw, numbered};
pub use self::sampled_by::SampledAt;
use self::sampled_by::SentWeights;
pub use self::teacher::{RolloutCache, no_teacher};
use self::through::ProgramEditor;
pub use self::turns::TurnRewards;
use super::mini_batches;
use super::models::Models;
use super::objective::States;
use super::privacy;
use super::sequences::{Group, Sequences};
use super::stage::{Source, Stage, StageKeys};
use super::views::{ScorerPrompts, StepContext};
use crate::data::Mixture;
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::model::{Decoder, GeneratedActivations};
use crate::random::{Key, Purpose};
use crate::rollout::{SegmentedTokens, Sequence};
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// A producer, which draws groups of sequences.
trait SequenceProducer {
    /// A group for each draw, in their order.
    fn draw(&self, batch: &Batch, draws: &[NumberedDraw], purpose: Purpose) -> Result<Vec<Group>>;

    /// The group of a draw, where it is the same every time; else empty.
    fn fixed(&self, _: Draw) -> Vec<&Sequence> {
        Vec::new()
    }

    /// The number of records of each source, where draws are of the producer's records, not of prompts.
    fn records(&self) -> Option<Vec<usize>> {
        None
    }

    /// The producers that it draws from.
    fn inside(&self) -> Vec<&dyn SequenceProducer> {
        Vec::new()
    }

    /// The replay buffer that it keeps from step to step.
    fn buffer(&self) -> Option<&RefCell<Buffer>> {
        None
    }

    /// The weights that a server samples with for several steps.
    fn pushed(&self) -> Option<&RefCell<Option<SentWeights>>> {
        None
    }
}

/// The buffers of a producer and of all inside it, from the outside in.
fn buffers(producer: &dyn SequenceProducer) -> Vec<&RefCell<Buffer>> {
    let inside = producer.inside().into_iter().flat_map(buffers);
    producer.buffer().into_iter().chain(inside).collect()
}

/// The arguments that a producer is made from.
#[derive(Clone, Copy)]
struct ProducerContext<'a> {
    stage: &'a Stage<'a>,
    models: &'a Models,
    cache: Option<&'a RolloutCache<'a>>,
    /// Whether the producer judges its sequences; false inside a producer that judges later.
    judged: bool,
    /// The program that edits rollouts written before the first step.
    editor: Option<&'a Rc<ProgramEditor>>,
    /// The producer's number in the binary tree of producers.
    node: u32,
}

impl ProducerContext<'_> {
    /// The arguments for the two producers inside.
    fn inside(self) -> [Self; 2] {
        [1, 2].map(|place| ProducerContext { node: 2 * self.node + place, ..self })
    }
}

fn make(producer: &Producer, context: &ProducerContext) -> Result<Box<dyn SequenceProducer>> {
    Ok(match producer {
        Producer::Data(kind) => Box::new(data::make(kind, context)?),
        Producer::Student(kind) => Box::new(student::make(kind, context)),
        Producer::Teacher(kind) => teacher::make(kind, context)?,
        Producer::Model(kind) => model::make(kind, context)?,
        Producer::Pairs(kind) => Box::new(pairs::make(kind, context)?),
        Producer::Mix(kind) => Box::new(mix::make(kind, context)?),
        Producer::Replay(kind) => Box::new(replay::make(kind, context)?),
        Producer::Guided(kind) => Box::new(guided::make(kind, context)),
        Producer::Refine(kind) => Box::new(refine::make(kind, context)),
        Producer::Chosen(kind) => Box::new(chosen::make(kind, context)?),
        Producer::FirstOf(kind) => Box::new(first_of::make(kind, context)?),
        Producer::Turns(kind) => Box::new(turns::make(kind, context)?),
        Producer::Through(kind) => through::make(kind, context)?,
        Producer::Retry(kind) => Box::new(retry::make(kind, context)?),
        Producer::Rewrite(kind) => Box::new(rewrite::make(kind, context)?),
        Producer::Speculative(kind) => Box::new(speculative::make(kind, context)),
        Producer::Derived(kind) => Box::new(derived::make(kind, context)?),
        Producer::EachTurn(kind) => Box::new(each_turn::make(kind)),
        Producer::SampledBy(kind) => Box::new(sampled_by::make(kind, context)),
        Producer::Ranked(kind) => Box::new(ranked::make(kind, context)?),
    })
}

/// The step that a batch is drawn for.
#[derive(Clone, Copy)]
struct Batch<'a> {
    stage: &'a Stage<'a>,
    /// The student with its current weights.
    student: &'a Decoder,
    models: &'a Models,
    step: u32,
    /// How often each ladder of the objective was climbed.
    climbed: &'a [u32],
    /// The current value of `learned(...)`.
    learned: Option<f64>,
    /// Where activations of the student's completions are saved, if the backward pass uses them.
    activations: Option<&'a RefCell<GeneratedActivations>>,
}

impl Batch<'_> {
    fn now(&self) -> StepContext {
        StepContext { step: self.step, learned: self.learned }
    }

    /// The key of the step's random numbers.
    fn key(&self, purpose: Purpose) -> Key {
        self.stage.key(purpose, u64::from(self.step))
    }
}

/// Makes one batch after the other.
pub struct Batches {
    mixture: Mixture,
    producer: Box<dyn SequenceProducer>,
    /// The choice of prompts, where the stage has one.
    curriculum: Option<CurriculumState>,
    panels: Panels,
    /// How often each ladder of the objective was climbed.
    climbed: Vec<u32>,
    /// The policy of `learned(...)`, where the stage has one.
    policy: Option<LearnedPolicy>,
    /// Where generation saves activations of the current batch, if it does.
    activations: Option<RefCell<GeneratedActivations>>,
}

impl Batches {
    /// Rollouts that are written before the first step are written here, unless they are in the cache.
    pub fn new(stage: &Stage, models: &Models, cache: Option<&RolloutCache>) -> Result<Batches> {
        let context = ProducerContext { stage, models, cache, judged: true, editor: None, node: 0 };
        let producer = make(&stage.train.rollout.producer, &context)?;
        let curriculum = stage.train.curriculum.as_ref();
        let curriculum = curriculum.map(|settings| CurriculumState::new(settings, &context)).transpose()?;
        if stage.train.rollout.groups == 0 {
            return Err(Error::new(FailureKind::Runtime, "a batch of no sequences"));
        }
        let mixture = match (producer.records(), stage.train.length) {
            (Some(records), _) => by_share(&stage.sources, &records),
            (None, length) => {
                if let (Length::Epochs(_), 0) = (length, stage.part) {
                    warn_shares_do_not_hold(
                        stage.name,
                        &stage.sources,
                        &prompts(&stage.sources),
                        stage.control,
                    );
                }
                of_prompts(&stage.sources, length)
            }
        };
        let mixture = if stage.train.shares.is_some() { mixture.with_moving_shares() } else { mixture };
        let climbed = vec![0; stage.train.objective.ladders.len()];
        let policy = stage.train.objective.learned.as_ref().map(LearnedPolicy::new);
        let panels = Panels::new(stage.train);
        Ok(Batches { mixture, producer, curriculum, panels, climbed, policy, activations: None })
    }

    /// Before a step: draws the value of `learned(...)`, if none is held.
    pub fn begin(&mut self, keys: StageKeys, step: u32) {
        if let Some(policy) = &mut self.policy {
            policy.begin(keys, step);
        }
    }

    /// Before a batch is drawn: sets the domains' shares, where they follow states, and the states by which
    /// prompts are chosen.
    pub fn set_states(&mut self, stage: &Stage, states: &States, step: u32) -> Result<()> {
        if let Some(curriculum) = &mut self.curriculum {
            curriculum.set_states(states);
        }
        if let Some(formula) = &stage.train.shares {
            let shares = shares::of_step(formula, &stage.sources, states, stage.step(step));
            let shares = shares.map_err(|error| error.at(stage.train.objective.origin))?;
            self.mixture.set_shares(&shares);
        }
        Ok(())
    }

    /// The value of `learned(...)` in this step.
    pub fn learned(&self) -> Option<f64> {
        self.policy.as_ref().and_then(LearnedPolicy::value)
    }

    /// Updates the policy of `learned(...)` after a step with this gain.
    pub fn learn(&mut self, gain: f64) {
        if let Some(policy) = &mut self.policy {
            policy.learn(gain);
        }
    }

    /// The number of chosen prompts of a source, and their mean priority; `None` without a choice of prompts.
    pub fn chosen(&self, source: usize) -> Option<(usize, Option<f64>)> {
        self.mixture.choice().map(|choice| choice.of_source(source))
    }

    /// After `step`: climbs each ladder that is due and for which `advances` holds.
    pub fn climb(&mut self, ladders: &[Ladder], step: u32, advances: impl Fn(&Ladder) -> bool) {
        for (climbed, ladder) in zip_equal(&mut self.climbed, ladders) {
            let looked_at = (step + 1).is_multiple_of(ladder.every);
            if looked_at && *climbed + 1 < ladder.values && advances(ladder) {
                *climbed += 1;
            }
        }
    }

    /// The sequences of the next step, with the activations that generation saved.
    pub fn next_saving(
        &mut self,
        stage: &Stage,
        student: &Decoder,
        models: &Models,
        step: u32,
    ) -> Result<(Sequences, GeneratedActivations)> {
        self.activations = Some(GeneratedActivations::new(stage.recomputed).into());
        let sequences = self.next(stage, student, models, step);
        let saved = self.activations.take().expect("it was put there");
        Ok((sequences?, saved.into_inner()))
    }

    /// The sequences of the next step. `student` has the current weights.
    pub fn next(
        &mut self,
        stage: &Stage,
        student: &Decoder,
        models: &Models,
        step: u32,
    ) -> Result<Sequences> {
        let (climbed, learned) = (self.climbed.clone(), self.learned());
        let batch = Batch { stage, student, models, step, climbed: &climbed, learned, activations: None };
        let mut sequences = self.drawn_now(&batch)?;
        if let Some(view) = stage.train.sees.as_ref().filter(|view| view.of_completions()) {
            let (context, sources) = (student.config.context, &stage.sources);
            let members = 0..sequences.list.len();
            let (shows, now) = (Some(view), batch.now());
            let shown = ScorerPrompts::new(stage.texts(), shows, context, &sequences, members.clone(), now)?;
            let prompts =
                members.map(|member| shown.prompt(sources, &sequences.list[member], member).to_vec());
            let prompts: Vec<Vec<Token>> = prompts.collect();
            for (sequence, prompt) in zip_equal(&mut sequences.list, prompts) {
                sequence.prompt = Some(prompt);
            }
        }
        attempts::attempt(&batch, &mut sequences)?;
        feedback::write(&batch, &mut sequences)?;
        let debates = self.panels.hold_debates(&batch, &sequences)?;
        Ok(sequences.debated(debates))
    }

    /// The groups of the next step as far as no sampling is needed: those that are the same every time, and
    /// for each prompt of other rollouts a group of empty completions.
    pub fn next_given(&mut self, stage: &Stage) -> Vec<Group> {
        let samples = stage.train.rollout.group() as usize;
        let draws = draw(&mut self.mixture, stage.train.rollout.groups, stage.keys(), Purpose::Shuffle);
        let group = |draw: &Draw| match self.producer.fixed(*draw) {
            fixed if fixed.is_empty() => {
                vec![Sequence::new(draw.source, draw.record, SegmentedTokens::default()); samples]
            }
            fixed => fixed.into_iter().cloned().collect(),
        };
        let mut groups: Vec<Group> = draws.iter().map(group).collect();
        groups.sort_by_key(|group| stage.sources.section_of(&group[0]));
        groups
    }

    fn drawn_now(&mut self, batch: &Batch) -> Result<Sequences> {
        let stage = batch.stage;
        let (mut groups, draws) = self.drawn(batch)?;
        if stage.train.rollout.may_drop() {
            return keep::trainable_sequences(&stage.sources, &stage.train.rollout, groups, &draws);
        }
        // A group of a whole trajectory has no single prompt, so its draw is not kept.
        if stage.sources.routes_by_data() || stage.train.trajectory().is_some() {
            // Sorted only after drawing, so that the route does not change a prompt's random numbers.
            groups.sort_by_key(|group| stage.sources.section_of(&group[0]));
            return Ok(Sequences::of_groups(groups, stage.sources.len()));
        }
        Ok(Sequences::of_groups(groups, stage.sources.len()).drawn(draws))
    }

    /// The groups of a step, those of a source adjacent, and the draw of each; no draws where a filter may
    /// have replaced some.
    fn drawn(&mut self, batch: &Batch) -> Result<(Vec<Group>, Vec<Draw>)> {
        let stage = batch.stage;
        if let Some(curriculum) = &mut self.curriculum
            && let Some(choice) = curriculum.due(batch, &*self.producer, &self.mixture)?
        {
            self.mixture.choose(choice);
        }
        let draws = match stage.train.options.private {
            Some(_) => privacy::draws(stage.train, &stage.sources, stage.secret, batch.step),
            None => draw(&mut self.mixture, stage.train.rollout.groups, stage.keys(), Purpose::Shuffle),
        };
        if draws.is_empty() && stage.train.options.private.is_some() {
            return Ok((Vec::new(), Vec::new()));
        }
        if draws.is_empty() {
            // A fork may begin after the end of its own epochs.
            let message = "every prompt has been used as often as the stage has epochs: none is left to \
                train on";
            return Err(Error::new(FailureKind::Runtime, message)
                .help("give the stage more epochs, or `steps` as a number"));
        }
        let numbered = match stage.train.options.private {
            // The rollouts of a record may not depend on which other records are in the step.
            Some(_) => model::by_record(&stage.sources, &draws),
            None => numbered(&draws, 0),
        };
        let groups = self.produced(batch, &numbered)?;
        let drawn = match &stage.train.filter {
            Some(filter) => (self.filtered(batch, groups, filter)?, Vec::new()),
            None => (groups, draws),
        };
        Ok(drawn)
    }

    /// The producer's groups for some draws.
    fn produced(&self, batch: &Batch, draws: &[NumberedDraw]) -> Result<Vec<Group>> {
        let batch = Batch { activations: self.activations.as_ref(), ..*batch };
        self.producer.draw(&batch, draws, Purpose::Rollout)
    }

    /// Applies the last batch's changes to the replay buffers.
    pub fn commit(&self) {
        buffers(&*self.producer).into_iter().for_each(|buffer| buffer.borrow_mut().commit());
    }

    /// The sequences of a draw, where they are the same every time; else empty.
    pub fn fixed(&self, draw: Draw) -> Vec<&Sequence> {
        self.producer.fixed(draw)
    }

    /// The batches in which records occur for the first time; `None` where sequences are new in every step,
    /// or where the draws depend on the run. Nothing may have been drawn yet.
    pub fn first_epoch(&self, stage: &Stage) -> Option<FirstEpoch> {
        let moving = stage.train.shares.is_some() || self.curriculum.is_some();
        let known = !stage.train.rollout.producer.is_redrawn() && !moving;
        known.then(|| first_epoch(stage.train, stage.steps, stage.keys(), self.mixture.clone()))
    }
}

/// The batches in which the records of a fresh mixture occur for the first time; of a batch that is divided,
/// the mini-batches.
fn first_epoch(train: &Train<Objective>, steps: u32, keys: StageKeys, mut mixture: Mixture) -> FirstEpoch {
    let updates = train.options.updates_per_batch();
    let (groups, parts) = (train.rollout.groups, train.options.mini_batches.max(1) as usize);
    let sizes = mixture.sizes();
    let batches = (0..steps.div_ceil(updates)).flat_map(|batch| {
        let draws = draw(&mut mixture, groups, keys, Purpose::Shuffle);
        let place = mini_batches::places(parts, draws.iter().map(|draw| draw.source), keys, batch * updates);
        let mini_batch =
            |part| zip_equal(&draws, &place).filter(|(_, of)| **of == part).map(|(draw, _)| *draw).collect();
        (0..parts).map(mini_batch).collect::<Vec<Vec<Draw>>>()
    });
    FirstEpoch::new(&sizes, batches)
}
