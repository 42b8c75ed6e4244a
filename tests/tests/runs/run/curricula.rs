//! Prompts that are chosen by their rows and by states.

use std::fs;

use super::signals::interrupted_twice;
use super::{Bench, source};

/// A bar that every step raises: by one level for `copy`, by two for `last`.
const CLIMBING: &str = "\
objective climbing {
  state bar = 0.7 by domain then bar + where(domain == copy, 0.1, 0.2)
  term near = live kl(student || teacher)
  reduce    = mean(token) then mean(sequence)
}";

/// Eight rows of each domain, of the levels 0.7, 0.8, ... 1.4.
fn climbing(choice: &str) -> Bench {
    let bench = Bench::new();
    bench.write("tiny.mopd", &source(CLIMBING, "climbing"));
    for domain in ["copy", "last"] {
        let rows = fs::read_to_string(bench.path(&format!("{domain}.jsonl"))).expect("rows");
        let with_level = rows.lines().enumerate().map(|(place, row)| {
            row.replace(
                '}',
                &format!(", \"level\": {}.{}, \"kind\": \"word\"}}\n", (7 + place) / 10, (7 + place) % 10),
            )
        });
        bench.write(&format!("{domain}.jsonl"), &with_level.collect::<String>());
    }
    bench.edit("tiny.mopd", "  prompts   = 8\n", &format!("  prompts   = 8\n{choice}"));
    bench
}

const BY_STATE: &str = "  filter    = data.level <= state.bar and data.kind == \"word\"\n  priority  = -data.level\n  refresh   = 1 steps\n";

/// The numbers of prompts below the bar, of both domains, in each of six steps. A level that equals the bar
/// is not above it, although both are in single precision.
#[test]
fn a_bar_of_the_objective_admits_harder_prompts() {
    let bench = climbing(BY_STATE);
    bench.tables("out", &[]);
    let admitted = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 3.0, 5.0, 7.0, 8.0, 8.0]];
    assert_eq!(curves(&bench, "student", "chosen_prompts"), admitted);
    // The easiest first, and all of them while they are few: the mean level rises with the bar.
    for levels in curves(&bench, "student", "priority") {
        let rises = levels.windows(2).all(|pair| pair[1] <= pair[0]);
        assert!(rises && levels[5] < levels[0], "{levels:?}");
    }
    bench.edit("tiny.mopd", "state bar = 0.7 by", "state bar = 0.8 by");
    bench.tables("other", &[]);
    assert!(bench.student("out") != bench.student("other"), "another first value chooses other prompts");
}

/// The same with completions of the data, which the teacher scores once.
#[test]
fn completions_of_the_data_are_chosen_by_states() {
    let bench = climbing(BY_STATE);
    bench.edit("tiny.mopd", "sample(n: 1, temperature: 1.0, max_tokens: 6)", "data(answer)");
    bench.tables("out", &[]);
    let chosen = curves(&bench, "student", "chosen_prompts");
    assert_eq!(chosen.iter().map(|counts| counts[1]).collect::<Vec<f64>>(), [2.0, 3.0]);
}

#[test]
fn a_choice_by_states_is_resumed() {
    let bench = climbing(BY_STATE);
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 120");
    bench.tables("expected", &[]);
    let student = bench.student("expected");
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    interrupted_twice(&bench);
    assert!(bench.student("out") == student, "other weights");
}

/// Completions of the data, of the prompts that a filter admits: `sft` learns from these rows only.
#[test]
fn rows_choose_what_is_learned_from_the_data() {
    let all = climbing("");
    let few = climbing("");
    few.edit(
        "tiny.mopd",
        "target = answer, steps = 20,",
        "target = answer, filter = data.level <= 1, steps = 20,",
    );
    let fewer = climbing("");
    for domain in ["copy", "last"] {
        let rows = fs::read_to_string(fewer.path(&format!("{domain}.jsonl"))).expect("rows");
        fewer.write(
            &format!("{domain}.jsonl"),
            &rows.lines().take(4).map(|row| format!("{row}\n")).collect::<String>(),
        );
    }
    let students = [&all, &few, &fewer].map(|bench| {
        bench.tables("out", &[]);
        bench.student("out")
    });
    assert!(students[0] != students[1] && students[0] != students[2]);
    assert_eq!(curves(&few, "start", "chosen_prompts"), [[4.0; 20], [4.0; 20]]);
}

/// The curves of a number of each domain in the report of a run, in order of their values.
fn curves(bench: &Bench, stage: &str, metric: &str) -> Vec<Vec<f64>> {
    let page = super::report_page(bench.folder.path(), "out");
    let stages = page["stages"].as_array().expect("stages");
    let stage = stages.iter().find(|known| known["name"] == stage).expect("the stage");
    let of_metric = stage["series"].as_array().expect("series").iter();
    let of_metric = of_metric.filter(|series| series["metric"] == metric && series["by"] == "domain");
    let numbers = |series: &serde_json::Value| -> Vec<f64> {
        let points = series["mean"].as_array().expect("points").iter();
        points.map(|point| point.as_f64().expect("a number")).collect()
    };
    let mut curves: Vec<Vec<f64>> = of_metric.map(numbers).collect();
    curves.sort_by(|one, other| one.partial_cmp(other).expect("numbers"));
    curves
}
