//! Diagnostics of the audit: terms that teach nothing or the opposite, and misleading losses.

use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_lang::experiment::{Experiment, Objective, Origin, Reward, Stage, Term, Train};
use mopd_lang::formula::{Formula, FormulaKind, Role, text};
use mopd_lang::source::Span;

use super::bounds::{self, Bounds, Culprit, Why};
use super::judge::Query;
use super::range::{self, RunFacts};
use super::sampler::Sampler;
use super::sign::Away;
use super::teachers::Teachers;
use super::toy_model::{RunNumbers, ToyMoment};
use super::verdict::When;
use super::view::{Left, TermView};
use super::{ObjectiveUse, USUAL_STEPS, filter, moments};

/// Diagnostics about the objectives of a sound experiment, as its stages use them. Its [`Origin`]s index
/// `origins`.
pub fn diagnostics(experiment: &Experiment, origins: &[Span]) -> Vec<Diagnostic> {
    diagnostics_while(experiment, origins, &|| true)
}

/// [`diagnostics`], as far as it comes before `go_on` returns false.
pub fn diagnostics_while(
    experiment: &Experiment,
    origins: &[Span],
    go_on: &dyn Fn() -> bool,
) -> Vec<Diagnostic> {
    let mut looking = Looking { experiment, origins, go_on, seen: Vec::new(), found: Vec::new() };
    for model in &experiment.models {
        match &model.stage {
            Stage::Train(train) => looking.at(train),
            Stage::Joint(joint) => joint.steps.iter().for_each(|step| looking.at(&step.train)),
            _ => {}
        }
    }
    looking.found
}

/// A use of an objective, reduced to what decides its diagnostics. Stages of a family share one.
#[derive(PartialEq)]
struct Seen<'a> {
    objective: &'a Objective,
    usage: ObjectiveUse,
    filter: Option<&'a Formula>,
    verdicts: Vec<&'a Reward>,
}

struct Looking<'a> {
    experiment: &'a Experiment,
    origins: &'a [Span],
    go_on: &'a dyn Fn() -> bool,
    seen: Vec<Seen<'a>>,
    found: Vec<Diagnostic>,
}

/// A term on tokens that are sampled in one way, with one kind of teachers.
#[derive(Clone, Copy)]
struct Case<'a, 'b> {
    objective: &'a Objective,
    term: &'a Term,
    left: Left<'a>,
    sampler: &'b Sampler,
    /// For tokens of later passes: the sampler that drew them in the first pass.
    drawn: Option<&'b Sampler>,
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

impl<'a, 'b> Case<'a, 'b> {
    /// Without the filter: it tests what was drawn, and toy models are too small to satisfy it.
    fn view(&self) -> TermView<'a> {
        TermView::of(self.objective, self.term, Left { filter: None, ..self.left })
    }

    fn query_of(&self, view: TermView<'a>, step: u32, run: RunNumbers) -> Option<Query<'a>> {
        let view = match self.drawn {
            Some(drawn) => view.of_policy(drawn),
            None => view,
        };
        let moment = ToyMoment { step: (step, self.steps), run, longest: self.longest };
        Query::of(view, self.sampler, self.teachers, moment).ok()
    }

    fn query(&self, step: u32) -> Option<Query<'a>> {
        self.query_of(self.view(), step, RunNumbers::AtStep)
    }

    /// The case for the tokens of later passes.
    fn later(&self) -> Option<Case<'a, 'b>> {
        let again = self.passes > 1 && matches!(self.sampler, Sampler::Student { .. });
        again.then_some(Case { sampler: &Sampler::LATER_PASSES, drawn: Some(self.sampler), ..*self })
    }

    /// `tokens that the student drew, on prompts that go to now`
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

impl<'a> Looking<'a> {
    fn at(&mut self, train: &'a Train) {
        let usage = ObjectiveUse::of(self.experiment, train);
        let verdicts =
            train.mixture.iter().map(|share| &self.experiment.domain(share.domain).reward).collect();
        let seen = Seen { objective: &train.objective, usage, filter: train.filter.as_ref(), verdicts };
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
            let bounds = Bounds::of(&[filter], &facts(&seen.usage.casts[0]));
            if bounds::never(filter, &bounds) {
                self.never("filter", filter, train.rollout.origin);
            }
        }
        self.silent(&train.objective, &seen.usage, &facts);
        for term in &train.objective.terms {
            let (rollout, left, passes) = match &term.data {
                Some(data) => (data.as_ref(), Left::default(), 1),
                None => (&train.rollout, Left { kept: seen.usage.kept, filter: filter(train) }, passes),
            };
            let own = TermView::of(&train.objective, term, left);
            let casts = &seen.usage.casts
                [..if own.others().contains(&Role::Teacher) { seen.usage.casts.len() } else { 1 }];
            let samplers = Sampler::of(rollout);
            let mut cases: Vec<Case> = Vec::new();
            for sampler in samplers.iter().filter(|sampler| !matches!(sampler, Sampler::Unknown { .. })) {
                for teachers in
                    casts.iter().filter(|teachers| bounds::silent(&own, &facts(teachers)).is_none())
                {
                    let (objective, rollout) = (&train.objective, rollout.origin);
                    let steps = steps.unwrap_or(USUAL_STEPS);
                    let drawn = None;
                    cases.push(Case {
                        objective,
                        term,
                        left,
                        sampler,
                        drawn,
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

    /// Reports terms that can't give any gradient.
    fn silent<'f>(
        &mut self,
        objective: &'a Objective,
        usage: &'f ObjectiveUse,
        facts: &dyn Fn(&'f Teachers) -> RunFacts<'f>,
    ) {
        let silent = |term: &'a Term, teachers: &'f Teachers| {
            bounds::silent(&TermView::of(objective, term, Left::default()), &facts(teachers))
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
            if let Why::Never(name) = culprit.why {
                self.never(name, culprit.part, term.origin);
                continue;
            }
            let (place, literal) = self.place(culprit.part);
            // A coefficient of 0 that is an argument switches one of several terms off.
            if literal && !nothing && matches!(culprit.why, Why::Factor | Why::Weight) {
                continue;
            }
            let whose = if always { String::new() } else { teachers.text() };
            let text = format!("no gradient comes from this term{whose}, whatever is drawn");
            let mut diagnostic = match nothing {
                true => Diagnostic::error(Code::ZeroGradient, place, text),
                false => Diagnostic::warning(Code::ZeroGradient, place, text),
            };
            let part = text::formula(culprit.part, 60);
            diagnostic = diagnostic.label(match culprit.why {
                Why::Same => format!("`{part}` compares a distribution with itself"),
                _ if literal => "this is 0".to_owned(),
                Why::Bounds => format!("`{part}` leaves nothing of what it bounds"),
                _ => format!("`{part}` is 0 throughout"),
            });
            if literal && culprit.why == Why::Bounds {
                diagnostic = diagnostic.note(
                    self.span(culprit.part.0.origin),
                    format!("`{part}` leaves nothing of what it bounds"),
                );
            } else if place != self.span(term.origin) {
                diagnostic = diagnostic.note(self.span(term.origin), "the term");
            }
            self.add(diagnostic.help(match culprit.why {
                Why::Same => {
                    "a teacher that is `self`, as it is now, is the student; with `sees` it reads more, \
                     `self.ema(0.99)` is older"
                }
                Why::Bounds => "give bounds that leave values between them",
                _ => "leave out a term that is not wanted, or give it a factor other than 0",
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

    /// Checks a term on all the tokens that it is trained on; `known` where `cases` has all of them. False
    /// when the time is up.
    fn of_term(&mut self, cases: &[Case], known: bool) -> bool {
        let mut vanishing: Vec<(&Case, Vanishing)> = Vec::new();
        for case in cases {
            if !(self.go_on)() {
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
                // The term matters in later passes.
                Vanishing::Nothing if later => {}
                Vanishing::Cancels if nowhere && !later => self.zero(case),
                Vanishing::Nothing if nowhere => self.nothing(case),
                _ => self.zero_somewhere(case, how, later),
            }
        }
        true
    }

    fn case(&mut self, case: &Case) {
        if matches!(case.sampler, Sampler::Student { .. }) {
            self.misleading(case);
        }
        let filtered = || TermView { left: case.left, ..case.view() };
        let query = |step: u32| case.query_of(filtered(), step, RunNumbers::AtStep);
        let queries: Vec<Query> = case.steps().into_iter().filter_map(query).collect();
        if !queries.is_empty() && queries.iter().all(|query| query.ignores_teacher() == Ok(true)) {
            self.ignores_teacher(case);
        } else {
            self.leads_away(case, &queries);
        }
    }

    /// Reports that no token has a gradient, whatever is drawn.
    fn nothing(&mut self, case: &Case) {
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

    fn zero(&mut self, case: &Case) {
        let text = "the mean gradient of this term is exactly 0, over everything that can be drawn";
        let diagnostic = Diagnostic::error(Code::ZeroGradient, self.span(case.term.origin), text)
            .label("each token pulls, and together they cancel")
            .note(self.span(case.rollout), format!("these are {}", case.sampler.text()))
            .help(
                "multiply by what is known of the token itself, or differentiate a divergence: `live \
                 kl(student || teacher)`",
            );
        self.add(diagnostic);
    }

    /// Reports a gradient that vanishes on some of the tokens only, or in the first pass over them.
    fn zero_somewhere(&mut self, case: &Case, how: Vanishing, later: bool) {
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
            true => ("these are", "later passes do train, for these tokens are an earlier student's then"),
            false => ("some of these are", "the others do train; leave these out where they are not wanted"),
        };
        let diagnostic = Diagnostic::warning(Code::ZeroGradient, self.span(case.term.origin), text)
            .label(label)
            .note(self.span(case.rollout), format!("{which} {}", case.sampler.text()))
            .help(help);
        self.add(diagnostic);
    }

    /// Reports a value that estimates one divergence and a gradient that follows another one, on tokens that
    /// are sampled from the policy that is scored.
    fn misleading(&mut self, case: &Case) {
        let scored_at = case.view().scored_at(case.sampler);
        let drawn_so = case.sampler.is_on_policy(scored_at);
        let plain = Case { sampler: if drawn_so { case.sampler } else { &Sampler::ON_POLICY }, ..*case };
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

    fn ignores_teacher(&mut self, case: &Case) {
        let text = "this term reads a teacher, and its gradient is the same for every teacher";
        let diagnostic = Diagnostic::warning(Code::NoTeacherSignal, self.span(case.term.origin), text)
            .label(
                "what the teacher says is added to something, and multiplies nothing that carries gradient",
            )
            .note(self.span(case.rollout), format!("on {}", case.sampler.text()))
            .help(
                "make it a factor, `(student.logp - teacher.logp) * live student.logp`, or differentiate a \
                 divergence",
            );
        self.add(diagnostic);
    }

    /// Reports a sign error: a minus too many, or too few.
    fn leads_away(&mut self, case: &Case, queries: &[Query]) {
        let found: Vec<Option<Away>> =
            queries.iter().map(|query| query.leads_away().unwrap_or_default()).collect();
        let Some(Some(away)) = found.first().cloned() else { return };
        if found.iter().any(|other| other.as_ref() != Some(&away)) {
            return;
        }
        // Beside another term, a teacher may be there as a negative example.
        if matches!(away, Away::From(Role::Named { .. })) && case.objective.terms.len() > 1 {
            return;
        }
        let what = match &away {
            Away::From(role) => format!("moves the student away from `{}`", role.name()),
            Away::Data => "makes the text that it is trained on less likely".to_owned(),
            Away::Reward => "lowers the expected reward".to_owned(),
        };
        let verdict = queries[0].judge(When::Throughout).verdict.text();
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

    /// Adds a diagnostic; of two with the same code and place, an error replaces a warning.
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

/// How the mean gradient vanishes in the middle of the run, at its start and at its end, and for any number
/// that changes during the run; `None` where it does not, or that is not known.
fn vanishes(case: &Case) -> Option<Vanishing> {
    let (mut moves, mut silent) = (false, false);
    let at_steps = case.steps().into_iter().map(|step| (step, RunNumbers::AtStep));
    // A number may be 0 at all of these steps and not between them.
    let between = case.view().moves_unseen().then_some((case.steps / 2, RunNumbers::Arbitrary));
    for (step, run) in at_steps.chain(between) {
        let query = case.query_of(case.view(), step, run)?;
        match query.vanishes() {
            // A coefficient that is 0 only for a while is intended.
            Ok((true, moved)) => moves |= moved,
            _ => return None,
        }
        silent |= query.may_be_silent();
    }
    match (moves, case.left.filter) {
        // A mean of 0 over all samples need not be 0 over those that a filter keeps.
        (true, Some(_)) => None,
        (true, None) => Some(Vanishing::Cancels),
        // A condition that never holds in these toy models may hold elsewhere.
        (false, _) => (!silent).then_some(Vanishing::Nothing),
    }
}
