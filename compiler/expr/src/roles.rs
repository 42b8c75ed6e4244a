//! Roles: the models whose distributions a formula reads.

use serde::{Deserialize, Serialize};

/// The model of a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "WrittenRole", into = "WrittenRole")]
pub enum Role {
    /// The trained policy.
    Student,
    /// The trained policy before the first update from the batch.
    Old,
    /// The policy that generated the tokens, at the temperature it used.
    Sampler,
    Scorer(ScorerId),
}

/// Index into a stage's scorers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScorerId(pub u32);

impl Role {
    /// The teacher that the route chose for the prompt.
    pub const TEACHER: Role = Role::Scorer(ScorerId(0));
    /// The frozen model that the stage names as its `reference`.
    pub const REFERENCE: Role = Role::Scorer(ScorerId(1));

    /// One of the teachers that an objective reads by name.
    pub fn named(place: usize) -> Role {
        Role::Scorer(ScorerId(2 + place as u32))
    }

    /// The name of the role. A teacher that an objective reads by name is named by its index.
    pub fn name(self) -> String {
        match self {
            Role::Student => "student".to_owned(),
            Role::Old => "old".to_owned(),
            Role::Sampler => "sampler".to_owned(),
            Role::TEACHER => "teacher".to_owned(),
            Role::REFERENCE => "reference".to_owned(),
            Role::Scorer(ScorerId(place)) => format!("scorer {place}"),
        }
    }
}

/// The form of a role in plans and keys.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenRole {
    Student,
    Old,
    Sampler,
    Teacher,
    Reference,
    Scorer(ScorerId),
}

impl From<Role> for WrittenRole {
    fn from(role: Role) -> WrittenRole {
        match role {
            Role::Student => WrittenRole::Student,
            Role::Old => WrittenRole::Old,
            Role::Sampler => WrittenRole::Sampler,
            Role::TEACHER => WrittenRole::Teacher,
            Role::REFERENCE => WrittenRole::Reference,
            Role::Scorer(id) => WrittenRole::Scorer(id),
        }
    }
}

impl From<WrittenRole> for Role {
    fn from(role: WrittenRole) -> Role {
        match role {
            WrittenRole::Student => Role::Student,
            WrittenRole::Old => Role::Old,
            WrittenRole::Sampler => Role::Sampler,
            WrittenRole::Teacher => Role::TEACHER,
            WrittenRole::Reference => Role::REFERENCE,
            WrittenRole::Scorer(id) => Role::Scorer(id),
        }
    }
}
