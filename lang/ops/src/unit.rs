//! The units of numbers, and the rules of combining them.

/// The unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A plain number: a literal or a product. In a sum it takes the unit of the other side.
    Number,
    /// The log of a probability.
    Logp,
    Prob,
    /// A quotient of two numbers of one unit.
    Ratio,
    /// A difference of log-probabilities, an entropy, a divergence.
    Nats,
    /// A reward, a score, a data field.
    Real,
    /// In [0, 1].
    Fraction,
    /// A whole number of things.
    Count,
    Bool,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Number => "number",
            Unit::Logp => "logp",
            Unit::Prob => "prob",
            Unit::Ratio => "ratio",
            Unit::Nats => "nats",
            Unit::Real => "real",
            Unit::Fraction => "fraction",
            Unit::Count => "count",
            Unit::Bool => "bool",
        }
    }
}

/// The reason why a function does not accept a unit, and a fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub message: &'static str,
    pub help: Option<&'static str>,
}

const NO_NUMBER: Mismatch =
    Mismatch { message: "expected a number, found a bool", help: Some("use `where(condition, then, else)`") };

const LOG_OF_LOG: Mismatch = Mismatch {
    message: "the log of something that is a log already",
    help: Some("drop the `log`, or take `exp` first"),
};

/// A plain number from any number; an error for a bool.
pub(crate) fn plain_number(of: Unit) -> Result<Unit, Mismatch> {
    if of == Unit::Bool { Err(NO_NUMBER) } else { Ok(Unit::Number) }
}

pub(crate) fn fraction(of: Unit) -> Result<Unit, Mismatch> {
    plain_number(of).map(|_| Unit::Fraction)
}

pub(crate) fn same(of: Unit) -> Result<Unit, Mismatch> {
    plain_number(of).map(|_| of)
}

pub(crate) fn size(of: Unit) -> Result<Unit, Mismatch> {
    same(of).map(|unit| if unit == Unit::Logp { Unit::Nats } else { unit })
}

pub(crate) fn exponential(of: Unit) -> Result<Unit, Mismatch> {
    match of {
        Unit::Logp => Ok(Unit::Prob),
        Unit::Nats => Ok(Unit::Ratio),
        other => plain_number(other),
    }
}

pub(crate) fn logarithm(of: Unit) -> Result<Unit, Mismatch> {
    match of {
        Unit::Prob => Ok(Unit::Logp),
        Unit::Ratio | Unit::Count => Ok(Unit::Nats),
        other => logarithm_of_sum(other),
    }
}

pub(crate) fn logarithm_of_sum(of: Unit) -> Result<Unit, Mismatch> {
    match of {
        Unit::Logp | Unit::Nats => Err(LOG_OF_LOG),
        other => plain_number(other),
    }
}

pub(crate) fn negation(of: Unit) -> Result<Unit, Mismatch> {
    match of {
        Unit::Bool => {
            Err(Mismatch { message: "a bool can't be negated with `-`", help: Some("write `not`") })
        }
        other => Ok(other),
    }
}

pub(crate) fn truth(of: Unit) -> Result<Unit, Mismatch> {
    match of {
        Unit::Bool => Ok(Unit::Bool),
        _ => Err(Mismatch { message: "`not` needs a bool", help: None }),
    }
}

/// Dimensionless numbers, which mix freely.
fn plain(unit: Unit) -> bool {
    matches!(unit, Unit::Number | Unit::Ratio | Unit::Fraction | Unit::Count)
}

/// The common unit of the two sides of a comparison, a `min` or a `where`.
pub fn common_unit(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (l, r) if l == r => Some(l),
        (Unit::Bool, _) | (_, Unit::Bool) => None,
        (Unit::Number, other) | (other, Unit::Number) => Some(other),
        (l, r) if plain(l) && plain(r) => Some(Unit::Number),
        // The author defines rewards, so their bounds may be ratios or fractions as well as anything
        // else.
        (Unit::Real, r) if plain(r) => Some(Unit::Real),
        (l, Unit::Real) if plain(l) => Some(Unit::Real),
        _ => None,
    }
}

pub(crate) fn equality(left: Unit, right: Unit) -> Option<Unit> {
    common_unit(left, right).map(|_| Unit::Bool)
}

/// The unit of an order comparison. Bools have no order.
pub(crate) fn order(left: Unit, right: Unit) -> Option<Unit> {
    common_unit(left, right).filter(|unit| *unit != Unit::Bool).map(|_| Unit::Bool)
}

pub(crate) fn logic(left: Unit, right: Unit) -> Option<Unit> {
    (left == Unit::Bool && right == Unit::Bool).then_some(Unit::Bool)
}

pub(crate) fn sum(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        // log p + log q is the log of a product; log p + nats is a scaled probability.
        (Unit::Logp, Unit::Nats) | (Unit::Nats, Unit::Logp) => Some(Unit::Logp),
        // exp(d) - 1 - d, the unbiased estimator "k3", is made of a ratio and its own log.
        (Unit::Ratio, Unit::Nats) | (Unit::Nats, Unit::Ratio) => Some(Unit::Number),
        (Unit::Bool, Unit::Bool) => None,
        _ => common_unit(left, right),
    }
}

pub(crate) fn difference(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (Unit::Logp, Unit::Logp) => Some(Unit::Nats),
        _ => sum(left, right),
    }
}

/// A product with a literal keeps the unit; any other product is a plain number, so that `alpha * reward` may
/// be added to nats while a bare reward may not.
pub(crate) fn product(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (Unit::Bool, other) | (other, Unit::Bool) => (other != Unit::Bool).then_some(other),
        (Unit::Number | Unit::Count, Unit::Real) | (Unit::Real, Unit::Number | Unit::Count) => {
            Some(Unit::Number)
        }
        (Unit::Number | Unit::Count, other) | (other, Unit::Number | Unit::Count) => Some(other),
        (Unit::Fraction, Unit::Fraction) => Some(Unit::Fraction),
        (Unit::Ratio, Unit::Prob) | (Unit::Prob, Unit::Ratio) | (Unit::Prob, Unit::Prob) => Some(Unit::Prob),
        _ => Some(Unit::Number),
    }
}

pub(crate) fn quotient(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (Unit::Bool, _) | (_, Unit::Bool) => None,
        (Unit::Logp, Unit::Logp) => Some(Unit::Ratio),
        (Unit::Number, Unit::Number) => Some(Unit::Number),
        (l, r) if l == r => Some(Unit::Ratio),
        (l, Unit::Number | Unit::Count | Unit::Ratio | Unit::Fraction) => Some(l),
        _ => Some(Unit::Number),
    }
}

pub(crate) fn power(left: Unit, right: Unit) -> Option<Unit> {
    ((plain(left) || matches!(left, Unit::Nats | Unit::Real | Unit::Prob)) && plain(right))
        .then_some(if left == Unit::Ratio { Unit::Ratio } else { Unit::Number })
}
