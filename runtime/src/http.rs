//! Reads the replies of HTTP servers, for the clients of rewards and of teachers.

use std::io::Read;

use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Body, Error};

use crate::quote::{quote, quote_sentence};

/// Most bytes to read of a server's error message.
const MAX_ERROR_BYTES: u64 = 2000;

/// Why a reply is not usable.
pub enum HttpFailure {
    /// The body did not arrive, or exceeds the limit.
    Lost(Error),
    /// The status of a failure, and its description, to be written after the server's name.
    Status(StatusCode, String),
}

/// The body of a successful reply, of at most `longest` bytes. `answered` begins the description of any other
/// reply: `answered`, `answered /v1/models`.
pub fn body(mut response: Response<Body>, longest: u64, answered: &str) -> Result<Vec<u8>, HttpFailure> {
    let status = response.status();
    if status.is_success() {
        return response.body_mut().with_config().limit(longest).read_to_vec().map_err(HttpFailure::Lost);
    }
    // Cuts a long error page. With a limit on the body, reading it would fail and the text would be lost.
    let mut said = Vec::new();
    let _ = response.body_mut().as_reader().take(MAX_ERROR_BYTES).read_to_end(&mut said);
    Err(HttpFailure::Status(
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
