//! Compares every objective of the library with its paper: selections, weights, gates, and the coefficient of
//! everything through which gradient flows, computed by the compiler from the library's own text and,
//! independently, from the papers' formulas in plain f64. The comment above each reference cites the source
//! of its formula: the paper, or the number of its card in the catalogue of `tests/methods/README.md`.

mod case;
mod divergences;
mod math;
mod rewards;
mod sampled;
mod sequences;
mod stages;
mod table;
mod tokens;

use std::collections::BTreeMap;
use std::fs;

use case::{Case, compare};
use mopd_tests::{files, generate, root, settle};

fn cases() -> Vec<Case> {
    [divergences::cases(), rewards::cases(), sampled::cases(), sequences::cases(), tokens::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Public functions: the objective of the library through which each is compared, or why none is.
const FUNCTIONS: &[(&str, Result<&str, &str>)] = &[
    ("atesd.learned_exposure", Err("the run itself moves it, by a mean over another rollout")),
    ("drpo.smooth_region", Ok("drpo.drpo")),
    ("g_opd.safe_scale", Ok("g_opd.list_opd")),
    ("ppo.advantage_over", Ok("ppo.ppo_critic")),
    ("rl.clipped", Ok("rl.dapo")),
];

#[test]
fn every_objective_computes_what_its_paper_says() {
    let mut faults = String::new();
    for case in cases() {
        if let Err(fault) = compare(&case) {
            faults += &format!("{}.{}: {fault}\n", case.module, case.objective);
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// The public items of one kind in the library, as `module.name`.
fn public(kind: &str) -> Vec<String> {
    let declared = format!("pub {kind} ");
    let mut found = Vec::new();
    for (module, text) in mopd_std::MODULES {
        for line in text.lines().filter_map(|line| line.strip_prefix(&declared)) {
            let name =
                line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or(line);
            found.push(format!("{module}.{name}"));
        }
    }
    found
}

/// Objectives whose loss and gradient are compared as a whole: `tests/methods/numbers`.
fn compared_whole() -> Vec<String> {
    let numbers = files(&root().join("tests/methods/numbers"), ".json");
    numbers.iter().map(|path| path.file_stem().expect("a file").to_string_lossy().into_owned()).collect()
}

#[test]
fn everything_of_the_library_that_weighs_or_selects_has_a_reference() {
    let known: Vec<String> = cases().iter().map(Case::path).chain(compared_whole()).collect();
    for objective in public("objective") {
        assert!(known.contains(&objective), "{objective} has no reference");
    }
    assert_eq!(public("fn"), FUNCTIONS.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    for (_, through) in FUNCTIONS {
        assert!(through.is_err() || through.is_ok_and(|path| known.iter().any(|known| known == path)));
    }
}

/// Sections `<!-- compared: MODULE -->` of the catalogue of methods.
#[test]
fn the_catalogue_says_what_is_compared() {
    let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut seen: Vec<String> = Vec::new();
    for case in cases() {
        let compared = compare(&case).unwrap_or_default();
        // A second set of parameters is no second objective.
        if !seen.contains(&case.path()) {
            lines.entry(case.module).or_default().push(format!("`{}` ({compared})", case.objective));
        }
        seen.push(case.path());
    }
    let path = root().join("book/src/methods.md");
    let page = fs::read_to_string(&path).expect("the catalogue");
    let made = generate(&page, "compared", |module| {
        let lines = lines.get(module)?;
        Some(format!("Compared with the formulas of the papers: {}.", lines.join("; ")))
    });
    let faults = settle(&path, &page, &made);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert_eq!(made.names, lines.into_keys().collect::<Vec<_>>(), "every module with objectives has a line");
}
