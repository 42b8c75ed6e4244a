//! What a run would do with each stage, and why. A key is a hash: what it was made of is noted by every run,
//! so that a later one can tell what is another.

use std::path::{Path, PathBuf};

use super::prepared::{PreparedPlan, keys_of, prepared};
use super::{Keys, Task, Work};
use crate::control::Control;
use crate::failure::Result;
use crate::machine::arithmetic::Arithmetic;
use crate::machine::place::Place;
use crate::store::Store;
use mopd_compiler::plan::events::{Event, RunJob, Versions};
use mopd_compiler::plan::fates::{EarlierRun, KeyPart, StageFate};
use mopd_compiler::plan::{DomainId, Plan, Train};
use mopd_store::{read_json, write_whole};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the keys of a run were made of; the last run of each folder of results is kept.
#[derive(Serialize, Deserialize)]
struct NotedRun {
    out: PathBuf,
    stages: Vec<NotedStage>,
}

#[derive(Serialize, Deserialize)]
struct NotedStage {
    stage: String,
    seed: u64,
    key: String,
    parts: Value,
}

fn folder(store: &Path) -> PathBuf {
    Store::notes(store).join("keys")
}

/// Notes what the keys of a run are made of.
pub(super) fn note(plan: &Plan, tasks: &[Task], keys: &Keys, job: &RunJob) {
    let stage = |(index, task): (usize, &Task)| {
        let Work::Stage(id) = task.work else { return None };
        let (stage, key) = (plan.experiment.model(id).name.clone(), keys.of(index).to_owned());
        Some(NotedStage { stage, seed: task.seed, key, parts: keys.parts(index)?.clone() })
    };
    let Ok(out) = std::path::absolute(&job.out) else { return };
    let name = blake3::hash(out.as_os_str().as_encoded_bytes()).to_hex();
    let run = NotedRun { out, stages: tasks.iter().enumerate().filter_map(stage).collect() };
    let text = serde_json::to_vec(&run).expect("a run is plain data");
    // Without the note results are as right as with it; only an explanation is missing.
    let _ = write_whole(&folder(Path::new(&job.store)).join(format!("{name}.json")), &text);
}

/// Says what a run would do with each stage.
pub fn why(job: &RunJob, versions: &Versions, place: Place, control: &Control) -> Result<()> {
    let plan = &job.plan;
    let folder = Path::new(&job.store);
    let store = Store::open(folder)?;
    let prepared = prepared(job, None, Some(&store), control)?;
    let arithmetic = Arithmetic::of_this_machine(&versions.libtorch);
    let keys = keys_of(job, &prepared, &arithmetic, place);
    let noted = noted(folder);
    for (index, task) in prepared.tasks.iter().enumerate() {
        let Work::Stage(id) = task.work else { continue };
        let Some(parts) = keys.parts(index) else { continue };
        let (stage, seed, key) = (plan.experiment.model(id).name.clone(), task.seed, keys.of(index));
        let kept = keys.all_of(index).all(|key| store.has(key));
        let checkpoint = store.steps(key).into_iter().max().filter(|_| !kept);
        let known = noted.iter().flat_map(|run| run.stages.iter().map(move |noted| (run, noted)));
        let same = known.filter(|(_, noted)| noted.stage == stage && noted.seed == seed);
        let compared = same.map(|(run, noted)| {
            let out = run.out.display().to_string();
            EarlierRun { out, changed: changed(plan, &prepared, index, &noted.parts, parts) }
        });
        let before = compared.filter(|_| !kept).min_by_key(|before| before.changed.len());
        control.emit(&Event::Fate { fate: StageFate { stage, seed, kept, checkpoint, before } });
    }
    Ok(())
}

/// The runs that are noted, the last one first. What can't be read is of no use.
fn noted(store: &Path) -> Vec<NotedRun> {
    let files = std::fs::read_dir(folder(store)).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        files.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path()))).collect();
    files.sort();
    files.iter().rev().filter_map(|(_, path)| read_json(path).ok()).collect()
}

/// What of a stage's key is another, in the order of what usually matters.
fn changed(plan: &Plan, prepared: &PreparedPlan, index: usize, old: &Value, new: &Value) -> Vec<KeyPart> {
    let task = &prepared.tasks[index];
    let Work::Stage(id) = task.work else { return Vec::new() };
    let stage = &plan.experiment.model(id).stage;
    let name = |id: DomainId| plan.experiment.domain(id).name.clone();
    let trained: Vec<String> = stage
        .trains()
        .into_iter()
        .flat_map(|train| train.mixture.iter().map(|share| name(share.domain)))
        .collect();
    let judges: Vec<String> = stage
        .trains()
        .into_iter()
        .filter_map(|train: &Train<_>| Some(name(train.extrapolation.as_ref()?.judged_by)))
        .collect();
    let differ = |field: &str| old.get(field) != new.get(field);
    let mut found = Vec::new();
    let mut add = |part: KeyPart| {
        if !found.contains(&part) {
            found.push(part);
        }
    };
    if differ("settings") {
        add(KeyPart::Settings);
    }
    if differ("tokenizer") {
        add(KeyPart::Tokenizer);
    }
    let none = Value::Null;
    let of_data = |old: &Value, new: &Value, domain: &str, add: &mut dyn FnMut(KeyPart)| {
        let domain = || domain.to_owned();
        let parts = [
            ("rows", KeyPart::Data { domain: domain() }),
            ("program", KeyPart::Program { domain: domain() }),
            ("day", KeyPart::Day { domain: domain() }),
        ];
        parts
            .into_iter()
            .filter(|(field, _)| old.get(*field) != new.get(*field))
            .for_each(|(_, part)| add(part));
    };
    for field in ["data", "validation"] {
        for (place, domain) in trained.iter().enumerate() {
            let [old, new] =
                [old, new].map(|key| key.get(field).and_then(|list| list.get(place)).unwrap_or(&none));
            of_data(old, new, domain, &mut add);
        }
    }
    for domain in &judges {
        let [old, new] = [old, new].map(|key| key.get("judge").unwrap_or(&none));
        of_data(old, new, domain, &mut add);
    }
    if differ("served") {
        add(KeyPart::Served);
    }
    if differ("environments") {
        add(KeyPart::RolloutPrograms);
    }
    let input = |place: usize| [old, new].map(|key| key.get("inputs").and_then(|inputs| inputs.get(place)));
    for (place, need) in task.needs.iter().enumerate() {
        let [old, new] = input(place);
        if let Work::Stage(id) = prepared.tasks[*need].work
            && old != new
        {
            add(KeyPart::Input { model: plan.experiment.model(id).name.clone() });
        }
    }
    let processes = |key: &Value| key.get("computed").and_then(|computed| computed.get("processes")).cloned();
    if processes(old) != processes(new) {
        add(KeyPart::Processes);
    } else if differ("computed") {
        add(KeyPart::Arithmetic);
    }
    if differ("fork") {
        add(KeyPart::Fork);
    }
    // A key of another shape: more or fewer models, for instance.
    if found.is_empty() && old != new {
        found.push(KeyPart::Settings);
    }
    found
}
