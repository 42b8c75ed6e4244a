//! Export to TRL 1.16.0: a subclass of its trainer, whose loss is the objective's graph.

use std::cell::RefCell;

use mopd_expr::roles::Role;
use mopd_expr::signals::Signal;
use mopd_plan::{Adapter, AdapterKind, Dtype, Objective, PromptFormat, Trainable};
use serde_json::{Map, Value, json};

use super::coverage::Coverage;
use super::numbers::{DISTRIBUTIONS, DistributionNumbers, EngineNumber, Summands, live_number, number};
use super::schema::{Configuration, TRL_SYNCHRONOUS};
use super::stage::ExportSettings;
use super::updates::{adamw, checkpointed, micro_batch, rate};
use super::{Export, ExportFile, adapters, live_text, objective_header, rewards, torch};

const TRAINER: &str = include_str!("python/mopd_trl.py");
const WHOLE: &str = include_str!("python/mopd_whole.py");
const RUN: &str = include_str!("python/mopd_run.py");
const TRAIN: &str = include_str!("python/train_trl.py");
const LAUNCH: &str = include_str!("python/launch_trl.sh");

pub fn export(settings: &ExportSettings, coverage: &mut Coverage) -> Export {
    let objective = objective(settings, coverage);
    rewards::report(settings, false, coverage);
    let configuration = configuration(settings, coverage);
    let stage = stage(settings, coverage);
    let mut files = vec![
        ExportFile::new("config.json", format!("{:#}\n", configuration.0)),
        ExportFile::new("stage.json", format!("{stage:#}\n")),
        ExportFile::new("mopd_tensors.py", torch::TENSORS),
        ExportFile::new("mopd_whole.py", WHOLE),
        ExportFile::new("mopd_run.py", RUN),
        ExportFile::new("mopd_distributions.py", DISTRIBUTIONS),
        ExportFile::new("mopd_trl.py", TRAINER),
        ExportFile::new("train.py", TRAIN),
    ];
    files.extend(rewards::files(LAUNCH));
    if let (Some(objective), Some(rate)) = (objective, rate(settings, coverage)) {
        files.push(ExportFile::new("objective.py", format!("{objective}\n\n{rate}")));
    }
    let judged = !settings.by_run && settings.train.objective.reads_reward();
    Export { files, messages: false, judged }
}

fn objective(settings: &ExportSettings, coverage: &mut Coverage) -> Option<String> {
    let objective = &settings.train.objective;
    let at = settings.origins.objective;
    let before = coverage.refused().count();
    let summands = Summands::default();
    let mut live: Vec<Value> = Vec::new();
    for primitive in &objective.live {
        let construct = format!("`{}`", live_text(&primitive.primitive));
        match live_number(&primitive.primitive, &summands) {
            Ok(spec) => {
                coverage.exact(construct, primitive.origin);
                live.push(spec);
            }
            Err(why) => coverage.refuse(construct, primitive.origin, why),
        }
    }
    carried(objective, settings, coverage);
    let plain = settings.sampling.is_none_or(|sampling| sampling.is_plain());
    let distributions = DistributionNumbers::default();
    let reads: RefCell<Vec<String>> = RefCell::default();
    let names = |signal: &Signal| {
        if signal.roles().contains(&Role::Sampler) && !plain {
            return Err(
                "with `top_p` or `top_k`, tokens are sampled from a truncated distribution".to_owned()
            );
        }
        let name = match number(signal, &summands)? {
            Some(EngineNumber::Named(name)) => name.to_owned(),
            Some(EngineNumber::Distribution(mut spec)) => {
                if matches!(signal, Signal::Divergence(_)) {
                    // As the plan has it, for reports.
                    spec["signal_of_plan"] =
                        serde_json::to_value(signal).map_err(|error| error.to_string())?;
                }
                distributions.name(signal, spec)
            }
            None => match signal {
                Signal::RewardPart { part } => format!("reward.{part}"),
                other => return Err(not_received(other).to_owned()),
            },
        };
        if !reads.borrow().contains(&name) {
            reads.borrow_mut().push(name.clone());
        }
        Ok(name)
    };
    let body = torch::loss(objective, &names);
    match &body {
        Ok(_) => coverage.exact(format!("objective `{}`, as the trainer's loss", objective.name), at),
        Err(found) => {
            found.iter().for_each(|line| coverage.refuse(line.construct.clone(), at, line.why.clone()));
        }
    }
    if objective.reads(Role::Sampler) {
        let how = "the student's log-probabilities at this step; they equal the sampler's up to rounding";
        coverage.approximate("`sampler`", at, how);
    }
    if objective.reads(Role::TEACHER) && settings.teachers.is_empty() {
        coverage.refuse("`teacher`", at, "no teacher of the stage can be exported");
    }
    let body = body.ok()?;
    if coverage.refused().count() > before {
        return None;
    }
    let roles: Vec<&str> = [(Role::TEACHER, "teacher"), (Role::REFERENCE, "reference")]
        .into_iter()
        .filter(|(role, _)| objective.reads(*role))
        .map(|(_, name)| name)
        .collect();
    let summands = summands.0.into_inner();
    let functions: String = summands.iter().map(|code| format!("{code}\n\n")).collect();
    let table: Vec<String> = (0..summands.len()).map(|number| format!("summand{number}")).collect();
    let header = objective_header("TRL 1.16.0", objective);
    Some(format!(
        "{header}\nROLES = {}\nTEMPERATURE = {}\nLIVE = {}\nDISTRIBUTIONS = {}\nREADS = {}\n\n\n\
         {functions}SUMMANDS = [{}]\n\n\n{}",
        torch::literal(&json!(roles)),
        torch::number(objective.temperature.constant()?),
        torch::literal(&json!(live)),
        torch::literal(&distributions.json()),
        torch::literal(&json!(reads.into_inner())),
        table.join(", "),
        body,
    ))
}

/// Refuses the values of an objective that are carried from step to step.
fn carried(objective: &Objective, settings: &ExportSettings, coverage: &mut Coverage) {
    let at = settings.origins.objective;
    for state in &objective.states {
        let why = "the engine's checkpoints do not contain it";
        coverage.refuse(format!("`state {}`", state.name), state.origin, why);
    }
    if objective.learned.is_some() || !objective.ladders.is_empty() {
        coverage.refuse("settings that adapt during the run", at, "TRL's settings are constant");
    }
    if objective.chosen.is_some() {
        coverage.refuse("numbers per block", at, "in TRL, a completion is one block");
    }
}

/// Why TRL's trainer does not have a signal.
fn not_received(signal: &Signal) -> &'static str {
    match signal {
        Signal::Data { .. } | Signal::DataIs { .. } => "the trainer does not receive the fields of a row",
        Signal::DomainPlace => "the trainer does not receive the domain of a prompt",
        Signal::State { .. } => "the engine's checkpoints do not contain it",
        _ => "TRL's trainer does not provide it",
    }
}

fn configuration(settings: &ExportSettings, coverage: &mut Coverage) -> Configuration {
    let mut configuration = Configuration::trl(TRL_SYNCHRONOUS);
    let mut set = |path: &str, value: Value| configuration.set(path, value);
    let at = settings.origins.model;
    let sequences = settings.groups.saturating_mul(settings.samples);
    coverage.exact(format!("{} prompts of {} samples a step", settings.groups, settings.samples), at);
    if settings.train.options.mini_batches > 1 {
        let why = "TRL's distillation samples new completions for each update";
        coverage.refuse("`mini_batches` above 1", at, why);
    }
    match settings.dtype {
        Dtype::Float32 => coverage.exact("`dtype = float32`", at),
        Dtype::Bfloat16 => {
            let how = "the student's weights are float32 and its matrix products bfloat16 (autocast); in mopd, \
                       its weight matrices are bfloat16 too";
            coverage.approximate("`dtype = bfloat16`", at, how);
        }
    }
    set("output_dir", json!("checkpoints"));
    set("per_device_train_batch_size", json!(sequences));
    set("gradient_accumulation_steps", json!(1));
    set("num_train_epochs", json!(1.0));
    // A run sets its own, and shows the progress.
    set("disable_tqdm", json!(settings.by_run));
    if !settings.by_run {
        set("max_steps", settings.steps.map_or(json!(-1), |steps| json!(steps)));
        set("seed", json!(settings.seed));
        set("data_seed", json!(settings.seed));
    }
    set("bf16", json!(settings.dtype == Dtype::Bfloat16));
    set("gradient_checkpointing", json!(checkpointed(settings)));
    set("shuffle_dataset", json!(false));
    set("remove_unused_columns", json!(false));
    set("dataloader_drop_last", json!(true));
    set("logging_steps", json!(1));
    // By time: see `mopd_run.py`.
    set("save_strategy", json!("no"));
    set("save_total_limit", json!(2));
    set("report_to", json!("none"));
    // TRL's own loss, which reads it, is replaced.
    set("beta", json!(1.0));
    if let Some(sampling) = settings.sampling {
        set("temperature", json!(sampling.temperature));
        set("top_p", json!(sampling.top_p.unwrap_or(1.0)));
        set("top_k", json!(sampling.top_k.unwrap_or(0)));
        set("max_completion_length", json!(sampling.max_tokens));
    }
    if let Some(adamw) = adamw(settings, coverage) {
        set("adam_beta1", json!(adamw.beta1));
        set("adam_beta2", json!(adamw.beta2));
        set("adam_epsilon", json!(adamw.epsilon));
        set("weight_decay", json!(adamw.weight_decay));
        set("max_grad_norm", json!(adamw.clip_norm));
        coverage.exact("`optimizer = adamw`", at);
    }
    configuration
}

/// The settings of `train.py` that TRL's configuration does not have.
fn stage(settings: &ExportSettings, coverage: &mut Coverage) -> Value {
    let at = settings.origins.model;
    let weights =
        |weights: &super::weights::WeightsSource| json!({"path": weights.path, "revision": weights.revision});
    let bytes = settings.start.as_ref().is_some_and(|start| start.bytes);
    if bytes {
        coverage.exact("`tokenizer = bytes`, as a tokenizer.json", at);
    }
    let text = settings.domains.iter().filter(|part| part.domain.format == PromptFormat::Text).count();
    // A run writes prompts as tokens.
    if text > 0 && text < settings.domains.len() && !settings.by_run {
        coverage.refuse(
            "domains of plain text together with domains of conversations",
            at,
            "a column of the data has one type",
        );
    } else if text > 0 {
        coverage.exact("`format = text`", at);
    }
    let adapter = match &settings.train.trainable {
        Trainable::Weights { .. } => Value::Null,
        Trainable::Adapter(adapter @ Adapter { kind, rank, alpha, dropout, targets, layers }) => {
            adapters::report(settings, adapter, "; `train.py` checks this and stops", coverage);
            let names: Vec<&str> = targets.iter().map(|target| target.module()).collect();
            let layers = layers.map(|(first, last)| (first..=last).collect::<Vec<u32>>());
            json!({
                "r": rank,
                "lora_alpha": alpha,
                "lora_dropout": dropout,
                "target_modules": names,
                "layers_to_transform": layers,
                "use_dora": *kind == AdapterKind::Dora,
            })
        }
    };
    if !settings.references.is_empty() {
        coverage.refuse("`reference` by domain", at, "the trainer has one reference model");
    }
    for teacher in &settings.teachers {
        if let Some(view) = &teacher.sees {
            let construct = format!("{} with the template `{}`", teacher.name, view.name);
            coverage.refuse(construct, teacher.origin, "in the engine, a teacher reads the student's prompt");
        }
        if teacher.copy.is_some() {
            let construct = format!("{}, a copy of the student", teacher.name);
            coverage.refuse(construct, teacher.origin, "in the engine, a teacher's weights are constant");
        }
    }
    let teachers: Map<String, Value> =
        settings.teachers.iter().map(|teacher| (teacher.key.clone(), weights(&teacher.weights))).collect();
    let temperature = settings.sampling.and_then(|sampling| sampling.temperature.constant());
    json!({
        "start": settings.start.as_ref().map(weights),
        "teachers": teachers,
        "reference": settings.reference.as_ref().map(weights),
        "tokenizer": bytes.then_some("tokenizer"),
        "domains": settings.domains.iter().map(|part| part.domain.name.as_str()).collect::<Vec<_>>(),
        "dtype": settings.dtype.name(),
        "samples": settings.samples,
        "steps": settings.steps,
        "checkpoint_seconds": 600,
        "rows_at_once": micro_batch(settings),
        "sampling_temperature": temperature.unwrap_or(1.0),
        "adapter": adapter,
        "initial_adapter": null,
    })
}
