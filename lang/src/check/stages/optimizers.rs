//! Optimizers, with the field's usual values where nothing is said.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::experiment::{AdamW, Extrapolation, Optimizer, WeightGroup};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};

use crate::check::Checker;
use crate::check::builtins::{self, Kind, OptimizerName};
use crate::check::stages::trainable::WEIGHT_GROUPS;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

impl Checker {
    /// `optimizer = adamw(...)` of a stage.
    pub(in crate::check) fn optimizer(&mut self, expr: Option<&Expr>, env: &Env) -> Option<Optimizer> {
        let Some(expr) = expr else { return Some(Optimizer::AdamW(usual())) };
        match self.evaluate(expr, env) {
            Value::Optimizer(optimizer) => Some(optimizer),
            // A bare name stands for a call without arguments.
            Value::Builtin(builtin) if matches!(builtin.kind, Kind::Optimizer(_)) => {
                let Kind::Optimizer(name) = builtin.kind else { return None };
                let given = self.builtin_arguments(builtin, &[], expr.span)?;
                self.optimizer_call(name, &given, expr.span, env)
            }
            other => {
                let usage = builtins::find("adamw").expect("built in").usage;
                self.wrong_kind(expr.span, &format!("an optimizer is `{usage}`"), &other);
                None
            }
        }
    }

    pub(in crate::check) fn optimizer_call(
        &mut self,
        name: OptimizerName,
        given: &[Option<&Expr>],
        span: Span,
        env: &Env,
    ) -> Option<Optimizer> {
        let origin = self.origin(span);
        match name {
            OptimizerName::AdamW => {
                let AdamW { beta1, beta2, epsilon, weight_decay, clip_norm } = usual();
                Some(Optimizer::AdamW(AdamW {
                    beta1: self.decay(given[0], "beta1", beta1, env)?,
                    beta2: self.decay(given[1], "beta2", beta2, env)?,
                    epsilon: self.positive_or(given[2], "epsilon", epsilon, 0.0, env)?,
                    weight_decay: self.positive_or(given[3], "weight_decay", weight_decay, 0.0, env)?,
                    clip_norm: self.clip_norm(given[4], clip_norm, span, env)?,
                }))
            }
            OptimizerName::Sgd => {
                let momentum = self.decay(given[0], "momentum", 0.0, env)?;
                Some(Optimizer::Sgd {
                    momentum,
                    clip_norm: self.clip_norm(given[1], 1.0, span, env)?,
                    origin,
                })
            }
            OptimizerName::PrivateAdamW => {
                let positive = |checker: &mut Checker, slot: usize, key: &str| {
                    checker.at_least(given[slot].expect("required"), key, env, f64::MIN_POSITIVE)
                };
                let (clip, epsilon) = (positive(self, 0, "clip"), positive(self, 1, "epsilon"));
                let expr = given[2].expect("required");
                let delta = positive(self, 2, "delta")?;
                if delta >= 1.0 {
                    self.report(
                        Diagnostic::error(
                            Code::OutOfRange,
                            expr.span,
                            "`delta` is the chance that the promise fails: it is below 1",
                        )
                        .label(format!("this is {delta}")),
                    );
                    return None;
                }
                Some(Optimizer::Private { clip: clip?, epsilon: epsilon?, delta, origin })
            }
        }
    }

    fn decay(&mut self, expr: Option<&Expr>, key: &str, usual: f64, env: &Env) -> Option<f64> {
        let rate = self.positive_or(expr, key, usual, 0.0, env)?;
        if let Some(expr) = expr.filter(|_| rate >= 1.0) {
            self.report(Diagnostic::error(Code::OutOfRange, expr.span, "a decay rate must be below 1"));
            return None;
        }
        Some(rate)
    }

    fn clip_norm(&mut self, expr: Option<&Expr>, usual: f64, span: Span, env: &Env) -> Option<f64> {
        let norm = self.positive_or(expr, "clip_norm", usual, 0.0, env)?;
        if norm == 0.0 {
            self.report(Diagnostic::error(
                Code::OutOfRange,
                span,
                "a largest gradient norm of 0 would stop all learning",
            ));
            return None;
        }
        Some(norm)
    }

    fn positive_or(
        &mut self,
        expr: Option<&Expr>,
        key: &str,
        usual: f64,
        least: f64,
        env: &Env,
    ) -> Option<f64> {
        match expr {
            Some(expr) => self.at_least(expr, key, env, least),
            None => Some(usual),
        }
    }

    /// `extrapolate(factor: 2, rounds: 5, at: powers_of(2), judged_by: probe)`
    pub(in crate::check) fn extrapolate_call(
        &mut self,
        given: &[Option<&Expr>],
        span: Span,
        env: &Env,
    ) -> Value {
        let place = |slot: usize| given[slot].expect("required");
        let factor = self.real(place(0), "factor", env);
        let rounds = self.count(place(1), "rounds", env, 1);
        let powers_of = match self.evaluate(place(2), env) {
            Value::PowersOf(base) => Some(base),
            other => {
                self.wrong_kind(place(2).span, "`at` says when: `powers_of(2)`", &other);
                None
            }
        };
        let judged_by = match self.evaluate(place(3), env) {
            Value::Benchmark(benchmark) => Some(benchmark),
            other => {
                self.wrong_kind(place(3).span, "`judged_by` names an `eval`", &other);
                None
            }
        };
        let (Some(factor), Some(rounds), Some(powers_of), Some(judged_by)) =
            (factor, rounds, powers_of, judged_by)
        else {
            return Value::Error;
        };
        if factor <= 1.0 {
            self.report(
                Diagnostic::error(Code::OutOfRange, place(0).span, "a step that is extrapolated gets longer")
                    .label(format!("this is {factor}"))
                    .help("write a factor above 1"),
            );
            return Value::Error;
        }
        let Some(weights) = self.weight_groups(given[4], env) else { return Value::Error };
        let origin = self.origin(span);
        Value::Extrapolation(Rc::new(Extrapolation { factor, rounds, powers_of, judged_by, weights, origin }))
    }

    /// `weights: [attention, feed_forward]`; all where nothing is said.
    fn weight_groups(&mut self, expr: Option<&Expr>, env: &Env) -> Option<Vec<WeightGroup>> {
        let Some(expr) = expr else { return Some(Vec::new()) };
        let ExprKind::List(items) = &expr.kind else {
            let value = self.evaluate(expr, env);
            self.wrong_kind(
                expr.span,
                "`weights` is a list: `[attention, feed_forward, embedding, norm]`",
                &value,
            );
            return None;
        };
        items.iter().map(|item| self.word(item, "a part of a decoder", &WEIGHT_GROUPS)).collect()
    }

    pub(in crate::check) fn powers_of(&mut self, given: &[Option<&Expr>], _span: Span, env: &Env) -> Value {
        self.count(given[0].expect("required"), "base", env, 2).map_or(Value::Error, Value::PowersOf)
    }
}

fn usual() -> AdamW {
    AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 }
}
