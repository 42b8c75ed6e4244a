//! The source text of a run: its highlighted lines, and the excerpts of stages.

use std::collections::BTreeMap;
use std::path::Path;

use mopd_lang::ide::{SemanticTokenKind, declarations, semantic_tokens};
use mopd_plan::{Origin, Plan};
use serde::Serialize;

use super::LoadedRun;
use crate::host;
use crate::output::printable;
use crate::run_folder::{RunFolder, copied_path};

#[derive(Serialize)]
pub struct SourceFileView {
    pub name: String,
    pub lines: Vec<SourceLine>,
}

/// Pairs of a class, which may be empty, and a text.
type Pieces = Vec<(&'static str, String)>;

#[derive(Serialize)]
pub struct SourceLine {
    pub anchor: String,
    pub pieces: Pieces,
}

/// The lines of the source that define something.
#[derive(Serialize)]
pub struct Excerpt {
    /// `quickstart.mopd, lines 59 to 66`
    pub place: String,
    /// The anchor of its first line if the page has the file, or of the stage that shows it already.
    pub anchor: Option<String>,
    /// Empty if another stage shows it.
    pub lines: Vec<Pieces>,
}

/// The beginning, the end and the class of each word.
type Meanings = Vec<(usize, usize, &'static str)>;

struct Text {
    name: String,
    /// Its index on the page: the experiment, then its modules; `None` for the standard library.
    place: Option<usize>,
    text: String,
    lines: Vec<Pieces>,
    /// The ranges of its named items.
    items: Vec<(usize, usize)>,
}

/// The texts of a run.
pub struct RunSources<'a> {
    run: &'a LoadedRun,
    /// By the name of the module in the standard library, and by the path for other files.
    texts: BTreeMap<String, Text>,
    /// Excerpts of the library that some stage shows, by place.
    shown: BTreeMap<String, String>,
}

impl<'a> RunSources<'a> {
    pub fn new(run: &'a LoadedRun) -> RunSources<'a> {
        let folder = &run.folder;
        let entry = text(entry_name(folder), Some(0), &folder.path.join("source.mopd"), &folder.source);
        let mut texts = BTreeMap::from([(entry.name.clone(), entry)]);
        for ((name, source), place) in folder.modules.iter().zip(1..) {
            let path = folder.path.join("modules").join(name);
            texts.entry(name.clone()).or_insert_with(|| text(name.clone(), Some(place), &path, source));
        }
        RunSources { run, texts, shown: BTreeMap::new() }
    }

    /// The files of the page: the experiment, then its modules.
    pub fn files(&self) -> Vec<SourceFileView> {
        let mut own: Vec<(usize, &Text)> =
            self.texts.values().filter_map(|text| Some((text.place?, text))).collect();
        own.sort_by_key(|(place, _)| *place);
        let view = |(place, text): (usize, &Text)| SourceFileView {
            name: printable(&text.name),
            lines: (text.lines.iter().zip(1..))
                .map(|(pieces, number)| SourceLine {
                    anchor: anchor(self.run, place, number),
                    pieces: pieces.clone(),
                })
                .collect(),
        };
        own.into_iter().map(view).collect()
    }

    /// The source of something: the whole item if the place is its name; `None` where the place is unknown.
    /// Code of the library is shown only by the first stage that uses it, `stage`.
    pub fn excerpt(&mut self, origin: Origin, stage: &str) -> Option<Excerpt> {
        let place = self.run.folder.plan.place(origin)?;
        let library = place.file.strip_prefix("std:").and_then(|name| name.strip_suffix(".mopd"));
        let key = match library {
            Some(module) => format!("std.{module}"),
            None => {
                let folder = &self.run.folder;
                module_of(folder, &place.file).map_or_else(|| entry_name(folder), str::to_owned)
            }
        };
        if library.is_some() && !self.texts.contains_key(&key) {
            let source = host::standard(&place.file)?.text;
            self.texts.insert(key.clone(), text(key.clone(), None, Path::new(&key), &source));
        }
        let text = self.texts.get(&key)?;
        let (start, end) = (place.start as usize, place.end as usize);
        let holds = |item: &&(usize, usize)| item.0 <= start && end <= item.1;
        let (start, end) = text.items.iter().find(holds).copied().unwrap_or((start, end));
        // If the text has changed since the plan was made, a place may be outside of it, or inside a
        // character.
        let first = text.text.get(..start)?.matches('\n').count();
        let last = text.text.get(..end)?.trim_end().matches('\n').count().max(first);
        let lines = match first == last {
            true => format!("line {}", first + 1),
            false => format!("lines {} to {}", first + 1, last + 1),
        };
        let shown = printable(&format!("{}, {lines}", text.name));
        if let Some(place) = text.place {
            let anchor = anchor(self.run, place, first + 1);
            return Some(Excerpt {
                place: shown,
                anchor: Some(anchor),
                lines: text.lines.get(first..=last)?.to_vec(),
            });
        }
        if let Some(elsewhere) = self.shown.get(&shown) {
            return Some(Excerpt { place: shown, anchor: Some(elsewhere.clone()), lines: Vec::new() });
        }
        let lines = text.lines.get(first..=last)?.to_vec();
        self.shown.insert(shown.clone(), stage.to_owned());
        Some(Excerpt { place: shown, anchor: None, lines })
    }
}

fn text(name: String, place: Option<usize>, path: &Path, source: &str) -> Text {
    let items = declarations(source).into_iter();
    let items = items.map(|item| (item.extent.start as usize, item.extent.end as usize));
    Text {
        name,
        place,
        text: source.to_owned(),
        lines: lines(source, meanings(path, source)),
        items: items.collect(),
    }
}

/// The highlighting of a text. Its imports and data may be missing; words are enough in most cases.
fn meanings(path: &Path, text: &str) -> Meanings {
    let Ok(analysis) = host::analyse_text(path, text) else { return Vec::new() };
    let tokens = semantic_tokens(text, &analysis).into_iter();
    tokens.map(|token| (token.start as usize, token.end as usize, class(token.meaning))).collect()
}

fn class(meaning: SemanticTokenKind) -> &'static str {
    match meaning {
        SemanticTokenKind::Comment => "comment",
        SemanticTokenKind::Text => "text",
        SemanticTokenKind::Number => "number-literal",
        SemanticTokenKind::Keyword => "keyword",
        SemanticTokenKind::Signal => "signal",
        SemanticTokenKind::Type => "type",
        SemanticTokenKind::Function | SemanticTokenKind::Class => "function",
        SemanticTokenKind::Operator
        | SemanticTokenKind::Namespace
        | SemanticTokenKind::Variable
        | SemanticTokenKind::Parameter
        | SemanticTokenKind::Property
        | SemanticTokenKind::EnumMember => "",
    }
}

fn lines(text: &str, meanings: Meanings) -> Vec<Pieces> {
    let mut meanings = meanings.into_iter().peekable();
    let mut start = 0;
    let mut lines = Vec::new();
    for line in text.lines() {
        // `lines` drops a carriage return and a newline; offsets count both.
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
        lines.push(pieces);
        start = end + text[end..].find('\n').map_or(0, |newline| newline + 1);
    }
    lines
}

fn anchor(run: &LoadedRun, file: usize, line: usize) -> String {
    run.anchor(&if file == 0 { format!("L{line}") } else { format!("F{file}L{line}") })
}

/// The name of the experiment's file where it was run.
fn entry_name(run: &RunFolder) -> String {
    let mut places =
        run.plan.places.iter().map(|place| place.file.as_str()).filter(|file| !file.starts_with("std:"));
    let own = |file: &&str| module_of(run, file).is_none();
    places.find(own).and_then(base).unwrap_or("source.mopd").to_owned()
}

/// The module, by its path in the folder of the experiment, that is this file of the plan.
fn module_of<'a>(run: &'a RunFolder, file: &str) -> Option<&'a str> {
    let names = run.modules.iter().map(|(name, _)| name.as_str());
    // `loss.mopd` is not `inner/loss.mopd`, so the longest name counts.
    let file = copied_path(Path::new(file));
    names.filter(|name| file.ends_with(name)).max_by_key(|name| name.len())
}

fn base(file: &str) -> Option<&str> {
    Path::new(file).file_name()?.to_str()
}

/// Whether two origins are in the same file, and one contains the other.
pub fn covers(plan: &Plan, outer: Origin, inner: Origin) -> bool {
    let (Some(outer), Some(inner)) = (plan.place(outer), plan.place(inner)) else { return false };
    outer.file == inner.file && outer.start <= inner.start && inner.end <= outer.end
}
