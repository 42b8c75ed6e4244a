//! Optimizers with the usual defaults, and the calls that act between updates (extrapolation, validation).

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::{
    self, Extrapolation, GradientAlignment, GradientPartition, Optimizer, Private, Train, Validation,
    WeightGroup, WithOrigin,
};

use crate::check::Checker;
use crate::check::builtins::declare::{Arg, ArgOr, Call};
use crate::check::builtins::optimizers::{AdamW, OptimizerCall};
use crate::check::builtins::types::{Decay, NotNegative};
use crate::check::builtins::weights::{Align, Extrapolate, Validate};
use crate::check::builtins::{self, BuiltinKind};
use crate::check::stages::trainable::WEIGHT_GROUPS;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

/// The value of the setting `optimizer`.
#[derive(Clone, Debug)]
pub(in crate::check) struct UpdateRule {
    pub optimizer: Optimizer,
    pub private: Option<WithOrigin<Private>>,
}

impl Checker {
    /// `optimizer = adamw(...)` of a stage.
    pub(in crate::check) fn optimizer(
        &mut self,
        given: Option<&Expr>,
        stage: Span,
        env: &Env,
    ) -> Option<UpdateRule> {
        let adamw = builtins::find("adamw").expect("built in");
        let bare = |builtin, span| Call { builtin, arguments: &[], block: None, span };
        let Some(expr) = given else {
            let usual = AdamW::of(bare(adamw, stage), &[None; 5])?;
            return self.optimizer_call(OptimizerCall::AdamW(usual), env);
        };
        match self.evaluate(expr, env) {
            Value::Optimizer(optimizer) => Some(optimizer),
            // A bare name stands for a call without arguments.
            Value::Builtin(builtin) if matches!(builtin.kind, BuiltinKind::Optimizer(_)) => {
                let BuiltinKind::Optimizer(name) = builtin.kind else { return None };
                let call = bare(builtin, expr.span);
                let given = self.builtin_arguments(call)?;
                self.optimizer_call(name.call(call, &given)?, env)
            }
            other => {
                let usage = adamw.usage;
                self.wrong_kind(expr.span, &format!("an optimizer is `{usage}`"), &other);
                None
            }
        }
    }

    pub(in crate::check) fn optimizer_call(&mut self, call: OptimizerCall, env: &Env) -> Option<UpdateRule> {
        let mut private = None;
        let optimizer = match call {
            OptimizerCall::AdamW(given) => {
                let span = given.call.span;
                Optimizer::AdamW(mopd_experiment::AdamW {
                    beta1: self.read(given.beta1, env)?,
                    beta2: self.read(given.beta2, env)?,
                    epsilon: self.denominator_offset(given.epsilon, span, env)?,
                    weight_decay: self.read(given.weight_decay, env)?,
                    clip_norm: self.clip_norm(given.clip_norm, span, env)?,
                })
            }
            OptimizerCall::Sgd(given) => {
                let span = given.call.span;
                let momentum = self.read(given.momentum, env)?;
                let clip_norm = self.clip_norm(given.clip_norm, span, env)?;
                Optimizer::Sgd(mopd_experiment::Sgd { momentum, clip_norm })
            }
            OptimizerCall::PrivateAdamW(given) => {
                let origin = self.origin(given.call.span);
                let (clip, epsilon) = (self.read(given.clip, env), self.read(given.epsilon, env));
                let delta = self.read(given.delta, env)?;
                if delta >= 1.0 {
                    let text = "`delta` is a probability: it must be below 1";
                    self.report(
                        Diagnostic::error(Code::OutOfRange, given.delta.expr.span, text)
                            .label(format!("this is {delta}")),
                    );
                    return None;
                }
                private =
                    Some(WithOrigin { value: Private { clip: clip?, epsilon: epsilon?, delta }, origin });
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

    pub(in crate::check) fn decay(&mut self, given: Arg<Decay>, env: &Env) -> Option<f64> {
        let rate = self.at_least(given.expr, given.name, env, 0.0)?;
        if rate >= 1.0 {
            let text = "a decay rate must be below 1";
            self.report(Diagnostic::error(Code::OutOfRange, given.expr.span, text));
            return None;
        }
        if rate as f32 >= 1.0 {
            let text = format!("`{}` is 1 in single precision, in which moments are kept", given.name);
            self.report(
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
    fn denominator_offset(&mut self, given: ArgOr<NotNegative>, span: Span, env: &Env) -> Option<f64> {
        let place = given.given.as_ref().map_or(span, |given| given.expr.span);
        let epsilon = self.read(given, env)?;
        if (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&epsilon) {
            return Some(epsilon);
        }
        let said = if epsilon == 0.0 { "0".to_owned() } else { format!("{epsilon:e}") };
        let text = "`epsilon` must be from 1.2e-38 to 3.4e38, where single precision has its numbers";
        self.report(
            Diagnostic::error(Code::OutOfRange, place, text)
                .label(format!("this is {said}"))
                .help("it keeps weights without a gradient from becoming 0 / 0; 1e-8 is usual"),
        );
        None
    }

    fn clip_norm(&mut self, given: ArgOr<NotNegative>, span: Span, env: &Env) -> Option<f64> {
        let norm = self.read(given, env)?;
        if norm == 0.0 {
            let text = "a largest gradient norm of 0 would stop all learning";
            self.report(Diagnostic::error(Code::OutOfRange, span, text));
            return None;
        }
        Some(norm)
    }

    /// `extrapolate(factor: 2, rounds: 5, at: powers_of(2), judged_by: probe)`
    pub(in crate::check) fn extrapolation(&mut self, given: Extrapolate, env: &Env) -> Option<Extrapolation> {
        let (factor, rounds) = (self.read(given.factor, env), self.read(given.rounds, env));
        let powers_of = match self.evaluate(given.at.expr, env) {
            Value::PowersOf(base) => Some(base),
            other => {
                self.wrong_kind(given.at.expr.span, "`at` says when: `powers_of(2)`", &other);
                None
            }
        };
        let judged_by = match self.evaluate(given.judged_by.expr, env) {
            Value::Benchmark(benchmark) => Some(benchmark),
            other => {
                self.wrong_kind(given.judged_by.expr.span, "`judged_by` names an `eval`", &other);
                None
            }
        };
        let (factor, rounds, powers_of, judged_by) = (factor?, rounds?, powers_of?, judged_by?);
        if factor <= 1.0 {
            let text = "a step that is extrapolated gets longer";
            self.report(
                Diagnostic::error(Code::OutOfRange, given.factor.expr.span, text)
                    .label(format!("this is {factor}"))
                    .help("write a factor above 1"),
            );
            return None;
        }
        let weights = self.read(given.weights, env)?.unwrap_or_default();
        let origin = self.origin(given.call.span);
        Some(Extrapolation { factor, rounds, powers_of, judged_by, weights, origin })
    }

    /// `validate(target: answer, every: 10 steps)`
    pub(in crate::check) fn validation(
        &mut self,
        given: Validate,
        env: &Env,
    ) -> Option<WithOrigin<Validation>> {
        let (target, every) = (self.read(given.target, env), self.read(given.every, env));
        let rows = self.read(given.rows, env)?;
        let origin = self.origin(given.call.span);
        Some(WithOrigin { value: Validation { target: target?, every: every?, rows }, origin })
    }

    /// `gradient_alignment(every: 20 steps, between: terms)`
    pub(in crate::check) fn alignment(
        &mut self,
        given: Align,
        env: &Env,
    ) -> Option<WithOrigin<GradientAlignment>> {
        let every = self.read(given.every, env);
        let between = self.read(given.between, env)?.unwrap_or(GradientPartition::Terms);
        let origin = self.origin(given.call.span);
        Some(WithOrigin { value: GradientAlignment { between, every: every? }, origin })
    }

    /// Whether there are several gradients to compare. Reports where there is only one.
    pub(in crate::check) fn check_alignment(&mut self, train: &Train) -> bool {
        let Some(GradientAlignment { between, .. }) = train.options.alignment else { return true };
        let count = |between| match between {
            GradientPartition::Terms => train.objective.terms.len(),
            GradientPartition::Domains => train.mixture.len(),
        };
        if count(between) > 1 {
            return true;
        }
        let (what, other) = match between {
            GradientPartition::Terms => ("the objective has one term", GradientPartition::Domains),
            GradientPartition::Domains => ("the stage trains on one domain", GradientPartition::Terms),
        };
        let help = match count(other) > 1 {
            true => format!("write `between: {}`, or remove it", other.name()),
            false => "remove it".to_owned(),
        };
        let span = self.span(train.origins.alignment);
        let text = format!("{what}: there is no other gradient to compare its own with");
        self.report(Diagnostic::error(Code::UnusedSetting, span, text).help(help));
        false
    }

    /// `weights: [attention, feed_forward]`
    pub(in crate::check) fn weight_groups(&mut self, expr: &Expr, env: &Env) -> Option<Vec<WeightGroup>> {
        let ExprKind::List(items) = &expr.kind else {
            let value = self.evaluate(expr, env);
            let wanted = "`weights` is a list: `[attention, feed_forward, embedding, norm]`";
            self.wrong_kind(expr.span, wanted, &value);
            return None;
        };
        items.iter().map(|item| self.word(item, "a part of a decoder", &WEIGHT_GROUPS)).collect()
    }
}
