//! TRL 1.16.0: `DistillationConfig`, `AsyncDistillationConfig`, `GKDConfig`.

use mopd_compiler::export::schema::{TRL, fields};
use serde_json::Value;

use super::draft::{
    COUNT, DECAY, DIVISOR, Draft, EPSILON, FRACTION, NO_CLIP, NOT_NEGATIVE, ORIGIN, POSITIVE, PROBABILITY,
    RATE, SEED, TEMPERATURE, TEMPLATE_VARIABLES, number, origin, quoted, targets, word,
};
use super::given::GivenSettings;

/// A configuration with the defaults of its class.
struct Settings<'a> {
    given: &'a GivenSettings,
    defaults: &'a serde_json::Map<String, Value>,
}

impl Settings<'_> {
    fn number(&self, name: &str) -> f64 {
        let default = || self.defaults.get(name).and_then(|field| field["default"].as_f64());
        self.given.number(name).or_else(default).unwrap_or(0.0)
    }

    fn optional(&self, name: &str) -> Option<f64> {
        let default = || self.defaults.get(name).and_then(|field| field["default"].as_f64());
        self.given.number(name).or_else(default)
    }

    fn text(&self, name: &str) -> String {
        let default =
            || self.defaults.get(name).and_then(|field| field["default"].as_str()).map(str::to_owned);
        self.given.text(name).or_else(default).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> bool {
        let default = || self.defaults.get(name).and_then(|field| field["default"].as_bool());
        self.given.flag(name).or_else(default).unwrap_or(false)
    }
}

fn path_of(class: &str) -> String {
    let known = TRL["classes"].as_object().expect("classes were recorded").keys();
    let found = known.into_iter().find(|path| path.rsplit('.').next() == Some(class));
    found.expect("the class was recorded").clone()
}

/// The engine's default of a setting.
pub fn default(class: &str, name: &str) -> Option<&'static Value> {
    fields(&TRL, &path_of(class)).get(name).map(|field| &field["default"])
}

pub fn draft(given: &GivenSettings, class: &str) -> Draft {
    let path = path_of(class);
    let settings = Settings { given, defaults: fields(&TRL, &path) };
    let mut draft = Draft {
        from: format!("a `{class}` of TRL 1.16.0"),
        name: given.text("run_name").unwrap_or_else(|| "imported".to_owned()),
        ..Draft::default()
    };
    let seed = draft.within("seed", settings.number("seed"), 42.0, SEED);
    draft.settings.push(format!("seed = {seed}"));
    // What is not said is bfloat16, unless float16 is.
    let bf16 = given.flag("bf16").unwrap_or(!settings.flag("fp16"));
    if bf16 {
        draft.settings.push("dtype = bfloat16".to_owned());
    }
    start(given, &mut draft);
    let is_async = class == "AsyncDistillationConfig";
    teachers(given, is_async, &mut draft);
    let drawn_at = draft.within("temperature", settings.number("temperature"), 1.0, TEMPERATURE);
    rollout(&settings, class, drawn_at, &mut draft);
    objective(&settings, class, drawn_at, &mut draft);
    steps(&settings, &mut draft);
    optimizer(&settings, &mut draft);
    adapter(given, &mut draft);
    draft.recipe = "distill(start)".to_owned();
    draft
}

fn start(given: &GivenSettings, draft: &mut Draft) {
    let names = ["model_revision", "student_model_revision", "model_init_kwargs.revision"];
    let revision = names.iter().find_map(|name| given.text(name));
    let revision = revision.map(|revision| format!(", revision: {}", quoted(&revision))).unwrap_or_default();
    match given.text("model_name_or_path") {
        Some(model) => draft.models.push(format!("model start = hf({}{revision})", quoted(&model))),
        None => {
            draft.note("The student is not named in the configuration: put its folder or name in `start`.");
            draft.models.push("model start = hf(\"student\")".to_owned());
        }
    }
}

fn teachers(given: &GivenSettings, is_async: bool, draft: &mut Draft) {
    let dataset = given.text("dataset_name");
    if let Some(dataset) = &dataset {
        draft.note(format!(
            "The prompts are those of the dataset {dataset}: download it, and name its folder or file."
        ));
    } else {
        draft.note("The prompts come from the training script: write a file of JSON lines with `prompt`.");
    }
    draft.note("A domain has a reward, which is reported; no term here trains on it.");
    let domain = |name: &str, file: &str| {
        format!("domain {name} {{ prompts = {}, reward = exact_match, format = chat }}", quoted(file))
    };
    let names = if is_async { given.below("teacher_server_urls") } else { Vec::new() };
    if names.len() > 1 {
        let mut taken = Vec::new();
        for name in &names {
            let url = given.text(&format!("teacher_server_urls.{name}")).unwrap_or_default();
            let own = word(name, &taken);
            draft.note(format!(
                "Rows whose `teacher_id` is {name} are the domain `{own}`; its teacher is served at {url}."
            ));
            draft.domains.push(domain(&own, &format!("{own}.jsonl")));
            draft
                .teachers
                .push(format!("teacher {own}_teacher = hf(\"models/{own}\") {{ origin = foreign }}"));
            draft.arms.push(format!("domain == {own} -> {own}_teacher"));
            taken.push(own);
        }
        draft.note(ORIGIN);
        return;
    }
    if let [only] = names.as_slice() {
        let url = given.text(&format!("teacher_server_urls.{only}")).unwrap_or_default();
        draft.note(format!("The teacher is served at {url}: put its folder or name in `large`."));
    }
    draft.domains.push(domain("prompts_of_all", "prompts.jsonl"));
    let names_of_revision = ["teacher_model_revision", "teacher_model_init_kwargs.revision"];
    let revision = names_of_revision.iter().find_map(|name| given.text(name));
    let revision = revision.map(|revision| format!(", revision: {}", quoted(&revision))).unwrap_or_default();
    let model = given.text("teacher_model_name_or_path").unwrap_or_else(|| {
        if names.is_empty() {
            draft
                .notes
                .push("The teacher is not named in the configuration: put its name in `large`.".to_owned());
        }
        "teacher".to_owned()
    });
    let origin = origin(given.text("model_name_or_path"), &model);
    draft.teachers.push(format!("teacher large = hf({}{revision}) {{ origin = {origin} }}", quoted(&model)));
    draft.note(ORIGIN);
    draft.arms.push("else -> large".to_owned());
}

fn rollout(settings: &Settings, class: &str, drawn_at: f64, draft: &mut Draft) {
    let gkd = class == "GKDConfig";
    let limit = if gkd { "max_new_tokens" } else { "max_completion_length" };
    let most = draft.within(limit, settings.number(limit), 512.0, COUNT);
    let mut sample = format!("n: 1, temperature: {}, max_tokens: {most}", number(drawn_at));
    if let Some(top_p) = settings.optional("top_p").filter(|top_p| *top_p < 1.0) {
        let top_p = draft.within("top_p", top_p, 1.0, PROBABILITY);
        sample += &format!(", top_p: {top_p}");
    }
    if let Some(penalty) = settings.optional("repetition_penalty").filter(|penalty| *penalty != 1.0) {
        let penalty = draft.within("repetition_penalty", penalty, 1.0, POSITIVE);
        sample += &format!(", repetition_penalty: {penalty}");
    }
    if let Some(top_k) = settings.optional("top_k").filter(|top_k| *top_k > 0.0) {
        sample += &format!(", top_k: {top_k}");
    }
    let sample = format!("sample({sample})");
    if !gkd {
        draft.set("rollout", sample);
        return;
    }
    let share = settings.number("lmbda").max(0.0);
    if settings.flag("seq_kd") {
        draft.leave("seq_kd = true", "what the teacher writes is `from(teacher, ...)`, a rollout of its own");
    }
    if share >= 1.0 {
        draft.set("rollout", sample);
    } else {
        draft.note("The completions of the data are in the field `answer`.");
        draft.note("GKD chooses between both once for each micro-batch; `mix` once for each prompt.");
        draft.set("rollout", format!("mix({}, {sample}, data(answer))", number(share)));
    }
}

/// What the divergence is taken over: `_narrow_top1_actual_support` of TRL's asynchronous trainer.
fn support(settings: &Settings, beta: f64, draft: &mut Draft) -> String {
    let entries = if beta == 0.0 {
        // A server's `prompt_logprobs` lists the token taken beside the most probable ones.
        let k = draft.within("teacher_top_k", settings.number("teacher_top_k"), 8.0, COUNT);
        format!("union(top_k(teacher, {k}), sampled)")
    } else if beta == 1.0 {
        "sampled".to_owned()
    } else {
        draft.note(
            "Of `beta` between 0 and 1 TRL compares two entries: the teacher's first and the token taken.",
        );
        "union(top_k(teacher, 1), sampled)".to_owned()
    };
    if beta != 0.0 {
        let why =
            "with `beta` other than 0 TRL compares the teacher's first entry and the token taken, at most";
        if let Some(k) = settings.given.number("teacher_top_k") {
            draft.leave(format!("teacher_top_k = {k}"), why);
        }
    }
    let mass = if settings.flag("add_tail_bucket") {
        "tail"
    } else if beta == 1.0 {
        let why = "TRL renormalises over the token taken alone, where both sides are 1 and nothing \
                   is learnt; written with the tail";
        draft.leave("add_tail_bucket = false", why);
        "tail"
    } else {
        draft.note("Without a tail bucket both sides are renormalised over these entries.");
        "renormalized"
    };
    format!(", support: {entries}, mass: {mass}")
}

fn objective(settings: &Settings, class: &str, drawn_at: f64, draft: &mut Draft) {
    let default = settings.defaults["beta"]["default"].as_f64().unwrap_or(0.0);
    let beta = draft.within("beta", settings.number("beta"), default, FRACTION);
    let is_async = class == "AsyncDistillationConfig";
    // Of the divergence; TRL divides the logits of both sides by it.
    let temperature = match class {
        "AsyncDistillationConfig" => {
            draft.within("teacher_temperature", settings.number("teacher_temperature"), 1.0, DIVISOR)
        }
        // `GKDTrainer.compute_loss` passes none on: `temperature` is of the sampling alone.
        "GKDConfig" => 1.0,
        _ => drawn_at,
    };
    let temperature =
        if temperature == 1.0 { String::new() } else { format!(", temperature: {}", number(temperature)) };
    let support = if is_async { support(settings, beta, draft) } else { String::new() };
    let divergence = if beta == 0.0 {
        format!("kl(teacher || student{support}{temperature})")
    } else if beta == 1.0 {
        format!("kl(student || teacher{support}{temperature})")
    } else {
        format!("jsd(teacher, student, beta: {}{support}{temperature})", number(beta))
    };
    if class == "GKDConfig" {
        draft.note(
            "GKD divides by the tokens that the data's completions have in the whole step, whoever wrote \
             those that it trains on (`num_items_in_batch`); here it is the tokens that are trained.",
        );
    }
    draft.objective.push(format!(
        "objective pull {{\nterm distill = live {divergence}\nreduce = mean(token, over: batch)\n}}"
    ));
    draft.stage.insert(0, ("objective".to_owned(), "pull".to_owned()));
}

fn steps(settings: &Settings, draft: &mut Draft) {
    let mut count = |name: &str, usual: f64| draft.within(name, settings.number(name), usual, COUNT);
    let rows = count("per_device_train_batch_size", 8.0);
    let all = rows * count("gradient_accumulation_steps", 1.0);
    draft.note(format!(
        "A step is {all} prompts on one device; with more devices, `prompts` is that many times more."
    ));
    let gkd = draft.stage.iter().any(|(_, value)| value.starts_with("mix"));
    draft.set(if gkd { "batch" } else { "prompts" }, format!("{all}"));
    if rows < all {
        draft.set("micro_batch", format!("{rows}"));
    }
    let steps = settings.optional("max_steps").filter(|steps| *steps > 0.0);
    let steps = steps.map(|steps| draft.within("max_steps", steps, steps.ceil(), COUNT));
    match steps {
        Some(steps) => draft.set("steps", format!("{steps}")),
        None => {
            let epochs = settings.number("num_train_epochs").max(0.0);
            if epochs.fract() != 0.0 {
                draft.leave(format!("num_train_epochs = {epochs}"), "epochs are whole here: rounded up");
            }
            draft.set("steps", format!("{} epochs", epochs.ceil().max(1.0)));
        }
    }
    rate(settings, steps, draft);
    if settings.flag("gradient_checkpointing") {
        draft.set("checkpointing", "all");
    }
}

fn rate(settings: &Settings, steps: Option<f64>, draft: &mut Draft) {
    let default = settings.defaults["learning_rate"]["default"].as_f64().unwrap_or(1e-6);
    let lr = number(draft.within("learning_rate", settings.number("learning_rate"), default, RATE));
    let kind = settings.text("lr_scheduler_type");
    let after = match kind.as_str() {
        "linear" => format!("linear({lr} -> 0)"),
        "cosine" => format!("cosine({lr} -> 0)"),
        "constant" | "constant_with_warmup" => lr,
        other => {
            draft.leave(format!("lr_scheduler_type = {other}"), "written as a constant: choose a schedule");
            lr
        }
    };
    let ratio = settings.optional("warmup_ratio").filter(|ratio| *ratio > 0.0);
    if kind == "constant" {
        for name in ["warmup_steps", "warmup_ratio"] {
            if let Some(given) = settings.given.number(name).filter(|given| *given > 0.0) {
                let why = "the scheduler `constant` has no warm-up: that is `constant_with_warmup`";
                draft.leave(format!("{name} = {given}"), why);
            }
        }
        draft.set("lr", after);
        return;
    }
    let warmup = match (settings.optional("warmup_steps").filter(|steps| *steps > 0.0), ratio, steps) {
        // Below 1 it is a share of the run.
        (Some(share), _, Some(steps)) if share < 1.0 => Some((share * steps).ceil()),
        (Some(count), _, _) if count >= 1.0 => Some(count),
        (_, Some(ratio), Some(steps)) => Some((ratio * steps).ceil()),
        (None, None, _) => None,
        _ => {
            draft.leave("warmup", "a share of a run whose steps are not known: write `warmup(N, then: ...)`");
            None
        }
    };
    // Its first step has the rate 0 in TRL, and 1 / (N + 1) of it here.
    match warmup {
        Some(count) => draft.set("lr", format!("warmup({count}, then: {after})")),
        None => draft.set("lr", after),
    }
}

fn optimizer(settings: &Settings, draft: &mut Draft) {
    let name = settings.text("optim");
    if !name.is_empty() && !name.starts_with("adamw") {
        draft.leave(format!("optim = {name}"), "mopd has adamw and sgd: written as adamw");
    } else if name.contains("bit") {
        draft.leave(format!("optim = {name}"), "written as adamw with moments in single precision");
    }
    let beta1 = draft.within("adam_beta1", settings.number("adam_beta1"), 0.9, DECAY);
    let beta2 = draft.within("adam_beta2", settings.number("adam_beta2"), 0.999, DECAY);
    let epsilon = draft.within("adam_epsilon", settings.number("adam_epsilon"), 1e-8, EPSILON);
    let decay = draft.within("weight_decay", settings.number("weight_decay"), 0.0, NOT_NEGATIVE);
    let norm = settings.number("max_grad_norm");
    let clip = if settings.given.is_null("max_grad_norm") || norm <= 0.0 {
        draft.note(format!("Gradients are not clipped in TRL: a norm of {NO_CLIP} is never reached."));
        NO_CLIP.to_owned()
    } else {
        number(norm)
    };
    draft.set(
        "optimizer",
        format!(
            "adamw(beta1: {}, beta2: {}, epsilon: {}, weight_decay: {}, clip_norm: {clip})",
            number(beta1),
            number(beta2),
            number(epsilon),
            number(decay),
        ),
    );
}

/// Of a script's `use_peft`, with TRL's defaults, or of the trainer's `peft_config`, with peft's own.
fn adapter(given: &GivenSettings, draft: &mut Draft) {
    let of_trainer = given.text("peft_config.kind").is_some();
    let none = given.is_null("peft_config") || !of_trainer;
    if none && given.flag("use_peft") != Some(true) {
        return;
    }
    let (rank, alpha, dropout, start) =
        if of_trainer { (8.0, 8.0, 0.0, "peft_config.") } else { (16.0, 32.0, 0.05, "") };
    let name = |own: &str, of_script: &str| match of_trainer {
        true => format!("{start}{own}"),
        false => of_script.to_owned(),
    };
    let rank_name = name("r", "lora_r");
    let given_rank = given.number(&rank_name).unwrap_or(rank);
    let rank = draft.within(&rank_name, given_rank, rank, COUNT);
    let mut alpha = given.number(&name("lora_alpha", "lora_alpha")).unwrap_or(alpha);
    let dropout_name = name("lora_dropout", "lora_dropout");
    let dropout = given.number(&dropout_name).unwrap_or(dropout);
    if dropout != 0.0 {
        draft.leave(format!("{dropout_name} = {}", number(dropout)), "mopd trains adapters without dropout");
    }
    let kind = if given.flag(&name("use_dora", "use_dora")) == Some(true) { "dora" } else { "lora" };
    if given.flag(&name("use_rslora", "use_rslora")) == Some(true) {
        draft.note(
            "rsLoRA scales by alpha / sqrt(rank) and `lora` by alpha / rank: alpha is sqrt(rank) times more.",
        );
        alpha *= rank.sqrt();
    }
    let modules = name("target_modules", "lora_target_modules");
    let found = given.texts(&modules);
    let targets = match found.as_deref().and_then(targets) {
        Some(targets) => targets,
        None => {
            let default = "[query, value]";
            match given.setting(&modules).filter(|setting| !setting.is_null()) {
                Some(setting) => {
                    given.answered(&modules);
                    let why = format!("written as {default}: `targets` names the matrices");
                    draft.leave(setting.text(), why);
                }
                None => draft.note(
                    "peft's own choice of matrices for Llama, Qwen, Gemma and Mistral is `q_proj` and \
                     `v_proj`; other architectures have others.",
                ),
            }
            default.to_owned()
        }
    };
    let alpha = number(alpha);
    draft.set("adapter", format!("{kind}(rank: {rank}, alpha: {alpha}, targets: {targets})"));
}

/// Why a setting has no counterpart, by its name.
pub fn reason(name: &str) -> &'static str {
    let begins = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    match name {
        _ if begins(&[
            "vllm_",
            "use_vllm",
            "ds3_",
            "deepspeed",
            "fsdp",
            "ddp_",
            "dataloader_",
            "parallelism",
        ]) =>
        {
            "how the engine computes, which changes no result that is meant"
        }
        _ if begins(&[
            "push_to_hub",
            "hub_",
            "report_to",
            "logging_",
            "log_",
            "run_name",
            "disable_tqdm",
        ]) =>
        {
            "what is reported; see `mopd run --tracker` and `mopd report`"
        }
        _ if begins(&["save_", "output_dir", "resume_", "overwrite_", "load_best"]) => {
            "results and checkpoints are kept by mopd: `--out`, `--checkpoint-every`"
        }
        _ if begins(&["eval_", "do_eval", "per_device_eval", "metric_for", "evaluation_"]) => {
            "tables are a `compare`, and `mopd eval` judges models"
        }
        _ if begins(&["dataset_", "streaming"]) => {
            "which rows there are: `prompts` of a domain, with `split` and `limit`"
        }
        _ if begins(&[
            "max_staleness",
            "max_inflight",
            "queue_",
            "weight_sync",
            "token_budget",
            "request_timeout",
            "heartbeat",
        ]) =>
        {
            "every step trains on what its own weights wrote"
        }
        "num_completions_to_print" => "what is reported; see `mopd report`",
        "peft_config" => "what adapter the trainer makes could not be read: written as training all weights",
        "train_dataset" | "eval_dataset" => "name the files of a domain: `prompts`, `tests`",
        "model" | "teacher_model" => "a model that the program makes: name its folder in the experiment",
        "processing_class" | "data_collator" | "formatting_func" => {
            "a model's own tokenizer and chat template are used: `format` of a domain"
        }
        "callbacks" | "compute_metrics" | "preprocess_logits_for_metrics" => {
            "what is reported; see `mopd report`"
        }
        _ if begins(&["chat_template_kwargs"]) => TEMPLATE_VARIABLES,
        "optimizers" => "an optimizer of the program: see `optimizer` and `lr`",
        "quantization_config" => "how models are loaded: `dtype` of the experiment",
        _ if name.starts_with('*') || name.starts_with("argument ") => {
            "could not be read; whatever it sets is written as the engine's default"
        }
        _ if begins(&["lora_", "peft_config."]) => {
            "of an adapter: `use_peft` makes one, `adapter` says what it has"
        }
        "min_p" => "tokens are drawn from another distribution; mopd has `top_p` and `top_k`",
        _ if begins(&[
            "gradient_checkpointing_kwargs",
            "model_init_kwargs",
            "teacher_model_init_kwargs",
            "torch_dtype",
            "dtype",
        ]) =>
        {
            "how models are loaded: `dtype` of the experiment"
        }
        "remove_unused_columns" | "shuffle_dataset" | "disable_dropout" | "data_seed" => {
            "prompts come shuffled, and models have no dropout"
        }
        _ => "mopd has no such setting",
    }
}
