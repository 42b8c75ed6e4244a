//! Reductions in sixteen lanes, so that the compiler can vectorise them: in one chain, each operation would
//! wait for the one before. To be called within [`super::with_cpu_features`].

/// Number of lanes: the f32 numbers of the widest registers.
pub const LANES: usize = 16;

/// Reduces all numbers by `with`, starting from `start`.
#[inline(always)]
pub fn folded(numbers: &[f32], start: f32, with: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let whole = numbers.chunks_exact(LANES);
    for (lane, number) in lanes.iter_mut().zip(whole.remainder()) {
        *lane = with(*lane, *number);
    }
    for numbers in whole {
        for (lane, number) in lanes.iter_mut().zip(numbers) {
            *lane = with(*lane, *number);
        }
    }
    across(lanes, with)
}

/// The sum of `term` over all pairs of numbers.
#[inline(always)]
pub fn summed<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_whole.remainder().iter().zip(b_whole.remainder()).map(|(a, b)| term(*a, *b)).sum();
    for (a, b) in a_whole.zip(b_whole) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    across(lanes, |sum, lane| sum + lane) + rest
}

/// Reduces the lanes to one number, combining one half of them with the other half in each step.
#[inline(always)]
fn across(mut lanes: [f32; LANES], with: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = with(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_over_lanes_count_every_number_once() {
        for count in [0usize, 1, 15, 16, 17, 64, 71] {
            let numbers: Vec<f32> = (1..=count).map(|number| number as f32).collect();
            let sum = (count * (count + 1) / 2) as f32;
            assert_eq!(folded(&numbers, 0.0, |a, b| a + b), sum, "{count}");
            assert_eq!(summed(&numbers, &numbers, |a, b| 3.0 * a - b), 2.0 * sum, "{count}");
            assert_eq!(
                folded(&numbers, f32::NEG_INFINITY, f32::max),
                if count == 0 { f32::NEG_INFINITY } else { count as f32 }
            );
        }
    }
}
