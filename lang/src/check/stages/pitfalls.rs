//! Mistakes from the literature: objectives that look right and train something else, or nothing. Each check
//! cites its source.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::Role;
use mopd_experiment::{Recipe, RolloutSource, Stage, TeacherId, TeacherWeights, Train};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::declarations::Declarations;
use crate::check::reporter::Reporter;
use crate::check::stages::lineage;

/// Checks an objective for mistakes on the completions of its stage.
pub fn warn_of_pitfalls(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) {
    warn_of_other_teachers(declarations, train, settings);
    warn_of_targets(declarations, train, settings);
    lineage::warn_of_misrouted_domains(declarations, train, settings);
}

/// Warns of a balance that gives every domain the same target where the targets do not sum to 1: the loss
/// is then scaled differently than intended.
fn warn_of_targets(reporter: &mut Reporter, train: &Train, settings: &BlockSettings) {
    let objective = &train.objective;
    let reductions =
        objective.reduce.iter().chain(objective.terms.iter().filter_map(|term| term.reduce.as_ref()));
    let domains = train.mixture.len();
    let wrong = reductions.filter_map(|reduce| reduce.balance.as_ref()).find_map(|balance| {
        let target = balance.target?;
        ((target * domains as f64 - 1.0).abs() > 1e-6).then_some((target, balance.origin))
    });
    let Some((target, origin)) = wrong else { return };
    let span = reporter.span(origin);
    let text = format!("{domains} domains with a target of {target} each: together they are not the whole");
    reporter.report(
        Diagnostic::warning(Code::ShareSum, settings.place(&["objective"]), text)
            .note(span, "balanced here")
            .help(format!("balance {domains} domains with `target = 1/{domains}`")),
    );
}

/// Warns of rollouts made once by a start that one teacher fine-tuned, if another teacher scores them:
/// they keep the first teacher's bias (Lightning OPD, arXiv:2604.13010).
fn warn_of_other_teachers(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) {
    if !train.rollout.all().iter().any(|rollout| matches!(rollout.source, RolloutSource::Snapshot { .. })) {
        return;
    }
    let Stage::Train(before) = &declarations.parts.model(train.start).stage else { return };
    let imitated = imitated(before);
    if before.recipe != Recipe::Sft || imitated.is_empty() {
        return;
    }
    let weights = |teacher: &TeacherId| -> &TeacherWeights { &declarations.parts.teacher(*teacher).weights };
    let known = |teacher: &TeacherId| imitated.iter().any(|known| weights(known) == weights(teacher));
    let Some(other) = train.teachers.iter().map(|choice| choice.teacher).find(|teacher| !known(teacher))
    else {
        return;
    };
    let (name, declared) = (
        declarations.parts.teacher(other).name.clone(),
        declarations.span(declarations.parts.teacher(other).origin),
    );
    let start = declarations.span(declarations.parts.model(train.start).origin);
    let text = format!(
        "the rollouts are made once, and `{name}` scores them: the student was fine-tuned on another \
         teacher"
    );
    declarations.report(
        Diagnostic::warning(Code::InconsistentTeacher, settings.place(&["rollout"]), text)
            .note(start, "fine-tuned here")
            .note(declared, "the teacher that scores")
            .help(
                "fine-tune on the answers of the same teachers, or roll out anew at every step: \
                 `rollout = sample(...)`",
            ),
    );
}

/// The teachers whose texts a stage learns from.
fn imitated(train: &Train) -> Vec<TeacherId> {
    let mut found = Vec::new();
    for rollout in train.rollout.all() {
        match rollout.writer() {
            Some(Role::Teacher) => found.extend(train.teachers.iter().map(|choice| choice.teacher)),
            Some(Role::Named { teacher, .. }) => found.push(*teacher),
            _ => {}
        }
    }
    found
}
