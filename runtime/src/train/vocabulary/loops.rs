//! The computations that most objectives need at every step, in our own loops and kernels. With libtorch,
//! each arithmetic operation would be an operator that reads and writes all entries.

use mopd_kernels::Cpu;
use mopd_kernels::cuda::{Distributions, EntryKernels};
use mopd_kernels::entries::{self, KlGradient, Sum};
use mopd_kernels::tensor::{view, view_mut};
use tch::{Kind, Tensor};

use crate::machine::device::compiled;
use crate::machine::place::Place;

/// Permission to run the loops of the CPU engine or the GPU's kernels.
#[derive(Clone, Copy)]
pub enum Loops {
    Cpu(Cpu),
    Gpu(EntryKernels),
}

impl Loops {
    /// `None` where only libtorch operators may run.
    pub fn at(place: Place) -> Option<Loops> {
        match place.kernels() {
            Some(gpu) => compiled(EntryKernels::compile(gpu)).map(Loops::Gpu),
            None => place.loops().map(Loops::Cpu),
        }
    }

    /// A sum over the entries of log-probabilities `[rows, entries]`: `[rows]`. `None` where the loops can't
    /// read them.
    pub fn sums(self, sum: Sum, l: &Tensor, r: &Tensor) -> Option<Tensor> {
        match self {
            Loops::Gpu(kernels) => readable([l, r]).then(|| {
                let [l, r] = [l, r].map(Distributions::LogProbabilities);
                kernels.sums(sum, l, r)
            }),
            Loops::Cpu(cpu) => {
                let (left, right) = (view(l)?, view(r)?);
                let [rows, width] = l.size()[..] else { return None };
                let mut to = Tensor::empty([rows], (Kind::Float, l.device()));
                entries::sums(cpu, sum, width as usize, &left, &right, &mut view_mut(&mut to)?);
                Some(to)
            }
        }
    }

    /// Gradients, `[rows, entries]`, times factors, `[rows, 1]`. `None` where the loops can't read the sides.
    pub fn gradients(self, gradient: KlGradient, [l, r]: [&Tensor; 2], factors: &Tensor) -> Option<Tensor> {
        let factors = factors.contiguous();
        match self {
            Loops::Gpu(kernels) => readable([l, r])
                .then(|| kernels.gradients(gradient, [l, r].map(Distributions::LogProbabilities), &factors)),
            Loops::Cpu(cpu) => {
                let (left, right) = (view(l)?, view(r)?);
                let mut to = l.empty_like();
                let width = l.size()[1] as usize;
                let mut written = view_mut(&mut to)?;
                entries::gradients(cpu, gradient, width, &left, &right, &view(&factors)?, &mut written);
                drop(written);
                Some(to)
            }
        }
    }
}

fn readable(sides: [&Tensor; 2]) -> bool {
    sides.into_iter().all(is_readable)
}

/// Whether GPU kernels can read it.
pub(super) fn is_readable(side: &Tensor) -> bool {
    side.kind() == Kind::Float && side.is_contiguous() && side.dim() == 2
}

/// Sets all entries, `[rows, entries]`, of rows whose factor, `[rows, 1]`, is 0 to 0, even if the gradient is
/// infinite.
pub(super) fn zero_rows(loops: Option<Loops>, of: &mut Tensor, factors: &Tensor) {
    match loops {
        Some(Loops::Gpu(kernels)) if of.is_contiguous() => {
            kernels.zero_rows(of, &factors.to_kind(Kind::Float).contiguous())
        }
        _ => drop(of.masked_fill_(&factors.eq(0.0), 0.0)),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// On all places, against double precision; exactly 0 for equal sides and where the factor is 0.
    #[test]
    fn sums_and_gradients_are_those_of_the_definition() {
        let made = |seed: f64| {
            let numbers = Tensor::arange(7 * 5001, (Kind::Double, Device::Cpu)).view([7, 5001]);
            ((numbers * 0.61 + seed).sin() * 9.0).log_softmax(-1, Kind::Double).to_kind(Kind::Float)
        };
        let (l, r) = (made(1.0), made(5.0));
        let factors = Tensor::arange(7, (Kind::Float, Device::Cpu)).unsqueeze(1) - 2.0;
        let [exact_l, exact_r, exact_factors] = [&l, &r, &factors].map(|of| of.to_kind(Kind::Double));
        let (p, q) = (exact_l.exp(), exact_r.exp());
        let sum = |of: Tensor| of.sum_dim_intlist([-1].as_slice(), false, Kind::Double);
        let kl = sum(&p * (&exact_l - &exact_r) - &p + &q);
        let entropy = -sum(&p * &exact_l);
        let by_left = &p * (&exact_l - &exact_r) * &exact_factors;
        let by_right = (&q - &p) * &exact_factors;
        for place in Place::tested() {
            let Some(loops) = Loops::at(place) else { continue };
            let [l, r, factors] = [&l, &r, &factors].map(|of| of.to_device(place.device));
            let apart = |got: Tensor, exact: &Tensor| {
                (got.to_device(Device::Cpu).to_kind(Kind::Double) - exact).abs().max().double_value(&[])
            };
            assert!(apart(loops.sums(Sum::Kl, &l, &r).unwrap(), &kl) < 5e-6, "{place:?}");
            assert!(apart(loops.sums(Sum::Entropy, &l, &l).unwrap(), &entropy) < 5e-6, "{place:?}");
            assert_eq!(apart(loops.sums(Sum::Kl, &l, &l).unwrap(), &(&kl * 0.0)), 0.0);
            for (gradient, exact) in [(KlGradient::KlByLeft, &by_left), (KlGradient::KlByRight, &by_right)] {
                let got = loops.gradients(gradient, [&l, &r], &factors).unwrap();
                assert_eq!(got.select(0, 2).abs().max().double_value(&[]), 0.0);
                assert!(apart(got, exact) < 1e-5, "{place:?}");
            }
            let mut grad = &l + f64::INFINITY;
            zero_rows(Some(loops), &mut grad, &factors);
            let zeros: Vec<i64> = Vec::try_from(grad.eq(0.0).all_dim(1, false).to_kind(Kind::Int64)).unwrap();
            assert_eq!(zeros, [0, 0, 1, 0, 0, 0, 0]);
            // Tensors that are not contiguous are left to operators.
            assert!(loops.sums(Sum::Kl, &l.tr(), &r.tr()).is_none());
        }
    }

    /// Kernels that read logits give the same values and gradients as from log-probabilities, in both
    /// precisions, also when they overwrite the logits.
    #[test]
    fn kernels_on_logits_equal_kernels_on_log_probabilities() {
        let made = |seed: f64| {
            let numbers = Tensor::arange(7 * 5001, (Kind::Double, Device::Cpu)).view([7, 5001]);
            (numbers * 0.61 + seed).sin() * 9.0 + 3.0
        };
        let exact = [made(1.0), made(5.0)];
        let factors = Tensor::arange(7, (Kind::Double, Device::Cpu)).unsqueeze(1) - 2.0;
        let [l, r] = [&exact[0], &exact[1]].map(|logits| logits.log_softmax(-1, Kind::Double));
        let by_logits = |of: Tensor, own: &Tensor| {
            let whole = of.sum_dim_intlist([-1].as_slice(), true, Kind::Double);
            (of - own.exp() * whole) * &factors
        };
        let gradients = [
            (KlGradient::KlByLeft, by_logits(l.exp() * (&l - &r), &l)),
            (KlGradient::KlByRight, by_logits(r.exp() - l.exp(), &r)),
        ];
        for place in Place::tested() {
            let Some(Loops::Gpu(kernels)) = Loops::at(place) else { continue };
            let there = |of: &Tensor| of.to_kind(Kind::Float).to_device(place.device);
            let logits = [&exact[0], &exact[1]].map(there);
            let apart = |got: &Tensor, exact: &Tensor| {
                (got.to_device(Device::Cpu).to_kind(Kind::Double) - exact).abs().max().double_value(&[])
            };
            let normalizers = [&logits[0], &logits[1]].map(|logits| kernels.normalizers(logits));
            for (got, exact) in normalizers.iter().zip(&exact) {
                assert!(apart(got, &exact.logsumexp([-1].as_slice(), false)) < 5e-6);
            }
            let side =
                |of: usize| Distributions::Logits { logits: &logits[of], normalizers: &normalizers[of] };
            let entropy = -(l.exp() * &l).sum_dim_intlist([-1].as_slice(), false, Kind::Double);
            assert!(apart(&kernels.sums(Sum::Entropy, side(0), side(0)), &entropy) < 5e-6);
            assert_eq!(apart(&kernels.sums(Sum::Kl, side(0), side(0)), &(&entropy * 0.0)), 0.0);
            let factors = there(&factors);
            for (index, (gradient, exact)) in gradients.iter().enumerate() {
                for (kind, near) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
                    let to = Tensor::empty([7, 5001], (kind, place.device));
                    kernels.gradients_by_logits(*gradient, [side(0), side(1)], &factors, &to);
                    assert!(apart(&to, exact) < near, "{kind:?} {}", apart(&to, exact));
                }
                let over = logits[index].copy();
                let own = Distributions::Logits { logits: &over, normalizers: &normalizers[index] };
                let sides = if index == 0 { [own, side(1)] } else { [side(0), own] };
                kernels.gradients_by_logits(*gradient, sides, &factors, &over);
                assert!(apart(&over, exact) < 1e-5);
            }
        }
    }
}
