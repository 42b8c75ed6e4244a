//! What the audit adds to a check: terms that teach nothing or the opposite, and losses that are not what
//! they seem.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{Experiment, Objective, Origin, Reward, Stage, Term, Train};
use mopd_lang::formula::{Formula, FormulaKind, Role, text};
use mopd_lang::source::Span;

use super::bounds::{self, Bounds, Culprit, Facts, Why};
use super::cast::Cast;
use super::drawn::Drawn;
use super::judge::{Inquiry, Known};
use super::program::View;
use super::sign::Away;
use super::verdict::When;
use super::{Use, moments};

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
    usage: Use,
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
    drawn: &'b Drawn,
    cast: &'b Cast,
    steps: u32,
    /// Where the tokens are asked for.
    rollout: Origin,
}

impl<'a> Case<'a, '_> {
    fn view(&self) -> View<'a> {
        View::of(self.objective, self.term, self.kept)
    }

    fn inquiry(&self, step: u32) -> Option<Inquiry<'a>> {
        Inquiry::of(self.view(), self.drawn, self.cast, (step, self.steps)).ok()
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
        let usage = Use::of(self.experiment, train);
        let verdicts =
            train.mixture.iter().map(|share| &self.experiment.domain(share.domain).reward).collect();
        let seen = Seen {
            objective: &train.objective,
            usage,
            filter: train.filter.as_ref(),
            verdicts,
            longest: bounds::longest(train),
        };
        if self.seen.contains(&seen) {
            return;
        }
        let (steps, longest) = (seen.usage.steps, seen.longest);
        let facts =
            |cast| Facts { cast, steps, reward: bounds::verdicts(seen.verdicts.iter().copied()), longest };
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
            let own = View::of(&train.objective, term, kept);
            let casts = &seen.usage.casts
                [..if own.others().contains(&Role::Teacher) { seen.usage.casts.len() } else { 1 }];
            for drawn in Drawn::of(rollout).iter().filter(|drawn| !matches!(drawn, Drawn::Unknown { .. })) {
                for cast in casts.iter().filter(|cast| bounds::silent(&own, &facts(cast)).is_none()) {
                    if !(self.go_on)() {
                        return;
                    }
                    let (objective, steps, rollout) = (&train.objective, seen.usage.steps, rollout.origin);
                    self.case(
                        &Case { objective, term, kept, drawn, cast, steps, rollout },
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
        usage: &'f Use,
        facts: &dyn Fn(&'f Cast) -> Facts<'f>,
    ) {
        let silent =
            |term: &'a Term, cast: &'f Cast| bounds::silent(&View::of(objective, term, false), &facts(cast));
        let culprits: Vec<Vec<Option<Culprit>>> = objective
            .terms
            .iter()
            .map(|term| usage.casts.iter().map(|cast| silent(term, cast)).collect::<Vec<Option<Culprit>>>())
            .collect();
        let nothing = culprits.iter().flatten().all(Option::is_some);
        for (term, culprits) in objective.terms.iter().zip(culprits) {
            let always = culprits.iter().all(Option::is_some);
            let Some((cast, culprit)) =
                usage.casts.iter().zip(culprits).find_map(|(cast, found)| Some((cast, found?)))
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
            let whose = if always { String::new() } else { cast.text() };
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
            let given = matches!(operand.0.kind, FormulaKind::Number(value) if value == 0.0 || part.operands().len() > 2);
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
        if matches!(case.drawn, Drawn::Student { .. }) {
            self.misleading(case);
        }
        let inquiries: Vec<Inquiry> =
            case.steps().into_iter().filter_map(|step| case.inquiry(step)).collect();
        if !inquiries.is_empty() && inquiries.iter().all(|inquiry| inquiry.ignores_teacher() == Ok(true)) {
            self.ignores_teacher(case);
        } else {
            self.leads_away(case, &inquiries);
        }
    }

    /// The mean gradient is 0 in the middle of the run, at its start and at its end; then whether single
    /// tokens pull at all.
    fn is_zero(&self, case: &Case) -> Option<bool> {
        let (mut moves, mut silent) = (false, false);
        for step in case.steps() {
            let inquiry = case.inquiry(step)?;
            match inquiry.vanishes() {
                // A coefficient that is 0 for a while is a coefficient, and no mistake.
                Ok((true, moved)) => moves |= moved,
                _ => return None,
            }
            silent |= inquiry.may_be_silent();
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
                .label("0 in every small world, for every outcome")
                .help("compare the student with another model"),
        );
    }

    fn zero(&mut self, case: &Case) {
        let text = "the mean gradient of this term is exactly 0, over everything that can be drawn";
        let diagnostic = Diagnostic::error(Code::ZeroGradient, self.span(case.term.origin), text)
            .label("each token pulls, and together they cancel")
            .note(self.span(case.rollout), format!("these are {}", case.drawn.text()))
            .help(
                "multiply by what is known of the token itself, or differentiate a divergence: `live \
                 kl(student || teacher)`",
            );
        self.add(diagnostic);
    }

    /// The value is an estimate of one divergence and the gradient is another one's, on tokens drawn as they
    /// are scored.
    fn misleading(&mut self, case: &Case) {
        let scored_at = case.view().scored_at(case.drawn);
        let drawn_so = case.drawn.is_on_policy(scored_at);
        let plain = Case { drawn: if drawn_so { case.drawn } else { &Drawn::ON_POLICY }, ..*case };
        let Some((value, gradient)) = plain.inquiry(case.steps / 2).and_then(|inquiry| inquiry.misleading())
        else {
            return;
        };
        let text = format!("the value of this term estimates {value}, its gradient is that of {gradient}");
        let mut diagnostic = Diagnostic::warning(Code::OtherGradient, self.span(case.term.origin), text)
            .label("the value of this loss is not what its gradient minimises");
        if !drawn_so {
            let text = format!("so it is at temperature 1; these are {}", case.drawn.text());
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
            .note(self.span(case.rollout), format!("on {}", case.drawn.text()))
            .help(
                "make it a factor, `(student.logp - teacher.logp) * live student.logp`, or differentiate a \
                 divergence",
            );
        self.add(diagnostic);
    }

    /// A minus too many, or too few.
    fn leads_away(&mut self, case: &Case, inquiries: &[Inquiry]) {
        let found: Vec<Option<Away>> =
            inquiries.iter().map(|inquiry| inquiry.leads_away().unwrap_or_default()).collect();
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
        let verdict = inquiries[0].finding(When::Throughout).verdict.text();
        let diagnostic =
            Diagnostic::warning(Code::WrongSign, self.span(case.term.origin), format!("this term {what}"))
                .label(format!("a term is minimised; this one {verdict}"))
                .note(self.span(case.rollout), format!("on {}", case.drawn.text()))
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

impl Inquiry<'_> {
    /// The divergence that the mean value is a multiple of, and the other one that the gradient follows.
    pub(super) fn misleading(&self) -> Option<(String, String)> {
        if !self.is_one_token() {
            return None;
        }
        // The two directions of each, in a few worlds: hardly any term comes as far as being compared with
        // all the others.
        let named = self.candidates();
        let directions = named.iter().take_while(|named| named.name.starts_with("KL(")).count();
        let worlds = self.worlds();
        let first = &worlds[..worlds.len().min(2)];
        self.estimated(&self.within(first).ok()?, &named[..directions], first)?;
        let usual = self.usual().ok()?;
        let value = self.estimated(&usual, &named[..directions], &worlds)?;
        let known = Known::of(&named, &worlds, self.block()).ok()?;
        let gradient = known.single(&usual.gradient)?;
        (gradient != named[value].name).then(|| (named[value].name.clone(), gradient))
    }
}
