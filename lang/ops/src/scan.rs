//! Running values along an axis, and numbers carried from step to step.

use serde::{Deserialize, Serialize};

use crate::entry::{OperatorEntry, same};
use crate::{Unit, maximum, minimum};

/// A running value along an axis; the result has the argument's axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scan", rename_all = "snake_case")]
pub enum Scan<Discount> {
    Sum,
    Product,
    Minimum,
    Maximum,
    /// The element after this one; 0 after the last.
    Next,
    /// The discounted sum of this element and those after it: sum over u >= t of discount^(u - t) * x_u.
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

    pub fn definition(&self) -> OperatorEntry {
        const USUAL: OperatorEntry = OperatorEntry {
            name: "",
            usage: "",
            doc: "",
            unit: |of| if of == Unit::Bool { Unit::Count } else { of },
        };
        match self {
            Scan::Sum => OperatorEntry {
                name: "cumsum",
                usage: "cumsum(x, over: sequence)",
                doc: "The sum so far, this element included.",
                ..USUAL
            },
            Scan::Product => OperatorEntry {
                name: "cumprod",
                usage: "cumprod(x, over: sequence)",
                doc: "The product so far, this element included.",
                unit: product,
            },
            Scan::Minimum => OperatorEntry {
                name: "cummin",
                usage: "cummin(x, over: sequence)",
                doc: "The smallest so far, this element included.",
                unit: same,
            },
            Scan::Maximum => OperatorEntry {
                name: "cummax",
                usage: "cummax(x, over: sequence)",
                doc: "The largest so far, this element included.",
                unit: same,
            },
            Scan::Next => OperatorEntry {
                name: "next",
                usage: "next(student.value, over: sequence)",
                doc: "The element after this one; 0 after the last.",
                ..USUAL
            },
            Scan::RewardToGo { .. } => OperatorEntry {
                name: "reward_to_go",
                usage: "reward_to_go(x, discount: 1, over: sequence)",
                doc: "The discounted sum of this element and all later ones.",
                ..USUAL
            },
        }
    }

    pub fn name(&self) -> &'static str {
        self.definition().name
    }

    /// Whether it runs from the last element to the first.
    pub fn is_backwards(&self) -> bool {
        matches!(self, Scan::Next | Scan::RewardToGo { .. })
    }
}

impl Scan<()> {
    /// One of each.
    pub const EACH: [Scan<()>; 6] = [
        Scan::Sum,
        Scan::Product,
        Scan::Minimum,
        Scan::Maximum,
        Scan::Next,
        Scan::RewardToGo { discount: () },
    ];
}

impl Scan<f64> {
    /// The accumulator before the first element.
    pub fn start(self) -> f64 {
        if self == Scan::Product { 1.0 } else { 0.0 }
    }

    /// The accumulator after one more element; `first` marks the first one.
    #[inline]
    pub fn step(self, so_far: f64, first: bool, x: f64) -> f64 {
        match self {
            Scan::Sum => so_far + x,
            Scan::Product => so_far * x,
            Scan::Minimum | Scan::Maximum if first => x,
            Scan::Minimum => minimum(so_far, x),
            Scan::Maximum => maximum(so_far, x),
            Scan::Next => x,
            Scan::RewardToGo { discount } => x + discount * so_far,
        }
    }
}

fn product(of: Unit) -> Unit {
    match of {
        Unit::Bool | Unit::Prob | Unit::Ratio | Unit::Fraction => of,
        _ => Unit::Number,
    }
}

/// A number carried from one step of the run to the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "memory", rename_all = "snake_case")]
pub enum Memory {
    /// rate * (previous value) + (1 - rate) * x
    Ema { rate: f64 },
    /// The x of the previous step.
    Previous,
}

impl Memory {
    /// One of each, with placeholder numbers.
    pub const EACH: [Memory; 2] = [Memory::Ema { rate: 0.9 }, Memory::Previous];

    pub fn definition(self) -> OperatorEntry {
        match self {
            Memory::Ema { .. } => OperatorEntry {
                name: "ema",
                usage: "ema(mean(x, over: batch), rate: 0.9)",
                doc: "Exponential moving average over the steps of the run: `rate` times the old value plus \
                      `1 - rate` times the new one; at the first step the new one.",
                unit: same,
            },
            Memory::Previous => OperatorEntry {
                name: "previous",
                usage: "previous(loss)",
                doc: "The value of the previous step; at the first step the current value.",
                unit: same,
            },
        }
    }

    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// The value, from the current x and the value carried from the previous step (`None` at the first step).
    pub fn value(self, now: f64, before: Option<f64>) -> f64 {
        match (self, before) {
            (_, None) => now,
            (Memory::Ema { rate }, Some(before)) => rate * before + (1.0 - rate) * now,
            (Memory::Previous, Some(before)) => before,
        }
    }
}
