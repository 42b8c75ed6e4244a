//! Export to verl 0.9.1: the complete configuration, and a plugin that computes the objective per token.

mod mini_batches;
mod rates;
mod temperature;

use mopd_expr::roles::Role;
use mopd_expr::signals::{DivergenceKind, Live, Mass, Signal, Support};
use mopd_plan::{Adapter, AdapterKind, Distribution, Divergence, Dtype, PromptFormat, Trainable};
use serde_json::{Value, json};

use self::rates::{VerlRate, rate};
use self::temperature::VerlTemperatures;
use super::coverage::Coverage;
use super::per_token::{self, Aggregation, PerToken};
use super::rewards::rewards;
use super::schema::{Configuration, yaml};
use super::stage::ExportSettings;
use super::updates::{adamw, checkpointed, micro_batch};
use super::{BYTES_CHAT_TEMPLATE, Export, ExportFile, TEXT_CHAT_TEMPLATE, adapters, objective_header, torch};

const PLUGIN: &str = include_str!("python/mopd_verl.py");
const LAUNCH: &str = include_str!("python/launch_verl.sh");

/// Tokens added to the longest prompt for the chat template. A token of the prompt has at least one byte.
const TEMPLATE_TOKENS: u32 = 256;

pub fn export(settings: &ExportSettings, coverage: &mut Coverage) -> Export {
    let objective = objective(settings, coverage);
    let rewards = rewards(settings, coverage);
    let configuration = configuration(settings, objective.as_ref(), coverage);
    let mut files = vec![
        ExportFile::new("config.yaml", yaml(&configuration.0)),
        ExportFile::new("rewards.json", format!("{rewards:#}\n")),
        ExportFile::new("mopd_rewards.py", super::rewards::REWARDS),
        ExportFile::new("mopd_tensors.py", torch::TENSORS),
        ExportFile::new("mopd_verl.py", PLUGIN),
        ExportFile::new("launch.sh", LAUNCH),
    ];
    files.extend(objective.map(|objective| ExportFile::new("objective.py", objective.code)));
    Export { files, messages: true }
}

/// The objective as code of the plugin, and the settings that follow from it.
struct PluginObjective {
    code: String,
    aggregation: Aggregation,
    reads: Vec<String>,
    top_k: Option<u32>,
}

fn objective(settings: &ExportSettings, coverage: &mut Coverage) -> Option<PluginObjective> {
    let objective = &settings.train.objective;
    let at = settings.origins.objective;
    let before = coverage.refused().count();
    let sampling = settings.sampling?;
    let temperatures = VerlTemperatures {
        rollout: sampling.temperature.constant()?,
        objective: objective.temperature.constant()?,
    };
    let mut live = Vec::new();
    let mut top_k = None;
    for primitive in &objective.live {
        match live_name(&primitive.primitive, temperatures) {
            Ok((name, k)) => {
                live.push(name);
                top_k = top_k.or(k);
                coverage.exact(format!("`{}`", live_text(&primitive.primitive)), primitive.origin);
            }
            Err(why) => {
                coverage.refuse(format!("`{}`", live_text(&primitive.primitive)), primitive.origin, why);
            }
        }
    }
    if live.contains(&"logp") && live.contains(&"divergence") {
        let why = "with top-k distributions, verl does not provide the sampled token's log-probability";
        coverage.refuse("a divergence together with log-probabilities", at, why);
    }
    if !objective.states.is_empty() {
        coverage.refuse("`state`", objective.states[0].origin, "a plugin keeps no state between steps");
    }
    if objective.learned.is_some() || !objective.ladders.is_empty() {
        coverage.refuse("settings that adapt during the run", at, "verl does not pass the step to a plugin");
    }
    if objective.domain_weight.is_some() {
        coverage.refuse("`by domain`", at, "verl passes only a part of the batch to a plugin at a time");
    }
    let split = match per_token::split(&objective.graph, objective.loss) {
        Ok(split) => split,
        Err(found) => {
            for line in found {
                coverage.refuse(line.construct, at, line.why);
            }
            return None;
        }
    };
    let PerToken { graph, losses, aggregation } = split;
    if graph.moves(&[losses]) {
        coverage.refuse("a schedule in the objective", at, "verl does not pass the step to a plugin");
    }
    let plain = sampling.is_plain();
    let names = |signal: &Signal| supplied(signal, top_k.is_some(), plain, temperatures);
    let body = match torch::function("losses", &graph, &[losses], &names) {
        Ok(body) => body,
        Err(found) => {
            for line in found {
                coverage.refuse(line.construct, at, line.why);
            }
            return None;
        }
    };
    let reads: Vec<String> =
        graph.signals(&[losses]).iter().filter_map(|signal| names(signal).ok()).collect();
    if reads.iter().any(|name| name == "sampler.logp") {
        let how = "the trainer recomputes the log-probabilities with the same weights; they can differ \
                   slightly from those that the engine sampled with";
        coverage.approximate("`sampler.logp`", at, how);
    }
    if reads.iter().any(|name| name == "reference.logp") && settings.reference != settings.start {
        coverage.refuse(
            "a `reference` other than the starting weights",
            at,
            "verl's reference is the model before training",
        );
    }
    coverage.exact(
        format!("objective `{}`, as code of the plugin; {}", objective.name, aggregation_name(aggregation)),
        at,
    );
    if coverage.refused().count() > before {
        return None;
    }
    let header = objective_header("verl 0.9.1", objective);
    let k = top_k.map_or("None".to_owned(), |k| k.to_string());
    let list = |names: &[String]| torch::literal(&json!(names));
    let live: Vec<String> = live.iter().map(|name| (*name).to_owned()).collect();
    let code = format!("{header}\nLIVE = {}\nREADS = {}\nTOPK = {k}\n\n\n{body}", list(&live), list(&reads),);
    Some(PluginObjective { code, aggregation, reads, top_k })
}

/// The plugin's name of a live primitive, and the number of the teacher's top entries that it needs.
fn live_name(
    live: &Live,
    temperatures: VerlTemperatures,
) -> Result<(&'static str, Option<u32>), &'static str> {
    let divergence = match live {
        Live::Logp => return temperatures.of_live_logp().map(|()| ("logp", None)),
        Live::Divergence(divergence) => divergence,
        Live::EndLogp
        | Live::Value
        | Live::ConfidenceLogit
        | Live::Likelihood { .. }
        | Live::Ranking { .. } => {
            return Err("of the student, verl passes only the sampled token's log-probability to a plugin");
        }
        Live::Other { .. } => return Err("this version can't run it"),
    };
    let Divergence { kind, left, right, support, mass, temperature: _, clip_each } = divergence;
    let whole = "the only divergence that verl computes is KL(teacher || student) over the teacher's most \
                 probable entries";
    let Support::TopK { role: Role::TEACHER, k } = support else { return Err(whole) };
    let teacher = |side: &Distribution| match side {
        Distribution::Role(role) => *role == Role::TEACHER,
        Distribution::Detached(inner) => **inner == Distribution::Role(Role::TEACHER),
        Distribution::Blend(_) => false,
    };
    if *kind != DivergenceKind::Kl || !teacher(left) || *right != Distribution::Role(Role::Student) {
        return Err(whole);
    }
    if *mass != Mass::Raw {
        return Err("verl does not correct for the omitted entries: it has only `mass: raw`");
    }
    if clip_each.is_some() {
        return Err("verl does not clip the entries of a divergence");
    }
    temperatures.of_divergence(divergence)?;
    Ok(("divergence", Some(*k)))
}

fn live_text(live: &Live) -> String {
    super::live_text(live)
}

/// The plugin's name of a signal.
fn supplied(
    signal: &Signal,
    top_k: bool,
    plain: bool,
    temperatures: VerlTemperatures,
) -> Result<String, String> {
    temperatures.of_signal(signal)?;
    let none = "of the distributions, verl passes only the sampled token's log-probabilities of student and \
                teacher to a plugin";
    let taken = "with top-k distributions, verl does not provide the sampled token's log-probability";
    match signal {
        Signal::Logp { role: Role::Student | Role::Old | Role::TEACHER } if top_k => Err(taken.to_owned()),
        Signal::Logp { role: Role::Sampler } if !plain => Err(
            "with `top_p` or `top_k`, tokens are sampled from a truncated distribution, not the scored one"
                .to_owned(),
        ),
        Signal::Logp {
            role: role @ (Role::Student | Role::Old | Role::TEACHER | Role::Sampler | Role::REFERENCE),
        } => Ok(format!("{}.logp", role.name())),
        Signal::Entropy { role: Role::Student } => Ok("student.entropy".to_owned()),
        Signal::Position => Ok("position".to_owned()),
        Signal::Length => Ok("length".to_owned()),
        Signal::Reward => Ok("reward".to_owned()),
        Signal::Correct => Ok("correct".to_owned()),
        Signal::Step | Signal::Progress => Err("verl does not pass the step to a plugin".to_owned()),
        Signal::Data { .. } | Signal::DataIs { .. } => {
            Err("verl does not pass fields of a row to a plugin".to_owned())
        }
        Signal::DomainPlace => Err("verl does not pass the domain of a prompt to a plugin".to_owned()),
        _ => Err(none.to_owned()),
    }
}

fn aggregation_name(aggregation: Aggregation) -> &'static str {
    match aggregation {
        Aggregation::MeanOfTokens => "token-mean",
        Aggregation::MeanOfSequenceMeans => "seq-mean-token-mean",
        Aggregation::MeanOfSequenceSums => "seq-mean-token-sum",
        Aggregation::Sum => "token-sum",
    }
}

fn configuration(
    settings: &ExportSettings,
    objective: Option<&PluginObjective>,
    coverage: &mut Coverage,
) -> Configuration {
    let mut configuration = Configuration::verl();
    let mut set = |path: &str, value: Value| configuration.set(path, value);
    let micro = micro_batch(settings);
    let dtype = match settings.dtype {
        Dtype::Float32 => "float32",
        Dtype::Bfloat16 => "bfloat16",
    };
    let at = settings.origins.model;
    coverage.exact(format!("`dtype = {dtype}`"), at);
    // A step of verl is a batch.
    let each = if settings.train.mini_batches > 1 { "a batch" } else { "a step" };
    coverage.exact(format!("{} prompts of {} samples {each}", settings.groups, settings.samples), at);
    mini_batches::report(settings, coverage);
    prompts(settings, &mut set);
    actor(settings, &mut set, dtype, micro);
    if let Some(objective) = objective {
        loss(objective, &mut set);
    }
    if let Some(start) = &settings.start {
        set("actor_rollout_ref.model.path", json!(start.path));
    }
    let loaded = settings.start.iter().chain(settings.teachers.iter().map(|teacher| &teacher.weights));
    for weights in loaded.filter(|weights| weights.revision.is_some()) {
        let why = "verl loads the newest revision from the hub; download this revision to a folder";
        coverage.refuse(format!("a revision of a model on the hub, {}", weights.path), at, why);
    }
    model_and_prompts(settings, &mut set, coverage);
    rollout(settings, &mut set, dtype, micro);
    trainer(settings, &mut set);
    optimizer(settings, &mut set, coverage);
    distillation(settings, &mut set);
    teachers(settings, &mut configuration);
    precision(settings, &mut configuration);
    configuration.insert(
        "ray_kwargs.ray_init.runtime_env",
        "env_vars",
        json!({
            "VERL_USE_EXTERNAL_MODULES": "mopd_verl",
            "PYTHONPATH": "${oc.env:PYTHONPATH}",
            "MOPD_EXPORT": "${oc.env:MOPD_EXPORT}",
        }),
    );
    if settings.teachers.is_empty() {
        coverage.refuse(
            "a stage without a teacher",
            at,
            "verl's distillation needs a teacher for every prompt",
        );
    }
    configuration
}

/// The number format of the trained weights and of the reference. verl's FSDP engine does not read `dtype`:
/// it computes in bfloat16 unless `mixed_precision` names another format.
fn precision(settings: &ExportSettings, configuration: &mut Configuration) {
    if settings.dtype == Dtype::Float32 {
        let formats = json!({"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"});
        for part in [ACTOR, "actor_rollout_ref.ref"] {
            configuration.insert(&format!("{part}.fsdp_config"), "mixed_precision", formats.clone());
        }
    }
}

/// The path of a file in the export's folder.
fn export_path(file: &str) -> String {
    format!("${{oc.env:MOPD_EXPORT}}/{file}")
}

fn prompts(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value)) {
    let prompt_length = (settings.longest_prompt + TEMPLATE_TOKENS).next_multiple_of(64);
    set("data.train_files", json!([export_path("train.jsonl")]));
    set("data.val_files", json!([export_path("train.jsonl")]));
    set("data.val_max_samples", json!(1));
    set("data.max_prompt_length", json!(prompt_length));
    set("data.train_batch_size", json!(settings.groups));
    set("data.shuffle", json!(false));
    set("data.seed", json!(settings.seed));
    set("data.dataloader_num_workers", json!(0));
}

const ACTOR: &str = "actor_rollout_ref.actor";
const LOSS: &str = "distillation.distillation_loss";

fn actor(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value), dtype: &str, micro: u32) {
    let parts = settings.train.mini_batches.max(1);
    set(&format!("{ACTOR}.ppo_mini_batch_size"), json!(settings.groups.div_ceil(parts)));
    set(&format!("{ACTOR}.ppo_micro_batch_size_per_gpu"), json!(micro));
    set(&format!("{ACTOR}.data_loader_seed"), json!(settings.seed));
    set(&format!("{ACTOR}.fsdp_config.seed"), json!(settings.seed));
    set(&format!("{ACTOR}.fsdp_config.dtype"), json!(dtype));
    set("actor_rollout_ref.ref.fsdp_config.dtype", json!(dtype));
    set("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", json!(micro));
    set("actor_rollout_ref.model.enable_gradient_checkpointing", json!(checkpointed(settings)));
}

/// The settings of the loss, which follow from the signals that the objective reads.
fn loss(objective: &PluginObjective, set: &mut dyn FnMut(&str, Value)) {
    let reads = |what: &str| objective.reads.iter().any(|name| name == what);
    set(&format!("{ACTOR}.loss_agg_mode"), json!(aggregation_name(objective.aggregation)));
    set(&format!("{ACTOR}.calculate_entropy"), json!(reads("student.entropy")));
    if reads("reference.logp") {
        set(&format!("{ACTOR}.use_kl_loss"), json!(true));
        set(&format!("{ACTOR}.kl_loss_coef"), json!(0.0));
    }
    set(&format!("{LOSS}.topk"), objective.top_k.map_or(Value::Null, |k| json!(k)));
}

fn trainer(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value)) {
    // A step of verl is a batch.
    let steps = settings.batches();
    set("algorithm.adv_estimator", json!("grpo"));
    set("critic.enable", json!(false));
    set("reward.custom_reward_function.path", json!(export_path("mopd_rewards.py")));
    set("reward.custom_reward_function.name", json!("compute_score"));
    set("trainer.total_epochs", json!(1));
    set("trainer.total_training_steps", steps.map_or(Value::Null, |steps| json!(steps)));
    set("trainer.project_name", json!("mopd"));
    set("trainer.experiment_name", json!(settings.name));
    set("trainer.logger", json!(["console"]));
    set("trainer.n_gpus_per_node", json!(1));
    set("trainer.nnodes", json!(1));
    set("trainer.save_freq", steps.map_or(json!(-1), |steps| json!(steps)));
    set("trainer.test_freq", json!(-1));
    set("trainer.val_before_train", json!(false));
    set("trainer.default_local_dir", json!(export_path("checkpoints")));
    // The checkpoints in this folder may be those of an export that was written here before.
    set("trainer.resume_mode", json!("disable"));
}

fn distillation(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value)) {
    set("distillation.enabled", json!(!settings.teachers.is_empty()));
    set(&format!("{LOSS}.loss_mode"), json!("mopd"));
    set(&format!("{LOSS}.use_task_rewards"), json!(false));
    set(&format!("{LOSS}.use_policy_gradient"), json!(false));
    // By default, verl bounds a loss at 10.
    set(&format!("{LOSS}.loss_max_clamp"), Value::Null);
    set(&format!("{LOSS}.log_prob_min_clamp"), Value::Null);
    set("distillation.n_gpus_per_node", json!(settings.teachers.len()));
    set("distillation.nnodes", json!(u32::from(!settings.teachers.is_empty())));
    set("distillation.teacher_key", json!("teacher"));
}

fn model_and_prompts(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value), coverage: &mut Coverage) {
    let bytes = settings.start.as_ref().is_some_and(|start| start.bytes);
    let formats: Vec<&PromptFormat> = settings.domains.iter().map(|part| &part.domain.format).collect();
    let text = formats.iter().filter(|format| ***format == PromptFormat::Text).count();
    let at = settings.origins.model;
    if text > 0 && text < formats.len() {
        let why = "verl has one chat template for all rows";
        coverage.refuse("domains of plain text together with domains of conversations", at, why);
    }
    if text > 0 && bytes {
        coverage.exact("`format = text`, as a template that contains only the prompt", at);
        set("actor_rollout_ref.model.custom_chat_template", json!(BYTES_CHAT_TEMPLATE));
    } else if text > 0 {
        let how = "a chat template that contains only the prompt; if the tokenizer begins texts with a \
                   special token, it is missing";
        coverage.approximate("`format = text`", at, how);
        set("actor_rollout_ref.model.custom_chat_template", json!(TEXT_CHAT_TEMPLATE));
    }
    if bytes {
        coverage.exact("`tokenizer = bytes`, as a tokenizer.json", at);
        set("actor_rollout_ref.model.tokenizer_path", json!("${oc.env:MOPD_EXPORT}/tokenizer"));
    }
    if let Trainable::Adapter(adapter) = &settings.train.trainable {
        let Adapter { kind, rank, alpha, dropout, targets, layers } = adapter;
        if *kind == AdapterKind::Dora {
            coverage.refuse("`dora`", at, "verl supports only LoRA");
        }
        if *dropout != 0.0 {
            coverage.refuse("`dropout` of an adapter", at, "verl's adapters have no dropout");
        }
        if layers.is_some() {
            coverage.refuse("`layers` of an adapter", at, "verl adapts all layers");
        }
        if *kind == AdapterKind::Lora {
            let otherwise = ", and verl does not stop: leave these targets out for such a model";
            adapters::report(settings, adapter, otherwise, coverage);
        }
        set("actor_rollout_ref.model.lora_rank", json!(rank));
        set("actor_rollout_ref.model.lora_alpha", json!(alpha));
        let names: Vec<&str> = targets.iter().map(|target| target.module()).collect();
        set("actor_rollout_ref.model.target_modules", json!(names));
    }
}

fn rollout(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value), dtype: &str, micro: u32) {
    let Some(sampling) = settings.sampling else { return };
    let rollout = "actor_rollout_ref.rollout";
    set("data.max_response_length", json!(sampling.max_tokens));
    set(&format!("{rollout}.name"), json!("vllm"));
    // Nothing reads it, since there is no reward model, but verl reports an error if it is not set.
    set("reward.reward_model.rollout.name", json!("vllm"));
    set(&format!("{rollout}.temperature"), json!(sampling.temperature));
    set(&format!("{rollout}.top_k"), sampling.top_k.map_or(json!(-1), |k| json!(k)));
    set(&format!("{rollout}.top_p"), json!(sampling.top_p.unwrap_or(1.0)));
    set(&format!("{rollout}.n"), json!(sampling.n));
    set(&format!("{rollout}.seed"), json!(settings.seed));
    set(&format!("{rollout}.dtype"), json!(dtype));
    set(&format!("{rollout}.tensor_model_parallel_size"), json!(1));
    set(&format!("{rollout}.log_prob_micro_batch_size_per_gpu"), json!(micro));
}

fn optimizer(settings: &ExportSettings, set: &mut dyn FnMut(&str, Value), coverage: &mut Coverage) {
    let at = settings.origins.model;
    let optim = "actor_rollout_ref.actor.optim";
    let Some(adamw) = adamw(settings, coverage) else { return };
    set(&format!("{optim}.betas"), json!([adamw.beta1, adamw.beta2]));
    set(&format!("{optim}.weight_decay"), json!(adamw.weight_decay));
    set(&format!("{optim}.override_optimizer_config"), json!({"eps": adamw.epsilon}));
    set(&format!("{optim}.clip_grad"), json!(adamw.clip_norm));
    set("actor_rollout_ref.actor.grad_clip", json!(adamw.clip_norm));
    // An adapter of verl has matrices only, and nothing else is trained.
    if adamw.weight_decay == 0.0 || matches!(settings.train.trainable, Trainable::Adapter(_)) {
        coverage.exact("`optimizer = adamw`", at);
    } else {
        coverage.approximate("`weight_decay`", at, "verl also decays the weights of normalisations");
    }
    match rate(&settings.train.learning_rate) {
        Ok(VerlRate { lr, kind, warmup, least, zero_indexed }) => {
            set(&format!("{optim}.lr"), json!(lr));
            set(&format!("{optim}.lr_scheduler_type"), json!(kind));
            set(&format!("{optim}.lr_warmup_steps"), json!(warmup));
            set(&format!("{optim}.min_lr_ratio"), json!(least));
            set(&format!("{optim}.zero_indexed_step"), json!(zero_indexed));
            coverage.exact("`lr`", at);
        }
        Err(why) => coverage.refuse("this schedule of `lr`", at, why),
    }
}

fn teachers(settings: &ExportSettings, configuration: &mut Configuration) {
    let models = "distillation.teacher_models";
    if let [only] = settings.teachers.as_slice() {
        let entry = format!("{models}.teacher_model");
        configuration.set(&format!("{entry}.model_path"), json!(only.weights.path));
        configuration.set(&format!("{entry}.key"), json!("default"));
        configuration.set(&format!("{entry}.num_replicas"), json!(1));
        configuration.set(&format!("{entry}.inference.tensor_model_parallel_size"), json!(1));
        return;
    }
    // With several teachers, verl removes the entry `teacher_model`.
    let template = configuration.0["distillation"]["teacher_models"]["teacher_model"].clone();
    for teacher in &settings.teachers {
        let mut entry = template.clone();
        entry["key"] = json!(teacher.key);
        entry["model_path"] = json!(teacher.weights.path);
        entry["num_replicas"] = json!(1);
        entry["inference"]["tensor_model_parallel_size"] = json!(1);
        configuration.insert(models, &teacher.key, entry);
    }
}
