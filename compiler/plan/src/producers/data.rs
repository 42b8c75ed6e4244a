//! `data(answer)`: a field of the data as completions.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, ProducerKind, Sampling, Writer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Data {
    pub field: String,
}

impl ProducerKind for Data {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("data").with("field", FieldValue::Text(self.field.clone())).with_groups("batch", groups)
    }

    fn field(&self) -> Option<&str> {
        Some(&self.field)
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("the completions come from the data")
    }

    fn parameters(&self, _: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(0.0)
    }
}
