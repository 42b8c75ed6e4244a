//! Exports a stage to another training engine: the engine's configuration with every default written out, the
//! objective as code, and a report of what is exact, approximate or refused.
//!
//! Every construct that an engine can't express is refused by name ([`coverage`]). The objective is printed
//! from the graph that the interpreter, machine code and tensors compute ([`torch`]).

pub mod coverage;
pub mod patterns;
mod per_token;
pub mod rewards;
pub mod schema;
pub mod stage;
pub mod torch;
mod trl;
mod verl;
mod weights;

use mopd_expr::signals::{Distribution, DivergenceKind, Live, Support};
use mopd_plan::Objective;
use serde_json::json;

use self::coverage::Coverage;
use self::stage::{ExportRequest, ExportSettings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportEngine {
    Verl,
    Trl,
}

impl ExportEngine {
    pub const ALL: [ExportEngine; 2] = [ExportEngine::Verl, ExportEngine::Trl];

    pub fn name(self) -> &'static str {
        match self {
            ExportEngine::Verl => "verl",
            ExportEngine::Trl => "trl",
        }
    }

    /// The release of the engine that the files are written for.
    pub fn version(self) -> &'static str {
        match self {
            ExportEngine::Verl => "0.9.1",
            ExportEngine::Trl => "1.16.0",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFile {
    /// The file's path within the export's folder.
    pub name: String,
    pub text: String,
}

impl ExportFile {
    fn new(name: &str, text: impl Into<String>) -> ExportFile {
        ExportFile { name: name.to_owned(), text: text.into() }
    }
}

/// The files of an export, except the rows of data.
pub struct Export {
    pub files: Vec<ExportFile>,
    /// Whether prompts are written as lists of messages, also those of plain text.
    pub messages: bool,
}

/// Exports a stage to an engine. There are files only where nothing is refused.
pub fn export<'a>(
    engine: ExportEngine,
    request: ExportRequest<'a>,
) -> (Coverage, Option<(Export, ExportSettings<'a>)>) {
    let mut coverage = Coverage::default();
    let Some(settings) = stage::settings(request, &mut coverage) else { return (coverage, None) };
    let mut export = match engine {
        ExportEngine::Verl => verl::export(&settings, &mut coverage),
        ExportEngine::Trl => trl::export(&settings, &mut coverage),
    };
    if settings.start.as_ref().is_some_and(|start| start.bytes) {
        export.files.extend(bytes_tokenizer());
    }
    let whole = coverage.refused().next().is_none();
    (coverage, whole.then_some((export, settings)))
}

/// A chat template that writes only the messages' texts.
const TEXT_CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['content'] }}{% endfor %}";
/// The same after the token that begins a prompt of bytes.
const BYTES_CHAT_TEMPLATE: &str =
    "<|begin|>{% for message in messages %}{{ message['content'] }}{% endfor %}";

fn objective_header(engine: &str, objective: &Objective) -> String {
    format!(
        "\"\"\"The objective `{}`, for {engine}. Made by `mopd export`.\"\"\"\n\nimport mopd_tensors as mt\nimport \
         torch\n",
        objective.name.replace(['\\', '"'], "'")
    )
}

/// The source text of a live primitive.
fn live_text(live: &Live) -> String {
    match live {
        Live::Logp => "live student.logp".to_owned(),
        Live::EndLogp => "live student.end_logp".to_owned(),
        Live::Value => "live student.value".to_owned(),
        Live::ConfidenceLogit => "live student.confidence".to_owned(),
        Live::Likelihood { of } => format!("live nll({})", of.name()),
        Live::Ranking { role, k } => format!("live ranking(order: top_k({}, {k}))", role.name()),
        Live::Other { text } => format!("live {text}"),
        Live::Divergence(divergence) => {
            fn side(of: &Distribution) -> String {
                match of {
                    Distribution::Role(role) => role.name(),
                    Distribution::Detached(inner) => format!("detach({})", side(inner)),
                    Distribution::Blend(_) => "blend".to_owned(),
                }
            }
            let kind = match &divergence.kind {
                DivergenceKind::Kl => "kl",
                DivergenceKind::SortedL1 => "sorted_l1",
                DivergenceKind::Entrywise(_) => "a divergence by entries",
            };
            let support = match &divergence.support {
                Support::Full => String::new(),
                Support::TopK { role, k } => format!(", top_k({}, {k})", role.name()),
                Support::Nucleus { role, p } => format!(", nucleus({}, {p})", role.name()),
                Support::Sampled => ", sampled".to_owned(),
                Support::Matched { .. } => ", matched".to_owned(),
                Support::Unmatched { .. } => ", unmatched".to_owned(),
                Support::Union { .. } => ", union".to_owned(),
                Support::Intersection { .. } => ", intersection".to_owned(),
            };
            format!("live {kind}({} || {}{support})", side(&divergence.left), side(&divergence.right))
        }
    }
}

/// The tokenizer of bytes in the format of `tokenizers`: each byte is a token, whose id is the byte.
fn bytes_tokenizer() -> [ExportFile; 2] {
    let mut vocabulary = serde_json::Map::new();
    let mut spare = 256u32..;
    for byte in 0u32..256 {
        // As in byte-level BPE: printable bytes map to themselves, the others to 256 and up in order.
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let letter = if printable { Some(byte) } else { spare.next() };
        let letter = letter.and_then(char::from_u32).expect("a letter of the first blocks");
        vocabulary.insert(letter.to_string(), json!(byte));
    }
    let special = [("<|begin|>", 256), ("<|end|>", 257), ("<|padding|>", 258)];
    let added: Vec<serde_json::Value> = special
        .iter()
        .map(|(content, id)| {
            json!({"id": id, "content": content, "special": true, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        })
        .collect();
    let begin = json!({"SpecialToken": {"id": "<|begin|>", "type_id": 0}});
    let of = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added,
        "pre_tokenizer": bytes, "decoder": bytes,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, of("A")], "pair": [begin, of("A"), of("B")],
            "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [256], "tokens": ["<|begin|>"]}},
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": [],
        },
    });
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>",
        "pad_token": "<|padding|>", "clean_up_tokenization_spaces": false,
    });
    [
        ExportFile::new("tokenizer/tokenizer.json", format!("{tokenizer:#}\n")),
        ExportFile::new("tokenizer/tokenizer_config.json", format!("{settings:#}\n")),
    ]
}
