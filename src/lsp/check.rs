//! The check of one text, guarded against panics and with a time limit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mopd_lang::check::{Analysis, Loader, outline};
use mopd_lang::source::SourceFile;

/// Why the analysis of a document has only names and trees.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckFailure {
    /// It took too long.
    Slow,
    /// A bug of ours, with the message of the panic.
    Panic(String),
}

impl CheckFailure {
    pub fn message(&self) -> String {
        match self {
            CheckFailure::Slow => format!(
                "this file is not checked: the check was stopped after {} s\nhelp: `mopd check` has no \
                time limit",
                MOST_TIME.as_secs()
            ),
            CheckFailure::Panic(said) => format!(
                "this file is not checked: a bug in mopd, not in your experiment: {said}\nhelp: please \
                 report it with this text; the next change is checked again"
            ),
        }
    }
}

/// A check that takes longer is cancelled.
pub const MOST_TIME: Duration = Duration::from_secs(5);

/// The result of a check.
pub struct CheckOutcome {
    pub analysis: Analysis,
    pub failure: Option<CheckFailure>,
}

/// Runs a check of a text. A bug in the checker must not end the session, nor lose the names and the tree of
/// the text.
pub fn checked(entry: SourceFile, load: Loader, check: impl FnOnce() -> Analysis) -> CheckOutcome {
    match guarded(check) {
        Ok(analysis) => {
            let failure = analysis.stopped.then_some(CheckFailure::Slow);
            CheckOutcome { analysis, failure }
        }
        Err(said) => {
            let path = entry.path.clone();
            let analysis = guarded(|| outline(entry, load)).unwrap_or_else(|_| Analysis::unread(&path));
            CheckOutcome { analysis, failure: Some(CheckFailure::Panic(said)) }
        }
    }
}

/// The result of some work, or the message of its panic.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let said =
            payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        said.unwrap_or("no message").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use mopd_lang::check::{CancellationCheck, ParseCache, analyse_edited};
    use mopd_lang::source::FileId;

    use super::*;

    fn source(text: &str) -> SourceFile {
        SourceFile { path: "/a.mopd".to_owned(), text: text.to_owned() }
    }

    /// The names that the document itself declares, without those of the library.
    fn declared(analysis: &Analysis) -> Vec<&str> {
        let symbols = analysis.index.ids().map(|id| analysis.index.symbol(id));
        symbols.filter(|symbol| symbol.span.file == FileId(0)).map(|symbol| symbol.name.as_str()).collect()
    }

    #[test]
    fn a_panic_of_the_checker_is_said_and_the_document_keeps_its_names() {
        let found = checked(source("let a = 1\nlet b = a\n"), &|_| None, || panic!("on purpose"));
        let Some(failure @ CheckFailure::Panic(_)) = &found.failure else { panic!("{:?}", found.failure) };
        assert!(
            failure.message().contains("a bug in mopd") && failure.message().contains("on purpose"),
            "{}",
            failure.message()
        );
        assert_eq!(declared(&found.analysis), ["a", "b"]);
        assert!(found.analysis.diagnostics.is_empty());
    }

    /// A text whose check looks at the clock many times.
    fn long() -> String {
        (0..3_000).map(|number| format!("let a{number} = {number} + 1\n")).collect()
    }

    #[test]
    fn a_check_that_is_given_up_has_names_and_no_diagnostics() {
        let text = long() + "let wrong = nowhere\n";
        let stop: CancellationCheck = Rc::new(|| false);
        let check = || analyse_edited(source(&text), &|_| None, &mut ParseCache::default(), Some(stop));
        let found = checked(source(&text), &|_| None, check);
        assert_eq!(found.failure, Some(CheckFailure::Slow));
        assert!(found.analysis.diagnostics.is_empty());
        assert_eq!(declared(&found.analysis).len(), 3_001);
    }
}
