//! Teachers made of several: linear combinations of logits, and pools of distributions.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{BinaryOperator, Expr, WhereBinding};
use mopd_experiment::formula::{Axis, Formula, NamedFormula, Role, Unit, WeightedRole};
use mopd_experiment::{Capability, Pool, TeacherWeights};

use crate::check::Checker;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// The largest factor. Products with logits stay finite in single precision, which ends at about 1e38.
const MOST_FACTOR: f64 = 1e30;

impl Checker {
    /// `logits(a) + w * (logits(a) - logits(b)) where w = 15 * tv(a, b)`
    pub(in crate::check) fn composed(
        &mut self,
        value: &Expr,
        bindings: &[WhereBinding],
        env: &Env,
    ) -> Option<TeacherWeights> {
        let mut inner = env.with_context(EvaluationContext::Objective);
        let mut known: Vec<NamedFormula> = Vec::new();
        let mut good = true;
        for WhereBinding { name, value: expr } in bindings {
            if known.iter().any(|other| other.name == name.text) {
                self.report(Diagnostic::error(
                    Code::DuplicateName,
                    name.span,
                    format!("`{}` is set twice", name.text),
                ));
                good = false;
                continue;
            }
            let value = self.evaluate(expr, &inner);
            self.record(name.span, &value);
            inner.bind(&name.text, value.clone());
            match self.formula(value, expr.span) {
                Some(formula) => known.push(NamedFormula { name: name.text.clone(), formula }),
                None => good = false,
            }
        }
        let parts = match self.evaluate(value, &inner) {
            Value::Logits(parts) => parts,
            other => {
                let wanted = "`where` after a value belongs to a teacher composed of logits";
                self.wrong_kind(value.span, wanted, &other);
                return None;
            }
        };
        if !good {
            return None;
        }
        self.composed_of(parts, known, value.span)
    }

    pub(in crate::check) fn composed_of(
        &mut self,
        logits: Vec<WeightedRole>,
        bindings: Vec<NamedFormula>,
        span: Span,
    ) -> Option<TeacherWeights> {
        for WeightedRole { weight: factor, role } in &logits {
            if factor.unit() == Unit::Bool || factor.axis() > Axis::Token {
                self.unit_mismatch(
                    Spanned::new(factor, span),
                    "logits are added up with numbers as factors",
                    None,
                );
                return None;
            }
            if let Some(number) = factor.constant().filter(|number| number.abs() > MOST_FACTOR) {
                let text = format!("a factor of logits must be at most {MOST_FACTOR:e}");
                self.report(
                    Diagnostic::error(Code::OutOfRange, span, text)
                        .label(format!("one of them is {number:e}"))
                        .help("logits times it would be infinite in single precision"),
                );
                return None;
            }
            if let Some(short) = self.short_of_distribution(role) {
                let text = format!("`{}` answers {short}: it has no logits to add up", role.name());
                let mut diagnostic = Diagnostic::error(Code::TeacherCapability, span, text)
                    .help("logits are composed over the whole vocabulary: use a teacher that answers `dist`");
                if let Role::Named { teacher, .. } = role {
                    diagnostic = diagnostic.note(self.span(self.teacher(*teacher).origin), "declared here");
                }
                self.report(diagnostic);
                return None;
            }
        }
        Some(TeacherWeights::Composed { logits, bindings })
    }

    fn short_of_distribution(&self, role: &Role) -> Option<Capability> {
        let Role::Named { teacher, .. } = role else { return None };
        Some(self.teacher(*teacher).answers).filter(|answers| *answers < Capability::Distribution)
    }

    /// `mixture([a, b], weights: [0.7, 0.3])`
    pub(in crate::check) fn pooled(
        &mut self,
        pool: Pool,
        place: &Expr,
        weights: Option<&Expr>,
        span: Span,
        env: &Env,
    ) -> Value {
        let values = match self.evaluate(place, env) {
            Value::List(values) => values,
            Value::Family(family) => family.members.iter().map(|(_, value)| value.clone()).collect(),
            Value::Panel(panel) => {
                self.parts.panels[panel.0 as usize].members.iter().map(|id| Value::Teacher(*id)).collect()
            }
            other => {
                return self.wrong_kind(place.span, "expected several teachers: a list or a family", &other);
            }
        };
        let roles: Vec<Option<Role>> = values
            .into_iter()
            .map(|value| self.teacher_role(value, place.span, env, "every element must be a teacher"))
            .collect();
        let double = roles.iter().enumerate().find_map(|(at, role)| {
            let role = role.as_ref()?;
            roles[..at].iter().flatten().any(|known| known == role).then(|| role.name().to_owned())
        });
        if let Some(name) = double {
            let text = format!("`{name}` is in this `{}` twice", pool.name());
            self.report(
                Diagnostic::error(Code::DuplicateName, place.span, text)
                    .help("name each teacher once, and give it the sum of its weights"),
            );
            return Value::Error;
        }
        let Some(weights) = weights else {
            let text = format!("`{}` needs `weights`", pool.name());
            self.report(
                Diagnostic::error(Code::MissingArgument, span, text)
                    .label("not given here")
                    .help("say how much each teacher counts: `weights: [0.7, 0.3]`, or `weights: equal`"),
            );
            return Value::Error;
        };
        let parsed = self.weights(weights, roles.len(), "teachers", env);
        let (Some(roles), Some(parsed)) = (roles.into_iter().collect::<Option<Vec<Role>>>(), parsed) else {
            return Value::Error;
        };
        if roles.len() < 2 {
            let text = format!("`{}` combines several teachers", pool.name());
            self.report(
                Diagnostic::error(Code::OutOfRange, place.span, text)
                    .label(format!("{} in here", roles.len())),
            );
            return Value::Error;
        }
        if !self.check_pool_weights(pool, weights, &parsed) {
            return Value::Error;
        }
        let names: Vec<&str> = roles.iter().map(Role::name).collect();
        let name = format!("{}({})", pool.name(), names.join(", "));
        let members =
            parsed.into_iter().zip(roles).map(|(weight, role)| WeightedRole { weight, role }).collect();
        let weights = TeacherWeights::Pooled { pool, members };
        let teacher = self.plain_teacher(&name, weights, span);
        self.declare_once(teacher)
    }

    /// Reports weights of a pool that are negative, all 0, or shares that don't add up to 1.
    fn check_pool_weights(&mut self, pool: Pool, weights: &Expr, parsed: &[f64]) -> bool {
        let total: f64 = parsed.iter().sum();
        let shares = matches!(pool, Pool::Mixture | Pool::Geometric);
        if let Some(negative) = parsed.iter().find(|weight| **weight < 0.0) {
            let text = format!("a weight of `{}` is not negative", pool.name());
            self.report(
                Diagnostic::error(Code::OutOfRange, weights.span, text)
                    .label(format!("{negative} is in here"))
                    .help("to push away from a teacher, compose logits: `logits(a) + 0.5 * (logits(a) - logits(b))`"),
            );
            return false;
        }
        if total <= 0.0 || (shares && (total - 1.0).abs() > 1e-6) {
            let text = format!(
                "the weights of `{}` {}",
                pool.name(),
                if shares { "are shares: they add up to 1" } else { "are all 0: no teacher counts" }
            );
            let together = crate::check::data::domains::rounded(total);
            self.report(
                Diagnostic::error(Code::OutOfRange, weights.span, text).label(format!("together {together}")),
            );
            return false;
        }
        true
    }

    /// Linear combinations of logits: `logits(a) + w * (logits(a) - logits(b))`.
    pub(in crate::check) fn logits_arithmetic(
        &mut self,
        operator: BinaryOperator,
        left: Spanned<Value>,
        right: Spanned<Value>,
        span: Span,
    ) -> Value {
        match (operator, left.value, right.value) {
            (_, Value::Error, _) | (_, _, Value::Error) => Value::Error,
            (BinaryOperator::Add, Value::Logits(mut a), Value::Logits(b)) => {
                a.extend(b);
                Value::Logits(a)
            }
            (BinaryOperator::Subtract, Value::Logits(mut a), Value::Logits(b)) => {
                match self.scaled_logits(b, None, -1.0, span) {
                    Value::Logits(b) => {
                        a.extend(b);
                        Value::Logits(a)
                    }
                    _ => Value::Error,
                }
            }
            (BinaryOperator::Multiply, Value::Logits(parts), other) => {
                match self.formula(other, right.span) {
                    Some(factor) => self.scaled_logits(parts, Some(factor), 1.0, span),
                    None => Value::Error,
                }
            }
            (BinaryOperator::Multiply, other, Value::Logits(parts)) => match self.formula(other, left.span) {
                Some(factor) => self.scaled_logits(parts, Some(factor), 1.0, span),
                None => Value::Error,
            },
            _ => self.misplaced(
                span,
                "logits are added up, each with a factor, and nothing else",
                "for example `logits(a) + 0.5 * (logits(a) - logits(b))`",
            ),
        }
    }

    pub(in crate::check) fn scaled_logits(
        &mut self,
        parts: Vec<WeightedRole>,
        factor: Option<Formula>,
        sign: f64,
        span: Span,
    ) -> Value {
        let mut scaled = Vec::new();
        for WeightedRole { weight, role } in parts {
            let Value::Formula(sign) = self.number(sign, Unit::Number, span) else { return Value::Error };
            let factor = factor.clone().unwrap_or(sign);
            let (factor, weight) = (Spanned::new(factor, span), Spanned::new(weight, span));
            let product = self.binary(BinaryOperator::Multiply, span, factor, weight, span);
            let Value::Formula(weight) = product else { return Value::Error };
            scaled.push(WeightedRole { weight, role });
        }
        Value::Logits(scaled)
    }
}
