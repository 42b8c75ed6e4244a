//! What graphs are made of: the signals, divergences and statistics that the runtime can compute.

pub use mopd_lang::formula::{
    Axis, Deviation, Function, Mass, Memory, Reduction, Scan, Statistic, StepNumber, StepWindow,
};
use serde::{Deserialize, Serialize};

use super::graph::{Graph, NodeId};
pub use super::roles::Role;

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
    /// Rank of the token taken, 1 for the most probable; equals share the better rank. Per token, count.
    Rank { role: Role },
    /// Log-probability of ending here. Per token, logp.
    EndLogp { role: Role },
    /// What the scalar head of a role says of the prefix: of all that stands before the token. Per token,
    /// real.
    Value { role: Role },
    /// Share of the `k` most probable entries of one that are among the other's. Per token, fraction.
    Overlap { left: Role, right: Role, k: u32 },
    /// Probability that `role` gives to a support. Per token, prob.
    Mass { role: Role, support: Support },
    /// The token taken is in the nucleus of `role`, as [`Support::Nucleus`] has it. Per token, bool.
    InNucleus { role: Role, p: f64 },
    /// Number of entries of a support. Per token, count.
    SupportSize { support: Support },
    /// A divergence between two roles at this prefix. Per token, nats.
    Divergence(Divergence),
    /// Index of the token in its completion, from 0. Per token, count.
    Position,
    /// The token is between `<tag>` and `</tag>`. Per token, bool.
    InSpan { tag: String },
    /// Of a trajectory that is sampled with drafts: 1 where the token is of it, 0 where it is of a draft,
    /// from the first token that was rejected on. Per token, bool.
    Accepted,
    /// Which head wrote the token: 0 for the first of a step, 1 for the second. Per token, count.
    Head,
    /// How likely the student's second head finds that its token stands, before it is drawn; 1 for tokens of
    /// the first head, which always stand. Per token, prob.
    Confidence,
    /// Place in such a draft, from 1 at the first token that was rejected; 0 in the trajectory. Per token,
    /// count.
    Offset,
    /// Number of completion tokens. Per sequence, count.
    Length,
    /// 1 where the completion was cut off before its end token. Per sequence, bool.
    Truncated,
    /// The verifier's verdict. Per sequence, real.
    Reward,
    /// `reward >= 1`. Per sequence, bool.
    Correct,
    /// 1 for the preferred completion of a pair, 0 for the other. Per sequence, bool.
    Chosen,
    /// 1 where a role has something to read for the completion; where it is of a panel, where it answered.
    /// Per sequence, bool.
    Available { role: Role },
    /// Whether a completion of a role's own is right: of the same prompt, by the same settings, and of the
    /// same place among those of the prompt. Per sequence, bool.
    CorrectOf { role: Role },
    /// How much a role that goes on from where a block begins writes what stands there: of `samples`
    /// continuations, as long as the block, the sum of 1 minus the edit distance over the longer text. Per
    /// block, number.
    Agreement { role: Role, samples: u32 },
    /// The confidence that a member of a panel stated for the prompt; NaN where it stated none. Per sequence,
    /// real.
    StatedConfidence { role: Role },
    /// What one part of the verifier said of the completion, a number in [0, 1]. Per sequence, fraction.
    RewardPart { part: String },
    /// step / steps. Run, fraction.
    Progress,
    /// The step, from 0. Run, count.
    Step,
    /// The loss of the step before, of all terms together; 1 at the first step. Run, number.
    Loss,
    /// That of one term, before `weight`; 1 at the first step. Run, number.
    TermLoss { term: String },
    /// A number that the objective carries from step to step, as the step began with it. Run, or domain.
    State {
        name: String,
        #[serde(default = "run", skip_serializing_if = "is_run")]
        axis: Axis,
    },
    /// The loss on validation rows, as it was computed last: before this step, or before an earlier one. Run,
    /// number.
    ValidationLoss,
    /// What a guard reads of the steps so far; no objective has one. Run, each in its unit.
    OfSteps { number: StepNumber, window: StepWindow },
    /// Mean log-probability that the student gives, at temperature 1, to the tokens of a field of the
    /// prompts' rows: of the rows of the step's groups, before the step. Batch, logp.
    RecordedLogp { field: String },
    /// Of completions that are drawn of each prompt before steps, for a choice of prompts: one of its
    /// measures. Group, number.
    Measured { measure: u32 },
    /// Number of tokens that the student's tokenizer has. Run, count.
    VocabularySize,
    /// A field of the prompt's row: a number, or a bool. Per sequence, real.
    Data { field: String },
    /// Whether a field of the prompt's row is this text. Per sequence, bool.
    DataIs { field: String, text: String },
    /// A number drawn uniformly from [0, 1) for each element, another for each `draw`: what random selections
    /// are made by.
    Uniform { draw: u32, axis: Axis },
    /// A signal of the language, as it is written there, that the runtime does not supply: no plan that runs
    /// has one.
    Other { text: String, axis: Axis },
}

/// Of a state that is one number.
pub(crate) fn run() -> Axis {
    Axis::Run
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
pub(crate) fn is_run(axis: &Axis) -> bool {
    *axis == Axis::Run
}

impl Signal {
    pub fn axis(&self) -> Axis {
        match self {
            Signal::Logp { .. } | Signal::Entropy { .. } | Signal::Top1 { .. } | Signal::Rank { .. } => {
                Axis::Token
            }
            Signal::EndLogp { .. }
            | Signal::Value { .. }
            | Signal::Overlap { .. }
            | Signal::Mass { .. }
            | Signal::InNucleus { .. } => Axis::Token,
            Signal::SupportSize { .. } | Signal::Divergence(_) | Signal::Position | Signal::InSpan { .. } => {
                Axis::Token
            }
            Signal::Accepted | Signal::Head | Signal::Confidence | Signal::Offset => Axis::Token,
            Signal::Length
            | Signal::Truncated
            | Signal::Reward
            | Signal::Correct
            | Signal::Chosen
            | Signal::Available { .. }
            | Signal::CorrectOf { .. }
            | Signal::StatedConfidence { .. }
            | Signal::RewardPart { .. }
            | Signal::Data { .. }
            | Signal::DataIs { .. } => Axis::Sequence,
            Signal::Progress
            | Signal::Step
            | Signal::Loss
            | Signal::TermLoss { .. }
            | Signal::ValidationLoss
            | Signal::OfSteps { .. }
            | Signal::VocabularySize => Axis::Run,
            Signal::RecordedLogp { .. } => Axis::Batch,
            Signal::Measured { .. } => Axis::Group,
            Signal::Agreement { .. } => Axis::Block,
            Signal::State { axis, .. } | Signal::Uniform { axis, .. } | Signal::Other { axis, .. } => *axis,
        }
    }

    /// Whether completions must be judged for it.
    pub fn is_of_reward(&self) -> bool {
        matches!(self, Signal::Reward | Signal::Correct | Signal::RewardPart { .. })
    }

    /// The roles whose distributions must be known.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = match self {
            Signal::Logp { role }
            | Signal::Entropy { role }
            | Signal::Top1 { role }
            | Signal::Rank { role }
            | Signal::EndLogp { role }
            | Signal::Value { role }
            | Signal::InNucleus { role, .. } => vec![*role],
            Signal::Overlap { left, right, .. } => vec![*left, *right],
            Signal::Mass { role, support } => [vec![*role], support.roles()].concat(),
            Signal::SupportSize { support } => support.roles(),
            Signal::Divergence(divergence) => divergence.roles(),
            Signal::Position
            | Signal::InSpan { .. }
            | Signal::Accepted
            | Signal::Head
            | Signal::Confidence
            | Signal::Offset
            | Signal::Length
            | Signal::Truncated
            | Signal::Reward
            | Signal::Correct
            | Signal::Chosen
            | Signal::Available { .. }
            | Signal::CorrectOf { .. }
            | Signal::Agreement { .. }
            | Signal::StatedConfidence { .. }
            | Signal::RewardPart { .. }
            | Signal::Progress
            | Signal::Step
            | Signal::Loss
            | Signal::TermLoss { .. }
            | Signal::State { .. }
            | Signal::ValidationLoss
            | Signal::OfSteps { .. }
            | Signal::RecordedLogp { .. }
            | Signal::Measured { .. }
            | Signal::VocabularySize
            | Signal::Data { .. }
            | Signal::DataIs { .. }
            | Signal::Uniform { .. }
            | Signal::Other { .. } => Vec::new(),
        };
        roles.sort();
        roles.dedup();
        roles
    }
}

/// A number inside a divergence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DivergenceParameter {
    Number(f64),
    /// Computed anew at every step, from numbers without gradient, by a graph of its own.
    Formula(Box<Formula>),
}

/// A node of a graph that belongs to nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Formula {
    pub graph: Graph,
    pub value: NodeId,
}

impl DivergenceParameter {
    /// The signals that it is computed from.
    pub fn signals(&self) -> Vec<Signal> {
        match self {
            DivergenceParameter::Number(_) => Vec::new(),
            DivergenceParameter::Formula(formula) => formula.graph.signals(&[formula.value]),
        }
    }
}

/// One side of a divergence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    Role(Role),
    /// A weighted sum of distributions, with one weight for all tokens or one each. Where the student takes
    /// part, gradient flows through its share.
    Blend(Vec<(DivergenceParameter, Role)>),
    /// No gradient flows through this side.
    Detached(Box<Distribution>),
}

impl Distribution {
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Distribution::Role(role) => vec![*role],
            Distribution::Blend(parts) => parts.iter().map(|(_, role)| *role).collect(),
            Distribution::Detached(inner) => inner.roles(),
        }
    }

    fn parameters(&self) -> Vec<&DivergenceParameter> {
        match self {
            Distribution::Role(_) => Vec::new(),
            Distribution::Blend(parts) => parts.iter().map(|(weight, _)| weight).collect(),
            Distribution::Detached(inner) => inner.parameters(),
        }
    }
}

/// A divergence between next-token distributions, as `kl(left || right, support: ..., mass: ...)` says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    pub kind: DivergenceKind,
    pub left: Distribution,
    pub right: Distribution,
    pub support: Support,
    pub mass: Mass,
    /// Logits of both sides are divided by it.
    pub temperature: f64,
    /// Upper bound of every vocabulary entry's summand; where it binds, that entry passes no gradient.
    pub clip_each: Option<f64>,
}

impl Divergence {
    /// Of two roles at temperature 1, unclipped.
    pub fn between(
        kind: DivergenceKind,
        left: Role,
        right: Role,
        support: Support,
        mass: Mass,
    ) -> Divergence {
        let (left, right) = (Distribution::Role(left), Distribution::Role(right));
        Divergence { kind, left, right, support, mass, temperature: 1.0, clip_each: None }
    }

    /// The roles whose distributions must be known, those that only its parameters read included.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = [self.left.roles(), self.right.roles(), self.support.roles()].concat();
        roles.extend(self.signals().iter().flat_map(Signal::roles));
        roles.sort();
        roles.dedup();
        roles
    }

    /// The weights of its sides.
    pub fn parameters(&self) -> impl Iterator<Item = &DivergenceParameter> {
        self.left.parameters().into_iter().chain(self.right.parameters())
    }

    /// The signals that the weights of its sides are computed from.
    pub fn signals(&self) -> Vec<Signal> {
        let mut signals: Vec<Signal> = Vec::new();
        for signal in self.parameters().flat_map(DivergenceParameter::signals) {
            if !signals.contains(&signal) {
                signals.push(signal);
            }
        }
        signals
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "divergence", rename_all = "snake_case")]
pub enum DivergenceKind {
    /// sum of left * log(left / right)
    Kl,
    /// half the L1 distance of the sorted probabilities (arXiv:2402.12030)
    SortedL1,
    /// A sum of one number per entry.
    Entrywise(Box<Summand>),
}

/// What an entry adds to a divergence. Live primitives 0 and 1 of the graph are the left side's probability
/// of the entry and the right side's, 2 and 3 the same as constants; beside them it reads the step and
/// nothing else. See [`Summand::at`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summand {
    pub graph: Graph,
    pub value: NodeId,
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
    /// The entries before which, most probable first, `role` has spent less than `p`; entries of equal
    /// probability together.
    Nucleus {
        role: Role,
        p: f64,
    },
    /// The token taken alone.
    Sampled,
    /// The entries whose text `role`'s vocabulary has too: all, where its tokenizer is the student's. None at
    /// a token that begins no span, where `role` has no distribution.
    Matched {
        role: Role,
    },
    /// The entries of either vocabulary whose text the other does not have.
    Unmatched {
        role: Role,
    },
    Union {
        of: Vec<Support>,
    },
    Intersection {
        of: Vec<Support>,
    },
}

impl Support {
    /// The roles that choose.
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Support::Full | Support::Sampled => Vec::new(),
            Support::TopK { role, .. }
            | Support::Nucleus { role, .. }
            | Support::Matched { role }
            | Support::Unmatched { role } => vec![*role],
            Support::Union { of } | Support::Intersection { of } => {
                of.iter().flat_map(Support::roles).collect()
            }
        }
    }
}

/// What gradient flows through, as one number per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "live", rename_all = "snake_case")]
pub enum Live {
    /// `live student.logp`: log-probability of the token taken.
    Logp,
    /// `live student.end_logp`: log-probability of ending here.
    EndLogp,
    /// `live student.value`: what the student's scalar head says of the prefix.
    Value,
    /// The log-odds of `student.confidence`, of tokens of the second head.
    ConfidenceLogit,
    /// `live kl(...)`: exact over its support.
    Divergence(Divergence),
    /// `live nll(role)`: minus the student's log-probability of the role's most probable token.
    Likelihood { of: Role },
    /// `live ranking(order: top_k(role, k))`: minus the Plackett-Luce log-likelihood that the student,
    /// drawing from the whole vocabulary without replacement, draws the role's `k` most probable entries in
    /// its order.
    Ranking { role: Role, k: u32 },
    /// A primitive of the language, as it is written there, that the runtime does not supply: no plan that
    /// runs has one.
    Other { text: String },
}

impl Live {
    /// The roles whose distributions must be known, the student's aside.
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Live::Logp | Live::EndLogp | Live::Value | Live::ConfidenceLogit | Live::Other { .. } => {
                Vec::new()
            }
            Live::Divergence(divergence) => divergence.roles(),
            Live::Likelihood { of: role } | Live::Ranking { role, .. } => vec![*role],
        }
    }
}
