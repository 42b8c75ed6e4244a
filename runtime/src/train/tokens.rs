//! The token log of a stage: sample sequences with the numbers of each token, and histograms.

use std::collections::BTreeSet;

use mopd_expr::batch::Batch;
use mopd_plan::Live;

use super::objective::Outputs;
use super::scoring::{STUDENT_ENTROPY, STUDENT_LOGP, TEACHER_LOGP};
use super::sequences::Sequences;
use super::stage::{Stage, StageSources};
use crate::report::completions::{LONGEST_PROMPT, without_middle};
use crate::report::tokens::{Histogram, QuantityAxis, TokenLog, TokenQuantity, TokenSeen, TrainedSequence};
use crate::rollout::{Sequence, Speculation};
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;
use crate::zip::zip_equal;

/// The number of steps with samples: the first, the last, and some between at equal distances.
const MOMENTS: u32 = 5;
/// Sequences that are kept of such a step, for each teacher in each domain.
const SEQUENCES: usize = 2;
/// Tokens of a sequence that are kept.
const LENGTH: usize = 256;
/// Tokens of a prompt that are kept, the last ones.
const PROMPT: usize = 1024;

/// Adds the numbers of a step's tokens to the log.
pub fn record(
    stage: &Stage,
    sequences: &Sequences,
    batch: &Batch,
    outputs: &Outputs,
    step: u32,
    tokens: &mut TokenLog,
) {
    let objective = &stage.train.objective;
    let seen = Seen {
        signal: outputs.get(objective.signal),
        weight: objective.weight.map(|node| outputs.get(node)),
        selected: objective.selected.map(|node| outputs.get(node)),
        // With a single live log-probability, the advantage has the sign of -d loss / d logp.
        grad: match objective.live.as_slice() {
            [live] if matches!(live.primitive, Live::Logp | Live::EndLogp) => Some(outputs.get(live.adjoint)),
            _ => None,
        },
        logp: batch.signal(&STUDENT_LOGP),
        teacher_logp: batch.signal(&TEACHER_LOGP),
        entropy: batch.signal(&STUDENT_ENTROPY),
    };
    // Adds all histograms at the first step, and those that were missing where this stage was forked from one
    // with another objective.
    for histogram in histograms(stage.seed, stage.name, &stage.sources, seen.weight.is_some()) {
        let same = |known: &Histogram| {
            (&known.domain, known.quantity, known.over)
                == (&histogram.domain, histogram.quantity, histogram.over)
        };
        if !tokens.histograms.iter().any(same) {
            tokens.histograms.push(histogram);
        }
    }
    let (sources, tokenizer) = (&stage.sources, &*stage.start.tokenizer);
    let chosen = match is_moment(step, stage.steps) {
        true => chosen(sources, tokenizer, sequences, tokens),
        false => BTreeSet::new(),
    };
    // Samples are numbered within a domain.
    let mut numbers = vec![0u32; stage.sources.len()];
    for (index, sequence) in sequences.list.iter().enumerate() {
        let range = sequences.tokens(index);
        let domain = stage.sources[sequence.source].name;
        // The tokens of a rejected draft are after the tokens that it was drafted from.
        let before =
            if Speculation::is_rejected(sequence) { sequence.completion.len() - range.len() } else { 0 };
        for histogram in tokens.histograms.iter_mut().filter(|histogram| histogram.domain == domain) {
            let values = match histogram.quantity {
                TokenQuantity::Signal => Some(seen.signal),
                TokenQuantity::Weight => seen.weight,
            };
            for (position, token) in range.clone().enumerate() {
                let place = match histogram.over {
                    QuantityAxis::Position => Some((before + position) as f64),
                    QuantityAxis::Entropy => seen.entropy.map(|entropies| f64::from(entropies[token])),
                };
                if let (Some(values), Some(place)) = (values, place) {
                    histogram.add(place, f64::from(values[token]));
                }
            }
        }
        if chosen.contains(&index) {
            let number = numbers[sequence.source];
            numbers[sequence.source] += 1;
            let source = &stage.sources[sequence.source];
            let prompt = sequence.prompt(sources);
            tokens.samples.push(TrainedSequence {
                seed: stage.seed,
                stage: stage.name.to_owned(),
                step,
                domain: source.name.to_owned(),
                teacher: source.route.teacher(sequence.record).map(|teacher| teacher.name.clone()),
                sample: number,
                prompt: as_read(tokenizer, prompt),
                prompt_left_out: Some(prompt.len().saturating_sub(PROMPT) as u32),
                prompt_text: user_text(stage, sequence),
                reward: sequence.reward,
                length: range.len() as u32,
                tokens: zip_equal(range.take(LENGTH), texts(&stage.start.tokenizer, sequence))
                    .map(|(token, text)| seen.token(token, text))
                    .collect(),
            });
        }
    }
}

/// The prompt of a chat as the data has it, where the model read that one.
fn user_text(stage: &Stage, sequence: &Sequence) -> Option<String> {
    let data = &stage.sources[sequence.source].prompts.dataset;
    let is_that_one = data.is_chat() && sequence.prompt.is_none();
    is_that_one.then(|| without_middle(data.prompt(sequence.record), LONGEST_PROMPT).0)
}

/// The last [`PROMPT`] tokens of a prompt, as text with special tokens.
fn as_read(tokenizer: &Tokenizer, prompt: &[Token]) -> String {
    tokenizer.as_read(&prompt[prompt.len().saturating_sub(PROMPT)..]).unwrap_or_default()
}

/// The sequences of a step to keep. Prompts that were kept before are preferred, so that their completions
/// can be compared over steps.
fn chosen(
    sources: &StageSources,
    tokenizer: &Tokenizer,
    sequences: &Sequences,
    tokens: &TokenLog,
) -> BTreeSet<usize> {
    let known: BTreeSet<(&str, &str)> =
        (tokens.samples.iter()).map(|sample| (sample.domain.as_str(), sample.prompt.as_str())).collect();
    let list = &sequences.list;
    let mut order: Vec<usize> =
        (0..list.len()).filter(|index| !Speculation::is_rejected(&list[*index])).collect();
    order.sort_by_cached_key(|index| {
        let sequence = &list[*index];
        let domain = sources[sequence.source].name;
        !known.contains(&(domain, as_read(tokenizer, sequence.prompt(sources)).as_str()))
    });
    let mut kept = vec![0; sources.sections().len()];
    let within = |index: &usize| {
        let kept = &mut kept[sources.section_of(&list[*index])];
        *kept += 1;
        *kept <= SEQUENCES
    };
    order.into_iter().filter(within).collect()
}

/// The histograms of each source, source by source.
fn histograms(seed: u64, stage: &str, sources: &StageSources, weighted: bool) -> Vec<Histogram> {
    let quantities: &[TokenQuantity] =
        if weighted { &[TokenQuantity::Weight, TokenQuantity::Signal] } else { &[TokenQuantity::Signal] };
    let mut all = Vec::new();
    for source in sources.iter() {
        for quantity in quantities {
            for over in [QuantityAxis::Position, QuantityAxis::Entropy] {
                all.push(Histogram::new(seed, stage, source.name, *quantity, over));
            }
        }
    }
    all
}

fn is_moment(step: u32, steps: u32) -> bool {
    let last = u64::from(steps.saturating_sub(1));
    (0..MOMENTS).any(|moment| u64::from(step) == last * u64::from(moment) / u64::from(MOMENTS - 1))
}

/// The numbers of the step's tokens, one per token.
struct Seen<'a> {
    signal: &'a [f32],
    weight: Option<&'a [f32]>,
    selected: Option<&'a [f32]>,
    /// d loss / d log-probability
    grad: Option<&'a [f32]>,
    logp: Option<&'a [f32]>,
    teacher_logp: Option<&'a [f32]>,
    entropy: Option<&'a [f32]>,
}

impl Seen<'_> {
    fn token(&self, token: usize, text: String) -> TokenSeen {
        let at = |values: Option<&[f32]>| values.map(|values| values[token]);
        let signal = self.signal[token];
        let sign = |grad: f32| if grad == 0.0 { 0.0 } else { -grad.signum() };
        TokenSeen {
            text,
            logp: at(self.logp),
            teacher_logp: at(self.teacher_logp),
            entropy: at(self.entropy),
            weight: at(self.weight),
            signal,
            advantage: at(self.grad).map(|grad| sign(grad) * signal),
            selected: at(self.selected).map(|selected| selected != 0.0),
        }
    }
}

/// The text that each of the first [`LENGTH`] trained tokens adds.
fn texts(tokenizer: &Tokenizer, sequence: &Sequence) -> Vec<String> {
    let all = &sequence.completion;
    all.trained_indices().take(LENGTH).map(|index| addition(tokenizer, &all[..=index])).collect()
}

/// The text that the last token adds. It is decoded after the tokens before it: some tokenizers decode a
/// token differently at the start of a text, and a character may span several tokens.
fn addition(tokenizer: &Tokenizer, tokens: &[Token]) -> String {
    const BEFORE: usize = 8;
    let tokens = &tokens[tokens.len().saturating_sub(BEFORE)..];
    let text = |tokens: &[Token]| tokenizer.as_read(tokens).unwrap_or_default();
    let (before, whole) = (text(&tokens[..tokens.len() - 1]), text(tokens));
    let added = whole.strip_prefix(before.trim_end_matches('\u{fffd}')).unwrap_or_default();
    added.trim_end_matches('\u{fffd}').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_over_the_stage() {
        let moments = |steps: u32| (0..steps).filter(|step| is_moment(*step, steps)).collect::<Vec<_>>();
        assert_eq!(moments(160), [0, 39, 79, 119, 159]);
        assert_eq!(moments(1), [0]);
        assert_eq!(moments(3), [0, 1, 2]);
    }

    #[test]
    fn additions_put_together_are_the_text() {
        let tokenizer = Tokenizer::Bytes;
        let tokens = tokenizer.encode("sort é</script>\u{202e}!").unwrap();
        let additions: Vec<String> =
            (1..=tokens.len()).map(|count| addition(&tokenizer, &tokens[..count])).collect();
        assert_eq!(additions[0], "s");
        // The first byte of é is no text yet.
        assert_eq!(additions[5], "");
        assert_eq!(additions.concat(), "sort é</script>\u{202e}!");
    }
}
