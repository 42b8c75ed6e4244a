//! The state of the checker: the parts of the experiment so far, the stack of calls, and cancellation.

use rustc_hash::FxHashSet;

use crate::source::Span;
use mopd_experiment::{Benchmark, Domain, MarkedSetting, Model, Panel, SweepAxis, Teacher};

use crate::check::names::modules::ItemId;
use crate::check::teachers::SaidOrigins;
use crate::check::values::calls::ItemEffort;
use crate::check::values::frames::Frame;
use crate::check::{CancellationCheck, NamedObjective};

/// How many expressions are evaluated between two checks for cancellation.
const BETWEEN_LOOKS: u32 = 512;

/// The parts of the experiment that are known so far.
#[derive(Default)]
pub(in crate::check) struct ExperimentParts {
    pub domains: Vec<Domain>,
    pub models: Vec<Model>,
    pub model_names: ModelNames,
    pub teachers: Vec<Teacher>,
    /// For each teacher, whether some route, objective or rollout uses it.
    pub used_teachers: Vec<bool>,
    /// The origins of teachers as the author declared them.
    pub said_origins: SaidOrigins,
    pub panels: Vec<Panel>,
    pub benchmarks: Vec<Benchmark>,
    pub sweep: Vec<SweepAxis>,
    pub objectives: Vec<NamedObjective>,
    pub marks: Vec<MarkedSetting>,
}

/// The names of models, which differ from each other.
#[derive(Default)]
pub(in crate::check) struct ModelNames {
    taken: FxHashSet<String>,
}

impl ModelNames {
    /// `wanted`, or a variant of it if that is taken.
    pub fn give(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}.{number}");
            number += 1;
        }
        name
    }
}

/// The calls under evaluation, and the work spent on them.
#[derive(Default)]
pub(in crate::check) struct CallStack {
    /// The items whose bodies are under evaluation, by the spans of their names. A call of one of them would
    /// never end.
    pub calling: Vec<Span>,
    /// The same calls, with the arguments of their callers.
    pub frames: Vec<Frame>,
    /// The items whose values are being computed.
    pub evaluating: Vec<ItemId>,
    /// The work of the item that is being evaluated.
    pub work: ItemEffort,
    /// Whether it has been reported that an item takes too much work.
    pub overworked: bool,
    /// How many definitions are being evaluated, each needed by the one before.
    pub chain: usize,
}

/// Lets the caller cancel an analysis.
pub(in crate::check) struct Cancellation {
    pub keep_going: Option<CancellationCheck>,
    /// Expressions before the next check.
    pub until_look: u32,
    pub stopped: bool,
}

impl Default for Cancellation {
    fn default() -> Cancellation {
        Cancellation { keep_going: None, until_look: BETWEEN_LOOKS, stopped: false }
    }
}

impl Cancellation {
    /// Whether the analysis is cancelled.
    pub fn gives_up(&mut self) -> bool {
        let Some(keep_going) = &self.keep_going else { return false };
        self.until_look -= 1;
        if self.until_look == 0 {
            self.until_look = BETWEEN_LOOKS;
            self.stopped |= !keep_going();
        }
        self.stopped
    }
}
