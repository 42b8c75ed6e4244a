//! The coverage of every method of `tests/methods` by each engine's export, as a table of the book.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::LazyLock;

use mopd_compiler::export::coverage::{Coverage, EngineSupport};
use mopd_compiler::export::stage::{ExportRequest, trained};
use mopd_compiler::export::{ExportEngine, export};
use mopd_plan::{Plan, Stage};
use mopd_tests::{check_text, files, generate, root, settle};

use super::located;

/// A line that every stage has, and that is left out because it does not distinguish methods.
const OF_ALL: &str = "order of the prompts";

struct Row {
    file: String,
    stage: String,
    /// By the ways of [`WAYS`].
    coverage: [Coverage; 3],
}

/// How an engine gets a stage: its name in tables, and whether a run starts it.
const WAYS: [(ExportEngine, bool, &str); 3] = [
    (ExportEngine::Verl, false, "verl 0.9.1"),
    (ExportEngine::Trl, false, "TRL 1.16.0"),
    (ExportEngine::Trl, true, "run on TRL"),
];

/// The stages of all methods, exported once for all tests. They are audited in `methods.rs`.
static ROWS: LazyLock<Vec<Row>> = LazyLock::new(rows);

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for path in files(&root().join("tests/methods"), ".mopd") {
        let text = fs::read_to_string(&path).expect("a program");
        let file = path.file_name().expect("a file").to_string_lossy().into_owned();
        let analysis = check_text(&file, &text);
        let checked = analysis.experiment.as_ref().expect("an experiment");
        // An experiment that this version can't run has no plan to export.
        let plan = mopd_compiler::compile(checked, &analysis.origins, &analysis.sources, true);
        let Ok::<Plan, _>(plan) = plan else { continue };
        let folder = |name: &str| (format!("runs/{name}"), false);
        for (model, named) in trained(&plan) {
            // Stages that only make teachers do not belong to the method.
            let Stage::Train(train) = &named.stage else { continue };
            if train.scorers.routed().is_empty() {
                continue;
            }
            let request = ExportRequest::new(&plan, Some(checked), model, &folder, &located);
            let coverage =
                WAYS.map(|(engine, by_run, _)| export(engine, ExportRequest { by_run, ..request }).0);
            rows.push(Row { file: file.clone(), stage: named.name.clone(), coverage });
        }
    }
    rows
}

/// The distinct reasons of the worst lines.
fn reasons(coverage: &Coverage) -> String {
    let whole = coverage.whole();
    let mut found: Vec<String> = Vec::new();
    for line in coverage.lines.iter().filter(|line| line.verdict.word() == whole && whole != "exact") {
        let construct = line.construct.replace('|', "\\|");
        if line.construct != OF_ALL && !found.contains(&construct) {
            found.push(construct);
        }
    }
    found.join("; ")
}

fn word(coverage: &Coverage) -> &'static str {
    let others = |line: &&mopd_compiler::export::coverage::CoverageLine| line.construct != OF_ALL;
    let worst = Coverage { lines: coverage.lines.iter().filter(others).cloned().collect() };
    worst.whole()
}

fn table(rows: &[Row]) -> String {
    let mut text = "| method | stage |".to_owned();
    WAYS.iter().for_each(|(.., name)| text += &format!(" {name} | |"));
    let _ = write!(text, "\n|---|---{}|", "|---|---".repeat(WAYS.len()));
    for Row { file, stage, coverage } in rows {
        let method = file.trim_end_matches(".mopd");
        let _ = write!(text, "\n| `{method}` | `{stage}` |");
        for coverage in coverage {
            let _ = write!(text, " {} | {} |", word(coverage), reasons(coverage));
        }
    }
    text
}

fn counts(rows: &[Row]) -> String {
    let mut text = "| engine | exact | approximate | refused |\n|---|---:|---:|---:|".to_owned();
    for (number, (.., name)) in WAYS.into_iter().enumerate() {
        let of = |wanted: &str| rows.iter().filter(|row| word(&row.coverage[number]) == wanted).count();
        let _ = write!(text, "\n| {name} | {} | {} | {} |", of("exact"), of("approximate"), of("refused"));
    }
    text
}

/// Each construct that an export refused, and why.
fn refusals(rows: &[Row]) -> String {
    let mut found: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for row in rows {
        for ((.., way), coverage) in WAYS.into_iter().zip(&row.coverage) {
            let mut seen: Vec<&str> = Vec::new();
            for line in coverage.refused() {
                if let EngineSupport::Refused { why } = &line.verdict
                    && !seen.contains(&why.as_str())
                {
                    seen.push(why);
                    *found.entry((why.clone(), way)).or_default() += 1;
                }
            }
        }
    }
    let mut ordered: Vec<_> = found.into_iter().collect();
    ordered.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut text = "| why | engine | stages |\n|---|---|---:|".to_owned();
    for ((why, way), count) in ordered {
        let _ = write!(text, "\n| {} | {way} | {count} |", why.replace('|', "\\|"));
    }
    text
}

#[test]
fn the_book_says_what_comes_over_of_every_method() {
    let rows = &*ROWS;
    assert!(rows.len() > 70, "{} stages", rows.len());
    // For each engine, some stages are exported exactly and some are refused.
    // A run on TRL supplies what TRL lacks, so that little is refused.
    let refused = rows.iter().filter(|row| word(&row.coverage[2]) == "refused").count();
    assert!(refused <= 14, "{refused} stages of {}", rows.len());
    for (number, (.., name)) in WAYS.into_iter().enumerate() {
        let some = |wanted: &str| rows.iter().any(|row| word(&row.coverage[number]) == wanted);
        assert!(some("exact") && some("refused"), "{name}");
    }
    let path = root().join("book/src/export.md");
    let page = fs::read_to_string(&path).expect("the page");
    let made = generate(&page, "coverage", |name| {
        Some(match name {
            "counts" => counts(rows),
            "methods" => table(rows),
            "refusals" => refusals(rows),
            _ => return None,
        })
    });
    let faults = settle(&path, &page, &made);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A line without a reason would be a construct that is left out silently.
#[test]
fn every_line_that_is_not_exact_says_how_or_why() {
    for row in ROWS.iter() {
        for coverage in &row.coverage {
            for line in &coverage.lines {
                let told = line.verdict.detail().is_none_or(|detail| detail.len() > 8);
                assert!(told, "{}: {}: {}", row.file, row.stage, line.construct);
            }
        }
    }
}

/// A refusal names the function and file of the engine that it follows from, or is one of the exporter.
#[test]
fn a_refusal_names_its_place_in_the_engines_source() {
    let own = |why: &str| {
        ["the exporter", "mopd ", "no teacher of the stage"].iter().any(|begin| why.starts_with(begin))
    };
    for (number, (engine, _, name)) in WAYS.into_iter().enumerate() {
        let folders: &[&str] = match engine {
            ExportEngine::Verl => &["` in verl/"],
            ExportEngine::Trl => &["` in trl/", "` in transformers/"],
        };
        let mut named = 0;
        for row in ROWS.iter() {
            for line in row.coverage[number].refused() {
                let why = line.verdict.detail().expect("a reason");
                let place = why.contains("(`") && why.ends_with(".py)");
                let place = place && folders.iter().any(|folder| why.contains(folder));
                named += usize::from(place);
                assert!(place || own(why), "{name}: {}: {}: {why}", row.file, line.construct);
            }
        }
        assert!(named > 10, "{name}: {named} refusals with a place");
    }
}

/// An export has files if and only if nothing is refused.
#[test]
fn refused_export_writes_no_files() {
    let text = fs::read_to_string(root().join("tests/methods/gkd.mopd")).expect("a program");
    let analysis = check_text("gkd.mopd", &text);
    let checked = analysis.experiment.as_ref().expect("an experiment");
    let plan = mopd_compiler::compile(checked, &analysis.origins, &analysis.sources, true).expect("a plan");
    let folder = |name: &str| (format!("runs/{name}"), false);
    let mut written = 0;
    for (model, _) in trained(&plan) {
        for engine in ExportEngine::ALL {
            let request = ExportRequest::new(&plan, Some(checked), model, &folder, &located);
            let (coverage, files) = export(engine, request);
            assert_eq!(files.is_none(), coverage.refused().count() > 0);
            if let Some((export, _)) = files {
                written += 1;
                assert!(export.files.iter().any(|file| file.name == "objective.py"));
            }
        }
    }
    assert!(written > 0);
}
