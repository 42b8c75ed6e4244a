//! Items that are called, with the kind of call and their parameters.

use crate::syntax::ast::{DivergenceItem, ItemKind, Name, Parameter};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callable {
    Fn,
    Stage,
    Objective,
    Template,
    Divergence,
    Rollout,
    Teacher,
}

/// The kind of call that an item needs. `None` where it has a value of its own.
pub fn callable(kind: &ItemKind) -> Option<Callable> {
    Some(match kind {
        ItemKind::Fn { .. } => Callable::Fn,
        ItemKind::Stage { .. } => Callable::Stage,
        ItemKind::Objective { .. } => Callable::Objective,
        ItemKind::Divergence(_) => Callable::Divergence,
        ItemKind::Template { parameters, .. } if !parameters.is_empty() => Callable::Template,
        ItemKind::Rollout { parameters, .. } if !parameters.is_empty() => Callable::Rollout,
        ItemKind::Teacher { parameters, .. } if !parameters.is_empty() => Callable::Teacher,
        _ => return None,
    })
}

/// The name and parameters of an item that can have parameters.
pub fn signature(kind: &ItemKind) -> Option<(&Name, &[Parameter])> {
    Some(match kind {
        ItemKind::Fn { name, parameters, .. }
        | ItemKind::Stage { name, parameters, .. }
        | ItemKind::Objective { name, parameters, .. }
        | ItemKind::Divergence(DivergenceItem { name, parameters, .. })
        | ItemKind::Template { name, parameters, .. }
        | ItemKind::Rollout { name, parameters, .. } => (name, parameters),
        ItemKind::Teacher { binding, parameters } => (&binding.name, parameters),
        _ => return None,
    })
}
