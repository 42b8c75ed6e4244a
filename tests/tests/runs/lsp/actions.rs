//! Quick fixes: every fix of every code, and the comment that silences a warning.

use std::collections::BTreeSet;

use mopd_lang::diag::{Applicability, Code, Diagnostic, Severity};
use mopd_lang::ide::ENTRY;
use mopd_ops::testing::Extent;
use serde_json::{Value, json};

use super::{GOOD, Workspace, apply, offset};

fn actions(workspace: &mut Workspace, name: &str, diagnostic: &Value) -> Vec<Value> {
    let uri = workspace.uri(name);
    let context = json!({ "diagnostics": [diagnostic] });
    let params = json!({ "textDocument": { "uri": uri }, "range": diagnostic["range"], "context": context });
    workspace.client.request("textDocument/codeAction", params).as_array().expect("actions").clone()
}

/// The programs of the language suite, each with the setup that its page gives it.
fn programs() -> Vec<String> {
    let mut programs = Vec::new();
    for page in mopd_tests::files(&mopd_tests::root().join("tests/suite"), ".md") {
        let mut setup = String::new();
        for fence in mopd_tests::fences(&std::fs::read_to_string(page).expect("a page of the suite")) {
            match fence.tag.as_str() {
                "mopd setup" => setup = fence.text,
                "mopd using setup" => programs.push(format!("{setup}{}", fence.text)),
                _ => programs.push(fence.text),
            }
        }
    }
    programs
}

/// The text after the edit of an action.
fn after(workspace: &Workspace, text: &str, action: &Value) -> String {
    apply(text, &action["edit"]["changes"][workspace.uri("a.mopd")])
}

#[test]
fn every_way_out_of_every_diagnostic_of_the_suite_is_offered() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", "");
    let (mut codes, mut choices) = (BTreeSet::new(), BTreeSet::new());
    let extent = Extent::from_environment();
    for (version, text) in (2..).zip(extent.cases(programs().into_iter())) {
        let analysis = mopd_tests::check_text("a.mopd", &text);
        let published = workspace.replace("a.mopd", version, &text);
        for diagnostic in
            analysis.diagnostics.iter().filter(|diagnostic| diagnostic.primary.span.file == ENTRY)
        {
            let same = |shown: &&Value| {
                let place = diagnostic.primary.span.start as usize;
                shown["code"] == diagnostic.code.name()
                    && offset(&text, &shown["range"]["start"]) == place
                    && shown["message"]
                        .as_str()
                        .is_some_and(|message| message.starts_with(&diagnostic.message))
            };
            let shown =
                published.iter().find(same).unwrap_or_else(|| panic!("{diagnostic:?} is not shown:\n{text}"));
            let offered = actions(&mut workspace, "a.mopd", shown);
            let mut own = offered.iter().filter(|action| action["diagnostics"][0] == *shown);
            if let Some(fix) = &diagnostic.fix {
                codes.insert(diagnostic.code.name());
                let action = own.next().unwrap_or_else(|| panic!("no action {:?} in {offered:?}", fix.title));
                assert_eq!((&action["title"], &action["kind"]), (&json!(fix.title), &json!("quickfix")));
                assert_eq!(action["isPreferred"], fix.applicability == Applicability::Certain);
                let mut expected = text.clone();
                expected.replace_range(fix.span.start as usize..fix.span.end as usize, &fix.replacement);
                assert_eq!(after(&workspace, &text, action), expected);
            }
            for choice in &diagnostic.choices {
                let action =
                    own.next().unwrap_or_else(|| panic!("no action {:?} in {offered:?}", choice.title));
                assert_eq!((&action["title"], &action["isPreferred"]), (&json!(choice.title), &json!(false)));
                choices.insert(diagnostic.code.name());
                // The diagnostic is gone, and there is no other error instead.
                let chosen = after(&workspace, &text, action);
                let left = mopd_tests::check_text("a.mopd", &chosen).diagnostics;
                let same = |other: &&Diagnostic| other.message == diagnostic.message;
                let count = |found: &[Diagnostic]| found.iter().filter(same).count();
                assert!(count(&left) < count(&analysis.diagnostics), "{diagnostic:?} is still in\n{chosen}");
                // A name that exists in some module may not fit here.
                let errors = |found: &[Diagnostic]| {
                    found.iter().filter(|other| other.severity == Severity::Error).count()
                };
                let fits = errors(&left) < errors(&analysis.diagnostics);
                assert!(fits || diagnostic.code == Code::UnknownName, "{left:?} in\n{chosen}");
            }
            // A warning can also be silenced, by a comment with a reason.
            if diagnostic.severity == Severity::Warning && diagnostic.code != Code::UnusedAllow {
                let action = own.next().unwrap_or_else(|| panic!("no way to silence {diagnostic:?}"));
                let comment = format!("// allow({}): ", diagnostic.code.name());
                let silenced =
                    after(&workspace, &text, action).replacen(&comment, &format!("{comment}meant"), 1);
                let count = |text: &str| {
                    let found = mopd_tests::check("a.mopd", text).diagnostics;
                    found.iter().filter(|other| other.code == diagnostic.code).count()
                };
                assert!(count(&silenced) < count(&text), "{diagnostic:?} is not silenced in\n{silenced}");
            }
            assert_eq!(own.next(), None, "{text}");
        }
    }
    assert!(codes.len() >= extent.least(38), "only {codes:?} have fixes in the suite");
    let several = ["missing-argument", "missing-key", "missing-reduce"];
    let enough = several.iter().all(|code| choices.contains(code));
    assert!(enough || extent != Extent::Full, "only {choices:?} have several fixes in the suite");
}

/// The text after the action of this title among those of these kinds at a place.
fn refactored(workspace: &mut Workspace, text: &str, kind: &str, at: &str, title: &str) -> String {
    let uri = workspace.uri("a.mopd");
    let before = &text[..text.find(at).expect("the place")];
    let line = before.matches('\n').count();
    let place =
        json!({ "line": line, "character": before.len() - before.rfind('\n').map_or(0, |at| at + 1) });
    let context = json!({ "diagnostics": [], "only": [kind] });
    let params = json!({ "textDocument": { "uri": uri }, "range": { "start": place, "end": place }, "context": context });
    let offered = workspace.client.request("textDocument/codeAction", params);
    let offered = offered.as_array().expect("actions");
    let action = offered.iter().find(|action| action["title"] == title);
    let action = action.unwrap_or_else(|| panic!("no `{title}` among {offered:?}"));
    assert!(action["kind"].as_str().is_some_and(|given| given.starts_with(kind)), "{action}");
    apply(text, &action["edit"]["changes"][&uri])
}

#[test]
fn an_import_is_copied_and_a_model_varied_without_a_new_mistake() {
    let mut workspace = Workspace::new();
    assert_eq!(workspace.open("a.mopd", GOOD), [Value::Null; 0]);
    let copied = refactored(&mut workspace, GOOD, "refactor", "mopd(clip_at", "copy `mopd` into this file");
    assert!(copied.contains("\nobjective mopd(") && !copied.contains("use std.opd.mopd\n"), "{copied}");
    assert_eq!(workspace.replace("a.mopd", 2, &copied), [Value::Null; 0]);
    let varied =
        refactored(&mut workspace, &copied, "refactor", "student = distill", "make a variant of `student`");
    let varied = varied.replace("student with {  }", "student with { lr = 1e-4 }");
    // Its divergence needs no import.
    let gkd = GOOD.replace("std.opd.mopd", "std.gkd.gkd").replace("mopd(clip_at: 5)", "gkd(beta: 0.5)");
    assert_eq!(workspace.replace("a.mopd", 3, &gkd), [Value::Null; 0]);
    let copied = refactored(&mut workspace, &gkd, "refactor", "gkd(beta", "copy `gkd` into this file");
    assert_eq!(workspace.replace("a.mopd", 4, &copied), [Value::Null; 0]);
    let varied = varied.replace("models = [start, student]", "models = [start, student, student_2]");
    assert_eq!(workspace.replace("a.mopd", 5, &varied), [Value::Null; 0]);
}

#[test]
fn all_certain_fixes_of_a_file_are_one_action() {
    let mut workspace = Workspace::new();
    let wrong = GOOD.replace("clip_at: 5", "clipat: 5").replace("{ seed = 1 }", "{ seed: 1 }");
    let diagnostics = workspace.open("a.mopd", &wrong);
    assert!(!diagnostics.is_empty());
    let fixed = refactored(&mut workspace, &wrong, "source.fixAll", "experiment", "apply all certain fixes");
    assert!(fixed.contains("{ seed = 1 }"), "{fixed}");
    let left = workspace.replace("a.mopd", 2, &fixed);
    assert!(left.len() < diagnostics.len(), "{left:?}");
}

#[test]
fn a_fix_mends_what_it_is_offered_for() {
    let mut workspace = Workspace::new();
    let wrong = GOOD.replace("clip_at: 5", "clipat: 5");
    let diagnostics = workspace.open("a.mopd", &wrong);
    let offered = actions(&mut workspace, "a.mopd", &diagnostics[0]);
    let [action] = offered.as_slice() else { panic!("{offered:?}") };
    assert_eq!((&action["title"], &action["kind"]), (&json!("change to `clip_at`"), &json!("quickfix")));
    assert_eq!(action["diagnostics"][0], diagnostics[0]);
    let uri = workspace.uri("a.mopd");
    let fixed = apply(&wrong, &action["edit"]["changes"][&uri]);
    assert_eq!(workspace.replace("a.mopd", 2, &fixed), [Value::Null; 0]);
    let context = json!({ "diagnostics": [], "only": ["refactor"] });
    let only =
        json!({ "textDocument": { "uri": uri }, "range": diagnostics[0]["range"], "context": context });
    assert_eq!(workspace.client.request("textDocument/codeAction", only), json!([]));
}

#[test]
fn a_comment_that_silences_nothing_can_be_removed() {
    let mut workspace = Workspace::new();
    let text = GOOD.replace("/// How long", "// allow(unused-domain): 𝒜\n/// How long");
    let diagnostics = workspace.open("a.mopd", &text);
    let [diagnostic] = diagnostics.as_slice() else { panic!("{diagnostics:?}") };
    assert_eq!((&diagnostic["code"], &diagnostic["severity"]), (&json!("unused-allow"), &json!(2)));
    let offered = actions(&mut workspace, "a.mopd", diagnostic);
    let [action] = offered.as_slice() else { panic!("{offered:?}") };
    let uri = workspace.uri("a.mopd");
    assert_eq!(apply(&text, &action["edit"]["changes"][&uri]), GOOD);
}

#[test]
fn a_name_of_several_modules_is_imported_from_the_one_that_is_chosen() {
    let mut workspace = Workspace::new();
    let text = GOOD.replace("mopd(clip_at: 5)", "follow(guide: one)");
    let diagnostics = workspace.open("a.mopd", &text);
    let diagnostic =
        diagnostics.iter().find(|diagnostic| diagnostic["code"] == "unknown-name").expect("an unknown name");
    let modules: Vec<&str> = mopd_std::index()
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(module, name)| (name == "follow").then_some(module))
        .collect();
    assert!(modules.len() > 1, "{modules:?}");
    let offered = actions(&mut workspace, "a.mopd", diagnostic);
    let titles: Vec<&str> = offered.iter().filter_map(|action| action["title"].as_str()).collect();
    let wanted: Vec<String> = modules.iter().map(|module| format!("add `use std.{module}.follow`")).collect();
    assert_eq!(titles, wanted);
    for (action, module) in offered.iter().zip(&modules) {
        assert!(
            after(&workspace, &text, action)
                .contains(&format!("use std.opd.mopd\nuse std.{module}.follow\n"))
        );
        let message = diagnostic["message"].as_str().expect("a message");
        assert!(message.contains(&format!("`std.{module}`")), "{message}");
    }
}
