//! Numbers as they stand in a mapped file, turned into f32 when somebody asks.

mod encoding;
mod file;

use std::ops::Range;
use std::sync::Arc;

pub use self::encoding::NumberEncoding;
pub use self::file::MappedFile;

/// One matrix or vector in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    file: Arc<MappedFile>,
    /// Of the file's bytes.
    range: Range<usize>,
    encoding: NumberEncoding,
    /// A vector has one row.
    rows: usize,
    columns: usize,
    order: RowOrder,
    /// Added to every number.
    shift: f32,
}

/// How the rows of a projection to queries or keys are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// The pair that rotary positions turn is half a head apart, as everywhere here.
    Halves,
    /// The pair are neighbours, as in GGUF files of Llama: row `2 i + j` of a head is row `j * head_width / 2
    /// + i` here.
    Neighbours { head_width: usize },
}

impl Stored {
    /// None where the range lies outside the file or does not hold as many numbers.
    pub fn new(
        file: Arc<MappedFile>,
        range: Range<usize>,
        encoding: NumberEncoding,
        rows: usize,
        columns: usize,
    ) -> Option<Stored> {
        let expected = encoding.bytes(columns)?.checked_mul(rows)?;
        let inside = range.start <= range.end && range.end <= file.bytes().len();
        let stored = Stored { file, range, encoding, rows, columns, order: RowOrder::Halves, shift: 0.0 };
        (inside && stored.range.len() == expected).then_some(stored)
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> NumberEncoding {
        self.encoding
    }

    /// Some rows as a matrix of their own; none where there are not as many.
    pub fn narrow(&self, first: usize, rows: usize) -> Option<Stored> {
        if first.checked_add(rows)? > self.rows || self.order != RowOrder::Halves {
            return None;
        }
        let row = self.row_bytes();
        let start = self.range.start + first * row;
        Some(Stored { range: start..start + rows * row, rows, ..self.clone() })
    }

    /// A vector as a matrix of one column; none where it is written in blocks.
    pub fn column(self) -> Option<Stored> {
        let stored = Stored { rows: self.columns, columns: 1, ..self };
        (self.rows == 1 && stored.encoding.bytes(1).is_some()).then_some(stored)
    }

    /// The same numbers, taken to be ordered like this; none where rows do not make whole heads.
    pub fn ordered(self, order: RowOrder) -> Option<Stored> {
        match order {
            RowOrder::Neighbours { head_width }
                if head_width == 0
                    || !head_width.is_multiple_of(2)
                    || !self.rows.is_multiple_of(head_width) =>
            {
                None
            }
            order => Some(Stored { order, ..self }),
        }
    }

    pub fn shifted(self, shift: f32) -> Stored {
        Stored { shift, ..self }
    }

    /// Whether the bytes are the numbers in order.
    fn is_plain(&self) -> bool {
        self.order == RowOrder::Halves && self.shift == 0.0
    }

    fn row_bytes(&self) -> usize {
        self.encoding.bytes(self.columns).expect("asked when it was made")
    }

    fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// The bytes as they are, where they are the numbers in order.
    pub fn plain_bytes(&self) -> Option<&[u8]> {
        self.is_plain().then(|| self.bytes())
    }

    /// Copies such bytes from the one at `start` on: see [`MappedFile::copy`].
    pub fn copy_plain(&self, start: usize, into: &mut [u8]) {
        assert!(self.is_plain() && start + into.len() <= self.range.len(), "bytes in order, and no others");
        self.file.copy(self.range.start + start, into);
    }

    /// The numbers where they are, if they are f32 and the file places them well.
    pub fn as_f32(&self) -> Option<&[f32]> {
        if self.encoding != NumberEncoding::F32 || !self.is_plain() || cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes()).ok().filter(|numbers: &&[f32]| numbers.len() == self.len())
    }

    /// Writes all numbers, row by row; `into` has as many places.
    pub fn read(&self, into: &mut [f32]) {
        assert_eq!(into.len(), self.len(), "places for a stored matrix");
        self.read_rows(0, into);
    }

    /// The same, and lets go of what it looked at: of a large matrix no more than a piece is in memory beside
    /// the numbers.
    pub fn read_once(&self, into: &mut [f32]) {
        assert_eq!(into.len(), self.len(), "places for a stored matrix");
        let mut rest = into;
        for piece in self.pieces() {
            let (these, others) = rest.split_at_mut(piece.len());
            piece.read(these);
            piece.release();
            rest = others;
        }
    }

    /// Writes whole rows from `first` on, as many as `into` has places for.
    fn read_rows(&self, first: usize, into: &mut [f32]) {
        let row = self.row_bytes();
        match self.order {
            RowOrder::Halves => {
                let rows = into.len().checked_div(self.columns).unwrap_or(0);
                self.encoding.decode(&self.bytes()[first * row..(first + rows) * row], into);
            }
            RowOrder::Neighbours { head_width } => {
                for (index, values) in into.chunks_mut(self.columns.max(1)).enumerate() {
                    let (head, place) = ((first + index) / head_width, (first + index) % head_width);
                    let half = head_width / 2;
                    let source = head * head_width + 2 * (place % half) + place / half;
                    self.encoding.decode(&self.bytes()[source * row..(source + 1) * row], values);
                }
            }
        }
        if self.shift != 0.0 {
            into.iter_mut().for_each(|value| *value += self.shift);
        }
    }

    /// Hands out all numbers in order, some whole rows at a time, so that they need not all be in memory.
    pub fn for_each_block(&self, mut take: impl FnMut(&[f32])) {
        const NUMBERS: usize = 1 << 16;
        if let Some(numbers) = self.as_f32() {
            return take(numbers);
        }
        let rows = (NUMBERS / self.columns.max(1)).max(1);
        let mut block = Vec::new();
        for first in (0..self.rows).step_by(rows) {
            block.resize(rows.min(self.rows - first) * self.columns, 0.0);
            self.read_rows(first, &mut block);
            take(&block);
        }
    }

    /// The same numbers in pieces of whole rows, in order: of a large matrix only a piece need be in memory
    /// at one time.
    pub fn pieces(&self) -> Vec<Stored> {
        const BYTES: usize = 16 << 20;
        let rows = (BYTES / self.row_bytes().max(1)).max(1);
        let pieces =
            (0..self.rows).step_by(rows).map(|first| self.narrow(first, rows.min(self.rows - first)));
        // Rows in another order can't be told apart.
        pieces.collect::<Option<Vec<Stored>>>().unwrap_or_else(|| vec![self.clone()])
    }

    /// Says that all of them will be looked at now, so that the system brings them at once and not page by
    /// page.
    pub fn expect(&self) {
        self.file.expect(self.range.clone());
    }

    /// Lets go of the memory that looking at the numbers took.
    pub fn release(&self) {
        self.file.release(self.range.clone());
    }
}
