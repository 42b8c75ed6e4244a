//! Predicts the time of a stage's validation loss.

use mopd_plan::Validation;

use super::trial::StageTrial;
use crate::failure::Result;
use crate::prepare::validated;

impl StageTrial<'_> {
    /// Seconds of one pass over the rows: their products at the machine's rate. The rows go through the model
    /// in batches, forward only, so the time to read its weights is hidden.
    pub fn validated(&self, of: &Validation) -> Result<f64> {
        let tokenizer = self.spec().tokenizer;
        let mut tokens = 0;
        for share in &self.train.mixture {
            let prompts = validated(&self.context.domains[share.domain.0 as usize])?;
            let (asked, examples) = (prompts.tokens(&tokenizer)?, prompts.examples(&tokenizer, &of.target)?);
            let length = |row: usize| {
                let (prompt, completion, _) = examples.get(row);
                prompt.map_or_else(|| asked.get(row).len(), <[_]>::len) + completion.len()
            };
            tokens += (0..of.rows_of(prompts.dataset.len())).map(length).sum::<usize>();
        }
        Ok(tokens as f64 * self.products() / self.context.machine.products)
    }
}
