//! The parser: layout, grammar, tree, one item after another. It never fails: text that can't be parsed is
//! reported and skipped.

mod arms;
mod build;
mod expected;
mod explain;
mod expression;
mod habits;
#[cfg(test)]
mod hostile;
mod imports;
mod items;
mod known;
mod leftovers;
mod literal;
#[cfg(test)]
mod mistakes;
mod operators;
mod salvage;
mod slips;
#[cfg(test)]
mod tests;
mod unparsed;

use std::ops::Range;
use std::rc::Rc;

use pest::Parser;
use pest::iterators::Pair;
use pest_derive::Parser;

use super::ast::Module;
use crate::diag::Diagnostic;
use crate::source::FileId;
pub use known::KnownFile;

#[derive(Parser)]
#[grammar = "grammar.pest"]
struct Grammar;

/// Parses one file. Diagnostics are sorted by place. A broken item keeps its name in the tree, if it has one,
/// with [`super::ast::ExprKind::Error`] for the unparsed parts, so that uses of the name are not reported
/// too.
pub fn parse(file: FileId, text: &str) -> (Module, Vec<Diagnostic>) {
    let (tree, diagnostics) = KnownFile::default().parse(file, text);
    (Rc::unwrap_or_clone(tree), diagnostics)
}

/// The ranges of the items of a laid-out text, valid or broken.
pub(crate) fn top_level(laid_out: &str) -> Vec<Range<usize>> {
    let pairs = Grammar::parse(Rule::file, laid_out).map(|pairs| pairs.flat_map(Pair::into_inner).collect());
    let pairs: Vec<Pair<Rule>> = pairs.unwrap_or_default();
    let items = pairs.iter().filter(|pair| matches!(pair.as_rule(), Rule::item | Rule::stray_item));
    items.map(|pair| pair.as_span().start()..pair.as_span().end()).collect()
}
