//! The stages that train: `sft`, `grpo`, `distill`, `dpo`, and the steps of `train`. They differ in where
//! completions come from and in the default objective.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, Reported};
use crate::source::Span;
use crate::syntax::ast::{Argument, Expr, ExprKind};
use mopd_experiment::formula::Axis;
use mopd_experiment::{
    BatchSize, DomainId, Execution, ModelId, Objective, OptionOrigins, Recipe, Share, Stage, Train,
    TrainOptions,
};

use crate::check::Checker;
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::declare_settings::DeclaredBlock;
use crate::check::builtins::types::{Count, Model};
use crate::check::builtins::vocabulary::{self, DistillBlock, StageBlock};
use crate::check::names::modules::StandardItem;
use crate::check::stages::recipes::{DistillSettings, RecipeParts};
use crate::check::stages::settings::BlockSettings;
use crate::check::values::evaluate::Env;
use crate::check::values::value::{Callable, MemberKey, Value};

impl Checker {
    pub(in crate::check) fn training(
        &mut self,
        recipe: Recipe,
        Call { block, span, .. }: Call,
        start: Arg<Model>,
        on: Option<&Expr>,
        env: &Env,
    ) -> Option<Stage> {
        let keys = match recipe {
            Recipe::Sft => vocabulary::SFT,
            Recipe::Grpo => vocabulary::GRPO,
            Recipe::Distill => vocabulary::DISTILL,
            Recipe::Dpo => vocabulary::DPO,
            Recipe::Step => vocabulary::STEP,
        };
        let settings = self.settings(block, recipe.name(), span, keys, true);
        self.keep_marks(&settings, &env.model_name);
        // Every setting is read before the first missing one ends the stage: all mistakes at once.
        let start = self.read(start, &env.named(format!("{}.start", env.model_name)));
        let distilled = DistillBlock::of(&settings);
        let on = on.or(distilled.domains.map(Arg::expr));
        let mixture = self.mixture(on, env);
        let parts = match recipe {
            Recipe::Sft => self.sft(&settings, start, mixture, env),
            Recipe::Grpo => self.grpo(&settings, start, mixture, env),
            Recipe::Dpo => self.dpo(&settings, start, mixture, env),
            Recipe::Distill | Recipe::Step => {
                let DistillBlock { objective, rollout, prompts, batch, .. } = distilled;
                let (rollout, prompts) = (rollout.given, prompts.given);
                let given = DistillSettings { objective, rollout, prompts, batch };
                self.distill(recipe, &settings, given, start, mixture, env)
            }
        };
        self.finish_training(parts, &settings, env).map(|train| Stage::Train(Box::new(train)))
    }

    /// Reads the settings that all recipes have, checks the whole stage, and puts it together.
    pub(in crate::check) fn finish_training(
        &mut self,
        parts: RecipeParts,
        settings: &BlockSettings,
        env: &Env,
    ) -> Option<Train> {
        // Every setting is read before a missing or faulty one ends the stage.
        let trained: Vec<DomainId> = parts.mixture.iter().flatten().map(|share| share.domain).collect();
        let given = StageBlock::of(settings);
        let length = self.read(given.steps, env);
        let learning_rate = self.learning_rate(given.lr, env, length);
        let update = self.optimizer(given.optimizer.map(Arg::expr), settings.span, env);
        let reference = match given.reference {
            Some(reference) => self.references(reference.expr, &trained, env),
            None => Some(Vec::new()),
        };
        let sees = self.read(given.sees, env);
        let (passes, mini_batches) = (self.read(given.passes, env), self.read(given.mini_batches, env));
        let per_prompt = |checker: &mut Checker, given: Option<&Expr>, truth: bool| match given {
            Some(expr) => checker.judged_by(expr, env, truth, Axis::Group).map(Some).ok_or(Reported),
            None => Ok(None),
        };
        let filter = per_prompt(self, given.filter.map(Arg::expr), true);
        let priority = per_prompt(self, given.priority.map(Arg::expr), false);
        let refresh = self.read(given.refresh, env);
        let extrapolation = self.read(given.extrapolate, env);
        let validation = self.read(given.validate, env);
        let alignment = self.read(given.gradient_alignment, env);
        let trainable = self.trainable(given.adapter, given.train_only, given.freeze, settings, env);
        let guards = self.guards(given.guards.map(Arg::expr), &trained, env);
        let (micro_batch, checkpointing) =
            (self.read(given.micro_batch, env), self.read(given.checkpointing, env));
        let ema = self.read(given.ema, env);
        let (objective, rollout, mixture) = (parts.objective?, parts.rollout?, parts.mixture?);
        let domains: Vec<DomainId> = mixture.iter().map(|share| share.domain).collect();
        // Checked before the route: a stage without rollouts of its own can't read a teacher's distribution
        // on them either.
        if !self.check_rollouts(&objective, &rollout, settings) {
            return None;
        }
        let reads_teacher = objective.reads(&mopd_experiment::formula::Role::Teacher)
            || self.rollouts_ask_teacher(&objective, &rollout);
        let teachers = if reads_teacher {
            self.teachers_for(settings.route, env, &domains, settings.span)?
        } else {
            // In a `train`, one route stands for all steps, and not every step reads a teacher.
            if let Some(route) = settings.route.filter(|_| parts.recipe != Recipe::Step) {
                let place = self.span(objective.origin);
                self.report(
                    Diagnostic::error(
                        Code::NoTeacher,
                        route.span,
                        "this route is never used: the objective reads no teacher",
                    )
                    .note(place, "this objective"),
                );
            }
            Vec::new()
        };
        let shares = self.shares(given.shares.map(Arg::expr), &objective, env).ok()?;
        let (update, validation, alignment) = (update?, validation?, alignment?);
        let stage = objective.origin;
        let origins = OptionOrigins {
            private: update.private.map_or(stage, |private| private.origin),
            validation: validation.as_ref().map_or(stage, |validation| validation.origin),
            alignment: alignment.map_or(stage, |alignment| alignment.origin),
        };
        let options = TrainOptions {
            passes: passes?,
            mini_batches: mini_batches?,
            private: update.private.map(|private| private.value),
            ema: ema?,
            validation: validation.map(|validation| validation.value),
            alignment: alignment.map(|alignment| alignment.value),
            execution: Execution { micro_batch: micro_batch?, checkpointing: checkpointing? },
        };
        let train = Train {
            recipe: parts.recipe,
            start: parts.start?,
            mixture,
            teachers,
            reference: reference?,
            sees: sees?,
            rollout,
            size: parts.size?,
            keep: parts.keep,
            filter: filter.ok()?,
            priority: priority.ok()?,
            refresh: refresh?,
            shares,
            objective: Rc::unwrap_or_clone(objective),
            optimizer: update.optimizer,
            length: length?,
            learning_rate: learning_rate?,
            extrapolation: extrapolation?,
            trainable: trainable?,
            options,
            origins,
            guards: guards?,
        };
        self.check_stage(&train, settings).then_some(train)
    }

    /// The reference model of each domain: one model for all, or each domain's member of a family.
    fn references(
        &mut self,
        expr: &Expr,
        domains: &[DomainId],
        env: &Env,
    ) -> Option<Vec<(DomainId, ModelId)>> {
        let family = match self.evaluate(expr, env) {
            Value::Model(model) => return Some(domains.iter().map(|domain| (*domain, model)).collect()),
            Value::Family(family) => family,
            other => {
                self.wrong_kind(expr.span, "expected a model, or a family with one for each domain", &other);
                return None;
            }
        };
        let mut found = Vec::new();
        for &domain in domains {
            match family.get(MemberKey::Domain(domain)) {
                Some(Value::Model(model)) => found.push((domain, *model)),
                Some(Value::Error) => return None,
                _ => {
                    let text = format!(
                        "`{}` has no model for the domain `{}`",
                        family.name,
                        self.domain(domain).name
                    );
                    self.report(
                        Diagnostic::error(Code::UnknownName, expr.span, text)
                            .label("its prompts would have no reference"),
                    );
                    return None;
                }
            }
        }
        Some(found)
    }

    pub(in crate::check) fn model_value(&mut self, expr: &Expr, env: &Env) -> Option<ModelId> {
        match self.evaluate(expr, env) {
            Value::Model(model) => Some(model),
            other => {
                self.no_model(expr.span, &other);
                None
            }
        }
    }

    /// The size of a step's batch, from either key. Where neither is set, `usual` is reported as missing.
    pub(in crate::check) fn size(
        &mut self,
        prompts: Option<Arg<Count>>,
        batch: Option<Arg<Count>>,
        settings: &BlockSettings,
        usual: &'static str,
        env: &Env,
    ) -> Option<BatchSize> {
        match (prompts, batch) {
            (Some(prompts), Some(batch)) => {
                self.report(
                    Diagnostic::error(
                        Code::DuplicateKey,
                        batch.expr.span,
                        "`prompts` and `batch` both set the size of a step",
                    )
                    .note(prompts.expr.span, "the number of prompts")
                    .help("keep one: `prompts` counts prompts, `batch` counts sequences"),
                );
                None
            }
            (Some(prompts), None) => self.read(prompts, env).map(BatchSize::Prompts),
            (None, Some(batch)) => self.read(batch, env).map(BatchSize::Sequences),
            (None, None) => {
                self.report_if_missing(settings, usual);
                None
            }
        }
    }

    /// The domains that a stage trains on, with their shares of the prompts, which sum to 1.
    pub(in crate::check) fn mixture(&mut self, on: Option<&Expr>, env: &Env) -> Option<Vec<Share>> {
        let domains: Vec<DomainId> = match on {
            None => (0..self.parts.domains.len() as u32).map(DomainId).collect(),
            Some(expr) => match self.evaluate(expr, env) {
                Value::Domain(domain) => vec![domain],
                Value::List(values) => {
                    let mut domains = Vec::new();
                    for value in values {
                        match value {
                            Value::Domain(domain) if domains.contains(&domain) => {
                                let text =
                                    format!("the domain `{}` is listed twice", self.domain(domain).name);
                                self.report(Diagnostic::error(Code::DuplicateName, expr.span, text));
                                return None;
                            }
                            Value::Domain(domain) => domains.push(domain),
                            other => {
                                self.wrong_kind(expr.span, "expected a list of domains", &other);
                                return None;
                            }
                        }
                    }
                    domains
                }
                other => {
                    self.wrong_kind(expr.span, "expected a domain or a list of domains", &other);
                    return None;
                }
            },
        };
        let total: f64 = domains.iter().map(|domain| self.domain(*domain).share).sum();
        if domains.is_empty() || total <= 0.0 {
            let span = on.map(|expr| expr.span)?;
            if !self.has_experiment {
                return None; // A library's stage: the domains are those of whoever uses it.
            }
            let diagnostic = if domains.is_empty() {
                Diagnostic::error(Code::OutOfRange, span, "the list of domains to train on is empty")
                    .help("declare one: `domain math { prompts = ..., reward = ... }`")
            } else {
                Diagnostic::error(Code::OutOfRange, span, "the domains to train on have a share of 0")
                    .help("give one of them a `share` above 0, or name others")
            };
            self.report(diagnostic);
            return None;
        }
        Some(
            domains
                .into_iter()
                .map(|domain| Share { domain, share: self.domain(domain).share / total })
                .collect(),
        )
    }

    pub(in crate::check) fn objective_setting(
        &mut self,
        expr: Option<&Expr>,
        default: StandardItem,
        span: Span,
        env: &Env,
    ) -> Option<Rc<Objective>> {
        match expr {
            Some(expr) => self.objective_value(expr, env),
            None => {
                let StandardItem { module, name } = default;
                let Some(item) = self.modules.standard_item(module, name) else {
                    self.report(Diagnostic::error(
                        Code::UnknownModule,
                        span,
                        format!("the standard library has no `std.{module}.{name}`"),
                    ));
                    return None;
                };
                match self.call_item(item, span, &[], env) {
                    Value::Objective(objective) => Some(objective),
                    _ => None,
                }
            }
        }
    }

    pub(in crate::check) fn objective_value(&mut self, expr: &Expr, env: &Env) -> Option<Rc<Objective>> {
        if is_term(expr) {
            let written = self.sources.text(expr.span).trim_start_matches("live ").to_owned();
            let text = "an objective is declared, with a term and how its tokens are averaged";
            self.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).label("this is a term").help(
                format!(
                    "for example `objective mine {{ term distill = live {written}, reduce = mean(token, over: \
                     batch) }}`, and here `mine`"
                ),
            ));
            return None;
        }
        match self.evaluate(expr, env) {
            Value::Objective(objective) => Some(objective),
            // A bare name: every parameter has its default.
            Value::Item { item, kind: Callable::Objective } => {
                match self.call_item(item, expr.span, &[], env) {
                    Value::Objective(objective) => Some(objective),
                    _ => None,
                }
            }
            other => {
                self.wrong_kind(expr.span, "expected an objective", &other);
                None
            }
        }
    }
}

/// `live kl(student || teacher)`, in the place of an objective.
fn is_term(expr: &Expr) -> bool {
    let is_pair = |argument: &Argument| matches!(argument.value.kind, ExprKind::Versus { .. });
    match &expr.kind {
        ExprKind::Live(_) => true,
        ExprKind::Call { arguments, .. } => arguments.iter().any(is_pair),
        _ => false,
    }
}
