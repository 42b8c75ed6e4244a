//! Completions that the data gives.

use mopd_compiler::plan::{Objective, Signal};

use super::sample::judge;
use crate::failure::Result;
use crate::rollout::Sequence;
use crate::tokenizer::Token;
use crate::train::{Source, Stage};

/// Whether what the data gives as completions must be judged too; rollouts always are.
pub(super) fn reads_reward(objective: &Objective) -> bool {
    let signals = objective.graph.signals(&objective.outputs());
    signals.iter().any(|signal| matches!(signal, Signal::Reward | Signal::Correct))
}

/// What the data gives as completions, by source.
pub(in crate::train) fn all_examples(stage: &Stage, field: &str, judged: bool) -> Result<Vec<Vec<Sequence>>> {
    let examples = stage.sources.iter().enumerate().map(|(index, source)| {
        let mut examples = examples(stage, source, index, field)?;
        if judged {
            judge(stage, &mut examples)?;
        }
        Ok(examples)
    });
    examples.collect()
}

pub(super) fn examples(stage: &Stage, source: &Source, index: usize, field: &str) -> Result<Vec<Sequence>> {
    let examples = source.prompts.examples(&stage.start.tokenizer, field)?;
    let mut cut = 0;
    let mut sequence = |record| {
        let (prompt, mut completion, mut written) = examples.get(record);
        let end = source.limit.and_then(|limit| beyond(&written, limit));
        if let Some(end) = end {
            completion.truncate(end);
            written.truncate(end);
            cut += 1;
        }
        Sequence {
            source: index,
            record,
            prompt: prompt.map(<[Token]>::to_vec),
            completion,
            written: written.contains(&false).then_some(written),
            logps: None,
            truncated: end.is_some(),
            reward: None,
            chosen: None,
        }
    };
    let list: Vec<Sequence> = (0..source.prompts.dataset.len()).map(&mut sequence).collect();
    if cut > 0 {
        stage.control.warn(format!(
            "`limits` of the domain `{}` cuts off {cut} of {} completions in the field `{field}`, for `{}`: \
             their ends are not trained on",
            source.name,
            list.len(),
            stage.name
        ));
    }
    Ok(list)
}

/// Where a completion is cut off that has more tokens to be trained on than `limit`.
pub(super) fn beyond(written: &[bool], limit: u32) -> Option<usize> {
    let mut trained = (0..written.len()).filter(|token| written[*token]);
    let last = trained.nth((limit as usize).saturating_sub(1))?;
    trained.next().map(|_| last + 1)
}
