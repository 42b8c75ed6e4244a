//! The storage of a model's parameters: in memory; in mapped files that are read on demand; or computed on
//! demand, as another model's parameters with an adapter, or as a merge of several models.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use mopd_kernels::os::advise_huge_pages;
use mopd_kernels::round_to_bf16;
use mopd_kernels::tensor::{Element, ViewMut, view_mut};
use tch::{Device, Kind, Tensor};

use super::adapter::Merged;
use super::merge::Combination;
use super::{ParameterEntry, Weights, layout};
use crate::machine::place;
use crate::machine::transfer::{note_to_device, upload};
use crate::mapped::{MappedTensor, NumberEncoding};

/// All parameters of a model in the order of its layout.
#[derive(Clone, Debug)]
pub(super) enum ParameterData {
    Owned(Arc<Vec<f32>>),
    Stored(Arc<EntryParts>),
    Merged(Arc<Merged>),
    Combined(Arc<Combination>),
}

/// One part per entry of the layout.
#[derive(Debug)]
pub(super) struct EntryParts {
    parts: Vec<MappedTensor>,
    /// Where each part begins in the flat vector, then the number of parameters.
    offsets: Vec<usize>,
}

impl EntryParts {
    pub fn new(parts: Vec<MappedTensor>) -> EntryParts {
        let mut offsets = vec![0];
        for part in &parts {
            offsets.push(offsets[offsets.len() - 1] + part.len());
        }
        EntryParts { parts, offsets }
    }

    fn len(&self) -> usize {
        self.offsets[self.parts.len()]
    }

    fn of(&self, entry: &ParameterEntry) -> &MappedTensor {
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
            ParameterData::Merged(merged) => Weights::parameters(&merged.base().config),
            ParameterData::Combined(combination) => Weights::parameters(&combination.like().config),
        }
    }

    /// All parameters.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self {
            ParameterData::Owned(values) => Cow::Borrowed(values),
            ParameterData::Stored(all) => {
                let mut values = vec![0.0; all.len()];
                let mut rest = values.as_mut_slice();
                for part in &all.parts {
                    let (these, others) = rest.split_at_mut(part.len());
                    part.read_once(these);
                    rest = others;
                }
                Cow::Owned(values)
            }
            ParameterData::Merged(merged) => {
                let mut values = merged.base().values().into_owned();
                for (range, numbers) in merged.changed(|_| true) {
                    values[range].copy_from_slice(&numbers);
                }
                Cow::Owned(values)
            }
            ParameterData::Combined(_) => {
                let mut values = Vec::with_capacity(self.len());
                self.for_each_part(|numbers| values.extend_from_slice(numbers));
                Cow::Owned(values)
            }
        }
    }

    /// The parameters of one entry, without a copy where they are stored as f32.
    pub fn of(&self, entry: &ParameterEntry) -> Cow<'_, [f32]> {
        match self {
            ParameterData::Owned(values) => Cow::Borrowed(&values[entry.offset..entry.offset + entry.len()]),
            ParameterData::Stored(parts) => {
                let part = parts.of(entry);
                match part.as_f32() {
                    Some(numbers) => Cow::Borrowed(numbers),
                    None => {
                        let mut numbers = vec![0.0; part.len()];
                        part.read_once(&mut numbers);
                        Cow::Owned(numbers)
                    }
                }
            }
            ParameterData::Merged(merged) => {
                merged.of(entry).map_or_else(|| merged.base().of(entry), Cow::Owned)
            }
            ParameterData::Combined(combination) => Cow::Owned(combination.of(entry)),
        }
    }

    /// One entry in its file, if it is in one.
    pub fn in_file(&self, entry: &ParameterEntry) -> Option<&MappedTensor> {
        match self {
            ParameterData::Owned(_) | ParameterData::Combined(_) => None,
            ParameterData::Stored(parts) => Some(parts.of(entry)),
            ParameterData::Merged(merged) if merged.changes(entry) => None,
            ParameterData::Merged(merged) => merged.base().in_file(entry),
        }
    }

    /// Whether both are the same numbers in memory, or in one file.
    pub fn is_shared(&self, other: &ParameterData) -> bool {
        match (self, other) {
            (ParameterData::Owned(one), ParameterData::Owned(other)) => Arc::ptr_eq(one, other),
            (ParameterData::Stored(one), ParameterData::Stored(other)) => Arc::ptr_eq(one, other),
            (ParameterData::Merged(one), ParameterData::Merged(other)) => Arc::ptr_eq(one, other),
            (ParameterData::Combined(one), ParameterData::Combined(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// A range of whole entries as one vector on a device, without a second copy there.
    pub fn vector(&self, range: Range<usize>, kind: Kind, device: Device) -> Tensor {
        match self {
            ParameterData::Owned(values) => converted(&values[range], kind, device),
            ParameterData::Stored(all) => {
                let vector = empty(range.len(), kind, device);
                for (part, offset) in
                    all.parts.iter().zip(&all.offsets).filter(|(_, offset)| range.contains(offset))
                {
                    place(part, &vector.narrow(0, (offset - range.start) as i64, part.len() as i64));
                }
                vector
            }
            ParameterData::Merged(merged) => {
                let vector = merged.base().vector(range.clone(), kind, device);
                let inside = |own: &Range<usize>| range.start <= own.start && own.end <= range.end;
                for (own, numbers) in merged.changed(inside) {
                    let first = (own.start - range.start) as i64;
                    vector.narrow(0, first, own.len() as i64).copy_(&converted(&numbers, kind, device));
                }
                vector
            }
            ParameterData::Combined(combination) => {
                let vector = empty(range.len(), kind, device);
                let entries = layout(&combination.like().config);
                for entry in entries.iter().filter(|entry| range.contains(&entry.offset)) {
                    let mut part = vector.narrow(0, (entry.offset - range.start) as i64, entry.len() as i64);
                    part.copy_(&converted(&combination.of(entry), kind, device));
                }
                vector
            }
        }
    }

    /// Calls `look` with all parameters, part by part.
    pub fn for_each_part(&self, mut look: impl FnMut(&[f32])) {
        match self {
            ParameterData::Owned(values) => look(values),
            ParameterData::Stored(all) => {
                for piece in all.parts.iter().flat_map(MappedTensor::pieces) {
                    piece.for_each_block(&mut look);
                    piece.release();
                }
            }
            ParameterData::Merged(merged) => {
                layout(&merged.base().config).iter().for_each(|entry| look(&self.of(entry)));
                merged.base().release();
            }
            ParameterData::Combined(combination) => {
                layout(&combination.like().config).iter().for_each(|entry| look(&combination.of(entry)));
            }
        }
    }

    /// Releases the memory of mapped files that were read.
    pub fn release(&self) {
        match self {
            ParameterData::Owned(_) => {}
            ParameterData::Stored(all) => all.parts.iter().for_each(MappedTensor::release),
            ParameterData::Merged(merged) => merged.base().release(),
            ParameterData::Combined(combination) => combination.release(),
        }
    }
}

/// Bytes from which on vectors get huge pages, which pay off for models that stay in memory. Smaller vectors,
/// such as layers that are loaded and freed, reuse memory.
const STAYS: usize = 64 << 20;

/// An uninitialised tensor of `count` elements.
fn empty(count: usize, kind: Kind, device: Device) -> Tensor {
    let mut tensor = Tensor::empty([count as i64], (kind, device));
    if count * kind.elt_size_in_bytes() >= STAYS {
        if let Some(mut numbers) = view_mut::<f32>(&mut tensor) {
            advise_huge_pages(&mut numbers);
        }
        if let Some(mut numbers) = view_mut::<bf16>(&mut tensor) {
            advise_huge_pages(&mut numbers);
        }
    }
    tensor
}

/// Numbers as a tensor; on the CPU converted in parallel, without a second copy.
fn converted(numbers: &[f32], kind: Kind, device: Device) -> Tensor {
    if device != Device::Cpu || !matches!(kind, Kind::Float | Kind::BFloat16) {
        return upload(numbers, device).to_kind(kind);
    }
    note_to_device(numbers.len() * kind.elt_size_in_bytes());
    let mut tensor = empty(numbers.len(), kind, device);
    let from = |first: usize, count: usize| &numbers[first..first + count];
    if kind == Kind::BFloat16 {
        let mut here = here::<bf16>(&mut tensor);
        side_by_side(&mut here, |first, into| round_to_bf16(from(first, into.len()), into));
    } else {
        let mut here = here::<f32>(&mut tensor);
        side_by_side(&mut here, |first, into| into.copy_from_slice(from(first, into.len())));
    }
    tensor
}

/// Writes a part into a contiguous tensor of the same length, and releases the file's memory.
fn place(part: &MappedTensor, tensor: &Tensor) {
    let mut first = 0;
    for piece in part.pieces() {
        let (count, here) = (piece.len() as i64, tensor.device() == Device::Cpu);
        let mut to = tensor.narrow(0, first, count);
        note_to_device(piece.len() * tensor.kind().elt_size_in_bytes());
        if here {
            write(&piece, &mut to);
        } else {
            let mut staged = Tensor::empty([count], (tensor.kind(), Device::Cpu));
            write(&piece, &mut staged);
            to.copy_(&staged);
        }
        piece.release();
        first += count;
    }
}

/// The elements of a contiguous tensor on the CPU, or of a part of one, which has kind `T`.
fn here<T: Element>(tensor: &mut Tensor) -> ViewMut<'_, T> {
    view_mut(tensor).expect("a contiguous tensor on the CPU")
}

/// Writes a part into a contiguous tensor on the CPU.
fn write(part: &MappedTensor, tensor: &mut Tensor) {
    let plain = part.plain_bytes().is_some() && cfg!(target_endian = "little");
    match (tensor.kind(), part.encoding()) {
        (Kind::BFloat16, NumberEncoding::Bf16) if plain => copy::<bf16>(part, tensor),
        (Kind::Half, NumberEncoding::F16) if plain => copy::<f16>(part, tensor),
        (Kind::Float, NumberEncoding::F32) if plain => copy::<f32>(part, tensor),
        (Kind::BFloat16, NumberEncoding::F32) if plain => {
            side_by_side(&mut here::<bf16>(tensor), |mut first, into| {
                // A block stays in a core's cache between reading and rounding.
                let mut numbers = [0.0f32; 1 << 13];
                for into in into.chunks_mut(numbers.len()) {
                    let numbers = &mut numbers[..into.len()];
                    part.copy_plain(4 * first, bytemuck::cast_slice_mut(numbers));
                    round_to_bf16(numbers, into);
                    first += into.len();
                }
            });
        }
        (kind, _) => {
            part.expect();
            match kind {
                Kind::Float => part.read(&mut here(tensor)),
                Kind::Double => convert(part, &mut here::<f64>(tensor), |numbers, into| {
                    into.iter_mut().zip(numbers).for_each(|(into, number)| *into = f64::from(*number));
                }),
                Kind::BFloat16 => convert(part, &mut here::<bf16>(tensor), |numbers, into| {
                    into.convert_from_f32_slice(numbers);
                }),
                Kind::Half => convert(part, &mut here::<f16>(tensor), |numbers, into| {
                    into.convert_from_f32_slice(numbers);
                }),
                other => panic!("weights are floating-point numbers, not {other:?}"),
            }
        }
    }
}

/// Copies numbers that are stored in the tensor's kind.
fn copy<T: Element + bytemuck::Pod>(part: &MappedTensor, tensor: &mut Tensor) {
    let mut numbers = here::<T>(tensor);
    side_by_side(bytemuck::cast_slice_mut::<T, u8>(&mut numbers), |first, into| part.copy_plain(first, into));
}

/// Fills a slice in parallel; `fill` gets the index where its part begins. Large models are read again at
/// every step.
fn side_by_side<T: Send>(into: &mut [T], fill: impl Fn(usize, &mut [T]) + Sync) {
    /// Below this, starting threads would take longer than reading.
    const FEW: usize = 1 << 16;
    if into.len() < FEW { fill(0, into) } else { place::host().fill(into, 1 << 12, fill) }
}

fn convert<T>(part: &MappedTensor, into: &mut [T], convert: impl Fn(&[f32], &mut [T])) {
    let mut rest = into;
    part.for_each_block(|numbers| {
        let (these, others) = std::mem::take(&mut rest).split_at_mut(numbers.len());
        convert(numbers, these);
        rest = others;
    });
}
