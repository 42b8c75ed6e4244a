//! Builds the syntax tree from the grammar's pairs: items, blocks, statements.

use pest::Parser;
use pest::error::Error;
use pest::iterators::{Pair, Pairs};

use super::items::ItemParts;
use super::{Grammar, Rule, explain};
use crate::diag::{Code, Diagnostic};
use crate::source::{FileId, Span};
use crate::syntax::ast::*;
use crate::syntax::layout::{DocLine, LaidOutItem};

/// Which catch-all rule matched a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchAllRule {
    Item,
    Statement,
    /// An arm of a route.
    Arm,
    MatchArm,
    /// An axis of a sweep.
    Axis,
}

pub struct AstBuilder<'a> {
    file: FileId,
    source: &'a str,
    layout: &'a LaidOutItem,
    /// The start, in the piece, of the text that is being parsed.
    base: usize,
    /// The place whose column was asked for last, and where its line begins.
    line: (usize, usize),
    diagnostics: Vec<Diagnostic>,
    /// Documentation lines not yet given to an item.
    docs: std::iter::Peekable<std::slice::Iter<'a, DocLine>>,
    /// Documentation lines of the pieces before.
    earlier_docs: Vec<String>,
    /// The column of the last broken line, until something valid follows.
    pub last_broken: Option<usize>,
}

/// The state that parsing one piece of a file passes on to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParserState {
    docs: Vec<String>,
    last_broken: Option<usize>,
}

impl<'a> AstBuilder<'a> {
    pub fn new(file: FileId, source: &'a str, layout: &'a LaidOutItem, carry: ParserState) -> Self {
        let ParserState { docs: earlier_docs, last_broken } = carry;
        let docs = layout.docs.iter().peekable();
        let (base, line, diagnostics) = (0, (0, 0), Vec::new());
        AstBuilder { file, source, layout, base, line, diagnostics, docs, earlier_docs, last_broken }
    }

    /// The diagnostics, and the state for the next piece.
    pub fn finish(self) -> (Vec<Diagnostic>, ParserState) {
        let docs = self.earlier_docs.into_iter().chain(self.docs.map(|line| line.text.clone())).collect();
        (self.diagnostics, ParserState { docs, last_broken: self.last_broken })
    }

    // ---- Places ----

    /// The start of a pair, in the piece.
    pub fn offset(&self, pair: &Pair<Rule>) -> usize {
        self.base + pair.as_span().start()
    }

    pub fn span(&self, pair: &Pair<Rule>) -> Span {
        let length = pair.as_str().trim_end_matches([' ', '\t']).len();
        self.span_at(self.offset(pair), self.offset(pair) + length)
    }

    /// A span of the piece. A look-alike of an operator has more bytes than the operator: it is included or
    /// excluded as a whole.
    pub fn span_at(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, self.source.floor_char_boundary(start), self.source.ceil_char_boundary(end))
    }

    /// The laid-out text of the whole piece.
    pub fn text(&self) -> &'a str {
        &self.layout.text
    }

    pub fn name(&self, pair: &Pair<Rule>) -> Name {
        Name { text: pair.as_str().to_owned(), span: self.span(pair) }
    }

    // ---- Reports ----

    pub fn report(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub fn report_raw(&mut self, error: &Error<Rule>) {
        let at = explain::error_offset(error);
        let diagnostic = explain::describe(self, error, at, false);
        self.report(diagnostic);
    }

    pub fn unsupported(&mut self, span: Span, what: &str) {
        self.report(
            Diagnostic::error(Code::NotSupported, span, format!("{what} is not supported yet"))
                .label("part of the language, but this version can't run it"),
        );
    }

    // ---- Items ----

    /// An item, sound or broken; several where one text declares them.
    pub fn top_level(&mut self, pair: Pair<'a, Rule>) -> Vec<Item> {
        match pair.as_rule() {
            Rule::item => {
                self.last_broken = None;
                self.item(pair)
            }
            Rule::stray_item => self.broken_item(pair).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The documentation lines between the last item and this one.
    pub(super) fn doc(&mut self, start: usize) -> String {
        let mut lines = std::mem::take(&mut self.earlier_docs);
        while let Some(line) = self.docs.next_if(|line| line.at < start) {
            lines.push(line.text.clone());
        }
        lines.join("\n")
    }

    pub fn skip_docs(&mut self, end: usize) {
        while self.docs.next_if(|line| line.at < end).is_some() {}
    }

    /// Reports signs that other languages use for assignment.
    pub(super) fn assign(&mut self, pair: Pair<Rule>, in_block: bool) {
        let Some(sign) = pair.into_inner().find(|part| part.as_rule() == Rule::foreign_assign) else {
            return;
        };
        let written = sign.as_str();
        let message = match written {
            ":" if in_block => "a setting is written `key = value`, not `key: value`".to_owned(),
            "==" => "`==` compares; a value is given with `=`".to_owned(),
            _ => format!("a value is given with `=`, not `{written}`"),
        };
        let label =
            if written == ":" { "a colon names an argument, inside parentheses" } else { "expected `=`" };
        // `key: value` has no blank before its colon; `key = value` has one.
        let at = self.offset(&sign);
        let spaced = self.text()[..at].ends_with(' ');
        let replacement = if spaced { "=" } else { " =" };
        let diagnostic = Diagnostic::error(Code::ForeignSyntax, self.span(&sign), message).label(label);
        // The lines of a list, as in YAML, are more than one value.
        let value = &self.text()[at + written.len()..];
        let is_list = value.trim_start().starts_with("- ");
        self.report(match is_list {
            true => diagnostic.help("a list is written in brackets: `key = [a, b]`"),
            false => diagnostic.replace_with("write `=`", replacement),
        });
    }

    /// An expression and its tail: `where w = ...` or `by domain { ... }`.
    pub fn value(&mut self, pair: Pair<'a, Rule>) -> Option<Expr> {
        let mut parts = pair.into_inner();
        let value = self.expression(parts.find(|part| part.as_rule() == Rule::expression)?);
        let Some(tail) = parts.next().filter(|tail| tail.as_rule() != Rule::each_tail) else {
            return Some(value);
        };
        let mut span = value.span;
        let value = Box::new(value);
        let kind = match tail.as_rule() {
            Rule::by_tail => {
                let (mut axis, mut block) = (None, None);
                for part in tail.into_inner() {
                    match part.as_rule() {
                        Rule::name => axis = Some(self.name(&part)),
                        Rule::block => block = Some(self.block(part)),
                        _ => {}
                    }
                }
                let block = block?;
                span = span.to(block.span);
                ExprKind::By { value, axis: axis?, block }
            }
            _ => {
                let bindings = tail.into_inner().filter(|part| part.as_rule() == Rule::where_binding);
                let bindings: Vec<WhereBinding> =
                    bindings.filter_map(|binding| self.where_binding(binding)).collect();
                span = bindings.last().map_or(span, |last| span.to(last.value.span));
                ExprKind::Where { value, bindings }
            }
        };
        Some(Expr { span, kind })
    }

    /// `first then next`, or `first by domain then next`: the first value, the axis with one number per
    /// element, and the next value.
    fn state_value(&mut self, pair: Pair<'a, Rule>) -> Option<(Expr, Option<Name>, Option<Expr>)> {
        let each = pair.clone().into_inner().find(|part| part.as_rule() == Rule::each_tail);
        let (mut by, mut moved) = (None, None);
        for part in each.into_iter().flat_map(Pair::into_inner) {
            match part.as_rule() {
                Rule::name => by = Some(self.name(&part)),
                Rule::expression => moved = Some(self.expression(part)),
                _ => {}
            }
        }
        match (&by, self.value(pair)?) {
            (_, Expr { kind: ExprKind::Then { first, second }, .. }) if moved.is_none() => {
                if let Some(by) = &by {
                    let text = format!("`by {}` stands behind the first value of a state", by.text);
                    let help = format!("write `first by {} then next`", by.text);
                    self.report(Diagnostic::error(Code::Syntax, by.span, text).help(help));
                }
                Some((*first, by, Some(*second)))
            }
            (_, first) => Some((first, by, moved)),
        }
    }

    fn where_binding(&mut self, pair: Pair<'a, Rule>) -> Option<WhereBinding> {
        let (mut name, mut value) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name => name = Some(self.name(&part)),
                Rule::expression => value = Some(self.expression(part)),
                _ => {}
            }
        }
        Some(WhereBinding { name: name?, value: value? })
    }

    // ---- Blocks ----

    pub fn block(&mut self, pair: Pair<'a, Rule>) -> Block {
        let span = self.span(&pair);
        let mut statements = Vec::new();
        let (mut closed, mut broken) = (false, false);
        let outer = self.last_broken.take();
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::statement => {
                    self.last_broken = None;
                    statements.extend(part.into_inner().next().and_then(|part| self.statement(part)));
                }
                Rule::bad_statement => {
                    broken = true;
                    statements.extend(self.broken_statement(part));
                }
                Rule::close_brace => closed = true,
                _ => {}
            }
        }
        self.last_broken = outer;
        Block { span, statements, broken: broken || !closed }
    }

    fn statement(&mut self, pair: Pair<'a, Rule>) -> Option<Statement> {
        let rule = pair.as_rule();
        let mut parts = ItemParts::default();
        let (mut marks, mut state) = (Vec::new(), None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::name | Rule::key => parts.name = Some(self.name(&part)),
                Rule::family => parts.families.extend(self.family(part)),
                Rule::declared_type => parts.annotation = self.declared_type(part),
                Rule::assign => self.assign(part, rule == Rule::entry),
                Rule::inner_value => parts.value = self.value(part),
                Rule::state_value => state = Some(self.state_value(part)?),
                Rule::block => parts.block = Some(self.block(part)),
                Rule::mark => marks.extend(self.mark(part)),
                Rule::arms => parts.arms = Some(self.arms(part)),
                _ => {}
            }
        }
        match rule {
            Rule::let_statement => Some(Statement::Let {
                name: parts.name?,
                index: parts.families.pop(),
                annotation: parts.annotation,
                value: parts.value?,
            }),
            Rule::state_statement => {
                let (first, by, next) = state?;
                Some(Statement::State {
                    name: parts.name?,
                    index: parts.families.into_iter().next(),
                    first,
                    by,
                    next,
                })
            }
            Rule::term_statement => {
                let mut value = parts.value?;
                let end = value.span.end;
                let block = take_block(&mut value, end, self.text());
                Some(Statement::Term { name: parts.name?, index: parts.families.pop(), value, block })
            }
            Rule::trains_statement => Some(Statement::Trains { name: parts.name?, value: parts.value? }),
            Rule::step_statement => Some(Statement::Step { name: parts.name?, block: parts.block? }),
            Rule::route_statement => Some(Statement::Route(parts.arms?)),
            Rule::entry => Some(Statement::Entry(Entry { key: parts.name?, value: parts.value?, marks })),
            _ => None,
        }
    }

    pub fn mark(&mut self, pair: Pair<'a, Rule>) -> Option<Mark> {
        let (mut name, mut argument) = (None, None);
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::word => name = Some(self.name(&part)),
                Rule::string => argument = Some(self.text_literal(&part)),
                _ => {}
            }
        }
        Some(Mark { name: name?, argument })
    }

    // ---- Text that could not be parsed ----

    /// Reports a slice that a catch-all rule matched, unless it only continues a line reported before.
    pub fn broken(&mut self, pair: Pair<'a, Rule>, kind: CatchAllRule) {
        let start = self.offset(&pair);
        let slice = pair.as_str().trim_end();
        // Blanks at its end are included: a text that is never closed has been blanked.
        let end = start + pair.as_str().len();
        let column = self.column(start);
        let goes_on = self
            .last_broken
            .is_some_and(|last| column > last || kind == CatchAllRule::Item && column == last && column > 0);
        if goes_on {
            return;
        }
        self.last_broken = Some(column);
        let lexical = self.layout.diagnostics.iter().any(|diagnostic| {
            let at = diagnostic.primary.span.start as usize;
            at >= start && at <= end
        });
        if lexical {
            return;
        }
        let diagnostic = explain::explain(self, slice, start, kind);
        self.report(diagnostic);
    }

    /// The column of a place. Places come in order, so a line of any length is searched once.
    fn column(&mut self, at: usize) -> usize {
        let (searched, start) = if at < self.line.0 { (0, 0) } else { self.line };
        let newline = self.text()[searched..at].rfind(['\n', '\u{1}']);
        let start = newline.map_or(start, |newline| searched + newline + 1);
        self.line = (at, start);
        at - start
    }

    /// Parses a part of the piece again, to recover what is valid in it.
    pub fn reparse<T>(
        &mut self,
        rule: Rule,
        start: usize,
        end: usize,
        build: impl FnOnce(&mut Self, Pairs<'a, Rule>) -> T,
    ) -> Option<T> {
        let pairs = Grammar::parse(rule, &self.text()[start..end]).ok()?;
        let outer = std::mem::replace(&mut self.base, start);
        let built = build(self, pairs);
        self.base = outer;
        Some(built)
    }
}

/// An error node in place of an expression that uses an unsupported feature: its parts are not checked.
pub(super) fn lost(expr: Expr) -> Expr {
    Expr { kind: ExprKind::Error, ..expr }
}

/// Removes the block after a term's value from the last call of the value, since it belongs to the term. The
/// call ends at `end`.
fn take_block(value: &mut Expr, end: u32, text: &str) -> Option<Block> {
    let inner = match &mut value.kind {
        ExprKind::Call { block, .. } if block.as_ref().is_some_and(|block| block.span.end == end) => {
            let block = block.take()?;
            unwrap_bare(value, &block, text);
            return Some(block);
        }
        ExprKind::Unary { operand, .. } | ExprKind::Live(operand) => operand,
        ExprKind::Binary { right, .. } | ExprKind::Versus { right, .. } => right,
        ExprKind::Then { second, .. } => second,
        ExprKind::Arrow { to, .. } => to,
        ExprKind::Range { high, .. } => high,
        ExprKind::Pipe { through, .. } => through,
        ExprKind::For { body, .. } => body,
        _ => return None,
    };
    let block = take_block(inner, end, text)?;
    value.span.end = inner.span.end;
    Some(block)
}

/// Undoes a call that the parser made of a bare value and the braces after it.
fn unwrap_bare(call: &mut Expr, block: &Block, text: &str) {
    let ExprKind::Call { callee, .. } = &mut call.kind else { return };
    let before = text[..block.span.start as usize].trim_end().len() as u32;
    if callee.span.end == before {
        let bare = std::mem::replace(callee.as_mut(), Expr { span: block.span, kind: ExprKind::Error });
        *call = bare;
    } else {
        call.span.end = before;
    }
}
