//! Compares the results of a trial with the expected results in its file of numbers.

use super::{Trial, TrialNumbers};

/// The usual [`TrialNumbers::tolerance`]: single precision, and numbers that people write.
pub(super) const TOLERANCE: f64 = 1e-5;

/// An expectation that is not met.
#[derive(Clone, Debug, PartialEq)]
pub struct UnmetExpectation {
    pub name: String,
    /// The deviation, in words.
    pub what: String,
}

/// `expected` has numbers under the names of a trial's results: `loss`, a `let`, a term, `d loss / d
/// student.logp`, `d loss / d logits`. Each is compared with the f64 and the f32 results.
pub fn differences(trial: &Trial, numbers: &TrialNumbers) -> Vec<UnmetExpectation> {
    let (mut found, exact) = (Vec::new(), numbers.tolerance);
    for (name, expected) in &numbers.expected {
        let mut wrong = |what: String| found.push(UnmetExpectation { name: name.clone(), what });
        let mut wanted = Vec::new();
        if !flatten(expected, &mut wanted) {
            wrong("must be a number or a list of numbers".into());
            continue;
        }
        let Some(computed) = computed(trial, name) else {
            let known: Vec<String> = names(trial).map(|name| format!("`{name}`")).collect();
            wrong(format!("is not an output; the outputs are {}", known.join(", ")));
            continue;
        };
        for (arithmetic, numbers) in computed {
            if numbers.len() != wanted.len() {
                wrong(format!("expected {} numbers, found {}", wanted.len(), numbers.len()));
                break;
            }
            let largest = wanted.iter().fold(0.0_f64, |largest, wanted| largest.max(wanted.abs()));
            let tolerance = if arithmetic == "f64" { exact } else { exact.max(TOLERANCE) };
            let bound = tolerance * if largest > 0.0 { largest } else { 1.0 };
            // NaN agrees with nothing.
            let agrees = |wanted: f64, found: f64| (wanted - found).abs() <= bound;
            let pairs = wanted.iter().zip(&numbers).enumerate();
            let mut differing = pairs.filter(|(_, (wanted, found))| !agrees(**wanted, **found));
            if let Some((index, (wanted, found))) = differing.next() {
                let place =
                    if numbers.len() == 1 { String::new() } else { format!("number {}: ", index + 1) };
                let more = match differing.count() {
                    0 => String::new(),
                    more => format!(", and {more} more"),
                };
                wrong(format!("{place}expected {wanted}, found {found} in {arithmetic}{more}"));
            }
        }
    }
    found
}

fn names(trial: &Trial) -> impl Iterator<Item = String> {
    let parts = trial.parts.iter().map(|part| part.name.clone());
    let gradients = trial.gradients.iter().map(|gradient| format!("d loss / d {}", gradient.name));
    let logits = trial.logits.iter().map(|_| "d loss / d logits".to_owned());
    std::iter::once("loss".to_owned()).chain(parts).chain(gradients).chain(logits)
}

/// The results with a name, one list per arithmetic.
fn computed(trial: &Trial, name: &str) -> Option<Vec<(&'static str, Vec<f64>)>> {
    if name == "d loss / d logits" {
        return Some(vec![("f64", trial.logits.as_ref()?.concat())]);
    }
    let by = name.strip_prefix("d loss / d ");
    let value = match by {
        Some(by) => trial.gradients.iter().find(|gradient| gradient.name == by)?,
        None if name == "loss" => &trial.loss,
        None => trial.parts.iter().find(|part| part.name == name)?,
    };
    let single = value.f32.as_ref().map(|numbers| ("f32", numbers.iter().map(|x| f64::from(*x)).collect()));
    Some(std::iter::once(("f64", value.f64.clone())).chain(single).collect())
}

/// Appends nested lists in order; returns whether they contain only numbers.
fn flatten(value: &serde_json::Value, into: &mut Vec<f64>) -> bool {
    match value {
        serde_json::Value::Array(rows) => rows.iter().all(|row| flatten(row, into)),
        serde_json::Value::Bool(truth) => {
            into.push(f64::from(u8::from(*truth)));
            true
        }
        value => value.as_f64().map(|number| into.push(number)).is_some(),
    }
}
