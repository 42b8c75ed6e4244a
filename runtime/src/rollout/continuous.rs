//! Continuous batching: rows come when there is memory for them and leave when their completion ends.
//! Requests come and go, too: their rows go on together.
//!
//! How many rows are in flight follows from the budget, and nothing of a row follows from how many there are:
//! its draws are keyed, its numbers do not depend on the rows beside it, and which prompts are read together,
//! where that changes a number, is fixed by its request alone. Memory is taken page by page as tokens come.
//! Where more rows came than have room in the end, the newest gives its pages back; when there is room again,
//! it reads what it had written, token by token as it wrote it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::flying_row::{FlyingRow, ReadPrompt};
use super::request::OpenRollout;
use super::{
    Author, Completion, Drawer, MemoryBudget, READ, ROWS, RolloutRequest, Stop, Watch, append, drawer,
};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::{GeneratedActivations, PagedGenerator};
use crate::random::Uniforms;
use crate::zip::zip_equal;
use mopd_kernels::pages::{PagedSequence, pages_of};

/// What a rollout took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlightStats {
    /// Bytes of pages.
    pub pages: usize,
    /// Rows in flight, at most.
    pub rows: usize,
    /// Rows that gave their pages back.
    pub preempted: usize,
}

/// The requests of a flight, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// The completions of a request, those of a prompt adjacent.
pub type FinishedRequest = (RequestId, Result<Vec<Completion>>);

pub struct Flight<'a> {
    author: Author<'a>,
    generator: PagedGenerator<'a>,
    /// Has as many pages: it reads the same tokens.
    guide: Option<PagedGenerator<'a>>,
    drawer: Drawer<'a>,
    budget: MemoryBudget,
    /// Those that have completions to come.
    open: BTreeMap<RequestId, OpenRollout>,
    asked: u64,
    /// Units of prompts that were read.
    turns: u64,
    /// Rows that wait, the oldest first; their prompts are read.
    ready: VecDeque<FlyingRow>,
    /// The oldest first.
    flying: Vec<FlyingRow>,
    /// A row gave its pages back, and none has ended since.
    full: bool,
    took: FlightStats,
}

impl<'a> Flight<'a> {
    /// For sequences of so many tokens at first; more may come. None where rows can't come and go.
    pub fn new(author: impl Into<Author<'a>>, longest: usize, budget: MemoryBudget) -> Option<Flight<'a>> {
        let author = author.into();
        let generator = |model| PagedGenerator::new(model, longest);
        Some(Flight {
            author,
            generator: generator(author.model)?,
            guide: match author.guide {
                None => None,
                Some(guide) => Some(generator(guide.model)?),
            },
            drawer: Drawer::new(author),
            budget,
            open: BTreeMap::new(),
            asked: 0,
            turns: 0,
            ready: VecDeque::new(),
            flying: Vec::new(),
            full: false,
            took: FlightStats::default(),
        })
    }

    /// Saves the activations of what it reads: see [`PagedGenerator::save`].
    pub fn saving(mut self, activations: &'a mut GeneratedActivations) -> Flight<'a> {
        self.generator.save(activations);
        self
    }

    /// The completions of one request, those of a prompt adjacent. Asked to stop, it does so at the next
    /// token.
    pub fn run(
        mut self,
        request: RolloutRequest,
        control: &Control,
        watch: Watch,
    ) -> Result<(Vec<Completion>, FlightStats)> {
        let request = self.add(request);
        loop {
            control.check()?;
            if let Some((_, completions)) = self.advance().pop() {
                let completions = completions?;
                watch(&completions)?;
                self.took.pages = self.bytes();
                return Ok((completions, self.took));
            }
            watch(&self.open[&request].completions)?;
        }
    }

    /// Adds a request, of one prompt at least.
    pub fn add(&mut self, request: RolloutRequest) -> RequestId {
        let longest = request.lengths().max().unwrap_or(1);
        for generator in [Some(&mut self.generator), self.guide.as_mut()].into_iter().flatten() {
            generator.reserve(longest);
        }
        let id = RequestId(self.asked);
        self.asked += 1;
        self.open.insert(id, OpenRollout::new(request));
        id
    }

    /// Forgets a request and gives back what its rows take.
    pub fn cancel(&mut self, id: RequestId) {
        self.open.remove(&id);
        let own = |row: &FlyingRow| row.request == id;
        let ready = std::mem::take(&mut self.ready).into_iter();
        let (mut gone, waiting): (Vec<FlyingRow>, Vec<FlyingRow>) = ready.partition(own);
        self.ready = waiting.into();
        gone.extend(self.flying.extract_if(.., |row| own(row)));
        gone.into_iter().for_each(|row| self.end_sequences(row.sequence, row.guide));
        self.full = false;
    }

    /// Pages that rows have.
    #[cfg(test)]
    pub fn held(&mut self) -> usize {
        self.generator.pages().held()
    }

    /// Whether no completion is to come.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Reads prompts where there is room, and writes one more token of every row in flight. Returns the
    /// requests that are done with it.
    pub fn advance(&mut self) -> Vec<FinishedRequest> {
        let mut done = Vec::new();
        while self.admit() || (self.reads_on() && self.read(&mut done)) {}
        if !self.flying.is_empty() {
            self.took.rows = self.took.rows.max(self.flying.len());
            self.make_room();
            self.step(&mut done);
        }
        done
    }

    /// Pages that there may be while so many rows are in flight. What logits took once, they keep.
    fn room(&mut self, rows: usize) -> usize {
        let bytes = self.budget.0.saturating_sub(rows.max(self.took.rows) * self.drawer.row_bytes());
        let guide = self.guide.as_mut().map_or(0, |guide| guide.pages().layout().bytes());
        bytes / (self.generator.pages().layout().bytes() + guide)
    }

    /// Of all pages.
    fn bytes(&mut self) -> usize {
        self.generator.pages().bytes() + self.guide.as_mut().map_or(0, |guide| guide.pages().bytes())
    }

    /// Pages that a row takes to its end, as far as can be known. What it has, or had before it gave way, it
    /// takes in any case.
    fn expected_pages(&self, row: &FlyingRow) -> usize {
        let open = &self.open[&row.request];
        row.pages(open.expected().max(open.completions[row.index].tokens.len() + 1))
    }

    /// Takes the oldest row that waits, if it is expected to have room to its end. One row is always in
    /// flight.
    fn admit(&mut self) -> bool {
        let Some(row) = self.ready.front() else { return false };
        if !self.flying.is_empty() {
            let left = |row: &FlyingRow| self.expected_pages(row).saturating_sub(row.pages_now());
            let wanted = self.flying.iter().chain([row]).map(left).sum::<usize>();
            let rows = self.flying.len() + 1;
            if self.full || rows > ROWS || self.generator.pages().held() + wanted > self.room(rows) {
                return false;
            }
            // Pages that are free now are kept, too.
            let taken = self.bytes() + rows * self.drawer.row_bytes();
            if rows > self.took.rows && taken > self.budget.0 {
                return false;
            }
        }
        self.flying.extend(self.ready.pop_front());
        true
    }

    /// Whether the next prompts are read: where no row waits, and some could come.
    fn reads_on(&self) -> bool {
        self.ready.is_empty() && !self.full && self.flying.len() <= ROWS / 4 * 3
    }

    /// The request whose prompts are read next: they take turns, so that a short one does not wait for a long
    /// one.
    fn next_request(&self) -> Option<RequestId> {
        let unread = self.open.iter().filter(|(_, open)| open.next_unit().is_some());
        unread.min_by_key(|(_, open)| open.turn).map(|(id, _)| *id)
    }

    /// Whether a unit of prompts that has so many tokens is read as rows.
    fn reads_rows(&self, tokens: usize) -> bool {
        self.generator.reads_rows(tokens) && self.guide.as_ref().is_none_or(|guide| guide.reads_rows(tokens))
    }

    /// The units of prompts that are read next, one of each request at most: those that are read as rows go
    /// together, since it changes none of their numbers.
    fn next_units(&mut self) -> Vec<(RequestId, Vec<usize>)> {
        let (mut units, mut read, mut prompts, mut pages) = (Vec::new(), 0, 0, 0);
        while let Some(id) = self.next_request() {
            let open = &self.open[&id];
            let unit = open.next_unit().expect("it has one").to_vec();
            let lengths = || unit.iter().map(|&prompt| open.request.prompts[prompt].tokens.len());
            let tokens: usize = lengths().sum();
            let as_rows = self.reads_rows(tokens);
            let known = units.iter().any(|(other, _)| *other == id);
            prompts += unit.len();
            if !units.is_empty() && (!as_rows || known || read + tokens > READ || prompts > ROWS) {
                break;
            }
            pages += lengths().map(pages_of).sum::<usize>();
            let rows = self.flying.len();
            if rows + units.len() > 0 && self.generator.pages().held() + pages > self.room(rows) {
                break;
            }
            self.turns += 1;
            self.open.get_mut(&id).expect("it has prompts").unit_is_read(self.turns);
            units.push((id, unit));
            read += tokens;
            if !as_rows {
                break;
            }
        }
        units
    }

    /// Reads units of prompts and draws the first tokens of their completions. False where there is none
    /// left, or none has room.
    fn read(&mut self, done: &mut Vec<FinishedRequest>) -> bool {
        let units = self.next_units();
        let tokens: Vec<&[_]> = units
            .iter()
            .flat_map(|(id, unit)| unit.iter().map(|&prompt| &self.open[id].request.prompts[prompt]))
            .map(|prompt| prompt.tokens.as_slice())
            .collect();
        if tokens.is_empty() {
            return false;
        }
        let as_rows = units.len() > 1 || self.reads_rows(tokens.iter().map(|of| of.len()).sum());
        let read = |generator: &mut PagedGenerator| {
            if as_rows { generator.read_rows(&tokens) } else { generator.read(&tokens) }
        };
        let sequences = read(&mut self.generator);
        let mut of_guide = self.guide.as_mut().map(|guide| read(guide).into_iter());
        let lengths: Vec<usize> = tokens.iter().map(|prompt| prompt.len()).collect();
        let mut saved = self.generator.activations().map_or(&[][..], |activations| activations.just_read());
        let read = zip_equal(sequences, lengths).map(|(sequence, length)| {
            let own = saved.split_off(..length.min(saved.len())).expect("no more than there are");
            let guide = of_guide.as_mut().and_then(Iterator::next);
            ReadPrompt { sequence, guide, saved: own.to_vec() }
        });
        let mut read = read.collect::<Vec<_>>().into_iter();
        let mut first = 0;
        for (id, unit) in units {
            self.begin(id, &unit, first, read.by_ref().take(unit.len()).collect(), done);
            first += unit.len();
        }
        true
    }

    /// Draws the first tokens behind a unit of prompts that were read, whose logits stand from a place on.
    fn begin(
        &mut self,
        id: RequestId,
        unit: &[usize],
        first: usize,
        read: Vec<ReadPrompt>,
        done: &mut Vec<FinishedRequest>,
    ) {
        let open = self.open.get_mut(&id).expect("it has prompts");
        let RolloutRequest { prompts, sampling, key } = &open.request;
        let n = open.request.n();
        // Every prompt is read once; its samples start from the same logits.
        let rows: Vec<(usize, usize)> =
            (0..unit.len()).flat_map(|place| (0..n).map(move |sample| (place, sample))).collect();
        let mut uniforms: Vec<Uniforms> = rows
            .iter()
            .map(|&(place, sample)| prompts[unit[place]].borrowed().uniforms(*key, sample))
            .collect();
        let drawn = |((place, _), uniforms): ((usize, usize), _)| drawer::DrawRow {
            sampling,
            uniforms,
            place: first + place,
            seen: [prompts[unit[place]].tokens.as_slice(), &[]],
            verdicts: &[],
        };
        let mut drawn: Vec<drawer::DrawRow> =
            zip_equal(rows.iter().copied(), &mut uniforms).map(drawn).collect();
        let draws = self.drawer.draw(
            &mut drawn,
            self.generator.logits(),
            self.guide.as_mut().map(PagedGenerator::logits),
        );
        let stop = Stop::new(&sampling.stop, &self.author.model.tokenizer);
        let (mut ended, mut failed) = (Vec::new(), None);
        for (((place, sample), uniforms), draw) in zip_equal(zip_equal(rows, uniforms), draws) {
            let prompt = &prompts[unit[place]];
            let (index, most) = (unit[place] * n + sample, sampling.max_tokens(prompt.limit) as usize);
            match append(&mut open.completions[index], draw, most, &stop) {
                Ok(true) => {
                    let ReadPrompt { sequence, guide, saved } = &read[place];
                    let guide = self.guide.as_mut().zip(guide.as_ref());
                    self.ready.push_back(FlyingRow {
                        request: id,
                        index,
                        uniforms,
                        sequence: self.generator.pages().share(sequence),
                        guide: guide.map(|(guide, sequence)| guide.pages().share(sequence)),
                        prompt: prompt.tokens.len(),
                        most,
                        fed: 0,
                        saved: saved.clone(),
                    });
                }
                Ok(false) => ended.push(index),
                Err(error) => failed = Some(error),
            }
        }
        ended.into_iter().for_each(|index| open.end(index));
        for (prompt, ReadPrompt { sequence, guide, saved }) in zip_equal(unit, read) {
            // Those that end at once have read no more.
            if let Some(activations) = self.generator.activations() {
                activations.insert(self.open[&id].request.prompts[*prompt].tokens.clone(), saved);
            }
            self.end_sequences(sequence, guide);
        }
        self.close(id, failed, done);
    }

    /// Takes a request out that failed, or whose completions have all ended.
    fn close(&mut self, id: RequestId, failed: Option<Error>, done: &mut Vec<FinishedRequest>) {
        if let Some(error) = failed {
            self.cancel(id);
            done.push((id, Err(error)));
        } else if self.open[&id].is_done() {
            let open = self.open.remove(&id).expect("it is open");
            done.push((id, Ok(open.completions)));
        }
    }

    /// Every row in flight has a page for its next token: where there are too few, the newest rows give
    /// theirs back. The oldest goes on in any case, so that all come to their end.
    fn make_room(&mut self) {
        let (mut row, mut growing) = (0, 0);
        while row < self.flying.len() {
            if self.generator.pages().grows(&self.flying[row].sequence) {
                let room = self.room(self.flying.len());
                if self.flying.len() > 1 && self.generator.pages().held() + growing + 1 > room {
                    self.preempt();
                    continue;
                }
                growing += 1;
            }
            row += 1;
        }
    }

    fn preempt(&mut self) {
        if let Some(mut row) = self.flying.pop() {
            self.generator.pages().shorten(&mut row.sequence, row.prompt);
            if let (Some(guide), Some(sequence)) = (&mut self.guide, &mut row.guide) {
                guide.pages().shorten(sequence, row.prompt);
            }
            row.fed = 0;
            row.saved.truncate(row.prompt);
            self.ready.push_front(row);
            self.full = true;
            self.took.preempted += 1;
        }
    }

    /// Gives pages back.
    fn end_sequences(&mut self, sequence: PagedSequence, of_guide: Option<PagedSequence>) {
        self.generator.pages().end(sequence);
        if let (Some(guide), Some(sequence)) = (&mut self.guide, of_guide) {
            guide.pages().end(sequence);
        }
    }

    /// One more token for every row in flight.
    fn step(&mut self, done: &mut Vec<FinishedRequest>) {
        let fed = |row: &FlyingRow| self.open[&row.request].completions[row.index].tokens[row.fed];
        let tokens: Vec<_> = self.flying.iter().map(fed).collect();
        self.generator.step(self.flying.iter_mut().map(|row| &mut row.sequence), &tokens);
        if let Some(guide) = &mut self.guide {
            guide.step(self.flying.iter_mut().filter_map(|row| row.guide.as_mut()), &tokens);
        }
        if let Some(activations) = self.generator.activations() {
            zip_equal(&mut self.flying, activations.just_read())
                .for_each(|(row, saved)| row.saved.push(*saved));
        }
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for (place, row) in self.flying.iter_mut().enumerate() {
            row.fed += 1;
            let OpenRollout { request, completions, .. } = &self.open[&row.request];
            // Where a row reads again what it had written, nothing is drawn.
            let Completion { tokens: completion, verdicts, .. } = &completions[row.index];
            if row.fed == completion.len() {
                let RolloutRequest { prompts, sampling, .. } = request;
                let seen = [prompts[row.index / request.n()].tokens.as_slice(), completion];
                let uniforms = &mut row.uniforms;
                places.push(place);
                rows.push(drawer::DrawRow { sampling, uniforms, place, seen, verdicts });
            }
        }
        let guide = self.guide.as_mut().map(PagedGenerator::logits);
        let draws = self.drawer.draw(&mut rows, self.generator.logits(), guide);
        let (mut over, mut failed) = (vec![false; self.flying.len()], BTreeMap::new());
        for (place, draw) in zip_equal(places, draws) {
            let FlyingRow { request, index, most, .. } = self.flying[place];
            let OpenRollout { request: of, completions, .. } =
                self.open.get_mut(&request).expect("a row in flight is of an open request");
            let stop = Stop::new(&of.sampling.stop, &self.author.model.tokenizer);
            match append(&mut completions[index], draw, most, &stop) {
                Ok(goes_on) => over[place] = !goes_on,
                Err(error) => {
                    failed.insert(request, error);
                }
            }
        }
        let mut ended = BTreeSet::new();
        for (row, over) in zip_equal(std::mem::take(&mut self.flying), over) {
            if over {
                let open = self.open.get_mut(&row.request).expect("as above");
                open.end(row.index);
                self.full = false;
                if let Some(activations) = self.generator.activations() {
                    activations.insert(open.read(row.index, row.fed), row.saved);
                }
                self.end_sequences(row.sequence, row.guide);
                ended.insert(row.request);
            } else {
                self.flying.push(row);
            }
        }
        ended.extend(failed.keys());
        ended.into_iter().for_each(|id| self.close(id, failed.remove(&id), done));
    }
}
