//! `sample(n: 8, temperature: 1.0, max_tokens: 24)`: the student's rollouts, sampled at every step.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, ProducerKind, Sampling, Writer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Student {
    pub sampling: Sampling,
}

impl ProducerKind for Student {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("student")
            .with_groups("prompts", groups)
            .with("sampling", FieldValue::Sampling(self.sampling.clone()))
    }

    fn group(&self) -> u32 {
        self.sampling.n
    }

    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        Some((Writer::Student, &self.sampling))
    }

    fn sampling_mut(&mut self) -> Option<&mut Sampling> {
        Some(&mut self.sampling)
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Ok((Writer::Student, &self.sampling))
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(of(Writer::Student)? as f64)
    }

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}
