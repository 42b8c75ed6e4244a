//! Teachers: whose weights, what they are shown, what they can answer.

use std::rc::Rc;

use super::{ModelId, Origin, PanelId, Rollout, Secret, TeacherId};
use crate::experiment::formula::{Formula, Role};
use serde::{Deserialize, Serialize};

/// A prompt with slots: what a teacher sees in place of the plain prompt, what a rollout is rewritten to.
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

    /// Whoever writes texts that stand in it: answers of their own, and what they shorten.
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
    /// `{first(solution, exposure)}`: that share of it, from the beginning.
    First {
        slot: Slot,
        share: Formula,
    },
    /// The same from the end.
    Last {
        slot: Slot,
        share: Formula,
    },
    /// `{mean(correct, over: group)}`: a number of the completion.
    Number(Formula),
    /// `{_}`: whatever stands there, on the left of a `rewrite`.
    Anything,
}

impl TemplatePiece {
    /// How much of a slot stands there, where that is a part.
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
    /// What the student wrote.
    Completion,
    /// What a refined rollout starts from.
    Draft,
    /// What a panel said.
    Transcript,
    /// What the verifier said of the completion, or what the teacher's own `feedback` gives.
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
    /// `shuffled(a, b)`: all of them, in an order of its own for each prompt.
    Shuffled(Vec<Slot>),
    /// A field of the data.
    Data(String),
}

impl Slot {
    /// Those inside it, and itself.
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

/// A teacher: frozen weights, what they are shown, what they can answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Teacher {
    /// `specialist[sort]`
    pub name: String,
    pub weights: TeacherWeights,
    pub sees: Option<Rc<Template>>,
    /// Logits are divided by it.
    pub temperature: f64,
    pub answers: Capability,
    /// The author knows that it does not descend from the student's checkpoint.
    pub foreign: bool,
    pub align: Alignment,
    /// What it reads of the finished completion where the student has masks.
    pub reveals: Option<Reveal>,
    /// What fills `{feedback}` in its template; the verifier's own words where absent.
    pub feedback: Option<Rc<Rollout>>,
    pub origin: Origin,
}

/// What a denoising student's teacher sees of positions that are not filled yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reveal {
    All,
    /// That share of the positions in later blocks, at random.
    LaterBlocks(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum TeacherWeights {
    Model(ModelId),
    /// The model being trained itself.
    Student(SelfCopy),
    /// Another model of the same joint stage, as it is at the moment.
    Trained {
        member: String,
    },
    Served {
        engine: String,
        url: Secret,
        model: String,
        /// The environment variable that holds the token which the server asks for.
        key: Option<String>,
    },
    /// A linear combination of logits. `bindings` are the names of its `where`.
    Composed {
        logits: Vec<(Formula, Role)>,
        bindings: Vec<(String, Formula)>,
    },
    Pooled {
        pool: Pool,
        members: Vec<(f64, Role)>,
    },
    /// One who speaks in a panel.
    Panelist {
        panel: PanelId,
        speaker: Role,
    },
    /// A parameter of an objective that has not been given a value: any teacher.
    Parameter,
}

/// Which weights of the student.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SelfCopy {
    /// As they are at this step.
    Current,
    /// As they were before the first.
    Initial,
    /// rate * what they were + (1 - rate) * the student's, after every step.
    Ema { rate: f64 },
    /// Copied every so many steps.
    Every { steps: u32 },
}

/// How several teachers make one distribution, or one loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The weighted mean of probabilities.
    Mixture,
    /// The weighted mean of logits, normalised.
    Geometric,
    /// Each teacher's own divergence, weighted and added up.
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

/// What a teacher can answer, from least to most.
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

/// How the student's tokens are found in the teacher's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The same tokens at the end of both inputs.
    Positions,
    /// Another tokenizer: by the text that tokens stand for.
    Tokens,
    /// The teacher predicts the next token where the student fills this one.
    Shifted,
}

/// Teachers that talk about a prompt before they judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    pub name: String,
    pub members: Vec<TeacherId>,
    pub rounds: u32,
    pub sees: Option<Rc<Template>>,
    /// A whole number that each states, between these.
    pub confidence: Option<(i64, i64)>,
    /// Longest turn, in tokens.
    pub max_tokens: u32,
    /// Of what they say.
    pub temperature: f64,
    pub origin: Origin,
}
