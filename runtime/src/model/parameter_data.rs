//! Where a model's numbers are: in memory, or in mapped files, which are looked at when somebody asks.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use tch::{Device, Kind, Tensor};

use super::Entry;
use crate::mapped::{Encoding, Stored};
use mopd_kernels::crew::{self, together};
use mopd_kernels::elements::slice_mut;
use mopd_kernels::round;

/// All numbers of a model in the order of its layout.
#[derive(Clone, Debug)]
pub(super) enum ParameterData {
    Owned(Arc<Vec<f32>>),
    Stored(Arc<Parts>),
}

/// One part per entry of the layout.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Vec<Stored>,
    /// Where each begins among all numbers, and at the end how many there are.
    offsets: Vec<usize>,
}

impl Parts {
    pub fn new(parts: Vec<Stored>) -> Parts {
        let mut offsets = vec![0];
        for part in &parts {
            offsets.push(offsets[offsets.len() - 1] + part.len());
        }
        Parts { parts, offsets }
    }

    fn len(&self) -> usize {
        self.offsets[self.parts.len()]
    }

    fn of(&self, entry: &Entry) -> &Stored {
        let index = self.offsets.partition_point(|offset| *offset <= entry.offset) - 1;
        let part = &self.parts[index];
        assert_eq!(
            (self.offsets[index], part.len()),
            (entry.offset, entry.len()),
            "an entry of another layout"
        );
        part
    }
}

impl ParameterData {
    pub fn len(&self) -> usize {
        match self {
            ParameterData::Owned(values) => values.len(),
            ParameterData::Stored(parts) => parts.len(),
        }
    }

    /// All of them.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self {
            ParameterData::Owned(values) => Cow::Borrowed(values),
            ParameterData::Stored(all) => {
                let mut values = vec![0.0; all.len()];
                let mut rest = values.as_mut_slice();
                for part in &all.parts {
                    let (these, others) = rest.split_at_mut(part.len());
                    part.read(these);
                    part.release();
                    rest = others;
                }
                Cow::Owned(values)
            }
        }
    }

    /// Those of one entry; without a copy where they are f32.
    pub fn of(&self, entry: &Entry) -> Cow<'_, [f32]> {
        match self {
            ParameterData::Owned(values) => Cow::Borrowed(&values[entry.offset..entry.offset + entry.len()]),
            ParameterData::Stored(parts) => {
                let part = parts.of(entry);
                match part.as_f32() {
                    Some(numbers) => Cow::Borrowed(numbers),
                    None => {
                        let mut numbers = vec![0.0; part.len()];
                        part.read(&mut numbers);
                        Cow::Owned(numbers)
                    }
                }
            }
        }
    }

    /// Some of them, whole parts, as one vector on a device, written there once.
    pub fn vector(&self, range: Range<usize>, kind: Kind, device: Device) -> Tensor {
        match self {
            ParameterData::Owned(values) => converted(&values[range], kind, device),
            ParameterData::Stored(all) => {
                let vector = Tensor::empty([range.len() as i64], (kind, device));
                for (part, offset) in
                    all.parts.iter().zip(&all.offsets).filter(|(_, offset)| range.contains(offset))
                {
                    place(part, &vector.narrow(0, (offset - range.start) as i64, part.len() as i64));
                }
                vector
            }
        }
    }

    /// All of them, part by part.
    pub fn for_each_part(&self, mut look: impl FnMut(&[f32])) {
        match self {
            ParameterData::Owned(values) => look(values),
            ParameterData::Stored(all) => {
                for part in &all.parts {
                    part.for_each_block(&mut look);
                    part.release();
                }
            }
        }
    }

    /// Lets go of the memory that looking at mapped files took.
    pub fn release(&self) {
        if let ParameterData::Stored(all) = self {
            all.parts.iter().for_each(Stored::release);
        }
    }
}

/// Numbers as a tensor; where it can be, written there once and by all threads.
fn converted(numbers: &[f32], kind: Kind, device: Device) -> Tensor {
    if device != Device::Cpu || !matches!(kind, Kind::Float | Kind::BFloat16) {
        return Tensor::from_slice(numbers).to_device(device).to_kind(kind);
    }
    let mut tensor = Tensor::empty([numbers.len() as i64], (kind, device));
    let from = |first: usize, count: usize| &numbers[first..first + count];
    if let Some(halves) = slice_mut::<bf16>(&mut tensor) {
        side_by_side(halves, |first, into| round(from(first, into.len()), into));
    } else if let Some(singles) = slice_mut::<f32>(&mut tensor) {
        side_by_side(singles, |first, into| into.copy_from_slice(from(first, into.len())));
    }
    tensor
}

/// Writes a part into a contiguous tensor of as many numbers, and lets go of what it looked at.
fn place(part: &Stored, tensor: &Tensor) {
    let mut first = 0;
    for piece in part.pieces() {
        let (count, here) = (piece.len() as i64, tensor.device() == Device::Cpu);
        let to = tensor.narrow(0, first, count);
        if here {
            write(&piece, &to);
        } else {
            let staged = Tensor::empty([count], (tensor.kind(), Device::Cpu));
            write(&piece, &staged);
            to.shallow_clone().copy_(&staged);
        }
        piece.release();
        first += count;
    }
}

/// The same on the CPU.
fn write(part: &Stored, tensor: &Tensor) {
    let bytes = |size: usize| {
        // SAFETY: the tensor is contiguous, on the host, and as long; nobody else knows of it yet, or looks
        // at this part of it.
        unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), part.len() * size) }
    };
    let plain = part.plain_bytes().is_some() && cfg!(target_endian = "little");
    match (tensor.kind(), part.encoding()) {
        (Kind::BFloat16, Encoding::Bf16) | (Kind::Half, Encoding::F16) if plain => {
            return side_by_side(bytes(2), |first, into| part.copy_plain(first, into));
        }
        (Kind::Float, Encoding::F32) if plain => {
            return side_by_side(bytes(4), |first, into| part.copy_plain(first, into));
        }
        (Kind::BFloat16, Encoding::F32) if plain => {
            return side_by_side(elements::<bf16>(bytes(2)), |first, into| {
                // What is read stays in a core's cache until it is rounded.
                let mut numbers = [0.0f32; 1 << 13];
                let mut first = first;
                for into in into.chunks_mut(numbers.len()) {
                    let numbers = &mut numbers[..into.len()];
                    // SAFETY: any bytes are numbers.
                    let (_, as_bytes, _) = unsafe { numbers.align_to_mut::<u8>() };
                    part.copy_plain(4 * first, as_bytes);
                    round(numbers, into);
                    first += into.len();
                }
            });
        }
        _ => part.expect(),
    }
    match tensor.kind() {
        Kind::Float => part.read(elements(bytes(4))),
        Kind::Double => convert(part, elements::<f64>(bytes(8)), |numbers, into| {
            into.iter_mut().zip(numbers).for_each(|(into, number)| *into = f64::from(*number));
        }),
        Kind::BFloat16 => {
            convert(part, elements::<bf16>(bytes(2)), |numbers, into| into.convert_from_f32_slice(numbers))
        }
        Kind::Half => {
            convert(part, elements::<f16>(bytes(2)), |numbers, into| into.convert_from_f32_slice(numbers))
        }
        other => panic!("weights are floating-point numbers, not {other:?}"),
    }
}

/// Fills parts by all threads at once, each told where its part begins: large models are read again for every
/// step.
fn side_by_side<T: Send>(into: &mut [T], fill: impl Fn(usize, &mut [T]) + Sync) {
    /// Below it, threads would take longer to begin than to read.
    const FEW: usize = 1 << 16;
    let length = into.len();
    let threads = if length < FEW { 1 } else { crew::threads() };
    let places = crew::Parts::new(into);
    together(threads, |member| {
        let range = member.part(length, 1 << 12);
        // SAFETY: members have parts of their own.
        fill(range.start, unsafe { places.part(range) });
    });
}

/// The memory of a tensor as its elements: libtorch aligns it to more than any of them needs, and a part's
/// offset is a whole number of elements.
fn elements<T: Copy>(bytes: &mut [u8]) -> &mut [T] {
    // SAFETY: only called with floating-point types, of which every pattern of bits is one.
    let (before, elements, after) = unsafe { bytes.align_to_mut::<T>() };
    assert!(before.is_empty() && after.is_empty(), "a tensor is aligned to its elements");
    elements
}

fn convert<T>(part: &Stored, into: &mut [T], convert: impl Fn(&[f32], &mut [T])) {
    let mut rest = into;
    part.for_each_block(|numbers| {
        let (these, others) = std::mem::take(&mut rest).split_at_mut(numbers.len());
        convert(numbers, these);
        rest = others;
    });
}
