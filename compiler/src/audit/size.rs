//! The size of a toy model, and its outcomes.

use mopd_expr::batch::{Domains, Layout};

/// The size of a toy model: vocabulary entries, prompts, samples of a prompt, tokens of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub vocabulary: usize,
    pub prompts: usize,
    pub samples: usize,
    /// The number of tokens of a completion, 1 to 3.
    pub length: usize,
    /// The number of domains of the prompts: 1 or 2.
    pub domains: usize,
}

impl Size {
    pub fn sequences(self) -> usize {
        self.prompts * self.samples
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
    pub fn layout(self) -> Layout {
        let number = |index: usize| index as u32;
        Layout {
            sequence_of_token: (0..self.tokens()).map(|token| number(token / self.length)).collect(),
            group_of_sequence: (0..self.sequences())
                .map(|sequence| number(sequence / self.samples))
                .collect(),
            groups: number(self.prompts),
            domains: (self.domains > 1).then(|| Domains {
                of_group: (0..self.prompts).map(|prompt| number(prompt.min(self.domains - 1))).collect(),
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
    pub fn completions(self) -> impl Iterator<Item = Vec<usize>> {
        numbers(self.vocabulary, self.length)
    }

    /// The number of [`Size::outcomes`].
    pub fn outcome_count(self) -> usize {
        self.vocabulary.saturating_pow(self.tokens() as u32)
    }

    /// All outcomes, each with the tokens of all sequences, concatenated.
    pub fn outcomes(self) -> impl Iterator<Item = Vec<usize>> {
        numbers(self.vocabulary, self.tokens())
    }
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
        let size = Size { vocabulary: 3, prompts: 2, samples: 2, length: 2, domains: 1 };
        assert_eq!(
            (size.prefixes(), size.logits(), size.tokens(), size.outcomes().count()),
            (8, 24, 8, 6561)
        );
        assert_eq!(
            [size.prefix(0, &[]), size.prefix(0, &[2]), size.prefix(1, &[]), size.prefix(1, &[0])],
            [0, 3, 4, 5]
        );
    }
}
