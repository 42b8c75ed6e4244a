//! The events of a run so far: `events.jsonl` in its folder, a line for each event of the worker. It exists
//! until the run is finished, for `mopd report`: before that, the worker itself stores only checkpoints of a
//! stage's steps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use mopd_plan::events::{Event, MetricsRow};
use serde::{Deserialize, Serialize};

use crate::progress::utc;
use crate::run_folder::ColumnTable;
use mopd_store::WriteError;

pub use mopd_store::results_folder::EVENTS;

/// An event for other programs, with the time of its arrival.
pub fn json_line(event: &Event) -> String {
    #[derive(Serialize)]
    struct Timed<'a> {
        #[serde(flatten)]
        event: &'a Event,
        time: String,
    }
    serde_json::to_string(&Timed { event, time: utc() }).expect("an event was read from JSON") + "\n"
}

/// Writes the events file of one run.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Continues the file of an unfinished run of the same plan; files of other plans were moved away.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn open(out: &Path) -> Result<EventFile, WriteError> {
        let path = out.join(EVENTS);
        match whole_lines(&path) {
            Ok(file) => Ok(EventFile { path, file }),
            Err(source) => Err(WriteError { path, source }),
        }
    }

    /// # Errors
    /// If the file can't be written, or removed: a finished run has its Parquet files, and no events file.
    pub fn note(&mut self, event: &Event) -> Result<(), WriteError> {
        let done = match event {
            Event::Finished { .. } => std::fs::remove_file(&self.path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
            event => self.file.write_all(json_line(event).as_bytes()),
        };
        done.map_err(|source| WriteError { path: self.path.clone(), source })
    }
}

/// Opens the file for appending, without an incomplete line at its end.
fn whole_lines(path: &Path) -> io::Result<File> {
    let mut file = File::options().create(true).read(true).append(true).open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(whole as u64)?;
    Ok(file)
}

/// A file, whatever its path: its inode, and when it was created, because inodes are used again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    inode: u64,
    created: Option<SystemTime>,
}

/// The content of an events file up to some byte.
#[derive(Default)]
pub struct EventsSoFar {
    pub read: u64,
    /// The file that was read.
    file: Option<FileIdentity>,
    /// By stage and seed: the rows of each step.
    steps: BTreeMap<(String, u64), BTreeMap<u32, Vec<MetricsRow>>>,
    /// The first and the last event of each piece: a run that is started again goes on in the same file.
    pieces: Vec<[DateTime<Utc>; 2]>,
}

/// What tells the pieces of a run apart.
#[derive(Deserialize)]
struct EventTime {
    event: String,
    time: String,
}

impl EventsSoFar {
    /// The time of all pieces; between them, nothing ran.
    pub fn seconds(&self) -> f64 {
        let seconds = |[first, last]: &[DateTime<Utc>; 2]| (*last - *first).as_seconds_f64().max(0.0);
        self.pieces.iter().map(seconds).sum()
    }

    /// Reads what was added, and calls `heard` with each event. Reads nothing of another file than before: a
    /// run that begins again makes a new one, which may be as long by now.
    ///
    /// # Errors
    /// If the file exists and can't be read.
    pub fn follow(&mut self, out: &Path, mut heard: impl FnMut(&Event)) -> io::Result<FollowOutcome> {
        let mut file = match File::open(out.join(EVENTS)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FollowOutcome::Absent),
            Err(error) => return Err(error),
        };
        let about = file.metadata()?;
        let identity = FileIdentity { inode: about.ino(), created: about.created().ok() };
        if about.len() < self.read || self.file.is_some_and(|before| before != identity) {
            return Ok(FollowOutcome::Another);
        }
        self.file = Some(identity);
        file.seek(SeekFrom::Start(self.read))?;
        let mut added = Vec::new();
        file.read_to_end(&mut added)?;
        // An incomplete line is read later, when it is complete.
        let whole = added.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in added[..whole].split(|byte| *byte == b'\n') {
            if let Ok(EventTime { event, time }) = serde_json::from_slice(line)
                && let Ok(time) = time.parse::<DateTime<Utc>>()
            {
                match self.pieces.last_mut() {
                    Some([_, last]) if event != "ready" => *last = time,
                    _ => self.pieces.push([time, time]),
                }
            }
            // Unknown events of other versions are ignored.
            let Ok(event) = serde_json::from_slice::<Event>(line) else { continue };
            self.note(&event);
            heard(&event);
        }
        self.read += whole as u64;
        Ok(FollowOutcome::Read)
    }

    fn note(&mut self, event: &Event) {
        if let Event::Step { stage, seed, step, rows, .. } = event {
            let steps = self.steps.entry((stage.clone(), *seed)).or_default();
            // A stage that resumes from a checkpoint, or starts again, repeats its steps.
            steps.split_off(step);
            steps.insert(*step, rows.clone());
        }
    }

    /// The steps, in the format of `metrics.parquet`.
    pub fn metrics(&self) -> ColumnTable {
        ColumnTable::from_rows(self.steps.values().flat_map(BTreeMap::values).flatten())
    }
}

/// The result of following a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowOutcome {
    Read,
    Absent,
    Another,
}

#[cfg(test)]
mod tests {
    use mopd_plan::events::Seconds;

    use super::*;

    fn step(stage: &str, step: u32, loss: f64) -> Event {
        let row = serde_json::json!({ "stage": stage, "seed": 1, "step": step, "loss": loss });
        let serde_json::Value::Object(row) = row else { unreachable!("written above") };
        Event::Step {
            stage: stage.to_owned(),
            seed: 1,
            step,
            steps: 9,
            metric: "loss".to_owned(),
            value: loss,
            tokens: 1,
            seconds: Seconds { rollout: 0.0, scoring: 0.0, update: 0.5 },
            loss,
            domains: Vec::new(),
            rows: vec![row],
        }
    }

    fn losses(so_far: &EventsSoFar) -> Vec<f64> {
        let metrics = so_far.metrics();
        (0..metrics.rows()).map(|row| metrics.number("loss", row).expect("a loss")).collect()
    }

    #[test]
    fn steps_done_again_take_the_place_of_those_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut so_far = EventsSoFar::default();
        assert_eq!(so_far.follow(folder.path(), |_| ()).unwrap(), FollowOutcome::Absent);
        let mut file = EventFile::open(folder.path()).unwrap();
        for at in 0..4 {
            file.note(&step("a", at, f64::from(at))).unwrap();
        }
        file.note(&step("b", 0, 100.0)).unwrap();
        assert_eq!(so_far.follow(folder.path(), |_| ()).unwrap(), FollowOutcome::Read);
        assert_eq!(losses(&so_far), [0.0, 1.0, 2.0, 3.0, 100.0]);
        // Killed in the middle of a line; the next run resumes from the checkpoint after two steps.
        drop(file);
        let path = folder.path().join(EVENTS);
        let before = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&before[..], &b"{\"event\":\"st"[..]].concat()).unwrap();
        so_far.follow(folder.path(), |_| panic!("a line without an end")).unwrap();
        let mut file = EventFile::open(folder.path()).unwrap();
        file.note(&step("a", 2, 20.0)).unwrap();
        let mut heard = 0;
        so_far.follow(folder.path(), |_| heard += 1).unwrap();
        assert_eq!((heard, losses(&so_far)), (1, vec![0.0, 1.0, 20.0, 100.0]));
        // Finished: the file is removed. The file of another run is recognised, even if it is longer by now.
        file.note(&Event::Finished { seconds: 1.0, peak_memory: 1 }).unwrap();
        assert_eq!(so_far.follow(folder.path(), |_| ()).unwrap(), FollowOutcome::Absent);
        let mut file = EventFile::open(folder.path()).unwrap();
        file.note(&step("a", 0, 7.0)).unwrap();
        assert_eq!(so_far.follow(folder.path(), |_| ()).unwrap(), FollowOutcome::Another);
        (1..9).for_each(|at| file.note(&step("a", at, 7.0)).unwrap());
        assert!(std::fs::metadata(&path).unwrap().len() > so_far.read);
        assert_eq!(so_far.follow(folder.path(), |_| panic!("another run")).unwrap(), FollowOutcome::Another);
        let mut again = EventsSoFar::default();
        assert_eq!(again.follow(folder.path(), |_| ()).unwrap(), FollowOutcome::Read);
        assert_eq!(losses(&again), [7.0; 9]);
    }
}
