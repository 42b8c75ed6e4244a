//! A model that the command line names: a folder, a GGUF file, or a name on the hub.

use std::path::Path;

use mopd_plan::PretrainedSource;

pub fn source(named: &str) -> PretrainedSource {
    let (name, path) = (named.to_owned(), Path::new(named));
    let ends_so = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    if path.is_file() || ends_so && !path.is_dir() {
        PretrainedSource::Gguf { file: name }
    } else if path.join("mopd.json").is_file() {
        // Only a run's own model describes its tokenizer.
        PretrainedSource::Checkpoint { folder: name }
    } else {
        PretrainedSource::HuggingFace { name, revision: None }
    }
}
