//! What the checker works with: the parts of the experiment so far, the calls that it is in, and whether to
//! go on.

use crate::experiment::{Benchmark, Domain, MarkedSetting, Model, Panel, SweepAxis, Teacher};
use crate::source::Span;

use crate::check::incremental::tracked::{ModelNames, Tracked};
use crate::check::names::modules::ItemId;
use crate::check::teachers::SaidOrigins;
use crate::check::values::calls::ItemEffort;
use crate::check::values::frames::Frame;
use crate::check::{GoOn, NamedObjective};

/// So many expressions are evaluated between two looks at whether to go on.
const BETWEEN_LOOKS: u32 = 512;

/// What the experiment is made of, as far as it is known.
#[derive(Default)]
pub(in crate::check) struct ExperimentParts {
    pub domains: Tracked<Vec<Domain>>,
    pub models: Tracked<Vec<Model>>,
    pub model_names: ModelNames,
    pub teachers: Tracked<Vec<Teacher>>,
    /// By teacher: some route, objective or rollout asks for it.
    pub used_teachers: Tracked<Vec<bool>>,
    /// What the author wrote about where teachers come from.
    pub said_origins: Tracked<SaidOrigins>,
    pub panels: Tracked<Vec<Panel>>,
    pub benchmarks: Tracked<Vec<Benchmark>>,
    pub sweep: Tracked<Vec<SweepAxis>>,
    pub objectives: Vec<NamedObjective>,
    pub marks: Vec<MarkedSetting>,
}

/// What is being evaluated, and what it has taken so far.
#[derive(Default)]
pub(in crate::check) struct CallStack {
    /// The items whose bodies are being evaluated, by the place of their names: a call of one of them never
    /// ends.
    pub calling: Vec<Span>,
    /// The same calls, with what their callers gave.
    pub frames: Vec<Frame>,
    /// The items whose values are being worked out.
    pub evaluating: Vec<ItemId>,
    /// Of the item that is being evaluated.
    pub work: ItemEffort,
    /// It has been said that an item takes too many.
    pub overworked: bool,
    /// How often a definition was found to need itself.
    pub cycles: usize,
    /// How many definitions are being evaluated, each needed by the one before.
    pub chain: usize,
}

/// Whether to go on.
pub(in crate::check) struct Cancellation {
    pub go_on: Option<GoOn>,
    /// Expressions until the next look.
    pub until_look: u32,
    pub stopped: bool,
}

impl Default for Cancellation {
    fn default() -> Cancellation {
        Cancellation { go_on: None, until_look: BETWEEN_LOOKS, stopped: false }
    }
}

impl Cancellation {
    /// Whether the analysis has been given up.
    pub fn gives_up(&mut self) -> bool {
        let Some(go_on) = &self.go_on else { return false };
        self.until_look -= 1;
        if self.until_look == 0 {
            self.until_look = BETWEEN_LOOKS;
            self.stopped |= !go_on();
        }
        self.stopped
    }
}
