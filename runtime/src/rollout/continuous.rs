//! Continuous batching: rows come when there is memory for them and leave when their completion ends.
//!
//! How many rows are in flight follows from the budget, and nothing of a row follows from how many there are:
//! its draws are keyed, its numbers do not depend on the rows beside it, and which prompts are read together
//! is fixed beforehand. Memory is taken page by page as tokens come. Where more rows came than have room in
//! the end, the newest gives its pages back; when there is room again, it reads what it had written, token by
//! token as it wrote it.

use std::collections::VecDeque;
use std::ops::Range;

use super::{Author, Completion, Drawer, MemoryBudget, Prompt, ROWS, Watch, append, drawer, units};
use crate::control::Control;
use crate::failure::Result;
use crate::model::PagedGenerator;
use crate::random::{Key, Uniforms};
use crate::zip::zip_equal;
use mopd_compiler::plan::Sampling;
use mopd_kernels::pages::{PAGE, PagedSequence, pages_of};

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

struct FlyingRow {
    /// Index into the completions.
    index: usize,
    uniforms: Uniforms,
    /// Its prompt, and what follows; the same where a guide reads it.
    sequence: PagedSequence,
    guide: Option<PagedSequence>,
    /// Tokens of its prompt.
    prompt: usize,
    /// Tokens of its completion at most.
    most: usize,
    /// Tokens of its completion that the sequence has.
    fed: usize,
}

impl FlyingRow {
    /// Pages that it does not share with other samples of its prompt, once its completion has so many tokens.
    /// The last token is never read.
    fn pages(&self, tokens: usize) -> usize {
        pages_of(self.prompt + tokens.clamp(1, self.most) - 1) - self.prompt / PAGE
    }

    fn pages_now(&self) -> usize {
        self.sequence.pages_beyond(self.prompt / PAGE)
    }
}

pub struct Flight<'a> {
    generator: PagedGenerator<'a>,
    /// Has as many pages: it reads the same tokens.
    guide: Option<PagedGenerator<'a>>,
    drawer: Drawer<'a>,
    prompts: &'a [Prompt<'a>],
    n: usize,
    sampling: &'a Sampling,
    key: Key,
    budget: MemoryBudget,
    completions: Vec<Completion>,
    /// Rows that wait, the oldest first; their prompts are read.
    ready: VecDeque<FlyingRow>,
    /// The oldest first.
    flying: Vec<FlyingRow>,
    /// Completions that ended, and their tokens.
    ended: (usize, usize),
    /// A row gave its pages back, and none has ended since.
    full: bool,
    took: FlightStats,
}

impl<'a> Flight<'a> {
    /// None where rows can't come and go.
    pub fn new(
        author: impl Into<Author<'a>>,
        prompts: &'a [Prompt<'a>],
        sampling: &'a Sampling,
        key: Key,
        budget: MemoryBudget,
    ) -> Option<Flight<'a>> {
        let (author, n) = (author.into(), sampling.n.max(1) as usize);
        let longest = prompts
            .iter()
            .map(|prompt| prompt.tokens.len() + sampling.max_tokens(prompt.limit) as usize)
            .max();
        let generator = |model| PagedGenerator::new(model, longest.unwrap_or(1));
        Some(Flight {
            generator: generator(author.model)?,
            guide: match author.guide {
                None => None,
                Some(guide) => Some(generator(guide.model)?),
            },
            drawer: Drawer::new(author, sampling),
            prompts,
            n,
            sampling,
            key,
            budget,
            completions: vec![Completion::default(); prompts.len() * n],
            ready: VecDeque::new(),
            flying: Vec::new(),
            ended: (0, 0),
            full: false,
            took: FlightStats::default(),
        })
    }

    /// The completions, those of a prompt adjacent. Asked to stop, it does so at the next token.
    pub fn run(mut self, control: &Control, watch: Watch) -> Result<(Vec<Completion>, FlightStats)> {
        let (order, units) = units(self.prompts.iter().map(|prompt| prompt.tokens.len()), self.n, ROWS);
        let mut units = units.into_iter();
        loop {
            control.check()?;
            while self.admit() || (self.reads_on() && self.read(&order, &mut units)?) {}
            if self.flying.is_empty() {
                self.took.pages = self.bytes();
                return Ok((self.completions, self.took));
            }
            self.took.rows = self.took.rows.max(self.flying.len());
            self.make_room();
            self.step()?;
            watch(&self.completions)?;
        }
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

    /// Tokens of a completion, as far as can be known: what others had, and half as many again.
    fn expected(&self) -> usize {
        match self.ended {
            (0, _) => self.sampling.max_tokens as usize / 4,
            (rows, tokens) => (tokens + tokens / 2).div_ceil(rows),
        }
    }

    /// Takes the oldest row that waits, if it is expected to have room to its end. One row is always in
    /// flight.
    fn admit(&mut self) -> bool {
        let (Some(row), expected) = (self.ready.front(), self.expected()) else { return false };
        if !self.flying.is_empty() {
            // What a row has, or had before it gave way, it takes in any case.
            let own = |row: &FlyingRow| row.pages(expected.max(self.completions[row.index].tokens.len() + 1));
            let to_come: usize = self.flying.iter().map(|row| own(row).saturating_sub(row.pages_now())).sum();
            let wanted = to_come + own(row).saturating_sub(row.pages_now());
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

    /// Reads a unit of prompts and draws the first tokens of their completions. False where there is none
    /// left, or none has room.
    fn read(&mut self, order: &[usize], units: &mut std::vec::IntoIter<Range<usize>>) -> Result<bool> {
        let Some(unit) = units.as_slice().first().map(|unit| &order[unit.clone()]) else { return Ok(false) };
        let pages: usize = unit.iter().map(|&prompt| pages_of(self.prompts[prompt].tokens.len())).sum();
        let rows = self.flying.len();
        if rows > 0 && self.generator.pages().held() + pages > self.room(rows) {
            return Ok(false);
        }
        units.next();
        let tokens: Vec<&[_]> = unit.iter().map(|&prompt| self.prompts[prompt].tokens).collect();
        let sequences = self.generator.read(&tokens);
        let of_guide = self.guide.as_mut().map(|guide| guide.read(&tokens));
        // Every prompt is read once; its samples start from the same logits.
        let rows: Vec<(usize, usize)> =
            (0..unit.len()).flat_map(|place| (0..self.n).map(move |sample| (place, sample))).collect();
        let mut uniforms: Vec<Uniforms> = rows
            .iter()
            .map(|&(place, sample)| self.prompts[unit[place]].uniforms(self.key, sample))
            .collect();
        let drawn = |((place, _), uniforms)| drawer::DrawRow {
            uniforms,
            place,
            seen: [tokens[place], &[]],
            verdicts: &[],
        };
        let mut drawn: Vec<drawer::DrawRow> =
            zip_equal(rows.iter().copied(), &mut uniforms).map(drawn).collect();
        let draws = self.drawer.draw(
            &mut drawn,
            self.generator.logits(),
            self.guide.as_mut().map(PagedGenerator::logits),
        );
        for (((place, sample), uniforms), draw) in zip_equal(zip_equal(rows, uniforms), draws) {
            let prompt = self.prompts[unit[place]];
            let (index, most) =
                (unit[place] * self.n + sample, self.sampling.max_tokens(prompt.limit) as usize);
            if append(&mut self.completions[index], draw, most, &self.drawer)? {
                let sequence = self.generator.pages().share(&sequences[place]);
                let guide = self.guide.as_mut().zip(of_guide.as_ref());
                let guide = guide.map(|(guide, sequences)| guide.pages().share(&sequences[place]));
                self.ready.push_back(FlyingRow {
                    index,
                    uniforms,
                    sequence,
                    guide,
                    prompt: prompt.tokens.len(),
                    most,
                    fed: 0,
                });
            } else {
                self.end(index);
            }
        }
        let mut of_guide = of_guide.into_iter().flatten();
        sequences.into_iter().for_each(|sequence| self.end_sequences(sequence, of_guide.next()));
        Ok(true)
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

    fn end(&mut self, index: usize) {
        self.ended = (self.ended.0 + 1, self.ended.1 + self.completions[index].tokens.len());
        self.full = false;
    }

    /// One more token for every row in flight.
    fn step(&mut self) -> Result<()> {
        let tokens: Vec<_> =
            self.flying.iter().map(|row| self.completions[row.index].tokens[row.fed]).collect();
        self.generator.step(self.flying.iter_mut().map(|row| &mut row.sequence), &tokens);
        if let Some(guide) = &mut self.guide {
            guide.step(self.flying.iter_mut().filter_map(|row| row.guide.as_mut()), &tokens);
        }
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for (place, row) in self.flying.iter_mut().enumerate() {
            row.fed += 1;
            // Where a row reads again what it had written, nothing is drawn.
            let Completion { tokens: completion, verdicts, .. } = &self.completions[row.index];
            if row.fed == completion.len() {
                let seen = [self.prompts[row.index / self.n].tokens, completion];
                places.push(place);
                rows.push(drawer::DrawRow { uniforms: &mut row.uniforms, place, seen, verdicts });
            }
        }
        let guide = self.guide.as_mut().map(PagedGenerator::logits);
        let draws = self.drawer.draw(&mut rows, self.generator.logits(), guide);
        let mut over = vec![false; self.flying.len()];
        for (place, draw) in zip_equal(places, draws) {
            let FlyingRow { index, most, .. } = self.flying[place];
            over[place] = !append(&mut self.completions[index], draw, most, &self.drawer)?;
        }
        for (row, over) in zip_equal(std::mem::take(&mut self.flying), over) {
            if over {
                self.end(row.index);
                self.end_sequences(row.sequence, row.guide);
            } else {
                self.flying.push(row);
            }
        }
        Ok(())
    }
}
