//! What models write beside a stage's completions: feedback about them, and completions of their own.

use mopd_lang::experiment::{BatchSize, Experiment, RolloutSource, Sampling, TeacherId, Train};
use mopd_lang::formula::{Formula, FormulaKind, Part, Signal};

use super::Rows;
use super::training::samples;
use crate::figures::count;
use crate::output::counted;

pub fn rows(train: &Train, experiment: &Experiment) -> Rows {
    let feedback = feedback(train, experiment).map(|text| ("feedback", text));
    feedback.chain(attempts(train).into_iter().map(|text| ("beside", text))).collect()
}

fn feedback<'a>(train: &'a Train, experiment: &'a Experiment) -> impl Iterator<Item = String> + 'a {
    let mut asked: Vec<TeacherId> = train.teachers.iter().map(|choice| choice.teacher).collect();
    asked.extend(train.named_teachers());
    let mut once: Vec<TeacherId> = Vec::new();
    for teacher in asked {
        if !once.contains(&teacher) {
            once.push(teacher);
        }
    }
    once.into_iter().filter_map(|teacher| {
        let teacher = experiment.teacher(teacher);
        let RolloutSource::From { teacher: writer, sees, sampling, .. } = &teacher.feedback.as_ref()?.source
        else {
            return None;
        };
        let behind = sees.as_ref().map(|template| format!(" behind {}", template.name)).unwrap_or_default();
        Some(format!(
            "for {}: {}{behind} about each completion, {}{}",
            teacher.name,
            writer.name(),
            samples(sampling),
            most(train, sampling)
        ))
    })
}

/// Whoever is asked for completions of its own.
fn attempts(train: &Train) -> Vec<String> {
    let mut roles: Vec<&str> = Vec::new();
    for part in train.objective.formulas().into_iter().flat_map(Formula::parts) {
        if let FormulaKind::Signal(Signal::Of { role, part: Part::Correct }) = &part.0.kind
            && !roles.contains(&role.name())
        {
            roles.push(role.name());
        }
    }
    let Some(sampling) = train.rollout.sampling() else { return Vec::new() };
    let one = |role: &str| {
        format!("{role} answers each prompt itself, {}{}", samples(sampling), most(train, sampling))
    };
    roles.into_iter().map(one).collect()
}

/// In all, where that is known: a text for each completion.
fn most(train: &Train, sampling: &Sampling) -> String {
    // How many turns a trajectory has, the data says.
    if matches!(train.rollout.source, RolloutSource::EachTurn { .. }) {
        return String::new();
    }
    let sequences = match train.size {
        BatchSize::Prompts(prompts) => u64::from(prompts) * u64::from(train.rollout.group()),
        BatchSize::Sequences(sequences) => u64::from(sequences),
    };
    match &sampling.max_tokens.0.kind {
        FormulaKind::Number(tokens) => {
            let texts = counted(usize::try_from(sequences).unwrap_or(usize::MAX), "text");
            format!(": {texts} and {} tokens a step", count(sequences.saturating_mul(*tokens as u64)))
        }
        _ => String::new(),
    }
}
