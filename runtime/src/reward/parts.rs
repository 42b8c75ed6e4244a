//! Rewards that combine several others.

use std::path::Path;

use mopd_plan::RewardPart;

use super::{Judge, Judgement, RewardError, RewardInput, Verifier};
use crate::control::Control;

pub(super) struct Parts(Vec<Part>);

/// One of several verifiers whose rewards are combined.
pub(super) struct Part {
    pub name: String,
    weight: f64,
    pub verifier: Verifier,
}

impl Parts {
    pub fn new(parts: &[RewardPart], base: &Path) -> Result<Parts, RewardError> {
        let part = |RewardPart { name, weight, reward }: &RewardPart| {
            let verifier = Verifier::new(reward, base)?;
            Ok(Part { name: name.clone(), weight: *weight, verifier })
        };
        parts.iter().map(part).collect::<Result<_, RewardError>>().map(Parts)
    }
}

impl Judge for Parts {
    fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError> {
        let Parts(parts) = self;
        let mut of_parts = Vec::with_capacity(parts.len());
        for part in parts {
            of_parts.push(part.verifier.judge(answers, control)?);
        }
        let of_answer = |answer: usize| {
            combined(parts.iter().zip(&of_parts).map(|(part, verdicts)| (part, &verdicts[answer])))
        };
        Ok((0..answers.len()).map(of_answer).collect())
    }

    fn parts(&self) -> &[Part] {
        &self.0
    }
}

/// The weighted mean of parts. It is divided by the rounded sum of the weights, so that it is 1 where
/// every part is 1.
fn combined<'a>(said: impl Iterator<Item = (&'a Part, &'a Judgement)>) -> Judgement {
    let (mut sum, mut weights) = (0.0, 0.0);
    let (mut words, mut parts) = (Vec::new(), Vec::new());
    for (Part { name, weight, .. }, verdict) in said {
        sum += weight * verdict.reward;
        weights += weight;
        words.extend(verdict.feedback.as_ref().map(|words| format!("{name}: {words}")));
        parts.push((name.clone(), verdict.reward));
    }
    let feedback = (!words.is_empty()).then(|| words.join("\n"));
    Judgement { reward: sum / weights, feedback, parts }
}
