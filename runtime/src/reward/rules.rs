//! Rewards that compare a completion with a pattern, or with a field of its data line.

use std::str::FromStr;

use bigdecimal::BigDecimal;
use mopd_plan::Reward;

use super::{Judge, Judgement, RewardError, RewardInput, missing, text};
use crate::control::Control;
use crate::data::{self, FieldKind};
use crate::quote::quote;

pub(super) struct ExactMatchRule {
    pub field: String,
}

impl Judge for ExactMatchRule {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        each(answers, |answer| Ok(answer.completion == text(answer, &self.field)?))
    }
}

pub(super) struct NumericRule {
    pub field: String,
    pub tolerance: f64,
}

impl Judge for NumericRule {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        let NumericRule { field, tolerance } = self;
        each(answers, |answer| {
            let target = text(answer, field)?;
            let number = data::number(&target).ok_or_else(|| missing(answer, field, FieldKind::Number))?;
            Ok(data::number(answer.completion).is_some_and(|found| {
                within([answer.completion, &target], *tolerance)
                    .unwrap_or_else(|| (found - number).abs() <= *tolerance)
            }))
        })
    }
}

pub(super) struct RegexRule {
    pattern: regex::Regex,
    field: String,
}

impl RegexRule {
    pub fn new(pattern: &str, field: &str) -> Result<RegexRule, RewardError> {
        let compiled = regex::Regex::new(pattern).map_err(|error| RewardError::Described {
            message: format!("the pattern {} is not a regular expression", quote(pattern)),
            help: error.to_string(),
        })?;
        Ok(RegexRule { pattern: compiled, field: field.to_owned() })
    }
}

impl Judge for RegexRule {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        let RegexRule { pattern, field } = self;
        let group = Reward::ANSWER_GROUP;
        let has_group = pattern.capture_names().flatten().any(|name| name == group);
        each(answers, |answer| {
            if !has_group {
                return Ok(pattern.is_match(answer.completion));
            }
            let target = text(answer, field)?;
            let found = pattern.captures(answer.completion).and_then(|found| found.name(group));
            Ok(found.is_some_and(|group| group.as_str() == target))
        })
    }
}

/// Judges each answer by a rule.
fn each(
    answers: &[RewardInput],
    accepts: impl Fn(&RewardInput) -> Result<bool, RewardError>,
) -> Result<Vec<Judgement>, RewardError> {
    answers.iter().map(|answer| Ok(Judgement::from_verdict(accepts(answer)?))).collect()
}

/// Whether two numbers, as [`data::number`] reads them, differ by at most the tolerance. Decimal, because
/// doubles round numbers of 17 digits, and 1.01 - 1 is not 0.01. `None` if it needs too many digits.
fn within(numbers: [&str; 2], tolerance: f64) -> Option<bool> {
    /// Most digits after the point, or zeros before it. Doubles have no digit beyond 1100.
    const PLACES: u64 = 4096;
    let decimal = |text: &str| {
        let number = BigDecimal::from_str(&text.trim().replace(',', "")).ok()?;
        (number.fractional_digit_count().unsigned_abs() <= PLACES).then_some(number)
    };
    let [one, other] = numbers.map(decimal);
    // With the shortest digits, as it is written.
    let tolerance = decimal(&tolerance.to_string())?;
    Some((one? - other?).abs() <= tolerance)
}
