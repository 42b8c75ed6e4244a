//! Listing, verification and pruning of a store's items.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::entries::{CHECKSUMS, Damage, Folder, NEW, OLD};
use crate::files::{WriteError, reason, remove_partial};
use crate::lock::Lock;
use crate::runs::StoredRuns;
use crate::secret::PRIVATE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreItemKind {
    /// A finished stage, or the rewards of an evaluation.
    Result,
    /// Checkpoints of an unfinished stage.
    Checkpoint,
    /// Scores of frozen models for the data of a stage that trains on it.
    Scores,
    /// Weights before a number that was not finite.
    LastGood,
    /// An incomplete item, from an interrupted write.
    Leftover,
}

/// One folder of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreItem {
    /// Name of the folder.
    pub name: String,
    pub key: String,
    pub kind: StoreItemKind,
    /// A description, if known.
    pub about: String,
    pub bytes: u64,
    /// Bytes that its deletion would free: models of kept runs are links to the same bytes.
    pub exclusive: u64,
    /// When it was last written or used.
    pub used: SystemTime,
    /// Folders of results of the kept runs that need it.
    pub needed_by: Vec<PathBuf>,
    /// The entry without which it can't be used: the base of its adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
}

/// Which items to delete, of those that no kept run needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Items that have not been used for this long.
    pub older_than: Option<Duration>,
    /// Least recently used items, until the store takes at most this many bytes.
    pub keep_under: Option<u64>,
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub removed: Vec<StoreItem>,
    /// Items that were not removed because a run uses them now.
    pub in_use: Vec<StoreItem>,
    /// Items that were not removed because a run with an unreadable file may need them.
    pub spared: Vec<StoreItem>,
    /// The runs' files that can't be read, with the reason.
    pub unreadable: Vec<String>,
    /// Bytes that the store takes now, and the part of them that kept runs need.
    pub left: u64,
    pub needed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneVerdict {
    Whole,
    Damaged(Damage),
    /// A run uses it now.
    InUse,
}

/// The time since `used`; zero if the clock has been set back since.
pub fn age(used: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(used).unwrap_or(Duration::ZERO)
}

const KEY: usize = 64;

/// The key and the kind in a folder's name; `None` for other folders.
fn parse(name: &str) -> Option<(&str, StoreItemKind)> {
    let (key, rest) = name.split_at_checked(KEY)?;
    let kind = match rest {
        "" => StoreItemKind::Result,
        ".unfinished" => StoreItemKind::Checkpoint,
        ".scores" => StoreItemKind::Scores,
        ".last-good" => StoreItemKind::LastGood,
        _ if rest.ends_with(NEW) || rest.ends_with(OLD) => StoreItemKind::Leftover,
        _ => return None,
    };
    key.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some((key, kind))
}

#[derive(Default)]
struct Size {
    bytes: u64,
    exclusive: u64,
    newest: Option<SystemTime>,
}

impl Size {
    /// Adds the size of a folder. Files that disappear meanwhile do not count.
    fn of(path: &Path, size: &mut Size) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                Size::of(&entry.path(), size);
            } else {
                size.bytes += metadata.len();
                size.exclusive += if metadata.nlink() <= 1 { metadata.len() } else { 0 };
                size.newest = size.newest.max(metadata.modified().ok());
            }
        }
    }
}

/// The base of an adapter's item is as recently used as the item, and the same runs need it.
fn need_bases(items: &mut [StoreItem]) {
    let users: Vec<(String, SystemTime, Vec<PathBuf>)> = items
        .iter()
        .filter_map(|item| Some((item.needs.clone()?, item.used, item.needed_by.clone())))
        .collect();
    for (base, used, needed_by) in users {
        let bases = items.iter_mut().filter(|item| item.name == base && item.kind == StoreItemKind::Result);
        for item in bases {
            item.used = item.used.max(used);
            let more: Vec<_> =
                needed_by.iter().filter(|out| !item.needed_by.contains(out)).cloned().collect();
            item.needed_by.extend(more);
        }
    }
}

impl Folder {
    /// All items of the store, the most recently used first.
    pub fn items(&self) -> Result<Vec<StoreItem>, String> {
        let runs = self.runs()?.kept;
        let mut needs: BTreeMap<&str, Vec<(&PathBuf, &str)>> = BTreeMap::new();
        for run in &runs {
            for (key, what) in &run.needs {
                needs.entry(key).or_default().push((&run.out, what));
            }
        }
        let folders = match fs::read_dir(&self.path) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("{}: {}", self.path.display(), reason(&error))),
        };
        let mut items = Vec::new();
        // Links to folders are skipped: they are not made by this program.
        for folder in folders.flatten().filter(|folder| folder.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = folder.file_name();
            let Some((name, (key, kind))) = name.to_str().and_then(|name| Some((name, parse(name)?))) else {
                continue;
            };
            let mut size = Size {
                newest: folder.metadata().and_then(|metadata| metadata.modified()).ok(),
                ..Size::default()
            };
            Size::of(&folder.path(), &mut size);
            let written = |name: &str| {
                fs::metadata(self.path(name).join(CHECKSUMS)).and_then(|metadata| metadata.modified()).ok()
            };
            let kind = if kind == StoreItemKind::Result && written(name).is_none() {
                StoreItemKind::Leftover
            } else {
                kind
            };
            let needed = needs.get(key).map(Vec::as_slice).unwrap_or_default();
            let sums = self.checksums(name).or_else(|_| match self.parts(name).next() {
                Some(part) => self.checksums(&part),
                None => Err("it has no parts".to_owned()),
            });
            let (about, base) = sums.map(|sums| (sums.about, sums.needs)).unwrap_or_default();
            let about = Some(about).filter(|about| !about.is_empty());
            let about =
                about.or_else(|| needed.first().map(|(_, what)| (*what).to_owned())).unwrap_or_default();
            items.push(StoreItem {
                name: name.to_owned(),
                key: key.to_owned(),
                kind,
                about,
                bytes: size.bytes,
                exclusive: size.exclusive,
                used: written(name).or(size.newest).unwrap_or(SystemTime::UNIX_EPOCH),
                // A run needs no incomplete result, and no checkpoints of a finished one.
                needed_by: match kind {
                    StoreItemKind::Leftover => Vec::new(),
                    StoreItemKind::Checkpoint if self.has(key) => Vec::new(),
                    _ => needed.iter().map(|(out, _)| (*out).clone()).collect(),
                },
                needs: base.filter(|_| kind == StoreItemKind::Result),
            });
        }
        need_bases(&mut items);
        // An adapter goes before its base.
        items.sort_by(|a, b| (b.used, a.needs.is_some(), &b.name).cmp(&(a.used, b.needs.is_some(), &a.name)));
        Ok(items)
    }

    /// Whether the base of an item's adapter is there, where it has one.
    fn has_base(&self, item: &StoreItem) -> bool {
        item.needs.as_ref().is_none_or(|base| self.has(base))
    }

    /// Whether there is any result.
    pub fn has_results(&self) -> bool {
        let folders = fs::read_dir(&self.path).into_iter().flatten().flatten();
        folders
            .filter_map(|folder| folder.file_name().into_string().ok())
            .any(|name| matches!(parse(&name), Some((_, StoreItemKind::Result))) && self.has(&name))
    }

    /// The entries in an item's folder that has several.
    fn parts(&self, name: &str) -> impl Iterator<Item = String> {
        let parts = fs::read_dir(self.path(name)).into_iter().flatten().flatten();
        let parts = parts.filter_map(move |part| Some(format!("{name}/{}", part.file_name().to_str()?)));
        parts.filter(|part| self.has(part))
    }

    /// The result of the verification of an item's checksums; `None` for items without checksums.
    pub fn verdict(&self, item: &StoreItem) -> Option<PruneVerdict> {
        let entries: Vec<String> = match item.kind {
            StoreItemKind::Result => vec![item.name.clone()],
            StoreItemKind::Checkpoint | StoreItemKind::Scores => self.parts(&item.name).collect(),
            StoreItemKind::LastGood | StoreItemKind::Leftover => return None,
        };
        let damage = entries.iter().find_map(|entry| self.verify(entry).err());
        let Some(damage) = damage.or_else(|| (!self.has_base(item)).then(Damage::without_base)) else {
            return Some(PruneVerdict::Whole);
        };
        // A running run may have deleted it meanwhile.
        match self.try_lock(&item.key) {
            Ok(None) => Some(PruneVerdict::InUse),
            _ => Some(PruneVerdict::Damaged(damage)),
        }
    }

    /// Deletes items by the policy, of those that no kept run needs and no run uses now. Returns `None` if a
    /// run is being registered now: try again.
    pub fn prune(&self, policy: &PrunePolicy, now: SystemTime) -> Result<Option<Pruned>, String> {
        let text = |error: WriteError| error.to_string();
        let Some(_registry) = self.try_registry().map_err(text)? else { return Ok(None) };
        let items = self.items()?;
        let mut left: u64 = items.iter().map(|item| item.bytes).sum();
        let needed = items.iter().filter(|item| !item.needed_by.is_empty()).map(|item| item.bytes).sum();
        let StoredRuns { gone, unreadable, .. } = self.runs()?;
        let (mut removed, mut in_use, mut spared) = (Vec::new(), Vec::new(), Vec::new());
        // Least recently used first, but scores before all others, since they are cheap to recompute.
        let (scores, others): (Vec<StoreItem>, Vec<StoreItem>) =
            items.into_iter().rev().partition(|item| item.kind == StoreItemKind::Scores);
        for item in scores.into_iter().chain(others).filter(|item| item.needed_by.is_empty()) {
            let old = policy.older_than.is_some_and(|limit| age(item.used, now) > limit);
            let much = policy.keep_under.is_some_and(|limit| left > limit);
            if !(old || much) {
                continue;
            }
            let may_be_needed = match item.kind {
                StoreItemKind::Result | StoreItemKind::LastGood => true,
                StoreItemKind::Checkpoint => !self.has(&item.key),
                StoreItemKind::Scores | StoreItemKind::Leftover => false,
            };
            if may_be_needed && !unreadable.is_empty() {
                spared.push(item);
                continue;
            }
            let Some(_lock): Option<Lock> = self.try_lock(&item.key).map_err(text)? else {
                in_use.push(item);
                continue;
            };
            if !policy.dry_run {
                self.remove(&item.name).map_err(text)?;
            }
            left -= item.bytes;
            removed.push(item);
        }
        if !policy.dry_run {
            self.remove_partial();
            for path in gone {
                // The file of a run whose folder of results was deleted.
                fs::remove_file(&path).map_err(|error| format!("{}: {}", path.display(), reason(&error)))?;
            }
        }
        Ok(Some(Pruned { removed, in_use, spared, unreadable, left, needed }))
    }

    /// Deletes abandoned partial files, in entries and beside them.
    fn remove_partial(&self) {
        for folder in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            match folder.file_name().to_str().and_then(parse) {
                Some((key, _)) => {
                    if let Ok(Some(_lock)) = self.try_lock(key) {
                        remove_partial(&folder.path(), true);
                    }
                }
                None => {
                    let ours = ["notes", "opened", "runs", "arithmetic", PRIVATE]
                        .iter()
                        .any(|name| folder.file_name() == *name);
                    if ours {
                        remove_partial(&folder.path(), true);
                    }
                }
            }
        }
    }
}
