//! Values as roles: whose distribution a formula reads.

pub mod pooled;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Argument, Expr, Name};
use mopd_experiment::formula::{Distribution, Role};
use mopd_experiment::{SelfCopy, Stage};

use crate::check::builtins::{self, BuiltinKind};
use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, plain_teachers};
use crate::check::names::callable::Callable;
use crate::check::read::{arguments, expected, numbers, reads};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Role => |checker, given, env| {
        let value = checker.evaluate(given.expr, env);
        role_of(checker, value, given.expr.span, "expected a role, such as `teacher`")
    };
}

/// The role of a value: a role itself, or a declared teacher, which then counts as used.
pub fn role_of(declarations: &mut Declarations, value: Value, span: Span, wanted: &str) -> Option<Role> {
    match value {
        Value::Role(role) => {
            if let Role::Named { teacher, .. } = &role {
                declarations.parts.used_teachers[teacher.0 as usize] = true;
            }
            Some(role)
        }
        Value::Teacher(teacher) => {
            declarations.parts.used_teachers[teacher.0 as usize] = true;
            Some(Role::Named { teacher, name: declarations.parts.teacher(teacher).name.as_str().into() })
        }
        other => {
            expected::wrong_kind(declarations, span, wanted, &other);
            None
        }
    }
}

/// One side of a divergence.
pub fn distribution(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Distribution> {
    match checker.evaluate(expr, env) {
        Value::Distribution(distribution) => Some(distribution),
        Value::Versus { .. } => {
            let text = "two sides stand where one is expected";
            checker.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).help(
                "a `sum` is of one distribution, `h(student)`; two are compared by a divergence, `kl(p || q)`",
            ));
            None
        }
        value => {
            let wanted = "a divergence compares two roles, such as `teacher || student`";
            teacher_role(checker, value, expr.span, env, wanted).map(Distribution::Role)
        }
    }
}

/// `pair.guide`: another model of a joint stage.
pub fn joint_member(
    declarations: &mut Declarations,
    model: mopd_experiment::ModelId,
    field: &crate::syntax::ast::Name,
) -> Value {
    let Stage::Joint(joint) = &declarations.parts.model(model).stage else {
        let text = format!("there is no `{}` in a model", field.text);
        let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
        let name = declarations.parts.model(model).name.clone();
        declarations.report(match builtins::find(&field.text) {
            _ if field.text == "with" => {
                diagnostic.help(format!("with other settings it is `{name} with {{ lr = 1e-4 }}`"))
            }
            Some(builtin) if matches!(builtin.kind, BuiltinKind::Constructor(_)) => diagnostic
                .help(format!("a stage is a function of a model: `{}({name}) {{ ... }}`", field.text)),
            _ => diagnostic.label("only models trained together have parts"),
        });
        return Value::Error;
    };
    let names: Vec<String> = joint.members.iter().map(|member| member.name.clone()).collect();
    let Some(member) = names.iter().position(|name| *name == field.text) else {
        let near = nearest(&field.text, names.iter().map(String::as_str)).map(str::to_owned);
        let text = format!("no model called `{}` is trained here", field.text);
        let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
        declarations.report(match near {
            Some(near) => diagnostic.did_you_mean(&field.text, &near),
            None => diagnostic.help(format!("trained here: {}", names.join(", "))),
        });
        return Value::Error;
    };
    let wanted = Stage::Member { joint: model, member };
    let found = declarations.parts.models.iter().position(|model| model.stage == wanted);
    // The first member is the value of the stage itself.
    Value::Model(found.map_or(model, |index| mopd_experiment::ModelId(index as u32)))
}

/// The role of a teacher, of the student's own copies, or of a model that is not declared as a teacher.
pub fn teacher_role(
    checker: &mut Checker,
    value: Value,
    span: Span,
    env: &Env,
    wanted: &str,
) -> Option<Role> {
    let value = match value {
        Value::Model(model) => {
            let name = checker.parts.model(model).name.clone();
            plain_teachers::teacher_of_model(checker, &name, model, span)
        }
        Value::Student(copy) => plain_teachers::student_as_teacher(checker, "self", copy, span),
        Value::Item { item, kind: Callable::Teacher } => checker.call_item(item, span, &[], env),
        other => other,
    };
    role_of(checker, value, span, wanted)
}

/// `self.initial`, `self.ema(0.99)`, `self.every(100 steps)`
pub fn student_copy(
    checker: &mut Checker,
    field: &Name,
    arguments: &[Argument],
    span: Span,
    env: &Env,
) -> Value {
    const USAGE: &str = "`self`, `self.initial`, `self.ema(0.99)` or `self.every(100 steps)`";
    let parameters: &[&str] = match field.text.as_str() {
        "initial" => &[],
        "ema" => &["rate"],
        "every" => &["steps"],
        other => {
            let diagnostic = Diagnostic::error(
                Code::UnknownField,
                field.span,
                format!("the student has no copy `{other}`"),
            );
            checker.report(match nearest(other, ["initial", "ema", "every"]) {
                Some(near) => diagnostic.did_you_mean(other, near),
                None => diagnostic.help(format!("write {USAGE}")),
            });
            return Value::Error;
        }
    };
    let slots = arguments::slots(checker, &format!("self.{}", field.text), parameters, arguments, None);
    if !slots.misplaced.is_empty() {
        return Value::Error;
    }
    let given = slots.given.first().copied().flatten();
    let copy = match (field.text.as_str(), given) {
        ("initial", _) => Some(SelfCopy::Initial),
        (_, None) => {
            let text = format!("`self.{}` needs `{}`", field.text, parameters[0]);
            checker
                .report(Diagnostic::error(Code::MissingArgument, span, text).help(format!("write {USAGE}")));
            None
        }
        ("ema", Some(expr)) => {
            let value = checker.evaluate(expr, env);
            numbers::fraction(checker, &value, expr.span, "`rate`").and_then(|rate| {
                if rate < 1.0 {
                    return Some(SelfCopy::Ema { rate });
                }
                checker.report(
                    Diagnostic::error(
                        Code::OutOfRange,
                        expr.span,
                        "an average that keeps all of what it was never moves",
                    )
                    .help("write `self.initial` for the student as it was before the first step"),
                );
                None
            })
        }
        (_, Some(expr)) => {
            numbers::count(checker, expr, "steps", env, 1).map(|steps| SelfCopy::Every { steps })
        }
    };
    copy.map_or(Value::Error, Value::Student)
}
