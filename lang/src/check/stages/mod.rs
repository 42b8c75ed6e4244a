//! The stages that make models: constructors, their settings, what they train and how, and what only a stage
//! as a whole can get wrong.

pub mod constructors;
pub mod guards;
pub mod joint;
pub mod lineage;
pub mod optimizers;
pub mod recipes;
mod rollout_checks;
pub mod settings;
mod shares;
pub mod stage_checks;
pub mod streams;
pub mod trainable;
pub mod training;
