//! Objectives: `let`, `state`, `select`, `weight`, and terms.

pub mod live;
mod names;
pub mod pitfalls;
mod reading_order;
mod states;

pub use reading_order::in_reading_order;

use std::rc::Rc;

use rustc_hash::FxHashSet;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Block, Entry, Expr, Index, Name, Statement};
use mopd_experiment::formula::{
    Axis, Formula, FormulaKind, FormulaNode, Live, NamedFormula, PlainSignal, Signal, Unit,
};
use mopd_experiment::{Objective, Reduce, Rollout, Term};

use crate::check::builtins::vocabulary::TermBlock;
use crate::check::checker::Checker;
use crate::check::declarations::ExperimentParts;
use crate::check::formulas::{arithmetic, reduce, temperatures};
use crate::check::read::{declared_type, expected, read, settings, turns};
use crate::check::reporter::Reporter;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::{FamilyMembers, Value};

/// The settings of an objective, checked.
#[derive(Default)]
struct ObjectiveParts<'a> {
    terms: Vec<Term>,
    select: Option<Formula>,
    weight: Option<Formula>,
    temperature: Option<f64>,
    reduce: Option<Reduce>,
    lets: Vec<NamedFormula>,
    seen: Vec<&'a Name>,
    /// Whether something has been reported. Then the objective has no value.
    faulty: bool,
}

/// The settings of one term's block.
#[derive(Default)]
struct TermSettings {
    when: Option<Formula>,
    weight: Option<Formula>,
    reduce: Option<Reduce>,
    data: Option<Rc<Rollout>>,
}

/// The body of an objective whose parameters are bound in `env`.
pub fn objective_body(checker: &mut Checker, name: &Name, body: &Block, env: &Env) -> Option<Objective> {
    let mut outside = env.with_context(EvaluationContext::Objective);
    let mut parts = ObjectiveParts::default();
    // Draws are told apart within one objective.
    checker.stack.draws = 0;
    let (mut terms, mut states): (Vec<&Name>, Vec<states::OpenState>) = Default::default();
    for statement in in_reading_order(body, &checker.sources) {
        match statement {
            Statement::Let { name, index, annotation, value: expr } => {
                names::hides_nothing(checker, name, &outside);
                let value = match index {
                    None => checker.evaluate(expr, &outside),
                    Some(index) => indexed(checker, name, index, expr, &outside),
                };
                let value = declared_type::as_declared(checker, value, annotation.as_ref(), expr.span);
                checker.record(name.span, &value);
                keep_let(&checker.parts, &name.text, &value, &mut parts.lets);
                outside.bind(&name.text, value);
            }
            Statement::State { name, index, first, by, next } => {
                let (index, by, next) = (index.as_ref(), by.as_ref(), next.as_ref());
                let written = states::WrittenState { name, index, by, first, next };
                match states::state_begins(checker, written, &mut outside) {
                    Some(begun) => states.extend(begun),
                    None => parts.faulty = true,
                }
            }
            Statement::Term { name, index, value, block } => {
                if let Some(first) = terms.iter().find(|first| first.text == name.text) {
                    names::report_second_term(checker, name, first);
                    parts.faulty = true;
                    continue;
                }
                names::is_no_other(checker, name, &outside);
                terms.push(name);
                let Some(turns) = term_turns(checker, name, index.as_ref(), &outside) else {
                    parts.faulty = true;
                    continue;
                };
                for (label, env) in turns {
                    let term = term(checker, name, label, value, block.as_ref(), &env);
                    parts.faulty |= term.is_none();
                    parts.terms.extend(term);
                }
            }
            Statement::Entry(entry) => {
                objective_entry(checker, name, entry, &outside, &mut parts);
                if names::is_let(checker, entry) {
                    let value = checker.evaluate(&entry.value, &outside);
                    outside.bind(&entry.key.text, value);
                }
            }
            Statement::Route(route) => {
                let text = "a route belongs to a stage or to the file, not to an objective";
                checker.report(Diagnostic::error(Code::UnknownKey, route.span, text));
                parts.faulty = true;
            }
            Statement::Trains { name, .. } | Statement::Step { name, .. } => {
                let text = "`trains` and `step` belong in a `train { ... }`, not in an objective";
                checker.report(Diagnostic::error(Code::UnknownKey, name.span, text));
                parts.faulty = true;
            }
        }
    }
    objective_is_complete(checker, name, body, &mut parts);
    let begun = states.len();
    let states: Vec<_> =
        states.into_iter().filter_map(|state| states::state_moves(checker, state, &outside)).collect();
    if parts.faulty || states.len() < begun {
        return None;
    }
    let origin = checker.origin(name.span);
    let ObjectiveParts { terms, select, weight, temperature, reduce, lets, .. } = parts;
    let name = name.text.clone();
    let objective = Objective { name, terms, select, weight, temperature, reduce, lets, states, origin };
    if !selected_is_decided(checker, &objective) || !losses_are_of_terms(checker, &objective) {
        return None;
    }
    pitfalls::warn_of_formulas(checker, &objective);
    Some(objective)
}

/// The names and environments of the terms that a statement declares, one for each element of its index.
fn term_turns(
    checker: &mut Checker,
    name: &Name,
    index: Option<&Index>,
    env: &Env,
) -> Option<Vec<(String, Env)>> {
    let Some(index) = index else { return Some(vec![(name.text.clone(), env.clone())]) };
    let turns = turns::members(checker, index, env)?;
    let named = |(key, env)| match key {
        Some(key) => (format!("{}[{}]", name.text, checker.parts.key_text(&key)), env),
        None => (name.text.clone(), env),
    };
    Some(turns.into_iter().map(named).collect())
}

/// Adds a `let` to `lets` if it is a number, or a family of numbers.
fn keep_let(parts: &ExperimentParts, name: &str, value: &Value, lets: &mut Vec<NamedFormula>) {
    match value {
        Value::Formula(formula) => {
            lets.push(NamedFormula { name: name.to_owned(), formula: formula.clone() });
        }
        Value::Family(family) => {
            for (key, member) in &family.members {
                if let Value::Formula(formula) = member {
                    let name = format!("{name}[{}]", parts.key_text(key));
                    lets.push(NamedFormula { name, formula: formula.clone() });
                }
            }
        }
        _ => {}
    }
}

/// Checks that `selected` is read only after the `select` that defines it.
fn selected_is_decided(reporter: &mut Reporter, objective: &Objective) -> bool {
    let read = |formula: &Formula| {
        let parts = formula.parts().into_iter();
        parts.filter(|part| part.0.is(PlainSignal::Selected)).map(|part| part.0.origin).next()
    };
    let diagnostic = match &objective.select {
        Some(select) => read(select).map(|origin| {
            let text = "`select` defines `selected`, so it cannot read it";
            let diagnostic = Diagnostic::error(Code::Cycle, reporter.span(origin), text);
            diagnostic
                .note(reporter.span(select.0.origin), "this decides")
                .help("leave `among: selected` out: within `select`, all trained tokens count")
        }),
        None => objective.formulas().into_iter().find_map(read).map(|origin| {
            let text = format!("nothing is selected: `{}` has no `select`", objective.name);
            let diagnostic = Diagnostic::error(Code::UnknownName, reporter.span(origin), text);
            diagnostic.help("set `select = ...`, or remove `among: selected`: then all trained tokens count")
        }),
    };
    diagnostic.map(|diagnostic| reporter.report(diagnostic)).is_none()
}

/// Checks that `loss.<term>` names a term of the objective.
fn losses_are_of_terms(reporter: &mut Reporter, objective: &Objective) -> bool {
    let names = || objective.terms.iter().map(|term| term.name.as_str());
    let unknown =
        objective.formulas().into_iter().flat_map(Formula::parts).find_map(|part| match &part.0.kind {
            FormulaKind::Signal(Signal::TermLoss { term }) if !names().any(|name| name == term) => {
                Some((term, reporter.span(part.0.origin)))
            }
            _ => None,
        });
    let Some((term, span)) = unknown else { return true };
    let text = format!("`{}` has no term `{term}`", objective.name);
    let diagnostic = Diagnostic::error(Code::UnknownName, span, text);
    reporter.report(match nearest(term, names()) {
        Some(near) => diagnostic.did_you_mean(term, near),
        None => diagnostic.help("`loss` is the loss of all terms together"),
    });
    false
}

fn objective_entry<'a>(
    checker: &mut Checker,
    owner: &Name,
    entry: &'a Entry,
    env: &Env,
    parts: &mut ObjectiveParts<'a>,
) {
    let marks = settings::marks(checker, &entry.marks);
    settings::record_marks(&mut checker.parts, &format!("objective {}", owner.text), &entry.key.text, marks);
    if let Some(first) = parts.seen.iter().find(|first| first.text == entry.key.text) {
        let text = format!("`{}` is set twice", entry.key.text);
        checker.report(
            Diagnostic::error(Code::DuplicateKey, entry.key.span, text).note(first.span, "first set here"),
        );
        return;
    }
    parts.seen.push(&entry.key);
    let good = match entry.key.text.as_str() {
        "select" => {
            parts.select = detached(checker, &entry.value, env, "select", true);
            parts.select.is_some()
        }
        "weight" => {
            parts.weight = detached(checker, &entry.value, env, "weight", false);
            parts.weight.is_some()
        }
        "temperature" => {
            parts.temperature = temperatures::temperature(checker, &entry.value, env, false);
            parts.temperature.is_some()
        }
        "reduce" => {
            parts.reduce = reduce::reduction(checker, &entry.value, env);
            parts.reduce.is_some()
        }
        _ => {
            // `reduction = mean(token)` is read as `reduce`, so that one slip gives one diagnostic.
            if names::unknown_of_objective(checker, entry, env).is_some_and(|meant| meant.key == "reduce") {
                parts.reduce = reduce::reduction(checker, &entry.value, env);
            }
            false
        }
    };
    parts.faulty |= !good;
}

fn objective_is_complete(reporter: &mut Reporter, name: &Name, body: &Block, parts: &mut ObjectiveParts) {
    let has_term = body.statements.iter().any(|statement| match statement {
        Statement::Term { .. } => true,
        Statement::Entry(entry) => names::is_term(reporter, entry),
        _ => false,
    });
    if !has_term && !body.broken {
        reporter.report(
            Diagnostic::error(
                Code::MissingTerm,
                name.span,
                format!("`{}` has no term, so there is nothing to train on", name.text),
            )
            .help("add `term name = ...` with one factor marked `live`"),
        );
    }
    let reduced = parts.reduce.is_some() || parts.seen.iter().any(|key| key.text == "reduce");
    let own = parts.terms.iter().all(|term| term.reduce.is_some()) && !parts.terms.is_empty();
    if !body.broken && !reduced && !own {
        let text = format!("`{}` does not say how tokens are averaged", name.text);
        let source = &reporter.sources.file(name.span.file).text;
        let ways = ["reduce = mean(token) then mean(sequence)", "reduce = mean(token, over: batch)"];
        let diagnostic = Diagnostic::error(Code::MissingReduce, name.span, text)
            .help(format!(
                "add `{}` (every sequence counts alike) or `{}` (every token does)",
                ways[0], ways[1]
            ))
            .choice_of_settings(source, body.span, &ways);
        reporter.report(diagnostic);
        parts.faulty |= has_term;
    }
    if let Some(reduce) = &parts.reduce {
        let values: Vec<Formula> =
            parts.terms.iter().filter(|term| term.reduce.is_none()).map(|term| term.value.clone()).collect();
        for value in &values {
            parts.faulty |= !starts_where_term_is(reporter, value, reduce);
        }
    }
    parts.faulty |= !has_term;
}

/// Checks a term's axis against its `reduce`. A term coarser than the first reduced axis is spread over
/// it; a finer one is an error. A pair of completions has no tokens of its own to be spread over.
fn starts_where_term_is(reporter: &mut Reporter, value: &Formula, reduce: &Reduce) -> bool {
    let start = reduce.steps.first().map_or(Axis::Token, |step| step.elements);
    let pair = value.any(|node| matches!(node.kind, FormulaKind::Live(Live::Preference(_))));
    let axis = value.axis();
    if axis == start || axis < start && !(pair && axis == Axis::Group) {
        return true;
    }
    let (term_span, reduce_span) = (reporter.span(value.0.origin), reporter.span(reduce.origin));
    let text = format!(
        "a term with one number per {}, and a `reduce` that starts from {}s",
        axis.name(),
        start.name()
    );
    let usual = match axis {
        Axis::Group => "mean(group)",
        Axis::Sequence => "mean(sequence)",
        _ => "mean(token) then mean(sequence)",
    };
    reporter.report(
        Diagnostic::error(Code::AxisMismatch, term_span, text)
            .label(format!("one number per {}", axis.name()))
            .note(reduce_span, format!("reduces over `{}`", start.name()))
            .help(format!(
                "let it start from {}s, in a block of the term's own if need be: `{{ reduce = {usual} \
                 }}`",
                axis.name()
            )),
    );
    false
}

/// `let trust[t in panel] = ...`
fn indexed(checker: &mut Checker, name: &Name, index: &Index, value: &Expr, env: &Env) -> Value {
    let mut members = Vec::new();
    let Some(turns) = turns::members(checker, index, env) else { return Value::Error };
    for (key, inner) in turns {
        let Some(key) = key else {
            names::report_no_index(checker, index);
            return Value::Error;
        };
        members.push((key, checker.evaluate(value, &inner)));
    }
    Value::Family(Rc::new(FamilyMembers { name: name.text.clone(), members }))
}

fn term(
    checker: &mut Checker,
    name: &Name,
    label: String,
    value: &Expr,
    block: Option<&Block>,
    env: &Env,
) -> Option<Term> {
    let worth = checker.evaluate(value, &env.with_context(EvaluationContext::Term));
    let formula = expected::formula(checker, worth, value.span);
    let settings = match block {
        Some(block) => term_settings(checker, name, block, formula.as_ref(), env),
        None => Some(TermSettings::default()),
    };
    let formula = formula?;
    checker.record(name.span, &Value::Formula(formula.clone()));
    if formula.unit() == Unit::Bool {
        arithmetic::unit_mismatch(
            checker,
            Spanned::new(&formula, value.span),
            "a term is a number, not a bool",
            None,
        );
        return None;
    }
    if !formula.live() {
        let diagnostic = Diagnostic::error(
            Code::NothingLive,
            value.span,
            format!("the term `{}` carries no gradient", name.text),
        )
        .label("every factor is a plain number")
        .help("mark the factor that should learn: `live student.logp`, `live ratio`, `live kl(...)`");
        // Offered only if `student.logp` occurs once.
        let text = checker.sources.text(value.span);
        let mut places = text.match_indices("student.logp").map(|(at, _)| at);
        let diagnostic = match (places.next(), places.next()) {
            (Some(at), None) => {
                let at = value.span.start + at as u32;
                diagnostic
                    .fix("write `live student.logp`", Span { start: at, end: at, ..value.span }, "live ")
                    .possibly()
            }
            _ => diagnostic,
        };
        checker.report(diagnostic);
        return None;
    }
    let origin = checker.origin(value.span);
    let TermSettings { when, weight, reduce, data } = settings?;
    Some(Term { name: label, value: formula, when, weight, reduce, data, origin })
}

/// `{ when = correct, weight = ..., reduce = ..., data = sample(...) }`
fn term_settings(
    checker: &mut Checker,
    name: &Name,
    block: &Block,
    value: Option<&Formula>,
    env: &Env,
) -> Option<TermSettings> {
    let owner = format!("term {}", name.text);
    let (settings, given) = settings::block::<TermBlock>(checker, Some(block), &owner, block.span);
    settings::keep_marks(&mut checker.parts, &settings, &owner);
    let mut found = TermSettings::default();
    let mut good = true;
    if let Some(when) = given.when {
        found.when = detached(checker, when.expr, env, "when", true);
        good &= found.when.is_some();
    }
    if let Some(weight) = given.weight {
        found.weight = detached(checker, weight.expr, env, "weight", false);
        good &= found.weight.is_some();
    }
    if let Some(reduce) = given.reduce {
        found.reduce = reduce::reduction(checker, reduce.expr, env);
        good &= found.reduce.is_some();
        if let (Some(reduce), Some(value)) = (&found.reduce, value) {
            good &= starts_where_term_is(checker, value, reduce);
        }
    }
    if let Some(data) = given.data {
        found.data = read(checker, data, env);
        good &= found.data.is_some();
    }
    good.then_some(found)
}

/// A weight, a selection or a condition: a number that carries no gradient.
fn detached(checker: &mut Checker, expr: &Expr, env: &Env, key: &str, truth: bool) -> Option<Formula> {
    let value = checker.evaluate(expr, env);
    let formula = expected::formula(checker, value, expr.span)?;
    if truth != (formula.unit() == Unit::Bool) {
        let (message, help) = match truth {
            true => (
                format!("`{key}` needs a bool per token"),
                "compare with a bound, or use `top_fraction(...)`",
            ),
            false => (format!("`{key}` needs a number"), "use `select` for a mask"),
        };
        arithmetic::unit_mismatch(checker, Spanned::new(&formula, expr.span), &message, Some(help));
        return None;
    }
    Some(formula)
}

/// Whether some formula of the objective compares the samples of one prompt. Formulas multiplied by 0 do not
/// count, because a factor of 0 switches a comparison off.
pub fn reads_group(objective: &Objective) -> bool {
    use mopd_experiment::formula::{FormulaKind, Function};
    let zero = |formula: &&Formula| formula.constant() == Some(0.0);
    let mut waiting = objective.formulas();
    let mut seen = FxHashSet::default();
    while let Some(formula) = waiting.pop() {
        if !seen.insert(std::rc::Rc::as_ptr(&formula.0)) {
            continue;
        }
        match &formula.0.kind {
            FormulaKind::Statistic { over: Axis::Group, .. } => return true,
            FormulaKind::Reduce { .. } if formula.axis() == Axis::Group => return true,
            FormulaKind::Apply { function: Function::Multiply, operands }
                if operands.iter().any(|operand| zero(&operand)) => {}
            _ => waiting.extend(formula.operands()),
        }
    }
    false
}

/// The place of the first node of the objective that passes the test.
pub fn first_place(
    reporter: &Reporter,
    objective: &Objective,
    test: impl Fn(&FormulaNode) -> bool,
) -> Option<Span> {
    let parts = objective.formulas().into_iter().flat_map(Formula::parts).filter(|part| test(&part.0));
    parts.map(|part| reporter.span(part.0.origin)).min()
}

/// The place of the first node that passes the test, or of the objective, for a diagnostic's label.
pub fn place_of(reporter: &Reporter, objective: &Objective, test: impl Fn(&FormulaNode) -> bool) -> Span {
    first_place(reporter, objective, test).unwrap_or_else(|| reporter.span(objective.origin))
}
