//! Which scorer scores which sequences of a step.

use std::ops::Range;

use mopd_plan::Role;
use mopd_plan::events::FailureKind;

use super::context::Scoring;
use crate::failure::{Error, Result};
use crate::train::batches::no_teacher;
use crate::train::models::ScorerRef;
use crate::train::sequences::Sequences;
use crate::train::stage::Source;

/// Consecutive sequences that have the same scorer for a role.
pub struct ScoringRun {
    /// `None` where no scorer has the role.
    pub scored: Option<ScorerRef>,
    pub sources: Range<usize>,
    pub members: Range<usize>,
    /// The range of their completion tokens among those of the step.
    pub tokens: Range<usize>,
}

/// The runs of a role. Sequences of a section are adjacent, so the concatenated runs have the order of the
/// batch. Consecutive sections with one model are one run: that is less work, and a model that equals the
/// student then computes the student's own batch, with the same bits.
pub fn runs(scoring: &Scoring, role: Role, sequences: &Sequences) -> Result<Vec<ScoringRun>> {
    let Scoring { stage, models, .. } = *scoring;
    let all = stage.sources.sections();
    let mut runs = Vec::new();
    let mut first = 0;
    for run in models.of_role(role).chunk_by(|one, next| one == next) {
        let sections = first..first + run.len();
        first = sections.end;
        let members = sequences.of_sections(&stage.sources, sections.clone());
        let Some(sequence) = sequences.list[members.clone()].first() else { continue };
        let source = &stage.sources[sequence.source];
        let sources = all[sections.start].source..all[sections.end - 1].source + 1;
        // A role that the objective does not read is only a part of compositions, on the prompts they score.
        let asked = matches!(role, Role::TEACHER | Role::REFERENCE) || stage.train.objective.reads(role);
        if run[0].is_none() && asked {
            return Err(missing_scorer(scoring, role, source));
        }
        let tokens = sequences.tokens(members.start).start..sequences.tokens(members.end - 1).end;
        runs.push(ScoringRun { scored: run[0], sources, members, tokens });
    }
    Ok(runs)
}

/// The error for a domain that has no scorer for a role.
pub fn missing_scorer(scoring: &Scoring, role: Role, source: &Source) -> Error {
    match role {
        Role::TEACHER => no_teacher(source),
        _ => {
            let name = scoring.stage.train.scorers.name(role);
            Error::new(FailureKind::Runtime, format!("the domain `{}` has no {name}", source.name))
        }
    }
}
