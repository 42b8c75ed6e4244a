//! Every published experiment that a plan can be made of trains: a few steps each, on small models. Each has
//! its turn within three days: on the first by the rules of a CPU, on the second by those of a GPU.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use mopd_ops::testing::Extent;
use mopd_tests::{check, files, root};

use super::{data, text};

/// The program with two steps in place of each number of steps, and a reward that models earn which have
/// learnt nothing yet: some methods leave out prompts that nobody solves. Published weights become a small
/// model with their tokenizer.
fn short(program: &str) -> String {
    let program = program.replace("reward = exact_match", "reward = regex(\"[a-f]\")");
    let program = program.replace("round: 10 steps", "round: 1 steps");
    let program = match program.replace("hf(\"Qwen/Qwen3-0.6B\")", "published") {
        replaced if replaced == program => program,
        replaced => replaced + PUBLISHED,
    };
    let mut short = String::new();
    let mut rest = program.as_str();
    while let Some(place) = rest.find("steps") {
        let (before, after) = rest.split_at(place + "steps".len());
        short.push_str(before);
        let number = after.trim_start_matches([' ', '=', ':']);
        let digits = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
        short.push_str(&after[..after.len() - number.len()]);
        rest = &number[digits..];
        if digits > 0 {
            short.push('2');
        }
    }
    short + rest
}

const PUBLISHED: &str = "
model published = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = \"qwen3\" }
";

#[test]
fn every_method_that_a_plan_can_be_made_of_trains() {
    // A folder for each place, since results are reused within one.
    let [cpu, operators] = [("", data::folder()), ("operators", data::folder())];
    let turns = [Some(&cpu), Some(&operators), None];
    let (mut faults, mut trained) = (String::new(), 0);
    let extent = Extent::from_environment();
    for (number, path) in files(&root().join("tests/methods"), ".mopd").into_iter().enumerate() {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let program = fs::read_to_string(&path).expect("a program");
        let analysis = check(&name, &program);
        let experiment = analysis.experiment.as_ref().expect("it checks");
        if mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).is_err() {
            continue;
        }
        for (place, folder) in extent.one_of(number, turns.to_vec()).into_iter().flatten() {
            fs::write(folder.path().join(&name), short(&program)).expect("writing a test file");
            let mut command = Command::new(mopd_tests::mopd());
            command.current_dir(folder.path()).args(["run", &name, "--out", &format!("out-{name}")]);
            command.env("MOPD_PLACE", place);
            let output = command.stdin(Stdio::null()).output().expect("mopd starts");
            trained += 1;
            if !output.status.success() {
                let _ = writeln!(faults, "{name} {place}: {}", text(&output));
            }
        }
    }
    assert!(faults.is_empty() && trained > 30, "{trained} experiments\n{faults}");
}
