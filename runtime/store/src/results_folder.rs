//! The folder of results of a run: which of its files belong to one plan and its inputs, and how finished
//! results move to `previous`. New results are never beside old ones, finished results are not lost if a run
//! is killed, and files that mopd did not write are not touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::entries::read_json;
use crate::files::{WriteError, remove_partial};

pub const RESULTS: &str = "results.json";
pub const REWARDS: &str = "rewards.parquet";
pub const ANSWERS: &str = "answers.parquet";
pub const METRICS: &str = "metrics.parquet";
pub const SAMPLES: &str = "samples.parquet";
pub const WEIGHTS: &str = "weights.parquet";
pub const EVENTS: &str = "events.jsonl";
pub const PLAN: &str = "plan.json";
pub const SOURCE: &str = "source.mopd";
pub const SWEEP: &str = "sweep.json";
pub const PROVENANCE: &str = "provenance.json";
pub const MODULES: &str = "modules";
const MODELS: &str = "models";
const TENSORBOARD: &str = "tensorboard";
/// The folder, inside the results folder, with the last finished results of another plan or other inputs.
pub const PREVIOUS: &str = "previous";
/// Temporary folders, where `previous` and the first files of a run are written.
const PART: &str = ".previous.part";
pub const NEXT: &str = ".next.part";

/// The results of a run. The first file marks it as finished, so it is removed before the others.
const RESULT_FILES: [&str; 6] = [RESULTS, REWARDS, ANSWERS, METRICS, SAMPLES, WEIGHTS];
/// Files that identify the plan, or a sweep.
const PLAN_FILES: [&str; 4] = [PLAN, SOURCE, SWEEP, PROVENANCE];
/// Everything else that a run writes or removes.
const OTHERS: [&str; 5] = [EVENTS, MODULES, PREVIOUS, MODELS, TENSORBOARD];

/// Fields of `plan.json`, `sweep.json` and `results.json`, also of other versions.
#[derive(Default, Deserialize)]
struct Identity {
    #[serde(alias = "hash")]
    plan: Option<String>,
    #[serde(default)]
    keys: Option<String>,
}

/// A folder of results, which need not exist.
#[derive(Clone, Copy, Debug)]
pub struct ResultsFolder<'a> {
    path: &'a Path,
}

impl ResultsFolder<'_> {
    pub fn at(path: &Path) -> ResultsFolder<'_> {
        ResultsFolder { path }
    }

    fn has(&self, name: &str) -> bool {
        self.path.join(name).symlink_metadata().is_ok()
    }

    fn read(&self, name: &str) -> Option<Identity> {
        read_json(&self.path.join(name)).ok()
    }

    /// Whether a run or a sweep has written here.
    fn is_of_run(&self) -> bool {
        let sweep = || {
            let sweep: Option<Value> = read_json(&self.path.join(SWEEP)).ok();
            sweep.is_some_and(|sweep| sweep.get("members").is_some_and(Value::is_array))
        };
        self.read(PLAN).is_some_and(|found| found.plan.is_some()) || sweep() || self.has(NEXT)
    }

    /// Whether this is the `previous` of a run: it has a plan's results, with the plan or without.
    fn is_archive(&self) -> bool {
        self.is_of_run() || self.read(RESULTS).is_some_and(|found| found.plan.is_some())
    }

    /// Marks a folder that exists as that of a run, where the run did not write its plan.
    pub fn mark(&self) {
        let _ = fs::create_dir(self.path.join(NEXT));
    }

    /// Files and folders that a run would replace or remove, if no run has written here: they are the user's.
    pub fn in_the_way(&self) -> Vec<&'static str> {
        if self.is_of_run() {
            return Vec::new();
        }
        let names = RESULT_FILES.into_iter().chain(PLAN_FILES).chain(OTHERS);
        names.filter(|name| self.has(name)).collect()
    }

    /// The plan whose files are here; of a sweep, the plans of its members, separated by commas.
    pub fn plan(&self) -> Option<String> {
        [PLAN, SWEEP].into_iter().find_map(|name| self.read(name)?.plan)
    }

    pub fn has_results(&self) -> bool {
        self.path.join(RESULTS).is_file()
    }

    /// Whether a run of the same plan has begun that does not know yet whether these results are its own.
    pub fn is_undecided(&self) -> bool {
        self.path.join(PART).join(RESULTS).is_file()
    }

    /// Deletes temporary files that a killed run left, in the folder and in those that runs write inside it.
    /// Other folders inside are not the run's: with `--out .` they are the user's, the store's and those of
    /// other runs.
    pub fn remove_partial(&self) {
        remove_partial(self.path, false);
        for inside in [MODELS, MODULES, TENSORBOARD] {
            remove_partial(&self.path.join(inside), true);
        }
    }

    /// The hash of the keys of all results in `results.json`.
    pub fn keys(&self) -> Option<String> {
        self.read(RESULTS)?.keys
    }

    /// Whether the results here are those of the plan here. Results that can't be read must not be removed.
    fn is_finished(&self) -> bool {
        let made = || self.read(RESULTS).and_then(|found| found.plan);
        // The merged results of a sweep name only the members that finished.
        let of_sweep = || self.has(SWEEP) && !self.has(PLAN);
        let same = || made().is_none_or(|made| self.plan().is_none_or(|planned| planned == made));
        self.has_results() && (of_sweep() || same())
    }

    /// Prepares the folder for the files of a plan, by its hash. Finished results of another plan move to
    /// `previous`; those of an unfinished run are removed, for its stages are in the store. Those of the same
    /// plan stay, and are ready to move ([`ResultsFolder::supersede`]): its data may have changed.
    ///
    /// # Errors
    /// If the folder can't be written to.
    pub fn make_room(&self, plan: &str) -> Result<(), WriteError> {
        let same = self.plan().as_deref() == Some(plan);
        if self.is_finished() {
            self.prepare_archive()?;
        }
        if same {
            return Ok(());
        }
        self.archive()?;
        self.remove_results()?;
        self.remove(EVENTS)?;
        self.remove_modules()
    }

    /// Removes the files of a single run from the folder of a sweep, or those of a sweep from that of a run.
    /// Called after `kept`, which replaces it, is written, so that the folder is a run's at any time.
    ///
    /// # Errors
    /// If a file can't be removed.
    pub fn remove_plan_files_besides(&self, kept: &[&str]) -> Result<(), WriteError> {
        PLAN_FILES.iter().filter(|name| !kept.contains(name)).try_for_each(|name| self.remove(name))
    }

    /// Called when the keys of all results of a run are known. If the finished results here were made from
    /// other data, other programs or otherwise, moves them to `previous`. Otherwise they are still those of
    /// the plan.
    ///
    /// # Errors
    /// If the folder can't be written to.
    pub fn supersede(&self, keys: &str) -> Result<(), WriteError> {
        if !self.has_results() {
            return self.archive();
        }
        if self.keys().as_deref() == Some(keys) {
            return self.remove(PART);
        }
        self.prepare_archive()?;
        self.archive()?;
        self.remove_results()
    }

    /// Called instead of [`ResultsFolder::supersede`] if nothing is run: the results here stay.
    ///
    /// # Errors
    /// If the folder can't be written to.
    pub fn keep_results(&self) -> Result<(), WriteError> {
        self.remove(PART)
    }

    /// Links finished results with the plan that they belong to into a temporary folder.
    fn prepare_archive(&self) -> Result<(), WriteError> {
        let part = self.path.join(PART);
        if self.is_same(PART) || self.is_same(PREVIOUS) {
            return Ok(());
        }
        self.remove(PART)?;
        let copied = || {
            fs::create_dir(&part)?;
            for name in self.modules()? {
                let (from, to) = (self.path.join(MODULES).join(&name), part.join(MODULES).join(&name));
                fs::create_dir_all(to.parent().unwrap_or(&part))?;
                link(&from, &to)?;
            }
            // The folder counts when it has the first of these.
            for name in PLAN_FILES.iter().chain(RESULT_FILES.iter().rev()) {
                link(&self.path.join(name), &part.join(name))?;
            }
            Ok(())
        };
        copied().map_err(|source| WriteError { path: part.clone(), source })
    }

    /// Whether a folder inside has the results of this one.
    fn is_same(&self, inside: &str) -> bool {
        let content = |path: &Path| fs::read(path.join(RESULTS)).ok();
        let own = content(self.path);
        own.is_some() && own == content(&self.path.join(inside))
    }

    /// Replaces `previous` by the prepared folder, if there is one. If it is killed at any time, the results
    /// are in the folder or in `previous`, or in both.
    fn archive(&self) -> Result<(), WriteError> {
        let (part, previous) = (self.path.join(PART), self.path.join(PREVIOUS));
        if !part.join(RESULTS).is_file() {
            return self.remove(PART);
        }
        let failed = |source| WriteError { path: previous.clone(), source };
        if previous.symlink_metadata().is_ok() && !ResultsFolder::at(&previous).is_archive() {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        self.remove(PREVIOUS)?;
        fs::rename(&part, &previous).map_err(failed)
    }

    fn remove_results(&self) -> Result<(), WriteError> {
        RESULT_FILES.iter().try_for_each(|name| self.remove(name))
    }

    /// The copies of modules, by their paths in the folder of the experiment, in alphabetical order.
    ///
    /// # Errors
    /// If a folder can't be read.
    pub fn modules(&self) -> io::Result<Vec<PathBuf>> {
        use io::ErrorKind::{NotADirectory, NotFound};
        let modules = self.path.join(MODULES);
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(modules.join(&folder)) {
                Err(error) if matches!(error.kind(), NotFound | NotADirectory) => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = folder.join(entry.file_name());
                match entry.file_type()?.is_dir() {
                    true => folders.push(name),
                    false if name.extension().is_some_and(|extension| extension == "mopd") => {
                        found.push(name)
                    }
                    false => (),
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes the copies of modules, and their folders if nothing else is there.
    fn remove_modules(&self) -> Result<(), WriteError> {
        let modules = self.path.join(MODULES);
        let found = self.modules().map_err(|source| WriteError { path: modules.clone(), source })?;
        for name in found {
            let path = modules.join(&name);
            fs::remove_file(&path).map_err(|source| WriteError { path, source })?;
            for folder in name.ancestors().skip(1) {
                let _ = fs::remove_dir(modules.join(folder));
            }
        }
        let _ = fs::remove_dir(&modules);
        Ok(())
    }

    /// Removes a file or a folder. A missing one is no error, even where nothing may be removed.
    pub fn remove(&self, name: &str) -> Result<(), WriteError> {
        let path = self.path.join(name);
        let Ok(found) = fs::symlink_metadata(&path) else { return Ok(()) };
        let removed = if found.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| WriteError { path, source })
    }
}

/// Links a file to another place; does nothing if it does not exist.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_file() {
        return Ok(());
    }
    // Later writes replace the file by a new one, and never change the old one's content.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn write(folder: &TempDir, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // As everywhere, a new file, not new content of the old one.
            let _ = fs::remove_file(&path);
            fs::write(path, text).unwrap();
        }
    }

    fn finished(keys: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let results = format!(r#"{{"plan": "a", "keys": "{keys}"}}"#);
        let files = [
            (PLAN, r#"{"hash": "a"}"#),
            (SOURCE, "old"),
            ("modules/m.mopd", "old"),
            ("modules/inner/m.mopd", "old of inner"),
            (RESULTS, results.as_str()),
            (METRICS, "old"),
        ];
        write(&folder, &files);
        folder
    }

    fn text(folder: &TempDir, name: &str) -> Option<String> {
        fs::read_to_string(folder.path().join(name)).ok()
    }

    #[test]
    fn files_of_the_user_are_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let of = || ResultsFolder::at(folder.path()).in_the_way();
        write(&folder, &[("notes.txt", ""), (".lock", "")]);
        assert!(of().is_empty());
        write(&folder, &[("modules/own.mopd", ""), (PLAN, "{\"floors\": 2}"), ("previous/a", "")]);
        assert_eq!(of(), [PLAN, MODULES, PREVIOUS]);
        write(&folder, &[(PLAN, r#"{"hash": "a"}"#)]);
        assert!(of().is_empty(), "a run was here");
        fs::remove_file(folder.path().join(PLAN)).unwrap();
        write(&folder, &[(SWEEP, r#"{"members": []}"#)]);
        assert!(of().is_empty(), "a sweep was here");
    }

    /// The text of the new run is written before its keys are known.
    #[test]
    fn results_of_other_data_move_with_their_own_text() {
        let folder = finished("of old data");
        let results = ResultsFolder::at(folder.path());
        results.make_room("a").unwrap();
        assert!(results.has_results() && results.is_undecided(), "the data may be the same");
        write(&folder, &[(SOURCE, "new")]);
        results.supersede("of new data").unwrap();
        assert!(!results.has_results() && !results.is_undecided() && text(&folder, METRICS).is_none());
        assert_eq!(text(&folder, "previous/modules/inner/m.mopd").as_deref(), Some("old of inner"));
        let moved = ["previous/source.mopd", "previous/metrics.parquet", "previous/modules/m.mopd"];
        assert_eq!(moved.map(|name| text(&folder, name).unwrap_or_default()), ["old"; 3]);
        assert!(text(&folder, "previous/results.json").is_some_and(|text| text.contains("of old data")));
        assert_eq!(text(&folder, SOURCE).as_deref(), Some("new"));
    }

    /// With `--out .` everything else of the project is inside the folder.
    #[test]
    fn partial_files_of_others_stay() {
        let folder = finished("same");
        let left =
            [".writing-1", "models/a-seed1/.writing-2", "modules/.writing-3", "tensorboard/x/.writing-4"];
        let others = [".mopd/store/key/.writing-5", "runs/other/.writing-6", "a=1/models/.writing-7"];
        for name in left.iter().chain(&others) {
            write(&folder, &[(name, "half")]);
        }
        ResultsFolder::at(folder.path()).remove_partial();
        assert_eq!(left.map(|name| text(&folder, name)), [const { None }; 4]);
        assert!(others.iter().all(|name| text(&folder, name).is_some()));
    }

    /// Two modules may have the same file name in different folders.
    #[test]
    fn modules_are_kept_by_their_path() {
        let folder = finished("of old data");
        let results = ResultsFolder::at(folder.path());
        assert_eq!(results.modules().unwrap(), ["inner/m.mopd", "m.mopd"].map(PathBuf::from));
        write(&folder, &[("modules/notes.txt", "the user's"), ("modules/inner/deep/n.mopd", "")]);
        results.make_room("b").unwrap();
        assert!(results.modules().unwrap().is_empty() && !results.has("modules/inner"));
        assert_eq!(text(&folder, "modules/notes.txt").as_deref(), Some("the user's"));
        assert!(tempfile::tempdir().is_ok_and(|empty| ResultsFolder::at(empty.path()).modules().is_ok()));
    }

    #[test]
    fn results_with_the_same_keys_stay() {
        let folder = finished("same");
        let results = ResultsFolder::at(folder.path());
        results.make_room("a").unwrap();
        results.supersede("same").unwrap();
        assert!(results.has_results() && text(&folder, METRICS).is_some());
        assert!(!results.has(PREVIOUS) && !results.has(PART));
    }

    /// A kill between any two steps loses nothing, and the next run completes the move.
    #[test]
    fn an_interrupted_move_is_completed() {
        let folder = finished("old");
        let results = ResultsFolder::at(folder.path());
        results.make_room("a").unwrap();
        write(&folder, &[(SOURCE, "new")]);
        results.archive().unwrap();
        // Killed here: the results are in both places.
        results.make_room("a").unwrap();
        results.supersede("new").unwrap();
        assert!(!results.has_results());
        assert_eq!(text(&folder, "previous/source.mopd").as_deref(), Some("old"));
    }

    #[test]
    fn a_folder_of_the_user_is_never_replaced() {
        let folder = finished("old");
        write(&folder, &[("previous/thesis.txt", "mine"), ("modules/notes.txt", "mine")]);
        let error = ResultsFolder::at(folder.path()).make_room("b").unwrap_err();
        assert!(error.to_string().contains("previous"), "{error}");
        fs::rename(folder.path().join("previous"), folder.path().join("mine")).unwrap();
        ResultsFolder::at(folder.path()).make_room("b").unwrap();
        assert_eq!(text(&folder, "modules/notes.txt").as_deref(), Some("mine"));
        assert!(text(&folder, "previous/results.json").is_some());
    }
}
