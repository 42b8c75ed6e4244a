//! `snapshot(model, sample(...))`: rollouts of a model that does not change, generated once for each prompt.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, ProducerKind, Sampling, Writer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Model {
    /// Whether it is drawn once per prompt, before the first step. A side of a pair is drawn at every step.
    #[serde(default)]
    pub once: bool,
    pub model: ModelId,
    pub sampling: Sampling,
}

impl Model {
    fn described(
        &self,
        fields: Fields,
        groups: Option<u32>,
        model: &dyn Fn(ModelId) -> FieldValue,
    ) -> Fields {
        let fields = if self.once { fields.with("once", FieldValue::Bool(true)) } else { fields };
        fields
            .with("model", model(self.model))
            .with_groups("batch", groups)
            .with("sampling", FieldValue::Sampling(self.sampling.clone()))
    }
}

impl ProducerKind for Model {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(Fields::new("model"), groups, model)
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(Fields::default(), groups, model)
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

    fn cached_per_prompt(&self) -> bool {
        self.once
    }

    fn redraw_each_step(&mut self) {
        self.once = false;
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Ok((Writer::Model(self.model), &self.sampling))
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(of(Writer::Model(self.model))? as f64)
    }

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}
