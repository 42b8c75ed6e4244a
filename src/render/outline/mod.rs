//! An experiment as a tree: stages in the order in which they run, their inputs, their objectives in
//! normal form, and, if there is a plan, key and cost.

mod beside;
mod totals;
mod training;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mopd_experiment::formula::Formula;
use mopd_experiment::formula::text;
use mopd_experiment::{
    AuthorProgram, Benchmark, BudgetUnit, Comparison, DataSource, Domain, Evaluation, Experiment,
    ExternalInput, Joint, MarkedSetting, Metric, Model, ModelId, Pretrained, PretrainedSource, PromptFormat,
    Reward, SettingMark, Stage, SweepAxis, SweptTo, TokenizerSpec, Train, WithOrigin,
};
use mopd_plan::difference::NamedPlan;
use mopd_plan::producers::SampledBy;
use mopd_plan::{Cost, FieldColumn, Plan, RolloutServer};
use mopd_store::programs::CommandSources;

use self::totals::totals;
pub use self::training::slots;
use self::training::{drawn, objective, stops, training};
use crate::figures::{bytes, count, flops, setting};
use crate::output::{Style, counted};

/// The number of characters of a hash that are shown.
const KEY: usize = 8;

/// The longest formula that is shown, in characters.
const QUOTED: usize = 100;

pub type OutlineRows = Vec<(&'static str, String)>;

/// The files of the author's programs.
#[derive(Default)]
pub struct Programs {
    /// By domain or benchmark.
    pub rewards: BTreeMap<String, Vec<CommandSources>>,
    /// Environments and edits, by command.
    pub of_rollouts: BTreeMap<String, CommandSources>,
}

/// An experiment with its runs: one, or those of a sweep, of which the first is shown. None if it can't run.
pub fn tree(experiment: &Experiment, runs: &[NamedPlan], programs: &Programs, style: Style) -> String {
    let plan = runs.first().map(|run| run.plan);
    let mut out = format!(
        "{}: {}, {}, {}, {}\n",
        style.bold(&experiment.name),
        counted(experiment.models.len(), "stage"),
        counted(experiment.domains.len(), "domain"),
        seeds(experiment),
        plan.map_or("can't be run".to_owned(), |plan| format!("plan {}", prefix(&plan.hash))),
    );
    for domain in &experiment.domains {
        let mut rows = data(domain);
        rows.extend(judged_by(&domain.name, &domain.reward, programs));
        if !rows.is_empty() {
            out += &node(&format!("{} {}", style.bold("domain"), style.bold(&domain.name)), &rows, style);
        }
    }
    let left_out = experiment.left_out();
    let mut shown: Vec<(&str, OutlineRows)> = Vec::new();
    for (index, model) in experiment.models.iter().enumerate() {
        let mut rows = settings(model, experiment);
        if left_out.contains(&ModelId(index as u32)) {
            rows.insert(0, ("not trained", "no table needs it".to_owned()));
        }
        for (step, train) in trained(&model.stage) {
            if let Some(step) = step {
                rows.push(("step", step.to_owned()));
                rows.extend(training(train, experiment));
            }
            let parts = train.parts();
            for AuthorProgram { kind, command, .. } in parts.iter().flat_map(|part| part.rollout.programs()) {
                let program = programs.of_rollouts.get(command);
                rows.extend(program.map(|program| (kind, made_of(program))));
            }
            let objective = objective(train);
            // Members of a family have the same objective, which is shown once.
            match shown.iter().find(|(_, earlier)| *earlier == objective) {
                Some((earlier, _)) => {
                    rows.push(("objective", format!("{}, as in {earlier}", train.objective.name)))
                }
                None => {
                    rows.extend(objective.iter().cloned());
                    shown.push((&model.name, objective));
                }
            }
        }
        if let Some(facts) = plan.and_then(|plan| plan.stages.get(index)) {
            rows.extend(
                plan.into_iter().flat_map(|plan| sampled_by(plan, index)).map(|text| ("served", text)),
            );
            rows.push(("cost", cost(&facts.cost)));
            rows.push(("key", style.dim(prefix(&facts.key))));
        }
        out += &node(
            &format!("{} = {}", style.bold(&model.name), constructor(&model.stage, experiment)),
            &rows,
            style,
        );
    }
    for benchmark in &experiment.benchmarks {
        let mut rows = self::benchmark(benchmark);
        rows.extend(judged_by(&benchmark.name, &benchmark.reward, programs));
        out += &node(&format!("{} {}", style.bold("eval"), style.bold(&benchmark.name)), &rows, style);
    }
    for comparison in &experiment.comparisons {
        let head = format!("{} {}", style.bold("compare"), style.bold(&format!("{:?}", comparison.name)));
        out += &node(&head, &table(comparison, experiment), style);
    }
    if !experiment.sweep.is_empty() {
        let row = |axis: &SweepAxis| {
            let value = |value: &WithOrigin<SweptTo>| match &value.value {
                SweptTo::Number(number) => setting(*number),
                SweptTo::Name(name) => name.clone(),
            };
            axis.values.iter().map(value).collect::<Vec<_>>().join(", ")
        };
        let mut rows: OutlineRows = experiment
            .sweep
            .iter()
            .map(|axis| ("over", format!("{}: {}", axis.parameter, row(axis))))
            .collect();
        let of_sweep = runs.first().filter(|run| !run.name.is_empty());
        rows.extend(of_sweep.map(|first| ("shown", format!("the run with {}", first.name))));
        out += &node("sweep", &rows, style);
    }
    if !experiment.marks.is_empty() {
        out += &node("marks", &marks(experiment), style);
    }
    let left_out: Vec<&str> = left_out.iter().map(|id| experiment.model(*id).name.as_str()).collect();
    out + &match plan {
        Some(_) => totals(runs, &left_out),
        None => "│\n└─ no keys and no costs, since the experiment can't be run\n".to_owned(),
    }
}

/// The files of a program that are part of a reward's key, and what is not known.
fn made_of(program: &CommandSources) -> String {
    const SHOWN: usize = 6;
    let names: Vec<&str> = program.names().take(SHOWN).collect();
    let files = match program.names().len() {
        0 => "a program without files".to_owned(),
        all => {
            let more = if all > SHOWN { format!(" and {} more", all - SHOWN) } else { String::new() };
            format!("a program of {}: {}{more}", counted(all, "file"), names.join(", "))
        }
    };
    format!("{files}; the key does not include {}", program.unseen.join(", "))
}

/// The programs that judge a domain or benchmark, and the other external inputs of its reward.
fn judged_by(name: &str, reward: &Reward, programs: &Programs) -> OutlineRows {
    let programs = programs.rewards.get(name).into_iter().flatten();
    let inputs = reward.facts().inputs;
    let inputs = inputs.iter().map(external_input);
    programs.map(|program| ("reward", made_of(program))).chain(inputs).collect()
}

fn external_input(input: &ExternalInput) -> (&'static str, String) {
    let unseen = input.unseen.map(|unseen| format!("; the key does not include {unseen}"));
    ("reward", format!("{}{}", input.what, unseen.unwrap_or_default()))
}

/// The properties of a domain's data, other than a plain file of prompts.
fn data(domain: &Domain) -> OutlineRows {
    let mut rows = Vec::new();
    let plain = |source: &DataSource| {
        source.split.is_none()
            && source.revision.is_none()
            && source.filter.is_none()
            && source.limit.is_none()
            && source.max_prompt_tokens.is_none()
    };
    let unusual = domain.sources().filter(|(_, source)| !plain(source));
    rows.extend(unusual.map(|(name, source)| (name, self::source(source))));
    if !domain.columns.is_empty() {
        rows.push((
            "fields",
            joined(&domain.columns, |FieldColumn { field, column, pattern }| match pattern {
                None => format!("{field} is {column:?}"),
                Some(pattern) => format!("{field} is {pattern:?} in {column:?}"),
            }),
        ));
    }
    match &domain.format {
        None | Some(PromptFormat::Text) => {}
        Some(PromptFormat::Chat { system: None }) => rows.push(("format", "chat".to_owned())),
        Some(PromptFormat::Chat { system: Some(system) }) => {
            rows.push(("format", format!("chat, system message {system:?}")))
        }
    }
    rows.extend(domain.limit.map(|limit| ("completions", format!("at most {} tokens", limit.value))));
    rows
}

fn source(source: &DataSource) -> String {
    let parts = [
        source.split.as_ref().map(|split| format!(", split {split}")),
        source.revision.as_ref().map(|revision| format!(", revision {revision}")),
        source.filter.as_ref().map(|filter| format!(", where {}", formula(filter))),
        source.limit.map(|limit| format!(", the first {}", count(u64::from(limit)))),
        source
            .max_prompt_tokens
            .map(|most| format!(", prompts of at most {} tokens", count(u64::from(most)))),
    ];
    format!("{:?}{}", source.path, parts.into_iter().flatten().collect::<String>())
}

/// The training loops of a stage, with their names if there are several.
pub fn trained(stage: &Stage) -> Vec<(Option<&str>, &Train)> {
    match stage {
        Stage::Train(train) => vec![(None, train)],
        Stage::Joint(joint) => {
            joint.steps.iter().map(|step| (Some(step.name.as_str()), &step.train)).collect()
        }
        Stage::Initialise(_) | Stage::Load(_) | Stage::Merge(_) | Stage::Member { .. } | Stage::Parameter => {
            Vec::new()
        }
    }
}

/// A node of the tree, with its rows below.
fn node(head: &str, rows: &[(&str, String)], style: Style) -> String {
    let mut out = format!("│\n├─ {head}\n");
    for (name, value) in rows {
        out += &format!("│    {} {value}\n", style.cyan(&format!("{name:20}")));
    }
    out
}

fn constructor(stage: &Stage, experiment: &Experiment) -> String {
    let name = |id: ModelId| experiment.model(id).name.as_str();
    match stage {
        Stage::Initialise(shape) => shape.family.name().to_owned(),
        Stage::Load(Pretrained { source, end_tokens, chat_template, enable_thinking }) => {
            let mut out = format!("{}({:?}", source.function(), source.name());
            if let PretrainedSource::HuggingFace { revision: Some(revision), .. } = source {
                let _ = write!(out, ", revision: {revision:?}");
            }
            if !end_tokens.is_empty() {
                let _ = write!(out, ", end_tokens: {end_tokens:?}");
            }
            if let Some(file) = chat_template {
                let _ = write!(out, ", chat_template: {file:?}");
            }
            if let Some(thinks) = enable_thinking {
                let _ = write!(out, ", enable_thinking: {thinks}");
            }
            out + ")"
        }
        Stage::Train(train) => format!("{}({})", train.recipe.name(), name(train.start)),
        Stage::Merge(merge) => {
            let models: Vec<&str> = merge.models.iter().map(|id| name(*id)).collect();
            let base = merge.base.map(|id| format!("; base {}", name(id))).unwrap_or_default();
            format!("merge({}{base})", models.join(", "))
        }
        Stage::Joint(joint) => {
            let members: Vec<&str> = joint.members.iter().map(|member| name(member.start)).collect();
            format!("train({})", members.join(", "))
        }
        Stage::Member { joint, .. } => format!("trained with {}", name(*joint)),
        Stage::Parameter => "any model".to_owned(),
    }
}

fn settings(model: &Model, experiment: &Experiment) -> OutlineRows {
    match &model.stage {
        Stage::Initialise(shape) => {
            let tokenizer = match &shape.tokenizer {
                TokenizerSpec::Bytes => "bytes".to_owned(),
                TokenizerSpec::File(file) => format!("{file:?}"),
            };
            vec![(
                "shape",
                format!(
                    "{}, width {}, {} ({} for keys and values), inner width {}, context {}, tokenizer \
                     {tokenizer}{}",
                    counted(shape.layers as usize, "layer"),
                    shape.width,
                    counted(shape.heads as usize, "head"),
                    shape.key_value_heads,
                    shape.intermediate_size,
                    shape.context,
                    if shape.tied { ", tied" } else { "" },
                ),
            )]
        }
        Stage::Train(train) => training(train, experiment),
        Stage::Merge(merge) => {
            use mopd_experiment::MergeMethod::*;
            let with = match &merge.method {
                Average => String::new(),
                TaskArithmetic { scale } => format!(", scale {}", setting(*scale)),
                Ties { scale, density } => {
                    format!(", scale {}, density {}", setting(*scale), setting(*density))
                }
                Dare { scale, drop } => format!(", scale {}, drop {}", setting(*scale), setting(*drop)),
            };
            vec![("method", format!("{}{with}", merge.method.name()))]
        }
        Stage::Joint(joint) => members(joint, experiment),
        Stage::Load(_) | Stage::Member { .. } | Stage::Parameter => Vec::new(),
    }
}

fn members(joint: &Joint, experiment: &Experiment) -> OutlineRows {
    let member = |member: &mopd_experiment::JointMember| {
        let start = &experiment.model(member.start).name;
        let sees =
            member.sees.as_ref().map(|template| format!(", sees {}", template.name)).unwrap_or_default();
        ("trains", format!("{} from {start}{sees}", member.name))
    };
    let step = |step: &mopd_experiment::JointStep| {
        let updates = joint.members.get(step.updates).map_or("?", |member| member.name.as_str());
        let every =
            if step.every == 1 { "every step".to_owned() } else { format!("every {} steps", step.every) };
        ("updates", format!("{updates} by {}, {every}", step.name))
    };
    joint.members.iter().map(member).chain(joint.steps.iter().map(step)).collect()
}

fn joined<T>(parts: &[T], text: impl Fn(&T) -> String) -> String {
    parts.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A formula as an author would write it, cut if it is long.
fn formula(formula: &Formula) -> String {
    text::formula(formula, QUOTED)
}

/// The weights that are sent to each server that samples a stage's rollouts.
fn sampled_by(plan: &Plan, index: usize) -> Vec<String> {
    let trains = plan.experiment.models[index].stage.trains();
    let mut servers: Vec<(&RolloutServer, u32)> = Vec::new();
    for SampledBy { server, every, .. } in trains.into_iter().flat_map(|train| train.sampled_by()) {
        if !servers.contains(&(server, *every)) {
            servers.push((server, *every));
        }
    }
    // In single precision.
    let size = plan.stages[index].cost.parameters;
    let size = size.map_or("its".to_owned(), |parameters| format!("{} of", bytes(4 * parameters)));
    let row = |(RolloutServer { engine, model, push, .. }, every): (&RolloutServer, u32)| {
        let when = match every {
            0 | 1 => "each time that prompts are drawn".to_owned(),
            every => format!("every {every} steps"),
        };
        format!("rollouts by {model:?} ({}): {size} weights are sent through `{push}` {when}", engine.name())
    };
    servers.into_iter().map(row).collect()
}

fn cost(cost: &Cost) -> String {
    let Some(parameters) = cost.parameters else {
        let sequences = cost.sequences.filter(|sequences| *sequences > 0);
        let known = sequences
            .map(|sequences| format!("{} sequences, the rest ", count(sequences)))
            .unwrap_or_default();
        return format!("{known}depends on its files");
    };
    let mut parts = vec![format!("{} parameters", count(parameters))];
    parts.extend(
        cost.trained
            .filter(|trained| (1..parameters).contains(trained))
            .map(|it| format!("{} trained", count(it))),
    );
    match (cost.sequences, cost.tokens) {
        (Some(0), _) => {}
        (Some(sequences), Some(tokens)) => {
            let sequences = match cost.drawn {
                Some(drawn) => format!("{} sequences drawn, {} trained on", count(drawn), count(sequences)),
                None => format!("{} sequences", count(sequences)),
            };
            parts.extend([sequences, format!("{} tokens", count(tokens))]);
        }
        _ => parts.push("as many sequences as the data has".to_owned()),
    }
    parts.extend(cost.flops.filter(|work| *work > 0.0).map(flops));
    parts.extend(cost.memory.map(bytes));
    parts.join(", ")
}

fn table(comparison: &Comparison, experiment: &Experiment) -> OutlineRows {
    let domains = comparison.domains.iter().map(|id| experiment.domain(*id).name.as_str());
    let benchmarks =
        comparison.benchmarks.iter().map(|id| experiment.benchmarks[id.0 as usize].name.as_str());
    let columns: Vec<&str> = domains.chain(benchmarks).collect();
    let mut out =
        vec![("rows", joined(&comparison.rows, |row| row.label.clone())), ("columns", columns.join(", "))];
    if let Some(normalized) = &comparison.normalized {
        let label = |models: &[ModelId]| {
            let row = comparison.rows.iter().find(|row| row.models == models).map(|row| row.label.clone());
            row.unwrap_or_else(|| joined(models, |id| experiment.model(*id).name.clone()))
        };
        out.push((
            "normalized",
            format!("0 is {}, 1 is {}", label(&normalized.zero), label(&normalized.one)),
        ));
    }
    out.push(("evaluation", evaluation(&comparison.evaluation)));
    out.extend(metrics(&comparison.metrics));
    if let Some(budget) = &comparison.budget {
        let unit = match budget.unit {
            BudgetUnit::Steps => "steps",
            BudgetUnit::Sequences => "sequences",
            BudgetUnit::Tokens => "tokens",
        };
        let charged =
            if budget.teachers_charged { "including the teachers' own" } else { "without the teachers' own" };
        out.push(("budget", format!("equal {unit} for every row, {charged}")));
    }
    out.push(("seeds", comparison.seeds.to_string()));
    out
}

fn benchmark(benchmark: &Benchmark) -> OutlineRows {
    let mut out =
        vec![("prompts", benchmark.prompts.clone()), ("evaluation", evaluation(&benchmark.evaluation))];
    out.extend(metrics(&benchmark.metrics));
    out
}

fn evaluation(evaluation: &Evaluation) -> String {
    let prompts = match evaluation.prompts {
        Some(n) => format!("the first {n} test prompts of each domain"),
        None => "every test prompt".to_owned(),
    };
    let cut = [
        evaluation.top_p.map(|p| format!(", top_p {}", setting(p))),
        evaluation.top_k.map(|k| format!(", top_k {k}")),
        stops(&evaluation.stop),
    ];
    let cut: String = cut.into_iter().flatten().collect();
    format!(
        "{prompts}, {}{cut}, at most {} tokens",
        drawn(evaluation.samples, &evaluation.temperature.into()),
        evaluation.max_tokens
    )
}

fn metrics(metrics: &[Metric]) -> Option<(&'static str, String)> {
    (!metrics.is_empty()).then(|| ("metrics", joined(metrics, Metric::to_string)))
}

fn seeds(experiment: &Experiment) -> String {
    match number_of_seeds(experiment) {
        1 => format!("seed {}", experiment.seed),
        n => format!("seeds {} to {}", experiment.seed, experiment.seed + n - 1),
    }
}

/// The most times that a stage is computed.
fn number_of_seeds(experiment: &Experiment) -> u64 {
    u64::from(experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1).max(1))
}

/// The sources of values, as the author marked them.
fn marks(experiment: &Experiment) -> OutlineRows {
    let row = |marked: &MarkedSetting| {
        let setting = format!("{} of {}", marked.setting, marked.owner);
        match &marked.mark {
            SettingMark::Unpublished { note: None } => ("unpublished", setting),
            SettingMark::Unpublished { note: Some(note) } => ("unpublished", format!("{setting}: {note}")),
            SettingMark::Source { text } => ("source", format!("{setting}: {text}")),
        }
    };
    experiment.marks.iter().map(row).collect()
}

/// The first characters of a hash.
fn prefix(hash: &str) -> &str {
    hash.char_indices().nth(KEY).map_or(hash, |(at, _)| &hash[..at])
}
