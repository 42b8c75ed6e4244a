//! How the processes of a run connect. The first process listens on a free port of the loopback interface. It
//! starts the others and passes them the port and a secret, neither in an argument nor in a variable that
//! other users of the machine could read. Each process sends its rank and the secret; a connection without
//! the secret is closed, and the first process keeps waiting.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use mopd_plan::events::FailureKind;
use mopd_store::random_bytes;
use serde::{Deserialize, Serialize};

use super::Peers;
use super::link::PeerLink;
use crate::failure::{Error, Result};

const MAGIC: [u8; 8] = *b"mopdpeer";

/// Raised whenever the messages change.
pub(super) const VERSION: u32 = 3;

/// How long a new connection may take to send its [`Handshake`].
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long all processes may take to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// A secret that only the processes of one run know.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct RunSecret([u8; 32]);

impl fmt::Debug for RunSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RunSecret")
    }
}

impl RunSecret {
    pub fn new() -> RunSecret {
        RunSecret(random_bytes())
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
struct Handshake {
    version: u32,
    rank: u32,
    size: u32,
    /// The port on which it listens itself.
    port: u16,
    secret: RunSecret,
}

impl Handshake {
    const BYTES: usize = 8 + 4 + 4 + 4 + 2 + 32;

    fn to_bytes(self) -> [u8; Handshake::BYTES] {
        let mut bytes = [0; Handshake::BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.rank.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.size.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.port.to_le_bytes());
        bytes[22..].copy_from_slice(&self.secret.0);
        bytes
    }

    /// None if the bytes don't begin with [`MAGIC`].
    fn from_bytes(bytes: [u8; Handshake::BYTES]) -> Option<Handshake> {
        let number = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
        let port = u16::from_le_bytes(bytes[20..22].try_into().expect("two bytes"));
        let secret = RunSecret(bytes[22..].try_into().expect("the rest is the secret"));
        (bytes[..8] == MAGIC).then(|| Handshake {
            version: number(8),
            rank: number(12),
            size: number(16),
            port,
            secret,
        })
    }
}

/// A listening process that waits for its peers.
pub struct Rendezvous {
    listener: TcpListener,
    port: u16,
    size: usize,
    secret: RunSecret,
}

impl Rendezvous {
    /// Listens for the peers of a run of `size` processes, on a free port.
    pub fn new(size: usize, secret: RunSecret) -> Result<Rendezvous> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?.port(), listener))
        };
        let (port, listener) = listen().map_err(|error: io::Error| {
            failed(&format!("the processes of a run cannot connect on this machine: {error}"))
        })?;
        Ok(Rendezvous { listener, port, size, secret })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The first process waits for the others. `check` is called meanwhile; its error ends the wait.
    pub fn first(self, check: impl Fn() -> Result<()>) -> Result<Peers> {
        let mut come = self.accept(1..self.size, &check)?;
        // Each process needs the ports of those that it connects to.
        let ports: Vec<u8> = come.iter().flat_map(|(handshake, _)| handshake.port.to_le_bytes()).collect();
        for (_, stream) in &mut come {
            stream.write_all(&ports).map_err(|error| {
                failed(&format!(
                    "a process closed its connection at \
                once: {error}"
                ))
            })?;
        }
        connected(0, come)
    }

    /// Process `rank` connects to the first one, which listens on `port`, and then to its other peers.
    pub fn join(port: u16, rank: usize, size: usize, secret: RunSecret) -> Result<Peers> {
        let own = Rendezvous::new(size, secret)?;
        let lost = |error: io::Error| failed(&format!("process {rank} of {size} cannot join: {error}"));
        let handshake =
            Handshake { version: VERSION, rank: rank as u32, size: size as u32, port: own.port, secret };
        let connect = |port: u16| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
            stream.write_all(&handshake.to_bytes())?;
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
        let mut links = vec![(Handshake { rank: 0, ..handshake }, first)];
        for (place, port) in ports.chunks_exact(2).take(rank - 1).enumerate() {
            let port = u16::from_le_bytes([port[0], port[1]]);
            links.push((Handshake { rank: place as u32 + 1, ..handshake }, connect(port)?));
        }
        links.extend(own.accept(rank + 1..size, &|| Ok(()))?);
        connected(rank, links)
    }

    /// Accepts the connections of the processes with these ranks, and returns them in order of rank.
    fn accept(
        &self,
        wanted: std::ops::Range<usize>,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<(Handshake, TcpStream)>> {
        let began = Instant::now();
        let mut come: Vec<(Handshake, TcpStream)> = Vec::new();
        while come.len() < wanted.len() {
            check()?;
            if began.elapsed() > CONNECT_TIMEOUT {
                let missing: Vec<String> = wanted
                    .clone()
                    .filter(|rank| !come.iter().any(|(handshake, _)| handshake.rank as usize == *rank))
                    .map(|rank| rank.to_string())
                    .collect();
                return Err(failed(&format!(
                    "of {} processes, {} did not connect within {} s",
                    self.size,
                    missing.join(", "),
                    CONNECT_TIMEOUT.as_secs()
                )));
            }
            let Ok((mut stream, _)) = self.listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            // A connection that sends no valid hello is not of this run.
            let Ok(Some(handshake)) = read_handshake(&mut stream) else { continue };
            if !handshake.secret.is(&self.secret) {
                continue;
            }
            // Send our version before refusing another one, so that the peer can report it.
            let answered = stream.write_all(&VERSION.to_le_bytes());
            if handshake.version != VERSION {
                return Err(other_version(handshake.version));
            }
            let rank = handshake.rank as usize;
            let known = come.iter().any(|(known, _)| known.rank == handshake.rank);
            if handshake.size as usize != self.size || !wanted.contains(&rank) || known {
                return Err(failed(&format!(
                    "a process connected as number {rank} of {}, which is not expected",
                    handshake.size
                )));
            }
            answered.map_err(|error| {
                failed(&format!(
                    "process {rank} closed its connection at once: \
                {error}"
                ))
            })?;
            come.push((handshake, stream));
        }
        come.sort_by_key(|(handshake, _)| handshake.rank);
        Ok(come)
    }
}

fn read_handshake(stream: &mut TcpStream) -> io::Result<Option<Handshake>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let mut bytes = [0; Handshake::BYTES];
    stream.read_exact(&mut bytes)?;
    Ok(Handshake::from_bytes(bytes))
}

fn connected(rank: usize, others: Vec<(Handshake, TcpStream)>) -> Result<Peers> {
    let mut links: Vec<Option<PeerLink>> = (0..others.len() + 1).map(|_| None).collect();
    for (handshake, stream) in others {
        let link =
            PeerLink::new(stream).map_err(|error| failed(&format!("a connection was lost: {error}")))?;
        links[handshake.rank as usize] = Some(link);
    }
    Ok(Peers::new(rank, links))
}

fn other_version(theirs: u32) -> Error {
    failed(&format!(
        "a process has version {theirs} of the protocol between processes, this one has {VERSION}"
    ))
    .help("run all processes with one build of mopd")
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
        let handshake = Handshake { version, rank: 1, size: 2, port: 1, secret };
        stream.write_all(&handshake.to_bytes()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        u32::from_le_bytes(answer)
    }
}
