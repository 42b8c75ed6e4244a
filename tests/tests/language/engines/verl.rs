//! verl reads an exported stage; its averages of the plugin's numbers are the objective's loss, and its
//! learning rates are those of a run.

use std::fs;
use std::process::Command;

use mopd_compiler::export::stage::{ExportRequest, trained};
use mopd_compiler::export::{Export, ExportEngine, export};
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::interpret::interpret;
use mopd_expr::testing::Random;
use mopd_plan::{Live, Objective, Role, Signal, Stage, Train};
use mopd_tests::{check_text, files, root};
use serde_json::{Value, json};

use super::{located, python, run};

/// A signal's name in the plugin.
fn name(signal: &Signal) -> Option<String> {
    match signal {
        Signal::Logp { role } => Some(format!("{}.logp", role.name())),
        Signal::Entropy { role: Role::Student } => Some("student.entropy".to_owned()),
        Signal::Reward => Some("reward".to_owned()),
        _ => None,
    }
}

fn file<'a>(export: &'a Export, name: &str) -> &'a str {
    &export.files.iter().find(|file| file.name == name).expect("a file").text
}

/// Groups of two, since an engine samples groups of equal size.
fn case(title: &str, export: &Export, train: &Train<Objective>, random: &mut Random) -> Value {
    let objective = &train.objective;
    let lengths: Vec<usize> = (0..6).map(|_| 1 + random.below(5)).collect();
    let sequence_of_token =
        lengths.iter().enumerate().flat_map(|(at, length)| vec![at as u32; *length]).collect();
    let layout = Layout {
        sequence_of_token,
        group_of_sequence: vec![0, 0, 1, 1, 2, 2],
        groups: 3,
        ..Layout::default()
    };
    let mut batch = Batch { layout, step: 3, steps: 10, ..Batch::default() };
    let mut numbers = serde_json::Map::new();
    for signal in objective.graph.signals(&objective.outputs()).into_iter().chain([Signal::Reward]) {
        let Some(name) = name(&signal) else { continue };
        let of = |random: &mut Random| match signal {
            Signal::Reward => f32::from(random.below(2) as u8),
            Signal::Entropy { .. } => random.number().abs(),
            _ => random.number(),
        };
        let values: Vec<f32> = (0..batch.layout.len(signal.axis())).map(|_| of(random)).collect();
        if !numbers.contains_key(&name) {
            numbers.insert(name, json!(values));
            batch.signals.push((signal, values));
        }
    }
    for primitive in &objective.live {
        let name = if primitive.primitive == Live::Logp { "live logp" } else { "live divergence" };
        let values: Vec<f32> = (0..batch.layout.tokens()).map(|_| random.number()).collect();
        numbers.insert(name.to_owned(), json!(values));
        batch.live.push(values);
    }
    let loss = interpret(&objective.graph, &[objective.loss], &batch).expect("everything is there");
    let configuration = file(export, "config.yaml");
    let mode =
        configuration.lines().find_map(|line| line.strip_prefix("    loss_agg_mode: ")).expect("a mode");
    let steps = 12;
    let rates: Vec<f64> = (0..steps).map(|step| train.learning_rate.at(step, steps)).collect();
    json!({
        "name": title,
        "code": file(export, "objective.py"),
        "aggregation": mode.trim_matches('"'),
        "lengths": lengths,
        "numbers": numbers,
        "loss": loss.get(objective.loss)[0],
        "configuration": configuration,
        "rates": rates,
    })
}

#[test]
fn verl_reads_its_folder_and_averages_to_the_loss() {
    let mut random = Random(11);
    let mut cases = Vec::new();
    let mut folder: Option<Export> = None;
    let extra = root().join("tests/engines/objectives.mopd");
    for path in files(&root().join("tests/methods"), ".mopd").into_iter().chain([extra]) {
        let text = fs::read_to_string(&path).expect("a program");
        let analysis = check_text(&path.file_name().expect("a file").to_string_lossy(), &text);
        let checked = analysis.experiment.as_ref().expect("an experiment");
        let plan = mopd_compiler::compile(checked, &analysis.origins, &analysis.sources, true);
        let Ok(plan) = plan else { continue };
        let at = |name: &str| format!("runs/{name}");
        for (model, named) in trained(&plan) {
            let Stage::Train(train) = &named.stage else { continue };
            let request =
                ExportRequest { plan: &plan, checked, model, folder: &at, located: &located, rows: None };
            let (_, Some((export, _))) = export(ExportEngine::Verl, request) else { continue };
            for _ in 0..3 {
                let title = format!("{}: {}", path.display(), named.name);
                cases.push(case(&title, &export, train, &mut random));
            }
            folder = Some(export);
        }
    }
    assert!(cases.len() > 50, "{} cases", cases.len());
    let modes: Vec<&Value> = cases.iter().map(|case| &case["aggregation"]).collect();
    for mode in ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "token-sum"] {
        assert!(modes.iter().any(|found| *found == mode), "no loss is a {mode}");
    }
    let Some(python) = python() else { return };
    let out = tempfile::tempdir().expect("a folder");
    for file in &folder.expect("some stage is exported").files {
        let path = out.path().join(&file.name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, &file.text).expect("a file");
    }
    let path = out.path().join("cases.json");
    fs::write(&path, json!(cases).to_string()).expect("a file");
    let script = root().join("tests/engines/check_verl.py");
    print!("{}", run(Command::new(python).arg(script).arg(out.path()).arg(&path)));
}
