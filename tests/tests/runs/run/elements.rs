//! Training of the elements that another stage changed, from the text to the weights.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use super::signals::interrupted_twice;
use super::states::curve;
use super::{Bench, assert_says, text};

const STUDENT: &str = "model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 8
  steps     = 6
  lr        = 1e-3
}";

/// The student trains what `first` has changed, from the same start on the same prompts.
fn bench() -> Bench {
    let bench = Bench::new();
    let first = STUDENT.replace("model student", "model first");
    let student =
        STUDENT.replace("steps     = 6", "steps     = 6\n  train_only = [changed(first, beyond: 2e-3)]");
    bench.edit("tiny.mopd", STUDENT, &format!("{first}\n\n{student}"));
    bench
}

/// The numbers of a model by the names of its parameters.
fn weights(bench: &Bench, model: &str) -> BTreeMap<String, Vec<f32>> {
    let file = std::fs::read(bench.path(&format!("{model}-seed1/model.safetensors"))).expect("weights");
    let (length, rest) = file.split_first_chunk::<8>().expect("a header's length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: BTreeMap<String, Value> = serde_json::from_slice(header).expect("JSON");
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, tensor)| {
        assert_eq!(tensor["dtype"], "F32");
        let at = |end: usize| tensor["data_offsets"][end].as_u64().expect("an offset") as usize;
        let numbers = data[at(0)..at(1)]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
        (name, numbers.collect())
    });
    tensors.collect()
}

/// Elements that `first` changed by more than the bound are trained; all others keep their bits. Their share
/// is in the metrics, the choice in the plan, and the bound and the other stage are in the key.
#[test]
fn a_stage_trains_what_another_has_changed() {
    let bench = bench();
    let plan = Command::new(mopd_tests::mopd())
        .current_dir(bench.folder.path())
        .args(["plan", "tiny.mopd"])
        .output()
        .expect("mopd starts");
    assert_says(&text(&plan), &["elements in which `first` and `start` differ by more than 2e-3"]);
    bench.tables("out", &[]);
    let [start, first, student] =
        ["start", "first", "student"].map(|of| weights(&bench, &format!("out/models/{of}")));
    let (mut all, mut chosen, mut moved) = (0, 0, 0);
    for (name, before) in &start {
        for (place, before) in before.iter().enumerate() {
            let (first, after) = (first[name][place], student[name][place]);
            all += 1;
            if (f64::from(first) - f64::from(*before)).abs() > 2e-3 {
                chosen += 1;
                moved += usize::from(after != *before);
            } else {
                assert_eq!(after.to_bits(), before.to_bits(), "{name} {place}");
            }
        }
    }
    assert!(chosen > all / 20 && chosen < all * 19 / 20 && moved > chosen * 9 / 10, "{moved} {chosen} {all}");
    let shares = curve(&bench, "out", "trained_share");
    let share = chosen as f64 / all as f64;
    assert!(shares.len() == 6 && shares.iter().all(|of| (of - share).abs() < 1e-3), "{shares:?} {share}");
    let before = bench.student("out");

    // Two loaded models of another run define the same elements, and give the same student.
    let text_of_run = std::fs::read_to_string(bench.path("tiny.mopd")).expect("the text");
    bench.edit("tiny.mopd", "changed(first, beyond: 2e-3)", "changed(tuned, beyond: 2e-3, from: earlier)");
    bench.edit(
        "tiny.mopd",
        "model student",
        "model tuned = checkpoint(\"out/models/first-seed1\")\nmodel earlier = checkpoint(\"out/models/start-seed1\")\n\nmodel student",
    );
    bench.tables("from", &[]);
    assert!(bench.student("from") == before, "other elements");
    // The compared models must have the student's shape.
    bench.edit("tiny.mopd", "width = 32", "width = 16");
    let said = bench.fails(&["--out", "narrow"]);
    assert_says(
        &said,
        &["`changed` compares models with another shape than the student's", ", 32], not", ", 16]"],
    );

    bench.write("tiny.mopd", &text_of_run);
    bench.edit("tiny.mopd", "beyond: 2e-3", "beyond: 1e-3");
    bench.tables("lower", &[]);
    assert!(bench.student("lower") != before);
    bench.write("tiny.mopd", &text_of_run.replacen("steps     = 6", "steps     = 5", 1));
    bench.tables("shorter", &[]);
    assert!(bench.student("shorter") != before);
    bench.write("tiny.mopd", &text_of_run.replace("beyond: 2e-3", "beyond: 100"));
    let said = bench.fails(&["--out", "none"]);
    assert_says(&said, &["no element changed by more than 1e2", "the largest change is", "lower `beyond`"]);
}

/// A stage that is stopped and resumed trains the same elements.
#[test]
fn a_stage_of_elements_ends_the_same_wherever_it_is_cut() {
    let bench = bench();
    let text_of_run = std::fs::read_to_string(bench.path("tiny.mopd")).expect("the text");
    let (before, student) = text_of_run.split_at(text_of_run.find("model student").expect("the student"));
    bench.write("tiny.mopd", &format!("{before}{}", student.replace("steps     = 6", "steps     = 90")));
    bench.tables("expected", &[]);
    let student = bench.student("expected");
    std::fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    interrupted_twice(&bench);
    assert!(bench.student("out") == student, "other weights");
}
