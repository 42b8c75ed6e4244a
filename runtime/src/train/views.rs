//! What stands before the completions where a scorer reads them: the prompts as the student reads them, or
//! what a view makes of their rows. The completions are the same tokens, so that every trained token has its
//! row of logits whatever stands before it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use mopd_compiler::plan::View;
use mopd_compiler::plan::views::Moment;

use super::Stage;
use super::sequences::Sequences;
use crate::data::Lists;
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::rollout::Sequence;
use crate::tokenizer::Token;

/// The prompts of a step's sequences, as one scorer reads them.
pub enum Shown {
    /// As the student does.
    Own,
    /// Of a view that is the same at every step: all rows of each source that has some of the sequences.
    Rows(HashMap<usize, Arc<Lists<Token>>>),
    /// As they are at this step, by source, record and draft.
    Now(HashMap<(usize, usize, Option<String>), Vec<Token>>),
}

impl Shown {
    /// What a scorer that `sees` reads before some of the sequences of a step.
    pub fn new(
        stage: &Stage,
        sees: Option<&View>,
        sequences: &Sequences,
        members: impl Iterator<Item = usize>,
        step: u32,
    ) -> Result<Shown> {
        let read = |member| {
            let Sequence { source, record, draft, .. } = &sequences.list[member];
            (*source, *record, draft.clone())
        };
        Shown::of(stage, sees, members.map(read), step)
    }

    /// What a writer that `sees` reads before completions of drawn prompts.
    pub fn of_draws(
        stage: &Stage,
        sees: Option<&View>,
        draws: impl Iterator<Item = Draw>,
        step: u32,
    ) -> Result<Shown> {
        Shown::of(stage, sees, draws.map(|Draw { source, record }| (source, record, None)), step)
    }

    /// By source, record and draft.
    fn of(
        stage: &Stage,
        sees: Option<&View>,
        members: impl Iterator<Item = (usize, usize, Option<String>)>,
        step: u32,
    ) -> Result<Shown> {
        let Some(view) = sees else { return Ok(Shown::Own) };
        let tokenizer = &stage.start.tokenizer;
        if view.is_fixed() {
            let mut rows = HashMap::new();
            for (source, ..) in members {
                if let Entry::Vacant(place) = rows.entry(source) {
                    place.insert(stage.sources[source].prompts.shown(tokenizer, view)?);
                }
            }
            return Ok(Shown::Rows(rows));
        }
        let moment = Moment::Step { step, steps: stage.steps };
        let mut now = HashMap::new();
        for (source, record, draft) in members {
            assert!(
                draft.is_some() || !view.has_draft(),
                "a template of drafts is read where there are some"
            );
            if let Entry::Vacant(place) = now.entry((source, record, draft)) {
                let prompts = stage.sources[source].prompts;
                let draft = place.key().2.as_deref();
                let tokens = prompts.shown_now(tokenizer, view, moment, record, draft)?;
                place.insert(tokens);
            }
        }
        Ok(Shown::Now(now))
    }

    /// What stands before a completion.
    pub fn prompt<'a>(&'a self, stage: &'a Stage, sequence: &'a Sequence) -> &'a [Token] {
        match self {
            Shown::Own => sequence.prompt(stage),
            Shown::Rows(rows) => rows[&sequence.source].get(sequence.record),
            Shown::Now(now) => &now[&(sequence.source, sequence.record, sequence.draft.clone())],
        }
    }

    /// What stands before the completions of a drawn prompt.
    pub fn of_draw<'a>(&'a self, stage: &'a Stage, Draw { source, record }: Draw) -> &'a [Token] {
        match self {
            Shown::Own => stage.sources[source].tokens.get(record),
            Shown::Rows(rows) => rows[&source].get(record),
            Shown::Now(now) => &now[&(source, record, None)],
        }
    }
}
