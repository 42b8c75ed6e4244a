//! Where the cursor is, read off the tokens before it: in which block, at a key or at a value, in which
//! argument of which call.
//!
//! The text may be half typed. A line that begins an item ends everything that is still open before it, as in
//! the parser.

use crate::check::vocabulary::{self, Takes};
use crate::syntax::tokens::{Token, TokenKind, lex};
use crate::syntax::words::{self, LineHead};

/// What can be written at the cursor.
#[derive(Clone, Debug)]
pub enum CompletionPlace {
    /// A comment, a text, a number, a name being invented.
    Nothing,
    Item,
    /// After `use`, with the path so far.
    Import {
        path: Vec<String>,
    },
    /// A setting of a block: `grpo`, `domain`, `objective`; with those that are there.
    Key {
        owner: String,
        present: Vec<String>,
    },
    Type,
    /// A `param` of the file.
    Parameter,
    /// After a role and a dot.
    Part,
    /// The condition of an arm of a route.
    Arm,
    /// Where an arm leads.
    Teacher,
    Value {
        takes: Takes,
        callee: Option<String>,
        given: Vec<String>,
    },
}

pub struct CompletionContext<'a> {
    pub source: &'a str,
    pub tokens: Vec<Token>,
    /// The tokens before the word at the cursor.
    pub cut: usize,
    /// What has been typed of the word at the cursor begins here.
    pub word_start: usize,
    /// The first token of the item around the cursor.
    pub item: usize,
    /// The brackets open at the cursor: indices of their tokens.
    open: Vec<usize>,
    /// Words before the cursor that begin a setting on a line of their own, with the `{` of their block.
    settings: Vec<(usize, usize)>,
    /// In a comment, text or number.
    inert: bool,
}

impl<'a> CompletionContext<'a> {
    pub fn new(source: &'a str, offset: usize) -> CompletionContext<'a> {
        let tokens = lex(source);
        let under = tokens.iter().position(|token| {
            token.start < offset && offset <= token.end && token.kind != TokenKind::Newline
        });
        let mut inert = false;
        let (mut cut, mut word_start) = (tokens.partition_point(|token| token.end <= offset), offset);
        if let Some(index) = under {
            let token = tokens[index];
            match token.kind {
                TokenKind::Word => (cut, word_start) = (index, token.start),
                TokenKind::Comment
                | TokenKind::Doc
                | TokenKind::Number
                | TokenKind::OpenText
                | TokenKind::Foreign => inert = true,
                TokenKind::Text => inert = offset < token.end,
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
        };
        context.open_brackets();
        context
    }

    pub fn text(&self, index: usize) -> &'a str {
        self.tokens[index].text(self.source)
    }

    fn is(&self, index: usize, text: &str) -> bool {
        index < self.cut && self.text(index) == text
    }

    /// Whether the next token is `text`, before or after the cursor.
    fn is_followed_by(&self, index: usize, text: &str) -> bool {
        self.tokens.get(index + 1).is_some_and(|next| next.text(self.source) == text)
    }

    fn kind(&self, index: usize) -> TokenKind {
        self.tokens[index].kind
    }

    /// The last token before `index` that is on no line of its own.
    pub fn before(&self, index: usize) -> Option<usize> {
        (0..index).rev().find(|at| self.kind(*at) != TokenKind::Newline && !self.tokens[*at].is_comment())
    }

    fn open_brackets(&mut self) {
        let mut line_start = true;
        // The word at the cursor, if there is one, may begin a line too.
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
                    // Statements of a block are indented.
                    LineHead::ItemOrStatement if at_margin || self.open.is_empty() => {
                        self.open.clear();
                        self.item = index;
                    }
                    // `key =` begins a setting, whatever is open within the block.
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

    /// What is open within the innermost block was never closed: `index` begins a setting of the block.
    fn end_statement(&mut self, index: usize) {
        if let Some(block) = self.open.iter().rposition(|open| self.text(*open) == "{") {
            self.open.truncate(block + 1);
            self.settings.push((index, self.open[block]));
        }
    }

    /// Whether a word that begins a line stands right after a value, inside parentheses: there, no value
    /// follows another.
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

    /// Whether signals can be read here.
    pub fn sees_signals(&self) -> bool {
        match self.item_keyword() {
            "fn" => true,
            // An edit reads what the rollout gave.
            "rollout" => (self.item..self.cut).any(|at| self.is(at, "|>")),
            "objective" => self.open.iter().any(|open| self.text(*open) == "{"),
            _ => false,
        }
    }

    /// Whether `live` can be written here.
    pub fn in_term(&self) -> bool {
        self.sees_signals() && self.is(self.statement(), "term")
    }

    /// The first token of the item's statement around the cursor; the cursor itself where there is none.
    pub fn statement(&self) -> usize {
        let block = self.open.iter().find(|open| self.text(**open) == "{");
        block.map_or(self.cut, |block| self.segment(*block, self.cut))
    }

    /// The first token after the last separator between the bracket at `open` and `end`, at that bracket's
    /// own depth.
    fn segment(&self, open: usize, end: usize) -> usize {
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
                // What lies open inside was never closed: the parser takes a new setting for a new statement.
                TokenKind::Word if self.settings.contains(&(index, open)) => (depth, start) = (0, index),
                _ => {}
            }
        }
        (start..end)
            .find(|at| self.kind(*at) != TokenKind::Newline && !self.tokens[*at].is_comment())
            .unwrap_or(end)
    }

    /// Whether a newline separates: nothing before it waits for more.
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

    /// What can be written at the cursor.
    pub fn place(&self) -> CompletionPlace {
        if self.inert { CompletionPlace::Nothing } else { self.place_of(self.open.len(), self.cut) }
    }

    /// The place right before token `end`, within the first `depth` open brackets.
    fn place_of(&self, depth: usize, end: usize) -> CompletionPlace {
        if let Some(last) = self.before(end) {
            if self.is(last, ".") && self.item_keyword() != "use" {
                let base = self.before(last).map_or("", |base| self.text(base));
                return if matches!(base, "student" | "teacher" | "sampler" | "reference")
                    && self.sees_signals()
                {
                    CompletionPlace::Part
                } else {
                    CompletionPlace::Nothing
                };
            }
            if matches!(self.text(last), "@" | "for") {
                return CompletionPlace::Nothing;
            }
        }
        if self.item_keyword() == "use" && !self.on_new_line(end) {
            return self.import(end);
        }
        match depth.checked_sub(1).map(|inner| self.open[inner]) {
            None => self.top_level(end),
            Some(open) => match self.text(open) {
                "{" => self.in_block(open, end),
                "(" => self.in_parentheses(open, depth, end),
                _ => self.in_brackets(open, depth, end),
            },
        }
    }

    /// At depth 0, with nothing before it on its line.
    fn on_new_line(&self, end: usize) -> bool {
        self.open.is_empty() && (end == 0 || self.kind(end - 1) == TokenKind::Newline)
    }

    fn import(&self, end: usize) -> CompletionPlace {
        let words =
            (self.item + 1..end).filter(|at| self.kind(*at) == TokenKind::Word && !self.is(*at, "use"));
        let brace = self.open.iter().find(|open| self.text(**open) == "{");
        let path = words
            .take_while(|at| brace.is_none_or(|brace| at < brace))
            .map(|at| self.text(at).to_owned())
            .collect();
        match self.before(end).map(|last| self.text(last)) {
            Some("use" | "." | "{" | ",") => CompletionPlace::Import { path },
            _ => CompletionPlace::Nothing,
        }
    }

    fn top_level(&self, end: usize) -> CompletionPlace {
        let last = self.before(end);
        let waits = last.is_some_and(|last| !self.ends_statement_after(last));
        let alone =
            (0..end).rev().take_while(|at| self.kind(*at) != TokenKind::Newline).all(|at| self.is(at, "pub"));
        if alone && !waits {
            return CompletionPlace::Item;
        }
        let assigned = (self.item..end).find(|at| self.is(*at, "="));
        let value = |takes| match last {
            Some(last) if Some(last) == assigned => {
                CompletionPlace::Value { takes, callee: None, given: Vec::new() }
            }
            _ => value(Takes::Formula),
        };
        match (self.item_keyword(), assigned) {
            ("param", None) if last.is_some_and(|last| self.is(last, ":")) => CompletionPlace::Type,
            (_, None) => CompletionPlace::Nothing,
            ("model" | "stage" | "teacher", _) => value(Takes::Model),
            ("rollout", _) => value(Takes::Rollout),
            ("schedule", _) => value(Takes::Schedule),
            ("reward", _) => value(Takes::Reward),
            _ => value(Takes::Formula),
        }
    }

    fn ends_statement_after(&self, last: usize) -> bool {
        match self.kind(last) {
            TokenKind::Sign | TokenKind::Comma | TokenKind::Unknown => false,
            TokenKind::Word => {
                !matches!(self.text(last), "then" | "and" | "or" | "not" | "live" | "in" | "where")
            }
            _ => true,
        }
    }

    /// What a `{` belongs to: an item's keyword, or the stage that is called.
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
        // The block behind the value of a term is the term's.
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

    /// Whether a token is the word that begins an item with parameters, not a name or a role.
    fn begins_item(&self, at: usize) -> bool {
        words::PARAMETRIC.contains(&self.text(at))
            && (at == 0 || self.is(at - 1, "pub") || self.kind(at - 1) == TokenKind::Newline)
    }

    fn in_block(&self, open: usize, end: usize) -> CompletionPlace {
        let owner = self.owner(open);
        let start = self.segment(open, end);
        match owner {
            "route" => return self.in_route(start, end),
            // A condition or a value: both are expressions.
            "match" => return value(Takes::Formula),
            "sweep" => return self.in_sweep(start, end),
            _ => {}
        }
        if start == end {
            return CompletionPlace::Key { owner: owner.to_owned(), present: self.present(open) };
        }
        if self.is(start, "route") {
            return CompletionPlace::Nothing;
        }
        let let_or_term = matches!(self.text(start), "let" | "term" | "trains");
        let Some(assigned) = (start..end).find(|at| self.is(*at, "=")) else {
            return CompletionPlace::Nothing;
        };
        if let_or_term {
            return value(Takes::Formula);
        }
        let keys = vocabulary::keys(owner).unwrap_or_default();
        let takes =
            keys.iter().find(|key| key.name == self.text(start)).map_or(Takes::Formula, |key| key.takes);
        match (takes, self.before(end)) {
            (Takes::Reduce, Some(last)) if last == assigned || self.is(last, "then") => value(takes),
            (_, Some(last)) if last == assigned => value(takes),
            _ => value(Takes::Formula),
        }
    }

    /// An axis is a `param` of the file; after `in` stands what it takes in turn.
    fn in_sweep(&self, start: usize, end: usize) -> CompletionPlace {
        if start == end {
            return CompletionPlace::Parameter;
        }
        if (start..end).any(|at| self.is(at, "in")) {
            value(Takes::Formula)
        } else {
            CompletionPlace::Nothing
        }
    }

    fn in_route(&self, start: usize, end: usize) -> CompletionPlace {
        let Some(last) = self.before(end).filter(|last| *last >= start) else { return CompletionPlace::Arm };
        if self.is(last, "in") {
            return value(Takes::Domains);
        }
        if (start..end).any(|at| self.is(at, "->")) {
            return CompletionPlace::Teacher;
        }
        if matches!(self.text(last), "==" | "!=") { value(Takes::Domains) } else { CompletionPlace::Arm }
    }

    /// The settings that a block has already, at its own depth.
    fn present(&self, open: usize) -> Vec<String> {
        let mut found = Vec::new();
        let mut inner: Vec<&str> = Vec::new();
        for index in open + 1..self.tokens.len() {
            let token = self.tokens[index];
            let text = token.text(self.source);
            match token.kind {
                TokenKind::Open => inner.push(text),
                TokenKind::Close if text != "}" => {
                    inner.pop_if(|open| *open != "{");
                }
                TokenKind::Close => match inner.iter().rposition(|open| *open == "{") {
                    Some(at) => inner.truncate(at),
                    None => break,
                },
                TokenKind::Word if index != self.cut => {
                    if self.kind(index - 1) == TokenKind::Newline {
                        match words::line_head(self.source, token.start).1 {
                            LineHead::Item if index > self.cut => break,
                            // A setting on a line of its own ends what is still open within the block.
                            LineHead::Entry => inner
                                .truncate(inner.iter().rposition(|open| *open == "{").map_or(0, |at| at + 1)),
                            _ => {}
                        }
                    }
                    if inner.is_empty() && self.is_followed_by(index, "=") {
                        found.push(text.to_owned());
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn in_parentheses(&self, open: usize, depth: usize, end: usize) -> CompletionPlace {
        let start = self.segment(open, end);
        let callee = self.before(open).filter(|callee| self.kind(*callee) == TokenKind::Word);
        let Some(callee) = callee else { return value(Takes::Formula) };
        let declares = self.before(callee).is_some_and(|keyword| self.begins_item(keyword));
        let last = self.before(end);
        if declares {
            return match last.map(|last| self.text(last)) {
                Some(":") => CompletionPlace::Type,
                Some("=") => value(Takes::Formula),
                _ => CompletionPlace::Nothing,
            };
        }
        let name = self.text(callee);
        if self.in_reduction(open, depth) {
            let given = self.labels(open);
            return CompletionPlace::Value {
                takes: Takes::Words(vocabulary::AXES),
                callee: Some(name.to_owned()),
                given,
            };
        }
        if start == end {
            let takes = self.positional(name, self.commas(open, end));
            return CompletionPlace::Value { takes, callee: Some(name.to_owned()), given: self.labels(open) };
        }
        let labelled = start + 2 == end && matches!(self.text(start + 1), ":" | "=");
        if labelled { value(self.labelled(name, self.text(start))) } else { value(Takes::Formula) }
    }

    /// Whether this call is a step of a `reduce`.
    fn in_reduction(&self, open: usize, depth: usize) -> bool {
        let Some(block) = self.open[..depth].iter().rposition(|open| self.text(*open) == "{") else {
            return false;
        };
        block + 2 == depth
            && self.is(self.segment(self.open[block], open), "reduce")
            && self.owner(self.open[block]) == "objective"
    }

    fn positional(&self, callee: &str, position: usize) -> Takes {
        if position == 0 && crate::check::is_standard_divergence(callee) {
            return Takes::Role;
        }
        let builtin = crate::check::builtins::find(callee);
        let parameter = builtin.and_then(|builtin| builtin.parameters.get(position));
        parameter.map_or(Takes::Formula, |parameter| parameter.takes)
    }

    fn labelled(&self, callee: &str, label: &str) -> Takes {
        // What every divergence takes, a declared one too.
        let of_divergence = || {
            crate::check::DIVERGENCE_SETTINGS
                .contains(&label)
                .then(|| crate::check::builtins::find("kl"))
                .flatten()
        };
        let builtin = crate::check::builtins::find(callee).or_else(of_divergence);
        let parameter = builtin.and_then(|builtin| builtin.parameter(label));
        parameter.map_or(Takes::Formula, |parameter| parameter.takes)
    }

    /// The commas of a bracket before `end`, at its own depth.
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

    /// The arguments that are given by name in the call at `open`.
    fn labels(&self, open: usize) -> Vec<String> {
        let mut depth = 0;
        let mut labels = Vec::new();
        for index in open + 1..self.tokens.len() {
            match self.kind(index) {
                TokenKind::Open => depth += 1,
                TokenKind::Close if depth == 0 => break,
                TokenKind::Close => depth -= 1,
                TokenKind::Word if depth == 0 && index != self.cut && self.is_followed_by(index, ":") => {
                    labels.push(self.text(index).to_owned());
                }
                _ => {}
            }
        }
        labels
    }

    fn in_brackets(&self, open: usize, depth: usize, end: usize) -> CompletionPlace {
        let last = self.before(end);
        if last.is_some_and(|last| self.is(last, "in")) {
            return value(Takes::Domains);
        }
        let touches = open > 0
            && self.kind(open - 1) == TokenKind::Word
            && self.tokens[open - 1].end == self.tokens[open].start;
        if touches {
            // `expert[math]`; in `model expert[d in domains]` the name is the author's to invent.
            let declares = open >= 2 && matches!(self.text(open - 2), "model" | "teacher" | "let" | "term");
            return if declares { CompletionPlace::Nothing } else { value(Takes::Domains) };
        }
        // A list: its elements are of the kind that the list is.
        match self.place_of(depth - 1, open) {
            CompletionPlace::Value { takes, .. } if self.segment(open, end) == end => value(takes),
            _ => value(Takes::Formula),
        }
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

fn value(takes: Takes) -> CompletionPlace {
    CompletionPlace::Value { takes, callee: None, given: Vec::new() }
}
