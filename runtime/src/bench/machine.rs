//! Measures this machine: the rate of large matrix products, and of sequential reads of memory.

use std::time::{Duration, Instant};

use mopd_kernels::{Cpu, sum::sum};
use mopd_plan::events::MachineRates;
use tch::{Kind, Tensor, no_grad_guard};

use crate::control::Control;
use crate::failure::Result;
use crate::machine::place::Place;
use crate::model::Config;

/// The shape of a matrix product, `[rows, inputs]` times `[inputs, outputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductShape {
    pub rows: i64,
    pub inputs: i64,
    pub outputs: i64,
}

impl ProductShape {
    /// The product of a model's MLP, with more rows than a small step has: with few rows the matrix library
    /// leaves cores idle, and a GPU most of its own, but the machine's best rate is wanted.
    pub fn new(config: &Config, place: Place) -> ProductShape {
        // The width of one expert, if layers have experts.
        let inner =
            config.experts.as_ref().map_or(config.intermediate_size, |experts| experts.intermediate_size);
        let rows = if place.kernels().is_some() { 1 << 14 } else { 1 << 10 };
        ProductShape { rows, inputs: config.width as i64, outputs: inner as i64 }
    }
}

/// Time for each way of multiplying. The rate of CPU cores changes with temperature and other load: the
/// highest of several short measurements is closest to the best rate.
const PRODUCTS: Duration = Duration::from_millis(400);
/// Operations of one measurement: long enough for the clock.
const LEAST: i64 = 1 << 31;
/// More than caches hold: 512 MiB.
const NUMBERS: usize = 1 << 27;
const PASSES: usize = 6;

/// The highest rates measured, with `threads` threads on a CPU.
pub fn rates(product: ProductShape, threads: usize, place: Place, control: &Control) -> Result<MachineRates> {
    let float32 = products(product, Kind::Float, place);
    control.check()?;
    let bfloat16 = products(product, Kind::BFloat16, place);
    control.check()?;
    let memory = match place.loops() {
        Some(cpu) => reading(cpu.with_threads(threads)),
        None => reading_there(place),
    };
    Ok(MachineRates { float32, bfloat16, memory })
}

/// Floating-point operations a second, by the faster of the two ways in which models multiply. Which one is
/// faster depends on the CPU: without AVX-512, libtorch's operator in bf16 is several times slower.
fn products(product: ProductShape, kind: Kind, place: Place) -> f64 {
    let _guard = no_grad_guard();
    let ProductShape { rows, inputs, outputs } = product;
    let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, place.device)).to_kind(kind);
    // As in a model, the matrix is stored as `[outputs, inputs]`.
    let (left, right) = (random([rows, inputs]), random([outputs, inputs]));
    let flops = 2 * rows * inputs * outputs;
    let by_operator = rate(flops, place, || left.linear::<&Tensor>(&right, None));
    by_operator.max(rate(flops, place, || place.multiply(&left, &right.tr())))
}

/// The highest measured rate of a product of `flops` operations, in operations a second.
fn rate(flops: i64, place: Place, product: impl Fn() -> Tensor) -> f64 {
    let times = (LEAST / flops.max(1)).clamp(1, 100_000);
    let multiply = |times: i64| {
        for _ in 0..times {
            drop(product());
        }
        place.synchronize();
    };
    // Warm up.
    multiply(1);
    let started = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || started.elapsed() < PRODUCTS {
        let started = Instant::now();
        multiply(times);
        best = best.min(started.elapsed().as_secs_f64());
    }
    (flops * times) as f64 / best
}

/// Bytes a second that all cores read together.
fn reading(cpu: Cpu) -> f64 {
    let numbers = vec![1.0f32; NUMBERS];
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let started = Instant::now();
        std::hint::black_box(sum(cpu, &numbers));
        best = best.min(started.elapsed().as_secs_f64());
    }
    (NUMBERS * size_of::<f32>()) as f64 / best
}

fn reading_there(place: Place) -> f64 {
    let _guard = no_grad_guard();
    let numbers = Tensor::ones([NUMBERS as i64], (Kind::Float, place.device));
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        place.synchronize();
        let started = Instant::now();
        let _ = numbers.sum(Kind::Float);
        place.synchronize();
        best = best.min(started.elapsed().as_secs_f64());
    }
    (NUMBERS * size_of::<f32>()) as f64 / best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_a_number() {
        let product = ProductShape { rows: 4, inputs: 8, outputs: 16 };
        let rates = rates(product, 1, Place::cpu(), &Control::new(std::io::sink())).unwrap();
        for rate in [rates.float32, rates.bfloat16, rates.memory] {
            assert!(rate.is_finite() && rate > 1e3, "{rates:?}");
        }
    }
}
