//! The numbers that an objective can read: of roles and their parts, of tokens, completions and the run.

mod table;

use std::rc::Rc;

pub use table::{ModelSignal, PlainSignal, SignalDefinition};

use super::{Axis, Divergence, StepNumber, StepWindow, Support, Unit};
use crate::checked::{DomainId, TeacherId};

/// The model whose probabilities a signal or a divergence reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Student,
    /// The teacher that the route chose for the prompt.
    Teacher,
    /// The student before the first update from the batch. Whoever drew the tokens, the trainer scores them.
    Old,
    /// The policy that generated the tokens, at the temperature it used.
    Sampler,
    /// A frozen model that the student is held near; the stage names it.
    Reference,
    /// One declared teacher, or a parameter that stands for one.
    Named {
        teacher: TeacherId,
        name: Rc<str>,
    },
}

impl Role {
    pub fn name(&self) -> &str {
        match self {
            Role::Student => "student",
            Role::Teacher => "teacher",
            Role::Old => "old",
            Role::Sampler => "sampler",
            Role::Reference => "reference",
            Role::Named { name, .. } => name,
        }
    }

    /// Whether it is the student, now or when it drew the batch, or whoever drew it in its place. All others
    /// are models beside the student.
    pub fn is_policy(&self) -> bool {
        matches!(self, Role::Student | Role::Old | Role::Sampler)
    }
}

/// A span of a completion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamedSpan {
    /// The last run of the student's own tokens.
    FinalTurn,
    /// The text between `<tag>` and `</tag>`, as in `span.think`.
    Tag(String),
}

impl NamedSpan {
    pub fn name(&self) -> &str {
        match self {
            NamedSpan::FinalTurn => "final_turn",
            NamedSpan::Tag(tag) => tag,
        }
    }
}

/// How texts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Similarity {
    /// 1 minus the edit distance over the longer length.
    Edit,
    /// ROUGE-1.
    Rouge,
}

/// A number that is already computed: it carries no gradient.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    Plain(PlainSignal),
    Of {
        role: Role,
        part: ModelSignal,
    },
    /// A divergence between two distributions at this prefix. Per token, nats; a plain number where it has no
    /// logarithm.
    Divergence(Divergence),
    /// Share of the `k` most probable entries of one role that are among the other's. Per token, fraction.
    Overlap {
        left: Role,
        right: Role,
        k: u32,
    },
    /// Probability that `role` gives to a support. Per token, prob.
    Mass {
        role: Role,
        support: Support,
    },
    /// Whether the token taken is in the role's nucleus of probability `p`. Per token, bool.
    InNucleus {
        role: Role,
        p: f64,
    },
    /// The output of a scalar head for one span of the completion. Per sequence, real.
    SpanScore {
        role: Role,
        span: NamedSpan,
    },
    /// Number of entries of a support. Per token, count.
    SupportSize {
        support: Support,
    },
    /// How many of `samples` continuations by the teacher match the student's, as a sum of similarities. Per
    /// block, real.
    Agreement {
        role: Role,
        samples: u32,
        by: Similarity,
    },
    InSpan(NamedSpan),
    /// Whether the teacher has scored this completion. Per sequence, bool.
    Available {
        role: Role,
    },
    /// One part of the reward. Per sequence, real.
    RewardPart {
        part: String,
    },
    /// A field of the data. Per sequence, real.
    Data {
        field: String,
    },
    /// Whether a field of the data equals a text. Per sequence, bool.
    DataIs {
        field: String,
        text: String,
    },
    /// Whether the prompt is of this domain. Per domain, bool.
    DomainIs {
        domain: DomainId,
        name: Rc<str>,
    },
    /// One term's part of the loss, before coefficients that change. Run, number.
    TermLoss {
        term: String,
    },
    /// A number that the objective carries from step to step, as it was when the step began.
    State {
        name: String,
        /// The whole run, or each domain.
        axis: Axis,
        unit: Unit,
        /// Its value in the first step.
        first: f64,
    },
    /// The last computed loss on the domains' validation rows. Run, number.
    ValidationLoss,
    /// A number of the past steps, for guards. Run, each in its unit.
    OfSteps {
        number: StepNumber,
        window: StepWindow,
    },
    /// A number drawn uniformly from [0, 1) for each element of an axis, at every step. Each call in an
    /// objective is a `draw` of its own; a `let` that is read twice is one. Fraction.
    Random {
        draw: u32,
        axis: Axis,
    },
}

impl From<PlainSignal> for Signal {
    fn from(signal: PlainSignal) -> Signal {
        Signal::Plain(signal)
    }
}

impl Signal {
    pub fn axis(&self) -> Axis {
        match self {
            Signal::Plain(signal) => signal.axis(),
            Signal::Of { part, .. } => part.axis(),
            Signal::Divergence(_)
            | Signal::Overlap { .. }
            | Signal::Mass { .. }
            | Signal::InNucleus { .. }
            | Signal::SupportSize { .. }
            | Signal::InSpan(_) => Axis::Token,
            Signal::Agreement { .. } => Axis::Block,
            Signal::Available { .. }
            | Signal::RewardPart { .. }
            | Signal::SpanScore { .. }
            | Signal::Data { .. }
            | Signal::DataIs { .. } => Axis::Sequence,
            Signal::TermLoss { .. } | Signal::ValidationLoss | Signal::OfSteps { .. } => Axis::Run,
            Signal::DomainIs { .. } => Axis::Domain,
            Signal::State { axis, .. } | Signal::Random { axis, .. } => *axis,
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Signal::Plain(signal) => signal.unit(),
            Signal::Of { part, .. } => part.unit(),
            Signal::Divergence(divergence) => divergence.unit(),
            Signal::Overlap { .. } | Signal::Random { .. } => Unit::Fraction,
            Signal::Mass { .. } => Unit::Prob,
            Signal::InNucleus { .. }
            | Signal::InSpan(_)
            | Signal::Available { .. }
            | Signal::DataIs { .. }
            | Signal::DomainIs { .. } => Unit::Bool,
            Signal::SupportSize { .. } => Unit::Count,
            Signal::RewardPart { .. } | Signal::SpanScore { .. } | Signal::Data { .. } => Unit::Real,
            Signal::Agreement { .. } | Signal::TermLoss { .. } | Signal::ValidationLoss => Unit::Number,
            Signal::State { unit, .. } => *unit,
            Signal::OfSteps { number, .. } => number.unit(),
        }
    }

    /// Whether it depends on the rewards of completions.
    pub fn is_of_reward(&self) -> bool {
        matches!(
            self,
            Signal::Plain(PlainSignal::Reward | PlainSignal::Correct | PlainSignal::TurnReward)
                | Signal::RewardPart { .. }
        )
    }

    /// The roles whose distributions must be known.
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Signal::Of { role, .. }
            | Signal::InNucleus { role, .. }
            | Signal::Agreement { role, .. }
            | Signal::SpanScore { role, .. }
            | Signal::Available { role } => vec![role.clone()],
            Signal::SupportSize { support } => {
                let mut roles = Vec::new();
                support.roles(&mut roles);
                roles
            }
            Signal::Mass { role, support } => {
                let mut roles = vec![role.clone()];
                support.roles(&mut roles);
                roles
            }
            Signal::Overlap { left, right, .. } => vec![left.clone(), right.clone()],
            Signal::Divergence(divergence) => divergence.roles(),
            _ => Vec::new(),
        }
    }
}
