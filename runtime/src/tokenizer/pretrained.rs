//! The tokenizer of a published model.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mopd_plan::{keys, nearest};
use serde::Serialize;
use tokenizers::Encoding;

use super::added::check_added_tokens;
use super::files::{TOKENIZER, TokenizerFiles};
use super::growth::{NormalizerGrowth, check_decoder};
use super::{ByteSpan, TokenizerError};
use crate::tokenizer::Token;
use crate::tokenizer::chat::{ChatError, ChatTemplate};

/// A `tokenizer.json` with the settings of the files beside it.
#[derive(Clone)]
pub struct PretrainedTokenizer(Arc<Inner>);

struct Inner {
    tokenizer: Arc<tokenizers::Tokenizer>,
    files: TokenizerFiles,
    /// The tokens at the beginning of a plain-text prompt; chat templates write their own.
    before: Vec<Token>,
    begin: Option<Token>,
    ends: Vec<Token>,
    padding: Token,
    vocabulary: usize,
    absent: Vec<Token>,
    templates: Vec<ChatTemplate>,
    hash: String,
    growth: NormalizerGrowth,
    /// Whether it writes a space before every text.
    adds_space: bool,
    /// The number of ids that have a row of the embedding, where not all have one.
    rows: Option<usize>,
}

/// The hashed description of a tokenizer's behaviour.
#[derive(Serialize)]
struct TokenizerContent<'a> {
    /// The `tokenizer.json` as the library writes it.
    canonical: String,
    before: &'a [Token],
    ends: &'a [Token],
    templates: &'a [(String, String)],
    /// Values of `bos_token` and similar variables of templates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    special: Vec<(&'static str, String)>,
    /// The number of ids that have a row, where not all have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
}

/// Most ids without a token, plus as many as there are tokens; published vocabularies have some hundreds.
const HOLES: usize = 1 << 16;

/// Tokenizers in use, by the hash of their file: a vocabulary takes tens of megabytes, and a student and its
/// teachers usually share one.
static IN_USE: Mutex<Vec<(blake3::Hash, Weak<tokenizers::Tokenizer>)>> = Mutex::new(Vec::new());

/// Turns panics into errors: the library panics on some unexpected parts of a file, when it reads or uses
/// them.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    // After a panic, the values are not used again, or are unchanged.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("it has a part that is not supported in a tokenizer".into()))
}

/// The tokenizer of a `tokenizer.json`, shared with other users of the same content.
fn shared(content: &[u8]) -> tokenizers::Result<Arc<tokenizers::Tokenizer>> {
    let hash = blake3::hash(content);
    // A panic under the lock leaves the list unchanged.
    let mut in_use = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) =
        in_use.iter().find(|(known, _)| *known == hash).and_then(|(_, known)| known.upgrade())
    {
        return Ok(known);
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(content)?;
    let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(content))?;
    // Some files store their authors' truncation and padding of batches; a run must not apply these
    // silently.
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    let tokenizer = Arc::new(tokenizer);
    in_use.retain(|(_, known)| known.strong_count() > 0);
    in_use.push((hash, Arc::downgrade(&tokenizer)));
    Ok(tokenizer)
}

/// The number of ids, and those below it that have no token.
fn ids(
    tokenizer: &tokenizers::Tokenizer,
    files: &TokenizerFiles,
) -> Result<(usize, Vec<Token>), TokenizerError> {
    let ids: HashSet<u32> = tokenizer.get_vocab(true).into_values().collect();
    let vocabulary = ids.iter().max().map_or(0, |id| *id as usize + 1);
    if vocabulary == 0 {
        return Err(files.error(TOKENIZER, "the vocabulary is empty"));
    }
    let tokens = tokenizer.get_vocab_size(true);
    if vocabulary > 2 * tokens + HOLES {
        // Every id has a row of the embedding.
        return Err(files.error(TOKENIZER, format!("its {tokens} tokens have ids up to {}", vocabulary - 1)));
    }
    let absent = (0..vocabulary as Token).filter(|id| !ids.contains(&(*id as u32))).collect();
    Ok((vocabulary, absent))
}

/// The tokens that end a completion, at least one: the tokenizer's own first, then those of the settings of
/// generation.
fn ends(
    own: Option<Token>,
    of_generation: &[u32],
    vocabulary: usize,
    files: &TokenizerFiles,
) -> Result<Vec<Token>, TokenizerError> {
    let mut ends: Vec<Token> = own.into_iter().collect();
    for end in of_generation.iter().map(|&end| Token::from(end)) {
        if end as usize >= vocabulary {
            let problem = format!("the end token {end} is not in the vocabulary of {vocabulary} tokens");
            return Err(files.error(files.of_generation(), problem));
        }
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    if ends.is_empty() {
        return Err(files
            .error("tokenizer_config.json", "no token ends a completion")
            .help("name it as `eos_token`, or its id as `eos_token_id` in generation_config.json"));
    }
    Ok(ends)
}

fn without_row(rows: usize) -> String {
    format!("but the embedding has only {rows} rows, so that the model does not know it")
}

/// The chat templates, by name and source; `special` are their variables for special tokens.
fn templates(
    sources: &[(String, String)],
    special: &[(&'static str, String)],
    files: &TokenizerFiles,
) -> Result<Vec<ChatTemplate>, TokenizerError> {
    let template = |(name, source): &(String, String)| {
        ChatTemplate::new(name, source, special.to_vec()).map_err(|error| match error {
            ChatError::Bounds { .. } => files.error("chat_template.jinja", error),
            _ => files.error("chat_template.jinja", format!("the chat template `{name}`: {error}")),
        })
    };
    sources.iter().map(template).collect()
}

impl std::fmt::Debug for PretrainedTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pretrained({}, {})", self.0.files.place.display(), self.0.hash)
    }
}

/// Two tokenizers are equal if they behave the same, even if read from different folders.
impl PartialEq for PretrainedTokenizer {
    fn eq(&self, other: &PretrainedTokenizer) -> bool {
        self.0.hash == other.0.hash
    }
}

impl Eq for PretrainedTokenizer {}

impl PretrainedTokenizer {
    /// From a model's folder, or the `tokenizer.json` in it.
    pub fn load(path: &Path) -> Result<PretrainedTokenizer, TokenizerError> {
        PretrainedTokenizer::new(TokenizerFiles::read(path)?)
    }

    pub fn new(files: TokenizerFiles) -> Result<PretrainedTokenizer, TokenizerError> {
        PretrainedTokenizer::made(files, None)
    }

    /// The tokenizer of a model whose embedding has fewer rows than there are ids: ids beyond the last row
    /// have no token, and a text with one of them cannot be encoded. `None` if a token of text is among them,
    /// since then the model is another one; special tokens may be those of a larger relative.
    pub fn within(&self, rows: usize) -> Result<Option<PretrainedTokenizer>, TokenizerError> {
        let mut beyond = (rows..self.0.vocabulary).map(|id| id as Token);
        if beyond.any(|id| self.token(id).is_some() && !self.is_special(id)) {
            return Ok(None);
        }
        PretrainedTokenizer::made(self.0.files.clone(), Some(rows)).map(Some)
    }

    /// The same with further tokens that end a completion, by their texts. They are in the settings of
    /// generation that are saved with a model.
    pub fn with_ends(&self, names: &[String]) -> Result<PretrainedTokenizer, TokenizerError> {
        let id = |name: &String| {
            let id = self.0.tokenizer.token_to_id(name).filter(|id| (*id as usize) < self.0.vocabulary);
            id.ok_or_else(|| {
                let problem = format!("it has no token {name:?}, which `end_tokens` names");
                let added = self.0.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
                let near = nearest(name, added.values().map(|token| token.content.as_str()));
                let error = self.0.files.error(TOKENIZER, problem);
                match near {
                    Some(meant) => error.help(format!("did you mean `{meant}`?")),
                    None => error.help("name a token as `tokenizer.json` has it, such as \"<|im_end|>\""),
                }
            })
        };
        let further = names.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
        let own = self.0.ends.iter().filter_map(|end| u32::try_from(*end).ok());
        PretrainedTokenizer::made(self.0.files.with_ends(own.chain(further))?, self.0.rows)
    }

    /// The same with the chat template of a file in place of its own.
    pub fn with_template(&self, file: &Path) -> Result<PretrainedTokenizer, TokenizerError> {
        PretrainedTokenizer::made(self.0.files.with_template(file)?, self.0.rows)
    }

    /// The same with chat templates that read `enable_thinking` as this where a conversation does not say.
    pub fn with_thinking(&self, thinks: bool) -> Result<PretrainedTokenizer, TokenizerError> {
        PretrainedTokenizer::made(self.0.files.with_thinking(thinks)?, self.0.rows)
    }

    /// `rows`: the number of ids that have a row of the embedding, where not all have one.
    fn made(files: TokenizerFiles, rows: Option<usize>) -> Result<PretrainedTokenizer, TokenizerError> {
        let content = files.find(TOKENIZER).ok_or_else(|| files.error(TOKENIZER, "there is no such file"))?;
        let tokenizer = shared(content).map_err(|error| files.error(TOKENIZER, error))?;
        let settings = files.settings()?;
        let (mut vocabulary, mut absent) = ids(&tokenizer, &files)?;
        if let Some(rows) = rows {
            vocabulary = vocabulary.min(rows);
            absent.retain(|id| (*id as usize) < vocabulary);
        }
        let id =
            |token: &Option<String>, name: &str| match token {
                None => Ok(None),
                Some(token) => match tokenizer.token_to_id(token) {
                    Some(id) => Ok(Some(Token::from(id))),
                    None => Err(files
                        .error(TOKENIZER, format!("the {name} token {token:?} is not in the vocabulary"))),
                },
            };
        // A token without a row can't be read, nor drawn.
        let with_row = |token: &Option<String>, name: &str| match id(token, name)? {
            Some(id) if id as usize >= vocabulary => {
                let problem = format!("the {name} token has the id {id}, {}", without_row(vocabulary));
                Err(files.error(TOKENIZER, problem))
            }
            id => Ok(id),
        };
        let begin = with_row(&settings.begin, "begin")?;
        let end = with_row(&settings.end, "end")?;
        let ends = ends(end, &settings.generation_ends, vocabulary, &files)?;
        let padding = id(&settings.padding, "padding")?
            .or(settings.generation_padding.map(Token::from))
            .filter(|&id| (id as usize) < vocabulary)
            .unwrap_or(ends[0]);
        let growth = NormalizerGrowth::new(&tokenizer);
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        check_decoder(&decoder).map_err(|error| files.error(TOKENIZER, error))?;
        growth.check("a").map_err(|error| files.error(TOKENIZER, error))?;
        let adds_space = adds_space(&tokenizer);
        check_added_tokens(&tokenizer, &files)?;
        // As in the reference library, `add_bos_token` of tokenizer_config.json is ignored if there is a
        // `tokenizer.json`.
        let before = guarded(|| before(&tokenizer)).map_err(|error| files.error(TOKENIZER, error))?;
        if let Some(&id) = before.iter().find(|&&id| id as usize >= vocabulary) {
            let problem = format!(
                "its `post_processor` begins texts with the id {id}, but ids end at {}",
                vocabulary - 1
            );
            return Err(files.error(TOKENIZER, problem));
        }
        let mut special = settings.of_templates();
        let templates = templates(&settings.templates, &special, &files)?;
        let canonical = tokenizer.to_string(false).map_err(|error| files.error(TOKENIZER, error))?;
        if templates.is_empty() {
            // Only templates read them.
            special.clear();
        }
        let content = TokenizerContent {
            canonical,
            before: &before,
            ends: &ends,
            templates: &settings.templates,
            special,
            rows,
        };
        let hash = keys::hash("mopd tokenizer", keys::VERSION, &content).to_hex().to_string();
        let inner = Inner {
            tokenizer,
            files,
            before,
            begin,
            ends,
            padding,
            vocabulary,
            absent,
            templates,
            hash,
            growth,
            adds_space,
            rows,
        };
        Ok(PretrainedTokenizer(Arc::new(inner)))
    }

    /// The files that were read, to be saved with models that use the tokenizer.
    pub fn files(&self) -> &TokenizerFiles {
        &self.0.files
    }

    /// BLAKE3 hash of its behaviour: vocabulary, merges, splitting, special tokens, chat templates. It does
    /// not depend on the folder.
    pub fn hash(&self) -> &str {
        &self.0.hash
    }

    /// Number of ids, including ids without a token: the largest id plus one.
    pub fn vocabulary(&self) -> usize {
        self.0.vocabulary
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.0.vocabulary - self.0.absent.len()
    }

    /// The ids below [`PretrainedTokenizer::vocabulary`] without a token.
    pub fn absent(&self) -> &[Token] {
        &self.0.absent
    }

    pub fn ends(&self) -> &[Token] {
        &self.0.ends
    }

    pub fn begin(&self) -> Option<Token> {
        self.0.begin
    }

    pub fn padding(&self) -> Token {
        self.0.padding
    }

    pub fn templates(&self) -> &[ChatTemplate] {
        &self.0.templates
    }

    fn encoding(&self, text: &str) -> Result<Encoding, TokenizerError> {
        let encode = || {
            self.0.growth.check(text)?;
            let encoding = self.0.tokenizer.encode(text, false)?;
            match encoding.get_ids().iter().find(|&&id| id as usize >= self.0.vocabulary) {
                Some(id) => Err(match self.0.tokenizer.id_to_token(*id) {
                    Some(token) => {
                        format!("its token {token:?} has the id {id}, {}", without_row(self.0.vocabulary))
                    }
                    None => format!("it gives the id {id}, but ids end at {}", self.0.vocabulary - 1),
                }
                .into()),
                None => Ok(encoding),
            }
        };
        guarded(encode).map_err(|error| {
            self.0.files.error(TOKENIZER, format!("cannot encode {}: {error}", crate::quote::quote(text)))
        })
    }

    /// The tokens of a text. Special tokens that the text spells out are encoded as such; none is added.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        Ok(self.encoding(text)?.get_ids().iter().map(|&id| Token::from(id)).collect())
    }

    /// The tokens of a text and the bytes of the text that each covers.
    pub fn encode_with_spans(&self, text: &str) -> Result<Vec<(Token, ByteSpan)>, TokenizerError> {
        let encoding = self.encoding(text)?;
        let spans = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(encoding.get_ids().iter().map(|&id| Token::from(id)).zip(spans).collect())
    }

    /// The tokens of a text that continues another one, with their bytes: without the space that the
    /// tokenizer may write before every text.
    pub fn continuation(&self, text: &str) -> Result<Vec<(Token, ByteSpan)>, TokenizerError> {
        if self.0.adds_space {
            for border in BORDERS {
                let tail = after(border, self.encode_with_spans(&format!("{border}{text}"))?);
                if let Some(tail) = tail {
                    return Ok(tail);
                }
            }
        }
        self.encode_with_spans(text)
    }

    /// The tokens at the beginning of plain texts, then those of the text.
    pub fn prompt(&self, text: &str) -> Result<Vec<Token>, TokenizerError> {
        let mut tokens = self.0.before.clone();
        tokens.extend(self.encode(text)?);
        Ok(tokens)
    }

    /// The text of tokens, without special ones and without ids that have no token, such as padding rows of
    /// an embedding.
    pub fn decode(&self, tokens: &[Token]) -> Result<String, TokenizerError> {
        self.text(tokens, true)
    }

    /// The same with special tokens, by their names.
    pub fn as_read(&self, tokens: &[Token]) -> Result<String, TokenizerError> {
        self.text(tokens, false)
    }

    fn text(&self, tokens: &[Token], without_special: bool) -> Result<String, TokenizerError> {
        let ids: Vec<u32> = tokens.iter().filter_map(|&token| u32::try_from(token).ok()).collect();
        guarded(|| self.0.tokenizer.decode(&ids, without_special))
            .map_err(|error| self.0.files.error(TOKENIZER, format!("cannot decode: {error}")))
    }

    /// The tokens at the beginning of a plain-text prompt.
    pub fn before(&self) -> &[Token] {
        &self.0.before
    }

    /// Whether it is a special token, which has no text and is left out by decoding.
    pub fn is_special(&self, id: Token) -> bool {
        let added = self.0.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        u32::try_from(id).is_ok_and(|id| added.get(&id).is_some_and(|token| token.special))
    }

    /// Whether it is a token of its own beside those that text is split into, special or not.
    pub fn is_added(&self, id: Token) -> bool {
        let added = self.0.tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        u32::try_from(id).is_ok_and(|id| added.contains_key(&id))
    }

    /// The `decoder` of its `tokenizer.json`.
    pub fn decoder(&self) -> serde_json::Value {
        serde_json::to_value(self.0.tokenizer.get_decoder()).unwrap_or_default()
    }

    pub fn error(&self, problem: String) -> TokenizerError {
        self.0.files.error(TOKENIZER, problem)
    }

    /// A token's spelling; `None` where no token has the id.
    pub fn token(&self, id: Token) -> Option<String> {
        let id = u32::try_from(id).ok().filter(|id| (*id as usize) < self.0.vocabulary)?;
        self.0.tokenizer.id_to_token(id)
    }
}

/// Texts that tokens of other texts rarely begin with: to see the tokens of a text that continues one.
const BORDERS: [&str; 3] = ["\n", "|", ")"];

/// The tokens after `border`, with which their text begins; `None` if a token crosses its end.
fn after(border: &str, tokens: Vec<(Token, ByteSpan)>) -> Option<Vec<(Token, ByteSpan)>> {
    let length = border.len();
    let (before, after): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|(_, place)| place.start < length);
    let shifted = after.into_iter().map(|(token, place)| (token, place.start - length..place.end - length));
    before.iter().all(|(_, place)| place.end <= length).then(|| shifted.collect())
}

/// Whether the tokenizer writes a space before a text: its first token then differs from that after a border.
fn adds_space(tokenizer: &tokenizers::Tokenizer) -> bool {
    let tokens = |text: String| -> Option<Vec<(Token, ByteSpan)>> {
        let encoding = guarded(|| tokenizer.encode(text, false)).ok()?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Some(encoding.get_ids().iter().map(|&id| Token::from(id)).zip(places).collect())
    };
    let ids = |tokens: Vec<(Token, ByteSpan)>| tokens.into_iter().map(|(id, _)| id).collect::<Vec<Token>>();
    let alone = tokens("a".to_owned()).map(ids);
    let behind = |border: &str| after(border, tokens(format!("{border}a"))?).map(ids);
    BORDERS.iter().any(|border| behind(border).is_some_and(|behind| Some(behind) != alone))
}

/// The tokens that the post-processor adds before a text. Those after it, usually an end token, do not belong
/// in a prompt.
fn before(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<Vec<Token>> {
    // A dummy token represents the text, since the vocabulary may not be able to spell any given text.
    let text = Encoding::from_tokens(vec![tokenizers::Token::new(0, "a".to_owned(), (0, 1))], 0);
    let full = tokenizer.post_process(text, None, true)?;
    // The mask is 1 for added tokens.
    let place = full.get_special_tokens_mask().iter().position(|added| *added == 0);
    let place = place.ok_or("its `post_processor` leaves the text out")?;
    Ok(full.get_ids()[..place].iter().map(|&id| Token::from(id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::fixtures;

    #[test]
    fn models_of_one_vocabulary_share_it() {
        let load = |name: &str| PretrainedTokenizer::load(&fixtures().join(name)).unwrap();
        let (one, again, other) = (load("smollm"), load("smollm"), load("qwen3"));
        assert!(Arc::ptr_eq(&one.0.tokenizer, &again.0.tokenizer));
        assert!(!Arc::ptr_eq(&one.0.tokenizer, &other.0.tokenizer));
    }
}
