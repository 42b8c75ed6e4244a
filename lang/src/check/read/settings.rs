//! The settings of a block, read from its statements: unknown, duplicate and missing keys, and marks.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Block, Entry, ExprKind, Mark, Statement};
use mopd_experiment::{MarkedSetting, SettingMark};

use crate::check::builtins::block_settings::{BlockSettings, MissingSetting};
use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::{DeclaredBlock, Required};
use crate::check::builtins::kinds::SettingKey;
use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::read::{Readable, Reads};
use crate::check::reporter::Reporter;
use crate::check::suggestions::unknown;
use crate::check::values::environment::Env;

/// The settings of a block. Reports unknown keys, duplicates, and statements that are no settings.
pub fn block_settings<'a>(
    declarations: &mut Declarations,
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
            Statement::Entry(entry) => setting(declarations, entry, keys, &others, &mut settings),
            Statement::Route(route) if may_route && settings.route.is_none() => settings.route = Some(route),
            Statement::Route(route) => {
                let text = format!("{} takes no route here", settings.owner);
                declarations.report(Diagnostic::error(Code::UnknownKey, route.span, text));
            }
            Statement::Let { name, .. } | Statement::State { name, .. } | Statement::Term { name, .. } => {
                declarations.report(
                    Diagnostic::error(
                        Code::UnknownKey,
                        name.span,
                        format!("{} holds settings only", settings.owner),
                    )
                    .help(
                        "`let`, `state` and `term` belong in an objective; write a `let` of your own above",
                    ),
                );
            }
            // The check of `train` reads these statements itself.
            Statement::Trains { .. } | Statement::Step { .. } if owner == "train" => {}
            Statement::Trains { name, .. } | Statement::Step { name, .. } => {
                declarations.report(
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

pub fn setting<'a>(
    declarations: &mut Declarations,
    entry: &'a Entry,
    keys: &[SettingKey],
    others: &[&Entry],
    settings: &mut BlockSettings<'a>,
) {
    let marks = marks(declarations, &entry.marks);
    settings.marks.extend(marks.into_iter().map(|mark| (entry.key.text.clone(), mark)));
    if let Some(first) = settings
        .key_span(&entry.key.text)
        .filter(|_| settings.entries.iter().any(|(key, _)| *key == entry.key.text))
    {
        declarations.report(
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
        match unknown::unknown_setting(declarations, entry, &settings.owner, keys, others) {
            Some(meant) if meant.same_value => settings.entries.push((meant.key, entry)),
            meant => settings.mistyped.extend(meant.map(|meant| meant.key)),
        }
    }
}

/// The marks of a setting, `@unpublished` and `@source("...")`: where its value comes from.
pub fn marks(reporter: &mut Reporter, written: &[Mark]) -> Vec<SettingMark> {
    const MARKS: &[&str] = &["unpublished", "source"];
    let mut found = Vec::new();
    for mark in written {
        let argument = mark.argument.as_ref().map(|text| text.text.clone());
        match (mark.name.text.as_str(), argument) {
            ("unpublished", note) => found.push(SettingMark::Unpublished { note }),
            ("source", Some(text)) => found.push(SettingMark::Source { text }),
            ("source", None) => reporter.report(
                Diagnostic::error(Code::MissingArgument, mark.name.span, "`@source` must say which")
                    .help("write `@source(\"arXiv:2606.30406, appendix A\")`"),
            ),
            (other, _) => {
                let diagnostic = Diagnostic::error(
                    Code::UnknownValue,
                    mark.name.span,
                    format!("there is no mark `@{other}`"),
                );
                reporter.report(match nearest(other, MARKS.iter().copied()) {
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
pub fn keep_marks(parts: &mut ExperimentParts, settings: &BlockSettings, owner: &str) {
    for (setting, mark) in &settings.marks {
        record_marks(parts, owner, setting, vec![mark.clone()]);
    }
}

pub fn record_marks(parts: &mut ExperimentParts, owner: &str, setting: &str, marks: Vec<SettingMark>) {
    for mark in marks {
        let marked = MarkedSetting { owner: owner.to_owned(), setting: setting.to_owned(), mark };
        // An objective is evaluated at every use.
        if !parts.marks.contains(&marked) {
            parts.marks.push(marked);
        }
    }
}

/// Reports a setting that the rest of the block needs, if it is missing.
pub fn report_if_missing(reporter: &mut Reporter, settings: &BlockSettings, key: &'static str) {
    settings.missing(key).iter().for_each(|missing| report_missing(reporter, missing));
}

pub fn report_missing(reporter: &mut Reporter, missing: &MissingSetting) {
    let MissingSetting { owner, key, span } = missing;
    reporter.report(
        Diagnostic::error(Code::MissingKey, *span, format!("{owner} needs `{key}`"))
            .label("not set here")
            .help(format!("add `{key} = ...`")),
    );
}

/// The settings of a declared block, which holds no route.
pub fn block<'e, B: DeclaredBlock<'e>>(
    declarations: &mut Declarations,
    block: Option<&'e Block>,
    owner: &str,
    span: Span,
) -> (BlockSettings<'e>, B) {
    let settings = block_settings(declarations, block, owner, span, B::KEYS, false);
    let given = B::of(&settings);
    (settings, given)
}

/// A setting that must be written; reports if it is not.
pub fn required_setting<'e, T>(reporter: &mut Reporter, setting: Required<'e, T>) -> Option<Arg<'e, T>> {
    if let Some(missing) = setting.missing {
        report_missing(reporter, &missing);
    }
    setting.given
}

impl<T: Reads> Readable for Required<'_, T> {
    type Value = T::Value;

    fn read(self, checker: &mut Checker, env: &Env) -> Option<T::Value> {
        required_setting(checker, self)?.read(checker, env)
    }
}
