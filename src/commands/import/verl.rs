//! verl 0.9.1: a YAML file, or the overrides of a launch script.

use mopd_compiler::export::schema::VERL;
use serde_json::Value;

use super::draft::{Draft, number, quoted, word};
use super::given::GivenSettings;

/// A configuration with verl's own defaults.
struct Settings<'a> {
    given: &'a GivenSettings,
}

impl Settings<'_> {
    /// The default; none where it is written in terms of others.
    fn default(path: &str) -> &'static Value {
        path.split('.').fold(&VERL["defaults"], |at, part| &at[part])
    }

    fn number(&self, path: &str) -> f64 {
        self.given.number(path).or(Settings::default(path).as_f64()).unwrap_or(0.0)
    }

    fn text(&self, path: &str) -> String {
        let default = || Settings::default(path).as_str().map(str::to_owned);
        self.given.text(path).or_else(default).unwrap_or_default()
    }

    fn flag(&self, path: &str) -> bool {
        self.given.flag(path).or(Settings::default(path).as_bool()).unwrap_or(false)
    }
}

const LOSS: &str = "distillation.distillation_loss";
const ACTOR: &str = "actor_rollout_ref.actor";
const ROLLOUT: &str = "actor_rollout_ref.rollout";

pub fn draft(given: &GivenSettings) -> Draft {
    let settings = Settings { given };
    let name = given.text("trainer.experiment_name").unwrap_or_else(|| "imported".to_owned());
    let mut draft = Draft { from: "a configuration of verl 0.9.1".to_owned(), name, ..Draft::default() };
    let seed = given.number("data.seed").unwrap_or(1.0);
    draft.settings.push(format!("seed = {seed}"));
    if settings.text(&format!("{ROLLOUT}.dtype")) == "bfloat16" {
        draft.settings.push("dtype = bfloat16".to_owned());
    }
    let model = settings.text("actor_rollout_ref.model.path");
    draft.models.push(format!("model start = hf({})", quoted(&model)));
    let distils = settings.flag("distillation.enabled");
    let teachers = if distils { teachers(given, &mut draft) } else { domains(given, &mut draft) };
    files(given, teachers, &mut draft);
    rewards(given, &mut draft);
    if distils {
        objective(&settings, &mut draft);
        draft.recipe = "distill(start)".to_owned();
    } else {
        grpo(&settings, &mut draft);
        draft.recipe = "grpo(start, on: domains)".to_owned();
    }
    let temperature = settings.number(&format!("{ROLLOUT}.temperature"));
    let samples = settings.number(&format!("{ROLLOUT}.n"));
    let length = given
        .number("data.max_response_length")
        .or(given.number(&format!("{ROLLOUT}.response_length")))
        .unwrap_or_else(|| settings.number("data.max_response_length"));
    let mut sample = format!("n: {samples}, temperature: {}, max_tokens: {length}", number(temperature));
    if let Some(top_p) = given.number(&format!("{ROLLOUT}.top_p")).filter(|top_p| *top_p < 1.0) {
        sample += &format!(", top_p: {top_p}");
    }
    if let Some(top_k) = given.number(&format!("{ROLLOUT}.top_k")).filter(|top_k| *top_k > 0.0) {
        sample += &format!(", top_k: {top_k}");
    }
    if distils {
        draft.set("rollout", format!("sample({sample})"));
    } else {
        draft.set("samples", format!("{samples}"));
        draft.set("temperature", number(temperature));
        draft.set("max_tokens", format!("{length}"));
    }
    steps(&settings, samples, &mut draft);
    optimizer(&settings, &mut draft);
    adapter(&settings, &mut draft);
    draft
}

/// One domain for each teacher's key.
fn teachers(given: &GivenSettings, draft: &mut Draft) -> usize {
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
                given.get(&setting.path);
                draft.leave(setting.text(), "verl drops this entry where there are others");
            }
        }
    }
    let path = |entry: &str| given.text(&format!("{models}.{entry}.model_path"));
    if entries.len() < 2 {
        let entry = entries.first().map_or("teacher_model", String::as_str);
        let model = path(entry).unwrap_or_else(|| "teacher".to_owned());
        given.get(&format!("{models}.{entry}.key"));
        draft.domains.push(domain("prompts_of_all", "prompts.jsonl"));
        draft.teachers.push(format!("teacher large = hf({}) {{ origin = same }}", quoted(&model)));
        draft.arms.push("else -> large".to_owned());
        draft
            .note("`origin` says whether a teacher descends from the student's model: `same`, or `foreign`.");
        return 1;
    }
    let mut taken = Vec::new();
    for entry in &entries {
        let routed = given.text(&format!("{models}.{entry}.key")).unwrap_or_else(|| entry.clone());
        let own = word(&routed, &taken);
        draft.note(format!("Rows whose `{key}` is {routed} are the domain `{own}`."));
        draft.domains.push(domain(&own, &format!("{own}.jsonl")));
        let model = path(entry).unwrap_or_else(|| "teacher".to_owned());
        draft.teachers.push(format!("teacher {own}_teacher = hf({}) {{ origin = same }}", quoted(&model)));
        draft.arms.push(format!("domain == {own} -> {own}_teacher"));
        taken.push(own);
    }
    draft.note("`origin` says whether a teacher descends from the student's model: `same`, or `foreign`.");
    taken.len()
}

fn domains(given: &GivenSettings, draft: &mut Draft) -> usize {
    let _ = given;
    draft.domains.push(domain("prompts_of_all", "prompts.jsonl"));
    1
}

fn domain(name: &str, file: &str) -> String {
    format!("domain {name} {{ prompts = {}, reward = exact_match, format = chat }}", quoted(file))
}

fn files(given: &GivenSettings, domains: usize, draft: &mut Draft) {
    for name in ["data.train_files", "data.val_files"] {
        let found = match given.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => continue,
        };
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
                "The reward is {function} of {path}: `reward = python(\"{path}:score\")` calls a function of lists."
            ));
        }
        None => draft.note("verl's own rewards go by `data_source`; here a domain names its reward."),
    }
}

fn reduce(settings: &Settings, draft: &mut Draft) -> &'static str {
    match settings.text(&format!("{ACTOR}.loss_agg_mode")).as_str() {
        "token-mean" => "mean(token, over: batch)",
        "seq-mean-token-mean" => "mean(token) then mean(sequence)",
        "seq-mean-token-sum" => "sum(token) then mean(sequence)",
        "token-sum" => "sum(token, over: batch)",
        other => {
            let why = "written as the mean over tokens: see `reduce`";
            draft.leave(format!("{ACTOR}.loss_agg_mode = {other}"), why);
            "mean(token, over: batch)"
        }
    }
}

fn objective(settings: &Settings, draft: &mut Draft) {
    let of = |name: &str| format!("{LOSS}.{name}");
    let mode = settings.text(&of("loss_mode"));
    let as_reward = settings.flag(&of("use_policy_gradient"));
    let reduce = reduce(settings, draft);
    let bound = settings.given.number(&of("loss_max_clamp"));
    let clipped = |text: &str| match bound {
        Some(bound) => format!("clip({text}, -{0}, {0})", number(bound)),
        None => text.to_owned(),
    };
    if settings.flag(&of("use_task_rewards")) {
        let coefficient = settings.number(&of("distillation_loss_coef"));
        draft.leave(
            format!("{} = true, distillation_loss_coef = {coefficient}", of("use_task_rewards")),
            "a policy gradient on rewards is a term of its own: `std.rl` has its forms",
        );
    }
    if let Some(least) = settings.given.number(&of("log_prob_min_clamp")) {
        let why = "log-probabilities have no bound; `clip` bounds their difference";
        draft.leave(format!("{} = {least}", of("log_prob_min_clamp")), why);
    }
    let gap = "teacher.logp - student.logp";
    let term = match (mode.as_str(), as_reward) {
        ("forward_kl_topk", false) => {
            let k = settings.number(&of("topk"));
            draft.note("verl sets a partial sum below 0 to 0, which deletes its gradient; `mass: tail` is never below 0.");
            if bound.is_some() {
                let why = "a divergence over part of the entries has no bound of its own here: `clip_each` is one of each entry";
                draft.leave(format!("{} = {}", of("loss_max_clamp"), bound.unwrap_or(0.0)), why);
            }
            format!("term distill = live kl(teacher || student, support: top_k(teacher, {k}), mass: tail)")
        }
        ("forward_kl_topk", true) => {
            draft.note(
                "As a reward, a divergence over entries does not depend on the token taken, so that its mean gradient \
                 is 0; it is differentiated here.",
            );
            let k = settings.number(&of("topk"));
            format!("term distill = live kl(teacher || student, support: top_k(teacher, {k}), mass: tail)")
        }
        ("k1" | "kl", true) => {
            draft.note(
                "Of one update from each batch the ratio to the policy that drew is 1, and PPO's clip does nothing.",
            );
            for name in ["clip_ratio", "clip_ratio_low", "clip_ratio_high"] {
                if let Some(value) = settings.given.number(&of(name)) {
                    draft.leave(
                        format!("{} = {value}", of(name)),
                        "a ratio of 1 is never clipped: `std.estimators.k1_clipped`",
                    );
                }
            }
            format!("let advantage = {}\nterm distill = -advantage * live student.logp", clipped(gap))
        }
        ("k1" | "kl", false) => {
            draft.note(
                "Differentiated directly, the mean gradient of this estimator is 0: it is written as an advantage, \
                 whose gradient is that of KL(student || teacher).",
            );
            format!("let advantage = {}\nterm distill = -advantage * live student.logp", clipped(gap))
        }
        ("k2" | "mse", false) => "term distill = (live student.logp - teacher.logp)^2 / 2".to_owned(),
        ("abs", false) => "term distill = abs(live student.logp - teacher.logp)".to_owned(),
        ("k3" | "low_var_kl", false) => {
            let gap = "teacher.logp - live student.logp";
            format!(
                "// allow(other-gradient): that is what the estimator is\nterm distill = exp({gap}) - 1 - ({gap})"
            )
        }
        (other, as_reward) => {
            let how = if as_reward { "as a reward" } else { "differentiated" };
            draft.leave(
                format!("{} = {other}", of("loss_mode")),
                format!("{how}, it follows no divergence: written as k1"),
            );
            format!("let advantage = {}\nterm distill = -advantage * live student.logp", clipped(gap))
        }
    };
    draft.objective.push(format!("objective pull {{\n{term}\nreduce = {reduce}\n}}"));
    draft.set("objective", "pull");
}

fn grpo(settings: &Settings, draft: &mut Draft) {
    let estimator = settings.text("algorithm.adv_estimator");
    if estimator != "grpo" {
        let why = "written as grpo: `std.rl` and `std.ppo` have others";
        draft.leave(format!("algorithm.adv_estimator = {estimator}"), why);
    }
    let mode = settings.given.text(&format!("{ACTOR}.loss_agg_mode"));
    if let Some(mode) = mode {
        draft.leave(
            format!("{ACTOR}.loss_agg_mode = {mode}"),
            "an objective of its own says it: `std.rl.dapo`",
        );
    }
    if settings.given.flag(&format!("{ACTOR}.use_kl_loss")) == Some(true) {
        let coefficient = settings.number(&format!("{ACTOR}.kl_loss_coef"));
        draft.leave(
            format!("{ACTOR}.use_kl_loss = true, kl_loss_coef = {coefficient}"),
            "`objective = std.kl_penalty.grpo_anchored` with `reference = start`",
        );
    }
}

fn steps(settings: &Settings, samples: f64, draft: &mut Draft) {
    let prompts = settings.number("data.train_batch_size");
    let mini = settings.given.number(&format!("{ACTOR}.ppo_mini_batch_size")).unwrap_or(prompts);
    let epochs = settings.number(&format!("{ACTOR}.ppo_epochs")).max(1.0);
    draft.set("prompts", format!("{prompts}"));
    if mini < prompts {
        let why = "a step is one update from the whole batch; more from each are `passes`";
        draft.leave(format!("{ACTOR}.ppo_mini_batch_size = {mini}"), why);
    }
    if epochs > 1.0 {
        draft.set("passes", format!("{epochs}"));
    }
    let micro = format!("{ACTOR}.ppo_micro_batch_size_per_gpu");
    if let Some(micro) = settings.given.number(&micro)
        && micro < prompts * samples
    {
        draft.set("micro_batch", format!("{micro}"));
    }
    match settings.given.number("trainer.total_training_steps") {
        Some(steps) => draft.set("steps", format!("{steps}")),
        None => draft.set("steps", format!("{} epochs", settings.number("trainer.total_epochs"))),
    }
    let optim = format!("{ACTOR}.optim");
    let lr = number(settings.number(&format!("{optim}.lr")));
    let least = settings.number(&format!("{optim}.min_lr_ratio"));
    let after = match settings.text(&format!("{optim}.lr_scheduler_type")).as_str() {
        "cosine" => format!("cosine({lr} -> {})", number(settings.number(&format!("{optim}.lr")) * least)),
        _ => lr,
    };
    let warmup = settings.number(&format!("{optim}.lr_warmup_steps"));
    if warmup > 0.0 {
        draft.set("lr", format!("warmup({warmup}, then: {after})"));
    } else {
        draft.set("lr", after);
    }
    if let Some(ratio) =
        settings.given.number(&format!("{optim}.lr_warmup_steps_ratio")).filter(|ratio| *ratio > 0.0)
    {
        let why = "a share of a run: write `warmup(N, then: ...)`";
        draft.leave(format!("{optim}.lr_warmup_steps_ratio = {ratio}"), why);
    }
    if settings.flag("actor_rollout_ref.model.enable_gradient_checkpointing") {
        draft.set("checkpointing", "all");
    }
}

fn optimizer(settings: &Settings, draft: &mut Draft) {
    let optim = format!("{ACTOR}.optim");
    let betas = match settings.given.get(&format!("{optim}.betas")) {
        Some(Value::Array(betas)) => betas.iter().filter_map(Value::as_f64).collect(),
        _ => vec![0.9, 0.999],
    };
    let [beta1, beta2] = betas.as_slice() else { return };
    let clip = settings.given.number(&format!("{ACTOR}.grad_clip"));
    let clip = clip.unwrap_or_else(|| settings.number(&format!("{optim}.clip_grad")));
    let decay = settings.number(&format!("{optim}.weight_decay"));
    draft.set(
        "optimizer",
        format!(
            "adamw(beta1: {}, beta2: {}, weight_decay: {}, clip_norm: {})",
            number(*beta1),
            number(*beta2),
            number(decay),
            number(clip)
        ),
    );
}

fn adapter(settings: &Settings, draft: &mut Draft) {
    let model = "actor_rollout_ref.model";
    let rank = settings.number(&format!("{model}.lora_rank"));
    if rank > 0.0 {
        let alpha = settings.number(&format!("{model}.lora_alpha"));
        let targets = "[attention, feed_forward]";
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
        _ if begins(&["data."]) => "how rows are read: `prompts`, `fields`, `filter` of a domain",
        _ if begins(&["algorithm."]) => "of a policy gradient on rewards: `std.rl`",
        _ if begins(&["reward"]) => "a domain names its reward",
        _ if has(&["val_kwargs"]) => "tables are a `compare`",
        _ if has(&["clip_ratio", "entropy_coeff", "kl_loss", "ppo_"]) => {
            "of a policy gradient on rewards: `std.rl`"
        }
        _ => "mopd has no such setting",
    }
}
