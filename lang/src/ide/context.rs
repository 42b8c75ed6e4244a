//! The context of the cursor, from the tokens before it: the block, key or value, and argument of a call that
//! it is in.
//!
//! The text may be half typed. As in the parser, a line that begins an item closes everything that is open
//! before it.

use crate::check::MOST_CHANGES;
use crate::syntax::tokens::{SyntaxToken, TokenKind, lex};
use crate::syntax::words::{self, LineHead};

pub struct CompletionContext<'a> {
    pub source: &'a str,
    pub tokens: Vec<SyntaxToken>,
    /// The tokens before the word at the cursor.
    pub cut: usize,
    /// The start of the word at the cursor.
    pub word_start: usize,
    /// The first token of the item around the cursor.
    pub item: usize,
    /// The brackets open at the cursor: indices of their tokens.
    pub(super) open: Vec<usize>,
    /// Words before the cursor that begin a setting on their own line, with the `{` of their block.
    settings: Vec<(usize, usize)>,
    /// Whether the cursor is in a comment, text or number.
    pub(super) inert: bool,
    /// If the cursor is in a text: the start of its content.
    pub(super) text_start: Option<usize>,
}

impl<'a> CompletionContext<'a> {
    pub fn new(source: &'a str, offset: usize) -> CompletionContext<'a> {
        let tokens = lex(source);
        let under = tokens.iter().position(|token| {
            token.start < offset && offset <= token.end && token.kind != TokenKind::Newline
        });
        let (mut inert, mut text_start) = (false, None);
        let (mut cut, mut word_start) = (tokens.partition_point(|token| token.end <= offset), offset);
        if let Some(index) = under {
            let token = tokens[index];
            match token.kind {
                TokenKind::Word => (cut, word_start) = (index, token.start),
                TokenKind::Comment | TokenKind::Doc | TokenKind::Number | TokenKind::Foreign => inert = true,
                TokenKind::OpenText | TokenKind::Text => {
                    inert = token.kind == TokenKind::OpenText || offset < token.end;
                    if inert {
                        (cut, text_start) = (index, Some(token.start + 1));
                    }
                }
                _ => {}
            }
        }
        let mut context = CompletionContext {
            source,
            tokens,
            cut,
            word_start,
            item: 0,
            open: Vec::new(),
            settings: Vec::new(),
            inert,
            text_start,
        };
        context.open_brackets();
        context
    }

    pub fn text(&self, index: usize) -> &'a str {
        self.tokens[index].text(self.source)
    }

    pub(super) fn is(&self, index: usize, text: &str) -> bool {
        index < self.cut && self.text(index) == text
    }

    /// Whether the next token is `text`, before or after the cursor.
    pub(super) fn is_followed_by(&self, index: usize, text: &str) -> bool {
        self.tokens.get(index + 1).is_some_and(|next| next.text(self.source) == text)
    }

    pub(super) fn kind(&self, index: usize) -> TokenKind {
        self.tokens[index].kind
    }

    /// The last token before `index` that is neither a newline nor a comment.
    pub fn before(&self, index: usize) -> Option<usize> {
        (0..index).rev().find(|at| self.kind(*at) != TokenKind::Newline && !self.tokens[*at].is_comment())
    }

    fn open_brackets(&mut self) {
        let mut line_start = true;
        // The word at the cursor may begin a line, too.
        let at_cursor = self
            .tokens
            .get(self.cut)
            .is_some_and(|token| token.start == self.word_start && token.kind == TokenKind::Word);
        for index in 0..self.cut + usize::from(at_cursor) {
            let token = self.tokens[index];
            if line_start && token.kind == TokenKind::Word {
                let (_, head) = words::line_head(self.source, token.start);
                let at_margin = token.start == 0 || self.source.as_bytes()[token.start - 1] == b'\n';
                match head {
                    LineHead::Item => {
                        self.open.clear();
                        self.item = index;
                    }
                    // Statements of a block are indented; this is an item.
                    LineHead::ItemOrStatement if at_margin || self.open.is_empty() => {
                        self.open.clear();
                        self.item = index;
                    }
                    // `key =` begins a setting, even if a bracket inside the block is still open.
                    LineHead::Entry | LineHead::Statement => self.end_statement(index),
                    _ if self.follows_a_value(index) => self.end_statement(index),
                    _ if self.open.is_empty()
                        && at_margin
                        && words::ITEMS.contains(&token.text(self.source)) =>
                    {
                        self.item = index
                    }
                    _ => {}
                }
            }
            line_start = token.kind == TokenKind::Newline || (line_start && token.is_comment());
            match token.kind {
                TokenKind::Open => self.open.push(index),
                TokenKind::Close => {
                    let partner = match token.text(self.source) {
                        ")" => "(",
                        "]" => "[",
                        _ => "{",
                    };
                    if let Some(at) = self.open.iter().rposition(|open| self.text(*open) == partner) {
                        self.open.truncate(at);
                    }
                }
                _ => {}
            }
        }
    }

    /// Notes that a setting of the innermost block begins at `index`: brackets open inside were never closed.
    fn end_statement(&mut self, index: usize) {
        if let Some(block) = self.open.iter().rposition(|open| self.text(*open) == "{") {
            self.open.truncate(block + 1);
            self.settings.push((index, self.open[block]));
        }
    }

    /// Whether a word at the start of a line comes right after a value inside parentheses, where no value can
    /// follow another.
    fn follows_a_value(&self, index: usize) -> bool {
        let inside = self.open.last().is_some_and(|open| self.text(*open) != "{");
        let value = self.before(index).is_some_and(|last| match self.kind(last) {
            TokenKind::Word => !words::RESERVED.contains(&self.text(last)),
            kind => {
                matches!(kind, TokenKind::Number | TokenKind::Text | TokenKind::OpenText | TokenKind::Close)
            }
        });
        inside && value && !words::RESERVED.contains(&self.text(index))
    }

    /// The word that begins the item around the cursor: `objective`.
    pub fn item_keyword(&self) -> &'a str {
        let first = if self.is(self.item, "pub") { self.item + 1 } else { self.item };
        if first < self.cut && self.kind(first) == TokenKind::Word { self.text(first) } else { "" }
    }

    /// Whether signals can be read at the cursor.
    pub fn sees_signals(&self) -> bool {
        match self.item_keyword() {
            "fn" => true,
            // An edit reads the result of its rollout.
            "rollout" => (self.item..self.cut).any(|at| self.is(at, "|>")),
            "objective" => self.open.iter().any(|open| self.text(*open) == "{"),
            _ => false,
        }
    }

    /// Whether `live` can be written at the cursor.
    pub fn in_term(&self) -> bool {
        self.sees_signals() && self.is(self.statement(), "term")
    }

    /// Whether the cursor is at the operand of a `live`.
    pub fn is_after_live(&self) -> bool {
        self.before(self.cut).is_some_and(|last| self.is(last, "live"))
    }

    /// The first token of the item's statement around the cursor; the cursor itself where there is none.
    pub fn statement(&self) -> usize {
        let block = self.open.iter().find(|open| self.text(**open) == "{");
        block.map_or(self.cut, |block| self.segment(*block, self.cut))
    }

    /// The first token after the last separator between the bracket at `open` and `end`, at the depth of that
    /// bracket.
    pub(super) fn segment(&self, open: usize, end: usize) -> usize {
        if self.settings.contains(&(end, open)) {
            return end;
        }
        let in_block = self.text(open) == "{";
        let mut depth = 0;
        let mut start = open + 1;
        for index in open + 1..end {
            match self.kind(index) {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth -= 1,
                TokenKind::Newline if depth == 0 && in_block && self.ends_statement(index) => {
                    start = index + 1
                }
                TokenKind::Comma if depth == 0 => start = index + 1,
                // The parser takes a new setting for a new statement: brackets open inside were never closed.
                TokenKind::Word if self.settings.contains(&(index, open)) => (depth, start) = (0, index),
                _ => {}
            }
        }
        (start..end)
            .find(|at| self.kind(*at) != TokenKind::Newline && !self.tokens[*at].is_comment())
            .unwrap_or(end)
    }

    /// Whether a newline is a separator, because the token before it ends a statement.
    fn ends_statement(&self, newline: usize) -> bool {
        match self.before(newline) {
            None => true,
            Some(last) => match self.kind(last) {
                TokenKind::Sign | TokenKind::Unknown => false,
                TokenKind::Word => {
                    !matches!(self.text(last), "then" | "and" | "or" | "not" | "live" | "in" | "where")
                }
                _ => true,
            },
        }
    }

    /// The owner of a `{`: an item's keyword, or the stage that is called.
    pub fn owner(&self, open: usize) -> &'a str {
        let Some(last) = self.before(open) else { return "" };
        let head = self.item_keyword();
        let first = if self.is(self.item, "pub") { self.item + 1 } else { self.item };
        let first_brace = (self.item..=open).find(|at| self.is(*at, "{"));
        if first_brace == Some(open)
            && first < open
            && matches!(head, "experiment" | "compare" | "domain" | "objective" | "route" | "sweep" | "eval")
        {
            return head;
        }
        if self.is(last, "with") {
            return self.changed(last, head);
        }
        // The block after the value of a term belongs to the term.
        let around = self
            .open
            .iter()
            .rposition(|other| *other == open)
            .and_then(|at| Some(self.open[at.checked_sub(1)?]));
        let of_term = |block: usize| self.is(block, "{") && self.is(self.segment(block, open), "term");
        if around.is_some_and(of_term) && !self.is(last, "match") {
            return "term";
        }
        if self.is(last, ")") {
            let mut depth = 0;
            for at in (0..=last).rev() {
                match self.text(at) {
                    ")" => depth += 1,
                    "(" => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return self.before(at).map_or("", |callee| self.text(callee));
                }
            }
            return "";
        }
        // `by domain { ... }`, `step name { ... }`
        match self.before(last).map(|before| self.text(before)) {
            Some(word @ ("by" | "step")) => word,
            _ => self.text(last),
        }
    }

    /// The owner of the settings that `base with { ... }` changes: the stage that made the base.
    fn changed(&self, with: usize, head: &'a str) -> &'a str {
        if matches!(head, "domain" | "eval" | "teacher") {
            return head;
        }
        let named = |at: usize| self.before(at).filter(|at| self.kind(*at) == TokenKind::Word);
        // `expert[d] with`: the name stands before the bracket.
        let base = (0..with).rev().find(|at| self.is(*at, "=")).map_or(with, |sign| sign + 1);
        let mut name = self.text(base);
        for _ in 0..MOST_CHANGES {
            let declared = (0..self.tokens.len())
                .find(|at| self.is(*at, name) && named(*at).is_some_and(|word| self.is(word, "model")));
            let Some(declared) = declared else { return "" };
            let Some(sign) = (declared..self.tokens.len()).find(|at| self.is(*at, "=")) else { return "" };
            let made = self.text(sign + 1);
            // A call, whose owner is its function, or changes of changes.
            let after = (sign + 2..self.tokens.len()).find(|at| !self.tokens[*at].is_comment());
            match after.map(|at| self.text(at)) {
                Some("(" | "{") => return made,
                _ => name = made,
            }
        }
        ""
    }

    /// The number of commas in the bracket at `open` before `end`, at its own depth.
    pub fn commas(&self, open: usize, end: usize) -> usize {
        let mut depth = 0;
        let mut commas = 0;
        for index in open + 1..end {
            match self.kind(index) {
                TokenKind::Open => depth += 1,
                TokenKind::Close => depth -= 1,
                TokenKind::Comma if depth == 0 => commas += 1,
                _ => {}
            }
        }
        commas
    }

    /// The innermost call around the cursor: the token of its callee, and that of its bracket.
    pub fn call(&self) -> Option<(usize, usize)> {
        self.open.iter().rev().find_map(|open| {
            let callee = self.before(*open).filter(|callee| self.kind(*callee) == TokenKind::Word)?;
            let declares = self.before(callee).is_some_and(|keyword| self.begins_item(keyword));
            (self.text(*open) == "(" && !declares).then_some((callee, *open))
        })
    }

    /// The label of the argument that the cursor is in.
    pub fn label(&self, open: usize) -> Option<&'a str> {
        let start = self.segment(open, self.cut);
        (start + 1 < self.cut && self.is(start + 1, ":")).then(|| self.text(start))
    }
}
