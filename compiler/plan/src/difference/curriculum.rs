//! The choice of prompts, as settings to compare.

use serde_json::{Value, json};

use super::{objective, written};
use crate::{Curriculum, Formula};

pub fn of_formula(formula: &Formula) -> String {
    objective::expression(&formula.graph, formula.value)
}

/// The settings of a choice. `rollout` replaces indices of writers by their names.
pub fn choice_of_prompts(curriculum: &Curriculum, rollout: &dyn Fn(Value) -> Value) -> Value {
    let Curriculum { filter, priority, refresh, rollouts, measures } = curriculum;
    let mut choice = json!({
        "filter": filter.as_ref().map(of_formula),
        "priority": priority.as_ref().map(of_formula),
        "refresh": refresh,
    });
    for (place, measure) in measures.iter().enumerate() {
        let producer = &rollouts[measure.rollout as usize];
        choice[format!("measured[{place}]")] =
            json!({ "value": of_formula(&measure.value), "rollout": rollout(written(producer)) });
    }
    choice
}
