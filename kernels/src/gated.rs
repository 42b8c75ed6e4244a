//! What stands between the products of a gated linear unit, and of the normalisation before it: each number
//! read and written once, in single precision whatever it is stored in.

use serde::{Deserialize, Serialize};

use crate::crew::{Parts, together};
use crate::exp::exp;
use crate::{Loop, Stored, with_instructions};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Silu,
    /// GELU by tanh (arXiv:1606.08415).
    Gelu,
}

impl Activation {
    /// Its value and its derivative.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Activation::Silu => {
                let share = 1.0 / (1.0 + exp(-x));
                (x * share, share * (1.0 + x * (1.0 - share)))
            }
            Activation::Gelu => {
                const SCALE: f32 = 0.797_884_6; // sqrt(2 / pi)
                const CUBE: f32 = 0.044_715;
                let inner = SCALE * (x + CUBE * x * x * x);
                let tanh = 1.0 - 2.0 / (1.0 + exp(2.0 * inner));
                let slope = SCALE * (1.0 + 3.0 * CUBE * x * x);
                (0.5 * x * (1.0 + tanh), 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope)
            }
        }
    }
}

/// Rows of `[gate, up]`, `2 * inner` each, and what they are multiplied to: activation(gate) * up, `inner`
/// each.
pub fn forward<T: Stored + Send + Sync>(
    threads: usize,
    activation: Activation,
    inner: usize,
    gate_up: &[f32],
    kept: &mut [T],
    product: &mut [T],
) {
    let rows = gate_up.len() / (2 * inner);
    assert!(kept.len() == gate_up.len() && product.len() == rows * inner);
    let (kept, product) = (Parts::new(kept), Parts::new(product));
    together(threads, |member| {
        for row in member.part(rows, 1) {
            let both = row * 2 * inner..(row + 1) * 2 * inner;
            // SAFETY: members have rows of their own.
            let (kept, product) =
                unsafe { (kept.part(both.clone()), product.part(row * inner..(row + 1) * inner)) };
            let (gate, up) = gate_up[both].split_at(inner);
            let (kept_gate, kept_up) = kept.split_at_mut(inner);
            with_instructions(Forward { activation, gate, up, kept_gate, kept_up, product });
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

impl<T: Stored> Loop for Forward<'_, T> {
    #[inline(always)]
    fn run(self) {
        // The kind stands outside of the loop, or every number would ask for it.
        match self.activation {
            Activation::Silu => self.all(Activation::Silu),
            Activation::Gelu => self.all(Activation::Gelu),
        }
    }
}

impl<T: Stored> Forward<'_, T> {
    #[inline(always)]
    fn all(self, activation: Activation) {
        let kept = self.kept_gate.iter_mut().zip(self.kept_up);
        for (((gate, up), (kept_gate, kept_up)), product) in
            self.gate.iter().zip(self.up).zip(kept).zip(self.product)
        {
            (*kept_gate, *kept_up) = (T::of(*gate), T::of(*up));
            *product = T::of(activation.at(*gate).0 * up);
        }
    }
}

/// From what [`forward`] kept and d loss / d product: the product again, and d loss / d `[gate, up]`.
pub fn backward<T: Stored + Send + Sync>(
    threads: usize,
    activation: Activation,
    inner: usize,
    kept: &[T],
    by_product: &[f32],
    product: &mut [T],
    by_gate_up: &mut [T],
) {
    let rows = kept.len() / (2 * inner);
    assert!(
        by_gate_up.len() == kept.len() && product.len() == rows * inner && by_product.len() == product.len()
    );
    let (product, by_gate_up) = (Parts::new(product), Parts::new(by_gate_up));
    together(threads, |member| {
        for row in member.part(rows, 1) {
            let (one, both) = (row * inner..(row + 1) * inner, row * 2 * inner..(row + 1) * 2 * inner);
            // SAFETY: members have rows of their own.
            let (product, by_both) = unsafe { (product.part(one.clone()), by_gate_up.part(both.clone())) };
            let ((gate, up), by_product) = (kept[both].split_at(inner), &by_product[one]);
            let (by_gate, by_up) = by_both.split_at_mut(inner);
            with_instructions(Backward { activation, gate, up, by_product, product, by_gate, by_up });
        }
    });
}

/// One row.
struct Backward<'a, T> {
    activation: Activation,
    gate: &'a [T],
    up: &'a [T],
    by_product: &'a [f32],
    product: &'a mut [T],
    by_gate: &'a mut [T],
    by_up: &'a mut [T],
}

impl<T: Stored> Loop for Backward<'_, T> {
    #[inline(always)]
    fn run(self) {
        match self.activation {
            Activation::Silu => self.all(Activation::Silu),
            Activation::Gelu => self.all(Activation::Gelu),
        }
    }
}

impl<T: Stored> Backward<'_, T> {
    #[inline(always)]
    fn all(self, activation: Activation) {
        let given = self.gate.iter().zip(self.up).zip(self.by_product);
        let answers = self.product.iter_mut().zip(self.by_gate.iter_mut().zip(self.by_up));
        for (((gate, up), by_product), (product, (by_gate, by_up))) in given.zip(answers) {
            let ((active, slope), up) = (activation.at(gate.single()), up.single());
            *product = T::of(active * up);
            *by_gate = T::of(by_product * up * slope);
            *by_up = T::of(by_product * active);
        }
    }
}

/// The backward pass of RMSNorm (arXiv:1910.07467): `x` are its rows, `scale` what they are multiplied by
/// behind it. `by_normed` is d loss / d normed, and becomes d loss / d scale, row by row; d loss / d x is
/// added to `by_x`.
pub fn normalisation_backward<T: Stored + Sync>(
    threads: usize,
    epsilon: f32,
    x: &[T],
    scale: &[f32],
    by_normed: &mut [f32],
    by_x: &mut [f32],
) {
    let width = scale.len();
    assert!(by_normed.len() == x.len() && by_x.len() == x.len());
    let (by_normed, by_x) = (Parts::new(by_normed), Parts::new(by_x));
    together(threads, |member| {
        for row in member.part(x.len() / width, 1) {
            let range = row * width..(row + 1) * width;
            // SAFETY: members have rows of their own.
            let (by_normed, by_x) = unsafe { (by_normed.part(range.clone()), by_x.part(range.clone())) };
            let x = &x[range];
            with_instructions(Normalisation { epsilon, x, scale, by_normed, by_x });
        }
    });
}

/// One row.
struct Normalisation<'a, T> {
    epsilon: f32,
    x: &'a [T],
    scale: &'a [f32],
    by_normed: &'a mut [f32],
    by_x: &'a mut [f32],
}

impl<T: Stored> Loop for Normalisation<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Normalisation { epsilon, x, scale, by_normed, by_x } = self;
        const LANES: usize = 16;
        // By lanes, so that many are summed at once.
        let (mut squares, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
        let chunks = x.chunks(LANES).zip(scale.chunks(LANES)).zip(by_normed.chunks(LANES));
        for ((x, scale), by_normed) in chunks {
            let numbers = x.iter().zip(scale).zip(by_normed);
            for (((x, scale), by_normed), (square, along)) in numbers.zip(squares.iter_mut().zip(&mut along))
            {
                let x = x.single();
                *square += x * x;
                *along += x * scale * by_normed;
            }
        }
        let mean = |lanes: [f32; LANES]| lanes.iter().sum::<f32>() / x.len() as f32;
        let factor = 1.0 / (mean(squares) + epsilon).sqrt();
        let shrink = mean(along) * factor * factor * factor;
        for ((x, scale), (by_normed, by_x)) in x.iter().zip(scale).zip(by_normed.iter_mut().zip(by_x)) {
            let x = x.single();
            *by_x += *by_normed * scale * factor - x * shrink;
            *by_normed *= x * factor;
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
            for threads in [1, 3] {
                let (gate_up, by) = (numbers(rows * 2 * inner, 0.1), numbers(rows * inner, 0.7));
                let both = double(&gate_up, [rows as i64, 2 * inner as i64]).set_requires_grad(true);
                let (gate, up) =
                    (both.narrow(1, 0, inner as i64), both.narrow(1, inner as i64, inner as i64));
                let active = if activation == Activation::Silu { gate.silu() } else { gate.gelu("tanh") };
                let expected = active * up;
                let slope = double(&by, [rows as i64, inner as i64]);
                let by_both =
                    Tensor::run_backward(&[(&expected * slope).sum(None)], &[&both], false, false).remove(0);

                let (mut kept, mut product) = (vec![0.0f32; gate_up.len()], vec![0.0f32; by.len()]);
                forward(threads, activation, inner, &gate_up, &mut kept, &mut product);
                assert_eq!(kept, gate_up);
                close(&product, &expected.detach(), 1e-5);
                let (mut again, mut by_gate_up) = (vec![0.0f32; by.len()], vec![0.0f32; gate_up.len()]);
                backward(threads, activation, inner, &kept, &by, &mut again, &mut by_gate_up);
                assert_eq!(again, product);
                close(&by_gate_up, &by_both, 1e-5);

                let (mut kept, mut product) = (vec![bf16::ZERO; gate_up.len()], vec![bf16::ZERO; by.len()]);
                forward(threads, activation, inner, &gate_up, &mut kept, &mut product);
                let single = |halves: &[bf16]| halves.iter().map(|half| half.to_f32()).collect::<Vec<f32>>();
                close(&single(&product), &expected.detach(), 1.0 / 256.0);
                let (mut again, mut by_gate_up) =
                    (vec![bf16::ZERO; by.len()], vec![bf16::ZERO; gate_up.len()]);
                backward(threads, activation, inner, &kept, &by, &mut again, &mut by_gate_up);
                close(&single(&by_gate_up), &by_both, 0.03);
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
        let [by_of_x, by_scale]: [Tensor; 2] =
            Tensor::run_backward(&[loss], &[&of_x, &of_scale], false, false).try_into().unwrap();
        let (mut by_normed, mut by_x) = (by.clone(), vec![1.0; x.len()]);
        normalisation_backward(2, 1e-5, &x, &scale, &mut by_normed, &mut by_x);
        close(&by_x, &(by_of_x + 1.0), 1e-5);
        let mut columns = vec![0.0f32; width];
        by_normed
            .chunks(width)
            .for_each(|row| columns.iter_mut().zip(row).for_each(|(column, by)| *column += by));
        close(&columns, &by_scale, 1e-5);
    }
}
