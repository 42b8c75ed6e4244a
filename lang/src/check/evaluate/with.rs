//! `student with { lr = 1e-4 }`: the value of another model or teacher with some of its settings changed.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Binding, Block, Expr, ExprKind, Index, ItemKind};

use crate::check::checker::Checker;
use crate::check::evaluate::member_key;
use crate::check::names::modules::ItemId;
use crate::check::read::changes::{MOST_CHANGES, Settings, change, circle};
use crate::check::read::{expected, turns};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The value that `base with { ... }` stands for, and the environment of its names: that of the `with`, with
/// the variable of the family that `base` is a member of. Reports what can't be changed: a teacher only where
/// a `teacher` is declared, since its settings have no meaning elsewhere.
pub fn changed(
    checker: &mut Checker,
    base: &Expr,
    changes: &Expr,
    span: Span,
    declares_teacher: bool,
    env: &Env,
) -> Option<(Expr, Env)> {
    // Of changes of changes, the last ones count.
    let mut blocks = vec![settings_of(checker, changes, env)?];
    let mut base = base;
    while let ExprKind::With { base: other, changes } = &base.kind {
        blocks.push(settings_of(checker, changes, env)?);
        base = other;
    }
    let Declared { mut value, teacher, env: mut inner } = declared(checker, base, env)?;
    if teacher && !declares_teacher {
        let name = text(checker, base);
        let message = format!("`{name}` is a teacher: with other settings it is declared as another one");
        let help = format!("write `teacher other = {name} with {{ ... }}`, and use its name here");
        checker.report(Diagnostic::error(Code::TypeMismatch, base.span, message).help(help));
        return None;
    }
    for _ in 0..MOST_CHANGES {
        match value.kind {
            ExprKind::With { base, changes } => {
                blocks.push(settings_of(checker, &changes, &inner)?);
                Declared { value, env: inner, .. } = declared(checker, &base, &inner)?;
            }
            // Another name of a model.
            ExprKind::Name(_) | ExprKind::Index { .. } => {
                Declared { value, env: inner, .. } = declared(checker, &value, &inner)?;
            }
            _ => break,
        }
    }
    if matches!(value.kind, ExprKind::With { .. } | ExprKind::Name(_) | ExprKind::Index { .. }) {
        let diagnostic = circle(text(checker, base), base.span);
        checker.report(diagnostic);
        return None;
    }
    let origin = value.span;
    // Errors in settings that were not changed are at their own place.
    value.span = span;
    let Some(mut settings) = Settings::of_value(&mut value) else {
        let text = format!("the value of `{}` has no settings that could be changed", text(checker, base));
        let help = "`with` changes what stands in the braces or arguments of a call, such as `distill(start) { ... }`";
        checker.report(
            Diagnostic::error(Code::TypeMismatch, base.span, text).note(origin, "its value").help(help),
        );
        return None;
    };
    for block in blocks.iter().rev() {
        change(checker, &mut settings, block, env.module)?;
    }
    Some((value, inner))
}

/// The settings of `with { ... }`, or of `with quick`.
fn settings_of(checker: &mut Checker, changes: &Expr, env: &Env) -> Option<Block> {
    if let ExprKind::Settings(block) = &changes.kind {
        return Some(block.clone());
    }
    match checker.evaluate(changes, env) {
        Value::Settings(settings) if settings.module == env.module => Some(settings.block.clone()),
        Value::Settings(_) => {
            let text = "these settings are of another file, whose names they read";
            let help = "declare them in this file: `let quick = { steps = 10 }`";
            checker.report(Diagnostic::error(Code::TypeMismatch, changes.span, text).help(help));
            None
        }
        other => {
            let wanted = "`with` changes settings: `with { lr = 1e-4 }`, or their name after `let quick = { lr = 1e-4 }`";
            expected::wrong_kind(checker, changes.span, wanted, &other);
            None
        }
    }
}

fn text<'a>(reporter: &'a Reporter, expr: &Expr) -> &'a str {
    reporter.sources.text(expr.span)
}

/// The declaration of a model or teacher.
struct Declared {
    value: Expr,
    teacher: bool,
    /// That of the names in the value.
    env: Env,
}

/// What declares a model or teacher, by its name or as a member of a family.
fn declared(checker: &mut Checker, base: &Expr, env: &Env) -> Option<Declared> {
    // A stage, or another change, that has no name of its own.
    if matches!(base.kind, ExprKind::Call { .. } | ExprKind::With { .. }) {
        return Some(Declared { value: base.clone(), teacher: false, env: env.clone() });
    }
    let (name, indices) = match (&base.kind, named_member(base)) {
        (ExprKind::Error, _) => return None,
        (_, Some(named)) => named,
        (_, None) => return not_declared(checker, base, env),
    };
    let item = match env.local(name) {
        Some(_) => None,
        None => checker.modules.lookup(env.module, name).map(|declared| declared.item),
    };
    let Some(id) = item.filter(|id| id.module == env.module) else {
        return not_declared(checker, base, env);
    };
    let Some((binding, teacher)) = binding_of(checker, id) else { return not_declared(checker, base, env) };
    if !teacher {
        checker.parts.changed_models.push(binding.value.span);
    }
    let mut inner = env.clone();
    match (&binding.indices[..], &indices[..]) {
        (families, indices) if families.len() == indices.len() => {
            for (family, index) in families.iter().zip(indices) {
                bind_member(checker, name, family, index, env, &mut inner)?;
            }
        }
        ([family, ..], _) if indices.len() < binding.indices.len() => {
            let text = format!("`{name}` is a family: `with` changes one member");
            let example =
                format!("write `model other[{0} in ...] = {name}[{0}] with {{ ... }}`", family.name.text);
            checker.report(Diagnostic::error(Code::TypeMismatch, base.span, text).help(example));
            return None;
        }
        _ => {
            // Says that it is no family.
            checker.evaluate(base, env);
            return None;
        }
    }
    let value = if teacher { with_braces(binding.value) } else { binding.value };
    Some(Declared { value, teacher, env: inner })
}

/// The binding of a model or teacher, and whether it is a teacher.
fn binding_of(checker: &Checker, id: ItemId) -> Option<(Binding, bool)> {
    match &checker.modules.item(id).kind {
        ItemKind::Model(binding) => Some((binding.clone(), false)),
        ItemKind::Teacher { binding, parameters } if parameters.is_empty() => Some((binding.clone(), true)),
        _ => None,
    }
}

/// A teacher's value with the braces that its settings stand in, which may have been left out.
fn with_braces(mut value: Expr) -> Expr {
    let braces =
        Block { span: Span { start: value.span.end, ..value.span }, statements: Vec::new(), broken: false };
    match &mut value.kind {
        ExprKind::With { .. } | ExprKind::Call { block: Some(_), .. } | ExprKind::Error => value,
        ExprKind::Call { block, .. } => {
            *block = Some(braces);
            value
        }
        _ => Expr {
            span: value.span,
            kind: ExprKind::Call { callee: Box::new(value), arguments: Vec::new(), block: Some(braces) },
        },
    }
}

fn not_declared<T>(checker: &mut Checker, base: &Expr, env: &Env) -> Option<T> {
    let value = checker.evaluate(base, env);
    if !value.is_error() {
        let wanted = "`with` changes the settings of a model or teacher that the file declares, by its name";
        expected::wrong_kind(checker, base.span, wanted, &value);
    }
    None
}

/// The name and the indices of `student`, `student[gold]`, `student[gold][sums]`.
pub fn named_member(base: &Expr) -> Option<(&str, Vec<&Expr>)> {
    match &base.kind {
        ExprKind::Name(name) => Some((name, Vec::new())),
        ExprKind::Index { base, index } => {
            let (name, mut indices) = named_member(base)?;
            indices.push(&**index);
            Some((name, indices))
        }
        _ => None,
    }
}

/// Binds the variable of a family to its value in one member, which an index in `outer` picks.
fn bind_member(
    checker: &mut Checker,
    name: &str,
    family: &Index,
    index: &Expr,
    outer: &Env,
    env: &mut Env,
) -> Option<()> {
    let members = turns::members(checker, family, &Env::constant(env.module))?;
    let key = member_key(checker, index, members.iter().filter_map(|(key, _)| key.as_ref()), outer)?;
    let Some((_, member)) = members.into_iter().find(|(member, _)| member.as_ref() == Some(&key)) else {
        let text = format!("`{name}` has no member `{}`", checker.parts.key_text(&key));
        checker.report(Diagnostic::error(Code::UnknownName, index.span, text));
        return None;
    };
    let variable = family.name.text.as_str();
    // The changes and the base read one name.
    let is_other = match env.local(variable) {
        Some(_) => env.turn(variable) != Some(&key),
        None => checker.modules.lookup(env.module, variable).is_some(),
    };
    if is_other {
        let text = format!("`{variable}` is the variable of `{name}`, and another value here");
        let help = "give the variable, or what else has its name, another one";
        checker.report(Diagnostic::error(Code::DuplicateName, family.name.span, text).help(help));
        return None;
    }
    env.bind_turn(variable, key, member.local(variable)?.clone());
    Some(())
}
