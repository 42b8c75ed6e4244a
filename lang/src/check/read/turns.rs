//! The elements of `d in domains`, `r in 0..=26`, `t in panel`.

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{ExprKind, Index, NamedValue};
use mopd_experiment::formula::Unit;

use crate::check::builtins::reserved::is_reserved;
use crate::check::builtins::vocabulary;
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::read::{expected, numbers};
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::{FamilyMembers, MemberKey, Value};

/// One environment per element of `d in domains`, `r in 0..=26`, `t in panel`.
pub fn turns(checker: &mut Checker, index: &Index, env: &Env) -> Vec<(Option<MemberKey>, Env)> {
    if !checker.spend(0, index.over.span) {
        return Vec::new();
    }
    let name = &index.name;
    if vocabulary::signal(&name.text).is_some() || is_reserved(&name.text) {
        let text = format!("`{}` is a built-in name already: every objective can read it", name.text);
        let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
        checker.report(
            diagnostic.label("can't iterate over a list").help("choose another name, such as `d` or `t`"),
        );
    } else if env.local(&name.text).is_some() {
        let text = format!("`{}` is a parameter, a `let` or a variable already", name.text);
        let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
        checker.report(diagnostic.label("would hide it in here").help("choose another name"));
    }
    if let ExprKind::NamedValues(values) = &index.over.kind {
        return named_turns(checker, index, values, env);
    }
    let items = match checker.evaluate(&index.over, env) {
        Value::List(items) => items,
        Value::Panel(panel) => {
            let members = checker.parts.panels[panel.0 as usize].members.clone();
            members.into_iter().map(Value::Teacher).collect()
        }
        Value::Family(family) => return family_turns(checker, index, &family, env),
        Value::Range { low, high } => {
            if low.fract() != 0.0 || high - low >= 10_000.0 {
                let text = "a range to iterate over has whole numbers, at most 10,000 of them";
                checker.report(Diagnostic::error(Code::OutOfRange, index.over.span, text));
                return Vec::new();
            }
            (0..=(high - low) as u64)
                .map(|step| numbers::number(checker, low + step as f64, Unit::Count, index.over.span))
                .collect()
        }
        Value::Error => return Vec::new(),
        other => {
            let wanted = "`in` needs a list, such as `domains`, `[math, code]` or `0..=26`";
            expected::wrong_kind(checker, index.over.span, wanted, &other);
            return Vec::new();
        }
    };
    if !checker.spend(items.len(), index.over.span) {
        return Vec::new();
    }
    let turn = |item: Value| {
        let key = MemberKey::from_value(&item);
        let mut inner = env.clone();
        match &key {
            Some(key) => inner.bind_turn(&index.name.text, key.clone(), item),
            None => inner.bind(&index.name.text, item),
        }
        (key, inner)
    };
    items.into_iter().map(turn).collect()
}

/// One environment per named value. It may be a schedule, as an argument may.
fn named_turns(
    checker: &mut Checker,
    index: &Index,
    values: &[NamedValue],
    env: &Env,
) -> Vec<(Option<MemberKey>, Env)> {
    if values.is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, index.over.span, "there is no value in here"));
    }
    if !checker.spend(values.len(), index.over.span) {
        return Vec::new();
    }
    let outer = match env.context {
        EvaluationContext::Constant => env.with_context(EvaluationContext::Schedule),
        _ => env.clone(),
    };
    let turn = |named: &NamedValue| {
        let key = MemberKey::Name(named.name.text.as_str().into());
        let value = checker.evaluate(&named.value, &outer);
        let mut inner = env.clone();
        inner.bind_turn(&index.name.text, key.clone(), value);
        (Some(key), inner)
    };
    values.iter().map(turn).collect()
}

/// One environment per member of a family, with its key.
fn family_turns(
    checker: &mut Checker,
    index: &Index,
    family: &FamilyMembers,
    env: &Env,
) -> Vec<(Option<MemberKey>, Env)> {
    if !checker.spend(family.members.len(), index.over.span) {
        return Vec::new();
    }
    let turn = |(key, member): &(MemberKey, Value)| {
        let mut inner = env.clone();
        inner.bind_turn(&index.name.text, key.clone(), member.clone());
        (Some(key.clone()), inner)
    };
    family.members.iter().map(turn).collect()
}

/// The elements of an index that names members: `[d in domains]`. A repeated element would give two
/// members one name.
pub fn members(checker: &mut Checker, index: &Index, env: &Env) -> Option<Vec<(Option<MemberKey>, Env)>> {
    let turns = turns(checker, index, env);
    (!repeats(checker, index, &turns, "member")).then_some(turns)
}

/// Whether an element is in the list of an index twice, so that what is made of it, the `what`, would be
/// there twice. Reports it.
pub fn repeats(
    declarations: &mut Declarations,
    index: &Index,
    turns: &[(Option<MemberKey>, Env)],
    what: &str,
) -> bool {
    let mut known: FxHashMap<MemberKey, usize> = FxHashMap::default();
    for (at, (key, _)) in turns.iter().enumerate() {
        let Some(key) = key else { continue };
        let Some(first) = known.insert(key.clone(), at) else { continue };
        let name = declarations.parts.key_text(key);
        let text = format!("`{name}` is in this list twice, and its {what} would be too");
        let place = |at: usize| match &index.over.kind {
            ExprKind::List(items) => items.get(at).map(|item| item.span),
            ExprKind::NamedValues(values) => values.get(at).map(|named| named.name.span),
            _ => None,
        };
        let diagnostic = Diagnostic::error(Code::DuplicateName, place(at).unwrap_or(index.over.span), text);
        let diagnostic = match place(first) {
            Some(first) => diagnostic.label("again here").note(first, "first here"),
            None => diagnostic,
        };
        declarations.report(diagnostic.help("name each of them once"));
        return true;
    }
    false
}
