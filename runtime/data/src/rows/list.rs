//! Files with one JSON list of objects, as Alpaca's data and `json.dump` write them.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use serde::de::IgnoredAny;

use super::{LONGEST as LONGEST_ROW, Reach, ReadFile, RowProjection, RowVisitor, lines};
use crate::compressed::text_of;
use crate::error::{DataError, DataProblem, RowPlace};

/// Most bytes of a list, which is read as a whole.
const LONGEST: u64 = 4 << 30;

/// Reads a file. The number of a row is its place in the list, from 1.
pub fn read(
    path: &Path,
    wanted: RowProjection,
    reach: Reach,
    take: &mut RowVisitor,
) -> Result<ReadFile, DataError> {
    let of_file = |problem| DataError::of_file(path, problem);
    let unreadable = |error: std::io::Error| of_file(DataProblem::unreadable(path, &error));
    let mut bytes = Vec::new();
    text_of(path).map_err(unreadable)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(of_file(DataProblem::TooLong { mebibytes: (LONGEST >> 20) as usize }));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| of_file(DataProblem::not_utf8(&bytes, &error)))?;
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    let (mut row, mut enough) = (0, false);
    rest = rest.strip_prefix('[').unwrap_or(rest).trim_start();
    while !enough && !rest.starts_with(']') {
        row += 1;
        let failed = |problem| DataError::new(path, RowPlace::Row(row), problem);
        let mut elements = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        let element = match elements.next() {
            Some(Ok(IgnoredAny)) if elements.byte_offset() > LONGEST_ROW => {
                return Err(failed(DataProblem::TooLong { mebibytes: LONGEST_ROW >> 20 }));
            }
            Some(Ok(IgnoredAny)) => &rest[..elements.byte_offset()],
            Some(Err(error)) => return Err(failed(DataProblem::not_json(first_line(rest), &error))),
            None => return Err(failed(DataProblem::OpenList)),
        };
        rest = rest[element.len()..].trim_start();
        let flow = lines::object(element, RowPlace::Row(row), wanted).and_then(&mut *take);
        enough = flow.map_err(failed)? == ControlFlow::Break(());
        rest = match rest.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if rest.starts_with(']') => rest,
            None => return Err(failed(DataProblem::OpenList)),
        };
    }
    let mut hasher = reach.hasher();
    if let Some(hasher) = &mut hasher {
        hasher.update(&bytes);
    }
    Ok(if enough && reach.stops_early() { ReadFile::BEGINNING } else { ReadFile::whole(hasher) })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
