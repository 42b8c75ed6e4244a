//! A term on the tokens of one sampler, and whether it has a gradient there.

use mopd_experiment::formula::{Formula, FormulaKind, FormulaNode, Role, Signal};
use mopd_experiment::{ModelId, Objective, Origin, StageStep, TeacherId, Temperature, Term};

use super::judge::Query;
use super::moments::{is_scheduled, moments};
use super::sampler::Sampler;
use super::sign::{is_verdict, judges};
use super::states::StateValues;
use super::teachers::Teachers;
use super::toy_model::{Drift, RunNumbers, ToyMoment};
use super::verdict::RunPhase;
use super::view::{SampleFilter, TermView};

/// A term on tokens that one sampler draws, with one kind of teachers.
#[derive(Clone, Copy)]
pub(super) struct AuditCase<'a, 'b> {
    pub objective: &'a Objective,
    pub term: &'a Term,
    pub samples: SampleFilter<'a>,
    pub sampler: &'b Sampler,
    /// The model that the stage starts from.
    pub start: ModelId,
    /// The change of the student since these tokens were drawn.
    pub drift: Drift,
    /// The temperature of the policy that is trained on the rollout.
    pub policy_temperature: &'b Temperature,
    pub teachers: &'b Teachers,
    /// The teacher that the route chooses, if it chooses the same one everywhere.
    pub routed: Option<TeacherId>,
    /// The text `prompts of math`, if the objective compares domains.
    pub prompts: Option<&'b str>,
    pub steps: u32,
    pub longest: f64,
    /// Updates from each batch of these tokens.
    pub updates: u32,
    /// What these updates are to the reader: `passes`, or `updates from a batch` where it is divided.
    pub called: &'static str,
    /// Where the experiment declares these tokens.
    pub rollout: Origin,
}

/// How the gradient of a term vanishes on the tokens of a case.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Vanishing {
    /// Single tokens have gradients, which cancel in the mean.
    Cancels,
    /// No token has a gradient.
    Nothing,
}

impl<'a, 'b> AuditCase<'a, 'b> {
    /// The term without its filter, which tests what was drawn: toy models are too small to satisfy it.
    pub fn view(&self) -> TermView<'a> {
        let view = TermView::new(self.objective, self.term, SampleFilter { filter: None, ..self.samples });
        view.of_policy(Some(self.policy_temperature.clone()))
    }

    pub fn query_of(&self, view: TermView<'a>, step: u32, run: RunNumbers) -> Option<Query<'a>> {
        let moment = ToyMoment { step: StageStep { step, steps: self.steps }, run, longest: self.longest };
        let view = view.of_policy(Some(self.policy_temperature.clone()));
        Some(Query::new(view, self.sampler, self.teachers, moment).ok()?.drifted(self.drift))
    }

    pub fn query(&self, step: u32) -> Option<Query<'a>> {
        self.query_of(self.view(), step, RunNumbers::AtStep)
    }

    /// The case in later updates from these tokens.
    pub fn later(&self) -> Option<AuditCase<'a, 'b>> {
        let again = self.updates > 1 && self.sampler.is_of_student();
        again.then_some(AuditCase { drift: Drift::MODERATE, ..*self })
    }

    /// The case as text: `tokens that the student drew, on prompts that go to now`.
    pub fn on(&self) -> String {
        let prompts = self.prompts.map(|prompts| format!(", {prompts}")).unwrap_or_default();
        self.sampler.text() + &self.teachers.text() + &prompts
    }

    /// The steps to try, the middle of the run first.
    pub fn steps(&self) -> Vec<u32> {
        let mut moments = moments(&self.view(), self.sampler, self.teachers, self.steps);
        let middle = moments.iter().position(|(phase, _)| *phase == RunPhase::Middle);
        moments.swap(0, middle.unwrap_or(0));
        moments.into_iter().map(|(_, step)| step).collect()
    }

    /// The values of the states to try.
    pub fn runs(&self) -> impl Iterator<Item = RunNumbers> {
        let rounds = StateValues::new(&self.view()).rounds();
        std::iter::once(RunNumbers::AtStep).chain((0..rounds).map(RunNumbers::Tried))
    }

    /// The mask of a term whose mean gradient is 0 without its masks, although a divergence from a teacher
    /// is a factor of it: the divergence is the same for all tokens. A mask that judges completions is a
    /// choice of what to imitate. A weight that reads no model and no verdict is as good as a mask.
    pub fn masks_a_term_of_zero(&self) -> Option<&'static str> {
        let view = self.view();
        let judging = |formula: &&Formula| {
            formula.any(|node| {
                matches!(&node.kind, FormulaKind::Signal(signal) if is_verdict(signal) || judges(signal))
            })
        };
        let of_models = |formula: &Formula| {
            formula.any(|node| match &node.kind {
                FormulaKind::Signal(signal) => !signal.roles().is_empty(),
                FormulaKind::Live(_) => true,
                _ => false,
            })
        };
        let weighs =
            |weight: Option<&'a Formula>| weight.filter(|weight| !judging(weight) && !of_models(weight));
        let masks = [
            ("select", view.select),
            ("when", view.when),
            ("filter", self.samples.filter),
            ("weight", weighs(view.weight)),
            ("weight", weighs(view.own_weight)),
        ];
        let mask = masks.into_iter().find_map(|(name, mask)| mask.map(|_| name))?;
        let chosen = view.select.into_iter().chain(view.when).any(|mask| judging(&mask)) || self.samples.kept;
        let factor = |node: &FormulaNode| {
            matches!(&node.kind, FormulaKind::Signal(Signal::Divergence(divergence))
                if divergence.roles().iter().any(|role| matches!(role, Role::Teacher | Role::Named { .. })))
        };
        if chosen || !view.value.any(factor) {
            return None;
        }
        let bare = if mask == "weight" { view.without_gates() } else { view.without_masks() };
        let plain = self.query_of(bare, self.steps / 2, RunNumbers::AtStep)?;
        (plain.vanishes() == Ok((true, true)) && !plain.acts_far_apart()).then_some(mask)
    }

    /// How the mean gradient vanishes at every moment of the run, and for any values of numbers that change.
    /// `None` if it does not vanish, or that is not known.
    pub fn vanishes(&self) -> Option<Vanishing> {
        let (mut moves, mut queries) = (false, Vec::new());
        let at_steps = self.steps().into_iter().map(|step| (step, RunNumbers::AtStep));
        // A number may be 0 at all of these steps and not in between.
        let view = self.view();
        let unseen = view.moves_unseen() || is_scheduled(&view, self.sampler, self.teachers);
        let between = unseen.then_some((self.steps / 2, RunNumbers::Arbitrary));
        for (step, run) in at_steps.chain(between) {
            let query = self.query_of(self.view(), step, run)?;
            match query.vanishes() {
                // A coefficient that is 0 for some time is intended.
                Ok((true, moved)) => moves |= moved,
                _ => return None,
            }
            queries.push(query);
        }
        match (moves, self.samples.filter) {
            // A mean of 0 over all samples need not be 0 over those that a filter keeps.
            (true, Some(_)) => None,
            // Nor where a condition or a bound chooses otherwise than in these toy models.
            (true, None) => (!queries.iter().any(Query::acts_far_apart)).then_some(Vanishing::Cancels),
            // A condition that never holds in these toy models may hold elsewhere.
            (false, _) => (!queries.iter().any(Query::may_be_silent)).then_some(Vanishing::Nothing),
        }
    }
}
