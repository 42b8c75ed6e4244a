//! A connection to one process, and the messages on it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::PIECE;

/// The timeout for the next bytes of a message that has begun.
const STALLED: Duration = Duration::from_secs(60);

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    pub what: u8,
    /// The number of the collective that it belongs to.
    pub number: u64,
    /// Bytes after the header.
    pub length: u64,
}

impl MessageHeader {
    const BYTES: usize = 17;

    fn to_bytes(self) -> [u8; MessageHeader::BYTES] {
        let mut bytes = [0; MessageHeader::BYTES];
        bytes[0] = self.what;
        bytes[1..9].copy_from_slice(&self.number.to_le_bytes());
        bytes[9..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; MessageHeader::BYTES]) -> MessageHeader {
        let number = |from: usize| {
            u64::from_le_bytes(bytes[from..from + 8].try_into().expect("eight bytes of a head"))
        };
        MessageHeader { what: bytes[0], number: number(1), length: number(9) }
    }
}

#[derive(Clone)]
pub struct PeerLink(Arc<TcpStream>);

impl PeerLink {
    pub fn new(stream: TcpStream) -> io::Result<PeerLink> {
        // Send small messages at once.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(None)?;
        Ok(PeerLink(Arc::new(stream)))
    }

    pub fn send(&self, head: MessageHeader, bytes: &[u8]) -> io::Result<()> {
        let mut stream = &*self.0;
        stream.write_all(&head.to_bytes())?;
        stream.write_all(bytes)
    }

    /// Waits for the next message.
    pub fn receive(&self) -> io::Result<(MessageHeader, Vec<u8>)> {
        let mut stream = &*self.0;
        let mut head = [0; MessageHeader::BYTES];
        stream.read_exact(&mut head)?;
        let head = MessageHeader::from_bytes(head);
        if head.length == 0 {
            return Ok((head, Vec::new()));
        }
        stream.set_read_timeout(Some(STALLED))?;
        // Beyond a piece of a vector, memory is allocated as bytes arrive, not by the length in the header,
        // which may be wrong.
        let mut bytes = Vec::with_capacity(head.length.min((PIECE * size_of::<f32>()) as u64) as usize);
        stream.take(head.length).read_to_end(&mut bytes)?;
        stream.set_read_timeout(None)?;
        if bytes.len() as u64 != head.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((head, bytes))
    }

    /// Closes the connection, so that reads and writes on either side fail at once.
    pub fn close(&self) {
        // It may be closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
