//! The logits of a role that is not composed of others, from its models and servers.

use std::cell::OnceCell;

use mopd_plan::Role;
use tch::no_grad_guard;

use super::cached_scores::CachedScorer;
use super::context::Scoring;
use super::remote_scores;
use super::runs::{ScoringRun, runs};
use super::spans::rest_of;
use crate::failure::Result;
use crate::model::ScoringDecoder;
use crate::train::models::{FrozenDecoder, ModelScorer, ScorerRef};
use crate::train::rollouts::Rollouts;
use crate::train::views::ScorerPrompts;
use crate::train::vocabulary::{Logits, MappedLogits, Spans};
use crate::zip::zip_equal;

/// The logits of a role at every completion token, by the model that has the role for the prompt, in batch
/// order. With another tokenizer, also the spans: where its tokens and the student's begin together.
/// Logits that do not change while the student learns are kept for the next pass over the same rollouts.
/// `last`: this is the last role to be scored.
pub fn logits_of(
    scoring: &Scoring,
    role: Role,
    rollouts: &Rollouts,
    step: u32,
    last: bool,
) -> Result<(Vec<Logits>, Option<Spans>)> {
    let _guard = no_grad_guard();
    let Scoring { stage, models, .. } = *scoring;
    let sequences = &rollouts.sequences;
    let runs = runs(scoring, role, sequences)?;
    let mut spans = models
        .own_tokens(role)
        .then(|| Spans::of_tokens(role, sequences.layout.tokens(), stage.place.device));
    let mut parts: Vec<Option<Logits>> = runs.iter().map(|_| None).collect();
    let passes = passes(&runs, stage.sources.routes_by_data());
    let of_servers = remote_scores::logits(scoring, &passes, &runs, sequences, step)?;
    for ((scored, pass), of_server) in zip_equal(&passes, of_servers) {
        let scorer = match scored {
            ScorerRef::Model(scorer) => scorer,
            ScorerRef::Served(_) => {
                give(&mut parts, &runs, pass, &of_server.expect("a server answers its passes"));
                continue;
            }
            ScorerRef::Composed(_) => unreachable!("one that is made of others goes through no model"),
        };
        let ModelScorer { model_ref, .. } = *scorer;
        let sees = models.view(*scorer);
        let softcap = models.softcap(model_ref, scoring.model);
        let scalar_head = models.scalar_head(model_ref, scoring.model);
        let loaded = OnceCell::new();
        let decoder = || {
            let frozen = loaded.get_or_init(|| models.scoring_decoder(model_ref)).as_ref();
            frozen.map_or(ScoringDecoder::Held(scoring.model), FrozenDecoder::scoring)
        };
        if let (Some(other), Some(spans)) = (models.other_tokenizer(*scorer), &mut spans) {
            let [run] = pass.as_slice() else { unreachable!("runs of another tokenizer go alone") };
            let ScoringRun { members, tokens, .. } = &runs[*run];
            let reading =
                other.reading(stage.texts(), sees, sequences, members.clone(), scoring.now(step))?;
            let (hidden, targets) = reading.hidden(stage.packing(), decoder());
            let only = last && passes.len() == 1;
            let lm_head = models.lm_head(model_ref, loaded.get().is_some().then(decoder), only);
            let logits = Logits::Projected { hidden, lm_head, softcap, scalar_head };
            let objective = &stage.train.objective;
            let rest = rest_of(objective, role, &reading, other, stage.place, &logits, &targets)?;
            spans.set(tokens.start, reading.tokens, &reading.spans, rest);
            let mapped = MappedLogits::new(logits, reading.rows(), other.columns(stage.place.device));
            parts[*run] = Some(Logits::Mapped(mapped));
            continue;
        }
        let kept = match (scoring.kept, pass.as_slice()) {
            (Some(kept), [run]) if sees.is_none() && !scorer.own_tokens => {
                let ScoringRun { sources, members, .. } = &runs[*run];
                let (batches, sources) = (scoring.batches, sources.clone());
                let scorer = CachedScorer { stage, models, batches, role, model_ref, sources, decoder };
                kept.hidden(&scorer, sequences, members.clone())
            }
            _ => None,
        };
        let hidden = match kept {
            Some(kept) => kept,
            None => {
                let members = || pass.iter().flat_map(|run| runs[*run].members.clone());
                let (context, now) = (decoder().config().context, scoring.now(step));
                let shown = ScorerPrompts::new(stage.texts(), sees, context, sequences, members(), now)?;
                shown.fit(&stage.sources, sequences, members(), context)?;
                let micro_batches = stage.packing().micro_batches(sequences, members(), &shown);
                stage.packing().hidden(decoder(), sequences, &micro_batches, &shown)
            }
        };
        // The LM head of a single model stays in memory while its layers are freed. With several models, the
        // heads of others would be read before that of the last one.
        let only = last && passes.len() == 1;
        let lm_head = models.lm_head(model_ref, loaded.get().is_some().then(decoder), only);
        let logits = Logits::Projected { hidden, lm_head, softcap, scalar_head };
        give(&mut parts, &runs, pass, &logits);
    }
    let absent = |run: &ScoringRun| Logits::Absent(run.tokens.len() as i64);
    let parts: Vec<Logits> =
        zip_equal(&runs, parts).map(|(run, part)| part.unwrap_or_else(|| absent(run))).collect();
    if scoring.stage.train.options.passes > 1 && !models.moves(role) && spans.is_none() {
        rollouts.known.borrow_mut().push((role, shared(&parts)));
    }
    Ok((parts, spans))
}

/// The runs that go through a model together, as indices. Where the data routes (`by_data`), all domains
/// share a few teachers: each teacher then has one pass for all its runs.
fn passes(runs: &[ScoringRun], by_data: bool) -> Vec<(ScorerRef, Vec<usize>)> {
    let mut passes: Vec<(ScorerRef, Vec<usize>)> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let Some(scored @ (ScorerRef::Model(_) | ScorerRef::Served(_))) = run.scored else { continue };
        let together = by_data && !scored.model().is_some_and(|scorer| scorer.own_tokens);
        match passes.iter_mut().find(|(known, _)| together && *known == scored) {
            Some((_, pass)) => pass.push(index),
            None => passes.push((scored, vec![index])),
        }
    }
    passes
}

/// Gives each run of a pass its part of `logits`, which are in the order of the runs.
fn give(parts: &mut [Option<Logits>], runs: &[ScoringRun], pass: &[usize], logits: &Logits) {
    let mut first = 0;
    for run in pass {
        let tokens = runs[*run].tokens.len() as i64;
        parts[*run] = Some(logits.part(first, tokens));
        first += tokens;
    }
    assert_eq!(first, logits.tokens(), "the logits of a pass are of its tokens");
}

pub fn shared(parts: &[Logits]) -> Vec<Logits> {
    parts.iter().map(Logits::share).collect()
}
