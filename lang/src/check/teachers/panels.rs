//! Panels: teachers that discuss a prompt before they score.

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{Expr, Name};
use mopd_experiment::formula::Role;
use mopd_experiment::{Panel, PanelId, Teacher, TeacherId, TeacherWeights};

use crate::check::Checker;
use crate::check::builtins::declare::Call;
use crate::check::builtins::teachers::Debate;
use crate::check::builtins::vocabulary::DebateBlock;
use crate::check::values::evaluate::Env;
use crate::check::values::value::Value;

impl Checker {
    /// `panel duo = debate([big, mid]) { rounds = 2, max_tokens = 512 }`
    pub(in crate::check) fn panel_item(&mut self, name: &Name, value: &Expr, env: &Env) -> Value {
        match self.evaluate(value, &env.named(&name.text)) {
            panel @ (Value::Panel(_) | Value::Error) => panel,
            other => self.wrong_kind(
                value.span,
                "a panel is `debate([big, mid]) { rounds = 2, max_tokens = 512 }`",
                &other,
            ),
        }
    }

    /// Reports panels that no objective uses.
    pub(super) fn check_use_of_panels(&mut self) {
        for panel in self.parts.panels.clone() {
            let real = |id: &TeacherId| self.teacher(*id).weights != TeacherWeights::Parameter;
            let asked = |id: &TeacherId| {
                self.parts.used_teachers[id.0 as usize]
                    || self.trains().iter().any(|train| train.objective.named_teachers().contains(id))
            };
            if panel.members.iter().all(real) && !panel.members.iter().any(asked) {
                let (span, text) =
                    (self.span(panel.origin), format!("no objective uses the panel `{}`", panel.name));
                self.report(
                    Diagnostic::error(Code::UnusedDeclaration, span, text)
                        .help("give it to an objective with a `panel` parameter, or remove it"),
                );
            }
        }
    }

    /// `confidence = integer(0..=100)`
    pub(in crate::check) fn stated_confidence(&mut self, expr: &Expr, env: &Env) -> Option<(i64, i64)> {
        match self.evaluate(expr, env) {
            Value::Integer { low, high } => Some((low, high)),
            other => {
                self.wrong_kind(expr.span, "`confidence` says how it is read: `integer(0..=100)`", &other);
                None
            }
        }
    }

    pub(in crate::check) fn debate_call(&mut self, given: Debate, env: &Env) -> Value {
        let Call { block, span, .. } = given.call;
        let (settings, debate) = self.block::<DebateBlock>(block, "debate", span);
        let name = if env.model_name.is_empty() { "debate".to_owned() } else { env.model_name.clone() };
        self.keep_marks(&settings, &format!("panel {name}"));
        let place = given.members.expr;
        let values = match self.evaluate(place, env) {
            Value::List(values) => values,
            Value::Family(family) => family.members.iter().map(|(_, value)| value.clone()).collect(),
            other => {
                return self.wrong_kind(place.span, "expected several teachers: a list or a family", &other);
            }
        };
        let speakers: Option<Vec<Role>> = values
            .into_iter()
            .map(|value| {
                self.teacher_role(value, place.span, env, "every member of a panel must be a teacher")
            })
            .collect();
        let rounds = self.read(debate.rounds, env);
        let sees = self.read(debate.sees, env);
        let confidence = self.read(debate.confidence, env);
        let max_tokens = self.read(debate.max_tokens, env);
        let temperature = self.read(debate.temperature, env);
        let (Some(speakers), Some(rounds), Some(sees), Some(confidence)) =
            (speakers, rounds, sees, confidence)
        else {
            return Value::Error;
        };
        let (Some(max_tokens), Some(temperature)) = (max_tokens, temperature) else { return Value::Error };
        if speakers.len() < 2 {
            let diagnostic =
                Diagnostic::error(Code::OutOfRange, place.span, "a debate needs at least two teachers");
            self.report(diagnostic.label(format!("{} in here", speakers.len())));
            return Value::Error;
        }
        let (id, origin) = (PanelId(self.parts.panels.len() as u32), self.origin(span));
        let mut members: Vec<TeacherId> = Vec::new();
        for speaker in speakers {
            let Role::Named { teacher, .. } = &speaker else { continue };
            let Teacher { answers, foreign, align, reveals, .. } = *self.teacher(*teacher);
            let said = self.parts.said_origins.get(teacher).copied();
            let declared = self.declare_teacher(Teacher {
                name: format!("{name}[{}]", speaker.name()),
                weights: TeacherWeights::Panelist { panel: id, speaker },
                sees: sees.clone(),
                temperature: 1.0,
                answers,
                foreign,
                align,
                reveals,
                feedback: None,
                origin,
            });
            if let Value::Teacher(member) = declared {
                if let Some(said) = said {
                    self.parts.said_origins.insert(member, said);
                }
                members.push(member);
            }
        }
        let panel = Panel { name, members, rounds, sees, confidence, max_tokens, temperature, origin };
        self.parts.panels.push(panel);
        Value::Panel(id)
    }

    /// `integer(0..=100)`
    pub(in crate::check) fn integer_call(&mut self, place: &Expr, env: &Env) -> Value {
        match self.evaluate(place, env) {
            Value::Range { low, high }
                if low.fract() == 0.0 && high.fract() == 0.0 && low.abs().max(high.abs()) < 1e15 =>
            {
                Value::Integer { low: low as i64, high: high as i64 }
            }
            Value::Range { .. } => {
                self.report(Diagnostic::error(
                    Code::OutOfRange,
                    place.span,
                    "a whole number lies between whole numbers",
                ));
                Value::Error
            }
            other => self.wrong_kind(place.span, "`integer` needs a range: `integer(0..=100)`", &other),
        }
    }
}
