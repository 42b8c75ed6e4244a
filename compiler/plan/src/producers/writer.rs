//! The models that write completions.

use crate::{ModelId, Role};

/// The writer of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The student of this step.
    Student,
    /// A scorer of the stage: the routed teacher of the prompt, or a named one.
    Scorer(Role),
    /// A scorer of the stage that reads a draft, in a template of the rollout or in its own template.
    Editor { editor: Role, sees: bool },
    /// A scorer of the stage that affects each token of the student.
    Guide(Role),
    /// A model that does not change.
    Model(ModelId),
}
