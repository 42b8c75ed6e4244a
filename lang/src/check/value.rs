//! What an expression can be worth before the run.

use std::rc::Rc;

use crate::experiment::{DomainId, ModelId, Objective, Origin, Reward, Sampling};
use crate::formula::{Formula, FormulaKind, Role, Support};

use super::functions::Builtin;
use super::modules::ItemId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TeacherId(pub u32);

/// A frozen model in the role of a teacher.
#[derive(Clone, Debug)]
pub struct Teacher {
    /// `specialist[sort]`
    pub name: String,
    pub model: ModelId,
    pub origin: Origin,
    /// Some route chooses it.
    pub used: bool,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// A number, known now or per token.
    Formula(Formula),
    Text(String),
    List(Vec<Value>),
    Domain(DomainId),
    Model(ModelId),
    Teacher(TeacherId),
    /// One value per domain: `expert`, `specialist`.
    Family(Rc<Family>),
    Role(Role),
    /// `teacher || student`
    Versus {
        left: Role,
        right: Role,
    },
    /// `3e-3 -> 3e-4`
    Arrow {
        from: f64,
        to: f64,
    },
    Support(Support),
    Reward(Reward),
    Rollout(Rollout),
    /// An objective with its parameters filled in.
    Objective(Rc<Objective>),
    /// A `fn`, `stage` or `objective` that has not been called.
    Item {
        item: ItemId,
        kind: Callable,
    },
    Builtin(&'static Builtin),
    /// A mistake that has been reported. Fits everywhere.
    Error,
}

#[derive(Clone, Debug)]
pub struct Family {
    pub name: String,
    pub members: Vec<(DomainId, Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callable {
    Fn,
    Stage,
    Objective,
}

/// What `rollout = ...` says.
#[derive(Clone, Debug, PartialEq)]
pub enum Rollout {
    /// `sample(n: 1, temperature: 1.0, max_tokens: 24)`: by the student.
    Student(Sampling),
    /// `from(teacher, sequences: 9600, ...)`: by the routed teachers, once.
    Teacher { sequences: u32, sampling: Sampling },
}

impl Value {
    /// In the author's words, with an article.
    pub fn describe(&self) -> String {
        match self {
            Value::Formula(formula) => match formula.0.kind {
                FormulaKind::Number(_) => "a number".into(),
                FormulaKind::Schedule(_) => "a schedule".into(),
                _ => format!("a {} per {}", formula.unit().name(), formula.axis().name()),
            },
            Value::Text(_) => "a text".into(),
            Value::List(_) => "a list".into(),
            Value::Domain(_) => "a domain".into(),
            Value::Model(_) => "a model".into(),
            Value::Teacher(_) => "a teacher".into(),
            Value::Family(family) => format!("the family `{}`", family.name),
            Value::Role(role) => format!("the role `{}`", role.name()),
            Value::Versus { .. } => "a pair of distributions".into(),
            Value::Arrow { .. } => "a range `from -> to`".into(),
            Value::Support(_) => "a support".into(),
            Value::Reward(_) => "a reward".into(),
            Value::Rollout(_) => "a rollout".into(),
            Value::Objective(_) => "an objective".into(),
            Value::Item { kind: Callable::Fn, .. } => "a function".into(),
            Value::Item { kind: Callable::Stage, .. } => "a stage".into(),
            Value::Item { kind: Callable::Objective, .. } => "an objective".into(),
            Value::Builtin(builtin) => format!("the function `{}`", builtin.name),
            Value::Error => "an error".into(),
        }
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Value::Error)
    }

    /// A number known before the run.
    pub fn constant(&self) -> Option<f64> {
        match self {
            Value::Formula(formula) => match formula.0.kind {
                FormulaKind::Number(value) => Some(value),
                _ => None,
            },
            _ => None,
        }
    }
}
