//! Logits that are composed of several scorers', some tokens at a time. The hidden states of all of them are
//! in memory, but not their layers.

use mopd_plan::Pool;
use tch::{Kind, Tensor};

use super::divergence::MixtureWeight;
use super::{Logits, rows_of};
use crate::machine::place::Place;

pub struct Composed {
    pool: Pool,
    members: Vec<ComposedPart>,
}

/// A member of a composition.
pub struct ComposedPart {
    /// A number, or `[tokens]`.
    pub weight: MixtureWeight,
    /// Consecutive parts that have the tokens of the composition in all.
    pub logits: Vec<Logits>,
}

impl Composed {
    /// # Panics
    /// If members differ in their tokens, or the pool makes no distribution.
    pub fn new(pool: Pool, members: Vec<ComposedPart>) -> Composed {
        assert!(pool != Pool::Sum, "a sum of losses is no distribution");
        let composed = Composed { pool, members };
        let tokens = composed.tokens();
        for ComposedPart { weight, logits } in &composed.members {
            assert_eq!(total(logits), tokens, "the members of a composition are of the same tokens");
            if let MixtureWeight::PerToken(weights) = weight {
                assert_eq!(weights.numel() as i64, tokens, "one weight for each token");
            }
        }
        composed
    }

    pub fn tokens(&self) -> i64 {
        total(&self.members.first().expect("it is made of somebody's").logits)
    }

    pub fn part(&self, first: i64, count: i64) -> Composed {
        let member = |ComposedPart { weight, logits }: &ComposedPart| ComposedPart {
            weight: match weight {
                MixtureWeight::Number(weight) => MixtureWeight::Number(*weight),
                MixtureWeight::PerToken(weights) => MixtureWeight::PerToken(weights.narrow(0, first, count)),
            },
            logits: part(logits, first, count),
        };
        Composed { pool: self.pool, members: self.members.iter().map(member).collect() }
    }

    pub fn release(&self) {
        self.members.iter().flat_map(|member| &member.logits).for_each(Logits::release);
    }

    /// Logits, `[count, vocabulary]` in single precision; their softmax is the distribution.
    pub fn rows(&self, place: Place, first: i64, count: i64, absent: Option<&Tensor>) -> Tensor {
        let mut whole: Option<Tensor> = None;
        for ComposedPart { weight, logits } in &self.members {
            // Never written to: they may share memory with a member's logits.
            let logits = rows_of(place, logits, first, count, absent).to_kind(Kind::Float);
            let of_rows = |weights: &Tensor| weights.narrow(0, first, count).unsqueeze(1);
            let member = match (self.pool, weight) {
                (Pool::Logits, MixtureWeight::Number(weight)) => logits * *weight,
                (Pool::Logits, MixtureWeight::PerToken(weights)) => logits * of_rows(weights),
                (Pool::Mixture, MixtureWeight::Number(weight)) => {
                    logits.log_softmax(-1, Kind::Float) + weight.ln()
                }
                (Pool::Mixture, MixtureWeight::PerToken(weights)) => {
                    logits.log_softmax(-1, Kind::Float) + of_rows(weights).log()
                }
                (Pool::Sum, _) => unreachable!("looked at when it was made"),
            };
            whole = Some(match (whole, self.pool) {
                (None, _) => member,
                (Some(sum), Pool::Mixture) => sum.logaddexp(&member),
                (Some(sum), _) => sum + member,
            });
        }
        whole.expect("it is made of somebody's")
    }
}

fn total(parts: &[Logits]) -> i64 {
    parts.iter().map(Logits::tokens).sum()
}

/// `count` tokens from `first` of consecutive parts, not copied.
pub fn part(parts: &[Logits], first: i64, count: i64) -> Vec<Logits> {
    let mut cut = Vec::new();
    let mut start = 0;
    for logits in parts {
        let end = start + logits.tokens();
        let (from, to) = (first.max(start), (first + count).min(end));
        if from < to {
            cut.push(logits.part(from - start, to - from));
        }
        start = end;
    }
    assert_eq!(total(&cut), count, "all tokens that are asked for are there");
    cut
}
