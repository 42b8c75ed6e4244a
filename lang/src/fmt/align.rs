//! Alignment of `=`, `->`, tables and comments of adjacent lines in columns.

use super::WIDTH;
use super::print::{Printed, Printer, width};
use super::tree::{GroupRole, LayoutNode, TokenGroup, TreeEntry, is_token};
use crate::syntax::tokens::TokenKind;

/// The form of a line. Adjacent lines of one form are aligned.
#[derive(PartialEq)]
enum LineShape<'a> {
    /// `head = rest`, `condition -> value`, `name in values`. At the top level only items of one kind are
    /// aligned.
    Sides { kind: Option<&'a str>, operator: &'static str },
    /// `keyword name { ... }`
    Table { kind: Option<&'a str> },
}

/// An alignable line, and the index of the piece before which it is split.
struct SplitLine<'a> {
    shape: LineShape<'a>,
    at: usize,
}

/// Aligns the one-line entries of a block, or of the file.
pub fn entries(printer: &Printer, printed: &mut [Printed], top: bool) {
    let splits: Vec<Option<SplitLine>> = printed.iter().map(|printed| split(printed, top)).collect();
    let mut start = 0;
    while start < printed.len() {
        let mut end = start + 1;
        let joins = |at: usize| {
            let same = splits[at].as_ref().map(|split| &split.shape)
                == splits[start].as_ref().map(|split| &split.shape);
            splits[start].is_some() && same && follows(&printed[at])
        };
        while end < printed.len() && joins(end) {
            end += 1;
        }
        if end > start + 1 {
            let at: Vec<usize> = splits[start..end].iter().flatten().map(|split| split.at).collect();
            line_up(printer, &mut printed[start..end], &at);
        }
        start = end;
    }
}

/// Whether the entry is on the line directly after the previous entry.
fn follows(printed: &Printed) -> bool {
    !printed.entry.blank_before && printed.entry.leading.is_empty()
}

/// A text of several lines is a part of one printed line.
fn is_one_line(printed: &Printed) -> bool {
    matches!(printed.lines.as_slice(), [line] if !line.text.contains('\n'))
}

fn split<'a>(printed: &Printed<'a, '_>, top: bool) -> Option<SplitLine<'a>> {
    let entry = printed.entry;
    if !is_one_line(printed) || entry.verbatim {
        return None;
    }
    let pieces = &entry.pieces;
    let find = |token: &str| pieces.iter().position(|piece| is_token(&piece.node, token));
    let bracket = pieces.iter().position(|piece| matches!(piece.node, LayoutNode::Group(_)));
    let plain_before = |at: usize| bracket.is_none_or(|bracket| at < bracket);
    let word = |at: usize| match pieces.get(at).map(|piece| &piece.node) {
        Some(LayoutNode::Token(TokenKind::Word, word)) => Some(*word),
        _ => None,
    };
    let keyword = if word(0) == Some("pub") { word(1) } else { word(0) };
    let kind = if top { keyword } else { None };
    // The value of a setting may contain an arrow, the value of an arm the `=` of a `where`.
    let arrow = find("->");
    if let Some(at) = find("=").filter(|at| arrow.is_none_or(|arrow| at < &arrow)) {
        return plain_before(at).then_some(SplitLine { shape: LineShape::Sides { kind, operator: "=" }, at });
    }
    if let Some(at) = arrow {
        return (word(0) != Some("for"))
            .then_some(SplitLine { shape: LineShape::Sides { kind, operator: "->" }, at });
    }
    if word(0) != Some("for") && word(1) == Some("in") {
        return Some(SplitLine { shape: LineShape::Sides { kind, operator: "in" }, at: 1 });
    }
    // A block with nothing after it: `domain sort { ... }`, `step follow { ... }`; inside a block also `route
    // { ... }`.
    let at = bracket.filter(|at| at + 1 == pieces.len() && block(entry, *at).is_some())?;
    match (top, at) {
        (true, 2..) => Some(SplitLine { shape: LineShape::Table { kind }, at }),
        (false, 2) if word(0) == Some("step") => {
            Some(SplitLine { shape: LineShape::Table { kind: word(0) }, at })
        }
        (false, 1) => Some(SplitLine { shape: LineShape::Sides { kind, operator: "=" }, at }),
        _ => None,
    }
}

fn block<'a, 't>(entry: &'t TreeEntry<'a>, at: usize) -> Option<&'t TokenGroup<'a>> {
    match &entry.pieces[at].node {
        LayoutNode::Group(group) if group.role == GroupRole::Block => Some(group),
        _ => None,
    }
}

/// Aligns the parts of entries from piece `at` on, and also the entries of their blocks where these form a
/// table.
fn line_up(printer: &Printer, printed: &mut [Printed], at: &[usize]) {
    let mut heads = Vec::new();
    let mut rests = Vec::new();
    for (printed, at) in printed.iter().zip(at) {
        let (head, rest) = printed.entry.pieces.split_at(*at);
        let mut texts = (String::new(), String::new());
        printer.flat_pieces(head, &mut texts.0);
        printer.flat_pieces(rest, &mut texts.1);
        heads.push(texts.0);
        rests.push(texts.1);
    }
    let column = heads.iter().map(|head| width(head)).max().unwrap_or(0);
    if let Some(rows) = table(printer, printed, at)
        && rows.iter().all(|row| column + 1 + width(row) <= WIDTH)
    {
        rests = rows;
    }
    for ((printed, head), rest) in printed.iter_mut().zip(heads).zip(rests) {
        printed.lines[0].text = format!("{head:column$} {rest}");
    }
}

/// The blocks as rows of cells, if all have the same keys in the same order.
fn table(printer: &Printer, printed: &[Printed], at: &[usize]) -> Option<Vec<String>> {
    let groups =
        printed.iter().zip(at).map(|(printed, at)| block(printed.entry, *at)).collect::<Option<Vec<_>>>()?;
    let keys = |group: &TokenGroup| group.body.entries.iter().map(key).collect::<Option<Vec<String>>>();
    let first = keys(groups[0])?;
    if first.is_empty() || groups.iter().any(|group| keys(group).as_ref() != Some(&first)) {
        return None;
    }
    let cells = |group: &&TokenGroup| -> Vec<String> {
        let cell = |entry: &TreeEntry| {
            let mut text = String::new();
            printer.flat(entry, &mut text);
            text
        };
        group.body.entries.iter().map(cell).collect()
    };
    let cells: Vec<Vec<String>> = groups.iter().map(cells).collect();
    let row = |row: &Vec<String>| {
        let mut text = String::from("{ ");
        for (at, cell) in row.iter().enumerate() {
            if at + 1 == row.len() {
                text += &format!("{cell} }}");
            } else {
                let column = cells.iter().map(|row| width(&row[at])).max().unwrap_or(0) + 1;
                text += &format!("{:column$} ", format!("{cell},"));
            }
        }
        text
    };
    Some(cells.iter().map(row).collect())
}

fn key(entry: &TreeEntry) -> Option<String> {
    match entry.pieces.as_slice() {
        [key, equals, ..] if !entry.verbatim && is_token(&equals.node, "=") => match key.node {
            LayoutNode::Token(_, key) => Some(key.to_owned()),
            LayoutNode::Group(_) => None,
        },
        _ => None,
    }
}

/// Aligns the comments after adjacent lines.
pub fn comments(printed: &mut [Printed]) {
    let one_line = |printed: &Printed| is_one_line(printed) && printed.lines[0].comment.is_some();
    let mut start = 0;
    while start < printed.len() {
        let mut end = start + 1;
        while end < printed.len()
            && one_line(&printed[start])
            && one_line(&printed[end])
            && follows(&printed[end])
        {
            end += 1;
        }
        let run = &mut printed[start..end];
        let column = run.iter().map(|printed| width(&printed.lines[0].text)).max().unwrap_or(0);
        if run.len() > 1 {
            for printed in run {
                let line = &mut printed.lines[0];
                line.text = format!("{:column$}", line.text);
            }
        }
        start = end;
    }
}
