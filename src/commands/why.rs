//! `mopd plan --why`: what a run would do with each stage, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mopd_plan::Plan;
use mopd_plan::difference::{ChangeKind, DifferenceKind, PlanDifference, SettingChange, difference, reruns};
use mopd_plan::events::{Event, Failure, Job};
use mopd_plan::why::{EarlierRun, KeyPart, StageFate};

use super::run::job_of;
use crate::args::{PlanArgs, PlanFormat};
use crate::output::{self, Style, printable};
use crate::problem::Problem;
use crate::worker;

/// Reports for each stage of a file's plan whether a run with results in `out` keeps it or trains it.
pub fn why(plan: &Plan, arguments: &PlanArgs, out: &Path) -> Result<(), Problem> {
    let job = job_of(plan, &arguments.file, out)?;
    let job = Job::Why(Box::new(job));
    let mut fates: Vec<StageFate> = Vec::new();
    let failed = |failure: &Failure| Problem::run("not-explained", failure.message.clone());
    let status = worker::ask(&job, failed, |event| {
        if let Event::Fate { fate } = event {
            fates.push(fate);
        }
    })?;
    if !status.success() {
        return Err(worker::death(status));
    }
    if arguments.format == PlanFormat::Json {
        let line = |fate| serde_json::to_string(fate).expect("a fate was read from JSON") + "\n";
        output::result(&fates.iter().map(line).collect::<String>());
        return Ok(());
    }
    let style = Style::of_stdout();
    let several = fates.iter().map(|fate| fate.seed).collect::<BTreeSet<u64>>().len() > 1;
    let name = |fate: &StageFate| {
        if several { format!("{} (seed {})", fate.stage, fate.seed) } else { fate.stage.clone() }
    };
    let width = fates.iter().map(|fate| name(fate).chars().count()).max().unwrap_or(0);
    let mut reasons = RerunReasons { plan, fates: &fates, differences: BTreeMap::new() };
    let mut text = String::new();
    for fate in &fates {
        let name = name(fate);
        let padding = " ".repeat(width - name.chars().count());
        let what = match fate.kept {
            true => "kept".to_owned(),
            false => format!("{}{}", style.yellow("trained"), printable(&reasons.describe(fate))),
        };
        text += &format!("{}{padding}  {what}\n", style.bold(&printable(&name)));
    }
    let trained = fates.iter().filter(|fate| !fate.kept).count();
    output::result(&format!("{text}{}\n", reruns(trained, fates.len())));
    Ok(())
}

struct RerunReasons<'a> {
    plan: &'a Plan,
    fates: &'a [StageFate],
    /// By the earlier run's folder: differences from its plan, and from the finished one before it.
    differences: BTreeMap<String, Vec<PlanDifference>>,
}

impl RerunReasons<'_> {
    /// The text after `trained`.
    fn describe(&mut self, fate: &StageFate) -> String {
        let resumes = match fate.checkpoint {
            Some(step) => format!(", from the checkpoint at step {step} on"),
            None => String::new(),
        };
        if let Some(damaged) = &fate.damaged {
            return format!("{resumes}: its result in the store is {}", printable(damaged));
        }
        let Some(before) = &fate.before else {
            return format!("{resumes}: no earlier run has a stage of this name and seed");
        };
        if before.changed.is_empty() {
            let why = if fate.checkpoint.is_some() {
                "it was not finished"
            } else {
                "the store has no result of it"
            };
            return format!("{resumes}: {why}");
        }
        let parts: Vec<String> = before.changed.iter().map(|part| self.part(fate, before, part)).collect();
        format!("{resumes}: {} (against {})", parts.join("; "), shown(Path::new(&before.out)).display())
    }

    fn part(&mut self, fate: &StageFate, before: &EarlierRun, part: &KeyPart) -> String {
        match part {
            KeyPart::Settings => match self.settings(fate, before) {
                Some(changes) => format!("its settings changed: {changes}"),
                None => "its settings changed".to_owned(),
            },
            KeyPart::Input { model } => {
                let again = self
                    .fates
                    .iter()
                    .any(|other| other.stage == *model && other.seed == fate.seed && !other.kept);
                if again { format!("`{model}` is trained") } else { format!("`{model}` is another model") }
            }
            other => format!("{other} changed"),
        }
    }

    /// The changed settings of a stage, or of its domains, since the earlier run; `None` if its plan no
    /// longer exists, or shows nothing.
    fn settings(&mut self, fate: &StageFate, before: &EarlierRun) -> Option<String> {
        let plan = self.plan;
        let differences = self.differences.entry(before.out.clone()).or_insert_with(|| {
            let to = |file: &str| {
                let text = fs::read_to_string(Path::new(&before.out).join(file)).ok()?;
                let earlier: Plan = serde_json::from_str(&text).ok()?;
                Some(difference(&earlier, plan))
            };
            ["plan.json", "previous/plan.json"].into_iter().filter_map(to).collect()
        });
        let model = plan.experiment.models.iter().find(|model| model.name == fate.stage)?;
        let trains = model.stage.trains();
        let domains: BTreeSet<&str> = trains
            .iter()
            .flat_map(|train| &train.mixture)
            .map(|share| plan.experiment.domain(share.domain).name.as_str())
            .collect();
        let of = |difference: &PlanDifference| {
            let mut found: Vec<String> = Vec::new();
            for item in &difference.items {
                let ChangeKind::Changed { settings, objective } = &item.fate else { continue };
                let changes = settings.iter().chain(objective).map(SettingChange::to_string);
                match item.kind {
                    DifferenceKind::Stage if item.name == fate.stage => found.extend(changes),
                    // The only setting of the experiment that is one of each stage.
                    DifferenceKind::Experiment => {
                        found.extend(changes.filter(|change| change.starts_with("dtype ")))
                    }
                    DifferenceKind::Domain if domains.contains(item.name.as_str()) => {
                        found.extend(changes.map(|change| format!("{change} of `{}`", item.name)));
                    }
                    _ => {}
                }
            }
            (!found.is_empty()).then(|| found.join(", "))
        };
        differences.iter().find_map(of)
    }
}

/// A path relative to the current folder, if it is below it.
fn shown(path: &Path) -> &Path {
    let here = std::env::current_dir().ok();
    here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}
