//! What a part is scored with.

use mopd_plan::Role;

use super::cached_scores::CachedScores;
use super::recorded_text::RecordedTexts;
use super::text_spans::Tags;
use crate::model::Decoder;
use crate::train::batches::Batches;
use crate::train::models::Models;
use crate::train::objective::Losses;
use crate::train::stage::Stage;
use crate::train::trained::TrainedParameters;
use crate::train::views::StepContext;

/// The models that score the completions of a part, with what they need.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    pub stage: &'a Stage<'a>,
    /// The student.
    pub model: &'a Decoder,
    /// The student's trained parameters.
    pub trained: &'a TrainedParameters,
    pub models: &'a Models,
    pub roles: &'a [Role],
    pub batches: &'a Batches,
    pub tags: Option<&'a Tags>,
    pub kept: Option<&'a CachedScores<'a>>,
    /// Texts whose log-probability the student computes.
    pub recorded: &'a RecordedTexts,
    /// The losses of the previous step.
    pub losses: &'a Losses,
}

impl Scoring<'_> {
    pub fn now(&self, step: u32) -> StepContext {
        StepContext { step, learned: self.batches.learned() }
    }
}
