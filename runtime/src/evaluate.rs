//! Evaluates a model on held-out prompts: for a table, or for a stage that depends on the score.

use mopd_plan::{Evaluation, Sampling};
use tch::Kind;

use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::{Decoder, Weights};
use crate::prepare::{DomainData, ModelSpec, tested};
use crate::random::{Key, Purpose, stream_of};
use crate::report::answers::{Answer, PromptAnswers};
use crate::report::completions::{JudgedCompletion, share};
use crate::reward::RewardInput;
use crate::rollout::confidence::probability;
use crate::rollout::{self, MemoryBudget, Prompt, rollout};
use crate::zip::zip_equal;

/// The sampling settings of an evaluation, with `n` set to its number of samples per prompt.
pub fn sampling(evaluation: &Evaluation) -> Sampling {
    Sampling { n: evaluation.samples(), ..evaluation.sampling.clone() }
}

/// How many of a domain's `prompts` test prompts are evaluated.
pub fn asked(evaluation: &Evaluation, prompts: usize) -> usize {
    evaluation.prompts.map_or(prompts, |limit| prompts.min(limit as usize))
}

/// Prompts that are sampled together.
const CHUNK: usize = 64;

/// Approximate bytes that an evaluation takes: the model's weights, and [`answers_memory`].
pub fn memory(
    spec: &ModelSpec,
    domain: &DomainData,
    evaluation: &Evaluation,
    kind: Kind,
    budget: MemoryBudget,
) -> Result<u64> {
    let weights = Weights::parameters(&spec.config) * kind.elt_size_in_bytes();
    Ok((weights + answers_memory(spec, domain, evaluation, kind, budget)?) as u64)
}

/// The most bytes that [`rollout`] holds while the prompts are answered.
pub fn answers_memory(
    spec: &ModelSpec,
    domain: &DomainData,
    evaluation: &Evaluation,
    kind: Kind,
    budget: MemoryBudget,
) -> Result<usize> {
    let tokens = tested(domain)?.tokens(&spec.tokenizer)?;
    let mut lengths: Vec<usize> = tokens.lengths().take(asked(evaluation, tokens.len())).collect();
    // The chunk that takes most: the longest prompts.
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.truncate(CHUNK);
    Ok(rollout::memory(&spec.config, kind, lengths.into_iter(), &sampling(evaluation), budget))
}

/// The completions of the test prompts, with their judgements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// The statistics of each prompt, in the order of the file.
    pub answers: Vec<PromptAnswers>,
    /// All completions of the first prompt, then those of the next.
    pub completions: Vec<JudgedCompletion>,
}

/// The answers of a model for a table.
///
/// Random numbers are keyed by seed, test file, prompt and sample only, so all models sample with the same
/// random numbers.
pub fn evaluate(
    decoder: &Decoder,
    domain: &DomainData,
    evaluation: &Evaluation,
    seed: u64,
    budget: MemoryBudget,
    control: &Control,
) -> Result<Evaluated> {
    let key = Key::new(seed, stream_of(&tested(domain)?.dataset.hash), Purpose::Evaluate, 0);
    answers(decoder, domain, evaluation, key, budget, control)
}

/// The answers to the evaluated test prompts, in the order of the file. Samples depend on key, prompt and
/// sample number only.
pub fn answers(
    decoder: &Decoder,
    domain: &DomainData,
    evaluation: &Evaluation,
    key: Key,
    budget: MemoryBudget,
    control: &Control,
) -> Result<Evaluated> {
    let tests = tested(domain)?;
    let tokenizer = &*decoder.tokenizer;
    let tokens = tests.tokens(tokenizer)?;
    let count = asked(evaluation, tokens.len());
    let sampling = sampling(evaluation);
    let n = sampling.n as usize;
    let prompt = |id: usize| Prompt { tokens: tokens.get(id), id: id as u32, sample: 0, limit: domain.limit };
    let prompts: Vec<Prompt> = (0..count).map(prompt).collect();
    let mut answered = Evaluated::default();
    let most = share(count * n);
    for chunk in prompts.chunks(CHUNK) {
        let completions = rollout(decoder, chunk, &sampling, key, budget, control)?;
        let texts = completions.iter().map(|completion| tokenizer.decode(&completion.tokens));
        let texts: Vec<String> = texts.collect::<Result<_, _>>()?;
        let records: Vec<_> = chunk.iter().map(|prompt| tests.dataset.object(prompt.id as usize)).collect();
        let inputs: Vec<RewardInput> = texts
            .iter()
            .enumerate()
            .map(|(index, completion)| {
                let prompt = tests.dataset.prompt(chunk[index / n].id as usize);
                RewardInput { prompt, completion, record: &records[index / n] }
            })
            .collect();
        let verdicts =
            domain.verifier.judge(&inputs, control).map_err(|error| Error::from(error).at(domain.origin))?;
        let judged = || zip_equal(zip_equal(&verdicts, &texts), &completions);
        let answers: Vec<Answer> = judged()
            .map(|((verdict, text), completion)| Answer {
                reward: verdict.reward,
                text,
                tokens: completion.tokens.len() as u32,
                confidence: probability(text),
            })
            .collect();
        answered.answers.extend(answers.chunks(n).map(PromptAnswers::from_answers));
        answered.completions.extend(judged().enumerate().map(|(index, ((verdict, text), completion))| {
            let numbers = (chunk[index / n].id, (index % n) as u32);
            JudgedCompletion::new(numbers, completion, text, verdict, most)
        }));
        for warning in domain.verifier.take_warnings() {
            control.warn(warning);
        }
    }
    Ok(answered)
}

/// Mean reward over prompts and samples. The sums are exact, so equal scores are equal numbers.
pub fn score(answers: &[PromptAnswers]) -> f64 {
    let samples: u32 = answers.iter().map(|prompt| prompt.samples).sum();
    answers.iter().map(|prompt| prompt.reward).sum::<f64>() / f64::from(samples.max(1))
}
