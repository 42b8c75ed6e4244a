//! d loss / d parameters.

use std::ops::Range;
use std::rc::Rc;

use tch::{Kind, Tensor, no_grad_guard};

use super::adapter::{Adapted, PartGradient};
use crate::machine::place::Place;

/// A vector in the order of the parameters, in pieces that are allocated when they are first written. During
/// the backward pass, the gradient grows while the layers' saved activations are freed: pieces reuse their
/// memory, where one tensor would need its own.
pub struct Gradient {
    length: usize,
    kind: Kind,
    pub place: Place,
    /// Whether writes add to what is there.
    adds: bool,
    of: GradientOf,
    /// Elements of a piece; the last one may have fewer.
    piece: usize,
    pieces: Vec<Option<Tensor>>,
}

/// The parameters that a gradient is of.
#[derive(Clone)]
pub enum GradientOf {
    /// All of a model's parameters.
    All,
    /// Those in some ranges: other pieces are neither written nor allocated.
    Ranges(Vec<Range<usize>>),
    /// Those of an adapter. Written gradients of the model's matrices are converted to these.
    Adapter(Rc<Adapted>),
}

impl Gradient {
    /// A gradient whose elements are each written once.
    pub fn zero(length: usize, kind: Kind, place: Place) -> Gradient {
        Gradient {
            length,
            kind,
            place,
            adds: false,
            of: GradientOf::All,
            piece: place.sizes.piece,
            pieces: (0..length.div_ceil(place.sizes.piece)).map(|_| None).collect(),
        }
    }

    /// A gradient whose writes add up, in single precision: a sum of half-precision parts needs more digits.
    pub fn sum(length: usize, kind: Kind, place: Place) -> Gradient {
        let kind = if kind == Kind::BFloat16 { Kind::Float } else { kind };
        Gradient { adds: true, ..Gradient::zero(length, kind, place) }
    }

    /// A gradient from a complete vector.
    pub fn whole(vector: Tensor, place: Place) -> Gradient {
        let (length, kind) = (vector.numel(), vector.kind());
        Gradient {
            length,
            kind,
            place,
            adds: false,
            of: GradientOf::All,
            piece: length.max(1),
            pieces: vec![Some(vector)],
        }
    }

    /// The same for other parameters; an adapter must have as many as the gradient's length.
    pub fn of(self, of: GradientOf) -> Gradient {
        if let GradientOf::Adapter(adapted) = &of {
            assert_eq!(self.length, adapted.parameters().numel(), "a gradient of the adapter's parts");
        }
        Gradient { of, ..self }
    }

    /// Whether the gradient of some of the model's parameters is needed.
    pub fn wants(&self, range: Range<usize>) -> bool {
        match &self.of {
            GradientOf::All => true,
            GradientOf::Ranges(ranges) => {
                ranges.iter().any(|only| only.start < range.end && range.start < only.end)
            }
            GradientOf::Adapter(adapted) => adapted.changes(range),
        }
    }

    /// Whether gradients of products are written without the whole matrix: [`Gradient::write_product`].
    pub(super) fn follows_products(&self) -> bool {
        matches!(&self.of, GradientOf::Adapter(adapted) if adapted.follows_products())
    }

    /// The sum with another of the same parameters.
    pub fn plus(self, other: Gradient) -> Gradient {
        let mut sum = match self.kind {
            Kind::BFloat16 => Gradient::sum(self.length, self.kind, self.place).plus_pieces(self),
            _ => Gradient { adds: true, ..self },
        };
        assert_eq!(sum.length, other.length, "gradients of the same parameters");
        sum = sum.plus_pieces(other);
        sum
    }

    fn plus_pieces(mut self, other: Gradient) -> Gradient {
        for (range, numbers) in other.into_pieces() {
            self.write(range.start, &numbers);
        }
        self
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.length
    }

    fn bounds(&self, index: usize) -> Range<usize> {
        index * self.piece..((index + 1) * self.piece).min(self.length)
    }

    /// The pieces that a range is in, with the range within each.
    fn within(&self, range: &Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let (piece, range) = (self.piece, range.clone());
        let pieces = if range.is_empty() { 0..0 } else { range.start / piece..range.end.div_ceil(piece) };
        pieces.map(move |index| {
            let first = index * piece;
            (index, range.start.max(first) - first..range.end.min(first + piece) - first)
        })
    }

    /// Writes d loss / d parameters of the model from `offset` on, as whole matrices.
    pub(super) fn write_parameters(&mut self, offset: usize, numbers: &Tensor) {
        let _guard = no_grad_guard();
        let GradientOf::Adapter(adapted) = &self.of else { return self.write(offset, numbers) };
        for PartGradient { offset, numbers, is_term } in adapted.clone().gradient(offset, numbers) {
            self.write_as(offset, &numbers, self.adds || is_term);
        }
    }

    /// Writes d loss / d matrices of the model from `offset` on, which is `grad_output' input`, from d loss /
    /// d their outputs, `[tokens, outputs]`, and their input, `[tokens, inputs]`. Only where it
    /// [`follows_products`](Self::follows_products).
    pub(super) fn write_product(&mut self, offset: usize, grad_output: &Tensor, input: &Tensor) {
        let _guard = no_grad_guard();
        let GradientOf::Adapter(adapted) = &self.of else { unreachable!("it follows products") };
        let parts = adapted.clone().gradient_of_product(offset, grad_output, input);
        for PartGradient { offset, numbers, is_term } in parts {
            self.write_as(offset, &numbers, self.adds || is_term);
        }
    }

    /// Writes elements from `offset` on.
    pub fn write(&mut self, offset: usize, numbers: &Tensor) {
        self.write_as(offset, numbers, self.adds);
    }

    /// Writes elements, or adds them to what is there.
    fn write_as(&mut self, offset: usize, numbers: &Tensor, adds: bool) {
        let _guard = no_grad_guard();
        let numbers = numbers.reshape([-1]);
        let mut done = 0;
        for (index, part) in self.within(&(offset..offset + numbers.numel())) {
            let count = part.len() as i64;
            let bounds = self.bounds(index);
            let piece = self.pieces[index].get_or_insert_with(|| {
                let whole = part.len() == bounds.len() && !adds;
                let make = if whole { Tensor::empty } else { Tensor::zeros };
                make([bounds.len() as i64], (self.kind, self.place.device))
            });
            let (mut place, numbers) =
                (piece.narrow(0, part.start as i64, count), numbers.narrow(0, done, count));
            if adds {
                place += numbers;
            } else {
                place.copy_(&numbers);
            }
            done += count;
        }
    }

    /// A copy of a range.
    pub fn part(&self, range: Range<usize>) -> Tensor {
        let _guard = no_grad_guard();
        let parts = self.within(&range).map(|(index, part)| match &self.pieces[index] {
            Some(piece) => piece.narrow(0, part.start as i64, part.len() as i64),
            None => Tensor::zeros([part.len() as i64], (self.kind, self.place.device)),
        });
        let parts: Vec<Tensor> = parts.collect();
        if parts.is_empty() {
            Tensor::empty([0], (self.kind, self.place.device))
        } else {
            Tensor::cat(&parts, 0)
        }
    }

    /// All pieces in order, each with its range.
    pub fn into_pieces(self) -> impl Iterator<Item = (Range<usize>, Tensor)> {
        let kind = (self.kind, self.place.device);
        let bounds: Vec<Range<usize>> = (0..self.pieces.len()).map(|index| self.bounds(index)).collect();
        let zeros = move |count: usize| Tensor::zeros([count as i64], kind);
        bounds.into_iter().zip(self.pieces).map(move |(bounds, piece)| {
            let piece = piece.unwrap_or_else(|| zeros(bounds.len()));
            (bounds, piece)
        })
    }

    /// The pieces that were written.
    pub fn written(&self) -> impl Iterator<Item = &Tensor> {
        self.pieces.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::machine::transfer::to_vec;

    /// A place with pieces of `piece` elements.
    fn place(piece: usize) -> Place {
        let mut place = Place::cpu();
        place.sizes.piece = piece;
        place
    }

    #[test]
    fn pieces_are_one_vector() {
        let numbers =
            |first: i64, count: i64| Tensor::arange_start(first, first + count, (Kind::Float, Device::Cpu));
        let mut gradient = Gradient::zero(23, Kind::Float, place(5));
        let mut expected = [0.0; 23];
        for (offset, shape) in [(21, [1, 2]), (3, [3, 2]), (15, [5, 1]), (11, [1, 0])] {
            let count = shape[0] * shape[1];
            gradient.write(offset, &numbers(100 + offset as i64, count).view(shape));
            (0..count as usize).for_each(|at| expected[offset + at] = (100 + offset + at) as f32);
        }
        assert_eq!(gradient.written().count(), 4);
        for range in [0..23, 4..4, 2..12, 13..14, 20..23] {
            assert_eq!(to_vec(&gradient.part(range.clone())), expected[range.clone()], "{range:?}");
        }
        let mut sum = Gradient { adds: true, ..gradient };
        sum.write(9, &numbers(1, 3).to_kind(Kind::BFloat16));
        sum.write(9, &numbers(1, 3));
        (0..3).for_each(|at| expected[9 + at] += 2.0 * (1 + at) as f32);
        let mut end = 0;
        for (range, piece) in sum.into_pieces() {
            assert_eq!((range.start, piece.kind()), (end, Kind::Float));
            assert_eq!(to_vec(&piece), expected[range.clone()]);
            end = range.end;
        }
        assert_eq!(end, 23);
        assert_eq!(to_vec(&Gradient::whole(numbers(0, 4), Place::cpu()).part(1..3)), [1.0, 2.0]);
    }

    /// Where one gradient has no piece, the other's stays; the sum of halves is in single precision.
    #[test]
    fn gradients_add_up() {
        let piece = |kind, offset, numbers: &[f32]| {
            let mut gradient = Gradient::zero(7, kind, place(2));
            gradient.write(offset, &Tensor::from_slice(numbers));
            gradient
        };
        for kind in [Kind::Float, Kind::BFloat16] {
            let sum = piece(kind, 1, &[1.0, 256.0]).plus(piece(kind, 2, &[1.0, 5.0]));
            assert_eq!(to_vec(&sum.part(0..7)), [0.0, 1.0, 257.0, 5.0, 0.0, 0.0, 0.0], "{kind:?}");
        }
    }
}
