//! Reductions over ragged axes.

use mopd_compiler::plan::Reduction;
use tch::{Kind, Tensor};

/// One number per element of a coarse axis, of which there are `count`: the elements of `x` in it that `mask`
/// lets pass, put together; `parents` says which lie where. Gradient flows as the compiler's derivative says:
/// equal extremes share it.
///
/// Of zeros of both signs, either may be the extreme one on a GPU, where elements come in no order.
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
    // Chosen, not multiplied: what is left out may be NaN.
    let or = |x: Tensor, left_out: f64| match &passes {
        Some(passes) => x.where_scalarother(passes, left_out),
        None => x,
    };
    let sum = |x: Tensor| sum(&or(x.to_kind(Kind::Double), 0.0), parents, count);
    let members = || sum(x.ones_like());
    let result = match reduction {
        Reduction::Sum => sum(x.shallow_clone()),
        Reduction::Mean => sum(x.shallow_clone()) / members().clamp_min(1.0),
        // Whatever is not 0 is true, NaN included.
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
        Reduction::Quantile { .. } => unreachable!("quantiles are worked out on the host"),
    };
    result.to_kind(x.kind())
}

/// In double precision. Elements are sorted by where they go before they are added, not added as threads come
/// by: the sum is the same every time.
fn sum(x: &Tensor, parents: &Tensor, count: usize) -> Tensor {
    if count == 1 {
        return x.sum_dim_intlist([0i64].as_slice(), true, Kind::Double);
    }
    let zeros = Tensor::zeros([count as i64], (Kind::Double, x.device()));
    zeros.index_put(&[Some(parents)], x, true)
}

/// The first or the last element that passes; 0 where there is none.
fn chosen(which: Reduction, x: &Tensor, passes: Option<&Tensor>, parents: &Tensor, count: usize) -> Tensor {
    let elements = x.numel() as i64;
    let (none, how) = if which == Reduction::First { (elements, "amin") } else { (-1, "amax") };
    let mut places = Tensor::arange(elements, (Kind::Int64, x.device()));
    if let Some(passes) = passes {
        places = places.where_scalarother(passes, none);
    }
    let place = Tensor::full([count as i64], none, (Kind::Int64, x.device()))
        .internal_scatter_reduce(0, parents, &places, how, true);
    // A 0 on either side, so that there is something to choose where nothing passes, or nothing is there at
    // all.
    x.constant_pad_nd([1, 1]).index_select(0, &(place + 1))
}
