//! The size of an answer, which is known before it is computed. Lists of log-probabilities may be large: of a
//! vocabulary of 150,000 tokens, ten megabytes for each token.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::ScoreRequest;
use super::transport::RequestRefusal;

/// Bytes of a listed entry at the peak: its text, which grows by doubling, and the numbers that it is written
/// from. An answer of a million entries takes 208 for each.
const ENTRY: u64 = 224;
/// Most bytes of an answer.
const MOST: u64 = 512 << 20;
/// The unit in which the bytes of all answers are counted.
const UNIT: u64 = 1 << 10;

/// The memory for answers, over all requests.
#[derive(Clone)]
pub struct AnswerMemory(Arc<Semaphore>);

/// The part of it that a request has until its answer is sent.
pub struct AnswerShare(#[expect(dead_code, reason = "it is freed when it is dropped")] OwnedSemaphorePermit);

impl AnswerMemory {
    pub fn new() -> AnswerMemory {
        AnswerMemory(Arc::new(Semaphore::new((MOST / UNIT) as usize)))
    }

    /// Waits until there is memory for the answer to a request over a vocabulary of `vocabulary` tokens.
    ///
    /// # Errors
    /// If the answer would be larger than any may be.
    pub async fn share(
        &self,
        score: &ScoreRequest,
        vocabulary: usize,
    ) -> Result<AnswerShare, RequestRefusal> {
        let of_token =
            score.top.map_or(vocabulary, |top| vocabulary.min(top as usize)) + score.chosen.len() + 1;
        let tokens: u64 = score.sequences.iter().map(|ids| ids.len() as u64 + 1).sum();
        let bytes = (of_token as u64).saturating_mul(tokens).saturating_mul(ENTRY);
        if bytes > MOST {
            let most = MOST / ENTRY;
            return Err(RequestRefusal::new(
                413,
                format!(
                    "the answer would list {of_token} entries for each of {tokens} tokens, and has at most \
                    {most} in all: ask for shorter lists, or for fewer tokens at a time"
                ),
            ));
        }
        let units = u32::try_from(bytes / UNIT + 1).expect("fewer units than there are");
        match self.0.clone().acquire_many_owned(units.min((MOST / UNIT) as u32)).await {
            Ok(permit) => Ok(AnswerShare(permit)),
            Err(_) => Err(RequestRefusal::new(503, "the server is shutting down")),
        }
    }
}

/// A text whose memory counts until it is sent.
struct CountedText {
    text: String,
    #[expect(dead_code, reason = "it is freed when it is dropped")]
    share: Option<AnswerShare>,
}

impl AsRef<[u8]> for CountedText {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

pub fn counted(text: String, share: Option<AnswerShare>) -> Bytes {
    Bytes::from_owner(CountedText { text, share })
}
