//! Mutation tests of every reader of users' files: a changed valid file gives an error message or a value,
//! never a panic. A few hundred mutations by default; `MOPD_MUTATIONS=100000 cargo test --release -p
//! mopd-runtime --lib mutations` takes an hour.

use std::fs;
use std::path::{Path, PathBuf};

use mopd_plan::events::FailureKind;
use mopd_plan::{DataSource, PromptFormat};
use tempfile::TempDir;

use crate::data::{Dataset, DatasetRequest, Field, FieldKind};
use crate::failure::Error;
use crate::formats::{gguf, huggingface, safetensors};
use crate::tokenizer::{PretrainedTokenizer, Tokenizer};

struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % count.max(1)
    }
}

/// Byte strings that readers look for, or that are unusual input for them.
const WORDS: [&[u8]; 24] = [
    b"\"",
    b"\n",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b"\xEF\xBB\xBF",
    b"\x1b[2J",
    b"\xff",
    b"true",
    b"\"\"\"",
    b"../../x",
    b"\xE2\x80\xAE",
    b"NaN",
    b"99999999999",
    b"\0\0\0\0",
];
const NUMBERS: [u64; 8] = [0, 1, 255, 1 << 16, u32::MAX as u64, 1 << 40, i64::MAX as u64, u64::MAX];

fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(5) {
        let at = random.below(bytes.len() + 1);
        let length = random.below(40).min(bytes.len() - at);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let part = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, part.repeat(1 + random.below(3)));
            }
            4 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            5 if random.below(4) == 0 => bytes.truncate(at),
            6 if at + 8 <= bytes.len() => {
                bytes[at..at + 8].copy_from_slice(&NUMBERS[random.below(NUMBERS.len())].to_le_bytes())
            }
            7 if at + 4 <= bytes.len() => {
                bytes[at..at + 4]
                    .copy_from_slice(&(NUMBERS[random.below(NUMBERS.len())] as u32).to_le_bytes());
            }
            // A number in text becomes another.
            _ => {
                if let Some(digit) = bytes.iter().skip(at).position(u8::is_ascii_digit) {
                    bytes[at + digit] = b"0987654321-."[random.below(12)];
                }
            }
        }
    }
    bytes
}

/// Mutates each file `MOPD_MUTATIONS` times; `read` returns the error for a mutated file, if there is one.
fn mutate_each(seeds: &[PathBuf], read: impl Fn(&[u8], &Path) -> Option<Error>) {
    let rounds = std::env::var("MOPD_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(100);
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for (index, seed) in seeds.iter().enumerate() {
        let content = fs::read(seed).unwrap();
        assert!(read(&content, folder.path()).is_none(), "{} itself can be read", seed.display());
        let mut random = Random(0x6d6f_7064 + index as u64);
        for _ in 0..rounds {
            let bytes = mutated(&content, &mut random);
            if let Some(error) = read(&bytes, folder.path()) {
                let text = error.to_string();
                assert!(!text.is_empty() && text.len() < 20_000, "{}", text.len());
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// The folders directly in a folder, sorted.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn written(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn dataset(name: &str, bytes: &[u8], folder: &Path, format: &PromptFormat) -> Option<Error> {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let source = DataSource::file(path.to_str().unwrap());
    let fields = [Field { name: "answer", kind: FieldKind::Text }];
    let request = DatasetRequest {
        source: &source,
        format,
        fields: &fields,
        whole: true,
        routes: &[],
        numbers: &[],
        notes: None,
    };
    match Dataset::read(Path::new("."), request) {
        Ok(data) => {
            for row in 0..data.len().min(20) {
                let _ = (data.object(row), data.conversation(row));
            }
            None
        }
        Err(error) => Some(error.into()),
    }
}

#[test]
fn mutated_data_files_cause_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    let chat = PromptFormat::Chat { system: Some("s".to_owned()) };
    let lines = "{\"prompt\": \"2+2=\", \"answer\": \"4\", \"hard\": true, \"more\": {\"a\": [1, 2.5, \
                 null]}}\n{\"answer\": 12, \"prompt\": \"é\\n\\u00e9\"}\n";
    let lines = written(&folder, "seed.jsonl", lines);
    mutate_each(&[lines], |bytes, folder| dataset("a.jsonl", bytes, folder, &PromptFormat::Text));
    let talks = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \
                 \"content\": \"yes\"}], \"answer\": \"a\", \"tools\": [{\"type\": \"function\"}]}\n";
    let talks = written(&folder, "talks.jsonl", talks);
    mutate_each(&[talks], |bytes, folder| dataset("b.jsonl", bytes, folder, &chat));
    let cells =
        written(&folder, "seed.csv", "prompt,answer,more\n\"a, \"\"b\"\"\",4,x\nc,\"two\nlines\",y\n");
    mutate_each(&[cells], |bytes, folder| dataset("c.csv", bytes, folder, &PromptFormat::Text));
}

#[test]
fn mutated_gguf_files_cause_no_panic() {
    let mut seeds: Vec<_> =
        fixtures("tests/fixtures/gguf").read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.retain(|path| path.extension().is_some_and(|ending| ending == "gguf"));
    seeds.sort();
    let (models, tokenizers): (Vec<_>, Vec<_>) = seeds
        .into_iter()
        .partition(|path| !path.file_name().unwrap().to_string_lossy().starts_with("tokenizer"));
    let open = |bytes: &[u8], folder: &Path| {
        // A new file each time, since a mapped file must not change.
        let path = folder.join("a.gguf");
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        gguf::open(&path)
    };
    let readable = models.into_iter().filter(|path| gguf::open(path).is_ok()).collect::<Vec<_>>();
    assert!(readable.len() > 2);
    // Most of such a file is weights: change its head.
    mutate_each(&readable, |bytes, folder| open(bytes, folder).err());
    assert!(!tokenizers.is_empty());
    mutate_each(&tokenizers, |bytes, _| {
        let files = gguf::parse(bytes).and_then(|contents| gguf::tokenizer::files(&contents.metadata));
        files.err().map(|problem| Error::new(FailureKind::Model, problem))
    });
}

#[test]
fn mutated_configs_and_safetensors_cause_no_panic() {
    let folders = below(&fixtures("tests/fixtures/architectures"));
    let configs: Vec<_> = folders.iter().map(|folder| folder.join("config.json")).collect();
    mutate_each(&configs, |bytes, folder| {
        fs::write(folder.join("config.json"), bytes).unwrap();
        huggingface::config(folder).err()
    });
    let weights: Vec<_> = folders
        .iter()
        .map(|folder| folder.join(safetensors::MODEL))
        .filter(|path| path.exists())
        .take(3)
        .collect();
    mutate_each(&weights, |bytes, folder| {
        let path = folder.join(safetensors::MODEL);
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        safetensors::open(folder).err()
    });
}

#[test]
fn mutated_tokenizers_cause_no_panic() {
    for folder in below(&fixtures("../tests/reference/text")) {
        let others: Vec<_> = folder
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .collect();
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            mutate_each(&[folder.join(name)], |bytes, place| {
                for other in &others {
                    fs::copy(other, place.join(other.file_name().unwrap())).unwrap();
                }
                fs::write(place.join(name), bytes).unwrap();
                let loaded = PretrainedTokenizer::load(place).and_then(|tokenizer| {
                    let tokenizer = Tokenizer::Pretrained(tokenizer);
                    let tokens = tokenizer.prompt("Some words, 12 é 日本\n\u{1F469}\u{200d}\u{1F52C}")?;
                    tokenizer.decode(&tokens)
                });
                loaded.err().map(Error::from)
            });
        }
    }
}
