//! Progress events: the metrics of a step that are shown during the run.

use std::time::{SystemTime, UNIX_EPOCH};

use mopd_plan::Recipe;
use mopd_plan::events::{DomainStep, Event, Seconds, TeacherStep};

use super::stage::Stage;
use crate::machine::memory::resident;
use crate::report::metrics::StepMetrics;

/// Adds time and memory to the rows of a finished step, part by part.
pub fn finish(rows: &mut [Vec<StepMetrics>]) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs_f64());
    let memory = resident();
    for row in rows.iter_mut().flatten() {
        (row.time, row.memory) = (time, memory);
    }
}

/// The event of a step from its rows, part by part. Its metric is of the first part's completions.
pub fn event(
    stage: &Stage,
    step: u32,
    rows: &[Vec<StepMetrics>],
    tokens: u64,
    seconds: Seconds,
    loss: f64,
) -> Event {
    let Stage { name, seed, steps, train, .. } = *stage;
    let (metric, value) = headline(train.recipe, &rows[0], loss);
    let domains = rows[0].chunk_by(|one, next| one.domain == next.domain).map(domain_step).collect();
    let (stage, metric) = (name.to_owned(), metric.to_owned());
    let rows = rows.iter().flatten().map(StepMetrics::columns).collect();
    Event::Step { stage, seed, step, steps, metric, value, tokens, seconds, loss, domains, rows }
}

/// The summary of a domain from its rows, one for each teacher. Rows without sequences do not enter means.
fn domain_step(rows: &[StepMetrics]) -> DomainStep {
    // JSON has only finite numbers.
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    let mean = |value: fn(&StepMetrics) -> Option<f64>, share: fn(&StepMetrics) -> f64| {
        let whole: f64 = rows.iter().map(share).sum();
        let rows = rows.iter().filter(|row| share(row) > 0.0);
        let sum = rows.map(|row| Some(value(row)? * (share(row) / whole))).sum::<Option<f64>>();
        sum.filter(|_| whole > 0.0)
    };
    let teacher = |row: &StepMetrics| {
        Some(TeacherStep { teacher: row.teacher.clone()?, divergence: finite(row.divergence) })
    };
    DomainStep {
        domain: rows[0].domain.clone(),
        teachers: rows.iter().filter_map(teacher).collect(),
        divergence: finite(mean(|row| row.divergence, |row| row.token_share)),
        reward: finite(mean(|row| row.reward, |row| row.prompt_share)),
    }
}

/// The metric that shows a recipe's progress, over the whole step.
fn headline(recipe: Recipe, rows: &[StepMetrics], loss: f64) -> (&'static str, f64) {
    let mean = |value: fn(&StepMetrics) -> Option<f64>, share: fn(&StepMetrics) -> f64| {
        let rows = rows.iter().filter(|row| share(row) > 0.0);
        let parts: Option<Vec<f64>> = rows.map(|row| Some(value(row)? * share(row))).collect();
        parts.filter(|parts| !parts.is_empty()).map(|parts| parts.iter().sum())
    };
    let special = match recipe {
        Recipe::Sft | Recipe::Dpo | Recipe::Step => None,
        Recipe::Grpo => mean(|row| row.reward, |row| row.prompt_share).map(|value| ("reward", value)),
        Recipe::Distill => {
            mean(|row| row.divergence, |row| row.token_share).map(|value| ("divergence", value))
        }
    };
    special.unwrap_or(("loss", loss))
}
