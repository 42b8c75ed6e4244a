//! `mopd fmt`: the canonical style, in place.

use std::path::{Path, PathBuf};

use mopd_lang::fmt::{self, Formatted};
use mopd_lang::source::{SourceFile, Sources};

use crate::args::FmtArgs;
use crate::host::{self, reason};
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::render;

pub fn fmt(arguments: &FmtArgs) -> Result<CommandStatus, Problem> {
    if arguments.paths.iter().any(|path| host::is_standard_input(path)) {
        if arguments.paths.len() > 1 {
            return Err(Problem::usage(
                "mixed-input",
                "`-` cannot be combined with other paths: standard input is formatted to standard output",
            ));
        }
        return standard_input(arguments.check);
    }
    let mut status = CommandStatus::Success;
    for path in &arguments.paths {
        let files = files_in(path);
        for file in files.as_deref().unwrap_or_default() {
            match format_file(file, arguments.check) {
                Ok(CommandStatus::Success) => {}
                Ok(worse) if status == CommandStatus::Success => status = worse,
                Ok(_) => {}
                Err(problem) => {
                    problem.report();
                    status = CommandStatus::UsageError;
                }
            }
        }
        if let Err(problem) = files {
            problem.report();
            status = CommandStatus::UsageError;
        }
    }
    Ok(status)
}

fn standard_input(check: bool) -> Result<CommandStatus, Problem> {
    let text = host::standard_input()?;
    let formatted = fmt::format(&text);
    let changed = formatted.text != text;
    match check {
        true if changed => output::result("-\n"),
        true => {}
        false => output::verbatim(&formatted.text),
    }
    Ok(judge("-", text, formatted, check && changed))
}

/// Formats a file, and reports it if it changes.
fn format_file(path: &Path, check: bool) -> Result<CommandStatus, Problem> {
    let text = host::read_text(path)?;
    let formatted = fmt::format(&text);
    let changed = formatted.text != text;
    if changed && !check {
        host::replace(path, &formatted.text)?;
    }
    if changed {
        output::result(&format!("{}\n", path.display()));
    }
    Ok(judge(&path.display().to_string(), text, formatted, check && changed))
}

/// Reports text that does not parse.
fn judge(path: &str, text: String, formatted: Formatted, unformatted: bool) -> CommandStatus {
    let mut sources = Sources::default();
    sources.add(SourceFile { path: path.to_owned(), text });
    output::error(&render::short::diagnostics(&formatted.diagnostics, &sources));
    if unformatted || !formatted.diagnostics.is_empty() {
        CommandStatus::Failure
    } else {
        CommandStatus::Success
    }
}

/// The file itself, or every .mopd file below a folder, sorted by name. Hidden folders, such as a run's
/// store, are skipped, and so are the copies of sources in the folders of runs; links to folders are not
/// followed.
fn files_in(path: &Path) -> Result<Vec<PathBuf>, Problem> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let unreadable = |error| {
            Problem::usage("unreadable-file", format!("can't read {}: {}", folder.display(), reason(&error)))
        };
        let of_run = host::is_run_folder(&folder);
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if of_run && host::is_archived(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if entry.file_type().map_err(unreadable)?.is_dir() {
                folders.extend((!hidden).then_some(path));
            } else if host::is_source(&path) && !path.is_dir() {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        let message = format!("there is no .mopd file in {}", path.display());
        return Err(Problem::usage("nothing-to-format", message));
    }
    found.sort();
    Ok(found)
}
