//! `results.json`: the tables of a run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mopd_compiler::plan::results::{Results, StageRecord, Table};
use mopd_compiler::plan::{Comparison, Plan, events::Versions};

use super::statistics::{Scores, StatisticsError, table_rows};
use crate::files::{WriteError, write_atomically};
use crate::random::Uniforms;

/// The layout of `results.json`.
const SCHEMA: u32 = 1;

/// The seeds of a comparison: the experiment's, and those that follow it.
pub fn seeds(plan: &Plan, comparison: &Comparison) -> Vec<u64> {
    first_seeds(plan, comparison.seeds)
}

fn first_seeds(plan: &Plan, count: u32) -> Vec<u64> {
    (0..u64::from(count)).map(|index| plan.experiment.seed.wrapping_add(index)).collect()
}

/// Puts the tables together, and says what a reader should be warned of.
///
/// `scores` has the rewards of one comparison after the other, as they stand in the plan; `uniforms` makes the random numbers
/// of the comparison with that index; `seconds` is the run's wall time, `stages` what it took them.
pub fn assemble(
    plan: &Plan,
    scores: &[Scores],
    stages: Vec<StageRecord>,
    versions: Versions,
    seconds: f64,
    mut uniforms: impl FnMut(usize) -> Uniforms,
) -> Result<(Results, Vec<String>), StatisticsError> {
    let experiment = &plan.experiment;
    assert_eq!(scores.len(), experiment.comparisons.len(), "each comparison has its own scores");
    let mut tables = Vec::new();
    let mut warnings = Vec::new();
    for (index, (comparison, scores)) in experiment.comparisons.iter().zip(scores).enumerate() {
        let seeds = seeds(plan, comparison);
        let (rows, found) = table_rows(experiment, comparison, &seeds, scores, uniforms(index))?;
        warnings.extend(found);
        let sampling = &comparison.evaluation.sampling;
        let greedy = sampling.temperature == 0.0;
        tables.push(Table {
            name: comparison.name.clone(),
            metric: if greedy { "greedy" } else { "pass@1" }.to_owned(),
            samples: if greedy { 1 } else { sampling.n },
            domains: comparison.domains.iter().map(|id| experiment.domain(*id).name.clone()).collect(),
            rows,
        });
    }
    let most = experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1);
    let results = Results {
        schema: SCHEMA,
        experiment: experiment.name.clone(),
        plan: plan.hash.clone(),
        seeds: first_seeds(plan, most),
        versions,
        tables,
        stages,
        seconds,
        peak_memory: peak_memory(),
    };
    Ok((results, warnings))
}

/// Writes `results.json` into a folder; answers its path.
pub fn write_results(results: &Results, folder: &Path) -> Result<PathBuf, WriteError> {
    let path = folder.join("results.json");
    write_atomically(&path, |file| {
        let mut text = serde_json::to_vec_pretty(results)?;
        text.push(b'\n');
        file.write_all(&text)
    })?;
    Ok(path)
}

/// Most memory that was held before the count began anew, in bytes.
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// Most memory that this process has held so far, in bytes; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    peak_since_reset().unwrap_or(0).max(BEFORE.load(Ordering::Relaxed))
}

/// The same since the last [`reset_peak_memory`]; none where the system does not tell.
pub fn peak_since_reset() -> Option<u64> {
    high_water_mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Begins the count of [`peak_since_reset`] anew. Answers what is held now, in bytes; none where the system can't.
pub fn reset_peak_memory() -> Option<u64> {
    give_back_memory();
    BEFORE.fetch_max(peak_since_reset()?, Ordering::Relaxed);
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    peak_since_reset()
}

/// Hands memory that is free in this process back to the system. The allocator keeps what was freed for later: after a large stage
/// that would be gigabytes that the next one does not need and another program can't have.
fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(keep: usize) -> std::ffi::c_int;
        }
        // SAFETY: the function takes any number, and locks what it looks at.
        unsafe { malloc_trim(0) };
    }
}

/// `VmHWM:     1234 kB`
fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests;
