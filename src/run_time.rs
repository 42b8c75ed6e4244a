//! The time of a run over all of its pieces: it may have been interrupted and resumed, or started again with
//! most stages taken from the store.

use std::path::Path;

use mopd_store::results_folder::{PROVENANCE, RESULTS, ResultsFolder};
use serde::Deserialize;

use crate::provenance::EarlierPieces;
use crate::run_events::{EventsSoFar, FollowOutcome};

#[derive(Default, Deserialize)]
struct Finished {
    seconds: Option<f64>,
    #[serde(default)]
    keys: Option<String>,
}

/// The part of `provenance.json` that is read here.
#[derive(Deserialize)]
struct Started {
    #[serde(default)]
    earlier: Option<EarlierPieces>,
}

/// The pieces in a folder, for a new one of this plan that begins there.
pub fn pieces_before(out: &Path, plan: &str) -> Option<EarlierPieces> {
    if ResultsFolder::at(out).plan()? != plan {
        return None;
    }
    let earlier = known_pieces(out).unwrap_or_default();
    if let Some(unfinished) = seconds_of_events(out) {
        return Some(EarlierPieces { unfinished, ..earlier });
    }
    let Finished { seconds, keys } = read(&out.join(RESULTS))?;
    let known = if keys == earlier.keys || earlier.keys.is_none() { earlier.finished } else { 0.0 };
    Some(EarlierPieces { finished: known + earlier.unfinished + seconds?, keys, unfinished: 0.0 })
}

/// What the run that is in a folder said of those before it.
pub fn known_pieces(out: &Path) -> Option<EarlierPieces> {
    read::<Started>(&out.join(PROVENANCE))?.earlier
}

/// The time of all pieces of the run in a folder; `None` if nothing is known of it.
pub fn whole_seconds(out: &Path) -> Option<f64> {
    let earlier = known_pieces(out).unwrap_or_default();
    let finished: Finished = read(&out.join(RESULTS)).unwrap_or_default();
    let same = earlier.keys.is_none() || finished.keys.is_none() || finished.keys == earlier.keys;
    let before = if same { earlier.finished } else { 0.0 };
    match (seconds_of_events(out), finished.seconds) {
        // They have begun after the results, if there are any.
        (Some(events), _) => Some(before + events),
        (None, Some(last)) => Some(before + earlier.unfinished + last),
        (None, None) => None,
    }
}

/// The pieces since the last results; `None` if there are none.
fn seconds_of_events(out: &Path) -> Option<f64> {
    let mut events = EventsSoFar::default();
    (events.follow(out, |_| ()).ok()? == FollowOutcome::Read).then(|| events.seconds())
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::write(folder.join(name), text).expect("a folder for tests");
    }

    fn event(name: &str, time: &str) -> String {
        format!("{{\"event\":\"{name}\",\"time\":\"2026-01-01T{time}Z\"}}\n")
    }

    fn begun(out: &Path) -> Option<EarlierPieces> {
        let earlier = pieces_before(out, "p");
        write(out, PROVENANCE, &json!({ "earlier": earlier }).to_string());
        earlier
    }

    fn finished(out: &Path, seconds: f64, keys: &str) {
        let _ = std::fs::remove_file(out.join("events.jsonl"));
        write(out, "results.json", &json!({ "plan": "p", "keys": keys, "seconds": seconds }).to_string());
    }

    #[test]
    fn a_run_that_was_resumed_took_the_time_of_all_pieces() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path();
        assert_eq!((pieces_before(out, "p"), whole_seconds(out)), (None, None));
        write(out, "plan.json", r#"{"hash": "p"}"#);
        // Two pieces of 20 and 5 s, an hour apart, go on in one file; a second start finds the same.
        let pieces = event("ready", "00:00:00") + &event("checkpoint", "00:00:20");
        write(out, "events.jsonl", &pieces);
        let first = EarlierPieces { unfinished: 20.0, ..EarlierPieces::default() };
        assert_eq!((begun(out), begun(out)), (Some(first.clone()), Some(first)));
        write(
            out,
            "events.jsonl",
            &(pieces + &event("ready", "01:00:00") + &event("interrupted", "01:00:05")),
        );
        assert_eq!((whole_seconds(out), pieces_before(out, "other")), (Some(25.0), None));
        assert_eq!(begun(out).map(|earlier| earlier.unfinished), Some(25.0));
        // The third piece finishes.
        finished(out, 10.0, "k");
        assert_eq!(whole_seconds(out), Some(35.0));
        // Run again, everything is taken from the store; before that, a start that was killed.
        let again = begun(out);
        assert_eq!(again.map(|earlier| (earlier.finished, earlier.unfinished)), Some((35.0, 0.0)));
        write(out, "events.jsonl", &(event("ready", "02:00:00") + &event("started", "02:00:03")));
        assert_eq!(whole_seconds(out), Some(38.0));
        begun(out);
        finished(out, 1.0, "k");
        assert_eq!(whole_seconds(out), Some(39.0));
        // With other data, these are not pieces of this run.
        begun(out);
        finished(out, 9.0, "l");
        assert_eq!(whole_seconds(out), Some(9.0));
    }
}
