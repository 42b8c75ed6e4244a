//! Rewards that are built in: what each accepts.

use super::*;

#[test]
fn exact_match_compares_the_text() {
    let verifier = built_in(plan::Reward::ExactMatch { field: "answer".to_owned() });
    assert_eq!(verifier.needed(), [Field::text("answer")]);
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
    assert_eq!(verifier.needed(), [Field::number("answer")]);
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

#[test]
fn regex_without_a_group_only_matches() {
    let verifier =
        built_in(plan::Reward::Regex { pattern: "^[0-9]+$".to_owned(), field: "answer".to_owned() });
    assert_eq!(verifier.needed(), []);
    assert_eq!(judge_one(&verifier, "123", json!({})), 1.0);
    assert_eq!(judge_one(&verifier, "12a", json!({})), 0.0);
}

#[test]
fn regex_with_an_answer_group_compares_it() {
    let pattern = r"(?:answer is (?<answer>\w+))|skip".to_owned();
    let verifier = built_in(plan::Reward::Regex { pattern, field: "answer".to_owned() });
    assert_eq!(verifier.needed(), [Field::text("answer")]);
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
        .judge(&[RewardInput { prompt: "2+2=", completion: "4", record: &fields }], &undisturbed())
        .unwrap_err();
    assert_eq!(error.to_string(), "the data has no number `answer` for the prompt \"2+2=\"");
}
