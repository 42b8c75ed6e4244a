//! Notes on a verdict: where it was tested, and what was not tested.

use std::rc::Rc;

use mopd_experiment::Temperature;
use mopd_experiment::formula::{
    Axis, Formula, FormulaKind, FormulaNode, PlainSignal, Reduction, Signal, text,
};

use super::expectation::{ALL, AppliedParts};
use super::fit::{cosine, difference, distance, norm};
use super::judge::Query;
use super::known::KnownGradients;
use super::named::Named;
use super::refusal::AuditRefusal;
use super::sampler::Sampler;
use super::toy_model::{ScaledSupport, ToyModelSpec, ToyMoment, Variation};
use super::variants;
use super::verdict::{Verdict, distance_text};
use super::view::TermView;

/// The size below which a bias is due to a bound that hardly applies.
const HARDLY: f64 = 1e-6;

impl<'a> Query<'a> {
    /// The divergence that the mean value is a multiple of, and the different one that the gradient follows:
    /// of the term, and of what is left without its weights, masks and sums. These change how much each token
    /// counts, but not what an estimator is differentiated for.
    pub(super) fn misleading(&self) -> Option<(String, String)> {
        if self.is_one_token()
            && let Some(found) = self.misleading_as_written()
        {
            return Some(found);
        }
        let mut value = self.view.value.clone();
        loop {
            value = match &value.0.kind {
                FormulaKind::Reduce {
                    reduction: Reduction::Sum | Reduction::Mean,
                    operand,
                    on: None,
                    ..
                } => operand.clone(),
                _ => match variants::live_factors(&value) {
                    Some(product) => product,
                    None => break,
                },
            };
        }
        let weighted = !self.view.gates().is_empty() || !Rc::ptr_eq(&value.0, &self.view.value.0);
        if !weighted || self.spec.size.length > 1 && !value.live() {
            return None;
        }
        let view = TermView { value: &value, ..self.view.without_gates() };
        let moment = ToyMoment { step: self.spec.step, run: self.spec.run, longest: self.spec.longest };
        let alone = Query::new(view, &self.spec.sampler, &self.spec.teachers, moment).ok()?;
        if !alone.is_one_token() {
            return None;
        }
        alone.misleading_as_written()
    }

    fn misleading_as_written(&self) -> Option<(String, String)> {
        // Only the two directions of KL, in a few toy models. For most terms this rules it out, and the
        // comparison with all others is not needed.
        let named = self.candidates();
        let direction = |named: &Named| named.name.starts_with("KL(");
        let before = named.iter().position(direction)?;
        let directions: &[Named] =
            named[before..].split(|named| !direction(named)).next().unwrap_or_default();
        let toys = self.toys();
        let first = &toys[..toys.len().min(2)];
        self.estimated(&self.gradient_in(first).ok()?, directions, first)?;
        let usual = self.usual_gradient().ok()?;
        let value = &directions[self.estimated(&usual, directions, &toys)?].name;
        let known = KnownGradients::new(&named, &toys, self.block()).ok()?;
        let gradient = known.multiple_of(&usual.gradient)?;
        // In toy models a truncated divergence may equal the whole one: one number under two names.
        let own = named.iter().find(|named| named.name == gradient)?;
        let one = self.estimated(&usual, std::slice::from_ref(own), &toys).is_some();
        (gradient != *value && !one).then(|| (value.clone(), gradient))
    }

    /// The divergence that the value would estimate at temperature 1. At another sampling temperature the
    /// estimate has no meaning.
    pub(super) fn at_temperature_one(&self) -> Option<String> {
        let Sampler::Student { .. } = self.spec.sampler else { return None };
        if self.spec.is_on_policy(self.spec.step) {
            return None;
        }
        let temperature = Temperature::Constant(1.0);
        let spec = ToyModelSpec { sampler: Sampler::ON_POLICY, temperature, ..self.spec.clone() };
        let (value, gradient) = Query { view: self.view.with_value(self.view.value), spec }.misleading()?;
        Some(format!(
            "on tokens drawn at temperature 1 its value estimates {value}, its gradient is of {gradient}"
        ))
    }

    /// The effect of bounds where models differ by many nats, if there is none where they differ little.
    pub(super) fn steep(&self, verdict: &Verdict) -> Result<Option<String>, AuditRefusal> {
        let named = matches!(
            verdict,
            Verdict::Follows { .. }
                | Verdict::Weighted { .. }
                | Verdict::WithTask { .. }
                | Verdict::Sum { .. }
                | Verdict::ByLength { .. }
        );
        if !named || !variants::has_bounds(&self.view) || self.spec.roles.is_empty() {
            return Ok(None);
        }
        let free = self.measure(&self.view, AppliedParts { bounds: false, gates: true }, Variation::Steep)?;
        let bound = self.measure(&self.view, ALL, Variation::Steep)?.gradient;
        if free.is_zero() || norm(&difference(&bound, &free.gradient)) <= HARDLY * norm(&free.gradient) {
            return Ok(None);
        }
        let (far, angle) = (distance(&bound, &free.gradient), cosine(&bound, &free.gradient));
        Ok(Some(format!(
            "where models differ by many nats its bounds act: {} from that (cosine {angle:.3})",
            distance_text(far)
        )))
    }

    /// The values of the states that the term reads. `None` if there are none.
    pub(super) fn states(&self) -> Option<String> {
        let mut begun: Vec<String> = Vec::new();
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            if let FormulaKind::Signal(Signal::State { name, axis, first, .. }) = &part.0.kind {
                let each = if *axis == Axis::Domain { " for each domain" } else { "" };
                let number = text::number(readable(self.spec.states.at(self.spec.run, name, *first)));
                let taken = format!("{name} = {number}{each}");
                if !begun.contains(&taken) {
                    begun.push(taken);
                }
            }
        }
        (!begun.is_empty()).then(|| begun.join(", "))
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = Vec::new();
        let mut open: Vec<String> = Vec::new();
        for part in self.view.formulas().into_iter().flat_map(Formula::parts) {
            if let FormulaKind::Variable(name) = &part.0.kind {
                let taken =
                    format!("{name} = {}", text::number(readable(self.spec.values.get(name, part.unit()))));
                if !open.contains(&taken) {
                    open.push(taken);
                }
            }
        }
        if !open.is_empty() {
            notes.push(format!("with {} because there is no default", open.join(", ")));
        }
        if let Some(states) = self.states() {
            notes.push(changes(&states));
        }
        if self.view.any(|node| node.is(PlainSignal::VocabularySize)) {
            notes.push(format!("vocab_size is {} here", self.spec.size.vocabulary));
        }
        for axis in [Axis::Turn, Axis::Block, Axis::Domain] {
            let over = |node: &FormulaNode| match &node.kind {
                FormulaKind::Reduce { .. } | FormulaKind::Signal(Signal::State { .. }) => node.axis == axis,
                FormulaKind::Statistic { over, .. } | FormulaKind::Scan { over, .. } => *over == axis,
                _ => false,
            };
            let apart = axis == Axis::Domain && self.spec.size.domains > 1;
            if !apart && self.view.any(over) {
                let whole = if axis == Axis::Domain { "batch" } else { "completion" };
                notes.push(format!("a whole {whole} is one {} here", axis.name()));
            }
        }
        if self.too_long() {
            notes.push("only completions of 2 tokens are enumerated here".into());
        }
        for ScaledSupport { k, entries } in &self.spec.supports {
            if *k as usize != *entries {
                notes
                    .push(format!("the top {k} are the top {entries} of {} here", self.spec.size.vocabulary));
            }
        }
        notes
    }
}

/// The note that a verdict holds for these values of states.
pub(super) fn changes(states: &str) -> String {
    format!("with {states}, which changes during the run")
}

/// Rounds away the errors of binary fractions.
fn readable(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}
