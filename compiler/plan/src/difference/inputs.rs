//! The differences between the inputs of two runs that are in no plan: data, and files of rewards.

use std::fmt;

use super::super::results::{DataHash, FileHash, Results};

/// An input with one name in both runs and different content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputChange {
    Data {
        domain: String,
        /// `prompts`, `tests` or `validation`.
        part: String,
    },
    Reward {
        domain: String,
        /// Files that changed, were added or were removed.
        files: Vec<String>,
    },
}

impl fmt::Display for InputChange {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InputChange::Data { domain, part } => {
                write!(formatter, "domain `{domain}`: different data in `{part}`")
            }
            InputChange::Reward { domain, files } => {
                write!(formatter, "domain `{domain}`: different reward files: {}", files.join(", "))
            }
        }
    }
}

/// The changes by domain. Inputs that one of the runs did not record, and domains that one did not read, are
/// skipped.
pub fn input_changes(before: &Results, after: &Results) -> Vec<InputChange> {
    let same_part = |one: &DataHash, other: &DataHash| one.domain == other.domain && one.part == other.part;
    let data = after.data.iter().filter_map(|data| {
        let earlier = before.data.iter().find(|earlier| same_part(earlier, data))?;
        (earlier.hash != data.hash)
            .then(|| InputChange::Data { domain: data.domain.clone(), part: data.part.clone() })
    });
    let rewards = before.rewards.iter().flatten().filter_map(|earlier| {
        let of_domain = after.rewards.iter().flatten().find(|reward| reward.domain == earlier.domain)?;
        let files = FileHash::changed(&earlier.files, &of_domain.files);
        (!files.is_empty()).then(|| InputChange::Reward { domain: earlier.domain.clone(), files })
    });
    data.chain(rewards).collect()
}

#[cfg(test)]
mod tests {
    use super::super::super::events::Versions;
    use super::super::super::results::RewardFiles;
    use super::*;

    fn results(data: &[(&str, &str, &str)], files: &[(&str, &str)]) -> Results {
        let data = data.iter().map(|(domain, part, hash)| DataHash {
            domain: (*domain).to_owned(),
            part: (*part).to_owned(),
            path: format!("{domain}.jsonl"),
            hash: (*hash).to_owned(),
        });
        let files = files.iter().map(|(name, hash)| FileHash { name: (*name).into(), hash: (*hash).into() });
        Results {
            schema: 1,
            experiment: "e".into(),
            plan: String::new(),
            keys: None,
            forks: Vec::new(),
            seeds: vec![1],
            versions: Versions { mopd: "0".into(), libtorch: "0".into() },
            device: None,
            data: data.collect(),
            rewards: Some(vec![RewardFiles { domain: "math".into(), files: files.collect() }]),
            tables: Vec::new(),
            stages: Vec::new(),
            guards: Vec::new(),
            private: Vec::new(),
            seconds: 0.0,
            before_stages: 0.0,
            peak_memory: 0,
            predicted_memory: None,
        }
    }

    #[test]
    fn files_and_data_are_compared_by_what_they_hold() {
        let before = results(
            &[("math", "prompts", "a"), ("math", "tests", "b"), ("gone", "tests", "c")],
            &[("judge.py", "1"), ("rules.py", "1"), ("old.py", "1")],
        );
        let after = results(
            &[("math", "prompts", "x"), ("math", "tests", "b"), ("new", "tests", "d")],
            &[("judge.py", "2"), ("rules.py", "1"), ("new.py", "1")],
        );
        let said: Vec<String> = input_changes(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "domain `math`: different data in `prompts`",
                "domain `math`: different reward files: judge.py, new.py, old.py"
            ]
        );
        assert_eq!(input_changes(&before, &before), []);
        // A run of an earlier version did not record the files of rewards.
        let unknown = Results { rewards: None, ..after };
        assert_eq!(input_changes(&before, &unknown).len(), 1);
    }
}
