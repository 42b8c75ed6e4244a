//! What a stage changes: all of a model's weights, some of them, or an adapter beside weights that stay as
//! they are.
//!
//! The model computes with whole weights in any case: an adapter is merged into the matrices that it belongs
//! to after every update, from the weights that the stage started from, so nothing drifts; and the gradient
//! of a merged matrix is carried on to the adapter's own parts. So generation, scoring and training see one
//! model, whatever trains, and the optimiser keeps state for what trains alone.

use std::ops::Range;
use std::sync::Arc;

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Adapter, AdapterKind, Trainable, WeightGroup};
use tch::{Kind, Tensor, no_grad_guard};

use super::Stage;
use super::elements::{Elements, Piece, before, scatter};
use super::master::Master;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::machine::transfer::upload;
use crate::model::{Decoder, Entry, Gradient, Weights, layout};
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
        pieces: Vec<Piece>,
        decayed: usize,
        /// A hash of the places, where single elements are chosen.
        chosen: Option<Tensor>,
        parameters: Tensor,
    },
    Adapter(Box<Adapted>),
}

/// An adapter of several matrices.
pub struct Adapted {
    base: Arc<Weights>,
    /// The matrices as they were, in single precision, where they stay on the device; else they are read anew
    /// for every step, which on the CPU costs no copy over a bus.
    held: Option<Vec<Tensor>>,
    settings: Adapter,
    matrices: Vec<AdaptedMatrix>,
    /// Of each matrix A, then B, one matrix after the other; then, for DoRA, the magnitudes: in single
    /// precision.
    parameters: Tensor,
    decayed: usize,
}

/// One matrix with an adapter; offsets are into the adapter's parameters.
struct AdaptedMatrix {
    entry: Entry,
    /// `[rank, inputs]`
    a: usize,
    /// `[outputs, rank]`
    b: usize,
    /// `[outputs]`; absent for LoRA.
    magnitude: Option<usize>,
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
                What::Adapter(Box::new(Adapted::new(settings, start, model.place, key)?))
            }
        };
        Ok(Trained { start: start.clone(), what })
    }

    /// What the optimiser updates, as one vector, and how many of its first elements weight decay applies to.
    pub fn parameters(&self, model: &Decoder) -> (Master, i64) {
        match &self.what {
            What::All(master) => (master.shallow_clone(), model.decayed()),
            What::Parts { parameters, decayed, .. } => (Master::whole(parameters), *decayed as i64),
            What::Adapter(adapted) => (Master::whole(&adapted.parameters), adapted.decayed as i64),
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
    pub fn single(&self, model: &Decoder) -> Tensor {
        if model.flat().kind() != Kind::BFloat16 {
            return model.flat().shallow_clone();
        }
        let begun = || self.start.flat(Kind::Float, model.device());
        match &self.what {
            What::All(master) => master.single(),
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

    /// The same as plain numbers.
    pub fn numbers(&self, model: &Decoder) -> Vec<f32> {
        match &self.what {
            What::All(master) => master.numbers(),
            What::Parts { .. } | What::Adapter(_) => to_vec(&self.single(model)),
        }
    }

    /// Where the numbers are, in the model's flat vector, that have a gradient; all where absent.
    pub fn ranges(&self) -> Option<Vec<Range<usize>>> {
        match &self.what {
            What::All(_) => None,
            What::Parts { pieces, .. } => Some(pieces.iter().map(|piece| piece.range.clone()).collect()),
            What::Adapter(adapted) => {
                let of =
                    |matrix: &AdaptedMatrix| matrix.entry.offset..matrix.entry.offset + matrix.entry.len();
                Some(adapted.matrices.iter().map(of).collect())
            }
        }
    }

    /// d loss / d what trains, from d loss / d the model's flat vector.
    pub fn gradient(&self, by_weights: Gradient) -> Gradient {
        let _guard = no_grad_guard();
        match &self.what {
            What::All(_) => by_weights,
            What::Parts { pieces, .. } => {
                Gradient::whole(gathered(pieces, |range| by_weights.part(range)), by_weights.place)
            }
            What::Adapter(adapted) => Gradient::whole(adapted.gradient(&by_weights), by_weights.place),
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
fn gathered(pieces: &[Piece], numbers: impl Fn(Range<usize>) -> Tensor) -> Tensor {
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

impl Adapted {
    /// B is 0, so that training starts from the model as it is; A is uniform within 1 / sqrt(inputs), as PEFT
    /// starts it. A magnitude is the norm of its row.
    fn new(settings: &Adapter, base: &Arc<Weights>, place: Place, key: Key) -> Result<Adapted> {
        let within = |entry: &Entry| match (settings.layers, entry.layer) {
            (Some((first, last)), Some(layer)) => (first..=last).contains(&layer),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let chosen = |entry: &Entry| {
            let module = entry.name.strip_suffix(".weight").and_then(|name| name.rsplit('.').next());
            settings.targets.iter().any(|target| Some(target.module()) == module) && within(entry)
        };
        let entries: Vec<Entry> = layout(&base.config).into_iter().filter(chosen).collect();
        if entries.is_empty() {
            return Err(Error::new(
                FailureKind::Runtime,
                "no matrix of the model is among the adapter's targets and layers",
            ));
        }
        let rank = settings.rank as usize;
        let mut values: Vec<f32> = Vec::new();
        let mut matrices = Vec::with_capacity(entries.len());
        for (index, entry) in entries.into_iter().enumerate() {
            let (outputs, inputs) = (entry.shape[0], entry.shape[1]);
            let mut uniforms = key.row(index as u32, 0);
            let bound = 1.0 / (inputs as f64).sqrt();
            let a = values.len();
            values.extend((0..rank * inputs).map(|_| ((2.0 * uniforms.uniform() - 1.0) * bound) as f32));
            let b = values.len();
            values.resize(b + outputs * rank, 0.0);
            matrices.push(AdaptedMatrix { entry, a, b, magnitude: None });
        }
        let decayed = values.len();
        if settings.kind == AdapterKind::Dora {
            for matrix in &mut matrices {
                matrix.magnitude = Some(values.len());
                let norm = |row: &[f32]| {
                    row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32
                };
                values.extend(base.of(&matrix.entry).chunks(matrix.entry.shape[1]).map(norm));
            }
        }
        let parameters = upload(&values, place.device);
        let numbers: usize = matrices.iter().map(|matrix| matrix.entry.len()).sum();
        let stays = place.loops().is_none() && numbers <= place.sizes.resident;
        let held = stays.then(|| {
            let of = |matrix: &AdaptedMatrix| base.tensor(&matrix.entry, Kind::Float, place.device);
            matrices.iter().map(of).collect()
        });
        Ok(Adapted { base: base.clone(), held, settings: settings.clone(), matrices, parameters, decayed })
    }

    pub fn settings(&self) -> &Adapter {
        &self.settings
    }

    /// Each part with its name in PEFT's layout, its shape and its values.
    pub fn parts(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let rank = self.settings.rank as usize;
        let mut parts = Vec::new();
        for AdaptedMatrix { entry, a, b, magnitude } in &self.matrices {
            let module = entry.name.strip_suffix(".weight").unwrap_or(&entry.name);
            let mut add = |part: &str, offset: usize, shape: Vec<usize>| {
                let count: usize = shape.iter().product();
                let values = to_vec(&self.parameters.narrow(0, offset as i64, count as i64));
                parts.push((format!("base_model.model.{module}.{part}"), shape, values));
            };
            add("lora_A.weight", *a, vec![rank, entry.shape[1]]);
            add("lora_B.weight", *b, vec![entry.shape[0], rank]);
            if let Some(magnitude) = magnitude {
                add("lora_magnitude_vector", *magnitude, vec![entry.shape[0]]);
            }
        }
        parts
    }

    fn scale(&self) -> f64 {
        self.settings.alpha / f64::from(self.settings.rank)
    }

    fn view(&self, of: &Tensor, offset: usize, shape: &[i64]) -> Tensor {
        of.narrow(0, offset as i64, shape.iter().product()).view(shape)
    }

    /// A and B.
    fn factors(&self, of: &Tensor, matrix: &AdaptedMatrix) -> [Tensor; 2] {
        let (rank, outputs, inputs) =
            (i64::from(self.settings.rank), matrix.entry.shape[0] as i64, matrix.entry.shape[1] as i64);
        [self.view(of, matrix.a, &[rank, inputs]), self.view(of, matrix.b, &[outputs, rank])]
    }

    /// W + scale * B A, `[outputs, inputs]`, of the matrix in its place.
    fn direction(&self, index: usize) -> Tensor {
        let matrix = &self.matrices[index];
        let [a, b] = self.factors(&self.parameters, matrix);
        let base = match &self.held {
            Some(held) => held[index].shallow_clone(),
            None => self.base.tensor(&matrix.entry, Kind::Float, self.parameters.device()),
        };
        base + b.matmul(&a) * self.scale()
    }

    /// The norm of each row, `[outputs, 1]`.
    fn norms(direction: &Tensor) -> Tensor {
        direction.square().sum_dim_intlist([1].as_slice(), true, Kind::Float).sqrt()
    }

    /// Into a model's flat vector.
    fn merge(&self, flat: &Tensor) {
        let _guard = no_grad_guard();
        for (index, matrix) in self.matrices.iter().enumerate() {
            let direction = self.direction(index);
            let merged = match matrix.magnitude {
                None => direction,
                Some(magnitude) => {
                    let magnitude =
                        self.view(&self.parameters, magnitude, &[matrix.entry.shape[0] as i64, 1]);
                    // arXiv:2402.09353, eq. 5
                    &direction * (magnitude / Adapted::norms(&direction))
                }
            };
            let place = flat.narrow(0, matrix.entry.offset as i64, matrix.entry.len() as i64);
            // A half-precision model's numbers are rounded here, once.
            place.view_as(&merged).copy_(&merged);
        }
    }

    /// With G the gradient of the merged matrix: d A = scale * B' G, d B = scale * G A'. For DoRA, the norm
    /// by which the direction is divided is a constant (arXiv:2402.09353, section 4.3): G is replaced by
    /// its rows times magnitude / norm.
    fn gradient(&self, by_weights: &Gradient) -> Tensor {
        let gradient = self.parameters.zeros_like();
        for (index, matrix) in self.matrices.iter().enumerate() {
            let (outputs, inputs) = (matrix.entry.shape[0] as i64, matrix.entry.shape[1] as i64);
            let range = matrix.entry.offset..matrix.entry.offset + matrix.entry.len();
            let mut of_matrix = by_weights.part(range).view([outputs, inputs]).to_kind(Kind::Float);
            if let Some(offset) = matrix.magnitude {
                let direction = self.direction(index);
                let norms = Adapted::norms(&direction);
                let by_magnitude =
                    (&of_matrix * &direction / &norms).sum_dim_intlist([1].as_slice(), false, Kind::Float);
                gradient.narrow(0, offset as i64, outputs).copy_(&by_magnitude);
                of_matrix *= self.view(&self.parameters, offset, &[outputs, 1]) / norms;
            }
            let [a, b] = self.factors(&self.parameters, matrix);
            let [mut by_a, mut by_b] = self.factors(&gradient, matrix);
            by_a.copy_(&(b.tr().matmul(&of_matrix) * self.scale()));
            by_b.copy_(&(of_matrix.matmul(&a.tr()) * self.scale()));
        }
        gradient
    }
}
