//! Weights as plain data: one flat vector, in memory, in mapped files or computed when it is read, and
//! the layout that names its parts. Threads, merges and the store use this form; [`super::Decoder`] turns it
//! into tensors.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::adapter::Merged;
use super::merge::Combination;
use super::parameter_data::{EntryParts, ParameterData};
use super::{Config, EntryKind, ParameterEntry, layout};
use crate::mapped::MappedTensor;
use crate::random::{Key, Purpose};
use crate::tokenizer::Tokenizer;

/// The weights of one model, and the tokenizer whose ids index its embedding.
#[derive(Clone, Debug)]
pub struct Weights {
    pub config: Arc<Config>,
    pub tokenizer: Arc<Tokenizer>,
    numbers: ParameterData,
}

impl Weights {
    /// `values` are in the order of [`layout`], as many as it has.
    pub fn new(config: Arc<Config>, tokenizer: Arc<Tokenizer>, values: Vec<f32>) -> Weights {
        assert_eq!(values.len(), Weights::parameters(&config), "weights of another configuration");
        Weights { config, tokenizer, numbers: ParameterData::Owned(Arc::new(values)) }
    }

    /// Weights that stay in their files; `parts` are in the order of [`layout`], one per entry.
    pub fn stored(config: Arc<Config>, tokenizer: Arc<Tokenizer>, parts: Vec<MappedTensor>) -> Weights {
        let numbers = ParameterData::Stored(Arc::new(EntryParts::new(parts)));
        assert_eq!(numbers.len(), Weights::parameters(&config), "weights of another configuration");
        Weights { config, tokenizer, numbers }
    }

    /// A model with an adapter.
    pub fn merged(merged: Merged) -> Weights {
        let Weights { config, tokenizer, .. } = (**merged.base()).clone();
        Weights { config, tokenizer, numbers: ParameterData::Merged(Arc::new(merged)) }
    }

    /// A merge of models.
    pub fn combined(combination: Combination) -> Weights {
        let Weights { config, tokenizer, .. } = combination.like().clone();
        Weights { config, tokenizer, numbers: ParameterData::Combined(Arc::new(combination)) }
    }

    /// The adapter and the model that it changes; `None` for weights without one.
    pub fn adapted(&self) -> Option<&Merged> {
        if let ParameterData::Merged(merged) = &self.numbers { Some(merged) } else { None }
    }

    /// Whether both have one copy of the numbers in memory, or one file.
    pub fn shares_numbers(&self, other: &Weights) -> bool {
        self.config == other.config && self.numbers.is_shared(&other.numbers)
    }

    /// The same model with other values.
    pub fn with_values(&self, values: Vec<f32>) -> Weights {
        Weights::new(self.config.clone(), self.tokenizer.clone(), values)
    }

    /// All weights in the order of [`layout`]; a copy if they are in files or merged.
    pub fn values(&self) -> Cow<'_, [f32]> {
        self.numbers.values()
    }

    /// The weights of one entry, without a copy where they are stored as f32.
    pub fn of(&self, entry: &ParameterEntry) -> Cow<'_, [f32]> {
        self.numbers.of(entry)
    }

    /// All weights as one vector of a floating-point `kind` on a device, in the order of [`layout`]. Files
    /// are read directly into it, and their memory is released.
    pub fn flat(&self, kind: Kind, device: Device) -> Tensor {
        self.vector(0..self.numbers.len(), kind, device)
    }

    /// The same for a range of whole entries.
    pub fn vector(&self, range: Range<usize>, kind: Kind, device: Device) -> Tensor {
        self.numbers.vector(range, kind, device)
    }

    /// Calls `look` with all weights in single precision, part by part in the order of [`layout`].
    pub fn for_each_part(&self, look: impl FnMut(&[f32])) {
        self.numbers.for_each_part(look);
    }

    /// Releases the memory of mapped files that were read; they can be read again.
    pub fn release(&self) {
        self.numbers.release();
    }

    /// The same of one entry.
    pub fn release_entry(&self, entry: &ParameterEntry) {
        if let Some(part) = self.in_file(entry) {
            part.release();
        }
    }

    /// Random weights: matrices and convolutions normal with the configuration's initial deviation, biases at
    /// 0, the rest at 1.
    pub fn initialise(config: Arc<Config>, tokenizer: Arc<Tokenizer>, seed: u64, stream: u64) -> Weights {
        let entries = layout(&config);
        let key = Key::new(seed, stream, Purpose::Initialise, 0);
        let mut values = Vec::with_capacity(entries.last().map_or(0, |last| last.offset + last.len()));
        for (index, entry) in entries.iter().enumerate() {
            let constant = match entry.kind {
                EntryKind::Matrix | EntryKind::Convolution => None,
                EntryKind::Bias => Some(0.0),
                EntryKind::Norm => Some(1.0 - config.norm.offset as f32),
                EntryKind::Delta => Some(1.0),
            };
            if let Some(constant) = constant {
                values.resize(values.len() + entry.len(), constant);
                continue;
            }
            let mut normals = key.row(index as u32, 0);
            let end = entry.offset + entry.len();
            while values.len() < end {
                for normal in normals.normals() {
                    if values.len() < end {
                        values.push((normal * config.initial_deviation) as f32);
                    }
                }
            }
        }
        Weights::new(config, tokenizer, values)
    }

    /// The same model with a scalar head, if it has none. The new head is 0, so that its first outputs are 0.
    pub fn with_scalar_head(self: &Arc<Weights>) -> Arc<Weights> {
        self.reshaped(Config { scalar_head: true, ..(*self.config).clone() }, |entry| vec![0.0; entry.len()])
    }

    /// The same model with a second head, if it has none. At first its hidden states equal the first head's,
    /// and its acceptance probability is 1/2.
    pub fn with_second_head(self: &Arc<Weights>, key: Key) -> Arc<Weights> {
        let config = Config { second_head: true, ..(*self.config).clone() };
        let deviation = config.initial_deviation;
        self.reshaped(config, |entry| {
            if !entry.is_second_head_input() {
                return vec![0.0; entry.len()];
            }
            let mut values = Vec::with_capacity(entry.len());
            let mut normals = key.row(0, 0);
            while values.len() < entry.len() {
                let more = normals.normals().into_iter().take(entry.len() - values.len());
                values.extend(more.map(|normal| (normal * deviation) as f32));
            }
            values
        })
    }

    /// The same model without a second head.
    pub fn without_second_head(self: &Arc<Weights>) -> Arc<Weights> {
        self.reshaped(Config { second_head: false, ..(*self.config).clone() }, |_| {
            unreachable!("it has nothing new")
        })
    }

    /// The same weights in another configuration; `fill` makes those of new entries.
    fn reshaped(
        self: &Arc<Weights>,
        config: Config,
        fill: impl Fn(&ParameterEntry) -> Vec<f32>,
    ) -> Arc<Weights> {
        if config == *self.config {
            return self.clone();
        }
        let own = layout(&self.config);
        let mut values = Vec::with_capacity(Weights::parameters(&config));
        for entry in layout(&config) {
            match own.iter().find(|known| known.name == entry.name) {
                Some(known) => values.extend_from_slice(&self.of(known)),
                None => values.extend(fill(&entry)),
            }
        }
        self.release();
        Arc::new(Weights::new(Arc::new(config), self.tokenizer.clone(), values))
    }

    /// The weights of one entry, in its shape, in a floating-point `kind` on a device. Memory of files that
    /// were read is released.
    pub fn tensor(&self, entry: &ParameterEntry, kind: Kind, device: Device) -> Tensor {
        let shape: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
        self.vector(entry.offset..entry.offset + entry.len(), kind, device).view(shape.as_slice())
    }

    /// The LM head alone, `[vocabulary, width]`, in a floating-point `kind`.
    pub fn lm_head(&self, kind: Kind, device: Device) -> Tensor {
        self.tensor(&self.lm_head_entry(), kind, device)
    }

    /// The LM head in its file, if it is in one.
    pub fn lm_head_in_file(&self) -> Option<&MappedTensor> {
        self.in_file(&self.lm_head_entry())
    }

    pub(super) fn in_file(&self, entry: &ParameterEntry) -> Option<&MappedTensor> {
        self.numbers.in_file(entry)
    }

    fn lm_head_entry(&self) -> ParameterEntry {
        let name = if self.config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        layout(&self.config)
            .into_iter()
            .find(|entry| entry.name == name)
            .expect("every layout has an LM head")
    }

    /// The scalar head alone, `[1, width]`, in a floating-point `kind`; `None` if there is none.
    pub fn scalar_head(&self, kind: Kind, device: Device) -> Option<Tensor> {
        let entries = layout(&self.config);
        let own = entries.iter().find(|entry| entry.is_scalar_head())?;
        Some(self.tensor(own, kind, device))
    }

    pub fn parameters(config: &Config) -> usize {
        layout(config).last().map_or(0, |last| last.offset + last.len())
    }
}

#[cfg(test)]
mod tests {
    use mopd_plan as plan;

    use super::*;
    use crate::model::tests::{of_family, tiny};
    use crate::model::{Biases, Experts};

    #[test]
    fn layout_is_dense_and_decayed_parameters_come_first() {
        let experts = Experts {
            count: 3,
            per_token: 2,
            intermediate_size: 5,
            normalised: true,
            layers: vec![true, false],
            clamped: None,
        };
        for config in [
            Config { tied: false, ..tiny() },
            Config {
                tied: true,
                biases: Biases { query_key_value: true, output: true, feed_forward: true },
                ..tiny()
            },
            Config { query_key_norm: true, experts: Some(experts), ..tiny() },
        ] {
            let entries = layout(&config);
            let mut end = 0;
            for entry in &entries {
                assert_eq!(entry.offset, end);
                end += entry.len();
            }
            assert_eq!(end, Weights::parameters(&config));
            let matrices = entries.iter().take_while(|entry| entry.kind == EntryKind::Matrix).count();
            assert!(entries[matrices..].iter().all(|entry| entry.kind != EntryKind::Matrix));
            assert_eq!(entries.iter().any(|entry| entry.name == "lm_head.weight"), !config.tied);
            let experts = entries.iter().filter(|entry| entry.name.contains("layers.0.mlp.experts.")).count();
            assert_eq!(experts, if config.experts.is_some() { 9 } else { 0 });
        }
    }

    /// For every family, whatever it stores: normalisations multiply by 1, biases add 0.
    #[test]
    fn norms_start_at_one_and_biases_at_zero() {
        for family in [plan::Family::Llama, plan::Family::Qwen2, plan::Family::Qwen3, plan::Family::Gemma] {
            let config = Arc::new(of_family(family));
            let weights = Weights::initialise(config.clone(), Arc::new(Tokenizer::Bytes), 1, 2);
            let entries = layout(&config);
            for entry in &entries {
                match entry.kind {
                    EntryKind::Matrix => assert!(weights.of(entry).iter().any(|value| *value != 0.0)),
                    EntryKind::Bias => assert!(weights.of(entry).iter().all(|value| *value == 0.0)),
                    EntryKind::Convolution | EntryKind::Delta => unreachable!("of families that are loaded"),
                    EntryKind::Norm => {
                        assert!(
                            weights
                                .of(entry)
                                .iter()
                                .all(|value| f64::from(*value) + config.norm.offset == 1.0)
                        );
                    }
                }
            }
            let has = |part: &str| entries.iter().any(|entry| entry.name.ends_with(part));
            assert_eq!(has("self_attn.q_proj.bias"), family == plan::Family::Qwen2);
            assert_eq!(has("self_attn.k_norm.weight"), family == plan::Family::Qwen3);
        }
    }

    #[test]
    fn initial_weights_have_the_specified_deviations() {
        let architecture = tiny();
        let initialise = |seed| Weights::initialise(Arc::new(tiny()), Arc::new(Tokenizer::Bytes), seed, 2);
        let weights = initialise(1);
        let deviation = |name: &str| {
            let entries = layout(&architecture);
            let entry = entries.iter().find(|entry| entry.name == name).unwrap();
            let part = weights.of(entry);
            (part.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / part.len() as f64).sqrt()
        };
        assert!((deviation("model.embed_tokens.weight") / 0.02 - 1.0).abs() < 0.05);
        assert!((deviation("model.layers.1.mlp.down_proj.weight") / 0.02 - 1.0).abs() < 0.1);
        assert_eq!(deviation("model.norm.weight"), 1.0);
        assert_ne!(weights.values(), initialise(2).values());
        assert_eq!(weights.values(), initialise(1).values());
    }
}
