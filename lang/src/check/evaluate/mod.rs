//! The evaluator: from expressions to values.

pub mod calls;
pub mod items;
mod matches;
mod members;
pub mod overrides;
mod texts;
mod with;

pub use with::named_member;

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{BinaryOperator, Expr, ExprKind, Name, UnaryOperator};
use mopd_experiment::formula::{Axis, CountWord, Formula, FormulaKind, Function, Signal, Unit};
use mopd_experiment::{DomainId, SelfCopy};

use crate::check::checker::{Checker, DEEPEST_CHAIN};
use crate::check::formulas::{arithmetic, logits, signals};
use crate::check::names::modules::ModuleId;
use crate::check::objectives::live;
use crate::check::read::numbers::{self, undecided};
use crate::check::read::{expected, turns};
use crate::check::reporter::Reporter;
use crate::check::suggestions::unknown;
use crate::check::suggestions::unknown_name::{self, all_domains};
use crate::check::values::environment::Env;
use crate::check::values::resolve::{Resolved, resolve};
use crate::check::values::value::{MemberKey, NamedSettings, Value};
use crate::check::{roles, rollouts};

impl Checker {
    pub fn evaluate_constant(&mut self, module: ModuleId, expr: &Expr) -> Value {
        self.evaluate(expr, &Env::constant(module))
    }

    pub fn evaluate(&mut self, expr: &Expr, env: &Env) -> Value {
        if self.cancellation.gives_up() {
            return Value::Error;
        }
        let value = evaluated(self, expr, env);
        match &value {
            Value::Formula(formula) if formula.depth() as usize > DEEPEST_CHAIN => {
                too_deep(self, expr.span, "this formula");
                Value::Error
            }
            _ => value,
        }
    }
}

/// Reports that definitions are nested too deep.
pub fn too_deep(reporter: &mut Reporter, span: Span, what: &str) {
    let text = format!("{what} is made of more than {DEEPEST_CHAIN} definitions, each inside the last");
    let help = "define it with fewer steps in between, or with a loop";
    reporter.report(Diagnostic::error(Code::NestingTooDeep, span, text).help(help));
}

fn evaluated(checker: &mut Checker, expr: &Expr, env: &Env) -> Value {
    match &expr.kind {
        ExprKind::Number { value, suffix } => {
            if suffix.as_ref().is_some_and(|suffix| suffix.text.starts_with("epoch")) {
                let count = numbers::number(checker, *value, Unit::Count, expr.span);
                return numbers::whole(checker, &count, expr.span, "a number of epochs", 1)
                    .map_or(Value::Error, |count| Value::Epochs(count as u32));
            }
            let Some(suffix) = suffix else {
                return numbers::number(checker, *value, Unit::Number, expr.span);
            };
            let origin = checker.origin(expr.span);
            let number = Formula::new(FormulaKind::Number(*value), Unit::Count, Axis::Run, false, origin);
            Value::Formula(number.counting(CountWord::of_literal(&suffix.text, origin)))
        }
        ExprKind::Text(text) if text.contains('{') => texts::filled(checker, text, expr.span, env),
        ExprKind::Text(text) => Value::Text(text.clone()),
        ExprKind::Bool(value) => numbers::truth(checker, *value, expr.span),
        ExprKind::Name(name) => evaluate_name(checker, name, expr.span, env),
        ExprKind::Field { base, field } => signals::field(checker, base, field, expr.span, env),
        ExprKind::Index { base, index } => evaluate_index(checker, base, index, env),
        ExprKind::Call { callee, arguments, block } => {
            calls::call(checker, expr, callee, arguments, block.as_ref(), env)
        }
        ExprKind::With { base, changes } => {
            match with::changed(checker, base, changes, expr.span, false, env) {
                Some((value, env)) => checker.evaluate(&value, &env),
                None => Value::Error,
            }
        }
        ExprKind::Settings(block) => {
            Value::Settings(Rc::new(NamedSettings { block: block.clone(), module: env.module }))
        }
        ExprKind::NamedValues(_) => expected::misplaced(
            checker,
            expr.span,
            "named values belong to a family or a sweep, nothing else",
            "for example `model student[how in { gold: gold(), uld: uld() }] = ...`",
        ),
        ExprKind::List(items) => Value::List(items.iter().map(|item| checker.evaluate(item, env)).collect()),
        ExprKind::Unary { operator, operand } => unary(checker, *operator, operand, expr.span, env),
        ExprKind::Binary { operator, operator_span, left, right } => {
            binary_expression(checker, expr.span, *operator, *operator_span, left, right, env)
        }
        ExprKind::Live(operand) => live::live(checker, operand, expr.span, env),
        ExprKind::Arrow { from, to } => arrow(checker, from, to, expr.span, env),
        ExprKind::Versus { left, right } => {
            let Some(left) = roles::distribution(checker, left, env) else {
                // Names inside are still checked. If the other side is no role either, that is not
                // reported again.
                checker.evaluate(right, env);
                return Value::Error;
            };
            roles::distribution(checker, right, env)
                .map_or(Value::Error, |right| Value::Versus { left, right })
        }
        ExprKind::Then { .. } => expected::misplaced(
            checker,
            expr.span,
            "`then` joins the steps of a `reduce`, and the first and the next value of a `state`",
            "write `reduce = mean(token) then mean(sequence)`, or `state x = 0 then 0.9 * x + 0.1 * y`",
        ),
        ExprKind::By { .. } => expected::misplaced(
            checker,
            expr.span,
            "`by domain` belongs to a `reduce`, nothing else",
            "write `reduce = mean(token, over: batch) by domain { target = 1/3 }`",
        ),
        ExprKind::Where { .. } => expected::misplaced(
            checker,
            expr.span,
            "`where` after a value names parts of a composed teacher, nothing else",
            "in an objective write a `let` above",
        ),
        ExprKind::For { index, carried, body } => match carried {
            None => {
                let turns = turns::turns(checker, index, env);
                Value::List(turns.into_iter().map(|(_, env)| checker.evaluate(body, &env)).collect())
            }
            Some(carried) => {
                let mut value = checker.evaluate(&carried.start, env);
                let turns = turns::turns(checker, index, env);
                let last = turns.len();
                for (turn, (key, mut inner)) in turns.into_iter().enumerate() {
                    if let Some(key) = key
                        && turn + 1 < last
                    {
                        inner.model_name = format!("{}[{}]", env.model_name, checker.parts.key_text(&key));
                    }
                    inner.bind(&carried.name.text, value);
                    value = checker.evaluate(body, &inner);
                }
                value
            }
        },
        ExprKind::Match { arms } => matches::matched(checker, arms, expr.span, env),
        ExprKind::Range { low, high } => range(checker, low, high, expr.span, env),
        ExprKind::Pipe { value, through } => rollouts::pipe(checker, value, through, expr.span, env),
        ExprKind::Error => Value::Error,
    }
}

fn evaluate_name(checker: &mut Checker, name: &str, span: Span, env: &Env) -> Value {
    if let Some(value) = env.local(name) {
        return value.clone();
    }
    match resolve(&checker.modules, env.module, env.context, name) {
        Some(Resolved::OfRun(known)) => signals::value_of_run(checker, known, name, span, env),
        Some(Resolved::Item(item)) => checker.item_value(item, span),
        Some(Resolved::Domains) => Value::List(
            (0..checker.parts.domains.len() as u32).map(|id| Value::Domain(DomainId(id))).collect(),
        ),
        Some(Resolved::Student) => Value::Student(SelfCopy::Current),
        Some(Resolved::Number(value)) => numbers::number(checker, value, Unit::Number, span),
        Some(Resolved::Builtin(builtin)) => Value::Builtin(builtin),
        None => {
            unknown_name::unknown_name(checker, name, span, env);
            Value::Error
        }
    }
}

fn unary(checker: &mut Checker, operator: UnaryOperator, operand: &Expr, span: Span, env: &Env) -> Value {
    let value = checker.evaluate(operand, env);
    if let (UnaryOperator::Negate, Value::Logits(parts)) = (operator, &value) {
        return logits::scaled_logits(checker, parts.clone(), None, -1.0, span);
    }
    let Some(formula) = expected::formula(checker, value, operand.span) else { return Value::Error };
    match operator {
        UnaryOperator::Negate => arithmetic::applied(checker, Function::Negate, formula, span, span),
        UnaryOperator::Not => arithmetic::applied(checker, Function::Not, formula, span, span),
    }
}

/// `1e-3 -> 1e-4` between numbers, `"a" -> "b"` between texts.
fn arrow(checker: &mut Checker, from: &Expr, to: &Expr, span: Span, env: &Env) -> Value {
    let (from, to) = (checker.evaluate(from, env), checker.evaluate(to, env));
    if let (Some(from), Some(to)) = (from.number(), to.number()) {
        return Value::Arrow { from, to };
    }
    if undecided(&from) || undecided(&to) {
        return Value::Error;
    }
    match (from, to) {
        (Value::Text(_), Value::Text(_)) => Value::TextArrow,
        (Value::Error, _) | (_, Value::Error) => Value::Error,
        (from, to) if undecided(&from) || undecided(&to) => Value::Error,
        (from, to) => {
            let odd = if from.number().is_some() { to } else { from };
            expected::wrong_kind(
                checker,
                span,
                "a range `from -> to` needs two numbers known before the run",
                &odd,
            )
        }
    }
}

/// `0..=100`
fn range(checker: &mut Checker, low: &Expr, high: &Expr, span: Span, env: &Env) -> Value {
    let (low, high) = (checker.evaluate(low, env), checker.evaluate(high, env));
    match (low.number(), high.number()) {
        (Some(low), Some(high)) if low <= high => Value::Range { low, high },
        (Some(low), Some(high)) => {
            let text = format!("the range from {low} to {high} is empty");
            checker.report(
                Diagnostic::error(Code::OutOfRange, span, text).help("write the lower end first: `0..=100`"),
            );
            Value::Error
        }
        _ if low.is_error() || high.is_error() || undecided(&low) || undecided(&high) => Value::Error,
        _ => {
            let odd = if low.number().is_some() { high } else { low };
            expected::wrong_kind(
                checker,
                span,
                "a range `low..=high` needs two numbers known before the run",
                &odd,
            )
        }
    }
}

fn evaluate_index(checker: &mut Checker, base: &Expr, index: &Expr, env: &Env) -> Value {
    if let ExprKind::Field { base: owner, field } = &base.kind
        && matches!(&owner.kind, ExprKind::Name(name) if name == "state")
        && let Some(member) = member_of_state(checker, field, index, base.span.to(index.span), env)
    {
        return member;
    }
    let family = match checker.evaluate(base, env) {
        Value::Family(family) => family,
        Value::Error => return Value::Error,
        other => {
            return expected::wrong_kind(
                checker,
                base.span,
                "only a family, such as `model expert[d in domains]`, has members",
                &other,
            );
        }
    };
    // `by["loose"]`
    if let ExprKind::Text(text) = &index.kind
        && family.members.iter().any(|(key, _)| checker.parts.key_text(key) == *text)
    {
        let text = text.clone();
        let diagnostic = Diagnostic::error(
            Code::TypeMismatch,
            index.span,
            "a member is named without quotes, and this is a text",
        );
        let bare = unknown::unquoted(checker, index.span, &text, |_| true);
        checker.report(unknown::without_quotes(diagnostic, bare));
        return Value::Error;
    }
    let keys = family.members.iter().map(|(key, _)| key);
    let Some(key) = member_key(checker, index, keys, env) else { return Value::Error };
    match family.get(&key) {
        Some(value) => value.clone(),
        None => {
            let names: Vec<String> =
                family.members.iter().map(|(key, _)| checker.parts.key_text(key)).collect();
            let what = if matches!(key, MemberKey::Domain(_)) { "the domain " } else { "" };
            let text =
                format!("`{}` has no member for {what}`{}`", family.name, checker.parts.key_text(&key));
            let help = format!("it has: {}", names.join(", "));
            let diagnostic = Diagnostic::error(Code::UnknownName, index.span, text);
            let near = match &index.kind {
                ExprKind::Name(name) => nearest(name, names.iter().map(String::as_str)),
                _ => None,
            };
            let written = checker.sources.text(index.span).to_owned();
            checker.report(match near {
                Some(near) => diagnostic.did_you_mean(&written, near),
                None => diagnostic.help(help),
            });
            Value::Error
        }
    }
}

/// The value of `state.gain[a]` where states are bound and `gain` is a family. `None` in every other place.
fn member_of_state(
    checker: &mut Checker,
    field: &Name,
    index: &Expr,
    span: Span,
    env: &Env,
) -> Option<Value> {
    let family = format!("{}{}[", signals::KNOWN, field.text);
    env.locals.iter().find(|(name, _)| name.starts_with(&family))?;
    let written = checker.sources.text(index.span).to_owned();
    if let Some(value) = signals::stated(checker, &signals::member_name(&field.text, &written), span, env) {
        return Some(value);
    }
    let Some(key) = member_key(checker, index, std::iter::empty(), env) else { return Some(Value::Error) };
    let name = signals::member_name(&field.text, &checker.parts.key_text(&key));
    let member = Name { text: name.clone(), span: field.span };
    signals::stated(checker, &name, span, env)
        .or_else(|| signals::state_of_objective(checker, &member, span, env))
}

/// The member that an index picks of a family with these.
pub(super) fn member_key<'a>(
    checker: &mut Checker,
    index: &Expr,
    mut members: impl Iterator<Item = &'a MemberKey>,
    env: &Env,
) -> Option<MemberKey> {
    if let ExprKind::Name(name) = &index.kind
        && members.any(|key| matches!(key, MemberKey::Name(_)))
    {
        return match env.local(name) {
            Some(_) => env.turn(name).cloned(),
            None => Some(MemberKey::Name(name.as_str().into())),
        };
    }
    let at = checker.evaluate(index, env);
    let key = MemberKey::from_value(&at);
    if key.is_none() {
        let wanted = "a member is picked by its domain, number, teacher or name";
        expected::wrong_kind(checker, index.span, wanted, &at);
    }
    key
}

fn binary_expression(
    checker: &mut Checker,
    span: Span,
    operator: BinaryOperator,
    operator_span: Span,
    left: &Expr,
    right: &Expr,
    env: &Env,
) -> Value {
    let left_value = checker.evaluate(left, env);
    let right_value = checker.evaluate(right, env);
    let equality = matches!(operator, BinaryOperator::Equal | BinaryOperator::NotEqual);
    match (&left_value, &right_value) {
        // `domains == d`
        (Value::List(_), Value::Domain(_))
            if equality && matches!(&left.kind, ExprKind::Name(name) if name == "domains") =>
        {
            checker.report(all_domains(left.span));
            return Value::Error;
        }
        // `domain == "math"`
        (Value::Domain(_) | Value::PromptDomain, Value::Text(text))
        | (Value::Text(text), Value::Domain(_) | Value::PromptDomain)
            if equality =>
        {
            let place = if matches!(left_value, Value::Text(_)) { left.span } else { right.span };
            unknown_name::domain_in_quotes(checker, text, place);
            return Value::Error;
        }
        // Values that are not numbers can be compared, too. If one side is unknown, the other can't be
        // wrong.
        (Value::Error, _) | (_, Value::Error) if equality => return Value::Error,
        (Value::Domain(a), Value::Domain(b)) if equality => {
            return numbers::truth(checker, (a == b) == (operator == BinaryOperator::Equal), span);
        }
        (Value::PromptDomain, Value::Domain(domain)) | (Value::Domain(domain), Value::PromptDomain)
            if equality =>
        {
            let name = checker.parts.domain(*domain).name.as_str().into();
            return compared(checker, Signal::DomainIs { domain: *domain, name }, operator, span);
        }
        (Value::Text(_), Value::Text(_)) if operator == BinaryOperator::Add => {
            let diagnostic = Diagnostic::error(Code::TypeMismatch, span, "texts are not added with `+`");
            checker.report(diagnostic.label("a text is written as a whole").help(
                "write one text in quotes; `{name}` in it is the value of a variable or parameter `name`",
            ));
            return Value::Error;
        }
        // `domain == math or code`
        (_, Value::Domain(_)) if matches!(operator, BinaryOperator::And | BinaryOperator::Or) => {
            let ours = format!("domain == {}", checker.sources.text(right.span));
            let text = "a domain is no condition: each side of `and` and `or` is one";
            let diagnostic = Diagnostic::error(Code::TypeMismatch, right.span, text);
            checker.report(
                diagnostic.help(format!("write `{ours}`")).replace_with(format!("write `{ours}`"), ours),
            );
            return Value::Error;
        }
        (Value::Text(a), Value::Text(b)) if equality => {
            return numbers::truth(checker, (a == b) == (operator == BinaryOperator::Equal), span);
        }
        (Value::Formula(data), Value::Text(text)) | (Value::Text(text), Value::Formula(data)) if equality => {
            if let FormulaKind::Signal(Signal::Data { field }) = &data.0.kind {
                let is = Signal::DataIs { field: field.clone(), text: text.clone() };
                return compared(checker, is, operator, span);
            }
        }
        (Value::Logits(_), _) | (_, Value::Logits(_)) => {
            let (a, b) = (Spanned::new(left_value, left.span), Spanned::new(right_value, right.span));
            return logits::logits_arithmetic(checker, operator, a, b, span);
        }
        _ => {}
    }
    let (Some(a), Some(b)) = (
        expected::formula(checker, left_value, left.span),
        expected::formula(checker, right_value, right.span),
    ) else {
        return Value::Error;
    };
    let (a, b) = (Spanned::new(a, left.span), Spanned::new(b, right.span));
    arithmetic::binary(checker, operator, operator_span, a, b, span)
}

/// Whether two values are equal, which the run decides, or whether they are not.
fn compared(reporter: &mut Reporter, equal: Signal, operator: BinaryOperator, span: Span) -> Value {
    let equal = Formula::signal(equal, reporter.origin(span));
    match operator {
        BinaryOperator::Equal => Value::Formula(equal),
        _ => arithmetic::applied(reporter, Function::Not, equal, span, span),
    }
}
