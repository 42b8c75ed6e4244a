//! `turns(python("shop.py:Shop"), at_most: 30, sample(...))`: the student's turns, with a program's
//! observations between them.

use mopd_experiment::{EnvironmentProgram, ExpertTurns};
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, ProducerKind, ProducerProgram, Sampling, Writer};
use crate::failures::FailureKind;
use crate::{AdaptiveSchedule, Formula};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Turns {
    /// It runs in the folder of the experiment's file.
    pub environment: EnvironmentProgram,
    pub time_limit_seconds: f64,
    /// Files and folders that the program depends on besides its sources.
    #[serde(default)]
    pub depends: Vec<String>,
    /// The most turns of the student in an episode.
    pub at_most: AdaptiveSchedule,
    /// `first_turns`: the number of turns that are trained on.
    #[serde(default)]
    pub first_turns: Option<Formula>,
    #[serde(default)]
    pub expert_turns: Option<ExpertTurns<Formula>>,
    /// The sampling settings of one turn.
    pub sampling: Sampling,
}

impl Turns {
    fn described(&self, fields: Fields, groups: Option<u32>) -> Fields {
        let mut fields = fields.with("at_most", FieldValue::Moving(self.at_most.clone()));
        if let Some(turns) = &self.first_turns {
            fields = fields.with("first_turns", FieldValue::Formula(turns.clone()));
        }
        if let Some(expert) = &self.expert_turns {
            let (name, turns) = match expert {
                ExpertTurns::First(turns) => ("first", turns),
                ExpertTurns::AllBut(turns) => ("all_but", turns),
            };
            let turns = Fields::default().with(name, FieldValue::Formula(turns.clone()));
            fields = fields.with("expert_turns", FieldValue::Fields(turns));
        }
        fields.with_groups("batch", groups).with("sampling", FieldValue::Sampling(self.sampling.clone()))
    }
}

impl ProducerKind for Turns {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        let fields = Fields::new("turns")
            .with("environment", FieldValue::Environment(self.environment.clone()))
            .with("time_limit_seconds", FieldValue::Number(self.time_limit_seconds))
            .with("depends", FieldValue::Texts(self.depends.clone()));
        self.described(fields, groups)
    }

    /// The fields without paths: the content of these files is added to a result's key at run time.
    fn key(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        let environment = FieldValue::Environment(self.environment.without_paths());
        let fields = Fields::new("turns").with("environment", environment);
        self.described(fields, groups)
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

    fn environment(&self) -> Option<&Turns> {
        Some(self)
    }

    fn program(&self) -> Option<ProducerProgram<'_>> {
        let (command, depends) = (self.environment.command(), &self.depends);
        Some(ProducerProgram { command, depends, kind: FailureKind::Environment })
    }

    fn turns(&self) -> u32 {
        self.at_most.largest().round().max(1.0) as u32
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Ok((Writer::Student, &self.sampling))
    }

    /// The cost, where each turn processes the whole conversation again.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(of(Writer::Student)? as f64 * f64::from(self.turns()))
    }

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}
