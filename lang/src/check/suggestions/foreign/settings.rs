//! Settings and arguments of other tools.

use super::ForeignSetting::{self, Beside, Epochs, Is, Otherwise, Whole, Within};

pub(super) const IN_OPTIMIZER: &str = "part of the optimizer: `optimizer = adamw(";
const IN_ADAPTER: ForeignSetting = Beside {
    key: "adapter",
    words: "part of the adapter: `adapter = lora(rank: 16, alpha: 32, targets: [attention, feed_forward])`",
};
const OF_EXPERIMENT: ForeignSetting =
    Otherwise("a setting of the experiment: `experiment \"name\" { seed = 1, dtype = bfloat16 }`");

/// Foreign names and their counterparts. The first counterpart that the block has is used.
pub(super) const SETTINGS: &[(&[&str], &[ForeignSetting])] = &[
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
        &[
            Is("max_tokens"),
            Is("context"),
            Is("limits"),
            Otherwise(
                "the longest completion is `max_tokens` of the rollout, the longest text the `context` of the model",
            ),
        ],
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
    (&["torch_dtype", "precision", "mixed_precision"], &[Is("dtype"), OF_EXPERIMENT]),
    (
        &["bf16", "fp16", "half"],
        &[
            Beside { key: "dtype", words: "write `dtype = bfloat16`; float16 is not supported" },
            OF_EXPERIMENT,
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
