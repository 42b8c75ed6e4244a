//! Reads the settings of a block: unknown, duplicate and missing keys, and values of the wrong type or range.

use std::ops::RangeInclusive;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Block, Entry, Expr, ExprKind, Mark, Route, Statement};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Unit};
use mopd_experiment::{MarkedSetting, SettingMark};

use crate::check::Checker;
use crate::check::builtins::bounds;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::vocabulary::SettingKey;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

/// The settings of one block, checked against the keys it may have.
pub struct BlockSettings<'a> {
    /// The owner of the settings, quoted for messages: `` `grpo` ``.
    pub owner: String,
    /// The span to report where a setting is missing.
    pub span: Span,
    /// The entries by key; a misspelt key counts as the one it was taken for.
    entries: Vec<(String, &'a Entry)>,
    /// Settings of the enclosing block, which hold for all of its steps.
    inherited: Vec<(String, &'a Entry)>,
    /// The keys that misspelt ones were taken for. They are not reported as missing.
    mistyped: Vec<String>,
    marks: Vec<(String, SettingMark)>,
    pub route: Option<&'a Route>,
    /// Part of the block could not be parsed, and may have held any key that seems missing.
    pub broken: bool,
}

/// A setting that a block lacks.
pub struct MissingSetting {
    owner: String,
    key: &'static str,
    span: Span,
}

impl<'a> BlockSettings<'a> {
    /// A declared setting, if it is set.
    pub(in crate::check) fn argument<T>(&self, key: &'static str) -> Option<Arg<'a, T>> {
        self.entry(key).map(|entry| Arg::new("", key, &entry.value))
    }

    /// What to report where this setting is needed; `None` where it is set, or may have been meant.
    pub fn missing(&self, key: &'static str) -> Option<MissingSetting> {
        let meant =
            self.entry(key).is_some() || self.broken || self.mistyped.iter().any(|meant| meant == key);
        (!meant).then(|| MissingSetting { owner: self.owner.clone(), key, span: self.span })
    }

    pub fn key_span(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|entry| entry.key.span)
    }

    pub fn value_span(&self, key: &str) -> Option<Span> {
        self.entry(key).map(|entry| entry.value.span)
    }

    /// The span of the first of `keys` that is set, or of the block's owner.
    pub fn place(&self, keys: &[&str]) -> Span {
        keys.iter().find_map(|key| self.key_span(key)).unwrap_or(self.span)
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.entries.iter().chain(&self.inherited).find(|(known, _)| known == key).map(|(_, entry)| *entry)
    }

    /// ArgumentKind over the settings of the enclosing block `around`; the block's own come first.
    pub fn inherit(&mut self, around: &BlockSettings<'a>) {
        // A block with `prompts` or `batch` of its own inherits neither.
        let replaced = |key: &str| {
            matches!(key, "prompts" | "batch")
                && ["prompts", "batch"].iter().any(|size| self.key_span(size).is_some())
        };
        self.inherited = around.entries.iter().filter(|(key, _)| !replaced(key)).cloned().collect();
        self.broken |= around.broken;
        self.route = self.route.or(around.route);
    }
}

/// The temperatures allowed: logits divided by them stay within single precision (1e-38 to 1e38), with room
/// for the size of the logits themselves.
const TEMPERATURES: RangeInclusive<f64> = 1e-30..=1e30;

/// The least sampling temperature; 0 (the most probable token) is accepted only with `greedy`.
fn least_temperature(greedy: bool) -> f64 {
    if greedy { 0.0 } else { f64::MIN_POSITIVE }
}

impl Checker {
    /// The settings of a block. Reports unknown keys, duplicates, and statements that are no settings.
    pub(in crate::check) fn settings<'a>(
        &mut self,
        block: Option<&'a Block>,
        owner: &str,
        span: Span,
        keys: &[SettingKey],
        may_route: bool,
    ) -> BlockSettings<'a> {
        let broken = block.is_some_and(|block| block.broken);
        let mut settings = BlockSettings {
            owner: format!("`{owner}`"),
            span,
            entries: Vec::new(),
            inherited: Vec::new(),
            mistyped: Vec::new(),
            marks: Vec::new(),
            route: None,
            broken,
        };
        let statements = block.map_or(&[][..], |block| &block.statements);
        let entries = statements.iter().filter_map(|statement| match statement {
            Statement::Entry(entry) => Some(entry),
            _ => None,
        });
        let others: Vec<&Entry> = entries.collect();
        for statement in statements {
            match statement {
                Statement::Entry(entry) => self.setting(entry, keys, &others, &mut settings),
                Statement::Route(route) if may_route && settings.route.is_none() => {
                    settings.route = Some(route)
                }
                Statement::Route(route) => {
                    let text = format!("{} takes no route here", settings.owner);
                    self.report(Diagnostic::error(Code::UnknownKey, route.span, text));
                }
                Statement::Let { name, .. }
                | Statement::State { name, .. }
                | Statement::Term { name, .. } => {
                    self.report(
                        Diagnostic::error(
                            Code::UnknownKey,
                            name.span,
                            format!("{} holds settings only", settings.owner),
                        )
                        .help("`let`, `state` and `term` belong in an objective; write a `let` of your own above"),
                    );
                }
                // The check of `train` reads these statements itself.
                Statement::Trains { .. } | Statement::Step { .. } if owner == "train" => {}
                Statement::Trains { name, .. } | Statement::Step { name, .. } => {
                    self.report(
                        Diagnostic::error(
                            Code::UnknownKey,
                            name.span,
                            format!("{} holds settings only", settings.owner),
                        )
                        .help("`trains` and `step` belong in `train { ... }`"),
                    );
                }
            }
        }
        settings
    }

    fn setting<'a>(
        &mut self,
        entry: &'a Entry,
        keys: &[SettingKey],
        others: &[&Entry],
        settings: &mut BlockSettings<'a>,
    ) {
        let marks = self.marks(&entry.marks);
        settings.marks.extend(marks.into_iter().map(|mark| (entry.key.text.clone(), mark)));
        if let Some(first) = settings
            .key_span(&entry.key.text)
            .filter(|_| settings.entries.iter().any(|(key, _)| *key == entry.key.text))
        {
            self.report(
                Diagnostic::error(
                    Code::DuplicateKey,
                    entry.key.span,
                    format!("`{}` is set twice", entry.key.text),
                )
                .note(first, "first set here")
                .help("keep one of them"),
            );
        } else if keys.iter().any(|key| key.name == entry.key.text) {
            settings.entries.push((entry.key.text.clone(), entry));
        } else if !matches!(entry.value.kind, ExprKind::Error) {
            // A misspelt key is read as the one it was taken for, so that one slip gives one diagnostic.
            match self.unknown_setting(entry, &settings.owner, keys, others) {
                Some(meant) if meant.same_value => settings.entries.push((meant.key, entry)),
                meant => settings.mistyped.extend(meant.map(|meant| meant.key)),
            }
        }
    }

    /// The marks of a setting, `@unpublished` and `@source("...")`: where its value comes from.
    pub(in crate::check) fn marks(&mut self, written: &[Mark]) -> Vec<SettingMark> {
        const MARKS: &[&str] = &["unpublished", "source"];
        let mut found = Vec::new();
        for mark in written {
            let argument = mark.argument.as_ref().map(|text| text.text.clone());
            match (mark.name.text.as_str(), argument) {
                ("unpublished", note) => found.push(SettingMark::Unpublished { note }),
                ("source", Some(text)) => found.push(SettingMark::Source { text }),
                ("source", None) => self.report(
                    Diagnostic::error(Code::MissingArgument, mark.name.span, "`@source` must say which")
                        .help("write `@source(\"arXiv:2606.30406, appendix A\")`"),
                ),
                (other, _) => {
                    let diagnostic = Diagnostic::error(
                        Code::UnknownValue,
                        mark.name.span,
                        format!("there is no mark `@{other}`"),
                    );
                    self.report(match nearest(other, MARKS.iter().copied()) {
                        Some(near) => {
                            diagnostic.did_you_mean(other, near).help(format!("did you mean `@{near}`?"))
                        }
                        None => diagnostic.help("marks: `@unpublished`, `@source(\"...\")`"),
                    });
                }
            }
        }
        found
    }

    /// Records the marks of a block for the plan, under the name of its model.
    pub(in crate::check) fn keep_marks(&mut self, settings: &BlockSettings, owner: &str) {
        for (setting, mark) in &settings.marks {
            self.record_marks(owner, setting, vec![mark.clone()]);
        }
    }

    pub(in crate::check) fn record_marks(&mut self, owner: &str, setting: &str, marks: Vec<SettingMark>) {
        for mark in marks {
            let marked = MarkedSetting { owner: owner.to_owned(), setting: setting.to_owned(), mark };
            // An objective is evaluated at every use.
            if !self.parts.marks.contains(&marked) {
                self.parts.marks.push(marked);
            }
        }
    }

    /// Reports a setting that the rest of the block needs, if it is missing.
    pub(in crate::check) fn report_if_missing(&mut self, settings: &BlockSettings, key: &'static str) {
        settings.missing(key).iter().for_each(|missing| self.report_missing(missing));
    }

    pub(in crate::check) fn report_missing(&mut self, missing: &MissingSetting) {
        let MissingSetting { owner, key, span } = missing;
        self.report(
            Diagnostic::error(Code::MissingKey, *span, format!("{owner} needs `{key}`"))
                .label("not set here")
                .help(format!("add `{key} = ...`")),
        );
    }

    pub(in crate::check) fn count(&mut self, expr: &Expr, key: &str, env: &Env, least: u64) -> Option<u32> {
        let value = self.evaluate(expr, env);
        self.whole(&value, expr.span, &format!("`{key}`"), least).map(|count| count as u32)
    }

    /// The value of a number that is known before the run.
    pub(in crate::check) fn real(&mut self, expr: &Expr, key: &str, env: &Env) -> Option<f64> {
        let value = self.evaluate(expr, env);
        match value.number() {
            Some(number) => self.word_fits(&value, expr.span, key).then_some(number),
            None if undecided(&value) => self.any_number(1.0),
            None => {
                self.wrong_kind(expr.span, &format!("`{key}` must be a number known before the run"), &value);
                None
            }
        }
    }

    /// A number known before the run, at least `least`.
    pub(in crate::check) fn at_least(
        &mut self,
        expr: &Expr,
        key: &str,
        env: &Env,
        least: f64,
    ) -> Option<f64> {
        let number = self.real(expr, key, env)?;
        self.number_at_least(number, key, least, expr.span).then_some(number)
    }

    /// Whether the number of a setting is at least `least`; reports if not.
    fn number_at_least(&mut self, number: f64, key: &str, least: f64, span: Span) -> bool {
        let reaches = number >= least;
        if !reaches {
            let text = match least {
                f64::MIN_POSITIVE => format!("`{key}` must be above 0"),
                _ => format!("`{key}` must be at least {least}"),
            };
            self.report(Diagnostic::error(Code::OutOfRange, span, text).label(format!("this is {number}")));
        }
        reaches
    }

    /// A sampling temperature. 0 (the most probable token) is accepted only with `greedy`.
    pub(in crate::check) fn temperature(&mut self, expr: &Expr, env: &Env, greedy: bool) -> Option<f64> {
        let number = self.at_least(expr, "temperature", env, least_temperature(greedy))?;
        self.temperature_fits(number, expr.span).then_some(number)
    }

    /// The temperature of rollouts: a number, or a schedule of numbers above 0.
    pub(in crate::check) fn temperature_of_steps(
        &mut self,
        expr: &Expr,
        env: &Env,
        greedy: bool,
    ) -> Option<Formula> {
        let value = self.schedule_setting(expr, env)?;
        if let FormulaKind::Schedule(schedule) = &value.0.kind {
            let ends = schedule.ends();
            if let Some(low) = ends.iter().find(|end| **end <= 0.0) {
                let text = "a temperature that changes must stay above 0";
                self.report(
                    Diagnostic::error(Code::ScheduleRange, expr.span, text)
                        .label(format!("goes to {low}"))
                        .help("let it end above 0: `linear(1 -> 0.1)`"),
                );
                return None;
            }
            return ends.into_iter().all(|end| self.temperature_fits(end, expr.span)).then_some(value);
        }
        let number = match value.constant() {
            Some(number) => number,
            None if has_variables(&value) => self.any_number(1.0)?,
            None => {
                let text = "a temperature is a number or a schedule";
                self.report(
                    Diagnostic::error(Code::TypeMismatch, expr.span, text)
                        .label("this is computed from others")
                        .help("write a schedule, such as `linear(1 -> 0.7)`"),
                );
                return None;
            }
        };
        let sound = self.number_at_least(number, "temperature", least_temperature(greedy), expr.span)
            && self.temperature_fits(number, expr.span);
        sound.then(|| self.constant_temperature(number, expr.span))
    }

    pub(in crate::check) fn constant_temperature(&mut self, number: f64, at: Span) -> Formula {
        Formula::new(FormulaKind::Number(number), Unit::Number, Axis::Run, false, self.origin(at))
    }

    /// Whether logits divided by the temperature stay finite; reports if not.
    fn temperature_fits(&mut self, number: f64, span: Span) -> bool {
        if number == 0.0 || TEMPERATURES.contains(&number) {
            return true;
        }
        let (low, high) = (TEMPERATURES.start(), TEMPERATURES.end());
        let (text, why) = match number < *low {
            true => (format!("`temperature` must be at least {low:e}"), "infinite"),
            false => (format!("`temperature` must be at most {high:e}"), "0"),
        };
        self.report(
            Diagnostic::error(Code::OutOfRange, span, text)
                .label(format!("this is {number:e}"))
                .help(format!("logits divided by it would be {why} in single precision")),
        );
        false
    }

    /// A placeholder for a number that depends on a parameter without a value. `None` outside such checks.
    pub(in crate::check) fn any_number(&self, usual: f64) -> Option<f64> {
        self.any_numbers.then_some(usual)
    }

    pub(in crate::check) fn whole(
        &mut self,
        value: &Value,
        span: Span,
        what: &str,
        least: u64,
    ) -> Option<u64> {
        let Some(number) = value.number() else {
            if undecided(value) {
                return self.any_number(16.0).map(|number| least.max(number as u64));
            }
            if let (Value::List(values), "`seeds`") = (value, what) {
                let count = values.len();
                let diagnostic = Diagnostic::error(
                    Code::TypeMismatch,
                    span,
                    "`seeds` is how many seeds are run, not a list of them",
                );
                let diagnostic = diagnostic
                    .label("this is a list")
                    .help("a whole number: `seed` of the experiment is the first, the others follow it");
                self.report(diagnostic.replace_with(format!("write `{count}`"), count.to_string()));
                return None;
            }
            self.wrong_kind(span, &format!("{what} must be a whole number known before the run"), value);
            return None;
        };
        if !self.word_fits(value, span, what.trim_matches('`')) || !self.word_fits_here(value, span) {
            return None;
        }
        if number.fract() != 0.0 || number < least as f64 {
            self.report(
                Diagnostic::error(
                    Code::OutOfRange,
                    span,
                    format!("{what} must be a whole number, at least {least}"),
                )
                .label(format!("this is {number}")),
            );
            return None;
        }
        let bound = bounds::for_setting(what.trim_matches('`'));
        if number > f64::from(bound.most) {
            let most = bounds::written(bound.most);
            self.report(
                Diagnostic::error(Code::OutOfRange, span, format!("{what} must be at most {most}"))
                    .label(format!("this is {number}"))
                    .help(format!("write {most} or less: {}", bound.because)),
            );
            return None;
        }
        Some(number as u64)
    }

    pub(in crate::check) fn fraction(&mut self, value: &Value, span: Span, what: &str) -> Option<f64> {
        let Some(number) = value.number() else {
            if undecided(value) {
                return self.any_number(0.5);
            }
            self.wrong_kind(span, &format!("{what} must be a fraction known before the run"), value);
            return None;
        };
        if !(0.0..=1.0).contains(&number) {
            let diagnostic =
                Diagnostic::error(Code::OutOfRange, span, format!("{what} must lie between 0 and 1"));
            let diagnostic = diagnostic.label(format!("this is {number}"));
            // `50` is taken for a mistyped `50%`.
            let written = self.sources.text(span);
            let percent = number > 1.0
                && number <= 100.0
                && number.fract() == 0.0
                && written.parse::<f64>() == Ok(number);
            self.report(match percent {
                true => diagnostic
                    .help(format!("a share of a hundred is written with `%`: `{written}%`"))
                    .replace_with(format!("write `{written}%`"), format!("{written}%")),
                false => diagnostic.help("at most 1, which is all of it; `35%` is 0.35"),
            });
            return None;
        }
        Some(number)
    }
}

/// Whether a number depends on a parameter without a value. This happens while an item is checked by itself,
/// where the number can't be judged yet.
pub fn undecided(value: &Value) -> bool {
    matches!(value, Value::Formula(formula) if has_variables(formula))
}

pub fn has_variables(formula: &Formula) -> bool {
    formula.any(|node| matches!(node.kind, FormulaKind::Variable(_)))
}
