//! The domains' shares of a step's prompts, where they depend on the objective's states.

use mopd_expr::batch::{self, Domains, Layout};
use mopd_plan::events::FailureKind;
use mopd_plan::{Formula, StageStep};

use crate::failure::{Error, Result};
use crate::train::completions::value_of;
use crate::train::objective::States;
use crate::train::stage::StageSources;
use crate::zip::zip_equal;

/// The share of each source. None is negative, and at least one is positive.
pub(super) fn of_step(
    formula: &Formula,
    sources: &StageSources,
    states: &States,
    StageStep { step, steps }: StageStep,
) -> Result<Vec<f64>> {
    let domains = Domains { of_group: Vec::new(), count: sources.len() as u32 };
    let known = batch::Batch {
        layout: Layout { domains: Some(domains), ..Layout::default() },
        signals: states.signals().collect(),
        step,
        steps,
        ..batch::Batch::default()
    };
    let shares = value_of(formula, &known, "`shares`")?;
    let failure = |message, help| Err(Error::new(FailureKind::Runtime, message).help(help));
    for (share, source) in zip_equal(&shares, &**sources) {
        if !share.is_finite() || *share < 0.0 {
            let message = format!(
                "the share of the domain `{}` is {share}; a share must be finite and at least 0",
                source.name
            );
            return failure(message, "bound it, as in `shares = clip(state.gap, 0.01, 1)`");
        }
    }
    let whole: f64 = shares.iter().sum();
    if whole == 0.0 || !whole.is_finite() {
        let message = format!("the `shares` of all domains add up to {whole}, so no prompt can be drawn");
        return failure(message, "add a lower bound, as in `shares = 0.01 + state.gap`");
    }
    Ok(shares)
}
