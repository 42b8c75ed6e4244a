//! Names of the entry file that nothing reads. A coefficient without effect is a common silent mistake.
//!
//! The text is searched for the word: it is available at once, whereas the index of names would have to be
//! built. A name that occurs elsewhere in the body counts as read, whatever it refers to there, so nothing in
//! use is reported. What certainly reads nothing does not count: keys of settings and names of arguments
//! (`lr = 0.1`, `lr: 0.1`), declarations, and fields (`data.lr`).

use std::cell::LazyCell;
use std::ops::Range;

use memchr::memmem;

use crate::diag::{Code, Diagnostic};
use crate::source::{FileId, SourceFile, Span};
use crate::syntax::ast::{Index, Item, ItemKind, Name, Route, Statement, Use};
use crate::syntax::words::is_word_byte;

use crate::check::declarations::Declarations;
use crate::check::evaluate::overrides;
use crate::check::names::allow::with_blanks;
use crate::check::names::callable::signature;
use crate::check::names::labels::labels;
use crate::check::names::modules::{Declared, ModuleId, taken_name};

const ENTRY: ModuleId = ModuleId(0);

/// A declared name, its place, and where it could be read.
struct Declaration<'a> {
    what: &'static str,
    name: &'a str,
    span: Span,
    within: Span,
    /// The place where an occurrence is not a read: the next value of a state for the state itself.
    itself: Option<Span>,
    /// The consequence, for the message.
    effect: &'static str,
    help: &'static str,
}

impl<'a> Declaration<'a> {
    fn new(what: &'static str, name: &'a Name, within: Span) -> Declaration<'a> {
        let (effect, help) = ("it changes nothing", "use it where its value belongs, or remove it");
        Declaration { what, name: &name.text, span: name.span, within, itself: None, effect, help }
    }

    /// `d` of `[d in domains]`; only `within` can read it.
    fn variable(index: &'a Index, within: Span) -> Declaration<'a> {
        let (effect, help) =
            ("all members are the same", "read it where they differ, such as `on: d`, or declare just one");
        Declaration { effect, help, ..Declaration::new("variable", &index.name, within) }
    }
}

pub fn warn_of_unused_names(declarations: &mut Declarations) {
    let tree = declarations.modules.tree(ENTRY);
    let mut declared = Vec::new();
    // An import or a sweep over a name does not count as a read.
    let mut passed_over = Vec::new();
    let mut imports = Vec::new();
    let file = declarations.modules.file(ENTRY);
    let text = declarations.sources.file(file).text.as_str();
    let everywhere = Span::new(file, 0, text.len());
    let labels = LazyCell::new(|| labels(tree.items.iter().map(|item| &**item)));
    // `--set student.objective=forward` reads a name too.
    let of_set = |file: &SourceFile| file.path.starts_with(overrides::PATH);
    let set: Vec<&str> = declarations
        .sources
        .files()
        .map(|(_, file)| file)
        .filter(|file| of_set(file))
        .filter_map(|file| Some(file.text.split_once('=')?.1))
        .collect();
    let mentions = |declared: &Declaration, passed_over: &[Span]| {
        let is_label = |at: usize| labels.contains(&(at as u32));
        let in_set = |text: &&str| words_in(text, 0..text.len(), declared.name).next().is_some();
        mentioned(text, file, declared, passed_over, &is_label) || set.iter().any(in_set)
    };
    for item in &tree.items {
        match &item.kind {
            ItemKind::Param(parameter) => {
                declared.push(Declaration::new("param", &parameter.name, everywhere))
            }
            ItemKind::Let { name, .. } if !item.public => {
                declared.push(Declaration::new("let", name, everywhere))
            }
            ItemKind::Sweep { axes, .. } => passed_over.extend(axes.iter().map(|axis| axis.name.span)),
            ItemKind::Use(import) => {
                passed_over.push(item.span);
                imports.push((&**item, import));
            }
            ItemKind::Model(binding) | ItemKind::Teacher { binding, .. } => {
                declared.extend(binding.indices.iter().map(|index| Declaration::variable(index, item.span)));
            }
            ItemKind::Route(route) => declared.extend(variables_of(route)),
            ItemKind::Objective { body, .. } => {
                for statement in &body.statements {
                    match statement {
                        Statement::Let { name, index, value, .. } => {
                            declared.push(Declaration::new("let", name, item.span));
                            let within = name.span.to(value.span);
                            declared.extend(index.iter().map(|index| Declaration::variable(index, within)));
                        }
                        // Read by a stage's `shares`.
                        Statement::State { name, .. } if named_by_a_stage(text, &name.text) => {}
                        Statement::State { name, index, first, next, .. } => {
                            let itself = next.as_ref().map(|next| next.span);
                            let within = name.span.to(itself.unwrap_or(first.span));
                            declared.extend(index.iter().map(|index| Declaration::variable(index, within)));
                            declared
                                .push(Declaration { itself, ..Declaration::new("state", name, item.span) });
                        }
                        Statement::Term { name, index, value, block } => {
                            let within = name.span.to(block.as_ref().map_or(value.span, |block| block.span));
                            declared.extend(index.iter().map(|index| Declaration::variable(index, within)));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        for parameter in signature(&item.kind).map_or(&[][..], |(_, parameters)| parameters) {
            declared.push(Declaration::new("parameter", &parameter.name, item.span));
        }
    }
    let unread = declared.into_iter().filter(|declared| !mentions(declared, &passed_over));
    let mut found: Vec<Diagnostic> = unread
        .map(|Declaration { what, name, span, effect, help, .. }| {
            let text = format!("the {what} `{name}` is never read: {effect}");
            Diagnostic::warning(Code::UnusedName, span, text).help(help)
        })
        .collect();
    for (item, import) in imports {
        let is_read = |name: &Name| {
            // Imported domains take part like the file's own.
            let domain = |declared: Declared| {
                matches!(declarations.modules.item(declared.item).kind, ItemKind::Domain { .. })
            };
            declarations.modules.lookup(ENTRY, &name.text).is_none_or(domain)
                || mentions(&Declaration::new("import", name, everywhere), &passed_over)
        };
        found.extend(unused_import(text, item, import, is_read));
    }
    for diagnostic in found {
        declarations.report(diagnostic);
    }
}

/// The variables of the arms of a route, `for d in domains: ...`.
fn variables_of(route: &Route) -> impl Iterator<Item = Declaration<'_>> {
    let help = "read it in the condition or behind the arrow, or write the arm once: `else -> ...`";
    let variable = move |index, within| Declaration {
        effect: "all of these arms are the same",
        help,
        ..Declaration::variable(index, within)
    };
    route.arms.iter().filter_map(move |arm| Some(variable(arm.index.as_ref()?, arm.span)))
}

/// Imported names that are not read, with the edit that removes them.
fn unused_import(text: &str, item: &Item, import: &Use, is_read: impl Fn(&Name) -> bool) -> Vec<Diagnostic> {
    let unread: Vec<usize> = (0..import.names.len()).filter(|at| !is_read(&import.names[*at])).collect();
    let diagnostic = |span: Span, names: &str| {
        let text = format!("the import of {names} is never used");
        Diagnostic::warning(Code::UnusedName, span, text).help("use what is imported, or remove the import")
    };
    let quoted = |at: usize| format!("`{}`", import.names[at].text);
    if unread.len() == import.names.len() {
        let names: Vec<String> = unread.iter().map(|at| quoted(*at)).collect();
        let Some(first) = import.names.first() else { return Vec::new() };
        let span = import.names.iter().fold(first.span, |span, name| span.to(name.span));
        return vec![diagnostic(span, &names.join(", ")).fix(
            "remove the import",
            with_blanks(text, item.span),
            "",
        )];
    }
    let one = |at: usize| {
        let taken = taken_name(text, item, import, at);
        diagnostic(import.names[at].span, &quoted(at)).fix(format!("remove {}", quoted(at)), taken, "")
    };
    unread.into_iter().map(one).collect()
}

/// Whether the word occurs other than where it is declared, imported or swept over, and other than as a label
/// or a field.
fn mentioned(
    text: &str,
    file: FileId,
    declared: &Declaration,
    passed_over: &[Span],
    is_label: &dyn Fn(usize) -> bool,
) -> bool {
    let (start, end) = (declared.within.start as usize, declared.within.end as usize);
    let stands_in = |start: usize, end: usize| {
        words_in(text, start..end, declared.name).any(|at| {
            let here = Span::new(file, at, at + declared.name.len());
            let mut passed = passed_over.iter().chain(&declared.itself);
            let labels = || before_a_value(&text[here.end as usize..]) && is_label(at);
            let reads_nothing = passed.any(|span| span.start <= here.start && here.end <= span.end)
                || is_field(text, at)
                || labels();
            !reads_nothing
        })
    };
    // Most names are read soon after their declaration, so the search begins there.
    let own = (declared.span.start as usize, declared.span.end as usize);
    stands_in(own.1.clamp(start, end), end) || stands_in(start, own.0.clamp(start, end))
}

/// Whether a word is behind a dot: `data.lr`, not `0..lr`.
fn is_field(text: &str, at: usize) -> bool {
    text[..at].ends_with('.') && !text[..at].ends_with("..")
}

/// Whether a text begins with `:` or `=`, and not with `==`.
fn before_a_value(behind: &str) -> bool {
    let behind = behind.trim_start_matches([' ', '\t']);
    behind.starts_with(':') || behind.starts_with('=') && !behind.starts_with("==")
}

/// Whether `state.name` occurs in the text.
fn named_by_a_stage(text: &str, name: &str) -> bool {
    words_in(text, 0..text.len(), &format!("state.{name}")).next().is_some()
}

/// The offsets of a whole word in a part of a text, outside comments.
fn words_in<'a>(text: &'a str, part: Range<usize>, word: &'a str) -> impl Iterator<Item = usize> {
    let (bytes, first) = (text.as_bytes(), part.start);
    memmem::find_iter(&bytes[part], word).map(move |at| first + at).filter(move |&from| {
        let whole = (from == 0 || !is_word_byte(bytes[from - 1]))
            && bytes.get(from + word.len()).is_none_or(|byte| !is_word_byte(*byte));
        whole && !in_comment(&bytes[..from])
    })
}

/// Whether the position after `before` is inside a comment.
fn in_comment(before: &[u8]) -> bool {
    let line =
        before.iter().rposition(|byte| *byte == b'\n').map_or(before, |newline| &before[newline + 1..]);
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
