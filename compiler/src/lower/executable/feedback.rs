//! Converts `feedback = from(peer, max_tokens: 64, sees: critique)`: the text for `{feedback}` in a teacher's
//! template, which another model writes about each completion.

use super::producers::sampling;
use super::template::view;
use crate::lower::refusal::{Origins, role};
use mopd_experiment::formula::Role;
use mopd_experiment::{self as checked, RolloutSource, Slot, TeacherId, Template, TemplatePiece};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::{Feedback, Scorers, View};

use super::{Converted, refused};

/// The model that writes feedback for a teacher, as a teacher declared by name.
pub fn writer(teacher: &checked::Teacher) -> Option<TeacherId> {
    match &teacher.feedback.as_deref()?.source {
        RolloutSource::From { teacher: Role::Named { teacher, .. }, .. } => Some(*teacher),
        _ => None,
    }
}

/// The feedback of a stage for one teacher, in the plan's form.
pub fn executable(
    teacher: &checked::Teacher,
    rollout: &checked::Rollout,
    origins: Origins,
) -> Converted<Feedback> {
    let name = &teacher.name;
    let at = origins.span(teacher.origin);
    if !teacher.sees.as_deref().is_some_and(shows_it) {
        let construct = format!(
            "`feedback` for the teacher `{name}`, whose template has no slot \
            `{{feedback}}`"
        );
        return Err(refused(at, construct));
    }
    let checked::Rollout { source, edits, origin, .. } = rollout;
    let at = origins.span(*origin);
    let RolloutSource::From { teacher: by, sees, sequences: None, sampling: drawn } = source else {
        let help =
            "sample it from a teacher at every step: `feedback = from(big, max_tokens: 64, sees: asked)`";
        let refusal =
            *refused(at, format!("`feedback` for `{name}` by anything but `from(...)` at every step"));
        return Err(Box::new(refusal.help(help)));
    };
    if !edits.is_empty() {
        return Err(refused(at, format!("`feedback` for `{name}` that is edited")));
    }
    if !matches!(by, Role::Named { .. }) {
        let refusal = *refused(at, format!("`feedback` for `{name}` by the role `{}`", by.name()));
        return Err(Box::new(refusal.help("name the teacher that writes it: `from(big, ...)`")));
    }
    if drawn.n != 1 {
        return Err(refused(at, format!("several samples (`n`) of the `feedback` for `{name}`")));
    }
    let sees = sees.as_deref().map(|template| view(template, at, origins)).transpose()?;
    if let Some(view) = sees.as_ref().filter(|view| view.may_lack()) {
        let construct = format!(
            "the slot `{{group}}` in the template `{}` of the model that writes \
                `feedback`",
            view.name
        );
        return Err(refused(at, construct));
    }
    Ok(Feedback {
        name: name.clone(),
        writer: role(by, origins.at(*origin))?,
        sees,
        sampling: sampling(drawn, origins, *origin)?,
    })
}

fn shows_it(template: &Template) -> bool {
    template.pieces.iter().any(|piece| match piece {
        TemplatePiece::Slot(slot) | TemplatePiece::First { slot, .. } | TemplatePiece::Last { slot, .. } => {
            *slot == Slot::Feedback
        }
        TemplatePiece::Text(_) | TemplatePiece::Number(_) | TemplatePiece::Anything => false,
    })
}

/// Checks that the writers of feedback are models that sample tokens and have the student's tokenizer.
pub fn refusal(feedback: &[Feedback], scorers: &Scorers, at: Span) -> Option<Diagnostic> {
    feedback.iter().find_map(|Feedback { name, writer, sees, .. }| {
        let what = |of: &str| Some(*refused(at, format!("`feedback` for `{name}` by a teacher {of}")));
        scorers.choices(*writer).iter().find_map(|choice| {
            let reads = || choice.sees.as_ref().is_some_and(View::of_completions);
            match () {
                _ if choice.teacher.composition().is_some() => what(
                    "that has its own temperature or is \
                    composed of other teachers",
                ),
                _ if choice.own_tokens => what("with another tokenizer"),
                _ if sees.is_none() && reads() => {
                    let help = "give it a template of its own: `feedback = from(..., sees: asked)`";
                    Some(what("whose template shows the outcome of a completion")?.help(help))
                }
                _ => None,
            }
        })
    })
}
