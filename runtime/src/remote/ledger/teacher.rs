//! The ledger of a teacher's server. Its canary is a fixed short request, whose numbers are recorded before
//! the first stage and asked for again: after some scored tokens, before a checkpoint, and before a result.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mopd_plan::{Answers, Engine, Served, Train};
use tch::{Kind, Tensor, no_grad_guard};

use super::super::ask::{self, CancelToken, ReplyProblem};
use super::super::{ListedTokens, ScoredSequence, ServedScores, Server, Servers, TEACHER, push};
use super::draws::{ALPHA, DrawTest};
use super::gap::{self, mean_difference};
use super::prefixes::{PrefixDifference, PrefixNumbers, SequenceNumbers};
use crate::failure::{Error, Result};
use crate::machine::transfer::to_vec;
use crate::tokenizer::{Token, Tokenizer};
use crate::zip::zip_equal;

/// Scored tokens for each token of the canary: it costs a thousandth.
const CANARY_SHARE: u64 = 1000;
/// Most listed entries of the canary.
const CANARY_ENTRIES: usize = 100_000;
/// Most sequences of a batch that are asked for again.
const ASKED_AGAIN: usize = 8;

/// What is known of a teacher's server from its answers.
pub struct TeacherLedger(Mutex<Entries>);

/// The version of a server's weights that it names; `None` where it names none.
#[derive(Clone, PartialEq)]
struct WeightVersion(Option<String>);

impl fmt::Display for WeightVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(version) => write!(f, "the version `{version}` of its weights"),
            None => f.write_str("no version of its weights"),
        }
    }
}

struct Entries {
    /// Of the first answer, or of the server's identity; `None` before.
    version: Option<WeightVersion>,
    draws: DrawTest,
    prefixes: PrefixNumbers,
    canary: Option<Canary>,
    /// Tokens that were scored since the canary was asked for.
    since: u64,
}

#[derive(Clone)]
struct Canary {
    sequence: ScoredSequence,
    /// Number of entries of the student's vocabulary.
    entries: usize,
    numbers: Vec<f32>,
}

/// The numbers of a sequence that the server scored.
struct ServerNumbers {
    of_tokens: Vec<f32>,
    of_prefixes: Vec<f32>,
}

impl ServerNumbers {
    fn all(&self) -> impl Iterator<Item = f32> {
        self.of_tokens.iter().chain(&self.of_prefixes).copied()
    }

    fn sequence<'a>(&self, reading: &'a ScoredSequence) -> SequenceNumbers<'a> {
        SequenceNumbers {
            prompt: &reading.prompt,
            completion: &reading.completion,
            scored: reading.scored.as_deref(),
            of_tokens: self.of_tokens.clone(),
            of_prefixes: self.of_prefixes.clone(),
        }
    }
}

impl TeacherLedger {
    /// `version` is the one that the server's identity names.
    pub fn new(version: Option<String>) -> TeacherLedger {
        let version = version.map(|version| WeightVersion(Some(version)));
        let (draws, prefixes) = (DrawTest::new(ALPHA), PrefixNumbers::default());
        TeacherLedger(Mutex::new(Entries { version, draws, prefixes, canary: None, since: 0 }))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn refused(&self, what: impl Into<String>) -> Error {
        let help = "nothing was trained on this answer: read the server's log, and look for settings that \
            change its log-probabilities, or for something between it and this machine";
        ask::failed(TEACHER, &self.address, ReplyProblem::lasting(what, help))
    }

    /// Scores of sequences, checked as far as their form shows, then by the ledger.
    pub fn score(
        &self,
        batches: &[Vec<ScoredSequence>],
        entries: usize,
        cancel: CancelToken,
    ) -> Result<ServedScores> {
        let scores = self.request_scores(batches, entries, cancel)?;
        self.compare_versions(&scores)?;
        let readings: Vec<&ScoredSequence> = batches.iter().flatten().collect();
        let numbers = self.numbers(&readings, &scores)?;
        self.compare_prefixes(&readings, &numbers, entries, cancel)?;
        let tokens: usize = readings.iter().map(|of| of.prompt.len() + of.completion.len()).sum();
        let due = {
            let mut ledger = self.ledger.entries();
            ledger.since += tokens as u64;
            let canary = ledger.canary.as_ref().map(|canary| canary.sequence.ids().len() as u64);
            canary.is_some_and(|canary| ledger.since >= CANARY_SHARE * canary)
        };
        if due {
            self.confirm(cancel)?;
        }
        Ok(scores)
    }

    fn compare_versions(&self, scores: &ServedScores) -> Result<()> {
        // `mopd serve` names the content of its weights, and each answer is checked when it is read.
        let ServedScores::Listed(listed) = scores else { return Ok(()) };
        let mut ledger = self.ledger.entries();
        for answer in listed {
            let version = WeightVersion(answer.version.clone());
            let first = ledger.version.get_or_insert_with(|| version.clone());
            if *first != version {
                return Err(self.replaced(&format!("names {version} now, and named {first} before")));
            }
        }
        Ok(())
    }

    fn replaced(&self, what: &str) -> Error {
        let help = "no checkpoint has a step that was trained on the other numbers: serve the weights that \
            the run began with, and it continues from its checkpoint; other weights are another teacher, \
            which needs another `model` name if the server reports no version";
        ask::failed(TEACHER, &self.address, ReplyProblem::lasting(what, help))
    }

    /// The numbers of each sequence that depend on its tokens alone.
    fn numbers(&self, readings: &[&ScoredSequence], scores: &ServedScores) -> Result<Vec<ServerNumbers>> {
        let listed = match scores {
            ServedScores::Listed(listed) => listed,
            ServedScores::Hidden { batches, .. } => {
                let rows: Vec<f32> = batches.iter().flat_map(projections).collect();
                if rows.iter().any(|row| !row.is_finite()) {
                    return Err(self.refused("returned rows of zeros"));
                }
                let mut rows = rows.into_iter();
                let numbers_of = |reading: &&ScoredSequence| {
                    let of_prefixes = rows.by_ref().take(reading.places().count()).collect();
                    ServerNumbers { of_tokens: Vec::new(), of_prefixes }
                };
                return Ok(readings.iter().map(numbers_of).collect());
            }
        };
        let numbers_of = |answer: &ListedTokens| ServerNumbers {
            of_tokens: answer.tokens.iter().map(|entries| entries[0].1).collect(),
            of_prefixes: match self.served.answers {
                Answers::Sampled => Vec::new(),
                Answers::TopK(_) | Answers::Distribution => {
                    answer.tokens.iter().map(|list| of_list(list)).collect()
                }
            },
        };
        Ok(listed.iter().map(numbers_of).collect())
    }

    /// Compares numbers of equal prefixes. Where two differ much, both sequences are asked for again: a
    /// server that gives other numbers then is refused at once. Small differences are counted.
    fn compare_prefixes(
        &self,
        readings: &[&ScoredSequence],
        numbers: &[ServerNumbers],
        entries: usize,
        cancel: CancelToken,
    ) -> Result<()> {
        let (mut again, mut alarm) = (Vec::new(), None);
        {
            let mut ledger = self.ledger.entries();
            for (index, (reading, numbers)) in zip_equal(readings, numbers).enumerate() {
                let difference = ledger.prefixes.compare(&numbers.sequence(reading));
                if let Some(suspect) = difference.filter(|suspect| suspect.is_suspect()) {
                    let other = usize::try_from(suspect.back).ok().and_then(|back| index.checked_sub(back));
                    again.extend(other.map(|other| (other, suspect)));
                    again.push((index, suspect));
                }
                alarm = alarm.or(ledger.prefixes.differ());
            }
        }
        again.dedup_by_key(|(index, _)| *index);
        for (index, suspect) in again.into_iter().take(ASKED_AGAIN) {
            let reading = readings[index].clone();
            let scores = self.request_scores(&[vec![reading.clone()]], entries, cancel)?;
            let second = self.numbers(&[&reading], &scores)?.swap_remove(0);
            let (first, second): (Vec<f32>, Vec<f32>) =
                (numbers[index].all().collect(), second.all().collect());
            let both = zip_equal(first, second);
            let (sum, count) = both.fold((0.0, 0.0), |(sum, count), (one, other)| {
                (sum + f64::from((one - other).abs()), count + 1.0)
            });
            if super::gap::exceeds(sum, 2.0 + 0.25 * count) {
                return Err(self.refused(format!(
                    "gives the same tokens other numbers each time: {:.3} apart on average over the {count} \
                    numbers of a sequence that was sent twice, because {}",
                    sum / count,
                    reason(suspect)
                )));
            }
        }
        match alarm {
            None => Ok(()),
            Some((above, compared)) => Err(self.refused(format!(
                "gives equal prefixes different numbers: {above} of {compared} sequences that begin like an \
                earlier one differ from it by more than 0.1 nats, and a log-probability depends on the tokens \
                before it only"
            ))),
        }
    }

    /// Tests log-probabilities of tokens that a sampler drew; `drawn` are its own.
    pub fn test_draws(&self, index: usize, tokens: &[Token], scored: &[f32], drawn: &[f32]) -> Result<()> {
        let Some(count) = self.ledger.entries().draws.add(scored, drawn) else { return Ok(()) };
        let shown: Vec<String> = (0..count.min(4))
            .map(|token| {
                format!(
                    "{:.4} for the token {}, drawn with {:.4}",
                    scored[token], tokens[token], drawn[token]
                )
            })
            .collect();
        Err(self.refused(format!(
            "returned numbers that are no log-probabilities of the tokens: they are too high where the sampler \
            drew, as those of an honest server are in one of {:.0} runs at most; at completion {index} up to \
            token {}: {}",
            1.0 / ALPHA,
            count - 1,
            shown.join("; ")
        )))
    }

    /// Records the canary. The same prefix under another continuation must have the same numbers.
    pub(in super::super) fn record_canary(&self, student: &Tokenizer, cancel: CancelToken) -> Result<()> {
        let Ok(mut sequence) = push::canary(student) else { return Ok(()) };
        sequence.completion.truncate(self.context().unwrap_or(usize::MAX).saturating_sub(2));
        let entries = student.vocabulary();
        // Whole distributions as text take megabytes for each token of a large vocabulary.
        if self.served.answers == Answers::Distribution && self.served.engine != Engine::Mopd {
            sequence.completion.truncate((CANARY_ENTRIES / entries).max(2));
        }
        if sequence.completion.is_empty() || self.ledger.entries().canary.is_some() {
            return Ok(());
        }
        let numbers = self.canary_numbers(&sequence, entries, cancel)?;
        let shared = sequence.completion.len() / 2;
        let mut other = sequence.clone();
        other.completion[shared..].reverse();
        if other != sequence {
            let again = self.canary_numbers(&other, entries, cancel)?;
            let of_tokens = |numbers: &[f32]| numbers.iter().take(shared).copied().collect::<Vec<_>>();
            let apart = mean_difference(&of_tokens(&numbers), &of_tokens(&again));
            if shared > 0 && apart > gap::ROUNDED {
                return Err(self.refused(format!(
                    "gives the first {shared} tokens of a text other numbers when the rest is another: \
                    {apart:.3} nats on average"
                )));
            }
        }
        self.ledger.entries().canary = Some(Canary { sequence, entries, numbers });
        Ok(())
    }

    fn canary_numbers(
        &self,
        sequence: &ScoredSequence,
        entries: usize,
        cancel: CancelToken,
    ) -> Result<Vec<f32>> {
        let scores = self.request_scores(&[vec![sequence.clone()]], entries, cancel)?;
        self.compare_versions(&scores)?;
        Ok(self.numbers(&[sequence], &scores)?.swap_remove(0).all().collect())
    }

    /// Asks for the canary again, if anything was scored since.
    pub fn confirm(&self, cancel: CancelToken) -> Result<()> {
        let (canary, scored) = {
            let ledger = self.ledger.entries();
            (ledger.canary.clone(), ledger.since)
        };
        let Some(canary) = canary.filter(|_| scored > 0) else { return Ok(()) };
        let now = self.canary_numbers(&canary.sequence, canary.entries, cancel)?;
        let apart = mean_difference(&now, &canary.numbers);
        if apart > gap::ROUNDED {
            return Err(self.replaced(&format!(
                "gives a fixed request other numbers than when the run began: {apart:.3} apart on average, \
                more than {}: it has other weights, or computes otherwise; {scored} tokens were scored since \
                its numbers were last right",
                gap::ROUNDED
            )));
        }
        self.ledger.entries().since = 0;
        Ok(())
    }
}

impl Servers {
    /// Asks a stage's served teachers for their canaries.
    pub fn confirm<O>(&self, train: &Train<O>, cancel: CancelToken) -> Result<()> {
        train.served().try_for_each(|served| self.get(served).confirm(cancel))
    }

    /// The canaries of a stage's served teachers, for its checkpoints: the hash of each one's identity, and
    /// its numbers as bits.
    pub fn canaries<O>(&self, train: &Train<O>) -> Vec<(String, Vec<u32>)> {
        let of = |served: &Served| {
            let server = self.get(served);
            let numbers = server.ledger.entries().canary.as_ref()?.numbers.clone();
            Some((server.identity.hash(), numbers.into_iter().map(f32::to_bits).collect()))
        };
        train.served().filter_map(of).collect()
    }

    /// Compares the canaries of a checkpoint with those of the servers now.
    pub fn compare_canaries<O>(&self, train: &Train<O>, stored: &[(String, Vec<u32>)]) -> Result<()> {
        for served in train.served() {
            let server = self.get(served);
            let Some(now) = server.ledger.entries().canary.as_ref().map(|of| of.numbers.clone()) else {
                continue;
            };
            let hash = server.identity.hash();
            let Some((_, before)) = stored.iter().find(|(identity, _)| *identity == hash) else { continue };
            let before: Vec<f32> = before.iter().copied().map(f32::from_bits).collect();
            let apart = mean_difference(&now, &before);
            if before.len() == now.len() && apart > gap::ROUNDED {
                return Err(server.replaced(&format!(
                    "gives a fixed request other numbers than when the checkpoint was written: {apart:.3} \
                    apart on average, more than {}: it has other weights, or computes otherwise",
                    gap::ROUNDED
                )));
            }
        }
        Ok(())
    }
}

fn reason(found: PrefixDifference) -> String {
    format!(
        "token {} had a number {:.3} away from that of the same prefix in another sequence",
        found.token, found.difference
    )
}

/// A number for a list of entries: its largest log-probability, and which tokens have how much of the mass.
/// It changes little where entries of nearly equal probability change places.
fn of_list(entries: &[(Token, f32)]) -> f32 {
    let largest = entries.iter().map(|(_, logp)| *logp).fold(f32::NEG_INFINITY, f32::max);
    let side = |id: Token| (id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let mass = entries
        .iter()
        .map(|(id, logp)| f64::from(logp.exp()) * (side(*id) as f64 / f64::from(1 << 23) - 1.0));
    largest + 2.0 * mass.sum::<f64>() as f32
}

/// A number for each row of hidden states, about 1 in size: a fixed projection of the row's direction. Not
/// finite for a row of zeros.
fn projections(hidden: &Tensor) -> Vec<f32> {
    let _guard = no_grad_guard();
    let rows = hidden.to_kind(Kind::Float);
    let sign = |place: i64| if (place.wrapping_mul(0x9E37_79B1) >> 16) & 1 == 0 { 1.0f32 } else { -1.0 };
    let signs: Vec<f32> = (0..rows.size()[1]).map(sign).collect();
    let signs = Tensor::from_slice(&signs).to_device(rows.device());
    let norms = rows.square().sum_dim_intlist([-1].as_slice(), false, Kind::Float).sqrt();
    to_vec(&(rows.matmul(&signs) / norms))
}
