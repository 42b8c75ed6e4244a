//! Checks of `agreement(teacher, ...)`, a teacher's continuations from the starts of the student's blocks. It
//! reads the student's own tokens, before any edit of the completion.

use mopd_lang::diag::Diagnostic;
use mopd_plan::{Objective, Producer, Role, Rollout, Scorers};

use super::attempts::why_it_cannot_write;
use crate::lower::refusal::{Origins, refused};

pub fn refusal(
    objective: &Objective,
    rollout: &Rollout,
    scorers: &Scorers,
    origins: Origins,
) -> Option<Diagnostic> {
    let at = origins.span(objective.origin);
    objective.agreements().into_iter().find_map(|agreement| {
        let refuse =
            |of: &str| Some(*refused(at, format!("`agreement({})` {of}", scorers.name(agreement.role))));
        if !matches!(agreement.role, Role::Scorer(_)) {
            return refuse("of the student with itself");
        }
        if agreement.samples == 0 {
            return refuse("with `samples: 0`");
        }
        if let Some(why) = scorers.choices(agreement.role).iter().find_map(why_it_cannot_write) {
            return refuse(why);
        }
        // The rejected tokens of a draft are not a completion.
        if matches!(rollout.producer, Producer::Speculative(_)) {
            return refuse("together with completions that are sampled with drafts");
        }
        None
    })
}
