//! Private steps: the gradient of every record is clipped on its own, and their sum gets noise
//! (arXiv:1607.00133). The privacy loss of all steps together is known before the first, so the noise is the
//! least that keeps it within the budget.

mod accountant;
mod copies;
mod gradient;

pub use copies::{SharedRows, copies};

use mopd_plan::events::FailureKind;
use mopd_plan::{Length, Objective, Private, Train};
use tch::Tensor;

use super::stage::{NoiseSecret, Stage, StageSources};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::machine::transfer::upload;
use crate::random::Key;
use crate::zip::zip_equal;

/// Elements of the noise that are drawn from one stream of random numbers.
const CHUNK: usize = 1 << 16;

/// The settings of private steps.
pub struct Privacy {
    /// The largest norm of a record's gradient.
    pub clip: f64,
    /// The standard deviation of the noise, in units of the clip.
    pub noise: f64,
    /// The mean number of records in a batch.
    pub records: f64,
    /// By source: the probability that a given record is in a batch.
    pub rates: Vec<f64>,
    pub steps: u32,
    pub budget: Private,
}

/// By source: the probability that a given record is in a batch. `sources` has shares and numbers of records.
fn rates(train: &Train<Objective>, sources: &[(f64, usize)]) -> Vec<f64> {
    let of_batch = f64::from(train.rollout.groups);
    let whole: f64 = match train.length {
        Length::Steps(_) => sources.iter().map(|(share, _)| share).sum(),
        Length::Epochs(_) => sources.iter().map(|(_, records)| *records as f64).sum(),
    };
    let rate = |(share, records): &(f64, usize)| match train.length {
        Length::Steps(_) => of_batch * share / whole / *records as f64,
        // Every record has the same probability.
        Length::Epochs(_) => of_batch / whole,
    };
    sources.iter().map(rate).collect()
}

impl Privacy {
    /// The settings for a stage of `steps` steps; `sources` has shares and numbers of records. `None` where
    /// the stage is not private.
    ///
    /// # Errors
    /// If no noise keeps to the budget, or a domain has fewer records than a batch takes of it on average.
    pub fn new(train: &Train<Objective>, steps: u32, sources: &[(f64, usize)]) -> Result<Option<Privacy>> {
        let Some(private) = train.options.private else { return Ok(None) };
        let rates = rates(train, sources);
        let rate = largest(&rates);
        let groups = train.rollout.groups;
        if rate > 1.0 {
            let message = format!(
                "a private stage samples every record independently, but {groups} prompts per step are \
                more than a domain has"
            );
            return Err(Error::new(FailureKind::Data, message).help("take fewer `prompts` per step"));
        }
        let (budget, delta) = (private.epsilon, private.delta);
        let Some(noise) = accountant::least_noise(rate, steps, budget, delta) else {
            let least = accountant::least_epsilon(rate, steps, delta);
            let message = format!(
                "the privacy budget of epsilon {budget} at delta {delta} is spent before the last of \
                {steps} steps: with a sampling rate of {rate:.4} per step, even a noise multiplier of \
                1000 spends {least:.4}"
            );
            return Err(Error::new(FailureKind::Runtime, message)
                .help("set a larger `epsilon` or `delta`, fewer steps, or fewer `prompts` per step"));
        };
        let (clip, records) = (private.clip, f64::from(groups));
        Ok(Some(Privacy { clip, noise, records, rates, steps, budget: private }))
    }

    /// The largest probability, over all sources, that a given record is in a batch.
    pub fn rate(&self) -> f64 {
        largest(&self.rates)
    }

    /// The privacy loss of a record over all steps: at most the budget.
    pub fn epsilon(&self) -> f64 {
        accountant::epsilon(self.rate(), self.noise, self.steps, self.budget.delta)
    }

    pub fn of_stage(stage: &Stage) -> Result<Option<Privacy>> {
        Privacy::new(stage.train, stage.steps, &sources(&stage.sources))
    }

    /// Adds noise that depends on the store, the stage and the step only.
    fn add_noise(&self, sum: &mut Tensor, key: Key) {
        let deviation = self.noise * self.clip;
        for (chunk, start) in (0..sum.numel()).step_by(CHUNK).enumerate() {
            let count = CHUNK.min(sum.numel() - start);
            let mut uniforms = key.row(0, chunk as u32);
            let normals = std::iter::repeat_with(|| uniforms.normals()).flatten();
            let noise: Vec<f32> = normals.take(count).map(|normal| (deviation * normal) as f32).collect();
            let mut place = sum.narrow(0, start as i64, count as i64);
            place += upload(&noise, sum.device());
        }
    }
}

fn largest(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// The key of a step's random numbers.
fn key(secret: Option<NoiseSecret>, step: u32) -> Key {
    secret.expect("a private stage has a secret").key(step)
}

fn sources(sources: &StageSources) -> Vec<(f64, usize)> {
    sources.iter().map(|source| (source.share, source.tokens.len())).collect()
}

/// The records of a step, those of a source adjacent. Each is drawn independently of the others, as the
/// accountant assumes.
pub fn draws(
    train: &Train<Objective>,
    domains: &StageSources,
    secret: Option<NoiseSecret>,
    step: u32,
) -> Vec<Draw> {
    let key = key(secret, step);
    let sources = sources(domains);
    let mut draws = Vec::new();
    for (source, (rate, (_, records))) in zip_equal(rates(train, &sources), sources).enumerate() {
        let mut uniforms = key.row(1 + source as u32, 0);
        draws
            .extend((0..records).filter(|_| uniforms.uniform() < rate).map(|record| Draw { source, record }));
    }
    draws
}
