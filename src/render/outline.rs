//! An experiment for people: stages in the order in which they run, what each is made from, its objective in normal form, and,
//! where there is a plan, its key and its cost.

use mopd_compiler::plan::{Cost, NormalForm, Plan};
use mopd_lang::experiment::{
    Comparison, DomainId, Experiment, Keep, MarkedSetting, Model, ModelId, Objective, Prefixes, Sampling, Schedule, SettingMark,
    Share, Stage, TeacherChoice, Tokenizer, Train,
};

use crate::figures::{bytes, count, flops, percent, setting};
use crate::output::{Style, counted};

/// Characters of a hash that tell stages apart.
const KEY: usize = 8;

type Rows = Vec<(&'static str, String)>;

pub fn tree(experiment: &Experiment<Objective>, plan: Option<&Plan>, style: Style) -> String {
    let mut out = format!(
        "{}: {}, {}, {}, {}\n",
        style.bold(&experiment.name),
        counted(experiment.models.len(), "stage"),
        counted(experiment.domains.len(), "domain"),
        seeds(experiment),
        plan.map_or("not fit to run".to_owned(), |plan| format!("plan {}", prefix(&plan.hash))),
    );
    let mut shown: Vec<(&str, Rows)> = Vec::new();
    for (index, model) in experiment.models.iter().enumerate() {
        let mut rows = settings(model, experiment);
        if let Stage::Train(train) = &model.stage {
            let objective = objective(train);
            // A family repeats its objective in every member.
            match shown.iter().find(|(_, earlier)| *earlier == objective) {
                Some((earlier, _)) => rows.push(("objective", format!("{}, as in {earlier}", train.objective.name))),
                None => {
                    rows.extend(objective.iter().cloned());
                    shown.push((&model.name, objective));
                }
            }
        }
        if let Some(facts) = plan.and_then(|plan| plan.stages.get(index)) {
            rows.push(("cost", cost(&facts.cost)));
            rows.push(("key", style.dim(prefix(&facts.key))));
        }
        out += &node(&format!("{} = {}", style.bold(&model.name), constructor(&model.stage, experiment)), &rows, style);
    }
    for comparison in &experiment.comparisons {
        let head = format!("{} {}", style.bold("compare"), style.bold(&format!("{:?}", comparison.name)));
        out += &node(&head, &table(comparison, experiment), style);
    }
    if !experiment.marks.is_empty() {
        out += &node("marks", &marks(experiment), style);
    }
    out + &match plan {
        Some(plan) => totals(plan, number_of_seeds(experiment)),
        None => "│\n└─ no keys and no costs: they belong to a plan, and there is none\n".to_owned(),
    }
}

/// The objective's name and its nine slots.
fn objective(train: &Train<Objective>) -> Rows {
    let mut rows = vec![("objective", train.objective.name.clone())];
    rows.extend(slots(&mopd_compiler::normal_form(&train.objective, Some(&train.prefixes))));
    rows
}

/// A line of the tree with its rows below.
fn node(head: &str, rows: &[(&str, String)], style: Style) -> String {
    let mut out = format!("│\n├─ {head}\n");
    for (name, value) in rows {
        out += &format!("│    {} {value}\n", style.cyan(&format!("{name:20}")));
    }
    out
}

fn constructor(stage: &Stage<Objective>, experiment: &Experiment<Objective>) -> String {
    let name = |id: ModelId| experiment.model(id).name.as_str();
    match stage {
        Stage::Initialise(_) => "llama".to_owned(),
        Stage::Train(train) => format!("{}({})", train.recipe.name(), name(train.start)),
        Stage::Merge(merge) => {
            let models: Vec<&str> = merge.models.iter().map(|id| name(*id)).collect();
            let base = merge.base.map(|id| format!("; base {}", name(id))).unwrap_or_default();
            format!("merge({}{base})", models.join(", "))
        }
    }
}

fn settings(model: &Model<Objective>, experiment: &Experiment<Objective>) -> Rows {
    match &model.stage {
        Stage::Initialise(shape) => {
            let Tokenizer::Bytes = shape.tokenizer;
            vec![(
                "shape",
                format!(
                    "{}, width {}, {} ({} for keys and values), inner width {}, context {}, tokenizer bytes{}",
                    counted(shape.layers as usize, "layer"),
                    shape.width,
                    counted(shape.heads as usize, "head"),
                    shape.key_value_heads,
                    shape.hidden,
                    shape.context,
                    if shape.tied { ", tied" } else { "" },
                ),
            )]
        }
        Stage::Train(train) => training(train, experiment),
        Stage::Merge(merge) => {
            use mopd_lang::experiment::MergeMethod::*;
            let with = match &merge.method {
                Average => String::new(),
                TaskArithmetic { scale } => format!(", scale {}", setting(*scale)),
                Ties { scale, density } => format!(", scale {}, density {}", setting(*scale), setting(*density)),
                Dare { scale, drop } => format!(", scale {}, drop {}", setting(*scale), setting(*drop)),
            };
            vec![("method", format!("{}{with}", merge.method.name()))]
        }
    }
}

fn training(train: &Train<Objective>, experiment: &Experiment<Objective>) -> Rows {
    let domain = |id: DomainId| experiment.domain(id).name.as_str();
    let share = |share: &Share| format!("{} {}", domain(share.domain), percent(share.share));
    let mut rows = vec![("domains", train.mixture.iter().map(share).collect::<Vec<_>>().join(", "))];
    if !train.teachers.is_empty() {
        let choice = |choice: &TeacherChoice| {
            let model = &experiment.model(choice.teacher).name;
            let of = if *model == choice.name { String::new() } else { format!(" = {model}") };
            format!("{} -> {}{of}", domain(choice.domain), choice.name)
        };
        rows.push(("teachers", train.teachers.iter().map(choice).collect::<Vec<_>>().join(", ")));
    }
    rows.push(("tokens from", prefixes(&train.prefixes)));
    let adam = &train.optimizer;
    rows.push((
        "training",
        format!("{}, learning rate {}", counted(train.steps as usize, "step"), schedule(&train.learning_rate)),
    ));
    rows.push((
        "optimizer",
        format!(
            "AdamW, betas {} {}, epsilon {}, weight decay {}, gradient norm at most {}",
            setting(adam.beta1),
            setting(adam.beta2),
            setting(adam.epsilon),
            setting(adam.weight_decay),
            setting(adam.clip_norm),
        ),
    ));
    rows
}

fn prefixes(prefixes: &Prefixes) -> String {
    match prefixes {
        Prefixes::Data { field, batch } => format!("the data field `{field}`, {} a step", counted(*batch as usize, "sequence")),
        Prefixes::Student { prompts, sampling } => {
            format!("the student: {} a step, {}", counted(*prompts as usize, "prompt"), samples(sampling))
        }
        Prefixes::Teacher { sequences, keep, batch, sampling } => {
            let kept = match keep {
                Keep::All => "",
                Keep::Correct => ", the correct ones only",
            };
            format!(
                "the routed teachers, once: {} sequences{kept}, {}; {batch} a step",
                count(u64::from(*sequences)),
                samples(sampling)
            )
        }
    }
}

fn samples(sampling: &Sampling) -> String {
    let how = if sampling.temperature == 0.0 {
        "greedy".to_owned()
    } else {
        format!("{} each at temperature {}", counted(sampling.n as usize, "sample"), setting(sampling.temperature))
    };
    format!("{how}, at most {} tokens", sampling.max_tokens)
}

fn schedule(schedule_: &Schedule) -> String {
    let over = |steps: &Option<u32>| steps.map(|steps| format!(" over {steps} steps")).unwrap_or_default();
    match schedule_ {
        Schedule::Constant { value } => setting(*value),
        Schedule::Linear { from, to, steps } => format!("linear {} -> {}{}", setting(*from), setting(*to), over(steps)),
        Schedule::Cosine { from, to, steps } => format!("cosine {} -> {}{}", setting(*from), setting(*to), over(steps)),
        Schedule::Warmup { steps, then } => format!("warm-up over {steps} steps, then {}", schedule(then)),
    }
}

/// The nine slots, indented below the objective's name.
fn slots(form: &NormalForm) -> Rows {
    vec![
        ("  prefixes", form.prefixes.clone()),
        ("  sequence selection", form.sequence_selection.clone()),
        ("  token allocation", form.token_allocation.clone()),
        ("  support", form.support.clone()),
        ("  mass", form.mass.clone()),
        ("  divergence", form.divergence.clone()),
        ("  evaluation", form.evaluation.clone()),
        ("  shaping", form.shaping.clone()),
        ("  realisation", form.realisation.clone()),
    ]
}

fn cost(cost: &Cost) -> String {
    let mut parts = vec![format!("{} parameters", count(cost.parameters))];
    if cost.sequences > 0 {
        parts.push(format!("{} sequences", count(cost.sequences)));
        parts.push(format!("{} tokens", count(cost.tokens)));
    }
    if cost.flops > 0.0 {
        parts.push(flops(cost.flops));
    }
    parts.push(bytes(cost.memory));
    parts.join(", ")
}

fn table(comparison: &Comparison, experiment: &Experiment<Objective>) -> Rows {
    let domains: Vec<&str> = comparison.domains.iter().map(|id| experiment.domain(*id).name.as_str()).collect();
    let rows: Vec<&str> = comparison.rows.iter().map(|row| row.label.as_str()).collect();
    let mut out = vec![("rows", rows.join(", ")), ("columns", domains.join(", "))];
    if let Some(normalized) = &comparison.normalized {
        let label = |models: &[ModelId]| {
            let row = comparison.rows.iter().find(|row| row.models == models).map(|row| row.label.clone());
            row.unwrap_or_else(|| models.iter().map(|id| experiment.model(*id).name.as_str()).collect::<Vec<_>>().join(", "))
        };
        out.push(("normalized", format!("0 is {}, 1 is {}", label(&normalized.zero), label(&normalized.one))));
    }
    let prompts = match comparison.evaluation.prompts {
        Some(n) => format!("the first {n} test prompts a domain"),
        None => "every test prompt".to_owned(),
    };
    out.push(("evaluation", format!("{prompts}, {}", samples(&comparison.evaluation.sampling))));
    out.push(("seeds", comparison.seeds.to_string()));
    out
}

fn seeds(experiment: &Experiment<Objective>) -> String {
    match number_of_seeds(experiment) {
        1 => format!("seed {}", experiment.seed),
        n => format!("seeds {} to {}", experiment.seed, experiment.seed + n - 1),
    }
}

/// How many times a stage is computed at most.
fn number_of_seeds(experiment: &Experiment<Objective>) -> u64 {
    u64::from(experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1).max(1))
}

/// Where the author says that values come from.
fn marks(experiment: &Experiment<Objective>) -> Rows {
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

fn totals(plan: &Plan, seeds: u64) -> String {
    let sum = |of: fn(&Cost) -> u64| plan.stages.iter().map(|facts| of(&facts.cost)).fold(0, u64::saturating_add);
    let work = plan.stages.iter().fold(0.0, |work, facts| work + facts.cost.flops);
    let memory = plan.stages.iter().map(|facts| facts.cost.memory).max().unwrap_or(0);
    let seeds = match seeds {
        1 => String::new(),
        n => format!(" a seed, {n} seeds"),
    };
    format!(
        "│\n└─ total: at most {} sequences, {} tokens, {}{seeds}; the largest stage holds {} of weights, gradients and optimizer state\n",
        count(sum(|cost| cost.sequences)),
        count(sum(|cost| cost.tokens)),
        flops(work),
        bytes(memory),
    )
}

/// The first characters of a hash.
fn prefix(hash: &str) -> &str {
    hash.char_indices().nth(KEY).map_or(hash, |(at, _)| &hash[..at])
}
