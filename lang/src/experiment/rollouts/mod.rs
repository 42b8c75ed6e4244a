//! Rollouts: where the tokens that an objective judges come from, and how they are edited.

mod kinds;

use std::rc::Rc;

use super::{ModelId, Origin, Secret, Template};
use crate::experiment::formula::{Formula, Role};
pub use kinds::{MovingNumber, MovingRange, RolloutArgument, RolloutSource, SourceFacts, TokensOf};
use serde::{Deserialize, Serialize};

/// The origin of the tokens that an objective judges.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub source: RolloutSource,
    /// The edits of the completions, in order.
    pub edits: Vec<Edit>,
    pub origin: Origin,
}

/// A server that samples the student's rollouts.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutEngine {
    pub engine: String,
    pub url: Secret,
    /// Its name at the server.
    pub model: String,
    /// The folder through which weights reach the server.
    pub push: String,
    /// The environment variable with the token that the server asks for.
    pub key: Option<String>,
}

/// What a replay buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    Rollouts,
    Prompts,
}

/// An edit of completions after they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Replaces a text pattern by another text.
    Rewrite {
        from: Rc<Template>,
        to: Rc<Template>,
    },
    /// Leaves out completions where the condition does not hold.
    Keep {
        condition: Formula,
    },
    /// Resamples until the condition holds.
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
    /// The expert's turns, from the data, come first; then the student acts.
    ExpertTurns {
        turns: ExpertTurns,
    },
    /// A program of the author's, about which nothing is known.
    Through {
        command: String,
        /// The limit for the completions of a batch.
        time_limit_seconds: f64,
        /// Files and folders that the program depends on besides its sources.
        depends: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExpertTurns {
    First(Formula),
    /// All recorded turns but the last ones, this many.
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

    /// Whether the text of a completion stays as the sampler wrote it.
    pub fn keeps_text(&self) -> bool {
        !matches!(self, Edit::Rewrite { .. } | Edit::Through { .. })
    }
}

impl Rollout {
    /// The sampling settings of the innermost rollout; `None` where completions come from data alone.
    pub fn sampling(&self) -> Option<&Sampling> {
        let facts = self.source.facts();
        facts.sampling.or_else(|| facts.inner.into_iter().chain(facts.history).find_map(Rollout::sampling))
    }

    /// Why the sampler's probability is unknown: the first rollout, or edit of one, whose tokens were not
    /// sampled with a recorded probability.
    pub fn unrecorded(&self) -> Option<&'static str> {
        if let Some(edit) = self.edits.iter().find(|edit| !edit.keeps_text()) {
            return Some(match edit {
                Edit::Rewrite { .. } => "`rewrite` changes the text after it was drawn",
                _ => "`through` may change the text after it was drawn",
            });
        }
        let facts = self.source.facts();
        match facts.tokens {
            // The probability under a `token_mix` is known: the mixture itself is the sampling policy.
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

    /// The temperature at which the student's own completions are sampled; 1 where others wrote them, or
    /// decoding was greedy.
    pub fn policy_temperature(&self) -> f64 {
        let drawn = if self.unrecorded().is_none() { self.sampling() } else { None };
        drawn.map(|sampling| sampling.temperature).filter(|temperature| *temperature > 0.0).unwrap_or(1.0)
    }

    /// The number of it that may change during training, if it has one.
    pub fn moving(&self) -> Option<&Formula> {
        self.source.facts().moving.map(|moving| moving.formula)
    }

    /// The role, other than the student, that writes some of the tokens.
    pub fn writer(&self) -> Option<&Role> {
        self.source.facts().writer
    }

    /// All other roles that write for it: tokens of completions, or texts of the prompts that it makes.
    pub fn writers(&self) -> Vec<&Role> {
        let facts = self.source.facts();
        facts.writer.into_iter().chain(facts.writers_of_prompts).collect()
    }

    /// The number of samples of one prompt.
    pub fn group(&self) -> u32 {
        let drawn = self.sampling().map_or(1, |sampling| sampling.n);
        self.edits.iter().fold(drawn, |n, edit| if let Edit::Best { of, .. } = edit { n.min(*of) } else { n })
    }

    /// The author's programs that it starts, each with what it is and its dependencies.
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

    /// The formulas by which completions are chosen: of edits and buffers, also of the rollouts inside.
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

    /// The model that writes the completions as it is before the run.
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
    /// Nucleus (top-p) sampling: only the most probable entries that together hold this much are drawn.
    pub top_p: Option<f64>,
    /// Only this many entries are drawn, the most probable ones.
    pub top_k: Option<u32>,
    /// Logits of tokens already written are divided (positive) or multiplied (negative) by it.
    pub repetition_penalty: Option<f64>,
    /// Several tokens per step, each from its own head; later ones are kept if their confidence reaches
    /// `accept`.
    pub heads: Option<Heads>,
    /// A completion ends after the first of these texts.
    pub stop: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub heads: u32,
    pub accept: f64,
}

impl Sampling {
    /// Sampling from the full distribution, until the end of the completion.
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

    /// Whether completions come from the full distribution: the model's own log-probability is the sampler's.
    pub fn is_plain(&self) -> bool {
        self.whole() && self.repetition_penalty.is_none_or(|penalty| penalty == 1.0)
    }

    /// Whether no entry is left out.
    pub fn whole(&self) -> bool {
        self.top_p.is_none_or(|p| p >= 1.0) && self.top_k.is_none()
    }
}
