//! The batch in which each record of a stage occurs for the first time.

use std::ops::Range;

use crate::data::mixture::Draw;

/// The records that occur for the first time in each batch.
pub struct FirstEpoch {
    /// By batch, in its order; draws of a source are adjacent.
    new: Vec<Vec<Draw>>,
    /// By source and record: the batch, and the index among the batch's new records.
    places: Vec<Vec<Option<(u32, u32)>>>,
}

impl FirstEpoch {
    /// `sizes` are the numbers of records of the sources.
    pub fn new(sizes: &[usize], batches: impl Iterator<Item = Vec<Draw>>) -> FirstEpoch {
        let mut places: Vec<Vec<Option<(u32, u32)>>> = sizes.iter().map(|size| vec![None; *size]).collect();
        let mut missing: usize = sizes.iter().sum();
        let mut new: Vec<Vec<Draw>> = Vec::new();
        for batch in batches {
            let mut first = Vec::new();
            for draw in batch {
                let place = &mut places[draw.source][draw.record];
                if place.is_none() {
                    *place = Some((new.len() as u32, first.len() as u32));
                    first.push(draw);
                }
            }
            missing -= first.len();
            new.push(first);
            if missing == 0 {
                break;
            }
        }
        FirstEpoch { new, places }
    }

    /// The number of batches until every record has occurred, or until the stage's end.
    pub fn batches(&self) -> u32 {
        self.new.len() as u32
    }

    pub fn new_in(&self, batch: u32) -> &[Draw] {
        &self.new[batch as usize]
    }

    /// The range of some sources among the new records of a batch.
    pub fn of_sources(&self, batch: u32, sources: &Range<usize>) -> Range<usize> {
        let new = self.new_in(batch);
        new.partition_point(|draw| draw.source < sources.start)
            ..new.partition_point(|draw| draw.source < sources.end)
    }

    /// The batch in which a record is new, and its index among the batch's new records; `None` for a record
    /// that does not occur before the stage's end.
    pub fn place(&self, draw: Draw) -> Option<(u32, usize)> {
        let place = self.places.get(draw.source)?.get(draw.record).copied().flatten()?;
        Some((place.0, place.1 as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_epoch_ends_when_everything_has_come() {
        let draws = |list: &[(usize, usize)]| {
            list.iter().map(|(source, record)| Draw { source: *source, record: *record }).collect()
        };
        let batches: [Vec<Draw>; 4] = [
            draws(&[(0, 2), (1, 0), (1, 0)]),
            draws(&[(0, 0), (0, 2), (1, 0)]),
            draws(&[(0, 0), (0, 1), (1, 1)]),
            draws(&[(0, 2), (0, 1), (1, 0)]),
        ];
        let first = FirstEpoch::new(&[3, 2], batches.into_iter());
        assert_eq!(first.batches(), 3, "the fourth has nothing new");
        let place = |source, record| first.place(Draw { source, record });
        assert_eq!(
            [place(0, 2), place(1, 0), place(0, 0), place(1, 1)],
            [Some((0, 0)), Some((0, 1)), Some((1, 0)), Some((2, 1))]
        );
        assert_eq!(
            (first.of_sources(2, &(0..1)), first.of_sources(2, &(1..2)), first.of_sources(1, &(1..2))),
            (0..1, 1..2, 1..1)
        );
        // A stage that ends earlier has seen fewer records.
        let short = FirstEpoch::new(&[3, 2], std::iter::once(draws(&[(0, 1)])));
        assert_eq!((short.batches(), short.place(Draw { source: 0, record: 2 })), (1, None));
    }
}
