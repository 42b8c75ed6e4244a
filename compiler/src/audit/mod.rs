//! The gradient audit: finds the named gradient that a term's gradient equals, whatever its formula is.
//!
//! A term is evaluated in toy models of a few tokens, over everything that can be drawn in them, with its
//! exact derivative by the student's logits. The mean gradient is compared with the gradients of the named
//! divergences in the same toy models. The term follows the one that agrees in all of them, to the precision
//! of the arithmetic. Numbers decide, not the form of the text.
//!
//! Prefixes and samples are constants, as in trainers, so a verdict holds given the prefixes. It is on the
//! gradient before the averaging over tokens and completions (`reduce`), which weighs prefixes. Where it also
//! turns the gradient, because the drawn tokens decide the length, a note says so (`lengths`).

mod behind;
mod bounds;
mod branches;
mod case;
mod diagnostics;
mod divergence;
mod domains;
mod dual;
mod evaluate;
mod expectation;
mod fit;
mod judge;
mod known;
mod later;
#[cfg(test)]
mod later_tests;
mod leaves;
mod lengths;
mod moments;
mod named;
mod not_finite;
mod notes;
mod parameter_values;
mod peers;
mod range;
mod refusal;
mod repelling;
mod sampler;
mod sign;
mod silent;
mod size;
mod stale;
mod standard;
mod states;
mod teachers;
#[cfg(test)]
mod tests;
mod token;
mod toy_model;
mod variants;
mod verdict;
mod view;
mod zero;

use mopd_experiment::formula::{Formula, FormulaKind, FormulaNode, Role};
use mopd_experiment::{
    Experiment, Keep, Length, Objective, Rollout, Stage, StageStep, Temperature, Term, Train,
};
use mopd_lang::Analysis;
use serde::Serialize;

pub use diagnostics::{diagnostics, diagnostics_while};
pub(crate) use divergence::TokenContext;
pub use domains::DomainUse;
pub use later::LaterUpdates;
pub use sampler::Sampler;
pub use teachers::Teachers;
pub(crate) use token::{compares_vocabularies, is_from_distributions, is_live_of_distributions};
pub use toy_model::ToyModel;
pub(crate) use toy_model::{RoleDistributions, normalised};
pub use verdict::{Audit, GradientMultiple, NearestTask, RunPhase, TermAudit, TermVerdict, Verdict, sum};

use domains::DomainObjective;
use expectation::{ALL, CompiledTerm};
use judge::Query;
use moments::moments;
use notes::changes;
use states::StateValues;
use toy_model::{RunNumbers, ToyMoment};
use view::{SampleFilter, TermView};

/// The number of steps that is assumed for a run of unknown length.
const USUAL_STEPS: u32 = 1_000;

/// How a stage uses an objective.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectiveUse {
    /// The samplers of tokens for terms without data of their own; empty if they are not known.
    pub samplers: Vec<Sampler>,
    /// The temperature of the policy that is trained on the stage's rollout, where the objective does not set
    /// it; `None` if the rollout is not known.
    pub policy_temperature: Option<Temperature>,
    /// The teachers: one entry for each kind of teacher that the route chooses.
    pub casts: Vec<Teachers>,
    /// Whether only completions that the verifier accepts are trained on.
    pub kept: bool,
    /// The condition on the prompts of completions that are trained on.
    pub filter: Option<Formula>,
    /// Updates from each batch of rollouts; `None` if they are not known.
    pub updates: Option<u32>,
    /// The steps of the run; `None` if they are not known.
    pub steps: Option<u32>,
    /// The most tokens of a completion; infinite if that is not known.
    pub longest: f64,
    /// The domains of the prompts, if the objective compares them; empty if they are not known.
    pub domains: Vec<DomainUse>,
}

impl ObjectiveUse {
    /// The use of an objective without a stage: its terms are audited on the student's own completions, and
    /// also on data if they vanish on those.
    pub fn unknown() -> ObjectiveUse {
        ObjectiveUse {
            samplers: Vec::new(),
            policy_temperature: None,
            casts: vec![Teachers::default()],
            kept: false,
            filter: None,
            updates: None,
            steps: None,
            longest: f64::INFINITY,
            domains: Vec::new(),
        }
    }

    pub fn from_stage(experiment: &Experiment, train: &Train) -> ObjectiveUse {
        let steps = match train.length {
            Length::Steps(steps) => Some(steps.max(1)),
            Length::Epochs(_) => None,
        };
        let casts = Teachers::for_stage(experiment, train, None);
        ObjectiveUse {
            samplers: Sampler::from_rollout(&train.rollout),
            policy_temperature: Some(train.rollout.policy_temperature()),
            casts,
            kept: train.keep == Keep::Correct,
            filter: filter(train).cloned(),
            updates: Some(train.options.updates_per_batch()),
            steps,
            longest: range::longest(train),
            domains: DomainUse::of_stage(experiment, train),
        }
    }

    /// The restrictions on the completions that a term is trained on.
    fn sample_filter(&self, term: &Term) -> SampleFilter<'_> {
        match term.data {
            Some(_) => SampleFilter::default(),
            None => SampleFilter { kept: self.kept, filter: self.filter.as_ref() },
        }
    }
}

/// A stage's filter on its own samples. `None` for a filter that chooses prompts beforehand, because it tests
/// completions other than those trained on.
fn filter(train: &Train) -> Option<&Formula> {
    let beforehand = train.priority.is_some() || train.refresh.is_some();
    let of_others = |node: &FormulaNode| matches!(node.kind, FormulaKind::Reduce { on: Some(_), .. });
    train.filter.as_ref().filter(|filter| !beforehand && !filter.any(of_others))
}

/// An audited objective and its uses. In the JSON, fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditedObjective {
    /// The models that are trained on it, in the order of the experiment; empty for an objective that no
    /// stage uses.
    pub models: Vec<String>,
    #[serde(flatten)]
    pub audit: Audit,
}

/// The audits of a file's objectives: those of an experiment as its stages use them, then the unused ones.
pub fn of_file(analysis: &Analysis) -> Vec<AuditedObjective> {
    with_unused(analysis.experiment.as_ref().map(of_experiment).unwrap_or_default(), analysis)
}

/// The audits of an experiment's objectives, then those of the file's others.
pub fn with_unused(mut found: Vec<AuditedObjective>, analysis: &Analysis) -> Vec<AuditedObjective> {
    let used: Vec<String> = found.iter().map(|audited| audited.audit.objective.clone()).collect();
    for named in &analysis.objectives {
        if !used.contains(&named.objective.name) {
            let audit = audit(&named.objective, &ObjectiveUse::unknown());
            found.push(AuditedObjective { models: Vec::new(), audit });
        }
    }
    found
}

/// Every objective of an experiment, as its stages use it.
pub fn of_experiment(experiment: &Experiment) -> Vec<AuditedObjective> {
    let mut found: Vec<AuditedObjective> = Vec::new();
    for (name, train) in trained(experiment) {
        let audit = audit(&train.objective, &ObjectiveUse::from_stage(experiment, train));
        match found.iter_mut().find(|known| known.audit == audit) {
            Some(known) => known.models.push(name),
            None => found.push(AuditedObjective { models: vec![name], audit }),
        }
    }
    found
}

/// The stages that train on an objective, by the name of the model. A step of a `train` has the names of the
/// model and the step.
pub fn trained(experiment: &Experiment) -> Vec<(String, &Train)> {
    let mut found = Vec::new();
    for model in &experiment.models {
        match &model.stage {
            Stage::Train(train) => found.push((model.name.clone(), train.as_ref())),
            Stage::Joint(joint) => {
                let name = |step: &str| format!("{}, step {step}", model.name);
                found.extend(joint.steps.iter().map(|step| (name(&step.name), &step.train)));
            }
            _ => {}
        }
    }
    found
}

/// The audit of every term of an objective.
pub fn audit(objective: &Objective, usage: &ObjectiveUse) -> Audit {
    let terms: Vec<TermAudit> =
        (0..objective.terms.len()).map(|term| audit_term(objective, term, usage)).collect();
    let whole = whole(objective, &terms);
    Audit { objective: objective.name.clone(), terms, whole }
}

/// The audit of one term of an objective; `term` is its index.
pub fn audit_term(objective: &Objective, term: usize, usage: &ObjectiveUse) -> TermAudit {
    let domains = usage.of_domains(objective);
    if domains.is_empty() {
        return of_prompts(objective, term, usage);
    }
    let mut apart: Vec<(TermAudit, String)> = Vec::new();
    for DomainObjective { objective, usage, text, .. } in &domains {
        let found = of_prompts(objective, term, usage);
        match apart.iter_mut().find(|(known, _)| *known == found) {
            Some((_, texts)) => *texts += &format!(" and {text}"),
            None => apart.push((found, text.clone())),
        }
    }
    let several = apart.len() > 1;
    let findings = apart.into_iter().flat_map(|(found, text)| {
        found.findings.into_iter().map(move |finding| match several {
            true => TermVerdict { on: format!("{}, {text}", finding.on), ..finding },
            false => finding,
        })
    });
    TermAudit { term: objective.terms[term].name.clone(), findings: findings.collect() }
}

/// The audit of one term that is the same for all prompts.
fn of_prompts<'a>(objective: &'a Objective, term: usize, usage: &'a ObjectiveUse) -> TermAudit {
    let own = &objective.terms[term];
    let policy = own.data.as_deref().map(Rollout::policy_temperature);
    let policy = policy.or_else(|| usage.policy_temperature.clone());
    let view = || TermView::new(objective, own, usage.sample_filter(own)).of_policy(policy.clone());
    let streams = own.data.as_deref().map_or_else(|| usage.samplers.clone(), Sampler::from_rollout);
    // The routed teacher has an effect only on terms that read it.
    let mut casts: Vec<&Teachers> = usage.casts.iter().collect();
    if !view().others().contains(&Role::Teacher) {
        casts.truncate(1);
    }
    let steps = usage.steps.unwrap_or(USUAL_STEPS);
    let of_batch =
        usage.updates.map_or(LaterUse::Unknown, |updates| match updates > 1 && own.data.is_none() {
            true => LaterUse::Some,
            false => LaterUse::None,
        });
    let on = |sampler: &Sampler| -> Vec<TermVerdict> {
        let later = if sampler.is_of_student() { of_batch } else { LaterUse::None };
        let one =
            |teachers: &&Teachers| audit_on_sampler(&view, sampler, teachers, steps, usage.longest, later);
        casts.iter().flat_map(one).collect()
    };
    let zero = |findings: &[TermVerdict]| findings.iter().all(|finding| finding.verdict == Verdict::Zero);
    if !streams.is_empty() {
        return TermAudit { term: own.name.clone(), findings: streams.iter().flat_map(on).collect() };
    }
    let mut findings = on(&Sampler::ON_POLICY);
    if zero(&findings) {
        findings.extend(on(&Sampler::Elsewhere { name: "data" }));
    }
    TermAudit { term: own.name.clone(), findings }
}

/// Whether a batch has more than one update.
#[derive(Clone, Copy)]
enum LaterUse {
    None,
    Some,
    /// They are reported only if they differ from the first.
    Unknown,
}

impl LaterUse {
    fn of(self, query: &Query) -> Option<LaterUpdates> {
        match self {
            LaterUse::None => None,
            LaterUse::Some => query.in_later_updates(),
            LaterUse::Unknown => query.in_later_updates().filter(|later| *later != LaterUpdates::Same),
        }
    }
}

/// The audit of a term on the tokens of one sampler.
fn audit_on_sampler<'a>(
    view: &dyn Fn() -> TermView<'a>,
    sampler: &Sampler,
    teachers: &Teachers,
    steps: u32,
    longest: f64,
    later: LaterUse,
) -> Vec<TermVerdict> {
    let moments = moments(&view(), sampler, teachers, steps);
    let rounds = StateValues::new(&view()).rounds();
    let at = |(when, step): &(RunPhase, u32)| {
        let judged = |run: RunNumbers| {
            let moment = ToyMoment { step: StageStep { step: *step, steps }, run, longest };
            match Query::new(view(), sampler, teachers, moment) {
                Ok(query) => TermVerdict { later: later.of(&query), ..query.judge(*when) },
                Err(why) => {
                    TermVerdict::not_audited(*when, sampler.text() + &teachers.text(), why.to_string())
                }
            }
        };
        let first = judged(RunNumbers::AtStep);
        let mut found = vec![first];
        for round in 0..rounds {
            let other = judged(RunNumbers::Tried(round));
            // Another size is no news: the note names the value that it holds for.
            if found.iter().all(|known| known.verdict.turns_into(&other.verdict)) {
                found.push(other);
            }
        }
        // The values are in a note, or, where they matter, before the verdict.
        let several = found.len() > 1;
        for finding in &mut found {
            match finding.states.as_deref().map(changes) {
                Some(note) if several => finding.notes.retain(|known| *known != note),
                _ => finding.states = None,
            }
        }
        found
    };
    let mut found: Vec<TermVerdict> = moments.iter().flat_map(at).collect();
    let same = found.iter().all(|finding| {
        finding.verdict.text() == found[0].verdict.text()
            && finding.later.as_ref().map(|later| later.text(&finding.verdict))
                == found[0].later.as_ref().map(|later| later.text(&found[0].verdict))
            && finding.states == found[0].states
            && finding.stationary_at_teacher == found[0].stationary_at_teacher
    });
    if same {
        found.truncate(1);
        found[0].when = RunPhase::Throughout;
    }
    found
}

/// The sum of all terms, if it is known.
fn whole(objective: &Objective, terms: &[TermAudit]) -> Option<Vec<GradientMultiple>> {
    let own = objective.terms.iter().any(|term| term.reduce.is_some() || term.data.is_some());
    if own || terms.len() < 2 {
        return None;
    }
    let mut sum: Vec<GradientMultiple> = Vec::new();
    for term in terms {
        let [TermVerdict { verdict, .. }] = term.findings.as_slice() else { return None };
        let parts = match verdict {
            Verdict::Follows { parts } => parts.as_slice(),
            Verdict::Zero => &[],
            _ => return None,
        };
        for part in parts {
            match sum.iter_mut().find(|known| known.of == part.of) {
                Some(known) => known.times += part.times,
                None => sum.push(part.clone()),
            }
        }
    }
    Some(sum)
}

/// A term's exact expected value and gradient in one toy model.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedGradient {
    /// The value in the unit of the term, usually nats; per token if the term has one number per token.
    pub value: f64,
    /// The derivative by the student's logits, in the order of the vocabulary entries.
    pub gradient: Vec<f64>,
}

/// The expected value and gradient of a term, with its weights and masks, over everything that the toy
/// model's sampler draws. Only the `live` parts of the term are differentiated.
///
/// # Errors
/// A description of what the term reads that the toy model lacks, or that can't be enumerated.
pub fn expected(objective: &Objective, term: usize, toy: &ToyModel) -> Result<ExpectedGradient, String> {
    let view = TermView::new(objective, &objective.terms[term], SampleFilter::default());
    if let Some(why) = view.refusal() {
        return Err(why.to_string());
    }
    let expectation = CompiledTerm::new(&view, ALL).and_then(|term| term.expectation(toy, ALL));
    let expectation = expectation.map_err(|why| why.to_string())?;
    Ok(ExpectedGradient { value: expectation.value, gradient: expectation.gradient })
}
