//! Each producer and each scorer, in `tests/rollouts`: its key, its line of the plan, its prediction, a run
//! with the numbers of its steps, and the messages for bad input.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mopd_compiler::plan::Plan;
use mopd_lang::check::builtins::{self, BuiltinKind};
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

/// Every rollout, edit and kind of teacher of the language has a case.
#[test]
fn nothing_of_the_language_is_left_out() {
    // Of other spaces: refused by name. What is on a server has tests of its own, `served.rs`, `env` with it.
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
