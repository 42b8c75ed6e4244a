//! The store of finished stages, under content keys: one folder each with the model (see [`Checkpoint`]), the
//! stage's metrics, and `checksums.json`, which is written last. An entry without valid checksums does not
//! count.

mod checkpoint;
mod checkpoints;
mod evaluations;
mod hashed;
mod publish;
mod scores;
pub mod state;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_store::{Damage, Folder, Lock, StoredRun, read_json, write_whole};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::hashed::write_json;
use crate::failure::{Error, Result};
use crate::formats::peft;
use crate::machine::arithmetic::Arithmetic;
use crate::model::Weights;
use crate::report::tokens::TokenLog;
use crate::report::{Record, RecordNames};

pub use checkpoint::{
    Ancestor, Checkpoint, CheckpointProvenance, Forked, check_can_be_saved, save, save_as_adapter,
    write_merged,
};
pub use mopd_store::Lookup;
pub use publish::CurrentFiles;
pub use scores::ScoreEntry;

/// Files of a training stage: the metrics of its steps, and its token reports. They are copied to the run's
/// results.
const METRICS: &str = "metrics.json";
const TOKENS: &str = "tokens.json";
/// The names that these use.
const NAMES: &str = "names.json";
/// Folder of the arithmetics that made results, with a file for each.
const ARITHMETIC: &str = "arithmetic";
const VALUE: &str = "value.json";
/// Where earlier versions stored an adapter, beside the weights that it was merged into.
const ADAPTER_BESIDE: &str = "adapter";

#[derive(Clone, Debug)]
pub struct Store {
    folder: Folder,
}

/// The model that the adapter of a result changes, which is not stored with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterBase {
    /// A name on the hub, or a folder, as the run that stores the result has it.
    pub place: String,
    /// Its own entry; `None` if it is a file of the user's.
    pub key: Option<String>,
}

/// A finished stage.
#[derive(Debug)]
pub struct StoredStage {
    pub weights: Weights,
    pub record: Record,
}

impl Store {
    /// Creates the folder if there is none, and checks that it can be written to.
    pub fn open(folder: &Path) -> Result<Store> {
        Ok(Store { folder: Folder::open(folder)? })
    }

    /// A store to read from, which need not exist.
    pub fn at(folder: &Path) -> Store {
        Store { folder: Folder::at(folder) }
    }

    /// Why an entry can't be used, if a file of it was changed since it was written.
    pub fn damage(&self, key: &str) -> Option<Damage> {
        self.folder.verify(key).err()
    }

    /// The folder of an entry.
    pub fn path(&self, key: &str) -> PathBuf {
        self.folder.path(key)
    }

    /// Whether there is an entry; it may turn out to be damaged.
    pub fn has(&self, key: &str) -> bool {
        self.folder.has(key)
    }

    /// Whether an entry is stored as an adapter.
    pub fn is_adapter(&self, key: &str) -> bool {
        self.path(key).join(peft::CONFIG).exists()
    }

    /// The lock to compute a result; `None` if another run holds it.
    pub fn try_lock(&self, key: &str) -> Result<Option<Lock>> {
        Ok(self.folder.try_lock(key)?)
    }

    /// Registers the keys that a run needs, so that they are not pruned. Returns false if the store is being
    /// pruned now.
    pub fn register(&self, run: &StoredRun) -> Result<bool> {
        Ok(self.folder.register(run)?)
    }

    /// Records that results are made by this arithmetic. The first time, returns a warning if the store has
    /// results of another one, which this run can't use.
    pub fn note_arithmetic(&self, here: &Arithmetic) -> Result<Option<String>> {
        let folder = self.path(ARITHMETIC);
        // Checked first, because every run records its arithmetic before it makes results.
        let results = self.folder.has_results();
        let files = fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut noted: Vec<_> = files
            .filter_map(|file| {
                Some((file.metadata().ok()?.modified().ok()?, read_json::<Arithmetic>(&file.path()).ok()?))
            })
            .collect();
        // From the same listing as the others, because another run may record the same at any time.
        if noted.iter().any(|(_, arithmetic)| arithmetic == here) {
            return Ok(None);
        }
        noted.sort_by_key(|(at, _)| *at);
        let how = match noted.last() {
            Some((_, last)) => Some(here.difference(last)),
            None if results => Some(
                "which one is not recorded: an earlier version of mopd computed them, or part of the store \
                was deleted"
                    .to_owned(),
            ),
            None => None,
        };
        let text = serde_json::to_vec(here).expect("arithmetic is plain data");
        let own = folder.join(format!("{}.json", blake3::hash(&text).to_hex()));
        write_whole(&own, &text)?;
        Ok(how.map(|how| {
            format!(
                "the store has results that were computed with other arithmetic ({how}): they are kept \
                but not used, and the needed ones are computed again; `mopd cache prune` deletes what no \
                run needs"
            )
        }))
    }

    /// `base` is asked for the model that the adapter of the result changes, where it has one.
    pub fn find(&self, key: &str, base: impl FnOnce() -> Result<Arc<Weights>>) -> Lookup<StoredStage> {
        self.folder.read(key, |folder| {
            let checkpoint = Checkpoint::load_on(folder, base).map_err(|error| error.to_string())?;
            Ok(StoredStage { weights: checkpoint.weights, record: read_record(folder)? })
        })
    }

    /// The record of a stored stage. Unlike [`Store::find`], it does not verify checksums.
    pub fn record(&self, key: &str) -> Result<Record> {
        let folder = self.path(key);
        read_record(&folder).map_err(|reason| {
            if let Some(deleted) = self.deleted(key) {
                return deleted;
            }
            Error::new(FailureKind::Storage, format!("cannot read the metrics of a finished stage: {reason}"))
                .help("run again: damaged results are computed again")
        })
    }

    /// Whether an entry is there with all its files as they were written.
    pub fn find_files(&self, key: &str) -> Lookup<()> {
        self.folder.read(key, |_| Ok(()))
    }

    /// The weights of an entry, mapped from its files. Unlike [`Store::find`], it does not verify checksums.
    pub fn weights(&self, key: &str, base: impl FnOnce() -> Result<Arc<Weights>>) -> Result<Weights> {
        match Checkpoint::load_on(&self.path(key), base) {
            Ok(checkpoint) => Ok(checkpoint.weights),
            Err(error) => Err(self.deleted(key).unwrap_or(error)),
        }
    }

    /// The error for an entry that this run has stored or found, and that is not there any more.
    fn deleted(&self, key: &str) -> Option<Error> {
        if self.has(key) {
            return None;
        }
        let message = format!("{} was deleted during the run", self.path(key).display());
        let help = "run the same command again: what was deleted is computed again";
        Some(Error::new(FailureKind::Storage, message).help(help))
    }

    /// The secret of the store, from which private stages draw their noise.
    pub fn secret(&self) -> Result<[u8; 32]> {
        self.folder.secret().map_err(|problem| {
            let message = format!(
                "cannot read the secret from which private stages draw their noise: \
                {problem}"
            );
            Error::new(FailureKind::Storage, message).help(
                "only its owner may read the file. Without it, unfinished private stages continue with \
                other noise, which is equally private: move the file away, or run in another folder",
            )
        })
    }

    /// The folder for remembered hashes of files elsewhere; see [`content::hash`].
    pub fn notes(folder: &Path) -> PathBuf {
        folder.join("notes")
    }

    /// Finds another small result under its key.
    pub fn find_value<T: DeserializeOwned>(&self, key: &str) -> Lookup<T> {
        self.folder.read(key, |folder| read_json(&folder.join(VALUE)))
    }

    /// Stores a finished stage: with a `base`, only the adapter of its weights, else all of them.
    pub fn insert(
        &self,
        key: &str,
        provenance: &CheckpointProvenance,
        weights: &Weights,
        record: &Record,
        base: Option<&AdapterBase>,
    ) -> Result<()> {
        let about = format!("{}, seed {}", provenance.model, provenance.seed);
        let adapted = weights.adapted().zip(base);
        let needs = adapted.and_then(|(_, base)| base.key.as_deref());
        self.folder.write_needing(key, &about, needs, |folder| {
            let mut sums = match adapted {
                Some((merged, base)) => checkpoint::save_as_adapter(folder, provenance, merged, &base.place)?,
                None => checkpoint::save(folder, provenance, weights)?,
            };
            sums.insert(METRICS.to_owned(), write_json(&folder.join(METRICS), &record.rows)?);
            sums.insert(TOKENS.to_owned(), write_json(&folder.join(TOKENS), &record.tokens)?);
            sums.insert(NAMES.to_owned(), write_json(&folder.join(NAMES), &record.names)?);
            Ok(sums)
        })
    }

    /// Stores another small result; `about` describes it.
    pub fn insert_value<T: Serialize>(&self, key: &str, about: &str, value: &T) -> Result<()> {
        self.folder.write(key, about, |folder| {
            let sum = write_json(&folder.join(VALUE), value)?;
            Ok([(VALUE.to_owned(), sum)].into())
        })
    }

    /// Stores weights of a failed stage, to inspect what went wrong. Returns the folder.
    pub fn keep_last_good(
        &self,
        key: &str,
        provenance: &CheckpointProvenance,
        weights: &Weights,
    ) -> Result<PathBuf> {
        let folder = self.path(&format!("{key}.last-good"));
        checkpoint::save(&folder, provenance, weights)?;
        Ok(folder)
    }
}

fn read_record(folder: &Path) -> Result<Record, String> {
    let rows = read_json(&folder.join(METRICS))?;
    // Earlier versions stored no tokens, or no names.
    let tokens =
        if folder.join(TOKENS).exists() { read_json(&folder.join(TOKENS))? } else { TokenLog::default() };
    let names =
        if folder.join(NAMES).exists() { read_json(&folder.join(NAMES))? } else { RecordNames::default() };
    Ok(Record { rows, tokens, names })
}

/// Whether a file of an entry belongs to the model, as a folder of results has it.
fn is_of_model(name: &str) -> bool {
    ![METRICS, TOKENS, NAMES].contains(&name)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::tests::{random_adapter, random_model, tiny};
    use crate::tokenizer::tests::pretrained;
    use crate::tokenizer::{PretrainedTokenizer, Tokenizer};

    const CHECKSUMS: &str = "checksums.json";

    fn no_base() -> Result<Arc<Weights>> {
        unreachable!("a whole model has no base")
    }

    fn provenance() -> CheckpointProvenance {
        CheckpointProvenance::new(
            &random_model(&tiny(), 1),
            "expert[sort]",
            3,
            "key",
            vec![Ancestor { name: "start".into(), key: "other".into() }],
        )
    }

    fn filled() -> (tempfile::TempDir, Store, Weights) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let weights = random_model(&tiny(), 1);
        store.insert("key", &provenance(), &weights, &Record::default(), None).unwrap();
        (folder, store, weights)
    }

    #[test]
    fn store_finds_inserted_entries_only() {
        let (_folder, store, weights) = filled();
        let Lookup::Found(entry) = store.find("key", no_base) else { panic!("not found") };
        assert_eq!(entry.weights.values(), weights.values());
        assert!(matches!(store.find("other", no_base), Lookup::Absent));
        store.insert_value("value", "a value", &vec![1.5, 0.1]).unwrap();
        assert!(matches!(store.find_value::<Vec<f64>>("value"), Lookup::Found(value) if value == [1.5, 0.1]));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_damage() {
        let (_folder, store, weights) = filled();
        for name in ["model.safetensors", "config.json", "mopd.json", METRICS, TOKENS, CHECKSUMS] {
            let path = store.path("key").join(name);
            let good = fs::read(&path).unwrap();
            for place in [0, good.len() / 2, good.len() - 1] {
                let mut bad = good.clone();
                bad[place] ^= 4;
                fs::write(&path, &bad).unwrap();
                assert!(matches!(store.find("key", no_base), Lookup::Damaged(_)), "{name} at {place}");
            }
            fs::write(&path, &good[..good.len() / 2]).unwrap();
            assert!(matches!(store.find("key", no_base), Lookup::Damaged(_)), "{name} cut off");
            fs::write(&path, &good).unwrap();
            assert!(matches!(store.find("key", no_base), Lookup::Found(_)));
        }
        fs::remove_file(store.path("key").join("model.safetensors")).unwrap();
        let Lookup::Damaged(damage) = store.find("key", no_base) else { panic!("not noticed") };
        assert!(damage.reason.contains("model.safetensors"), "{damage}");
        // An entry that is written again counts.
        store.insert("key", &provenance(), &weights, &Record::default(), None).unwrap();
        assert!(matches!(store.find("key", no_base), Lookup::Found(_)));
    }

    #[test]
    fn other_arithmetic_is_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let here = crate::machine::arithmetic::tests::some();
        assert_eq!(store.note_arithmetic(&here).unwrap(), None, "it is empty");
        assert_eq!(store.note_arithmetic(&here).unwrap(), None);
        let later = Arithmetic { version: 3, ..here.clone() };
        let said = store.note_arithmetic(&later).unwrap().expect("other arithmetic");
        assert!(said.contains("numeric version 2, here 3") && said.contains("kept but not used"), "{said}");
        assert_eq!([&later, &here].map(|known| store.note_arithmetic(known).unwrap()), [None, None]);
        // A store of a version that did not record arithmetics.
        let (_folder, store, _) = filled();
        fs::rename(store.path("key"), store.path(&"a".repeat(64))).unwrap();
        assert!(
            store
                .note_arithmetic(&here)
                .unwrap()
                .is_some_and(|said| said.contains("an earlier version of mopd"))
        );
    }

    /// Runs that start together record the same arithmetic, and none takes another's record for a difference.
    #[test]
    fn the_same_arithmetic_is_noted_by_many_at_once() {
        let here = crate::machine::arithmetic::tests::some();
        for _ in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("store")).unwrap();
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                let note = || {
                    start.wait();
                    store.note_arithmetic(&here).unwrap()
                };
                let notes: Vec<_> = (0..4).map(|_| scope.spawn(note)).collect();
                for note in notes {
                    assert_eq!(note.join().unwrap(), None);
                }
            });
        }
    }

    #[test]
    fn an_unfinished_entry_is_absent() {
        let (_folder, store, _) = filled();
        fs::remove_file(store.path("key").join(CHECKSUMS)).unwrap();
        assert!(matches!(store.find("key", no_base), Lookup::Absent));
    }

    #[test]
    fn published_models_have_plain_names() {
        let (folder, store, weights) = filled();
        let out = folder.path().join("out");
        for _ in 0..2 {
            let published =
                store.publish("key", &out, "expert[sort]", 3, &CurrentFiles::of(&weights)).unwrap();
            assert_eq!(published, out.join("models/expert.sort-seed3"));
            assert_eq!(Checkpoint::load(&published).unwrap().weights.values(), weights.values());
        }
    }

    /// Settings that change no token are in no key, and a published model has those of its run.
    #[test]
    fn published_models_have_the_files_of_now() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let with = |temperature: f64, template: bool| {
            let Tokenizer::Pretrained(tokenizer) = pretrained("llama3") else { panic!("it has files") };
            let mut files = tokenizer.files().clone();
            let mut generation = files.object("generation_config.json").unwrap();
            generation.insert("temperature".to_owned(), temperature.into());
            let generation = serde_json::to_vec(&generation).unwrap();
            files.files.retain(|(name, _)| name != "generation_config.json");
            files.files.push(("generation_config.json".to_owned(), generation));
            if template {
                files
                    .files
                    .push(("additional_chat_templates/old.jinja".to_owned(), b"{{ bos_token }}".to_vec()));
            }
            Tokenizer::Pretrained(PretrainedTokenizer::new(files).unwrap())
        };
        let (old, new) = (with(1.0, true), with(0.5, false));
        let random = random_model(&tiny(), 1);
        let values = random.values().into_owned();
        let weights = Weights::new(random.config.clone(), old.into(), values);
        let provenance = CheckpointProvenance::new(&weights, "m", 3, "key", Vec::new());
        let (weights, base) =
            (random_adapter(&Arc::new(weights), 2), AdapterBase { place: "old".to_owned(), key: None });
        store.insert("key", &provenance, &weights, &Record::default(), Some(&base)).unwrap();
        let current = CurrentFiles { tokenizer: &new, adapter_base: Some("org/new".to_owned()) };
        let out = folder.path().join("out");
        let published = store.publish("key", &out, "m", 3, &current).unwrap();
        let text = |name: &str| fs::read_to_string(published.join(name)).unwrap();
        assert!(text("generation_config.json").contains("0.5"));
        assert!(!published.join("additional_chat_templates/old.jinja").exists());
        let config: Value = serde_json::from_str(&text("adapter_config.json")).unwrap();
        assert_eq!((&config["base_model_name_or_path"], &config["r"]), (&"org/new".into(), &2.into()));
        assert!(store.is_published("key", &out, "m", 3) && store.damage("key").is_none());
    }

    /// A result with an adapter is its adapter alone, and is read with its base as it was.
    #[test]
    fn an_adapter_is_stored_without_its_base() {
        let (folder, store, base) = filled();
        let base = Arc::new(base);
        let weights = random_adapter(&base, 2);
        let whole = store.path("key");
        let place = AdapterBase { place: whole.display().to_string(), key: Some("key".to_owned()) };
        let insert =
            || store.insert("on", &provenance(), &weights, &Record::default(), Some(&place)).unwrap();
        insert();
        assert!(store.is_adapter("on") && !store.path("on").join("model.safetensors").exists());
        let Lookup::Found(entry) = store.find("on", || Ok(base.clone())) else { panic!("not found") };
        assert_eq!(entry.weights.values(), weights.values());
        assert!(entry.weights.adapted().unwrap().base().shares_numbers(&base), "one copy of the base");
        // In the folder of results it is a folder of PEFT, which names its base.
        let out = folder.path().join("out");
        let current = CurrentFiles { tokenizer: &weights.tokenizer, adapter_base: Some(place.place.clone()) };
        let published = store.publish("on", &out, "m", 3, &current).unwrap();
        assert_eq!(Checkpoint::load(&published).unwrap().weights.values(), weights.values());
        assert!(store.is_published("on", &out, "m", 3));
        // The folder of a whole model becomes one of an adapter, and back.
        store.publish("key", &out, "m", 3, &CurrentFiles::of(&base)).unwrap();
        assert_eq!(Checkpoint::load(&published).unwrap().weights.values(), base.values());
        store.publish("on", &out, "m", 3, &current).unwrap();
        assert_eq!(Checkpoint::load(&published).unwrap().weights.values(), weights.values());
        // Any change of the adapter is damage.
        let path = store.path("on").join("adapter_model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(matches!(store.find("on", || Ok(base.clone())), Lookup::Damaged(_)));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken");
        fs::write(&taken, "").unwrap();
        let Err(error) = Store::open(&taken.join("store")) else { panic!("a file is not a folder") };
        assert!(error.to_string().contains("taken/store"), "{error}");
    }
}
