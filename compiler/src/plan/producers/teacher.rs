//! `from(teacher, ...)`: rollouts of the routed teachers, or of one by name, made once before the first step
//! (`sequences`) or fresh every step (`n`).

use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::Deserialize;

use super::{Fields, Kind, ModelId, Producer, Sampling, Value, Writer, sampling, sampling_once};
use crate::plan::{Keep, Role};
use crate::refusal::{Narrowed, Origins, refused, role};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Teacher {
    /// Which of the stage's scorers.
    #[serde(default = "routed")]
    pub writer: Role,
    /// What is made before the first step; fresh every step where absent.
    #[serde(flatten)]
    pub once: Option<Once>,
    pub sampling: Sampling,
}

fn routed() -> Role {
    Role::TEACHER
}

/// What is made once, before the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Once {
    /// In all.
    pub sequences: u32,
    pub keep: Keep,
}

impl Kind for Teacher {
    fn fields(&self, groups: Option<u32>, _: &dyn Fn(ModelId) -> Value) -> Fields {
        let fields = match self.writer {
            Role::TEACHER => Fields::of("teacher"),
            writer => Fields::of("teacher").with("writer", Value::Role(writer)),
        };
        let fields = match self.once {
            Some(Once { sequences, keep }) => {
                fields.with("sequences", Value::Count(sequences)).with("keep", Value::Keep(keep))
            }
            None => fields,
        };
        fields.with_groups("batch", groups).with("sampling", Value::Sampling(self.sampling.clone()))
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

    fn once(&self) -> Option<Once> {
        self.once
    }

    fn once_mut(&mut self) -> Option<&mut Once> {
        self.once.as_mut()
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Ok((Writer::Scorer(self.writer), &self.sampling))
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        if self.once.is_some() { Some(0.0) } else { Some(of(Writer::Scorer(self.writer))? as f64) }
    }

    fn asked(&self, groups: u32) -> String {
        let word = if self.once.is_some() { "batch" } else { "prompts" };
        format!("`{word} = {groups}`")
    }
}

pub(super) fn executable(rollout: &checked::Rollout, keep: Keep, origins: Origins) -> Narrowed<Producer> {
    let at = origins.span(rollout.origin);
    let RolloutSource::From { teacher, sees, sequences, sampling: of } = &rollout.source else {
        unreachable!("the caller has looked")
    };
    if sees.is_some() {
        return Err(refused(at, "rollouts of a teacher that sees a template"));
    }
    let once = sequences.map(|sequences| Once { sequences, keep });
    if once.is_none() && keep != Keep::All {
        return Err(refused(at, "`keep = correct` of rollouts that are fresh every step"));
    }
    let drawn = if once.is_some() { sampling_once } else { sampling };
    let sampling = drawn(of, origins, rollout.origin)?;
    let writer = role(teacher, origins.at(rollout.origin))?;
    Ok(Producer::of_scorer(writer, once, sampling))
}
