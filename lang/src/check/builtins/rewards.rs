//! Built-in rewards, which judge completions. Each is declared with its arguments and read below; its
//! properties are in `experiment/rewards.rs`.

use super::Builtin;
use super::declare::{Call, builtins};
use super::types::{Count, Dependencies, Field, NotNegative, Range, Seconds, Secret, Text};

use crate::check::Checker;
use crate::check::data::domains::rounded;
use crate::check::values::evaluate::Env;
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::ExprKind;
use mopd_experiment::{Reward, RewardPart, Secret as SecretText};

builtins! { Reward: RewardName, RewardCall {
    /// 1 if the completion equals a field of the data exactly; the field is `answer` by default.
    #[usage = "exact_match, or exact_match(field)"]
    exact_match => ExactMatch { field: Field = "answer" },

    /// 1 if the completion and a field of the data are numbers that differ by at most `tolerance`; the field
    /// is `answer` by default.
    #[usage = "numeric(tolerance: 0.01)"]
    numeric => Numeric { field: Field = "answer", tolerance: NotNegative = 0.0 },

    /// 1 if the pattern matches, and its group `answer`, if it has one, equals a field of the data.
    #[usage = "regex(\"answer: (?<answer>.*)\")"]
    regex => Regex { pattern: Text, field: Field = "answer" },

    /// A program of yours returns a number from 0 to 1, with `range: any` any other: one JSON object per line
    /// in, one out. `time_limit` is in seconds, `batch` is the number of requests at once. Rewards are
    /// recomputed when a source file in the script's folder changes, or a file or folder of `depends`.
    #[usage = "command(\"python3 verify.py\", time_limit: 10, depends: [\"rules.json\"])"]
    command => Command {
        command: Text,
        time_limit: Seconds = 30.0,
        batch: Count = 256,
        depends: Option<Dependencies>,
        range: Option<Range>,
    },

    /// A function of Python returns a number from 0 to 1, with `range: any` any other, for each of a list of
    /// completions, which have `prompt`, `completion` and `record`. `time_limit` is in seconds, `batch` is
    /// the longest list.
    /// Rewards are recomputed when a source file in the file's folder changes, or a file or folder of
    /// `depends`.
    #[usage = "python(\"judge.py:score\", time_limit: 10, depends: [\"rules.json\"])"]
    python => Python {
        function: Text,
        time_limit: Seconds = 30.0,
        batch: Count = 256,
        depends: Option<Dependencies>,
        range: Option<Range>,
    },

    /// 1 if the completion is JSON that a JSON Schema in a file accepts; it may stand in a fence of
    /// Markdown.
    #[usage = "json_schema(\"schema.json\")"]
    json_schema => JsonSchema { schema: Text },

    /// 1 if the completion's Python code passes the tests in a field of the data. `time_limit` is in seconds.
    #[usage = "unit_tests(tests, time_limit: 10)"]
    unit_tests => UnitTests { field: Field, time_limit: Seconds = 30.0 },

    /// A server of yours returns a number from 0 to 1, with `range: any` any other, for each of a JSON list
    /// of completions. `time_limit` is in seconds, `batch` is the number of completions in a request. What
    /// the server answers can't be known before the run: another `version` recomputes rewards.
    #[usage = "http(env(\"JUDGE_URL\"), time_limit: 10, version: \"1\")"]
    http => Http {
        url: Secret,
        time_limit: Seconds = 30.0,
        batch: Count = 256,
        version: Option<Text>,
        range: Option<Range>,
    },

    /// Several rewards and their weights; each can be read as `reward.<name>`.
    #[usage = "parts(accuracy: numeric, format: regex(\"...\"), weights: [0.8, 0.2])"]
    parts => Parts { .. },
}}

impl Checker {
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
                if let SecretText::Text(text) = &url
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
}

/// `judge/verify.py` and `score` of `judge/verify.py:score`.
pub(in crate::check) fn function_of(text: &str) -> Option<(String, String)> {
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
