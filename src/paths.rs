//! Checks that the paths of an experiment exist. The checker itself reads no files, so that it works
//! anywhere.

use std::path::Path;

use mopd_data::HubDataset;
use mopd_experiment::{DataSource, Experiment, Origin, Pretrained, PretrainedSource, Stage, TokenizerSpec};
use mopd_lang::diag::{Code, Diagnostic, missing_file_help, nearest_file};
use mopd_lang::source::Span;
use mopd_plan::is_file_pattern;
use mopd_store::files::names_beside;
use mopd_store::named::{NamedModel, folders_beside, hub_cache};

/// A diagnostic for each path that does not exist, relative to `folder`.
pub fn missing(experiment: &Experiment, origins: &[Span], folder: &Path) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = Vec::new();
    for (path, origin) in named(experiment, folder) {
        let whole = folder.join(path);
        // A pattern is checked when it is read.
        if is_file_pattern(path) || whole.exists() {
            continue;
        }
        let span = origins[origin.0 as usize];
        let text = absent(&whole);
        if found.iter().any(|known| known.primary.span == span && known.message == text) {
            continue;
        }
        let help = missing_file_help(path, &names_beside(&whole).unwrap_or_default());
        found.push(Diagnostic::warning(Code::MissingFile, span, text).label("does not exist").help(help));
    }
    found
}

/// That a path does not exist.
pub fn absent(path: &Path) -> String {
    format!("there is no {}", path.display())
}

/// Every path that an experiment names, with the item that names it.
fn named<'a>(experiment: &'a Experiment, folder: &Path) -> Vec<(&'a str, Origin)> {
    let mut named: Vec<(&str, Origin)> = Vec::new();
    for domain in &experiment.domains {
        let local = domain.sources().filter(|(_, data)| dataset(data, folder).is_none());
        named.extend(local.map(|(_, data)| (data.path.as_str(), data.origin)));
        named.extend(domain.reward.facts().files.into_iter().map(|file| (file, domain.origin)));
    }
    for benchmark in &experiment.benchmarks {
        named.push((benchmark.prompts.as_str(), benchmark.origin));
        named.extend(benchmark.reward.facts().files.into_iter().map(|file| (file, benchmark.origin)));
    }
    for model in &experiment.models {
        if let Stage::Load(Pretrained { chat_template: Some(file), .. }) = &model.stage {
            named.push((file, model.origin));
        }
        let path = match &model.stage {
            Stage::Load(Pretrained { source, .. }) => match source {
                PretrainedSource::Gguf { file } => file,
                PretrainedSource::Checkpoint { folder } => folder,
                PretrainedSource::HuggingFace { name, .. } => match NamedModel::resolve(name, folder) {
                    NamedModel::Nowhere(_) => name,
                    NamedModel::Folder(_) | NamedModel::Repository => continue,
                },
            },
            Stage::Initialise(architecture) => match &architecture.tokenizer {
                TokenizerSpec::File(path) => path,
                TokenizerSpec::Bytes => continue,
            },
            _ => continue,
        };
        named.push((path, model.origin));
    }
    named
}

/// The folder with a similar name that may be meant instead of a model's name.
pub fn meant(name: &str, folder: &Path) -> Option<String> {
    let beside = folders_beside(name, folder);
    nearest_file(name, beside.iter().map(String::as_str)).map(str::to_owned)
}

/// Models of the hub that are cached on this machine.
pub fn cached_models() -> Vec<String> {
    let Some(cache) = hub_cache() else { return Vec::new() };
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter(|entry| entry.path().join("snapshots").is_dir())
        .filter_map(|entry| {
            Some(entry.file_name().to_str()?.strip_prefix("models--")?.replacen("--", "/", 1))
        })
        .collect();
    found.sort();
    found
}

/// The data set of the hub that a source names.
fn dataset<'a>(data: &'a DataSource, folder: &Path) -> Option<HubDataset<'a>> {
    HubDataset::named(folder, &data.path, data.split.as_deref(), data.revision.as_deref())
}

/// The names of models that are not local folders and must be downloaded from the hub, each once.
pub fn to_fetch(experiment: &Experiment, folder: &Path) -> Vec<String> {
    let cached = cached_models();
    let mut found: Vec<String> = Vec::new();
    for model in &experiment.models {
        if let Stage::Load(Pretrained { source: PretrainedSource::HuggingFace { name, .. }, .. }) =
            &model.stage
            && NamedModel::resolve(name, folder) == NamedModel::Repository
            && !cached.contains(name)
            && !found.contains(name)
        {
            found.push(name.clone());
        }
    }
    found
}

/// The names of data sets of which something must be downloaded from the hub, each once.
pub fn data_to_fetch(experiment: &Experiment, folder: &Path) -> Vec<String> {
    let cache = hub_cache().unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for (_, data) in experiment.domains.iter().flat_map(|domain| domain.sources()) {
        if let Some(dataset) = dataset(data, folder)
            && dataset.cached(&cache, data.split.as_deref()).is_err()
            && !found.contains(&data.path)
        {
            found.push(data.path.clone());
        }
    }
    found
}
