//! Detection of test prompts in the training data.

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

/// The test prompts that are in the training data, if any.
pub fn overlap(train: &Dataset, tests: &Dataset) -> Option<TestOverlap> {
    let mut known = HashMap::new();
    for row in 0..train.len() {
        known.entry(prompt_hash(train, row)).or_insert(row);
    }
    let shared = (0..tests.len()).filter_map(|row| Some((row, *known.get(&prompt_hash(tests, row))?)));
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
