//! Results of the gradient audit, as text and as JSON.

use mopd_compiler::audit::{AuditedObjective, sum};

use crate::output::Style;

/// The most models named in one line; the rest are counted.
const NAMED: usize = 4;

pub fn text(entries: &[AuditedObjective], style: Style) -> String {
    let mut out = String::new();
    for (place, entry) in entries.iter().enumerate() {
        if place > 0 {
            out += "\n";
        }
        out += &style.bold(&entry.audit.objective);
        if !entry.models.is_empty() {
            out += &format!(": trains {}", models(&entry.models));
        }
        out += "\n";
        for term in &entry.audit.terms {
            let mut name = term.term.as_str();
            for line in term.lines() {
                out += &format!("  {} {line}\n", style.cyan(&format!("{name:12}")));
                name = "";
            }
        }
        if let Some(whole) = &entry.audit.whole {
            out += &format!("  {} {}\n", style.cyan(&format!("{:12}", "together")), sum(whole));
        }
    }
    out
}

fn models(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A list of objectives.
pub fn json(entries: &[AuditedObjective]) -> String {
    serde_json::to_string_pretty(entries).expect("strings and numbers can always be written") + "\n"
}
