//! Detection of test prompts in the training data, and of rows that are in it several times.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use super::{Dataset, RowPlace};

/// Held-out prompts that are also trained on. It is a warning, not an error, because the author may intend
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOverlap {
    /// Number of test rows whose prompt is in the training data.
    pub prompts: u32,
    /// Location of the first of them.
    pub tests: (PathBuf, RowPlace),
    /// Location of its prompt in the training data.
    pub train: (PathBuf, RowPlace),
}

impl fmt::Display for TestOverlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, verb) = if self.prompts == 1 { ("prompt", "is") } else { ("prompts", "are") };
        write!(f, "{}: {} held-out {number} {verb} trained on too, ", self.tests.0.display(), self.prompts)?;
        write!(
            f,
            "the first at {} ({} of {})",
            self.tests.1.words(),
            self.train.1.words(),
            self.train.0.display()
        )
    }
}

/// The hash of a row's prompt, so that comparisons need no copy of the data.
pub fn prompt_hash(dataset: &Dataset, row: usize) -> blake3::Hash {
    // A conversation is more than its last question.
    let whole = dataset.conversation(row).map(|conversation| conversation.asked().fingerprint());
    blake3::hash(whole.as_deref().unwrap_or(dataset.prompt(row)).as_bytes())
}

/// The hash of what a prompt says: of the messages without the system's, with one space for any white space.
fn content_hash(dataset: &Dataset, row: usize) -> blake3::Hash {
    let said = dataset.conversation(row).map(|conversation| conversation.asked().said());
    let text = said.as_deref().unwrap_or(dataset.prompt(row));
    blake3::hash(text.split_whitespace().collect::<Vec<_>>().join(" ").as_bytes())
}

/// The test prompts that are in the training data, if any.
pub fn overlap(train: &Dataset, tests: &Dataset) -> Option<TestOverlap> {
    let mut known = HashMap::new();
    for row in 0..train.len() {
        known.entry(content_hash(train, row)).or_insert(row);
    }
    let shared = (0..tests.len()).filter_map(|row| Some((row, *known.get(&content_hash(tests, row))?)));
    let shared: Vec<(usize, usize)> = shared.collect();
    let (test, trained) = *shared.first()?;
    let place = |dataset: &Dataset, row| {
        let (file, place) = dataset.place(row);
        (file.to_owned(), place)
    };
    Some(TestOverlap {
        prompts: shared.len() as u32,
        tests: place(tests, test),
        train: place(train, trained),
    })
}

/// Rows that say the same as an earlier one, in prompt and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatedRows {
    pub rows: usize,
    pub of: usize,
    /// The first of them.
    pub first: (PathBuf, RowPlace),
    /// The row that it repeats.
    pub before: RowPlace,
}

impl fmt::Display for RepeatedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RepeatedRows { rows, of, first: (file, place), before } = self;
        write!(
            f,
            "{}: {rows} of {of} rows repeat an earlier one, the first in {} ({}): they are trained on as often. Remove \
             them, or leave them as they are if the weight is meant",
            file.display(),
            place.words(),
            before.words()
        )
    }
}

/// The rows that repeat earlier ones, if they are at least a tenth: a few of them change little.
pub fn repeated(dataset: &Dataset) -> Option<RepeatedRows> {
    let mut known = HashMap::new();
    let (mut rows, mut first) = (0, None);
    // Turns of one conversation may be alike.
    for row in (0..dataset.len()).filter(|_| dataset.draws() == dataset.len()) {
        let mut hash = blake3::Hasher::new();
        for text in dataset.texts(row) {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        let earlier = *known.entry(hash.finalize()).or_insert(row);
        if earlier != row {
            rows += 1;
            first.get_or_insert((row, earlier));
        }
    }
    let (row, before) = first.filter(|_| rows * 10 >= dataset.len())?;
    let (file, place) = dataset.place(row);
    Some(RepeatedRows {
        rows,
        of: dataset.len(),
        first: (file.to_owned(), place),
        before: dataset.place(before).1,
    })
}
