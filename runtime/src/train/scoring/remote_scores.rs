//! Scores of the completion tokens by teachers on servers. The requests to all of them run concurrently.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mopd_plan::Rollout;

use super::context::Scoring;
use super::runs::ScoringRun;
use crate::failure::{Error, Result, caught};
use crate::remote::{CancelToken, ListedTokens, ScoredSequence, ServedScores, Server};
use crate::train::models::ScorerRef;
use crate::train::packing::in_order;
use crate::train::sequences::Sequences;
use crate::train::stage::draws_are_unselected;
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::{Listed, LmHead, Logits};
use crate::zip::zip_equal;

/// The sequences that one teacher scores.
struct TeacherQuery<'a> {
    server: &'a Server,
    /// The micro-batches that a local model would have.
    micro_batches: Vec<Vec<usize>>,
    readings: Vec<Vec<ScoredSequence>>,
    /// Whether it reads the sequences as the student wrote them.
    reads_own_prompts: bool,
}

/// The logits of each pass through a served teacher, in the order of the sequences; `None` for other passes.
pub fn logits(
    scoring: &Scoring,
    passes: &[(ScorerRef, Vec<usize>)],
    runs: &[ScoringRun],
    sequences: &Sequences,
    step: u32,
) -> Result<Vec<Option<Logits>>> {
    let asked = |(scored, pass): &(ScorerRef, Vec<usize>)| {
        let ScorerRef::Served(scorer) = *scored else { return Ok(None) };
        let server = scoring.models.server(scorer, scoring.stage.servers);
        let members = || pass.iter().flat_map(|run| runs[*run].members.clone());
        question(scoring, server, *scored, sequences, members, step).map(Some)
    };
    let questions: Vec<Option<TeacherQuery>> = passes.iter().map(asked).collect::<Result<_>>()?;
    let entries = scoring.models.entries();
    let absent = scoring.stage.start.tokenizer.absent();
    let given_up = AtomicBool::new(false);
    let cancel = CancelToken { control: scoring.stage.control, given_up: &given_up };
    let ask = |question: &TeacherQuery| {
        let scores = question.server.score(&question.readings, entries as usize, cancel);
        let scores = scores.and_then(|scores| question.server.check_listed(&scores, absent).map(|()| scores));
        if scores.is_err() {
            given_up.store(true, Ordering::Relaxed);
        }
        scores
    };
    let answers: Vec<Option<Result<ServedScores>>> = thread::scope(|scope| {
        let ask = &ask;
        let asked: Vec<_> = questions
            .iter()
            .map(|of| of.as_ref().map(|of| scope.spawn(move || caught(|| ask(of)))))
            .collect();
        let answer = |thread: thread::ScopedJoinHandle<Result<Result<ServedScores>>>| {
            thread.join().expect("panics are caught in the thread").flatten()
        };
        asked.into_iter().map(|thread| thread.map(answer)).collect()
    });
    // A request that was cancelled because another failed is not the cause.
    let mut answered = Vec::with_capacity(answers.len());
    let mut failure = None;
    for answer in answers {
        match answer.transpose() {
            Ok(scores) => answered.push(scores),
            Err(error) => match failure {
                None | Some(Error::Interrupted) => failure = Some(error),
                Some(Error::Failed(_)) => {}
            },
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    for (question, scores) in zip_equal(&questions, &answered) {
        if let (Some(question), Some(ServedScores::Listed(listed))) = (question, scores) {
            question.test_draws(&scoring.stage.train.rollout, sequences, listed)?;
        }
    }
    let of = |(question, scores): (&Option<TeacherQuery>, Option<ServedScores>)| {
        Some(question.as_ref()?.logits(scoring, sequences, scores?, entries))
    };
    Ok(zip_equal(&questions, answered).map(of).collect())
}

fn question<'a, M: Iterator<Item = usize>>(
    scoring: &Scoring,
    server: &'a Server,
    scored: ScorerRef,
    sequences: &Sequences,
    members: impl Fn() -> M,
    step: u32,
) -> Result<TeacherQuery<'a>> {
    let stage = scoring.stage;
    let sees = scoring.models.sees(scored);
    let context = server.context().unwrap_or(usize::MAX);
    let shown = ScorerPrompts::new(stage.texts(), sees, context, sequences, members(), scoring.now(step))?;
    shown.fit(&stage.sources, sequences, members(), context)?;
    let micro_batches = stage.packing().micro_batches(sequences, members(), &shown);
    let read = |member: &usize| {
        let sequence = &sequences.list[*member];
        ScoredSequence {
            prompt: shown.prompt(&stage.sources, sequence, *member).to_vec(),
            completion: sequence.completion.to_vec(),
            scored: sequence.completion.mask(),
        }
    };
    let readings = micro_batches.iter().map(|members| members.iter().map(read).collect()).collect();
    Ok(TeacherQuery { server, micro_batches, readings, reads_own_prompts: sees.is_none() })
}

impl TeacherQuery<'_> {
    /// Tests a teacher's numbers by the sampler's draws. A distribution of whole rows is normalised here, so
    /// only listed numbers can fail. A template may show the teacher what was drawn, and a selection favours
    /// what the teacher would have written: then the draws say nothing.
    fn test_draws(&self, rollout: &Rollout, sequences: &Sequences, listed: &[ListedTokens]) -> Result<()> {
        if !self.reads_own_prompts || !draws_are_unselected(rollout) {
            return Ok(());
        }
        let order: Vec<usize> = self.micro_batches.iter().flatten().copied().collect();
        let mut scored: Vec<(usize, &ListedTokens)> = zip_equal(order, listed).collect();
        scored.sort_by_key(|(member, _)| *member);
        for (member, listed) in scored {
            let completion = &sequences.list[member].completion;
            let Some(drawn) = completion.logps().filter(|_| completion.heads().is_none()) else {
                continue;
            };
            let tokens: Vec<_> = completion.trained_tokens().collect();
            let own: Vec<f32> = listed.tokens.iter().map(|entries| entries[0].1).collect();
            self.server.test_draws(member, &tokens, &own, &drawn)?;
        }
        Ok(())
    }

    fn logits(&self, scoring: &Scoring, sequences: &Sequences, said: ServedScores, entries: i64) -> Logits {
        let stage = scoring.stage;
        let order: Vec<usize> = self.micro_batches.iter().flatten().copied().collect();
        match said {
            ServedScores::Hidden { batches, lm_head, softcap } => {
                let batches: Vec<_> =
                    batches.iter().map(|of| of.to_device(stage.place.device).to_kind(stage.kind)).collect();
                let hidden = in_order(&batches, order.into_iter(), sequences, stage.place.device);
                let lm_head = lm_head.narrow(0, 0, entries).to_device(stage.place.device).to_kind(stage.kind);
                Logits::Projected { hidden, lm_head: LmHead::Held(lm_head), softcap, scalar_head: None }
            }
            ServedScores::Listed(listed) => {
                let mut listed: Vec<(usize, ListedTokens)> = zip_equal(order, listed).collect();
                listed.sort_by_key(|(member, _)| *member);
                let mut tokens = Vec::new();
                for (member, listed) in listed {
                    let own = sequences.tokens(member).len();
                    assert_eq!(listed.tokens.len(), own, "one entry for each token that is trained on");
                    tokens.extend(listed.tokens);
                }
                let listed = Listed::new(&tokens, entries, stage.place.device);
                if self.server.answers_all() {
                    // Log-probabilities of all entries are logits of the distribution.
                    Logits::Given(listed.rows(0, listed.tokens()))
                } else {
                    Logits::Listed(listed)
                }
            }
        }
    }
}
