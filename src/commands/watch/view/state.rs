//! The state of the terminal view, independent of a terminal.

use std::collections::{BTreeMap, HashMap, VecDeque};

use mopd_plan::Plan;
use mopd_plan::difference::difference;
use mopd_plan::events::{DomainStep, Event, MetricsRow, TeacherStep};

use super::curve::Curve;
use super::pace::{StagePace, TimeLeft};
use crate::output::printable;

/// The most lines of the log.
const LOG: usize = 500;
/// The number of results whose curves are kept, so that they are found again when an edit is undone.
const HISTORY: usize = 64;
/// The weights of the moving average that `s` cycles through; TensorBoard's default is 0.6.
pub const SMOOTHING: [f64; 4] = [0.0, 0.6, 0.9, 0.99];

/// A number of each step that has a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CurveMetric {
    Reward,
    Divergence,
    Loss,
}

impl CurveMetric {
    pub const ALL: [CurveMetric; 3] = [CurveMetric::Reward, CurveMetric::Divergence, CurveMetric::Loss];

    pub fn name(self) -> &'static str {
        match self {
            CurveMetric::Reward => "reward",
            CurveMetric::Divergence => "divergence",
            CurveMetric::Loss => "loss",
        }
    }
}

/// By metric and domain; the loss is that of all domains.
pub type Curves = BTreeMap<(CurveMetric, String), Curve>;

#[derive(Clone, Debug, PartialEq)]
pub enum StageProgress {
    Waiting,
    Running {
        step: u32,
        steps: u32,
    },
    Kept,
    Done {
        seconds: f64,
    },
    /// It was running when its run ended.
    Stopped {
        step: u32,
        steps: u32,
    },
}

/// A stage before the last edit that changed it.
#[derive(Clone, Debug, PartialEq)]
pub struct StageBeforeEdit {
    /// The edit since then: `clip ±5 -> ±3`.
    pub edit: String,
    pub curves: Curves,
}

/// A metric, as the worker names it.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricValue {
    pub name: String,
    pub value: f64,
}

/// A stage with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct StageView {
    pub name: String,
    pub seed: u64,
    /// The key of its result in the store.
    key: String,
    /// Whether it has steps: it does not only load, initialise or merge.
    trains: bool,
    pub progress: StageProgress,
    /// The main metric, from the worker.
    pub metric: Option<MetricValue>,
    pub curves: Curves,
    pub before: Option<StageBeforeEdit>,
    /// The curves from before it was started again: up to the step where it resumes, they remain its own.
    held: Curves,
    /// The last divergence from each teacher.
    pub teachers: BTreeMap<String, f64>,
    pub pace: StagePace,
}

impl StageView {
    fn new(name: &str, seed: u64, key: &str, trains: bool) -> StageView {
        StageView {
            name: name.to_owned(),
            seed,
            key: key.to_owned(),
            trains,
            progress: StageProgress::Waiting,
            metric: None,
            curves: Curves::new(),
            before: None,
            held: Curves::new(),
            teachers: BTreeMap::new(),
            pace: StagePace::default(),
        }
    }

    fn begin(&mut self, steps: u32) {
        *self = StageView {
            progress: StageProgress::Running { step: 0, steps },
            before: self.before.take(),
            held: std::mem::take(&mut self.curves),
            ..StageView::new(&self.name, self.seed, &self.key, self.trains)
        };
    }

    fn resume(&mut self, step: u32) {
        if let StageProgress::Running { step: at, .. } = &mut self.progress {
            *at = step;
        }
        self.curves = std::mem::take(&mut self.held);
        self.curves.values_mut().for_each(|curve| curve.cut(step));
    }

    fn step(&mut self, step: u32, steps: u32, loss: f64, domains: &[DomainStep]) {
        // The same text from its first step, for example with other data: it is compared with its previous
        // run.
        if !self.held.is_empty() {
            let curves = std::mem::take(&mut self.held);
            self.before = Some(StageBeforeEdit { edit: "the run before".to_owned(), curves });
        }
        // Steps are counted from 0; this one has ended.
        self.progress = StageProgress::Running { step: step + 1, steps };
        self.curves.entry((CurveMetric::Loss, "all".to_owned())).or_default().add(step, loss);
        for DomainStep { domain, teachers, divergence, reward } in domains {
            for (metric, value) in [(CurveMetric::Divergence, divergence), (CurveMetric::Reward, reward)] {
                if let Some(value) = value {
                    self.curves.entry((metric, domain.clone())).or_default().add(step, *value);
                }
            }
            for TeacherStep { teacher, divergence } in teachers {
                if let Some(divergence) = divergence {
                    self.teachers.insert(teacher.clone(), *divergence);
                }
            }
        }
    }

    /// The metrics with curves, the most informative first.
    pub fn metrics(&self) -> Vec<CurveMetric> {
        let has = |metric: &CurveMetric| self.curves.keys().any(|(of, _)| of == metric);
        let mut found: Vec<CurveMetric> = CurveMetric::ALL.into_iter().filter(has).collect();
        let headline = self.metric.as_ref().map(|metric| metric.name.as_str());
        found.sort_by_key(|metric| Some(metric.name()) != headline);
        found
    }

    /// The remaining seconds while it is running.
    pub fn left(&self) -> Option<f64> {
        let StageProgress::Running { step, steps } = self.progress else { return None };
        Some(f64::from(steps.saturating_sub(step)) * self.pace.seconds_per_step()?)
    }
}

/// The panel that arrow keys move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchPane {
    Stages,
    Teachers,
    Text,
}

/// A run before an edit.
struct PreviousRun {
    plan: Plan,
    stages: Vec<StageView>,
}

/// The curves of a stage, by the key of its result.
struct EarlierCurves {
    key: String,
    seed: u64,
    curves: Curves,
}

/// The state of the view.
pub struct ViewState {
    pub title: String,
    /// In the order of the plan, by seed.
    pub stages: Vec<StageView>,
    pub selected: usize,
    /// Whether the author has selected a stage; until then, the running one is shown.
    chosen: bool,
    /// The selected metric, shown for every stage that has it.
    metric: Option<CurveMetric>,
    /// An index into [`SMOOTHING`].
    smoothing: usize,
    /// Whether curves from before the edit are drawn.
    pub shows_before: bool,
    pub help: bool,
    pub panel: WatchPane,
    pub log: VecDeque<String>,
    /// The number of lines that the log is scrolled up from its end.
    pub log_up: usize,
    /// The diagnostics of the last check; empty if there were none.
    pub diagnostics: String,
    pub diagnostics_down: usize,
    pub teachers_down: usize,
    pub running: bool,
    pub seeds: bool,
    /// The run of a sweep that the stages belong to: `run 2 of 4: clip_at=5`. Empty without a sweep.
    pub run: String,
    /// The name of that run, and its plan.
    member: String,
    plan: Option<Plan>,
    /// The last state of each run of a sweep that has ended.
    previous: HashMap<String, PreviousRun>,
    /// Curves by key and seed, the latest at the end.
    history: VecDeque<EarlierCurves>,
    /// The seconds per step of stages by name, from the last timed steps.
    timed: HashMap<String, f64>,
}

impl ViewState {
    pub fn new(title: &str) -> ViewState {
        ViewState {
            title: printable(title),
            stages: Vec::new(),
            selected: 0,
            chosen: false,
            metric: None,
            smoothing: 0,
            shows_before: true,
            help: false,
            panel: WatchPane::Stages,
            log: VecDeque::new(),
            log_up: 0,
            diagnostics: String::new(),
            diagnostics_down: 0,
            teachers_down: 0,
            running: false,
            seeds: false,
            run: String::new(),
            member: String::new(),
            plan: None,
            previous: HashMap::new(),
            history: VecDeque::new(),
            timed: HashMap::new(),
        }
    }

    /// A run of this plan starts; of a sweep, `run` describes it and `member` is its name.
    pub fn begin(&mut self, plan: &Plan, run: &str, member: &str) {
        self.run = run.to_owned();
        let seeds =
            plan.experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1).max(1);
        let selected = self.stages.get(self.selected).map(|stage| (stage.name.clone(), stage.seed));
        self.remember();
        let before = self.previous.get(member);
        let mut stages = Vec::new();
        for (model, facts) in plan.experiment.models.iter().zip(&plan.stages) {
            let trains = !model.stage.trains().is_empty();
            for more in 0..u64::from(seeds) {
                let seed = plan.experiment.seed.saturating_add(more);
                let mut stage = StageView::new(&model.name, seed, &facts.key, trains);
                let own = self.history.iter().rfind(|own| own.key == stage.key && own.seed == seed);
                stage.curves = own.map(|own| own.curves.clone()).unwrap_or_default();
                stage.before = before.and_then(|PreviousRun { plan: old_plan, stages }| {
                    let old = stages.iter().find(|old| old.name == stage.name && old.seed == seed)?;
                    before_of(old, &stage, old_plan, plan)
                });
                stages.push(stage);
            }
        }
        self.stages = stages;
        let still = |stage: &StageView| {
            selected.as_ref().is_some_and(|(name, seed)| stage.name == *name && stage.seed == *seed)
        };
        let place = self.stages.iter().position(still);
        self.chosen &= place.is_some();
        self.selected = place.unwrap_or(0);
        self.seeds = seeds > 1;
        self.running = true;
        self.member = member.to_owned();
        self.plan = Some(plan.clone());
    }

    /// Keeps the current stages as those before an edit.
    fn remember(&mut self) {
        for stage in self.stages.iter().filter(|stage| !stage.curves.is_empty()) {
            let StageView { key, seed, curves, .. } = stage;
            self.history.retain(|of| of.key != *key || of.seed != *seed);
            self.history.push_back(EarlierCurves { key: key.clone(), seed: *seed, curves: curves.clone() });
        }
        self.history.drain(..self.history.len().saturating_sub(HISTORY));
        if let Some(plan) = self.plan.take() {
            let previous = PreviousRun { plan, stages: std::mem::take(&mut self.stages) };
            self.previous.insert(std::mem::take(&mut self.member), previous);
        }
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::StageStarted { stage, seed, steps } => {
                if let Some(index) = self.place(stage, *seed) {
                    self.stages[index].begin(*steps);
                    let shown = self.stages.get(self.selected).map(|stage| &stage.progress);
                    let idle = !matches!(shown, Some(StageProgress::Running { .. }));
                    if !self.chosen && idle && *steps > 0 {
                        self.selected = index;
                    }
                }
            }
            Event::Step { stage, seed, step, steps, metric, value, loss, domains, tokens, seconds, rows } => {
                if let Some(index) = self.place(stage, *seed) {
                    self.stages[index].metric = Some(MetricValue { name: metric.clone(), value: *value });
                    self.stages[index].step(*step, *steps, *loss, domains);
                    self.timing(index, *steps, seconds.sum(), *tokens, rows);
                }
            }
            Event::StageResumed { stage, seed, step } => {
                if let Some(index) = self.place(stage, *seed) {
                    self.stages[index].resume(*step);
                }
            }
            Event::StageKept { stage, seed } => self.set(stage, *seed, StageProgress::Kept),
            Event::StageFinished { stage, seed, seconds, .. } => {
                self.set(stage, *seed, StageProgress::Done { seconds: *seconds })
            }
            Event::Finished { .. } | Event::Failed(_) | Event::Interrupted { .. } => {
                self.running = false;
                for stage in &mut self.stages {
                    if let StageProgress::Running { step, steps } = stage.progress {
                        stage.progress = StageProgress::Stopped { step, steps };
                    }
                }
            }
            _ => {}
        }
    }

    fn timing(&mut self, index: usize, steps: u32, seconds: f64, tokens: u64, rows: &[MetricsRow]) {
        let stage = &mut self.stages[index];
        stage.pace.add(seconds, tokens, rows);
        if let Some(seconds) = stage.pace.seconds_per_step() {
            self.timed.insert(stage.name.clone(), seconds * f64::from(steps));
        }
    }

    /// The remaining time of the stages of this run, without what follows them, such as evaluation.
    pub fn left(&self) -> TimeLeft {
        let with = |progress: fn(&StageProgress) -> bool| {
            self.stages.iter().filter(move |stage| stage.trains && progress(&stage.progress))
        };
        let running: Vec<Option<f64>> =
            with(|progress| matches!(progress, StageProgress::Running { .. })).map(StageView::left).collect();
        let waiting: Vec<Option<f64>> = with(|progress| matches!(progress, StageProgress::Waiting))
            .map(|stage| self.timed.get(&stage.name).copied())
            .collect();
        if self.running { TimeLeft::estimate(&running, &waiting) } else { TimeLeft::default() }
    }

    fn place(&self, stage: &str, seed: u64) -> Option<usize> {
        self.stages.iter().position(|known| known.name == stage && known.seed == seed)
    }

    fn set(&mut self, stage: &str, seed: u64, progress: StageProgress) {
        if let Some(index) = self.place(stage, seed) {
            self.stages[index].progress = progress;
        }
    }

    /// Adds text to the log, line by line. If it is scrolled up, it stays at the same lines.
    pub fn say(&mut self, text: &str) {
        let before = self.log.len();
        self.log.extend(text.lines().map(printable));
        if self.log_up > 0 {
            self.log_up += self.log.len() - before;
        }
        self.log.drain(..self.log.len().saturating_sub(LOG));
    }

    /// Shows the diagnostics of another text from the beginning.
    pub fn diagnose(&mut self, text: String) {
        self.diagnostics = text;
        self.diagnostics_down = 0;
    }

    /// Scrolls the panel that has the focus, within its bounds.
    pub fn scroll(&mut self, down: isize) {
        match self.panel {
            WatchPane::Stages => self.choose(down),
            WatchPane::Teachers => self.teachers_down = self.teachers_down.saturating_add_signed(down),
            WatchPane::Text if self.diagnostics.is_empty() => {
                self.log_up = self.log_up.saturating_add_signed(down.saturating_neg());
            }
            WatchPane::Text => self.diagnostics_down = self.diagnostics_down.saturating_add_signed(down),
        }
    }

    pub fn next_panel(&mut self) {
        let teachers = self.shown().is_some_and(|(stage, _)| !stage.teachers.is_empty());
        self.panel = match self.panel {
            WatchPane::Stages if teachers => WatchPane::Teachers,
            WatchPane::Stages | WatchPane::Teachers => WatchPane::Text,
            WatchPane::Text => WatchPane::Stages,
        };
    }

    /// Selects the stage this many rows further, within bounds.
    pub fn choose(&mut self, down: isize) {
        let last = self.stages.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(down).min(last);
        self.teachers_down = 0;
        self.chosen = true;
    }

    pub fn next_metric(&mut self) {
        let Some((stage, Some(shown))) = self.shown() else { return };
        let metrics = stage.metrics();
        let place = metrics.iter().position(|metric| *metric == shown).unwrap_or(0);
        self.metric = Some(metrics[(place + 1) % metrics.len()]);
    }

    pub fn next_smoothing(&mut self) {
        self.smoothing = (self.smoothing + 1) % SMOOTHING.len();
    }

    /// The weight of earlier values in the moving average; 0 without smoothing.
    pub fn smoothing(&self) -> f64 {
        SMOOTHING[self.smoothing]
    }

    pub fn shown(&self) -> Option<(&StageView, Option<CurveMetric>)> {
        let stage = self.stages.get(self.selected)?;
        let metrics = stage.metrics();
        let metric = self.metric.filter(|chosen| metrics.contains(chosen)).or(metrics.first().copied());
        Some((stage, metric))
    }

    /// The number of stages that are finished or kept, and of all stages.
    pub fn done(&self) -> (usize, usize) {
        let done =
            |stage: &&StageView| matches!(stage.progress, StageProgress::Kept | StageProgress::Done { .. });
        (self.stages.iter().filter(done).count(), self.stages.len())
    }
}

/// The stage before its last edit, for comparison. If a text was replaced before the stage had made a step,
/// the one before that text is kept.
fn before_of(old: &StageView, stage: &StageView, old_plan: &Plan, plan: &Plan) -> Option<StageBeforeEdit> {
    if old.key == stage.key {
        return old.before.clone();
    }
    let edit = edit_of(old_plan, plan, &stage.name);
    if !old.curves.is_empty() {
        return Some(StageBeforeEdit { edit, curves: old.curves.clone() });
    }
    let StageBeforeEdit { edit: earlier, curves } = old.before.clone()?;
    Some(StageBeforeEdit { edit: format!("{earlier}; {edit}"), curves })
}

/// The changes of an edit to a stage, without its name; if the stage itself has none, all changes.
fn edit_of(before: &Plan, after: &Plan, stage: &str) -> String {
    let items = difference(before, after).items;
    let (setting, objective) = (format!("`{stage}`: "), format!("objective of `{stage}`: "));
    let own = items.iter().filter(|item| item.name == stage).map(ToString::to_string);
    let own: Vec<String> = own.map(|text| text.replace(&objective, "").replace(&setting, "")).collect();
    let all = || items.iter().map(ToString::to_string).collect();
    printable(&if own.is_empty() { all() } else { own }.join("; "))
}
