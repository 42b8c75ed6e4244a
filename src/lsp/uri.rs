//! Conversion between paths and `file:` URIs.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use lsp_types::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters that are not encoded in the path of a URI (RFC 3986, section 2.3), and the separator.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The path of a `file:` URI; `None` for other schemes. The host is ignored: files are always on this
/// machine.
pub fn to_path(uri: &Uri) -> Option<PathBuf> {
    if uri.scheme()?.as_str() != "file" {
        return None;
    }
    let path = uri.path().as_estr().decode().into_string().ok()?;
    // `/c:/x` is `c:/x` on Windows.
    let drive = path.as_bytes().get(2) == Some(&b':') && cfg!(windows);
    Some(PathBuf::from(if drive { &path[1..] } else { &*path }))
}

pub fn of_path(path: &Path) -> Option<Uri> {
    let path = if cfg!(windows) { path.to_str()?.replace('\\', "/") } else { path.to_str()?.to_owned() };
    let root = if path.starts_with('/') { "file://" } else { "file:///" };
    Uri::from_str(&format!("{root}{}", utf8_percent_encode(&path, ENCODED))).ok()
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
