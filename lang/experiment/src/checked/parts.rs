//! Splits an objective by the completions that its terms are trained on.

use super::objectives::Completions;
use super::{Keep, Objective, Train};

impl Objective {
    /// One objective for each set of completions: first the terms on the stage's rollout, then those with
    /// completions of their own, in the order of the terms. Only the first part keeps the states, and its
    /// numbers update them.
    pub fn parts(&self) -> Vec<Objective> {
        let mut parts: Vec<(Completions<'_>, Objective)> = Vec::new();
        for term in &self.terms {
            let of = term.completions();
            match parts.iter_mut().find(|(known, _)| *known == of) {
                Some((_, part)) => part.terms.push(term.clone()),
                None => parts.push((of, Objective { terms: vec![term.clone()], ..self.clone() })),
            }
        }
        // The sort is stable.
        parts.sort_by_key(|(of, _)| *of != (None, Vec::new()));
        let mut parts: Vec<Objective> = parts.into_iter().map(|(_, part)| part).collect();
        parts.iter_mut().skip(1).for_each(|part| part.states.clear());
        parts
    }
}

impl Train {
    /// One stage for each part of the objective. If all terms have completions of their own, the stage's
    /// rollout is that of the first term.
    pub fn parts(&self) -> Vec<Train> {
        let parts = self.objective.parts().into_iter().map(|objective| {
            let data = objective.terms[0].data.clone();
            let mut part = Train { objective, ..self.clone() };
            if let Some(data) = data {
                (part.rollout, part.keep) = ((*data).clone(), Keep::All);
            }
            part
        });
        parts.collect()
    }
}
