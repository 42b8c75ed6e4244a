//! The watched files: the experiment, its modules, its data, its tokenizers and its reward programs.
//!
//! Folders are watched, not files, since editors replace files. The content of an event is ignored, since
//! systems and editors differ; an event only triggers a comparison of the files with their last state.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mopd_plan::{DataSource, Plan, Pretrained, Producer, Stage, TokenizerSpec, Train, is_file_pattern};
use mopd_store::programs::CommandSources;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

/// A larger file counts as changed when its time changes.
const READ_AT_MOST: u64 = 8 << 20;

/// The most files of a data folder that are watched.
const FILES_AT_MOST: usize = 10_000;

/// The data by which a change of a file is detected.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ContentStamp {
    length: u64,
    modified: Option<SystemTime>,
    /// A hash of its content, if that was read.
    content: Option<u64>,
}

pub struct InputFiles {
    /// `None` if the system can't watch; then files are checked at intervals only.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    sources: BTreeSet<PathBuf>,
    data: BTreeMap<PathBuf, Option<ContentStamp>>,
    /// Folders and patterns that plans read: a new file there is a change.
    roots: BTreeSet<PathBuf>,
    sources_seen: BTreeMap<PathBuf, Option<ContentStamp>>,
}

/// The changes since the last call.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedFiles {
    pub sources: bool,
    /// Data files, tokenizers and programs.
    pub data: Vec<PathBuf>,
}

impl InputFiles {
    /// `hint` is called from another thread when a file may have changed.
    pub fn new(hint: impl Fn() + Send + 'static) -> InputFiles {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reads also cause events.
            let reads = matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(kind)
                if kind != notify::event::AccessKind::Close(notify::event::AccessMode::Write)));
            if !reads {
                hint();
            }
        });
        InputFiles {
            watcher: watcher.ok(),
            watched: HashSet::new(),
            sources: BTreeSet::new(),
            data: BTreeMap::new(),
            roots: BTreeSet::new(),
            sources_seen: BTreeMap::new(),
        }
    }

    /// Must be called before a source is read: later writes count as a change.
    pub fn look_at(&mut self, source: &Path) {
        if !self.sources_seen.contains_key(source) {
            self.sources_seen.insert(source.to_owned(), stamp(source, None));
        }
    }

    /// Watches these sources, also missing ones, relative to their state at [`Self::look_at`].
    pub fn follow_sources(&mut self, sources: BTreeSet<PathBuf>) {
        for source in &sources {
            self.look_at(source);
        }
        self.sources_seen.retain(|path, _| sources.contains(path));
        self.sources = sources;
        self.watch_folders();
    }

    /// Watches the files that plans read; `base` is the folder of their relative paths.
    pub fn follow_data<'a>(&mut self, plans: impl Iterator<Item = &'a Plan>, base: &Path) {
        let mut data = BTreeMap::new();
        let (mut read, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for plan in plans {
            read.extend(read_by(plan));
            for (command, depends) in programs(plan) {
                paths.extend(made_of(command, depends, base));
                read.extend(depends.iter().cloned());
            }
        }
        let read: BTreeSet<PathBuf> = read.iter().map(|path| base.join(path)).collect();
        paths.extend(read.iter().flat_map(|path| files_of(path)));
        self.roots = read.into_iter().filter(|path| fixed_folder(path).is_some()).collect();
        for path in paths {
            if data.contains_key(&path) {
                continue;
            }
            let seen = match self.data.remove(&path) {
                Some(known) => known,
                None => stamp(&path, None),
            };
            data.insert(path, seen);
        }
        self.data = data;
        self.watch_folders();
    }

    pub fn count(&self) -> (usize, usize) {
        (self.sources.len(), self.data.len())
    }

    /// The files that changed since the last call.
    pub fn changed(&mut self) -> ChangedFiles {
        let mut changed = ChangedFiles::default();
        for (path, seen) in &mut self.sources_seen {
            let now = stamp(path, seen.as_ref());
            changed.sources |= !same(&now, seen);
            *seen = now;
        }
        for path in self.roots.iter().flat_map(|root| files_of(root)) {
            self.data.entry(path).or_insert(None);
        }
        for (path, seen) in &mut self.data {
            let now = stamp(path, seen.as_ref());
            if !same(&now, seen) {
                changed.data.push(path.clone());
            }
            *seen = now;
        }
        if changed != ChangedFiles::default() {
            // A folder may have been replaced by another one.
            self.watched.retain(|folder| folder.exists());
            self.watch_folders();
        }
        changed
    }

    fn watch_folders(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let files = self.sources.iter().chain(self.data.keys());
        let mut wanted: HashSet<PathBuf> = files.clone().filter_map(|file| folder(file)).collect();
        // An edit through a link changes the file behind it.
        wanted.extend(files.filter_map(|file| folder(&std::fs::canonicalize(file).ok()?)));
        // A folder without files may get a first one.
        wanted.extend(self.roots.iter().filter_map(|root| std::fs::canonicalize(fixed_folder(root)?).ok()));
        for gone in self.watched.difference(&wanted) {
            // It may not exist any more.
            let _ = watcher.unwatch(gone);
        }
        // A folder that can't be watched is checked at intervals.
        let watched = wanted.into_iter().filter(|folder| {
            self.watched.contains(folder) || watcher.watch(folder, RecursiveMode::NonRecursive).is_ok()
        });
        self.watched = watched.collect();
    }
}

/// The folder of a file, whether or not the file exists; `None` if the folder does not exist.
fn folder(file: &Path) -> Option<PathBuf> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::canonicalize(parent).ok()
}

fn same(a: &Option<ContentStamp>, b: &Option<ContentStamp>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => match (a.content, b.content) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// `None` if there is no file. Its content is read again only if its length or time has changed.
fn stamp(path: &Path, before: Option<&ContentStamp>) -> Option<ContentStamp> {
    let found = std::fs::metadata(path).ok().filter(|found| found.is_file())?;
    let (length, modified) = (found.len(), found.modified().ok());
    // Two saves within a tick of the file system's clock have the same time: so a very recent file is always
    // read.
    let settled = modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age.as_millis() > 100);
    if let Some(before) = before
        && settled
        && (before.length, before.modified) == (length, modified)
    {
        return Some(before.clone());
    }
    let content =
        if length <= READ_AT_MOST { std::fs::read(path).ok().map(|bytes| hash(&bytes)) } else { None };
    Some(ContentStamp { length, modified, content })
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// All paths in a plan, as written there.
fn read_by(plan: &Plan) -> Vec<String> {
    let mut paths = Vec::new();
    for domain in &plan.experiment.domains {
        paths.extend(domain.sources().map(|(_, DataSource { path, .. })| path.clone()));
        paths.extend(domain.reward.facts().files.into_iter().map(str::to_owned));
    }
    for model in &plan.experiment.models {
        match &model.stage {
            Stage::Initialise(architecture) => {
                if let TokenizerSpec::File(path) = &architecture.tokenizer {
                    paths.push(path.clone());
                }
            }
            Stage::Load(Pretrained { source, chat_template, .. }) => {
                paths.push(source.name().to_owned());
                paths.extend(chat_template.clone());
            }
            Stage::Train(_) | Stage::Merge(_) | Stage::Joint(_) | Stage::Learner { .. } => {}
        }
    }
    paths
}

/// The commands of rewards and rollouts, with their dependencies.
fn programs(plan: &Plan) -> Vec<(&str, &[String])> {
    let rewards = plan.experiment.domains.iter().flat_map(|domain| domain.reward.facts().programs);
    let trains = plan.experiment.models.iter().flat_map(|model| model.stage.trains());
    let of_rollouts = trains.flat_map(Train::producers).flat_map(Producer::programs);
    let rewards = rewards.map(|program| (program.command, program.depends));
    rewards.chain(of_rollouts.map(|program| (program.command, program.depends))).collect()
}

/// The files that the worker takes for a command's sources; also missing dependencies.
fn made_of(command: &str, depends: &[String], base: &Path) -> Vec<PathBuf> {
    match CommandSources::find(command, depends, base) {
        Ok(program) => program.hashed.into_iter().map(|file| file.path).collect(),
        Err(_) => depends.iter().flat_map(|path| files_of(&base.join(path))).collect(),
    }
}

/// The folder that a path names, or in which its pattern is matched; `None` for a file.
fn fixed_folder(path: &Path) -> Option<&Path> {
    let is_pattern = |path: &&Path| is_file_pattern(&path.to_string_lossy());
    if path.is_dir() {
        return Some(path);
    }
    (is_pattern(&path) && !path.exists()).then(|| path.ancestors().find(|folder| !is_pattern(folder)))?
}

/// The file itself, even a missing one; the files of a folder and of those in it; or the files that a pattern
/// may match, by depth and extension.
fn files_of(path: &Path) -> Vec<PathBuf> {
    let Some(folder) = fixed_folder(path) else { return vec![path.to_owned()] };
    if folder == path {
        return below(folder, 2);
    }
    let depth = |path: &Path| path.components().count();
    let any_depth = path.to_string_lossy().contains("**");
    let levels = depth(path) - depth(folder);
    let ending = path.extension().filter(|ending| !is_file_pattern(&ending.to_string_lossy()));
    let may_match = |file: &PathBuf| {
        (any_depth || depth(file) == depth(path)) && (ending.is_none() || file.extension() == ending)
    };
    let files = below(folder, if any_depth { levels.max(2) } else { levels });
    files.into_iter().filter(may_match).collect()
}

fn below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        // Backup files of editors are not data.
        let hidden = name.to_string_lossy().starts_with('.') || name.to_string_lossy().ends_with('~');
        if path.is_file() && !hidden {
            found.push(path);
        } else if depth > 1 && path.is_dir() && !hidden {
            found.extend(below(&path, depth - 1));
        }
        if found.len() >= FILES_AT_MOST {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn following(paths: &[PathBuf]) -> InputFiles {
        let mut files = InputFiles::new(|| ());
        files.follow_sources(paths[..1].iter().cloned().collect());
        files.data = paths[1..].iter().map(|path| (path.clone(), stamp(path, None))).collect();
        files
    }

    #[test]
    fn changed_content_is_noticed_and_a_new_time_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [source, data] = ["a.mopd", "a.jsonl"].map(|name| folder.path().join(name));
        fs::write(&source, "one").unwrap();
        fs::write(&data, "one").unwrap();
        let mut files = following(&[source.clone(), data.clone()]);
        assert_eq!(files.changed(), ChangedFiles::default());
        fs::write(&source, "one").unwrap();
        fs::write(&data, "one").unwrap();
        assert_eq!(files.changed(), ChangedFiles::default(), "the same content");
        fs::write(&data, "two").unwrap();
        assert_eq!(files.changed(), ChangedFiles { sources: false, data: vec![data.clone()] });
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &source).unwrap();
        assert_eq!(files.changed(), ChangedFiles { sources: true, data: Vec::new() });
        fs::remove_file(&data).unwrap();
        assert_eq!(files.changed().data, std::slice::from_ref(&data), "it is gone");
        assert_eq!(files.changed(), ChangedFiles::default(), "it is still gone");
        fs::write(&data, "two").unwrap();
        assert_eq!(files.changed().data, [data], "it is there again");
    }

    #[test]
    fn write_during_a_read_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a.mopd");
        fs::write(&source, "one").unwrap();
        let mut files = InputFiles::new(|| ());
        files.look_at(&source);
        fs::write(&source, "two").unwrap();
        files.follow_sources([source].into());
        assert!(files.changed().sources, "what was read is older than what is there");
        assert!(!files.changed().sources);
    }

    #[test]
    fn folders_and_patterns_are_their_files() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data/train")).unwrap();
        for name in ["data/a.jsonl", "data/train/b.parquet", "data/.hidden", "data/a.jsonl~", "data/notes.md"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |path: &str| -> BTreeSet<String> {
            let files = files_of(&folder.path().join(path)).into_iter();
            files.map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
        assert_eq!(names("data"), set(&["a.jsonl", "b.parquet", "notes.md"]));
        assert_eq!(names("data/*.jsonl"), set(&["a.jsonl"]));
        assert_eq!(names("data/*/*"), set(&["b.parquet"]));
        assert_eq!(names("data/**/*"), set(&["a.jsonl", "b.parquet", "notes.md"]));
        assert_eq!(names("data/none.jsonl"), set(&["none.jsonl"]));
    }

    #[test]
    fn a_new_file_of_a_folder_or_a_pattern_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("data")).unwrap();
        fs::create_dir_all(path("whole")).unwrap();
        let mut files = InputFiles::new(|| ());
        files.roots = [path("data/*.jsonl"), path("whole")].into();
        assert_eq!(files.changed(), ChangedFiles::default());
        fs::write(path("data/notes.md"), "").unwrap();
        assert_eq!(files.changed(), ChangedFiles::default(), "it matches no pattern");
        for name in ["data/a.jsonl", "whole/b.parquet"] {
            fs::write(path(name), "").unwrap();
            assert_eq!(files.changed(), ChangedFiles { sources: false, data: vec![path(name)] });
            assert_eq!(files.changed(), ChangedFiles::default());
        }
    }
}
