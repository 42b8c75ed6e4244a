//! Names that have a meaning only inside an objective: roles, signals, and parts of roles.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind, Name};
use mopd_experiment::formula::{
    Axis, Formula, FormulaKind, Function, Live, ModelSignal, NamedSpan, PlainSignal, Role, Signal,
    StepWindow, Unit,
};
use mopd_experiment::{SelfCopy, TeacherWeights};
use mopd_ops::common_unit;

use crate::check::builtins::declare::Arg;
use crate::check::builtins::measures::{Bernoulli, MeasureCall};
use crate::check::builtins::{types, vocabulary};
use crate::check::checker::Checker;
use crate::check::declarations::ExperimentParts;
use crate::check::formulas::arithmetic;
use crate::check::formulas::fractions::{carries_no_gradient, may_lie_within};
use crate::check::read::{expected, read, reads};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::suggestions::foreign::{self, Spelling};
use crate::check::suggestions::{unknown, unknown_name};
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::resolve::NameOfRun;
use crate::check::values::value::Value;

reads! {
    TextSpan => |checker, given, env| span_value(checker, given.expr, env);
}

/// The value of a name of the run.
pub fn value_of_run(reporter: &mut Reporter, known: NameOfRun, name: &str, span: Span, env: &Env) -> Value {
    match known {
        NameOfRun::Role(role) => Value::Role(role),
        NameOfRun::Signal(signal) => read_signal(reporter, signal, span),
        NameOfRun::PromptDomain => Value::PromptDomain,
        NameOfRun::Ratio => ratio(reporter, false, span),
        NameOfRun::StepNumber(number) => {
            read_signal(reporter, Signal::OfSteps { number, window: StepWindow::Now }, span)
        }
        NameOfRun::Unreadable if env.context == EvaluationContext::Guard => {
            unknown_name::no_step_number(reporter, name, span);
            Value::Error
        }
        NameOfRun::Unreadable => {
            let text =
                format!("a divergence is a function of its sides and parameters: it can't read `{name}`");
            let diagnostic = Diagnostic::error(Code::NotADivergence, span, text).label("a signal of the run");
            reporter.report(diagnostic.help("give it a parameter, and the number where it is called"));
            Value::Error
        }
    }
}

pub fn read_signal(reporter: &mut Reporter, signal: impl Into<Signal>, span: Span) -> Value {
    let origin = reporter.origin(span);
    Value::Formula(Formula::signal(signal, origin))
}

/// `reward.turn` is the reward of a turn, so no part of a reward has this name.
pub const TURN: &str = "turn";

/// `student.logp`, `data.level`, `span.answer`, `reward.format`, `self.initial`, `pair.guide`
pub fn field(checker: &mut Checker, base: &Expr, field: &Name, span: Span, env: &Env) -> Value {
    if let ExprKind::Name(name) = &base.kind
        && env.local(name).is_none()
    {
        let known = match name.as_str() {
            "data" => Some(Signal::Data { field: field.text.clone() }),
            "reward" if field.text == TURN => Some(PlainSignal::TurnReward.into()),
            "reward" => Some(Signal::RewardPart { part: field.text.clone() }),
            "span" => match named_span(checker, field) {
                Some(span) => Some(Signal::InSpan(span)),
                None => return Value::Error,
            },
            "loss" if field.text == "validation" => Some(Signal::ValidationLoss),
            "loss" => Some(Signal::TermLoss { term: field.text.clone() }),
            _ => None,
        };
        if let Some(signal) = known {
            let known_for_run = env.context == EvaluationContext::Schedule && signal.axis() == Axis::Run;
            let before = !env.context.has_tokens();
            if before && !known_for_run {
                let text = format!(
                    "`{name}.{}` differs from prompt to prompt: it can be read in an objective only",
                    field.text
                );
                checker.report(Diagnostic::error(Code::TypeMismatch, span, text));
                return Value::Error;
            }
            return read_signal(checker, signal, span);
        }
        if name == "state"
            && let Some(state) = state_of_objective(checker, field, span, env)
        {
            return state;
        }
        if foreign::is_library(name) && checker.modules.lookup(env.module, name).is_none() {
            return unknown::foreign_library(checker, name, field, span);
        }
    }
    let role = match checker.evaluate(base, env) {
        Value::Error => return Value::Error,
        Value::Student(SelfCopy::Current) => return roles::student_copy(checker, field, &[], span, env),
        Value::Model(model) => return roles::joint_member(checker, model, field),
        value @ (Value::Role(_) | Value::Teacher(_)) => {
            if !env.context.has_tokens() {
                let text = "what a teacher says of a token is known inside an objective only";
                checker.report(Diagnostic::error(Code::TypeMismatch, span, text));
                return Value::Error;
            }
            roles::role_of(checker, value, base.span, "a role").expect("a role or a teacher is one")
        }
        other => {
            let text = format!("there is no `{}` in {}", field.text, other.describe());
            let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
            let is_part = vocabulary::PARTS.iter().any(|part| part.name == field.text);
            let diagnostic = match &other {
                // `specialist.math`
                Value::Family(family)
                    if family.members.iter().any(|(key, _)| checker.parts.key_text(key) == field.text) =>
                {
                    let ours = format!("{}[{}]", checker.sources.text(base.span), field.text);
                    diagnostic.fix(format!("write `{ours}`"), span, ours)
                }
                Value::Family(_) if is_part => diagnostic.help(format!(
                    "the teacher that the route chose for a prompt is `teacher`: `teacher.{}`",
                    field.text
                )),
                Value::Text(_) => diagnostic.help(
                    "a text has no methods; `{d}` in a text is the value of the variable or parameter `d`",
                ),
                _ => diagnostic.label("only roles have parts"),
            };
            checker.report(diagnostic);
            return Value::Error;
        }
    };
    if let Some(binding) = expected::binding_of(&checker.parts, &role, &field.text) {
        return Value::Formula(binding);
    }
    if field.text == "dist" {
        return Value::Role(role);
    }
    let Some(part) = part(&checker.parts, &role, &field.text) else {
        if may_have(&checker.parts, &role, field) {
            let origin = checker.origin(span);
            let name = format!("{}.{}", role.name(), field.text);
            let kind = FormulaKind::Variable(name.into());
            return Value::Formula(Formula::new(kind, Unit::Number, Axis::Token, false, origin));
        }
        unknown_part(checker, &role, field);
        return Value::Error;
    };
    read_signal(checker, Signal::Of { role, part }, span)
}

/// Whether a role may have the field: a teacher parameter may be composed, with bindings as fields.
fn may_have(parts: &ExperimentParts, role: &Role, field: &Name) -> bool {
    let Role::Named { teacher, .. } = role else { return false };
    parts.teacher(*teacher).weights == TeacherWeights::Parameter
        && nearest(&field.text, vocabulary::PARTS.iter().map(|part| part.name)).is_none()
}

fn part(parts: &ExperimentParts, role: &Role, name: &str) -> Option<ModelSignal> {
    let part = ModelSignal::find(name)?;
    match (part, role) {
        (ModelSignal::Correct, Role::Named { .. }) => Some(part),
        (ModelSignal::Correct, _) => None,
        (ModelSignal::Confidence, Role::Named { teacher, .. })
            if matches!(
                parts.teacher(*teacher).weights,
                TeacherWeights::Panelist { .. } | TeacherWeights::Parameter
            ) =>
        {
            Some(ModelSignal::StatedConfidence)
        }
        _ => Some(part),
    }
}

fn unknown_part(reporter: &mut Reporter, role: &Role, field: &Name) {
    let text = format!("`{}` has no `{}`", role.name(), field.text);
    let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
    let parts = || vocabulary::PARTS.iter().map(|part| part.name);
    reporter.report(match (foreign::part(&field.text), nearest(&field.text, parts())) {
        (Some(Spelling::Name(ours)), _) => diagnostic
            .help(format!("here it is called `{ours}`"))
            .replace_with(format!("change to `{ours}`"), ours),
        (Some(Spelling::Otherwise(words)), _) => diagnostic.help(words),
        (None, Some(near)) => diagnostic.did_you_mean(&field.text, near),
        (None, None) => diagnostic.help(format!("a role has: {}", parts().collect::<Vec<_>>().join(", "))),
    });
}

/// Any tag is a span; a name close to a usual one is taken for a typo.
fn named_span(reporter: &mut Reporter, field: &Name) -> Option<NamedSpan> {
    let usual = || vocabulary::SPANS.iter().map(|span| span.name);
    if field.text == "final_turn" {
        return Some(NamedSpan::FinalTurn);
    }
    if !usual().any(|name| name == field.text)
        && let Some(near) = nearest(&field.text, usual())
    {
        let diagnostic = Diagnostic::error(
            Code::UnknownField,
            field.span,
            format!("no usual span is called `{}`", field.text),
        );
        reporter.report(diagnostic.did_you_mean(&field.text, near));
        return None;
    }
    Some(NamedSpan::Tag(field.text.clone()))
}

/// `span.answer` where the span itself is meant.
pub fn span_value(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<NamedSpan> {
    match checker.evaluate(expr, env) {
        Value::Formula(formula) => match &formula.0.kind {
            FormulaKind::Signal(Signal::InSpan(span)) => Some(span.clone()),
            _ => {
                expected::wrong_kind(
                    checker,
                    expr.span,
                    "expected a span of the completion, such as `span.answer`",
                    &Value::Formula(formula.clone()),
                );
                None
            }
        },
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "expected a span of the completion, such as `span.answer`",
                &other,
            );
            None
        }
    }
}

/// `exp(student.logp - old.logp)`: how much likelier the updates from this batch have made the token.
pub fn ratio(reporter: &mut Reporter, live: bool, span: Span) -> Value {
    let origin = reporter.origin(span);
    let student = match live {
        true => Formula::new(
            FormulaKind::Live(Live::Part(ModelSignal::Logp)),
            Unit::Logp,
            Axis::Token,
            true,
            origin,
        ),
        false => Formula::signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp }, origin),
    };
    let old = Formula::signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp }, origin);
    let difference = FormulaKind::Apply { function: Function::Subtract, operands: vec![student, old] };
    let difference = Formula::new(difference, Unit::Nats, Axis::Token, live, origin);
    let ratio = FormulaKind::Apply { function: Function::Exp, operands: vec![difference] };
    Value::Formula(Formula::new(ratio, Unit::Ratio, Axis::Token, live, origin))
}

/// `overlap(student, teacher, k: 16)` and the other signals with arguments.
pub fn measure_call(checker: &mut Checker, call: MeasureCall, env: &Env) -> Option<Value> {
    let span = call.written().span;
    if !env.context.has_tokens() {
        let text = "this is a signal of the run: it can be read inside an objective only";
        checker.report(Diagnostic::error(Code::TypeMismatch, span, text));
        return None;
    }
    let signal = match call {
        MeasureCall::Overlap(given) => {
            let (left, right) = (read(checker, given.left, env), read(checker, given.right, env));
            let k = read(checker, given.k, env);
            Signal::Overlap { left: left?, right: right?, k: k? }
        }
        MeasureCall::Mass(given) => {
            let (role, support) = (read(checker, given.role, env), read(checker, given.support, env));
            Signal::Mass { role: role?, support: support? }
        }
        MeasureCall::InNucleus(given) => {
            let (role, p) = (read(checker, given.role, env), read(checker, given.p, env));
            Signal::InNucleus { role: role?, p: p? }
        }
        MeasureCall::Agreement(given) => {
            let (role, samples) = (read(checker, given.role, env), read(checker, given.samples, env));
            let by = read(checker, given.by, env);
            Signal::Agreement { role: role?, samples: samples?, by: by? }
        }
        MeasureCall::Score(given) => {
            let (role, span) = (read(checker, given.role, env), read(checker, given.on, env));
            Signal::SpanScore { role: role?, span: span? }
        }
        MeasureCall::Size(given) => Signal::SupportSize { support: read(checker, given.support, env)? },
        MeasureCall::Available(given) => Signal::Available { role: read(checker, given.role, env)? },
        MeasureCall::Random(given) => random(checker, given.per, env)?,
        MeasureCall::Bernoulli(given) => return bernoulli(checker, given, env),
    };
    Some(read_signal(checker, signal, span))
}

/// `random(per: token)`
fn random(checker: &mut Checker, per: Arg<types::Axis>, env: &Env) -> Option<Signal> {
    let span = per.expr.span;
    let axis = read(checker, per, env)?;
    let refusal = match axis {
        Axis::Run => Some("every step draws anew: for one number per step write `per: batch`"),
        Axis::Block => Some("the objective may decide which tokens are in a block: draw `per: token`"),
        _ => None,
    };
    if let Some(help) = refusal {
        let text = format!("random numbers are not drawn per {}", axis.name());
        checker.report(Diagnostic::error(Code::AxisMismatch, span, text).help(help));
        return None;
    }
    let draw = checker.stack.draws;
    checker.stack.draws += 1;
    Some(Signal::Random { draw, axis })
}

/// `bernoulli(p, per: token)`
fn bernoulli(checker: &mut Checker, given: Bernoulli, env: &Env) -> Option<Value> {
    let (span, place) = (given.call.span, given.p.expr.span);
    let p = read(checker, given.p, env);
    let random = random(checker, given.per, env);
    let (p, random) = (p?, random?);
    if p.unit() != Unit::Prob && common_unit(Unit::Fraction, p.unit()).is_none() {
        let message = "`bernoulli` needs a probability";
        arithmetic::unit_mismatch(checker, Spanned::new(&p, place), message, None);
        return None;
    }
    let help = "read the value without `live`; to train it, weight the loss by it instead";
    let probability = Spanned::new(&p, place);
    if !carries_no_gradient(checker, probability, "the probability of a draw carries no gradient", help) {
        return None;
    }
    let axis = random.axis();
    if p.axis() > axis {
        let text = format!("one draw per {} can't have one probability per {}", axis.name(), p.axis().name());
        let help = format!("write `per: {}`, or reduce the probability", p.axis().name());
        checker.report(Diagnostic::error(Code::AxisMismatch, place, text).help(help));
        return None;
    }
    if !may_lie_within(checker, probability, (0.0, 1.0), "a probability lies between 0 and 1") {
        return None;
    }
    let origin = checker.origin(span);
    let random = Formula::signal(random, origin);
    Some(arithmetic::apply(checker, Function::Less, vec![random, p], Unit::Bool, span))
}

/// The state of this name, where states are bound.
pub fn stated(reporter: &mut Reporter, name: &str, span: Span, env: &Env) -> Option<Value> {
    let Value::Formula(formula) = env.local(&format!("{KNOWN}{name}"))? else { return None };
    let FormulaKind::Signal(signal) = &formula.0.kind else { return None };
    Some(read_signal(reporter, signal.clone(), span))
}

/// The name of a member of a family of states.
pub fn member_name(state: &str, key: &str) -> String {
    format!("{state}[{key}]")
}

/// The prefix under which states are bound in scope, and its marker there. No written name contains a dot.
pub const KNOWN: &str = "state.";

/// The value of `state.gap` in a setting that reads states. `None` in every other place.
pub fn state_of_objective(reporter: &mut Reporter, field: &Name, span: Span, env: &Env) -> Option<Value> {
    // The objective has been reported.
    if env.local(KNOWN)?.is_error() {
        return Some(Value::Error);
    }
    if let Some(value) = stated(reporter, &field.text, span, env) {
        return Some(value);
    }
    let known: Vec<String> = env
        .locals
        .iter()
        .filter_map(|(name, _)| name.strip_prefix(KNOWN))
        .filter(|name| !name.is_empty())
        .map(|name| format!("`{name}`"))
        .collect();
    let text = format!("the objective of this stage has no state `{}`", field.text);
    let help = match known.is_empty() {
        true => "it has none: write `state gap = 1 by domain then ...` in it".to_owned(),
        false => format!("it has {}", known.join(", ")),
    };
    reporter.report(Diagnostic::error(Code::UnknownField, field.span, text).help(help));
    Some(Value::Error)
}
