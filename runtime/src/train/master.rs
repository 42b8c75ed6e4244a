//! The master weights that an optimizer updates, always in single precision: an update may be smaller than
//! the last digit of half precision.

use std::ops::Range;

use half::bf16;
use mopd_kernels::adamw::{AdamWGradient, AdamWParameters, joined_values, low_half};
use mopd_kernels::cuda::AdamWTensors;
use mopd_kernels::tensor::{View, ViewMut, view, view_mut};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::machine::transfer::{to_host, to_vec};
use crate::model::Weights;
use crate::store::state::StateTensors;

/// Elements whose halves are joined at a time. Joining makes several temporary tensors of this size; for all
/// elements of a large model at once they would need a multiple of its memory.
const PIECE: usize = 1 << 24;

/// A vector of master weights.
pub struct Master {
    /// In single precision or, with `low`, the high halves (bfloat16), which the model computes with.
    values: Tensor,
    /// The low halves; see [`AdamWParameters::Split`].
    low: Option<Tensor>,
}

impl Master {
    /// Numbers in single precision.
    pub fn whole(values: &Tensor) -> Master {
        Master { values: values.shallow_clone(), low: None }
    }

    /// The master weights of a model whose flat vector is `flat`; `weights` are the same in single precision.
    pub fn of_model(flat: &Tensor, weights: &Weights) -> Master {
        if flat.kind() != Kind::BFloat16 {
            return Master::whole(flat);
        }
        let high = flat.to_device(Device::Cpu);
        let high = view::<bf16>(&high).expect("a model's numbers are one contiguous vector");
        let mut low = Tensor::empty([high.len() as i64], (Kind::Int16, Device::Cpu));
        let mut lows = view_mut::<i16>(&mut low).expect("it was made here");
        let mut rest = &mut *lows;
        let mut done = 0;
        weights.for_each_part(|numbers| {
            let (these, others) = std::mem::take(&mut rest).split_at_mut(numbers.len());
            let halves = &high[done..done + numbers.len()];
            for (low, (value, high)) in these.iter_mut().zip(numbers.iter().zip(halves)) {
                *low = low_half(*value, *high);
            }
            done += numbers.len();
            rest = others;
        });
        drop(lows);
        Master { values: flat.shallow_clone(), low: Some(low.to_device(flat.device())) }
    }

    pub fn shallow_clone(&self) -> Master {
        Master { values: self.values.shallow_clone(), low: self.low.as_ref().map(Tensor::shallow_clone) }
    }

    /// A view of a range.
    pub fn part(&self, range: Range<usize>) -> Master {
        let part = |whole: &Tensor| whole.narrow(0, range.start as i64, range.len() as i64);
        Master { values: part(&self.values), low: self.low.as_ref().map(part) }
    }

    /// A copy in single precision of at most `most` elements, evenly spread.
    pub fn spread(&self, most: usize) -> Tensor {
        let _guard = no_grad_guard();
        let every = self.len().div_ceil(most).max(1) as i64;
        let some = |whole: &Tensor| whole.slice(0, None, None, every).copy().contiguous();
        Master { values: some(&self.values), low: self.low.as_ref().map(some) }.to_f32()
    }

    pub fn len(&self) -> usize {
        self.values.numel()
    }

    pub fn device(&self) -> Device {
        self.values.device()
    }

    /// Adds its tensors to a state, without a copy, under names that begin with `name`.
    pub fn state(&self, name: &str, tensors: &mut StateTensors) {
        tensors.put(name, &self.values);
        if let Some(low) = &self.low {
            tensors.put(format!("{name}.low"), low);
        }
    }

    pub fn restore(&self, name: &str, tensors: &StateTensors) -> Result<(), String> {
        tensors.restore(name, &self.values)?;
        self.low.as_ref().map_or(Ok(()), |low| tensors.restore(&format!("{name}.low"), low))
    }

    /// All elements in single precision: the vector itself, or a copy joined from halves.
    pub fn to_f32(&self) -> Tensor {
        let _guard = no_grad_guard();
        let Some(low) = &self.low else { return self.values.shallow_clone() };
        let whole = Tensor::empty([self.len() as i64], (Kind::Float, self.device()));
        for start in (0..self.len()).step_by(PIECE) {
            let part = |of: &Tensor| of.narrow(0, start as i64, PIECE.min(self.len() - start) as i64);
            part(&whole).copy_(&joined_tensors(&part(&self.values), &part(low)));
        }
        whole
    }

    /// The same as a `Vec`. Halves are joined on the host.
    pub fn numbers(&self) -> Vec<f32> {
        let Some(low) = &self.low else { return to_vec(&self.values) };
        let [high, low] = [&self.values, low].map(to_host);
        let (high, low) = (view::<bf16>(&high), view::<i16>(&low));
        let (high, low) = high.zip(low).expect("they are contiguous, of these types, and here");
        joined_values(&high, &low)
    }

    /// Sets all elements. `single` may be the vector that [`Master::to_f32`] returned, changed in place.
    pub fn set(&mut self, single: &Tensor) {
        let _guard = no_grad_guard();
        let Some(low) = &mut self.low else {
            if self.values.data_ptr() != single.data_ptr() {
                self.values.copy_(single);
            }
            return;
        };
        let bits = single.view_dtype(Kind::Int);
        let high: Tensor = (&bits + 0x8000).bitwise_right_shift_tensor_scalar(16);
        self.values.view_dtype(Kind::Int16).copy_(&high);
        low.copy_(&bits);
    }

    /// The tensors as a GPU's kernels take them.
    pub fn tensors(&self) -> AdamWTensors<'_> {
        match &self.low {
            None => AdamWTensors::F32(&self.values),
            Some(low) => AdamWTensors::Split { high: &self.values, low },
        }
    }

    /// The elements as the CPU's loops take them; `None` where they are on another device.
    pub fn host_view_mut(&mut self) -> Option<HostParameters<'_>> {
        match &mut self.low {
            None => Some(HostParameters::F32(view_mut(&mut self.values)?)),
            Some(low) => Some(HostParameters::Split(view_mut(&mut self.values)?, view_mut(low)?)),
        }
    }
}

/// [`mopd_kernels::adamw::joined`] on tensors: single precision from high and low halves.
fn joined_tensors(high: &Tensor, low: &Tensor) -> Tensor {
    // Rounding up carried 1 into the high half where the low one is negative.
    let carried = high.view_dtype(Kind::Int16).to_kind(Kind::Int) - low.lt(0).to_kind(Kind::Int);
    let bits = carried
        .bitwise_left_shift_tensor_scalar(16)
        .bitwise_or_tensor(&low.to_kind(Kind::Int).bitwise_and(0xffff));
    bits.view_dtype(Kind::Float)
}

/// Parameters in the host's memory.
pub enum HostParameters<'a> {
    F32(ViewMut<'a, f32>),
    Split(ViewMut<'a, bf16>, ViewMut<'a, i16>),
}

impl HostParameters<'_> {
    pub fn parameters(&mut self) -> AdamWParameters<'_> {
        match self {
            HostParameters::F32(values) => AdamWParameters::F32(values),
            HostParameters::Split(high, low) => AdamWParameters::Split { high, low },
        }
    }
}

/// A gradient in the host's memory.
pub enum HostGradient<'a> {
    F32(View<'a, f32>),
    Bf16(View<'a, bf16>),
}

impl HostGradient<'_> {
    pub fn gradient(&self) -> AdamWGradient<'_> {
        match self {
            HostGradient::F32(values) => AdamWGradient::F32(values),
            HostGradient::Bf16(values) => AdamWGradient::Bf16(values),
        }
    }
}

/// A gradient's elements, where they are contiguous in the host's memory.
pub fn host_gradient(gradient: &Tensor) -> Option<HostGradient<'_>> {
    view(gradient).map(HostGradient::F32).or_else(|| view(gradient).map(HostGradient::Bf16))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::machine::place::Place;
    use crate::model::Decoder;
    use crate::model::tests::{random_model, tiny};

    /// Numbers, some of them midway between two half-precision values.
    fn awkward() -> Weights {
        let weights = random_model(&tiny(), 1);
        let mut values = weights.values().into_owned();
        for (index, value) in values.iter_mut().enumerate() {
            let bits = value.to_bits() & 0xffff_0000;
            match index % 5 {
                0 => *value = f32::from_bits(bits | 0x8000),
                1 => *value = f32::from_bits(bits),
                _ => {}
            }
        }
        weights.with_values(values)
    }

    #[test]
    fn master_weights_sample_is_in_single_precision() {
        let weights = awkward();
        for kind in [Kind::Float, Kind::BFloat16] {
            let decoder = Decoder::trainable(&weights, Place::cpu(), kind);
            let master = Master::of_model(decoder.flat(), &weights);
            let numbers = master.numbers();
            let every = numbers.len().div_ceil(100);
            let expected: Vec<f32> = numbers.iter().copied().step_by(every).collect();
            assert!(expected.len() > 50 && to_vec(&master.spread(100)) == expected, "{kind:?}");
            assert_eq!(to_vec(&master.spread(usize::MAX)), numbers, "{kind:?}");
        }
    }

    #[test]
    fn a_model_in_half_precision_begins_with_the_numbers_it_was_given() {
        let weights = awkward();
        let decoder = Decoder::trainable(&weights, Place::cpu(), Kind::BFloat16);
        let mut master = Master::of_model(decoder.flat(), &weights);
        let mut moved = 0;
        for (single, given) in to_vec(&master.to_f32()).iter().zip(weights.values().iter()) {
            // Midway values that were rounded down to even come back as the next smaller number.
            let down = given.to_bits() & 0x1_ffff == 0x8000;
            let expected = if down { f32::from_bits(given.to_bits() - 1) } else { *given };
            assert_eq!(single.to_bits(), expected.to_bits(), "{given}");
            moved += usize::from(down);
        }
        assert!(moved > 0);
        // A frozen copy computes with the same halves.
        assert!(decoder.flat().equal(Decoder::frozen(&weights, Place::cpu(), Kind::BFloat16).flat()));
        let single = master.to_f32();
        master.set(&single);
        assert!(master.to_f32().equal(&single));
        assert!(Arc::ptr_eq(&decoder.config, &weights.config));
    }

    #[test]
    fn split_tensors_equal_split_numbers() {
        let weights = awkward();
        let mut master = Master::of_model(&weights.flat(Kind::BFloat16, Device::Cpu), &weights);
        assert_eq!(to_vec(&master.to_f32()), master.numbers());
        // The last piece has fewer numbers than the others.
        let halves = |least, kind| Tensor::randint_low(least, 500, [(PIECE + 5) as i64], (kind, Device::Cpu));
        let long = Master { values: halves(1, Kind::BFloat16), low: Some(halves(-500, Kind::Int16)) };
        assert_eq!(to_vec(&long.to_f32()), long.numbers());
        let single = master.to_f32() * 1.000_1;
        master.set(&single);
        assert!(master.to_f32().equal(&single));
        assert_eq!(to_vec(&single), master.numbers());
        for (high, value) in to_vec(&master.values).iter().zip(master.numbers()) {
            assert!(
                (f64::from(*high) - f64::from(value)).abs() <= f64::from(value.abs()) / 256.0,
                "{high} {value}"
            );
        }
    }
}
