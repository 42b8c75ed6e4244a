//! Parts of the checker's state that note whether a check reads or changes them.

use std::cell::Cell;
use std::collections::VecDeque;

use rustc_hash::FxHashSet;

/// A part of the checker's state that notes whether a check has touched it: [`Tracked::read`] and
/// [`Tracked::write`] note it, [`Tracked::known`] does not.
#[derive(Default)]
pub struct Tracked<T> {
    value: T,
    touched: Cell<bool>,
}

impl<T> Tracked<T> {
    /// Whether it was read or written since the last call of this function.
    pub(in crate::check) fn touched(&self) -> bool {
        self.touched.replace(false)
    }

    /// The whole value. A check that calls this depends on everything in it.
    pub fn read(&self) -> &T {
        self.touched.set(true);
        &self.value
    }

    /// The whole value, to be changed. A check that calls this must be done in every analysis.
    pub fn write(&mut self) -> &mut T {
        self.touched.set(true);
        &mut self.value
    }

    /// The value, to be read at an index that the caller has. This does not count as a read of the others.
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
    /// Adds an element. The recording notes that separately.
    pub(in crate::check) fn declare(&mut self, one: T) -> usize {
        self.value.push(one);
        self.value.len() - 1
    }
}

/// The names of models.
#[derive(Default)]
pub struct ModelNames {
    taken: FxHashSet<String>,
    /// The names of the models of an item whose check was repeated, while its value is computed.
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
