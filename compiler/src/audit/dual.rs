//! Numbers that carry their derivative by the student's logits.

use mopd_lang::formula::Function;

/// Two numbers that agree to this share of their size are equal: what is left of their difference is
/// rounding.
const ROUNDING: f64 = 1e-13;

/// `sum`, of two parts of these sizes; exactly 0 where they cancel. So a difference of two computations of
/// one number has no value and no gradient, in place of one of 1e-17, which would pass for a small one.
fn cancelled(sum: f64, left: f64, right: f64) -> f64 {
    if sum.is_finite() && sum.abs() <= ROUNDING * (left.abs() + right.abs()) { 0.0 } else { sum }
}

/// A number and its derivative by every logit; no derivative at all where no gradient flows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dual {
    pub value: f64,
    /// One number per logit, or none.
    pub gradient: Vec<f64>,
}

impl Dual {
    pub fn plain(value: f64) -> Dual {
        Dual { value, gradient: Vec::new() }
    }

    pub fn truth(&self) -> bool {
        self.value != 0.0
    }

    pub fn is_finite(&self) -> bool {
        self.value.is_finite() && self.gradient.iter().all(|slope| slope.is_finite())
    }

    /// A function of this number, given its value and its slope here.
    fn through(&self, value: f64, slope: f64) -> Dual {
        Dual { value, gradient: self.gradient.iter().map(|inner| slope * inner).collect() }
    }

    /// A function of two numbers, given its value and both slopes.
    fn through_both(&self, other: &Dual, value: f64, (own, others): (f64, f64)) -> Dual {
        let gradient = match (self.gradient.is_empty(), other.gradient.is_empty()) {
            (_, true) => return self.through(value, own),
            (true, false) => return other.through(value, others),
            (false, false) => {
                let both = self.gradient.iter().zip(&other.gradient).map(|(a, b)| (own * a, others * b));
                both.map(|(a, b)| cancelled(a + b, a, b)).collect()
            }
        };
        Dual { value, gradient }
    }

    pub fn add(&self, other: &Dual) -> Dual {
        let value = cancelled(self.value + other.value, self.value, other.value);
        self.through_both(other, value, (1.0, 1.0))
    }

    pub fn subtract(&self, other: &Dual) -> Dual {
        let value = cancelled(self.value - other.value, self.value, other.value);
        self.through_both(other, value, (1.0, -1.0))
    }

    pub fn multiply(&self, other: &Dual) -> Dual {
        self.through_both(other, self.value * other.value, (other.value, self.value))
    }

    pub fn divide(&self, other: &Dual) -> Dual {
        let slopes = (1.0 / other.value, -self.value / (other.value * other.value));
        self.through_both(other, self.value / other.value, slopes)
    }

    pub fn scale(&self, by: f64) -> Dual {
        self.through(self.value * by, by)
    }

    pub fn log(&self) -> Dual {
        self.through(self.value.ln(), 1.0 / self.value)
    }

    pub fn sqrt(&self) -> Dual {
        let root = self.value.sqrt();
        self.through(root, 0.5 / root)
    }

    pub fn abs(&self) -> Dual {
        // As automatic differentiation has it: no slope at 0.
        let slope = if self.value == 0.0 { 0.0 } else { self.value.signum() };
        self.through(self.value.abs(), slope)
    }

    pub fn power(&self, exponent: &Dual) -> Dual {
        let value = self.value.powf(exponent.value);
        let own =
            if exponent.value == 0.0 { 0.0 } else { exponent.value * self.value.powf(exponent.value - 1.0) };
        let others = if exponent.gradient.is_empty() { 0.0 } else { value * self.value.ln() };
        self.through_both(exponent, value, (own, others))
    }

    /// Of two equals, the first has the gradient.
    pub fn minimum(&self, other: &Dual) -> Dual {
        if self.value <= other.value || self.value.is_nan() { self.clone() } else { other.clone() }
    }

    pub fn maximum(&self, other: &Dual) -> Dual {
        if self.value >= other.value || self.value.is_nan() { self.clone() } else { other.clone() }
    }

    /// `x * log(x / y)`, 0 where `x` is 0.
    pub fn times_log_ratio(&self, other: &Dual) -> Dual {
        if self.value == 0.0 {
            return Dual::plain(0.0);
        }
        self.multiply(&self.divide(other).log())
    }
}

pub(super) fn sum<'a>(parts: impl IntoIterator<Item = &'a Dual>) -> Dual {
    parts.into_iter().fold(Dual::plain(0.0), |sum, part| sum.add(part))
}

/// An elementwise function. Slopes where there is none are chosen as the compiler's derivative chooses them:
/// `clip` passes gradient inside and at its bounds, of two equals the first has it, comparisons and truth
/// values have none.
pub(super) fn apply(function: Function, operands: &[&Dual]) -> Dual {
    use Function::*;
    let truth = |truth: bool| Dual::plain(if truth { 1.0 } else { 0.0 });
    match (function, operands) {
        (Negate, [x]) => x.scale(-1.0),
        (Not, [x]) => truth(!x.truth()),
        (Abs, [x]) => x.abs(),
        (Exp, [x]) => x.through(x.value.exp(), x.value.exp()),
        (Log, [x]) => x.log(),
        (Log1p, [x]) => x.through(x.value.ln_1p(), 1.0 / (1.0 + x.value)),
        (Sqrt, [x]) => x.sqrt(),
        (Tanh, [x]) => x.through(x.value.tanh(), 1.0 - x.value.tanh() * x.value.tanh()),
        (Sigmoid, [x]) => {
            let value = 1.0 / (1.0 + (-x.value).exp());
            x.through(value, value * (1.0 - value))
        }
        (Relu, [x]) => x.through(x.value.max(0.0), if x.value > 0.0 { 1.0 } else { 0.0 }),
        (Cos, [x]) => x.through(x.value.cos(), -x.value.sin()),
        (Floor, [x]) => Dual::plain(x.value.floor()),
        (Add, [x, y]) => x.add(y),
        (Subtract, [x, y]) => x.subtract(y),
        (Multiply, [x, y]) => x.multiply(y),
        (Divide, [x, y]) => x.divide(y),
        (Power, [x, y]) => x.power(y),
        (Minimum, [x, y]) => x.minimum(y),
        (Maximum, [x, y]) => x.maximum(y),
        (Equal, [x, y]) => truth(x.value == y.value),
        (NotEqual, [x, y]) => truth(x.value != y.value),
        (Less, [x, y]) => truth(x.value < y.value),
        (LessEqual, [x, y]) => truth(x.value <= y.value),
        (Greater, [x, y]) => truth(x.value > y.value),
        (GreaterEqual, [x, y]) => truth(x.value >= y.value),
        (And, [x, y]) => truth(x.truth() && y.truth()),
        (Or, [x, y]) => truth(x.truth() || y.truth()),
        (Clip, [x, low, high]) => {
            if x.value < low.value {
                (*low).clone()
            } else if x.value > high.value {
                (*high).clone()
            } else {
                (*x).clone()
            }
        }
        (Where, [condition, then, otherwise]) => (if condition.truth() { *then } else { *otherwise }).clone(),
        _ => unreachable!("the checker gives every function the operands it takes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The derivative of every smooth function against a difference quotient.
    #[test]
    fn slopes_agree_with_differences() {
        use Function::*;
        let at = |function: Function, x: f64, y: f64, seeds: [f64; 2]| {
            let dual = |value: f64, seed: f64| Dual { value, gradient: vec![seed] };
            let (x, y) = (dual(x, seeds[0]), dual(y, seeds[1]));
            let operands = [&x, &y];
            apply(function, &operands[..function.operands().min(2)])
        };
        for function in [
            Negate, Abs, Exp, Log, Log1p, Sqrt, Tanh, Sigmoid, Relu, Cos, Add, Subtract, Multiply, Divide,
            Power, Minimum, Maximum,
        ] {
            for (x, y) in [(0.7, 1.3), (2.1, 0.4)] {
                for seeds in [[1.0, 0.0], [0.0, 1.0]] {
                    let step = 1e-6;
                    let value = |sign: f64| {
                        at(function, x + sign * step * seeds[0], y + sign * step * seeds[1], seeds).value
                    };
                    let slope = (value(1.0) - value(-1.0)) / (2.0 * step);
                    let known = at(function, x, y, seeds).gradient[0];
                    assert!((slope - known).abs() < 1e-7, "{function:?} at {x}, {y}: {slope} {known}");
                }
            }
        }
    }

    #[test]
    fn bounds_pass_gradient_inside_and_at_themselves() {
        let clip = |x: f64| {
            let x = Dual { value: x, gradient: vec![1.0] };
            apply(Function::Clip, &[&x, &Dual::plain(-1.0), &Dual::plain(1.0)]).gradient
        };
        assert_eq!([clip(1.0), clip(0.0)], [vec![1.0], vec![1.0]]);
        assert_eq!(clip(2.0), Vec::<f64>::new());
    }
}
