//! Rollouts, the sources of the tokens that an objective scores, and their edits.

mod alike;
mod environments;
mod kinds;

use std::rc::Rc;

use super::{ModelId, Origin, Secret, Temperature, Template};
use crate::checked::formula::{Formula, FormulaKind, Role};
pub use alike::are_exchanged;
pub use environments::EnvironmentProgram;
pub use kinds::{
    AuthorProgram, MovingNumber, MovingRange, Replay, RolloutArgument, RolloutSource, SourceFacts, TokensOf,
    Turns,
};
use serde::{Deserialize, Serialize};

/// The source of the tokens that an objective scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    pub source: RolloutSource,
    /// The edits of the completions, in order.
    pub edits: Vec<Edit>,
    pub origin: Origin,
    /// Where the source is declared. Edits keep it, so it tells whether two rollouts edit the same one.
    pub source_origin: Origin,
}

/// A server that samples the student's rollouts.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutEngine {
    pub engine: String,
    pub url: Secret,
    /// The model's name at the server.
    pub model: String,
    /// The folder through which weights reach the server.
    pub push: String,
    /// The environment variable with the token that the server requires.
    pub key: Option<String>,
}

/// The contents of a replay buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayContents {
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
    /// Selects, among one prompt's completions, the `of` with the largest number.
    Best {
        by: Formula,
        of: u32,
    },
    FirstTurns {
        turns: Formula,
    },
    /// The expert's turns, from the data, come first; then the student acts.
    ExpertTurns {
        turns: ExpertTurns<Formula>,
    },
    /// Passes completions through a program of the author's, with unknown effects.
    Through {
        command: String,
        /// The limit for the completions of a batch.
        time_limit_seconds: f64,
        /// Files and folders that the program depends on besides its sources.
        depends: Vec<String>,
    },
}

/// The number of the expert's turns in the data that come before the student's. Depends on the step only.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertTurns<F> {
    First(F),
    /// All recorded turns but this many of the last.
    AllBut(F),
}

impl<F> ExpertTurns<F> {
    pub fn number(&self) -> &F {
        let (ExpertTurns::First(turns) | ExpertTurns::AllBut(turns)) = self;
        turns
    }

    /// The same with another form of the number.
    pub fn with<G>(&self, number: G) -> ExpertTurns<G> {
        match self {
            ExpertTurns::First(_) => ExpertTurns::First(number),
            ExpertTurns::AllBut(_) => ExpertTurns::AllBut(number),
        }
    }
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

    /// Whether the edit leaves the texts of completions as they were sampled.
    pub fn keeps_text(&self) -> bool {
        !matches!(self, Edit::Rewrite { .. } | Edit::Through { .. })
    }
}

impl Rollout {
    /// A rollout without edits.
    pub fn new(source: RolloutSource, origin: Origin) -> Rollout {
        Rollout { source, edits: Vec::new(), origin, source_origin: origin }
    }

    /// The sampling settings of the innermost rollout; `None` where completions come from data alone.
    pub fn sampling(&self) -> Option<&Sampling> {
        let facts = self.source.facts();
        facts.sampling.or_else(|| facts.inner.into_iter().chain(facts.history).find_map(Rollout::sampling))
    }

    /// The reason why the sampler's probability is unknown: the first rollout, or edit, whose tokens were not
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
            // A `token_mix` has known probabilities, because the mixture is the sampling policy.
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

    /// The reason why the student, before the updates from a batch, did not draw all of its tokens as it
    /// samples them.
    pub fn drawn_elsewhere(&self) -> Option<&'static str> {
        self.unrecorded().or_else(|| {
            let facts = self.source.facts();
            let replays_prompts =
                matches!(self.source, RolloutSource::Replay(Replay { keeps: ReplayContents::Prompts, .. }));
            match facts.tokens {
                TokensOf::Earlier if !replays_prompts => Some("an earlier student drew some of these tokens"),
                TokensOf::OfModel => Some("an earlier model drew these tokens"),
                TokensOf::Mixture(_) => Some("a mixture with the teacher drew these tokens"),
                TokensOf::Student(_)
                | TokensOf::Open
                | TokensOf::By(..)
                | TokensOf::Data
                | TokensOf::Inside
                | TokensOf::Earlier
                | TokensOf::Changed(_) => facts.inner.into_iter().find_map(Rollout::drawn_elsewhere),
            }
        })
    }

    /// The innermost rollouts whose completions it passes on with the tokens that they were drawn with.
    pub fn arms(&self) -> Vec<&Rollout> {
        let facts = self.source.facts();
        let passes_on = match facts.tokens {
            TokensOf::Student(_)
            | TokensOf::By(..)
            | TokensOf::Data
            | TokensOf::Open
            | TokensOf::Changed(Some(_)) => false,
            TokensOf::Inside
            | TokensOf::Earlier
            | TokensOf::OfModel
            | TokensOf::Mixture(_)
            | TokensOf::Changed(None) => self.edits.iter().all(Edit::keeps_text),
        };
        if passes_on { facts.inner.into_iter().flat_map(Rollout::arms).collect() } else { vec![self] }
    }

    /// The temperature at which the student's own completions are sampled. 1 where others wrote them, or
    /// decoding was greedy. If its [arms](Rollout::arms) have several, the checker rejects what reads it.
    pub fn policy_temperature(&self) -> Temperature {
        let drawn = if self.unrecorded().is_none() { self.sampling() } else { None };
        let drawn = drawn.map(Sampling::temperature);
        drawn.filter(|of| *of != Temperature::Constant(0.0)).unwrap_or(Temperature::Constant(1.0))
    }

    /// Whether a buffer mixes completions of earlier steps in.
    pub fn replays_completions(&self) -> bool {
        let replays = |of: &Rollout| {
            matches!(of.source, RolloutSource::Replay(Replay { keeps: ReplayContents::Rollouts, .. }))
        };
        self.all().into_iter().any(replays)
    }

    /// The number of its source that may change during training, if it has one.
    pub fn moving(&self) -> Option<&Formula> {
        self.source.facts().moving.map(|moving| moving.formula)
    }

    /// The role, other than the student, that writes some of the tokens.
    pub fn writer(&self) -> Option<&Role> {
        self.source.facts().writer
    }

    /// The roles other than the student that write tokens of completions, or texts of the prompts.
    pub fn writers(&self) -> Vec<&Role> {
        let facts = self.source.facts();
        facts.writer.into_iter().chain(facts.writers_of_prompts).collect()
    }

    /// The number of samples of one prompt.
    pub fn group(&self) -> u32 {
        // Rollouts inside may have edits, too. All of them have groups of the same size.
        let facts = self.source.facts();
        let drawn = match (facts.sampling, facts.inner.first()) {
            (Some(sampling), _) => sampling.n,
            (None, Some(inner)) => inner.group(),
            (None, None) => 1,
        };
        self.edits.iter().fold(drawn, |n, edit| if let Edit::Best { of, .. } = edit { n.min(*of) } else { n })
    }

    /// The author's programs that it starts.
    pub fn programs(&self) -> Vec<AuthorProgram<'_>> {
        let programs = self.all().into_iter().flat_map(|rollout| {
            let edits = rollout.edits.iter().filter_map(|edit| match edit {
                Edit::Through { command, depends, .. } => {
                    Some(AuthorProgram { kind: "edit", command, depends })
                }
                _ => None,
            });
            rollout.source.facts().program.into_iter().chain(edits)
        });
        programs.collect()
    }

    /// The formulas that select completions, in edits and buffers, also of the rollouts inside.
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

    /// The model that writes the completions in its state before the run.
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
    /// The sampling temperature: a number, of which 0 is greedy, or a schedule.
    pub temperature: Formula,
    /// Longest completion, in tokens, the end token included: a number or a schedule.
    pub max_tokens: Formula,
    /// The mass of nucleus (top-p) sampling.
    pub top_p: Option<f64>,
    /// The number of most probable entries that can be drawn.
    pub top_k: Option<u32>,
    /// Logits of tokens already written are divided by it if positive, and multiplied if negative.
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
    pub fn new(n: u32, temperature: Formula, max_tokens: Formula) -> Sampling {
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

    pub fn temperature(&self) -> Temperature {
        match &self.temperature.0.kind {
            FormulaKind::Schedule(schedule) => schedule.clone().into(),
            _ => self.temperature.constant().expect("the checker refuses other temperatures").into(),
        }
    }

    /// Whether completions come from the full distribution: the model's log-probability is the sampler's.
    pub fn is_plain(&self) -> bool {
        self.is_full_distribution() && self.repetition_penalty.is_none_or(|penalty| penalty == 1.0)
    }

    /// Whether no vocabulary entry is excluded.
    pub fn is_full_distribution(&self) -> bool {
        self.top_p.is_none_or(|p| p >= 1.0) && self.top_k.is_none()
    }
}
