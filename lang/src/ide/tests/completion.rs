//! Tests of proposals at a `<CURSOR>`, and that the checker accepts the same words.

use super::super::context::CompletionContext;
use super::super::place::CompletionPlace;
use super::super::testing::MODULES;
use super::*;
use crate::check::vocabulary;

fn labels(marked: &str) -> Vec<String> {
    let (text, offset) = cursor(marked);
    let libraries =
        || MODULES.iter().map(|(name, text)| LibraryModule::from_text(&["std", name], text)).collect();
    let completion = complete(&text, offset, &check(&text), &libraries);
    completion.candidates.into_iter().map(|candidate| candidate.label).collect()
}

/// All of `wanted` are proposed and none of `unwanted`.
#[track_caller]
fn proposes(marked: &str, wanted: &[&str], unwanted: &[&str]) {
    let labels = labels(marked);
    for label in wanted {
        assert!(labels.iter().any(|known| known == label), "`{label}` is missing from {labels:?}");
    }
    for label in unwanted {
        assert!(!labels.iter().any(|known| known == label), "`{label}` should not be in {labels:?}");
    }
}

#[test]
fn the_top_level_proposes_items() {
    proposes("<CURSOR>", &["experiment", "domain", "model", "pub"], &["live", "student"]);
    proposes(&format!("{GOOD}\nmo<CURSOR>"), &["model", "teacher"], &["sort"]);
    proposes(&format!("{GOOD}\npub <CURSOR>"), &["objective", "fn"], &["use", "experiment", "pub"]);
}

#[test]
fn a_block_proposes_the_settings_that_it_lacks() {
    let gap = within("  prompts   = 2\n", "  <CURSOR>\n");
    proposes(&gap, &["prompts", "domains", "route"], &["objective", "steps", "samples", "start"]);
    proposes("experiment \"a\" { <CURSOR> }", &["seed", "out", "device"], &["steps"]);
    proposes("domain a { prompts = \"x\", <CURSOR>", &["reward", "share", "limits"], &["prompts"]);
    proposes("model m = llama {\n  layers = 2\n  w<CURSOR>\n", &["width", "tokenizer"], &["layers"]);
    proposes(
        "objective o(k: count = 2) {\n  <CURSOR>",
        &["term", "let", "state", "reduce", "select"],
        &["k"],
    );
}

#[test]
fn a_setting_proposes_what_it_takes() {
    proposes("model m = llama { tokenizer = <CURSOR> }", &["bytes"], &["m", "domains"]);
    proposes("model m = merge(x) { method = t<CURSOR>", &["ties", "task_arithmetic"], &["abs"]);
    proposes("let a = <CURSOR>", &[], &["a"]);
    let objective = within("objective = mopd(clip_at: 5)", "objective = <CURSOR>");
    assert_eq!(labels(&objective)[..2], ["mine", "mopd"].map(str::to_owned));
    proposes(&within("rollout   = sample(", "rollout = <CURSOR>("), &["sample", "from"], &["adamw"]);
    // Required arguments come first.
    let arguments = labels(&within("sample(n: 1, ", "sample(<CURSOR>"));
    let place = |name: &str| arguments.iter().position(|label| label == name).expect(name);
    assert!(place("n:") < place("accept:") && place("temperature:") < place("accept:"), "{arguments:?}");
    // Most formulas read roles.
    let formula = labels(&within("let gap = teacher.logp", "let gap = <CURSOR>"));
    let place = |name: &str| formula.iter().position(|label| label == name).expect(name);
    assert!(place("teacher") < place("accepted") && place("student") < place("accepted"), "{formula:?}");
    proposes(
        &within("lr        = 1e-3\n}", "lr = <CURSOR>\n}"),
        &["warmup", "cosine", "longest"],
        &["teacher"],
    );
    proposes("domain a { prompts = <CURSOR> }", &[], &["a", "domains"]);
    proposes("objective o { reduce = <CURSOR>", &["mean", "sum"], &["student"]);
    proposes("objective o { reduce = mean(<CURSOR>", &["token", "sequence"], &["student"]);
    proposes("objective o { reduce = mean(token) then <CURSOR>", &["mean"], &["token"]);
}

#[test]
fn an_argument_proposes_what_it_takes() {
    proposes(&within("distill(start)", "distill(<CURSOR>)"), &["start", "base", "start:"], &["longest:"]);
    proposes(&within("mopd(clip_at: 5)", "mopd(<CURSOR>"), &["clip_at:", "longest"], &[]);
    proposes(&within("on: domains", "on: <CURSOR>"), &["domains", "sort"], &["bytes"]);
    proposes("objective o { let a = zscore(reward, over: <CURSOR>", &["group", "batch"], &["reward"]);
    proposes(
        "objective o { let a = zscore(reward, over: group, deviation: <CURSOR>",
        &["sample"],
        &["reward"],
    );
    proposes(
        "objective o { term t = live kl(student || teacher, mass: <CURSOR>",
        &["generalized"],
        &["token"],
    );
    proposes("objective o { term t = live kl(<CURSOR>", &["student", "teacher"], &["reward"]);
    let learns = "objective o { term t = live <CURSOR>";
    proposes(learns, &["kl", "jsd", "student", "ratio", "mse"], &["reward", "clip", "teacher", "live"]);
    assert_eq!(labels(learns)[..3], ["kl", "ratio", "student"]);
}

#[test]
fn an_objective_proposes_signals_parts_and_locals() {
    let body = "objective o(k: count = 2) {\n  let gap = 1\n  term t = <CURSOR>\n}";
    proposes(body, &["student", "reward", "live", "gap", "k", "clip"], &["grpo", "o2"]);
    proposes("objective o {\n  let gap = student.<CURSOR>", &["logp", "entropy", "top1"], &["reward"]);
    proposes("objective o {\n  let gap = student.lo<CURSOR> - 1\n}", &["logp"], &[]);
    proposes("let a = <CURSOR>", &["clip", "grpo"], &["reward", "live"]);
    proposes("objective o {\n  let gap = <CURSOR>\n}", &["student"], &["live", "gap"]);
}

#[test]
fn an_import_proposes_modules_and_their_items_with_their_docs() {
    proposes("use <CURSOR>", &["std"], &["model"]);
    proposes("use std.<CURSOR>", &["opd", "rl"], &["mopd"]);
    proposes("use std.opd.<CURSOR>", &["mopd"], &["hidden", "opd"]);
    proposes("use std.opd.{<CURSOR>", &["mopd"], &["hidden"]);
    let (text, offset) = cursor("use std.opd.m<CURSOR>\n");
    let libraries = || vec![LibraryModule::from_text(&["std", "opd"], MODULES[0].1)];
    let completion = complete(&text, offset, &check(&text), &libraries);
    let [candidate] = &completion.candidates[..] else { panic!("{completion:?}") };
    assert_eq!(candidate.detail, "objective mopd(clip_at: nats = 5)");
    assert_eq!(candidate.doc, "The sampled token's log-ratio is the advantage.");
    assert_eq!((completion.replace.start, completion.replace.end), (12, 13));
}

#[test]
fn completion_proposes_only_names_that_fit() {
    let everything = &["base", "start", "one", "sort", "longest"];
    proposes(&within("objective = mopd(clip_at: 5)", "objective = <CURSOR>"), &["mine"], everything);
    proposes(&within("lr        = 1e-3\n}", "lr = <CURSOR>\n}"), &["longest"], &["start", "sort", "mine"]);
    proposes(&within("on: domains", "on: <CURSOR>"), &["sort"], &["base", "one", "longest", "mine"]);
    proposes(&within("reward = exact_match", "reward = <CURSOR>"), &["exact_match", "regex"], everything);
    proposes("domain a { share = 1 }\nroute { domain == <CURSOR>", &["a"], &["domains", "student"]);
    let term = within("-gap * live student.logp", "kl(student || <CURSOR>)");
    proposes(&term, &["teacher", "reference", "one"], &["base", "reward", "clip", "mine", "sort"]);
    let rollout = "rollout short = sample(n: 1)\n\n".to_owned();
    proposes(
        &(rollout + &within("rollout   = sample(", "rollout = <CURSOR>(")),
        &["short", "from"],
        &["mine"],
    );
}

#[test]
fn a_guard_proposes_the_numbers_of_a_step() {
    for condition in ["stop(<CURSOR>)", "warn(entropy < recent(<CURSOR>", "warn(loss > 2 * <CURSOR>)"] {
        let text = within("  prompts   = 2\n", &format!("  guards = [{condition}]\n"));
        proposes(&text, &["gradient_norm", "entropy", "step", "longest"], &["adamw", "grpo", "start"]);
    }
    let later = within("  prompts   = 2\n", "  guards = [stop(loss > 3, <CURSOR>)]\n");
    proposes(&later, &["for:", "on:"], &[]);
}

#[test]
fn names_of_modules_are_proposed_with_the_use_that_they_need() {
    let text = within("use std.opd.mopd\n", "").replace("mopd(clip_at: 5)", "mo<CURSOR>");
    let (text, offset) = cursor(&text);
    let modules = || {
        let own = LibraryModule::from_text(
            &["mine"],
            "pub objective mopd {}\npub fn half(x) = x / 2\nobjective own {}\n",
        );
        vec![LibraryModule::from_text(&["std", "opd"], MODULES[0].1), own]
    };
    let completion = complete(&text, offset, &check(&text), &modules);
    let with_use: Vec<(&str, String)> = completion
        .candidates
        .iter()
        .filter_map(|candidate| {
            let Import { at, text: import } = candidate.import.as_ref()?;
            let mut with = text.clone();
            with.insert_str(*at as usize, import);
            Some((candidate.label.as_str(), with.lines().next()?.to_owned()))
        })
        .collect();
    let wanted = ["use std.opd.mopd", "use mine.mopd"].map(|line| ("mopd", line.to_owned()));
    assert_eq!(with_use, wanted);
    // An imported name is in scope already.
    let imported = within("mopd(clip_at: 5)", "mo<CURSOR>");
    let (text, offset) = cursor(&imported);
    let standard = || vec![LibraryModule::from_text(&["std", "opd"], MODULES[0].1)];
    let completion = complete(&text, offset, &check(&text), &standard);
    assert!(completion.candidates.iter().all(|candidate| candidate.import.is_none()), "{completion:?}");
}

/// A folder with data, a script and a folder, and rows with two fields.
struct Project;

impl IdeHost for Project {
    fn modules(&self) -> Vec<std::rc::Rc<LibraryModule>> {
        Vec::new()
    }

    fn entries(&self, folder: &str) -> Vec<FolderEntry> {
        let entry = |name: &str, is_folder| FolderEntry { name: name.to_owned(), is_folder };
        match folder {
            "" => vec![entry("a.jsonl", false), entry("judge.py", false), entry("data", true)],
            "data" => vec![entry("b.jsonl", false), entry("m.gguf", false), entry("small", true)],
            _ => Vec::new(),
        }
    }

    fn cached_models(&self) -> Vec<String> {
        vec!["org/tiny".to_owned()]
    }

    fn fields(&self, path: &str) -> Vec<String> {
        let fields = match path {
            "sort.jsonl" => ["answer", "level"],
            _ => ["other", "prompt"],
        };
        fields.map(str::to_owned).to_vec()
    }
}

/// The proposals, and the text that they replace.
fn in_project(marked: &str) -> (Vec<String>, String) {
    let (text, offset) = cursor(marked);
    let completion = complete(&text, offset, &check(&text), &Project);
    let replaced = text[completion.replace.start as usize..completion.replace.end as usize].to_owned();
    (completion.candidates.into_iter().map(|candidate| candidate.label).collect(), replaced)
}

#[test]
fn texts_propose_what_they_name() {
    let cases: [(&str, &[&str], &str); 11] = [
        ("domain a { prompts = \"<CURSOR>\" }", &["a.jsonl", "data/"], ""),
        ("domain a { prompts = \"<CURSOR>\n", &["a.jsonl", "data/"], ""),
        ("domain a { prompts = \"data/b<CURSOR>\" }", &["b.jsonl", "small/"], "b"),
        ("domain a { prompts = dataset(\"da<CURSOR>\") }", &["a.jsonl", "data/"], "da"),
        ("domain a { reward = command(\"python3 ju<CURSOR>\") }", &["a.jsonl", "judge.py", "data/"], "ju"),
        ("domain a { reward = python(\"<CURSOR>\") }", &["judge.py", "data/"], ""),
        ("model m = gguf(\"data/<CURSOR>\")", &["m.gguf", "small/"], ""),
        ("model m = hf(\"o<CURSOR>\")", &["org/tiny", "data"], "o"),
        ("model m = hf(\"data/s<CURSOR>\")", &["org/tiny", "data/small"], "data/s"),
        ("domain a { reward = regex(\"<CURSOR>\") }", &[], ""),
        ("experiment \"<CURSOR>\" {}", &[], ""),
    ];
    for (marked, labels, replaced) in cases {
        let (found, text) = in_project(marked);
        assert_eq!(
            (found.as_slice(), text.as_str()),
            (labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>().as_slice(), replaced),
            "{marked}"
        );
    }
}

#[test]
fn fields_are_those_of_the_data() {
    let stage = within("target = demonstration", "target = <CURSOR>");
    assert_eq!(in_project(&stage).0, ["answer", "level"]);
    assert_eq!(in_project(&within("-gap * live", "data.<CURSOR> * live")).0, ["answer", "level"]);
    let two = format!(
        "domain b {{ prompts = dataset(\"b.jsonl\"), tests = dataset(\"b.jsonl\", filter: \
                       data.<CURSOR>\n}}\n{GOOD}"
    );
    assert_eq!(in_project(&two).0, ["other", "prompt"]);
    let all = format!("domain b {{ prompts = \"b.jsonl\" }}\n{stage}");
    assert_eq!(in_project(&all).0, ["answer", "level", "other", "prompt"]);
}

#[test]
fn completion_is_empty_in_comments_texts_and_new_names() {
    for text in [
        "// mo<CURSOR>",
        "model <CURSOR>",
        "let a = \"x<CURSOR>\"",
        "let a = 1<CURSOR>",
        "objective o(<CURSOR>",
    ] {
        assert_eq!(labels(text), [""; 0], "{text}");
    }
}

#[test]
fn an_open_bracket_does_not_hide_the_settings_after_it() {
    let text = "model m = distill(start) {\n  objective = mopd(clip_at: 5\n  steps = 2\n  <CURSOR>\n}\n";
    proposes(text, &["prompts", "lr"], &["steps", "objective"]);
}

#[test]
fn routes_propose_domains_and_teachers() {
    proposes(
        &within("route { for d in domains: domain == d -> one[d] }", "route { <CURSOR> }"),
        &["domain", "for", "else"],
        &[],
    );
    proposes(&within("domain == d -> one[d]", "domain == <CURSOR>"), &["sort", "d"], &["bytes"]);
    proposes(&within("domain == d -> one[d]", "domain == d -> <CURSOR>"), &["one"], &["start", "clip"]);
}

#[test]
fn the_new_forms_propose_what_fits() {
    proposes("param beta: count = 1\nlet k = 2\nsweep { <CURSOR> }", &["beta"], &["k", "student"]);
    proposes("let k = 2\nparam beta: count = 1\nsweep { beta in [<CURSOR>] }", &["k"], &[]);
    proposes("objective o {\n  term t = match { <CURSOR> }\n}", &["student", "reward", "domain"], &[]);
    proposes(
        "domain a { share = 1 }\nobjective o {\n  term t = match { domain == <CURSOR> }\n}",
        &["a"],
        &["student"],
    );
    proposes("objective o {\n  term t = match { correct -> <CURSOR> }\n}", &["live", "student"], &["steps"]);
    proposes("rollout r = <CURSOR>", &["sample"], &["student"]);
    proposes("rollout r(n: <CURSOR>) = sample(n: n)", &["count"], &["student"]);
    proposes("rollout r = sample(n: 1) |> keep(<CURSOR>", &["reward"], &[]);
    proposes("teacher t(a: fraction) = self { sees = f(<CURSOR>) }", &["a"], &[]);
    proposes("objective o {\n  let x[t in duo] = t.logp\n  term y = <CURSOR>\n}", &["x"], &[]);
    proposes("objective o {\n  state x = 1 then 2 * <CURSOR>\n}", &["x", "student", "loss"], &["live"]);
    proposes("objective o {\n  state x = 1 then x\n  let y = <CURSOR>\n}", &["x"], &["y"]);
    proposes("model m = train {\n  <CURSOR>\n}", &["trains", "step"], &["term", "state"]);
    proposes("objective o {\n  <CURSOR>\n}", &["term", "let"], &["trains"]);
    proposes("<CURSOR>", &["template", "rollout", "divergence", "panel", "eval", "sweep"], &[]);
}

#[test]
fn a_block_belongs_to_what_it_says() {
    let owner = |marked: &str| {
        let (text, offset) = cursor(marked);
        match CompletionContext::new(&text, offset as usize).place() {
            CompletionPlace::Key { owner, .. } => owner,
            other => panic!("{marked}: {other:?}"),
        }
    };
    for (marked, expected) in [
        ("objective o {\n  term t = f(a) { <CURSOR> }\n}", "term"),
        ("objective o {\n  term t = match { a -> b, else -> c } { <CURSOR> }\n}", "term"),
        ("objective o {\n  term t = f(g { <CURSOR> })\n}", "g"),
        ("objective o {\n  reduce = mean(token) by domain { <CURSOR> }\n}", "by"),
        ("model m = train {\n  step one { <CURSOR> }\n}", "step"),
        ("model m = train {\n  trains one = start { <CURSOR> }\n}", "start"),
        ("eval easy { <CURSOR> }", "eval"),
        ("panel duo = debate([a, b]) { <CURSOR> }", "debate"),
        ("teacher t(a: fraction) = self.ema(0.9) { <CURSOR> }", "ema"),
    ] {
        assert_eq!(owner(marked), expected, "{marked}");
    }
}

#[test]
fn types_are_proposed_after_a_colon() {
    proposes("objective o(k: <CURSOR>", &["count", "nats"], &["student"]);
    proposes("param k: <CURSOR>", &["count"], &["student"]);
}

#[test]
fn the_checker_knows_exactly_the_words_that_are_proposed() {
    let told = |program: &str| {
        let analysis = check(program);
        let help = analysis.diagnostics.iter().filter_map(|diagnostic| diagnostic.help.as_deref());
        let listed = help.filter_map(|help| help.strip_prefix("one of: ")).next().map(str::to_owned);
        listed.unwrap_or_else(|| panic!("{program}: {:?}", analysis.diagnostics))
    };
    let sorted = |words: Vec<&str>| {
        let mut words = words;
        words.sort_unstable();
        words.join(", ")
    };
    let block = |settings: &str| {
        within("  lr        = 1e-3\n}\n\ncompare", &format!("  lr = 1e-3\n}}\n{settings}\ncompare"))
    };
    let cases = [
        (
            block("model m2 = llama { layers = 1, width = 4, heads = 1, context = 8, tokenizer = zzzzz }"),
            vocabulary::TOKENIZERS,
        ),
        (block("model m2 = merge([start], base: start) { method = zzzzz }"), vocabulary::MERGES),
        (
            block(
                "model m2 = sft(start, on: domains) { rollout = from(teacher, sequences: 1, temperature: 1, \
                 max_tokens: 2), keep = zzzzz, steps = 1, batch = 1, lr = 1 }",
            ),
            vocabulary::KEEPS,
        ),
        (
            block(
                "objective o2 { let a = sum(reward, over: zzzzz)\n term t = live student.logp\n reduce = \
                 mean(token, over: batch) }",
            ),
            vocabulary::OVER,
        ),
        (
            block(
                "objective o2 { let a = zscore(reward, over: group, deviation: zzzzz)\n term t = live \
                 student.logp\n reduce = mean(token, over: batch) }",
            ),
            vocabulary::DEVIATIONS,
        ),
        (
            block(
                "objective o2 { term t = live kl(student || teacher, mass: zzzzz)\n reduce = mean(token, \
                 over: batch) }",
            ),
            vocabulary::MASSES,
        ),
        (
            block("objective o2 { term t = live student.logp\n reduce = zzzzz(token) }"),
            vocabulary::REDUCTIONS,
        ),
    ];
    for (program, words) in cases {
        let program = program.replace("zzzzz", "qqqqqqqqqqqqqqq");
        let told = told(&program);
        assert_eq!(sorted(told.split(", ").collect()), sorted(words.iter().map(|word| word.name).collect()));
    }
}

#[test]
fn every_builtin_is_described() {
    for builtin in crate::check::builtins::all().iter().chain(crate::check::builtins::losses()) {
        assert!(builtin.doc.ends_with('.') && builtin.usage.contains(builtin.name), "{}", builtin.name);
        let optional = builtin.parameters.iter().skip_while(|parameter| parameter.required);
        assert!(optional.count() + builtin.required() == builtin.parameters.len(), "{}", builtin.name);
    }
}
