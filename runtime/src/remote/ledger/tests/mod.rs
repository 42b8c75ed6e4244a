//! Servers that lie, in every dialect: what they return must not be trained on, unless the book says that the
//! lie can't be told from the truth.

mod cost;
mod rollouts;
mod teachers;
mod world;

use std::collections::BTreeMap;
use std::fmt::Debug;

use mopd_ops::testing::Extent;

use crate::failure::Result;

/// What became of a lie.
#[derive(Clone, Debug)]
struct Outcome {
    lie: String,
    /// The error that stopped the run; `None` where the numbers were trained on and kept.
    error: Option<String>,
    /// Why it can't be told from the truth, where the book names it.
    undetectable: Option<&'static str>,
}

impl Outcome {
    /// Of a run that ended in an error, or with the reason why what it took is no lie.
    fn of(lie: &impl Debug, ended: Result<Option<String>>, undetectable: Option<&'static str>) -> Outcome {
        let lie = format!("{lie:?}");
        let error = match ended {
            Ok(error) => return Outcome { lie, error, undetectable },
            Err(error) => error.to_string(),
        };
        // A panic of the fake closes its connection, which must not count as a lie that was caught.
        assert!(
            !error.contains("closed the connection") && !error.contains("could not be reached"),
            "{error}"
        );
        Outcome { lie, error: Some(error), undetectable: None }
    }
}

/// One of so many lies is told, another part each day.
const PART: u64 = 8;

/// The lies of today; all with `MOPD_TESTS=full`.
fn of_today<L>(lies: Vec<L>) -> Vec<L> {
    let Extent::Day(day) = Extent::from_environment() else { return lies };
    let numbered = lies.into_iter().zip(0_u64..);
    numbered.filter(|(_, number)| (number + day).is_multiple_of(PART)).map(|(lie, _)| lie).collect()
}

/// Runs lies in parallel, since most of their time is spent waiting.
fn outcomes<L: Send + Sync>(lies: &[L], run: impl Fn(&L) -> Outcome + Sync) -> Vec<Outcome> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(lie) = lies.get(place) else { break };
                    let outcome = run(lie);
                    found.lock().unwrap().push(outcome);
                }
            });
        }
    });
    found.into_inner().unwrap()
}

/// Checks that every lie was caught or is named as undetectable.
fn judge(outcomes: &[Outcome]) {
    let trained_on: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.error.is_none()).collect();
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for outcome in &trained_on {
        by_reason.entry(outcome.undetectable.unwrap_or("not named")).or_default().push(&outcome.lie);
    }
    let (caught, count) = (outcomes.len() - trained_on.len(), outcomes.len());
    eprintln!("note: {caught} of {count} lies caught; trained on: {by_reason:#?}");
    let missed = by_reason.remove("not named").unwrap_or_default();
    assert!(missed.is_empty(), "{} lies were trained on: {missed:#?}", missed.len());
}
