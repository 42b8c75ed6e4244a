//! Names of other software: PyTorch, Transformers, PEFT, TRL, verl and papers. Such a name is not a typo of a
//! name in mopd, so the nearest spelling would mislead; these tables give its counterpart in the language.

use crate::diag::{nearest, same_letters};

/// The counterpart of another tool's setting or argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignSetting {
    /// Another name for the same value.
    Is(&'static str),
    /// A number of epochs: `steps = 3 epochs`.
    Epochs,
    /// `true` is written as this text: `checkpointing = all`.
    Whole(&'static str),
    /// Part of another setting: `optimizer = adamw(weight_decay: 0.1)`.
    Within { key: &'static str, before: &'static str },
    /// Set elsewhere, for a block that may have `key`; the words say where.
    Beside { key: &'static str, words: &'static str },
    /// No direct counterpart; the words say what to do.
    Otherwise(&'static str),
}

use ForeignSetting::{Beside, Epochs, Is, Otherwise, Whole, Within};

const IN_OPTIMIZER: &str = "part of the optimizer: `optimizer = adamw(";
const IN_ADAPTER: ForeignSetting = Beside {
    key: "adapter",
    words: "part of the adapter: `adapter = lora(rank: 16, alpha: 32, targets: [attention, feed_forward])`",
};

/// Foreign names and their counterparts. The first counterpart that the block has is used.
const SETTINGS: &[(&[&str], &[ForeignSetting])] = &[
    (&["learning_rate", "base_lr", "max_lr", "peak_lr", "actor_lr", "step_size", "alpha_lr"], &[Is("lr")]),
    (
        &[
            "num_steps",
            "max_steps",
            "n_steps",
            "train_steps",
            "training_steps",
            "total_steps",
            "total_training_steps",
            "num_train_steps",
            "num_training_steps",
            "iterations",
            "max_iters",
            "updates",
            "num_updates",
        ],
        &[Is("steps")],
    ),
    (&["num_train_epochs", "num_epochs", "epochs", "n_epochs", "total_epochs", "max_epochs"], &[Epochs]),
    (
        &["ppo_epochs", "num_ppo_epochs", "inner_epochs", "update_epochs", "num_iterations", "mu"],
        &[Is("passes")],
    ),
    (
        &[
            "batch_size",
            "train_batch_size",
            "per_device_train_batch_size",
            "bs",
            "global_batch_size",
            "rollout_batch_size",
        ],
        // The `prompts` of domains are rows, those of stages a number.
        &[
            Beside { key: "reward", words: "a setting of stages: `prompts = 64` or `batch = 64`" },
            Is("batch"),
            Is("prompts"),
        ],
    ),
    (&["micro_batch_size", "ppo_micro_batch_size", "per_device_batch_size"], &[Is("micro_batch")]),
    (
        &["num_mini_batches", "num_minibatches", "n_minibatches", "minibatches", "num_steps_per_rollout"],
        &[Is("mini_batches")],
    ),
    (
        &["ppo_mini_batch_size", "mini_batch_size", "minibatch_size", "minibatch", "mini_batch"],
        &[Otherwise(
            "write `mini_batches = ...`, the number of updates from a batch: its prompts divided by this size",
        )],
    ),
    (
        &["gradient_accumulation_steps", "grad_accum", "accumulate_grad_batches"],
        &[Otherwise(
            "write `micro_batch = ...`, the sequences that are computed at once: the step's gradients are \
             added up by themselves",
        )],
    ),
    (
        &[
            "num_generations",
            "num_samples",
            "group_size",
            "num_return_sequences",
            "rollout_n",
            "n_samples",
            "samples_per_prompt",
            "completions",
            "n",
        ],
        &[Is("samples"), Is("n")],
    ),
    (
        &[
            "max_new_tokens",
            "max_completion_length",
            "max_length",
            "max_response_length",
            "response_length",
            "max_gen_len",
            "max_output_tokens",
            "max_seq_len",
            "max_len",
        ],
        &[Is("max_tokens"), Is("context"), Is("limits")],
    ),
    (&["temp", "sampling_temperature", "tau"], &[Is("temperature")]),
    (&["nucleus"], &[Is("top_p")]),
    (&["stop_strings", "stop_sequences", "stop_words"], &[Is("stop")]),
    (
        &[
            "hidden_size",
            "d_model",
            "n_embd",
            "embed_dim",
            "embedding_size",
            "model_dim",
            "dim",
            "hidden_dim",
        ],
        &[Is("width")],
    ),
    (&["num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth"], &[Is("layers")]),
    (&["num_attention_heads", "num_heads", "n_head", "n_heads"], &[Is("heads")]),
    (&["num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads"], &[Is("key_value_heads")]),
    (
        &[
            "max_position_embeddings",
            "context_length",
            "block_size",
            "seq_len",
            "sequence_length",
            "n_ctx",
            "max_seq_length",
            "context_window",
        ],
        &[Is("context")],
    ),
    (
        &["intermediate_size", "ffn_dim", "d_ff", "mlp_dim", "ffn_hidden_size", "feed_forward_size"],
        &[Is("hidden")],
    ),
    (&["tie_word_embeddings", "tie_weights", "tied_embeddings"], &[Is("tied")]),
    (&["rms_norm_eps", "layer_norm_eps", "norm_eps"], &[Is("norm_epsilon")]),
    (&["initializer_range", "init_std"], &[Is("initial_deviation")]),
    (&["eps", "adam_epsilon"], &[Is("epsilon"), Is("norm_epsilon")]),
    (&["betas", "adam_betas"], &[Otherwise("write the two apart: `beta1: 0.9, beta2: 0.95`")]),
    (&["adam_beta1"], &[Is("beta1"), Within { key: "optimizer", before: "adamw(beta1: " }]),
    (&["adam_beta2"], &[Is("beta2"), Within { key: "optimizer", before: "adamw(beta2: " }]),
    (
        &[
            "max_grad_norm",
            "grad_clip",
            "gradient_clip",
            "clip_grad_norm",
            "gradient_clip_val",
            "grad_norm_clip",
        ],
        &[Is("clip_norm"), Within { key: "optimizer", before: "adamw(clip_norm: " }],
    ),
    (
        &["weight_decay", "wd"],
        &[Is("weight_decay"), Within { key: "optimizer", before: "adamw(weight_decay: " }],
    ),
    (&["optim", "optimiser"], &[Is("optimizer")]),
    (
        &["warmup_steps", "num_warmup_steps", "lr_warmup_steps", "warmup_ratio", "warmup"],
        &[Otherwise("part of the learning rate: `lr = warmup(10 steps, then: 1e-3)`")],
    ),
    (
        &["lr_scheduler", "lr_scheduler_type", "scheduler", "lr_schedule"],
        &[Otherwise("part of the learning rate: `lr = cosine(1e-3 -> 1e-4)`")],
    ),
    (
        &[
            "kl_coef",
            "kl_coeff",
            "kl_beta",
            "kl_weight",
            "kl_loss_coef",
            "init_kl_coef",
            "kl_penalty",
            "use_kl_loss",
            "use_kl_in_reward",
            "kl_loss_type",
            "kl_ctrl",
        ],
        &[Otherwise(
            "part of the objective: add a term such as `term near = 0.001 * live kl(student || reference)`",
        )],
    ),
    (
        &["beta", "alpha", "lambda", "coef", "coefficient"],
        &[Beside {
            key: "objective",
            words: "part of the objective: the weight of a term, `0.04 * live kl(student || reference)`, or \
                    of an interpolation, `live jsd(teacher, student, beta: 0.5)`",
        }],
    ),
    (
        &["lmbda"],
        &[Beside {
            key: "rollout",
            words: "the share of the student's own completions: `rollout = mix(0.5, sample(...), data(answer))`",
        }],
    ),
    (
        &["seq_kd"],
        &[Beside {
            key: "rollout",
            words: "completions of the teacher: `sft` with `rollout = from(teacher, ...)`",
        }],
    ),
    (
        &["scale_rewards", "norm_adv_by_std_in_grpo", "normalize_advantages", "whiten_rewards"],
        &[Beside {
            key: "objective",
            words: "part of the objective: `zscore(reward, over: group, deviation: sample)` divides by the \
                    deviation, `reward - mean(reward, over: group)` does not",
        }],
    ),
    (
        &["mask_truncated_completions", "overlong_filtering"],
        &[Beside { key: "objective", words: "part of the objective: `select = not truncated`" }],
    ),
    (
        &["loss_agg_mode", "loss_aggregation"],
        &[Beside {
            key: "objective",
            words: "part of the objective: `reduce = mean(token, over: batch)` counts every token alike, \
                    `mean(token) then mean(sequence)` every sequence",
        }],
    ),
    (
        &[
            "entropy_coef",
            "entropy_coeff",
            "clip_range",
            "clip_ratio",
            "cliprange",
            "clip_eps",
            "epsilon_high",
            "epsilon_low",
            "clip_ratio_low",
            "clip_ratio_high",
        ],
        &[Otherwise(
            "part of the objective: give it to the objective as an argument, or write one of your own",
        )],
    ),
    (&["r", "lora_r", "lora_rank", "adapter_rank"], &[Is("rank"), IN_ADAPTER]),
    (&["lora_alpha"], &[Is("alpha"), IN_ADAPTER]),
    (&["lora_dropout"], &[Is("dropout"), IN_ADAPTER]),
    (&["target_modules", "lora_target_modules", "modules"], &[Is("targets"), IN_ADAPTER]),
    (&["lora", "peft_config", "peft"], &[Is("adapter")]),
    (
        &["gradient_checkpointing", "activation_checkpointing", "use_gradient_checkpointing"],
        &[Whole("checkpointing")],
    ),
    (&["ref_model", "ref_policy", "reference_model", "reference_policy", "ref"], &[Is("reference")]),
    (&["loss", "loss_fn", "loss_type", "loss_function", "criterion"], &[Is("objective")]),
    (
        &[
            "teacher",
            "teachers",
            "teacher_model",
            "teacher_model_path",
            "teacher_model_name_or_path",
            "teacher_path",
        ],
        &[Otherwise(
            "a teacher is declared, and a `route` chooses it: `teacher guide = expert`, and \
             `route { else -> guide }`",
        )],
    ),
    (
        &[
            "model",
            "model_path",
            "model_name",
            "model_name_or_path",
            "pretrained_model",
            "init_model",
            "student",
            "student_model",
        ],
        &[Beside {
            key: "steps",
            words: "the model to train is the argument of the stage, such as `start` in `distill(start) { ... }`",
        }],
    ),
    (
        &[
            "train_dataset",
            "dataset",
            "train_file",
            "train_files",
            "train_data",
            "train",
            "data",
            "path",
            "file",
            "files",
            "data_path",
            "data_files",
        ],
        &[
            Beside {
                key: "steps",
                words: "a stage is trained on domains: their rows are in `domain name { prompts = ... }`",
            },
            Is("prompts"),
            Is("on"),
        ],
    ),
    (
        &["on"],
        &[Is("domains"), Otherwise("a setting of the stage: `domains = [math, code]`; all by default")],
    ),
    (&["mask", "token_mask", "loss_mask"], &[Is("select")]),
    (&["weights", "token_weight", "loss_weight"], &[Is("weight")]),
    (&["reduction", "agg", "aggregation", "average"], &[Is("reduce")]),
    (&["min", "min_value", "lower", "lo"], &[Is("low")]),
    (&["max", "max_value", "upper", "hi"], &[Is("high")]),
    (
        &["top_k", "topk", "k"],
        &[
            Beside {
                key: "rollout",
                words: "it belongs to the rollout: `rollout = sample(..., top_k: ...)`",
            },
            Beside {
                key: "support",
                words: "the entries are the support: `support: top_k(teacher, 64), mass: tail`",
            },
        ],
    ),
    (
        &[
            "eval_dataset",
            "test_dataset",
            "val_files",
            "test_file",
            "test_data",
            "validation",
            "test",
            "eval",
        ],
        &[Is("tests")],
    ),
    (
        &[
            "reward_fn",
            "reward_func",
            "reward_funcs",
            "reward_function",
            "reward_model",
            "verifier",
            "grader",
            "reward",
        ],
        &[
            Beside {
                key: "steps",
                words: "a reward belongs to a domain: `domain name { prompts = ..., reward = exact_match }`",
            },
            Is("reward"),
        ],
    ),
    (
        &[
            "prompt_key",
            "prompt_column",
            "prompt_field",
            "input_key",
            "answer_key",
            "answer_column",
            "response_key",
            "columns",
        ],
        &[Beside {
            key: "fields",
            words: "fields in columns with other names: `fields = columns(prompt: question, answer: solution)`",
        }],
    ),
    (&["dataset_text_field", "text_column", "text_field"], &[Is("target")]),
    (
        &["split"],
        &[Beside {
            key: "fields",
            words: "an argument of the data: `prompts = dataset(\"folder\", split: \"train\")`",
        }],
    ),
    (&["system_prompt", "system_message"], &[Is("system")]),
    (&["chat_template", "prompt_format"], &[Is("format")]),
    (&["label", "labels", "completion", "response"], &[Is("target")]),
    (&["weight", "proportion", "mixing_weight"], &[Is("share")]),
    (&["random_seed", "manual_seed"], &[Is("seed")]),
    (
        &["output_dir", "out_dir", "save_dir", "default_local_dir"],
        &[
            Is("out"),
            Otherwise(
                "the folder of results is `out` of the experiment, or `mopd run --out DIR`: `runs/NAME` by default",
            ),
        ],
    ),
    (
        &["torch_dtype", "precision", "mixed_precision"],
        &[
            Is("dtype"),
            Otherwise("a setting of the experiment: `experiment \"name\" { seed = 1, dtype = bfloat16 }`"),
        ],
    ),
    (
        &["bf16", "fp16", "half"],
        &[
            Beside { key: "dtype", words: "write `dtype = bfloat16`; float16 is not supported" },
            Otherwise("a setting of the experiment: `experiment \"name\" { seed = 1, dtype = bfloat16 }`"),
        ],
    ),
    (
        &[
            "logging_steps",
            "logging_dir",
            "logging_strategy",
            "log_freq",
            "report_to",
            "run_name",
            "logger",
            "wandb",
            "wandb_project",
            "project_name",
            "tensorboard",
        ],
        &[Otherwise(
            "leave it out: every step is recorded; `mopd run --tracker` and `--tensorboard` report to other tools",
        )],
    ),
    (
        &[
            "save_steps",
            "save_strategy",
            "save_freq",
            "save_total_limit",
            "checkpoint_every",
            "resume_from_checkpoint",
        ],
        &[Otherwise(
            "leave it out: a run writes checkpoints, and the same command resumes; `mopd run --checkpoint-every \
             10min` sets their interval",
        )],
    ),
    (
        &[
            "eval_steps",
            "eval_strategy",
            "evaluation_strategy",
            "test_freq",
            "do_eval",
            "val_before_train",
            "early_stopping",
            "early_stopping_patience",
        ],
        &[Otherwise(
            "models are evaluated in a `compare`; for a loss during the stage, write `validate = \
             validate(target: answer, every: 10 steps)`",
        )],
    ),
    (
        &["push_to_hub", "hub_model_id", "hub_token"],
        &[Otherwise(
            "leave it out: `models` in the folder of results has every model, as `save_pretrained` writes it",
        )],
    ),
    (
        &[
            "use_vllm",
            "vllm_mode",
            "vllm_gpu_memory_utilization",
            "gpu_memory_utilization",
            "tensor_parallel_size",
            "tensor_model_parallel_size",
            "deepspeed",
            "fsdp",
            "fsdp_config",
            "num_gpus",
            "n_gpus",
            "n_gpus_per_node",
            "nnodes",
            "world_size",
            "device_map",
            "ddp",
            "local_rank",
        ],
        &[Otherwise(
            "leave it out: a run uses one device of one machine; `micro_batch` and `checkpointing` of a stage \
             save memory",
        )],
    ),
    (
        &["load_in_4bit", "load_in_8bit", "quantization", "quantization_config", "bnb_config"],
        &[Otherwise(
            "not supported: a model is loaded in float32 or bfloat16; `gguf(\"FILE\")` reads quantised files",
        )],
    ),
    (
        &["trust_remote_code", "attn_implementation", "use_cache", "low_cpu_mem_usage", "compile"],
        &[Otherwise(
            "leave it out: mopd has its own code for each architecture, and runs none of a repository",
        )],
    ),
    (
        &["max_prompt_length", "max_source_length", "truncation", "truncation_side"],
        &[Otherwise(
            "leave it out: prompts are never truncated; one that does not fit into the context is an error",
        )],
    ),
    (
        &[
            "packing",
            "padding",
            "padding_side",
            "padding_free",
            "group_by_length",
            "remove_unused_columns",
            "dataloader_num_workers",
            "dataloader_drop_last",
        ],
        &[Otherwise("leave it out: how rows are batched changes no result here")],
    ),
    (
        &["shuffle", "shuffle_dataset"],
        &[Otherwise("leave it out: prompts are drawn at random, by the `seed`")],
    ),
    (&["do_sample", "greedy"], &[Otherwise("leave it out: `temperature: 0` is greedy decoding")]),
    (
        &["min_p", "typical_p", "num_beams"],
        &[Otherwise("not supported: tokens are sampled with `top_p` or `top_k`")],
    ),
    (
        &["name", "experiment_name", "title"],
        &[Beside {
            key: "dtype",
            words: "the name is written before the braces: `experiment \"name\" { ... }`",
        }],
    ),
    (
        &["seeds"],
        &[Beside {
            key: "dtype",
            words: "how many seeds are run is a setting of a table: `compare \"name\" { seeds = 3, ... }`",
        }],
    ),
    (&["timeout", "time_out"], &[Is("time_limit")]),
    (&["clip", "clip_value"], &[Is("clip_at")]),
    (&["dim", "axis", "keepdim"], &[Is("over")]),
    (&["num_seeds", "n_seeds"], &[Is("seeds")]),
];

/// The counterpart of another tool's setting or argument. `known` are the names that the block has, `free`
/// those that are not set yet.
pub fn setting(name: &str, known: &[&str], free: &[&str]) -> Option<ForeignSetting> {
    let rows = SETTINGS.iter().filter(|(theirs, _)| theirs.iter().any(|theirs| same_letters(theirs, name)));
    rows.flat_map(|(_, ours)| ours.iter().copied()).find(|ours| match ours {
        Is(key) | Whole(key) | Within { key, .. } => free.contains(key),
        Epochs => free.contains(&"steps"),
        Beside { key, .. } => known.contains(key),
        Otherwise(_) => true,
    })
}

impl ForeignSetting {
    /// The setting of the language that replaces this one.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Is(key) | Whole(key) | Within { key, .. } => Some(key),
            Epochs => Some("steps"),
            Beside { .. } | Otherwise(_) => None,
        }
    }

    /// The text `key = value` in the language. `None` where it depends on more than the value.
    pub fn written(self, value: &str) -> Option<String> {
        match self {
            Is(key) => Some(format!("{key} = {value}")),
            Epochs if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(format!("steps = {value} epoch{}", if value == "1" { "" } else { "s" }))
            }
            Whole(key) if matches!(value, "true" | "True") => Some(format!("{key} = all")),
            Within { key, before } => Some(format!("{key} = {before}{value})")),
            _ => None,
        }
    }

    /// The help text, which says what to write instead.
    pub fn help(self) -> String {
        match self {
            Is(key) => format!("here it is called `{key}`"),
            Epochs => "write `steps = 3 epochs`".to_owned(),
            Whole(key) => format!("write `{key} = all`, or a number of layers"),
            Within { before, .. } => format!("{IN_OPTIMIZER}{}...)`", before.trim_start_matches("adamw(")),
            Beside { words, .. } | Otherwise(words) => words.to_owned(),
        }
    }
}

/// The key or argument that a name was probably meant for, and whether that is certain. A name that contains
/// a key as a whole word, such as `total_prompts_count`, is an uncertain match.
pub fn key<'a>(name: &str, known: &[&'a str]) -> Option<(&'a str, bool)> {
    if let Some(near) = nearest(name, known.iter().copied()) {
        return Some((near, true));
    }
    let word = name
        .split('_')
        .filter(|word| word.len() > 2)
        .find_map(|word| known.iter().copied().find(|key| *key == word));
    word.map(|key| (key, false))
}

/// Words of a fixed list: kinds of numbers, devices, matrices, methods.
const WORDS: &[(&[&str], &[&str])] = &[
    (&["bf16", "bfloat", "torch.bfloat16"], &["bfloat16"]),
    (&["fp32", "float", "f32", "torch.float32", "float_32"], &["float32"]),
    (&["gpu", "nvidia", "cuda0", "cuda:0", "cuda:1", "auto"], &["cuda"]),
    (&["q_proj", "q", "wq"], &["query"]),
    (&["k_proj", "k", "wk"], &["key"]),
    (&["v_proj", "v", "wv"], &["value"]),
    (&["o_proj", "o", "wo", "out_proj"], &["output"]),
    (&["gate_proj", "w1"], &["gate"]),
    (&["up_proj", "w3"], &["up"]),
    (&["down_proj", "w2"], &["down"]),
    (&["mlp", "ffn", "feedforward"], &["feed_forward"]),
    (&["attn", "self_attn", "self_attention"], &["attention"]),
    (&["embeddings", "embed_tokens", "lm_head"], &["embedding"]),
    (&["layernorm", "rmsnorm", "norms"], &["norm"]),
    (&["mean", "linear", "soup", "weight_average"], &["average"]),
    (&["unbiased", "std"], &["sample"]),
    (&["biased"], &["population"]),
    (&["renormalize", "normalized"], &["renormalized"]),
    (&["chatml", "conversation", "conversational", "messages"], &["chat"]),
    (&["plain", "raw", "completion"], &["text"]),
    (&["vocab", "vocabulary"], &["vocab"]),
    (&["token_level", "tokens"], &["token"]),
    (&["seq", "sequences", "sample"], &["sequence"]),
    (&["batches", "global"], &["batch"]),
];

/// The word of a fixed list that corresponds to another tool's word.
pub fn word<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (_, ours) = WORDS.iter().find(|(theirs, ours)| {
        theirs.iter().any(|theirs| same_letters(theirs, name)) && ours.iter().any(|ours| known.contains(ours))
    })?;
    known.iter().copied().find(|known| ours.contains(known))
}

/// The type that corresponds to another language's name of a type.
pub fn type_name(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "int" | "integer" | "usize" | "uint" | "i32" | "i64" | "u32" | "u64" | "long" => "count",
        "float" | "double" | "f32" | "f64" => "real",
        "str" | "string" => "text",
        "boolean" => "bool",
        "percent" | "probability" | "share" => "fraction",
        _ => return None,
    })
}

/// The counterpart of another library's name in an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// A name that replaces it, whatever follows.
    Name(&'static str),
    /// Words that say how to write it.
    Otherwise(&'static str),
}

/// Functions, roles and signals. A name that is one letter away from one of the language is listed only if
/// suggesting that one would mislead.
const NAMES: &[(&[&str], Spelling)] = &[
    (&["clamp", "clip_by_value"], Spelling::Name("clip")),
    (&["kl_div", "kl_divergence", "kld", "kldiv"], Spelling::Name("kl")),
    (
        &["log_softmax", "logits", "teacher_logits", "student_logits"],
        Spelling::Otherwise(
            "the log-probability of the sampled token is `student.logp`; a divergence compares whole \
             distributions: `live kl(student || teacher)`",
        ),
    ),
    (
        &["default", "otherwise", "others"],
        Spelling::Otherwise("the remaining cases are written `else -> ...`"),
    ),
    (
        &["load", "load_from_disk", "open", "read_json"],
        Spelling::Otherwise("a model is `hf(\"FOLDER\")`, and data is its path in quotes"),
    ),
    (&["js_div", "js_divergence", "js", "jensen_shannon"], Spelling::Name("jsd")),
    (&["total_variation", "tvd"], Spelling::Name("tv")),
    (&["chi_squared", "chi_square"], Spelling::Name("chi2")),
    (&["minimum"], Spelling::Name("min")),
    (&["maximum"], Spelling::Name("max")),
    (&["logarithm", "ln"], Spelling::Name("log")),
    (
        &["if", "ifelse", "iff", "ternary"],
        Spelling::Otherwise("a choice is written `where(condition, a, b)`"),
    ),
    (&["epochs", "epoch"], Spelling::Otherwise("`epochs = 2` is a setting, in the place of `steps`")),
    (&["range"], Spelling::Otherwise("a list is written out, `[1, 2, 3]`, or as `1..=3`")),
    (&["pow", "square"], Spelling::Otherwise("a power is written `x^2`")),
    (
        &["std", "var"],
        Spelling::Otherwise("`zscore(x, over: group, deviation: sample)` is (x - mean) / deviation"),
    ),
    (
        &["whiten", "normalize", "standardize"],
        Spelling::Otherwise("write `zscore(x, over: batch, deviation: sample)`"),
    ),
    (
        &["reverse_kl", "rkl"],
        Spelling::Otherwise(
            "the reverse divergence is `kl(student || teacher)`, the forward one `kl(teacher || student)`",
        ),
    ),
    (
        &["forward_kl", "fkl"],
        Spelling::Otherwise(
            "the forward divergence is `kl(teacher || student)`, the reverse one `kl(student || teacher)`",
        ),
    ),
    (
        &["cross_entropy", "ce", "nll_loss"],
        Spelling::Otherwise(
            "`-live student.logp` is the loss of the token taken, `live nll(teacher)` that of the teacher's",
        ),
    ),
    (
        &["stop_gradient", "stop_grad", "stopgrad", "sg", "detach", "no_grad"],
        Spelling::Otherwise("nothing needs to be detached: only what is marked `live` carries gradient"),
    ),
    (
        &[
            "old_log_prob",
            "old_log_probs",
            "old_logprobs",
            "old_logp",
            "log_prob_old",
            "behavior_logp",
            "rollout_log_probs",
        ],
        Spelling::Name("sampler.logp"),
    ),
    (
        &[
            "log_prob",
            "log_probs",
            "logprobs",
            "logprob",
            "logp",
            "logp_student",
            "student_logp",
            "policy_logp",
            "log_pi",
            "new_log_probs",
        ],
        Spelling::Name("student.logp"),
    ),
    (
        &["teacher_log_probs", "teacher_logprobs", "teacher_logp", "logp_teacher", "log_prob_teacher"],
        Spelling::Name("teacher.logp"),
    ),
    (&["ref_log_prob", "ref_log_probs", "ref_logp", "ref_logprobs"], Spelling::Name("reference.logp")),
    (&["student_entropy"], Spelling::Name("student.entropy")),
    (&["teacher_entropy"], Spelling::Name("teacher.entropy")),
    (&["ref_policy", "ref_model", "ref", "reference_policy", "pi_ref"], Spelling::Name("reference")),
    (&["old_policy", "old", "behavior", "behaviour", "pi_old"], Spelling::Name("sampler")),
    (
        &["policy", "actor", "pi", "pi_theta"],
        Spelling::Otherwise("the model that is trained is called `student`"),
    ),
    (
        &["advantage", "advantages"],
        Spelling::Otherwise(
            "an advantage is written out: `let advantage = zscore(reward, over: group, deviation: sample)`",
        ),
    ),
    (&["rewards", "returns"], Spelling::Name("reward")),
    (&["vocab", "num_vocab"], Spelling::Name("vocab_size")),
    (&["adam", "adam_w"], Spelling::Name("adamw")),
    (
        &["from_pretrained", "load_model", "huggingface", "AutoModel", "AutoModelForCausalLM"],
        Spelling::Name("hf"),
    ),
    (&["load_dataset", "load_data"], Spelling::Name("dataset")),
    (&["LoraConfig", "get_peft_model"], Spelling::Name("lora")),
    (&["exact", "exact_match_reward", "string_match"], Spelling::Name("exact_match")),
    (&["math_verify", "numeric_match"], Spelling::Name("numeric")),
    (
        &["on_policy", "generate", "rollouts", "completions", "vllm", "sglang"],
        Spelling::Otherwise(
            "the student's own completions are `sample(n: 1, temperature: 1, max_tokens: 256)`",
        ),
    ),
    (
        &["off_policy_data", "offline"],
        Spelling::Otherwise(
            "completions of the data are `data(answer)`, those of the teacher `from(teacher, ...)`",
        ),
    ),
    (&["filter"], Spelling::Name("keep")),
    (
        &["cosine_with_warmup", "cosine_annealing", "CosineAnnealingLR", "get_cosine_schedule_with_warmup"],
        Spelling::Otherwise("write `warmup(10 steps, then: cosine(1e-3 -> 1e-4))`"),
    ),
    (&["ece", "expected_calibration_error", "brier", "brier_score"], Spelling::Name("calibration")),
    (
        &["accuracy", "acc", "pass_rate"],
        Spelling::Otherwise(
            "the mean reward is in every cell; metrics are `pass_at(k)`, `distinct`, `length`, \
             `calibration` and `entropy`",
        ),
    ),
];

/// The counterpart of a name in an expression.
pub fn name(name: &str) -> Option<Spelling> {
    let (_, ours) =
        NAMES.iter().find(|(theirs, _)| theirs.iter().any(|theirs| same_letters(theirs, name)))?;
    Some(*ours)
}

/// Whether a name is a library's, as in `torch.clamp`.
pub fn is_library(name: &str) -> bool {
    matches!(
        name,
        "torch"
            | "F"
            | "nn"
            | "np"
            | "numpy"
            | "math"
            | "jnp"
            | "jax"
            | "tf"
            | "transformers"
            | "AutoModelForCausalLM"
            | "AutoModel"
            | "peft"
            | "trl"
    )
}

/// The counterpart of another library's name for a part of a role.
pub fn part(name: &str) -> Option<Spelling> {
    const PARTS: &[(&[&str], Spelling)] = &[
        (
            &["log_prob", "log_probs", "logprob", "logprobs", "log_p", "lp", "logps", "per_token_logps"],
            Spelling::Name("logp"),
        ),
        (&["ent", "entropies"], Spelling::Name("entropy")),
        (&["distribution"], Spelling::Name("dist")),
        (&["max_prob", "top_1", "maximum"], Spelling::Name("top1")),
        (&["std", "stddev"], Spelling::Name("deviation")),
        (&["values", "v"], Spelling::Name("value")),
        (
            &["p", "prob", "probs", "probability", "probabilities"],
            Spelling::Otherwise(
                "the probability of the sampled token is `exp(student.logp)`; a divergence compares whole \
                 distributions: `live kl(student || teacher)`",
            ),
        ),
        (
            &["logit", "logits", "softmax", "log_softmax"],
            Spelling::Otherwise(
                "the log-probability of the sampled token is `student.logp`; a divergence compares whole \
                 distributions: `live kl(student || teacher)`",
            ),
        ),
        (&["kl", "kl_div"], Spelling::Otherwise("a divergence is a function: `live kl(student || teacher)`")),
        (
            &["generate", "sample"],
            Spelling::Otherwise(
                "the student's own completions are `sample(n: 1, temperature: 1, max_tokens: 256)`",
            ),
        ),
    ];
    let (_, ours) =
        PARTS.iter().find(|(theirs, _)| theirs.iter().any(|theirs| same_letters(theirs, name)))?;
    Some(*ours)
}
