//! Files of cells between separators, as spreadsheets write them (RFC 4180): a header, then a row a line. All
//! cells are text.

use std::collections::HashSet;
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::Path;

use mopd_store::regular;

use super::error::{DataError, Place, Problem};
use super::json::{Json, Object};
use super::rows::{Take, Wanted, line};

/// Blank lines, a byte-order mark and carriage returns before a line's end are skipped. Line breaks inside
/// quotes are text.
pub fn read(path: &Path, separator: u8, wanted: Wanted, take: &mut Take) -> Result<String, DataError> {
    let unreadable = |error: std::io::Error| DataError::of_file(path, Problem::unreadable(path, &error));
    let mut file = BufReader::with_capacity(1 << 20, regular::open(path).map_err(unreadable)?);
    let mut hasher = blake3::Hasher::new();
    let mut header: Option<Vec<String>> = None;
    let (mut record, mut lines, mut done) = (Vec::new(), 0u32, false);
    loop {
        record.clear();
        let place = Place::Line(lines.saturating_add(1));
        let failed = |problem| DataError::new(path, place, problem);
        // A record goes on over the next line while a quote is open.
        let mut open = false;
        loop {
            let start = record.len();
            let count = line(&mut file, &mut record).map_err(unreadable)?.map_err(failed)?;
            hasher.update(&record[start..]);
            lines = lines.saturating_add(u32::from(count > 0));
            open ^= record[start..].iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            if count == 0 && open && !done {
                return Err(failed(Problem::OpenQuote));
            }
            if count == 0 || !open || done {
                break;
            }
        }
        if record.is_empty() {
            return match header {
                Some(_) => Ok(hasher.finalize().to_hex().to_string()),
                None => Err(DataError::of_file(path, Problem::Empty)),
            };
        }
        let content = if place == Place::Line(1) {
            record.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&record)
        } else {
            &record
        };
        if done || content.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let cells = split(content, separator).map_err(failed)?;
        let Some(names) = &header else {
            let mut known = HashSet::new();
            if let Some(twice) = cells.iter().find(|name| !known.insert(*name)) {
                return Err(failed(Problem::ColumnTwice { column: twice.clone() }));
            }
            header = Some(cells);
            continue;
        };
        if cells.len() != names.len() {
            return Err(failed(Problem::CellCount { found: cells.len(), header: names.len() }));
        }
        let object: Object = names.iter().cloned().zip(cells.into_iter().map(Json::String)).collect();
        done = take(wanted.of_object(place, object)).map_err(failed)? == ControlFlow::Break(());
    }
}

/// The cells of a record, line end included.
fn split(record: &[u8], separator: u8) -> Result<Vec<String>, Problem> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let text = std::str::from_utf8(record).map_err(|error| Problem::not_utf8(record, &error))?;
    let separator = char::from(separator);
    let mut cells = vec![String::new()];
    let (mut quoted, mut characters) = (false, text.chars().peekable());
    while let Some(character) = characters.next() {
        let cell = cells.last_mut().expect("a record has at least one cell");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if cell.is_empty() => quoted = true,
            _ if character == separator && !quoted => cells.push(String::new()),
            _ => cell.push(character),
        }
    }
    Ok(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_split_as_spreadsheets_write_them() {
        let cases: [(&str, &[&str]); 8] = [
            ("a,b\r\n", &["a", "b"]),
            ("a,,", &["a", "", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"say \"\"so\"\"\",\"\"", &["say \"so\"", ""]),
            ("\"two\nlines\",x\n", &["two\nlines", "x"]),
            (" a , b ", &[" a ", " b "]),
            ("in\"ches,2", &["in\"ches", "2"]),
            ("é,日本", &["é", "日本"]),
        ];
        for (text, wanted) in cases {
            assert_eq!(split(text.as_bytes(), b',').unwrap(), wanted, "{text:?}");
        }
        assert_eq!(split(b"a,b\tc", b'\t').unwrap(), ["a,b", "c"]);
    }
}
