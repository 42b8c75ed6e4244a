//! Evaluations: the statistics from which scores are computed, and the completions beside them.

use mopd_plan::events::FailureKind;
use mopd_store::write_whole;

use super::hashed::write_json;
use super::{Store, VALUE};
use crate::failure::{Error, Result};
use crate::report::answers::PromptAnswers;
use crate::report::completions::{self, JudgedCompletion};
use crate::report::parquet;
use crate::report::read::{RowFilter, columns};

const COMPLETIONS: &str = "completions.parquet";

impl Store {
    /// Stores an evaluation: its statistics as the value, and its completions.
    pub fn insert_evaluation(
        &self,
        key: &str,
        about: &str,
        answers: &[PromptAnswers],
        completions: &[JudgedCompletion],
    ) -> Result<()> {
        self.folder.write(key, about, |folder| {
            let path = folder.join(COMPLETIONS);
            let encoded = completions::encoded(completions).map_err(|error| parquet::failed(&path, error))?;
            let sums = [
                (VALUE.to_owned(), write_json(&folder.join(VALUE), &answers)?),
                (COMPLETIONS.to_owned(), write_whole(&path, &encoded)?),
            ];
            Ok(sums.into())
        })
    }

    /// The completions of a stored evaluation; `None` where an earlier version stored it without them. Does
    /// not verify checksums.
    pub fn completions(&self, key: &str) -> Result<Option<Vec<JudgedCompletion>>> {
        let path = self.path(key).join(COMPLETIONS);
        if !path.exists() {
            return self.deleted(key).map_or(Ok(None), Err);
        }
        let found = completions::decoded(columns(&path, &RowFilter::new())?);
        let damaged = || {
            let message = format!("{} does not have the columns of an evaluation", path.display());
            Error::new(FailureKind::Storage, message)
        };
        found.map(Some).ok_or_else(damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mopd_store::Lookup;

    use super::*;

    /// A score of an earlier version is found as before, and its completions are absent, not empty.
    #[test]
    fn completions_are_stored_with_their_score() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let completion = JudgedCompletion {
            prompt: 0,
            sample: 0,
            text: "a".to_owned(),
            left_out: 0,
            reward: 1.0,
            parts: Vec::new(),
            feedback: None,
            tokens: 2,
            truncated: false,
        };
        store.insert_evaluation("score", "a score", &[], std::slice::from_ref(&completion)).unwrap();
        assert!(matches!(store.find_value::<Vec<PromptAnswers>>("score"), Lookup::Found(_)));
        assert_eq!(store.completions("score").unwrap(), Some(vec![completion]));
        store.insert_value::<Vec<PromptAnswers>>("earlier", "a score", &Vec::new()).unwrap();
        assert_eq!(store.completions("earlier").unwrap(), None);
        // Damaged completions are damage of the whole entry, which is computed again.
        fs::write(store.path("score").join(COMPLETIONS), "PAR1").unwrap();
        assert!(matches!(store.find_value::<Vec<PromptAnswers>>("score"), Lookup::Damaged(_)));
        assert!(store.completions("score").is_err());
        fs::remove_dir_all(store.path("score")).unwrap();
        assert!(store.completions("score").unwrap_err().to_string().contains("was deleted during the run"));
    }
}
