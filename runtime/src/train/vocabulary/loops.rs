//! What most objectives ask of every step, in loops of our own where the numbers are in the processor's
//! memory: an operator of libtorch for each arithmetic operation reads and writes all entries for each of
//! them.

use tch::{Kind, Tensor};

use mopd_kernels::crew::threads;
use mopd_kernels::elements::{slice, slice_mut};
use mopd_kernels::entries::{self, Slope, Sum};

/// A sum over the entries of log-probabilities `[rows, entries]`: `[rows]`. None where the loops can't read
/// them.
pub fn sums(sum: Sum, l: &Tensor, r: &Tensor) -> Option<Tensor> {
    let (left, right) = (slice::<f32>(l)?, slice::<f32>(r)?);
    let [rows, width] = l.size()[..] else { return None };
    let mut to = Tensor::empty([rows], (Kind::Float, l.device()));
    entries::sums(threads(), sum, width as usize, left, right, slice_mut(&mut to)?);
    Some(to)
}

/// Slopes, `[rows, entries]`, times factors, `[rows, 1]`.
pub fn slopes(slope: Slope, l: &Tensor, r: &Tensor, factors: &Tensor) -> Option<Tensor> {
    let (left, right) = (slice::<f32>(l)?, slice::<f32>(r)?);
    let mut to = l.empty_like();
    let width = l.size()[1] as usize;
    entries::slopes(threads(), slope, width, left, right, slice(&factors.contiguous())?, slice_mut(&mut to)?);
    Some(to)
}
