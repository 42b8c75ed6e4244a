//! Calls of rewards: `exact()`, `python(...)`, `parts(...)`.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::ExprKind;
use mopd_experiment::{Reward, RewardPart, Secret as SecretText};

use crate::check::builtins::Builtin;
use crate::check::builtins::declare::Call;
use crate::check::builtins::rewards::{Parts, Python, RewardCall};
use crate::check::checker::Checker;
use crate::check::formulas::signals::TURN;
use crate::check::read::numbers::{self, rounded};
use crate::check::read::{patterns, read};
use crate::check::reporter::Reporter;
use crate::check::rollouts::rewards;
use crate::check::values::environment::Env;

pub fn reward_call(checker: &mut Checker, call: RewardCall, env: &Env) -> Option<Reward> {
    Some(match call {
        RewardCall::ExactMatch(given) => Reward::ExactMatch { field: read(checker, given.field, env)? },
        RewardCall::Numeric(given) => {
            let tolerance = read(checker, given.tolerance, env)?;
            Reward::Numeric { field: read(checker, given.field, env)?, tolerance }
        }
        RewardCall::Regex(given) => {
            let pattern = patterns::checked(checker, given.pattern, env)?;
            let (place, written) = (given.pattern.expr.span, given.call.arguments.len() > 1);
            let field = read(checker, given.field, env)?;
            warn_of_groups(checker, &pattern, &field, written, place);
            Reward::Regex { pattern, field }
        }
        RewardCall::Command(given) => {
            let command = read(checker, given.command, env)?;
            if command.trim().is_empty() {
                let text = "the command of a reward is empty";
                checker.report(Diagnostic::error(Code::OutOfRange, given.call.span, text));
                return None;
            }
            let time_limit_seconds = read(checker, given.time_limit, env)?;
            let batch = read(checker, given.batch, env)?;
            let depends = read(checker, given.depends, env)?.unwrap_or_default();
            let range = read(checker, given.range, env)?.unwrap_or_default();
            Reward::Command { command, time_limit_seconds, batch, depends, range }
        }
        RewardCall::Python(given) => return reward_in_python(checker, given, env),
        RewardCall::JsonSchema(given) => {
            let schema = read(checker, given.schema, env)?;
            if schema.trim().is_empty() {
                let text = "an empty text names no schema";
                checker.report(Diagnostic::error(Code::OutOfRange, given.call.span, text));
                return None;
            }
            Reward::JsonSchema { schema }
        }
        RewardCall::UnitTests(given) => {
            let field = read(checker, given.field, env)?;
            Reward::UnitTests { field, time_limit_seconds: read(checker, given.time_limit, env)? }
        }
        RewardCall::Http(given) => {
            let url = read(checker, given.url, env)?;
            if let SecretText::Text(text) = &url
                && !is_address(text)
            {
                let text = "this is not the address of a server";
                checker.report(Diagnostic::error(Code::OutOfRange, given.call.span, text).help(
                    "it looks like `http://localhost:8000/judge`, and is text in quotes or `env(\"NAME\")`",
                ));
                return None;
            }
            let time_limit_seconds = read(checker, given.time_limit, env)?;
            let (batch, version) = (read(checker, given.batch, env)?, read(checker, given.version, env)?);
            let range = read(checker, given.range, env)?.unwrap_or_default();
            Reward::Http { url, time_limit_seconds, batch, version, range }
        }
        RewardCall::Parts(given) => return reward_parts(checker, given, env),
    })
}

/// Warns of a pattern that compares nothing with the field that was named, or whose group has nearly the name
/// of the one that is compared.
fn warn_of_groups(reporter: &mut Reporter, pattern: &str, field: &str, written: bool, span: Span) {
    let groups: Vec<&str> = ["(?<", "(?P<"]
        .iter()
        .flat_map(|open| pattern.match_indices(open).map(|(at, open)| &pattern[at + open.len()..]))
        .filter(|rest| !rest.starts_with(['=', '!']))
        .filter_map(|rest| Some(rest.split_once('>')?.0))
        .collect();
    if groups.contains(&"answer") {
        return;
    }
    let near = nearest("answer", groups.iter().copied());
    if near.is_none() && !written {
        return;
    }
    let text =
        format!("no group `answer` is in this pattern, so nothing is compared with the field `{field}`");
    let diagnostic = Diagnostic::warning(Code::UnusedSetting, span, text);
    reporter.report(match near {
        Some(near) => {
            let ours = reporter.sources.text(span).replace(&format!("<{near}>"), "<answer>");
            diagnostic
                .help(format!("its group is called `{near}`: write `(?<answer>...)`"))
                .replace_with("write `(?<answer>`", ours)
                .possibly()
        }
        None => diagnostic.help("name the group that is compared, `(?<answer>...)`, or remove the field"),
    });
}

/// `python("judge.py:score")`
pub fn reward_in_python(checker: &mut Checker, given: Python, env: &Env) -> Option<Reward> {
    if let ExprKind::Field { field, .. } = &given.function.expr.kind {
        let expr = given.function.expr;
        let text = "the function is named in quotes, with its file before it";
        let file = checker.sources.text(expr.span).trim_end_matches(&field.text);
        let file = file.trim_end_matches('.').replace('.', "/");
        checker.report(
            Diagnostic::error(Code::TypeMismatch, expr.span, text)
                .label("a module of Python is no name of this language")
                .help(format!("it looks like `python(\"{file}.py:{}\")`", field.text)),
        );
        return None;
    }
    let named = read(checker, given.function, env)?;
    let Some((file, function)) = function_of(&named) else {
        let text = "this does not name a file of Python and a function in it";
        checker.report(Diagnostic::error(Code::OutOfRange, given.call.span, text).help(
            "it looks like `python(\"judge.py:score\")`; the path has no spaces, and none of the \
             characters that a shell reads",
        ));
        return None;
    };
    let time_limit_seconds = read(checker, given.time_limit, env)?;
    let batch = read(checker, given.batch, env)?;
    let depends = read(checker, given.depends, env)?.unwrap_or_default();
    let range = read(checker, given.range, env)?.unwrap_or_default();
    Some(Reward::Python { file, function, time_limit_seconds, batch, depends, range })
}

/// `parts(accuracy: numeric, format: regex("..."), weights: [0.8, 0.2])`
pub fn reward_parts(checker: &mut Checker, given: Parts, env: &Env) -> Option<Reward> {
    let Call { builtin: &Builtin { usage, .. }, arguments, span, .. } = given.call;
    let mut parts: Vec<(String, Span, Option<Reward>)> = Vec::new();
    let mut weights = None;
    let mut good = true;
    for argument in arguments {
        let Some(name) = &argument.name else {
            let text = "every part of a reward has a name";
            checker.report(
                Diagnostic::error(Code::UnknownArgument, argument.value.span, text)
                    .label("no name")
                    .help(usage),
            );
            good = false;
            continue;
        };
        if name.text == TURN {
            let text = format!("no part of a reward is called `{TURN}`");
            checker.report(
                Diagnostic::error(Code::DuplicateName, name.span, text)
                    .label("`reward.turn` is the reward of a turn with an environment")
                    .help("give the part another name, such as `each_turn`"),
            );
            good = false;
        } else if name.text == "weights" {
            weights = Some(&argument.value);
        } else if let Some((_, first, _)) = parts.iter().find(|(known, _, _)| *known == name.text) {
            let text = format!("the part `{}` is given twice", name.text);
            checker.report(
                Diagnostic::error(Code::DuplicateKey, name.span, text).note(*first, "first given here"),
            );
            good = false;
        } else {
            let reward = rewards::reward(checker, &argument.value, env);
            parts.push((name.text.clone(), name.span, reward));
        }
    }
    if !good {
        return None;
    }
    if parts.is_empty() {
        checker
            .report(Diagnostic::error(Code::MissingArgument, span, "a reward of parts has none").help(usage));
        return None;
    }
    let Some(place) = weights else {
        checker.report(
            Diagnostic::error(Code::MissingArgument, span, "`parts` needs `weights`")
                .label("not given here")
                .help("say how much each part counts: `weights: [0.8, 0.2]`, or `weights: equal`"),
        );
        return None;
    };
    let weights = numbers::weights(checker, place, parts.len(), "parts", env)?;
    let total: f64 = weights.iter().sum();
    if weights.iter().any(|weight| *weight < 0.0) || (total - 1.0).abs() > 1e-6 {
        let text = "the weights of a reward are shares of it: none is negative, and they add up to 1";
        checker.report(
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

/// `judge/verify.py` and `score` of `judge/verify.py:score`.
pub fn function_of(text: &str) -> Option<(String, String)> {
    let (file, function) = text.rsplit_once(':')?;
    let of_path = |c: char| c.is_alphanumeric() || "/._-+@,".contains(c);
    let of_name = |c: char| c.is_alphanumeric() || c == '_';
    let is_file = file.ends_with(".py") && !file.starts_with('-') && file.chars().all(of_path);
    let is_name = function.chars().all(of_name) && function.starts_with(|c: char| !c.is_numeric());
    (is_file && is_name).then(|| (file.to_owned(), function.to_owned()))
}

/// Whether a text is an HTTP address with a host; the client checks the rest.
pub fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    host.is_some_and(|host| !host.is_empty()) && !text.contains(char::is_whitespace)
}
