//! Settings in place of others: those of `student with { lr = 1e-4 }`, and those that `--set` gives.

use std::borrow::Cow;
use std::mem::discriminant;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Argument, Block, Entry, Expr, ExprKind, ItemKind, Name, Statement};

use crate::check::builtins;
use crate::check::declarations::Declarations;
use crate::check::names::callable::signature;
use crate::check::names::modules::{ModuleId, Modules};
use crate::check::reporter::Reporter;

/// The most definitions that each change the settings of the next.
pub const MOST_CHANGES: usize = 100;

/// Where settings stand.
pub enum Settings<'a> {
    Block(&'a mut Block),
    Call { callee: &'a Expr, arguments: &'a mut Vec<Argument>, block: &'a mut Option<Block> },
}

impl<'a> Settings<'a> {
    /// Those of a value. `None` if it is no call.
    pub fn of_value(value: &'a mut Expr) -> Option<Settings<'a>> {
        let span = value.span;
        if matches!(&value.kind, ExprKind::With { changes, .. } if !matches!(changes.kind, ExprKind::Settings(_)))
        {
            // What is set comes after the settings that have a name.
            let base = Box::new(std::mem::replace(value, Expr { span, kind: ExprKind::Error }));
            let none = Block { span, statements: Vec::new(), broken: false };
            let changes = Box::new(Expr { span, kind: ExprKind::Settings(none) });
            value.kind = ExprKind::With { base, changes };
        }
        match &mut value.kind {
            ExprKind::Call { callee, arguments, block } => Some(Settings::Call { callee, arguments, block }),
            ExprKind::With { changes, .. } => match &mut changes.kind {
                ExprKind::Settings(block) => Some(Settings::Block(block)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Sets one, in place of the one of this name or in addition.
    pub fn set(&mut self, modules: &Modules, module: ModuleId, entry: &Entry) {
        let (callee, arguments, block) = match self {
            Settings::Block(block) => return set_entry(block, entry),
            Settings::Call { callee, arguments, block } => (callee, arguments, block),
        };
        let key = entry.key.text.as_str();
        let named =
            arguments.iter().position(|argument| argument.name.as_ref().is_some_and(|name| name.text == key));
        let by_position = || {
            let index = parameter_index(modules, module, callee, key)?;
            arguments.get(index).is_some_and(|argument| argument.name.is_none()).then_some(index)
        };
        match (named.or_else(by_position), block) {
            (Some(index), _) => arguments[index].value = entry.value.clone(),
            (None, Some(block)) => set_entry(block, entry),
            (None, None) => {
                arguments.push(Argument { name: Some(entry.key.clone()), value: entry.value.clone() });
            }
        }
    }
}

/// The index of a parameter among those of what is called.
fn parameter_index(modules: &Modules, module: ModuleId, callee: &Expr, parameter: &str) -> Option<usize> {
    let ExprKind::Name(callee) = &callee.kind else { return None };
    match modules.lookup(module, callee) {
        Some(declared) => {
            let (_, parameters) = signature(&modules.item(declared.item).kind)?;
            parameters.iter().position(|known| known.name.text == parameter)
        }
        None => builtins::find(callee)?.parameters.iter().position(|known| known.name == parameter),
    }
}

fn set_entry(block: &mut Block, set: &Entry) {
    let mut entries = block.statements.iter_mut().filter_map(|statement| match statement {
        Statement::Entry(entry) => Some(entry),
        _ => None,
    });
    match entries.find(|entry| entry.key.text == set.key.text) {
        Some(entry) => *entry = set.clone(),
        None => block.statements.push(Statement::Entry(set.clone())),
    }
}

/// Makes the changes of a `with`. Reports what can't be changed.
pub fn change(
    declarations: &mut Declarations,
    settings: &mut Settings,
    changes: &Block,
    module: ModuleId,
) -> Option<()> {
    if changes.statements.is_empty() && !changes.broken {
        let text = "`with` without a setting changes nothing";
        declarations.report(
            Diagnostic::warning(Code::UnusedSetting, changes.span, text)
                .help("name a setting and its other value: `with { lr = 1e-4 }`"),
        );
    }
    for statement in &changes.statements {
        if let Statement::Entry(entry) = statement {
            warn_of_the_same(declarations, settings, entry);
        }
        let block = match settings {
            Settings::Block(block) => Some(&mut **block),
            Settings::Call { block, .. } => block.as_mut(),
        };
        match (statement, block) {
            (Statement::Entry(entry), _) => settings.set(&declarations.modules, module, entry),
            (Statement::Route(route), Some(block)) => {
                block.statements.retain(|statement| !matches!(statement, Statement::Route(_)));
                block.statements.push(Statement::Route(route.clone()));
            }
            (statement, _) => {
                let span = match statement {
                    Statement::Let { name, .. }
                    | Statement::State { name, .. }
                    | Statement::Term { name, .. }
                    | Statement::Trains { name, .. }
                    | Statement::Step { name, .. } => name.span,
                    Statement::Route(route) => route.span,
                    Statement::Entry(entry) => entry.key.span,
                };
                let text = "`with` changes settings, such as `lr = 1e-4`, and the route of a stage";
                declarations
                    .report(Diagnostic::error(Code::TypeMismatch, span, text).label("can't be changed"));
                return None;
            }
        }
    }
    Some(())
}

/// Warns of a change to the value that is there, as it is written.
fn warn_of_the_same(reporter: &mut Reporter, settings: &Settings, entry: &Entry) {
    let key = entry.key.text.as_str();
    let in_block = |block: &Block| {
        block.statements.iter().find_map(|statement| match statement {
            Statement::Entry(old) if old.key.text == key => Some(old.value.span),
            _ => None,
        })
    };
    let old = match settings {
        Settings::Block(block) => in_block(block),
        Settings::Call { block: Some(block), .. } => in_block(block),
        Settings::Call { .. } => None,
    };
    // A name may stand for another value there.
    let literal = matches!(entry.value.kind, ExprKind::Number { .. } | ExprKind::Text(_));
    let Some(old) = old.filter(|old| literal && *old != entry.value.span) else { return };
    if reporter.sources.text(old) != reporter.sources.text(entry.value.span) {
        return;
    }
    let text = format!("`{key}` has this value already: nothing is changed");
    reporter.report(
        Diagnostic::warning(Code::UnusedSetting, entry.key.span.to(entry.value.span), text)
            .note(old, "set here")
            .help("write another value, or remove it"),
    );
}

/// The settings of `domain hard = sums with { ... }`, or of an `eval`: those of the base with the changes.
pub fn changed_block<'a>(
    declarations: &mut Declarations,
    module: ModuleId,
    item: &'a ItemKind,
) -> Option<Cow<'a, Block>> {
    let (mut base, block) = base_and_block(item)?;
    let mut blocks = vec![Cow::Borrowed(block)];
    while let Some(name) = base {
        let declared = declarations.modules.lookup(module, &name.text);
        let other = declared.map(|declared| &declarations.modules.item(declared.item).kind);
        let alike = other.filter(|other| discriminant(*other) == discriminant(item));
        let Some((next, block)) = alike.and_then(base_and_block) else {
            let what = if matches!(item, ItemKind::Eval { .. }) { "an `eval`" } else { "a domain" };
            let text = format!("`with` changes the settings of {what}, and `{}` is none", name.text);
            declarations.report(Diagnostic::error(Code::UnknownName, name.span, text));
            return None;
        };
        if blocks.len() > MOST_CHANGES {
            declarations.report(circle(&name.text, name.span));
            return None;
        }
        blocks.push(Cow::Owned(block.clone()));
        base = next;
    }
    let mut changed = blocks.pop().expect("its own");
    while let Some(changes) = blocks.pop() {
        change(declarations, &mut Settings::Block(changed.to_mut()), &changes, module)?;
    }
    Some(changed)
}

fn base_and_block(item: &ItemKind) -> Option<(Option<Name>, &Block)> {
    match item {
        ItemKind::Domain { base, block, .. } | ItemKind::Eval { base, block, .. } => {
            Some((base.clone(), block))
        }
        _ => None,
    }
}

/// A `with` that leads back to itself.
pub fn circle(name: &str, place: Span) -> Diagnostic {
    let text = format!("`{name}` is a change of itself, or of too many changes");
    Diagnostic::error(Code::Cycle, place, text).help("write the settings of one of them without `with`")
}
