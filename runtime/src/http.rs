//! Reads the replies of HTTP servers, for all clients here: of rewards and of teachers.

use std::io::Read;

use ureq::http::{Response, StatusCode};
use ureq::{Body, Error};

use serde_json::Value;

use crate::quote::{quote, quote_sentence};

/// Most bytes that are read of a server's error message.
const WORDS: u64 = 2000;

/// Why a reply is not usable.
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
    if status.is_success() {
        return response.body_mut().with_config().limit(longest).read_to_vec().map_err(Refused::Lost);
    }
    // A long error page is cut. A limit of the body would fail, and nothing would be left of it.
    let mut said = Vec::new();
    let _ = response.body_mut().as_reader().take(WORDS).read_to_end(&mut said);
    Err(Refused::Status(
        status,
        match (sentence(&said), String::from_utf8_lossy(&said).trim()) {
            (Some(sentence), _) => format!("{answered} with status {status}: {}", quote_sentence(&sentence)),
            (None, "") => format!("{answered} with status {status}"),
            (None, said) => format!("{answered} with status {status}: {}", quote(said)),
        },
    ))
}

/// The error message in a JSON reply, where OpenAI, vLLM and FastAPI put it.
fn sentence(said: &[u8]) -> Option<String> {
    let said: Value = serde_json::from_slice(said).ok()?;
    let places = [&said["error"]["message"], &said["error"], &said["message"], &said["detail"]];
    places.into_iter().find_map(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_error_are_found_in_its_json() {
        for said in [
            r#"{"error":{"message":"too long","type":"BadRequestError","code":400}}"#,
            r#"{"error":"too long"}"#,
            r#"{"object":"error","message":"too long"}"#,
            r#"{"detail":"too long"}"#,
        ] {
            assert_eq!(sentence(said.as_bytes()).as_deref(), Some("too long"), "{said}");
        }
        for said in ["too long", r#"{"detail":[{"msg":"too long"}]}"#, "[]", ""] {
            assert_eq!(sentence(said.as_bytes()), None, "{said}");
        }
    }
}
