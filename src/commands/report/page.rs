//! The page: a template filled with the results of a run. A script in the page draws the charts from data
//! in the page.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior, context};
use mopd_compiler::plan::results::{Interval, StageRecord, Table, TableRow};
use mopd_compiler::plan::{Comparison, Model, ModelId, Objective, Recipe, Stage};
use serde::Serialize;

use super::Rounded;
use super::curves::{Curves, curves};
use super::samples::{Edges, Histogram, SampledCompletion, histograms, samples};
use super::source::{self, Excerpt};
use crate::figures::{bytes, count, duration, flops};
use crate::output::{counted, printable};
use crate::problem::Problem;
use crate::run_folder::{ColumnTable, RunFolder};

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const D3: &str = include_str!("vendor/d3.min.js");
const PLOT: &str = include_str!("vendor/plot.umd.min.js");
const DAGRE: &str = include_str!("vendor/dagre.min.js");
const LICENSES: &str = include_str!("vendor/LICENSES.txt");

/// What the script draws.
#[derive(Serialize)]
struct PageData {
    tables: Vec<TableData>,
    stages: Vec<StageData>,
    edges: Vec<Edge>,
    #[serde(rename = "edges_of_bins")]
    bins: Edges,
}

#[derive(Serialize)]
struct TableData {
    name: String,
    domains: Vec<String>,
    normalized: bool,
    rows: Vec<RowData>,
}

#[derive(Serialize)]
struct RowData {
    model: String,
    /// One per domain, then the normalized score where there is one.
    cells: Vec<Option<Cell>>,
}

#[derive(Serialize)]
struct Cell {
    mean: Rounded,
    low: Rounded,
    high: Rounded,
}

#[derive(Serialize)]
struct StageData {
    id: u32,
    anchor: String,
    name: String,
    kind: String,
    /// Of all seeds that were run; none of stages that were kept from before.
    seconds: Option<Rounded>,
    predicted: Option<Rounded>,
    #[serde(flatten)]
    curves: Curves,
    histograms: Vec<Histogram>,
    samples: Vec<SampledCompletion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<String>,
}

/// `carries`: the weights go on; otherwise they teach, judge, or are merged.
#[derive(Serialize)]
struct Edge {
    from: u32,
    to: u32,
    carries: bool,
}

/// A stage in words.
#[derive(Serialize)]
struct Card {
    anchor: String,
    name: String,
    kind: String,
    key: String,
    inputs: Vec<CardInput>,
    facts: Vec<(String, String)>,
    curves: Option<String>,
    excerpts: Vec<Excerpt>,
    runs: String,
    predicted: String,
    spent: String,
    memory_predicted: String,
    memory: String,
    sequences: String,
    flops: String,
}

#[derive(Serialize)]
struct CardInput {
    anchor: String,
    name: String,
}

pub fn page(
    run: &RunFolder,
    metrics: &ColumnTable,
    seen: &ColumnTable,
    weights: &ColumnTable,
) -> Result<String, Problem> {
    let experiment = &run.plan.experiment;
    let mut curves = curves(metrics);
    let wanted = by_interest(run);
    let mut samples = samples(seen, &wanted);
    let (mut histograms, bins) = histograms(weights, &wanted);
    let mut stages = Vec::new();
    let mut cards = Vec::new();
    for (index, model) in experiment.models.iter().enumerate() {
        let records = records(run, &model.name);
        let mut missing = Vec::new();
        if samples.left_out.contains(&model.name) {
            missing.push("samples");
        }
        if histograms.left_out.contains(&model.name) {
            missing.push("histograms");
        }
        let missing = missing.join(" and ");
        let stage = StageData {
            id: index as u32,
            anchor: anchor(ModelId(index as u32)),
            name: model.name.clone(),
            kind: kind(&model.stage).to_owned(),
            seconds: (!records.is_empty())
                .then(|| Rounded(records.iter().map(|record| record.seconds).sum())),
            predicted: total(&records, |record| record.predicted.map(|prediction| prediction.seconds))
                .map(Rounded),
            curves: curves.remove(&model.name).unwrap_or_default(),
            histograms: histograms.kept.remove(&model.name).unwrap_or_default(),
            samples: samples.kept.remove(&model.name).unwrap_or_default(),
            left_out: (!missing.is_empty()).then(|| missing[..1].to_uppercase() + &missing[1..]),
        };
        cards.push(card(run, index, model, &records, &stage));
        stages.push(stage);
    }
    let trained = stages.iter().any(|stage| !stage.curves.at.is_empty());
    let data = PageData { tables: table_data(run), stages, edges: edges(run), bins };
    let data = serde_json::to_string(&data)
        .map_err(|error| Problem::run("no-report", format!("the page's data can't be written: {error}")))?;

    let results = run.results.as_ref();
    let seeds = results.map_or_else(|| vec![experiment.seed], |results| results.seeds.clone());
    let list: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let seeds_text = format!("seed{} {}", if seeds.len() == 1 { "" } else { "s" }, list.join(", "));
    let context = context! {
        version => env!("CARGO_PKG_VERSION"),
        experiment => printable(&experiment.name),
        plan => run.plan.hash.as_str(),
        seeds => list,
        seeds_text,
        versions => Value::from(Serde(results.map(|results| &results.versions))),
        took => results.map(|results| duration(results.seconds)),
        memory => results.map(|results| bytes(results.peak_memory)),
        unfinished => results.is_none(),
        trained,
        tables => tables(run),
        stages => Value::from(Serde(&cards)),
        cost_legend => cost_legend(run),
        files => Value::from(Serde(source::files(run))),
        command => format!("mopd run{} source.mopd", set_seed(run)),
        style => Value::from_safe_string(STYLE.to_owned()),
        data => Value::from_safe_string(inside_script(&data)),
        licenses => Value::from_safe_string(LICENSES.replace("*/", "* /")),
        d3 => Value::from_safe_string(library(D3)),
        plot => Value::from_safe_string(library(PLOT)),
        dagre => Value::from_safe_string(library(DAGRE)),
        script => Value::from_safe_string(SCRIPT.to_owned()),
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Everything is escaped unless it is marked above.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    let filled = environment.render_str(TEMPLATE, context);
    filled.map_err(|error| Problem::run("no-report", format!("the page can't be made: {error}")))
}

/// JSON that can stand in a script element: nothing in it can end the element or begin a comment.
fn inside_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A library without the note that sends a debugger for more.
fn library(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("//# sourceMappingURL=")).collect::<Vec<_>>().join("\n")
}

fn anchor(model: ModelId) -> String {
    format!("stage-{}", model.0)
}

/// The seed that the file's own can't tell: one that `--set` gave.
fn set_seed(run: &RunFolder) -> String {
    let seed = run.plan.experiment.seed;
    let said = run.source.lines().any(|line| line.replace(' ', "").contains(&format!("seed={seed}")));
    if said { String::new() } else { format!(" --set seed={seed}") }
}

/// Distillation first, then what else trains: where something must be left out, it is the last of these.
fn by_interest(run: &RunFolder) -> Vec<&str> {
    let rank = |model: &Model<Objective>| match &model.stage {
        Stage::Train(train) if train.recipe == Recipe::Distill => 0,
        Stage::Train(train) if train.recipe == Recipe::Grpo => 1,
        _ => 2,
    };
    let mut models: Vec<_> = run.plan.experiment.models.iter().collect();
    models.sort_by_key(|model| rank(model));
    models.into_iter().map(|model| model.name.as_str()).collect()
}

fn kind<O>(stage: &Stage<O>) -> &'static str {
    match stage {
        Stage::Initialise(shape) => shape.family.name(),
        Stage::Load(_) => "loaded",
        Stage::Train(train) => train.recipe.name(),
        Stage::Joint(_) | Stage::Learner { .. } => "train",
        Stage::Merge(_) => "merge",
    }
}

fn records<'a>(run: &'a RunFolder, stage: &str) -> Vec<&'a StageRecord> {
    let records = run.results.iter().flat_map(|results| &results.stages);
    records.filter(|record| record.stage == stage).collect()
}

/// The sum over seeds, where each has the number.
fn total(records: &[&StageRecord], number: impl Fn(&StageRecord) -> Option<f64>) -> Option<f64> {
    if records.is_empty() {
        return None;
    }
    records.iter().map(|record| number(record)).sum()
}

fn edges(run: &RunFolder) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (index, model) in run.plan.experiment.models.iter().enumerate() {
        let start = model.stage.trains().first().map(|train| train.start);
        for input in model.stage.inputs() {
            edges.push(Edge { from: input.0, to: index as u32, carries: start == Some(input) });
        }
    }
    edges
}

fn card(
    run: &RunFolder,
    index: usize,
    model: &Model<Objective>,
    records: &[&StageRecord],
    stage: &StageData,
) -> Card {
    let plan = &run.plan;
    let name = |id: ModelId| plan.experiment.model(id).name.as_str();
    let facts_of_plan = &plan.stages[index];
    let mut facts = Vec::new();
    let mut excerpts: Vec<Excerpt> = source::excerpt(run, model.origin).into_iter().collect();
    for train in model.stage.trains() {
        let objective = &train.objective;
        facts.push(("objective".to_owned(), objective.name.clone()));
        let form = &objective.normal_form;
        facts.extend([
            ("divergence".to_owned(), form.divergence.clone()),
            ("tokens".to_owned(), form.token_allocation.clone()),
        ]);
        let named = train.scorers.named().iter().flat_map(|scorer| &scorer.choices);
        let teachers: BTreeSet<String> = train
            .scorers
            .routed()
            .iter()
            .chain(named)
            .map(|choice| {
                let is =
                    choice.teacher.model().map(|model| format!(" (is {})", name(model))).unwrap_or_default();
                let domain = &plan.experiment.domain(choice.domain).name;
                let when = choice
                    .when
                    .as_ref()
                    .map(|when| format!(" where {} in {domain}", when.text()))
                    .unwrap_or_default();
                format!("{}{is}{when}", choice.name)
            })
            .collect();
        if !teachers.is_empty() {
            facts.push(("teachers".to_owned(), teachers.into_iter().collect::<Vec<_>>().join(", ")));
        }
        if !source::covers(plan, model.origin, objective.origin) {
            excerpts.extend(source::excerpt(run, objective.origin));
        }
    }
    let scores = || records.iter().filter_map(|record| record.scores_found);
    let (found, of) = scores().fold((0, 0), |(found, of), scores| (found + scores.found, of + scores.of));
    if found > 0 {
        facts.push(("scores found in the store".to_owned(), format!("{} of {}", count(found), count(of))));
    }
    let guards = run.results.iter().flat_map(|results| &results.guards);
    let several = records.len() > 1;
    for acted in guards.filter(|acted| acted.stage == model.name) {
        let of = if several { format!(", seed {}", acted.seed) } else { String::new() };
        let text = format!("`{}` at step {}{of}: {}", acted.guard, acted.step, acted.numbers);
        facts.push(("guard".to_owned(), text));
    }
    for (_, text) in &mut facts {
        *text = printable(text);
    }
    facts.retain(|(_, text)| !text.is_empty());
    let cost = &facts_of_plan.cost;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let memory = records.iter().filter_map(|record| record.peak_memory).max();
    let memory_predicted =
        records.iter().filter_map(|record| record.predicted.map(|prediction| prediction.memory)).max();
    Card {
        anchor: stage.anchor.clone(),
        name: printable(&model.name),
        kind: stage.kind.clone(),
        key: facts_of_plan.key.clone(),
        inputs: (model.stage.inputs().into_iter())
            .map(|id| CardInput { anchor: anchor(id), name: printable(name(id)) })
            .collect(),
        facts,
        curves: (!stage.curves.at.is_empty()).then(|| format!("train-{index}")),
        excerpts,
        runs: if records.is_empty() { "kept".to_owned() } else { counted(records.len(), "seed") },
        predicted: or_dash(stage.predicted.map(|seconds| duration(seconds.0))),
        spent: or_dash(stage.seconds.map(|seconds| duration(seconds.0))),
        memory_predicted: or_dash(memory_predicted.map(bytes)),
        memory: or_dash(memory.map(bytes)),
        sequences: or_dash(cost.sequences.map(count)),
        flops: or_dash(cost.flops.filter(|flops| *flops > 0.0).map(flops)),
    }
}

fn cost_legend(run: &RunFolder) -> String {
    let text = "Sequences and floating-point operations are for one seed, with every completion at its \
                maximum length. Memory that was not measured is a dash: stages ran in parallel, or \
                nothing was trained.";
    match &run.results {
        Some(results) => format!(
            "{} in all, peak memory {}. {text}",
            duration(results.seconds),
            bytes(results.peak_memory)
        ),
        None => format!("This run was not finished, so nothing was measured. {text}"),
    }
}

fn table_data(run: &RunFolder) -> Vec<TableData> {
    let tables = run.results.iter().flat_map(|results| &results.tables);
    let data = tables.map(|table| {
        let normalized = table.rows.iter().any(|row| row.normalized.is_some());
        let rows = table.rows.iter().map(|row| {
            let scores = table.domains.iter().map(|domain| {
                let score = row.scores.get(domain)?;
                Some(Cell { mean: Rounded(score.mean), low: Rounded(score.low), high: Rounded(score.high) })
            });
            let last = row.normalized.as_ref();
            let last = last.map(|all| Cell {
                mean: Rounded(all.mean),
                low: Rounded(all.low),
                high: Rounded(all.high),
            });
            RowData {
                model: printable(&row.model),
                cells: scores.chain(normalized.then_some(last)).collect(),
            }
        });
        TableData {
            name: printable(&table.name),
            domains: table.domains.iter().map(|name| printable(name)).collect(),
            normalized,
            rows: rows.collect(),
        }
    });
    data.collect()
}

/// The tables in words, every number with where it comes from.
fn tables(run: &RunFolder) -> Vec<Value> {
    let experiment = &run.plan.experiment;
    let mut shown_tables = Vec::new();
    for table in run.results.iter().flat_map(|results| &results.tables) {
        let comparison = experiment.comparisons.iter().find(|comparison| comparison.name == table.name);
        let normalized = table.rows.iter().any(|row| row.normalized.is_some());
        let mut prompts: BTreeMap<&str, u32> = BTreeMap::new();
        let rows: Vec<Value> = (table.rows.iter())
            .map(|row| {
                let of_column = |column: usize| anchor_of(comparison, &row.model, column);
                let mut cells: Vec<Option<Value>> = Vec::new();
                for (column, domain) in table.domains.iter().enumerate() {
                    cells.push(row.scores.get(domain).map(|score| {
                        prompts.insert(domain, score.n);
                        let interval = Interval { mean: score.mean, low: score.low, high: score.high };
                        cell(interval, of_column(column), Some(score.n), &score.by_seed)
                    }));
                }
                if normalized {
                    let normalized = row.normalized.clone();
                    cells.push(
                        normalized
                            .map(|interval| cell(interval, of_column(0), None, &row.normalized_by_seed)),
                    );
                }
                context! {
                    model => printable(&row.model), anchor => of_column(0), cells,
                    spread => row.spread.map(|spread| format!("{spread:.2}")),
                }
            })
            .collect();
        let most = prompts
            .values()
            .max()
            .map(|n| format!(", {} a domain", counted(*n as usize, "prompt")))
            .unwrap_or_default();
        let over = table.intervals.map(|intervals| format!(" {}", intervals.name())).unwrap_or_default();
        let several =
            table.rows.iter().flat_map(|row| row.scores.values()).any(|score| score.by_seed.len() > 1);
        let seeds = if several { "; below it, the mean of each seed" } else { "" };
        let legend = format!(
            "{}, {}{most}. Mean and 95% interval{over}{seeds}. Each number links to its \
             stage.",
            table.metric,
            crate::table::sampled(table, comparison)
        );
        let domains: Vec<String> = table.domains.iter().map(|name| printable(name)).collect();
        let mut grids = vec![context! { metric => "", domains, normalized, rows }];
        grids.extend(table.metrics.iter().map(|metric| metric_grid(table, metric, comparison)));
        shown_tables.push(context! { name => printable(&table.name), legend, grids });
    }
    shown_tables
}

/// The columns that have a metric.
fn metric_grid(table: &Table, metric: &str, comparison: Option<&Comparison>) -> Value {
    let of = |row: &TableRow, domain: &String| row.metrics.get(metric)?.get(domain).cloned();
    let asked = |domain: &str| table.rows.iter().any(|row| of(row, &domain.to_owned()).is_some());
    let columns: Vec<(usize, &String)> =
        table.domains.iter().enumerate().filter(|(_, domain)| asked(domain)).collect();
    let rows = table.rows.iter().map(|row| {
        let cells: Vec<Option<Value>> = (columns.iter())
            .map(|(column, domain)| {
                let score = of(row, domain)?;
                let interval = Interval { mean: score.mean, low: score.low, high: score.high };
                let anchor = anchor_of(comparison, &row.model, *column);
                Some(cell(interval, anchor, Some(score.n), &score.by_seed))
            })
            .collect();
        context! { model => printable(&row.model), anchor => anchor_of(comparison, &row.model, 0), cells }
    });
    let rows: Vec<Value> = rows.collect();
    let domains: Vec<String> = columns.iter().map(|(_, domain)| printable(domain)).collect();
    context! { metric, domains, normalized => false, rows }
}

/// Where the stage of a row's model in a column is told of.
fn anchor_of(comparison: Option<&Comparison>, row: &str, column: usize) -> String {
    let row = comparison.and_then(|comparison| comparison.rows.iter().find(|known| known.label == row));
    let model = row.and_then(|row| row.models.get(column));
    model.map_or_else(|| "provenance".to_owned(), |model| anchor(*model))
}

/// A number with its interval, and where it comes from.
fn cell(interval: Interval, anchor: String, prompts: Option<u32>, by_seed: &[f64]) -> Value {
    let by_seed = if by_seed.len() > 1 { by_seed } else { &[] };
    let seeds = by_seed.iter().map(|mean| format!("{mean:.2}")).collect::<Vec<_>>().join(" ");
    let prompts = prompts.map(|n| format!(", {}", counted(n as usize, "prompt"))).unwrap_or_default();
    let Interval { mean, low, high } = interval;
    context! {
        mean => format!("{mean:.2}"),
        low => format!("{low:.2}"),
        high => format!("{high:.2}"),
        seeds,
        anchor,
        title => format!("{mean:.4}, 95% interval {low:.4} to {high:.4}{prompts}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_leave_its_element() {
        let json = inside_script(&serde_json::to_string("</script><!--&amp;\u{2028}").unwrap());
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "</script><!--&amp;\u{2028}");
    }

    /// What the page runs is what was reviewed: each library as its project published it (see
    /// `vendor/LICENSES.txt`).
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
        for text in [D3, PLOT, DAGRE, SCRIPT] {
            assert!(!text.to_lowercase().contains("</script"));
        }
    }
}
