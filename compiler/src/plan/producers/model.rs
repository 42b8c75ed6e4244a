//! `snapshot(model, sample(...))`: rollouts of a model that does not change.

use serde::Deserialize;

use super::{Fields, Kind, ModelId, Sampling, Value, Writer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Model {
    pub model: ModelId,
    pub sampling: Sampling,
}

impl Kind for Model {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> Value) -> Fields {
        Fields::of("model")
            .with("model", model(self.model))
            .with_groups("batch", groups)
            .with("sampling", Value::Sampling(self.sampling.clone()))
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> Value) -> Fields {
        Fields::default()
            .with("model", model(self.model))
            .with_groups("batch", groups)
            .with("sampling", Value::Sampling(self.sampling.clone()))
    }

    fn group(&self) -> u32 {
        self.sampling.n
    }

    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        Some((Writer::Model(self.model), &self.sampling))
    }

    fn sampling_mut(&mut self) -> Option<&mut Sampling> {
        Some(&mut self.sampling)
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Ok((Writer::Model(self.model), &self.sampling))
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(of(Writer::Model(self.model))? as f64)
    }
}
