//! The scores of every role at the completion tokens, and the gradient back through them.
//!
//! The last hidden states of every role are computed first, in micro-batches where the stage has them, and
//! concatenated: from then on the step is one batch, and no number depends on how the sequences were divided.
//! With several micro-batches, the backward pass recomputes the student's hidden states for each of them.
//!
//! As in `train`, each module imports only modules that are listed before it:
//!
//! - signals that need no scorer: [`data_signals`], [`panels`], [`text_spans`]
//! - the student's own log-probability of other text: [`recorded_text`]
//! - hidden states of frozen models, computed once: [`cached_scores`]
//! - the models that score a part: [`context`], and which of them scores which sequences: [`runs`]
//! - the student's pass: [`pass`], [`spans`]
//! - the logits of the other roles: [`remote_scores`], [`logits`], [`compose`]
//! - all signals and live primitives of a step: [`score`](mod@score)
//! - from d loss / d primitive into the weights: [`backward`]

mod backward;
mod cached_scores;
mod compose;
mod context;
mod data_signals;
mod logits;
mod panels;
mod pass;
mod recorded_text;
mod remote_scores;
mod runs;
mod score;
mod spans;
mod text_spans;

pub use self::cached_scores::{AT_MOST, CachedScores, ScoreCache, ScoredBatch};
pub use self::context::Scoring;
pub use self::data_signals::{given, of_data};
pub use self::panels::unstated_confidences;
pub use self::pass::ScoringPass;
pub use self::recorded_text::{RecordedTexts, logp, rows_at_once};
pub use self::runs::{ScoringRun, missing_scorer, runs};
pub use self::score::{STUDENT_ENTROPY, STUDENT_LOGP, TEACHER_LOGP, score, score_student};
pub use self::text_spans::Tags;
