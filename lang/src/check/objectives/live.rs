//! The operands of `live`: the student's own numbers, divergences with the student in them, and losses on
//! pairs and targets.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Argument, Expr, ExprKind};
use mopd_experiment::formula::{
    Axis, Divergence, Formula, FormulaKind, Live, ModelSignal, NamedSpan, Preference, PreferenceKind, Role,
    Signal,
};
use mopd_experiment::{Rollout, RolloutSource, are_exchanged};

use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::losses::LossCall;
use crate::check::builtins::{self, Builtin, BuiltinKind, types};
use crate::check::checker::Checker;
use crate::check::formulas::signals;
use crate::check::read::{arguments, expected, read};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// `live student.logp`, `live ratio`, `live kl(...)`, `live dpo(...)`
pub fn live(checker: &mut Checker, operand: &Expr, span: Span, env: &Env) -> Value {
    if env.context != EvaluationContext::Term {
        let in_let = is_in_let(checker, span);
        checker.report(outside_term(operand, span, in_let));
        // Without `live` it is a plain number.
        return checker.evaluate(operand, env);
    }
    match &operand.kind {
        ExprKind::Name(name) if name == "ratio" => return signals::ratio(checker, true, span),
        ExprKind::Call { callee, arguments, .. } => {
            if let ExprKind::Name(name) = &callee.kind
                && let Some(builtin) = builtins::find_loss(name)
            {
                return loss(checker, builtin, arguments, span, env);
            }
        }
        _ => {}
    }
    let formula = match checker.evaluate(operand, env) {
        Value::Formula(formula) => formula,
        Value::Error => return Value::Error,
        Value::Role(role) => {
            expected::formula(checker, Value::Role(role), operand.span);
            return Value::Error;
        }
        other => {
            return expected::wrong_kind(
                checker,
                operand.span,
                "`live` marks `student.logp`, `ratio` or a divergence",
                &other,
            );
        }
    };
    match differentiable(&formula, span) {
        Ok(live) => primitive(checker, live, span),
        Err(diagnostic) => {
            checker.report(*diagnostic);
            Value::Error
        }
    }
}

/// Whether a place is in the value of a `let`, judged by the text before it.
fn is_in_let(reporter: &Reporter, span: Span) -> bool {
    let before = &reporter.sources.file(span.file).text[..span.start as usize];
    let words = before.lines().rev().filter_map(|line| line.split_whitespace().next());
    let begins = |word: &&str| {
        [
            "let",
            "term",
            "state",
            "select",
            "weight",
            "when",
            "reduce",
            "objective",
            "fn",
            "pub",
            "model",
            "stage",
            "teacher",
            "route",
            "compare",
            "dataset",
            "filter",
            "experiment",
            "param",
        ]
        .contains(word)
    };
    words.into_iter().find(begins) == Some("let")
}

fn primitive(reporter: &mut Reporter, live: Live, span: Span) -> Value {
    let origin = reporter.origin(span);
    let (unit, axis) = (live.unit(), live.axis());
    Value::Formula(Formula::new(FormulaKind::Live(live), unit, axis, true, origin))
}

fn loss(
    checker: &mut Checker,
    builtin: &'static Builtin,
    arguments: &[Argument],
    span: Span,
    env: &Env,
) -> Value {
    let BuiltinKind::Loss(name) = builtin.kind else {
        unreachable!("the table of losses holds nothing else")
    };
    let call = Call { builtin, arguments, block: None, span };
    let call = arguments::builtin_arguments(checker, call).and_then(|given| name.call(call, &given));
    let live = call.and_then(|call| match call {
        LossCall::Likelihood(given) => {
            let value = checker.evaluate(given.of.expr, env);
            let wanted = "`nll` needs the role whose most probable token is the target";
            // The student's own choice is allowed as a target: it sharpens the student.
            roles::role_of(checker, value, given.of.expr.span, wanted).map(|of| Live::Likelihood { of })
        }
        LossCall::Ranking(given) => read(checker, given.order, env).map(|order| Live::Ranking { order }),
        LossCall::Dpo(given) => {
            let outside = env.with_context(EvaluationContext::Objective);
            let (chosen, rejected) =
                (read(checker, given.chosen, &outside), read(checker, given.rejected, &outside));
            let value = checker.evaluate(given.beta.expr, &outside);
            let beta = expected::formula(checker, value, given.beta.expr.span)?;
            let beta = preference_beta(checker, beta, given.beta.expr.span)?;
            preference(
                checker,
                PreferenceKind::Dpo { beta },
                chosen,
                rejected,
                None,
                given.rejected.expr.span,
            )
        }
        LossCall::BradleyTerry(given) => {
            let outside = env.with_context(EvaluationContext::Objective);
            let (chosen, rejected) =
                (read(checker, given.chosen, &outside), read(checker, given.rejected, &outside));
            let on = read(checker, given.on, &outside)?;
            preference(checker, PreferenceKind::BradleyTerry, chosen, rejected, on, given.rejected.expr.span)
        }
        LossCall::SquaredError(given) => {
            let compared = |part: &ModelSignal| {
                matches!(part, ModelSignal::Mean | ModelSignal::Score | ModelSignal::Value)
            };
            let wanted = "`mse` compares `student.mean`, `student.score` or `student.value` with a target";
            let (part, target) = error_against(checker, given.x, given.target, compared, wanted, env)?;
            let dimensions = read(checker, given.dimensions, env)?;
            Some(Live::SquaredError { part, target, dimensions })
        }
        LossCall::BinaryCrossEntropy(given) => {
            let compared = |part: &ModelSignal| matches!(part, ModelSignal::Confidence);
            let wanted = "`bce` compares `student.confidence` with a target";
            let (part, target) = error_against(checker, given.x, given.target, compared, wanted, env)?;
            Some(Live::BinaryCrossEntropy { part, target })
        }
    });
    live.map_or(Value::Error, |live| primitive(checker, live, span))
}

/// Checks `beta` of `live dpo(...)` and of the stage `dpo`.
pub fn preference_beta(reporter: &mut Reporter, beta: Formula, span: Span) -> Option<Formula> {
    if beta.axis() > Axis::Run || beta.constant().is_some_and(|beta| beta <= 0.0) {
        let text = "`beta` is one positive number for the whole step";
        reporter.report(
            Diagnostic::error(Code::OutOfRange, span, text)
                .help("it sets how far the student may move from the reference; 0.1 is usual"),
        );
        return None;
    }
    Some(beta)
}

/// A loss on two completions of one prompt, the first preferred. `place` is where the second is written.
pub fn preference(
    reporter: &mut Reporter,
    kind: PreferenceKind,
    chosen: Option<Rc<Rollout>>,
    rejected: Option<Rc<Rollout>>,
    on: Option<NamedSpan>,
    span: Span,
) -> Option<Live> {
    let (chosen, rejected) = (Rc::unwrap_or_clone(chosen?), Rc::unwrap_or_clone(rejected?));
    let own =
        |rollout: &Rollout| matches!(rollout.source, RolloutSource::Sample(_)) && rollout.edits.is_empty();
    if chosen.is_alike(&rejected) || own(&chosen) && own(&rejected) {
        let text = "chosen and rejected completions come from the same source, so they do not differ";
        reporter.report(
            Diagnostic::error(Code::OutOfRange, span, text).help(
                "name another field of the data, another writer, or keep the best of a group by a reward",
            ),
        );
        return None;
    }
    if are_exchanged(&chosen, &rejected) {
        let (preferred, other) = (reporter.span(chosen.origin), reporter.span(rejected.origin));
        reporter.report(
            Diagnostic::warning(
                Code::WrongSign,
                span,
                "the better completions are rejected, the worse ones chosen",
            )
            .note(preferred, "these are preferred")
            .note(other, "these are rejected")
            .help("exchange the two; if it is meant, say so: `// allow(wrong-sign): why`"),
        );
    }
    Some(Live::Preference(Rc::new(Preference { kind, chosen, rejected, on })))
}

/// `mse(student.mean, teacher.mean)`, `bce(student.confidence, target)`: the student's number, and its
/// target.
fn error_against(
    checker: &mut Checker,
    x: Arg<types::Formula>,
    target: Arg<types::Formula>,
    compared: impl Fn(&ModelSignal) -> bool,
    wanted: &str,
    env: &Env,
) -> Option<(ModelSignal, Formula)> {
    let outside = env.with_context(EvaluationContext::Objective);
    let (x, target) = (x.expr, target.expr);
    let (x_value, target_value) = (checker.evaluate(x, &outside), checker.evaluate(target, &outside));
    let (own, formula) = (
        expected::formula(checker, x_value, x.span)?,
        expected::formula(checker, target_value, target.span)?,
    );
    let part = match &own.0.kind {
        FormulaKind::Signal(Signal::Of { role: Role::Student, part }) if compared(part) => *part,
        _ => {
            checker.report(Diagnostic::error(Code::TypeMismatch, x.span, wanted));
            return None;
        }
    };
    if formula.axis() > part.axis() {
        let text =
            format!("the target is one number per {}, finer than what is compared", formula.axis().name());
        checker.report(Diagnostic::error(Code::AxisMismatch, target.span, text));
        return None;
    }
    Some((part, formula))
}

fn outside_term(operand: &Expr, span: Span, in_let: bool) -> Diagnostic {
    let word = Span { end: operand.span.start, ..span };
    let diagnostic = Diagnostic::error(Code::LiveOutsideTerm, span, "`live` belongs inside a `term`")
        .label("no gradient flows from here");
    // Without `live`, the term that reads the `let` may have no gradient at all.
    if in_let {
        return diagnostic.help("a `let` is a plain number: write what is `live` in the term itself");
    }
    diagnostic
        .help("gradient flows from a term to the student; weights, selections and `let`s are plain numbers")
        .fix("remove `live`", word, "")
        .possibly()
}

/// The student's number, or the divergence, that gradient flows through. `Err` where there is none.
fn differentiable(formula: &Formula, span: Span) -> Result<Live, Box<Diagnostic>> {
    let error = |code: Code, message: &str| Diagnostic::error(code, span, message);
    let diagnostic = match &formula.0.kind {
        FormulaKind::Signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy }) => {
            return Ok(Live::Divergence(Divergence::entropy_of(Role::Student, formula.0.origin)));
        }
        FormulaKind::Signal(Signal::Of { role: Role::Student, part }) => {
            if part.definition().differentiable {
                return Ok(Live::Part(*part));
            }
            let message = format!("no gradient is defined through `student.{}` here", part.name());
            error(Code::NotDifferentiable, &message).help(
                "`live` marks `student.logp`, `entropy`, `end_logp`, `mean`, `score`, `confidence`, `ratio`, a \
                 divergence or a `sum`",
            )
        }
        FormulaKind::Signal(Signal::Divergence(divergence)) if divergence.reaches_student() => {
            return Ok(Live::Divergence(divergence.clone()));
        }
        FormulaKind::Signal(Signal::Divergence(_) | Signal::Of { .. }) => {
            error(Code::NothingLive, "nothing here belongs to the student, so no gradient can flow")
                .label("teachers and samplers are frozen")
                .help(
                    "mark a number that the student computes: `live student.logp`, or a divergence with \
                     `student` in it",
                )
        }
        FormulaKind::Signal(signal) if signal.is_of_reward() => {
            error(Code::NotDifferentiable, "no gradient flows through a reward")
                .label("the verifier's verdict on the whole text")
                .help(
                    "a policy gradient weighs the log-probability with it: `-advantage * live student.logp`, \
                     `-advantage * live ratio`",
                )
        }
        _ => error(Code::NotDifferentiable, "`live` marks one of the student's own numbers")
            .label("this is computed from several")
            .help(
                "write `live` directly before `student.logp`, `ratio` or a divergence: `a * live \
                 student.logp`",
            ),
    };
    Err(diagnostic.into())
}
