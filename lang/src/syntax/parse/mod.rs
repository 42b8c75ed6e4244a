//! The parser: layout, then the grammar, then the tree. It never fails; what it can't read it reports and passes over.

mod arms;
mod build;
mod expected;
mod explain;
mod expression;
#[cfg(test)]
mod hostile;
mod literal;
#[cfg(test)]
mod mistakes;
mod operators;
mod salvage;
#[cfg(test)]
mod tests;

use std::ops::Range;

use pest::Parser;
use pest::iterators::Pair;
use pest_derive::Parser;

use super::ast::Module;
use super::layout;
use crate::diag::Diagnostic;
use crate::source::FileId;
use build::Builder;

#[derive(Parser)]
#[grammar = "grammar.pest"]
struct Grammar;

/// Reads one file. Findings are sorted by place; a broken item keeps its name in the tree where it has one, with
/// [`super::ast::ExprKind::Error`] for what could not be read, so that nothing else is reported because of it.
pub fn parse(file: FileId, text: &str) -> (Module, Vec<Diagnostic>) {
    let laid_out = layout::lay_out(file, text);
    let mut builder = Builder::new(file, text, &laid_out);
    let items = match Grammar::parse(Rule::file, &laid_out.text) {
        Ok(pairs) => pairs.flat_map(Pair::into_inner).filter_map(|pair| builder.top_level(pair)).collect(),
        // The root rule takes any text; should the grammar ever lose that property, the file still gets its report.
        Err(error) => {
            builder.report_raw(&error);
            Vec::new()
        }
    };
    let mut findings = builder.findings;
    let doc = laid_out.module_doc.join("\n");
    findings.extend(laid_out.findings);
    findings.sort_by_key(|finding| (finding.primary.span.start, finding.primary.span.end));
    (Module { doc, items }, findings)
}

/// Where the items of a laid-out text stand, sound or broken.
pub(crate) fn top_level(laid_out: &str) -> Vec<Range<usize>> {
    let pairs = Grammar::parse(Rule::file, laid_out).map(|pairs| pairs.flat_map(Pair::into_inner).collect());
    let pairs: Vec<Pair<Rule>> = pairs.unwrap_or_default();
    let items = pairs.iter().filter(|pair| matches!(pair.as_rule(), Rule::item | Rule::stray_item));
    items.map(|pair| pair.as_span().start()..pair.as_span().end()).collect()
}
