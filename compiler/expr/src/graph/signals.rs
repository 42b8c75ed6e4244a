//! The leaves of graphs: the signals, divergences and statistics that the runtime can compute.

pub use mopd_experiment::formula::{
    Axis, Deviation, Function, Mass, Memory, ModelSignal, PlainSignal, Reduction, Scan, Statistic,
    StepNumber, StepWindow,
};
use serde::{Deserialize, Serialize};

use super::{Graph, NodeId, Schedule};
pub use crate::roles::Role;

/// A number without gradient that the runtime supplies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// Share of the `k` most probable entries of one role that are among the other's. Per token, fraction.
    Overlap { left: Role, right: Role, k: u32 },
    /// Probability that `role` gives to a support. Per token, prob.
    Mass { role: Role, support: Support },
    /// Whether the token taken is in the nucleus of `role`, see [`Support::Nucleus`]. Per token, bool.
    InNucleus { role: Role, p: f64 },
    /// Number of entries of a support. Per token, count.
    SupportSize { support: Support },
    /// A divergence between two roles at this prefix. Per token, nats.
    Divergence(Divergence),
    /// Whether the token is between `<tag>` and `</tag>`. Per token, bool.
    InSpan { tag: String },
    /// The probability that the token is kept, by the student's second head and before sampling. 1 for tokens
    /// of the first head, which are always kept. Per token, prob.
    Confidence,
    /// 1 for the preferred completion of a pair, 0 for the other. Per sequence, bool.
    Chosen,
    /// Whether a role has an input for the completion; for a member of a panel, whether it made a statement.
    /// Per sequence, bool.
    Available { role: Role },
    /// The similarity of a role's continuations from the start of a block to the block: the sum, over
    /// `samples` continuations as long as the block, of 1 minus edit distance / longer length. Per block,
    /// number.
    Agreement { role: Role, samples: u32 },
    /// The score of the completion by one part of the verifier, in [0, 1]. Per sequence, fraction.
    RewardPart { part: String },
    /// The last loss of one term, before `weight`; 1 at the first step. Run, number.
    TermLoss { term: String },
    /// A number that is carried from step to step, at the beginning of the step. Run, or domain.
    State {
        name: String,
        #[serde(default = "run", skip_serializing_if = "is_run")]
        axis: Axis,
    },
    /// The last computed loss on validation rows: before this step, or before an earlier one. Run, number.
    ValidationLoss,
    /// A number of the past steps, for guards; objectives never read one. Run, each in its unit.
    OfSteps { number: StepNumber, window: StepWindow },
    /// The student's mean log-probability, at temperature 1 and before the step, of the tokens of a field in
    /// the rows of the step's prompts. Batch, logp.
    RecordedLogp { field: String },
    /// A measure of completions drawn for each prompt before steps, to choose prompts. Group, number.
    Measured { measure: u32 },
    /// A field of the prompt's row: a number, or a bool. Per sequence, real.
    Data { field: String },
    /// Whether a field of the prompt's row is this text. Per sequence, bool.
    DataIs { field: String, text: String },
    /// The place of each domain in the mixture of the stage. Per domain, count.
    DomainPlace,
    /// A number drawn uniformly from [0, 1) for each element, independent for each `draw`, for random
    /// selections.
    Uniform { draw: u32, axis: Axis },
    /// A signal of the language, as text, that the runtime does not supply. A plan that runs contains
    /// none.
    Other { text: String, axis: Axis },
    /// `{"signal": "entropy", "role": "student"}`
    #[serde(untagged)]
    Of {
        #[serde(flatten)]
        part: ModelSignal,
        role: Role,
    },
    /// `{"signal": "offset"}`
    #[serde(untagged)]
    Plain(PlainSignal),
}

impl From<PlainSignal> for Signal {
    fn from(signal: PlainSignal) -> Signal {
        Signal::Plain(signal)
    }
}

/// The axis of a state that is a single number.
pub fn run() -> Axis {
    Axis::Run
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
pub fn is_run(axis: &Axis) -> bool {
    *axis == Axis::Run
}

impl Signal {
    pub fn axis(&self) -> Axis {
        match self {
            Signal::Plain(signal) => signal.axis(),
            Signal::Of { part, .. } => part.axis(),
            Signal::Overlap { .. }
            | Signal::Mass { .. }
            | Signal::InNucleus { .. }
            | Signal::SupportSize { .. }
            | Signal::Divergence(_)
            | Signal::InSpan { .. }
            | Signal::Confidence => Axis::Token,
            Signal::Chosen
            | Signal::Available { .. }
            | Signal::RewardPart { .. }
            | Signal::Data { .. }
            | Signal::DataIs { .. } => Axis::Sequence,
            Signal::TermLoss { .. } | Signal::ValidationLoss | Signal::OfSteps { .. } => Axis::Run,
            Signal::RecordedLogp { .. } => Axis::Batch,
            Signal::Measured { .. } => Axis::Group,
            Signal::Agreement { .. } => Axis::Block,
            Signal::DomainPlace => Axis::Domain,
            Signal::State { axis, .. } | Signal::Uniform { axis, .. } | Signal::Other { axis, .. } => *axis,
        }
    }

    /// Of a number of the student before the updates from a batch: the same number of the student now.
    pub fn of_student_now(&self) -> Option<Signal> {
        match self {
            Signal::Of { role: Role::Old, part } if part.definition().from_distribution => {
                Some(Signal::Of { role: Role::Student, part: *part })
            }
            _ => None,
        }
    }

    /// Whether it is computed from next-token distributions.
    pub fn is_from_distributions(&self) -> bool {
        match self {
            Signal::Of { part, .. } => part.definition().from_distribution,
            Signal::Overlap { .. }
            | Signal::Mass { .. }
            | Signal::InNucleus { .. }
            | Signal::SupportSize { .. }
            | Signal::Divergence(_) => true,
            Signal::Plain(_)
            | Signal::InSpan { .. }
            | Signal::Confidence
            | Signal::Chosen
            | Signal::Available { .. }
            | Signal::Agreement { .. }
            | Signal::RewardPart { .. }
            | Signal::TermLoss { .. }
            | Signal::State { .. }
            | Signal::ValidationLoss
            | Signal::OfSteps { .. }
            | Signal::RecordedLogp { .. }
            | Signal::Measured { .. }
            | Signal::Data { .. }
            | Signal::DataIs { .. }
            | Signal::DomainPlace
            | Signal::Uniform { .. }
            | Signal::Other { .. } => false,
        }
    }

    /// Whether it is known for every step before the run.
    pub fn is_of_step(&self) -> bool {
        matches!(self, Signal::Plain(PlainSignal::Step | PlainSignal::Progress))
    }

    /// Whether it is known of a prompt before a step: a number of its row, its domain, or a state.
    pub fn is_of_prompt(&self) -> bool {
        matches!(
            self,
            Signal::Data { .. } | Signal::DataIs { .. } | Signal::DomainPlace | Signal::State { .. }
        )
    }

    /// Whether it depends on the rewards of completions.
    pub fn is_of_reward(&self) -> bool {
        matches!(
            self,
            Signal::Plain(PlainSignal::Reward | PlainSignal::Correct | PlainSignal::TurnReward)
                | Signal::RewardPart { .. }
        )
    }

    /// The roles whose distributions, or scalar heads, it needs.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = match self {
            Signal::Of { role, part }
                if part.definition().from_distribution || *part == ModelSignal::Value =>
            {
                vec![*role]
            }
            Signal::InNucleus { role, .. } => vec![*role],
            Signal::Overlap { left, right, .. } => vec![*left, *right],
            Signal::Mass { role, support } => [vec![*role], support.roles()].concat(),
            Signal::SupportSize { support } => support.roles(),
            Signal::Divergence(divergence) => divergence.roles(),
            _ => Vec::new(),
        };
        roles.sort();
        roles.dedup();
        roles
    }
}

/// A parameter of a divergence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum DivergenceParameter {
    Number(f64),
    /// Computed at every step by a graph of its own, from numbers without gradient.
    Formula(Box<Formula>),
}

/// A graph of its own, with the node of its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Formula {
    pub graph: Graph,
    pub value: NodeId,
}

impl From<f64> for DivergenceParameter {
    fn from(number: f64) -> DivergenceParameter {
        DivergenceParameter::Number(number)
    }
}

impl DivergenceParameter {
    /// The number, if it is the same at all steps and tokens.
    pub fn constant(&self) -> Option<f64> {
        match self {
            DivergenceParameter::Number(number) => Some(*number),
            DivergenceParameter::Formula(_) => None,
        }
    }

    /// The signals that it depends on.
    pub fn signals(&self) -> Vec<Signal> {
        match self {
            DivergenceParameter::Number(_) => Vec::new(),
            DivergenceParameter::Formula(formula) => formula.graph.signals(&[formula.value]),
        }
    }

    /// The schedules that it follows.
    pub fn schedules(&self) -> Vec<Schedule> {
        match self {
            DivergenceParameter::Number(_) => Vec::new(),
            DivergenceParameter::Formula(formula) => formula.graph.schedules(),
        }
    }
}

/// One side of a divergence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    Role(Role),
    /// A weighted sum of distributions, with one weight for all tokens or one each. If the student is one of
    /// them, gradient flows through its share.
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

/// A divergence between next-token distributions: `kl(left || right, support: ..., mass: ...)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    pub kind: DivergenceKind,
    pub left: Distribution,
    pub right: Distribution,
    pub support: Support,
    pub mass: Mass,
    /// The divisor of the logits of both sides, above 0.
    pub temperature: DivergenceParameter,
    /// An upper bound on every vocabulary entry's summand. An entry above it passes no gradient.
    pub clip_each: Option<f64>,
}

impl Divergence {
    /// A divergence between two roles at temperature 1, unclipped.
    pub fn between(
        kind: DivergenceKind,
        left: Role,
        right: Role,
        support: Support,
        mass: Mass,
    ) -> Divergence {
        let (left, right) = (Distribution::Role(left), Distribution::Role(right));
        Divergence { kind, left, right, support, mass, temperature: 1.0.into(), clip_each: None }
    }

    /// The roles whose distributions it needs, including those that only its parameters read.
    pub fn roles(&self) -> Vec<Role> {
        let mut roles = [self.left.roles(), self.right.roles(), self.support.roles()].concat();
        roles.extend(self.signals().iter().flat_map(Signal::roles));
        roles.sort();
        roles.dedup();
        roles
    }

    /// The roles whose distributions are its sides, with repetition.
    pub fn sides(&self) -> Vec<Role> {
        [self.left.roles(), self.right.roles()].concat()
    }

    /// Whether it counts entries with the probability of their whole span where a side has another tokenizer:
    /// that of the first token times those of the tokens after it. The full vocabulary and renormalised
    /// supports are distributions of the first token alone.
    pub fn is_of_spans(&self) -> bool {
        self.mass == Mass::Raw && self.support != Support::Full
    }

    /// The numbers in it that may change within the run: those of its kind, the temperature, and the weights
    /// of its sides.
    pub fn parameters(&self) -> impl Iterator<Item = &DivergenceParameter> {
        let of_kind = match &self.kind {
            DivergenceKind::Entrywise(summand) => summand.parameters.as_slice(),
            DivergenceKind::Kl | DivergenceKind::SortedL1 => &[],
        };
        let of_kind = of_kind.iter().map(|parameter| &parameter.value);
        let of_sides = self.left.parameters().into_iter().chain(self.right.parameters());
        of_kind.chain(std::iter::once(&self.temperature)).chain(of_sides)
    }

    /// The schedules that its numbers follow.
    pub fn schedules(&self) -> Vec<Schedule> {
        let of_kind = match &self.kind {
            DivergenceKind::Entrywise(summand) => summand.graph.schedules(),
            DivergenceKind::Kl | DivergenceKind::SortedL1 => Vec::new(),
        };
        of_kind.into_iter().chain(self.parameters().flat_map(DivergenceParameter::schedules)).collect()
    }

    /// The signals that its numbers depend on, besides the step.
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

/// The summand of one entry. Live primitives 0 and 1 of the graph are the entry's probabilities on the left
/// and the right side; 2 and 3 are the same as constants; the next ones are `parameters`. Apart from these it
/// reads only the step. See [`Summand::at`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summand {
    pub graph: Graph,
    pub value: NodeId,
    /// The parameters that depend on more than the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<SummandParameter>,
}

/// A parameter of a summand that a state, or numbers of the batch, decide.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SummandParameter {
    pub name: String,
    pub value: DivergenceParameter,
    /// The least and the largest value of its declared type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<(f64, f64)>,
}

/// The set of vocabulary entries that are included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "support", rename_all = "snake_case")]
pub enum Support {
    Full,
    /// The `k` entries that `role` finds most probable.
    TopK {
        role: Role,
        k: u32,
    },
    /// The smallest set of most probable entries of `role` with mass `p` or more. Entries of equal
    /// probability are all included or all excluded.
    Nucleus {
        role: Role,
        p: f64,
    },
    /// The token taken alone.
    Sampled,
    /// The entries whose text is also in `role`'s vocabulary. Where `role` has the student's tokenizer, these
    /// are all. Empty at a token that begins no span, where `role` has no distribution.
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
    /// The roles whose probabilities determine the entries.
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

/// A quantity that gradient flows through, one number per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "live", rename_all = "snake_case")]
pub enum Live {
    /// `live student.logp`: log-probability of the token taken.
    Logp,
    /// `live student.end_logp`: log-probability of ending here.
    EndLogp,
    /// `live student.value`: the output of the student's scalar head for the prefix.
    Value,
    /// The logit of `student.confidence`, for tokens of the second head.
    ConfidenceLogit,
    /// `live kl(...)`: exact over its support.
    Divergence(Divergence),
    /// `live nll(role)`: minus the student's log-probability of the role's most probable token.
    Likelihood { of: Role },
    /// `live ranking(order: top_k(role, k))`: minus the Plackett-Luce log-likelihood that the student,
    /// sampling from the whole vocabulary without replacement, draws the role's `k` most probable entries in
    /// its order.
    Ranking { role: Role, k: u32 },
    /// A primitive of the language, as text, that the runtime does not supply. A plan that runs contains
    /// none.
    Other { text: String },
}

impl Live {
    /// The roles whose distributions it needs, except the student.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Plans, and the keys of results, contain these texts.
    #[test]
    fn signals_of_the_tables_have_one_written_form() {
        let student = |part| Signal::Of { role: Role::Student, part };
        let cases = [
            (Signal::Plain(PlainSignal::Offset), r#"{"signal":"offset"}"#),
            (Signal::Plain(PlainSignal::VocabularySize), r#"{"signal":"vocabulary_size"}"#),
            (Signal::Plain(PlainSignal::Correct), r#"{"signal":"correct"}"#),
            (student(ModelSignal::Correct), r#"{"signal":"correct_of","role":"student"}"#),
            (student(ModelSignal::EndLogp), r#"{"signal":"end_logp","role":"student"}"#),
            (student(ModelSignal::StatedConfidence), r#"{"signal":"stated_confidence","role":"student"}"#),
            (Signal::Confidence, r#"{"signal":"confidence"}"#),
            (Signal::Available { role: Role::Student }, r#"{"signal":"available","role":"student"}"#),
        ];
        for (signal, text) in cases {
            assert_eq!(serde_json::to_string(&signal).unwrap(), text);
        }
        let plain = PlainSignal::ALL.iter().map(|signal| Signal::Plain(*signal));
        for signal in plain.chain(ModelSignal::ALL.iter().map(|part| student(*part))) {
            let text = serde_json::to_string(&signal).unwrap();
            assert_eq!(serde_json::from_str::<Signal>(&text).unwrap(), signal, "{text}");
        }
        assert!(serde_json::from_str::<Signal>(r#"{"signal":"logp"}"#).is_err());
    }
}
