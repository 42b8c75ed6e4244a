//! Agreement on work that may fail in one process alone, before the others wait for its result: all processes
//! go on, or all stop for the same reason.

use mopd_plan::events::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::Peers;
use crate::control::Control;
use crate::failure::{Error, Result};

/// Why a process did not complete its work.
#[derive(Serialize, Deserialize)]
enum ProcessStop {
    Interrupted,
    Failed(Box<Failure>),
}

/// The first byte of a message.
const DONE: u8 = 0;
const STOPPED: u8 = 1;

impl Peers {
    /// Gathers the bytes of every process, by rank. If any process failed, all return the failure of the
    /// first one; if one was interrupted, all return that.
    pub fn agreed(&self, control: &Control, own: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let message = match own {
            Ok(bytes) => [vec![DONE], bytes].concat(),
            Err(error) => {
                let stopped = match error {
                    Error::Failed(failure) if !control.interrupted() => ProcessStop::Failed(failure),
                    // Reward programs were stopped along with the run, so their failures are no cause.
                    Error::Failed(_) | Error::Interrupted => ProcessStop::Interrupted,
                };
                [vec![STOPPED], serde_json::to_vec(&stopped).expect("a failure is plain data")].concat()
            }
        };
        let (mut all, mut failed) = (Vec::with_capacity(self.size()), None);
        for (rank, bytes) in self.all_gather(&message)?.into_iter().enumerate() {
            match bytes.split_first() {
                Some((&DONE, bytes)) => all.push(bytes.to_vec()),
                Some((_, bytes)) => {
                    match serde_json::from_slice(bytes).map_err(|error| unreadable(rank, &error))? {
                        ProcessStop::Interrupted => return Err(Error::Interrupted),
                        ProcessStop::Failed(failure) => drop(failed.get_or_insert(failure)),
                    }
                }
                None => return Err(unreadable(rank, &"nothing")),
            }
        }
        failed.map_or(Ok(all), |failure| Err(Error::Failed(failure)))
    }

    /// Returns this process's result if all processes have succeeded, else the error that all return.
    pub fn all_or_none<T>(&self, control: &Control, own: Result<T>) -> Result<T> {
        let (own, status) = match own {
            Ok(own) => (Some(own), Ok(Vec::new())),
            Err(error) => (None, Err(error)),
        };
        self.agreed(control, status)?;
        Ok(own.expect("whoever failed has stopped"))
    }
}

/// The error for a message that can't be parsed.
pub fn unreadable(rank: usize, what: &dyn std::fmt::Display) -> Error {
    apart(&format!("process {rank} sent a message that cannot be parsed ({what})"))
}

/// The error for processes that are not doing the same.
pub fn apart(what: &str) -> Error {
    Error::new(FailureKind::Runtime, format!("the processes disagree: {what}"))
        .help("this is a bug in mopd: run without `--processes`, and report it")
}
