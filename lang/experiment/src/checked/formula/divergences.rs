//! Divergences, their supports and masses, and the other quantities that gradient can flow through.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::summand::with_parts;
use super::{Axis, Formula, GivenParameter, ModelSignal, NamedSpan, Role, Summand, Unit};
use crate::checked::{Origin, Rollout};

/// One side of a divergence.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    Role(Role),
    /// `blend(teacher: a, student: 1 - a)`: a weighted sum of distributions. If the student is one of them,
    /// its share carries gradient where the whole divergence is `live`.
    Blend(Vec<WeightedRole>),
    /// `detached(blend(...))`: no gradient flows through this side, even where the student is in it.
    Detached(Box<Distribution>),
}

/// A role in a weighted sum: the share of a blend, the factor of logits, the weight in a pool of teachers.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedRole<W = Formula> {
    pub weight: W,
    pub role: Role,
}

impl Distribution {
    pub fn roles(&self) -> Vec<Role> {
        match self {
            Distribution::Role(role) => vec![role.clone()],
            Distribution::Blend(parts) => parts.iter().map(|part| part.role.clone()).collect(),
            Distribution::Detached(inner) => inner.roles(),
        }
    }

    pub fn role(&self) -> Option<&Role> {
        match self {
            Distribution::Role(role) => Some(role),
            Distribution::Blend(_) | Distribution::Detached(_) => None,
        }
    }

    /// Whether gradient flows through it where the divergence is `live`.
    fn carries_gradient(&self) -> bool {
        !matches!(self, Distribution::Detached(_)) && self.roles().contains(&Role::Student)
    }

    fn with_weights(&self, of: &mut dyn FnMut(&Formula) -> Formula) -> Distribution {
        match self {
            Distribution::Role(role) => Distribution::Role(role.clone()),
            Distribution::Blend(parts) => Distribution::Blend(
                parts
                    .iter()
                    .map(|part| WeightedRole { weight: of(&part.weight), role: part.role.clone() })
                    .collect(),
            ),
            Distribution::Detached(inner) => Distribution::Detached(Box::new(inner.with_weights(of))),
        }
    }

    fn formulas(&self) -> Vec<&Formula> {
        match self {
            Distribution::Role(_) => Vec::new(),
            Distribution::Blend(parts) => parts.iter().map(|part| &part.weight).collect(),
            Distribution::Detached(inner) => inner.formulas(),
        }
    }
}

/// A divergence between next-token distributions: `kl(left || right, support: ..., mass: ...)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    pub kind: DivergenceKind,
    pub left: Distribution,
    pub right: Distribution,
    pub support: Support,
    pub mass: Mass,
    /// The divisor of the logits of both sides; 1 if not written.
    pub temperature: Amount,
    /// An upper bound on the summand of every vocabulary entry.
    pub clip_each: Option<f64>,
}

/// A number that may change during the run.
#[derive(Clone, Debug, PartialEq)]
pub enum Amount {
    Number(f64),
    /// It follows a schedule, a state or numbers of the batch.
    Formula(Formula),
}

impl From<f64> for Amount {
    fn from(number: f64) -> Amount {
        Amount::Number(number)
    }
}

impl Amount {
    pub fn is_one(&self) -> bool {
        *self == Amount::Number(1.0)
    }

    pub fn formula(&self) -> Option<&Formula> {
        match self {
            Amount::Number(_) => None,
            Amount::Formula(formula) => Some(formula),
        }
    }
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

    /// The unit of its value: nats where it contains logarithms. A total variation is a probability; powers
    /// of ratios are plain numbers.
    pub fn unit(&self) -> Unit {
        match &self.kind {
            DivergenceKind::SortedL1 => Unit::Number,
            DivergenceKind::Entrywise(summand) if !summand.in_nats() => Unit::Number,
            _ => Unit::Nats,
        }
    }

    /// The entropy of a role's distribution, as a sum over the vocabulary.
    pub fn entropy_of(role: Role, origin: Origin) -> Divergence {
        let unread = Distribution::Detached(Box::new(Distribution::Role(role.clone())));
        Divergence {
            kind: DivergenceKind::Entrywise(Rc::new(Summand::entropy(origin))),
            left: Distribution::Role(role),
            right: unread,
            support: Support::Full,
            mass: Mass::Raw,
            temperature: 1.0.into(),
            clip_each: None,
        }
    }

    /// The role, if it is a role's entropy as a signal has it.
    pub fn as_entropy(&self) -> Option<&Role> {
        let DivergenceKind::Entrywise(summand) = &self.kind else { return None };
        let plain = self.support == Support::Full && self.temperature.is_one() && self.clip_each.is_none();
        let is_entropy = summand.is_sum && summand.standard && summand.name == "entropy";
        self.left.role().filter(|_| plain && is_entropy)
    }

    /// The same with others in place of its [`formulas`](Divergence::formulas).
    pub fn with_formulas(&self, of: &mut dyn FnMut(&Formula) -> Formula) -> Divergence {
        let kind = match &self.kind {
            DivergenceKind::Entrywise(summand) => {
                let parameters = summand.parameters.iter();
                let parameters: Vec<GivenParameter> = parameters
                    .map(|given| GivenParameter { value: of(&given.value), ..given.clone() })
                    .collect();
                let values = summand.parameters.iter().zip(&parameters);
                let changed = values.filter(|(from, to)| !Rc::ptr_eq(&from.value.0, &to.value.0));
                let changed: Vec<(Formula, Formula)> =
                    changed.map(|(from, to)| (from.value.clone(), to.value.clone())).collect();
                let value = match changed.is_empty() {
                    true => summand.value.clone(),
                    false => with_parts(&summand.value, &changed),
                };
                DivergenceKind::Entrywise(Rc::new(Summand { parameters, value, ..(**summand).clone() }))
            }
            kind => kind.clone(),
        };
        let temperature = match &self.temperature {
            Amount::Formula(formula) => Amount::Formula(of(formula)),
            number => number.clone(),
        };
        let (left, right) = (self.left.with_weights(of), self.right.with_weights(of));
        Divergence { kind, temperature, left, right, ..self.clone() }
    }

    /// The formulas in it: the kind's parameters, a temperature that changes, and the coefficients of blends.
    pub fn formulas(&self) -> Vec<&Formula> {
        let mut formulas: Vec<&Formula> = match &self.kind {
            DivergenceKind::Entrywise(summand) => {
                summand.parameters.iter().map(|given| &given.value).collect()
            }
            _ => Vec::new(),
        };
        formulas.extend(self.temperature.formula());
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
    /// half the L1 distance of the sorted probabilities: vocabularies need not agree (arXiv:2402.12030)
    SortedL1,
    /// KL between two normal distributions, summed over components: continuous actions, denoising steps. All
    /// of them, or the ones listed.
    Gaussian { dimensions: Option<Vec<u32>> },
    /// A declared summand, summed over the entries.
    Entrywise(Rc<Summand>),
}

impl DivergenceKind {
    /// The name of its function.
    pub fn name(&self) -> &str {
        match self {
            DivergenceKind::Kl => "kl",
            DivergenceKind::SortedL1 => "sorted_l1",
            DivergenceKind::Gaussian { .. } => "gaussian_kl",
            DivergenceKind::Entrywise(summand) => &summand.name,
        }
    }

    /// Whether it is a sum over the entries of a vocabulary, so that support and mass have a meaning.
    pub fn over_vocabulary(&self) -> bool {
        !matches!(self, DivergenceKind::Gaussian { .. })
    }

    /// Whether swapping the sides changes the value.
    pub fn directed(&self) -> bool {
        match self {
            DivergenceKind::Kl | DivergenceKind::Gaussian { .. } => true,
            DivergenceKind::SortedL1 => false,
            DivergenceKind::Entrywise(summand) => summand.directed,
        }
    }
}

/// Which vocabulary entries are included.
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
    /// Only the token taken; with `mass: tail`, that token and everything else.
    Sampled,
    /// Entries whose text both vocabularies have.
    Matched,
    /// Entries whose text only one vocabulary has.
    Unmatched,
    Union(Vec<Support>),
    Intersection(Vec<Support>),
}

impl Support {
    /// Whether it depends on the token taken.
    pub fn reads_token(&self) -> bool {
        match self {
            Support::Sampled => true,
            Support::Union(parts) | Support::Intersection(parts) => parts.iter().any(Support::reads_token),
            _ => false,
        }
    }

    pub(super) fn roles(&self, roles: &mut Vec<Role>) {
        match self {
            Support::TopK { role, .. } | Support::Nucleus { role, .. } => add(roles, role.clone()),
            Support::Union(parts) | Support::Intersection(parts) => {
                parts.iter().for_each(|part| part.roles(roles))
            }
            Support::Full | Support::Sampled | Support::Matched | Support::Unmatched => {}
        }
    }
}

/// The treatment of the probability outside the support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mass {
    /// Both sides divided by their mass on the support.
    Renormalized,
    /// One more entry has the remaining probability.
    Tail,
    /// Each summand of the divergence gets `- left + right`, so that left = right is a stationary point
    /// (arXiv:2606.30406, eq. 5).
    Generalized,
    /// The bare partial sum.
    Raw,
}

/// A quantity that gradient flows through.
#[derive(Clone, Debug, PartialEq)]
pub enum Live {
    /// `live student.logp`, `live student.score`: a number that the student computes.
    Part(ModelSignal),
    /// `live kl(...)`: exact over its support. Per token.
    Divergence(Divergence),
    /// `live nll(teacher)`: minus the student's log-probability of the role's most probable token. Per token.
    Likelihood { of: Role },
    /// `live ranking(order: top_k(teacher, 8))`: minus the Plackett-Luce log-likelihood, under the student,
    /// of the order in which the support's role ranks its entries. Per token.
    Ranking { order: Support },
    /// A pair of completions of one prompt. Per group.
    Preference(Rc<Preference>),
    /// `live mse(student.mean, teacher.mean)`
    SquaredError { part: ModelSignal, target: Formula, dimensions: Option<Vec<u32>> },
    /// `live bce(student.confidence, target)`
    BinaryCrossEntropy { part: ModelSignal, target: Formula },
}

/// A loss on a chosen and a rejected completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Preference {
    pub kind: PreferenceKind,
    pub chosen: Rollout,
    pub rejected: Rollout,
    /// Scores of this span only.
    pub on: Option<NamedSpan>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum PreferenceKind {
    /// -log sigmoid(beta * (log-ratio of chosen - log-ratio of rejected)) against the reference
    /// (arXiv:2305.18290).
    Dpo { beta: Formula },
    /// -log sigmoid(score of chosen - score of rejected)
    BradleyTerry,
}

impl Live {
    pub fn axis(&self) -> Axis {
        match self {
            Live::Part(part) | Live::SquaredError { part, .. } | Live::BinaryCrossEntropy { part, .. } => {
                part.axis()
            }
            Live::Divergence(_) | Live::Likelihood { .. } | Live::Ranking { .. } => Axis::Token,
            Live::Preference(_) => Axis::Group,
        }
    }

    pub fn unit(&self) -> Unit {
        match self {
            Live::Part(part) => part.unit(),
            Live::Divergence(divergence) => divergence.unit(),
            Live::Likelihood { .. }
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
