//! `from(teacher, ...)`: rollouts of the routed teachers, or of a named one, generated once before the first
//! step (`sequences`) or at every step (`n`). The writer reads the template `sees`, or its template as a
//! scorer.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, ProducerKind, Sampling, Writer};
use crate::{Keep, Role, View};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Teacher {
    /// The scorer of the stage that writes.
    #[serde(default = "routed")]
    pub writer: Role,
    /// The writer's template. If absent, its template as a scorer.
    #[serde(default)]
    pub sees: Option<View>,
    /// The completions that are generated once. If absent, they are drawn at every step.
    #[serde(flatten)]
    pub once: Option<PrecomputedRollouts>,
    pub sampling: Sampling,
}

fn routed() -> Role {
    Role::TEACHER
}

/// Completions that are generated once, before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PrecomputedRollouts {
    /// The total number of sequences.
    pub sequences: u32,
    pub keep: Keep,
}

impl Teacher {
    fn described(&self, sees: Option<FieldValue>, groups: Option<u32>) -> Fields {
        let fields = match self.writer {
            Role::TEACHER => Fields::new("teacher"),
            writer => Fields::new("teacher").with("writer", FieldValue::Role(writer)),
        };
        let fields = match sees {
            Some(sees) => fields.with("sees", sees),
            None => fields,
        };
        let fields = match self.once {
            Some(PrecomputedRollouts { sequences, keep }) => {
                fields.with("sequences", FieldValue::Count(sequences)).with("keep", FieldValue::Keep(keep))
            }
            None => fields,
        };
        fields.with_groups("batch", groups).with("sampling", FieldValue::Sampling(self.sampling.clone()))
    }
}

impl ProducerKind for Teacher {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.sees.clone().map(FieldValue::View), groups)
    }

    /// The fields without the template's name, which changes no result.
    fn key(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.sees.clone().map(|view| FieldValue::Pieces(view.pieces)), groups)
    }

    fn group(&self) -> u32 {
        if self.once.is_some() { 1 } else { self.sampling.n }
    }

    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        Some((Writer::Scorer(self.writer), &self.sampling))
    }

    fn sampling_mut(&mut self) -> Option<&mut Sampling> {
        Some(&mut self.sampling)
    }

    fn view(&self) -> Option<&View> {
        self.sees.as_ref()
    }

    fn once(&self) -> Option<PrecomputedRollouts> {
        self.once
    }

    fn once_mut(&mut self) -> Option<&mut PrecomputedRollouts> {
        self.once.as_mut()
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        match self.sees {
            None => Ok((Writer::Scorer(self.writer), &self.sampling)),
            Some(_) => Err("a teacher drew each token behind a template"),
        }
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        if self.once.is_some() { Some(0.0) } else { Some(of(Writer::Scorer(self.writer))? as f64) }
    }

    fn groups_setting(&self, groups: u32) -> String {
        let word = if self.once.is_some() { "batch" } else { "prompts" };
        format!("`{word} = {groups}`")
    }
}
