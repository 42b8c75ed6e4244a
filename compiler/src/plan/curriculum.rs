//! A choice of prompts that is made before steps, by what completions of every prompt are like.

use serde::{Deserialize, Serialize, Serializer};

use super::producers::{FieldValue, Fields, Producer};
use super::{Formula, ModelId, Scorers, Signal, View};

/// Before the first step, and again after so many, completions are drawn of every prompt of the stage.
/// Prompts that `filter` does not hold for do not come; the others come in the order of `priority`, until
/// prompts are chosen again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    /// One truth per prompt; it holds for all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Formula>,
    /// One number per prompt, the largest first; as prompts are shuffled where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Formula>,
    /// Never again where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<u32>,
    /// Completions that are drawn of each prompt, beside those that the stage trains on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rollouts: Vec<Producer>,
    /// What formulas read of them ([`Signal::Measured`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<CurriculumMeasure>,
}

/// One number per prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurriculumMeasure {
    /// Of which completions.
    pub rollout: u32,
    pub value: Formula,
}

impl Curriculum {
    /// The number of the choice that a step goes by.
    pub fn round(&self, step: u32) -> u32 {
        self.refresh.map_or(0, |steps| step / steps.max(1))
    }

    /// Choices of a stage of so many steps, at most.
    pub fn rounds(&self, steps: u32) -> u32 {
        self.refresh.map_or(1, |refresh| steps.div_ceil(refresh.max(1))).max(1)
    }

    /// Whether it looks at completions like those that the stage trains on.
    pub fn reads_own(&self) -> bool {
        let of_own = |signal: &Signal| !matches!(signal, Signal::Measured { .. }) && !is_of_run(signal);
        let formulas = self.filter.iter().chain(&self.priority);
        formulas.flat_map(|formula| formula.graph.signals(&[formula.value])).any(|signal| of_own(&signal))
    }

    /// Whether a number is the same whenever prompts are chosen: its completions are a frozen teacher's, who
    /// reads and writes the same during the whole run.
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
            || value.graph.signals(&[value.value]).iter().any(is_of_run)
            || teacher.sampling.max_tokens_moves.is_some();
        frozen && !moves
    }

    /// What enters a stage's key.
    pub(crate) fn meaning(&self, model: &dyn Fn(ModelId) -> FieldValue) -> CurriculumMeaning<'_> {
        let Curriculum { filter, priority, refresh, rollouts, measures } = self;
        let rollouts = rollouts.iter().map(|producer| producer.kind().key(None, model)).collect();
        CurriculumMeaning { filter, priority, refresh: *refresh, rollouts, measures }
    }
}

/// A number of the run, whatever the prompt.
pub(crate) fn is_of_run(signal: &Signal) -> bool {
    matches!(signal, Signal::Step | Signal::Progress)
}

#[derive(Serialize)]
pub(crate) struct CurriculumMeaning<'a> {
    filter: &'a Option<Formula>,
    priority: &'a Option<Formula>,
    refresh: Option<u32>,
    rollouts: Vec<Fields>,
    measures: &'a [CurriculumMeasure],
}

/// As one inside another.
impl Serialize for Producer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.kind().fields(None, &FieldValue::Model).serialize(serializer)
    }
}
