//! The report for a worker that was killed (signal 9), but not by mopd: its running stages, and which
//! settings to lower. Usually the system does this when memory runs out; if it counts such kills, the cause
//! is known.

use std::sync::OnceLock;

use mopd_plan::{Objective, Plan, Rollout, Train};

use crate::problem::Problem;

/// A running stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveStage {
    pub stage: String,
    /// Its seed, if there are several.
    pub seed: Option<u64>,
    pub step: u32,
    pub steps: u32,
}

/// The number of processes that the system had killed for memory before the first worker was started; `None`
/// if it does not count them.
static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Must be called before a worker is started.
pub fn begin() {
    BEFORE.get_or_init(kills);
}

fn kills() -> Option<u64> {
    counted_kills(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

fn counted_kills(vmstat: &str) -> Option<u64> {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// Whether the system has killed a process for memory since [`begin`].
fn memory_ran_out() -> bool {
    matches!((BEFORE.get().copied().flatten(), kills()), (Some(before), Some(now)) if now > before)
}

/// For a run with these running stages; `to_come`: some had not begun.
pub fn of_run(plan: &Plan, at_work: &[ActiveStage], to_come: bool) -> Problem {
    described(memory_ran_out(), plan, at_work, to_come)
}

const ANYWHERE: &str = "lower `max_tokens`, `prompts`, `samples` or `batch`, set `micro_batch` or \
    `checkpointing`, or take a smaller model; `mopd plan --predict` shows the memory of each stage";

/// The report if the worker's activity is not known.
pub fn somewhere() -> Problem {
    Problem::run("worker-died", cause(memory_ran_out())).help(ANYWHERE)
}

fn cause(memory: bool) -> &'static str {
    match memory {
        true => "the system killed the worker (signal 9): memory ran out",
        false => {
            "the worker was killed (signal 9), not by mopd; most often the system does that when memory runs \
             out"
        }
    }
}

fn described(memory: bool, plan: &Plan, at_work: &[ActiveStage], to_come: bool) -> Problem {
    if at_work.is_empty() && to_come {
        // Models and data are being read, and the cost of the next stages is measured.
        return Problem::run("worker-died", format!("{}; the next stage had not started", cause(memory)))
            .help(ANYWHERE);
    }
    let place = |stage: &ActiveStage| {
        let seed = stage.seed.map(|seed| format!(" (seed {seed})")).unwrap_or_default();
        match stage.steps {
            0 => format!("`{}`{seed}", stage.stage),
            steps => format!("`{}`{seed} at step {} of {steps}", stage.stage, stage.step),
        }
    };
    let places: Vec<String> = at_work.iter().map(place).collect();
    let places = if places.is_empty() {
        "all stages were finished".to_owned()
    } else {
        format!("at work: {}", places.join(", "))
    };
    let mut ways: Vec<String> = Vec::new();
    let mut named: Vec<&str> = Vec::new();
    for stage in at_work {
        let model = plan.experiment.models.iter().find(|model| model.name == stage.stage);
        let trains = model.map(|model| model.stage.trains()).unwrap_or_default();
        if !trains.is_empty() && !named.contains(&stage.stage.as_str()) {
            ways.extend(trains.into_iter().map(|train| format!("of `{}`, {}", stage.stage, settings(train))));
            named.push(&stage.stage);
        }
    }
    if at_work.is_empty() {
        let asked = plan.experiment.comparisons.iter().flat_map(|comparison| &comparison.columns);
        let asked = asked.map(|column| &column.evaluation.sampling);
        let longest = asked.max_by_key(|sampling| sampling.max_tokens);
        ways.extend(
            longest.map(|sampling| format!("of evaluations, lower `max_tokens = {}`", sampling.max_tokens)),
        );
    }
    if at_work.len() > 1 {
        ways.push(format!("run fewer stages in parallel ({} were): `--workers 1`", at_work.len()));
    }
    ways.push(
        "take a smaller model or a machine with more memory; `mopd plan --predict` shows the memory of \
        each stage"
            .to_owned(),
    );
    Problem::run("worker-died", format!("{}; {places}", cause(memory))).help(ways.join(";\n"))
}

/// The settings of a stage that take memory, as written, and those that trade time for it.
fn settings(train: &Train<Objective>) -> String {
    let Rollout { producer, groups, .. } = &train.rollout;
    let mut lower = vec![producer.kind().groups_setting(*groups)];
    if let Some(sampling) = producer.sampling() {
        if sampling.n > 1 {
            lower.push(format!("the {} samples of a prompt", sampling.n));
        }
        lower.push(format!("`max_tokens = {}`", sampling.max_tokens));
    }
    let fewer = match train.options.execution.micro_batch {
        Some(micro_batch) => format!("lower `micro_batch = {micro_batch}` first"),
        None => "set `micro_batch = 1`, which only changes the rounding of sums".to_owned(),
    };
    format!("{fewer}, or lower {}", lower.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_for_memory_are_read_from_the_systems_counts() {
        assert_eq!(counted_kills("oom_kill_disabled 9\nnr_free_pages 5\noom_kill 12\n"), Some(12));
        assert_eq!(counted_kills("nr_free_pages 5\n"), None);
        assert!(cause(true).contains("memory ran out") && cause(false).contains("most often"));
    }
}
