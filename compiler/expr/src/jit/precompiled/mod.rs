//! Elementary functions that are compiled ahead for the widest vectors of a processor: 512 or 256 bits, where
//! the code generator has 128 on every machine. They are compiled from the same programs
//! ([`mopd_ops::f32_ops`]), so they compute the same bits.

#[cfg(target_arch = "x86_64")]
mod vectors;

use mopd_ops::f32_ops::{self, FloatOps};

use crate::graph::signals::Function;

/// Computes one function of the numbers at the first address into the numbers at the second.
///
/// # Safety
/// Both addresses have `count` numbers, nothing else accesses the second ones meanwhile, and the processor
/// has the instructions that [`find`] tests for.
pub(super) type Precompiled = unsafe fn(from: *const f32, to: *mut f32, count: usize);

/// A function of one operand as a program that is inlined into a loop.
trait Elementary {
    fn of<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number;
}

macro_rules! programs {
    ($($name:ident = $program:ident),*) => {
        $(struct $name;

        impl Elementary for $name {
            #[inline(always)]
            fn of<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
                f32_ops::$program(ops, x)
            }
        })*

        /// The precompiled function for this processor, if there is one. `fused`: whether a multiplication
        /// and an addition are rounded once.
        pub(super) fn find(function: Function, fused: bool) -> Option<Precompiled> {
            match function {
                $(Function::$name => compiled::<$name>(fused),)*
                _ => None,
            }
        }
    };
}

programs!(Exp = exp, Log = log, Log1p = log1p, Tanh = tanh, Sigmoid = sigmoid);

#[cfg(target_arch = "x86_64")]
fn compiled<P: Elementary>(fused: bool) -> Option<Precompiled> {
    let chosen: [Precompiled; 2] = if is_x86_feature_detected!("avx512f") {
        [vectors::run_512::<P, false>, vectors::run_512::<P, true>]
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        [vectors::run_256::<P, false>, vectors::run_256::<P, true>]
    } else {
        return None;
    };
    Some(chosen[usize::from(fused)])
}

#[cfg(not(target_arch = "x86_64"))]
fn compiled<P: Elementary>(_: bool) -> Option<Precompiled> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use mopd_ops::f32_ops::ScalarOps;

    /// Numbers of every size and the special ones, in lengths that are not multiples of a vector.
    fn numbers() -> Vec<f32> {
        let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0, -1.0, 1e-41, 88.7, -104.5];
        (0..(1 << 15) + 3)
            .map(|index: u32| f32::from_bits(index.wrapping_mul(131_071)))
            .chain(special)
            .collect()
    }

    fn agree<P: Elementary>(function: Function) {
        let numbers = numbers();
        let (wide, narrow): (&[Precompiled; 2], &[Precompiled; 2]) = (
            &[vectors::run_512::<P, false>, vectors::run_512::<P, true>],
            &[vectors::run_256::<P, false>, vectors::run_256::<P, true>],
        );
        let there = [
            (is_x86_feature_detected!("avx512f"), wide, "AVX-512"),
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), narrow, "AVX2"),
        ];
        for (_, compiled, name) in there.into_iter().filter(|(there, ..)| *there) {
            for (compiled, fused) in compiled.iter().zip([false, true]) {
                for from in [&numbers[..], &numbers[1..8], &numbers[..1], &[]] {
                    // Memory after the result must not change.
                    let mut to = vec![7.5f32; from.len() + 1];
                    // SAFETY: both have this many numbers, and the processor was tested for the instructions.
                    unsafe { compiled(from.as_ptr(), to.as_mut_ptr(), from.len()) };
                    assert_eq!(to.pop(), Some(7.5));
                    for (x, found) in from.iter().zip(to) {
                        let expected = ScalarOps { fused }.apply(function, &[*x]);
                        let same =
                            found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                        assert!(
                            same,
                            "{function:?}({x:e}) with {name}, fused {fused}: {found:e}, not {expected:e}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn each_computes_the_bits_of_its_program() {
        agree::<Exp>(Function::Exp);
        agree::<Log>(Function::Log);
        agree::<Log1p>(Function::Log1p);
        agree::<Tanh>(Function::Tanh);
        agree::<Sigmoid>(Function::Sigmoid);
    }
}
