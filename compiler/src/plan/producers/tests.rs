//! The words in which plans have producers stay: those of earlier versions are read, and keys keep their bits.

use super::*;

const SAMPLING: &str = r#"{"n":2,"temperature":1.0,"max_tokens":8,"stop":[]}"#;

fn sampling() -> Sampling {
    Sampling::new(2, 1.0, 8)
}

#[test]
fn plans_and_keys_have_the_words_that_they_had() {
    let pairs = Producer::pairs(
        Producer::data("best"),
        Producer::Model(Model { model: ModelId(3), sampling: sampling() }),
    );
    let half = Schedule::Constant { value: 0.5 };
    let cases = [
        (Rollout::new(8, Producer::data("answer")), r#"{"from":"data","field":"answer","batch":8}"#),
        (Rollout::new(4, Producer::student(sampling())), r#"{"from":"student","prompts":4,"sampling":S}"#),
        (
            Rollout::new(16, Producer::teacher_once(64, Keep::Correct, sampling())),
            r#"{"from":"teacher","sequences":64,"keep":"correct","batch":16,"sampling":S}"#,
        ),
        (
            Rollout::new(
                6,
                Producer::mix(half, Producer::student(sampling()), Producer::teacher(sampling())),
            ),
            r#"{"from":"mix","share":{"shape":"constant","value":0.5},"first":{"from":"student","sampling":S},"second":{"from":"teacher","sampling":S},"batch":6}"#,
        ),
        (
            Rollout::new(5, pairs),
            r#"{"from":"pairs","chosen":{"from":"data","field":"best"},"rejected":{"from":"model","model":3,"sampling":S},"batch":5}"#,
        ),
    ];
    for (rollout, text) in &cases {
        let text = text.replace('S', SAMPLING);
        assert_eq!(serde_json::to_string(rollout).unwrap(), text);
        assert_eq!(&serde_json::from_str::<Rollout>(&text).unwrap(), rollout);
        let key = serde_json::to_string(&rollout.key(&|id| Value::Text(format!("model {}", id.0)))).unwrap();
        if rollout.producer.models().is_empty() {
            assert_eq!(key, text);
        }
    }
    let key = cases[4].0.key(&|id| Value::Text(format!("key {}", id.0)));
    assert_eq!(
        serde_json::to_string(&key).unwrap(),
        r#"{"chosen":{"from":"data","field":"best"},"rejected":{"model":"key 3","sampling":S},"batch":5}"#
            .replace('S', SAMPLING)
    );
}
