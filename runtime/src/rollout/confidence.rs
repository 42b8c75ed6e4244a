//! Reads the confidence that a text states: in a panel's turns, and in the answers of an evaluation.

/// The integer after the last word `confidence` (case-insensitive) that is followed by a number, with neither
/// letters nor digits between the two. `None` where the number is not an integer, or outside of the range.
pub fn confidence((low, high): (i64, i64), text: &str) -> Option<i64> {
    let StatedConfidence { marks, number, .. } = stated(text)?;
    if number.contains(SEPARATORS) {
        return None;
    }
    let number: i64 = number.parse().ok()?;
    // Where the range has no negative numbers, a dash before the number is not a sign.
    let number = if low < 0 && marks.ends_with('-') { -number } else { number };
    (low..=high).contains(&number).then_some(number)
}

/// The integer that [`probability`] returns for a confidence of 1: integers, so that sums are exact.
pub const WHOLE: i64 = 10_000;

/// Reads the same number as a probability, in units of 1 / [`WHOLE`]. `85`, `85%` and `85.5` are percent; a
/// number up to 1 is the probability itself (`0.85`, `.85`, `1`), unless a percent sign follows it.
pub fn probability(text: &str) -> Option<i64> {
    let StatedConfidence { number, percent, .. } = stated(text)?;
    let number: f64 = number.replace(',', ".").parse().ok()?;
    let probability = if number <= 1.0 && !percent { number } else { number / 100.0 };
    (probability <= 1.0).then(|| (probability * WHOLE as f64).round() as i64)
}

/// The number after the word `confidence`.
struct StatedConfidence<'t> {
    /// The text between word and number.
    marks: &'t str,
    /// Digits, with at most one decimal separator between or before them.
    number: &'t str,
    /// Whether a percent sign follows.
    percent: bool,
}

const SEPARATORS: [char; 2] = ['.', ','];

fn stated(text: &str) -> Option<StatedConfidence<'_>> {
    const WORD: &str = "confidence";
    // ASCII lowercase keeps the length in bytes, so offsets are those of `text`.
    let lower = text.to_ascii_lowercase();
    let digits = |text: &str| text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len());
    let behind = |at: usize| {
        let rest = &text[at + WORD.len()..];
        let first = rest.find(char::is_alphanumeric)?;
        let whole = digits(&rest[first..]);
        // A separator right before the digits belongs to the number, as in `.85`.
        let begin = first - usize::from(rest[..first].ends_with(SEPARATORS));
        let mut end = first + whole;
        if begin == first && rest[end..].starts_with(SEPARATORS) {
            let decimals = digits(&rest[end + 1..]);
            end += if decimals > 0 { 1 + decimals } else { 0 };
        }
        let percent = rest[end..].trim_start().starts_with('%');
        (whole > 0).then_some(StatedConfidence { marks: &rest[..begin], number: &rest[begin..end], percent })
    };
    lower.match_indices(WORD).filter_map(|(at, _)| behind(at)).last()
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
            ("", None),
        ] {
            assert_eq!(percent(text), stated, "{text:?}");
        }
        assert_eq!(confidence((-5, 5), "Confidence: -3"), Some(-3));
        assert_eq!(confidence((0, 5), "Confidence -3"), Some(3));
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
            ("Confidence: 100.5", None),
            ("Confidence: 101", None),
            ("Confidence: high", None),
            ("85", None),
        ] {
            assert_eq!(probability(text), stated, "{text:?}");
        }
    }
}
