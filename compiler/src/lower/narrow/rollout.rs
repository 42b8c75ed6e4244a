//! Where the tokens of a stage come from.

use mopd_lang::experiment::{self as wide, BatchSize, RolloutSource};
use mopd_lang::formula::{FormulaKind, Live, Preference};

use super::{Diagnostic, Narrowed, refused};
use crate::lower::Origins;
use crate::plan::{Completions, Keep, Prefixes, Sampling};

/// The rollout of a stage, with everything in it that can't be executed.
pub fn prefixes(train: &wide::Train, origins: Origins) -> Result<Prefixes, Vec<Diagnostic>> {
    let at = origins.span(train.rollout.origin);
    if let Some(pair) = pair(train, origins).transpose() {
        return pair.map_err(|refusal| vec![*refusal]);
    }
    let mut refusals: Vec<Diagnostic> =
        train.rollout.edits.iter().map(|edit| *refused(at, edit_name(edit))).collect();
    let prefixes = source(train, origins).map_err(|refusal| refusals.push(*refusal));
    match prefixes {
        Ok(prefixes) if refusals.is_empty() => Ok(prefixes),
        _ => Err(refusals),
    }
}

fn edit_name(edit: &wide::Edit) -> String {
    format!("the edit `{}` of a rollout", edit.name())
}

/// The pairs that the objective compares, where it compares any.
fn pair(train: &wide::Train, origins: Origins) -> Narrowed<Option<Prefixes>> {
    let at = origins.span(train.rollout.origin);
    let of_term = |term: &wide::Term| {
        let parts = term.value.parts().into_iter();
        let pairs = parts.filter_map(|part| match &part.0.kind {
            FormulaKind::Live(Live::Preference(preference)) => Some(preference.clone()),
            _ => None,
        });
        pairs.collect::<Vec<_>>()
    };
    let pairs: Vec<Vec<std::rc::Rc<Preference>>> = train.objective.terms.iter().map(of_term).collect();
    let Some(first) = pairs.iter().flatten().next() else { return Ok(None) };
    if pairs.iter().any(Vec::is_empty) {
        return Err(refused(
            at,
            "an objective that compares pairs in one term and judges other completions in another",
        ));
    }
    if pairs
        .iter()
        .flatten()
        .any(|other| (&other.chosen, &other.rejected) != (&first.chosen, &first.rejected))
    {
        return Err(refused(at, "an objective that compares two kinds of pairs"));
    }
    let (BatchSize::Prompts(batch) | BatchSize::Sequences(batch)) = train.size;
    let (chosen, rejected) = (completions(&first.chosen, origins)?, completions(&first.rejected, origins)?);
    Ok(Some(Prefixes::Pairs { chosen, rejected, batch }))
}

/// One side of a pair.
fn completions(rollout: &wide::Rollout, origins: Origins) -> Narrowed<Completions> {
    let at = origins.span(rollout.origin);
    if let Some(edit) = rollout.edits.first() {
        return Err(refused(at, edit_name(edit)));
    }
    let one = |of: &wide::Sampling| match sampling(of, origins, rollout.origin)? {
        sampling if sampling.n == 1 => Ok(sampling),
        _ => Err(refused(at, "a pair that is chosen from several samples (`n` above 1)")),
    };
    match &rollout.source {
        RolloutSource::Data { field } => Ok(Completions::Data { field: field.clone() }),
        RolloutSource::Sample(of) => Ok(Completions::Student { sampling: one(of)? }),
        RolloutSource::From {
            teacher: mopd_lang::formula::Role::Teacher,
            sees: None,
            sequences: None,
            sampling: of,
        } => Ok(Completions::Teacher { sampling: one(of)? }),
        RolloutSource::Snapshot { model, of } => match &of.source {
            RolloutSource::Sample(of) => Ok(Completions::Model { model: *model, sampling: one(of)? }),
            other => Err(refused(at, format!("a `snapshot` of the rollout `{}`", other.name()))),
        },
        other => Err(refused(at, format!("the rollout `{}` as one side of a pair", other.name()))),
    }
}

fn source(train: &wide::Train, origins: Origins) -> Narrowed<Prefixes> {
    let wide::Rollout { source, origin, .. } = &train.rollout;
    let at = origins.span(*origin);
    let keep = match train.keep {
        wide::Keep::All => Keep::All,
        wide::Keep::Correct => Keep::Correct,
    };
    let from_teacher = matches!(source, RolloutSource::From { .. });
    if keep != Keep::All && !from_teacher {
        return Err(refused(at, "`keep = correct` of anything but a teacher's rollouts"));
    }
    match source {
        RolloutSource::Data { field } => {
            // One completion a prompt: both count the same.
            let (BatchSize::Prompts(batch) | BatchSize::Sequences(batch)) = train.size;
            Ok(Prefixes::Data { field: field.clone(), batch })
        }
        RolloutSource::Parameter { name, .. } => {
            Err(refused(at, format!("the rollout `{name}`, which has no value,")))
        }
        RolloutSource::Sample(of) => {
            let sampling = sampling(of, origins, *origin)?;
            match train.size {
                BatchSize::Prompts(prompts) => Ok(Prefixes::Student { prompts, sampling }),
                BatchSize::Sequences(sequences) if sequences % sampling.n.max(1) == 0 => {
                    Ok(Prefixes::Student { prompts: sequences / sampling.n.max(1), sampling })
                }
                BatchSize::Sequences(_) => {
                    Err(refused(at, "a batch that is not a whole number of prompts with all their samples"))
                }
            }
        }
        RolloutSource::From { teacher, sees, sequences, sampling: of } => {
            if *teacher != mopd_lang::formula::Role::Teacher {
                return Err(refused(at, format!("rollouts of one teacher by name (`{}`)", teacher.name())));
            }
            if sees.is_some() {
                return Err(refused(at, "rollouts of a teacher that sees a template"));
            }
            let Some(sequences) = *sequences else {
                return Err(refused(at, "fresh rollouts of the teacher at every step"));
            };
            let BatchSize::Sequences(batch) = train.size else {
                return Err(refused(at, "a batch of a teacher's rollouts that is counted in prompts"));
            };
            Ok(Prefixes::Teacher { sequences, keep, batch, sampling: sampling(of, origins, *origin)? })
        }
        RolloutSource::Mix { .. }
        | RolloutSource::TokenMix { .. }
        | RolloutSource::Interleave { .. }
        | RolloutSource::Refine { .. }
        | RolloutSource::Snapshot { .. }
        | RolloutSource::Replay { .. }
        | RolloutSource::Speculative { .. }
        | RolloutSource::Turns { .. }
        | RolloutSource::Denoise { .. }
        | RolloutSource::Derived { .. }
        | RolloutSource::FirstOf { .. }
        | RolloutSource::EachTurn { .. } => Err(refused(at, format!("the rollout `{}`", source.name()))),
    }
}

fn sampling(sampling: &wide::Sampling, origins: Origins, origin: wide::Origin) -> Narrowed<Sampling> {
    let at = origins.span(origin);
    let wide::Sampling { n, temperature, max_tokens, top_p, top_k, repetition_penalty, heads, stop } =
        sampling;
    if heads.is_some() {
        return Err(refused(at, "sampling with several output heads"));
    }
    let Some(limit) = max_tokens.constant() else {
        return Err(refused(origins.span(max_tokens.0.origin), "a `max_tokens` that changes during the run"));
    };
    Ok(Sampling {
        // All of the distribution is no restriction: such a run is the same run.
        top_p: top_p.filter(|p| *p < 1.0),
        top_k: *top_k,
        repetition_penalty: repetition_penalty.filter(|penalty| *penalty != 1.0),
        stop: stop.clone(),
        ..Sampling::new(*n, *temperature, limit as u32)
    })
}
