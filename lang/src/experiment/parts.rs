//! A stage in parts: terms of an objective may have completions of their own.

use super::objectives::Completions;
use super::{Keep, Train};

impl Train {
    /// The stage in parts, one for each set of completions that terms are trained on: the terms on the
    /// stage's rollout, then those with completions of their own, in the order of the terms. Where all have
    /// their own, the stage's rollout is that of the first. States are moved by the first part's numbers.
    pub fn parts(&self) -> Vec<Train> {
        let mut parts: Vec<(Completions<'_>, Train)> = Vec::new();
        for term in &self.objective.terms {
            let of = term.completions();
            let place = parts.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
                let mut part = self.clone();
                part.objective.terms.clear();
                if let Some(data) = of.0 {
                    (part.rollout, part.keep) = (data.clone(), Keep::All);
                }
                parts.push((of.clone(), part));
                parts.len() - 1
            });
            parts[place].1.objective.terms.push(term.clone());
        }
        // The sort is stable.
        parts.sort_by_key(|(of, _)| *of != (None, Vec::new()));
        let mut parts: Vec<Train> = parts.into_iter().map(|(_, part)| part).collect();
        parts.iter_mut().skip(1).for_each(|part| part.objective.states.clear());
        parts
    }
}
