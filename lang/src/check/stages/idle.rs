//! What a stage never comes to: the end of a schedule, the second time of an interval, a guard that can't
//! act. And entries that a small vocabulary does not have.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::formula::{
    Formula, FormulaKind, Function, Live, Signal, StepNumber, StepWindow, Support, text,
};
use mopd_experiment::{Guard, Origin, Rollout, Train};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::declarations::Declarations;
use crate::check::formulas::ranges::possible_between;
use crate::check::read::numbers::has_variables;
use crate::check::reporter::Reporter;

/// Warns of a schedule that the stage ends before: a rate then never reaches the last value that the text
/// gives.
pub(super) fn warn_of_unfinished_schedules(
    declarations: &mut Declarations,
    train: &Train,
    settings: &BlockSettings,
    steps: u32,
) {
    let of_train = train.schedules(&declarations.parts.teachers).into_iter();
    let late = of_train.filter_map(|(origin, schedule)| Some((origin, schedule.unreached(steps)?)));
    let mut late: Vec<(Origin, u32)> = late.collect();
    late.sort_unstable();
    late.dedup();
    for (origin, step) in late {
        let span = declarations.span(origin);
        let diagnostic =
            Diagnostic::warning(Code::UnfinishedSchedule, span, "the stage ends before this schedule does");
        declarations.report(
            diagnostic
                .label(format!("goes on to step {step}"))
                .note(
                    settings.place(&["steps"]),
                    format!("the stage has {steps} steps, the last is {}", steps.saturating_sub(1)),
                )
                .help("give it the length of the stage, `over: 100%` or fewer steps, or train for longer"),
        );
    }
}

/// Warns of what a stage repeats at intervals that it is not longer than.
pub(super) fn warn_of_long_intervals(
    declarations: &mut Declarations,
    train: &Train,
    settings: &BlockSettings,
    steps: u32,
) {
    let mut late: Vec<(Span, u32, &str)> = train
        .intervals(&declarations.parts.teachers)
        .into_iter()
        .map(|interval| (declarations.span(interval.origin), interval.steps, interval.acts))
        .collect();
    late.extend(train.refresh.map(|every| (settings.place(&["refresh"]), every, "prompts are chosen again")));
    late.retain(|(_, every, _)| *every >= steps);
    late.sort_unstable();
    late.dedup();
    for (span, every, acts) in late {
        let text = format!("the stage ends before {acts}");
        declarations.report(
            Diagnostic::warning(Code::UnfinishedSchedule, span, text)
                .label(format!("every {every} steps"))
                .note(settings.place(&["steps"]), format!("the stage has {steps}"))
                .help("give it an interval that is shorter than the stage, or train for longer"),
        );
    }
}

/// Warns of guards that can't act before the stage ends.
pub(super) fn warn_of_idle_guards(
    reporter: &mut Reporter,
    train: &Train,
    settings: &BlockSettings,
    steps: u32,
) {
    let mut last: Option<Origin> = None;
    for guard in &train.guards {
        // A guard on several domains is written once.
        if last.replace(guard.origin) == Some(guard.origin) || has_variables(&guard.condition) {
            continue;
        }
        let Some(why) = never_acts(guard, train, steps) else { continue };
        let name = guard.action.name();
        let text = format!("this `{name}` never acts: {why}");
        let place = reporter.span(guard.origin);
        reporter.report(
            Diagnostic::warning(Code::NeverHolds, place, text)
                .note(settings.place(&["steps"]), format!("the stage has {steps} steps"))
                .help("change the guard, or remove it"),
        );
    }
}

/// Warns of a case in the learning rate, or in a number of a rollout, that no step of the stage takes.
pub(super) fn warn_of_idle_cases(
    reporter: &mut Reporter,
    train: &Train,
    settings: &BlockSettings,
    steps: u32,
) {
    let moving = train.rollouts().into_iter().flat_map(Rollout::moving);
    let formulas = [&train.learning_rate].into_iter().chain(moving);
    let conditions = formulas.flat_map(Formula::parts).filter_map(|part| match &part.0.kind {
        FormulaKind::Apply { function: Function::Where, operands } => operands.first(),
        _ => None,
    });
    let mut found: Vec<(Span, String)> = Vec::new();
    for condition in conditions.filter(|condition| !has_variables(condition)) {
        let place = reporter.span(condition.0.origin);
        let (low, high) = possible_between(condition, (0, steps - 1), steps);
        let written = text::formula(condition, 60);
        let text = match (low >= 1.0, high <= 0.0) {
            (_, true) => format!("`{written}` never holds"),
            (true, _) => format!("`{written}` holds at every step"),
            _ => continue,
        };
        if condition.constant().is_none() && !found.contains(&(place, text.clone())) {
            found.push((place, text));
        }
    }
    for (place, text) in found {
        reporter.report(
            Diagnostic::warning(Code::NeverHolds, place, text)
                .note(
                    settings.place(&["steps"]),
                    format!("the stage has {steps} steps, counted from 0 to {}", steps - 1),
                )
                .help(STEPS_AND_PROGRESS),
        );
    }
}

/// What `step` and `progress` can be.
const STEPS_AND_PROGRESS: &str =
    "compare with a step of the stage, or write `progress > 50%`: `progress` is between 0 and 1";

/// Warns of more entries than the vocabulary has, where its size is known.
pub(super) fn warn_of_absent_entries(
    declarations: &mut Declarations,
    train: &Train,
    settings: &BlockSettings,
) {
    let architecture = declarations.parts.architecture(train.start);
    let Some(size) = architecture.and_then(|architecture| architecture.tokenizer.vocabulary()) else {
        return;
    };
    let mut beyond: Vec<(Span, u32)> = Vec::new();
    for part in train.formulas().into_iter().flat_map(Formula::parts) {
        let widest = match &part.0.kind {
            FormulaKind::Signal(Signal::Divergence(divergence))
            | FormulaKind::Live(Live::Divergence(divergence)) => most_entries(&divergence.support),
            FormulaKind::Signal(Signal::Mass { support, .. } | Signal::SupportSize { support })
            | FormulaKind::Live(Live::Ranking { order: support }) => most_entries(support),
            FormulaKind::Signal(Signal::Overlap { k, .. }) => *k,
            _ => 0,
        };
        beyond.extend((widest > size).then(|| (declarations.span(part.0.origin), widest)));
    }
    for rollout in train.rollouts() {
        let drawn = rollout.source.facts().sampling.and_then(|sampling| sampling.top_k);
        let k = drawn.filter(|k| *k > size);
        beyond.extend(k.map(|k| (declarations.span(rollout.source_origin), k)));
    }
    beyond.sort_unstable();
    beyond.dedup();
    for (span, k) in beyond {
        let text = format!("a vocabulary of {size} tokens has no {k} most probable ones");
        // The number of an objective in another file comes from what this stage gives it.
        let (blamed, note) = match settings.value_span("objective") {
            Some(objective) if span.file != objective.file => {
                (objective, (span, "these entries are read here"))
            }
            _ => (span, (settings.span, "trained here")),
        };
        declarations.report(
            Diagnostic::warning(Code::OutOfRange, blamed, text)
                .label(format!("all {size} are used"))
                .note(note.0, note.1)
                .help("lower the number, or leave it out for the whole distribution"),
        );
    }
}

/// The most entries that a `top_k` of a support asks for; 0 if it has none.
fn most_entries(support: &Support) -> u32 {
    match support {
        Support::TopK { k, .. } => *k,
        Support::Union(parts) | Support::Intersection(parts) => {
            parts.iter().map(most_entries).max().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Why a guard can't act in a stage of so many steps.
fn never_acts(guard: &Guard, train: &Train, steps: u32) -> Option<String> {
    let read = guard.condition.parts().into_iter().filter_map(|part| match part.0.kind {
        FormulaKind::Signal(Signal::OfSteps { number, window }) => Some((number, window)),
        _ => None,
    });
    let read: Vec<(StepNumber, StepWindow)> = read.collect();
    if train.options.validation.is_none()
        && read.iter().any(|(number, _)| *number == StepNumber::ValidationLoss)
    {
        return Some("the stage computes no validation loss".to_owned());
    }
    // A mean over a window exists once the window is full.
    let filled = read.iter().map(|(_, window)| match window {
        StepWindow::Now => 1,
        StepWindow::First { steps } | StepWindow::Recent { steps } => *steps,
    });
    let first = filled.max().unwrap_or(1).saturating_sub(1);
    let tested = steps.saturating_sub(first);
    if tested == 0 {
        return Some(format!("it reads a mean over {} steps", first + 1));
    }
    if guard.steps > tested {
        let after =
            if first == 0 { String::new() } else { format!(", of which {first} pass before it is tested") };
        return Some(format!("its condition must hold for {} steps in a row{after}", guard.steps));
    }
    let (_, high) = possible_between(&guard.condition, (first, steps - 1), steps);
    (high <= 0.0).then(|| {
        let condition = text::formula(&guard.condition, 60);
        format!("`{condition}` holds at no step from {first} to {}", steps - 1)
    })
}
