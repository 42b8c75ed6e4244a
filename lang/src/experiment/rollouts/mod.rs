//! Rollouts: where the tokens that an objective judges come from, and what is done to them.

mod kinds;

use std::rc::Rc;

use super::{ModelId, Origin, Secret, Template};
use crate::experiment::formula::{Formula, Role};
pub use kinds::{MovingNumber, MovingRange, RolloutArgument, RolloutSource, SourceFacts, TokensOf};
use serde::{Deserialize, Serialize};

/// Where the tokens that an objective judges come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub source: RolloutSource,
    /// What is done to the completions, in order.
    pub edits: Vec<Edit>,
    pub origin: Origin,
}

/// A server that samples the student's rollouts.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutEngine {
    pub engine: String,
    pub url: Secret,
    /// As the server calls it.
    pub model: String,
    /// The folder that weights go there by.
    pub push: String,
    /// The environment variable that holds the token which the server asks for.
    pub key: Option<String>,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    Rollouts,
    Prompts,
}

/// What is done to completions after they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// A text pattern becomes another text.
    Rewrite {
        from: Rc<Template>,
        to: Rc<Template>,
    },
    /// Completions where it does not hold are left out.
    Keep {
        condition: Formula,
    },
    /// Drawn again until it holds.
    Retry {
        until: Formula,
        at_most: u32,
    },
    /// Of one prompt's completions, the `of` with the largest number.
    Best {
        by: Formula,
        of: u32,
    },
    FirstTurns {
        turns: Formula,
    },
    /// So many turns are the expert's, from the data; then the student acts.
    ExpertTurns {
        turns: ExpertTurns,
    },
    /// A program of the author's: nothing is known about what it does.
    Through {
        command: String,
        /// For the completions of a batch.
        time_limit_seconds: f64,
        /// Files and folders that the program reads besides its sources.
        depends: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExpertTurns {
    First(Formula),
    /// All that were recorded but the last so many.
    AllBut(Formula),
}

impl Edit {
    pub fn name(&self) -> &'static str {
        match self {
            Edit::Rewrite { .. } => "rewrite",
            Edit::Keep { .. } => "keep",
            Edit::Retry { .. } => "retry",
            Edit::Best { .. } => "best",
            Edit::FirstTurns { .. } => "first_turns",
            Edit::ExpertTurns { .. } => "expert_turns",
            Edit::Through { .. } => "through",
        }
    }

    /// The text of a completion stays what the sampler wrote.
    pub fn keeps_text(&self) -> bool {
        !matches!(self, Edit::Rewrite { .. } | Edit::Through { .. })
    }
}

impl Rollout {
    /// How completions are drawn at the bottom of it; none where they come from data alone.
    pub fn sampling(&self) -> Option<&Sampling> {
        let facts = self.source.facts();
        facts.sampling.or_else(|| facts.inner.into_iter().chain(facts.history).find_map(Rollout::sampling))
    }

    /// The first thing in the way of a sampler's probability: a rollout, or an edit of one, whose tokens
    /// nobody drew with a probability that was kept.
    pub fn unrecorded(&self) -> Option<&'static str> {
        if let Some(edit) = self.edits.iter().find(|edit| !edit.keeps_text()) {
            return Some(match edit {
                Edit::Rewrite { .. } => "`rewrite` changes the text after it was drawn",
                _ => "`through` may change the text after it was drawn",
            });
        }
        let facts = self.source.facts();
        match facts.tokens {
            // The teacher's share of a `token_mix` is known: the mixture itself is the policy that drew.
            TokensOf::Student(_) | TokensOf::Open => None,
            TokensOf::By(..) => Some("a teacher wrote these tokens"),
            TokensOf::Data => Some("these tokens are read from the data"),
            TokensOf::Changed(Some(why)) => Some(why),
            TokensOf::Inside
            | TokensOf::Earlier
            | TokensOf::OfModel
            | TokensOf::Mixture(_)
            | TokensOf::Changed(None) => facts.inner.into_iter().find_map(Rollout::unrecorded),
        }
    }

    /// The temperature that the student's own completions are drawn at; 1 where others wrote them, or nothing
    /// was left to chance.
    pub fn policy_temperature(&self) -> f64 {
        let drawn = if self.unrecorded().is_none() { self.sampling() } else { None };
        drawn.map(|sampling| sampling.temperature).filter(|temperature| *temperature > 0.0).unwrap_or(1.0)
    }

    /// The number of it that may move over training time, where it has one.
    pub fn moving(&self) -> Option<&Formula> {
        self.source.facts().moving.map(|moving| moving.formula)
    }

    /// Who else than the student writes some of the tokens.
    pub fn writer(&self) -> Option<&Role> {
        self.source.facts().writer
    }

    /// Everybody else who writes for it: tokens of completions, or what stands in the prompts that it makes.
    pub fn writers(&self) -> Vec<&Role> {
        let facts = self.source.facts();
        facts.writer.into_iter().chain(facts.writers_of_prompts).collect()
    }

    /// Samples of one prompt.
    pub fn group(&self) -> u32 {
        let drawn = self.sampling().map_or(1, |sampling| sampling.n);
        self.edits.iter().fold(drawn, |n, edit| if let Edit::Best { of, .. } = edit { n.min(*of) } else { n })
    }

    /// The programs of the author's that it starts, each with what it is and with what it depends on.
    pub fn programs(&self) -> Vec<(&'static str, &str, &[String])> {
        let programs = self.all().into_iter().flat_map(|rollout| {
            let edits = rollout.edits.iter().filter_map(|edit| match edit {
                Edit::Through { command, depends, .. } => Some(("edit", &**command, &**depends)),
                _ => None,
            });
            rollout.source.facts().program.into_iter().chain(edits)
        });
        programs.collect()
    }

    /// What decides by completions about these: of edits and buffers, also of the rollouts inside.
    pub fn decides_by(&self) -> Vec<&Formula> {
        let mut found = Vec::new();
        for rollout in self.all() {
            found.extend(rollout.edits.iter().filter_map(|edit| match edit {
                Edit::Keep { condition: by } | Edit::Retry { until: by, .. } | Edit::Best { by, .. } => {
                    Some(by)
                }
                _ => None,
            }));
            found.extend(rollout.source.facts().decides_by);
        }
        found
    }

    /// This rollout and those inside it.
    pub fn all(&self) -> Vec<&Rollout> {
        let mut found = vec![self];
        let mut at = 0;
        while at < found.len() {
            found.extend(found[at].source.inner());
            at += 1;
        }
        found
    }

    /// The model that writes as it is before the run.
    pub(super) fn earlier_model(&self) -> Option<ModelId> {
        self.source.facts().earlier_model
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    All,
    /// Only rollouts with reward 1.
    Correct,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Samples of one prompt: the size of a group.
    pub n: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest completion, in tokens, the end token included: a number or a schedule.
    pub max_tokens: Formula,
    /// Only the most probable entries that together hold this much are drawn.
    pub top_p: Option<f64>,
    /// Only so many entries are drawn.
    pub top_k: Option<u32>,
    /// Logits of tokens already written are divided (positive) or multiplied (negative) by it.
    pub repetition_penalty: Option<f64>,
    /// Several tokens a step, each by a head of its own; later ones stay where their confidence reaches
    /// `accept`.
    pub heads: Option<Heads>,
    /// A completion ends behind the first of these texts.
    pub stop: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub heads: u32,
    pub accept: f64,
}

impl Sampling {
    /// From all that the model says, up to the end of the completion.
    pub fn new(n: u32, temperature: f64, max_tokens: Formula) -> Sampling {
        Sampling {
            n,
            temperature,
            max_tokens,
            top_p: None,
            top_k: None,
            repetition_penalty: None,
            heads: None,
            stop: Vec::new(),
        }
    }

    /// Completions are drawn from all that the model says: its own log-probability is the sampler's.
    pub fn is_plain(&self) -> bool {
        self.whole() && self.repetition_penalty.is_none_or(|penalty| penalty == 1.0)
    }

    /// No entry is left out.
    pub fn whole(&self) -> bool {
        self.top_p.is_none_or(|p| p >= 1.0) && self.top_k.is_none()
    }
}
