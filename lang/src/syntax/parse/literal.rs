//! Numbers and texts.

use pest::iterators::Pair;

use super::Rule;
use super::build::AstBuilder;
use crate::diag::{Code, Diagnostic};
use crate::syntax::ast::{Expr, ExprKind, Text};
use crate::syntax::quotes;

impl<'a> AstBuilder<'a> {
    pub fn number_literal(&mut self, pair: Pair<'a, Rule>) -> Expr {
        let span = self.span(&pair);
        let mut kind = ExprKind::Error;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::number => {
                    kind = match number(part.as_str()) {
                        Ok(value) => {
                            if value.is_subnormal() {
                                self.report(lost_digits(self.span(&part), part.as_str()));
                            }
                            ExprKind::Number { value, suffix: None }
                        }
                        Err(problem) => {
                            self.report(problem.into_diagnostic(self.span(&part), part.as_str()));
                            ExprKind::Error
                        }
                    }
                }
                Rule::suffix => {
                    // Singular and plural have one form, the plural: `1 step` counts in steps.
                    let mut name = self.name(&part);
                    if !name.text.ends_with('s') {
                        name.text.push('s');
                    }
                    if let ExprKind::Number { suffix, .. } = &mut kind {
                        *suffix = Some(name);
                    }
                }
                _ => {}
            }
        }
        Expr { span, kind }
    }

    /// The text between quotes, its escapes resolved.
    pub fn text_literal(&mut self, pair: &Pair<'a, Rule>) -> Text {
        let span = self.span(pair);
        let source = pair.as_str();
        if let Some((at, length)) = quotes::outdented(source) {
            let begins = span.start as usize + at;
            let place = self.span_at(begins, begins + length.max(1));
            let text = "this line is indented less than the closing quotes of its text";
            let help = "the indentation of the closing `\"\"\"` is left out of every line: move the line or the quotes";
            self.report(Diagnostic::error(Code::Syntax, place, text).help(help));
        }
        let written = quotes::inside(source);
        let mut text = String::with_capacity(written.len());
        let mut characters = written.into_iter();
        while let Some((at, character)) = characters.next() {
            if character != '\\' {
                text.push(character);
                continue;
            }
            match characters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, '"')) => text.push('"'),
                Some((_, '\\')) => text.push('\\'),
                // The line goes on.
                Some((_, '\n')) | None => {}
                Some((_, other)) => {
                    let start = span.start as usize + at;
                    let place = self.span_at(start, start + 1 + other.len_utf8());
                    let diagnostic =
                        Diagnostic::error(Code::Syntax, place, format!("`\\{other}` is not an escape"))
                            .label("the escapes are `\\n`, `\\t`, `\\\"` and `\\\\`")
                            .replace_with("write a backslash itself", format!("\\\\{other}"));
                    self.report(diagnostic);
                    text.push('\\');
                    text.push(other);
                }
            }
        }
        Text { text, span }
    }
}

/// `120tokens`, `1k`, `2M`: a number with a unit or a multiplier directly after it.
fn spelled_out(written: &str) -> Option<String> {
    if let Some(digits) = written.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(|number| number.to_string());
    }
    // `15O`: letters that look like digits.
    let digit = |c: char| match c {
        'O' | 'o' => '0',
        'l' | 'I' => '1',
        c => c,
    };
    let read: String = written.chars().map(digit).collect();
    if read != written && read.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(read);
    }
    let digits = written.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = written.split_at(digits);
    if number.is_empty() {
        return None;
    }
    Some(match rest {
        "steps" | "step" | "epochs" | "epoch" | "tokens" | "token" => format!("{number} {rest}"),
        "k" | "K" => format!("{number}_000"),
        "M" => format!("{number}_000_000"),
        _ => return None,
    })
}

#[derive(Debug, PartialEq)]
enum NumberError {
    /// `.5`
    NoLeadingDigit,
    TooLarge,
    /// A number other than 0 that is rounded to 0.
    TooSmall,
    Other,
}

impl NumberError {
    fn into_diagnostic(self, span: crate::source::Span, written: &str) -> Diagnostic {
        match self {
            NumberError::NoLeadingDigit => {
                Diagnostic::error(Code::Syntax, span, "a number begins with a digit, not with its point")
                    .replace_with("write a zero", format!("0{written}"))
            }
            NumberError::TooLarge => {
                Diagnostic::error(Code::Syntax, span, format!("`{written}` is too large for a number"))
                    .label("larger than any 64-bit float")
            }
            NumberError::TooSmall => {
                Diagnostic::error(Code::Syntax, span, format!("`{written}` is too small for a number"))
                    .label("smaller than any 64-bit float: it would be 0")
                    .help("write `0`, or a number of at least 1e-300")
            }
            NumberError::Other => {
                let diagnostic =
                    Diagnostic::error(Code::Syntax, span, format!("`{written}` is not a number"))
                        .label("numbers look like `1_000`, `0.5`, `3e-6` or `35%`");
                match spelled_out(written) {
                    Some(ours) => diagnostic
                        .help(format!("write `{ours}`"))
                        .replace_with(format!("write `{ours}`"), ours),
                    None => diagnostic,
                }
            }
        }
    }
}

fn lost_digits(span: crate::source::Span, written: &str) -> Diagnostic {
    Diagnostic::warning(Code::OutOfRange, span, format!("`{written}` is too small to keep its digits"))
        .label("smaller than any normal 64-bit float, and 0 in single precision")
        .help("write `0` if that is meant, or a number of at least 1e-300")
}

/// The value of a number as written: digits with single underscores between them, a fraction, an exponent, a
/// percent sign.
fn number(written: &str) -> Result<f64, NumberError> {
    if written.starts_with('.') {
        return Err(NumberError::NoLeadingDigit);
    }
    let (body, percent) = match written.strip_suffix('%') {
        Some(body) => (body, true),
        None => (written, false),
    };
    let (mantissa, exponent) = match body.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (body, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let sound = |digits: &str| {
        digits.split('_').all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if !sound(whole) || !fraction.is_none_or(sound) || !exponent.is_none_or(sound) {
        return Err(NumberError::Other);
    }
    let value: f64 = body.replace('_', "").parse().map_err(|_| NumberError::Other)?;
    if !value.is_finite() {
        return Err(NumberError::TooLarge);
    }
    let value = if percent { value / 100.0 } else { value };
    if value == 0.0 && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')) {
        return Err(NumberError::TooSmall);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_the_field_writes_them() {
        for (written, value) in [
            ("0", 0.0),
            ("1_000", 1000.0),
            ("3e-6", 3e-6),
            ("35%", 0.35),
            ("2.5E+3", 2500.0),
            ("4_096", 4096.0),
            ("0.95", 0.95),
        ] {
            assert_eq!(number(written), Ok(value), "{written}");
        }
    }

    #[test]
    fn malformed_numbers_are_no_numbers() {
        for written in ["3x", "1__0", "1_", "0x10", "1e", "1.2.3", "5steps"] {
            assert_eq!(number(written), Err(NumberError::Other), "{written}");
        }
        assert_eq!(number(".5"), Err(NumberError::NoLeadingDigit));
        assert_eq!(number("1e999"), Err(NumberError::TooLarge));
        for written in ["1e-5000", "0.001e-400", "1e-323%"] {
            assert_eq!(number(written), Err(NumberError::TooSmall), "{written}");
        }
        for written in ["0e-5000", "0.000", "0%"] {
            assert_eq!(number(written), Ok(0.0), "{written}");
        }
    }
}
