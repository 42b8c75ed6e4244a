//! What is said of a sweep while it runs, and after it: its page, `mopd ls`, the page of a run that failed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mopd_tests::browser::{browser, opened_at};
use serde_json::{Value, json};

use super::report::{Ended, asked, attributes, parsed};
use super::sweep::{SOURCE, folder, read, run, said};

fn mopd(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(mopd_tests::mopd());
    let output =
        command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Two of four runs fail: with the first rate, weights overflow.
#[test]
fn a_sweep_has_a_page_and_says_what_failed() {
    let folder = folder(&SOURCE.replace("[1e-3, 3e-3]", "[1e30, 1e-3]"));
    assert_eq!(run(folder.path(), &[]).status.code(), Some(1));
    assert_eq!(mopd(folder.path(), &["report", "out"]), "out/report.html\n");
    let path = folder.path().join("out/report.html");
    let page = parsed(&path);
    assert_eq!(
        (&page["wrong"], &page["open"], &page["outside"]),
        (&json!([]), &json!([]), &json!(["data:,"]))
    );
    let text = page["text"].as_str().expect("a text");
    for part in [
        "2 of 4 runs finished, 2 failed",
        "start, seed 1, step 1",
        "the gradient is not finite",
        "student [rate=0.001,bound=5]",
        "student: copy 0.",
    ] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let data = &page["data"][0];
    assert_eq!(data["params"], json!(["bound", "rate"]));
    let table = &data["tables"][0];
    assert_eq!((&table["rows"], &table["distilled"]), (&json!(["other", "start", "student"]), &2.into()));
    for (at, run) in data["runs"].as_array().expect("runs").iter().enumerate() {
        let results =
            folder.path().join("out").join(run["name"].as_str().expect("a name")).join("results.json");
        if run["values"]["rate"] != 0.001 {
            assert!(table["cells"][at].is_null() && !results.exists());
            continue;
        }
        let score =
            read(&results)["tables"][0]["rows"][2]["scores"]["copy"]["mean"].as_f64().expect("a number");
        let shown = table["cells"][at][2][0][0].as_f64().expect("a number");
        assert!((score - shown).abs() < 1e-3, "{run} {score} {shown}");
    }

    // The page of a run that failed begins with the failure.
    let failed = "out/rate=1000000000000000000000000000000,bound=1";
    mopd(folder.path(), &["report", failed]);
    let text =
        parsed(&folder.path().join(failed).join("report.html"))["text"].as_str().expect("a text").to_owned();
    let begins =
        text.find("Failed in start, seed 1, step 1: the gradient is not finite for the domain `copy`.");
    assert!(begins.is_some_and(|at| at < text.find("Results").expect("a section")), "{text}");
    let list = mopd(folder.path(), &["ls", "out", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).expect("one sweep");
    assert_eq!(
        (&list["state"], &list["experiment"], &list["members"]["good"]),
        (&"failed".into(), &"tiny".into(), &2.into())
    );
    let reason = list["reason"].as_str().expect("a reason");
    assert!(
        reason.contains("rate=1000000000000000000000000000000,bound=5: the gradient is not finite"),
        "{reason}"
    );

    let Some(browser) = browser() else { return };
    let html = fs::read_to_string(&path).expect("the page");
    let script = "<script>document.body.dataset.over = String(document.documentElement.scrollWidth > innerWidth);</script></body>";
    fs::write(&path, html.replacen("</body>", script, 1)).expect("a page");
    let (dom, log) =
        opened_at(browser, &format!("file://{}", path.display()), 10_000, &["--window-size=390,800"]);
    assert_eq!(log, "");
    assert!(
        dom.contains("data-drawn=\"yes\"") && dom.contains("data-over=\"false\""),
        "wider than the window"
    );
    // Two finished runs, on two axes.
    assert_eq!(attributes(&dom, "data-points"), ["4"]);
    let chart = dom.split("data-chart=\"swept\"").nth(1).and_then(|rest| rest.split("</figure>").next());
    assert!(chart.is_some_and(|chart| chart.contains("role=\"img\"") && !chart.contains("NaN")), "{dom}");
}

/// The second run takes long. It is killed, and the sweep is resumed.
#[test]
fn a_sweep_in_progress_is_served_killed_and_resumed() {
    let source = SOURCE
        .replace("rate in [1e-3, 3e-3], bound in [1, 5]", "n in [3, 3000]")
        .replace("param bound", "param n: count = 3\nparam bound")
        .replace("  steps     = 3\n", "  steps     = n\n");
    let folder = folder(&source);
    let start = |arguments: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(folder.path()).args(arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ended(command.spawn().expect("mopd starts"))
    };
    let mut sweep = start(&["run", "tiny.mopd", "--out", "out", "--format", "json", "--predict", "never"]);
    let mut lines = BufReader::new(sweep.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(r#""steps":3000"#) && line.contains(r#""step":9,"#)));
    let reading = std::thread::spawn(move || lines.for_each(drop));

    let mut server = start(&["report", "--live", "out"]);
    let mut url = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut url).expect("a line");
    let address = url.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).expect("a URL");
    let get = |path: &str| asked(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"));
    let state = || serde_json::from_str::<Value>(&get("/state").1).expect("JSON");
    let first = state();
    let body = first["body"].as_str().expect("HTML");
    assert!(
        body.contains("Running: 1 of 2 runs finished; about ") && body.contains(" left of about "),
        "{body}"
    );
    assert!(body.contains("<td>running</td>") && body.contains(" of 3000</td>"), "{body}");
    assert!(
        first["data"]["tables"][0]["cells"][0].is_array() && first["data"]["tables"][0]["cells"][1].is_null()
    );
    let group = format!("-{}", sweep.0.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().expect("kill starts").success());
    sweep.0.wait().expect("it ends");
    reading.join().expect("its output is read");
    let killed = state();
    let body = killed["body"].as_str().expect("HTML");
    assert!(body.contains("No command writes to this sweep now: 1 of 2 runs finished; about "), "{body}");
    assert!(body.contains("<td>unfinished</td>"), "{body}");
    let version = killed["version"].as_str().expect("a version");
    assert_eq!(get(&format!("/state?since={version}")).0, 204, "nothing new");
    if let Some(browser) = browser() {
        let (dom, log) = opened_at(browser, url.trim(), 10_000, &["--window-size=1000,900"]);
        assert_eq!(log, "");
        assert!(attributes(&dom, "data-answers")[0].parse::<u32>().expect("a number") >= 2);
        assert!(dom.contains("No command writes to this sweep now: 1 of 2 runs finished"), "{dom}");
    }

    let output = run(folder.path(), &["--predict", "never"]);
    assert!(output.status.success(), "{}", said(&output));
    let ended = state();
    assert!(ended["body"].as_str().expect("HTML").contains("2 of 2 runs finished in "), "{ended}");
    // The whole time has both pieces.
    let list = mopd(folder.path(), &["ls", "out/n=3000", "--format", "json"]);
    let whole = serde_json::from_str::<Value>(&list).expect("a run")["seconds"].as_f64().expect("seconds");
    let last = read(&folder.path().join("out/n=3000/results.json"))["seconds"].as_f64().expect("seconds");
    assert!(whole > last, "{whole} {last}");
}
