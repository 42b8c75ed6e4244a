//! `refine(by: editor, of: sample(...), sees: draft_shown)`: the student's drafts, rewritten by a teacher
//! that sees the draft.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::{Role, View};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Refine {
    /// The scorer of the stage that rewrites drafts.
    pub by: Role,
    /// The writer's template. If absent, its template as a scorer.
    #[serde(default)]
    pub sees: Option<View>,
    /// The producer of the drafts, which is the student's.
    pub of: Producer,
}

impl Refine {
    fn described(
        &self,
        sees: Option<FieldValue>,
        groups: Option<u32>,
        model: &dyn Fn(ModelId) -> FieldValue,
    ) -> Fields {
        let fields = Fields::new("refine").with("by", FieldValue::Role(self.by));
        let fields = match sees {
            Some(sees) => fields.with("sees", sees),
            None => fields,
        };
        fields.with("of", FieldValue::Fields(self.of.kind().fields(None, model))).with_groups("batch", groups)
    }

    fn sampling(&self) -> &Sampling {
        self.of.sampling().expect("the student drafts")
    }
}

impl ProducerKind for Refine {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.sees.clone().map(FieldValue::View), groups, model)
    }

    /// The fields without the template's name, which changes no result.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.sees.clone().map(|view| FieldValue::Pieces(view.pieces)), groups, model)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    /// The editor. The student is the writer of the producer inside.
    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        let (editor, sees) = (self.by, self.sees.is_some());
        Some((Writer::Editor { editor, sees }, self.sampling()))
    }

    fn view(&self) -> Option<&View> {
        self.sees.as_ref()
    }

    fn drafts(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("a teacher rewrote the student's draft")
    }

    /// The cost of a draft, and of its revision.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(self.of.kind().parameters(of)? + of(Writer::Scorer(self.by))? as f64)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
