//! Diagnostics: what is wrong, where, why, and how to fix it. Plain data; the host renders them.

mod codes;
mod fixes;

use std::path::Path;

pub use codes::Code;
pub use fixes::{apply_certain, apply_once};

use crate::source::Span;
use fixes::setting_at_end;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// One diagnostic. `message` is understandable on its own; the first label says what was found, the others
/// why something else was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    pub message: String,
    /// The offending place; its text may be empty.
    pub primary: Label,
    /// Places that explain the first, possibly in other files.
    pub related: Vec<Label>,
    /// How to fix it, in words.
    pub help: Option<String>,
    /// The fix, as an edit.
    pub fix: Option<Fix>,
    /// Several possible fixes, of which a person picks one.
    pub choices: Vec<Fix>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// An edit that an editor can apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    pub title: String,
    pub span: Span,
    pub replacement: String,
    pub applicability: Applicability,
}

/// How sure it is that a fix is what the author meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applicability {
    /// Nothing else can have been meant: `mopd check --fix` applies it.
    Certain,
    /// Likely, such as the nearest name: a person decides.
    Possible,
}

impl Applicability {
    pub fn name(self) -> &'static str {
        match self {
            Applicability::Certain => "certain",
            Applicability::Possible => "possible",
        }
    }
}

impl Diagnostic {
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            primary: Label { span, text: String::new() },
            related: Vec::new(),
            help: None,
            fix: None,
            choices: Vec::new(),
        }
    }

    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// The text of the primary label: what was found.
    pub fn label(mut self, text: impl Into<String>) -> Diagnostic {
        self.primary.text = text.into();
        self
    }

    /// Adds another place that explains this one.
    pub fn note(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.related.push(Label { span, text: text.into() });
        self
    }

    pub fn help(mut self, text: impl Into<String>) -> Diagnostic {
        self.help = Some(text.into());
        self
    }

    /// Replaces the offending text.
    pub fn replace_with(self, title: impl Into<String>, replacement: impl Into<String>) -> Diagnostic {
        let span = self.primary.span;
        self.fix(title, span, replacement)
    }

    /// Sets the fix: an edit beside or around the offending text.
    pub fn fix(mut self, title: impl Into<String>, span: Span, replacement: impl Into<String>) -> Diagnostic {
        let applicability = Applicability::Certain;
        self.fix = Some(Fix { title: title.into(), span, replacement: replacement.into(), applicability });
        self
    }

    /// Adds one of several edits beside or around the offending text.
    pub fn choice(
        mut self,
        title: impl Into<String>,
        span: Span,
        replacement: impl Into<String>,
    ) -> Diagnostic {
        let applicability = Applicability::Possible;
        self.choices.push(Fix { title: title.into(), span, replacement: replacement.into(), applicability });
        self
    }

    /// Adds a choice for each of these settings: it becomes the last setting of a block of `text`.
    pub fn choice_of_settings(self, text: &str, block: Span, settings: &[&str]) -> Diagnostic {
        settings.iter().fold(self, |diagnostic, setting| {
            let (place, added) = setting_at_end(text, block, setting);
            diagnostic.choice(format!("add `{setting}`"), place, added)
        })
    }

    /// Marks the fix as likely, not certain.
    pub fn possibly(mut self) -> Diagnostic {
        if let Some(fix) = &mut self.fix {
            fix.applicability = Applicability::Possible;
        }
        self
    }

    /// `did you mean ...?`, with the offending text replaced. Likely, unless the name differs in case and
    /// underscores only.
    pub fn did_you_mean(self, written: &str, meant: &str) -> Diagnostic {
        let diagnostic =
            self.help(format!("did you mean `{meant}`?")).replace_with(format!("change to `{meant}`"), meant);
        if same_letters(written, meant) { diagnostic } else { diagnostic.possibly() }
    }
}

/// Whether two names differ in case and underscores only: `LONGEST` and `longest`, `batch_size` and
/// `batchSize`.
pub fn same_letters(a: &str, b: &str) -> bool {
    fn letters(name: &str) -> impl Iterator<Item = char> {
        name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase)
    }
    letters(a).eq(letters(b))
}

fn sorted(name: &str) -> Vec<char> {
    let mut letters: Vec<char> = name.chars().collect();
    letters.sort_unstable();
    letters
}

/// The candidate nearest to a mistyped name, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    // Each missing or extra character is an edit; this rules out most names of a long file.
    let possible = |candidate: &&str| {
        candidate.chars().count().abs_diff(length) <= limit || same_letters(candidate, name)
    };
    candidates
        .into_iter()
        .filter(possible)
        .map(|candidate| match same_letters(candidate, name) {
            true => (0, candidate),
            false => (strsim::damerau_levenshtein(name, candidate), candidate),
        })
        // In a short word, another letter makes a different word: `gpu` is no slip for `cpu`, as `tpi` is for
        // `tip`.
        .filter(|(distance, candidate)| {
            *distance == 0
                || length > 3
                || candidate.chars().count() != length
                || sorted(candidate) == sorted(name)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// [`nearest`] for paths. A shared folder and ending do not mean that one path is a slip for the other:
/// `data/by.jsonl` is not meant for `data/of.jsonl`.
pub fn nearest_file<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let meant = |candidate: &&'a str| {
        let (mut ours, mut theirs) = (name, *candidate);
        if let (Some((our_folder, our_name)), Some((their_folder, their_name))) =
            (ours.rsplit_once('/'), theirs.rsplit_once('/'))
            && our_folder == their_folder
        {
            (ours, theirs) = (our_name, their_name);
        }
        while let (Some((our_head, our_end)), Some((their_head, their_end))) =
            (ours.rsplit_once('.'), theirs.rsplit_once('.'))
            && our_end == their_end
        {
            (ours, theirs) = (our_head, their_head);
        }
        nearest(ours, [theirs]).is_some()
    };
    let candidates = candidates.into_iter().filter(meant);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// The help where a file that an experiment names does not exist. `beside` has the names in the folder where
/// it would be.
pub fn missing_file_help(file: &str, beside: &[String]) -> String {
    let path = Path::new(file);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match nearest_file(&name, beside.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{}`?", path.with_file_name(meant).display()),
        None => "paths are relative to the folder of the experiment's file".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest_file;

    #[test]
    fn a_file_is_meant_by_the_part_that_differs() {
        let files = ["of.jsonl", "sort.test.jsonl", "sort.train.jsonl", "readme"];
        for (name, meant) in [
            ("by.jsonl", None),
            ("by.test.jsonl", None),
            ("srot.test.jsonl", Some("sort.test.jsonl")),
            ("sort.tests.jsonl", Some("sort.test.jsonl")),
            ("sort_train.jsonl", Some("sort.train.jsonl")),
            ("sort.test.json", Some("sort.test.jsonl")),
            ("README", Some("readme")),
        ] {
            assert_eq!(nearest_file(name, files), meant, "{name}");
        }
        let folders = ["../models/large-7b", "../models/small-135m"];
        assert_eq!(nearest_file("../models/smal-135m", folders), Some("../models/small-135m"));
        assert_eq!(nearest_file("../models/tiny", folders), None);
    }
}
