//! Texts that models write besides a stage's completions: feedback about them, continuations of them, and
//! completions of their own.

use mopd_experiment::formula::{Formula, FormulaKind, ModelSignal, Signal, Statistic};
use mopd_experiment::{BatchSize, Experiment, GroupMember, RolloutSource, Sampling, Slot, TeacherId, Train};

use super::OutlineRows;
use super::training::samples;
use crate::figures::count;
use crate::output::counted;

pub fn rows(train: &Train, experiment: &Experiment) -> OutlineRows {
    let feedback = feedback(train, experiment).map(|text| ("feedback", text));
    let beside = attempts(train).into_iter().chain(agreements(train)).chain(derived(train));
    feedback.chain(beside.map(|text| ("other texts", text))).collect()
}

/// The texts of teachers for derived prompts, each once.
fn derived(train: &Train) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let mut tell = |text: String| {
        if !told.contains(&text) {
            told.push(text);
        }
    };
    for rollout in train.rollouts() {
        let RolloutSource::Derived { template, .. } = &rollout.source else { continue };
        let each = rollout.sampling().map(samples).unwrap_or_default();
        for slot in template.slots().flat_map(Slot::all) {
            match slot {
                Slot::Answer { by, .. } => {
                    let by = by.name();
                    tell(format!("{by} writes its own completions for {}, {each}", template.name));
                }
                Slot::Shortened { slot, by, max_tokens } => {
                    let (by, of) = (by.name(), named(slot));
                    let most = counted(*max_tokens as usize, "token");
                    tell(format!("{by} shortens {of} for {}, at most {most} a prompt", template.name));
                }
                _ => {}
            }
        }
    }
    told
}

/// The slot as it is written.
fn named(slot: &Slot) -> String {
    let member = |of: &str, member: &GroupMember| {
        let member = match member {
            GroupMember::Correct => "correct",
            GroupMember::Wrong => "wrong",
            GroupMember::Other => "other",
        };
        format!("{of}.{member}")
    };
    match slot {
        Slot::Group(of) => member("group", of),
        Slot::Answer { by, member: of } => member(by.name(), of),
        Slot::Data(field) => field.clone(),
        Slot::Prompt => "prompt".to_owned(),
        Slot::Shortened { .. } => "short(...)".to_owned(),
        Slot::Shuffled(_) => "shuffled(...)".to_owned(),
        Slot::Completion => "completion".to_owned(),
        Slot::Draft => "draft".to_owned(),
        Slot::Transcript => "transcript".to_owned(),
        Slot::Feedback => "feedback".to_owned(),
    }
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
        let sees = sees.as_ref().map(|template| format!(" with {}", template.name)).unwrap_or_default();
        Some(format!(
            "for {}: {}{sees}, about each completion, {}{}",
            teacher.name,
            writer.name(),
            samples(sampling),
            most(train, sampling)
        ))
    })
}

/// The roles that write completions of their own.
fn attempts(train: &Train) -> Vec<String> {
    let mut roles: Vec<&str> = Vec::new();
    for part in train.objective.formulas().into_iter().flat_map(Formula::parts) {
        if let FormulaKind::Signal(Signal::Of { role, part: ModelSignal::Correct }) = &part.0.kind
            && !roles.contains(&role.name())
        {
            roles.push(role.name());
        }
    }
    let Some(sampling) = train.rollout.sampling() else { return Vec::new() };
    let one = |role: &str| {
        format!("{role} writes its own completions, {}{}", samples(sampling), most(train, sampling))
    };
    roles.into_iter().map(one).collect()
}

/// The roles that write continuations of the student's blocks.
fn agreements(train: &Train) -> Vec<String> {
    let parts: Vec<&Formula> = train.objective.formulas().into_iter().flat_map(Formula::parts).collect();
    let blocks = parts.iter().find_map(|part| match &part.0.kind {
        FormulaKind::Statistic { statistic: Statistic::Chunks { most, width }, .. } => Some((*most, *width)),
        _ => None,
    });
    let Some((most, width)) = blocks else { return Vec::new() };
    let mut told: Vec<String> = Vec::new();
    for part in parts {
        let FormulaKind::Signal(Signal::Agreement { role, samples, .. }) = &part.0.kind else { continue };
        let (role, tokens) = (role.name(), counted(most.saturating_mul(width) as usize, "token"));
        let each = counted(*samples as usize, "time");
        let text = format!(
            "{role} continues {each} from the start of each block, each time at most {tokens} in total"
        );
        if !told.contains(&text) {
            told.push(text);
        }
    }
    told
}

/// The total number of texts, if it is known: one for each completion.
fn most(train: &Train, sampling: &Sampling) -> String {
    // The number of turns of a trajectory depends on the data.
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
