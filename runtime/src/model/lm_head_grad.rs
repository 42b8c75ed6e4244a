//! d loss / d LM head. It has a row for every entry of the vocabulary, so it is computed some rows at a
//! time.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::second_head::SecondHeadGrad;
use crate::machine::place::Place;

/// Gradients of the heads that read the last hidden states; `None` for heads without gradient.
#[derive(Default)]
pub struct HeadGrads {
    pub lm_head: Option<LmHeadGrad>,
    /// `[1, width]`
    pub scalar: Option<Tensor>,
    pub second: Option<SecondHeadGrad>,
}

impl From<LmHeadGrad> for HeadGrads {
    fn from(lm_head: LmHeadGrad) -> HeadGrads {
        HeadGrads { lm_head: Some(lm_head), scalar: None, second: None }
    }
}

/// The sum over tokens of d loss / d logits times the last hidden state.
pub struct LmHeadGrad {
    /// The number of entries with logits. The matrix may have more rows: they have no gradient.
    entries: i64,
    width: i64,
    /// The kind of the sums: double for a matrix in double, else single.
    wide: Kind,
    place: Place,
    /// Pairs of d loss / d logits, `[tokens, entries]`, and hidden states, `[tokens, width]`, that are not
    /// multiplied yet.
    kept: Vec<[Tensor; 2]>,
    /// The sum over all other tokens, `[entries, width]`.
    sum: Option<Tensor>,
}

impl LmHeadGrad {
    /// The gradient before any token, for a matrix `[entries, width]`.
    pub fn zero(matrix: &Tensor, place: Place) -> LmHeadGrad {
        let [entries, width] = matrix.size()[..] else { unreachable!("a matrix has rows and columns") };
        let wide = if matrix.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        LmHeadGrad { entries, width, wide, place, kept: Vec::new(), sum: None }
    }

    /// A gradient given as a whole, `[entries, width]`.
    #[cfg(test)]
    pub fn whole(sum: Tensor) -> LmHeadGrad {
        LmHeadGrad { sum: Some(sum.shallow_clone()), ..LmHeadGrad::zero(&sum, Place::cpu()) }
    }

    /// Adds tokens, but keeps both tensors and multiplies later.
    pub fn keep(&mut self, grad_logits: Tensor, hidden: Tensor) {
        self.kept.push([grad_logits, hidden]);
    }

    /// Adds tokens now.
    pub fn add(&mut self, grad_logits: &Tensor, hidden: &Tensor) {
        add(self.place, &mut self.sum, grad_logits, hidden);
    }

    /// Some rows of the gradient, in single precision or in double. Rows beyond the entries are 0.
    pub fn rows(&self, range: Range<i64>) -> Tensor {
        let count = (range.end.min(self.entries) - range.start).max(0);
        let mut rows =
            self.sum.as_ref().filter(|_| count > 0).map(|sum| sum.narrow(0, range.start, count).copy());
        if count > 0 {
            for [grad_logits, hidden] in &self.kept {
                add(self.place, &mut rows, &grad_logits.narrow(1, range.start, count), hidden);
            }
        }
        let missing = range.end - range.start - if rows.is_some() { count } else { 0 };
        let zeros = || Tensor::zeros([missing, self.width], (self.wide, self.place.device));
        match rows {
            None => zeros(),
            Some(rows) if missing > 0 => Tensor::cat(&[rows, zeros()], 0),
            Some(rows) => rows,
        }
    }
}

/// Adds a product to the sum; half-precision products are accumulated in single precision.
fn add(place: Place, sum: &mut Option<Tensor>, grad_logits: &Tensor, hidden: &Tensor) {
    let half = grad_logits.kind() == Kind::BFloat16;
    match sum {
        Some(sum) if half => place.add_product(sum, &grad_logits.tr(), hidden),
        Some(sum) => drop(sum.addmm_(&grad_logits.tr(), hidden)),
        None if half => *sum = Some(place.multiply(&grad_logits.tr(), hidden)),
        None => *sum = Some(grad_logits.tr().mm(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// For all combinations of added and kept tokens, and all sizes of requested row ranges.
    #[test]
    fn lm_head_gradient_rows_equal_the_product() {
        let numbers = |rows: i64, columns: i64, seed: i64| {
            (Tensor::arange_start(seed, seed + rows * columns, (Kind::Double, Device::Cpu)) * 0.7)
                .sin()
                .view([rows, columns])
        };
        let (entries, width) = (11, 3);
        let cases = [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::BFloat16, 1e-5)];
        for (place, (kind, near)) in
            Place::tested().into_iter().flat_map(|place| cases.map(|case| (place, case)))
        {
            let numbers = |rows, columns, seed| numbers(rows, columns, seed).to_device(place.device);
            let matrix = Tensor::zeros([entries, width], (kind, place.device));
            let tokens: Vec<[Tensor; 2]> = [4, 1, 6]
                .map(|count| {
                    [
                        numbers(count, entries, count).to_kind(kind),
                        numbers(count, width, 9 + count).to_kind(kind),
                    ]
                })
                .into();
            let exact = tokens.iter().map(|[grad_logits, hidden]| {
                grad_logits.to_kind(Kind::Double).tr().mm(&hidden.to_kind(Kind::Double))
            });
            let exact = Tensor::cat(
                &[
                    exact.reduce(|a, b| a + b).unwrap(),
                    Tensor::zeros([2, width], (Kind::Double, place.device)),
                ],
                0,
            );
            for added in 0..=3 {
                let mut grad_lm_head = LmHeadGrad::zero(&matrix, place);
                for (index, [grad_logits, hidden]) in tokens.iter().enumerate() {
                    if index < added {
                        grad_lm_head.add(grad_logits, hidden);
                    } else {
                        grad_lm_head.keep(grad_logits.shallow_clone(), hidden.shallow_clone());
                    }
                }
                for bounds in [vec![0, 13], vec![0, 4, 9, 13], vec![0, 11, 12, 13]] {
                    let rows: Vec<Tensor> =
                        bounds.windows(2).map(|pair| grad_lm_head.rows(pair[0]..pair[1])).collect();
                    let apart =
                        (Tensor::cat(&rows, 0).to_kind(Kind::Double) - &exact).abs().max().double_value(&[]);
                    assert!(apart < near, "{kind:?} {added} {bounds:?}: {apart:e}");
                }
            }
            assert_eq!(
                LmHeadGrad::zero(&matrix, place).rows(2..5).abs().sum(Kind::Double).double_value(&[]),
                0.0
            );
        }
    }
}
