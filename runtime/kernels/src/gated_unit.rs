//! Elementwise passes between the matrix products of a gated linear unit, and RMSNorm's backward pass: each
//! number is read and written once, and computed in single precision for any storage type.

use crate::Cpu;
use crate::functions::Activation;
use crate::lanes::LANES;
use crate::thread_pool::DisjointSlices;
use crate::{Scalar, SimdKernel, with_cpu_features};

/// From rows of `[gate, up]`, `2 * inner` each: stores them in `kept`, and activation(gate) * up, `inner`
/// each, in `product`.
pub(crate) fn forward<T: Scalar + Send + Sync>(
    cpu: Cpu,
    activation: Activation,
    inner: usize,
    gate_up: &[f32],
    kept: &mut [T],
    product: &mut [T],
) {
    let rows = gate_up.len() / (2 * inner);
    assert!(kept.len() == gate_up.len() && product.len() == rows * inner);
    let (kept, product) = (DisjointSlices::new(kept), DisjointSlices::new(product));
    cpu.parallel(|worker| {
        for row in worker.range(rows, 1) {
            let both = row * 2 * inner..(row + 1) * 2 * inner;
            // SAFETY: workers have rows of their own.
            let (kept, product) =
                unsafe { (kept.slice_mut(both.clone()), product.slice_mut(row * inner..(row + 1) * inner)) };
            let (gate, up) = gate_up[both].split_at(inner);
            let (kept_gate, kept_up) = kept.split_at_mut(inner);
            with_cpu_features(Forward { activation, gate, up, kept_gate, kept_up, product });
        }
    });
}

/// One row.
struct Forward<'a, T> {
    activation: Activation,
    gate: &'a [f32],
    up: &'a [f32],
    kept_gate: &'a mut [T],
    kept_up: &'a mut [T],
    product: &'a mut [T],
}

impl<T: Scalar> SimdKernel for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        // The match is outside of the loop, so that it is not evaluated for every number.
        match self.activation {
            Activation::Silu => self.all(Activation::Silu),
            Activation::Gelu => self.all(Activation::Gelu),
        }
    }
}

impl<T: Scalar> Forward<'_, T> {
    #[inline(always)]
    fn all(self, activation: Activation) {
        let kept = self.kept_gate.iter_mut().zip(self.kept_up);
        for (((gate, up), (kept_gate, kept_up)), product) in
            self.gate.iter().zip(self.up).zip(kept).zip(self.product)
        {
            (*kept_gate, *kept_up) = (T::from_f32(*gate), T::from_f32(*up));
            *product = T::from_f32(activation.at(*gate).0 * up);
        }
    }
}

/// From `kept` of [`forward`] and d loss / d product: recomputes the product, and d loss / d `[gate, up]`.
pub(crate) fn backward<T: Scalar + Send + Sync>(
    cpu: Cpu,
    activation: Activation,
    inner: usize,
    kept: &[T],
    grad_product: &[f32],
    product: &mut [T],
    grad_gate_up: &mut [T],
) {
    let rows = kept.len() / (2 * inner);
    assert!(
        grad_gate_up.len() == kept.len()
            && product.len() == rows * inner
            && grad_product.len() == product.len()
    );
    let (product, grad_gate_up) = (DisjointSlices::new(product), DisjointSlices::new(grad_gate_up));
    cpu.parallel(|worker| {
        for row in worker.range(rows, 1) {
            let (one, both) = (row * inner..(row + 1) * inner, row * 2 * inner..(row + 1) * 2 * inner);
            // SAFETY: workers have rows of their own.
            let (product, grad_both) =
                unsafe { (product.slice_mut(one.clone()), grad_gate_up.slice_mut(both.clone())) };
            let ((gate, up), grad_product) = (kept[both].split_at(inner), &grad_product[one]);
            let (grad_gate, grad_up) = grad_both.split_at_mut(inner);
            with_cpu_features(Backward { activation, gate, up, grad_product, product, grad_gate, grad_up });
        }
    });
}

/// One row.
struct Backward<'a, T> {
    activation: Activation,
    gate: &'a [T],
    up: &'a [T],
    grad_product: &'a [f32],
    product: &'a mut [T],
    grad_gate: &'a mut [T],
    grad_up: &'a mut [T],
}

impl<T: Scalar> SimdKernel for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        match self.activation {
            Activation::Silu => self.all(Activation::Silu),
            Activation::Gelu => self.all(Activation::Gelu),
        }
    }
}

impl<T: Scalar> Backward<'_, T> {
    #[inline(always)]
    fn all(self, activation: Activation) {
        let given = self.gate.iter().zip(self.up).zip(self.grad_product);
        let outputs = self.product.iter_mut().zip(self.grad_gate.iter_mut().zip(self.grad_up));
        for (((gate, up), grad_product), (product, (grad_gate, grad_up))) in given.zip(outputs) {
            let ((active, derivative), up) = (activation.at(gate.as_f32()), up.as_f32());
            *product = T::from_f32(active * up);
            *grad_gate = T::from_f32(grad_product * up * derivative);
            *grad_up = T::from_f32(grad_product * active);
        }
    }
}

/// The backward pass of RMSNorm (arXiv:1910.07467) of the rows in `x`, with the elementwise `scale`.
/// `grad_normed` is d loss / d normed, and is overwritten with d loss / d scale, row by row; d loss / d x is
/// added to `grad_x`.
pub(crate) fn normalisation_backward<T: Scalar + Sync>(
    cpu: Cpu,
    epsilon: f32,
    x: &[T],
    scale: &[f32],
    grad_normed: &mut [f32],
    grad_x: &mut [f32],
) {
    let width = scale.len();
    assert!(grad_normed.len() == x.len() && grad_x.len() == x.len());
    let (grad_normed, grad_x) = (DisjointSlices::new(grad_normed), DisjointSlices::new(grad_x));
    cpu.parallel(|worker| {
        for row in worker.range(x.len() / width, 1) {
            let range = row * width..(row + 1) * width;
            // SAFETY: workers have rows of their own.
            let (grad_normed, grad_x) =
                unsafe { (grad_normed.slice_mut(range.clone()), grad_x.slice_mut(range.clone())) };
            let x = &x[range];
            with_cpu_features(Normalisation { epsilon, x, scale, grad_normed, grad_x });
        }
    });
}

/// One row.
struct Normalisation<'a, T> {
    epsilon: f32,
    x: &'a [T],
    scale: &'a [f32],
    grad_normed: &'a mut [f32],
    grad_x: &'a mut [f32],
}

impl<T: Scalar> SimdKernel for Normalisation<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Normalisation { epsilon, x, scale, grad_normed, grad_x } = self;
        // In lanes, so that the compiler can vectorise the sums.
        let (mut squares, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
        let chunks = x.chunks(LANES).zip(scale.chunks(LANES)).zip(grad_normed.chunks(LANES));
        for ((x, scale), grad_normed) in chunks {
            let numbers = x.iter().zip(scale).zip(grad_normed);
            for (((x, scale), grad_normed), (square, along)) in
                numbers.zip(squares.iter_mut().zip(&mut along))
            {
                let x = x.as_f32();
                *square += x * x;
                *along += x * scale * grad_normed;
            }
        }
        let mean = |lanes: [f32; LANES]| lanes.iter().sum::<f32>() / x.len() as f32;
        let factor = 1.0 / (mean(squares) + epsilon).sqrt();
        let shrink = mean(along) * factor * factor * factor;
        for ((x, scale), (grad_normed, grad_x)) in x.iter().zip(scale).zip(grad_normed.iter_mut().zip(grad_x))
        {
            let x = x.as_f32();
            *grad_x += *grad_normed * scale * factor - x * shrink;
            *grad_normed *= x * factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|index| ((index as f32) * 0.37 + seed).sin() * 3.0).collect()
    }

    fn double(values: &[f32], shape: [i64; 2]) -> Tensor {
        Tensor::from_slice(values).to_kind(Kind::Double).view(shape)
    }

    fn close(got: &[f32], expected: &Tensor, bound: f64) {
        let expected = Vec::<f64>::try_from(expected.to_device(Device::Cpu).reshape([-1])).unwrap();
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (f64::from(*got) - expected).abs() <= bound * expected.abs().max(1.0),
                "{got} {expected}"
            );
        }
    }

    /// Against libtorch's derivatives in double precision.
    #[test]
    fn units_and_their_derivatives_are_those_of_the_definition() {
        let (rows, inner) = (5usize, 37usize);
        for activation in [Activation::Silu, Activation::Gelu] {
            for cpu in [1, 3].map(Cpu::new) {
                let (gate_up, by) = (numbers(rows * 2 * inner, 0.1), numbers(rows * inner, 0.7));
                let both = double(&gate_up, [rows as i64, 2 * inner as i64]).set_requires_grad(true);
                let (gate, up) =
                    (both.narrow(1, 0, inner as i64), both.narrow(1, inner as i64, inner as i64));
                let active = if activation == Activation::Silu { gate.silu() } else { gate.gelu("tanh") };
                let expected = active * up;
                let derivative = double(&by, [rows as i64, inner as i64]);
                let grad_both =
                    Tensor::run_backward(&[(&expected * derivative).sum(None)], &[&both], false, false)
                        .remove(0);

                let (mut kept, mut product) = (vec![0.0f32; gate_up.len()], vec![0.0f32; by.len()]);
                forward(cpu, activation, inner, &gate_up, &mut kept, &mut product);
                assert_eq!(kept, gate_up);
                close(&product, &expected.detach(), 1e-5);
                let (mut again, mut grad_gate_up) = (vec![0.0f32; by.len()], vec![0.0f32; gate_up.len()]);
                backward(cpu, activation, inner, &kept, &by, &mut again, &mut grad_gate_up);
                assert_eq!(again, product);
                close(&grad_gate_up, &grad_both, 1e-5);

                let (mut kept, mut product) = (vec![bf16::ZERO; gate_up.len()], vec![bf16::ZERO; by.len()]);
                forward(cpu, activation, inner, &gate_up, &mut kept, &mut product);
                let single = |halves: &[bf16]| halves.iter().map(|half| half.to_f32()).collect::<Vec<f32>>();
                close(&single(&product), &expected.detach(), 1.0 / 256.0);
                let (mut again, mut grad_gate_up) =
                    (vec![bf16::ZERO; by.len()], vec![bf16::ZERO; gate_up.len()]);
                backward(cpu, activation, inner, &kept, &by, &mut again, &mut grad_gate_up);
                close(&single(&grad_gate_up), &grad_both, 0.03);
            }
        }
    }

    #[test]
    fn the_normalisation_has_the_derivative_of_its_definition() {
        let (rows, width) = (7usize, 29usize);
        let (x, scale, by) = (numbers(rows * width, 0.3), numbers(width, 0.9), numbers(rows * width, 0.2));
        let (of_x, of_scale) = (double(&x, [rows as i64, width as i64]), double(&scale, [1, width as i64]));
        let (of_x, of_scale) = (of_x.set_requires_grad(true), of_scale.set_requires_grad(true));
        let mean = of_x.square().mean_dim(1i64, true, Kind::Double);
        let normed = &of_x / (mean + 1e-5).sqrt() * &of_scale;
        let loss = (normed * double(&by, [rows as i64, width as i64])).sum(None);
        let [grad_of_x, grad_scale]: [Tensor; 2] =
            Tensor::run_backward(&[loss], &[&of_x, &of_scale], false, false).try_into().unwrap();
        let (mut grad_normed, mut grad_x) = (by.clone(), vec![1.0; x.len()]);
        normalisation_backward(Cpu::new(2), 1e-5, &x, &scale, &mut grad_normed, &mut grad_x);
        close(&grad_x, &(grad_of_x + 1.0), 1e-5);
        let mut columns = vec![0.0f32; width];
        grad_normed
            .chunks(width)
            .for_each(|row| columns.iter_mut().zip(row).for_each(|(column, by)| *column += by));
        close(&columns, &grad_scale, 1e-5);
    }
}
