//! Who may ask a server: programs that know its key, and no web page.

use axum::extract::Request;
use axum::http::HeaderName;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};

use super::transport::RequestRefusal;

pub struct RequestAccess {
    /// Hash of the key that requests must have, so that the comparison takes constant time.
    pub key: Option<blake3::Hash>,
    /// The hosts that requests may name; all where there is no list. A web page whose name resolves to this
    /// machine must not use the server (DNS rebinding).
    pub hosts: Option<Vec<String>>,
}

impl RequestAccess {
    /// Refuses requests that web pages send.
    pub fn is_no_web_page(&self, request: &Request) -> Result<(), RequestRefusal> {
        if text(request, ORIGIN).is_some() {
            return Err(RequestRefusal::new(403, "requests of web pages are not answered"));
        }
        let (Some(hosts), Some(host)) = (&self.hosts, text(request, HOST)) else { return Ok(()) };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        if hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        Err(RequestRefusal::new(403, "this server can only be reached by an address of this machine"))
    }

    /// Whether a request has the key.
    pub fn may(&self, request: &Request) -> bool {
        let Some(key) = &self.key else { return true };
        let given = text(request, AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        given.is_some_and(|given| blake3::hash(given.trim().as_bytes()) == *key)
    }
}

/// A header as text; empty where it is none.
fn text(request: &Request, name: HeaderName) -> Option<&str> {
    request.headers().get(name).map(|value| value.to_str().unwrap_or_default())
}

/// The names by which this machine reaches a server at `address`.
pub fn hosts(address: &str) -> Vec<String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    ["localhost", "127.0.0.1", "[::1]", host].map(str::to_owned).to_vec()
}
