//! Files that match a pattern. The walk is bounded: a pattern such as `/**` goes through the whole machine.

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use crate::error::DataProblem;

/// Most entries of folders that a pattern goes through. The datasets with the most files have some ten
/// thousand.
pub const MOST_ENTRIES: usize = 200_000;

/// A part of a pattern between two slashes.
enum Part {
    Name(PathBuf),
    Pattern(Pattern),
    /// `**`: any number of folders.
    Folders,
}

/// A folder that is still to be looked through.
struct Folder {
    path: PathBuf,
    /// The next part of the pattern.
    part: usize,
    /// The folders above it that `**` stands for, by device and number, so that a circle of links ends.
    above: Vec<(u64, u64)>,
}

/// The files that a pattern matches, sorted by name.
pub fn matching(pattern: &Path, most: usize) -> Result<Vec<PathBuf>, DataProblem> {
    let parts = parts(pattern)?;
    let mut files = Vec::new();
    let mut folders = vec![Folder { path: PathBuf::new(), part: 0, above: Vec::new() }];
    let mut seen = 0;
    while let Some(Folder { path, part, mut above }) = folders.pop() {
        let Some(next) = parts.get(part) else {
            files.extend(path.is_file().then_some(path));
            continue;
        };
        if let Part::Name(name) = next {
            let path = path.join(name);
            folders.extend(path.exists().then(|| Folder { path, part: part + 1, above }));
            continue;
        }
        if let Part::Folders = next {
            let Some(id) = id(&path).filter(|id| !above.contains(id)) else { continue };
            above.push(id);
            folders.push(Folder { path: path.clone(), part: part + 1, above: Vec::new() });
        }
        for entry in entries(&path) {
            seen += 1;
            if seen > most {
                return Err(DataProblem::PatternTooWide { most });
            }
            let below = path.join(entry.file_name());
            match next {
                Part::Folders if below.is_dir() => {
                    folders.push(Folder { path: below, part, above: above.clone() });
                }
                Part::Pattern(name) if name.matches(&entry.file_name().to_string_lossy()) => {
                    folders.push(Folder { path: below, part: part + 1, above: Vec::new() });
                }
                _ => {}
            }
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn parts(pattern: &Path) -> Result<Vec<Part>, DataProblem> {
    let mut parts = Vec::new();
    for component in pattern.components() {
        let text = component.as_os_str().to_string_lossy();
        parts.push(match component {
            Component::Normal(_) if text == "**" => Part::Folders,
            Component::Normal(_) if text.contains(['*', '?', '[']) => {
                let compiled = Pattern::new(&text);
                Part::Pattern(compiled.map_err(|error| DataProblem::Pattern { cause: error.msg.to_owned() })?)
            }
            _ => Part::Name(component.as_os_str().into()),
        });
    }
    // Two in a row stand for the same folders as one.
    parts.dedup_by(|next, before| matches!((next, before), (Part::Folders, Part::Folders)));
    Ok(parts)
}

fn id(folder: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(or_here(folder)).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The entries of a folder; none if it is no folder, or can't be read.
fn entries(folder: &Path) -> impl Iterator<Item = DirEntry> {
    fs::read_dir(or_here(folder)).into_iter().flatten().flatten()
}

fn or_here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn found(folder: &Path, pattern: &str) -> Vec<String> {
        let files = matching(&folder.join(pattern), MOST_ENTRIES).unwrap();
        files.iter().map(|file| file.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn a_pattern_matches_names_and_any_number_of_folders() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["a.jsonl", "b.csv", "x/a.jsonl", "x/y/a.jsonl", "x/y/b2.jsonl", "z/.a.jsonl"] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        // A circle of links is gone through once.
        symlink(folder.path().join("x"), folder.path().join("x/y/up")).unwrap();
        let found = |pattern| found(folder.path(), pattern);
        assert_eq!(found("*.jsonl"), ["a.jsonl"]);
        assert_eq!(found("?.*"), ["a.jsonl", "b.csv"]);
        assert_eq!(found("[ax]*"), ["a.jsonl"]);
        assert_eq!(found("x/*/*.jsonl"), ["x/y/a.jsonl", "x/y/b2.jsonl"]);
        assert_eq!(found("*/*.jsonl"), ["x/a.jsonl", "z/.a.jsonl"]);
        let all = ["a.jsonl", "x/a.jsonl", "x/y/a.jsonl", "x/y/b2.jsonl", "z/.a.jsonl"];
        assert_eq!(found("**/*.jsonl"), all);
        assert_eq!(found("**/**/*.jsonl"), all);
        assert_eq!(found("**/y/*2*"), ["x/y/b2.jsonl"]);
        assert_eq!(found("**"), [""; 0]);
        assert_eq!(found("none/*"), [""; 0]);
        let wrong = matching(&folder.path().join("a**"), 10).unwrap_err();
        assert!(matches!(wrong, DataProblem::Pattern { .. }), "{wrong}");
    }

    #[test]
    fn a_pattern_of_the_whole_machine_is_refused() {
        for pattern in
            ["/**", "/**/*.jsonl", "/*/**/none", "/proc/**/none", "/usr/**/**/none", "/*/*/*/*/none"]
        {
            let refused = matching(Path::new(pattern), 500).unwrap_err();
            assert_eq!(refused, DataProblem::PatternTooWide { most: 500 }, "{pattern}");
        }
    }
}
