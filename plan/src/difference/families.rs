//! The differences between two files that may sweep: run by run, merged where all runs have the same.

use std::collections::HashSet;

use super::{
    ChangeKind, DifferenceKind, ItemChange, MatchedItems, Plan, PlanDifference, SettingChange, difference,
};

/// The changes from the runs of one file to those of another. Each run has a name, which is empty without a
/// sweep. Runs are matched by name, then by content. A stage that several runs share counts once.
pub fn of_families(before: &[(String, &Plan)], after: &[(String, &Plan)]) -> PlanDifference {
    let meant = |family: &[(String, &Plan)]| -> Vec<(String, String)> {
        family.iter().map(|(name, plan)| (name.clone(), plan.hash.clone())).collect()
    };
    let runs = MatchedItems::new(DifferenceKind::Run, &meant(before), &meant(after));
    // The differences inside matched runs are added below.
    let mut items = runs.changes(|_, _| Default::default());
    items.extend(reordered(before, after, &runs));

    let pairs =
        after.iter().zip(&runs.before).filter_map(|((name, plan), at)| Some((name, before[(*at)?].1, *plan)));
    let differences: Vec<(&String, PlanDifference)> =
        pairs.map(|(name, old, new)| (name, difference(old, new))).collect();
    let several = differences.len();
    let mut found: Vec<ItemChange> = Vec::new();
    for (name, PlanDifference { items, .. }) in differences {
        for item in items {
            match found
                .iter_mut()
                .find(|known| (known.kind, &known.name, &known.fate) == (item.kind, &item.name, &item.fate))
            {
                Some(known) => known.runs.push(name.clone()),
                None => found.push(ItemChange { runs: vec![name.clone()], ..item }),
            }
        }
    }
    for item in found.iter_mut().filter(|item| item.runs.len() == several) {
        item.runs.clear();
    }
    items.extend(found);

    let known: HashSet<&str> =
        before.iter().flat_map(|(_, plan)| plan.stages.iter().map(|facts| facts.key.as_str())).collect();
    let (mut counted, mut reruns) = (HashSet::new(), Vec::new());
    for (run, plan) in after {
        for (model, facts) in plan.experiment.models.iter().zip(&plan.stages) {
            if counted.insert((&model.name, &facts.key)) && !known.contains(facts.key.as_str()) {
                // As in tables, the run is named if the stage is not the same in all runs.
                let shared = after.iter().all(|(_, other)| has(other, &model.name, &facts.key));
                reruns.push(if shared { model.name.clone() } else { format!("{} [{run}]", model.name) });
            }
        }
    }
    PlanDifference { items, reruns, stages: counted.len() }
}

/// A change of the order of the runs, which is the order of the tables' rows.
fn reordered(
    before: &[(String, &Plan)],
    after: &[(String, &Plan)],
    runs: &MatchedItems,
) -> Option<ItemChange> {
    let places: Vec<usize> = runs.before.iter().flatten().copied().collect();
    if places.is_sorted() {
        return None;
    }
    let listed = |family: &[(String, &Plan)]| {
        Some(family.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("; "))
    };
    let change =
        SettingChange { what: "order of runs".to_owned(), before: listed(before), after: listed(after) };
    let fate = ChangeKind::Changed { settings: vec![change], objective: Vec::new() };
    Some(ItemChange::new(DifferenceKind::Experiment, &after.first()?.1.experiment.name, fate))
}

fn has(plan: &Plan, name: &str, key: &str) -> bool {
    plan.experiment
        .models
        .iter()
        .zip(&plan.stages)
        .any(|(model, facts)| model.name == name && facts.key == key)
}
