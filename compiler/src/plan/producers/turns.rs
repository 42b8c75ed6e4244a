//! `turns("python3 env.py", at_most: 30, sample(...))`: the student's turns, with a program's observations
//! between them.

use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::Deserialize;

use super::{Fields, Kind, ModelId, Producer, Sampling, Value, Writer, edit_name, sampling};
use crate::plan::{Moving, moving};
use crate::refusal::{Narrowed, Origins, refused};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Turns {
    /// A command; it runs in the folder of the experiment's file.
    pub environment: String,
    pub time_limit_seconds: f64,
    /// Files and folders that it reads besides its sources.
    #[serde(default)]
    pub depends: Vec<String>,
    /// The student's, of an episode.
    pub at_most: Moving,
    /// Of one turn.
    pub sampling: Sampling,
}

impl Turns {
    fn described(&self, fields: Fields, groups: Option<u32>) -> Fields {
        fields
            .with("at_most", Value::Moving(self.at_most.clone()))
            .with_groups("batch", groups)
            .with("sampling", Value::Sampling(self.sampling.clone()))
    }
}

impl Kind for Turns {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> Value) -> Fields {
        let fields = Fields::of("turns")
            .with("environment", Value::Text(self.environment.clone()))
            .with("time_limit_seconds", Value::Number(self.time_limit_seconds))
            .with("depends", Value::Texts(self.depends.clone()));
        self.described(fields, groups)
    }

    /// The files of `depends` enter a result's key by their content.
    fn key(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> Value) -> Fields {
        let fields = Fields::of("turns").with("environment", Value::Text(self.environment.clone()));
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

    fn turns(&self) -> u32 {
        self.at_most.largest().round().max(1.0) as u32
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Ok((Writer::Student, &self.sampling))
    }

    /// At each turn all that was said is read again.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(of(Writer::Student)? as f64 * f64::from(self.turns()))
    }

    fn asked(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}

pub(super) fn executable(rollout: &checked::Rollout, origins: Origins) -> Narrowed<Producer> {
    let RolloutSource::Turns { environment, time_limit_seconds, depends, at_most, of } = &rollout.source
    else {
        unreachable!("the caller has looked")
    };
    let at = origins.span(of.origin);
    if let Some(edit) = of.edits.first() {
        return Err(refused(at, edit_name(edit)));
    }
    let RolloutSource::Sample(drawn) = &of.source else {
        return Err(refused(at, format!("`turns` of the rollout `{}`", of.source.name())));
    };
    Ok(Producer::Turns(Turns {
        environment: environment.clone(),
        time_limit_seconds: *time_limit_seconds,
        depends: depends.clone(),
        at_most: moving(at_most, "an `at_most`", origins)?,
        sampling: sampling(drawn, origins, of.origin)?,
    }))
}
