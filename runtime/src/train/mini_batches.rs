//! Mini-batches: several updates from one batch of rollouts, each from a part of its prompts.

use super::sequences::{Group, Sequences};
use super::stage::StageKeys;
use crate::random::{Purpose, permutation};

/// The `parts` mini-batches of the batch that `step` draws, in the order of their updates. Prompts are chosen
/// at random; each mini-batch has its share of those of each source, as far as whole prompts allow. A group
/// is never divided: its completions are compared with each other. The order within a mini-batch is that of
/// the batch.
pub fn divided(parts: usize, batch: Sequences, domains: usize, keys: StageKeys, step: u32) -> Vec<Sequences> {
    if parts == 1 {
        return vec![batch];
    }
    let groups: Vec<Group> = batch.groups().map(<[_]>::to_vec).collect();
    let place = places(parts, groups.iter().map(|group| group[0].source), keys, step);
    let sections = batch.dropped.as_ref().map_or(0, Vec::len);
    let mini_batch = |part: usize| {
        let own = || (0..groups.len()).filter(|group| place[*group] == part);
        let draws = own().filter_map(|group| batch.draws.get(group).copied()).collect();
        // What was left out is counted once.
        let dropped = match part {
            0 => batch.dropped.clone(),
            _ => batch.dropped.as_ref().map(|_| vec![0; sections]),
        };
        Sequences::of_groups(own().map(|group| groups[group].clone()).collect(), domains)
            .drawn(draws)
            .without(dropped)
            .debated(batch.debates.clone())
    };
    (0..parts).map(mini_batch).collect()
}

/// The mini-batch of each prompt of the batch that `step` draws, from its source. Those of a source are
/// adjacent.
pub fn places(parts: usize, sources: impl Iterator<Item = usize>, keys: StageKeys, step: u32) -> Vec<usize> {
    // Without the part of the stage: the completions of a prompt for several terms stay in one mini-batch.
    let key = keys.shared(Purpose::MiniBatch, u64::from(step));
    dealt(sources, parts, |source, count| permutation(key.row(source as u32, 0), count))
}

/// Deals prompts to the parts one by one, in an order of its own for each source.
fn dealt(
    sources: impl Iterator<Item = usize>,
    parts: usize,
    order: impl Fn(usize, usize) -> Vec<u32>,
) -> Vec<usize> {
    let sources: Vec<usize> = sources.collect();
    let mut place = vec![0; sources.len()];
    let mut first = 0;
    for run in sources.chunk_by(|one, next| one == next) {
        for (at, prompt) in order(run[0], run.len()).into_iter().enumerate() {
            place[first + prompt as usize] = (first + at) % parts;
        }
        first += run.len();
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;

    #[test]
    fn each_source_is_dealt_evenly() {
        let key = Key::new(1, 2, Purpose::MiniBatch, 3);
        let random = |source: usize, count| permutation(key.row(source as u32, 0), count);
        let sources = || [(0, 5), (2, 7), (3, 1)].into_iter().flat_map(|(of, count)| vec![of; count]);
        let place = dealt(sources(), 3, random);
        let counts = |range: std::ops::Range<usize>| {
            [0, 1, 2].map(|part| place[range.clone()].iter().filter(|of| **of == part).count())
        };
        for range in [0..5, 5..12, 12..13, 0..13] {
            let counts = counts(range);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
        assert_eq!(place, dealt(sources(), 3, random), "the same again");
        assert_ne!(place, dealt(sources(), 3, |_, count| (0..count as u32).collect()), "at random");
    }
}
