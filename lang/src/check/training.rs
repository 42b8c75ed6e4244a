//! The stages that train: `sft`, `grpo`, `distill`. They differ in where prefixes come from and in the default objective.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::experiment::{
    AdamW, DomainId, Keep, ModelId, Objective, Prefixes, Recipe, Sampling, Schedule, Share, Train, reads_role,
};
use crate::formula::Role;
use crate::source::Span;
use crate::syntax::ast::{Block, Expr, ExprKind};

use super::Checker;
use super::evaluate::Env;
use super::functions::{self, Kind};
use super::modules::ModuleId;
use super::objectives::{reads_group, reads_rollout};
use super::settings::Settings;
use super::value::{Callable, Rollout, Value};
use super::vocabulary;

/// The entry file: the first that was loaded. Its route serves stages wherever they are written.
const ENTRY: ModuleId = ModuleId(0);

/// What the three training recipes have in common, read before the stage is put together.
struct Parts {
    recipe: Recipe,
    start: Option<ModelId>,
    mixture: Option<Vec<Share>>,
    prefixes: Option<Prefixes>,
    objective: Option<Rc<Objective>>,
    /// The teachers are read by the rollout, whatever the objective says.
    teacher_rollout: bool,
}

impl Checker {
    pub(super) fn train(
        &mut self,
        name: &str,
        span: Span,
        given: &[Option<&Expr>],
        block: Option<&Block>,
        env: &Env,
    ) -> Option<Train<Objective>> {
        let (recipe, keys) = match name {
            "sft" => (Recipe::Sft, vocabulary::SFT),
            "grpo" => (Recipe::Grpo, vocabulary::GRPO),
            _ => (Recipe::Distill, vocabulary::DISTILL),
        };
        let settings = self.settings(block, name, span, keys, true);
        self.keep_marks(&settings, &env.model_name);
        // Every setting is read before the first missing one ends the stage: all mistakes at once.
        let start = self.start(given[0].expect("required"), &env.named(format!("{}.start", env.model_name)));
        let on = if recipe == Recipe::Distill { settings.get("domains") } else { given[1] };
        let mixture = self.mixture(on, env);
        let parts = match recipe {
            Recipe::Sft => self.sft(&settings, start, mixture, env),
            Recipe::Grpo => self.grpo(&settings, start, mixture, env),
            Recipe::Distill => self.distill(&settings, start, mixture, env),
        };
        let steps = self.required_count(&settings, "steps", env, 1);
        let learning_rate = self.learning_rate(&settings, env, steps);
        let optimizer = self.optimizer(settings.get("optimizer"), env);
        self.finish_training(parts, &settings, steps, learning_rate, optimizer, env)
    }

    fn finish_training(
        &mut self,
        parts: Parts,
        settings: &Settings,
        steps: Option<u32>,
        learning_rate: Option<Schedule>,
        optimizer: Option<AdamW>,
        env: &Env,
    ) -> Option<Train<Objective>> {
        let (objective, prefixes, mixture) = (parts.objective?, parts.prefixes?, parts.mixture?);
        let origin = self.span(objective.origin);
        if reads_rollout(&objective) && !matches!(prefixes, Prefixes::Student { .. }) {
            self.report(
                Diagnostic::error(
                    Code::NoRollout,
                    settings.span,
                    "the objective reads a reward or the sampler, but nothing is rolled out by the student here",
                )
                .because(origin, "this objective")
                .help("use it in `grpo` or `distill`, whose prefixes are the student's own rollouts"),
            );
            return None;
        }
        let group = if let Prefixes::Student { sampling, .. } = &prefixes { sampling.n } else { 1 };
        if reads_group(&objective) && group < 2 {
            let place = settings.key_span("samples").or(settings.key_span("rollout")).unwrap_or(settings.span);
            self.report(
                Diagnostic::error(Code::GroupOfOne, place, "the samples of one prompt are compared, but there is only one")
                    .because(origin, "this objective compares within a group")
                    .help("draw at least 2 samples of each prompt"),
            );
            return None;
        }
        let reads_teacher = parts.teacher_rollout || reads_role(&objective, Role::Teacher);
        let domains: Vec<DomainId> = mixture.iter().map(|share| share.domain).collect();
        let teachers = if reads_teacher {
            self.teachers_for(ENTRY, settings.route.map(|route| (route, env)), &domains, settings.span)?
        } else {
            if let Some(route) = settings.route {
                self.report(
                    Diagnostic::error(Code::NoTeacher, route.span, "this route leads nowhere: the objective reads no teacher")
                        .because(origin, "this objective"),
                );
            }
            Vec::new()
        };
        let start = parts.start?;
        let context = self.architecture(start).context;
        let longest = match &prefixes {
            Prefixes::Student { sampling, .. } | Prefixes::Teacher { sampling, .. } => sampling.max_tokens,
            Prefixes::Data { .. } => 0,
        };
        if longest >= context {
            let place = settings.key_span("max_tokens").or(settings.key_span("rollout")).unwrap_or(settings.span);
            self.report(
                Diagnostic::error(
                    Code::OutOfRange,
                    place,
                    format!("{longest} new tokens leave no room for a prompt in a context of {context}"),
                )
                .help("lower `max_tokens`, or give the model a longer `context`"),
            );
            return None;
        }
        for choice in &teachers {
            if self.architecture(choice.teacher).tokenizer != self.architecture(start).tokenizer {
                let text = format!("the teacher `{}` has another tokenizer than the student", choice.name);
                self.report(Diagnostic::error(Code::WrongKind, settings.span, text));
                return None;
            }
        }
        Some(Train {
            recipe: parts.recipe,
            start,
            mixture,
            teachers,
            prefixes,
            objective: Rc::unwrap_or_clone(objective),
            optimizer: optimizer?,
            steps: steps?,
            learning_rate: learning_rate?,
        })
    }

    pub(super) fn start(&mut self, expr: &Expr, env: &Env) -> Option<ModelId> {
        match self.evaluate(expr, env) {
            Value::Model(model) => Some(model),
            other => {
                self.wrong_kind(expr.span, "a model is needed here", &other);
                None
            }
        }
    }

    /// The domains trained on and their shares of the prompts.
    fn mixture(&mut self, on: Option<&Expr>, env: &Env) -> Option<Vec<Share>> {
        let domains: Vec<DomainId> = match on {
            None => (0..self.domains.len() as u32).map(DomainId).collect(),
            Some(expr) => match self.evaluate(expr, env) {
                Value::Domain(domain) => vec![domain],
                Value::List(values) => {
                    let mut domains = Vec::new();
                    for value in values {
                        match value {
                            Value::Domain(domain) if domains.contains(&domain) => {
                                let text = format!("the domain `{}` is listed twice", self.domain(domain).name);
                                self.report(Diagnostic::error(Code::DuplicateName, expr.span, text));
                                return None;
                            }
                            Value::Domain(domain) => domains.push(domain),
                            other => {
                                self.wrong_kind(expr.span, "a list of domains is needed here", &other);
                                return None;
                            }
                        }
                    }
                    domains
                }
                other => {
                    self.wrong_kind(expr.span, "a domain, or a list of domains, is needed here", &other);
                    return None;
                }
            },
        };
        let total: f64 = domains.iter().map(|domain| self.domain(*domain).share).sum();
        if domains.is_empty() || total <= 0.0 {
            let span = on.map(|expr| expr.span)?;
            if !self.has_experiment {
                return None; // A library's stage: the domains are those of whoever uses it.
            }
            self.report(
                Diagnostic::error(Code::OutOfRange, span, "there is no domain to train on")
                    .help("declare one: `domain math { prompts = ..., reward = ... }`"),
            );
            return None;
        }
        Some(domains.into_iter().map(|domain| Share { domain, share: self.domain(domain).share / total }).collect())
    }

    fn sft(&mut self, settings: &Settings, start: Option<ModelId>, mixture: Option<Vec<Share>>, env: &Env) -> Parts {
        let batch = self.required_count(settings, "batch", env, 1);
        let objective = self.objective_setting(settings.get("objective"), ("sft", "nll"), settings.span, env);
        let (target, rollout) = (settings.get("target"), settings.get("rollout"));
        let prefixes = match (target, rollout) {
            (Some(target), None) => {
                if let Some(place) = settings.key_span("keep") {
                    self.report(Diagnostic::error(
                        Code::UnknownKey,
                        place,
                        "`keep` filters rollouts, and the target comes from the data",
                    ));
                }
                self.data_field(target).zip(batch).map(|(field, batch)| Prefixes::Data { field, batch })
            }
            (None, Some(rollout)) => {
                let words = [("all", Keep::All), ("correct", Keep::Correct)];
                let keep = self.required(settings, "keep").and_then(|expr| self.word(expr, "a rule for what to keep", &words));
                match self.evaluate(rollout, env) {
                    Value::Rollout(Rollout::Teacher { sequences, sampling }) => {
                        keep.zip(batch).map(|(keep, batch)| Prefixes::Teacher { sequences, keep, batch, sampling })
                    }
                    other => {
                        self.wrong_kind(rollout.span, "`sft` imitates rollouts of the teachers: `from(teacher, ...)`", &other);
                        None
                    }
                }
            }
            (None, None) if settings.broken => None,
            _ => {
                self.report(
                    Diagnostic::error(Code::MissingKey, settings.span, "`sft` needs one source of targets")
                        .help("either `target = field` of the data, or `rollout = from(teacher, ...)`"),
                );
                None
            }
        };
        let teacher_rollout = matches!(prefixes, Some(Prefixes::Teacher { .. }));
        Parts { recipe: Recipe::Sft, start, mixture, prefixes, objective, teacher_rollout }
    }

    fn grpo(&mut self, settings: &Settings, start: Option<ModelId>, mixture: Option<Vec<Share>>, env: &Env) -> Parts {
        let prompts = self.required_count(settings, "prompts", env, 1);
        let n = self.required_count(settings, "samples", env, 1);
        let max_tokens = self.required_count(settings, "max_tokens", env, 1);
        let temperature = match settings.get("temperature") {
            Some(expr) => self.at_least(expr, "temperature", env, f64::MIN_POSITIVE),
            None => Some(1.0),
        };
        let objective = self.objective_setting(settings.get("objective"), ("rl", "grpo_loss"), settings.span, env);
        let sampling = (|| Some(Sampling { n: n?, temperature: temperature?, max_tokens: max_tokens? }))();
        let prefixes = prompts.zip(sampling).map(|(prompts, sampling)| Prefixes::Student { prompts, sampling });
        Parts { recipe: Recipe::Grpo, start, mixture, prefixes, objective, teacher_rollout: false }
    }

    fn distill(&mut self, settings: &Settings, start: Option<ModelId>, mixture: Option<Vec<Share>>, env: &Env) -> Parts {
        let prompts = self.required_count(settings, "prompts", env, 1);
        let objective = match self.required(settings, "objective") {
            Some(expr) => self.objective_value(expr, env),
            None => None,
        };
        let sampling = self.required(settings, "rollout").and_then(|expr| match self.evaluate(expr, env) {
            Value::Rollout(Rollout::Student(sampling)) => Some(sampling),
            Value::Rollout(Rollout::Teacher { .. }) => {
                self.not_supported(expr.span, "distilling on the teachers' rollouts");
                None
            }
            other => {
                self.wrong_kind(expr.span, "a rollout is `sample(n: 1, temperature: 1.0, max_tokens: 24)`", &other);
                None
            }
        });
        let prefixes = prompts.zip(sampling).map(|(prompts, sampling)| Prefixes::Student { prompts, sampling });
        Parts { recipe: Recipe::Distill, start, mixture, prefixes, objective, teacher_rollout: false }
    }

    fn objective_setting(&mut self, expr: Option<&Expr>, default: (&str, &str), span: Span, env: &Env) -> Option<Rc<Objective>> {
        match expr {
            Some(expr) => self.objective_value(expr, env),
            None => {
                let (module, name) = default;
                let Some(item) = self.modules.standard_item(module, name) else {
                    self.report(Diagnostic::error(
                        Code::UnknownModule,
                        span,
                        format!("the standard library has no `std.{module}.{name}`"),
                    ));
                    return None;
                };
                match self.call_item(item, Callable::Objective, span, &[], env) {
                    Value::Objective(objective) => Some(objective),
                    _ => None,
                }
            }
        }
    }

    fn objective_value(&mut self, expr: &Expr, env: &Env) -> Option<Rc<Objective>> {
        match self.evaluate(expr, env) {
            Value::Objective(objective) => Some(objective),
            // A bare name: every parameter has its default.
            Value::Item { item, kind: Callable::Objective } => {
                match self.call_item(item, Callable::Objective, expr.span, &[], env) {
                    Value::Objective(objective) => Some(objective),
                    _ => None,
                }
            }
            other => {
                self.wrong_kind(expr.span, "an objective is needed here", &other);
                None
            }
        }
    }

    /// `sample(...)` by the student, `from(teacher, ...)` by the routed teachers.
    pub(super) fn rollout(&mut self, name: &str, given: &[Option<&Expr>], env: &Env) -> Option<Rollout> {
        let student = name == "sample";
        let first = given[0].expect("required");
        let count = if student {
            self.count(first, "n", env, 1)
        } else {
            if !matches!(&first.kind, ExprKind::Name(name) if name == "teacher") {
                self.not_supported(first.span, "rollouts of anything but the routed `teacher`");
                return None;
            }
            self.count(given[1].expect("required"), "sequences", env, 1)
        };
        let rest = if student { &given[1..] } else { &given[2..] };
        let temperature = self.at_least(rest[0].expect("required"), "temperature", env, 0.0);
        let max_tokens = self.count(rest[1].expect("required"), "max_tokens", env, 1);
        let (count, temperature, max_tokens) = (count?, temperature?, max_tokens?);
        if student && temperature == 0.0 {
            let place = rest[0].expect("required").span;
            self.report(
                Diagnostic::error(Code::OutOfRange, place, "a greedy rollout has no distribution to learn from")
                    .help("write a temperature above 0; 1.0 samples from the model itself"),
            );
            return None;
        }
        Some(if student {
            Rollout::Student(Sampling { n: count, temperature, max_tokens })
        } else {
            Rollout::Teacher { sequences: count, sampling: Sampling { n: 1, temperature, max_tokens } }
        })
    }

    /// `adamw(...)`, with the field's usual values where nothing is said.
    fn optimizer(&mut self, expr: Option<&Expr>, env: &Env) -> Option<AdamW> {
        let mut adamw = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 };
        let Some(expr) = expr else { return Some(adamw) };
        let (callee, arguments) = match &expr.kind {
            ExprKind::Call { callee, arguments, .. } => (callee.as_ref(), arguments.as_slice()),
            _ => (expr, &[][..]),
        };
        let builtin = match self.evaluate(callee, env) {
            Value::Builtin(builtin) if builtin.kind == Kind::Optimizer => builtin,
            other => {
                let usage = functions::find("adamw").expect("built in").usage;
                self.wrong_kind(expr.span, &format!("an optimizer is `{usage}`"), &other);
                return None;
            }
        };
        let given = self.builtin_arguments(builtin, arguments, expr.span)?;
        let slots = [&mut adamw.beta1, &mut adamw.beta2, &mut adamw.epsilon, &mut adamw.weight_decay, &mut adamw.clip_norm];
        for (index, slot) in slots.into_iter().enumerate() {
            let Some(expr) = given[index] else { continue };
            *slot = self.at_least(expr, builtin.parameters[index], env, 0.0)?;
            if index < 2 && *slot >= 1.0 {
                self.report(Diagnostic::error(Code::OutOfRange, expr.span, "a decay rate must be below 1"));
                return None;
            }
        }
        if adamw.clip_norm == 0.0 {
            self.report(Diagnostic::error(Code::OutOfRange, expr.span, "a largest gradient norm of 0 would stop all learning"));
            return None;
        }
        Some(adamw)
    }
}
