//! How the families' `config.json` files differ: names, and defaults of absent keys.

use crate::model::ModelFamily;

/// A family's name in `model_type`, and the class of transformers, which other tools look for.
pub(super) const NAMES: [(ModelFamily, &str, &str); 14] = [
    (ModelFamily::Llama, "llama", "LlamaForCausalLM"),
    (ModelFamily::Granite, "granite", "GraniteForCausalLM"),
    (ModelFamily::Mistral, "mistral", "MistralForCausalLM"),
    (ModelFamily::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    (ModelFamily::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    (ModelFamily::Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"),
    (ModelFamily::Qwen35, "qwen3_5_text", "Qwen3_5ForCausalLM"),
    (ModelFamily::SmolLm3, "smollm3", "SmolLM3ForCausalLM"),
    (ModelFamily::GptOss, "gpt_oss", "GptOssForCausalLM"),
    (ModelFamily::Lfm2, "lfm2", "Lfm2ForCausalLM"),
    (ModelFamily::Phi3, "phi3", "Phi3ForCausalLM"),
    (ModelFamily::Gemma, "gemma", "GemmaForCausalLM"),
    (ModelFamily::Gemma2, "gemma2", "Gemma2ForCausalLM"),
    (ModelFamily::Gemma3, "gemma3_text", "Gemma3ForCausalLM"),
];

pub(super) fn named(name: &str) -> Option<ModelFamily> {
    NAMES.iter().find(|(_, known, _)| *known == name).map(|(family, ..)| *family)
}

/// The supported families, for messages.
pub(super) fn names() -> String {
    NAMES.map(|(_, name, _)| format!("`{name}`")).join(", ")
}

/// The key of the epsilon of normalisations.
pub(super) fn epsilon_key(family: ModelFamily) -> &'static str {
    if family == ModelFamily::Lfm2 { "norm_eps" } else { "rms_norm_eps" }
}

/// The part of a head that is rotated where the file does not say it; `None` where the file can't say it.
pub(super) fn rotated_part(family: ModelFamily) -> Option<f64> {
    match family {
        ModelFamily::Qwen35 => Some(0.25),
        ModelFamily::Phi3 => Some(1.0),
        _ => None,
    }
}

/// A model that reads images too, and the family of its text part, which `text_config` describes.
const WITH_IMAGES: [(&str, ModelFamily); 1] = [("qwen3_5", ModelFamily::Qwen35)];

/// The family of the text part of a model type that reads images too.
pub(super) fn text_part(name: &str) -> Option<ModelFamily> {
    WITH_IMAGES.iter().find(|(known, _)| *known == name).map(|(_, family)| *family)
}

/// A family's defaults in transformers 5.23; those of Qwen3.5 and later families in 5.24.
pub(super) struct Defaults {
    pub vocabulary: usize,
    pub width: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    /// None: as many as heads.
    pub key_value_heads: Option<usize>,
    /// None: width divided by heads.
    pub head_dim: Option<usize>,
    pub context: usize,
    pub tied: bool,
    pub theta: f64,
    pub epsilon: f64,
}

impl Defaults {
    pub fn for_family(family: ModelFamily) -> Defaults {
        let llama = Defaults {
            vocabulary: 32_000,
            width: 4096,
            intermediate_size: 11_008,
            layers: 32,
            heads: 32,
            key_value_heads: None,
            head_dim: None,
            context: 2048,
            tied: false,
            theta: 10_000.0,
            epsilon: 1e-6,
        };
        let qwen2 = Defaults {
            vocabulary: 151_936,
            intermediate_size: 22_016,
            key_value_heads: Some(32),
            context: 32_768,
            ..llama
        };
        let gemma2 = Defaults {
            vocabulary: 256_000,
            width: 2304,
            intermediate_size: 9216,
            layers: 26,
            heads: 8,
            key_value_heads: Some(4),
            head_dim: Some(256),
            context: 8192,
            tied: true,
            ..llama
        };
        match family {
            ModelFamily::Llama | ModelFamily::Granite => llama,
            ModelFamily::Mistral => {
                Defaults { intermediate_size: 14_336, key_value_heads: Some(8), context: 131_072, ..llama }
            }
            ModelFamily::Qwen2 => qwen2,
            ModelFamily::Qwen3 => Defaults { head_dim: Some(128), ..qwen2 },
            ModelFamily::Qwen3Moe => Defaults {
                width: 2048,
                intermediate_size: 6144,
                layers: 24,
                key_value_heads: Some(4),
                ..qwen2
            },
            ModelFamily::Qwen35 => Defaults {
                vocabulary: 248_320,
                intermediate_size: 12_288,
                heads: 16,
                key_value_heads: Some(4),
                head_dim: Some(256),
                context: 32_768,
                ..llama
            },
            ModelFamily::SmolLm3 => Defaults {
                vocabulary: 128_256,
                width: 2048,
                layers: 36,
                heads: 16,
                key_value_heads: Some(4),
                context: 32_768,
                tied: true,
                theta: 2_000_000.0,
                ..llama
            },
            ModelFamily::GptOss => Defaults {
                vocabulary: 201_088,
                width: 2880,
                intermediate_size: 2880,
                layers: 36,
                heads: 64,
                key_value_heads: Some(8),
                head_dim: Some(64),
                context: 131_072,
                theta: 150_000.0,
                epsilon: 1e-5,
                ..llama
            },
            ModelFamily::Lfm2 => Defaults {
                vocabulary: 65_536,
                width: 2560,
                intermediate_size: 12_288,
                key_value_heads: Some(8),
                context: 128_000,
                tied: true,
                theta: 1_000_000.0,
                epsilon: 1e-5,
                ..llama
            },
            ModelFamily::Phi3 => Defaults {
                vocabulary: 32_064,
                width: 3072,
                intermediate_size: 8192,
                context: 4096,
                epsilon: 1e-5,
                ..llama
            },
            ModelFamily::Gemma => Defaults {
                width: 3072,
                intermediate_size: 24_576,
                layers: 28,
                heads: 16,
                key_value_heads: Some(16),
                ..gemma2
            },
            ModelFamily::Gemma2 => gemma2,
            ModelFamily::Gemma3 => {
                Defaults { vocabulary: 262_208, context: 131_072, theta: 1_000_000.0, ..gemma2 }
            }
        }
    }
}
