//! Warnings about a stage while it trains, independent of its guards: a reward that is the same for all
//! completions, groups without an advantage, weights that do not change, a step with nothing to train on.
//! Each warning is given once.
//!
//! The monitor reads only numbers that a step has anyway, and has no state in checkpoints: for a resumed
//! stage it starts again.

use tch::{Kind, Tensor};

use super::{StepHook, Update};
use crate::control::Control;
use crate::train::stage::Stage;

/// Consecutive steps after which a warning is given.
const STEPS: u32 = 20;
/// The fewest steps before a warning that all rewards are 0, in a stage with fewer than [`STEPS`] steps.
const FEWEST_STEPS: u32 = 5;

/// The most trained parameters that are compared, evenly spread.
const COMPARED: usize = 1 << 16;

/// Weights whose change in [`STEPS`] updates is below this part of their norm count as constant: about one
/// rounding in single precision. One update of AdamW at a rate of 1e-8 is far larger.
const STILL: f64 = 1e-7;

pub struct Monitor<'a> {
    /// The name and the seed of the stage.
    name: &'a str,
    seed: u64,
    domains: Vec<&'a str>,
    control: &'a Control,
    /// The rewards of each source; empty where the objective reads none.
    rewards: Vec<Rewards>,
    weights: Weights,
    warned_empty_step: bool,
}

/// The rewards of a domain.
struct Rewards {
    /// Consecutive steps with no positive reward after which a warning is given.
    wanted: u32,
    /// The reward that all completions had, and the number of consecutive steps with it.
    same: Option<(f64, u32)>,
    /// Consecutive steps in which no group had two different rewards.
    flat: u32,
    said_same: bool,
    said_flat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TrainingWarning {
    /// All completions of the last `steps` steps have this reward.
    Constant {
        reward: f64,
        steps: u32,
    },
    NoAdvantage,
}

/// The trained parameters.
#[derive(Default)]
struct Weights {
    before: Option<Tensor>,
    /// Updates since `before` was taken, and the largest gradient norm and learning rate among them.
    updates: u32,
    norm: f64,
    rate: f64,
    said: bool,
}

impl<'a> Monitor<'a> {
    pub fn new(stage: &Stage<'a>) -> Monitor<'a> {
        let train = stage.train;
        // Where completions are dropped by their rewards, the others may well share one reward.
        let read = train.objective.reads_reward() && !train.rollout.may_drop();
        let sources = if read { stage.sources.len() } else { 0 };
        let rewards = (0..sources).map(|_| Rewards::of_stage(stage.steps)).collect();
        let Stage { name, seed, control, .. } = *stage;
        let domains = stage.sources.iter().map(|source| source.name).collect();
        Monitor {
            name,
            seed,
            domains,
            control,
            rewards,
            weights: Weights::default(),
            warned_empty_step: false,
        }
    }
}

impl StepHook for Monitor<'_> {
    fn after_update(&mut self, update: &Update) {
        let Update { step, student, rollouts, norm, learning_rate } = *update;
        let (name, seed, control) = (self.name, self.seed, self.control);
        if norm.is_none() && !std::mem::replace(&mut self.warned_empty_step, true) {
            control.warn(format!(
                "`{name}`: all completions of step {step} were dropped, so it does not change the weights. \
                This warning is given once: `dropped` in `metrics.parquet` counts the dropped \
                completions of every step"
            ));
        }
        for (source, rewards) in self.rewards.iter_mut().enumerate() {
            let own = rollouts.sequences.groups().filter(|group| group[0].source == source);
            let own = own.map(|group| group.iter().filter_map(|sequence| sequence.reward).collect());
            let groups: Vec<Vec<f64>> = own.filter(|group: &Vec<f64>| !group.is_empty()).collect();
            if let Some(trouble) = rewards.look(&groups) {
                let domain = self.domains[source];
                control.warn(format!("`{name}` (seed {seed}), step {step}: {}", trouble.message(domain)));
            }
        }
        let explained = self.rewards.iter().any(|rewards| rewards.said_flat);
        let now = || student.parameters().spread(COMPARED);
        if let Some(message) = self.weights.look(now, norm.unwrap_or(0.0), learning_rate, explained) {
            control.warn(format!("`{name}` (seed {seed}), step {step}: {message}"));
        }
    }
}

impl Rewards {
    fn of_stage(steps: u32) -> Rewards {
        let wanted = steps.clamp(FEWEST_STEPS, STEPS);
        Rewards { wanted, same: None, flat: 0, said_same: false, said_flat: false }
    }

    /// A step without a completion of the domain is not counted, and does not end the consecutive steps.
    fn look(&mut self, groups: &[Vec<f64>]) -> Option<TrainingWarning> {
        let first = *groups.first()?.first()?;
        let same = groups.iter().flatten().all(|reward| *reward == first);
        self.same = match self.same {
            _ if !same => None,
            Some((reward, steps)) if reward == first => Some((reward, steps + 1)),
            _ => Some((first, 1)),
        };
        let alike = |group: &Vec<f64>| group.iter().all(|reward| *reward == group[0]);
        // A group of one has no advantage, and none is expected.
        let flat = groups.iter().all(alike) && groups.iter().any(|group| group.len() > 1);
        self.flat = if flat { self.flat + 1 } else { 0 };
        if let Some((reward, steps)) = self.same
            && steps >= if reward <= 0.0 { self.wanted } else { STEPS }
            && !self.said_same
        {
            (self.said_same, self.said_flat) = (true, true);
            return Some(TrainingWarning::Constant { reward, steps });
        }
        if self.flat >= STEPS && !self.said_flat {
            self.said_flat = true;
            return Some(TrainingWarning::NoAdvantage);
        }
        None
    }
}

impl TrainingWarning {
    fn message(self, domain: &str) -> String {
        match self {
            TrainingWarning::Constant { reward, steps } => {
                let why = if reward <= 0.0 {
                    "the task is too hard for the student, its completions are cut off (`max_tokens`), or \
                    the reward expects another format than they have"
                } else if reward >= 1.0 {
                    "the student has learned the task, or the reward accepts everything"
                } else {
                    "the reward does not depend on the completion"
                };
                format!(
                    "every completion of `{domain}` in the last {steps} steps had the reward {reward}, so \
                    the reward gives no signal: {why}"
                )
            }
            TrainingWarning::NoAdvantage => format!(
                "in the last {STEPS} steps no group of `{domain}` had two different rewards, so every \
                advantage in a group was 0: draw more samples of a prompt, raise `temperature`, leave \
                out prompts that are too easy or too hard (`filter`), or use a finer reward"
            ),
        }
    }
}

impl Weights {
    /// `explained`: another warning has already said why there may be no gradient.
    fn look(
        &mut self,
        now: impl FnOnce() -> Tensor,
        norm: f64,
        rate: f64,
        explained: bool,
    ) -> Option<String> {
        if self.said {
            return None;
        }
        (self.norm, self.rate) = (self.norm.max(norm), self.rate.max(rate));
        self.updates += 1;
        if self.updates < STEPS && self.before.is_some() {
            return None;
        }
        let now = now();
        let change = self.before.as_ref().map(|before| relative_change(before, &now));
        let (norm, rate) = (self.norm, self.rate);
        *self = Weights { before: Some(now), ..Weights::default() };
        let change = change.filter(|change| *change < STILL)?;
        if norm == 0.0 && explained {
            return None;
        }
        self.said = true;
        let why = if norm == 0.0 {
            "its gradient is 0".to_owned()
        } else if rate == 0.0 {
            "its learning rate is 0".to_owned()
        } else {
            format!(
                "its updates are smaller than the last digit of its weights: raise `lr`, which is {rate:.1e} at \
                 most there"
            )
        };
        let what = if change == 0.0 {
            "no weight of the student changed".to_owned()
        } else {
            format!("the student's weights changed by {change:.0e} of their norm")
        };
        Some(format!("{what} in the last {STEPS} updates: {why}"))
    }
}

/// The norm of the change over the norm of `before`.
fn relative_change(before: &Tensor, now: &Tensor) -> f64 {
    let norm = |of: &Tensor| of.to_kind(Kind::Double).norm().double_value(&[]);
    let change = norm(&(now - before));
    if change == 0.0 { 0.0 } else { change / norm(before) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The warnings about a domain in steps with these rewards, with their steps.
    fn said(steps: impl Iterator<Item = Vec<Vec<f64>>>) -> Vec<(usize, TrainingWarning)> {
        said_in(1000, steps)
    }

    fn said_in(all: u32, steps: impl Iterator<Item = Vec<Vec<f64>>>) -> Vec<(usize, TrainingWarning)> {
        let mut rewards = Rewards::of_stage(all);
        steps.enumerate().filter_map(|(step, groups)| Some((step, rewards.look(&groups)?))).collect()
    }

    #[test]
    fn a_reward_that_tells_nothing_apart_is_said_once() {
        let last = STEPS as usize - 1;
        assert_eq!(
            said((0..50).map(|_| vec![vec![0.0; 4]; 2])),
            [(last, TrainingWarning::Constant { reward: 0.0, steps: STEPS })]
        );
        assert_eq!(
            said((0..50).map(|_| vec![vec![0.5]])),
            [(last, TrainingWarning::Constant { reward: 0.5, steps: STEPS })]
        );
        // A short stage gives the warning at its end.
        assert_eq!(
            said_in(8, (0..8).map(|_| vec![vec![0.0; 4]])),
            [(7, TrainingWarning::Constant { reward: 0.0, steps: 8 })]
        );
        assert_eq!(said_in(3, (0..3).map(|_| vec![vec![0.0; 4]])), []);
        assert_eq!(said_in(8, (0..8).map(|_| vec![vec![1.0; 4]])), []);
        let sometimes = |step: usize| vec![vec![0.0, f64::from(u8::from(step % 10 == 9))]];
        assert_eq!(said((0..50).map(sometimes)), []);
        // The rewards change from one constant to another.
        let moved = |step: usize| vec![vec![if step < 10 { 0.0 } else { 1.0 }; 2]];
        assert_eq!(
            said((0..50).map(moved)),
            [
                (last, TrainingWarning::NoAdvantage),
                (last + 10, TrainingWarning::Constant { reward: 1.0, steps: STEPS })
            ]
        );
    }

    #[test]
    fn groups_without_an_advantage_are_said_once_and_groups_of_one_are_none() {
        let flat = |step: usize| vec![vec![1.0; 4], vec![f64::from(u8::from(step.is_multiple_of(2))); 4]];
        assert_eq!(said((0..50).map(flat)), [(STEPS as usize - 1, TrainingWarning::NoAdvantage)]);
        let alone = |step: usize| vec![vec![1.0], vec![f64::from(u8::from(step.is_multiple_of(2)))]];
        assert_eq!(said((0..50).map(alone)), []);
        // Steps without the domain do not count.
        let seldom = |step: usize| if step.is_multiple_of(2) { flat(step / 2) } else { Vec::new() };
        assert_eq!(said((0..50).map(seldom)), [(2 * (STEPS as usize - 1), TrainingWarning::NoAdvantage)]);
    }

    #[test]
    fn weights_that_do_not_change_are_said_once_with_the_reason() {
        let said = |numbers: [f64; 2], moves: f64, explained: bool| {
            let mut weights = Weights::default();
            let look = |update: u32| {
                let value = 1.0 + moves * f64::from(update);
                let now = || Tensor::from_slice(&[value, 2.0]);
                Some((update, weights.look(now, numbers[0], numbers[1], explained)?))
            };
            (0..100).filter_map(look).collect::<Vec<_>>()
        };
        assert_eq!(said([1.0, 1e-3], 1.0, false), []);
        assert_eq!(said([1.0, 1e-8], 1e-7, false), []);
        let found = said([1.0, 1e-12], 1e-10, false);
        assert!(found.len() == 1 && found[0].1.contains("by 9e-10 of their norm"), "{found:?}");
        for (numbers, why) in
            [([0.0, 1e-3], "gradient is 0"), ([1.0, 0.0], "rate is 0"), ([1.0, 1e-12], "`lr`")]
        {
            let found = said(numbers, 0.0, false);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].0 == STEPS && found[0].1.contains(why), "{found:?}");
        }
        assert_eq!(said([0.0, 1e-3], 0.0, true), []);
    }
}
