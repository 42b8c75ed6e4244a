//! Adapters in the engines, which make them with PEFT.

use mopd_plan::{Adapter, Dtype, Projection};

use super::coverage::Coverage;
use super::stage::ExportSettings;

/// Adds the line of an adapter. Only a run gives the engine the weights that its adapter begins with.
/// `otherwise` says what the engine does where PEFT adapts other matrices.
pub fn report(settings: &ExportSettings, adapter: &Adapter, otherwise: &str, coverage: &mut Coverage) {
    let Adapter { kind, rank, alpha, targets, .. } = adapter;
    let construct = format!("`{}(rank: {rank}, alpha: {alpha})`", kind.name());
    let mut how = Vec::new();
    if !settings.by_run {
        how.push(
            "its initial weights have the same distribution, but are drawn by another generator".to_owned(),
        );
    }
    if settings.dtype == Dtype::Bfloat16 {
        let rounded = "the product with the adapter is rounded by itself and added, where a run computes with \
                       the merged matrix";
        how.push(rounded.to_owned());
    }
    let published = settings.start.as_ref().is_some_and(|start| start.published);
    if published && targets.iter().any(|target| Projection::FEED_FORWARD.contains(target)) {
        how.push(format!("if layers of the model have experts, PEFT adapts other matrices there{otherwise}"));
    }
    match how.as_slice() {
        [] => coverage.exact(construct, settings.origins.model),
        how => coverage.approximate(construct, settings.origins.model, how.join("; ")),
    }
}
