//! Reads the confidence that a text states: in a panel's turns, and in the answers of an evaluation.

/// The integer after the last word `confidence` (case-insensitive) that is followed by a number, with neither
/// letters nor digits between the two. `None` where the number is not an integer, outside of the range, or
/// out of another number than the end of the range, as in `9/10`.
pub fn confidence((low, high): (i64, i64), text: &str) -> Option<i64> {
    let StatedConfidence { marks, number, of, .. } = stated(text)?;
    if number.contains(SEPARATORS) || of.is_some_and(|of| of.parse() != Ok(high)) {
        return None;
    }
    let number: i64 = number.parse().ok()?;
    // Where the range has no negative numbers, a dash right after the word is not a sign.
    let negative = if low < 0 { marks.ends_with(MINUS) } else { is_negative(marks) };
    let number = if negative { -number } else { number };
    (low..=high).contains(&number).then_some(number)
}

/// The integer that [`probability`] returns for a confidence of 1: integers, so that sums are exact.
pub const WHOLE: i64 = 10_000;

/// Reads the same number as a probability, in units of 1 / [`WHOLE`]. `85`, `85%` and `85.5` are percent; a
/// number up to 1 is the probability itself (`0.85`, `.85`, `1`), unless a percent sign follows it. `9/10` is
/// the fraction. A negative number is none.
pub fn probability(text: &str) -> Option<i64> {
    let StatedConfidence { marks, number, of, percent } = stated(text)?;
    if is_negative(marks) {
        return None;
    }
    let parsed = |number: &str| number.replace(',', ".").parse::<f64>().ok();
    let number = parsed(number)?;
    let probability = match of {
        Some(of) => number / parsed(of).filter(|of| *of > 0.0 && !percent)?,
        None if number <= 1.0 && !percent => number,
        None => number / 100.0,
    };
    (probability <= 1.0).then(|| (probability * WHOLE as f64).round() as i64)
}

/// The number after the word `confidence`.
struct StatedConfidence<'t> {
    /// The text between word and number.
    marks: &'t str,
    /// Digits, with at most one decimal separator between or before them.
    number: &'t str,
    /// The number behind a slash, as in `9/10`.
    of: Option<&'t str>,
    /// Whether a percent sign follows.
    percent: bool,
}

const SEPARATORS: [char; 2] = ['.', ','];
/// A hyphen, and the sign itself.
const MINUS: [char; 2] = ['-', '\u{2212}'];

/// Whether marks before a number end in a sign: `: -` does, a dash right after the word (` -`) does not.
fn is_negative(marks: &str) -> bool {
    let before = marks.trim_end_matches(MINUS);
    before.len() < marks.len() && !before.trim().is_empty()
}

fn stated(text: &str) -> Option<StatedConfidence<'_>> {
    const WORD: &str = "confidence";
    // ASCII lowercase keeps the length in bytes, so offsets are those of `text`.
    let lower = text.to_ascii_lowercase();
    let behind = |at: usize| {
        let rest = &text[at + WORD.len()..];
        let first = rest.find(char::is_alphanumeric)?;
        // A separator right before the digits belongs to the number, as in `.85`.
        let begin = first - usize::from(rest[..first].ends_with(SEPARATORS));
        let number = digits(&rest[begin..])?;
        let mut after = &rest[begin + number.len()..];
        let divided = after.trim_start();
        let divided = divided.strip_prefix('/').or_else(|| divided.strip_prefix("out of "));
        let of = divided.and_then(|whole| digits(whole.trim_start()));
        if let Some(of) = of {
            after = &after[after.find(of).unwrap_or(0) + of.len()..];
        }
        // `1e-3`, and the date `1/2/2025`.
        let goes_on = after.starts_with(char::is_alphabetic) || (of.is_some() && after.starts_with('/'));
        let percent = after.trim_start().starts_with('%');
        Some((!goes_on).then_some(StatedConfidence { marks: &rest[..begin], number, of, percent }))
    };
    lower.match_indices(WORD).filter_map(|(at, _)| behind(at)).last().flatten()
}

/// The digits that a text begins with, with at most one decimal separator between or before them.
fn digits(text: &str) -> Option<&str> {
    let count = |text: &str| text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let whole = count(text);
    let decimals = if text[whole..].starts_with(SEPARATORS) { count(&text[whole + 1..]) } else { 0 };
    let end = whole + if decimals > 0 { 1 + decimals } else { 0 };
    (end > 0).then_some(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confidence_is_the_last_one_that_is_stated() {
        let percent = |text| confidence((0, 100), text);
        for (text, stated) in [
            ("1 2 3\nConfidence: 85", Some(85)),
            ("Confidence: 10. No: confidence = 70%.", Some(70)),
            ("**Confidence:** 85/100", Some(85)),
            ("<confidence>7</confidence>", Some(7)),
            ("CONFIDENCE - 40", Some(40)),
            ("Confidence:\n0", Some(0)),
            ("Confidence: 85. I speak with confidence.", Some(85)),
            ("größer, Confidence: 100", Some(100)),
            ("Confidence: 101", None),
            ("Confidence: 85, then Confidence: 850", None),
            ("Confidence: 0.85", None),
            ("Confidence: .85", None),
            ("Confidence: 85,5", None),
            ("Confidence: 99999999999999999999", None),
            ("My confidence is 85", None),
            ("Confidence: high (85)", None),
            ("the answer is 85", None),
            ("Confidence", None),
            ("Confidence: ٣", None),
            ("Confidence: 9/10", None),
            ("Confidence: 1e-3", None),
            ("Confidence: 85/100/2", None),
            ("Confidence: 85th percentile", None),
            ("", None),
        ] {
            assert_eq!(percent(text), stated, "{text:?}");
        }
        assert_eq!(confidence((-5, 5), "Confidence: -3"), Some(-3));
        assert_eq!(confidence((0, 5), "Confidence -3"), Some(3));
        assert_eq!(confidence((0, 5), "Confidence: -3"), None);
        assert_eq!(confidence((0, 5), "Confidence: 3/5"), Some(3));
    }

    #[test]
    fn a_probability_may_be_in_percent() {
        for (text, stated) in [
            ("Confidence: 85", Some(8500)),
            ("Confidence: 85%", Some(8500)),
            ("Confidence: 85.5", Some(8550)),
            ("Confidence: 85,25 %", Some(8525)),
            ("Confidence: 0.85", Some(8500)),
            ("Confidence: .85", Some(8500)),
            ("Confidence: 0.33333.", Some(3333)),
            ("Confidence: 0.75, then Confidence: 0.5.", Some(5000)),
            ("Confidence: 1", Some(10_000)),
            ("Confidence: 1.", Some(10_000)),
            ("Confidence: 1%", Some(100)),
            ("Confidence: 0.5%", Some(50)),
            ("Confidence: 1.5", Some(150)),
            ("Confidence: 0", Some(0)),
            ("Confidence: 100", Some(10_000)),
            ("**Confidence:** 85/100", Some(8500)),
            ("Confidence: 9/10", Some(9000)),
            ("Confidence: 1/2", Some(5000)),
            ("Confidence: 8.5/10.", Some(8500)),
            ("Confidence: 1/1", Some(10_000)),
            ("Confidence: 11/10", None),
            ("Confidence: 0/0", None),
            ("Confidence: 1/2/2025", None),
            ("Confidence: 1e-3", None),
            ("Confidence: -5", None),
            ("Confidence: \u{2212}5", None),
            ("Confidence: 9 / 10", Some(9000)),
            ("Confidence: 9 out of 10", Some(9000)),
            ("Confidence: 90, then Confidence: 9e1", None),
            ("Confidence: 85 percent", Some(8500)),
            ("Confidence - 85", Some(8500)),
            ("Confidence: 100.5", None),
            ("Confidence: 101", None),
            ("Confidence: high", None),
            ("85", None),
        ] {
            assert_eq!(probability(text), stated, "{text:?}");
        }
    }
}
