//! The prompts that batches are drawn from: by the domains' shares, or all prompts in epochs.

use mopd_plan::Length;

use super::Source;
use crate::control::Control;
use crate::data::Mixture;
use crate::data::mixture::Draw;
use crate::random::{Purpose, Uniforms};
use crate::train::stage::{StageKeys, StageSources};
use crate::zip::zip_equal;

/// The number of prompts (or trajectories) of each source.
pub(super) fn prompts(sources: &StageSources) -> Vec<usize> {
    sources.iter().map(|source| source.prompts.dataset.draws()).collect()
}

/// The mixture of the prompts for the length of the stage.
pub(super) fn of_prompts(sources: &StageSources, length: Length) -> Mixture {
    match length {
        Length::Epochs(epochs) => Mixture::in_epochs(&prompts(sources), epochs),
        Length::Steps(_) => by_share(sources, &prompts(sources)),
    }
}

/// The mixture of `records` of each source, by the domains' shares.
pub(super) fn by_share(sources: &StageSources, records: &[usize]) -> Mixture {
    let shares = zip_equal(&**sources, records).map(|(source, records)| (source.share, *records));
    Mixture::new(&shares.collect::<Vec<_>>())
}

/// Warns where the domains' shares differ from those of their prompts: epochs visit every prompt once, so the
/// shares do not hold.
pub(super) fn warn_shares_do_not_hold(
    stage: &str,
    sources: &StageSources,
    sizes: &[usize],
    control: &Control,
) {
    let all: usize = sizes.iter().sum();
    let shares = sources.iter().map(|source| source.share);
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
    let listed: Vec<String> = zip_equal(&**sources, sizes).map(of).collect();
    control.warn(format!(
        "`{stage}` trains in epochs, which use every prompt once, so its batches follow the numbers of prompts \
        and not the shares: {}. Write `steps = ...` without `epochs` to use the shares",
        listed.join(", ")
    ));
}

/// The next prompts of the mixture. Each epoch is shuffled by its own random numbers.
pub(super) fn draw(mixture: &mut Mixture, count: u32, keys: StageKeys, purpose: Purpose) -> Vec<Draw> {
    mixture.next_batch(count, shuffle(keys, purpose))
}

/// The random numbers that shuffle each epoch of each source.
pub(super) fn shuffle(keys: StageKeys, purpose: Purpose) -> impl Fn(usize, u64) -> Uniforms {
    move |source, epoch| keys.shared(purpose, epoch).row(source as u32, 0)
}
