//! Models' answers to held-out prompts: the stored statistics of the completions of each prompt, and the
//! metrics that tables show of them.

use std::collections::HashSet;

use mopd_plan::Metric;
use serde::{Deserialize, Serialize};

use crate::rollout::confidence::WHOLE;

/// One completion, judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer<'a> {
    /// In [0, 1].
    pub reward: f64,
    pub text: &'a str,
    /// Number of tokens, the end token included.
    pub tokens: u32,
    /// The confidence that it states, in units of 1 / [`WHOLE`]; `None` where it states none.
    pub confidence: Option<i64>,
}

/// The completions of one test prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptAnswers {
    pub samples: u32,
    /// Sum over the samples.
    pub reward: f64,
    /// Samples with reward 1.
    pub correct: u32,
    /// Number of different texts among the samples.
    pub distinct: u32,
    /// Mean number of tokens.
    pub length: f64,
    /// Number of samples that state a confidence; statistics of confidences are of these only.
    pub stated: u32,
    /// Differences between stated confidences and outcomes.
    pub gaps: CalibrationGaps,
}

/// Differences between a confidence and the outcome, which is [`WHOLE`] if the answer is correct, else 0.
/// Integers, so that sums are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibrationGaps {
    /// Sums of confidence minus outcome, over the answers in each [`bin`].
    pub bins: [i64; BINS],
    /// Sum of squares over all answers.
    pub squares: i64,
}

/// Number of bins of confidence, of equal width.
pub const BINS: usize = 10;

/// The bin of a confidence: `((m - 1) / 10, m / 10]`, and 0 is in the first (arXiv:1706.04599, section 3).
fn bin(confidence: i64) -> usize {
    ((confidence - 1).max(0) as usize * BINS / WHOLE as usize).min(BINS - 1)
}

impl PromptAnswers {
    /// # Panics
    /// If there is no completion.
    pub fn from_answers(answers: &[Answer]) -> PromptAnswers {
        assert!(!answers.is_empty(), "a prompt has at least one completion");
        let samples = answers.len() as f64;
        let mut gaps = CalibrationGaps::default();
        for answer in answers {
            let Some(confidence) = answer.confidence else { continue };
            let gap = confidence - if answer.reward >= 1.0 { WHOLE } else { 0 };
            gaps.bins[bin(confidence)] += gap;
            gaps.squares += gap * gap;
        }
        PromptAnswers {
            samples: answers.len() as u32,
            reward: answers.iter().map(|answer| answer.reward).sum(),
            correct: answers.iter().filter(|answer| answer.reward >= 1.0).count() as u32,
            distinct: answers.iter().map(|answer| answer.text).collect::<HashSet<_>>().len() as u32,
            length: answers.iter().map(|answer| f64::from(answer.tokens)).sum::<f64>() / samples,
            stated: answers.iter().filter(|answer| answer.confidence.is_some()).count() as u32,
            gaps,
        }
    }

    /// Mean over the samples; equals pass@1 where rewards are 0 or 1.
    pub fn mean_reward(&self) -> f64 {
        self.reward / f64::from(self.samples)
    }

    /// A metric of this prompt; `None` for metrics that are not means over prompts.
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::PassAt { k } => Some(self.pass_at(k)),
            Metric::Distinct => Some(f64::from(self.distinct) / f64::from(self.samples)),
            Metric::Length => Some(self.length),
            Metric::Stated => Some(f64::from(self.stated) / f64::from(self.samples)),
            Metric::Ece | Metric::Brier => None,
        }
    }

    /// `1 - C(n - c, k) / C(n, k)`: the share of all choices of `k` of the `n` samples that contain at least
    /// one of the `c` correct ones (arXiv:2107.03374, equation 1).
    fn pass_at(&self, k: u32) -> f64 {
        let wrong = self.samples - self.correct;
        if wrong < k {
            return 1.0;
        }
        let missed = (wrong + 1..=self.samples).map(|i| 1.0 - f64::from(k) / f64::from(i));
        1.0 - missed.product::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(correct: u32, samples: u32) -> PromptAnswers {
        let of = |index| Answer {
            reward: f64::from(u8::from(index < correct)),
            text: "",
            tokens: 1,
            confidence: None,
        };
        PromptAnswers::from_answers(&(0..samples).map(of).collect::<Vec<_>>())
    }

    /// By going through all subsets.
    fn counted(correct: u32, samples: u32, k: u32) -> f64 {
        let subsets = (0u32..1 << samples).filter(|subset| subset.count_ones() == k);
        let (mut passed, mut all) = (0, 0);
        for subset in subsets {
            all += 1;
            passed += u32::from(subset & ((1 << correct) - 1) != 0);
        }
        f64::from(passed) / f64::from(all)
    }

    #[test]
    fn pass_at_k_is_the_share_of_subsets_with_a_correct_sample() {
        for samples in 1..=8 {
            for correct in 0..=samples {
                for k in 1..=samples {
                    let found = answers(correct, samples).metric(Metric::PassAt { k }).unwrap();
                    let wanted = counted(correct, samples, k);
                    assert!((found - wanted).abs() < 1e-12, "{correct} of {samples}, {k}: {found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn a_sample_is_correct_with_the_whole_reward() {
        let answer = |reward, text, tokens| Answer { reward, text, tokens, confidence: None };
        let found =
            PromptAnswers::from_answers(&[answer(1.0, "a", 2), answer(0.5, "b", 3), answer(0.0, "a", 7)]);
        assert_eq!((found.samples, found.correct, found.distinct), (3, 1, 2));
        assert_eq!((found.mean_reward(), found.length), (0.5, 4.0));
        assert_eq!(found.metric(Metric::Distinct), Some(2.0 / 3.0));
        assert_eq!(found.metric(Metric::Length), Some(4.0));
        assert_eq!((found.metric(Metric::Stated), found.gaps), (Some(0.0), CalibrationGaps::default()));
    }

    #[test]
    fn bins_have_their_upper_end() {
        let bins = [0, 1, 1000, 1001, 2000, 9000, 9001, 10_000].map(bin);
        assert_eq!(bins, [0, 0, 0, 1, 1, 8, 9, 9]);
    }

    #[test]
    fn answers_without_confidence_are_not_counted() {
        let answer = |reward, confidence| Answer { reward, text: "", tokens: 1, confidence };
        let found = PromptAnswers::from_answers(&[
            answer(1.0, Some(8500)),
            answer(0.0, Some(3000)),
            answer(0.0, None),
        ]);
        assert_eq!((found.stated, found.metric(Metric::Stated)), (2, Some(2.0 / 3.0)));
        assert_eq!(found.gaps.bins, [0, 0, 3000, 0, 0, 0, 0, 0, -1500, 0]);
        assert_eq!(found.gaps.squares, 9_000_000 + 2_250_000);
    }
}
