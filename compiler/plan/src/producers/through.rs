//! `... |> through("python3 edit.py")`: completions that an author's program may rewrite or leave out.

use mopd_experiment::without_absolute_paths;
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, PrecomputedRollouts, Producer, ProducerKind, Sampling, Writer};
use crate::failures::FailureKind;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Through {
    /// The command, which runs in the folder of the experiment's file.
    pub command: String,
    /// The limit for the completions of a batch.
    pub time_limit_seconds: f64,
    /// Files and folders that the program depends on besides its sources.
    #[serde(default)]
    pub depends: Vec<String>,
    pub of: Producer,
}

/// An author's program that a producer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerProgram<'a> {
    pub command: &'a str,
    /// Files and folders that the program depends on besides its sources.
    pub depends: &'a [String],
    /// The kind of failure to report for it.
    pub kind: FailureKind,
}

impl Producer {
    /// Whether all of its completions are sampled, at a step or before, so that none is from the data or a
    /// side of a pair.
    pub fn is_drawn(&self) -> bool {
        self.fields_of_data().is_empty() && !matches!(self, Producer::Pairs(_))
    }

    /// The programs that it starts.
    pub fn programs(&self) -> Vec<ProducerProgram<'_>> {
        self.all().into_iter().filter_map(|producer| producer.kind().program()).collect()
    }

    /// The producer without its edits.
    pub fn unedited(&self) -> &Producer {
        self.kind().edited().map_or(self, Producer::unedited)
    }
}

impl ProducerKind for Through {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("through")
            .with("command", FieldValue::Text(self.command.clone()))
            .with("time_limit_seconds", FieldValue::Number(self.time_limit_seconds))
            .with("depends", FieldValue::Texts(self.depends.clone()))
            .with("of", FieldValue::Fields(self.of.kind().fields(None, model)))
            .with_groups("batch", groups)
    }

    /// The fields without paths: the content of these files is added to a result's key at run time.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("through")
            .with("command", FieldValue::Text(without_absolute_paths(&self.command)))
            .with("of", FieldValue::Fields(self.of.kind().key(None, model)))
            .with_groups("batch", groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    fn program(&self) -> Option<ProducerProgram<'_>> {
        let Through { command, depends, .. } = self;
        Some(ProducerProgram { command, depends, kind: FailureKind::Edit })
    }

    fn edited(&self) -> Option<&Producer> {
        Some(&self.of)
    }

    fn once(&self) -> Option<PrecomputedRollouts> {
        self.of.once()
    }

    fn once_mut(&mut self) -> Option<&mut PrecomputedRollouts> {
        self.of.once_mut()
    }

    fn may_drop(&self) -> bool {
        self.of.is_redrawn()
    }

    fn draws_inside(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("a program may have changed the text")
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        self.of.kind().parameters(of)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
