//! Adapters: LoRA (arXiv:2106.09685) and DoRA (arXiv:2402.09353), beside weights that stay as they are.
//!
//! A model always computes with whole matrices. After every update, an adapter is merged into its matrices,
//! from the weights that the stage started with, so nothing drifts. Where our own loops multiply, LoRA's
//! gradient is computed from a product's input and d loss / d output, without the whole matrix's. Elsewhere,
//! the gradient of one layer's matrices at a time is carried on to the adapter.

use std::ops::Range;
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::{Adapter, AdapterKind};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::{ParameterEntry, Weights, layout};
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::machine::transfer::{to_vec, upload};
use crate::random::Key;

/// An adapter of several matrices, and the weights beside it.
pub struct Adapted {
    base: Arc<Weights>,
    /// The original matrices in single precision, where they stay on the device. Otherwise they are read
    /// again at every step, which on the CPU needs no copy to a device.
    held: Option<Vec<Tensor>>,
    layout: Arc<AdapterLayout>,
    /// The trained parameters in single precision, in the order of the layout.
    parameters: Tensor,
}

/// The layout of an adapter's parameters. One that is trained has A and B of each matrix in turn; then, for
/// DoRA, the magnitudes of all.
#[derive(Debug)]
struct AdapterLayout {
    /// In the order of the model's layout.
    matrices: Vec<AdaptedMatrix>,
}

/// One matrix with an adapter; offsets are into the adapter's parameters.
#[derive(Debug)]
struct AdaptedMatrix {
    entry: ParameterEntry,
    rank: usize,
    alpha: f64,
    /// `[rank, inputs]`
    a: usize,
    /// `[outputs, rank]`
    b: usize,
    /// `[outputs]`; absent for LoRA.
    magnitude: Option<usize>,
}

/// A part of an adapter's gradient.
pub(super) struct PartGradient {
    /// Of its parameters.
    pub offset: usize,
    pub numbers: Tensor,
    /// Whether it is one term of several: A reads the input of all rows of its matrix.
    pub is_term: bool,
}

impl AdaptedMatrix {
    /// The range of the matrix in the model's flat vector.
    fn range(&self) -> Range<usize> {
        self.entry.offset..self.entry.offset + self.entry.len()
    }

    /// `[outputs, inputs]`
    fn shape(&self) -> [i64; 2] {
        [self.entry.shape[0] as i64, self.entry.shape[1] as i64]
    }

    /// The gradient of A, from some rows of the matrix.
    fn gradient_of_a(&self, rows: &Range<usize>, numbers: Tensor) -> PartGradient {
        PartGradient { offset: self.a, numbers, is_term: rows.len() < self.entry.shape[0] }
    }

    /// The gradient of these rows of B.
    fn gradient_of_b(&self, rows: &Range<usize>, numbers: Tensor) -> PartGradient {
        PartGradient { offset: self.b + rows.start * self.rank, numbers, is_term: false }
    }

    /// The parts of its adapter; `part` makes each from its offset and shape.
    fn factors(&self, part: impl Fn(usize, &[i64]) -> Tensor) -> Factors {
        let (rank, [outputs, inputs]) = (self.rank as i64, self.shape());
        Factors {
            a: part(self.a, &[rank, inputs]),
            b: part(self.b, &[outputs, rank]),
            magnitude: self.magnitude.map(|magnitude| part(magnitude, &[outputs, 1])),
            scale: self.alpha / self.rank as f64,
        }
    }
}

/// The parts of one matrix's adapter.
struct Factors {
    /// `[rank, inputs]`
    a: Tensor,
    /// `[outputs, rank]`
    b: Tensor,
    /// `[outputs, 1]`
    magnitude: Option<Tensor>,
    scale: f64,
}

impl Factors {
    /// Those of some rows of the matrix.
    fn of_rows(self, rows: &Range<usize>) -> Factors {
        let these = |all: &Tensor| all.narrow(0, rows.start as i64, rows.len() as i64);
        Factors { b: these(&self.b), magnitude: self.magnitude.as_ref().map(these), ..self }
    }

    /// W + scale * B A, `[outputs, inputs]`, for W = `base`.
    fn direction(&self, base: Tensor) -> Tensor {
        base + self.b.matmul(&self.a) * self.scale
    }

    /// The matrix that the model computes with in place of W.
    fn merged(&self, base: Tensor) -> Tensor {
        let direction = self.direction(base);
        match &self.magnitude {
            None => direction,
            // arXiv:2402.09353, eq. 5
            Some(magnitude) => &direction * (magnitude / norms(&direction)),
        }
    }
}

fn part(of: &Tensor, offset: usize, shape: &[i64]) -> Tensor {
    of.narrow(0, offset as i64, shape.iter().product()).view(shape)
}

/// The norm of each row, `[outputs, 1]`.
fn norms(direction: &Tensor) -> Tensor {
    direction.square().sum_dim_intlist([1].as_slice(), true, Kind::Float).sqrt()
}

impl Adapted {
    /// A new adapter. B is 0, so that training starts from the unchanged model; A is uniform within
    /// 1 / sqrt(inputs), as in PEFT. A magnitude is the norm of its row.
    ///
    /// # Errors
    /// If no matrix of the model is among the adapter's targets and layers.
    pub fn new(settings: &Adapter, base: &Arc<Weights>, place: Place, key: Key) -> Result<Adapted> {
        let within = |entry: &ParameterEntry| match (settings.layers, entry.layer) {
            (Some((first, last)), Some(layer)) => (first..=last).contains(&layer),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let chosen = |entry: &ParameterEntry| entry.is_adapted(&settings.targets) && within(entry);
        let entries: Vec<ParameterEntry> = layout(&base.config).into_iter().filter(chosen).collect();
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
            matrices.push(AdaptedMatrix { entry, rank, alpha: settings.alpha, a, b, magnitude: None });
        }
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
        let layout = Arc::new(AdapterLayout { matrices });
        Ok(Adapted { base: base.clone(), held, layout, parameters })
    }

    /// The trained parameters as one vector.
    pub fn parameters(&self) -> &Tensor {
        &self.parameters
    }

    /// How many of the first parameters have weight decay: those of A and B, but not the magnitudes.
    pub fn decayed(&self) -> usize {
        let first = self.layout.matrices.iter().find_map(|matrix| matrix.magnitude);
        first.unwrap_or(self.parameters.numel())
    }

    /// The original matrix.
    fn base(&self, index: usize) -> Tensor {
        let read = || {
            let entry = &self.layout.matrices[index].entry;
            self.base.tensor(entry, Kind::Float, self.parameters.device())
        };
        self.held.as_ref().map_or_else(read, |held| held[index].shallow_clone())
    }

    fn factors(&self, matrix: &AdaptedMatrix) -> Factors {
        matrix.factors(|offset, shape| part(&self.parameters, offset, shape))
    }

    /// Merges the adapter into a model's flat vector.
    pub fn merge(&self, flat: &Tensor) {
        let _guard = no_grad_guard();
        for (index, matrix) in self.layout.matrices.iter().enumerate() {
            let merged = self.factors(matrix).merged(self.base(index));
            // A half-precision model's numbers are rounded here, once.
            part(flat, matrix.entry.offset, &matrix.shape()).copy_(&merged);
        }
    }

    /// The model with the adapter, in single precision. Changed matrices are computed on demand: all of them
    /// at once would take more memory than a step of training.
    pub fn merged(&self) -> Merged {
        Merged { base: self.base.clone(), layout: self.layout.clone(), parameters: to_vec(&self.parameters) }
    }

    /// The adapted matrices in a range of the model's flat vector, which has whole rows of them: each with
    /// the rows in the range. The decoder may read the rows of one stored matrix as several.
    fn within(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &AdaptedMatrix, Range<usize>)> {
        let first = self.layout.matrices.partition_point(|matrix| matrix.range().end <= range.start);
        let from_there = self.layout.matrices.iter().enumerate().skip(first);
        let Range { start, end } = range;
        from_there.take_while(move |(_, matrix)| matrix.range().start < end).map(move |(index, matrix)| {
            let (own, inputs) = (matrix.range(), matrix.entry.shape[1]);
            let row = |offset: usize| (offset - own.start) / inputs;
            (index, matrix, row(start.max(own.start))..row(end.min(own.end)))
        })
    }

    /// Whether it changes a matrix in this range of the flat vector.
    pub(super) fn changes(&self, range: Range<usize>) -> bool {
        self.within(range).next().is_some()
    }

    /// Whether its gradient can be computed from the inputs of products and d loss / d their outputs.
    pub(super) fn follows_products(&self) -> bool {
        self.layout.matrices.iter().all(|matrix| matrix.magnitude.is_none())
    }

    /// The adapter's gradient from `by_weights`, d loss / d whole matrices from `offset` on. With G the
    /// gradient of a merged matrix: d A = scale * B' G, d B = scale * G A'. For DoRA, the norm that divides
    /// the direction is a constant (arXiv:2402.09353, section 4.3): each row of G is multiplied by
    /// magnitude / norm.
    pub(super) fn gradient(&self, offset: usize, by_weights: &Tensor) -> Vec<PartGradient> {
        let by_weights = by_weights.reshape([-1]);
        let mut gradients = Vec::new();
        for (index, matrix, rows) in self.within(offset..offset + by_weights.numel()) {
            let inputs = matrix.entry.shape[1];
            let factors = self.factors(matrix).of_rows(&rows);
            let first = matrix.entry.offset + rows.start * inputs - offset;
            let shape = [rows.len() as i64, inputs as i64];
            let of_merged = part(&by_weights, first, &shape).to_kind(Kind::Float);
            let of_direction = match (matrix.magnitude, &factors.magnitude) {
                (Some(offset), Some(magnitude)) => {
                    let base = self.base(index).narrow(0, rows.start as i64, rows.len() as i64);
                    let direction = factors.direction(base);
                    let norms = norms(&direction);
                    let numbers = (&of_merged * &direction / &norms).sum_dim_intlist(
                        [1].as_slice(),
                        false,
                        Kind::Float,
                    );
                    gradients.push(PartGradient { offset: offset + rows.start, numbers, is_term: false });
                    of_merged * (magnitude / norms)
                }
                _ => of_merged,
            };
            let Factors { a, b, scale, .. } = factors;
            gradients.push(matrix.gradient_of_a(&rows, b.tr().matmul(&of_direction) * scale));
            gradients.push(matrix.gradient_of_b(&rows, of_direction.matmul(&a.tr()) * scale));
        }
        gradients
    }

    /// The same for LoRA without G = `grad_output' input`: from d loss / d outputs of the matrices from
    /// `offset` on, `[tokens, outputs of all]`, and their input, `[tokens, inputs]`.
    /// d A = scale * (grad_output B)' input, d B = scale * grad_output' (input A').
    pub(super) fn gradient_of_product(
        &self,
        offset: usize,
        grad_output: &Tensor,
        input: &Tensor,
    ) -> Vec<PartGradient> {
        assert!(self.follows_products(), "magnitudes ask for whole matrices");
        let (outputs, inputs) = (grad_output.size()[1], input.size()[1]);
        let input = input.to_kind(Kind::Float);
        let mut gradients = Vec::new();
        for (_, matrix, rows) in self.within(offset..offset + (outputs * inputs) as usize) {
            let first = (matrix.entry.offset + rows.start * inputs as usize - offset) as i64 / inputs;
            let grad_output = grad_output.narrow(1, first, rows.len() as i64).to_kind(Kind::Float);
            let Factors { a, b, scale, .. } = self.factors(matrix).of_rows(&rows);
            gradients.push(matrix.gradient_of_a(&rows, grad_output.matmul(&b).tr().matmul(&input) * scale));
            gradients
                .push(matrix.gradient_of_b(&rows, grad_output.tr().matmul(&input.matmul(&a.tr())) * scale));
        }
        gradients
    }
}

/// The adapter of one matrix, as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixAdapter {
    pub entry: ParameterEntry,
    pub rank: usize,
    /// The product of B and A is multiplied by alpha / rank.
    pub alpha: f64,
    /// `[rank, inputs]`
    pub a: Vec<f32>,
    /// `[outputs, rank]`
    pub b: Vec<f32>,
    /// `[outputs]`; absent for LoRA.
    pub magnitude: Option<Vec<f32>>,
}

/// A model with an adapter, as plain data.
#[derive(Debug)]
pub struct Merged {
    base: Arc<Weights>,
    layout: Arc<AdapterLayout>,
    parameters: Vec<f32>,
}

impl Merged {
    /// `adapters` are of matrices of the base, in the order of its layout.
    pub fn new(base: Arc<Weights>, adapters: Vec<MatrixAdapter>) -> Merged {
        let mut parameters: Vec<f32> = Vec::new();
        let mut matrices: Vec<AdaptedMatrix> = Vec::with_capacity(adapters.len());
        for MatrixAdapter { entry, rank, alpha, a, b, magnitude } in adapters {
            let (outputs, inputs) = (entry.shape[0], entry.shape[1]);
            assert_eq!((a.len(), b.len()), (rank * inputs, outputs * rank), "the adapter of another matrix");
            assert!(magnitude.as_ref().is_none_or(|all| all.len() == outputs), "magnitudes of other rows");
            assert!(matrices.last().is_none_or(|last| last.entry.offset < entry.offset), "another order");
            let mut append = |values: Vec<f32>| {
                let offset = parameters.len();
                parameters.extend(values);
                offset
            };
            let (a, b, magnitude) = (append(a), append(b), magnitude.map(append));
            matrices.push(AdaptedMatrix { entry, rank, alpha, a, b, magnitude });
        }
        Merged { base, layout: Arc::new(AdapterLayout { matrices }), parameters }
    }

    pub fn base(&self) -> &Arc<Weights> {
        &self.base
    }

    /// The adapter of each matrix, in the order of the model's layout.
    pub fn adapters(&self) -> impl Iterator<Item = MatrixAdapter> {
        self.layout.matrices.iter().map(|matrix| {
            let AdaptedMatrix { entry, rank, alpha, a, b, magnitude } = matrix;
            let (outputs, inputs) = (entry.shape[0], entry.shape[1]);
            let part = |offset: usize, count: usize| self.parameters[offset..offset + count].to_vec();
            MatrixAdapter {
                entry: entry.clone(),
                rank: *rank,
                alpha: *alpha,
                a: part(*a, rank * inputs),
                b: part(*b, outputs * rank),
                magnitude: magnitude.map(|offset| part(offset, outputs)),
            }
        })
    }

    /// The changed matrices: the range in the flat vector, and the values.
    pub(super) fn changed(
        &self,
        among: impl Fn(&Range<usize>) -> bool,
    ) -> impl Iterator<Item = (Range<usize>, Vec<f32>)> {
        let matrices = self.layout.matrices.iter().filter(move |matrix| among(&matrix.range()));
        matrices.map(|matrix| (matrix.range(), self.numbers(matrix)))
    }

    /// The adapter of an entry; `None` where it has none.
    fn matrix(&self, entry: &ParameterEntry) -> Option<&AdaptedMatrix> {
        let matrices = &self.layout.matrices;
        let known = matrices.binary_search_by_key(&entry.offset, |matrix| matrix.entry.offset).ok()?;
        Some(&matrices[known])
    }

    /// Whether the adapter changes an entry.
    pub(super) fn changes(&self, entry: &ParameterEntry) -> bool {
        self.matrix(entry).is_some()
    }

    /// The values of an entry; `None` where the adapter does not change it.
    pub(super) fn of(&self, entry: &ParameterEntry) -> Option<Vec<f32>> {
        self.matrix(entry).map(|matrix| self.numbers(matrix))
    }

    fn numbers(&self, matrix: &AdaptedMatrix) -> Vec<f32> {
        let _guard = no_grad_guard();
        let factors = matrix.factors(|offset, shape| {
            let count = shape.iter().product::<i64>() as usize;
            Tensor::from_slice(&self.parameters[offset..offset + count]).view(shape)
        });
        let base = self.base.tensor(&matrix.entry, Kind::Float, Device::Cpu);
        to_vec(&factors.merged(base).view([-1]))
    }
}
