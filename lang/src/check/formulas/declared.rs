//! Declared divergences, of the standard library or the author: their arguments, their summand, and whether
//! the summand makes a divergence. [`mopd_experiment::formula::Summand`] defines their meaning.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, DivergenceItem, Expr, ExprKind, Name, Parameter};
use mopd_experiment::StageStep;
use mopd_experiment::formula::{
    Axis, DeclaredType, Distribution, DivergenceKind, Formula, FormulaKind, Function, GivenParameter, Side,
    SideProbability, Summand, SummandProperties, Unit, detached, with_number,
};

use crate::check::builtins::{Builtin, BuiltinKind};
use crate::check::checker::Checker;
use crate::check::formulas::arithmetic;
use crate::check::formulas::divergences::{self, COMMON, DivergenceSettings};
use crate::check::formulas::properties::{self, DivergenceDefect, facts};
use crate::check::formulas::ranges::possible_values;
use crate::check::formulas::uniform;
use crate::check::names::modules::ItemId;
use crate::check::read::arguments::{self, Slots};
use crate::check::read::{expected, numbers};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// The number of parameters that are sides: leading bare names, at most two, or one of a `sum`.
pub fn sides(declared: &DivergenceItem) -> usize {
    let bare = |parameter: &&Parameter| parameter.annotation.is_none() && parameter.default.is_none();
    let most = if declared.is_sum { 1 } else { 2 };
    declared.parameters.iter().take(most).take_while(bare).count()
}

/// The names of a call's arguments that are its sides: one, a pair, or two.
fn side_names(is_sum: bool, directed: bool) -> &'static [&'static str] {
    match (is_sum, directed) {
        (true, _) => &["role"],
        (false, true) => &["pair"],
        (false, false) => &["left", "right"],
    }
}

/// The parameters of a call besides its sides, bound in `inner`.
#[allow(clippy::too_many_arguments)]
fn own_parameters(
    checker: &mut Checker,
    name: &Name,
    own: &[Parameter],
    given: &[Option<&Expr>],
    span: Span,
    env: &Env,
    inner: &mut Env,
) -> Option<Vec<GivenParameter>> {
    let arguments = own.iter().zip(given).filter_map(|(parameter, value)| {
        Some(Argument { name: Some(parameter.name.clone()), value: (*value)?.clone() })
    });
    let arguments: Vec<Argument> = arguments.collect();
    checker.bind_parameters(name, own, &arguments, span, env, inner);
    let mut bound = Vec::new();
    for (parameter, expr) in own.iter().zip(given) {
        let place = expr.map_or(span, |expr| expr.span);
        let value = inner.local(&parameter.name.text)?.clone();
        let mut value = expected::formula(checker, value, place)?;
        let name = &parameter.name.text;
        // What differs from token to token is checked in the run.
        let moves = value.0.declared.is_some() || value.axis() > Axis::Run;
        if moves && value.unit() == Unit::Fraction {
            let parameter = format!("`{name}`").into();
            value = value.declared(DeclaredType { parameter, low: 0.0, high: 1.0 });
            inner.bind(name, Value::Formula(value.clone()));
        }
        if value.live() {
            let text = format!("`{name}` carries no gradient: gradient flows through the two sides");
            checker.report(
                Diagnostic::error(Code::NotDifferentiable, place, text).help("read the value without `live`"),
            );
            return None;
        }
        let usual =
            parameter.default.as_ref().map(|default| checker.evaluate_constant(inner.module, default));
        let usual = usual.and_then(|usual| usual.constant());
        let default = expr.is_none() || usual.is_some() && usual == value.constant();
        bound.push(GivenParameter { name: name.clone(), value, default });
    }
    Some(bound)
}

/// A call of a declared divergence: `squeezed(teacher || student, support: ...)`.
pub fn call_divergence(
    checker: &mut Checker,
    id: ItemId,
    declared: &DivergenceItem,
    arguments: &[Argument],
    span: Span,
    env: &Env,
    mut inner: Env,
) -> Value {
    let DivergenceItem { name, is_sum, directed, parameters, .. } = declared;
    let in_entry = env.context == EvaluationContext::Entry;
    if !in_entry && divergences::outside_objective(checker, span, env) {
        return Value::Error;
    }
    let (sides, own) = parameters.split_at(sides(declared));
    let directed = *directed || sides.len() < 2;
    let side_names = side_names(*is_sum, directed);
    let common: &[&str] = if in_entry { &[] } else { &COMMON };
    let own_names = own.iter().map(|parameter| parameter.name.text.as_str());
    let names: Vec<&str> =
        side_names.iter().copied().chain(own_names).chain(common.iter().copied()).collect();
    let Slots { given, misplaced } =
        arguments::slots(checker, &name.text, &names, arguments, Some(name.span));
    if !misplaced.is_empty() {
        return Value::Error;
    }
    let (sides_given, given) = given.split_at(side_names.len());
    let (own_given, common_given) = given.split_at(own.len());
    if !directed && let Some(Expr { kind: ExprKind::Versus { left, right }, span: pair }) = sides_given[0] {
        let [left, right] = [left, right].map(|side| checker.sources.text(side.span));
        let ours = format!("{left}, {right}");
        let text = format!("the sides of `{}` are separated by a comma", name.text);
        checker.report(
            Diagnostic::error(Code::TypeMismatch, *pair, text)
                .label("`||` separates the sides of divergences in which their order matters, such as `kl`")
                .fix(format!("write `{ours}`"), *pair, ours),
        );
        return Value::Error;
    }
    if let Some(missing) = side_names.iter().zip(sides_given).find(|(_, given)| given.is_none()) {
        report_missing_side(checker, &name.text, missing.0, directed, span);
        return Value::Error;
    }
    let written: Vec<&Expr> = sides_given.iter().flatten().copied().collect();
    if in_entry {
        let pair = match written.as_slice() {
            [of] if *is_sum => [*of, *of],
            [left, right] => [*left, *right],
            [Expr { kind: ExprKind::Versus { left, right }, .. }] => [&**left, &**right],
            _ => {
                let text = format!("`{}` needs both numbers and their order: `{0}(p || q)`", name.text);
                checker.report(Diagnostic::error(Code::TypeMismatch, span, text));
                return Value::Error;
            }
        };
        let Some(pair) = numbers_of_entry(checker, pair, env) else { return Value::Error };
        let bound = own_parameters(checker, name, own, own_given, span, env, &mut inner);
        if bound.is_none() {
            return Value::Error;
        }
        let value = at_entry(checker, declared, sides, pair, &inner);
        return value.map_or(Value::Error, Value::Formula);
    }
    let compared = match written.as_slice() {
        [left, right] => Some((*left, *right)),
        [Expr { kind: ExprKind::Versus { left, right }, .. }] => Some((&**left, &**right)),
        _ => None,
    };
    if let Some((left, right)) = compared
        && let Some((side, other)) = uniform::uniform_side(checker, left, right, env)
    {
        let bound = own_parameters(checker, name, own, own_given, span, env, &mut inner);
        let Some(bound) = bound else { return Value::Error };
        let Some(summand) = summand(checker, id, declared, bound, &inner) else { return Value::Error };
        return uniform::finish(checker, summand, side, other, settings(common_given), span, env);
    }
    let pair = match written.as_slice() {
        // What is compared with nothing has a side that nothing reads.
        [of] if *is_sum => roles::distribution(checker, of, env).map(|of| {
            let unread = Distribution::Role(of.roles().swap_remove(0));
            (of, Distribution::Detached(Box::new(unread)))
        }),
        [left, right] => {
            let [left, right] = [left, right].map(|side| roles::distribution(checker, side, env));
            left.zip(right)
        }
        [pair, ..] => divergences::sides(checker, pair, None, &name.text, env),
        [] => unreachable!("a side is there"),
    };
    let bound = own_parameters(checker, name, own, own_given, span, env, &mut inner);
    let (Some((left, right)), Some(bound)) = (pair, bound) else { return Value::Error };
    let Some(summand) = summand(checker, id, declared, bound, &inner) else { return Value::Error };
    if summand.facts.zero && summand.facts.divergence {
        let place = own_given.iter().flatten().next().map_or(span, |expr| expr.span);
        report_zero_everywhere(checker, &summand, place);
        return Value::Error;
    }
    let kind = DivergenceKind::Entrywise(Rc::new(summand));
    divergences::finish_divergence(checker, kind, left, right, settings(common_given), span, env)
}

/// What every divergence takes, which comes last.
fn settings<'e>(given: &[Option<&'e Expr>]) -> DivergenceSettings<'e> {
    let &[support, mass, temperature, clip_each] = given else {
        unreachable!("what every divergence takes comes last")
    };
    DivergenceSettings { support, mass, temperature, clip_each }
}

fn report_missing_side(reporter: &mut Reporter, name: &str, side: &str, directed: bool, span: Span) {
    let usage = match side {
        "role" => format!("{name}(student)"),
        _ => format!("{name}(teacher{}student)", if directed { " || " } else { ", " }),
    };
    let text = match side {
        "pair" => format!("`{name}` needs its two sides"),
        "role" => format!("`{name}` needs the role whose probabilities it sums"),
        side => format!("`{name}` needs `{side}`"),
    };
    let diagnostic = Diagnostic::error(Code::MissingArgument, span, text).label("not given here");
    reporter.report(diagnostic.help(format!("write `{usage}`")));
}

/// Reports a divergence that its parameters make 0.
fn report_zero_everywhere(reporter: &mut Reporter, summand: &Summand, span: Span) {
    let number = |given: &GivenParameter| Some(format!("{} = {}", given.name, given.value.constant()?));
    let with: Vec<String> =
        summand.parameters.iter().filter(|given| !given.default).filter_map(number).collect();
    let with = if with.is_empty() { String::new() } else { format!(" with {}", with.join(", ")) };
    let text = format!("`{}`{with} is 0 everywhere", summand.name);
    reporter.report(
        Diagnostic::error(Code::OutOfRange, span, text)
            .label("teaches nothing")
            .help("choose another value: the one that was meant may be a `kl`, in one of its directions"),
    );
}

fn numbers_of_entry(checker: &mut Checker, sides: [&Expr; 2], env: &Env) -> Option<[Formula; 2]> {
    let [left, right] = sides.map(|side| {
        let value = checker.evaluate(side, env);
        expected::formula(checker, value, side.span)
    });
    Some([left?, right?])
}

/// `kl(p || q)` inside a summand: its value at this vocabulary entry.
pub fn kl_of_entry(checker: &mut Checker, pair: &Expr, span: Span, env: &Env) -> Value {
    let ExprKind::Versus { left, right } = &pair.kind else {
        let text = "`kl` needs both numbers and their order: `kl(p || q)`";
        checker.report(Diagnostic::error(Code::TypeMismatch, pair.span, text));
        return Value::Error;
    };
    let Some([left, right]) = numbers_of_entry(checker, [left, right], env) else { return Value::Error };
    Value::Formula(kl_at(checker, left, right, span))
}

pub fn kl_at(reporter: &mut Reporter, left: Formula, right: Formula, span: Span) -> Formula {
    let origin = reporter.origin(span);
    let apply = |function, operands, unit| {
        Formula::new(FormulaKind::Apply { function, operands }, unit, Axis::Run, false, origin)
    };
    let ratio = apply(Function::Divide, vec![left.clone(), right], Unit::Ratio);
    let log = apply(Function::Log, vec![ratio], Unit::Nats);
    apply(Function::Multiply, vec![left, log], Unit::Number)
}

/// Both sides' probabilities of an entry.
pub fn sides_at_entry(reporter: &mut Reporter, span: Span) -> [Formula; 2] {
    let origin = reporter.origin(span);
    [Side::Left, Side::Right].map(|side| {
        let entry = FormulaKind::Entry(SideProbability { side, detached: false });
        Formula::new(entry, Unit::Prob, Axis::Run, false, origin)
    })
}

/// `detached(log(p / q))` inside a summand.
pub fn detached_of_entry(checker: &mut Checker, inner: &Expr, env: &Env) -> Value {
    let value = checker.evaluate(inner, env);
    let value = expected::formula(checker, value, inner.span);
    value.map_or(Value::Error, |value| Value::Formula(detached(&value)))
}

/// Reports an expression that needs more than the current vocabulary entry.
pub fn beyond_entry(reporter: &mut Reporter, what: &str, span: Span) -> Value {
    let text =
        format!("a divergence is a sum of one number per vocabulary entry, and `{what}` looks beyond it");
    reporter.report(
        Diagnostic::error(Code::NotADivergence, span, text).label("not a function of one entry").help(
            "`p` and `q` are both sides' probabilities of an entry; the sum over the entries is implied",
        ),
    );
    Value::Error
}

/// The usage of a built-in that can't be evaluated at one vocabulary entry. `None` where it can.
pub fn not_at_entry(builtin: &Builtin, given: &[Argument]) -> Option<&'static str> {
    let along = given.iter().any(|argument| argument.name.as_ref().is_some_and(|name| name.text == "over"));
    let beyond = match builtin.kind {
        BuiltinKind::Reduce(_)
        | BuiltinKind::Median
        | BuiltinKind::Statistic(_)
        | BuiltinKind::Scan(_)
        | BuiltinKind::Memory(_) => true,
        BuiltinKind::Extreme(..) => along,
        _ => false,
    };
    beyond.then_some(builtin.name)
}

/// The body with numbers in place of its sides.
fn at_entry(
    checker: &mut Checker,
    declared: &DivergenceItem,
    sides: &[Parameter],
    pair: [Formula; 2],
    env: &Env,
) -> Option<Formula> {
    // A body that calls itself is reported at once.
    checker.stack.calling.push(declared.name.span);
    let value = body_at_entry(checker, declared.is_sum, sides, pair, &declared.body, env);
    checker.stack.calling.pop();
    value
}

fn body_at_entry(
    checker: &mut Checker,
    is_sum: bool,
    sides: &[Parameter],
    pair: [Formula; 2],
    body: &Expr,
    env: &Env,
) -> Option<Formula> {
    let mut inner = env.with_context(EvaluationContext::Entry);
    let [p, q] = pair;
    let origin = checker.origin(body.span);
    let apply = |function, operands, unit| {
        Formula::new(FormulaKind::Apply { function, operands }, unit, Axis::Run, false, origin)
    };
    match sides {
        [left, right] => {
            inner.bind(&left.name.text, Value::Formula(p));
            inner.bind(&right.name.text, Value::Formula(q));
        }
        [of] if is_sum => inner.bind(&of.name.text, Value::Formula(p)),
        [u] => {
            let ratio = apply(Function::Divide, vec![p, q.clone()], Unit::Ratio);
            inner.bind(&u.name.text, Value::Formula(ratio));
            let value = checker.evaluate(body, &inner);
            let value = expected::formula(checker, value, body.span)?;
            return Some(apply(Function::Multiply, vec![q, value], Unit::Number));
        }
        _ => return None,
    }
    let value = checker.evaluate(body, &inner);
    let value = expected::formula(checker, value, body.span)?;
    if value.unit() == Unit::Bool {
        let text = match is_sum {
            true => "a `sum` adds a number at every vocabulary entry",
            false => "a divergence adds a number at every vocabulary entry",
        };
        arithmetic::unit_mismatch(
            checker,
            Spanned::new(&value, body.span),
            text,
            Some("use `where(condition, then, else)`"),
        );
        return None;
    }
    Some(value)
}

/// The summand of a declaration and its properties. Reports a summand that makes no divergence.
pub fn summand(
    checker: &mut Checker,
    id: ItemId,
    declared: &DivergenceItem,
    given: Vec<GivenParameter>,
    env: &Env,
) -> Option<Summand> {
    let DivergenceItem { name, is_sum, directed, parameters, body } = declared;
    let sides = &parameters[..sides(declared)];
    if sides.is_empty() && *is_sum {
        let text = format!("`{}` needs a name for the probability of an entry", name.text);
        let span = parameters.first().map_or(name.span, |first| first.name.span);
        let diagnostic = Diagnostic::error(Code::NotADivergence, span, text);
        checker.report(diagnostic.help(format!("write `sum {}(q) = -q * log(q)`", name.text)));
        return None;
    }
    if sides.is_empty() || *directed && sides.len() < 2 {
        let text = format!("`{}` needs its sides: two names, or one for their ratio", name.text);
        let span = parameters.first().map_or(name.span, |first| first.name.span);
        let diagnostic = Diagnostic::error(Code::NotADivergence, span, text);
        checker.report(diagnostic.help(format!("write `divergence {}(p || q) = p * log(p / q)`", name.text)));
        return None;
    }
    let [left, right] = sides_at_entry(checker, name.span);
    let value = at_entry(checker, declared, sides, [left, right], env)?;
    // Arguments are checked at their uses; a live number is the only one that can get here.
    if value.any(|node| matches!(node.kind, FormulaKind::Live(_))) {
        return None;
    }
    let is_generator = sides.len() == 1 && !is_sum;
    if is_generator && !properties::is_generator(checker, name, &sides[0], &value, body) {
        return None;
    }
    let directed = *directed || is_generator;
    let mut found = SummandProperties { divergence: true, never_negative: true, most: 0.0, zero: true };
    let tried = at_possible_parameters(&value, &given);
    for (value, step) in tried.iter().flat_map(|value| (0..3).map(move |step| (value, step))) {
        let Some((here, flaw)) = facts(value, StageStep { step, steps: 3 }) else {
            found = SummandProperties::UNKNOWN;
            break;
        };
        found = SummandProperties {
            divergence: found.divergence && here.divergence,
            never_negative: found.never_negative && here.never_negative,
            most: found.most.max(here.most),
            zero: found.zero && here.zero,
        };
        // A generator has been checked already.
        if let Some(flaw) = flaw.filter(|_| !is_generator) {
            let fatal = matches!(flaw, DivergenceDefect::NotFinite { .. });
            match flaw {
                DivergenceDefect::NotFinite { p, value, .. } if *is_sum => {
                    properties::report_infinite_sum(checker, name, &sides[0], body, p, value);
                }
                _ if *is_sum => {}
                flaw => properties::report_flaw(checker, name, sides, body, flaw),
            }
            if fatal {
                return None;
            }
        }
    }
    // Nothing is compared, so that it is 0 nowhere in particular.
    if *is_sum {
        found = SummandProperties { divergence: false, zero: false, most: f64::INFINITY, ..found };
    }
    let standard = checker.modules.is_standard(id.module);
    Some(Summand {
        name: name.text.clone(),
        is_sum: *is_sum,
        uniform: None,
        directed,
        standard,
        parameters: given,
        value,
        facts: found,
    })
}

/// The summand with numbers in place of the parameters that only the run decides: some of the values that
/// they can have. An end of these may never be reached.
fn at_possible_parameters(value: &Formula, given: &[GivenParameter]) -> Vec<Formula> {
    let moving: Vec<&GivenParameter> = given.iter().filter(|given| given.reads_the_run()).collect();
    if moving.is_empty() {
        return vec![value.clone()];
    }
    let with_share = |share: f64| {
        moving.iter().fold(value.clone(), |value, given| match possible_values(&given.value) {
            (low, high) if low.is_finite() && high.is_finite() => {
                with_number(&value, &given.value, low + share * (high - low))
            }
            _ => value,
        })
    };
    [0.05, 0.5, 0.95].map(with_share).into()
}

/// Checks a declaration on its own. A fraction is tried at one half, where a family like `jsd` is
/// symmetric.
pub fn divergence_item(checker: &mut Checker, id: ItemId, declared: &DivergenceItem, env: &Env) {
    let DivergenceItem { name, parameters, .. } = declared;
    let mut inner = env.clone();
    for parameter in &parameters[sides(declared)..] {
        if parameter.annotation.as_ref().is_some_and(|annotation| annotation.text == "fraction") {
            let half = numbers::number(checker, 0.5, Unit::Fraction, parameter.name.span);
            inner.bind(&parameter.name.text, half);
        }
    }
    let Some(summand) = summand(checker, id, declared, Vec::new(), &inner) else { return };
    if summand.is_sum || summand.directed || properties::is_symmetric(&summand.value) {
        return;
    }
    let text = format!("the order of the sides of `{}` makes a difference", name.text);
    let [p, q] = [&parameters[0].name, &parameters[1].name];
    let span = p.span.to(q.span);
    let ours = format!("{} || {}", p.text, q.text);
    checker.report(
        Diagnostic::error(Code::NotADivergence, span, text)
            .label("written with a comma, which is for symmetric divergences")
            .help(format!("write `{0}({ours})`, and call it `{0}(teacher || student)`", name.text))
            .fix(format!("write `{ours}`"), span, ours),
    );
}
