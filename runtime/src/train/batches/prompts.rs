//! The prompts that batches are drawn from: of each domain by its share, or all of them in epochs.

use mopd_compiler::plan::Length;

use super::{Source, Stage};
use crate::data::Mixture;
use crate::data::mixture::Draw;
use crate::random::{Key, Purpose, Uniforms};
use crate::zip::zip_equal;

/// The prompts of each source, or its trajectories.
pub(super) fn prompts(stage: &Stage) -> Vec<usize> {
    stage.sources.iter().map(|source| source.prompts.dataset.draws()).collect()
}

/// From the prompts, as long as the stage trains.
pub(super) fn of_prompts(stage: &Stage) -> Mixture {
    match stage.train.length {
        Length::Epochs(epochs) => Mixture::in_epochs(&prompts(stage), epochs),
        Length::Steps(_) => by_share(stage, &prompts(stage)),
    }
}

/// From so many records of each source, by the domains' shares.
pub(super) fn by_share(stage: &Stage, records: &[usize]) -> Mixture {
    let shares = zip_equal(&stage.sources, records).map(|(source, records)| (source.share, *records));
    Mixture::new(&shares.collect::<Vec<_>>())
}

/// An epoch visits every prompt once: where the domains' shares are others than those of their prompts, they
/// do not hold, and that is said.
pub(super) fn told_shares(stage: &Stage, sizes: &[usize]) {
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
pub(super) fn draw(mixture: &mut Mixture, count: u32, stage: &Stage, purpose: Purpose) -> Vec<Draw> {
    mixture.next_batch(count, shuffle(stage, purpose))
}

/// The numbers that shuffle each epoch of each source.
pub(super) fn shuffle(stage: &Stage, purpose: Purpose) -> impl Fn(usize, u64) -> Uniforms {
    let (seed, stream) = (stage.seed, stage.stream);
    move |source, epoch| Key::new(seed, stream, purpose, epoch).row(source as u32, 0)
}
