//! verl reads an exported stage, starts from its folder, and trains with its plugin as a run of mopd does.

use std::fs;
use std::path::Path;
use std::process::Command;

use mopd_compiler::export::stage::{ExportRequest, trained};
use mopd_compiler::export::{Export, ExportEngine, export};
use mopd_expr::batch::{Batch, Domains, Layout};
use mopd_expr::interpret::interpret;
use mopd_expr::testing::Random;
use mopd_plan::{ModelSignal, Objective, PlainSignal, Signal, Stage, Train};
use mopd_tests::{check_text, files, mopd, root};
use serde_json::{Value, json};

use super::{located, metrics, python_of, run, sums_and_programs, two_jobs};

fn file<'a>(export: &'a Export, name: &str) -> &'a str {
    &export.files.iter().find(|file| file.name == name).expect("a file").text
}

/// A batch with numbers for each signal, the loss, and its derivatives. `None` if the objective reads a
/// number whose form in the plugin is not that of the plan. Groups have two completions, since an engine
/// samples groups of equal size.
fn case(title: &str, export: &Export, train: &Train<Objective>, random: &mut Random) -> Option<Value> {
    let objective = &train.objective;
    let lengths: Vec<usize> = (0..6).map(|_| 1 + random.below(5)).collect();
    let sequence_of_token =
        lengths.iter().enumerate().flat_map(|(at, length)| vec![at as u32; *length]).collect();
    let domains = train.mixture.len() as u32;
    let of_group: Vec<u32> = (0..3).map(|group| group % domains).collect();
    let layout = Layout {
        sequence_of_token,
        group_of_sequence: vec![0, 0, 1, 1, 2, 2],
        groups: 3,
        domains: Some(Domains { of_group: of_group.clone(), count: domains }),
        ..Layout::default()
    };
    let mut batch = Batch { layout, step: 3, steps: 10, ..Batch::default() };
    let (mut tokens, mut sequences) = (serde_json::Map::new(), serde_json::Map::new());
    let mut signals = objective.graph.signals(&[objective.loss]);
    // `correct` is computed from it.
    if !signals.contains(&Signal::Plain(PlainSignal::Reward)) {
        signals.push(Signal::Plain(PlainSignal::Reward));
    }
    for signal in signals {
        let positive = matches!(
            signal,
            Signal::Of { part: ModelSignal::Entropy, .. }
                | Signal::Of { part: ModelSignal::Top1, .. }
                | Signal::Mass { .. }
                | Signal::Of { part: ModelSignal::Rank, .. }
        );
        let number = |random: &mut Random| match signal {
            Signal::Plain(PlainSignal::Reward | PlainSignal::Truncated) | Signal::InNucleus { .. } => {
                f32::from(random.below(2) as u8)
            }
            _ if positive => random.number().abs() + 0.25,
            _ => random.number(),
        };
        let name = match &signal {
            Signal::Plain(PlainSignal::Reward) => "reward".to_owned(),
            Signal::Plain(PlainSignal::Truncated) => "truncated".to_owned(),
            Signal::Plain(
                PlainSignal::Position
                | PlainSignal::Length
                | PlainSignal::Correct
                | PlainSignal::Step
                | PlainSignal::Progress,
            )
            | Signal::DomainPlace => {
                continue;
            }
            Signal::Divergence(_) => return None,
            other => serde_json::to_string(&serde_json::to_value(other).expect("data")).expect("data"),
        };
        let count = batch.layout.len(signal.axis());
        let values: Vec<f32> = (0..count).map(|_| number(random)).collect();
        let table = if count == batch.layout.tokens() { &mut tokens } else { &mut sequences };
        table.insert(name, json!(values));
        batch.signals.push((signal, values));
    }
    for _ in &objective.live {
        batch.live.push((0..batch.layout.tokens()).map(|_| random.number()).collect());
    }
    let adjoints: Vec<_> = objective.live.iter().map(|live| live.adjoint).collect();
    let wanted: Vec<_> = std::iter::once(objective.loss).chain(adjoints.iter().copied()).collect();
    let values = interpret(&objective.graph, &wanted, &batch).expect("everything is there");
    if wanted.iter().any(|node| values.get(*node).iter().any(|value| !value.is_finite())) {
        return None;
    }
    Some(json!({
        "name": title,
        "code": file(export, "objective.py"),
        "lengths": lengths,
        "domains": of_group,
        "tokens": tokens,
        "sequences": sequences,
        "live": batch.live,
        "loss": values.get(objective.loss)[0],
        "adjoints": adjoints.iter().map(|node| values.get(*node)).collect::<Vec<_>>(),
        "rates": (0..12).map(|step| train.learning_rate.at(step, 12)).collect::<Vec<f64>>(),
    }))
}

#[test]
fn verl_reads_its_folder_and_its_adjoints_are_those_of_the_interpreter() {
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
        let at = |name: &str| (format!("runs/{name}"), false);
        for (model, named) in trained(&plan) {
            let Stage::Train(train) = &named.stage else { continue };
            let request = ExportRequest::new(&plan, Some(checked), model, &at, &located);
            let (_, Some((export, _))) = export(ExportEngine::Verl, request) else { continue };
            let title = format!("{}: {}", path.display(), named.name);
            cases.extend((0..3).filter_map(|_| case(&title, &export, train, &mut random)));
            folder = Some(export);
        }
    }
    assert!(cases.len() > 150, "{} cases", cases.len());
    let Some(python) = python_of("verl") else { return };
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

/// Each experiment, and its stages that verl trains.
const STAGES: [(&str, &[&str]); 2] = [
    ("workers", &["sampled", "top", "balanced", "grouped", "whole", "united", "alone"]),
    ("shown", &["informed_student"]),
];

/// An experiment of `tests/engines` in a folder, after a run.
fn ran(place: &Path, name: &str) {
    two_jobs(place, |row| 3 + row % 4);
    sums_and_programs(place);
    let file = format!("{name}.mopd");
    fs::copy(root().join("tests/engines").join(&file), place.join(&file)).expect("a copy");
    run(Command::new(mopd()).current_dir(place).args(["run", &file]));
}

fn exported(place: &Path, name: &str, stage: &str) {
    let file = format!("{name}.mopd");
    let words = ["export", "--engine", "verl", "--stage", stage, &file];
    run(Command::new(mopd()).current_dir(place).args(words));
}

/// Three steps of verl's FSDP2 engine in two workers have the losses and norms of the run.
#[test]
fn verls_workers_train_as_mopd_does() {
    let Some(python) = python_of("verl") else { return };
    let place = tempfile::tempdir().expect("a folder");
    for (name, stages) in STAGES {
        ran(place.path(), name);
        let all = metrics(&python, &place.path().join("runs").join(name));
        stages.iter().for_each(|stage| compared(place.path(), &python, name, stage, &all));
    }
}

/// Compares three steps of a stage with the metrics of the run.
fn compared(place: &Path, python: &Path, name: &str, stage: &str, all: &[Value]) {
    exported(place, name, stage);
    let folder = place.join(format!("{stage}-verl"));
    let out = place.join(format!("{stage}.json"));
    let script = root().join("tests/engines/workers_verl.py");
    let mut service = Command::new(mopd());
    service.current_dir(place).arg("rewards").arg(&folder).arg("--").arg(python);
    run(service.arg(script).arg(&folder).arg(&out));
    let theirs: Vec<Value> = serde_json::from_str(&fs::read_to_string(&out).expect("results")).expect("rows");
    let ours: Vec<&Value> =
        all.iter().filter(|row| row["stage"] == stage && row["domain"] == "sort").collect();
    assert_eq!((ours.len(), theirs.len()), (3, 3), "{stage}");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let number = |row: &Value, name: &str| row[name].as_f64().expect("a number");
        let pairs = [("loss", "loss"), ("gradient_norm", "grad_norm"), ("learning_rate", "lr")];
        for (our, their) in pairs {
            let (a, b) = (number(ours, our), number(theirs, their));
            println!("{stage} step {}: {our} {a} and {b}", ours["step"]);
            assert!((a - b).abs() < 1e-5 * a.abs().max(0.1), "{stage}: {our}: {a} and {b}");
        }
    }
}

/// The command that the book gives starts verl, which reads plugin, data and teachers in its own workers, and
/// stops where it counts GPUs.
#[test]
fn the_written_folder_starts_verl() {
    let Some(python) = python_of("verl") else { return };
    let place = tempfile::tempdir().expect("a folder");
    let programs = python.parent().expect("a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    // A student with two teachers, and a teacher whose rewards are tests.
    for (name, stage, folder, gpus) in [("workers", "top", "top", 3), ("headline", "expert[code]", "code", 1)]
    {
        ran(place.path(), name);
        let file = format!("{name}.mopd");
        let words = ["export", "--engine", "verl", "--stage", stage, "--out", folder, &file];
        run(Command::new(mopd()).current_dir(place.path()).args(words));
        let output = Command::new("sh")
            .arg(place.path().join(folder).join("launch.sh"))
            .current_dir("/")
            .env("PATH", &path)
            .env("MOPD", mopd())
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("WANDB_API_KEY", "not-to-be-printed")
            .output()
            .expect("sh starts");
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            text.contains(&format!("Total available GPUs 0 is less than total desired GPUs {gpus}")),
            "{text}"
        );
        assert!(text.contains("rewards of "), "{text}");
        assert!(!text.contains("not-to-be-printed"), "verl prints a secret:\n{text}");
        assert!(!text.contains("Bearer") && !text.contains("rewards-service"), "{text}");
    }
}
