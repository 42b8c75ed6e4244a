//! Checked objectives: typed formulas and their reduction to one number.

use std::rc::Rc;

use super::dependencies::named;
use super::{DomainId, Origin, Rollout, TeacherId, Temperature};
use crate::checked::formula::NamedFormula;
use crate::checked::formula::{Axis, Formula, FormulaKind, FormulaNode, Live, Reduction, Role};

/// A checked objective, before it becomes a graph. See [`crate::checked::formula`].
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    pub name: String,
    pub terms: Vec<Term>,
    /// Per-token mask. Tokens where it is false are left out of the terms' `reduce`. Statistics and
    /// reductions inside formulas include all trained tokens, unless they have `among: selected`.
    pub select: Option<Formula>,
    /// A factor of every term.
    pub weight: Option<Formula>,
    /// The setting `temperature = ...`: see [`Objective::temperature_on`].
    pub temperature: Option<f64>,
    /// `mean(token) then mean(sequence)`: from the token axis to a single number. Absent only where every
    /// term has its own.
    pub reduce: Option<Reduce>,
    /// Its `let`s that are numbers, in source order. Formulas contain them already; these are for display.
    pub lets: Vec<NamedFormula>,
    /// The numbers that are carried from step to step, in source order.
    pub states: Vec<State>,
    pub origin: Origin,
}

/// `state beta = 0.04 then clip(...)`: a number of the run or, with `by domain`, one for each domain.
/// Formulas read it as [`Signal::State`], its value at the beginning of the step. At the end of the step all
/// states are updated at once.
///
/// [`Signal::State`]: crate::checked::formula::Signal::State
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub name: String,
    /// [`Axis::Run`] for one number, [`Axis::Domain`] for one per domain.
    pub axis: Axis,
    pub first: f64,
    /// Made of the step's numbers, including the losses of the same step.
    pub next: Formula,
    pub origin: Origin,
}

impl Objective {
    /// Every formula of the objective, in source order.
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

    /// The objective for the prompts of one domain, as [`Formula::in_domain`].
    pub fn in_domain(&self, domain: DomainId) -> Objective {
        let own = |formula: &Formula| formula.in_domain(domain);
        // A mask that always holds is none.
        let mask = |mask: &Option<Formula>| mask.as_ref().map(own).filter(|own| own.constant() != Some(1.0));
        let factor = |factor: &Option<Formula>| factor.as_ref().map(own);
        let reduce = |reduce: &Option<Reduce>| {
            reduce
                .as_ref()
                .map(|reduce| Reduce { denominator: factor(&reduce.denominator), ..reduce.clone() })
        };
        let term = |term: &Term| Term {
            value: own(&term.value),
            when: mask(&term.when),
            weight: factor(&term.weight),
            reduce: reduce(&term.reduce),
            ..term.clone()
        };
        let named = |named: &NamedFormula| NamedFormula { formula: own(&named.formula), ..named.clone() };
        Objective {
            terms: self.terms.iter().map(term).collect(),
            select: mask(&self.select),
            weight: factor(&self.weight),
            reduce: reduce(&self.reduce),
            lets: self.lets.iter().map(named).collect(),
            states: self
                .states
                .iter()
                .map(|state| State { next: own(&state.next), ..state.clone() })
                .collect(),
            ..self.clone()
        }
    }

    /// The denominators of its reductions.
    pub fn denominators(&self) -> impl Iterator<Item = &Formula> {
        let reduces = self.terms.iter().filter_map(|term| term.reduce.as_ref()).chain(&self.reduce);
        reduces.filter_map(|reduce| reduce.denominator.as_ref())
    }

    /// The temperature of the trained policy. Logits of student, teachers and reference are divided by it in
    /// every `logp` and `end_logp`, and in divergences with `sampler` on a side. If the student draws the
    /// completions, it is the sampling temperature of the step that drew them, so that the ratio to the
    /// sampler starts at 1. If they come from elsewhere, or pairs are compared, it is 1.
    pub fn temperature_on(&self, rollout: &Rollout) -> Temperature {
        let pairs = |node: &FormulaNode| matches!(node.kind, FormulaKind::Live(Live::Preference(_)));
        match self.temperature {
            Some(temperature) => temperature.into(),
            None if self.terms.iter().any(|term| term.value.any(pairs)) => 1.0.into(),
            None => rollout.policy_temperature(),
        }
    }

    /// Whether some formula reads the distribution of `role`.
    pub fn reads(&self, role: &Role) -> bool {
        self.formulas().iter().any(|formula| formula.reads(role))
    }

    /// Every rollout of a stage whose own rollout is `own`, including those inside others.
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
    /// The condition under which the term applies; elsewhere it is 0. Denominators still count every element,
    /// except in a `reduce` step with `among: when`.
    pub when: Option<Formula>,
    /// A factor of this term alone.
    pub weight: Option<Formula>,
    /// The term's own reduction.
    pub reduce: Option<Reduce>,
    /// The term's own completions.
    pub data: Option<Rc<Rollout>>,
    pub origin: Origin,
}

/// The completions of a term that are not the stage's rollout: its own (`data`), and those that it compares
/// in pairs.
pub type Completions<'a> = (Option<&'a Rollout>, Vec<&'a Rollout>);

impl Term {
    pub fn completions(&self) -> Completions<'_> {
        (self.data.as_deref(), self.preferences())
    }

    /// The completions that the term compares in pairs.
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

/// The reduction from one number per token to one number per batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduce {
    pub steps: Vec<ReduceStep>,
    /// `sum(token, over: batch) / 8192`
    pub denominator: Option<Formula>,
    pub balance: Option<Balance>,
    pub origin: Origin,
}

/// One step of a `reduce`: reduces `elements` (the axis so far) to the next coarser one named, or to the
/// batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceStep {
    pub operation: Reduction,
    /// The axis that is reduced: `token` in `mean(token)`.
    pub elements: Axis,
    /// The axis that is left: `sequence` after `mean(token)`, `batch` after `mean(token, over: batch)`.
    pub over: Axis,
    /// Whether only elements count where the term's `when` holds somewhere.
    pub among_when: bool,
}

/// `by domain { target = 1/3 }`: the weight of each domain's elements in the loss (Open-MOPD,
/// arXiv:2608.19098). Before the reduction, every element of a domain is multiplied by target / share *
/// clamp((mean signal of the domain / mean of all)^follow_gap), scaled so that the size of the loss does not
/// change.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// The share of the loss that each domain should have; its share of the batch's prompts where absent.
    pub target: Option<f64>,
    /// The exponent of the ratio of a domain's mean signal to that of all domains.
    pub follow_gap: f64,
    /// Bounds of that power.
    pub clamp: Option<(f64, f64)>,
    /// The weights are computed and recorded, but not applied.
    pub observe: bool,
    pub origin: Origin,
}
