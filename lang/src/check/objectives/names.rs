//! Checks of the names that an objective declares.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Entry, ExprKind, Index, ItemKind, Name};
use mopd_experiment::formula::{FormulaKind, Signal};

use crate::check::builtins::vocabulary;
use crate::check::declarations::Declarations;
use crate::check::names::modules::{ItemId, Modules};
use crate::check::reporter::Reporter;
use crate::check::suggestions::foreign;
use crate::check::suggestions::unknown::{self, SuggestedSetting};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// Reports a `let` of an objective whose name already has a meaning there: it must be clear which is
/// meant.
pub fn hides_nothing(declarations: &mut Declarations, name: &Name, env: &Env) {
    let diagnostic = if vocabulary::signal(&name.text).is_some() {
        let text = format!("`{}` is a built-in name already: every objective can read it", name.text);
        Diagnostic::error(Code::DuplicateName, name.span, text).label("can't be declared again")
    } else if env.local(&name.text).is_some() {
        let text = format!("`{}` is a parameter, a `let` or a `state` of this objective already", name.text);
        Diagnostic::error(Code::DuplicateName, name.span, text).label("would hide it from here on")
    } else if let Some(outer) = declarations
        .modules
        .lookup(env.module, &name.text)
        .filter(|outer| is_read_in_formulas(&declarations.modules, outer.item))
    {
        let text = format!("`{}` is declared outside this objective already", name.text);
        Diagnostic::error(Code::DuplicateName, name.span, text)
            .label("would hide it from here on")
            .note(outer.span, "declared here")
    } else {
        return;
    };
    declarations.report(diagnostic.help("choose another name"));
}

/// Whether formulas can read an item. Domains, models and the like can't be read: names may repeat.
fn is_read_in_formulas(modules: &Modules, id: ItemId) -> bool {
    let kind = &modules.item(id).kind;
    matches!(
        kind,
        ItemKind::Let { .. }
            | ItemKind::Param(_)
            | ItemKind::Teacher { .. }
            | ItemKind::Schedule { .. }
            | ItemKind::Fn { .. }
    )
}

/// Reports a term named like a parameter or a `let`: the name would stand for two numbers.
pub fn is_no_other(reporter: &mut Reporter, name: &Name, env: &Env) {
    if env.local(&name.text).is_some() {
        let text = format!(
            "the term `{}` is named like a parameter, a `let` or a `state` of this objective",
            name.text
        );
        let diagnostic =
            Diagnostic::error(Code::DuplicateName, name.span, text).label("the loss is another number");
        reporter.report(diagnostic.help("give the term another name"));
    }
}

/// Reports an index over elements that name no members.
pub(super) fn report_no_index(reporter: &mut Reporter, index: &Index) {
    let text = "an index ranges over teachers, domains, whole numbers or named values";
    reporter.report(Diagnostic::error(Code::TypeMismatch, index.over.span, text));
}

pub(super) fn report_second_term(reporter: &mut Reporter, name: &Name, first: &Name) {
    let text = format!("the term `{}` is declared twice", name.text);
    reporter.report(
        Diagnostic::error(Code::DuplicateName, name.span, text)
            .label("declared again here")
            .note(first.span, "first declared here")
            .help("give one of them another name: losses, weights and curves are told apart by it"),
    );
}

/// Whether a setting was meant to be a term, because it contains `live`.
pub(super) fn is_term(reporter: &Reporter, entry: &Entry) -> bool {
    let known = vocabulary::OBJECTIVE.iter().any(|key| key.name == entry.key.text);
    !known
        && reporter
            .sources
            .text(entry.value.span)
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .any(|word| word == "live")
}

/// Whether a setting was meant to be a `let`, because its name is like none of the settings.
pub(super) fn is_let(reporter: &Reporter, entry: &Entry) -> bool {
    let known = vocabulary::names(vocabulary::OBJECTIVE);
    let name = entry.key.text.as_str();
    !known.contains(&name)
        && !is_term(reporter, entry)
        && !matches!(entry.value.kind, ExprKind::Error)
        && foreign::setting(name, &known, &known).is_none()
        && foreign::key(name, &known).is_none()
}

pub fn unknown_of_objective(
    declarations: &mut Declarations,
    entry: &Entry,
    env: &Env,
) -> Option<SuggestedSetting> {
    if matches!(entry.value.kind, ExprKind::Error) {
        return None; // Reported by the parser.
    }
    if is_term(declarations, entry) {
        let (name, before) = (&entry.key.text, Span { end: entry.key.span.start, ..entry.key.span });
        let text = format!("an objective has no setting `{name}`");
        let diagnostic =
            Diagnostic::error(Code::UnknownKey, entry.key.span, text).label("a part of the loss is a term");
        declarations.report(diagnostic.help(format!("write `term {name} = ...`")).fix(
            "write `term`",
            before,
            "term ",
        ));
        return None;
    }
    if is_let(declarations, entry) {
        let (name, before) = (&entry.key.text, Span { end: entry.key.span.start, ..entry.key.span });
        let text = format!("an objective has no setting `{name}`");
        let diagnostic = Diagnostic::error(Code::UnknownKey, entry.key.span, text);
        let state = |value: &Value| match value {
            Value::Formula(formula) => matches!(formula.0.kind, FormulaKind::Signal(Signal::State { .. })),
            Value::Family(family) => family.name == *name,
            _ => false,
        };
        if env.local(name).is_some_and(state) {
            let help = format!(
                "the next value of a state stands in its declaration: `state {name} = first then next`"
            );
            declarations.report(diagnostic.help(help));
            return None;
        }
        let help = format!("a name for a number is declared with `let {name} = ...`");
        declarations.report(diagnostic.help(help).fix("write `let`", before, "let "));
        return None;
    }
    unknown::unknown_setting(declarations, entry, "an objective", vocabulary::OBJECTIVE, &[])
}
