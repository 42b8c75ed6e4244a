// Syntax highlighting of `mopd` in the code blocks of the book, by the highlight.js that mdbook brings.
"use strict";

hljs.registerLanguage("mopd", () => ({
  keywords: {
    // The compiler's words: `tests/tests/language/editors.rs` writes them.
    keyword:
      "and by compare divergence domain else eval experiment fn for" + " " +
      "in lambda let live match model not objective or panel" + " " +
      "param pub reward rollout route schedule stage state step sum" + " " +
      "sweep teacher template term then trains use where with",
    literal:
      "false true",
    built_in:
      "abs accepted adamw agreement all alternate any attention available average" + " " +
      "balance batch bce bernoulli best bfloat16 blend block bool bradley_terry" + " " +
      "bucket bytes center changed charged chat checkpoint chunks clip columns" + " " +
      "command confidence constant conv_input conv_output correct cos cosine count counts" + " " +
      "cpu cuda cummax cummin cumprod cumsum dare data dataset debate" + " " +
      "delta_decay delta_gate delta_input delta_output delta_strength denoise derived detached deviation dist" + " " +
      "distill domains dora down dpo each_turn edit ema end_logp entropy" + " " +
      "env environment exact_match exp expert_turns exponential extract extrapolate feed_forward file" + " " +
      "first first_of first_turns float32 floor foreign fraction free from gate" + " " +
      "gated_delta gaussian_kl gemma generalized geometric gguf gradient_alignment group grpo head" + " " +
      "hf http in_nucleus initial integer interleave intersection json_schema keep key" + " " +
      "kl ladder last layers learned leave_one_out length linear llama log" + " " +
      "log1p log_sigmoid logits logp lora loss lower_lr masked mass max" + " " +
      "mean mean_of_smaller median merge min minmax mix mixture models mse" + " " +
      "nats next nll normalized nucleus number numeric offset old output" + " " +
      "overlap parts pass_at piecewise population position positions powers_of previous private_adamw" + " " +
      "prob progress prompts python quantile query qwen2 qwen3 random rank" + " " +
      "ranking ratio raw real recent reference refine regex relu remaining" + " " +
      "renormalized replay retry reward_to_go rewrite rollouts rouge run same sample" + " " +
      "sample_without_replacement sampled_by sampler score selected sequence sequences served settings sft" + " " +
      "sgd shifted short_conv sigmoid sign size snapshot softmax softplus sorted_l1" + " " +
      "speculative sqrt stddev steps stop student tail tanh task_arithmetic teachers" + " " +
      "terms text through ties token token_mix tokens top1 top_count top_fraction" + " " +
      "top_k train truncated turn turns uniform union unit unit_tests up" + " " +
      "validate value vocab_size warmup warn winsor zscore",
    // end
  },
  contains: [
    { className: "comment", begin: "//", end: "$" },
    {
      className: "string",
      begin: /"""[ \t]*$/,
      end: /^[ \t]*"""/,
      contains: [{ begin: /\\./ }, { className: "subst", begin: /\{/, end: /\}/ }],
    },
    {
      className: "string",
      begin: '"',
      end: '"',
      contains: [{ begin: /\\./ }, { className: "subst", begin: /\{/, end: /\}/ }],
    },
    { className: "number", begin: /\b\d[\d_]*(\.\d+)?(e[-+]?\d+)?[a-z%]*/ },
    // What is given a value has a name of the author's, or is the key of a setting.
    { begin: /\b[a-z_]\w*(?=\s*=[^=])/ },
    // What a dot leads to is no word of the language, whatever it is called.
    { begin: /\.[a-z_]\w*/ },
  ],
}));

// The page was highlighted before this language was known.
document.querySelectorAll("code.language-mopd").forEach((block) => hljs.highlightBlock(block));
