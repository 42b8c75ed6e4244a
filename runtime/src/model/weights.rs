//! Weights as plain data: one flat vector and the layout that gives its parts names. Threads, merges and the store use this
//! form; [`super::Decoder`] turns it into tensors.

use std::borrow::Cow;
use std::sync::Arc;

use super::Config;
use crate::data::tokenizer::Tokenizer;
use crate::random::{Key, Purpose};

/// A parameter's place in the flat vector. Matrices are `[outputs, inputs]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As checkpoints of the Llama family call it: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub shape: Vec<usize>,
    pub offset: usize,
    pub kind: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Matrix,
    /// The scale of a normalisation.
    Norm,
}

impl Entry {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// All parameters in order. Matrices come first, so that weight decay is one range; matrices that are multiplied with the
/// same input are neighbours, so that they are one matrix.
pub fn layout(config: &Config) -> Vec<Entry> {
    let sizes = config;
    let query = sizes.heads * sizes.head_width;
    let key_value = sizes.key_value_heads * sizes.head_width;
    let mut entries: Vec<Entry> = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, kind| {
        let offset = entries.last().map_or(0, |last| last.offset + last.len());
        entries.push(Entry { name, shape, offset, kind });
    };
    add("model.embed_tokens.weight".into(), vec![sizes.vocabulary, sizes.width], EntryKind::Matrix);
    for layer in 0..sizes.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(name("self_attn.q_proj"), vec![query, sizes.width], EntryKind::Matrix);
        add(name("self_attn.k_proj"), vec![key_value, sizes.width], EntryKind::Matrix);
        add(name("self_attn.v_proj"), vec![key_value, sizes.width], EntryKind::Matrix);
        add(name("self_attn.o_proj"), vec![sizes.width, query], EntryKind::Matrix);
        add(name("mlp.gate_proj"), vec![sizes.hidden, sizes.width], EntryKind::Matrix);
        add(name("mlp.up_proj"), vec![sizes.hidden, sizes.width], EntryKind::Matrix);
        add(name("mlp.down_proj"), vec![sizes.width, sizes.hidden], EntryKind::Matrix);
    }
    if !config.tied {
        add("lm_head.weight".into(), vec![sizes.vocabulary, sizes.width], EntryKind::Matrix);
    }
    for layer in 0..sizes.layers {
        add(format!("model.layers.{layer}.input_layernorm.weight"), vec![sizes.width], EntryKind::Norm);
        add(format!("model.layers.{layer}.post_attention_layernorm.weight"), vec![sizes.width], EntryKind::Norm);
    }
    add("model.norm.weight".into(), vec![sizes.width], EntryKind::Norm);
    entries
}

/// The weights of one model, and the tokenizer that its embedding is indexed by.
#[derive(Clone, Debug)]
pub struct Weights {
    pub config: Arc<Config>,
    pub tokenizer: Arc<Tokenizer>,
    /// In the order of [`layout`].
    values: Vec<f32>,
}

impl Weights {
    /// `values` are in the order of [`layout`], as many as it has.
    pub fn new(config: Arc<Config>, tokenizer: Arc<Tokenizer>, values: Vec<f32>) -> Weights {
        assert_eq!(values.len(), Weights::parameters(&config), "weights of another configuration");
        Weights { config, tokenizer, values }
    }

    /// The same kind of model with other numbers.
    pub fn with_values(&self, values: Vec<f32>) -> Weights {
        Weights::new(self.config.clone(), self.tokenizer.clone(), values)
    }

    /// All of them, in the order of [`layout`].
    pub fn values(&self) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.values)
    }

    pub fn of(&self, entry: &Entry) -> Cow<'_, [f32]> {
        Cow::Borrowed(&self.values[entry.offset..entry.offset + entry.len()])
    }

    /// Random weights: matrices normal with the configuration's initial deviation, normalisations at 1.
    pub fn initialise(config: Arc<Config>, tokenizer: Arc<Tokenizer>, seed: u64, stream: u64) -> Weights {
        let entries = layout(&config);
        let key = Key::new(seed, stream, Purpose::Initialise, 0);
        let mut values = Vec::with_capacity(entries.last().map_or(0, |last| last.offset + last.len()));
        for (index, entry) in entries.iter().enumerate() {
            let deviation = match entry.kind {
                EntryKind::Matrix => config.initial_deviation,
                EntryKind::Norm => {
                    values.resize(values.len() + entry.len(), 1.0);
                    continue;
                }
            };
            let mut normals = key.row(index as u32, 0);
            let end = entry.offset + entry.len();
            while values.len() < end {
                for normal in normals.normals() {
                    if values.len() < end {
                        values.push((normal * deviation) as f32);
                    }
                }
            }
        }
        Weights::new(config, tokenizer, values)
    }

    pub fn parameters(config: &Config) -> usize {
        layout(config).last().map_or(0, |last| last.offset + last.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::tiny;

    #[test]
    fn layout_is_dense_and_decayed_parameters_come_first() {
        for tied in [false, true] {
            let architecture = Config { tied, ..tiny() };
            let entries = layout(&architecture);
            let mut end = 0;
            for entry in &entries {
                assert_eq!(entry.offset, end);
                end += entry.len();
            }
            assert_eq!(end, Weights::parameters(&architecture));
            let first_norm = entries.iter().position(|entry| entry.kind == EntryKind::Norm).unwrap();
            assert!(entries[first_norm..].iter().all(|entry| entry.kind == EntryKind::Norm));
            assert_eq!(entries.iter().any(|entry| entry.name == "lm_head.weight"), !tied);
        }
    }

    #[test]
    fn initial_deviations() {
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
