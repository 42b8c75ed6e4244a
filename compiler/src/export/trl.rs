//! Export to TRL 1.16.0: a subclass of its trainer, whose loss is the objective's graph.

use std::cell::RefCell;

use mopd_expr::roles::Role;
use mopd_expr::signals::{ModelSignal, PlainSignal, Signal};
use mopd_plan::{
    Adapter, AdapterKind, CompletionsFrom, DataFormula, Dtype, Objective, PromptFormat, StudentCopy,
    Trainable,
};
use serde_json::{Map, Value, json};

use super::coverage::Coverage;
use super::numbers::{DISTRIBUTIONS, DistributionNumbers, EngineNumber, Summands, live_number, number};
use super::schema::{Configuration, TRL_SYNCHRONOUS};
use super::stage::{ExportSettings, ExportedTeacher};
use super::updates::{adamw, checkpointed, micro_batch, rate};
use super::{Export, ExportFile, adapters, live_text, objective_header, places, rewards, torch};

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
    places::name(places::TRL, coverage);
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
        let spec = sampled_from(&primitive.primitive.roles(), settings);
        match spec.and_then(|()| live_number(&primitive.primitive, &summands)) {
            Ok(spec) => {
                coverage.exact(construct, primitive.origin);
                live.push(spec);
            }
            Err(why) => coverage.refuse(construct, primitive.origin, why),
        }
    }
    carried(objective, settings, coverage);
    let (distributions, beside) = (DistributionNumbers::default(), DistributionNumbers::default());
    let given = DistributionNumbers::default();
    let reads: RefCell<Vec<String>> = RefCell::default();
    let name_of = |signal: &Signal, distributions: &DistributionNumbers| {
        let of_plan = || serde_json::to_value(signal).map_err(|error| error.to_string());
        if settings.by_run && is_given(signal, settings.completions) {
            return Ok(given.name(signal, of_plan()?));
        }
        sampled_from(&signal.roles(), settings)?;
        match number(signal, &summands)? {
            Some(EngineNumber::Named(name)) => Ok(name.to_owned()),
            Some(EngineNumber::Distribution(mut spec)) => {
                if matches!(signal, Signal::Divergence(_)) {
                    // As the plan has it, for reports.
                    spec["signal_of_plan"] = of_plan()?;
                }
                Ok(distributions.name(signal, spec))
            }
            None => of_row(signal),
        }
    };
    let names = |signal: &Signal| {
        let name = name_of(signal, &distributions)?;
        if !reads.borrow().contains(&name) {
            reads.borrow_mut().push(name.clone());
        }
        Ok(name)
    };
    let body = torch::loss(objective, &names);
    // Only a run reads what the loss does not, such as the condition of a `ladder`.
    if settings.by_run && body.is_ok() {
        let adjoints = objective.live.iter().map(|live| live.adjoint);
        let loss = objective.graph.signals(&adjoints.chain([objective.loss]).collect::<Vec<_>>());
        let all = objective.graph.signals(&objective.outputs());
        for signal in all.into_iter().filter(|signal| !loss.contains(signal)) {
            if let Err(why) = name_of(&signal, &beside) {
                coverage.refuse(format!("`{}`", torch::signal_name(&signal)), at, why);
            }
        }
    }
    match &body {
        Ok(_) => coverage.exact(format!("objective `{}`, as the trainer's loss", objective.name), at),
        Err(found) => {
            found.iter().for_each(|line| coverage.refuse(line.construct.clone(), at, line.why.clone()));
        }
    }
    if objective.reads(Role::Sampler) && settings.completions == CompletionsFrom::Engine {
        let how = "the student's log-probabilities at this step; they equal the sampler's up to rounding";
        coverage.approximate("`sampler`", at, how);
    }
    if objective.reads(Role::TEACHER) && settings.teachers.is_empty() {
        coverage.refuse("`teacher`", at, "no teacher of the stage can be exported");
    }
    if objective.temperature.constant().is_none() {
        let why = "the exporter divides logits by one temperature";
        coverage.refuse("a temperature that changes during the run", at, why);
    }
    let body = body.ok()?;
    if coverage.refused().count() > before {
        return None;
    }
    let scorers = settings.train.scorers.iter().map(|(role, _)| role);
    let roles: Vec<String> = scorers.filter(|role| objective.reads(*role)).map(|role| role.name()).collect();
    let summands = summands.0.into_inner();
    let functions: String = summands.iter().map(|code| format!("{code}\n\n")).collect();
    let table: Vec<String> = (0..summands.len()).map(|number| format!("summand{number}")).collect();
    let header = objective_header("TRL 1.16.0", objective);
    Some(format!(
        "{header}\nROLES = {}\nTEMPERATURE = {}\nLIVE = {}\nDISTRIBUTIONS = {}\nBESIDE = {}\nGIVEN = {}\n\
         READS = {}\n\n\n\
         {functions}SUMMANDS = [{}]\n\n\n{}",
        torch::literal(&json!(roles)),
        torch::number(objective.temperature.constant()?),
        torch::literal(&json!(live)),
        torch::literal(&distributions.json()),
        torch::literal(&beside.json()),
        torch::literal(&given.json()),
        torch::literal(&json!(reads.into_inner())),
        table.join(", "),
        body,
    ))
}

/// Refuses the values of an objective that are carried from step to step.
fn carried(objective: &Objective, settings: &ExportSettings, coverage: &mut Coverage) {
    let at = settings.origins.objective;
    let by_run = settings.completions == CompletionsFrom::EachStep;
    for state in objective.states.iter().filter(|_| !by_run) {
        let why = "the engine's checkpoints do not contain it";
        coverage.refuse(format!("`state {}`", state.name), state.origin, why);
    }
    if !by_run && (objective.learned.is_some() || !objective.ladders.is_empty()) {
        coverage.refuse("settings that adapt during the run", at, "TRL's settings are constant");
    }
    if objective.chosen.is_some() {
        coverage.refuse("numbers per block", at, "the exporter has one block for each completion");
    }
}

/// Whether a run gives the engine a number, after the completions of a step.
fn is_given(signal: &Signal, completions: CompletionsFrom) -> bool {
    let each_step = completions == CompletionsFrom::EachStep;
    match signal {
        Signal::Plain(plain) => match plain {
            PlainSignal::Truncated | PlainSignal::Reward | PlainSignal::Correct => true,
            PlainSignal::Accepted | PlainSignal::Offset | PlainSignal::TurnReward | PlainSignal::Loss => {
                each_step
            }
            _ => false,
        },
        Signal::Of { role: Role::Sampler, part: ModelSignal::Logp } => each_step,
        Signal::Of { part: ModelSignal::Correct, .. } | Signal::TermLoss { .. } | Signal::State { .. } => {
            each_step
        }
        Signal::ValidationLoss => each_step,
        Signal::Data { .. } | Signal::DataIs { .. } | Signal::Available { .. } => true,
        Signal::RewardPart { .. } | Signal::Uniform { .. } => true,
        _ => false,
    }
}

/// What the trainer has of the prompt's row.
fn of_row(signal: &Signal) -> Result<String, String> {
    match signal {
        Signal::DomainPlace => Ok("domain".to_owned()),
        Signal::RewardPart { part } => Ok(format!("reward.{part}")),
        Signal::Data { .. } | Signal::DataIs { .. } => {
            Ok(DataFormula::of_signal(signal).expect("it is one of the data").text())
        }
        Signal::State { .. } => Err("the engine's checkpoints do not contain it".to_owned()),
        Signal::Uniform { .. } => Err("mopd generates its random numbers".to_owned()),
        _ => Err("TRL's trainer does not provide it".to_owned()),
    }
}

/// Refuses numbers of the sampler's distribution where it is not the student's.
fn sampled_from(roles: &[Role], settings: &ExportSettings) -> Result<(), String> {
    if !roles.contains(&Role::Sampler) {
        return Ok(());
    }
    match settings.sampling {
        Some(sampling) if sampling.is_plain() => Ok(()),
        Some(_) => {
            Err("with `top_p` or `top_k`, tokens are sampled from a truncated distribution".to_owned())
        }
        None => {
            Err("the trainer does not have the distribution that the completions were drawn from".to_owned())
        }
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
    let mut models = Map::new();
    let others = settings.beside.iter().map(|of| &of.teacher);
    for (number, teacher) in settings.teachers.iter().chain(others).enumerate() {
        prompts_and_copies(teacher, number < settings.teachers.len(), settings, coverage);
        models.insert(
            teacher.key.clone(),
            json!({
                "path": teacher.weights.path,
                "revision": teacher.weights.revision,
                "copy": teacher.copy,
            }),
        );
    }
    let single = settings.reference.as_ref().map(|of| ("reference".to_owned(), of));
    let by_domain = settings.references.iter().map(|(domain, of)| (reference_of(domain), of));
    models.extend(
        single
            .into_iter()
            .chain(by_domain)
            .map(|(name, of)| (name, json!({"path": of.path, "revision": of.revision, "copy": null}))),
    );
    let temperature = settings.sampling.and_then(|sampling| sampling.temperature.constant());
    json!({
        "start": settings.start.as_ref().map(weights),
        "models": models,
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

/// Reports what a model beside the student reads in place of the prompt, and how its weights change.
fn prompts_and_copies(
    teacher: &ExportedTeacher,
    routed: bool,
    settings: &ExportSettings,
    coverage: &mut Coverage,
) {
    let ExportedTeacher { name, sees, copy, origin, .. } = teacher;
    if let Some(view) = sees {
        let construct = format!("{name} with the template `{}`", view.name);
        match settings.by_run || (routed && !view.of_completions()) {
            true => coverage.exact(construct, *origin),
            false => {
                let why =
                    "the exporter fills templates of routed teachers, before the run, from the rows alone";
                coverage.refuse(construct, *origin, why);
            }
        }
    }
    if let Some(copy) = copy {
        let construct = format!("{name}, a copy of the student");
        let adapter = matches!(settings.train.trainable, Trainable::Adapter(_));
        if adapter && matches!(copy, StudentCopy::Average { .. }) {
            let why = "the exporter does not support averages of an adapter";
            coverage.refuse(construct, *origin, why);
        } else {
            coverage.exact(construct, *origin);
        }
    }
}

/// The name in the rows of a reference that differs by domain.
pub fn reference_of(domain: &str) -> String {
    format!("reference of {domain}")
}
