//! `... |> keep(correct)`, `... |> best(reward, of: 1)`: a selection of the completions that are drawn of
//! each prompt.

use mopd_lang::experiment::Edit;
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, OfCompletions, Producer, ProducerKind, Sampling, Writer};
use crate::expr::graph::Graph;
use crate::plan::{Axis, Formula, Role};
use crate::refusal::{Converted, refused};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Chosen {
    #[serde(flatten)]
    pub choice: SampleChoice,
    pub of: Producer,
}

/// Which completions are kept.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "choice", rename_all = "snake_case")]
pub enum SampleChoice {
    /// Those for which a condition holds; there may be none. Per sequence.
    Keep { condition: Formula },
    /// The `count` completions with the largest numbers, of equal ones the first; in the order in which they
    /// were drawn. Per sequence.
    Best { by: Formula, count: u32 },
}

impl SampleChoice {
    pub fn formula(&self) -> &Formula {
        match self {
            SampleChoice::Keep { condition: formula } | SampleChoice::Best { by: formula, .. } => formula,
        }
    }
}

/// Whether the student must score completions before the formula can be evaluated.
pub fn reads_student(formula: &Formula) -> bool {
    let signals = formula.graph.signals(&[formula.value]);
    signals.iter().any(|signal| signal.roles().contains(&Role::Student))
}

/// A constant condition, per sequence.
pub(super) fn holding(holds: bool) -> Formula {
    let mut graph = Graph::default();
    let value = graph.constant(Axis::Sequence, f64::from(u8::from(holds)));
    Formula { graph, value }
}

impl Chosen {
    fn described(&self, of: Fields, groups: Option<u32>) -> Fields {
        let fields = Fields::of("chosen");
        let fields = match &self.choice {
            SampleChoice::Keep { condition } => fields
                .with("choice", FieldValue::Text("keep".to_owned()))
                .with("condition", FieldValue::Formula(condition.clone())),
            SampleChoice::Best { by, count } => fields
                .with("choice", FieldValue::Text("best".to_owned()))
                .with("by", FieldValue::Formula(by.clone()))
                .with("count", FieldValue::Count(*count)),
        };
        fields.with("of", FieldValue::Fields(of)).with_groups("batch", groups)
    }
}

impl ProducerKind for Chosen {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().fields(None, model), groups)
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().key(None, model), groups)
    }

    fn group(&self) -> u32 {
        let drawn = self.of.kind().group();
        if let SampleChoice::Best { count, .. } = self.choice { drawn.min(count) } else { drawn }
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    /// It chooses anew at every step.
    fn fresh(&self) -> bool {
        true
    }

    fn leaves_out(&self) -> bool {
        matches!(self.choice, SampleChoice::Keep { .. }) || self.of.kind().leaves_out()
    }

    fn settle(&mut self, holds: bool) {
        if let SampleChoice::Keep { condition } = &mut self.choice {
            *condition = holding(holds);
        }
        self.of.kind_mut().settle(holds);
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        self.of.kind().policy()
    }

    /// The cost of all completions that it chooses from.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let drawn = f64::from(self.of.kind().group().max(1)) / f64::from(self.group().max(1));
        let read = if reads_student(self.choice.formula()) { of(Writer::Student)? as f64 } else { 0.0 };
        Some(drawn * (self.of.kind().parameters(of)? + read))
    }

    fn asked(&self, groups: u32) -> String {
        self.of.kind().asked(groups)
    }

    fn undivided(&self) -> Option<&'static str> {
        self.choice
            .formula()
            .graph
            .compares_prompts()
            .then_some("a choice among completions that compares the prompts of a step")
    }
}

/// Whether an edit chooses among completions.
pub(super) fn makes(edit: &Edit) -> bool {
    matches!(edit, Edit::Keep { .. } | Edit::Best { .. })
}

/// The rollout after an edit; unchanged if the edit does not choose.
pub(super) fn executable(
    of: Producer,
    edit: &Edit,
    at: mopd_lang::source::Span,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let choice = match edit {
        Edit::Keep { condition } => {
            SampleChoice::Keep { condition: of_completions(condition, "a `keep`", Axis::Sequence)? }
        }
        Edit::Best { by, of } => {
            SampleChoice::Best { by: of_completions(by, "a `best`", Axis::Sequence)?, count: *of }
        }
        _ => return Ok(of),
    };
    if of.once().is_some() {
        let construct = format!("the edit `{}` of rollouts that are made once", edit.name());
        return Err(refused(at, construct));
    }
    Ok(Chosen { choice, of }.into())
}
