//! Selection of the prompts of each step. Every batch keeps to the domains' shares, and within a domain, no
//! prompt comes twice before each has come once. A stage that trains in epochs visits each prompt of each
//! domain once per epoch, so that shares are proportional to the number of prompts. A stage that chooses its
//! prompts visits the chosen ones, in their order.

use mopd_plan::quotas;
use serde::{Deserialize, Serialize};

use crate::random::{Uniforms, permutation};

/// Draws prompts from several sources by share.
///
/// The share of a source in a batch is rounded by largest remainder, and the rounding error is carried over,
/// so that after any number of batches a source has had its share to within the number of sources. Within a
/// source, prompts come in epochs: each prompt once, in random order, then in a new order.
#[derive(Clone, Debug)]
pub struct Mixture {
    sources: Vec<Domain>,
    /// Prompts drawn so far, all sources together.
    drawn: u64,
    /// Number of prompts to draw in total, where the stage trains in epochs.
    end: Option<u64>,
    /// The chosen prompts, if draws are restricted to some.
    choice: Option<PromptChoice>,
    /// Where shares change over time: the prompts owed to each source after the last batch, which sum to 0.
    owed: Option<Vec<f64>>,
}

/// The prompts that a stage has chosen, by source, in the order in which they come. After the last, the first
/// one comes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptChoice {
    /// Index of this choice among those of the stage.
    pub round: u32,
    lists: Vec<ChosenPrompts>,
}

/// The chosen prompts of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenPrompts {
    records: Vec<u32>,
    /// Number of prompts drawn from the list.
    taken: u64,
    /// Mean of the numbers that they are ordered by, as bits, because JSON has no infinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u64>,
}

impl PromptChoice {
    /// From the records of each source, and the mean of the numbers they are ordered by. No list is empty.
    pub fn new(round: u32, lists: Vec<(Vec<u32>, Option<f64>)>) -> PromptChoice {
        let list = |(records, priority): (Vec<u32>, Option<f64>)| {
            assert!(!records.is_empty(), "whoever chooses no prompt has said so");
            ChosenPrompts { records, taken: 0, priority: priority.map(f64::to_bits) }
        };
        PromptChoice { round, lists: lists.into_iter().map(list).collect() }
    }

    /// The number of chosen prompts of a source, and the mean of the numbers that they are ordered by.
    pub fn of_source(&self, source: usize) -> (usize, Option<f64>) {
        let ChosenPrompts { records, priority, .. } = &self.lists[source];
        (records.len(), priority.map(f64::from_bits))
    }

    /// Whether the choice is valid for sources of these sizes.
    fn fits(&self, sources: &[Domain]) -> bool {
        let within = |(list, source): (&ChosenPrompts, &Domain)| {
            !list.records.is_empty() && list.records.iter().all(|record| (*record as usize) < source.size)
        };
        self.lists.len() == sources.len() && self.lists.iter().zip(sources).all(within)
    }
}

#[derive(Clone, Debug)]
struct Domain {
    /// Normalised share.
    share: f64,
    size: usize,
    drawn: u64,
    /// Number of prompts drawn to replace others.
    replaced: u64,
    /// The current epoch's order, as indices of records.
    order: Vec<u32>,
}

/// The position of a mixture in its sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MixturePosition {
    drawn: u64,
    /// For each source: prompts drawn, and prompts drawn to replace others.
    sources: Vec<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    choice: Option<PromptChoice>,
    /// `Mixture::owed` of each source, as bits; empty where shares are fixed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    owed: Vec<u64>,
}

impl MixturePosition {
    /// The same position without a choice of prompts.
    pub fn without_choice(self) -> MixturePosition {
        MixturePosition { choice: None, ..self }
    }
}

/// One prompt of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// Index into the mixture's sources.
    pub source: usize,
    /// Index of the record in its source.
    pub record: usize,
}

impl Mixture {
    /// From `(share, number of records)` of each source. Shares are positive and need not sum to 1; no source
    /// is empty.
    pub fn new(sources: &[(f64, usize)]) -> Mixture {
        let whole: f64 = sources.iter().map(|(share, _)| share).sum();
        let source = |&(share, size): &(f64, usize)| {
            assert!(size > 0, "a dataset has at least one record");
            Domain { share: share / whole, size, drawn: 0, replaced: 0, order: Vec::new() }
        };
        Mixture {
            sources: sources.iter().map(source).collect(),
            drawn: 0,
            end: None,
            choice: None,
            owed: None,
        }
    }

    /// From the number of records of each source: every record exactly `epochs` times, then nothing.
    pub fn in_epochs(sizes: &[usize], epochs: u32) -> Mixture {
        let sources: Vec<(f64, usize)> = sizes.iter().map(|size| (*size as f64, *size)).collect();
        let all: u64 = sizes.iter().map(|size| *size as u64).sum();
        Mixture { end: Some(all * u64::from(epochs)), ..Mixture::new(&sources) }
    }

    /// The same with shares that may change at every batch: see [`Mixture::set_shares`].
    pub fn with_moving_shares(self) -> Mixture {
        Mixture { owed: Some(vec![0.0; self.sources.len()]), ..self }
    }

    /// Sets the shares of the next batch. They need not sum to 1; none is negative, and some is not 0.
    pub fn set_shares(&mut self, shares: &[f64]) {
        assert!(self.owed.is_some(), "what rounding took of shares that move is carried over");
        assert_eq!(shares.len(), self.sources.len(), "one share for each source");
        let whole: f64 = shares.iter().sum();
        for (source, share) in self.sources.iter_mut().zip(shares) {
            source.share = share / whole;
        }
    }

    /// The next `prompts` prompts, grouped by source, in the order of the sources; fewer at the end of the
    /// last epoch.
    ///
    /// `uniforms(source, epoch)` returns the random numbers that shuffle one epoch of one source: the order
    /// depends on their keys only.
    pub fn next_batch(
        &mut self,
        prompts: u32,
        mut uniforms: impl FnMut(usize, u64) -> Uniforms,
    ) -> Vec<Draw> {
        let left = self.end.map_or(u64::from(prompts), |end| end.saturating_sub(self.drawn));
        let prompts = u64::from(prompts).min(left) as u32;
        let mut draws = Vec::with_capacity(prompts as usize);
        for (index, quota) in self.quotas(prompts).into_iter().enumerate() {
            for _ in 0..quota {
                self.sources[index].drawn += 1;
                draws.push(self.next_of(index, &mut uniforms));
            }
        }
        self.drawn += u64::from(prompts);
        draws
    }

    /// Another prompt of a source, to replace one of its prompts; shares are not affected.
    pub fn replacement(&mut self, source: usize, uniforms: impl Fn(usize, u64) -> Uniforms) -> Draw {
        self.sources[source].replaced += 1;
        self.next_of(source, uniforms)
    }

    /// Restricts later draws to these prompts; the domains' shares of a batch stay as before.
    pub fn choose(&mut self, choice: PromptChoice) {
        assert!(choice.fits(&self.sources), "a choice is among the prompts of the stage");
        self.choice = Some(choice);
    }

    /// The chosen prompts, if draws are restricted to some.
    pub fn choice(&self) -> Option<&PromptChoice> {
        self.choice.as_ref()
    }

    /// Records of each source.
    pub fn sizes(&self) -> Vec<usize> {
        self.sources.iter().map(|source| source.size).collect()
    }

    pub fn position(&self) -> MixturePosition {
        MixturePosition {
            drawn: self.drawn,
            sources: self.sources.iter().map(|source| (source.drawn, source.replaced)).collect(),
            choice: self.choice.clone(),
            owed: self.owed.iter().flatten().map(|owed| owed.to_bits()).collect(),
        }
    }

    /// Moves to a position of a mixture with as many sources, so that the same prompts come next.
    pub fn restore(
        &mut self,
        position: &MixturePosition,
        uniforms: impl Fn(usize, u64) -> Uniforms,
    ) -> Result<(), String> {
        let (ours, theirs) = (self.sources.len(), position.sources.len());
        if ours != theirs {
            return Err(format!("it has {theirs} sources of prompts, but the stage has {ours}"));
        }
        if position.choice.as_ref().is_some_and(|choice| !choice.fits(&self.sources)) {
            return Err("it has chosen prompts that the stage does not have".to_owned());
        }
        (self.drawn, self.choice) = (position.drawn, position.choice.clone());
        if let Some(owed) = &mut self.owed {
            // If shares were fixed before, nothing is owed.
            *owed = match position.owed.len() == ours {
                true => position.owed.iter().copied().map(f64::from_bits).collect(),
                false => vec![0.0; ours],
            };
        }
        for (index, (source, (drawn, replaced))) in self.sources.iter_mut().zip(&position.sources).enumerate()
        {
            (source.drawn, source.replaced) = (*drawn, *replaced);
            let visited = drawn.saturating_add(*replaced);
            source.order = match visited.checked_sub(1) {
                Some(last) => permutation(uniforms(index, last / source.size as u64), source.size),
                None => Vec::new(),
            };
        }
        Ok(())
    }

    /// The next prompt of a source, whose counters already include it.
    fn next_of(&mut self, index: usize, mut uniforms: impl FnMut(usize, u64) -> Uniforms) -> Draw {
        if let Some(choice) = &mut self.choice {
            let ChosenPrompts { records, taken, .. } = &mut choice.lists[index];
            let place = (*taken % records.len() as u64) as usize;
            *taken += 1;
            return Draw { source: index, record: records[place] as usize };
        }
        let source = &mut self.sources[index];
        let visited = source.drawn + source.replaced - 1;
        let position = (visited % source.size as u64) as usize;
        if position == 0 {
            source.order = permutation(uniforms(index, visited / source.size as u64), source.size);
        }
        Draw { source: index, record: source.order[position] as usize }
    }

    /// Number of prompts of each source in the next batch. They sum to `prompts`.
    fn quotas(&mut self, prompts: u32) -> Vec<u32> {
        let after = (self.drawn + u64::from(prompts)) as f64;
        // The prompts owed to each source, which sum to `prompts`. The number is negative for a source that
        // had too many before.
        let mut owed: Vec<f64> = match &self.owed {
            None => self.sources.iter().map(|source| source.share * after - source.drawn as f64).collect(),
            Some(before) => {
                let sources = self.sources.iter().zip(before);
                sources.map(|(source, owed)| owed + source.share * f64::from(prompts)).collect()
            }
        };
        let quotas = quotas(&mut owed, prompts);
        if let Some(before) = &mut self.owed {
            *before = owed;
        }
        quotas
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn keyed(source: usize, epoch: u64) -> Uniforms {
        Key::new(1, 2, Purpose::Shuffle, epoch).row(source as u32, 0)
    }

    fn counts(draws: &[Draw], sources: usize) -> Vec<usize> {
        (0..sources).map(|source| draws.iter().filter(|draw| draw.source == source).count()).collect()
    }

    #[test]
    fn a_batch_is_rounded_by_largest_remainder() {
        // 10 * (0.46, 0.34, 0.2) = (4.6, 3.4, 2): floors leave one prompt, the largest remainder is 0.6.
        let mut mixture = Mixture::new(&[(0.46, 100), (0.34, 100), (0.2, 100)]);
        assert_eq!(counts(&mixture.next_batch(10, keyed), 3), [5, 3, 2]);
        // Owed now: 9.2 - 5 = 4.2, 6.8 - 3 = 3.8, 2.
        assert_eq!(counts(&mixture.next_batch(10, keyed), 3), [4, 4, 2]);
    }

    #[test]
    fn mixture_carries_rounding_remainder() {
        // One prompt a step over three equal sources: each gets exactly every third.
        let mut mixture = Mixture::new(&[(1.0 / 3.0, 5), (1.0 / 3.0, 5), (1.0 / 3.0, 5)]);
        let batches: Vec<_> = (0..300).map(|_| mixture.next_batch(1, keyed)).collect();
        assert_eq!(counts(&batches.concat(), 3), [100, 100, 100]);
        for three in batches.chunks(3) {
            assert_eq!(counts(&three.concat(), 3), [1, 1, 1]);
        }
    }

    #[test]
    fn shares_are_met_after_any_number_of_batches() {
        let shares = [0.01, 0.05, 0.13, 0.31, 0.5];
        let mut mixture = Mixture::new(&shares.map(|share| (share, 17)));
        let mut total = [0usize; 5];
        for batch in 1..=1000 {
            let draws = mixture.next_batch(7, keyed);
            assert_eq!(draws.len(), 7);
            for (source, count) in counts(&draws, 5).into_iter().enumerate() {
                total[source] += count;
                let owed = shares[source] * 7.0 * f64::from(batch);
                // Never ahead by a whole prompt; behind by less than the number of the other sources.
                assert!(total[source] as f64 - owed < 1.0 + 1e-9, "source {source}, batch {batch}");
                assert!(owed - (total[source] as f64) < 4.0, "source {source}, batch {batch}");
            }
        }
        assert_eq!(total, [70, 350, 910, 2170, 3500]);
    }

    #[test]
    fn an_epoch_visits_every_prompt_once() {
        let mut mixture = Mixture::new(&[(0.5, 7), (0.5, 3)]);
        let draws: Vec<_> = (0..21).flat_map(|_| mixture.next_batch(2, keyed)).collect();
        let of = |source| {
            draws.iter().filter(move |draw| draw.source == source).map(|draw| draw.record).collect::<Vec<_>>()
        };
        for (source, size) in [(0, 7), (1, 3)] {
            let epochs: Vec<_> = of(source).chunks(size).map(<[usize]>::to_vec).collect();
            assert_eq!(epochs.len(), 21 / size);
            for mut epoch in epochs.clone() {
                epoch.sort();
                assert_eq!(epoch, (0..size).collect::<Vec<_>>());
            }
            assert!(epochs.iter().any(|epoch| epoch != &epochs[0]), "epochs differ in order");
        }
    }

    /// For any sizes and any batch: each prompt of each source comes once an epoch, and no prompt comes after
    /// the last epoch.
    #[test]
    fn epochs_visit_every_prompt_of_every_source_equally() {
        for (sizes, epochs, batch) in
            [(vec![7, 3], 1, 4), (vec![100, 13, 1], 3, 8), (vec![5], 2, 64), (vec![1000, 10], 1, 7)]
        {
            let mut mixture = Mixture::in_epochs(&sizes, epochs);
            let all: usize = sizes.iter().sum::<usize>() * epochs as usize;
            let mut visits: Vec<Vec<u32>> = sizes.iter().map(|size| vec![0; *size]).collect();
            let mut total = 0;
            for step in 0..all.div_ceil(batch) {
                let draws = mixture.next_batch(batch as u32, keyed);
                assert_eq!(draws.len(), batch.min(all - total), "batch {step}");
                total += draws.len();
                draws.iter().for_each(|draw| visits[draw.source][draw.record] += 1);
                // No source is an epoch ahead of another: all of them end in the same batch.
                let done = visits.iter().flatten();
                assert!(done.clone().max().unwrap() - done.min().unwrap() <= 2, "{sizes:?}, batch {step}");
            }
            assert!(visits.iter().flatten().all(|visits| *visits == epochs), "{sizes:?}: {visits:?}");
            assert!(mixture.next_batch(batch as u32, keyed).is_empty());
        }
    }

    #[test]
    fn restored_mixture_draws_the_same() {
        let whole = || Mixture::new(&[(0.7, 11), (0.3, 4)]);
        let mut through = whole();
        for batch in 0..20 {
            let mut resumed = whole();
            resumed.restore(&through.position(), keyed).unwrap();
            if batch % 3 == 0 {
                assert_eq!(resumed.replacement(1, keyed), through.replacement(1, keyed));
            }
            assert_eq!(resumed.next_batch(5, keyed), through.next_batch(5, keyed), "batch {batch}");
        }
        assert!(Mixture::new(&[(1.0, 3)]).restore(&through.position(), keyed).is_err());
    }

    /// Moving shares that stay the same are met as fixed ones are. Where they change, the rounding error is
    /// carried over.
    #[test]
    fn mixture_shares_may_change_at_every_batch() {
        let shares = [0.46, 0.34, 0.2];
        let sources = shares.map(|share| (share, 100));
        let (mut fixed, mut moving) = (Mixture::new(&sources), Mixture::new(&sources).with_moving_shares());
        for _ in 0..20 {
            moving.set_shares(&shares.map(|share| 7.0 * share));
            assert_eq!(moving.next_batch(10, keyed), fixed.next_batch(10, keyed));
        }
        let whole = || Mixture::new(&[(0.5, 7), (0.5, 3)]).with_moving_shares();
        let mut mixture = whole();
        // Owed: (4, 0); (1.5, 1.5), a tie for the first; (-0.5 + 0.25, 0.5 + 0.75); (-0.25 + 2, 0.25).
        let batches = [
            ([1.0, 0.0], 4, [4, 0]),
            ([3.0, 3.0], 3, [2, 1]),
            ([0.25, 0.75], 1, [0, 1]),
            ([2.0, 0.0], 2, [2, 0]),
        ];
        for (shares, prompts, expected) in batches {
            let mut resumed = whole();
            let written = serde_json::to_string(&mixture.position()).unwrap();
            resumed.restore(&serde_json::from_str(&written).unwrap(), keyed).unwrap();
            resumed.set_shares(&shares);
            mixture.set_shares(&shares);
            let draws = mixture.next_batch(prompts, keyed);
            assert_eq!(resumed.next_batch(prompts, keyed), draws);
            assert_eq!(counts(&draws, 2), expected, "{shares:?}");
        }
        // After `restore`, fixed shares count all prompts so far, and moving shares owe nothing.
        let mut fixed = Mixture::new(&[(0.5, 7), (0.5, 3)]);
        fixed.restore(&mixture.position(), keyed).unwrap();
        assert_eq!(counts(&fixed.next_batch(6, keyed), 2), [0, 6]);
        mixture.restore(&fixed.position(), keyed).unwrap();
        mixture.set_shares(&[1.0, 1.0]);
        assert_eq!(counts(&mixture.next_batch(2, keyed), 2), [1, 1]);
    }

    /// Chosen prompts come in their order, and then again; shares stay. A position includes the choice and
    /// how far it was drawn.
    #[test]
    fn chosen_prompts_come_in_their_order() {
        let whole = || Mixture::new(&[(0.5, 7), (0.5, 3)]);
        let mut mixture = whole();
        let _ = mixture.next_batch(4, keyed);
        mixture.choose(PromptChoice::new(2, vec![(vec![5, 0, 6], Some(0.5)), (vec![1], None)]));
        let records =
            |draws: Vec<Draw>| draws.iter().map(|draw| (draw.source, draw.record)).collect::<Vec<_>>();
        assert_eq!(records(mixture.next_batch(4, keyed)), [(0, 5), (0, 0), (1, 1), (1, 1)]);
        let mut resumed = whole();
        let written = serde_json::to_string(&mixture.position()).unwrap();
        resumed.restore(&serde_json::from_str(&written).unwrap(), keyed).unwrap();
        assert_eq!(resumed.choice().map(|choice| choice.round), Some(2));
        assert_eq!(resumed.choice().unwrap().of_source(0), (3, Some(0.5)));
        for mut mixture in [mixture.clone(), resumed] {
            assert_eq!(records(mixture.next_batch(4, keyed)), [(0, 6), (0, 5), (1, 1), (1, 1)]);
        }
        let mut anew = whole();
        anew.restore(&mixture.position().without_choice(), keyed).unwrap();
        assert!(anew.choice().is_none());
        // A position of another stage's prompts is refused.
        let mut smaller = Mixture::new(&[(0.5, 6), (0.5, 3)]);
        assert!(smaller.restore(&mixture.position(), keyed).is_err());
    }
}
