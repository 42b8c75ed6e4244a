//! Each producer and each scorer, in `tests/rollouts`: its key, its line of the plan, its prediction, a run
//! with the numbers of its steps, and the messages for bad input.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mopd_lang::check::builtins::{self, BuiltinKind};
use mopd_plan::{Plan, Producer, Stage};
use mopd_tests::{check, listing, root};

use super::{assert_says, data, report_page, text};

/// A paragraph of the program that ends with a model, and the expectations in the comments above it.
struct Case {
    name: String,
    /// Byte range of the paragraph in the program.
    start: usize,
    end: usize,
    keys: Vec<Edit>,
    errors: Vec<(Edit, String)>,
    failures: Vec<(Edit, String)>,
    metrics: Vec<String>,
}

/// A text of the paragraph and its replacement.
struct Edit(String, String);

impl Case {
    fn edited(&self, program: &str, Edit(from, to): &Edit) -> String {
        let own = &program[self.start..self.end];
        assert!(own.contains(from.as_str()), "`{from}` is not in:\n{own}");
        format!("{}{}{}", &program[..self.start], own.replacen(from, to, 1), &program[self.end..])
    }
}

fn cases(program: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut start = 0;
    for paragraph in program.split_inclusive("\n\n") {
        let (said, declared) = paragraph.split_at(comments(paragraph));
        assert!(!declared.contains("\n// "), "comments in the middle of a paragraph:\n{paragraph}");
        if !said.is_empty() {
            cases.push(case(said, declared, start + said.len()));
        }
        start += paragraph.len();
    }
    cases
}

/// Bytes of the comments that a paragraph begins with.
fn comments(paragraph: &str) -> usize {
    paragraph.split_inclusive('\n').take_while(|line| line.starts_with("// ")).map(str::len).sum()
}

fn case(said: &str, declared: &str, start: usize) -> Case {
    let name = declared.lines().rev().find_map(|line| line.strip_prefix("model ")?.split(" =").next());
    let mut case = Case {
        name: name.expect("a model").to_owned(),
        start,
        end: start + declared.len(),
        keys: Vec::new(),
        errors: Vec::new(),
        failures: Vec::new(),
        metrics: Vec::new(),
    };
    for line in said.lines() {
        let (kind, said) = line["// ".len()..].split_once(": ").expect("`// kind: what`");
        let parts: Vec<String> = said.split("=>").map(|part| part.trim().to_owned()).collect();
        match (kind, <[String; 3]>::try_from(parts)) {
            ("error", Ok([from, to, words])) => case.errors.push((Edit(from, to), words)),
            ("fails", Ok([from, to, words])) => case.failures.push((Edit(from, to), words)),
            ("key", Err(parts)) if parts.len() == 2 => {
                case.keys.push(Edit(parts[0].clone(), parts[1].clone()));
            }
            ("metric", Err(parts)) if parts.len() == 1 => case.metrics.extend(parts),
            _ => panic!("`{line}` says nothing"),
        }
    }
    assert!(!case.keys.is_empty(), "nothing says what is in the key of `{}`", case.name);
    case
}

/// The plan, or all diagnostics of the program.
fn plan(program: &str) -> Result<Plan, String> {
    let analysis = check("case.mopd", program);
    let experiment = analysis.experiment.as_ref().ok_or_else(|| listing(&analysis))?;
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).map_err(|found| {
        let words = |diagnostic: &mopd_lang::diag::Diagnostic| {
            format!("{} {}", diagnostic.message, diagnostic.help.as_deref().unwrap_or_default())
        };
        found.iter().map(words).collect::<Vec<_>>().join("\n")
    })
}

fn keys(plan: &Plan) -> Vec<(&str, &str)> {
    let models = plan.experiment.models.iter();
    models.zip(&plan.stages).map(|(model, facts)| (model.name.as_str(), facts.content_key.as_str())).collect()
}

fn mopd(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command.output().expect("mopd starts")
}

/// The rows of a model in the plan that people read.
fn rows<'a>(tree: &'a str, model: &str) -> &'a str {
    let head = format!("├─ {model} = ");
    let start = tree.find(&head).unwrap_or_else(|| panic!("`{model}` is not in:\n{tree}"));
    let own = &tree[start..];
    &own[..own[head.len()..].find("├─").map_or(own.len(), |length| head.len() + length)]
}

fn each_case_of(file: &str) {
    let program = fs::read_to_string(root().join("tests/rollouts").join(file)).expect("a program");
    let cases = cases(&program);
    let whole = plan(&program).unwrap_or_else(|said| panic!("{said}"));
    let known = keys(&whole);

    for case in &cases {
        for edit in &case.keys {
            let edited = plan(&case.edited(&program, edit)).unwrap_or_else(|said| panic!("{said}"));
            let changed: Vec<&str> = std::iter::zip(&known, keys(&edited))
                .filter(|((_, before), (_, after))| before != after)
                .map(|(_, (name, _))| name)
                .collect();
            let own = |name: &&str| name.split('.').next() == Some(&case.name);
            assert!(
                !changed.is_empty() && changed.iter().all(own),
                "{}: `{}` -> `{}` changed the keys of {changed:?}",
                case.name,
                edit.0,
                edit.1
            );
        }
        for (edit, words) in &case.errors {
            match plan(&case.edited(&program, edit)) {
                Err(said) => assert!(said.contains(words.as_str()), "{}: {said}", case.name),
                Ok(_) => panic!("{}: `{}` -> `{}` has a plan", case.name, edit.0, edit.1),
            }
        }
    }

    let folder = data::folder();
    let folder = folder.path();
    fs::write(folder.join(file), &program).expect("writing a test file");
    let predicted = mopd(folder, &["plan", "--predict", file]);
    assert!(predicted.status.success(), "{}", text(&predicted));
    let tree = String::from_utf8_lossy(&predicted.stdout).into_owned();
    let run = mopd(folder, &["run", file, "--out", "out"]);
    assert!(run.status.success(), "{}", text(&run));
    let page = report_page(folder, "out");
    for case in &cases {
        let own = rows(&tree, &case.name);
        assert_says(own, &["tokens from", "cost"]);
        assert_says(&tree, &[&format!("predicted {}: ", case.name)]);
        let stages = page["stages"].as_array().expect("stages");
        let stage = stages.iter().find(|stage| stage["name"] == case.name.as_str()).expect("its curves");
        let series = stage["series"].as_array().expect("series");
        for metric in case.metrics.iter().map(String::as_str).chain(["loss", "length", "entropy"]) {
            let curve = series.iter().find(|series| series["metric"] == metric);
            let curve = curve.unwrap_or_else(|| panic!("`{}` has no `{metric}`", case.name));
            assert!(curve["mean"].as_array().is_some_and(|mean| mean.len() == 3), "{}: {curve}", case.name);
        }
    }

    for case in &cases {
        for (edit, words) in &case.failures {
            let table = format!(
                "\ncompare \"one\" {{ models = [base, {}], samples = 1, temperature = 1, max_tokens = 2 }}\n",
                case.name
            );
            fs::write(folder.join("bad.mopd"), case.edited(&program, edit) + &table).expect("a test file");
            let output = mopd(folder, &["run", "bad.mopd", "--out", "bad"]);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(1), "{}: `{}`: {said}", case.name, edit.1);
            assert!(!said.contains("panicked"), "{}: {said}", case.name);
            assert_says(&said, &[words]);
        }
    }
}

#[test]
fn each_producer_is_in_its_key_its_plan_its_prediction_and_its_report() {
    each_case_of("producers.mopd");
}

#[test]
fn each_scorer_is_in_its_key_its_plan_its_prediction_and_its_report() {
    each_case_of("scorers.mopd");
}

const TWO: &str = "experiment \"two\" { seed = 1 }
domain sort { prompts = \"sort.jsonl\", reward = exact_match }
model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }
teacher one = base
route { else -> one }
objective near {
  term distill = live kl(teacher || student)
  reduce       = mean(token, over: batch)
}
rollout tried  = sample(n: 2, temperature: 1, max_tokens: 6)
rollout others = sample(n: 2, temperature: 1, max_tokens: 6)
model student = distill(base) { objective = near, rollout = ROLLOUT, prompts = 2, steps = 1, lr = 1e-3 }
";

/// Choices of one declared rollout choose from the same completions; rollouts that are declared apart are
/// drawn apart, even with equal settings.
#[test]
fn a_rollout_is_what_is_declared() {
    let shared = |rollout: &str| {
        let plan = plan(&TWO.replace("ROLLOUT", rollout)).unwrap_or_else(|text| panic!("{rollout}: {text}"));
        let Stage::Train(train) = &plan.experiment.models[1].stage else { panic!("the student is trained") };
        let Producer::FirstOf(first_of) = &train.rollout.producer else { panic!("it has choices") };
        // What the plan says is what is read from it.
        let text = serde_json::to_string(&train.rollout).expect("a rollout is data");
        let read: mopd_plan::Rollout = serde_json::from_str(&text).expect("it is what was written");
        assert_eq!(read, train.rollout);
        (first_of.shared(), text.contains("same_as"))
    };
    assert_eq!(shared("first_of(tried |> keep(correct), tried)"), (vec![0, 0], false));
    assert_eq!(shared("first_of(tried |> keep(correct), others)"), (vec![0, 1], true));
    assert_eq!(
        shared("first_of(tried |> keep(correct), others |> keep(correct), tried, others)"),
        (vec![0, 1, 0, 1], true)
    );
    let written = "sample(n: 2, temperature: 1, max_tokens: 6)";
    assert_eq!(shared(&format!("first_of(tried |> keep(correct), {written})")), (vec![0, 1], true));
    assert_eq!(shared("first_of(data(answer) |> keep(correct), data(answer))"), (vec![0, 0], false));
}

/// A message about an edit that can't be inside another rollout names the rollout and the way out.
#[test]
fn an_edit_inside_another_rollout_is_refused_with_a_way_out() {
    for (rollout, edit, of) in [
        ("mix(0.5, tried |> rewrite(\"a\" -> \"b\"), tried)", "rewrite", "mix"),
        ("first_of(tried |> retry(until: correct, at_most: 3) |> keep(correct), tried)", "retry", "first_of"),
        ("replay(tried |> retry(until: correct, at_most: 3), capacity: 8, share: 0.5)", "retry", "replay"),
    ] {
        let text = plan(&TWO.replace("ROLLOUT", rollout)).expect_err("it is refused");
        let wanted = [
            format!("the edit `{edit}` of a rollout inside `{of}` is not supported yet"),
            "`data`".to_owned(),
        ];
        assert!(wanted.iter().all(|wanted| text.contains(wanted)), "{rollout}: {text}");
    }
}

/// Every rollout, edit and kind of teacher of the language has a case.
#[test]
fn nothing_of_the_language_is_left_out() {
    // `denoise` is refused by name: it is for other models. Servers have tests in `served.rs`, with `env`.
    const NOT_RUN: [&str; 4] = ["denoise", "served", "sampled_by", "env"];
    let read = |file: &str| fs::read_to_string(root().join("tests/rollouts").join(file)).expect("a program");
    let programs = read("producers.mopd") + &read("scorers.mopd");
    for builtin in builtins::all() {
        let wanted =
            matches!(builtin.kind, BuiltinKind::Rollout(_) | BuiltinKind::Edit(_) | BuiltinKind::Teacher(_));
        if wanted && !NOT_RUN.contains(&builtin.name) {
            assert!(programs.contains(&format!("{}(", builtin.name)), "no case has `{}`", builtin.name);
        }
    }
}
