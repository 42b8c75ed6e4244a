//! Folders for runs, and the results in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mopd_plan::events::Event;
use mopd_plan::results;
use tempfile::TempDir;

use super::write_data;

/// A folder with the data of both domains.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    folder
}

/// All results of a run that must not depend on how often it was interrupted: weights, and tables.
pub fn outcome(folder: &Path, out: &str) -> BTreeMap<String, Vec<u8>> {
    let mut outcome = BTreeMap::new();
    for model in fs::read_dir(folder.join(out).join("models")).unwrap() {
        let model = model.unwrap().path();
        let name = model.file_name().unwrap().to_str().unwrap().to_owned();
        outcome.insert(name, fs::read(model.join("model.safetensors")).unwrap());
    }
    let results: results::Results =
        serde_json::from_slice(&fs::read(folder.join(out).join("results.json")).unwrap()).unwrap();
    outcome.insert("tables".to_owned(), serde_json::to_vec(&results.tables).unwrap());
    outcome
}

pub fn warnings(events: &[Event]) -> Vec<&str> {
    events
        .iter()
        .filter_map(
            |event| if let Event::Warning { message } = event { Some(message.as_str()) } else { None },
        )
        .collect()
}
