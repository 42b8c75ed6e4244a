//! Tests of the built-in rewards.

use super::*;

#[test]
fn exact_match_compares_the_text() {
    let verifier = built_in(plan::Reward::ExactMatch { field: "answer".to_owned() });
    for (completion, answer, wanted) in [
        ("abc", json!("abc"), 1.0),
        ("abc ", json!("abc"), 0.0),
        ("ABC", json!("abc"), 0.0),
        ("", json!(""), 1.0),
        ("12", json!(12), 1.0),
        ("12.0", json!(12), 0.0),
    ] {
        assert_eq!(
            judge_one(&verifier, completion, json!({ "answer": answer })),
            wanted,
            "{completion:?} for {answer}"
        );
    }
}

#[test]
fn numeric_compares_the_value() {
    let verifier = built_in(plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.5 });
    for (completion, answer, wanted) in [
        ("1234.4", json!("1,234"), 1.0),
        (" 1,234.5\n", json!(1234), 1.0),
        ("1234.6", json!(1234), 0.0),
        ("twelve", json!(12), 0.0),
        ("", json!(0), 0.0),
        ("nan", json!(0), 0.0),
        ("inf", json!(0), 0.0),
    ] {
        assert_eq!(
            judge_one(&verifier, completion, json!({ "answer": answer })),
            wanted,
            "{completion:?} for {answer}"
        );
    }
    let exact = built_in(plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 });
    assert_eq!(judge_one(&exact, "7", json!({ "answer": 7.0 })), 1.0);
}

/// The texts of the public cases, each with an answer: which count is the rule of the book. `18 or 19` does
/// not say which, and `0x12` and `1_000` are notations of programs.
#[test]
fn numeric_reads_numbers_as_models_and_data_write_them() {
    let verifier = built_in(plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 });
    for (completion, answer, wanted) in [
        ("18", "18", 1.0),
        ("18.0", "18", 1.0),
        (" 18\n", "18", 1.0),
        ("1,234", "1234", 1.0),
        ("1234", "1,234", 1.0),
        ("$18", "18", 1.0),
        ("18%", "18", 1.0),
        ("18.", "18", 1.0),
        ("The answer is 18.", "18", 1.0),
        ("#### 18", "18", 1.0),
        ("\\boxed{18}", "18", 1.0),
        ("x = 18", "18", 1.0),
        ("3 + 15 = 18", "18", 1.0),
        ("18 apples", "18", 1.0),
        ("-3", "-3", 1.0),
        ("\u{2212}3", "-3", 1.0),
        ("+3", "3", 1.0),
        ("1e3", "1000", 1.0),
        ("1/2", "0.5", 1.0),
        (".5", "0.5", 1.0),
        ("\u{ff15}", "5", 1.0),
        ("018", "18", 1.0),
        ("0x12", "18", 0.0),
        ("1_000", "1000", 0.0),
        ("18 or 19", "19", 0.0),
        ("", "18", 0.0),
        ("nan", "18", 0.0),
        // Fractions are compared exactly.
        ("\\boxed{\\frac{2}{6}}", "1/3", 1.0),
        ("0.333", "1/3", 0.0),
        ("72", "48 / 2 = 24, and 48 + 24 = 72\n#### 72", 1.0),
    ] {
        let found = judge_one(&verifier, completion, json!({ "answer": answer }));
        assert_eq!(found, wanted, "{completion:?} for {answer:?}");
    }
}

/// A reward that can read no completion is said once, and again only after it could read one.
#[test]
fn a_reward_that_reads_no_completion_warns() {
    let pattern = "answer: (?<answer>.+)".to_owned();
    let parts = [
        ("value", plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 }),
        ("form", plan::Reward::Regex { pattern, field: "answer".to_owned() }),
    ];
    let part = |(name, reward): (&str, plan::Reward)| mopd_plan::RewardPart {
        name: name.to_owned(),
        weight: 0.5,
        reward,
    };
    let verifier = built_in(plan::Reward::Parts { parts: parts.into_iter().map(part).collect() });
    let said = |completion: &str, times: usize| {
        let record = record(json!({ "answer": 4 }));
        let answers = vec![RewardInput { prompt: "2+2=", completion, record: &record }; times];
        verifier.judge(&answers, &uncancellable()).unwrap();
        verifier.take_warnings()
    };
    assert_eq!(said("four", 199), [""; 0]);
    let warnings = said("four", 1);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with(
        "`numeric` found no number in the last 200 completions, which all got 0; the last was \"four\", to \"2+2=\""
    ));
    assert!(warnings[1].starts_with("`regex` found no match of its pattern in the last 200 completions"));
    assert_eq!(said("four", 1000), [""; 0]);
    assert_eq!(said("answer: 5", 1), [""; 0]);
    assert_eq!(said("four", 200).len(), 2);
}

/// Numbers are compared as decimals, so that neither long numbers nor fractions are rounded.
#[test]
fn numeric_compares_what_is_written() {
    for (tolerance, completion, answer, wanted) in [
        (0.0, "9007199254740992", json!("9007199254740993"), 0.0),
        (0.0, "9007199254740993", json!("9007199254740993"), 1.0),
        (0.0, "9007199254740992", json!(9_007_199_254_740_993u64), 0.0),
        (0.0, "12345678901234567891", json!("12345678901234567890"), 0.0),
        (0.0, "9,007,199,254,740,992", json!("9007199254740993"), 0.0),
        (0.01, "1.01", json!("1.00"), 1.0),
        (0.01, "1.0100000000000000001", json!("1.00"), 0.0),
        (0.01, "0.99", json!(1.0), 1.0),
        (0.1, "0.4", json!("0.3"), 1.0),
        (0.1, "4.9", json!(5), 1.0),
        (0.1, "2.1", json!("2"), 1.0),
        (0.1, "1.1", json!("1.0"), 1.0),
        (1e-300, "1", json!("1.0"), 1.0),
        (1e300, "-1e300", json!("0"), 1.0),
        (0.0, "0.1", json!("0.10000000000000000555"), 0.0),
        // Other notations.
        (0.0, "1,000.0", json!("1e3"), 1.0),
        (0.0, "3.", json!("+3"), 1.0),
        (0.0, ".5", json!("5E-1"), 1.0),
        (0.0, "-.5", json!("-0.50"), 1.0),
        (0.0, "-0", json!(0), 1.0),
        (0.0, " \t7\u{a0}", json!(7), 1.0),
        (0.0, "1_000", json!(1000), 0.0),
        (0.0, "0x10", json!(16), 0.0),
        // Exponents too large to write the number out.
        (0.0, "1e-999999999", json!(0), 1.0),
        (0.0, "1e-99999999999999999999", json!("0.0"), 1.0),
        (0.0, "1e999999999", json!(0), 0.0),
        (0.5, "0e999999999", json!("0.5"), 1.0),
        (0.5, "1", json!("5e-999999999"), 0.0),
    ] {
        let verifier = built_in(plan::Reward::Numeric { field: "answer".to_owned(), tolerance });
        assert_eq!(
            judge_one(&verifier, completion, json!({ "answer": answer })),
            wanted,
            "{completion:?} for {answer}, tolerance {tolerance}"
        );
    }
}

#[test]
fn regex_without_a_group_only_matches() {
    let verifier =
        built_in(plan::Reward::Regex { pattern: "^[0-9]+$".to_owned(), field: "answer".to_owned() });
    assert_eq!(judge_one(&verifier, "123", json!({})), 1.0);
    assert_eq!(judge_one(&verifier, "12a", json!({})), 0.0);
}

#[test]
fn regex_with_an_answer_group_compares_it() {
    let pattern = r"(?:answer is (?<answer>\w+))|skip".to_owned();
    let verifier = built_in(plan::Reward::Regex { pattern, field: "answer".to_owned() });
    assert_eq!(judge_one(&verifier, "so the answer is 42.", json!({ "answer": 42 })), 1.0);
    assert_eq!(judge_one(&verifier, "so the answer is 41.", json!({ "answer": 42 })), 0.0);
    assert_eq!(judge_one(&verifier, "skip", json!({ "answer": 42 })), 0.0);
}

#[test]
fn a_bad_pattern_is_named() {
    let reward = plan::Reward::Regex { pattern: "(unclosed".to_owned(), field: "answer".to_owned() };
    let error = Verifier::new(&reward, Path::new(".")).err().unwrap();
    assert_eq!(error.to_string(), "the pattern \"(unclosed\" is not a regular expression");
    assert!(error.help().contains("unclosed group"), "{}", error.help());
}

#[test]
fn a_record_without_the_field_is_an_error() {
    let verifier = built_in(plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 });
    let fields = record(json!({ "answer": "many" }));
    let error = verifier
        .judge(&[RewardInput { prompt: "2+2=", completion: "4", record: &fields }], &uncancellable())
        .unwrap_err();
    assert_eq!(error.to_string(), "the data has no number `answer` for the prompt \"2+2=\"");
}
