//! Converts domains and tables, and collects refusals. Stages are converted in `stage.rs`, their parts in the
//! files beside it.

use std::fmt::Display;

use mopd_experiment as checked;
use mopd_plan::{DataSource, Domain, Evaluation, Origin, Sampling};

use super::{Diagnostic, data, refused};
use crate::lower::refusal::Origins;

/// Converts the settings of one experiment and collects the refusals of what can't be converted. It goes on
/// after a refusal, so that all are reported at once.
pub struct SettingsConverter<'a> {
    pub(super) experiment: &'a checked::Experiment,
    pub(super) origins: Origins<'a>,
    pub refusals: Vec<Diagnostic>,
}

impl<'a> SettingsConverter<'a> {
    pub fn new(experiment: &'a checked::Experiment, origins: Origins<'a>) -> SettingsConverter<'a> {
        SettingsConverter { experiment, origins, refusals: Vec::new() }
    }

    pub(super) fn refuse<T>(&mut self, origin: Origin, construct: impl Display) -> Option<T> {
        let refusal = *refused(self.origins.span(origin), construct);
        self.note([refusal]);
        None
    }

    /// Adds refusals. The members of a family share theirs.
    pub(super) fn note(&mut self, refusals: impl IntoIterator<Item = Diagnostic>) {
        for refusal in refusals {
            if !self.refusals.contains(&refusal) {
                self.refusals.push(refusal);
            }
        }
    }

    pub fn domain(&mut self, domain: &checked::Domain) -> Option<Domain> {
        let checked::Domain {
            name,
            prompts,
            tests,
            validation,
            columns,
            format,
            reward,
            share,
            limit,
            origin,
        } = domain;
        let format = format.clone().unwrap_or_default();
        let prompts = self.source(prompts, columns);
        let tests = tests.as_ref().map(|tests| self.source(tests, columns));
        let validation = validation.as_ref().map(|validation| self.source(validation, columns));
        let reward = reward.clone();
        let tests = match tests {
            Some(tests) => Some(tests?),
            None => None,
        };
        let validation = match validation {
            Some(validation) => Some(validation?),
            None => None,
        };
        let limit = limit.map(|limit| limit.value);
        Some(Domain {
            name: name.clone(),
            prompts: prompts?,
            tests,
            validation,
            format,
            reward,
            share: *share,
            limit,
            origin: *origin,
        })
    }

    fn source(
        &mut self,
        source: &checked::DataSource,
        columns: &[checked::FieldColumn],
    ) -> Option<DataSource> {
        let checked::DataSource { path, split, revision, filter, limit, max_prompt_tokens, origin: _ } =
            source;
        let filter = match filter {
            Some(filter) => {
                match data::formula(filter, "a choice of rows by anything but their data", self.origins) {
                    Ok(filter) => Some(filter),
                    Err(refusal) => {
                        self.note([*refusal]);
                        return None;
                    }
                }
            }
            None => None,
        };
        Some(DataSource {
            path: path.clone(),
            split: split.clone(),
            revision: revision.clone(),
            columns: columns.to_vec(),
            filter,
            limit: *limit,
            max_prompt_tokens: *max_prompt_tokens,
        })
    }
}

pub(super) fn evaluation(evaluation: &checked::Evaluation) -> Evaluation {
    let checked::Evaluation { samples, temperature, max_tokens, top_p, top_k, stop, prompts } = evaluation;
    let sampling = Sampling {
        top_p: top_p.filter(|p| *p < 1.0),
        top_k: *top_k,
        stop: stop.clone(),
        ..Sampling::new(*samples, *temperature, *max_tokens)
    };
    Evaluation { sampling, prompts: *prompts }
}
