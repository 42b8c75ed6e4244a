//! The rewards of completions, which `mopd rewards` computes beside the engine with the verifiers of a run.

use super::ExportFile;
use super::coverage::Coverage;
use super::stage::ExportSettings;

/// The module that asks for rewards.
const ASKS: &str = include_str!("python/mopd_rewards.py");
/// The end of `launch.sh`, which starts the program in its arguments.
const START: &str = include_str!("python/launch_rewards.sh");

/// The files of a folder that are about rewards. `launch` sets the program that trains.
pub fn files(launch: &str) -> [ExportFile; 2] {
    [ExportFile::new("mopd_rewards.py", ASKS), ExportFile::new("launch.sh", format!("{launch}{START}"))]
}

/// Reports the rewards of the stage's domains. `single` says that the engine asks for one completion at a
/// time.
pub fn report(settings: &ExportSettings, single: bool, coverage: &mut Coverage) {
    for part in &settings.domains {
        let domain = part.domain;
        if domain.reward.is_none() {
            if single {
                let how = "the engine asks for a reward of each completion: it gets 0, which the loss does not read";
                coverage.approximate(
                    format!("domain `{}` without a reward", domain.name),
                    domain.origin,
                    how,
                );
            }
            continue;
        }
        let reward = domain.reward.facts();
        let construct = format!("reward of domain `{}`: `{}`", domain.name, reward.name);
        if single && reward.takes_lists {
            let how = "the engine asks for one completion at a time, so the lists of the function or server \
                       are others than in a run; the rewards differ only if they depend on the list";
            coverage.approximate(construct, domain.origin, how);
        } else {
            coverage.exact(construct, domain.origin);
        }
    }
}
