//! The files that a tokenizer is made of, as published models have them in their folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::TokenizerError;

/// The tokenizer's files of a folder, with their whole content, so that a derived checkpoint can be saved
/// with the same files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// The folder, for messages.
    pub place: PathBuf,
    /// Name and content, by name.
    pub files: Vec<(String, Vec<u8>)>,
    /// `eos_token_id` of the model's `config.json`, which the reference library reads where there is no
    /// `generation_config.json`.
    pub model_ends: Option<Value>,
}

/// Merges, vocabulary, normalisation and splitting; the only required file.
pub const TOKENIZER: &str = "tokenizer.json";
pub const CONFIG: &str = "tokenizer_config.json";
pub const SPECIAL: &str = "special_tokens_map.json";
/// Ids by token, in folders that were saved before `tokenizer_config.json` had them.
pub const ADDED: &str = "added_tokens.json";
pub const GENERATION: &str = "generation_config.json";
/// The model's own configuration, which has the settings of generation in folders without a file for them.
const MODEL: &str = "config.json";
const ENDS: &str = "eos_token_id";
const TEMPLATE: &str = "chat_template.jinja";
/// Folder of named templates, such as `tool_use.jinja`.
const TEMPLATES: &str = "additional_chat_templates";
/// The command by which the reference library writes the files again.
pub const SAVE_AGAIN: &str = "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`";
/// Files of the reference library's slow tokenizers.
const OTHERS: [&str; 5] = ["tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"];
/// The files of a folder that a tokenizer may be made of, besides its [`TEMPLATES`].
const NAMES: [&str; 6] = [TOKENIZER, CONFIG, SPECIAL, ADDED, GENERATION, TEMPLATE];
/// Largest file in bytes, far more than published tokenizers have: a wrong path must not fill the memory.
const LARGEST: u64 = 1 << 30;

impl TokenizerFiles {
    /// Whether [`TokenizerFiles::read`] reads this file of a model's folder, or needs it for its messages:
    /// what a copy of the folder must have so that prompts are the same. Names are relative to the folder.
    pub fn reads(name: &str) -> bool {
        let template = name.strip_prefix(TEMPLATES).and_then(|name| name.strip_prefix('/'));
        let is_template = template.is_some_and(|name| name.ends_with(".jinja") && !name.contains('/'));
        is_template || NAMES.contains(&name) || OTHERS.contains(&name)
    }

    /// The tokenizer's files of a folder, or `tokenizer.json` itself with the files beside it.
    pub fn read(path: &Path) -> Result<TokenizerFiles, TokenizerError> {
        let folder = match path.file_name() {
            Some(name) if name == TOKENIZER && !path.is_dir() => path.parent().unwrap_or(Path::new(".")),
            _ if path.is_file() => {
                return Err(TokenizerError::new(
                    path,
                    "a tokenizer is a folder, or the `tokenizer.json` in it",
                )
                .help(
                    "name it `tokenizer.json`, and put the `tokenizer_config.json` with its `eos_token` \
                    next to it",
                ));
            }
            _ => path,
        };
        let mut files = Vec::new();
        for name in NAMES {
            files.extend(read(&folder.join(name))?.map(|content| (name.to_owned(), content)));
        }
        if let Ok(entries) = folder.join(TEMPLATES).read_dir() {
            let mut names: Vec<String> =
                entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
            names.sort();
            let names = names.into_iter().map(|name| format!("{TEMPLATES}/{name}"));
            for name in names.filter(|name| TokenizerFiles::reads(name)) {
                files.extend(read(&folder.join(&name))?.map(|content| (name, content)));
            }
        }
        let mut files = TokenizerFiles { place: folder.to_owned(), files, model_ends: None };
        if files.find(GENERATION).is_none() {
            files.model_ends = read(&folder.join(MODEL))?.and_then(|content| model_ends(&content));
        }
        if files.find(TOKENIZER).is_none() {
            let other = OTHERS.into_iter().find(|name| folder.join(name).exists());
            return Err(TokenizerError::new(&folder.join(TOKENIZER), "there is no such file").help(
                match other {
                    Some(other) => format!(
                        "the folder has `{other}`, from which the reference library makes it: {SAVE_AGAIN}"
                    ),
                    None => "a model's folder has its tokenizer as `tokenizer.json`".to_owned(),
                },
            ));
        }
        Ok(files)
    }

    /// Whether a folder has a tokenizer.
    pub fn are_in(folder: &Path) -> bool {
        folder.join(TOKENIZER).exists()
    }

    /// Takes the tokens that end a completion from those of another tokenizer, if these files name none.
    pub fn end_as(&mut self, other: &TokenizerFiles) {
        if self.find(GENERATION).is_none() && self.model_ends.is_none() {
            let generation = other.find(GENERATION).map(|content| (GENERATION.to_owned(), content.to_vec()));
            self.files.extend(generation);
            self.model_ends.clone_from(&other.model_ends);
        }
    }

    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(known, _)| known == name).map(|(_, content)| content.as_slice())
    }

    /// An error in one of the files.
    pub fn error(&self, name: &str, problem: impl std::fmt::Display) -> TokenizerError {
        TokenizerError::new(&self.place.join(name), problem)
    }

    /// A file's JSON object; empty where there is no such file.
    pub fn object(&self, name: &str) -> Result<serde_json::Map<String, Value>, TokenizerError> {
        let Some(content) = self.find(name) else { return Ok(serde_json::Map::new()) };
        serde_json::from_slice(content)
            .map_err(|error| self.error(name, format!("not a JSON object: {error}")))
    }

    pub fn settings(&self) -> Result<TokenizerSettings, TokenizerError> {
        let config = self.object(CONFIG)?;
        let special = self.object(SPECIAL)?;
        let generation = self.object(GENERATION)?;
        let ends = generation.get(ENDS).or(self.model_ends.as_ref());
        let token = |name: &str| {
            let of = |map: &serde_json::Map<String, Value>| {
                let value = map.get(name)?;
                value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
            };
            of(&config).or_else(|| of(&special))
        };
        Ok(TokenizerSettings {
            begin: token("bos_token"),
            end: token("eos_token"),
            padding: token("pad_token"),
            unknown: token("unk_token"),
            generation_ends: self.ids(ends, ENDS)?,
            generation_padding: self.ids(generation.get("pad_token_id"), "pad_token_id")?.first().copied(),
            templates: self.templates(&config)?,
        })
    }

    /// The same files, with these tokens as the ends of generated text.
    pub fn with_ends(&self, ends: impl Iterator<Item = u32>) -> Result<TokenizerFiles, TokenizerError> {
        let mut generation = self.object(GENERATION)?;
        let mut ids: Vec<u32> = Vec::new();
        for end in ends {
            if !ids.contains(&end) {
                ids.push(end);
            }
        }
        generation.insert(ENDS.to_owned(), ids.into());
        let content = serde_json::to_vec_pretty(&generation).expect("an object of JSON");
        let mut files = self.files.clone();
        files.retain(|(name, _)| name != GENERATION);
        files.push((GENERATION.to_owned(), content));
        Ok(TokenizerFiles { place: self.place.clone(), files, model_ends: None })
    }

    /// The same files, with the chat template of another file in place of all of their own.
    pub fn with_template(&self, file: &Path) -> Result<TokenizerFiles, TokenizerError> {
        let content = read(file)?.ok_or_else(|| TokenizerError::new(file, "there is no such file"))?;
        let text = String::from_utf8(content).map_err(|error| {
            TokenizerError::new(file, format!("not UTF-8 text: {}", error.utf8_error()))
                .help("a chat template is a text of Jinja, as `chat_template.jinja` in a model's folder")
        })?;
        self.with_templates(vec![("default".to_owned(), text)])
    }

    /// The same files, with chat templates that read `enable_thinking` as this where a conversation does not
    /// set it.
    pub fn with_thinking(&self, thinks: bool) -> Result<TokenizerFiles, TokenizerError> {
        const NAME: &str = "enable_thinking";
        let mut templates = self.settings()?.templates;
        if !templates.iter().any(|(_, text)| text.contains(NAME)) {
            let problem = match templates.as_slice() {
                [] => "the model has no chat template, which would read `enable_thinking`",
                _ => "the chat template does not read `enable_thinking`",
            };
            return Err(self.error(TEMPLATE, problem).help("leave `enable_thinking` out"));
        }
        for (_, text) in templates.iter_mut().filter(|(_, text)| text.contains(NAME)) {
            // The line break after a tag is no part of the text.
            let set = format!("{{% set {NAME} = {NAME} if {NAME} is defined else {thinks} %}}\n");
            text.insert_str(0, &set);
        }
        self.with_templates(templates)
    }

    /// The same files, with these chat templates alone, by name.
    fn with_templates(&self, templates: Vec<(String, String)>) -> Result<TokenizerFiles, TokenizerError> {
        let mut files = self.files.clone();
        files.retain(|(name, _)| name != TEMPLATE && !name.starts_with(TEMPLATES));
        let mut config = self.object(CONFIG)?;
        if config.remove("chat_template").is_some() {
            let content = serde_json::to_vec_pretty(&config).expect("an object of JSON");
            files.retain(|(name, _)| name != CONFIG);
            files.push((CONFIG.to_owned(), content));
        }
        files.extend(templates.into_iter().map(|(name, text)| {
            let file =
                if name == "default" { TEMPLATE.to_owned() } else { format!("{TEMPLATES}/{name}.jinja") };
            (file, text.into_bytes())
        }));
        files.sort();
        Ok(TokenizerFiles { place: self.place.clone(), files, model_ends: self.model_ends.clone() })
    }

    /// The file that has the settings of generation.
    pub fn of_generation(&self) -> &'static str {
        if self.model_ends.is_some() { MODEL } else { GENERATION }
    }

    /// A token id or a list of them.
    fn ids(&self, given: Option<&Value>, name: &str) -> Result<Vec<u32>, TokenizerError> {
        let id = |value: &Value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                self.error(
                    self.of_generation(),
                    format!("`{name}` must be a token's id or a list of them, not {value}"),
                )
            })
        };
        match given {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// Chat templates by name; the unnamed one is `default`. A separate file takes precedence over an entry
    /// in the configuration, as in the reference library.
    fn templates(
        &self,
        config: &serde_json::Map<String, Value>,
    ) -> Result<Vec<(String, String)>, TokenizerError> {
        let text = |name: &str, content: &[u8]| {
            let text = String::from_utf8(content.to_vec());
            text.map_err(|error| self.error(name, format!("not UTF-8 text: {}", error.utf8_error())))
        };
        let mut templates = Vec::new();
        for (name, content) in &self.files {
            if name == TEMPLATE {
                templates.push(("default".to_owned(), text(name, content)?));
            } else if let Some(named) = name.strip_prefix(TEMPLATES).and_then(|name| name.strip_prefix('/')) {
                templates.push((named.trim_end_matches(".jinja").to_owned(), text(name, content)?));
            }
        }
        if !templates.is_empty() {
            return Ok(templates);
        }
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(template)) => Ok(vec![("default".to_owned(), template.clone())]),
            Some(Value::Array(list)) => list
                .iter()
                .map(|entry| {
                    let part = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
                    part("name").zip(part("template")).ok_or_else(|| {
                        self.error(
                            CONFIG,
                            "an entry of `chat_template` needs a `name` and a `template`, both strings",
                        )
                    })
                })
                .collect(),
            Some(other) => {
                Err(self.error(CONFIG, format!("`chat_template` must be a string or a list, not {other}")))
            }
        }
    }
}

/// The settings in the files besides `tokenizer.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerSettings {
    pub begin: Option<String>,
    pub end: Option<String>,
    pub padding: Option<String>,
    pub unknown: Option<String>,
    pub generation_ends: Vec<u32>,
    pub generation_padding: Option<u32>,
    /// By name.
    pub templates: Vec<(String, String)>,
}

impl TokenizerSettings {
    /// The special tokens that chat templates read, by name.
    pub fn of_templates(&self) -> Vec<(&'static str, String)> {
        let tokens = [
            ("bos_token", &self.begin),
            ("eos_token", &self.end),
            ("pad_token", &self.padding),
            ("unk_token", &self.unknown),
        ];
        tokens.into_iter().filter_map(|(name, token)| Some((name, token.clone()?))).collect()
    }
}

/// `eos_token_id` of a `config.json`, or of the text model in it.
fn model_ends(config: &[u8]) -> Option<Value> {
    // The reader of the model reports a damaged file.
    let config: Value = serde_json::from_slice(config).ok()?;
    let ends = |config: &Value| config.get(ENDS).filter(|ends| !ends.is_null()).cloned();
    ends(&config).or_else(|| ends(config.get("text_config")?))
}

/// The content of a file; `None` where it does not exist.
fn read(path: &Path) -> Result<Option<Vec<u8>>, TokenizerError> {
    let unreadable =
        |error: std::io::Error| TokenizerError::new(path, format!("cannot read the file: {error}"));
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > LARGEST => {
            Err(TokenizerError::new(path, format!("{} bytes are too many for a tokenizer", metadata.len())))
        }
        Ok(metadata) if metadata.is_file() => fs::read(path).map(Some).map_err(unreadable),
        Ok(_) => Ok(None),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(unreadable(error)),
    }
}
