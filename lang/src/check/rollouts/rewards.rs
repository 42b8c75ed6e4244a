//! Rewards, which judge completions.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::{Reward, RewardPart, Secret};

use crate::check::Checker;
use crate::check::builtins::declare::Call;
use crate::check::builtins::rewards::{Parts, Python, RewardCall};
use crate::check::builtins::teachers::Environment;
use crate::check::builtins::{Builtin, BuiltinKind};
use crate::check::data::domains::rounded;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

impl Checker {
    /// `exact_match`, `numeric(tolerance: 0.01)`, `command("python3 verify.py")`, or a `reward` declared
    /// above.
    pub(in crate::check) fn reward(&mut self, expr: &Expr, env: &Env) -> Option<Reward> {
        if let ExprKind::Binary { .. } = &expr.kind {
            let text = "a reward is put together by `parts`, not by arithmetic";
            let usage = crate::check::builtins::find("parts").expect("built in").usage;
            self.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).help(usage));
            return None;
        }
        match self.evaluate(expr, env) {
            Value::Reward(reward) => Some(reward),
            // A bare name stands for a call without arguments.
            Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Reward(_)) => {
                let BuiltinKind::Reward(name) = builtin.kind else { return None };
                let call = Call { builtin, arguments: &[], block: None, span: expr.span };
                let given = self.builtin_arguments(call)?;
                self.reward_call(name.call(call, &given)?, env)
            }
            Value::Text(text) if function_of(&text).is_some() => {
                let said = "a reward that is a function of Python is named by `python(...)`";
                let diagnostic = Diagnostic::error(Code::TypeMismatch, expr.span, said);
                let named = format!("python({})", self.sources.text(expr.span));
                self.report(diagnostic.label("this is text").replace_with(format!("write `{named}`"), named));
                None
            }
            other => {
                self.wrong_kind(
                    expr.span,
                    "a reward is `exact_match`, `numeric(...)`, `regex(...)`, `command(...)` or the like",
                    &other,
                );
                None
            }
        }
    }

    pub(in crate::check) fn reward_call(&mut self, call: RewardCall, env: &Env) -> Option<Reward> {
        Some(match call {
            RewardCall::ExactMatch(given) => Reward::ExactMatch { field: self.read(given.field, env)? },
            RewardCall::Numeric(given) => {
                let tolerance = self.read(given.tolerance, env)?;
                Reward::Numeric { field: self.read(given.field, env)?, tolerance }
            }
            RewardCall::Regex(given) => {
                let pattern = self.read(given.pattern, env)?;
                if let Err(error) = regex_syntax::parse(&pattern) {
                    let said = match &error {
                        regex_syntax::Error::Parse(error) => error.kind().to_string(),
                        regex_syntax::Error::Translate(error) => error.kind().to_string(),
                        other => other.to_string(),
                    };
                    let diagnostic = Diagnostic::error(
                        Code::OutOfRange,
                        given.pattern.expr.span,
                        "this pattern is not a regular expression",
                    );
                    let help = "a character that stands for itself is written with `\\\\` before it; \
                                look-around and back-references are not supported";
                    self.report(diagnostic.label(said).help(help));
                    return None;
                }
                Reward::Regex { pattern, field: self.read(given.field, env)? }
            }
            RewardCall::Command(given) => {
                let command = self.read(given.command, env)?;
                if command.trim().is_empty() {
                    let text = "the command of a reward is empty";
                    self.report(Diagnostic::error(Code::OutOfRange, given.call.span, text));
                    return None;
                }
                let time_limit_seconds = self.read(given.time_limit, env)?;
                let batch = self.read(given.batch, env)?;
                let depends = self.read(given.depends, env)?.unwrap_or_default();
                let range = self.read(given.range, env)?.unwrap_or_default();
                Reward::Command { command, time_limit_seconds, batch, depends, range }
            }
            RewardCall::Python(given) => return self.reward_in_python(given, env),
            RewardCall::JsonSchema(given) => {
                let schema = self.read(given.schema, env)?;
                if schema.trim().is_empty() {
                    let text = "an empty text names no schema";
                    self.report(Diagnostic::error(Code::OutOfRange, given.call.span, text));
                    return None;
                }
                Reward::JsonSchema { schema }
            }
            RewardCall::UnitTests(given) => {
                let field = self.read(given.field, env)?;
                Reward::UnitTests { field, time_limit_seconds: self.read(given.time_limit, env)? }
            }
            RewardCall::Http(given) => {
                let url = self.read(given.url, env)?;
                if let Secret::Text(text) = &url
                    && !is_address(text)
                {
                    let text = "this is not the address of a server";
                    self.report(
                        Diagnostic::error(Code::OutOfRange, given.call.span, text).help(
                            "it looks like `http://localhost:8000/judge`, and is text in quotes or `env(\"NAME\")`",
                        ),
                    );
                    return None;
                }
                let time_limit_seconds = self.read(given.time_limit, env)?;
                let (batch, version) = (self.read(given.batch, env)?, self.read(given.version, env)?);
                let range = self.read(given.range, env)?.unwrap_or_default();
                Reward::Http { url, time_limit_seconds, batch, version, range }
            }
            RewardCall::Parts(given) => return self.reward_parts(given, env),
        })
    }

    /// `python("judge.py:score")`
    fn reward_in_python(&mut self, given: Python, env: &Env) -> Option<Reward> {
        if let ExprKind::Field { field, .. } = &given.function.expr.kind {
            let expr = given.function.expr;
            let text = "the function is named in quotes, with its file before it";
            let file = self.sources.text(expr.span).trim_end_matches(&field.text);
            let file = file.trim_end_matches('.').replace('.', "/");
            self.report(
                Diagnostic::error(Code::TypeMismatch, expr.span, text)
                    .label("a module of Python is no name of this language")
                    .help(format!("it looks like `python(\"{file}.py:{}\")`", field.text)),
            );
            return None;
        }
        let named = self.read(given.function, env)?;
        let Some((file, function)) = function_of(&named) else {
            let text = "this does not name a file of Python and a function in it";
            self.report(Diagnostic::error(Code::OutOfRange, given.call.span, text).help(
                "it looks like `python(\"judge.py:score\")`; the path has no spaces, and none of the \
                 characters that a shell reads",
            ));
            return None;
        };
        let time_limit_seconds = self.read(given.time_limit, env)?;
        let batch = self.read(given.batch, env)?;
        let depends = self.read(given.depends, env)?.unwrap_or_default();
        let range = self.read(given.range, env)?.unwrap_or_default();
        Some(Reward::Python { file, function, time_limit_seconds, batch, depends, range })
    }

    /// `parts(accuracy: numeric, format: regex("..."), weights: [0.8, 0.2])`
    fn reward_parts(&mut self, given: Parts, env: &Env) -> Option<Reward> {
        let Call { builtin: &Builtin { usage, .. }, arguments, span, .. } = given.call;
        let mut parts: Vec<(String, Span, Option<Reward>)> = Vec::new();
        let mut weights = None;
        let mut good = true;
        for argument in arguments {
            let Some(name) = &argument.name else {
                let text = "every part of a reward has a name";
                self.report(
                    Diagnostic::error(Code::UnknownArgument, argument.value.span, text)
                        .label("no name")
                        .help(usage),
                );
                good = false;
                continue;
            };
            if name.text == "weights" {
                weights = Some(&argument.value);
            } else if let Some((_, first, _)) = parts.iter().find(|(known, _, _)| *known == name.text) {
                let text = format!("the part `{}` is given twice", name.text);
                self.report(
                    Diagnostic::error(Code::DuplicateKey, name.span, text).note(*first, "first given here"),
                );
                good = false;
            } else {
                let reward = self.reward(&argument.value, env);
                parts.push((name.text.clone(), name.span, reward));
            }
        }
        if !good {
            return None;
        }
        if parts.is_empty() {
            self.report(
                Diagnostic::error(Code::MissingArgument, span, "a reward of parts has none").help(usage),
            );
            return None;
        }
        let Some(place) = weights else {
            self.report(
                Diagnostic::error(Code::MissingArgument, span, "`parts` needs `weights`")
                    .label("not given here")
                    .help("say how much each part counts: `weights: [0.8, 0.2]`, or `weights: equal`"),
            );
            return None;
        };
        let weights = self.weights(place, parts.len(), "parts", env)?;
        let total: f64 = weights.iter().sum();
        if weights.iter().any(|weight| *weight < 0.0) || (total - 1.0).abs() > 1e-6 {
            let text = "the weights of a reward are shares of it: none is negative, and they add up to 1";
            self.report(
                Diagnostic::error(Code::OutOfRange, place.span, text)
                    .label(format!("together {}", rounded(total))),
            );
            return None;
        }
        let parts: Option<Vec<RewardPart>> = parts
            .into_iter()
            .zip(weights)
            .map(|((name, _, reward), weight)| Some(RewardPart { name, weight, reward: reward? }))
            .collect();
        parts.map(|parts| Reward::Parts { parts })
    }

    /// One number for each of `count` things, or the word `equal`.
    pub(in crate::check) fn weights(
        &mut self,
        expr: &Expr,
        count: usize,
        of: &str,
        env: &Env,
    ) -> Option<Vec<f64>> {
        if let ExprKind::Name(name) = &expr.kind
            && name == "equal"
            && env.local(name).is_none()
        {
            return Some(vec![1.0 / count as f64; count]);
        }
        let weights = self.numbers(expr, env)?;
        if weights.len() != count {
            let text = format!("there are {count} {of} and {} weights", weights.len());
            self.report(
                Diagnostic::error(Code::OutOfRange, expr.span, text).help("write one for each, or `equal`"),
            );
            return None;
        }
        Some(weights)
    }

    /// A text, or an environment variable.
    pub(in crate::check) fn secret(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<Secret> {
        match self.evaluate(expr, env) {
            Value::Secret(secret) => Some(secret),
            Value::Text(text) => Some(Secret::Text(text)),
            other => {
                self.wrong_kind(
                    expr.span,
                    &format!("`{key}` is a text in quotes or `env(\"NAME\")`"),
                    &other,
                );
                None
            }
        }
    }

    /// `env("TEACHER_URL")`
    pub(in crate::check) fn env_call(&mut self, given: Environment, env: &Env) -> Option<Value> {
        let name = self.read(given.name, env)?;
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(sound) {
            self.report(
                Diagnostic::error(
                    Code::OutOfRange,
                    given.call.span,
                    format!("`{name}` can't be the name of an environment variable"),
                )
                .help("letters, digits and `_`, such as `env(\"TEACHER_URL\")`"),
            );
            return None;
        }
        Some(Value::Secret(Secret::Environment(name)))
    }
}

/// `judge/verify.py` and `score` of `judge/verify.py:score`.
fn function_of(text: &str) -> Option<(String, String)> {
    let (file, function) = text.rsplit_once(':')?;
    let of_path = |c: char| c.is_alphanumeric() || "/._-+@,".contains(c);
    let of_name = |c: char| c.is_alphanumeric() || c == '_';
    let is_file = file.ends_with(".py") && !file.starts_with('-') && file.chars().all(of_path);
    let is_name = function.chars().all(of_name) && function.starts_with(|c: char| !c.is_numeric());
    (is_file && is_name).then(|| (file.to_owned(), function.to_owned()))
}

/// Whether a text is an HTTP address with a host; the client checks the rest.
fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty()) && !text.contains(char::is_whitespace)
}
