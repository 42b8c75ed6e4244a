//! Reductions over ragged axes.

use mopd_plan::Reduction;
use tch::{Kind, Tensor};

/// The reduction of the elements of `x` that `mask` lets pass, one number for each of `count` elements of a
/// coarse axis; `parents` are their indices, `[elements of x]`. The gradient is that of the compiler's
/// derivative: equal extremes share it.
///
/// On a GPU, either of +0 and -0 may be the extreme, because elements come in no fixed order.
///
/// # Panics
/// For quantiles, which need all values at once.
pub fn reduce(
    reduction: Reduction,
    x: &Tensor,
    mask: Option<&Tensor>,
    parents: &Tensor,
    count: usize,
) -> Tensor {
    let passes = mask.map(|mask| mask.ne(0.0));
    // A `where`, not a product: masked elements may be NaN.
    let or = |x: Tensor, left_out: f64| match &passes {
        Some(passes) => x.where_scalarother(passes, left_out),
        None => x,
    };
    let sum = |x: Tensor| sum(&or(x.to_kind(Kind::Double), 0.0), parents, count);
    let members = || sum(x.ones_like());
    let result = match reduction {
        Reduction::Sum => sum(x.shallow_clone()),
        Reduction::Mean => sum(x.shallow_clone()) / members().clamp_min(1.0),
        // Every value but 0 is true, NaN included.
        Reduction::Count => sum(x.ne(0.0)),
        Reduction::Any => sum(x.ne(0.0)).gt(0.0),
        Reduction::All => sum(x.eq(0.0)).eq(0.0),
        Reduction::Minimum | Reduction::Maximum => {
            let (start, which) = if reduction == Reduction::Minimum {
                (f64::INFINITY, "amin")
            } else {
                (f64::NEG_INFINITY, "amax")
            };
            let extreme = Tensor::full([count as i64], start, (x.kind(), x.device()));
            let extreme =
                extreme.internal_scatter_reduce(0, parents, &or(x.shallow_clone(), start), which, true);
            extreme.where_scalarother(&members().gt(0.0), reduction.of_none())
        }
        Reduction::First | Reduction::Last => chosen(reduction, x, passes.as_ref(), parents, count),
        Reduction::Quantile { .. } | Reduction::Stddev { .. } => {
            unreachable!("what needs all elements is computed on the host")
        }
    };
    result.to_kind(x.kind())
}

/// The sums by parent in double precision. They are deterministic: `index_put` sorts elements by index before
/// it adds them, unlike `index_add`.
fn sum(x: &Tensor, parents: &Tensor, count: usize) -> Tensor {
    if count == 1 {
        return x.sum_dim_intlist([0i64].as_slice(), true, Kind::Double);
    }
    let zeros = Tensor::zeros([count as i64], (Kind::Double, x.device()));
    zeros.index_put(&[Some(parents)], x, true)
}

/// The first or the last element that passes the mask; 0 where there is none.
fn chosen(which: Reduction, x: &Tensor, passes: Option<&Tensor>, parents: &Tensor, count: usize) -> Tensor {
    let elements = x.numel() as i64;
    let (none, how) = if which == Reduction::First { (elements, "amin") } else { (-1, "amax") };
    let mut places = Tensor::arange(elements, (Kind::Int64, x.device()));
    if let Some(passes) = passes {
        places = places.where_scalarother(passes, none);
    }
    let place = Tensor::full([count as i64], none, (Kind::Int64, x.device()))
        .internal_scatter_reduce(0, parents, &places, how, true);
    // A 0 on either side is selected where no element passes or none exists.
    x.constant_pad_nd([1, 1]).index_select(0, &(place + 1))
}
