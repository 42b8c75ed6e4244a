//! The values of names, as computed by the evaluator, for editors.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::source::Span;
use mopd_experiment::formula::{Axis, Unit};

use crate::check::names::modules::ItemId;
use crate::check::values::value::Value;

/// The value of a name, as far as the checker knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueInfo {
    /// Such as `a number`, `a model`, `the family `expert``.
    pub description: String,
    pub number: Option<(Unit, Axis)>,
    pub live: bool,
    /// Its value, if it is known before the run and the same at every use.
    pub constant: Option<f64>,
}

impl ValueInfo {
    pub fn from_value(value: &Value) -> Option<ValueInfo> {
        let (number, live) = match value {
            Value::Error => return None,
            Value::Formula(formula) => (Some((formula.unit(), formula.axis())), formula.live()),
            _ => (None, false),
        };
        Some(ValueInfo { description: value.describe(), number, live, constant: value.constant() })
    }
}

/// The values of items and of the names inside them, as computed by the evaluator.
#[derive(Default)]
pub struct RecordedValues {
    pub values: FxHashMap<Span, ValueInfo>,
    /// The values of items.
    pub progress: FxHashMap<ItemId, ItemProgress>,
}

impl RecordedValues {
    /// Records a value. A body is evaluated once per call; a value that differs between calls is no constant.
    pub fn record(&mut self, declared: Span, info: ValueInfo) {
        match self.values.entry(declared) {
            Entry::Vacant(place) => {
                place.insert(info);
            }
            Entry::Occupied(before) if *before.get() == info => {}
            Entry::Occupied(mut before) => {
                let constant = info.constant.filter(|_| before.get().constant == info.constant);
                before.insert(ValueInfo { constant, ..info });
            }
        }
    }
}

/// How far the evaluation of an item's value has come.
#[derive(Clone, Debug)]
pub enum ItemProgress {
    /// Under evaluation: another request for it is a cycle.
    Started,
    Done(Value),
}
