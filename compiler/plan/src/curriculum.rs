//! A choice of prompts before steps, by measures of completions of every prompt.

use serde::{Deserialize, Serialize, Serializer};

use super::producers::{FieldValue, Fields, Producer};
use super::{Formula, ModelId, Scorers, Signal, View};

/// Chooses prompts before the first step, and again every `refresh` steps: by their rows, by states, and by
/// completions that are drawn for every prompt of the stage. Prompts for which `filter` is false are left
/// out. The others are used in the order of `priority`, until prompts are chosen again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    /// One bool per prompt; true for all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Formula>,
    /// One number per prompt, the largest first. If absent, the order is shuffled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Formula>,
    /// The steps between two choices. If absent, there is a single choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<u32>,
    /// Completions drawn for each prompt, besides those that the stage trains on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollouts: Vec<Producer>,
    /// The measures of these completions that formulas read ([`Signal::Measured`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<CurriculumMeasure>,
}

/// A measure: one number per prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurriculumMeasure {
    /// The index of the measured rollout.
    pub rollout: u32,
    pub value: Formula,
}

impl Curriculum {
    /// The number of the choice that applies to a step.
    pub fn round(&self, step: u32) -> u32 {
        self.refresh.map_or(0, |steps| step / steps.max(1))
    }

    /// The number of choices in a stage of `steps` steps, at most.
    pub fn rounds(&self, steps: u32) -> u32 {
        self.refresh.map_or(1, |refresh| steps.div_ceil(refresh.max(1))).max(1)
    }

    /// Whether a formula reads completions like those that the stage trains on.
    pub fn reads_own(&self) -> bool {
        let of_own = |signal: &Signal| {
            !matches!(signal, Signal::Measured { .. }) && !signal.is_of_step() && !signal.is_of_prompt()
        };
        self.signals().any(|signal| of_own(&signal))
    }

    /// Whether completions are drawn to choose prompts.
    pub fn draws(&self) -> bool {
        !self.rollouts.is_empty() || self.reads_own()
    }

    /// What its formulas read.
    pub fn signals(&self) -> impl Iterator<Item = Signal> {
        let formulas = self.filter.iter().chain(&self.priority);
        formulas.flat_map(|formula| formula.graph.signals(&[formula.value]))
    }

    /// Whether a measure is the same at every choice, because its completions are those of a frozen teacher,
    /// whose prompts and weights do not change during the run.
    pub fn is_fixed(&self, measure: &CurriculumMeasure, scorers: &Scorers) -> bool {
        let Some(Producer::Teacher(teacher)) = self.rollouts.get(measure.rollout as usize) else {
            return false;
        };
        let choices = scorers.choices(teacher.writer);
        let reads_the_same = |own: Option<&View>| teacher.sees.as_ref().or(own).is_none_or(View::is_fixed);
        let frozen = choices
            .iter()
            .all(|choice| choice.teacher.model().is_some() && reads_the_same(choice.sees.as_ref()));
        let value = &measure.value;
        let moves = value.graph.moves(&[value.value])
            || value.graph.signals(&[value.value]).iter().any(Signal::is_of_step)
            || teacher.sampling.moves();
        frozen && !moves
    }

    /// The curriculum's part of a stage's key.
    pub fn meaning(&self, model: &dyn Fn(ModelId) -> FieldValue) -> CurriculumMeaning<'_> {
        let Curriculum { filter, priority, refresh, rollouts, measures } = self;
        let rollouts = rollouts.iter().map(|producer| producer.kind().key(None, model)).collect();
        CurriculumMeaning { filter, priority, refresh: *refresh, rollouts, measures }
    }
}

#[derive(Serialize)]
pub struct CurriculumMeaning<'a> {
    filter: &'a Option<Formula>,
    priority: &'a Option<Formula>,
    refresh: Option<u32>,
    rollouts: Vec<Fields>,
    measures: &'a [CurriculumMeasure],
}

/// Serialised like a producer inside another one.
impl Serialize for Producer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.kind().fields(None, &FieldValue::Model).serialize(serializer)
    }
}
