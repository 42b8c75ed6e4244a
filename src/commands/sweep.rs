//! The runs of a file: one, or one for each combination of the values of its `sweep`. They run one after the
//! other with one store, so that stages they share are computed once. A file without a `sweep` is a sweep of
//! one run.

mod merged;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mopd_experiment::SweptTo;
use mopd_lang::Analysis;
use mopd_plan::Plan;
use mopd_plan::difference::NamedPlan;
use mopd_plan::results::Results;
use mopd_store::results_folder::{RESULTS, ResultsFolder};
use mopd_store::write_atomically;
use serde_json::{Map, Value, json};

pub use self::merged::{FinishedRun, merged};
use super::run::{event_files, results, run_plan};
use super::{Compiled, dry_run, files, plan_to_run};
use crate::archive;
use crate::args::{Format, RunArgs};
use crate::host::{self, as_text};
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::progress::utc;
use crate::run_folder::out_folder;
use crate::run_lock::RunLock;
use crate::sweep_folder::{SWEEP, SweepFolder, SweepMember};
use crate::table;
use crate::worker;
use crate::worker::interrupts::Interrupts;

/// One run of a sweep.
#[derive(Debug)]
pub struct SweepRun {
    /// Each swept `param` with its value, in the order of the sweep; empty without a sweep.
    values: Vec<(String, SweptTo)>,
    /// `None` if the file can't run with these values.
    pub compiled: Option<Rc<Compiled>>,
}

impl SweepRun {
    /// `clip_at=5,samples=1`: the name of its folder in that of the sweep, and of its rows. Empty without a
    /// sweep.
    pub fn name(&self) -> String {
        name(&self.values)
    }

    /// Its results folder; `folder` is that of the sweep.
    pub fn out(&self, folder: &Path) -> PathBuf {
        if self.values.is_empty() { folder.to_owned() } else { folder.join(self.name()) }
    }
}

fn name(values: &[(String, SweptTo)]) -> String {
    values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// The runs of a file, of which at least one can run.
#[derive(Debug)]
pub struct Sweep {
    pub members: Vec<SweepRun>,
}

/// The results of checking a file.
pub struct CheckedSweep {
    /// That of the first run that is valid, with the diagnostics of all.
    pub analysis: Analysis,
    /// The names of the runs of a sweep that are invalid.
    pub refused: Vec<String>,
    /// `None` if no run is valid.
    pub sweep: Option<Sweep>,
}

impl CheckedSweep {
    /// Which runs can't run, as a line of text; empty if all can, or if there is no sweep.
    pub fn refused_text(&self) -> String {
        const SHOWN: usize = 5;
        if self.refused.is_empty() {
            return String::new();
        }
        let mut names = self.refused.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        if self.refused.len() > SHOWN {
            names += &format!("; and {} more", self.refused.len() - SHOWN);
        }
        format!("can't run: {names}\n")
    }
}

/// Checks and compiles every run of a file. A swept `param` that is set from outside has only that value.
/// `note` is called with every file that was looked for, also with missing ones.
///
/// # Errors
/// If the file can't be read.
pub fn check(
    path: &Path,
    set: &[(String, String)],
    note: &mut dyn FnMut(&Path),
) -> Result<CheckedSweep, Problem> {
    let mut members: Vec<SweepRun> = Vec::new();
    let mut shown: Option<Analysis> = None;
    let mut valid = false;
    let diagnostics = host::analyse_every_run(path, set, note, &mut |swept, mut analysis| {
        let values: Vec<(String, SweptTo)> =
            swept.iter().map(|swept| (swept.parameter.clone(), swept.value.clone())).collect();
        let chosen = values.iter().map(|(name, value)| (name.clone(), value.to_string()));
        let set: Vec<(String, String)> = set.iter().cloned().chain(chosen).collect();
        let plan = plan_to_run(&mut analysis);
        let compiled = plan.map(|plan| Rc::new(Compiled { sources: analysis.sources.clone(), plan, set }));
        let diagnostics = analysis.diagnostics.clone();
        if shown.is_none() || !valid && compiled.is_some() {
            (shown, valid) = (Some(analysis), compiled.is_some());
        }
        members.push(SweepRun { values, compiled });
        diagnostics
    })?;
    let analysis = Analysis { diagnostics, ..shown.expect("a file has a run") };
    let invalid = members.iter().filter(|member| member.compiled.is_none() && !member.values.is_empty());
    let refused = invalid.map(SweepRun::name).collect();
    let sweep = valid.then_some(Sweep { members });
    Ok(CheckedSweep { analysis, refused, sweep })
}

/// The combined results of a sweep.
pub struct SweepResults {
    /// `None` if no run finished.
    pub results: Option<Results>,
    pub good: usize,
    /// The names of the runs that did not finish.
    pub failed: Vec<String>,
}

impl Sweep {
    pub fn is_swept(&self) -> bool {
        self.members.iter().any(|member| !member.values.is_empty())
    }

    /// The members that can run.
    pub fn compiled(&self) -> impl Iterator<Item = (&SweepRun, &Rc<Compiled>)> {
        self.members.iter().filter_map(|member| Some((member, member.compiled.as_ref()?)))
    }

    /// The members that can run.
    pub fn plans(&self) -> Vec<NamedPlan<'_>> {
        let named =
            self.compiled().map(|(member, compiled)| NamedPlan { name: member.name(), plan: &compiled.plan });
        named.collect()
    }

    /// The results folder that contains the members' folders.
    pub fn folder(&self, wanted: Option<&Path>) -> PathBuf {
        let (_, first) = self.compiled().next().expect("one of them can run");
        out_folder(wanted, &first.plan)
    }

    /// Locks the results folder of a member while it runs; `None` without a sweep, where that folder is the
    /// one that is locked already.
    ///
    /// # Errors
    /// If another run writes there.
    pub fn hold(&self, member: &SweepRun, folder: &Path) -> Result<Option<RunLock>, Problem> {
        self.is_swept().then(|| RunLock::take(&member.out(folder))).transpose()
    }

    /// Prepares the results folder before the first run.
    ///
    /// # Errors
    /// If the folder can't be written to.
    pub fn make_room(&self, folder: &Path) -> Result<(), Problem> {
        if !self.is_swept() {
            return Ok(());
        }
        archive::check(folder)?;
        let results = ResultsFolder::at(folder);
        results.make_room(&self.plan())?;
        // Until all members have ended, `mopd ls` shows that the sweep is not finished.
        self.write_members(folder, |_| false)?;
        Ok(results.remove_plan_files_besides(&[SWEEP])?)
    }

    /// The hashes of all plans.
    fn plan(&self) -> String {
        let plans: Vec<&str> = self.compiled().map(|(_, compiled)| compiled.plan.hash.as_str()).collect();
        plans.join(",")
    }

    /// Writes the list of members, and which of them are good.
    fn write_members(&self, folder: &Path, good: impl Fn(usize) -> bool) -> Result<(), Problem> {
        let mut known = HashSet::new();
        let mut members = Vec::new();
        for (member, index) in self.members.iter().zip(0..) {
            let plan = member.compiled.as_ref().map(|compiled| &compiled.plan);
            members.push(SweepMember {
                values: values(member),
                out: member.out(folder),
                good: good(index),
                plan: plan.map(|plan| plan.hash.clone()),
                flops: plan.and_then(|plan| new_flops(plan, &mut known)),
            });
        }
        let (_, first) = self.compiled().next().expect("one of them can run");
        let experiment = first.plan.experiment.name.clone();
        write(&folder.join(SWEEP), &SweepFolder { schema: 1, plan: self.plan(), experiment, members })
    }

    /// Called when a member has ended in any way. If its results are others than those that the merged tables
    /// of an earlier run were made from, these move to `previous`.
    ///
    /// # Errors
    /// If the folder can't be written to.
    pub fn check_merged(&self, folder: &Path, index: usize) -> Result<(), Problem> {
        let Some(member) = self.members.get(index).filter(|_| self.is_swept()) else { return Ok(()) };
        let results = ResultsFolder::at(folder);
        let merged = results.keys().unwrap_or_default();
        let own = ResultsFolder::at(&member.out(folder)).keys();
        if results.has_results() && !own.is_some_and(|own| merged.split(',').any(|known| known == own)) {
            results.supersede("")?;
        }
        Ok(())
    }

    /// The announcement of a member of a sweep at its start: as text, or as an event.
    pub fn announcement(&self, index: usize, format: Format) -> Option<String> {
        let member = self.members.get(index).filter(|_| self.is_swept())?;
        let of = self.members.len();
        Some(match format {
            Format::Human => format!("run {} of {of}: {}\n", index + 1, member.name()),
            Format::Json => {
                let values = values(member);
                format!(
                    "{}\n",
                    json!({ "event": "member", "values": values, "member": index, "members": of })
                )
            }
        })
    }

    /// The tables of all members, merged.
    pub fn table(&self, results: &Results, style: Style) -> String {
        // A failed run has no rows.
        let ended = |run: &NamedPlan| results.plan.split(',').any(|hash| hash == run.plan.hash);
        table::show_merged(results, &self.plans().into_iter().filter(ended).collect::<Vec<_>>(), style)
    }

    /// Writes how each member ended, and the merged tables of all, to the folder of a sweep. `results` has
    /// those of every member; `None` for a failed one.
    ///
    /// # Errors
    /// If the folder can't be written to.
    pub fn combined(&self, folder: &Path, results: &[Option<Results>]) -> Result<SweepResults, Problem> {
        let ended = || self.members.iter().zip(results);
        self.write_members(folder, |index| results.get(index).is_some_and(Option::is_some))?;
        let good: Vec<FinishedRun> = ended()
            .filter_map(|(member, results)| {
                let (plan, results) = (&member.compiled.as_ref()?.plan, results.as_ref()?);
                Some(FinishedRun { name: member.name(), plan, results })
            })
            .collect();
        let all = merged(&good);
        if let Some(all) = &all {
            ResultsFolder::at(folder).supersede(all.keys.as_deref().unwrap_or_default())?;
            write(&folder.join(RESULTS), all)?;
        }
        let failed =
            ended().filter(|(_, results)| results.is_none()).map(|(member, _)| member.name()).collect();
        Ok(SweepResults { good: good.len(), results: all, failed })
    }
}

impl SweepResults {
    /// How many finished, where their tables are, and which failed, as text.
    pub fn text(&self, folder: &Path) -> String {
        let mut text = String::new();
        if self.results.is_some() {
            text += &format!(
                "{} of {} runs, results in {}\n",
                self.good,
                self.good + self.failed.len(),
                folder.display()
            );
        }
        if !self.failed.is_empty() {
            text += &format!("failed: {}\n", self.failed.join("; "));
        }
        text
    }
}

/// The work of the stages that are not known yet, for each seed; `None` where one depends on files.
fn new_flops<'a>(plan: &'a Plan, known: &mut HashSet<(&'a str, u64)>) -> Option<f64> {
    let experiment = &plan.experiment;
    let seeds =
        experiment.comparisons.iter().map(|comparison| u64::from(comparison.seeds)).max().unwrap_or(1);
    let seeds = (0..seeds.max(1)).map(|index| experiment.seed.wrapping_add(index));
    let mut flops = Some(0.0);
    for (seed, stage) in seeds.flat_map(|seed| plan.stages.iter().map(move |stage| (seed, stage))) {
        if known.insert((&stage.key, seed)) {
            flops = flops.zip(stage.cost.flops).map(|(all, one)| all + one);
        }
    }
    flops
}

/// The values of a member, by name.
pub fn values(member: &SweepRun) -> Map<String, Value> {
    member.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<(), Problem> {
    let text = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    Ok(write_atomically(path, |file| std::io::Write::write_all(file, &text))?)
}

/// `mopd run`: runs the members one after the other.
pub fn run(arguments: &RunArgs, sweep: &Sweep) -> Result<CommandStatus, Problem> {
    Interrupts::handled();
    let folder = sweep.folder(arguments.out.as_deref());
    if arguments.dry_run {
        return dry_run::dry_run(arguments, sweep, &folder);
    }
    worker::find()?;
    // A run by itself finds this within a second; in a sweep the runs before it may take days.
    let large = |compiled: &Compiled| files::may_not_fit(&compiled.plan);
    let mut suspects = sweep.compiled().filter(|(_, compiled)| large(compiled)).peekable();
    if sweep.is_swept() && suspects.peek().is_some() && dry_run::refused(arguments, suspects, &folder)? {
        return Ok(CommandStatus::Failure);
    }
    let lock = RunLock::take(&folder)?;
    sweep.make_room(&folder)?;
    let (mut ended, mut status) = (Vec::new(), CommandStatus::Success);
    for (index, member) in sweep.members.iter().enumerate() {
        let Some(compiled) = &member.compiled else {
            ended.push(None);
            continue;
        };
        match (sweep.announcement(index, arguments.format), arguments.format) {
            (Some(text), Format::Human) => output::note(&text),
            (Some(text), Format::Json) => output::result(&text),
            (None, _) => {}
        }
        let out = member.out(&folder);
        let _held = match sweep.hold(member, &folder) {
            Ok(held) => held,
            Err(problem) => {
                // The other members have folders of their own.
                problem.report();
                ended.push(None);
                continue;
            }
        };
        let ended_as = run_plan(arguments, compiled, &out, !sweep.is_swept());
        sweep.check_merged(&folder, index)?;
        let ended_as = ended_as?;
        if ended_as != CommandStatus::Interrupted {
            // First, since a folder that is gone also explains why a stage could not write to it.
            lock.check()?;
        }
        match ended_as {
            CommandStatus::Interrupted => {
                if sweep.is_swept() {
                    output::error(&format!(
                        "{index} of {} runs of the sweep are finished\n",
                        sweep.members.len()
                    ));
                }
                return Ok(CommandStatus::Interrupted);
            }
            CommandStatus::Success => {
                // The results are complete without them, and other members may have space for theirs.
                if arguments.tensorboard
                    && let Err(problem) = event_files(&out)
                {
                    problem.report();
                    status = problem.status();
                }
                ended.push(Some(results(&out)?));
            }
            CommandStatus::Failure | CommandStatus::UsageError | CommandStatus::Program(_) => {
                ended.push(None)
            }
        }
    }
    let mut left = ended.iter().any(Option::is_some);
    if sweep.is_swept() {
        let combined = sweep.combined(&folder, &ended)?;
        left = combined.results.is_some();
        if let (Some(results), Format::Human) = (&combined.results, arguments.format) {
            output::result(&sweep.table(results, Style::of_stdout()));
        }
        let say = if combined.failed.is_empty() { output::note } else { output::error };
        say(&combined.text(&folder));
    }
    if left && arguments.format == Format::Json {
        output::result(&format!(
            "{}\n",
            json!({ "event": "results", "out": as_text(&folder)?, "time": utc() })
        ));
    }
    Ok(if ended.iter().any(Option::is_none) { CommandStatus::Failure } else { status })
}

#[cfg(test)]
mod tests;
