//! Between paths and `file:` addresses.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use lsp_types::Uri;

/// The path that a `file:` address names; none for other schemes.
pub fn to_path(uri: &Uri) -> Option<PathBuf> {
    let rest = uri.as_str().strip_prefix("file://")?;
    // Between the slashes there may be a host; ours is the only one with files.
    let path = &rest[rest.find('/')?..];
    let path = String::from_utf8(decode(path)).ok()?;
    // `/c:/x` is `c:/x` on Windows.
    let drive = path.as_bytes().get(2) == Some(&b':') && cfg!(windows);
    Some(PathBuf::from(if drive { path[1..].to_owned() } else { path }))
}

pub fn of_path(path: &Path) -> Option<Uri> {
    let path = if cfg!(windows) { path.to_str()?.replace('\\', "/") } else { path.to_str()?.to_owned() };
    let mut text = String::from(if path.starts_with('/') { "file://" } else { "file:///" });
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(byte))
            }
            _ => text += &format!("%{byte:02X}"),
        }
    }
    Uri::from_str(&text).ok()
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_way_there_and_back() {
        for path in ["/a/b.mopd", "/a b/é𝒜%20#?.mopd", "/x/back\\slash.mopd"] {
            let uri = of_path(Path::new(path)).expect("an address");
            assert_eq!(to_path(&uri), Some(PathBuf::from(path)), "{}", uri.as_str());
        }
        let encoded = Uri::from_str("file:///a%3A/b%20c.mopd").expect("an address");
        assert_eq!(to_path(&encoded), Some(PathBuf::from("/a:/b c.mopd")));
        assert_eq!(to_path(&Uri::from_str("untitled:Untitled-1").expect("an address")), None);
    }
}
