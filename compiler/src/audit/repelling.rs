//! Diagnostics of terms that lead the wrong way.

use mopd_experiment::formula::{FormulaKind, FormulaNode, Role, Signal, text};
use mopd_experiment::{TeacherWeights, Term};
use mopd_lang::diag::{Code, Diagnostic};

use super::case::AuditCase;
use super::diagnostics::AuditPass;
use super::judge::Query;
use super::sign::{RepelledFrom, is_verdict, judges};
use super::verdict::RunPhase;
use super::view::{SampleFilter, TermView};

/// A term that leads away from a target on the tokens of a case, and its verdict there.
pub(super) struct RepellingTerm<'c, 'x, 'y> {
    pub case: &'c AuditCase<'x, 'y>,
    pub away: RepelledFrom,
    pub verdict: String,
}

impl AuditPass<'_> {
    /// Finds a sign error: a minus too many, or too few.
    pub(super) fn repelling_term<'c, 'x, 'y>(
        &self,
        case: &'c AuditCase<'x, 'y>,
        queries: &[Query],
    ) -> Option<RepellingTerm<'c, 'x, 'y>> {
        let found: Vec<Option<RepelledFrom>> =
            queries.iter().map(|query| query.repelled_from().unwrap_or_default()).collect();
        let away = found.first().cloned().flatten()?;
        if found.iter().any(|other| other.as_ref() != Some(&away)) {
            return None;
        }
        // Beside a term that teaches something else, a teacher may be meant as a negative example.
        if let RepelledFrom::Role(role @ Role::Named { .. }) = &away {
            let others = case.objective.terms.iter().filter(|other| other.origin != case.term.origin);
            if { others }.any(|other| self.teaches(other, role, case)) {
                return None;
            }
        }
        let verdict = queries[0].judge(RunPhase::Throughout).verdict.text();
        Some(RepellingTerm { case, away, verdict })
    }

    /// Whether a term teaches anything other than to stay near the start or a copy of the student.
    fn teaches(&self, term: &Term, repelling: &Role, case: &AuditCase) -> bool {
        let judged = |signal: &Signal| is_verdict(signal) || judges(signal);
        let reads = |node: &FormulaNode| matches!(&node.kind, FormulaKind::Signal(signal) if judged(signal));
        let formulas = || term.when.iter().chain(&term.weight).chain(std::iter::once(&term.value));
        if term.data.is_some() || formulas().any(|formula| formula.any(reads)) {
            return true;
        }
        TermView::new(case.objective, term, SampleFilter::default()).roles_of_value().iter().any(|role| {
            role != repelling
                && match role {
                    Role::Named { teacher, .. } => match &self.experiment.teacher(*teacher).weights {
                        TeacherWeights::Student(_) => false,
                        TeacherWeights::Model(model) => *model != case.start,
                        _ => true,
                    },
                    // The routed teacher may be the very one.
                    Role::Teacher => !matches!(repelling, Role::Named { teacher, .. }
                        if case.routed == Some(*teacher)),
                    _ => false,
                }
        })
    }

    /// Reports the sign errors of one term, once for each target; `everywhere`: for all of its prompts.
    pub(super) fn report_repelling(&mut self, found: &[RepellingTerm], everywhere: bool) {
        for (place, RepellingTerm { case, away, verdict }) in found.iter().enumerate() {
            if found[..place].iter().any(|known| known.away == *away) {
                continue;
            }
            let what = match away {
                RepelledFrom::Role(role) => format!("moves the student away from `{}`", role.name()),
                RepelledFrom::Data => "makes the text that it is trained on less likely".to_owned(),
                RepelledFrom::Reward => "lowers the expected reward".to_owned(),
            };
            let same = found.iter().filter(|other| other.away == *away);
            let mut prompts: Vec<&str> = same.filter_map(|other| other.case.prompts).collect();
            prompts.dedup();
            let on = match everywhere || prompts.is_empty() {
                true => String::new(),
                false => format!(" on {}", prompts.join(" and ")),
            };
            let text = format!("this term {what}{on}");
            let diagnostic = Diagnostic::warning(Code::WrongSign, self.span(case.term.origin), text)
                .label(format!("a term is minimised; this one {verdict}"))
                .note(self.span(case.rollout), format!("on {}", case.on()))
                .help("flip its sign; if it is meant, say so: `// allow(wrong-sign): why`");
            self.add(diagnostic);
        }
    }

    /// Reports a weight `1 - entropy`: it is negative wherever the entropy, which has no upper bound, is
    /// larger.
    pub(super) fn negative_weight(&mut self, case: &AuditCase) {
        let Some((weight, number, bound)) = case.view().weight_that_turns() else { return };
        let text = format!(
            "this weight is negative where `{}` is above {}: there, the term leads the other way",
            text::formula(number, 40),
            text::number(bound)
        );
        let diagnostic = Diagnostic::warning(Code::WrongSign, self.span(weight.0.origin), text)
            .label("in nats, which have no upper bound")
            .note(self.span(case.term.origin), "the term")
            .help(
                "divide by the largest value, `1 - student.entropy / log(vocab_size)`, or bound it below: \
                 `max(..., 0)`",
            );
        self.add(diagnostic);
    }
}
