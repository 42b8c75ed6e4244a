//! `data(answer)`: completions from the data.

use mopd_plan::producers::Data;

use super::sample::{NumberedDraw, judge};
use super::{Batch, Group, ProducerContext, SequenceProducer};
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::{SegmentedTokens, Sequence};
use crate::tokenizer::Token;
use crate::train::stage::{Source, Texts};

/// Ready-made sequences, by source and record.
pub(super) struct FixedRollouts(pub(super) Vec<Vec<Sequence>>);

pub(super) fn make(data: &Data, context: &ProducerContext) -> Result<FixedRollouts> {
    let ProducerContext { stage, judged, .. } = context;
    let mut examples = all_examples(stage.texts(), &data.field)?;
    // Unlike rollouts, these are judged only if rewards are read.
    if *judged && stage.train.objective.reads_reward() {
        examples.iter_mut().try_for_each(|examples| judge(stage.texts(), examples))?;
    }
    Ok(FixedRollouts(examples))
}

impl SequenceProducer for FixedRollouts {
    fn draw(&self, _: &Batch, draws: &[NumberedDraw], _: Purpose) -> Result<Vec<Group>> {
        Ok(draws
            .iter()
            .map(|NumberedDraw { draw, .. }| vec![self.0[draw.source][draw.record].clone()])
            .collect())
    }

    fn fixed(&self, draw: Draw) -> Vec<&Sequence> {
        vec![&self.0[draw.source][draw.record]]
    }
}

/// The completions in a field of the data, by source.
pub fn all_examples(texts: Texts, field: &str) -> Result<Vec<Vec<Sequence>>> {
    let sources = texts.sources.iter().enumerate();
    sources.map(|(index, source)| examples(texts, source, index, field)).collect()
}

fn examples(texts: Texts, source: &Source, index: usize, field: &str) -> Result<Vec<Sequence>> {
    let examples = source.prompts.examples(texts.tokenizer, field)?;
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
            prompt: prompt.map(<[Token]>::to_vec),
            truncated: end.is_some(),
            ..Sequence::new(index, record, SegmentedTokens::masked(completion, &written))
        }
    };
    let list: Vec<Sequence> = (0..source.prompts.dataset.len()).map(&mut sequence).collect();
    if cut > 0 {
        texts.control.warn(format!(
            "`limits` of the domain `{}` cuts off {cut} of {} completions in the field `{field}`, for `{}`: \
             their ends are not trained on",
            source.name,
            list.len(),
            texts.name
        ));
    }
    Ok(list)
}

/// Where a completion with more than `limit` trained tokens is cut off.
fn beyond(written: &[bool], limit: u32) -> Option<usize> {
    let mut trained = (0..written.len()).filter(|token| written[*token]);
    let last = trained.nth((limit as usize).saturating_sub(1))?;
    trained.next().map(|_| last + 1)
}
