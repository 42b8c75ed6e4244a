//! Typed formulas: what a term, weight or selection computes, with the unit and axis of every part.
//!
//! A formula is a tree with shared parts (`let` binds once, is read often). Names, functions and constants are gone:
//! the checker has resolved, inlined and evaluated them.

use std::collections::HashSet;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::experiment::{Origin, Schedule};

/// What a number measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A plain number: a literal or a product. It takes the unit of what it is added to.
    Number,
    /// The log of a probability.
    Logp,
    Prob,
    /// A quotient of like things.
    Ratio,
    /// A difference of log-probabilities, an entropy, a divergence.
    Nats,
    /// A reward.
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

/// Along what a number varies, coarse to fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    Run,
    Batch,
    Group,
    Sequence,
    Token,
}

impl Axis {
    pub fn name(self) -> &'static str {
        match self {
            Axis::Run => "run",
            Axis::Batch => "batch",
            Axis::Group => "group",
            Axis::Sequence => "sequence",
            Axis::Token => "token",
        }
    }
}

/// Whose probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Student,
    /// Whatever the route chose for the prompt's domain.
    Teacher,
    /// The policy that generated the tokens, at the temperature it used.
    Sampler,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Student => "student",
            Role::Teacher => "teacher",
            Role::Sampler => "sampler",
        }
    }
}

/// A number already computed: it carries no gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// Log-probability of the token taken. Per token, logp.
    Logp { role: Role },
    /// Entropy of the next-token distribution. Per token, nats.
    Entropy { role: Role },
    /// Largest probability of the next-token distribution. Per token, prob.
    Top1 { role: Role },
    /// A divergence between two roles at this prefix. Per token, nats.
    Divergence(Divergence),
    /// Index of the token in its completion, from 0. Per token, count.
    Position,
    /// Number of completion tokens. Per sequence, count.
    Length,
    /// 1 where the completion was cut off before its end token. Per sequence, bool.
    Truncated,
    /// The verifier's verdict. Per sequence, real.
    Reward,
    /// `reward >= 1`. Per sequence, bool.
    Correct,
    /// step / steps. Run, fraction.
    Progress,
    /// The step, from 0. Run, count.
    Step,
}

impl Signal {
    pub fn axis(&self) -> Axis {
        match self {
            Signal::Logp { .. } | Signal::Entropy { .. } | Signal::Top1 { .. } => Axis::Token,
            Signal::Divergence(_) | Signal::Position => Axis::Token,
            Signal::Length | Signal::Truncated | Signal::Reward | Signal::Correct => Axis::Sequence,
            Signal::Progress | Signal::Step => Axis::Run,
        }
    }

    /// The roles whose distributions must be known.
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Signal::Logp { role } | Signal::Entropy { role } | Signal::Top1 { role } => vec![*role],
            Signal::Divergence(divergence) => divergence.roles(),
            _ => Vec::new(),
        }
    }
}

/// A divergence between next-token distributions, as `kl(left || right, support: ..., mass: ...)` says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    pub kind: DivergenceKind,
    pub left: Role,
    pub right: Role,
    pub support: Support,
    pub mass: Mass,
}

impl Divergence {
    /// Whether the student's distribution is one of the two sides.
    pub fn reads_student(&self) -> bool {
        self.left == Role::Student || self.right == Role::Student
    }

    pub fn roles(&self) -> Vec<Role> {
        let mut roles = vec![self.left, self.right];
        if let Support::TopK { role, .. } = self.support {
            roles.push(role);
        }
        roles.sort();
        roles.dedup();
        roles
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "divergence", rename_all = "snake_case")]
pub enum DivergenceKind {
    /// sum of left * log(left / right)
    Kl,
    /// beta * KL(left || m) + (1 - beta) * KL(right || m), m = beta * left + (1 - beta) * right
    Jsd { beta: f64 },
    /// half the sum of |left - right|
    TotalVariation,
}

/// Which vocabulary entries take part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "support", rename_all = "snake_case")]
pub enum Support {
    Full,
    /// The `k` entries that `role` finds most probable.
    TopK {
        role: Role,
        k: u32,
    },
}

/// What is done about the probability outside the support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mass {
    /// Both sides divided by their mass on the support.
    Renormalized,
    /// One more entry holds the rest.
    Tail,
    /// Each summand of the divergence gets `- left + right`, so that left = right is a stationary point (arXiv:2606.30406, eq. 5).
    Generalized,
    /// The bare partial sum.
    Raw,
}

/// What gradient flows through, as one number per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "live", rename_all = "snake_case")]
pub enum Live {
    /// `live student.logp`: log-probability of the token taken.
    Logp,
    /// `live kl(...)`: exact over the vocabulary.
    Divergence(Divergence),
}

/// Elementwise operations. Truth is 1, falsehood 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    Negate,
    Not,
    Abs,
    Exp,
    Log,
    Log1p,
    Sqrt,
    Tanh,
    Sigmoid,
    Relu,
    Add,
    Subtract,
    Multiply,
    Divide,
    Power,
    Minimum,
    Maximum,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
    /// `clip(x, low, high)`: NaN stays NaN.
    Clip,
    /// `where(condition, then, else)`
    Where,
}

impl Function {
    pub fn operands(self) -> usize {
        use Function::*;
        match self {
            Negate | Not | Abs | Exp | Log | Log1p | Sqrt | Tanh | Sigmoid | Relu => 1,
            Clip | Where => 3,
            _ => 2,
        }
    }
}

/// Many numbers to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    Sum,
    Mean,
    Minimum,
    Maximum,
}

/// Each number compared with its peers over an axis; the axis of the argument is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "statistic", rename_all = "snake_case")]
pub enum Statistic {
    /// (x - mean) / (deviation + epsilon); 0 where all are equal.
    Zscore { deviation: Deviation },
    /// (x - min) / (max - min); 0 where all are equal.
    Minmax,
    /// Values above the `upper` quantile are set to it.
    Winsor { upper: f64 },
    /// True for the `keep` fraction with the largest values, ties broken by position.
    TopFraction { keep: f64 },
    /// exp(x) / sum of exp(x)
    Softmax,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// Divided by n.
    Population,
    /// Divided by n - 1.
    Sample,
}

/// A formula with its type. Cheap to clone: parts are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Formula(pub Rc<FormulaNode>);

#[derive(Clone, Debug, PartialEq)]
pub struct FormulaNode {
    pub kind: FormulaKind,
    pub unit: Unit,
    pub axis: Axis,
    /// Gradient flows through some part of it.
    pub live: bool,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FormulaKind {
    Number(f64),
    Schedule(Schedule),
    Signal(Signal),
    Live(Live),
    Apply {
        function: Function,
        operands: Vec<Formula>,
    },
    /// Puts the elements of the argument's axis together within each element of `over`, which is this formula's axis.
    Reduce {
        reduction: Reduction,
        operand: Formula,
    },
    /// Compares elements of the argument's axis within each element of `over`.
    Statistic {
        statistic: Statistic,
        operand: Formula,
        over: Axis,
    },
}

impl Formula {
    pub fn new(kind: FormulaKind, unit: Unit, axis: Axis, live: bool, origin: Origin) -> Formula {
        Formula(Rc::new(FormulaNode { kind, unit, axis, live, origin }))
    }

    pub fn unit(&self) -> Unit {
        self.0.unit
    }

    pub fn axis(&self) -> Axis {
        self.0.axis
    }

    pub fn live(&self) -> bool {
        self.0.live
    }

    /// Its direct parts.
    pub fn operands(&self) -> &[Formula] {
        match &self.0.kind {
            FormulaKind::Apply { operands, .. } => operands,
            FormulaKind::Reduce { operand, .. } | FormulaKind::Statistic { operand, .. } => std::slice::from_ref(operand),
            _ => &[],
        }
    }

    /// Whether some part passes the test. Shared parts are looked at once: a chain of `let`s that each use the last one twice
    /// has few parts but very many paths.
    pub fn any(&self, test: impl Fn(&FormulaNode) -> bool) -> bool {
        let mut seen: HashSet<*const FormulaNode> = HashSet::new();
        let mut waiting = vec![self];
        while let Some(formula) = waiting.pop() {
            if !seen.insert(Rc::as_ptr(&formula.0)) {
                continue;
            }
            if test(&formula.0) {
                return true;
            }
            waiting.extend(formula.operands());
        }
        false
    }

    /// Whether some part reads the distribution of `role`.
    pub fn reads(&self, role: Role) -> bool {
        self.any(|node| match &node.kind {
            FormulaKind::Signal(signal) => signal.roles().contains(&role),
            FormulaKind::Live(Live::Logp) => role == Role::Student,
            FormulaKind::Live(Live::Divergence(divergence)) => divergence.roles().contains(&role),
            _ => false,
        })
    }
}
