//! The samples and histograms of a run, reduced to the size of a page.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Rounded;
use crate::run_folder::ColumnTable;

/// The most bytes of all samples of a page, and of all histograms.
const SAMPLES: usize = 350_000;
const HISTOGRAMS: usize = 350_000;

/// A sampled completion, with its tokens column by column.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SampledCompletion {
    pub seed: u64,
    pub step: u64,
    pub domain: String,
    pub teacher_name: String,
    pub sample: u64,
    /// The index of its prompt on the page: samples of several stages may have the same one.
    pub prompt: usize,
    #[serde(skip)]
    pub prompt_text: String,
    /// In a chat, the user's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
    /// The number of tokens before that text, which are not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_left_out: Option<u64>,
    pub reward: Option<Rounded>,
    /// The number of tokens of the completion, some of which may be left out.
    pub length: u64,
    pub text: Vec<String>,
    #[serde(flatten)]
    pub numbers: BTreeMap<&'static str, Vec<Option<Rounded>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected: Option<Vec<bool>>,
}

/// Columns of numbers, and their names on the page.
const NUMBERS: [(&str, &str); 7] = [
    ("logp", "logp"),
    ("teacher_logp", "teacher"),
    ("divergence", "divergence"),
    ("entropy", "entropy"),
    ("weight", "weight"),
    ("signal", "signal"),
    ("advantage", "advantage"),
];

#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    pub domain: String,
    pub quantity: String,
    pub over: String,
    /// For each bin: where it begins, where the size begins, and the number of tokens; over all seeds.
    pub bins: Vec<(Rounded, Rounded, u64)>,
}

/// The bounds of bins; the last one may be unbounded.
pub type Edges = BTreeMap<&'static str, Vec<(Rounded, Option<Rounded>)>>;

/// The items that fit the budget, by stage, and the stages whose items did not fit.
pub struct WithinBudget<T> {
    pub kept: BTreeMap<String, Vec<T>>,
    pub left_out: Vec<String>,
}

/// Keeps the items that fit, stage by stage in the order of `wanted`.
///
/// `besides` returns the size of an item's data outside its own fields.
fn fit<T: Serialize>(
    mut found: BTreeMap<String, Vec<T>>,
    wanted: &[&str],
    budget: usize,
    besides: impl Fn(&[T]) -> usize,
) -> WithinBudget<T> {
    let mut fitting = WithinBudget { kept: BTreeMap::new(), left_out: Vec::new() };
    let mut left = budget;
    for stage in wanted {
        let Some(things) = found.remove(*stage) else { continue };
        let size = serde_json::to_string(&things).map_or(usize::MAX, |text| text.len() + besides(&things));
        if size <= left {
            left -= size;
            fitting.kept.insert((*stage).to_owned(), things);
        } else {
            fitting.left_out.push((*stage).to_owned());
        }
    }
    fitting
}

/// The samples of the first seed; stages in order of their interest.
pub fn samples(table: &ColumnTable, wanted: &[&str], runs: usize) -> WithinBudget<SampledCompletion> {
    let mut found: BTreeMap<String, Vec<SampledCompletion>> = BTreeMap::new();
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    let mut current = None;
    for row in 0..table.rows() {
        let (stage, seed) = (table.text("stage", row), table.whole("seed", row));
        if *first.entry(stage).or_insert(seed) != seed {
            continue;
        }
        let place = (stage, table.whole("step", row), table.text("domain", row), table.whole("sample", row));
        let samples = found.entry(stage.to_owned()).or_default();
        if current != Some(place) {
            current = Some(place);
            samples.push(SampledCompletion {
                seed,
                step: place.1,
                domain: place.2.to_owned(),
                teacher_name: table.text("teacher", row).to_owned(),
                sample: place.3,
                prompt_text: table.text("prompt", row).to_owned(),
                words: Some(table.text("prompt_text", row).to_owned()).filter(|words| !words.is_empty()),
                prompt_left_out: Some(table.whole("prompt_left_out", row)).filter(|tokens| *tokens > 0),
                reward: table.number("reward", row).map(Rounded),
                length: table.whole("length", row),
                ..SampledCompletion::default()
            });
        }
        let Some(sample) = samples.last_mut() else { continue };
        sample.text.push(table.text("text", row).to_owned());
        for (column, name) in NUMBERS {
            sample.numbers.entry(name).or_default().push(table.number(column, row).map(Rounded));
        }
        if let Some(selected) = table.number("selected", row) {
            sample.selected.get_or_insert_default().push(selected != 0.0);
        }
    }
    for sample in found.values_mut().flatten() {
        sample.numbers.retain(|_, values| values.iter().any(Option::is_some));
    }
    let prompts = |samples: &[SampledCompletion]| {
        let texts: BTreeSet<&str> = samples.iter().map(|sample| sample.prompt_text.as_str()).collect();
        texts.into_iter().map(str::len).sum()
    };
    fit(found, wanted, SAMPLES / runs, prompts)
}

/// The prompts of all samples, each once; the samples' indices are changed to refer to them.
pub fn prompts<'a>(samples: impl Iterator<Item = &'a mut SampledCompletion>) -> Vec<String> {
    let mut known: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut texts = Vec::new();
    for sample in samples {
        let key = (sample.domain.clone(), std::mem::take(&mut sample.prompt_text));
        sample.prompt = *known.entry(key).or_insert_with_key(|(_, text)| {
            texts.push(text.clone());
            texts.len() - 1
        });
    }
    texts
}

pub fn histograms(table: &ColumnTable, wanted: &[&str], runs: usize) -> (WithinBudget<Histogram>, Edges) {
    /// Tokens by the bits of the bounds of bin and size: both are at least 0, so the bits are ordered like
    /// the numbers.
    type Bins = BTreeMap<(u64, u64), u64>;
    let mut tokens: BTreeMap<(&str, &str, &str, &str), Bins> = BTreeMap::new();
    let mut edges: BTreeMap<&'static str, BTreeMap<u64, Option<f64>>> = BTreeMap::new();
    for row in 0..table.rows() {
        let (Some(low), Some(size_low)) = (table.number("low", row), table.number("size_low", row)) else {
            continue;
        };
        let over = table.text("over", row);
        let key = (table.text("stage", row), table.text("domain", row), table.text("quantity", row), over);
        *tokens.entry(key).or_default().entry((low.to_bits(), size_low.to_bits())).or_default() +=
            table.whole("tokens", row);
        let over = if over == "position" { "position" } else { "entropy" };
        edges.entry(over).or_default().insert(low.to_bits(), table.number("high", row));
        edges.entry("size").or_default().insert(size_low.to_bits(), table.number("size_high", row));
    }
    let mut found: BTreeMap<String, Vec<Histogram>> = BTreeMap::new();
    for ((stage, domain, quantity, over), bins) in tokens {
        let number = |bits: u64| Rounded(f64::from_bits(bits));
        let bins = bins.into_iter().map(|((low, size_low), tokens)| (number(low), number(size_low), tokens));
        found.entry(stage.to_owned()).or_default().push(Histogram {
            domain: domain.to_owned(),
            quantity: quantity.to_owned(),
            over: over.to_owned(),
            bins: bins.collect(),
        });
    }
    let edges = edges.into_iter().map(|(over, edges)| {
        (
            over,
            edges.into_iter().map(|(low, high)| (Rounded(f64::from_bits(low)), high.map(Rounded))).collect(),
        )
    });
    (fit(found, wanted, HISTOGRAMS / runs, |_| 0), edges.collect())
}
