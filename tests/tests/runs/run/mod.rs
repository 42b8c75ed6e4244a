//! Real runs, end to end: `mopd run` with a real worker on a tiny experiment, good and bad.

mod agent;
mod answers;
mod chat_templates;
mod constructs;
mod curricula;
mod data;
mod delta;
mod disk;
mod elements;
mod engines;
mod exported_rewards;
mod faulty_data;
mod finite;
mod guards;
mod hub_data;
mod keys;
mod leftovers;
mod merges;
mod methods;
mod preflight;
mod private;
mod renewed;
mod rewards;
mod rollouts;
mod served;
mod signals;
mod states;
mod tables;
mod trackers;
mod train;
mod turns;
mod variants;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with an experiment small enough to run in seconds: two domains, an expert each, a student.
struct Bench {
    folder: TempDir,
}

const OBJECTIVE: &str = "use std.opd.mopd";

fn source(objective_item: &str, objective: &str) -> String {
    format!(
        r#"{objective_item}
use std.baselines.{{weight_average}}

experiment "tiny" {{ seed = 1 }}

param start_lr: real = 3e-3

domain copy {{ prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match, share = 1/2 }}
domain last {{ prompts = "last.jsonl", tests = "last.test.jsonl", reward = exact_match, share = 1/2 }}

model base  = llama {{ layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 20, batch = 16, lr = start_lr }}
model expert[d in domains] = grpo(start, on: d) {{ steps = 4, prompts = 4, samples = 4, max_tokens = 6, lr = 1e-3 }}

teacher specialist[d in domains] = expert[d]
route {{ for d in domains: domain == d -> specialist[d] }}

model student = distill(start) {{
  objective = {objective}
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 8
  steps     = 6
  lr        = 1e-3
}}

compare "tiny table" {{
  models      = [start, expert, student, weight_average(expert)]
  samples     = 2
  temperature = 1.0
  max_tokens  = 6
}}
"#
    )
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench { folder: TempDir::new().expect("a temporary folder") };
        let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab", "aab", "bba", "ccd", "dda"];
        for (domain, answer) in [
            ("copy", (|word: &str| word.to_owned()) as fn(&str) -> String),
            ("last", |word| word[word.len() - 1..].to_owned()),
        ] {
            let line = |word: &&str| {
                format!("{{\"prompt\": \"{domain}: {word}=\", \"answer\": \"{}\"}}\n", answer(word))
            };
            bench.write(&format!("{domain}.jsonl"), &words[..8].iter().map(line).collect::<String>());
            bench.write(&format!("{domain}.test.jsonl"), &words[8..].iter().map(line).collect::<String>());
        }
        bench.write("tiny.mopd", &source(OBJECTIVE, "mopd(clip_at: 5)"));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writing a test file");
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).expect("reading a test file");
        assert!(text.contains(from), "`{from}` is not in {name}");
        self.write(name, &text.replace(from, to));
    }

    /// Runs without trials unless `arguments` ask for them: they take a third of such a run.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(self.folder.path()).args(["run", "tiny.mopd"]).args(arguments);
        if !arguments.iter().any(|argument| argument.starts_with("--predict")) {
            command.args(["--predict", "never"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("mopd starts")
    }

    /// Runs, expects success, and reads the tables.
    fn tables(&self, out: &str, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--out", out], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        let results: Value =
            serde_json::from_slice(&fs::read(self.path(out).join("results.json")).expect("results.json"))
                .expect("JSON");
        results["tables"].clone()
    }

    fn student(&self, out: &str) -> Vec<u8> {
        let folder = self.path(out).join("models/student-seed1");
        let adapter = folder.join("adapter_model.safetensors");
        let weights = if adapter.exists() { adapter } else { folder.join("model.safetensors") };
        fs::read(weights).expect("the student's weights")
    }

    /// Runs, expects exit status 1, and returns the whole output.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let said = text(&output);
        assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
        said
    }
}

/// The data in the page that `mopd report` makes of a run.
fn report_page(folder: &Path, out: &str) -> Value {
    let mut command = Command::new(mopd_tests::mopd());
    let output = command.current_dir(folder).args(["report", out]).output().expect("mopd starts");
    assert!(output.status.success(), "{}", text(&output));
    let page = fs::read_to_string(folder.join(out).join("report.html")).expect("the page");
    let data =
        page.split("<script type=\"application/json\" id=\"data\">").nth(1).expect("the page has data");
    serde_json::from_str(data.split("</script>").next().expect("it ends")).expect("JSON")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn assert_says(said: &str, parts: &[&str]) {
    // Diagnostics are wrapped and indented, so line breaks are ignored.
    let plain: String = said.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(plain.contains(part), "`{part}` is missing from:\n{said}");
    }
}

fn files_in(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

#[test]
fn a_run_leaves_tables_series_models_and_provenance() {
    let bench = Bench::new();
    let output = bench.run(&["--out", "out", "--predict", "quick"]);
    assert!(output.status.success(), "{}", text(&output));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert_says(&printed, &["tiny table", "start", "expert", "student", "weight_average", "copy", "last"]);
    for name in [
        "results.json",
        "metrics.parquet",
        "plan.json",
        "source.mopd",
        "models/student-seed1/model.safetensors",
    ] {
        assert!(bench.path("out").join(name).is_file(), "{name} is missing");
    }
    assert!(fs::read(bench.path("out/metrics.parquet")).expect("metrics").starts_with(b"PAR1"));
    assert_eq!(fs::read(bench.path("out/source.mopd")).ok(), fs::read(bench.path("tiny.mopd")).ok());
}

#[test]
fn the_same_seed_gives_the_same_weights_and_tables_and_another_seed_gives_others() {
    let bench = Bench::new();
    let first = bench.tables("first", &["--fresh"]);
    let second = bench.tables("second", &["--fresh", "--workers", "1"]);
    assert_eq!(first, second);
    assert_eq!(bench.student("first"), bench.student("second"));
    let output = bench.run(&["--out", "third", "--set", "seed=2"]);
    assert!(output.status.success(), "{}", text(&output));
    let other =
        fs::read(bench.path("third/models/student-seed2/model.safetensors")).expect("the student's weights");
    assert_ne!(bench.student("first"), other);
}

/// An objective is its text: a copy in the user's file trains the same weights bit for bit, an edited copy
/// trains others.
#[test]
fn an_inline_copy_of_a_library_objective_trains_the_same_and_an_edited_copy_does_not() {
    let library =
        fs::read_to_string(mopd_tests::root().join("stdlib/opd.mopd")).expect("the standard library");
    for name in ["mopd", "mopd_top_k"] {
        let bench = Bench::new();
        let start = library.find(&format!("pub objective {name}(")).expect("declared there") + "pub ".len();
        let end = start + library[start..].find("\n}").expect("its end") + 2;
        let copy = library[start..end].replace(&format!("objective {name}("), "objective mine(");
        bench.write("tiny.mopd", &source(&format!("use std.opd.{name}"), name));
        let named = bench.tables("named", &["--fresh"]);
        bench.write("tiny.mopd", &source(&copy, "mine"));
        let inline = bench.tables("inline", &["--fresh"]);
        assert_eq!(named, inline, "{name}");
        assert_eq!(bench.student("named"), bench.student("inline"), "{name}");
        let edited = if name == "mopd" {
            copy.replace("= 5)", "= 0.01)")
        } else {
            copy.replace("k: count = 64", "k: count = 2")
        };
        assert_ne!(edited, copy);
        bench.write("tiny.mopd", &source(&edited, "mine"));
        bench.tables("edited", &["--fresh"]);
        assert_ne!(bench.student("named"), bench.student("edited"), "{name}");
    }
}

/// If teacher and student are the same model, the gradient is exactly zero.
#[test]
fn a_teacher_equal_to_the_student_moves_no_weight() {
    let bench = Bench::new();
    for name in ["mopd", "mopd_top_k", "mopd_full"] {
        bench.write("tiny.mopd", &source(&format!("use std.opd.{name}"), name));
        bench.edit(
            "tiny.mopd",
            "teacher specialist[d in domains] = expert[d]",
            "teacher specialist[d in domains] = start",
        );
        bench.tables("out", &[]);
        let start =
            fs::read(bench.path("out/models/start-seed1/model.safetensors")).expect("the start's weights");
        assert!(bench.student("out") == start, "`{name}` moved weights");
    }
}

/// An objective of everything that compares two distributions: if both are equal, each term is exactly 0.
#[test]
fn no_divergence_of_equals_moves_a_weight() {
    let bench = Bench::new();
    let objective = "divergence squeezed(u) = u * log(u) - (1 + u) * log((1 + u) / 2)

objective several {
  term a = live jsd(student, teacher, beta: 0.3)
  term b = live skew(teacher || student, lambda: 0.1, support: nucleus(teacher, 0.8), mass: tail)
  term c = live tv(student, teacher, support: union(sampled, top_k(student, 4)), mass: renormalized)
  term d = live chi2(student || teacher, temperature: 2)
  term e = live hellinger(student, teacher, support: top_k(teacher, 8), mass: generalized)
  term f = live alpha(student || teacher, alpha: linear(0.2 -> 0.8))
  term g = live sorted_l1(student, teacher)
  term h = live kl(teacher || blend(teacher: 0.5, student: 0.5), support: sampled, mass: tail)
  reduce = mean(token) then mean(sequence)
}";
    bench.write("tiny.mopd", &source(objective, "several"));
    bench.tables("apart", &[]);
    bench.edit(
        "tiny.mopd",
        "teacher specialist[d in domains] = expert[d]",
        "teacher specialist[d in domains] = start",
    );
    bench.tables("equal", &[]);
    let start =
        fs::read(bench.path("equal/models/start-seed1/model.safetensors")).expect("the start's weights");
    assert!(bench.student("apart") != start);
    assert!(bench.student("equal") == start, "a divergence of equals moved weights");
}

/// Trains with signals and losses over whole distributions, shares of a blend that are numbers per token, and
/// a custom divergence.
#[test]
fn objective_on_whole_distributions_trains() {
    let bench = Bench::new();
    let objective = "divergence squeezed(u) = u * log(u) - (1 + u) * log((1 + u) / 2)

objective reads {
  let sure     = exp(-student.entropy)
  weight       = (1 + overlap(student, teacher, k: 4)) * mass(student, support: top_k(teacher, 4)) * \
                     size(nucleus(teacher, 0.9)) / vocab_size
  term follow  = live squeezed(teacher || student, support: nucleus(teacher, 0.9), mass: tail)
  term mixed   = live kl(student || blend(teacher: sure, student: 1 - sure))
  term likely  = live nll(teacher)
  term ordered = 0.1 * live ranking(order: top_k(teacher, 3))
  term rest    = where(in_nucleus(teacher, 0.9), 0, -1 / student.rank) * live student.logp { when = \
                     student.end_logp < teacher.end_logp + 1 }
  reduce       = mean(token) then mean(sequence)
}";
    bench.write("tiny.mopd", &source(objective, "reads"));
    bench.tables("out", &[]);
    let start =
        fs::read(bench.path("out/models/start-seed1/model.safetensors")).expect("the start's weights");
    assert!(bench.student("out") != start);
}

/// Both versions of a divergence agree, whether logits are given or computed; the figures are for the sizes
/// that were asked for.
#[test]
fn a_divergence_is_measured_against_its_plain_version() {
    for (of, width) in [("kl", None), ("jsd", Some("16")), ("top-k", None)] {
        let mut command = Command::new(mopd_tests::mopd());
        command.args([
            "bench",
            "divergence",
            "--vocabulary",
            "300,1001",
            "--tokens",
            "29",
            "--runs",
            "1",
            "--json",
            "--of",
            of,
        ]);
        command.args(width.iter().flat_map(|width| ["--width", width]));
        let output = command.output().expect("mopd starts");
        assert!(output.status.success(), "{}", text(&output));
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(said["tokens"], 29);
        let figures = said["figures"].as_array().expect("a list");
        assert_eq!(
            figures.iter().map(|figure| figure["vocabulary"].as_u64()).collect::<Vec<_>>(),
            [Some(300), Some(1001)]
        );
        for figure in figures {
            for difference in ["value_difference", "gradient_difference"] {
                assert!(
                    figure[difference].as_f64().is_some_and(|difference| difference < 1e-5),
                    "{of}: {figure}"
                );
            }
            assert_eq!(figure["plain_seconds"].as_array().map(Vec::len), Some(1));
        }
    }
}

/// The sampler's whole distribution can be read, not only what it took; at another temperature it differs
/// from the student's.
#[test]
fn an_objective_may_read_the_sampler_s_distribution() {
    let bench = Bench::new();
    let objective = "objective cautious {
  weight      = sampler.entropy + kl(student || sampler)
  term follow = live kl(student || teacher)
  reduce      = mean(token) then mean(sequence)
}";
    bench.write("tiny.mopd", &source(objective, "cautious"));
    bench.tables("warm", &[]);
    bench.edit(
        "tiny.mopd",
        "rollout   = sample(n: 1, temperature: 1.0",
        "rollout   = sample(n: 1, temperature: 0.5",
    );
    bench.tables("cool", &[]);
    assert!(bench.student("warm") != bench.student("cool"));
}

/// The first step on fresh completions is on policy, whatever the temperature: every token's ratio is 1, that
/// to the recorded numbers 1 to 1e-3, so a weight that leaves the others out changes no bit.
#[test]
fn the_first_step_is_on_policy_at_every_temperature() {
    let bench = Bench::new();
    for temperature in ["0.6", "1.5"] {
        let objective = |weight: &str| {
            format!(
                "objective followed {{
  {weight}
  term follow = -(teacher.logp - student.logp) * live ratio
  reduce      = mean(token) then mean(sequence)
}}"
            )
        };
        let mut students = Vec::new();
        for weight in [
            "weight = 1",
            "weight = where(abs(ratio - 1) <= 0, 1, 0)",
            "weight = where(abs(exp(student.logp - sampler.logp) - 1) < 1e-3, 1, 0)",
        ] {
            bench.write("tiny.mopd", &source(&objective(weight), "followed"));
            bench.edit("tiny.mopd", "temperature: 1.0", &format!("temperature: {temperature}"));
            bench.edit("tiny.mopd", "  steps     = 6", "  steps     = 1");
            bench.tables("out", &[]);
            students.push(bench.student("out"));
        }
        let start =
            fs::read(bench.path("out/models/start-seed1/model.safetensors")).expect("the start's weights");
        assert!(students[0] != start, "at {temperature} nothing was learned");
        assert!(students[0] == students[1], "at {temperature} some token's ratio is not 1");
        assert!(students[0] == students[2], "at {temperature} some token was drawn at another probability");
    }
}

/// Types of parameters that can't be given here, such as a panel, another rollout or a template.
const NOT_TRIED: &[&str] = &["panel", "rollout", "template", "model", "eval", "counts", "text", "objective"];

/// Every public objective of the library with a stage that trains on it; none where a parameter can't be
/// given here.
fn library_stages() -> Vec<(String, Option<String>)> {
    let mut found = Vec::new();
    for (module, text) in mopd_std::MODULES {
        let (tree, _) = mopd_lang::syntax::parse(mopd_lang::source::FileId(0), text);
        for item in tree.items.iter().filter(|item| item.public) {
            let mopd_lang::syntax::ast::ItemKind::Objective { name, parameters, .. } = &item.kind else {
                continue;
            };
            let mut arguments = Vec::new();
            let mut known = true;
            for parameter in parameters.iter().filter(|parameter| parameter.default.is_none()) {
                let annotation =
                    parameter.annotation.as_ref().map_or("", |annotation| annotation.text.as_str());
                // A composed teacher is a different parameter for each of its members.
                known &= !NOT_TRIED.contains(&annotation) && parameter.name.text != "star";
                let value = match (annotation, parameter.name.text.as_str()) {
                    ("teacher", _) => "specialist[copy]",
                    ("count", _) => "4",
                    ("bool", _) => "true",
                    (_, "high") => "2",
                    _ => "0.5",
                };
                arguments.push(format!("{}: {value}", parameter.name.text));
            }
            let call = format!("{}({})", name.text, arguments.join(", "));
            let stage = match name.text.as_str() {
                "nll" => {
                    format!(
                        "sft(start, on: domains) {{ objective = {call}, target = answer, steps = 2, batch = \
                         8, lr = 1e-2 }}"
                    )
                }
                _ => format!(
                    "distill(start) {{ objective = {call}, rollout = sample(n: 8, temperature: 1.0, \
                     max_tokens: 6), prompts = 8, steps = 2, lr = 1e-2 }}"
                ),
            };
            found.push((format!("{module}.{}", name.text), known.then_some(stage)));
        }
    }
    found
}

#[test]
fn every_objective_of_the_library_trains_or_is_refused_when_planned() {
    let bench = Bench::new();
    let (mut uses, mut models, mut trained) = (String::new(), String::new(), Vec::new());
    let (mut refused, mut faults) = (0, String::new());
    for (index, (path, stage)) in library_stages().into_iter().enumerate() {
        let Some(stage) = stage else { continue };
        let import = if path == "opd.mopd" { String::new() } else { format!("use std.{path}\n") };
        let program = source(&format!("use std.opd.mopd\n{import}"), "mopd");
        let with = format!("model m{index} = {stage}\n\ncompare \"tiny table\"");
        bench.write("one.mopd", &program.replace("compare \"tiny table\"", &with));
        let plan = Command::new(mopd_tests::mopd())
            .current_dir(bench.folder.path())
            .args(["plan", "one.mopd"])
            .output();
        let plan = plan.expect("mopd starts");
        if plan.status.success() {
            uses += &import;
            models += &format!("model m{index} = {stage}\n");
            trained.push((path, format!("m{index}")));
            continue;
        }
        // Some are refused because this version can't run them, or because the objective needs another stage.
        let said = text(&plan);
        let codes = [
            "not-supported-yet",
            "no-reference",
            "off-policy-ratio",
            "no-rollout",
            "group-of-one",
            "zero-gradient",
            "has no part",
        ];
        let others = said.lines().filter(|line| line.starts_with("error[") || line.contains("Error: "));
        let other = others.clone().find(|line| !codes.iter().any(|code| line.contains(code)));
        if other.is_some() || others.count() == 0 {
            faults += &format!("`{path}`: {said}");
        }
        refused += 1;
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(trained.len() > 50 && refused > 20, "{} trained, {refused} refused", trained.len());
    let all: Vec<&str> = trained.iter().map(|(_, model)| model.as_str()).collect();
    let text = source(&format!("use std.opd.mopd\n{uses}"), "mopd");
    let text = text.replace("models      = [start,", &format!("models      = [{}, start,", all.join(", ")));
    bench.write(
        "tiny.mopd",
        &text.replace("compare \"tiny table\"", &format!("{models}\ncompare \"tiny table\"")),
    );
    bench.tables("out", &[]);
    let start =
        fs::read(bench.path("out/models/start-seed1/model.safetensors")).expect("the start's weights");
    for (path, model) in &trained {
        let weights =
            fs::read(bench.path(&format!("out/models/{model}-seed1/model.safetensors"))).expect("weights");
        assert_ne!(weights, start, "`{path}` moved nothing");
    }
}

#[test]
fn finished_stages_are_reused() {
    let bench = Bench::new();
    let first = bench.tables("first", &[]);
    let output = bench.run(&["--out", "second", "--format", "json"]);
    let events = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert!(events.contains("stage_kept"), "{}", text(&output));
    assert!(!events.contains("stage_started"), "{events}");
    let second: Value =
        serde_json::from_slice(&fs::read(bench.path("second/results.json")).expect("results.json"))
            .expect("JSON");
    assert_eq!(first, second["tables"]);
    // A comment changes nothing; a number changes the stages that depend on it.
    bench.edit("tiny.mopd", "experiment", "// the smallest\nexperiment");
    assert!(!text(&bench.run(&["--out", "third", "--format", "json"])).contains("stage_started"));
    bench.edit("tiny.mopd", "clip_at: 5", "clip_at: 1");
    let events = text(&bench.run(&["--out", "fourth", "--format", "json"]));
    assert_eq!(events.matches("\"stage_started\"").count(), 1, "{events}");
}

#[test]
fn a_damaged_result_is_noticed_and_made_again() {
    let bench = Bench::new();
    let first = bench.tables("first", &[]);
    let weights: Vec<PathBuf> = walk(&bench.path(".mopd/store"))
        .into_iter()
        .filter(|path| path.ends_with("model.safetensors"))
        .collect();
    assert!(!weights.is_empty());
    for path in &weights {
        let mut bytes = fs::read(path).expect("weights");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(path).expect("writable"); // The results folder may share the file.
        fs::write(path, bytes).expect("writable");
    }
    let output = bench.run(&["--out", "second"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_says(&text(&output), &["damaged"]);
    let second: Value =
        serde_json::from_slice(&fs::read(bench.path("second/results.json")).expect("results.json"))
            .expect("JSON");
    assert_eq!(first, second["tables"]);
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_missing_data_file_is_named_before_anything_is_trained() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "\"copy.jsonl\"", "\"coppy.jsonl\"");
    let said = bench.fails(&[]);
    assert_says(&said, &["coppy.jsonl", "copy.jsonl", "domain copy {"]);
    assert!(walk(&bench.path(".mopd")).is_empty(), "something was trained");
}

#[test]
fn a_malformed_line_is_named_with_file_and_line() {
    let bench = Bench::new();
    let good = fs::read_to_string(bench.path("last.jsonl")).expect("data");
    bench.write(
        "last.jsonl",
        &good.replacen("\"answer\"", "\"answr\"", 3).replacen("\"answr\"", "\"answer\"", 2),
    );
    assert_says(&bench.fails(&[]), &["last.jsonl:3:", "`answer` is missing", "`answr`"]);
    bench.write("last.jsonl", &format!("{good}{{\"prompt\": \"x\n"));
    assert_says(&bench.fails(&[]), &["last.jsonl:9:"]);
}

/// A missing field that a stage asks for is reported at the stage, not at the domain.
#[test]
fn a_field_that_no_row_has_is_shown_where_it_is_asked_for() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "target = answer", "target = answr");
    let source = fs::read_to_string(bench.path("tiny.mopd")).expect("an experiment");
    let line = 1 + source.lines().position(|line| line.starts_with("model start")).expect("a stage");
    let said = bench.fails(&[]);
    assert_says(&said, &["the field `answr` is missing; found `prompt`, `answer`", "did you mean `answer`?"]);
    assert_says(&said, &[&format!("tiny.mopd:{line}:"), "asked for here"]);
}

#[test]
fn a_prompt_longer_than_the_context_is_named_with_file_and_line() {
    let bench = Bench::new();
    let good = fs::read_to_string(bench.path("copy.jsonl")).expect("data");
    bench.write("copy.jsonl", &good.replacen("copy: ba=", "copy: bababababababababababababababa=", 1));
    let said = bench.fails(&[]);
    assert_says(&said, &["copy.jsonl:2:", "41 tokens", "context is 24", "`context = 41`"]);
    assert!(walk(&bench.path(".mopd")).is_empty(), "something was trained");
}

#[test]
fn a_reward_program_judges_and_its_faults_are_told_apart() {
    let bench = Bench::new();
    bench.edit(
        "tiny.mopd",
        "tests = \"copy.test.jsonl\", reward = exact_match",
        "tests = \"copy.test.jsonl\", reward = command(\"python3 judge.py\", time_limit: 5)",
    );
    let judge = |body: &str| {
        bench.write(
            "judge.py",
            &format!(
                "import json, sys, time\nfor line in sys.stdin:\n    request = json.loads(line)\n{body}"
            ),
        );
    };
    let answer = "    print(json.dumps({'id': request['id'], 'reward': float(request['completion'] == \
                  request['record']['answer'])}), flush=True)\n";
    judge(answer);
    let by_program = bench.tables("program", &["--fresh"]);
    bench.edit("tiny.mopd", "command(\"python3 judge.py\", time_limit: 5)", "exact_match");
    let mut built_in = bench.tables("built_in", &["--fresh"]);
    // A program may return any number in the range, so its mean is not called pass@1.
    assert_eq!((&by_program[0]["metric"], &built_in[0]["metric"]), (&json!("mean reward"), &json!("pass@1")));
    built_in[0]["metric"] = by_program[0]["metric"].clone();
    assert_eq!(by_program, built_in, "the same verdicts give the same run");
    bench.edit(
        "tiny.mopd",
        "tests = \"copy.test.jsonl\", reward = exact_match",
        "tests = \"copy.test.jsonl\", reward = command(\"python3 judge.py\", time_limit: 30)",
    );
    judge("    sys.exit('out of paper')\n");
    assert_says(&bench.fails(&[]), &["judge.py", "out of paper", "domain copy {"]);
    judge("    print('seven', flush=True)\n");
    assert_says(&bench.fails(&[]), &["judge.py", "seven"]);
    judge("    print(json.dumps({'id': request['id'], 'reward': 7}), flush=True)\n");
    assert_says(&bench.fails(&[]), &["judge.py", "7"]);
    bench.edit("tiny.mopd", "time_limit: 30", "time_limit: 1");
    judge("    time.sleep(60)\n");
    assert_says(&bench.fails(&[]), &["judge.py", "1 s"]);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_says_where() {
    let bench = Bench::new();
    let said = bench.fails(&["--set", "start_lr=1e30"]);
    assert_says(&said, &["non-finite", "start", "step", "imitate"]);
    assert!(said.contains("copy") || said.contains("last"), "no domain is named:\n{said}");
}

/// A full disk, as a limit on the size of files: weights no longer fit, small files do.
#[test]
fn a_full_disk_is_an_error_with_the_path_and_keeps_what_was_finished() {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "width = 32", "width = 64");
    let shell = "trap '' XFSZ; ulimit -f 200; exec \"$0\" run tiny.mopd";
    let output = Command::new("sh")
        .args(["-c", shell])
        .arg(mopd_tests::mopd())
        .current_dir(bench.folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_says(&text(&output), &["storage", ".mopd"]);
    let damaged =
        walk(&bench.path(".mopd")).into_iter().filter(|path| path.ends_with("model.safetensors")).count();
    assert_eq!(damaged, 0, "half-written weights were left behind");
    assert!(bench.run(&[]).status.success(), "with room again, the run goes through");
}

/// `mopd` and its worker make their own stacks.
#[test]
fn hardly_any_stack_is_enough_for_a_run() {
    let bench = Bench::new();
    let output = Command::new("sh")
        .args(["-c", "ulimit -s 64; exec \"$0\" run tiny.mopd --predict never"])
        .arg(mopd_tests::mopd())
        .current_dir(bench.folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("sh starts");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn an_interrupt_keeps_finished_stages_and_the_next_run_goes_on() {
    let bench = Bench::new();
    let expected = bench.tables("expected", &["--fresh"]);
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    // Long enough to be interrupted while it runs.
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 100000");
    let child = bench.command(&["--out", "cut"]).process_group(0).spawn().expect("mopd starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    while !bench.path(".mopd/store").is_dir() || files_in(&bench.path(".mopd/store")) < 5 {
        assert!(Instant::now() < deadline, "the experts were never finished");
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill =
        Command::new("kill").args(["-INT", "--", &format!("-{}", child.id())]).status().expect("kill starts");
    assert!(kill.success());
    let output = child.wait_with_output().expect("mopd ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    bench.edit("tiny.mopd", "steps     = 100000", "steps     = 6");
    let output = bench.run(&["--out", "rest", "--format", "json"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("stage_kept"), "{}", text(&output));
    let rest: Value =
        serde_json::from_slice(&fs::read(bench.path("rest/results.json")).expect("results.json"))
            .expect("JSON");
    assert_eq!(expected, rest["tables"]);
}
