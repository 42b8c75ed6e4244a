//! `each_turn(data(trajectory), sample(...))`: the student's turns in place of the assistant's turns of a
//! recorded trajectory, each after the recorded turns before it.

use mopd_lang::experiment::{self as checked, BatchSize, RolloutSource};
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer, edit_name, sampling};
use crate::Keep;
use crate::refusal::{Converted, Origins, refused};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct EachTurn {
    /// The field of the data with the trajectory: a list of messages.
    pub trajectory: String,
    /// The student.
    pub of: Producer,
}

impl EachTurn {
    /// The sampling settings of a turn.
    pub fn sampling(&self) -> &Sampling {
        self.of.sampling().expect("the student writes")
    }
}

impl ProducerKind for EachTurn {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("each_turn")
            .with("trajectory", FieldValue::Text(self.trajectory.clone()))
            .with("of", FieldValue::Fields(self.of.kind().fields(None, model)))
            .with_groups("batch", groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    /// `None`, because the number of turns of a trajectory is known only from the data.
    fn rows(&self) -> Option<u32> {
        None
    }

    fn trajectory(&self) -> Option<&str> {
        Some(&self.trajectory)
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        self.of.kind().policy()
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        self.of.kind().parameters(of)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}

/// Converts the source. It must be a stage's own rollout: a step then draws trajectories, not prompts, so it
/// can't be combined with other rollouts.
pub(super) fn executable(train: &checked::Train, origins: Origins) -> Converted<Producer> {
    let rollout = &train.rollout;
    let RolloutSource::EachTurn { history, of } = &rollout.source else {
        unreachable!("the caller has looked")
    };
    let (at, recorded, inside) =
        (origins.span(rollout.origin), origins.span(history.origin), origins.span(of.origin));
    if let Some(edit) = rollout.edits.first() {
        return Err(refused(at, format!("the edit `{}` of the rollout `each_turn`", edit.name())));
    }
    for (edited, at) in [(history, recorded), (of, inside)] {
        if let Some(edit) = edited.edits.first() {
            return Err(refused(at, edit_name(edit)));
        }
    }
    let RolloutSource::Data { field: trajectory } = &history.source else {
        let construct = format!("`each_turn` of trajectories from `{}`", history.source.name());
        return Err((*refused(recorded, construct))
            .help("read them from the data: `data(trajectory)`")
            .into());
    };
    let RolloutSource::Sample(drawn) = &of.source else {
        return Err(refused(inside, format!("`each_turn` of the rollout `{}`", of.source.name())));
    };
    if train.keep != Keep::All {
        return Err(refused(at, "`keep = correct` of the rollout `each_turn`"));
    }
    if let Some(filter) = &train.filter {
        return Err(refused(origins.span(filter.0.origin), "a `filter` of the rollout `each_turn`"));
    }
    if let BatchSize::Sequences(_) = train.size {
        let construct = "a batch of the rollout `each_turn` that is counted in sequences";
        return Err((*refused(at, construct)).help("count trajectories: `prompts = 8`").into());
    }
    let of = Producer::student(sampling(drawn, origins, of.origin)?);
    Ok(EachTurn { trajectory: trajectory.clone(), of }.into())
}
