//! What the checker knows, with a note whenever an item reads or changes it.

use std::cell::Cell;
use std::collections::VecDeque;

use rustc_hash::FxHashSet;

/// A part of the checker's state that notes whether a check had to do with it. What is noted is said where it
/// happens: [`Tracked::read`] and [`Tracked::write`] note, [`Tracked::known`] does not.
#[derive(Default)]
pub struct Tracked<T> {
    value: T,
    touched: Cell<bool>,
}

impl<T> Tracked<T> {
    /// Whether it was read or written since the last time.
    pub(in crate::check) fn touched(&self) -> bool {
        self.touched.replace(false)
    }

    /// The whole of it: the check that reads it depends on all that is in it.
    pub fn read(&self) -> &T {
        self.touched.set(true);
        &self.value
    }

    /// The check that changes it must be done again each time.
    pub fn write(&mut self) -> &mut T {
        self.touched.set(true);
        &mut self.value
    }

    /// For a look at what one holds the number of, which says nothing about what else there is.
    pub fn known(&self) -> &T {
        &self.value
    }

    pub fn take(&mut self) -> T
    where
        T: Default,
    {
        std::mem::take(self.write())
    }
}

impl<T> Tracked<Vec<T>> {
    /// Adds what the recording notes by other means.
    pub(in crate::check) fn declare(&mut self, one: T) -> usize {
        self.value.push(one);
        self.value.len() - 1
    }
}

/// The names of models.
#[derive(Default)]
pub struct ModelNames {
    taken: FxHashSet<String>,
    /// While the value of an item whose check was repeated is worked out: what its models were called then.
    pub(in crate::check) given: Option<VecDeque<String>>,
}

impl ModelNames {
    pub(in crate::check) fn give(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}.{number}");
            number += 1;
        }
        name
    }
}
