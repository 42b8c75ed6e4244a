//! The model's own weights that a stage trains: whole parameters, or single elements that another stage
//! changed, a subnetwork (arXiv:2505.11711, arXiv:2606.13657).
//!
//! The trained elements are concatenated in a vector of their own, and only they have a gradient: clipping by
//! norm, the optimizer and its weight decay see no others, and the others keep the bits that the stage began
//! with. This equals training with the other gradients set to 0 before clipping, as in the papers, but keeps
//! no moments of elements that never change.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::{ModelId, Trainable, WeightFilter};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::failure::{Error, Result};
use crate::machine::transfer::upload;
use crate::model::change::ModelChange;
use crate::model::{EntryKind, ParameterEntry, Weights, layout};

/// The most elements of a piece in which only some train: it bounds temporary memory.
const PIECE: usize = 1 << 24;

/// A range of a model's flat vector in which some elements train.
pub struct TrainedPiece {
    pub range: Range<usize>,
    /// The indices of the trained elements from the start of the range, ascending; `None`: all.
    elements: Option<Tensor>,
    count: usize,
}

impl TrainedPiece {
    /// The number of trained elements.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The trained elements of `numbers`, which has those of the whole range.
    pub fn gather(&self, numbers: Tensor) -> Tensor {
        match &self.elements {
            None => numbers,
            Some(elements) => numbers.index_select(0, elements),
        }
    }

    /// Writes the trained elements to their places in the flat vector.
    fn scatter(&self, trained: &Tensor, flat: &Tensor) {
        let mut numbers = flat.narrow(0, self.range.start as i64, self.range.len() as i64);
        match &self.elements {
            None => numbers.copy_(trained),
            Some(elements) => {
                let trained = trained.to_kind(numbers.kind());
                let _ = numbers.index_copy_(0, &elements.to_kind(Kind::Int64), &trained);
            }
        }
    }

    /// The number of trained elements before `offset` in the flat vector, where a parameter begins or ends.
    fn before(&self, offset: usize) -> usize {
        if self.range.end <= offset {
            return self.count;
        }
        let within = offset.saturating_sub(self.range.start);
        assert!(within == 0 || self.elements.is_none(), "a parameter begins where a piece of elements does");
        within
    }
}

/// The trained pieces, in the order of the flat vector, and their values at the stage's start.
pub struct Elements {
    pub pieces: Vec<TrainedPiece>,
    /// The values of all pieces, concatenated, in single precision.
    pub values: Vec<f32>,
    /// How many of the first values belong to matrices, which have weight decay.
    pub decayed: usize,
    /// A hash of the indices, where single elements are chosen.
    pub chosen: Option<Tensor>,
}

impl Elements {
    /// The elements of a stage that trains the model's own weights.
    pub fn new(
        trainable: &Trainable,
        start: &Weights,
        models: &HashMap<ModelId, Arc<Weights>>,
        device: Device,
    ) -> Result<Elements> {
        let Trainable::Weights { only, except } = trainable else {
            unreachable!("an adapter is beside weights that stay")
        };
        let mut changes: Vec<ModelChange> = (trainable.changes())
            .map(|changed| {
                let [after, before] = [changed.after, changed.before].map(|id| &*models[&id]);
                ModelChange::new(after, before, changed.beyond)
            })
            .collect();
        let by_change = !changes.is_empty();
        // The changes of `only` come before those of `except`.
        let of_only = only.iter().flatten().filter(|filter| matches!(filter, WeightFilter::Changed(_)));
        let of_only = of_only.count();
        let (mut pieces, mut values, mut decayed) = (Vec::new(), Vec::new(), 0);
        let mut hash = blake3::Hasher::new();
        for entry in layout(&start.config) {
            let in_some = |filters: &[WeightFilter]| filters.iter().any(|filter| holds(filter, &entry));
            // Scalar and second heads that the stage adds always train: `train_only` and `freeze` name what
            // the model had before.
            let head = entry.is_given();
            let all = head || only.as_deref().is_none_or(in_some);
            let none = !head && in_some(except);
            let mut changed: Vec<Vec<bool>> = Vec::with_capacity(changes.len());
            if !head {
                for change in &mut changes {
                    let of = change.of(&entry.name, entry.len());
                    changed.push(of.expect("shapes are compared where models are read"));
                }
            }
            let trains = |place: usize| {
                let any = |of: &[Vec<bool>]| of.iter().any(|changed| changed[place]);
                let (only, except) = changed.split_at(of_only.min(changed.len()));
                !none && (all || any(only)) && !any(except)
            };
            let numbers = start.of(&entry);
            let before = values.len();
            for first in (0..entry.len()).step_by(PIECE) {
                let range = first..(first + PIECE).min(entry.len());
                let places: Vec<i32> = range
                    .clone()
                    .filter(|place| trains(*place))
                    .map(|place| (place - first) as i32)
                    .collect();
                values.extend(places.iter().map(|place| numbers[first + *place as usize]));
                let piece = entry.offset + range.start..entry.offset + range.end;
                if by_change {
                    hash.update(&(piece.start as u64).to_le_bytes());
                    places.iter().for_each(|place| {
                        hash.update(&place.to_le_bytes());
                    });
                }
                append(&mut pieces, piece, &places, device);
            }
            if entry.kind == EntryKind::Matrix {
                decayed += values.len() - before;
            }
        }
        for change in &changes {
            change.release();
            if change.found == 0 {
                let (beyond, largest) = (change.beyond(), change.largest);
                let message = format!(
                    "no element changed by more than {beyond:e} (the largest change is {largest:e}), so \
                    `changed` selects nothing"
                );
                return Err(Error::new(FailureKind::Runtime, message).help(
                    "lower `beyond`, or name a stage that changed its weights more: `mopd delta` \
                        shows the changes",
                ));
            }
        }
        if values.is_empty() {
            return Err(Error::new(FailureKind::Runtime, "no weight is left to train")
                .help("check `train_only` and `freeze`: they name groups of weights and layers"));
        }
        let chosen = by_change.then(|| {
            let hash = hash.finalize();
            let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
            Tensor::from_slice(&[i64::from_le_bytes(*first)])
        });
        Ok(Elements { pieces, values, decayed, chosen })
    }
}

/// Adds a piece, or extends the last one where both train all their elements and are adjacent.
fn append(pieces: &mut Vec<TrainedPiece>, range: Range<usize>, places: &[i32], device: Device) {
    let count = places.len();
    if count == 0 {
        return;
    }
    if count < range.len() {
        let elements = Some(upload(places, device));
        pieces.push(TrainedPiece { range, elements, count });
        return;
    }
    match pieces.last_mut() {
        Some(last) if last.range.end == range.start && last.elements.is_none() => {
            last.range.end = range.end;
            last.count += count;
        }
        _ => pieces.push(TrainedPiece { range, elements: None, count }),
    }
}

/// The number of trained elements before `offset` in the flat vector, where a parameter begins or ends.
pub fn before(pieces: &[TrainedPiece], offset: usize) -> usize {
    pieces.iter().map(|piece| piece.before(offset)).sum()
}

/// Writes concatenated trained elements to their places in the flat vector.
pub fn scatter(parameters: &Tensor, pieces: &[TrainedPiece], flat: &Tensor) {
    let _guard = no_grad_guard();
    let mut from = 0;
    for piece in pieces {
        let count = piece.len() as i64;
        piece.scatter(&parameters.narrow(0, from, count), flat);
        from += count;
    }
}

/// Whether a filter names the whole parameter.
fn holds(filter: &WeightFilter, entry: &ParameterEntry) -> bool {
    match filter {
        WeightFilter::Layers { first, last } => {
            entry.layer.is_some_and(|layer| (*first..=*last).contains(&layer))
        }
        WeightFilter::Group(group) => entry.group == *group,
        WeightFilter::Changed(_) => false,
    }
}
