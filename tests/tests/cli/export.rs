//! Stages for engines: what is written, and what is said of it.

use super::{GOOD, Place};

#[test]
fn a_stage_is_written_for_an_engine() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    for (engine, file) in [("verl", "config.yaml"), ("trl", "config.json")] {
        let said = place.mopd(&["export", "--engine", engine, "a.mopd"]).is(0, &["wrote student-"]);
        assert!(said.out.contains("exact        `live student.logp`  (std:opd.mopd:"), "{}", said.out);
        assert!(said.out.contains("approximate  order of the prompts  (a.mopd:"), "{}", said.out);
        let folder = format!("student-{engine}");
        assert_eq!(place.read(&format!("{folder}/COVERAGE.txt")), said.out);
        let objective = place.read(&format!("{folder}/objective.py"));
        assert!(objective.contains("mt.minimum(mt.maximum("), "{objective}");
        let settings = place.read(&format!("{folder}/{file}"));
        assert!(
            settings.contains("max_response_length: 8") || settings.contains("\"max_completion_length\": 8")
        );
        // Two steps of two prompts, of the one row that there is.
        let rows = place.read(&format!("{folder}/train.jsonl"));
        assert_eq!(rows.lines().count(), 4, "{rows}");
        assert!(rows.lines().all(|line| line.contains("\"teacher\":\"one\"")), "{rows}");
    }
}

/// A construct that an engine does not have stops the export and is named with its place.
#[test]
fn what_an_engine_lacks_is_refused_by_name() {
    let text =
        GOOD.replace("  steps     = 2\n  lr        = 1e-3\n", "  steps = 2\n  lr    = 1e-3\n  ema   = 0.9\n");
    assert_ne!(text, GOOD);
    let place = Place::with(&[("a.mopd", &text)]);
    let said = place.mopd(&["export", "--engine", "verl", "a.mopd"]);
    let said = said.is(1, &["nothing was written: verl 0.9.1 can't express 1 construct of `student`"]);
    assert!(said.out.contains("refused      `ema` of the weights  (a.mopd:"), "{}", said.out);
    assert!(!place.path("student-verl").exists());
    let report =
        place.mopd(&["export", "--engine", "verl", "--report", "--format", "json", "a.mopd"]).is(1, &[]).out;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["coverage"], "refused");
    let lines = report["lines"].as_array().expect("lines");
    assert!(lines.iter().all(|line| line["file"].is_string() && line["line"].is_u64()), "{report:#}");
}

#[test]
fn a_report_needs_no_data_and_a_stage_has_a_name() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    std::fs::remove_file(place.path("sort.jsonl")).expect("it was there");
    place.mopd(&["export", "--engine", "trl", "--report", "a.mopd"]).is(0, &[]);
    place
        .mopd(&["export", "--engine", "trl", "a.mopd"])
        .is(2, &["error[can't-read]: can't read ./sort.jsonl"]);
    let said = place.mopd(&["export", "--engine", "trl", "--stage", "studnet", "a.mopd"]);
    said.is(2, &["no stage `studnet` that trains", "did you mean `--stage 'student'`?"]);
    place.mopd(&["export", "--engine", "nemo", "a.mopd"]).is(2, &["verl, trl"]);
}
