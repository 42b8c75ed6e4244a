//! What most objectives ask of every step, in loops of our own where the numbers are in the processor's
//! memory: an operator of libtorch for each arithmetic operation reads and writes all entries for each of
//! them.

use tch::{Kind, Tensor};

use mopd_kernels::Cpu;
use mopd_kernels::entries::{self, KlGradient, Sum};
use mopd_kernels::tensor::{view, view_mut};

/// A sum over the entries of log-probabilities `[rows, entries]`: `[rows]`. None where the loops can't read
/// them.
pub fn sums(cpu: Cpu, sum: Sum, l: &Tensor, r: &Tensor) -> Option<Tensor> {
    let (left, right) = (view(l)?, view(r)?);
    let [rows, width] = l.size()[..] else { return None };
    let mut to = Tensor::empty([rows], (Kind::Float, l.device()));
    entries::sums(cpu, sum, width as usize, &left, &right, &mut view_mut(&mut to)?);
    Some(to)
}

/// Gradients, `[rows, entries]`, times factors, `[rows, 1]`.
pub fn gradients(cpu: Cpu, gradient: KlGradient, [l, r]: [&Tensor; 2], factors: &Tensor) -> Option<Tensor> {
    let (left, right) = (view(l)?, view(r)?);
    let mut to = l.empty_like();
    let width = l.size()[1] as usize;
    let (factors, mut written) = (factors.contiguous(), view_mut(&mut to)?);
    entries::gradients(cpu, gradient, width, &left, &right, &view(&factors)?, &mut written);
    drop(written);
    Some(to)
}
