//! A bound on what an analysis reports: a file can have a mistake in every line, and a mistake can quote a
//! name of any length.

use super::{Diagnostic, Severity};

/// The most diagnostics of an analysis, the last of which counts those that are left out.
pub const MOST: usize = 200;

/// The most bytes of a text of a diagnostic.
const LONGEST: usize = 2_000;

/// The first diagnostics of a list, errors before warnings, in the order of the list. If some are left out,
/// the last one says how many, with the place of the first of them.
pub fn bounded(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    if diagnostics.len() > MOST {
        let (errors, warnings): (Vec<usize>, Vec<usize>) =
            (0..diagnostics.len()).partition(|index| diagnostics[*index].severity == Severity::Error);
        let mut by_severity = errors.into_iter().chain(warnings);
        let mut shown = vec![false; diagnostics.len()];
        by_severity.by_ref().take(MOST - 1).for_each(|index| shown[index] = true);
        let last =
            by_severity.next().map(|first| not_shown(&diagnostics[first], diagnostics.len() - (MOST - 1)));
        let mut shown = shown.into_iter();
        diagnostics.retain(|_| shown.next() == Some(true));
        diagnostics.extend(last);
    }
    diagnostics.iter_mut().for_each(shorten);
    diagnostics
}

fn not_shown(first: &Diagnostic, count: usize) -> Diagnostic {
    Diagnostic {
        severity: first.severity,
        ..Diagnostic::error(
            first.code,
            first.primary.span,
            format!("{count} more mistakes are not shown; the first of them: {}", first.message),
        )
        .help("correct the mistakes above first: the others are shown then, as far as they remain")
    }
}

fn shorten(diagnostic: &mut Diagnostic) {
    let Diagnostic { message, primary, related, help, .. } = diagnostic;
    let labels = std::iter::once(primary).chain(related).map(|label| &mut label.text);
    for text in labels.chain([message]).chain(help) {
        if text.len() > LONGEST {
            let end = text.floor_char_boundary(LONGEST);
            text.truncate(end);
            text.push_str(" ...");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Code;
    use crate::source::{FileId, Span};

    fn at(severity: Severity, start: usize) -> Diagnostic {
        let span = Span::new(FileId(0), start, start + 1);
        Diagnostic { severity, ..Diagnostic::error(Code::Syntax, span, format!("mistake {start}")) }
    }

    #[test]
    fn errors_are_shown_before_warnings_and_the_rest_is_counted() {
        let all = |count: usize| (0..count).map(|start| at(Severity::Warning, start)).collect::<Vec<_>>();
        assert_eq!(bounded(all(MOST)), all(MOST));
        let mut many = all(1_000);
        many[900].severity = Severity::Error;
        let shown = bounded(many);
        assert_eq!(shown.len(), MOST);
        assert_eq!(shown[MOST - 2].message, "mistake 900");
        let last = &shown[MOST - 1];
        assert_eq!(last.message, "801 more mistakes are not shown; the first of them: mistake 198");
        assert_eq!((last.severity, last.primary.span.start), (Severity::Warning, 198));
        let errors = (0..1_000).map(|start| at(Severity::Error, start)).collect();
        assert_eq!(bounded(errors).last().map(|last| last.severity), Some(Severity::Error));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let long = Diagnostic { message: "é".repeat(1_500), ..at(Severity::Error, 0) };
        let message = bounded(vec![long]).remove(0).message;
        assert!(message.len() < 2_010 && message.ends_with("é ..."), "{}", message.len());
    }
}
