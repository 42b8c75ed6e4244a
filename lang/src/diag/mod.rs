//! Diagnostics: what is wrong, where, why, and the way out. Plain data; rendering belongs to the host.

mod codes;

pub use codes::Code;

use crate::source::Span;

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

/// One finding. `message` stands alone; the first label says what is there, the others why it was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    pub message: String,
    /// The offending place; its text may be empty.
    pub primary: Label,
    /// Places that explain the first, possibly in other files.
    pub related: Vec<Label>,
    /// The way out, in words.
    pub help: Option<String>,
    /// The way out, as an edit.
    pub fix: Option<Fix>,
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
        }
    }

    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// What stands at the offending place.
    pub fn label(mut self, text: impl Into<String>) -> Diagnostic {
        self.primary.text = text.into();
        self
    }

    /// Another place that explains this one.
    pub fn because(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
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

    pub fn fix(mut self, title: impl Into<String>, span: Span, replacement: impl Into<String>) -> Diagnostic {
        self.fix = Some(Fix { title: title.into(), span, replacement: replacement.into() });
        self
    }
}

/// The candidate nearest to a mistyped name, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    let plain = name.replace('_', "");
    // Each character more or less is a step at least; most names of a long file are ruled out by that.
    let possible = |candidate: &&str| {
        candidate.chars().count().abs_diff(length) <= limit || candidate.chars().filter(|c| *c != '_').eq(plain.chars())
    };
    candidates
        .into_iter()
        .filter(possible)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= limit || candidate.replace('_', "") == plain)
        .min()
        .map(|(_, candidate)| candidate)
}
