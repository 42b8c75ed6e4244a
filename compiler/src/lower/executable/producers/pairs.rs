//! Converts the pairs of completions that an objective compares, to [`Pairs`](mopd_plan::producers::Pairs)
//! or, if both sides are choices from one rollout, to [`Ranked`].

use std::rc::Rc;

use mopd_experiment::formula::{FormulaKind, Live, Preference};
use mopd_experiment::{self as checked, BatchSize, Edit, RolloutSource};
use mopd_plan::producers::{Chosen, Ranked, SampleChoice};
use mopd_plan::{Axis, Formula, Keep, Producer, Rollout};

use super::sampling::sampling;
use super::{OfCompletions, sources};
use crate::lower::refusal::{Converted, Origins, refused};

/// The pairs that the objective compares, if it compares any.
pub(super) fn compared(
    train: &checked::Train,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Option<Rollout>> {
    let at = origins.span(train.rollout.origin);
    let of_term = |term: &checked::Term| {
        let parts = term.value.parts().into_iter();
        let pairs = parts.filter_map(|part| match &part.0.kind {
            FormulaKind::Live(Live::Preference(preference)) => Some(preference.clone()),
            _ => None,
        });
        pairs.collect::<Vec<_>>()
    };
    let pairs: Vec<Vec<Rc<Preference>>> = train.objective.terms.iter().map(of_term).collect();
    let Some(first) = pairs.iter().flatten().next() else { return Ok(None) };
    assert!(!pairs.iter().any(Vec::is_empty), "terms of a part have the same completions");
    if train.keep != Keep::All {
        return Err(refused(at, "`keep = correct` beside pairs"));
    }
    let same = |other: &Rc<Preference>| other.chosen == first.chosen && other.rejected == first.rejected;
    if !pairs.iter().flatten().all(same) {
        return Err(refused(at, "a term that compares two kinds of pairs"));
    }
    let (BatchSize::Prompts(groups) | BatchSize::Sequences(groups)) = train.size;
    let sides = [&first.chosen, &first.rejected];
    let [chosen, rejected] = sides.map(|side| PairSide::new(side, origins, of_completions));
    let producer = match (chosen?, rejected?) {
        (PairSide { best: Some(chosen), .. }, PairSide { best: Some(rejected), drawn })
            if before_edits(&first.chosen).is_alike(&before_edits(&first.rejected)) =>
        {
            Ranked { chosen, rejected, of: drawn }.into()
        }
        (chosen, rejected) => Producer::pairs(chosen.producer(), rejected.producer()),
    };
    Ok(Some(Rollout::new(groups, producer)))
}

fn before_edits(rollout: &checked::Rollout) -> checked::Rollout {
    checked::Rollout { edits: Vec::new(), ..rollout.clone() }
}

/// One side of a pair.
struct PairSide {
    drawn: Producer,
    /// The completion with the largest number is chosen, if several are drawn for a prompt.
    best: Option<Formula>,
}

impl PairSide {
    fn new(
        rollout: &checked::Rollout,
        origins: Origins,
        of_completions: OfCompletions,
    ) -> Converted<PairSide> {
        let best = match &rollout.edits[..] {
            [] => None,
            [Edit::Best { by, of: 1 }] => Some(of_completions(by, "a `best`", Axis::Sequence)?),
            [edit, ..] => {
                let at = origins.span(rollout.origin);
                let construct = format!("an edit (`{}`) of one side of a pair", edit.name());
                let help = "a side of a pair is one completion: the only edit is `best(..., of: 1)`";
                return Err(Box::new((*refused(at, construct)).help(help)));
            }
        };
        Ok(PairSide { drawn: drawn(rollout, best.is_some(), origins)?, best })
    }

    fn producer(self) -> Producer {
        match self.best {
            Some(by) => Chosen { choice: SampleChoice::Best { by, count: 1 }, of: self.drawn }.into(),
            None => self.drawn,
        }
    }
}

/// The completions of a side. `several`: for each prompt, one of them will be chosen.
fn drawn(rollout: &checked::Rollout, several: bool, origins: Origins) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    let drawn = |of: &checked::Sampling| match sampling(of, origins, rollout.origin)? {
        sampling if several || sampling.n == 1 => Ok(sampling),
        _ => Err(Box::new(
            (*refused(at, "a pair that is chosen from several samples (`n` above 1)"))
                .help("choose one of them: `... |> best(reward, of: 1)`"),
        )),
    };
    match &rollout.source {
        RolloutSource::Data { field } => Ok(Producer::data(field)),
        RolloutSource::Sample(of) => Ok(Producer::student(drawn(of)?)),
        RolloutSource::From { sequences: Some(_), .. } => {
            Err(refused(at, "rollouts that are made once (`sequences`) as one side of a pair"))
        }
        RolloutSource::From { teacher, sees, sampling: of, .. } => {
            drawn(of)?;
            sources::from_teacher(teacher, sees.as_deref(), of, None, rollout.origin, origins)
        }
        RolloutSource::Snapshot { model, of } => {
            of.sampling().map_or(Ok(()), |of| drawn(of).map(drop))?;
            sources::snapshot(*model, of, false, origins)
        }
        other => Err(refused(at, format!("the rollout `{}` as one side of a pair", other.name()))),
    }
}
