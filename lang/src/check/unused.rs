//! Names of the entry file that nothing reads: a coefficient that changes nothing is the oldest silent mistake of all.
//!
//! It is enough to look for the word. A name that stands somewhere else in the body counts as read, whatever it means there, so
//! that nothing is reported that may be in use; and the text is at hand, where the index of names would have to be built first.

use crate::diag::{Code, Diagnostic};
use crate::source::{FileId, Span};
use crate::syntax::ast::{ItemKind, Statement};
use crate::syntax::words::is_word_byte;

use super::Checker;
use super::items::signature;
use super::modules::ModuleId;

const ENTRY: ModuleId = ModuleId(0);

/// A name, where it is declared, and where it could be read.
struct Declared {
    what: &'static str,
    name: String,
    span: Span,
    within: Span,
}

impl Checker {
    pub(super) fn warn_of_unused_names(&mut self) {
        let tree = self.modules.tree(ENTRY);
        let mut declared = Vec::new();
        // To be swept over is not to be read.
        let mut swept = Vec::new();
        let file = self.modules.file(ENTRY);
        let text = self.sources.file(file).text.as_str();
        let everywhere = Span::new(file, 0, text.len());
        for item in &tree.items {
            match &item.kind {
                ItemKind::Param(parameter) => {
                    let name = &parameter.name;
                    declared.push(Declared { what: "param", name: name.text.clone(), span: name.span, within: everywhere });
                }
                ItemKind::Sweep { axes, .. } => swept.extend(axes.iter().map(|axis| axis.name.span)),
                ItemKind::Objective { body, .. } => {
                    for statement in &body.statements {
                        let Statement::Let { name, .. } = statement else { continue };
                        declared.push(Declared { what: "let", name: name.text.clone(), span: name.span, within: item.span });
                    }
                }
                _ => {}
            }
            for parameter in signature(&item.kind).map_or(&[][..], |(_, parameters)| parameters) {
                let name = &parameter.name;
                declared.push(Declared { what: "parameter", name: name.text.clone(), span: name.span, within: item.span });
            }
        }
        let unread = declared.into_iter().filter(|declared| !mentioned(text, file, declared, &swept));
        for Declared { what, name, span, .. } in unread.collect::<Vec<_>>() {
            let text = format!("the {what} `{name}` is never read: it changes nothing");
            self.report(Diagnostic::warning(Code::UnusedName, span, text).help("use it where its value belongs, or remove it"));
        }
    }
}

/// Whether the word stands somewhere but where it is declared or swept over.
fn mentioned(text: &str, file: FileId, declared: &Declared, swept: &[Span]) -> bool {
    let (start, end) = (declared.within.start as usize, declared.within.end as usize);
    let bytes = text.as_bytes();
    text[start..end].match_indices(declared.name.as_str()).any(|(at, word)| {
        let (from, to) = (start + at, start + at + word.len());
        let whole = (from == 0 || !is_word_byte(bytes[from - 1])) && bytes.get(to).is_none_or(|byte| !is_word_byte(*byte));
        let here = Span::new(file, from, to);
        whole && here != declared.span && !swept.contains(&here) && !in_comment(&bytes[..from])
    })
}

/// Whether what follows `before` stands behind the `//` of its line.
fn in_comment(before: &[u8]) -> bool {
    let line = before.iter().rposition(|byte| *byte == b'\n').map_or(before, |newline| &before[newline + 1..]);
    let (mut text, mut at) = (false, 0);
    while at < line.len() {
        match line[at] {
            b'\\' if text => at += 1,
            b'"' => text = !text,
            b'/' if !text && line.get(at + 1) == Some(&b'/') => return true,
            _ => {}
        }
        at += 1;
    }
    false
}
