//! Conversions of values to an expected kind: a formula, a role, a distribution, one of a few words.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::TeacherWeights;
use mopd_experiment::formula::{Formula, Role};

use crate::check::builtins;
use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::names::callable::{Callable, signature};
use crate::check::read::{postfix_words, reads};
use crate::check::reporter::Reporter;
use crate::check::suggestions::foreign::{self, Spelling};
use crate::check::suggestions::unknown;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Condition => |checker, given, env| {
        let value = checker.evaluate(given.expr, env);
        formula(checker, value, given.expr.span)
    };
    Formula => |checker, given, env| {
        let value = checker.evaluate(given.expr, env);
        formula(checker, value, given.expr.span)
    };
    Text => |checker, given, env| text(checker, given.expr, given.name, env);
}

/// The number in a value, or a diagnostic.
pub fn formula(declarations: &mut Declarations, value: Value, span: Span) -> Option<Formula> {
    match value {
        Value::Formula(formula) => Some(formula),
        Value::Error => None,
        Value::Role(role) => {
            declarations.report(
                Diagnostic::error(
                    Code::TypeMismatch,
                    span,
                    format!("`{}` is a role, not a number", role.name()),
                )
                .label("a whole distribution")
                .help(format!(
                    "name a part of it, such as `{}.logp` or `{}.entropy`",
                    role.name(),
                    role.name()
                )),
            );
            None
        }
        other => {
            wrong_kind(declarations, span, "expected a number", &other);
            None
        }
    }
}

/// The formula that a composed teacher's `where` binds to `name`.
pub fn binding_of(parts: &ExperimentParts, role: &Role, name: &str) -> Option<Formula> {
    let Role::Named { teacher, .. } = role else { return None };
    match &parts.teacher(*teacher).weights {
        TeacherWeights::Composed { bindings, .. } => {
            bindings.iter().find(|known| known.name == name).map(|known| known.formula.clone())
        }
        _ => None,
    }
}

/// Reports a value that is no model. A text may be the folder or the repository of one.
pub fn no_model(declarations: &mut Declarations, span: Span, found: &Value) {
    match found {
        Value::Text(text) if !unknown::is_declared(&declarations.modules, span.file, text) => {
            let load = format!("load it first: `model base = hf(\"{text}\")`");
            let diagnostic = Diagnostic::error(Code::TypeMismatch, span, "expected a model");
            declarations.report(diagnostic.label("this is a text").help(load));
        }
        found => {
            wrong_kind(declarations, span, "expected a model", found);
        }
    }
}

/// Reports a value that can't be the weights of a model or teacher, such as the folder or repository of a
/// model as a text.
pub fn no_weights(declarations: &mut Declarations, span: Span, wanted: &str, found: &Value) {
    match found {
        Value::Text(text) if !unknown::is_declared(&declarations.modules, span.file, text) => {
            let load = format!("hf(\"{text}\")");
            let diagnostic = Diagnostic::error(Code::TypeMismatch, span, wanted).label("this is a text");
            let help =
                format!("a folder in the layout of Hugging Face, or a repository, is loaded by `{load}`");
            declarations.report(diagnostic.help(help).replace_with(format!("write `{load}`"), load));
        }
        found => {
            wrong_kind(declarations, span, wanted, found);
        }
    }
}

pub fn wrong_kind(declarations: &mut Declarations, span: Span, wanted: &str, found: &Value) -> Value {
    if found.is_error() {
        return Value::Error;
    }
    let diagnostic =
        Diagnostic::error(Code::TypeMismatch, span, wanted).label(format!("this is {}", found.describe()));
    let diagnostic = match found {
        Value::Text(text) => {
            let declared = |name: &str| {
                unknown::is_declared(&declarations.modules, span.file, name)
                    && !needs_arguments(declarations, span, name)
            };
            let number =
                |name: &str| name.parse::<f64>().is_ok() && name.starts_with(|c: char| c.is_ascii_digit());
            let alone = |name: &str| builtins::find(name).is_some_and(|builtin| builtin.required() == 0);
            let with_arguments = unknown::is_declared(&declarations.modules, span.file, text)
                && needs_arguments(declarations, span, text);
            let diagnostic = match with_arguments {
                true => diagnostic.help(format!("without quotes, and with its arguments: `{text}(...)`")),
                false => diagnostic,
            };
            unknown::without_quotes(
                diagnostic,
                unknown::unquoted(declarations, span, text, |text| {
                    number(text) || declared(text) || alone(text)
                }),
            )
        }
        Value::Builtin(builtin) if !wanted.contains(builtin.usage) => {
            diagnostic.help(format!("it is called with its arguments: `{}`", builtin.usage))
        }
        Value::Item { item, kind: Callable::Fn | Callable::Stage } => {
            match signature(&declarations.modules.item(*item).kind) {
                Some((name, parameters)) => {
                    let names: Vec<&str> =
                        parameters.iter().map(|parameter| parameter.name.text.as_str()).collect();
                    let call = format!("{}({})", name.text, names.join(", "));
                    diagnostic.help(format!("it is called with its arguments: `{call}`"))
                }
                None => diagnostic,
            }
        }
        Value::Epochs(_) => postfix_words::epochs_misplaced(declarations, span, diagnostic),
        Value::Family(family) => match family.members.first() {
            Some((key, _)) => {
                let member = format!("{}[{}]", family.name, declarations.parts.key_text(key));
                diagnostic.help(format!("a family has several members: `{member}` is one of them"))
            }
            None => diagnostic,
        },
        _ => diagnostic,
    };
    declarations.report(diagnostic);
    Value::Error
}

/// Whether the item of this name can't stand without arguments.
fn needs_arguments(declarations: &Declarations, span: Span, name: &str) -> bool {
    let module = declarations.modules.files().find(|(_, file)| *file == span.file);
    let declared = module.and_then(|(module, _)| declarations.modules.lookup(module, name));
    let item = declared.map(|declared| declarations.modules.item(declared.item));
    item.and_then(|item| signature(&item.kind).map(|(_, parameters)| parameters.to_vec()))
        .is_some_and(|parameters| parameters.iter().any(|parameter| parameter.default.is_none()))
}

/// One of a fixed list of words.
pub fn word<T: Clone>(reporter: &mut Reporter, expr: &Expr, what: &str, words: &[(&str, T)]) -> Option<T> {
    let listed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let written = match &expr.kind {
        ExprKind::Name(name) => name.as_str(),
        ExprKind::Text(text) => text.as_str(),
        ExprKind::Error => return None,
        _ => reporter.sources.text(expr.span),
    };
    let value = |word: &str| words.iter().find(|(known, _)| *known == word).map(|(_, value)| value.clone());
    if let (ExprKind::Name(_), Some(value)) = (&expr.kind, value(written)) {
        return Some(value);
    }
    let diagnostic = match &expr.kind {
        ExprKind::Name(name) => {
            Diagnostic::error(Code::UnknownValue, expr.span, format!("`{name}` is not {what}"))
        }
        ExprKind::Text(_) => {
            Diagnostic::error(Code::UnknownValue, expr.span, format!("this must be {what}, and is a text"))
        }
        ExprKind::Field { .. } => {
            Diagnostic::error(Code::UnknownValue, expr.span, format!("`{written}` is not {what}"))
        }
        _ => Diagnostic::error(Code::UnknownValue, expr.span, format!("this must be {what}")),
    };
    // Read as the intended word, so that one slip gives one diagnostic.
    let (diagnostic, meant) = match (&expr.kind, foreign::word(written, &known)) {
        (ExprKind::Text(text), _) if known.contains(&text.as_str()) => {
            (unknown::without_quotes(diagnostic, Some(text.clone())), value(text))
        }
        (_, Some(ours)) => {
            let diagnostic = diagnostic.help(format!("here it is called `{ours}`"));
            (diagnostic.replace_with(format!("change to `{ours}`"), ours), value(ours))
        }
        (ExprKind::Name(name), None) => match nearest(name, known.iter().copied()) {
            Some(near) => (diagnostic.did_you_mean(name, near), value(near)),
            None => {
                let help = match foreign::name(name) {
                    Some(Spelling::Otherwise(words)) => words.to_owned(),
                    _ => format!("one of: {}", listed()),
                };
                (diagnostic.help(help), None)
            }
        },
        _ => (diagnostic.help(format!("one of: {}", listed())), None),
    };
    reporter.report(diagnostic);
    meant
}

pub fn misplaced(reporter: &mut Reporter, span: Span, message: &str, help: &str) -> Value {
    reporter.report(Diagnostic::error(Code::TypeMismatch, span, message).help(help));
    Value::Error
}

pub fn text(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<String> {
    match checker.evaluate(expr, env) {
        Value::Text(text) => Some(text),
        other => {
            wrong_kind(checker, expr.span, &format!("`{key}` must be a text in quotes"), &other);
            None
        }
    }
}
