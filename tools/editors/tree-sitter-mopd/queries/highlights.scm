; Later patterns win over earlier ones.
; `tests/tests/language/editors.rs` holds the lists of words against the compiler's own.

(identifier) @variable

; ---- What the language knows by name ----

((identifier) @variable.builtin
  (#any-of? @variable.builtin
    "student" "teacher" "old" "sampler" "reference" "self"
    "ratio" "reward" "correct" "position" "length" "remaining" "turn" "block" "head" "offset" "accepted" "masked" "truncated" "selected"
    "span" "data" "progress" "step" "loss" "vocab_size" "domain" "domains"))

((identifier) @constant.builtin
  (#any-of? @constant.builtin
    ; axes
    "run" "batch" "group" "sequence" "turn" "block" "token" "vocab"
    ; supports and masses
    "full" "matched" "unmatched" "sampled" "generalized" "renormalized" "tail" "raw"
    ; deviations
    "population" "sample"
    ; tokenizers, devices and number types
    "bytes" "cpu" "cuda" "float32" "bfloat16"
    ; formats of prompts, parts of a model
    "chat" "attention" "feed_forward" "query" "key" "value" "output" "gate" "up" "down"
    "gated_delta" "delta_input" "delta_gate" "delta_strength" "delta_decay" "delta_output"
    "short_conv" "conv_input" "conv_output"
    ; rollouts that are kept, merges, teachers
    "all" "average" "task_arithmetic" "ties" "dare" "same" "foreign" "dist" "text" "positions" "tokens" "shifted" "equal" "uniform"
    ; budgets, metrics, ways to compare texts
    "free" "charged" "steps" "sequences" "distinct" "edit" "rouge" "panel" "prompts" "rollouts" "terms" "unit"))

; ---- Numbers, texts, comments ----

(number) @number
(unit) @type
(boolean) @boolean
(string) @string
(escape) @string.escape
(slot) @string.special
(comment) @comment
(doc_comment) @comment.documentation
(module_comment) @comment.documentation

; ---- Types ----

(type) @type
((type) @type.builtin
  (#any-of? @type.builtin
    "model" "models" "teacher" "teachers" "panel" "rollout" "environment" "template" "objective" "reward" "domain" "domains" "schedule" "settings" "eval" "text" "bool"
    "count" "counts" "fraction" "real" "number" "nats" "ratio" "logp" "prob" "distribution"))

; ---- Settings, arguments, parts ----

(entry key: (identifier) @property)
(label) @property
(field_name) @property
((field_name) @variable.builtin
  (#any-of? @variable.builtin
    "logp" "entropy" "top1" "rank" "dist" "end_logp" "mean" "deviation" "score" "value" "confidence" "correct" "ema" "every" "initial"
    "answer" "think" "tool" "final_turn"))

; ---- Calls ----

(call function: (identifier) @function)
(application constructor: (identifier) @function)
((call function: (identifier) @function.builtin)
  (#any-of? @function.builtin
    ; elementwise
    "abs" "exp" "log" "log1p" "sqrt" "tanh" "sigmoid" "softplus" "log_sigmoid" "relu" "cos" "floor" "sign" "min"
    "max" "clip" "where" "bucket"
    ; statistics and scans
    "mean" "sum" "first" "last" "any" "all" "count" "quantile" "stddev" "zscore" "center" "rank" "leave_one_out" "mean_of_smaller"
    "minmax" "winsor" "top_fraction" "top_count" "softmax" "sample_without_replacement" "balance" "chunks" "cumsum" "cumprod" "cummin" "cummax" "next" "reward_to_go"
    "ema" "previous" "median"
    ; divergences, distributions and live losses
    "kl" "jsd" "skew" "tv" "chi2" "hellinger" "alpha" "sorted_l1" "gaussian_kl" "blend" "detached" "nll" "dpo" "bradley_terry" "ranking" "mse" "bce"
    ; supports and signals
    "top_k" "nucleus" "union" "intersection" "size" "overlap" "mass" "in_nucleus" "agreement" "available" "score" "random" "bernoulli"
    ; schedules
    "constant" "linear" "cosine" "exponential" "piecewise" "warmup" "ladder" "alternate" "learned"
    ; rewards
    "exact_match" "numeric" "regex" "command" "python" "json_schema" "unit_tests" "http" "parts"
    ; rollouts and their edits
    "sample" "from" "data" "mix" "token_mix" "interleave" "refine" "snapshot" "replay" "speculative" "sampled_by" "turns" "denoise" "derived" "first_of" "each_turn"
    "rewrite" "keep" "retry" "best" "first_turns" "expert_turns" "through"
    ; teachers and panels
    "served" "logits" "mixture" "geometric" "debate" "integer" "env"
    ; optimisers, comparisons, evaluations
    "dataset" "columns" "extract" "file" "lora" "dora" "layers" "changed" "adamw" "sgd" "private_adamw" "normalized" "pass_at" "extrapolate" "validate"
    "gradient_alignment" "powers_of"
    ; guards
    "warn" "stop" "lower_lr" "initial" "recent"
    ; models and stages
    "hf" "gguf" "checkpoint" "llama" "qwen2" "qwen3" "gemma" "sft" "grpo" "distill" "merge" "train"))
((application constructor: (identifier) @function.builtin)
  (#any-of? @function.builtin "llama" "qwen2" "qwen3" "gemma" "train"))

; ---- Declarations ----

(fn_item name: (identifier) @function)
(stage_item name: (identifier) @function)
(objective_item name: (identifier) @type)
(divergence_item name: (identifier) @function)
(sum_item name: (identifier) @function)
(use_item path: (identifier) @module)
(use_item names: (use_list (identifier) @variable))
(parameter name: (identifier) @variable.parameter)
(for_head name: (identifier) @variable.parameter)
(for_head carried: (identifier) @variable.parameter)
(family name: (identifier) @variable.parameter)
(mark "@" @attribute)
(mark_name) @attribute

; ---- Keywords ----

[
  "experiment" "domain" "model" "teacher" "route" "objective" "compare" "let" "fn" "stage" "schedule" "reward" "param" "use"
  "sweep" "template" "panel" "eval" "divergence" "sum" "rollout"
  "pub" "term" "state" "trains" "step" "in" "for" "match" "where" "by" "with"
  (else)
] @keyword

; The mark of gradient stands out.
"live" @keyword.modifier

["and" "or" "not" "then"] @keyword.operator

; ---- Signs ----

["=" "->" "|>" "||" "==" "!=" "<=" ">=" "<" ">" "..=" "+" "-" "*" "/" "^"] @operator
["(" ")" "[" "]" "{" "}"] @punctuation.bracket
["," "." ":"] @punctuation.delimiter
