//! Objectives: `let`, `state`, `select`, `weight`, and terms.

pub mod capability;
pub mod live;
mod names;
mod narrow_bounds;
pub mod pitfalls;
mod reading_order;
mod states;

pub(in crate::check) use reading_order::in_reading_order;

use std::rc::Rc;

use rustc_hash::FxHashSet;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Block, Entry, Expr, Index, Name, Statement};
use mopd_experiment::formula::{
    Axis, Formula, FormulaKind, FormulaNode, Live, NamedFormula, PlainSignal, Signal, Unit,
};
use mopd_experiment::{Objective, Reduce, Rollout, Term};

use crate::check::Checker;
use crate::check::builtins::vocabulary::TermBlock;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::{FamilyMembers, Value};

/// The settings of an objective, checked.
#[derive(Default)]
struct ObjectiveParts<'a> {
    terms: Vec<Term>,
    select: Option<Formula>,
    weight: Option<Formula>,
    temperature: Option<f64>,
    reduce: Option<Reduce>,
    lets: Vec<NamedFormula>,
    seen: Vec<&'a Name>,
    /// Whether something has been reported. Then the objective has no value.
    faulty: bool,
}

/// The settings of one term's block.
#[derive(Default)]
struct TermSettings {
    when: Option<Formula>,
    weight: Option<Formula>,
    reduce: Option<Reduce>,
    data: Option<Rc<Rollout>>,
}

impl Checker {
    /// The body of an objective whose parameters are bound in `env`.
    pub(in crate::check) fn objective_body(
        &mut self,
        name: &Name,
        body: &Block,
        env: &Env,
    ) -> Option<Objective> {
        let mut outside = env.with_context(EvaluationContext::Objective);
        let mut parts = ObjectiveParts::default();
        let (mut terms, mut states): (Vec<&Name>, Vec<states::OpenState>) = Default::default();
        for statement in in_reading_order(body, &self.sources) {
            match statement {
                Statement::Let { name, index, annotation, value: expr } => {
                    self.hides_nothing(name, &outside);
                    let value = match index {
                        None => self.evaluate(expr, &outside),
                        Some(index) => self.indexed(name, index, expr, &outside),
                    };
                    let value = self.as_declared(value, annotation.as_ref(), expr.span);
                    self.record(name.span, &value);
                    self.keep_let(&name.text, &value, &mut parts.lets);
                    outside.bind(&name.text, value);
                }
                Statement::State { name, first, by, next } => {
                    match self.state_begins(name, by.as_ref(), first, next.as_ref(), &mut outside) {
                        Some(state) => states.push(state),
                        None => parts.faulty = true,
                    }
                }
                Statement::Term { name, index, value, block } => {
                    if let Some(first) = terms.iter().find(|first| first.text == name.text) {
                        self.report_second_term(name, first);
                        parts.faulty = true;
                        continue;
                    }
                    self.is_no_other(name, &outside);
                    terms.push(name);
                    let Some(turns) = self.term_turns(name, index.as_ref(), &outside) else {
                        parts.faulty = true;
                        continue;
                    };
                    for (label, env) in turns {
                        let term = self.term(name, label, value, block.as_ref(), &env);
                        parts.faulty |= term.is_none();
                        parts.terms.extend(term);
                    }
                }
                Statement::Entry(entry) => {
                    self.objective_entry(name, entry, &outside, &mut parts);
                    if self.is_let(entry) {
                        let value = self.evaluate(&entry.value, &outside);
                        outside.bind(&entry.key.text, value);
                    }
                }
                Statement::Route(route) => {
                    let text = "a route belongs to a stage or to the file, not to an objective";
                    self.report(Diagnostic::error(Code::UnknownKey, route.span, text));
                    parts.faulty = true;
                }
                Statement::Trains { name, .. } | Statement::Step { name, .. } => {
                    let text = "`trains` and `step` belong in a `train { ... }`, not in an objective";
                    self.report(Diagnostic::error(Code::UnknownKey, name.span, text));
                    parts.faulty = true;
                }
            }
        }
        self.objective_is_complete(name, body, &mut parts);
        let begun = states.len();
        let states: Vec<_> =
            states.into_iter().filter_map(|state| self.state_moves(state, &outside)).collect();
        if parts.faulty || states.len() < begun {
            return None;
        }
        let origin = self.origin(name.span);
        let ObjectiveParts { terms, select, weight, temperature, reduce, lets, .. } = parts;
        let name = name.text.clone();
        let objective = Objective { name, terms, select, weight, temperature, reduce, lets, states, origin };
        if !self.selected_is_decided(&objective) || !self.losses_are_of_terms(&objective) {
            return None;
        }
        self.warn_of_formulas(&objective);
        Some(objective)
    }

    /// The names and environments of the terms that a statement declares, one for each element of its index.
    fn term_turns(&mut self, name: &Name, index: Option<&Index>, env: &Env) -> Option<Vec<(String, Env)>> {
        let Some(index) = index else { return Some(vec![(name.text.clone(), env.clone())]) };
        let turns = self.members(index, env)?;
        let named = |(key, env)| match key {
            Some(key) => (format!("{}[{}]", name.text, self.key_text(key)), env),
            None => (name.text.clone(), env),
        };
        Some(turns.into_iter().map(named).collect())
    }

    /// Adds a `let` to `lets` if it is a number, or a family of numbers.
    fn keep_let(&self, name: &str, value: &Value, lets: &mut Vec<NamedFormula>) {
        match value {
            Value::Formula(formula) => {
                lets.push(NamedFormula { name: name.to_owned(), formula: formula.clone() });
            }
            Value::Family(family) => {
                for (key, member) in &family.members {
                    if let Value::Formula(formula) = member {
                        let name = format!("{name}[{}]", self.key_text(*key));
                        lets.push(NamedFormula { name, formula: formula.clone() });
                    }
                }
            }
            _ => {}
        }
    }

    /// Checks that `selected` is read only after the `select` that defines it.
    fn selected_is_decided(&mut self, objective: &Objective) -> bool {
        let read = |formula: &Formula| {
            let parts = formula.parts().into_iter();
            parts.filter(|part| part.0.is(PlainSignal::Selected)).map(|part| part.0.origin).next()
        };
        let diagnostic = match &objective.select {
            Some(select) => read(select).map(|origin| {
                let text = "`select` defines `selected`, so it cannot read it";
                let diagnostic = Diagnostic::error(Code::Cycle, self.span(origin), text);
                diagnostic
                    .note(self.span(select.0.origin), "this decides")
                    .help("leave `among: selected` out: within `select`, all trained tokens count")
            }),
            None => objective.formulas().into_iter().find_map(read).map(|origin| {
                let text = format!("nothing is selected: `{}` has no `select`", objective.name);
                let diagnostic = Diagnostic::error(Code::UnknownName, self.span(origin), text);
                diagnostic
                    .help("set `select = ...`, or remove `among: selected`: then all trained tokens count")
            }),
        };
        diagnostic.map(|diagnostic| self.report(diagnostic)).is_none()
    }

    /// Checks that `loss.<term>` names a term of the objective.
    fn losses_are_of_terms(&mut self, objective: &Objective) -> bool {
        let names = || objective.terms.iter().map(|term| term.name.as_str());
        let unknown =
            objective.formulas().into_iter().flat_map(Formula::parts).find_map(|part| match &part.0.kind {
                FormulaKind::Signal(Signal::TermLoss { term }) if !names().any(|name| name == term) => {
                    Some((term, self.span(part.0.origin)))
                }
                _ => None,
            });
        let Some((term, span)) = unknown else { return true };
        let text = format!("`{}` has no term `{term}`", objective.name);
        let diagnostic = Diagnostic::error(Code::UnknownName, span, text);
        self.report(match nearest(term, names()) {
            Some(near) => diagnostic.did_you_mean(term, near),
            None => diagnostic.help("`loss` is the loss of all terms together"),
        });
        false
    }

    fn objective_entry<'a>(
        &mut self,
        owner: &Name,
        entry: &'a Entry,
        env: &Env,
        parts: &mut ObjectiveParts<'a>,
    ) {
        let marks = self.marks(&entry.marks);
        self.record_marks(&format!("objective {}", owner.text), &entry.key.text, marks);
        if let Some(first) = parts.seen.iter().find(|first| first.text == entry.key.text) {
            let text = format!("`{}` is set twice", entry.key.text);
            self.report(
                Diagnostic::error(Code::DuplicateKey, entry.key.span, text)
                    .note(first.span, "first set here"),
            );
            return;
        }
        parts.seen.push(&entry.key);
        let good = match entry.key.text.as_str() {
            "select" => {
                parts.select = self.detached(&entry.value, env, "select", true);
                parts.select.is_some()
            }
            "weight" => {
                parts.weight = self.detached(&entry.value, env, "weight", false);
                parts.weight.is_some()
            }
            "temperature" => {
                parts.temperature = self.temperature(&entry.value, env, false);
                parts.temperature.is_some()
            }
            "reduce" => {
                parts.reduce = self.reduction(&entry.value, env);
                parts.reduce.is_some()
            }
            _ => {
                // `reduction = mean(token)` is read as `reduce`, so that one slip gives one diagnostic.
                if self.unknown_of_objective(entry).is_some_and(|meant| meant.key == "reduce") {
                    parts.reduce = self.reduction(&entry.value, env);
                }
                false
            }
        };
        parts.faulty |= !good;
    }

    fn objective_is_complete(&mut self, name: &Name, body: &Block, parts: &mut ObjectiveParts) {
        let has_term = body.statements.iter().any(|statement| match statement {
            Statement::Term { .. } => true,
            Statement::Entry(entry) => self.is_term(entry),
            _ => false,
        });
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
        let reduced = parts.reduce.is_some() || parts.seen.iter().any(|key| key.text == "reduce");
        let own = parts.terms.iter().all(|term| term.reduce.is_some()) && !parts.terms.is_empty();
        if !body.broken && !reduced && !own {
            let text = format!("`{}` does not say how tokens are averaged", name.text);
            let source = &self.sources.file(name.span.file).text;
            let ways = ["reduce = mean(token) then mean(sequence)", "reduce = mean(token, over: batch)"];
            let diagnostic = Diagnostic::error(Code::MissingReduce, name.span, text)
                .help(format!(
                    "add `{}` (every sequence counts alike) or `{}` (every token does)",
                    ways[0], ways[1]
                ))
                .choice_of_settings(source, body.span, &ways);
            self.report(diagnostic);
            parts.faulty |= has_term;
        }
        if let Some(reduce) = &parts.reduce {
            let values: Vec<Formula> = parts
                .terms
                .iter()
                .filter(|term| term.reduce.is_none())
                .map(|term| term.value.clone())
                .collect();
            for value in &values {
                parts.faulty |= !self.starts_where_term_is(value, reduce);
            }
        }
        parts.faulty |= !has_term;
    }

    /// Checks a term's axis against its `reduce`. A term coarser than the first reduced axis is spread over
    /// it; a finer one is an error. A pair of completions has no tokens of its own to be spread over.
    fn starts_where_term_is(&mut self, value: &Formula, reduce: &Reduce) -> bool {
        let start = reduce.steps.first().map_or(Axis::Token, |step| step.elements);
        let pair = value.any(|node| matches!(node.kind, FormulaKind::Live(Live::Preference(_))));
        let axis = value.axis();
        if axis == start || axis < start && !(pair && axis == Axis::Group) {
            return true;
        }
        let (term_span, reduce_span) = (self.span(value.0.origin), self.span(reduce.origin));
        let text = format!(
            "a term with one number per {}, and a `reduce` that starts from {}s",
            axis.name(),
            start.name()
        );
        let usual = match axis {
            Axis::Group => "mean(group)",
            Axis::Sequence => "mean(sequence)",
            _ => "mean(token) then mean(sequence)",
        };
        self.report(
            Diagnostic::error(Code::AxisMismatch, term_span, text)
                .label(format!("one number per {}", axis.name()))
                .note(reduce_span, format!("reduces over `{}`", start.name()))
                .help(format!(
                    "let it start from {}s, in a block of the term's own if need be: `{{ reduce = {usual} \
                     }}`",
                    axis.name()
                )),
        );
        false
    }

    /// `let trust[t in panel] = ...`
    fn indexed(&mut self, name: &Name, index: &Index, value: &Expr, env: &Env) -> Value {
        let mut members = Vec::new();
        let Some(turns) = self.members(index, env) else { return Value::Error };
        for (key, inner) in turns {
            let Some(key) = key else {
                let text = "an index ranges over domains, whole numbers or the teachers of a panel";
                self.report(Diagnostic::error(Code::TypeMismatch, index.over.span, text));
                return Value::Error;
            };
            members.push((key, self.evaluate(value, &inner)));
        }
        Value::Family(Rc::new(FamilyMembers { name: name.text.clone(), members }))
    }

    fn term(
        &mut self,
        name: &Name,
        label: String,
        value: &Expr,
        block: Option<&Block>,
        env: &Env,
    ) -> Option<Term> {
        let worth = self.evaluate(value, &env.with_context(EvaluationContext::Term));
        let formula = self.formula(worth, value.span);
        let settings = match block {
            Some(block) => self.term_settings(name, block, formula.as_ref(), env),
            None => Some(TermSettings::default()),
        };
        let formula = formula?;
        self.record(name.span, &Value::Formula(formula.clone()));
        if formula.unit() == Unit::Bool {
            self.unit_mismatch(Spanned::new(&formula, value.span), "a term is a number, not a bool", None);
            return None;
        }
        if !formula.live() {
            let diagnostic = Diagnostic::error(
                Code::NothingLive,
                value.span,
                format!("the term `{}` carries no gradient", name.text),
            )
            .label("every factor is a plain number")
            .help("mark the factor that should learn: `live student.logp`, `live ratio`, `live kl(...)`");
            // Offered only if `student.logp` occurs once.
            let text = self.sources.text(value.span);
            let mut places = text.match_indices("student.logp").map(|(at, _)| at);
            self.report(match (places.next(), places.next()) {
                (Some(at), None) => {
                    let at = value.span.start + at as u32;
                    diagnostic
                        .fix("write `live student.logp`", Span { start: at, end: at, ..value.span }, "live ")
                        .possibly()
                }
                _ => diagnostic,
            });
            return None;
        }
        let origin = self.origin(value.span);
        let TermSettings { when, weight, reduce, data } = settings?;
        Some(Term { name: label, value: formula, when, weight, reduce, data, origin })
    }

    /// `{ when = correct, weight = ..., reduce = ..., data = sample(...) }`
    fn term_settings(
        &mut self,
        name: &Name,
        block: &Block,
        value: Option<&Formula>,
        env: &Env,
    ) -> Option<TermSettings> {
        let owner = format!("term {}", name.text);
        let (settings, given) = self.block::<TermBlock>(Some(block), &owner, block.span);
        self.keep_marks(&settings, &owner);
        let mut found = TermSettings::default();
        let mut good = true;
        if let Some(when) = given.when {
            found.when = self.detached(when.expr, env, "when", true);
            good &= found.when.is_some();
        }
        if let Some(weight) = given.weight {
            found.weight = self.detached(weight.expr, env, "weight", false);
            good &= found.weight.is_some();
        }
        if let Some(reduce) = given.reduce {
            found.reduce = self.reduction(reduce.expr, env);
            good &= found.reduce.is_some();
            if let (Some(reduce), Some(value)) = (&found.reduce, value) {
                good &= self.starts_where_term_is(value, reduce);
            }
        }
        if let Some(data) = given.data {
            found.data = self.read(data, env);
            good &= found.data.is_some();
        }
        good.then_some(found)
    }

    /// A weight, a selection or a condition: a number that carries no gradient.
    fn detached(&mut self, expr: &Expr, env: &Env, key: &str, truth: bool) -> Option<Formula> {
        let value = self.evaluate(expr, env);
        let formula = self.formula(value, expr.span)?;
        if truth != (formula.unit() == Unit::Bool) {
            let (message, help) = match truth {
                true => (
                    format!("`{key}` needs a bool per token"),
                    "compare with a bound, or use `top_fraction(...)`",
                ),
                false => (format!("`{key}` needs a number"), "use `select` for a mask"),
            };
            self.unit_mismatch(Spanned::new(&formula, expr.span), &message, Some(help));
            return None;
        }
        Some(formula)
    }
}

/// Whether some formula of the objective compares the samples of one prompt. Formulas multiplied by 0 do not
/// count, because a factor of 0 switches a comparison off.
pub fn reads_group(objective: &Objective) -> bool {
    use mopd_experiment::formula::{FormulaKind, Function};
    let zero = |formula: &&Formula| formula.constant() == Some(0.0);
    let mut waiting = objective.formulas();
    let mut seen = FxHashSet::default();
    while let Some(formula) = waiting.pop() {
        if !seen.insert(std::rc::Rc::as_ptr(&formula.0)) {
            continue;
        }
        match &formula.0.kind {
            FormulaKind::Statistic { over: Axis::Group, .. } => return true,
            FormulaKind::Reduce { .. } if formula.axis() == Axis::Group => return true,
            FormulaKind::Apply { function: Function::Multiply, operands }
                if operands.iter().any(|operand| zero(&operand)) => {}
            _ => waiting.extend(formula.operands()),
        }
    }
    false
}

impl Checker {
    /// The place of the first node of the objective that passes the test.
    pub(in crate::check) fn first_place(
        &self,
        objective: &Objective,
        test: impl Fn(&FormulaNode) -> bool,
    ) -> Option<Span> {
        let parts = objective.formulas().into_iter().flat_map(Formula::parts).filter(|part| test(&part.0));
        parts.map(|part| self.span(part.0.origin)).min()
    }

    /// The place of the first node that passes the test, or of the objective, for a diagnostic's label.
    pub(in crate::check) fn place_of(
        &self,
        objective: &Objective,
        test: impl Fn(&FormulaNode) -> bool,
    ) -> Span {
        self.first_place(objective, test).unwrap_or_else(|| self.span(objective.origin))
    }
}
