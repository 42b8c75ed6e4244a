//! Toy models: a few prompts, a handful of tokens, and for every prefix the distribution of every model.
//! Everything that could happen in one can be enumerated.

use std::borrow::Cow;
use std::rc::Rc;

use mopd_lang::experiment::Schedule;
use mopd_lang::formula::Role;

use super::divergence::EntryGraphs;
use super::parameter_values::ParameterValues;
use super::range::scheduled;
use super::sampler::{Sampler, at};
use super::teachers::{DistributionSource, Teachers};
use crate::expr::batch::{Domains, Layout};

/// How many entries, prompts, samples of a prompt and tokens of a completion a toy model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub vocabulary: usize,
    pub prompts: usize,
    pub samples: usize,
    /// 1 or 2.
    pub length: usize,
    /// That the prompts are of: one, or two.
    pub domains: usize,
}

impl Size {
    pub fn sequences(self) -> usize {
        self.prompts * self.samples
    }

    pub fn tokens(self) -> usize {
        self.sequences() * self.length
    }

    /// No more of anything than it takes to differ.
    pub fn smallest(self) -> Size {
        let (prompts, samples) = (self.prompts.min(2), self.samples.min(2));
        let vocabulary = if prompts * samples * self.length > 2 { 2 } else { 3 };
        Size { vocabulary, prompts, samples, domains: self.domains.min(prompts), ..self }
    }

    /// Of one sample: every completion is one turn and one block. The first prompt is of the first domain,
    /// the others of the last one.
    pub fn layout(self) -> Layout {
        let number = |index: usize| index as u32;
        Layout {
            sequence_of_token: (0..self.tokens()).map(|token| number(token / self.length)).collect(),
            group_of_sequence: (0..self.sequences())
                .map(|sequence| number(sequence / self.samples))
                .collect(),
            groups: number(self.prompts),
            domains: (self.domains > 1).then(|| Domains {
                of_group: (0..self.prompts).map(|prompt| number(prompt.min(self.domains - 1))).collect(),
                count: number(self.domains),
            }),
            ..Layout::default()
        }
    }

    /// Prefixes that a token can follow, in all prompts.
    pub fn prefixes(self) -> usize {
        self.prompts * self.prefixes_of_prompt()
    }

    fn prefixes_of_prompt(self) -> usize {
        (0..self.length).map(|position| self.vocabulary.pow(position as u32)).sum()
    }

    /// The student's logits: one per prefix and entry.
    pub fn logits(self) -> usize {
        self.prefixes() * self.vocabulary
    }

    /// The prefix that a token of a prompt's completion follows.
    pub fn prefix(self, prompt: usize, before: &[usize]) -> usize {
        let first: usize = (0..before.len()).map(|position| self.vocabulary.pow(position as u32)).sum();
        let number = before.iter().fold(0, |number, token| number * self.vocabulary + token);
        prompt * self.prefixes_of_prompt() + first + number
    }

    /// Every completion of one prompt.
    pub fn completions(self) -> impl Iterator<Item = Vec<usize>> {
        numbers(self.vocabulary, self.length)
    }

    /// Everything that can be drawn: the tokens of all sequences, one after the other.
    pub fn outcomes(self) -> impl Iterator<Item = Vec<usize>> {
        numbers(self.vocabulary, self.tokens())
    }
}

/// Every number of so many digits.
fn numbers(base: usize, digits: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..base.pow(digits as u32)).map(move |mut number| {
        (0..digits)
            .map(|_| {
                let digit = number % base;
                number /= base;
                digit
            })
            .collect()
    })
}

/// What numbers that a run moves are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunNumbers {
    /// States as they begin, schedules as they are at the step; all prompts are of one domain.
    AtStep,
    /// The same, with arbitrary states and, where numbers of domains are compared, with two domains.
    Apart,
    /// All are arbitrary, and so is the size of the vocabulary: what is 0 all the same is so at every step.
    Arbitrary,
}

/// A step of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToyMoment {
    /// Step and steps of the run.
    pub step: (u32, u32),
    pub run: RunNumbers,
    /// Tokens of a completion at most; infinite where that is not known.
    pub longest: f64,
}

impl RunNumbers {
    /// Of a state that begins at `first`.
    pub fn state(self, name: &str, first: f64) -> f64 {
        if self == RunNumbers::AtStep { first } else { arbitrary(name) }
    }

    /// Of a schedule at a step.
    pub fn schedule(self, schedule: &Schedule, (step, steps): (u32, u32)) -> f64 {
        if self != RunNumbers::Arbitrary {
            return schedule.at(step, steps);
        }
        let range = scheduled(schedule);
        range.low + (range.high - range.low) * (arbitrary(&format!("{schedule:?}")) - 0.5)
    }
}

/// A number between 0.5 and 1.5 that depends on its name alone. It is none that anybody compares with.
fn arbitrary(name: &str) -> f64 {
    0.505 + (hashed(0, name, &[]) * 99.0).floor() / 100.0
}

/// A number in (0, 1) that depends on these alone.
fn hashed(seed: u64, name: &str, of: &[usize]) -> f64 {
    let mut hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes().map(u64::from).chain(of.iter().map(|part| *part as u64 + 257)) {
        hash = (hash ^ byte).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// The models of a toy model, and how its tokens are drawn.
#[derive(Clone, Debug)]
pub struct ToyModel {
    pub(super) size: Size,
    /// By role: the log-probability of every entry after every prefix.
    roles: Vec<(Role, Vec<Vec<f64>>)>,
    /// Log-probabilities of the policy that draws.
    sampler: Vec<Vec<f64>>,
    /// Of the policy that is trained: of log-probabilities of tokens taken, the sampler's aside.
    pub(super) temperature: f64,
    /// The tokens are the student's own, drawn as they are scored.
    pub(super) on_policy: bool,
    /// Numbers that are neither probabilities nor positions (rewards, data) are drawn from it.
    pub(super) seed: u64,
    /// Step and steps of the run.
    pub(super) step: (u32, u32),
    pub(super) run: RunNumbers,
    /// Tokens of a completion at most, where that is known.
    pub(super) longest: f64,
    /// The entries that both of two vocabularies have; none where that is not known.
    pub(super) matched: Option<Vec<usize>>,
    /// `top_k` of so many entries stands for one of so many here.
    pub(super) supports: Vec<(u32, usize)>,
    /// Of parameters that have none.
    pub(super) values: Rc<ParameterValues>,
    pub(super) entry_graphs: EntryGraphs,
    /// The same run a step earlier, for what is carried from step to step; none in a toy model that is
    /// earlier itself.
    pub(super) before: Option<Rc<ToyModel>>,
}

impl ToyModel {
    /// One prefix, one token, drawn by the student. `student` and `teacher` are probabilities of the same
    /// entries.
    ///
    /// # Panics
    /// If they are not of one length.
    pub fn of(student: &[f64], teacher: &[f64]) -> ToyModel {
        let size = Size { vocabulary: student.len(), prompts: 1, samples: 1, length: 1, domains: 1 };
        let toy = ToyModel {
            size,
            roles: Vec::new(),
            sampler: vec![logs(student)],
            temperature: 1.0,
            on_policy: true,
            seed: 1,
            step: (0, 1),
            run: RunNumbers::AtStep,
            longest: f64::INFINITY,
            matched: None,
            supports: Vec::new(),
            values: Rc::default(),
            entry_graphs: EntryGraphs::default(),
            before: None,
        };
        toy.with(Role::Student, student).with(Role::Teacher, teacher)
    }

    /// Tokens that follow prefixes of their own. `roles` are the log-probabilities of every entry, by token.
    ///
    /// # Panics
    /// If a role's are of another number of tokens or entries.
    pub(crate) fn of_tokens(
        (tokens, vocabulary): (usize, usize),
        roles: Vec<(Role, Vec<Vec<f64>>)>,
        temperature: f64,
        step: (u32, u32),
    ) -> ToyModel {
        let size = Size { vocabulary, prompts: tokens, samples: 1, length: 1, domains: 1 };
        for (_, known) in &roles {
            assert_eq!(known.len(), tokens, "one distribution per token");
            assert!(known.iter().all(|logp| logp.len() == vocabulary), "every role has the same entries");
        }
        let sampler = roles.iter().find(|(role, _)| *role == Role::Sampler);
        let sampler = sampler.map(|(_, known)| known.clone()).unwrap_or_default();
        ToyModel {
            size,
            roles,
            sampler,
            temperature,
            on_policy: false,
            seed: 1,
            step,
            run: RunNumbers::AtStep,
            longest: f64::INFINITY,
            matched: None,
            supports: Vec::new(),
            values: Rc::default(),
            entry_graphs: EntryGraphs::default(),
            before: None,
        }
    }

    /// The same, and which entries both of two vocabularies have, as far as that is known.
    pub(crate) fn with_matched(self, matched: Option<Vec<usize>>) -> ToyModel {
        ToyModel { matched, ..self }
    }

    /// The same with the probabilities of another role.
    ///
    /// # Panics
    /// If there are not as many as the student has.
    pub fn with(mut self, role: Role, probabilities: &[f64]) -> ToyModel {
        assert_eq!(probabilities.len(), self.size.vocabulary, "every role has the same entries");
        if role == Role::Sampler {
            self.sampler = vec![logs(probabilities)];
            self.on_policy = false;
        } else {
            self.set(role, vec![logs(probabilities)]);
        }
        self
    }

    fn set(&mut self, role: Role, known: Vec<Vec<f64>>) {
        self.roles.retain(|(other, _)| *other != role);
        self.roles.push((role, known));
    }

    /// Log-probabilities of all entries after a prefix.
    pub(super) fn logp(&self, role: &Role, prefix: usize) -> Option<&[f64]> {
        if *role == Role::Sampler {
            return Some(&self.sampler[prefix]);
        }
        self.roles.iter().find(|(known, _)| known == role).map(|(_, known)| known[prefix].as_slice())
    }

    /// The same as the objective's `logp` has them: at the temperature of the policy that is trained.
    pub(super) fn scored(&self, role: &Role, prefix: usize) -> Option<Cow<'_, [f64]>> {
        let logp = self.logp(role, prefix)?;
        let plain = *role == Role::Sampler || self.temperature == 1.0;
        Some(if plain { Cow::Borrowed(logp) } else { Cow::Owned(at(logp, self.temperature)) })
    }

    /// Log-probabilities of the policy that draws.
    pub(super) fn sampler_logp(&self, prefix: usize) -> &[f64] {
        &self.sampler[prefix]
    }

    /// Tokens that are drawn in this toy model, one drawing of all.
    pub(super) fn typical(&self) -> Vec<usize> {
        let mut tokens: Vec<usize> = Vec::with_capacity(self.size.tokens());
        for place in 0..self.size.tokens() {
            let first = place / self.size.length * self.size.length;
            let prefix =
                self.size.prefix(place / self.size.length / self.size.samples, &tokens[first..place]);
            let (chance, mut held) = (self.chance("drawn", &[place]), 0.0);
            let entry = self.sampler[prefix].iter().position(|logp| {
                held += logp.exp();
                held >= chance
            });
            tokens.push(entry.unwrap_or(0));
        }
        tokens
    }

    pub(crate) fn entries_in_all(&self) -> usize {
        self.size.vocabulary
    }

    /// How many entries `top_k` of `k` means here.
    pub(super) fn entries(&self, k: u32) -> usize {
        self.supports.iter().find(|(written, _)| *written == k).map_or(k as usize, |(_, entries)| *entries)
    }

    /// A number in (0, 1) that depends on its name, this toy model and `of` alone.
    pub(super) fn chance(&self, name: &str, of: &[usize]) -> f64 {
        hashed(self.seed, name, of)
    }

    /// Step and steps of the run.
    pub(super) fn current_step(&self) -> (u32, u32) {
        let (step, steps) = self.step;
        match self.run {
            RunNumbers::Arbitrary => ((f64::from(steps) * (arbitrary("step") - 0.5)) as u32, steps),
            _ => (step, steps),
        }
    }

    pub(super) fn vocabulary_size(&self) -> f64 {
        match self.run {
            RunNumbers::Arbitrary => (arbitrary("vocab_size") * 1e5).floor(),
            _ => self.size.vocabulary as f64,
        }
    }
}

fn logs(probabilities: &[f64]) -> Vec<f64> {
    probabilities.iter().map(|p| p.ln()).collect()
}

/// How toy models of a kind differ from the usual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variation {
    Usual,
    /// The same, with other teachers.
    OtherTeachers,
    /// Every other model is the student.
    Agreed,
    /// The models differ by many nats.
    Steep,
    /// The same, with tokens drawn by somebody else.
    OtherSampler,
}

/// The pair of distributions that reference numbers for estimators are given for: teacher and student.
const REFERENCE: [[f64; 5]; 2] = [[0.50, 0.25, 0.15, 0.07, 0.03], [0.30, 0.30, 0.20, 0.15, 0.05]];

/// Seeds of toy models that come before others lie this far from theirs.
const EARLIER: u64 = 1 << 32;

/// What a toy model is made for.
#[derive(Clone, Debug)]
pub(super) struct ToyModelSpec {
    pub size: Size,
    pub toys: u64,
    /// Everybody but student and sampler, and those that they are made of.
    pub roles: Vec<Role>,
    pub teachers: Teachers,
    pub sampler: Sampler,
    /// Of the policy that is trained.
    pub temperature: f64,
    pub step: (u32, u32),
    pub run: RunNumbers,
    pub longest: f64,
    pub supports: Vec<(u32, usize)>,
    pub values: Rc<ParameterValues>,
    pub entry_graphs: EntryGraphs,
}

impl ToyModelSpec {
    pub fn toys(&self, variation: Variation) -> Vec<ToyModel> {
        (0..self.toys).map(|seed| self.toy(seed, variation)).collect()
    }

    /// One of them.
    pub fn toy(&self, seed: u64, variation: Variation) -> ToyModel {
        let mut toy = self.moment(seed, variation, self.step);
        let earlier = (self.step.0.saturating_sub(1), self.step.1);
        toy.before = Some(Rc::new(self.moment(seed + EARLIER, variation, earlier)));
        toy
    }

    /// A toy model without a step before it.
    fn moment(&self, seed: u64, variation: Variation, step: (u32, u32)) -> ToyModel {
        let mut toy = ToyModel {
            size: self.size,
            roles: Vec::new(),
            sampler: Vec::new(),
            temperature: self.temperature,
            on_policy: self.sampler.is_on_policy(self.temperature) && variation != Variation::OtherSampler,
            seed: seed + 1,
            step,
            run: self.run,
            longest: self.longest,
            matched: None,
            supports: self.supports.clone(),
            values: self.values.clone(),
            entry_graphs: self.entry_graphs.clone(),
            before: None,
        };
        // Where teachers or samplers are exchanged, the student stays.
        let reference = seed == 0 && self.size.vocabulary == 5 && self.size.prefixes() == 1;
        let same = matches!(variation, Variation::Usual | Variation::OtherTeachers | Variation::OtherSampler);
        let plain = reference && matches!(variation, Variation::Usual | Variation::OtherSampler);
        let prefixes = 0..self.size.prefixes();
        let student: Vec<Vec<f64>> = match reference && same {
            true => vec![logs(&REFERENCE[1])],
            false => prefixes.clone().map(|prefix| self.draw(&toy, "student", prefix, 0.9)).collect(),
        };
        let own = |role: &&Role| {
            variation == Variation::Agreed || self.teachers.source(role, step) == DistributionSource::Own
        };
        for (index, role) in self.roles.iter().filter(own).enumerate() {
            let known = match variation {
                Variation::Agreed => student.clone(),
                _ if plain && index == 0 => vec![logs(&REFERENCE[0])],
                _ => {
                    let name = match variation {
                        Variation::OtherTeachers => format!("other {}", role.name()),
                        _ => role.name().to_owned(),
                    };
                    let spread = if variation == Variation::Steep { 7.0 } else { 0.9 };
                    prefixes.clone().map(|prefix| self.draw(&toy, &name, prefix, spread)).collect()
                }
            };
            toy.set(role.clone(), known);
        }
        toy.set(Role::Student, student);
        // Whoever is made of others comes after them: each is computed once, however many are made of it.
        let mut waiting: Vec<&Role> = self.roles.iter().filter(|role| !own(role)).collect();
        while !waiting.is_empty() {
            let made = |part: &Role| !self.roles.contains(part) || toy.logp(part, 0).is_some();
            let (ready, rest): (Vec<&Role>, Vec<&Role>) =
                waiting.iter().partition(|role| self.teachers.parts(role, step).iter().all(made));
            assert!(!ready.is_empty(), "no teacher is made of itself");
            for role in ready {
                let known =
                    prefixes.clone().map(|prefix| self.teachers.distribution(role, &toy, prefix)).collect();
                toy.set(role.clone(), known);
            }
            waiting = rest;
        }
        toy.sampler = match variation {
            Variation::OtherSampler => {
                prefixes.map(|prefix| self.draw(&toy, "other sampler", prefix, 0.9)).collect()
            }
            _ => prefixes.map(|prefix| self.sampler.after(&toy, prefix)).collect(),
        };
        toy
    }

    fn draw(&self, toy: &ToyModel, name: &str, prefix: usize, spread: f64) -> Vec<f64> {
        scores(toy, name, prefix, self.size.vocabulary, spread)
    }
}

/// Log-probabilities whose logits are spread so far to either side.
pub(super) fn scores(toy: &ToyModel, name: &str, prefix: usize, entries: usize, spread: f64) -> Vec<f64> {
    let logits = (0..entries)
        .map(|entry| (toy.chance(name, &[prefix, entry]) * 2.0 - 1.0) * spread)
        .collect::<Vec<f64>>();
    normalised(&logits)
}

pub(crate) fn normalised(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    logits.iter().map(|logit| logit - highest - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted_prompt_by_prompt() {
        let size = Size { vocabulary: 3, prompts: 2, samples: 2, length: 2, domains: 1 };
        assert_eq!(
            (size.prefixes(), size.logits(), size.tokens(), size.outcomes().count()),
            (8, 24, 8, 6561)
        );
        assert_eq!(
            [size.prefix(0, &[]), size.prefix(0, &[2]), size.prefix(1, &[]), size.prefix(1, &[0])],
            [0, 3, 4, 5]
        );
    }
}
