//! Constructors of models: random weights, files, training stages, merging.

use super::declare::builtins;
use super::types::{Domains, EndTokens, Model, Models, Text, Truth};

builtins! { Constructor: Constructor, ConstructorCall {
    /// A Llama decoder with random weights.
    #[usage = "llama { layers, width, heads, context, tokenizer }"]
    llama => Llama {},

    /// A Qwen2 decoder with random weights.
    #[usage = "qwen2 { layers, width, heads, context, tokenizer }"]
    qwen2 => Qwen2 as Llama,

    /// A Qwen3 decoder with random weights.
    #[usage = "qwen3 { layers, width, heads, context, tokenizer }"]
    qwen3 => Qwen3 as Llama,

    /// A Gemma decoder with random weights.
    #[usage = "gemma { layers, width, heads, context, tokenizer }"]
    gemma => Gemma as Llama,

    /// A model in the Hugging Face layout, from a folder or the hub; `revision` pins the version on the hub.
    /// `end_tokens` end a completion too, besides those that its files name. `chat_template` is a file with a
    /// template that takes the place of its own, and `enable_thinking` is what the template reads under that
    /// name.
    #[usage = "hf(\"Qwen/Qwen3-0.6B\", revision: \"...\", end_tokens: \"<|im_end|>\")"]
    hf => HuggingFace {
        name: Text, revision: Option<Text>, end_tokens: Option<EndTokens>, chat_template: Option<Text>,
        enable_thinking: Option<Truth>
    },

    /// A model from a GGUF file; `end_tokens`, `chat_template` and `enable_thinking` as for `hf`.
    #[usage = "gguf(\"model.gguf\")"]
    gguf => Gguf {
        file: Text, end_tokens: Option<EndTokens>, chat_template: Option<Text>, enable_thinking: Option<Truth>
    },

    /// A model that an earlier run left in its folder; `end_tokens`, `chat_template` and `enable_thinking` as
    /// for `hf`.
    #[usage = "checkpoint(\"runs/first/student\")"]
    checkpoint => Checkpoint {
        folder: Text, end_tokens: Option<EndTokens>, chat_template: Option<Text>, enable_thinking: Option<Truth>
    },

    /// Supervised fine-tuning: imitation of a field of the data, or of a rollout.
    #[usage = "sft(base, on: domains) { target, steps, batch, lr }"]
    sft => Sft { start: Model, on: Domains },

    /// Reinforcement learning with verifiable rewards.
    #[usage = "grpo(start, on: d) { steps, prompts, samples, max_tokens, lr }"]
    grpo => Grpo as Sft,

    /// Training with any objective on any rollout, with the routed teachers.
    #[usage = "distill(start) { objective, rollout, prompts, steps, lr }"]
    distill => Distill { start: Model },

    /// Training on pairs of completions.
    #[usage = "dpo(start, on: domains) { chosen, rejected, beta, reference, batch, steps, lr }"]
    dpo => Dpo as Sft,

    /// Several models trained in turns, one kind of update after the other.
    #[usage = "train { trains student = start, step follow { updates, objective, rollout } }"]
    train => Train {},

    /// A model whose weights are computed from those of others.
    #[usage = "merge(experts, base: start) { method, scale }"]
    merge => Merge { models: Models, base: Option<Model> },
}}
