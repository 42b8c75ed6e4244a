//! The source text of a run: its highlighted lines, and the excerpt of a stage.

use std::path::Path;

use mopd_compiler::plan::{Origin, Plan};
use mopd_lang::ide::{Meaning, semantic_tokens};
use serde::Serialize;

use super::LoadedRun;
use crate::host;
use crate::output::printable;
use crate::run_folder::RunFolder;

/// Where a word begins and ends, and its class.
type Meanings = Vec<(usize, usize, &'static str)>;

#[derive(Serialize)]
pub struct SourceFileView {
    pub name: String,
    pub lines: Vec<SourceLine>,
}

#[derive(Serialize)]
pub struct SourceLine {
    pub anchor: String,
    /// A class, which may be empty, and a text.
    pub pieces: Vec<(&'static str, String)>,
}

/// The lines of the source that say what something is.
#[derive(Serialize)]
pub struct Excerpt {
    /// `quickstart.mopd, lines 59 to 66`
    pub place: String,
    /// Of its first line, where the page has the file.
    pub anchor: Option<String>,
    pub text: String,
}

/// The experiment, then its modules.
pub fn files(loaded: &LoadedRun) -> Vec<SourceFileView> {
    let run = &loaded.folder;
    let mut files = vec![file(loaded, &entry_name(run), 0, &run.source, meanings(run))];
    for ((name, text), index) in run.modules.iter().zip(1..) {
        let meanings = meanings_of(&run.path.join("modules").join(name), text);
        files.push(file(loaded, name, index, text, meanings));
    }
    files
}

/// The colours of the entry. Its imports and data may be elsewhere by now; words tell most without them.
fn meanings(run: &RunFolder) -> Meanings {
    meanings_of(&run.path.join("source.mopd"), &run.source)
}

fn meanings_of(path: &Path, text: &str) -> Meanings {
    let Ok(analysis) = host::analyse_file(path, &[]) else { return Vec::new() };
    let tokens = semantic_tokens(text, &analysis).into_iter();
    tokens.map(|token| (token.start as usize, token.end as usize, class(token.meaning))).collect()
}

fn class(meaning: Meaning) -> &'static str {
    match meaning {
        Meaning::Comment => "comment",
        Meaning::Text => "text",
        Meaning::Number => "number-literal",
        Meaning::Keyword => "keyword",
        Meaning::Signal => "signal",
        Meaning::Type => "type",
        Meaning::Function | Meaning::Class => "function",
        Meaning::Operator
        | Meaning::Namespace
        | Meaning::Variable
        | Meaning::Parameter
        | Meaning::Property
        | Meaning::EnumMember => "",
    }
}

fn file(run: &LoadedRun, name: &str, index: usize, text: &str, meanings: Meanings) -> SourceFileView {
    let mut meanings = meanings.into_iter().peekable();
    let mut start = 0;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // `lines` drops a carriage return and a newline; places count both.
        let begin = start + text[start..].find(line).unwrap_or(0);
        let end = begin + line.len();
        let mut pieces = Vec::new();
        let mut at = begin;
        while let Some((from, to, class)) = meanings.next_if(|(from, ..)| *from < end) {
            let (Some(before), Some(own)) = (text.get(at..from), text.get(from..to.min(end))) else {
                continue;
            };
            pieces.push(("", printable(before)));
            pieces.push((class, printable(own)));
            at = to.min(end);
        }
        pieces.push(("", printable(text.get(at..end).unwrap_or_default())));
        pieces.retain(|(_, text)| !text.is_empty());
        lines.push(SourceLine { anchor: anchor(run, index, number + 1), pieces });
        start = end + text[end..].find('\n').map_or(0, |newline| newline + 1);
    }
    SourceFileView { name: printable(name), lines }
}

fn anchor(run: &LoadedRun, file: usize, line: usize) -> String {
    run.anchor(&if file == 0 { format!("L{line}") } else { format!("F{file}L{line}") })
}

/// What the experiment's file was called where it was run.
fn entry_name(run: &RunFolder) -> String {
    let mut places =
        run.plan.places.iter().map(|place| place.file.as_str()).filter(|file| !file.starts_with("std:"));
    let own = |file: &&str| !run.modules.iter().any(|(module, _)| Some(module.as_str()) == base(file));
    places.find(own).and_then(base).unwrap_or("source.mopd").to_owned()
}

fn base(file: &str) -> Option<&str> {
    Path::new(file).file_name()?.to_str()
}

/// The source of something; none where its place is unknown.
pub fn excerpt(loaded: &LoadedRun, origin: Origin) -> Option<Excerpt> {
    let run = &loaded.folder;
    let place = run.plan.place(origin)?;
    let library = place.file.strip_prefix("std:").and_then(|name| name.strip_suffix(".mopd"));
    let (name, index, text) = match library {
        Some(module) => (format!("std.{module}"), None, host::standard(&["std", module])?.text),
        None => match run.modules.iter().position(|(name, _)| Some(name.as_str()) == base(&place.file)) {
            Some(module) => (run.modules[module].0.clone(), Some(module + 1), run.modules[module].1.clone()),
            None => (entry_name(run), Some(0), run.source.clone()),
        },
    };
    // What the plan says of a text that was changed since may lie outside of it, or inside of a character.
    let whole = text.get(..place.start as usize)?;
    text.get(..place.end as usize)?;
    let first = whole.matches('\n').count();
    let last = text[..place.end as usize].matches('\n').count();
    let lines: Vec<&str> = text.lines().skip(first).take(last - first + 1).collect();
    let lines_text = if first == last {
        format!("line {}", first + 1)
    } else {
        format!("lines {} to {}", first + 1, last + 1)
    };
    Some(Excerpt {
        place: printable(&format!("{name}, {lines_text}")),
        anchor: index.map(|index| anchor(loaded, index, first + 1)),
        text: printable(&lines.join("\n")),
    })
}

/// Whether two origins are in the same text, and one inside the other.
pub fn covers(plan: &Plan, outer: Origin, inner: Origin) -> bool {
    let (Some(outer), Some(inner)) = (plan.place(outer), plan.place(inner)) else { return false };
    outer.file == inner.file && outer.start <= inner.start && inner.end <= outer.end
}
