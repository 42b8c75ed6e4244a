//! Teachers: a plan knows those that are a model of the run, as it is.

use mopd_lang::experiment::{self as wide, Alignment, SelfCopy, TeacherWeights};

use super::{Diagnostic, data, refused};
use crate::plan::{self, ModelId, StudentCopy, TeacherChoice};
use crate::refusal::Origins;

/// One arm of a stage's route.
pub fn choice(
    choice: &wide::TeacherChoice,
    train: &wide::Train,
    teachers: &[wide::Teacher],
    origins: Origins,
) -> Result<TeacherChoice, Vec<Diagnostic>> {
    let wide::TeacherChoice { domain, when, teacher, .. } = choice;
    let teacher = &teachers[teacher.0 as usize];
    let mut refusals = Vec::new();
    let when = when
        .as_ref()
        .map(|when| data::formula(when, "a route by anything but the data of a prompt", origins))
        .transpose();
    let when = when.map_err(|refusal| refusals.push(*refusal)).ok();
    let weights = weights(teacher, train.start, origins).map_err(|found| refusals.extend(found)).ok();
    match (when, weights) {
        (Some(when), Some(weights)) => {
            Ok(TeacherChoice { domain: *domain, when, name: teacher.name.clone(), teacher: weights })
        }
        _ => Err(refusals),
    }
}

/// Whose weights a teacher has.
pub fn weights(
    teacher: &wide::Teacher,
    start: ModelId,
    origins: Origins,
) -> Result<plan::Teacher, Vec<Diagnostic>> {
    let mut refusals = Vec::new();
    let weights = weights_of(teacher, start, origins, &mut refusals);
    weights.filter(|_| refusals.is_empty()).ok_or(refusals)
}

fn weights_of(
    teacher: &wide::Teacher,
    start: ModelId,
    origins: Origins,
    refusals: &mut Vec<Diagnostic>,
) -> Option<plan::Teacher> {
    // What it can answer only narrows what objectives may ask, and the checker has seen to that; so has it to
    // `foreign`.
    let wide::Teacher {
        name: _,
        weights,
        sees,
        temperature,
        answers: _,
        foreign: _,
        align,
        reveals,
        // It fills a template, which is refused already.
        feedback: _,
        origin,
    } = teacher;
    let at = origins.span(*origin);
    let mut refuse = |construct: &str| refusals.push(*refused(at, construct));
    if sees.is_some() {
        refuse("a teacher that sees a template");
    }
    if *temperature != 1.0 {
        refuse("a teacher with a temperature of its own");
    }
    if reveals.is_some() {
        refuse("a teacher that reads what a denoising student has not filled yet");
    }
    match align {
        Alignment::Positions => {}
        Alignment::Tokens => refuse("a teacher with another tokenizer (`align = tokens`)"),
        Alignment::WithoutPadding => refuse("a teacher that is shown completions without their padding"),
        Alignment::Shifted => refuse("a teacher whose positions are shifted by one"),
    }
    let construct = match weights {
        TeacherWeights::Model(model) => return Some(plan::Teacher::Model(*model)),
        // The weights before the first step are those that the stage starts from.
        TeacherWeights::Student(SelfCopy::Initial) => return Some(plan::Teacher::Model(start)),
        TeacherWeights::Student(SelfCopy::Current) => {
            return Some(plan::Teacher::Student(StudentCopy::Current));
        }
        TeacherWeights::Student(SelfCopy::Ema { rate }) => {
            return Some(plan::Teacher::Student(StudentCopy::Average { rate: *rate }));
        }
        TeacherWeights::Student(SelfCopy::Every { steps }) => {
            return Some(plan::Teacher::Student(StudentCopy::Every { steps: *steps }));
        }
        TeacherWeights::Trained { .. } => "a teacher that is trained in the same stage".to_owned(),
        TeacherWeights::Served { .. } => "a teacher on a server (`served`)".to_owned(),
        TeacherWeights::Composed { .. } => "a teacher composed of logits".to_owned(),
        TeacherWeights::Pooled { pool, .. } => format!("a teacher pooled from several by `{}`", pool.name()),
        TeacherWeights::Panelist { .. } => "a teacher that speaks in a panel (`debate`)".to_owned(),
        TeacherWeights::Parameter => format!("the teacher `{}` without weights", teacher.name),
    };
    refuse(&construct);
    None
}
