//! Terms with completions of their own: numbers are of one batch of completions, so of the terms on it. The loss of
//! the objective is the sum over its batches.

use mopd_lang::experiment::Objective;

/// The objective for each of its batches, in the order of their first terms, with the terms on it alone.
pub(super) fn parts(objective: &Objective) -> Vec<Objective> {
    let mut parts: Vec<Objective> = Vec::new();
    for term in &objective.terms {
        let known = parts.iter_mut().find(|part| part.terms[0].completions() == term.completions());
        match known {
            Some(part) => part.terms.push(term.clone()),
            None => parts.push(Objective { terms: vec![term.clone()], ..objective.clone() }),
        }
    }
    if parts.is_empty() { vec![objective.clone()] } else { parts }
}

/// The part that consists of `terms`. Where none are named, there is only one.
///
/// # Errors
/// Names that are not all the terms on one batch.
pub(super) fn chosen(objective: &Objective, terms: &[String]) -> Result<Objective, String> {
    let mut parts = parts(objective);
    let consists = |part: &Objective| {
        part.terms.len() == terms.len() && part.terms.iter().all(|term| terms.contains(&term.name))
    };
    if let Some(part) = parts.iter().position(consists) {
        return Ok(parts.swap_remove(part));
    }
    if terms.is_empty() && parts.len() == 1 {
        return Ok(parts.swap_remove(0));
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
