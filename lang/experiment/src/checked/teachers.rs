//! Teachers: their weights, what they are shown, and what they can return.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{ModelId, Origin, PanelId, Rollout, Secret, TeacherId};
use crate::checked::formula::{Formula, Role};
use crate::checked::formula::{NamedFormula, WeightedRole};

/// A prompt with slots: what a teacher sees in place of the plain prompt, or what a rollout is rewritten to.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    pub name: String,
    pub pieces: Vec<TemplatePiece>,
    pub origin: Origin,
}

impl Template {
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.pieces.iter().filter_map(|piece| match piece {
            TemplatePiece::Slot(slot)
            | TemplatePiece::First { slot, .. }
            | TemplatePiece::Last { slot, .. } => Some(slot),
            TemplatePiece::Text(_) | TemplatePiece::Number(_) | TemplatePiece::Anything => None,
        })
    }

    /// The numbers in it: shares of slots, and numbers of the completion.
    pub fn formulas(&self) -> impl Iterator<Item = &Formula> {
        self.pieces.iter().filter_map(|piece| match piece {
            TemplatePiece::First { share: number, .. }
            | TemplatePiece::Last { share: number, .. }
            | TemplatePiece::Number(number) => Some(number),
            TemplatePiece::Text(_) | TemplatePiece::Slot(_) | TemplatePiece::Anything => None,
        })
    }

    /// The roles that write texts in the template: their own completions, and shortened texts.
    pub fn writers(&self) -> Vec<&Role> {
        let all = self.slots().flat_map(Slot::all);
        all.filter_map(|slot| match slot {
            Slot::Answer { by, .. } | Slot::Shortened { by, .. } => Some(by),
            _ => None,
        })
        .collect()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum TemplatePiece {
    Text(String),
    /// `{prompt}`, `{hint}`
    Slot(Slot),
    /// `{first(solution, exposure)}`: a share of the slot, from the beginning.
    First {
        slot: Slot,
        share: Formula,
    },
    /// `{last(solution, exposure)}`: a share of the slot, from the end.
    Last {
        slot: Slot,
        share: Formula,
    },
    /// `{mean(correct, over: group)}`: a number of the completion.
    Number(Formula),
    /// `{_}`: any text, on the left side of a `rewrite`.
    Anything,
}

impl TemplatePiece {
    /// The share of a slot that is shown, if only a part is.
    pub fn share(&self) -> Option<&Formula> {
        match self {
            TemplatePiece::First { share, .. } | TemplatePiece::Last { share, .. } => Some(share),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    Prompt,
    /// The student's completion.
    Completion,
    /// The draft that a refined rollout starts from.
    Draft,
    /// The discussion of a panel.
    Transcript,
    /// The verifier's message about the completion, or the output of the teacher's own `feedback`.
    Feedback,
    /// Another completion of the same prompt.
    Group(GroupMember),
    /// A completion of the same prompt by a teacher.
    Answer {
        by: Role,
        member: GroupMember,
    },
    /// `short(x, by: teacher, max_tokens: 512)`: rewritten shorter.
    Shortened {
        slot: Box<Slot>,
        by: Role,
        max_tokens: u32,
    },
    /// `shuffled(a, b)`: all of them, in a different order for each prompt.
    Shuffled(Vec<Slot>),
    /// A field of the data.
    Data(String),
}

impl Slot {
    /// The slot itself and those inside it.
    pub fn all(&self) -> Vec<&Slot> {
        let mut all = match self {
            Slot::Shortened { slot, .. } => slot.all(),
            Slot::Shuffled(slots) => slots.iter().flat_map(Slot::all).collect(),
            _ => Vec::new(),
        };
        all.push(self);
        all
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupMember {
    Correct,
    Wrong,
    Other,
}

/// A teacher: its weights, its template, and its possible output.
#[derive(Clone, Debug, PartialEq)]
pub struct Teacher {
    /// `specialist[sort]`
    pub name: String,
    pub weights: TeacherWeights,
    pub sees: Option<Rc<Template>>,
    /// The divisor of its logits.
    pub temperature: f64,
    pub answers: Capability,
    /// Whether the author declared that it does not descend from the student's checkpoint.
    pub foreign: bool,
    pub align: Alignment,
    /// The positions of the finished completion that it sees where the student has masks.
    pub reveals: Option<Reveal>,
    /// The source of `{feedback}` in its template; the verifier's message where absent.
    pub feedback: Option<Rc<Rollout>>,
    pub origin: Origin,
}

/// The unfilled positions that a denoising student's teacher sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reveal {
    All,
    /// This share of the positions in later blocks, at random.
    LaterBlocks(f64),
}

impl Teacher {
    /// The numbers of its template, and those that its logits are composed with.
    pub fn formulas(&self) -> Vec<&Formula> {
        let mut found: Vec<&Formula> = self.sees.iter().flat_map(|template| template.formulas()).collect();
        if let TeacherWeights::Composed { logits, bindings } = &self.weights {
            found.extend(logits.iter().map(|part| &part.weight));
            found.extend(bindings.iter().map(|binding| &binding.formula));
        }
        found
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum TeacherWeights {
    Model(ModelId),
    /// The student itself.
    Student(SelfCopy),
    /// Another model of the same joint stage, with its current weights.
    Trained {
        member: String,
    },
    Served {
        engine: String,
        url: Secret,
        model: String,
        /// The environment variable with the token that the server requires.
        key: Option<String>,
    },
    /// A linear combination of logits. `bindings` are the names of its `where`.
    Composed {
        logits: Vec<WeightedRole>,
        bindings: Vec<NamedFormula>,
    },
    Pooled {
        pool: Pool,
        members: Vec<WeightedRole<f64>>,
    },
    /// A member of a panel.
    Panelist {
        panel: PanelId,
        speaker: Role,
    },
    /// A parameter of an objective that has no value yet: any teacher.
    Parameter,
}

/// Which weights of the student are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SelfCopy {
    /// The weights of the current step.
    Current,
    /// The weights before the first step.
    Initial,
    /// An average, updated after every step: rate * average + (1 - rate) * weights.
    Ema { rate: f64 },
    /// A copy, renewed every `steps` steps.
    Every { steps: u32 },
}

/// How several teachers are combined into one distribution, or one loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The weighted mean of probabilities.
    Mixture,
    /// The weighted mean of logits, normalised.
    Geometric,
    /// The weighted sum of each teacher's own divergence.
    Sum,
}

impl Pool {
    pub fn name(self) -> &'static str {
        match self {
            Pool::Mixture => "mixture",
            Pool::Geometric => "geometric",
            Pool::Sum => "sum",
        }
    }
}

/// A teacher's possible output, from least to most informative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capability {
    /// Completions only.
    Text,
    /// The log-probability of a given token.
    Sampled,
    /// The `k` most probable tokens with their log-probabilities.
    TopK(u32),
    /// The whole next-token distribution.
    Distribution,
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Capability::Text => f.write_str("text"),
            Capability::Sampled => f.write_str("sampled"),
            Capability::TopK(k) => write!(f, "top_k({k})"),
            Capability::Distribution => f.write_str("dist"),
        }
    }
}

/// How the student's tokens are matched to positions of the teacher's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The same tokens at the end of both inputs.
    Positions,
    /// Another tokenizer: tokens are aligned by their text.
    Tokens,
    /// The teacher predicts the next token where the student fills this one.
    Shifted,
}

/// Teachers that discuss a prompt before they score.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    pub name: String,
    pub members: Vec<TeacherId>,
    pub rounds: u32,
    pub sees: Option<Rc<Template>>,
    /// The range of the integer that each member states.
    pub confidence: Option<(i64, i64)>,
    /// Longest turn, in tokens.
    pub max_tokens: u32,
    /// The sampling temperature of the discussion.
    pub temperature: f64,
    pub origin: Origin,
}
