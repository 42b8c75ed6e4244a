//! Pairs of completions: what writes each side.

use mopd_compiler::plan::{Completions, Sampling};

use super::data::all_examples;
use super::sample::{by_section, sample};
use super::teacher::teacher_of;
use crate::data::mixture::Draw;
use crate::failure::Result;
use crate::model::Decoder;
use crate::random::Key;
use crate::rollout::Sequence;
use crate::train::Stage;
use crate::train::models::{ModelRef, Models};
use crate::zip::zip_equal;

/// The preferred completions of pairs, or the others.
pub(super) enum PairSide {
    /// By source, one for each record.
    Data(Vec<Vec<Sequence>>),
    Rollouts(Writer, Sampling),
}

/// Who writes one side of a pair.
#[derive(Clone, Copy)]
pub(super) enum Writer {
    /// Whoever judges the prompt.
    Teacher,
    One(ModelRef),
}

pub(super) fn pair((chosen, rejected): (Sequence, Sequence)) -> [Sequence; 2] {
    [Sequence { chosen: Some(true), ..chosen }, Sequence { chosen: Some(false), ..rejected }]
}

/// One side of the pairs.
pub(super) fn side(stage: &Stage, models: &Models, completions: &Completions) -> Result<PairSide> {
    Ok(match completions {
        Completions::Data { field } => PairSide::Data(all_examples(stage, field, false)?),
        Completions::Student { sampling } => {
            PairSide::Rollouts(Writer::One(ModelRef::Student), sampling.clone())
        }
        Completions::Teacher { sampling } => PairSide::Rollouts(Writer::Teacher, sampling.clone()),
        Completions::Model { model, sampling } => {
            PairSide::Rollouts(Writer::One(models.of_model(*model)), sampling.clone())
        }
    })
}

/// One rollout of each prompt.
pub(super) fn written(
    stage: &Stage,
    student: &Decoder,
    models: &Models,
    draws: &[Draw],
    writer: Writer,
    sampling: &Sampling,
    key: Key,
) -> Result<Vec<Sequence>> {
    let mut list = Vec::with_capacity(draws.len());
    let writer_of = |draw: Draw| match writer {
        Writer::One(model_ref) => Ok(model_ref),
        Writer::Teacher => teacher_of(stage, models, draw),
    };
    for draws in by_section(stage, draws).chunk_by(|one, next| one.section == next.section) {
        let decoder = models.decoder(writer_of(draws[0].draw)?);
        let sequences = sample(stage, decoder.as_deref().unwrap_or(student), draws, sampling, key)?;
        list.extend(zip_equal(draws, sequences).map(|(draw, sequence)| (draw.number, sequence)));
    }
    list.sort_by_key(|(number, _)| *number);
    Ok(list.into_iter().map(|(_, sequence)| sequence).collect())
}
