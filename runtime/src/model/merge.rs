//! Weights computed from weights, entry by entry. Sums are taken in f64.

use mopd_plan::MergeMethod;
use mopd_plan::events::FailureKind;
use serde_json::{Map, Value};

use crate::failure::{Error, Result};
use crate::model::{Config, ParameterEntry, Weights, layout};
use crate::random::{Key, Purpose, Uniforms};
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
    if base.is_none() && !matches!(method, MergeMethod::Average) {
        return Err(failure(&format!("{} needs a base model", method.name())));
    }
    let models: Vec<Weights> = models.iter().map(|model| (*model).clone()).collect();
    let thresholds = match (method, base) {
        (MergeMethod::Ties { density, .. }, Some(base)) => {
            models.iter().map(|model| threshold(*density, Changes { base, model })).collect()
        }
        _ => Vec::new(),
    };
    let key = Key::new(seed, stream, Purpose::Drop, 0);
    let rule = MergeRule { method: method.clone(), thresholds, key };
    Ok(Weights::combined(Combination { like: first.clone(), rule, base: base.cloned(), models }))
}

/// A merge, as plain data. Its parameters are computed entry by entry, when they are read, so that a merge of
/// models in files takes the memory of one entry.
#[derive(Debug)]
pub struct Combination {
    /// The model whose configuration and tokenizer it has.
    like: Weights,
    rule: MergeRule,
    base: Option<Weights>,
    models: Vec<Weights>,
}

impl Combination {
    pub(super) fn like(&self) -> &Weights {
        &self.like
    }

    /// The values of an entry.
    pub(super) fn of(&self, entry: &ParameterEntry) -> Vec<f32> {
        let base = self.base.as_ref().map(|base| base.of(entry));
        let models: Vec<_> = self.models.iter().map(|model| model.of(entry)).collect();
        let models: Vec<&[f32]> = models.iter().map(AsRef::as_ref).collect();
        let merged = self.rule.merged(entry.offset, base.as_deref(), &models);
        for model in self.base.iter().chain(&self.models) {
            model.release_entry(entry);
        }
        merged
    }

    pub(super) fn release(&self) {
        self.base.iter().chain(&self.models).for_each(Weights::release);
    }
}

/// How numbers of several models become one.
#[derive(Debug)]
struct MergeRule {
    method: MergeMethod,
    /// For TIES, the smallest change of each model that counts.
    thresholds: Vec<f64>,
    /// DARE's random numbers.
    key: Key,
}

impl MergeRule {
    /// The merge of a part of the models: the numbers from `offset` on in their flat vectors.
    fn merged(&self, offset: usize, base: Option<&[f32]>, models: &[&[f32]]) -> Vec<f32> {
        let Some(base) = base else { return average(models) };
        match self.method {
            MergeMethod::Average => average(models),
            MergeMethod::TaskArithmetic { scale } => {
                combine(base, models, |changes| scale * changes.iter().sum::<f64>())
            }
            MergeMethod::Ties { scale, .. } => ties(base, models, scale, &self.thresholds),
            MergeMethod::Dare { scale, drop } => {
                let row = |model: usize| self.key.row(model as u32, 0).from_draw(offset as u64);
                dare(base, models, scale, drop, (0..models.len()).map(row).collect())
            }
        }
    }
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

/// base + `change(differences of the models)` at every weight.
fn combine(base: &[f32], models: &[&[f32]], mut change: impl FnMut(&mut [f64]) -> f64) -> Vec<f32> {
    let mut changes = vec![0.0; models.len()];
    let merged = base.iter().enumerate().map(|(index, &origin)| {
        let origin = f64::from(origin);
        for (change, model) in changes.iter_mut().zip(models) {
            *change = f64::from(model[index]) - origin;
        }
        (origin + change(&mut changes)) as f32
    });
    merged.collect()
}

/// TIES (arXiv:2306.01708, algorithm 1): of each model only the `density` largest changes count, over all its
/// weights together; the sign with the larger sum wins; the changes of that sign are averaged.
fn ties(base: &[f32], models: &[&[f32]], scale: f64, thresholds: &[f64]) -> Vec<f32> {
    combine(base, models, |changes| {
        for (change, threshold) in changes.iter_mut().zip(thresholds) {
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

/// What training changed.
struct Changes<'a> {
    base: &'a Weights,
    model: &'a Weights,
}

impl Changes<'_> {
    /// Calls `look` with the size of each change.
    fn for_each_size(&self, mut look: impl FnMut(f64)) {
        for entry in layout(&self.base.config) {
            for (&origin, &value) in self.base.of(&entry).iter().zip(&*self.model.of(&entry)) {
                look((f64::from(value) - f64::from(origin)).abs());
            }
            self.base.release_entry(&entry);
            self.model.release_entry(&entry);
        }
    }
}

/// The smallest change that is among the `density` largest; ties at the bound are kept. Sizes are not
/// collected: the bits of numbers that are not negative have the order of the numbers, so the bound is found
/// 16 bits at a time, with a pass over the models for each.
fn threshold(density: f64, changes: Changes) -> f64 {
    const DIGIT: u32 = 16;
    let count = Weights::parameters(&changes.base.config);
    let keep = ((density * count as f64).round() as usize).min(count);
    if keep == 0 {
        return f64::INFINITY;
    }
    // How many sizes with the digits so far are smaller than the bound.
    let mut smaller = (count - keep) as u64;
    let mut bound = 0u64;
    for digit in (0..u64::BITS / DIGIT).rev() {
        let shift = digit * DIGIT;
        let above = |bits: u64| bits.checked_shr(shift + DIGIT);
        let mut counts = vec![0u64; 1 << DIGIT];
        changes.for_each_size(|size| {
            let bits = size.to_bits();
            if above(bits) == above(bound) {
                counts[(bits >> shift) as usize & ((1 << DIGIT) - 1)] += 1;
            }
        });
        for (value, count) in counts.into_iter().enumerate() {
            if smaller < count {
                bound |= (value as u64) << shift;
                break;
            }
            smaller -= count;
        }
    }
    f64::from_bits(bound)
}

/// DARE (arXiv:2311.03099, eq. 2): each change is dropped with probability `drop`, the others grow by 1 / (1
/// - drop), so that the expected change is the same.
fn dare(base: &[f32], models: &[&[f32]], scale: f64, drop: f64, mut rows: Vec<Uniforms>) -> Vec<f32> {
    combine(base, models, |changes| {
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
    use tch::{Device, Kind};

    use super::*;
    use crate::machine::transfer::to_vec;
    use crate::model::Config;
    use crate::model::tests::{random_model, tiny};

    /// A model whose parameters are these numbers and then zeros.
    fn model(values: &[f32]) -> Weights {
        let like = random_model(&tiny(), 1);
        let mut all = vec![0.0; Weights::parameters(&like.config)];
        all[..values.len()].copy_from_slice(values);
        like.with_values(all)
    }

    /// The merge of models that begin with these numbers, as much of it.
    fn merged(
        method: &MergeMethod,
        base: Option<&[f32]>,
        models: &[&[f32]],
        seed: u64,
        stream: u64,
    ) -> Result<Vec<f32>> {
        let (base, count) = (base.map(model), models[0].len());
        let models: Vec<Weights> = models.iter().map(|values| model(values)).collect();
        let models: Vec<&Weights> = models.iter().collect();
        Ok(merge(method, base.as_ref(), &models, seed, stream)?.values()[..count].to_vec())
    }

    /// TIES by its definition: all changes sorted.
    fn ties_by_definition(base: &Weights, models: &[&Weights], scale: f64, density: f64) -> Vec<f32> {
        let base = base.values();
        let changes: Vec<Vec<f64>> = models
            .iter()
            .map(|model| {
                let model = model.values();
                model.iter().zip(&*base).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
            })
            .collect();
        let kept: Vec<Vec<f64>> = changes
            .iter()
            .map(|changes| {
                let mut sizes: Vec<f64> = changes.iter().map(|change| change.abs()).collect();
                sizes.sort_by(|a, b| b.total_cmp(a));
                let bound = sizes[(density * sizes.len() as f64).round() as usize - 1];
                changes.iter().map(|change| if change.abs() >= bound { *change } else { 0.0 }).collect()
            })
            .collect();
        (0..base.len())
            .map(|index| {
                let here: Vec<f64> = kept.iter().map(|changes| changes[index]).collect();
                let sign = here.iter().sum::<f64>();
                let agree: Vec<f64> = here.into_iter().filter(|change| change * sign > 0.0).collect();
                let mean = agree.iter().sum::<f64>() / agree.len().max(1) as f64;
                (f64::from(base[index]) + scale * mean) as f32
            })
            .collect()
    }

    /// All ways to read a merge give the same numbers, in any order of entries: no number depends on which
    /// were read before.
    #[test]
    fn a_merge_is_read_entry_by_entry() {
        let [base, a, b] = [1, 2, 3].map(|seed| random_model(&tiny(), seed));
        for method in [
            MergeMethod::Average,
            MergeMethod::TaskArithmetic { scale: 0.5 },
            MergeMethod::Ties { scale: 0.7, density: 0.3 },
            MergeMethod::Dare { scale: 0.5, drop: 0.4 },
        ] {
            let merged = merge(&method, Some(&base), &[&a, &b], 1, 2).unwrap();
            let all = merged.values().into_owned();
            assert!(all != base.values().into_owned(), "{method:?}");
            for entry in layout(&merged.config).iter().rev() {
                assert_eq!(*merged.of(entry), all[entry.offset..entry.offset + entry.len()], "{method:?}");
            }
            let mut parts = Vec::new();
            merged.for_each_part(|part| parts.extend_from_slice(part));
            assert!(parts == all, "{method:?}");
            assert!(to_vec(&merged.flat(Kind::Float, Device::Cpu)) == all, "{method:?}");
        }
        let dense = merge(&MergeMethod::Ties { scale: 0.7, density: 0.3 }, Some(&base), &[&a, &b], 1, 2);
        assert!(*dense.unwrap().values() == *ties_by_definition(&base, &[&a, &b], 0.7, 0.3));
    }

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
        // Each keeps its three largest changes; the other parameters do not change.
        let a = [3.0, -2.0, 1.0, 0.1, 0.2];
        let b = [1.0, 4.0, 3.0, -0.1, 0.2];
        let c = [-5.0, 0.5, 2.0, 0.1, 0.6];
        // Kept:   a 3 -2 1 . .   b 1 4 3 . .   c -5 . 2 . 0.6
        // Signs:  -1: minus (c)  2: plus (b)  6: plus (all)  .  plus (c)
        let expected = [-5.0, 4.0, 2.0, 0.0, 0.6].map(|change: f32| change * 0.5);
        let three = 3.0 / model(&[]).values().len() as f64;
        let method = MergeMethod::Ties { scale: 0.5, density: three };
        close(merged(&method, Some(&base), &[&a, &b, &c], 0, 0).unwrap(), &expected);
        // With one model and everything kept, the result is that model.
        let method = MergeMethod::Ties { scale: 1.0, density: 1.0 };
        close(merged(&method, Some(&base), &[&a], 0, 0).unwrap(), &a);
        let method = MergeMethod::Ties { scale: 1.0, density: 0.0 };
        close(merged(&method, Some(&base), &[&a, &b], 0, 0).unwrap(), &base);
    }

    #[test]
    fn dare_drops_and_rescales() {
        let n = 8_000;
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
