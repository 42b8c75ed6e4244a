//! Adapters in the engines, which make them with PEFT.

use mopd_plan::{Adapter, Projection};

use super::coverage::Coverage;
use super::stage::ExportSettings;

/// Adds the line of an adapter. `otherwise` says what the engine does where PEFT adapts other matrices.
pub fn report(settings: &ExportSettings, adapter: &Adapter, otherwise: &str, coverage: &mut Coverage) {
    let Adapter { kind, rank, alpha, targets, .. } = adapter;
    let construct = format!("`{}(rank: {rank}, alpha: {alpha})`", kind.name());
    let at = settings.origins.model;
    let published = settings.start.as_ref().is_some_and(|start| start.published);
    if published && targets.iter().any(|target| Projection::FEED_FORWARD.contains(target)) {
        let how = format!("if layers of the model have experts, PEFT adapts other matrices there{otherwise}");
        coverage.approximate(construct, at, how);
    } else {
        coverage.exact(construct, at);
    }
}
