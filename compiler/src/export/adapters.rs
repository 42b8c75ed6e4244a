//! Adapters in the engines, which make them with PEFT.

use mopd_plan::{Adapter, Dtype, Projection};

use super::coverage::Coverage;
use super::stage::ExportSettings;

/// Adds the line of an adapter, whose initial weights are never those of a run. `otherwise` says what the
/// engine does where PEFT adapts other matrices.
pub fn report(settings: &ExportSettings, adapter: &Adapter, otherwise: &str, coverage: &mut Coverage) {
    let Adapter { kind, rank, alpha, targets, .. } = adapter;
    let construct = format!("`{}(rank: {rank}, alpha: {alpha})`", kind.name());
    let mut how =
        "its initial weights have the same distribution, but are drawn by another generator".to_owned();
    if settings.dtype == Dtype::Bfloat16 {
        how += "; the product with the adapter is rounded by itself and added, where a run computes with the \
                merged matrix";
    }
    let published = settings.start.as_ref().is_some_and(|start| start.published);
    if published && targets.iter().any(|target| Projection::FEED_FORWARD.contains(target)) {
        how += &format!("; if layers of the model have experts, PEFT adapts other matrices there{otherwise}");
    }
    coverage.approximate(construct, settings.origins.model, how);
}
