//! Explains what a run would do with each stage. A key is only a hash, so every run records the parts of its
//! keys, and a later one can tell which part has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mopd_plan::events::{Event, RunJob, Versions};
use mopd_plan::results::FileHash;
use mopd_plan::why::{EarlierRun, KeyPart, StageFate};
use mopd_plan::{DomainId, Plan};
use mopd_store::{read_json, write_whole};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::Index;

use super::keys::OWN_SETTINGS;
use super::prepared::{PreparedPlan, keys_of, prepared};
use super::{Keys, Task, Work};
use crate::control::Control;
use crate::failure::Result;
use crate::machine::arithmetic::Arithmetic;
use crate::machine::place::Place;
use crate::store::Store;

/// The recorded parts of a run's keys; the last run of each folder of results is kept.
#[derive(Serialize, Deserialize)]
struct RecordedRun {
    out: PathBuf,
    stages: Vec<RecordedStage>,
    /// The files behind the hashes of programs in the parts of keys.
    #[serde(default)]
    programs: Programs,
}

/// Files of programs, by the program's hash.
type Programs = BTreeMap<String, Vec<FileHash>>;

#[derive(Serialize, Deserialize)]
struct RecordedStage {
    stage: String,
    seed: u64,
    key: String,
    parts: Value,
    /// The parts of the last key whose result was in the store when this run began, if they differ from
    /// `parts`. With them, a run that ends early does not hide earlier changes.
    #[serde(default)]
    finished: Option<Value>,
}

fn folder(store: &Path) -> PathBuf {
    Store::notes(store).join("keys")
}

/// The programs of rewards and environments.
fn programs(prepared: &PreparedPlan) -> Programs {
    let of_rewards = prepared.domains.iter().flat_map(|domain| &domain.programs);
    let all = of_rewards.chain(prepared.environments.iter().flatten());
    all.map(|program| (program.hash.clone(), program.files.clone())).collect()
}

/// Records the parts of a run's keys.
pub(super) fn record(prepared: &PreparedPlan, keys: &Keys, store: &Store, job: &RunJob) {
    let (plan, tasks) = (&job.plan, &prepared.tasks);
    let Ok(out) = std::path::absolute(&job.out) else { return };
    let name = blake3::hash(out.as_os_str().as_encoded_bytes()).to_hex();
    let path = folder(Path::new(&job.store)).join(format!("{name}.json"));
    let earlier: Option<RecordedRun> = read_json(&path).ok();
    let stage = |(index, task): (usize, &Task)| {
        let Work::Stage(id) = task.work else { return None };
        let (stage, key) = (plan.experiment.model(id).name.clone(), keys.of(index).to_owned());
        let noted = earlier.iter().flat_map(|run| &run.stages);
        let finished =
            noted.filter(|noted| noted.stage == stage && noted.seed == task.seed).find_map(|noted| {
                let has_result = noted.key != key && store.has(&noted.key);
                if has_result { Some(noted.parts.clone()) } else { noted.finished.clone() }
            });
        Some(RecordedStage { stage, seed: task.seed, key, parts: keys.parts(index)?.clone(), finished })
    };
    let stages: Vec<RecordedStage> = tasks.iter().enumerate().filter_map(stage).collect();
    // Keeps the programs that the parts of finished results refer to.
    let mut programs = programs(prepared);
    let text = serde_json::to_string(&stages).expect("stages are plain data");
    let asked = earlier.iter().flat_map(|run| &run.programs).filter(|(hash, _)| text.contains(hash.as_str()));
    programs.extend(asked.map(|(hash, files)| (hash.clone(), files.clone())));
    let run = RecordedRun { out, stages, programs };
    // Errors are ignored, because results don't depend on the record, only explanations do. A folder whose
    // name is not UTF-8 can't be recorded.
    if let Ok(text) = serde_json::to_vec(&run) {
        let _ = write_whole(&path, &text);
    }
}

/// Reports what a run would do with each stage.
pub fn explain_reruns(job: &RunJob, versions: &Versions, place: Place, control: &Control) -> Result<()> {
    let plan = &job.plan;
    let folder = Path::new(&job.store);
    // Nothing has to be written, so the disk may be read-only.
    let store = Store::at(folder);
    let writable = if folder.is_dir() { Store::open(folder).ok() } else { None };
    let prepared = prepared(job, None, writable.as_ref(), control)?;
    let arithmetic = Arithmetic::of_this_machine(&versions.libtorch);
    let keys = keys_of(job, &prepared, &arithmetic, place);
    let noted = recorded_runs(folder);
    let programs = programs(&prepared);
    for (index, task) in prepared.tasks.iter().enumerate() {
        let Work::Stage(id) = task.work else { continue };
        let Some(parts) = keys.parts(index) else { continue };
        let (stage, seed, key) = (plan.experiment.model(id).name.clone(), task.seed, keys.of(index));
        let present = keys.all_of(index).all(|key| store.has(key));
        let damaged = if present {
            let damage = keys.all_of(index).find_map(|key| store.damage(key));
            damage.map(|damage| format!("{}: {damage}", damage.kind))
        } else {
            None
        };
        let kept = present && damaged.is_none();
        let checkpoint = store.steps(key).into_iter().max().filter(|_| !kept);
        let known = noted.iter().flat_map(|run| run.stages.iter().map(move |noted| (run, noted)));
        let same = known.filter(|(_, noted)| noted.stage == stage && noted.seed == seed);
        let compared = same.flat_map(|(run, noted)| {
            let changed_files = |part: KeyVersions| {
                FileHash::changed(&files(part.old, &run.programs), &files(part.new, &programs))
            };
            // A run that recorded this key but did not finish the stage explains nothing.
            let last = Some(&noted.parts).filter(|_| noted.key != key || noted.finished.is_none());
            let earlier = last.into_iter().chain(&noted.finished);
            let changed =
                |old| changed(plan, &prepared, index, KeyVersions { old, new: parts }, changed_files);
            let runs =
                earlier.map(|old| EarlierRun { out: run.out.display().to_string(), changed: changed(old) });
            runs.collect::<Vec<_>>()
        });
        let before = compared.filter(|_| !kept).min_by_key(|before| before.changed.len());
        control.emit(&Event::Fate { fate: StageFate { stage, seed, kept, damaged, checkpoint, before } });
    }
    Ok(())
}

/// The recorded runs, the latest first. Unreadable records are ignored.
fn recorded_runs(store: &Path) -> Vec<RecordedRun> {
    let files = std::fs::read_dir(folder(store)).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        files.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file.path()))).collect();
    files.sort();
    files.iter().rev().filter_map(|(_, path)| read_json(path).ok()).collect()
}

/// The files of the programs whose hashes are in a part of a key: comma-separated in a text, or in a list.
fn files(part: &Value, known: &Programs) -> Vec<FileHash> {
    let texts =
        part.as_str().into_iter().chain(part.as_array().into_iter().flatten().filter_map(Value::as_str));
    texts.flat_map(|text| text.split(',')).filter_map(|hash| known.get(hash)).flatten().cloned().collect()
}

static NULL: Value = Value::Null;

/// A key, or a part of one, as an earlier run recorded it and as it is now.
#[derive(Clone, Copy)]
struct KeyVersions<'v> {
    old: &'v Value,
    new: &'v Value,
}

impl<'v> KeyVersions<'v> {
    /// A field, or an element of a list; null where it is absent.
    fn part(self, index: impl Index + Copy) -> KeyVersions<'v> {
        let [old, new] = [self.old, self.new].map(|value| value.get(index).unwrap_or(&NULL));
        KeyVersions { old, new }
    }

    fn differ(self) -> bool {
        self.old != self.new
    }

    /// Whether both are lists of the same elements, in another order.
    fn is_reordered(self) -> bool {
        let sorted = |list: &Value| {
            let mut texts: Vec<String> = list.as_array()?.iter().map(Value::to_string).collect();
            texts.sort();
            Some(texts)
        };
        self.differ() && sorted(self.old).is_some_and(|old| Some(old) == sorted(self.new))
    }

    /// The same without one field.
    fn differ_besides(self, field: &str) -> bool {
        let [old, new] = [self.old, self.new].map(|value| {
            let mut value = value.clone();
            value.as_object_mut().map(|fields| fields.remove(field));
            value
        });
        old != new
    }

    fn differ_in(self, field: &str) -> bool {
        self.old.get(field) != self.new.get(field)
    }

    /// What has changed in the data of a domain.
    fn changed_data(
        self,
        domain: &str,
        changed_files: impl Fn(KeyVersions) -> Vec<String>,
    ) -> impl Iterator<Item = KeyPart> {
        let domain = || domain.to_owned();
        let parts = [
            ("rows", KeyPart::Data { domain: domain() }),
            ("program", KeyPart::Program { domain: domain(), files: changed_files(self.part("program")) }),
            ("day", KeyPart::Day { domain: domain() }),
        ];
        parts.into_iter().filter(move |(field, _)| self.differ_in(field)).map(|(_, part)| part)
    }
}

/// The parts of a stage's key that have changed, in the order of their usual importance. `changed_files`
/// lists the files of programs that differ between two parts.
fn changed(
    plan: &Plan,
    prepared: &PreparedPlan,
    index: usize,
    key: KeyVersions,
    changed_files: impl Fn(KeyVersions) -> Vec<String>,
) -> Vec<KeyPart> {
    let task = &prepared.tasks[index];
    let Work::Stage(id) = task.work else { return Vec::new() };
    let trains = plan.experiment.model(id).stage.trains();
    let name = |id: DomainId| plan.experiment.domain(id).name.as_str();
    let trained: Vec<&str> =
        trains.iter().flat_map(|train| train.mixture.iter().map(|share| name(share.domain))).collect();
    let judges = trains.iter().filter_map(|train| Some(name(train.extrapolation.as_ref()?.judged_by)));
    let mut found = Vec::new();
    // Earlier versions recorded only the settings combined with those of the inputs.
    let has_own = key.old.get(OWN_SETTINGS).is_some();
    let settings = if has_own { OWN_SETTINGS } else { "settings" };
    found.extend(key.differ_in(settings).then_some(KeyPart::Settings));
    found.extend(key.differ_in("tokenizer").then_some(KeyPart::Tokenizer));
    for field in ["data", "validation"] {
        if key.part(field).is_reordered() {
            found.push(KeyPart::DomainOrder);
            continue;
        }
        for (place, domain) in trained.iter().enumerate() {
            found.extend(key.part(field).part(place).changed_data(domain, &changed_files));
        }
    }
    for domain in judges {
        found.extend(key.part("judge").changed_data(domain, &changed_files));
    }
    found.extend(key.differ_in("served").then_some(KeyPart::Served));
    if key.differ_in("environments") {
        found.push(KeyPart::RolloutPrograms { files: changed_files(key.part("environments")) });
    }
    for (place, need) in task.needs.iter().enumerate() {
        if let Work::Stage(id) = prepared.tasks[*need].work
            && key.part("inputs").part(place).differ()
        {
            found.push(KeyPart::Input { model: plan.experiment.model(id).name.clone() });
        }
    }
    let computed = key.part("computed");
    if computed.differ_besides("numeric") || computed.part("numeric").differ_besides("dtype") {
        // The compute dtype is a setting, too.
        found.push(KeyPart::Arithmetic);
    }
    found.extend(key.differ_in("fork").then_some(KeyPart::Fork));
    // Another command is another program, and a changed setting.
    if found.contains(&KeyPart::Settings) {
        found.retain(|part| match part {
            KeyPart::Program { files, .. } | KeyPart::RolloutPrograms { files } => !files.is_empty(),
            _ => true,
        });
    }
    // Another difference, such as more or fewer models.
    let of_key = |parts: &Value| {
        let mut parts = parts.clone();
        parts.as_object_mut().map(|parts| parts.remove(OWN_SETTINGS));
        parts
    };
    if found.is_empty() && of_key(key.old) != of_key(key.new) {
        found.push(KeyPart::Settings);
    }
    let mut once: Vec<KeyPart> = Vec::with_capacity(found.len());
    for part in found {
        if !once.contains(&part) {
            once.push(part);
        }
    }
    once
}
