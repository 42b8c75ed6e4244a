//! Finds the files that a reward command consists of: files named in the command, source files in the folders
//! of its scripts, and files declared by `depends`. An edited verifier is another verifier, even if the edit
//! is in a module that it imports. Dependencies that can't be hashed are described in warnings.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use crate::content::HashedFile;
use crate::files::reason;
use crate::places::Checkout;
use crate::regular;

/// What a program reads and nobody has named.
const OPENED: &str = "other files that it opens";
/// Endings of source files. Data is not included: files that a program reads besides its sources are declared
/// by `depends`.
pub const ENDINGS: [&str; 26] = [
    "py", "pyi", "pyx", "sh", "bash", "zsh", "pl", "pm", "rb", "lua", "js", "mjs", "cjs", "ts", "r", "jl",
    "c", "h", "cc", "cpp", "hpp", "rs", "go", "java", "scala", "php",
];
/// Python's compiled copies of sources. Python writes them while a program runs, so they never count.
const BYTECODE: &str = "__pycache__";
/// Folders of generated or installed files. A search for sources skips them, and names that begin with a dot.
const SKIPPED: [&str; 3] = ["node_modules", "site-packages", "venv"];
/// Files and folders that are visited at most.
const ENTRIES_AT_MOST: usize = 20_000;
/// How many levels of folders a search for sources visits.
const FOLDERS_DEEP: usize = 12;

/// The purpose of a walk over a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WalkScope {
    /// Source files that a program may import.
    Sources,
    /// All files of a folder that `depends` names: the user says that they matter.
    Declared,
}

impl WalkScope {
    /// Most files, and most bytes. A folder with more is not a folder of sources; and a declared one would
    /// be read by every run.
    fn limits(self) -> (usize, u64) {
        match self {
            WalkScope::Sources => (1000, 32 << 20),
            WalkScope::Declared => (ENTRIES_AT_MOST, 1 << 30),
        }
    }

    fn skips(self, name: &str) -> bool {
        name == BYTECODE || self == WalkScope::Sources && (name.starts_with('.') || SKIPPED.contains(&name))
    }

    fn wants(self, path: &Path) -> bool {
        self == WalkScope::Declared || ending(path).is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
    }
}

/// What is found in a folder, in order, with names relative to it.
#[derive(Debug, Default)]
struct WalkedFolder {
    files: Vec<(String, PathBuf)>,
    /// Links to folders whose files are listed under another name or contain this folder, with their targets.
    links: Vec<(String, PathBuf)>,
}

/// The files of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandSources {
    /// The command, in which absolute paths of its checkout are relative to the experiment's folder.
    located: String,
    /// Every hashed file, with its path.
    pub hashed: BTreeSet<HashedFile>,
    /// A name of each that does not depend on where the experiment lies, and the BLAKE3 hash of its content.
    files: BTreeSet<(String, String)>,
    /// Descriptions of dependencies that may change its rewards and could not be hashed.
    pub unseen: Vec<String>,
}

/// A path in `depends` that can't be hashed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`depends` names {}, which can't be read: {why}", path.display())]
pub struct UnreadableDependency {
    pub path: PathBuf,
    pub why: String,
}

impl CommandSources {
    /// `base` is the folder that the command runs in.
    ///
    /// # Errors
    /// If a path of `depends` does not exist or can't be read.
    pub fn find(
        command: &str,
        depends: &[String],
        base: &Path,
    ) -> Result<CommandSources, UnreadableDependency> {
        let checkout = Checkout::new(base);
        let mut program = CommandSources { located: checkout.located(command), ..CommandSources::default() };
        let mut scripts = BTreeSet::new();
        for (folder, named) in named(command, base) {
            match named {
                Named::File(word) => program.named(&folder, &word, &checkout, &mut scripts),
                Named::Module(module) => program.module(&folder, &module, &mut scripts),
                Named::Computed(word) => {
                    program.unseen.push(format!("files that the shell substitutes for `{word}`"))
                }
            }
        }
        for folder in scripts {
            program.sources(&folder, base, &checkout);
        }
        for path in depends {
            program.depends(path, base, &checkout)?;
        }
        program.unseen.extend(
            ["environment variables", "installed packages", "the network", OPENED].map(str::to_owned),
        );
        Ok(program)
    }

    /// The same for a function of Python: what Python itself opens is recorded as it runs.
    #[must_use]
    pub fn of_function(mut self) -> CommandSources {
        self.unseen.pop_if(|last| last == OPENED);
        self.unseen.push("files that it opens otherwise than with Python's `open`".to_owned());
        self
    }

    /// The hash of the command and of all files, in hexadecimal. It does not depend on where the experiment
    /// lies.
    pub fn hash(&self) -> String {
        let text = serde_json::to_string(&(&self.located, &self.files));
        blake3::hash(text.expect("texts are plain data").as_bytes()).to_hex().to_string()
    }

    /// Every hashed file: its name, which does not depend on where the experiment lies, and the BLAKE3 hash
    /// of its content.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, hash)| (name.as_str(), hash.as_str()))
    }

    /// The names of all hashed files.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.files().map(|(name, _)| name)
    }

    fn add(&mut self, name: String, file: HashedFile) {
        self.files.insert((name, file.hash.clone()));
        self.hashed.insert(file);
    }

    /// Adds the files of a word of the command. Most words name no file.
    fn named(&mut self, folder: &Path, word: &str, checkout: &Checkout, scripts: &mut BTreeSet<PathBuf>) {
        let path = folder.join(word);
        if path.is_dir() {
            return self.folder(&path, word, checkout, scripts);
        }
        let Ok(file) = HashedFile::hash(&path, u64::MAX) else { return };
        if is_script(&path)
            && let Some(parent) = path.parent()
            && !is_installed(parent)
        {
            scripts.insert(parent.to_owned());
        }
        self.add(checkout.name(word), file);
    }

    /// Adds a folder in the command: `python3 judge/`, `PYTHONPATH=lib`, `--rules=rules/`.
    fn folder(&mut self, path: &Path, word: &str, checkout: &Checkout, scripts: &mut BTreeSet<PathBuf>) {
        let outermost = fs::canonicalize(path).is_ok_and(|real| real.parent().is_none());
        // `/` and `/tmp` occur in many commands and contain unrelated files.
        if !outermost && !Path::new(&checkout.name(word)).is_absolute() {
            scripts.insert(path.to_owned());
        }
        self.unseen.push(format!(
            "files of the folder `{word}` besides sources: name those that matter with `depends`"
        ));
    }

    /// Adds the module of `python -m a.b`.
    fn module(&mut self, folder: &Path, module: &str, scripts: &mut BTreeSet<PathBuf>) {
        let path = folder.join(module.replace('.', "/"));
        // Python searches its imports in the folder of its top-level package.
        if path.is_dir() || path.with_extension("py").is_file() {
            scripts.insert(folder.to_owned());
        } else {
            self.unseen.push(format!("the installed module `{module}`"));
        }
    }

    /// Adds all source files of a script's folder and its subfolders, unless there are too many.
    fn sources(&mut self, folder: &Path, base: &Path, checkout: &Checkout) {
        let shown = folder.strip_prefix(base).ok().filter(|path| *path != Path::new(""));
        let shown = shown.map_or_else(|| "the script's folder".to_owned(), |path| path.display().to_string());
        let scope = WalkScope::Sources;
        match walk(folder, scope).and_then(|found| hashed(&found.files, scope)) {
            Ok(files) => {
                for (name, file) in files {
                    // In the checkout, the name is the path from `base`; elsewhere, that from `folder`.
                    let name = checkout.relative(&file.path).unwrap_or(name);
                    self.add(name, file);
                }
            }
            Err(why) => self
                .unseen
                .push(format!("other files of {shown} ({why}): name those that matter with `depends`")),
        }
    }

    fn depends(
        &mut self,
        written: &str,
        base: &Path,
        checkout: &Checkout,
    ) -> Result<(), UnreadableDependency> {
        let (path, shown) = (base.join(written), checkout.name(written));
        let unreadable = |why: String| UnreadableDependency { path: path.clone(), why };
        if path.is_dir() {
            let scope = WalkScope::Declared;
            let too_many = |why: String| unreadable(format!("{why}; name the files or folders that matter"));
            let WalkedFolder { files, links } = walk(&path, scope).map_err(too_many)?;
            let within = |name: &str| format!("{}/{name}", shown.trim_end_matches('/'));
            for (name, file) in hashed(&files, scope).map_err(too_many)? {
                self.add(within(&name), file);
            }
            for (name, target) in links {
                let hash = blake3::hash(format!("link to {}", target.display()).as_bytes());
                self.files.insert((within(&name), hash.to_hex().to_string()));
            }
            return Ok(());
        }
        let file = HashedFile::hash(&path, u64::MAX).map_err(|error| unreadable(reason(&error)))?;
        self.add(shown, file);
        Ok(())
    }
}

/// The Python interpreter for functions and installers: the one beside this program, which installed mopd, if
/// there is one; else the one on the PATH.
pub fn python() -> String {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("python3")));
    match beside.filter(|python| python.is_file()) {
        Some(python) => python.display().to_string(),
        None => "python3".to_owned(),
    }
}

enum Named {
    File(String),
    Module(String),
    /// A word that the shell computes, with unknown result.
    Computed(String),
}

/// Words of a command that may name files, with the folder that each is relative to. Words that a shell would
/// compute, such as `$DIR/judge.py`, are unknown.
fn named(command: &str, base: &Path) -> Vec<(PathBuf, Named)> {
    let mut found = Vec::new();
    let mut folder = base.to_owned();
    let computed = |word: &str| word.contains(['$', '`', '*', '?']) || word.starts_with('~');
    for part in parts(command) {
        if let [first, to, ..] = part.as_slice()
            && first == "cd"
        {
            folder = folder.join(to);
            continue;
        }
        for (index, word) in part.iter().enumerate() {
            // `bash -c "python3 judge.py"`
            if word.contains(char::is_whitespace) {
                found.extend(named(word, &folder));
            } else if computed(word) {
                found.push((folder.clone(), Named::Computed(word.clone())));
            }
            if index > 0 && part[index - 1] == "-m" {
                found.push((folder.clone(), Named::Module(word.clone())));
            }
            // `--rules=rules.json`, `RULES=rules.json`
            for word in std::iter::once(word.as_str()).chain(word.split_once('=').map(|(_, value)| value)) {
                if !word.is_empty() {
                    found.push((folder.clone(), Named::File(word.to_owned())));
                }
            }
        }
    }
    found
}

/// Splits a command line at `&&`, `;`, `|` and similar operators, and each part into words.
fn parts(command: &str) -> Vec<Vec<String>> {
    let (mut parts, mut words, mut word, mut quote) = (Vec::new(), Vec::new(), String::new(), None);
    let end = |word: &mut String, words: &mut Vec<String>| {
        if !word.is_empty() {
            words.push(std::mem::take(word));
        }
    };
    for c in command.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.push(c),
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => end(&mut word, &mut words),
            ('&' | ';' | '|' | '(' | ')' | '<' | '>', None) => {
                end(&mut word, &mut words);
                parts.push(std::mem::take(&mut words));
            }
            (c, None) => word.push(c),
        }
    }
    end(&mut word, &mut words);
    parts.push(words);
    parts.retain(|words| !words.is_empty());
    parts
}

/// Whether a file is a script, by its ending or its first two bytes.
fn is_script(path: &Path) -> bool {
    if ending(path).is_some_and(|ending| ENDINGS.contains(&ending.as_str())) {
        return true;
    }
    let mut first = [0; 2];
    regular::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok_and(|()| first == *b"#!")
}

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// Whether a folder is on the PATH.
fn is_installed(folder: &Path) -> bool {
    let searched = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&searched).any(|known| known == folder)
}

/// The path of a file relative to a folder, with `/` on every system.
fn name_within(path: &Path, folder: &Path) -> Option<String> {
    let parts = path.strip_prefix(folder).ok()?.components();
    let part = |part: Component| part.as_os_str().to_string_lossy().into_owned();
    Some(parts.map(part).collect::<Vec<_>>().join("/"))
}

/// The files below a folder. Links to files count as files; links to folders are followed unless they lead to
/// a visited folder or to a parent of this one.
fn walk(root: &Path, scope: WalkScope) -> Result<WalkedFolder, String> {
    let unreadable = |path: &Path, error: &std::io::Error| format!("{}: {}", path.display(), reason(error));
    let real_root = fs::canonicalize(root).map_err(|error| unreadable(root, &error))?;
    let mut seen = BTreeSet::from([real_root.clone()]);
    let (mut found, mut folders, mut entries) = (WalkedFolder::default(), vec![(root.to_owned(), 0)], 0);
    let (most_files, _) = scope.limits();
    while let Some((folder, depth)) = folders.pop() {
        let listed: Result<Vec<_>, _> = fs::read_dir(&folder).and_then(Iterator::collect);
        let mut listed = listed.map_err(|error| unreadable(&folder, &error))?;
        // If two links lead to the same folder, the first by name counts, for any order in which the system
        // lists them.
        listed.sort_by_key(fs::DirEntry::file_name);
        for entry in listed {
            let path = entry.path();
            entries += 1;
            if entries > ENTRIES_AT_MOST {
                return Err(format!("more than {ENTRIES_AT_MOST} files and folders"));
            }
            if scope.skips(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let found_there = match fs::metadata(&path) {
                Ok(found_there) => found_there,
                // Programs can't read a broken link.
                Err(error) if scope == WalkScope::Sources || error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(&path, &error)),
            };
            let name = name_within(&path, root).ok_or("a file in another folder")?;
            if found_there.is_dir() {
                if scope == WalkScope::Sources && depth >= FOLDERS_DEEP {
                    continue;
                }
                let real = match fs::canonicalize(&path) {
                    Ok(real) => real,
                    Err(_) if scope == WalkScope::Sources => continue,
                    Err(error) => return Err(unreadable(&path, &error)),
                };
                if !real_root.starts_with(&real) && seen.insert(real) {
                    folders.push((path, depth + 1));
                } else if let Ok(target) = fs::read_link(&path) {
                    found.links.push((name, target));
                }
            } else if found_there.is_file() && scope.wants(&path) {
                found.files.push((name, path));
                if found.files.len() > most_files {
                    return Err(format!("more than {most_files} files"));
                }
            }
        }
    }
    found.files.sort();
    Ok(found)
}

fn hashed(files: &[(String, PathBuf)], scope: WalkScope) -> Result<Vec<(String, HashedFile)>, String> {
    let (_, most) = scope.limits();
    let mut left = most;
    let mut hashes = Vec::new();
    for (name, path) in files {
        let length = fs::metadata(path).map_or(0, |found| found.len());
        left = left.checked_sub(length).ok_or_else(|| format!("more than {} MiB", most >> 20))?;
        let file = HashedFile::hash(path, most).map_err(|error| format!("{name}: {}", reason(&error)))?;
        hashes.push((name.clone(), file));
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests;
