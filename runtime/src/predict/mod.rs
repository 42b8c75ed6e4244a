//! What a stage will take, before it runs: a few of its own steps, on its own prompts, if need be with a model of one layer and
//! with one of two. Whatever a stage does, this does too, so there is no second description of the work that could drift from the first.
//!
//! Small models are tried whole. Of larger ones, both time and memory grow by the same amount with every layer. So with what one step takes written as `t(layers)`,
//! `t(n) = t(1) + (n - 1) (t(2) - t(1))`; and where the trained model and its teachers differ in depth, each has its own
//! difference. Where even one layer would take too long, trials have fewer sequences, `m` and `2 m`, and `t` is taken to be
//! linear in these as well.

mod trial;

use std::sync::Arc;

use mopd_compiler::plan::events::Prediction;
use mopd_compiler::plan::{ModelId, Objective, Plan, Prefixes, Reward, Stage, Train};
use tch::Device;

use crate::data::tokenizer::Tokenizer;
use crate::device::kind;
use crate::failure::Result;
use crate::model::{Config, Weights};
use crate::prepare::DomainData;

use trial::{Taken, Trial};

/// Multiplications and additions that a step of a trial may take: about a second on one core of a usual processor.
const MOST_WORK: f64 = 2e11;

/// Up to here a trial has all layers.
const WHOLE: f64 = 1e11;

/// Of every model of a plan, as far as it is known without its weights.
pub struct Shapes<'a> {
    pub configs: &'a [Arc<Config>],
    pub tokenizers: &'a [Arc<Tokenizer>],
}

/// What a stage that trains will take on this machine, alone; none for other stages.
pub fn predict(
    plan: &Plan,
    model: ModelId,
    domains: &[DomainData],
    shapes: &Shapes,
    steps: u32,
    device: Device,
) -> Result<Option<Prediction>> {
    let Stage::Train(train) = &plan.experiment.model(model).stage else { return Ok(None) };
    let student = shapes.configs[model.0 as usize].layers;
    let teachers = teachers(train).map(|id| shapes.configs[id.0 as usize].layers).max();
    let kind = kind(plan.experiment.dtype);
    let trial =
        Trial { train, model, domains, shapes, device, kind, completion: completion(plan, train, domains, shapes, model) };
    let batch = sequences(train);
    let (first, second) = sizes(train, batch, trial.work(batch, 1));
    let at = |batch: u32| -> Result<Taken> {
        let one = trial.run(batch, 1, 1, false)?;
        let deeper = match teachers {
            // All of one depth grow together.
            Some(teachers) if teachers != student => {
                let (own, others) = (trial.run(batch, 2, 1, false)?, trial.run(batch, 1, 2, false)?);
                let own = one.extrapolated(own, (student - 1) as f64);
                own.plus(one.extrapolated(others, (teachers - 1) as f64).minus(one))
            }
            _ => one.extrapolated(trial.run(batch, 2, 2, false)?, (student - 1) as f64),
        };
        Ok(deeper)
    };
    let depth = student.max(teachers.unwrap_or(1));
    let taken = match second {
        None if depth == 1 || trial.work(batch, depth) <= WHOLE => trial.run(batch, student, teachers.unwrap_or(1), true)?,
        None => at(first)?,
        Some(second) => {
            let less = at(first)?;
            less.extrapolated(at(second)?, f64::from(batch - first) / f64::from(second - first))
        }
    };
    let rollouts = match &train.prefixes {
        // Teachers write once; a trial has them write one batch.
        Prefixes::Teacher { sequences, batch, .. } => f64::from(*sequences) / f64::from((*batch).max(1)),
        _ => 1.0,
    };
    let before = taken.before * rollouts;
    let [rollout, scoring, update] = [taken.rollout, taken.scoring, taken.update].map(|each| each * f64::from(steps));
    let seconds = before + rollout + scoring + update;
    Ok(Some(Prediction { seconds, rollout, scoring, update, memory: taken.memory as u64 }))
}

fn teachers(train: &Train<Objective>) -> impl Iterator<Item = ModelId> + '_ {
    let references = train.references.iter().map(|choice| choice.reference);
    let teachers = train.teachers.iter().filter_map(|choice| choice.teacher.model());
    teachers.chain(references).chain(train.prefixes.models())
}

/// Sequences of one step.
fn sequences(train: &Train<Objective>) -> u32 {
    match &train.prefixes {
        Prefixes::Data { batch, .. } | Prefixes::Teacher { batch, .. } => *batch,
        Prefixes::Student { prompts, sampling } => prompts.saturating_mul(sampling.n.max(1)),
        Prefixes::Pairs { batch, .. } => batch.saturating_mul(2),
    }
}

/// How many sequences the trials have: all of a step, or two smaller numbers.
fn sizes(train: &Train<Objective>, batch: u32, work: f64) -> (u32, Option<u32>) {
    let group = match &train.prefixes {
        Prefixes::Student { sampling, .. } => sampling.n.max(1),
        Prefixes::Pairs { .. } => 2,
        Prefixes::Data { .. } | Prefixes::Teacher { .. } => 1,
    };
    // Parts of a step are not cut: a step of fewer parts needs no less memory.
    let part = train.execution.micro_batch.unwrap_or(1).max(1).next_multiple_of(group);
    let factor = (work / MOST_WORK).max(1.0);
    let first = ((f64::from(batch) / factor / f64::from(part)) as u32).max(1) * part;
    if factor > 1.5 && first.saturating_mul(2) < batch { (first, Some(first * 2)) } else { (batch, None) }
}

/// Answers whose length is asked: enough for a mean.
const SAMPLE: usize = 10_000;

/// Tokens of a completion, on average: of an `exact_match` those of the right answer, since that is where training leads; else
/// the most that is allowed.
fn completion(plan: &Plan, train: &Train<Objective>, domains: &[DomainData], shapes: &Shapes, model: ModelId) -> u32 {
    let most = match &train.prefixes {
        Prefixes::Data { .. } => return 0,
        Prefixes::Student { sampling, .. } | Prefixes::Teacher { sampling, .. } => sampling,
        Prefixes::Pairs { chosen, rejected, .. } => match chosen.sampling().or(rejected.sampling()) {
            Some(sampling) => sampling,
            None => return 0,
        },
    };
    let tokenizer = &shapes.tokenizers[model.0 as usize];
    let mut sum = 0.0;
    for share in &train.mixture {
        let domain = plan.experiment.domain(share.domain);
        let limit = most.max_tokens(domain.limit);
        let answer = match (&domain.reward, &domains[share.domain.0 as usize].train) {
            (Reward::ExactMatch { field }, Some(prompts)) => {
                let answer = |row| prompts.dataset.text(row, field);
                // A completion is its answer and the token that ends it.
                let length = |row| Some(tokenizer.encode(answer(row)?).ok()?.len() + 1);
                let lengths: Vec<usize> = (0..prompts.dataset.len().min(SAMPLE)).filter_map(length).collect();
                (!lengths.is_empty()).then(|| lengths.iter().sum::<usize>() as f64 / lengths.len() as f64)
            }
            _ => None,
        };
        sum += share.share * answer.map_or(f64::from(limit), |answer| answer.min(f64::from(limit)));
    }
    (sum.round() as u32).clamp(1, most.max_tokens.max(1))
}

/// The same shape with so many layers at most.
fn cut(config: &Config, layers: usize) -> Config {
    let layers = layers.min(config.layers);
    let mut config = Config { layers, ..config.clone() };
    config.attention.truncate(layers);
    if let Some(experts) = &mut config.experts {
        experts.layers.truncate(layers);
    }
    config
}

/// A model. Its numbers are of no account, but none of them is denormal or infinite.
fn some_weights(config: Config, tokenizer: &Arc<Tokenizer>) -> Weights {
    let config = Arc::new(config);
    let count = Weights::parameters(&config);
    let mut state = 1u32;
    let values = (0..count).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05
    });
    Weights::new(config.clone(), tokenizer.clone(), values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(memory: f64) -> Taken {
        Taken { before: 1.0, rollout: 2.0 * memory, scoring: 3.0, update: 4.0, memory }
    }

    #[test]
    fn what_grows_is_extrapolated_and_what_shrank_by_chance_is_not() {
        let ten = taken(5.0).extrapolated(taken(7.0), 9.0);
        assert_eq!((ten.memory, ten.rollout, ten.scoring), (23.0, 46.0, 3.0));
        assert_eq!(taken(5.0).extrapolated(taken(4.0), 9.0), taken(5.0));
        // A student of 3 layers and teachers of 2, where a layer of theirs takes 1 and one of its own 2.
        let (one, own, others) = (taken(5.0), taken(7.0), taken(6.0));
        let both = one.extrapolated(own, 2.0).plus(one.extrapolated(others, 1.0).minus(one));
        assert_eq!(both.memory, 10.0);
    }
}
