//! Calls of rollouts: `sample(...)`, `replay(...)`, `from(...)`.

use crate::diag::{Code, Diagnostic, Reported};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::Axis;
use mopd_experiment::{Heads, ReplayContents, RolloutEngine, RolloutSource, Sampling};

use crate::check::builtins::declare::Arg;
use crate::check::builtins::rollouts::{FirstOf, From, Replay, RolloutCall, Sample, SampledBy};
use crate::check::checker::Checker;
use crate::check::formulas::schedules;
use crate::check::read::read;
use crate::check::reporter::Reporter;
use crate::check::rollouts::{self, SamplingArguments};
use crate::check::teachers;
use crate::check::values::environment::Env;

pub fn rollout_call(checker: &mut Checker, call: RolloutCall, env: &Env) -> Option<RolloutSource> {
    Some(match call {
        RolloutCall::Sample(given) => RolloutSource::Sample(sample(checker, given, env)?),
        RolloutCall::SampledBy(given) => sampled_by(checker, given, env)?,
        RolloutCall::From(given) => written_by(checker, given, env)?,
        RolloutCall::Data(given) => RolloutSource::Data { field: read(checker, given.field, env)? },
        RolloutCall::Mix(given) => {
            let share = schedules::share(checker, given.share.expr, "the share", env);
            match literal(given.share.expr) {
                Some(1.0) => never_drawn(checker, given.share.expr.span, given.second.expr.span, 1),
                Some(0.0) => never_drawn(checker, given.share.expr.span, given.first.expr.span, 0),
                _ => {}
            }
            let (first, second) = (read(checker, given.first, env), read(checker, given.second, env));
            RolloutSource::Mix { share: share?, first: first?, second: second? }
        }
        RolloutCall::TokenMix(given) => {
            let alpha = read(checker, given.alpha, env);
            RolloutSource::TokenMix { of: read(checker, given.of, env)?, alpha: alpha? }
        }
        RolloutCall::Interleave(given) => {
            let top_k = read(checker, given.top_k, env);
            RolloutSource::Interleave { of: read(checker, given.of, env)?, top_k: top_k? }
        }
        RolloutCall::Refine(given) => {
            let (by, of) = (read(checker, given.by, env), read(checker, given.of, env));
            let sees = read(checker, given.sees, env)?;
            RolloutSource::Refine { by: by?, sees, of: of? }
        }
        RolloutCall::Snapshot(given) => {
            let model = read(checker, given.model, env);
            RolloutSource::Snapshot { of: read(checker, given.of, env)?, model: model? }
        }
        RolloutCall::Replay(given) => replay(checker, given, env)?,
        RolloutCall::FirstOf(given) => {
            let FirstOf { first, second, third, fourth, .. } = given;
            let choices: Vec<Option<_>> = [Some(first), Some(second), third, fourth]
                .into_iter()
                .flatten()
                .map(|choice| read(checker, choice, env))
                .collect();
            RolloutSource::FirstOf { choices: choices.into_iter().collect::<Option<_>>()? }
        }
        RolloutCall::EachTurn(given) => {
            let (history, of) = (read(checker, given.history, env), read(checker, given.of, env));
            RolloutSource::EachTurn { history: history?, of: of? }
        }
        RolloutCall::Speculative(given) => {
            let block = read(checker, given.block, env);
            RolloutSource::Speculative { of: read(checker, given.of, env)?, block: block? }
        }
        RolloutCall::Turns(given) => {
            let environment = read(checker, given.environment, env);
            let (at_most, of) = (read(checker, given.at_most, env), read(checker, given.of, env));
            let time_limit_seconds = read(checker, given.time_limit, env)?;
            let depends = read(checker, given.depends, env)?.unwrap_or_default();
            RolloutSource::Turns(mopd_experiment::Turns {
                environment: environment?,
                time_limit_seconds,
                depends,
                at_most: at_most?,
                of: of?,
            })
        }
        RolloutCall::Denoise(given) => {
            let (steps, block) = (read(checker, given.steps, env), read(checker, given.block, env));
            let of = read(checker, given.of, env);
            RolloutSource::Denoise { steps: steps?, block: block?, of: of? }
        }
        RolloutCall::Derived(given) => {
            let (template, of) = (read(checker, given.template, env), read(checker, given.from, env));
            RolloutSource::Derived { template: template?, of: of? }
        }
    })
}

pub fn sampled_by(checker: &mut Checker, given: SampledBy, env: &Env) -> Option<RolloutSource> {
    let (engine, url) = (teachers::engine(checker, given.engine, env), read(checker, given.url, env));
    let (model, push) = (read(checker, given.model, env), read(checker, given.push, env));
    let (of, every) = (read(checker, given.of, env), read(checker, given.every, env));
    let key = match given.key.map(|key| teachers::server_key(checker, key, env)) {
        Some(key) => Some(key?),
        None => None,
    };
    let server = RolloutEngine { engine: engine?, url: url?, model: model?, push: push?, key };
    Some(RolloutSource::SampledBy { server: server.into(), of: of?, every: every? })
}

/// The number that is written. One with a name may be at its end in an ablation.
fn literal(expr: &Expr) -> Option<f64> {
    match &expr.kind {
        ExprKind::Number { value, .. } => Some(*value),
        _ => None,
    }
}

fn never_drawn(reporter: &mut Reporter, share: Span, never: Span, number: u8) {
    let text = format!("with a share of {number}, this rollout is never drawn");
    reporter.report(
        Diagnostic::warning(Code::UnusedSetting, share, text)
            .note(never, "never drawn")
            .help("write a share between 0 and 1, such as `0.5`, or the other rollout alone"),
    );
}

/// `replay(sample(...), capacity: 10_000, share: 0.25, keeps: prompts, while: ..., order: ...)`
pub fn replay(checker: &mut Checker, given: Replay, env: &Env) -> Option<RolloutSource> {
    let (of, capacity) = (read(checker, given.of, env), read(checker, given.capacity, env));
    if literal(given.share.expr) == Some(1.0) {
        let text = "with a share of 1, nothing new is drawn once the buffer holds a group";
        checker.report(
            Diagnostic::warning(Code::UnusedSetting, given.share.expr.span, text)
                .help("write a share below 1, such as `0.25`"),
        );
    }
    let (share, keeps) = (read(checker, given.share, env), read(checker, given.keeps, env));
    let condition = match given.condition {
        Some(condition) => rollouts::judged_by(checker, condition.expr, env, true, Axis::Group).map(Some),
        None => Some(None),
    };
    let order = match given.order {
        Some(order) => rollouts::judged_by(checker, order.expr, env, false, Axis::Group).map(Some),
        None => Some(None),
    };
    Some(RolloutSource::Replay(mopd_experiment::Replay {
        capacity: capacity?,
        share: share?,
        keeps: keeps?.unwrap_or(ReplayContents::Rollouts),
        condition: condition?,
        order: order?,
        of: of?,
    }))
}

/// `heads: 2, accept: 0.95`: each needs the other.
pub fn heads(checker: &mut Checker, given: &Sample, env: &Env) -> Result<Option<Heads>, Reported> {
    let alone = match (given.heads, given.accept) {
        (None, None) => return Ok(None),
        (Some(heads), Some(accept)) => {
            let (heads, accept) = (read(checker, heads, env), read(checker, accept, env));
            return match (heads, accept) {
                (Some(heads), Some(accept)) => Ok(Some(Heads { heads, accept })),
                _ => Err(Reported),
            };
        }
        (Some(heads), None) => heads.expr,
        (None, Some(accept)) => accept.expr,
    };
    let text = "several heads need to know when a later one is kept";
    checker.report(
        Diagnostic::error(Code::MissingArgument, alone.span, text)
            .help("write both: `heads: 2, accept: 0.95`"),
    );
    Err(Reported)
}

pub fn sample(checker: &mut Checker, given: Sample, env: &Env) -> Option<Sampling> {
    let n = read(checker, given.n, env);
    let temperature = read(checker, given.temperature, env);
    let max_tokens = read(checker, given.max_tokens, env);
    let (top_p, top_k) = (given.top_p.map(Arg::expr), given.top_k.map(Arg::expr));
    let stop = given.stop.map(Arg::expr);
    let sampling = rollouts::sampling(
        checker,
        SamplingArguments { n, temperature: temperature.clone(), max_tokens, top_p, top_k, stop },
        env,
    );
    let repetition_penalty = read(checker, given.repetition_penalty, env)?;
    let heads = heads(checker, &given, env).ok()?;
    Some(Sampling { repetition_penalty, heads, ..sampling? })
}

/// `from(teacher, sequences: 9600, ...)`: generated once; `from(teacher, n: 1, ...)`: every step.
pub fn written_by(checker: &mut Checker, given: From, env: &Env) -> Option<RolloutSource> {
    let teacher = read(checker, given.teacher, env);
    let lacks = [(given.temperature.is_none(), "temperature"), (given.max_tokens.is_none(), "max_tokens")];
    for (_, name) in lacks.iter().filter(|(lacks, _)| *lacks) {
        let text = format!("`from` needs `{name}`");
        checker.report(
            Diagnostic::error(Code::MissingArgument, given.call.span, text)
                .label("not given here")
                .help("write `from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)`"),
        );
    }
    if let (Some(sequences), Some(n)) = (given.sequences, given.n) {
        checker.report(
            Diagnostic::error(
                Code::UnknownArgument,
                n.expr.span,
                "`n` and `sequences` are two different experiments",
            )
            .note(sequences.expr.span, "made once, so many in all")
            .help("write `n` for fresh completions of every prompt, `sequences` for a fixed set"),
        );
        return None;
    }
    let (temperature, max_tokens) = (given.temperature?, given.max_tokens?);
    let sequences = read(checker, given.sequences, env)?;
    let n = read(checker, given.n, env).map(|n| n.unwrap_or(1));
    let temperature = read(checker, temperature, env);
    let max_tokens = read(checker, max_tokens, env);
    let (top_p, top_k) = (given.top_p.map(Arg::expr), given.top_k.map(Arg::expr));
    let stop = given.stop.map(Arg::expr);
    let sampling = rollouts::sampling(
        checker,
        SamplingArguments { n, temperature, max_tokens, top_p, top_k, stop },
        env,
    );
    let sees = read(checker, given.sees, env)?;
    Some(RolloutSource::From { teacher: teacher?, sees, sequences, sampling: sampling? })
}
