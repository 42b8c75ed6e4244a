//! Memory for keys and values, in pages of a few tokens each.
//!
//! A sequence takes a page when its tokens have filled the last one, so that memory depends on the tokens
//! that exist, not on those that may come. Samples of one prompt share its pages; a sequence that writes to a
//! shared page gets its own copy first.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lines::Lines;
use crate::paged_attention::CachedKeysValues;
pub use crate::paged_attention::PAGE;

/// The layout of keys and values in a page: `[layers, 2, key-value heads, PAGE, head width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLayout {
    layers: usize,
    groups: usize,
    width: usize,
    element: usize,
}

impl PageLayout {
    /// `width` is a head's width, `element` the bytes per number.
    pub fn new(layers: usize, groups: usize, width: usize, element: usize) -> PageLayout {
        PageLayout { layers, groups, width, element }
    }

    pub fn bytes(&self) -> usize {
        2 * self.layers * self.groups * PAGE * self.width * self.element
    }

    /// Offsets at which the keys, and the values, of a layer and a key-value head begin; in elements.
    ///
    /// # Panics
    /// If a page has no such layer or head; unsafe code relies on this check.
    pub fn places(&self, layer: usize, group: usize) -> [usize; 2] {
        assert!(layer < self.layers && group < self.groups, "a page has no layer {layer} or head {group}");
        let block = PAGE * self.width;
        [0, 1].map(|which| ((layer * 2 + which) * self.groups + group) * block)
    }
}

/// Number of pages for `tokens` tokens.
pub fn pages_of(tokens: usize) -> usize {
    tokens.div_ceil(PAGE)
}

/// The pages with the keys and values of one sequence. Created and ended by its [`Pages`].
#[derive(Debug)]
pub struct PagedSequence {
    /// Id of its [`Pages`].
    owner: u64,
    pages: Vec<usize>,
    length: usize,
}

impl PagedSequence {
    pub fn length(&self) -> usize {
        self.length
    }

    /// Number of its pages after the first `shared` ones.
    pub fn pages_beyond(&self, shared: usize) -> usize {
        self.pages.len().saturating_sub(shared)
    }
}

/// All pages of a generation. Free pages are reused before new ones are allocated.
pub struct Pages {
    id: u64,
    layout: PageLayout,
    pages: Vec<Lines<f32>>,
    /// Number of sequences that use each page.
    users: Vec<u32>,
    free: Vec<usize>,
}

impl Pages {
    pub fn new(layout: PageLayout) -> Pages {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let id = MADE.fetch_add(1, Ordering::Relaxed);
        Pages { id, layout, pages: Vec::new(), users: Vec::new(), free: Vec::new() }
    }

    pub fn layout(&self) -> PageLayout {
        self.layout
    }

    /// Number of pages that sequences use.
    pub fn held(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    /// Bytes allocated so far; they are only freed all together.
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.layout.bytes()
    }

    fn take(&mut self) -> usize {
        let page = self.free.pop().unwrap_or_else(|| {
            let mut lines = Lines::default();
            lines.resize(self.layout.bytes().div_ceil(size_of::<f32>()));
            self.pages.push(lines);
            self.users.push(0);
            self.pages.len() - 1
        });
        self.users[page] = 1;
        page
    }

    fn leave(&mut self, page: usize) {
        self.users[page] -= 1;
        if self.users[page] == 0 {
            self.free.push(page);
        }
    }

    /// A new sequence of `length` tokens, to be written by [`Pages::write`].
    pub fn sequence(&mut self, length: usize) -> PagedSequence {
        PagedSequence { owner: self.id, pages: (0..pages_of(length)).map(|_| self.take()).collect(), length }
    }

    /// Checks the owner: a sequence's pages are indices into its own [`Pages`].
    fn check_owner(&self, sequence: &PagedSequence) {
        assert_eq!(sequence.owner, self.id, "a sequence of other pages");
    }

    /// A new sequence that shares the pages of the given one.
    pub fn share(&mut self, sequence: &PagedSequence) -> PagedSequence {
        self.check_owner(sequence);
        sequence.pages.iter().for_each(|&page| self.users[page] += 1);
        PagedSequence { owner: self.id, pages: sequence.pages.clone(), length: sequence.length }
    }

    pub fn end(&mut self, sequence: PagedSequence) {
        self.shorten(&mut { sequence }, 0);
    }

    /// Drops all but the first `length` tokens.
    pub fn shorten(&mut self, sequence: &mut PagedSequence, length: usize) {
        self.check_owner(sequence);
        let kept = pages_of(length).min(sequence.pages.len());
        sequence.pages.drain(kept..).for_each(|page| self.leave(page));
        sequence.length = length.min(sequence.length);
    }

    /// Whether one more token would take a page.
    pub fn grows(&self, sequence: &PagedSequence) -> bool {
        self.check_owner(sequence);
        match sequence.pages.get(sequence.length / PAGE) {
            Some(&last) => self.users[last] > 1,
            None => true,
        }
    }

    /// Makes room for one more token, in a page that no other sequence uses.
    pub fn grow(&mut self, sequence: &mut PagedSequence) {
        self.check_owner(sequence);
        let index = sequence.length / PAGE;
        match sequence.pages.get(index).copied() {
            None => sequence.pages.push(self.take()),
            Some(last) if self.users[last] > 1 => {
                let own = self.take();
                let [from, to] = self
                    .pages
                    .get_disjoint_mut([last, own])
                    .expect("a page that was just taken is another one");
                to.copy_from_slice(from);
                self.leave(last);
                sequence.pages[index] = own;
            }
            Some(_) => {}
        }
        sequence.length += 1;
    }

    /// Appends the addresses of a sequence's pages, in order, to `starts`.
    fn starts(&mut self, sequence: &PagedSequence, starts: &mut Vec<*mut u8>) {
        self.check_owner(sequence);
        starts.extend(sequence.pages.iter().map(|&page| self.pages[page].as_mut_ptr().cast::<u8>()));
    }

    /// The pages that a pass reads and writes, with one row for each position in the given ranges of the
    /// sequences.
    pub(crate) fn rows<'s>(
        &mut self,
        parts: impl Iterator<Item = (&'s mut PagedSequence, Range<usize>)>,
    ) -> RowPages<'_> {
        let (mut starts, mut rows, mut alone) = (Vec::new(), Vec::new(), true);
        for (sequence, places) in parts {
            let first = starts.len();
            self.starts(sequence, &mut starts);
            assert!(!places.is_empty() && places.end <= sequence.length, "a sequence has no such places");
            let written = &sequence.pages[places.start / PAGE..pages_of(places.end)];
            assert!(
                written.iter().all(|&page| self.users[page] == 1),
                "a row writes to a page of its own sequence"
            );
            alone &= places.len() == 1;
            rows.extend(places.map(|place| (first..starts.len(), place)));
        }
        RowPages { starts, rows, alone, layout: self.layout, _pages: PhantomData }
    }

    /// Writes a layer's keys and values of all tokens of a sequence, `[tokens, groups, head width]` each.
    pub fn write<T: Copy>(&mut self, sequence: &PagedSequence, layer: usize, [keys, values]: [&[T]; 2]) {
        let PageLayout { groups, width, element, .. } = self.layout;
        assert!(
            size_of::<T>() == element
                && [keys, values].map(<[T]>::len) == [sequence.length * groups * width; 2]
        );
        let mut starts = Vec::new();
        self.starts(sequence, &mut starts);
        let cached = |group| CachedKeysValues::<T>::new(&starts, self.layout.places(layer, group), width);
        for group in 0..groups {
            let mut cached = cached(group);
            for token in 0..sequence.length {
                let of = (token * groups + group) * width..(token * groups + group + 1) * width;
                // SAFETY: the sequence has the pages, of this layout, which has the layer, and `self` is
                // borrowed mutably.
                let slots = unsafe { cached.slots(token) };
                slots
                    .into_iter()
                    .zip([keys, values])
                    .for_each(|(slot, numbers)| slot.copy_from_slice(&numbers[of.clone()]));
            }
        }
    }
}

/// The pages of some rows, and the position that each row writes.
pub(crate) struct RowPages<'a> {
    /// Addresses of the pages of all sequences.
    pub starts: Vec<*mut u8>,
    /// For each row, its range of `starts`, and the position of its token, in a page of its sequence only.
    pub rows: Vec<(Range<usize>, usize)>,
    /// Whether all rows are of different sequences: then no row reads what another one writes.
    pub alone: bool,
    pub layout: PageLayout,
    _pages: PhantomData<&'a mut Pages>,
}

// SAFETY: workers write to the places of different rows or heads, and no other thread reads there.
unsafe impl Sync for RowPages<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        Pages::new(PageLayout::new(2, 2, 4, size_of::<f32>()))
    }

    #[test]
    fn memory_follows_tokens() {
        let mut pages = pages();
        assert_eq!(pages.layout().bytes(), 2 * 2 * 2 * 4 * 4 * PAGE);
        let mut one = pages.sequence(PAGE - 1);
        assert_eq!((pages.held(), pages.grows(&one)), (1, false));
        pages.grow(&mut one);
        assert!(pages.grows(&one));
        pages.grow(&mut one);
        assert_eq!((one.length(), pages.held()), (PAGE + 1, 2));
        pages.shorten(&mut one, 3);
        assert_eq!((one.length(), pages.held()), (3, 1));
        pages.end(one);
        let again = pages.sequence(2 * PAGE);
        assert_eq!(
            (pages.held(), pages.bytes()),
            (2, 2 * pages.layout().bytes()),
            "what was free is used again"
        );
        pages.end(again);
        assert_eq!(pages.held(), 0);
    }

    /// Unsafe code relies on these checks: without them, it would access other memory.
    #[test]
    fn pages_refuse_foreign_and_out_of_range_access() {
        let refused = |attempt: &dyn Fn()| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)).expect_err("a panic");
        };
        let numbers = [0.0f32; 2 * 4];
        refused(&|| {
            let mut pages = pages();
            let sequence = pages.sequence(1);
            pages.write(&sequence, 2, [&numbers, &numbers]);
        });
        let mut others = pages();
        let theirs = others.sequence(1);
        refused(&|| _ = pages().share(&theirs));
        refused(&|| _ = pages().grows(&theirs));
        let attempts: [fn(&mut Pages, PagedSequence); 3] = [
            |own, theirs| own.end(theirs),
            |own, mut theirs| own.grow(&mut theirs),
            |own, mut theirs| own.shorten(&mut theirs, 0),
        ];
        for attempt in attempts {
            refused(&|| {
                let (mut own, mut others) = (pages(), pages());
                let _ = own.sequence(1);
                attempt(&mut own, others.sequence(1));
            });
        }
        others.end(theirs);
    }

    #[test]
    fn samples_share_their_prompt_and_write_to_pages_of_their_own() {
        let mut pages = pages();
        let (tokens, numbers) = (PAGE + 2, 2 * 4);
        let prompt = pages.sequence(tokens);
        let keys: Vec<f32> = (0..tokens * numbers).map(|at| at as f32).collect();
        let values: Vec<f32> = keys.iter().map(|key| -key).collect();
        for layer in 0..2 {
            pages.write(&prompt, layer, [&keys, &values]);
        }
        let mut samples = [pages.share(&prompt), pages.share(&prompt), pages.share(&prompt)];
        pages.end(prompt);
        assert_eq!(pages.held(), 2);
        assert!(samples.iter().all(|sample| pages.grows(sample)));
        pages.grow(&mut samples[0]);
        pages.grow(&mut samples[1]);
        assert!(!pages.grows(&samples[2]), "the last one has the page alone");
        pages.grow(&mut samples[2]);
        assert_eq!(pages.held(), 4);
        for (index, sample) in samples.iter().enumerate() {
            let mut starts = Vec::new();
            pages.starts(sample, &mut starts);
            for (layer, group) in [(0, 0), (1, 1)] {
                let mut cached =
                    CachedKeysValues::<f32>::new(&starts, pages.layout().places(layer, group), 4);
                // SAFETY: the sample has the pages.
                unsafe { cached.slots(tokens) }.into_iter().for_each(|slot| slot.fill(index as f32));
                for token in 0..tokens {
                    let of = (token * 2 + group) * 4..(token * 2 + group + 1) * 4;
                    // SAFETY: as above.
                    let [key, value] = unsafe { cached.slots(token) };
                    assert_eq!([&*key, &*value], [&keys[of.clone()], &values[of]], "token {token}");
                }
            }
        }
        samples.into_iter().for_each(|sample| pages.end(sample));
        assert_eq!(pages.held(), 0);
    }
}
