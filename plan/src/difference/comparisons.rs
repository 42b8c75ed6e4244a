//! Tables, as settings to compare.

use serde_json::{Map, Value, json};

use super::{Names, written};
use crate::{Comparison, Metric, ModelId, TableColumn};

pub(super) fn comparison(comparison: &Comparison, names: &Names) -> Value {
    let Comparison { name: _, rows, columns, normalized, seeds, origin: _ } = comparison;
    let models = |ids: &[ModelId]| ids.iter().map(|id| names.model(*id)).collect::<Vec<Value>>();
    let settings = |column: &TableColumn| {
        let mut settings = written(&column.evaluation);
        if let Value::Object(fields) = &mut settings
            && let Some(Value::Object(sampling)) = fields.remove("sampling")
        {
            fields.extend(sampling);
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
            .map(|row| (row.label.clone(), json!(models(&row.models))))
            .collect::<Map<String, Value>>(),
        "domains": of_columns.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "zero": normalized.as_ref().map(|normalized| models(&normalized.zero)),
        "one": normalized.as_ref().map(|normalized| models(&normalized.one)),
        "seeds": seeds,
        "evaluation": evaluation,
    })
}
