//! 95% confidence intervals that reach their coverage with few seeds.
//!
//! Every seed answers the same test prompts, so an estimate has two sources of variance: the choice of seeds
//! and the choice of prompts. Each variance is estimated from as many numbers as there are seeds or prompts,
//! and has its own t quantile: three seeds say little about how seeds differ. The half-width is that of
//! Cochran and Cox (Experimental Designs, 1957, section 4.14), sum of t_i V_i / sqrt(sum of V_i): the
//! quantile of the dominant source, and never too short where both matter. The interaction of seeds and
//! prompts is in both variances and counts twice, which errs on the wide side.
//!
//! Where all prompts have the same value, their variance is 0, and yet other prompts may have other values.
//! There, the exact bound of Clopper and Pearson on the share of such prompts bounds the mean of numbers that
//! are from 0 to 1, or have other known bounds.
//!
//! Where nearly all rewards are at one end of their range, the variance of few others is badly known, and
//! intervals by it are too short (Brown, Cai and DasGupta, Statistical Science 2001). There, the interval is
//! at least that of Clopper and Pearson for the sum of rewards: of all numbers from 0 to 1 with a given mean,
//! 0 and 1 vary most. A difference is nowhere near the ends of its range, and is left as it is.
//!
//! A bootstrap over three seeds covers 80 to 84% where seeds matter, and Satterthwaite's degrees of freedom
//! 88% with two.

use statrs::distribution::{Beta, ContinuousCDF, StudentsT};

/// Quantile of the upper end of a 95% interval.
const UPPER: f64 = 0.975;

/// Tolerance for rounding between means of the same rewards.
const SAME: f64 = 1e-9;

/// Sums of what is away from the nearer end of the range, in units of the range. Up to the first, intervals
/// are exact ones; from the second on, the normal approximation is good enough (the usual rule). Between
/// them, one becomes the other, so that a better result never has a lower interval.
const FEW_AWAY: f64 = 5.0;
const MANY_AWAY: f64 = 10.0;

/// Numbers whose mean over all seeds and prompts is an estimate, or a part of one.
#[derive(Clone, Debug)]
pub struct SeedPromptMatrix {
    /// `[seed][prompt]`
    pub numbers: Vec<Vec<f64>>,
    /// Bounds of each number, where known.
    pub bounds: Option<(f64, f64)>,
}

impl SeedPromptMatrix {
    /// Means over seeds, one per prompt.
    pub fn of_prompts(&self) -> Vec<f64> {
        let prompts = self.numbers.first().map_or(0, Vec::len);
        (0..prompts)
            .map(|prompt| {
                self.numbers.iter().map(|seed| seed[prompt]).sum::<f64>() / self.numbers.len() as f64
            })
            .collect()
    }
}

/// An estimate that is the sum of one mean per set of test prompts, all with the same seeds.
#[derive(Clone, Debug, Default)]
pub struct Estimate {
    pub columns: Vec<SeedPromptMatrix>,
}

/// The variance of an estimate from one source.
#[derive(Clone, Copy, Debug)]
pub struct VarianceComponent {
    /// Variance of the estimate.
    variance: f64,
    /// Degrees of freedom: one less than the number of values.
    freedom: f64,
}

impl VarianceComponent {
    /// From numbers whose mean is the estimate; `None` for fewer than two.
    pub fn from_values(values: &[f64]) -> Option<VarianceComponent> {
        let count = values.len() as f64;
        let mean = super::mean(values);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (values.len() > 1)
            .then(|| VarianceComponent { variance: squares / (count - 1.0) / count, freedom: count - 1.0 })
    }
}

impl Estimate {
    pub fn value(&self) -> f64 {
        super::mean(&self.of_seeds())
    }

    /// The estimate by each seed alone.
    pub fn of_seeds(&self) -> Vec<f64> {
        let seeds = self.columns.first().map_or(0, |column| column.numbers.len());
        let of_seed =
            |seed: usize| self.columns.iter().map(|column| super::mean(&column.numbers[seed])).sum();
        (0..seeds).map(of_seed).collect()
    }

    /// The 95% interval, clipped to the bounds of the numbers that it is the mean of.
    pub fn interval(&self) -> (f64, f64) {
        within(self.interval_around(self.value()), self.bounds())
    }

    /// Bounds of the estimate, where known.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        let bounds = self.columns.iter().map(|column| column.bounds);
        bounds.reduce(|all, own| Some(sum(all?, own?))).flatten()
    }

    /// The 95% interval around another value, which has the same variances as this estimate.
    pub fn interval_around(&self, value: f64) -> (f64, f64) {
        let mut chance = VarianceComponents::default();
        chance.add_seeds(&self.of_seeds());
        for column in &self.columns {
            chance.add_prompts(&column.of_prompts(), column.bounds);
        }
        chance.around(value)
    }
}

pub fn sum(one: (f64, f64), other: (f64, f64)) -> (f64, f64) {
    (one.0 + other.0, one.1 + other.1)
}

/// The interval clipped to the bounds, if any.
pub fn within((low, high): (f64, f64), bounds: Option<(f64, f64)>) -> (f64, f64) {
    bounds.map_or((low, high), |(least, most)| (low.max(least), high.min(most)))
}

/// The independent sources of variance of an estimate.
#[derive(Debug, Default)]
pub struct VarianceComponents {
    components: Vec<VarianceComponent>,
    /// The most by which unseen prompts may lower and raise the estimate, beyond what the variance says.
    unseen: (f64, f64),
}

impl VarianceComponents {
    /// Adds the seeds: the estimate by each seed alone.
    pub fn add_seeds(&mut self, values: &[f64]) {
        self.components.extend(VarianceComponent::from_values(values));
    }

    /// Adds a part of the estimate by its value for each prompt, with its bounds where known.
    pub fn add_prompts(&mut self, values: &[f64], bounds: Option<(f64, f64)>) {
        let component = VarianceComponent::from_values(values);
        self.components.extend(component);
        let (Some((least, most)), Some(first)) = (bounds, values.first()) else { return };
        let mut unseen = (0.0, 0.0);
        if values.iter().all(|value| (value - first).abs() < SAME) {
            let share = 1.0 - (1.0 - UPPER).powf(1.0 / values.len() as f64);
            unseen = ((first - least) * share, (most - first) * share);
        }
        // Rewards with one weight have one sign, differences have both.
        if least >= 0.0 || most <= 0.0 {
            let known = half_width(component.as_slice());
            let lacking = lacking(values, (least, most), (known + unseen.0, known + unseen.1));
            unseen = sum(unseen, lacking);
        }
        self.unseen = sum(self.unseen, unseen);
    }

    /// The 95% interval of an estimate with this value.
    pub fn around(&self, value: f64) -> (f64, f64) {
        let half = half_width(&self.components);
        (value - half - self.unseen.0, value + half + self.unseen.1)
    }
}

/// How much an interval lacks to the exact one, below and above, from its `known` distances to the mean.
fn lacking(values: &[f64], (least, most): (f64, f64), known: (f64, f64)) -> (f64, f64) {
    let (prompts, range) = (values.len() as f64, most - least);
    if range <= 0.0 {
        return (0.0, 0.0);
    }
    let total: f64 = values.iter().map(|value| (value - least) / range).sum();
    let total = total.clamp(0.0, prompts);
    let away = total.min(prompts - total);
    let weight = ((MANY_AWAY - away) / (MANY_AWAY - FEW_AWAY)).clamp(0.0, 1.0);
    if weight == 0.0 || away < SAME {
        return (0.0, 0.0);
    }
    let (low, high) = clopper_pearson(total, prompts);
    let mean = total / prompts;
    let lack = |exact: f64, known: f64| weight * (exact * range - known).max(0.0);
    (lack(mean - low, known.0), lack(high - mean, known.1))
}

/// The exact 95% interval of a share, from a count that may be a real number; neither 0 nor all.
fn clopper_pearson(count: f64, all: f64) -> (f64, f64) {
    let quantile = |a, b, at| Beta::new(a, b).expect("both are positive").inverse_cdf(at);
    (quantile(count, all - count + 1.0, 1.0 - UPPER), quantile(count + 1.0, all - count, UPPER))
}

/// The half-width of the 95% interval of an estimate with these independent sources of variance.
fn half_width(components: &[VarianceComponent]) -> f64 {
    let variance: f64 = components.iter().map(|component| component.variance).sum();
    if variance == 0.0 {
        return 0.0;
    }
    let weighted: f64 =
        components.iter().map(|component| quantile(component.freedom) * component.variance).sum();
    weighted / variance.sqrt()
}

fn quantile(freedom: f64) -> f64 {
    StudentsT::new(0.0, 1.0, freedom).expect("two numbers leave a degree of freedom").inverse_cdf(UPPER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose, Uniforms};

    /// A standard normal number (Box-Muller).
    fn normal(uniforms: &mut Uniforms) -> f64 {
        let (radius, turn) = ((-2.0 * (1.0 - uniforms.uniform()).ln()).sqrt(), uniforms.uniform());
        radius * (std::f64::consts::TAU * turn).cos()
    }

    /// Rewards around 0, with these standard deviations over seeds, prompts and single answers.
    fn drawn(
        seeds: usize,
        prompts: usize,
        [seed, prompt, answer]: [f64; 3],
        uniforms: &mut Uniforms,
    ) -> SeedPromptMatrix {
        let of_prompts: Vec<f64> = (0..prompts).map(|_| prompt * normal(uniforms)).collect();
        let of_seed = |_| {
            let of_seed = seed * normal(uniforms);
            of_prompts.iter().map(|of_prompt| of_seed + of_prompt + answer * normal(uniforms)).collect()
        };
        SeedPromptMatrix { numbers: (0..seeds).map(of_seed).collect(), bounds: None }
    }

    fn estimate(numbers: Vec<Vec<f64>>, bounds: Option<(f64, f64)>) -> Estimate {
        Estimate { columns: vec![SeedPromptMatrix { numbers, bounds }] }
    }

    fn covered(trials: u32, mut trial: impl FnMut(&mut Uniforms) -> Estimate) -> f64 {
        let mut uniforms = Key::new(20, 0, Purpose::Sample, 0).row(0, 0);
        let inside = (0..trials).filter(|_| {
            let (low, high) = trial(&mut uniforms).interval();
            low <= 0.0 && 0.0 <= high
        });
        inside.count() as f64 / f64::from(trials)
    }

    /// The coverage of intervals, whichever varies most: seeds, prompts, answers, or all alike.
    #[test]
    fn intervals_cover_what_they_promise() {
        const TRIALS: u32 = 2000;
        for seeds in [2, 3, 5, 10] {
            for deviations in [
                [0.0, 1.0, 1.0],
                [0.0, 0.3, 1.0],
                [0.0, 1.0, 0.3],
                [0.1, 1.0, 1.0],
                [0.2, 1.0, 1.0],
                [0.5, 1.0, 1.0],
                [2.0, 1.0, 1.0],
            ] {
                let share = covered(TRIALS, |uniforms| Estimate {
                    columns: vec![drawn(seeds, 60, deviations, uniforms)],
                });
                assert!(share >= 0.93, "{seeds} seeds, {deviations:?}: {share}");
            }
            // Three sets of prompts, as of a normalized score, and the difference of two runs with the same
            // seeds and prompts.
            let share = covered(TRIALS, |uniforms| {
                let columns = [40, 25, 60].map(|prompts| drawn(seeds, prompts, [0.1, 0.5, 0.5], uniforms));
                Estimate { columns: columns.to_vec() }
            });
            assert!(share >= 0.93, "{seeds} seeds, three columns: {share}");
        }
        // One seed shows the variance of prompts only: right where seeds are alike, else too short.
        let share = |seed| {
            covered(TRIALS, |uniforms| Estimate { columns: vec![drawn(1, 60, [seed, 1.0, 1.0], uniforms)] })
        };
        assert!((0.93..0.97).contains(&share(0.0)), "{}", share(0.0));
        assert!(share(0.5) < 0.6, "{}", share(0.5));
    }

    /// Worked out by hand: two seeds with means 0.25 and 0.75, prompts all alike; t of one degree of freedom
    /// is 12.706.
    #[test]
    fn interval_of_two_seeds_uses_one_degree_of_freedom() {
        let estimate = estimate(vec![vec![0.25; 8], vec![0.75; 8]], None);
        let (low, high) = estimate.interval();
        assert!((estimate.value() - 0.5).abs() < 1e-12);
        assert!(
            (high - 0.5 - 12.7062 * 0.25).abs() < 1e-4 && (0.5 - low - 12.7062 * 0.25).abs() < 1e-4,
            "{low} {high}"
        );
    }

    #[test]
    fn interval_of_equal_rewards_is_not_empty() {
        let all = |verdict: f64| estimate(vec![vec![verdict; 200]; 3], Some((0.0, 1.0)));
        let (low, high) = all(1.0).interval();
        assert!((low - 0.9817).abs() < 1e-4 && high == 1.0, "{low}");
        let (low, high) = all(0.0).interval();
        assert!(low == 0.0 && (high - 0.0183).abs() < 1e-4, "{high}");
        let nearly = (0..40).map(|prompt| f64::from(u8::from(prompt > 0))).collect();
        let nearly = estimate(vec![nearly], Some((0.0, 1.0)));
        let (low, high) = nearly.interval();
        // The exact lower end of 39 of 40, from R's binom.test.
        assert!((low - 0.868_414).abs() < 1e-6 && high == 1.0, "{low} {high}");
    }

    /// The interval of this many ones among zeros.
    fn of_count(ones: usize, prompts: usize) -> (f64, f64) {
        let answers = (0..prompts).map(|prompt| f64::from(u8::from(prompt < ones))).collect();
        estimate(vec![answers], Some((0.0, 1.0))).interval()
    }

    /// Coverage for every count, with its exact probability. The variance alone covers 85% near 0 and 1.
    #[test]
    fn intervals_near_the_ends_of_the_range_cover_what_they_promise() {
        for prompts in [10, 50, 100, 200] {
            let intervals: Vec<_> = (0..=prompts).map(|ones| of_count(ones, prompts)).collect();
            for share in (1..200).map(|part| f64::from(part) / 200.0) {
                let mut logarithm = prompts as f64 * (1.0 - share).ln();
                let mut covered = 0.0;
                for (ones, (low, high)) in intervals.iter().enumerate() {
                    covered += if (*low..=*high).contains(&share) { logarithm.exp() } else { 0.0 };
                    let next = (prompts - ones) as f64 / (ones + 1) as f64;
                    logarithm += (share / (1.0 - share) * next).ln();
                }
                assert!(covered > 0.92, "{share} of {prompts}: {covered}");
                let near_an_end = share.min(1.0 - share) * prompts as f64 <= 3.0;
                assert!(!near_an_end || covered >= 0.95, "{share} of {prompts}: {covered}");
            }
            // More right answers never have a lower end.
            let rises = |pair: &[(f64, f64)]| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1;
            assert!(intervals.windows(2).all(rises), "{prompts}: {intervals:?}");
        }
    }

    /// Several seeds answer the same prompts. A fiftieth of all prompts is hard, and half of the answers to
    /// these are wrong.
    #[test]
    fn intervals_of_several_seeds_near_an_end_cover_what_they_promise() {
        const TRIALS: u32 = 2000;
        let mut uniforms = Key::new(21, 0, Purpose::Sample, 0).row(0, 0);
        for seeds in [2, 3, 5] {
            let covers = |_: &u32| {
                let hard: Vec<bool> = (0..100).map(|_| uniforms.uniform() < 0.02).collect();
                let mut answer = |hard: &bool| f64::from(u8::from(!*hard || uniforms.uniform() < 0.5));
                let numbers = (0..seeds).map(|_| hard.iter().map(&mut answer).collect()).collect();
                let (low, high) = estimate(numbers, Some((0.0, 1.0))).interval();
                (low..=high).contains(&0.99)
            };
            let share = (0..TRIALS).filter(covers).count() as f64 / f64::from(TRIALS);
            assert!(share >= 0.95, "{seeds} seeds: {share}");
        }
    }
}
