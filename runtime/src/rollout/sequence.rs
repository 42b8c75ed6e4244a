//! The unit of training data: a prompt, a completion of it and where they come from.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SegmentedTokens;
use crate::tokenizer::Token;

/// A prompt and a completion of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "StoredSequence", try_from = "StoredSequence")]
pub struct Sequence {
    /// Index into the stage's sources.
    pub source: usize,
    /// Index of the prompt's record in the source's data.
    pub record: usize,
    /// Tokens before the completion, where they differ from the record's prompt in its template.
    pub prompt: Option<Vec<Token>>,
    pub completion: SegmentedTokens,
    pub truncated: bool,
    pub reward: Option<f64>,
    /// The reward of each part of the verifier by name, where it has several.
    pub reward_parts: Vec<(String, f64)>,
    pub extras: Extras,
}

/// What features know about a sequence, by the name of the [`Extra`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Extras(BTreeMap<String, Value>);

/// What one feature knows about a sequence. The feature declares the type, and nothing else has to know it:
/// it travels with the sequence, also into checkpoints, under its name.
pub trait Extra: Serialize + DeserializeOwned {
    /// Different for each type.
    const NAME: &'static str;
}

impl Sequence {
    /// A completion of a record, with every other field empty.
    pub fn new(source: usize, record: usize, completion: SegmentedTokens) -> Sequence {
        Sequence {
            source,
            record,
            completion,
            prompt: None,
            truncated: false,
            reward: None,
            reward_parts: Vec::new(),
            extras: Extras::default(),
        }
    }

    /// What a feature knows about it; `None` where it knows nothing.
    pub fn extra<T: Extra>(&self) -> Option<T> {
        let value = self.extras.0.get(T::NAME)?;
        Some(T::deserialize(value).expect("a name has one type, whose values are read as they were written"))
    }

    pub fn set_extra<T: Extra>(&mut self, extra: &T) {
        let value = serde_json::to_value(extra).expect("an extra has numbers, texts and lists of these");
        self.extras.0.insert(T::NAME.to_owned(), value);
    }

    /// The same with an extra.
    pub fn with_extra<T: Extra>(mut self, extra: &T) -> Sequence {
        self.set_extra(extra);
        self
    }

    pub fn remove_extra<T: Extra>(&mut self) {
        self.extras.0.remove(T::NAME);
    }

    /// The same sequence, where the log-probabilities of its tokens are not known.
    pub fn without_logps(mut self) -> Sequence {
        self.completion = self.completion.without_logps();
        self
    }

    /// The reward of a part of the verifier, by the part's name.
    pub fn reward_part(&self, part: &str) -> Option<f64> {
        self.reward_parts.iter().find(|(name, _)| name == part).map(|(_, reward)| *reward)
    }
}

/// A sequence in the store and in checkpoints, as every version wrote it: lists over all tokens.
#[derive(Serialize, Deserialize)]
struct StoredSequence {
    source: usize,
    record: usize,
    prompt: Option<Vec<Token>>,
    completion: Vec<Token>,
    /// Which tokens are trained on; all where absent.
    written: Option<Vec<bool>>,
    /// 0 for a token that is not trained on.
    logps: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heads: Option<Vec<u8>>,
    truncated: bool,
    reward: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reward_parts: Vec<(String, f64)>,
    #[serde(flatten)]
    extras: Extras,
}

impl From<Sequence> for StoredSequence {
    fn from(sequence: Sequence) -> StoredSequence {
        let Sequence { source, record, prompt, completion, truncated, reward, reward_parts, extras } =
            sequence;
        StoredSequence {
            source,
            record,
            prompt,
            written: completion.mask(),
            logps: completion.logps().map(|logps| completion.over_all(&logps)),
            heads: completion.heads().map(|heads| completion.over_all(&heads)),
            completion: completion.to_vec(),
            truncated,
            reward,
            reward_parts,
            extras,
        }
    }
}

impl TryFrom<StoredSequence> for Sequence {
    type Error = String;

    fn try_from(stored: StoredSequence) -> Result<Sequence, String> {
        let StoredSequence { source, record, prompt, completion, written, logps, heads, .. } = stored;
        let completion = SegmentedTokens::from_lists(completion, written.as_deref(), logps, heads)?;
        let mut extras = stored.extras;
        // Earlier versions wrote what is not known as null.
        extras.0.retain(|_, value| !value.is_null());
        Ok(Sequence {
            prompt,
            truncated: stored.truncated,
            reward: stored.reward,
            reward_parts: stored.reward_parts,
            extras,
            ..Sequence::new(source, record, completion)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Draft(String);

    impl Extra for Draft {
        const NAME: &str = "draft";
    }

    /// What a version with a field for each feature wrote is read, and written again as it was.
    #[test]
    fn sequences_of_earlier_versions_are_read() {
        let earlier = r#"{"source":1,"record":2,"prompt":[7],"completion":[1,2,3],"written":[true,false,true],
            "logps":[-0.1,0.0,-0.3],"truncated":true,"reward":0.25,"chosen":null,"draft":"so"}"#;
        let sequence: Sequence = serde_json::from_str(earlier).unwrap();
        assert_eq!(sequence.completion.logps().unwrap(), [-0.1, -0.3]);
        assert_eq!(sequence.extra::<Draft>(), Some(Draft("so".to_owned())));
        let mut expected: Value = serde_json::from_str(earlier).unwrap();
        expected.as_object_mut().unwrap().remove("chosen");
        let written = serde_json::to_string(&sequence).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap()["draft"], expected["draft"]);
        assert_eq!(serde_json::from_str::<Sequence>(&written).unwrap(), sequence);
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&serde_json::from_str(&written).unwrap()), keys(&expected));
        for wrong in [r#""written":[true]"#, r#""logps":[-0.1]"#, r#""logps":[-0.1,0.0,-0.3],"heads":[0]"#] {
            let text = format!(
                r#"{{"source":1,"record":2,"prompt":null,"completion":[1,2,3],{wrong},"truncated":false,
                "reward":null}}"#
            );
            let error = serde_json::from_str::<Sequence>(&text).unwrap_err().to_string();
            assert!(error.contains("tokens"), "{error}");
        }
    }
}
