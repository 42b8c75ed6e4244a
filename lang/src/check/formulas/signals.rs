//! Names that have a meaning only inside an objective: roles, signals, and parts of roles.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind, Name};
use mopd_experiment::formula::{
    Axis, Formula, FormulaKind, Function, Live, ModelSignal, NamedSpan, PlainSignal, Role, Signal, Unit,
};
use mopd_experiment::{SelfCopy, TeacherWeights};

use crate::check::Checker;
use crate::check::builtins::measures::MeasureCall;
use crate::check::builtins::vocabulary;
use crate::check::names::foreign::{self, Spelling};
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// Whether files may not declare this name. They may declare roles: most files have a model `student`, and
/// inside an objective the role takes precedence.
pub fn is_reserved(name: &str) -> bool {
    vocabulary::signal(name).is_some() && !is_role(name)
        || matches!(name, "domains" | "self" | "data" | "span")
}

/// The roles that an objective has without declaring them.
pub fn is_role(name: &str) -> bool {
    matches!(name, "student" | "teacher" | "old" | "sampler" | "reference")
}

/// A named constant, unless a file declares another of that name.
pub fn named_number(name: &str) -> Option<f64> {
    (name == "pi").then_some(std::f64::consts::PI)
}

/// Signals that a schedule may read too: one number for the whole step.
pub fn number_of_run(name: &str) -> Option<PlainSignal> {
    PlainSignal::find(name).filter(|signal| signal.axis() == Axis::Run)
}

impl Checker {
    /// A name of the run, if this is one and it may be read here.
    pub(in crate::check) fn signal_name(&mut self, name: &str, span: Span, env: &Env) -> Option<Value> {
        if env.context == EvaluationContext::Constant {
            return None;
        }
        if env.context == EvaluationContext::Entry {
            vocabulary::signal(name)?;
            let text =
                format!("a divergence is a function of its sides and parameters: it can't read `{name}`");
            let diagnostic = Diagnostic::error(Code::NotADivergence, span, text).label("a signal of the run");
            self.report(diagnostic.help("give it a parameter, and the number where it is called"));
            return Some(Value::Error);
        }
        if env.context == EvaluationContext::Guard {
            return self.step_number(name, span);
        }
        let run = number_of_run(name);
        if run.is_some() || env.context == EvaluationContext::Schedule {
            return run.map(|signal| self.signal(signal, span));
        }
        Some(match name {
            "student" => Value::Role(Role::Student),
            "teacher" => Value::Role(Role::Teacher),
            "old" => Value::Role(Role::Old),
            "sampler" => Value::Role(Role::Sampler),
            "reference" => Value::Role(Role::Reference),
            "domain" => Value::PromptDomain,
            "ratio" => self.ratio(false, span),
            _ => self.signal(PlainSignal::find(name)?, span),
        })
    }

    pub(in crate::check) fn signal(&mut self, signal: impl Into<Signal>, span: Span) -> Value {
        let origin = self.origin(span);
        Value::Formula(Formula::signal(signal, origin))
    }

    /// `student.logp`, `data.level`, `span.answer`, `reward.format`, `self.initial`, `pair.guide`
    pub(in crate::check) fn field(&mut self, base: &Expr, field: &Name, span: Span, env: &Env) -> Value {
        if let ExprKind::Name(name) = &base.kind
            && env.local(name).is_none()
        {
            let known = match name.as_str() {
                "data" => Some(Signal::Data { field: field.text.clone() }),
                "reward" => Some(Signal::RewardPart { part: field.text.clone() }),
                "span" => match self.named_span(field) {
                    Some(span) => Some(Signal::InSpan(span)),
                    None => return Value::Error,
                },
                "loss" if field.text == "validation" => Some(Signal::ValidationLoss),
                "loss" => Some(Signal::TermLoss { term: field.text.clone() }),
                _ => None,
            };
            if let Some(signal) = known {
                let known_for_run = env.context == EvaluationContext::Schedule && signal.axis() == Axis::Run;
                let before = !env.context.has_tokens();
                if before && !known_for_run {
                    let text = format!(
                        "`{name}.{}` differs from prompt to prompt: it can be read in an objective only",
                        field.text
                    );
                    self.report(Diagnostic::error(Code::TypeMismatch, span, text));
                    return Value::Error;
                }
                return self.signal(signal, span);
            }
            if name == "state"
                && let Some(state) = self.state_of_objective(field, span, env)
            {
                return state;
            }
            if foreign::is_library(name) && self.modules.lookup(env.module, name).is_none() {
                return self.foreign_library(name, field, span);
            }
        }
        let role = match self.evaluate(base, env) {
            Value::Error => return Value::Error,
            Value::Student(SelfCopy::Current) => return self.student_copy(field, &[], span, env),
            Value::Model(model) => return self.joint_member(model, field),
            value @ (Value::Role(_) | Value::Teacher(_)) => {
                if !env.context.has_tokens() {
                    let text = "what a teacher says of a token is known inside an objective only";
                    self.report(Diagnostic::error(Code::TypeMismatch, span, text));
                    return Value::Error;
                }
                self.role_of(value, base.span, "a role").expect("a role or a teacher is one")
            }
            other => {
                let text = format!("there is no `{}` in {}", field.text, other.describe());
                let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
                let is_part = vocabulary::PARTS.iter().any(|part| part.name == field.text);
                self.report(match &other {
                    // `specialist.math`
                    Value::Family(family)
                        if family.members.iter().any(|(key, _)| self.key_text(*key) == field.text) =>
                    {
                        let ours = format!("{}[{}]", self.sources.text(base.span), field.text);
                        diagnostic.fix(format!("write `{ours}`"), span, ours)
                    }
                    Value::Family(_) if is_part => diagnostic.help(format!(
                        "the teacher that the route chose for a prompt is `teacher`: `teacher.{}`",
                        field.text
                    )),
                    _ => diagnostic.label("only roles have parts"),
                });
                return Value::Error;
            }
        };
        if let Some(binding) = self.binding_of(&role, &field.text) {
            return Value::Formula(binding);
        }
        if field.text == "dist" {
            return Value::Role(role);
        }
        let Some(part) = self.part(&role, &field.text) else {
            if self.may_have(&role, field) {
                let origin = self.origin(span);
                let name = format!("{}.{}", role.name(), field.text);
                let kind = FormulaKind::Variable(name.into());
                return Value::Formula(Formula::new(kind, Unit::Number, Axis::Token, false, origin));
            }
            self.unknown_part(&role, field);
            return Value::Error;
        };
        self.signal(Signal::Of { role, part }, span)
    }

    /// Whether a role may have the field: a teacher parameter may be composed, with bindings as fields.
    fn may_have(&self, role: &Role, field: &Name) -> bool {
        let Role::Named { teacher, .. } = role else { return false };
        self.teacher(*teacher).weights == TeacherWeights::Parameter
            && nearest(&field.text, vocabulary::PARTS.iter().map(|part| part.name)).is_none()
    }

    fn part(&self, role: &Role, name: &str) -> Option<ModelSignal> {
        let part = ModelSignal::find(name)?;
        match (part, role) {
            (ModelSignal::Correct, Role::Named { .. }) => Some(part),
            (ModelSignal::Correct, _) => None,
            (ModelSignal::Confidence, Role::Named { teacher, .. })
                if matches!(
                    self.teacher(*teacher).weights,
                    TeacherWeights::Panelist { .. } | TeacherWeights::Parameter
                ) =>
            {
                Some(ModelSignal::StatedConfidence)
            }
            _ => Some(part),
        }
    }

    fn unknown_part(&mut self, role: &Role, field: &Name) {
        let text = format!("`{}` has no `{}`", role.name(), field.text);
        let diagnostic = Diagnostic::error(Code::UnknownField, field.span, text);
        let parts = || vocabulary::PARTS.iter().map(|part| part.name);
        self.report(match (foreign::part(&field.text), nearest(&field.text, parts())) {
            (Some(Spelling::Name(ours)), _) => diagnostic
                .help(format!("here it is called `{ours}`"))
                .replace_with(format!("change to `{ours}`"), ours),
            (Some(Spelling::Otherwise(words)), _) => diagnostic.help(words),
            (None, Some(near)) => diagnostic.did_you_mean(&field.text, near),
            (None, None) => {
                diagnostic.help(format!("a role has: {}", parts().collect::<Vec<_>>().join(", ")))
            }
        });
    }

    /// Any tag is a span; a name close to a usual one is taken for a typo.
    fn named_span(&mut self, field: &Name) -> Option<NamedSpan> {
        let usual = || vocabulary::SPANS.iter().map(|span| span.name);
        if field.text == "final_turn" {
            return Some(NamedSpan::FinalTurn);
        }
        if !usual().any(|name| name == field.text)
            && let Some(near) = nearest(&field.text, usual())
        {
            let diagnostic = Diagnostic::error(
                Code::UnknownField,
                field.span,
                format!("no usual span is called `{}`", field.text),
            );
            self.report(diagnostic.did_you_mean(&field.text, near));
            return None;
        }
        Some(NamedSpan::Tag(field.text.clone()))
    }

    /// `span.answer` where the span itself is meant.
    pub(in crate::check) fn span_value(&mut self, expr: &Expr, env: &Env) -> Option<NamedSpan> {
        match self.evaluate(expr, env) {
            Value::Formula(formula) => match &formula.0.kind {
                FormulaKind::Signal(Signal::InSpan(span)) => Some(span.clone()),
                _ => {
                    self.wrong_kind(
                        expr.span,
                        "expected a span of the completion, such as `span.answer`",
                        &Value::Formula(formula.clone()),
                    );
                    None
                }
            },
            other => {
                self.wrong_kind(
                    expr.span,
                    "expected a span of the completion, such as `span.answer`",
                    &other,
                );
                None
            }
        }
    }

    /// `exp(student.logp - old.logp)`: how much likelier the updates from this batch have made the token.
    pub(in crate::check) fn ratio(&mut self, live: bool, span: Span) -> Value {
        let origin = self.origin(span);
        let student = match live {
            true => Formula::new(
                FormulaKind::Live(Live::Part(ModelSignal::Logp)),
                Unit::Logp,
                Axis::Token,
                true,
                origin,
            ),
            false => Formula::signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp }, origin),
        };
        let old = Formula::signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp }, origin);
        let difference = FormulaKind::Apply { function: Function::Subtract, operands: vec![student, old] };
        let difference = Formula::new(difference, Unit::Nats, Axis::Token, live, origin);
        let ratio = FormulaKind::Apply { function: Function::Exp, operands: vec![difference] };
        Value::Formula(Formula::new(ratio, Unit::Ratio, Axis::Token, live, origin))
    }

    /// `overlap(student, teacher, k: 16)` and the other signals with arguments.
    pub(in crate::check) fn measure_call(&mut self, call: MeasureCall, env: &Env) -> Option<Value> {
        let span = call.written().span;
        if !env.context.has_tokens() {
            let text = "this is a signal of the run: it can be read inside an objective only";
            self.report(Diagnostic::error(Code::TypeMismatch, span, text));
            return None;
        }
        let signal = match call {
            MeasureCall::Overlap(given) => {
                let (left, right) = (self.read(given.left, env), self.read(given.right, env));
                let k = self.read(given.k, env);
                Signal::Overlap { left: left?, right: right?, k: k? }
            }
            MeasureCall::Mass(given) => {
                let (role, support) = (self.read(given.role, env), self.read(given.support, env));
                Signal::Mass { role: role?, support: support? }
            }
            MeasureCall::InNucleus(given) => {
                let (role, p) = (self.read(given.role, env), self.read(given.p, env));
                Signal::InNucleus { role: role?, p: p? }
            }
            MeasureCall::Agreement(given) => {
                let (role, samples) = (self.read(given.role, env), self.read(given.samples, env));
                let by = self.read(given.by, env);
                Signal::Agreement { role: role?, samples: samples?, by: by? }
            }
            MeasureCall::Score(given) => {
                let (role, span) = (self.read(given.role, env), self.read(given.on, env));
                Signal::SpanScore { role: role?, span: span? }
            }
            MeasureCall::Size(given) => Signal::SupportSize { support: self.read(given.support, env)? },
            MeasureCall::Available(given) => Signal::Available { role: self.read(given.role, env)? },
        };
        Some(self.signal(signal, span))
    }
}
