//! The only module that reads and writes source files: the entry file, its sibling modules and the standard
//! library.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mopd_experiment::Experiment;
use mopd_lang::Analysis;
use mopd_lang::check::{Auditor, Loader, SweptValue, analyse_audited, analyse_run, analyse_runs};
use mopd_lang::diag::{Diagnostic, Severity, nearest};
use mopd_lang::source::{MOST_BYTES, SourceFile, Span, TOO_LONG_HELP};
use mopd_plan::Plan;
pub use mopd_store::files::reason;
use mopd_store::regular;

use crate::compile::plan_of;
use crate::paths;
use crate::problem::Problem;
use crate::standalone;

/// Reads a file and all its imports, and checks the run with its own values and `overrides`, those of
/// `--set`. `std.opd` means a module of the standard library, unless a file has that name.
pub fn analyse_file(path: &Path, overrides: &[(String, String)]) -> Result<Analysis, Problem> {
    analyse_with(path, overrides, AUDIT)
}

/// [`analyse_file`] with another auditor.
pub fn analyse_with(
    path: &Path,
    overrides: &[(String, String)],
    audit: Auditor,
) -> Result<Analysis, Problem> {
    let entry = entry(path)?;
    loading(path, &mut |_| (), &|load| analyse_run(entry.clone(), load, overrides, audit))
}

/// Reads a file and all its imports, and checks every run of its sweep: `each` gets the analysis of a run and
/// returns its diagnostics. `note` is called with every file that was looked for, also with missing ones.
pub fn analyse_every_run(
    path: &Path,
    overrides: &[(String, String)],
    note: &mut dyn FnMut(&Path),
    each: &mut dyn FnMut(&[SweptValue], Analysis) -> Vec<Diagnostic>,
) -> Result<Vec<Diagnostic>, Problem> {
    note(path);
    let entry = entry(path)?;
    let each = RefCell::new(each);
    loading(path, note, &|load| {
        analyse_runs(entry.clone(), load, overrides, Some(AUDIT), &mut |swept, analysis| {
            (each.borrow_mut())(swept, analysis)
        })
    })
}

/// The analysis of a file in all its runs, with the values of `--set`, and the plan of the first that has
/// one. Reports also what a plan can't express, and paths that do not exist.
pub fn check_file(path: &Path, overrides: &[(String, String)]) -> Result<(Analysis, Option<Plan>), Problem> {
    let folder = folder_of(path);
    let audit = |experiment: &Experiment, origins: &[Span]| {
        let mut found = mopd_compiler::audit::diagnostics(experiment, origins);
        found.extend(paths::missing(experiment, origins, &folder));
        found
    };
    let entry = entry(path)?;
    loading(path, &mut |_| (), &|load| {
        let (mut analysis, plan) = check_runs(entry.clone(), load, overrides, &audit);
        let alone = standalone::refused(&entry, load, &analysis, None);
        analysis.diagnostics.extend(alone);
        analysis.diagnostics.sort_by_key(|diagnostic| (diagnostic.primary.span, diagnostic.code));
        (analysis, plan)
    })
}

/// As [`check_file`], of a text.
pub fn check_runs(
    entry: SourceFile,
    load: Loader,
    overrides: &[(String, String)],
    audit: Auditor,
) -> (Analysis, Option<Plan>) {
    let mut shown: Option<(Analysis, Option<Plan>)> = None;
    let diagnostics = analyse_runs(entry, load, overrides, Some(audit), &mut |_, mut analysis| {
        let plan = plan_of(&mut analysis);
        let diagnostics = analysis.diagnostics.clone();
        if shown.as_ref().is_none_or(|(_, known)| known.is_none() && plan.is_some()) {
            shown = Some((analysis, plan));
        }
        diagnostics
    });
    let (analysis, plan) = shown.expect("a file has a run");
    let valid = diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error);
    (Analysis { diagnostics, ..analysis }, plan.filter(|_| valid))
}

/// Warnings of what no stage can run in the objectives of a file that no stage uses. `only`: the one of this
/// name.
pub fn refused_alone(
    path: &Path,
    analysis: &Analysis,
    only: Option<&str>,
) -> Result<Vec<Diagnostic>, Problem> {
    let entry = entry(path)?;
    loading(path, &mut |_| (), &|load| standalone::refused(&entry, load, analysis, only))
}

/// Checks a text as the content of this file.
pub fn analyse_text(path: &Path, text: &str) -> Result<Analysis, Problem> {
    let entry = SourceFile { path: path.display().to_string(), text: text.to_owned() };
    loading(path, &mut |_| (), &|load| analyse_audited(entry.clone(), load, &[], AUDIT))
}

const AUDIT: Auditor<'static> = &mopd_compiler::audit::diagnostics;

/// Whether a path names a module of the standard library, `std.opd`.
pub fn is_standard(path: &Path) -> bool {
    module_name(path).is_some()
}

/// Whether a path means standard input: that text belongs to the working folder.
pub fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

static STANDARD_INPUT: OnceLock<Result<String, Problem>> = OnceLock::new();

/// The text on standard input. It is read once, and kept for further calls.
pub fn standard_input() -> Result<String, Problem> {
    let read = || {
        let mut bytes = Vec::new();
        // One byte more than is taken, so that a longer text is refused and not cut.
        std::io::stdin().lock().take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| {
            Problem::usage("unreadable-file", format!("can't read standard input: {}", reason(&error)))
        })?;
        if bytes.len() > MOST_BYTES {
            let message = "can't read standard input: it is longer than 256 KiB";
            return Err(Problem::usage("unreadable-file", message).help(TOO_LONG_HELP));
        }
        decode("standard input", bytes)
    };
    STANDARD_INPUT.get_or_init(read).clone()
}

/// A part of a generated text, and the words of the command line that it comes from.
pub struct WrittenPart {
    pub bytes: Range<usize>,
    pub words: String,
}

static WRITTEN: OnceLock<Vec<WrittenPart>> = OnceLock::new();

/// Uses a generated text in place of standard input. The user can't see it, so errors in a part of it are
/// reported for the command-line words in `parts`.
pub fn set_standard_input(text: String, parts: Vec<WrittenPart>) {
    // This is set before anything is read.
    let _ = STANDARD_INPUT.set(Ok(text));
    let _ = WRITTEN.set(parts);
}

/// Whether this is a text that a command generated in place of standard input.
pub fn is_generated(path: &str) -> bool {
    WRITTEN.get().is_some() && is_standard_input(Path::new(path))
}

/// The command-line words that a place in a generated text comes from, if it comes from any. Errors with the
/// code `reward` belong to `--reward`, wherever they are.
pub fn words_of(start: usize, code: &str) -> Option<&'static str> {
    let written = WRITTEN.get()?;
    let option = format!("--{code} ");
    let named = written.iter().find(|part| part.words.starts_with(&option));
    let part = named.or_else(|| written.iter().find(|part| part.bytes.contains(&start)));
    part.map(|part| part.words.as_str())
}

fn entry(path: &Path) -> Result<SourceFile, Problem> {
    match module_name(path) {
        Some(name) => standard(&format!("std:{name}.mopd")).ok_or_else(|| no_module(&name)),
        None if is_standard_input(path) => {
            Ok(SourceFile { path: path.display().to_string(), text: standard_input()? })
        }
        None => read(path),
    }
}

/// Analyses a file with the files that it names; an error if one of them exists and can't be read.
fn loading<T>(path: &Path, note: &mut dyn FnMut(&Path), analyse: &dyn Fn(Loader) -> T) -> Result<T, Problem> {
    let note = RefCell::new(note);
    // A module that exists but can't be read must not be reported as missing.
    let unreadable = RefCell::new(None);
    let load = |name: &str| -> Option<SourceFile> {
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
    let analysis = analyse(&load);
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

/// A module of the standard library, `std:opd.mopd`, or its table of contents, `std:`.
pub fn standard(path: &str) -> Option<SourceFile> {
    mopd_std::source(path).map(|text| SourceFile { path: path.to_owned(), text: text.to_owned() })
}

/// The path of a file that another one names, from its folder. `None` for the standard library.
pub fn sibling(path: &Path, name: &str) -> Option<PathBuf> {
    (!name.starts_with("std:")).then(|| path.with_file_name("").join(name))
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

/// The .mopd files below a folder, the nearest first, up to `at_most`. Skips hidden folders, such as a run's
/// store, copies of sources in the folders of runs, links to folders, and unreadable folders.
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

/// Whether a file name is that of a source. TensorBoard's event files have the same extension.
pub fn is_source(path: &Path) -> bool {
    let of_events =
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"events.out.tfevents."));
    path.extension().is_some_and(|ending| ending == "mopd") && !of_events
}

/// Whether a folder comes from a run or a sweep: its sources are copies that nobody edits.
pub fn is_run_folder(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has("source.mopd") && (has("plan.json") || has("sweep.json"))
}

/// Whether an entry of a run's folder belongs to the copies of its sources. Other files may be the author's,
/// who may have chosen the project's own folder for results.
pub fn is_archived(name: &std::ffi::OsStr) -> bool {
    ["source.mopd", "modules", "previous", ".previous.part", ".next.part"].iter().any(|known| name == *known)
}

/// The base folder of a file's data and sibling modules.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Reads a file as text.
pub fn read(path: &Path) -> Result<SourceFile, Problem> {
    let text = read_text(path)?;
    // Some editors write a byte order mark, which is not part of the text.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok(SourceFile { path: path.display().to_string(), text })
}

/// What to name in place of a path that is no file.
fn meant(path: &Path) -> Option<String> {
    let experiments = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| name.ends_with(".mopd") && folder.join(name).is_file());
        names.sort();
        names
    };
    if path.is_dir() {
        let example = experiments(path).into_iter().next();
        let example = example.map(|name| format!(", such as {}", path.join(name).display()));
        return Some(format!("name a .mopd file, not its folder{}", example.unwrap_or_default()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names = experiments(folder);
    let name = path.file_name()?.to_str()?;
    let with_ending = format!("{name}.mopd");
    let near = names.iter().find(|known| **known == with_ending).map(String::as_str);
    let near = near.or_else(|| nearest(name, names.iter().map(String::as_str)))?;
    Some(format!("did you mean {}?", path.with_file_name(near).display()))
}

/// The unchanged content of a file, if it is text.
pub fn read_text(path: &Path) -> Result<String, Problem> {
    let shown = path.display();
    let bytes = regular::read(path, MOST_BYTES as u64).map_err(|error| {
        let problem = Problem::usage("unreadable-file", format!("can't read {shown}: {}", reason(&error)));
        let help = match error.kind() {
            ErrorKind::FileTooLarge => Some(TOO_LONG_HELP.to_owned()),
            ErrorKind::InvalidInput => Some("`-` is standard input".to_owned()),
            _ => meant(path),
        };
        match help {
            Some(help) => problem.help(help),
            None => problem,
        }
    })?;
    decode(&shown.to_string(), bytes)
}

/// Decodes bytes as text; `shown` names their source.
pub fn decode(shown: &str, bytes: Vec<u8>) -> Result<String, Problem> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem::usage("not-text", format!("{shown} is not UTF-8 text: line {line} has invalid bytes"))
            .help("save the file as UTF-8")
    })
}

/// Replaces a file by a text, atomically: readers, also after a crash, find either the old or the new text.
pub fn replace(path: &Path, text: &str) -> Result<(), Problem> {
    let write = || {
        // A link keeps pointing to its file.
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
            // Cleans up the temporary file; the first error is the more important one.
            let _ = std::fs::remove_file(&beside);
        }
        moved
    };
    write().map_err(|error| Problem::unwritten(path, &error))
}

/// A path as a string, for the plan and the worker.
///
/// # Errors
/// If the path is not UTF-8.
pub fn as_text(path: &Path) -> Result<String, Problem> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Problem::usage("not-text", format!("the path {} is not UTF-8 text", path.display())))
}

/// The base folder of relative paths in a job without an experiment.
///
/// # Errors
/// If the folder no longer exists, or its path is not UTF-8.
pub fn current_folder() -> Result<String, Problem> {
    let here = std::env::current_dir().map_err(|error| {
        Problem::usage(
            "no-folder",
            format!(
                "the current folder does not exist any more: \
            {error}"
            ),
        )
    })?;
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
