//! Live output of a run: event files that grow, and a tracker.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use mopd_tests::root;
use serde_json::{Value, json};

use super::{Bench, text};
use crate::sweep::{SOURCE, folder, read};

/// A tracker that records its input, and at each step the length of the event file of its series.
const PROBE: &str = r#"
import json, pathlib, sys
with open("told.jsonl", "w") as told:
    for line in sys.stdin:
        event = json.loads(line)
        if event["event"] == "step":
            name = event["stage"].replace("[", ".").replace("]", "") + "-seed" + str(event["seed"])
            path = pathlib.Path("out/tensorboard", name, "events.out.tfevents.0.mopd")
            event["length"] = path.stat().st_size
        told.write(json.dumps(event) + "\n")
print("told all")
"#;

#[test]
fn a_tracker_and_event_files_have_each_step_when_it_is_done() {
    let bench = Bench::new();
    bench.write("probe.py", PROBE);
    let run = |arguments: &[&str]| {
        let output = bench.run(&[&["--out", "out", "--tensorboard"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let said = run(&["--tracker", "python3 probe.py"]);
    assert!(said.contains("tracker: told all") && !said.contains("warning: the tracker"), "{said}");

    let told = fs::read_to_string(bench.path("told.jsonl")).expect("what the probe notes");
    let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (&events[0]["event"], &events[0]["experiment"], &events[0]["out"]),
        (&"run".into(), &"tiny".into(), &"out".into())
    );
    assert_eq!(events.last().map(|event| &event["event"]), Some(&"finished".into()));
    assert!(events.iter().all(|event| event["time"].is_string() && event["rows"].is_null()));

    let mut lengths: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "step") {
        let stage = event["stage"].as_str().expect("a name");
        lengths.entry(stage).or_default().push(event["length"].as_u64().expect("bytes"));
        let scalar = |tag: &str| event["scalars"][tag].as_f64().unwrap_or_else(|| panic!("{tag}: {event}"));
        assert_eq!(scalar("loss"), event["loss"].as_f64().expect("a number"));
        assert!(scalar("learning_rate") > 0.0 && scalar("memory") > 1e6);
        let rate = event["tokens"].as_f64().expect("a count") / scalar("seconds");
        assert!((scalar("tokens_per_second") / rate - 1.0).abs() < 1e-12, "{event}");
    }
    let steps: Vec<(&str, usize)> = lengths.iter().map(|(stage, lengths)| (*stage, lengths.len())).collect();
    assert_eq!(steps, [("expert[copy]", 4), ("expert[last]", 4), ("start", 20), ("student", 6)]);
    // When the tracker gets a step, the event file has it; the file may have later steps, too.
    for (stage, lengths) in &lengths {
        assert!(lengths.is_sorted() && lengths[0] > 40, "{stage}: {lengths:?}");
    }

    // At the end, the files equal those of an export: nothing was recorded twice.
    let files = || -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(bench.path("out/tensorboard")).expect("a folder");
        let read = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.expect("an entry");
            let bytes = fs::read(entry.path().join("events.out.tfevents.0.mopd")).expect("an event file");
            (entry.file_name().into_string().expect("text"), bytes)
        };
        entries.map(read).collect()
    };
    let grown = files();
    assert_eq!(*lengths["student"].last().expect("steps") as usize, grown["student-seed1"].len());
    fs::remove_dir_all(bench.path("out/tensorboard")).expect("removing");
    run(&[]);
    assert!(grown == files(), "of a run that keeps all stages");
}

/// A stub of the package `wandb`, which writes what it is told.
const WANDB: &str = r#"
import json
class Table:
    def __init__(self, columns, data):
        self.rows = [dict(zip(columns, row)) for row in data]
class Run:
    def __init__(self, given):
        self.given, self.summary, self.scores, self.rows = given, self, {}, []
    def define_metric(self, name, step_metric=None):
        pass
    def log(self, numbers):
        if "answers" in numbers:
            self.rows = numbers["answers"].rows
    def update(self, scores):
        self.scores = scores
    def finish(self, exit_code):
        with open(f"told {self.given['name']}.json", "w") as file:
            json.dump({**self.given, "summary": self.scores, "answers": self.rows, "status": exit_code}, file)
def init(**given):
    return Run(given)
"#;

#[test]
fn a_tracker_gets_the_settings_the_group_and_the_answers_of_a_sweep() {
    let place = folder(&SOURCE.replace("rate in [1e-3, 3e-3], ", ""));
    fs::write(place.path().join("wandb.py"), WANDB).expect("a module");
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(place.path()).args(["run", "tiny.mopd", "--out", "out"]);
    command.args(["--tracker", "python3 -m mopd.track wandb"]).env("PYTHONDONTWRITEBYTECODE", "1");
    let paths = [place.path().to_owned(), root().join("tools/python")];
    command.env("PYTHONPATH", std::env::join_paths(paths).expect("paths without colons"));
    let output = command.output().expect("mopd starts");
    assert!(output.status.success() && !text(&output).contains("tracker"), "{}", text(&output));
    let told = ["bound=1", "bound=5"].map(|name| read(&place.path().join(format!("told {name}.json"))));
    assert_eq!(told[0]["group"], told[1]["group"]);
    assert!(
        told[0]["group"].as_str().is_some_and(|group| group.starts_with("tiny out ")),
        "{}",
        told[0]["group"]
    );
    for (told, bound) in told.iter().zip([1, 5]) {
        let config = &told["config"];
        let names = ["bound", "seed", "student.steps", "student.objective", "copy.tests.path"];
        let given = names.map(|name| config[name].clone());
        assert_eq!(json!(given), json!([bound, 1, 3, "mopd", "copy.jsonl"]), "{config}");
        assert_eq!((&config["start.lr"], &told["status"]), (&json!(0.001), &json!(0)));
        let results = read(&place.path().join(format!("out/bound={bound}/results.json")));
        let score = &results["tables"][0]["rows"][2]["scores"]["copy"]["mean"];
        assert_eq!(
            (&told["summary"]["table/t/student/copy"], &told["summary"]["seconds"]),
            (score, &results["seconds"])
        );
        let answers = told["answers"].as_array().expect("answers");
        assert_eq!(answers.len(), 3 * 8, "rows and prompts");
        assert!(
            answers.iter().all(|one| one["text"].is_string() && one["reward"].is_number()),
            "{}",
            answers[0]
        );
    }
}

#[test]
fn a_run_goes_on_without_its_tracker() {
    let bench = Bench::new();
    for (tracker, warning) in [
        ("true", "warning: the tracker `true` has ended; the run goes on without it"),
        ("cat > /dev/null; exit 3", "` failed (exit status: 3)"),
        ("no-such-tracker", "no-such-tracker"),
    ] {
        let output = bench.run(&["--fresh", "--out", "out", "--tracker", tracker]);
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains(warning), "{}", text(&output));
    }
    // A program that the tracker started holds its output open.
    let begun = Instant::now();
    let lasting = "sleep 100 & echo $! > lasting; echo begun; cat > /dev/null";
    let output = bench.run(&["--fresh", "--out", "out", "--tracker", lasting]);
    let took = begun.elapsed();
    let left = fs::read_to_string(bench.path("lasting")).expect("its process id");
    let _ = Command::new("kill").arg(left.trim()).status();
    assert!(output.status.success() && text(&output).contains("tracker: begun"), "{}", text(&output));
    assert!(took < Duration::from_secs(90), "{took:?}");
}
