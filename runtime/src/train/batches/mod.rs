//! What a step trains on: sequences from the data, from the student, or from the teachers. A file each.

pub mod data;
mod pairs;
mod sample;
mod student;
mod teacher;

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Length, Prefixes, Sampling};

use self::data::{all_examples, reads_reward};
use self::pairs::{PairSide, pair, side, written};
use self::sample::{judge, numbered, sample};
use self::teacher::teacher_rollouts;
pub use self::teacher::{RolloutCache, Written, no_teacher};
use super::first_epoch::FirstEpoch;
use super::models::Models;
use super::sequences::Sequences;
use super::{Source, Stage};
use crate::data::Mixture;
use crate::data::mixture::{Draw, MixturePosition};
use crate::failure::{Error, Result};
use crate::model::Decoder;
use crate::random::{Key, Purpose, Uniforms};
use crate::rollout::Sequence;
use crate::zip::zip_equal;

/// Makes one batch after the other.
pub struct Batches {
    mixture: Mixture,
    size: u32,
    kind: Producer,
}

enum Producer {
    /// Ready-made sequences, by source.
    Fixed(Vec<Vec<Sequence>>),
    Student(Sampling),
    Pairs([PairSide; 2]),
}

impl Batches {
    /// Teachers whose rollouts are imitated write them here, before the first step, unless they are in the
    /// cache.
    pub fn new(stage: &Stage, models: &Models, cache: Option<&RolloutCache>) -> Result<Batches> {
        let sizes: Vec<usize> = stage.sources.iter().map(|source| source.tokens.len()).collect();
        let by_share = || {
            Mixture::new(
                &stage.sources.iter().map(|source| (source.share, source.tokens.len())).collect::<Vec<_>>(),
            )
        };
        let whole = || match stage.train.length {
            Length::Epochs(epochs) => {
                told_shares(stage, &sizes);
                Mixture::in_epochs(&sizes, epochs)
            }
            Length::Steps(_) => by_share(),
        };
        let (mixture, size, kind) = match &stage.train.prefixes {
            Prefixes::Data { field, batch } => {
                let judged = reads_reward(&stage.train.objective);
                (whole(), *batch, Producer::Fixed(all_examples(stage, field, judged)?))
            }
            Prefixes::Pairs { chosen, rejected, batch } => {
                let sides = [side(stage, models, chosen)?, side(stage, models, rejected)?];
                (whole(), *batch, Producer::Pairs(sides))
            }
            Prefixes::Student { prompts, sampling } => {
                (whole(), *prompts, Producer::Student(sampling.clone()))
            }
            Prefixes::Teacher { sequences, keep, batch, sampling } => {
                let kept = match cache.map_or(Ok(None), |cache| (cache.find)())? {
                    Some(kept) => kept,
                    None => {
                        let written =
                            teacher_rollouts(stage, models, by_share(), *sequences, *keep, sampling)?;
                        cache.map_or(Ok(()), |cache| (cache.keep)(&written))?;
                        written
                    }
                };
                let sizes: Vec<_> = zip_equal(&stage.sources, &kept)
                    .map(|(source, kept)| (source.share, kept.len()))
                    .collect();
                (Mixture::new(&sizes), *batch, Producer::Fixed(kept))
            }
        };
        if size == 0 {
            return Err(Error::new(FailureKind::Runtime, "a batch of no sequences"));
        }
        Ok(Batches { mixture, size, kind })
    }

    pub fn position(&self) -> MixturePosition {
        self.mixture.position()
    }

    /// Goes to where the batches of the same stage, or of one with as many sources, stood.
    pub fn restore(&mut self, position: &MixturePosition, stage: &Stage) -> Result<(), String> {
        self.mixture.restore(position, shuffle(stage, Purpose::Shuffle))
    }

    /// The sequences of the next step. `student` is as it is now.
    pub fn next(
        &mut self,
        stage: &Stage,
        student: &Decoder,
        models: &Models,
        step: u32,
    ) -> Result<Sequences> {
        let BatchDraw { mut list, of_group, draws } = self.drawn(stage, student, models, step)?;
        if stage.routes_by_data() {
            // Groups stay whole: they are of one prompt. Only now, so that another route changes no prompt's
            // random numbers.
            list.sort_by_key(|sequence| stage.section_of(sequence));
            return Ok(Sequences::new(list, of_group, stage.sources.len()));
        }
        Ok(Sequences::new(list, of_group, stage.sources.len()).drawn(draws))
    }

    fn drawn(&mut self, stage: &Stage, student: &Decoder, models: &Models, step: u32) -> Result<BatchDraw> {
        let draws = draw(&mut self.mixture, self.size, stage, Purpose::Shuffle);
        if draws.is_empty() {
            // A fork may begin behind the end of its own epochs.
            let message = "every prompt has been visited as often as the stage's epochs say: there is none \
                           left to train on";
            return Err(Error::new(FailureKind::Runtime, message)
                .help("give the stage more epochs, or `steps` as a number"));
        }
        let key = |purpose| Key::new(stage.seed, stage.stream, purpose, u64::from(step));
        match &self.kind {
            Producer::Fixed(sequences) => {
                let list = draws.iter().map(|draw| sequences[draw.source][draw.record].clone()).collect();
                Ok(BatchDraw { list, of_group: 1, draws })
            }
            Producer::Student(sampling) => {
                let (sampling, key) = (sampling.clone(), key(Purpose::Rollout));
                let mut list = sample(stage, student, &numbered(stage, &draws, 0), &sampling, key)?;
                judge(stage, &mut list)?;
                if let Some(filter) = &stage.train.filter {
                    list = self.filtered(stage, student, list, filter, &sampling, key, step)?;
                }
                Ok(BatchDraw { list, of_group: sampling.n.max(1) as usize, draws: Vec::new() })
            }
            Producer::Pairs(sides) => {
                let completions = |side: &PairSide, purpose| match side {
                    PairSide::Data(examples) => Ok(draws
                        .iter()
                        .map(|draw| examples[draw.source][draw.record].clone())
                        .collect::<Vec<_>>()),
                    PairSide::Rollouts(writer, sampling) => {
                        written(stage, student, models, &draws, *writer, sampling, key(purpose))
                    }
                };
                let [chosen, rejected] = sides;
                let chosen = completions(chosen, Purpose::Rollout)?;
                let rejected = completions(rejected, Purpose::TeacherRollout)?;
                let mut list: Vec<Sequence> = zip_equal(chosen, rejected).flat_map(pair).collect();
                if reads_reward(&stage.train.objective) {
                    judge(stage, &mut list)?;
                }
                Ok(BatchDraw { list, of_group: 2, draws })
            }
        }
    }

    /// The sequences of a draw, where they are the same whenever it comes.
    pub fn fixed(&self, draw: Draw) -> Option<Vec<Sequence>> {
        match &self.kind {
            Producer::Fixed(sequences) => Some(vec![sequences[draw.source][draw.record].clone()]),
            Producer::Pairs([PairSide::Data(chosen), PairSide::Data(rejected)]) => {
                let [chosen, rejected] =
                    [chosen, rejected].map(|side| side[draw.source][draw.record].clone());
                Some(pair((chosen, rejected)).to_vec())
            }
            Producer::Student(_) | Producer::Pairs(_) => None,
        }
    }

    /// How many tokens of a draw are trained on, where these are the same whenever it comes.
    pub fn trained(&self, draw: Draw) -> usize {
        match &self.kind {
            Producer::Fixed(sequences) => sequences[draw.source][draw.record].trained(),
            Producer::Pairs([PairSide::Data(chosen), PairSide::Data(rejected)]) => {
                [chosen, rejected].into_iter().map(|side| side[draw.source][draw.record].trained()).sum()
            }
            Producer::Student(_) | Producer::Pairs(_) => 0,
        }
    }

    /// When each sequence of the stage comes for the first time; none where they are new in every step.
    /// Nothing was drawn yet.
    pub fn first_epoch(&self, stage: &Stage) -> Option<FirstEpoch> {
        let fixed =
            matches!(self.kind, Producer::Fixed(_) | Producer::Pairs([PairSide::Data(_), PairSide::Data(_)]));
        fixed.then(|| {
            let batches = stage.steps.div_ceil(stage.train.passes.max(1));
            let mut mixture = self.mixture.clone();
            FirstEpoch::new(
                &mixture.sizes(),
                (0..batches).map(|_| draw(&mut mixture, self.size, stage, Purpose::Shuffle)),
            )
        })
    }
}

/// What a step trains on, that of a source together.
struct BatchDraw {
    list: Vec<Sequence>,
    /// Sequences of a group.
    of_group: usize,
    /// What was drawn for each group, where they are of the data.
    draws: Vec<Draw>,
}

/// An epoch visits every prompt once: where the domains' shares are others than those of their prompts, they
/// do not hold, and that is said.
fn told_shares(stage: &Stage, sizes: &[usize]) {
    let all: usize = sizes.iter().sum();
    let shares = stage.sources.iter().map(|source| source.share);
    let whole: f64 = shares.clone().sum();
    let differ = zip_equal(shares, sizes)
        .any(|(share, size)| (share / whole - *size as f64 / all as f64).abs() > 0.005);
    if !differ {
        return;
    }
    let percent = |share: f64| format!("{:.0}%", 100.0 * share);
    let of = |(source, size): (&Source, &usize)| {
        format!(
            "`{}` {} (its share is {})",
            source.name,
            percent(*size as f64 / all as f64),
            percent(source.share / whole)
        )
    };
    let listed: Vec<String> = zip_equal(&stage.sources, sizes).map(of).collect();
    stage.control.warn(format!(
        "`{}` trains in epochs, which visit every prompt once, so its batches are by the number of prompts: \
         {}. Write `steps = ...` without `epochs` to keep to the shares",
        stage.name,
        listed.join(", ")
    ));
}

/// The next prompts of the mixture. Epochs are shuffled by numbers of their own.
fn draw(mixture: &mut Mixture, count: u32, stage: &Stage, purpose: Purpose) -> Vec<Draw> {
    mixture.next_batch(count, shuffle(stage, purpose))
}

/// The numbers that shuffle each epoch of each source.
fn shuffle(stage: &Stage, purpose: Purpose) -> impl Fn(usize, u64) -> Uniforms {
    let (seed, stream) = (stage.seed, stage.stream);
    move |source, epoch| Key::new(seed, stream, purpose, epoch).row(source as u32, 0)
}
