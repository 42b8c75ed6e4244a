use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::entries::{CHECKSUMS, NEW, OLD};
use super::*;

fn folder() -> (tempfile::TempDir, Folder) {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::open(&place.path().join("store")).unwrap();
    (place, folder)
}

fn key(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

/// Writes an entry with one file of `bytes` bytes, last used `ago` seconds ago.
fn put(folder: &Folder, name: &str, bytes: usize, ago: u64) {
    folder
        .write(name, "a stage", |folder| {
            let sum = write_whole(&folder.join("file"), &vec![7; bytes])?;
            Ok::<_, WriteError>(BTreeMap::from([("file".to_owned(), sum)]))
        })
        .unwrap();
    let sums = fs::File::options().append(true).open(folder.path(name).join(CHECKSUMS)).unwrap();
    sums.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
}

fn names(items: &[StoreItem]) -> Vec<char> {
    items.iter().map(|item| item.name.chars().next().unwrap()).collect()
}

fn run(out: &Path, needs: &[char]) -> StoredRun {
    let needs = needs.iter().map(|digit| (key(*digit), format!("stage {digit}"))).collect();
    StoredRun { experiment: "e".to_owned(), out: out.to_owned(), needs }
}

#[test]
fn an_entry_is_whole_or_does_not_count() {
    let (_place, folder) = folder();
    assert!(matches!(folder.read("a", |_| Ok(())), Lookup::Absent));
    put(&folder, "a", 100, 0);
    assert!(matches!(folder.read("a", |_| Ok(())), Lookup::Found(())));
    assert_eq!(folder.checksums("a").unwrap().about, "a stage");
    let file = folder.path("a").join("file");
    let mut bytes = fs::read(&file).unwrap();
    bytes[50] ^= 1;
    fs::write(&file, bytes).unwrap();
    let Lookup::Damaged(Damage { kind: "damaged", reason }) = folder.read("a", |_| Ok(())) else {
        panic!("not noticed")
    };
    assert!(
        reason.ends_with(
            "the checksum of file is wrong: the file has changed since it was \
        written"
        ),
        "{reason}"
    );
    // A file that is gone was deleted, which is no damage of a disk.
    fs::rename(&file, folder.path("elsewhere")).unwrap();
    let Lookup::Damaged(Damage { kind: "incomplete", reason }) = folder.read("a", |_| Ok(())) else {
        panic!("not noticed")
    };
    assert!(reason.ends_with("file was deleted"), "{reason}");
    fs::rename(folder.path("elsewhere"), &file).unwrap();
    // The replacement fails half-way: then neither the damaged entry nor the new one counts, and the damaged
    // one takes no space.
    let failed = |folder: &Path| {
        Err(WriteError { path: folder.to_owned(), source: std::io::ErrorKind::StorageFull.into() })
    };
    let error = folder.write("a", "a stage", failed).unwrap_err();
    assert!(error.to_string().ends_with("the disk is full"), "{error}");
    assert!(matches!(folder.read("a", |_| Ok(())), Lookup::Absent) && !folder.path("a").exists());
}

/// As `--fresh` does, on a disk that is full.
#[test]
fn an_intact_entry_stays_until_the_one_that_replaces_it_is_complete() {
    let (place, folder) = folder();
    let name = key('a');
    put(&folder, &name, 100, 0);
    let sums = |folder: &Folder| folder.checksums(&name).unwrap();
    let before = sums(&folder);
    let failed = |new: &Path| {
        write_whole(&new.join("file"), b"half")?;
        assert!(matches!(folder.read(&name, |_| Ok(())), Lookup::Found(())), "it can be read meanwhile");
        Err(WriteError { path: new.to_owned(), source: std::io::ErrorKind::StorageFull.into() })
    };
    folder.write(&name, "a stage", failed).unwrap_err();
    assert!(matches!(folder.read(&name, |_| Ok(())), Lookup::Found(())));
    assert_eq!(sums(&folder), before);
    put(&folder, &name, 200, 0);
    assert!(matches!(folder.read(&name, |_| Ok(())), Lookup::Found(())) && sums(&folder) != before);
    let left = || fs::read_dir(place.path().join("store")).unwrap().count();
    assert_eq!(left(), 1, "nothing remains beside it");
    // What a kill left is pruned like other leftovers.
    for end in [NEW, OLD] {
        fs::create_dir(folder.path(&format!("{name}{end}"))).unwrap();
    }
    assert_eq!(folder.items().unwrap().iter().filter(|item| item.kind == StoreItemKind::Leftover).count(), 2);
    put(&folder, &name, 200, 0);
    assert_eq!(left(), 1);
}

#[test]
fn lock_is_exclusive_and_released_when_its_process_dies() {
    let (_place, folder) = folder();
    let held = folder.try_lock("a").unwrap().expect("nobody has it");
    assert!(held.exclusive());
    assert!(folder.try_lock("a").unwrap().is_none() && folder.try_lock("b").unwrap().is_some());
    drop(held);
    // A killed run leaves a lock file that no process holds.
    fs::write(folder.path("locks/a"), "").unwrap();
    drop(folder.try_lock("a").unwrap().expect("nobody holds it"));
    assert_eq!(fs::read_dir(folder.path("locks")).unwrap().count(), 0);
}

/// Many threads, each with its own open file, as separate processes have: one at a time holds the lock.
#[test]
fn a_lock_is_held_by_one_however_many_try() {
    let (_place, folder) = folder();
    let inside = std::sync::atomic::AtomicUsize::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    let enter = || {
        loop {
            if let Some(_lock) = folder.try_lock("a").unwrap() {
                assert_eq!(inside.fetch_add(1, order), 0);
                inside.fetch_sub(1, order);
                return;
            }
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..25).for_each(|_| enter()));
        }
    });
}

#[test]
fn results_of_a_kept_run_are_never_pruned() {
    let (place, folder) = folder();
    for (index, digit) in ['a', 'b', 'c', 'd'].into_iter().enumerate() {
        put(&folder, &key(digit), 1000, 100 * (4 - index as u64));
    }
    put(&folder, &format!("{}.unfinished/0000000007", key('e')), 500, 50);
    let (kept, gone) = (place.path().join("kept"), place.path().join("gone"));
    for out in [&kept, &gone] {
        fs::create_dir(out).unwrap();
    }
    assert!(
        folder.register(&run(&kept, &['a', 'e'])).unwrap() && folder.register(&run(&gone, &['b'])).unwrap()
    );
    let items = folder.items().unwrap();
    assert_eq!(names(&items), ['e', 'd', 'c', 'b', 'a']);
    assert_eq!(items[4].needed_by, std::slice::from_ref(&kept));
    let everything = PrunePolicy { older_than: Some(Duration::ZERO), ..PrunePolicy::default() };
    let of =
        |policy: &PrunePolicy| folder.prune(policy, SystemTime::now()).unwrap().expect("nobody registers");
    assert_eq!(names(&of(&PrunePolicy { dry_run: true, ..everything }).removed), ['c', 'd']);
    assert_eq!(folder.items().unwrap().len(), 5, "a dry run takes nothing away");
    // With its results deleted, the run no longer needs `b`.
    fs::remove_dir(&gone).unwrap();
    let older = PrunePolicy { older_than: Some(Duration::from_secs(250)), ..PrunePolicy::default() };
    assert_eq!(names(&of(&older).removed), ['b']);
    // Another run computes `c`.
    let computing = folder.try_lock(&key('c')).unwrap();
    let pruned = of(&everything);
    assert_eq!((names(&pruned.removed), names(&pruned.in_use)), (vec!['d'], vec!['c']));
    drop(computing);
    let pruned = of(&PrunePolicy { keep_under: Some(1), ..PrunePolicy::default() });
    assert_eq!((names(&pruned.removed), pruned.left), (vec!['c'], pruned.needed));
    assert!(folder.has(&key('a')) && !folder.has(&key('b')));
    assert_eq!(fs::read_dir(folder.path("runs")).unwrap().count(), 1);
}

#[test]
fn prune_removes_least_recently_used_until_the_rest_fits() {
    let (_place, folder) = folder();
    for (digit, ago) in [('a', 300), ('b', 100), ('c', 200)] {
        put(&folder, &key(digit), 10_000, ago);
    }
    // A lookup counts as use.
    assert!(matches!(folder.read(&key('a'), |_| Ok(())), Lookup::Found(())));
    let policy = PrunePolicy { keep_under: Some(25_000), ..PrunePolicy::default() };
    let pruned = folder.prune(&policy, SystemTime::now()).unwrap().unwrap();
    assert_eq!(names(&pruned.removed), ['c']);
}

/// The base of an adapter is not pruned before the adapter, and the runs that need the one need the other.
#[test]
fn prune_leaves_the_bases_of_adapters() {
    let (place, folder) = folder();
    put(&folder, &key('a'), 10_000, 300);
    put(&folder, &key('c'), 10_000, 200);
    let on = |name: &str| {
        let write = |folder: &Path| {
            let sum = write_whole(&folder.join("file"), b"adapter")?;
            Ok::<_, WriteError>(BTreeMap::from([("file".to_owned(), sum)]))
        };
        folder.write_needing(name, "an adapter", Some(&key('a')), write).unwrap();
    };
    on(&key('b'));
    let under = |bytes| PrunePolicy { keep_under: Some(bytes), ..PrunePolicy::default() };
    let prune = |bytes| folder.prune(&under(bytes), SystemTime::now()).unwrap().unwrap();
    assert_eq!(names(&prune(11_000).removed), ['c']);
    let out = place.path().join("out");
    fs::create_dir(&out).unwrap();
    assert!(folder.register(&run(&out, &['b'])).unwrap());
    assert!(prune(1).removed.is_empty());
    fs::remove_dir(&out).unwrap();
    assert_eq!(names(&prune(1).removed), ['b', 'a']);
    // Without its base, an adapter is incomplete.
    put(&folder, &key('a'), 10_000, 0);
    on(&key('b'));
    let verdict = || {
        let items = folder.items().unwrap();
        folder.verdict(items.iter().find(|item| item.name == key('b')).unwrap())
    };
    assert_eq!(verdict(), Some(PruneVerdict::Whole));
    folder.remove(&key('a')).unwrap();
    let Some(PruneVerdict::Damaged(Damage { kind: "incomplete", reason })) = verdict() else {
        panic!("not noticed")
    };
    assert!(reason.contains("the model that its adapter changes was deleted"), "{reason}");
}

/// Scores are cheap to recompute: they are pruned before other items, however old those are.
#[test]
fn prune_removes_scores_first() {
    let (_place, folder) = folder();
    put(&folder, &key('a'), 10_000, 300);
    for (batch, ago) in [("one", 20), ("two", 10)] {
        put(&folder, &format!("{}.scores/{batch}", key('b')), 10_000, ago);
    }
    let items = folder.items().unwrap();
    assert_eq!((names(&items), items[0].kind), (vec!['b', 'a'], StoreItemKind::Scores));
    assert!(items[0].bytes > 20_000 && items[0].needed_by.is_empty());
    assert_eq!(folder.verdict(&items[0]), Some(PruneVerdict::Whole));
    let policy = PrunePolicy { keep_under: Some(15_000), ..PrunePolicy::default() };
    // A run that writes scores holds the lock of their folder.
    let writing = folder.try_lock(&key('b')).unwrap();
    let pruned = folder.prune(&PrunePolicy { dry_run: true, ..policy }, SystemTime::now()).unwrap().unwrap();
    assert_eq!((names(&pruned.in_use), names(&pruned.removed)), (vec!['b'], vec!['a']));
    drop(writing);
    let pruned = folder.prune(&policy, SystemTime::now()).unwrap().unwrap();
    assert_eq!(names(&pruned.removed), ['b']);
    assert!(folder.has(&key('a')) && !folder.path(&format!("{}.scores", key('b'))).exists());
}

/// If the clock was set back, entries have times in the future: their age is 0.
#[test]
fn entries_with_future_times_count_as_new() {
    let (_place, folder) = folder();
    put(&folder, &key('a'), 10, 0);
    let before = SystemTime::now() - Duration::from_secs(86400 * 365);
    let policy = PrunePolicy { older_than: Some(Duration::from_secs(60)), ..PrunePolicy::default() };
    assert_eq!(folder.prune(&policy, before).unwrap().unwrap().removed, []);
    assert_eq!(age(SystemTime::now(), before), Duration::ZERO);
}

#[test]
fn prune_leaves_foreign_files_alone() {
    let (place, folder) = folder();
    fs::create_dir(folder.path("my notes")).unwrap();
    fs::write(folder.path(&key('f')), "a file").unwrap();
    fs::create_dir(place.path().join("elsewhere")).unwrap();
    fs::write(place.path().join("elsewhere/precious"), "x").unwrap();
    put(&folder, &key('a'), 10, 100);
    symlink(place.path().join("elsewhere"), folder.path(&key('a')).join("link")).unwrap();
    let policy = PrunePolicy { older_than: Some(Duration::ZERO), keep_under: Some(0), dry_run: false };
    folder.prune(&policy, SystemTime::now()).unwrap().unwrap();
    assert!(folder.path("my notes").exists() && folder.path(&key('f')).exists() && !folder.has(&key('a')));
    assert!(place.path().join("elsewhere/precious").exists());
}

#[test]
fn check_finds_damaged_entries() {
    let (_place, folder) = folder();
    put(&folder, &key('a'), 10, 1);
    put(&folder, &key('b'), 10, 2);
    put(&folder, &format!("{}.unfinished/0000000001", key('c')), 10, 3);
    for name in [key('b'), format!("{}.unfinished/0000000001", key('c'))] {
        fs::write(folder.path(&name).join("file"), "short").unwrap();
    }
    let mut items = folder.items().unwrap();
    items.sort_by(|a, b| a.name.cmp(&b.name));
    let verdicts: Vec<Option<PruneVerdict>> = items.iter().map(|item| folder.verdict(item)).collect();
    assert_eq!(names(&items), ['a', 'b', 'c']);
    assert_eq!(verdicts[0], Some(PruneVerdict::Whole));
    assert!(matches!(&verdicts[1], Some(PruneVerdict::Damaged(damage)) if damage.reason.contains("file")));
    assert!(matches!(&verdicts[2], Some(PruneVerdict::Damaged(_))));
    let _computing = folder.try_lock(&key('b')).unwrap();
    assert_eq!(folder.verdict(&items[1]), Some(PruneVerdict::InUse));
}

/// If the list of a run's needs can't be read, no result is pruned, only items that no run ever needs.
#[test]
fn a_damaged_list_of_needs_protects_results() {
    let (_place, folder) = folder();
    put(&folder, &key('a'), 10, 100);
    put(&folder, &format!("{}.scores/one", key('b')), 10, 100);
    put(&folder, &format!("{}.unfinished/0000000001", key('a')), 10, 100);
    fs::create_dir_all(folder.path("runs")).unwrap();
    fs::write(folder.path("runs/broken.json"), "{").unwrap();
    let policy = PrunePolicy { older_than: Some(Duration::ZERO), ..PrunePolicy::default() };
    assert_eq!(folder.items().unwrap().len(), 3, "what is there is listed");
    let pruned = folder.prune(&policy, SystemTime::now()).unwrap().unwrap();
    assert!(pruned.unreadable[0].contains("broken.json"), "{pruned:?}");
    assert_eq!((names(&pruned.removed), names(&pruned.spared)), (vec!['b', 'a'], vec!['a']));
    assert!(folder.has(&key('a')) && !folder.path(&format!("{}.unfinished", key('a'))).exists());
}

/// A run was killed after its result was stored and before its checkpoints were deleted.
#[test]
fn checkpoints_of_a_finished_stage_are_needed_by_nobody() {
    let (place, folder) = folder();
    put(&folder, &key('a'), 10, 100);
    put(&folder, &format!("{}.unfinished/0000000001", key('a')), 10, 100);
    put(&folder, &format!("{}.unfinished/0000000001", key('b')), 10, 100);
    assert!(folder.register(&run(place.path(), &['a', 'b'])).unwrap());
    let items = folder.items().unwrap();
    let needed: Vec<(StoreItemKind, bool)> =
        items.iter().map(|item| (item.kind, !item.needed_by.is_empty())).collect();
    assert_eq!(
        needed.iter().filter(|found| **found == (StoreItemKind::Checkpoint, false)).count(),
        1,
        "{items:?}"
    );
    let policy = PrunePolicy { older_than: Some(Duration::ZERO), ..PrunePolicy::default() };
    assert_eq!(folder.prune(&policy, SystemTime::now()).unwrap().unwrap().removed.len(), 1);
    assert!(folder.has(&key('a')) && folder.has(&format!("{}.unfinished/0000000001", key('b'))));
}

#[test]
fn parts_of_files_that_a_kill_left_go_away() {
    let (_place, folder) = folder();
    put(&folder, &key('a'), 10, 0);
    let left = [folder.path(&key('a')).join(".writing-1"), folder.path(&key('a')).join("adapter/.writing-2")];
    let leave = || {
        fs::create_dir_all(left[1].parent().unwrap()).unwrap();
        left.iter().for_each(|path| fs::write(path, "half").unwrap());
    };
    leave();
    // Writing the entry again removes partial files in it.
    put(&folder, &key('a'), 10, 0);
    assert!(!left.iter().any(|path| path.exists()));
    leave();
    fs::create_dir_all(folder.path("notes")).unwrap();
    let written = fs::File::create(folder.path("notes/.writing-3")).unwrap();
    written.lock().unwrap();
    folder.prune(&PrunePolicy::default(), SystemTime::now()).unwrap().unwrap();
    assert!(!left.iter().any(|path| path.exists()) && folder.has(&key('a')));
    assert!(folder.path("notes/.writing-3").exists(), "somebody is at it");
    // A run registers itself after one that was killed while it did.
    fs::create_dir_all(folder.path("runs")).unwrap();
    fs::write(folder.path("runs/.writing-4"), "half").unwrap();
    assert!(folder.register(&run(Path::new("out"), &['a'])).unwrap());
    assert!(!folder.path("runs/.writing-4").exists());
}

#[test]
fn a_lock_on_a_folder_that_was_deleted_is_none() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("run/.lock");
    let held = Lock::try_at(&path).unwrap().expect("nobody has it");
    held.note("somebody").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody");
    assert!(held.in_place().unwrap() && Lock::try_at(&path).unwrap().is_none());
    fs::remove_dir_all(place.path().join("run")).unwrap();
    assert!(!held.in_place().unwrap());
    let other = Lock::try_at(&path).unwrap().expect("another folder");
    drop(held);
    assert!(other.in_place().unwrap(), "it is not the first one's to remove");
}

#[test]
fn a_moved_project_keeps_what_its_runs_need() {
    let place = tempfile::tempdir().unwrap();
    let (old, new) = (place.path().join("old"), place.path().join("new"));
    let folder = Folder::open(&old.join(".mopd/store")).unwrap();
    put(&folder, &key('a'), 10, 100);
    put(&folder, &key('b'), 10, 100);
    let elsewhere = place.path().join("elsewhere");
    for out in [&old.join("runs/r"), &elsewhere] {
        fs::create_dir_all(out).unwrap();
    }
    assert!(folder.register(&run(&old.join("runs/r"), &['a'])).unwrap());
    assert!(folder.register(&run(&elsewhere, &['b'])).unwrap());
    fs::rename(&old, &new).unwrap();
    let moved = Folder::at(&new.join(".mopd/store"));
    let runs: Vec<PathBuf> = moved.runs().unwrap().kept.into_iter().map(|run| run.out).collect();
    assert_eq!(runs, [elsewhere, new.join("runs/r")]);
    let all = PrunePolicy { older_than: Some(Duration::ZERO), ..PrunePolicy::default() };
    assert!(moved.prune(&all, SystemTime::now()).unwrap().unwrap().removed.is_empty());
}
