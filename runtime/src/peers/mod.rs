//! Collective operations (broadcast, all-gather, all-reduce and others) among processes on one machine.
//!
//! Every two processes are connected over TCP on the loopback interface. All processes call the same
//! *collectives* in the same order; the number in each message's header reveals one that does not. Sums are
//! made in the order of the ranks: each process owns a part of the vector, receives that part from all
//! others and adds. So a sum depends on the number of processes, but neither on which process was first nor
//! on the order in which messages arrive.
//!
//! When a process dies, its connections close, and the others see that at once, wherever they are. Waiting
//! for a message has no time limit, since a peer may compute for an hour; a message that has begun must
//! keep arriving.

mod agree;
mod join;
mod link;
mod speed;
#[cfg(test)]
pub mod tests;

use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use mopd_plan::events::FailureKind;

pub use self::agree::{apart, unreadable};
pub use self::join::{Rendezvous, RunSecret};
use self::link::{MessageHeader, PeerLink};
pub use self::speed::exchange_seconds;
use crate::failure::{Error, Result};

/// Numbers of a part that are sent at a time, to keep buffers small.
const PIECE: usize = 1 << 20;

/// The kind of a collective, as in the header of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collective {
    Barrier = 1,
    Broadcast = 2,
    AllGather = 3,
    ReduceScatter = 4,
    Gather = 5,
}

/// A process among its peers.
pub struct Peers {
    rank: usize,
    size: usize,
    /// Connections by rank; none at this process's own rank.
    links: Vec<Option<PeerLink>>,
    /// Collectives so far. Locked during a collective, which may wait for long: nothing else needs it.
    done: Mutex<u64>,
    /// The rank of the process whose connection was lost.
    lost: OnceLock<usize>,
}

/// The part of a vector that a process owns; the lengths of parts differ by one at most.
pub fn shard(length: usize, rank: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| (length as u128 * rank as u128 / size as u128) as usize;
    start(rank)..start(rank + 1)
}

impl Peers {
    fn new(rank: usize, links: Vec<Option<PeerLink>>) -> Peers {
        Peers { rank, size: links.len(), links, done: Mutex::new(0), lost: OnceLock::new() }
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the first one, which alone writes results.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The process whose connection was lost, if any. It may have ended because another one did.
    pub fn lost(&self) -> Option<usize> {
        self.lost.get().copied()
    }

    /// Closes all connections, so that this process and its peers stop waiting for each other at once.
    pub fn close(&self) {
        self.links.iter().flatten().for_each(PeerLink::close);
    }

    /// The part of a vector that this process owns.
    pub fn shard(&self, length: usize) -> Range<usize> {
        shard(length, self.rank, self.size)
    }

    /// Returns when every process has called it.
    pub fn barrier(&self) -> Result<()> {
        let nothing = vec![[].as_slice(); self.size];
        self.exchange(Collective::Barrier, &nothing).map(|_| ())
    }

    /// Returns the bytes of the process `root`; `own` of the others is ignored.
    pub fn broadcast(&self, root: usize, own: &[u8]) -> Result<Vec<u8>> {
        let own = if self.rank == root { own } else { &[] };
        let mut all = self.exchange(Collective::Broadcast, &vec![own; self.size])?;
        Ok(std::mem::take(&mut all[root]))
    }

    /// Returns the bytes of each process, by rank.
    pub fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(Collective::AllGather, &vec![own; self.size])
    }

    /// The elementwise sum over the processes, the same on every process.
    pub fn all_reduce(&self, own: &[f64]) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = own.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut sum: Vec<f64> = Vec::new();
        for (rank, bytes) in self.all_gather(&bytes)?.into_iter().enumerate() {
            let numbers: Vec<f64> = bytes
                .chunks_exact(size_of::<f64>())
                .map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")))
                .collect();
            if numbers.len() != own.len() {
                return Err(
                    self.mismatch(rank, &format!("{} numbers to add to {}", numbers.len(), own.len()))
                );
            }
            match rank {
                0 => sum = numbers,
                _ => sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number),
            }
        }
        Ok(sum)
    }

    /// Sums vectors of `length` numbers over the processes. `part` returns a range of this process's vector,
    /// each range once; `put` receives the sums of the part that this process owns, in order.
    pub fn reduce_scatter(
        &self,
        length: usize,
        mut part: impl FnMut(Range<usize>) -> Vec<f32>,
        mut put: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        for offset in rounds(length, self.size) {
            let of = |rank: usize| within(shard(length, rank, self.size), offset);
            let own: Vec<Vec<u8>> = (0..self.size).map(|rank| to_bytes(&part(of(rank)))).collect();
            let own: Vec<&[u8]> = own.iter().map(Vec::as_slice).collect();
            let (range, mut sum) = (of(self.rank), Vec::new());
            for (rank, bytes) in self.exchange(Collective::ReduceScatter, &own)?.into_iter().enumerate() {
                let numbers = from_bytes(&bytes);
                let count = range.len();
                if numbers.len() != count {
                    return Err(self.mismatch(rank, &format!("{} numbers to add to {count}", numbers.len())));
                }
                match rank {
                    0 => sum = numbers,
                    _ => sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number),
                }
            }
            put(range, &sum);
        }
        Ok(())
    }

    /// Gathers a vector of `length` numbers from the parts that the processes own. `part` returns a range of
    /// this process's part; `put` receives all numbers, its own included.
    pub fn all_gather_parts(
        &self,
        length: usize,
        part: impl Fn(Range<usize>) -> Vec<f32>,
        put: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        self.gather_in(Collective::AllGather, |_| true, length, part, put)
    }

    /// The same in the first process alone: in the others, `put` is not called.
    pub fn gather_parts(
        &self,
        length: usize,
        part: impl Fn(Range<usize>) -> Vec<f32>,
        put: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        self.gather_in(Collective::Gather, |rank| rank == 0, length, part, put)
    }

    /// Gathers a vector in the processes that `receives` selects by rank.
    fn gather_in(
        &self,
        what: Collective,
        receives: impl Fn(usize) -> bool,
        length: usize,
        part: impl Fn(Range<usize>) -> Vec<f32>,
        mut put: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        for offset in rounds(length, self.size) {
            let of = |rank: usize| within(shard(length, rank, self.size), offset);
            let own = to_bytes(&part(of(self.rank)));
            let nothing: &[u8] = &[];
            let own: Vec<&[u8]> =
                (0..self.size).map(|rank| if receives(rank) { own.as_slice() } else { nothing }).collect();
            let all = self.exchange(what, &own)?;
            for (rank, bytes) in all.into_iter().enumerate().filter(|_| receives(self.rank)) {
                let (range, numbers) = (of(rank), from_bytes(&bytes));
                if numbers.len() != range.len() {
                    let what = format!("{} numbers, expected {}", numbers.len(), range.len());
                    return Err(self.mismatch(rank, &what));
                }
                put(range, &numbers);
            }
        }
        Ok(())
    }

    /// Sends each process its message, and returns the messages of all, including this one's to itself.
    fn exchange(&self, what: Collective, own: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        assert_eq!(own.len(), self.size, "a message for each process");
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += 1;
        let (what, number) = (what as u8, *done);
        let head = |bytes: &[u8]| MessageHeader { what, number, length: bytes.len() as u64 };
        let links = || self.links.iter().enumerate().filter_map(|(rank, link)| Some((rank, link.as_ref()?)));
        // Send and receive at the same time: two processes that only sent could block each other.
        let received = std::thread::scope(|scope| {
            let send = |(rank, link): (usize, &'_ PeerLink)| {
                let (head, link) = (head(own[rank]), link.clone());
                let bytes = own[rank];
                (rank, scope.spawn(move || link.send(head, bytes)))
            };
            let sending: Vec<_> = links().map(send).collect();
            let mut received = vec![Vec::new(); self.size];
            received[self.rank] = own[self.rank].to_vec();
            let mut failed = None;
            for (rank, link) in links() {
                match link.receive() {
                    Ok((head, bytes)) if (head.what, head.number) == (what, number) => {
                        received[rank] = bytes;
                    }
                    Ok((head, _)) => {
                        let why = format!(
                            "it is at collective {} of kind {}, but this process is at {number} of \
                            kind {what}",
                            head.number, head.what
                        );
                        failed = Some((rank, why));
                    }
                    Err(error) => failed = Some((rank, error.to_string())),
                }
                if failed.is_some() {
                    // Peers must not wait for messages that will not come.
                    self.close();
                    break;
                }
            }
            for (rank, sending) in sending {
                let sent = sending.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
                if let (Err(error), None) = (sent, &failed) {
                    failed = Some((rank, error.to_string()));
                }
            }
            failed.map_or(Ok(received), Err)
        });
        let (rank, why) = match received {
            Ok(received) => return Ok(received),
            Err(failed) => failed,
        };
        self.close();
        self.lost.get_or_init(|| rank);
        let message = format!("the connection to process {rank} of {} was lost: {why}", self.size);
        Err(Error::new(FailureKind::Runtime, message))
    }

    /// The error for a process at another collective than this one.
    fn mismatch(&self, rank: usize, what: &str) -> Error {
        apart(&format!("process {rank} of {} sent {what}", self.size))
    }
}

/// Bytes that each of `size` processes holds at most while they sum a vector of `length` numbers: the
/// messages to all and from all, and one of them as numbers before and after.
pub fn buffer_bytes(length: usize, size: usize) -> u64 {
    let piece = length.div_ceil(size).min(PIECE) * size_of::<f32>();
    ((2 * size + 2) * piece) as u64
}

/// The offsets of the pieces within a part, the same number for every process.
fn rounds(length: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..length.div_ceil(size)).step_by(PIECE)
}

/// The piece of a part at `offset`, which may be empty.
fn within(part: Range<usize>, offset: usize) -> Range<usize> {
    let start = (part.start + offset).min(part.end);
    start..(start + PIECE).min(part.end)
}

/// Numbers in their wire format.
pub fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(numbers)];
    let places = bytes.chunks_exact_mut(size_of::<f32>());
    places.zip(numbers).for_each(|(place, number)| place.copy_from_slice(&number.to_le_bytes()));
    bytes
}

/// Inverse of [`to_bytes`]; trailing bytes that make no number are dropped.
pub fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    bytes.chunks_exact(size_of::<f32>()).map(number).collect()
}
