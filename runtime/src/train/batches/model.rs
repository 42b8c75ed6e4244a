//! `snapshot(model, sample(...))`: rollouts of a model that does not change.

use mopd_compiler::plan::Sampling;
use mopd_compiler::plan::producers::Model;

use super::sample::{Numbered, sample};
use super::{Batch, Draws, Making};
use crate::failure::Result;
use crate::random::Purpose;
use crate::rollout::Sequence;
use crate::train::models::ModelRef;

pub(super) struct OfModel {
    model: ModelRef,
    sampling: Sampling,
}

pub(super) fn make(Model { model, sampling }: &Model, making: &Making) -> OfModel {
    OfModel { model: making.models.of_model(*model), sampling: sampling.clone() }
}

impl Draws for OfModel {
    fn draw(&self, batch: &Batch, draws: &[Numbered], purpose: Purpose) -> Result<Vec<Sequence>> {
        let decoder = batch.models.decoder(self.model);
        sample(
            batch.stage,
            decoder.as_deref().unwrap_or(batch.student),
            draws,
            &self.sampling,
            batch.key(purpose),
        )
    }
}
