//! The parts of a stage that differ between recipes: the source of completions, and the objective.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::Expr;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Live, PreferenceKind, Reduction, Unit};
use mopd_experiment::{
    BatchSize, Edit, Keep, ModelId, Objective, Origin, Recipe, Reduce, ReduceStep, Rollout, RolloutSource,
    Share, Term,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::{DeclaredBlock, Required};
use crate::check::builtins::types::{self, Count};
use crate::check::builtins::vocabulary::{DpoBlock, GrpoBlock, SftBlock};
use crate::check::checker::Checker;
use crate::check::formulas::temperatures;
use crate::check::names::callable::Callable;
use crate::check::names::modules::{GRPO_OBJECTIVE, SFT_OBJECTIVE, StandardItem};
use crate::check::objectives::live;
use crate::check::read::{expected, read, settings};
use crate::check::rollouts::{self, SamplingArguments};
use crate::check::stages::training;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The parts of a stage that differ between recipes, read before the stage is put together.
pub struct RecipeParts {
    pub recipe: Recipe,
    pub start: Option<ModelId>,
    pub mixture: Option<Vec<Share>>,
    pub rollout: Option<Rollout>,
    pub size: Option<BatchSize>,
    pub keep: Keep,
    pub objective: Option<Rc<Objective>>,
}

/// The completions of the first term, if every term has its own: the stage then needs no `rollout`.
fn own_completions(objective: &Objective) -> Option<Rollout> {
    let of_term = |term: &Term| {
        let pair = term.value.parts().into_iter().find_map(|part| match &part.0.kind {
            FormulaKind::Live(Live::Preference(preference)) => Some(preference.chosen.clone()),
            _ => None,
        });
        term.data.as_ref().map(|data| Rollout::clone(data)).or(pair)
    };
    let own: Option<Vec<Rollout>> = objective.terms.iter().map(of_term).collect();
    own?.into_iter().next()
}

/// The objective of `dpo`: the mean over the batch of `pair`, one pair of completions for each prompt.
fn preference(pair: Live, origin: Origin) -> Objective {
    let value = Formula::new(FormulaKind::Live(pair), Unit::Nats, Axis::Group, true, origin);
    let term =
        Term { name: "preference".into(), value, when: None, weight: None, reduce: None, data: None, origin };
    let step = ReduceStep {
        operation: Reduction::Mean,
        elements: Axis::Group,
        over: Axis::Batch,
        among_when: false,
    };
    let reduce = Reduce { steps: vec![step], denominator: None, balance: None, origin };
    Objective {
        name: "dpo".into(),
        terms: vec![term],
        select: None,
        weight: None,
        temperature: None,
        reduce: Some(reduce),
        lets: Vec::new(),
        states: Vec::new(),
        origin,
    }
}

/// The settings of `distill` and of a step of `train` that say what is trained on.
pub struct DistillSettings<'e> {
    pub objective: Required<'e, types::Objective>,
    pub rollout: Option<Arg<'e, types::Rollout>>,
    pub prompts: Option<Arg<'e, Count>>,
    pub batch: Option<Arg<'e, Count>>,
}

pub fn sft(
    checker: &mut Checker,
    settings: &BlockSettings,
    start: Option<ModelId>,
    mixture: Option<Vec<Share>>,
    env: &Env,
) -> RecipeParts {
    let given = SftBlock::of(settings);
    let size = size(checker, given.prompts, given.batch.given, settings, "batch", env);
    let objective = given.objective.map(Arg::expr);
    let objective = objective_setting(checker, objective, SFT_OBJECTIVE, settings.span, env);
    let mut keep = Keep::All;
    let rollout = match (given.target, given.rollout) {
        (Some(target), None) => {
            if let Some(place) = settings.key_span("keep") {
                checker.report(Diagnostic::error(
                    Code::UnknownKey,
                    place,
                    "`keep` filters rollouts, and the target comes from the data",
                ));
            }
            let origin = checker.origin(target.expr.span);
            let field = read(checker, target, env);
            field.map(|field| Rollout::new(RolloutSource::Data { field }, origin))
        }
        (None, Some(rollout)) => {
            let rollout = read(checker, rollout, env).map(Rc::unwrap_or_clone);
            let filtered =
                |rollout: &Rollout| rollout.edits.iter().any(|edit| matches!(edit, Edit::Keep { .. }));
            let is_data = |rollout: &Rollout| matches!(rollout.source, RolloutSource::Data { .. });
            let said = rollout.as_ref().is_some_and(|rollout| filtered(rollout) || is_data(rollout));
            match given.keep {
                Some(word) => read(checker, word, env).and_then(|word| {
                    keep = word;
                    rollout
                }),
                None if said => rollout,
                None => {
                    settings::report_if_missing(checker, settings, "keep");
                    None
                }
            }
        }
        (None, None) if settings.broken => None,
        (Some(_), Some(_)) => {
            let (target, rollout) = (settings.place(&["target"]), settings.place(&["rollout"]));
            let diagnostic = Diagnostic::error(
                Code::UnusedSetting,
                rollout,
                "`sft` needs one source of targets, and has both",
            );
            checker
                .report(diagnostic.note(target, "a field of the data is imitated").help("keep one of them"));
            None
        }
        _ => {
            checker.report(
                Diagnostic::error(Code::MissingKey, settings.span, "`sft` needs one source of targets")
                    .help("either `target = field` of the data, or `rollout = from(teacher, ...)`"),
            );
            None
        }
    };
    RecipeParts { recipe: Recipe::Sft, start, mixture, rollout, size, keep, objective }
}

pub fn grpo(
    checker: &mut Checker,
    settings: &BlockSettings,
    start: Option<ModelId>,
    mixture: Option<Vec<Share>>,
    env: &Env,
) -> RecipeParts {
    let given = GrpoBlock::of(settings);
    let size = size(checker, given.prompts.given, given.batch, settings, "prompts", env);
    let objective = given.objective.map(Arg::expr);
    let objective = objective_setting(checker, objective, GRPO_OBJECTIVE, settings.span, env);
    let rollout = match given.rollout {
        Some(rollout) => {
            for key in ["samples", "max_tokens", "temperature", "top_p", "top_k", "stop"] {
                if let Some(place) = settings.key_span(key) {
                    checker.report(
                        Diagnostic::warning(
                            Code::UnusedSetting,
                            place,
                            format!("`{key}` is set by the rollout already"),
                        )
                        .note(rollout.expr.span, "this rollout")
                        .help(format!("remove `{key}`, or write `sample(...)` with it")),
                    );
                }
            }
            read(checker, rollout, env).map(Rc::unwrap_or_clone)
        }
        None => {
            let GrpoBlock { samples, max_tokens, temperature, top_p, top_k, stop, .. } = given;
            let n = read(checker, samples, env);
            let max_tokens = read(checker, max_tokens, env);
            let place = settings.place(&["samples"]);
            let temperature = match temperature {
                Some(temperature) => read(checker, temperature, env),
                None => Some(temperatures::constant_temperature(checker, 1.0, place)),
            };
            let (top_p, top_k) = (top_p.map(Arg::expr), top_k.map(Arg::expr));
            let stop = stop.map(Arg::expr);
            let given = SamplingArguments { n, temperature, max_tokens, top_p, top_k, stop };
            let sampling = rollouts::sampling(checker, given, env);
            sampling.map(|sampling| Rollout::new(RolloutSource::Sample(sampling), checker.origin(place)))
        }
    };
    RecipeParts { recipe: Recipe::Grpo, start, mixture, rollout, size, keep: Keep::All, objective }
}

/// The parts of `distill`, and of one step of a `train`.
pub fn distill(
    checker: &mut Checker,
    recipe: Recipe,
    settings: &BlockSettings,
    given: DistillSettings,
    start: Option<ModelId>,
    mixture: Option<Vec<Share>>,
    env: &Env,
) -> RecipeParts {
    let size = size(checker, given.prompts, given.batch, settings, "prompts", env);
    let objective = read(checker, given.objective, env);
    // If every term has its own completions, such as pairs, the stage needs no `rollout`.
    let own = objective.as_ref().and_then(|objective| own_completions(objective));
    let rollout = match (given.rollout, own) {
        (Some(rollout), _) => read(checker, rollout, env).map(Rc::unwrap_or_clone),
        (None, Some(own)) => Some(own),
        // The terms of a faulty objective may have had their own completions.
        (None, None) if objective.is_none() && recipe == Recipe::Step => None,
        (None, None) => {
            settings::report_if_missing(checker, settings, "rollout");
            None
        }
    };
    RecipeParts { recipe, start, mixture, rollout, size, keep: Keep::All, objective }
}

pub fn dpo(
    checker: &mut Checker,
    settings: &BlockSettings,
    start: Option<ModelId>,
    mixture: Option<Vec<Share>>,
    env: &Env,
) -> RecipeParts {
    let given = DpoBlock::of(settings);
    let size = size(checker, given.prompts, given.batch.given, settings, "batch", env);
    let (chosen, rejected) = (read(checker, given.chosen, env), read(checker, given.rejected, env));
    let beta = settings::required_setting(checker, given.beta).and_then(|given| {
        let beta = read(checker, given, env)?;
        live::preference_beta(checker, beta, given.expr.span)
    });
    settings::report_if_missing(checker, settings, "reference");
    let rollout = chosen.as_deref().cloned();
    let place = settings.place(&["rejected"]);
    let objective = beta.and_then(|beta| {
        let pair = live::preference(checker, PreferenceKind::Dpo { beta }, chosen, rejected, None, place)?;
        Some(Rc::new(preference(pair, checker.origin(settings.span))))
    });
    RecipeParts { recipe: Recipe::Dpo, start, mixture, rollout, size, keep: Keep::All, objective }
}

/// The size of a step's batch, from either key. Where neither is set, `usual` is reported as missing.
pub fn size(
    checker: &mut Checker,
    prompts: Option<Arg<Count>>,
    batch: Option<Arg<Count>>,
    settings: &BlockSettings,
    usual: &'static str,
    env: &Env,
) -> Option<BatchSize> {
    match (prompts, batch) {
        (Some(prompts), Some(batch)) => {
            checker.report(
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
        (Some(prompts), None) => read(checker, prompts, env).map(BatchSize::Prompts),
        (None, Some(batch)) => read(checker, batch, env).map(BatchSize::Sequences),
        (None, None) => {
            settings::report_if_missing(checker, settings, usual);
            None
        }
    }
}

pub fn objective_setting(
    checker: &mut Checker,
    expr: Option<&Expr>,
    default: StandardItem,
    span: Span,
    env: &Env,
) -> Option<Rc<Objective>> {
    match expr {
        Some(expr) => objective_value(checker, expr, env),
        None => {
            let StandardItem { module, name } = default;
            let Some(item) = checker.modules.standard_item(module, name) else {
                checker.report(Diagnostic::error(
                    Code::UnknownModule,
                    span,
                    format!("the standard library has no `std.{module}.{name}`"),
                ));
                return None;
            };
            match checker.call_item(item, span, &[], env) {
                Value::Objective(objective) => Some(objective),
                _ => None,
            }
        }
    }
}

pub fn objective_value(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Rc<Objective>> {
    if training::is_term(expr) {
        let written = checker.sources.text(expr.span).trim_start_matches("live ").to_owned();
        let text = "an objective is declared, with a term and how its tokens are averaged";
        checker.report(Diagnostic::error(Code::TypeMismatch, expr.span, text).label("this is a term").help(
            format!(
                "for example `objective mine {{ term distill = live {written}, reduce = mean(token, over: \
                 batch) }}`, and here `mine`"
            ),
        ));
        return None;
    }
    match checker.evaluate(expr, env) {
        Value::Objective(objective) => Some(objective),
        // A bare name: every parameter has its default.
        Value::Item { item, kind: Callable::Objective } => {
            match checker.call_item(item, expr.span, &[], env) {
                Value::Objective(objective) => Some(objective),
                _ => None,
            }
        }
        other => {
            expected::wrong_kind(checker, expr.span, "expected an objective", &other);
            None
        }
    }
}
