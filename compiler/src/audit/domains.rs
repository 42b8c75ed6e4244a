//! Objectives that compare the prompt's domain: each domain is audited on its own, with the teachers that its
//! prompts go to.

use mopd_experiment::formula::{Formula, FormulaKind, Signal};
use mopd_experiment::{DomainId, Experiment, Objective, Train};

use super::bounds::Culprit;
use super::range::{RunFacts, ValueRange};
use super::teachers::Teachers;
use super::view::{SampleFilter, TermView};
use super::{ObjectiveUse, bounds};

/// A domain that a stage trains on, and the teachers of its prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainUse {
    pub domain: DomainId,
    pub name: String,
    pub casts: Vec<Teachers>,
}

/// An objective as it is for the prompts of one domain.
pub(super) struct DomainObjective {
    pub domain: DomainId,
    pub objective: Objective,
    pub usage: ObjectiveUse,
    /// The text `prompts of math`.
    pub text: String,
}

/// An objective as it is for prompts of a stage: for all, or, if it compares domains, for those of one.
#[derive(Clone, Copy)]
pub(super) struct AuditedPrompts<'a> {
    pub objective: &'a Objective,
    pub usage: &'a ObjectiveUse,
    /// The teachers as they are at the first step; empty if something other than gradients moves the student.
    pub at_first: &'a [Teachers],
    /// The range of rewards, over all domains that are trained on.
    pub reward: ValueRange,
    /// The text `prompts of math`, if these are the prompts of one domain.
    pub text: Option<&'a str>,
}

impl<'a> AuditedPrompts<'a> {
    pub fn facts(&self, teachers: &'a Teachers) -> RunFacts<'a> {
        RunFacts { teachers, steps: self.usage.steps, reward: self.reward, longest: self.usage.longest }
    }

    /// The cause that stops all gradient of a term; `None` if some may pass, or the term has no `live` part.
    pub fn culprit(&self, term: usize, teachers: &'a Teachers) -> Option<Culprit<'a>> {
        let term = &self.objective.terms[term];
        bounds::silent(&TermView::new(self.objective, term, SampleFilter::default()), &self.facts(teachers))
    }

    /// Whether a term may have a gradient on these prompts.
    pub fn moves(&self, term: usize, teachers: &'a Teachers) -> bool {
        self.objective.terms[term].value.live() && self.culprit(term, teachers).is_none()
    }
}

impl DomainUse {
    /// The domains of a stage, if its objective compares them.
    pub(super) fn of_stage(experiment: &Experiment, train: &Train) -> Vec<DomainUse> {
        let domains = train.mixture.iter().filter(|_| compares(&train.objective));
        let used = domains.map(|share| DomainUse {
            domain: share.domain,
            name: experiment.domain(share.domain).name.clone(),
            casts: Teachers::for_stage(experiment, train, Some(share.domain)),
        });
        used.collect()
    }
}

impl ObjectiveUse {
    /// The objective for the prompts of each domain; empty if it compares none. Without a stage, these are
    /// the domains that it names, and one for all others, unless a `match` has no value for these.
    pub(super) fn of_domains(&self, objective: &Objective) -> Vec<DomainObjective> {
        if !compares(objective) {
            return Vec::new();
        }
        let named = match self.domains.is_empty() {
            true => self.named_domains(objective),
            false => self.domains.clone(),
        };
        let own = |DomainUse { domain, name, casts }| DomainObjective {
            domain,
            objective: objective.in_domain(domain),
            usage: ObjectiveUse {
                casts,
                filter: self.filter.as_ref().map(|filter| filter.in_domain(domain)),
                ..self.clone()
            },
            text: format!("prompts of {name}"),
        };
        named.into_iter().map(own).collect()
    }

    fn named_domains(&self, objective: &Objective) -> Vec<DomainUse> {
        let parts: Vec<&Formula> = objective.formulas().into_iter().flat_map(Formula::parts).collect();
        let covered: Vec<&Formula> = parts.iter().filter_map(|part| part.0.covered.as_ref()).collect();
        let mut found: Vec<DomainUse> = Vec::new();
        let mut add = |domain: DomainId, name: &str| {
            if !found.iter().any(|known| known.domain == domain) {
                found.push(DomainUse { domain, name: name.to_owned(), casts: self.casts.clone() });
            }
        };
        for part in parts.into_iter().chain(covered.iter().copied().flat_map(Formula::parts)) {
            if let FormulaKind::Signal(Signal::DomainIs { domain, name }) = &part.0.kind {
                add(*domain, name);
            }
        }
        if covered.iter().all(|covered| covered.in_domain(DomainId::UNDECLARED).constant() == Some(1.0)) {
            add(DomainId::UNDECLARED, "other domains");
        }
        found
    }
}

fn compares(objective: &Objective) -> bool {
    objective.formulas().into_iter().any(Formula::reads_domain)
}
