//! What stands between the projections of attention and attention itself: biases, the normalisation of
//! queries and keys head by head where a model has one, and positions (arXiv:2104.09864), in one loop each
//! way.

use crate::causal::Heads;
use crate::crew::{Parts, together};
use crate::{Loop, Stored, with_instructions};

/// What happens to a token's projections. Numbers of a token stand together, heads as in
/// [`Heads::projected`].
#[derive(Clone, Copy)]
pub struct Between<'a> {
    pub heads: Heads,
    /// One number for each of a token's.
    pub bias: Option<&'a [f32]>,
    pub norm: Option<HeadNorm<'a>>,
    pub positions: Option<Positions<'a>>,
}

/// RMSNorm (arXiv:1910.07467) of each head by itself.
#[derive(Clone, Copy)]
pub struct HeadNorm<'a> {
    /// Of queries, then of keys: `[2, width]`.
    pub scales: &'a [f32],
    pub epsilon: f32,
}

/// `[tokens, width]` each, in the layout of the runtime's rotary tables: x becomes x * cosine + (x with
/// its halves swapped) * sine.
#[derive(Clone, Copy)]
pub struct Positions<'a> {
    pub cosine: &'a [f32],
    pub sine: &'a [f32],
}

impl Between<'_> {
    /// Queries and keys; values only get their bias.
    fn turned(&self) -> usize {
        self.heads.heads + self.heads.groups
    }

    fn scale(&self, head: usize) -> Option<&[f32]> {
        let HeadNorm { scales, .. } = self.norm?;
        let (queries, keys) = scales.split_at(self.heads.width);
        Some(if head < self.heads.heads { queries } else { keys })
    }

    fn angles(&self, token: usize) -> Option<[&[f32]; 2]> {
        let Positions { cosine, sine } = self.positions?;
        let range = token * self.heads.width..(token + 1) * self.heads.width;
        Some([&cosine[range.clone()], &sine[range]])
    }
}

/// From what the projections answer, `[tokens, Heads::projected]`. What the normalisation reads is kept where
/// there is one, in `read`.
pub fn forward<T: Stored + Send + Sync>(
    threads: usize,
    between: &Between,
    projected: &[f32],
    read: Option<&mut [T]>,
    answer: &mut [T],
) {
    let row = between.heads.projected();
    assert!(
        answer.len() == projected.len() && read.as_ref().is_none_or(|read| read.len() == projected.len())
    );
    assert!(between.norm.is_none() || read.is_some(), "what a normalisation reads is kept");
    let (answer, read) = (Parts::new(answer), read.map(Parts::new));
    together(threads, |member| {
        let mut scratch = vec![0.0f32; between.heads.width];
        for token in member.part(projected.len() / row, 1) {
            let range = token * row..(token + 1) * row;
            // SAFETY: members have tokens of their own.
            let (answer, read) =
                unsafe { (answer.part(range.clone()), read.as_ref().map(|read| read.part(range.clone()))) };
            with_instructions(Forward {
                between,
                token,
                projected: &projected[range],
                read,
                answer,
                scratch: &mut scratch,
            });
        }
    });
}

/// One token.
struct Forward<'a, T> {
    between: &'a Between<'a>,
    token: usize,
    projected: &'a [f32],
    read: Option<&'a mut [T]>,
    answer: &'a mut [T],
    /// Of a head's width.
    scratch: &'a mut [f32],
}

impl<T: Stored> Loop for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Forward { between, token, projected, mut read, answer, scratch } = self;
        let width = between.heads.width;
        for (head, (projected, answer)) in
            projected.chunks_exact(width).zip(answer.chunks_exact_mut(width)).enumerate()
        {
            let place = head * width..(head + 1) * width;
            scratch.copy_from_slice(projected);
            if let Some(bias) = between.bias {
                for (x, bias) in scratch.iter_mut().zip(&bias[place.clone()]) {
                    *x += bias;
                }
            }
            if head < between.turned() {
                if let (Some(HeadNorm { epsilon, .. }), Some(scale), Some(read)) =
                    (between.norm, between.scale(head), &mut read)
                {
                    // The backward pass has the numbers as they are stored: so does this one.
                    for (x, kept) in scratch.iter_mut().zip(&mut read[place]) {
                        *kept = T::of(*x);
                        *x = kept.single();
                    }
                    let factor = factor(scratch, epsilon);
                    for (x, scale) in scratch.iter_mut().zip(scale) {
                        *x *= factor * scale;
                    }
                }
                if let Some([cosine, sine]) = between.angles(token) {
                    let ((first, second), half) = (scratch.split_at(width / 2), width / 2);
                    let (to_first, to_second) = answer.split_at_mut(half);
                    for at in 0..half {
                        to_first[at] = T::of(first[at] * cosine[at] + second[at] * sine[at]);
                        to_second[at] = T::of(second[at] * cosine[half + at] + first[at] * sine[half + at]);
                    }
                    continue;
                }
            }
            for (to, x) in answer.iter_mut().zip(scratch.iter()) {
                *to = T::of(*x);
            }
        }
    }
}

/// What a head is divided by, inverted.
#[inline(always)]
fn factor(head: &[f32], epsilon: f32) -> f32 {
    const LANES: usize = 16;
    let mut squares = [0.0f32; LANES];
    for chunk in head.chunks(LANES) {
        for (x, square) in chunk.iter().zip(&mut squares) {
            *square += x * x;
        }
    }
    1.0 / (squares.iter().sum::<f32>() / head.len() as f32 + epsilon).sqrt()
}

/// From d loss / d answer: d loss / d projected, in its place in single precision and, as products read it,
/// in `by_projected`. With a normalisation, `read` is what [`forward`] kept, and `by_scales` becomes d loss /
/// d scales, token by token: `[tokens, 2, width]`.
pub fn backward<T: Stored + Send + Sync>(
    threads: usize,
    between: &Between,
    by_answer: &mut [f32],
    norm: Option<(&[T], &mut [f32])>,
    by_projected: &mut [T],
) {
    let (row, scales) = (between.heads.projected(), 2 * between.heads.width);
    let tokens = by_answer.len() / row;
    assert!(by_projected.len() == by_answer.len() && between.norm.is_some() == norm.is_some());
    assert!(
        norm.as_ref()
            .is_none_or(|(read, by_scales)| read.len() == tokens * row && by_scales.len() == tokens * scales)
    );
    let (by_answer, by_projected) = (Parts::new(by_answer), Parts::new(by_projected));
    let norm = norm.map(|(read, by_scales)| (read, Parts::new(by_scales)));
    together(threads, |member| {
        let mut scratch = vec![0.0f32; between.heads.width];
        for token in member.part(tokens, 1) {
            let range = token * row..(token + 1) * row;
            // SAFETY: members have tokens of their own.
            let (by_answer, by_projected) =
                unsafe { (by_answer.part(range.clone()), by_projected.part(range.clone())) };
            let norm = norm.as_ref().map(|(read, by_scales)| {
                // SAFETY: as above.
                (&read[range.clone()], unsafe { by_scales.part(token * scales..(token + 1) * scales) })
            });
            with_instructions(Backward {
                between,
                token,
                by_answer,
                norm,
                by_projected,
                scratch: &mut scratch,
            });
        }
    });
}

/// One token.
struct Backward<'a, T> {
    between: &'a Between<'a>,
    token: usize,
    by_answer: &'a mut [f32],
    norm: Option<(&'a [T], &'a mut [f32])>,
    by_projected: &'a mut [T],
    scratch: &'a mut [f32],
}

impl<T: Stored> Loop for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Backward { between, token, by_answer, mut norm, by_projected, scratch } = self;
        let (width, half) = (between.heads.width, between.heads.width / 2);
        if let Some((_, by_scales)) = &mut norm {
            by_scales.fill(0.0);
        }
        for (head, by_head) in by_answer.chunks_exact_mut(width).enumerate().take(between.turned()) {
            if let Some([cosine, sine]) = between.angles(token) {
                let (first, second) = by_head.split_at_mut(half);
                for at in 0..half {
                    let (by_first, by_second) = (first[at], second[at]);
                    first[at] = by_first * cosine[at] + by_second * sine[half + at];
                    second[at] = by_second * cosine[half + at] + by_first * sine[at];
                }
            }
            let (Some(HeadNorm { epsilon, .. }), Some(scale), Some((read, by_scales))) =
                (between.norm, between.scale(head), &mut norm)
            else {
                continue;
            };
            for (x, read) in scratch.iter_mut().zip(&read[head * width..(head + 1) * width]) {
                *x = read.single();
            }
            let factor = factor(scratch, epsilon);
            let along: f32 =
                scratch.iter().zip(scale).zip(by_head.iter()).map(|((x, scale), by)| x * scale * by).sum();
            let shrink = along / width as f32 * factor * factor * factor;
            let row = if head < between.heads.heads { 0 } else { width };
            let by_scale = &mut by_scales[row..row + width];
            for (((x, scale), by), by_scale) in
                scratch.iter().zip(scale).zip(by_head.iter_mut()).zip(by_scale)
            {
                *by_scale += *by * x * factor;
                *by = *by * scale * factor - x * shrink;
            }
        }
        for (to, by) in by_projected.iter_mut().zip(by_answer.iter()) {
            *to = T::of(*by);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    fn wave(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|index| ((index as f32) * 0.37 + seed).sin() * 2.0).collect()
    }

    fn double(values: &[f32], shape: &[i64]) -> Tensor {
        Tensor::from_slice(values).to_kind(Kind::Double).view(shape)
    }

    fn close(got: &[f32], expected: &Tensor) {
        let expected = Vec::<f64>::try_from(expected.contiguous().view([-1])).unwrap();
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 2e-5, "{got} {expected}");
        }
    }

    /// Against libtorch's derivatives in double precision, with and without each part.
    #[test]
    fn all_parts_and_their_derivatives_are_those_of_the_definition() {
        let heads = Heads { heads: 4, groups: 2, width: 6, scale: 1.0, window: usize::MAX };
        let (tokens, row, width) = (5, heads.projected(), heads.width as i64);
        let (projected, by_answer) = (wave(tokens * row, 0.1), wave(tokens * row, 0.9));
        let (bias, scales) = (wave(row, 0.5), wave(2 * heads.width, 1.1));
        let (cosine, sine) = (wave(tokens * heads.width, 0.2), wave(tokens * heads.width, 0.7));
        for (with_bias, with_norm, with_positions) in
            [(false, false, true), (true, true, true), (false, true, false)]
        {
            let between = Between {
                heads,
                bias: with_bias.then_some(bias.as_slice()),
                norm: with_norm.then_some(HeadNorm { scales: &scales, epsilon: 0.01 }),
                positions: with_positions.then_some(Positions { cosine: &cosine, sine: &sine }),
            };
            let leaf = double(&projected, &[tokens as i64, -1]).set_requires_grad(true);
            let by_scales = double(&scales, &[2, width]).set_requires_grad(true);
            let mut x = leaf.view([tokens as i64, -1, width]);
            if with_bias {
                x = double(&bias, &[-1, width]) + x;
            }
            let (mut turned, values) = (x.narrow(1, 0, 6), x.narrow(1, 6, 2));
            if with_norm {
                let scale = by_scales.repeat_interleave_self_tensor(&Tensor::from_slice(&[4i64, 2]), 0, None);
                let mean = turned.square().mean_dim([-1i64].as_slice(), true, Kind::Double);
                turned = &turned / (mean + 0.01).sqrt() * scale;
            }
            if with_positions {
                let table = |values: &[f32]| double(values, &[tokens as i64, 1, width]);
                turned = &turned * table(&cosine) + turned.roll([width / 2], [-1]) * table(&sine);
            }
            let expected = Tensor::cat(&[turned, values], 1);
            let loss = (&expected * double(&by_answer, &[tokens as i64, -1, width])).sum(None::<Kind>);
            let leaves: Vec<&Tensor> = if with_norm { vec![&leaf, &by_scales] } else { vec![&leaf] };
            let slopes = Tensor::run_backward(&[loss], &leaves, false, false);
            for threads in [1, 3] {
                let (mut read, mut answer) = (vec![0.0f32; projected.len()], vec![0.0f32; projected.len()]);
                forward(threads, &between, &projected, with_norm.then_some(read.as_mut_slice()), &mut answer);
                close(&answer, &expected.detach());
                let (mut by, mut sums) = (by_answer.clone(), vec![7.0f32; tokens * 2 * heads.width]);
                let mut by_projected = vec![0.0f32; by.len()];
                let norm = with_norm.then_some((read.as_slice(), sums.as_mut_slice()));
                backward(threads, &between, &mut by, norm, &mut by_projected);
                close(&by_projected, &slopes[0]);
                assert_eq!(by, by_projected);
                if with_norm {
                    let sums = double(&sums, &[tokens as i64, 2, width]).sum_dim_intlist(
                        [0i64].as_slice(),
                        false,
                        Kind::Double,
                    );
                    let sums: Vec<f32> = Vec::<f64>::try_from(sums.view([-1]))
                        .unwrap()
                        .iter()
                        .map(|sum| *sum as f32)
                        .collect();
                    close(&sums, &slopes[1]);
                }
            }
        }
    }
}
