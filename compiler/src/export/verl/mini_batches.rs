//! Several mini-batches. verl's steps are batches, here they are updates.

use crate::export::coverage::Coverage;
use crate::export::stage::ExportSettings;

pub fn report(settings: &ExportSettings, coverage: &mut Coverage) {
    let (parts, at) = (settings.train.options.mini_batches, settings.origins.model);
    if parts <= 1 {
        return;
    }
    let construct = format!("`mini_batches = {parts}`");
    if !settings.groups.is_multiple_of(parts) {
        let why = "verl's mini-batches have one size: choose a divisor of the prompts of a batch";
        coverage.refuse(construct, at, why);
    } else if settings.steps.is_some_and(|steps| !steps.is_multiple_of(parts)) {
        let why = "verl finishes every batch: choose a multiple of `mini_batches` as `steps`";
        coverage.refuse(construct, at, why);
    } else {
        let how = "verl divides a batch in the order of its rows, mopd at random";
        coverage.approximate(construct, at, how);
    }
}
