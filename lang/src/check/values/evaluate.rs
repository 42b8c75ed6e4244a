//! The evaluator: from expressions to values.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{BinaryOperator, Expr, ExprKind, Index, UnaryOperator};
use mopd_experiment::formula::{Axis, CountWord, Formula, FormulaKind, Function, Signal, Unit};
use mopd_experiment::{DomainId, SelfCopy};

use crate::check::Checker;
use crate::check::DEEPEST_CHAIN;
use crate::check::builtins;
use crate::check::formulas::signals::named_number;
use crate::check::names::modules::ModuleId;
use crate::check::names::unknown_name::all_domains;
use crate::check::stages::settings::undecided;
use crate::check::values::value::{MemberKey, Value};

/// The environment of an expression: the names it sees, and what it may read.
#[derive(Clone)]
pub struct Env {
    pub module: ModuleId,
    /// Shared until something is bound: an environment is copied for every call and every setting.
    pub locals: Rc<Vec<(Rc<str>, Value)>>,
    pub context: EvaluationContext,
    /// The name for a model that is made in this expression.
    pub model_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluationContext {
    /// Known before the run: no signals.
    Constant,
    /// In a schedule: `step`, `progress` and other numbers of the whole run.
    Schedule,
    /// In a guard: numbers of past steps.
    Guard,
    /// In the summand of a divergence: its sides and parameters, nothing of the run.
    Entry,
    /// In an objective, outside its terms: signals, nothing live.
    Objective,
    /// In a term: signals, and `live`.
    Term,
}

impl EvaluationContext {
    /// Whether signals of tokens are visible in this context.
    pub fn has_tokens(self) -> bool {
        matches!(self, EvaluationContext::Objective | EvaluationContext::Term)
    }
}

impl Env {
    pub fn constant(module: ModuleId) -> Env {
        Env { module, locals: Rc::default(), context: EvaluationContext::Constant, model_name: String::new() }
    }

    pub fn bind(&mut self, name: &str, value: Value) {
        Rc::make_mut(&mut self.locals).push((name.into(), value));
    }

    pub fn with_context(&self, context: EvaluationContext) -> Env {
        Env { context, ..self.clone() }
    }

    pub fn named(&self, model_name: impl Into<String>) -> Env {
        Env { model_name: model_name.into(), ..self.clone() }
    }

    pub fn local(&self, name: &str) -> Option<&Value> {
        self.locals.iter().rev().find(|(local, _)| **local == *name).map(|(_, value)| value)
    }
}

impl Checker {
    pub(in crate::check) fn evaluate_constant(&mut self, module: ModuleId, expr: &Expr) -> Value {
        self.evaluate(expr, &Env::constant(module))
    }

    pub(in crate::check) fn evaluate(&mut self, expr: &Expr, env: &Env) -> Value {
        if self.cancellation.gives_up() {
            return Value::Error;
        }
        let value = self.evaluated(expr, env);
        match &value {
            Value::Formula(formula) if formula.depth() as usize > DEEPEST_CHAIN => {
                self.too_deep(expr.span, "this formula");
                Value::Error
            }
            _ => value,
        }
    }

    /// Reports that definitions are nested too deep.
    pub(in crate::check) fn too_deep(&mut self, span: Span, what: &str) {
        let text = format!("{what} is made of more than {DEEPEST_CHAIN} definitions, each inside the last");
        let help = "define it with fewer steps in between, or with a loop";
        self.report(Diagnostic::error(Code::NestingTooDeep, span, text).help(help));
    }

    fn evaluated(&mut self, expr: &Expr, env: &Env) -> Value {
        match &expr.kind {
            ExprKind::Number { value, suffix } => {
                if suffix.as_ref().is_some_and(|suffix| suffix.text.starts_with("epoch")) {
                    let count = self.number(*value, Unit::Count, expr.span);
                    return self
                        .whole(&count, expr.span, "a number of epochs", 1)
                        .map_or(Value::Error, |count| Value::Epochs(count as u32));
                }
                let Some(suffix) = suffix else { return self.number(*value, Unit::Number, expr.span) };
                let origin = self.origin(expr.span);
                let number = Formula::new(FormulaKind::Number(*value), Unit::Count, Axis::Run, false, origin);
                Value::Formula(number.counting(CountWord::of_literal(&suffix.text, origin)))
            }
            ExprKind::Text(text) => Value::Text(text.clone()),
            ExprKind::Bool(value) => self.truth(*value, expr.span),
            ExprKind::Name(name) => self.name(name, expr.span, env),
            ExprKind::Field { base, field } => self.field(base, field, expr.span, env),
            ExprKind::Index { base, index } => self.index(base, index, env),
            ExprKind::Call { callee, arguments, block } => {
                self.call(expr, callee, arguments, block.as_ref(), env)
            }
            ExprKind::List(items) => Value::List(items.iter().map(|item| self.evaluate(item, env)).collect()),
            ExprKind::Unary { operator, operand } => self.unary(*operator, operand, expr.span, env),
            ExprKind::Binary { operator, operator_span, left, right } => {
                self.binary_expression(expr.span, *operator, *operator_span, left, right, env)
            }
            ExprKind::Live(operand) => self.live(operand, expr.span, env),
            ExprKind::Arrow { from, to } => self.arrow(from, to, expr.span, env),
            ExprKind::Versus { left, right } => {
                let Some(left) = self.distribution(left, env) else {
                    // Names inside are still checked. If the other side is no role either, that is not
                    // reported again.
                    self.evaluate(right, env);
                    return Value::Error;
                };
                self.distribution(right, env).map_or(Value::Error, |right| Value::Versus { left, right })
            }
            ExprKind::Then { .. } => self.misplaced(
                expr.span,
                "`then` joins the steps of a `reduce`, and the first and the next value of a `state`",
                "write `reduce = mean(token) then mean(sequence)`, or `state x = 0 then 0.9 * x + 0.1 * y`",
            ),
            ExprKind::By { .. } => self.misplaced(
                expr.span,
                "`by domain` belongs to a `reduce`, nothing else",
                "write `reduce = mean(token, over: batch) by domain { target = 1/3 }`",
            ),
            ExprKind::Where { .. } => self.misplaced(
                expr.span,
                "`where` after a value names parts of a composed teacher, nothing else",
                "in an objective write a `let` above",
            ),
            ExprKind::For { index, carried, body } => match carried {
                None => {
                    let turns = self.turns(index, env);
                    Value::List(turns.into_iter().map(|(_, env)| self.evaluate(body, &env)).collect())
                }
                Some(carried) => {
                    let mut value = self.evaluate(&carried.start, env);
                    let turns = self.turns(index, env);
                    let last = turns.len();
                    for (turn, (key, mut inner)) in turns.into_iter().enumerate() {
                        if let Some(key) = key
                            && turn + 1 < last
                        {
                            inner.model_name = format!("{}[{}]", env.model_name, self.key_text(key));
                        }
                        inner.bind(&carried.name.text, value);
                        value = self.evaluate(body, &inner);
                    }
                    value
                }
            },
            ExprKind::Match { arms } => self.matched(arms, expr.span, env),
            ExprKind::Range { low, high } => self.range(low, high, expr.span, env),
            ExprKind::Pipe { value, through } => self.pipe(value, through, expr.span, env),
            ExprKind::Error => Value::Error,
        }
    }

    pub(in crate::check) fn number(&mut self, value: f64, unit: Unit, span: Span) -> Value {
        let origin = self.origin(span);
        Value::Formula(Formula::new(FormulaKind::Number(value), unit, Axis::Run, false, origin))
    }

    fn truth(&mut self, value: bool, span: Span) -> Value {
        self.number(f64::from(u8::from(value)), Unit::Bool, span)
    }

    pub(in crate::check) fn misplaced(&mut self, span: Span, message: &str, help: &str) -> Value {
        self.report(Diagnostic::error(Code::TypeMismatch, span, message).help(help));
        Value::Error
    }

    fn name(&mut self, name: &str, span: Span, env: &Env) -> Value {
        if let Some(value) = env.local(name) {
            return value.clone();
        }
        if let Some(value) = self.signal_name(name, span, env) {
            return value;
        }
        if let Some(declared) = self.modules.lookup(env.module, name) {
            return self.item_value(declared.item, span);
        }
        match name {
            "domains" => {
                return Value::List(
                    (0..self.parts.domains.len() as u32).map(|id| Value::Domain(DomainId(id))).collect(),
                );
            }
            "self" => return Value::Student(SelfCopy::Current),
            _ => {}
        }
        if let Some(number) = named_number(name) {
            return self.number(number, Unit::Number, span);
        }
        if let Some(builtin) = builtins::find(name) {
            return Value::Builtin(builtin);
        }
        if let Some(item) = self.standard_divergence(name) {
            return self.item_value(item, span);
        }
        self.unknown_name(name, span, env);
        Value::Error
    }

    fn unary(&mut self, operator: UnaryOperator, operand: &Expr, span: Span, env: &Env) -> Value {
        let value = self.evaluate(operand, env);
        if let (UnaryOperator::Negate, Value::Logits(parts)) = (operator, &value) {
            return self.scaled_logits(parts.clone(), None, -1.0, span);
        }
        let Some(formula) = self.formula(value, operand.span) else { return Value::Error };
        match operator {
            UnaryOperator::Negate => self.applied(Function::Negate, formula, span, span),
            UnaryOperator::Not => self.applied(Function::Not, formula, span, span),
        }
    }

    /// `1e-3 -> 1e-4` between numbers, `"a" -> "b"` between texts.
    fn arrow(&mut self, from: &Expr, to: &Expr, span: Span, env: &Env) -> Value {
        let (from, to) = (self.evaluate(from, env), self.evaluate(to, env));
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
                self.wrong_kind(span, "a range `from -> to` needs two numbers known before the run", &odd)
            }
        }
    }

    /// `0..=100`
    fn range(&mut self, low: &Expr, high: &Expr, span: Span, env: &Env) -> Value {
        let (low, high) = (self.evaluate(low, env), self.evaluate(high, env));
        match (low.number(), high.number()) {
            (Some(low), Some(high)) if low <= high => Value::Range { low, high },
            (Some(low), Some(high)) => {
                let text = format!("the range from {low} to {high} is empty");
                self.report(
                    Diagnostic::error(Code::OutOfRange, span, text)
                        .help("write the lower end first: `0..=100`"),
                );
                Value::Error
            }
            _ if low.is_error() || high.is_error() || undecided(&low) || undecided(&high) => Value::Error,
            _ => {
                let odd = if low.number().is_some() { high } else { low };
                self.wrong_kind(span, "a range `low..=high` needs two numbers known before the run", &odd)
            }
        }
    }

    /// One environment per element of `d in domains`, `r in 0..=26`, `t in panel`.
    pub(in crate::check) fn turns(&mut self, index: &Index, env: &Env) -> Vec<(Option<MemberKey>, Env)> {
        if !self.spend(0, index.over.span) {
            return Vec::new();
        }
        let name = &index.name;
        if crate::check::builtins::vocabulary::signal(&name.text).is_some()
            || crate::check::formulas::signals::is_reserved(&name.text)
        {
            let text = format!("`{}` is a built-in name already: every objective can read it", name.text);
            let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
            self.report(
                diagnostic.label("can't iterate over a list").help("choose another name, such as `d` or `t`"),
            );
        } else if env.local(&name.text).is_some() {
            let text = format!("`{}` is a parameter, a `let` or a variable already", name.text);
            let diagnostic = Diagnostic::error(Code::DuplicateName, name.span, text);
            self.report(diagnostic.label("would hide it in here").help("choose another name"));
        }
        let items = match self.evaluate(&index.over, env) {
            Value::List(items) => items,
            Value::Panel(panel) => {
                let members = self.parts.panels[panel.0 as usize].members.clone();
                members.into_iter().map(Value::Teacher).collect()
            }
            Value::Range { low, high } => {
                if low.fract() != 0.0 || high - low >= 10_000.0 {
                    let text = "a range to iterate over has whole numbers, at most 10,000 of them";
                    self.report(Diagnostic::error(Code::OutOfRange, index.over.span, text));
                    return Vec::new();
                }
                (0..=(high - low) as u64)
                    .map(|step| self.number(low + step as f64, Unit::Count, index.over.span))
                    .collect()
            }
            Value::Error => return Vec::new(),
            other => {
                let wanted = "`in` needs a list, such as `domains`, `[math, code]` or `0..=26`";
                self.wrong_kind(index.over.span, wanted, &other);
                return Vec::new();
            }
        };
        if !self.spend(items.len(), index.over.span) {
            return Vec::new();
        }
        let turn = |item: Value| {
            let key = MemberKey::from_value(&item);
            let mut inner = env.clone();
            inner.bind(&index.name.text, item);
            (key, inner)
        };
        items.into_iter().map(turn).collect()
    }

    /// The elements of an index that names members: `[d in domains]`. A repeated element would give two
    /// members one name.
    pub(in crate::check) fn members(
        &mut self,
        index: &Index,
        env: &Env,
    ) -> Option<Vec<(Option<MemberKey>, Env)>> {
        let turns = self.turns(index, env);
        (!self.repeats(index, &turns, "member")).then_some(turns)
    }

    /// Whether an element is in the list of an index twice, so that what is made of it, the `what`, would be
    /// there twice. Reports it.
    pub(in crate::check) fn repeats(
        &mut self,
        index: &Index,
        turns: &[(Option<MemberKey>, Env)],
        what: &str,
    ) -> bool {
        let mut known: FxHashMap<MemberKey, usize> = FxHashMap::default();
        for (at, (key, _)) in turns.iter().enumerate() {
            let Some(key) = key else { continue };
            let Some(first) = known.insert(*key, at) else { continue };
            let name = self.key_text(*key);
            let text = format!("`{name}` is in this list twice, and its {what} would be too");
            let place = |at: usize| match &index.over.kind {
                ExprKind::List(items) => items.get(at).map(|item| item.span),
                _ => None,
            };
            let diagnostic =
                Diagnostic::error(Code::DuplicateName, place(at).unwrap_or(index.over.span), text);
            let diagnostic = match place(first) {
                Some(first) => diagnostic.label("again here").note(first, "first here"),
                None => diagnostic,
            };
            self.report(diagnostic.help("name each of them once"));
            return true;
        }
        false
    }

    /// The key as it is written in the name of a member: `expert[sort]`.
    pub(in crate::check) fn key_text(&self, key: MemberKey) -> String {
        match key {
            MemberKey::Domain(domain) => self.domain(domain).name.clone(),
            MemberKey::Teacher(teacher) => self.teacher(teacher).name.clone(),
            MemberKey::Number(number) => number.to_string(),
        }
    }

    fn index(&mut self, base: &Expr, index: &Expr, env: &Env) -> Value {
        let family = match self.evaluate(base, env) {
            Value::Family(family) => family,
            Value::Error => return Value::Error,
            other => {
                return self.wrong_kind(
                    base.span,
                    "only a family, such as `model expert[d in domains]`, has members",
                    &other,
                );
            }
        };
        let at = self.evaluate(index, env);
        let Some(key) = MemberKey::from_value(&at) else {
            return self.wrong_kind(index.span, "a member is picked by its domain, number or teacher", &at);
        };
        match family.get(key) {
            Some(value) => value.clone(),
            None => {
                let names: Vec<String> = family.members.iter().map(|(key, _)| self.key_text(*key)).collect();
                let what = if matches!(key, MemberKey::Domain(_)) { "the domain " } else { "" };
                let text = format!("`{}` has no member for {what}`{}`", family.name, self.key_text(key));
                let help = format!("it has: {}", names.join(", "));
                self.report(Diagnostic::error(Code::UnknownName, index.span, text).help(help));
                Value::Error
            }
        }
    }

    fn binary_expression(
        &mut self,
        span: Span,
        operator: BinaryOperator,
        operator_span: Span,
        left: &Expr,
        right: &Expr,
        env: &Env,
    ) -> Value {
        let left_value = self.evaluate(left, env);
        let right_value = self.evaluate(right, env);
        let equality = matches!(operator, BinaryOperator::Equal | BinaryOperator::NotEqual);
        match (&left_value, &right_value) {
            // `domains == d`
            (Value::List(_), Value::Domain(_))
                if equality && matches!(&left.kind, ExprKind::Name(name) if name == "domains") =>
            {
                self.report(all_domains(left.span));
                return Value::Error;
            }
            // `domain == "math"`
            (Value::Domain(_) | Value::PromptDomain, Value::Text(text))
            | (Value::Text(text), Value::Domain(_) | Value::PromptDomain)
                if equality =>
            {
                let place = if matches!(left_value, Value::Text(_)) { left.span } else { right.span };
                self.domain_in_quotes(text, place);
                return Value::Error;
            }
            // Values that are not numbers can be compared, too. If one side is unknown, the other can't be
            // wrong.
            (Value::Error, _) | (_, Value::Error) if equality => return Value::Error,
            (Value::Domain(a), Value::Domain(b)) if equality => {
                return self.truth((a == b) == (operator == BinaryOperator::Equal), span);
            }
            (Value::PromptDomain, Value::Domain(domain)) | (Value::Domain(domain), Value::PromptDomain)
                if equality =>
            {
                let name = self.domain(*domain).name.as_str().into();
                return self.compared(Signal::DomainIs { domain: *domain, name }, operator, span);
            }
            (Value::Text(a), Value::Text(b)) if equality => {
                return self.truth((a == b) == (operator == BinaryOperator::Equal), span);
            }
            (Value::Formula(data), Value::Text(text)) | (Value::Text(text), Value::Formula(data))
                if equality =>
            {
                if let FormulaKind::Signal(Signal::Data { field }) = &data.0.kind {
                    let is = Signal::DataIs { field: field.clone(), text: text.clone() };
                    return self.compared(is, operator, span);
                }
            }
            (Value::Logits(_), _) | (_, Value::Logits(_)) => {
                let (a, b) = (Spanned::new(left_value, left.span), Spanned::new(right_value, right.span));
                return self.logits_arithmetic(operator, a, b, span);
            }
            _ => {}
        }
        let (Some(a), Some(b)) = (self.formula(left_value, left.span), self.formula(right_value, right.span))
        else {
            return Value::Error;
        };
        let (a, b) = (Spanned::new(a, left.span), Spanned::new(b, right.span));
        self.binary(operator, operator_span, a, b, span)
    }

    /// Whether two values are equal, which the run decides, or whether they are not.
    fn compared(&mut self, equal: Signal, operator: BinaryOperator, span: Span) -> Value {
        let equal = Formula::signal(equal, self.origin(span));
        match operator {
            BinaryOperator::Equal => Value::Formula(equal),
            _ => self.applied(Function::Not, equal, span, span),
        }
    }
}
