//! `mopd cache`: lists, verifies and prunes the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use mopd_store::{Damage, Folder, PrunePolicy, PruneVerdict, Pruned, StoreItem, StoreItemKind, age};
use serde_json::json;

use super::run::STORE;
use crate::args::{CacheAction, CacheArgs, Format};
use crate::figures::{bytes, duration};
use crate::output::{self, counted, printable};
use crate::problem::{CommandStatus, Problem};

pub fn cache(arguments: &CacheArgs) -> Result<CommandStatus, Problem> {
    let path = arguments.store.clone().unwrap_or_else(|| PathBuf::from(STORE));
    if !path.is_dir() {
        let problem = Problem::usage("no-store", format!("there is no store at {}", path.display()));
        return Err(problem.help(
            "the store is `.mopd/store` in the folder where `mopd run` ran; `--store DIR` names another",
        ));
    }
    let folder = Folder::at(&path);
    match &arguments.action {
        CacheAction::List { format } => list(&folder, *format),
        CacheAction::Verify => verify(&folder),
        CacheAction::Prune { older_than, keep_under, dry_run } => {
            let older_than =
                older_than.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
            // A dry run without further options lists everything that may be removed.
            let all = (older_than, *keep_under) == (None, None);
            let older_than = older_than.or((all && *dry_run).then_some(Duration::ZERO));
            prune(&folder, &PrunePolicy { older_than, keep_under: *keep_under, dry_run: *dry_run })
        }
    }
}

fn unreadable(why: String) -> Problem {
    Problem::usage("unreadable-store", format!("cannot read the store: {why}"))
}

/// Warns of lists of needed entries that can't be read. Returns whether there are any.
fn warn_of(unreadable: &[String]) -> bool {
    for why in unreadable {
        output::error(&format!(
            "warning: cannot read the list of results that a run needs: \
            {}\n",
            printable(why)
        ));
    }
    if !unreadable.is_empty() {
        output::error(
            "run that experiment again, which writes the list again, or delete the file if the run is not \
            needed any more\n",
        );
    }
    !unreadable.is_empty()
}

fn list(folder: &Folder, format: Format) -> Result<CommandStatus, Problem> {
    let items = folder.items().map_err(unreadable)?;
    warn_of(&folder.runs().map_err(unreadable)?.unreadable);
    let now = SystemTime::now();
    if format == Format::Json {
        for item in &items {
            let seconds = age(item.used, now).as_secs();
            let text = json!({ "key": item.key, "kind": item.kind, "about": item.about, "bytes": item.bytes,
                "freed_bytes": item.exclusive, "unused_seconds": seconds, "needed_by": item.needed_by });
            output::result(&format!("{text}\n"));
        }
        return Ok(CommandStatus::Success);
    }
    if items.is_empty() {
        output::note("the store is empty\n");
        return Ok(CommandStatus::Success);
    }
    output::result(&format!("{}\n", grid(&items, now)));
    let total = |wanted: fn(&StoreItem) -> bool| {
        items.iter().filter(|item| wanted(item)).map(|item| item.bytes).sum::<u64>()
    };
    let unneeded = match total(|item| item.needed_by.is_empty()) {
        0 => "all of it needed by kept runs".to_owned(),
        unneeded => format!("{} of it not needed by any kept run", bytes(unneeded)),
    };
    output::note(&format!("{} in total, {unneeded}\n", bytes(total(|_| true))));
    Ok(CommandStatus::Success)
}

fn grid(items: &[StoreItem], now: SystemTime) -> Grid {
    let mut grid = Grid::new();
    grid.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    grid.force_no_tty().set_header(["key", "what", "size", "last used", "needed by"]);
    for item in items {
        let runs: Vec<String> = item.needed_by.iter().map(|out| short(out)).collect();
        grid.add_row([
            item.key.chars().take(12).collect(),
            described(item),
            bytes(item.bytes),
            format!("{} ago", duration(age(item.used, now).as_secs_f64())),
            printable(&runs.join(", ")),
        ]);
    }
    if let Some(column) = grid.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    grid
}

fn described(item: &StoreItem) -> String {
    let about = if item.about.is_empty() { "a result".to_owned() } else { printable(&item.about) };
    match item.kind {
        StoreItemKind::Result | StoreItemKind::Scores => about,
        StoreItemKind::Checkpoint => format!("{about}: checkpoints"),
        StoreItemKind::LastGood => format!("{about}: weights before a step with a non-finite number"),
        StoreItemKind::Leftover => "cut off while it was written".to_owned(),
    }
}

/// A path relative to the current folder.
fn short(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

fn verify(folder: &Folder) -> Result<CommandStatus, Problem> {
    let items = folder.items().map_err(unreadable)?;
    let mut whole = 0;
    let mut damaged = BTreeMap::from([("damaged", 0)]);
    for item in &items {
        match folder.verdict(item) {
            None => {}
            Some(PruneVerdict::Whole) => whole += 1,
            Some(PruneVerdict::InUse) => output::error(&format!("{} is being written\n", item.name)),
            Some(PruneVerdict::Damaged(Damage { kind, reason })) => {
                *damaged.entry(kind).or_default() += 1;
                output::result(&format!("{}  {}: {}\n", item.name, described(item), printable(&reason)));
            }
        }
    }
    let counts: String = damaged.iter().map(|(kind, count)| format!(", {count} {kind}")).collect();
    output::error(&format!("{whole} whole{counts}\n"));
    let runs = warn_of(&folder.runs().map_err(unreadable)?.unreadable);
    if damaged.values().all(|&count| count == 0) {
        return Ok(if runs { CommandStatus::Failure } else { CommandStatus::Success });
    }
    output::error("the next run that needs such a result computes it again\n");
    Ok(CommandStatus::Failure)
}

/// How many times to check whether runs are being recorded, which takes milliseconds.
const PATIENCE: u32 = 100;

fn prune(folder: &Folder, policy: &PrunePolicy) -> Result<CommandStatus, Problem> {
    let failed = |why: String| Problem::run("not-pruned", format!("cannot prune the store: {why}"));
    for _ in 0..PATIENCE {
        if let Some(pruned) = folder.prune(policy, SystemTime::now()).map_err(failed)? {
            say(&pruned, policy);
            return Ok(CommandStatus::Success);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(failed("another command holds the list of runs".to_owned()))
}

fn say(pruned: &Pruned, policy: &PrunePolicy) {
    for item in &pruned.removed {
        output::result(&format!("{}  {}  {}\n", item.name, bytes(item.bytes), described(item)));
    }
    for item in &pruned.in_use {
        output::error(&format!("{} is kept: a run is using it\n", item.name));
    }
    warn_of(&pruned.unreadable);
    if !pruned.spared.is_empty() {
        output::error(&format!(
            "{} kept, because that run may need them\n",
            counted(pruned.spared.len(), "result")
        ));
    }
    let (all, freed): (u64, u64) =
        pruned.removed.iter().fold((0, 0), |(all, freed), item| (all + item.bytes, freed + item.exclusive));
    let (would, leaves) = if policy.dry_run { ("would free", "would leave") } else { ("freed", "left") };
    let linked = match all - freed {
        0 => String::new(),
        linked => format!("; {} more are models of runs too, and stay there", bytes(linked)),
    };
    let entries = match pruned.removed.len() {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    };
    output::error(&format!("{entries}: {would} {}{linked}; {leaves} {}\n", bytes(freed), bytes(pruned.left)));
    if policy.keep_under.is_some_and(|limit| pruned.left > limit) {
        let needed = bytes(pruned.needed);
        output::error(&format!(
            "that is more than requested: kept runs need {needed}. A run is kept as long as its folder of \
            results exists\n"
        ));
    }
}
