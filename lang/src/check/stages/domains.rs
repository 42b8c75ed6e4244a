//! Checks of objectives that compare the prompt's domain against the domains of the stages that use them.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::formula::{Formula, FormulaKind, Signal};
use mopd_experiment::{DomainId, Train};

use crate::check::declarations::Declarations;

/// A comparison with a domain, and the domains of all stages that contain it.
struct DomainComparison {
    span: Span,
    domain: DomainId,
    name: String,
    trained: Vec<DomainId>,
}

/// Checks that a `match` without `else` has an arm for every prompt of the stage.
pub fn check_domains(declarations: &mut Declarations, train: &Train) -> bool {
    let covered = |part: &Formula| part.0.covered.clone();
    let matches: Vec<Formula> =
        train.formulas().into_iter().flat_map(Formula::parts).filter_map(covered).collect();
    for covered in matches {
        for share in &train.mixture {
            let holds = covered.in_domain(share.domain).constant();
            if holds == Some(1.0) {
                continue;
            }
            let name = &declarations.parts.domain(share.domain).name;
            let text = match holds {
                Some(_) => format!("this `match` has no `else`, and no arm for the domain `{name}`"),
                None => format!(
                    "this `match` has no `else`, and for the domain `{name}` only arms that may not hold"
                ),
            };
            let help = match holds {
                Some(_) => format!("add `domain == {name} -> ...`, or end it with `else -> ...`"),
                None => "end it with `else -> ...`".to_owned(),
            };
            let declared = declarations.span(declarations.parts.domain(share.domain).origin);
            let diagnostic = Diagnostic::error(Code::MissingElse, declarations.span(covered.0.origin), text);
            declarations.report(diagnostic.note(declared, "the stage trains on it").help(help));
            return false;
        }
    }
    true
}

/// Warns of comparisons with a domain that none of the stages trains on. Stages may share an objective.
pub fn check_compared_domains(declarations: &mut Declarations) {
    if declarations.diagnostics.has_errors() {
        return;
    }
    let mut found: Vec<DomainComparison> = Vec::new();
    for train in declarations.parts.trains() {
        let trained = || train.mixture.iter().map(|share| share.domain);
        let parts: Vec<&Formula> = train.formulas().into_iter().flat_map(Formula::parts).collect();
        let covered = parts.iter().filter_map(|part| part.0.covered.as_ref()).flat_map(Formula::parts);
        for part in parts.iter().copied().chain(covered) {
            let FormulaKind::Signal(Signal::DomainIs { domain, name }) = &part.0.kind else { continue };
            let span = declarations.span(part.0.origin);
            match found.iter_mut().find(|known| (known.span, known.domain) == (span, *domain)) {
                Some(known) => known.trained.extend(trained()),
                None => found.push(DomainComparison {
                    span,
                    domain: *domain,
                    name: name.to_string(),
                    trained: trained().collect(),
                }),
            }
        }
    }
    for DomainComparison { span, domain, name, mut trained } in found {
        if trained.contains(&domain) {
            continue;
        }
        trained.sort_unstable();
        trained.dedup();
        let names: Vec<&str> =
            trained.iter().map(|id| declarations.parts.domain(*id).name.as_str()).collect();
        let help = format!("trained on: {}", names.join(", "));
        let text = format!("never true: no stage with this objective is trained on the domain `{name}`");
        declarations.report(Diagnostic::warning(Code::NeverHolds, span, text).help(help));
    }
}
