//! The table of elementwise functions. To add one, add its entry here and its page of tests.

use Function::*;
use serde::{Deserialize, Serialize};

use super::definition::{
    Accuracy, FunctionDefinition, FunctionValue, Notation, Range, Units, second_is_maximum, second_is_minimum,
};
use super::expr::OpExpr::{self, Apply, Constant, Gradient, Let, Local, Operand, Output};
use super::interval;
use crate::unit;

/// Declares [`Function`] and its table at once.
macro_rules! functions {
    ($($(#[$comment:meta])* $name:ident = $definition:expr,)*) => {
        /// Elementwise functions and operators. Truth is 1, falsehood 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Function {
            $($(#[$comment])* $name,)*
        }

        impl Function {
            pub const ALL: &'static [Function] = &[$(Function::$name,)*];

            pub fn definition(self) -> &'static FunctionDefinition {
                static TABLE: [FunctionDefinition; Function::ALL.len()] = [$($definition,)*];
                &TABLE[self as usize]
            }
        }
    };
}

const X: OpExpr = Operand(0);
const Y: OpExpr = Operand(1);
const Z: OpExpr = Operand(2);
const ZERO: OpExpr = Constant(0.0);
const ONE: OpExpr = Constant(1.0);

const EXACT: Accuracy = Accuracy { ulp: 0.0, how: "chosen or exact" };
const TRUTH: Accuracy = Accuracy { ulp: 0.0, how: "true or false" };
const INSTRUCTION: Accuracy = Accuracy { ulp: 0.5, how: "an instruction" };

const fn call(parameters: &'static [&'static str], doc: &'static str) -> Notation {
    Notation::Call { parameters, doc }
}

/// Whether x is at least 0. Below it: -|x|.
const AT_LEAST_0: OpExpr = Apply(GreaterEqual, &[X, ZERO]);
const MINUS_SIZE: OpExpr = Apply(Where, &[AT_LEAST_0, Apply(Negate, &[X]), X]);

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

functions! {
    Negate = FunctionDefinition {
        name: "-",
        notation: Notation::Prefix { precedence: 7 },
        units: Units::One(unit::negation),
        value: FunctionValue::Native(|x| -x[0]),
        gradients: &[Some(Apply(Negate, &[Gradient]))],
        range: Range::Of(interval::negate),
        accuracy: EXACT,
    },
    Not = FunctionDefinition {
        name: "not ",
        notation: Notation::Prefix { precedence: 3 },
        units: Units::One(unit::truth),
        value: FunctionValue::Native(|x| truth(x[0] == 0.0)),
        gradients: &[],
        range: Range::Truth(interval::not),
        accuracy: TRUTH,
    },
    Abs = FunctionDefinition {
        name: "abs",
        notation: call(&["x"], "The absolute value."),
        units: Units::One(unit::size),
        value: FunctionValue::Native(|x| x[0].abs()),
        gradients: &[Some(Let(
            &[Apply(Less, &[X, ZERO]), Apply(Greater, &[X, ZERO]), Apply(Negate, &[Gradient])],
            &Apply(Where, &[Local(0), Local(2), Apply(Where, &[Local(1), Gradient, ZERO])]),
        ))],
        range: Range::Of(interval::abs),
        accuracy: EXACT,
    },
    Exp = FunctionDefinition {
        name: "exp",
        notation: call(&["x"], "e to the power of `x`."),
        units: Units::One(unit::exponential),
        value: FunctionValue::Native(|x| libm::exp(x[0])),
        gradients: &[Some(Apply(Multiply, &[Gradient, Output]))],
        range: Range::Increasing,
        accuracy: Accuracy {
            ulp: 1.1,
            how: "multiples of log 2 taken off, a polynomial of degree 6; subnormal results are rounded \
                  once more",
        },
    },
    Log = FunctionDefinition {
        name: "log",
        notation: call(&["x"], "The natural logarithm."),
        units: Units::One(unit::logarithm),
        value: FunctionValue::Native(|x| libm::log(x[0])),
        gradients: &[Some(Apply(Divide, &[Gradient, X]))],
        range: Range::Increasing,
        accuracy: Accuracy { ulp: 1.1, how: "the exponent taken off, a polynomial of degree 10" },
    },
    Log1p = FunctionDefinition {
        name: "log1p",
        notation: call(&["x"], "log(1 + x), exact for small `x`."),
        units: Units::One(unit::logarithm_of_sum),
        value: FunctionValue::Native(|x| libm::log1p(x[0])),
        gradients: &[Some(Apply(Divide, &[Gradient, Apply(Add, &[ONE, X])]))],
        range: Range::Increasing,
        accuracy: Accuracy { ulp: 1.6, how: "as `log`, keeping the digits that 1 + x loses; of -0 it is 0" },
    },
    Sqrt = FunctionDefinition {
        name: "sqrt",
        notation: call(&["x"], "The square root."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Native(|x| x[0].sqrt()),
        gradients: &[Some(Apply(Divide, &[Gradient, Apply(Multiply, &[Constant(2.0), Output])]))],
        range: Range::Increasing,
        accuracy: INSTRUCTION,
    },
    Tanh = FunctionDefinition {
        name: "tanh",
        notation: call(&["x"], "The hyperbolic tangent."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Native(|x| libm::tanh(x[0])),
        gradients: &[Some(Apply(
            Multiply,
            &[Gradient, Apply(Subtract, &[ONE, Apply(Multiply, &[Output, Output])])],
        ))],
        range: Range::Increasing,
        accuracy: Accuracy { ulp: 1.6, how: "a polynomial up to 0.6, then by `exp`" },
    },
    Sigmoid = FunctionDefinition {
        name: "sigmoid",
        notation: call(&["x"], "1 / (1 + exp(-x))."),
        units: Units::One(unit::fraction),
        value: FunctionValue::Native(|x| 1.0 / (1.0 + libm::exp(-x[0]))),
        gradients: &[Some(Apply(
            Multiply,
            &[Gradient, Apply(Multiply, &[Output, Apply(Subtract, &[ONE, Output])])],
        ))],
        range: Range::Increasing,
        accuracy: Accuracy {
            ulp: 2.3,
            how: "by `exp` of the negative size, so that small results keep their digits",
        },
    },
    // exp(-|x|) can't overflow. Written without `abs` and `max`: the derivative at 0 must be 1/2, also for
    // automatic differentiation of the body.
    Softplus = FunctionDefinition {
        name: "softplus",
        notation: call(&["x"], "log(1 + exp(x)); of a large `x` it is `x`, not infinity."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Body(Apply(
            Add,
            &[Apply(Where, &[AT_LEAST_0, X, ZERO]), Apply(Log1p, &[Apply(Exp, &[MINUS_SIZE])])],
        )),
        gradients: &[Some(Apply(Multiply, &[Gradient, Apply(Sigmoid, &[X])]))],
        range: Range::Increasing,
        accuracy: Accuracy {
            ulp: 3.0,
            how: "the larger of x and 0, and `log1p` of `exp` of the negative size",
        },
    },
    LogSigmoid = FunctionDefinition {
        name: "log_sigmoid",
        notation: call(&["x"], "log(sigmoid(x)), also where sigmoid(x) is too small for a number."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Body(Apply(
            Subtract,
            &[Apply(Where, &[AT_LEAST_0, ZERO, X]), Apply(Log1p, &[Apply(Exp, &[MINUS_SIZE])])],
        )),
        gradients: &[Some(Apply(Multiply, &[Gradient, Apply(Sigmoid, &[Apply(Negate, &[X])])]))],
        range: Range::Increasing,
        accuracy: Accuracy {
            ulp: 3.0,
            how: "the smaller of x and 0, less `log1p` of `exp` of the negative size",
        },
    },
    Relu = FunctionDefinition {
        name: "relu",
        notation: call(&["x"], "`x` where it is positive, else 0."),
        units: Units::One(unit::same),
        value: FunctionValue::Native(|x| if x[0] < 0.0 { 0.0 } else { x[0] }),
        gradients: &[Some(Apply(Where, &[Apply(Greater, &[X, ZERO]), Gradient, ZERO]))],
        range: Range::Increasing,
        accuracy: EXACT,
    },
    Cos = FunctionDefinition {
        name: "cos",
        notation: call(&["x"], "The cosine of `x`, in radians."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Native(|x| libm::cos(x[0])),
        gradients: &[Some(Apply(
            Multiply,
            &[Gradient, Apply(Cos, &[Apply(Add, &[X, Constant(std::f64::consts::FRAC_PI_2)])])],
        ))],
        range: Range::Of(interval::cosine),
        accuracy: Accuracy {
            ulp: 2.5,
            how: "multiples of a quarter turn taken off, up to 1024; beyond, in double precision",
        },
    },
    Floor = FunctionDefinition {
        name: "floor",
        notation: call(&["x"], "The largest whole number below or at `x`."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Native(|x| x[0].floor()),
        gradients: &[],
        range: Range::Increasing,
        accuracy: EXACT,
    },
    // The last branch has 0 and NaN: 0 has derivative 0, as everywhere else, and NaN stays NaN.
    Sign = FunctionDefinition {
        name: "sign",
        notation: call(&["x"], "1 where `x` is positive, -1 where it is negative, 0 where it is 0."),
        units: Units::One(unit::plain_number),
        value: FunctionValue::Body(Apply(
            Where,
            &[
                Apply(Greater, &[X, ZERO]),
                ONE,
                Apply(
                    Where,
                    &[
                        Apply(Less, &[X, ZERO]),
                        Constant(-1.0),
                        Apply(Where, &[Apply(Equal, &[X, ZERO]), ZERO, X]),
                    ],
                ),
            ],
        )),
        gradients: &[],
        range: Range::Increasing,
        accuracy: EXACT,
    },
    Add = FunctionDefinition {
        name: "+",
        notation: Notation::Infix { precedence: 5 },
        units: Units::Two(unit::sum),
        value: FunctionValue::Native(|x| x[0] + x[1]),
        gradients: &[Some(Gradient), Some(Gradient)],
        range: Range::Of(interval::add),
        accuracy: INSTRUCTION,
    },
    Subtract = FunctionDefinition {
        name: "-",
        notation: Notation::Infix { precedence: 5 },
        units: Units::Two(unit::difference),
        value: FunctionValue::Native(|x| x[0] - x[1]),
        gradients: &[Some(Gradient), Some(Apply(Negate, &[Gradient]))],
        range: Range::Of(interval::subtract),
        accuracy: INSTRUCTION,
    },
    Multiply = FunctionDefinition {
        name: "*",
        notation: Notation::Infix { precedence: 6 },
        units: Units::Two(unit::product),
        value: FunctionValue::Native(|x| x[0] * x[1]),
        gradients: &[Some(Apply(Multiply, &[Gradient, Y])), Some(Apply(Multiply, &[Gradient, X]))],
        range: Range::Of(interval::multiply),
        accuracy: INSTRUCTION,
    },
    Divide = FunctionDefinition {
        name: "/",
        notation: Notation::Infix { precedence: 6 },
        units: Units::Two(unit::quotient),
        value: FunctionValue::Native(|x| x[0] / x[1]),
        gradients: &[
            Some(Apply(Divide, &[Gradient, Y])),
            Some(Apply(Multiply, &[Gradient, Apply(Negate, &[Apply(Divide, &[Output, Y])])])),
        ],
        range: Range::Of(interval::divide),
        accuracy: INSTRUCTION,
    },
    Power = FunctionDefinition {
        name: "^",
        notation: Notation::Infix { precedence: 8 },
        units: Units::Two(unit::power),
        value: FunctionValue::Native(|x| libm::pow(x[0], x[1])),
        // As in PyTorch, x^0 has derivative 0 for every x, and 0^y for every y from 0. The formulas alone
        // give 0 * infinity there.
        gradients: &[
            Some(Apply(
                Where,
                &[
                    Apply(Equal, &[Y, ZERO]),
                    ZERO,
                    Apply(
                        Multiply,
                        &[Gradient, Apply(Multiply, &[Y, Apply(Power, &[X, Apply(Subtract, &[Y, ONE])])])],
                    ),
                ],
            )),
            Some(Let(
                &[Apply(Multiply, &[Output, Apply(Log, &[X])]), Apply(GreaterEqual, &[Y, ZERO])],
                &Apply(
                    Multiply,
                    &[
                        Gradient,
                        Apply(
                            Where,
                            &[
                                Apply(Equal, &[X, ZERO]),
                                Apply(Where, &[Local(1), ZERO, Local(0)]),
                                Local(0),
                            ],
                        ),
                    ],
                ),
            )),
        ],
        range: Range::Of(interval::power),
        accuracy: Accuracy {
            ulp: 3.5,
            how: "by a logarithm in two numbers; special values and signs as in IEEE 754",
        },
    },
    Minimum = FunctionDefinition {
        name: "min",
        notation: call(&["a", "b"], "The smaller of two, or the smallest along an axis."),
        units: Units::Shared,
        value: FunctionValue::Select(|x| second_is_minimum(x[0], x[1]).into()),
        gradients: &[
            Some(Apply(Where, &[Apply(Less, &[Y, X]), ZERO, Gradient])),
            Some(Apply(Where, &[Apply(Less, &[Y, X]), Gradient, ZERO])),
        ],
        range: Range::Of(interval::minimum),
        accuracy: EXACT,
    },
    Maximum = FunctionDefinition {
        name: "max",
        notation: call(&["a", "b"], "The larger of two, or the largest along an axis."),
        units: Units::Shared,
        value: FunctionValue::Select(|x| second_is_maximum(x[0], x[1]).into()),
        gradients: &[
            Some(Apply(Where, &[Apply(Greater, &[Y, X]), ZERO, Gradient])),
            Some(Apply(Where, &[Apply(Greater, &[Y, X]), Gradient, ZERO])),
        ],
        range: Range::Of(interval::maximum),
        accuracy: EXACT,
    },
    Equal = FunctionDefinition {
        name: "==",
        notation: Notation::Infix { precedence: 4 },
        units: Units::Two(unit::equality),
        value: FunctionValue::Native(|x| truth(x[0] == x[1])),
        gradients: &[],
        range: Range::Truth(interval::equal),
        accuracy: TRUTH,
    },
    NotEqual = FunctionDefinition {
        name: "!=",
        notation: Notation::Infix { precedence: 4 },
        units: Units::Two(unit::equality),
        value: FunctionValue::Native(|x| truth(x[0] != x[1])),
        gradients: &[],
        range: Range::Truth(interval::not_equal),
        accuracy: TRUTH,
    },
    Less = FunctionDefinition {
        name: "<",
        notation: Notation::Infix { precedence: 4 },
        units: Units::Two(unit::order),
        value: FunctionValue::Native(|x| truth(x[0] < x[1])),
        gradients: &[],
        range: Range::Truth(interval::less),
        accuracy: TRUTH,
    },
    LessEqual = FunctionDefinition {
        name: "<=",
        notation: Notation::Infix { precedence: 4 },
        units: Units::Two(unit::order),
        value: FunctionValue::Native(|x| truth(x[0] <= x[1])),
        gradients: &[],
        range: Range::Truth(interval::less_equal),
        accuracy: TRUTH,
    },
    Greater = FunctionDefinition {
        name: ">",
        notation: Notation::Infix { precedence: 4 },
        units: Units::Two(unit::order),
        value: FunctionValue::Native(|x| truth(x[0] > x[1])),
        gradients: &[],
        range: Range::Truth(interval::greater),
        accuracy: TRUTH,
    },
    GreaterEqual = FunctionDefinition {
        name: ">=",
        notation: Notation::Infix { precedence: 4 },
        units: Units::Two(unit::order),
        value: FunctionValue::Native(|x| truth(x[0] >= x[1])),
        gradients: &[],
        range: Range::Truth(interval::greater_equal),
        accuracy: TRUTH,
    },
    // Every number but 0 is true, also NaN.
    And = FunctionDefinition {
        name: "and",
        notation: Notation::Infix { precedence: 2 },
        units: Units::Two(unit::logic),
        value: FunctionValue::Native(|x| truth(x[0] != 0.0 && x[1] != 0.0)),
        gradients: &[],
        range: Range::Truth(interval::and),
        accuracy: TRUTH,
    },
    Or = FunctionDefinition {
        name: "or",
        notation: Notation::Infix { precedence: 1 },
        units: Units::Two(unit::logic),
        value: FunctionValue::Native(|x| truth(x[0] != 0.0 || x[1] != 0.0)),
        gradients: &[],
        range: Range::Truth(interval::or),
        accuracy: TRUTH,
    },
    /// `clip(x, low, high)`: NaN stays NaN.
    Clip = FunctionDefinition {
        name: "clip",
        notation: call(&["x", "low", "high"], "`x` clamped between two bounds."),
        units: Units::Shared,
        value: FunctionValue::Select(|x| {
            let raised = second_is_maximum(x[0], x[1]).into();
            if second_is_minimum(x[raised], x[2]) { 2 } else { raised }
        }),
        gradients: &[
            Some(Let(
                &[Apply(Less, &[X, Y]), Apply(Greater, &[X, Z])],
                &Apply(Where, &[Local(1), ZERO, Apply(Where, &[Local(0), ZERO, Gradient])]),
            )),
            // Bounds may cross, and then the upper one is the value.
            Some(Let(
                &[Apply(Less, &[X, Y]), Apply(Greater, &[Y, Z])],
                &Apply(Where, &[Local(1), ZERO, Apply(Where, &[Local(0), Gradient, ZERO])]),
            )),
            Some(Let(
                &[Apply(Maximum, &[X, Y])],
                &Apply(Where, &[Apply(Greater, &[Local(0), Z]), Gradient, ZERO]),
            )),
        ],
        range: Range::Of(interval::clip),
        accuracy: EXACT,
    },
    /// `where(condition, then, else)`
    Where = FunctionDefinition {
        name: "where",
        notation: call(
            &["condition", "then", "else"],
            "`then` where the condition holds, `else` where it does not, element by element.",
        ),
        units: Units::Shared,
        value: FunctionValue::Select(|x| if x[0] != 0.0 { 1 } else { 2 }),
        gradients: &[
            None,
            Some(Apply(Where, &[X, Gradient, ZERO])),
            Some(Apply(Where, &[X, ZERO, Gradient])),
        ],
        range: Range::Of(interval::choose),
        accuracy: EXACT,
    },
}
