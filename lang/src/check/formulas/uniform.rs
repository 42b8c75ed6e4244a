//! `kl(uniform || student)`: a divergence with the uniform distribution over the vocabulary on one side. It
//! is a sum over the other side's distribution.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{
    Axis, Distribution, DivergenceKind, Formula, FormulaKind, Function, GivenParameter, PlainSignal, Side,
    Signal, Summand, SummandProperties, Unit, with_alike_side,
};

use crate::check::checker::Checker;
use crate::check::formulas::declared;
use crate::check::formulas::divergences::{self, DivergenceSettings};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The word for the uniform distribution, where nothing else has this name.
pub const UNIFORM: &str = "uniform";

/// The uniform side of a pair, and the other side.
pub fn uniform_side<'e>(
    checker: &Checker,
    left: &'e Expr,
    right: &'e Expr,
    env: &Env,
) -> Option<(Side, &'e Expr)> {
    let is_uniform = |expr: &Expr| {
        matches!(&expr.kind, ExprKind::Name(name) if name == UNIFORM)
            && env.local(UNIFORM).is_none()
            && checker.modules.lookup(env.module, UNIFORM).is_none()
    };
    match (is_uniform(left), is_uniform(right)) {
        (true, _) => Some((Side::Left, right)),
        (false, true) => Some((Side::Right, left)),
        (false, false) => None,
    }
}

/// The summand of the KL divergence.
pub fn kl_summand(reporter: &mut Reporter, span: Span) -> Summand {
    let [left, right] = declared::sides_at_entry(reporter, span);
    Summand {
        name: "kl".into(),
        is_sum: false,
        uniform: None,
        directed: true,
        standard: true,
        parameters: Vec::new(),
        value: declared::kl_at(reporter, left, right, span),
        facts: SummandProperties { never_negative: false, zero: false, ..SummandProperties::UNKNOWN },
    }
}

/// The summand over the other side.
pub fn summand_against(reporter: &mut Reporter, summand: Summand, side: Side, span: Span) -> Summand {
    let origin = reporter.origin(span);
    let one = Formula::new(FormulaKind::Number(1.0), Unit::Number, Axis::Run, false, origin);
    let size = Formula::signal(Signal::Plain(PlainSignal::VocabularySize), origin);
    let share = FormulaKind::Apply { function: Function::Divide, operands: vec![one, size] };
    let share = Formula::new(share, Unit::Prob, Axis::Run, false, origin);
    let value = with_alike_side(&summand.value, side, &share);
    let given = GivenParameter { name: UNIFORM.into(), value: share, default: true };
    let parameters = summand.parameters.into_iter().chain([given]).collect();
    let facts = SummandProperties {
        divergence: false,
        never_negative: summand.facts.never_negative,
        most: f64::INFINITY,
        zero: false,
    };
    Summand { is_sum: true, uniform: Some(side), value, parameters, facts, ..summand }
}

/// The divergence of a summand from or to the uniform distribution.
pub fn finish(
    checker: &mut Checker,
    summand: Summand,
    side: Side,
    other: &Expr,
    common: DivergenceSettings,
    span: Span,
    env: &Env,
) -> Value {
    if let Some(support) = common.support
        && !matches!(&support.kind, ExprKind::Name(name) if name == "full")
    {
        let text =
            "`uniform` is the same for every entry of the vocabulary, and a support leaves entries out";
        let diagnostic = Diagnostic::error(Code::OutOfRange, support.span, text);
        checker.report(diagnostic.help("leave `support` out, or declare a `sum` over the support's entries"));
        return Value::Error;
    }
    let Some(of) = roles::distribution(checker, other, env) else { return Value::Error };
    let unread = Distribution::Detached(Box::new(Distribution::Role(of.roles().swap_remove(0))));
    let summand = summand_against(checker, summand, side, span);
    let kind = DivergenceKind::Entrywise(Rc::new(summand));
    divergences::finish_divergence(checker, kind, of, unread, common, span, env)
}
