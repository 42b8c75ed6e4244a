//! How the processes of a run connect. The first process listens on a free port of the loopback interface. It
//! starts the others and passes them the port and a secret, neither in an argument nor in a variable that
//! other users of the machine could read. Each process sends its rank and the secret; a connection without
//! the secret is closed, and the first process keeps waiting.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mopd_compiler::plan::events::FailureKind;
use serde::{Deserialize, Serialize};

use super::Peers;
use super::link::PeerLink;
use crate::failure::{Error, Result};

const MAGIC: [u8; 8] = *b"mopdpeer";

/// Raised whenever the messages change.
const VERSION: u32 = 1;

/// How long a new connection may take to send its [`Hello`].
const HELLO: Duration = Duration::from_secs(2);

/// How long all processes may take to connect.
const ALL: Duration = Duration::from_secs(60);

/// A secret that only the processes of one run know.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct RunSecret([u8; 32]);

impl fmt::Debug for RunSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RunSecret")
    }
}

impl RunSecret {
    /// A random secret, from the seeds that the system gives to hash tables.
    pub fn new() -> RunSecret {
        let mut bytes = [0; 32];
        for (place, bytes) in bytes.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&RandomState::new().hash_one(place).to_le_bytes());
        }
        RunSecret(bytes)
    }

    /// Compares in constant time.
    fn is(&self, other: &RunSecret) -> bool {
        self.0.iter().zip(other.0).fold(0, |apart, (one, other)| apart | (one ^ other)) == 0
    }
}

impl Default for RunSecret {
    fn default() -> RunSecret {
        RunSecret::new()
    }
}

/// The first message of a process that connects.
#[derive(Clone, Copy)]
struct Hello {
    version: u32,
    rank: u32,
    size: u32,
    /// The port on which it listens itself.
    port: u16,
    secret: RunSecret,
}

impl Hello {
    const BYTES: usize = 8 + 4 + 4 + 4 + 2 + 32;

    fn to_bytes(self) -> [u8; Hello::BYTES] {
        let mut bytes = [0; Hello::BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.rank.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.size.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.port.to_le_bytes());
        bytes[22..].copy_from_slice(&self.secret.0);
        bytes
    }

    /// None if the bytes don't begin with [`MAGIC`].
    fn from_bytes(bytes: [u8; Hello::BYTES]) -> Option<Hello> {
        let number = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
        let port = u16::from_le_bytes(bytes[20..22].try_into().expect("two bytes"));
        let secret = RunSecret(bytes[22..].try_into().expect("the rest is the secret"));
        (bytes[..8] == MAGIC).then(|| Hello {
            version: number(8),
            rank: number(12),
            size: number(16),
            port,
            secret,
        })
    }
}

/// A listening process that waits for its peers.
pub struct Meeting {
    listener: TcpListener,
    port: u16,
    size: usize,
    secret: RunSecret,
}

impl Meeting {
    /// Listens for the peers of a run of `size` processes, on a free port.
    pub fn new(size: usize, secret: RunSecret) -> Result<Meeting> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?.port(), listener))
        };
        let (port, listener) = listen().map_err(|error: io::Error| {
            failed(&format!("the processes of a run can't be connected on this machine: {error}"))
        })?;
        Ok(Meeting { listener, port, size, secret })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first process waits for the others. `check` is called meanwhile; its error ends the wait.
    pub fn first(self, check: impl Fn() -> Result<()>) -> Result<Peers> {
        let mut come = self.accept(1..self.size, &check)?;
        // Each process needs the ports of those that it connects to.
        let ports: Vec<u8> = come.iter().flat_map(|(hello, _)| hello.port.to_le_bytes()).collect();
        for (_, stream) in &mut come {
            stream.write_all(&ports).map_err(|error| failed(&format!("a process left at once: {error}")))?;
        }
        connected(0, come)
    }

    /// Process `rank` connects to the first one, which listens on `port`, and then to its other peers.
    pub fn join(port: u16, rank: usize, size: usize, secret: RunSecret) -> Result<Peers> {
        let own = Meeting::new(size, secret)?;
        let lost = |error: io::Error| failed(&format!("process {rank} of {size} can't join: {error}"));
        let hello = Hello { version: VERSION, rank: rank as u32, size: size as u32, port: own.port, secret };
        let connect = |port: u16| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(ALL))?;
            stream.write_all(&hello.to_bytes())?;
            let mut version = [0; 4];
            stream.read_exact(&mut version)?;
            Ok((u32::from_le_bytes(version), stream))
        };
        let connect = |port: u16| match connect(port) {
            Ok((VERSION, stream)) => Ok(stream),
            Ok((theirs, _)) => Err(other_version(theirs)),
            Err(error) => Err(lost(error)),
        };
        let mut first = connect(port)?;
        let mut ports = vec![0; 2 * (size - 1)];
        first.read_exact(&mut ports).map_err(lost)?;
        let mut links = vec![(Hello { rank: 0, ..hello }, first)];
        for (place, port) in ports.chunks_exact(2).take(rank - 1).enumerate() {
            let port = u16::from_le_bytes([port[0], port[1]]);
            links.push((Hello { rank: place as u32 + 1, ..hello }, connect(port)?));
        }
        links.extend(own.accept(rank + 1..size, &|| Ok(()))?);
        connected(rank, links)
    }

    /// Accepts the connections of the processes with these ranks, and returns them in order of rank.
    fn accept(
        &self,
        wanted: std::ops::Range<usize>,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<(Hello, TcpStream)>> {
        let began = Instant::now();
        let mut come: Vec<(Hello, TcpStream)> = Vec::new();
        while come.len() < wanted.len() {
            check()?;
            if began.elapsed() > ALL {
                let missing: Vec<String> = wanted
                    .clone()
                    .filter(|rank| !come.iter().any(|(hello, _)| hello.rank as usize == *rank))
                    .map(|rank| rank.to_string())
                    .collect();
                return Err(failed(&format!(
                    "of {} processes, {} did not come within {} s",
                    self.size,
                    missing.join(", "),
                    ALL.as_secs()
                )));
            }
            let Ok((mut stream, _)) = self.listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            // A connection that sends no valid hello is not of this run.
            let Ok(Some(hello)) = heard(&mut stream) else { continue };
            if !hello.secret.is(&self.secret) {
                continue;
            }
            // Send our version before refusing another one, so that the peer can report it.
            let answered = stream.write_all(&VERSION.to_le_bytes());
            if hello.version != VERSION {
                return Err(other_version(hello.version));
            }
            let rank = hello.rank as usize;
            let known = come.iter().any(|(known, _)| known.rank == hello.rank);
            if hello.size as usize != self.size || !wanted.contains(&rank) || known {
                return Err(failed(&format!(
                    "a process came as number {rank} of {}, which is not among those that are waited for",
                    hello.size
                )));
            }
            answered.map_err(|error| failed(&format!("process {rank} left at once: {error}")))?;
            come.push((hello, stream));
        }
        come.sort_by_key(|(hello, _)| hello.rank);
        Ok(come)
    }
}

fn heard(stream: &mut TcpStream) -> io::Result<Option<Hello>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HELLO))?;
    let mut bytes = [0; Hello::BYTES];
    stream.read_exact(&mut bytes)?;
    Ok(Hello::from_bytes(bytes))
}

fn connected(rank: usize, others: Vec<(Hello, TcpStream)>) -> Result<Peers> {
    let mut links: Vec<Option<PeerLink>> = (0..others.len() + 1).map(|_| None).collect();
    for (hello, stream) in others {
        let link =
            PeerLink::new(stream).map_err(|error| failed(&format!("a connection was lost: {error}")))?;
        links[hello.rank as usize] = Some(link);
    }
    Ok(Peers::new(rank, links))
}

fn other_version(theirs: u32) -> Error {
    failed(&format!(
        "a process speaks version {theirs} of the protocol between processes, this one {VERSION}"
    ))
    .help("all processes of a run are of one build of mopd")
}

fn failed(message: &str) -> Error {
    Error::new(FailureKind::Runtime, message)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Connects with another version; returns the version that the listener sends.
    pub fn join_with_version(port: u16, secret: RunSecret, version: u32) -> u32 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let hello = Hello { version, rank: 1, size: 2, port: 1, secret };
        stream.write_all(&hello.to_bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        u32::from_le_bytes(answer)
    }
}
