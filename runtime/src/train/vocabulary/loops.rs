//! What most objectives ask of every step, in loops of our own: an operator of libtorch for each arithmetic
//! operation reads and writes all entries for each of them.

use mopd_kernels::Cpu;
use mopd_kernels::cuda::EntryKernels;
use mopd_kernels::entries::{self, KlGradient, Sum};
use mopd_kernels::tensor::{view, view_mut};
use tch::{Kind, Tensor};

use crate::machine::device::compiled;
use crate::machine::place::Place;

/// Leave to run them where the numbers are.
#[derive(Clone, Copy)]
pub enum Loops {
    Cpu(Cpu),
    Gpu(EntryKernels),
}

impl Loops {
    /// None where operators work alone.
    pub fn at(place: Place) -> Option<Loops> {
        match place.kernels() {
            Some(gpu) => compiled(EntryKernels::of(gpu)).map(Loops::Gpu),
            None => place.loops().map(Loops::Cpu),
        }
    }

    /// A sum over the entries of log-probabilities `[rows, entries]`: `[rows]`. None where the loops can't
    /// read them.
    pub fn sums(self, sum: Sum, l: &Tensor, r: &Tensor) -> Option<Tensor> {
        match self {
            Loops::Gpu(kernels) => readable([l, r]).then(|| kernels.sums(sum, l, r)),
            Loops::Cpu(cpu) => {
                let (left, right) = (view(l)?, view(r)?);
                let [rows, width] = l.size()[..] else { return None };
                let mut to = Tensor::empty([rows], (Kind::Float, l.device()));
                entries::sums(cpu, sum, width as usize, &left, &right, &mut view_mut(&mut to)?);
                Some(to)
            }
        }
    }

    /// Gradients, `[rows, entries]`, times factors, `[rows, 1]`.
    pub fn gradients(self, gradient: KlGradient, [l, r]: [&Tensor; 2], factors: &Tensor) -> Option<Tensor> {
        let factors = factors.contiguous();
        match self {
            Loops::Gpu(kernels) => readable([l, r]).then(|| kernels.gradients(gradient, [l, r], &factors)),
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
    sides.iter().all(|side| side.kind() == Kind::Float && side.is_contiguous() && side.dim() == 2)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Wherever they run, against double precision; exactly 0 of equal sides and where a factor is.
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
            // What has gaps is for operators.
            assert!(loops.sums(Sum::Kl, &l.tr(), &r.tr()).is_none());
        }
    }
}
