//! Scorers that are composed of others: their logits, from the logits of the others and the weights of the
//! mixture.

use mopd_expr::batch::Batch;
use mopd_plan::{Member, Role};

use super::context::Scoring;
use super::pass::ScoringPass;
use super::runs::{missing_scorer, runs};
use crate::failure::Result;
use crate::train::models::ScorerRef;
use crate::train::objective::failed;
use crate::train::sequences::Sequences;
use crate::train::vocabulary::{Composed, ComposedPart, Logits, MixtureWeight, Parameters, part};

/// Adds the logits of composed roles to the scoring pass, and the signals of their weights to the batch.
pub fn compose(
    scoring: &Scoring,
    sequences: &Sequences,
    forward: &mut ScoringPass,
    batch: &mut Batch,
) -> Result<()> {
    let mut composing = Composing { scoring, sequences, forward, batch, done: Vec::new() };
    scoring.roles.iter().try_for_each(|role| composing.complete(*role))
}

struct Composing<'a> {
    scoring: &'a Scoring<'a>,
    sequences: &'a Sequences,
    forward: &'a mut ScoringPass,
    batch: &'a mut Batch,
    done: Vec<Role>,
}

impl Composing<'_> {
    /// Completes a role, after the roles that it is composed of.
    fn complete(&mut self, role: Role) -> Result<()> {
        if !matches!(role, Role::Scorer(_)) || self.done.contains(&role) {
            return Ok(());
        }
        self.done.push(role);
        let runs = runs(self.scoring, role, self.sequences)?;
        if !runs.iter().any(|run| matches!(run.scored, Some(ScorerRef::Composed(_)))) {
            return Ok(());
        }
        let mut parts = Vec::with_capacity(runs.len());
        for (place, run) in runs.iter().enumerate() {
            let (first, count) = (run.tokens.start as i64, run.tokens.len() as i64);
            parts.push(match run.scored {
                Some(ScorerRef::Composed(index)) => Logits::Composed(self.composed(index, first, count)?),
                Some(ScorerRef::Model(_) | ScorerRef::Served(_)) | None => {
                    let known = self.forward.vocabulary.logits(role);
                    assert_eq!(known.len(), runs.len(), "logits stand run by run");
                    known[place].share()
                }
            });
        }
        self.forward.vocabulary.replace(role, parts);
        Ok(())
    }

    /// The logits of a composition for `count` tokens from `first`.
    fn composed(&mut self, index: usize, first: i64, count: i64) -> Result<Composed> {
        let Scoring { stage, models, .. } = *self.scoring;
        let objective = &stage.train.objective;
        let composition = models.composition(index);
        composition.roles().try_for_each(|role| self.complete(role))?;
        self.forward.read(&composition.signals(), &[], objective, self.sequences, self.batch)?;
        let parameters = Parameters { batch: self.batch, device: stage.place.device };
        let member = |Member { weight, role }: &Member| {
            let weight = match parameters.weight(weight).map_err(|error| failed(error, objective))? {
                MixtureWeight::Number(number) => MixtureWeight::Number(number),
                MixtureWeight::PerToken(numbers) => MixtureWeight::PerToken(numbers.narrow(0, first, count)),
            };
            let vocabulary = &self.forward.vocabulary;
            let logits = match role {
                Role::Student => vec![vocabulary.student.part(first, count)],
                _ => part(vocabulary.logits(*role), first, count),
            };
            if logits.iter().any(|logits| matches!(logits, Logits::Absent(_))) {
                let sequence = self.batch.layout.sequence_of_token[first as usize] as usize;
                let source = &stage.sources[self.sequences.list[sequence].source];
                return Err(missing_scorer(self.scoring, *role, source));
            }
            Ok(ComposedPart { weight, logits })
        };
        let members = composition.members.iter().map(member).collect::<Result<Vec<ComposedPart>>>()?;
        Ok(Composed::new(composition.pool, members))
    }
}
