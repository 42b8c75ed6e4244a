//! Semantic tokens, for colours that regular expressions can't determine.

use rustc_hash::FxHashMap;

use super::ENTRY;
use crate::check::Analysis;
use crate::check::index::{NameTarget, NameUse, SymbolKind};
use crate::check::vocabulary;
use crate::syntax::tokens::{TokenKind, lex};
use crate::syntax::words;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SemanticTokenKind {
    Comment,
    Text,
    Number,
    Keyword,
    Operator,
    /// A module of a `use`.
    Namespace,
    Type,
    Function,
    /// An objective.
    Class,
    /// A model, teacher or domain.
    Variable,
    Parameter,
    /// A setting.
    Property,
    /// A word of a fixed list.
    EnumMember,
    /// A signal or role.
    Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemanticToken {
    pub start: u32,
    pub end: u32,
    pub meaning: SemanticTokenKind,
    pub declares: bool,
    /// Whether it belongs to the language or the standard library.
    pub library: bool,
    pub documentation: bool,
}

/// The tokens of a text in order. No token spans a line break.
pub fn semantic_tokens(source: &str, analysis: &Analysis) -> Vec<SemanticToken> {
    let uses: FxHashMap<u32, &NameUse> =
        analysis.index.uses_in(ENTRY).iter().map(|a_use| (a_use.span.start, a_use)).collect();
    let tokens = lex(source);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or("", |next| next.text(source));
        let plain = |meaning| Some((meaning, false, false));
        let meaning = match token.kind {
            TokenKind::Comment | TokenKind::Doc => plain(SemanticTokenKind::Comment),
            TokenKind::Text | TokenKind::OpenText => plain(SemanticTokenKind::Text),
            TokenKind::Number => plain(SemanticTokenKind::Number),
            TokenKind::Sign if !matches!(token.text(source), "." | ":") => plain(SemanticTokenKind::Operator),
            TokenKind::Word => match uses.get(&(token.start as u32)) {
                Some(a_use) => Some(of_use(a_use, analysis)),
                None => of_word(
                    token.text(source),
                    next,
                    at == 0
                        || tokens[at - 1].kind == TokenKind::Newline
                        || tokens[at - 1].text(source) == "pub",
                ),
            },
            _ => None,
        };
        let Some((meaning, declares, library)) = meaning else { continue };
        let documentation = token.kind == TokenKind::Doc;
        let mut start = token.start;
        for line in token.text(source).split_inclusive('\n') {
            let end = start + line.trim_end_matches(['\r', '\n']).len();
            if end > start {
                let (from, to) = (start as u32, end as u32);
                found.push(SemanticToken { start: from, end: to, meaning, declares, library, documentation });
            }
            start += line.len();
        }
    }
    found
}

fn of_use(a_use: &NameUse, analysis: &Analysis) -> (SemanticTokenKind, bool, bool) {
    match a_use.target {
        NameTarget::Symbol(id) => {
            let symbol = analysis.index.symbol(id);
            let meaning = match symbol.kind {
                SymbolKind::Fn | SymbolKind::Stage | SymbolKind::Divergence => SemanticTokenKind::Function,
                SymbolKind::Objective => SemanticTokenKind::Class,
                SymbolKind::Parameter | SymbolKind::Turn | SymbolKind::Carried | SymbolKind::Where => {
                    SemanticTokenKind::Parameter
                }
                _ => SemanticTokenKind::Variable,
            };
            (meaning, a_use.declares, analysis.sources.file(symbol.span.file).path.starts_with("std:"))
        }
        NameTarget::Module(_) => (SemanticTokenKind::Namespace, false, false),
        NameTarget::Builtin(_) => (SemanticTokenKind::Function, false, true),
        NameTarget::Signal(_) | NameTarget::Part(_) | NameTarget::Domains | NameTarget::RoutedDomain => {
            (SemanticTokenKind::Signal, false, true)
        }
        NameTarget::Word(word) if vocabulary::TYPES.iter().any(|a_type| std::ptr::eq(a_type, word)) => {
            (SemanticTokenKind::Type, false, true)
        }
        NameTarget::Word(_) => (SemanticTokenKind::EnumMember, false, true),
        NameTarget::Key(_) => (SemanticTokenKind::Property, false, true),
        NameTarget::Field => (SemanticTokenKind::Property, false, false),
    }
}

fn of_word(word: &str, next: &str, begins_line: bool) -> Option<(SemanticTokenKind, bool, bool)> {
    let keyword = words::RESERVED.contains(&word) || (begins_line && words::ITEMS.contains(&word));
    let begins = |bytes: &[u8]| next.bytes().next().is_some_and(|first| bytes.contains(&first));
    let named = begins_line
        && next.bytes().next().is_some_and(words::is_word_byte)
        && !words::RESERVED.contains(&next);
    let keyword = keyword
        || matches!(word, "route" | "experiment" | "compare" | "sweep" | "match") && begins(b"{\"")
        // A keyword that follows a value comes before a name.
        || matches!(word, "where" | "by") && next.bytes().next().is_some_and(words::is_word_byte)
        || word == "with" && begins(b"{")
        || matches!(word, "state" | "trains" | "step") && named;
    if keyword {
        Some((SemanticTokenKind::Keyword, false, false))
    } else if next == ":" {
        Some((SemanticTokenKind::Parameter, false, false))
    } else if next == "=" {
        Some((SemanticTokenKind::Property, false, false))
    } else {
        None
    }
}
