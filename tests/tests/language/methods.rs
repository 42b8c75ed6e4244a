//! Tests of `tests/methods`: one small experiment for each published method, written with the standard
//! library.

use std::fmt::Write as _;
use std::fs;

use mopd_compiler::audit::{ObjectiveUse, Verdict, audit};
use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_tests::{check, check_text, files, generate, listing, root, settle};

#[test]
fn every_method_checks() {
    let mut faults = String::new();
    let programs = files(&root().join("tests/methods"), ".mopd");
    assert!(programs.len() > 70, "only {} programs", programs.len());
    for path in programs {
        let text = fs::read_to_string(&path).expect("a program");
        let analysis = check(&path.file_name().expect("a file").to_string_lossy(), &text);
        // A foreign teacher is the subject of some papers; any other warning would be about a published
        // recipe.
        let meant = |diagnostic: &Diagnostic| {
            diagnostic.severity == Severity::Warning && diagnostic.code == Code::ForeignTeacher
        };
        if !analysis.diagnostics.iter().all(meant) {
            let _ = write!(faults, "{}", listing(&analysis));
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_module_of_the_library_checks() {
    let mut faults = String::new();
    for (name, text) in mopd_std::MODULES {
        let analysis = check(&format!("std:{name}.mopd"), text);
        if analysis.has_errors() {
            let _ = write!(faults, "{}", listing(&analysis));
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn every_public_objective_of_the_library_is_known() {
    let mut missing = String::new();
    for (name, text) in mopd_std::MODULES {
        let analysis = check(&format!("std:{name}.mopd"), text);
        for line in text.lines().filter_map(|line| line.strip_prefix("pub objective ")) {
            let objective =
                line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or(line);
            if !analysis.objectives.iter().any(|known| known.public && known.objective.name == objective) {
                let _ = writeln!(missing, "std.{name}.{objective}");
            }
        }
    }
    assert!(missing.is_empty(), "\n{missing}");
}

/// The section `<!-- gradients: std -->` of the reference: what the gradients of public objectives follow.
#[test]
fn the_reference_says_what_every_objective_follows() {
    let path = root().join("book/src/reference/gradients.md");
    let page = fs::read_to_string(&path).expect("the page");
    let mut audited = 0;
    let mut table = "| objective | follows |\n|---|---|".to_owned();
    for (name, text) in mopd_std::MODULES {
        let analysis = check(&format!("std:{name}.mopd"), text);
        for named in analysis.objectives.iter().filter(|named| named.public) {
            let audit = audit(&named.objective, &ObjectiveUse::unknown());
            let one = audit.terms.len() == 1;
            let mut lines = Vec::new();
            for term in &audit.terms {
                audited += usize::from(
                    !term.findings.iter().any(|found| matches!(found.verdict, Verdict::NotAudited { .. })),
                );
                // Every second row would note that a large support was made small.
                let mut told = term.clone();
                told.findings
                    .iter_mut()
                    .for_each(|diagnostic| diagnostic.notes.retain(|note| !note.starts_with("the top ")));
                for (place, line) in told.lines().into_iter().enumerate() {
                    let whose = if one || place > 0 { String::new() } else { format!("`{}`: ", term.term) };
                    lines.push(whose + &line.replace('|', "\\|"));
                }
            }
            let _ = write!(table, "\n| `{name}.{}` | {} |", named.objective.name, lines.join("<br>"));
        }
    }
    let made = generate(&page, "gradients", |_| Some(table.clone()));
    let faults = settle(&path, &page, &made);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    assert!(audited > 100, "only {audited} terms were audited");
}

/// The section `<!-- runs: today -->` of the table's page: the methods that can be planned, and why others
/// can't.
#[test]
fn the_methods_that_run_are_listed() {
    let path = root().join("tests/methods/README.md");
    let page = fs::read_to_string(&path).expect("the table");
    let (mut run, mut refused) = (Vec::new(), Vec::new());
    for path in files(&root().join("tests/methods"), ".mopd") {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("a program");
        let analysis = check_text(&name, &text);
        let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", listing(&analysis)));
        match mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false) {
            Ok(_) => run.push(format!("`{name}`")),
            Err(refusals) => {
                let mut why: Vec<&str> = Vec::new();
                for refusal in &refusals {
                    let construct = refusal.message.trim_end_matches(" is not supported yet");
                    if !why.contains(&construct) {
                        why.push(construct);
                    }
                }
                refused.push(format!("- `{name}`: {}", why.join("; ")));
            }
        }
    }
    let (count, all) = (run.len(), run.len() + refused.len());
    let made = generate(&page, "runs", |_| {
        Some(format!(
            "{count} of {all}: {}.\n\nThe others wait for:\n\n{}",
            run.join(", "),
            refused.join("\n")
        ))
    });
    let faults = settle(&path, &page, &made);
    assert!(faults.is_empty() && made.names == ["today"], "\n{}", faults.join("\n"));
}

/// The section `<!-- table: methods -->` of the book: what other tests have shown about every published
/// method.
#[test]
fn the_book_has_a_table_of_all_methods() {
    let folder = root().join("tests/methods");
    let readme = fs::read_to_string(folder.join("README.md")).expect("the table");
    let path = root().join("book/src/methods.md");
    let page = fs::read_to_string(&path).expect("the page");
    let referenced: Vec<String> = files(&folder.join("numbers"), ".json")
        .iter()
        .map(|path| {
            let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
            // A third part of the name is the first of the terms whose completions the numbers belong to.
            name.split('.').take(2).collect::<Vec<_>>().join(".")
        })
        .collect();
    let mechanisms = fs::read_to_string(root().join("tests/mechanisms/README.md")).expect("the page");
    let mut table = "| method | module | lines | trains | loss and gradient in float64 | the gradient | \
                     what a small run shows |\n|---|---|---:|---|---|---|---|"
        .to_owned();
    for row in rows(&readme) {
        let (_, text) = mopd_std::module(row.module).expect("a module");
        let program = fs::read_to_string(folder.join(format!("{}.mopd", row.experiment))).expect("a program");
        let analysis = check(row.experiment, &program);
        let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", listing(&analysis)));
        let runs = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).is_ok();
        let mut verdicts: Vec<String> = Vec::new();
        let mut objectives: Vec<String> = Vec::new();
        let audits = mopd_compiler::audit::of_experiment(experiment);
        let own = |name: &str| text.contains(&format!("pub objective {name}"));
        // If the experiment trains on objectives of this module, the objectives of its teachers are left out.
        let any_own = audits.iter().any(|audited| own(&audited.audit.objective));
        for audited in audits.iter().filter(|audited| !any_own || own(&audited.audit.objective)) {
            let name = format!("{}.{}", row.module, audited.audit.objective);
            if any_own && !objectives.contains(&name) {
                objectives.push(name);
            }
            for term in &audited.audit.terms {
                let first = term.lines().swap_remove(0).replace('|', "\\|");
                if !verdicts.contains(&first) {
                    verdicts.push(first);
                }
            }
        }
        let known = objectives.iter().filter(|objective| referenced.contains(objective)).count();
        let agrees = match (known, objectives.len()) {
            (_, 0) => "the library's own losses".to_owned(),
            (0, _) => "[coefficients](#how-to-read-this-page)".to_owned(),
            (known, all) => format!("{known} of {all}"),
        };
        let _ = write!(
            table,
            "\n| {} | [`{}`](#std{}) | {} | {} | {agrees} | {} | {} |",
            row.name,
            row.module,
            row.module,
            code_lines(text),
            if runs { "yes" } else { "not yet" },
            verdicts.join("; "),
            shown(&mechanisms, row.experiment).unwrap_or("-")
        );
    }
    let made = generate(&page, "table", |_| Some(table.clone()));
    let faults = settle(&path, &page, &made);
    assert!(faults.is_empty() && made.names == ["methods"], "\n{}", faults.join("\n"));
}

/// The line of a table of `tests/mechanisms/README.md`.
fn shown<'a>(page: &'a str, method: &str) -> Option<&'a str> {
    let begin = format!("| `{method}` | ");
    page.lines().find_map(|line| line.strip_prefix(&begin)?.strip_suffix(" |"))
}

/// Lines that are neither empty nor comment.
fn code_lines(text: &str) -> usize {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// One row of the table of published methods.
struct Row<'a> {
    name: &'a str,
    papers: Vec<&'a str>,
    module: &'a str,
    experiment: &'a str,
    evidence: &'a str,
}

/// The table in `tests/methods/README.md`: method, paper, card, module, experiment, evidence.
fn rows<'a>(page: &'a str) -> Vec<Row<'a>> {
    page.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [method, paper, _, module, experiment, evidence] = cells.as_slice() else { return None };
            let name = |cell: &&'a str| cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`'));
            let papers = paper.split(", ").filter(|paper| *paper != "-").collect();
            Some(Row { name: method, papers, module: name(module)?, experiment: name(experiment)?, evidence })
        })
        .collect()
}

#[test]
fn the_table_of_methods_is_whole() {
    let folder = root().join("tests/methods");
    let page = fs::read_to_string(folder.join("README.md")).expect("the table");
    let rows = rows(&page);
    let mut faults = String::new();
    for Row { papers, module, experiment, evidence, .. } in &rows {
        let library = mopd_std::module(module).map(|(_, text)| text).unwrap_or_default();
        let program = fs::read_to_string(folder.join(format!("{experiment}.mopd"))).unwrap_or_default();
        if !program.contains(&format!("use std.{module}.")) {
            let _ = writeln!(faults, "{experiment}.mopd does not import std.{module}");
        }
        for paper in papers.iter().filter(|paper| !library.contains(**paper)) {
            let _ = writeln!(faults, "std.{module} does not cite arXiv:{paper}");
        }
        if !["code", "paper", "notes", "abstract", "known"].contains(evidence) {
            let _ = writeln!(faults, "{experiment}: evidence `{evidence}`");
        }
    }
    for path in files(&folder, ".mopd") {
        let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
        let times = rows.iter().filter(|row| row.experiment == name).count();
        if times != 1 {
            let _ = writeln!(faults, "{name}.mopd stands in {times} rows");
        }
    }
    // Modules that only provide losses for others are not methods.
    for (module, _) in mopd_std::MODULES.iter().filter(|(module, _)| !["sft", "divergences"].contains(module))
    {
        if !rows.iter().any(|row| row.module == *module) {
            let _ = writeln!(faults, "no row for std.{module}");
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn a_stage_that_nobody_calls_is_no_part_of_the_experiment() {
    let program = r#"
use std.gkd.forward
experiment "uncalled" { seed = 1 }
domain sort { prompts = "sort.jsonl", reward = exact_match }
model base = llama { layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }
teacher start = base
stage usual(from_here: model, tutor: teacher) = distill(from_here) {
  objective = forward
  rollout   = sample(n: 1, temperature: 1, max_tokens: 16)
  route     { else -> tutor }
  prompts   = 8
  steps     = 10
  lr        = 1e-3
}
model student = distill(base) {
  objective = forward
  rollout   = sample(n: 1, temperature: 1, max_tokens: 16)
  route     { else -> start }
  prompts   = 8
  steps     = 10
  lr        = 1e-3
}
"#;
    let analysis = check("uncalled.mopd", program);
    let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", listing(&analysis)));
    let models: Vec<&str> = experiment.models.iter().map(|model| model.name.as_str()).collect();
    let teachers: Vec<&str> = experiment.teachers.iter().map(|teacher| teacher.name.as_str()).collect();
    assert_eq!((models, teachers), (vec!["base", "student"], vec!["start"]));
}
