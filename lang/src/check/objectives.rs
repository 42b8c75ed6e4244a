//! Objectives: `let`, `select`, `weight`, terms, and how tokens and sequences are averaged.

use crate::diag::{Code, Diagnostic};
use crate::experiment::{Objective, ReduceStep, Term};
use crate::formula::{Axis, Formula, FormulaKind, Reduction, Role, Signal, Unit};
use crate::source::Span;
use crate::syntax::ast::{Block, Expr, ExprKind, Item, ItemKind, Name, Statement};

use super::Checker;
use super::evaluate::{Context, Env};
use super::modules::ItemId;
use super::value::{Callable, Value};
use super::vocabulary;

impl Checker {
    /// The body of an objective whose parameters are bound in `env`.
    pub(super) fn objective_body(&mut self, name: &Name, body: &Block, env: &Env) -> Option<Objective> {
        let mut outside = env.with_context(Context::Objective);
        let mut terms = Vec::new();
        let mut select = None;
        let mut weight = None;
        let mut reduce = None;
        let mut good = true;
        let mut seen: Vec<&Name> = Vec::new();
        for statement in &body.statements {
            match statement {
                Statement::Let { name, value } => {
                    let value = self.evaluate(value, &outside);
                    self.record(name.span, &value);
                    outside.bind(&name.text, value);
                }
                Statement::Term { name, value, block } => {
                    if let Some(block) = block {
                        self.not_supported(block.span, "a term with settings of its own");
                    }
                    let term = self.term(name, value, &outside.with_context(Context::Term));
                    good &= term.is_some();
                    terms.extend(term);
                }
                Statement::Entry(entry) => {
                    let marks = self.marks(entry);
                    self.record_marks(&format!("objective {}", name.text), &entry.key.text, marks);
                    if let Some(first) = seen.iter().find(|first| first.text == entry.key.text) {
                        self.report(
                            Diagnostic::error(Code::DuplicateKey, entry.key.span, format!("`{}` is set twice", entry.key.text))
                                .because(first.span, "first set here"),
                        );
                        continue;
                    }
                    seen.push(&entry.key);
                    match entry.key.text.as_str() {
                        "select" => {
                            select = self.detached(&entry.value, &outside, Some(Unit::Bool));
                            good &= select.is_some();
                        }
                        "weight" => {
                            weight = self.detached(&entry.value, &outside, None);
                            good &= weight.is_some();
                        }
                        "reduce" => {
                            reduce = self.reduction(&entry.value);
                            good &= reduce.is_some();
                        }
                        _ => {
                            self.unknown_key(&entry.key, "an objective", vocabulary::OBJECTIVE);
                            good = false;
                        }
                    }
                }
                Statement::Route(route) => {
                    self.report(Diagnostic::error(
                        Code::UnknownKey,
                        route.span,
                        "a route belongs to a stage or to the file, not to an objective",
                    ));
                    good = false;
                }
            }
        }
        let has_term = body.statements.iter().any(|statement| matches!(statement, Statement::Term { .. }));
        if !has_term && !body.broken {
            self.report(
                Diagnostic::error(
                    Code::MissingTerm,
                    name.span,
                    format!("`{}` has no term, so there is nothing to train on", name.text),
                )
                .help("add `term name = ...` with one factor marked `live`"),
            );
        }
        if !body.broken && !seen.iter().any(|key| key.text == "reduce") {
            self.report(
                Diagnostic::error(Code::MissingReduce, name.span, format!("`{}` does not say how tokens are averaged", name.text))
                    .help("add `reduce = mean(token) then mean(sequence)` (every sequence counts alike) or `reduce = mean(token, over: batch)` (every token does)"),
            );
        }
        if !good || !has_term {
            return None;
        }
        let origin = self.origin(name.span);
        Some(Objective { name: name.text.clone(), terms, select, weight, reduce: reduce?, origin })
    }

    fn term(&mut self, name: &Name, value: &Expr, env: &Env) -> Option<Term> {
        let worth = self.evaluate(value, env);
        let formula = self.formula(worth, value.span)?;
        self.record(name.span, &Value::Formula(formula.clone()));
        if formula.unit() == Unit::Bool {
            self.unit_mismatch(value.span, "a term is a number, not a truth value", &[(value.span, &formula)], None);
            return None;
        }
        if !formula.live() {
            self.report(
                Diagnostic::error(Code::NothingLive, value.span, format!("the term `{}` carries no gradient", name.text))
                    .label("every factor is a plain number")
                    .help("mark the factor that should learn: `live student.logp`, `live ratio`, `live kl(...)`"),
            );
            return None;
        }
        let origin = self.origin(value.span);
        Some(Term { name: name.text.clone(), value: formula, origin })
    }

    /// A weight or a selection: a number without gradient.
    fn detached(&mut self, expr: &Expr, env: &Env, unit: Option<Unit>) -> Option<Formula> {
        let value = self.evaluate(expr, env);
        let formula = self.formula(value, expr.span)?;
        let wanted_bool = unit == Some(Unit::Bool);
        if wanted_bool != (formula.unit() == Unit::Bool) {
            let message = if wanted_bool { "`select` needs a truth value per token" } else { "`weight` needs a number" };
            let help = if wanted_bool { "compare with a bound, or use `top_fraction(...)`" } else { "use `select` for a mask" };
            self.unit_mismatch(expr.span, message, &[(expr.span, &formula)], Some(help));
            return None;
        }
        Some(formula)
    }

    /// `mean(token) then mean(sequence)`, `mean(token, over: batch)`
    fn reduction(&mut self, expr: &Expr) -> Option<Vec<ReduceStep>> {
        let mut parts = Vec::new();
        flatten(expr, &mut parts);
        let mut read = Vec::new();
        for part in &parts {
            read.push(self.reduction_step(part)?);
        }
        let mut steps = Vec::new();
        let mut expected = Axis::Token;
        for (index, (operation, elements, over, span)) in read.iter().enumerate() {
            if *elements != expected {
                let text = if index == 0 {
                    "a `reduce` starts from tokens".to_owned()
                } else {
                    format!("one number per {} is left at this point", expected.name())
                };
                self.report(
                    Diagnostic::error(Code::AxisMismatch, *span, text)
                        .label(format!("puts together {}s", elements.name()))
                        .help("for example `mean(token) then mean(sequence)`"),
                );
                return None;
            }
            let next = read.get(index + 1).map(|(_, elements, _, _)| *elements);
            let over = match (over, next) {
                (Some(over), _) => *over,
                (None, Some(next)) => next,
                (None, None) if index == 0 => {
                    self.report(
                        Diagnostic::error(Code::AxisMismatch, *span, "which mean: of all tokens alike, or of each sequence first?")
                            .label("does not say")
                            .help("write `mean(token, over: batch)`, or `mean(token) then mean(sequence)`: they are different experiments"),
                    );
                    return None;
                }
                (None, None) => Axis::Batch,
            };
            if over >= *elements {
                self.report(
                    Diagnostic::error(
                        Code::AxisMismatch,
                        *span,
                        format!("{}s can't be put together per {}", elements.name(), over.name()),
                    )
                    .help("axes go from token to sequence to group to batch"),
                );
                return None;
            }
            steps.push(ReduceStep { operation: *operation, elements: *elements, over });
            expected = over;
        }
        if expected != Axis::Batch {
            let span = read.last().expect("at least one step").3;
            self.report(
                Diagnostic::error(
                    Code::AxisMismatch,
                    span,
                    format!("one number per {} is left, but a loss is a single number", expected.name()),
                )
                .help(format!("add `then mean({})`", expected.name())),
            );
            return None;
        }
        Some(steps)
    }

    fn reduction_step(&mut self, expr: &Expr) -> Option<(Reduction, Axis, Option<Axis>, Span)> {
        let usage = "a step is `mean(axis)` or `sum(axis)`, with `over: axis` where needed";
        let ExprKind::Call { callee, arguments, .. } = &expr.kind else {
            if let ExprKind::Binary { .. } = &expr.kind {
                self.not_supported(expr.span, "a `reduce` with a denominator of its own");
            } else if !matches!(expr.kind, ExprKind::Error) {
                self.report(Diagnostic::error(Code::WrongKind, expr.span, "this is no step of a `reduce`").help(usage));
            }
            return None;
        };
        let words = [("mean", Reduction::Mean), ("sum", Reduction::Sum)];
        let operation = self.word(callee, "a way to put numbers together", &words)?;
        let mut elements = None;
        let mut over = None;
        for argument in arguments {
            match &argument.name {
                None if elements.is_none() => elements = Some(self.axis(&argument.value)?),
                Some(name) if name.text == "over" => over = Some(self.axis(&argument.value)?),
                _ => {
                    self.unknown_argument("reduce", argument, &["over"], None);
                    return None;
                }
            }
        }
        match elements {
            Some(elements) => Some((operation, elements, over, expr.span)),
            None => {
                self.report(Diagnostic::error(Code::MissingArgument, expr.span, "which axis is put together here?").help(usage));
                None
            }
        }
    }

    /// Checks an item for its own sake, used or not.
    pub(super) fn check_item(&mut self, id: ItemId, item: &Item) {
        let module = id.module;
        match &item.kind {
            ItemKind::Unsupported { keyword } => self.not_supported(keyword.span, &format!("`{}`", keyword.text)),
            ItemKind::Objective { parameters, .. } | ItemKind::Stage { parameters, .. } | ItemKind::Fn { parameters, .. } => {
                let kind = match &item.kind {
                    ItemKind::Objective { .. } => Callable::Objective,
                    ItemKind::Stage { .. } => Callable::Stage,
                    _ => Callable::Fn,
                };
                let mut env = Env::constant(module);
                for parameter in parameters {
                    let value = match (&parameter.default, &parameter.annotation) {
                        (Some(default), Some(annotation)) => {
                            let value = self.evaluate_constant(module, default);
                            self.coerce(value, annotation, default.span)
                        }
                        (Some(default), None) => self.evaluate_constant(module, default),
                        // Nothing is known about the value yet, so nothing about it can be wrong.
                        (None, _) => Value::Error,
                    };
                    env.bind(&parameter.name.text, value);
                }
                self.check_body(id, kind, env);
            }
            ItemKind::Use(_)
            | ItemKind::Experiment { .. }
            | ItemKind::Route(_)
            | ItemKind::Compare { .. }
            | ItemKind::Domain { .. } => {}
            _ => {
                self.item_value(id, item.span);
            }
        }
    }

    fn check_body(&mut self, id: ItemId, kind: Callable, env: Env) {
        let tree = self.modules.tree(id.module);
        match (&tree.items[id.index].kind, kind) {
            (ItemKind::Objective { name, body, .. }, _) => {
                self.objective_body(name, body, &env);
            }
            // A function may be meant for a term or for a setting; the term allows everything.
            (ItemKind::Fn { body, .. }, _) => {
                self.evaluate(body, &env.with_context(Context::Term));
            }
            (ItemKind::Stage { body, .. }, _) => {
                self.evaluate(body, &env);
            }
            _ => {}
        }
    }
}

/// Whether some formula of the objective compares the samples of one prompt.
pub fn reads_group(objective: &Objective) -> bool {
    parts(objective).any(|formula| {
        formula.any(|node| match &node.kind {
            FormulaKind::Statistic { over, .. } => *over == Axis::Group,
            FormulaKind::Reduce { .. } => node.axis == Axis::Group,
            _ => false,
        })
    })
}

/// Whether some formula reads what only a rollout has: the sampler, a reward.
pub fn reads_rollout(objective: &Objective) -> bool {
    parts(objective).any(|formula| {
        let judged = |kind: &FormulaKind| matches!(kind, FormulaKind::Signal(Signal::Reward | Signal::Correct));
        formula.reads(Role::Sampler) || formula.any(|node| judged(&node.kind))
    })
}

fn parts(objective: &Objective) -> impl Iterator<Item = &Formula> {
    objective.terms.iter().map(|term| &term.value).chain(&objective.select).chain(&objective.weight)
}

fn flatten<'a>(expr: &'a Expr, parts: &mut Vec<&'a Expr>) {
    match &expr.kind {
        ExprKind::Then { first, second } => {
            flatten(first, parts);
            flatten(second, parts);
        }
        _ => parts.push(expr),
    }
}
