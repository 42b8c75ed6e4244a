//! The costs of all stages together, of one run or of all runs of a sweep.

use std::collections::HashSet;

use mopd_plan::difference::NamedPlan;
use mopd_plan::{Cost, Plan};

use crate::figures::{bytes, count, flops};

/// The last line of a plan. `runs` has one plan, or that of each run of a sweep. Stages with names in
/// `left_out` are not computed, and those with one key are computed once.
pub fn totals(runs: &[NamedPlan], left_out: &[&str]) -> String {
    let mut known = HashSet::new();
    let mut costs: Vec<(&str, Cost)> = Vec::new();
    for NamedPlan { name, plan } in runs {
        for (model, facts) in plan.experiment.models.iter().zip(&plan.stages) {
            let is_computed = !left_out.contains(&model.name.as_str());
            if is_computed && known.insert((plan.experiment.seed, facts.key.as_str())) {
                costs.push((name.as_str(), facts.cost));
            }
        }
    }
    let of = if let [_] = runs { String::new() } else { format!(" of {} runs", runs.len()) };
    // `None` if one of them is not known.
    let sum = |of: fn(&Cost) -> Option<u64>| {
        costs.iter().try_fold(0u64, |sum, (_, cost)| Some(sum.saturating_add(of(cost)?)))
    };
    let work: Option<f64> = costs.iter().map(|(_, cost)| cost.flops).sum();
    let memory = costs.iter().map(|(run, cost)| Some((cost.memory?, *run))).collect::<Option<Vec<_>>>();
    // The first run among equals.
    let largest = memory.and_then(|all| all.into_iter().rev().max_by_key(|(bytes, _)| *bytes));
    let seeds = per_seed(runs);
    let (sequences, tokens) = (sum(|cost| cost.sequences), sum(|cost| cost.tokens));
    let (Some(sequences), Some(tokens), Some(work), Some((memory, run))) = (sequences, tokens, work, largest)
    else {
        let sequences = sequences
            .map(|sequences| format!("at most {} sequences{seeds}; ", count(sequences)))
            .unwrap_or_default();
        return format!("│\n└─ total{of}: {sequences}the cost depends on files that a run reads\n");
    };
    let run = if run.is_empty() { String::new() } else { format!(", with {run},") };
    format!(
        "│\n└─ total{of}: at most {} sequences, {} tokens, {}{seeds}; the largest stage{run} holds {} of \
         weights, gradients and optimizer state\n",
        count(sequences),
        count(tokens),
        flops(work),
        bytes(memory),
    )
}

/// The most times that a stage is computed.
fn seeds(plan: &Plan) -> u32 {
    plan.experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1).max(1)
}

fn per_seed(runs: &[NamedPlan]) -> String {
    let mut each: Vec<u32> = runs.iter().map(|run| seeds(run.plan)).collect();
    each.sort_unstable();
    match (each.first(), each.last()) {
        (Some(1), Some(1)) | (None, _) | (_, None) => String::new(),
        (Some(least), Some(most)) if least == most => format!(" per seed, {most} seeds"),
        (Some(least), Some(most)) => format!(" per seed, {least} to {most} seeds"),
    }
}
