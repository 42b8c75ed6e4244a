//! Hovers: descriptions of names, in Markdown.

use super::complete::named_items;
use super::context::CompletionContext;
use super::{ENTRY, describe, keywords};
use crate::check::builtins::{self, Builtin};
use crate::check::index::{NameTarget, SymbolId, SymbolKind};
use crate::check::vocabulary::{ArgumentKind, SettingKey};
use crate::check::{Analysis, bounds};
use crate::source::Span;
use crate::syntax::tokens::TokenKind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hover {
    pub span: Span,
    pub markdown: String,
}

pub fn hover(analysis: &Analysis, offset: u32) -> Option<Hover> {
    let Some(found) = analysis.index.at(ENTRY, offset) else {
        return argument(analysis, offset).or_else(|| keywords::keyword(analysis, offset));
    };
    let markdown = match found.target {
        NameTarget::Symbol(id) => symbol(analysis, id),
        NameTarget::Module(file) => module(analysis, file),
        NameTarget::Builtin(builtin) => builtin_text(builtin),
        NameTarget::Signal(signal) => {
            format!("{}\n\n{}", code(&format!("{}: {}", signal.name, signal.shape)), signal.doc)
        }
        NameTarget::Part(part) => {
            format!("{}\n\n{}", code(&format!(".{}: {}", part.name, part.shape)), part.doc)
        }
        NameTarget::Word(word) => format!("`{}`: {}.", word.name, word.doc),
        NameTarget::Key(key) => key_text(key),
        NameTarget::Field => "A field of the data.".to_owned(),
        NameTarget::Domains => "Every domain of the experiment, in the order of the file.".to_owned(),
        NameTarget::RoutedDomain => "The domain whose prompts this route sends to a teacher.".to_owned(),
    };
    Some(Hover { span: found.span, markdown })
}

/// The name before the colon of an argument, in a call of a built-in or a divergence.
fn argument(analysis: &Analysis, offset: u32) -> Option<Hover> {
    let source = &analysis.sources.file(ENTRY).text;
    let context = CompletionContext::new(source, offset as usize);
    let (callee, open) = context.call()?;
    let token = context.tokens.get(context.cut)?;
    let is_label = !context.inert
        && token.kind == TokenKind::Word
        && token.start <= offset as usize
        && context.open.last() == Some(&open)
        && context.segment(open, context.cut) == context.cut
        && context.is_followed_by(context.cut, ":");
    if !is_label {
        return None;
    }
    let (name, given) = (context.text(callee), token.text(source));
    let (usage, parameter) = match builtins::find(name) {
        Some(builtin) => (first_usage(builtin).0.to_owned(), builtin.parameter(given)?),
        None => {
            let id = *named_items(analysis).get(name)?;
            let divergence = analysis.index.symbol(id).kind == SymbolKind::Divergence;
            let parameter = builtins::find("kl").filter(|_| divergence)?.parameter(given)?;
            (describe::signature(analysis, id), parameter)
        }
    };
    let need = match (parameter.required, parameter.default) {
        (true, _) => "must be given".to_owned(),
        (false, Some(default)) => format!("may be left out; the default is `{default}`"),
        (false, None) => "may be left out".to_owned(),
    };
    let span = Span::new(ENTRY, token.start, token.end);
    Some(Hover { span, markdown: format!("{}\n\n`{given}` {need}.", code(&usage)) })
}

fn code(text: &str) -> String {
    format!("```mopd\n{text}\n```")
}

fn symbol(analysis: &Analysis, id: SymbolId) -> String {
    let symbol = analysis.index.symbol(id);
    let mut text = code(&describe::signature(analysis, id));
    if let Some(info) = &symbol.info {
        let known = describe::info(info);
        // `a model` says no more than the declaration.
        if info.number.is_some()
            || !matches!(symbol.kind, SymbolKind::Model | SymbolKind::Teacher | SymbolKind::Domain)
        {
            text += &format!(
                "\n\n`{}`: {}",
                symbol.name,
                known.strip_prefix("= ").map_or(known.clone(), |value| format!("`{value}`"))
            );
        }
    }
    if let Some(owner) = symbol.owner.filter(|_| symbol.kind == SymbolKind::Parameter) {
        let owner = analysis.index.symbol(owner);
        text += &format!("\n\nParameter of {} `{}`.", owner.kind.name(), owner.name);
    }
    if !symbol.doc.is_empty() {
        text += &format!("\n\n{}", symbol.doc);
    }
    let path = &analysis.sources.file(symbol.span.file).path;
    if let Some(name) = path.strip_prefix("std:").filter(|_| symbol.owner.is_none()) {
        text += &format!("\n\nFrom `std.{}`.", name.trim_end_matches(".mopd"));
    }
    text
}

fn module(analysis: &Analysis, file: crate::source::FileId) -> String {
    let path = &analysis.sources.file(file).path;
    let doc = analysis.index.tree(file).map_or("", |tree| tree.doc.as_str());
    if doc.is_empty() { format!("`{path}`") } else { format!("`{path}`\n\n{doc}") }
}

/// The first form of a built-in's usage, and the other forms.
fn first_usage(builtin: &Builtin) -> (&'static str, &'static str) {
    builtin.usage.split_once(", or ").unwrap_or((builtin.usage, ""))
}

fn builtin_text(builtin: &Builtin) -> String {
    let (written, other) = first_usage(builtin);
    let mut text = format!("{}\n\n{}", code(written), builtin.doc);
    if !other.is_empty() {
        text += &format!("\n\nOr `{other}`.");
    }
    let optional: Vec<&str> = builtin
        .parameters
        .iter()
        .filter(|parameter| !parameter.required)
        .map(|parameter| parameter.name)
        .collect();
    if !optional.is_empty() {
        text += &format!("\n\nMay be left out: `{}`.", optional.join("`, `"));
    }
    text
}

pub fn key_text(key: &SettingKey) -> String {
    let need = if key.required { "must be set" } else { "may be left out" };
    let mut text = format!("`{}` ({need}): {}", key.name, key.doc);
    if let ArgumentKind::Count = key.takes {
        let bound = bounds::for_setting(key.name);
        text += &format!(" At most {}: {}.", bounds::written(bound.most), bound.because);
    }
    if let ArgumentKind::Words(words) = key.takes {
        for word in words {
            text += &format!("\n- `{}`: {}", word.name, word.doc);
        }
    }
    text
}
