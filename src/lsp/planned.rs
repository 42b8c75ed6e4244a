//! The effect of running an open text: its plan, compared with that of the last run in its results folder.

use std::path::{Path, PathBuf};

use mopd_plan::difference::{ChangeKind, DifferenceKind, PlanDifference, difference};
use mopd_plan::{Comparison, Plan, Stage, StageFacts};

use super::session::{Document, Session};
use super::uri;
use crate::figures::{count, flops};
use crate::host;
use crate::run_folder::{RunFolder, out_folder};

pub struct DocumentPlan<'a> {
    plan: &'a Plan,
    last: Option<LastRun>,
}

struct LastRun {
    folder: PathBuf,
    finished: bool,
    difference: PlanDifference,
}

impl<'a> DocumentPlan<'a> {
    /// `None` if the text can't run, or is not in a folder. The last run is read each time: it may be going
    /// on.
    pub fn compile(session: &Session, document: &'a Document) -> Option<DocumentPlan<'a>> {
        let path = uri::to_path(&document.uri)?;
        let plan = document.plan()?;
        let out = out_folder(None, plan);
        // Runs are started in the project's folder, or in that of the file.
        let roots = session.client.roots.iter().filter_map(uri::to_path);
        let last = std::iter::once(host::folder_of(&path)).chain(roots).find_map(|folder| {
            let run = RunFolder::open(&folder.join(&out)).ok()?;
            Some(LastRun {
                finished: run.results.is_some(),
                difference: difference(&run.plan, plan),
                folder: out.clone(),
            })
        });
        Some(DocumentPlan { plan, last })
    }

    /// `1 of 9 stages reruns, 8 kept, against runs/quickstart`
    pub fn summary(&self) -> String {
        match &self.last {
            None => "not run yet".to_owned(),
            Some(LastRun { folder, finished, difference }) => {
                let whole = if *finished { "" } else { ", which is not finished" };
                format!("{}, against {}{whole}", difference.summary(), shown(folder))
            }
        }
    }

    /// The options with which a run makes one model and what it needs, with the tables of the file, in a
    /// folder of its own. `None` for what no table has as a row.
    pub fn alone(&self, name: &str) -> Option<Vec<String>> {
        let tables = &self.plan.experiment.comparisons;
        let is_of =
            |row: &str| row == name || row.strip_prefix(name).is_some_and(|rest| rest.starts_with('['));
        // A dot in its name would end the name in `--set`.
        let set = tables.iter().any(|table| table.rows.iter().any(|row| is_of(&row.label)))
            && tables.iter().all(|table| !table.name.contains(['.', '=']));
        set.then(|| {
            let of_table =
                |table: &Comparison| ["--set".to_owned(), format!("{}.models=[{name}]", table.name)];
            let folder = ["--out".to_owned(), format!("runs/{name}")];
            tables.iter().flat_map(of_table).chain(folder).collect()
        })
    }

    /// The fate of the stages with this name in a run; `None` for names without a stage, and without an
    /// earlier run.
    pub fn fate(&self, name: &str) -> Option<String> {
        let LastRun { folder, difference, .. } = self.last.as_ref()?;
        let members: Vec<&str> = self.stages(name).map(|(member, _)| member).collect();
        if members.is_empty() {
            return None;
        }
        let again =
            members.iter().filter(|member| difference.reruns.iter().any(|one| one == *member)).count();
        if again == 0 {
            return Some(format!("unchanged since {}", shown(folder)));
        }
        let changes: Vec<String> = difference
            .items
            .iter()
            .filter(|item| item.kind == DifferenceKind::Stage && members.contains(&item.name.as_str()))
            .filter_map(|item| match &item.fate {
                ChangeKind::Changed { settings, objective } => {
                    let all: Vec<String> =
                        settings.iter().chain(objective).map(ToString::to_string).collect();
                    Some(all.join(", "))
                }
                ChangeKind::Added => Some("new".to_owned()),
                ChangeKind::Removed | ChangeKind::Renamed { .. } => None,
            })
            .collect();
        let mut changes: Vec<String> = changes.into_iter().filter(|text| !text.is_empty()).collect();
        changes.dedup();
        let reruns = match members.len() {
            1 => "reruns".to_owned(),
            all => format!("{again} of {all} rerun"),
        };
        let why =
            if changes.is_empty() { "what it is made from changed".to_owned() } else { changes.join("; ") };
        Some(format!("{reruns}: {why}"))
    }

    /// Cost, key and fate of the stages with this name, in Markdown.
    pub fn of_model(&self, name: &str) -> Option<String> {
        let members: Vec<(&str, &StageFacts)> = self.stages(name).collect();
        let (_, facts) = members.first()?;
        let cost = &facts.cost;
        let parts = [
            cost.parameters.map(|parameters| format!("{} parameters", count(parameters))),
            cost.sequences.filter(|sequences| *sequences > 0).map(|all| format!("{} sequences", count(all))),
            cost.flops.filter(|all| *all > 0.0).map(|all| format!("at most {}", flops(all))),
        ];
        let cost: Vec<String> = parts.into_iter().flatten().collect();
        let mut text = String::new();
        if !cost.is_empty() {
            let each = if members.len() > 1 {
                format!("Each of {}, for one seed: ", members.len())
            } else {
                "For one seed: ".to_owned()
            };
            text += &format!("\n\n{each}{}.", cost.join(", "));
        }
        let key: String = facts.key.chars().take(8).collect();
        text += &format!("\n\nKey `{key}`");
        match self.fate(name) {
            Some(fate) => text += &format!("; {fate}."),
            None => text += "; not run yet.",
        }
        Some(text)
    }

    /// The stages with this name; the name of a family means all its members.
    fn stages<'s>(&'s self, name: &'s str) -> impl Iterator<Item = (&'s str, &'s StageFacts)> {
        let models = self.plan.experiment.models.iter().zip(&self.plan.stages);
        models
            .filter(move |(model, _)| model.name.split('[').next() == Some(name))
            .filter(|(model, _)| !matches!(model.stage, Stage::Initialise(_) | Stage::Load(_)))
            .map(|(model, facts)| (model.name.as_str(), facts))
    }
}

fn shown(folder: &Path) -> String {
    folder.display().to_string()
}
