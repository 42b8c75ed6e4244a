//! The contexts of expressions, which decide the visible names of the run, by the evaluator's rules.

use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use crate::syntax::quotes::{self, NameInBraces};

use super::NameTarget;
use super::walk::{Scope, Walk};
use crate::check::builtins::declare::BuiltinParameter;
use crate::check::builtins::kinds::{ArgumentKind, SettingKey};
use crate::check::builtins::{Builtin, vocabulary};
use crate::check::teachers::slots::part_of_slot;
use crate::check::teachers::templates::{TextSegment, WrittenText, slot_expression};
use crate::check::values::environment::EvaluationContext;

/// The scope of a setting's value.
pub(super) fn of_setting(scope: Scope, key: &SettingKey) -> Scope {
    match (key.takes, key.name) {
        (ArgumentKind::Guards, _) => scope.within(EvaluationContext::Guard),
        (ArgumentKind::Schedule, _) | (_, "shares") => scope.within(EvaluationContext::Schedule),
        // A condition on completions, in an objective or in the stage that uses it.
        (ArgumentKind::Condition, _) | (_, "priority") => scope.within(EvaluationContext::Objective),
        _ => scope,
    }
}

/// The scope of an argument of a built-in.
pub(super) fn of_argument(scope: Scope, builtin: &Builtin, parameter: &BuiltinParameter) -> Scope {
    match (builtin.name, parameter.name) {
        // Schedules move by numbers that are measured after a step.
        ("ladder", "advance_if") | ("learned", "gain") => scope.within(EvaluationContext::Objective),
        // A condition on the rows of a data set.
        ("dataset", "filter") => scope.within(EvaluationContext::Objective),
        ("warn" | "stop" | "lower_lr", "condition") | ("initial" | "recent", "x") => scope,
        ("warn" | "stop" | "lower_lr" | "initial" | "recent", _) => scope.within(EvaluationContext::Constant),
        _ if matches!(parameter.takes, ArgumentKind::Schedule) => scope.within(EvaluationContext::Schedule),
        _ => scope,
    }
}

impl Walk<'_> {
    /// Visits the slots of a template's text, which may be in a file.
    pub(super) fn template(&mut self, scope: &Scope, text: &Expr) {
        let sources = self.sources;
        if !matches!(text.kind, ExprKind::Text(_)) {
            self.expr(scope, text);
        }
        // Faulty texts have been reported.
        let Some(written) = WrittenText::new(sources, self.modules, scope.module, text) else { return };
        let Ok(stretches) = written.stretches() else { return };
        for stretch in stretches {
            let TextSegment::Slot(span) = stretch else { continue };
            let Some(expr) = slot_expression(span, sources.text(span)).0 else { continue };
            match part_of_slot(&expr) {
                Some((_, slot, share)) => {
                    self.slot(scope, &slot.value);
                    self.place(
                        &scope.within(EvaluationContext::Schedule),
                        &share.value,
                        ArgumentKind::Schedule,
                    );
                }
                None => self.slot(scope, &expr),
            }
        }
    }

    /// Variables and parameters in the braces of a text.
    pub(super) fn names_in_text(&mut self, text: &Expr) {
        let written = quotes::inside(self.sources.text(text.span));
        let start = text.span.start as usize;
        for NameInBraces { name, braces: (open, close) } in quotes::names_in(&written) {
            if let Some((_, target)) = self.locals.iter().rev().find(|(local, _)| *local == name) {
                self.record(Span::new(text.span.file, start + open + 1, start + close), *target);
            }
        }
    }

    /// Visits a slot: a parameter, or a field of the data or name of the run, before any item of the file.
    /// Any other expression in braces is a number.
    fn slot(&mut self, scope: &Scope, expr: &Expr) {
        let inner = &scope.within(EvaluationContext::Objective);
        match &expr.kind {
            ExprKind::Name(name) if name == "_" => {}
            ExprKind::Name(name) => {
                let local = self.locals.iter().rev().find(|(local, _)| local == name);
                let target = local.map_or(NameTarget::Field, |(_, target)| *target);
                let signal = vocabulary::signal(name).filter(|_| local.is_none());
                self.record(expr.span, signal.map_or(target, NameTarget::Signal));
            }
            ExprKind::Call { callee, arguments, block: None } => match &callee.kind {
                ExprKind::Name(name) if name == "shuffled" => {
                    arguments.iter().for_each(|argument| self.slot(scope, &argument.value));
                }
                ExprKind::Name(name) if name == "short" => {
                    for (at, argument) in arguments.iter().enumerate() {
                        let named = argument.name.as_ref().map(|name| name.text.as_str());
                        match named {
                            Some("slot") => self.slot(scope, &argument.value),
                            None if at == 0 => self.slot(scope, &argument.value),
                            _ => self.expr(scope, &argument.value),
                        }
                    }
                }
                _ => self.expr(inner, expr),
            },
            ExprKind::Field { base, .. } => {
                let fixed = |name: &str| matches!(name, "group" | "data");
                if !matches!(&base.kind, ExprKind::Name(name) if fixed(name)) {
                    self.expr(inner, expr);
                }
            }
            _ => self.expr(inner, expr),
        }
    }
}
