//! The differences between two files that may sweep: run by run, merged where all runs have the same.

use std::collections::HashSet;

use super::computed::{ComputedStage, KnownResults, computed};
use super::{
    ChangeKind, DifferenceKind, ItemChange, MatchedItems, NamedItem, Plan, PlanDifference, SettingChange,
    difference,
};

/// A run of a file that may sweep.
pub struct NamedPlan<'a> {
    /// Empty without a sweep.
    pub name: String,
    pub plan: &'a Plan,
}

/// The changes from the runs of one file to those of another. Runs are matched by name, then by content. A
/// stage that several runs share counts once.
pub fn of_families(before: &[NamedPlan], after: &[NamedPlan]) -> PlanDifference {
    let meant = |family: &[NamedPlan]| -> Vec<NamedItem> {
        let item = |run: &NamedPlan| NamedItem { name: run.name.clone(), content: run.plan.hash.clone() };
        family.iter().map(item).collect()
    };
    let runs = MatchedItems::new(DifferenceKind::Run, &meant(before), &meant(after));
    // The differences inside matched runs are added below.
    let mut items = runs.changes(|_, _| Default::default());
    items.extend(reordered(before, after, &runs));

    let pairs = after.iter().zip(&runs.before).filter_map(|(new, at)| Some((before[(*at)?].plan, new)));
    let differences: Vec<(&String, PlanDifference)> =
        pairs.map(|(old, new)| (&new.name, difference(old, new.plan))).collect();
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

    let known = KnownResults::new(before.iter().map(|run| run.plan));
    let of_runs: Vec<Vec<ComputedStage>> = after.iter().map(|run| computed(run.plan)).collect();
    let (mut counted, mut reruns) = (HashSet::new(), Vec::new());
    for (NamedPlan { name: run, plan }, stages) in after.iter().zip(&of_runs) {
        for (model, stage) in plan.experiment.models.iter().zip(stages) {
            if counted.insert((&model.name, stage)) && !known.has(stage) {
                // As in tables, the run is named if the stage is not the same in all runs.
                let mut others = after.iter().zip(&of_runs);
                let shared = others.all(|(other, stages)| has(other.plan, stages, &model.name, stage));
                reruns.push(if shared { model.name.clone() } else { format!("{} [{run}]", model.name) });
            }
        }
    }
    PlanDifference { items, reruns, stages: counted.len() }
}

/// A change of the order of the runs, which is the order of the tables' rows.
fn reordered(before: &[NamedPlan], after: &[NamedPlan], runs: &MatchedItems) -> Option<ItemChange> {
    let places: Vec<usize> = runs.before.iter().flatten().copied().collect();
    if places.is_sorted() {
        return None;
    }
    let listed = |family: &[NamedPlan]| {
        Some(family.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join("; "))
    };
    let change =
        SettingChange { what: "order of runs".to_owned(), before: listed(before), after: listed(after) };
    let fate = ChangeKind::Changed { settings: vec![change], objective: Vec::new() };
    Some(ItemChange::new(DifferenceKind::Experiment, &after.first()?.plan.experiment.name, fate))
}

fn has(plan: &Plan, stages: &[ComputedStage], name: &str, stage: &ComputedStage) -> bool {
    plan.experiment.models.iter().zip(stages).any(|(model, own)| model.name == name && own == stage)
}
