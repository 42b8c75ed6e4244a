//! The only place that reads and writes source files: the entry, its sibling modules and the standard
//! library.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mopd_lang::Analysis;
use mopd_lang::check::{Auditor, analyse_audited};
use mopd_lang::diag::nearest;
use mopd_lang::experiment::Experiment;
use mopd_lang::source::{SourceFile, Span};
pub use mopd_store::files::reason;

use crate::paths;
use crate::problem::Problem;

/// Reads and checks a file with everything that it imports. `overrides` are the `--set` values. `std.opd`
/// stands for a module of the standard library, where no file is called so.
pub fn analyse_file(path: &Path, overrides: &[(String, String)]) -> Result<Analysis, Problem> {
    analyse_noting(path, overrides, &mut |_| ())
}

/// The same; `note` is told every file that was looked for, also those that are not there.
pub fn analyse_noting(
    path: &Path,
    overrides: &[(String, String)],
    note: &mut dyn FnMut(&Path),
) -> Result<Analysis, Problem> {
    note(path);
    analyse_entry(entry(path)?, path, overrides, note, &mopd_compiler::audit::diagnostics)
}

/// The same with the paths of the experiment that lead to nothing.
pub fn check_file(path: &Path) -> Result<Analysis, Problem> {
    let folder = folder_of(path);
    let audit = |experiment: &Experiment, origins: &[Span]| {
        let mut found = mopd_compiler::audit::diagnostics(experiment, origins);
        found.extend(paths::missing(experiment, origins, &folder));
        found
    };
    analyse_entry(entry(path)?, path, &[], &mut |_| {}, &audit)
}

/// A text as if it stood in a file.
pub fn analyse_text(path: &Path, text: &str) -> Result<Analysis, Problem> {
    let entry = SourceFile { path: path.display().to_string(), text: text.to_owned() };
    analyse_entry(entry, path, &[], &mut |_| {}, &mopd_compiler::audit::diagnostics)
}

/// Whether a path names a module of the standard library, `std.opd`.
pub fn is_standard(path: &Path) -> bool {
    module_name(path).is_some()
}

/// Whether a path stands for standard input: the text there is one of the working folder.
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

static STANDARD_INPUT: OnceLock<Result<String, Problem>> = OnceLock::new();

/// The text on standard input. It is read once, however often it is asked for.
pub fn standard_input() -> Result<String, Problem> {
    let read = || {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(|error| {
            Problem::usage("unreadable-file", format!("can't read standard input: {}", reason(&error)))
        })?;
        decode("standard input", bytes)
    };
    STANDARD_INPUT.get_or_init(read).clone()
}

/// A part of a text that a command wrote itself, and the words of the command line that it stands for.
pub struct WrittenPart {
    pub bytes: Range<usize>,
    pub words: String,
}

static WRITTEN: OnceLock<Vec<WrittenPart>> = OnceLock::new();

/// A text that a command wrote itself, in the place of what is on standard input. Nobody has it before their
/// eyes: what is wrong with a part of it is said of the words that `parts` names.
pub fn set_standard_input(text: String, parts: Vec<WrittenPart>) {
    // Nothing was read before a command began.
    let _ = STANDARD_INPUT.set(Ok(text));
    let _ = WRITTEN.set(parts);
}

/// The words of the command line that a place of a text stands for, where a command wrote that text: none of
/// them where it stands for none. What has the code `reward` is wrong with `--reward`, wherever it was asked
/// for.
pub fn words_of(path: &str, start: usize, code: &str) -> Option<Option<&'static str>> {
    let written = WRITTEN.get().filter(|_| is_standard_input(Path::new(path)))?;
    let option = format!("--{code} ");
    let named = written.iter().find(|part| part.words.starts_with(&option));
    let part = named.or_else(|| written.iter().find(|part| part.bytes.contains(&start)));
    Some(part.map(|part| part.words.as_str()))
}

fn entry(path: &Path) -> Result<SourceFile, Problem> {
    match module_name(path) {
        Some(name) => standard(&["std", &name]).ok_or_else(|| no_module(&name)),
        None if is_standard_input(path) => {
            Ok(SourceFile { path: path.display().to_string(), text: standard_input()? })
        }
        None => read(path),
    }
}

fn analyse_entry(
    entry: SourceFile,
    path: &Path,
    overrides: &[(String, String)],
    note: &mut dyn FnMut(&Path),
    audit: Auditor,
) -> Result<Analysis, Problem> {
    let note = RefCell::new(note);
    // A module that is there but can't be read must not be reported as a module that does not exist.
    let unreadable = RefCell::new(None);
    let load = |name: &[&str]| -> Option<SourceFile> {
        let Some(file) = sibling(path, name) else { return standard(name) };
        (note.borrow_mut())(&file);
        if !file.exists() {
            return None;
        }
        match read(&file) {
            Ok(source) => Some(source),
            Err(problem) => {
                unreadable.borrow_mut().get_or_insert(problem);
                None
            }
        }
    };
    let analysis = analyse_audited(entry, &load, overrides, audit);
    match unreadable.into_inner() {
        Some(problem) => Err(problem),
        None => Ok(analysis),
    }
}

/// `opd` of `std.opd`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.to_str()?.strip_prefix("std.")?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !path.exists()).then(|| name.to_owned())
}

fn no_module(name: &str) -> Problem {
    let problem =
        Problem::usage("unknown-module", format!("the standard library has no module `std.{name}`"));
    match nearest(name, mopd_std::MODULES.iter().map(|(module, _)| *module)) {
        Some(meant) => problem.help(format!("did you mean `std.{meant}`?")),
        None => problem.help("the book's page on the standard library lists them"),
    }
}

/// A module of the standard library.
pub fn standard(name: &[&str]) -> Option<SourceFile> {
    mopd_std::source(name).map(|(path, text)| SourceFile { path, text })
}

/// Where the module `name` of a file lies: next to it. None for the standard library.
pub fn sibling(path: &Path, name: &[&str]) -> Option<PathBuf> {
    if name.first() == Some(&"std") {
        return None;
    }
    let mut file = path.with_file_name("");
    file.extend(name);
    file.set_extension("mopd");
    Some(file)
}

/// The modules that a file can import from its own folder, in alphabetical order.
pub fn modules_beside(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder_of(path)) else { return Vec::new() };
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_module = |file: &PathBuf| {
        file.extension().is_some_and(|ending| ending == "mopd")
            && file.file_stem().and_then(|name| name.to_str()).is_some_and(is_name)
    };
    let mut found: Vec<PathBuf> = files.filter(|file| is_module(file) && file != path).collect();
    found.sort();
    found
}

/// Files of mopd below a folder, the nearest first, up to so many. Hidden folders, such as a run's store, are
/// passed over, and so are the copies of sources in the folders of runs, links to folders and what can't be
/// read.
pub fn sources_below(folder: &Path, at_most: usize) -> Vec<PathBuf> {
    const FOLDERS_AT_MOST: usize = 20_000;
    let mut found = Vec::new();
    let mut folders = std::collections::VecDeque::from([folder.to_owned()]);
    let mut seen = 0;
    while let Some(folder) = folders.pop_front()
        && found.len() < at_most
        && seen < FOLDERS_AT_MOST
    {
        seen += 1;
        let of_run = is_run_folder(&folder);
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if of_run && is_archived(&entry.file_name()) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.extend((!entry.file_name().to_string_lossy().starts_with('.')).then_some(path));
            } else if is_source(&path) && path.is_file() {
                found.push(path);
            }
        }
    }
    found.truncate(at_most);
    found
}

/// Whether a file's name is that of a source. Event files of TensorBoard end alike.
pub fn is_source(path: &Path) -> bool {
    let of_events =
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"events.out.tfevents."));
    path.extension().is_some_and(|ending| ending == "mopd") && !of_events
}

/// Whether a folder is what a run or a sweep left: the sources in it are copies of what was run, which nobody
/// edits.
pub fn is_run_folder(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has("source.mopd") && (has("plan.json") || has("sweep.json"))
}

/// Whether an entry of a run's folder belongs to the copies of its sources. Anything else may be the
/// author's, who may have chosen the project's own folder for results.
pub fn is_archived(name: &std::ffi::OsStr) -> bool {
    ["source.mopd", "modules", "previous", "previous.part", "next.part"].iter().any(|known| name == *known)
}

/// The folder that a file's data and sibling modules are relative to.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file as text.
pub fn read(path: &Path) -> Result<SourceFile, Problem> {
    let text = read_text(path)?;
    // Some editors put a byte order mark first; it is no part of the text.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok(SourceFile { path: path.display().to_string(), text })
}

/// A file as it is, if it is text.
pub fn read_text(path: &Path) -> Result<String, Problem> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        let problem = Problem::usage("unreadable-file", format!("can't read {shown}: {}", reason(&error)));
        if path.is_dir() { problem.help("name a .mopd file, not its folder") } else { problem }
    })?;
    decode(&shown.to_string(), bytes)
}

/// Bytes as text; `shown` names where they come from.
pub fn decode(shown: &str, bytes: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem::usage(
            "not-text",
            format!("{shown} is not UTF-8 text: line {line} holds bytes that are no character"),
        )
        .help("save the file as UTF-8")
    })
}

/// Puts a text in a file's place. Whoever reads the file meanwhile, or after a crash, finds the old text or
/// the new one, whole.
pub fn replace(path: &Path, text: &str) -> Result<(), Problem> {
    let write = || {
        // A link goes on pointing to the file that it points to.
        let path = path.canonicalize()?;
        let permissions = std::fs::metadata(&path)?.permissions();
        if permissions.readonly() {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = std::fs::File::create_new(&beside).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.set_permissions(permissions)?;
            file.sync_all()
        });
        let moved = written.and_then(|()| std::fs::rename(&beside, &path));
        if moved.is_err() {
            // What is left of it is nobody's; if it can't be removed either, the first error says more.
            let _ = std::fs::remove_file(&beside);
        }
        moved
    };
    write().map_err(|error| Problem::unwritten(path, &error))
}

/// A path as the plan and the worker take it.
///
/// # Errors
/// A path that is not UTF-8.
pub fn as_text(path: &Path) -> Result<String, Problem> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Problem::usage("not-text", format!("the path {} is not UTF-8 text", path.display())))
}

/// Where relative paths of a job begin that has no experiment.
///
/// # Errors
/// A folder that is gone, or whose path is not UTF-8.
pub fn current_folder() -> Result<String, Problem> {
    let here = std::env::current_dir()
        .map_err(|error| Problem::usage("no-folder", format!("the current folder is gone: {error}")))?;
    as_text(&here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_relative_to_the_file() {
        assert_eq!(folder_of(Path::new("a/b.mopd")), Path::new("a"));
        assert_eq!(folder_of(Path::new("b.mopd")), Path::new("."));
    }
}
