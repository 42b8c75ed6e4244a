//! What a teacher on a server says of the completion tokens.

use super::models::Scored;
use super::part::Scoring;
use super::scores::in_order;
use super::sequences::Sequences;
use super::views::Shown;
use super::vocabulary::{Listed, Logits, Matrix};
use crate::failure::Result;
use crate::served::{ListedTokens, Reading, Scores};
use crate::zip::zip_equal;

/// The logits of the members' tokens, in the order of the sequences.
pub fn logits<M: Iterator<Item = usize>>(
    scoring: &Scoring,
    scored: Scored,
    sequences: &Sequences,
    members: impl Fn() -> M,
    step: u32,
) -> Result<Logits> {
    let Scored::Served(reader) = scored else { unreachable!("a teacher on a server") };
    let (stage, models) = (scoring.stage, scoring.models);
    let server = models.server(reader, stage);
    let context = server.context().unwrap_or(usize::MAX);
    let shown = Shown::new(stage, (models.sees(scored), context), sequences, members(), scoring.now(step))?;
    // Those that a model at hand would read together.
    let micro_batches = sequences.micro_batches(stage, members(), &shown);
    let read = |member: &usize| {
        let sequence = &sequences.list[*member];
        Reading {
            prompt: shown.prompt(stage, sequence, *member).to_vec(),
            completion: sequence.completion.clone(),
            scored: sequence.written.clone(),
        }
    };
    let batches: Vec<Vec<Reading>> =
        micro_batches.iter().map(|members| members.iter().map(read).collect()).collect();
    let entries = models.entries();
    let said = server.score(&batches, entries as usize, stage.control)?;
    let order = || micro_batches.iter().flatten().copied();
    Ok(match said {
        Scores::Hidden { batches, lm_head, softcap } => {
            let batches: Vec<_> =
                batches.iter().map(|hidden| hidden.to_device(stage.device).to_kind(stage.kind)).collect();
            let hidden = in_order(&batches, order(), sequences, stage.device);
            let matrix = lm_head.narrow(0, 0, entries).to_device(stage.device).to_kind(stage.kind);
            Logits::Projected { hidden, matrix: Matrix::Held(matrix), softcap, scalar_head: None }
        }
        Scores::Listed(listed) => {
            let order: Vec<usize> = order().collect();
            let mut listed: Vec<(usize, ListedTokens)> = zip_equal(order, listed).collect();
            listed.sort_by_key(|(member, _)| *member);
            let mut tokens = Vec::new();
            for (member, listed) in listed {
                let own = sequences.tokens(member).len();
                assert_eq!(listed.tokens.len(), own, "one entry for each token that is trained on");
                tokens.extend(listed.tokens);
            }
            let listed = Listed::new(&tokens, entries, stage.device);
            if server.answers_all() {
                // Those of a whole distribution are as good as any logits of it.
                Logits::Given(listed.rows(0, listed.tokens()))
            } else {
                Logits::Listed(listed)
            }
        }
    })
}
