//! What editors are told, at a `<CURSOR>`.

use super::context::CompletionContext;
use super::place::CompletionPlace;
use super::testing::{GOOD, MODULES, check, cursor};
use super::*;
use crate::check::vocabulary;

fn labels(marked: &str) -> Vec<String> {
    let (text, offset) = cursor(marked);
    let libraries = || MODULES.iter().map(|(name, text)| LibraryModule::of(&["std", name], text)).collect();
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

/// `GOOD` with its `from` replaced, so that the rest of a file stands around the line at hand.
fn within(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

fn hover_at(marked: &str) -> Option<String> {
    let (text, offset) = cursor(marked);
    hover(&check(&text), offset).map(|found| found.markdown)
}

// ---- Completion ----

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
    // What must be given comes first.
    let arguments = labels(&within("sample(n: 1, ", "sample(<CURSOR>"));
    let place = |name: &str| arguments.iter().position(|label| label == name).expect(name);
    assert!(place("n:") < place("accept:") && place("temperature:") < place("accept:"), "{arguments:?}");
    // A formula is about roles, mostly.
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
    let libraries = || vec![LibraryModule::of(&["std", "opd"], MODULES[0].1)];
    let completion = complete(&text, offset, &check(&text), &libraries);
    let [candidate] = &completion.candidates[..] else { panic!("{completion:?}") };
    assert_eq!(candidate.detail, "objective mopd(clip_at: nats = 5)");
    assert_eq!(candidate.doc, "The sampled token's log-ratio is the advantage.");
    assert_eq!((completion.replace.start, completion.replace.end), (12, 13));
}

#[test]
fn what_can_not_stand_in_a_place_is_not_proposed() {
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
        let own =
            LibraryModule::of(&["mine"], "pub objective mopd {}\npub fn half(x) = x / 2\nobjective own {}\n");
        vec![LibraryModule::of(&["std", "opd"], MODULES[0].1), own]
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
    // What is imported is there already.
    let imported = within("mopd(clip_at: 5)", "mo<CURSOR>");
    let (text, offset) = cursor(&imported);
    let standard = || vec![LibraryModule::of(&["std", "opd"], MODULES[0].1)];
    let completion = complete(&text, offset, &check(&text), &standard);
    assert!(completion.candidates.iter().all(|candidate| candidate.import.is_none()), "{completion:?}");
}

/// A folder with data, a script and a folder, and rows with two fields.
struct Project;

impl Surroundings for Project {
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

/// What is proposed, and the text that it replaces.
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
fn nothing_is_proposed_where_the_author_invents() {
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
    proposes("objective o {\n  term t = match { <CURSOR> }\n}", &["student", "reward"], &["domain"]);
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
fn every_offset_of_every_prefix_has_an_answer() {
    for end in (0..=GOOD.len()).step_by(7) {
        let text = &GOOD[..end];
        let analysis = check(text);
        let all = complete(text, end as u32, &analysis, &Vec::new);
        assert!(all.replace.start <= all.replace.end);
        signature_help(text, end as u32, &analysis);
        hover(&analysis, end as u32);
        folds(text);
        selections(text, end);
        semantic_tokens(text, &analysis);
    }
}

// ---- The table of words ----

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

// ---- Hover ----

#[test]
fn hover_tells_kind_value_and_doc() {
    let longest = hover_at(&within("max_tokens: longest", "max_tokens: lon<CURSOR>gest")).expect("a hover");
    assert!(longest.contains("let longest = 8") && longest.contains("`longest`: `8`"), "{longest}");
    assert!(longest.contains("How long a completion may get."), "{longest}");
    let gap = hover_at(&within("let gap", "let ga<CURSOR>p")).expect("a hover");
    assert!(gap.contains("nats[token]"), "{gap}");
    let mopd = hover_at(&within("objective = mopd", "objective = <CURSOR>mopd")).expect("a hover");
    assert!(mopd.contains("objective mopd(clip_at: nats = 5)") && mopd.contains("From `std.opd`."), "{mopd}");
    let label = hover_at(&within("clip_at: 5", "clip_<CURSOR>at: 5")).expect("a hover");
    assert!(
        label.contains("clip_at: nats = 5") && label.contains("Parameter of objective `mopd`."),
        "{label}"
    );
    let key = hover_at(&within("prompts   = 2\n", "prom<CURSOR>pts   = 2\n")).expect("a hover");
    assert!(key.contains("Prompts per step"), "{key}");
    let signal =
        hover_at(&within("-gap * live student.logp", "-gap * live student.lo<CURSOR>gp")).expect("a hover");
    assert!(signal.contains(".logp: logp[token]"), "{signal}");
    let builtin = hover_at(&within("sample(n: 1", "sam<CURSOR>ple(n: 1")).expect("a hover");
    assert!(builtin.contains("sample(n: 1, temperature: 1.0, max_tokens: 24)"), "{builtin}");
    assert!(builtin.contains("The student's own completions"), "{builtin}");
    let argument = hover_at(&within("sample(n: 1, temp", "sample(n: 1, te<CURSOR>mp")).expect("a hover");
    assert!(argument.contains("sample(n: 1, temperature: 1.0, max_tokens: 24)"), "{argument}");
    assert!(argument.contains("`temperature` must be given."), "{argument}");
    let first = hover_at(&within("sample(n: 1", "sample(<CURSOR>n: 1")).expect("a hover");
    assert!(first.contains("`n` must be given."), "{first}");
    let on = hover_at(&within("sft(base, on: domains)", "sft(base, <CURSOR>on: domains)")).expect("a hover");
    assert!(on.contains("sft(") && on.contains("`on` must be given."), "{on}");
    let limit = hover_at("reward r = command(\"a\", time_<CURSOR>limit: 3)\n").expect("a hover");
    assert!(limit.contains("`time_limit` may be left out; the default is `30.0`."), "{limit}");
    let top = hover_at("rollout few = sample(n: 1, to<CURSOR>p_p: 0.9)\n").expect("a hover");
    assert!(top.contains("`top_p` may be left out."), "{top}");
    let nested = hover_at("rollout kept = rep<CURSOR>lay(sample(n: 1), capacity: 10)\n").expect("a hover");
    assert!(nested.contains("replay(sample(...), capacity: 10_000, share: 0.25)"), "{nested}");
    assert_eq!(hover_at("// no<CURSOR>thing\n"), None);
}

// ---- Names ----

#[test]
fn references_reach_what_the_evaluator_never_visits() {
    // No domain, so the body is never evaluated; the call has an unknown argument, so its others are not
    // either.
    let text = "let a<CURSOR> = 1\nstage s(start: model) = for d in domains, m = start: grpo(m, on: d, \
                wrong: 1) { steps = a }\n";
    let (text, offset) = cursor(text);
    let analysis = check(&text);
    let id = declared_target(&analysis, ENTRY, offset).expect("a symbol");
    assert_eq!(references(&analysis, id, true).len(), 2);
    assert_eq!(references(&analysis, id, false).len(), 1);
}

#[test]
fn names_in_every_form_lead_to_their_declarations() {
    let text = r#"param beta: fraction = 0.5
sweep { beta in [0, 1] }
template hint(exposure: fraction) = "{first(solution, exposure)}"
teacher insider(much: fraction) = self { sees = hint(much) }
teacher star = logits(base) + w * logits(base) where v = beta, w = v
rollout good(count: count = 8) = sample(n: count) |> keep(match { beta > 0 -> correct, else -> true })
panel duo = debate([star, insider]) { rounds = 2, max_tokens = 16 }
eval easy { samples = 8 }
model base = train {
  trains follower = base
  trains guide    = base
  step follow { updates = follower, objective = mine(guide) }
}
objective mine(who: teacher) {
  let each[t in duo] = t.logp * star.w
  term all[t in duo] = each[t] * live student.logp { weight = beta }
  reduce = mean(token) by domain { target = beta }
}
compare "x" { models = [base.guide, base], on = [easy], rollout = good }
"#;
    let analysis = check(text);
    let places = |name: &str, count: usize| {
        let offset = text.find(&format!(" {name}")).expect("it is declared") as u32 + 1;
        let id = declared_target(&analysis, ENTRY, offset).unwrap_or_else(|| panic!("`{name}` is no symbol"));
        assert_eq!(references(&analysis, id, true).len(), count, "{name}");
    };
    places("beta", 6);
    places("hint", 2);
    places("insider", 2);
    places("star", 3);
    places("w = v", 3);
    places("v = beta", 2);
    places("good", 2);
    places("duo", 3);
    places("easy", 2);
    places("follower", 2);
    places("guide", 3);
    places("each", 2);
    places("all", 1);
    let inner = |marked: &str, expected: usize| {
        let (_, offset) = cursor(&text.replacen(&marked.replace("<CURSOR>", ""), marked, 1));
        let id =
            declared_target(&analysis, ENTRY, offset).unwrap_or_else(|| panic!("`{marked}` is no symbol"));
        assert_eq!(references(&analysis, id, true).len(), expected, "{marked}");
    };
    inner("(mu<CURSOR>ch: fraction", 2);
    inner("(cou<CURSOR>nt: count", 2);
    inner("each[t<CURSOR> in", 2);
    inner("all[t<CURSOR> in", 2);
    inner("step fol<CURSOR>low", 1);
    // Inside a template's text nothing is a name yet.
    inner("(expo<CURSOR>sure: fraction", 1);
}

#[test]
fn a_local_hides_an_item_and_a_role_hides_a_model() {
    let (text, offset) = cursor(&within("-gap * live student.logp", "-gap * live stu<CURSOR>dent.logp"));
    let analysis = check(&text);
    assert_eq!(declared_target(&analysis, ENTRY, offset), None);
    assert!(highlights(&analysis, offset).len() >= 2);
    let (text, offset) = cursor("let k = 1\nfn f(k) = k<CURSOR> + 1\n");
    let analysis = check(&text);
    let id = declared_target(&analysis, ENTRY, offset).expect("a symbol");
    assert_eq!(analysis.index.symbol(id).span.start as usize, text.find("k) =").expect("it is there"));
}

#[test]
fn definitions_lead_into_the_library() {
    let (text, offset) = cursor(&within("objective = mopd", "objective = mo<CURSOR>pd"));
    let analysis = check(&text);
    let found = definition(&analysis, offset).expect("a definition");
    assert_eq!(analysis.sources.file(found.name.file).path, "std:opd.mopd");
    assert_eq!(analysis.sources.text(found.name), "mopd");
    let (text, offset) = cursor(&within("use std.opd", "use std.o<CURSOR>pd"));
    let found = definition(&check(&text), offset).expect("a definition");
    assert_eq!((found.name.start, found.name.end), (0, 0));
}

#[test]
fn a_new_name_must_be_free() {
    let (text, offset) = cursor(&within("let longest", "let lon<CURSOR>gest"));
    let analysis = check(&text);
    let (id, _) = renameable(&analysis, offset).expect("it can be renamed");
    assert_eq!(check_new_name(&analysis, id, "widest"), Ok(()));
    for taken in ["sort", "mopd", "live", "clip", "reward", "2x", "a b", "", "gap"] {
        assert!(check_new_name(&analysis, id, taken).is_err(), "{taken}");
    }
    let (text, offset) = cursor(&within("objective = mopd", "objective = mo<CURSOR>pd"));
    let problem = renameable(&check(&text), offset).expect_err("a library name");
    assert!(problem.0.contains("standard library"), "{problem:?}");
}

// ---- The rest ----

#[test]
fn signatures_follow_the_argument() {
    let at = |marked: &str| {
        let (text, offset) = cursor(marked);
        signature_help(&text, offset, &check(&text))
    };
    let help = at(&within("clip_at: 5", "clip_at: <CURSOR>")).expect("a signature");
    assert_eq!((help.label.as_str(), help.active), ("mopd(clip_at: nats = 5)", Some(0)));
    let help = at("let a = clip(1, <CURSOR>").expect("a signature");
    assert_eq!((help.label.as_str(), help.active), ("clip(x, low, high)", Some(1)));
    let (start, end) = help.parameters[1];
    assert_eq!(&help.label[start..end], "low");
    let help = at("let a = zscore(max(1, 2), deviation: <CURSOR>").expect("a signature");
    assert_eq!((help.label.as_str(), help.active), ("zscore(x, over, deviation, among?)", Some(2)));
    assert_eq!(at("let a = 1 + <CURSOR>"), None);
}

#[test]
fn the_outline_holds_what_has_a_name() {
    let analysis = check(GOOD);
    let outlines = outline(&analysis, ENTRY);
    let names: Vec<&str> = outlines.iter().map(|outline| outline.name.as_str()).collect();
    let expected =
        ["tiny", "sort", "base", "start", "expert", "one", "route", "longest", "mine", "student", "tiny"];
    assert_eq!(names, expected);
    let mine: Vec<&str> = outlines[8].children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(mine, ["k", "gap", "distill"]);
}

#[test]
fn hints_tell_unit_and_axis() {
    let hints = inlays(&check(GOOD));
    let texts: Vec<&str> = hints.iter().map(|hint| hint.text.as_str()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert_eq!(texts[0], ": nats[token]");
    assert_eq!(hints[0].offset as usize, GOOD.find("gap").expect("it is there") + 3);
}

#[test]
fn words_are_coloured_by_what_they_mean() {
    let analysis = check(GOOD);
    let tokens = semantic_tokens(GOOD, &analysis);
    let meaning = |text: &str| {
        let at = GOOD.find(text).expect("it is there") as u32;
        tokens.iter().find(|token| token.start == at).map(|token| token.meaning)
    };
    assert_eq!(meaning("experiment"), Some(Meaning::Keyword));
    assert_eq!(meaning("bytes"), Some(Meaning::EnumMember));
    assert_eq!(meaning("llama"), Some(Meaning::Function));
    assert_eq!(meaning("teacher.logp"), Some(Meaning::Signal));
    assert_eq!(meaning("mopd(clip"), Some(Meaning::Class));
    assert_eq!(meaning("seed"), Some(Meaning::Property));
    assert_eq!(meaning("count = 4"), Some(Meaning::Type));
    assert_eq!(meaning("/// How"), Some(Meaning::Comment));
    let text = "let match = 1\nlet step = 2\nlet a = match { step > 1 -> match, else -> where(step, 1, 2) } \
                where w = 1\nsweep { step in [1] }\nmodel m = train {\n  trains x = y\n  step z { every = 1 \
                }\n  step = 3\n}\nobjective o { reduce = sum(token) by domain { target = 1 } }\nobjective p {\n  state x = 1 then x\n  \
                state = 2\n}\n";
    let tokens = semantic_tokens(text, &check(text));
    let keywords = tokens.iter().filter(|token| token.meaning == Meaning::Keyword);
    let keywords: Vec<&str> = keywords.map(|token| &text[token.start as usize..token.end as usize]).collect();
    let expected = [
        "let",
        "let",
        "let",
        "match",
        "else",
        "where",
        "sweep",
        "in",
        "model",
        "trains",
        "step",
        "objective",
        "by",
        "objective",
        "state",
        "then",
    ];
    assert_eq!(keywords, expected);
}

#[test]
fn brackets_comments_and_imports_fold() {
    let text = "// a\n// b\nuse std.opd.mopd\nuse std.rl.grpo_loss\nmodel m = llama {\n  layers = 1\n}\n";
    let kinds: Vec<(FoldKind, &str)> =
        folds(text).into_iter().map(|fold| (fold.kind, &text[fold.start..fold.end])).collect();
    assert_eq!(
        kinds,
        [
            (FoldKind::Comment, "// a\n// b"),
            (FoldKind::Imports, "use std.opd.mopd\nuse std.rl.grpo_loss"),
            (FoldKind::Region, "\n  layers = 1\n")
        ]
    );
}

#[test]
fn a_selection_grows_to_the_file() {
    let offset = GOOD.find("longest)").expect("it is there") + 2;
    let texts: Vec<&str> =
        selections(GOOD, offset).into_iter().map(|(start, end)| &GOOD[start..end]).collect();
    assert_eq!(texts[0], "longest");
    assert!(texts[1].starts_with("n: 1") && texts[2].starts_with("(n: 1"), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("model student") && text.ends_with('}')), "{texts:?}");
    assert_eq!(texts.last(), Some(&GOOD));
    assert!(texts.windows(2).all(|pair| pair[0].len() < pair[1].len()));
}
