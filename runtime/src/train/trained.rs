//! The parameters that a stage trains: all of a model's weights, some of them, or an adapter beside frozen
//! weights.
//!
//! The model always computes with whole weights; an adapter is merged into them. So generation, scoring and
//! training see one model, and the optimizer has state only for what is trained.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use mopd_plan::{ModelId, Trainable, WeightGroup};
use tch::{Kind, Tensor, no_grad_guard};

use super::elements::{Elements, TrainedPiece, before, scatter};
use super::master::Master;
use crate::failure::Result;
use crate::machine::place::Place;
use crate::machine::transfer::{to_vec, upload};
use crate::model::{Adapted, Decoder, Gradient, GradientOf, Weights, layout};
use crate::random::Key;
use crate::store::state::StateTensors;

/// The name of the hash of the trained elements among a checkpoint's tensors.
const CHOSEN: &str = "trained.elements";

/// The trained parameters of a stage's student. All other weights keep the bits that the stage began with.
pub struct TrainedParameters {
    start: Arc<Weights>,
    subset: TrainedSubset,
}

enum TrainedSubset {
    /// All of the model's weights.
    All(Master),
    /// Ranges of the model's flat vector, matrices first, and the trained elements in them: concatenated, in
    /// single precision.
    Parts {
        pieces: Vec<TrainedPiece>,
        decayed: usize,
        /// A hash of the trained elements' indices, where single elements are chosen.
        chosen: Option<Tensor>,
        parameters: Tensor,
    },
    Adapter(Rc<Adapted>),
}

impl TrainedParameters {
    /// `model` was made from the weights that the stage starts from; `key` selects the random numbers that an
    /// adapter is initialised with.
    pub fn new(
        trainable: &Trainable,
        start: &Arc<Weights>,
        models: &HashMap<ModelId, Arc<Weights>>,
        model: &Decoder,
        key: Key,
    ) -> Result<TrainedParameters> {
        let device = model.device();
        let what = match trainable {
            Trainable::Weights { only: None, except } if except.is_empty() => {
                TrainedSubset::All(Master::of_model(model.flat(), start))
            }
            Trainable::Weights { .. } => {
                let Elements { pieces, values, decayed, chosen } =
                    Elements::new(trainable, start, models, device)?;
                let parameters = upload(&values, device);
                TrainedSubset::Parts { pieces, decayed, chosen, parameters }
            }
            Trainable::Adapter(settings) => {
                TrainedSubset::Adapter(Rc::new(Adapted::new(settings, start, model.place, key)?))
            }
        };
        Ok(TrainedParameters { start: start.clone(), subset: what })
    }

    /// The vector that the optimizer updates, and how many of its first elements have weight decay.
    pub fn parameters(&self, model: &Decoder) -> (Master, i64) {
        match &self.subset {
            TrainedSubset::All(master) => (master.shallow_clone(), model.decayed()),
            TrainedSubset::Parts { parameters, decayed, .. } => (Master::whole(parameters), *decayed as i64),
            TrainedSubset::Adapter(adapted) => {
                (Master::whole(adapted.parameters()), adapted.decayed() as i64)
            }
        }
    }

    /// The ranges of that vector that hold the weights of some groups, or of all where `groups` is empty. An
    /// adapter has none.
    pub fn ranges_of(&self, groups: &[WeightGroup]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for entry in layout(&self.start.config) {
            let whole = entry.offset..entry.offset + entry.len();
            let own = match &self.subset {
                TrainedSubset::All(_) => whole,
                TrainedSubset::Parts { pieces, .. } => before(pieces, whole.start)..before(pieces, whole.end),
                TrainedSubset::Adapter(_) => continue,
            };
            if (groups.is_empty() || groups.contains(&entry.group)) && !own.is_empty() {
                append(&mut found, own);
            }
        }
        found
    }

    /// The share of the model's parameters that is trained; `None` unless single elements are chosen.
    pub fn share(&self) -> Option<f64> {
        let TrainedSubset::Parts { chosen: Some(_), parameters, .. } = &self.subset else { return None };
        Some(parameters.numel() as f64 / Weights::parameters(&self.start.config) as f64)
    }

    /// `flat`, a vector of all parameters, with the frozen ones replaced by their bits at the stage's start.
    pub fn with_frozen_parameters(&self, flat: Tensor) -> Tensor {
        let TrainedSubset::Parts { pieces, .. } = &self.subset else { return flat };
        let begun = self.start.flat(Kind::Float, flat.device());
        scatter(
            &gathered(pieces, |range| flat.narrow(0, range.start as i64, range.len() as i64)),
            pieces,
            &begun,
        );
        begun
    }

    /// All parameters in single precision, also where the model computes in half precision: its own vector,
    /// or a copy.
    pub fn to_f32(&self, model: &Decoder) -> Tensor {
        if model.flat().kind() != Kind::BFloat16 {
            return model.flat().shallow_clone();
        }
        let begun = || self.start.flat(Kind::Float, model.device());
        match &self.subset {
            TrainedSubset::All(master) => master.to_f32(),
            TrainedSubset::Parts { pieces, parameters, .. } => {
                let flat = begun();
                scatter(parameters, pieces, &flat);
                flat
            }
            TrainedSubset::Adapter(adapted) => {
                let flat = begun();
                adapted.merge(&flat);
                flat
            }
        }
    }

    /// The model's current weights, as plain data.
    pub fn weights(&self, model: &Decoder) -> Weights {
        match &self.subset {
            TrainedSubset::All(master) => self.start.with_values(master.numbers()),
            TrainedSubset::Parts { .. } => self.start.with_values(to_vec(&self.to_f32(model))),
            TrainedSubset::Adapter(adapted) => Weights::merged(adapted.merged()),
        }
    }

    #[cfg(test)]
    pub fn numbers(&self, model: &Decoder) -> Vec<f32> {
        self.weights(model).values().into_owned()
    }

    /// An empty gradient for backward passes to write. `make` is [`Gradient::zero`] or [`Gradient::sum`].
    pub fn no_gradient(&self, model: &Decoder, make: fn(usize, Kind, Place) -> Gradient) -> Gradient {
        let (numbers, kind) = (model.flat().numel(), model.kind());
        let (numbers, kind, of) = match &self.subset {
            TrainedSubset::All(_) => (numbers, kind, GradientOf::All),
            TrainedSubset::Parts { pieces, .. } => {
                let ranges = pieces.iter().map(|piece| piece.range.clone()).collect();
                (numbers, kind, GradientOf::Ranges(ranges))
            }
            TrainedSubset::Adapter(adapted) => (
                adapted.parameters().numel(),
                adapted.parameters().kind(),
                GradientOf::Adapter(adapted.clone()),
            ),
        };
        make(numbers, kind, model.place).of(of)
    }

    /// d loss / d trained parameters, in the optimizer's order, from the gradient that backward passes wrote.
    pub fn gradient(&self, written: Gradient) -> Gradient {
        let _guard = no_grad_guard();
        match &self.subset {
            TrainedSubset::All(_) | TrainedSubset::Adapter(_) => written,
            TrainedSubset::Parts { pieces, .. } => {
                Gradient::whole(gathered(pieces, |range| written.part(range)), written.place)
            }
        }
    }

    /// Updates the model's weights from the trained parameters.
    pub fn apply(&self, model: &Decoder) {
        let _guard = no_grad_guard();
        match &self.subset {
            TrainedSubset::All(_) => {}
            TrainedSubset::Parts { pieces, parameters, .. } => scatter(parameters, pieces, model.flat()),
            TrainedSubset::Adapter(adapted) => adapted.merge(model.flat()),
        }
    }

    /// Adds the trained parameters to `tensors`. Frozen weights and merged matrices are not stored: they can
    /// be computed again.
    pub fn state(&self, model: &Decoder, tensors: &mut StateTensors) {
        self.parameters(model).0.state("trained", tensors);
        if let TrainedSubset::Parts { chosen: Some(chosen), .. } = &self.subset {
            tensors.put(CHOSEN, chosen);
        }
    }

    pub fn restore(&self, model: &Decoder, tensors: &StateTensors) -> Result<(), String> {
        self.parameters(model).0.restore("trained", tensors)?;
        if let TrainedSubset::Parts { chosen: Some(chosen), .. } = &self.subset
            && tensors.get(CHOSEN)? != chosen
        {
            return Err("`trained` is of other elements of the weights in it".to_owned());
        }
        self.apply(model);
        Ok(())
    }

    pub fn adapter(&self) -> Option<&Adapted> {
        if let TrainedSubset::Adapter(adapted) = &self.subset { Some(adapted) } else { None }
    }
}

/// The trained elements of all pieces, concatenated; `numbers` returns all elements of a range.
fn gathered(pieces: &[TrainedPiece], numbers: impl Fn(Range<usize>) -> Tensor) -> Tensor {
    let parts: Vec<Tensor> = pieces.iter().map(|piece| piece.gather(numbers(piece.range.clone()))).collect();
    Tensor::cat(&parts, 0)
}

/// Appends a range, or extends the last one if they are adjacent.
fn append(ranges: &mut Vec<Range<usize>>, next: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}
