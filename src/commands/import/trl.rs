//! TRL 1.16.0: `DistillationConfig`, `AsyncDistillationConfig`, `GKDConfig`.

use mopd_compiler::export::schema::{TRL, fields};
use serde_json::Value;

use super::draft::{Draft, number, quoted, word};
use super::given::{GivenSettings, SourceTool};

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

pub fn draft(given: &GivenSettings) -> Draft {
    let SourceTool::Trl { class } = &given.origin else { unreachable!("the caller has looked") };
    let path = path_of(class);
    let settings = Settings { given, defaults: fields(&TRL, &path) };
    let mut draft = Draft {
        from: format!("a `{class}` of TRL 1.16.0"),
        name: given.text("run_name").unwrap_or_else(|| "imported".to_owned()),
        ..Draft::default()
    };
    draft.settings.push(format!("seed = {}", settings.number("seed")));
    // What is not said is bfloat16, unless float16 is.
    let bf16 = given.flag("bf16").unwrap_or(!settings.flag("fp16"));
    if bf16 {
        draft.settings.push("dtype = bfloat16".to_owned());
    }
    start(given, &mut draft);
    let is_async = class == "AsyncDistillationConfig";
    teachers(given, is_async, &mut draft);
    rollout(&settings, class, &mut draft);
    objective(&settings, class, &mut draft);
    steps(&settings, &mut draft);
    optimizer(&settings, &mut draft);
    adapter(given, &mut draft);
    draft.recipe = "distill(start)".to_owned();
    draft
}

fn start(given: &GivenSettings, draft: &mut Draft) {
    let revision = given.text("model_revision").or_else(|| given.text("student_model_revision"));
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
            draft.teachers.push(format!("teacher {own}_teacher = hf(\"models/{own}\") {{ origin = same }}"));
            draft.arms.push(format!("domain == {own} -> {own}_teacher"));
            taken.push(own);
        }
        return;
    }
    if let [only] = names.as_slice() {
        let url = given.text(&format!("teacher_server_urls.{only}")).unwrap_or_default();
        draft.note(format!("The teacher is served at {url}: put its folder or name in `large`."));
    }
    draft.domains.push(domain("prompts_of_all", "prompts.jsonl"));
    let revision = given.text("teacher_model_revision");
    let revision = revision.map(|revision| format!(", revision: {}", quoted(&revision))).unwrap_or_default();
    let model = given.text("teacher_model_name_or_path").unwrap_or_else(|| {
        if names.is_empty() {
            draft
                .notes
                .push("The teacher is not named in the configuration: put its name in `large`.".to_owned());
        }
        "teacher".to_owned()
    });
    draft.teachers.push(format!("teacher large = hf({}{revision}) {{ origin = same }}", quoted(&model)));
    draft.note("`origin` says whether a teacher descends from the student's model: `same`, or `foreign`.");
    draft.arms.push("else -> large".to_owned());
}

fn rollout(settings: &Settings, class: &str, draft: &mut Draft) {
    let gkd = class == "GKDConfig";
    let limit = if gkd { "max_new_tokens" } else { "max_completion_length" };
    let mut sample = format!("n: 1, temperature: {}", number(settings.number("temperature")));
    sample += &format!(", max_tokens: {}", settings.number(limit));
    if let Some(top_p) = settings.optional("top_p").filter(|top_p| *top_p < 1.0) {
        sample += &format!(", top_p: {top_p}");
    }
    if let Some(top_k) = settings.optional("top_k").filter(|top_k| *top_k > 0.0) {
        sample += &format!(", top_k: {top_k}");
    }
    let sample = format!("sample({sample})");
    if !gkd {
        draft.set("rollout", sample);
        return;
    }
    let share = settings.number("lmbda");
    if settings.flag("seq_kd") {
        draft.leave("seq_kd = true", "what the teacher writes is `from(teacher, ...)`, a rollout of its own");
    }
    if share >= 1.0 {
        draft.set("rollout", sample);
    } else {
        draft.note("The completions of the data are in the field `answer`.");
        draft.set("rollout", format!("mix({}, {sample}, data(answer))", number(share)));
    }
}

fn objective(settings: &Settings, class: &str, draft: &mut Draft) {
    let beta = settings.number("beta");
    let gkd = class == "GKDConfig";
    let is_async = class == "AsyncDistillationConfig";
    // Of the divergence; TRL divides the logits of both sides by it.
    let temperature = settings.number(if is_async { "teacher_temperature" } else { "temperature" });
    let temperature =
        if temperature == 1.0 { String::new() } else { format!(", temperature: {}", number(temperature)) };
    let support = match (is_async, beta == 0.0) {
        (false, _) => String::new(),
        (true, true) => {
            let mass = if settings.flag("add_tail_bucket") { "tail" } else { "renormalized" };
            if mass == "renormalized" {
                draft.note("Without a tail bucket both sides are renormalised over the teacher's entries.");
            }
            format!(", support: top_k(teacher, {}), mass: {mass}", settings.number("teacher_top_k"))
        }
        (true, false) => {
            draft.note(
                "Of other `beta` than 0 TRL compares two entries: the teacher's first and the token taken.",
            );
            ", support: union(top_k(teacher, 1), sampled), mass: tail".to_owned()
        }
    };
    let divergence = match beta {
        0.0 => format!("kl(teacher || student{support}{temperature})"),
        1.0 => format!("kl(student || teacher{support}{temperature})"),
        beta => format!("jsd(teacher, student, beta: {}{support}{temperature})", number(beta)),
    };
    if gkd {
        draft.note("GKD averages over the tokens of each micro-batch; here over those of the whole step.");
    }
    draft.objective.push(format!(
        "objective pull {{\nterm distill = live {divergence}\nreduce = mean(token, over: batch)\n}}"
    ));
    draft.stage.insert(0, ("objective".to_owned(), "pull".to_owned()));
}

fn steps(settings: &Settings, draft: &mut Draft) {
    let rows = settings.number("per_device_train_batch_size").max(1.0);
    let all = rows * settings.number("gradient_accumulation_steps").max(1.0);
    draft.note(format!(
        "A step is {all} prompts on one device; with more devices, `prompts` is that many times more."
    ));
    let gkd = draft.stage.iter().any(|(_, value)| value.starts_with("mix"));
    draft.set(if gkd { "batch" } else { "prompts" }, format!("{all}"));
    if rows < all {
        draft.set("micro_batch", format!("{rows}"));
    }
    let steps = settings.optional("max_steps").filter(|steps| *steps > 0.0);
    match steps {
        Some(steps) => draft.set("steps", format!("{steps}")),
        None => {
            let epochs = settings.number("num_train_epochs");
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
    let lr = number(settings.number("learning_rate"));
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
    }
    let of = |name: &str| number(settings.number(name));
    draft.set(
        "optimizer",
        format!(
            "adamw(beta1: {}, beta2: {}, epsilon: {}, weight_decay: {}, clip_norm: {})",
            of("adam_beta1"),
            of("adam_beta2"),
            of("adam_epsilon"),
            of("weight_decay"),
            of("max_grad_norm")
        ),
    );
}

fn adapter(given: &GivenSettings, draft: &mut Draft) {
    if given.flag("use_peft") != Some(true) {
        return;
    }
    let rank = given.number("lora_r").unwrap_or(16.0);
    let alpha = given.number("lora_alpha").unwrap_or(32.0);
    let dropout = given.number("lora_dropout").unwrap_or(0.05);
    let dora = given.flag("use_dora") == Some(true);
    let kind = if dora { "dora" } else { "lora" };
    let targets = match given.get("lora_target_modules") {
        None => "[attention, feed_forward]".to_owned(),
        Some(found) => {
            draft.leave(format!("lora_target_modules = {found}"), "written as attention and feed-forward");
            "[attention, feed_forward]".to_owned()
        }
    };
    let dropout = if dropout == 0.0 { String::new() } else { format!(", dropout: {}", number(dropout)) };
    draft.set(
        "adapter",
        format!("{kind}(rank: {rank}, alpha: {}, targets: {targets}{dropout})", number(alpha)),
    );
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
        "min_p" | "repetition_penalty" => {
            "tokens are drawn from another distribution; mopd has `top_p` and `top_k`"
        }
        "gradient_checkpointing_kwargs"
        | "model_init_kwargs"
        | "teacher_model_init_kwargs"
        | "torch_dtype"
        | "dtype" => "how models are loaded: `dtype` of the experiment",
        "remove_unused_columns" | "shuffle_dataset" | "disable_dropout" | "data_seed" => {
            "prompts come shuffled, and models have no dropout"
        }
        _ => "mopd has no such setting",
    }
}
