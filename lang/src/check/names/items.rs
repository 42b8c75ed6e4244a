//! Items: their values, evaluated when first needed, and the check of each item on its own.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Binding, DivergenceItem, Item, ItemKind, Name, Parameter};
use crate::syntax::tokens;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Unit};
use mopd_experiment::{
    Objective, Panel, PanelId, Rollout, RolloutSource, Sampling, Slot, Stage, TeacherWeights, Template,
    TemplatePiece,
};

use crate::check::Checker;
use crate::check::DEEPEST_CHAIN;
use crate::check::NamedObjective;
use crate::check::names::modules::{ItemId, ItemProgress, ModuleId, declared_name};
use crate::check::values::calls::ItemEffort;
use crate::check::values::declared_type::unit_of_type;
use crate::check::values::evaluate::{Env, EvaluationContext};
use crate::check::values::value::{Callable, FamilyMembers, Value};

impl Checker {
    /// The value of an item, evaluated when first needed.
    pub(in crate::check) fn item_value(&mut self, id: ItemId, asked_at: Span) -> Value {
        match self.modules.progress.get(&id) {
            Some(ItemProgress::Done(value)) => return value.clone(),
            Some(ItemProgress::Started) => {
                self.report_cycle(id, asked_at);
                return Value::Error;
            }
            None => {}
        }
        let tree = self.modules.tree(id.module);
        let item = &tree.items[id.index];
        if self.stack.chain >= DEEPEST_CHAIN {
            let called = declared_name(&item.kind)
                .map_or_else(|| "this".to_owned(), |name| format!("`{}`", name.text));
            self.too_deep(asked_at, &called);
            self.modules.progress.insert(id, ItemProgress::Done(Value::Error));
            return Value::Error;
        }
        self.modules.progress.insert(id, ItemProgress::Started);
        self.stack.chain += 1;
        self.stack.evaluating.push(id);
        let value =
            self.evaluate_independently(ItemEffort::new(item), |checker| checker.evaluate_item(id, item));
        self.stack.chain -= 1;
        self.stack.evaluating.pop();
        self.modules.progress.insert(id, ItemProgress::Done(value.clone()));
        value
    }

    /// Reports all members of a cycle, once, at the first of them in the file.
    fn report_cycle(&mut self, id: ItemId, asked_at: Span) {
        let first = self.stack.evaluating.iter().position(|member| *member == id).unwrap_or(0);
        let members = self.stack.evaluating[first..].iter().filter_map(|member| {
            let tree = self.modules.tree(member.module);
            declared_name(&tree.items[member.index].kind).map(|name| (name.span, name.text.clone()))
        });
        let mut members: Vec<(Span, String)> = members.collect();
        // The order is the same wherever the cycle was entered.
        if let Some(start) = (0..members.len()).min_by_key(|at| members[*at].0) {
            members.rotate_left(start);
        }
        let Some(((place, name), others)) = members.split_first() else {
            self.report(
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
        self.report(diagnostic.help(
            "define one of them without the others; for a teacher that is the student itself, \
                    write `self`",
        ));
    }

    fn evaluate_item(&mut self, id: ItemId, item: &Item) -> Value {
        let env = Env::constant(id.module);
        if let Some(kind) = callable(&item.kind) {
            return Value::Item { item: id, kind };
        }
        match &item.kind {
            ItemKind::Let { annotation, value: expr, .. } => {
                let value = self.evaluate_constant(id.module, expr);
                self.as_declared(value, annotation.as_ref(), expr.span)
            }
            ItemKind::Param(parameter) => self.parameter_item(id, parameter),
            ItemKind::Template { name, text, .. } => self.template_item(name, text, &env),
            ItemKind::Rollout { body, .. } => {
                self.rollout_value(body, &env).map_or(Value::Error, Value::Rollout)
            }
            ItemKind::Panel { name, value } => self.panel_item(name, value, &env),
            ItemKind::Eval { name, block } => self.eval_item(name, block, &env),
            ItemKind::Reward { value, .. } => self.reward(value, &env).map_or(Value::Error, Value::Reward),
            ItemKind::Schedule { value, .. } => {
                self.schedule_setting(value, &env).map_or(Value::Error, Value::Formula)
            }
            ItemKind::Model(binding) => self.binding(id, binding, false),
            ItemKind::Teacher { binding, .. } => self.binding(id, binding, true),
            // Domains are declared before anything is evaluated. One that is missing was faulty.
            _ => Value::Error,
        }
    }

    fn parameter_item(&mut self, id: ItemId, parameter: &Parameter) -> Value {
        let name = &parameter.name;
        let set = self.modules.set_value(id.module, &name.text);
        let Some(value) = set.as_ref().or(parameter.default.as_ref()) else {
            self.report(
                Diagnostic::error(Code::MissingKey, name.span, format!("`{}` has no value", name.text))
                    .label("no default")
                    .help(format!("give it one, or run with `--set {}=...`", name.text)),
            );
            return Value::Error;
        };
        let worth = self.evaluate_constant(id.module, value);
        match &parameter.annotation {
            Some(annotation) => self.coerce(worth, annotation, value.span),
            None => worth,
        }
    }

    /// `model m = ...`, `model m[d in domains] = ...` and the same for teachers.
    fn binding(&mut self, id: ItemId, binding: &Binding, teacher: bool) -> Value {
        let name = &binding.name;
        let env = Env::constant(id.module).named(&name.text);
        let Some(index) = &binding.index else {
            return self.bound(&name.text, binding, teacher, &env);
        };
        let mut members = Vec::new();
        let Some(turns) = self.members(index, &env) else { return Value::Error };
        for (key, inner) in turns {
            let Some(key) = key else {
                let wanted = "a family has one member per domain or whole number";
                self.report(
                    Diagnostic::error(Code::TypeMismatch, index.over.span, wanted)
                        .help("for example `[d in domains]`"),
                );
                return Value::Error;
            };
            let member_name = format!("{}[{}]", name.text, self.key_text(key));
            members.push((key, self.bound(&member_name, binding, teacher, &inner.named(&member_name))));
        }
        Value::Family(Rc::new(FamilyMembers { name: name.text.clone(), members }))
    }

    fn bound(&mut self, name: &str, binding: &Binding, teacher: bool, env: &Env) -> Value {
        if teacher {
            return self.teacher_binding(name, &binding.value, binding.name.span, env);
        }
        match self.evaluate(&binding.value, env) {
            value @ (Value::Model(_) | Value::Family(_) | Value::Error) => value,
            other => {
                let wanted =
                    "a model is loaded, `hf(\"FOLDER\")`, or is the value of a stage, `sft(base, ...)`";
                self.no_weights(binding.value.span, wanted, &other);
                Value::Error
            }
        }
    }

    /// Checks an item on its own, used or not.
    pub(in crate::check) fn check_item(&mut self, id: ItemId, item: &Item) {
        self.stack.work = ItemEffort::new(item);
        let module = id.module;
        match (&item.kind, callable(&item.kind)) {
            (_, Some(_)) => {
                let (name, parameters) = signature(&item.kind).expect("what can be called has a signature");
                let sides = match item.kind {
                    ItemKind::Divergence(_) => crate::check::formulas::declared::sides(parameters),
                    _ => 0,
                };
                let env = self.abstract_arguments(module, &name.text, &parameters[sides..]);
                if let ItemKind::Divergence(divergence) = &item.kind {
                    self.divergence_item(id, divergence, &env);
                }
                self.check_body(item, name, parameters, env.named(&name.text));
            }
            (ItemKind::Sweep { span, axes }, _) => self.sweep_item(module, *span, axes),
            (
                ItemKind::Use(_)
                | ItemKind::Experiment { .. }
                | ItemKind::Route(_)
                | ItemKind::Compare { .. }
                | ItemKind::Domain { .. },
                _,
            ) => {}
            _ => {
                self.item_value(id, item.span);
            }
        }
    }

    /// The parameters of a body outside of any call: values set with `--set`, defaults, or placeholders for
    /// any value of their type.
    fn abstract_arguments(&mut self, module: ModuleId, owner: &str, parameters: &[Parameter]) -> Env {
        let mut env = Env::constant(module);
        for parameter in parameters {
            let given = self.set_argument(module, owner, parameter).or_else(|| {
                let default = parameter.default.as_ref()?;
                Some(Spanned::new(self.evaluate_constant(module, default), default.span))
            });
            let value = match (given, &parameter.annotation) {
                (Some(given), Some(annotation)) => self.coerce(given.value, annotation, given.span),
                (Some(given), None) => given.value,
                (None, Some(annotation)) => self.any_value(&parameter.name, annotation),
                // Nothing is known about the value yet, so nothing about it can be wrong.
                (None, None) => Value::Error,
            };
            env.bind(&parameter.name.text, value);
        }
        env
    }

    /// A placeholder for the value of a parameter that has a type and no default.
    fn any_value(&mut self, name: &Name, annotation: &Name) -> Value {
        let origin = self.origin(name.span);
        if let Some(unit) = unit_of_type(&annotation.text) {
            let variable = FormulaKind::Variable(name.text.as_str().into());
            return Value::Formula(Formula::new(variable, unit, Axis::Run, false, origin));
        }
        match annotation.text.as_str() {
            "teacher" => self.any_teacher(&name.text, name.span),
            "panel" => {
                let id = PanelId(self.parts.panels.len() as u32);
                let members = ["first", "second"]
                    .map(|which| self.any_teacher(&format!("{} {which}", name.text), name.span));
                let members = members.into_iter().filter_map(|member| match member {
                    Value::Teacher(teacher) => Some(teacher),
                    _ => None,
                });
                let members = members.collect();
                let (rounds, confidence) = (1, Some((0, 100)));
                self.parts.panels.push(Panel {
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
                let temperature =
                    Formula::new(FormulaKind::Number(1.0), Unit::Number, Axis::Run, false, origin);
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
            "model" => Value::Model(self.declare_model(&name.text, Stage::Parameter, name.span)),
            // Domains, families and objectives are checked at the item's uses.
            _ => Value::Error,
        }
    }

    fn any_teacher(&mut self, name: &str, span: Span) -> Value {
        let teacher = self.plain_teacher(name, TeacherWeights::Parameter, span);
        let value = self.declare_teacher(teacher);
        if let Value::Teacher(teacher) = value {
            self.parts.used_teachers[teacher.0 as usize] = true;
        }
        value
    }

    fn check_body(&mut self, item: &Item, name: &Name, parameters: &[Parameter], env: Env) {
        match &item.kind {
            ItemKind::Objective { body, .. } => {
                self.any_numbers = true;
                let objective = self.objective_body(name, body, &env);
                self.any_numbers = false;
                if let Some(objective) = objective {
                    self.keep_objective(item, parameters, objective);
                }
            }
            // A function may be used in terms and in settings; a term allows every expression.
            ItemKind::Fn { body, .. } => {
                self.evaluate(body, &env.with_context(EvaluationContext::Term));
            }
            ItemKind::Stage { .. } => {
                self.called(&item.kind, item.span, &env);
            }
            ItemKind::Template { text, .. } => {
                self.template_item(name, text, &env);
            }
            ItemKind::Rollout { body, .. } => {
                self.rollout_value(body, &env);
            }
            ItemKind::Teacher { binding, .. } => {
                let value = self.teacher_binding(&name.text, &binding.value, name.span, &env);
                if let Value::Teacher(teacher) = value {
                    self.parts.used_teachers[teacher.0 as usize] = true;
                }
            }
            _ => {}
        }
    }

    fn keep_objective(&mut self, item: &Item, parameters: &[Parameter], objective: Objective) {
        let parameters = parameters.iter().map(|parameter| {
            let start = parameter.name.span;
            let end = parameter.default.as_ref().map(|default| default.span);
            let end =
                end.or(parameter.annotation.as_ref().map(|annotation| annotation.span)).unwrap_or(start);
            tokens::on_one_line(self.sources.text(start.to(end)))
        });
        let parameters = parameters.collect();
        self.parts.objectives.push(NamedObjective {
            doc: item.doc.clone(),
            public: item.public,
            parameters,
            objective,
        });
    }
}

/// The kind of call that an item needs. `None` where it has a value of its own.
pub(in crate::check) fn callable(kind: &ItemKind) -> Option<Callable> {
    Some(match kind {
        ItemKind::Fn { .. } => Callable::Fn,
        ItemKind::Stage { .. } => Callable::Stage,
        ItemKind::Objective { .. } => Callable::Objective,
        ItemKind::Divergence(_) => Callable::Divergence,
        ItemKind::Template { parameters, .. } if !parameters.is_empty() => Callable::Template,
        ItemKind::Rollout { parameters, .. } if !parameters.is_empty() => Callable::Rollout,
        ItemKind::Teacher { parameters, .. } if !parameters.is_empty() => Callable::Teacher,
        _ => return None,
    })
}

/// The name and parameters of an item that can have parameters.
pub(in crate::check) fn signature(kind: &ItemKind) -> Option<(&Name, &[Parameter])> {
    Some(match kind {
        ItemKind::Fn { name, parameters, .. }
        | ItemKind::Stage { name, parameters, .. }
        | ItemKind::Objective { name, parameters, .. }
        | ItemKind::Divergence(DivergenceItem { name, parameters, .. })
        | ItemKind::Template { name, parameters, .. }
        | ItemKind::Rollout { name, parameters, .. } => (name, parameters),
        ItemKind::Teacher { binding, parameters } => (&binding.name, parameters),
        _ => return None,
    })
}
