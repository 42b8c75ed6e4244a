//! Strings to sort and to reverse, with demonstrations that are often wrong.

use std::collections::HashSet;

use serde::Serialize;

const TRAIN: usize = 1200;
const TEST: usize = 100;
/// Strings are drawn from the first letters of the alphabet.
const LETTERS: u64 = 10;
/// Out of ten demonstrations, this many have one wrong letter.
const WRONG_OF_TEN: u64 = 6;

pub const TASKS: &[Task] = &[
    Task {
        name: "sort",
        shortest: 4,
        longest: 5,
        solve: |letters| {
            let mut letters = letters.to_vec();
            letters.sort_unstable();
            letters
        },
    },
    Task { name: "reverse", shortest: 4, longest: 6, solve: |letters| letters.iter().rev().copied().collect() },
];

pub struct Task {
    pub name: &'static str,
    shortest: u64,
    longest: u64,
    solve: fn(&[u8]) -> Vec<u8>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Line {
    pub prompt: String,
    pub answer: String,
    pub demonstration: String,
}

pub struct Split {
    pub train: Vec<Line>,
    /// Prompts that are not among the training prompts.
    pub test: Vec<Line>,
}

impl Task {
    pub fn make(&self) -> Split {
        let mut random = SplitMix(self.name.bytes().fold(0, |seed, byte| seed * 256 + u64::from(byte)));
        let mut seen = HashSet::new();
        let mut lines = Vec::new();
        while lines.len() < TRAIN + TEST {
            let length = self.shortest + random.below(self.longest - self.shortest + 1);
            let letters: Vec<u8> = (0..length).map(|_| b'a' + random.below(LETTERS) as u8).collect();
            if !seen.insert(letters.clone()) {
                continue;
            }
            let answer = (self.solve)(&letters);
            let mut demonstration = answer.clone();
            if random.below(10) < WRONG_OF_TEN {
                let place = random.below(length) as usize;
                // One of the other letters.
                let shift = 1 + random.below(LETTERS - 1);
                demonstration[place] = b'a' + ((u64::from(demonstration[place] - b'a') + shift) % LETTERS) as u8;
            }
            let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
            lines.push(Line {
                prompt: format!("{} {}=", self.name, text(&letters)),
                answer: text(&answer),
                demonstration: text(&demonstration),
            });
        }
        let test = lines.split_off(TRAIN);
        Split { train: lines, test }
    }
}

/// One JSON object a line.
pub fn lines(lines: &[Line]) -> String {
    lines.iter().map(|line| serde_json::to_string(line).expect("a line is three strings") + "\n").collect()
}

/// SplitMix64 (Steele, Lea and Flood 2014): a few lines, and the same numbers everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound - 1`; the bias of the remainder is far below anything that matters for bounds of ten.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_and_test_prompts_are_disjoint_and_answers_right() {
        for task in TASKS {
            let Split { train, test } = task.make();
            assert_eq!((train.len(), test.len()), (TRAIN, TEST));
            let prompts: HashSet<&str> = train.iter().chain(&test).map(|line| line.prompt.as_str()).collect();
            assert_eq!(prompts.len(), TRAIN + TEST, "{}", task.name);
            for line in train.iter().chain(&test) {
                let letters = line.prompt.split([' ', '=']).nth(1).expect("a prompt is `task letters=`");
                let mut solved: Vec<char> = letters.chars().collect();
                if task.name == "sort" {
                    solved.sort_unstable();
                } else {
                    solved.reverse();
                }
                assert_eq!(line.answer, solved.into_iter().collect::<String>());
                let wrong = line.answer.chars().zip(line.demonstration.chars()).filter(|(a, d)| a != d).count();
                assert!(wrong <= 1 && line.demonstration.len() == line.answer.len(), "{line:?}");
            }
            let wrong = train.iter().filter(|line| line.answer != line.demonstration).count();
            assert!((TRAIN * 55 / 100..TRAIN * 65 / 100).contains(&wrong), "{wrong} of {TRAIN}");
        }
    }

    #[test]
    fn the_data_never_changes() {
        let first = TASKS.iter().map(|task| task.make().train.remove(0).prompt).collect::<Vec<_>>();
        assert_eq!(first, ["sort gjebf=", "reverse gcddff="]);
    }
}
