//! The sum of a long list, read by all cores, to measure memory bandwidth.

use crate::{Cpu, with_cpu_features};

/// Independent partial sums.
const SUMS: usize = 64;

/// The sum of `numbers`. Each thread reads a contiguous part; the last also reads the remainder.
pub fn sum(cpu: Cpu, numbers: &[f32]) -> f32 {
    let part = numbers.len() / cpu.threads();
    let (mut sums, mut scratch) = (vec![0.0f32; cpu.threads()], vec![(); cpu.threads()]);
    cpu.for_each(&mut sums, &mut scratch, |index, total, ()| {
        let end = if index + 1 == cpu.threads() { numbers.len() } else { (index + 1) * part };
        let part = &numbers[index * part..end];
        with_cpu_features(|| *total = sum_of(part));
    });
    sums.iter().sum()
}

#[inline(always)]
fn sum_of(numbers: &[f32]) -> f32 {
    let mut sums = [0.0f32; SUMS];
    let chunks = numbers.chunks_exact(SUMS);
    let rest: f32 = chunks.remainder().iter().sum();
    for numbers in chunks {
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += number;
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_counts_every_number_once() {
        for length in [0, 1, 63, 64, 65, 321, 1000] {
            let numbers: Vec<f32> = (0..length).map(|number| number as f32).collect();
            for threads in 1..4 {
                assert_eq!(sum(Cpu::new(threads), &numbers), (0..length).sum::<u32>() as f32);
            }
        }
    }
}
