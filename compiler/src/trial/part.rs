//! Selects a part of an objective. The numbers are for one batch of completions, hence for the terms trained
//! on it. The objective's loss is the sum over its batches.

use mopd_experiment::Objective;

/// The part of the objective that consists of `terms`. Without names there must be a single part.
///
/// # Errors
/// If the names are not exactly the terms on one batch.
pub(super) fn chosen(objective: &Objective, terms: &[String]) -> Result<Objective, String> {
    let mut parts = objective.parts();
    let consists = |part: &Objective| {
        part.terms.len() == terms.len() && part.terms.iter().all(|term| terms.contains(&term.name))
    };
    if let Some(part) = parts.iter().position(consists) {
        return Ok(parts.swap_remove(part));
    }
    if terms.is_empty() && parts.len() < 2 {
        return Ok(objective.clone());
    }
    let listed = parts.iter().map(|part| {
        let names: Vec<String> = part.terms.iter().map(|term| format!("\"{}\"", term.name)).collect();
        format!("`\"terms\": [{}]`", names.join(", "))
    });
    let choices = listed.collect::<Vec<String>>().join(" or ");
    Err(match terms {
        [] => format!(
            "its terms have completions of their own; say which of them the prompts are of: {choices}"
        ),
        _ => format!("`terms` must be all those on the same completions: {choices}"),
    })
}
