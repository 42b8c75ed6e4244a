//! Finds the files that a data source names.

use std::io::Read;
use std::path::{Path, PathBuf};

use mopd_plan::is_file_pattern;
use mopd_plan::nearest;
use mopd_store::regular;

use super::error::{DataError, DataProblem};

/// One file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    pub path: PathBuf,
    pub layout: FileLayout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLayout {
    /// One JSON object per line.
    Lines,
    Parquet,
    /// Separated cells with a header line.
    Cells {
        separator: u8,
    },
}

/// File name endings of data files in a folder.
pub use mopd_plan::DATA_ENDINGS as ENDINGS;

/// The files of `path`, sorted by name: the file itself, those that match its pattern, or those of a split of
/// a folder.
pub fn find(path: &Path, split: Option<&str>) -> Result<Vec<DataFile>, DataError> {
    let failed = |problem| DataError::of_file(path, problem);
    let paths = if path.is_dir() {
        of_folder(path, split).map_err(failed)?
    } else {
        if let Some(split) = split {
            return Err(failed(DataProblem::NoSplits { split: split.to_owned() }));
        }
        if path.exists() || !is_file_pattern(&path.to_string_lossy()) {
            vec![path.to_owned()]
        } else {
            matching(path).map_err(failed)?
        }
    };
    paths.into_iter().map(|path| Ok(DataFile { layout: layout(&path)?, path })).collect()
}

fn matching(path: &Path) -> Result<Vec<PathBuf>, DataProblem> {
    let pattern = path.to_string_lossy();
    let found = glob::glob(&pattern).map_err(|error| DataProblem::Pattern { cause: error.msg.to_owned() })?;
    let mut paths: Vec<PathBuf> = found.filter_map(Result::ok).filter(|path| path.is_file()).collect();
    paths.sort();
    if paths.is_empty() { Err(DataProblem::NoMatch) } else { Ok(paths) }
}

/// Finds the files of a split in the layout of `datasets` and of the hub:
/// `data/train-00000-of-00002.parquet`, also without the folder or the numbers, or with a folder per split.
fn of_folder(folder: &Path, wanted: Option<&str>) -> Result<Vec<PathBuf>, DataProblem> {
    let mut splits: Vec<(String, Vec<PathBuf>)> = Vec::new();
    let mut add = |split: String, path: PathBuf| match splits.iter_mut().find(|(known, _)| *known == split) {
        Some((_, paths)) => paths.push(path),
        None => splits.push((split, vec![path])),
    };
    for folder in [folder.to_owned(), folder.join("data")] {
        for path in entries(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "data" {
                entries(&path)
                    .into_iter()
                    .filter(|path| is_data(path))
                    .for_each(|path| add(name.clone(), path));
            } else if is_data(&path) {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                add(split_of(&stem).to_owned(), path);
            }
        }
    }
    splits.sort();
    let names = || splits.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let chosen = match wanted {
        _ if splits.is_empty() => return Err(DataProblem::NoData),
        Some(wanted) => match splits.iter().position(|(name, _)| name == wanted) {
            Some(place) => place,
            None => {
                let meant = nearest(wanted, splits.iter().map(|(name, _)| name.as_str())).map(str::to_owned);
                return Err(DataProblem::NoSuchSplit { split: wanted.to_owned(), meant, present: names() });
            }
        },
        None if splits.len() == 1 => 0,
        None => return Err(DataProblem::ManySplits { present: names() }),
    };
    let (_, mut paths) = splits.swap_remove(chosen);
    paths.sort();
    Ok(paths)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<_> = paths
        .filter(|path| !path.file_name().unwrap_or_default().to_string_lossy().starts_with('.'))
        .collect();
    paths.sort();
    paths
}

fn is_data(path: &Path) -> bool {
    // Files of metadata in a saved dataset.
    const FACTS: [&str; 3] = ["dataset_info.json", "dataset_infos.json", "state.json"];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.is_file()
        && ending(path).is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
        && !FACTS.contains(&&*name)
}

pub(super) fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// `train` of `train-00000-of-00002`.
fn split_of(stem: &str) -> &str {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = stem.rsplit_once("-of-").and_then(|(before, count)| Some((before.rsplit_once('-')?, count)));
    match parts {
        Some(((split, part), count)) if number(part) && number(count) => split,
        _ => stem,
    }
}

fn layout(path: &Path) -> Result<FileLayout, DataError> {
    let failed = |error: &std::io::Error| DataError::of_file(path, DataProblem::unreadable(path, error));
    let mut file = regular::open(path).map_err(|error| failed(&error))?;
    let mut magic = [0; 4];
    let length = file.read(&mut magic).map_err(|error| failed(&error))?;
    Ok(match (&magic[..length], ending(path).as_deref()) {
        (b"PAR1", _) => FileLayout::Parquet,
        (_, Some("parquet")) => {
            return Err(DataError::of_file(
                path,
                DataProblem::NotParquet { cause: "it does not begin with PAR1".to_owned() },
            ));
        }
        ([0x1F, 0x8B, ..] | [0x28, 0xB5, 0x2F, 0xFD] | [b'P', b'K', 3, 4], _) => {
            return Err(DataError::of_file(path, DataProblem::Compressed));
        }
        (_, Some("csv")) => FileLayout::Cells { separator: b',' },
        (_, Some("tsv")) => FileLayout::Cells { separator: b'\t' },
        _ => FileLayout::Lines,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if name.ends_with("parquet") { "PAR1" } else { "{}" }).unwrap();
        }
        folder
    }

    fn found(
        folder: &tempfile::TempDir,
        path: &str,
        split: Option<&str>,
    ) -> Result<Vec<String>, (String, String)> {
        let files = find(&folder.path().join(path), split)
            .map_err(|error| (error.problem.to_string(), error.help()))?;
        let name =
            |file: DataFile| file.path.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned();
        Ok(files.into_iter().map(name).collect())
    }

    #[test]
    fn a_published_folder_has_splits() {
        let folder = folder(&[
            "README.md",
            "dataset_info.json",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
            "validation.jsonl",
            "extra/part.csv",
        ]);
        let train = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        assert_eq!(found(&folder, "", Some("train")).unwrap(), train);
        assert_eq!(found(&folder, "", Some("validation")).unwrap(), ["validation.jsonl"]);
        assert_eq!(found(&folder, "", Some("extra")).unwrap(), ["extra/part.csv"]);
        assert_eq!(found(&folder, "data/train-*.parquet", None).unwrap(), train);
        let (problem, help) = found(&folder, "", Some("tests")).unwrap_err();
        assert_eq!(problem, "there is no split `tests`; found `extra`, `test`, `train`, `validation`");
        assert_eq!(help, "did you mean `test`?");
        let (problem, help) = found(&folder, "", None).unwrap_err();
        assert_eq!(problem, "the folder has the splits `extra`, `test`, `train`, `validation`");
        assert_eq!(help, "choose one, such as dataset(\"...\", split: \"extra\")");
        assert_eq!(
            found(&folder, "validation.jsonl", Some("train")).unwrap_err().0,
            "a file has no splits, but the split `train` is requested"
        );
        assert_eq!(found(&folder, "*.arrow", None).unwrap_err().0, "no file matches the pattern");
    }

    #[test]
    fn a_folder_of_one_split_needs_no_name() {
        let folder = folder(&["train-0-of-1.parquet"]);
        assert_eq!(found(&folder, "", None).unwrap(), ["train-0-of-1.parquet"]);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(found(&empty, "", None).unwrap_err().0, "the folder has no data files");
    }

    #[test]
    fn file_layout_is_detected_from_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            layout(&path).map_err(|error| error.problem.to_string())
        };
        assert_eq!(of("a.jsonl", b"{}"), Ok(FileLayout::Lines));
        assert_eq!(of("a", b""), Ok(FileLayout::Lines));
        assert_eq!(of("a.bin", b"PAR1...."), Ok(FileLayout::Parquet));
        assert_eq!(of("a.CSV", b"a,b"), Ok(FileLayout::Cells { separator: b',' }));
        assert_eq!(of("a.jsonl.gz", b"\x1F\x8B\x08"), Err("the file is compressed".to_owned()));
        assert!(of("a.parquet", b"{}").unwrap_err().starts_with("not a parquet file"));
    }
}
