//! Conversions of values to an expected kind: a formula, a role, a distribution, one of a few words.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{Distribution, Formula, Role};
use mopd_experiment::{Stage, TeacherWeights};

use crate::check::Checker;
use crate::check::builtins;
use crate::check::names::foreign::{self, Spelling};
use crate::check::names::unknown;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

impl Checker {
    /// The number in a value, or a diagnostic.
    pub(in crate::check) fn formula(&mut self, value: Value, span: Span) -> Option<Formula> {
        match value {
            Value::Formula(formula) => Some(formula),
            Value::Error => None,
            Value::Role(role) => {
                self.report(
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
                self.wrong_kind(span, "expected a number", &other);
                None
            }
        }
    }

    /// The role of a value: a role itself, or a declared teacher, which then counts as used.
    pub(in crate::check) fn role_of(&mut self, value: Value, span: Span, wanted: &str) -> Option<Role> {
        match value {
            Value::Role(role) => {
                if let Role::Named { teacher, .. } = &role {
                    self.parts.used_teachers[teacher.0 as usize] = true;
                }
                Some(role)
            }
            Value::Teacher(teacher) => {
                self.parts.used_teachers[teacher.0 as usize] = true;
                Some(Role::Named { teacher, name: self.teacher(teacher).name.as_str().into() })
            }
            other => {
                self.wrong_kind(span, wanted, &other);
                None
            }
        }
    }

    /// One side of a divergence.
    pub(in crate::check) fn distribution(&mut self, expr: &Expr, env: &Env) -> Option<Distribution> {
        match self.evaluate(expr, env) {
            Value::Distribution(distribution) => Some(distribution),
            value => {
                let wanted = "a divergence compares two roles, such as `teacher || student`";
                self.teacher_role(value, expr.span, env, wanted).map(Distribution::Role)
            }
        }
    }

    /// `pair.guide`: another model of a joint stage.
    pub(in crate::check) fn joint_member(
        &mut self,
        model: mopd_experiment::ModelId,
        field: &crate::syntax::ast::Name,
    ) -> Value {
        let Stage::Joint(joint) = &self.model(model).stage else {
            let text = format!("there is no `{}` in a model", field.text);
            self.report(
                Diagnostic::error(Code::UnknownField, field.span, text)
                    .label("only models trained together have parts"),
            );
            return Value::Error;
        };
        let names: Vec<String> = joint.members.iter().map(|member| member.name.clone()).collect();
        let Some(member) = names.iter().position(|name| *name == field.text) else {
            let near = nearest(&field.text, names.iter().map(String::as_str)).map(str::to_owned);
            let text = format!("no model called `{}` is trained here", field.text);
            let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
            self.report(match near {
                Some(near) => diagnostic.did_you_mean(&field.text, &near),
                None => diagnostic.help(format!("trained here: {}", names.join(", "))),
            });
            return Value::Error;
        };
        let wanted = Stage::Member { joint: model, member };
        let found = self.parts.models.iter().position(|model| model.stage == wanted);
        // The first member is the value of the stage itself.
        Value::Model(found.map_or(model, |index| mopd_experiment::ModelId(index as u32)))
    }

    /// The formula that a composed teacher's `where` binds to `name`.
    pub(in crate::check) fn binding_of(&self, role: &Role, name: &str) -> Option<Formula> {
        let Role::Named { teacher, .. } = role else { return None };
        match &self.teacher(*teacher).weights {
            TeacherWeights::Composed { bindings, .. } => {
                bindings.iter().find(|known| known.name == name).map(|known| known.formula.clone())
            }
            _ => None,
        }
    }

    /// Reports a value that is no model. A text may be the folder or the repository of one.
    pub(in crate::check) fn no_model(&mut self, span: Span, found: &Value) {
        match found {
            Value::Text(text) if !self.is_declared(span.file, text) => {
                let load = format!("load it first: `model base = hf(\"{text}\")`");
                let diagnostic = Diagnostic::error(Code::TypeMismatch, span, "expected a model");
                self.report(diagnostic.label("this is a text").help(load));
            }
            found => {
                self.wrong_kind(span, "expected a model", found);
            }
        }
    }

    /// Reports a value that can't be the weights of a model or teacher, such as the folder or repository of a
    /// model as a text.
    pub(in crate::check) fn no_weights(&mut self, span: Span, wanted: &str, found: &Value) {
        match found {
            Value::Text(text) if !self.is_declared(span.file, text) => {
                let load = format!("hf(\"{text}\")");
                let diagnostic = Diagnostic::error(Code::TypeMismatch, span, wanted).label("this is a text");
                let help =
                    format!("a folder in the layout of Hugging Face, or a repository, is loaded by `{load}`");
                self.report(diagnostic.help(help).replace_with(format!("write `{load}`"), load));
            }
            found => {
                self.wrong_kind(span, wanted, found);
            }
        }
    }

    pub(in crate::check) fn wrong_kind(&mut self, span: Span, wanted: &str, found: &Value) -> Value {
        if found.is_error() {
            return Value::Error;
        }
        let diagnostic = Diagnostic::error(Code::TypeMismatch, span, wanted)
            .label(format!("this is {}", found.describe()));
        let diagnostic = match found {
            Value::Text(text) => {
                let declared = |name: &str| self.is_declared(span.file, name);
                let number = |name: &str| {
                    name.parse::<f64>().is_ok() && name.starts_with(|c: char| c.is_ascii_digit())
                };
                let alone = |name: &str| builtins::find(name).is_some_and(|builtin| builtin.required() == 0);
                crate::check::names::unknown::without_quotes(
                    diagnostic,
                    self.unquoted(span, text, |text| number(text) || declared(text) || alone(text)),
                )
            }
            Value::Builtin(builtin) if !wanted.contains(builtin.usage) => {
                diagnostic.help(format!("it is called with its arguments: `{}`", builtin.usage))
            }
            Value::Epochs(_) => self.epochs_misplaced(span, diagnostic),
            Value::Family(family) => match family.members.first() {
                Some((key, _)) => {
                    let member = format!("{}[{}]", family.name, self.key_text(*key));
                    diagnostic.help(format!(
                        "a family has one member for each domain or number: `{member}` is one of them"
                    ))
                }
                None => diagnostic,
            },
            _ => diagnostic,
        };
        self.report(diagnostic);
        Value::Error
    }

    /// One of a fixed list of words.
    pub(in crate::check) fn word<T: Clone>(
        &mut self,
        expr: &Expr,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let listed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let written = match &expr.kind {
            ExprKind::Name(name) => name.as_str(),
            ExprKind::Text(text) => text.as_str(),
            ExprKind::Error => return None,
            _ => self.sources.text(expr.span),
        };
        let value =
            |word: &str| words.iter().find(|(known, _)| *known == word).map(|(_, value)| value.clone());
        if let (ExprKind::Name(_), Some(value)) = (&expr.kind, value(written)) {
            return Some(value);
        }
        let diagnostic = match &expr.kind {
            ExprKind::Name(name) => {
                Diagnostic::error(Code::UnknownValue, expr.span, format!("`{name}` is not {what}"))
            }
            ExprKind::Text(_) => Diagnostic::error(
                Code::UnknownValue,
                expr.span,
                format!("this must be {what}, and is a text"),
            ),
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
        self.report(diagnostic);
        meant
    }
}
