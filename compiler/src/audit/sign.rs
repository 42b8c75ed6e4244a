//! The direction in which a term moves the student. The commonest mistake is a sign: one minus too many
//! teaches the opposite.

use mopd_experiment::formula::{
    DivergenceKind, Formula, FormulaKind, ModelSignal, PlainSignal, Role, Signal,
};

use super::expectation::{ALL, CompiledTerm};
use super::fit::{cosine, difference, norm};
use super::judge::Query;
use super::known::{LEAST, gradients, measure};
use super::named::{GradientSource, Named, NamedOutcome, plain};
use super::refusal::AuditRefusal;
use super::sampler::Sampler;
use super::toy_model::{ToyModelSpec, Variation};

/// A gradient whose cosine is above this is a mixture, not a wrong sign.
const OPPOSITE: f64 = -0.5;

/// The number of toy models in which a gradient must lead the wrong way.
const ENOUGH: usize = 3;

/// The number of toy models in which every outcome has the same derivative for two teachers.
const COMPARED: u64 = 8;

/// The target that a term moves the student away from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RepelledFrom {
    Role(Role),
    /// The text that the term is trained on.
    Data,
    Reward,
}

impl Query<'_> {
    /// The role that the mean gradient leads away from, in every toy model. It is compared with both
    /// directions of KL, so weights, masks and bounds, and divergences without a name, make no difference.
    pub fn repelled_from(&self) -> Result<Option<RepelledFrom>, AuditRefusal> {
        let mut toys = self.toys();
        toys.truncate(ENOUGH);
        if measure(&self.view, ALL, &toys[..1])?.is_zero() {
            return Ok(None);
        }
        let own: Vec<Vec<f64>> = toys
            .iter()
            .map(|toy| measure(&self.view, ALL, std::slice::from_ref(toy)).map(|measured| measured.gradient))
            .collect::<Result<_, _>>()?;
        let cosines = |source: GradientSource| -> Result<Vec<f64>, AuditRefusal> {
            let named = Named { name: String::new(), source, teaches: false };
            toys.iter()
                .zip(&own)
                .map(|(toy, own)| Ok(cosine(own, &gradients(&named, std::slice::from_ref(toy))?)))
                .collect()
        };
        let mut away = None;
        let compared = self.compared();
        for role in &compared {
            let mut most = f64::NEG_INFINITY;
            for (left, right) in [(&Role::Student, role), (role, &Role::Student)] {
                let along =
                    cosines(GradientSource::Divergence(plain(DivergenceKind::Kl, left, right), Vec::new()))?;
                most = along.into_iter().fold(most, f64::max);
            }
            if most > 0.0 {
                // A part leads towards some role, and the rest may be meant to keep a distance.
                return Ok(None);
            }
            if most < OPPOSITE && away.is_none() {
                away = Some(RepelledFrom::Role(role.clone()));
            }
        }
        if !compared.is_empty() {
            return Ok(away);
        }
        if self.reads(is_verdict) {
            let drawn_by_student = matches!(self.sampler(), Sampler::Student { .. });
            let opposite = drawn_by_student
                && cosines(GradientSource::Policy(NamedOutcome::Reward))?
                    .iter()
                    .all(|cosine| *cosine < OPPOSITE);
            return Ok(opposite.then_some(RepelledFrom::Reward));
        }
        // A term that reads a verdict, or a field of the data, may be meant to unlearn.
        let judges = self.reads(judges);
        let imitates = matches!(self.sampler(), Sampler::Elsewhere { .. } | Sampler::By { .. });
        let opposite =
            imitates && !judges && cosines(GradientSource::Sampled)?.iter().all(|cosine| *cosine < OPPOSITE);
        Ok(opposite.then_some(RepelledFrom::Data))
    }

    /// The roles that the value itself depends on, without weights and masks.
    fn compared(&self) -> Vec<Role> {
        let mut found: Vec<Role> = Vec::new();
        for part in self.view.value.parts() {
            let roles = match &part.0.kind {
                FormulaKind::Signal(Signal::Of { role, part: ModelSignal::Logp }) => vec![role.clone()],
                FormulaKind::Signal(Signal::Divergence(divergence)) => divergence.roles(),
                FormulaKind::Live(live) => live.roles(),
                _ => continue,
            };
            for role in roles {
                let another = !role.is_policy() && !self.is_made_of_student(&role);
                if another && !found.contains(&role) {
                    found.push(role);
                }
            }
        }
        found
    }

    fn reads(&self, test: impl Fn(&Signal) -> bool + Copy) -> bool {
        self.view.any(|node| matches!(&node.kind, FormulaKind::Signal(signal) if test(signal)))
    }

    /// Whether a teacher or the reference is only added to what carries gradient: every single outcome has
    /// the same derivative for all of them. Weights and masks, which may read one, are left out.
    pub fn only_adds_teacher(&self) -> Result<bool, AuditRefusal> {
        let alone = Query { view: self.view.without_gates(), spec: self.spec.clone() };
        let reads = alone.reads_teacher() || alone.compared().contains(&Role::Reference);
        if !reads || alone.may_be_silent() {
            return Ok(false);
        }
        let term = CompiledTerm::new(&alone.view, ALL)?;
        let smallest = ToyModelSpec { size: self.spec.size.smallest(), ..self.spec.clone() };
        let is_same = |(here, there): (&Vec<f64>, &Vec<f64>)| {
            here.len() == there.len() && norm(&difference(here, there)) <= 1e-9 * norm(here)
        };
        let mut moves = false;
        // Several, because the derivative of an absolute value is a sign, which may be the same for both.
        for seed in 0..COMPARED {
            let derivatives = |variation| term.derivatives(&smallest.toy(seed, variation), ALL);
            let (here, there) = (derivatives(Variation::Usual)?, derivatives(Variation::OtherTeachers)?);
            if !here.iter().zip(&there).all(is_same) {
                return Ok(false);
            }
            moves |= here.iter().any(|derivative| norm(derivative) > LEAST);
        }
        Ok(moves)
    }

    /// Whether the term reads a teacher, but has the same gradient for every teacher; or the reference, which
    /// it only adds. Conditions are assumed to hold elsewhere.
    pub fn ignores_teacher(&self) -> Result<bool, AuditRefusal> {
        let is_own = |role: &Role| *role != Role::Student && self.is_made_of_student(role);
        let own = |formula: &Formula| {
            formula.any(|node| match &node.kind {
                FormulaKind::Signal(signal) => signal.roles().iter().any(is_own),
                FormulaKind::Live(live) => live.roles().iter().any(is_own),
                _ => false,
            })
        };
        if own(self.view.value) {
            return Ok(false);
        }
        if self.only_adds_teacher()? {
            return Ok(true);
        }
        if !self.reads_teacher() || self.may_be_silent() {
            return Ok(false);
        }
        for (toy, other) in self.toys().iter().zip(self.other_toys(Variation::OtherTeachers)) {
            let here = measure(&self.view, ALL, std::slice::from_ref(toy))?;
            let there = measure(&self.view, ALL, &[other])?;
            if here.is_zero()
                || norm(&difference(&here.gradient, &there.gradient)) > 1e-9 * norm(&here.gradient)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a signal is the verdict on a completion.
pub(super) fn is_verdict(signal: &Signal) -> bool {
    matches!(signal, Signal::Plain(PlainSignal::Reward | PlainSignal::Correct | PlainSignal::TurnReward))
}

/// Whether a signal judges completions in another way, or is a field of the data.
pub(super) fn judges(signal: &Signal) -> bool {
    matches!(
        signal,
        Signal::RewardPart { .. }
            | Signal::SpanScore { .. }
            | Signal::Data { .. }
            | Signal::DataIs { .. }
            | Signal::Agreement { .. }
            | Signal::Of {
                part: ModelSignal::Score
                    | ModelSignal::Correct
                    | ModelSignal::Value
                    | ModelSignal::StatedConfidence,
                ..
            }
    )
}
