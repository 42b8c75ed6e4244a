//! Files with separated cells, as spreadsheets write them (RFC 4180): a header, then one row per line. All
//! cells are text.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;

use csv_core::{ReadRecordResult, ReaderBuilder, Terminator};

use super::lines::BYTE_ORDER_MARK;
use super::{Reach, ReadFile, RowProjection, RowVisitor, TextFile, check_columns};
use crate::error::{DataError, DataProblem, RowPlace};
use crate::json::{Json, Object};

/// Reads a file. Blank lines, a byte-order mark and carriage returns before a line's end are skipped. Line
/// breaks inside quotes are text.
pub fn read(
    path: &Path,
    separator: u8,
    wanted: RowProjection,
    reach: Reach,
    take: &mut RowVisitor,
) -> Result<ReadFile, DataError> {
    let unreadable = |error: std::io::Error| DataError::of_file(path, DataProblem::unreadable(path, &error));
    let mut file = TextFile::open(path, reach).map_err(unreadable)?;
    let mut hasher = reach.hasher();
    let mut header: Option<Vec<String>> = None;
    let mut parser = Parser::new(separator);
    let (mut record, mut lines, mut done) = (Vec::new(), 0u32, false);
    loop {
        record.clear();
        let place = RowPlace::Line(lines.saturating_add(1));
        let failed = |problem| DataError::new(path, place, problem);
        // A record continues on the next line while a quote is open.
        let mut open = false;
        loop {
            let start = record.len();
            let count = file.line(&mut record).map_err(unreadable)?.map_err(failed)?;
            if file.is_cut(&record[start..]) {
                return Ok(ReadFile::BEGINNING);
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&record[start..]);
            }
            if count == 0 && open {
                return Err(failed(DataProblem::OpenQuote));
            }
            if lines == 0 && record.starts_with(BYTE_ORDER_MARK) {
                record.drain(..BYTE_ORDER_MARK.len());
            }
            lines = lines.saturating_add(u32::from(count > 0));
            if count == 0 {
                return match header {
                    Some(_) => Ok(ReadFile::whole(hasher)),
                    None => Err(DataError::of_file(path, DataProblem::Empty)),
                };
            }
            let blank = !open && is_blank(&record, separator);
            open = !done && !blank && !parser.line(&record[start..]);
            if !open {
                break;
            }
        }
        if done || is_blank(&record, separator) {
            continue;
        }
        check_columns(parser.ended).map_err(failed)?;
        let cells = parser.cells(&record).map_err(failed)?;
        let Some(names) = &header else {
            // A quoted name may contain a carriage return before a line feed.
            if cells.iter().any(|name| name.replace("\r\n", "").contains('\r')) {
                return Err(DataError::of_file(path, DataProblem::CarriageReturns));
            }
            let mut known = HashSet::new();
            if let Some(twice) = cells.iter().find(|name| !known.insert(*name)) {
                return Err(failed(DataProblem::ColumnTwice { column: twice.clone() }));
            }
            header = Some(cells);
            continue;
        };
        if cells.len() != names.len() {
            return Err(failed(DataProblem::CellCount { found: cells.len(), header: names.len() }));
        }
        let object: Object = names.iter().cloned().zip(cells.into_iter().map(Json::String)).collect();
        done = take(wanted.of_object(place, object)).map_err(failed)? == ControlFlow::Break(());
        if done && reach.stops_early() {
            return Ok(ReadFile::BEGINNING);
        }
    }
}

/// Whether a line is blank. A separator makes cells, even if it is white space.
fn is_blank(line: &[u8], separator: u8) -> bool {
    line.iter().all(|byte| byte.is_ascii_whitespace() && *byte != separator)
}

/// Splits records into cells, line by line.
struct Parser {
    reader: csv_core::Reader,
    /// The cells of a record, end to end, and the end of each. Both grow as needed.
    text: Vec<u8>,
    ends: Vec<usize>,
    /// Used length of `text`; `ended` is that of `ends`.
    written: usize,
    ended: usize,
}

impl Parser {
    fn new(separator: u8) -> Parser {
        let reader = ReaderBuilder::new().delimiter(separator).terminator(Terminator::Any(b'\n')).build();
        Parser { reader, text: vec![0; 1024], ends: vec![0; 32], written: 0, ended: 0 }
    }

    /// Takes a line. Returns whether the record ends with it, because no quote is open.
    fn line(&mut self, line: &[u8]) -> bool {
        // The last line of a file may lack a line feed.
        let mut parts = [line.strip_suffix(b"\n").unwrap_or(line), b"\n"].into_iter();
        let mut input = parts.next().unwrap_or_default();
        loop {
            let (result, read, written, ended) =
                self.reader.read_record(input, &mut self.text[self.written..], &mut self.ends[self.ended..]);
            input = &input[read..];
            self.written += written;
            self.ended += ended;
            match result {
                ReadRecordResult::InputEmpty => match parts.next() {
                    Some(part) => input = part,
                    None => return false,
                },
                ReadRecordResult::OutputFull => self.text.resize(2 * self.text.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record | ReadRecordResult::End => return true,
            }
        }
    }

    /// The cells of a record of which all lines were taken.
    fn cells(&mut self, record: &[u8]) -> Result<Vec<String>, DataProblem> {
        let (written, ended) = (std::mem::take(&mut self.written), std::mem::take(&mut self.ended));
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let text = &self.text[..written];
        let (text, ends) = match record.strip_suffix(b"\r") {
            // A carriage return before the line's end is not part of the last cell.
            Some(_) => (text.strip_suffix(b"\r").unwrap_or(text), &self.ends[..ended]),
            None => (text, &self.ends[..ended]),
        };
        std::str::from_utf8(record).map_err(|error| DataProblem::not_utf8(record, &error))?;
        let mut start = 0;
        let cell = |end: &usize| {
            let end = (*end).min(text.len());
            let cell = String::from_utf8_lossy(&text[start..end]).into_owned();
            start = end;
            cell
        };
        Ok(ends.iter().map(cell).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, separator: u8) -> Vec<String> {
        let mut parser = Parser::new(separator);
        let lines: Vec<bool> = text.split_inclusive('\n').map(|line| parser.line(line.as_bytes())).collect();
        assert_eq!(lines.iter().position(|ended| *ended), Some(lines.len() - 1), "{text:?}");
        parser.cells(text.as_bytes()).unwrap()
    }

    #[test]
    fn cells_are_split_as_spreadsheets_write_them() {
        let long = format!("{},\"{}\"", "a,".repeat(99), "x".repeat(5000));
        let cells: Vec<String> =
            std::iter::repeat_n("a".to_owned(), 99).chain(["".to_owned(), "x".repeat(5000)]).collect();
        assert_eq!(split(&long, b','), cells);
        let cases: [(&str, &[&str]); 9] = [
            ("\"cr\r\nlf\"\r\n", &["cr\r\nlf"]),
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
            assert_eq!(split(text, b','), wanted, "{text:?}");
        }
        assert_eq!(split("a,b\tc", b'\t'), ["a,b", "c"]);
        // A line of tabs has cells, all of them empty.
        assert!(!is_blank(b"\t\n", b'\t') && is_blank(b"\t\n", b',') && is_blank(b" \r\n", b'\t'));
    }
}
