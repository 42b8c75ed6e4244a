//! Files with one JSON object per line.

use std::ops::ControlFlow;
use std::path::Path;

use super::{DataRow, Reach, ReadFile, RowProjection, RowVisitor, TextFile, check_columns};
use crate::error::{DataError, DataProblem, RowPlace};
use crate::json::{Json, describe};

pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Reads a file. Blank lines, a byte-order mark and carriage returns before a line's end are skipped.
pub fn read(
    path: &Path,
    wanted: RowProjection,
    reach: Reach,
    take: &mut RowVisitor,
) -> Result<ReadFile, DataError> {
    let unreadable = |error: std::io::Error| DataError::of_file(path, DataProblem::unreadable(path, &error));
    let mut file = TextFile::open(path, reach).map_err(unreadable)?;
    let mut hasher = reach.hasher();
    let (mut text, mut number, mut done) = (Vec::new(), 0u32, false);
    loop {
        text.clear();
        let place = RowPlace::Line(number.saturating_add(1));
        let count = file.line(&mut text).map_err(unreadable)?;
        let count = count.map_err(|problem| DataError::new(path, place, problem))?;
        if file.is_cut(&text) {
            return Ok(ReadFile::BEGINNING);
        }
        if count == 0 {
            return Ok(ReadFile::whole(hasher));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&text);
        }
        number = number.saturating_add(1);
        let content = if number == 1 { text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text) } else { &text };
        if done || content.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let flow = row(content, place, wanted).and_then(&mut *take);
        done = flow.map_err(|problem| DataError::new(path, place, problem))? == ControlFlow::Break(());
        if done && reach.stops_early() {
            return Ok(ReadFile::BEGINNING);
        }
    }
}

fn row(line: &[u8], place: RowPlace, wanted: RowProjection) -> Result<DataRow, DataProblem> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).map_err(|error| DataProblem::not_utf8(line, &error))?;
    object(line, place, wanted)
}

/// The row of the text of an object.
pub(super) fn object(line: &str, place: RowPlace, wanted: RowProjection) -> Result<DataRow, DataProblem> {
    let value = Json::parse(line).map_err(|error| DataProblem::not_json(line, &error))?;
    match value {
        Json::Object(object) => {
            check_columns(object.len())?;
            Ok(wanted.of_object(place, object))
        }
        other => Err(DataProblem::NotAnObject { found: describe(&other) }),
    }
}
