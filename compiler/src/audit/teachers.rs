//! The models of the roles, as far as the audit depends on them: a teacher may be the student itself, or
//! composed of others.

use std::collections::HashSet;
use std::rc::Rc;

use mopd_experiment::formula::{Formula, FormulaKind, PlainSignal, Role, Signal, WeightedRole};
use mopd_experiment::{
    Alignment, DomainId, Experiment, Pool, SelfCopy, StageStep, Teacher, TeacherChoice, TeacherWeights,
    Template, Train,
};

use super::dual::Dual;
use super::evaluate::elementwise;
use super::toy_model::{ToyModel, normalised};
use crate::lower::{FormulaGraph, GraphLeaf};

/// The source of a role's distributions.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum DistributionSource {
    /// Weights of its own, or a prompt other than the student's.
    Own,
    /// The student of this step, on the student's own prompt.
    Student,
    /// A linear combination of logits.
    Logits(Vec<WeightedRole<f64>>),
    /// A weighted mean of probabilities.
    Mixture(Vec<WeightedRole<f64>>),
}

/// A teacher's distributions, with schedules not evaluated yet.
#[derive(Clone, Debug, PartialEq)]
struct TeacherModel {
    weights: Weights,
    /// The divisor of its logits.
    temperature: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Weights {
    Own,
    Student,
    Composed(Vec<WeightedRole>),
    Pooled(Pool, Vec<WeightedRole<f64>>),
}

/// The declared teachers of an experiment, and the one that a route chooses for some prompts. Without an
/// experiment, every teacher has distributions of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Teachers {
    named: Rc<Vec<TeacherModel>>,
    routed: Option<TeacherModel>,
    /// The name of the routed teacher, if other prompts have another kind of teacher.
    routed_name: Option<String>,
}

impl Teachers {
    /// The teachers of a stage, once for each kind of teacher that its route chooses, for all prompts or for
    /// those of one domain.
    pub fn for_stage(experiment: &Experiment, train: &Train, domain: Option<DomainId>) -> Vec<Teachers> {
        let model = |teacher: &Teacher| TeacherModel::new(teacher, train.sees.as_deref());
        Teachers::of_models(experiment, train, domain, model)
    }

    /// [`Teachers::for_stage`] at the first step, where every copy of the student is the student.
    pub(super) fn at_first_step(
        experiment: &Experiment,
        train: &Train,
        domain: Option<DomainId>,
    ) -> Vec<Teachers> {
        Teachers::of_models(experiment, train, domain, |teacher| {
            let current = match &teacher.weights {
                TeacherWeights::Student(_) => TeacherWeights::Student(SelfCopy::Current),
                other => other.clone(),
            };
            TeacherModel::new(&Teacher { weights: current, ..teacher.clone() }, train.sees.as_deref())
        })
    }

    fn of_models(
        experiment: &Experiment,
        train: &Train,
        domain: Option<DomainId>,
        model: impl Fn(&Teacher) -> TeacherModel,
    ) -> Vec<Teachers> {
        let named: Rc<Vec<TeacherModel>> = Rc::new(experiment.teachers.iter().map(model).collect());
        let mut casts: Vec<Teachers> = Vec::new();
        let chosen = |choice: &&TeacherChoice| domain.is_none_or(|domain| choice.domain == domain);
        for choice in train.teachers.iter().filter(chosen) {
            let routed = named.get(choice.teacher.0 as usize).cloned();
            if !casts.iter().any(|known| known.routed == routed) {
                let name =
                    experiment.teachers.get(choice.teacher.0 as usize).map(|teacher| teacher.name.clone());
                casts.push(Teachers { named: named.clone(), routed, routed_name: name });
            }
        }
        match casts.as_mut_slice() {
            [] => casts.push(Teachers { named, routed: None, routed_name: None }),
            [only] => only.routed_name = None,
            _ => {}
        }
        casts
    }

    /// The text `, on prompts that go to now`, if that makes a difference.
    pub(super) fn text(&self) -> String {
        self.routed_name.as_ref().map(|name| format!(", on prompts that go to {name}")).unwrap_or_default()
    }

    fn played(&self, role: &Role) -> Option<&TeacherModel> {
        match role {
            Role::Teacher => self.routed.as_ref(),
            Role::Named { teacher, .. } => self.named.get(teacher.0 as usize),
            _ => None,
        }
    }

    pub(super) fn source(&self, role: &Role, step: StageStep) -> DistributionSource {
        if *role == Role::Student {
            return DistributionSource::Student;
        }
        let Some(played) = self.played(role) else { return DistributionSource::Own };
        match &played.weights {
            // A sum of losses has no distribution, unless all its members are the student itself.
            Weights::Pooled(Pool::Sum, members) if members.iter().all(|part| self.is_current(&part.role)) => {
                DistributionSource::Student
            }
            Weights::Own | Weights::Pooled(Pool::Sum, _) => DistributionSource::Own,
            Weights::Student => DistributionSource::Student,
            Weights::Composed(parts) => {
                let known = parts.iter().map(|part| {
                    Some(WeightedRole { weight: number(&part.weight, step)?, role: part.role.clone() })
                });
                known.collect::<Option<_>>().map_or(DistributionSource::Own, DistributionSource::Logits)
            }
            Weights::Pooled(Pool::Geometric, members) => DistributionSource::Logits(members.clone()),
            Weights::Pooled(Pool::Mixture, members) => DistributionSource::Mixture(members.clone()),
        }
    }

    fn temperature(&self, role: &Role) -> f64 {
        self.played(role).map_or(1.0, |played| played.temperature)
    }

    /// Whether the role's distributions are the student's own.
    pub(super) fn is_student(&self, role: &Role, step: StageStep) -> bool {
        self.source(role, step) == DistributionSource::Student && self.temperature(role) == 1.0
    }

    /// Whether the role is declared as the student of this step, unchanged.
    fn is_current(&self, role: &Role) -> bool {
        self.played(role)
            .is_some_and(|played| played.weights == Weights::Student && played.temperature == 1.0)
    }

    /// Whether the role's distributions depend only on the student.
    pub(super) fn is_made_of_student(&self, role: &Role, step: StageStep) -> bool {
        let (mut seen, mut waiting) = (HashSet::new(), vec![role.clone()]);
        while let Some(role) = waiting.pop() {
            match self.source(&role, step) {
                DistributionSource::Own => return false,
                DistributionSource::Student => {}
                DistributionSource::Logits(parts) | DistributionSource::Mixture(parts) => {
                    let parts = parts.into_iter().filter(|part| part.weight != 0.0).map(|part| part.role);
                    waiting.extend(parts.filter(|part| seen.insert(part.clone())));
                }
            }
        }
        true
    }

    /// These roles, and those that they are composed of, each once, without the policies. Stops when
    /// there is one more than `most`.
    pub(super) fn closure(&self, roles: Vec<Role>, step: StageStep, most: usize) -> Vec<Role> {
        let mut found = roles;
        let mut at = 0;
        while at < found.len() && found.len() <= most {
            for part in self.parts(&found[at], step) {
                if !part.is_policy() && !found.contains(&part) {
                    found.push(part);
                }
            }
            at += 1;
        }
        found
    }

    /// The weights of these roles where they are composed, and of the roles that they are composed of.
    pub(super) fn weights(&self, roles: Vec<Role>) -> Vec<&Formula> {
        let (mut found, mut waiting) = (Vec::new(), roles);
        let mut seen: HashSet<Role> = HashSet::new();
        while let Some(role) = waiting.pop() {
            if !seen.insert(role.clone()) {
                continue;
            }
            match self.played(&role).map(|played| &played.weights) {
                Some(Weights::Composed(parts)) => {
                    found.extend(parts.iter().map(|part| &part.weight));
                    waiting.extend(parts.iter().map(|part| part.role.clone()));
                }
                Some(Weights::Pooled(_, members)) => {
                    waiting.extend(members.iter().map(|part| part.role.clone()));
                }
                _ => {}
            }
        }
        found
    }

    /// The roles that a role's distributions are computed from.
    pub(super) fn parts(&self, role: &Role, step: StageStep) -> Vec<Role> {
        match self.source(role, step) {
            DistributionSource::Own | DistributionSource::Student => Vec::new(),
            DistributionSource::Logits(parts) | DistributionSource::Mixture(parts) => {
                parts.into_iter().map(|part| part.role).collect()
            }
        }
    }

    /// The log-probabilities of a composed role, in a toy model that already has its parts.
    pub(super) fn distribution(&self, role: &Role, toy: &ToyModel, prefix: usize) -> Vec<f64> {
        let part = |part: &Role| match toy.logp(part, prefix) {
            Some(known) => known.to_vec(),
            None => self.distribution(part, toy, prefix),
        };
        let entries = 0..toy.size.vocabulary;
        let logits: Vec<f64> = match self.source(role, toy.step) {
            DistributionSource::Own | DistributionSource::Student => part(&Role::Student),
            DistributionSource::Logits(parts) => {
                let parts: Vec<(f64, Vec<f64>)> =
                    parts.iter().map(|of| (of.weight, part(&of.role))).collect();
                entries.map(|entry| parts.iter().map(|(factor, logp)| factor * logp[entry]).sum()).collect()
            }
            DistributionSource::Mixture(parts) => {
                let parts: Vec<(f64, Vec<f64>)> =
                    parts.iter().map(|of| (of.weight, part(&of.role))).collect();
                let sum =
                    |entry: usize| parts.iter().map(|(share, logp)| share * logp[entry].exp()).sum::<f64>();
                entries.map(|entry| sum(entry).ln()).collect()
            }
        };
        match self.temperature(role) {
            1.0 => normalised(&logits),
            temperature => normalised(&logits.iter().map(|logit| logit / temperature).collect::<Vec<f64>>()),
        }
    }
}

impl TeacherModel {
    /// `student` is the student's template, if it sees one in place of the plain prompt.
    fn new(teacher: &Teacher, student: Option<&Template>) -> TeacherModel {
        // A model with another prompt than the student has another distribution. The members of a composed
        // teacher have prompts of their own.
        let own_prompt = match &teacher.weights {
            TeacherWeights::Student(_) => teacher.sees.as_deref() != student || teacher.feedback.is_some(),
            _ => teacher.sees.is_some(),
        };
        let elsewhere = own_prompt || teacher.reveals.is_some() || teacher.align != Alignment::Positions;
        let weights = match &teacher.weights {
            _ if elsewhere => Weights::Own,
            TeacherWeights::Student(SelfCopy::Current | SelfCopy::Every { steps: 0 | 1 }) => Weights::Student,
            TeacherWeights::Student(SelfCopy::Ema { rate: 0.0 }) => Weights::Student,
            TeacherWeights::Composed { logits, .. } => Weights::Composed(logits.clone()),
            TeacherWeights::Pooled { pool, members } => Weights::Pooled(*pool, members.clone()),
            _ => Weights::Own,
        };
        TeacherModel { weights, temperature: teacher.temperature }
    }
}

/// A number of the run at a step. `None` if it depends on anything else.
fn number(formula: &Formula, step: StageStep) -> Option<f64> {
    let lowered = FormulaGraph::from_formulas(None, &[formula]).ok()?;
    let leaf = |leaf: &GraphLeaf| match leaf.formula.0.kind {
        FormulaKind::Signal(Signal::Plain(PlainSignal::Step)) => Some(Dual::plain(f64::from(step.step))),
        FormulaKind::Signal(Signal::Plain(PlainSignal::Progress)) => Some(Dual::plain(step.progress())),
        _ => None,
    };
    elementwise(&lowered, step, &leaf).map(|number| number.value)
}
