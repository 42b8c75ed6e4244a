//! Routes: which teacher scores the prompts of which domain. Total over the domains, decided before the run.

use crate::diag::{Code, Diagnostic};
use crate::experiment::{DomainId, TeacherChoice};
use crate::formula::FormulaKind;
use crate::source::Span;
use crate::syntax::ast::{Condition, Expr, ItemKind, Route};

use super::Checker;
use super::evaluate::Env;
use super::modules::ModuleId;
use super::value::{TeacherId, Value};

/// The file's own route.
#[derive(Clone, Debug, Default)]
pub enum RouteState {
    #[default]
    Unevaluated,
    /// The file has none.
    Absent,
    /// By domain; a domain without a teacher has been reported.
    Evaluated(Vec<(DomainId, TeacherId)>),
}

/// One arm after `for` has been spelled out.
struct Turn<'a> {
    env: Env,
    condition: &'a Condition,
    target: &'a Expr,
    span: Span,
    used: bool,
}

impl Checker {
    /// The teachers of a stage trained on `domains`: by its own route, or by the file's. `None` where a finding says why.
    pub(super) fn teachers_for(
        &mut self,
        entry: ModuleId,
        own: Option<(&Route, &Env)>,
        domains: &[DomainId],
        stage: Span,
    ) -> Option<Vec<TeacherChoice>> {
        let chosen = match own {
            Some((route, env)) => self.evaluate_route(route, env, domains),
            None => match self.file_route(entry) {
                RouteState::Evaluated(chosen) => chosen,
                _ => {
                    self.report(
                        Diagnostic::error(Code::NoTeacher, stage, "this stage reads a teacher, but no route gives one")
                            .help("add `route { for d in domains: domain == d -> specialist[d] }` to the file or to the stage"),
                    );
                    return None;
                }
            },
        };
        let choice = |domain: &DomainId| {
            let (_, teacher) = chosen.iter().find(|(routed, _)| routed == domain)?;
            let teacher = self.teacher(*teacher);
            Some(TeacherChoice { domain: *domain, name: teacher.name.clone(), teacher: teacher.model })
        };
        domains.iter().map(choice).collect()
    }

    fn file_route(&mut self, entry: ModuleId) -> RouteState {
        if matches!(*self.route, RouteState::Unevaluated) {
            let tree = self.modules.tree(entry);
            let route = tree.items.iter().find_map(|item| match &item.kind {
                ItemKind::Route(route) => Some(route),
                _ => None,
            });
            *self.route = match route {
                None => RouteState::Absent,
                Some(route) => {
                    let domains: Vec<DomainId> = (0..self.domains.len() as u32).map(DomainId).collect();
                    RouteState::Evaluated(self.evaluate_route(route, &Env::constant(entry), &domains))
                }
            };
        }
        self.route.clone()
    }

    /// The first arm whose condition holds, for each domain.
    fn evaluate_route(&mut self, route: &Route, env: &Env, domains: &[DomainId]) -> Vec<(DomainId, TeacherId)> {
        let mut turns = Vec::new();
        for arm in &route.arms {
            let envs = match &arm.index {
                None => vec![env.clone()],
                Some(index) => self.turns(index, env).into_iter().map(|(_, env)| env).collect(),
            };
            turns.extend(envs.into_iter().map(|env| Turn {
                env,
                condition: &arm.condition,
                target: &arm.target,
                span: arm.span,
                used: false,
            }));
        }
        let mut chosen = Vec::new();
        let mut faulty = false;
        for &domain in domains {
            match self.first_match(&mut turns, domain) {
                Ok(Some(Value::Teacher(teacher))) => {
                    self.teachers[teacher.0 as usize].used = true;
                    chosen.push((domain, teacher));
                }
                Ok(Some(_)) | Err(()) => faulty = true,
                Ok(None) => {
                    let declared = self.span(self.domain(domain).origin);
                    let name = self.domain(domain).name.clone();
                    self.report(
                        Diagnostic::error(
                            Code::UnroutedDomain,
                            declared,
                            format!("no teacher is routed for the domain `{name}`"),
                        )
                        .label("its prompts would be scored by nobody")
                        .because(route.span, "this route has no arm for it")
                        .help(format!("add `domain == {name} -> ...` to the route")),
                    );
                    faulty = true;
                }
            }
        }
        for turn in turns.iter().filter(|turn| !turn.used && !faulty) {
            self.report(
                Diagnostic::error(Code::DomainRoutedTwice, turn.span, "this arm is never reached")
                    .label("every domain it could match is routed before")
                    .help("remove it, or move it up: the first arm that holds decides"),
            );
        }
        chosen
    }

    fn first_match(&mut self, turns: &mut [Turn], domain: DomainId) -> Result<Option<Value>, ()> {
        for turn in turns {
            let mut env = turn.env.clone();
            env.bind("domain", Value::Domain(domain));
            let holds = match turn.condition {
                Condition::Else => true,
                Condition::When(condition) => match self.evaluate(condition, &env) {
                    Value::Error => return Err(()),
                    Value::Formula(formula) if matches!(formula.0.kind, FormulaKind::Number(_)) => {
                        formula.0.kind == FormulaKind::Number(1.0)
                    }
                    other => {
                        self.wrong_kind(
                            condition.span,
                            "the condition of an arm must be decided by the domain, such as `domain == math`",
                            &other,
                        );
                        return Err(());
                    }
                },
            };
            if !holds {
                continue;
            }
            turn.used = true;
            return match self.evaluate(turn.target, &env) {
                Value::Error => Err(()),
                teacher @ Value::Teacher(_) => Ok(Some(teacher)),
                Value::Model(_) => {
                    self.report(
                        Diagnostic::error(Code::WrongKind, turn.target.span, "an arm leads to a teacher, and this is a model")
                            .help("declare the role first: `teacher name = model`"),
                    );
                    Err(())
                }
                other => {
                    self.wrong_kind(turn.target.span, "an arm leads to a teacher", &other);
                    Err(())
                }
            };
        }
        Ok(None)
    }

    /// Checks the file's route even if no stage asks for it, then that every teacher is chosen by some route.
    pub(super) fn check_routes(&mut self, entry: ModuleId) {
        let tree = self.modules.tree(entry);
        let mut routes = tree.items.iter().filter_map(|item| match &item.kind {
            ItemKind::Route(route) => Some(route.span),
            _ => None,
        });
        if let (Some(first), Some(second)) = (routes.next(), routes.next()) {
            self.report(
                Diagnostic::error(Code::DuplicateName, second, "a file has one route")
                    .because(first, "declared here")
                    .help("put all arms in one block"),
            );
        }
        self.file_route(entry);
        if self.diagnostics.iter().any(|finding| finding.severity == crate::diag::Severity::Error) {
            return; // A teacher may be unused because of another mistake.
        }
        let unused: Vec<_> = self.teachers.iter().filter(|teacher| !teacher.used).cloned().collect();
        for teacher in unused {
            let text = format!("no route ever chooses the teacher `{}`", teacher.name);
            let span = self.span(teacher.origin);
            self.report(
                Diagnostic::error(Code::UnusedTeacher, span, text)
                    .help("route some domain to it, or remove it: a silent teacher is usually a typo in a route"),
            );
        }
    }

    pub(super) fn check_use_of_domains(&mut self) {
        if self.diagnostics.iter().any(|finding| finding.severity == crate::diag::Severity::Error) || self.models.is_empty() {
            return;
        }
        for index in 0..self.domains.len() as u32 {
            let id = DomainId(index);
            let used = self.models.iter().any(|model| match &model.stage {
                crate::experiment::Stage::Train(train) => train.mixture.iter().any(|share| share.domain == id),
                _ => false,
            });
            if !used {
                let (name, span) = (self.domain(id).name.clone(), self.span(self.domain(id).origin));
                self.report(
                    Diagnostic::error(Code::UnusedDomain, span, format!("no model is trained on the domain `{name}`"))
                        .help("train on it, or remove it: its share of the prompts would go nowhere"),
                );
            }
        }
    }
}
