//! The state of the terminal view, independent of a terminal.

use std::collections::{BTreeMap, VecDeque};

use mopd_compiler::plan::Plan;
use mopd_compiler::plan::events::{DomainStep, Event, TeacherStep};

use crate::output::printable;

/// Lines of the log that are kept.
const LOG: usize = 500;
/// Points of a curve at most; beyond, every other one is dropped.
const POINTS: usize = 2000;

/// A number that steps leave.
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
    /// It was under way when its run ended.
    Stopped {
        step: u32,
        steps: u32,
    },
}

/// Values by step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
    /// Only every so many steps are kept.
    every: u32,
}

impl Curve {
    fn add(&mut self, step: u32, value: f64) {
        let every = self.every.max(1);
        if !step.is_multiple_of(every) {
            return;
        }
        self.points.push((f64::from(step), value));
        if self.points.len() > POINTS {
            self.every = every * 2;
            self.points.retain(|(step, _)| (*step as u32).is_multiple_of(every * 2));
        }
    }

    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }
}

/// A stage with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct StageView {
    pub name: String,
    pub seed: u64,
    pub progress: StageProgress,
    /// The number that matters, as the worker names it.
    pub metric: Option<(String, f64)>,
    /// By measure and domain; the loss is of all domains together.
    pub curves: BTreeMap<(CurveMetric, String), Curve>,
    /// The last divergence from each teacher.
    pub teachers: BTreeMap<String, f64>,
}

impl StageView {
    fn new(name: &str, seed: u64) -> StageView {
        StageView {
            name: name.to_owned(),
            seed,
            progress: StageProgress::Waiting,
            metric: None,
            curves: BTreeMap::new(),
            teachers: BTreeMap::new(),
        }
    }

    fn begin(&mut self, steps: u32) {
        *self = StageView {
            progress: StageProgress::Running { step: 0, steps },
            ..StageView::new(&self.name, self.seed)
        };
    }

    fn step(&mut self, step: u32, steps: u32, loss: f64, domains: &[DomainStep]) {
        // Steps are counted from 0; this one is done.
        self.progress = StageProgress::Running { step: step + 1, steps };
        self.curves.entry((CurveMetric::Loss, "all".to_owned())).or_default().add(step, loss);
        for DomainStep { domain, teachers, divergence, reward } in domains {
            for (measure, value) in [(CurveMetric::Divergence, divergence), (CurveMetric::Reward, reward)] {
                if let Some(value) = value {
                    self.curves.entry((measure, domain.clone())).or_default().add(step, *value);
                }
            }
            for TeacherStep { teacher, divergence } in teachers {
                if let Some(divergence) = divergence {
                    self.teachers.insert(teacher.clone(), *divergence);
                }
            }
        }
    }

    /// What there are curves of, the most telling first.
    pub fn measures(&self) -> Vec<CurveMetric> {
        let has = |measure: &CurveMetric| self.curves.keys().any(|(of, _)| of == measure);
        let mut found: Vec<CurveMetric> = CurveMetric::ALL.into_iter().filter(has).collect();
        let headline = self.metric.as_ref().map(|(name, _)| name.as_str());
        found.sort_by_key(|measure| Some(measure.name()) != headline);
        found
    }
}

/// Everything that is shown.
pub struct ViewState {
    pub title: String,
    /// In the order of the plan, seed by seed.
    pub stages: Vec<StageView>,
    pub selected: usize,
    /// The author has chosen a stage; before, the one that runs is shown.
    chosen: bool,
    /// Which of a stage's measures is shown, counted through.
    pub measure: usize,
    pub log: VecDeque<String>,
    /// Of the last check; empty where it was clean.
    pub diagnostics: String,
    pub running: bool,
    pub seeds: bool,
    /// Which run of a sweep the stages are of: `run 2 of 4: clip_at=5`. Empty where there is no sweep.
    pub run: String,
}

impl ViewState {
    pub fn new(title: &str) -> ViewState {
        ViewState {
            title: printable(title),
            stages: Vec::new(),
            selected: 0,
            chosen: false,
            measure: 0,
            log: VecDeque::new(),
            diagnostics: String::new(),
            running: false,
            seeds: false,
            run: String::new(),
        }
    }

    /// A run of this plan begins; which one of a sweep, where it is of one.
    pub fn begin(&mut self, plan: &Plan, run: &str) {
        self.run = run.to_owned();
        let seeds =
            plan.experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1).max(1);
        let selected = self.stages.get(self.selected).map(|stage| (stage.name.clone(), stage.seed));
        let each = |model: &str| -> Vec<StageView> {
            (0..u64::from(seeds))
                .map(|more| StageView::new(model, plan.experiment.seed.saturating_add(more)))
                .collect()
        };
        self.stages = plan.experiment.models.iter().flat_map(|model| each(&model.name)).collect();
        let still = |stage: &StageView| {
            selected.as_ref().is_some_and(|(name, seed)| stage.name == *name && stage.seed == *seed)
        };
        let place = self.stages.iter().position(still);
        self.chosen &= place.is_some();
        self.selected = place.unwrap_or(0);
        self.seeds = seeds > 1;
        self.running = true;
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
            Event::Step { stage, seed, step, steps, metric, value, loss, domains, .. } => {
                if let Some(index) = self.place(stage, *seed) {
                    self.stages[index].metric = Some((metric.clone(), *value));
                    self.stages[index].step(*step, *steps, *loss, domains);
                }
            }
            Event::StageResumed { stage, seed, step } => {
                if let Some(index) = self.place(stage, *seed)
                    && let StageProgress::Running { step: at, .. } = &mut self.stages[index].progress
                {
                    *at = *step;
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

    fn place(&self, stage: &str, seed: u64) -> Option<usize> {
        self.stages.iter().position(|known| known.name == stage && known.seed == seed)
    }

    fn set(&mut self, stage: &str, seed: u64, progress: StageProgress) {
        if let Some(index) = self.place(stage, seed) {
            self.stages[index].progress = progress;
        }
    }

    /// Adds to the log, line by line.
    pub fn say(&mut self, text: &str) {
        self.log.extend(text.lines().map(printable));
        self.log.drain(..self.log.len().saturating_sub(LOG));
    }

    /// To the stage so many further; the ends hold.
    pub fn choose(&mut self, down: isize) {
        let last = self.stages.len().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(down).min(last);
        self.chosen = true;
    }

    pub fn next_measure(&mut self) {
        self.measure = self.measure.wrapping_add(1);
    }

    pub fn shown(&self) -> Option<(&StageView, Option<CurveMetric>)> {
        let stage = self.stages.get(self.selected)?;
        let measures = stage.measures();
        let measure = measures.get(self.measure.checked_rem(measures.len()).unwrap_or(0)).copied();
        Some((stage, measure))
    }

    /// Stages that are finished or kept, of all.
    pub fn done(&self) -> (usize, usize) {
        let done =
            |stage: &&StageView| matches!(stage.progress, StageProgress::Kept | StageProgress::Done { .. });
        (self.stages.iter().filter(done).count(), self.stages.len())
    }
}
