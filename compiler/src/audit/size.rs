//! The size of a toy model, and its outcomes.

use mopd_expr::batch::{Domains, Layout};

/// The size of a toy model: vocabulary entries, prompts, samples of a prompt, tokens of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub vocabulary: usize,
    pub prompts: usize,
    pub samples: usize,
    /// The number of tokens of a completion, 1 to 3. The most, if completions end.
    pub length: usize,
    /// How often each prompt is in the batch.
    pub repeats: usize,
    /// The number of domains of the prompts: 1 or 2.
    pub domains: usize,
    /// Whether the last entry ends a completion. Otherwise all completions have the same length.
    pub ends: bool,
}

/// The tokens of each sequence of one sample.
pub type Outcome = Vec<Vec<usize>>;

impl Size {
    /// One completion of one token, from a vocabulary without entries.
    pub const ONE: Size =
        Size { vocabulary: 0, prompts: 1, samples: 1, length: 1, repeats: 1, domains: 1, ends: false };

    pub fn sequences(self) -> usize {
        self.groups() * self.samples
    }

    /// The number of groups: one for each prompt of the batch, however often it is there.
    fn groups(self) -> usize {
        self.prompts * self.repeats
    }

    /// The prompt of a sequence.
    pub fn prompt(self, sequence: usize) -> usize {
        sequence / self.samples % self.prompts
    }

    pub fn tokens(self) -> usize {
        self.sequences() * self.length
    }

    /// The smallest size in which prompts and samples can still differ.
    pub fn smallest(self) -> Size {
        let (prompts, samples) = (self.prompts.min(2), self.samples.min(2));
        let vocabulary = if prompts * samples * self.length > 2 { 2 } else { 3 };
        Size { vocabulary, prompts, samples, domains: self.domains.min(prompts), ..self }
    }

    /// The layout of one sample. Every completion is one turn and one block. The first prompt is in the first
    /// domain, the others are in the last one.
    pub fn layout(self, outcome: &[Vec<usize>]) -> Layout {
        let number = |index: usize| index as u32;
        let of_sequence = |(sequence, tokens): (usize, &Vec<usize>)| vec![number(sequence); tokens.len()];
        Layout {
            sequence_of_token: outcome.iter().enumerate().flat_map(of_sequence).collect(),
            group_of_sequence: (0..self.sequences())
                .map(|sequence| number(sequence / self.samples))
                .collect(),
            groups: number(self.groups()),
            domains: (self.domains > 1).then(|| Domains {
                of_group: (0..self.groups())
                    .map(|group| number((group % self.prompts).min(self.domains - 1)))
                    .collect(),
                count: number(self.domains),
            }),
            ..Layout::default()
        }
    }

    /// The number of prefixes that a token can follow, in all prompts.
    pub fn prefixes(self) -> usize {
        self.prompts * self.prefixes_of_prompt()
    }

    fn prefixes_of_prompt(self) -> usize {
        (0..self.length).map(|position| self.vocabulary.pow(position as u32)).sum()
    }

    /// The number of the student's logits: one per prefix and entry.
    pub fn logits(self) -> usize {
        self.prefixes() * self.vocabulary
    }

    /// The index of the prefix of a prompt's token; `before` are the tokens before it.
    pub fn prefix(self, prompt: usize, before: &[usize]) -> usize {
        let first: usize = (0..before.len()).map(|position| self.vocabulary.pow(position as u32)).sum();
        let number = before.iter().fold(0, |number, token| number * self.vocabulary + token);
        prompt * self.prefixes_of_prompt() + first + number
    }

    /// Every completion of one prompt.
    pub fn completions(self) -> Vec<Vec<usize>> {
        let lengths = if self.ends { 1..=self.length } else { self.length..=self.length };
        let end = self.vocabulary - 1;
        let complete = |tokens: &Vec<usize>| {
            let ended = tokens.iter().position(|token| *token == end);
            match ended.filter(|_| self.ends) {
                Some(place) => place + 1 == tokens.len(),
                None => tokens.len() == self.length,
            }
        };
        lengths.flat_map(|length| numbers(self.vocabulary, length)).filter(complete).collect()
    }

    /// Whether a token can follow each prefix: none follows the end of a completion.
    pub fn reached(self) -> Vec<bool> {
        let mut reached = vec![false; self.prefixes()];
        for prompt in 0..self.prompts {
            for completion in self.completions() {
                for position in 0..completion.len() {
                    reached[self.prefix(prompt, &completion[..position])] = true;
                }
            }
        }
        reached
    }

    /// The number of [`Size::outcomes`].
    pub fn outcome_count(self) -> usize {
        let ongoing = |position: usize| (self.vocabulary - 1).saturating_pow(position as u32);
        let completions = match self.ends {
            // Those that end at each place but the last, where any entry may be.
            true => (0..self.length)
                .map(|place| ongoing(place) * if place + 1 == self.length { self.vocabulary } else { 1 })
                .sum(),
            false => self.vocabulary.saturating_pow(self.length as u32),
        };
        completions.saturating_pow(self.sequences() as u32)
    }

    /// The outcomes that differ in more than the order of the completions of a prompt, and how many outcomes
    /// each stands for. Only where the order makes no difference: in one group, or where groups have one
    /// sample.
    pub fn unordered_outcomes(self) -> Vec<(Outcome, f64)> {
        let completions = self.completions();
        let each = self.sequences() / self.prompts;
        let chosen = unordered(completions.len(), each);
        numbers(chosen.len(), self.prompts)
            .map(|which| {
                let mut outcome: Outcome = vec![Vec::new(); self.sequences()];
                let mut times = 1.0;
                let mut taken = vec![0; self.prompts];
                for (sequence, tokens) in outcome.iter_mut().enumerate() {
                    let prompt = self.prompt(sequence);
                    *tokens = completions[chosen[which[prompt]][taken[prompt]]].clone();
                    taken[prompt] += 1;
                }
                for index in which {
                    times *= orders(&chosen[index]);
                }
                (outcome, times)
            })
            .collect()
    }

    /// The number of [`Size::unordered_outcomes`].
    pub fn unordered_count(self) -> f64 {
        let (kinds, each) = (self.completions().len(), self.sequences() / self.prompts);
        let one = (0..each).fold(1.0, |count, index| count * (kinds + index) as f64 / (index + 1) as f64);
        one.powi(self.prompts as i32)
    }

    /// All outcomes. The first sequence varies fastest.
    pub fn outcomes(self) -> impl Iterator<Item = Outcome> {
        let completions = self.completions();
        numbers(completions.len(), self.sequences())
            .map(move |which| which.into_iter().map(|index| completions[index].clone()).collect())
    }
}

/// All choices of `count` of `kinds`, with repetition, whatever the order.
fn unordered(kinds: usize, count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = unordered(kinds, count - 1);
    shorter
        .into_iter()
        .flat_map(|chosen| {
            let first = chosen.last().copied().unwrap_or(0);
            (first..kinds).map(move |kind| chosen.iter().copied().chain([kind]).collect())
        })
        .collect()
}

/// The number of orders of a sorted choice.
fn orders(chosen: &[usize]) -> f64 {
    let (mut orders, mut equal) = (1.0, 0);
    for (index, kind) in chosen.iter().enumerate() {
        equal = if index > 0 && chosen[index - 1] == *kind { equal + 1 } else { 1 };
        orders *= (index + 1) as f64 / f64::from(equal);
    }
    orders
}

/// All numbers with this many digits, as digits.
fn numbers(base: usize, digits: usize) -> impl Iterator<Item = Vec<usize>> {
    (0..base.pow(digits as u32)).map(move |mut number| {
        (0..digits)
            .map(|_| {
                let digit = number % base;
                number /= base;
                digit
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_counted_prompt_by_prompt() {
        let size = Size { vocabulary: 3, prompts: 2, samples: 2, length: 2, ends: false, ..Size::ONE };
        assert_eq!(
            (size.prefixes(), size.logits(), size.tokens(), size.outcomes().count()),
            (8, 24, 8, 6561)
        );
        assert_eq!(
            [size.prefix(0, &[]), size.prefix(0, &[2]), size.prefix(1, &[]), size.prefix(1, &[0])],
            [0, 3, 4, 5]
        );
    }
    #[test]
    fn unordered_outcomes_stand_for_all() {
        for size in [
            Size { vocabulary: 3, samples: 4, ..Size::ONE },
            Size { vocabulary: 3, prompts: 2, repeats: 3, ..Size::ONE },
            Size { vocabulary: 2, repeats: 3, length: 2, ..Size::ONE },
        ] {
            let found = size.unordered_outcomes();
            assert_eq!(found.len() as f64, size.unordered_count(), "{size:?}");
            let total: f64 = found.iter().map(|(_, times)| times).sum();
            assert_eq!(total, size.outcome_count() as f64, "{size:?}");
            assert!(
                found.iter().all(|(outcome, _)| outcome.iter().all(|tokens| tokens.len() == size.length))
            );
        }
    }

    #[test]
    fn completions_end_after_the_last_entry() {
        let size = Size { vocabulary: 2, prompts: 1, samples: 1, length: 3, ends: true, ..Size::ONE };
        let known: Vec<Vec<usize>> = vec![vec![1], vec![0, 1], vec![0, 0, 0], vec![0, 0, 1]];
        let mut found = size.completions();
        found.sort_by_key(|tokens| (tokens.len(), tokens.clone()));
        assert_eq!(found, known);
        let reached = size.reached();
        assert!([vec![], vec![0], vec![0, 0]].iter().all(|before| reached[size.prefix(0, before)]));
        assert_eq!(reached.iter().filter(|reached| **reached).count(), 3);
        for size in [
            size,
            Size { vocabulary: 3, ..size },
            Size { vocabulary: 3, samples: 2, length: 2, ..size },
            Size { vocabulary: 3, samples: 2, prompts: 2, length: 1, ends: false, ..size },
        ] {
            assert_eq!(size.outcome_count(), size.outcomes().count(), "{size:?}");
        }
    }
}
