//! Completions of drawn prompts, and their rewards.

use mopd_plan::{Sampling, View};

use super::{Batch, Group};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::random::{Key, Purpose};
use crate::reward::{Judgement, RewardInput};
use crate::rollout::{Author, Completion, Prompt, Sequence, rollout, rollout_saving};
use crate::tokenizer::Token;
use crate::train::stage::{StageSources, Texts};
use crate::train::views::{ScorerPrompts, VerifierFeedback};
use crate::zip::zip_equal;

/// A drawn prompt, and its number in the step, by which its random numbers are keyed.
#[derive(Clone, Copy)]
pub(super) struct NumberedDraw {
    pub(super) number: u32,
    pub(super) draw: Draw,
}

impl NumberedDraw {
    /// The section of a draw that is a prompt. Draws of rollouts written before the first step are not.
    pub(super) fn section(&self, sources: &StageSources) -> usize {
        sources.section(self.draw.source, self.draw.record)
    }
}

/// Draws with consecutive numbers from `first`.
pub(super) fn numbered(draws: &[Draw], first: usize) -> Vec<NumberedDraw> {
    let number = |(place, draw): (usize, &Draw)| NumberedDraw { number: (first + place) as u32, draw: *draw };
    draws.iter().enumerate().map(number).collect()
}

/// Calls `draw` once for each key, with the draws that have it, and returns all groups in the order of
/// `draws`.
pub(super) fn draw_by<K: Ord>(
    draws: &[NumberedDraw],
    key: impl Fn(&NumberedDraw) -> K,
    mut draw: impl FnMut(K, &[NumberedDraw]) -> Result<Vec<Group>>,
) -> Result<Vec<Group>> {
    let mut order: Vec<usize> = (0..draws.len()).collect();
    let of = |place: &usize| key(&draws[*place]);
    order.sort_by_key(of);
    let mut groups: Vec<(usize, Group)> = Vec::with_capacity(draws.len());
    for places in order.chunk_by(|one, next| of(one) == of(next)) {
        let alike: Vec<NumberedDraw> = places.iter().map(|place| draws[*place]).collect();
        groups.extend(zip_equal(places.iter().copied(), draw(of(&places[0]), &alike)?));
    }
    groups.sort_by_key(|(place, _)| *place);
    Ok(groups.into_iter().map(|(_, group)| group).collect())
}

/// Groups of `n` consecutive sequences.
pub(super) fn in_groups(list: impl IntoIterator<Item = Sequence>, n: usize) -> Vec<Group> {
    let mut rest = list.into_iter();
    let group = || Some(rest.by_ref().take(n).collect::<Group>()).filter(|group| !group.is_empty());
    std::iter::from_fn(group).collect()
}

/// Completions of the drawn prompts, with the length limit of this step.
pub(super) fn sample_now<'a>(
    batch: &Batch,
    author: impl Into<Author<'a>>,
    draws: &[NumberedDraw],
    sampling: &Sampling,
    purpose: Purpose,
) -> Result<Vec<Group>> {
    sample_shown(batch, author, None, draws, sampling, purpose)
}

/// The same by the student. Activations are saved where the backward pass uses them.
pub(super) fn sample_student(
    batch: &Batch,
    draws: &[NumberedDraw],
    sampling: &Sampling,
    purpose: Purpose,
) -> Result<Vec<Group>> {
    let Some(activations) = batch.activations else {
        return sample_now(batch, batch.student, draws, sampling, purpose);
    };
    let Batch { stage, student, step, climbed, .. } = *batch;
    let (now, shown) = (sampling.at(step, stage.steps, climbed), ScorerPrompts::Own);
    let (prompts, key) = (prompts(&stage.sources, &shown, draws), batch.key(purpose));
    let mut activations = activations.borrow_mut();
    let (budget, control) = (stage.budget, stage.control);
    let completions = rollout_saving(student, &prompts, &now, key, budget, control, &mut activations)?;
    Ok(groups(draws, completions, &now))
}

/// The same by an author that may see a view in place of the prompts.
pub(super) fn sample_shown<'a>(
    batch: &Batch,
    author: impl Into<Author<'a>>,
    sees: Option<&View>,
    draws: &[NumberedDraw],
    sampling: &Sampling,
    purpose: Purpose,
) -> Result<Vec<Group>> {
    let Batch { stage, step, climbed, .. } = *batch;
    let now = sampling.at(step, stage.steps, climbed);
    let shown =
        ScorerPrompts::of_draws(stage.texts(), sees, draws.iter().map(|each| each.draw), batch.now())?;
    sample(stage.texts(), author, &shown, draws, &now, batch.key(purpose))
}

/// Completions of the drawn prompts, where the author reads them as in `shown`.
pub(super) fn sample<'a>(
    texts: Texts,
    author: impl Into<Author<'a>>,
    shown: &ScorerPrompts,
    draws: &[NumberedDraw],
    sampling: &Sampling,
    key: Key,
) -> Result<Vec<Group>> {
    let prompts = prompts(texts.sources, shown, draws);
    let completions = rollout(author, &prompts, sampling, key, texts.budget, texts.control)?;
    Ok(groups(draws, completions, sampling))
}

/// The completions as one group for each draw.
fn groups(draws: &[NumberedDraw], completions: Vec<Completion>, sampling: &Sampling) -> Vec<Group> {
    let n = sampling.n.max(1) as usize;
    let sequences = completions.into_iter().enumerate();
    in_groups(sequences.map(|(index, completion)| sequence(draws[index / n].draw, completion)), n)
}

/// The drawn prompts as in `shown`.
pub(super) fn prompts<'p>(
    sources: &'p StageSources,
    shown: &'p ScorerPrompts,
    draws: &[NumberedDraw],
) -> Vec<Prompt<'p>> {
    let prompt = |(place, NumberedDraw { number, draw }): (usize, &NumberedDraw)| Prompt {
        tokens: shown.of_draw(sources, *draw, place),
        id: *number,
        sample: 0,
        limit: sources[draw.source].limit,
    };
    draws.iter().enumerate().map(prompt).collect()
}

/// The sequence of a completion of a drawn prompt.
pub(super) fn sequence(draw: Draw, completion: Completion) -> Sequence {
    let truncated = completion.truncated;
    Sequence { truncated, ..Sequence::new(draw.source, draw.record, completion.into()) }
}

/// Sets the rewards, each by the verifier of the sequence's domain.
pub fn judge<'s>(texts: Texts, sequences: impl IntoIterator<Item = &'s mut Sequence>) -> Result<()> {
    judge_by(texts, sequences, |sequence| sequence.completion.trained_tokens().collect())
}

/// The same, where the verifier reads only the tokens that `judged` returns.
pub(super) fn judge_by<'s>(
    Texts { sources, tokenizer, shows_feedback, control, .. }: Texts,
    sequences: impl IntoIterator<Item = &'s mut Sequence>,
    judged: impl Fn(&Sequence) -> Vec<Token>,
) -> Result<()> {
    let mut sequences: Vec<&mut Sequence> = sequences.into_iter().collect();
    for (index, source) in sources.iter().enumerate() {
        if source.verifier.is_none() {
            continue;
        }
        let of_source = || sequences.iter().map(|one| &**one).filter(|sequence| sequence.source == index);
        let texts = of_source().map(|sequence| tokenizer.decode(&judged(sequence)));
        let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
        let dataset = &source.prompts.dataset;
        let records: Vec<_> = of_source().map(|sequence| dataset.object(sequence.record)).collect();
        let own: Vec<&Sequence> = of_source().collect();
        let answers: Vec<RewardInput> = zip_equal(own, zip_equal(&texts, &records))
            .map(|(sequence, (completion, record))| RewardInput {
                prompt: dataset.prompt(sequence.record),
                completion,
                record,
            })
            .collect();
        let verdicts =
            source.verifier.judge(&answers, control).map_err(|error| Error::from(error).at(source.origin))?;
        for warning in source.verifier.take_warnings() {
            control.warn(warning);
        }
        let own: Vec<&mut &mut Sequence> =
            sequences.iter_mut().filter(|sequence| sequence.source == index).collect();
        for (sequence, Judgement { reward, feedback, parts }) in zip_equal(own, verdicts) {
            (sequence.reward, sequence.reward_parts) = (Some(reward), parts);
            sequence.remove_extra::<VerifierFeedback>();
            if let Some(text) = feedback.filter(|_| shows_feedback) {
                sequence.set_extra(&VerifierFeedback(text));
            }
        }
    }
    Ok(())
}
