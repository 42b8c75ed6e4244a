//! Teachers with default settings, and copies of the student, as teachers.

use crate::source::Span;
use mopd_experiment::formula::Role;
use mopd_experiment::{Alignment, Capability, ModelId, Pool, SelfCopy, Teacher, TeacherId, TeacherWeights};

use crate::check::declarations::{Declarations, ExperimentParts};
use crate::check::values::value::Value;

/// A teacher with default settings.
pub fn plain_teacher(
    declarations: &mut Declarations,
    name: &str,
    weights: TeacherWeights,
    span: Span,
) -> Teacher {
    Teacher {
        name: name.to_owned(),
        answers: natural_answers(&declarations.parts, &weights),
        weights,
        sees: None,
        temperature: 1.0,
        foreign: false,
        align: Alignment::Positions,
        reveals: None,
        feedback: None,
        origin: declarations.origin(span),
    }
}

/// Declares a teacher unless an equal one exists: every use evaluates a parameterised teacher.
pub fn declare_once(parts: &mut ExperimentParts, teacher: Teacher) -> Value {
    match parts.teachers.iter().position(|known| *known == teacher) {
        Some(known) => Value::Teacher(TeacherId(known as u32)),
        None => Value::Teacher(parts.declare_teacher(teacher)),
    }
}

/// The teacher for `self` or `self.ema(0.99)`.
pub fn student_as_teacher(declarations: &mut Declarations, name: &str, copy: SelfCopy, span: Span) -> Value {
    let teacher = plain_teacher(declarations, name, TeacherWeights::Student(copy), span);
    declare_once(&mut declarations.parts, teacher)
}

/// The teacher for a model that is not declared as one.
pub fn teacher_of_model(declarations: &mut Declarations, name: &str, model: ModelId, span: Span) -> Value {
    let unnamed = |known: &Teacher| {
        known.weights == TeacherWeights::Model(model) && known.name == name && known.sees.is_none()
    };
    match declarations.parts.teachers.iter().position(unnamed) {
        Some(known) => Value::Teacher(TeacherId(known as u32)),
        None => {
            let teacher = plain_teacher(declarations, name, TeacherWeights::Model(model), span);
            Value::Teacher(declarations.parts.declare_teacher(teacher))
        }
    }
}

/// The default capability of weights.
pub fn natural_answers(parts: &ExperimentParts, weights: &TeacherWeights) -> Capability {
    let of = |role: &Role| match role {
        Role::Named { teacher, .. } => parts.teacher(*teacher).answers,
        _ => Capability::Distribution,
    };
    match weights {
        TeacherWeights::Pooled { pool, members } => {
            let least = members.iter().map(|part| of(&part.role)).min().unwrap_or(Capability::Text);
            match pool {
                // Each teacher is queried separately.
                Pool::Sum => least,
                // A mixture of truncated distributions is not the truncation of a mixture; for one given
                // token it is the mean.
                Pool::Mixture if least < Capability::Distribution => least.min(Capability::Sampled),
                // The product of probabilities needs the whole vocabulary for its normalizer.
                Pool::Geometric if least < Capability::Distribution => Capability::Text,
                _ => Capability::Distribution,
            }
        }
        TeacherWeights::Panelist { speaker, .. } => of(speaker),
        _ => Capability::Distribution,
    }
}
