//! The only place that reads source files: the entry, its sibling modules and the standard library.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use mopd_lang::Analysis;
use mopd_lang::check::analyse_with;
use mopd_lang::source::SourceFile;

use crate::problem::Problem;

/// Reads and checks a file with everything that it imports. `overrides` are the `--set` values.
pub fn analyse_file(path: &Path, overrides: &[(String, String)]) -> Result<Analysis, Problem> {
    let entry = read(path)?;
    // A module that is there but can't be read must not be reported as a module that does not exist.
    let unreadable = RefCell::new(None);
    let load = |name: &[&str]| -> Option<SourceFile> {
        if let ["std", module] = name {
            return mopd_std::module(module).map(|(path, text)| SourceFile { path, text: text.to_owned() });
        }
        let mut file = path.with_file_name("");
        file.extend(name);
        file.set_extension("mopd");
        if name.first() == Some(&"std") || !file.exists() {
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
    let analysis = analyse_with(entry, &load, overrides);
    match unreadable.into_inner() {
        Some(problem) => Err(problem),
        None => Ok(analysis),
    }
}

/// The folder that a file's data and sibling modules are relative to.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn read(path: &Path) -> Result<SourceFile, Problem> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        let problem = Problem::usage("unreadable-file", format!("can't read {shown}: {}", reason(&error)));
        if path.is_dir() { problem.help("name a .mopd file, not its folder") } else { problem }
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem::usage("not-text", format!("{shown} is not UTF-8 text: line {line} holds bytes that are no character"))
            .help("save the file as UTF-8")
    })?;
    // Some editors put a byte order mark first; it is no part of the text.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok(SourceFile { path: shown.to_string(), text })
}

/// An input or output error in words, without the error number.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        std::io::ErrorKind::StorageFull => "the disk is full".to_owned(),
        _ => error.to_string(),
    }
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
