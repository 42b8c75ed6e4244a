//! Weights computed from weights. Sums are taken in f64.

use mopd_plan::MergeMethod;
use mopd_plan::events::FailureKind;
use serde_json::{Map, Value};

use crate::failure::{Error, Result};
use crate::model::{Config, Weights};
use crate::random::{Key, Purpose};
use crate::tokenizer::{ONE_VOCABULARY, Tokenizer, TokenizerDifference, vocabulary_difference};

/// Merges `models` (at least one). `base` is the ancestor that differences are taken from; the plain average
/// needs none. `seed` and `stream` select DARE's random numbers.
pub fn merge(
    method: &MergeMethod,
    base: Option<&Weights>,
    models: &[&Weights],
    seed: u64,
    stream: u64,
) -> Result<Weights> {
    let first = base.or(models.first().copied()).ok_or_else(|| failure("a merge of no models"))?;
    // `prepare::merges` asks the same before anything is trained, and knows the models' names.
    for other in models {
        let models = [first, *other];
        let configs = models.map(|model| &*model.config);
        if let Some(conflict) = MergeConflict::find(configs, models.map(|model| &*model.tokenizer)) {
            return Err(conflict.between(["a model", "another one"]));
        }
    }
    let base = base.map(Weights::values);
    let models: Vec<_> = models.iter().map(|model| model.values()).collect();
    let models: Vec<&[f32]> = models.iter().map(AsRef::as_ref).collect();
    Ok(first.with_values(merged(method, base.as_deref(), &models, seed, stream)?))
}

/// Why two models can't be merged: a weight of one has another meaning in the other.
#[derive(Debug, PartialEq)]
pub enum MergeConflict {
    /// Whether the first or the second has a scalar head, and the other has none.
    ScalarHead([bool; 2]),
    Settings(Vec<String>),
    Vocabulary(TokenizerDifference),
}

impl MergeConflict {
    /// The first conflict of two models, if there is one.
    pub fn find(configs: [&Config; 2], tokenizers: [&Tokenizer; 2]) -> Option<MergeConflict> {
        let heads = configs.map(|config| config.scalar_head);
        if heads[0] != heads[1] {
            return Some(MergeConflict::ScalarHead(heads));
        }
        let settings = differing_settings(configs[0], configs[1]);
        if !settings.is_empty() {
            return Some(MergeConflict::Settings(settings));
        }
        vocabulary_difference(tokenizers[0], tokenizers[1]).map(MergeConflict::Vocabulary)
    }

    /// The error of a merge of these two, by their names.
    pub fn between(&self, [one, other]: [&str; 2]) -> Error {
        let (why, help) = match self {
            MergeConflict::ScalarHead(has) => {
                let [with, without] = if has[0] { [one, other] } else { [other, one] };
                let help = "merge models that all have a scalar head, or models without one";
                (format!("{with} has a scalar head, {without} has none"), help)
            }
            MergeConflict::Settings(settings) => (
                format!("they have different architectures: {}", settings.join(", ")),
                "only weights of one architecture can be merged",
            ),
            MergeConflict::Vocabulary(difference) => (
                format!("they have different tokenizers: {}", difference.between(one, other)),
                ONE_VOCABULARY,
            ),
        };
        failure(&format!("{one} and {other} can't be merged: {why}")).help(help)
    }
}

/// The settings in which two configurations differ, with both values where they are short. The deviation of
/// random initial weights is left out: trained weights don't depend on it.
fn differing_settings(one: &Config, other: &Config) -> Vec<String> {
    let settings = |config: &Config| match serde_json::to_value(config) {
        Ok(Value::Object(settings)) => settings,
        _ => Map::new(),
    };
    let (one, other) = (settings(one), settings(other));
    let short = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Some("none".to_owned()),
        Some(Value::Array(_) | Value::Object(_)) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(value) => Some(value.to_string()),
    };
    let mut names: Vec<&String> = one.keys().chain(other.keys()).collect();
    names.sort();
    names.dedup();
    let differ = names.into_iter().filter(|name| *name != "initial_deviation");
    let differ = differ.filter(|name| one.get(*name) != other.get(*name));
    let said = differ.map(|name| match (short(one.get(name)), short(other.get(name))) {
        (Some(one), Some(other)) => format!("`{name}` ({one} and {other})"),
        _ => format!("`{name}`"),
    });
    said.collect()
}

fn merged(
    method: &MergeMethod,
    base: Option<&[f32]>,
    models: &[&[f32]],
    seed: u64,
    stream: u64,
) -> Result<Vec<f32>> {
    let base = || base.ok_or_else(|| failure(&format!("{} needs a base model", method.name())));
    Ok(match *method {
        MergeMethod::Average => average(models),
        MergeMethod::TaskArithmetic { scale } => {
            combine(base()?, models, |_, changes| scale * changes.iter().sum::<f64>())
        }
        MergeMethod::Ties { scale, density } => ties(base()?, models, scale, density),
        MergeMethod::Dare { scale, drop } => dare(base()?, models, scale, drop, seed, stream),
    })
}

fn failure(message: &str) -> Error {
    Error::new(FailureKind::Runtime, message)
}

fn average(models: &[&[f32]]) -> Vec<f32> {
    let mean = |index: usize| {
        let sum: f64 = models.iter().map(|model| f64::from(model[index])).sum();
        (sum / models.len() as f64) as f32
    };
    (0..models[0].len()).map(mean).collect()
}

/// base + `change(index, differences of the models)` at every weight.
fn combine(base: &[f32], models: &[&[f32]], mut change: impl FnMut(usize, &mut [f64]) -> f64) -> Vec<f32> {
    let mut changes = vec![0.0; models.len()];
    let merged = base.iter().enumerate().map(|(index, &origin)| {
        let origin = f64::from(origin);
        for (change, model) in changes.iter_mut().zip(models) {
            *change = f64::from(model[index]) - origin;
        }
        (origin + change(index, &mut changes)) as f32
    });
    merged.collect()
}

/// TIES (arXiv:2306.01708, algorithm 1): of each model only the `density` largest changes count, over all its
/// weights together; the sign with the larger sum wins; the changes of that sign are averaged.
fn ties(base: &[f32], models: &[&[f32]], scale: f64, density: f64) -> Vec<f32> {
    let thresholds: Vec<f64> = models.iter().map(|model| threshold(base, model, density)).collect();
    combine(base, models, |_, changes| {
        for (change, threshold) in changes.iter_mut().zip(&thresholds) {
            if change.abs() < *threshold {
                *change = 0.0;
            }
        }
        let elected = changes.iter().sum::<f64>();
        let agreeing = changes.iter().filter(|&&change| change * elected > 0.0);
        let (sum, count) = agreeing.fold((0.0, 0u32), |(sum, count), change| (sum + change, count + 1));
        scale * sum / f64::from(count.max(1))
    })
}

/// The smallest change that is among the `density` largest; ties at the bound are kept.
fn threshold(base: &[f32], model: &[f32], density: f64) -> f64 {
    let mut sizes: Vec<f64> = base
        .iter()
        .zip(model)
        .map(|(&origin, &value)| (f64::from(value) - f64::from(origin)).abs())
        .collect();
    let keep = ((density * sizes.len() as f64).round() as usize).min(sizes.len());
    if keep == 0 {
        return f64::INFINITY;
    }
    let place = sizes.len() - keep;
    let (_, bound, _) = sizes.select_nth_unstable_by(place, f64::total_cmp);
    *bound
}

/// DARE (arXiv:2311.03099, eq. 2): each change is dropped with probability `drop`, the others grow by 1 / (1
/// - drop), so that the expected change is the same.
fn dare(base: &[f32], models: &[&[f32]], scale: f64, drop: f64, seed: u64, stream: u64) -> Vec<f32> {
    let mut rows: Vec<_> = (0..models.len())
        .map(|model| Key::new(seed, stream, Purpose::Drop, 0).row(model as u32, 0))
        .collect();
    combine(base, models, |_, changes| {
        let mut sum = 0.0;
        for (change, row) in changes.iter().zip(&mut rows) {
            if row.uniform() >= drop {
                sum += change / (1.0 - drop);
            }
        }
        scale * sum
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::model::tests::{random_model, tiny};

    #[track_caller]
    fn close(merged: Vec<f32>, expected: &[f32]) {
        assert_eq!(merged.len(), expected.len());
        for (a, b) in merged.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{:?} {expected:?}", merged);
        }
    }

    #[test]
    fn average_and_task_arithmetic_equal_hand_computed_values() {
        let (base, a, b) = (([1.0, 2.0]), ([2.0, 2.0]), ([4.0, 0.0]));
        close(merged(&MergeMethod::Average, None, &[&a, &b], 0, 0).unwrap(), &[3.0, 1.0]);
        let method = MergeMethod::TaskArithmetic { scale: 0.5 };
        close(
            merged(&method, Some(&base), &[&a, &b], 0, 0).unwrap(),
            &[1.0 + 0.5 * (1.0 + 3.0), 2.0 + 0.5 * (0.0 - 2.0)],
        );
    }

    #[test]
    fn ties_merge_equals_hand_computed_values() {
        let base = [0.0; 5];
        // At density 0.6 each keeps its three largest changes.
        let a = [3.0, -2.0, 1.0, 0.1, 0.2];
        let b = [1.0, 4.0, 3.0, -0.1, 0.2];
        let c = [-5.0, 0.5, 2.0, 0.1, 0.6];
        // Kept:   a 3 -2 1 . .   b 1 4 3 . .   c -5 . 2 . 0.6
        // Signs:  -1: minus (c)  2: plus (b)  6: plus (all)  .  plus (c)
        let expected = [-5.0, 4.0, 2.0, 0.0, 0.6].map(|change: f32| change * 0.5);
        let method = MergeMethod::Ties { scale: 0.5, density: 0.6 };
        close(merged(&method, Some(&base), &[&a, &b, &c], 0, 0).unwrap(), &expected);
        // With one model and everything kept, the result is that model.
        let method = MergeMethod::Ties { scale: 1.0, density: 1.0 };
        close(merged(&method, Some(&base), &[&a], 0, 0).unwrap(), &a);
        let method = MergeMethod::Ties { scale: 1.0, density: 0.0 };
        close(merged(&method, Some(&base), &[&a, &b], 0, 0).unwrap(), &base);
    }

    #[test]
    fn dare_drops_and_rescales() {
        let n = 10_000;
        let (base, a, b) = ((vec![1.0; n]), (vec![2.0; n]), (vec![1.0; n]));
        let method = MergeMethod::Dare { scale: 0.5, drop: 0.75 };
        let values = merged(&method, Some(&base), &[&a, &b], 1, 2).unwrap();
        assert_eq!(values, merged(&method, Some(&base), &[&a, &b], 1, 2).unwrap());
        assert_ne!(values, merged(&method, Some(&base), &[&a, &b], 2, 2).unwrap());
        // A kept change of 1 becomes 4, and the scale makes it 2.
        assert!(values.iter().all(|&value| value == 1.0 || value == 3.0));
        let kept = values.iter().filter(|&&value| value == 3.0).count() as f64 / n as f64;
        assert!((kept - 0.25).abs() < 0.02, "{kept}");
        let method = MergeMethod::Dare { scale: 1.0, drop: 0.0 };
        close(merged(&method, Some(&base), &[&a, &b], 1, 2).unwrap(), &a);
    }

    #[test]
    fn models_that_do_not_fit_are_refused() {
        let a = random_model(&tiny(), 1);
        let b = random_model(&Config { layers: 1, attention: tiny().attention[..1].to_vec(), ..tiny() }, 1);
        let error = merge(&MergeMethod::Average, None, &[&a, &b], 0, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a model and another one can't be merged: they have different architectures: `attention`, \
            `layers` (2 and 1)"
        );
        let mut c = random_model(&tiny(), 1);
        c.tokenizer = std::sync::Arc::new(crate::tokenizer::tests::pretrained("qwen3"));
        let error = merge(&MergeMethod::Average, None, &[&a, &c], 0, 0).unwrap_err();
        assert!(error.to_string().contains("they have different tokenizers"), "{error}");
        let error = merge(&MergeMethod::Ties { scale: 1.0, density: 0.2 }, None, &[&a], 0, 0).unwrap_err();
        assert_eq!(error.to_string(), "ties needs a base model");
    }
}
