//! What a stage changes: all of a model's weights, some of them, or an adapter beside weights that stay as
//! they are.
//!
//! The model computes with whole weights in any case, with an adapter merged into them. So generation,
//! scoring and training see one model, whatever trains, and the optimiser keeps state for what trains alone.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use mopd_compiler::plan::{Trainable, WeightGroup};
use tch::{Kind, Tensor, no_grad_guard};

use super::Stage;
use super::elements::{Elements, TrainedPiece, before, scatter};
use super::master::Master;
use crate::failure::Result;
use crate::machine::place::Place;
use crate::machine::transfer::{to_vec, upload};
use crate::model::{Adapted, Decoder, Gradient, GradientOf, Weights, layout};
use crate::random::Key;
use crate::store::state::StateTensors;

/// The name of the hash of the places among a checkpoint's tensors.
const CHOSEN: &str = "trained.elements";

/// Everything but the numbers themselves is as the stage began.
pub struct Trained {
    start: Arc<Weights>,
    what: What,
}

enum What {
    /// The model's own numbers.
    All(Master),
    /// Parts of the model's flat vector, matrices first, and the numbers of them that train end to end, in
    /// single precision.
    Parts {
        pieces: Vec<TrainedPiece>,
        decayed: usize,
        /// A hash of the places, where single elements are chosen.
        chosen: Option<Tensor>,
        parameters: Tensor,
    },
    Adapter(Rc<Adapted>),
}

impl Trained {
    /// `model` was made from what the stage starts from; `key` selects the numbers that an adapter starts
    /// from.
    pub fn new(stage: &Stage, model: &Decoder, key: Key) -> Result<Trained> {
        let (device, start) = (model.device(), &stage.start);
        let what = match &stage.train.trainable {
            Trainable::Weights { only: None, except } if except.is_empty() => {
                What::All(Master::of_model(model.flat(), start))
            }
            Trainable::Weights { .. } => {
                let Elements { pieces, values, decayed, chosen } = Elements::new(stage, device)?;
                let parameters = upload(&values, device);
                What::Parts { pieces, decayed, chosen, parameters }
            }
            Trainable::Adapter(settings) => {
                What::Adapter(Rc::new(Adapted::new(settings, start, model.place, key)?))
            }
        };
        Ok(Trained { start: start.clone(), what })
    }

    /// What the optimiser updates, as one vector, and how many of its first elements weight decay applies to.
    pub fn parameters(&self, model: &Decoder) -> (Master, i64) {
        match &self.what {
            What::All(master) => (master.shallow_clone(), model.decayed()),
            What::Parts { parameters, decayed, .. } => (Master::whole(parameters), *decayed as i64),
            What::Adapter(adapted) => (Master::whole(adapted.parameters()), adapted.decayed() as i64),
        }
    }

    /// Where the weights of some groups, or of all where none is named, stand in that vector; nowhere where
    /// adapters stand in it.
    pub fn ranges_of(&self, groups: &[WeightGroup]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for entry in layout(&self.start.config) {
            let whole = entry.offset..entry.offset + entry.len();
            let own = match &self.what {
                What::All(_) => whole,
                What::Parts { pieces, .. } => before(pieces, whole.start)..before(pieces, whole.end),
                What::Adapter(_) => continue,
            };
            if (groups.is_empty() || groups.contains(&entry.group)) && !own.is_empty() {
                append(&mut found, own);
            }
        }
        found
    }

    /// Of all of the model's numbers, the share that trains, where single elements are chosen.
    pub fn share(&self) -> Option<f64> {
        let What::Parts { chosen: Some(_), parameters, .. } = &self.what else { return None };
        Some(parameters.numel() as f64 / Weights::parameters(&self.start.config) as f64)
    }

    /// A vector of all numbers where those that do not train have the bits that they began with.
    pub fn with_the_frozen(&self, flat: Tensor) -> Tensor {
        let What::Parts { pieces, .. } = &self.what else { return flat };
        let begun = self.start.flat(Kind::Float, flat.device());
        scatter(
            &gathered(pieces, |range| flat.narrow(0, range.start as i64, range.len() as i64)),
            pieces,
            &begun,
        );
        begun
    }

    /// All of the model's numbers in single precision, also where it computes in half: its own vector, or a
    /// copy.
    pub fn to_f32(&self, model: &Decoder) -> Tensor {
        if model.flat().kind() != Kind::BFloat16 {
            return model.flat().shallow_clone();
        }
        let begun = || self.start.flat(Kind::Float, model.device());
        match &self.what {
            What::All(master) => master.to_f32(),
            What::Parts { pieces, parameters, .. } => {
                let flat = begun();
                scatter(parameters, pieces, &flat);
                flat
            }
            What::Adapter(adapted) => {
                let flat = begun();
                adapted.merge(&flat);
                flat
            }
        }
    }

    /// The model as it is now, as plain data.
    pub fn weights(&self, model: &Decoder) -> Weights {
        match &self.what {
            What::All(master) => self.start.with_values(master.numbers()),
            What::Parts { .. } => self.start.with_values(to_vec(&self.to_f32(model))),
            What::Adapter(adapted) => Weights::merged(adapted.merged()),
        }
    }

    #[cfg(test)]
    pub fn numbers(&self, model: &Decoder) -> Vec<f32> {
        self.weights(model).values().into_owned()
    }

    /// Of no token: the gradient that a backward pass writes. `make` is one of the two that [`Gradient`] has.
    pub fn no_gradient(&self, model: &Decoder, make: fn(usize, Kind, Place) -> Gradient) -> Gradient {
        let (numbers, kind) = (model.flat().numel(), model.kind());
        let (numbers, kind, of) = match &self.what {
            What::All(_) => (numbers, kind, GradientOf::All),
            What::Parts { pieces, .. } => {
                let ranges = pieces.iter().map(|piece| piece.range.clone()).collect();
                (numbers, kind, GradientOf::Ranges(ranges))
            }
            What::Adapter(adapted) => (
                adapted.parameters().numel(),
                adapted.parameters().kind(),
                GradientOf::Adapter(adapted.clone()),
            ),
        };
        make(numbers, kind, model.place).of(of)
    }

    /// d loss / d what trains, as the optimiser has it, from what backward passes wrote.
    pub fn gradient(&self, written: Gradient) -> Gradient {
        let _guard = no_grad_guard();
        match &self.what {
            What::All(_) | What::Adapter(_) => written,
            What::Parts { pieces, .. } => {
                Gradient::whole(gathered(pieces, |range| written.part(range)), written.place)
            }
        }
    }

    /// Brings the model up to date with what was updated.
    pub fn apply(&self, model: &Decoder) {
        let _guard = no_grad_guard();
        match &self.what {
            What::All(_) => {}
            What::Parts { pieces, parameters, .. } => scatter(parameters, pieces, model.flat()),
            What::Adapter(adapted) => adapted.merge(model.flat()),
        }
    }

    /// What is updated, under names. What does not train is as it was, and merged matrices are made from
    /// their adapter.
    pub fn state(&self, model: &Decoder, tensors: &mut StateTensors) {
        self.parameters(model).0.state("trained", tensors);
        if let What::Parts { chosen: Some(chosen), .. } = &self.what {
            tensors.put(CHOSEN, chosen);
        }
    }

    pub fn restore(&self, model: &Decoder, tensors: &StateTensors) -> Result<(), String> {
        self.parameters(model).0.restore("trained", tensors)?;
        if let What::Parts { chosen: Some(chosen), .. } = &self.what
            && tensors.get(CHOSEN)? != chosen
        {
            return Err("`trained` is of other elements of the weights in it".to_owned());
        }
        self.apply(model);
        Ok(())
    }

    pub fn adapter(&self) -> Option<&Adapted> {
        if let What::Adapter(adapted) = &self.what { Some(adapted) } else { None }
    }
}

/// What trains of the numbers in each piece, end to end.
fn gathered(pieces: &[TrainedPiece], numbers: impl Fn(Range<usize>) -> Tensor) -> Tensor {
    let parts: Vec<Tensor> = pieces.iter().map(|piece| piece.gather(numbers(piece.range.clone()))).collect();
    Tensor::cat(&parts, 0)
}

/// Adds a range, which may go on where the last one ends.
fn append(ranges: &mut Vec<Range<usize>>, next: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}
