//! Teachers: their weights, what they are shown, and what they can return.

mod composed;
pub mod panels;
pub mod route;
pub mod templates;

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Argument, Block, Expr, ExprKind, Name};
use mopd_experiment::formula::Role;
use mopd_experiment::{
    Alignment, Capability, ModelId, Pool, Reveal, Secret, SelfCopy, Teacher, TeacherId, TeacherWeights,
};

use crate::check::Checker;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::teachers::{Served, TeacherCall};
use crate::check::builtins::types;
use crate::check::builtins::vocabulary::TeacherBlock;
use crate::check::builtins::{self, BuiltinKind};
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::{Callable, Value};

/// The origin of a teacher as the author declared it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SaidOrigin {
    Same,
    Foreign,
}

/// The declared origin of each teacher, with its place.
pub type SaidOrigins = FxHashMap<TeacherId, (SaidOrigin, Span)>;

impl Checker {
    /// `teacher name = value { ... }`
    pub(in crate::check) fn teacher_binding(
        &mut self,
        name: &str,
        value: &Expr,
        span: Span,
        env: &Env,
    ) -> Value {
        let (inner, block) = self.split_block(value, env);
        let teacher = self.teacher_of_expression(&inner, name, span, env);
        let (settings, given) = self.block::<TeacherBlock>(block.as_ref(), &format!("teacher {name}"), span);
        self.keep_marks(&settings, &format!("teacher {name}"));
        let (sees, temperature) = (self.read(given.sees, env), self.read(given.temperature, env));
        let (answers, align) = (self.read(given.answers, env), self.read(given.align, env));
        let (reveals, feedback) = (self.read(given.reveals, env), self.read(given.feedback, env));
        let place = given.origin.map(|origin| origin.expr.span);
        let said = self.read(given.origin, env);
        let (Some(mut teacher), Some(sees), Some(reveals), Some(feedback)) =
            (teacher, sees, reveals, feedback)
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
        let declared = self.declare_once(teacher);
        if let (Value::Teacher(id), Some(said)) = (&declared, said.zip(place)) {
            self.parts.said_origins.insert(*id, said);
        }
        declared
    }

    /// The teacher that the value of a `teacher` declares, before its settings.
    fn teacher_of_expression(&mut self, inner: &Expr, name: &str, span: Span, env: &Env) -> Option<Teacher> {
        let before = self.parts.teachers.len();
        if let ExprKind::Where { value, bindings } = &inner.kind {
            let weights = self.composed(value, bindings, env)?;
            return Some(self.plain_teacher(name, weights, span));
        }
        let value = if mentions_logits(inner) {
            self.evaluate(inner, &env.with_context(EvaluationContext::Objective))
        } else {
            self.evaluate(inner, env)
        };
        let weights = match value {
            Value::Model(model) => TeacherWeights::Model(model),
            Value::Student(copy) => TeacherWeights::Student(copy),
            Value::Logits(logits) => self.composed_of(logits, Vec::new(), inner.span)?,
            Value::Item { item, kind: Callable::Teacher } => {
                let called = self.call_item(item, inner.span, &[], env);
                return self.renamed(called, Some(before), name, span);
            }
            teacher @ Value::Teacher(_) => {
                // A name, or a member of a family, may refer to a teacher that was declared during the
                // evaluation, further down in the file.
                let made_here = matches!(inner.kind, ExprKind::Call { .. }).then_some(before);
                return self.renamed(teacher, made_here, name, span);
            }
            other => {
                self.no_weights(
                    inner.span,
                    "the value of a teacher is a model, such as `expert[math]`",
                    &other,
                );
                return None;
            }
        };
        Some(self.plain_teacher(name, weights, span))
    }

    /// The same teacher under another name. A teacher that a call declared during the evaluation, such as
    /// `mixture` or `served`, is removed: `before` is the number of teachers before.
    fn renamed(&mut self, value: Value, before: Option<usize>, name: &str, span: Span) -> Option<Teacher> {
        let Value::Teacher(id) = value else { return None };
        let mut teacher = self.teacher(id).clone();
        if id.0 as usize + 1 == self.parts.teachers.len()
            && before.is_some_and(|before| id.0 as usize >= before)
        {
            self.parts.teachers.pop();
            self.parts.used_teachers.pop();
            self.parts.said_origins.remove(&id);
        }
        teacher.name = name.to_owned();
        teacher.origin = self.origin(span);
        Some(teacher)
    }

    /// A teacher with default settings.
    pub(in crate::check) fn plain_teacher(
        &mut self,
        name: &str,
        weights: TeacherWeights,
        span: Span,
    ) -> Teacher {
        Teacher {
            name: name.to_owned(),
            answers: self.natural_answers(&weights),
            weights,
            sees: None,
            temperature: 1.0,
            foreign: false,
            align: Alignment::Positions,
            reveals: None,
            feedback: None,
            origin: self.origin(span),
        }
    }

    /// Declares a teacher unless an equal one exists: every use evaluates a parameterised teacher.
    fn declare_once(&mut self, teacher: Teacher) -> Value {
        match self.parts.teachers.iter().position(|known| *known == teacher) {
            Some(known) => Value::Teacher(TeacherId(known as u32)),
            None => self.declare_teacher(teacher),
        }
    }

    /// The teacher for `self` or `self.ema(0.99)`.
    pub(in crate::check) fn student_as_teacher(&mut self, name: &str, copy: SelfCopy, span: Span) -> Value {
        let teacher = self.plain_teacher(name, TeacherWeights::Student(copy), span);
        self.declare_once(teacher)
    }

    /// `self.initial`, `self.ema(0.99)`, `self.every(100 steps)`
    pub(in crate::check) fn student_copy(
        &mut self,
        field: &Name,
        arguments: &[Argument],
        span: Span,
        env: &Env,
    ) -> Value {
        const USAGE: &str = "`self`, `self.initial`, `self.ema(0.99)` or `self.every(100 steps)`";
        let parameters: &[&str] = match field.text.as_str() {
            "initial" => &[],
            "ema" => &["rate"],
            "every" => &["steps"],
            other => {
                let diagnostic = Diagnostic::error(
                    Code::UnknownField,
                    field.span,
                    format!("the student has no copy `{other}`"),
                );
                self.report(match nearest(other, ["initial", "ema", "every"]) {
                    Some(near) => diagnostic.did_you_mean(other, near),
                    None => diagnostic.help(format!("write {USAGE}")),
                });
                return Value::Error;
            }
        };
        let slots = self.slots(&format!("self.{}", field.text), parameters, arguments, None);
        if !slots.misplaced.is_empty() {
            return Value::Error;
        }
        let given = slots.given.first().copied().flatten();
        let copy = match (field.text.as_str(), given) {
            ("initial", _) => Some(SelfCopy::Initial),
            (_, None) => {
                let text = format!("`self.{}` needs `{}`", field.text, parameters[0]);
                self.report(
                    Diagnostic::error(Code::MissingArgument, span, text).help(format!("write {USAGE}")),
                );
                None
            }
            ("ema", Some(expr)) => {
                let value = self.evaluate(expr, env);
                self.fraction(&value, expr.span, "`rate`").and_then(|rate| {
                    if rate < 1.0 {
                        return Some(SelfCopy::Ema { rate });
                    }
                    self.report(
                        Diagnostic::error(
                            Code::OutOfRange,
                            expr.span,
                            "an average that keeps all of what it was never moves",
                        )
                        .help("write `self.initial` for the student as it was before the first step"),
                    );
                    None
                })
            }
            (_, Some(expr)) => self.count(expr, "steps", env, 1).map(|steps| SelfCopy::Every { steps }),
        };
        copy.map_or(Value::Error, Value::Student)
    }

    /// The value of a call that makes a teacher.
    pub(in crate::check) fn teacher_call(&mut self, call: TeacherCall, env: &Env) -> Option<Value> {
        match call {
            TeacherCall::Served(given) => self.served(given, env),
            TeacherCall::Logits(given) => Some(self.logits_call(given.of.expr, given.call.span, env)),
            TeacherCall::Mixture(given) => {
                let (teachers, weights) = (given.teachers.expr, given.weights.expr);
                Some(self.pooled(Pool::Mixture, teachers, Some(weights), given.call.span, env))
            }
            TeacherCall::Geometric(given) => {
                let (teachers, weights) = (given.teachers.expr, given.weights.expr);
                Some(self.pooled(Pool::Geometric, teachers, Some(weights), given.call.span, env))
            }
            TeacherCall::Debate(given) => Some(self.debate_call(given, env)),
            TeacherCall::Integer(given) => Some(self.integer_call(given.range.expr, env)),
            TeacherCall::Environment(given) => self.env_call(given, env),
        }
    }

    /// `served("vllm", url: env("TEACHER_URL"), model: "Qwen/Qwen3-32B", answers: top_k(20))`
    fn served(&mut self, given: Served, env: &Env) -> Option<Value> {
        let (engine, url) = (self.engine(given.engine, env), self.read(given.url, env));
        let (model, answers) = (self.read(given.model, env), self.read(given.answers, env));
        let key = match given.key.map(|key| self.server_key(key, env)) {
            Some(key) => Some(key?),
            None => None,
        };
        let (engine, url, model, answers) = (engine?, url?, model?, answers?);
        let name = if env.model_name.is_empty() { "served" } else { &env.model_name };
        let weights = TeacherWeights::Served { engine, url, model, key };
        let mut teacher = self.plain_teacher(name, weights, given.call.span);
        teacher.answers = answers;
        Some(self.declare_once(teacher))
    }

    /// The engine of a server, which names its protocol.
    pub(in crate::check) fn engine(&mut self, given: Arg<types::Text>, env: &Env) -> Option<String> {
        const ENGINES: &[&str] = &["vllm", "sglang", "mopd"];
        let engine = self.read(given, env)?;
        if ENGINES.contains(&engine.as_str()) {
            return Some(engine);
        }
        let text = format!("unknown engine `{engine}`");
        let diagnostic = Diagnostic::error(Code::UnknownValue, given.expr.span, text);
        self.report(match nearest(&engine, ENGINES.iter().copied()) {
            Some(near) => diagnostic
                .help(format!("did you mean `{near}`?"))
                .replace_with(format!("change to `{near}`"), format!("\"{near}\"")),
            None => diagnostic.help(format!("engines: {}", ENGINES.join(", "))),
        });
        None
    }

    /// The variable's name in `env("TEACHER_KEY")`. A text is refused: secrets do not belong in a file.
    pub(in crate::check) fn server_key(&mut self, given: Arg<types::Secret>, env: &Env) -> Option<String> {
        match self.read(given, env)? {
            Secret::Environment(name) => Some(name),
            Secret::Text(_) => {
                let text = "the key of a server is read from the environment";
                self.report(
                    Diagnostic::error(Code::TypeMismatch, given.expr.span, text)
                        .label("it would be part of the file, of plans and of results")
                        .help(
                            "write `key: env(\"TEACHER_KEY\")`, and set that variable where the run starts",
                        ),
                );
                None
            }
        }
    }

    /// `dist`, `top_k(20)`, `sampled`, `text`
    pub(in crate::check) fn capability(&mut self, expr: &Expr, env: &Env) -> Option<Capability> {
        if let ExprKind::Call { callee, arguments, block: None } = &expr.kind
            && matches!(&callee.kind, ExprKind::Name(name) if name == "top_k")
            && let [argument] = arguments.as_slice()
        {
            return self.count(&argument.value, "k", env, 1).map(Capability::TopK);
        }
        let words = [
            ("dist", Capability::Distribution),
            ("sampled", Capability::Sampled),
            ("text", Capability::Text),
        ];
        if matches!(expr.kind, ExprKind::Name(_)) {
            return self.word(expr, "what a teacher can answer", &words);
        }
        if !matches!(expr.kind, ExprKind::Error) {
            self.report(
                Diagnostic::error(Code::UnknownValue, expr.span, "this must be what a teacher can answer")
                    .help("one of: `dist`, `top_k(20)`, `sampled`, `text`"),
            );
        }
        None
    }

    /// `all`, `later_blocks(0.25)`: the unfilled positions whose contents a denoising student's teacher is
    /// shown.
    pub(in crate::check) fn reveals(&mut self, expr: &Expr, env: &Env) -> Option<Reveal> {
        if let ExprKind::Call { callee, arguments, block: None } = &expr.kind
            && matches!(&callee.kind, ExprKind::Name(name) if name == "later_blocks")
            && let [share] = arguments.as_slice()
        {
            let value = self.evaluate(&share.value, env);
            return self
                .fraction(&value, share.value.span, "the share that is revealed")
                .map(Reveal::LaterBlocks);
        }
        self.word(expr, "what is revealed (`all`, or `later_blocks(0.25)`)", &[("all", Reveal::All)])
    }

    /// The teacher for a model that is not declared as one.
    pub(in crate::check) fn teacher_of_model(&mut self, name: &str, model: ModelId, span: Span) -> Value {
        let unnamed = |known: &Teacher| {
            known.weights == TeacherWeights::Model(model) && known.name == name && known.sees.is_none()
        };
        match self.parts.teachers.iter().position(unnamed) {
            Some(known) => Value::Teacher(TeacherId(known as u32)),
            None => {
                let teacher = self.plain_teacher(name, TeacherWeights::Model(model), span);
                self.declare_teacher(teacher)
            }
        }
    }

    /// The default capability of weights.
    fn natural_answers(&self, weights: &TeacherWeights) -> Capability {
        let of = |role: &Role| match role {
            Role::Named { teacher, .. } => self.teacher(*teacher).answers,
            _ => Capability::Distribution,
        };
        match weights {
            TeacherWeights::Pooled { pool, members } => {
                let least = members.iter().map(|part| of(&part.role)).min().unwrap_or(Capability::Text);
                match pool {
                    // Each teacher is queried separately.
                    Pool::Sum => least,
                    // A mixture of truncated distributions is not the truncation of a mixture; for one given
                    // token it is the mean.
                    Pool::Mixture if least < Capability::Distribution => least.min(Capability::Sampled),
                    // The product of probabilities needs the whole vocabulary for its normalizer.
                    Pool::Geometric if least < Capability::Distribution => Capability::Text,
                    _ => Capability::Distribution,
                }
            }
            TeacherWeights::Panelist { speaker, .. } => of(speaker),
            _ => Capability::Distribution,
        }
    }

    /// The role of a teacher, of the student's own copies, or of a model that is not declared as a teacher.
    pub(in crate::check) fn teacher_role(
        &mut self,
        value: Value,
        span: Span,
        env: &Env,
        wanted: &str,
    ) -> Option<Role> {
        let value = match value {
            Value::Model(model) => {
                let name = self.model(model).name.clone();
                self.teacher_of_model(&name, model, span)
            }
            Value::Student(copy) => self.student_as_teacher("self", copy, span),
            Value::Item { item, kind: Callable::Teacher } => self.call_item(item, span, &[], env),
            other => other,
        };
        self.role_of(value, span, wanted)
    }

    /// The weights of a model or a teacher.
    pub(in crate::check) fn weights_of(&mut self, expr: &Expr, env: &Env) -> Option<ModelId> {
        match self.evaluate(expr, env) {
            Value::Model(model) => Some(model),
            Value::Teacher(id) => match self.teacher(id).weights {
                TeacherWeights::Model(model) => {
                    self.parts.used_teachers[id.0 as usize] = true;
                    Some(model)
                }
                // The parameter has no value yet.
                TeacherWeights::Parameter => None,
                _ => {
                    self.wrong_kind(expr.span, "expected weights: a model", &Value::Teacher(id));
                    None
                }
            },
            other => {
                self.no_model(expr.span, &other);
                None
            }
        }
    }

    /// Separates the settings from a value: `expert { sees = worked }`. A stage in the place of a model keeps
    /// its own settings; weights that exist have none.
    pub(in crate::check) fn split_block(&self, value: &Expr, env: &Env) -> (Expr, Option<Block>) {
        let ExprKind::Call { callee, arguments, block: Some(block) } = &value.kind else {
            return (value.clone(), None);
        };
        if let ExprKind::Name(name) = &callee.kind
            && env.local(name).is_none()
            && self.modules.lookup(env.module, name).is_none()
            && builtins::find(name).is_some_and(|builtin| has_settings(builtin.kind))
        {
            return (value.clone(), None);
        }
        let before = Span { end: block.span.start, ..value.span };
        let written = self.sources.text(before).trim_end();
        if !written.ends_with(')')
            || (arguments.is_empty() && self.sources.text(callee.span).trim_end().len() == written.len())
        {
            return (callee.as_ref().clone(), Some(block.clone()));
        }
        let span = Span { end: before.start + written.len() as u32, ..before };
        let kind = ExprKind::Call { callee: callee.clone(), arguments: arguments.clone(), block: None };
        (Expr { span, kind }, Some(block.clone()))
    }
}

/// Whether braces after a constructor are its own settings. Loaded weights have none.
fn has_settings(kind: BuiltinKind) -> bool {
    use crate::check::builtins::Constructor::{Checkpoint, Gguf, HuggingFace};
    let BuiltinKind::Constructor(constructor) = kind else { return false };
    !matches!(constructor, HuggingFace | Gguf | Checkpoint)
}

/// Whether an expression reads the logits of a model, so that its numbers are known only in the run.
pub(in crate::check) fn mentions_logits(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Call { callee, .. } => matches!(&callee.kind, ExprKind::Name(name) if name == "logits"),
        ExprKind::Unary { operand, .. } => mentions_logits(operand),
        ExprKind::Binary { left, right, .. } => mentions_logits(left) || mentions_logits(right),
        _ => false,
    }
}
