//! Predicts what extrapolation of weights takes: the answers to the benchmark that judges them, and the
//! weights that are kept beside them.

use std::time::Instant;

use mopd_plan::{Evaluation, Extrapolation, Sampling};
use tch::no_grad_guard;

use super::trial::StageTrial;
use crate::control::Control;
use crate::evaluate::{answers_memory, asked, sampling};
use crate::failure::Result;
use crate::model::{Decoder, Weights};
use crate::prepare::tested;
use crate::random::{Key, Purpose};
use crate::rollout::{Prompt, rollout};

/// Prompts that are answered to measure the time.
const TRIED: usize = 64;
/// About how many rows share one read of the weights.
const TOGETHER: f64 = 256.0;

/// The cost of extrapolation in a stage.
pub struct ExtrapolationCost {
    /// Seconds of one evaluation.
    pub seconds: f64,
    /// Bytes of the weights as the last extrapolation left them.
    pub base: f64,
    /// Bytes that the answers take.
    pub answers: f64,
}

impl StageTrial<'_> {
    /// Measured on the first prompts, with a model of the stage's shape; estimated if that would take more
    /// than `most` seconds.
    pub fn judging(&self, of: &Extrapolation, most: f64) -> Result<ExtrapolationCost> {
        let machine = self.context.machine;
        let data = &self.context.domains[of.judged_by.0 as usize];
        let spec = self.spec();
        let tokens = tested(data)?.tokens(&spec.tokenizer)?;
        let all = asked(&of.evaluation, tokens.len());
        let length = tokens.lengths().take(all).sum::<usize>() as f64 / all.max(1) as f64;
        let sampling = self.judged_sampling(&of.evaluation);
        let few = all.min(TRIED);
        let estimated = |prompts: usize| {
            let sequences = prompts as f64 * f64::from(sampling.n);
            let written = f64::from(sampling.max_tokens(data.limit));
            let products = sequences * (length + written) * self.products();
            let read = written * (sequences / TOGETHER).ceil() * self.bytes();
            products / machine.products + read / machine.bytes
        };
        let fits = machine.free.is_none_or(|free| self.needed() <= super::FREE * free);
        let seconds = if fits && estimated(few) <= most {
            let _guard = no_grad_guard();
            let decoder = Decoder::frozen(&self.start(), self.context.place, self.kind);
            let prompt =
                |id: usize| Prompt { tokens: tokens.get(id), id: id as u32, sample: 0, limit: data.limit };
            let prompts: Vec<Prompt> = (0..few).map(prompt).collect();
            let (key, quiet) = (Key::new(0, 0, Purpose::Judge, 0), Control::new(std::io::sink()));
            let started = Instant::now();
            rollout(&decoder, &prompts, &sampling, key, self.context.budget, &quiet)?;
            started.elapsed().as_secs_f64() * all as f64 / few.max(1) as f64
        } else {
            estimated(all)
        };
        let answers = answers_memory(&spec, data, &of.evaluation, self.kind, self.context.budget)? as f64;
        let base = 4.0 * Weights::parameters(&spec.config) as f64;
        Ok(ExtrapolationCost { seconds, base, answers })
    }

    /// The sampling of a trial. Completions are capped, since a model with made-up weights never ends one.
    fn judged_sampling(&self, evaluation: &Evaluation) -> Sampling {
        let sampling = sampling(evaluation);
        let longest = if self.exists() { sampling.max_tokens } else { self.completion.max(1) };
        Sampling { max_tokens: sampling.max_tokens.min(longest), ..sampling }
    }
}
