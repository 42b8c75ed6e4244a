//! Teachers: their weights, what they are shown, and what they can return.

pub mod composed;
pub mod panels;
pub mod route;
pub mod slots;
pub mod templates;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Block, Expr, ExprKind};
use mopd_experiment::{Capability, ModelId, Pool, Reveal, Secret, Teacher, TeacherWeights};

use crate::check::builtins::declare::Arg;
use crate::check::builtins::teachers::{Served, TeacherCall};
use crate::check::builtins::types::{self, SaidOrigin};
use crate::check::builtins::vocabulary::TeacherBlock;
use crate::check::builtins::{self, BuiltinKind};
use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, plain_teachers};
use crate::check::formulas::divergences;
use crate::check::names::callable::Callable;
use crate::check::read::{expected, numbers, read, reads, secrets, settings};
use crate::check::roles::pooled;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

reads! {
    StartWeights => |checker, given, env| weights_of(checker, given.expr, env);
    Capability => |checker, given, env| capability(checker, given.expr, env);
    Reveals => |checker, given, env| reveals(checker, given.expr, env);
}

/// `teacher name = value { ... }`
pub fn teacher_binding(checker: &mut Checker, name: &str, value: &Expr, span: Span, env: &Env) -> Value {
    let (inner, block) = split_block(checker, value, env);
    let teacher = teacher_of_expression(checker, &inner, name, span, env);
    let (settings, given) =
        settings::block::<TeacherBlock>(checker, block.as_ref(), &format!("teacher {name}"), span);
    settings::keep_marks(&mut checker.parts, &settings, &format!("teacher {name}"));
    let (sees, temperature) = (read(checker, given.sees, env), read(checker, given.temperature, env));
    let (answers, align) = (read(checker, given.answers, env), read(checker, given.align, env));
    let (reveals, feedback) = (read(checker, given.reveals, env), read(checker, given.feedback, env));
    let place = given.origin.map(|origin| origin.expr.span);
    let said = read(checker, given.origin, env);
    let (Some(mut teacher), Some(sees), Some(reveals), Some(feedback)) = (teacher, sees, reveals, feedback)
    else {
        return Value::Error;
    };
    let (Some(temperature), Some(answers), Some(align), Some(said)) = (temperature, answers, align, said)
    else {
        return Value::Error;
    };
    teacher.reveals = reveals.or(teacher.reveals);
    teacher.feedback = feedback.or(teacher.feedback);
    if sees.is_some() {
        teacher.sees = sees;
    }
    teacher.temperature = temperature.unwrap_or(teacher.temperature);
    teacher.answers = answers.unwrap_or(teacher.answers);
    teacher.align = align.unwrap_or(teacher.align);
    teacher.foreign = said == Some(SaidOrigin::Foreign);
    let declared = plain_teachers::declare_once(&mut checker.parts, teacher);
    if let (Value::Teacher(id), Some(said)) = (&declared, said.zip(place)) {
        checker.parts.said_origins.insert(*id, said);
    }
    declared
}

/// The teacher that the value of a `teacher` declares, before its settings.
fn teacher_of_expression(
    checker: &mut Checker,
    inner: &Expr,
    name: &str,
    span: Span,
    env: &Env,
) -> Option<Teacher> {
    let before = checker.parts.teachers.len();
    if let ExprKind::Where { value, bindings } = &inner.kind {
        let weights = composed::composed(checker, value, bindings, env)?;
        return Some(plain_teachers::plain_teacher(checker, name, weights, span));
    }
    let value = if mentions_logits(inner) {
        checker.evaluate(inner, &env.with_context(EvaluationContext::Objective))
    } else {
        checker.evaluate(inner, env)
    };
    let weights = match value {
        Value::Model(model) => TeacherWeights::Model(model),
        Value::Student(copy) => TeacherWeights::Student(copy),
        Value::Logits(logits) => composed::composed_of(checker, logits, Vec::new(), inner.span)?,
        Value::Item { item, kind: Callable::Teacher } => {
            let called = checker.call_item(item, inner.span, &[], env);
            return renamed(checker, called, Some(before), name, span);
        }
        teacher @ Value::Teacher(_) => {
            // A name, or a member of a family, may refer to a teacher that was declared during the
            // evaluation, further down in the file.
            let made_here = matches!(inner.kind, ExprKind::Call { .. }).then_some(before);
            return renamed(checker, teacher, made_here, name, span);
        }
        other => {
            expected::no_weights(
                checker,
                inner.span,
                "the value of a teacher is a model, such as `expert[math]`",
                &other,
            );
            return None;
        }
    };
    Some(plain_teachers::plain_teacher(checker, name, weights, span))
}

/// The same teacher under another name. A teacher that a call declared during the evaluation, such as
/// `mixture` or `served`, is removed: `before` is the number of teachers before.
fn renamed(
    declarations: &mut Declarations,
    value: Value,
    before: Option<usize>,
    name: &str,
    span: Span,
) -> Option<Teacher> {
    let Value::Teacher(id) = value else { return None };
    let mut teacher = declarations.parts.teacher(id).clone();
    if id.0 as usize + 1 == declarations.parts.teachers.len()
        && before.is_some_and(|before| id.0 as usize >= before)
    {
        declarations.parts.teachers.pop();
        declarations.parts.used_teachers.pop();
        declarations.parts.said_origins.remove(&id);
    }
    teacher.name = name.to_owned();
    teacher.origin = declarations.origin(span);
    Some(teacher)
}

/// The value of a call that makes a teacher.
pub fn teacher_call(checker: &mut Checker, call: TeacherCall, env: &Env) -> Option<Value> {
    match call {
        TeacherCall::Served(given) => served(checker, given, env),
        TeacherCall::Logits(given) => {
            Some(divergences::logits_call(checker, given.of.expr, given.call.span, env))
        }
        TeacherCall::Mixture(given) => {
            let (teachers, weights) = (given.teachers.expr, given.weights.expr);
            Some(pooled::pooled(checker, Pool::Mixture, teachers, Some(weights), given.call.span, env))
        }
        TeacherCall::Geometric(given) => {
            let (teachers, weights) = (given.teachers.expr, given.weights.expr);
            Some(pooled::pooled(checker, Pool::Geometric, teachers, Some(weights), given.call.span, env))
        }
        TeacherCall::Debate(given) => Some(panels::debate_call(checker, given, env)),
        TeacherCall::Integer(given) => Some(panels::integer_call(checker, given.range.expr, env)),
        TeacherCall::Environment(given) => secrets::env_call(checker, given, env),
    }
}

/// `served("vllm", url: env("TEACHER_URL"), model: "Qwen/Qwen3-32B", answers: top_k(20))`
fn served(checker: &mut Checker, given: Served, env: &Env) -> Option<Value> {
    let (engine, url) = (engine(checker, given.engine, env), read(checker, given.url, env));
    let (model, answers) = (read(checker, given.model, env), read(checker, given.answers, env));
    let key = match given.key.map(|key| server_key(checker, key, env)) {
        Some(key) => Some(key?),
        None => None,
    };
    let (engine, url, model, answers) = (engine?, url?, model?, answers?);
    let name = if env.model_name.is_empty() { "served" } else { &env.model_name };
    let weights = TeacherWeights::Served { engine, url, model, key };
    let mut teacher = plain_teachers::plain_teacher(checker, name, weights, given.call.span);
    teacher.answers = answers;
    Some(plain_teachers::declare_once(&mut checker.parts, teacher))
}

/// The engine of a server, which names its protocol.
pub fn engine(checker: &mut Checker, given: Arg<types::Text>, env: &Env) -> Option<String> {
    const ENGINES: &[&str] = &["vllm", "sglang", "mopd"];
    let engine = read(checker, given, env)?;
    if ENGINES.contains(&engine.as_str()) {
        return Some(engine);
    }
    let text = format!("unknown engine `{engine}`");
    let diagnostic = Diagnostic::error(Code::UnknownValue, given.expr.span, text);
    checker.report(match nearest(&engine, ENGINES.iter().copied()) {
        Some(near) => diagnostic
            .help(format!("did you mean `{near}`?"))
            .replace_with(format!("change to `{near}`"), format!("\"{near}\"")),
        None => diagnostic.help(format!("engines: {}", ENGINES.join(", "))),
    });
    None
}

/// The variable's name in `env("TEACHER_KEY")`. A text is refused: secrets do not belong in a file.
pub fn server_key(checker: &mut Checker, given: Arg<types::Secret>, env: &Env) -> Option<String> {
    match read(checker, given, env)? {
        Secret::Environment(name) => Some(name),
        Secret::Text(_) => {
            let text = "the key of a server is read from the environment";
            checker.report(
                Diagnostic::error(Code::TypeMismatch, given.expr.span, text)
                    .label("it would be part of the file, of plans and of results")
                    .help("write `key: env(\"TEACHER_KEY\")`, and set that variable where the run starts"),
            );
            None
        }
    }
}

/// `dist`, `top_k(20)`, `sampled`, `text`
pub fn capability(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Capability> {
    if let ExprKind::Call { callee, arguments, block: None } = &expr.kind
        && matches!(&callee.kind, ExprKind::Name(name) if name == "top_k")
        && let [argument] = arguments.as_slice()
    {
        return numbers::count(checker, &argument.value, "k", env, 1).map(Capability::TopK);
    }
    let words =
        [("dist", Capability::Distribution), ("sampled", Capability::Sampled), ("text", Capability::Text)];
    if matches!(expr.kind, ExprKind::Name(_)) {
        return expected::word(checker, expr, "what a teacher can answer", &words);
    }
    if !matches!(expr.kind, ExprKind::Error) {
        checker.report(
            Diagnostic::error(Code::UnknownValue, expr.span, "this must be what a teacher can answer")
                .help("one of: `dist`, `top_k(20)`, `sampled`, `text`"),
        );
    }
    None
}

/// `all`, `later_blocks(0.25)`: the unfilled positions whose contents a denoising student's teacher is
/// shown.
pub fn reveals(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Reveal> {
    if let ExprKind::Call { callee, arguments, block: None } = &expr.kind
        && matches!(&callee.kind, ExprKind::Name(name) if name == "later_blocks")
        && let [share] = arguments.as_slice()
    {
        let value = checker.evaluate(&share.value, env);
        return numbers::fraction(checker, &value, share.value.span, "the share that is revealed")
            .map(Reveal::LaterBlocks);
    }
    expected::word(
        checker,
        expr,
        "what is revealed (`all`, or `later_blocks(0.25)`)",
        &[("all", Reveal::All)],
    )
}

/// The weights of a model or a teacher.
pub fn weights_of(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<ModelId> {
    match checker.evaluate(expr, env) {
        Value::Model(model) => Some(model),
        Value::Teacher(id) => match checker.parts.teacher(id).weights {
            TeacherWeights::Model(model) => {
                checker.parts.used_teachers[id.0 as usize] = true;
                Some(model)
            }
            // The parameter has no value yet.
            TeacherWeights::Parameter => None,
            _ => {
                expected::wrong_kind(checker, expr.span, "expected weights: a model", &Value::Teacher(id));
                None
            }
        },
        other => {
            expected::no_model(checker, expr.span, &other);
            None
        }
    }
}

/// Separates the settings from a value: `expert { sees = worked }`. A stage in the place of a model keeps
/// its own settings; weights that exist have none.
pub fn split_block(declarations: &Declarations, value: &Expr, env: &Env) -> (Expr, Option<Block>) {
    let ExprKind::Call { callee, arguments, block: Some(block) } = &value.kind else {
        return (value.clone(), None);
    };
    if let ExprKind::Name(name) = &callee.kind
        && env.local(name).is_none()
        && declarations.modules.lookup(env.module, name).is_none()
        && builtins::find(name).is_some_and(|builtin| has_settings(builtin.kind))
    {
        return (value.clone(), None);
    }
    let before = Span { end: block.span.start, ..callee.span };
    let written = declarations.sources.text(before).trim_end();
    if !written.ends_with(')')
        || (arguments.is_empty() && declarations.sources.text(callee.span).trim_end().len() == written.len())
    {
        return (callee.as_ref().clone(), Some(block.clone()));
    }
    let span = Span { end: before.start + written.len() as u32, ..before };
    let kind = ExprKind::Call { callee: callee.clone(), arguments: arguments.clone(), block: None };
    (Expr { span, kind }, Some(block.clone()))
}

/// Whether braces after a constructor are its own settings. Loaded weights have none.
fn has_settings(kind: BuiltinKind) -> bool {
    use crate::check::builtins::Constructor::{Checkpoint, Gguf, HuggingFace};
    let BuiltinKind::Constructor(constructor) = kind else { return false };
    !matches!(constructor, HuggingFace | Gguf | Checkpoint)
}

/// Whether an expression reads the logits of a model, so that its numbers are known only in the run.
pub fn mentions_logits(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Call { callee, .. } => matches!(&callee.kind, ExprKind::Name(name) if name == "logits"),
        ExprKind::Unary { operand, .. } => mentions_logits(operand),
        ExprKind::Binary { left, right, .. } => mentions_logits(left) || mentions_logits(right),
        _ => false,
    }
}
