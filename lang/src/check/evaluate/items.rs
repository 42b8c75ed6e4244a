//! Items: their values, evaluated when first needed, and the check of each item on its own.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Binding, ExprKind, Index, Item, ItemKind, Name, Parameter};
use crate::syntax::tokens;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Unit};
use mopd_experiment::{
    Objective, Panel, PanelId, Rollout, RolloutSource, Sampling, Slot, Stage, TeacherId, TeacherWeights,
    Template, TemplatePiece,
};

use crate::check::checker::{Checker, DEEPEST_CHAIN, ItemEffort};
use crate::check::declarations::{Declarations, NamedObjective, plain_teachers};
use crate::check::evaluate::members::MemberFindings;
use crate::check::evaluate::{self, calls, overrides, with};
use crate::check::evaluation::{benchmarks, sweep};
use crate::check::formulas::{declared, schedules};
use crate::check::names::callable;
use crate::check::names::modules::{ItemId, ModuleId, declared_name};
use crate::check::objectives;
use crate::check::read::declared_type::{self, unit_of_type};
use crate::check::read::{expected, turns};
use crate::check::rollouts::{self, rewards};
use crate::check::teachers::{self, panels, templates};
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::recorded::ItemProgress;
use crate::check::values::value::{FamilyMembers, Value};

impl Checker {
    /// The value of an item, evaluated when first needed.
    pub fn item_value(&mut self, id: ItemId, asked_at: Span) -> Value {
        match self.recorded.progress.get(&id) {
            Some(ItemProgress::Done(value)) => return value.clone(),
            Some(ItemProgress::Started) => {
                report_cycle(self, id, asked_at);
                return Value::Error;
            }
            None => {}
        }
        let tree = self.modules.tree(id.module);
        let item = &tree.items[id.index];
        if self.stack.chain >= DEEPEST_CHAIN {
            let called = declared_name(&item.kind)
                .map_or_else(|| "this".to_owned(), |name| format!("`{}`", name.text));
            evaluate::too_deep(self, asked_at, &called);
            self.recorded.progress.insert(id, ItemProgress::Done(Value::Error));
            return Value::Error;
        }
        self.recorded.progress.insert(id, ItemProgress::Started);
        self.stack.chain += 1;
        self.stack.evaluating.push(id);
        let value =
            self.evaluate_independently(ItemEffort::new(item), |checker| evaluate_item(checker, id, item));
        self.stack.chain -= 1;
        self.stack.evaluating.pop();
        self.recorded.progress.insert(id, ItemProgress::Done(value.clone()));
        value
    }
}

/// Reports all members of a cycle, once, at the first of them in the file.
fn report_cycle(checker: &mut Checker, id: ItemId, asked_at: Span) {
    let first = checker.stack.evaluating.iter().position(|member| *member == id).unwrap_or(0);
    let members = checker.stack.evaluating[first..].iter().filter_map(|member| {
        let tree = checker.modules.tree(member.module);
        declared_name(&tree.items[member.index].kind).map(|name| (name.span, name.text.clone()))
    });
    let mut members: Vec<(Span, String)> = members.collect();
    // The order is the same wherever the cycle was entered.
    if let Some(start) = (0..members.len()).min_by_key(|at| members[*at].0) {
        members.rotate_left(start);
    }
    let Some(((place, name), others)) = members.split_first() else {
        checker.report(
            Diagnostic::error(Code::Cycle, asked_at, "this definition depends on itself")
                .label("used again here"),
        );
        return;
    };
    let text = match others {
        [] => format!("the definition of `{name}` depends on itself"),
        _ => {
            let names: Vec<String> = members.iter().map(|(_, name)| format!("`{name}`")).collect();
            format!("the definitions of {} depend on each other in a cycle", names.join(", "))
        }
    };
    let mut diagnostic = Diagnostic::error(Code::Cycle, *place, text).label(match others.first() {
        Some((_, next)) => format!("needs `{next}`"),
        None => "needs itself".to_owned(),
    });
    for (nth, (span, _)) in others.iter().enumerate() {
        let next = others.get(nth + 1).map_or(name, |(_, next)| next);
        diagnostic = diagnostic.note(*span, format!("needs `{next}`"));
    }
    checker.report(diagnostic.help(
        "define one of them without the others; a teacher that is the student itself is `self`, and the \
         student's own completions are `sample(...)`",
    ));
}

fn evaluate_item(checker: &mut Checker, id: ItemId, item: &Item) -> Value {
    let env = Env::constant(id.module);
    if let Some(kind) = callable::callable(&item.kind) {
        return Value::Item { item: id, kind };
    }
    match &item.kind {
        ItemKind::Let { annotation, value: expr, .. } => {
            let value = checker.evaluate_constant(id.module, expr);
            declared_type::as_declared(checker, value, annotation.as_ref(), expr.span)
        }
        ItemKind::Param(parameter) => parameter_item(checker, id, parameter),
        ItemKind::Template { name, text, .. } => templates::template_item(checker, name, text, &env),
        ItemKind::Rollout { body, .. } => {
            rollouts::rollout_value(checker, body, &env).map_or(Value::Error, Value::Rollout)
        }
        ItemKind::Panel { name, value } => panels::panel_item(checker, name, value, &env),
        ItemKind::Eval { name, .. } => benchmarks::eval_item(checker, name, &item.kind, &env),
        ItemKind::Reward { value, .. } => {
            rewards::reward(checker, value, &env).map_or(Value::Error, Value::Reward)
        }
        ItemKind::Schedule { value, .. } => {
            schedules::schedule_setting(checker, value, &env).map_or(Value::Error, Value::Formula)
        }
        ItemKind::Model(binding) => evaluate_binding(checker, id, binding, false),
        ItemKind::Teacher { binding, .. } => evaluate_binding(checker, id, binding, true),
        // Domains are declared before anything is evaluated. One that is missing was faulty.
        _ => Value::Error,
    }
}

fn parameter_item(checker: &mut Checker, id: ItemId, parameter: &Parameter) -> Value {
    let name = &parameter.name;
    let set = checker.modules.set_value(id.module, &name.text);
    let Some(value) = set.as_ref().or(parameter.default.as_ref()) else {
        checker.report(
            Diagnostic::error(Code::MissingKey, name.span, format!("`{}` has no value", name.text))
                .label("no default")
                .help(format!("give it one, or run with `--set {}=...`", name.text)),
        );
        return Value::Error;
    };
    let env = Env::constant(id.module);
    let env = match overrides::may_move(parameter) {
        true => env.with_context(EvaluationContext::Schedule),
        false => env,
    };
    let worth = checker.evaluate(value, &env);
    match &parameter.annotation {
        Some(annotation) => declared_type::coerce(checker, worth, annotation, value.span),
        None => worth,
    }
}

/// `model m = ...`, `model m[d in domains] = ...` and the same for teachers.
fn evaluate_binding(checker: &mut Checker, id: ItemId, binding: &Binding, teacher: bool) -> Value {
    let name = &binding.name;
    let env = Env::constant(id.module).named(&name.text);
    family_of(checker, &name.text, &binding.indices, binding, teacher, &env)
}

/// One member for each element of the first index, each of which is a family over the others.
fn family_of(
    checker: &mut Checker,
    name: &str,
    indices: &[Index],
    binding: &Binding,
    teacher: bool,
    env: &Env,
) -> Value {
    let Some((index, inside)) = indices.split_first() else {
        return bound(checker, name, binding, teacher, env);
    };
    let mut members = Vec::new();
    let Some(turns) = turns::members(checker, index, env) else { return Value::Error };
    let mut findings = MemberFindings::default();
    for (key, inner) in turns {
        let Some(key) = key else {
            let wanted = "a family has one member per domain, teacher, whole number or named value";
            checker.report(
                Diagnostic::error(Code::TypeMismatch, index.over.span, wanted)
                    .help("for example `[d in domains]`, or `[how in { gold: gold(), uld: uld() }]`"),
            );
            return Value::Error;
        };
        let member_name = format!("{name}[{}]", checker.parts.key_text(&key));
        let before = checker.diagnostics.count();
        let inner = inner.named(&member_name);
        members.push((key, family_of(checker, &member_name, inside, binding, teacher, &inner)));
        findings.add(&member_name, &checker.diagnostics.heard_since(before));
    }
    findings.name_members(checker, index);
    Value::Family(Rc::new(FamilyMembers { name: name.to_owned(), members }))
}

fn bound(checker: &mut Checker, name: &str, binding: &Binding, teacher: bool, env: &Env) -> Value {
    if let ExprKind::With { base, changes } = &binding.value.kind {
        let Some((value, env)) = with::changed(checker, base, changes, binding.value.span, teacher, env)
        else {
            return Value::Error;
        };
        let changed = Binding { name: binding.name.clone(), indices: Vec::new(), value };
        return bound(checker, name, &changed, teacher, &env);
    }
    if teacher {
        return teachers::teacher_binding(checker, name, &binding.value, binding.name.span, env);
    }
    match checker.evaluate(&binding.value, env) {
        value @ (Value::Model(_) | Value::Family(_) | Value::Error) => value,
        other => {
            let wanted = "a model is loaded, `hf(\"FOLDER\")`, or is the value of a stage, `sft(base, ...)`";
            expected::no_weights(checker, binding.value.span, wanted, &other);
            Value::Error
        }
    }
}

/// Checks an item on its own, used or not.
pub fn check_item(checker: &mut Checker, id: ItemId, item: &Item) {
    checker.stack.work = ItemEffort::new(item);
    let module = id.module;
    match (&item.kind, callable::callable(&item.kind)) {
        (_, Some(_)) => {
            let (name, parameters) =
                callable::signature(&item.kind).expect("what can be called has a signature");
            let sides = match item.kind {
                ItemKind::Divergence(ref divergence) => declared::sides(divergence),
                _ => 0,
            };
            let env = abstract_arguments(checker, module, &name.text, &parameters[sides..]);
            if let ItemKind::Divergence(divergence) = &item.kind {
                declared::divergence_item(checker, id, divergence, &env);
            }
            check_body(checker, item, name, parameters, env.named(&name.text));
        }
        (ItemKind::Sweep { span, axes }, _) => sweep::sweep_item(checker, module, *span, axes),
        (
            ItemKind::Use(_)
            | ItemKind::Experiment { .. }
            | ItemKind::Route(_)
            | ItemKind::Compare { .. }
            | ItemKind::Domain { .. },
            _,
        ) => {}
        _ => {
            checker.item_value(id, item.span);
        }
    }
}

/// The parameters of a body outside of any call: values set with `--set`, defaults, or placeholders for
/// any value of their type.
fn abstract_arguments(checker: &mut Checker, module: ModuleId, owner: &str, parameters: &[Parameter]) -> Env {
    let mut env = Env::constant(module);
    for parameter in parameters {
        let given = overrides::set_argument(checker, module, owner, parameter).or_else(|| {
            let default = parameter.default.as_ref()?;
            Some(Spanned::new(checker.evaluate_constant(module, default), default.span))
        });
        let value = match (given, &parameter.annotation) {
            (Some(given), Some(annotation)) => {
                declared_type::coerce(checker, given.value, annotation, given.span)
            }
            (Some(given), None) => given.value,
            (None, Some(annotation)) => any_value(checker, &parameter.name, annotation),
            // Nothing is known about the value yet, so nothing about it can be wrong.
            (None, None) => Value::Error,
        };
        env.bind(&parameter.name.text, value);
    }
    env
}

/// A placeholder for the value of a parameter that has a type and no default.
fn any_value(declarations: &mut Declarations, name: &Name, annotation: &Name) -> Value {
    let origin = declarations.origin(name.span);
    if let Some(unit) = unit_of_type(&annotation.text) {
        let variable = FormulaKind::Variable(name.text.as_str().into());
        return Value::Formula(Formula::new(variable, unit, Axis::Run, false, origin));
    }
    match annotation.text.as_str() {
        "teacher" => Value::Teacher(any_teacher(declarations, &name.text, name.span)),
        "teachers" => {
            let each = ["first", "second"]
                .map(|which| any_teacher(declarations, &format!("{} {which}", name.text), name.span));
            Value::List(each.map(Value::Teacher).to_vec())
        }
        "panel" => {
            let id = PanelId(declarations.parts.panels.len() as u32);
            let members = ["first", "second"]
                .map(|which| any_teacher(declarations, &format!("{} {which}", name.text), name.span));
            let members = members.to_vec();
            let (rounds, confidence) = (1, Some((0, 100)));
            declarations.parts.panels.push(Panel {
                name: name.text.clone(),
                members,
                rounds,
                sees: None,
                confidence,
                max_tokens: 1,
                temperature: 1.0,
                origin,
            });
            Value::Panel(id)
        }
        "rollout" => {
            let max_tokens = Formula::new(
                FormulaKind::Variable(name.text.as_str().into()),
                Unit::Count,
                Axis::Run,
                false,
                origin,
            );
            let temperature = Formula::new(FormulaKind::Number(1.0), Unit::Number, Axis::Run, false, origin);
            let sampling = Sampling::new(2, temperature, max_tokens);
            let source = RolloutSource::Parameter { name: name.text.clone(), sampling };
            Value::Rollout(Rc::new(Rollout::new(source, origin)))
        }
        "template" => {
            let pieces = vec![TemplatePiece::Slot(Slot::Prompt)];
            Value::Template(Rc::new(Template { name: name.text.clone(), pieces, origin }))
        }
        "counts" => {
            let one = Formula::new(FormulaKind::Number(1.0), Unit::Count, Axis::Run, false, origin);
            Value::List(vec![Value::Formula(one)])
        }
        "text" => Value::Text(name.text.clone()),
        "model" => Value::Model(declarations.declare_model(&name.text, Stage::Parameter, name.span)),
        // Domains, families and objectives are checked at the item's uses.
        _ => Value::Error,
    }
}

fn any_teacher(declarations: &mut Declarations, name: &str, span: Span) -> TeacherId {
    let teacher = plain_teachers::plain_teacher(declarations, name, TeacherWeights::Parameter, span);
    let id = declarations.parts.declare_teacher(teacher);
    declarations.parts.used_teachers[id.0 as usize] = true;
    id
}

fn check_body(checker: &mut Checker, item: &Item, name: &Name, parameters: &[Parameter], env: Env) {
    match &item.kind {
        ItemKind::Objective { body, .. } => {
            checker.any_numbers = true;
            let objective = objectives::objective_body(checker, name, body, &env);
            checker.any_numbers = false;
            if let Some(objective) = objective {
                keep_objective(checker, item, parameters, objective);
            }
        }
        // A function may be used in terms and in settings; a term allows every expression.
        ItemKind::Fn { body, .. } => {
            checker.evaluate(body, &env.with_context(EvaluationContext::Term));
        }
        ItemKind::Stage { .. } => {
            calls::called(checker, &item.kind, item.span, &env);
        }
        ItemKind::Template { text, .. } => {
            templates::template_item(checker, name, text, &env);
        }
        ItemKind::Rollout { body, .. } => {
            rollouts::rollout_value(checker, body, &env);
        }
        ItemKind::Teacher { binding, .. } => {
            let value = teachers::teacher_binding(checker, &name.text, &binding.value, name.span, &env);
            if let Value::Teacher(teacher) = value {
                checker.parts.used_teachers[teacher.0 as usize] = true;
            }
        }
        _ => {}
    }
}

fn keep_objective(
    declarations: &mut Declarations,
    item: &Item,
    parameters: &[Parameter],
    objective: Objective,
) {
    let parameters = parameters.iter().map(|parameter| {
        let start = parameter.name.span;
        let end = parameter.default.as_ref().map(|default| default.span);
        let end = end.or(parameter.annotation.as_ref().map(|annotation| annotation.span)).unwrap_or(start);
        tokens::on_one_line(declarations.sources.text(start.to(end)))
    });
    let parameters = parameters.collect();
    declarations.parts.objectives.push(NamedObjective {
        doc: item.doc.clone(),
        public: item.public,
        parameters,
        objective,
    });
}
