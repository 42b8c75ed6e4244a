//! Converts edits of completions: `... |> keep(correct) |> retry(until: correct, at_most: 8)`.

use mopd_experiment::{self as checked, Edit, RolloutSource, TemplatePiece, TokensOf};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::producers::{Chosen, PatternPiece, Retry, Rewrite, SampleChoice, Through};
use mopd_plan::views::{Piece, Slot};
use mopd_plan::{Axis, Producer};

use super::OfCompletions;
use crate::lower::executable::template;
use crate::lower::refusal::{Converted, Origins, refused};

/// The completions of `of` after an edit of `rollout`.
pub(super) fn edited(
    of: Producer,
    edit: &Edit,
    rollout: &checked::Rollout,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    let of_sequences =
        |formula: &checked::formula::Formula, what: &str| of_completions(formula, what, Axis::Sequence);
    match edit {
        Edit::Keep { condition } => {
            let choice = SampleChoice::Keep { condition: of_sequences(condition, "a `keep`")? };
            chosen(choice, of, edit.name(), at)
        }
        Edit::Best { by, of: count } => {
            let choice = SampleChoice::Best { by: of_sequences(by, "a `best`")?, count: *count };
            chosen(choice, of, edit.name(), at)
        }
        Edit::Through { command, time_limit_seconds, depends } => {
            editable(edit, rollout, at)?;
            through(of, (command, *time_limit_seconds), depends, at)
        }
        Edit::Retry { until, at_most } => {
            editable(edit, rollout, at)?;
            retry(of, until, *at_most, at, of_completions)
        }
        Edit::Rewrite { from, to } => {
            editable(edit, rollout, at)?;
            rewrite(of, [from, to], at, origins, of_completions)
        }
        // The source has read them; `rollout` refuses them of sources without turns.
        Edit::FirstTurns { .. } | Edit::ExpertTurns { .. } => Ok(of),
    }
}

pub(super) fn edit_name(edit: &checked::Edit) -> String {
    format!("the edit `{}` of a rollout", edit.name())
}

/// The refusal of an edit of a rollout inside `of`, which passes completions on as they were drawn.
pub(super) fn edit_inside(edit: &checked::Edit, of: &str, at: Span) -> Box<Diagnostic> {
    let refusal = *refused(at, format!("the edit `{}` of a rollout inside `{of}`", edit.name()));
    let help = format!(
        "inside `{of}`, completions may be chosen by `keep(...)` and `best(...)`; write other edits behind \
        the rollout of a whole stage, or of a term that has it as its `data`"
    );
    Box::new(refusal.help(help))
}

/// Whether an edit is a choice of completions.
fn is_choice(edit: &Edit) -> bool {
    matches!(edit, Edit::Keep { .. } | Edit::Best { .. })
}

/// Whether an edit is a setting of turns.
pub(super) fn is_of_turns(edit: &Edit) -> bool {
    matches!(edit, Edit::FirstTurns { .. } | Edit::ExpertTurns { .. })
}

/// The edits that are no choice of completions and no setting of the source.
pub(super) fn other_edits(rollout: &checked::Rollout) -> impl Iterator<Item = &checked::Edit> {
    let turns = matches!(rollout.source, RolloutSource::Turns { .. });
    rollout.edits.iter().filter(move |edit| !(is_choice(edit) || turns && is_of_turns(edit)))
}

/// Checks that the texts of a rollout can be edited. A buffer stores completions as drawn, an episode
/// contains the environment's tokens, and a pair has two writers, so none of these can be.
fn editable(edit: &Edit, rollout: &checked::Rollout, at: Span) -> Converted<()> {
    let written = match rollout.source.facts().tokens {
        TokensOf::Student(_)
        | TokensOf::By(..)
        | TokensOf::OfModel
        | TokensOf::Mixture(_)
        | TokensOf::Changed(_) => true,
        TokensOf::Data | TokensOf::Open | TokensOf::Inside | TokensOf::Earlier => false,
    };
    let (edit, source) = (edit.name(), rollout.source.name());
    if written { Ok(()) } else { Err(refused(at, format!("the edit `{edit}` of the rollout `{source}`"))) }
}

/// The completions of `of` that a choice leaves; `edit` is its word.
fn chosen(choice: SampleChoice, of: Producer, edit: &str, at: Span) -> Converted<Producer> {
    if of.once().is_some() {
        return Err(refused(at, format!("the edit `{edit}` of rollouts that are made once")));
    }
    Ok(Chosen { choice, of }.into())
}

/// The rollout `of` with completions edited by a program.
fn through(
    of: Producer,
    (command, time_limit_seconds): (&str, f64),
    depends: &[String],
    at: Span,
) -> Converted<Producer> {
    if matches!(of, Producer::Through(_)) {
        return Err(refused(at, "the edit `through` of a rollout twice"));
    }
    let (command, depends) = (command.to_owned(), depends.to_vec());
    Ok(Through { command, time_limit_seconds, depends, of }.into())
}

/// The most attempts at a completion. Each round of attempts has its own random numbers.
const MOST: u32 = 255;

/// The rollout `of` with retries.
fn retry(
    of: Producer,
    until: &checked::formula::Formula,
    at_most: u32,
    at: Span,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    if of.once().is_some() || of.cached_per_prompt() {
        return Err(refused(at, "the edit `retry` of rollouts that are made once"));
    }
    // A producer that leaves completions out has no index for another attempt.
    if of.kind().may_drop() || of.all().into_iter().any(|inside| matches!(inside, Producer::Chosen(_))) {
        return Err(refused(at, "the edit `retry` behind one that leaves completions out"));
    }
    if of.all().into_iter().any(|inside| matches!(inside, Producer::Retry(_))) {
        return Err(refused(at, "the edit `retry` of a rollout twice"));
    }
    if at_most > MOST {
        return Err(refused(at, format!("the edit `retry` with more than {MOST} attempts")));
    }
    let until = of_completions(until, "a `retry`", Axis::Sequence)?;
    Ok(Retry { until, at_most, of }.into())
}

/// The rollout `of` with rewritten completions.
fn rewrite(
    of: Producer,
    [from, to]: [&checked::Template; 2],
    at: Span,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    if of.once().is_some() || of.cached_per_prompt() {
        return Err(refused(at, "the edit `rewrite` of rollouts that are made once"));
    }
    let pattern = from.pieces.iter().map(|piece| match piece {
        TemplatePiece::Text(text) => PatternPiece::Text(text.clone()),
        TemplatePiece::Anything => PatternPiece::Anything,
        other => unreachable!("{other:?} is not looked for, which the checker has said"),
    });
    let pattern = pattern.collect();
    let text = template::pieces(to, template::TemplateContext::default(), at, origins, &|formula| {
        of_completions(formula, "a number of a `rewrite`", Axis::Sequence)
    })?;
    if let Some(slot) = text.iter().filter_map(Piece::slot).find(|slot| slot.of_completion()) {
        let slot = match slot {
            Slot::Draft => "draft",
            Slot::Feedback => "feedback",
            _ => "group",
        };
        return Err(refused(at, format!("the slot `{{{slot}}}` in the text of a `rewrite`")));
    }
    Ok(Rewrite { pattern, text, of }.into())
}
