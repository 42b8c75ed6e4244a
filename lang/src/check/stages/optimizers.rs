//! Optimizers with the usual defaults, and the calls that act between updates (extrapolation, validation).

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::{
    self, Extrapolation, GradientAlignment, GradientPartition, Optimizer, Private, Validation, WeightGroup,
    WithOrigin,
};

use crate::check::builtins::declare::{Arg, ArgOr, Call};
use crate::check::builtins::optimizers::{AdamW, OptimizerCall};
use crate::check::builtins::types::{Decay, NotNegative};
use crate::check::builtins::weights::{Align, Extrapolate, Validate};
use crate::check::builtins::{self, BuiltinKind};
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::read::{arguments, expected, numbers, read, reads};
use crate::check::values::environment::Env;
use crate::check::values::value::{UpdateRule, Value};

reads! {
    Decay => |checker, given, env| decay(checker, given, env);
    WeightGroups => |checker, given, env| weight_groups(checker, given.expr, env);
    Extrapolation => |checker, given, env| {
        match checker.evaluate(given.expr, env) {
            Value::Extrapolation(extrapolation) => Some(Rc::unwrap_or_clone(extrapolation)),
            other => no_such_call(checker, given, &other),
        }
    };
    Validation => |checker, given, env| {
        match checker.evaluate(given.expr, env) {
            Value::Validation(validation) => Some(Rc::unwrap_or_clone(validation)),
            other => no_such_call(checker, given, &other),
        }
    };
    GradientAlignment => |checker, given, env| {
        match checker.evaluate(given.expr, env) {
            Value::GradientAlignment(alignment) => Some(Rc::unwrap_or_clone(alignment)),
            other => no_such_call(checker, given, &other),
        }
    };
}

/// `optimizer = adamw(...)` of a stage.
pub fn optimizer(checker: &mut Checker, given: Option<&Expr>, stage: Span, env: &Env) -> Option<UpdateRule> {
    let adamw = builtins::find("adamw").expect("built in");
    let bare = |builtin, span| Call { builtin, arguments: &[], block: None, span };
    let Some(expr) = given else {
        let usual = AdamW::of(bare(adamw, stage), &[None; 5])?;
        return optimizer_call(checker, OptimizerCall::AdamW(usual), env);
    };
    match checker.evaluate(expr, env) {
        Value::Optimizer(optimizer) => Some(optimizer),
        // A bare name stands for a call without arguments.
        Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Optimizer(_)) => {
            let BuiltinKind::Optimizer(name) = builtin.kind else { return None };
            let call = bare(builtin, expr.span);
            let given = arguments::builtin_arguments(checker, call)?;
            optimizer_call(checker, name.call(call, &given)?, env)
        }
        other => {
            let usage = adamw.usage;
            expected::wrong_kind(checker, expr.span, &format!("an optimizer is `{usage}`"), &other);
            None
        }
    }
}

pub fn optimizer_call(checker: &mut Checker, call: OptimizerCall, env: &Env) -> Option<UpdateRule> {
    let mut private = None;
    let optimizer = match call {
        OptimizerCall::AdamW(given) => {
            let span = given.call.span;
            Optimizer::AdamW(mopd_experiment::AdamW {
                beta1: read(checker, given.beta1, env)?,
                beta2: read(checker, given.beta2, env)?,
                epsilon: denominator_offset(checker, given.epsilon, span, env)?,
                weight_decay: read(checker, given.weight_decay, env)?,
                clip_norm: clip_norm(checker, given.clip_norm, span, env)?,
            })
        }
        OptimizerCall::Sgd(given) => {
            let span = given.call.span;
            let momentum = read(checker, given.momentum, env)?;
            let clip_norm = clip_norm(checker, given.clip_norm, span, env)?;
            Optimizer::Sgd(mopd_experiment::Sgd { momentum, clip_norm })
        }
        OptimizerCall::PrivateAdamW(given) => {
            let origin = checker.origin(given.call.span);
            let (clip, epsilon) = (read(checker, given.clip, env), read(checker, given.epsilon, env));
            let delta = read(checker, given.delta, env)?;
            if delta >= 1.0 {
                let text = "`delta` is a probability: it must be below 1";
                checker.report(
                    Diagnostic::error(Code::OutOfRange, given.delta.expr.span, text)
                        .label(format!("this is {delta}")),
                );
                return None;
            }
            private = Some(WithOrigin { value: Private { clip: clip?, epsilon: epsilon?, delta }, origin });
            // The usual values. The gradients of records are already clipped.
            Optimizer::AdamW(mopd_experiment::AdamW {
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.0,
                clip_norm: f64::MAX,
            })
        }
    };
    Some(UpdateRule { optimizer, private })
}

pub fn decay(checker: &mut Checker, given: Arg<Decay>, env: &Env) -> Option<f64> {
    let rate = numbers::at_least(checker, given.expr, given.name, env, 0.0)?;
    if rate >= 1.0 {
        let text = "a decay rate must be below 1";
        checker.report(Diagnostic::error(Code::OutOfRange, given.expr.span, text));
        return None;
    }
    if rate as f32 >= 1.0 {
        let text = format!("`{}` is 1 in single precision, in which moments are kept", given.name);
        checker.report(
            Diagnostic::error(Code::OutOfRange, given.expr.span, text)
                .label(format!("this is {rate}: nothing would ever be forgotten"))
                .help("write a rate from 0 to 0.9999999"),
        );
        return None;
    }
    Some(rate)
}

/// `epsilon` of AdamW, in the range of single precision, which parameters and moments have. Where no
/// gradient has come yet, the moments are 0 and the denominator is `epsilon` alone.
fn denominator_offset(
    checker: &mut Checker,
    given: ArgOr<NotNegative>,
    span: Span,
    env: &Env,
) -> Option<f64> {
    let place = given.given.as_ref().map_or(span, |given| given.expr.span);
    let epsilon = read(checker, given, env)?;
    if (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&epsilon) {
        return Some(epsilon);
    }
    let said = if epsilon == 0.0 { "0".to_owned() } else { format!("{epsilon:e}") };
    let text = "`epsilon` must be from 1.2e-38 to 3.4e38, where single precision has its numbers";
    checker.report(
        Diagnostic::error(Code::OutOfRange, place, text)
            .label(format!("this is {said}"))
            .help("it keeps weights without a gradient from becoming 0 / 0; 1e-8 is usual"),
    );
    None
}

fn clip_norm(checker: &mut Checker, given: ArgOr<NotNegative>, span: Span, env: &Env) -> Option<f64> {
    let norm = read(checker, given, env)?;
    if norm == 0.0 {
        let text = "a largest gradient norm of 0 would stop all learning";
        checker.report(
            Diagnostic::error(Code::OutOfRange, span, text)
                .help("write a norm above 0, such as the usual 1; a very large one bounds nothing"),
        );
        return None;
    }
    Some(norm)
}

/// `extrapolate(factor: 2, rounds: 5, at: powers_of(2), judged_by: probe)`
pub fn extrapolation(checker: &mut Checker, given: Extrapolate, env: &Env) -> Option<Extrapolation> {
    let (factor, rounds) = (read(checker, given.factor, env), read(checker, given.rounds, env));
    let powers_of = match checker.evaluate(given.at.expr, env) {
        Value::PowersOf(base) => Some(base),
        other => {
            expected::wrong_kind(checker, given.at.expr.span, "`at` says when: `powers_of(2)`", &other);
            None
        }
    };
    let judged_by = match checker.evaluate(given.judged_by.expr, env) {
        Value::Benchmark(benchmark) => Some(benchmark),
        other => {
            expected::wrong_kind(checker, given.judged_by.expr.span, "`judged_by` names an `eval`", &other);
            None
        }
    };
    let (factor, rounds, powers_of, judged_by) = (factor?, rounds?, powers_of?, judged_by?);
    if factor <= 1.0 {
        let text = "a step that is extrapolated gets longer";
        checker.report(
            Diagnostic::error(Code::OutOfRange, given.factor.expr.span, text)
                .label(format!("this is {factor}"))
                .help("write a factor above 1"),
        );
        return None;
    }
    let weights = read(checker, given.weights, env)?.unwrap_or_default();
    let origin = checker.origin(given.call.span);
    Some(Extrapolation { factor, rounds, powers_of, judged_by, weights, origin })
}

/// `validate(target: answer, every: 10 steps)`
pub fn validation(checker: &mut Checker, given: Validate, env: &Env) -> Option<WithOrigin<Validation>> {
    let (target, every) = (read(checker, given.target, env), read(checker, given.every, env));
    let rows = read(checker, given.rows, env)?;
    let origin = checker.origin(given.call.span);
    Some(WithOrigin { value: Validation { target: target?, every: every?, rows }, origin })
}

/// `gradient_alignment(every: 20 steps, between: terms)`
pub fn alignment(checker: &mut Checker, given: Align, env: &Env) -> Option<WithOrigin<GradientAlignment>> {
    let every = read(checker, given.every, env);
    let between = read(checker, given.between, env)?.unwrap_or(GradientPartition::Terms);
    let origin = checker.origin(given.call.span);
    Some(WithOrigin { value: GradientAlignment { between, every: every? }, origin })
}

/// `weights: [attention, feed_forward]`
pub fn weight_groups(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Vec<WeightGroup>> {
    let ExprKind::List(items) = &expr.kind else {
        let value = checker.evaluate(expr, env);
        let wanted = "`weights` is a list: `[attention, feed_forward, embedding, norm]`";
        expected::wrong_kind(checker, expr.span, wanted, &value);
        return None;
    };
    items.iter().map(|item| expected::word(checker, item, "a part of a decoder", &WEIGHT_GROUPS)).collect()
}

/// Reports a value of a setting that is not a call of the setting's name.
fn no_such_call<T, V>(declarations: &mut Declarations, given: Arg<T>, value: &Value) -> Option<V> {
    let usage = builtins::find(given.name).expect("built in").usage;
    expected::wrong_kind(declarations, given.expr.span, &format!("`{}` is `{usage}`", given.name), value);
    None
}

pub const WEIGHT_GROUPS: [(&str, WeightGroup); 4] = [
    ("attention", WeightGroup::Attention),
    ("feed_forward", WeightGroup::FeedForward),
    ("embedding", WeightGroup::Embedding),
    ("norm", WeightGroup::Norm),
];
