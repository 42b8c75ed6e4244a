//! The runs of a file: one, or one for each combination of the values of its `sweep`. They execute one
//! after the other on one store, so that what they share is computed once. A file without a `sweep` is a
//! sweep of one run.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mopd_compiler::plan::results::{Results, Table, TableRow};
use mopd_compiler::plan::{Plan, TableColumn};
use mopd_lang::Analysis;
use mopd_lang::experiment::SweepAxis;
use mopd_store::write_atomically;
use serde_json::{Map, Value, json};

use super::run::{event_files, one, results};
use super::{Compiled, archive, dry_run, plan_to_run};
use crate::args::{Format, RunArgs};
use crate::host::{self, as_text};
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::progress::utc;
use crate::render;
use crate::run_folder::out_folder;
use crate::run_lock::RunLock;
use crate::table;
use crate::worker;
use crate::worker::interrupts::Interrupts;

/// One of the runs.
#[derive(Debug)]
pub struct SweepRun {
    /// Each `param` that is swept over with its value, in the order of the sweep; none where there is no
    /// sweep.
    values: Vec<(String, f64)>,
    /// None where what its values make of the file can't run.
    pub compiled: Option<Rc<Compiled>>,
}

impl SweepRun {
    /// `clip_at=5,samples=1`: its folder within that of the sweep, and what tells its rows from others'.
    /// Empty where there is no sweep.
    pub fn name(&self) -> String {
        name(&self.values)
    }

    /// Its folder of results; `folder` is that of the sweep.
    pub fn out(&self, folder: &Path) -> PathBuf {
        if self.values.is_empty() { folder.to_owned() } else { folder.join(self.name()) }
    }
}

fn name(values: &[(String, f64)]) -> String {
    values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// At least one of its members can run.
#[derive(Debug)]
pub struct Sweep {
    pub members: Vec<SweepRun>,
}

/// What was found out about a file.
pub struct Checked {
    /// Its diagnostics; where it sweeps, those of the first run that can be.
    pub analysis: Analysis,
    /// Other runs of a sweep, which can't be: their names and diagnostics, those that several have in common
    /// once.
    pub refused: Vec<(String, Analysis)>,
    /// None where no run of it can be.
    pub sweep: Option<Sweep>,
}

/// Checks and compiles every run that a file asks for. What is set from outside is one value. `note` is told
/// every file that was looked for, also those that are not there.
///
/// # Errors
/// A file that can't be read.
pub fn check(path: &Path, set: &[(String, String)], note: &mut dyn FnMut(&Path)) -> Result<Checked, Problem> {
    let whole = host::analyse_noting(path, set, note)?;
    let axes = whole.experiment.as_ref().map(|experiment| experiment.sweep.as_slice()).unwrap_or_default();
    let combinations = combinations(axes, set);
    let mut whole = Some(whole);
    let (mut members, mut shown) = (Vec::new(), None);
    let (mut refused, mut said) = (Vec::new(), HashSet::new());
    for values in combinations {
        let mut analysis = match whole.take_if(|_| values.is_empty()) {
            Some(whole) => whole,
            None => {
                let chosen = values.iter().map(|(name, value)| (name.clone(), value.to_string()));
                host::analyse_noting(path, &set.iter().cloned().chain(chosen).collect::<Vec<_>>(), note)?
            }
        };
        let plan = plan_to_run(&mut analysis);
        let compiled = plan.map(|plan| Rc::new(Compiled { sources: analysis.sources.clone(), plan }));
        if compiled.is_some() {
            shown.get_or_insert(analysis);
        } else if said.insert(render::human::diagnostics(
            &analysis.diagnostics,
            &analysis.sources,
            Style { terminal: false },
        )) {
            refused.push((name(&values), analysis));
        }
        members.push(SweepRun { values, compiled });
    }
    let analysis = shown.unwrap_or_else(|| refused.remove(0).1);
    let sweep = members.iter().any(|member| member.compiled.is_some()).then_some(Sweep { members });
    Ok(Checked { analysis, refused, sweep })
}

/// Every combination of values, the last axis the fastest; without an axis, one that has none.
fn combinations(axes: &[SweepAxis], set: &[(String, String)]) -> Vec<Vec<(String, f64)>> {
    let mut combinations = vec![Vec::new()];
    for axis in axes.iter().filter(|axis| !set.iter().any(|(name, _)| *name == axis.parameter)) {
        let with = |values: &Vec<(String, f64)>| {
            let one = |value: &f64| [values.clone(), vec![(axis.parameter.clone(), *value)]].concat();
            axis.values.iter().map(one).collect::<Vec<_>>()
        };
        combinations = combinations.iter().flat_map(with).collect();
    }
    combinations
}

/// What the runs of a sweep have to say together.
pub struct SweepResults {
    /// None where none of them ended well.
    pub results: Option<Results>,
    pub good: usize,
    /// The names of those that did not end well.
    pub failed: Vec<String>,
}

impl Sweep {
    pub fn is_swept(&self) -> bool {
        self.members.iter().any(|member| !member.values.is_empty())
    }

    /// Members that can run.
    pub fn compiled(&self) -> impl Iterator<Item = (&SweepRun, &Rc<Compiled>)> {
        self.members.iter().filter_map(|member| Some((member, member.compiled.as_ref()?)))
    }

    /// Names and plans of the members that can run.
    pub fn plans(&self) -> Vec<(String, &Plan)> {
        self.compiled().map(|(member, compiled)| (member.name(), &compiled.plan)).collect()
    }

    /// The folder of results that the members' folders lie in.
    pub fn folder(&self, wanted: Option<&Path>) -> PathBuf {
        let (_, first) = self.compiled().next().expect("one of them can run");
        out_folder(wanted, &first.plan)
    }

    /// The folder of results as the runs need it, before the first of them begins.
    ///
    /// # Errors
    /// A folder that can't be written to.
    pub fn make_room(&self, folder: &Path) -> Result<(), Problem> {
        if self.is_swept() { archive::make_room(folder, None) } else { Ok(()) }
    }

    /// That a member begins, where it is one of several: for people, or as an event.
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

    /// The tables of all members as one.
    pub fn table(&self, results: &Results, style: Style) -> String {
        let (_, first) = self.compiled().next().expect("one of them can run");
        table::show(results, &first.plan, style)
    }

    /// Writes into the folder of a sweep how each of its members ended, and the tables of all as one.
    /// `results` has those of every member; none of one that failed.
    ///
    /// # Errors
    /// A folder that can't be written to.
    pub fn combined(&self, folder: &Path, results: &[Option<Results>]) -> Result<SweepResults, Problem> {
        let ended = || self.members.iter().zip(results);
        let entry = |(member, results): (&SweepRun, &Option<Results>)| {
            let good = results.is_some();
            json!({ "values": values(member), "out": member.out(folder), "good": good })
        };
        let list: Vec<Value> = ended().map(entry).collect();
        write(&folder.join("sweep.json"), &json!({ "schema": 1, "members": list }))?;
        let good: Vec<(&SweepRun, &Plan, &Results)> = ended()
            .filter_map(|(member, results)| {
                Some((member, &member.compiled.as_ref()?.plan, results.as_ref()?))
            })
            .collect();
        let all = combined(&good);
        if let Some(all) = &all {
            write(&folder.join("results.json"), all)?;
        }
        let failed =
            ended().filter(|(_, results)| results.is_none()).map(|(member, _)| member.name()).collect();
        Ok(SweepResults { good: good.len(), results: all, failed })
    }
}

impl SweepResults {
    /// How many ended well, where their tables are, and which ones failed.
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

fn values(member: &SweepRun) -> Map<String, Value> {
    member.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<(), Problem> {
    let text = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    Ok(write_atomically(path, |file| std::io::Write::write_all(file, &text))?)
}

/// `mopd run`: one member after the other.
pub fn run(arguments: &RunArgs, sweep: &Sweep) -> Result<Status, Problem> {
    Interrupts::handled();
    let folder = sweep.folder(arguments.out.as_deref());
    if arguments.dry_run {
        return dry_run::dry_run(arguments, sweep, &folder);
    }
    worker::find()?;
    let lock = RunLock::take(&folder)?;
    sweep.make_room(&folder)?;
    let (mut ended, mut status) = (Vec::new(), Status::Good);
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
        let ended_as = one(arguments, compiled, &out, !sweep.is_swept())?;
        if ended_as != Status::Interrupted {
            // Before all else: a folder that is gone is also why a stage could not write to it.
            lock.check()?;
        }
        match ended_as {
            Status::Interrupted => {
                if sweep.is_swept() {
                    output::error(&format!(
                        "{index} of {} runs of the sweep are finished\n",
                        sweep.members.len()
                    ));
                }
                return Ok(Status::Interrupted);
            }
            Status::Good => {
                // The results are whole without them, and other members may have room for theirs.
                if arguments.tensorboard
                    && let Err(problem) = event_files(&out)
                {
                    problem.report();
                    status = problem.status();
                }
                ended.push(Some(results(&out)?));
            }
            Status::Wrong | Status::Usage => ended.push(None),
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
    Ok(if ended.iter().any(Option::is_none) { Status::Wrong } else { status })
}

/// The results of all members as those of one run: a row whose models no value changes is there once, others
/// once for each member.
fn combined(good: &[(&SweepRun, &Plan, &Results)]) -> Option<Results> {
    let (_, _, first) = good.first()?;
    let of_table = |index: usize, table: &Table| {
        let mut rows: Vec<TableRow> = Vec::new();
        for (place, row) in table.rows.iter().enumerate() {
            // Equal numbers are no sign: two students may know as little.
            let same =
                good.iter().all(|(_, plan, _)| keys(plan, index, place) == keys(good[0].1, index, place));
            if same {
                rows.push(row.clone());
                continue;
            }
            rows.extend(good.iter().filter_map(|(member, _, results)| {
                let row = results.tables.get(index)?.rows.get(place)?;
                Some(TableRow { model: format!("{} [{}]", row.model, member.name()), ..row.clone() })
            }));
        }
        Table { rows, ..table.clone() }
    };
    Some(Results {
        plan: good.iter().map(|(_, _, results)| results.plan.as_str()).collect::<Vec<_>>().join(","),
        tables: first.tables.iter().enumerate().map(|(index, table)| of_table(index, table)).collect(),
        stages: good.iter().flat_map(|(_, _, results)| results.stages.clone()).collect(),
        guards: good.iter().flat_map(|(_, _, results)| results.guards.clone()).collect(),
        seconds: good.iter().map(|(_, _, results)| results.seconds).sum(),
        before_stages: good.iter().map(|(_, _, results)| results.before_stages).sum(),
        peak_memory: good.iter().map(|(_, _, results)| results.peak_memory).max().unwrap_or(0),
        predicted_memory: good.iter().filter_map(|(_, _, results)| results.predicted_memory).max(),
        ..(*first).clone()
    })
}

/// What the models of a row of a table are made by, and what they are asked.
fn keys(plan: &Plan, table: usize, row: usize) -> Option<(Vec<&str>, &[TableColumn])> {
    let comparison = plan.experiment.comparisons.get(table)?;
    let models = &comparison.rows.get(row)?.models;
    Some((models.iter().map(|id| plan.stages[id.0 as usize].key.as_str()).collect(), &comparison.columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain() {
        let member =
            SweepRun { values: vec![("clip_at".to_owned(), 5.0), ("lr".to_owned(), 3e-4)], compiled: None };
        assert_eq!(member.name(), "clip_at=5,lr=0.0003");
        assert_eq!(member.out(Path::new("runs/a")), Path::new("runs/a/clip_at=5,lr=0.0003"));
        let single = SweepRun { values: Vec::new(), compiled: None };
        assert_eq!(single.out(Path::new("runs/a")), Path::new("runs/a"));
    }
}
