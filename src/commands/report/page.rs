//! The page: a template filled with the results of runs. A script in it draws the charts from embedded data.

use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior, context};
use mopd_plan::columns::METRICS;
use mopd_plan::events::Failure;
use serde::Serialize;

use super::LoadedRun;
use super::samples::{Edges, prompts};
use super::source::RunSources;
use super::stages::{Edge, StageData, cost_legend, edges, stages};
use super::tables::{self, TableData, anchor_of, tables};
use crate::commands::compare::CommonTables;
use crate::figures::{bytes, duration};
use crate::headline::headline;
use crate::output::{counted, printable};
use crate::problem::Problem;
use crate::provenance::{Machine, RunProvenance};
use crate::run_status::place_of;
use crate::run_time::whole_seconds;

const TEMPLATES: [(&str, &str); 4] = [
    ("head.html", include_str!("head.html")),
    ("page.html", include_str!("page.html")),
    ("sweep.html", include_str!("sweep.html")),
    ("sweep_body.html", include_str!("sweep_body.html")),
];
const STYLE: &str = include_str!("page.css");
/// The parts of the script, in order.
const SCRIPT: [&str; 9] = [
    include_str!("script/base.js"),
    include_str!("script/curves.js"),
    include_str!("script/overlay.js"),
    include_str!("script/histograms.js"),
    include_str!("script/samples.js"),
    include_str!("script/results.js"),
    include_str!("script/answers.js"),
    include_str!("script/plan.js"),
    include_str!("script/main.js"),
];
/// The script of the page of a sweep.
const SWEEP_SCRIPT: [&str; 2] = [include_str!("script/base.js"), include_str!("script/sweep.js")];
/// The additional script of a page of a run in progress.
const LIVE: &str = include_str!("script/live.js");
const D3: &str = include_str!("vendor/d3.min.js");
const PLOT: &str = include_str!("vendor/plot.umd.min.js");
const DAGRE: &str = include_str!("vendor/dagre.min.js");
const LICENSES: &str = include_str!("vendor/LICENSES.txt");

/// The data for the script.
#[derive(Serialize)]
struct PageData {
    runs: Vec<String>,
    /// The tables and stages of all runs, in the order of the runs.
    tables: Vec<TableData>,
    stages: Vec<StageData>,
    /// The texts that models read before the samples.
    prompts: Vec<String>,
    edges: Vec<Edge>,
    #[serde(rename = "edges_of_bins")]
    bins: Edges,
}

/// A `live` page asks its server for new data.
pub fn page(runs: &[LoadedRun], live: bool) -> Result<String, Problem> {
    let mut data = PageData {
        runs: runs.iter().map(|run| printable(&run.name)).collect(),
        tables: Vec::new(),
        stages: Vec::new(),
        prompts: Vec::new(),
        edges: Vec::new(),
        bins: Edges::new(),
    };
    let mut views = Vec::new();
    for run in runs {
        let mut sources = RunSources::new(run);
        let (stages, cards, bins) = stages(run, &mut sources, runs.len());
        let first_table = data.tables.len();
        let trained = stages.iter().any(|stage| !stage.curves.at.is_empty());
        data.tables.extend(tables::data(run, runs.len()));
        data.stages.extend(stages);
        data.edges.extend(edges(run));
        // Bins are the same in all runs of one version; those of other versions are added.
        for (over, edges) in bins {
            let known = data.bins.entry(over).or_default();
            known.extend(edges);
            known.sort_by(|first, second| first.0.0.total_cmp(&second.0.0));
            known.dedup_by(|next, kept| next.0 == kept.0);
        }
        let shown_tables = tables(run, &data.tables[first_table..], first_table);
        views.push(view(run, &sources, shown_tables, first_table, trained, Value::from(Serde(&cards))));
    }
    data.prompts = prompts(data.stages.iter_mut().flat_map(|stage| &mut stage.samples));
    let answered = data.tables.iter().any(|table| table.answers.is_some());
    let sampled = data.stages.iter().any(|stage| !stage.samples.is_empty());
    let trained = data.stages.iter().any(|stage| !stage.curves.at.is_empty());
    let data = serde_json::to_string(&data)
        .map_err(|error| Problem::run("no-report", format!("the page's data can't be written: {error}")))?;
    let title = match runs {
        [run] => printable(&run.folder.plan.experiment.name),
        runs => runs.iter().map(|run| printable(&run.name)).collect::<Vec<_>>().join(", "),
    };
    let context = context! {
        version => env!("CARGO_PKG_VERSION"),
        title,
        runs => views,
        // A run in progress will have something to show.
        trained => trained || live,
        live,
        sampled,
        answered,
        style => Value::from_safe_string(STYLE.to_owned()),
        data => Value::from_safe_string(inside_script(&data)),
        licenses => Value::from_safe_string(LICENSES.replace("*/", "* /")),
        d3 => Value::from_safe_string(library(D3)),
        plot => Value::from_safe_string(library(PLOT)),
        dagre => Value::from_safe_string(library(DAGRE)),
        script => Value::from_safe_string(script(live)),
    };
    rendered("page.html", context)
}

/// The page of a sweep; one that is served has a version of its state.
pub fn sweep_page(
    title: &str,
    body: &str,
    data: &impl Serialize,
    version: Option<String>,
) -> Result<String, Problem> {
    let data = serde_json::to_string(data)
        .map_err(|error| Problem::run("no-report", format!("the page's data can't be written: {error}")))?;
    let script = format!("\"use strict\";\n(() => {{\n{}}})();\n", SWEEP_SCRIPT.concat());
    let context = context! {
        version => env!("CARGO_PKG_VERSION"),
        title,
        live => version.is_some(),
        version_of_state => version,
        body => Value::from_safe_string(body.to_owned()),
        style => Value::from_safe_string(STYLE.to_owned()),
        data => Value::from_safe_string(inside_script(&data)),
        licenses => Value::from_safe_string(LICENSES.replace("*/", "* /")),
        d3 => Value::from_safe_string(library(D3)),
        plot => Value::from_safe_string(library(PLOT)),
        script => Value::from_safe_string(script),
    };
    rendered("sweep.html", context)
}

/// A filled template.
pub fn rendered(template: &str, context: Value) -> Result<String, Problem> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Everything is escaped, except what is marked as safe.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    let filled = TEMPLATES
        .iter()
        .try_for_each(|(name, text)| environment.add_template(name, text))
        .and_then(|()| environment.get_template(template)?.render(context));
    filled.map_err(|error| Problem::run("no-report", format!("the page can't be made: {error}")))
}

/// A run as the template shows it. `first_table` is the index of its first table among those of all runs.
fn view(
    run: &LoadedRun,
    sources: &RunSources,
    tables: Vec<Value>,
    first_table: usize,
    trained: bool,
    stages: Value,
) -> Value {
    let experiment = &run.folder.plan.experiment;
    let results = run.folder.results.as_ref();
    let seeds = results.map_or_else(|| vec![experiment.seed], |results| results.seeds.clone());
    let list: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let seeds_text = format!("seed{} {}", if seeds.len() == 1 { "" } else { "s" }, list.join(", "));
    context! {
        name => printable(&run.name),
        experiment => printable(&experiment.name),
        provenance => run.anchor("provenance"),
        plan => run.folder.plan.hash.as_str(),
        seeds => list,
        seeds_text,
        versions => Value::from(Serde(results.map(|results| &results.versions))),
        took => results.map(|results| duration(whole_seconds(&run.folder.path).unwrap_or(results.seconds))),
        memory => results.map(|results| bytes(results.peak_memory)),
        unfinished => results.is_none(),
        forks => forks(run),
        trained,
        data => Value::from(Serde(results.map_or(&[][..], |results| &results.data))),
        headline => headline_view(run),
        failure => run.failure.as_ref().map(failure_view),
        first_table,
        tables,
        meaning => run.meaning.as_ref().map(|meaning| {
            context! { summary => meaning.summary(), lines => meaning.lines() }
        }),
        compared => tables::compared(run),
        nothing_compared => run.common.as_ref().and_then(CommonTables::reason_for_none).map(printable),
        stages,
        cost_legend => cost_legend(run),
        files => Value::from(Serde(sources.files())),
        command => command(run),
        facts => facts(run),
        place => run.place,
    }
}

/// The sentence on top: its parts, each with the target of its link, if any, and a note.
fn headline_view(run: &LoadedRun) -> Option<Value> {
    let found = headline(&run.folder.plan, run.folder.results.as_ref()?, &run.differences)?;
    let link = |row: usize| anchor_of(run, Some(found.comparison), &found.comparison.rows[row].label, 0);
    let parts: Vec<_> = found.parts.iter().map(|(row, text)| (row.map(link), text.clone())).collect();
    Some(context! { parts, note => found.note })
}

/// Where a run failed, why, and the way out.
pub fn failure_view(failure: &Failure) -> Value {
    let sentence = |text: &str| format!("{}.", printable(text).trim_end().trim_end_matches('.'));
    context! {
        place => place_of(failure),
        message => sentence(&failure.message),
        help => failure.help.as_deref().map(sentence),
    }
}

/// The stages whose results the text alone does not give.
fn forks(run: &LoadedRun) -> Vec<String> {
    let forks = run.folder.results.iter().flat_map(|results| &results.forks);
    forks.map(|fork| printable(&fork.described())).collect()
}

/// The known facts about how the run was made, with their names.
fn facts(run: &LoadedRun) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(provenance) = &run.folder.provenance {
        facts.push(("started", provenance.started.clone()));
        facts.push(("command line", provenance.command.join(" ")));
        let git = provenance.git.as_ref().map_or("not in a git repository".to_owned(), |git| {
            let state = if git.dirty { "dirty: tracked files had changes" } else { "clean" };
            format!("{}, {state}", git.commit)
        });
        facts.push(("git commit", git));
        let Machine { processor, cores, memory } = &provenance.machine;
        let cores = cores.map(|cores| counted(cores, "core"));
        let parts = [processor.clone(), cores, memory.map(bytes)];
        facts.push(("hardware", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    let results = run.folder.results.as_ref();
    facts.extend(results.and_then(|results| Some(("device", results.device.clone()?))));
    facts.retain(|(_, text)| !text.is_empty());
    facts.iter_mut().for_each(|(_, text)| *text = printable(text));
    facts
}

fn script(live: bool) -> String {
    let live = if live { LIVE } else { "" };
    format!("\"use strict\";\n(() => {{\n{}\n{}{live}}})();\n", metric_titles(), SCRIPT.concat())
}

/// The titles and the units of the curves, as a constant of the script.
fn metric_titles() -> String {
    let shown = METRICS.iter().filter_map(|metric| Some((metric.name, metric.shown?)));
    let titles = shown.map(|(name, (title, unit))| format!("  {name}: [{title:?}, {unit:?}],\n"));
    format!("const metrics = {{\n{}}};", titles.collect::<String>())
}

/// JSON for a script element: nothing in it can end the element or begin a comment.
fn inside_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A library without its source map comment, with which a debugger would load more.
fn library(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("//# sourceMappingURL=")).collect::<Vec<_>>().join("\n")
}

/// The command that runs the experiment again, with the values that were set from outside.
fn command(run: &LoadedRun) -> String {
    let set = run.folder.provenance.as_ref().map(RunProvenance::set_options).unwrap_or_default();
    printable(&format!("mopd run{set} --out runs/again again.mopd"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{OF_DOMAIN, OF_STEP, is_share};

    #[test]
    fn data_cannot_leave_its_element() {
        let json = inside_script(&serde_json::to_string("</script><!--&amp;\u{2028}").unwrap());
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "</script><!--&amp;\u{2028}");
    }

    /// A number without a title appears in no chart; shares have a chart of their own.
    #[test]
    fn every_number_of_a_step_has_a_chart() {
        let script = include_str!("script/curves.js");
        for name in OF_DOMAIN.iter().chain(&OF_STEP) {
            let titled = metric_titles().contains(&format!("\n  {name}: [\""));
            assert!(titled != is_share(name), "{name}");
            assert!(titled || script.contains(&format!("[\"{name}\", ")), "{name}");
        }
    }

    /// The page runs what was reviewed: each library as its project published it (see `vendor/LICENSES.txt`).
    #[test]
    fn libraries_are_as_published() {
        let sum = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
        assert_eq!(
            [D3, PLOT, DAGRE].map(sum),
            [
                "0d7e62ece5eb9556596028ab4b1b3f742f2cce51f136e82c0a52b5b8483a5ca9",
                "175868b527ef2255f0068350c36f564457de2bf361c32b597d9fc2dbab429359",
                "6c5d6140f32f6268f531274a15a38f67e816a2643a1338675401aeb5e41786f5"
            ]
        );
        for text in [D3, PLOT, DAGRE, &script(true)] {
            assert!(!text.to_lowercase().contains("</script"));
        }
    }
}
