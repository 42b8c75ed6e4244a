//! Checks that the paths of an experiment exist. The checker itself reads no files, so that it can be
//! used anywhere.

use std::path::Path;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{Experiment, Origin, Pretrained, Stage, Tokenizer};
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
                Tokenizer::File(path) => path,
                Tokenizer::Bytes => continue,
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
