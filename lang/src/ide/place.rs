//! What can be written at the cursor: an item, a setting, the value of a setting, an argument.

use super::context::CompletionContext;
use crate::check::is_role;
use crate::check::vocabulary::{self, ArgumentKind};
use crate::syntax::tokens::TokenKind;
use crate::syntax::words::{self, LineHead};

/// What can be written at the cursor.
#[derive(Clone, Debug)]
pub enum CompletionPlace {
    /// A comment, a text, a number, or a new name.
    Nothing,
    Item,
    /// After `use`, with the path so far.
    Import {
        path: Vec<String>,
    },
    /// A setting of a block, such as `grpo`, `domain`, `objective`, and the settings that the block has.
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
    /// The target of an arm.
    Teacher,
    Value {
        takes: ArgumentKind,
        callee: Option<String>,
        given: Vec<String>,
    },
    /// Inside a text with a special meaning; the text begins at byte `start`.
    Text {
        place: TextPlace,
        start: usize,
    },
    /// After `data.`
    Field,
    /// A number of the steps, in the condition of a guard.
    StepNumber {
        callee: String,
        given: Vec<String>,
    },
    /// The right side of a divergence.
    Side,
    /// After `domain ==`
    ComparedDomain,
}

/// The meaning of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPlace {
    Data,
    Gguf,
    Folder,
    /// A model of the hub, or a folder.
    Model,
    /// A program and its arguments.
    Command,
    /// `judge.py:score`
    Python,
}

pub(super) fn value(takes: ArgumentKind) -> CompletionPlace {
    CompletionPlace::Value { takes, callee: None, given: Vec::new() }
}

impl CompletionContext<'_> {
    /// What can be written at the cursor.
    pub fn place(&self) -> CompletionPlace {
        match self.text_start {
            Some(start) => self.in_text(start),
            None if self.inert => CompletionPlace::Nothing,
            None => self.place_of(self.open.len(), self.cut),
        }
    }

    /// The place inside a text, whose meaning depends on its setting or argument.
    fn in_text(&self, start: usize) -> CompletionPlace {
        let place = match self.place_of(self.open.len(), self.cut) {
            CompletionPlace::Value { takes: ArgumentKind::Dataset, .. } => TextPlace::Data,
            // The first argument of functions that read files.
            CompletionPlace::Value { takes: ArgumentKind::Text, callee: Some(callee), .. } => {
                match callee.as_str() {
                    "dataset" => TextPlace::Data,
                    "hf" => TextPlace::Model,
                    "gguf" => TextPlace::Gguf,
                    "checkpoint" => TextPlace::Folder,
                    "command" => TextPlace::Command,
                    "python" => TextPlace::Python,
                    _ => return CompletionPlace::Nothing,
                }
            }
            _ => return CompletionPlace::Nothing,
        };
        CompletionPlace::Text { place, start }
    }

    /// The place right before token `end`, within the first `depth` open brackets.
    pub(super) fn place_of(&self, depth: usize, end: usize) -> CompletionPlace {
        if let Some(last) = self.before(end) {
            if self.is(last, ".") && self.item_keyword() != "use" {
                let base = self.before(last).map_or("", |base| self.text(base));
                if base == "data" {
                    return CompletionPlace::Field;
                }
                return if is_role(base) && self.sees_signals() {
                    CompletionPlace::Part
                } else {
                    CompletionPlace::Nothing
                };
            }
            if matches!(self.text(last), "@" | "for") {
                return CompletionPlace::Nothing;
            }
            let left = self.before(last).map_or("", |left| self.text(left));
            if matches!(self.text(last), "==" | "!=") && left == "domain" {
                return CompletionPlace::ComparedDomain;
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

    /// Whether `end` is at depth 0, with nothing before it on its line.
    fn on_new_line(&self, end: usize) -> bool {
        self.open.is_empty() && (end == 0 || self.kind(end - 1) == TokenKind::Newline)
    }

    pub(super) fn import(&self, end: usize) -> CompletionPlace {
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

    pub(super) fn top_level(&self, end: usize) -> CompletionPlace {
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
            _ => value(ArgumentKind::Formula),
        };
        match (self.item_keyword(), assigned) {
            ("param" | "let", None) if last.is_some_and(|last| self.is(last, ":")) => CompletionPlace::Type,
            (_, None) => CompletionPlace::Nothing,
            ("model" | "stage" | "teacher", _) => value(ArgumentKind::Model),
            ("rollout", _) => value(ArgumentKind::Rollout),
            ("schedule", _) => value(ArgumentKind::Schedule),
            ("reward", _) => value(ArgumentKind::Reward),
            _ => value(ArgumentKind::Formula),
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

    /// Whether a token is the word that begins an item with parameters, not a name or a role.
    pub(super) fn begins_item(&self, at: usize) -> bool {
        words::PARAMETRIC.contains(&self.text(at))
            && (at == 0 || self.is(at - 1, "pub") || self.kind(at - 1) == TokenKind::Newline)
    }

    pub(super) fn in_block(&self, open: usize, end: usize) -> CompletionPlace {
        let owner = self.owner(open);
        let start = self.segment(open, end);
        match owner {
            "route" => return self.in_route(start, end),
            // A condition or a value: both are expressions.
            "match" => return value(ArgumentKind::Formula),
            "sweep" => return self.in_sweep(start, end),
            _ => {}
        }
        if start == end {
            return CompletionPlace::Key { owner: owner.to_owned(), present: self.present(open) };
        }
        if self.is(start, "route") {
            return CompletionPlace::Nothing;
        }
        let let_or_term = matches!(self.text(start), "let" | "state" | "term" | "trains");
        let Some(assigned) = (start..end).find(|at| self.is(*at, "=")) else {
            let colon = self.is(start, "let") && self.before(end).is_some_and(|last| self.is(last, ":"));
            return if colon { CompletionPlace::Type } else { CompletionPlace::Nothing };
        };
        if let_or_term {
            return value(ArgumentKind::Formula);
        }
        let keys = vocabulary::keys(owner).unwrap_or_default();
        let takes = keys
            .iter()
            .find(|key| key.name == self.text(start))
            .map_or(ArgumentKind::Formula, |key| key.takes);
        match (takes, self.before(end)) {
            (ArgumentKind::Reduce, Some(last)) if last == assigned || self.is(last, "then") => value(takes),
            (_, Some(last)) if last == assigned => value(takes),
            _ => value(ArgumentKind::Formula),
        }
    }

    /// The place in a `sweep`: an axis is a `param` of the file, and its values follow `in`.
    fn in_sweep(&self, start: usize, end: usize) -> CompletionPlace {
        if start == end {
            return CompletionPlace::Parameter;
        }
        if (start..end).any(|at| self.is(at, "in")) {
            value(ArgumentKind::Formula)
        } else {
            CompletionPlace::Nothing
        }
    }

    fn in_route(&self, start: usize, end: usize) -> CompletionPlace {
        let Some(last) = self.before(end).filter(|last| *last >= start) else { return CompletionPlace::Arm };
        if self.is(last, "in") {
            return value(ArgumentKind::Domains);
        }
        if (start..end).any(|at| self.is(at, "->")) {
            return CompletionPlace::Teacher;
        }
        if matches!(self.text(last), "==" | "!=") {
            CompletionPlace::ComparedDomain
        } else {
            CompletionPlace::Arm
        }
    }

    /// The settings that a block already has, at its own depth.
    pub(super) fn present(&self, open: usize) -> Vec<String> {
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
                            // A setting on a line of its own closes brackets that are open within the block.
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
        let Some(callee) = callee else { return value(ArgumentKind::Formula) };
        let declares = self.before(callee).is_some_and(|keyword| self.begins_item(keyword));
        let last = self.before(end);
        if declares {
            return match last.map(|last| self.text(last)) {
                Some(":") => CompletionPlace::Type,
                Some("=") => value(ArgumentKind::Formula),
                _ => CompletionPlace::Nothing,
            };
        }
        let name = self.text(callee);
        if self.in_reduction(open, depth) {
            let given = self.labels(open);
            return CompletionPlace::Value {
                takes: ArgumentKind::Words(vocabulary::AXES),
                callee: Some(name.to_owned()),
                given,
            };
        }
        // A number in a guard is a step number.
        let labelled = start + 2 == end && matches!(self.text(start + 1), ":" | "=");
        if matches!(name, "warn" | "stop" | "lower_lr" | "initial" | "recent") && !labelled {
            return CompletionPlace::StepNumber { callee: name.to_owned(), given: self.labels(open) };
        }
        if last.is_some_and(|last| self.is(last, "||")) {
            return CompletionPlace::Side;
        }
        if start == end {
            let takes = self.positional(name, self.commas(open, end));
            return CompletionPlace::Value { takes, callee: Some(name.to_owned()), given: self.labels(open) };
        }
        if labelled { value(self.labelled(name, self.text(start))) } else { value(ArgumentKind::Formula) }
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

    fn positional(&self, callee: &str, position: usize) -> ArgumentKind {
        if position == 0 && crate::check::is_standard_divergence(callee) {
            return ArgumentKind::Role;
        }
        let builtin = crate::check::builtins::find(callee);
        let parameter = builtin.and_then(|builtin| builtin.parameters.get(position));
        parameter.map_or(ArgumentKind::Formula, |parameter| parameter.takes)
    }

    fn labelled(&self, callee: &str, label: &str) -> ArgumentKind {
        // `support:` and the other arguments common to all divergences, also to declared ones.
        let of_divergence = || {
            crate::check::DIVERGENCE_SETTINGS
                .contains(&label)
                .then(|| crate::check::builtins::find("kl"))
                .flatten()
        };
        let builtin = crate::check::builtins::find(callee).or_else(of_divergence);
        let parameter = builtin.and_then(|builtin| builtin.parameter(label));
        parameter.map_or(ArgumentKind::Formula, |parameter| parameter.takes)
    }

    /// The arguments that are given by name in the call at `open`.
    pub(super) fn labels(&self, open: usize) -> Vec<String> {
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
            return value(ArgumentKind::Domains);
        }
        let touches = open > 0
            && self.kind(open - 1) == TokenKind::Word
            && self.tokens[open - 1].end == self.tokens[open].start;
        if touches {
            // `expert[math]`; in `model expert[d in domains]` the author chooses a new name.
            let declares = open >= 2 && matches!(self.text(open - 2), "model" | "teacher" | "let" | "term");
            return if declares { CompletionPlace::Nothing } else { value(ArgumentKind::Domains) };
        }
        // A list: its elements have the kind that the list accepts.
        match self.place_of(depth - 1, open) {
            CompletionPlace::Value { takes, .. } if self.segment(open, end) == end => value(takes),
            _ => value(ArgumentKind::Formula),
        }
    }
}
