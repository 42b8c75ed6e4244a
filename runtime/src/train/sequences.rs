//! The sequences of a step and their layout.

use std::iter::zip;
use std::ops::Range;
use std::rc::Rc;

use mopd_expr::batch::{Domains, Layout, TokenPartition};

use super::stage::StageSources;
use crate::data::mixture::Draw;
use crate::rollout::{Debate, Sequence};
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// The completions of a prompt.
pub type Group = Vec<Sequence>;

/// Rollouts that frozen models write before the first step, by source.
pub type RolloutsBySource = Vec<Vec<Sequence>>;

impl Sequence {
    /// The tokens before the completion.
    pub fn prompt<'a>(&'a self, sources: &'a StageSources) -> &'a [Token] {
        self.prompt.as_deref().unwrap_or_else(|| sources[self.source].tokens.get(self.record))
    }
}

/// The sequences of a step. Those of a group are adjacent, and so are the groups of a section.
pub struct Sequences {
    pub list: Vec<Sequence>,
    /// The draw of each group, where its prompt is from the data.
    pub draws: Vec<Draw>,
    /// For each section of the stage, how many sequences `keep` left out.
    pub dropped: Option<Vec<u32>>,
    /// The debates of panels about the prompts, by panel and then by prompt.
    pub debates: Rc<[Debate]>,
    pub layout: Layout,
    /// The first trained token of each sequence among those of the step, then their number.
    starts: Vec<usize>,
}

impl Sequences {
    /// Sequences in groups of one size; `domains` is the number of the stage's sources.
    pub fn new(list: Vec<Sequence>, group_size: usize, domains: usize) -> Sequences {
        Sequences::of_groups(list.chunks(group_size).map(<[_]>::to_vec).collect(), domains)
    }

    /// Sequences in groups, none of which is empty.
    pub fn of_groups(groups: Vec<Group>, domains: usize) -> Sequences {
        let mut layout = Layout { groups: groups.len() as u32, ..Layout::default() };
        let of_group = groups.iter().map(|group| group[0].source as u32).collect();
        layout.domains = Some(Domains { of_group, count: domains as u32 });
        let of_group = |(group, sequences): (u32, &Group)| vec![group; sequences.len()];
        layout.group_of_sequence = zip(0.., &groups).flat_map(of_group).collect();
        let list: Vec<Sequence> = groups.into_iter().flatten().collect();
        let mut starts = vec![0];
        for (index, sequence) in list.iter().enumerate() {
            layout
                .sequence_of_token
                .resize(layout.sequence_of_token.len() + sequence.completion.trained(), index as u32);
            starts.push(layout.sequence_of_token.len());
        }
        layout.turns = turns(&list);
        Sequences { list, draws: Vec::new(), dropped: None, debates: Rc::default(), layout, starts }
    }

    /// The same with the draw of each group.
    pub fn drawn(self, draws: Vec<Draw>) -> Sequences {
        Sequences { draws, ..self }
    }

    /// Some groups as a batch of their own, and the range of their tokens in this batch.
    pub fn part(&self, groups: Range<usize>, domains: usize) -> (Sequences, Range<usize>) {
        let of_group =
            |group: usize| self.layout.group_of_sequence.partition_point(|of| (*of as usize) < group);
        let members = of_group(groups.start)..of_group(groups.end);
        let draws = self.draws.get(groups.clone()).unwrap_or_default().to_vec();
        let own = self.groups().skip(groups.start).take(groups.len()).map(<[_]>::to_vec).collect();
        let part = Sequences { debates: self.debates.clone(), ..Sequences::of_groups(own, domains) };
        (part.drawn(draws), self.starts[members.start]..self.starts[members.end])
    }

    /// The same with the number of sequences that `keep` left out of each section.
    pub fn without(self, dropped: Option<Vec<u32>>) -> Sequences {
        Sequences { dropped, ..self }
    }

    /// The same with debates about the prompts.
    pub fn debated(self, debates: Rc<[Debate]>) -> Sequences {
        Sequences { debates, ..self }
    }

    /// A panel's debate about a sequence's prompt; `None` where there was none.
    pub fn debate(&self, panel: u32, sequence: &Sequence) -> Option<&Debate> {
        let key = |debate: &Debate| (debate.panel, debate.prompt.source, debate.prompt.record);
        let of = (panel, sequence.source, sequence.record);
        self.debates.binary_search_by_key(&of, key).ok().map(|place| &self.debates[place])
    }

    pub fn groups(&self) -> impl Iterator<Item = &[Sequence]> {
        let mut rest = self.list.as_slice();
        let sizes = self.layout.group_of_sequence.chunk_by(|one, next| one == next).map(<[u32]>::len);
        sizes.map(move |size| rest.split_off(..size).expect("a group's sequences are adjacent"))
    }

    /// The number of sequences in each group.
    ///
    /// # Panics
    /// If groups differ in size.
    pub fn of_group(&self) -> usize {
        let size = self.groups().next().map_or(1, <[_]>::len);
        assert!(self.groups().all(|group| group.len() == size), "groups of one size");
        size
    }

    /// The range of the sequences of some adjacent sections.
    pub fn of_sections(&self, sources: &StageSources, sections: Range<usize>) -> Range<usize> {
        let first = self.list.partition_point(|sequence| sources.section_of(sequence) < sections.start);
        first..self.list.partition_point(|sequence| sources.section_of(sequence) < sections.end)
    }

    /// The range of a sequence's trained tokens among those of the step.
    pub fn tokens(&self, sequence: usize) -> Range<usize> {
        self.starts[sequence]..self.starts[sequence + 1]
    }

    /// Numbers per trained token, with 0 at tokens of other sources.
    pub fn alone(&self, source: usize, numbers: &[&[f32]]) -> Vec<Vec<f32>> {
        let of_token = self.layout.sequence_of_token.iter();
        let own: Vec<bool> =
            of_token.map(|sequence| self.list[*sequence as usize].source == source).collect();
        let alone = |numbers: &&[f32]| {
            let numbers = zip_equal(numbers.iter(), &own);
            numbers.map(|(number, own)| if *own { *number } else { 0.0 }).collect()
        };
        numbers.iter().map(alone).collect()
    }

    /// The trained tokens of the step, concatenated.
    pub fn targets(&self) -> Vec<Token> {
        let list = self.list.iter().flat_map(|sequence| sequence.completion.trained_tokens());
        let targets: Vec<Token> = list.collect();
        assert_eq!(targets.len(), self.layout.tokens(), "sequences stay as they were laid out");
        targets
    }

    /// The log-probabilities of these tokens at sampling; `None` where some come from the data.
    pub fn sampled_logps(&self) -> Option<Vec<f32>> {
        self.per_token(|sequence| sequence.completion.logps())
    }

    /// Which head wrote each of these tokens; `None` where one head wrote all.
    pub fn heads(&self) -> Option<Vec<u8>> {
        self.per_token(|sequence| sequence.completion.heads())
    }

    /// The indices of the second head's tokens among the trained tokens.
    pub fn second_tokens(&self) -> Vec<i64> {
        let heads = self.heads().unwrap_or_default();
        let places: Vec<usize> = (0..heads.len()).filter(|place| heads[*place] == 1).collect();
        // The second head reads the token before.
        let of = |place: usize| self.layout.sequence_of_token[place];
        assert!(
            places.iter().all(|&place| place > 0 && heads[place - 1] == 0 && of(place - 1) == of(place)),
            "a second token follows a first one"
        );
        places.into_iter().map(|place| place as i64).collect()
    }

    /// One element for each trained token of the step, from a list over those of each sequence.
    fn per_token<T>(&self, list: impl Fn(&Sequence) -> Option<Vec<T>>) -> Option<Vec<T>> {
        let mut all = Vec::with_capacity(self.layout.tokens());
        for (index, sequence) in self.list.iter().enumerate() {
            all.extend(list(sequence)?);
            assert_eq!(all.len(), self.starts[index + 1], "sequences stay as they were laid out");
        }
        Some(all)
    }
}

/// The student's turns (tokens that it wrote without interruption), where any sequence has several.
fn turns(list: &[Sequence]) -> Option<TokenPartition> {
    if list.iter().all(|sequence| sequence.completion.turns().count() <= 1) {
        return None;
    }
    let mut runs = TokenPartition { of_token: Vec::new(), parent: Vec::new() };
    for (index, sequence) in list.iter().enumerate() {
        for turn in sequence.completion.turns() {
            runs.of_token.resize(runs.of_token.len() + turn.len(), runs.parent.len() as u32);
            runs.parent.push(index as u32);
        }
    }
    Some(runs)
}
