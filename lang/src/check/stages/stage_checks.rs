//! Checks that need a whole stage: settings that nothing reads, numbers that leave their bounds before the
//! run ends.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, FormulaNode, PlainSignal, Role, Signal};
use mopd_experiment::{
    BatchSize, Edit, ExpertTurns, Keep, Length, MovingNumber, MovingRange, Origin, Recipe, TokensOf, Train,
    WithOrigin,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::bounds;
use crate::check::builtins::kinds::Bound;
use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::formulas::ranges::{self, RangeCheck};
use crate::check::formulas::schedules;
use crate::check::read::numbers::has_variables;
use crate::check::reporter::Reporter;
use crate::check::stages::{capability, domains, guards, idle, pitfalls, rewards, trainable};
use crate::check::{data, objectives};

/// Runs the checks that need the whole stage. Each one that fails reports a diagnostic.
pub fn check_stage(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    idle::warn_of_absent_entries(declarations, train, settings);
    let checks = [
        check_reference(declarations, train, settings),
        check_chosen_again(declarations, train),
        check_filtered_once(declarations, train, settings),
        check_privacy(declarations, train),
        guards::check_guards(declarations, train),
        domains::check_domains(declarations, train),
        rewards::check_rewards(declarations, train, settings),
        check_reward_parts(declarations, train),
        check_validation(declarations, train, settings),
        check_numbers(declarations, train, settings),
        check_context(declarations, train, settings),
        trainable::check_trainable(declarations, train, settings),
        check_formats(declarations, train, settings),
        capability::check_teachers(declarations, train, settings),
    ];
    pitfalls::warn_of_pitfalls(declarations, train, settings);
    checks.into_iter().all(|good| good)
}

fn check_reference(reporter: &mut Reporter, train: &Train, settings: &BlockSettings) -> bool {
    let read = train.objective.reads(&Role::Reference);
    match (read, train.reference.first()) {
        (true, None) if settings.broken || train.recipe == Recipe::Dpo => true,
        (true, None) => {
            let reads = |node: &FormulaNode| match &node.kind {
                FormulaKind::Signal(signal) => signal.roles().contains(&Role::Reference),
                FormulaKind::Live(live) => live.roles().contains(&Role::Reference),
                _ => false,
            };
            let at = objectives::place_of(reporter, &train.objective, reads);
            reporter.report(
                Diagnostic::error(
                    Code::NoReference,
                    settings.span,
                    "this stage reads `reference`, but names no model for it",
                )
                .note(at, "read here")
                .help("add `reference = start`: the model that the student is held near"),
            );
            false
        }
        _ => true,
    }
}

/// Checks that a choice of prompts that reads something that changes is made again.
fn check_chosen_again(reporter: &mut Reporter, train: &Train) -> bool {
    let moving = train.filter.iter().chain(&train.priority).flat_map(Formula::parts).find(|part| {
        matches!(
            part.0.kind,
            FormulaKind::Signal(
                Signal::State { .. } | Signal::Plain(PlainSignal::Step | PlainSignal::Progress)
            ) | FormulaKind::Schedule(_)
        )
    });
    if let Some(part) = moving.filter(|_| train.chooses_prompts() && train.refresh.is_none()) {
        let text = "this changes from step to step, and prompts are chosen only once, before the first step";
        reporter.report(
            Diagnostic::error(Code::MissingArgument, reporter.span(part.0.origin), text)
                .label("its first value would hold in every step")
                .help("set `refresh = 1 steps`, or more steps: prompts are then chosen again"),
        );
        return false;
    }
    true
}

fn check_filtered_once(reporter: &mut Reporter, train: &Train, settings: &BlockSettings) -> bool {
    if train.keep == Keep::Correct
        && let Some(edit) = train.rollout.edits.iter().find(|edit| matches!(edit, Edit::Keep { .. }))
    {
        let text =
            format!("completions are filtered twice: by `keep = correct` and by the edit `{}`", edit.name());
        let at = reporter.span(train.rollout.origin);
        reporter.report(
            Diagnostic::error(Code::UnusedSetting, settings.place(&["keep"]), text)
                .note(at, "filtered here")
                .help("keep one of them"),
        );
        return false;
    }
    true
}

/// Checks that a private stage compares no examples: otherwise the effect of one example would not be
/// bounded by its clipped gradient.
fn check_privacy(reporter: &mut Reporter, train: &Train) -> bool {
    if train.options.private.is_none() {
        return true;
    }
    let origin = train.origins.private;
    let across = |node: &FormulaNode| match &node.kind {
        FormulaKind::Statistic { over, .. } => *over < Axis::Sequence,
        FormulaKind::Reduce { .. } => node.axis < Axis::Sequence,
        FormulaKind::Memory { .. } => true,
        FormulaKind::Signal(
            Signal::Plain(PlainSignal::Loss)
            | Signal::TermLoss { .. }
            | Signal::State { .. }
            | Signal::ValidationLoss,
        ) => true,
        _ => false,
    };
    let Some(span) = objectives::first_place(reporter, &train.objective, across) else { return true };
    let optimizer = reporter.span(origin);
    reporter.report(
        Diagnostic::error(
            Code::PrivateStatistics,
            optimizer,
            "a private stage can't compare examples with each other",
        )
        .label("guarantees that no single example can be inferred")
        .note(span, "looks across the examples of a batch")
        .help("use numbers of one completion only, such as `mean(x, over: sequence)`"),
    );
    false
}

/// The formulas evaluated after steps: adaptive numbers of the rollouts, and of the teachers' prompts.
fn read_after_steps(parts: &ExperimentParts, train: &Train) -> Vec<Formula> {
    let mut found = train.ladders();
    found.extend(train.learned(&parts.teachers));
    found
}

/// Checks that `reward.format` is read only in domains whose reward has a part `format`.
fn check_reward_parts(declarations: &mut Declarations, train: &Train) -> bool {
    let mut read: Vec<(String, Origin)> = Vec::new();
    let adaptive = read_after_steps(&declarations.parts, train);
    for part in train.formulas().into_iter().chain(&adaptive).flat_map(Formula::parts) {
        if let FormulaKind::Signal(Signal::RewardPart { part: name }) = &part.0.kind {
            read.push((name.clone(), part.0.origin));
        }
    }
    for (name, origin) in read {
        for share in &train.mixture {
            let domain = declarations.parts.domain(share.domain);
            let parts: Vec<&str> = domain.reward.parts().iter().map(|part| part.name.as_str()).collect();
            if parts.contains(&name.as_str()) {
                continue;
            }
            let text = format!("the reward of the domain `{}` has no part `{name}`", domain.name);
            let help = match parts.is_empty() {
                true => format!("write `reward = parts({name}: ..., weights: equal)` in the domain"),
                false => format!("it has: {}", parts.join(", ")),
            };
            let (span, declared) = (declarations.span(origin), declarations.span(domain.origin));
            declarations.report(
                Diagnostic::error(Code::UnknownField, span, text)
                    .note(declared, "trained on here")
                    .help(help),
            );
            return false;
        }
    }
    true
}

/// Checks that a stage that reads `loss.validation` computes it, and that its domains have rows for that.
fn check_validation(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    if train.options.validation.is_none() {
        let is_read = |formula: &&Formula| {
            matches!(formula.0.kind, FormulaKind::Signal(Signal::ValidationLoss)) && !settings.broken
        };
        let adaptive = read_after_steps(&declarations.parts, train);
        let formulas = train.objective.formulas().into_iter().chain(&adaptive);
        let Some(read) = formulas.flat_map(Formula::parts).find(is_read) else { return true };
        let at = declarations.span(read.0.origin);
        declarations.report(
            Diagnostic::error(
                Code::MissingKey,
                settings.span,
                "this stage reads `loss.validation`, but does not compute it",
            )
            .note(at, "read here")
            .help("add `validate = validate(target: answer, every: 10 steps)`, with the field to predict"),
        );
        return false;
    }
    let without = train
        .mixture
        .iter()
        .map(|share| declarations.parts.domain(share.domain))
        .find(|domain| domain.validation.is_none());
    let Some(domain) = without else { return true };
    let text = format!("the domain `{}` has no validation rows", domain.name);
    let (span, declared) = (declarations.span(train.origins.validation), declarations.span(domain.origin));
    declarations.report(
        Diagnostic::error(Code::MissingKey, span, text)
            .note(declared, "trained on here")
            .help("add `validation = \"FILE.jsonl\"` to it: rows that no stage is trained on"),
    );
    false
}

/// Checks the ranges of numbers that change over training time, over the whole run.
fn check_numbers(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    let length = Some(train.length);
    let fraction = (0.0, 1.0);
    let counted = |bound: &Bound| (1.0, f64::from(bound.most));
    let mut good = true;
    for rollout in train.rollouts() {
        if let Some(MovingNumber { formula, what, range }) = rollout.source.facts().moving {
            let bounds = match range {
                MovingRange::Share => fraction,
                MovingRange::Tokens => counted(&bounds::TOKENS),
                MovingRange::Turns => counted(&bounds::SAMPLES),
            };
            good &= schedules::within(declarations, formula, what, bounds, length);
        }
        for edit in &rollout.edits {
            if let Edit::FirstTurns { turns }
            | Edit::ExpertTurns { turns: ExpertTurns::First(turns) | ExpertTurns::AllBut(turns) } = edit
            {
                good &= schedules::within(
                    declarations,
                    turns,
                    "the number of turns",
                    (0.0, f64::from(bounds::TURNS.most)),
                    length,
                );
            }
        }
    }
    good &= ranges::check_declared(declarations, &train.objective, train.length);
    good &= ranges::check_ranges(declarations, &train.objective, train.length);
    if let Length::Steps(steps) = train.length {
        idle::warn_of_unfinished_schedules(declarations, train, settings, steps);
        idle::warn_of_long_intervals(declarations, train, settings, steps);
        idle::warn_of_idle_guards(declarations, train, settings, steps);
        idle::warn_of_idle_cases(declarations, train, settings, steps);
    }
    if let (BatchSize::Sequences(batch), group) = (train.size, train.rollout.group())
        && !batch.is_multiple_of(group)
    {
        let text = format!("a batch of {batch} sequences does not divide into groups of {group}");
        let drawn = declarations.span(train.rollout.origin);
        declarations.report(
            Diagnostic::error(Code::OutOfRange, settings.place(&["batch"]), text)
                .note(drawn, "the samples of each prompt")
                .help("write a multiple, or count in prompts: `prompts = ...`"),
        );
        good = false;
    }
    good & check_mini_batches(declarations, train, settings)
}

/// A group is not divided, so each mini-batch needs a prompt.
fn check_mini_batches(reporter: &mut Reporter, train: &Train, settings: &BlockSettings) -> bool {
    let (groups, parts) = (train.groups(), train.options.mini_batches);
    if parts <= groups {
        return true;
    }
    let batch = match train.rollout.group() {
        1 => format!("{groups} sequences"),
        _ => format!("{groups} prompts"),
    };
    let text = format!("a batch of {batch} does not divide into {parts} mini-batches");
    reporter.report(
        Diagnostic::error(Code::OutOfRange, settings.place(&["mini_batches"]), text)
            .note(settings.place(&["prompts", "batch"]), "the batch")
            .help("each mini-batch needs a prompt, with all its samples: lower it, or enlarge the batch"),
    );
    false
}

fn check_formats(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    let said = train
        .mixture
        .iter()
        .map(|share| data::check_format(declarations, train.start, share.domain, settings.span));
    // `count` visits every domain, also after a faulty one, so that all are reported.
    let good = said.filter(|good| !good).count() == 0;
    let judge = train.extrapolation.as_ref().map(|extrapolation| extrapolation.judged_by);
    good & judge
        .is_none_or(|judge| data::check_format_of_benchmark(declarations, train.start, judge, settings.span))
}

/// Checks that completions leave room for a prompt in the context, which both share.
fn check_context(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    let Some(context) = declarations.parts.architecture(train.start).map(|architecture| architecture.context)
    else {
        return true;
    };
    for rollout in train.rollouts() {
        let (TokensOf::Student(sampling) | TokensOf::By(_, sampling)) = rollout.source.facts().tokens else {
            continue;
        };
        if let Some(longest) = at_least(&sampling.max_tokens, f64::from(context), train.length) {
            let own = settings.place(&["max_tokens", "rollout"]);
            let place = if own == settings.span { declarations.span(rollout.origin) } else { own };
            declarations.report(
                Diagnostic::error(
                    Code::OutOfRange,
                    place,
                    format!("{longest} new tokens leave no room for a prompt in a context of {context}"),
                )
                .help("lower `max_tokens`, or give the model a longer `context`"),
            );
            return false;
        }
    }
    for share in &train.mixture {
        let Some(WithOrigin { value: limit, origin }) = declarations.parts.domain(share.domain).limit else {
            continue;
        };
        if limit >= context {
            let (span, stage) = (declarations.span(origin), settings.span);
            let text = format!("{limit} new tokens leave no room for a prompt in a context of {context}");
            declarations
                .report(Diagnostic::error(Code::OutOfRange, span, text).note(stage, "trained on here"));
            return false;
        }
    }
    true
}

/// A value of at least `limit` that a number takes during training, if one is known.
fn at_least(formula: &Formula, limit: f64, length: Length) -> Option<f64> {
    use mopd_experiment::formula::Adaptive;
    if has_variables(formula) {
        return None;
    }
    if let FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) = &formula.0.kind {
        return values.iter().copied().find(|value| *value >= limit);
    }
    match ranges::check_range(formula, (f64::NEG_INFINITY, limit.next_down()), length).0 {
        RangeCheck::Leaves { value, .. } => Some(value),
        RangeCheck::Within | RangeCheck::Unknown => None,
    }
}
