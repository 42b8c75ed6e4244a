//! How sure a text says that it is: in a panel's turns, and in the answers of an evaluation.

/// The whole number behind the last `confidence`, in capitals or not, that a number follows: between the two
/// are neither letters nor digits. None where that number is not whole, or outside of the range.
pub fn confidence((low, high): (i64, i64), text: &str) -> Option<i64> {
    const WORD: &str = "confidence";
    // Of as many bytes, so that places are the same.
    let lower = text.to_ascii_lowercase();
    let behind = |at: usize| {
        let rest = &text[at + WORD.len()..];
        let first = rest.find(char::is_alphanumeric)?;
        let (marks, number) = rest.split_at(first);
        let digits = number.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(number.len());
        (digits > 0).then_some((marks, number.split_at(digits)))
    };
    let stated = lower.match_indices(WORD).filter_map(|(at, _)| behind(at));
    let (marks, (digits, after)) = stated.last()?;
    let mut after = after.chars();
    let fraction =
        matches!(after.next(), Some('.' | ',')) && after.next().is_some_and(|next| next.is_ascii_digit());
    let decimals = marks.ends_with(['.', ',']);
    if fraction || decimals {
        return None;
    }
    let number: i64 = digits.parse().ok()?;
    // Where nothing is below 0, a line before a number is no sign.
    let number = if low < 0 && marks.ends_with('-') { -number } else { number };
    (low..=high).contains(&number).then_some(number)
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
}
