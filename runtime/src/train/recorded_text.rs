//! The student's log-probability of recorded text: `mean(student.logp, over: batch, on: data(solution))`. A
//! step computes it for the rows of its groups, each as often as the batch has it, at the weights before the
//! step.

use mopd_plan::Signal;
use tch::no_grad_guard;

use super::Stage;
use super::batches::data::all_examples;
use super::part::Scoring;
use super::sequences::Sequences;
use super::validation::{logp, rows_at_once};
use crate::failure::Result;
use crate::rollout::Sequence;

/// The texts of each field that the objective reads, by source and row.
pub struct RecordedTexts(Vec<(String, Vec<Vec<Sequence>>)>);

impl RecordedTexts {
    pub fn of_stage(stage: &Stage) -> Result<RecordedTexts> {
        let fields = stage.train.objective.recorded();
        let texts = fields.into_iter().map(|field| Ok((field.to_owned(), all_examples(stage, field)?)));
        Ok(RecordedTexts(texts.collect::<Result<_>>()?))
    }

    /// One number per field: the mean over all tokens of the rows, end tokens included.
    pub fn signals(&self, scoring: &Scoring, sequences: &Sequences) -> Result<Vec<(Signal, Vec<f32>)>> {
        let mean = |(field, texts): &(String, Vec<Vec<Sequence>>)| {
            let rows = sequences.groups().map(|group| texts[group[0].source][group[0].record].clone());
            let mean = mean_logp(scoring, rows.collect())?;
            Ok((Signal::RecordedLogp { field: field.clone() }, vec![mean as f32]))
        };
        self.0.iter().map(mean).collect()
    }
}

fn mean_logp(scoring: &Scoring, mut rows: Vec<Sequence>) -> Result<f64> {
    let _guard = no_grad_guard();
    let Scoring { stage, model, models, .. } = *scoring;
    let lm_head = models.compared(model);
    // Rows of similar length share a batch.
    rows.sort_by_key(|row| row.prompt(stage).len() + row.completion.len());
    let (mut sum, mut count) = (0.0, 0);
    for rows in rows.chunks(rows_at_once(stage)) {
        stage.control.check()?;
        let sequences = Sequences::new(rows.to_vec(), 1, stage.sources.len());
        // This load of experts belongs to no step's metrics.
        sum += model.uncounted(|| logp(stage, &sequences, model, &lm_head));
        count += sequences.layout.tokens();
    }
    Ok(sum / count as f64)
}
