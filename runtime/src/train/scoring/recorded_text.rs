//! The student's log-probability of recorded text: `mean(student.logp, over: batch, on: data(solution))`. A
//! step computes it for the rows of its groups, each as often as the batch has it, at the weights before the
//! step.

use mopd_plan::{ModelSignal, Role, Signal};
use tch::{Kind, Tensor, no_grad_guard};

use crate::failure::Result;
use crate::machine::transfer::upload;
use crate::model::Decoder;
use crate::rollout::Sequence;
use crate::train::batches::all_examples;
use crate::train::models::Models;
use crate::train::sequences::Sequences;
use crate::train::stage::Stage;
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::{LmHead, Logits, Quantity, Vocabulary};

/// The texts of each field that the objective reads, by source and row.
pub struct RecordedTexts(Vec<(String, Vec<Vec<Sequence>>)>);

impl RecordedTexts {
    pub fn of_stage(stage: &Stage) -> Result<RecordedTexts> {
        let fields = stage.train.objective.recorded();
        let texts = fields.into_iter().map(|field| Ok((field.to_owned(), all_examples(stage, field)?)));
        Ok(RecordedTexts(texts.collect::<Result<_>>()?))
    }

    /// One number per field: the mean over all tokens of the rows, end tokens included.
    pub fn signals(
        &self,
        stage: &Stage,
        student: &Decoder,
        models: &Models,
        sequences: &Sequences,
    ) -> Result<Vec<(Signal, Vec<f32>)>> {
        let mean = |(field, texts): &(String, Vec<Vec<Sequence>>)| {
            let rows = sequences.groups().map(|group| texts[group[0].source][group[0].record].clone());
            let mean = mean_logp(stage, student, &models.compared(student), rows.collect())?;
            Ok((Signal::RecordedLogp { field: field.clone() }, vec![mean as f32]))
        };
        self.0.iter().map(mean).collect()
    }
}

fn mean_logp(stage: &Stage, student: &Decoder, lm_head: &Tensor, mut rows: Vec<Sequence>) -> Result<f64> {
    let _guard = no_grad_guard();
    // Rows of similar length share a batch.
    rows.sort_by_key(|row| row.prompt(stage).len() + row.completion.len());
    let (mut sum, mut count) = (0.0, 0);
    for rows in rows.chunks(rows_at_once(stage)) {
        stage.control.check()?;
        let sequences = Sequences::new(rows.to_vec(), 1, stage.sources.len());
        // This load of experts belongs to no step's metrics.
        sum += student.uncounted(|| logp(stage, &sequences, student, lm_head));
        count += sequences.layout.tokens();
    }
    Ok(sum / count as f64)
}

/// The most rows per forward pass.
const TOGETHER: u32 = 16;

/// Rows per forward pass that a stage has memory for: at most as many as a step trains on at once.
pub fn rows_at_once(stage: &Stage) -> usize {
    let step = stage.train.rollout.sequences();
    stage.micro_batch.unwrap_or(step).clamp(1, TOGETHER) as usize
}

/// The sum of log p over all tokens, at temperature 1. `lm_head` is the student's.
pub fn logp(stage: &Stage, sequences: &Sequences, student: &Decoder, lm_head: &Tensor) -> f64 {
    let members: Vec<usize> = (0..sequences.list.len()).collect();
    let packed = sequences.packed(stage, &members, &ScorerPrompts::Own);
    let logits = Logits::Projected {
        hidden: student.hidden(&packed),
        lm_head: LmHead::Held(lm_head.shallow_clone()),
        softcap: student.config.logit_softcap,
        scalar_head: None,
    };
    let targets = upload(&sequences.targets(), stage.place.device);
    let vocabulary =
        Vocabulary::new(stage.place, &targets, logits, Vec::new(), None, student.tokenizer.ends())
            .without(student.tokenizer.absent());
    let logp = Signal::Of { role: Role::Student, part: ModelSignal::Logp };
    let logps = vocabulary.values(&[Quantity::Signal(&logp)]);
    logps[0].sum(Kind::Double).double_value(&[])
}
