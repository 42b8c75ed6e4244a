//! Tests of rewards that combine several verifiers.

use super::*;

fn part(name: &str, weight: f64, reward: plan::Reward) -> plan::RewardPart {
    plan::RewardPart { name: name.to_owned(), weight, reward }
}

#[test]
fn parts_are_weighed_and_kept() {
    let number = plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 };
    let digits = plan::Reward::Regex { pattern: "^[0-9]+$".to_owned(), field: "answer".to_owned() };
    let parts = vec![part("accuracy", 0.75, number), part("format", 0.25, digits)];
    let verifier = built_in(plan::Reward::Parts { parts });
    let record = record(json!({ "answer": 7 }));
    for (completion, wanted, of_parts) in [
        ("7", 1.0, [1.0, 1.0]),
        ("7.0", 0.75, [1.0, 0.0]),
        ("8", 0.25, [0.0, 1.0]),
        ("eight", 0.0, [0.0, 0.0]),
    ] {
        let input = RewardInput { prompt: "p", completion, record: &record };
        let verdict = verifier.judge(&[input], &uncancellable()).unwrap().remove(0);
        assert_eq!(verdict.reward, wanted, "{completion}");
        let said: Vec<(&str, f64)> =
            verdict.parts.iter().map(|(name, said)| (name.as_str(), *said)).collect();
        assert_eq!(said, [("accuracy", of_parts[0]), ("format", of_parts[1])], "{completion}");
        let words = of_parts.map(|said| if said == 1.0 { "correct" } else { "wrong" });
        assert_eq!(verdict.feedback.unwrap(), format!("accuracy: {}\nformat: {}", words[0], words[1]));
    }
}

/// Only the whole reward is correct, although the weights of seven parts do not sum to 1 in floating point.
#[test]
fn where_every_part_is_1_the_reward_is_1() {
    for count in 1..=50 {
        let weight = 1.0 / f64::from(count);
        let any = || plan::Reward::Regex { pattern: String::new(), field: String::new() };
        let parts = (0..count).map(|index| part(&format!("p{index}"), weight, any())).collect();
        let verifier = built_in(plan::Reward::Parts { parts });
        assert_eq!(judge_one(&verifier, "x", json!({})), 1.0, "{count}");
    }
}
