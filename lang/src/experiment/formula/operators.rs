//! What formulas are made with besides elementwise functions: reductions, statistics, scans, and numbers
//! carried from step to step.

use serde::{Deserialize, Serialize};

/// Many numbers to one; [`Reduction::of_none`] where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    Sum,
    Mean,
    Minimum,
    Maximum,
    First,
    Last,
    /// True where some element is.
    Any,
    /// True where every element is.
    All,
    /// How many elements are true.
    Count,
    /// Interpolated linearly between the two elements around `q * (n - 1)`.
    Quantile {
        q: f64,
    },
}

impl Reduction {
    /// One of each, for what must hold of all.
    pub const EACH: [Reduction; 10] = [
        Reduction::Sum,
        Reduction::Mean,
        Reduction::Minimum,
        Reduction::Maximum,
        Reduction::First,
        Reduction::Last,
        Reduction::Any,
        Reduction::All,
        Reduction::Count,
        Reduction::Quantile { q: 0.5 },
    ];

    /// What it makes of no elements at all, whoever computes it. `all` of none is true, as `any` of none is
    /// false; what has no value there, such as a mean, is 0, so that a completion without selected tokens
    /// adds nothing.
    pub const fn of_none(self) -> f64 {
        match self {
            Reduction::All => 1.0,
            Reduction::Sum | Reduction::Mean | Reduction::Count | Reduction::Any => 0.0,
            Reduction::Minimum
            | Reduction::Maximum
            | Reduction::First
            | Reduction::Last
            | Reduction::Quantile { .. } => 0.0,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Reduction::Sum => "sum",
            Reduction::Mean => "mean",
            Reduction::Minimum => "min",
            Reduction::Maximum => "max",
            Reduction::First => "first",
            Reduction::Last => "last",
            Reduction::Any => "any",
            Reduction::All => "all",
            Reduction::Count => "count",
            Reduction::Quantile { .. } => "quantile",
        }
    }
}

/// Each number compared with its peers over an axis; the axis of the argument is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "statistic", rename_all = "snake_case")]
pub enum Statistic {
    /// (x - mean) / (deviation + epsilon); 0 where all are equal.
    Zscore { deviation: Deviation },
    /// x - mean
    Center,
    /// Share of the others that are smaller, from 0 to 1; equal values share their mean rank.
    Rank,
    /// The mean of the others.
    LeaveOneOut,
    /// (x - min) / (max - min); 0 where all are equal.
    Minmax,
    /// Values above the `upper` quantile are set to it.
    Winsor { upper: f64 },
    /// True for the `keep` fraction with the largest values, ties broken by position.
    TopFraction { keep: f64 },
    /// True for the `count` largest values, ties broken by position.
    TopCount { count: u32 },
    /// exp(x) / sum of exp(x)
    Softmax,
    /// True for a `keep` fraction drawn with probabilities proportional to x.
    SampleWithoutReplacement { keep: f64 },
    /// True for as many true elements as false ones, the larger side thinned at random.
    Balance,
    /// True in windows of `width` tokens that begin at the `most` largest values.
    Chunks { most: u32, width: u32 },
}

impl Statistic {
    pub fn name(self) -> &'static str {
        match self {
            Statistic::Zscore { .. } => "zscore",
            Statistic::Center => "center",
            Statistic::Rank => "rank",
            Statistic::LeaveOneOut => "leave_one_out",
            Statistic::Minmax => "minmax",
            Statistic::Winsor { .. } => "winsor",
            Statistic::TopFraction { .. } => "top_fraction",
            Statistic::TopCount { .. } => "top_count",
            Statistic::Softmax => "softmax",
            Statistic::SampleWithoutReplacement { .. } => "sample_without_replacement",
            Statistic::Balance => "balance",
            Statistic::Chunks { .. } => "chunks",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// Divided by n.
    Population,
    /// Divided by n - 1.
    Sample,
}

/// A running value along an axis; the axis of the argument is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scan", rename_all = "snake_case")]
pub enum Scan<Discount> {
    Sum,
    Product,
    Minimum,
    Maximum,
    /// The element after this one; 0 after the last.
    Next,
    /// The sum of this and what follows, each step discounted: sum over u >= t of discount^(u - t) * x_u.
    RewardToGo {
        discount: Discount,
    },
}

impl<Discount> Scan<Discount> {
    /// The same scan with another kind of discount.
    pub fn with_discount<Other>(self, discount: impl FnOnce(Discount) -> Other) -> Scan<Other> {
        match self {
            Scan::Sum => Scan::Sum,
            Scan::Product => Scan::Product,
            Scan::Minimum => Scan::Minimum,
            Scan::Maximum => Scan::Maximum,
            Scan::Next => Scan::Next,
            Scan::RewardToGo { discount: own } => Scan::RewardToGo { discount: discount(own) },
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Scan::Sum => "cumsum",
            Scan::Product => "cumprod",
            Scan::Minimum => "cummin",
            Scan::Maximum => "cummax",
            Scan::Next => "next",
            Scan::RewardToGo { .. } => "reward_to_go",
        }
    }
}

/// A number carried from one step of the run to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "memory", rename_all = "snake_case")]
pub enum Memory {
    /// rate * what it was + (1 - rate) * x
    Ema { rate: f64 },
    /// x of the step before.
    Previous,
}

impl Memory {
    pub fn name(self) -> &'static str {
        match self {
            Memory::Ema { .. } => "ema",
            Memory::Previous => "previous",
        }
    }
}
