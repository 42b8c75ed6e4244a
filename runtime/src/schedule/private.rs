//! The privacy loss of private stages, and checks that they keep to their budgets, before anything
//! runs.

use std::collections::HashMap;

use mopd_plan::results::{PrivateStage, RowCopies};
use mopd_plan::{Objective, Plan, Share, Train};

use super::{Task, Work, stages, steps};
use crate::data::Dataset;
use crate::failure::Result;
use crate::prepare::DomainData;
use crate::train::privacy::{Privacy, SharedRows, copies};

/// The privacy loss of every private stage and seed, and warnings of rows with a larger loss.
///
/// # Errors
/// If a budget can't be kept.
pub(super) fn private_stages(
    plan: &Plan,
    tasks: &[Task],
    domains: &[DomainData],
) -> Result<(Vec<PrivateStage>, Vec<String>)> {
    let (mut known, mut warnings) = (HashMap::new(), Vec::new());
    for id in stages(tasks) {
        let model = plan.experiment.model(id);
        let steps = steps(&model.stage, domains);
        for train in model.stage.trains() {
            let found = Private::new(train, steps, domains).map_err(|error| error.at(model.origin))?;
            let Some(found) = found else { continue };
            warnings.extend(found.warning(&model.name));
            known.insert(id, found.facts(&model.name));
        }
    }
    let of_task = |task: &Task| {
        let Work::Stage(id) = &task.work else { return None };
        Some(PrivateStage { seed: task.seed, ..known.get(id)?.clone() })
    };
    Ok((tasks.iter().filter_map(of_task).collect(), warnings))
}

/// A private stage with its data.
struct Private<'a> {
    privacy: Privacy,
    copies: Option<SharedRows>,
    /// Name and rows of each source.
    sources: Vec<(&'a str, &'a Dataset)>,
}

impl<'a> Private<'a> {
    /// `None` for a stage that is not private.
    fn new(train: &Train<Objective>, steps: u32, domains: &'a [DomainData]) -> Result<Option<Private<'a>>> {
        let data = |share: &Share| {
            let domain = &domains[share.domain.0 as usize];
            Some((share.share, &*domain.name, &domain.rows_of(train)?.dataset))
        };
        let data: Vec<_> = train.mixture.iter().filter_map(data).collect();
        let records: Vec<(f64, usize)> =
            data.iter().map(|(share, _, dataset)| (*share, dataset.draws())).collect();
        let Some(privacy) = Privacy::new(train, steps, &records)? else { return Ok(None) };
        let sources: Vec<(&str, &Dataset)> =
            data.iter().map(|(_, name, dataset)| (*name, *dataset)).collect();
        let datasets: Vec<&Dataset> = sources.iter().map(|(_, dataset)| *dataset).collect();
        Ok(Some(Private { copies: copies(&privacy, &datasets), privacy, sources }))
    }

    fn facts(&self, stage: &str) -> PrivateStage {
        let Privacy { clip, noise, steps, budget, .. } = self.privacy;
        PrivateStage {
            stage: stage.to_owned(),
            seed: 0,
            clip,
            noise_multiplier: noise,
            sampling_rate: self.privacy.rate(),
            steps,
            epsilon: self.privacy.epsilon(),
            delta: budget.delta,
            budget: budget.epsilon,
            copies: self.copies.as_ref().map(|copies| RowCopies {
                rows: copies.rows as u64,
                most: copies.most.iter().sum(),
                epsilon: copies.epsilon,
            }),
        }
    }

    /// A warning that the budget is per row, where a prompt has several rows.
    fn warning(&self, stage: &str) -> Option<String> {
        let SharedRows { rows, first: (source, draw), most, epsilon } = self.copies.as_ref()?;
        let (name, dataset) = self.sources[*source];
        let (file, line) = dataset.place(dataset.of_draw(*draw).start);
        let times = self.sources.iter().zip(most).filter(|(_, count)| **count > 0);
        let times: Vec<String> = times.map(|((name, _), count)| format!("{count} in `{name}`")).collect();
        let (budget, delta) = (self.privacy.budget.epsilon, self.privacy.budget.delta);
        Some(format!(
            "`{stage}`: {rows} rows of its data share their prompt with another row, the first of them \
            {}{line} of `{name}`. The budget of epsilon {budget} bounds the privacy loss of one row; the \
            rows of one prompt ({}) together lose up to epsilon {epsilon:.4} at delta {delta:e}. Keep \
            each prompt in one row of one domain, or account for the larger epsilon",
            file.display(),
            times.join(", "),
        ))
    }
}
