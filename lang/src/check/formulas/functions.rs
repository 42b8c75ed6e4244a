//! Functions of numbers: elementwise functions, reductions, statistics, scans, and numbers carried from step
//! to step.

use mopd_ops::common_unit;

use crate::check::Checker;
use crate::check::builtins::BuiltinKind;
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::formulas::{
    Bucket, Clip, Elementwise, Ema, Extreme, Previous, Quantile, Reduce, RewardToGo, Scanned, Sum, Where,
};
use crate::check::builtins::types::Reads;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;
use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::Expr;
use mopd_experiment::Pool;
use mopd_experiment::formula::{Formula, FormulaKind, Function, Memory, Reduction, Scan, Unit};

/// Help for a `where` between losses of two units.
const ONE_TERM_EACH: &str = "the terms of an objective may have units of their own: write one for each case, \
                             with `{ when = ... }` and `{ when = not ... }`";

impl Checker {
    pub(in crate::check) fn formula_call(
        &mut self,
        call: Call,
        given: &[Option<&Expr>],
        env: &Env,
    ) -> Option<Value> {
        match call.builtin.kind {
            BuiltinKind::Elementwise(function) => {
                let x = Elementwise::of(call, given)?.x;
                let operand = self.read(x, env)?;
                Some(self.applied(function, operand, x.expr.span, call.span))
            }
            BuiltinKind::Bucket => self.bucket(Bucket::of(call, given)?, env),
            BuiltinKind::Extreme(function, reduction) => match Extreme::of(call, given)? {
                Extreme { a, b: Some(b), over: None, .. } => {
                    let parts = [self.placed(a, env)?, self.placed(b, env)?];
                    let unit = self.shared_unit(function.name(), &parts, call.span)?;
                    Some(self.apply(function, parts.map(|part| part.value).into(), unit, call.span))
                }
                Extreme { a: x, b: None, over: Some(over), among, on, .. } => {
                    self.reduce(reduction, Reduce { call, x, over, among, on }, env)
                }
                _ => {
                    let text = format!("`{}` needs two numbers, or one and `over`", call.builtin.name);
                    self.report(
                        Diagnostic::error(Code::MissingArgument, call.span, text).help(call.builtin.usage),
                    );
                    None
                }
            },
            BuiltinKind::Clip => self.clip(Clip::of(call, given)?, env),
            BuiltinKind::Where => self.choose(Where::of(call, given)?, env),
            BuiltinKind::Reduce(Reduction::Quantile { .. }) => {
                let Quantile { x, q, over, among, on, .. } = Quantile::of(call, given)?;
                let q = self.read(q, env)?;
                self.reduce(Reduction::Quantile { q }, Reduce { call, x, over, among, on }, env)
            }
            BuiltinKind::Reduce(Reduction::Sum) => match Sum::of(call, given)? {
                // `sum([a, b], weights: [0.7, 0.3])`: teachers, not numbers.
                Sum { x, weights: Some(weights), .. } => {
                    Some(self.pooled(Pool::Sum, x.expr, Some(weights.expr), call.span, env))
                }
                Sum { x, over, among, on, .. } => {
                    let over = self.needs_over(over, call)?;
                    self.reduce(Reduction::Sum, Reduce { call, x, over, among, on }, env)
                }
            },
            BuiltinKind::Reduce(reduction) => self.reduce(reduction, Reduce::of(call, given)?, env),
            BuiltinKind::Statistic(statistic) => self.statistic_call(statistic, call, given, env),
            BuiltinKind::Scan(Scan::RewardToGo { .. }) => {
                self.reward_to_go(RewardToGo::of(call, given)?, env)
            }
            BuiltinKind::Scan(scan) => self.plain_scan(scan, Scanned::of(call, given)?, env),
            BuiltinKind::Memory(Memory::Previous) => {
                let x = self.placed(Previous::of(call, given)?.x, env)?;
                self.memory(Memory::Previous, x, call.span)
            }
            BuiltinKind::Memory(Memory::Ema { .. }) => {
                let Ema { x, rate, .. } = Ema::of(call, given)?;
                let x = self.placed(x, env)?;
                let rate = self.read(rate, env)?;
                self.memory(Memory::Ema { rate }, x, call.span)
            }
            _ => unreachable!("every other kind is handled where its values are made"),
        }
    }

    /// The formula of an argument, and its place.
    pub(in crate::check) fn placed<T: Reads<Value = Formula>>(
        &mut self,
        given: Arg<T>,
        env: &Env,
    ) -> Option<Spanned<Formula>> {
        Some(Spanned::new(self.read(given, env)?, given.expr.span))
    }

    /// Numbers that must share a unit: the bounds of a `clip`, the sides of a `min`, the branches of a
    /// `where`.
    pub(in crate::check) fn shared_unit(
        &mut self,
        name: &str,
        parts: &[Spanned<Formula>],
        span: Span,
    ) -> Option<Unit> {
        let mut unit = parts[0].value.unit();
        for part in &parts[1..] {
            let next = part.value.unit();
            match common_unit(unit, next) {
                Some(common) => unit = common,
                None => {
                    let message = format!("`{name}` mixes {} and {}", unit.name(), next.name());
                    let sides = [&parts[0], part].map(Spanned::as_ref);
                    let live = name == "where" && parts.iter().any(|part| part.value.live());
                    self.units_mismatch(span, &message, sides, live.then_some(ONE_TERM_EACH));
                    return None;
                }
            }
        }
        Some(unit)
    }

    fn clip(&mut self, given: Clip, env: &Env) -> Option<Value> {
        let x = self.placed(given.x, env);
        let (low, high) = (self.placed(given.low, env), self.placed(given.high, env));
        let (x, low, high, span) = (x?, low?, high?, given.call.span);
        for bound in [&low, &high] {
            if bound.value.live() {
                self.report(Diagnostic::error(
                    Code::NotDifferentiable,
                    bound.span,
                    "the bounds of a `clip` carry no gradient",
                ));
                return None;
            }
        }
        if let (FormulaKind::Number(a), FormulaKind::Number(b)) = (&low.value.0.kind, &high.value.0.kind)
            && a > b
        {
            let text = format!("the range from {a} to {b} is empty");
            self.report(
                Diagnostic::error(Code::OutOfRange, high.span, text)
                    .note(low.span, "the lower bound")
                    .help("write the lower bound first: `clip(x, low, high)`"),
            );
            return None;
        }
        let parts = [x, low, high];
        let unit = self.shared_unit("clip", &parts, span)?;
        Some(self.apply(Function::Clip, parts.map(|part| part.value).into(), unit, span))
    }

    fn choose(&mut self, given: Where, env: &Env) -> Option<Value> {
        let condition = self.placed(given.condition, env);
        let branches = (self.placed(given.then, env), self.placed(given.otherwise, env));
        let (condition, branches, span) = (condition?, [branches.0?, branches.1?], given.call.span);
        if condition.value.unit() != Unit::Bool {
            let message = "the condition of a `where` must be a bool";
            self.unit_mismatch(condition.as_ref(), message, None);
            return None;
        }
        let unit = self.shared_unit("where", &branches, span)?;
        let operands = std::iter::once(condition).chain(branches).map(|operand| operand.value).collect();
        Some(self.apply(Function::Where, operands, unit, span))
    }

    /// clip(floor(x * n), 0, n - 1): what is below 0 is in the first bucket, 1 and what is above in the last.
    fn bucket(&mut self, given: Bucket, env: &Env) -> Option<Value> {
        let span = given.call.span;
        let mut value = self.read(given.x, env)?;
        let n = self.read(given.n, env)?;
        let numbers = [f64::from(n), 0.0, f64::from(n - 1)];
        let [Value::Formula(parts), Value::Formula(first), Value::Formula(last)] =
            numbers.map(|number| self.number(number, Unit::Number, span))
        else {
            return None;
        };
        let steps = [
            (Function::Multiply, vec![parts]),
            (Function::Floor, Vec::new()),
            (Function::Clip, vec![first, last]),
        ];
        for (function, others) in steps {
            let operands = std::iter::once(value).chain(others).collect();
            match self.apply(function, operands, Unit::Count, span) {
                Value::Formula(formula) => value = formula,
                _ => return None,
            }
        }
        Some(Value::Formula(value))
    }
}
