//! Pairs of completions of a prompt, one preferred to the other: the data of `live dpo`. A pair is a group.

use std::rc::Rc;

use mopd_lang::experiment::{self as checked, BatchSize, RolloutSource};
use mopd_lang::formula::{FormulaKind, Live, Preference};
use serde::Deserialize;

use super::{
    FieldValue, Fields, Keep, ModelId, Producer, ProducerKind, Rollout, Sampling, Writer, model, sampling,
    teacher,
};
use crate::refusal::{Converted, Origins, refused};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Pairs {
    pub chosen: Producer,
    pub rejected: Producer,
}

impl Pairs {
    fn sides(&self, fields: Fields, side: impl Fn(&dyn ProducerKind) -> Fields) -> Fields {
        fields
            .with("chosen", FieldValue::Fields(side(self.chosen.kind())))
            .with("rejected", FieldValue::Fields(side(self.rejected.kind())))
    }
}

impl ProducerKind for Pairs {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.sides(Fields::new("pairs"), |side| side.fields(None, model)).with_groups("batch", groups)
    }

    /// The fields without the name of the kind, since only pairs have two sides.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.sides(Fields::default(), |side| side.key(None, model)).with_groups("batch", groups)
    }

    fn group(&self) -> u32 {
        2
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.chosen, &self.rejected]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.chosen, &mut self.rejected]
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("a pair has two")
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some((self.chosen.kind().parameters(of)? + self.rejected.kind().parameters(of)?) / 2.0)
    }

    fn unshardable_reason(&self) -> Option<&'static str> {
        None
    }
}

/// The pairs that the objective compares, if it compares any.
pub(super) fn compared(train: &checked::Train, origins: Origins) -> Converted<Option<Rollout>> {
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
    let (chosen, rejected) = (side(&first.chosen, origins)?, side(&first.rejected, origins)?);
    Ok(Some(Rollout::new(groups, Producer::pairs(chosen, rejected))))
}

/// Converts one side of a pair.
fn side(rollout: &checked::Rollout, origins: Origins) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    if let Some(edit) = rollout.edits.first() {
        let construct = format!("an edit (`{}`) of one side of a pair", edit.name());
        let help = "a side of a pair is one completion as it was drawn: to compare the best and the worst of \
                    a group, rank inside the group, with `top_count(..., n: 1, over: group)` in an objective";
        return Err(Box::new((*refused(at, construct)).help(help)));
    }
    let one = |of: &checked::Sampling| match sampling(of, origins, rollout.origin)? {
        sampling if sampling.n == 1 => Ok(sampling),
        _ => Err(refused(at, "a pair that is chosen from several samples (`n` above 1)")),
    };
    match &rollout.source {
        RolloutSource::Data { field } => Ok(Producer::data(field)),
        RolloutSource::Sample(of) => Ok(Producer::student(one(of)?)),
        RolloutSource::From { sequences: Some(_), .. } => {
            Err(refused(at, "rollouts that are made once (`sequences`) as one side of a pair"))
        }
        RolloutSource::From { sampling: of, .. } => {
            one(of)?;
            teacher::executable(rollout, Keep::All, origins)
        }
        RolloutSource::Snapshot { model, of } => {
            of.sampling().map_or(Ok(()), |of| one(of).map(drop))?;
            model::executable(*model, of, false, origins)
        }
        other => Err(refused(at, format!("the rollout `{}` as one side of a pair", other.name()))),
    }
}
