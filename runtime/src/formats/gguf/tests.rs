//! Reads files that `runtime/tests/fixtures/gguf/make.py` wrote with the gguf package; transformers reads the
//! same weights from them.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::formats::{config_json, safetensors};
use crate::model::{Biases, Rope, RopeScaling};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)
}

/// The numbers that `make.py` wrote, by its formula.
fn expected(name: &str, count: usize) -> Vec<f32> {
    let start = u64::from(crc32(name.as_bytes()));
    let number = |place: u64| (place.wrapping_mul(2_654_435_761).wrapping_add(start) % (1 << 32)) >> 24;
    (0..count as u64).map(|place| number(place) as f32 / 8.0 - 16.0).collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 },
        )
    })
}

#[test]
fn weights_and_configurations_of_four_families() {
    let mut configs = Vec::new();
    for name in ["llama", "qwen2", "qwen3moe", "gemma3"] {
        let gguf = open(&fixture(&format!("{name}.gguf"))).unwrap();
        for (entry, part) in layout(&gguf.config).iter().zip(&gguf.parts) {
            let mut values = vec![0.0; entry.len()];
            part.read(&mut values);
            assert_eq!(values, expected(&entry.name, entry.len()), "{name}: {}", entry.name);
        }
        configs.push(gguf.config);
    }
    let [llama, qwen2, qwen3moe, gemma3] = configs.try_into().unwrap();
    assert_eq!(
        (llama.width, llama.intermediate_size, llama.heads, llama.key_value_heads, llama.head_dim),
        (32, 64, 4, 2, 8)
    );
    assert_eq!((llama.layers, llama.vocabulary, llama.context, llama.tied), (2, 40, 128, false));
    assert_eq!(llama.norm.epsilon, 1e-5);
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_frequency: 1.0, high_frequency: 4.0, original_context: 8192 };
    assert_eq!(llama.rope, Rope { theta: 5e5, scaling: llama3 });
    assert_eq!(qwen2.biases, Biases { query_key_value: true, output: false, feed_forward: false });
    assert!(qwen2.tied && qwen2.rope.scaling == RopeScaling::None);
    let experts = qwen3moe.experts.unwrap();
    assert_eq!(
        (experts.count, experts.per_token, experts.intermediate_size, experts.normalised),
        (4, 2, 32, true)
    );
    assert_eq!(experts.layers, [true, true]);
    assert_eq!(gemma3.rope, Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert_eq!(gemma3.local_rope, Some(Rope { theta: 1e4, scaling: RopeScaling::None }));
    assert_eq!(gemma3.attention[0].window, Some(16));
    assert_eq!(gemma3.attention_scale, 1.0 / 8.0f64.sqrt());
}

/// Mistral files have Llama's architecture name. The model must be writable, or it could not be trained.
#[test]
fn a_llama_with_windows_is_a_mistral() {
    let file = MappedFile::open(&fixture("llama.gguf")).unwrap();
    let mut contents = parse::parse(file.bytes()).unwrap();
    contents.metadata.insert("llama.attention.sliding_window".into(), GgufValue::Unsigned(16));
    let mistral = config::config(&contents, None).unwrap();
    assert_eq!(mistral.family, ModelFamily::Mistral);
    assert!(mistral.attention.iter().all(|layer| layer.window == Some(16) && layer.rotary));
    assert_eq!(config_json::unwritten(&mistral), None);
    // The rows of queries and keys are reordered as for Llama.
    let queries = |config: &Config| {
        let entry = layout(config).into_iter().find(|entry| entry.name.contains(".q_proj.")).unwrap();
        let place = &contents.tensors["blk.0.attn_q.weight"];
        let part = MappedTensor::new(file.clone(), place.range.clone(), place.encoding, 32, 32).unwrap();
        let part = undo(config, &entry.name, entry.kind, part).unwrap();
        let mut values = vec![0.0; 32 * 32];
        part.read(&mut values);
        (entry.name, values)
    };
    let (name, values) = queries(&mistral);
    assert_eq!(values, expected(&name, 32 * 32));
    contents.metadata.insert("llama.attention.sliding_window".into(), GgufValue::Unsigned(0));
    assert_eq!(config::config(&contents, None).unwrap().family, ModelFamily::Llama);
}

#[test]
fn every_encoding_means_what_the_gguf_package_says() {
    let file = MappedFile::open(&fixture("quantised.gguf")).unwrap();
    let contents = parse::parse(file.bytes()).unwrap();
    assert_eq!(contents.tensors.len(), 10);
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixture("quantised.safetensors"), folder.path().join(safetensors::MODEL)).unwrap();
    let expected = safetensors::open(folder.path()).unwrap();
    for (name, place) in contents.tensors {
        let stored = MappedTensor::new(file.clone(), place.range, place.encoding, 2, 512).unwrap();
        let mut values = vec![0.0; 1024];
        stored.read(&mut values);
        for (value, expected) in values.iter().zip(expected[&name].values()) {
            // Products of three factors may be rounded in another order.
            assert!((value - expected).abs() <= 1e-6 * expected.abs(), "{name}: {value} {expected}");
        }
        // A row read alone has the same numbers.
        let mut row = vec![0.0; 512];
        stored.narrow(1, 1).unwrap().read(&mut row);
        assert_eq!(row, values[512..], "{name}");
    }
}

#[test]
fn damaged_files_are_errors_wherever_the_damage_is() {
    let good = fs::read(fixture("llama.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    let opened = |bytes: &[u8]| {
        // A new file each time, since a mapped file must not change.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        open(&path)
    };
    // The weights are the last 41 KB: cut the file at every byte before them.
    let header = good.len() - 41_000;
    for length in 0..header {
        assert!(opened(&good[..length]).is_err(), "{length} bytes");
    }
    assert!(opened(&good[..good.len() - 64]).is_err());
    // Change each byte of the header. Many results are still valid files; none may panic or fill the
    // memory.
    for place in 0..header {
        for flip in [1, 128, 255] {
            let mut bad = good.clone();
            bad[place] ^= flip;
            let _ = opened(&bad);
        }
    }
}

/// As llama.cpp reads them (`load_hparams`).
#[test]
fn settings_that_a_file_leaves_out_have_the_defaults_of_llama_cpp() {
    let contents = |name: &str| {
        let file = MappedFile::open(&fixture(name)).unwrap();
        parse::parse(file.bytes()).unwrap()
    };
    let rope = |values: &[(&str, GgufValue)], frequencies| {
        let mut contents = contents("llama.gguf");
        contents.metadata.retain(|key, _| !key.contains("rope.scal"));
        contents.metadata.extend(values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        config::config(&contents, frequencies).map(|config| config.rope.scaling)
    };
    let factor = |factor| ("llama.rope.scaling.factor", GgufValue::Float(factor));
    let linear = Ok(RopeScaling::Linear { factor: 4.0 });
    assert_eq!(rope(&[factor(4.0)], None), linear, "without a type");
    assert_eq!(rope(&[("llama.rope.scale_linear", GgufValue::Float(4.0))], None), linear, "the older key");
    let none = ("llama.rope.scaling.type", GgufValue::Text("none".to_owned()));
    for values in [vec![], vec![factor(1.0)], vec![factor(0.0)], vec![factor(4.0), none]] {
        assert_eq!(rope(&values, None), Ok(RopeScaling::None), "{values:?}");
    }
    let twice = rope(&[factor(4.0)], Some(&[1.0; 4])).unwrap_err();
    assert!(twice.contains("scaled twice"), "{twice}");

    // Gemma 2 has every second layer in a window of 4096; the files of Gemma 3 always have its width.
    let gemma = |architecture: &str, values: &[(&str, GgufValue)]| {
        let mut contents = contents("gemma3.gguf");
        let renamed = contents.metadata.into_iter().filter(|(key, _)| !key.contains("sliding_window"));
        let renamed =
            renamed.map(|(key, value)| (key.replace("gemma3.", &format!("{architecture}.")), value));
        contents.metadata = renamed.collect();
        contents.metadata.insert("general.architecture".into(), GgufValue::Text(architecture.to_owned()));
        contents
            .metadata
            .extend(values.iter().map(|(key, value)| (format!("{architecture}.{key}"), value.clone())));
        let config = config::config(&contents, None)?;
        Ok::<_, String>((config.attention[0].window, config.attention[1].window))
    };
    assert_eq!(gemma("gemma2", &[]), Ok((Some(4096), None)));
    assert_eq!(gemma("gemma2", &[("attention.sliding_window", GgufValue::Unsigned(8))]), Ok((Some(8), None)));
    assert_eq!(gemma("gemma3", &[]), Ok((None, None)));
    let pattern = |period| [("attention.sliding_window_pattern", GgufValue::Unsigned(period))];
    assert_eq!(gemma("gemma2", &pattern(2)), Ok((Some(4096), None)));
    assert!(gemma("gemma2", &pattern(4)).unwrap_err().contains("sliding_window_pattern"));
}

/// Files of Llama 3 from before llama.cpp wrote `add_bos_token`.
#[test]
fn texts_begin_as_in_llama_cpp_where_a_file_does_not_say() {
    for (pre, begins) in [("llama-bpe", true), ("gpt-2", false), ("qwen2", false)] {
        let bytes = fs::read(fixture(&format!("tokenizer.{pre}.gguf"))).unwrap();
        let mut metadata = parse::parse(&bytes).unwrap().metadata;
        metadata.remove("tokenizer.ggml.add_bos_token");
        let files = tokenizer::files(&metadata).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(&files[0].1).unwrap();
        let begin = tokenizer.token_to_id("<|start|>");
        let encoded = tokenizer.encode("a b", true).unwrap();
        assert_eq!(encoded.get_ids().first() == begin.as_ref(), begins, "{pre}");
    }
}

#[test]
fn problems_are_named() {
    let problem = |bytes: &[u8]| parse::parse(bytes).unwrap_err();
    assert!(problem(b"PK\x03\x04").contains("not a GGUF file"));
    assert!(problem(b"GGUF\x01\0\0\0").contains("version 1 is not supported"));
    assert!(problem(b"GGUF\0\0\0\x03").contains("big-endian"));
    let header = |tensors: u64, values: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &values.to_le_bytes()].concat()
    };
    assert!(problem(&header(u64::MAX, 0)).contains("ends too early"));
    assert!(problem(&header(0, u64::MAX)).contains("ends too early"));
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let list = |length: u64| [&9u32.to_le_bytes()[..], &0u32.to_le_bytes(), &length.to_le_bytes()].concat();
    assert!(problem(&[header(0, 1), text("a"), list(u64::MAX)].concat()).contains("is too long"));
    let kind = |kind: u32| {
        [header(1, 0), text("t"), [1u32, 8, 0, kind, 0, 0].map(u32::to_le_bytes).concat()].concat()
    };
    assert!(problem(&kind(19)).contains("the tensor t is of type IQ1_S; supported are F32"));
    let file = open(&fixture("quantised.gguf")).unwrap_err().to_string();
    assert!(file.contains("architecture `none` is not supported; supported are `llama`"), "{file}");
}

#[test]
fn tokenizers_split_and_merge_as_the_tokenizers_package_does() {
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
        let bytes = fs::read(fixture(&format!("tokenizer.{pre}.gguf"))).unwrap();
        let files = tokenizer::files(&parse::parse(&bytes).unwrap().metadata).unwrap();
        let [(_, tokenizer), (_, config), (_, generation)] = files.as_slice() else { panic!("three files") };
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer).unwrap();
        let cases: Vec<Case> =
            serde_json::from_slice(&fs::read(fixture(&format!("tokenizer.{pre}.json"))).unwrap()).unwrap();
        for Case { text, ids } in cases {
            let encoded = tokenizer.encode(text.as_str(), false).unwrap();
            assert_eq!(encoded.get_ids(), ids, "{pre}: {text:?}");
        }
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        assert_eq!(
            (&config["bos_token"], &config["eos_token"], &config["pad_token"]),
            (&"<|start|>".into(), &"<|end|>".into(), &"<|pad|>".into())
        );
        assert_eq!(config["add_bos_token"], pre == "llama-bpe");
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(generation).unwrap()["eos_token_id"],
            serde_json::json!([1])
        );
        assert!(config["chat_template"].as_str().unwrap().contains("message.content"));
    }
}

#[test]
fn a_tokenizer_that_is_not_known_asks_for_its_file() {
    let bytes = fs::read(fixture("tokenizer.qwen2.gguf")).unwrap();
    let metadata = parse::parse(&bytes).unwrap().metadata;
    let problem = |key: &str, value: GgufValue| {
        let mut metadata = metadata.clone();
        metadata.insert(key.to_owned(), value);
        tokenizer::files(&metadata).unwrap_err()
    };
    let text = |text: &str| GgufValue::Text(text.to_owned());
    assert!(
        problem("tokenizer.ggml.model", text("llama"))
            .contains("only `gpt2` can be read: put the model's tokenizer.json")
    );
    assert!(problem("tokenizer.ggml.pre", text("tekken")).contains("splits text as `tekken`"));
    assert!(
        problem("tokenizer.ggml.eos_token_id", GgufValue::Unsigned(9999))
            .contains("eos token is not in the vocabulary")
    );
    assert!(
        problem("tokenizer.ggml.tokens", GgufValue::List(vec![text("a"), text("a")]))
            .contains("does not have one number")
    );
    assert!(
        problem("tokenizer.ggml.merges", GgufValue::List(vec![text("ab")]))
            .contains("does not have two tokens")
    );
    let long = GgufValue::List(vec![text("a bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")]);
    assert!(problem("tokenizer.ggml.merges", long).contains("which is not in the vocabulary"));
    assert!(problem("tokenizer.ggml.merges", GgufValue::Flag(true)).contains("not a list"));
}

/// A file with one value of metadata.
fn with_value(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend((key.len() as u64).to_le_bytes());
    bytes.extend(key.as_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
    bytes
}

fn list(kind: u32, length: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), items].concat()
}

#[test]
fn lists_of_numbers_take_as_much_as_in_the_file() {
    let kinds: [(u32, &[u8], GgufValue); 5] = [
        (0, &[200], GgufValue::Unsigned(200)),
        (3, &[0xFE, 0xFF], GgufValue::Signed(-2)),
        (6, &1.5f32.to_le_bytes(), GgufValue::Float(1.5)),
        (7, &[1], GgufValue::Flag(true)),
        (12, &(-0.25f64).to_le_bytes(), GgufValue::Float(-0.25)),
    ];
    for (kind, item, wanted) in kinds {
        let contents = parse::parse(&with_value("k", 9, &list(kind, 1000, &item.repeat(1000)))).unwrap();
        let GgufValue::Numbers(numbers) = &contents.metadata["k"] else { panic!("{kind}") };
        assert_eq!((numbers.len(), numbers.get(999), numbers.get(1000)), (1000, Some(wanted.clone()), None));
        assert!(numbers.iter().all(|number| number == wanted));
        assert_eq!(format!("{:?}", contents.metadata["k"]), "a list of 1000");
    }
    let problem = |value: &[u8]| parse::parse(&with_value("k", 9, value)).unwrap_err();
    assert!(problem(&list(0, 1 << 22, &[1; 100])).contains("it ends too early"));
    assert!(problem(&list(0, u64::MAX, &[])).contains("is too long"));
    assert!(problem(&list(13, 1, &[1; 100])).contains("type 13, which does not exist"));
}
