//! Matrices in memory-mapped files, converted to f32 when read.

mod encoding;
mod file;
mod microscaled;

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

pub use self::encoding::NumberEncoding;
pub use self::file::MappedFile;
use self::microscaled::{BLOCK, BLOCK_BYTES, Exponents};

/// One matrix or vector in a file.
#[derive(Clone, Debug)]
pub struct MappedTensor {
    file: Arc<MappedFile>,
    /// Range of bytes in the file.
    range: Range<usize>,
    encoding: NumberEncoding,
    /// A vector has one row.
    rows: usize,
    columns: usize,
    order: RowOrder,
    /// Added to every number when read.
    shift: f32,
    /// Of numbers in MXFP4.
    exponents: Option<Exponents>,
}

/// The order of the rows of a query or key projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// The two rows of a rotary pair are half a head apart, as everywhere here.
    Halves,
    /// The two rows of a rotary pair are neighbours, as in GGUF files of Llama: row `2 i + j` of a head is
    /// row `j * head_dim / 2 + i` here.
    Neighbours { head_dim: usize },
}

impl MappedTensor {
    /// None if the range lies outside the file or does not hold `rows * columns` numbers.
    pub fn new(
        file: Arc<MappedFile>,
        range: Range<usize>,
        encoding: NumberEncoding,
        rows: usize,
        columns: usize,
    ) -> Option<MappedTensor> {
        let expected = encoding.bytes(columns)?.checked_mul(rows)?;
        let inside = range.start <= range.end && range.end <= file.bytes().len();
        let order = RowOrder::Halves;
        let stored =
            MappedTensor { file, range, encoding, rows, columns, order, shift: 0.0, exponents: None };
        (inside && stored.range.len() == expected).then_some(stored)
    }

    /// A stack of matrices in MXFP4, `[matrices, outputs, inputs]`, which is read as `[matrices * inputs,
    /// outputs]`. `blocks` and `exponents` are bytes in files. None if they are not as many.
    pub fn microscaled(
        blocks: (Arc<MappedFile>, Range<usize>),
        exponents: (Arc<MappedFile>, Range<usize>),
        [matrices, inputs, outputs]: [usize; 3],
    ) -> Option<MappedTensor> {
        let count = matrices.checked_mul(outputs)?.checked_mul(inputs / BLOCK)?;
        let ((file, range), (of_exponents, exponents)) = (blocks, exponents);
        let inside = range.end <= file.bytes().len() && exponents.end <= of_exponents.bytes().len();
        let all = inputs.is_multiple_of(BLOCK)
            && range.len() == count.checked_mul(BLOCK_BYTES)?
            && exponents.len() == count;
        let exponents = Exponents { file: of_exponents, range: exponents, inputs };
        let stored = MappedTensor {
            file,
            range,
            encoding: NumberEncoding::U8,
            rows: matrices * inputs,
            columns: outputs,
            order: RowOrder::Halves,
            shift: 0.0,
            exponents: Some(exponents),
        };
        (inside && all).then_some(stored)
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn encoding(&self) -> NumberEncoding {
        self.encoding
    }

    /// Rows `first..first + rows` as a matrix; none if there are fewer, or if they are not in order.
    pub fn narrow(&self, first: usize, rows: usize) -> Option<MappedTensor> {
        if first.checked_add(rows)? > self.rows || self.order != RowOrder::Halves || self.exponents.is_some()
        {
            return None;
        }
        let row = self.row_bytes();
        let start = self.range.start + first * row;
        Some(MappedTensor { range: start..start + rows * row, rows, ..self.clone() })
    }

    /// A vector as a matrix of one column; none if it is a matrix, or encoded in blocks.
    pub fn column(self) -> Option<MappedTensor> {
        let stored = MappedTensor { rows: self.columns, columns: 1, ..self };
        (self.rows == 1 && stored.encoding.bytes(1).is_some()).then_some(stored)
    }

    /// The same bytes with rows in this order; none if the rows don't make whole heads.
    pub fn ordered(self, order: RowOrder) -> Option<MappedTensor> {
        match order {
            RowOrder::Neighbours { head_dim }
                if head_dim == 0 || !head_dim.is_multiple_of(2) || !self.rows.is_multiple_of(head_dim) =>
            {
                None
            }
            order => Some(MappedTensor { order, ..self }),
        }
    }

    pub fn shifted(self, shift: f32) -> MappedTensor {
        MappedTensor { shift, ..self }
    }

    /// Whether the numbers are in order and unshifted in the file.
    fn is_plain(&self) -> bool {
        self.order == RowOrder::Halves && self.shift == 0.0 && self.exponents.is_none()
    }

    fn row_bytes(&self) -> usize {
        self.encoding.bytes(self.columns).expect("asked when it was made")
    }

    fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// The encoded bytes, if the numbers are in order and unshifted.
    pub fn plain_bytes(&self) -> Option<&[u8]> {
        self.is_plain().then(|| self.bytes())
    }

    /// Copies [`MappedTensor::plain_bytes`] from `start` on: see [`MappedFile::copy`].
    pub fn copy_plain(&self, start: usize, into: &mut [u8]) {
        assert!(self.is_plain() && start + into.len() <= self.range.len(), "bytes in order, and no others");
        self.file.copy(self.range.start + start, into);
    }

    /// The numbers in the mapping, without a copy, if they are f32, in order and aligned.
    pub fn as_f32(&self) -> Option<&[f32]> {
        self.numbers(NumberEncoding::F32)
    }

    /// [`MappedTensor::as_f32`] for bf16.
    pub fn as_bf16(&self) -> Option<&[bf16]> {
        self.numbers(NumberEncoding::Bf16)
    }

    fn numbers<T: bytemuck::Pod>(&self, encoding: NumberEncoding) -> Option<&[T]> {
        if self.encoding != encoding || !self.is_plain() || cfg!(target_endian = "big") {
            return None;
        }
        bytemuck::try_cast_slice(self.bytes()).ok().filter(|numbers: &&[T]| numbers.len() == self.len())
    }

    /// Decodes all numbers into `into`, row-major; it must have [`MappedTensor::len`] elements.
    pub fn read(&self, into: &mut [f32]) {
        assert_eq!(into.len(), self.len(), "places for a stored matrix");
        self.read_rows(0, into);
    }

    /// Like [`MappedTensor::read`], but releases the pages that it has read: no more than a piece of a large
    /// matrix is in memory beside the numbers.
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

    /// Decodes whole rows from `first` on, as many as fit into `into`.
    fn read_rows(&self, first: usize, into: &mut [f32]) {
        if let Some(exponents) = &self.exponents {
            for (index, values) in into.chunks_mut(self.columns.max(1)).enumerate() {
                exponents.decode_row(self.bytes(), first + index, values);
            }
            return;
        }
        let row = self.row_bytes();
        match self.order {
            RowOrder::Halves => {
                let rows = into.len().checked_div(self.columns).unwrap_or(0);
                self.encoding.decode(&self.bytes()[first * row..(first + rows) * row], into);
            }
            RowOrder::Neighbours { head_dim } => {
                for (index, values) in into.chunks_mut(self.columns.max(1)).enumerate() {
                    let (head, place) = ((first + index) / head_dim, (first + index) % head_dim);
                    let half = head_dim / 2;
                    let source = head * head_dim + 2 * (place % half) + place / half;
                    self.encoding.decode(&self.bytes()[source * row..(source + 1) * row], values);
                }
            }
        }
        if self.shift != 0.0 {
            into.iter_mut().for_each(|value| *value += self.shift);
        }
    }

    /// Passes all numbers to `take` in order, some whole rows at a time, so not all need be in memory.
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

    /// Splits the matrix into pieces of whole rows, in order, so that only one piece of a large matrix need
    /// be in memory at a time.
    pub fn pieces(&self) -> Vec<MappedTensor> {
        const BYTES: usize = 16 << 20;
        let rows = (BYTES / self.row_bytes().max(1)).max(1);
        let pieces =
            (0..self.rows).step_by(rows).map(|first| self.narrow(first, rows.min(self.rows - first)));
        // Reordered rows can't be split, so they are one piece.
        pieces.collect::<Option<Vec<MappedTensor>>>().unwrap_or_else(|| vec![self.clone()])
    }

    /// Advises the system that all numbers will be read now, so that it loads them at once and not page by
    /// page.
    pub fn expect(&self) {
        self.file.expect(self.range.clone());
    }

    /// Releases the memory that reading the numbers took.
    pub fn release(&self) {
        self.file.release(self.range.clone());
    }
}
