//! The report of an export: for every construct of a stage whether it is exact, approximate or refused.

use mopd_experiment::Origin;
use serde::Serialize;

/// How well an engine supports a construct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "coverage", rename_all = "snake_case")]
pub enum EngineSupport {
    Exact,
    /// The engine computes something else; `how` says what.
    Approximate {
        how: String,
    },
    /// The engine can't express it, so no files are written.
    Refused {
        why: String,
    },
}

impl EngineSupport {
    pub fn word(&self) -> &'static str {
        match self {
            EngineSupport::Exact => "exact",
            EngineSupport::Approximate { .. } => "approximate",
            EngineSupport::Refused { .. } => "refused",
        }
    }

    /// The text of `how` or `why`.
    pub fn detail(&self) -> Option<&str> {
        match self {
            EngineSupport::Exact => None,
            EngineSupport::Approximate { how } => Some(how),
            EngineSupport::Refused { why } => Some(why),
        }
    }
}

/// The verdict on one construct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageLine {
    pub construct: String,
    pub verdict: EngineSupport,
    /// The construct in the source, or the stage that it belongs to.
    pub origin: Origin,
}

/// The report for one stage and one engine, in the order of the stage's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub lines: Vec<CoverageLine>,
}

impl Coverage {
    pub fn exact(&mut self, construct: impl Into<String>, origin: Origin) {
        self.add(construct, origin, EngineSupport::Exact);
    }

    pub fn approximate(&mut self, construct: impl Into<String>, origin: Origin, how: impl Into<String>) {
        self.add(construct, origin, EngineSupport::Approximate { how: how.into() });
    }

    pub fn refuse(&mut self, construct: impl Into<String>, origin: Origin, why: impl Into<String>) {
        self.add(construct, origin, EngineSupport::Refused { why: why.into() });
    }

    fn add(&mut self, construct: impl Into<String>, origin: Origin, verdict: EngineSupport) {
        let line = CoverageLine { construct: construct.into(), verdict, origin };
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    pub fn refused(&self) -> impl Iterator<Item = &CoverageLine> {
        self.lines.iter().filter(|line| matches!(line.verdict, EngineSupport::Refused { .. }))
    }

    /// The worst verdict of its lines, as a word.
    pub fn whole(&self) -> &'static str {
        let has = |word: &str| self.lines.iter().any(|line| line.verdict.word() == word);
        ["refused", "approximate"].into_iter().find(|word| has(word)).unwrap_or("exact")
    }
}
