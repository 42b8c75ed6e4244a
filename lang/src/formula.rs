//! Typed formulas: what a term, weight or selection computes, with the unit and axis of every part.
//!
//! A formula is a tree with shared parts (`let` binds once, is read often). Names, functions and constants are gone:
//! the checker has resolved, inlined and evaluated them.

use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::experiment::{Origin, Rollout, Schedule, TeacherId};

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

/// Along what a number varies, coarse to fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    Run,
    Batch,
    /// The prompts of one domain in the batch.
    Domain,
    /// The samples of one prompt.
    Group,
    Sequence,
    /// A contiguous run of the student's own tokens; "step" in papers on agents.
    Turn,
    /// A run of tokens inside a turn: a denoiser's block, a chunk judged as one.
    Block,
    Token,
    /// The entries of a next-token distribution. Only divergences consume it.
    Vocab,
}

impl Axis {
    /// Coarse to fine.
    pub const ALL: &'static [Axis] =
        &[Axis::Run, Axis::Batch, Axis::Domain, Axis::Group, Axis::Sequence, Axis::Turn, Axis::Block, Axis::Token, Axis::Vocab];

    pub fn name(self) -> &'static str {
        match self {
            Axis::Run => "run",
            Axis::Batch => "batch",
            Axis::Domain => "domain",
            Axis::Group => "group",
            Axis::Sequence => "sequence",
            Axis::Turn => "turn",
            Axis::Block => "block",
            Axis::Token => "token",
            Axis::Vocab => "vocab",
        }
    }
}

/// Whose probabilities.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Student,
    /// Whatever the route chose for the prompt.
    Teacher,
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
            Role::Sampler => "sampler",
            Role::Reference => "reference",
            Role::Named { name, .. } => name,
        }
    }
}

/// A number that a model computes about a token or a completion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
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
    /// Its standard deviation. Per token, real.
    Deviation,
    /// What a scalar head says of the completion: a reward model, a discriminator. Per sequence, real.
    Score,
    /// What a critic's head expects from here on. Per token, real.
    Value,
    /// The verdict on the completions of a model trained beside the student. Per sequence, bool.
    Correct,
    /// What an acceptance head says of the token. Per token, prob.
    Confidence,
    /// What a member of a panel says of its own answer. Per sequence, real.
    StatedConfidence,
}

impl Part {
    pub fn name(&self) -> &'static str {
        match self {
            Part::Logp => "logp",
            Part::Entropy => "entropy",
            Part::Top1 => "top1",
            Part::Rank => "rank",
            Part::EndLogp => "end_logp",
            Part::Mean => "mean",
            Part::Deviation => "deviation",
            Part::Score => "score",
            Part::Value => "value",
            Part::Correct => "correct",
            Part::Confidence | Part::StatedConfidence => "confidence",
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Part::Logp | Part::EndLogp => Unit::Logp,
            Part::Entropy => Unit::Nats,
            Part::Top1 | Part::Confidence => Unit::Prob,
            Part::Rank => Unit::Count,
            Part::Mean | Part::Deviation | Part::Score | Part::Value | Part::StatedConfidence => Unit::Real,
            Part::Correct => Unit::Bool,
        }
    }

    pub fn axis(&self) -> Axis {
        match self {
            Part::Score | Part::StatedConfidence | Part::Correct => Axis::Sequence,
            _ => Axis::Token,
        }
    }
}

/// A stretch of a completion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamedSpan {
    /// The last run of the student's own tokens.
    FinalTurn,
    /// The text between `<tag>` and `</tag>`, as in `span.think`.
    Tag(String),
}

impl NamedSpan {
    /// The usual names, `final_turn` first.
    pub const USUAL: &'static [&'static str] = &["final_turn", "answer", "think", "tool"];

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

/// A number already computed: it carries no gradient.
#[derive(Clone, Debug, PartialEq)]
pub enum Signal {
    Of {
        role: Role,
        part: Part,
    },
    /// A divergence between two distributions at this prefix. Per token, nats.
    Divergence(Divergence),
    /// Share of the `k` most probable entries of one that are among the other's. Per token, fraction.
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
    /// The token taken is among the most probable entries that together hold `p`. Per token, bool.
    InNucleus {
        role: Role,
        p: f64,
    },
    /// A scalar head's number for one stretch of the completion. Per sequence, real.
    SpanScore {
        role: Role,
        span: NamedSpan,
    },
    /// Number of entries of a support. Per token, count.
    SupportSize {
        support: Support,
    },
    /// How many of `samples` continuations by the teacher match the student's, as a sum of similarities. Per block, real.
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
    /// Tokens since the draft was first rejected, from 1. Per token, count.
    Offset,
    /// The target kept the drafted token. Per token, bool.
    Accepted,
    /// The denoiser has not filled this position yet. Per token, bool.
    Masked,
    InSpan(NamedSpan),
    /// Number of completion tokens. Per sequence, count.
    Length,
    /// The completion was cut off before its end token. Per sequence, bool.
    Truncated,
    /// The teacher answered for this completion. Per sequence, bool.
    Available {
        role: Role,
    },
    /// The verifier's verdict. Per sequence, real.
    Reward,
    /// One part of it. Per sequence, real.
    RewardPart {
        part: String,
    },
    /// `reward >= 1`. Per sequence, bool.
    Correct,
    /// A field of the data. Per sequence, real.
    Data {
        field: String,
    },
    /// A field of the data equals a text. Per sequence, bool.
    DataIs {
        field: String,
        text: String,
    },
    /// step / steps. Run, fraction.
    Progress,
    /// The step, from 0. Run, count.
    Step,
    /// The loss of the step before. Run, number.
    Loss,
    /// One term's part of it, before coefficients that move. Run, number.
    TermLoss {
        term: String,
    },
    /// The loss on the domains' held-out prompts, when it was last computed. Run, number.
    HeldOutLoss,
    /// Run, count.
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
            | Signal::InSpan(_) => Axis::Token,
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
            | Signal::HeldOutLoss
            | Signal::VocabularySize => Axis::Run,
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Signal::Of { part, .. } => part.unit(),
            Signal::Divergence(_) => Unit::Nats,
            Signal::Overlap { .. } | Signal::Progress => Unit::Fraction,
            Signal::Mass { .. } => Unit::Prob,
            Signal::InNucleus { .. }
            | Signal::Accepted
            | Signal::Masked
            | Signal::InSpan(_)
            | Signal::Truncated
            | Signal::Available { .. }
            | Signal::Correct
            | Signal::DataIs { .. } => Unit::Bool,
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
            Signal::Reward | Signal::RewardPart { .. } | Signal::SpanScore { .. } | Signal::Data { .. } => Unit::Real,
            Signal::Agreement { .. } | Signal::Loss | Signal::TermLoss { .. } | Signal::HeldOutLoss => Unit::Number,
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

/// One side of a divergence.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    Role(Role),
    /// `blend(teacher: a, student: 1 - a)`: a weighted sum of distributions. Where the student takes part, its share carries
    /// gradient if the whole divergence is `live`.
    Blend(Vec<(Formula, Role)>),
    /// `detached(blend(...))`: no gradient flows through this side, even where the student is in it.
    Detached(Box<Distribution>),
}

impl Distribution {
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Distribution::Role(role) => vec![role.clone()],
            Distribution::Blend(parts) => parts.iter().map(|(_, role)| role.clone()).collect(),
            Distribution::Detached(inner) => inner.roles(),
        }
    }

    pub fn role(&self) -> Option<&Role> {
        match self {
            Distribution::Role(role) => Some(role),
            Distribution::Blend(_) | Distribution::Detached(_) => None,
        }
    }

    /// Gradient flows through it where the divergence is `live`.
    fn carries_gradient(&self) -> bool {
        !matches!(self, Distribution::Detached(_)) && self.roles().contains(&Role::Student)
    }

    fn formulas(&self) -> Vec<&Formula> {
        match self {
            Distribution::Role(_) => Vec::new(),
            Distribution::Blend(parts) => parts.iter().map(|(coefficient, _)| coefficient).collect(),
            Distribution::Detached(inner) => inner.formulas(),
        }
    }
}

/// A divergence between next-token distributions, as `kl(left || right, support: ..., mass: ...)` says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    pub kind: DivergenceKind,
    pub left: Distribution,
    pub right: Distribution,
    pub support: Support,
    pub mass: Mass,
    /// Logits of both sides are divided by it; 1 if not written.
    pub temperature: f64,
    /// Upper bound of every vocabulary entry's summand.
    pub clip_each: Option<f64>,
}

impl Divergence {
    /// Whether gradient can reach the student through one of the sides.
    pub fn reaches_student(&self) -> bool {
        self.left.carries_gradient() || self.right.carries_gradient()
    }

    pub fn roles(&self) -> Vec<Role> {
        let mut roles = self.left.roles();
        for role in self.right.roles() {
            add(&mut roles, role);
        }
        self.support.roles(&mut roles);
        roles
    }

    /// The formulas in it: the kind's parameter and the coefficients of blends.
    pub fn formulas(&self) -> Vec<&Formula> {
        let mut formulas = match &self.kind {
            DivergenceKind::Jsd { beta, .. } => vec![beta],
            DivergenceKind::Skew { lambda } => vec![lambda],
            DivergenceKind::Alpha { alpha } => vec![alpha],
            _ => Vec::new(),
        };
        formulas.extend(self.left.formulas());
        formulas.extend(self.right.formulas());
        formulas
    }
}

fn add(roles: &mut Vec<Role>, role: Role) {
    if !roles.contains(&role) {
        roles.push(role);
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum DivergenceKind {
    /// sum of left * log(left / right)
    Kl,
    /// beta * KL(left || m) + (1 - beta) * KL(right || m), m = beta * left + (1 - beta) * right. `normalized` divides by
    /// beta * (1 - beta), whose limits are the two directions of KL.
    Jsd { beta: Formula, normalized: bool },
    /// KL(left || lambda * left + (1 - lambda) * right) (arXiv:2402.03898)
    Skew { lambda: Formula },
    /// half the sum of |left - right|
    TotalVariation,
    /// sum of (left - right)^2 / right
    ChiSquared,
    /// 1 - sum of sqrt(left * right)
    Hellinger,
    /// (sum of left^alpha * right^(1 - alpha) - 1) / (alpha * (alpha - 1))
    Alpha { alpha: Formula },
    /// half the L1 distance of the sorted probabilities: vocabularies need not agree (arXiv:2402.12030)
    SortedL1,
    /// KL between two normal distributions, summed over components: continuous actions, denoising steps. All of them, or the
    /// ones listed.
    Gaussian { dimensions: Option<Vec<u32>> },
    /// sum of right * f(left / right), f declared by the author.
    Custom(Rc<Generator>),
}

impl DivergenceKind {
    /// As a function is written.
    pub fn name(&self) -> &str {
        match self {
            DivergenceKind::Kl => "kl",
            DivergenceKind::Jsd { .. } => "jsd",
            DivergenceKind::Skew { .. } => "skew",
            DivergenceKind::TotalVariation => "tv",
            DivergenceKind::ChiSquared => "chi2",
            DivergenceKind::Hellinger => "hellinger",
            DivergenceKind::Alpha { .. } => "alpha",
            DivergenceKind::SortedL1 => "sorted_l1",
            DivergenceKind::Gaussian { .. } => "gaussian_kl",
            DivergenceKind::Custom(generator) => &generator.name,
        }
    }

    /// It is a sum over the entries of a vocabulary, so that a support and a mass mean something.
    pub fn over_vocabulary(&self) -> bool {
        !matches!(self, DivergenceKind::Gaussian { .. })
    }

    /// Swapping the sides changes the value.
    pub fn directed(&self) -> bool {
        !matches!(
            self,
            DivergenceKind::Jsd { .. } | DivergenceKind::TotalVariation | DivergenceKind::Hellinger | DivergenceKind::SortedL1
        )
    }
}

/// The generator of an f-divergence: convex, 0 at 1. Its only variable is [`FormulaKind::Variable`].
#[derive(Clone, Debug, PartialEq)]
pub struct Generator {
    pub name: String,
    pub value: Formula,
}

/// Which vocabulary entries take part.
#[derive(Clone, Debug, PartialEq)]
pub enum Support {
    Full,
    /// The `k` entries that `role` finds most probable.
    TopK {
        role: Role,
        k: u32,
    },
    /// The most probable entries that together hold `p`.
    Nucleus {
        role: Role,
        p: f64,
    },
    /// The token taken alone; with `mass: tail`, it and everything else.
    Sampled,
    /// Entries whose text both vocabularies have.
    Matched,
    /// Entries whose text only one vocabulary has.
    Unmatched,
    Union(Vec<Support>),
    Intersection(Vec<Support>),
}

impl Support {
    fn roles(&self, roles: &mut Vec<Role>) {
        match self {
            Support::TopK { role, .. } | Support::Nucleus { role, .. } => add(roles, role.clone()),
            Support::Union(parts) | Support::Intersection(parts) => parts.iter().for_each(|part| part.roles(roles)),
            Support::Full | Support::Sampled | Support::Matched | Support::Unmatched => {}
        }
    }
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

/// What gradient flows through.
#[derive(Clone, Debug, PartialEq)]
pub enum Live {
    /// `live student.logp`, `live student.score`: a number of the student's own.
    Part(Part),
    /// `live kl(...)`: exact over its support. Per token.
    Divergence(Divergence),
    /// `live nll(teacher)`: minus the student's log-probability of the role's most probable token. Per token.
    Likelihood { of: Role },
    /// `live ranking(order: top_k(teacher, 8))`: minus the Plackett-Luce log-likelihood, under the student, of the order in which
    /// the support's role ranks its entries. Per token.
    Ranking { order: Support },
    /// A pair of completions of one prompt. Per group.
    Preference(Rc<Preference>),
    /// `live mse(student.mean, teacher.mean)`
    SquaredError { part: Part, target: Formula, dimensions: Option<Vec<u32>> },
    /// `live bce(student.confidence, target)`
    BinaryCrossEntropy { part: Part, target: Formula },
}

/// A loss on a chosen and a rejected completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    pub kind: PreferenceKind,
    pub chosen: Rollout,
    pub rejected: Rollout,
    /// Scores of one stretch only.
    pub on: Option<NamedSpan>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PreferenceKind {
    /// -log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)) against the reference (arXiv:2305.18290).
    Dpo { beta: Formula },
    /// -log sigmoid(score of chosen - score of rejected)
    BradleyTerry,
}

impl Live {
    pub fn axis(&self) -> Axis {
        match self {
            Live::Part(part) | Live::SquaredError { part, .. } | Live::BinaryCrossEntropy { part, .. } => part.axis(),
            Live::Divergence(_) | Live::Likelihood { .. } | Live::Ranking { .. } => Axis::Token,
            Live::Preference(_) => Axis::Group,
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Live::Part(part) => part.unit(),
            Live::Divergence(_)
            | Live::Likelihood { .. }
            | Live::Ranking { .. }
            | Live::Preference(_)
            | Live::BinaryCrossEntropy { .. } => Unit::Nats,
            Live::SquaredError { .. } => Unit::Number,
        }
    }

    pub fn roles(&self) -> Vec<Role> {
        match self {
            Live::Divergence(divergence) => divergence.roles(),
            Live::Likelihood { of } => vec![Role::Student, of.clone()],
            Live::Ranking { order } => {
                let mut roles = vec![Role::Student];
                order.roles(&mut roles);
                roles
            }
            Live::Preference(preference) if matches!(preference.kind, PreferenceKind::Dpo { .. }) => {
                vec![Role::Student, Role::Reference]
            }
            _ => vec![Role::Student],
        }
    }
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
    Cos,
    /// The largest whole number below or at it.
    Floor,
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
            Negate | Not | Abs | Exp | Log | Log1p | Sqrt | Tanh | Sigmoid | Relu | Cos | Floor => 1,
            Clip | Where => 3,
            _ => 2,
        }
    }
}

/// Many numbers to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reduction {
    Sum,
    Mean,
    Minimum,
    Maximum,
    First,
    Last,
    /// True where some element is.
    Any,
    /// True where every element is.
    All,
    /// How many elements are true.
    Count,
    Quantile {
        q: f64,
    },
}

impl Reduction {
    pub fn name(self) -> &'static str {
        match self {
            Reduction::Sum => "sum",
            Reduction::Mean => "mean",
            Reduction::Minimum => "min",
            Reduction::Maximum => "max",
            Reduction::First => "first",
            Reduction::Last => "last",
            Reduction::Any => "any",
            Reduction::All => "all",
            Reduction::Count => "count",
            Reduction::Quantile { .. } => "quantile",
        }
    }
}

/// Each number compared with its peers over an axis; the axis of the argument is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// (x - mean) / (deviation + epsilon); 0 where all are equal.
    Zscore { deviation: Deviation },
    /// x - mean
    Center,
    /// Share of the others that are smaller, from 0 to 1; equal values share their mean rank.
    Rank,
    /// The mean of the others.
    LeaveOneOut,
    /// (x - min) / (max - min); 0 where all are equal.
    Minmax,
    /// Values above the `upper` quantile are set to it.
    Winsor { upper: f64 },
    /// True for the `keep` fraction with the largest values, ties broken by position.
    TopFraction { keep: f64 },
    /// True for the `count` largest values, ties broken by position.
    TopCount { count: u32 },
    /// exp(x) / sum of exp(x)
    Softmax,
    /// True for a `keep` fraction drawn with probabilities proportional to x.
    SampleWithoutReplacement { keep: f64 },
    /// True for as many true elements as false ones, the larger side thinned at random.
    Balance,
    /// True in windows of `width` tokens around the `most` largest values.
    Chunks { most: u32, width: u32 },
}

impl Statistic {
    pub fn name(self) -> &'static str {
        match self {
            Statistic::Zscore { .. } => "zscore",
            Statistic::Center => "center",
            Statistic::Rank => "rank",
            Statistic::LeaveOneOut => "leave_one_out",
            Statistic::Minmax => "minmax",
            Statistic::Winsor { .. } => "winsor",
            Statistic::TopFraction { .. } => "top_fraction",
            Statistic::TopCount { .. } => "top_count",
            Statistic::Softmax => "softmax",
            Statistic::SampleWithoutReplacement { .. } => "sample_without_replacement",
            Statistic::Balance => "balance",
            Statistic::Chunks { .. } => "chunks",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// Divided by n.
    Population,
    /// Divided by n - 1.
    Sample,
}

/// A running value along an axis; the axis of the argument is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Scan {
    Sum,
    Product,
    Minimum,
    Maximum,
    /// The element after this one; 0 after the last.
    Next,
    /// The sum of this and what follows, each step discounted: sum over u >= t of discount^(u - t) * x_u.
    RewardToGo {
        discount: Formula,
    },
}

impl Scan {
    pub fn name(&self) -> &'static str {
        match self {
            Scan::Sum => "cumsum",
            Scan::Product => "cumprod",
            Scan::Minimum => "cummin",
            Scan::Maximum => "cummax",
            Scan::Next => "next",
            Scan::RewardToGo { .. } => "reward_to_go",
        }
    }
}

/// A number carried from one step of the run to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    /// rate * what it was + (1 - rate) * x
    Ema { rate: f64 },
    /// x of the step before.
    Previous,
}

/// A schedule that the run itself moves: it can't be known before.
#[derive(Clone, Debug, PartialEq)]
pub enum Adaptive {
    /// The first value; the next one when the condition holds, which is looked at every `every` steps.
    Ladder { values: Vec<f64>, advance_if: Formula, every: u32 },
    /// Drawn from a learned Beta distribution, held for `hold` steps, trained to raise the discounted `gain` (arXiv:2605.11458).
    Learned { gain: Formula, hold: u32, discount: f64 },
}

/// Formulas with fewer parts than this are walked without a table.
const FEW: usize = 48;

/// A formula with its type. Cheap to clone: parts are shared.
#[derive(Clone, PartialEq)]
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
    Adaptive(Adaptive),
    Signal(Signal),
    Live(Live),
    /// The variable of a generator, or a parameter that has no value yet.
    Variable(Rc<str>),
    Apply {
        function: Function,
        operands: Vec<Formula>,
    },
    /// Puts the elements of the argument's axis together within each element of `over`, which is this formula's axis. With
    /// `among`, only those where it is true; with `on`, those of another rollout of the same prompts.
    Reduce {
        reduction: Reduction,
        operand: Formula,
        among: Option<Formula>,
        on: Option<Rc<Rollout>>,
    },
    /// Compares elements of the argument's axis within each element of `over`. With `among`, only those where it is true; the
    /// others' value is 0.
    Statistic {
        statistic: Statistic,
        operand: Formula,
        over: Axis,
        among: Option<Formula>,
    },
    /// Runs along the argument's axis within each element of `over`.
    Scan {
        scan: Scan,
        operand: Formula,
        over: Axis,
    },
    Memory {
        memory: Memory,
        operand: Formula,
    },
    /// `softmax(x, across: panel, missing: uniform)`: one member's share among all members' values, of those where `among` holds.
    Across {
        members: Vec<Formula>,
        among: Vec<Formula>,
        index: usize,
    },
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Formula {
    pub fn new(kind: FormulaKind, unit: Unit, axis: Axis, live: bool, origin: Origin) -> Formula {
        Formula(Rc::new(FormulaNode { kind, unit, axis, live, origin }))
    }

    /// A signal, with its own unit and axis.
    pub fn signal(signal: Signal, origin: Origin) -> Formula {
        let (unit, axis) = (signal.unit(), signal.axis());
        Formula::new(FormulaKind::Signal(signal), unit, axis, false, origin)
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

    /// A number known before the run.
    pub fn constant(&self) -> Option<f64> {
        match self.0.kind {
            FormulaKind::Number(value) => Some(value),
            _ => None,
        }
    }

    /// Its direct parts, those inside divergences included.
    pub fn operands(&self) -> Vec<&Formula> {
        match &self.0.kind {
            FormulaKind::Apply { operands, .. } => operands.iter().collect(),
            FormulaKind::Reduce { operand, among, .. } | FormulaKind::Statistic { operand, among, .. } => {
                std::iter::once(operand).chain(among).collect()
            }
            FormulaKind::Scan { scan: Scan::RewardToGo { discount }, operand, .. } => vec![operand, discount],
            FormulaKind::Scan { operand, .. } | FormulaKind::Memory { operand, .. } => vec![operand],
            FormulaKind::Across { members, among, .. } => members.iter().chain(among).collect(),
            FormulaKind::Signal(Signal::Divergence(divergence)) | FormulaKind::Live(Live::Divergence(divergence)) => {
                divergence.formulas()
            }
            FormulaKind::Live(Live::SquaredError { target, .. } | Live::BinaryCrossEntropy { target, .. }) => vec![target],
            FormulaKind::Live(Live::Preference(preference)) => match &preference.kind {
                PreferenceKind::Dpo { beta } => vec![beta],
                PreferenceKind::BradleyTerry => Vec::new(),
            },
            FormulaKind::Adaptive(Adaptive::Ladder { advance_if: formula, .. } | Adaptive::Learned { gain: formula, .. }) => {
                vec![formula]
            }
            FormulaKind::Number(_)
            | FormulaKind::Schedule(_)
            | FormulaKind::Signal(_)
            | FormulaKind::Live(_)
            | FormulaKind::Variable(_) => Vec::new(),
        }
    }

    /// Every part, itself included, each once. Shared parts are looked at once: a chain of `let`s that each use the last one
    /// twice has few parts but very many paths.
    pub fn parts(&self) -> Vec<&Formula> {
        let mut seen: HashSet<*const FormulaNode> = HashSet::new();
        let mut waiting = vec![self];
        let mut parts: Vec<&Formula> = Vec::new();
        while let Some(formula) = waiting.pop() {
            // Most formulas are small: looking through the list is quicker than hashing. Only a shared node can come again.
            let again = Rc::strong_count(&formula.0) > 1
                && if parts.len() < FEW {
                    parts.iter().any(|part| Rc::ptr_eq(&part.0, &formula.0))
                } else {
                    if seen.is_empty() {
                        seen.extend(parts.iter().map(|part| Rc::as_ptr(&part.0)));
                    }
                    !seen.insert(Rc::as_ptr(&formula.0))
                };
            if !again {
                parts.push(formula);
                waiting.extend(formula.operands());
            }
        }
        parts
    }

    /// Whether some part passes the test.
    pub fn any(&self, test: impl Fn(&FormulaNode) -> bool) -> bool {
        self.parts().iter().any(|part| test(&part.0))
    }

    /// Whether some part reads the distribution of `role`.
    pub fn reads(&self, role: &Role) -> bool {
        self.any(|node| match &node.kind {
            FormulaKind::Signal(signal) => signal.roles().contains(role),
            FormulaKind::Live(live) => live.roles().contains(role),
            _ => false,
        })
    }
}
