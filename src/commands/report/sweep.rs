//! The page of a sweep: how its runs stand, their merged tables, and scores against the swept values.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use minijinja::context;
use minijinja::value::Value;
use mopd_plan::results::{Interval, Results, Table};
use mopd_store::Lock;
use serde::Serialize;

use super::tables::{ScoreBounds, bounds};
use super::{Rounded, page};
use crate::commands::sweep::{FinishedRun, merged};
use crate::figures::duration;
use crate::headline::{distilled_row, is_normalized};
use crate::intervals;
use crate::output::{counted, printable};
use crate::problem::Problem;
use crate::run_folder::RunFolder;
use crate::run_lock::LOCK;
use crate::run_status::FollowedEvents;
use crate::run_time::whole_seconds;
use crate::sweep_folder::{SweepFolder, SweepMember};

/// A sweep whose folder is read again and again.
pub struct FollowedSweep {
    path: PathBuf,
    /// The events of its runs, in their order.
    events: Vec<FollowedEvents>,
}

/// The data for the script.
#[derive(Serialize)]
pub struct SweepData {
    params: Vec<String>,
    runs: Vec<SweptRun>,
    tables: Vec<SweptTable>,
    /// The page of a single run has charts of its stages.
    stages: [(); 0],
}

#[derive(Serialize)]
struct SweptRun {
    name: String,
    values: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
struct SweptTable {
    name: String,
    metric: String,
    domains: Vec<String>,
    normalized: bool,
    rows: Vec<String>,
    /// The first row that has only distilled models.
    distilled: Option<usize>,
    /// By run, row and column, with the normalized score last; `None` for a run that is not finished.
    cells: Vec<Option<Vec<Vec<Option<ScoreBounds>>>>>,
}

/// The state of a sweep as a page shows it.
pub struct SweepView {
    pub experiment: String,
    /// HTML.
    pub body: String,
    pub data: SweepData,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    Finished,
    Running,
    Failed,
    /// Interrupted.
    Unfinished,
    Waiting,
    /// The file can't run with these values.
    Refused,
}

impl RunState {
    fn name(self) -> &'static str {
        match self {
            RunState::Finished => "finished",
            RunState::Running => "running",
            RunState::Failed => "failed",
            RunState::Unfinished => "unfinished",
            RunState::Waiting => "waiting",
            RunState::Refused => "can't run",
        }
    }
}

/// A run of a sweep as it stands.
struct SweepRunView {
    state: RunState,
    run: Option<RunFolder>,
    seconds: Option<f64>,
    stage: String,
    reason: String,
}

impl SweepRunView {
    fn results(&self) -> Option<(&RunFolder, &Results)> {
        let run = self.run.as_ref()?;
        Some((run, run.results.as_ref()?))
    }

    fn load(
        folder: &Path,
        member: &SweepMember,
        is_old: bool,
        events: &mut FollowedEvents,
    ) -> Result<SweepRunView, Problem> {
        let path = folder.join(member.name());
        // A folder of the same name may be that of an earlier sweep.
        let is_its_own = |run: &RunFolder| member.plan.as_ref().is_none_or(|plan| *plan == run.plan.hash);
        let run = RunFolder::open(&path).ok().filter(is_its_own);
        let state = match &run {
            None if member.plan.is_none() && !is_old => RunState::Refused,
            None => RunState::Waiting,
            Some(_) if Lock::is_held(&path.join(LOCK)) => RunState::Running,
            Some(run) if run.results.is_some() => RunState::Finished,
            Some(_) => RunState::Unfinished,
        };
        let (mut stage, mut reason) = (String::new(), String::new());
        let mut failed = false;
        if matches!(state, RunState::Running | RunState::Unfinished) {
            events.follow(&path)?;
            (stage, reason) = (events.status.stages(), events.status.ended.clone().unwrap_or_default());
            failed = state == RunState::Unfinished && events.status.failure.is_some();
        }
        let state = if failed { RunState::Failed } else { state };
        let seconds = run.as_ref().and_then(|_| whole_seconds(&path));
        Ok(SweepRunView { state, run, seconds, stage, reason })
    }
}

impl FollowedSweep {
    /// `None` for a folder that is not that of a sweep.
    pub fn at(path: &Path) -> Option<FollowedSweep> {
        SweepFolder::read(path).map(|_| FollowedSweep { path: path.to_owned(), events: Vec::new() })
    }

    pub fn view(&mut self) -> Result<SweepView, Problem> {
        let Some(sweep) = SweepFolder::read(&self.path) else {
            let message = format!("{} is no sweep any more", self.path.display());
            return Err(Problem::usage("no-run", message));
        };
        self.events.resize_with(sweep.members.len(), FollowedEvents::default);
        let is_old = sweep.experiment.is_empty();
        let runs: Vec<SweepRunView> = (sweep.members.iter().zip(&mut self.events))
            .map(|(member, events)| SweepRunView::load(&self.path, member, is_old, events))
            .collect::<Result<_, _>>()?;
        let running = Lock::is_held(&self.path.join(LOCK));
        let finished: Vec<FinishedRun> = (sweep.members.iter().zip(&runs))
            .filter_map(|(member, run)| {
                let (RunFolder { plan, .. }, results) = run.results()?;
                Some(FinishedRun { name: member.name(), plan, results })
            })
            .collect();
        let params: Vec<String> =
            (sweep.members.first()).map(|member| member.values.keys().cloned().collect()).unwrap_or_default();
        let shares = finished.iter().all(|run| has_narrow_shares(run));
        let lines = sweep.members.iter().zip(&runs).map(|(member, run)| {
            let value = |name: &String| {
                let value = member.values.get(name);
                match value.and_then(|value| value.as_str()) {
                    Some(name) => printable(name).to_string(),
                    None => value
                        .and_then(|value| value.as_f64())
                        .map_or_else(String::new, |value| value.to_string()),
                }
            };
            context! {
                name => printable(&member.name()),
                values => params.iter().map(value).collect::<Vec<_>>(),
                state => run.state.name(),
                score => run.results().and_then(|(run, results)| score_of(run, results, shares)),
                took => run.seconds.map(duration),
                stage => run.stage.clone(),
                reason => run.reason.clone(),
            }
        });
        let all = merged(&finished);
        let tables = all.iter().flat_map(|results| &results.tables).map(table_view);
        let body = page::rendered(
            "sweep_body.html",
            context! {
                status => status(&sweep, &runs, running),
                failures => runs.iter().filter(|run| run.state == RunState::Failed).count(),
                params => params.iter().map(|name| printable(name)).collect::<Vec<_>>(),
                runs => lines.collect::<Vec<_>>(),
                tables => tables.collect::<Vec<_>>(),
            },
        )?;
        let data = SweepData {
            params,
            runs: (sweep.members.iter())
                .map(|member| SweptRun { name: printable(&member.name()), values: member.values.clone() })
                .collect(),
            tables: swept_tables(&runs),
            stages: [],
        };
        let first = || runs.iter().find_map(|run| Some(run.run.as_ref()?.plan.experiment.name.clone()));
        let experiment = if is_old { first().unwrap_or_default() } else { sweep.experiment.clone() };
        Ok(SweepView { experiment, body, data })
    }
}

impl SweepView {
    /// The whole page.
    pub fn page(&self, live: bool) -> Result<String, Problem> {
        page::sweep_page(&printable(&self.experiment), &self.body, &self.data, live.then(|| self.version()))
    }

    /// A hash of what the page shows.
    pub fn version(&self) -> String {
        let mut hash = DefaultHasher::new();
        (&self.body, serde_json::to_string(&self.data).unwrap_or_default()).hash(&mut hash);
        format!("{:016x}", hash.finish())
    }
}

/// Whether shares of a gain are narrower than the gain, so that they can be shown alone (as in a headline).
fn has_narrow_shares(run: &FinishedRun) -> bool {
    let rows = run.results.tables.first().map_or(&[][..], |table| &table.rows);
    let mut shares = rows.iter().filter_map(|row| row.normalized.as_ref());
    shares.all(|share| share.high - share.low <= 1.0)
}

/// The score of a finished run in a line: of its first distilled row, otherwise of its last one.
fn score_of(run: &RunFolder, results: &Results, shares: bool) -> Option<String> {
    let table = results.tables.first()?;
    let row = distilled_row(&run.plan, table).unwrap_or(table.rows.len().checked_sub(1)?);
    let row = table.rows.get(row)?;
    let name = printable(&row.model);
    if let Some(share) = row.normalized.as_ref().filter(|_| shares) {
        return Some(format!("{name}: normalized {}", intervals::span(share)));
    }
    let scores: Vec<_> =
        table.domains.iter().filter_map(|domain| Some((domain, row.scores.get(domain)?))).collect();
    match &scores[..] {
        [] => None,
        [(domain, score)] => {
            let interval = Interval { mean: score.mean, low: score.low, high: score.high };
            Some(format!("{name}: {} {}", printable(domain), intervals::span(&interval)))
        }
        several => {
            let mean = several.iter().map(|(_, score)| score.mean).sum::<f64>() / several.len() as f64;
            Some(format!("{name}: mean over domains {mean:.2}"))
        }
    }
}

/// How many runs are finished, and how long the others may take.
fn status(sweep: &SweepFolder, runs: &[SweepRunView], running: bool) -> String {
    let count = |state: RunState| runs.iter().filter(|run| run.state == state).count();
    let mut text = format!("{} of {} finished", count(RunState::Finished), counted(runs.len(), "run"));
    for state in [RunState::Failed, RunState::Refused] {
        if count(state) > 0 {
            text += &format!(", {} {}", count(state), state.name());
        }
    }
    let spent: f64 = runs.iter().filter_map(|run| run.seconds).sum();
    let complete = count(RunState::Finished) == runs.len();
    let left = if complete { None } else { time_left(sweep, runs) };
    let time = match left {
        _ if complete => format!(" in {}", duration(spent)),
        Some(left) => format!("; about {} left of about {}", duration(left), duration(spent + left)),
        None => format!("; {} so far", duration(spent)),
    };
    match running {
        true => format!("Running: {text}{time}."),
        false if complete => format!("{text}{time}."),
        false => {
            format!("No command writes to this sweep now: {text}{time}. The same command goes on with it.")
        }
    }
}

/// The time of the runs that are not finished, from that of the finished ones. Their work is that of the
/// stages that no run before them has; where it is not known, runs count the same.
fn time_left(sweep: &SweepFolder, runs: &[SweepRunView]) -> Option<f64> {
    let known = sweep.members.iter().all(|member| member.plan.is_none() || member.flops.is_some());
    let all: Vec<(f64, &SweepRunView)> = (sweep.members.iter().zip(runs))
        .map(|(member, run)| (member.flops.filter(|_| known).unwrap_or(1.0), run))
        .collect();
    let finished = || all.iter().filter(|(_, run)| run.state == RunState::Finished);
    let work: f64 = finished().map(|(work, _)| work).sum();
    let seconds: f64 = finished().map(|(_, run)| run.seconds).sum::<Option<f64>>()?;
    if work <= 0.0 {
        return None;
    }
    let left = |(work_of_run, run): &(f64, &SweepRunView)| match run.state {
        RunState::Waiting => work_of_run * seconds / work,
        RunState::Running | RunState::Unfinished => {
            (work_of_run * seconds / work - run.seconds.unwrap_or(0.0)).max(0.0)
        }
        RunState::Finished | RunState::Failed | RunState::Refused => 0.0,
    };
    Some(all.iter().map(left).sum())
}

/// A merged table as text.
fn table_view(table: &Table) -> Value {
    let normalized = is_normalized(table);
    let rows = table.rows.iter().map(|row| {
        let scores = table.domains.iter().map(|domain| {
            let score = row.scores.get(domain)?;
            Some(intervals::span(&Interval { mean: score.mean, low: score.low, high: score.high }))
        });
        let last = normalized.then(|| row.normalized.as_ref().map(intervals::span));
        context! { model => printable(&row.model), cells => scores.chain(last).collect::<Vec<_>>() }
    });
    let columns = table.domains.iter().map(|name| printable(name));
    let columns: Vec<String> = columns.chain(normalized.then(|| "normalized".to_owned())).collect();
    context! { name => printable(&table.name), metric => table.metric.clone(), columns, rows => rows.collect::<Vec<_>>() }
}

/// Every table of the first finished run, with the numbers of all.
fn swept_tables(runs: &[SweepRunView]) -> Vec<SweptTable> {
    let Some((first, results)) = runs.iter().find_map(SweepRunView::results) else { return Vec::new() };
    let swept = results.tables.iter().enumerate().map(|(index, table)| {
        let normalized = is_normalized(table);
        let cells = |run: &SweepRunView| {
            let other = run.results()?.1.tables.get(index)?;
            let row = |row: &mopd_plan::results::TableRow| {
                let found = other.rows.iter().find(|other| other.model == row.model);
                let domains = table.domains.iter().map(|domain| {
                    let score = found?.scores.get(domain)?;
                    Some([Rounded(score.mean), Rounded(score.low), Rounded(score.high)])
                });
                let last = normalized.then(|| found?.normalized.as_ref().map(bounds));
                domains.chain(last).collect::<Vec<_>>()
            };
            Some(table.rows.iter().map(row).collect::<Vec<_>>())
        };
        SweptTable {
            name: printable(&table.name),
            metric: table.metric.clone(),
            domains: table.domains.iter().map(|name| printable(name)).collect(),
            normalized,
            rows: table.rows.iter().map(|row| printable(&row.model)).collect(),
            distilled: distilled_row(&first.plan, table),
            cells: runs.iter().map(cells).collect(),
        }
    });
    swept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(flops: &[Option<f64>]) -> SweepFolder {
        let member = |flops: &Option<f64>| SweepMember {
            values: serde_json::Map::new(),
            out: PathBuf::from("out/n=1"),
            good: false,
            plan: Some(String::new()),
            flops: *flops,
        };
        let members = flops.iter().map(member).collect();
        SweepFolder { schema: 1, plan: String::new(), experiment: "e".to_owned(), members }
    }

    fn run(state: RunState, seconds: Option<f64>) -> SweepRunView {
        SweepRunView { state, run: None, seconds, stage: String::new(), reason: String::new() }
    }

    /// The second run has half of the stages of the first; the third trains twice as long.
    #[test]
    fn the_time_left_is_by_work() {
        let work = sweep(&[Some(4.0), Some(2.0), Some(4.0), Some(8.0)]);
        let runs = [
            run(RunState::Finished, Some(40.0)),
            run(RunState::Finished, Some(20.0)),
            run(RunState::Running, Some(30.0)),
            run(RunState::Waiting, None),
        ];
        assert_eq!(time_left(&work, &runs), Some(10.0 + 80.0));
        let text = "Running: 2 of 4 runs finished; about 1 min 30 s left of about 3 min 00 s.";
        assert_eq!(status(&work, &runs, true), text);
        // Work that depends on files is not known: runs count the same.
        let unknown = sweep(&[None, None, None, None]);
        assert_eq!(time_left(&unknown, &runs), Some(0.0 + 30.0));
        // A failed run is not tried again.
        let failed = [runs[0].state, RunState::Failed, RunState::Failed, RunState::Failed]
            .map(|state| run(state, Some(40.0)));
        assert_eq!(time_left(&work, &failed), Some(0.0));
        let nothing = [(); 4].map(|()| run(RunState::Waiting, None));
        assert_eq!(time_left(&work, &nothing), None, "nothing to judge by");
    }
}
