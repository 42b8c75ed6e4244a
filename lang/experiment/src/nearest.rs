//! What a mistyped name may have meant: of a declaration, a setting, a field or a file. For the messages of
//! checks and of runs alike.

use std::path::Path;

/// Whether two names differ in case and underscores only: `LONGEST` and `longest`, `batch_size` and
/// `batchSize`.
pub fn same_letters(a: &str, b: &str) -> bool {
    letters(a).eq(letters(b))
}

fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase)
}

/// A name without case and underscores: equal for names of [`same_letters`].
pub fn folded(name: &str) -> String {
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
            let distance = strsim::damerau_levenshtein(name, candidate);
            if distance > most {
                continue;
            }
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

/// The help for a file that does not exist. `beside` are the names in the folder where it was looked
/// for.
pub fn missing_file_help(file: &str, beside: &[String]) -> String {
    let path = Path::new(file);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match nearest_file(&name, beside.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{}`?", path.with_file_name(meant).display()),
        None => unlike_a_path(path)
            .unwrap_or_else(|| "paths are relative to the folder of the experiment's file".to_owned()),
    }
}

/// What to do about a missing path that a shell or the hub would understand.
pub fn unlike_a_path(path: &Path) -> Option<String> {
    if path.starts_with("~") {
        return Some("`~` is not expanded: write the whole path".to_owned());
    }
    let parts: Vec<_> = path.iter().collect();
    let [.., owner, name] = parts[..] else { return None };
    let is_repository =
        path.extension().is_none() && path.is_relative() && !owner.to_string_lossy().starts_with('.');
    let name = format!("{}/{}", owner.to_string_lossy(), name.to_string_lossy());
    is_repository.then(|| {
        format!(
            "paths are relative to the folder of the experiment's file; a dataset of the hub is downloaded first: \
             `hf download {name} --repo-type dataset --local-dir FOLDER`, and name that folder"
        )
    })
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
