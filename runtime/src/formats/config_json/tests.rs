//! Compares keys and defaults with transformers 5.23; `model/tests/parity.rs` compares whole models.

use serde_json::{Value, json};

use super::*;
use crate::model::{GatedDelta, Rope, RopeScaling};

fn parse(json: Value) -> Config {
    read(&json).unwrap_or_else(|problem| panic!("{problem}"))
}

/// The `config.json` of a small model of a family, with further keys.
fn small(model_type: &str, more: Value) -> Value {
    let mut json = json!({
        "model_type": model_type, "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    });
    let (Value::Object(keys), Value::Object(more)) = (&mut json, more) else { panic!("objects") };
    keys.extend(more);
    json
}

fn problem(json: &Value) -> String {
    read(json).expect_err("it was read")
}

fn windows(config: &Config) -> Vec<Option<usize>> {
    config.attention.iter().map(|layer| layer.window).collect()
}

#[test]
fn absent_keys_have_the_familys_default() {
    let sizes = |name: &str| {
        let config = parse(json!({ "model_type": name }));
        let Config {
            vocabulary,
            width,
            intermediate_size: hidden,
            layers,
            heads,
            key_value_heads,
            head_dim,
            context,
            tied,
            ..
        } = config;
        (
            vocabulary,
            width,
            hidden,
            layers,
            heads,
            key_value_heads,
            head_dim,
            context,
            tied,
            config.rope.theta,
        )
    };
    assert_eq!(sizes("llama"), (32_000, 4096, 11_008, 32, 32, 32, 128, 2048, false, 1e4));
    assert_eq!(sizes("granite"), (32_000, 4096, 11_008, 32, 32, 32, 128, 2048, false, 1e4));
    assert_eq!(sizes("mistral"), (32_000, 4096, 14_336, 32, 32, 8, 128, 131_072, false, 1e4));
    assert_eq!(sizes("qwen2"), (151_936, 4096, 22_016, 32, 32, 32, 128, 32_768, false, 1e4));
    assert_eq!(sizes("qwen3"), (151_936, 4096, 22_016, 32, 32, 32, 128, 32_768, false, 1e4));
    assert_eq!(sizes("qwen3_moe"), (151_936, 2048, 6144, 24, 32, 4, 64, 32_768, false, 1e4));
    assert_eq!(sizes("smollm3"), (128_256, 2048, 11_008, 36, 16, 4, 128, 32_768, true, 2e6));
    assert_eq!(sizes("gpt_oss"), (201_088, 2880, 2880, 36, 64, 8, 64, 131_072, false, 1.5e5));
    assert_eq!(sizes("lfm2"), (65_536, 2560, 8192, 32, 32, 8, 80, 128_000, true, 1e6));
    assert_eq!(sizes("phi3"), (32_064, 3072, 8192, 32, 32, 32, 96, 4096, false, 1e4));
    assert_eq!(parse(json!({ "model_type": "phi3" })).norm.epsilon, 1e-5);
    assert_eq!(sizes("gemma"), (256_000, 3072, 24_576, 28, 16, 16, 256, 8192, true, 1e4));
    assert_eq!(sizes("gemma2"), (256_000, 2304, 9216, 26, 8, 4, 256, 8192, true, 1e4));
    assert_eq!(sizes("gemma3_text"), (262_208, 2304, 9216, 26, 8, 4, 256, 131_072, true, 1e6));
    // Null means "follows from the other keys", if the family has such a rule.
    let config = parse(small("llama", json!({ "head_dim": null, "num_key_value_heads": null })));
    assert_eq!((config.head_dim, config.key_value_heads), (8, 4));
    assert_eq!(config.norm, Norm { epsilon: 1e-6, offset: 0.0, after: false });
}

#[test]
fn families_differ_by_features() {
    let qwen2 = parse(small("qwen2", json!({ "attention_bias": false })));
    assert_eq!(qwen2.biases, Biases { query_key_value: true, output: false, feed_forward: false });
    let llama = parse(small("llama", json!({ "attention_bias": true, "mlp_bias": true })));
    assert_eq!(llama.biases, Biases { query_key_value: true, output: true, feed_forward: true });
    assert_eq!(
        (llama.activation, llama.query_key_norm, llama.embedding_scale),
        (Activation::Silu, false, EmbeddingScale::Exact(1.0))
    );
    let qwen3 = parse(small("qwen3", json!({ "attention_bias": true })));
    assert!(qwen3.query_key_norm && qwen3.biases.output && !qwen3.biases.feed_forward);
    let gemma = parse(small("gemma", json!({ "hidden_act": "gelu" })));
    assert_eq!((gemma.activation, gemma.norm.offset, gemma.norm.after), (Activation::Gelu, 1.0, false));
    assert_eq!(gemma.embedding_scale, EmbeddingScale::Rounded(32.0f64.sqrt()));
    assert_eq!(gemma.attention_scale, 1.0 / 8.0f64.sqrt());
    let granite = parse(small(
        "granite",
        json!({ "attention_multiplier": 0.25, "logits_scaling": 8.0,
        "embedding_multiplier": 12.0, "residual_multiplier": 0.5, "rms_norm_eps": 1e-5 }),
    ));
    assert_eq!((granite.attention_scale, granite.logit_scale, granite.norm.epsilon), (0.25, 0.125, 4e-5));
    assert_eq!(granite.embedding_scale, EmbeddingScale::Exact(24.0));
    let wrong = problem(&small("granite", json!({ "residual_multiplier": 0.0 })));
    assert_eq!(wrong, "`residual_multiplier` is 0, it must be above 0");
    let gemma2 = parse(small("gemma2", json!({ "query_pre_attn_scalar": 144 })));
    assert_eq!((gemma2.attention_scale, gemma2.norm.after), (1.0 / 12.0, true));
    assert_eq!((gemma2.attention_softcap, gemma2.logit_softcap), (Some(50.0), Some(30.0)));
    let uncapped =
        parse(small("gemma2", json!({ "attn_logit_softcapping": null, "final_logit_softcapping": null })));
    assert_eq!((uncapped.attention_softcap, uncapped.logit_softcap), (None, None));
    // The other families have no such key, and the reference ignores it.
    for name in ["llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "gemma"] {
        let capped =
            parse(small(name, json!({ "attn_logit_softcapping": 2.0, "final_logit_softcapping": 2.0 })));
        assert_eq!((capped.attention_softcap, capped.logit_softcap), (None, None), "{name}");
    }
    assert_eq!(
        parse(small("gemma3_text", json!({ "final_logit_softcapping": 2.0 }))).logit_softcap,
        Some(2.0)
    );
    let gemma3 = parse(small("gemma3_text", json!({})));
    assert!(gemma3.query_key_norm && gemma3.attention_softcap.is_none() && gemma3.logit_softcap.is_none());
    assert_eq!(gemma3.attention_scale, 1.0 / 16.0);
}

/// Without parameters, rotary positions are scaled; the quantisation of published files is read.
#[test]
fn gpt_oss_has_sinks_and_clamped_experts() {
    let config = parse(json!({
        "model_type": "gpt_oss", "num_hidden_layers": 4,
        "quantization_config": { "quant_method": "mxfp4", "modules_to_not_convert": [] },
    }));
    let experts = config.experts.clone().unwrap();
    let clamped = experts.clamped.unwrap();
    assert_eq!((clamped.alpha, clamped.limit, experts.normalised), (1.702, 7.0, true));
    assert_eq!((experts.count, experts.per_token, experts.intermediate_size), (128, 4, 2880));
    assert_eq!(windows(&config), [Some(128), None, Some(128), None]);
    assert_eq!(config.biases, Biases { query_key_value: true, output: true, feed_forward: false });
    assert!(config.attention_sinks && config.norm.epsilon == 1e-5);
    let RopeScaling::Yarn { factor, original_context, truncate, .. } = config.rope.scaling else {
        panic!("{:?}", config.rope)
    };
    assert_eq!((factor, original_context, truncate), (32.0, 4096, false));
    assert_eq!(parse(write(&config, &TokenIds::default())), config);
    let plain = parse(small(
        "gpt_oss",
        json!({ "rope_parameters": { "rope_type": "default" }, "sliding_window": 8 }),
    ));
    assert_eq!(plain.rope, Rope { theta: 1.5e5, scaling: RopeScaling::None });
    assert_eq!(parse(write(&plain, &TokenIds::default())), plain);
    for (name, more, said) in [
        ("gpt_oss", json!({ "swiglu_limit": 0.0 }), "`swiglu_limit` is 0"),
        ("gpt_oss", json!({ "quantization_config": { "quant_method": "fp8" } }), "quantised (`fp8`)"),
        ("qwen3_moe", json!({ "quantization_config": { "quant_method": "mxfp4" } }), "quantised (`mxfp4`)"),
        ("gpt_oss", json!({ "num_experts_per_tok": 200 }), "200 of 128 experts"),
    ] {
        let problem = problem(&small(name, more));
        assert!(problem.contains(said), "{problem}");
    }
}

/// The width of the feed-forward part follows from keys of its own, as in published files.
#[test]
fn lfm2_has_layers_with_a_convolution() {
    let of = |more: Value| parse(small("lfm2", more));
    let plain = of(json!({ "hidden_act": "gelu", "attention_bias": true }));
    assert_eq!(
        (plain.activation, plain.biases, plain.query_key_norm),
        (Activation::Silu, Biases::default(), true)
    );
    let none = plain.short_conv.unwrap();
    assert_eq!((none.taps, none.biases, none.layers), (3, false, vec![false; 4]));
    let published = of(json!({
        "block_ff_dim": 12_288, "block_multiple_of": 256, "full_attn_idxs": [1, 3], "tie_embedding": false,
        "tie_word_embeddings": true, "norm_eps": 1e-4, "rms_norm_eps": 1e-2, "conv_bias": true, "conv_L_cache": 4,
    }));
    assert_eq!((published.intermediate_size, published.tied, published.norm.epsilon), (8192, false, 1e-4));
    let conv = published.short_conv.clone().unwrap();
    assert_eq!((conv.taps, conv.biases, conv.layers), (4, true, vec![true, false, true, false]));
    assert_eq!(parse(write(&published, &TokenIds::default())), published);
    let size = |more: Value| of(more).intermediate_size;
    assert_eq!(size(json!({})), 256);
    assert_eq!(size(json!({ "block_multiple_of": 10 })), 40);
    assert_eq!(size(json!({ "block_multiple_of": 10, "block_ffn_dim_multiplier": 1.5 })), 50);
    assert_eq!(size(json!({ "block_ffn_dim_multiplier": null })), 32);
    assert_eq!(size(json!({ "block_auto_adjust_ff_dim": false })), 48);
    for (more, said) in [
        (
            json!({ "layer_types": ["conv", "conv", "sliding_attention", "conv"] }),
            "has \"sliding_attention\"",
        ),
        (json!({ "conv_L_cache": 0 }), "`conv_L_cache` is 0"),
        (json!({ "block_multiple_of": 0 }), "`block_multiple_of` is 0"),
        (json!({ "norm_eps": 0 }), "`norm_eps` is 0"),
    ] {
        let problem = problem(&small("lfm2", more));
        assert!(problem.contains(said), "{problem}");
    }
}

/// The names of one scaling in files of Phi-3, and the context for which its short factors are right.
#[test]
fn phi3_has_short_factors_up_to_its_original_context() {
    let more = |kind: &str| {
        json!({
            "max_position_embeddings": 4096, "original_max_position_embeddings": 64, "partial_rotary_factor": 0.5,
            "attention_bias": true, "sliding_window": 16,
            "rope_scaling": { "type": kind, "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0] },
        })
    };
    for kind in ["longrope", "su", "yarn"] {
        let config = parse(small("phi3", more(kind)));
        let scaling = RopeScaling::LongRope {
            attention: 2.0f64.sqrt(),
            short: vec![1.0, 1.5],
            long: vec![2.0, 4.0],
            original_context: 64,
            context: 4096,
        };
        assert_eq!((config.context, config.rotary_dim, &config.rope.scaling), (64, Some(4), &scaling));
        assert_eq!((windows(&config), config.biases), (vec![Some(16); 4], Biases::default()));
        let written = write(&config, &TokenIds::default());
        assert_eq!(parse(written.clone()), config);
        assert_eq!(written["max_position_embeddings"], 4096);
        assert_eq!(written["rope_scaling"].as_object().unwrap().len(), 3, "{written}");
    }
    // The default of the original context is Phi-3's own.
    let mut given = more("longrope");
    given["original_max_position_embeddings"] = Value::Null;
    given["rope_scaling"]["attention_factor"] = json!(1.25);
    let config = parse(small("phi3", given));
    assert_eq!(config.context, 4096);
    assert_eq!(parse(write(&config, &TokenIds::default())), config);
    for (key, value, said) in [
        ("type", json!("linear"), "`linear` are not supported for `phi3`"),
        (
            "short_factor",
            json!([1.0]),
            "`short_factor` has 1 numbers and `long_factor` 2, but 2 pairs are rotated",
        ),
        ("short_factor", json!([1.0, 0.0]), "`short_factor` must be a list of numbers above 0"),
        ("long_factor", Value::Null, "need `long_factor`"),
    ] {
        let mut wrong = more("longrope");
        wrong["rope_scaling"][key] = value;
        let problem = problem(&small("phi3", wrong));
        assert!(problem.contains(said), "{problem}");
    }
    for dropout in ["resid_pdrop", "embd_pdrop"] {
        let problem = problem(&small("phi3", json!({ dropout: 0.1 })));
        assert!(problem.starts_with(&format!("`{dropout}` is 0.1")), "{problem}");
    }
}

#[test]
fn sliding_windows_follow_family_and_layer_types() {
    let of = |name: &str, more: Value| windows(&parse(small(name, more)));
    let (none, window) = (None, Some(16));
    assert_eq!(of("llama", json!({ "sliding_window": 16 })), [none; 4]);
    assert_eq!(of("mistral", json!({})), [Some(4096); 4]);
    assert_eq!(of("mistral", json!({ "sliding_window": null })), [none; 4]);
    assert_eq!(of("mistral", json!({ "sliding_window": 16 })), [window; 4]);
    let types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"];
    let mixed = json!({ "sliding_window": 16, "layer_types": types });
    assert_eq!(of("mistral", mixed), [window, none, none, window]);
    assert_eq!(of("mistral", json!({ "sliding_window": 16, "layer_types": null })), [window; 4]);
    assert_eq!(
        of("mistral", json!({ "sliding_window": 16, "layer_types": vec!["full_attention"; 4] })),
        [none; 4]
    );
    assert_eq!(of("qwen2", json!({ "sliding_window": 16, "max_window_layers": 2 })), [none; 4]);
    let used = json!({ "sliding_window": 16, "use_sliding_window": true, "max_window_layers": 2 });
    assert_eq!(of("qwen2", used.clone()), [none, none, window, window]);
    assert_eq!(of("qwen3", used.clone()), [none, none, window, window]);
    assert_eq!(of("qwen3_moe", used), [window; 4]);
    assert_eq!(of("gemma2", json!({ "sliding_window": 16 })), [window, none, window, none]);
    assert_eq!(
        of("gemma3_text", json!({ "sliding_window": 16, "sliding_window_pattern": 3 })),
        [window, window, none, window]
    );
    let types = json!({ "sliding_window": 16,
                        "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"] });
    assert_eq!(of("gemma3_text", types), [none, window, none, none]);
    let smollm3 = parse(small("smollm3", json!({ "no_rope_layer_interval": 2 })));
    assert_eq!(
        smollm3.attention.iter().map(|layer| layer.rotary).collect::<Vec<_>>(),
        [true, false, true, false]
    );
    assert_eq!(windows(&smollm3), [none; 4]);
    let smollm3 = parse(small(
        "smollm3",
        json!({ "no_rope_layers": [0, 1, 1, 0], "use_sliding_window": true, "sliding_window": 16 }),
    ));
    assert_eq!(smollm3.attention[1], LayerAttention { window: none, rotary: true });
    assert_eq!(smollm3.attention[3], LayerAttention { window, rotary: false });
}

#[test]
fn experts_stand_in_some_layers() {
    let of = |more: Value| parse(small("qwen3_moe", more)).experts.unwrap();
    let default = of(json!({}));
    assert_eq!(
        (default.count, default.per_token, default.intermediate_size, default.normalised),
        (128, 8, 768, false)
    );
    assert_eq!(default.layers, [true; 4]);
    let some = of(
        json!({ "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": true,
                          "mlp_only_layers": [1], "decoder_sparse_step": 2 }),
    );
    assert_eq!((some.count, some.per_token, some.intermediate_size, some.normalised), (8, 2, 24, true));
    assert_eq!(some.layers, [false, false, false, true]);
    assert_eq!(of(json!({ "num_local_experts": 16 })).count, 16);
}

#[test]
fn rotary_positions_in_the_older_and_the_newer_way() {
    let of = |more: Value| parse(small("llama", more)).rope;
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_frequency: 1.0, high_frequency: 4.0, original_context: 32 };
    let parameters = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 32 });
    let mut newer = parameters.clone();
    newer["rope_theta"] = json!(5e5);
    let expected = Rope { theta: 5e5, scaling: llama3 };
    assert_eq!(of(json!({ "rope_theta": 5e5, "rope_scaling": parameters })), expected);
    assert_eq!(of(json!({ "rope_parameters": newer })), expected);
    assert_eq!(
        of(json!({ "rope_theta": 1e5, "rope_scaling": null })),
        Rope { theta: 1e5, scaling: RopeScaling::None }
    );
    assert_eq!(
        of(json!({ "rope_scaling": { "type": "linear", "factor": 2 } })),
        Rope { theta: 1e4, scaling: RopeScaling::Linear { factor: 2.0 } }
    );
    let yarn = |more: Value| {
        let mut parameters = json!({ "rope_type": "yarn", "factor": 4.0 });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(json!({ "rope_scaling": parameters })).scaling
    };
    let RopeScaling::Yarn { attention, beta_fast, beta_slow, original_context, truncate, .. } =
        yarn(json!({}))
    else {
        panic!("another scaling")
    };
    assert_eq!((beta_fast, beta_slow, original_context, truncate), (32.0, 1.0, 64, true));
    assert!((attention - (0.1 * 4.0f64.ln() + 1.0)).abs() < 1e-15);
    let RopeScaling::Yarn { attention, .. } = yarn(json!({ "mscale": 0.5, "mscale_all_dim": 2.0 })) else {
        panic!()
    };
    assert!((attention - (0.05 * 4.0f64.ln() + 1.0) / (0.2 * 4.0f64.ln() + 1.0)).abs() < 1e-15);
    // Null means the ratio of both contexts; an absent factor is an error.
    let ratio = yarn(json!({ "factor": null, "original_max_position_embeddings": 32 }));
    assert!(matches!(ratio, RopeScaling::Yarn { factor: 2.0, .. }), "{ratio:?}");
    let RopeScaling::Yarn { attention, .. } = yarn(json!({ "attention_factor": 0.7 })) else { panic!() };
    assert_eq!(attention, 0.7);
    // Both ways in one file: the older wins, unless it is empty.
    let both = |scaling: Value| {
        of(json!({ "rope_theta": 999.0, "rope_scaling": scaling,
                   "rope_parameters": { "rope_type": "linear", "factor": 3.0, "rope_theta": 777.0 } }))
    };
    let linear = |theta, factor| Rope { theta, scaling: RopeScaling::Linear { factor } };
    assert_eq!(both(json!({ "type": "linear", "factor": 2.0 })), linear(999.0, 2.0));
    assert_eq!(both(json!({})), linear(777.0, 3.0));
    assert_eq!(both(Value::Null), linear(777.0, 3.0));
}

/// The cards of Qwen2.5 add YaRN and leave `max_position_embeddings` as it is.
#[test]
fn yarn_extends_the_context() {
    let of = |more: Value| parse(small("qwen2", more)).context;
    let yarn = |kind: &str| json!({ "rope_scaling": { "type": kind, "factor": 4.0, "original_max_position_embeddings": 32 } });
    assert_eq!(of(json!({})), 64);
    assert_eq!(of(yarn("yarn")), 128);
    assert_eq!(of(yarn("linear")), 64);
    let mut raised = yarn("yarn");
    raised["max_position_embeddings"] = json!(200);
    assert_eq!(of(raised), 200);
}

#[test]
fn gemma3_has_two_bases() {
    let of = |more: Value| {
        let config = parse(small("gemma3_text", more));
        (config.rope, config.local_rope.unwrap())
    };
    let plain = |theta: f64| Rope { theta, scaling: RopeScaling::None };
    let linear = Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } };
    assert_eq!(of(json!({})), (plain(1e6), plain(1e4)));
    let flat = json!({ "rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": { "rope_type": "linear", "factor": 8.0 } });
    assert_eq!(of(flat), (linear.clone(), plain(2e4)));
    let nested = json!({ "rope_parameters": {
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1e6 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 2e4 },
    } });
    assert_eq!(of(nested), (linear.clone(), plain(2e4)));
    // The older key changes what it names, and keeps the rest.
    let both = json!({ "rope_scaling": { "rope_type": "linear", "factor": 8.0 }, "rope_parameters": {
        "full_attention": { "rope_type": "default", "rope_theta": 5e4 },
        "sliding_attention": { "rope_type": "default", "rope_theta": 300.0 },
    } });
    assert_eq!(of(both), (Rope { theta: 5e4, ..linear.clone() }, plain(300.0)));
    // Without another type beside it, `type` is the type.
    let older = json!({ "rope_parameters": { "full_attention": { "type": "linear", "factor": 8.0 } } });
    assert_eq!(of(older), (linear, plain(1e4)));
    assert_eq!(of(json!({ "rope_scaling": {}, "rope_parameters": {} })), (plain(1e6), plain(1e4)));
    // Parameters per kind of layer have their own original context.
    let yarn = json!({ "original_max_position_embeddings": 16, "rope_parameters": { "full_attention": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
    } } });
    assert!(matches!(of(yarn).0.scaling, RopeScaling::Yarn { original_context: 32, .. }));
}

/// transformers cannot run a Gemma 2 or 3 whose window is null, even if no layer has one.
#[test]
fn gemma_without_windows_is_written_with_a_number() {
    for name in ["gemma2", "gemma3_text"] {
        let config = parse(small(name, json!({ "layer_types": vec!["full_attention"; 4] })));
        let written = write(&config, &TokenIds::default());
        assert_eq!(written["sliding_window"], json!(4096), "{name}");
        assert_eq!(parse(written), config, "{name}");
    }
}

#[test]
fn written_config_json_is_read_as_the_same_config() {
    let window = json!({ "sliding_window": 16, "use_sliding_window": true, "max_window_layers": 2 });
    let yarn =
        json!({ "rope_scaling": { "rope_type": "yarn", "factor": 4.0, "truncate": false, "beta_fast": 16 } });
    for (name, more) in [
        ("llama", json!({ "attention_bias": true, "mlp_bias": true, "rms_norm_eps": 1e-5 })),
        ("llama", yarn),
        (
            "llama",
            json!({ "tie_word_embeddings": true, "rope_scaling": { "type": "linear", "factor": 2.5 } }),
        ),
        ("mistral", json!({ "sliding_window": null })),
        ("mistral", json!({ "sliding_window": 16 })),
        (
            "mistral",
            json!({ "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention",
                    "full_attention", "full_attention"] }),
        ),
        ("granite", json!({ "attention_multiplier": 0.3, "logits_scaling": 49.0 })),
        ("qwen2", window.clone()),
        ("qwen3", window.clone()),
        ("qwen3_moe", window),
        ("qwen3_moe", json!({ "num_experts": 8, "mlp_only_layers": [0, 2], "norm_topk_prob": true })),
        ("smollm3", json!({ "no_rope_layers": [1, 0, 1, 1] })),
        ("gemma", json!({})),
        (
            "gemma2",
            json!({ "attn_logit_softcapping": null, "query_pre_attn_scalar": 144, "sliding_window": 16 }),
        ),
        ("gemma2", json!({ "query_pre_attn_scalar": 2.3, "hidden_activation": "silu" })),
        ("gemma", json!({ "hidden_act": "silu" })),
        ("gemma3_text", json!({ "sliding_window": 16, "final_logit_softcapping": 30.0 })),
        (
            "gemma3_text",
            json!({ "rope_parameters": { "sliding_attention": { "rope_type": "linear", "factor": 2.0 } } }),
        ),
    ] {
        let config = parse(small(name, more.clone()));
        let ids = TokenIds { begin: json!(1), end: json!([2, 3]), padding: Value::Null };
        let written = write(&config, &ids);
        assert_eq!(parse(written.clone()), config, "{name} {more}");
        assert_eq!(TokenIds::read(&written), ids);
        let scores = Config { scalar_head: true, ..config };
        assert_eq!(parse(write(&scores, &ids)), scores, "{name} {more}");
    }
}

/// An inverse is rounded, but the written number must be read back as the same scale.
#[test]
fn scales_survive_their_inverse() {
    for number in (1..2000).map(|number| f64::from(number) * 0.37) {
        let more = json!({ "query_pre_attn_scalar": number, "logits_scaling": number });
        for name in ["gemma2", "granite"] {
            assert_eq!(unwritten(&parse(small(name, more.clone()))), None, "{name}: {number}");
        }
    }
}

#[test]
fn features_without_a_config_json_key_are_named() {
    let llama = parse(small("llama", json!({})));
    assert_eq!(unwritten(&llama), None);
    let capped = Config { attention_softcap: Some(50.0), logit_softcap: Some(30.0), ..llama.clone() };
    assert_eq!(
        unwritten(&capped).unwrap(),
        "`config.json` of `llama` has no setting for its soft cap of attention scores, soft cap of logits"
    );
    let windows = vec![LayerAttention { window: Some(16), rotary: true }; 4];
    assert!(unwritten(&Config { attention: windows, ..llama }).unwrap().ends_with("its sliding windows"));
}

/// Published Gemma files say `gelu` and mean the approximation; the key of version 4 may stand beside it.
#[test]
fn gemma_gelu_means_the_tanh_approximation() {
    let of = |more: Value| read(&small("gemma", more)).map(|config| config.activation);
    for more in [
        json!({}),
        json!({ "hidden_act": "gelu" }),
        json!({ "hidden_act": "gelu", "hidden_activation": null }),
        json!({ "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh" }),
        json!({ "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh" }),
    ] {
        assert_eq!(of(more.clone()), Ok(Activation::Gelu), "{more}");
    }
    let silu = json!({ "hidden_act": "silu" });
    assert_eq!(of(silu), Ok(Activation::Silu));
    for more in [
        json!({ "hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh" }),
        json!({ "hidden_activation": "silu" }),
    ] {
        assert!(of(more).unwrap_err().contains("`hidden_act` and `hidden_activation` name two activations"));
    }
}

/// One label is a score. The reference's default is two, which is a classifier and is refused.
#[test]
fn a_model_that_scores_has_one_label() {
    let of = |labels: Value| {
        let mut json = small("qwen3", json!({ "architectures": ["Qwen3ForSequenceClassification"] }));
        labels.as_object().unwrap().iter().for_each(|(key, value)| json[key] = value.clone());
        json
    };
    assert!(parse(of(json!({ "id2label": { "0": "LABEL_0" } }))).scalar_head);
    assert!(parse(of(json!({ "num_labels": 1 }))).scalar_head);
    assert!(!parse(small("qwen3", json!({ "architectures": ["Qwen3ForCausalLM"] }))).scalar_head);
    let classes = "it is a classifier with 2 classes: a reward model has one";
    assert_eq!(problem(&of(json!({}))), classes);
    assert_eq!(problem(&of(json!({ "id2label": { "0": "no", "1": "yes" } }))), classes);
}

/// A model that reads images has its decoder's keys in `text_config`.
#[test]
fn the_text_part_of_qwen3_5_is_read_from_a_model_with_images() {
    let text = small("qwen3_5_text", json!({ "tie_word_embeddings": true, "eos_token_id": 7 }));
    let config = parse(text.clone());
    let delta = config.gated_delta.as_ref().unwrap();
    assert_eq!(delta.layers, [true, true, true, false]);
    let GatedDelta { key_heads, value_heads, key_head_dim, value_head_dim, convolution, .. } = *delta;
    assert_eq!([key_heads, value_heads, key_head_dim, value_head_dim, convolution], [16, 32, 128, 128, 4]);
    assert_eq!((config.rotary_dim, config.norm.offset, config.attention_gate), (Some(2), 1.0, true));
    let whole = json!({
        "model_type": "qwen3_5", "text_config": text, "vision_config": { "depth": 1 },
        "tie_word_embeddings": false, "eos_token_id": 8,
    });
    assert_eq!(parse(whole.clone()), config);
    assert_eq!(TokenIds::read(&whole).end, json!(7));
    let every = parse(small("qwen3_5_text", json!({ "full_attention_interval": 2 })));
    assert_eq!(every.gated_delta.unwrap().layers, [true, false, true, false]);
}

#[test]
fn a_head_may_be_rotated_in_part() {
    let rotary_dim = |more: Value| parse(small("qwen3_5_text", more)).rotary_dim;
    let parameters = |factor: f64| json!({ "rope_type": "default", "partial_rotary_factor": factor });
    assert_eq!(rotary_dim(json!({ "partial_rotary_factor": 0.5 })), Some(4));
    assert_eq!(rotary_dim(json!({ "partial_rotary_factor": 0.5, "rope_parameters": parameters(1.0) })), None);
    for head_dim in (2..300).step_by(2) {
        for rotated in (2..=head_dim).step_by(2) {
            let config = Config {
                head_dim,
                rotary_dim: (rotated < head_dim).then_some(rotated),
                attention_scale: 1.0 / (head_dim as f64).sqrt(),
                ..parse(small("qwen3_5_text", json!({})))
            };
            assert_eq!(unwritten(&config), None, "{rotated} of {head_dim}");
        }
    }
}

#[test]
fn unsupported_config_json_is_refused_with_the_key() {
    for (json, expected) in [
        (json!([]), "not a JSON object"),
        (json!({}), "`model_type` is missing"),
        (json!({ "model_type": "mamba" }), "`mamba` is not supported; supported are `llama`, "),
        (json!({ "model_type": "gemma3" }), "its text part alone is `gemma3_text`"),
        (small("llama", json!({ "hidden_act": "relu" })), "`hidden_act` is `relu`"),
        (small("gemma2", json!({ "hidden_activation": "gelu" })), "`hidden_activation` is `gelu`"),
        (
            small("llama", json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } })),
            "quantised (`gptq`)",
        ),
        (
            small("llama", json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.0 } })),
            "`dynamic` are not supported",
        ),
        (
            small("llama", json!({ "rope_scaling": { "type": "longrope", "factor": 2.0 } })),
            "`longrope` are not supported",
        ),
        (small("llama", json!({ "rope_scaling": { "rope_type": "linear" } })), "need `factor`"),
        (
            small("gemma3_text", json!({ "rope_scaling": { "type": "linear", "factor": 8.0 } })),
            "has `type`, which transformers ignores there: name the type `rope_type`",
        ),
        (
            small(
                "gemma3_text",
                json!({ "rope_parameters": { "full_attention": { "rope_type": "yarn", "factor": 4.0, "truncate": false } } }),
            ),
            "`truncate` is false, which is not supported for `gemma3_text`",
        ),
        (
            small("llama", json!({ "rope_parameters": { "full_attention": {} } })),
            "supported for `gemma3_text` only",
        ),
        (small("llama", json!({ "partial_rotary_factor": 0.5 })), "`partial_rotary_factor` is 0.5"),
        (
            small(
                "gemma3_text",
                json!({ "rope_parameters": { "full_attention": { "partial_rotary_factor": 0.5 } } }),
            ),
            "`partial_rotary_factor` is 0.5",
        ),
        (
            small("qwen3_5_text", json!({ "hidden_act": "gelu_pytorch_tanh" })),
            "supported for `qwen3_5_text` is `silu`",
        ),
        (
            small("qwen3_5_text", json!({ "linear_num_value_heads": 24 })),
            "must be a multiple of `linear_num_key_heads`",
        ),
        (
            small("qwen3_5_text", json!({ "layer_types": vec!["sliding_attention"; 4] })),
            "\"sliding_attention\"",
        ),
        (json!({ "model_type": "qwen3_5" }), "`text_config` is missing"),
        (small("llama", json!({ "attention_dropout": 0.1 })), "`attention_dropout` is 0.1"),
        (
            small("gemma3_text", json!({ "use_bidirectional_attention": true })),
            "does not predict the next token",
        ),
        (
            small("llama", json!({ "is_causal": false })),
            "`is_causal` is false: such a model does not predict",
        ),
        (small("llama", json!({ "rope_scaling": { "rope_type": "yarn" } })), "`yarn` need `factor`"),
        (small("gemma3_text", json!({ "attn_logit_softcapping": 50.0 })), "must be null"),
        (small("qwen3", json!({ "layer_types": vec!["linear_attention"; 4] })), "\"linear_attention\""),
        (small("qwen3", json!({ "layer_types": vec!["sliding_attention"; 4] })), "sets no window"),
        (
            small("qwen3", json!({ "layer_types": vec!["full_attention"; 3] })),
            "has 3 elements, but there are 4 layers",
        ),
        (small("smollm3", json!({ "no_rope_layers": [1, 0, 2, 0] })), "`no_rope_layers` has 2"),
        (small("qwen3_moe", json!({ "mlp_only_layers": [4] })), "`mlp_only_layers` has 4"),
        (small("qwen3_moe", json!({ "num_experts": 2 })), "8 of 2 experts"),
    ] {
        let problem = problem(&json);
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn hostile_values_are_errors() {
    let sizes = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    ];
    for key in sizes {
        for value in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!(u64::MAX),
            json!(1u64 << 40),
            json!("32"),
            json!([32]),
            json!(1e300),
        ] {
            let problem = problem(&small("llama", json!({ key: value })));
            assert!(!problem.is_empty());
        }
    }
    for more in [
        json!({ "rms_norm_eps": 0.0 }),
        json!({ "rope_theta": -1.0 }),
        json!({ "rope_scaling": 3 }),
        json!({ "rope_scaling": { "rope_type": "linear", "factor": 0.0 } }),
        json!({ "rope_scaling": { "rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1 } }),
        json!({ "tie_word_embeddings": "yes" }),
        json!({ "num_attention_heads": 3 }),
        json!({ "head_dim": 7 }),
    ] {
        problem(&small("llama", more));
    }
    for (name, more) in [
        ("mistral", json!({ "sliding_window": 0 })),
        ("gemma3_text", json!({ "sliding_window_pattern": 0 })),
        ("gemma2", json!({ "query_pre_attn_scalar": 0 })),
        ("gemma2", json!({ "final_logit_softcapping": -3.0 })),
        ("smollm3", json!({ "no_rope_layer_interval": 0 })),
        ("qwen3_moe", json!({ "decoder_sparse_step": 0 })),
        ("qwen3_moe", json!({ "num_experts": 0 })),
        ("qwen3_5_text", json!({ "full_attention_interval": 0 })),
        ("qwen3_5_text", json!({ "partial_rotary_factor": 0.0 })),
        ("qwen3_5_text", json!({ "partial_rotary_factor": 1.5 })),
        ("qwen3_5_text", json!({ "linear_conv_kernel_dim": 0 })),
        ("qwen3_5_text", json!({ "linear_key_head_dim": u64::MAX })),
    ] {
        problem(&small(name, more));
    }
}
