//! The names that mean something inside an objective only: roles, signals, and what `live` may mark.

use crate::diag::{Code, Diagnostic, nearest};
use crate::experiment::Tokenizer;
use crate::formula::{Axis, Formula, FormulaKind, Function, Live, Role, Signal, Unit};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind, Name};

use super::Checker;
use super::evaluate::{Context, Env};
use super::value::Value;
use super::vocabulary;

/// Whether a file may not declare this name. The roles may be: a model called `student` is what most files have, and inside an
/// objective the role comes first.
pub fn is_reserved(name: &str) -> bool {
    vocabulary::signal(name).is_some() && !matches!(name, "student" | "teacher" | "sampler")
}

impl Checker {
    /// A name of the run, if this is one and it may be read here.
    pub(super) fn signal_name(&mut self, name: &str, span: Span, env: &Env) -> Option<Value> {
        if env.context == Context::Constant {
            return None;
        }
        let (signal, unit) = match name {
            "student" => return Some(Value::Role(Role::Student)),
            "teacher" => return Some(Value::Role(Role::Teacher)),
            "sampler" => return Some(Value::Role(Role::Sampler)),
            "ratio" => return Some(self.ratio(false, span)),
            // One tokenizer so far, so one size.
            "vocab_size" => return Some(self.number(f64::from(Tokenizer::Bytes.vocabulary()), Unit::Count, span)),
            "reward" => (Signal::Reward, Unit::Real),
            "correct" => (Signal::Correct, Unit::Bool),
            "position" => (Signal::Position, Unit::Count),
            "length" => (Signal::Length, Unit::Count),
            "truncated" => (Signal::Truncated, Unit::Bool),
            "progress" => (Signal::Progress, Unit::Fraction),
            "step" => (Signal::Step, Unit::Count),
            "reference" => {
                self.not_supported(span, "the role `reference`");
                return Some(Value::Error);
            }
            _ => return None,
        };
        Some(self.signal(signal, unit, span))
    }

    pub(super) fn signal(&mut self, signal: Signal, unit: Unit, span: Span) -> Value {
        let axis = signal.axis();
        let origin = self.origin(span);
        Value::Formula(Formula::new(FormulaKind::Signal(signal), unit, axis, false, origin))
    }

    /// `student.logp`
    pub(super) fn field(&mut self, base: &Expr, field: &Name, span: Span, env: &Env) -> Value {
        let role = match self.evaluate(base, env) {
            Value::Role(role) => role,
            Value::Error => return Value::Error,
            Value::Teacher(_) => {
                self.not_supported(base.span, "naming one teacher inside an objective");
                return Value::Error;
            }
            other => {
                let text = format!("there is no `{}` in {}", field.text, other.describe());
                self.report(Diagnostic::error(Code::UnknownField, field.span, text).label("only roles have parts"));
                return Value::Error;
            }
        };
        match field.text.as_str() {
            "logp" => self.signal(Signal::Logp { role }, Unit::Logp, span),
            "entropy" => self.signal(Signal::Entropy { role }, Unit::Nats, span),
            "top1" => self.signal(Signal::Top1 { role }, Unit::Prob, span),
            "dist" | "rank" => {
                self.not_supported(span, &format!("`.{}`", field.text));
                Value::Error
            }
            _ => {
                let text = format!("`{}` has no `{}`", role.name(), field.text);
                let mut finding = Diagnostic::error(Code::UnknownField, field.span, text);
                let parts = || vocabulary::PARTS.iter().map(|part| part.name);
                finding = match nearest(&field.text, parts()) {
                    Some(near) => {
                        finding.help(format!("did you mean `{near}`?")).replace_with(format!("change to `{near}`"), near)
                    }
                    None => finding.help(format!("a role has: {}", parts().collect::<Vec<_>>().join(", "))),
                };
                self.report(finding);
                Value::Error
            }
        }
    }

    /// `live student.logp`, `live ratio`, `live kl(...)`
    pub(super) fn live(&mut self, operand: &Expr, span: Span, env: &Env) -> Value {
        if env.context != Context::Term {
            self.report(
                Diagnostic::error(Code::LiveOutsideTerm, span, "`live` belongs inside a `term`")
                    .label("no gradient flows from here")
                    .help("gradient flows from a term to the student; weights, selections and `let`s are plain numbers"),
            );
            return Value::Error;
        }
        if let ExprKind::Name(name) = &operand.kind {
            if name == "ratio" {
                return self.ratio(true, span);
            }
            if matches!(name.as_str(), "nll" | "dpo" | "mse" | "bce") {
                self.not_supported(span, &format!("`live {name}`"));
                return Value::Error;
            }
        }
        let formula = match self.evaluate(operand, env) {
            Value::Formula(formula) => formula,
            Value::Error => return Value::Error,
            Value::Role(role) => {
                self.formula(Value::Role(role), operand.span);
                return Value::Error;
            }
            other => return self.wrong_kind(operand.span, "`live` marks `student.logp`, `ratio` or a divergence", &other),
        };
        let live = match &formula.0.kind {
            FormulaKind::Signal(Signal::Logp { role: Role::Student }) => Live::Logp,
            FormulaKind::Signal(Signal::Divergence(divergence)) if divergence.reads_student() => {
                Live::Divergence(divergence.clone())
            }
            FormulaKind::Signal(Signal::Divergence(_) | Signal::Logp { .. }) => {
                self.report(
                    Diagnostic::error(Code::NothingLive, span, "nothing here belongs to the student, so no gradient can flow")
                        .label("teachers and samplers are frozen")
                        .help(
                            "mark a number that the student computes: `live student.logp`, or a divergence with `student` in it",
                        ),
                );
                return Value::Error;
            }
            _ => {
                self.report(
                    Diagnostic::error(Code::NotDifferentiable, span, "`live` marks one of the student's own numbers")
                        .label("this is computed from several")
                        .help("write `live` directly before `student.logp`, `ratio` or a divergence: `a * live student.logp`"),
                );
                return Value::Error;
            }
        };
        let origin = self.origin(span);
        Value::Formula(Formula::new(FormulaKind::Live(live), formula.unit(), Axis::Token, true, origin))
    }

    /// `exp(student.logp - sampler.logp)`: how much likelier the token has become since it was sampled.
    fn ratio(&mut self, live: bool, span: Span) -> Value {
        let origin = self.origin(span);
        let student =
            if live { FormulaKind::Live(Live::Logp) } else { FormulaKind::Signal(Signal::Logp { role: Role::Student }) };
        let sampler = FormulaKind::Signal(Signal::Logp { role: Role::Sampler });
        let student = Formula::new(student, Unit::Logp, Axis::Token, live, origin);
        let sampler = Formula::new(sampler, Unit::Logp, Axis::Token, false, origin);
        let difference = FormulaKind::Apply { function: Function::Subtract, operands: vec![student, sampler] };
        let difference = Formula::new(difference, Unit::Nats, Axis::Token, live, origin);
        let ratio = FormulaKind::Apply { function: Function::Exp, operands: vec![difference] };
        Value::Formula(Formula::new(ratio, Unit::Ratio, Axis::Token, live, origin))
    }
}
