//! Tests of the features of editors at a `<CURSOR>`.

mod completion;

use super::testing::{GOOD, check, cursor};
use super::*;

/// `GOOD` with `from` replaced by `to`, so that the tested line has a whole file around it.
fn within(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

fn hover_at(marked: &str) -> Option<String> {
    let (text, offset) = cursor(marked);
    hover(&check(&text), offset).map(|found| found.markdown)
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
    inner("(expo<CURSOR>sure: fraction", 2);
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
    let written = "zscore(x, over, deviation, epsilon?, among?)";
    assert_eq!((help.label.as_str(), help.active), (written, Some(2)));
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
    assert_eq!(texts, [": nats", "per token", "number[token]"]);
    let behind = |text: &str| GOOD.find(text).expect("it is there") + text.len();
    assert_eq!(hints[0].offset as usize, behind("let gap"));
    assert_eq!(hints[1].offset as usize, behind("teacher.logp - student.logp"));
    assert_eq!(hints.iter().map(|hint| hint.typed).collect::<Vec<_>>(), [true, false, false]);
    let written = within("let gap =", "let gap: nats =");
    assert_eq!(inlays(&check(&written)).len(), 2, "a type that is written needs no hint");
}

#[test]
fn words_are_coloured_by_what_they_mean() {
    let analysis = check(GOOD);
    let tokens = semantic_tokens(GOOD, &analysis);
    let meaning = |text: &str| {
        let at = GOOD.find(text).expect("it is there") as u32;
        tokens.iter().find(|token| token.start == at).map(|token| token.meaning)
    };
    assert_eq!(meaning("experiment"), Some(SemanticTokenKind::Keyword));
    assert_eq!(meaning("bytes"), Some(SemanticTokenKind::EnumMember));
    assert_eq!(meaning("llama"), Some(SemanticTokenKind::Function));
    assert_eq!(meaning("teacher.logp"), Some(SemanticTokenKind::Signal));
    assert_eq!(meaning("mopd(clip"), Some(SemanticTokenKind::Class));
    assert_eq!(meaning("seed"), Some(SemanticTokenKind::Property));
    assert_eq!(meaning("count = 4"), Some(SemanticTokenKind::Type));
    assert_eq!(meaning("/// How"), Some(SemanticTokenKind::Comment));
    let text = "let match = 1\nlet step = 2\nlet a = match { step > 1 -> match, else -> where(step, 1, 2) } \
                where w = 1\nsweep { step in [1] }\nmodel m = train {\n  trains x = y\n  step z { every = 1 \
                }\n  step = 3\n}\nobjective o { reduce = sum(token) by domain { target = 1 } }\nobjective p {\n  state x = 1 then x\n  \
                state = 2\n}\n";
    let tokens = semantic_tokens(text, &check(text));
    let keywords = tokens.iter().filter(|token| token.meaning == SemanticTokenKind::Keyword);
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

// ---- Names of the run ----

/// The text at each place of the symbol that is declared by `declaration`, with its surroundings.
fn places(text: &str, declaration: &str) -> Vec<String> {
    let analysis = check(text);
    let errors: Vec<_> = analysis.diagnostics.iter().map(|found| found.message.as_str()).collect();
    assert!(!analysis.has_errors(), "{errors:?}");
    let at =
        text.find(declaration).expect("it is there") + declaration.rfind([' ', '(']).map_or(0, |at| at + 1);
    let id = declared_target(&analysis, ENTRY, at as u32).expect("a symbol");
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let found = references(&analysis, id, true).into_iter();
    found.map(|span| format!("{}: {}", line(span.start as usize), analysis.sources.text(span))).collect()
}

/// The experiment `GOOD` with a ladder for its lengths and with a guard.
fn moved() -> String {
    let ladder = "schedule longer = ladder([4, 8], advance_if: mean(student.entropy, over: batch) >= 0.4)\n";
    let text = within("let longest = 8\n", &format!("let gradient_norm = 7\n{ladder}"));
    let text = text.replace("max_tokens: longest", "max_tokens: longer").replace("longest", "8");
    text.replace("clip_at: 5", "clip_at: gradient_norm")
        .replace("  prompts   = 2\n", "  prompts   = 2\n  guards    = [stop(gradient_norm > 5)]\n")
}

#[test]
fn a_role_is_no_model_wherever_the_evaluator_reads_roles() {
    let text = moved();
    let found = places(&text, "model student");
    assert_eq!(found.len(), 2, "its declaration and the table: {found:?}");
}

#[test]
fn a_guard_reads_numbers_of_steps_before_what_the_file_declares() {
    let found = places(&moved(), "let gradient_norm");
    assert_eq!(found.len(), 2, "its declaration and the argument: {found:?}");
}

#[test]
fn the_slots_of_a_template_are_names() {
    let text = "template solved(exposure: fraction) = \"{prompt} {first(answer, exposure)}\"\n\
                let answer = 3\nlet b = answer\n";
    assert_eq!(places(text, "(exposure").len(), 2);
    assert_eq!(places(text, "let answer").len(), 2, "the slot is a field of the data");
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let text = moved()
        + "let wave = 2\ndivergence mine(a || b) = a * log(a / b)\nteacher sum = logits(base) + \
                          logits(start)\n";
    let analysis = check(&text);
    let may = |declaration: &str, new: &str| {
        let at = text.find(declaration).expect("it is there") + declaration.rfind(' ').map_or(0, |at| at + 1);
        let id = declared_target(&analysis, ENTRY, at as u32).expect("a symbol");
        check_new_name(&analysis, id, new).is_ok()
    };
    for new in ["pi", "self", "span", "data", "True", "None", "nil", "kl", "student", "loss"] {
        assert!(!may("let wave", new), "{new}");
    }
    for new in ["self", "span", "False", "null"] {
        assert!(!may("model expert", new), "{new}");
    }
    for new in ["jsd", "tv", "chi2", "hellinger", "alpha"] {
        assert!(!may("divergence mine", new), "{new}");
    }
    assert!(may("model expert", "reference") && may("let wave", "alpha") && may("divergence mine", "ours"));
    // In a composed teacher it would refer to the role.
    assert!(!may("model base", "reference"));
}
