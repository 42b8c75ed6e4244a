//! Speculative decoding (arXiv:2211.17192, algorithm 1): a student drafts some tokens, and a teacher verifies
//! them. The trajectory is distributed as if the teacher had generated it alone.
//!
//! Both models read the trajectory token by token: a drafted token is verified after the accepted tokens
//! before it. The tokens of a draft after its first rejected one do not influence the trajectory, so they are
//! drawn afterwards.

use mopd_plan::Sampling;
use serde::{Deserialize, Serialize};

use super::guided::CombinedWeights;
use super::sampler::{SampledToken, TokenDistribution};
use super::stop::Stop;
use super::{Author, Completion, Extra, GuidanceStep, Guide, MemoryBudget, Prompt, Sequence, rollout};
use crate::control::Control;
use crate::failure::Result;
use crate::model::Decoder;
use crate::random::{Key, Uniforms};
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// The origin of a token of a trajectory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DraftVerdict {
    /// It was drafted, and accepted.
    Stood,
    /// The teacher drew it in place of `draft`, which was rejected.
    Corrected { draft: Token },
    /// The teacher drew it after a draft that was accepted as a whole.
    Added,
}

/// How drafts are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Tokens per draft.
    pub block: u32,
    /// Whether every drafted token is rejected, whatever the teacher's probabilities.
    pub rejects: bool,
}

/// The rejected tail of a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedTail {
    /// Index in the completion of the token that replaces the tail's first one.
    pub at: usize,
    /// From the first rejected token to the end of the draft.
    pub tokens: Vec<Token>,
}

/// Number of accepted tokens of the current draft at the end of `verdicts`.
fn accepted_tokens(verdicts: &[DraftVerdict]) -> usize {
    verdicts.iter().rev().take_while(|verdict| **verdict == DraftVerdict::Stood).count()
}

/// The next token of a trajectory, with its log-probability under the teacher. A drafted token is accepted
/// with probability min(1, p / q), for p the teacher's probability and q the student's; otherwise the teacher
/// draws from the normalised residual max(0, p - q). The result is distributed as p.
pub(super) fn verified(
    own: &TokenDistribution,
    teacher: &TokenDistribution,
    Verification { block, rejects }: Verification,
    verdicts: &[DraftVerdict],
    uniforms: &mut Uniforms,
    residual: &mut CombinedWeights,
) -> Option<SampledToken> {
    let drawn = |entry: usize, verdict: DraftVerdict| SampledToken {
        token: entry as Token,
        logp: teacher.logp(entry),
        verdict: Some(verdict),
    };
    assert_eq!(own.weights.len(), teacher.weights.len(), "both have one tokenizer");
    if accepted_tokens(verdicts) >= block as usize {
        return Some(drawn(teacher.pick(uniforms.uniform())?, DraftVerdict::Added));
    }
    let draft = own.pick(uniforms.uniform())?;
    let [p, q] = [teacher, own].map(|of| of.probability(draft));
    if !rejects && uniforms.uniform() * q < p {
        return Some(drawn(draft, DraftVerdict::Stood));
    }
    let left = |entry: usize| (teacher.probability(entry) - own.probability(entry)).max(0.0) as f32;
    // The residual is 0 where p and q differ by rounding only, or are equal and `rejects` is set.
    let entry = match residual.set((0..teacher.weights.len()).map(left)) {
        0.0 => teacher.pick(uniforms.uniform())?,
        _ => residual.pick(uniforms.uniform())?,
    };
    Some(drawn(entry, DraftVerdict::Corrected { draft: draft as Token }))
}

/// A rejected draft whose remaining tokens are still to be drawn.
struct UnfinishedDraft {
    /// Index into the list of rejected drafts.
    index: usize,
    /// Prompt, trajectory up to the draft's first rejected token, and that token.
    context: Vec<Token>,
    /// Key of its random draws: the id of the prompt, and a number per sample and position.
    id: u32,
    number: u32,
    /// Most tokens that may follow.
    room: u32,
}

/// Samples `sampling.n` completions of every prompt (those of a prompt are adjacent), each with the rejected
/// tails of its drafts.
pub fn speculative(
    [student, teacher]: [&Decoder; 2],
    verification: Verification,
    prompts: &[Prompt],
    sampling: &Sampling,
    key: Key,
    budget: MemoryBudget,
    control: &Control,
) -> Result<Vec<(Completion, Vec<RejectedTail>)>> {
    let guide = Guide { model: teacher, guidance: GuidanceStep::Verify(verification) };
    let author = Author { model: student, guide: Some(guide) };
    let completions = rollout(author, prompts, sampling, key, budget, control)?;
    let n = sampling.n.max(1) as usize;
    let stop = Stop::new(&sampling.stop, &student.tokenizer);
    let (mut rejected, mut open): (Vec<(usize, RejectedTail)>, Vec<UnfinishedDraft>) = Default::default();
    for (index, completion) in completions.iter().enumerate() {
        let prompt = &prompts[index / n];
        let most = sampling.max_tokens(prompt.limit) as usize;
        for (at, verdict) in completion.verdicts.iter().enumerate() {
            let DraftVerdict::Corrected { draft } = *verdict else { continue };
            let left = verification.block as usize - accepted_tokens(&completion.verdicts[..at]);
            let room = left.min(most - at) - 1;
            let before = &completion.tokens[..at];
            if room > 0 && !ends(&[before, &[draft]].concat(), student, &stop)? {
                let sample = prompt.sample + (index % n) as u32;
                open.push(UnfinishedDraft {
                    index: rejected.len(),
                    context: [prompt.tokens, before, &[draft]].concat(),
                    id: prompt.id,
                    // Distinct for each position of each sample.
                    number: sample.wrapping_mul(sampling.max_tokens).wrapping_add(at as u32),
                    room: room as u32,
                });
            }
            rejected.push((index, RejectedTail { at, tokens: vec![draft] }));
        }
    }
    let further: Vec<Prompt> = open
        .iter()
        .map(|UnfinishedDraft { context, id, number, room, .. }| Prompt {
            tokens: context,
            id: *id,
            sample: *number,
            limit: Some(*room),
        })
        .collect();
    if !further.is_empty() {
        // A stop text may begin before the draft, so it is searched for below, in the whole completion.
        let drafting = Sampling { n: 1, stop: Vec::new(), ..sampling.clone() };
        let drafted = rollout(student, &further, &drafting, key.turn(1), budget, control)?;
        for (UnfinishedDraft { index, .. }, drafted) in zip_equal(&open, drafted) {
            let (completion, RejectedTail { at, tokens }) = &mut rejected[*index];
            let before = &completions[*completion].tokens[..*at];
            for token in drafted.tokens {
                tokens.push(token);
                if !sampling.stop.is_empty() && stop.ends(&[before, tokens].concat())? {
                    break;
                }
            }
        }
    }
    let mut rejected = rejected.into_iter().peekable();
    let with_rejected = completions.into_iter().enumerate().map(|(index, completion)| {
        let own = std::iter::from_fn(|| rejected.next_if(|(of, _)| *of == index));
        let own = own.map(|(_, rejected)| rejected).collect();
        (completion, own)
    });
    Ok(with_rejected.collect())
}

/// Whether the last token ends the completion.
fn ends(tokens: &[Token], student: &Decoder, stop: &Stop) -> Result<bool> {
    let last = tokens.last().is_some_and(|last| student.tokenizer.is_end(*last));
    Ok(last || stop.ends(tokens)?)
}

/// The part of a speculatively decoded trajectory that a sequence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speculation {
    /// The trajectory itself.
    Trajectory(DraftCounts),
    /// The rejected tail of a draft. It follows the trajectory up to that point, which is not trained on in
    /// this sequence.
    Rejected,
}

impl Extra for Speculation {
    const NAME: &str = "speculation";
}

impl Speculation {
    /// Whether a sequence is the rejected tail of a draft.
    pub fn is_rejected(sequence: &Sequence) -> bool {
        sequence.extra() == Some(Speculation::Rejected)
    }
}

/// Counts of a completion's drafts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftCounts {
    pub blocks: u32,
    /// Accepted tokens; `rejected` counts the first rejected token of each draft. No other was verified.
    pub stood: u32,
    pub rejected: u32,
}

impl DraftCounts {
    pub fn from_verdicts(verdicts: &[DraftVerdict]) -> DraftCounts {
        let count =
            |is: fn(&DraftVerdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count() as u32;
        let stood = count(|verdict| *verdict == DraftVerdict::Stood);
        let rejected = count(|verdict| matches!(verdict, DraftVerdict::Corrected { .. }));
        // The completion may end inside its last draft.
        let open = u32::from(verdicts.last() == Some(&DraftVerdict::Stood));
        DraftCounts { blocks: verdicts.len() as u32 - stood + open, stood, rejected }
    }
}

#[cfg(test)]
mod tests;
