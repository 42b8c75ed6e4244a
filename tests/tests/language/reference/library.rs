//! The standard library: the public items of every module, and their methods.

use std::fmt::Write as _;

use mopd_lang::ide::{LibraryItem, LibraryModule};

use crate::reference::tables::cell;

fn modules() -> impl Iterator<Item = LibraryModule> {
    mopd_std::MODULES.iter().map(|(name, text)| LibraryModule::from_text(&["std", name], text))
}

/// Every public item of every module, with its declaration and its comment.
pub fn library() -> String {
    let mut text = String::new();
    for module in modules() {
        let _ = write!(text, "## `{}`\n\n{}\n\n", module.path.join("."), module.doc);
        for item in &module.items {
            let _ = write!(text, "```text\n{}\n```\n\n", item.signature);
            if !item.doc.is_empty() {
                let _ = write!(text, "{}\n\n", item.doc);
            }
        }
    }
    text.trim_end().to_owned()
}

/// A section for each module: its description, and the paper and the evidence of every item.
pub fn methods() -> Vec<(String, String)> {
    modules().map(|module| (format!("method {}", module.path[1]), method(&module))).collect()
}

fn method(module: &LibraryModule) -> String {
    let mut text = format!("{}\n\n| item | paper | evidence |\n|---|---|---|\n", module.doc);
    for item in &module.items {
        let papers = or(papers(&item.doc), papers(&module.doc));
        let evidence = or(evidence(&item.doc), evidence(&module.doc));
        let _ = writeln!(text, "| {} `{}` | {} | {} |", kind(item), item.name, papers, cell(&evidence));
    }
    text.trim_end().to_owned()
}

fn kind(item: &LibraryItem) -> &str {
    item.signature.split(' ').next().unwrap_or_default()
}

fn or(own: String, shared: String) -> String {
    if own.is_empty() { shared } else { own }
}

/// Links to the papers that a comment cites.
fn papers(doc: &str) -> String {
    let number = |rest: &str| {
        rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len())]
            .trim_end_matches('.')
            .to_owned()
    };
    let mut found: Vec<String> = Vec::new();
    for cited in doc.split("arXiv:").skip(1).map(number) {
        let link = format!("[{cited}](https://arxiv.org/abs/{cited})");
        if !found.contains(&link) {
            found.push(link);
        }
    }
    found.join(", ")
}

/// The text after `Evidence:` or `Evidence for all of it:`, up to the end of the sentence.
fn evidence(doc: &str) -> String {
    let flat = doc.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((_, rest)) = flat.split_once("Evidence").and_then(|(_, rest)| rest.split_once(": ")) else {
        return String::new();
    };
    rest.split_once(". ").map_or(rest, |(sentence, _)| sentence).trim_end_matches('.').to_owned()
}
