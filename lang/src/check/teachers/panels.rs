//! Panels: teachers that discuss a prompt before they score.

use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{Expr, Name};
use mopd_experiment::formula::Role;
use mopd_experiment::{Panel, PanelId, Teacher, TeacherId, TeacherWeights};

use crate::check::builtins::declare::Call;
use crate::check::builtins::teachers::Debate;
use crate::check::builtins::vocabulary::DebateBlock;
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::read::{expected, read, reads, settings};
use crate::check::roles;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Confidence => |checker, given, env| stated_confidence(checker, given.expr, env);
}

/// `panel duo = debate([big, mid]) { rounds = 2, max_tokens = 512 }`
pub fn panel_item(checker: &mut Checker, name: &Name, value: &Expr, env: &Env) -> Value {
    match checker.evaluate(value, &env.named(&name.text)) {
        panel @ (Value::Panel(_) | Value::Error) => panel,
        other => expected::wrong_kind(
            checker,
            value.span,
            "a panel is `debate([big, mid]) { rounds = 2, max_tokens = 512 }`",
            &other,
        ),
    }
}

/// Reports panels that no objective uses.
pub(super) fn check_use_of_panels(declarations: &mut Declarations) {
    for panel in declarations.parts.panels.clone() {
        let real = |id: &TeacherId| declarations.parts.teacher(*id).weights != TeacherWeights::Parameter;
        let asked = |id: &TeacherId| {
            declarations.parts.used_teachers[id.0 as usize]
                || declarations
                    .parts
                    .trains()
                    .iter()
                    .any(|train| train.objective.named_teachers().contains(id))
        };
        if panel.members.iter().all(real) && !panel.members.iter().any(asked) {
            let (span, text) =
                (declarations.span(panel.origin), format!("no objective uses the panel `{}`", panel.name));
            declarations.report(
                Diagnostic::warning(Code::UnusedDeclaration, span, text)
                    .help("give it to an objective with a `panel` parameter, or remove it"),
            );
        }
    }
}

/// `confidence = integer(0..=100)`
pub fn stated_confidence(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<(i64, i64)> {
    match checker.evaluate(expr, env) {
        Value::Integer { low, high } => Some((low, high)),
        other => {
            expected::wrong_kind(
                checker,
                expr.span,
                "`confidence` says how it is read: `integer(0..=100)`",
                &other,
            );
            None
        }
    }
}

pub fn debate_call(checker: &mut Checker, given: Debate, env: &Env) -> Value {
    let Call { block, span, .. } = given.call;
    let (settings, debate) = settings::block::<DebateBlock>(checker, block, "debate", span);
    let name = if env.model_name.is_empty() { "debate".to_owned() } else { env.model_name.clone() };
    settings::keep_marks(&mut checker.parts, &settings, &format!("panel {name}"));
    let place = given.members.expr;
    let values = match checker.evaluate(place, env).elements() {
        Ok(values) => values,
        Err(other) => {
            return expected::wrong_kind(
                checker,
                place.span,
                "expected several teachers: a list or a family",
                &other,
            );
        }
    };
    let speakers: Option<Vec<Role>> = values
        .into_iter()
        .map(|value| {
            roles::teacher_role(checker, value, place.span, env, "every member of a panel must be a teacher")
        })
        .collect();
    let rounds = read(checker, debate.rounds, env);
    let sees = read(checker, debate.sees, env);
    let confidence = read(checker, debate.confidence, env);
    let max_tokens = read(checker, debate.max_tokens, env);
    let temperature = read(checker, debate.temperature, env);
    let (Some(speakers), Some(rounds), Some(sees), Some(confidence)) = (speakers, rounds, sees, confidence)
    else {
        return Value::Error;
    };
    let (Some(max_tokens), Some(temperature)) = (max_tokens, temperature) else { return Value::Error };
    if speakers.len() < 2 {
        let diagnostic =
            Diagnostic::error(Code::OutOfRange, place.span, "a debate needs at least two teachers");
        checker.report(diagnostic.label(format!("{} in here", speakers.len())));
        return Value::Error;
    }
    let (id, origin) = (PanelId(checker.parts.panels.len() as u32), checker.origin(span));
    let mut members: Vec<TeacherId> = Vec::new();
    for speaker in speakers {
        let Role::Named { teacher, .. } = &speaker else { continue };
        let Teacher { answers, foreign, align, reveals, .. } = *checker.parts.teacher(*teacher);
        let said = checker.parts.said_origins.get(teacher).copied();
        let member = checker.parts.declare_teacher(Teacher {
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
        if let Some(said) = said {
            checker.parts.said_origins.insert(member, said);
        }
        members.push(member);
    }
    let panel = Panel { name, members, rounds, sees, confidence, max_tokens, temperature, origin };
    checker.parts.panels.push(panel);
    Value::Panel(id)
}

/// `integer(0..=100)`
pub fn integer_call(checker: &mut Checker, place: &Expr, env: &Env) -> Value {
    match checker.evaluate(place, env) {
        Value::Range { low, high }
            if low.fract() == 0.0 && high.fract() == 0.0 && low.abs().max(high.abs()) < 1e15 =>
        {
            Value::Integer { low: low as i64, high: high as i64 }
        }
        Value::Range { .. } => {
            checker.report(Diagnostic::error(
                Code::OutOfRange,
                place.span,
                "a whole number lies between whole numbers",
            ));
            Value::Error
        }
        other => {
            expected::wrong_kind(checker, place.span, "`integer` needs a range: `integer(0..=100)`", &other)
        }
    }
}
