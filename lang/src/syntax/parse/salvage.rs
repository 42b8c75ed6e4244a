//! Recovers the kind and the name of a broken item or statement, so that uses of the name are not reported
//! too.

use pest::iterators::Pair;

use super::Rule;
use super::build::{AstBuilder, CatchAllRule};
use super::slips::is_item_head;
use crate::diag::nearest;
use crate::source::Span;
use crate::syntax::ast::*;
use crate::syntax::words::{self, split_word};

/// The keyword of an item that a word is meant for: its own, that of other languages, or a similar one.
fn meant_keyword<'w>(word: &'w str, rest: &str) -> Option<&'w str> {
    match word {
        "def" | "func" | "function" => Some("fn"),
        "import" | "from" => Some("use"),
        "const" | "var" | "val" => Some("let"),
        _ if words::ITEMS.contains(&word) => Some(word),
        _ => words::meant_item(word, rest).or_else(|| nearest(word, words::ITEMS.iter().copied())),
    }
}

/// An item that declares what is not known: a name that can't be found may be declared in it.
fn declares_any() -> ItemKind {
    ItemKind::Use(Use { module: ModuleName::Words(Vec::new()), names: Vec::new() })
}

impl<'a> AstBuilder<'a> {
    pub fn broken_item(&mut self, pair: Pair<'a, Rule>) -> Option<Item> {
        let span = self.span(&pair);
        let (start, end) = (span.start as usize, span.end as usize);
        self.broken(pair, CatchAllRule::Item);
        let doc = self.item_doc(start, end);

        let slice = &self.text()[start..end];
        let (first, rest) = split_word(slice);
        let public = first == "pub";
        let (keyword, rest) = if public { split_word(rest) } else { (first, rest) };
        let kind = self.broken_kind(span, keyword, rest)?;
        Some(Item { doc, public, span, kind })
    }

    /// The kind of a broken item, from its first word (after `pub`) and the text after it.
    fn broken_kind(&mut self, span: Span, keyword: &str, rest: &str) -> Option<ItemKind> {
        let (start, end) = (span.start as usize, span.end as usize);
        if matches!(keyword, "for" | "while") {
            return Some(declares_any());
        }
        let Some(keyword) = meant_keyword(keyword, rest) else {
            return self.without_keyword(span, keyword, rest);
        };
        let lost = Expr { span, kind: ExprKind::Error };

        if keyword == "use" {
            return self.broken_use(start, end);
        }
        if keyword == "route" {
            let target = lost.clone();
            let arm = Arm { span, index: None, condition: Condition::When(lost), target };
            return Some(ItemKind::Route(Route { span, arms: vec![arm] }));
        }
        // `domain "math" { ... }`
        let titled = matches!(keyword, "experiment" | "compare" | "sweep");
        let unquoted = rest.strip_prefix('"').filter(|_| !titled).unwrap_or(rest);
        let (word, after) = split_word(unquoted);
        let word_start = end - unquoted.len();
        // In `teacher math-guide = ...`, `math` is not the intended name.
        let unnamed = word.is_empty() || words::RESERVED.contains(&word) || after.starts_with('-');
        if unnamed && !matches!(keyword, "experiment" | "compare" | "sweep") {
            return Some(declares_any());
        }
        let name = Name { text: word.to_owned(), span: self.span_at(word_start, word_start + word.len()) };
        let named = !word.is_empty() && !words::RESERVED.contains(&word);
        let title = Text { text: rest.split('"').nth(1).unwrap_or_default().to_owned(), span: name.span };
        let (indices, parameters) =
            self.reparse(Rule::lone_head, start, end, Self::head_parts).unwrap_or_default();
        Some(match keyword {
            "experiment" => ItemKind::Experiment { name: title, block: self.block_within(span) },
            "compare" => ItemKind::Compare { name: title, block: self.block_within(span) },
            "sweep" => ItemKind::Sweep { span, axes: Vec::new() },
            _ if !named => return None,
            "let" => ItemKind::Let { name, annotation: None, value: lost },
            "fn" => ItemKind::Fn { name, parameters, body: lost },
            "reward" => ItemKind::Reward { name, value: lost },
            "schedule" => ItemKind::Schedule { name, value: lost },
            "param" => ItemKind::Param(Parameter { name, annotation: None, default: Some(lost) }),
            "model" => ItemKind::Model(Binding { name, indices, value: lost }),
            "teacher" => ItemKind::Teacher { binding: Binding { name, indices, value: lost }, parameters },
            "template" => ItemKind::Template { name, parameters, text: lost },
            "divergence" | "sum" => {
                let is_sum = keyword == "sum";
                ItemKind::Divergence(DivergenceItem { name, is_sum, directed: false, parameters, body: lost })
            }
            "rollout" => ItemKind::Rollout { name, parameters, body: lost },
            "panel" => ItemKind::Panel { name, value: lost },
            "eval" => ItemKind::Eval { name, base: None, block: self.block_within(span) },
            "stage" => ItemKind::Stage { name, parameters, body: lost },
            "domain" => ItemKind::Domain { name, base: None, block: self.block_within(span) },
            "objective" => ItemKind::Objective { name, parameters, body: self.block_within(span) },
            _ => return None,
        })
    }

    /// What `longest = 10` or `task guide = expert` declares.
    fn without_keyword(&self, span: Span, first: &str, rest: &str) -> Option<ItemKind> {
        let (start, end) = (span.start as usize, span.end as usize);
        let named = if rest.starts_with('=') { first } else { split_word(rest).0 };
        let declares = rest.starts_with('=') || split_word(rest).1.starts_with(['=', '{', '(']);
        if !declares || named.is_empty() {
            return None;
        }
        let at = start + self.text()[start..end].find(named).unwrap_or_default();
        let name = Name { text: named.to_owned(), span: self.span_at(at, at + named.len()) };
        Some(ItemKind::Use(Use { module: ModuleName::Words(Vec::new()), names: vec![name] }))
    }

    /// The first block in a broken item, or an empty one.
    fn block_within(&mut self, span: Span) -> Block {
        let (start, end) = (span.start as usize, span.end as usize);
        let empty = Block { span, statements: Vec::new(), broken: true };
        let Some(brace) = self.text()[start..end].find('{') else { return empty };
        let block = self.reparse(Rule::lone_block, start + brace, end, |builder, pairs| {
            pairs
                .flat_map(Pair::into_inner)
                .find(|part| part.as_rule() == Rule::block)
                .map(|block| builder.block(block))
        });
        block.flatten().unwrap_or(empty)
    }

    /// The words of a broken import: the module comes first, the names after it.
    fn broken_use(&mut self, start: usize, end: usize) -> Option<ItemKind> {
        let slice = &self.text()[start..end];
        // `from a.b import c` gives its names after a word, `use a.b.{c}` inside braces; `import a.b` takes
        // no names.
        let names_at = slice.find(" import ").or(slice.find(['{', '[', '('])).unwrap_or(slice.len());
        let std_alone =
            slice.starts_with("import") && slice.contains("std") && slice.matches('.').count() < 2;
        let several = slice[..names_at].contains(',');
        let python = super::imports::is_of_python(slice);
        if slice.contains(['*', '"']) || slice.contains(" as ") || std_alone || several || python {
            return Some(declares_any());
        }
        let mut module = self.words_between(start, start + names_at);
        module.retain(|name| {
            !matches!(name.text.as_str(), "use" | "pub" | "from" | "import" | "include" | "require")
        });
        let mut names = self.words_between(start + names_at, end);
        if names.is_empty() && module.len() > 1 {
            names.extend(module.pop());
        }
        names.retain(|name| name.text != "import");
        Some(match module.is_empty() {
            true => declares_any(),
            false => ItemKind::Use(Use { module: ModuleName::Words(module), names }),
        })
    }

    /// All words of a part of the text.
    fn words_between(&self, start: usize, end: usize) -> Vec<Name> {
        let (text, mut words, mut at) = (self.text(), Vec::new(), start);
        while at < end {
            let length = words::word_length(&text.as_bytes()[at..end]);
            if length > 0 {
                let span = self.span_at(at, at + length);
                words.push(Name { text: text[at..at + length].to_owned(), span });
            }
            at += length.max(1);
        }
        words
    }

    pub fn broken_statement(&mut self, pair: Pair<'a, Rule>) -> Option<Statement> {
        let span = self.span(&pair);
        let slice = &self.text()[span.start as usize..span.end as usize];
        self.broken(pair, CatchAllRule::Statement);

        let lost = Expr { span, kind: ExprKind::Error };
        let (first, rest) = split_word(slice);
        if is_item_head(slice) {
            return None;
        }
        let (word, at) = match first {
            "let" | "state" | "term" | "trains" | "step" if !split_word(rest).0.is_empty() => {
                (split_word(rest).0, slice.len() - rest.len())
            }
            _ => (first, 0),
        };
        if word.is_empty() || words::RESERVED.contains(&word) {
            return None;
        }
        let start = span.start as usize + at;
        let name = Name { text: word.to_owned(), span: self.span_at(start, start + word.len()) };
        Some(match first {
            "let" => Statement::Let { name, index: None, annotation: None, value: lost },
            "state" if at > 0 => {
                Statement::State { name, index: None, first: lost.clone(), by: None, next: Some(lost) }
            }
            "term" => Statement::Term { name, index: None, value: lost, block: None },
            "trains" if at > 0 => Statement::Trains { name, value: lost },
            "step" if at > 0 => Statement::Step { name, block: self.block_within(span) },
            _ => Statement::Entry(Entry { key: name, value: lost, marks: Vec::new() }),
        })
    }
}
