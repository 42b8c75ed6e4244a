//! How long an exchange of numbers takes on this machine.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::{Peers, Rendezvous, RunSecret};
use crate::failure::Result;

/// Most numbers that are exchanged to measure it.
const MOST: usize = 1 << 24;

/// Seconds in which `size` processes sum a vector of this length and gather it again, as they do in each
/// step. Measured with threads in place of processes, connected in the same way.
pub fn exchange_seconds(size: usize, length: usize) -> Result<f64> {
    let secret = RunSecret::new();
    let meeting = Rendezvous::new(size, secret)?;
    let port = meeting.port();
    let tried = length.min(MOST);
    let exchange = |peers: &Peers| -> Result<f64> {
        let numbers = |range: Range<usize>| vec![0.0; range.len()];
        let mut least = f64::INFINITY;
        // The first time warms up.
        for _ in 0..2 {
            peers.barrier()?;
            let begun = Instant::now();
            peers.reduce_scatter(tried, numbers, |_, _| ())?;
            peers.all_gather_parts(tried, numbers, |_, _| ())?;
            least = least.min(begun.elapsed().as_secs_f64());
        }
        Ok(least)
    };
    let failed = Mutex::new(None);
    let failed = || failed.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = std::thread::scope(|scope| {
        let (exchange, failed) = (&exchange, &failed);
        for rank in 1..size {
            // A later error closes their connections, which the first one reports.
            scope.spawn(move || match Rendezvous::join(port, rank, size, secret) {
                Ok(peers) => drop(exchange(&peers)),
                Err(error) => *failed() = Some(error),
            });
        }
        exchange(&meeting.first(|| failed().take().map_or(Ok(()), Err))?)
    })?;
    Ok(seconds * length as f64 / tried.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_numbers_take_longer() {
        let few = exchange_seconds(2, 100).unwrap();
        // Beyond what is measured.
        let many = exchange_seconds(2, 64 * MOST).unwrap();
        assert!(0.0 < few && few < many, "{few} {many}");
        assert_eq!(exchange_seconds(2, 0).unwrap(), 0.0);
    }
}
