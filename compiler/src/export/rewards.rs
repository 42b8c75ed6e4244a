//! Verifiers as Python: those that are built in.

use super::coverage::Coverage;
use super::stage::ExportSettings;
use crate::plan::{Reward, RewardPart};

/// The Python that judges.
pub const REWARDS: &str = include_str!("python/mopd_rewards.py");

/// The rewards of the stage's domains as `rewards.json`, and what is said of them.
pub fn rewards(settings: &ExportSettings, coverage: &mut Coverage) -> serde_json::Value {
    let read = settings.train.objectives().any(|(_, objective)| objective.reads_reward());
    let mut all = serde_json::Map::new();
    for part in &settings.domains {
        let domain = part.domain;
        let construct = format!("reward of domain `{}`: `{}`", domain.name, name(&domain.reward));
        let reward = match unsupported(&domain.reward) {
            None => {
                if has_pattern(&domain.reward) {
                    let how =
                        "the pattern is matched by Python's `re`, whose classes of letters differ a little";
                    coverage.approximate(construct, domain.origin, how);
                } else {
                    coverage.exact(construct, domain.origin);
                }
                serde_json::to_value(&domain.reward).expect("a reward is text and numbers")
            }
            Some(why) if read => {
                coverage.refuse(construct, domain.origin, why);
                serde_json::Value::Null
            }
            Some(_) => {
                let how =
                    "nothing trains on it: the engine reports 0, and `mopd eval` judges the trained model";
                coverage.approximate(construct, domain.origin, how);
                serde_json::json!({"kind": "none"})
            }
        };
        all.insert(domain.name.clone(), reward);
    }
    serde_json::Value::Object(all)
}

fn unsupported(reward: &Reward) -> Option<&'static str> {
    match reward {
        Reward::ExactMatch { .. } | Reward::Numeric { .. } | Reward::Regex { .. } => None,
        Reward::Parts { parts } => parts.iter().find_map(|RewardPart { reward, .. }| unsupported(reward)),
        Reward::Command { .. } => Some("a program that judges is not carried over"),
        Reward::Python { .. } => Some("a function of Python judges lists, and is not carried over"),
        Reward::JsonSchema { .. } => Some("the exporter has no validator of JSON schemas"),
        Reward::UnitTests { .. } => Some("the exporter has no sandbox to run code in"),
        Reward::Http { .. } => Some("a server that judges is not carried over"),
    }
}

fn has_pattern(reward: &Reward) -> bool {
    match reward {
        Reward::Regex { .. } => true,
        Reward::Parts { parts } => parts.iter().any(|part| has_pattern(&part.reward)),
        _ => false,
    }
}

fn name(reward: &Reward) -> &'static str {
    match reward {
        Reward::ExactMatch { .. } => "exact_match",
        Reward::Numeric { .. } => "numeric",
        Reward::Regex { .. } => "regex",
        Reward::Command { .. } => "command",
        Reward::Python { .. } => "python",
        Reward::JsonSchema { .. } => "json_schema",
        Reward::UnitTests { .. } => "unit_tests",
        Reward::Http { .. } => "http",
        Reward::Parts { .. } => "parts",
    }
}
