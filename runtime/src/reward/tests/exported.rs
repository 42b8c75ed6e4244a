//! Tests that exported rewards in Python equal those of a run.

use std::process::Command;

use mopd_compiler::export::patterns::python_pattern;
use mopd_compiler::export::rewards::REWARDS;

use super::*;

/// The rewards of each `(reward, completion)` by the exported Python; the field `answer` is 42.
fn exported(cases: &[(plan::Reward, &str)]) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mopd_rewards.py"), REWARDS).unwrap();
    fs::write(folder.path().join("rewards.json"), "{}").unwrap();
    fs::write(folder.path().join("cases.json"), serde_json::to_string(cases).unwrap()).unwrap();
    let script = "import json, mopd_rewards as m\n\
                  cases = json.load(open('cases.json'))\n\
                  print(json.dumps([m.score(r, text, {'answer': '42'}) for r, text in cases]))";
    let python = Command::new("python3").args(["-W", "error", "-c", script]).current_dir(&folder).output();
    let output = python.expect("python3 starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn regex(pattern: &str) -> plan::Reward {
    plan::Reward::Regex { pattern: pattern.to_owned(), field: "answer".to_owned() }
}

#[test]
fn patterns_match_in_python_what_they_match_in_a_run() {
    let patterns = [
        r"^[0-9]+$",
        r"(?m)^42$",
        r"(?<answer>[0-9]+)$",
        r"#### (?P<answer>[0-9]+)\z",
        r"(?<answer>42)|(?<other>43)",
        r"(?i)answer",
        r"the (?i)ANSWER is|forty-TWO",
        r"(?:a(?i)b|c)D",
        r"(?i:A)b",
        r"(?i)a(?-i:B)c",
        r"(?i)a(?-i)B|c",
        r"a.b",
        r"(?s)a.b",
        r"a(?s:.)b(?-s).",
        r"(?s-i:a.+)b",
        r"\B",
        r"\b42\b",
        r"(?:^)*42",
        r"^*42",
        r"a*+b",
        r"(?:ab)**?$",
        r"a{2}{2}",
        r"^a{1,2}$",
        r"^a{1,2}?b",
        r"^[]a]+$",
        r"^[^]a]+$",
        r"^[-a]+$",
        r"^[a-]+$",
        r"^[--a]+$",
        r"^[a\-z]+$",
        r"^[\]\[^&|~]+$",
        r"^[a^]+$",
        r"^[[:alpha:]]+$",
        r"^[^[:digit:]]+$",
        r"^[[:punct:]]+$",
        r"^[[:space:]x]+$",
        r"^\x41\u0042\U00000043$",
        r"^\x{41}[\x{42}-\u{43}]\U{43}$",
        r"\$42\.00",
        r"^\\boxed\{(?<answer>[^}]*)\}",
        r"\t\v\f\a",
        r"^\d+\s\w+$",
        r"[\D]",
        r"[+-]?\d+ #",
        "^a b#\u{e9}$",
        "a\nb",
        r"a\/b\-c\~",
        r"(|a)b$",
        r"",
        r"()",
        r"(?iu)É",
        r"^[|][|]$",
        r"^[a||b]+$",
        r"(?-x)a b",
    ];
    let texts = [
        "",
        "42",
        "42\n",
        "42 ",
        "\n42\n",
        "43",
        "#### 42",
        "#### 42\n",
        "#### 142",
        "Answer",
        "the answer is",
        "THE ANSWER IS",
        "forty-two",
        "FORTY-TWO",
        "aBD",
        "abD",
        "abd",
        "cD",
        "CD",
        "aCD",
        "Ab",
        "ab",
        "aB",
        "ABC",
        "aBc",
        "abc",
        "C",
        "c",
        "a\nb",
        "axb",
        "a\nb\n",
        "a\nbx",
        "aaab",
        "aaaa",
        "aaa",
        "aa",
        "abab",
        "]a]",
        "xyz",
        "a-",
        "-a",
        "--",
        "z",
        "[]",
        "^&|~",
        "a^",
        "é",
        "É",
        "0x",
        "!?",
        "\\",
        " \t\n\u{b}x",
        "ABCC",
        "$42.00",
        "\\boxed{42}",
        "\\boxed{42}}",
        "\t\u{b}\u{c}\u{7}",
        "7 up",
        "-7 #",
        "a b#é",
        "a/b-c~",
        "||",
        "a|b",
        "a b",
        "`",
        ",",
    ];
    let cases: Vec<(plan::Reward, &str)> = patterns
        .iter()
        .flat_map(|pattern| {
            let python = python_pattern(pattern).unwrap_or_else(|what| panic!("{pattern}: {what}"));
            texts.iter().map(move |text| (regex(&python), *text))
        })
        .collect();
    let mut said = exported(&cases).into_iter();
    let mut both = [0, 0];
    for pattern in patterns {
        let verifier = built_in(regex(pattern));
        for text in texts {
            let wanted = judge_one(&verifier, text, json!({"answer": "42"}));
            let python = python_pattern(pattern).unwrap();
            assert_eq!(said.next(), Some(wanted), "{pattern} as {python} in {text:?}");
            both[wanted as usize] += 1;
        }
    }
    assert!(both[0] > 500 && both[1] > 300, "{both:?}");
}

#[test]
fn patterns_without_a_python_equivalent_are_refused() {
    for (pattern, what) in [
        (r"\p{Greek}", r"`\p`"),
        (r"[\PL]", r"`\P`"),
        (r"(?x) a b", "the flag `x`"),
        (r"(?U)a+", "the flag `U`"),
        (r"(?-u)a", "the flag `-u`"),
        (r"(?R)a$", "the flag `R`"),
        (r"[a-z&&b]", "`&&` in a character class"),
        (r"[a-z--b]", "`--` in a character class"),
        (r"[a-z~~b]", "`~~` in a character class"),
        (r"[a[b]]", "a nested character class"),
        (r"[[:^alpha:]]", "the class `[:^alpha:]`"),
        (r"\b{start}a", "the start and end of a word"),
        (r"\<a", "the start and end of a word"),
        (r"(?<a.b>c)", "a group named `a.b`"),
    ] {
        built_in(regex(pattern));
        let said = python_pattern(pattern).unwrap_err();
        assert!(said.starts_with(what), "{pattern}: {said}");
    }
}

#[test]
fn numbers_are_compared_in_python_as_in_a_run() {
    let texts = [
        "42",
        "42.0",
        "4.2e1",
        " 42\n",
        "+42",
        "042",
        "42.01",
        "41.99",
        "42.0100000000000000001",
        "42.1",
        "43",
        "-42",
        "42.000000000000000000001",
        "1e999999999",
        "1e-999999999",
        "1e-99999999999999999999",
        "0x2a",
        "4,2",
        "",
        "nan",
    ];
    for tolerance in [0.0, 0.01, 0.1, 1e-300, 42.0, 1e300] {
        let numeric = || plan::Reward::Numeric { field: "answer".to_owned(), tolerance };
        let verifier = built_in(numeric());
        let said = exported(&texts.map(|text| (numeric(), text)));
        for (text, said) in texts.into_iter().zip(said) {
            let wanted = judge_one(&verifier, text, json!({"answer": "42"}));
            assert_eq!(said, wanted, "{text:?} within {tolerance}");
        }
    }
}

/// A completion that all parts accept has the reward 1.
#[test]
fn parts_are_divided_by_their_weights() {
    for weights in [[0.333_333_3; 3], [0.1, 0.2, 0.3], [0.7, 0.1, 0.2], [5.0, 0.1, 1e-9]] {
        let exact = plan::Reward::ExactMatch { field: "answer".to_owned() };
        let numeric = plan::Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 };
        let parts = [exact, numeric, regex("^[0-9]+\\z")].into_iter().zip(weights).enumerate();
        let part = |(at, (reward, weight)): (usize, (plan::Reward, f64))| plan::RewardPart {
            name: format!("part{at}"),
            weight,
            reward,
        };
        let reward = plan::Reward::Parts { parts: parts.map(part).collect() };
        let python = match &reward {
            plan::Reward::Parts { parts } => {
                let part = |part: &plan::RewardPart| match &part.reward {
                    plan::Reward::Regex { pattern, .. } => {
                        let reward = regex(&python_pattern(pattern).unwrap());
                        plan::RewardPart { reward, ..part.clone() }
                    }
                    _ => part.clone(),
                };
                plan::Reward::Parts { parts: parts.iter().map(part).collect() }
            }
            _ => unreachable!("it has parts"),
        };
        let texts = ["42", "42.0", "43", "x"];
        let said = exported(&texts.map(|text| (python.clone(), text)));
        let verifier = built_in(reward);
        let wanted = texts.map(|text| judge_one(&verifier, text, json!({"answer": "42"})));
        assert_eq!(said, wanted, "{weights:?}");
        assert_eq!(wanted[0], 1.0, "{weights:?}");
    }
}
