//! Derives the verdict on a term from its gradients.

use std::rc::Rc;

use mopd_experiment::formula::{Formula, FormulaKind, FormulaNode, Role, Signal, text};

use super::divergence::EntryGraphs;
use super::expectation::{ALL, AppliedParts};
use super::fit::{coefficients, cosine, difference, distance, norm};
use super::known::{KnownGradients, LEAST, MeasuredGradient, gradients, measure};
use super::named::{Named, candidates};
use super::parameter_values::ParameterValues;
use super::refusal::AuditRefusal;
use super::sampler::Sampler;
use super::states::StateValues;
use super::teachers::Teachers;
use super::toy_model::{Drift, RunNumbers, ScaledSupport, ToyModel, ToyModelSpec, ToyMoment, Variation};
use super::variants;
use super::verdict::{GradientMultiple, NearestTask, RunPhase, TermVerdict, Verdict};
use super::view::{TermView, ToyScale};

/// The most roles that a term may depend on: every toy model has distributions of all of them.
const MOST_ROLES: usize = 64;

/// A term, with the tokens that it is trained on and the step of the run.
pub(super) struct Query<'a> {
    pub(super) view: TermView<'a>,
    pub(super) spec: ToyModelSpec,
}

impl<'a> Query<'a> {
    /// # Errors
    /// The reason why the audit can't evaluate a toy model, in words.
    pub fn new(
        view: TermView<'a>,
        sampler: &Sampler,
        teachers: &Teachers,
        ToyMoment { step, run, longest }: ToyMoment,
    ) -> Result<Query<'a>, AuditRefusal> {
        if let Some(why) = view.refusal() {
            return Err(why);
        }
        let ToyScale { mut size, toys, mut supports } = view.scale()?;
        if matches!(run, RunNumbers::Apart | RunNumbers::Arbitrary) && view.compares_domains() {
            size.domains = size.prompts.min(2);
        }
        let mut roles = view.others();
        match sampler {
            Sampler::By { role, .. } if !roles.contains(role) && !role.is_policy() => {
                roles.push(role.clone());
            }
            Sampler::Mixture { .. } if !roles.contains(&Role::Teacher) => roles.push(Role::Teacher),
            _ => {}
        }
        if let Sampler::Student { top_k: Some(k), .. } = sampler
            && *k as usize >= size.vocabulary
            && supports.iter().all(|support| support.k != *k)
        {
            supports.push(ScaledSupport { k: *k, entries: size.vocabulary.div_ceil(2) });
        }
        let (roles, teachers) = (teachers.closure(roles, step, MOST_ROLES), teachers.clone());
        if roles.len() > MOST_ROLES {
            return Err(format!("it reads more than {MOST_ROLES} teachers").into());
        }
        let (values, temperature) = (Rc::new(ParameterValues::new(&view)), view.scored_at(sampler));
        let states = Rc::new(StateValues::new(&view));
        let spec = ToyModelSpec {
            size,
            toys,
            roles,
            teachers,
            sampler: sampler.clone(),
            temperature,
            step,
            run,
            drift: Drift::None,
            longest,
            supports,
            values,
            states,
            entry_graphs: EntryGraphs::default(),
        };
        Ok(Query { view, spec })
    }

    /// The same term where the student has changed since the tokens were drawn.
    pub fn drifted(self, drift: Drift) -> Query<'a> {
        Query { spec: ToyModelSpec { drift, ..self.spec }, ..self }
    }

    pub fn measure(
        &self,
        view: &TermView,
        counting: AppliedParts,
        variation: Variation,
    ) -> Result<MeasuredGradient, AuditRefusal> {
        measure(view, counting, &self.spec.toys(variation))
    }

    /// Whether the mean gradient is 0 in all usual toy models, and whether single outcomes still have one. In
    /// most cases one smaller toy model decides.
    pub fn vanishes(&self) -> Result<(bool, bool), AuditRefusal> {
        let mut moved = false;
        let smallest = ToyModelSpec { size: self.spec.size.smallest(), ..self.spec.clone() };
        let usual = (0..self.spec.toys).map(|seed| self.spec.toy(seed, Variation::Usual));
        for toy in std::iter::once(smallest.toy(1, Variation::Usual)).chain(usual) {
            let measured = measure(&self.view, ALL, &[toy])?;
            if !measured.is_zero() {
                return Ok((false, true));
            }
            moved |= measured.largest > LEAST;
        }
        Ok((true, moved))
    }

    /// Whether a gradient that is 0 in the usual toy models is 0 only there, because a condition or a bound
    /// chooses otherwise where the models differ by many nats.
    pub fn acts_far_apart(&self) -> bool {
        let smallest = ToyModelSpec { size: self.spec.size.smallest(), ..self.spec.clone() };
        self.may_be_silent()
            && [Variation::Steep, Variation::SteepStudent].into_iter().any(|variation| {
                smallest
                    .toys(variation)
                    .into_iter()
                    .any(|toy| measure(&self.view, ALL, &[toy]).is_ok_and(|measured| !measured.is_zero()))
            })
    }

    /// The gradient and the values of the term as written, in the usual toy models.
    pub fn usual_gradient(&self) -> Result<MeasuredGradient, AuditRefusal> {
        self.measure(&self.view, ALL, Variation::Usual)
    }

    /// [`Self::usual_gradient`] in the given toy models.
    pub fn gradient_in(&self, toys: &[ToyModel]) -> Result<MeasuredGradient, AuditRefusal> {
        measure(&self.view, ALL, toys)
    }

    pub fn toys(&self) -> Vec<ToyModel> {
        self.spec.toys(Variation::Usual)
    }

    pub fn other_toys(&self, variation: Variation) -> Vec<ToyModel> {
        self.spec.toys(variation)
    }

    pub fn sampler(&self) -> &Sampler {
        &self.spec.sampler
    }

    /// Whether a role's distribution depends only on the student.
    pub fn is_made_of_student(&self, role: &Role) -> bool {
        self.spec.teachers.is_made_of_student(role, self.spec.step)
    }

    /// Whether there is only one token, so that the mean value is that of one prefix.
    pub fn is_one_token(&self) -> bool {
        self.spec.size.tokens() == 1
    }

    /// The number of logits after one prefix.
    pub fn block(&self) -> usize {
        self.spec.size.vocabulary
    }

    /// Whether some condition of the formula may stop all gradient in toy models, but not elsewhere.
    pub fn may_be_silent(&self) -> bool {
        self.view.conditions()
    }

    /// The named divergence that the term's value may estimate, found by comparing values.
    pub fn estimated(
        &self,
        measured: &MeasuredGradient,
        named: &[Named],
        toys: &[ToyModel],
    ) -> Option<usize> {
        if !self.is_one_token() || measured.values.iter().all(|value| value.abs() < 1e-12) {
            return None;
        }
        named.iter().position(|named| {
            let values: Option<Vec<f64>> = toys.iter().map(|toy| named.value(toy)).collect();
            let multiple = values.and_then(|values| coefficients(&measured.values, &[&values]));
            multiple.is_some_and(|multiple| multiple[0] > 0.0)
        })
    }

    pub fn candidates(&self) -> Vec<Named> {
        candidates(&self.view, &self.spec)
    }

    /// The tokens for which the verdict holds.
    fn on(&self) -> String {
        self.spec.sampler.text() + &self.spec.teachers.text()
    }

    pub fn judge(&self, when: RunPhase) -> TermVerdict {
        self.judged(when).unwrap_or_else(|why| TermVerdict::not_audited(when, self.on(), why.to_string()))
    }

    fn judged(&self, when: RunPhase) -> Result<TermVerdict, AuditRefusal> {
        let usual = self.usual_gradient()?;
        // A state that is 0 at first hides its factor, and with one domain comparisons of domains are hidden.
        let hidden = self.view.has_state() || self.view.compares_domains();
        if usual.is_zero() && hidden && self.spec.run == RunNumbers::AtStep {
            let moment =
                ToyMoment { step: self.spec.step, run: RunNumbers::Apart, longest: self.spec.longest };
            let view = self.view.with_value(self.view.value);
            let apart = Query::new(view, &self.spec.sampler, &self.spec.teachers, moment)?;
            if !apart.usual_gradient()?.is_zero() {
                return apart.judged(when);
            }
        }
        if let Sampler::Unknown { why } = &self.spec.sampler {
            let other = self.measure(&self.view, ALL, Variation::OtherSampler)?;
            if norm(&difference(&usual.gradient, &other.gradient)) > 1e-9 * norm(&usual.gradient) {
                return Err(format!("it depends on the tokens taken, and {why}").into());
            }
        }
        let toys = self.toys();
        let named = self.candidates();
        let known = KnownGradients::new(&named, &toys, self.block())?;
        let verdict = self.in_longer_completions(self.verdict(&usual, &known)?)?;
        let value_estimates = match self.estimated(&usual, &named, &toys).map(|index| &named[index]) {
            // If one divergence has two names, that of the gradient is used.
            Some(value) if coefficients(&usual.gradient, &[&gradients(value, &toys)?]).is_some() => {
                Some(verdict.one_gradient().unwrap_or(&value.name).to_owned())
            }
            value => value.map(|value| value.name.clone()),
        };
        let mut notes = self.notes();
        notes.extend(self.behind_composed(&verdict, &usual.gradient, &toys));
        notes.extend(self.weight_comes_from(&verdict, &known));
        notes.extend(self.beside_declared(&verdict, &usual.gradient, &known));
        notes.extend(self.at_temperature_one());
        notes.extend(self.untried(&verdict, &toys));
        notes.extend(self.at_several_lengths(&verdict).unwrap_or_default());
        // Between very different or equal models, some formulas have no value. Then there is no note.
        notes.extend(self.steep(&verdict).unwrap_or_default());
        notes.extend(self.with_more_peers(&verdict));
        if verdict == Verdict::Zero {
            notes.extend(self.cause_of_zero());
        }
        let stationary_at_teacher = match &verdict {
            Verdict::Follows { .. }
            | Verdict::Weighted { .. }
            | Verdict::Sum { .. }
            | Verdict::ByLength { .. }
            | Verdict::Unnamed { .. }
                if self.compares() =>
            {
                let agreed = self.measure(&self.view, ALL, Variation::Agreed);
                agreed
                    .ok()
                    .map(|agreed| agreed.is_zero() || norm(&agreed.gradient) <= 1e-9 * norm(&usual.gradient))
            }
            _ => None,
        };
        let states = self.states();
        Ok(TermVerdict {
            when,
            states,
            on: self.on(),
            verdict,
            value_estimates,
            stationary_at_teacher,
            later: None,
            notes,
        })
    }

    /// The nearest well-known gradient, if the term follows the gradient of a divergence that the author
    /// declares.
    fn beside_declared(&self, verdict: &Verdict, gradient: &[f64], known: &KnownGradients) -> Option<String> {
        let of = match verdict {
            Verdict::Biased { of, .. } => of.one_gradient()?,
            verdict => verdict.one_gradient()?,
        };
        known.named.iter().find(|named| named.name == of && named.is_declared())?;
        let (nearest, cosine) = known.nearest_of(gradient, |named| !named.is_declared());
        Some(format!("nearest with a known name: {nearest} (cosine {cosine:.3})"))
    }

    /// Whether the term reads a distribution other than the student's, and nothing else.
    fn compares(&self) -> bool {
        let other =
            |node: &FormulaNode| matches!(&node.kind, FormulaKind::Signal(signal) if signal.is_of_reward());
        !self.view.others().is_empty() && !self.view.any(other) && self.spec.is_on_policy(self.spec.step)
    }

    /// Whether the term reads a teacher's distribution.
    pub fn reads_teacher(&self) -> bool {
        let teaches = |role: &Role| matches!(role, Role::Teacher | Role::Named { .. });
        self.view.any(|node| match &node.kind {
            // Verdicts and critics judge completions. They are no teachers, whatever their role.
            FormulaKind::Signal(Signal::Of { part, role }) => {
                teaches(role) && part.definition().from_distribution
            }
            FormulaKind::Signal(
                Signal::Available { .. } | Signal::SpanScore { .. } | Signal::Agreement { .. },
            ) => false,
            FormulaKind::Signal(signal) => signal.roles().iter().any(teaches),
            FormulaKind::Live(live) => live.roles().iter().any(teaches),
            _ => false,
        })
    }

    pub(super) fn verdict(
        &self,
        usual: &MeasuredGradient,
        known: &KnownGradients,
    ) -> Result<Verdict, AuditRefusal> {
        if usual.is_zero() {
            if usual.largest <= LEAST && self.may_be_silent() {
                return Ok(self.without_gradient());
            }
            if self.acts_far_apart() {
                return Ok(Verdict::NotAudited {
                    why: "its mean gradient is 0 only while the models differ by less than a few nats".into(),
                });
            }
            return Ok(Verdict::Zero);
        }
        let gradient = &usual.gradient;
        if let Some(found) = known.identify(gradient) {
            return Ok(found);
        }
        if let Some(found) = self.beside_task(gradient, known)? {
            let near = !matches!(&found, Verdict::Task(task) if task.nearest.is_empty());
            // A named gradient without one of its parts is more informative than that nothing is near.
            let biased = if near { None } else { self.biased(gradient, known) };
            return Ok(biased.unwrap_or(found));
        }
        if let Some(found) = self.by_summands(known) {
            return Ok(found);
        }
        if let Some(found) = self.biased(gradient, known) {
            return Ok(found);
        }
        let (nearest, cosine) = known.nearest(gradient);
        Ok(Verdict::Unnamed { nearest, cosine })
    }

    /// Subtracts the part of the gradient that is independent of the teacher. The rest may have a name.
    fn beside_task(&self, gradient: &[f64], known: &KnownGradients) -> Result<Option<Verdict>, AuditRefusal> {
        let task =
            |gradient: &[f64]| NearestTask { reads_teacher: self.reads_teacher(), ..known.task(gradient) };
        if self.spec.roles.is_empty() {
            return Ok(Some(Verdict::Task(task(gradient))));
        }
        let others = self.spec.toys(Variation::OtherTeachers);
        let elsewhere = measure(&self.view, ALL, &others)?.gradient;
        let change = difference(gradient, &elsewhere);
        if norm(&change) <= 1e-9 * norm(gradient) {
            return Ok(Some(Verdict::Task(task(gradient))));
        }
        for (named, own) in known.named.iter().zip(&known.gradients).filter(|(named, _)| named.teaches) {
            let theirs = gradients(named, &others)?;
            let Some(times) = coefficients(&change, &[&difference(own, &theirs)]) else { continue };
            let scaled: Vec<f64> = own.iter().map(|partial| partial * times[0]).collect();
            let rest = difference(gradient, &scaled);
            let parts = vec![GradientMultiple { of: named.name.clone(), times: times[0] }];
            return Ok(Some(Verdict::WithTask { parts, task: task(&rest) }));
        }
        Ok(None)
    }

    /// Names each summand separately, if all of them have names.
    fn by_summands(&self, known: &KnownGradients) -> Option<Verdict> {
        let summands = variants::summands(self.view.value);
        if summands.len() < 2 {
            return None;
        }
        // Summands that follow one gradient are merged: `(1 - w) * x` is not x and its opposite.
        let mut found: Vec<(Option<String>, Vec<f64>)> = Vec::new();
        for summand in &summands {
            let Ok(measured) = self.measure(&self.view.with_value(summand), ALL, Variation::Usual) else {
                return None;
            };
            if measured.is_zero() {
                continue;
            }
            let name = known.identify(&measured.gradient)?.one_gradient().map(str::to_owned);
            match found.iter_mut().find(|(known, ..)| known.is_some() && *known == name) {
                Some((_, sum)) => sum.iter_mut().zip(&measured.gradient).for_each(|(sum, own)| *sum += own),
                None => found.push((name, measured.gradient)),
            }
        }
        let mut parts: Vec<Verdict> = Vec::new();
        for (_, gradient) in found.iter().filter(|(_, gradient)| norm(gradient) > LEAST) {
            match known.identify(gradient)? {
                Verdict::Sum { parts: inner } => parts.extend(inner),
                verdict => parts.push(verdict),
            }
        }
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Verdict::Sum { parts }),
        }
    }

    /// If the gradient without a bound, mask, weight or summand has a name, that part is a bias.
    fn biased(&self, gradient: &[f64], known: &KnownGradients) -> Option<Verdict> {
        let bounded = variants::has_bounds(&self.view);
        let gates = self.view.gates();
        let mut gated: Vec<&str> = gates.iter().map(|(name, _)| *name).collect();
        gated.dedup();
        let gated = gated.iter().map(|name| format!("`{name}`")).collect::<Vec<String>>().join(" and ");
        let tries = [
            (bounded, "its bounds".to_owned(), AppliedParts { bounds: false, gates: true }),
            (!gates.is_empty(), gated.clone(), AppliedParts { bounds: true, gates: false }),
            (
                bounded && !gates.is_empty(),
                format!("{gated} and its bounds"),
                AppliedParts { bounds: false, gates: false },
            ),
        ];
        for (possible, by, counting) in tries {
            if !possible {
                continue;
            }
            // Some formulas have no value without their bounds.
            let Ok(plain) = self.measure(&self.view, counting, Variation::Usual) else { continue };
            if let Some(of) = known.identify(&plain.gradient).filter(|_| !plain.is_zero()) {
                return Some(bias(gradient, &plain.gradient, of, by));
            }
        }
        // With and without bounds, with and without gates, which often contain a weight that depends on the
        // token. A single gradient without a weight is more informative than one with a weight.
        let parts = variants::without_parts(self.view.value);
        let mut best: Option<(bool, f64, Verdict)> = None;
        for (bounds, gates_act) in [(true, true), (false, true), (true, false), (false, false)] {
            if (!bounds && !bounded) || (!gates_act && gates.is_empty()) {
                continue;
            }
            for (left_out, value) in &parts {
                let counting = AppliedParts { bounds, gates: gates_act };
                let Ok(plain) = self.measure(&self.view.with_value(value), counting, Variation::Usual) else {
                    continue;
                };
                let Some(of) = known
                    .identify(&plain.gradient)
                    .filter(|of| !plain.is_zero() && of.one_gradient().is_some())
                else {
                    continue;
                };
                let others = [(!gates_act).then_some(gated.as_str()), (!bounds).then_some("its bounds")];
                let by = std::iter::once(format!("`{left_out}`"))
                    .chain(others.into_iter().flatten().map(str::to_owned));
                let by = by.collect::<Vec<String>>().join(" and ");
                let exact = matches!(of, Verdict::Follows { .. });
                let near = cosine(gradient, &plain.gradient);
                let better =
                    |(known_exact, known, _): &(bool, f64, Verdict)| (exact, near) > (*known_exact, *known);
                if best.as_ref().is_none_or(better) {
                    best = Some((exact, near, bias(gradient, &plain.gradient, of, by)));
                }
            }
            // The fewest parts that explain the gradient are enough.
            if best.as_ref().is_some_and(|(exact, ..)| *exact) {
                break;
            }
        }
        best.map(|(_, _, verdict)| verdict)
    }
}

fn bias(gradient: &[f64], plain: &[f64], of: Verdict, by: String) -> Verdict {
    Verdict::Biased {
        of: Box::new(of),
        by,
        distance: distance(gradient, plain),
        cosine: cosine(gradient, plain),
    }
}

/// A formula for use inside a sentence.
pub(super) fn quoted(formula: &Formula) -> String {
    text::formula(formula, 60)
}
