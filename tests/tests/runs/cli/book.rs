//! Checks the book's statements on plans: which programs of the guide can be planned, and the normal forms of
//! the library.

use std::fs;

use mopd_lang::ide::LibraryModule;
use mopd_tests::{Fence, fences, files, generate, root, settle};

use crate::cli::Place;

/// A program tagged `mopd checked` is valid, but this version refuses to run it; every other program that
/// trains something can be planned.
#[test]
fn the_guide_says_truly_what_can_be_planned() {
    let mut faults = String::new();
    let (mut planned, mut refused) = (0, 0);
    for path in files(&root().join("book/src/language"), ".md") {
        for Fence { line, tag, text, .. } in fences(&fs::read_to_string(&path).expect("a page")) {
            let checked_only = tag == "mopd checked";
            let trains = text.starts_with("model ") || text.contains("\nmodel ");
            if !text.contains("experiment \"") || !trains {
                assert!(!checked_only, "{}:{line}: nothing here could be planned", path.display());
                continue;
            }
            let said = Place::with(&[("a.mopd", &text)]).mopd(&["plan", "a.mopd"]);
            let errors = said.err.matches("error[").count();
            let unsupported = said.err.matches("error[not-supported-yet]").count();
            let (status, count) = if checked_only { (1, &mut refused) } else { (0, &mut planned) };
            *count += 1;
            if said.status != Some(status) || errors != unsupported {
                faults += &format!("{}:{line}: {}\n", path.display(), said.err);
            }
        }
    }
    // Implementing a feature moves programs from `refused` to `planned`.
    assert!(planned >= 31 && planned + refused >= 32, "{planned} programs planned, {refused} refused");
    assert!(faults.is_empty(), "{faults}");
}

/// Sections `<!-- normal forms: MODULE -->` of the catalogue of methods.
#[test]
fn the_catalogue_has_the_normal_form_of_every_objective() {
    let path = root().join("book/src/methods.md");
    let page = fs::read_to_string(&path).expect("the catalogue");
    let place = Place::new();
    let made = generate(&page, "normal forms", |module| {
        let list = place.mopd(&["plan", "--format", "json", &format!("std.{module}")]).is(0, &[]).json();
        let forms: Vec<String> = list.as_array()?.iter().map(normal_form).collect();
        Some(format!("```text\n{}\n```", forms.join("\n\n")))
    });
    let faults = settle(&path, &page, &made);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let with_objectives = mopd_std::MODULES.iter().filter(|(name, text)| {
        LibraryModule::from_text(&["std", name], text)
            .items
            .iter()
            .any(|item| item.signature.starts_with("objective "))
    });
    let expected: Vec<&str> = with_objectives.map(|(name, _)| *name).collect();
    assert_eq!(made.names, expected, "every module with objectives has a section");
}

/// The slots in the order in which `mopd plan` shows them.
const SLOTS: &[&str] = &[
    "prefixes",
    "sequence_selection",
    "token_allocation",
    "support",
    "mass",
    "divergence",
    "evaluation",
    "shaping",
    "realisation",
    "terms",
];

fn normal_form(objective: &serde_json::Value) -> String {
    let mut text = objective["name"].as_str().expect("a name").to_owned();
    let form = objective["normal_form"].as_object().expect("a normal form");
    assert_eq!(form.len(), SLOTS.len(), "{form:?}");
    for slot in SLOTS {
        let value = form[*slot].as_str().expect("a text");
        text += &format!("\n  {:20}{value}", slot.replace('_', " "));
    }
    text
}
