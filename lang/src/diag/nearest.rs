//! The names that a mistyped one may have meant.

/// Whether two names differ in case and underscores only: `LONGEST` and `longest`, `batch_size` and
/// `batchSize`.
pub fn same_letters(a: &str, b: &str) -> bool {
    letters(a).eq(letters(b))
}

fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase)
}

/// A name without case and underscores: equal for names of [`same_letters`].
pub(crate) fn folded(name: &str) -> String {
    letters(name).collect()
}

fn sorted(name: &str) -> Vec<char> {
    let mut letters: Vec<char> = name.chars().collect();
    letters.sort_unstable();
    letters
}

/// The candidate nearest to a mistyped name, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let limit = (length / 3).max(1);
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in candidates {
        let distance = if same_letters(candidate, name) {
            0
        } else {
            let count = candidate.chars().count();
            // A file with many unknown names compares each with all known ones. Each missing or extra
            // character is an edit, so that lengths rule out most; the best so far rules out others.
            let most = best.map_or(limit, |(distance, _)| distance);
            if count.abs_diff(length) > most {
                continue;
            }
            let Some(distance) = distance_up_to(most, name, candidate) else { continue };
            // In a short word, another letter makes a different word: `gpu` is not a typo of `cpu`. Swapped
            // letters, as in `tpi` for `tip`, are.
            if length <= 3 && count == length && sorted(candidate) != sorted(name) {
                continue;
            }
            distance
        };
        if best.is_none_or(|known| (distance, candidate) < known) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The Damerau-Levenshtein distance of two names, if it is at most `most`: the number of characters to
/// insert, remove or replace, and of neighbours to swap.
fn distance_up_to(most: usize, a: &str, b: &str) -> Option<usize> {
    if !a.is_ascii() || !b.is_ascii() {
        return Some(strsim::damerau_levenshtein(a, b)).filter(|distance| *distance <= most);
    }
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    // `distances[row * width + column]`: between the first `row` bytes of `a` and the first `column` of `b`.
    // Only the cells within `most` of the diagonal can hold `most` or less; the others hold more.
    let (width, more) = (b.len() + 1, most + 1);
    let mut distances = vec![more; (a.len() + 1) * width];
    for (column, distance) in distances[..width.min(most + 1)].iter_mut().enumerate() {
        *distance = column;
    }
    // The last row, counted from 1, with each byte of `a`; 0 if there was none.
    let mut last_row = [0usize; 128];
    for row in 1..=a.len() {
        if row <= most {
            distances[row * width] = row;
        }
        let mut least = distances[row * width];
        // The last column at which this row's byte was found.
        let mut last_column = 0;
        for column in row.saturating_sub(most).max(1)..=b.len().min(row + most) {
            let above = (row - 1) * width + column;
            let equal = a[row - 1] == b[column - 1];
            let mut distance = distances[above - 1] + usize::from(!equal);
            distance = distance.min(distances[above] + 1).min(distances[row * width + column - 1] + 1);
            let (swap_row, swap_column) = (last_row[usize::from(b[column - 1])], last_column);
            if swap_row > 0 && swap_column > 0 {
                let before = distances[(swap_row - 1) * width + swap_column - 1];
                distance = distance.min(before + (row - swap_row) + (column - swap_column) - 1);
            }
            if equal {
                last_column = column;
            }
            distances[row * width + column] = distance.min(more);
            least = least.min(distance);
        }
        // A row is never nearer than the one above it.
        if least > most {
            return None;
        }
        last_row[usize::from(a[row - 1])] = row;
    }
    distances.last().copied().filter(|distance| *distance <= most)
}

/// [`nearest`] for paths. A shared folder and ending do not make one path a typo of the other:
/// `data/by.jsonl` is not taken for `data/of.jsonl`.
pub fn nearest_file<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let meant = |candidate: &&'a str| {
        let (mut ours, mut theirs) = (name, *candidate);
        if let (Some((our_folder, our_name)), Some((their_folder, their_name))) =
            (ours.rsplit_once('/'), theirs.rsplit_once('/'))
            && our_folder == their_folder
        {
            (ours, theirs) = (our_name, their_name);
        }
        while let (Some((our_head, our_end)), Some((their_head, their_end))) =
            (ours.rsplit_once('.'), theirs.rsplit_once('.'))
            && our_end == their_end
        {
            (ours, theirs) = (our_head, their_head);
        }
        nearest(ours, [theirs]).is_some()
    };
    let candidates = candidates.into_iter().filter(meant);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_meant_by_the_part_that_differs() {
        let files = ["of.jsonl", "sort.test.jsonl", "sort.train.jsonl", "readme"];
        for (name, meant) in [
            ("by.jsonl", None),
            ("by.test.jsonl", None),
            ("srot.test.jsonl", Some("sort.test.jsonl")),
            ("sort.tests.jsonl", Some("sort.test.jsonl")),
            ("sort_train.jsonl", Some("sort.train.jsonl")),
            ("sort.test.json", Some("sort.test.jsonl")),
            ("README", Some("readme")),
        ] {
            assert_eq!(nearest_file(name, files), meant, "{name}");
        }
        let folders = ["../models/large-7b", "../models/small-135m"];
        assert_eq!(nearest_file("../models/smal-135m", folders), Some("../models/small-135m"));
        assert_eq!(nearest_file("../models/tiny", folders), None);
    }

    /// All words of up to five letters of an alphabet of three, for every limit.
    #[test]
    fn distance_up_to_is_the_damerau_levenshtein_distance() {
        let mut words = vec![String::new()];
        for first in (0..).take_while(|first| *first < 121) {
            for letter in ['a', 'b', 'c'] {
                words.push(format!("{}{letter}", words[first]));
            }
        }
        assert_eq!(words.last().map(String::as_str), Some("ccccc"));
        for a in &words {
            for b in words.iter().step_by(5) {
                let exact = strsim::damerau_levenshtein(a, b);
                for most in 0..6 {
                    let expected = (exact <= most).then_some(exact);
                    assert_eq!(distance_up_to(most, a, b), expected, "{a}, {b}, {most}");
                }
            }
        }
        assert_eq!(distance_up_to(1, "größe", "grösse"), None);
        assert_eq!(distance_up_to(2, "größe", "grösse"), Some(2));
    }

    #[test]
    fn nearest_prefers_the_least_distance_and_then_the_first_name() {
        for (name, candidates, expected) in [
            ("temprature", &["tempera", "temperature"][..], Some("temperature")),
            ("rate_c", &["rate_b", "rate_a"], Some("rate_a")),
            ("Batch_Size", &["batch_sizes", "batchsize"], Some("batchsize")),
            ("gpu", &["cpu"], None),
            ("tpi", &["tip"], Some("tip")),
            ("nowhere", &["learning_rate"], None),
        ] {
            assert_eq!(nearest(name, candidates.iter().copied()), expected, "{name}");
        }
    }
}
