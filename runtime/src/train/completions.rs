//! What is known of completions before any model scores them: their text, and formulas of their rewards and
//! lengths.

use mopd_expr::batch::Batch;
use mopd_expr::graph::Operation;
use mopd_expr::interpret::{interpret, interpret_exact};
use mopd_plan::events::FailureKind;
use mopd_plan::{DataFormula, Formula, Objective, PlainSignal, Signal, StageStep, Train};

use super::objective::missing;
use super::sequences::{Group, Sequences};
use super::stage::StageSources;
use crate::failure::{Error, Result};
use crate::rollout::Sequence;
use crate::tokenizer::{Token, Tokenizer};

/// The value of a formula of rewards and lengths for each group.
pub fn of_groups(
    formula: &Formula,
    groups: &[Group],
    domains: usize,
    step: StageStep,
    what: &str,
) -> Result<Vec<f64>> {
    let sequences = Sequences::of_groups(groups.to_vec(), domains);
    of_completions(formula, &sequences, Vec::new(), step, what)
}

/// The same for each element of the formula's axis, with further signals in `known`.
pub fn of_completions(
    formula: &Formula,
    sequences: &Sequences,
    known: Vec<(Signal, Vec<f32>)>,
    step: StageStep,
    what: &str,
) -> Result<Vec<f64>> {
    let mut batch = judged(sequences, step);
    batch.signals.extend(known);
    value_of(formula, &batch, what)
}

/// The signals of completions that are known before any model scores them.
pub fn judged(sequences: &Sequences, step: StageStep) -> Batch {
    let list = &sequences.list;
    let rewards = list.iter().map(|sequence| sequence.reward.unwrap_or(0.0) as f32).collect();
    let truncated = list.iter().map(|sequence| f32::from(u8::from(sequence.truncated))).collect();
    let mut signals = vec![
        (Signal::Plain(PlainSignal::Reward), rewards),
        (Signal::Plain(PlainSignal::Truncated), truncated),
    ];
    // Only parts of the reward that every judged completion has.
    for (part, _) in list
        .iter()
        .find(|sequence| !sequence.reward_parts.is_empty())
        .iter()
        .flat_map(|sequence| &sequence.reward_parts)
    {
        let of = |sequence: &Sequence| match sequence.reward {
            None => Some(0.0),
            Some(_) => sequence.reward_part(part).map(|reward| reward as f32),
        };
        let values: Option<Vec<f32>> = list.iter().map(of).collect();
        signals.extend(values.map(|values| (Signal::RewardPart { part: part.clone() }, values)));
    }
    let StageStep { step, steps } = step;
    Batch { layout: sequences.layout.clone(), signals, step, steps, ..Batch::default() }
}

/// The signals that the stage reads from columns of the data, for rows by source and record.
pub fn of_rows(
    train: &Train<Objective>,
    sources: &StageSources,
    rows: &[(usize, usize)],
) -> Result<Vec<(Signal, Vec<f32>)>> {
    let values = |(signal, formula): (Signal, DataFormula)| {
        let of_sources = sources.iter().map(|source| source.prompts.dataset.numbers(&formula));
        let numbers: Option<Vec<&[f32]>> = of_sources.collect();
        let numbers = numbers.ok_or_else(|| {
            missing(&formula.text(), "the data was read without this field", &train.objective)
        })?;
        Ok((signal, rows.iter().map(|(source, record)| numbers[*source][*record]).collect()))
    };
    train.data_signals().into_iter().map(values).collect()
}

/// The value for each element of the formula's axis.
pub fn value_of(formula: &Formula, batch: &Batch, what: &str) -> Result<Vec<f64>> {
    let values = interpret(&formula.graph, &[formula.value], batch)
        .map_err(|error| Error::new(FailureKind::Runtime, format!("{what}: {error}")))?;
    Ok(values.get(formula.value).to_vec())
}

/// [`value_of`] a formula that compares numbers of rows and states with others. Both are in single precision,
/// and count as the decimals that they are written as: 0.7 is not below 0.7.
pub fn value_as_written(formula: &Formula, batch: &Batch, what: &str) -> Result<Vec<f64>> {
    let decimals = |values: &[f32]| -> Vec<f64> {
        values.iter().map(|value| value.to_string().parse().unwrap_or(f64::from(*value))).collect()
    };
    let written = formula.graph.nodes().filter_map(|(id, node)| match &node.operation {
        Operation::Signal { signal } if signal.is_of_prompt() => Some((id, decimals(batch.signal(signal)?))),
        _ => None,
    });
    let values = interpret_exact(&formula.graph, &[formula.value], batch, &written.collect())
        .map_err(|error| Error::new(FailureKind::Runtime, format!("{what}: {error}")))?;
    Ok(values.get(formula.value).to_vec())
}

/// A completion as text of at most `most` tokens: decoding bytes that form no characters can add tokens.
pub fn text_of_at_most(tokenizer: &Tokenizer, tokens: &[Token], most: usize) -> Result<String> {
    let mut text = tokenizer.decode(tokens)?;
    loop {
        let beyond = tokenizer.encode(&text)?.len().saturating_sub(most);
        if beyond == 0 {
            return Ok(text);
        }
        // A character has at most four bytes.
        (0..beyond.div_ceil(4)).for_each(|_| {
            text.pop();
        });
    }
}
