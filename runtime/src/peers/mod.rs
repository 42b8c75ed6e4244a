//! Processes on one machine that work together: what each of them has, all of them get, or its sum.
//!
//! They are connected over TCP on the loopback device, each with every other. A *collective* is called by all
//! of them, in the same order; whoever is at another one than its peers is found by the number that each
//! message begins with. Sums are made in the order of the processes: a vector is divided among them,
//! everybody sends each part to its owner, and the owner adds. So a sum depends on how many processes there
//! are, and neither on which of them was first nor on how numbers travelled.
//!
//! A process that dies closes its connections, which the others see at once, wherever they are. Waiting for
//! a message has no limit: another process may well be at work for an hour. A message that has begun must go
//! on.

mod agree;
mod join;
mod link;
#[cfg(test)]
pub mod tests;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mopd_compiler::plan::events::FailureKind;

pub use self::agree::{apart, unreadable};
pub use self::join::{Meeting, RunSecret};
use self::link::{Head, PeerLink};
use crate::failure::{Error, Result};

/// Numbers of a part that travel at a time: what is on its way stays small.
const PIECE: usize = 1 << 20;

/// What a collective does, as its messages say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Collective {
    Barrier = 1,
    Broadcast = 2,
    AllGather = 3,
    ReduceScatter = 4,
}

/// A process among its peers.
pub struct Peers {
    rank: usize,
    size: usize,
    state: Mutex<State>,
}

struct State {
    /// With every process but this one.
    links: Vec<Option<PeerLink>>,
    /// Collectives so far.
    done: u64,
    /// With whom the connection was lost.
    lost: Option<usize>,
}

/// The part of a vector that a process owns: parts differ by one number at most.
pub fn shard(length: usize, rank: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| (length as u128 * rank as u128 / size as u128) as usize;
    start(rank)..start(rank + 1)
}

impl Peers {
    fn new(rank: usize, links: Vec<Option<PeerLink>>) -> Peers {
        let state = State { done: 0, lost: None, links };
        Peers { rank, size: state.links.len(), state: Mutex::new(state) }
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

    /// The process whose connection was lost, where one was. It may have gone because another did.
    pub fn lost(&self) -> Option<usize> {
        self.lock().lost
    }

    /// Whoever waits for this process is told that it does nothing any more.
    pub fn close(&self) {
        self.lock().links.iter().flatten().for_each(PeerLink::close);
    }

    /// The part of a vector that this process owns.
    pub fn shard(&self, length: usize) -> Range<usize> {
        shard(length, self.rank, self.size)
    }

    /// Returns when every process has come here.
    pub fn barrier(&self) -> Result<()> {
        let nothing = vec![[].as_slice(); self.size];
        self.exchange(Collective::Barrier, &nothing).map(|_| ())
    }

    /// What the process `root` has; the others' `own` is not looked at.
    pub fn broadcast(&self, root: usize, own: &[u8]) -> Result<Vec<u8>> {
        let own = if self.rank == root { own } else { &[] };
        let mut all = self.exchange(Collective::Broadcast, &vec![own; self.size])?;
        Ok(std::mem::take(&mut all[root]))
    }

    /// What each process has, in their order.
    pub fn all_gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(Collective::AllGather, &vec![own; self.size])
    }

    /// The sum of what all have, number by number, on every process the same.
    pub fn all_reduce(&self, own: &[f64]) -> Result<Vec<f64>> {
        let bytes: Vec<u8> = own.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut sum: Vec<f64> = Vec::new();
        for (rank, bytes) in self.all_gather(&bytes)?.into_iter().enumerate() {
            let numbers: Vec<f64> = bytes
                .chunks_exact(size_of::<f64>())
                .map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")))
                .collect();
            if numbers.len() != own.len() {
                return Err(self.unlike(rank, &format!("{} numbers to add to {}", numbers.len(), own.len())));
            }
            match rank {
                0 => sum = numbers,
                _ => sum.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number),
            }
        }
        Ok(sum)
    }

    /// Of the sum of vectors of `length` numbers, the part that this process owns; `part` answers numbers of
    /// its own vector.
    pub fn reduce_scatter(&self, length: usize, part: impl Fn(Range<usize>) -> Vec<f32>) -> Result<Vec<f32>> {
        let owned = self.shard(length);
        let mut sum: Vec<f32> = Vec::with_capacity(owned.len());
        for offset in rounds(length, self.size) {
            let of = |rank: usize| within(shard(length, rank, self.size), offset);
            let own: Vec<Vec<u8>> = (0..self.size).map(|rank| to_bytes(&part(of(rank)))).collect();
            let own: Vec<&[u8]> = own.iter().map(Vec::as_slice).collect();
            let count = of(self.rank).len();
            let start = sum.len();
            for (rank, bytes) in self.exchange(Collective::ReduceScatter, &own)?.into_iter().enumerate() {
                let numbers = from_bytes(&bytes);
                if numbers.len() != count {
                    return Err(self.unlike(rank, &format!("{} numbers to add to {count}", numbers.len())));
                }
                match rank {
                    0 => sum.extend(numbers),
                    _ => sum[start..].iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number),
                }
            }
        }
        assert_eq!(sum.len(), owned.len(), "every number of the part is summed once");
        Ok(sum)
    }

    /// A vector of `length` numbers whose parts the processes own: `part` answers numbers of this process's
    /// own, `put` takes all of them, its own among them.
    pub fn all_gather_parts(
        &self,
        length: usize,
        part: impl Fn(Range<usize>) -> Vec<f32>,
        mut put: impl FnMut(Range<usize>, &[f32]),
    ) -> Result<()> {
        for offset in rounds(length, self.size) {
            let of = |rank: usize| within(shard(length, rank, self.size), offset);
            let all = self.all_gather(&to_bytes(&part(of(self.rank))))?;
            for (rank, bytes) in all.into_iter().enumerate() {
                let (range, numbers) = (of(rank), from_bytes(&bytes));
                if numbers.len() != range.len() {
                    let what = format!("{} numbers where {} belong", numbers.len(), range.len());
                    return Err(self.unlike(rank, &what));
                }
                put(range, &numbers);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends each process its message, and answers what each has sent, this one's own among them.
    fn exchange(&self, what: Collective, own: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        assert_eq!(own.len(), self.size, "a message for each process");
        let mut state = self.lock();
        state.done += 1;
        let (what, number) = (what as u8, state.done);
        let head = |bytes: &[u8]| Head { what, number, length: bytes.len() as u64 };
        let links = || state.links.iter().enumerate().filter_map(|(rank, link)| Some((rank, link.as_ref()?)));
        // Everybody sends and receives at the same time: two that only sent would wait for each other.
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
                            "it is at collective {} of kind {}, and this process at {number} of kind {what}",
                            head.number, head.what
                        );
                        failed = Some((rank, why));
                    }
                    Err(error) => failed = Some((rank, error.to_string())),
                }
                if failed.is_some() {
                    // Nobody is to wait for what will not come.
                    links().for_each(|(_, link)| link.close());
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
        links().for_each(|(_, link)| link.close());
        state.lost.get_or_insert(rank);
        let message = format!("the connection to process {rank} of {} was lost: {why}", self.size);
        Err(Error::new(FailureKind::Runtime, message))
    }

    /// A process that does not do what this one does.
    fn unlike(&self, rank: usize, what: &str) -> Error {
        apart(&format!("process {rank} of {} sent {what}", self.size))
    }
}

/// Where the pieces of parts begin, as many for every process.
fn rounds(length: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..length.div_ceil(size)).step_by(PIECE)
}

/// A piece of a part, which may be empty.
fn within(part: Range<usize>, offset: usize) -> Range<usize> {
    let start = (part.start + offset).min(part.end);
    start..(start + PIECE).min(part.end)
}

/// As they travel.
pub fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(numbers)];
    let places = bytes.chunks_exact_mut(size_of::<f32>());
    places.zip(numbers).for_each(|(place, number)| place.copy_from_slice(&number.to_le_bytes()));
    bytes
}

/// What is left over is no number.
pub fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    bytes.chunks_exact(size_of::<f32>()).map(number).collect()
}
