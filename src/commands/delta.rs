//! `mopd delta`: the difference between the weights of two models.

use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};
use mopd_plan::deltas::{Delta, DeltaJob};
use mopd_plan::events::{Event, Failure, Job};
use mopd_plan::{Origin, Plan, Pretrained, PretrainedSource, Stage};
use mopd_store::files::folder_of_model;
use mopd_store::named::{self, NamedModel, RepositoryKind};
use serde_json::json;

use crate::args::{DeltaArgs, Format};
use crate::host::{as_text, folder_of};
use crate::output::{self, printable};
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::RunFolder;
use crate::worker;

pub fn delta(arguments: &DeltaArgs) -> Result<CommandStatus, Problem> {
    if !arguments.beyond.is_finite() || arguments.beyond < 0.0 {
        let message = "`--beyond` is a difference of weights: it must be at least 0";
        return Err(Problem::usage("out-of-range", message));
    }
    let pair = |model: &Path, from: Option<&Path>| {
        let before = match from {
            Some(from) => from.to_owned(),
            None => beginning(model)?,
        };
        Ok::<_, Problem>((as_text(model)?, as_text(&before)?))
    };
    let (after, before) = pair(&arguments.model, arguments.from.as_deref())?;
    let beside = match &arguments.beside {
        Some(model) => Some(pair(model, arguments.beside_from.as_deref())?),
        None => None,
    };
    let job = DeltaJob { after, before, beside, beyond: arguments.beyond, ranks: !arguments.no_ranks };
    let mut found = Vec::new();
    let failed = |failure: &Failure| {
        let problem = Problem::usage("can't-read", failure.message.clone());
        match &failure.help {
            Some(help) => problem.help(help.clone()),
            None => problem,
        }
    };
    let status = worker::ask(&Job::Delta(job.clone()), failed, |event| {
        if let Event::Delta { delta } = event {
            found.push(delta);
        }
    })?;
    if !status.success() {
        return Err(worker::death(status));
    }
    match arguments.format {
        Format::Human => output::result(&text(&job, &found)),
        Format::Json => {
            let (parameters, groups): (Vec<&Delta>, Vec<&Delta>) =
                found.iter().partition(|delta| !delta.shape.is_empty());
            let all = json!({
                "after": job.after, "before": job.before, "beside": job.beside, "beyond": job.beyond,
                "parameters": parameters, "groups": groups,
            });
            output::result(&format!("{all}\n"));
        }
    }
    Ok(CommandStatus::Success)
}

/// The model that a run's model was trained from. A path like `RUN/models/student-seed1` gives the run.
fn beginning(model: &Path) -> Result<PathBuf, Problem> {
    let shown = model.display();
    let unknown = |why: String| {
        Problem::usage("no-model-before", why).help(
            "name the model to compare with: \
            `--from FOLDER`",
        )
    };
    let folder = model
        .canonicalize()
        .map_err(|_| Problem::usage("no-checkpoint", format!("there is no folder {shown}")))?;
    let models = folder.parent();
    let run = models.filter(|models| models.ends_with("models")).and_then(Path::parent);
    let (Some(models), Some(run)) = (models, run.filter(|run| run.join("plan.json").is_file())) else {
        return Err(unknown(format!(
            "{shown} is not in the folder `models` of a run, so its starting model is not known"
        )));
    };
    let plan = RunFolder::open(run)?.plan;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let seed = name.rsplit_once("-seed").and_then(|(_, seed)| seed.parse::<u64>().ok()).unwrap_or_default();
    let of_run = plan.experiment.models.iter().find(|known| folder_of_model(&known.name, seed) == name);
    let start = match of_run.map(|known| &known.stage) {
        // An average has no model that was before the others.
        Some(Stage::Merge(merge)) if merge.base.is_none() => {
            let names = merge.models.iter().map(|id| format!("`{}`", plan.experiment.model(*id).name));
            return Err(unknown(format!(
                "{shown} is a merge of {}, so it has no single starting model",
                names.collect::<Vec<_>>().join(", ")
            )));
        }
        known => known.and_then(Stage::start),
    };
    let Some(start) = start.map(|start| plan.experiment.model(start)) else {
        return Err(unknown(format!("the plan of {} does not train {name}", run.display())));
    };
    let before = models.join(folder_of_model(&start.name, seed));
    let loaded = match &start.stage {
        Stage::Load(pretrained) => folder_of_loaded(pretrained, &base_of(&plan, start.origin)),
        _ => None,
    };
    match (before.is_dir(), loaded) {
        (true, _) => Ok(before),
        (false, Some(loaded)) if loaded.is_dir() => {
            output::note(&format!("`{}` is read from {} as it is now\n", start.name, loaded.display()));
            Ok(loaded)
        }
        (false, Some(loaded)) => Err(unknown(format!(
            "{shown} started from `{}`, which is not found in {} any more",
            start.name,
            loaded.display()
        ))),
        (false, None) => Err(unknown(format!(
            "{shown} started from `{}`, which the run did not write: there is no {}",
            start.name,
            before.display()
        ))),
    }
}

/// The base folder of a plan's paths, as it was given to the run.
fn base_of(plan: &Plan, origin: Origin) -> PathBuf {
    plan.place(origin).map_or_else(|| PathBuf::from("."), |place| folder_of(Path::new(&place.file)))
}

/// The folder of a model that a run has loaded; `None` if it is not a folder of safetensors, or is no longer
/// in the hub's cache.
fn folder_of_loaded(pretrained: &Pretrained, base: &Path) -> Option<PathBuf> {
    match &pretrained.source {
        PretrainedSource::Checkpoint { folder } => Some(base.join(folder)),
        PretrainedSource::HuggingFace { name, revision } => match NamedModel::resolve(name, base) {
            NamedModel::Folder(folder) | NamedModel::Nowhere(folder) => Some(folder),
            NamedModel::Repository => {
                let cache = named::hub_cache()?;
                let revision = revision.as_deref().unwrap_or("main");
                let commit = named::cached_commit(&cache, RepositoryKind::Model, name, revision)?;
                Some(named::snapshot(&cache, RepositoryKind::Model, name, &commit))
            }
        },
        PretrainedSource::Gguf { .. } => None,
    }
}

fn text(job: &DeltaJob, found: &[Delta]) -> String {
    let mut grid = Grid::new();
    let beyond = format!("beyond {:e}", job.beyond);
    let mut header = vec!["weights", "entries", "relative", "changed", "in bf16", beyond.as_str()];
    if job.ranks {
        header.extend(["rank", "99 %", "full"]);
    }
    if job.beside.is_some() {
        header.extend(["cosine", "Jaccard"]);
    }
    let columns = header.len();
    grid.load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for delta in found {
        grid.add_row(cells(job, delta));
    }
    for index in 1..columns {
        if let Some(column) = grid.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = format!("{} -> {}\n", printable(&job.before), printable(&job.after));
    if let Some((after, before)) = &job.beside {
        out += &format!("beside {} -> {}\n", printable(before), printable(after));
    }
    out + &format!("\n{grid}\n")
}

fn cells(job: &DeltaJob, delta: &Delta) -> Vec<String> {
    let share = |count: u64| format!("{:.2} %", 100.0 * count as f64 / delta.entries.max(1) as f64);
    let or_none = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.3}"));
    let mut cells = vec![
        printable(&delta.name),
        delta.entries.to_string(),
        delta.relative.map_or_else(String::new, |relative| format!("{relative:.2e}")),
        share(delta.changed),
        share(delta.changed_in_bfloat16),
        share(delta.changed_beyond),
    ];
    if job.ranks {
        cells.extend(match &delta.rank {
            Some(rank) => {
                [format!("{:.1}", rank.effective), rank.of_99_percent.to_string(), rank.full.to_string()]
            }
            None => Default::default(),
        });
    }
    if job.beside.is_some() {
        let overlap = delta.overlap;
        cells.push(or_none(overlap.and_then(|overlap| overlap.cosine)));
        cells.push(or_none(overlap.and_then(|overlap| overlap.jaccard)));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_began_from_none_of_its_models() {
        const TEXT: &str = r#"use std.baselines.{task_arithmetic, weight_average}
experiment "tiny" { seed = 1 }
domain copy { prompts = "copy.jsonl", reward = exact_match, share = 1/2 }
domain last { prompts = "last.jsonl", reward = exact_match, share = 1/2 }
model base = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model expert[d in domains] = sft(base, on: d) { target = answer, steps = 20, batch = 16, lr = 1e-3 }
model average = weight_average(expert)
model summed  = task_arithmetic(base, expert, scale: 0.5)
"#;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("source.mopd");
        std::fs::write(&file, TEXT).expect("a file");
        let sweep = crate::commands::sweep::check(&file, &[], &mut |_| ()).expect("it can be read").sweep;
        let sweep = sweep.expect("it can run");
        let (_, compiled) = sweep.compiled().next().expect("one run");
        let plan = serde_json::to_vec(&compiled.plan).expect("plain data");
        std::fs::write(folder.path().join("plan.json"), plan).expect("a file");
        let model = |name: &str| {
            let model = folder.path().join("models").join(folder_of_model(name, 1));
            std::fs::create_dir_all(&model).expect("a folder");
            model
        };
        model("base");
        let first = model("expert[copy]");
        let problem = beginning(&model("average")).expect_err("there is no model before");
        assert_eq!(problem.name(), "no-model-before");
        assert!(
            problem.message().ends_with(
                "is a merge of `expert[copy]`, `expert[last]`, so it has no single starting \
                    model"
            ),
            "{}",
            problem.message()
        );
        assert!(problem.help_text().is_some_and(|help| help.contains("--from")));
        // The model before is the one that changes were added to.
        for model in [model("summed"), first] {
            let before = beginning(&model).expect("the model to compare with");
            assert!(before.ends_with("models/base-seed1"), "{}", before.display());
        }
    }
}
