//! The evaluator: expressions and items to values.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, nearest};
use crate::experiment::DomainId;
use crate::formula::{Axis, Formula, FormulaKind, Role, Unit};
use crate::source::Span;
use crate::syntax::ast::{
    Argument, BinaryOperator, Binding, Block, Expr, ExprKind, Index, Item, ItemKind, Name, Parameter, UnaryOperator,
};

use super::Checker;
use super::functions::{self, Builtin};
use super::modules::{ItemId, ModuleId, Progress};
use super::value::{Callable, Family, Value};
use super::vocabulary;

/// Calls inside calls; more is a function that calls itself.
const DEEPEST_CALL: usize = 64;

/// Where an expression stands: which names it sees, and what it may read.
#[derive(Clone)]
pub struct Env {
    pub module: ModuleId,
    pub locals: Vec<(String, Value)>,
    pub context: Context,
    /// What a model made here is called.
    pub model_name: String,
    depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Before the run: no signals.
    Constant,
    /// In an objective, outside its terms: signals, nothing live.
    Objective,
    /// In a term: signals, and `live`.
    Term,
}

/// The arguments of a call, by parameter.
struct Slots<'e> {
    given: Vec<Option<&'e Expr>>,
    /// Reported already.
    misplaced: Vec<&'e Argument>,
}

impl Env {
    pub fn constant(module: ModuleId) -> Env {
        Env { module, locals: Vec::new(), context: Context::Constant, model_name: String::new(), depth: 0 }
    }

    pub fn bind(&mut self, name: &str, value: Value) {
        self.locals.push((name.to_owned(), value));
    }

    pub fn with_context(&self, context: Context) -> Env {
        Env { context, ..self.clone() }
    }

    pub fn named(&self, model_name: impl Into<String>) -> Env {
        Env { model_name: model_name.into(), ..self.clone() }
    }

    fn local(&self, name: &str) -> Option<&Value> {
        self.locals.iter().rev().find(|(local, _)| local == name).map(|(_, value)| value)
    }
}

impl Checker {
    pub(super) fn evaluate_constant(&mut self, module: ModuleId, expr: &Expr) -> Value {
        self.evaluate(expr, &Env::constant(module))
    }

    pub(super) fn evaluate(&mut self, expr: &Expr, env: &Env) -> Value {
        match &expr.kind {
            ExprKind::Number { value, suffix } => {
                let unit = if suffix.is_some() { Unit::Count } else { Unit::Number };
                self.epochs_are_not_supported(suffix.as_ref());
                self.number(*value, unit, expr.span)
            }
            ExprKind::Text(text) => Value::Text(text.clone()),
            ExprKind::Bool(value) => self.number(f64::from(u8::from(*value)), Unit::Bool, expr.span),
            ExprKind::Name(name) => self.name(name, expr.span, env),
            ExprKind::Field { base, field } => self.field(base, field, expr.span, env),
            ExprKind::Index { base, index } => self.index(base, index, env),
            ExprKind::Call { callee, arguments, block } => self.call(expr, callee, arguments, block.as_ref(), env),
            ExprKind::List(items) => Value::List(items.iter().map(|item| self.evaluate(item, env)).collect()),
            ExprKind::Unary { operator, operand } => {
                let value = self.evaluate(operand, env);
                let Some(formula) = self.formula(value, operand.span) else { return Value::Error };
                match operator {
                    UnaryOperator::Negate => self.negate(formula, expr.span),
                    UnaryOperator::Not => self.not(formula, expr.span),
                }
            }
            ExprKind::Binary { operator, operator_span, left, right } => {
                self.binary_expression(expr.span, *operator, *operator_span, left, right, env)
            }
            ExprKind::Live(operand) => self.live(operand, expr.span, env),
            ExprKind::Arrow { from, to } => {
                let from = self.evaluate(from, env);
                let to = self.evaluate(to, env);
                match (from.constant(), to.constant()) {
                    (Some(from), Some(to)) => Value::Arrow { from, to },
                    _ if from.is_error() || to.is_error() => Value::Error,
                    _ => self.wrong_kind(expr.span, "a range `from -> to` needs two numbers known before the run", &from),
                }
            }
            ExprKind::Versus { left, right } => match (self.role(left, env), self.role(right, env)) {
                (Some(left), Some(right)) => Value::Versus { left, right },
                _ => Value::Error,
            },
            ExprKind::Then { .. } => {
                self.report(
                    Diagnostic::error(Code::WrongKind, expr.span, "`then` joins the steps of a `reduce`, nothing else")
                        .help("write `reduce = mean(token) then mean(sequence)`"),
                );
                Value::Error
            }
            ExprKind::For { index, carried, body } => match carried {
                None => {
                    let turns = self.turns(index, env);
                    Value::List(turns.into_iter().map(|(_, env)| self.evaluate(body, &env)).collect())
                }
                Some(carried) => {
                    let mut value = self.evaluate(&carried.start, env);
                    let turns = self.turns(index, env);
                    let last = turns.len();
                    for (turn, (domain, mut inner)) in turns.into_iter().enumerate() {
                        if let Some(domain) = domain
                            && turn + 1 < last
                        {
                            inner.model_name = format!("{}[{}]", env.model_name, self.domain(domain).name);
                        }
                        inner.bind(&carried.name.text, value);
                        value = self.evaluate(body, &inner);
                    }
                    value
                }
            },
            ExprKind::Error => Value::Error,
        }
    }

    pub(super) fn number(&mut self, value: f64, unit: Unit, span: Span) -> Value {
        let origin = self.origin(span);
        Value::Formula(Formula::new(FormulaKind::Number(value), unit, Axis::Run, false, origin))
    }

    fn epochs_are_not_supported(&mut self, suffix: Option<&Name>) {
        if let Some(suffix) = suffix.filter(|suffix| suffix.text.starts_with("epoch")) {
            self.not_supported(suffix.span, "counting in epochs");
        }
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
        if name == "domains" {
            return Value::List((0..self.domains.len() as u32).map(|id| Value::Domain(DomainId(id))).collect());
        }
        if let Some(builtin) = functions::find(name) {
            return Value::Builtin(builtin);
        }
        if let Some(construct) = functions::planned(name) {
            self.not_supported(span, construct);
            return Value::Error;
        }
        let locals: Vec<String> = env.locals.iter().map(|(name, _)| name.clone()).collect();
        let declared: Vec<String> = self.modules.names(env.module).map(str::to_owned).collect();
        let known = locals.iter().chain(&declared).map(String::as_str).chain(functions::names()).chain(["domains"]);
        let signals = if env.context == Context::Constant { &[][..] } else { vocabulary::SIGNALS };
        let near = nearest(name, known.chain(signals.iter().map(|signal| signal.name))).map(str::to_owned);
        let mut finding =
            Diagnostic::error(Code::UnknownName, span, format!("nothing here is called `{name}`")).label("not declared");
        if let Some(near) = near {
            finding = finding.help(format!("did you mean `{near}`?")).replace_with(format!("change to `{near}`"), near);
        } else if vocabulary::signal(name).is_some() {
            finding = finding.help(format!("`{name}` is a signal of the run: it can be read inside an objective only"));
        }
        self.report(finding);
        Value::Error
    }

    /// The value of an item, evaluated when first asked for.
    pub(super) fn item_value(&mut self, id: ItemId, asked_at: Span) -> Value {
        self.record_request(id);
        match self.modules.progress.get(&id) {
            Some(Progress::Done(value)) => return value.clone(),
            Some(Progress::Started) => {
                self.report(
                    Diagnostic::error(Code::Cycle, asked_at, "this definition needs itself").label("asked for again here"),
                );
                return Value::Error;
            }
            None => {}
        }
        self.modules.progress.insert(id, Progress::Started);
        let tree = self.modules.tree(id.module);
        let recording = self.pause_recording();
        let value = self.evaluate_item(id, &tree.items[id.index]);
        self.resume_recording(recording);
        self.modules.progress.insert(id, Progress::Done(value.clone()));
        value
    }

    fn evaluate_item(&mut self, id: ItemId, item: &Item) -> Value {
        match &item.kind {
            ItemKind::Let { value, .. } => self.evaluate_constant(id.module, value),
            ItemKind::Param(parameter) => self.parameter_item(id, parameter),
            ItemKind::Fn { .. } => Value::Item { item: id, kind: Callable::Fn },
            ItemKind::Stage { .. } => Value::Item { item: id, kind: Callable::Stage },
            ItemKind::Objective { .. } => Value::Item { item: id, kind: Callable::Objective },
            ItemKind::Reward { value, .. } => self.reward(value, &Env::constant(id.module)).map_or(Value::Error, Value::Reward),
            ItemKind::Schedule { value, .. } => {
                let formula = self.schedule_setting(value, &Env::constant(id.module));
                formula.map_or(Value::Error, Value::Formula)
            }
            ItemKind::Model(binding) => self.binding(id, binding, false),
            ItemKind::Teacher(binding) => self.binding(id, binding, true),
            // Domains are declared before anything is evaluated; one that is not there was faulty.
            ItemKind::Domain { .. } => Value::Error,
            _ => Value::Error,
        }
    }

    fn parameter_item(&mut self, id: ItemId, parameter: &Parameter) -> Value {
        let name = &parameter.name;
        let set = self.modules.set_value(id.module, &name.text);
        let Some(value) = set.as_ref().or(parameter.default.as_ref()) else {
            self.report(
                Diagnostic::error(Code::MissingKey, name.span, format!("`{}` has no value", name.text))
                    .label("no default")
                    .help(format!("give it one, or run with `--set {}=...`", name.text)),
            );
            return Value::Error;
        };
        let worth = self.evaluate_constant(id.module, value);
        match &parameter.annotation {
            Some(annotation) => self.coerce(worth, annotation, value.span),
            None => worth,
        }
    }

    /// `model m = ...`, `model m[d in domains] = ...` and the same for teachers.
    fn binding(&mut self, id: ItemId, binding: &Binding, teacher: bool) -> Value {
        let name = &binding.name;
        let env = Env::constant(id.module).named(&name.text);
        let Some(index) = &binding.index else {
            let value = self.evaluate(&binding.value, &env);
            return self.bound(value, &name.text, binding, teacher);
        };
        let mut members = Vec::new();
        for (domain, inner) in self.turns(index, &env) {
            let Some(domain) = domain else {
                self.not_supported(index.over.span, "a family over anything but domains");
                return Value::Error;
            };
            let member_name = format!("{}[{}]", name.text, self.domain(domain).name);
            let value = self.evaluate(&binding.value, &inner.named(&member_name));
            members.push((domain, self.bound(value, &member_name, binding, teacher)));
        }
        Value::Family(Rc::new(Family { name: name.text.clone(), members }))
    }

    fn bound(&mut self, value: Value, name: &str, binding: &Binding, teacher: bool) -> Value {
        match value {
            Value::Model(model) if teacher => self.declare_teacher(name, model, binding.name.span),
            Value::Model(_) | Value::Error => value,
            Value::Family(_) if !teacher => value,
            other if teacher => {
                self.wrong_kind(binding.value.span, "a teacher is a view of a model, such as `expert[math]`", &other)
            }
            other => self.wrong_kind(binding.value.span, "a model is the value of a stage, such as `sft(base, ...)`", &other),
        }
    }

    /// One environment per element of `d in domains`.
    pub(super) fn turns(&mut self, index: &Index, env: &Env) -> Vec<(Option<DomainId>, Env)> {
        let over = self.evaluate(&index.over, env);
        let items = match over {
            Value::List(items) => items,
            Value::Error => return Vec::new(),
            other => {
                self.wrong_kind(index.over.span, "`in` needs a list, such as `domains` or `[math, code]`", &other);
                return Vec::new();
            }
        };
        let turn = |item: Value| {
            let domain = if let Value::Domain(domain) = item { Some(domain) } else { None };
            let mut inner = env.clone();
            inner.bind(&index.name.text, item);
            (domain, inner)
        };
        items.into_iter().map(turn).collect()
    }

    fn index(&mut self, base: &Expr, index: &Expr, env: &Env) -> Value {
        let family = match self.evaluate(base, env) {
            Value::Family(family) => family,
            Value::Error => return Value::Error,
            other => {
                return self.wrong_kind(base.span, "only a family, such as `model expert[d in domains]`, has members", &other);
            }
        };
        match self.evaluate(index, env) {
            Value::Domain(domain) => match family.members.iter().find(|(member, _)| *member == domain) {
                Some((_, value)) => value.clone(),
                None => {
                    let names: Vec<&str> = family.members.iter().map(|(domain, _)| self.domain(*domain).name.as_str()).collect();
                    let text = format!("`{}` has no member for the domain `{}`", family.name, self.domain(domain).name);
                    let help = format!("it has: {}", names.join(", "));
                    self.report(Diagnostic::error(Code::UnknownName, index.span, text).help(help));
                    Value::Error
                }
            },
            Value::Error => Value::Error,
            other => self.wrong_kind(index.span, "a member is picked by its domain", &other),
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
        if let (Value::Domain(a), Value::Domain(b)) = (&left_value, &right_value)
            && matches!(operator, BinaryOperator::Equal | BinaryOperator::NotEqual)
        {
            let truth = (a == b) == (operator == BinaryOperator::Equal);
            return self.number(f64::from(u8::from(truth)), Unit::Bool, span);
        }
        let (Some(a), Some(b)) = (self.formula(left_value, left.span), self.formula(right_value, right.span)) else {
            return Value::Error;
        };
        self.binary(operator, operator_span, (a, left.span), (b, right.span), span)
    }

    /// The number in a value, or a finding.
    pub(super) fn formula(&mut self, value: Value, span: Span) -> Option<Formula> {
        match value {
            Value::Formula(formula) => Some(formula),
            Value::Error => None,
            Value::Role(role) => {
                self.report(
                    Diagnostic::error(Code::WrongKind, span, format!("`{}` is a role, not a number", role.name()))
                        .label("a whole distribution")
                        .help(format!("name a part of it, such as `{}.logp` or `{}.entropy`", role.name(), role.name())),
                );
                None
            }
            other => {
                self.wrong_kind(span, "a number is needed here", &other);
                None
            }
        }
    }

    fn role(&mut self, expr: &Expr, env: &Env) -> Option<Role> {
        match self.evaluate(expr, env) {
            Value::Role(role) => Some(role),
            Value::Teacher(_) => {
                self.not_supported(expr.span, "naming one teacher inside an objective");
                None
            }
            Value::Error => None,
            other => {
                self.wrong_kind(expr.span, "a divergence compares two roles, such as `teacher || student`", &other);
                None
            }
        }
    }

    fn call(&mut self, whole: &Expr, callee: &Expr, arguments: &[Argument], block: Option<&Block>, env: &Env) -> Value {
        match self.evaluate(callee, env) {
            Value::Builtin(builtin) => self.call_builtin(builtin, whole, arguments, block, env),
            Value::Item { item, kind } => {
                if let Some(block) = block {
                    self.report(
                        Diagnostic::error(Code::WrongKind, block.span, "settings in braces belong to a built-in stage")
                            .label("no settings are expected here")
                            .help("pass values as arguments: `name: value`"),
                    );
                }
                self.call_item(item, kind, whole.span, arguments, env)
            }
            Value::Error => {
                // Names inside are still checked.
                for argument in arguments {
                    self.evaluate(&argument.value, env);
                }
                Value::Error
            }
            other => self.wrong_kind(callee.span, "only functions, stages and objectives can be called", &other),
        }
    }

    /// Calls a `fn`, `stage` or `objective` of some file.
    pub(super) fn call_item(&mut self, id: ItemId, kind: Callable, span: Span, arguments: &[Argument], env: &Env) -> Value {
        if env.depth >= DEEPEST_CALL {
            self.report(
                Diagnostic::error(Code::Cycle, span, "this call ends up calling itself")
                    .help("mopd has no recursion: functions are pasted in where they are used"),
            );
            return Value::Error;
        }
        let tree = self.modules.tree(id.module);
        let (name, parameters) = match &tree.items[id.index].kind {
            ItemKind::Fn { name, parameters, .. }
            | ItemKind::Stage { name, parameters, .. }
            | ItemKind::Objective { name, parameters, .. } => (name, parameters),
            _ => unreachable!("only these three are callable"),
        };
        let mut inner = Env { module: id.module, locals: Vec::new(), depth: env.depth + 1, ..env.clone() };
        if inner.model_name.is_empty() {
            inner.model_name = name.text.clone();
        }
        self.bind_parameters(name, parameters, arguments, span, env, &mut inner);
        match &tree.items[id.index].kind {
            ItemKind::Fn { body, .. } | ItemKind::Stage { body, .. } => {
                let value = self.evaluate(body, &inner);
                match (kind, &value) {
                    (Callable::Stage, Value::Model(_) | Value::Error) | (Callable::Fn, _) => value,
                    _ => self.wrong_kind(body.span, "a stage must end in a model", &value),
                }
            }
            ItemKind::Objective { name, body, .. } => {
                self.objective_body(name, body, &inner).map_or(Value::Error, |objective| Value::Objective(Rc::new(objective)))
            }
            _ => unreachable!("only these three are callable"),
        }
    }

    fn bind_parameters(
        &mut self,
        callee: &Name,
        parameters: &[Parameter],
        arguments: &[Argument],
        span: Span,
        env: &Env,
        inner: &mut Env,
    ) {
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.text.as_str()).collect();
        let Slots { given, misplaced } = self.slots(&callee.text, &names, arguments, Some(callee.span));
        let complete = misplaced.is_empty();
        for argument in misplaced {
            // Names inside are still checked.
            self.evaluate(&argument.value, env);
        }
        for (parameter, given) in parameters.iter().zip(given) {
            let (value, place) = match (given, &parameter.default) {
                (Some(expr), _) => {
                    (self.evaluate(expr, &env.named(format!("{}.{}", env.model_name, parameter.name.text))), expr.span)
                }
                (None, Some(default)) => (self.evaluate(default, &Env::constant(inner.module)), default.span),
                // What was misplaced may have been meant for it.
                (None, None) if !complete => (Value::Error, span),
                (None, None) => {
                    self.report(
                        Diagnostic::error(
                            Code::MissingArgument,
                            span,
                            format!("`{}` needs `{}`", callee.text, parameter.name.text),
                        )
                        .label("not given here")
                        .because(parameter.name.span, "has no default")
                        .help(format!("add `{}: ...`", parameter.name.text)),
                    );
                    (Value::Error, span)
                }
            };
            let value = match &parameter.annotation {
                Some(annotation) => self.coerce(value, annotation, place),
                None => value,
            };
            inner.bind(&parameter.name.text, value);
        }
    }

    /// Puts arguments into the slots of `names`: by name, or in order. Reports what fits no slot or one that is taken.
    fn slots<'e>(&mut self, callee: &str, names: &[&str], arguments: &'e [Argument], declared: Option<Span>) -> Slots<'e> {
        let mut slots = Slots { given: vec![None; names.len()], misplaced: Vec::new() };
        let mut position = 0;
        for argument in arguments {
            let slot = match &argument.name {
                Some(name) => names.iter().position(|known| *known == name.text),
                None => {
                    position += 1;
                    (position <= names.len()).then_some(position - 1)
                }
            };
            match slot {
                Some(slot) if slots.given[slot].is_none() => slots.given[slot] = Some(&argument.value),
                Some(slot) => {
                    let text = format!("`{}` is given twice to `{callee}`", names[slot]);
                    self.report(Diagnostic::error(Code::DuplicateKey, argument.value.span, text));
                    slots.misplaced.push(argument);
                }
                None => {
                    self.unknown_argument(callee, argument, names, declared);
                    slots.misplaced.push(argument);
                }
            }
        }
        slots
    }

    pub(super) fn unknown_argument(&mut self, callee: &str, argument: &Argument, known: &[&str], declared: Option<Span>) {
        let mut finding = match &argument.name {
            Some(name) => {
                let finding =
                    Diagnostic::error(Code::UnknownArgument, name.span, format!("`{callee}` has no argument `{}`", name.text));
                match nearest(&name.text, known.iter().copied()) {
                    Some(near) => {
                        finding.help(format!("did you mean `{near}`?")).replace_with(format!("change to `{near}`"), near)
                    }
                    None if known.is_empty() => finding.help("it takes none"),
                    None => finding.help(format!("it takes: {}", known.join(", "))),
                }
            }
            None => Diagnostic::error(
                Code::UnknownArgument,
                argument.value.span,
                format!("`{callee}` takes {} argument{}", known.len(), if known.len() == 1 { "" } else { "s" }),
            )
            .label("one too many"),
        };
        if let Some(declared) = declared {
            finding = finding.because(declared, "declared here");
        }
        self.report(finding);
    }

    pub(super) fn wrong_kind(&mut self, span: Span, wanted: &str, found: &Value) -> Value {
        if !found.is_error() {
            self.report(Diagnostic::error(Code::WrongKind, span, wanted).label(format!("this is {}", found.describe())));
        }
        Value::Error
    }

    /// Binds the arguments of a built-in to its parameter names, in order; findings for what does not fit.
    pub(super) fn builtin_arguments<'e>(
        &mut self,
        builtin: &'static Builtin,
        arguments: &'e [Argument],
        span: Span,
    ) -> Option<Vec<Option<&'e Expr>>> {
        let Slots { given, misplaced } = self.slots(builtin.name, builtin.parameters, arguments, None);
        let mut good = misplaced.is_empty();
        for (slot, parameter) in builtin.parameters.iter().enumerate().take(builtin.required) {
            if given[slot].is_none() && good {
                self.report(
                    Diagnostic::error(Code::MissingArgument, span, format!("`{}` needs `{parameter}`", builtin.name))
                        .label("not given here")
                        .help(builtin.usage),
                );
                good = false;
            }
        }
        good.then_some(given)
    }
}
