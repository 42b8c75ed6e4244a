//! Rewards that compare a completion with a pattern, or with a field of its data line.

use std::str::FromStr;

use bigdecimal::BigDecimal;
use mopd_plan::Reward;

use super::unmatched::Unmatched;
use super::{Judge, Judgement, RewardError, RewardInput, missing, text};
use crate::control::Control;
use crate::data::FieldKind;
use crate::data::numerals::{self, Numeral};
use crate::quote::quote;
use crate::zip::zip_equal;

/// Of a domain without a reward.
pub(super) struct NoReward;

impl Judge for NoReward {
    fn judge(&self, _: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        Err(RewardError::None)
    }

    fn is_none(&self) -> bool {
        true
    }
}

pub(super) struct ExactMatchRule {
    pub field: String,
}

impl Judge for ExactMatchRule {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        each(answers, |answer| Ok(answer.completion == text(answer, &self.field)?))
    }
}

pub(super) struct NumericRule {
    field: String,
    tolerance: f64,
    unmatched: Unmatched,
}

impl NumericRule {
    pub fn new(field: &str, tolerance: f64) -> NumericRule {
        NumericRule { field: field.to_owned(), tolerance, unmatched: Unmatched::default() }
    }
}

impl Judge for NumericRule {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        let NumericRule { field, tolerance, unmatched } = self;
        let stated: Vec<Option<Numeral>> =
            answers.iter().map(|answer| numerals::stated(answer.completion)).collect();
        unmatched.count(answers, &stated.iter().map(Option::is_some).collect::<Vec<_>>());
        zip_equal(answers, stated)
            .map(|(answer, stated)| {
                let target = numerals::whole(&text(answer, field)?);
                let target = target.ok_or_else(|| missing(answer, field, FieldKind::Number))?;
                let accepts = stated.is_some_and(|stated| within(&stated, &target, *tolerance));
                Ok(Judgement::from_verdict(accepts))
            })
            .collect()
    }

    fn take_warnings(&self) -> Vec<String> {
        self.unmatched.take_warning("numeric", "number").into_iter().collect()
    }
}

pub(super) struct RegexRule {
    pattern: regex::Regex,
    field: String,
    unmatched: Unmatched,
}

impl RegexRule {
    pub fn new(pattern: &str, field: &str) -> Result<RegexRule, RewardError> {
        let compiled = regex::Regex::new(pattern).map_err(|error| RewardError::Described {
            message: format!("the pattern {} is not a regular expression", quote(pattern)),
            help: error.to_string(),
        })?;
        Ok(RegexRule { pattern: compiled, field: field.to_owned(), unmatched: Unmatched::default() })
    }
}

impl Judge for RegexRule {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        let RegexRule { pattern, field, unmatched } = self;
        let group = Reward::ANSWER_GROUP;
        if !pattern.capture_names().flatten().any(|name| name == group) {
            return each(answers, |answer| Ok(pattern.is_match(answer.completion)));
        }
        let found: Vec<Option<regex::Captures>> =
            answers.iter().map(|answer| pattern.captures(answer.completion)).collect();
        unmatched.count(answers, &found.iter().map(Option::is_some).collect::<Vec<_>>());
        zip_equal(answers, found)
            .map(|(answer, found)| {
                let target = text(answer, field)?;
                let stated = found.and_then(|found| found.name(group));
                Ok(Judgement::from_verdict(stated.is_some_and(|stated| stated.as_str() == target)))
            })
            .collect()
    }

    fn take_warnings(&self) -> Vec<String> {
        self.unmatched.take_warning("regex", "match of its pattern").into_iter().collect()
    }
}

/// Judges each answer by a rule.
fn each(
    answers: &[RewardInput],
    accepts: impl Fn(&RewardInput) -> Result<bool, RewardError>,
) -> Result<Vec<Judgement>, RewardError> {
    answers.iter().map(|answer| Ok(Judgement::from_verdict(accepts(answer)?))).collect()
}

/// Whether two numbers differ by at most the tolerance. By decimals, because doubles round numbers of 17
/// digits, and 1.01 - 1 is not 0.01; by doubles where that needs too many digits.
fn within(one: &Numeral, other: &Numeral, tolerance: f64) -> bool {
    /// Most digits after the point, or zeros before it. Doubles have no digit beyond 1100.
    const PLACES: u64 = 4096;
    let decimal = |text: &str| {
        let number = BigDecimal::from_str(text).ok()?;
        (number.fractional_digit_count().unsigned_abs() <= PLACES).then_some(number)
    };
    let exactly = || {
        let [a, b] = [decimal(&one.numerator)?, decimal(&one.denominator)?];
        let [c, d] = [decimal(&other.numerator)?, decimal(&other.denominator)?];
        // With the shortest digits, as it is written. Denominators are above 0.
        let tolerance = decimal(&tolerance.to_string())?;
        Some((a * &d - c * &b).abs() <= tolerance * b * d)
    };
    let double = |number: &Numeral| {
        let part = |text: &str| text.parse().unwrap_or(f64::NAN);
        part(&number.numerator) / part(&number.denominator)
    };
    exactly().unwrap_or_else(|| (double(one) - double(other)).abs() <= tolerance)
}
