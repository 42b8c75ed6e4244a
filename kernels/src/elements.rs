//! The memory of a tensor, for loops of our own.

use half::bf16;
use tch::{Device, Kind, Tensor};

/// A number that a tensor may be made of.
pub trait Element: Copy {
    const KIND: Kind;
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;
}

impl Element for i16 {
    const KIND: Kind = Kind::Int16;
}

/// A tensor's numbers, where they are of that kind, in order, and in the processor's memory.
pub fn slice<T: Element>(tensor: &Tensor) -> Option<&[T]> {
    let here = tensor.device() == Device::Cpu && tensor.kind() == T::KIND && tensor.is_contiguous();
    // SAFETY: `numel` numbers of that kind, as long as the tensor lives, and nobody writes them meanwhile.
    here.then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr() as *const T, tensor.numel()) })
}

pub fn slice_mut<T: Element>(tensor: &mut Tensor) -> Option<&mut [T]> {
    let length = slice::<T>(tensor)?.len();
    // SAFETY: as above; that nobody else has this memory is on whoever made views of it, as for every
    // operation in place.
    Some(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr() as *mut T, length) })
}
