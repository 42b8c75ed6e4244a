//! A `sweep`: one run for each combination of values, one after the other on one store, so that what they share is computed once.

use std::path::{Path, PathBuf};

use mopd_compiler::plan::results::{Results, Table, TableRow};
use mopd_compiler::plan::{Evaluation, Plan};
use mopd_store::write_atomically;
use serde_json::{Value, json};

use super::compile_member;
use super::run::{Interrupts, event_files, one, out_folder, results};
use crate::args::{Format, Run};
use crate::host;
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::table;

/// A combination of values.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Each `param` with its value, in the order of the sweep.
    values: Vec<(String, f64)>,
}

impl Member {
    /// `clip_at=5,samples=1`: its folder within that of the sweep, and what tells its rows from others'.
    fn name(&self) -> String {
        self.values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    }

    fn set(&self) -> impl Iterator<Item = (String, String)> {
        self.values.iter().map(|(name, value)| (name.clone(), value.to_string()))
    }
}

/// The combinations of a file's sweep, the last axis the fastest; none where it has no sweep, or can't be read as an experiment.
/// What is set from outside is one value.
pub fn members(path: &Path, set: &[(String, String)]) -> Result<Vec<Member>, Problem> {
    let analysis = host::analyse_file(path, set)?;
    let axes = analysis.experiment.map(|experiment| experiment.sweep).unwrap_or_default();
    if axes.is_empty() {
        return Ok(Vec::new());
    }
    let mut members = vec![Member { values: Vec::new() }];
    for axis in axes.iter().filter(|axis| !set.iter().any(|(name, _)| *name == axis.parameter)) {
        let with = |member: &Member| {
            let of = |value: &f64| Member { values: [member.values.clone(), vec![(axis.parameter.clone(), *value)]].concat() };
            axis.values.iter().map(of).collect::<Vec<_>>()
        };
        members = members.iter().flat_map(with).collect();
    }
    Ok(members)
}

/// How a member ended.
struct Ended {
    member: Member,
    out: PathBuf,
    /// None where it failed.
    results: Option<(Plan, Results)>,
}

pub fn run(arguments: &Run, members: &[Member]) -> Result<Status, Problem> {
    let interrupts = Interrupts::install();
    let mut ended: Vec<Ended> = Vec::new();
    let mut shown: Option<(PathBuf, Plan)> = None;
    let mut wrong = Status::Good;
    for (index, member) in members.iter().enumerate() {
        let set: Vec<(String, String)> = arguments.overrides.set.iter().cloned().chain(member.set()).collect();
        // What is said of the file is said once.
        let Some(compiled) = compile_member(&arguments.file, &set, index == 0)? else {
            if index == 0 {
                return Ok(Status::Wrong);
            }
            ended.push(Ended { member: member.clone(), out: PathBuf::new(), results: None });
            continue;
        };
        let (folder, _) = shown.get_or_insert_with(|| (out_folder(arguments.out.as_deref(), &compiled), compiled.plan.clone()));
        announce(arguments.format, member, index, members.len());
        let out = folder.join(member.name());
        match one(arguments, &compiled, &out, &interrupts, false)? {
            Status::Interrupted => {
                output::error(&format!("{} of {} runs of the sweep are done\n", index, members.len()));
                return Ok(Status::Interrupted);
            }
            Status::Good => {
                // The results are whole without them, and other members may have room for theirs.
                if arguments.tensorboard
                    && let Err(problem) = event_files(&out)
                {
                    problem.report();
                    wrong = problem.status();
                }
                let results = results(&out)?;
                ended.push(Ended { member: member.clone(), out, results: Some((compiled.plan, results)) });
            }
            Status::Wrong | Status::Usage => ended.push(Ended { member: member.clone(), out, results: None }),
        }
    }
    let Some((folder, plan)) = shown else { return Ok(Status::Wrong) };
    match summary(arguments, &folder, &plan, &ended)? {
        Status::Good => Ok(wrong),
        status => Ok(status),
    }
}

fn announce(format: Format, member: &Member, index: usize, of: usize) {
    match format {
        Format::Human => output::error(&format!("run {} of {of}: {}\n", index + 1, member.name())),
        Format::Json => {
            let values: serde_json::Map<String, Value> =
                member.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            output::result(&format!("{}\n", json!({ "event": "member", "values": values, "member": index, "members": of })));
        }
    }
}

/// One table of all members, in the folder of the sweep and on standard output.
fn summary(arguments: &Run, folder: &Path, plan: &Plan, ended: &[Ended]) -> Result<Status, Problem> {
    let good: Vec<(&Member, &Plan, &Results)> =
        ended.iter().filter_map(|ended| ended.results.as_ref().map(|(plan, results)| (&ended.member, plan, results))).collect();
    let failed: Vec<String> = ended.iter().filter(|ended| ended.results.is_none()).map(|ended| ended.member.name()).collect();
    let list: Vec<Value> = ended
        .iter()
        .map(|Ended { member, out, results }| {
            let values: serde_json::Map<String, Value> =
                member.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            json!({ "values": values, "out": out, "good": results.is_some() })
        })
        .collect();
    write(&folder.join("sweep.json"), &json!({ "schema": 1, "members": list }))?;
    if let Some(all) = together(&good) {
        write(&folder.join("results.json"), &all)?;
        if arguments.format == Format::Human {
            output::result(&table::show(&all, plan, Style::of_stdout()));
        }
        output::error(&format!("{} of {} runs, results in {}\n", good.len(), ended.len(), folder.display()));
    }
    if failed.is_empty() {
        return Ok(Status::Good);
    }
    output::error(&format!("failed: {}\n", failed.join("; ")));
    Ok(Status::Wrong)
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<(), Problem> {
    let text = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    Ok(write_atomically(path, |file| std::io::Write::write_all(file, &text))?)
}

/// The results of all members as those of one run: a row whose models no value changes is there once, others once for each member.
fn together(good: &[(&Member, &Plan, &Results)]) -> Option<Results> {
    let (_, _, first) = good.first()?;
    let of_table = |index: usize, table: &Table| {
        let mut rows: Vec<TableRow> = Vec::new();
        for (place, row) in table.rows.iter().enumerate() {
            // Equal numbers are no sign: two students may know as little.
            let same = good.iter().all(|(_, plan, _)| keys(plan, index, place) == keys(good[0].1, index, place));
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
        seconds: good.iter().map(|(_, _, results)| results.seconds).sum(),
        before_stages: good.iter().map(|(_, _, results)| results.before_stages).sum(),
        peak_memory: good.iter().map(|(_, _, results)| results.peak_memory).max().unwrap_or(0),
        predicted_memory: good.iter().filter_map(|(_, _, results)| results.predicted_memory).max(),
        ..(*first).clone()
    })
}

/// What the models of a row of a table are made by, and what they are asked.
fn keys(plan: &Plan, table: usize, row: usize) -> Option<(Vec<&str>, &Evaluation)> {
    let comparison = plan.experiment.comparisons.get(table)?;
    let models = &comparison.rows.get(row)?.models;
    Some((models.iter().map(|id| plan.stages[id.0 as usize].key.as_str()).collect(), &comparison.evaluation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(values: &[(&str, f64)]) -> Member {
        Member { values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    #[test]
    fn a_name_is_plain() {
        assert_eq!(member(&[("clip_at", 5.0), ("lr", 3e-4)]).name(), "clip_at=5,lr=0.0003");
    }
}
