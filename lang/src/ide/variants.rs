//! An edit of a model's settings, kept as a variant: the model as it was, and beside it one with what the
//! edit changed.

use super::ENTRY;
use crate::check::declared_name;
use crate::source::Span;
use crate::syntax::ast::{Block, ExprKind, Item, ItemKind, Module, Statement};
use crate::syntax::parse;

/// The text before an edit, with what the edit changed as another model, which stands beside the first one in
/// every table. Otherwise why that can't be.
pub fn kept_as_variant(before: &str, after: &str) -> Result<String, &'static str> {
    const OTHER: &str =
        "an edit can be kept as a variant if it changes or adds settings of one model, and nothing else";
    let (old, new) = (module(before), module(after));
    if old.items.len() != new.items.len() {
        return Err(OTHER);
    }
    let mut edited =
        old.items.iter().zip(&new.items).filter(|(old, new)| text(before, old.span) != text(after, new.span));
    let (Some((old_item, new_item)), None) = (edited.next(), edited.next()) else { return Err(OTHER) };
    let (Some((name, old_block)), Some((_, new_block))) = (settings(old_item), settings(new_item)) else {
        return Err(OTHER);
    };
    let head = |text: &'_ str, item: &Item, block: &Block| {
        text[item.span.start as usize..block.span.start as usize].to_owned()
    };
    if head(before, old_item, old_block) != head(after, new_item, new_block) {
        return Err(OTHER);
    }
    let (old_settings, new_settings) = (statements(before, old_block), statements(after, new_block));
    if old_settings.iter().any(|(key, _)| new_settings.iter().all(|(other, _)| other != key)) {
        return Err("the edit removes a setting: `with` changes and adds settings, and removes none");
    }
    let changed: Vec<&str> = new_settings
        .iter()
        .filter(|setting| !old_settings.contains(setting))
        .map(|(_, text)| *text)
        .collect();
    if changed.is_empty() {
        return Err(OTHER);
    }
    let is_taken = |name: &str| old.items.iter().any(|item| name_of(item) == Some(name));
    let variant =
        (2..).map(|number| format!("{name}_{number}")).find(|name| !is_taken(name)).expect("a free name");
    let declared = format!("\n\nmodel {variant} = {name} with {{ {} }}", changed.join(", "));
    let mut inserted = vec![(old_item.span.end as usize, declared)];
    let tables = old.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Compare { block, .. } => Some(block),
        _ => None,
    });
    for row in tables.flat_map(|block| rows_of(block, name)) {
        inserted.push((row.end as usize, format!(", {variant}")));
    }
    inserted.sort_by_key(|(place, _)| *place);
    let mut kept = before.to_owned();
    for (place, text) in inserted.iter().rev() {
        kept.insert_str(*place, text);
    }
    Ok(kept)
}

fn module(text: &str) -> Module {
    parse(ENTRY, text).0
}

fn text(source: &str, span: Span) -> &str {
    &source[span.start as usize..span.end as usize]
}

fn name_of(item: &Item) -> Option<&str> {
    declared_name(&item.kind).map(|name| name.text.as_str())
}

/// The name and the settings of a model that is no family.
fn settings(item: &Item) -> Option<(&str, &Block)> {
    let ItemKind::Model(binding) = &item.kind else { return None };
    if !binding.indices.is_empty() {
        return None;
    }
    let block = match &binding.value.kind {
        ExprKind::Call { block: Some(block), .. } => block,
        ExprKind::With { changes, .. } => match &changes.kind {
            ExprKind::Settings(block) => block,
            _ => return None,
        },
        _ => return None,
    };
    Some((&binding.name.text, block))
}

/// Each setting by its key, with its text; a route has the key `route`.
fn statements<'a>(source: &'a str, block: &'a Block) -> Vec<(&'a str, &'a str)> {
    let found = block.statements.iter().map(|statement| match statement {
        Statement::Entry(entry) => {
            (entry.key.text.as_str(), text(source, entry.key.span.to(entry.value.span)))
        }
        Statement::Route(route) => ("route", text(source, route.span)),
        // Something that settings have not.
        _ => ("", ""),
    });
    found.collect()
}

/// The places of a model in the rows of a table.
fn rows_of<'a>(block: &'a Block, name: &'a str) -> impl Iterator<Item = Span> {
    let lists = block.statements.iter().filter_map(|statement| match statement {
        Statement::Entry(entry) if entry.key.text == "models" => match &entry.value.kind {
            ExprKind::List(rows) => Some(rows),
            _ => None,
        },
        _ => None,
    });
    let is_named = move |kind: &ExprKind| matches!(kind, ExprKind::Name(row) if row == name);
    lists.flatten().filter(move |row| is_named(&row.kind)).map(|row| row.span)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "model base = llama { layers = 1 }
model student = distill(base) {
  objective = mopd(clip_at: 5) // as published
  steps     = 6
}
compare \"t\" { models = [base, student], on = [a] }
";

    #[test]
    fn changed_and_added_settings_are_a_variant_beside_the_model() {
        let edited =
            TEXT.replace("clip_at: 5", "clip_at: 3").replace("steps     = 6", "steps     = 6\n  lr = 1e-4");
        let kept = kept_as_variant(TEXT, &edited).expect("a variant");
        let expected = TEXT
            .replace(
                "}\ncompare",
                "}\n\nmodel student_2 = student with { objective = mopd(clip_at: 3), lr = 1e-4 }\ncompare",
            )
            .replace("[base, student]", "[base, student, student_2]");
        assert_eq!(kept, expected);
        // The next one has another name.
        let again = kept_as_variant(&kept, &kept.replace("clip_at: 5", "clip_at: 1")).expect("a variant");
        assert!(again.contains("model student_3 = student with { objective = mopd(clip_at: 1) }"), "{again}");
        assert!(again.contains("[base, student, student_3, student_2]"), "{again}");
        // So has a change of a variant.
        let of_variant = kept_as_variant(&kept, &kept.replace("lr = 1e-4", "lr = 1e-5")).expect("a variant");
        assert!(of_variant.contains("model student_2_2 = student_2 with { lr = 1e-5 }"), "{of_variant}");
    }

    #[test]
    fn other_edits_are_none() {
        for edited in [
            TEXT.to_owned(),
            TEXT.replace("  steps     = 6\n", ""),
            TEXT.replace("distill(base)", "sft(base)"),
            TEXT.replace("steps     = 6", "steps     = 7").replace("layers = 1", "layers = 2"),
            TEXT.replace("on = [a]", "on = [b]"),
            format!("{TEXT}let x = 1\n"),
        ] {
            assert!(kept_as_variant(TEXT, &edited).is_err(), "{edited}");
        }
    }
}
