//! Settings of a stage that its other settings have no use for: a variant of a stage leaves some. Each is
//! warned of, and is no part of the stage, so that the stage is the same as without it.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::Role;
use mopd_experiment::{BatchSize, GradientPartition, Recipe, Train};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::reporter::Reporter;

/// Removes what nothing reads, with a warning for each.
pub fn remove_unread(reporter: &mut Reporter, train: &mut Train, settings: &BlockSettings) {
    remove_reference(reporter, train, settings);
    if let (Some(place), None, None) = (settings.key_span("refresh"), &train.filter, &train.priority) {
        train.refresh = None;
        reporter.report(
            Diagnostic::warning(Code::UnusedSetting, place, "`refresh` has no effect here")
                .help("`refresh` says how often `filter` and `priority` are: set one of them, or remove it"),
        );
    }
    remove_alignment(reporter, train);
    remove_micro_batch(reporter, train, settings);
}

fn remove_reference(reporter: &mut Reporter, train: &mut Train, settings: &BlockSettings) {
    // The steps of a `train` inherit its settings, and need not each read them.
    if train.reference.is_empty() || train.recipe == Recipe::Step || train.objective.reads(&Role::Reference) {
        return;
    }
    train.reference.clear();
    let objective = reporter.span(train.objective.origin);
    reporter.report(
        Diagnostic::warning(
            Code::UnusedSetting,
            settings.place(&["reference"]),
            "a reference is named, and the objective never reads it",
        )
        .note(objective, "this objective")
        .help("remove it, or add a term such as `0.1 * live kl(student || reference)`"),
    );
}

/// Where there is only one gradient, there is nothing to compare it with.
fn remove_alignment(reporter: &mut Reporter, train: &mut Train) {
    let Some(alignment) = train.options.alignment else { return };
    let count = |between| match between {
        GradientPartition::Terms => train.objective.terms.len(),
        GradientPartition::Domains => train.mixture.len(),
    };
    if count(alignment.between) > 1 {
        return;
    }
    let (what, other) = match alignment.between {
        GradientPartition::Terms => ("the objective has one term", GradientPartition::Domains),
        GradientPartition::Domains => ("the stage trains on one domain", GradientPartition::Terms),
    };
    let help = match count(other) > 1 {
        true => format!("write `between: {}`, or remove it", other.name()),
        false => "remove it".to_owned(),
    };
    train.options.alignment = None;
    let span = reporter.span(train.origins.alignment);
    let text = format!("{what}: there is no other gradient to compare its own with");
    reporter.report(Diagnostic::warning(Code::UnusedSetting, span, text).help(help));
}

/// Parts of a batch that are larger than the batch.
fn remove_micro_batch(reporter: &mut Reporter, train: &mut Train, settings: &BlockSettings) {
    let sequences = match (train.size, train.options.mini_batches) {
        (BatchSize::Sequences(sequences), 0..=1) => sequences,
        (_, parts) => train.groups().div_ceil(parts.max(1)).saturating_mul(train.rollout.group()),
    };
    let micro_batch = &mut train.options.execution.micro_batch;
    if let Some(larger) = micro_batch.filter(|micro_batch| *micro_batch > sequences) {
        *micro_batch = None;
        let text = format!("`micro_batch` is {larger}, but a step has only {sequences} sequences");
        reporter.report(
            Diagnostic::warning(Code::UnusedSetting, settings.place(&["micro_batch"]), text)
                .help("lower it, or remove it: all sequences are computed at once"),
        );
    }
}
