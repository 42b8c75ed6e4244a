//! Texts and the numbers that they state.

use super::*;

fn shown(number: Option<Numeral>) -> String {
    match number {
        None => "-".to_owned(),
        Some(Numeral { numerator, denominator }) if denominator == "1" => numerator,
        Some(Numeral { numerator, denominator }) => format!("{numerator}/{denominator}"),
    }
}

#[test]
fn an_answer_states_its_last_number() {
    for (text, number) in [
        ("18", "18"),
        (" 18\n", "18"),
        ("18.", "18"),
        ("18.0", "18.0"),
        ("The answer is 18.", "18"),
        ("x = 18", "18"),
        ("x=-3", "-3"),
        ("3 + 15 = 18", "18"),
        ("First 3, then 15, so 18", "18"),
        ("**18**", "18"),
        ("- 18", "18"),
        ("(18)", "18"),
        ("<answer>18</answer>", "18"),
        ("<think>1 and 2 make 3</think>\n\n18", "18"),
        ("018", "018"),
        // Signs.
        ("-3", "-3"),
        ("\u{2212}3", "-3"),
        ("+3", "3"),
        ("it falls to -3 degrees", "-3"),
        ("7 - 5 = 2", "2"),
        // Separators of thousands, and of decimals.
        ("1,234", "1234"),
        ("1,234,567.5", "1234567.5"),
        ("1{,}234", "1234"),
        ("1\\,234", "1234"),
        ("1\u{202f}234", "1234"),
        (".5", ".5"),
        ("3.", "3"),
        // Units, currencies, percent.
        ("18 apples", "18"),
        ("18kg", "18"),
        ("18 m", "18"),
        ("18 m^2", "18"),
        ("18 cm²", "18"),
        ("18\\text{ cm}^2", "18"),
        ("90^\\circ", "90"),
        ("18%", "18"),
        ("18\\%", "18"),
        ("$18", "18"),
        ("-$18", "-18"),
        ("\\$1,234.50", "1234.50"),
        ("€18", "18"),
        ("the 18th", "18"),
        // Fractions.
        ("1/2", "1/2"),
        ("-1 / 2", "-1/2"),
        ("\\frac{1}{2}", "1/2"),
        ("\\dfrac12", "1/2"),
        ("-\\frac{1}{2}", "-1/2"),
        ("1 1/2", "3/2"),
        ("1\\frac{1}{2}", "3/2"),
        ("-1 1/2", "-3/2"),
        // Powers of ten.
        ("1e3", "1e3"),
        ("1.5E-3", "1.5E-3"),
        ("1.5 \\times 10^{3}", "1.5e3"),
        ("1.5*10^3", "1.5e3"),
        ("10^3", "1e3"),
        // Boxes and lines of GSM8K.
        ("\\boxed{18}", "18"),
        ("So 3 of 4: $\\boxed{\\frac{3}{4}}$. That took 2 steps.", "3/4"),
        ("\\boxed{\\text{Answer: } 18}", "18"),
        ("\\boxed{17}? No: \\boxed{x = 18 \\text{ cm}}", "18"),
        ("3 + 15\n#### 18", "18"),
        ("#### 1,234\nThat took 2 steps.", "1234"),
        ("#### Step 2\nIt is 18.", "18"),
        // Digits of full width.
        ("\u{ff15}", "5"),
    ] {
        assert_eq!(shown(stated(text)), number, "{text:?}");
    }
}

/// A number that is a part of something else is not read in its place.
#[test]
fn what_is_more_than_a_number_is_none() {
    for text in [
        "",
        "twelve",
        "nan",
        "inf",
        "0x12",
        "1_000",
        "x12",
        "1,23",
        "(3,4)",
        "1.2.3",
        "1/2/2020",
        "1/0",
        "18 or 19",
        "2^3",
        "10²",
        "2x",
        "3\\pi",
        "3π",
        "2\\sqrt{3}",
        "2\\frac{3}{2}",
        "x\\frac{1}{2}",
        "\\sqrt{2}",
        "\\log 2",
        "3 + 15",
        "3*15",
        "5 million",
        "5k",
        "1e999999999",
        "\\frac{x}{2}",
        "\\boxed{3, 4}",
        "\\boxed{3 + 4}",
        "\\boxed{x > 3}",
        "\\boxed{}",
        "½",
    ] {
        assert_eq!(shown(stated(text)), "-", "{text:?}");
    }
}

#[test]
fn a_field_is_one_number_with_a_unit_at_most() {
    for (text, number) in [
        ("18", "18"),
        ("$1,234.50", "1234.50"),
        ("72 apples", "72"),
        ("x = 5", "5"),
        ("1/2", "1/2"),
        ("Natalia sold 48 / 2 = 24 clips in May.\n#### 72", "72"),
        ("The sum of 3 and 4 is \\boxed{7}.", "7"),
        ("about 4", "-"),
        ("x = y = 4", "-"),
        ("3 of 4", "-"),
        ("3-5", "-"),
        ("> 5", "-"),
        ("2020-01-05", "-"),
        ("none", "-"),
    ] {
        assert_eq!(shown(whole(text)), number, "{text:?}");
    }
}
