//! `each_turn(data(trajectory), sample(...))`: the student's turns in place of the assistant's turns of a
//! recorded trajectory, each after the recorded turns before it.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};

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
