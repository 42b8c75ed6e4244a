//! Tables, as settings to compare.

use serde_json::{Map, Value, json};

use super::{Names, Plan, written};
use crate::{Comparison, Metric, ModelId, Row, TableColumn};

/// The label of a row with the new names of its models: the row of a renamed model is the same row.
fn label(row: &Row, plan: &Plan, names: &Names) -> String {
    let family = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
    let of_models = row.models.iter().map(|id| (family(&plan.experiment.model(*id).name), id));
    let mut renamed = of_models
        .map(|(own, id)| (own == row.label).then(|| family(&names.models[id.0 as usize])))
        .collect::<Option<Vec<String>>>()
        .unwrap_or_default();
    renamed.dedup();
    match renamed.as_slice() {
        [name] => name.clone(),
        _ => row.label.clone(),
    }
}

pub(super) fn comparison(comparison: &Comparison, plan: &Plan, names: &Names) -> Value {
    let Comparison { name: _, rows, columns, normalized, seeds, origin: _ } = comparison;
    let models = |ids: &[ModelId]| ids.iter().map(|id| names.model(*id)).collect::<Vec<Value>>();
    let settings = |column: &TableColumn| {
        let mut settings = written(&column.evaluation);
        if let Value::Object(fields) = &mut settings
            && let Some(Value::Object(sampling)) = fields.remove("sampling")
        {
            fields.extend(sampling);
            super::rename(fields, "n", "samples");
        }
        settings["metrics"] = json!(column.metrics.iter().map(Metric::to_string).collect::<Vec<_>>());
        settings
    };
    let of_columns: Vec<(String, Value)> =
        columns.iter().map(|column| (names.domain(column.domain), settings(column))).collect();
    // Settings that all columns share are compared once.
    let evaluation = match of_columns.first() {
        Some((_, first)) if of_columns.iter().all(|(_, settings)| settings == first) => first.clone(),
        _ => Value::Object(of_columns.iter().cloned().collect()),
    };
    json!({
        "models": rows
            .iter()
            .map(|row| (label(row, plan, names), json!(models(&row.models))))
            .collect::<Map<String, Value>>(),
        "domains": of_columns.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "zero": normalized.as_ref().map(|normalized| models(&normalized.zero)),
        "one": normalized.as_ref().map(|normalized| models(&normalized.one)),
        "seeds": seeds,
        "evaluation": evaluation,
    })
}
