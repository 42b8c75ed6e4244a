//! `mopd cache` on stores made by hand.

use std::collections::BTreeMap;
use std::fs;

use mopd_store::{Folder, StoredRun, WriteError, write_whole};

use super::Place;

fn key(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

/// A store with two results and checkpoints; a run needs one of the results, and the checkpoints.
fn stored() -> Place {
    let place = Place::new();
    let folder = Folder::open(&place.path(".mopd/store")).expect("a store");
    let put = |name: &str, about: &str| {
        let write = |folder: &std::path::Path| {
            let sum = write_whole(&folder.join("model.safetensors"), &[7; 2048])?;
            Ok::<_, WriteError>(BTreeMap::from([("model.safetensors".to_owned(), sum)]))
        };
        folder.write(name, about, write).expect("an entry");
    };
    put(&key('a'), "start, seed 1");
    put(&key('b'), "student, seed 1");
    put(&format!("{}.unfinished/0000000004", key('c')), "teacher, seed 1");
    fs::create_dir_all(place.path("runs/one")).expect("a folder");
    let needs =
        BTreeMap::from([(key('a'), "start, seed 1".to_owned()), (key('c'), "teacher, seed 1".to_owned())]);
    let out = fs::canonicalize(place.path("runs/one")).expect("it is there");
    assert!(folder.register(&StoredRun { experiment: "e".to_owned(), out, needs }).expect("it is written"));
    place
}

#[test]
fn cache_list_shows_entries_and_their_runs() {
    let place = stored();
    let said = place.mopd(&["cache", "list"]).is(0, &[]);
    let line = |word: &str| {
        said.out.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}:\n{}", said.out))
    };
    assert!(line("start").contains("aaaaaaaaaaaa") && line("start").contains("runs/one"), "{}", said.out);
    assert!(!line("student").contains("runs/one") && line("student").contains("KiB"), "{}", said.out);
    assert!(line("teacher").contains("checkpoints") && line("teacher").contains("ms ago"), "{}", said.out);
    let json = place.mopd(&["cache", "list", "--format", "json"]).is(0, &[]);
    let items: Vec<serde_json::Value> =
        json.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(items.len(), 3);
    assert!(items.iter().any(|item| item["kind"] == "checkpoint" && item["about"] == "teacher, seed 1"));
}

/// Scores are listed with their data; a damaged batch is reported; no run needs scores.
#[test]
fn scores_are_listed_verified_and_pruned() {
    let place = stored();
    let folder = Folder::at(&place.path(".mopd/store"));
    for batch in ["1", "2"] {
        let write = |folder: &std::path::Path| {
            let sum = write_whole(&folder.join("hidden.bin"), &[7; 512])?;
            Ok::<_, WriteError>(BTreeMap::from([("hidden.bin".to_owned(), sum)]))
        };
        let name = format!("{}.scores/{batch}", key('d'));
        folder.write(&name, "scores of expert for student, seed 1", write).expect("an entry");
    }
    let said = place.mopd(&["cache", "list", "--format", "json"]).is(0, &[]);
    let items: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let scores = items.iter().find(|item| item["kind"] == "scores").expect("they are listed");
    assert_eq!(
        (&scores["about"], &scores["needed_by"]),
        (&"scores of expert for student, seed 1".into(), &serde_json::json!([]))
    );
    let said = place.mopd(&["cache", "list"]).is(0, &[]);
    assert!(said.out.contains("scores of expert for student, seed 1 |"), "{}", said.out);
    place.mopd(&["cache", "verify"]).is(0, &["4 whole, 0 damaged"]);
    let batch = place.path(".mopd/store").join(format!("{}.scores/2/hidden.bin", key('d')));
    fs::write(batch, "short").expect("a damaged file");
    let said = place.mopd(&["cache", "verify"]).is(1, &["3 whole, 1 damaged", "computes it again"]);
    assert!(said.out.contains("student, seed 1: the checksum of hidden.bin is wrong"), "{}", said.out);
    let said = place.mopd(&["cache", "prune", "--keep-under", "1KiB"]);
    assert!(said.out.lines().next().is_some_and(|line| line.starts_with(&key('d'))), "{}", said.out);
}

#[test]
fn damage_is_named_and_is_status_1() {
    let place = stored();
    place.mopd(&["cache", "verify"]).is(0, &["3 whole, 0 damaged"]);
    fs::write(place.path(".mopd/store").join(key('b')).join("model.safetensors"), "short")
        .expect("a damaged file");
    let said = place.mopd(&["cache", "verify"]).is(1, &["2 whole, 1 damaged", "computes it again"]);
    assert!(
        said.out.starts_with(&key('b'))
            && said.out.contains("student, seed 1: the checksum of model.safetensors is wrong"),
        "{}",
        said.out
    );
    fs::remove_file(place.path(".mopd/store").join(key('b')).join("model.safetensors")).expect("a file");
    place.mopd(&["cache", "verify"]).is(1, &["2 whole, 0 damaged, 1 incomplete", "computes it again"]);
}

#[test]
fn cache_prune_removes_only_unneeded_entries() {
    let place = stored();
    let dry =
        place.mopd(&["cache", "prune", "--older-than", "0s", "--dry-run"]).is(0, &["1 entry: would free"]);
    assert!(dry.out.starts_with(&key('b')), "{}", dry.out);
    assert_eq!(place.mopd(&["cache", "prune", "--dry-run"]).is(0, &["1 entry: would free"]).out, dry.out);
    place.mopd(&["cache", "verify"]).is(0, &["3 whole"]);
    place.mopd(&["cache", "prune", "--older-than", "1d"]).is(0, &["0 entries: freed 0 B"]);
    place.mopd(&["cache", "prune", "--keep-under", "1GiB"]).is(0, &["0 entries"]);
    let said = place.mopd(&["cache", "prune", "--keep-under", "1KiB"]);
    said.is(0, &["1 entry: freed", "more than requested", "folder of results"]);
    place.mopd(&["cache", "verify"]).is(0, &["2 whole, 0 damaged"]);
    // Without its results, a run does not count, and its entries are not needed.
    fs::remove_dir_all(place.path("runs/one")).expect("a folder");
    place.mopd(&["cache", "prune", "--older-than", "0s"]).is(0, &["2 entries"]);
    place.mopd(&["cache", "list"]).is(0, &["the store is empty"]);
}

#[test]
fn mistakes_are_explained() {
    let place = Place::new();
    place.mopd(&["cache", "list"]).is(2, &["there is no store at .mopd/store", "--store DIR"]);
    let place = stored();
    place.mopd(&["cache", "prune"]).is(2, &["--older-than", "--keep-under"]);
    place.mopd(&["cache", "prune", "--older-than", "30"]).is(2, &["a number and s, min, h or d"]);
    place.mopd(&["cache", "prune", "--keep-under", "10GB"]).is(2, &["10GiB"]);
    fs::write(place.path(".mopd/store/runs/broken.json"), "{").expect("a file");
    place
        .mopd(&["cache", "prune", "--older-than", "0s"])
        .is(0, &["cannot read the list of results that a run needs", "broken.json", "1 result kept"]);
}
