//! What graphs are made of: the signals, divergences and statistics that the runtime can compute.

pub use mopd_lang::formula::{Axis, Deviation, Function, Mass, Memory, Reduction, Scan, Statistic};
use serde::{Deserialize, Serialize};

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
    /// A number drawn uniformly from [0, 1) for each element, another for each `draw`: what random selections are made by.
    Uniform { draw: u32, axis: Axis },
    /// A signal of the language, as it is written there, that the runtime does not supply: no plan that runs has one.
    Other { text: String, axis: Axis },
}

impl Signal {
    pub fn axis(&self) -> Axis {
        match self {
            Signal::Logp { .. } | Signal::Entropy { .. } | Signal::Top1 { .. } => Axis::Token,
            Signal::Divergence(_) | Signal::Position => Axis::Token,
            Signal::Length | Signal::Truncated | Signal::Reward | Signal::Correct => Axis::Sequence,
            Signal::Progress | Signal::Step => Axis::Run,
            Signal::Uniform { axis, .. } | Signal::Other { axis, .. } => *axis,
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

/// What gradient flows through, as one number per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "live", rename_all = "snake_case")]
pub enum Live {
    /// `live student.logp`: log-probability of the token taken.
    Logp,
    /// `live kl(...)`: exact over the vocabulary.
    Divergence(Divergence),
    /// A primitive of the language, as it is written there, that the runtime does not supply: no plan that runs has one.
    Other { text: String },
}
