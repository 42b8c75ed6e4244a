//! verl 0.9.1: a YAML file, or the overrides of a launch script.

mod loss;

use mopd_compiler::export::schema::VERL;
use serde_json::Value;

use super::draft::{
    COUNT, DECAY, Draft, NOT_NEGATIVE, ORIGIN, RATE, SEED, TEMPERATURE, TEMPLATE_VARIABLES, number, origin,
    quoted, targets, word,
};
use super::given::GivenSettings;

/// A configuration with verl's own defaults.
struct Settings<'a> {
    given: &'a GivenSettings,
}

/// The engine's default of a setting; none where it is written in terms of others.
pub fn default(path: &str) -> Option<&'static Value> {
    path.split('.').try_fold(&VERL["defaults"], |at, part| at.get(part))
}

impl Settings<'_> {
    fn number(&self, path: &str) -> f64 {
        self.given.number(path).or_else(|| default(path)?.as_f64()).unwrap_or(0.0)
    }

    fn text(&self, path: &str) -> String {
        let default = || default(path)?.as_str().map(str::to_owned);
        self.given.text(path).or_else(default).unwrap_or_default()
    }

    fn flag(&self, path: &str) -> bool {
        self.given.flag(path).or_else(|| default(path)?.as_bool()).unwrap_or(false)
    }
}

const LOSS: &str = "distillation.distillation_loss";
const ACTOR: &str = "actor_rollout_ref.actor";
const ROLLOUT: &str = "actor_rollout_ref.rollout";

pub fn draft(given: &GivenSettings) -> Draft {
    let settings = Settings { given };
    let name = given.text("trainer.experiment_name").unwrap_or_else(|| "imported".to_owned());
    let mut draft = Draft { from: "a configuration of verl 0.9.1".to_owned(), name, ..Draft::default() };
    let seed = draft.within("data.seed", given.number("data.seed").unwrap_or(1.0), 1.0, SEED);
    draft.settings.push(format!("seed = {seed}"));
    if settings.text(&format!("{ROLLOUT}.dtype")) == "bfloat16" {
        draft.settings.push("dtype = bfloat16".to_owned());
    }
    let model = settings.text("actor_rollout_ref.model.path");
    draft.models.push(format!("model start = hf({})", quoted(&model)));
    let path = format!("{ROLLOUT}.temperature");
    let temperature = draft.within(&path, settings.number(&path), 1.0, TEMPERATURE);
    let distils = settings.flag("distillation.enabled");
    let domains = if distils { teachers(given, temperature, &mut draft) } else { one_domain(&mut draft) };
    files(given, domains, &mut draft);
    rewards(given, &mut draft);
    let is_exact = if distils {
        draft.recipe = "distill(start)".to_owned();
        loss::distillation(&settings, temperature, &mut draft)
    } else {
        draft.recipe = "grpo(start, on: domains)".to_owned();
        loss::grpo(&settings, &mut draft);
        false
    };
    let samples = draft.within(&format!("{ROLLOUT}.n"), settings.number(&format!("{ROLLOUT}.n")), 1.0, COUNT);
    let length = given
        .number("data.max_response_length")
        .or_else(|| given.number(&format!("{ROLLOUT}.response_length")))
        .unwrap_or_else(|| settings.number("data.max_response_length"));
    let length = draft.within("data.max_response_length", length, 512.0, COUNT);
    let mut sample = format!("n: {samples}, temperature: {}, max_tokens: {length}", number(temperature));
    let top_p = given.number(&format!("{ROLLOUT}.top_p")).filter(|top_p| *top_p < 1.0);
    let top_k = given.number(&format!("{ROLLOUT}.top_k")).filter(|top_k| *top_k > 0.0);
    for (name, value) in [("top_p", top_p), ("top_k", top_k)] {
        match value {
            Some(value) if is_exact && value > 0.0 => sample += &format!(", {name}: {value}"),
            // verl does not correct for it.
            Some(value) => draft.leave(
                format!("{ROLLOUT}.{name} = {value}"),
                "tokens from a part of the distribution, scored under all of it, bias the gradient \
                 (`mopd explain truncated-sampling`): drawn from all of it",
            ),
            None => {}
        }
    }
    draft.set("rollout", format!("sample({sample})"));
    steps(&settings, samples, &mut draft);
    optimizer(&settings, &mut draft);
    adapter(&settings, &mut draft);
    draft
}

/// One domain for each teacher's key.
fn teachers(given: &GivenSettings, temperature: f64, draft: &mut Draft) -> usize {
    let heat = if temperature == 1.0 {
        String::new()
    } else {
        let temperature = number(temperature);
        draft.note(format!(
            "verl reads teachers at temperature 1 and the student at that of the rollout, {temperature}; \
             here every log-probability is at {temperature}, which `temperature = 1/{temperature}` of a \
             teacher undoes."
        ));
        format!(", temperature = 1/{temperature}")
    };
    let models = "distillation.teacher_models";
    let key = given.text("distillation.teacher_key").unwrap_or_else(|| "data_source".to_owned());
    let mut entries = given.below(models);
    if entries.len() > 1 {
        let dropped = entries.iter().any(|entry| entry == "teacher_model");
        entries.retain(|entry| entry != "teacher_model");
        if dropped {
            draft.note(
                "verl drops the entry `teacher_model` where there are others, and so it is dropped here.",
            );
            for setting in
                given.settings.iter().filter(|of| of.path.starts_with(&format!("{models}.teacher_model.")))
            {
                given.answered(&setting.path);
                draft.leave(setting.text(), "verl drops this entry where there are others");
            }
        }
    }
    let path = |entry: &str| given.text(&format!("{models}.{entry}.model_path"));
    let student = || given.text("actor_rollout_ref.model.path");
    if entries.len() < 2 {
        let entry = entries.first().map_or("teacher_model", String::as_str);
        let model = path(entry).unwrap_or_else(|| "teacher".to_owned());
        given.answered(&format!("{models}.{entry}.key"));
        draft.domains.push(domain("prompts_of_all", "prompts.jsonl"));
        draft.teachers.push(format!(
            "teacher large = hf({}) {{ origin = {}{heat} }}",
            quoted(&model),
            origin(student(), &model)
        ));
        draft.arms.push("else -> large".to_owned());
        draft.note(ORIGIN);
        return 1;
    }
    let mut taken = Vec::new();
    for entry in &entries {
        let routed = given.text(&format!("{models}.{entry}.key")).unwrap_or_else(|| entry.clone());
        let own = word(&routed, &taken);
        draft.note(format!("Rows whose `{key}` is {routed} are the domain `{own}`."));
        draft.domains.push(domain(&own, &format!("{own}.jsonl")));
        let model = path(entry).unwrap_or_else(|| "teacher".to_owned());
        draft.teachers.push(format!(
            "teacher {own}_teacher = hf({}) {{ origin = {}{heat} }}",
            quoted(&model),
            origin(student(), &model)
        ));
        draft.arms.push(format!("domain == {own} -> {own}_teacher"));
        taken.push(own);
    }
    draft.note(ORIGIN);
    taken.len()
}

fn one_domain(draft: &mut Draft) -> usize {
    draft.domains.push(domain("prompts_of_all", "prompts.jsonl"));
    1
}

fn domain(name: &str, file: &str) -> String {
    format!("domain {name} {{ prompts = {}, reward = exact_match, format = chat }}", quoted(file))
}

fn files(given: &GivenSettings, domains: usize, draft: &mut Draft) {
    for name in ["data.train_files", "data.val_files"] {
        let Some(found) = given.quoted(name) else { continue };
        let what = if name == "data.train_files" { "prompts" } else { "tests" };
        let part = if domains > 1 { "Take the rows of each domain" } else { "Take the rows" };
        draft.note(format!(
            "{name} is {found}. {part}: `{what}` reads parquet and JSON lines with a `prompt`."
        ));
    }
    let limit = given.number("data.max_prompt_length");
    if let Some(limit) = limit {
        let why = "a prompt has room for what the model's context leaves";
        draft.leave(format!("data.max_prompt_length = {limit}"), why);
    }
}

fn rewards(given: &GivenSettings, draft: &mut Draft) {
    let paths = ["reward.custom_reward_function", "custom_reward_function"];
    let path = paths.iter().find_map(|path| given.text(&format!("{path}.path")));
    let function = paths.iter().find_map(|path| given.text(&format!("{path}.name")));
    match path {
        Some(path) => {
            let function = function.unwrap_or_else(|| "compute_score".to_owned());
            draft.note(format!(
                "The reward is {function} of {path}: `reward = python(\"{path}:score\")` calls a function of \
                 lists."
            ));
        }
        None => draft.note("verl's own rewards go by `data_source`; here a domain names its reward."),
    }
}

const MINI_BATCH: &str = "actor_rollout_ref.actor.ppo_mini_batch_size";

/// How verl uses a batch.
struct BatchUse {
    prompts: f64,
    /// Prompts of a mini-batch.
    mini: f64,
    epochs: f64,
}

impl BatchUse {
    /// `count` is the number of a setting, or else the usual one.
    fn new(mut count: impl FnMut(&str, f64) -> f64) -> BatchUse {
        BatchUse {
            prompts: count("data.train_batch_size", 1024.0),
            mini: count(MINI_BATCH, 256.0),
            epochs: count(&format!("{ACTOR}.ppo_epochs"), 1.0),
        }
    }

    fn mini_batches(&self) -> f64 {
        (self.prompts / self.mini).ceil().max(1.0)
    }

    fn updates(&self) -> f64 {
        self.mini_batches() * self.epochs
    }
}

/// The updates from each batch of prompts. Numbers that are no counts are reported where steps are written.
fn updates(settings: &Settings) -> f64 {
    let (takes, _) = COUNT;
    let count =
        |path: &str, usual| Some(settings.number(path)).filter(|number| takes(*number)).unwrap_or(usual);
    BatchUse::new(count).updates()
}

fn steps(settings: &Settings, samples: f64, draft: &mut Draft) {
    let count =
        |path: &str, usual: f64, draft: &mut Draft| draft.within(path, settings.number(path), usual, COUNT);
    let batch = BatchUse::new(|path, usual| count(path, usual, draft));
    let (parts, updates) = (batch.mini_batches(), batch.updates());
    let BatchUse { prompts, mini, epochs } = batch;
    draft.set("prompts", format!("{prompts}"));
    if parts > 1.0 {
        let whose = if settings.given.setting(MINI_BATCH).is_some() { "" } else { " (verl's default)" };
        draft.note(format!(
            "{MINI_BATCH} = {mini}{whose}: {parts} mini-batches. verl divides a batch in the order of its \
             rows, `mini_batches` at random."
        ));
        draft.set("mini_batches", format!("{parts}"));
    }
    if epochs > 1.0 {
        draft.set("passes", format!("{epochs}"));
    }
    let micro = format!("{ACTOR}.ppo_micro_batch_size_per_gpu");
    if let Some(micro) = settings.given.number(&micro)
        && (1.0..(prompts / parts).ceil() * samples).contains(&micro)
    {
        draft.set("micro_batch", format!("{micro}"));
    }
    let total = settings.given.number("trainer.total_training_steps").filter(|steps| *steps >= 1.0);
    if updates > 1.0 {
        draft.note(format!(
            "A step of verl is a batch, a step here is an update: {updates} of them from each batch. verl's \
             learning rate changes after a batch, here after each update."
        ));
    }
    match total {
        Some(steps) => draft.set("steps", format!("{}", steps * updates)),
        None => {
            let epochs = count("trainer.total_epochs", 30.0, draft);
            draft.set("steps", format!("{epochs} epochs"));
        }
    }
    rate(settings, total, updates, draft);
    if settings.flag("actor_rollout_ref.model.enable_gradient_checkpointing") {
        draft.set("checkpointing", "all");
    }
}

/// `updates` of them are made from each batch; verl counts batches.
fn rate(settings: &Settings, total: Option<f64>, updates: f64, draft: &mut Draft) {
    let optim = format!("{ACTOR}.optim");
    let path = format!("{optim}.lr");
    let highest = draft.within(&path, settings.number(&path), 1e-6, RATE);
    let lr = number(highest);
    // The older name overrides the newer one in 0.9.1 too.
    let kind = settings.text(&format!("{optim}.lr_scheduler_type"));
    let kind = settings.given.text(&format!("{optim}.warmup_style")).unwrap_or(kind);
    let after = match kind.as_str() {
        "cosine" => {
            let least = settings.number(&format!("{optim}.min_lr_ratio"));
            format!("cosine({lr} -> {})", number(highest * least))
        }
        "constant" => lr,
        other => {
            draft.leave(format!("{optim}.lr_scheduler_type = {other}"), "written as a constant");
            lr
        }
    };
    let steps = settings.number(&format!("{optim}.lr_warmup_steps"));
    let ratio = settings.given.number(&format!("{optim}.lr_warmup_steps_ratio")).filter(|ratio| *ratio > 0.0);
    // Steps come before a share, which verl rounds down.
    let warmup = match (ratio, total) {
        _ if steps > 0.0 => steps,
        (Some(ratio), Some(total)) => (ratio * total).floor(),
        (Some(ratio), None) => {
            let why = "a share of a run whose steps are not known: write `warmup(N, then: ...)`";
            draft.leave(format!("{optim}.lr_warmup_steps_ratio = {ratio}"), why);
            0.0
        }
        (None, _) => 0.0,
    };
    let warmup = warmup * updates;
    draft.set("lr", if warmup > 0.0 { format!("warmup({warmup}, then: {after})") } else { after });
}

fn optimizer(settings: &Settings, draft: &mut Draft) {
    let optim = format!("{ACTOR}.optim");
    let given = settings.given;
    let betas = given.parsed(&format!("{optim}.betas"), |value| match value.as_array()?.as_slice() {
        [beta1, beta2] => Some((beta1.as_f64()?, beta2.as_f64()?)),
        _ => None,
    });
    let (beta1, beta2) = betas.unwrap_or((0.9, 0.999));
    let beta1 = draft.within(&format!("{optim}.betas[0]"), beta1, 0.9, DECAY);
    let beta2 = draft.within(&format!("{optim}.betas[1]"), beta2, 0.999, DECAY);
    let actor_clip = format!("{ACTOR}.grad_clip");
    if let Some(clip) = given.number(&actor_clip) {
        draft.leave(format!("{actor_clip} = {clip}"), "verl 0.9.1 reads `optim.clip_grad` and not this");
    }
    // `optim.grad_clip` is the older name, and overrides the newer one.
    let older = given.number(&format!("{optim}.grad_clip"));
    let clip_path = format!("{optim}.clip_grad");
    let clip = older.unwrap_or_else(|| settings.number(&clip_path));
    let positive = (RATE.0, "verl would scale every gradient to nothing");
    let clip = draft.within(&clip_path, clip, 1.0, positive);
    let decay_path = format!("{optim}.weight_decay");
    let decay = draft.within(&decay_path, settings.number(&decay_path), 0.01, NOT_NEGATIVE);
    draft.set(
        "optimizer",
        format!(
            "adamw(beta1: {}, beta2: {}, weight_decay: {}, clip_norm: {})",
            number(beta1),
            number(beta2),
            number(decay),
            number(clip)
        ),
    );
}

fn adapter(settings: &Settings, draft: &mut Draft) {
    let model = "actor_rollout_ref.model";
    let rank = settings.number(&format!("{model}.lora_rank"));
    if rank > 0.0 {
        let rank = draft.within(&format!("{model}.lora_rank"), rank, 16.0, COUNT);
        let alpha = settings.number(&format!("{model}.lora_alpha"));
        let modules = format!("{model}.target_modules");
        let all = "[attention, feed_forward]".to_owned();
        let given = settings.given.texts(&modules);
        let targets = given.as_deref().and_then(targets).unwrap_or_else(|| {
            if let Some(setting) = settings.given.setting(&modules) {
                settings.given.answered(&modules);
                draft.leave(setting.text(), format!("written as {all}: `targets` names the matrices"));
            }
            all.clone()
        });
        draft.set("adapter", format!("lora(rank: {rank}, alpha: {}, targets: {targets})", number(alpha)));
    }
}

/// Why a setting has no counterpart, by its path.
pub fn reason(path: &str) -> &'static str {
    let begins = |starts: &[&str]| starts.iter().any(|start| path.starts_with(start));
    let has = |parts: &[&str]| parts.iter().any(|part| path.contains(part));
    match path {
        _ if has(&[
            "gpu_memory",
            "tensor_model_parallel",
            "offload",
            "num_replicas",
            "n_gpus",
            "nnodes",
            "world_size",
        ]) || has(&[
            ".fsdp",
            "sequence_parallel",
            "micro_batch",
            "max_token_len",
            "dynamic_bsz",
            "chunked",
            "engine_kwargs",
        ]) || has(&[
            "remove_padding",
            "enforce_eager",
            "free_cache",
            "max_num_",
            "max_model_len",
            "load_format",
            "strategy",
        ]) || begins(&["ray_kwargs", "transfer_queue", "global_profiler"])
            || has(&[".inference."]) =>
        {
            "how the engine computes, and on what"
        }
        _ if begins(&["trainer."]) => "how a run is kept and reported: `mopd run --help`",
        _ if begins(&["critic."]) => "there is no critic in distillation; `std.ppo` has one",
        _ if begins(&["data.apply_chat_template_kwargs"]) => TEMPLATE_VARIABLES,
        _ if begins(&["data.filter_overlong_prompts", "data.max_prompt_length"]) => {
            "rows with longer prompts are left out by `max_prompt_tokens` of `dataset(...)`"
        }
        _ if begins(&["data."]) => "how rows are read: `prompts`, `fields`, `filter` of a domain",
        _ if begins(&["algorithm."]) => "of a policy gradient on rewards: `std.rl`",
        _ if begins(&["reward"]) => "a domain names its reward",
        _ if has(&["val_kwargs"]) => "tables are a `compare`",
        _ if has(&["entropy_coeff"]) => {
            "a term of its own; verl's entropy is at the temperature of the rollout, `student.entropy` at 1"
        }
        _ if path.ends_with(".clip_ratio") => {
            "verl reads `clip_ratio_low` and `clip_ratio_high`, which have defaults of their own"
        }
        _ if has(&["clip_ratio", "kl_loss", "ppo_"]) => "of a policy gradient on rewards: `std.rl`",
        _ => "mopd has no such setting",
    }
}
