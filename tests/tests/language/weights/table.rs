//! One batch, ragged on every axis, with a number for everything that an objective may read. The nesting of
//! axes is computed here from [`PROMPTS`], so that references don't depend on the compiler's own layout.

use std::collections::BTreeMap;

use mopd_expr::batch::{Domains, Layout, TokenPartition};
use mopd_plan::Axis;

/// Prompts, their samples, the turns of each, the blocks of each, as numbers of tokens.
const PROMPTS: &[&[&[&[usize]]]] = &[
    &[&[&[3, 2], &[1]], &[&[2, 2]], &[&[4], &[1, 3]], &[&[3]]],
    &[&[&[2, 3], &[2], &[2]], &[&[1, 1], &[3]], &[&[4, 4]]],
    &[&[&[3], &[2, 1]], &[&[2, 2, 2]]],
    &[&[&[5], &[2]], &[&[1], &[2, 3]]],
    &[&[&[2, 2], &[3, 1]], &[&[3, 3]], &[&[1, 4]]],
];

/// By prompt.
const DOMAINS: [usize; 5] = [0, 1, 1, 0, 1];

/// By sample: of the third prompt all are right, of the fourth all are wrong.
const REWARDS: [f32; 14] = [1.0, 0.0, 0.25, 1.0, 0.0, 1.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.75, 0.0, 1.0];

pub const STEP: u32 = 3;
pub const STEPS: u32 = 10;

/// The axes that a column can have, coarse to fine.
const AXES: [Axis; 8] =
    [Axis::Run, Axis::Batch, Axis::Domain, Axis::Group, Axis::Sequence, Axis::Turn, Axis::Block, Axis::Token];

/// The batch: columns by the name that the language gives them.
pub struct Table {
    /// By token: the element of every axis that it lies in, in the order of [`AXES`].
    places: Vec<[usize; AXES.len()]>,
    columns: BTreeMap<String, (Axis, Vec<f32>)>,
}

impl Table {
    pub fn new() -> Table {
        let mut places = Vec::new();
        let (mut sequence, mut turn, mut block) = (0, 0, 0);
        for (group, samples) in PROMPTS.iter().enumerate() {
            for turns in *samples {
                for blocks in *turns {
                    for tokens in *blocks {
                        for _ in 0..*tokens {
                            places.push([0, 0, DOMAINS[group], group, sequence, turn, block, places.len()]);
                        }
                        block += 1;
                    }
                    turn += 1;
                }
                sequence += 1;
            }
        }
        let mut table = Table { places, columns: BTreeMap::new() };
        for text in [
            "student.logp",
            "teacher.logp",
            "old.logp",
            "sampler.logp",
            "reference.logp",
            "position",
            "remaining",
        ] {
            table.supply(text, Axis::Token);
        }
        for text in ["reward", "correct", "length"] {
            table.supply(text, Axis::Sequence);
        }
        for text in ["progress", "step"] {
            table.supply(text, Axis::Run);
        }
        table
    }

    /// The numbers of a column, which are made up at its first use.
    pub fn supply(&mut self, text: &str, axis: Axis) -> &[f32] {
        if !self.columns.contains_key(text) {
            let values = (0..self.len(axis)).map(|element| self.number(text, axis, element)).collect();
            self.columns.insert(text.to_owned(), (axis, values));
        }
        &self.columns[text].1
    }

    /// The compiler's layout of the same batch.
    pub fn layout(&self) -> Layout {
        let parents = |fine: Axis, coarse: Axis| -> Vec<u32> {
            (0..self.len(fine)).map(|element| self.first(fine, element).element(coarse) as u32).collect()
        };
        Layout {
            sequence_of_token: parents(Axis::Token, Axis::Sequence),
            group_of_sequence: parents(Axis::Sequence, Axis::Group),
            groups: self.len(Axis::Group) as u32,
            domains: Some(Domains {
                of_group: parents(Axis::Group, Axis::Domain),
                count: self.len(Axis::Domain) as u32,
            }),
            turns: Some(TokenPartition {
                of_token: parents(Axis::Token, Axis::Turn),
                parent: parents(Axis::Turn, Axis::Sequence),
            }),
            blocks: Some(TokenPartition {
                of_token: parents(Axis::Token, Axis::Block),
                parent: parents(Axis::Block, Axis::Turn),
            }),
        }
    }

    pub fn tokens(&self) -> impl Iterator<Item = At<'_>> {
        (0..self.places.len()).map(|token| At { table: self, token })
    }

    /// One number per token.
    pub fn each(&self, number: impl Fn(At) -> f64) -> Vec<f64> {
        self.tokens().map(number).collect()
    }

    fn len(&self, axis: Axis) -> usize {
        1 + self.tokens().map(|at| at.element(axis)).max().unwrap_or(0)
    }

    /// The first token of an element.
    fn first(&self, axis: Axis, element: usize) -> At<'_> {
        self.tokens().find(|at| at.element(axis) == element).expect("every element has a token")
    }

    /// A plausible number for what `text` names; both sides of every gate of the library occur.
    fn number(&self, text: &str, axis: Axis, element: usize) -> f32 {
        let at = self.first(axis, element);
        let u = uniform(text, element);
        let truth = |holds: bool| f32::from(u8::from(holds));
        let has = |part: &str| text.contains(part);
        match text {
            "position" => (at.token - self.first(Axis::Sequence, at.element(Axis::Sequence)).token) as f32,
            "length" => at.peers(Axis::Sequence).len() as f32,
            "remaining" => {
                at.peers(Axis::Sequence).iter().filter(|other| other.token > at.token).count() as f32
            }
            "reward" => REWARDS[element],
            "correct" => truth(REWARDS[element] >= 1.0),
            "step" => STEP as f32,
            "progress" => STEP as f32 / STEPS as f32,
            // The policy has hardly moved in a third of the sequences, and far in another third.
            "old.logp" | "sampler.logp" => {
                let moved = [4e-4, 0.5, 2.2][at.element(Axis::Sequence) % 3] * (2.0 * u - 1.0);
                (at.student() as f32 - moved).min(-0.01)
            }
            "student.logp" if element % 29 == 7 => -11.0 - u,
            "student.logp" => -0.05 - 3.5 * u * u,
            // Some tokens are very improbable for the teacher.
            _ if text.ends_with(".logp") && (u * 1000.0) as usize % 17 == 3 => -12.0 - 2.0 * u,
            _ if text.ends_with(".logp") => -0.05 - 4.0 * u * u,
            _ if text.ends_with("end_logp") => -0.1 - 5.0 * u,
            _ if text.ends_with(".entropy") => 0.02 + 2.8 * u,
            _ if text.ends_with(".top1") => 0.15 + 0.84 * u,
            _ if text.ends_with(".rank") => 1.0 + (30.0 * u).floor(),
            // In one sequence, a member of a panel states no confidence.
            _ if text.ends_with("first.confidence") && element == 6 => f32::NAN,
            _ if text.ends_with(".confidence") && axis == Axis::Sequence => (100.0 * u).floor(),
            "head" => (element % 2) as f32,
            "offset" => 1.0 + (6.0 * u).floor(),
            "vocab_size" => 259.0,
            // A third of the tokens do not begin a span.
            "size(matched)" => {
                if element % 3 == 2 {
                    0.0
                } else {
                    190.0
                }
            }
            "masked" | "accepted" | "truncated" | "reward.format" => truth(u < 0.6),
            _ if has("available(")
                || has("span.") && !has("score(")
                || has("in_nucleus(")
                || text.ends_with(".correct") =>
            {
                truth(u < 0.6)
            }
            _ if has("overlap(") => (16.0 * (0.3 + 0.7 * u)).round() / 16.0,
            _ if has("agreement(") => 10.0 * u,
            "reward.accuracy" => (2.9 * u).floor() / 2.0,
            _ if has("score(") || text.ends_with(".value") || text.ends_with(".mean") => 2.0 * u - 1.0,
            _ if has("mass(") => 0.4 + 0.55 * u,
            // Both ends of a range that is divided into regions occur.
            "data.pose" if element == 5 => 1.0,
            "data.pose" if element.is_multiple_of(4) => 0.03 * u,
            "data.pose" => u,
            _ if text.starts_with("uniform") => u,
            _ if text.starts_with("loss") || text.starts_with("before") => 0.5 + u,
            _ if text.starts_with("tv(") => 0.02 + 0.6 * u,
            // Divergences, and losses against a target.
            _ => 0.005 + 2.0 * u * u,
        }
    }
}

/// In [0, 1), the same for the same name and number.
fn uniform(text: &str, element: usize) -> f32 {
    let start = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut x = start ^ (element as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x >> 40) as f32) / (1u64 << 24) as f32
}

/// A token, with access to all elements that contain it.
#[derive(Clone, Copy)]
pub struct At<'a> {
    table: &'a Table,
    pub token: usize,
}

impl<'a> At<'a> {
    /// A number of this token, or of what it lies in, by its name in the language.
    pub fn s(self, text: &str) -> f64 {
        let Some((axis, values)) = self.table.columns.get(text) else {
            let known: Vec<&String> = self.table.columns.keys().collect();
            panic!("the objective reads no `{text}`, but {known:?}");
        };
        f64::from(values[self.element(*axis)])
    }

    pub fn is(self, text: &str) -> bool {
        self.s(text) != 0.0
    }

    pub fn student(self) -> f64 {
        self.s("student.logp")
    }

    pub fn teacher(self) -> f64 {
        self.s("teacher.logp")
    }

    pub fn sampler(self) -> f64 {
        self.s("sampler.logp")
    }

    pub fn old(self) -> f64 {
        self.s("old.logp")
    }

    /// How much likelier the updates from the batch have made the token.
    pub fn ratio(self) -> f64 {
        (self.student() - self.old()).exp()
    }

    /// How much likelier the student finds the token than the policy that sampled it.
    pub fn drift(self) -> f64 {
        (self.student() - self.sampler()).exp()
    }

    /// The same before the updates: two engines with the same weights.
    pub fn mismatch(self) -> f64 {
        (self.old() - self.sampler()).exp()
    }

    /// log pi_T - log pi_S, with the current student.
    pub fn gap(self) -> f64 {
        self.teacher() - self.student()
    }

    /// log pi_T - log mu, mu being the policy that sampled.
    pub fn sampled_gap(self) -> f64 {
        self.teacher() - self.sampler()
    }

    pub fn element(self, axis: Axis) -> usize {
        let at = AXES.iter().position(|known| *known == axis).expect("no column is per vocabulary entry");
        self.table.places[self.token][at]
    }

    /// The tokens in the same element of `over`.
    pub fn peers(self, over: Axis) -> Vec<At<'a>> {
        self.table.tokens().filter(|other| other.element(over) == self.element(over)).collect()
    }

    /// A token of each `of` in the same element of `over`.
    pub fn each(self, of: Axis, over: Axis) -> Vec<At<'a>> {
        let mut found: Vec<At> = self.peers(over);
        found.dedup_by_key(|other| other.element(of));
        found
    }

    /// A token of each sample of the same prompt.
    pub fn samples(self) -> Vec<At<'a>> {
        self.each(Axis::Sequence, Axis::Group)
    }

    /// The mean over the tokens in the same element of `over`.
    pub fn mean(self, over: Axis, number: impl Fn(At) -> f64) -> f64 {
        crate::weights::math::mean(&values(&self.peers(over), number))
    }

    /// The sum over the tokens of the same sequence from this one on.
    pub fn onwards(self, number: impl Fn(At) -> f64) -> f64 {
        values(
            &self.peers(Axis::Sequence),
            |other| if other.token >= self.token { number(other) } else { 0.0 },
        )
        .iter()
        .sum()
    }
}

/// One number for each of some tokens.
pub fn values<'a>(of: &[At<'a>], number: impl Fn(At<'a>) -> f64) -> Vec<f64> {
    of.iter().map(|at| number(*at)).collect()
}
