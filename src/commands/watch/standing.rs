//! Warnings that stand: each is shown once, not again at every save and every run.

use std::collections::HashSet;

use mopd_lang::Analysis;
use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_plan::events::Event;

/// A warning without its position, which moves with every edit: its code, its message, the text that it
/// marks.
type Warning = (Code, String, String);

#[derive(Default)]
pub struct StandingWarnings {
    /// Of the last valid text.
    of_text: Vec<Warning>,
    /// Of all runs so far.
    of_runs: HashSet<String>,
}

impl StandingWarnings {
    /// The diagnostics of a text; those of a valid one without the warnings that stood in the last valid one.
    pub fn news(&mut self, analysis: &Analysis, clean: bool) -> Vec<Diagnostic> {
        if !clean {
            return analysis.diagnostics.clone();
        }
        let warning = |diagnostic: &Diagnostic| {
            let marked = analysis.sources.text(diagnostic.primary.span).to_owned();
            (diagnostic.code, diagnostic.message.clone(), marked)
        };
        let mut before = std::mem::take(&mut self.of_text);
        self.of_text = analysis.diagnostics.iter().map(warning).collect();
        // Two equal warnings are two.
        let mut stood = |diagnostic: &&Diagnostic| {
            let same = before.iter().position(|earlier| *earlier == warning(diagnostic));
            same.map(|nth| before.swap_remove(nth)).is_some() && diagnostic.severity == Severity::Warning
        };
        analysis.diagnostics.iter().filter(|diagnostic| !stood(diagnostic)).cloned().collect()
    }

    /// Whether an event is a warning that an earlier run gave too.
    pub fn repeats(&mut self, event: &Event) -> bool {
        matches!(event, Event::Warning { message } if !self.of_runs.insert(message.clone()))
    }
}

#[cfg(test)]
mod tests {
    use mopd_lang::source::SourceFile;

    use super::*;

    fn checked(text: &str) -> Analysis {
        mopd_lang::analyse(
            SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() },
            &crate::host::standard,
        )
    }

    const TEXT: &str = "experiment \"a\" { seed = 1 }\nlet spare = 1\n";

    #[test]
    fn a_warning_that_stands_is_shown_once() {
        let mut standing = StandingWarnings::default();
        let mut shown = |text: &str| standing.news(&checked(text), true).len();
        assert_eq!(shown(TEXT), 1);
        assert_eq!(shown(TEXT), 0);
        assert_eq!(shown(&format!("// A note.\n{TEXT}")), 0, "it has moved");
        assert_eq!(shown(&format!("{TEXT}let other = 2\n")), 1, "there is another one");
        assert_eq!(shown("experiment \"a\" { seed = 1 }\n"), 0);
        assert_eq!(shown(TEXT), 1, "it is back");
    }

    #[test]
    fn a_text_that_can_not_run_shows_everything() {
        let mut standing = StandingWarnings::default();
        standing.news(&checked(TEXT), true);
        assert_eq!(standing.news(&checked(TEXT), false).len(), 1);
    }

    #[test]
    fn a_warning_of_runs_is_shown_once() {
        let mut standing = StandingWarnings::default();
        let warning = |message: &str| Event::Warning { message: message.to_owned() };
        let repeats: Vec<bool> = ["a", "a", "b", "a"].map(|text| standing.repeats(&warning(text))).into();
        assert_eq!(repeats, [false, true, false, true]);
    }
}
