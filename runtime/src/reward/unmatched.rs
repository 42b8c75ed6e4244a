//! Notices a reward that finds nothing to judge in completions: all of them get 0, and a run would go on.

use std::sync::{Mutex, PoisonError};

use super::RewardInput;
use crate::quote::quote;

/// So many completions in a row have to have nothing to judge.
const MANY: u64 = 200;

/// Counts the completions in a row in which a rule found nothing to judge.
#[derive(Default)]
pub(super) struct Unmatched(Mutex<Streak>);

#[derive(Default)]
struct Streak {
    completions: u64,
    /// The last of them and its prompt, once they are many; taken when it is said.
    example: Option<(String, String)>,
}

impl Unmatched {
    /// Counts judged completions; `read` says of each whether there was something to judge.
    pub fn count(&self, answers: &[RewardInput], read: &[bool]) {
        let mut streak = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read.contains(&true) {
            *streak = Streak::default();
            return;
        }
        let before = streak.completions;
        streak.completions += read.len() as u64;
        // Said once in a row of them.
        if before < MANY && streak.completions >= MANY {
            let last = answers.last().map(|last| (last.prompt.to_owned(), last.completion.to_owned()));
            streak.example = last;
        }
    }

    /// The warning that none had what was looked for, if it is due. `reward` is the rule's name.
    pub fn take_warning(&self, reward: &str, wanted: &str) -> Option<String> {
        let mut streak = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (prompt, completion) = streak.example.take()?;
        Some(format!(
            "`{reward}` found no {wanted} in the last {} completions, which all got 0; the last was {}, to {}. Ask for \
             it in the prompts or by `system`, or give completions more `max_tokens`",
            streak.completions,
            quote(&completion),
            quote(&prompt)
        ))
    }
}
