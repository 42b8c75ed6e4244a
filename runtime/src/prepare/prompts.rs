//! Data and its rows as tokens. To tokenise a large file takes longer than all else that comes before the
//! first step, and its outcome depends on the file and the tokenizer alone: so it is done once, and kept in
//! the store for whoever reads the same the same way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mopd_plan::events::FailureKind;
use mopd_plan::keys;
use mopd_plan::views::{Moment, Slot};
use mopd_plan::{PromptFormat, View};
use serde::Serialize;

use crate::data::{DataProblem, Dataset, Lists, Longest, MESSAGES};
use crate::failure::{Error, Result};
use crate::store::{Lookup, Store};
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;
use crate::tokenizer::chat::{self, AnswerTokens, ChatError, ChatTemplate, Conversation, TrainingExample};
use crate::zip::zip_equal;

/// What took less to make is made again sooner than anybody misses it.
const AT_LEAST: Duration = Duration::from_secs(1);
/// Bytes a second that are read back and checked, on a slow disk.
const READ_BACK: f64 = 100e6;
/// How often it is asked whether another run is done.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Raised whenever the same rows become other tokens, or are written down otherwise.
const VERSION: u32 = 4;

/// Data, and its rows as tokens, as the models that read them tokenise.
pub struct Prompts {
    pub dataset: Dataset,
    cache: Option<TokenCache>,
    /// By key.
    made: Mutex<Vec<(String, Arc<Lists<Token>>)>>,
    /// What was wrong with the store, for whoever asks.
    warnings: Mutex<Vec<String>>,
}

/// Where tokens outlast a run.
struct TokenCache {
    store: Store,
    /// How rows become prompts.
    format: PromptFormat,
    /// Whether it is worth it, by how long they took and the bytes that they take.
    worth: fn(Duration, u64) -> bool,
}

fn worth_keeping(took: Duration, bytes: u64) -> bool {
    // Bytes as tokens are made faster than they are read.
    took >= AT_LEAST.max(Duration::from_secs_f64(bytes as f64 / READ_BACK))
}

/// Rows to imitate, as tokens.
pub struct Examples {
    prompts: Arc<Lists<Token>>,
    /// Of each row [`SAME`], or the length of its prompt and the prompt; then the completion. What the
    /// assistant did not write of it stands there as `!token`, which is negative.
    rows: Arc<Lists<Token>>,
}

/// What a template shows of a completion: its draft, what the verifier said of it, others of its group,
/// numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TemplateInputs {
    pub slots: Vec<(Slot, String)>,
    /// Of the template, in their order.
    pub numbers: Vec<String>,
}

impl TemplateInputs {
    pub fn draft(draft: Option<&str>) -> TemplateInputs {
        let slots = draft.map(|draft| (Slot::Draft, draft.to_owned())).into_iter().collect();
        TemplateInputs { slots, numbers: Vec::new() }
    }

    pub fn of(&self, slot: &Slot) -> Option<&str> {
        self.slots.iter().find(|(known, _)| known == slot).map(|(_, text)| text.as_str())
    }
}

/// In place of a length: the prompt is that of the row.
const SAME: Token = -1;

/// All that tokens depend on.
#[derive(Serialize)]
struct TokensKey<'a> {
    /// The program's version.
    mopd: &'a str,
    what: &'a str,
    data: &'a str,
    format: Option<&'a PromptFormat>,
    tokenizer: String,
    day: Option<String>,
}

impl Prompts {
    pub fn new(dataset: Dataset) -> Prompts {
        Prompts { dataset, cache: None, made: Mutex::default(), warnings: Mutex::default() }
    }

    /// The same, with a store in which tokens outlast the run; `format` is that of the rows.
    pub fn cached_in(self, store: Store, format: PromptFormat) -> Prompts {
        Prompts { cache: Some(TokenCache { store, format, worth: worth_keeping }), ..self }
    }

    /// What a model is asked, row by row.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Arc<Lists<Token>>> {
        self.lists("prompts", tokenizer, |row| self.prompt(tokenizer, row))
    }

    /// What is read of the rows before there are completions: a template in place of the prompts, where there
    /// is one.
    pub fn seen(&self, tokenizer: &Tokenizer, sees: Option<&View>) -> Result<Arc<Lists<Token>>> {
        match sees {
            // What becomes of a completion is known when it is there.
            Some(view) if !view.of_completions() => self.shown(tokenizer, view),
            _ => self.tokens(tokenizer),
        }
    }

    /// What whoever sees a template reads in place of the prompts, row by row; of one that changes over the
    /// run, the longest that it becomes.
    pub fn shown(&self, tokenizer: &Tokenizer, view: &View) -> Result<Arc<Lists<Token>>> {
        let pieces = serde_json::to_string(&view.pieces).expect("pieces are plain data");
        self.lists(&format!("prompts as {pieces}"), tokenizer, |row| {
            self.shown_now(tokenizer, view, Moment::Most, row, &TemplateInputs::default())
        })
    }

    /// The same of one row, as it is at a step; nothing stands where what is said of a completion is missing.
    pub fn shown_now(
        &self,
        tokenizer: &Tokenizer,
        view: &View,
        moment: Moment,
        row: usize,
        said: &TemplateInputs,
    ) -> Result<Vec<Token>> {
        let text = self.filled(view, moment, row, said)?;
        let conversation = self.dataset.conversation(row);
        self.asked(tokenizer, row, &text, conversation.map(|of| of.asking(&text, view.has_prompt())))
    }

    /// A row as a view shows it at some time.
    pub fn filled(&self, view: &View, moment: Moment, row: usize, said: &TemplateInputs) -> Result<String> {
        for field in view.fields() {
            self.field(row, field)?;
        }
        let slot = |slot: &Slot| match slot {
            Slot::Prompt => self.dataset.prompt(row),
            Slot::Data(field) => self.dataset.text(row, field).unwrap_or_default(),
            Slot::Draft
            | Slot::Feedback
            | Slot::WrittenFeedback(_)
            | Slot::Group(_)
            | Slot::Transcript(_)
            | Slot::Made(_) => said.of(slot).unwrap_or_default(),
        };
        Ok(view.filled(moment, slot, &said.numbers))
    }

    /// What a model reads where a row was answered so, `sees` being what it reads in place of the prompt.
    pub fn answered(
        &self,
        tokenizer: &Tokenizer,
        sees: Option<(&View, Moment)>,
        row: usize,
        answer: &str,
        said: &TemplateInputs,
    ) -> Result<AnswerTokens> {
        let text = match sees {
            None => self.dataset.prompt(row).to_owned(),
            Some((view, moment)) => self.filled(view, moment, row, said)?,
        };
        let conversation = self.dataset.conversation(row).map(|of| match sees {
            None => of.asked(),
            Some((view, _)) => of.asking(&text, view.has_prompt()),
        });
        let answered = match conversation {
            None => tokenizer
                .prompt(&text)
                .and_then(|prompt| {
                    let completion = tokenizer.completion(&text, answer)?;
                    Ok(AnswerTokens { prompt, opening: Vec::new(), completion })
                })
                .map_err(ChatError::from),
            Some(conversation) => chat::answer(tokenizer, conversation, answer),
        };
        answered.map_err(|error| self.wrong(row, error))
    }

    /// The token that ends an answer to a row: the chat template's, or the tokenizer's own.
    pub fn end_of_answer(&self, tokenizer: &Tokenizer, row: usize) -> Token {
        match self.dataset.conversation(row) {
            None => tokenizer.ends()[0],
            Some(conversation) => chat::turn_end(tokenizer, &conversation.asked()),
        }
    }

    /// Rows to imitate: their prompts and a field, or their conversations.
    pub fn examples(&self, tokenizer: &Tokenizer, field: &str) -> Result<Examples> {
        let prompts = self.tokens(tokenizer)?;
        let rows = self.lists(&format!("examples with `{field}`"), tokenizer, |row| {
            let TrainingExample { prompt, completion, written } =
                self.example(tokenizer, row, field, prompts.get(row))?;
            let mut list = Vec::with_capacity(1 + completion.len());
            if prompt == prompts.get(row) {
                list.push(SAME);
            } else {
                list.push(prompt.len() as Token);
                list.extend(prompt);
            }
            list.extend(
                zip_equal(&completion, &written)
                    .map(|(token, written)| if *written { *token } else { !*token }),
            );
            Ok(list)
        })?;
        Ok(Examples { prompts, rows })
    }

    /// What was wrong with what the store had of these tokens, since the last time.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn warn(&self, message: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    /// A list for every row, made once: in this run, and by whoever shares its store.
    fn lists(
        &self,
        what: &str,
        tokenizer: &Tokenizer,
        make: impl Fn(usize) -> Result<Vec<Token>> + Sync,
    ) -> Result<Arc<Lists<Token>>> {
        let key = self.key(what, tokenizer);
        // Held while they are made, so that stages side by side make them once. A panic leaves the list as it
        // was.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lists)) = made.iter().find(|(known, _)| *known == key) {
            return Ok(lists.clone());
        }
        let make = || self.dataset.lists(&make);
        let lists = Arc::new(match &self.cache {
            None => make()?,
            Some(cache) => self.found_or_made(cache, &key, what, make)?,
        });
        made.push((key, lists.clone()));
        Ok(lists)
    }

    fn found_or_made(
        &self,
        TokenCache { store, worth, .. }: &TokenCache,
        key: &str,
        what: &str,
        make: impl FnOnce() -> Result<Lists<Token>>,
    ) -> Result<Lists<Token>> {
        // Whoever can't have the lock, on a disk that can only be read for example, is no worse off than
        // without a store.
        let lock = loop {
            if let Lookup::Found(lists) = store.tokens(key) {
                return Ok(lists);
            }
            match store.try_lock(key) {
                Ok(None) => std::thread::sleep(POLL_INTERVAL),
                Ok(Some(lock)) => break Some(lock),
                Err(_) => break None,
            }
        };
        // What looked damaged may have been about to be replaced; nobody does that now.
        match store.tokens(key) {
            Lookup::Found(lists) => return Ok(lists),
            Lookup::Damaged(damage) => {
                self.warn(format!("stored tokens are {} and will be computed again: {damage}", damage.kind))
            }
            Lookup::Absent => {}
        }
        let started = Instant::now();
        let lists = make()?;
        if lock.is_some() && worth(started.elapsed(), Store::bytes_of_tokens(&lists)) {
            let about = format!("{} as tokens: {what}", self.dataset.path.display());
            if let Err(error) = store.insert_tokens(key, &about, &lists) {
                self.warn(format!("the tokens of {} cannot be stored: {error}", self.dataset.path.display()));
            }
        }
        Ok(lists)
    }

    fn key(&self, what: &str, tokenizer: &Tokenizer) -> String {
        let key = TokensKey {
            mopd: env!("CARGO_PKG_VERSION"),
            what,
            data: &self.dataset.hash,
            format: self.cache.as_ref().map(|cache| &cache.format),
            tokenizer: tokenizer.hash(),
            day: self.day([tokenizer]),
        };
        keys::hash("mopd tokens", VERSION, &key).to_hex().to_string()
    }

    /// The day, where a template of one of these writes it into the prompts.
    pub fn day<'t>(&self, tokenizers: impl IntoIterator<Item = &'t Tokenizer>) -> Option<String> {
        let mut templates = tokenizers.into_iter().flat_map(Tokenizer::templates);
        let asked = self.dataset.is_chat() && templates.any(ChatTemplate::asks_date);
        asked.then(|| chat::today().format("%F").to_string())
    }

    fn prompt(&self, tokenizer: &Tokenizer, row: usize) -> Result<Vec<Token>> {
        self.asked(tokenizer, row, self.dataset.prompt(row), self.dataset.conversation(row))
    }

    /// The tokens of a question: of a text, or of the conversation that it is in.
    fn asked(
        &self,
        tokenizer: &Tokenizer,
        row: usize,
        text: &str,
        conversation: Option<Conversation>,
    ) -> Result<Vec<Token>> {
        let tokens = match conversation {
            None => tokenizer.prompt(text).map_err(ChatError::from),
            Some(conversation) => chat::prompt(tokenizer, conversation),
        };
        match tokens {
            // A token is predicted from those before it.
            Ok(tokens) if tokens.is_empty() => Err(self.dataset.error(row, DataProblem::NoTokens).into()),
            Ok(tokens) => Ok(tokens),
            Err(error) => Err(self.wrong(row, error)),
        }
    }

    /// A row to imitate: its prompt, which is known where it is text, and a field, or its conversation.
    fn example(
        &self,
        tokenizer: &Tokenizer,
        row: usize,
        field: &str,
        prompt: &[Token],
    ) -> Result<TrainingExample> {
        let answer = || self.field(row, field);
        let Some(conversation) = self.dataset.conversation(row) else {
            let completion = tokenizer.completion(self.dataset.prompt(row), answer()?);
            let completion = completion.map_err(|error| self.wrong(row, error.into()))?;
            return Ok(TrainingExample::new(prompt.to_vec(), completion));
        };
        let conversation =
            // Training on all of the assistant's turns.
            if field == MESSAGES { conversation } else { conversation.asked().answered(answer()?) };
        chat::example(tokenizer, &conversation).map_err(|error| self.wrong(row, error))
    }

    /// The text of a field.
    fn field(&self, row: usize, field: &str) -> Result<&str> {
        let missing = || DataProblem::MissingField {
            field: field.to_owned(),
            read_as: None,
            meant: None,
            present: Vec::new(),
        };
        self.dataset.text(row, field).ok_or_else(|| self.dataset.error(row, missing()).into())
    }

    fn wrong(&self, row: usize, error: ChatError) -> Error {
        self.dataset.error(row, error.into()).into()
    }

    pub fn longest_prompt(&self, tokenizer: &Tokenizer) -> Result<Longest> {
        Ok(Longest::find(&self.dataset, None, self.tokens(tokenizer)?.lengths()))
    }

    /// The longest that is read: the prompt, or a template in its place, and a field where the data has the
    /// completions.
    pub fn longest(
        &self,
        tokenizer: &Tokenizer,
        sees: Option<&View>,
        field: Option<&str>,
    ) -> Result<Longest> {
        match (sees, field) {
            (Some(view), field) => self.longest_shown(tokenizer, view, field),
            (None, Some(field)) => self.longest_example(tokenizer, field),
            (None, None) => self.longest_prompt(tokenizer),
        }
    }

    /// # Errors
    /// Besides what can be wrong with a row: where a conversation begins otherwise once it is answered,
    /// nothing can stand in place of its prompt.
    fn longest_shown(&self, tokenizer: &Tokenizer, view: &View, field: Option<&str>) -> Result<Longest> {
        let shown = self.shown(tokenizer, view)?;
        let Some(field) = field else {
            return Ok(Longest::find(&self.dataset, None, shown.lengths()).seen_as(&view.name));
        };
        let examples = self.examples(tokenizer, field)?;
        if let Some(row) = (0..self.dataset.len()).find(|row| examples.parts(*row).0.is_some()) {
            let (file, place) = self.dataset.place(row);
            let message = format!(
                "{}{place}: the conversation with its answer does not begin with the conversation without \
                it, so the template `{}` cannot replace its prompt",
                file.display(),
                view.name
            );
            return Err(Error::new(FailureKind::Data, message)
                .help("write prompt and answer as two fields, or train on `sample(...)`"));
        }
        let lengths = shown.lengths().zip(0..).map(|(prompt, row)| prompt + examples.parts(row).1.len());
        Ok(Longest::find(&self.dataset, Some(field), lengths).seen_as(&view.name))
    }

    /// The longest sequence of fine-tuning on a field.
    fn longest_example(&self, tokenizer: &Tokenizer, field: &str) -> Result<Longest> {
        Ok(Longest::find(&self.dataset, Some(field), self.examples(tokenizer, field)?.lengths()))
    }
}

impl Examples {
    /// The example of a row; its prompt where that is not the row's own.
    pub fn get(&self, row: usize) -> (Option<&[Token]>, Vec<Token>, Vec<bool>) {
        let (prompt, completion) = self.parts(row);
        let token = |token: &Token| if *token < 0 { !*token } else { *token };
        (prompt, completion.iter().map(token).collect(), completion.iter().map(|token| *token >= 0).collect())
    }

    /// Tokens of prompt and completion together, row by row.
    fn lengths(&self) -> impl ExactSizeIterator<Item = usize> {
        (0..self.rows.len()).map(|row| {
            let (prompt, completion) = self.parts(row);
            prompt.unwrap_or(self.prompts.get(row)).len() + completion.len()
        })
    }

    fn parts(&self, row: usize) -> (Option<&[Token]>, &[Token]) {
        match self.rows.get(row) {
            [SAME, completion @ ..] => (None, completion),
            [length, rest @ ..] => {
                let (prompt, completion) = rest.split_at(*length as usize);
                (Some(prompt), completion)
            }
            [] => unreachable!("a row begins with what its prompt is"),
        }
    }
}

#[cfg(test)]
mod tests;
