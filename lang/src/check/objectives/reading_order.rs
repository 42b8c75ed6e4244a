//! The order in which the statements of an objective are read: each after the `let`s and states that it
//! reads, wherever they are declared. Items of a file have no order either.

use rustc_hash::FxHashMap;

use crate::source::{Sources, Span};
use crate::syntax::ast::{Block, Statement};
use crate::syntax::words::is_word;

use crate::check::builtins::vocabulary;

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    Unseen,
    Open,
    Done,
}

/// The statements in the order of the text, but a `let` or `state` before the first statement that mentions
/// it. Of two that need each other, one comes first and does not find the other. The next value of a state is
/// not looked at: it sees all names.
pub fn in_reading_order<'a>(body: &'a Block, sources: &Sources) -> Vec<&'a Statement> {
    let statements = &body.statements;
    let mut declared: FxHashMap<&str, usize> = FxHashMap::default();
    for (index, statement) in statements.iter().enumerate() {
        // A name that is built in is an error of its own, and means what it always does elsewhere.
        if let Statement::Let { name, .. } | Statement::State { name, .. } = statement
            && vocabulary::signal(&name.text).is_none()
        {
            declared.entry(&name.text).or_insert(index);
        }
    }
    let mentioned = |statement: &Statement| {
        let words = reads(statement)
            .into_iter()
            .flat_map(|span| sources.text(span).split(|character: char| !is_word(character)));
        words.filter_map(|word| declared.get(word).copied()).collect::<Vec<_>>()
    };
    let mut visits = vec![Visit::Unseen; statements.len()];
    let mut order = Vec::with_capacity(statements.len());
    let mut waiting: Vec<usize> = (0..statements.len()).rev().collect();
    while let Some(&index) = waiting.last() {
        if visits[index] == Visit::Unseen {
            visits[index] = Visit::Open;
            let needed = mentioned(&statements[index]);
            waiting.extend(needed.into_iter().rev().filter(|needed| visits[*needed] == Visit::Unseen));
            continue;
        }
        waiting.pop();
        if visits[index] == Visit::Open {
            visits[index] = Visit::Done;
            order.push(&statements[index]);
        }
    }
    order
}

/// The places of what a statement reads before the names below it are needed.
fn reads(statement: &Statement) -> Vec<Span> {
    match statement {
        Statement::Let { index, value, .. } => {
            index.iter().map(|index| index.over.span).chain([value.span]).collect()
        }
        Statement::State { index, first, .. } => {
            index.iter().map(|index| index.over.span).chain([first.span]).collect()
        }
        Statement::Term { index, value, block, .. } => {
            let block = block.iter().map(|block| block.span);
            index.iter().map(|index| index.over.span).chain([value.span]).chain(block).collect()
        }
        Statement::Entry(entry) => vec![entry.value.span],
        Statement::Trains { .. } | Statement::Step { .. } | Statement::Route(_) => Vec::new(),
    }
}
