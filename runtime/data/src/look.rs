//! The beginning of data sources, for checks that must not take as long as a run: the columns, and whether a
//! run could read the first rows.

use std::ops::ControlFlow;
use std::path::Path;

use crate::error::{DataError, DataProblem};
use crate::files::{self, path_as_written};
use crate::located::{SourceFiles, files_of};
use crate::reading::{RowOutcome, RowReader};
use crate::reads::RowsRead;
use crate::rows::{self, Reach, ReadFile, RowProjection};
use crate::unread::DataWarning;

/// The most that is read of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    pub rows: u64,
    /// Of each file.
    pub bytes: u64,
}

/// What the beginning of a source shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The rows that were read and are no turns of others.
    pub read: u64,
    /// The rows of the source, where they are known.
    pub rows: Option<u64>,
    /// What is most likely a slip in those that were read.
    pub warnings: Vec<DataWarning>,
}

/// Reads the first rows of a source as a run would read all of them.
///
/// # Errors
/// The first thing for which a run would refuse the source.
pub fn look(base: &Path, reads: &RowsRead, extent: Extent) -> Result<Look, DataError> {
    let request = reads.request(None);
    let SourceFiles { name: path, files } = files_of(base, request.source)?;
    let mut reader = RowReader::new(request);
    let columns = reader.columns().to_vec();
    let (mut read, mut seen, mut whole) = (0, 0, true);
    for file in &files {
        let left = extent.rows.saturating_sub(seen);
        if left == 0 {
            whole = false;
            break;
        }
        let wanted = RowProjection { columns: &columns, whole: request.whole };
        let mut of_file = 0;
        let take = &mut |mut row: rows::DataRow| {
            if of_file == left {
                return Ok(ControlFlow::Break(()));
            }
            of_file += 1;
            match reader.read(&mut row)? {
                RowOutcome::Read(row) => reads.fits(&row)?,
                RowOutcome::LeftOut => return Ok(ControlFlow::Continue(())),
                RowOutcome::Enough => return Ok(ControlFlow::Break(())),
            }
            read += 1;
            Ok(ControlFlow::Continue(()))
        };
        let ReadFile { whole: of_whole, .. } =
            rows::read(file, wanted, Reach::First { bytes: extent.bytes }, take)?;
        seen += of_file;
        whole &= of_whole;
    }
    let enough = reader.has_enough();
    if read == 0 && (whole || enough) {
        let problem = match reader.left_out() {
            0 => DataProblem::Empty,
            rows => DataProblem::AllLeftOut { rows },
        };
        return Err(DataError::of_file(&path, problem));
    }
    let counted = || {
        let all = files.iter().map(|file| rows::count(file).ok().flatten()).sum::<Option<u64>>()?;
        let limit = request.source.limit.map_or(u64::MAX, u64::from);
        let every = request.source.filter.is_none() && request.source.max_prompt_tokens.is_none();
        every.then_some(all.min(limit))
    };
    let rows = if whole || enough { Some(read) } else { counted() };
    Ok(Look { read, rows, warnings: reader.warnings() })
}

/// The names of the columns of a source's first rows, each once, in their order.
pub fn columns(
    base: &Path,
    path: &str,
    split: Option<&str>,
    extent: Extent,
) -> Result<Vec<String>, DataError> {
    let mut columns: Vec<String> = Vec::new();
    for file in files::find(&path_as_written(base, path), split)?.iter().take(1) {
        if let Some(header) = rows::header(file)? {
            return Ok(header);
        }
        let mut left = extent.rows;
        let take = &mut |row: rows::DataRow| {
            for column in row.whole.into_iter().flat_map(|row| row.into_keys()) {
                if !columns.contains(&column) {
                    columns.push(column);
                }
            }
            left = left.saturating_sub(1);
            Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        };
        let wanted = RowProjection { columns: &[], whole: true };
        let read = rows::read(file, wanted, Reach::First { bytes: extent.bytes }, take);
        // The rows before a faulty one have columns, too.
        if let Err(error) = read
            && columns.is_empty()
        {
            return Err(error);
        }
    }
    Ok(columns)
}
