//! Numbers made of numbers: elementwise functions, reductions, statistics, scans, and what is carried from
//! step to step.

use std::rc::Rc;

use mopd_ops::common_unit;

use crate::diag::{Code, Diagnostic, nearest};
use crate::formula::{
    Axis, Deviation, Formula, FormulaKind, Function, Memory, Reduction, Scan, Signal, Statistic, Unit,
};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};

use crate::check::Checker;
use crate::check::builtins::{Builtin, Kind};
use crate::check::names::foreign;
use crate::check::names::unknown;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;
use crate::experiment::Pool;

impl Checker {
    pub(in crate::check) fn formula_call(
        &mut self,
        builtin: &'static Builtin,
        given: &[Option<&Expr>],
        span: Span,
        env: &Env,
    ) -> Value {
        match builtin.kind {
            Kind::Elementwise(function) => {
                let Some((x, place)) = self.argument(given, 0, env) else { return Value::Error };
                self.applied(function, x, place, span)
            }
            Kind::Bucket => self.bucket(given, span, env),
            Kind::Extreme(function, reduction) => match (given[1], given[2]) {
                (Some(_), None) => self.extreme(function, given, span, env),
                (None, Some(over)) => {
                    self.reduce(reduction, given[0].expect("required"), over, [given[3], given[4]], span, env)
                }
                _ => {
                    self.report(
                        Diagnostic::error(
                            Code::MissingArgument,
                            span,
                            format!("`{}` needs two numbers, or one and `over`", builtin.name),
                        )
                        .help(builtin.usage),
                    );
                    Value::Error
                }
            },
            Kind::Clip => self.clip(given, span, env),
            Kind::Where => self.choose(given, span, env),
            Kind::Reduce(Reduction::Quantile { .. }) => {
                let expr = given[1].expect("required");
                let value = self.evaluate(expr, env);
                let Some(q) = self.fraction(&value, expr.span, "`q`") else { return Value::Error };
                let over = given[2].expect("required");
                self.reduce(
                    Reduction::Quantile { q },
                    given[0].expect("required"),
                    over,
                    [given[3], given[4]],
                    span,
                    env,
                )
            }
            Kind::Reduce(reduction) => {
                // `sum([a, b], weights: [0.7, 0.3])`: teachers, not numbers.
                if let (Reduction::Sum, Some(weights)) = (reduction, given.get(4).copied().flatten()) {
                    return self.pooled(Pool::Sum, given[0].expect("required"), Some(weights), span, env);
                }
                let Some(over) = given[1] else {
                    self.report(
                        Diagnostic::error(
                            Code::MissingArgument,
                            span,
                            format!("`{}` needs `over`", builtin.name),
                        )
                        .label("not given here")
                        .help(builtin.usage),
                    );
                    return Value::Error;
                };
                self.reduce(reduction, given[0].expect("required"), over, [given[2], given[3]], span, env)
            }
            Kind::Statistic(Statistic::Softmax) if given[3].is_some() => self.across(given, span, env),
            Kind::Statistic(name) => self.statistic(name, builtin, given, span, env),
            Kind::Scan(name) => self.scan(name, given, span, env),
            Kind::Memory(name) => self.memory(name, given, span, env),
            _ => unreachable!("every other kind is handled where its values are made"),
        }
    }

    /// The number given for a parameter.
    fn argument(&mut self, given: &[Option<&Expr>], slot: usize, env: &Env) -> Option<(Formula, Span)> {
        let expr = given[slot].expect("required arguments are there");
        let value = self.evaluate(expr, env);
        Some((self.formula(value, expr.span)?, expr.span))
    }

    /// Numbers that must share a unit: the bounds of a `clip`, the sides of a `min`, the branches of a
    /// `where`.
    pub(in crate::check) fn shared_unit(
        &mut self,
        name: &str,
        parts: &[(Formula, Span)],
        span: Span,
    ) -> Option<Unit> {
        let mut unit = parts[0].0.unit();
        for (part, place) in &parts[1..] {
            match common_unit(unit, part.unit()) {
                Some(common) => unit = common,
                None => {
                    let message = format!("`{name}` mixes {} and {}", unit.name(), part.unit().name());
                    self.unit_mismatch(span, &message, &[(parts[0].1, &parts[0].0), (*place, part)], None);
                    return None;
                }
            }
        }
        Some(unit)
    }

    fn extreme(&mut self, function: Function, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (Some(a), Some(b)) = (self.argument(given, 0, env), self.argument(given, 1, env)) else {
            return Value::Error;
        };
        let parts = [a, b];
        let Some(unit) = self.shared_unit(function.name(), &parts, span) else {
            return Value::Error;
        };
        self.apply(function, parts.into_iter().map(|(formula, _)| formula).collect(), unit, span)
    }

    fn clip(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (Some(x), Some(low), Some(high)) =
            (self.argument(given, 0, env), self.argument(given, 1, env), self.argument(given, 2, env))
        else {
            return Value::Error;
        };
        for (bound, place) in [&low, &high] {
            if bound.live() {
                self.report(Diagnostic::error(
                    Code::NotDifferentiable,
                    *place,
                    "the bounds of a `clip` carry no gradient",
                ));
                return Value::Error;
            }
        }
        if let (FormulaKind::Number(a), FormulaKind::Number(b)) = (&low.0.0.kind, &high.0.0.kind)
            && a > b
        {
            let text = format!("the range from {a} to {b} is empty");
            self.report(
                Diagnostic::error(Code::OutOfRange, high.1, text)
                    .note(low.1, "the lower bound")
                    .help("write the lower bound first: `clip(x, low, high)`"),
            );
            return Value::Error;
        }
        let parts = [x, low, high];
        let Some(unit) = self.shared_unit("clip", &parts, span) else { return Value::Error };
        self.apply(Function::Clip, parts.into_iter().map(|(formula, _)| formula).collect(), unit, span)
    }

    fn choose(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (Some(condition), Some(then), Some(otherwise)) =
            (self.argument(given, 0, env), self.argument(given, 1, env), self.argument(given, 2, env))
        else {
            return Value::Error;
        };
        if condition.0.unit() != Unit::Bool {
            let place = condition.1;
            self.unit_mismatch(
                place,
                "the condition of a `where` must be a bool",
                &[(place, &condition.0)],
                None,
            );
            return Value::Error;
        }
        let branches = [then, otherwise];
        let Some(unit) = self.shared_unit("where", &branches, span) else { return Value::Error };
        let operands = std::iter::once(condition).chain(branches).map(|(formula, _)| formula).collect();
        self.apply(Function::Where, operands, unit, span)
    }

    /// floor(clip(x, 0, 1) * n), and the last part for 1 itself.
    fn bucket(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let Some((x, _)) = self.argument(given, 0, env) else { return Value::Error };
        let Some(n) = self.count(given[1].expect("required"), "n", env, 1) else { return Value::Error };
        let (Value::Formula(parts), Value::Formula(last)) = (
            self.number(f64::from(n), Unit::Number, span),
            self.number(f64::from(n - 1), Unit::Number, span),
        ) else {
            return Value::Error;
        };
        let steps =
            [(Function::Multiply, Some(parts)), (Function::Floor, None), (Function::Minimum, Some(last))];
        let mut value = x;
        for (function, second) in steps {
            let operands = std::iter::once(value).chain(second).collect();
            match self.apply(function, operands, Unit::Count, span) {
                Value::Formula(formula) => value = formula,
                other => return other,
            }
        }
        Value::Formula(value)
    }

    /// The axis named by `over: sequence`.
    pub(in crate::check) fn axis(&mut self, expr: &Expr) -> Option<Axis> {
        if matches!(&expr.kind, ExprKind::Name(name) if name == Axis::Vocab.name()) {
            let text = "only a divergence runs over the vocabulary";
            let finding = Diagnostic::error(Code::AxisMismatch, expr.span, text);
            self.report(finding.help(
                "write `kl(student || teacher)`, `tv(student, teacher)`, ...: one number per token is left",
            ));
            return None;
        }
        let named = Axis::ALL.iter().filter(|axis| **axis != Axis::Vocab);
        let mut axes: Vec<(&str, Axis)> = named.map(|axis| (axis.name(), *axis)).collect();
        // Nothing is finer than a token: `over: tokens` was not meant for `over: token`.
        if !matches!(&expr.kind, ExprKind::Name(name) if name == Axis::Token.name())
            && self.key_before(expr.span) == Some("over")
        {
            axes.retain(|(_, axis)| *axis != Axis::Token);
        }
        self.word(expr, "an axis", &axes)
    }

    /// One of a fixed list of words.
    pub(in crate::check) fn word<T: Clone>(
        &mut self,
        expr: &Expr,
        what: &str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let listed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let written = match &expr.kind {
            ExprKind::Name(name) => name.as_str(),
            ExprKind::Text(text) => text.as_str(),
            ExprKind::Error => return None,
            _ => self.sources.text(expr.span),
        };
        let value =
            |word: &str| words.iter().find(|(known, _)| *known == word).map(|(_, value)| value.clone());
        if let (ExprKind::Name(_), Some(value)) = (&expr.kind, value(written)) {
            return Some(value);
        }
        let finding = match &expr.kind {
            ExprKind::Name(name) => {
                Diagnostic::error(Code::UnknownValue, expr.span, format!("`{name}` is not {what}"))
            }
            ExprKind::Text(_) => Diagnostic::error(
                Code::UnknownValue,
                expr.span,
                format!("this must be {what}, and is a text"),
            ),
            ExprKind::Field { .. } => {
                Diagnostic::error(Code::UnknownValue, expr.span, format!("`{written}` is not {what}"))
            }
            _ => Diagnostic::error(Code::UnknownValue, expr.span, format!("this must be {what}")),
        };
        // Read as what was meant: one slip is one finding.
        let (finding, meant) = match (&expr.kind, foreign::word(written, &known)) {
            (ExprKind::Text(text), _) if known.contains(&text.as_str()) => {
                (unknown::without_quotes(finding, Some(text.clone())), value(text))
            }
            (_, Some(ours)) => {
                let finding = finding.help(format!("here it is called `{ours}`"));
                (finding.replace_with(format!("change to `{ours}`"), ours), value(ours))
            }
            (ExprKind::Name(name), None) => match nearest(name, known.iter().copied()) {
                Some(near) => (finding.did_you_mean(name, near), value(near)),
                None => (finding.help(format!("one of: {}", listed())), None),
            },
            _ => (finding.help(format!("one of: {}", listed())), None),
        };
        self.report(finding);
        meant
    }

    fn reduce(
        &mut self,
        reduction: Reduction,
        x: &Expr,
        over: &Expr,
        [among, on]: [Option<&Expr>; 2],
        span: Span,
        env: &Env,
    ) -> Value {
        let value = self.evaluate(x, env);
        let (Some(formula), Some(over_axis)) = (self.formula(value, x.span), self.axis(over)) else {
            return Value::Error;
        };
        if formula.axis() <= over_axis {
            let text = format!("this is one number per {} already", formula.axis().name());
            self.report(
                Diagnostic::error(
                    Code::AxisMismatch,
                    x.span,
                    format!("cannot reduce over {}: the operand has no such axis", over_axis.name()),
                )
                .label(text)
                .note(over.span, "reduces to one number per element of this axis")
                .help(
                    "name a coarser axis: `over: batch`, or `over: group` where each prompt has several \
                     samples; or leave the reduction out",
                ),
            );
            return Value::Error;
        }
        if reduction.of_truths() && formula.unit() != Unit::Bool {
            let message = format!("`{}` needs bools", reduction.name());
            self.unit_mismatch(x.span, &message, &[(x.span, &formula)], Some("compare with a bound first"));
            return Value::Error;
        }
        if formula.live() && !matches!(reduction, Reduction::Sum | Reduction::Mean) {
            let text = format!("the `{}` of `live` values has no derivative here", reduction.name());
            self.report(Diagnostic::error(Code::NotDifferentiable, span, text));
            return Value::Error;
        }
        let among = match among {
            Some(expr) => match self.among(expr, formula.axis(), env) {
                Some(among) => Some(among),
                None => return Value::Error,
            },
            None => None,
        };
        let on = match on {
            Some(expr) => match self.elsewhere(expr, &formula, over_axis, env) {
                Some(rollout) => Some(rollout),
                None => return Value::Error,
            },
            None => None,
        };
        let unit = (reduction.definition().unit)(formula.unit());
        let (live, origin) = (formula.live(), self.origin(span));
        let kind = FormulaKind::Reduce { reduction, operand: formula, among, on };
        Value::Formula(Formula::new(kind, unit, over_axis, live, origin))
    }

    /// The rollout of `on:`: other completions of the same prompts. What is known of them is a number per
    /// prompt at most.
    fn elsewhere(
        &mut self,
        expr: &Expr,
        x: &Formula,
        over: Axis,
        env: &Env,
    ) -> Option<Rc<crate::experiment::Rollout>> {
        let rollout = self.rollout_value(expr, env)?;
        if over > Axis::Group {
            let text =
                format!("another rollout has its own {}s: they can't be matched with these", over.name());
            self.report(
                Diagnostic::error(Code::AxisMismatch, expr.span, text)
                    .help("reduce over `group`, `domain` or `batch`"),
            );
            return None;
        }
        if x.live() {
            let text = "what is read off another rollout carries no gradient";
            self.report(
                Diagnostic::error(Code::NotDifferentiable, expr.span, text)
                    .help("to train on it, give a term its own stream: `{ data = ... }`"),
            );
            return None;
        }
        Some(rollout)
    }

    /// The condition of `among:`: a bool no finer than what is compared.
    fn among(&mut self, expr: &Expr, axis: Axis, env: &Env) -> Option<Formula> {
        let value = self.evaluate(expr, env);
        let condition = self.formula(value, expr.span)?;
        if condition.unit() != Unit::Bool {
            self.unit_mismatch(expr.span, "`among` needs a bool", &[(expr.span, &condition)], None);
            return None;
        }
        // A completion is selected where some token of it is.
        if axis < Axis::Token && matches!(condition.0.kind, FormulaKind::Signal(Signal::Selected)) {
            let origin = condition.0.origin;
            let kind =
                FormulaKind::Reduce { reduction: Reduction::Any, operand: condition, among: None, on: None };
            return Some(Formula::new(kind, Unit::Bool, axis, false, origin));
        }
        if condition.axis() > axis {
            let text =
                format!("one bool per {} can't choose among {}s", condition.axis().name(), axis.name());
            self.report(
                Diagnostic::error(Code::AxisMismatch, expr.span, text)
                    .help("reduce it first, for example with `any(...)`"),
            );
            return None;
        }
        Some(condition)
    }

    fn statistic(
        &mut self,
        name: Statistic,
        builtin: &'static Builtin,
        given: &[Option<&Expr>],
        span: Span,
        env: &Env,
    ) -> Value {
        let slot = |parameter: &str| {
            builtin.parameters.iter().position(|known| known.name == parameter).and_then(|at| given[at])
        };
        let Some((x, place)) = self.argument(given, 0, env) else { return Value::Error };
        let Some(statistic) = self.statistic_of(name, &slot, env) else { return Value::Error };
        let over = match slot("over") {
            Some(expr) => match self.axis(expr) {
                Some(axis) => (axis, expr.span),
                None => return Value::Error,
            },
            None if matches!(name, Statistic::Chunks { .. }) => (Axis::Sequence, span),
            None => {
                self.report(
                    Diagnostic::error(
                        Code::MissingArgument,
                        span,
                        format!("`{}` needs `over`", builtin.name),
                    )
                    .label("not given here")
                    .help(builtin.usage),
                );
                return Value::Error;
            }
        };
        let truths = name.of_truths();
        if truths != (x.unit() == Unit::Bool) {
            let message = match truths {
                true => "`balance` needs bools".to_owned(),
                false => format!("`{}` compares numbers, not bools", builtin.name),
            };
            self.unit_mismatch(
                place,
                &message,
                &[(place, &x)],
                (!truths).then_some("use `where(condition, 1, 0)`"),
            );
            return Value::Error;
        }
        let unit = (statistic.definition().unit)(x.unit());
        if x.live() {
            self.report(
                Diagnostic::error(
                    Code::NotDifferentiable,
                    span,
                    "a statistic over a batch or group has no derivative here",
                )
                .note(place, "`live` in here")
                .help("statistics are for weights and advantages: read the value without `live`"),
            );
            return Value::Error;
        }
        if x.axis() <= over.0 {
            let text = format!("this is one number per {}", x.axis().name());
            self.report(
                Diagnostic::error(
                    Code::AxisMismatch,
                    place,
                    format!("cannot compare over {}: the operand has no such axis", over.0.name()),
                )
                .label(text)
                .note(over.1, "elements of this axis are compared")
                .help(
                    "name a coarser axis: `over: batch`, or `over: group` where each prompt has several \
                     samples",
                ),
            );
            return Value::Error;
        }
        let among = match slot("among") {
            Some(expr) => match self.among(expr, x.axis(), env) {
                Some(among) => Some(among),
                None => return Value::Error,
            },
            None => None,
        };
        let (axis, origin) = (x.axis(), self.origin(span));
        let kind = FormulaKind::Statistic { statistic, operand: x, over: over.0, among };
        Value::Formula(Formula::new(kind, unit, axis, false, origin))
    }

    /// The statistic with its own numbers.
    fn statistic_of<'e>(
        &mut self,
        name: Statistic,
        slot: &dyn Fn(&str) -> Option<&'e Expr>,
        env: &Env,
    ) -> Option<Statistic> {
        let fraction = |checker: &mut Checker, parameter: &str| {
            let expr = slot(parameter).expect("required");
            let value = checker.evaluate(expr, env);
            checker.fraction(&value, expr.span, &format!("`{parameter}`"))
        };
        let count = |checker: &mut Checker, parameter: &str| {
            checker.count(slot(parameter).expect("required"), parameter, env, 1)
        };
        Some(match name {
            Statistic::Zscore { .. } => {
                let words = [("population", Deviation::Population), ("sample", Deviation::Sample)];
                let deviation =
                    self.word(slot("deviation").expect("required"), "a kind of deviation", &words)?;
                Statistic::Zscore { deviation }
            }
            plain @ (Statistic::Center
            | Statistic::Rank
            | Statistic::LeaveOneOut
            | Statistic::Minmax
            | Statistic::Softmax
            | Statistic::Balance) => plain,
            Statistic::Winsor { .. } => Statistic::Winsor { upper: fraction(self, "upper")? },
            Statistic::TopFraction { .. } => Statistic::TopFraction { keep: fraction(self, "keep")? },
            Statistic::SampleWithoutReplacement { .. } => {
                Statistic::SampleWithoutReplacement { keep: fraction(self, "keep")? }
            }
            Statistic::TopCount { .. } => Statistic::TopCount { count: count(self, "n")? },
            Statistic::Chunks { .. } => {
                let most = count(self, "most");
                let width = slot("width").expect("required");
                let value = self.evaluate(width, env);
                // Not the width of a model.
                let width = self.whole(&value, width.span, "the width of a window", 1);
                Statistic::Chunks { most: most?, width: width? as u32 }
            }
        })
    }

    /// `softmax(t.confidence / 100, across: panel, missing: uniform)`: written for one teacher of the panel,
    /// computed with all.
    fn across(&mut self, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let (x, across) = (given[0].expect("required"), given[3].expect("the caller looked"));
        let panel = match self.evaluate(across, env) {
            Value::Panel(panel) => panel,
            other => return self.wrong_kind(across.span, "`across` needs a panel of teachers", &other),
        };
        match given[4] {
            Some(missing) => {
                if self.word(missing, "what holds where a value is missing", &[("uniform", ())]).is_none() {
                    return Value::Error;
                }
            }
            None => {
                self.report(
                    Diagnostic::error(
                        Code::MissingArgument,
                        span,
                        "a teacher may state nothing: what holds then?",
                    )
                    .help("add `missing: uniform`: every teacher of the panel counts alike"),
                );
                return Value::Error;
            }
        }
        let members = self.parts.panels.read()[panel.0 as usize].members.clone();
        let current = env
            .locals
            .iter()
            .rposition(|(_, value)| matches!(value, Value::Teacher(teacher) if members.contains(teacher)));
        let Some(current) = current else {
            self.report(
                Diagnostic::error(
                    Code::TypeMismatch,
                    x.span,
                    "this is the same for every teacher of the panel",
                )
                .help(
                    "write it for one of them: `let trust[t in duo] = softmax(t.confidence, across: \
                         duo, missing: uniform)`",
                ),
            );
            return Value::Error;
        };
        let Value::Teacher(this) = env.locals[current].1 else { unreachable!("it was found by its kind") };
        let (mut formulas, mut among) = (Vec::new(), Vec::new());
        for member in &members {
            let mut inner = env.clone();
            Rc::make_mut(&mut inner.locals)[current].1 = Value::Teacher(*member);
            let value = self.evaluate(x, &inner);
            let Some(formula) = self.formula(value, x.span) else { return Value::Error };
            formulas.push(formula);
            if let Some(condition) = given[2] {
                let Some(condition) = self.among(condition, Axis::Token, &inner) else { return Value::Error };
                among.push(condition);
            }
        }
        let axis = formulas.iter().map(Formula::axis).max().expect("a panel has members");
        let index = members.iter().position(|member| *member == this).expect("it was found among them");
        let origin = self.origin(span);
        Value::Formula(Formula::new(
            FormulaKind::Across { members: formulas, among, index },
            Unit::Fraction,
            axis,
            false,
            origin,
        ))
    }

    fn scan(&mut self, name: Scan<()>, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let Some((x, place)) = self.argument(given, 0, env) else { return Value::Error };
        let (scan, over) = match name {
            Scan::Sum => (Scan::Sum, given[1]),
            Scan::Product => (Scan::Product, given[1]),
            Scan::Minimum => (Scan::Minimum, given[1]),
            Scan::Maximum => (Scan::Maximum, given[1]),
            Scan::Next => (Scan::Next, given[1]),
            Scan::RewardToGo { .. } => {
                let Some((discount, place)) = self.argument(given, 1, env) else { return Value::Error };
                if let Some(value) = discount.constant().filter(|value| !(0.0..=1.0).contains(value)) {
                    let finding =
                        Diagnostic::error(Code::OutOfRange, place, "a discount must lie between 0 and 1");
                    self.report(finding.label(format!("this is {value}")));
                    return Value::Error;
                }
                (Scan::RewardToGo { discount }, given[2])
            }
        };
        let over = over.expect("required");
        let Some(axis) = self.axis(over) else { return Value::Error };
        if x.axis() <= axis {
            let text = format!("this is one number per {}", x.axis().name());
            self.report(
                Diagnostic::error(
                    Code::AxisMismatch,
                    place,
                    format!("nothing runs along one {}", axis.name()),
                )
                .label(text)
                .note(over.span, "the scan starts anew with each of these"),
            );
            return Value::Error;
        }
        if x.live() {
            self.report(
                Diagnostic::error(
                    Code::NotDifferentiable,
                    span,
                    "a scan is for weights and advantages: nothing in it is `live`",
                )
                .note(place, "`live` in here"),
            );
            return Value::Error;
        }
        let unit = (scan.definition().unit)(x.unit());
        let (x_axis, origin) = (x.axis(), self.origin(span));
        Value::Formula(Formula::new(
            FormulaKind::Scan { scan, operand: x, over: axis },
            unit,
            x_axis,
            false,
            origin,
        ))
    }

    /// What is carried over the steps of a run: `ema(x, rate: 0.9)`, `previous(x)`.
    fn memory(&mut self, name: Memory, given: &[Option<&Expr>], span: Span, env: &Env) -> Value {
        let Some((x, place)) = self.argument(given, 0, env) else { return Value::Error };
        let memory = match name {
            Memory::Previous => Memory::Previous,
            Memory::Ema { .. } => {
                let expr = given[1].expect("required");
                let value = self.evaluate(expr, env);
                let Some(rate) = self.fraction(&value, expr.span, "`rate`") else { return Value::Error };
                Memory::Ema { rate }
            }
        };
        if x.axis() > Axis::Batch {
            let text = format!(
                "only one number per step is carried to the next, and this is one per {}",
                x.axis().name()
            );
            self.report(
                Diagnostic::error(Code::AxisMismatch, place, text)
                    .help("reduce it first: `mean(x, over: batch)`"),
            );
            return Value::Error;
        }
        if x.live() {
            let text = "what is carried from step to step carries no gradient";
            self.report(Diagnostic::error(Code::NotDifferentiable, span, text).note(place, "`live` in here"));
            return Value::Error;
        }
        let (unit, axis, origin) = (x.unit(), x.axis(), self.origin(span));
        Value::Formula(Formula::new(FormulaKind::Memory { memory, operand: x }, unit, axis, false, origin))
    }
}
