//! The built-in verifiers as Python.

use mopd_plan::{Reward, RewardPart};

use super::coverage::Coverage;
use super::patterns::python_pattern;
use super::stage::ExportSettings;

/// The Python module that judges completions.
pub const REWARDS: &str = include_str!("python/mopd_rewards.py");

/// The rewards of the stage's domains, as the content of `rewards.json`. Adds their lines to the report.
pub fn rewards(settings: &ExportSettings, coverage: &mut Coverage) -> serde_json::Value {
    let read = settings.train.objectives().any(|(_, objective)| objective.reads_reward());
    let mut all = serde_json::Map::new();
    for part in &settings.domains {
        let domain = part.domain;
        let construct = format!("reward of domain `{}`: `{}`", domain.name, name(&domain.reward));
        if settings.by_run {
            coverage.exact(construct, domain.origin);
            continue;
        }
        let reward = match carried(&domain.reward) {
            Ok(reward) => {
                if has_pattern(&domain.reward) {
                    let how =
                        "the pattern is matched by Python's `re`, whose character classes differ slightly";
                    coverage.approximate(construct, domain.origin, how);
                } else {
                    coverage.exact(construct, domain.origin);
                }
                serde_json::to_value(&reward).expect("a reward is text and numbers")
            }
            Err(why) if read => {
                coverage.refuse(construct, domain.origin, why);
                serde_json::Value::Null
            }
            Err(_) => {
                let how = "the objective does not read it: the engine reports 0; use `mopd eval` afterwards";
                coverage.approximate(construct, domain.origin, how);
                serde_json::json!({"kind": "none"})
            }
        };
        all.insert(domain.name.clone(), reward);
    }
    serde_json::Value::Object(all)
}

/// The reward with its pattern translated for Python, or the reason why it can't be exported.
fn carried(reward: &Reward) -> Result<Reward, String> {
    let why = match reward {
        Reward::ExactMatch { .. } | Reward::Numeric { .. } => return Ok(reward.clone()),
        Reward::Regex { pattern, field } => {
            let pattern = python_pattern(pattern)
                .map_err(|what| format!("Python's `re` has no equivalent of {what} in the pattern"))?;
            return Ok(Reward::Regex { pattern, field: field.clone() });
        }
        Reward::Parts { parts } => {
            let part = |part: &RewardPart| Ok(RewardPart { reward: carried(&part.reward)?, ..part.clone() });
            return Ok(Reward::Parts { parts: parts.iter().map(part).collect::<Result<_, String>>()? });
        }
        Reward::Command { .. } => "reward programs can't be exported",
        Reward::Python { .. } => {
            "reward functions in Python can't be exported: they take lists of completions"
        }
        Reward::JsonSchema { .. } => "the exporter has no validator for JSON schemas",
        Reward::UnitTests { .. } => "the exporter has no sandbox to run code in",
        Reward::Http { .. } => "reward servers can't be exported",
    };
    Err(why.to_owned())
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
