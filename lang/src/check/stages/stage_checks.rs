//! Checks that need a whole stage: settings that nothing reads, numbers that leave their bounds before the
//! run ends.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, FormulaNode, PlainSignal, Role, Signal};
use mopd_experiment::{
    BatchSize, Edit, ExpertTurns, Keep, Length, MovingNumber, MovingRange, Origin, Recipe, TokensOf, Train,
    WithOrigin,
};

use crate::check::Checker;
use crate::check::builtins::bounds;
use crate::check::builtins::bounds::Bound;
use crate::check::stages::settings::{BlockSettings, has_variables};
use crate::check::values::ranges::RangeCheck;

impl Checker {
    /// Runs the checks that need the whole stage. Each one that fails reports a diagnostic.
    pub(in crate::check) fn check_stage(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        self.warn_of_absent_entries(train, settings);
        let checks = [
            self.check_reference(train, settings),
            self.check_settings_are_read(train, settings),
            self.check_privacy(train),
            self.check_guards(train),
            self.check_domains(train),
            self.check_reward_parts(train),
            self.check_validation(train, settings),
            self.check_alignment(train),
            self.check_numbers(train, settings),
            self.check_context(train, settings),
            self.check_trainable(train, settings),
            self.check_formats(train, settings),
            self.check_teachers(train, settings),
        ];
        self.warn_of_pitfalls(train, settings);
        checks.into_iter().all(|good| good)
    }

    fn check_reference(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        let place = self.span(train.objective.origin);
        let read = train.objective.reads(&Role::Reference);
        match (read, train.reference.first()) {
            (true, None) if settings.broken || train.recipe == Recipe::Dpo => true,
            (true, None) => {
                let reads = |node: &FormulaNode| match &node.kind {
                    FormulaKind::Signal(signal) => signal.roles().contains(&Role::Reference),
                    FormulaKind::Live(live) => live.roles().contains(&Role::Reference),
                    _ => false,
                };
                let at = self.place_of(&train.objective, reads);
                self.report(
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
            // The steps of a `train` inherit its settings, and need not each read them.
            (false, Some(_)) if train.recipe != Recipe::Step => {
                let span = settings.place(&["reference"]);
                self.report(
                    Diagnostic::error(
                        Code::UnusedSetting,
                        span,
                        "a reference is named, and the objective never reads it",
                    )
                    .note(place, "this objective")
                    .help("remove it, or add a term such as `0.1 * live kl(student || reference)`"),
                );
                false
            }
            _ => true,
        }
    }

    fn check_settings_are_read(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        if let (Some(place), None, None) = (settings.key_span("refresh"), &train.filter, &train.priority) {
            self.report(
                Diagnostic::error(Code::UnusedSetting, place, "`refresh` has no effect here").help(
                    "`refresh` says how often `filter` and `priority` are: set one of them, or remove it",
                ),
            );
            return false;
        }
        if train.keep == Keep::Correct
            && let Some(edit) = train.rollout.edits.iter().find(|edit| matches!(edit, Edit::Keep { .. }))
        {
            let text = format!(
                "completions are filtered twice: by `keep = correct` and by the edit `{}`",
                edit.name()
            );
            let at = self.span(train.rollout.origin);
            self.report(
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
    fn check_privacy(&mut self, train: &Train) -> bool {
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
        let Some(span) = self.first_place(&train.objective, across) else { return true };
        let optimizer = self.span(origin);
        self.report(
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
    fn read_after_steps(&self, train: &Train) -> Vec<Formula> {
        let mut found = train.ladders();
        found.extend(train.learned(&self.parts.teachers));
        found
    }

    /// Checks that `reward.format` is read only in domains whose reward has a part `format`.
    fn check_reward_parts(&mut self, train: &Train) -> bool {
        let mut read: Vec<(String, Origin)> = Vec::new();
        let adaptive = self.read_after_steps(train);
        for part in train.formulas().into_iter().chain(&adaptive).flat_map(Formula::parts) {
            if let FormulaKind::Signal(Signal::RewardPart { part: name }) = &part.0.kind {
                read.push((name.clone(), part.0.origin));
            }
        }
        for (name, origin) in read {
            for share in &train.mixture {
                let domain = self.domain(share.domain);
                let parts: Vec<&str> = domain.reward.parts().iter().map(|part| part.name.as_str()).collect();
                if parts.contains(&name.as_str()) {
                    continue;
                }
                let text = format!("the reward of the domain `{}` has no part `{name}`", domain.name);
                let help = match parts.is_empty() {
                    true => format!("write `reward = parts({name}: ..., weights: equal)` in the domain"),
                    false => format!("it has: {}", parts.join(", ")),
                };
                let (span, declared) = (self.span(origin), self.span(domain.origin));
                self.report(
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
    fn check_validation(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        if train.options.validation.is_none() {
            let is_read = |formula: &&Formula| {
                matches!(formula.0.kind, FormulaKind::Signal(Signal::ValidationLoss)) && !settings.broken
            };
            let adaptive = self.read_after_steps(train);
            let formulas = train.objective.formulas().into_iter().chain(&adaptive);
            let Some(read) = formulas.flat_map(Formula::parts).find(is_read) else { return true };
            let at = self.span(read.0.origin);
            self.report(
                Diagnostic::error(
                    Code::MissingKey,
                    settings.span,
                    "this stage reads `loss.validation`, but does not compute it",
                )
                .note(at, "read here")
                .help(
                    "add `validate = validate(target: answer, every: 10 steps)`, with the field to predict",
                ),
            );
            return false;
        }
        let without = train
            .mixture
            .iter()
            .map(|share| self.domain(share.domain))
            .find(|domain| domain.validation.is_none());
        let Some(domain) = without else { return true };
        let text = format!("the domain `{}` has no validation rows", domain.name);
        let (span, declared) = (self.span(train.origins.validation), self.span(domain.origin));
        self.report(
            Diagnostic::error(Code::MissingKey, span, text)
                .note(declared, "trained on here")
                .help("add `validation = \"FILE.jsonl\"` to it: rows that no stage is trained on"),
        );
        false
    }

    /// Checks the ranges of numbers that change over training time, over the whole run.
    fn check_numbers(&mut self, train: &Train, settings: &BlockSettings) -> bool {
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
                good &= self.within(formula, what, bounds, length);
            }
            for edit in &rollout.edits {
                if let Edit::FirstTurns { turns }
                | Edit::ExpertTurns { turns: ExpertTurns::First(turns) | ExpertTurns::AllBut(turns) } =
                    edit
                {
                    good &= self.within(
                        turns,
                        "the number of turns",
                        (0.0, f64::from(bounds::TURNS.most)),
                        length,
                    );
                }
            }
        }
        good &= self.check_declared(&train.objective, train.length);
        good &= self.check_ranges(&train.objective, train.length);
        if let Length::Steps(steps) = train.length {
            self.warn_of_unfinished_schedules(train, settings, steps);
            self.warn_of_long_intervals(train, settings, steps);
            self.warn_of_idle_guards(train, settings, steps);
        }
        if let (BatchSize::Sequences(batch), group) = (train.size, train.rollout.group())
            && !batch.is_multiple_of(group)
        {
            let text = format!("a batch of {batch} sequences does not divide into groups of {group}");
            let drawn = self.span(train.rollout.origin);
            self.report(
                Diagnostic::error(Code::OutOfRange, settings.place(&["batch"]), text)
                    .note(drawn, "the samples of each prompt")
                    .help("write a multiple, or count in prompts: `prompts = ...`"),
            );
            good = false;
        }
        good & self.check_mini_batches(train, settings)
    }

    /// A group is not divided, so each mini-batch needs a prompt.
    fn check_mini_batches(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        let (groups, parts) = (train.groups(), train.options.mini_batches);
        if parts <= groups {
            return true;
        }
        let batch = match train.rollout.group() {
            1 => format!("{groups} sequences"),
            _ => format!("{groups} prompts"),
        };
        let text = format!("a batch of {batch} does not divide into {parts} mini-batches");
        self.report(
            Diagnostic::error(Code::OutOfRange, settings.place(&["mini_batches"]), text)
                .note(settings.place(&["prompts", "batch"]), "the batch")
                .help("each mini-batch needs a prompt, with all its samples: lower it, or enlarge the batch"),
        );
        false
    }

    fn check_formats(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        let said =
            train.mixture.iter().map(|share| self.check_format(train.start, share.domain, settings.span));
        // `count` visits every domain, also after a faulty one, so that all are reported.
        let good = said.filter(|good| !good).count() == 0;
        let judge = train.extrapolation.as_ref().map(|extrapolation| extrapolation.judged_by);
        good & judge.is_none_or(|judge| self.check_format_of_benchmark(train.start, judge, settings.span))
    }

    /// Checks that completions leave room for a prompt in the context, which both share.
    fn check_context(&mut self, train: &Train, settings: &BlockSettings) -> bool {
        let Some(context) = self.architecture(train.start).map(|architecture| architecture.context) else {
            return true;
        };
        for rollout in train.rollouts() {
            let (TokensOf::Student(sampling) | TokensOf::By(_, sampling)) = rollout.source.facts().tokens
            else {
                continue;
            };
            if let Some(longest) = at_least(&sampling.max_tokens, f64::from(context), train.length) {
                let own = settings.place(&["max_tokens", "rollout"]);
                let place = if own == settings.span { self.span(rollout.origin) } else { own };
                self.report(
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
            let Some(WithOrigin { value: limit, origin }) = self.domain(share.domain).limit else { continue };
            if limit >= context {
                let (span, stage) = (self.span(origin), settings.span);
                let text = format!("{limit} new tokens leave no room for a prompt in a context of {context}");
                self.report(Diagnostic::error(Code::OutOfRange, span, text).note(stage, "trained on here"));
                return false;
            }
        }
        true
    }
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
    match crate::check::values::ranges::check_range(formula, (f64::NEG_INFINITY, limit.next_down()), length).0
    {
        RangeCheck::Leaves { value, .. } => Some(value),
        RangeCheck::Within | RangeCheck::Unknown => None,
    }
}
