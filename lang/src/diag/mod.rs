//! Diagnostics: what is wrong, where, why, and how to fix it. Plain data; the host renders them.

mod bounded;
mod codes;
mod fixes;

pub use bounded::{MOST, bounded};
pub use codes::Code;
pub use fixes::{apply_certain, apply_once, compatible};
pub use mopd_experiment::nearest::{folded, missing_file_help, nearest, nearest_file, same_letters};

use crate::source::Span;
use fixes::setting_at_end;

/// A mistake was found and reported, so there is no value. In results of what may be absent without a
/// mistake: `Result<Option<T>, Reported>`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reported;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// How certain a fix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applicability {
    /// Only this can have been meant: `mopd check --fix` applies it.
    Certain,
    /// Likely, such as the nearest name: the author decides.
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

    /// Adds help `did you mean ...?` and a fix that replaces the offending text. The fix is certain only if
    /// the names differ just in case and underscores.
    pub fn did_you_mean(self, written: &str, meant: &str) -> Diagnostic {
        let diagnostic =
            self.help(format!("did you mean `{meant}`?")).replace_with(format!("change to `{meant}`"), meant);
        if same_letters(written, meant) { diagnostic } else { diagnostic.possibly() }
    }
}
