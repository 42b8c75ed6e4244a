//! The support of a divergence: which vocabulary entries take part, row by row.

use mopd_plan::{Role, Support};
use tch::{Kind, Tensor};

use super::rows::LogitRows;

/// A support, resolved for some rows.
pub enum Entries {
    All,
    /// `[rows, k]`: equally many in every row.
    Chosen(Tensor),
    /// `[rows, vocabulary]`, bool; also columns beyond the vocabulary, where these can take part.
    Masked(Tensor),
}

/// The entries of a support. Roles choose by their distributions at temperature 1. Not differentiable.
pub fn entries(support: &Support, rows: &LogitRows) -> Entries {
    match support {
        Support::Full => Entries::All,
        Support::TopK { k, .. } if i64::from(*k) >= rows.vocabulary() => Entries::All,
        Support::TopK { role, k } => Entries::Chosen(top(rows, *role, *k)),
        Support::Sampled => Entries::Chosen(rows.targets.shallow_clone()),
        Support::Nucleus { role, p } => Entries::Masked(nucleus(&rows.logps(*role, 1.0), *p)),
        Support::Matched { role } => Entries::Masked(rows.present(*role).narrow(1, 0, rows.vocabulary())),
        Support::Unmatched { role } => Entries::Masked(unmatched(rows, *role)),
        Support::Union { of } => Entries::Masked(combined(of, rows, |all, part| all.logical_or_(part))),
        Support::Intersection { of } => {
            Entries::Masked(combined(of, rows, |all, part| all.logical_and_(part)))
        }
    }
}

fn combined(parts: &[Support], rows: &LogitRows, combine: impl Fn(&mut Tensor, &Tensor) -> Tensor) -> Tensor {
    let mut masks = parts.iter().map(|part| mask(&entries(part, rows), rows));
    let mut all = masks.next().expect("the checker gives a union or intersection at least one part");
    masks.for_each(|part| drop(combine(&mut all, &part)));
    all
}

/// `[rows, k]`: the `k` most probable entries, the most probable first; all entries if there are fewer.
pub fn top(rows: &LogitRows, role: Role, k: u32) -> Tensor {
    largest(&rows.logps(role, 1.0), k.into())
}

/// `[rows, k]`: the indices of the `k` largest numbers of each row, the largest first; of equal numbers, the
/// first. `topk` alone takes any of equal ones, and models in bf16 have many.
pub fn largest(values: &Tensor, k: i64) -> Tensor {
    let entries = values.size()[1];
    let k = k.min(entries);
    let (found, mut chosen) = values.topk((k + 1).min(entries), -1, true, true);
    if k < entries {
        chosen = chosen.narrow(-1, 0, k);
        // Rows with equal numbers on both sides of the cut.
        let (last, next) = (found.narrow(-1, k - 1, 1), found.narrow(-1, k, 1));
        let tied = last.eq_tensor(&next).squeeze_dim(1).nonzero().squeeze_dim(1);
        if tied.numel() > 0 {
            let (values, last) = (values.index_select(0, &tied), last.index_select(0, &tied));
            // NaN counts as the largest.
            let above = values.gt_tensor(&last).logical_or(&values.isnan());
            let room = k - above.sum_dim_intlist([-1].as_slice(), true, Kind::Int64);
            let equal = values.eq_tensor(&last);
            let fits = equal.cumsum(-1, Kind::Int64).le_tensor(&room).logical_and(&equal);
            let inside = above.logical_or(&fits).nonzero().narrow(1, 1, 1).view([-1, k]);
            chosen = chosen.index_copy(0, &tied, &inside);
        }
    }
    let (chosen, _) = chosen.sort(-1, false);
    chosen.gather(-1, &values.gather(-1, &chosen, false).argsort_stable(true, -1, true), false)
}

/// `[rows, vocabulary]`, bool, a new tensor.
pub fn mask(entries: &Entries, rows: &LogitRows) -> Tensor {
    let (shape, device) = ([rows.len(), rows.vocabulary()], rows.targets.device());
    match entries {
        Entries::All => Tensor::ones(shape, (Kind::Bool, device)),
        Entries::Chosen(indices) => Tensor::zeros(shape, (Kind::Bool, device)).scatter_value_(-1, indices, 1),
        Entries::Masked(mask) => mask.copy(),
    }
}

/// The nucleus: in descending order, the entries before which the cumulative probability is less than `p`.
/// Equal entries are all in or all out, so that the result does not depend on how they were sorted.
fn nucleus(logps: &Tensor, p: f64) -> Tensor {
    let (sorted, _) = logps.sort(-1, true);
    let probabilities = sorted.to_kind(Kind::Double).exp_();
    let spent = probabilities.cumsum(-1, Kind::Double) - probabilities;
    let last = (spent.lt(p).sum_dim_intlist([-1].as_slice(), true, Kind::Int64) - 1).clamp_min_(0);
    logps.ge_tensor(&sorted.gather(-1, &last, false))
}

/// Entries that only one of two vocabularies has, `[rows, columns]`, bool; none at tokens that begin no span.
fn unmatched(rows: &LogitRows, role: Role) -> Tensor {
    let (present, own) = (rows.present(role), rows.present(Role::Student));
    let begins = match rows.spans(role) {
        Some(spans) => rows.column(&spans.begins),
        None => present.any_dim(1, true),
    };
    let missing = present.size()[1] - own.size()[1];
    own.constant_pad_nd([0, missing]).logical_xor(&present).logical_and(&begins)
}

/// Whether the target is in the nucleus, `[rows]`: strictly more probable entries have less than `p` in all.
pub fn in_nucleus(logps: &Tensor, targets: &Tensor, p: f64) -> Tensor {
    let taken = logps.gather(-1, targets, false);
    let spent = logps.to_kind(Kind::Double).exp_().masked_fill_(&logps.le_tensor(&taken), 0.0);
    spent.sum_dim_intlist([-1].as_slice(), false, Kind::Double).lt(p).to_kind(Kind::Float)
}
