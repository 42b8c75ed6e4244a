//! MXFP4 (OCP Microscaling Formats, version 1.0): numbers of four bits, with one exponent for each 32 of
//! them.

use std::ops::Range;
use std::sync::Arc;

use super::MappedFile;

/// Numbers in a block, and its bytes.
pub const BLOCK: usize = 32;
pub const BLOCK_BYTES: usize = BLOCK / 2;

/// The exponents of a stack of matrices, of which each stores blocks of inputs, `[outputs, inputs / 32]`, and
/// is read transposed, `[inputs, outputs]`.
#[derive(Clone, Debug)]
pub(super) struct Exponents {
    pub file: Arc<MappedFile>,
    pub range: Range<usize>,
    pub inputs: usize,
}

/// A sign, two bits of an exponent, one of a fraction.
const NUMBERS: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

impl Exponents {
    /// Decodes a row of the stack: an input's weights to all outputs of its matrix.
    pub fn decode_row(&self, blocks: &[u8], row: usize, into: &mut [f32]) {
        let exponents = &self.file.bytes()[self.range.clone()];
        let (matrix, input) = (row / self.inputs, row % self.inputs);
        let blocks_in_row = self.inputs / BLOCK;
        let (block, within) = (input / BLOCK, input % BLOCK);
        let outputs = into.len();
        for (output, value) in into.iter_mut().enumerate() {
            let block = (matrix * outputs + output) * blocks_in_row + block;
            let byte = blocks[block * BLOCK_BYTES + within / 2];
            let number = NUMBERS[usize::from(byte >> (4 * (within % 2)) & 15)];
            // In double precision, which has all of these powers.
            *value = (f64::from(number) * 2.0f64.powi(i32::from(exponents[block]) - 127)) as f32;
        }
    }
}
