//! Replaces indices of scorers by their names.

use serde_json::{Map, Value, json};

use super::{Names, objective, written};
use crate::{
    Composition, DataFormula, DivergenceParameter, DomainId, Feedback, Member, Objective, Panel, Scorers,
    Teacher, TeacherChoice, Train,
};

/// Replaces the plan's indices into the list of scorers by names, for people.
pub fn name_writers(rollout: &mut Value, scorers: &Scorers) {
    let fields = match rollout {
        Value::Object(fields) => fields,
        Value::Array(list) => return list.iter_mut().for_each(|inside| name_writers(inside, scorers)),
        _ => return,
    };
    if let Some(writer) = fields.get_mut("writer")
        && let Ok(role) = serde_json::from_value(writer.clone())
    {
        *writer = json!(scorers.name(role));
    }
    fields.values_mut().for_each(|inside| name_writers(inside, scorers));
}

/// A composition as settings: each member with its factor.
pub fn composed(composition: &Composition, scorers: &Scorers) -> Value {
    let member = |Member { weight, role }: &Member| {
        let weight = match weight {
            DivergenceParameter::Number(number) => json!(number),
            DivergenceParameter::Formula(formula) => {
                json!(objective::expression(&formula.graph, formula.value))
            }
        };
        json!([scorers.name(*role), weight])
    };
    json!({ composition.pool.name(): composition.members.iter().map(member).collect::<Vec<Value>>() })
}

/// Panels by name. The templates of their members are reported with the scorers.
pub fn panels(panels: &[Panel], scorers: &Scorers) -> Value {
    let panel = |Panel { name, members, rounds, sampling, confidence }: &Panel| {
        let settings = json!({
            "members": members.iter().map(|role| scorers.name(*role)).collect::<Vec<String>>(),
            "rounds": rounds,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "confidence": confidence,
        });
        (name.clone(), settings)
    };
    Value::Object(panels.iter().map(panel).collect::<Map<String, Value>>())
}

/// The feedback about completions, by the teachers that see it.
pub fn feedback(feedback: &[Feedback], scorers: &Scorers) -> Value {
    let one = |Feedback { name, writer, sees, sampling }: &Feedback| {
        let settings = json!({
            "from": scorers.name(*writer),
            "sees": sees.as_ref().map(|view| &view.pieces),
            "sampling": sampling,
        });
        (name.clone(), settings)
    };
    Value::Object(feedback.iter().map(one).collect::<Map<String, Value>>())
}

/// A teacher of a route or a named one, with its template.
pub fn teacher(choice: &TeacherChoice, scorers: &Scorers, names: &Names) -> Value {
    let weights = match &choice.teacher {
        Teacher::Model(model) => names.model(*model),
        Teacher::Student(copy) => json!({ "student": written(copy) }),
        Teacher::Composed(composition) => composed(composition, scorers),
        Teacher::Learner { learner, .. } => json!({ "trained beside": learner }),
        Teacher::Served(served) => json!({ "served": written(served) }),
    };
    if choice.sees.is_none() && !choice.own_tokens {
        return weights;
    }
    let sees = choice.sees.as_ref().map(|view| written(&view.pieces));
    json!({ "weights": weights, "sees": sees, "align": choice.own_tokens.then_some("tokens") })
}

/// The teachers of a domain in the order of the route, which has a meaning.
pub fn arms(train: &Train<Objective>, domain: DomainId, names: &Names) -> Value {
    let teacher = |choice: &TeacherChoice| teacher(choice, &train.scorers, names);
    let condition =
        |choice: &TeacherChoice| choice.when.as_ref().map_or_else(|| "else".to_owned(), DataFormula::text);
    let arm = |choice: &TeacherChoice| json!({ format!("{} ->", condition(choice)): teacher(choice) });
    match train.arms(domain).collect::<Vec<_>>().as_slice() {
        [all] => teacher(all),
        arms => arms.iter().copied().map(arm).collect(),
    }
}
