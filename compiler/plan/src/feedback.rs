//! Feedback that another model writes about each completion, before its teachers score it (arXiv:2606.14368).

use serde::{Deserialize, Serialize};

use super::views::Piece;
use super::{DomainId, ModelSignal, Objective, Role, Sampling, Scorers, Signal, View};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// The name of the teacher whose template shows the feedback.
    pub name: String,
    /// The scorer of the stage that writes it.
    pub writer: Role,
    /// The writer's template, in which the completion is the draft. If absent, the writer's template as a
    /// scorer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<View>,
    /// The sampling settings of the feedback.
    pub sampling: Sampling,
}

/// Feedback in a key: without the name of its teacher, whose template is part of the key as a scorer's.
#[derive(Serialize)]
pub struct FeedbackMeaning<'a> {
    writer: Role,
    sees: Option<&'a [Piece]>,
    sampling: &'a Sampling,
}

impl Feedback {
    pub fn meaning(&self) -> FeedbackMeaning<'_> {
        let Feedback { name: _, writer, sees, sampling } = self;
        FeedbackMeaning { writer: *writer, sees: sees.as_ref().map(|view| view.pieces.as_slice()), sampling }
    }

    pub fn sees(&self) -> Option<&View> {
        self.sees.as_ref()
    }

    /// The most tokens that the writer reads and writes besides a prompt. `completion` is in tokens.
    pub fn tokens(&self, completion: u32) -> u32 {
        let drafts = self.sees.as_ref().map_or(0, View::drafts);
        completion.saturating_mul(drafts).saturating_add(self.sampling.max_tokens)
    }

    /// Whether the feedback is written for completions of a domain.
    pub fn is_written(&self, scorers: &Scorers, domain: DomainId) -> bool {
        scorers.choices(self.writer).iter().any(|choice| choice.domain == domain)
    }
}

impl Objective {
    /// The roles for which the objective reads whether their own completions are right, each once.
    pub fn attempts(&self) -> Vec<Role> {
        let mut roles: Vec<Role> = self
            .signals()
            .into_iter()
            .filter_map(|signal| match signal {
                Signal::Of { role, part: ModelSignal::Correct } => Some(role),
                _ => None,
            })
            .collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }
}
