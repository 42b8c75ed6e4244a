//! Parts of the checker's state that note whether an item reads or changes them.

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
    /// Whether it was read or written since the last call.
    pub(in crate::check) fn touched(&self) -> bool {
        self.touched.replace(false)
    }

    /// The whole value: a check that reads it depends on everything in it.
    pub fn read(&self) -> &T {
        self.touched.set(true);
        &self.value
    }

    /// A check that changes it must be done again each time.
    pub fn write(&mut self) -> &mut T {
        self.touched.set(true);
        &mut self.value
    }

    /// For an element whose number the caller holds; that says nothing about the other elements.
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
    /// Adds an element; the recording notes that by other means.
    pub(in crate::check) fn declare(&mut self, one: T) -> usize {
        self.value.push(one);
        self.value.len() - 1
    }
}

/// The names of models.
#[derive(Default)]
pub struct ModelNames {
    taken: FxHashSet<String>,
    /// While the value of an item whose check was repeated is computed: the names its models had.
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
