//! Toy models: a few prompts, a handful of tokens, and for every prefix the distribution of every model. All
//! their outcomes can be enumerated.

use std::borrow::Cow;
use std::rc::Rc;

use mopd_experiment::formula::Role;
use mopd_experiment::{Schedule, StageStep, Temperature};

use super::divergence::EntryGraphs;
use super::parameter_values::ParameterValues;
use super::range::scheduled;
use super::sampler::{Sampler, at};
use super::size::{Outcome, Size};
use super::states::StateValues;
use super::teachers::{DistributionSource, Teachers};

/// The values of numbers that change during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunNumbers {
    /// States have their first value, schedules their value at the step, and all prompts are of one domain.
    AtStep,
    /// As `AtStep`, but with other values of the states: those of this round of [`StateValues`].
    Tried(u8),
    /// As `AtStep`, but with arbitrary states and, if numbers of domains are compared, with two domains.
    Apart,
    /// All numbers are arbitrary, also the size of the vocabulary. A result of 0 then holds at every step.
    Arbitrary,
}

/// A step of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToyMoment {
    pub step: StageStep,
    pub run: RunNumbers,
    /// The most tokens of a completion; infinite if that is not known.
    pub longest: f64,
}

/// The change of the student since the batch was drawn. Only in the first of several updates from a batch
/// is it the policy that drew the tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Drift {
    None,
    /// After every prefix; the logits differ by up to this number.
    Everywhere(f64),
    /// After one prefix only.
    After {
        prefix: usize,
        size: f64,
    },
}

impl Drift {
    /// Log-ratios of about 0.3 nats on average: a clip of 0.2 acts on every second token.
    pub const MODERATE: Drift = Drift::Everywhere(0.6);

    fn after(self, prefix: usize) -> f64 {
        match self {
            Drift::Everywhere(size) => size,
            Drift::After { prefix: only, size } if only == prefix => size,
            Drift::None | Drift::After { .. } => 0.0,
        }
    }
}

impl RunNumbers {
    /// The value of a schedule at a step.
    pub fn schedule(self, schedule: &Schedule, at: StageStep) -> f64 {
        if self != RunNumbers::Arbitrary {
            return schedule.at(at.step, at.steps);
        }
        let range = scheduled(schedule);
        range.low + (range.high - range.low) * (arbitrary(&format!("{schedule:?}")) - 0.5)
    }
}

/// A number between 0.5 and 1.5 that depends only on its name, unlike any that a program compares with.
pub(super) fn arbitrary(name: &str) -> f64 {
    0.505 + (hashed(0, name, &[]) * 99.0).floor() / 100.0
}

/// A number in (0, 1) that depends only on the arguments.
fn hashed(seed: u64, name: &str, of: &[usize]) -> f64 {
    let mut hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes().map(u64::from).chain(of.iter().map(|part| *part as u64 + 257)) {
        hash = (hash ^ byte).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// The log-probability that a role gives to every entry, after every prefix.
#[derive(Clone, Debug)]
pub(crate) struct RoleDistributions {
    pub role: Role,
    pub logp: Vec<Vec<f64>>,
}

/// `top_k` of `k` entries, which is scaled down to this many entries in a toy model.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScaledSupport {
    pub k: u32,
    pub entries: usize,
}

/// The models of a toy model, and its sampler.
#[derive(Clone, Debug)]
pub struct ToyModel {
    pub(super) size: Size,
    roles: Vec<RoleDistributions>,
    /// Log-probabilities of the sampler.
    sampler: Vec<Vec<f64>>,
    /// The temperature of the trained policy, at which log-probabilities of tokens are, except the sampler's.
    pub(super) temperature: f64,
    /// Whether tokens are sampled from the student as they are scored.
    pub(super) on_policy: bool,
    /// The seed of numbers that are neither probabilities nor positions (rewards, data).
    pub(super) seed: u64,
    pub(super) step: StageStep,
    pub(super) run: RunNumbers,
    /// The most tokens of a completion; infinite if that is not known.
    pub(super) longest: f64,
    /// The entries that two vocabularies share; `None` if that is not known.
    pub(super) matched: Option<Vec<usize>>,
    pub(super) supports: Vec<ScaledSupport>,
    /// The values of parameters without one.
    pub(super) values: Rc<ParameterValues>,
    pub(super) states: Rc<StateValues>,
    pub(super) entry_graphs: EntryGraphs,
    /// The same run one step earlier, for numbers that are carried from step to step. `None` in a toy model
    /// that is such an earlier step.
    pub(super) before: Option<Rc<ToyModel>>,
}

impl ToyModel {
    /// A toy model of one prefix and one token, sampled by the student. `student` and `teacher` are
    /// probabilities of the same entries.
    ///
    /// # Panics
    /// If their lengths differ.
    pub fn from_distributions(student: &[f64], teacher: &[f64]) -> ToyModel {
        let size = Size { vocabulary: student.len(), prompts: 1, ..Size::ONE };
        let toy = ToyModel {
            size,
            roles: Vec::new(),
            sampler: vec![logs(student)],
            temperature: 1.0,
            on_policy: true,
            seed: 1,
            step: StageStep { step: 0, steps: 1 },
            run: RunNumbers::AtStep,
            longest: f64::INFINITY,
            matched: None,
            supports: Vec::new(),
            values: Rc::default(),
            states: Rc::default(),
            entry_graphs: EntryGraphs::default(),
            before: None,
        };
        toy.with(Role::Student, student).with(Role::Teacher, teacher)
    }

    /// A toy model of independent tokens. `roles` are the log-probabilities of every entry, by token.
    ///
    /// # Panics
    /// If a role's are of another number of tokens or entries.
    pub(crate) fn of_tokens(
        tokens: usize,
        vocabulary: usize,
        roles: Vec<RoleDistributions>,
        temperature: f64,
        step: StageStep,
    ) -> ToyModel {
        let size = Size { vocabulary, prompts: tokens, ..Size::ONE };
        for RoleDistributions { logp: known, .. } in &roles {
            assert_eq!(known.len(), tokens, "one distribution per token");
            assert!(known.iter().all(|logp| logp.len() == vocabulary), "every role has the same entries");
        }
        let sampler = roles.iter().find(|known| known.role == Role::Sampler);
        let sampler = sampler.map(|known| known.logp.clone()).unwrap_or_default();
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
            states: Rc::default(),
            entry_graphs: EntryGraphs::default(),
            before: None,
        }
    }

    /// Sets the entries that two vocabularies share, if they are known.
    pub(crate) fn with_matched(self, matched: Option<Vec<usize>>) -> ToyModel {
        ToyModel { matched, ..self }
    }

    /// Adds the probabilities of another role.
    ///
    /// # Panics
    /// If their number is not that of the student's.
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
        self.roles.retain(|other| other.role != role);
        self.roles.push(RoleDistributions { role, logp: known });
    }

    /// Log-probabilities of all entries after a prefix.
    pub(super) fn logp(&self, role: &Role, prefix: usize) -> Option<&[f64]> {
        match role {
            Role::Sampler => Some(&self.sampler[prefix]),
            Role::Old => self.old_logp(prefix),
            _ => self.given(role, prefix),
        }
    }

    /// Log-probabilities of the student before the first update from the batch. In the first it is the same.
    pub(super) fn old_logp(&self, prefix: usize) -> Option<&[f64]> {
        self.given(&Role::Old, prefix).or_else(|| self.given(&Role::Student, prefix))
    }

    fn given(&self, role: &Role, prefix: usize) -> Option<&[f64]> {
        self.roles.iter().find(|model| model.role == *role).map(|model| model.logp[prefix].as_slice())
    }

    /// Log-probabilities as in the objective's `logp`, at the temperature of the trained policy.
    pub(super) fn scored(&self, role: &Role, prefix: usize) -> Option<Cow<'_, [f64]>> {
        let logp = self.logp(role, prefix)?;
        let plain = *role == Role::Sampler || self.temperature == 1.0;
        Some(if plain { Cow::Borrowed(logp) } else { Cow::Owned(at(logp, self.temperature)) })
    }

    /// Log-probabilities of the sampler.
    pub(super) fn sampler_logp(&self, prefix: usize) -> &[f64] {
        &self.sampler[prefix]
    }

    /// One sample of all tokens of this toy model.
    pub(super) fn typical(&self) -> Outcome {
        let size = self.size;
        let mut outcome = Outcome::with_capacity(size.sequences());
        for sequence in 0..size.sequences() {
            let mut tokens: Vec<usize> = Vec::with_capacity(size.length);
            while tokens.len() < size.length && !(size.ends && tokens.last() == Some(&(size.vocabulary - 1)))
            {
                let prefix = size.prefix(size.prompt(sequence), &tokens);
                let place = sequence * size.length + tokens.len();
                let (chance, mut held) = (self.chance("drawn", &[place]), 0.0);
                let entry = self.sampler[prefix].iter().position(|logp| {
                    held += logp.exp();
                    held >= chance
                });
                tokens.push(entry.unwrap_or(0));
            }
            outcome.push(tokens);
        }
        outcome
    }

    pub(crate) fn entries_in_all(&self) -> usize {
        self.size.vocabulary
    }

    /// The number of entries of `top_k` with this `k` in the toy model.
    pub(super) fn entries(&self, k: u32) -> usize {
        self.supports.iter().find(|support| support.k == k).map_or(k as usize, |support| support.entries)
    }

    /// A number in (0, 1) that depends only on its name, this toy model and `of`.
    pub(super) fn chance(&self, name: &str, of: &[usize]) -> f64 {
        hashed(self.seed, name, of)
    }

    pub(super) fn current_step(&self) -> StageStep {
        let StageStep { step, steps } = self.step;
        match self.run {
            RunNumbers::Arbitrary => {
                StageStep { step: (f64::from(steps) * (arbitrary("step") - 0.5)) as u32, steps }
            }
            _ => StageStep { step, steps },
        }
    }

    /// The value of a state that begins at `first`.
    pub(super) fn state(&self, name: &str, first: f64) -> f64 {
        self.states.at(self.run, name, first)
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

/// The difference of a toy model from the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variation {
    Usual,
    /// The usual one with other teachers.
    OtherTeachers,
    /// All other models equal the student.
    Agreed,
    /// The models differ by many nats.
    Steep,
    /// As `Steep`, and the student has entries that it finds very unlikely.
    SteepStudent,
    /// The usual one with tokens from another sampler.
    OtherSampler,
}

/// The two distributions in published reference numbers of estimators: teacher and student.
const REFERENCE: [[f64; 5]; 2] = [[0.50, 0.25, 0.15, 0.07, 0.03], [0.30, 0.30, 0.20, 0.15, 0.05]];

/// The spread of logits of models that differ by many nats.
const STEEP: f64 = 7.0;

/// The distance between the seed of a toy model and that of its earlier step.
const EARLIER: u64 = 1 << 32;

/// The parameters of a toy model.
#[derive(Clone, Debug)]
pub(super) struct ToyModelSpec {
    pub size: Size,
    pub toys: u64,
    /// All roles except student and sampler, with those that they are composed of.
    pub roles: Vec<Role>,
    pub teachers: Teachers,
    pub sampler: Sampler,
    /// The temperature of the trained policy.
    pub temperature: Temperature,
    pub step: StageStep,
    pub run: RunNumbers,
    pub drift: Drift,
    pub longest: f64,
    pub supports: Vec<ScaledSupport>,
    pub values: Rc<ParameterValues>,
    pub states: Rc<StateValues>,
    pub entry_graphs: EntryGraphs,
}

impl ToyModelSpec {
    pub fn toys(&self, variation: Variation) -> Vec<ToyModel> {
        (0..self.toys).map(|seed| self.toy(seed, variation)).collect()
    }

    /// Whether the tokens of a step are sampled from the policy that is scored.
    pub fn is_on_policy(&self, step: StageStep) -> bool {
        self.drift == Drift::None && self.sampler.is_on_policy(self.temperature.at(step), step)
    }

    /// The toy model with this seed.
    pub fn toy(&self, seed: u64, variation: Variation) -> ToyModel {
        let mut toy = self.moment(seed, variation, self.step);
        let earlier = StageStep { step: self.step.step.saturating_sub(1), ..self.step };
        toy.before = Some(Rc::new(self.moment(seed + EARLIER, variation, earlier)));
        toy
    }

    /// A toy model without its earlier step.
    fn moment(&self, seed: u64, variation: Variation, step: StageStep) -> ToyModel {
        let mut toy = ToyModel {
            size: self.size,
            roles: Vec::new(),
            sampler: Vec::new(),
            temperature: self.temperature.at(step),
            on_policy: self.is_on_policy(step) && variation != Variation::OtherSampler,
            seed: seed + 1,
            step,
            run: self.run,
            longest: self.longest,
            matched: None,
            supports: self.supports.clone(),
            values: self.values.clone(),
            states: self.states.clone(),
            entry_graphs: self.entry_graphs.clone(),
            before: None,
        };
        // If only teachers or the sampler vary, the student is the same.
        let reference = seed == 0 && self.size.vocabulary == 5 && self.size.prefixes() == 1;
        let same = matches!(variation, Variation::Usual | Variation::OtherTeachers | Variation::OtherSampler);
        let plain = reference && matches!(variation, Variation::Usual | Variation::OtherSampler);
        let prefixes = 0..self.size.prefixes();
        let student: Vec<Vec<f64>> = match reference && same {
            true => vec![logs(&REFERENCE[1])],
            false => {
                let spread = if variation == Variation::SteepStudent { STEEP } else { 0.9 };
                prefixes.clone().map(|prefix| self.draw(&toy, "student", prefix, spread)).collect()
            }
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
                    let spread = match variation {
                        Variation::Steep | Variation::SteepStudent => STEEP,
                        _ => 0.9,
                    };
                    prefixes.clone().map(|prefix| self.draw(&toy, &name, prefix, spread)).collect()
                }
            };
            toy.set(role.clone(), known);
        }
        if self.drift != Drift::None {
            let before = |prefix: usize| self.before_updates(&toy, &student[prefix], prefix);
            let old = prefixes.clone().map(before).collect();
            toy.set(Role::Old, old);
        }
        toy.set(Role::Student, student);
        // Composed roles come after their parts, so that each role is computed once.
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

    /// The student before the updates: it differs from that of the toy model by the drift.
    fn before_updates(&self, toy: &ToyModel, student: &[f64], prefix: usize) -> Vec<f64> {
        let size = self.drift.after(prefix);
        let moved =
            |(entry, logp): (usize, &f64)| logp + (2.0 * toy.chance("drift", &[prefix, entry]) - 1.0) * size;
        normalised(&student.iter().enumerate().map(moved).collect::<Vec<f64>>())
    }

    fn draw(&self, toy: &ToyModel, name: &str, prefix: usize, spread: f64) -> Vec<f64> {
        scores(toy, name, prefix, self.size.vocabulary, spread)
    }
}

/// Log-probabilities from random logits within this spread on either side.
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
