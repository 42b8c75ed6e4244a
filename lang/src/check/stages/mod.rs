//! The stages that make models: constructors, their settings, the weights they train, and the checks that
//! need a whole stage.

pub mod capability;
pub mod constructors;
pub mod domains;
pub mod guards;
mod idle;
pub mod joint;
pub mod lineage;
pub mod narrow_bounds;
pub mod optimizers;
mod pitfalls;
pub mod recipes;
pub mod rewards;
mod rollout_checks;
pub mod shares;
pub mod stage_checks;
pub mod streams;
pub mod trainable;
pub mod training;
mod unread;
