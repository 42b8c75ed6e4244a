//! Prints the tree as lines.

use std::ops::Range;

use super::WIDTH;
use super::align;
use super::spacing::{begins_bindings, begins_tail, blank_before, ends_for_head, is_infix};
use super::tree::{
    Body, Comment, GroupRole, LayoutNode, LeadingTrivia, SourcePiece, TokenGroup, TreeEntry, is_token,
};

/// Columns of indentation per level.
const STEP: usize = 2;

pub struct PrintedLine<'a> {
    pub indent: usize,
    pub text: String,
    /// The comment after the text.
    pub comment: Option<&'a str>,
}

impl PrintedLine<'_> {
    pub fn width(&self) -> usize {
        self.indent + width(&self.text)
    }
}

/// The width of a text in columns, one per character: of the first line, if it has several.
pub fn width(text: &str) -> usize {
    text.split('\n').next().unwrap_or_default().chars().count()
}

/// A printed entry.
pub struct Printed<'a, 't> {
    pub entry: &'t TreeEntry<'a>,
    pub lines: Vec<PrintedLine<'a>>,
}

pub fn file(source: &str, body: &Body) -> String {
    let printer = Printer { source };
    let mut lines = Vec::new();
    printer.body(body, GroupRole::Block, true, 0, &mut lines);
    let mut text = String::new();
    for line in lines {
        let comment = line.comment.map_or(String::new(), |comment| format!(" {comment}"));
        let indent = if line.text.is_empty() { 0 } else { line.indent };
        text += &format!("{:indent$}{}{comment}\n", "", line.text);
    }
    text
}

pub struct Printer<'s> {
    source: &'s str,
}

impl<'s> Printer<'s> {
    fn body<'a>(
        &self,
        body: &Body<'a>,
        role: GroupRole,
        top: bool,
        indent: usize,
        out: &mut Vec<PrintedLine<'a>>,
    ) {
        let start = out.len();
        let blank = |out: &mut Vec<PrintedLine>, wanted: bool| {
            if wanted && out.len() > start {
                out.push(PrintedLine { indent: 0, text: String::new(), comment: None });
            }
        };
        let mut printed: Vec<Printed> =
            body.entries.iter().map(|entry| Printed { entry, lines: self.entry(entry, indent) }).collect();
        if role == GroupRole::Block {
            align::entries(self, &mut printed, top);
        }
        let count = printed.len();
        for (index, entry) in printed.iter_mut().enumerate() {
            let comma = matches!(role, GroupRole::Elements | GroupRole::Names)
                || role == GroupRole::Single && index + 1 < count;
            if comma && let Some(last) = entry.lines.last_mut() {
                last.text.push(',');
            }
        }
        align::comments(&mut printed);
        for Printed { entry, lines } in printed {
            for comment in &entry.leading {
                blank(out, comment.blank_before);
                out.push(own_line(comment, indent));
            }
            blank(out, entry.blank_before);
            out.extend(lines);
        }
        for comment in &body.tail {
            blank(out, comment.blank_before);
            out.push(own_line(comment, indent));
        }
    }

    fn entry<'a>(&self, entry: &TreeEntry<'a>, indent: usize) -> Vec<PrintedLine<'a>> {
        if entry.verbatim {
            return vec![PrintedLine { indent, text: self.verbatim(entry), comment: entry.trailing }];
        }
        let group_at = |at: usize| match &entry.pieces[at].node {
            LayoutNode::Group(group) => Some(group),
            LayoutNode::Token(..) => None,
        };
        let mut broken: Vec<bool> =
            (0..entry.pieces.len()).map(|at| group_at(at).is_some_and(must_break)).collect();
        // Blocks are broken first, then lists and arguments, the last ones first.
        loop {
            let mut candidate = None;
            for (line, pieces) in self.lines(entry, indent, &broken, false) {
                if line.width() <= WIDTH {
                    continue;
                }
                let may = |at: &usize| !broken[*at] && group_at(*at).is_some_and(may_break);
                let block = |at: &usize| group_at(*at).is_some_and(|group| group.role == GroupRole::Block);
                let last =
                    pieces.clone().rev().filter(may).find(block).or_else(|| pieces.clone().rev().find(may));
                candidate = candidate.or(last);
            }
            match candidate {
                Some(at) => broken[at] = true,
                None => break,
            }
        }
        self.lines(entry, indent, &broken, true).into_iter().map(|(line, _)| line).collect()
    }

    /// The lines of an entry, each with its pieces. With `whole`, lines inside its brackets are
    /// included.
    fn lines<'a>(
        &self,
        entry: &TreeEntry<'a>,
        indent: usize,
        broken: &[bool],
        whole: bool,
    ) -> Vec<(PrintedLine<'a>, Range<usize>)> {
        let pieces = &entry.pieces;
        let mut lines = Vec::new();
        let mut line = PrintedLine { indent, text: String::new(), comment: None };
        let mut first = 0;
        let mut level = 0;
        // The column of further bindings of a `where`, below the first.
        let mut bindings = None;
        for (at, piece) in pieces.iter().enumerate() {
            if at > 0 && breaks_before(pieces, at) {
                let deeper = is_token(&pieces[at - 1].node, "=") || ends_for_head(pieces, at - 1);
                let binding = bindings.filter(|_| is_token(&pieces[at - 1].node, ","));
                level = if deeper { level + 1 } else { binding.unwrap_or(level.max(1)) };
                if begins_bindings(pieces, at) {
                    bindings = Some(level + "where ".len() / STEP);
                }
                let indent = indent + STEP * level;
                let mut comments = piece.before.comments.iter().peekable();
                line.comment = comments.next_if(|comment| !comment.own_line).map(|comment| comment.text);
                lines.push((line, first..at));
                first = at;
                lines.extend(comments.map(|comment| (own_line(comment, indent), at..at)));
                line = PrintedLine { indent, text: String::new(), comment: None };
            } else if at > 0 && blank_before(pieces, at) {
                line.text.push(' ');
            }
            match &piece.node {
                LayoutNode::Token(_, token) => line.text += token,
                LayoutNode::Group(group) if broken[at] => {
                    line.text += group.open;
                    line.comment = group.opening;
                    let indent = line.indent;
                    lines.push((line, first..at));
                    first = at + 1;
                    if whole {
                        let mut inner = Vec::new();
                        self.body(&group.body, group.role, false, indent + STEP, &mut inner);
                        lines.extend(inner.into_iter().map(|line| (line, at..at)));
                    }
                    line = PrintedLine { indent, text: group.close.to_owned(), comment: None };
                }
                LayoutNode::Group(group) => self.group(group, &mut line.text),
            }
        }
        line.comment = entry.trailing;
        lines.push((line, first..pieces.len()));
        lines
    }

    /// A group on one line.
    fn group(&self, group: &TokenGroup, out: &mut String) {
        let entries = &group.body.entries;
        let padding = if group.role == GroupRole::Block && !entries.is_empty() { " " } else { "" };
        out.push_str(group.open);
        out.push_str(padding);
        for (at, entry) in entries.iter().enumerate() {
            if at > 0 {
                out.push_str(", ");
            }
            self.flat(entry, out);
        }
        out.push_str(padding);
        out.push_str(group.close);
    }

    /// An entry on one line.
    pub fn flat(&self, entry: &TreeEntry, out: &mut String) {
        if entry.verbatim {
            return out.push_str(&self.verbatim(entry));
        }
        self.flat_pieces(&entry.pieces, out);
    }

    pub fn flat_pieces(&self, pieces: &[SourcePiece], out: &mut String) {
        for (at, piece) in pieces.iter().enumerate() {
            if at > 0 && blank_before(pieces, at) {
                out.push(' ');
            }
            match &piece.node {
                LayoutNode::Token(_, token) => out.push_str(token),
                LayoutNode::Group(group) => self.group(group, out),
            }
        }
    }

    fn verbatim(&self, entry: &TreeEntry) -> String {
        self.source[entry.span.clone()].replace("\r\n", "\n")
    }
}

fn own_line<'a>(comment: &Comment<'a>, indent: usize) -> PrintedLine<'a> {
    PrintedLine { indent, text: comment.text.to_owned(), comment: None }
}

/// Whether the author wrote the group on several lines.
fn must_break(group: &TokenGroup) -> bool {
    group.lines && !(group.body.entries.is_empty() && group.body.tail.is_empty() && group.opening.is_none())
}

fn may_break(group: &TokenGroup) -> bool {
    group.role != GroupRole::Single && !group.body.entries.is_empty()
}

/// Whether a new line begins with piece `at`: because of a comment, or because the author broke the line at
/// an operator. The operator stays on the line before, as outside brackets; `|>` and `where` begin the new
/// line.
fn breaks_before(pieces: &[SourcePiece], at: usize) -> bool {
    let LeadingTrivia { newline, comments } = &pieces[at].before;
    if !comments.is_empty() {
        return true;
    }
    if begins_tail(pieces, at) {
        return *newline
            || pieces.get(at + 1).is_some_and(|next| next.before.newline && next.before.comments.is_empty());
    }
    let operator = &pieces[at - 1].before;
    is_infix(pieces, at - 1) && (*newline || operator.newline && operator.comments.is_empty())
}
