//! Calibration: how well stated confidences agree with the share of correct answers. These metrics are
//! computed from all answers together and are not means over prompts.
//!
//! With answers in bins by their confidence, the expected calibration error is `sum_b |sum of gaps in b| /
//! n`, where `n` is the number of answers that state a confidence. It equals `sum_b (n_b / n) |acc(b) -
//! conf(b)|` (arXiv:1706.04599, equations 2 and 3). The Brier score is the mean square of the same gaps.
//!
//! Intervals are computed as for other metrics: the statistic is linearised, so that each prompt has a number
//! whose mean is the statistic, and prompts and seeds have their variances and t quantiles. A bootstrap would
//! resample prompts, which adds noise inside the absolute values: its calibration errors lie above the
//! measured one, and its percentiles may not even contain it.

use mopd_plan::Metric;

use crate::report::answers::{BINS, PromptAnswers};
use crate::rollout::confidence::WHOLE;

/// The linearised statistic, per prompt. `None` without a stated confidence, and for other metrics.
pub fn linear(prompts: &[PromptAnswers], metric: Metric) -> Option<Vec<f64>> {
    let (errors, unit): (Vec<i64>, f64) = match metric {
        Metric::Ece => {
            let mut sums = [0i64; BINS];
            for prompt in prompts {
                sums.iter_mut().zip(prompt.gaps.bins).for_each(|(sum, gap)| *sum += gap);
            }
            // Where a sum is 0, either sign is right.
            let signed = |(sum, gap): (&i64, i64)| if *sum < 0 { -gap } else { gap };
            (
                prompts.iter().map(|prompt| sums.iter().zip(prompt.gaps.bins).map(signed).sum()).collect(),
                WHOLE as f64,
            )
        }
        Metric::Brier => (prompts.iter().map(|prompt| prompt.gaps.squares).collect(), (WHOLE * WHOLE) as f64),
        Metric::PassAt { .. } | Metric::Distinct | Metric::Length | Metric::Stated => return None,
    };
    let stated: u64 = prompts.iter().map(|prompt| u64::from(prompt.stated)).sum();
    if stated == 0 {
        return None;
    }
    let stated = stated as f64;
    let value = errors.iter().sum::<i64>() as f64 / unit / stated;
    // Linearisation of a ratio of sums, `e / n`: the prompt's part of `e` minus its part of `n`.
    let weight = prompts.len() as f64 / stated;
    let of_prompt = |(error, prompt): (&i64, &PromptAnswers)| {
        value + weight * (*error as f64 / unit - value * f64::from(prompt.stated))
    };
    Some(errors.iter().zip(prompts).map(of_prompt).collect())
}

#[cfg(test)]
mod tests {
    use super::super::interval::{Estimate, SeedPromptMatrix};
    use super::*;
    use crate::random::{Key, Purpose, Uniforms};
    use crate::report::answers::Answer;

    /// `confidence` is in percent.
    fn answer((confidence, right): (Option<i64>, bool)) -> Answer<'static> {
        let confidence = confidence.map(|percent| percent * WHOLE / 100);
        Answer { reward: f64::from(u8::from(right)), text: "", tokens: 1, confidence }
    }

    fn prompt(answers: &[(Option<i64>, bool)]) -> PromptAnswers {
        PromptAnswers::from_answers(&answers.iter().copied().map(answer).collect::<Vec<_>>())
    }

    fn estimate(prompts: &[PromptAnswers], metric: Metric) -> Estimate {
        let numbers = vec![linear(prompts, metric).expect("a confidence is stated")];
        Estimate { columns: vec![SeedPromptMatrix { numbers, bounds: Some((0.0, 1.0)) }] }
    }

    /// By hand. In (0.8, 0.9]: 0.85 and 0.9, one of two right: |0.5 - 0.875| = 0.375, for 2 of 5 answers. In
    /// (0.2, 0.3]: 0.3, 0.3 and 0.21, two of three right: |2/3 - 0.27|, for 3 of 5. Sum: 0.15 + 0.238.
    /// Squares: 0.15^2 + 0.9^2 + 0.7^2 + 0.3^2 + 0.79^2 = 2.0366, divided by 5.
    #[test]
    fn errors_are_those_of_the_definition() {
        let prompts = [
            prompt(&[(Some(85), true), (Some(90), false), (None, false)]),
            prompt(&[(Some(30), true), (Some(30), false), (Some(21), true)]),
            prompt(&[(None, true), (None, false), (None, false)]),
        ];
        for (metric, wanted) in [(Metric::Ece, 0.388), (Metric::Brier, 2.0366 / 5.0)] {
            let found = estimate(&prompts, metric).value();
            assert!((found - wanted).abs() < 1e-12, "{metric}: {found}");
        }
        assert_eq!(linear(&prompts[2..], Metric::Ece), None);
        assert_eq!(linear(&prompts[2..], Metric::Brier), None);
    }

    /// With many prompts, a prompt's number is to first order the statistic's change when it is left out.
    #[test]
    fn a_prompts_number_is_its_influence() {
        let mut uniforms = Key::new(3, 0, Purpose::Sample, 0).row(0, 0);
        let prompts = drawn(400, &mut uniforms);
        for metric in [Metric::Ece, Metric::Brier] {
            let whole = estimate(&prompts, metric).value();
            let each = linear(&prompts, metric).unwrap();
            for (index, number) in each.iter().enumerate().take(40) {
                let mut others = prompts.clone();
                others.remove(index);
                let without = estimate(&others, metric).value();
                let moved = (whole - without) * (prompts.len() - 1) as f64;
                assert!((moved - (number - whole)).abs() < 0.02, "{metric}: {moved} {}", number - whole);
            }
        }
    }

    /// Four answers to a prompt: two of confidence 90, right by 0.6, and two of confidence 30, right by 0.5.
    /// Answers to one prompt are correlated. Every eighth states no confidence.
    fn drawn(count: usize, uniforms: &mut Uniforms) -> Vec<PromptAnswers> {
        let of_prompt = |_| {
            let hard = if uniforms.uniform() < 0.5 { 0.2 } else { -0.2 };
            let answers = [(90, 0.6), (90, 0.6), (30, 0.5), (30, 0.5)].map(|(confidence, right)| {
                let stated = (uniforms.uniform() >= 0.125).then_some(confidence);
                (stated, uniforms.uniform() < right + hard)
            });
            prompt(&answers)
        };
        (0..count).map(of_prompt).collect()
    }

    /// True values: an error of (0.3 + 0.2) / 2, squares of (0.6 0.01 + 0.4 0.81 + 0.5 0.49 + 0.5 0.09) / 2.
    #[test]
    fn intervals_cover_what_they_promise() {
        const TRIALS: u32 = 1000;
        let mut uniforms = Key::new(4, 0, Purpose::Sample, 0).row(0, 0);
        for (metric, truth) in [(Metric::Ece, 0.25), (Metric::Brier, 0.31)] {
            let inside = (0..TRIALS).filter(|_| {
                let (low, high) = estimate(&drawn(60, &mut uniforms), metric).interval();
                low <= truth && truth <= high
            });
            let share = inside.count() as f64 / f64::from(TRIALS);
            assert!((0.93..0.98).contains(&share), "{metric}: {share}");
        }
    }

    /// An error of 0 has an interval, whether answers vary or not.
    #[test]
    fn calibration_error_zero_has_an_interval() {
        let even = [prompt(&[(Some(50), true)]), prompt(&[(Some(50), false)])].repeat(20);
        let (low, high) = estimate(&even, Metric::Ece).interval();
        assert!(low == 0.0 && (0.1..0.3).contains(&high), "{low} {high}");
        let sure = vec![prompt(&[(Some(100), true)]); 200];
        let (low, high) = estimate(&sure, Metric::Ece).interval();
        assert!(low == 0.0 && (high - 0.0183).abs() < 1e-4, "{low} {high}");
    }
}
