//! The environment of an expression: the names that it sees, and what it may read.

use std::rc::Rc;

use crate::check::names::modules::ModuleId;
use crate::check::values::value::{MemberKey, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluationContext {
    /// Known before the run: no signals.
    Constant,
    /// In a schedule: `step`, `progress` and other numbers of the whole run.
    Schedule,
    /// In a guard: numbers of past steps.
    Guard,
    /// In the summand of a divergence: its sides and parameters, nothing of the run.
    Entry,
    /// In an objective, outside its terms: signals, nothing live.
    Objective,
    /// In a term: signals, and `live`.
    Term,
}

impl EvaluationContext {
    /// Whether signals of tokens are visible in this context.
    pub fn has_tokens(self) -> bool {
        matches!(self, EvaluationContext::Objective | EvaluationContext::Term)
    }
}

/// The environment of an expression: the names it sees, and what it may read.
#[derive(Clone)]
pub struct Env {
    pub module: ModuleId,
    /// Shared until something is bound: an environment is copied for every call and every setting.
    pub locals: Rc<Vec<(Rc<str>, Value)>>,
    /// The members of families that variables among these belong to.
    pub turns: Rc<Vec<(Rc<str>, MemberKey)>>,
    pub context: EvaluationContext,
    /// The name for a model that is made in this expression.
    pub model_name: String,
}

impl Env {
    pub fn constant(module: ModuleId) -> Env {
        Env {
            module,
            locals: Rc::default(),
            turns: Rc::default(),
            context: EvaluationContext::Constant,
            model_name: String::new(),
        }
    }

    pub fn bind(&mut self, name: &str, value: Value) {
        Rc::make_mut(&mut self.locals).push((name.into(), value));
    }

    /// Binds the variable of a family in one of its members.
    pub fn bind_turn(&mut self, name: &str, key: MemberKey, value: Value) {
        self.bind(name, value);
        Rc::make_mut(&mut self.turns).push((name.into(), key));
    }

    /// The member of a family that a variable belongs to.
    pub fn turn(&self, name: &str) -> Option<&MemberKey> {
        self.turns.iter().rev().find(|(known, _)| **known == *name).map(|(_, key)| key)
    }

    pub fn with_context(&self, context: EvaluationContext) -> Env {
        Env { context, ..self.clone() }
    }

    pub fn named(&self, model_name: impl Into<String>) -> Env {
        Env { model_name: model_name.into(), ..self.clone() }
    }

    pub fn local(&self, name: &str) -> Option<&Value> {
        self.locals.iter().rev().find(|(local, _)| **local == *name).map(|(_, value)| value)
    }
}
