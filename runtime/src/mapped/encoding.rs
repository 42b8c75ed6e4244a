//! Encodings of numbers in files: plain floats, and GGML's quantized blocks (a few bits a number, a scale for
//! each block).

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberEncoding {
    F32,
    F16,
    Bf16,
    /// Whole numbers from 0 to 255.
    U8,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// Numbers in a block of GGML's older types, and of the newer ones (K-quants).
const BLOCK: usize = 32;
const SUPER_BLOCK: usize = 256;

impl NumberEncoding {
    /// Numbers in a block, and its bytes.
    const fn block(self) -> (usize, usize) {
        match self {
            NumberEncoding::F32 => (1, 4),
            NumberEncoding::U8 => (1, 1),
            NumberEncoding::F16 | NumberEncoding::Bf16 => (1, 2),
            NumberEncoding::Q4_0 => (BLOCK, 18),
            NumberEncoding::Q4_1 => (BLOCK, 20),
            NumberEncoding::Q5_0 => (BLOCK, 22),
            NumberEncoding::Q5_1 => (BLOCK, 24),
            NumberEncoding::Q8_0 => (BLOCK, 34),
            NumberEncoding::Q4K => (SUPER_BLOCK, 144),
            NumberEncoding::Q5K => (SUPER_BLOCK, 176),
            NumberEncoding::Q6K => (SUPER_BLOCK, 210),
        }
    }

    /// Bytes of `numbers` numbers; none if they don't fill whole blocks, or the result overflows.
    pub fn bytes(self, numbers: usize) -> Option<usize> {
        let (block, bytes) = self.block();
        if numbers.is_multiple_of(block) { (numbers / block).checked_mul(bytes) } else { None }
    }

    /// Decodes `bytes`, which hold as many numbers as `into` has elements.
    pub(super) fn decode(self, bytes: &[u8], into: &mut [f32]) {
        match self {
            NumberEncoding::F32 => {
                for (value, bytes) in into.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            NumberEncoding::F16 => {
                // Through a buffer that stays in the cache: the file's numbers may be unaligned, and the
                // conversion is vectorised.
                const PART: usize = 256;
                let mut part = [f16::ZERO; PART];
                for (values, bytes) in into.chunks_mut(PART).zip(bytes.chunks(2 * PART)) {
                    let part = &mut part[..values.len()];
                    for (value, bytes) in part.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *value = f16::from_le_bytes(*bytes);
                    }
                    part.convert_to_f32_slice(values);
                }
            }
            NumberEncoding::Bf16 => {
                for (value, bytes) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            NumberEncoding::U8 => {
                into.iter_mut().zip(bytes).for_each(|(value, byte)| *value = f32::from(*byte));
            }
            NumberEncoding::Q4_0 => blocks(bytes, into, |block: &[u8; 18], values: &mut [f32; BLOCK]| {
                let (scale, nibbles) = (f16_at(block, 0), &block[2..]);
                for (index, &byte) in nibbles.iter().enumerate() {
                    values[index] = scale * (f32::from(byte & 15) - 8.0);
                    values[index + BLOCK / 2] = scale * (f32::from(byte >> 4) - 8.0);
                }
            }),
            NumberEncoding::Q4_1 => blocks(bytes, into, |block: &[u8; 20], values: &mut [f32; BLOCK]| {
                let (scale, least, nibbles) = (f16_at(block, 0), f16_at(block, 2), &block[4..]);
                for (index, &byte) in nibbles.iter().enumerate() {
                    values[index] = scale * f32::from(byte & 15) + least;
                    values[index + BLOCK / 2] = scale * f32::from(byte >> 4) + least;
                }
            }),
            NumberEncoding::Q5_0 => blocks(bytes, into, |block: &[u8; 22], values: &mut [f32; BLOCK]| {
                let scale = f16_at(block, 0);
                fives([block[2], block[3], block[4], block[5]], &block[6..], |index, five| {
                    values[index] = scale * (f32::from(five) - 16.0);
                });
            }),
            NumberEncoding::Q5_1 => blocks(bytes, into, |block: &[u8; 24], values: &mut [f32; BLOCK]| {
                let (scale, least) = (f16_at(block, 0), f16_at(block, 2));
                fives([block[4], block[5], block[6], block[7]], &block[8..], |index, five| {
                    values[index] = scale * f32::from(five) + least;
                });
            }),
            NumberEncoding::Q8_0 => blocks(bytes, into, |block: &[u8; 34], values: &mut [f32; BLOCK]| {
                let scale = f16_at(block, 0);
                for (value, &byte) in values.iter_mut().zip(&block[2..]) {
                    *value = scale * f32::from(byte as i8);
                }
            }),
            NumberEncoding::Q4K => {
                blocks(bytes, into, |block: &[u8; 144], values: &mut [f32; SUPER_BLOCK]| {
                    let (scales, numbers) = (&block[4..16], &block[16..]);
                    for (sub, values) in values.chunks_mut(BLOCK).enumerate() {
                        let (scale, least) = scale_and_least(f16_at(block, 0), f16_at(block, 2), scales, sub);
                        for (index, value) in values.iter_mut().enumerate() {
                            *value = scale * f32::from(nibble(numbers, sub, index)) - least;
                        }
                    }
                })
            }
            NumberEncoding::Q5K => {
                blocks(bytes, into, |block: &[u8; 176], values: &mut [f32; SUPER_BLOCK]| {
                    let (scales, high, numbers) = (&block[4..16], &block[16..48], &block[48..]);
                    for (sub, values) in values.chunks_mut(BLOCK).enumerate() {
                        let (scale, least) = scale_and_least(f16_at(block, 0), f16_at(block, 2), scales, sub);
                        for (index, value) in values.iter_mut().enumerate() {
                            let five = nibble(numbers, sub, index) | (high[index] >> sub & 1) << 4;
                            *value = scale * f32::from(five) - least;
                        }
                    }
                })
            }
            NumberEncoding::Q6K => {
                blocks(bytes, into, |block: &[u8; 210], values: &mut [f32; SUPER_BLOCK]| {
                    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
                    let scale = f16_at(block, 208);
                    for (index, value) in values.iter_mut().enumerate() {
                        // Two halves of 128 numbers; in each, four quarters share 64 bytes of low four bits
                        // and 32 bytes of high two bits.
                        let (part, quarter, place) = (index / 128, index / 32 % 4, index % 32);
                        let four = low[64 * part + 32 * (quarter % 2) + place] >> (4 * (quarter / 2)) & 15;
                        let two = high[32 * part + place] >> (2 * quarter) & 3;
                        let six = f32::from(four | two << 4) - 32.0;
                        *value = scale * f32::from(scales[index / 16] as i8) * six;
                    }
                })
            }
        }
    }
}

fn blocks<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    into: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    for (block, values) in bytes.as_chunks::<BYTES>().0.iter().zip(into.as_chunks_mut::<NUMBERS>().0) {
        decode(block, values);
    }
}

/// The f16 at a byte offset.
fn f16_at(bytes: &[u8], place: usize) -> f32 {
    f16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32()
}

/// Unpacks five-bit numbers: the high bits are together, in order; the low four are as in four-bit types.
fn fives(high: [u8; 4], nibbles: &[u8], mut put: impl FnMut(usize, u8)) {
    let high = u32::from_le_bytes(high);
    for (index, &byte) in nibbles.iter().enumerate() {
        put(index, byte & 15 | ((high >> index & 1) as u8) << 4);
        let second = index + BLOCK / 2;
        put(second, byte >> 4 | ((high >> second & 1) as u8) << 4);
    }
}

/// A four-bit number. Of eight parts of 32, each two in a row share 32 bytes; the first has the low halves.
fn nibble(numbers: &[u8], sub: usize, index: usize) -> u8 {
    numbers[sub / 2 * BLOCK + index] >> (4 * (sub % 2)) & 15
}

/// The scale and minimum of part `sub`. Eight of each, of six bits, are packed in twelve bytes: the first
/// four of both are whole, the others in two pieces.
fn scale_and_least(scale: f32, least: f32, packed: &[u8], sub: usize) -> (f32, f32) {
    let (own_scale, own_least) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        (packed[sub + 4] & 15 | packed[sub - 4] >> 6 << 4, packed[sub + 4] >> 4 | packed[sub] >> 6 << 4)
    };
    (scale * f32::from(own_scale), least * f32::from(own_least))
}
