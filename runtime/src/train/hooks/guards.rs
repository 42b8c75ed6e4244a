//! Guards: conditions on the metrics of each step, with an action.
//!
//! Guards have no stored state. They read only the metrics of the steps, which checkpoints and results
//! contain: a resumed stage replays them. So a guard that was changed or added also sees the earlier steps.

use std::collections::VecDeque;

use mopd_plan::events::FailureKind;
use mopd_plan::results::GuardActed;
use mopd_plan::{Guard, GuardAction, Objective, Pooling, StepNumber, StepWindow, Train};

use super::{SavedState, StepAction, StepHook};
use crate::failure::Error;
use crate::report::metrics::StepMetrics;
use crate::train::diagnostics::terms;
use crate::train::objective::Losses;
use crate::train::stage::Stage;

/// The help text after a guard stopped a stage.
const STOPPED: &str =
    "its checkpoint is kept: if the guard is changed or removed, the next run resumes from it";

/// The stage whose steps guards read.
#[derive(Clone, Copy)]
pub struct GuardedStage<'a> {
    pub name: &'a str,
    pub seed: u64,
    pub steps: u32,
    pub train: &'a Train<Objective>,
    /// The name of the model's turn, where the stage trains several models.
    pub turn: Option<&'a str>,
    /// The first step that guards read: steps before a fork belong to another stage.
    pub from: u32,
}

impl<'a> GuardedStage<'a> {
    pub fn of(stage: &Stage<'a>) -> GuardedStage<'a> {
        let Stage { name, seed, steps, train, turn, guards_from: from, .. } = *stage;
        GuardedStage { name, seed, steps, train, turn: turn.name, from }
    }
}

/// The guards of one trained model.
pub struct Guards<'a> {
    stage: GuardedStage<'a>,
    /// The value of `terms` in the rows that they read.
    terms: Option<String>,
    watches: Vec<GuardWatch<'a>>,
    /// The factor on the learning rate.
    factor: f64,
    /// The guards that acted since the last `take_triggered`.
    triggered: Vec<TriggeredGuard<'a>>,
}

struct GuardWatch<'a> {
    guard: &'a Guard,
    windows: Vec<Window>,
    /// The number of consecutive steps at which the condition has held.
    held: u32,
    tested: bool,
}

/// The values of a metric over a window of steps.
struct Window {
    number: StepNumber,
    window: StepWindow,
    values: VecDeque<f64>,
}

/// A guard that acted.
pub struct TriggeredGuard<'a> {
    pub guard: &'a Guard,
    stage: &'a str,
    seed: u64,
    pub step: u32,
    numbers: String,
}

impl<'a> Guards<'a> {
    pub fn new(stage: GuardedStage<'a>) -> Guards<'a> {
        let GuardedStage { train, turn, .. } = stage;
        let terms = terms(&train.objective, !train.own_data.is_empty(), turn);
        let watches = train.guards.iter().map(GuardWatch::new).collect();
        Guards { stage, terms, watches, factor: 1.0, triggered: Vec::new() }
    }

    /// Tests the guards after a step; `rows` are the rows of its first part.
    pub fn look(&mut self, step: u32, rows: &[&StepMetrics]) {
        if rows.is_empty() {
            return;
        }
        let GuardedStage { name: stage, seed, steps, .. } = self.stage;
        for watch in &mut self.watches {
            let Some(numbers) = watch.look(step, steps, rows) else { continue };
            if let GuardAction::LowerRate { by } = watch.guard.action {
                self.factor *= by;
            }
            self.triggered.push(TriggeredGuard { guard: watch.guard, stage, seed, step, numbers });
        }
    }

    /// Tests the guards at all steps so far, from their rows.
    pub fn replay(&mut self, rows: &[StepMetrics]) {
        let own = rows.iter().filter(|row| row.terms == self.terms && row.step >= self.stage.from);
        let own: Vec<&StepMetrics> = own.collect();
        for rows in own.chunk_by(|one, next| one.step == next.step) {
            self.look(rows[0].step, rows);
        }
    }

    /// The guards that acted since the last call.
    pub fn take_triggered(&mut self) -> Vec<TriggeredGuard<'a>> {
        std::mem::take(&mut self.triggered)
    }

    /// Warnings about guards that no step had all metrics for.
    pub fn untested(&self) -> impl Iterator<Item = String> {
        self.watches.iter().filter(|watch| !watch.tested).map(|watch| {
            let (guard, stage) = (watch.guard.written(), self.stage.name);
            format!(
                "`{stage}`: the guard `{guard}` was never tested, because no step had all numbers \
                that it reads"
            )
        })
    }
}

impl StepHook for Guards<'_> {
    fn rate_factor(&self) -> f64 {
        self.factor
    }

    fn end_of_step(&mut self, step: u32, rows: &mut [Vec<StepMetrics>]) {
        self.look(step, &rows[0].iter().collect::<Vec<_>>());
    }

    fn take_actions(&mut self) -> Vec<StepAction> {
        let action = |triggered: TriggeredGuard| match triggered.stops() {
            true => StepAction::Stop(triggered.error(STOPPED)),
            false => StepAction::Warn(triggered.message()),
        };
        self.take_triggered().into_iter().map(action).collect()
    }

    fn end_of_training(&self) -> Vec<String> {
        self.untested().collect()
    }

    fn restore(&mut self, state: &SavedState, _: &mut Losses) -> Result<(), String> {
        self.replay(state.rows);
        Ok(())
    }
}

impl<'a> GuardWatch<'a> {
    fn new(guard: &'a Guard) -> GuardWatch<'a> {
        let window = |(number, window)| Window { number, window, values: VecDeque::new() };
        let windows = guard.reads().into_iter().map(window).collect();
        GuardWatch { guard, windows, held: 0, tested: false }
    }

    /// The values that the guard read, if it acts.
    fn look(&mut self, step: u32, steps: u32, rows: &[&StepMetrics]) -> Option<String> {
        let GuardWatch { guard, windows, held, tested } = self;
        let on = guard.on.as_ref().map(|domain| domain.name.as_str());
        let mut is_absent = false;
        for window in &mut *windows {
            let value = pooled(rows, window.number, on);
            // A mean over recent steps keeps its old value, which says nothing of this step.
            is_absent |= value.is_none() && matches!(window.window, StepWindow::Recent { .. });
            window.push(value);
        }
        if is_absent {
            return None;
        }
        let read = |number: StepNumber, of: StepWindow| {
            windows.iter().find(|known| (known.number, known.window) == (number, of))?.value()
        };
        // A step without a value is not counted, and does not end the consecutive steps.
        let holds = guard.holds(step, steps, read)?;
        *tested = true;
        if !holds {
            *held = 0;
            return None;
        }
        *held = held.saturating_add(1);
        if *held != guard.steps {
            return None;
        }
        if let GuardAction::LowerRate { .. } = guard.action {
            *held = 0;
        }
        Some(windows.iter().map(Window::written).collect::<Vec<_>>().join(", "))
    }
}

impl Window {
    fn push(&mut self, value: Option<f64>) {
        match (self.window, value) {
            (StepWindow::Now, value) => self.values = value.into_iter().collect(),
            (_, None) => {}
            (StepWindow::First { steps }, Some(value)) => {
                if self.values.len() < steps as usize {
                    self.values.push_back(value);
                }
            }
            (StepWindow::Recent { steps }, Some(value)) => {
                self.values.push_back(value);
                if self.values.len() > steps as usize {
                    self.values.pop_front();
                }
            }
        }
    }

    /// The mean of the window; `None` until it is full.
    fn value(&self) -> Option<f64> {
        let wanted = match self.window {
            StepWindow::Now => 1,
            StepWindow::First { steps } | StepWindow::Recent { steps } => steps as usize,
        };
        (self.values.len() == wanted).then(|| self.values.iter().sum::<f64>() / wanted as f64)
    }

    fn written(&self) -> String {
        let name = self.window.written(self.number);
        self.value().map_or_else(|| name.clone(), |value| format!("{name} = {value:.4}"))
    }
}

impl TriggeredGuard<'_> {
    pub fn stops(&self) -> bool {
        self.guard.action == GuardAction::Stop
    }

    /// What happened, without stage, seed and step.
    fn description(&self) -> String {
        let Guard { text, steps, on, .. } = self.guard;
        let on = on.as_ref().map(|domain| format!(" on `{}`", domain.name)).unwrap_or_default();
        let held = match steps {
            1 => "holds".to_owned(),
            steps => format!("has held for {steps} steps in a row"),
        };
        format!("`{text}`{on} {held} ({})", self.numbers)
    }

    /// The message in one line.
    pub fn message(&self) -> String {
        let then = match self.guard.action {
            GuardAction::LowerRate { by } => {
                format!(", so the learning rate is multiplied by {by} from the next step on")
            }
            GuardAction::Warn | GuardAction::Stop => String::new(),
        };
        format!("`{}` (seed {}), step {}: {}{then}", self.stage, self.seed, self.step, self.description())
    }

    /// The error of a guard that stops the stage.
    pub fn error(&self, help: &str) -> Error {
        let message = format!("a guard stopped `{}`: {}", self.stage, self.description());
        Error::new(FailureKind::Guard, message).at(self.guard.origin).at_step(self.step).help(help)
    }

    pub fn record(&self) -> GuardActed {
        GuardActed {
            stage: self.stage.to_owned(),
            seed: self.seed,
            step: self.step,
            guard: self.guard.written(),
            numbers: self.numbers.clone(),
        }
    }
}

/// A metric of a step, pooled over domains or of the domain `on`.
fn pooled(step: &[&StepMetrics], number: StepNumber, on: Option<&str>) -> Option<f64> {
    // A step without tokens has no loss and no shares of them: its rows have zeros there.
    let of_tokens = matches!(number, StepNumber::Loss | StepNumber::TokenShare);
    if of_tokens && step.iter().all(|row| (row.token_share, row.loss) == (0.0, 0.0)) {
        return None;
    }
    let rows = || step.iter().copied().filter(|row| on.is_none_or(|name| row.domain == name));
    let mean = |weight: fn(&StepMetrics) -> f64| {
        let known = rows().filter_map(|row| Some((finite(row.number(number)?)?, weight(row))));
        let (sum, whole) =
            known.fold((0.0, 0.0), |(sum, whole), (value, weight)| (sum + value * weight, whole + weight));
        (whole > 0.0).then(|| sum / whole)
    };
    let pooled = match number.pooling() {
        Pooling::Step => rows().next().and_then(|row| row.number(number)),
        Pooling::Tokens => mean(|row| row.token_share),
        Pooling::Completions => mean(|row| row.prompt_share),
        Pooling::Sum => rows().filter_map(|row| row.number(number)).reduce(|sum, count| sum + count),
        Pooling::Max => rows().filter_map(|row| row.number(number)).reduce(f64::max),
        Pooling::Share => {
            let of_all = step.iter().any(|row| row.number(number).is_some());
            let own = rows().filter_map(|row| row.number(number)).reduce(|sum, share| sum + share);
            // A domain without rows in this step has a share of 0.
            own.or((of_all && rows().next().is_none()).then_some(0.0))
        }
    };
    pooled.and_then(finite)
}

/// `None` for values that are not finite: JSON, and so a checkpoint, does not have them.
fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}
