//! Whether a stage needs rewards of its completions.

pub use mopd_experiment::{
    Reward, RewardFacts, RewardMeaning, RewardPart, RewardProgram, RewardRange, Secret,
    without_absolute_paths,
};

use super::{Keep, Objective, Producer, Signal, Train, View};

impl Objective {
    /// Whether the objective reads rewards.
    pub fn reads_reward(&self) -> bool {
        self.signals().iter().any(Signal::is_of_reward)
    }
}

impl Train<Objective> {
    /// Whether completions are rewarded. Those that are written for the stage always are, because their
    /// reward is reported; completions from the data only if something reads rewards. If they are not,
    /// rewards are not part of the stage's key.
    pub fn is_judged(&self) -> bool {
        let of_data = |producer: &Producer| {
            matches!(producer, Producer::Data(_) | Producer::Pairs(_) | Producer::Mix(_))
        };
        let written = self.producers().flat_map(Producer::all).any(|producer| !of_data(producer));
        let read = self.objectives().any(|(_, objective)| objective.reads_reward());
        let left_out = self.filter.is_some() || self.rollouts().any(|rollout| rollout.keep != Keep::All);
        let shown = || {
            let mut domains = self.mixture.iter();
            domains.any(|share| !self.views(share.domain).all(View::is_fixed))
        };
        let of_scorers = || self.scorers.signals().iter().any(Signal::is_of_reward);
        written || read || left_out || self.curriculum.is_some() || shown() || of_scorers()
    }
}
