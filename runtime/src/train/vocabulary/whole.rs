//! The KL divergence over the full vocabulary on a GPU, directly from logits: the log-probabilities of all
//! entries are never stored.

use mopd_kernels::cuda::{Distributions, EntryKernels};
use mopd_kernels::entries::{KlGradient, Sum};
use mopd_plan::{Role, Support};
use tch::Tensor;

use super::divergence::{DivergenceSide, Pairing, StepDivergence};
use super::rows::LogitRows;
use super::summands::StepSummand;

/// Logits of some rows, `[rows, entries]` in f32, and the log of the sum of each row's exponentials,
/// `[rows]`.
pub(super) struct Unnormalized {
    pub kernels: EntryKernels,
    pub logits: Tensor,
    pub normalizers: Tensor,
}

impl Unnormalized {
    fn distributions(&self) -> Distributions<'_> {
        Distributions::Logits { logits: &self.logits, normalizers: &self.normalizers }
    }

    /// The entropy in nats, `[rows]`.
    pub fn entropy(&self) -> Tensor {
        self.kernels.sums(Sum::Entropy, self.distributions(), self.distributions())
    }

    /// Log-probabilities of the entries in `indices`, `[rows, any]`.
    pub fn at(&self, indices: &Tensor) -> Tensor {
        self.logits.gather(-1, indices, false) - self.normalizers.unsqueeze(1)
    }
}

impl StepDivergence<'_> {
    /// The value in nats, `[rows]`; `None` where it is another divergence or kernels cannot read its logits.
    pub(super) fn value_of_logits(&self, rows: &LogitRows) -> Option<Tensor> {
        let [left, right] = self.unnormalized(rows)?;
        Some(left.kernels.sums(Sum::Kl, left.distributions(), right.distributions()))
    }

    /// Writes `adjoint`, `[rows, 1]`, times d divergence / d logits of the student to `out`, `[rows,
    /// vocabulary]`, which may be these logits. Returns false where nothing was written.
    pub(super) fn write_gradient(&self, rows: &LogitRows, adjoint: &Tensor, out: &Tensor) -> bool {
        let is_live = |side: &DivergenceSide| side.live && side.parts[0].1 == Role::Student;
        let gradient = match (is_live(&self.left), is_live(&self.right)) {
            (true, false) => KlGradient::KlByLeft,
            (false, true) => KlGradient::KlByRight,
            _ => return false,
        };
        let Some([left, right]) = self.unnormalized(rows) else { return false };
        let sides = [left.distributions(), right.distributions()];
        left.kernels.gradients_by_logits(gradient, sides, &adjoint.contiguous(), out);
        true
    }

    /// Both sides, if this is the plain KL divergence of two distributions over the full vocabulary.
    fn unnormalized(&self, rows: &LogitRows) -> Option<[Unnormalized; 2]> {
        let is_plain = matches!(self.pairing, Pairing::Entrywise(StepSummand::Kl))
            && matches!(self.support, Support::Full)
            && self.clip_each.is_none()
            && self.spans(rows).is_none();
        let ([(_, left)], [(_, right)]) = (&self.left.parts[..], &self.right.parts[..]) else { return None };
        if !is_plain {
            return None;
        }
        let of = |role: Role| rows.unnormalized(role, self.temperature_of(role, rows));
        let [left, right] = [of(*left)?, of(*right)?];
        (left.logits.size() == right.logits.size()).then_some([left, right])
    }
}
