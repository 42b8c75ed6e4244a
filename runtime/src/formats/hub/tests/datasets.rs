//! Data sets of the hub.

use mopd_plan::DataSource;

use super::*;
use crate::data;

fn source(path: &str, split: &str) -> DataSource {
    DataSource { split: Some(split.to_owned()), ..DataSource::file(path) }
}

/// A data set with two subsets, whose list also has names that lead out of its folder.
fn files() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("README.md", "not needed"),
        ("main/train-00000-of-00002.jsonl", "{\"prompt\": \"a\"}"),
        ("main/train-00001-of-00002.jsonl", "{\"prompt\": \"b\"}"),
        ("main/test-00000-of-00001.jsonl", "{\"prompt\": \"c\"}"),
        ("socratic/train.jsonl", "{\"prompt\": \"d\"}"),
        ("../../../main/train-00002-of-00002.jsonl", "escaped"),
    ])
}

#[test]
fn the_files_of_a_split_are_fetched_once() {
    let cache = tempfile::tempdir().unwrap();
    let nowhere = Path::new("/nowhere");
    let (endpoint, asked) = serve(files(), FIRST);
    let taken = || std::mem::take(&mut *asked.lock().unwrap());
    let hub_at = |offline| hub(cache.path(), &endpoint, offline);
    let train = source("org/tiny/main", "train");
    hub_at(false).fetch_data(nowhere, &train).unwrap();
    let part = |name: &str| format!("/datasets/org/tiny/resolve/{FIRST}/main/{name}");
    let parts = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"].map(part);
    let list = "/api/datasets/org/tiny/revision/main".to_owned();
    assert_eq!(taken(), [&[list.clone()][..], &parts].concat());
    let snapshot = cache.path().join("datasets--org--tiny/snapshots").join(FIRST);
    let first = fs::read_to_string(snapshot.join("main/train-00000-of-00002.jsonl")).unwrap();
    assert_eq!(first, "{\"prompt\": \"a\"}");
    // Again, also without a network: nothing is asked. Another split is fetched on its own.
    for offline in [false, true] {
        hub_at(offline).fetch_data(nowhere, &train).unwrap();
    }
    assert!(taken().is_empty());
    let test = source("org/tiny/main", "test");
    let (text, help) = message(&hub_at(true).fetch_data(nowhere, &test).unwrap_err());
    assert!(
        text.contains("only in part in the cache") && help.contains("--repo-type dataset org/tiny"),
        "{text}"
    );
    hub_at(false).fetch_data(nowhere, &test).unwrap();
    assert_eq!(taken(), [list, part("test-00000-of-00001.jsonl")]);
    // A part that is gone is fetched again.
    fs::remove_file(snapshot.join("main/train-00001-of-00002.jsonl")).unwrap();
    hub_at(false).fetch_data(nowhere, &train).unwrap();
    assert_eq!(taken()[1..], parts[1..]);
    // Nothing is written outside the folder of the commit.
    let mut found: Vec<_> =
        fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    found.sort();
    assert_eq!(found, ["datasets--org--tiny"]);
}

#[test]
fn what_a_data_set_has_not_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(files(), FIRST);
    let failed = |path: &str, split: &str, revision: Option<&str>| {
        let source = DataSource { revision: revision.map(str::to_owned), ..source(path, split) };
        message(&hub(cache.path(), &endpoint, false).fetch_data(Path::new("/nowhere"), &source).unwrap_err())
    };
    let (text, help) = failed("org/tiny/main", "tests", None);
    assert!(text.contains("there is no split `tests`; found `test`, `train`"), "{text}");
    assert_eq!(help, "did you mean `test`?");
    let (text, help) = failed("org/tiny", "train", None);
    assert!(text.contains("the folder has the subsets `main`"), "{text}");
    assert_eq!(help, "name its folder: dataset(\"org/tiny/main\", split: \"train\")");
    let (text, help) = failed("org/absent", "train", None);
    assert!(
        text.starts_with("there is no folder /nowhere/org/absent, and org/absent (revision main)"),
        "{text}"
    );
    assert!(text.contains("404") && help.contains("spelling"), "{text}");
    let (text, _) = failed("org/tiny", "train", Some("../../x"));
    assert!(text.contains("`../../x` is not a revision"), "{text}");
}

#[test]
fn a_path_beside_the_experiment_is_never_fetched() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("org")).unwrap();
    let unused = hub(folder.path(), "http://unused", false);
    unused.fetch_data(folder.path(), &source("org/tiny", "train")).unwrap();
    fs::write(folder.path().join("one.jsonl"), "{\"prompt\": \"a\"}").unwrap();
    let one = DataSource { revision: Some("v1".to_owned()), ..DataSource::file("one.jsonl") };
    unused.fetch_data(folder.path(), &one).unwrap();
    let error = data::files(folder.path(), &one).unwrap_err();
    assert!(
        error.to_string().contains("the revision `v1` is requested of what is on this machine"),
        "{error}"
    );
    assert_eq!(error.help(), "leave `revision` out");
}
