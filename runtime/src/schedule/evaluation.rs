//! Execution of an evaluation: its answers are found in the store, or computed and stored.

use std::sync::Arc;

use mopd_plan::{DomainId, Evaluation};
use mopd_store::Lock;

use super::run::{Scheduler, lock};
use crate::evaluate::evaluate;
use crate::failure::Result;
use crate::model::{Decoder, Weights};
use crate::report::answers::PromptAnswers;

impl Scheduler<'_> {
    pub(super) fn evaluated(
        &self,
        index: usize,
        domain: DomainId,
        evaluation: &Evaluation,
        weights: &Arc<Weights>,
        guard: &mut Option<Lock>,
    ) -> Result<Vec<PromptAnswers>> {
        let (key, seed) = (self.keys.of(index), self.tasks[index].seed);
        if let Some(answers) = self.stored(index, guard, || self.store.find_value(key))? {
            return Ok(answers);
        }
        self.check_unchanged(index)?;
        let budget = self.device_memory.generation(self.widths[index] > 1);
        let decoder = Decoder::frozen(weights, self.place, self.kind());
        let data = &self.domains[domain.0 as usize];
        let evaluated = evaluate(&decoder, data, evaluation, seed, budget, self.control)?;
        self.check_unchanged(index)?;
        self.store.insert_evaluation(key, &self.about(index), &evaluated.answers, &evaluated.completions)?;
        lock(&self.made).insert(key.to_owned());
        Ok(evaluated.answers)
    }
}
