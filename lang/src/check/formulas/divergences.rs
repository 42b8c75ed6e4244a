//! Divergences: their sides, supports and masses. Declared divergences are in `declared.rs`.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{
    Distribution, Divergence, DivergenceKind, Mass, Role, Signal, Support, Unit, WeightedRole,
};

use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::divergences::DivergenceCall;
use crate::check::builtins::supports::{SupportCall, TopK, Union};
use crate::check::builtins::types;
use crate::check::checker::Checker;
use crate::check::declarations::plain_teachers;
use crate::check::formulas::{blends, declared, signals, temperatures, uniform};
use crate::check::read::{expected, numbers, read, reads};
use crate::check::reporter::Reporter;
use crate::check::roles;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

reads! {
    Dimensions => |checker, given, env| counts(checker, given.expr, given.name, env);
    Support => |checker, given, env| support(checker, given.expr, env);
}

/// The arguments that every divergence takes besides its sides and its own parameters.
pub const COMMON: [&str; 4] = ["support", "mass", "temperature", "clip_each"];

/// The values of [`COMMON`].
pub struct DivergenceSettings<'e> {
    pub support: Option<&'e Expr>,
    pub mass: Option<&'e Expr>,
    pub temperature: Option<&'e Expr>,
    pub clip_each: Option<&'e Expr>,
}

/// The common settings of a built-in divergence.
macro_rules! common {
    ($given:ident) => {
        DivergenceSettings {
            support: $given.support.map(Arg::expr),
            mass: $given.mass.map(Arg::expr),
            temperature: $given.temperature.map(Arg::expr),
            clip_each: $given.clip_each.map(Arg::expr),
        }
    };
}

pub fn divergence_call(checker: &mut Checker, call: DivergenceCall, env: &Env) -> Option<Value> {
    match call {
        DivergenceCall::Kl(given) if env.context == EvaluationContext::Entry => {
            Some(declared::kl_of_entry(checker, given.pair.expr, given.call.span, env))
        }
        DivergenceCall::Kl(given) => {
            let support = given.support.map(Arg::expr);
            beyond_one_entry(checker, given.call, env)?;
            if let ExprKind::Versus { left, right } = &given.pair.expr.kind
                && let Some((side, other)) = uniform::uniform_side(checker, left, right, env)
            {
                let (kl, span) = (uniform::kl_summand(checker, given.call.span), given.call.span);
                return Some(uniform::finish(checker, kl, side, other, common!(given), span, env));
            }
            let sides = sides(checker, given.pair.expr, support, given.call.builtin.name, env);
            let ((left, right), common) = (sides?, common!(given));
            Some(finish_divergence(checker, DivergenceKind::Kl, left, right, common, given.call.span, env))
        }
        DivergenceCall::SortedL1(given) => {
            beyond_one_entry(checker, given.call, env)?;
            let left = roles::distribution(checker, given.left.expr, env);
            let right = roles::distribution(checker, given.right.expr, env);
            let (left, right, common) = (left?, right?, common!(given));
            Some(finish_divergence(
                checker,
                DivergenceKind::SortedL1,
                left,
                right,
                common,
                given.call.span,
                env,
            ))
        }
        DivergenceCall::Gaussian(given) => {
            beyond_one_entry(checker, given.call, env)?;
            let support = given.support.map(Arg::expr);
            beyond_one_entry(checker, given.call, env)?;
            let sides = sides(checker, given.pair.expr, support, given.call.builtin.name, env);
            let kind = DivergenceKind::Gaussian { dimensions: read(checker, given.dimensions, env)? };
            let ((left, right), common) = (sides?, common!(given));
            Some(finish_divergence(checker, kind, left, right, common, given.call.span, env))
        }
        DivergenceCall::Blend(given) => {
            Some(blends::blend(checker, given.call.arguments, given.call.span, env))
        }
        DivergenceCall::Detached(given) => {
            Some(detached_side(checker, given.side.expr, given.call.span, env))
        }
    }
}

/// `None`, with a report, where a divergence stands inside a summand or outside an objective.
fn beyond_one_entry(reporter: &mut Reporter, call: Call, env: &Env) -> Option<()> {
    if env.context == EvaluationContext::Entry {
        declared::beyond_entry(reporter, call.builtin.name, call.span);
        return None;
    }
    (!outside_objective(reporter, call.span, env)).then_some(())
}

pub fn outside_objective(reporter: &mut Reporter, span: Span, env: &Env) -> bool {
    let outside = matches!(
        env.context,
        EvaluationContext::Constant
            | EvaluationContext::Schedule
            | EvaluationContext::Guard
            | EvaluationContext::Entry
    );
    if outside {
        let text = "a divergence is a signal of the run: it can be read inside an objective only";
        reporter.report(Diagnostic::error(Code::TypeMismatch, span, text));
    }
    outside
}

/// `teacher || student`
pub fn sides(
    checker: &mut Checker,
    pair: &Expr,
    second: Option<&Expr>,
    name: &str,
    env: &Env,
) -> Option<(Distribution, Distribution)> {
    // `kl(live student || teacher)`
    if let ExprKind::Versus { left, right } = &pair.kind
        && let Some(side) = [left, right].into_iter().find(|side| matches!(side.kind, ExprKind::Live(_)))
        && let ExprKind::Live(operand) = &side.kind
    {
        let text = "`live` marks a divergence as a whole, not one of its sides";
        let diagnostic = Diagnostic::error(Code::TypeMismatch, side.span, text).label("a side");
        let file = &checker.sources.file(pair.span.file).text;
        let call = file[..pair.span.start as usize].trim_end_matches([' ', '(']).len() - name.len();
        let end = pair.span.end as usize;
        let ours = format!(
            "live {name}({} || {}",
            plain_side(left, &checker.sources),
            plain_side(right, &checker.sources)
        );
        let span = Span::new(pair.span.file, call, end);
        let named = file[call..].starts_with(name);
        let diagnostic = diagnostic.help(format!("write `{ours})`"));
        let _ = operand;
        checker.report(if named {
            diagnostic.fix(format!("write `{ours})`"), span, ours)
        } else {
            diagnostic
        });
        return None;
    }
    let value = checker.evaluate(pair, env);
    // `kl(student, teacher)`
    if let (Value::Role(_) | Value::Teacher(_), Some(second)) = (&value, second)
        && checker.key_before(second.span).is_none()
        && matches!(second.kind, ExprKind::Name(_))
    {
        let text = format!("`{name}` needs both arguments and their order, with `||` between them");
        let whole = pair.span.to(second.span);
        let ours = format!("{} || {}", checker.sources.text(pair.span), checker.sources.text(second.span));
        let diagnostic = Diagnostic::error(Code::TypeMismatch, whole, text).label("two arguments");
        let help = format!("write `{name}({ours})`; the other order is another divergence");
        checker.report(diagnostic.help(help).fix(format!("write `{ours}`"), whole, ours).possibly());
        return None;
    }
    match value {
        Value::Versus { left, right } => Some((left, right)),
        other => {
            let wanted =
                format!("`{name}` needs both arguments and their order: `{name}(student || teacher)`");
            expected::wrong_kind(checker, pair.span, &wanted, &other);
            None
        }
    }
}

pub fn finish_divergence(
    checker: &mut Checker,
    kind: DivergenceKind,
    left: Distribution,
    right: Distribution,
    DivergenceSettings { support, mass, temperature, clip_each }: DivergenceSettings,
    span: Span,
    env: &Env,
) -> Value {
    let temperature = match temperature {
        None => Some(1.0.into()),
        Some(expr) => temperatures::of_divergence(checker, expr, env),
    };
    let clip_each = match clip_each {
        None => Some(None),
        Some(expr) => numbers::at_least(checker, expr, "clip_each", env, f64::MIN_POSITIVE).map(Some),
    };
    let support_and_mass = support_and_mass(checker, &kind, support, mass, span, env);
    let (Some(temperature), Some(clip_each), Some((support, mass))) =
        (temperature, clip_each, support_and_mass)
    else {
        return Value::Error;
    };
    let vanishes = match &kind {
        DivergenceKind::Entrywise(summand) => summand.facts.divergence,
        DivergenceKind::Kl | DivergenceKind::SortedL1 | DivergenceKind::Gaussian { .. } => true,
    };
    if left == right && vanishes {
        let what = left.role().map_or("a blend".to_owned(), |role| format!("`{}`", role.name()));
        let text = format!("{what} is compared with itself: the divergence is 0");
        checker.report(
            Diagnostic::error(Code::OutOfRange, span, text)
                .help("compare it with another role, such as `teacher` or `reference`"),
        );
        return Value::Error;
    }
    if let DivergenceKind::Entrywise(summand) = &kind
        && !summand.facts.divergence
        && mass == Mass::Generalized
    {
        let text = format!("`mass: generalized` is for divergences, and `{}` is none", summand.name);
        checker.report(
            Diagnostic::error(Code::NotADivergence, span, text)
                .label("nothing makes it stationary where the sides agree")
                .help("write `mass: tail`, `renormalized` or `raw`"),
        );
        return Value::Error;
    }
    if is_single(&support) && mass == Mass::Renormalized {
        checker.report(
            Diagnostic::error(
                Code::ZeroGradient,
                span,
                "on a single entry, renormalised, both sides are 1: this is 0 everywhere",
            )
            .label("teaches nothing")
            .help("write `mass: tail`: the entry against everything else"),
        );
        return Value::Error;
    }
    signals::read_signal(
        checker,
        Signal::Divergence(Divergence { kind, left, right, support, mass, temperature, clip_each }),
        span,
    )
}

fn support_and_mass(
    checker: &mut Checker,
    kind: &DivergenceKind,
    support_place: Option<&Expr>,
    mass_place: Option<&Expr>,
    span: Span,
    env: &Env,
) -> Option<(Support, Mass)> {
    let words = [
        ("renormalized", Mass::Renormalized),
        ("tail", Mass::Tail),
        ("generalized", Mass::Generalized),
        ("raw", Mass::Raw),
    ];
    let mass = match mass_place {
        None => Some(None),
        Some(expr) => expected::word(checker, expr, "a treatment of mass", &words).map(Some),
    };
    let support = match support_place {
        None => Some(Support::Full),
        Some(expr) => support(checker, expr, env),
    };
    let (support, treatment) = (support?, mass?);
    // A support that is a parameter may have another value in the next call.
    let is_written =
        support_place.is_none_or(|expr| matches!(&expr.kind, ExprKind::Name(name) if name == "full"));
    if support == Support::Full
        && is_written
        && let Some(place) = mass_place
    {
        let text = "nothing lies outside the whole vocabulary, so `mass` changes nothing";
        let diagnostic = Diagnostic::error(Code::UnusedSetting, place.span, text);
        let diagnostic = match support_place {
            Some(support) => diagnostic.note(support.span, "the whole vocabulary"),
            None => diagnostic.note(span, "no `support` is given: the whole vocabulary"),
        };
        checker
            .report(diagnostic.help("remove it, or choose what is compared: `support: top_k(teacher, 64)`"));
        return None;
    }
    match (support, treatment) {
        // On the whole vocabulary the four masses agree.
        (Support::Full, _) => Some((Support::Full, Mass::Raw)),
        (support, Some(mass)) => Some((support, mass)),
        (support, None) => {
            let text = "a truncated support must say what happens to the mass outside it";
            let diagnostic = Diagnostic::error(Code::MissingArgument, span, text).help(
                "add `mass: generalized` (keeps student = teacher stationary), `renormalized`, `tail` or \
                 `raw`",
            );
            // Only a support that is written can differ from `full`.
            let place = support_place.map_or(span, |place| place.span);
            let behind = Span { start: place.end, ..place };
            let fits = |mass: &&str| match *mass {
                "generalized" => {
                    !matches!(kind, DivergenceKind::Entrywise(summand) if !summand.facts.divergence)
                }
                "renormalized" => !is_single(&support),
                _ => true,
            };
            let fitting = ["generalized", "renormalized", "tail", "raw"].into_iter().filter(fits);
            checker.report(fitting.fold(diagnostic, |diagnostic, mass| {
                diagnostic.choice(format!("add `mass: {mass}`"), behind, format!(", mass: {mass}"))
            }));
            None
        }
    }
}

/// `full`, `sampled`, `matched`, `top_k(teacher, 64)`, `union(...)`
pub fn support(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Support> {
    if let ExprKind::Name(name) = &expr.kind
        && env.local(name).is_none()
    {
        match name.as_str() {
            "full" => return Some(Support::Full),
            "sampled" => return Some(Support::Sampled),
            "matched" => return Some(Support::Matched),
            "unmatched" => return Some(Support::Unmatched),
            _ => {}
        }
    }
    match checker.evaluate(expr, env) {
        Value::Support(support) => Some(support),
        // `support: top_k(64)`
        Value::Capability => {
            let text = "a support names the role whose most probable entries it has";
            checker.report(
                Diagnostic::error(Code::MissingArgument, expr.span, text)
                    .help("for example `top_k(teacher, 64)`"),
            );
            None
        }
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "a support is `full`, `sampled`, `top_k(role, k)`, `nucleus(role, p)` or made of these",
                &other,
            );
            None
        }
    }
}

pub fn support_call(checker: &mut Checker, call: SupportCall, env: &Env) -> Option<Value> {
    let support = match call {
        // `answers = top_k(20)`: how many entries a teacher returns, without a role.
        SupportCall::TopK(TopK { role, k: None, .. }) => {
            return numbers::count(checker, role.expr, "k", env, 1).map(|_| Value::Capability);
        }
        SupportCall::TopK(TopK { role, k: Some(k), .. }) => {
            let role = chooser(checker, role, "top_k(teacher, 64)", env);
            let number = checker.evaluate(k.expr, env);
            let k = numbers::whole(checker, &number, k.expr.span, "the size of the support", 1);
            Support::TopK { role: role?, k: k? as u32 }
        }
        SupportCall::Nucleus(given) => {
            let role = chooser(checker, given.role, "nucleus(teacher, 0.95)", env);
            let span = given.p.expr.span;
            let p = read(checker, given.p, env);
            if p == Some(0.0) {
                let text = "a nucleus of 0 has no entry";
                checker.report(Diagnostic::error(Code::OutOfRange, span, text).help("write `p` above 0"));
                return None;
            }
            Support::Nucleus { role: role?, p: p? }
        }
        SupportCall::Union(given) => Support::Union(joined(checker, given, env)?),
        SupportCall::Intersection(given) => Support::Intersection(joined(checker, given, env)?),
    };
    Some(Value::Support(support))
}

/// The role whose probabilities determine a support.
fn chooser(checker: &mut Checker, role: Arg<types::Role>, usage: &str, env: &Env) -> Option<Role> {
    let value = checker.evaluate(role.expr, env);
    let wanted = format!("a support needs the role that chooses: `{usage}`");
    roles::role_of(checker, value, role.expr.span, &wanted)
}

fn joined(checker: &mut Checker, given: Union, env: &Env) -> Option<Vec<Support>> {
    let Union { first, second, third, .. } = given;
    [Some(first), Some(second), third].into_iter().flatten().map(|part| read(checker, part, env)).collect()
}

/// `detached(blend(...))`
pub fn detached_side(checker: &mut Checker, side: &Expr, span: Span, env: &Env) -> Value {
    if env.context == EvaluationContext::Entry {
        return declared::detached_of_entry(checker, side, env);
    }
    if outside_objective(checker, span, env) {
        return Value::Error;
    }
    let side = roles::distribution(checker, side, env);
    side.map_or(Value::Error, |side| Value::Distribution(Distribution::Detached(Box::new(side))))
}

/// A list of whole numbers: `[0, 1, 5]`.
pub fn counts(checker: &mut Checker, expr: &Expr, what: &str, env: &Env) -> Option<Vec<u32>> {
    match checker.evaluate(expr, env) {
        Value::List(values) => {
            let whole =
                values.iter().map(|value| numbers::whole(checker, value, expr.span, &format!("`{what}`"), 0));
            whole.map(|count| count.map(|count| count as u32)).collect()
        }
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                &format!("`{what}` is a list of whole numbers, such as `[0, 1, 5]`"),
                &other,
            );
            None
        }
    }
}

/// `logits(model)`, for a composed teacher.
pub fn logits_call(checker: &mut Checker, of: &Expr, span: Span, env: &Env) -> Value {
    let role = match checker.evaluate(of, env) {
        Value::Model(model) => {
            let name = checker.parts.model(model).name.clone();
            match plain_teachers::teacher_of_model(checker, &name, model, of.span) {
                Value::Teacher(teacher) => {
                    checker.parts.used_teachers[teacher.0 as usize] = true;
                    Role::Named { teacher, name: name.as_str().into() }
                }
                _ => return Value::Error,
            }
        }
        value => match roles::role_of(checker, value, of.span, "`logits` needs a model or a teacher") {
            Some(role) => role,
            None => return Value::Error,
        },
    };
    let Value::Formula(one) = numbers::number(checker, 1.0, Unit::Number, span) else { return Value::Error };
    Value::Logits(vec![WeightedRole { weight: one, role }])
}

/// Whether a support has one entry, whose probability renormalised is 1 on both sides.
fn is_single(support: &Support) -> bool {
    matches!(support, Support::Sampled | Support::TopK { k: 1, .. })
}

/// A side of a divergence without a `live` in front.
fn plain_side<'s>(side: &Expr, sources: &'s crate::source::Sources) -> &'s str {
    match &side.kind {
        ExprKind::Live(operand) => sources.text(operand.span),
        _ => sources.text(side.span),
    }
}
