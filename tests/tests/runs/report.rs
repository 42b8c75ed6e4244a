//! Reports of a run's folder, end to end: the page, read by a parser and opened in a browser; comparisons;
//! event files.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use mopd_tests::browser::{browser, opened_at};
use serde_json::Value;
use tempfile::TempDir;

/// Hostile text: the end of a script, a comment, an image that runs a script, a bell, a change of text
/// direction.
const HOSTILE: &str = "</script><!--<img src=x onerror=alert(1)>\u{7}\u{202e}&amp;";

const SOURCE: &str = r#"use std.opd.mopd
use std.baselines.{weight_average}

// </script><b>not bold</b>
experiment "tiny </script> & 'more'" { seed = 1 }

param steps: count = 6

domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match, share = 1/2 }
domain last { prompts = "last.jsonl", tests = "last.test.jsonl", reward = exact_match, share = 1/2 }

model base  = llama { layers = 1, width = 32, heads = 2, context = 96, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 3e-3 }
model expert[d in domains] = grpo(start, on: d) { steps = 4, prompts = 4, samples = 4, max_tokens = 6, lr = 1e-3 }

teacher specialist[d in domains] = expert[d]
route { for d in domains: domain == d -> specialist[d] }

model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 8
  steps     = steps
  lr        = 1e-3
}

compare "tiny & table" {
  models      = [start, expert, student, weight_average(expert)]
  samples     = 2
  seeds       = 2
  temperature = 1.0
  max_tokens  = 6
}
"#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().expect("a temporary folder");
        let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab", "aab", "bba", "ccd", "dda"];
        let line = |domain: &str, word: &str, answer: &str| {
            let prompt = format!("{domain}: {HOSTILE}{word}=");
            serde_json::json!({ "prompt": prompt, "answer": answer }).to_string() + "\n"
        };
        for domain in ["copy", "last"] {
            let all: Vec<String> = words
                .iter()
                .map(|word| line(domain, word, if domain == "copy" { word } else { &word[word.len() - 1..] }))
                .collect();
            fs::write(folder.path().join(format!("{domain}.jsonl")), all[..8].concat())
                .expect("writing a test file");
            fs::write(folder.path().join(format!("{domain}.test.jsonl")), all[8..].concat())
                .expect("writing a test file");
        }
        fs::write(folder.path().join("tiny.mopd"), SOURCE).expect("writing a test file");
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mopd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command.output().expect("mopd starts")
    }

    #[track_caller]
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.mopd(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("mopd writes text")
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let output = self.mopd(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: no `{word}` in: {said}");
        }
    }
}

/// One run, shared by all tests that only read it.
fn shared() -> &'static Place {
    static SHARED: OnceLock<Place> = OnceLock::new();
    SHARED.get_or_init(|| {
        let place = Place::new();
        place.good(&["run", "tiny.mopd", "--out", "run"]);
        place
    })
}

fn page() -> (String, PathBuf) {
    let place = shared();
    let out = place.path("page.html");
    if !out.exists() {
        // Written elsewhere and renamed, because another test may be reading.
        let beside = tempfile::Builder::new()
            .suffix(".html")
            .tempfile_in(place.folder.path())
            .expect("a temporary file");
        let name = beside.path().to_str().expect("a plain path");
        assert_eq!(place.good(&["report", "run", "--out", name]), format!("{name}\n"));
        fs::rename(beside.path(), &out).expect("renaming the page");
        let _ = beside.keep();
    }
    (fs::read_to_string(&out).expect("the page"), out)
}

/// Extracts elements, their attributes and the texts of scripts with Python's HTML parser.
const PARSER: &str = r##"
import json, sys
from html.parser import HTMLParser
VOID = {"meta", "link", "br", "img", "input", "hr"}
class Page(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.ids, self.targets, self.outside, self.tags, self.events, self.scripts = [], [], [], [], [], {}, [], []
        self.text = ""
    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag == "script": self.scripts.append([dict(attributes).get("type"), ""])
        for name, value in attributes:
            if name == "id": self.ids.append(value)
            if name.startswith("on"): self.events.append(name)
            if name in ("href", "src"):
                (self.targets if value.startswith("#") else self.outside).append(value)
        if tag not in VOID: self.open.append(tag)
    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag: self.wrong.append(tag)
        else: self.open.pop()
    def handle_data(self, data):
        if self.open and self.open[-1] == "script": self.scripts[-1][1] += data
        else: self.text += data
page = Page()
page.feed(open(sys.argv[1], encoding="utf-8").read())
page.close()
data = [json.loads(text) for kind, text in page.scripts if kind == "application/json"]
print(json.dumps({"wrong": page.wrong, "open": page.open, "ids": page.ids, "targets": page.targets, "outside": page.outside,
                  "tags": page.tags, "events": page.events, "data": data, "text": page.text}))
"##;

pub fn parsed(path: &Path) -> Value {
    let output = Command::new("python3").arg("-c").arg(PARSER).arg(path).output().expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the parser answers JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

/// Whether a link leads to what the script draws.
fn is_for_the_script(target: &str) -> bool {
    ["#train-", "#answers-"].iter().any(|begin| target.starts_with(begin))
}

#[test]
fn the_page_is_whole_and_asks_for_nothing() {
    let (html, path) = page();
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
    let page = parsed(&path);
    assert_eq!(
        (texts(&page["wrong"]), texts(&page["open"])),
        (vec![], vec![]),
        "elements are closed in order"
    );
    assert_eq!(texts(&page["outside"]), ["data:,"], "nothing is fetched");
    assert_eq!(texts(&page["events"]), Vec::<&str>::new());
    assert_eq!(
        (&page["tags"]["script"], &page["tags"]["img"]),
        (&Value::from(6), &Value::Null),
        "no text became an element"
    );
    // Every number opens its completions, and every row leads to its stage.
    let ids = texts(&page["ids"]);
    let known: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(known.len(), ids.len(), "ids are unique");
    for target in texts(&page["targets"]).iter().filter(|target| !is_for_the_script(target)) {
        assert!(known.contains(&target[1..]), "{target} leads nowhere");
    }
    assert!(texts(&page["targets"]).iter().filter(|target| target.starts_with("#stage-")).count() > 15);
    let cells: BTreeSet<&str> =
        texts(&page["targets"]).into_iter().filter(|target| target.starts_with("#answers-")).collect();
    assert_eq!(cells.len(), 4 * 2, "rows and domains");
    // The source and the plan's hash appear as text.
    let text = page["text"].as_str().expect("a text");
    let plan: Value =
        serde_json::from_str(&fs::read_to_string(shared().path("run/plan.json")).expect("the plan"))
            .expect("JSON");
    for part in [
        plan["hash"].as_str().expect("a hash"),
        "// </script><b>not bold</b>",
        "tiny </script> & 'more'",
        "libtorch",
        "seeds 1, 2",
        "pass@1, 2 samples a prompt at temperature 1, 4 prompts in each column.",
        "mopd run tiny.mopd --out run",
        "git commit",
        "hardware",
        "copy.test.jsonl",
    ] {
        assert!(text.contains(part), "no `{part}`");
    }
    assert!(!html.contains(HOSTILE) && !text.contains('\u{202e}') && !text.contains('\u{7}'));
}

#[test]
fn every_chart_has_its_numbers() {
    let page = parsed(&page().1);
    let [data] = page["data"].as_array().expect("a list").as_slice() else { panic!("one set of data") };
    let stage = |name: &str| {
        data["stages"]
            .as_array()
            .expect("stages")
            .iter()
            .find(|stage| stage["name"] == name)
            .expect("a stage")
    };
    let student = stage("student");
    assert_eq!(
        (&student["steps"], &student["seeds"], &student["whole"]),
        (&6.into(), &serde_json::json!([1, 2]), &true.into())
    );
    let has = |stage: &Value, metric: &str, by: &str| {
        let series = stage["series"].as_array().expect("series").iter();
        series
            .filter(|one| {
                one["metric"] == metric
                    && one["by"] == by
                    && one["mean"].as_array().is_some_and(|mean| mean.len() == 6)
            })
            .count()
    };
    for metric in ["reward", "divergence", "entropy", "length", "prompt_share", "token_share", "signal_share"]
    {
        assert_eq!(has(student, metric, "domain"), 2, "{metric}");
    }
    assert_eq!((has(student, "divergence", "teacher"), has(student, "divergence_floor", "teacher")), (2, 2));
    for metric in ["loss", "seconds", "tokens_per_second", "memory"] {
        assert_eq!(has(student, metric, "step"), 1, "{metric}");
    }
    // Two domains, each by position and by entropy.
    assert_eq!(student["histograms"].as_array().map(Vec::len), Some(4));
    // Two samples of each domain at the first step, with the hostile prompt unchanged.
    let samples = student["samples"].as_array().expect("samples");
    let first: Vec<_> = samples.iter().filter(|sample| sample["step"] == 0).collect();
    assert_eq!(first.len(), 4);
    let prompts = texts(&data["prompts"]);
    let prompt = |sample: &Value| prompts[sample["prompt"].as_u64().expect("a place") as usize];
    assert!(samples.iter().all(|sample| prompt(sample).contains(HOSTILE)));
    for sample in samples {
        let tokens = sample["text"].as_array().map_or(0, Vec::len);
        assert!(tokens > 0);
        for numbers in ["logp", "teacher", "divergence", "advantage", "signal", "entropy"] {
            assert_eq!(sample[numbers].as_array().map(Vec::len), Some(tokens), "{numbers}");
        }
    }
    // The graph has an edge for each input of a stage, and stages have their times.
    assert!(data["edges"].as_array().is_some_and(|edges| edges.len() >= 8));
    assert!(student["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let rows = data["tables"][0]["rows"].as_array().expect("rows");
    assert!(
        rows.len() == 4
            && rows.iter().all(|row| row["cells"].as_array().is_some_and(|cells| cells.len() == 2))
    );
}

/// The headline and the differences between rows are those of the results.
#[test]
fn the_answer_stands_on_top() {
    let page = parsed(&page().1);
    let results: Value =
        serde_json::from_str(&fs::read_to_string(shared().path("run/results.json")).expect("results"))
            .expect("JSON");
    let rows = results["tables"][0]["rows"].as_array().expect("rows");
    let score = |row: usize, domain: &str| rows[row]["scores"][domain]["mean"].as_f64().expect("a number");
    let mean = |row: usize| (score(row, "copy") + score(row, "last")) / 2.0;
    assert_eq!(rows[2]["model"], "student");
    let text = page["text"].as_str().expect("a text");
    let said = format!("student has {:.2} [", mean(2));
    assert!(text.contains(&said), "no `{said}`");
    let best = (0..rows.len()).map(mean).fold(0.0, f64::max);
    assert!(
        if best > mean(2) { text.contains("a difference of +") } else { text.contains("; best of 4 rows") },
        "{text}"
    );
    let references = page["data"][0]["tables"][0]["references"].as_array().expect("references");
    assert_eq!(references.len(), 4);
    for reference in references {
        let to = reference["row"].as_u64().expect("a row") as usize;
        for (of, cells) in reference["rows"].as_array().expect("rows").iter().enumerate() {
            for (cell, domain) in cells.as_array().expect("cells").iter().zip(["copy", "last"]) {
                let expected = score(of, domain) - score(to, domain);
                let Some(shown) = cell.as_array() else {
                    assert_eq!(of, to, "{cells}");
                    continue;
                };
                let [mean, low, high] = [0, 1, 2].map(|at| shown[at].as_f64().expect("a number"));
                assert!((mean - expected).abs() < 1e-3 && low <= mean && mean <= high, "{cells} {expected}");
                // From the other row, the difference is the same with the opposite sign.
                let back = &references[of]["rows"][to];
                let back = &back[if domain == "copy" { 0 } else { 1 }];
                assert_eq!(back[1].as_f64().expect("a number"), -high, "{cells}");
            }
        }
    }
}

/// Runs by hand what a click would: a row to compare with, and the completions of a prompt.
#[test]
fn rows_and_completions_are_laid_side_by_side() {
    let Some(browser) = browser() else { return };
    let (text, path) = page();
    let data = &parsed(&path)["data"][0];
    let samples = |stage: &Value| stage["samples"].as_array().expect("samples").clone();
    let all: Vec<Value> = data["stages"].as_array().expect("stages").iter().flat_map(samples).collect();
    let distilled =
        data["stages"].as_array().expect("stages").iter().find(|stage| stage["kind"] == "distill");
    let first = &samples(distilled.expect("a student"))[0]["prompt"];
    let same = all.iter().filter(|sample| sample["prompt"] == *first).count();
    let page = tempfile::Builder::new().suffix(".html").tempfile().expect("a temporary file");
    let script =
        "<script>const chosen = document.querySelector('[data-reference] select'); chosen.value = '0';
        chosen.dispatchEvent(new Event('change'));
        document.querySelector('.samples tbody button').click();</script></body>";
    fs::write(page.path(), text.replacen("</body>", script, 1)).expect("a page");
    let (dom, log) = opened(browser, page.path(), "", &[]);
    assert_eq!(log, "");
    // Three other rows, in two domains.
    assert_eq!(dom.matches("class=\"difference").count(), 6);
    assert!(dom.contains("its difference to start, with a 95% interval over prompts and seeds"));
    assert!(dom.contains(&format!("{0} of {0}", all.len())), "the table counts its samples");
    let table = dom.split("class=\"samples\"").nth(1).and_then(|rest| rest.split("</table>").next());
    assert_eq!(table.expect("a table").matches("<tr>").count(), 1 + 25);
    let beside = dom.split("class=\"side-by-side\"").nth(1).expect("completions");
    assert!(dom.contains(&format!("Completions of one prompt: {same}")));
    assert_eq!(beside.split("</section>").next().expect("its end").matches("<article>").count(), same);
}

/// A number opens its completions, by a click or by its address, and a second row is laid beside them.
#[test]
fn a_number_opens_its_completions() {
    let Some(browser) = browser() else { return };
    let (text, path) = page();
    let data = &parsed(&path)["data"][0]["tables"][0];
    let column = &data["answers"]["columns"][1];
    let texts = |row: usize| -> Vec<bool> {
        let shown = column["rows"][row].as_array().expect("completions");
        shown.iter().map(|one| one[0].as_f64().expect("a reward") >= 1.0).collect()
    };
    let (start, student) = (texts(0), texts(2));
    let table = |dom: &str| -> String {
        let table = dom.split("class=\"answers\"").nth(1).expect("the completions");
        table.split("</table>").next().expect("its end").to_owned()
    };
    let title = "student on last, seed 1</h3>";
    let (dom, log) = opened(browser, &path, "#answers-0-2-1", &[]);
    assert_eq!(log, "");
    assert!(dom.contains(title));
    assert_eq!(table(&dom).matches("<tr>").count(), 1 + student.len());
    assert_eq!(
        table(&dom).matches("class=\"right\"").count(),
        student.iter().filter(|right| **right).count()
    );
    assert!(!dom.contains("onerror=alert(1)>"), "a text became an element");
    let page = tempfile::Builder::new().suffix(".html").tempfile().expect("a temporary file");
    let script = "<script>document.querySelector('a[href=\"#answers-0-2-1\"]').click();
        setTimeout(() => {
          const choose = (name, value) => {
            const all = [...document.querySelectorAll('#answer-table label')];
            const control = all.find((one) => one.textContent.startsWith(name)).firstElementChild;
            control.value = value;
            control.dispatchEvent(new Event('change'));
          };
          choose('Beside', '0');
          choose('Show', 'wrong');
        }, 100);</script></body>";
    fs::write(page.path(), text.replacen("</body>", script, 1)).expect("a page");
    let (dom, log) = opened(browser, page.path(), "", &[]);
    assert_eq!(log, "");
    assert!(dom.contains("student and start on last, seed 1</h3>"));
    assert!(dom.contains("<option value=\"wrong\">right in start, wrong in student</option>"));
    let lost = start.iter().zip(&student).filter(|(before, after)| **before && !**after).count();
    assert_eq!(table(&dom).matches("<tr>").count(), 1 + lost);
    assert!(dom.contains(&format!("{lost} of {}<", student.len())));
}

/// Several runs on one page: their stages in one chart, their tables side by side.
#[test]
fn runs_share_a_page() {
    let place = shared();
    place.good(&["run", "tiny.mopd", "--set", "steps=3", "--out", "short"]);
    assert_eq!(place.good(&["report", "run", "short", "--out", "both.html"]), "both.html\n");
    let path = place.path("both.html");
    let page = parsed(&path);
    assert_eq!((texts(&page["wrong"]), texts(&page["open"])), (vec![], vec![]));
    let ids = texts(&page["ids"]);
    let known: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(known.len(), ids.len(), "ids are unique");
    for target in texts(&page["targets"]).iter().filter(|target| !is_for_the_script(target)) {
        assert!(known.contains(&target[1..]), "{target} leads nowhere");
    }
    let data = &page["data"][0];
    assert_eq!(texts(&data["runs"]), ["run", "short"]);
    let stages = data["stages"].as_array().expect("stages");
    let students: Vec<&Value> = stages.iter().filter(|stage| stage["name"] == "student").collect();
    assert_eq!((&students[0]["run"], &students[1]["run"]), (&0.into(), &1.into()));
    for (student, steps) in students.iter().zip([6, 3]) {
        for axis in ["elapsed_seconds", "elapsed_tokens"] {
            let mean = student[axis]["mean"].as_array().expect(axis);
            assert_eq!(mean.len(), steps, "{axis}");
            assert!(
                mean.windows(2).all(|pair| pair[0].as_f64() < pair[1].as_f64()),
                "{axis} grows: {mean:?}"
            );
        }
    }
    let text = page["text"].as_str().expect("a text");
    assert!(
        text.contains("tiny & table: differences to run") && text.contains("prompts and seeds are paired")
    );

    let Some(browser) = browser() else { return };
    let with = |script: &str| {
        let page = tempfile::Builder::new().suffix(".html").tempfile().expect("a temporary file");
        let script = format!(
            "<script>const overlay = document.querySelector('[data-chart=overlay]');
            const all = [...overlay.querySelectorAll('label')];
            const control = (name) => all.find((one) => one.textContent.trim().startsWith(name)).firstElementChild;
            const set = (name, value) => {{ control(name).value = value; control(name).dispatchEvent(new \
             Event('change')); }};
            {script}</script></body>"
        );
        let html = fs::read_to_string(&path).expect("the page");
        fs::write(page.path(), html.replacen("</body>", &script, 1)).expect("a page");
        let (dom, log) = opened(browser, page.path(), "", &["--window-size=900,900"]);
        assert_eq!(log, "", "{script}");
        let figure = dom.split("data-chart=\"overlay\"").nth(1).expect("the chart");
        figure.split("</figure>").next().expect("its end").to_owned()
    };
    let points = |figure: &str| attributes(figure, "data-points")[0].parse::<usize>().expect("a number");
    // Both runs' students, in two domains.
    let plain = with("");
    assert_eq!(points(&plain), 2 * (6 + 3));
    assert!(plain.contains("run: student, copy") && plain.contains("short: student, last"), "{plain}");
    let seeds = with("set('Seeds', 'each'); set('X axis', 'tokens'); set('Smoothing', '0.9');");
    assert!(seeds.contains("short: student, copy, seed 2") && seeds.contains("completion tokens trained on"));
    assert!(seeds.contains("exponential moving averages over points (factor 0.9)"), "{seeds}");
    let zoomed =
        with("overlay.querySelector('[aria-label=\"X axis from\"]').value = '4'; set('Metric', 'loss');");
    // Steps 4 and 5 of the longer run; the loss is that of the whole step.
    assert_eq!(points(&zoomed), 2);
}

/// The time in milliseconds that a page's scripts get, by the browser's clock.
const TIME: u32 = 10_000;

/// The page as a browser has it when its scripts are done, and what it logged.
pub fn opened(browser: &str, path: &Path, anchor: &str, flags: &[&str]) -> (String, String) {
    opened_at(browser, &format!("file://{}{anchor}", path.display()), TIME, flags)
}

#[test]
fn a_browser_draws_every_chart() {
    let Some(browser) = browser() else { return };
    let (_, path) = page();
    let data = &parsed(&path)["data"][0];
    let trained = data["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .filter(|stage| stage["at"].as_array().is_some_and(|at| !at.is_empty()));
    let trained: Vec<_> = trained.collect();
    assert_eq!(trained.len(), 4);
    for (stage, flags) in trained.into_iter().zip([
        &["--window-size=1280,900"][..],
        &["--window-size=390,800"],
        &[],
        &["--window-size=700,900"],
    ]) {
        let (dom, log) = opened(browser, &path, &format!("#train-{}", stage["id"]), flags);
        assert_eq!(log, "", "the console of {}", stage["name"]);
        assert!(dom.contains("data-drawn=\"yes\""), "the script ended early");
        let charts: Vec<&str> = dom
            .split("<figure ")
            .skip(1)
            .map(|rest| rest.split("</figure>").next().unwrap_or(rest))
            .collect();
        let mut seen = BTreeSet::new();
        for chart in charts {
            let attribute = |name: &str| {
                chart.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next())
            };
            let name = attribute("data-chart").expect("every figure is a chart");
            let points: usize =
                attribute("data-points").expect("every chart counts its points").parse().expect("a number");
            assert!(points > 0, "{name} of {} has nothing to show", stage["name"]);
            if name == "tokens" {
                assert_eq!(chart.matches("<button").count(), points);
                assert!(chart.contains("role=\"toolbar\""));
            } else {
                assert!(chart.contains("<svg"), "{name}");
                assert!(
                    name == "graph" || (chart.contains("role=\"img\"") && chart.contains("aria-label=\"")),
                    "{name}"
                );
                assert!(!chart.contains("NaN"), "{name} of {}", stage["name"]);
            }
            seen.insert(name.to_owned());
        }
        for name in [
            "scores",
            "overlay",
            "learning",
            "weights-position",
            "weights-entropy",
            "tokens",
            "graph",
            "cost",
        ] {
            assert!(seen.contains(name), "{name} of {}", stage["name"]);
        }
        assert_eq!(seen.contains("divergence"), stage["name"] == "student");
        assert!(!dom.contains("onerror=alert(1)>"), "a text became an element");
    }
}

/// The values of an attribute, in the order of the elements that have it.
pub fn attributes<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mark = format!(" {name}=\"");
    text.split(mark.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// An objective that lowers the weight of tokens after a token that the teacher would not sample.
#[test]
fn weights_that_differ_are_what_the_histograms_show() {
    let Some(browser) = browser() else { return };
    let place = Place::new();
    let weighted = SOURCE
        .replace("use std.opd.mopd\n", "use std.prune_opd.prune_opd_nucleus\n")
        .replace("mopd(clip_at: 5)", "prune_opd_nucleus(p: 0.3, step_down: 0.3, floor_weight: 0.1)");
    fs::write(place.path("tiny.mopd"), weighted).expect("an experiment");
    place.good(&["run", "tiny.mopd", "--out", "run"]);
    place.good(&["report", "run"]);
    let path = place.path("run/report.html");
    let data = &parsed(&path)["data"][0];
    let student = data["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .find(|stage| stage["name"] == "student")
        .expect("a student");
    let (dom, log) =
        opened(browser, &path, &format!("#train-{}", student["id"]), &["--window-size=1280,900"]);
    assert_eq!(log, "");
    for over in ["position", "entropy"] {
        let figure = dom.split(&format!("data-chart=\"weights-{over}\"")).nth(1).expect("a histogram");
        let figure = figure.split("</figure>").next().expect("its end");
        assert!(figure.contains(&format!("<span>Weight over {over}</span>")), "{figure}");
        assert!(
            figure.contains("weight from") && figure.matches("% of the column</title>").count() > 3,
            "{figure}"
        );
        // Negative powers of 2 are written as fractions.
        assert!(
            figure.contains(">1/16<") && figure.contains(">1/2<") && !figure.contains(">0.5<"),
            "{figure}"
        );
    }
    assert!(dom.contains("<option value=\"weight\">by weight</option>"));
}

/// Charts are redrawn for printing, with the current choices, and back for the window.
#[test]
fn paper_gets_charts_of_its_own_width() {
    let Some(browser) = browser() else { return };
    let (text, path) = page();
    let data = &parsed(&path)["data"][0];
    let student = data["stages"]
        .as_array()
        .expect("stages")
        .iter()
        .find(|stage| stage["name"] == "student")
        .expect("a student");
    let with = |script: &str| {
        let page = tempfile::Builder::new().suffix(".html").tempfile().expect("a temporary file");
        let script = format!(
            "<script>const choice = document.querySelector('[data-chart=learning] select'); choice.value = \
             'loss';
            choice.dispatchEvent(new Event('change')); {script}</script></body>"
        );
        fs::write(page.path(), text.replacen("</body>", &script, 1)).expect("a page");
        let (dom, log) =
            opened(browser, page.path(), &format!("#train-{}", student["id"]), &["--window-size=500,900"]);
        assert_eq!(log, "");
        let width = |chart: &str| -> f64 {
            let figure = dom.split(&format!("data-chart=\"{chart}\"")).nth(1).expect("a chart");
            let svg = figure.split("<svg").nth(1).expect("it is drawn");
            attributes(svg, "width")[0].parse().expect("a number")
        };
        assert!(dom.contains("aria-label=\"Training loss, student."), "what was chosen is not shown");
        ["learning", "divergence", "weights-position", "cost"].map(width)
    };
    let window = with("");
    assert!(window.iter().all(|width| *width < 500.0), "{window:?}");
    assert_eq!(with("dispatchEvent(new Event('beforeprint'));"), [700.0, 335.0, 335.0, 700.0]);
    assert_eq!(
        with("dispatchEvent(new Event('beforeprint')); dispatchEvent(new Event('afterprint'));"),
        window
    );
}

#[test]
fn an_unfinished_run_has_a_page_too() {
    let place = shared();
    let copy = place.path("unfinished");
    fs::create_dir(&copy).expect("a folder");
    for file in ["plan.json", "source.mopd"] {
        fs::copy(place.path("run").join(file), copy.join(file)).expect("copying");
    }
    place.good(&["report", "unfinished"]);
    let page = parsed(&copy.join("report.html"));
    assert!(page["text"].as_str().expect("a text").contains("This run was not finished"));
    place.refused(&["compare", "run", "unfinished"], &["has no rewards.parquet", "finished stages are kept"]);
}

/// Sends a request to the server of a page. Returns status and body.
pub fn asked(address: &str, request: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).expect("the server listens");
    let text = format!("{request}\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).expect("writing a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, body.to_owned())
}

/// A process that is killed when the test ends.
pub struct Ended(pub std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The page of a run in progress grows with it, and becomes the page of its results. The server accepts no
/// changes, and pages of other origins can't read it.
#[test]
fn a_run_in_progress_is_served_while_it_grows() {
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    fs::write(place.path("tiny.mopd"), SOURCE.replace("steps: count = 6", "steps: count = 40000"))
        .expect("an experiment");
    let start = |arguments: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(place.folder.path()).args(arguments).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ended(command.spawn().expect("mopd starts"))
    };
    let mut run = start(&["run", "tiny.mopd", "--out", "run", "--format", "json"]);
    let mut lines = BufReader::new(run.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let student = |line: &String| line.contains(r#""event":"step","stage":"student""#);
    assert!(lines.any(|line| student(&line) && line.contains(r#""step":3,"#)));
    let reading = std::thread::spawn(move || lines.for_each(drop));

    let mut server = start(&["report", "--live", "run"]);
    let mut said = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
    let url = said.trim().to_owned();
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).expect("a URL");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let get = |path: &str| asked(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"));
    let state = || {
        let (status, body) = get("/state");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    };
    let points = |state: &Value| {
        let stages = state["stages"].as_array().expect("stages");
        let student = stages.iter().find(|stage| stage["name"] == "student").expect("the student");
        student["steps"].as_u64().expect("a number")
    };
    let first = state();
    assert_eq!((&first["running"], &first["finished"]), (&true.into(), &false.into()));
    assert!(points(&first) >= 3, "{first}");
    let at_work = first["status"]["at_work"].as_array().expect("stages");
    assert!(at_work.iter().any(|stage| stage["steps"] == 40000), "{first}");
    assert!(get("/").1.contains("id=\"live\""));

    // The server accepts only reads, and only with its own address as host.
    for (request, status) in [
        (format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0"), 405),
        (format!("DELETE /state HTTP/1.1\r\nHost: {address}"), 405),
        (format!("GET /../plan.json HTTP/1.1\r\nHost: {address}"), 404),
        ("GET /state HTTP/1.1\r\nHost: elsewhere.example".to_owned(), 403),
        // A length that no memory suffices for is not reserved.
        (format!("GET / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 10000000000000"), 200),
        (format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 10000000000000"), 405),
    ] {
        assert_eq!(asked(address, &request).0, status, "{request}");
    }

    if let Some(browser) = browser() {
        let (dom, log) = opened_at(browser, &url, TIME, &["--window-size=1000,900"]);
        assert_eq!(log, "");
        let answers: usize = attributes(&dom, "data-answers")[0].parse().expect("a number");
        assert!(answers >= 2, "it asked {answers} times");
        assert!(dom.contains("Running: ") && dom.contains(" of 40000</td>"), "{dom}");
        let chart = dom.split("data-chart=\"overlay\"").nth(1).expect("a chart");
        assert!(attributes(chart, "data-points")[0].parse::<usize>().expect("a number") > 3);
    }

    let group = format!("-{}", run.0.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().expect("kill starts").success());
    run.0.wait().expect("it ends");
    reading.join().expect("its output is read");
    let last = state();
    assert!(points(&last) > points(&first), "it grew");
    assert_eq!((&last["running"], &last["status"]["ended"]), (&false.into(), &"interrupted".into()));
    let version = last["version"].as_str().expect("a version");
    assert_eq!(get(&format!("/state?since={version}")).0, 204, "nothing new");

    // A page that is written to a file has the steps too.
    place.good(&["report", "run"]);
    let page = parsed(&place.path("run/report.html"));
    assert!(page["text"].as_str().expect("a text").contains("This run was not finished"));
    assert_eq!(points(&page["data"][0]), points(&last));

    // The same run with another setting, up to its end.
    place.good(&["run", "tiny.mopd", "--out", "run", "--set", "steps=5"]);
    assert!(!place.path("run/events.jsonl").exists());
    assert_eq!(state()["finished"], true);
    let page = get("/").1;
    assert!(page.contains("id=\"table-0\"") && !page.contains("id=\"live\""));
    place.refused(&["report", "--live", "run", "run"], &["`--live` shows one run"]);
    let port = address.rsplit(':').next().expect("a port");
    place.refused(&["report", "--live", "run", "--port", port], &["can't listen on port", "--port N"]);
}

/// The server ends at the first signal, even if a browser holds a connection open and a worker helped to
/// make a page.
#[test]
fn a_page_that_is_served_ends_at_the_first_signal() {
    let place = Place::new();
    fs::write(place.path("tiny.mopd"), SOURCE).expect("an experiment");
    place.good(&["run", "tiny.mopd", "--out", "run"]);
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(place.folder.path()).args(["report", "--live", "run"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Ended(command.spawn().expect("mopd starts"));
    let mut said = String::new();
    BufReader::new(server.0.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
    let address = said.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).expect("a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("the server listens");
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).expect("a request");
    let mut first = String::new();
    BufReader::new(stream.try_clone().expect("a stream")).read_line(&mut first).expect("an answer");
    assert_eq!(first, "HTTP/1.1 200 OK\r\n");
    let id = server.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill starts").success());
    let since = std::time::Instant::now();
    let status = loop {
        if let Some(status) = server.0.try_wait().expect("a process") {
            break status;
        }
        assert!(since.elapsed().as_secs() < 10, "it goes on");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(130));
    let mut errors = String::new();
    server.0.stderr.take().expect("piped").read_to_string(&mut errors).expect("text");
    assert!(!errors.contains("stopping after this step") && errors.contains("interrupted"), "{errors}");
    drop(stream);
}

/// Results of a new plan are never shown beside numbers of the old one, and the old numbers are not lost.
#[test]
fn a_rerun_that_is_killed_shows_no_numbers_of_the_run_before() {
    for signal in ["-KILL", "-INT"] {
        let place = Place::new();
        let long = |steps: &str| {
            fs::write(place.path("tiny.mopd"), SOURCE.replace("steps: count = 6", steps)).expect("an edit")
        };
        place.good(&["run", "tiny.mopd", "--out", "run"]);
        let results = fs::read(place.path("run/results.json")).expect("results");
        long("steps: count = 4000");
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(place.folder.path()).args([
            "run",
            "tiny.mopd",
            "--out",
            "run",
            "--format",
            "json",
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().expect("mopd starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(r#""event":"step""#) && line.contains(r#""step":3,"#)));
        let group = format!("-{}", child.id());
        assert!(Command::new("kill").args([signal, "--", &group]).status().expect("kill starts").success());
        // Reads to the end, because the process would block if nobody read its output.
        lines.for_each(drop);
        child.wait().expect("it ends");

        place.good(&["report", "run"]);
        let page = parsed(&place.path("run/report.html"));
        assert!(page["text"].as_str().expect("a text").contains("This run was not finished"), "{signal}");
        place.refused(&["compare", "run", "run"], &["has no rewards.parquet", "finished stages are kept"]);

        // The previous run is complete, in its own folder.
        assert!(fs::read(place.path("run/previous/results.json")).expect("results") == results, "{signal}");
        place.good(&["report", "run/previous"]);
        let page = parsed(&place.path("run/previous/report.html"));
        assert!(!page["text"].as_str().expect("a text").contains("This run was not finished"), "{signal}");
        assert!(
            fs::read_to_string(place.path("run/previous/source.mopd"))
                .expect("a text")
                .contains("steps: count = 6")
        );

        // The new run, once finished, can be compared with the previous one.
        long("steps: count = 5");
        place.good(&["run", "tiny.mopd", "--out", "run"]);
        let said = place.good(&["compare", "run/previous", "run"]);
        assert!(said.contains("`student`: steps 6 -> 5"), "{said}");
        // The same plan again archives nothing.
        place.good(&["run", "tiny.mopd", "--out", "run"]);
        assert!(fs::read(place.path("run/previous/results.json")).expect("results") == results, "{signal}");
    }
}

#[test]
fn report_refuses_folders_that_are_no_runs() {
    let place = shared();
    place.refused(&["report", "nowhere"], &["nowhere is not a run: there is no such folder", "mopd run"]);
    fs::create_dir_all(place.path("empty")).expect("a folder");
    place.refused(&["report", "empty"], &["empty is not a run: it has no plan.json"]);
    place.refused(&["compare", "run"], &["2 values required"]);
    let broken = place.path("broken");
    fs::create_dir_all(&broken).expect("a folder");
    for file in ["plan.json", "source.mopd", "results.json", "rewards.parquet"] {
        fs::copy(place.path("run").join(file), broken.join(file)).expect("copying");
    }
    fs::write(broken.join("metrics.parquet"), "PAR1").expect("writing");
    place.refused(&["report", "broken"], &["can't read", "metrics.parquet"]);
    fs::write(broken.join("rewards.parquet"), "PAR1").expect("writing");
    place.refused(&["compare", "run", "broken"], &["can't read", "rewards.parquet"]);
    fs::write(broken.join("plan.json"), "{\"schema\": 1}").expect("writing");
    place.refused(&["report", "broken"], &["has schema 1, but this mopd reads"]);
    fs::write(broken.join("plan.json"), "[").expect("writing");
    place.refused(&["report", "broken"], &["plan.json is not a file of a run"]);
}

#[test]
fn runs_are_compared_in_meaning_and_in_result() {
    let place = Place::new();
    place.good(&["run", "tiny.mopd", "--out", "first"]);
    place.good(&["run", "tiny.mopd", "--out", "again"]);
    place.good(&["run", "tiny.mopd", "--set", "steps=9", "--out", "longer"]);

    let same = place.good(&["compare", "first", "again"]);
    assert!(same.starts_with("first -> again: the same experiment\n"), "{same}");
    assert!(same.contains("+0.00 [+0.00, +0.00]") && !same.contains("] *"), "{same}");

    let text = place.good(&["compare", "first", "longer"]);
    assert!(text.contains("1 of ") && text.contains("`student`: ") && text.contains("6 -> 9"), "{text}");
    assert!(text.contains("prompts and seeds are paired"), "{text}");

    // From the other side, everything is the same with the opposite sign.
    let numbers = |one: &str, other: &str| -> Vec<(String, [f64; 5])> {
        let csv = place.good(&["compare", "--format", "csv", one, other]);
        let line = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            let number = |at: usize| fields[at].parse::<f64>().expect("a number");
            ([&fields[2..5], &fields[10..]].concat().join(","), [5, 6, 7, 8, 9].map(number))
        };
        csv.lines().skip(1).map(line).collect()
    };
    let (there, back) = (numbers("first", "longer"), numbers("longer", "first"));
    assert!(there.len() == 4 * 3 && there.len() == back.len());
    for ((name, [first, second, mean, low, high]), (same, back)) in there.iter().zip(&back) {
        assert_eq!((name, [second, first].map(|score| *score)), (same, [back[0], back[1]]));
        for (number, turned) in [(mean, back[2]), (low, back[4]), (high, back[3])] {
            assert!((number + turned).abs() < 1e-9, "{name}: {number} {turned}");
        }
    }
    let summary = |one: &str, other: &str| {
        let text = place.good(&["compare", one, other]);
        text.lines().next().and_then(|line| line.split_once(": ")).expect("a summary").1.to_owned()
    };
    assert_eq!(summary("first", "longer"), summary("longer", "first"));

    // A page of two runs without a common table says why, as `compare` does.
    let source = fs::read_to_string(place.path("tiny.mopd")).expect("the experiment");
    let without_table = source.split("compare ").next().expect("a text");
    fs::write(place.path("bare.mopd"), without_table).expect("writing");
    place.good(&["run", "bare.mopd", "--out", "bare"]);
    let why =
        "the two runs have no table with the same name: the first has \"tiny & table\", the second none";
    assert!(place.good(&["compare", "first", "bare"]).contains(why));
    place.good(&["report", "first", "bare", "--out", "both.html"]);
    let page = fs::read_to_string(place.path("both.html")).expect("a page");
    let why = why.replace('&', "&amp;").replace('"', "&quot;");
    assert!(page.contains(&format!("No differences to the tables of first: {why}.")));

    let csv = place.good(&["compare", "--format", "csv", "first", "again", "longer"]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    // Two pairs, four rows, two domains and their mean.
    assert_eq!(lines.len(), 1 + 2 * 4 * 3, "{csv}");
    assert!(lines.iter().all(|line| line.len() == 12), "{csv}");
    let results: Value =
        serde_json::from_str(&fs::read_to_string(place.path("longer/results.json")).expect("results"))
            .expect("JSON");
    let row = lines
        .iter()
        .find(|line| line[1] == "longer" && line[3] == "student" && line[4] == "copy")
        .expect("a row");
    let expected = &results["tables"][0]["rows"][2]["scores"]["copy"]["mean"];
    assert!(
        (row[6].parse::<f64>().expect("a number") - expected.as_f64().expect("a number")).abs() < 1e-12,
        "{row:?} {expected}"
    );
    // Models with the same key differ by exactly 0.
    for line in lines.iter().filter(|line| line[3] == "expert") {
        assert_eq!(&line[7..10], ["0", "0", "0"], "{line:?}");
    }

    assert!(
        place
            .good(&["compare", "--format", "markdown", "first", "longer"])
            .contains("### tiny & table\n\n| model")
    );
    assert!(
        place
            .good(&["compare", "--format", "latex", "first", "longer"])
            .contains("\\begin{tabular}{lrrr}\n\\toprule\nmodel & copy & last & mean \\\\")
    );
}

#[test]
fn event_files_have_a_series_for_every_stage_and_seed() {
    let place = shared();
    assert_eq!(place.good(&["export", "--tensorboard", "run", "--out", "events"]), "events\n");
    let mut folders: Vec<String> = fs::read_dir(place.path("events"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    folders.sort();
    assert_eq!(folders.len(), 8, "{folders:?}");
    assert_eq!(folders[0], "expert.copy-seed1");
    let bytes =
        fs::read(place.path("events/student-seed2/events.out.tfevents.0.mopd")).expect("an event file");
    let mut steps = 0;
    let mut at = 0;
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
        let event = &bytes[at + 12..at + 12 + length];
        let has = |text: &str| event.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(
            at == 0 && has("brain.Event:2") || has("divergence/copy") && has("reward/last") && has("loss")
        );
        steps += 1;
        at += 12 + length + 4;
    }
    assert_eq!((steps, at), (7, bytes.len()));
}

#[test]
fn a_run_leaves_the_same_event_files_on_request() {
    let place = Place::new();
    let series = || {
        let entries = fs::read_dir(place.path("run/tensorboard")).expect("a folder");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("text");
        entries.map(|entry| name(entry.expect("an entry"))).collect::<BTreeSet<String>>()
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    place.good(&["run", "tiny.mopd", "--out", "run"]);
    assert!(!place.path("run/tensorboard").exists(), "nobody asked for them");
    let output = place.mopd(&["run", "tiny.mopd", "--out", "run", "--tensorboard"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).ends_with("event files in run/tensorboard\n"), "{}", said(&output));
    let all = series();
    assert_eq!(all.len(), 8, "{all:?}");
    place.good(&["export", "--tensorboard", "run", "--out", "events"]);
    for name in &all {
        let file = |folder: &str| {
            fs::read(place.path(folder).join(name).join("events.out.tfevents.0.mopd")).expect("an event file")
        };
        assert!(file("events") == file("run/tensorboard"), "{name}");
    }

    // With one seed less, the series of the other are removed; files of others stay.
    fs::create_dir_all(place.path("run/tensorboard/other")).expect("a folder");
    fs::write(place.path("run/tensorboard/other/notes"), "mine").expect("writing");
    fs::write(place.path("tiny.mopd"), SOURCE.replace("seeds       = 2", "seeds       = 1"))
        .expect("writing");
    place.good(&["run", "tiny.mopd", "--out", "run", "--tensorboard"]);
    let left: BTreeSet<String> =
        all.into_iter().filter(|name| name.ends_with("seed1")).chain(["other".to_owned()]).collect();
    assert_eq!(series(), left);

    // If event files can't be written, the results exist and the exit status is that of an error.
    fs::remove_dir_all(place.path("run/tensorboard")).expect("removing");
    fs::write(place.path("run/tensorboard"), "a file in their place").expect("writing");
    fs::remove_file(place.path("run/results.json")).expect("removing");
    place.refused(
        &["run", "tiny.mopd", "--out", "run", "--tensorboard"],
        &["results in run", "can't write run/tensorboard/"],
    );
    assert!(place.path("run/results.json").is_file());
}
