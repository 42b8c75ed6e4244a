//! Finds the files that a data source names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use mopd_plan::{DATA_ENDINGS as ENDINGS, is_file_pattern, nearest};
use mopd_store::regular;

use crate::compressed::{ending, text_of, without_gz};
use crate::error::{DataError, DataProblem};
use crate::patterns;

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
    /// One JSON list of objects.
    List,
    Parquet,
    /// Separated cells with a header line.
    Cells {
        separator: u8,
    },
}

/// Whether a path ends as a data file's name.
pub(crate) fn names_data(path: &Path) -> bool {
    ending(path).is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// The path of a file named in the source, as the author would write it: `sort.jsonl`, not `./sort.jsonl`.
pub fn path_as_written(base: &Path, name: &str) -> PathBuf {
    if base == Path::new(".") { PathBuf::from(name) } else { base.join(name) }
}

/// The files of `path`, sorted by name: the file itself, those that match its pattern, or those of a split of
/// a folder.
pub(crate) fn find(path: &Path, split: Option<&str>) -> Result<Vec<DataFile>, DataError> {
    let failed = |problem| DataError::of_file(path, problem);
    let paths = if path.is_dir() {
        of_folder(FileTree::Disk, path, split).map_err(failed)?
    } else {
        let is_pattern = !path.exists() && is_file_pattern(&path.to_string_lossy());
        // What does not exist is missing, whatever it was to be.
        if let Some(split) = split.filter(|_| is_pattern || path.exists()) {
            return Err(failed(DataProblem::NoSplits { split: split.to_owned() }));
        }
        if is_pattern { matching(path).map_err(failed)? } else { vec![path.to_owned()] }
    };
    with_layouts(paths)
}

pub(crate) fn with_layouts(paths: Vec<PathBuf>) -> Result<Vec<DataFile>, DataError> {
    paths.into_iter().map(|path| Ok(DataFile { layout: layout(&path)?, path })).collect()
}

/// The files among which those of a split are chosen.
#[derive(Clone, Copy)]
pub(crate) enum FileTree<'a> {
    Disk,
    /// The paths of a repository's files, as the hub lists them. Not all of them need to be here.
    Listed(&'a BTreeSet<PathBuf>),
}

impl FileTree<'_> {
    /// The files and folders in a folder, sorted, without hidden ones.
    fn entries(self, folder: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = match self {
            FileTree::Disk => {
                let entries = folder.read_dir().into_iter().flatten();
                entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
            }
            FileTree::Listed(files) => {
                let below = below(files, folder).filter_map(|file| file.strip_prefix(folder).ok());
                below.filter_map(|file| Some(folder.join(file.components().next()?))).collect()
            }
        };
        paths.retain(|path| !path.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
        paths.sort();
        paths.dedup();
        paths
    }

    fn is_file(self, path: &Path) -> bool {
        match self {
            FileTree::Disk => path.is_file(),
            FileTree::Listed(files) => files.contains(path),
        }
    }

    fn is_dir(self, path: &Path) -> bool {
        match self {
            FileTree::Disk => path.is_dir(),
            FileTree::Listed(files) => below(files, path).next().is_some(),
        }
    }
}

/// The files in a folder and in those below it. Paths are sorted by component, so they are neighbours.
fn below<'a>(files: &'a BTreeSet<PathBuf>, folder: &'a Path) -> impl Iterator<Item = &'a PathBuf> {
    let from = (Bound::Excluded(folder), Bound::Unbounded);
    files.range::<Path, _>(from).take_while(move |file| file.starts_with(folder))
}

fn matching(path: &Path) -> Result<Vec<PathBuf>, DataProblem> {
    let paths = patterns::matching(path, patterns::MOST_ENTRIES)?;
    if paths.is_empty() { Err(DataProblem::NoMatch) } else { Ok(paths) }
}

/// Words in file names that mean a split to `datasets`, which takes them as `train`, `validation` and `test`.
const SPLIT_WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// What a folder of data has.
#[derive(Debug, Default)]
struct DataFolder {
    /// Files by split.
    splits: BTreeMap<String, Vec<SplitFile>>,
    /// Folders with splits of their own, relative to this one.
    subsets: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct SplitFile {
    path: PathBuf,
    placement: Placement,
}

/// How a file's path says its split. Files that say it in two ways hold the same rows, most likely.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placement {
    folder: PathBuf,
    /// The number of parts, if the name has it: 2 of `train-00000-of-00002`.
    parts: Option<usize>,
    ending: Option<String>,
}

impl DataFolder {
    /// Reads the layout of `datasets` and of the hub: `data/train-00000-of-00002.parquet`, also without the
    /// folder or the numbers, or with a folder per split.
    fn read(tree: FileTree, root: &Path) -> DataFolder {
        let mut found = DataFolder::default();
        for folder in [root.to_owned(), root.join("data")] {
            for path in tree.entries(&folder) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if tree.is_dir(&path) && name != "data" {
                    let within = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                    found.add_folder(tree, &path, name, within);
                } else if is_data(tree, &path) {
                    found.add(split_of(&path).0, &path);
                }
            }
        }
        found
    }

    fn add(&mut self, split: String, path: &Path) {
        let placement = Placement {
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            parts: split_of(path).1,
            ending: ending(path),
        };
        self.splits.entry(split).or_default().push(SplitFile { path: path.to_owned(), placement });
    }

    /// A folder is a split, unless its files say that it has several, or another than it is named after.
    fn add_folder(&mut self, tree: FileTree, path: &Path, name: String, within: String) {
        let files: Vec<PathBuf> = tree.entries(path).into_iter().filter(|path| is_data(tree, path)).collect();
        let mut named: Vec<(String, Option<usize>)> = files.iter().map(|file| split_of(file)).collect();
        named.sort();
        named.dedup();
        let other =
            |(split, _): &(String, Option<usize>)| usual(split).is_some_and(|of| usual(&name) != Some(of));
        let numbered = named.iter().filter(|(_, parts)| parts.is_some()).count();
        if numbered > 1 || named.iter().any(other) {
            let mut splits: Vec<String> = named.into_iter().map(|(split, _)| split).collect();
            splits.dedup();
            self.subsets.insert(within, splits);
        } else if files.is_empty() {
            let inside = tree.entries(path).into_iter().filter(|inner| tree.is_dir(inner));
            let splits: Vec<String> = inside
                .filter(|inner| tree.entries(inner).iter().any(|path| is_data(tree, path)))
                .map(|inner| inner.file_name().unwrap_or_default().to_string_lossy().into_owned())
                .collect();
            if !splits.is_empty() {
                self.subsets.insert(within, splits);
            }
        } else {
            files.iter().for_each(|file| self.add(name.clone(), file));
        }
    }

    /// The split of this name, or else the files whose names contain it, as `datasets` reads them:
    /// `gsm_train.jsonl` is `train`.
    fn take(&mut self, wanted: &str) -> Option<Vec<SplitFile>> {
        if let Some(files) = self.splits.remove(wanted) {
            return Some(files);
        }
        // A name with numbers says its split exactly.
        let meant = |split: &str, files: &[SplitFile]| {
            usual(split) == Some(wanted) && !files.iter().any(|file| file.placement.parts.is_some())
        };
        let files = self.splits.iter_mut().filter(|(split, files)| meant(split, files));
        let files: Vec<SplitFile> = files.flat_map(|(_, files)| std::mem::take(files)).collect();
        if files.is_empty() { None } else { Some(files) }
    }
}

/// The files of a split of a folder.
pub(crate) fn of_folder(
    tree: FileTree,
    root: &Path,
    wanted: Option<&str>,
) -> Result<Vec<PathBuf>, DataProblem> {
    let mut folder = DataFolder::read(tree, root);
    let names: Vec<String> = folder.splits.keys().cloned().collect();
    let subsets = |wanted: Option<&str>, folder: DataFolder| DataProblem::Subsets {
        wanted: wanted.map(str::to_owned),
        subsets: folder.subsets.into_iter().collect(),
    };
    let wanted = match (wanted, names.as_slice()) {
        (_, []) if folder.subsets.is_empty() => return Err(DataProblem::NoData),
        (Some(wanted), _) => wanted,
        (None, [only]) if folder.subsets.is_empty() => only.as_str(),
        (None, []) => return Err(subsets(None, folder)),
        (None, _) => {
            let present = names.into_iter().chain(folder.subsets.into_keys()).collect();
            return Err(DataProblem::ManySplits { present });
        }
    };
    let Some(files) = folder.take(wanted) else {
        let meant = nearest(wanted, names.iter().map(String::as_str)).map(str::to_owned);
        if folder.subsets.contains_key(wanted) || (meant.is_none() && !folder.subsets.is_empty()) {
            return Err(subsets(Some(wanted), folder));
        }
        return Err(DataProblem::NoSuchSplit { split: wanted.to_owned(), meant, present: names });
    };
    if let Some(other) = files.iter().find(|file| file.placement != files[0].placement) {
        let name =
            |file: &SplitFile| file.path.strip_prefix(root).unwrap_or(&file.path).display().to_string();
        return Err(DataProblem::TwoLayouts {
            split: wanted.to_owned(),
            files: [&files[0], other].map(name),
        });
    }
    if let Some(parts) = files[0].placement.parts.filter(|parts| *parts > files.len()) {
        return Err(DataProblem::PartsMissing { split: wanted.to_owned(), here: files.len(), parts });
    }
    let mut paths: Vec<PathBuf> = files.into_iter().map(|file| file.path).collect();
    paths.sort();
    Ok(paths)
}

fn is_data(tree: FileTree, path: &Path) -> bool {
    // Files of metadata in a saved dataset.
    const FACTS: [&str; 3] = ["dataset_info.json", "dataset_infos.json", "state.json"];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    tree.is_file(path) && names_data(path) && !FACTS.contains(&&*name)
}

/// The split that a file's name says, and the number of its parts in numbered form: `train` and 2 of
/// `train-00000-of-00002`, also with a hash behind it, as the hub once wrote them.
fn split_of(path: &Path) -> (String, Option<usize>) {
    let plain = without_gz(path);
    let stem = plain.file_stem().unwrap_or_default().to_string_lossy();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_hash = |text: &str| text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let numbered = || {
        let (before, count) = stem.rsplit_once("-of-")?;
        let (split, part) = before.rsplit_once('-')?;
        let count = match count.split_once('-') {
            Some((count, hash)) if is_hash(hash) => count,
            _ => count,
        };
        Some((split.to_owned(), count.parse().ok().filter(|_| is_number(part) && is_number(count))?))
    };
    match numbered() {
        Some((split, parts)) => (split, Some(parts)),
        None => (stem.into_owned(), None),
    }
}

/// The split that a name means to `datasets` by a word in it. `None` if it has words of no split or of two.
fn usual(name: &str) -> Option<&'static str> {
    // The separators of `datasets`.
    let separates = |character: char| "-._ ".contains(character) || character.is_ascii_digit();
    let mut words = name.split(separates);
    let of =
        |word: &str| SPLIT_WORDS.iter().find(|(_, words)| words.contains(&word)).map(|(split, _)| *split);
    let first = words.find_map(of)?;
    words.filter_map(of).all(|other| other == first).then_some(first)
}

fn layout(path: &Path) -> Result<FileLayout, DataError> {
    let of_file = |problem| DataError::of_file(path, problem);
    let failed = |error: &std::io::Error| of_file(DataProblem::unreadable(path, error));
    let begins = |mut file: Box<dyn Read>| {
        let mut bytes = [0; 64];
        let mut length = 0;
        // A decoder may return less than there is.
        while let Ok(count @ 1..) = file.read(&mut bytes[length..]) {
            length += count;
        }
        bytes[..length].to_vec()
    };
    let file = regular::open(path).map_err(|error| failed(&error))?;
    let magic = begins(Box::new(file));
    Ok(match (magic.as_slice(), ending(path).as_deref()) {
        ([b'P', b'A', b'R', b'1', ..], _) => FileLayout::Parquet,
        (_, Some("parquet")) => {
            return Err(of_file(DataProblem::NotParquet { cause: "it does not begin with PAR1".to_owned() }));
        }
        // zstd, zip, xz and bzip2.
        (
            [0x28, 0xB5, 0x2F, 0xFD, ..]
            | [b'P', b'K', 3, 4, ..]
            | [0xFD, b'7', b'z', b'X', ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', ..],
            _,
        ) => return Err(of_file(DataProblem::Compressed)),
        (_, Some("csv")) => FileLayout::Cells { separator: b',' },
        (_, Some("tsv")) => FileLayout::Cells { separator: b'\t' },
        _ => {
            let text = begins(text_of(path).map_err(|error| failed(&error))?);
            let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&text);
            match text.trim_ascii_start().first() {
                Some(b'[') => FileLayout::List,
                _ => FileLayout::Lines,
            }
        }
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
        // What is not there has neither splits nor none.
        assert_eq!(found(&folder, "gsm8k", Some("train")).unwrap_err().0, "there is no such file");
    }

    #[test]
    fn a_folder_of_one_split_needs_no_name() {
        let folder = folder(&["train-0-of-1.parquet"]);
        assert_eq!(found(&folder, "", None).unwrap(), ["train-0-of-1.parquet"]);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(found(&empty, "", None).unwrap_err().0, "the folder has no data files");
    }

    /// The layout of gsm8k on the hub: each folder has rows to train on and rows to test with.
    #[test]
    fn a_folder_with_several_splits_is_a_subset() {
        let folder = folder(&[
            "main/train-00000-of-00001.parquet",
            "main/test-00000-of-00001.parquet",
            "socratic/train-00000-of-00001.parquet",
            "socratic/test-00000-of-00001.parquet",
            "nested/train/0.parquet",
            "README.md",
        ]);
        for wanted in [Some("main"), Some("train"), None] {
            let (problem, help) = found(&folder, "", wanted).unwrap_err();
            let named = match wanted {
                Some("main") => "`main` is a subset with the splits `test`, `train`",
                Some(_) => {
                    "there is no split `train`; the folder has the subsets `main`, `nested`, `socratic`"
                }
                None => "the folder has the subsets `main`, `nested`, `socratic`",
            };
            assert_eq!(problem, named);
            let path = folder.path().join("main");
            let split = if wanted == Some("train") { "train" } else { "test" };
            assert_eq!(help, format!("name its folder: dataset(\"{}\", split: \"{split}\")", path.display()));
        }
        assert_eq!(found(&folder, "main", Some("train")).unwrap(), ["main/train-00000-of-00001.parquet"]);
        assert_eq!(found(&folder, "nested", Some("train")).unwrap(), ["nested/train/0.parquet"]);
        // A folder that is named after its split is one, unless its files say otherwise.
        let named = self::folder(&["train/train-0-of-1.parquet", "test/a.jsonl", "dev/train.csv"]);
        assert_eq!(found(&named, "", Some("train")).unwrap(), ["train/train-0-of-1.parquet"]);
        assert_eq!(found(&named, "", Some("test")).unwrap(), ["test/a.jsonl"]);
        assert!(found(&named, "", Some("dev")).unwrap_err().0.starts_with("`dev` is a subset"));
    }

    #[test]
    fn rows_of_a_split_are_read_once() {
        for (names, wanted) in [
            (
                ["data/train-00000-of-00001.parquet", "train.jsonl"],
                ["data/train-00000-of-00001.parquet", "train.jsonl"],
            ),
            (
                ["data/train-00000-of-00001.parquet", "data/train.jsonl"],
                ["data/train-00000-of-00001.parquet", "data/train.jsonl"],
            ),
            (["data/train.jsonl", "train.jsonl"], ["data/train.jsonl", "train.jsonl"]),
            (["train.csv", "train.jsonl"], ["train.csv", "train.jsonl"]),
            (["train/a.jsonl", "train.jsonl"], ["train/a.jsonl", "train.jsonl"]),
        ] {
            let folder = folder(&names);
            let (problem, help) = found(&folder, "", Some("train")).unwrap_err();
            assert!(problem.starts_with("the split `train` has files of two layouts: `"), "{problem}");
            assert!(wanted.iter().all(|name| problem.contains(&format!("`{name}`"))), "{problem}");
            assert!(help.contains("name the files"), "{help}");
        }
        let hashed =
            ["0", "1"].map(|part| format!("data/train-0000{part}-of-00002-a09b74b3ef9c3b56.parquet"));
        let folder = folder(&[hashed[0].as_str(), hashed[1].as_str()]);
        assert_eq!(found(&folder, "", Some("train")).unwrap(), hashed);
    }

    #[test]
    fn a_word_in_a_name_means_a_split() {
        let folder = folder(&["gsm_train.jsonl", "gsm_test.jsonl", "dev.jsonl", "train_test.csv"]);
        assert_eq!(found(&folder, "", Some("train")).unwrap(), ["gsm_train.jsonl"]);
        assert_eq!(found(&folder, "", Some("gsm_train")).unwrap(), ["gsm_train.jsonl"]);
        assert_eq!(found(&folder, "", Some("test")).unwrap(), ["gsm_test.jsonl"]);
        for name in ["dev", "validation"] {
            assert_eq!(found(&folder, "", Some(name)).unwrap(), ["dev.jsonl"]);
        }
        assert_eq!(usual("latest"), None);
        let several = self::folder(&["data/train_sft-0-of-1.parquet", "data/train_gen-0-of-1.parquet"]);
        let (problem, _) = found(&several, "", Some("train")).unwrap_err();
        assert_eq!(problem, "there is no split `train`; found `train_gen`, `train_sft`");
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
        assert_eq!(of("a.json", b"\xEF\xBB\xBF\n [{}]"), Ok(FileLayout::List));
        let gzip = |text: &[u8]| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut packed, text).unwrap();
            packed.finish().unwrap()
        };
        assert_eq!(of("a.jsonl.gz", &gzip(b"{}")), Ok(FileLayout::Lines));
        assert_eq!(of("a.csv.GZ", &gzip(b"a,b")), Ok(FileLayout::Cells { separator: b',' }));
        assert_eq!(of("a.gz", &gzip(b"[{}]")), Ok(FileLayout::List));
        for magic in [b"BZh9", b"\xFD7zX", b"\x28\xB5\x2F\xFD"] {
            assert_eq!(of("a.jsonl.packed", magic), Err("the file is compressed".to_owned()));
        }
        assert!(of("a.parquet", b"{}").unwrap_err().starts_with("not a parquet file"));
    }
}
