//! The student's log-probability of recorded text: `mean(student.logp, over: batch, on: data(solution))`. A
//! step computes it for the rows of its groups, each as often as the batch has it, at the weights before the
//! step.

use mopd_plan::{ModelSignal, Objective, Role, Rollout, Signal};
use tch::{Kind, Tensor, no_grad_guard};

use crate::control::Control;
use crate::failure::Result;
use crate::machine::transfer::upload;
use crate::model::Decoder;
use crate::rollout::Sequence;
use crate::train::batches::all_examples;
use crate::train::models::Models;
use crate::train::sequences::Sequences;
use crate::train::stage::{Packing, Texts};
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::{LmHead, Logits, Quantity, Vocabulary};

/// The texts of each field that the objective reads, by source and row.
pub struct RecordedTexts {
    fields: Vec<(String, Vec<Vec<Sequence>>)>,
    /// Rows per forward pass.
    rows_per_pass: usize,
}

impl RecordedTexts {
    pub fn new(texts: Texts, objective: &Objective, rows_per_pass: usize) -> Result<RecordedTexts> {
        let fields = objective.recorded();
        let fields = fields.into_iter().map(|field| Ok((field.to_owned(), all_examples(texts, field)?)));
        Ok(RecordedTexts { fields: fields.collect::<Result<_>>()?, rows_per_pass })
    }

    /// One number per field: the mean over all tokens of the rows, end tokens included.
    pub fn signals(
        &self,
        packing: Packing,
        student: &Decoder,
        models: &Models,
        sequences: &Sequences,
        control: &Control,
    ) -> Result<Vec<(Signal, Vec<f32>)>> {
        let mean = |(field, texts): &(String, Vec<Vec<Sequence>>)| {
            let rows = sequences.groups().map(|group| texts[group[0].source][group[0].record].clone());
            let mut rows: Vec<Sequence> = rows.collect();
            // Rows of similar length share a batch.
            rows.sort_by_key(|row| row.prompt(packing.sources).len() + row.completion.len());
            let lm_head = models.compared(student);
            let _guard = no_grad_guard();
            let (mut sum, mut count) = (0.0, 0);
            for rows in rows.chunks(self.rows_per_pass) {
                control.check()?;
                let sequences = Sequences::new(rows.to_vec(), 1, packing.sources.len());
                // This load of experts belongs to no step's metrics.
                sum += student.uncounted(|| logp(packing, &sequences, student, &lm_head));
                count += sequences.layout.tokens();
            }
            Ok((Signal::RecordedLogp { field: field.clone() }, vec![(sum / count as f64) as f32]))
        };
        self.fields.iter().map(mean).collect()
    }
}

/// The most rows per forward pass.
const TOGETHER: u32 = 16;

/// Rows per forward pass that a stage has memory for: at most as many as a step trains on at once.
pub fn rows_at_once(micro_batch: Option<u32>, rollout: &Rollout) -> usize {
    micro_batch.unwrap_or(rollout.sequences()).clamp(1, TOGETHER) as usize
}

/// The sum of log p over all tokens, at temperature 1. `lm_head` is the student's.
pub fn logp(packing: Packing, sequences: &Sequences, student: &Decoder, lm_head: &Tensor) -> f64 {
    let members: Vec<usize> = (0..sequences.list.len()).collect();
    let packed = packing.packed(sequences, &members, &ScorerPrompts::Own);
    let logits = Logits::Projected {
        hidden: student.hidden(&packed),
        lm_head: LmHead::Held(lm_head.shallow_clone()),
        softcap: student.config.logit_softcap,
        scalar_head: None,
    };
    let targets = upload(&sequences.targets(), packing.place.device);
    let vocabulary =
        Vocabulary::new(packing.place, &targets, logits, Vec::new(), None, student.tokenizer.ends())
            .without(student.tokenizer.absent());
    let logp = Signal::Of { role: Role::Student, part: ModelSignal::Logp };
    let logps = vocabulary.values(&[Quantity::Signal(&logp)]);
    logps[0].sum(Kind::Double).double_value(&[])
}
