//! `... |> keep(correct)`, `... |> best(reward, of: 1)`: a selection of the completions that are drawn for
//! each prompt.

use mopd_expr::graph::Graph;
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::{Axis, Formula, Role};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Chosen {
    #[serde(flatten)]
    pub choice: SampleChoice,
    pub of: Producer,
}

/// The rule that selects completions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "choice", rename_all = "snake_case")]
pub enum SampleChoice {
    /// Completions for which a condition holds, possibly none. Per sequence.
    Keep { condition: Formula },
    /// The `count` completions with the largest numbers, of equal ones the first, in the order in which they
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

/// Whether the formula reads the student's scores of completions.
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
        let fields = Fields::new("chosen");
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

impl Producer {
    /// The producer whose completions are chosen from, and the choices in the order of application.
    pub fn before_choices(&self) -> (&Producer, Vec<&SampleChoice>) {
        match self {
            Producer::Chosen(chosen) => {
                let (producer, mut choices) = chosen.of.before_choices();
                choices.push(&chosen.choice);
                (producer, choices)
            }
            producer => (producer, Vec::new()),
        }
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

    /// True, because the choice is made anew at every step.
    fn is_redrawn(&self) -> bool {
        true
    }

    fn may_drop(&self) -> bool {
        matches!(self.choice, SampleChoice::Keep { .. }) || self.of.kind().may_drop()
    }

    fn assume_conditions(&mut self, holds: bool) {
        if let SampleChoice::Keep { condition } = &mut self.choice {
            *condition = holding(holds);
        }
        self.of.kind_mut().assume_conditions(holds);
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        self.of.kind().policy()
    }

    /// The cost of all completions from which it chooses.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let drawn = f64::from(self.of.kind().group().max(1)) / f64::from(self.group().max(1));
        let read = if reads_student(self.choice.formula()) { of(Writer::Student)? as f64 } else { 0.0 };
        Some(drawn * (self.of.kind().parameters(of)? + read))
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
