//! Test prompts that are trained on.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use super::{Dataset, RowPlace};

/// Held-out prompts that are also trained on. Not an error: the author may mean it, but no score should be
/// read without knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOverlap {
    /// Test rows whose prompt is in the training data.
    pub prompts: u32,
    /// The first of them.
    pub tests: (PathBuf, RowPlace),
    /// Where it stands in the training data.
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

/// The test prompts that stand in the training data, if there are any.
pub fn overlap(train: &Dataset, tests: &Dataset) -> Option<TestOverlap> {
    // Hashes, so that large data need not be held twice.
    let hash = |dataset: &Dataset, row: usize| {
        // A conversation is more than its last question.
        let whole = dataset.conversation(row).map(|conversation| conversation.asked().fingerprint());
        blake3::hash(whole.as_deref().unwrap_or(dataset.prompt(row)).as_bytes())
    };
    let mut known = HashMap::new();
    for row in 0..train.len() {
        known.entry(hash(train, row)).or_insert(row);
    }
    let shared = (0..tests.len()).filter_map(|row| Some((row, *known.get(&hash(tests, row))?)));
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
