//! Text files that gzip may have compressed.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use mopd_store::regular;

/// The first bytes of a file that gzip has compressed.
const GZIP: [u8; 2] = [0x1F, 0x8B];

/// The text of a file.
pub fn text_of(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut magic = Vec::new();
    regular::open(path)?.take(GZIP.len() as u64).read_to_end(&mut magic)?;
    let file = regular::open(path)?;
    Ok(if magic == GZIP { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) })
}

/// The ending of a file's name, in lower case; of `rows.jsonl.gz` that of the text in it.
pub fn ending(path: &Path) -> Option<String> {
    Some(without_gz(path).extension()?.to_str()?.to_ascii_lowercase())
}

/// The path without the ending of gzip.
pub fn without_gz(path: &Path) -> PathBuf {
    let is_gz = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    if is_gz { path.with_extension("") } else { path.to_owned() }
}
