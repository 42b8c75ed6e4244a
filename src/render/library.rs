//! The objectives of a file without `experiment`: a module of the standard library, or the author's own.

use mopd_lang::check::NamedObjective;
use mopd_plan::NormalForm;
use serde::Serialize;

use super::outline;
use crate::output::{Style, counted};

/// An objective as JSON. Fields are only ever added.
#[derive(Serialize)]
struct LibraryEntry<'a> {
    name: &'a str,
    /// As written: `clip_at: nats = 5`.
    parameters: &'a [String],
    /// The whole comment above it.
    doc: &'a str,
    normal_form: NormalForm,
}

impl<'a> LibraryEntry<'a> {
    fn new(named: &'a NamedObjective) -> LibraryEntry<'a> {
        let NamedObjective { doc, parameters, objective, .. } = named;
        LibraryEntry { name: &objective.name, parameters, doc, normal_form: normal_form(named) }
    }
}

fn normal_form(named: &NamedObjective) -> NormalForm {
    mopd_compiler::normal_form(&named.objective, None)
}

/// `path` is that of the file, as in diagnostics.
pub fn tree(path: &str, objectives: &[&NamedObjective], style: Style) -> String {
    let mut out = format!("{}: {}\n", style.bold(path), counted(objectives.len(), "public objective"));
    for named in objectives {
        out += &format!("\n{}({})\n", style.bold(&named.objective.name), named.parameters.join(", "));
        let about = first_sentence(&named.doc);
        if !about.is_empty() {
            out += &format!("  {about}\n");
        }
        for (slot, value) in outline::slots(&normal_form(named)) {
            out += &format!("  {} {value}\n", style.cyan(&format!("{:20}", slot.trim())));
        }
    }
    out
}

/// [`tree`] as JSON.
pub fn json(objectives: &[&NamedObjective]) -> String {
    let entries: Vec<LibraryEntry> = objectives.iter().map(|named| LibraryEntry::new(named)).collect();
    serde_json::to_string_pretty(&entries).expect("strings can always be written") + "\n"
}

/// The first sentence, on one line. The full stops of `eqs. 2-4` and `arXiv:2606.30406` do not end it.
fn first_sentence(doc: &str) -> String {
    let paragraph =
        doc.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<&str>>().join(" ");
    let ends = paragraph.match_indices(". ").find(|(at, _)| {
        let after = paragraph[at + 2..].chars().next();
        after.is_some_and(char::is_uppercase)
    });
    match ends {
        Some((at, _)) => paragraph[..=at].to_owned(),
        None => paragraph,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_cut_behind_its_first_sentence() {
        assert_eq!(
            first_sentence("One (arXiv:2606.30406, eqs. 2-4)\nand more. Then two."),
            "One (arXiv:2606.30406, eqs. 2-4) and more."
        );
        assert_eq!(first_sentence("No end\n\nAnother paragraph."), "No end");
        assert_eq!(first_sentence(""), "");
    }
}
