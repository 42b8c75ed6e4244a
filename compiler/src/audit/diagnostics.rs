//! Diagnostics of the audit: terms that teach nothing or the opposite, and misleading losses.

use mopd_experiment::formula::{Formula, Role};
use mopd_experiment::{
    Experiment, Objective, Optimizer, Origin, Reward, Rollout, Stage, StageStep, Temperature, Train,
    Trainable,
};
use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_lang::source::Span;

use super::bounds::{self, Bounds};
use super::case::{AuditCase, Vanishing};
use super::domains::AuditedPrompts;
use super::judge::Query;
use super::not_finite::NonFinite;
use super::range;
use super::repelling::RepellingTerm;
use super::sampler::Sampler;
use super::teachers::Teachers;
use super::toy_model::{Drift, RunNumbers};
use super::view::{SampleFilter, TermView};
use super::{ObjectiveUse, USUAL_STEPS};

/// The diagnostics about the objectives of a sound experiment, as its stages use them. Its [`Origin`]s index
/// `origins`.
pub fn diagnostics(experiment: &Experiment, origins: &[Span]) -> Vec<Diagnostic> {
    diagnostics_while(experiment, origins, &|| true)
}

/// [`diagnostics`], stopped when `keep_going` returns false.
pub fn diagnostics_while(
    experiment: &Experiment,
    origins: &[Span],
    keep_going: &dyn Fn() -> bool,
) -> Vec<Diagnostic> {
    let mut looking = AuditPass { experiment, origins, keep_going, seen: Vec::new(), found: Vec::new() };
    for model in &experiment.models {
        match &model.stage {
            Stage::Train(train) => looking.audit_stage(train, moves_only_by_gradients(train)),
            // Other steps may move the model.
            Stage::Joint(joint) => {
                joint.steps.iter().for_each(|step| looking.audit_stage(&step.train, false));
            }
            _ => {}
        }
    }
    looking.found
}

/// Whether a stage without gradients leaves its model, and what it computes, as they are.
fn moves_only_by_gradients(train: &Train) -> bool {
    let still = match &train.optimizer {
        Optimizer::AdamW(adamw) => adamw.weight_decay == 0.0,
        Optimizer::Sgd(_) => true,
    };
    still
        && train.options.private.is_none()
        && !matches!(&train.trainable, Trainable::Adapter(adapter) if adapter.dropout > 0.0)
}

/// A use of an objective, reduced to what its diagnostics depend on. The stages of a family share one.
#[derive(PartialEq)]
struct AuditedUse<'a> {
    objective: &'a Objective,
    usage: ObjectiveUse,
    filter: Option<&'a Formula>,
    verdicts: Vec<&'a Reward>,
    /// The teachers as they are at the first step; empty if something other than gradients moves the student.
    at_first: Vec<Teachers>,
}

/// A term on the tokens of each sampler, with each kind of teachers, on all prompts.
fn cases_of<'a, 'b>(
    train: &'a Train,
    place: usize,
    prompts: &'b [AuditedPrompts<'a>],
    (samplers, policy_temperature): (&'b [Sampler], &'b Temperature),
) -> Vec<AuditCase<'a, 'b>> {
    let called = if train.options.mini_batches > 1 { "updates from a batch" } else { "passes" };
    let first = train.teachers.first().map(|choice| choice.teacher);
    let routed = first.filter(|first| train.teachers.iter().all(|choice| choice.teacher == *first));
    let mut cases: Vec<AuditCase> = Vec::new();
    for of in prompts {
        let (objective, usage) = (of.objective, of.usage);
        let term = &objective.terms[place];
        let rollout = term.data.as_deref().unwrap_or(&train.rollout);
        let (samples, updates) = match term.data {
            Some(_) => (SampleFilter::default(), 1),
            None => {
                let samples = SampleFilter { kept: usage.kept, filter: usage.filter.as_ref() };
                (samples, usage.updates.unwrap_or(1))
            }
        };
        let own = TermView::new(objective, term, samples);
        let casts = &usage.casts[..if own.others().contains(&Role::Teacher) { usage.casts.len() } else { 1 }];
        for sampler in samplers.iter().filter(|sampler| !matches!(sampler, Sampler::Unknown { .. })) {
            for teachers in casts.iter().filter(|teachers| of.moves(place, teachers)) {
                cases.push(AuditCase {
                    objective,
                    term,
                    samples,
                    sampler,
                    start: train.start,
                    drift: Drift::None,
                    policy_temperature,
                    teachers,
                    routed,
                    prompts: of.text,
                    steps: usage.steps.unwrap_or(USUAL_STEPS),
                    longest: usage.longest,
                    updates,
                    called,
                    rollout: rollout.origin,
                });
            }
        }
    }
    cases
}

pub(super) struct AuditPass<'a> {
    pub(super) experiment: &'a Experiment,
    origins: &'a [Span],
    pub(super) keep_going: &'a dyn Fn() -> bool,
    seen: Vec<AuditedUse<'a>>,
    found: Vec<Diagnostic>,
}

impl<'a> AuditPass<'a> {
    fn audit_stage(&mut self, train: &'a Train, by_gradients: bool) {
        let usage = ObjectiveUse::from_stage(self.experiment, train);
        let verdicts: Vec<&Reward> =
            train.mixture.iter().map(|share| &self.experiment.domain(share.domain).reward).collect();
        let reward = range::verdicts(verdicts.iter().copied());
        let at_first_step = |domain| match by_gradients {
            true => Teachers::at_first_step(self.experiment, train, domain),
            false => Vec::new(),
        };
        let (objective, filter, at_first) = (&train.objective, train.filter.as_ref(), at_first_step(None));
        let seen = AuditedUse { objective, usage, filter, verdicts, at_first };
        if self.seen.contains(&seen) {
            return;
        }
        let domains = seen.usage.of_domains(objective);
        let at_first: Vec<Vec<Teachers>> =
            domains.iter().map(|own| at_first_step(Some(own.domain))).collect();
        let mut prompts: Vec<AuditedPrompts> = domains
            .iter()
            .zip(&at_first)
            .map(|(own, at_first)| AuditedPrompts {
                objective: &own.objective,
                usage: &own.usage,
                at_first,
                reward,
                text: Some(&own.text),
            })
            .collect();
        if prompts.is_empty() {
            let (usage, at_first) = (&seen.usage, seen.at_first.as_slice());
            prompts.push(AuditedPrompts { objective, usage, at_first, reward, text: None });
        }
        if let Some(filter) = &train.filter {
            let bounds = Bounds::new(&[filter], &prompts[0].facts(&seen.usage.casts[0]));
            if bounds::cannot_hold(filter, &bounds) {
                self.never("filter", filter, train.rollout.origin);
            }
        }
        self.silent(&prompts);
        for place in 0..objective.terms.len() {
            if !self.term(train, place, &prompts) {
                return;
            }
        }
        self.seen.push(seen);
    }

    /// Checks one term on all prompts. False when the time is up.
    fn term(&mut self, train: &Train, place: usize, prompts: &[AuditedPrompts]) -> bool {
        let data = train.objective.terms[place].data.as_deref();
        let rollout = data.unwrap_or(&train.rollout);
        let (samplers, policy_temperature) = (Sampler::from_rollout(rollout), rollout.policy_temperature());
        let cases = cases_of(train, place, prompts, (&samplers, &policy_temperature));
        // Which completions an edit selects does not change the policy that drew them.
        let unedited = Sampler::from_rollout(&Rollout { edits: Vec::new(), ..rollout.clone() });
        let drawn = cases_of(train, place, prompts, (&unedited, &policy_temperature));
        let known = samplers.iter().all(|sampler| !matches!(sampler, Sampler::Unknown { .. }));
        let all_prompts = prompts.len() == 1;
        self.of_term(&cases, known, all_prompts) && self.of_later_updates(&drawn)
    }

    /// Checks a term on all the tokens that it is trained on. `known`: whether `cases` has all of them. False
    /// when the time is up.
    fn of_term(&mut self, cases: &[AuditCase], known: bool, all_prompts: bool) -> bool {
        let mut repelling: Vec<RepellingTerm> = Vec::new();
        let mut vanishing: Vec<(&AuditCase, Vanishing)> = Vec::new();
        for case in cases {
            if !(self.keep_going)() {
                return false;
            }
            match case.vanishes() {
                Some(how) => vanishing.push((case, how)),
                None => repelling.extend(self.case(case)),
            }
        }
        self.report_repelling(&repelling, all_prompts || repelling.len() == cases.len());
        let nowhere = known && vanishing.len() == cases.len();
        for (case, how) in vanishing {
            let later = case.later().is_some_and(|later| later.vanishes().is_none());
            match how {
                // The term has an effect in later updates.
                Vanishing::Nothing if later => {}
                Vanishing::Cancels if nowhere && !later => self.zero(case),
                Vanishing::Nothing if nowhere => self.nothing(case),
                _ => self.zero_somewhere(case, how, later),
            }
        }
        true
    }

    /// Checks a term on the tokens of one case, and returns whether it has the wrong sign.
    fn case<'c, 'x, 'y>(&mut self, case: &'c AuditCase<'x, 'y>) -> Option<RepellingTerm<'c, 'x, 'y>> {
        if matches!(case.sampler, Sampler::Student { .. }) {
            self.misleading(case);
        }
        let filtered = || TermView { samples: case.samples, ..case.view() };
        let query = |step: u32| case.query_of(filtered(), step, RunNumbers::AtStep);
        let queries: Vec<Query> = case.steps().into_iter().filter_map(query).collect();
        if let Some(cause) = queries.iter().find_map(Query::non_finite) {
            self.not_finite(case, &cause);
        } else if !queries.is_empty() && queries.iter().all(|query| query.ignores_teacher() == Ok(true)) {
            self.ignores_teacher(case, queries[0].reads_teacher());
        } else if let Some(mask) = case.masks_a_term_of_zero() {
            self.masked_zero(case, mask);
        } else {
            // A sign is wrong only if it is for other values of the states, too.
            let others = case.runs().skip(1).flat_map(|run| {
                case.steps().into_iter().filter_map(move |step| case.query_of(filtered(), step, run))
            });
            let queries: Vec<Query> = queries.into_iter().chain(others).collect();
            let found = self.repelling_term(case, &queries);
            if found.is_none() {
                self.negative_weight(case);
            }
            return found;
        }
        None
    }

    fn not_finite(&mut self, case: &AuditCase, cause: &NonFinite) {
        let diagnostic = cause.diagnostic(self.span(cause.part.0.origin));
        self.add(diagnostic.note(self.span(case.rollout), format!("on {}", case.on())));
    }

    /// Reports that no token has a gradient, whatever is drawn.
    fn nothing(&mut self, case: &AuditCase) {
        let place = self.span(case.term.origin);
        let diagnostic = if case.view().any(range::divides_by_length) {
            let text = "in completions of one length, no gradient comes from this term";
            Diagnostic::warning(Code::ZeroGradient, place, text)
        } else {
            let text = "no gradient comes from this term, whatever is drawn";
            match case.objective.terms.len() {
                1 => Diagnostic::error(Code::ZeroGradient, place, text),
                _ => Diagnostic::warning(Code::ZeroGradient, place, text),
            }
        };
        self.add(
            diagnostic
                .label("0 in every toy model, for every outcome")
                .help("compare the student with another model"),
        );
    }

    fn zero(&mut self, case: &AuditCase) {
        let place = self.span(case.term.origin);
        let query = case.query(case.steps / 2);
        let untried = query.as_ref().and_then(Query::untried_choice);
        let pulled = query.as_ref().and_then(Query::pull_on_length);
        let mut help = "multiply by a number of the sampled token, or differentiate a divergence: `live \
                        kl(student || teacher)`"
            .to_owned();
        let mut diagnostic = if case.view().any(range::divides_by_length) {
            // Toy completions have one length. The drawn ends decide it, so a little is left of the gradient.
            let text = "in completions of one length, the mean gradient of this term is exactly 0";
            Diagnostic::warning(Code::ZeroGradient, place, text)
        } else if untried.is_some() {
            let text = "the mean gradient of this term is exactly 0 in every toy model";
            Diagnostic::warning(Code::ZeroGradient, place, text)
        } else if pulled.is_some() {
            let text = "in completions of one length, the mean gradient of this term is exactly 0";
            Diagnostic::error(Code::ZeroGradient, place, text)
        } else {
            let text = "the mean gradient of this term is exactly 0, over everything that can be drawn";
            Diagnostic::error(Code::ZeroGradient, place, text)
        };
        diagnostic = diagnostic
            .label("the contributions of the tokens cancel")
            .note(self.span(case.rollout), format!("these are {}", case.sampler.text()));
        if let Some(reduce) = pulled {
            let text =
                "divides by the length that was drawn: where lengths differ, a pull on the length is left";
            diagnostic = diagnostic.note(self.span(reduce), text);
        }
        if let Some((part, how)) = untried {
            diagnostic = diagnostic.note(self.span(part.0.origin), how);
            help += "; if only the other case is to train, say so: `// allow(zero-gradient): why`";
        }
        self.add(diagnostic.help(help));
    }

    /// Reports a gradient that vanishes on some of the tokens, or only in the first update from them.
    fn zero_somewhere(&mut self, case: &AuditCase, how: Vanishing, later: bool) {
        let first =
            if later { format!(" in the first of {} {}", case.updates, case.called) } else { String::new() };
        let text = match how {
            Vanishing::Cancels => {
                format!("the mean gradient of this term is exactly 0{first} on {}", case.on())
            }
            Vanishing::Nothing => format!("no gradient comes from this term on {}", case.on()),
        };
        let label = match how {
            Vanishing::Cancels => "the contributions of the tokens cancel",
            Vanishing::Nothing => "0 in every toy model, for every outcome",
        };
        let (which, help) = match later {
            true => (
                "these are",
                "later ones do train, because these tokens were then sampled by an earlier student",
            ),
            false => ("some of these are", "the others do train; remove these if they are not needed"),
        };
        let diagnostic = Diagnostic::warning(Code::ZeroGradient, self.span(case.term.origin), text)
            .label(label)
            .note(self.span(case.rollout), format!("{which} {}", case.sampler.text()))
            .help(help);
        self.add(diagnostic);
    }

    /// Reports a value that estimates one divergence while the gradient follows another one, on tokens that
    /// are sampled from the policy that is scored.
    fn misleading(&mut self, case: &AuditCase) {
        let middle = StageStep { step: case.steps / 2, steps: case.steps };
        let scored_at = case.view().scored_at(case.sampler).at(middle);
        let drawn_so = case.sampler.is_on_policy(scored_at, middle);
        let plain = match drawn_so {
            true => *case,
            false => AuditCase {
                sampler: &Sampler::ON_POLICY,
                policy_temperature: &Temperature::Constant(1.0),
                ..*case
            },
        };
        let Some((value, gradient)) = plain.query(middle.step).and_then(|query| query.misleading()) else {
            return;
        };
        let text = format!("the value of this term estimates {value}, its gradient is that of {gradient}");
        let mut diagnostic = Diagnostic::warning(Code::OtherGradient, self.span(case.term.origin), text)
            .label("the value of this loss is not what its gradient minimises");
        if !drawn_so {
            let text = format!("so it is at temperature 1; these are {}", case.sampler.text());
            diagnostic = diagnostic.note(self.span(case.rollout), text);
        }
        self.add(diagnostic.help(format!(
            "write the divergence that is meant, `live kl(...)`; if {gradient} is, say so: `// \
             allow(other-gradient): why`"
        )));
    }

    /// `of_teacher`: it is a teacher that is ignored, not the reference.
    fn ignores_teacher(&mut self, case: &AuditCase, of_teacher: bool) {
        let (a_role, role) =
            if of_teacher { ("a teacher", "teacher") } else { ("the reference", "reference") };
        let text = format!("this term reads {a_role}, and its gradient is the same for every {role}");
        let label =
            format!("the {role}'s number is only added; it does not multiply anything that carries gradient");
        let diagnostic = Diagnostic::warning(Code::NoTeacherSignal, self.span(case.term.origin), text)
            .label(label)
            .note(self.span(case.rollout), format!("on {}", case.sampler.text()))
            .help(format!(
                "make it a factor, `(student.logp - {role}.logp) * live student.logp`, or differentiate a \
                 divergence, `live kl(student || {role})`"
            ));
        self.add(diagnostic);
    }

    /// Reports a term whose mean gradient is 0 without its masks, although it reads a divergence from a
    /// teacher.
    fn masked_zero(&mut self, case: &AuditCase, mask: &str) {
        let text = format!("without `{mask}` the mean gradient of this term is exactly 0");
        let what = if mask == "weight" { "the weight" } else { "what is left out" };
        let diagnostic = Diagnostic::warning(Code::ZeroGradient, self.span(case.term.origin), text)
            .label(format!("the factor is the same whichever token was drawn: only {what} trains"))
            .note(self.span(case.rollout), format!("these are {}", case.on()))
            .help(
                "differentiate the divergence, `live kl(student || teacher)`, or multiply by a number of the \
                 sampled token, `(student.logp - teacher.logp) * live student.logp`",
            );
        self.add(diagnostic);
    }

    pub(super) fn span(&self, origin: Origin) -> Span {
        self.origins[origin.0 as usize]
    }

    /// Adds a diagnostic. Of two with the same code and place, an error replaces a warning.
    pub(super) fn add(&mut self, diagnostic: Diagnostic) {
        let same =
            |known: &&mut Diagnostic| known.code == diagnostic.code && known.primary == diagnostic.primary;
        match self.found.iter_mut().find(same) {
            None => self.found.push(diagnostic),
            Some(known) if known.severity == Severity::Warning && diagnostic.severity == Severity::Error => {
                *known = diagnostic;
            }
            Some(_) => {}
        }
    }
}
