//! `mopd explain`: the page of a diagnostic code, or of a problem of commands and runs.

use mopd_lang::diag::{Code, nearest};

use crate::args::ExplainArgs;
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::render::markdown;

pub fn explain(arguments: &ExplainArgs) -> Result<CommandStatus, Problem> {
    let Some(name) = &arguments.code else {
        output::result(&all());
        return Ok(CommandStatus::Success);
    };
    // Forms that people paste: `error[unit-mismatch]`, `[unit-mismatch]`, `unit_mismatch`.
    let name =
        name.rsplit('[').next().unwrap_or(name).trim_end_matches([']', ':']).to_lowercase().replace('_', "-");
    let code = Code::ALL.iter().find(|code| code.name() == name).map(|code| code.page().to_owned());
    let problem = || {
        problems()
            .find(|(known, _)| known.replace('\'', "") == name.replace('\'', ""))
            .map(|(name, text)| format!("# `{name}`\n\n{text}\n"))
    };
    if let Some(page) = code.or_else(problem) {
        output::result(&markdown::show(&page, Style::of_stdout()));
        return Ok(CommandStatus::Success);
    }
    let problem = Problem::usage("unknown-code", format!("there is no diagnostic code `{name}`"));
    Err(
        match nearest(&name, Code::ALL.iter().map(|code| code.name()).chain(problems().map(|(name, _)| name)))
        {
            Some(meant) => problem.help(format!("did you mean `mopd explain {meant}`?")),
            None => problem.help("`mopd explain --all` lists them"),
        },
    )
}

/// The names in brackets of problems that are not in a program, with their explanations: the same page as in
/// the book.
fn problems() -> impl Iterator<Item = (&'static str, &'static str)> {
    let sections = include_str!("../problems.md").split("\n## `").skip(1);
    sections.filter_map(|section| section.split_once("`\n")).map(|(name, text)| (name, text.trim()))
}

/// The first sentence.
fn summary(text: &str) -> String {
    let end = text.find(". ").or_else(|| text.find(".\n")).unwrap_or(text.trim_end_matches('.').len());
    text[..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

fn all() -> String {
    let mut codes: Vec<(&str, String)> =
        Code::ALL.iter().map(|code| (code.name(), code.summary().to_owned())).collect();
    let problems = problems().filter(|(name, _)| Code::ALL.iter().all(|code| code.name() != *name));
    codes.extend(problems.map(|(name, text)| (name, summary(text))));
    codes.sort();
    let width = codes.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    codes.iter().map(|(name, summary)| format!("{name:width$}  {summary}\n")).collect()
}

#[cfg(test)]
mod tests {
    use mopd_plan::events::FailureKind;

    use super::*;

    /// Every name that some problem of the program has, found in its source text.
    fn named() -> Vec<String> {
        fn files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { files(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        files(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let mut names = Vec::new();
        for path in found.iter().filter(|path| {
            path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("explain.rs")
        }) {
            let text = std::fs::read_to_string(path).unwrap();
            for call in ["Problem::usage(", "Problem::run("] {
                let given = text
                    .split(call)
                    .skip(1)
                    .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
                names.extend(given.map(str::to_owned));
            }
        }
        names.push("unknown-code".to_owned()); // Of this file, which holds the words that are looked for.
        assert!(names.len() > 40, "how problems are made has changed: {names:?}");
        names
    }

    #[test]
    fn whatever_is_named_is_explained() {
        let kinds = FailureKind::ALL.map(|kind| kind.name().to_owned());
        let known = |name: &str| {
            Code::ALL.iter().any(|code| code.name() == name) || problems().any(|(known, _)| known == name)
        };
        let unknown: Vec<String> = named().into_iter().chain(kinds).filter(|name| !known(name)).collect();
        assert_eq!(unknown, [""; 0], "without a section in src/problems.md");
    }

    #[test]
    fn nothing_is_explained_that_nobody_names() {
        let names = named();
        let of_run = FailureKind::ALL.map(FailureKind::name);
        let stale: Vec<&str> = problems()
            .map(|(name, _)| name)
            .filter(|name| !of_run.contains(name) && !names.iter().any(|known| known == name))
            .collect();
        assert_eq!(stale, [""; 0]);
    }

    #[test]
    fn every_problem_has_a_summary() {
        for (name, text) in problems() {
            let summary = summary(text);
            assert!(text.len() > 30 && summary.len() > 10 && !summary.contains('\n'), "{name}: {summary}");
        }
    }
}
