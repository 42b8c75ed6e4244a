//! `compare`: which models are judged, on what, and against which references.

use crate::diag::{Code, Diagnostic};
use crate::experiment::{Comparison, DomainId, Evaluation, ModelId, Normalized, Row, Sampling};
use crate::syntax::ast::{Block, Expr, ExprKind, Item, Text};

use super::Checker;
use super::evaluate::Env;
use super::functions::{self, Kind};
use super::modules::ModuleId;
use super::value::Value;
use super::vocabulary;

impl Checker {
    pub(super) fn comparison(&mut self, module: ModuleId, item: &Item, name: &Text, block: &Block) -> Option<Comparison> {
        let env = Env::constant(module);
        let settings = self.settings(Some(block), "compare", name.span, vocabulary::COMPARE, false);
        self.keep_marks(&settings, &format!("compare {:?}", name.text));
        let domains: Vec<DomainId> = (0..self.domains.len() as u32).map(DomainId).collect();
        let rows = self.required(&settings, "models").and_then(|expr| self.rows(expr, &domains, &env));
        let normalized = match settings.get("score") {
            None => Some(None),
            Some(expr) => self.normalized(expr, &domains, &env).map(Some),
        };
        let n = self.required_count(&settings, "samples", &env, 1);
        let temperature = self.required(&settings, "temperature").and_then(|expr| self.at_least(expr, "temperature", &env, 0.0));
        let max_tokens = self.required_count(&settings, "max_tokens", &env, 1);
        let seeds = match settings.get("seeds") {
            Some(expr) => self.count(expr, "seeds", &env, 1),
            None => Some(1),
        };
        let prompts = match settings.get("prompts") {
            Some(expr) => Some(self.count(expr, "prompts", &env, 1)?),
            None => None,
        };
        for &domain in &domains {
            if self.domain(domain).tests.is_none() {
                let (domain_name, span) = (self.domain(domain).name.clone(), self.span(self.domain(domain).origin));
                self.report(
                    Diagnostic::error(Code::MissingKey, span, format!("the domain `{domain_name}` has no held-out prompts"))
                        .because(name.span, "judged here")
                        .help("add `tests = \"...\"`: prompts that no model is trained on"),
                );
                return None;
            }
        }
        let sampling = Sampling { n: n?, temperature: temperature?, max_tokens: max_tokens? };
        if sampling.temperature == 0.0 && sampling.n > 1 {
            let span = settings.key_span("samples").expect("it was read");
            self.report(
                Diagnostic::error(Code::OutOfRange, span, "greedy samples of one prompt are all the same")
                    .help("write `samples = 1`, or a temperature above 0"),
            );
            return None;
        }
        let origin = self.origin(item.span);
        Some(Comparison {
            name: name.text.clone(),
            rows: rows?,
            domains,
            normalized: normalized?,
            seeds: seeds?,
            evaluation: Evaluation { sampling, prompts },
            origin,
        })
    }

    fn rows(&mut self, expr: &Expr, domains: &[DomainId], env: &Env) -> Option<Vec<Row>> {
        let ExprKind::List(items) = &expr.kind else {
            let value = self.evaluate(expr, env);
            self.wrong_kind(expr.span, "`models` is a list, such as `[start, expert, student]`", &value);
            return None;
        };
        let rows: Vec<Option<Row>> = items
            .iter()
            .map(|item| {
                let label = self.row_label(item);
                let value = self.evaluate(item, &env.named(&label));
                Some(Row { models: self.columns(value, item, domains)?, label })
            })
            .collect();
        rows.into_iter().collect()
    }

    /// What a row is called: the name written, or the stage's.
    fn row_label(&self, item: &Expr) -> String {
        match &item.kind {
            ExprKind::Name(name) => name.clone(),
            ExprKind::Call { callee, .. } => self.row_label(callee),
            _ => self.sources.text(item.span).to_owned(),
        }
    }

    /// One model per column.
    fn columns(&mut self, value: Value, expr: &Expr, domains: &[DomainId]) -> Option<Vec<ModelId>> {
        match value {
            Value::Model(model) => Some(vec![model; domains.len()]),
            Value::Family(family) => {
                let mut models = Vec::new();
                for domain in domains {
                    match family.members.iter().find(|(member, _)| member == domain) {
                        Some((_, Value::Model(model))) => models.push(*model),
                        Some((_, Value::Error)) => return None,
                        Some((_, other)) => {
                            self.wrong_kind(expr.span, "a table compares models", other);
                            return None;
                        }
                        None => {
                            let text = format!("`{}` has no member for the domain `{}`", family.name, self.domain(*domain).name);
                            self.report(
                                Diagnostic::error(Code::UnknownName, expr.span, text)
                                    .label("one column would stay empty")
                                    .help("name one member, such as `expert[math]`, to show it in every column"),
                            );
                            return None;
                        }
                    }
                }
                Some(models)
            }
            other => {
                self.wrong_kind(expr.span, "a table compares models", &other);
                None
            }
        }
    }

    fn normalized(&mut self, expr: &Expr, domains: &[DomainId], env: &Env) -> Option<Normalized> {
        let usage = "`score` is `normalized(zero: start, one: expert)`";
        let ExprKind::Call { callee, arguments, .. } = &expr.kind else {
            let value = self.evaluate(expr, env);
            self.wrong_kind(expr.span, usage, &value);
            return None;
        };
        let Value::Builtin(builtin) = self.evaluate(callee, env) else {
            self.report(Diagnostic::error(Code::WrongKind, expr.span, usage));
            return None;
        };
        if builtin.kind != Kind::Normalized {
            self.report(
                Diagnostic::error(Code::WrongKind, expr.span, usage).help(functions::find("normalized").expect("built in").usage),
            );
            return None;
        }
        let given = self.builtin_arguments(builtin, arguments, expr.span)?;
        let (zero, one) = (given[0].expect("required"), given[1].expect("required"));
        let (zero_value, one_value) = (self.evaluate(zero, env), self.evaluate(one, env));
        let (zero_models, one_models) = (self.columns(zero_value, zero, domains)?, self.columns(one_value, one, domains)?);
        if zero_models.iter().zip(&one_models).any(|(zero, one)| zero == one) {
            self.report(
                Diagnostic::error(Code::OutOfRange, expr.span, "the references of the score are the same model")
                    .because(zero.span, "scores 0")
                    .because(one.span, "scores 1"),
            );
            return None;
        }
        Some(Normalized { zero: zero_models, one: one_models })
    }
}
