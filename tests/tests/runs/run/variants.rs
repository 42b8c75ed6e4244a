//! Variants of a model are models of one plan: rows of one table, with what they share computed once.

use super::{Bench, OBJECTIVE, assert_says, source, text};

#[test]
fn variants_are_rows_and_share_what_does_not_differ() {
    let bench = Bench::new();
    let program = source(OBJECTIVE, "mopd(clip_at: 5)").replace(
        "compare \"tiny table\" {",
        "model slow = student with { lr = 1e-4 }\n\
         model clipped[bound in { tight: mopd(clip_at: 1/100), tighter: mopd(clip_at: 1/1000) }] = slow with { objective = bound }\n\
         compare \"tiny table\" {",
    );
    let program =
        program.replace("expert, student, weight_average(expert)]", "expert, student, slow, clipped]");
    bench.write("tiny.mopd", &program);
    let tables = bench.tables("variants", &[]);
    let rows = tables[0]["rows"].as_array().expect("rows");
    let rows: Vec<&str> = rows.iter().map(|row| row["model"].as_str().expect("a name")).collect();
    assert_eq!(rows, ["start", "expert", "student", "slow", "clipped[tight]", "clipped[tighter]"]);
    // Written out, a variant is the same stage with the same key.
    let said = text(&bench.run(&["--out", "again", "--set", "student.lr=1e-4", "--format", "json"]));
    let kept = |stage: &str| format!("{{\"event\":\"stage_kept\",\"stage\":\"{stage}\"");
    assert_says(&said, &[&kept("start"), &kept("student")]);
    let student = bench.student("variants");
    assert!(student != bench.student("again"));
    // Each has weights of its own.
    let folders = std::fs::read_dir(bench.path("variants/models")).expect("the models");
    let weights =
        folders.map(|folder| std::fs::read(folder.expect("a folder").path().join("model.safetensors")));
    let mut weights: Vec<Vec<u8>> = weights.map(|read| read.expect("weights")).collect();
    let count = weights.len();
    weights.sort();
    weights.dedup();
    assert_eq!((weights.len(), count), (8, 8));
}
