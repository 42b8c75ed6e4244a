//! The stages that train: `sft`, `grpo`, `distill`, `dpo`, and the steps of `train`. They differ in where
//! completions come from and in the default objective.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, Reported};
use crate::syntax::ast::{Argument, Expr, ExprKind};
use mopd_experiment::formula::Axis;
use mopd_experiment::{
    DomainId, Execution, ModelId, OptionOrigins, Recipe, Share, Stage, Train, TrainOptions,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::declare_settings::DeclaredBlock;
use crate::check::builtins::types::Model;
use crate::check::builtins::vocabulary::{self, DistillBlock, StageBlock};
use crate::check::checker::Checker;
use crate::check::formulas::schedules;
use crate::check::read::{expected, read, reads, settings};
use crate::check::rollouts;
use crate::check::stages::recipes::{self, DistillSettings, RecipeParts};
use crate::check::stages::{guards, optimizers, rollout_checks, shares, stage_checks, trainable, unread};
use crate::check::teachers::route;
use crate::check::values::environment::Env;
use crate::check::values::value::{MemberKey, Value};

reads! {
    Model => |checker, given, env| model_value(checker, given.expr, env);
    Objective => |checker, given, env| recipes::objective_value(checker, given.expr, env);
}

pub fn training(
    checker: &mut Checker,
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
    let settings = settings::block_settings(checker, block, recipe.name(), span, keys, true);
    settings::keep_marks(&mut checker.parts, &settings, &env.model_name);
    // Every setting is read before the first missing one ends the stage: all mistakes at once.
    let start = read(checker, start, &env.named(format!("{}.start", env.model_name)));
    let distilled = DistillBlock::of(&settings);
    let on = on.or(distilled.domains.map(Arg::expr));
    let mixture = mixture(checker, on, env);
    let parts = match recipe {
        Recipe::Sft => recipes::sft(checker, &settings, start, mixture, env),
        Recipe::Grpo => recipes::grpo(checker, &settings, start, mixture, env),
        Recipe::Dpo => recipes::dpo(checker, &settings, start, mixture, env),
        Recipe::Distill | Recipe::Step => {
            let DistillBlock { objective, rollout, prompts, batch, .. } = distilled;
            let (rollout, prompts) = (rollout.given, prompts.given);
            let given = DistillSettings { objective, rollout, prompts, batch };
            recipes::distill(checker, recipe, &settings, given, start, mixture, env)
        }
    };
    finish_training(checker, parts, &settings, env).map(|train| Stage::Train(Box::new(train)))
}

/// Reads the settings that all recipes have, checks the whole stage, and puts it together.
pub fn finish_training(
    checker: &mut Checker,
    parts: RecipeParts,
    settings: &BlockSettings,
    env: &Env,
) -> Option<Train> {
    // Every setting is read before a missing or faulty one ends the stage.
    let trained: Vec<DomainId> = parts.mixture.iter().flatten().map(|share| share.domain).collect();
    let given = StageBlock::of(settings);
    let length = read(checker, given.steps, env);
    let learning_rate = schedules::learning_rate(checker, given.lr, env, length);
    let update = optimizers::optimizer(checker, given.optimizer.map(Arg::expr), settings.span, env);
    let reference = match given.reference {
        Some(reference) => references(checker, reference.expr, &trained, env),
        None => Some(Vec::new()),
    };
    let sees = read(checker, given.sees, env);
    let (passes, mini_batches) = (read(checker, given.passes, env), read(checker, given.mini_batches, env));
    let with_states = shares::with_states(parts.objective.as_deref(), env);
    let per_prompt = |checker: &mut Checker, given: Option<&Expr>, truth: bool| match given {
        Some(expr) => {
            let formula = rollouts::judged_by(checker, expr, &with_states, truth, Axis::Group);
            formula.map(Some).ok_or(Reported)
        }
        None => Ok(None),
    };
    let filter = per_prompt(checker, given.filter.map(Arg::expr), true);
    let priority = per_prompt(checker, given.priority.map(Arg::expr), false);
    let refresh = read(checker, given.refresh, env);
    let extrapolation = read(checker, given.extrapolate, env);
    let validation = read(checker, given.validate, env);
    let alignment = read(checker, given.gradient_alignment, env);
    let trainable =
        trainable::trainable(checker, given.adapter, given.train_only, given.freeze, settings, env);
    let guards = guards::guards(checker, given.guards.map(Arg::expr), &trained, env);
    let (micro_batch, checkpointing) =
        (read(checker, given.micro_batch, env), read(checker, given.checkpointing, env));
    let ema = read(checker, given.ema, env);
    let (objective, rollout, mixture) = (parts.objective?, parts.rollout?, parts.mixture?);
    let domains: Vec<DomainId> = mixture.iter().map(|share| share.domain).collect();
    // Checked before the route: a stage without rollouts of its own can't read a teacher's distribution
    // on them either.
    if !rollout_checks::check_rollouts(checker, &objective, &rollout, settings) {
        return None;
    }
    let reads_teacher = objective.reads(&mopd_experiment::formula::Role::Teacher)
        || rollout_checks::rollouts_ask_teacher(&objective, &rollout);
    let teachers = if reads_teacher {
        route::teachers_for(checker, settings.route, env, &domains, settings.span)?
    } else {
        // In a `train`, one route stands for all steps, and not every step reads a teacher.
        if let Some(route) = settings.route.filter(|_| parts.recipe != Recipe::Step) {
            let span = checker.span(objective.origin);
            checker.report(
                Diagnostic::warning(
                    Code::NoTeacher,
                    route.span,
                    "this route is never used: the objective reads no teacher",
                )
                .note(span, "this objective"),
            );
        }
        Vec::new()
    };
    let shares = shares::shares(checker, given.shares.map(Arg::expr), &objective, env).ok()?;
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
    let mut train = Train {
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
    unread::remove_unread(checker, &mut train, settings);
    stage_checks::check_stage(checker, &train, settings).then_some(train)
}

/// The reference model of each domain: one model for all, or each domain's member of a family.
fn references(
    checker: &mut Checker,
    expr: &Expr,
    domains: &[DomainId],
    env: &Env,
) -> Option<Vec<(DomainId, ModelId)>> {
    let family = match checker.evaluate(expr, env) {
        Value::Model(model) => return Some(domains.iter().map(|domain| (*domain, model)).collect()),
        Value::Family(family) => family,
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "expected a model, or a family with one for each domain",
                &other,
            );
            return None;
        }
    };
    let mut found = Vec::new();
    for &domain in domains {
        match family.get(&MemberKey::Domain(domain)) {
            Some(Value::Model(model)) => found.push((domain, *model)),
            Some(Value::Error) => return None,
            _ => {
                let text = format!(
                    "`{}` has no model for the domain `{}`",
                    family.name,
                    checker.parts.domain(domain).name
                );
                checker.report(
                    Diagnostic::error(Code::UnknownName, expr.span, text)
                        .label("its prompts would have no reference"),
                );
                return None;
            }
        }
    }
    Some(found)
}

pub fn model_value(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<ModelId> {
    match checker.evaluate(expr, env) {
        Value::Model(model) => Some(model),
        other => {
            expected::no_model(checker, expr.span, &other);
            None
        }
    }
}

/// The domains that a stage trains on, with their shares of the prompts, which sum to 1.
pub fn mixture(checker: &mut Checker, on: Option<&Expr>, env: &Env) -> Option<Vec<Share>> {
    let domains: Vec<DomainId> = match on {
        None => (0..checker.parts.domains.len() as u32).map(DomainId).collect(),
        Some(expr) => match checker.evaluate(expr, env) {
            Value::Domain(domain) => vec![domain],
            Value::List(values) => {
                let mut domains = Vec::new();
                for value in values {
                    match value {
                        Value::Domain(domain) if domains.contains(&domain) => {
                            let text =
                                format!("the domain `{}` is listed twice", checker.parts.domain(domain).name);
                            checker.report(Diagnostic::error(Code::DuplicateName, expr.span, text));
                            return None;
                        }
                        Value::Domain(domain) => domains.push(domain),
                        other => {
                            expected::wrong_kind(checker, expr.span, "expected a list of domains", &other);
                            return None;
                        }
                    }
                }
                domains
            }
            other => {
                expected::wrong_kind(checker, expr.span, "expected a domain or a list of domains", &other);
                return None;
            }
        },
    };
    let total: f64 = domains.iter().map(|domain| checker.parts.domain(*domain).share).sum();
    if domains.is_empty() || total <= 0.0 {
        let span = on.map(|expr| expr.span)?;
        if !checker.has_experiment {
            return None; // A library's stage: the domains are those of whoever uses it.
        }
        let diagnostic = if domains.is_empty() {
            Diagnostic::error(Code::OutOfRange, span, "the list of domains to train on is empty")
                .help("declare one: `domain math { prompts = ..., reward = ... }`")
        } else {
            Diagnostic::error(Code::OutOfRange, span, "the domains to train on have a share of 0")
                .help("give one of them a `share` above 0, or name others")
        };
        checker.report(diagnostic);
        return None;
    }
    Some(
        domains
            .into_iter()
            .map(|domain| Share { domain, share: checker.parts.domain(domain).share / total })
            .collect(),
    )
}

/// `live kl(student || teacher)`, in the place of an objective.
pub fn is_term(expr: &Expr) -> bool {
    let is_pair = |argument: &Argument| matches!(argument.value.kind, ExprKind::Versus { .. });
    match &expr.kind {
        ExprKind::Live(_) => true,
        ExprKind::Call { arguments, .. } => arguments.iter().any(is_pair),
        _ => false,
    }
}
