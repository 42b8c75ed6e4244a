//! Calls: the callee, the binding of arguments to parameters, and the result.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, Block, Expr, ExprKind, ItemKind, Name, Parameter};
use crate::syntax::tokens;
use mopd_experiment::Rollout;

use crate::check::builtins::declare::Call;
use crate::check::builtins::{self, Builtin, BuiltinKind, TeacherName, vocabulary};
use crate::check::checker::{Checker, DEEPEST_CALL};
use crate::check::evaluate::overrides::{self, may_move};
use crate::check::formulas::{declared, divergences, functions, lists, schedules, signals};
use crate::check::names::callable::signature;
use crate::check::names::modules::ItemId;
use crate::check::read::arguments::{self, Slots};
use crate::check::read::{declared_type, expected};
use crate::check::reporter::Reporter;
use crate::check::reporter::frames::Frame;
use crate::check::rollouts::{self, calls, reward_calls};
use crate::check::stages::{constructors, guards, optimizers, trainable};
use crate::check::suggestions::{foreign, unknown};
use crate::check::teachers::{self, templates};
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::resolve::standard_divergence;
use crate::check::values::value::Value;
use crate::check::{data, objectives, roles};

impl Checker {
    /// Calls a `fn`, `stage`, `objective` or another item with parameters.
    pub fn call_item(&mut self, id: ItemId, span: Span, arguments: &[Argument], env: &Env) -> Value {
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
        let mut inner = Env { context: env.context, ..Env::constant(id.module) }.named(&env.model_name);
        if inner.model_name.is_empty() {
            inner.model_name = name.text.clone();
        }
        if let ItemKind::Divergence(divergence) = item {
            return declared::call_divergence(self, id, divergence, arguments, span, env, inner);
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
        self.frames.push(Frame { name: name.text.clone(), body: tree.items[id.index].span, given });
        let value = called(self, item, span, &inner);
        self.frames.pop();
        self.stack.calling.pop();
        value
    }

    pub fn bind_parameters(
        &mut self,
        callee: &Name,
        parameters: &[Parameter],
        arguments: &[Argument],
        span: Span,
        env: &Env,
        inner: &mut Env,
    ) {
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.text.as_str()).collect();
        let Slots { given, misplaced } =
            arguments::slots(self, &callee.text, &names, arguments, Some(callee.span));
        let complete = misplaced.is_empty();
        for argument in misplaced {
            // Names inside are still checked.
            self.evaluate(&argument.value, env);
        }
        for (parameter, given) in parameters.iter().zip(given) {
            let set = overrides::set_argument(self, inner.module, &callee.text, parameter);
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
                Some(annotation) => declared_type::coerce(self, value, annotation, place),
                None => value,
            };
            inner.bind(&parameter.name.text, value);
        }
    }
}

pub fn call(
    checker: &mut Checker,
    whole: &Expr,
    callee: &Expr,
    arguments: &[Argument],
    block: Option<&Block>,
    env: &Env,
) -> Value {
    if let ExprKind::Field { base, field } = &callee.kind
        && matches!(&base.kind, ExprKind::Name(name) if name == "self" && env.local(name).is_none())
    {
        return roles::student_copy(checker, field, arguments, whole.span, env);
    }
    if let ExprKind::Field { base, field } = &callee.kind
        && is_method(base, field, env)
        && let Some(value) = unknown::method(checker, base, field, arguments, whole.span, env)
    {
        return value;
    }
    match evaluate_callee(checker, callee, env) {
        Value::Builtin(builtin) => call_builtin(checker, builtin, whole, arguments, block, env),
        Value::Item { item, .. } => {
            if let Some(block) = block {
                checker.report(
                    Diagnostic::error(
                        Code::TypeMismatch,
                        block.span,
                        "settings in braces belong to a built-in stage",
                    )
                    .label("no settings are expected here")
                    .help("pass values as arguments: `name: value`"),
                );
            }
            checker.call_item(item, whole.span, arguments, env)
        }
        Value::Error => {
            // Names inside the arguments are still checked, except bare words, whose meaning would depend
            // on the function.
            for argument in
                arguments.iter().filter(|argument| !matches!(argument.value.kind, ExprKind::Name(_)))
            {
                checker.evaluate(&argument.value, env);
            }
            Value::Error
        }
        // A template or rollout without parameters needs no parentheses, but may have them.
        value @ (Value::Template(_) | Value::Rollout(_)) if arguments.is_empty() && block.is_none() => value,
        // `teacher.entropy()`
        Value::Formula(number) if arguments.is_empty() && block.is_none() => {
            let written = checker.sources.text(callee.span).to_owned();
            let text = format!("`{written}` is a number, not a function");
            let diagnostic = Diagnostic::error(Code::TypeMismatch, whole.span, text);
            checker.report(diagnostic.replace_with("remove the parentheses", written));
            Value::Formula(number)
        }
        Value::Model(_) | Value::Teacher(_) if arguments.is_empty() && block.is_some() => {
            let text = format!(
                "`{}` is a value, and only functions, stages and objectives can be called",
                checker.sources.text(callee.span)
            );
            let after = Span { start: callee.span.end, ..callee.span };
            let fix = format!("change settings of `{}`", checker.sources.text(callee.span));
            let diagnostic = Diagnostic::error(Code::TypeMismatch, callee.span, text);
            let diagnostic = diagnostic.label("this has a value already");
            checker.report(diagnostic.fix(fix, after, " with").possibly());
            Value::Error
        }
        other if !other.is_error() => {
            let text = "only functions, stages and objectives can be called";
            let diagnostic = Diagnostic::error(Code::TypeMismatch, callee.span, text);
            let diagnostic = diagnostic.label(format!("this is {}", other.describe()));
            let diagnostic = not_called(checker, diagnostic, &other, callee, whole, arguments);
            checker.report(diagnostic);
            Value::Error
        }
        _ => Value::Error,
    }
}

/// Adds what was probably meant by a call of something that is not called.
fn not_called(
    reporter: &Reporter,
    diagnostic: Diagnostic,
    value: &Value,
    callee: &Expr,
    whole: &Expr,
    arguments: &[Argument],
) -> Diagnostic {
    let written = reporter.sources.text(callee.span);
    match (value, arguments) {
        // `student(lr: 1e-4)`
        (Value::Model(_) | Value::Teacher(_), [_, ..]) => {
            let setting = |argument: &Argument| {
                let name = argument.name.as_ref()?;
                Some(format!("{} = {}", name.text, reporter.sources.text(argument.value.span)))
            };
            match arguments.iter().map(setting).collect::<Option<Vec<String>>>() {
                Some(settings) => {
                    let ours = format!("{written} with {{ {} }}", settings.join(", "));
                    let diagnostic = diagnostic.help(format!("with other settings it is `{ours}`"));
                    diagnostic.fix(format!("write `{ours}`"), whole.span, ours).possibly()
                }
                None => {
                    diagnostic.help(format!("with other settings it is `{written} with {{ lr = 1e-4 }}`"))
                }
            }
        }
        // `specialist(math)`
        (Value::Family(_), [member]) if member.name.is_none() => {
            let ours = format!("{written}[{}]", reporter.sources.text(member.value.span));
            diagnostic.help(format!("a member of a family is written `{ours}`")).fix(
                format!("write `{ours}`"),
                whole.span,
                ours,
            )
        }
        (
            Value::Formula(_) | Value::Text(_) | Value::Reward(_) | Value::Rollout(_) | Value::Template(_),
            _,
        ) => diagnostic
            .help(format!("it takes no arguments: write `{written}`"))
            .fix(format!("write `{written}`"), whole.span, written)
            .possibly(),
        _ => diagnostic,
    }
}

/// Whether a call looks like a method of a number: `student.entropy.mean()`. A part of a role, or of a
/// library, does not count.
fn is_method(base: &Expr, field: &Name, env: &Env) -> bool {
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
fn evaluate_callee(checker: &mut Checker, callee: &Expr, env: &Env) -> Value {
    let ExprKind::Name(name) = &callee.kind else { return checker.evaluate(callee, env) };
    let callable = |value: &Value| matches!(value, Value::Item { .. } | Value::Builtin(_));
    if let Some(local) = env.local(name).filter(|local| callable(local)) {
        return local.clone();
    }
    let builtin = builtins::find(name).map(Value::Builtin).or_else(|| {
        standard_divergence(&checker.modules, name).map(|item| checker.item_value(item, callee.span))
    });
    if env.local(name).is_some()
        && let Some(builtin) = builtin
    {
        return builtin;
    }
    if let Some(declared) = checker.modules.lookup(env.module, name) {
        let value = checker.item_value(declared.item, callee.span);
        return match builtin {
            Some(builtin) if !callable(&value) => builtin,
            _ => value,
        };
    }
    match builtin {
        Some(builtin) => builtin,
        None => checker.evaluate(callee, env),
    }
}

fn call_builtin(
    checker: &mut Checker,
    builtin: &'static Builtin,
    whole: &Expr,
    arguments: &[Argument],
    block: Option<&Block>,
    env: &Env,
) -> Value {
    let takes_settings =
        matches!(builtin.kind, BuiltinKind::Constructor(_) | BuiltinKind::Teacher(TeacherName::Debate));
    if let Some(block) = block.filter(|_| !takes_settings) {
        checker.report(
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
        && let Some(what) = declared::not_at_entry(builtin, arguments)
    {
        return declared::beyond_entry(checker, what, span);
    }
    let call = Call { builtin, arguments, block, span };
    called_builtin(checker, call, env).unwrap_or(Value::Error)
}

fn called_builtin(checker: &mut Checker, call: Call, env: &Env) -> Option<Value> {
    if let Some(value) = lists::reduced_list(checker, call, env) {
        return Some(value);
    }
    let given = arguments::builtin_arguments(checker, call)?;
    match call.builtin.kind {
        BuiltinKind::Constructor(name) => {
            constructors::construct(checker, name.call(call, &given)?, env).map(Value::Model)
        }
        BuiltinKind::Schedule(name) => {
            schedules::schedule_call(checker, name.call(call, &given)?, env).map(Value::Formula)
        }
        BuiltinKind::Reward(name) => {
            reward_calls::reward_call(checker, name.call(call, &given)?, env).map(Value::Reward)
        }
        BuiltinKind::Rollout(name) => {
            let source = calls::rollout_call(checker, name.call(call, &given)?, env)?;
            let rollout = Rollout::new(source, checker.origin(call.span));
            Some(Value::Rollout(Rc::new(rollout)))
        }
        BuiltinKind::Edit(name) => {
            rollouts::edit_call(checker, name.call(call, &given)?, env).map(Value::Edit)
        }
        BuiltinKind::Optimizer(name) => {
            optimizers::optimizer_call(checker, name.call(call, &given)?, env).map(Value::Optimizer)
        }
        BuiltinKind::Guard(name) => guards::guard_call(checker, name.call(call, &given)?, env),
        BuiltinKind::Weights(name) => trainable::weights_call(checker, name.call(call, &given)?, env),
        BuiltinKind::Data(name) => data::data_call(checker, name.call(call, &given)?, env),
        BuiltinKind::Support(name) => divergences::support_call(checker, name.call(call, &given)?, env),
        BuiltinKind::Divergence(name) => divergences::divergence_call(checker, name.call(call, &given)?, env),
        BuiltinKind::Measure(measure) => signals::measure_call(checker, measure.call(call, &given)?, env),
        BuiltinKind::Teacher(name) => teachers::teacher_call(checker, name.call(call, &given)?, env),
        _ => functions::formula_call(checker, call, &given, env),
    }
}

/// The value of a body whose parameters are bound in `inner`.
pub fn called(checker: &mut Checker, item: &ItemKind, span: Span, inner: &Env) -> Value {
    match item {
        ItemKind::Fn { body, .. } => checker.evaluate(body, inner),
        ItemKind::Stage { body, .. } => match checker.evaluate(body, inner) {
            value @ (Value::Model(_) | Value::Error) => value,
            other => expected::wrong_kind(checker, body.span, "a stage must end in a model", &other),
        },
        ItemKind::Objective { name, body, .. } => objectives::objective_body(checker, name, body, inner)
            .map_or(Value::Error, |objective| Value::Objective(Rc::new(objective))),
        ItemKind::Template { name, text, .. } => templates::template_item(checker, name, text, inner),
        ItemKind::Rollout { body, .. } => {
            rollouts::rollout_value(checker, body, inner).map_or(Value::Error, Value::Rollout)
        }
        ItemKind::Teacher { binding, .. } => {
            let called = tokens::on_one_line(checker.sources.text(span));
            teachers::teacher_binding(checker, &called, &binding.value, span, inner)
        }
        _ => unreachable!("divergences are called with their sides; nothing else is callable"),
    }
}
