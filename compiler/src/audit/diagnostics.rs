//! Diagnostics of the audit: terms that teach nothing or the opposite, and misleading losses.

use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_lang::experiment::{Experiment, Objective, Origin, Reward, Stage, StageStep, Term, Train};
use mopd_lang::formula::{Formula, FormulaKind, Role, text};
use mopd_lang::source::Span;

use super::bounds::{self, Bounds, Culprit, ZeroGradientCause};
use super::judge::Query;
use super::range::{self, RunFacts};
use super::sampler::Sampler;
use super::sign::RepelledFrom;
use super::teachers::Teachers;
use super::toy_model::{RunNumbers, ToyMoment};
use super::verdict::RunPhase;
use super::view::{SampleFilter, TermView};
use super::{ObjectiveUse, USUAL_STEPS, filter, moments};

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
            Stage::Train(train) => looking.audit_stage(train),
            Stage::Joint(joint) => joint.steps.iter().for_each(|step| looking.audit_stage(&step.train)),
            _ => {}
        }
    }
    looking.found
}

/// A use of an objective, reduced to what its diagnostics depend on. The stages of a family share one.
#[derive(PartialEq)]
struct AuditedUse<'a> {
    objective: &'a Objective,
    usage: ObjectiveUse,
    filter: Option<&'a Formula>,
    verdicts: Vec<&'a Reward>,
}

struct AuditPass<'a> {
    experiment: &'a Experiment,
    origins: &'a [Span],
    keep_going: &'a dyn Fn() -> bool,
    seen: Vec<AuditedUse<'a>>,
    found: Vec<Diagnostic>,
}

/// A term on tokens that one sampler draws, with one kind of teachers.
#[derive(Clone, Copy)]
struct AuditCase<'a, 'b> {
    objective: &'a Objective,
    term: &'a Term,
    samples: SampleFilter<'a>,
    sampler: &'b Sampler,
    /// The temperature of the policy that is trained on the rollout.
    policy_temperature: f64,
    teachers: &'b Teachers,
    steps: u32,
    longest: f64,
    /// Passes over each batch of these tokens, with one update each.
    passes: u32,
    /// Where the experiment declares these tokens.
    rollout: Origin,
}

/// How the gradient of a term vanishes on the tokens of a case.
#[derive(Clone, Copy, PartialEq)]
enum Vanishing {
    /// Single tokens have gradients, which cancel in the mean.
    Cancels,
    /// No token has a gradient.
    Nothing,
}

impl<'a, 'b> AuditCase<'a, 'b> {
    /// The term without its filter, which tests what was drawn: toy models are too small to satisfy it.
    fn view(&self) -> TermView<'a> {
        TermView::new(self.objective, self.term, SampleFilter { filter: None, ..self.samples })
    }

    fn query_of(&self, view: TermView<'a>, step: u32, run: RunNumbers) -> Option<Query<'a>> {
        let moment = ToyMoment { step: StageStep { step, steps: self.steps }, run, longest: self.longest };
        let view = view.of_policy(Some(self.policy_temperature));
        Query::new(view, self.sampler, self.teachers, moment).ok()
    }

    fn query(&self, step: u32) -> Option<Query<'a>> {
        self.query_of(self.view(), step, RunNumbers::AtStep)
    }

    /// The case for the tokens of later passes.
    fn later(&self) -> Option<AuditCase<'a, 'b>> {
        let again = self.passes > 1 && matches!(self.sampler, Sampler::Student { .. });
        again.then_some(AuditCase { sampler: &Sampler::LATER_PASSES, ..*self })
    }

    /// The case as text: `tokens that the student drew, on prompts that go to now`.
    fn on(&self) -> String {
        self.sampler.text() + &self.teachers.text()
    }

    /// The steps to try, the middle of the run first.
    fn steps(&self) -> Vec<u32> {
        let mut steps: Vec<u32> =
            moments(&self.view(), self.steps).into_iter().map(|(_, step)| step).collect();
        let middle = steps.len() / 2;
        steps.swap(0, middle);
        steps
    }
}

impl<'a> AuditPass<'a> {
    fn audit_stage(&mut self, train: &'a Train) {
        let usage = ObjectiveUse::from_stage(self.experiment, train);
        let verdicts =
            train.mixture.iter().map(|share| &self.experiment.domain(share.domain).reward).collect();
        let seen = AuditedUse { objective: &train.objective, usage, filter: train.filter.as_ref(), verdicts };
        if self.seen.contains(&seen) {
            return;
        }
        let (steps, longest, passes) = (seen.usage.steps, seen.usage.longest, train.passes);
        let facts = |teachers| RunFacts {
            teachers,
            steps,
            reward: range::verdicts(seen.verdicts.iter().copied()),
            longest,
        };
        if let Some(filter) = &train.filter {
            let bounds = Bounds::new(&[filter], &facts(&seen.usage.casts[0]));
            if bounds::cannot_hold(filter, &bounds) {
                self.never("filter", filter, train.rollout.origin);
            }
        }
        self.silent(&train.objective, &seen.usage, &facts);
        for term in &train.objective.terms {
            let (rollout, left, passes) = match &term.data {
                Some(data) => (data.as_ref(), SampleFilter::default(), 1),
                None => {
                    (&train.rollout, SampleFilter { kept: seen.usage.kept, filter: filter(train) }, passes)
                }
            };
            let own = TermView::new(&train.objective, term, left);
            let casts = &seen.usage.casts
                [..if own.others().contains(&Role::Teacher) { seen.usage.casts.len() } else { 1 }];
            let (samplers, policy_temperature) =
                (Sampler::from_rollout(rollout), rollout.policy_temperature());
            let mut cases: Vec<AuditCase> = Vec::new();
            for sampler in samplers.iter().filter(|sampler| !matches!(sampler, Sampler::Unknown { .. })) {
                for teachers in
                    casts.iter().filter(|teachers| bounds::silent(&own, &facts(teachers)).is_none())
                {
                    let (objective, rollout) = (&train.objective, rollout.origin);
                    let steps = steps.unwrap_or(USUAL_STEPS);
                    cases.push(AuditCase {
                        objective,
                        term,
                        samples: left,
                        sampler,
                        policy_temperature,
                        teachers,
                        steps,
                        longest,
                        passes,
                        rollout,
                    });
                }
            }
            let known = samplers.iter().all(|sampler| !matches!(sampler, Sampler::Unknown { .. }));
            if !self.of_term(&cases, known) {
                return;
            }
        }
        self.seen.push(seen);
    }

    /// Reports terms that can't have any gradient.
    fn silent<'f>(
        &mut self,
        objective: &'a Objective,
        usage: &'f ObjectiveUse,
        facts: &dyn Fn(&'f Teachers) -> RunFacts<'f>,
    ) {
        let silent = |term: &'a Term, teachers: &'f Teachers| {
            bounds::silent(&TermView::new(objective, term, SampleFilter::default()), &facts(teachers))
        };
        let culprits: Vec<Vec<Option<Culprit>>> = objective
            .terms
            .iter()
            .map(|term| {
                usage.casts.iter().map(|teachers| silent(term, teachers)).collect::<Vec<Option<Culprit>>>()
            })
            .collect();
        let nothing = culprits.iter().flatten().all(Option::is_some);
        for (term, culprits) in objective.terms.iter().zip(culprits) {
            let always = culprits.iter().all(Option::is_some);
            let Some((teachers, culprit)) =
                usage.casts.iter().zip(culprits).find_map(|(teachers, found)| Some((teachers, found?)))
            else {
                continue;
            };
            if let ZeroGradientCause::Never(name) = culprit.cause {
                self.never(name, culprit.part, term.origin);
                continue;
            }
            let (place, literal) = self.place(culprit.part);
            // An argument 0 as a coefficient switches one of several terms off, which is intended.
            if literal
                && !nothing
                && matches!(culprit.cause, ZeroGradientCause::Factor | ZeroGradientCause::Weight)
            {
                continue;
            }
            let whose = if always { String::new() } else { teachers.text() };
            let text = format!("no gradient comes from this term{whose}, whatever is drawn");
            let mut diagnostic = match nothing {
                true => Diagnostic::error(Code::ZeroGradient, place, text),
                false => Diagnostic::warning(Code::ZeroGradient, place, text),
            };
            let part = text::formula(culprit.part, 60);
            diagnostic = diagnostic.label(match culprit.cause {
                ZeroGradientCause::Same => format!("`{part}` compares a distribution with itself"),
                _ if literal => "this is 0".to_owned(),
                ZeroGradientCause::Bounds => format!(
                    "`{part}` sets everything that it bounds to a \
                    constant"
                ),
                _ => format!("`{part}` is 0 throughout"),
            });
            if literal && culprit.cause == ZeroGradientCause::Bounds {
                diagnostic = diagnostic.note(
                    self.span(culprit.part.0.origin),
                    format!("`{part}` sets everything that it bounds to a constant"),
                );
            } else if place != self.span(term.origin) {
                diagnostic = diagnostic.note(self.span(term.origin), "the term");
            }
            self.add(diagnostic.help(match culprit.cause {
                ZeroGradientCause::Same => {
                    "a teacher that is `self`, as it is now, is the student; with `sees` it reads more, \
                     `self.ema(0.99)` is older"
                }
                ZeroGradientCause::Bounds => "give bounds that leave values between them",
                _ => "remove the term, or give it a factor other than 0",
            }));
        }
    }

    /// The best place to show for a part that is 0, and whether it is a number given as an argument.
    fn place(&self, part: &Formula) -> (Span, bool) {
        let own = self.span(part.0.origin);
        let outside = part.operands().into_iter().find_map(|operand| {
            let span = self.span(operand.0.origin);
            let given = match operand.0.kind {
                FormulaKind::Number(value) => value == 0.0 || part.operands().len() > 2,
                _ => false,
            };
            (given && (span.file != own.file || span.start < own.start || span.end > own.end)).then_some(span)
        });
        (outside.unwrap_or(own), outside.is_some() || matches!(part.0.kind, FormulaKind::Number(_)))
    }

    fn never(&mut self, name: &str, condition: &Formula, term: Origin) {
        let place = self.span(condition.0.origin);
        let text = format!("`{name}` never holds: nothing is trained on");
        let diagnostic = Diagnostic::error(Code::NeverHolds, place, text)
            .label(format!("`{}` is false whatever is drawn", text::formula(condition, 60)))
            .note(self.span(term), if name == "filter" { "of these" } else { "for this term" })
            .help(
                "compare with a value that the number can have: a probability is at most 1, an entropy at \
                 least 0",
            );
        self.add(diagnostic);
    }

    /// Checks a term on all the tokens that it is trained on. `known`: whether `cases` has all of them. False
    /// when the time is up.
    fn of_term(&mut self, cases: &[AuditCase], known: bool) -> bool {
        let mut vanishing: Vec<(&AuditCase, Vanishing)> = Vec::new();
        for case in cases {
            if !(self.keep_going)() {
                return false;
            }
            match vanishes(case) {
                Some(how) => vanishing.push((case, how)),
                None => self.case(case),
            }
        }
        let nowhere = known && vanishing.len() == cases.len();
        for (case, how) in vanishing {
            let later = case.later().is_some_and(|later| vanishes(&later).is_none());
            match how {
                // The term has an effect in later passes.
                Vanishing::Nothing if later => {}
                Vanishing::Cancels if nowhere && !later => self.zero(case),
                Vanishing::Nothing if nowhere => self.nothing(case),
                _ => self.zero_somewhere(case, how, later),
            }
        }
        true
    }

    fn case(&mut self, case: &AuditCase) {
        if matches!(case.sampler, Sampler::Student { .. }) {
            self.misleading(case);
        }
        let filtered = || TermView { samples: case.samples, ..case.view() };
        let query = |step: u32| case.query_of(filtered(), step, RunNumbers::AtStep);
        let queries: Vec<Query> = case.steps().into_iter().filter_map(query).collect();
        if !queries.is_empty() && queries.iter().all(|query| query.ignores_teacher() == Ok(true)) {
            self.ignores_teacher(case);
        } else {
            self.report_repelling_term(case, &queries);
        }
    }

    /// Reports that no token has a gradient, whatever is drawn.
    fn nothing(&mut self, case: &AuditCase) {
        let text = "no gradient comes from this term, whatever is drawn";
        let place = self.span(case.term.origin);
        let diagnostic = match case.objective.terms.len() {
            1 => Diagnostic::error(Code::ZeroGradient, place, text),
            _ => Diagnostic::warning(Code::ZeroGradient, place, text),
        };
        self.add(
            diagnostic
                .label("0 in every toy model, for every outcome")
                .help("compare the student with another model"),
        );
    }

    fn zero(&mut self, case: &AuditCase) {
        let place = self.span(case.term.origin);
        let diagnostic = if case.view().any(range::divides_by_length) {
            // Toy completions have one length. The drawn ends decide it, so a little is left of the gradient.
            let text = "in completions of one length, the mean gradient of this term is exactly 0";
            Diagnostic::warning(Code::ZeroGradient, place, text)
        } else {
            let text = "the mean gradient of this term is exactly 0, over everything that can be drawn";
            Diagnostic::error(Code::ZeroGradient, place, text)
        };
        let diagnostic = diagnostic
            .label("each token pulls, and together they cancel")
            .note(self.span(case.rollout), format!("these are {}", case.sampler.text()))
            .help(
                "multiply by a number of the sampled token, or differentiate a divergence: `live \
                kl(student || teacher)`",
            );
        self.add(diagnostic);
    }

    /// Reports a gradient that vanishes on some of the tokens, or only in the first pass over them.
    fn zero_somewhere(&mut self, case: &AuditCase, how: Vanishing, later: bool) {
        let pass = match case.passes {
            passes if later => format!(" in the first of {passes} passes"),
            _ => String::new(),
        };
        let text = match how {
            Vanishing::Cancels => {
                format!("the mean gradient of this term is exactly 0{pass} on {}", case.on())
            }
            Vanishing::Nothing => format!("no gradient comes from this term on {}", case.on()),
        };
        let label = match how {
            Vanishing::Cancels => "each token pulls, and together they cancel",
            Vanishing::Nothing => "0 in every toy model, for every outcome",
        };
        let (which, help) = match later {
            true => (
                "these are",
                "later passes do train, because these tokens were then sampled by an \
                earlier student",
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
        let scored_at = case.objective.temperature.unwrap_or(case.policy_temperature);
        let drawn_so = case.sampler.is_on_policy(scored_at);
        let plain = match drawn_so {
            true => *case,
            false => AuditCase { sampler: &Sampler::ON_POLICY, policy_temperature: 1.0, ..*case },
        };
        let Some((value, gradient)) = plain.query(case.steps / 2).and_then(|query| query.misleading()) else {
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

    fn ignores_teacher(&mut self, case: &AuditCase) {
        let text = "this term reads a teacher, and its gradient is the same for every teacher";
        let diagnostic = Diagnostic::warning(Code::NoTeacherSignal, self.span(case.term.origin), text)
            .label("the teacher's number is only added; it does not multiply anything that carries gradient")
            .note(self.span(case.rollout), format!("on {}", case.sampler.text()))
            .help(
                "make it a factor, `(student.logp - teacher.logp) * live student.logp`, or differentiate a \
                 divergence",
            );
        self.add(diagnostic);
    }

    /// Reports a sign error: a minus too many, or too few.
    fn report_repelling_term(&mut self, case: &AuditCase, queries: &[Query]) {
        let found: Vec<Option<RepelledFrom>> =
            queries.iter().map(|query| query.repelled_from().unwrap_or_default()).collect();
        let Some(Some(away)) = found.first().cloned() else { return };
        if found.iter().any(|other| other.as_ref() != Some(&away)) {
            return;
        }
        // Beside other terms, a teacher may be meant as a negative example.
        if matches!(away, RepelledFrom::Role(Role::Named { .. })) && case.objective.terms.len() > 1 {
            return;
        }
        let what = match &away {
            RepelledFrom::Role(role) => format!("moves the student away from `{}`", role.name()),
            RepelledFrom::Data => "makes the text that it is trained on less likely".to_owned(),
            RepelledFrom::Reward => "lowers the expected reward".to_owned(),
        };
        let verdict = queries[0].judge(RunPhase::Throughout).verdict.text();
        let diagnostic =
            Diagnostic::warning(Code::WrongSign, self.span(case.term.origin), format!("this term {what}"))
                .label(format!("a term is minimised; this one {verdict}"))
                .note(self.span(case.rollout), format!("on {}", case.sampler.text()))
                .help("turn its sign; if it is meant, say so: `// allow(wrong-sign): why`");
        self.add(diagnostic);
    }

    fn span(&self, origin: Origin) -> Span {
        self.origins[origin.0 as usize]
    }

    /// Adds a diagnostic. Of two with the same code and place, an error replaces a warning.
    fn add(&mut self, diagnostic: Diagnostic) {
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

/// How the mean gradient vanishes in the middle of the run, at its start and at its end, and for any values
/// of numbers that change. `None` if it does not vanish, or that is not known.
fn vanishes(case: &AuditCase) -> Option<Vanishing> {
    let (mut moves, mut silent) = (false, false);
    let at_steps = case.steps().into_iter().map(|step| (step, RunNumbers::AtStep));
    // A number may be 0 at all of these steps and not in between.
    let between = case.view().moves_unseen().then_some((case.steps / 2, RunNumbers::Arbitrary));
    for (step, run) in at_steps.chain(between) {
        let query = case.query_of(case.view(), step, run)?;
        match query.vanishes() {
            // A coefficient that is 0 for some time is intended.
            Ok((true, moved)) => moves |= moved,
            _ => return None,
        }
        silent |= query.may_be_silent();
    }
    match (moves, case.samples.filter) {
        // A mean of 0 over all samples need not be 0 over those that a filter keeps.
        (true, Some(_)) => None,
        (true, None) => Some(Vanishing::Cancels),
        // A condition that never holds in these toy models may hold elsewhere.
        (false, _) => (!silent).then_some(Vanishing::Nothing),
    }
}
