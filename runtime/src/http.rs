//! What a server answered, read once for all who ask servers: of rewards, of teachers.

use ureq::http::{Response, StatusCode};
use ureq::{Body, Error};

use crate::quote::quote;

/// Bytes of what a server says when it refuses.
const WORDS: u64 = 2000;

/// An answer that is not good.
pub enum Refused {
    /// The body did not arrive, or is longer than is read.
    Lost(Error),
    /// What was answered, in words behind the server's name.
    Status(StatusCode, String),
}

/// The body of a good answer, of `longest` bytes at most. `answered` begins the words about any other:
/// `answered`, `answered /v1/models`.
pub fn body(mut response: Response<Body>, longest: u64, answered: &str) -> Result<Vec<u8>, Refused> {
    let status = response.status();
    let limit = if status.is_success() { longest } else { WORDS };
    let said = response.body_mut().with_config().limit(limit).read_to_vec();
    if status.is_success() {
        return said.map_err(Refused::Lost);
    }
    let said = said.unwrap_or_default();
    Err(Refused::Status(
        status,
        match String::from_utf8_lossy(&said).trim() {
            "" => format!("{answered} with status {status}"),
            said => format!("{answered} with status {status}: {}", quote(said)),
        },
    ))
}
