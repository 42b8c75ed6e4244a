//! The operations between attention's projections and attention itself: biases, the per-head normalisation
//! of queries and keys where a model has one, and rotary positions (arXiv:2104.09864), fused in one loop for
//! each direction.

use crate::Cpu;
use crate::causal_attention::AttentionHeads;
use crate::lanes::LANES;
use crate::thread_pool::DisjointSlices;
use crate::{Scalar, SimdKernel, with_cpu_features};

/// The operations on a token's projections, whose heads are in the order of [`AttentionHeads::projected`].
#[derive(Clone, Copy)]
pub struct QkvEpilogue<'a> {
    pub heads: AttentionHeads,
    /// One number for each of a token's projected numbers.
    pub bias: Option<&'a [f32]>,
    pub norm: Option<HeadNorm<'a>>,
    pub positions: Option<Positions<'a>>,
}

/// RMSNorm (arXiv:1910.07467) of each head separately.
#[derive(Clone, Copy)]
pub struct HeadNorm<'a> {
    /// Scales of queries, then of keys: `[2, width]`.
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

impl QkvEpilogue<'_> {
    /// Number of heads of queries and keys; values only get their bias.
    fn rotated(&self) -> usize {
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

/// Processes the outputs of the projections, `[tokens, AttentionHeads::projected]`. With a normalisation, its
/// input is stored in `read`.
pub(crate) fn forward<T: Scalar + Send + Sync>(
    cpu: Cpu,
    epilogue: &QkvEpilogue,
    projected: &[f32],
    read: Option<&mut [T]>,
    output: &mut [T],
) {
    let row = epilogue.heads.projected();
    assert!(
        output.len() == projected.len() && read.as_ref().is_none_or(|read| read.len() == projected.len())
    );
    assert!(epilogue.norm.is_none() || read.is_some(), "what a normalisation reads is kept");
    let (output, read) = (DisjointSlices::new(output), read.map(DisjointSlices::new));
    cpu.parallel(|worker| {
        let mut scratch = vec![0.0f32; epilogue.heads.width];
        for token in worker.range(projected.len() / row, 1) {
            let range = token * row..(token + 1) * row;
            // SAFETY: workers have tokens of their own.
            let (output, read) = unsafe {
                (output.slice_mut(range.clone()), read.as_ref().map(|read| read.slice_mut(range.clone())))
            };
            with_cpu_features(Forward {
                epilogue,
                token,
                projected: &projected[range],
                read,
                output,
                scratch: &mut scratch,
            });
        }
    });
}

/// One token.
struct Forward<'a, T> {
    epilogue: &'a QkvEpilogue<'a>,
    token: usize,
    projected: &'a [f32],
    read: Option<&'a mut [T]>,
    output: &'a mut [T],
    /// A buffer of a head's width.
    scratch: &'a mut [f32],
}

impl<T: Scalar> SimdKernel for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Forward { epilogue, token, projected, mut read, output, scratch } = self;
        let width = epilogue.heads.width;
        for (head, (projected, output)) in
            projected.chunks_exact(width).zip(output.chunks_exact_mut(width)).enumerate()
        {
            let place = head * width..(head + 1) * width;
            scratch.copy_from_slice(projected);
            if let Some(bias) = epilogue.bias {
                for (x, bias) in scratch.iter_mut().zip(&bias[place.clone()]) {
                    *x += bias;
                }
            }
            if head < epilogue.rotated() {
                if let (Some(HeadNorm { epsilon, .. }), Some(scale), Some(read)) =
                    (epilogue.norm, epilogue.scale(head), &mut read)
                {
                    // Rounds to the stored precision, which is what the backward pass will read.
                    for (x, kept) in scratch.iter_mut().zip(&mut read[place]) {
                        *kept = T::from_f32(*x);
                        *x = kept.as_f32();
                    }
                    let factor = factor(scratch, epsilon);
                    for (x, scale) in scratch.iter_mut().zip(scale) {
                        *x *= factor * scale;
                    }
                }
                if let Some([cosine, sine]) = epilogue.angles(token) {
                    let ((first, second), half) = (scratch.split_at(width / 2), width / 2);
                    let (to_first, to_second) = output.split_at_mut(half);
                    for at in 0..half {
                        to_first[at] = T::from_f32(first[at] * cosine[at] + second[at] * sine[at]);
                        to_second[at] =
                            T::from_f32(second[at] * cosine[half + at] + first[at] * sine[half + at]);
                    }
                    continue;
                }
            }
            for (to, x) in output.iter_mut().zip(scratch.iter()) {
                *to = T::from_f32(*x);
            }
        }
    }
}

/// The inverse of the head's root mean square.
#[inline(always)]
fn factor(head: &[f32], epsilon: f32) -> f32 {
    let mut squares = [0.0f32; LANES];
    for chunk in head.chunks(LANES) {
        for (x, square) in chunk.iter().zip(&mut squares) {
            *square += x * x;
        }
    }
    1.0 / (squares.iter().sum::<f32>() / head.len() as f32 + epsilon).sqrt()
}

/// The backward pass of a head normalisation.
pub struct HeadNormGrad<'a, T> {
    /// What [`forward`] stored.
    pub read: &'a [T],
    /// Gets d loss / d scales per token: `[tokens, 2, width]`.
    pub grad_scales: &'a mut [f32],
}

/// From d loss / d output: d loss / d projected, in place in single precision, and rounded to the type of
/// matrix products in `grad_projected`.
pub(crate) fn backward<T: Scalar + Send + Sync>(
    cpu: Cpu,
    epilogue: &QkvEpilogue,
    grad_output: &mut [f32],
    norm: Option<HeadNormGrad<T>>,
    grad_projected: &mut [T],
) {
    let (row, scales) = (epilogue.heads.projected(), 2 * epilogue.heads.width);
    let tokens = grad_output.len() / row;
    assert!(grad_projected.len() == grad_output.len() && epilogue.norm.is_some() == norm.is_some());
    assert!(
        norm.as_ref()
            .is_none_or(|norm| norm.read.len() == tokens * row && norm.grad_scales.len() == tokens * scales)
    );
    let (grad_output, grad_projected) =
        (DisjointSlices::new(grad_output), DisjointSlices::new(grad_projected));
    let norm = norm.map(|HeadNormGrad { read, grad_scales }| (read, DisjointSlices::new(grad_scales)));
    cpu.parallel(|worker| {
        let mut scratch = vec![0.0f32; epilogue.heads.width];
        for token in worker.range(tokens, 1) {
            let range = token * row..(token + 1) * row;
            // SAFETY: workers have tokens of their own.
            let (grad_output, grad_projected) =
                unsafe { (grad_output.slice_mut(range.clone()), grad_projected.slice_mut(range.clone())) };
            let norm = norm.as_ref().map(|(read, grad_scales)| {
                let of_token = token * scales..(token + 1) * scales;
                // SAFETY: as above.
                let grad_scales = unsafe { grad_scales.slice_mut(of_token) };
                HeadNormGrad { read: &read[range.clone()], grad_scales }
            });
            with_cpu_features(Backward {
                epilogue,
                token,
                grad_output,
                norm,
                grad_projected,
                scratch: &mut scratch,
            });
        }
    });
}

/// One token.
struct Backward<'a, T> {
    epilogue: &'a QkvEpilogue<'a>,
    token: usize,
    grad_output: &'a mut [f32],
    norm: Option<HeadNormGrad<'a, T>>,
    grad_projected: &'a mut [T],
    scratch: &'a mut [f32],
}

impl<T: Scalar> SimdKernel for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Backward { epilogue, token, grad_output, mut norm, grad_projected, scratch } = self;
        let (width, half) = (epilogue.heads.width, epilogue.heads.width / 2);
        if let Some(norm) = &mut norm {
            norm.grad_scales.fill(0.0);
        }
        for (head, grad_head) in grad_output.chunks_exact_mut(width).enumerate().take(epilogue.rotated()) {
            if let Some([cosine, sine]) = epilogue.angles(token) {
                let (first, second) = grad_head.split_at_mut(half);
                for at in 0..half {
                    let (grad_first, grad_second) = (first[at], second[at]);
                    first[at] = grad_first * cosine[at] + grad_second * sine[half + at];
                    second[at] = grad_second * cosine[half + at] + grad_first * sine[at];
                }
            }
            let (Some(HeadNorm { epsilon, .. }), Some(scale), Some(HeadNormGrad { read, grad_scales })) =
                (epilogue.norm, epilogue.scale(head), &mut norm)
            else {
                continue;
            };
            for (x, read) in scratch.iter_mut().zip(&read[head * width..(head + 1) * width]) {
                *x = read.as_f32();
            }
            let factor = factor(scratch, epsilon);
            let along: f32 =
                scratch.iter().zip(scale).zip(grad_head.iter()).map(|((x, scale), by)| x * scale * by).sum();
            let shrink = along / width as f32 * factor * factor * factor;
            let row = if head < epilogue.heads.heads { 0 } else { width };
            let grad_scale = &mut grad_scales[row..row + width];
            for (((x, scale), by), grad_scale) in
                scratch.iter().zip(scale).zip(grad_head.iter_mut()).zip(grad_scale)
            {
                *grad_scale += *by * x * factor;
                *by = *by * scale * factor - x * shrink;
            }
        }
        for (to, by) in grad_projected.iter_mut().zip(grad_output.iter()) {
            *to = T::from_f32(*by);
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
        let heads = AttentionHeads { heads: 4, groups: 2, width: 6, scale: 1.0, window: usize::MAX };
        let (tokens, row, width) = (5, heads.projected(), heads.width as i64);
        let (projected, grad_output) = (wave(tokens * row, 0.1), wave(tokens * row, 0.9));
        let (bias, scales) = (wave(row, 0.5), wave(2 * heads.width, 1.1));
        let (cosine, sine) = (wave(tokens * heads.width, 0.2), wave(tokens * heads.width, 0.7));
        for (with_bias, with_norm, with_positions) in
            [(false, false, true), (true, true, true), (false, true, false)]
        {
            let epilogue = QkvEpilogue {
                heads,
                bias: with_bias.then_some(bias.as_slice()),
                norm: with_norm.then_some(HeadNorm { scales: &scales, epsilon: 0.01 }),
                positions: with_positions.then_some(Positions { cosine: &cosine, sine: &sine }),
            };
            let leaf = double(&projected, &[tokens as i64, -1]).set_requires_grad(true);
            let grad_scales = double(&scales, &[2, width]).set_requires_grad(true);
            let mut x = leaf.view([tokens as i64, -1, width]);
            if with_bias {
                x = double(&bias, &[-1, width]) + x;
            }
            let (mut rotated, values) = (x.narrow(1, 0, 6), x.narrow(1, 6, 2));
            if with_norm {
                let scale =
                    grad_scales.repeat_interleave_self_tensor(&Tensor::from_slice(&[4i64, 2]), 0, None);
                let mean = rotated.square().mean_dim([-1i64].as_slice(), true, Kind::Double);
                rotated = &rotated / (mean + 0.01).sqrt() * scale;
            }
            if with_positions {
                let table = |values: &[f32]| double(values, &[tokens as i64, 1, width]);
                rotated = &rotated * table(&cosine) + rotated.roll([width / 2], [-1]) * table(&sine);
            }
            let expected = Tensor::cat(&[rotated, values], 1);
            let loss = (&expected * double(&grad_output, &[tokens as i64, -1, width])).sum(None::<Kind>);
            let leaves: Vec<&Tensor> = if with_norm { vec![&leaf, &grad_scales] } else { vec![&leaf] };
            let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
            for cpu in [1, 3].map(Cpu::new) {
                let (mut read, mut output) = (vec![0.0f32; projected.len()], vec![0.0f32; projected.len()]);
                forward(cpu, &epilogue, &projected, with_norm.then_some(read.as_mut_slice()), &mut output);
                close(&output, &expected.detach());
                let (mut by, mut sums) = (grad_output.clone(), vec![7.0f32; tokens * 2 * heads.width]);
                let mut grad_projected = vec![0.0f32; by.len()];
                let norm = with_norm.then_some(HeadNormGrad { read: &read, grad_scales: &mut sums });
                backward(cpu, &epilogue, &mut by, norm, &mut grad_projected);
                close(&grad_projected, &gradients[0]);
                assert_eq!(by, grad_projected);
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
                    close(&sums, &gradients[1]);
                }
            }
        }
    }
}
