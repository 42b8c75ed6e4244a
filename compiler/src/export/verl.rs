//! Export to verl 0.9.1: the complete configuration, and a plugin that trains with the objective.

mod mini_batches;
mod objective;

use mopd_plan::{Adapter, AdapterKind, Dtype, PromptFormat, Trainable};
use serde_json::{Value, json};

use self::objective::{PluginObjective, TeacherSource, objective};
use super::coverage::Coverage;
use super::numbers::DISTRIBUTIONS;
use super::schema::{Configuration, yaml};
use super::stage::ExportSettings;
use super::updates::{adamw, checkpointed, micro_batch};
use super::{BYTES_CHAT_TEMPLATE, Export, ExportFile, TEXT_CHAT_TEMPLATE, adapters, places, rewards, torch};

const PLUGIN: &str = include_str!("python/mopd_verl.py");
const MODELS: &str = include_str!("python/mopd_models.py");
const LAUNCH: &str = include_str!("python/launch_verl.sh");

/// Tokens added to the longest prompt for the chat template. A token of the prompt has at least one byte.
const TEMPLATE_TOKENS: u32 = 256;

pub fn export(settings: &ExportSettings, coverage: &mut Coverage) -> Export {
    let objective = objective(settings, coverage);
    rewards::report(settings, true, coverage);
    let configuration = configuration(settings, objective.as_ref(), coverage);
    let mut files = vec![
        ExportFile::new("config.yaml", yaml(&configuration.0)),
        ExportFile::new("mopd_tensors.py", torch::TENSORS),
        ExportFile::new("mopd_distributions.py", DISTRIBUTIONS),
        ExportFile::new("mopd_models.py", MODELS),
        ExportFile::new("mopd_verl.py", PLUGIN),
    ];
    files.extend(rewards::files(LAUNCH));
    files.extend(objective.map(|objective| ExportFile::new("objective.py", objective.code)));
    places::name(places::VERL, coverage);
    // verl asks for rewards, whatever the objective reads, and reports them.
    Export { files, messages: true, judged: true }
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
    let each = if settings.train.options.mini_batches > 1 { "a batch" } else { "a step" };
    coverage.exact(format!("{} prompts of {} samples {each}", settings.groups, settings.samples), at);
    mini_batches::report(settings, coverage);
    prompts(settings, &mut set);
    actor(settings, &mut set, dtype, micro);
    if let Some(start) = &settings.start {
        set("actor_rollout_ref.model.path", json!(start.whole().0));
    }
    let loaded = settings.start.iter().chain(settings.teachers.iter().map(|teacher| &teacher.weights));
    for weights in loaded.clone() {
        if let (whole, Some(command)) = weights.whole() {
            coverage.exact(format!("{}, read from {whole}, which `{command}` writes", weights.path), at);
        }
    }
    for weights in loaded.filter(|weights| weights.revision.is_some()) {
        let why = "verl loads the newest revision from the hub; download this revision to a folder";
        coverage.refuse(format!("a revision of a model on the hub, {}", weights.path), at, why);
    }
    model_and_prompts(settings, &mut set, coverage);
    rollout(settings, &mut set, dtype, micro);
    trainer(settings, &mut set);
    optimizer(settings, &mut set, coverage);
    let teacher = objective.map_or(TeacherSource::None, |objective| objective.teacher);
    distillation(settings, teacher, &mut set);
    if teacher.is_served() {
        teachers(settings, &mut configuration);
    }
    precision(settings, &mut configuration);
    configuration.insert(
        "ray_kwargs.ray_init.runtime_env",
        "env_vars",
        // `launch.sh` adds the folder's own path.
        json!({"VERL_USE_EXTERNAL_MODULES": "mopd_verl"}),
    );
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
    let parts = settings.train.options.mini_batches.max(1);
    set(&format!("{ACTOR}.strategy"), json!("fsdp2"));
    set(&format!("{ACTOR}.ppo_mini_batch_size"), json!(settings.groups.div_ceil(parts)));
    set(&format!("{ACTOR}.ppo_micro_batch_size_per_gpu"), json!(micro));
    set(&format!("{ACTOR}.data_loader_seed"), json!(settings.seed));
    set(&format!("{ACTOR}.fsdp_config.seed"), json!(settings.seed));
    set(&format!("{ACTOR}.fsdp_config.dtype"), json!(dtype));
    set("actor_rollout_ref.ref.fsdp_config.dtype", json!(dtype));
    set("actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu", json!(micro));
    set("actor_rollout_ref.model.enable_gradient_checkpointing", json!(checkpointed(settings)));
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

fn distillation(settings: &ExportSettings, teacher: TeacherSource, set: &mut dyn FnMut(&str, Value)) {
    let served = teacher.is_served();
    set("distillation.enabled", json!(served));
    set(&format!("{LOSS}.loss_mode"), json!("mopd"));
    set(&format!("{LOSS}.use_task_rewards"), json!(false));
    set(&format!("{LOSS}.use_policy_gradient"), json!(false));
    // By default, verl bounds the teacher's log-probabilities.
    set(&format!("{LOSS}.loss_max_clamp"), Value::Null);
    set(&format!("{LOSS}.log_prob_min_clamp"), Value::Null);
    let entries = if let TeacherSource::Entries(k) = teacher { json!(k) } else { Value::Null };
    set(&format!("{LOSS}.topk"), entries);
    set("distillation.n_gpus_per_node", json!(if served { settings.teachers.len() } else { 0 }));
    set("distillation.nnodes", json!(u32::from(served)));
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
    // The plugin sets the rate before each update.
    set(&format!("{optim}.lr_scheduler_type"), json!("constant"));
    set(&format!("{optim}.lr_warmup_steps"), json!(0));
}

fn teachers(settings: &ExportSettings, configuration: &mut Configuration) {
    let models = "distillation.teacher_models";
    if let [only] = settings.teachers.as_slice() {
        let entry = format!("{models}.teacher_model");
        configuration.set(&format!("{entry}.model_path"), json!(only.weights.whole().0));
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
        entry["model_path"] = json!(teacher.weights.whole().0);
        entry["num_replicas"] = json!(1);
        entry["inference"]["tensor_model_parallel_size"] = json!(1);
        configuration.insert(models, &teacher.key, entry);
    }
}
