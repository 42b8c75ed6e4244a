//! The checker: what is declared, and the state of an evaluation.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::Item;
use mopd_experiment::TeacherChoice;

use crate::check::declarations::Declarations;
use crate::check::names::modules::{ItemId, declared_name};
use crate::check::values::recorded::{RecordedValues, ValueInfo};
use crate::check::values::value::Value;

/// How many expressions are evaluated between two checks for cancellation.
const BETWEEN_LOOKS: u32 = 512;

/// The checker. A function that gets one may evaluate expressions; it derefs to the [`Declarations`], which
/// checks of evaluated things ask for.
pub struct Checker {
    pub declarations: Declarations,
    pub stack: CallStack,
    pub cancellation: Cancellation,
    /// The entry file's route, evaluated when a stage first needs it.
    pub route: RouteState,
    pub recorded: RecordedValues,
    /// `--set seed=2`
    pub seed: Option<u64>,
}

impl Deref for Checker {
    type Target = Declarations;

    fn deref(&self) -> &Declarations {
        &self.declarations
    }
}

impl DerefMut for Checker {
    fn deref_mut(&mut self) -> &mut Declarations {
        &mut self.declarations
    }
}

impl Checker {
    /// Whether an item may take `work` more calls or iterations. The first item that exceeds its limit is
    /// reported.
    pub fn spend(&mut self, work: usize, span: Span) -> bool {
        let most = if self.stack.overworked { MOST_WORK_AFTERWARDS } else { MOST_WORK };
        self.stack.work.spent = self.stack.work.spent.saturating_add(work);
        if self.stack.work.spent <= most {
            return true;
        }
        // Everything that uses a too large item is too large as well: one report is enough.
        if !std::mem::replace(&mut self.stack.overworked, true) {
            let text = format!("evaluating this takes more than {MOST_WORK} calls and iterations");
            let item = self.stack.work.item.unwrap_or(span);
            self.report(Diagnostic::error(Code::OutOfRange, item, text).help(
                "a function is inlined at every call: give a value that is used twice a name with `let`",
            ));
        }
        false
    }

    /// Runs an evaluation whose result does not depend on the caller: with its own work, outside of the
    /// caller's calls.
    pub fn evaluate_independently<T>(
        &mut self,
        work: ItemEffort,
        evaluate: impl FnOnce(&mut Checker) -> T,
    ) -> T {
        let work = std::mem::replace(&mut self.stack.work, work);
        let calling = std::mem::take(&mut self.stack.calling);
        let any_numbers = std::mem::take(&mut self.any_numbers);
        let value = evaluate(self);
        (self.stack.work, self.stack.calling, self.any_numbers) = (work, calling, any_numbers);
        value
    }

    /// Records the value of a name inside a body, for editors.
    pub fn record(&mut self, declared: Span, value: &Value) {
        if let Some(info) = ValueInfo::from_value(value) {
            self.recorded.record(declared, info);
        }
    }
}

/// The calls under evaluation, and the work spent on them.
#[derive(Default)]
pub struct CallStack {
    /// The items whose bodies are under evaluation, by the spans of their names. A call of one of them would
    /// never end.
    pub calling: Vec<Span>,
    /// The items whose values are being computed.
    pub evaluating: Vec<ItemId>,
    /// The work of the item that is being evaluated.
    pub work: ItemEffort,
    /// Whether it has been reported that an item takes too much work.
    pub overworked: bool,
    /// How many definitions are being evaluated, each needed by the one before.
    pub chain: usize,
    /// The random draws of the objective that is being evaluated.
    pub draws: u32,
}

/// Lets the caller cancel an analysis.
pub struct Cancellation {
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

/// The maximum depth of calls inside calls.
pub const DEEPEST_CALL: usize = 64;

/// The most calls and iterations that one item may take. Functions are inlined, so in a chain of functions
/// that each call the previous one twice, the work doubles with every link.
pub const MOST_WORK: usize = 20_000;

/// The limit after some item has exceeded [`MOST_WORK`], so that similar items stop sooner.
pub const MOST_WORK_AFTERWARDS: usize = 1_000;

/// The work that an item has taken so far.
#[derive(Clone, Copy, Default)]
pub struct ItemEffort {
    spent: usize,
    /// The place of the item's name, if it has one.
    item: Option<Span>,
}

impl ItemEffort {
    pub fn new(item: &Item) -> ItemEffort {
        ItemEffort { spent: 0, item: Some(declared_name(&item.kind).map_or(item.span, |name| name.span)) }
    }
}

/// The file's own route.
#[derive(Clone, Debug, Default)]
pub enum RouteState {
    #[default]
    Unevaluated,
    /// The file has none.
    Absent,
    /// The choices in order. A domain without a teacher has been reported.
    Evaluated(Rc<Vec<TeacherChoice>>),
}

/// Whether to go on. Called repeatedly during an analysis.
pub type CancellationCheck = Rc<dyn Fn() -> bool>;

/// The largest number of definitions under evaluation, each needed by the one before, and of levels of a
/// formula. Files of thousands of `let`s, each naming the last one, stay far below it.
pub const DEEPEST_CHAIN: usize = 10_000;
