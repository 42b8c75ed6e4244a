//! Calls: the callee, the binding of arguments to parameters, and the result.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, Block, Expr, ExprKind, Item, ItemKind, Name, Parameter};
use crate::syntax::tokens;
use mopd_experiment::Rollout;

use crate::check::Checker;
use crate::check::builtins::declare::Call;
use crate::check::builtins::{self, Builtin, BuiltinKind, BuiltinParameter, TeacherName, vocabulary};
use crate::check::names::foreign;
use crate::check::names::items::signature;
use crate::check::names::modules::{ItemId, declared_name};
use crate::check::names::overrides::may_move;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// The maximum depth of calls inside calls.
pub(in crate::check) const DEEPEST_CALL: usize = 64;

/// The most calls and iterations that one item may take. Functions are inlined, so in a chain of functions
/// that each call the previous one twice, the work doubles with every link.
const MOST_WORK: usize = 20_000;

/// The limit after some item has exceeded [`MOST_WORK`], so that similar items stop sooner.
const MOST_WORK_AFTERWARDS: usize = 1_000;

/// The work that an item has taken so far.
#[derive(Clone, Copy, Default)]
pub(in crate::check) struct ItemEffort {
    spent: usize,
    /// The place of the item's name, if it has one.
    item: Option<Span>,
}

impl ItemEffort {
    pub fn new(item: &Item) -> ItemEffort {
        ItemEffort { spent: 0, item: Some(declared_name(&item.kind).map_or(item.span, |name| name.span)) }
    }
}

/// The arguments of a call, by parameter.
pub(in crate::check) struct Slots<'e> {
    pub given: Vec<Option<&'e Expr>>,
    /// Arguments that fit no parameter. They have been reported.
    pub misplaced: Vec<&'e Argument>,
}

impl Checker {
    pub(in crate::check) fn call(
        &mut self,
        whole: &Expr,
        callee: &Expr,
        arguments: &[Argument],
        block: Option<&Block>,
        env: &Env,
    ) -> Value {
        if let ExprKind::Field { base, field } = &callee.kind
            && matches!(&base.kind, ExprKind::Name(name) if name == "self" && env.local(name).is_none())
        {
            return self.student_copy(field, arguments, whole.span, env);
        }
        if let ExprKind::Field { base, field } = &callee.kind
            && self.is_method(base, field, env)
            && let Some(value) = self.method(base, field, arguments, whole.span, env)
        {
            return value;
        }
        match self.callee(callee, env) {
            Value::Builtin(builtin) => self.call_builtin(builtin, whole, arguments, block, env),
            Value::Item { item, .. } => {
                if let Some(block) = block {
                    self.report(
                        Diagnostic::error(
                            Code::TypeMismatch,
                            block.span,
                            "settings in braces belong to a built-in stage",
                        )
                        .label("no settings are expected here")
                        .help("pass values as arguments: `name: value`"),
                    );
                }
                self.call_item(item, whole.span, arguments, env)
            }
            Value::Error => {
                // Names inside the arguments are still checked, except bare words, whose meaning would depend
                // on the function.
                for argument in
                    arguments.iter().filter(|argument| !matches!(argument.value.kind, ExprKind::Name(_)))
                {
                    self.evaluate(&argument.value, env);
                }
                Value::Error
            }
            // A template or rollout without parameters needs no parentheses, but may have them.
            value @ (Value::Template(_) | Value::Rollout(_)) if arguments.is_empty() && block.is_none() => {
                value
            }
            // `teacher.entropy()`
            Value::Formula(number) if arguments.is_empty() && block.is_none() => {
                let written = self.sources.text(callee.span).to_owned();
                let text = format!("`{written}` is a number, not a function");
                let diagnostic = Diagnostic::error(Code::TypeMismatch, whole.span, text);
                self.report(diagnostic.replace_with("remove the parentheses", written));
                Value::Formula(number)
            }
            other => {
                self.wrong_kind(callee.span, "only functions, stages and objectives can be called", &other)
            }
        }
    }

    /// Whether a call looks like a method of a number: `student.entropy.mean()`. A part of a role, or of a
    /// library, does not count.
    fn is_method(&self, base: &Expr, field: &Name, env: &Env) -> bool {
        match &base.kind {
            ExprKind::Field { .. } => true,
            ExprKind::Name(name) => {
                let of_library = env.local(name).is_none() && foreign::is_library(name);
                !of_library
                    && (builtins::find(&field.text).is_some()
                        || matches!(field.text.as_str(), "detach" | "item" | "std" | "var" | "clamp"))
                    && (env.local(name).is_some() || vocabulary::signal(name).is_some())
            }
            ExprKind::Call { .. } | ExprKind::Binary { .. } | ExprKind::Unary { .. } => true,
            _ => false,
        }
    }

    /// The value of a name before parentheses. Values and functions have separate namespaces: a parameter
    /// `alpha` does not hide the divergence, nor the divergence the parameter.
    fn callee(&mut self, callee: &Expr, env: &Env) -> Value {
        let ExprKind::Name(name) = &callee.kind else { return self.evaluate(callee, env) };
        let callable = |value: &Value| matches!(value, Value::Item { .. } | Value::Builtin(_));
        if let Some(local) = env.local(name).filter(|local| callable(local)) {
            return local.clone();
        }
        let builtin = builtins::find(name)
            .map(Value::Builtin)
            .or_else(|| self.standard_divergence(name).map(|item| self.item_value(item, callee.span)));
        if env.local(name).is_some()
            && let Some(builtin) = builtin
        {
            return builtin;
        }
        if let Some(declared) = self.modules.lookup(env.module, name) {
            let value = self.item_value(declared.item, callee.span);
            return match builtin {
                Some(builtin) if !callable(&value) => builtin,
                _ => value,
            };
        }
        match builtin {
            Some(builtin) => builtin,
            None => self.evaluate(callee, env),
        }
    }

    fn call_builtin(
        &mut self,
        builtin: &'static Builtin,
        whole: &Expr,
        arguments: &[Argument],
        block: Option<&Block>,
        env: &Env,
    ) -> Value {
        let takes_settings =
            matches!(builtin.kind, BuiltinKind::Constructor(_) | BuiltinKind::Teacher(TeacherName::Debate));
        if let Some(block) = block.filter(|_| !takes_settings) {
            self.report(
                Diagnostic::error(
                    Code::TypeMismatch,
                    block.span,
                    format!("`{}` takes no settings in braces", builtin.name),
                )
                .help(builtin.usage),
            );
        }
        let span = whole.span;
        if env.context == EvaluationContext::Entry
            && let Some(what) = Self::not_at_entry(builtin, arguments)
        {
            return self.beyond_entry(what, span);
        }
        let call = Call { builtin, arguments, block, span };
        self.called_builtin(call, env).unwrap_or(Value::Error)
    }

    fn called_builtin(&mut self, call: Call, env: &Env) -> Option<Value> {
        let given = self.builtin_arguments(call)?;
        match call.builtin.kind {
            BuiltinKind::Constructor(name) => self.construct(name.call(call, &given)?, env).map(Value::Model),
            BuiltinKind::Schedule(name) => {
                self.schedule_call(name.call(call, &given)?, env).map(Value::Formula)
            }
            BuiltinKind::Reward(name) => self.reward_call(name.call(call, &given)?, env).map(Value::Reward),
            BuiltinKind::Rollout(name) => {
                let source = self.rollout_call(name.call(call, &given)?, env)?;
                let rollout = Rollout::new(source, self.origin(call.span));
                Some(Value::Rollout(Rc::new(rollout)))
            }
            BuiltinKind::Edit(name) => self.edit_call(name.call(call, &given)?, env).map(Value::Edit),
            BuiltinKind::Optimizer(name) => {
                self.optimizer_call(name.call(call, &given)?, env).map(Value::Optimizer)
            }
            BuiltinKind::Guard(name) => self.guard_call(name.call(call, &given)?, env),
            BuiltinKind::Weights(name) => self.weights_call(name.call(call, &given)?, env),
            BuiltinKind::Data(name) => self.data_call(name.call(call, &given)?, env),
            BuiltinKind::Support(name) => self.support_call(name.call(call, &given)?, env),
            BuiltinKind::Divergence(name) => self.divergence_call(name.call(call, &given)?, env),
            BuiltinKind::Measure(measure) => self.measure_call(measure.call(call, &given)?, env),
            BuiltinKind::Teacher(name) => self.teacher_call(name.call(call, &given)?, env),
            _ => self.formula_call(call, &given, env),
        }
    }

    /// Calls a `fn`, `stage`, `objective` or another item with parameters.
    pub(in crate::check) fn call_item(
        &mut self,
        id: ItemId,
        span: Span,
        arguments: &[Argument],
        env: &Env,
    ) -> Value {
        let tree = self.modules.tree(id.module);
        let item = &tree.items[id.index].kind;
        let (name, parameters) = signature(item).expect("a callable item has a signature");
        // Reported at once, not at some depth: a body that calls itself twice would take 2^depth calls.
        if self.stack.calling.contains(&name.span) {
            let first = self.stack.calling.iter().position(|called| *called == name.span).unwrap_or(0);
            let names: Vec<String> = self.stack.calling[first..]
                .iter()
                .map(|called| format!("`{}`", self.sources.text(*called)))
                .collect();
            let diagnostic = Diagnostic::error(Code::Cycle, span, "this call ends up calling itself");
            let diagnostic = if names.len() > 1 {
                diagnostic.label(format!("a circle of {}", names.join(", ")))
            } else {
                diagnostic
            };
            self.report(
                diagnostic.help("mopd has no recursion: functions are inlined where they are called"),
            );
            return Value::Error;
        }
        if self.stack.calling.len() >= DEEPEST_CALL {
            let text = format!("calls are nested more than {DEEPEST_CALL} deep");
            self.report(
                Diagnostic::error(Code::NestingTooDeep, span, text)
                    .help("let one function do the work of several"),
            );
            return Value::Error;
        }
        if !self.spend(1, span) {
            return Value::Error;
        }
        let mut inner = Env { module: id.module, locals: Rc::default(), ..env.clone() };
        if inner.model_name.is_empty() {
            inner.model_name = name.text.clone();
        }
        if let ItemKind::Divergence(divergence) = item {
            return self.call_divergence(id, divergence, arguments, span, env, inner);
        }
        self.bind_parameters(name, parameters, arguments, span, env, &mut inner);
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.text.as_str()).collect();
        let mut order = names.iter().filter(|name| {
            !arguments.iter().any(|argument| argument.name.as_ref().is_some_and(|given| given.text == **name))
        });
        let given = arguments.iter().filter_map(|argument| {
            let name = argument
                .name
                .as_ref()
                .map(|name| name.text.clone())
                .or_else(|| order.next().map(|name| (*name).to_owned()))?;
            Some(Spanned::new(name, argument.value.span))
        });
        let set = parameters.iter().filter_map(|parameter| {
            let set = self.modules.set_argument(id.module, &name.text, &parameter.name.text)?;
            Some(Spanned::new(parameter.name.text.clone(), set.span))
        });
        let given = set.chain(given).collect();
        self.stack.calling.push(name.span);
        self.stack.frames.push(crate::check::values::frames::Frame {
            name: name.text.clone(),
            body: tree.items[id.index].span,
            given,
        });
        let value = self.called(item, span, &inner);
        self.stack.frames.pop();
        self.stack.calling.pop();
        value
    }

    /// Runs an evaluation whose result does not depend on the caller: with its own work, outside of the
    /// caller's calls.
    pub(in crate::check) fn evaluate_independently<T>(
        &mut self,
        work: ItemEffort,
        evaluate: impl FnOnce(&mut Checker) -> T,
    ) -> T {
        let work = std::mem::replace(&mut self.stack.work, work);
        let calling = std::mem::take(&mut self.stack.calling);
        let any_numbers = std::mem::take(&mut self.any_numbers);
        let value = evaluate(self);
        (self.stack.work, self.stack.calling, self.any_numbers) = (work, calling, any_numbers);
        value
    }

    /// Whether an item may take `work` more calls or iterations. The first item that exceeds its limit is
    /// reported.
    pub(in crate::check) fn spend(&mut self, work: usize, span: Span) -> bool {
        let most = if self.stack.overworked { MOST_WORK_AFTERWARDS } else { MOST_WORK };
        self.stack.work.spent = self.stack.work.spent.saturating_add(work);
        if self.stack.work.spent <= most {
            return true;
        }
        // Everything that uses a too large item is too large as well: one report is enough.
        if !std::mem::replace(&mut self.stack.overworked, true) {
            let text = format!("evaluating this takes more than {MOST_WORK} calls and iterations");
            self.report(
                Diagnostic::error(Code::OutOfRange, self.stack.work.item.unwrap_or(span), text).help(
                    "a function is inlined at every call: give a value that is used twice a name with `let`",
                ),
            );
        }
        false
    }

    /// The value of a body whose parameters are bound in `inner`.
    pub(in crate::check) fn called(&mut self, item: &ItemKind, span: Span, inner: &Env) -> Value {
        match item {
            ItemKind::Fn { body, .. } => self.evaluate(body, inner),
            ItemKind::Stage { body, .. } => match self.evaluate(body, inner) {
                value @ (Value::Model(_) | Value::Error) => value,
                other => self.wrong_kind(body.span, "a stage must end in a model", &other),
            },
            ItemKind::Objective { name, body, .. } => self
                .objective_body(name, body, inner)
                .map_or(Value::Error, |objective| Value::Objective(Rc::new(objective))),
            ItemKind::Template { name, text, .. } => self.template_item(name, text, inner),
            ItemKind::Rollout { body, .. } => {
                self.rollout_value(body, inner).map_or(Value::Error, Value::Rollout)
            }
            ItemKind::Teacher { binding, .. } => {
                let called = tokens::on_one_line(self.sources.text(span));
                self.teacher_binding(&called, &binding.value, span, inner)
            }
            _ => unreachable!("divergences are called with their sides; nothing else is callable"),
        }
    }

    pub(in crate::check) fn bind_parameters(
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
            let set = self.set_argument(inner.module, &callee.text, parameter);
            let (value, place) = match (set, given, &parameter.default) {
                (Some(set), ..) => (set.value, set.span),
                (None, Some(expr), _) => {
                    let env = env.named(format!("{}.{}", env.model_name, parameter.name.text));
                    let moves = env.context == EvaluationContext::Constant && may_move(parameter);
                    let env = if moves { env.with_context(EvaluationContext::Schedule) } else { env };
                    (self.evaluate(expr, &env), expr.span)
                }
                (None, None, Some(default)) => {
                    self.stack.calling.push(callee.span);
                    let value = self.evaluate(default, &Env::constant(inner.module));
                    self.stack.calling.pop();
                    (value, default.span)
                }
                // A misplaced argument may have been meant for this parameter.
                (None, None, None) if !complete => (Value::Error, span),
                (None, None, None) => {
                    self.report(
                        Diagnostic::error(
                            Code::MissingArgument,
                            span,
                            format!("`{}` needs `{}`", callee.text, parameter.name.text),
                        )
                        .label("not given here")
                        .note(parameter.name.span, "has no default")
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

    /// Assigns arguments to the slots of `names`: by name, or in order to the remaining slots. Reports
    /// arguments that fit no slot, or a taken one.
    pub(in crate::check) fn slots<'e>(
        &mut self,
        callee: &str,
        names: &[&str],
        arguments: &'e [Argument],
        declared: Option<Span>,
    ) -> Slots<'e> {
        let mut slots = Slots { given: vec![None; names.len()], misplaced: Vec::new() };
        let named = |name: &str| {
            arguments.iter().filter_map(|argument| argument.name.as_ref()).any(|given| given.text == name)
        };
        // `interleave(top_k: 25, sample(...))`: a slot that is given by name is skipped in the order.
        let mut order = (0..names.len()).filter(|slot| !named(names[*slot]));
        for argument in arguments {
            let slot = match &argument.name {
                Some(name) => names.iter().position(|known| *known == name.text),
                None => order.next(),
            };
            match slot {
                Some(slot) if slots.given[slot].is_none() => slots.given[slot] = Some(&argument.value),
                Some(slot) => {
                    let text = format!("`{}` is given twice to `{callee}`", names[slot]);
                    self.report(Diagnostic::error(Code::DuplicateKey, argument.value.span, text));
                    slots.misplaced.push(argument);
                }
                None => {
                    let in_order = arguments.iter().filter(|given| given.name.is_none()).count();
                    let free: Vec<&str> =
                        names.iter().copied().filter(|name| !named(name)).skip(in_order).collect();
                    self.unknown_argument(callee, argument, names, &free, declared);
                    slots.misplaced.push(argument);
                }
            }
        }
        slots
    }

    /// Binds the arguments of a built-in to its parameters, in their order. Reports those that do not fit.
    pub(in crate::check) fn builtin_arguments<'e>(
        &mut self,
        call: Call<'e>,
    ) -> Option<Vec<Option<&'e Expr>>> {
        let Call { builtin, arguments, span, .. } = call;
        if builtin.any_names {
            return Some(Vec::new());
        }
        let unknown = |argument: &&Argument| {
            argument.name.as_ref().is_some_and(|name| builtin.parameter(&name.text).is_none())
        };
        if let Some(setting) = arguments.iter().find(unknown)
            && self.setting_as_argument(call, setting)
        {
            return None;
        }
        let names: Vec<&str> = builtin.parameters.iter().map(|parameter| parameter.name).collect();
        let Slots { given, misplaced } = self.slots(builtin.name, &names, arguments, None);
        if !misplaced.is_empty() {
            return None;
        }
        let missing =
            |(parameter, given): &(&BuiltinParameter, &Option<&Expr>)| parameter.required && given.is_none();
        if let Some((parameter, _)) = builtin.parameters.iter().zip(&given).find(missing) {
            let text = format!("`{}` needs `{}`", builtin.name, parameter.shown());
            self.report(
                Diagnostic::error(Code::MissingArgument, span, text)
                    .label("not given here")
                    .help(builtin.usage),
            );
            return None;
        }
        Some(given)
    }
}
