//! All settings of a plan by name, for tables of runs and for trackers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Names, Plan, Stage, comparison, domain, experiment, stage, values};

/// Every setting of a plan: `seed`, `student.lr`, `math.prompts.path`, `table.samples`. Values are numbers,
/// truth values and texts; what is not set is left out.
pub fn settings(plan: &Plan) -> BTreeMap<String, Value> {
    let names = Names {
        models: plan.experiment.models.iter().map(|model| model.name.clone()).collect(),
        domains: plan.experiment.domains.iter().map(|domain| domain.name.clone()).collect(),
    };
    let mut found = BTreeMap::new();
    let mut whole = experiment(plan);
    // These are not settings of what is computed.
    for name in ["name", "out"] {
        whole[name] = Value::Null;
    }
    collect("", &whole, &mut found);
    for each in &plan.experiment.domains {
        collect(&each.name, &domain(each), &mut found);
    }
    for model in &plan.experiment.models {
        let mut settings = stage(model, &names);
        if let Stage::Train(train) = &model.stage {
            settings["objective"] = json!(train.objective.name);
        }
        collect(&model.name, &settings, &mut found);
    }
    for table in &plan.experiment.comparisons {
        collect(&table.name, &comparison(table, plan, &names), &mut found);
    }
    found
}

fn collect(item: &str, settings: &Value, found: &mut BTreeMap<String, Value>) {
    for (path, value) in values::leaves(settings) {
        let named = |path: &str| if item.is_empty() { path.to_owned() } else { format!("{item}.{path}") };
        // Groups that the language does not have are left out of names, unless two would be the same.
        let short = named(&values::name(&path));
        let name = if found.contains_key(&short) { named(&path.join(".")) } else { short };
        found.insert(name, value);
    }
}
