//! The layout pass before the grammar, which decides which newlines are separators and which comments are
//! blanked, and matches brackets.
//!
//! The output has the length of the input, byte for byte, so every offset stays valid. Whether a newline is a
//! separator depends on the brackets around it and on the token before it, which a context-free grammar can't
//! express. And a bracket without a partner is best reported at its place, not where the grammar stops.

mod brackets;
mod habits;
mod texts;

use brackets::partner;

use super::quotes::TRIPLE;
use super::words::{self, LineHead};
use crate::diag::{Code, Diagnostic};
use crate::source::{FileId, Span};

/// The byte that replaces the newline before an item that begins while a block is still open.
const BOUNDARY: u8 = 1;

/// The deepest tree that is accepted. It bounds the recursion of every pass over the tree.
pub(crate) const MAX_DEPTH: usize = 256;

/// A piece of a file, ready for the grammar: an item with the comments before it and everything after it up
/// to the next item. All offsets count from the beginning of the piece, and nothing in it depends on the text
/// before.
pub struct LaidOutItem {
    pub text: String,
    pub diagnostics: Vec<Diagnostic>,
    /// `//!` lines.
    pub module_doc: Vec<String>,
    /// `///` lines.
    pub docs: Vec<DocLine>,
    pub context: LayoutContext,
}

/// A line of documentation, and where it begins.
pub struct DocLine {
    pub at: usize,
    pub text: String,
}

/// The dependencies of a layout besides the text of the piece and the first words of the next piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayoutContext {
    /// The value of `items_close`, if the layout depends on it.
    pub items_close: Option<bool>,
    /// Whether a search went to the end of the file without success.
    pub rest_of_file: bool,
    /// Whether the file ends inside a block that this piece opens.
    pub unclosed_brace: bool,
}

/// A piece of a file.
pub enum LayoutPiece {
    New(LaidOutItem),
    /// A piece that the caller has already, by its number.
    KnownPiece(usize),
}

/// A piece that need not be laid out again.
pub struct KnownPiece {
    pub number: usize,
    pub length: usize,
    pub unclosed_brace: bool,
}

/// The laid-out text of a whole file. It has the length of the file.
pub fn lay_out(text: &str) -> String {
    let (pieces, _) = pieces(FileId(0), text, |_, _| None);
    let texts = pieces.into_iter().map(|piece| match piece {
        LayoutPiece::New(layout) => layout.text,
        LayoutPiece::KnownPiece(_) => unreachable!("none is known"),
    });
    texts.collect()
}

/// Cuts a file into pieces, and returns whether items end the blocks around them. `known` returns the known
/// piece at an offset under that rule, if there is one.
pub fn pieces(
    file: FileId,
    text: &str,
    known: impl Fn(usize, bool) -> Option<KnownPiece>,
) -> (Vec<LayoutPiece>, bool) {
    let cut = |items_close: bool| {
        let (mut pieces, mut at, mut unclosed_brace) = (Vec::new(), 0, false);
        while at < text.len() {
            let piece = match known(at, items_close) {
                Some(known) => {
                    at += known.length;
                    unclosed_brace = known.unclosed_brace;
                    LayoutPiece::KnownPiece(known.number)
                }
                None => {
                    let layout = lay_out_piece(file, &text[at..], items_close);
                    at += layout.text.len();
                    unclosed_brace = layout.context.unclosed_brace;
                    LayoutPiece::New(layout)
                }
            };
            pieces.push(piece);
        }
        (pieces, unclosed_brace)
    };
    let (pieces, unclosed_brace) = cut(false);
    if !unclosed_brace {
        return (pieces, false);
    }
    // Some `{` has no partner, so items at the start of a line also end the blocks around them.
    (cut(true).0, true)
}

/// The first piece of `rest`, which extends to the end of the file.
pub fn lay_out_piece(file: FileId, rest: &str, items_close: bool) -> LaidOutItem {
    Scanner::new(file, rest, items_close).run()
}

/// An open bracket, or the file itself.
struct OpenBracket {
    bracket: u8,
    at: usize,
    /// Operators and closed brackets since the last separator, a bound on the depth of the expression's tree.
    operators: usize,
    /// Whether it contains arms: `condition -> value`.
    arms: bool,
    /// Whether the `->` of the current arm has been passed.
    led: bool,
}

/// The last token of the line so far.
#[derive(Clone, Copy, PartialEq)]
enum LastToken {
    Nothing,
    /// The line continues after it.
    Operator,
    /// The word `where`: its bindings may begin on the next line.
    Where,
    Comma,
    OpenBracket,
    Value,
}

/// The next line with content.
#[derive(Clone, Copy)]
struct NextLine {
    start: usize,
    /// The kind of its beginning.
    head: LineHead,
}

struct Scanner<'a> {
    file: FileId,
    text: &'a str,
    bytes: &'a [u8],
    /// The laid-out text, up to the last replacement.
    out: Vec<u8>,
    at: usize,
    /// Whether the next item begins here.
    complete: bool,
    open: Vec<OpenBracket>,
    depth: usize,
    last: LastToken,
    next_line: NextLine,
    /// Whether items at the start of a line end the blocks around them.
    items_close: bool,
    context: LayoutContext,
    /// The partners of the brackets in texts that are never closed.
    swallowed: Vec<u8>,
    /// Where a comment of another language begins that is never closed.
    open_comment: Option<usize>,
    /// Where the last path whose parts are joined by `::` ends. It is reported once.
    path_end: usize,
    diagnostics: Vec<Diagnostic>,
    module_doc: Vec<String>,
    docs: Vec<DocLine>,
}

impl<'a> Scanner<'a> {
    fn new(file: FileId, text: &'a str, items_close: bool) -> Self {
        Scanner {
            file,
            text,
            bytes: text.as_bytes(),
            out: Vec::new(),
            at: 0,
            complete: false,
            open: vec![OpenBracket { bracket: 0, at: 0, operators: 0, arms: false, led: false }],
            depth: 0,
            last: LastToken::Nothing,
            next_line: NextLine { start: 0, head: LineHead::Other },
            items_close,
            context: LayoutContext::default(),
            swallowed: Vec::new(),
            open_comment: None,
            path_end: 0,
            diagnostics: Vec::new(),
            module_doc: Vec::new(),
            docs: Vec::new(),
        }
    }

    fn run(mut self) -> LaidOutItem {
        while self.at < self.bytes.len() && !self.complete {
            self.step();
        }
        let innermost_brace = self.open.iter().rposition(|open| open.bracket == b'{');
        self.context.unclosed_brace = innermost_brace.is_some();
        // A bracket inside an unclosed block, or else the outermost block, so that one slip gives one report.
        let open_paren = self.open.iter().rposition(|open| matches!(open.bracket, b'(' | b'['));
        if let Some(at) = open_paren.or(self.open.iter().position(|open| open.bracket == b'{')) {
            let open = &self.open[at];
            self.report_unclosed(open.bracket, open.at, None);
        }
        self.replace(self.at, self.at);
        let text = String::from_utf8(self.out).expect("only whole characters are replaced, by ASCII");
        let Scanner { diagnostics, module_doc, docs, context, .. } = self;
        LaidOutItem { text, diagnostics, module_doc, docs, context }
    }

    /// A mutable range of the laid-out text.
    fn replace(&mut self, start: usize, end: usize) -> &mut [u8] {
        if self.out.len() < end {
            self.out.extend_from_slice(&self.bytes[self.out.len()..end]);
        }
        &mut self.out[start..end]
    }

    fn step(&mut self) {
        let rest = &self.text[self.at..];
        let byte = self.bytes[self.at];
        match byte {
            b' ' | b'\t' => self.at += 1,
            b'\r' | b'\x0c' => self.blank(self.at, self.at + 1),
            b'\n' => self.newline(),
            b'<' | b'=' | b'>' | b'|' | b'`' if self.at_line_start() && self.left_behind(rest) => {}
            b'/' if rest.starts_with("//") => self.comment(),
            b'/' if rest.starts_with("/*") => self.block_comment(),
            b':' if rest.starts_with("::") => self.double_colon(),
            b'#' => {
                let end = self.line_end();
                let hashes = rest.bytes().take_while(|byte| *byte == b'#').count();
                let span = self.span(self.at, self.at + hashes);
                self.report(
                    Diagnostic::error(Code::ForeignSyntax, span, "comments begin with `//`, not `#`")
                        .label("this begins a comment in Python, YAML and shell")
                        .replace_with("write `//`", "//"),
                );
                self.blank(self.at, end);
            }
            b'f' | b'r' | b'u' | b'b' if self.prefixed_text(rest) => {}
            b'"' if rest.starts_with(TRIPLE) => self.several_lines(),
            b'"' => self.string(),
            b'\'' => self.single_quoted(),
            b'(' | b'[' | b'{' => self.opening(byte),
            b')' | b']' | b'}' => self.closing(byte),
            b',' => {
                self.separate();
                self.last = LastToken::Comma;
                self.at += 1;
            }
            b'&' if self.entity(rest) => {}
            b';' => self.semicolon(),
            b'0'..=b'9' => self.number(),
            _ if words::is_word_byte(byte) => self.word(),
            _ if byte.is_ascii_control() => {
                let span = self.span(self.at, self.at + 1);
                let message = format!("a control character (U+{byte:04X}) does not belong in source text");
                self.report(Diagnostic::error(Code::Syntax, span, message).replace_with("remove it", ""));
                self.blank(self.at, self.at + 1);
            }
            _ if byte.is_ascii() => self.operator(),
            _ => self.lookalike(),
        }
    }

    // ---- Newlines ----

    fn newline(&mut self) {
        let at = self.at;
        self.at += 1;
        // A run of blank lines and comments is scanned once.
        if self.at > self.next_line.start {
            let (start, head) = words::line_head(self.text, self.at);
            self.next_line = NextLine { start, head };
        }
        let NextLine { start: next, head } = self.next_line;
        let top = self.open.last().map_or(0, |open| open.bracket);
        let item = match head {
            LineHead::Item => true,
            // `let` and `route` may also be in a block. At the left margin they count as items.
            LineHead::ItemOrStatement => self.bytes[next - 1] == b'\n',
            _ => false,
        };

        if matches!(top, b'(' | b'[') {
            let expects_more =
                matches!(self.last, LastToken::Comma | LastToken::OpenBracket | LastToken::Operator);
            let unclosed = match head {
                LineHead::Item | LineHead::ItemOrStatement | LineHead::Statement => true,
                LineHead::Entry => top == b'[' || !expects_more,
                _ => false,
            };
            if !unclosed {
                self.replace(at, at + 1).fill(b' ');
                return;
            }
            self.pop_parens(Some(next));
        }

        let settings_follow =
            head == LineHead::Entry && self.open.len() == 1 && self.last == LastToken::Value;
        if settings_follow && self.block_without_its_opening(at, next) {
            return;
        }
        if item && self.open.len() > 1 {
            self.context.items_close = Some(self.items_close);
        }
        if item && self.items_close && self.open.len() > 1 {
            let outermost = self.open[1].at;
            self.report_unclosed(b'{', outermost, Some(next));
            self.open.truncate(1);
            self.depth = self.open[0].operators;
            self.replace(at, at + 1).fill(BOUNDARY);
        } else if head == LineHead::Brace && self.last == LastToken::Value {
            self.report(
                Diagnostic::error(
                    Code::Syntax,
                    self.span(next, next + 1),
                    "`{` belongs at the end of the line before",
                )
                .label("a block begins on the line of what it belongs to"),
            );
            self.blank(at, next);
            return;
        } else if self.last == LastToken::Operator && head == LineHead::Other
            || self.last == LastToken::Where && matches!(head, LineHead::Other | LineHead::Entry)
            || self.last == LastToken::Value && head == LineHead::Tail
        {
            self.replace(at, at + 1).fill(b' ');
            return;
        }
        // Blank lines and comments belong to the item after them. Between items no bracket is open, so the
        // text after does not depend on the text before.
        self.complete = item && self.open.len() == 1 && self.last != LastToken::Nothing;
        self.separate();
        self.last = LastToken::Nothing;
    }

    /// Handles a separator. The depth starts again, since siblings do not nest.
    fn separate(&mut self) {
        if let Some(open) = self.open.last_mut() {
            self.depth -= open.operators;
            (open.operators, open.led) = (0, false);
        }
    }

    // ---- Brackets ----

    // ---- Words, numbers, operators ----

    fn word(&mut self) {
        let length = words::word_length(&self.bytes[self.at..]);
        let word = &self.text[self.at..self.at + length];
        if matches!(word, "hf" | "gguf" | "checkpoint" | "dataset") && self.unquoted_path(length) {
            return;
        }
        if matches!(word, "AND" | "OR" | "NOT") && self.loud_word(word) {
            return;
        }
        if word == "end" && self.end_of_a_block() {
            return;
        }
        let after_dot = self.at > 0 && self.bytes[self.at - 1] == b'.';
        let operator = !after_dot && matches!(word, "and" | "or" | "not" | "then" | "live" | "for");
        // `where(` is a call of the function.
        let tail =
            !after_dot && word == "where" && !words::split_word(&self.text[self.at..]).1.starts_with('(');
        if (operator || tail) && self.depth >= MAX_DEPTH {
            return self.too_deep();
        }
        if operator || tail {
            self.count();
        }
        self.last = match (operator, tail) {
            (true, _) => LastToken::Operator,
            (_, true) => LastToken::Where,
            _ => LastToken::Value,
        };
        self.at += length;
    }

    fn number(&mut self) {
        let end = self.at + words::number_length(&self.bytes[self.at..]);
        if matches!(self.bytes[end - 1], b'e' | b'E') && self.exponent(self.at, end) {
            return;
        }
        if self.point_before_exponent(self.at, end) {
            return;
        }
        let start = self.at;
        self.last = LastToken::Value;
        self.at = end;
        if self.bytes[start..end].iter().all(u8::is_ascii_digit) && !self.decimal_comma(start, end) {
            self.thousands(start, end);
        }
    }

    fn operator(&mut self) {
        let rest = &self.text[self.at..];
        let token = words::SIGNS.iter().copied().find(|token| rest.starts_with(token)).unwrap_or(&rest[..1]);
        let leads = token == "->" && self.open.last().is_some_and(|open| open.arms && !open.led);
        if leads {
            // The condition is complete. In the tree, it is beside the value, not around it.
            self.separate();
            if let Some(open) = self.open.last_mut() {
                open.led = true;
            }
        } else if !matches!(token, "=" | ":" | "@") {
            if self.depth >= MAX_DEPTH {
                return self.too_deep();
            }
            self.count();
        }
        let runs_on = token.starts_with(['+', '-', '*', '/', '^', '<', '>', '=', '|', '&', ':'])
            || matches!(token, "!=" | ".." | "..=");
        self.last = if runs_on { LastToken::Operator } else { LastToken::Value };
        self.at += token.len();
    }

    fn semicolon(&mut self) {
        let at = self.at;
        let next = self.text[at + 1..].trim_start_matches([' ', '\t', '\r']);
        let ends_line =
            next.is_empty() || next.starts_with('\n') || next.starts_with("//") || next.starts_with('}');
        let diagnostic =
            Diagnostic::error(Code::ForeignSyntax, self.span(at, at + 1), "entries are not separated by `;`")
                .label("an entry ends at the end of its line or at a comma");
        self.report(if ends_line {
            diagnostic.replace_with("remove it", "")
        } else {
            let diagnostic = diagnostic.replace_with("write a comma", ",");
            // A block belongs to the word before it.
            if next.starts_with('{') { diagnostic.possibly() } else { diagnostic }
        });
        let in_block = self.open.last().is_some_and(|open| open.bracket == b'{');
        if ends_line {
            self.blank(at, at + 1);
        } else {
            self.replace(at, at + 1).fill(if in_block { b',' } else { b'\n' });
            self.separate();
            self.last = LastToken::Comma;
            self.at += 1;
        }
    }

    // ---- Small things ----

    fn line_end(&self) -> usize {
        self.text[self.at..].find('\n').map_or(self.bytes.len(), |length| self.at + length)
    }

    /// Replaces a range by spaces (its newlines too) and continues after it.
    fn blank(&mut self, start: usize, end: usize) {
        self.replace(start, end).fill(b' ');
        self.at = end;
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    /// Adds a diagnostic, at most one per line and code: a second look-alike on a line adds nothing.
    fn report(&mut self, diagnostic: Diagnostic) {
        // A line of any length may have a mistake at every byte, so not all of it is searched for its end.
        const SEARCHED: usize = 4096;
        let start = diagnostic.primary.span.start as usize;
        let repeated = self.diagnostics.iter().rev().take(8).any(|other| {
            let other_start = other.primary.span.start as usize;
            let (from, to) = (other_start.min(start), other_start.max(start));
            other.code == diagnostic.code && !self.bytes[from..to.min(from + SEARCHED)].contains(&b'\n')
        });
        if !repeated {
            self.diagnostics.push(diagnostic);
        }
    }
}
