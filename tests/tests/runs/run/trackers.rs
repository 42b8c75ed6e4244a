//! Live output of a run: event files that grow, and a tracker.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Bench, text};

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
