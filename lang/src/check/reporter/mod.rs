//! What every check can do: read the texts of the files, name a place, and report a diagnostic.

pub mod frames;
pub mod reported;

use rustc_hash::FxHashMap;

use crate::diag::Diagnostic;
use crate::source::{Sources, Span};
use mopd_experiment::Origin;

use crate::check::reporter::frames::Frame;
use crate::check::reporter::reported::ReportedDiagnostics;

/// The texts of the files, the places that origins index, and the diagnostics so far.
#[derive(Default)]
pub struct Reporter {
    pub sources: Sources,
    pub diagnostics: ReportedDiagnostics,
    /// The calls under evaluation, with the arguments of their callers.
    pub frames: Vec<Frame>,
    pub origins: Vec<Span>,
    known_origins: FxHashMap<Span, Origin>,
}

impl Reporter {
    pub fn new(sources: Sources, diagnostics: ReportedDiagnostics) -> Reporter {
        Reporter { sources, diagnostics, ..Reporter::default() }
    }

    pub fn report(&mut self, diagnostic: Diagnostic) {
        let diagnostic = self.at_the_call(diagnostic);
        self.forget_at_calls(&diagnostic);
        self.diagnostics.add(diagnostic);
    }

    pub fn origin(&mut self, span: Span) -> Origin {
        let origins = &mut self.origins;
        *self.known_origins.entry(span).or_insert_with(|| {
            origins.push(span);
            Origin(origins.len() as u32 - 1)
        })
    }

    pub fn span(&self, origin: Origin) -> Span {
        self.origins[origin.0 as usize]
    }

    /// The name of the setting or argument in front of a value: `steps` in `steps = 100` and in `steps: 100`.
    pub fn key_before(&self, span: Span) -> Option<&str> {
        let before = self.sources.file(span.file).text[..span.start as usize].trim_end();
        let before = before.strip_suffix(['=', ':'])?.trim_end();
        let start = before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len();
        Some(&before[start..]).filter(|key| !key.is_empty())
    }
}
