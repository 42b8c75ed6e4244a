//! Continuous batching: rows enter when there is memory for them and leave when their completion ends.
//! Requests may be added at any time; the rows of all requests advance together.
//!
//! The budget decides how many rows are in flight, and no result depends on that number: draws are keyed, a
//! row's logits do not depend on the other rows, and the grouping of prompts for prefill, where it changes a
//! result, is fixed by the request alone. Memory is taken page by page as tokens come. When rows outgrow the
//! budget, the newest one is preempted and gives its pages back. When there is room again, it rereads its
//! own completion token by token, as it was generated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mopd_kernels::pages::{PagedSequence, pages_of};

use super::active_sequence::{ActiveSequence, PrefilledPrompt};
use super::request::OpenRollout;
use super::{
    Author, Completion, CompletionObserver, HostSampler, MemoryBudget, READ, ROWS, RolloutRequest, Stop,
    append, host_sampler,
};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::{GeneratedActivations, PagedGenerator};
use crate::random::Uniforms;
use crate::zip::zip_equal;

/// Resources that a rollout took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContinuousBatchStats {
    /// Bytes of all pages.
    pub pages: usize,
    /// Largest number of rows in flight.
    pub rows: usize,
    /// Number of preemptions.
    pub preempted: usize,
}

/// Identifies a request of a batch; older requests have smaller ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// A request and its completions; those of a prompt are adjacent.
pub type FinishedRequest = (RequestId, Result<Vec<Completion>>);

pub struct ContinuousBatch<'a> {
    author: Author<'a>,
    generator: PagedGenerator<'a>,
    /// Has as many pages as `generator`, because it reads the same tokens.
    guide: Option<PagedGenerator<'a>>,
    host_sampler: HostSampler<'a>,
    budget: MemoryBudget,
    /// Requests that are not finished.
    open: BTreeMap<RequestId, OpenRollout>,
    asked: u64,
    /// Number of units of prompts that were prefilled.
    turns: u64,
    /// Waiting rows with prefilled prompts, the oldest first.
    ready: VecDeque<ActiveSequence>,
    /// Rows in flight, the oldest first.
    active: Vec<ActiveSequence>,
    /// Whether a row was preempted and none has ended since.
    full: bool,
    took: ContinuousBatchStats,
}

impl<'a> ContinuousBatch<'a> {
    /// For sequences of up to `longest` tokens at first. `None` where a model can't be decoded by pages.
    pub fn new(
        author: impl Into<Author<'a>>,
        longest: usize,
        budget: MemoryBudget,
    ) -> Option<ContinuousBatch<'a>> {
        let author = author.into();
        let generator = |model| PagedGenerator::new(model, longest);
        Some(ContinuousBatch {
            author,
            generator: generator(author.model)?,
            guide: match author.guide {
                None => None,
                Some(guide) => Some(generator(guide.model)?),
            },
            host_sampler: HostSampler::new(author),
            budget,
            open: BTreeMap::new(),
            asked: 0,
            turns: 0,
            ready: VecDeque::new(),
            active: Vec::new(),
            full: false,
            took: ContinuousBatchStats::default(),
        })
    }

    /// Saves the activations of the tokens that it reads: see [`PagedGenerator::save`].
    pub fn saving(mut self, activations: &'a mut GeneratedActivations) -> ContinuousBatch<'a> {
        self.generator.save(activations);
        self
    }

    /// Runs one request to its end and returns its completions; those of a prompt are adjacent. `control` is
    /// checked at every token.
    pub fn run(
        mut self,
        request: RolloutRequest,
        control: &Control,
        watch: CompletionObserver,
    ) -> Result<(Vec<Completion>, ContinuousBatchStats)> {
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

    /// Adds a request with at least one prompt.
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

    /// Drops a request and frees the pages of its rows.
    pub fn cancel(&mut self, id: RequestId) {
        self.open.remove(&id);
        let own = |row: &ActiveSequence| row.request == id;
        let ready = std::mem::take(&mut self.ready).into_iter();
        let (mut gone, waiting): (Vec<ActiveSequence>, Vec<ActiveSequence>) = ready.partition(own);
        self.ready = waiting.into();
        gone.extend(self.active.extract_if(.., |row| own(row)));
        gone.into_iter().for_each(|row| self.end_sequences(row.sequence, row.guide));
        self.full = false;
    }

    /// Number of pages in use.
    #[cfg(test)]
    pub fn held(&mut self) -> usize {
        self.generator.pages().held()
    }

    /// Whether no request is open.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Prefills prompts where there is room, and generates one token for every row in flight. Returns the
    /// requests that this finished.
    pub fn advance(&mut self) -> Vec<FinishedRequest> {
        let mut done = Vec::new();
        while self.admit() || (self.should_prefill() && self.read(&mut done)) {}
        if !self.active.is_empty() {
            self.took.rows = self.took.rows.max(self.active.len());
            self.make_room();
            self.step(&mut done);
        }
        done
    }

    /// Most pages while `rows` rows are in flight. The buffer of logits never shrinks.
    fn room(&mut self, rows: usize) -> usize {
        let bytes = self.budget.0.saturating_sub(rows.max(self.took.rows) * self.host_sampler.row_bytes());
        let guide = self.guide.as_mut().map_or(0, |guide| guide.pages().layout().bytes());
        bytes / (self.generator.pages().layout().bytes() + guide)
    }

    /// Bytes of all pages, those of the guide included.
    fn bytes(&mut self) -> usize {
        self.generator.pages().bytes() + self.guide.as_mut().map_or(0, |guide| guide.pages().bytes())
    }

    /// Expected pages of a row at its end: at least those for its tokens so far, which it had before a
    /// preemption, too.
    fn expected_pages(&self, row: &ActiveSequence) -> usize {
        let open = &self.open[&row.request];
        row.pages(open.expected().max(open.completions[row.index].tokens.len() + 1))
    }

    /// Takes the oldest waiting row into flight, if it is expected to fit until its end. One row is always
    /// in flight.
    fn admit(&mut self) -> bool {
        let Some(row) = self.ready.front() else { return false };
        if !self.active.is_empty() {
            let left = |row: &ActiveSequence| self.expected_pages(row).saturating_sub(row.pages_now());
            let wanted = self.active.iter().chain([row]).map(left).sum::<usize>();
            let rows = self.active.len() + 1;
            if self.full || rows > ROWS || self.generator.pages().held() + wanted > self.room(rows) {
                return false;
            }
            // Free pages count, too, because they stay allocated.
            let taken = self.bytes() + rows * self.host_sampler.row_bytes();
            if rows > self.took.rows && taken > self.budget.0 {
                return false;
            }
        }
        self.active.extend(self.ready.pop_front());
        true
    }

    /// Whether to prefill more prompts: no row waits, and there is room for new ones.
    fn should_prefill(&self) -> bool {
        self.ready.is_empty() && !self.full && self.active.len() <= ROWS / 4 * 3
    }

    /// The request whose prompts are prefilled next. Requests take turns, so that a short one does not wait
    /// for a long one.
    fn next_request(&self) -> Option<RequestId> {
        let unread = self.open.iter().filter(|(_, open)| open.next_unit().is_some());
        unread.min_by_key(|(_, open)| open.turn).map(|(id, _)| *id)
    }

    /// Whether a unit of prompts with `tokens` tokens is read as rows: [`PagedGenerator::reads_rows`].
    fn reads_rows(&self, tokens: usize) -> bool {
        self.generator.reads_rows(tokens) && self.guide.as_ref().is_none_or(|guide| guide.reads_rows(tokens))
    }

    /// The units of prompts to prefill next, at most one per request. Units that are read as rows may be
    /// combined, because that changes none of their results.
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
            let rows = self.active.len();
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

    /// Prefills the next units of prompts and draws the first tokens of their completions. False where no
    /// unit is left or none has room.
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
            PrefilledPrompt { sequence, guide, saved: own.to_vec() }
        });
        let mut read = read.collect::<Vec<_>>().into_iter();
        let mut first = 0;
        for (id, unit) in units {
            self.begin(id, &unit, first, read.by_ref().take(unit.len()).collect(), done);
            first += unit.len();
        }
        true
    }

    /// Draws the first tokens after a prefilled unit of prompts, whose logits begin at row `first`.
    fn begin(
        &mut self,
        id: RequestId,
        unit: &[usize],
        first: usize,
        read: Vec<PrefilledPrompt>,
        done: &mut Vec<FinishedRequest>,
    ) {
        let open = self.open.get_mut(&id).expect("it has prompts");
        let RolloutRequest { prompts, sampling, key } = &open.request;
        let n = open.request.n();
        // Every prompt is prefilled once; its samples start from the same logits.
        let rows: Vec<(usize, usize)> =
            (0..unit.len()).flat_map(|place| (0..n).map(move |sample| (place, sample))).collect();
        let mut uniforms: Vec<Uniforms> = rows
            .iter()
            .map(|&(place, sample)| prompts[unit[place]].borrowed().uniforms(*key, sample))
            .collect();
        let drawn = |((place, _), uniforms): ((usize, usize), _)| host_sampler::DrawRow {
            sampling,
            uniforms,
            place: first + place,
            seen: [prompts[unit[place]].tokens.as_slice(), &[]],
            verdicts: &[],
        };
        let mut drawn: Vec<host_sampler::DrawRow> =
            zip_equal(rows.iter().copied(), &mut uniforms).map(drawn).collect();
        let draws = self.host_sampler.draw(
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
                    let PrefilledPrompt { sequence, guide, saved } = &read[place];
                    let guide = self.guide.as_mut().zip(guide.as_ref());
                    self.ready.push_back(ActiveSequence {
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
        for (prompt, PrefilledPrompt { sequence, guide, saved }) in zip_equal(unit, read) {
            // Completions that end with their first token have read the prompt only.
            if let Some(activations) = self.generator.activations() {
                activations.insert(self.open[&id].request.prompts[*prompt].tokens.clone(), saved);
            }
            self.end_sequences(sequence, guide);
        }
        self.close(id, failed, done);
    }

    /// Removes a request that failed, or whose completions have all ended, and adds it to `done`.
    fn close(&mut self, id: RequestId, failed: Option<Error>, done: &mut Vec<FinishedRequest>) {
        if let Some(error) = failed {
            self.cancel(id);
            done.push((id, Err(error)));
        } else if self.open[&id].is_done() {
            let open = self.open.remove(&id).expect("it is open");
            done.push((id, Ok(open.completions)));
        }
    }

    /// Makes sure that every row in flight has a page for its next token: where pages are short, the newest
    /// rows are preempted. The oldest is never preempted, so that all rows end eventually.
    fn make_room(&mut self) {
        let (mut row, mut growing) = (0, 0);
        while row < self.active.len() {
            if self.generator.pages().grows(&self.active[row].sequence) {
                let room = self.room(self.active.len());
                if self.active.len() > 1 && self.generator.pages().held() + growing + 1 > room {
                    self.preempt();
                    continue;
                }
                growing += 1;
            }
            row += 1;
        }
    }

    fn preempt(&mut self) {
        if let Some(mut row) = self.active.pop() {
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

    /// Frees the pages of a sequence and of the guide's.
    fn end_sequences(&mut self, sequence: PagedSequence, of_guide: Option<PagedSequence>) {
        self.generator.pages().end(sequence);
        if let (Some(guide), Some(sequence)) = (&mut self.guide, of_guide) {
            guide.pages().end(sequence);
        }
    }

    /// Feeds one token of every row in flight, and draws the next where the row is not rereading.
    fn step(&mut self, done: &mut Vec<FinishedRequest>) {
        let fed = |row: &ActiveSequence| self.open[&row.request].completions[row.index].tokens[row.fed];
        let tokens: Vec<_> = self.active.iter().map(fed).collect();
        self.generator.step(self.active.iter_mut().map(|row| &mut row.sequence), &tokens);
        if let Some(guide) = &mut self.guide {
            guide.step(self.active.iter_mut().filter_map(|row| row.guide.as_mut()), &tokens);
        }
        if let Some(activations) = self.generator.activations() {
            zip_equal(&mut self.active, activations.just_read())
                .for_each(|(row, saved)| row.saved.push(*saved));
        }
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for (place, row) in self.active.iter_mut().enumerate() {
            row.fed += 1;
            let OpenRollout { request, completions, .. } = &self.open[&row.request];
            // A preempted row that rereads its completion draws nothing.
            let Completion { tokens: completion, verdicts, .. } = &completions[row.index];
            if row.fed == completion.len() {
                let RolloutRequest { prompts, sampling, .. } = request;
                let seen = [prompts[row.index / request.n()].tokens.as_slice(), completion];
                let uniforms = &mut row.uniforms;
                places.push(place);
                rows.push(host_sampler::DrawRow { sampling, uniforms, place, seen, verdicts });
            }
        }
        let guide = self.guide.as_mut().map(PagedGenerator::logits);
        let draws = self.host_sampler.draw(&mut rows, self.generator.logits(), guide);
        let (mut over, mut failed) = (vec![false; self.active.len()], BTreeMap::new());
        for (place, draw) in zip_equal(places, draws) {
            let ActiveSequence { request, index, most, .. } = self.active[place];
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
        for (row, over) in zip_equal(std::mem::take(&mut self.active), over) {
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
                self.active.push(row);
            }
        }
        ended.extend(failed.keys());
        ended.into_iter().for_each(|id| self.close(id, failed.remove(&id), done));
    }
}
