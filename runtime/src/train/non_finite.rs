//! A number that is not finite stops the stage: what is said about it.

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::plan::events::FailureKind;

use super::batches::Sequences;
use super::objective::Outputs;
use super::{Stage, Trainer, surrogate};
use crate::failure::{Error, Result};
use crate::model::PackedBatch;

/// An error with whether the numbers were finite when it happened.
pub type Classified = (Error, bool);

/// Sampling finds bad logits before the step itself does.
pub fn classify(error: Error) -> Classified {
    let finite = !matches!(&error, Error::Failed(failure) if failure.kind == FailureKind::NonFinite);
    (error, finite)
}

/// Checks the loss, the terms, the live primitives and the adjoints.
pub fn check(stage: &Stage, sequences: &Sequences, batch: &Batch, outputs: &Outputs) -> Result<(), Classified> {
    let objective = &stage.train.objective;
    let bad = |values: &[f32]| values.iter().position(|value| !value.is_finite());
    let domain = |token: usize| {
        let sequence = &sequences.list[sequences.layout.sequence_of_token[token] as usize];
        stage.sources[sequence.source].name
    };
    for term in &objective.terms {
        if let Some(token) = bad(outputs.get(term.value)) {
            return Err((failure(&format!("the term `{}`", term.name), Some(domain(token))).at(term.origin), false));
        }
    }
    for (index, primitive) in objective.live.iter().enumerate() {
        for (what, values) in [
            ("a live primitive of the objective", batch.live[index].as_slice()),
            ("the loss's derivative", outputs.get(primitive.adjoint)),
        ] {
            if let Some(token) = bad(values) {
                return Err((failure(what, Some(domain(token))).at(primitive.origin), false));
            }
        }
    }
    if bad(outputs.get(objective.loss)).is_some() {
        return Err((failure("the loss", None).at(objective.origin), false));
    }
    Ok(())
}

/// The gradient overflowed on the way through the model: finds the first domain for which it does.
pub fn gradient(trainer: &Trainer, sequences: &Sequences, outputs: &Outputs) -> Error {
    let stage = trainer.stage;
    let objective = &stage.train.objective;
    let domain = stage.sources.iter().enumerate().find_map(|(index, source)| {
        let own = |sequence: u32| sequences.list[sequence as usize].source == index;
        let packed = PackedBatch::new(sequences.pairs(stage, 0..stage.sources.len()), stage.device);
        let scores = super::Scores::new(trainer, sequences, &packed, &trainer.model.logits(&packed)).ok()?;
        let live = scores.live(objective).ok()?;
        let mask: Vec<f32> =
            sequences.layout.sequence_of_token.iter().map(|&sequence| f32::from(u8::from(own(sequence)))).collect();
        let mask = tch::Tensor::from_slice(&mask).to_device(stage.device);
        let live: Vec<_> = live.iter().map(|value| value * &mask).collect();
        let gradient = trainer.model.gradient(&surrogate(objective, &live, outputs, stage.device));
        (!super::gradient_norm(&gradient).is_finite()).then_some(source.name)
    });
    failure("the gradient", domain).at(objective.origin)
}

fn failure(what: &str, domain: Option<&str>) -> Error {
    let place = domain.map(|domain| format!(" for the domain `{domain}`")).unwrap_or_default();
    Error::new(FailureKind::NonFinite, format!("{what} is not finite{place}"))
}
