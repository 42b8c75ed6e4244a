//! Teachers other than a plain model: on a server, composed, pooled, or in a panel.

use super::declare::builtins;
use super::types::{Capability, Formula, Numbers, Role, Secret, Teachers, Text};

builtins! { Teacher: TeacherName, TeacherCall {
    /// A teacher on a server; `answers` is what it returns, `key` the key that the server requires.
    #[usage = "served(\"vllm\", url: env(\"TEACHER_URL\"), model: \"Qwen/Qwen3-32B\", answers: top_k(20))"]
    served => Served { engine: Text, url: Secret, model: Text, answers: Capability, key: Option<Secret> },

    /// A model's logits, for a composed teacher.
    #[usage = "logits(dpo) + w * (logits(dpo) - logits(rev)) where w = 2"]
    logits => Logits { of: Role },

    /// One distribution: the weighted mean of the teachers' probabilities. `weights: equal` gives all the
    /// same weight.
    #[usage = "mixture([a, b], weights: [0.7, 0.3])"]
    mixture => Mixture { teachers: Teachers, weights: Numbers },

    /// One distribution: the weighted mean of the teachers' logits, normalised. `weights: equal` gives all
    /// the same weight.
    #[usage = "geometric([a, b], weights: [0.7, 0.3])"]
    geometric => Geometric as Mixture,

    /// Teachers that discuss a prompt in turns before they score the student's completions.
    #[usage = "debate([big, mid]) { rounds = 2, max_tokens = 512 }"]
    debate => Debate { members: Teachers },

    /// A whole number that each member of a panel states.
    #[usage = "integer(0..=100)"]
    integer => Integer { range: Formula },

    /// An environment variable, read when the run starts; its value is not part of the plan.
    #[usage = "env(\"TEACHER_URL\")"]
    env => Environment { name: Text },
}}
