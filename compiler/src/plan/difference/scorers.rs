//! Scorers by their names.

use serde_json::{Value, json};

use super::objective;
use crate::plan::{Composition, Member, Parameter, Scorers};

/// The plan points into its list of scorers; people know names.
pub fn name_writers(rollout: &mut Value, scorers: &Scorers) {
    let Value::Object(fields) = rollout else { return };
    if let Some(writer) = fields.get_mut("writer")
        && let Ok(role) = serde_json::from_value(writer.clone())
    {
        *writer = json!(scorers.name(role));
    }
    fields.values_mut().for_each(|inside| name_writers(inside, scorers));
}

/// What is made of others: each with its factor.
pub fn composed(composition: &Composition, scorers: &Scorers) -> Value {
    let member = |Member { weight, role }: &Member| {
        let weight = match weight {
            Parameter::Number(number) => json!(number),
            Parameter::Formula(formula) => json!(objective::expression(&formula.graph, formula.value)),
        };
        json!([scorers.name(*role), weight])
    };
    json!({ composition.pool.name(): composition.members.iter().map(member).collect::<Vec<Value>>() })
}
