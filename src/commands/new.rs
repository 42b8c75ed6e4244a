//! `mopd new`: a starter experiment, or one of the book.

use std::path::Path;

use crate::args::NewArgs;
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::starter;

pub fn new(arguments: &NewArgs) -> Result<CommandStatus, Problem> {
    let folder = &arguments.name;
    let name = experiment_name(folder)?;
    // An empty folder is accepted: people may create one first.
    let taken =
        folder.exists() && std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_some());
    if taken {
        return Err(Problem::usage(
            "already-there",
            format!("{} exists already; nothing was written", folder.display()),
        )
        .help("choose another name"));
    }
    let files = match arguments.example {
        None => starter::files(&name),
        Some(example) => starter::example(example),
    };
    for (path, text) in &files {
        write(&folder.join(path), text)?;
    }
    // The first file is the experiment.
    let file = folder.join(&files[0].0);
    // In the new folder, so that its results and its store are there too.
    let run = format!("cd {} && mopd run {}", folder.display(), files[0].0);
    output::note(&format!("made {}; `{run}` runs it\n", folder.display()));
    output::result(&format!("{}\n", file.display()));
    Ok(CommandStatus::Success)
}

fn experiment_name(folder: &Path) -> Result<String, Problem> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(good) && !name.starts_with('-') {
        return Ok(name.to_owned());
    }
    Err(Problem::usage("bad-name", format!("`{}` cannot be the name of an experiment", folder.display()))
        .help("use letters, digits, `-` and `_`, such as `mopd new first-try`"))
}

fn write(path: &Path, text: &str) -> Result<(), Problem> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(path, text))
        .map_err(|error| Problem::unwritten(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_names_the_experiment() {
        assert_eq!(experiment_name(Path::new("a/first-try")), Ok("first-try".to_owned()));
        for bad in ["", "..", "a b", "é", "-x", "a/\"x\""] {
            assert!(experiment_name(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
