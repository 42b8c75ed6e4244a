//! What the audit adds to a check: terms that teach nothing or the opposite, and losses that are not what
//! they seem.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{Experiment, Objective, Origin, Reward, Stage, Term, Train};
use mopd_lang::formula::{Formula, FormulaKind, Role, text};
use mopd_lang::source::Span;

use super::bounds::{self, Bounds, Culprit, Why};
use super::judge::Query;
use super::known::KnownGradients;
use super::range::{self, RunFacts};
use super::sampler::Sampler;
use super::sign::Away;
use super::teachers::Teachers;
use super::verdict::When;
use super::view::TermView;
use super::{ObjectiveUse, moments};

/// Diagnostics about the objectives of a sound experiment, as its stages use them. `origins` is what its
/// [`Origin`]s point into.
pub fn diagnostics(experiment: &Experiment, origins: &[Span]) -> Vec<Diagnostic> {
    diagnostics_while(experiment, origins, &|| true)
}

/// The same, as far as it comes until `go_on` says no.
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

/// A use of an objective, as far as it decides what is found. Families of stages share theirs.
#[derive(PartialEq)]
struct Seen<'a> {
    objective: &'a Objective,
    usage: ObjectiveUse,
    filter: Option<&'a Formula>,
    verdicts: Vec<&'a Reward>,
    /// Tokens of a completion at most.
    longest: f64,
}

struct Looking<'a> {
    experiment: &'a Experiment,
    origins: &'a [Span],
    go_on: &'a dyn Fn() -> bool,
    seen: Vec<Seen<'a>>,
    found: Vec<Diagnostic>,
}

/// A term on tokens that are drawn in one way, with teachers of one kind.
struct Case<'a, 'b> {
    objective: &'a Objective,
    term: &'a Term,
    kept: bool,
    sampler: &'b Sampler,
    teachers: &'b Teachers,
    steps: u32,
    /// Where the tokens are asked for.
    rollout: Origin,
}

impl<'a> Case<'a, '_> {
    fn view(&self) -> TermView<'a> {
        TermView::of(self.objective, self.term, self.kept)
    }

    fn query(&self, step: u32) -> Option<Query<'a>> {
        Query::of(self.view(), self.sampler, self.teachers, (step, self.steps)).ok()
    }

    /// The middle of the run first.
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
        let seen = Seen {
            objective: &train.objective,
            usage,
            filter: train.filter.as_ref(),
            verdicts,
            longest: range::longest(train),
        };
        if self.seen.contains(&seen) {
            return;
        }
        let (steps, longest) = (seen.usage.steps, seen.longest);
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
            let (rollout, kept) = match &term.data {
                Some(data) => (data.as_ref(), false),
                None => (&train.rollout, seen.usage.kept),
            };
            let own = TermView::of(&train.objective, term, kept);
            let casts = &seen.usage.casts
                [..if own.others().contains(&Role::Teacher) { seen.usage.casts.len() } else { 1 }];
            for sampler in
                Sampler::of(rollout).iter().filter(|sampler| !matches!(sampler, Sampler::Unknown { .. }))
            {
                for teachers in
                    casts.iter().filter(|teachers| bounds::silent(&own, &facts(teachers)).is_none())
                {
                    if !(self.go_on)() {
                        return;
                    }
                    let (objective, steps, rollout) = (&train.objective, seen.usage.steps, rollout.origin);
                    self.case(
                        &Case { objective, term, kept, sampler, teachers, steps, rollout },
                        train.filter.is_some(),
                    );
                }
            }
        }
        self.seen.push(seen);
    }

    /// Terms that no gradient can come from.
    fn silent<'f>(
        &mut self,
        objective: &'a Objective,
        usage: &'f ObjectiveUse,
        facts: &dyn Fn(&'f Teachers) -> RunFacts<'f>,
    ) {
        let silent = |term: &'a Term, teachers: &'f Teachers| {
            bounds::silent(&TermView::of(objective, term, false), &facts(teachers))
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
            // A coefficient of 0 that was given from outside switches one of several terms off.
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

    /// Where a part that is 0 is best shown, and whether that is a number given from elsewhere.
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

    fn case(&mut self, case: &Case, filtered: bool) {
        // A filter looks at what was drawn: what is 0 on average need not be so among what is left.
        match self.is_zero(case) {
            Some(true) if !filtered => return self.zero(case),
            Some(false) => return self.nothing(case),
            _ => {}
        }
        if matches!(case.sampler, Sampler::Student { .. }) {
            self.misleading(case);
        }
        let queries: Vec<Query> = case.steps().into_iter().filter_map(|step| case.query(step)).collect();
        if !queries.is_empty() && queries.iter().all(|query| query.ignores_teacher() == Ok(true)) {
            self.ignores_teacher(case);
        } else {
            self.leads_away(case, &queries);
        }
    }

    /// The mean gradient is 0 in the middle of the run, at its start and at its end; then whether single
    /// tokens pull at all.
    fn is_zero(&self, case: &Case) -> Option<bool> {
        let (mut moves, mut silent) = (false, false);
        for step in case.steps() {
            let query = case.query(step)?;
            match query.vanishes() {
                // A coefficient that is 0 for a while is a coefficient, and no mistake.
                Ok((true, moved)) => moves |= moved,
                _ => return None,
            }
            silent |= query.may_be_silent();
        }
        // A condition that nothing meets here may hold elsewhere.
        (moves || !silent).then_some(moves)
    }

    /// No token pulls, whatever is drawn.
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

    /// The value is an estimate of one divergence and the gradient is another one's, on tokens drawn as they
    /// are scored.
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

    /// A minus too many, or too few.
    fn leads_away(&mut self, case: &Case, queries: &[Query]) {
        let found: Vec<Option<Away>> =
            queries.iter().map(|query| query.leads_away().unwrap_or_default()).collect();
        let Some(Some(away)) = found.first().cloned() else { return };
        if found.iter().any(|other| other.as_ref() != Some(&away)) {
            return;
        }
        // Beside another term, one teacher may be there to keep a distance from.
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

    fn add(&mut self, diagnostic: Diagnostic) {
        if !self
            .found
            .iter()
            .any(|known| known.code == diagnostic.code && known.primary == diagnostic.primary)
        {
            self.found.push(diagnostic);
        }
    }
}

impl Query<'_> {
    /// The divergence that the mean value is a multiple of, and the other one that the gradient follows.
    pub(super) fn misleading(&self) -> Option<(String, String)> {
        if !self.is_one_token() {
            return None;
        }
        // The two directions of each, in a few toy models: hardly any term comes as far as being compared
        // with all the others.
        let named = self.candidates();
        let directions = named.iter().take_while(|named| named.name.starts_with("KL(")).count();
        let toys = self.toys();
        let first = &toys[..toys.len().min(2)];
        self.estimated(&self.within(first).ok()?, &named[..directions], first)?;
        let usual = self.usual().ok()?;
        let value = self.estimated(&usual, &named[..directions], &toys)?;
        let known = KnownGradients::of(&named, &toys, self.block()).ok()?;
        let gradient = known.multiple_of(&usual.gradient)?;
        (gradient != named[value].name).then(|| (named[value].name.clone(), gradient))
    }
}
