//! The numbers that an objective can read: of roles and their parts, of tokens, completions and the run.

use std::rc::Rc;

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

/// A number that a model computes about a token or a completion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModelSignal {
    /// Log-probability of the token taken. Per token, logp.
    Logp,
    /// Entropy of the next-token distribution. Per token, nats.
    Entropy,
    /// Largest probability of the next-token distribution. Per token, prob.
    Top1,
    /// Rank of the token taken, 1 for the most probable. Per token, count.
    Rank,
    /// Log-probability of ending here. Per token, logp.
    EndLogp,
    /// Mean of a continuous action or of a denoising step. Per token, real.
    Mean,
    /// Standard deviation of a continuous action or of a denoising step. Per token, real.
    Deviation,
    /// The output of a scalar head for the completion: a reward model, a discriminator. Per sequence, real.
    Score,
    /// The return that a critic's head predicts from here on. Per token, real.
    Value,
    /// The verdict on the completions of a model trained beside the student. Per sequence, bool.
    Correct,
    /// The output of an acceptance head for the token. Per token, prob.
    Confidence,
    /// The confidence that a member of a panel states in its own answer. Per sequence, real.
    StatedConfidence,
}

impl ModelSignal {
    pub fn name(&self) -> &'static str {
        match self {
            ModelSignal::Logp => "logp",
            ModelSignal::Entropy => "entropy",
            ModelSignal::Top1 => "top1",
            ModelSignal::Rank => "rank",
            ModelSignal::EndLogp => "end_logp",
            ModelSignal::Mean => "mean",
            ModelSignal::Deviation => "deviation",
            ModelSignal::Score => "score",
            ModelSignal::Value => "value",
            ModelSignal::Correct => "correct",
            ModelSignal::Confidence | ModelSignal::StatedConfidence => "confidence",
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            ModelSignal::Logp | ModelSignal::EndLogp => Unit::Logp,
            ModelSignal::Entropy => Unit::Nats,
            ModelSignal::Top1 | ModelSignal::Confidence => Unit::Prob,
            ModelSignal::Rank => Unit::Count,
            ModelSignal::Mean
            | ModelSignal::Deviation
            | ModelSignal::Score
            | ModelSignal::Value
            | ModelSignal::StatedConfidence => Unit::Real,
            ModelSignal::Correct => Unit::Bool,
        }
    }

    pub fn axis(&self) -> Axis {
        match self {
            ModelSignal::Score | ModelSignal::StatedConfidence | ModelSignal::Correct => Axis::Sequence,
            ModelSignal::Logp
            | ModelSignal::Entropy
            | ModelSignal::Top1
            | ModelSignal::Rank
            | ModelSignal::EndLogp
            | ModelSignal::Mean
            | ModelSignal::Deviation
            | ModelSignal::Value
            | ModelSignal::Confidence => Axis::Token,
        }
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
    /// Index of the token in its completion, from 0. Per token, count.
    Position,
    /// Tokens that follow in the completion: 0 for the last. Per token, count.
    Remaining,
    /// Index of the token's turn, from 0. Per token, count.
    Turn,
    /// Index of the token's block, from 0. Per token, count.
    Block,
    /// The output head that wrote the token, from 0. Per token, count.
    Head,
    /// Index in a rejected draft, from 1 at its first rejected token; 0 in the trajectory. Per token, count.
    Offset,
    /// Whether the token is in the trajectory: a drafted one that the target accepted, or the target's own.
    /// Per token, bool.
    Accepted,
    /// Whether the denoiser has not filled this position yet. Per token, bool.
    Masked,
    InSpan(NamedSpan),
    /// Whether the objective's `select` holds. Per token, bool.
    Selected,
    /// Number of completion tokens. Per sequence, count.
    Length,
    /// Whether the completion was cut off before its end token. Per sequence, bool.
    Truncated,
    /// Whether the teacher has scored this completion. Per sequence, bool.
    Available {
        role: Role,
    },
    /// The verifier's verdict. Per sequence, real.
    Reward,
    /// One part of the reward. Per sequence, real.
    RewardPart {
        part: String,
    },
    /// `reward >= 1`. Per sequence, bool.
    Correct,
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
    /// step / steps. Run, fraction.
    Progress,
    /// The step, from 0. Run, count.
    Step,
    /// The loss of the step before, 1 at the first. Run, number.
    Loss,
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
    /// The number of entries of the vocabulary. Run, count.
    VocabularySize,
}

impl Signal {
    pub fn axis(&self) -> Axis {
        match self {
            Signal::Of { part, .. } => part.axis(),
            Signal::Divergence(_)
            | Signal::Overlap { .. }
            | Signal::Mass { .. }
            | Signal::InNucleus { .. }
            | Signal::SupportSize { .. }
            | Signal::Position
            | Signal::Remaining
            | Signal::Turn
            | Signal::Block
            | Signal::Head
            | Signal::Offset
            | Signal::Accepted
            | Signal::Masked
            | Signal::InSpan(_)
            | Signal::Selected => Axis::Token,
            Signal::Agreement { .. } => Axis::Block,
            Signal::Length
            | Signal::Truncated
            | Signal::Available { .. }
            | Signal::Reward
            | Signal::RewardPart { .. }
            | Signal::Correct
            | Signal::SpanScore { .. }
            | Signal::Data { .. }
            | Signal::DataIs { .. } => Axis::Sequence,
            Signal::Progress
            | Signal::Step
            | Signal::Loss
            | Signal::TermLoss { .. }
            | Signal::ValidationLoss
            | Signal::OfSteps { .. }
            | Signal::VocabularySize => Axis::Run,
            Signal::DomainIs { .. } => Axis::Domain,
            Signal::State { axis, .. } => *axis,
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Signal::Of { part, .. } => part.unit(),
            Signal::Divergence(divergence) => divergence.unit(),
            Signal::Overlap { .. } | Signal::Progress => Unit::Fraction,
            Signal::Mass { .. } => Unit::Prob,
            Signal::InNucleus { .. }
            | Signal::Accepted
            | Signal::Masked
            | Signal::InSpan(_)
            | Signal::Selected
            | Signal::Truncated
            | Signal::Available { .. }
            | Signal::Correct
            | Signal::DataIs { .. }
            | Signal::DomainIs { .. } => Unit::Bool,
            Signal::Position
            | Signal::Remaining
            | Signal::Turn
            | Signal::Block
            | Signal::Head
            | Signal::Offset
            | Signal::Length
            | Signal::Step
            | Signal::SupportSize { .. }
            | Signal::VocabularySize => Unit::Count,
            Signal::Reward | Signal::RewardPart { .. } | Signal::SpanScore { .. } | Signal::Data { .. } => {
                Unit::Real
            }
            Signal::Agreement { .. } | Signal::Loss | Signal::TermLoss { .. } | Signal::ValidationLoss => {
                Unit::Number
            }
            Signal::State { unit, .. } => *unit,
            Signal::OfSteps { number, .. } => number.unit(),
        }
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
