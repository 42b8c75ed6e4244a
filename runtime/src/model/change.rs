//! The differences of two models of one shape, element by element.

use super::{ParameterEntry, Weights, layout};

/// Whether an element changed by more than `beyond`, in double precision.
pub fn is_beyond(now: f32, then: f32, beyond: f64) -> bool {
    (f64::from(now) - f64::from(then)).abs() > beyond
}

/// The first pair of parameters in which two lists differ, as text; `None` if the lists are equal.
pub fn first_difference<'e>(
    ones: impl IntoIterator<Item = &'e ParameterEntry>,
    others: impl IntoIterator<Item = &'e ParameterEntry>,
) -> Option<(String, String)> {
    let (mut ones, mut others) = (ones.into_iter(), others.into_iter());
    let said = |entry: Option<&ParameterEntry>| match entry {
        Some(entry) => format!("`{}` of shape {:?}", entry.name, entry.shape),
        None => "no further parameter".to_owned(),
    };
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return None,
            (Some(one), Some(other)) if (&one.name, &one.shape) == (&other.name, &other.shape) => {}
            (one, other) => return Some((said(one), said(other))),
        }
    }
}

/// The elements of a model that changed by more than a bound.
pub struct ModelChange<'a> {
    sides: [(&'a Weights, Vec<ParameterEntry>); 2],
    beyond: f64,
    /// Elements seen so far that changed by more.
    pub found: usize,
    /// The largest change of any element so far.
    pub largest: f64,
}

impl<'a> ModelChange<'a> {
    pub fn new(after: &'a Weights, before: &'a Weights, beyond: f64) -> ModelChange<'a> {
        let sides = [after, before].map(|weights| (weights, layout(&weights.config)));
        ModelChange { sides, beyond, found: 0, largest: 0.0 }
    }

    /// For each element of a parameter, whether it changed; `len` is the parameter's length. `None` where one
    /// of the models has no such parameter.
    pub fn of(&mut self, name: &str, len: usize) -> Option<Vec<bool>> {
        let [now, then] = self.sides.each_ref().map(|(weights, entries)| {
            let entry = entries.iter().find(|entry| entry.name == name && entry.len() == len)?;
            Some(weights.of(entry))
        });
        let (now, then) = (now?, then?);
        let changed: Vec<bool> = (0..len)
            .map(|place| {
                self.largest = self.largest.max((f64::from(now[place]) - f64::from(then[place])).abs());
                is_beyond(now[place], then[place], self.beyond)
            })
            .collect();
        self.found += changed.iter().filter(|changed| **changed).count();
        Some(changed)
    }

    pub fn beyond(&self) -> f64 {
        self.beyond
    }

    /// Releases the files' mapped memory.
    pub fn release(&self) {
        self.sides.iter().for_each(|(weights, _)| weights.release());
    }
}
