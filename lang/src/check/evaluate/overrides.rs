//! Values set from outside with `--set name=value`: of a `param`, of an objective's parameter, of a setting.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{SourceFile, Spanned};
use crate::syntax::ast::{Entry, Expr, ExprKind, Item, ItemKind, Name, Parameter};
use crate::syntax::parse;
use mopd_experiment::formula::Unit;

use crate::check::checker::Checker;
use crate::check::evaluation::sweep;
use crate::check::names::modules::{ModuleId, Modules, declared_name};
use crate::check::read::changes::Settings;
use crate::check::read::declared_type::unit_of_type;
use crate::check::read::numbers;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// What the path of a value's file begins with.
pub const PATH: &str = "--set ";

/// Sets the values. Each is parsed as an expression in a file of its own, so that mistakes in it have a
/// place.
pub fn apply_overrides(checker: &mut Checker, entry: ModuleId, overrides: &[(String, String)]) {
    for (name, value) in overrides {
        // `mopd.clip_at` is a parameter of the objective `mopd`, `student.lr` a setting of a model.
        let (owner, parameter) = match name.split_once('.') {
            Some((owner, parameter)) => (Some(owner), parameter),
            None => (None, name.as_str()),
        };
        let text = format!("let {parameter} = {value}\n");
        let file = checker.sources.add(SourceFile { path: format!("{PATH}{name}"), text: text.clone() });
        let (tree, diagnostics) = parse(file, &text);
        let bad = !diagnostics.is_empty();
        for diagnostic in diagnostics {
            checker.report(diagnostic);
        }
        let [item] = tree.items.as_slice() else { continue };
        let ItemKind::Let { name: place, value, .. } = &item.kind else { continue };
        if bad {
            continue;
        }
        if name == "seed" {
            let value = checker.evaluate_constant(entry, value);
            checker.seed = numbers::whole(checker, &value, item.span, "the seed", 0);
            continue;
        }
        let tree = checker.modules.tree(entry);
        let parameters: Vec<String> = match owner {
            Some(owner) => of_objective(&tree.items, owner),
            None => {
                let parameters = tree.items.iter().filter_map(|item| match &item.kind {
                    ItemKind::Param(parameter) => Some(parameter.name.text.clone()),
                    _ => None,
                });
                parameters.chain(["seed".to_owned()]).collect()
            }
        };
        if parameters.contains(name) {
            // A value by the name that the file's sweep gives it.
            let named = match &value.kind {
                ExprKind::Name(chosen) => sweep::named_value(&tree, name, chosen),
                _ => None,
            };
            let value = named.as_ref().unwrap_or(value);
            checker.modules.loaded[entry.0 as usize].set.insert(name.clone(), value.clone());
            continue;
        }
        if let Some((index, item)) =
            owner.and_then(|owner| with_setting(&checker.modules, entry, owner, place, value))
        {
            let mut changed = (*tree).clone();
            changed.items[index] = Rc::new(item);
            checker.modules.loaded[entry.0 as usize].tree = Rc::new(changed);
            continue;
        }
        let (message, candidates) = match owner {
            Some(owner) if !parameters.is_empty() => {
                (format!("no objective `{owner}` of the file has a parameter `{parameter}`"), parameters)
            }
            Some(owner) => {
                let owners = tree.items.iter().filter(|item| settings(&mut Item::clone(item)).is_some());
                let candidates = owners.filter_map(|item| Some(format!("{}.{parameter}", owner_name(item)?)));
                (format!("the file declares no `{owner}` with settings"), candidates.collect())
            }
            None => (format!("the experiment has no `param {name}` that could be set"), parameters),
        };
        let mut diagnostic = Diagnostic::error(Code::UnknownName, place.span, message);
        if !candidates.is_empty() {
            diagnostic = diagnostic.label(format!("can be set: {}", candidates.join(", ")));
        }
        if let Some(near) = nearest(name, candidates.iter().map(String::as_str)) {
            diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
        }
        checker.report(diagnostic);
    }
}

/// The name by which `--set OWNER.SETTING=...` finds an item.
fn owner_name(item: &Item) -> Option<&str> {
    match &item.kind {
        ItemKind::Experiment { .. } => Some("experiment"),
        ItemKind::Compare { name, .. } => Some(&name.text),
        kind => declared_name(kind).map(|name| name.text.as_str()),
    }
}

fn settings(item: &mut Item) -> Option<Settings<'_>> {
    match &mut item.kind {
        ItemKind::Experiment { block, .. }
        | ItemKind::Domain { block, .. }
        | ItemKind::Eval { block, .. }
        | ItemKind::Compare { block, .. } => Some(Settings::Block(block)),
        ItemKind::Model(binding) | ItemKind::Teacher { binding, .. } => {
            Settings::of_value(&mut binding.value)
        }
        ItemKind::Panel { value, .. } => Settings::of_value(value),
        _ => None,
    }
}

/// The item of this name with a setting replaced or added, and its place in the file.
fn with_setting(
    modules: &Modules,
    module: ModuleId,
    owner: &str,
    key: &Name,
    value: &Expr,
) -> Option<(usize, Item)> {
    let tree = modules.tree(module);
    let index = tree.items.iter().position(|item| owner_name(item) == Some(owner))?;
    let mut item = Item::clone(&tree.items[index]);
    let set = Entry { key: key.clone(), value: value.clone(), marks: Vec::new() };
    settings(&mut item)?.set(modules, module, &set);
    Some((index, item))
}

/// The value that `--set OBJECTIVE.PARAMETER=...` gives a parameter of an objective. It comes before the
/// default and before the arguments of calls, as `--set PARAM=...` comes before what the file says.
pub fn set_argument(
    checker: &mut Checker,
    module: ModuleId,
    owner: &str,
    parameter: &Parameter,
) -> Option<Spanned<Value>> {
    let set = checker.modules.set_argument(module, owner, &parameter.name.text)?;
    let env = Env::constant(module);
    let env = if may_move(parameter) { env.with_context(EvaluationContext::Schedule) } else { env };
    Some(Spanned::new(checker.evaluate(&set, &env), set.span))
}

/// Whether an argument may be a schedule, or a formula of `step` and `progress`.
pub fn may_move(parameter: &Parameter) -> bool {
    let unit = parameter.annotation.as_ref().and_then(|annotation| unit_of_type(&annotation.text));
    unit.is_some_and(|unit| !matches!(unit, Unit::Count | Unit::Bool))
}

/// The parameters of an objective of the file, in the form that `--set` takes.
fn of_objective(items: &[Rc<Item>], owner: &str) -> Vec<String> {
    let mut found = Vec::new();
    for item in items {
        if let ItemKind::Objective { name, parameters, .. } = &item.kind
            && name.text == owner
        {
            found.extend(parameters.iter().map(|parameter| format!("{owner}.{}", parameter.name.text)));
        }
    }
    found
}
