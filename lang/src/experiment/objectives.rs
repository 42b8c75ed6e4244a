//! Objectives as the checker leaves them: typed formulas and the way to one number.

use std::rc::Rc;

use super::dependencies::named;
use super::{Origin, Rollout, TeacherId};
use crate::experiment::formula::{Axis, Formula, FormulaKind, FormulaNode, Live, Reduction, Role};

/// What a checked objective is, before it becomes a graph. See [`crate::experiment::formula`].
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    pub name: String,
    pub terms: Vec<Term>,
    /// Per-token mask; tokens where it is false take no part in the terms' way to one number. Statistics and
    /// reductions inside formulas run over all trained tokens, unless they say `among: selected`.
    pub select: Option<Formula>,
    /// Multiplies every term.
    pub weight: Option<Formula>,
    /// What `temperature = ...` says: see [`Objective::temperature_on`].
    pub temperature: Option<f64>,
    /// `mean(token) then mean(sequence)`: from the token axis to a single number. Absent only where every
    /// term has its own.
    pub reduce: Option<Reduce>,
    /// What its `let`s are numbers of, in source order. Formulas hold them already; these are for people.
    pub lets: Vec<(String, Formula)>,
    /// The numbers that it carries from step to step, in source order.
    pub states: Vec<State>,
    pub origin: Origin,
}

/// `state beta = 0.04 then clip(...)`: a number of the run, or with `by domain` one for each domain.
/// Formulas read it as [`Signal::State`], the value that the step began with; at the end of the step all
/// states move at once.
///
/// [`Signal::State`]: crate::experiment::formula::Signal::State
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub name: String,
    /// The run: one number. Or the domain: one for each.
    pub axis: Axis,
    pub first: f64,
    /// Of the step's numbers, with the losses of this very step.
    pub next: Formula,
    pub origin: Origin,
}

impl Objective {
    /// Every formula in it, in source order.
    pub fn formulas(&self) -> Vec<&Formula> {
        let mut formulas: Vec<&Formula> = self.select.iter().chain(&self.weight).collect();
        for term in &self.terms {
            formulas.push(&term.value);
            formulas.extend(term.when.iter().chain(&term.weight));
            formulas.extend(term.reduce.iter().filter_map(|reduce| reduce.denominator.as_ref()));
        }
        formulas.extend(self.reduce.iter().filter_map(|reduce| reduce.denominator.as_ref()));
        formulas.extend(self.states.iter().map(|state| &state.next));
        formulas
    }

    /// The temperature of the policy that is trained: logits of student, teachers and reference are divided
    /// by it in every `logp` and `end_logp`, and in divergences with `sampler` on a side. Where the
    /// student draws the completions it is the temperature that they are drawn at, so that the ratio to
    /// the sampler starts at 1; where others wrote them, and where pairs are compared, it is 1.
    pub fn temperature_on(&self, rollout: &Rollout) -> f64 {
        let pairs = |node: &FormulaNode| matches!(node.kind, FormulaKind::Live(Live::Preference(_)));
        match self.temperature {
            Some(temperature) => temperature,
            None if self.terms.iter().any(|term| term.value.any(pairs)) => 1.0,
            None => rollout.policy_temperature(),
        }
    }

    /// Whether some formula reads the distribution of `role`.
    pub fn reads(&self, role: &Role) -> bool {
        self.formulas().iter().any(|formula| formula.reads(role))
    }

    /// Every rollout of a stage that draws `own` for it, those inside others included.
    pub fn rollouts<'a>(&'a self, own: &'a Rollout) -> Vec<&'a Rollout> {
        let of_terms =
            self.terms.iter().flat_map(|term| term.data.as_deref().into_iter().chain(term.preferences()));
        std::iter::once(own).chain(of_terms).flat_map(Rollout::all).collect()
    }

    /// The declared teachers that it reads by name.
    pub fn named_teachers(&self) -> Vec<TeacherId> {
        let mut found = Vec::new();
        for part in self.formulas().into_iter().flat_map(Formula::parts) {
            let roles = match &part.0.kind {
                FormulaKind::Signal(signal) => signal.roles(),
                FormulaKind::Live(live) => live.roles(),
                _ => continue,
            };
            for teacher in roles.iter().filter_map(named) {
                if !found.contains(&teacher) {
                    found.push(teacher);
                }
            }
        }
        found
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub name: String,
    pub value: Formula,
    /// Where the term applies: it is 0 elsewhere. Denominators count all the same, but in a `reduce` step
    /// that says `among: when`.
    pub when: Option<Formula>,
    /// Multiplies this term alone.
    pub weight: Option<Formula>,
    /// Its own way to one number.
    pub reduce: Option<Reduce>,
    /// Its own completions.
    pub data: Option<Rc<Rollout>>,
    pub origin: Origin,
}

/// What tells the completions of terms apart: their own (`data`), and those that they compare in pairs.
/// Neither is the stage's rollout.
pub type Completions<'a> = (Option<&'a Rollout>, Vec<&'a Rollout>);

impl Term {
    pub fn completions(&self) -> Completions<'_> {
        (self.data.as_deref(), self.preferences())
    }

    /// The completions that it compares in pairs.
    pub fn preferences(&self) -> Vec<&Rollout> {
        let mut sides = Vec::new();
        for part in self.value.parts() {
            if let FormulaKind::Live(Live::Preference(preference)) = &part.0.kind {
                sides.extend([&preference.chosen, &preference.rejected]);
            }
        }
        sides
    }
}

/// From one number per token to one.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    pub steps: Vec<ReduceStep>,
    /// `sum(token, over: batch) / 8192`
    pub denominator: Option<Formula>,
    pub balance: Option<Balance>,
    pub origin: Origin,
}

/// One step of a `reduce`: collapses `elements` (the axis so far) to the next coarser one named, or to the
/// batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceStep {
    pub operation: Reduction,
    /// The axis whose elements are put together: `token` in `mean(token)`.
    pub elements: Axis,
    /// The axis that is left: `sequence` after `mean(token)`, `batch` after `mean(token, over: batch)`.
    pub over: Axis,
    /// Only elements where the term's `when` holds somewhere.
    pub among_when: bool,
}

/// `by domain { target = 1/3 }`: how much each domain's elements weigh in the loss (Open-MOPD,
/// arXiv:2608.19098). Before it is reduced, every element of a domain is multiplied with
/// target / share * clamp((mean signal of the domain / mean of all)^follow_gap), scaled so that the loss
/// keeps its size.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The share of the loss that each domain should have; its share of the batch's prompts where absent.
    pub target: Option<f64>,
    /// Exponent of a domain's mean signal, divided by that of all domains.
    pub follow_gap: f64,
    /// Bounds of that power.
    pub clamp: Option<(f64, f64)>,
    /// Computed and recorded, and applied to nothing.
    pub observe: bool,
    pub origin: Origin,
}
