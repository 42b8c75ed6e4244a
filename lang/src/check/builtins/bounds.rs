//! Upper bounds of the whole numbers in a program, with reasons: one table for checker, editors and book. A
//! number that counts something of its own has its bound beside its declaration.
//!
//! Each bound is far above any real training run. It makes sure that products of two such numbers fit in 64
//! bits, that a typo allocates no memory, and that the typo is reported where it is written.

use super::kinds::Bound;
use super::vocabulary;

pub const STEPS: Bound = Bound {
    settings: &["steps", "over", "every", "hold", "refresh", "for"],
    most: 1_000_000_000,
    because: "the longest published runs take a few million updates",
};

pub const TOKENS: Bound = Bound {
    settings: &[
        "context",
        "max_tokens",
        "max_prompt_tokens",
        "limits",
        "block",
        "most",
        "the width of a window",
    ],
    most: 16_777_216,
    because: "the longest published contexts hold 10 million tokens",
};

pub const ENTRIES: Bound = Bound {
    settings: &["top_k", "k", "the size of the support"],
    most: 16_777_216,
    because: "the largest published vocabularies have about a million entries",
};

pub const SEQUENCES: Bound = Bound {
    settings: &["prompts", "batch", "micro_batch", "sequences", "capacity", "limit", "base"],
    most: 1_000_000_000,
    because: "a file of a billion rows is larger than any published set of prompts",
};

pub const EPOCHS: Bound = Bound {
    settings: &["a number of epochs"],
    most: 1_000_000,
    because: "each of them goes through all of the data",
};

pub const SAMPLES: Bound = Bound {
    settings: &["n", "samples", "at_most", "of"],
    most: 65_536,
    because: "they are completions of one and the same prompt",
};

pub const TURNS: Bound = Bound {
    settings: &["turns", "all_but", "rounds"],
    most: 65_536,
    because: "the longest published conversations have thousands",
};

pub const LAYERS: Bound = Bound {
    settings: &["layers", "checkpointing"],
    most: 4_096,
    because: "the deepest published transformers have 1,000 layers",
};

pub const WIDTH: Bound = Bound {
    settings: &["width", "rank"],
    most: 1_048_576,
    because: "the widest published transformers have about 20,000",
};

pub const HIDDEN: Bound = Bound {
    settings: &["hidden"],
    most: 4_194_304,
    because: "the widest published feed-forward layers have about 80,000",
};

pub const HEADS: Bound = Bound {
    settings: &["heads", "key_value_heads"],
    most: 65_536,
    because: "the widest published transformers have 128",
};

pub const SEEDS: Bound = Bound {
    settings: &["seeds"],
    most: 10_000,
    because: "every model of the table is trained once for each of them",
};

/// The bound of a number that is only compared, or whose quantity has no bound of its own.
pub const ANY: Bound = Bound { settings: &["seed"], most: u32::MAX, because: "whole numbers have 32 bits" };

/// The bounds of what several settings and arguments count, in the order of the book.
const SHARED: &[Bound] =
    &[STEPS, EPOCHS, SEQUENCES, SAMPLES, TURNS, TOKENS, ENTRIES, LAYERS, WIDTH, HIDDEN, HEADS, SEEDS];

/// Every bound but [`ANY`], in the order of the book: those of several settings, then those that are declared
/// with their setting.
pub fn all() -> Vec<&'static Bound> {
    let mut bounds: Vec<&Bound> = SHARED.iter().collect();
    // Several blocks may have the same setting.
    declared().for_each(|bound| {
        if !bounds.contains(&bound) {
            bounds.push(bound)
        }
    });
    bounds
}

/// The bounds that are declared with their setting.
fn declared() -> impl Iterator<Item = &'static Bound> {
    vocabulary::BLOCKS.iter().flat_map(|(_, keys)| *keys).filter_map(|key| key.bound)
}

/// The bound of a setting or argument.
pub fn for_setting(setting: &str) -> &'static Bound {
    SHARED.iter().chain(declared()).find(|bound| bound.settings.contains(&setting)).unwrap_or(&ANY)
}

/// Whether a setting counts something of its own.
pub fn is_own(setting: &str) -> bool {
    declared().any(|bound| bound.settings.contains(&setting))
}

/// `1_000_000`, as it would be written in a program.
pub fn written(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::vocabulary::ArgumentKind;

    #[test]
    fn every_setting_that_counts_has_a_bound() {
        for (block, keys) in vocabulary::BLOCKS {
            for key in keys.iter().filter(|key| matches!(key.takes, ArgumentKind::Count)) {
                assert!(
                    key.name == "seed" || for_setting(key.name) != &ANY,
                    "`{}` of {block} counts something without a bound",
                    key.name
                );
            }
        }
    }

    #[test]
    fn no_setting_has_two_bounds() {
        let mut names: Vec<&str> = all().into_iter().flat_map(|bound| bound.settings).copied().collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn numbers_are_written_as_in_programs() {
        assert_eq!([7, 1_000, 65_536, 4_294_967_295].map(written), ["7", "1_000", "65_536", "4_294_967_295"]);
    }
}
