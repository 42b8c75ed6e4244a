//! The one training loop: fine-tuning, reinforcement learning and distillation differ in where sequences come
//! from ([`batches`]) and in the objective, which the compiler has made into a graph.
//!
//! A step computes signals and live primitives at the completion tokens, without gradient. The objective's
//! program turns them into the loss and into d loss / d primitive, per token; a second pass over the
//! vocabulary carries that on into the student's last hidden states and LM head ([`vocabulary`]), and
//! libtorch from there into the weights.
//!
//! The modules are layers: each imports only modules that are listed before it (the test `layering` checks
//! it). From the bottom to the top:
//!
//! - what is trained: [`learner_turn`], [`route`], [`stage`]
//! - the parameters that change, and optimizers: [`master`], [`elements`], [`trained`],
//!   [`optimizer`]
//! - the objective, as a program: [`objective`]
//! - the sequences of a step, and how a model reads them: [`sequences`], [`completions`], [`views`],
//!   [`packing`]
//! - distributions over the vocabulary, and the models that they come from: [`tensor_graph`], [`vocabulary`],
//!   [`other_tokenizer`], [`models`]
//! - the weights that are updated: [`student`]
//! - step 1, the batch: [`rollouts`], [`privacy`], [`mini_batches`], [`batches`]
//! - steps 2 to 5, scores, signals, objective and gradient: [`scoring`], [`agreement`], [`non_finite`],
//!   [`sampler_gap`], [`part`]
//! - numbers about a step: [`diagnostics`], [`tokens`], [`progress`]
//! - what a stage does besides updates, a file for each feature: [`hooks`]
//! - a whole step, with step 6, the update: [`trainer`]
//! - the steps of a stage that another engine trains: [`engine_steps`]
//! - the loop over the steps: [`learners`], [`checkpoints`], [`steps`]

mod agreement;
mod batches;
mod checkpoints;
mod completions;
mod diagnostics;
mod elements;
mod engine_steps;
mod hooks;
mod learner_turn;
mod learners;
mod master;
mod mini_batches;
mod models;
mod non_finite;
mod objective;
mod optimizer;
mod other_tokenizer;
mod packing;
mod part;
pub mod privacy;
mod progress;
mod rollouts;
mod route;
mod sampler_gap;
mod scoring;
mod sequences;
mod stage;
mod steps;
mod student;
mod tensor_graph;
#[cfg(test)]
mod tests;
mod tokens;
pub mod trained;
mod trainer;
mod views;
pub mod vocabulary;

pub use self::batches::RolloutCache;
pub use self::checkpoints::{Checkpoints, Pace};
pub use self::engine_steps::{Completed, EngineSteps, ReportedStep};
pub use self::hooks::guards;
pub use self::learner_turn::LearnerTurn;
pub use self::models::fits_in_memory;
pub use self::non_finite::check_weights;
pub use self::route::{RoutedTeacher, SourceTeachers};
pub use self::scoring::{AT_MOST, ScoreCache, ScoredBatch};
pub use self::sequences::{Group, RolloutsBySource};
pub use self::stage::{NoiseSecret, Source, Stage, beginning};
pub use self::steps::{FinishedTraining, StoppedTraining, train, train_in_turns};
pub use self::student::initial_adapter;
pub use self::trainer::RestoreMode;
