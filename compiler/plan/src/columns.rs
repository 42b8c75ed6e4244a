//! The names of the columns of `metrics.parquet`: keys of a row, numbers of the table of
//! [`mopd_experiment::formula::METRICS`], and columns whose names depend on the stage.

pub use mopd_experiment::formula::{METRICS, MetricDefinition, MetricSubject};
pub use mopd_experiment::step_metrics;

/// Numbers of each domain, in the order in which they are shown.
pub const OF_DOMAIN: [&str; count(MetricSubject::Domain)] = names(MetricSubject::Domain);
/// Numbers of the whole step.
pub const OF_STEP: [&str; count(MetricSubject::Step)] = names(MetricSubject::Step);

const fn count(subject: MetricSubject) -> usize {
    let (mut count, mut row) = (0, 0);
    while row < METRICS.len() {
        count += (METRICS[row].subject as u8 == subject as u8) as usize;
        row += 1;
    }
    count
}

const fn names<const COUNT: usize>(subject: MetricSubject) -> [&'static str; COUNT] {
    let (mut names, mut count, mut row) = ([""; COUNT], 0, 0);
    while row < METRICS.len() {
        if METRICS[row].subject as u8 == subject as u8 {
            names[count] = METRICS[row].name;
            count += 1;
        }
        row += 1;
    }
    names
}
