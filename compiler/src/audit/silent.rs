//! Diagnostics of what is known without sampling: terms without any gradient, and conditions that never hold.

use mopd_experiment::Origin;
use mopd_experiment::formula::{Formula, FormulaKind, PlainSignal, Signal, text};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::Span;

use super::bounds::{Culprit, ZeroGradientCause};
use super::diagnostics::AuditPass;
use super::domains::AuditedPrompts;
use super::teachers::Teachers;

impl AuditPass<'_> {
    /// Reports terms that can't have any gradient. One that has none only in some domains is meant so, since
    /// it compares them.
    pub(super) fn silent(&mut self, prompts: &[AuditedPrompts]) {
        let objective = prompts[0].objective;
        let of_term = |term: usize| {
            let live = prompts.iter().filter(move |of| of.objective.terms[term].value.live());
            let each = live.flat_map(|of| of.usage.casts.iter().map(move |teachers| (of, teachers)));
            each.map(move |(of, teachers)| (teachers, of.culprit(term, teachers))).collect()
        };
        let found: Vec<Vec<(&Teachers, Option<Culprit>)>> = (0..objective.terms.len()).map(of_term).collect();
        let nothing = found.iter().flatten().all(|(_, culprit)| culprit.is_some());
        for (term, culprits) in objective.terms.iter().zip(found) {
            let always = culprits.iter().all(|(_, culprit)| culprit.is_some());
            if !always && prompts.len() > 1 {
                continue;
            }
            let Some((teachers, culprit)) =
                culprits.into_iter().find_map(|(teachers, found)| Some((teachers, found?)))
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
                    "a teacher that is `self`, as it is now, is the student: let it read more with `sees`, \
                     or compare with another model"
                }
                ZeroGradientCause::Bounds => "give bounds that leave values between them",
                _ => "remove the term, or give it a factor other than 0",
            }));
        }
        if !nothing {
            self.unmoved(prompts);
        }
    }

    /// Reports an objective that can't move the student away from its own copies. They are the same at the
    /// first step, so if no term has a gradient then, none ever has.
    fn unmoved<'f>(&mut self, prompts: &[AuditedPrompts<'f>]) {
        if prompts.iter().any(|of| of.at_first.is_empty()) {
            return;
        }
        let moves = |term: usize, teachers: fn(&AuditedPrompts<'f>) -> &'f [Teachers]| {
            prompts.iter().any(|of| teachers(of).iter().any(|teachers| of.moves(term, teachers)))
        };
        let terms = &prompts[0].objective.terms;
        if (0..terms.len()).any(|term| moves(term, |of| of.at_first)) {
            return;
        }
        for (place, term) in terms.iter().enumerate() {
            // A term without gradient at any step is reported on its own.
            if !moves(place, |of| &of.usage.casts) {
                continue;
            }
            let culprit = prompts.iter().find_map(|of| of.culprit(place, &of.at_first[0]));
            let Some(culprit) = culprit else { continue };
            let (place, _) = self.place(culprit.part);
            let text = "no gradient comes from this term at any step: the student stays where it starts";
            let part = text::formula(culprit.part, 60);
            self.add(
                Diagnostic::warning(Code::ZeroGradient, place, text)
                    .label(format!(
                        "`{part}` compares the student with its own copy, which is the same at the first step"
                    ))
                    .note(self.span(term.origin), "nothing else moves the student")
                    .help(
                        "compare with another model, add a term that moves the student, or let the copy read \
                         more: `self.initial { sees = ... }`",
                    ),
            );
        }
    }

    /// The best place to show for a part that is 0, and whether it is a number given as an argument.
    fn place(&self, part: &Formula) -> (Span, bool) {
        let own = self.span(part.0.origin);
        // `1 - share` with an argument 1.
        let numbers = |part: &Formula| {
            part.operands().iter().all(|operand| matches!(operand.0.kind, FormulaKind::Number(_)))
        };
        let outside = part.operands().into_iter().find_map(|operand| {
            let span = self.span(operand.0.origin);
            let given = match operand.0.kind {
                FormulaKind::Number(value) => value == 0.0 || part.operands().len() > 2 || numbers(part),
                _ => false,
            };
            (given && (span.file != own.file || span.start < own.start || span.end > own.end)).then_some(span)
        });
        (outside.unwrap_or(own), outside.is_some() || matches!(part.0.kind, FormulaKind::Number(_)))
    }

    pub(super) fn never(&mut self, name: &str, condition: &Formula, term: Origin) {
        const PROGRESS: FormulaKind = FormulaKind::Signal(Signal::Plain(PlainSignal::Progress));
        let place = self.span(condition.0.origin);
        let text = format!("`{name}` never holds: nothing is trained on");
        let diagnostic = Diagnostic::error(Code::NeverHolds, place, text)
            .label(format!("`{}` is false whatever is drawn", text::formula(condition, 60)))
            .note(self.span(term), if name == "filter" { "of these" } else { "for this term" })
            .help(match condition.any(|part| part.kind == PROGRESS) {
                true => {
                    "compare with a value that the number can have: `progress` is between 0 and 1, and half \
                     of the run is `50%`"
                }
                false => {
                    "compare with a value that the number can have: a probability is at most 1, an entropy \
                     at least 0"
                }
            });
        self.add(diagnostic);
    }
}
