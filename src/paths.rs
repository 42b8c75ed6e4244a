//! Checks that the paths of an experiment exist. The checker itself reads no files, so that it can be
//! used anywhere.

use std::path::{Path, PathBuf};

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{Experiment, Origin, Pretrained, Stage, TokenizerSpec};
use mopd_lang::source::Span;

/// A diagnostic for each path that does not exist, relative to `folder`.
pub fn missing(experiment: &Experiment, origins: &[Span], folder: &Path) -> Vec<Diagnostic> {
    let mut named: Vec<(&str, Origin)> = Vec::new();
    for domain in &experiment.domains {
        named.extend(domain.sources().map(|(_, data)| (data.path.as_str(), data.origin)));
    }
    named
        .extend(experiment.benchmarks.iter().map(|benchmark| (benchmark.prompts.as_str(), benchmark.origin)));
    for model in &experiment.models {
        let path = match &model.stage {
            Stage::Load(Pretrained::Gguf { file }) => file,
            Stage::Load(Pretrained::Checkpoint { folder }) => folder,
            Stage::Initialise(architecture) => match &architecture.tokenizer {
                TokenizerSpec::File(path) => path,
                TokenizerSpec::Bytes => continue,
            },
            _ => continue,
        };
        named.push((path, model.origin));
    }
    let mut found: Vec<Diagnostic> = Vec::new();
    for (path, origin) in named {
        let whole = folder.join(path);
        // What a pattern matches is looked at when it is read.
        if path.contains(['*', '?', '[']) || whole.exists() {
            continue;
        }
        let span = origins[origin.0 as usize];
        let text = format!("there is no {}", whole.display());
        if found.iter().all(|known| known.primary.span != span || known.message != text) {
            let diagnostic = Diagnostic::warning(Code::MissingFile, span, text).label("does not exist");
            found.push(diagnostic.help("paths are relative to the folder of the experiment's file"));
        }
    }
    found
}

/// Models of the hub that are on this machine.
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

/// The names of models that are no folders here and would have to be fetched from the hub, each once.
pub fn to_fetch(experiment: &Experiment, folder: &Path) -> Vec<String> {
    let cached = cached_models();
    let mut found: Vec<String> = Vec::new();
    for model in &experiment.models {
        if let Stage::Load(Pretrained::HuggingFace { name, .. }) = &model.stage
            && !folder.join(name).is_dir()
            && !cached.contains(name)
            && !found.contains(name)
        {
            found.push(name.clone());
        }
    }
    found
}

/// Where models of the hub lie, as the worker finds them.
fn hub_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).or_else(|| {
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")))?;
        Some(home.join("hub"))
    })
}
