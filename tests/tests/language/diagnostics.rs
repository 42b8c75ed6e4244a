//! Requirements on every diagnostic, one by one. The programs are those of the suite, and a few extra ones
//! that a requirement needs.

use std::fs;
use std::process::Command;
use std::sync::LazyLock;

use mopd_lang::diag::{Code, Diagnostic, Severity};
use mopd_lang::source::FileId;
use mopd_tests::{check, check_text, fences, files, listing, mopd, root};

struct Program {
    /// Its page and line.
    name: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

/// Every program of the suite, checked once for all tests.
static SUITE: LazyLock<Vec<Program>> = LazyLock::new(|| {
    let mut programs = Vec::new();
    for page in files(&root().join("tests/suite"), ".md") {
        for fence in fences(&fs::read_to_string(&page).expect("a page")) {
            let diagnostics = check("case.mopd", &fence.text).diagnostics;
            let name = format!("{}:{}", page.display(), fence.line);
            programs.push(Program { name, text: fence.text, diagnostics });
        }
    }
    programs
});

/// The diagnostics of every program of the suite.
fn diagnostics() -> Vec<(&'static str, &'static Diagnostic)> {
    let each = SUITE
        .iter()
        .flat_map(|program| program.diagnostics.iter().map(|diagnostic| (program.name.as_str(), diagnostic)));
    let all: Vec<_> = each.collect();
    assert!(all.len() > 400, "only {} diagnostics", all.len());
    all
}

/// The one diagnostic of a program.
fn only(text: &str) -> Diagnostic {
    let analysis = check("case.mopd", text);
    assert_eq!(analysis.diagnostics.len(), 1, "{}", listing(&analysis));
    analysis.diagnostics.into_iter().next().expect("one diagnostic")
}

const TERM: &str = "term all = live student.logp\n  reduce = mean(token) then mean(sequence)\n}\n";

#[test]
fn point_1_the_message_stands_alone_on_one_line() {
    for (name, diagnostic) in diagnostics() {
        let message = &diagnostic.message;
        let whole = !message.is_empty() && !message.contains('\n') && message.len() < 200;
        assert!(whole && !message.ends_with('.') && message.trim() == message, "{name}: {message:?}");
    }
}

#[test]
fn point_2_the_cause_is_shown_even_in_another_file() {
    let diagnostic = only(
        "use std.gkd.gkd\nexperiment \"e\" { seed = 1 }\nobjective o {\n  weight = kl(student || teacher) - \
         reward\n  term all = live student.logp\n  reduce = mean(token) then mean(sequence)\n}\n",
    );
    assert!(diagnostic.related.iter().any(|label| label.text.contains("this is nats")), "{diagnostic:?}");
    let text = "use std.mimo.mimo\nexperiment \"e\" { seed = 1 }\ndomain d { prompts = \"p\", reward = \
                exact_match }\nmodel base = llama { layers = 1, width = 8, heads = 1, context = 32, \
                tokenizer = bytes }\nteacher t = base\nroute { else -> t }\nmodel m = distill(base) { \
                objective = mimo(low: 0.5, high: 2), rollout = sample(n: 2, temperature: 1, max_tokens: 4), \
                prompts = 1, steps = 1, lr = 1e-3 }\n";
    let diagnostic = only(text);
    assert_eq!(diagnostic.code, Code::MissingArgument);
    assert!(
        diagnostic.related.iter().any(|label| label.span.file != FileId(0)),
        "declared in the library: {diagnostic:?}"
    );
}

#[test]
fn point_3_no_rule_of_the_grammar_is_named_and_lists_are_short() {
    let rule = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words
            .filter(|word| word.contains('_'))
            .any(|word| include_str!("../../../lang/grammar.pest").contains(&format!("\n{word} ")))
    };
    for (name, diagnostic) in diagnostics()
        .into_iter()
        .filter(|(_, diagnostic)| matches!(diagnostic.code, Code::Syntax | Code::ForeignSyntax))
    {
        // Text in backquotes is the author's.
        let ours: String = diagnostic.message.split('`').step_by(2).collect();
        assert!(!rule(&ours) && !rule(&diagnostic.primary.text), "{name}: {}", diagnostic.message);
        if let Some(list) = diagnostic.message.split("expected ").nth(1) {
            assert!(list.split(", ").count() <= 6, "{name}: {}", diagnostic.message);
        }
    }
}

#[test]
fn point_4_names_keys_words_and_units_are_guessed() {
    let programs = [
        (format!("objective o {{\n  weight = studnet.entropy\n  {TERM}"), "did you mean `student`?"),
        (format!("objective o {{\n  wieght = 1\n  {TERM}"), "did you mean `weight`?"),
        (format!("objective o {{\n  weight = mean(reward, over: gruop)\n  {TERM}"), "did you mean `group`?"),
        (format!("objective o(clip_at: nast = 5) {{\n  weight = clip_at\n  {TERM}"), "did you mean `nats`?"),
        ("use std.opd.mopdd\n".to_owned(), "did you mean `mopd`?"),
    ];
    for (text, wanted) in programs {
        let diagnostic = only(&text);
        assert!(diagnostic.help.as_deref() == Some(wanted), "{text}: {diagnostic:?}");
    }
}

#[test]
fn point_5_a_certain_edit_mends_what_it_is_offered_for() {
    let mut mended = 0;
    for program in SUITE.iter() {
        for diagnostic in &program.diagnostics {
            let Some(fix) = diagnostic.fix.as_ref().filter(|fix| fix.span.file == FileId(0)) else {
                continue;
            };
            let mut text = program.text.clone();
            text.replace_range(fix.span.start as usize..fix.span.end as usize, &fix.replacement);
            let same =
                |other: &Diagnostic| (other.code, &other.message) == (diagnostic.code, &diagnostic.message);
            let count = |diagnostics: &[Diagnostic]| diagnostics.iter().filter(|other| same(other)).count();
            // An audit takes a hundred times as long, so only what it alone reports is audited again.
            let unaudited = count(&check_text("case.mopd", &program.text).diagnostics);
            let (before, after) = match unaudited {
                0 => (count(&program.diagnostics), check("case.mopd", &text)),
                _ => (unaudited, check_text("case.mopd", &text)),
            };
            assert!(
                count(&after.diagnostics) < before,
                "{}: `{}` does not mend [{}] {}",
                program.name,
                fix.title,
                diagnostic.code.name(),
                diagnostic.message
            );
            mended += 1;
        }
    }
    assert!(mended > 60, "{mended} fixes");
}

#[test]
fn point_6_habits_of_other_languages_are_named() {
    for (text, named) in [
        ("let a = 2 ** 3\n", "a power is written `^`"),
        ("let b = True\n", "`True` is written `true`"),
        ("fn f(x) = x if x > 0 else 0\n", "a choice between two values is written `where`"),
        ("let c = true && false\n", "`&&` is written `and`"),
    ] {
        let analysis = check("case.mopd", text);
        let diagnostic =
            analysis.diagnostics.iter().find(|diagnostic| diagnostic.code == Code::ForeignSyntax);
        let diagnostic = diagnostic.unwrap_or_else(|| panic!("{text}: {}", listing(&analysis)));
        let said = format!("{} {:?}", diagnostic.message, diagnostic.help);
        assert!(said.contains(named), "{text}: {said}");
    }
}

#[test]
fn point_7_independent_mistakes_are_told_at_once_each_once_in_order() {
    let mut text = String::new();
    for number in 0..15 {
        text += &format!(
            "let a{number} = unknown_{number}\nobjective o{number} {{\n  weight = student.logp + \
             student.top1\n  {TERM}"
        );
    }
    let analysis = check("case.mopd", &text);
    assert_eq!(analysis.diagnostics.len(), 30, "{}", listing(&analysis));
    assert!(
        analysis.diagnostics.is_sorted_by_key(|diagnostic| diagnostic.primary.span),
        "in the order of the file"
    );
    // A mistake in a function that is used twice is reported once.
    let diagnostic = only(&format!(
        "fn odd(a) = student.logp + student.top1 + a\nobjective o {{\n  weight = odd(1) + odd(2)\n  {TERM}"
    ));
    assert_eq!(diagnostic.code, Code::UnitMismatch);
}

/// Runs `mopd check` on a text and returns its output.
fn said(text: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("a.mopd"), text).expect("a file");
    let output = Command::new(mopd())
        .current_dir(folder.path())
        .args(["check", "a.mopd"])
        .output()
        .expect("mopd starts");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn point_8_the_way_to_explanations_is_shown_once_at_the_end() {
    let said = said("let a = b\nlet c = d\nlet e = 1 / 0\n");
    assert_eq!(said.matches("mopd explain").count(), 1, "{said}");
    let after = &said[said.find("mopd explain").expect("it is there")..];
    assert!(!after.contains("error["), "{said}");
}

#[test]
fn point_9_a_warning_has_a_code_and_is_silenced_with_a_reason() {
    let program = |comment: &str| {
        format!(
            "experiment \"e\" {{ seed = 1 }}\ndomain d {{ prompts = \"p\", reward = exact_match }}\nmodel \
             base = llama {{ layers = 1, width = 8, heads = 1, context = 32, tokenizer = bytes \
             }}\n{comment}param spare: real = 1\nmodel m = sft(base, on: d) {{ target = answer, steps = 1, \
             batch = 1, lr = 1e-3 }}\n"
        )
    };
    let diagnostic = only(&program(""));
    assert_eq!((diagnostic.severity, diagnostic.code), (Severity::Warning, Code::UnusedName));
    assert!(check("case.mopd", &program("// allow(unused-name): set by a script\n")).diagnostics.is_empty());
    let without = check("case.mopd", &program("// allow(unused-name)\n"));
    assert!(
        without.diagnostics.iter().any(|diagnostic| diagnostic.code == Code::UnusedAllow),
        "{}",
        listing(&without)
    );
}

// Points 10 and 11: `a_loss_that_is_not_finite_stops_the_run_and_says_where` in `run.rs`, and `src/crash.rs`.

#[test]
fn point_12_places_are_right_in_text_of_many_bytes() {
    let analysis = check("case.mopd", "let größe = \"日本語 𝒜\" + öde // ∑\n");
    let text = "let größe = \"日本語 𝒜\" + öde // ∑\n";
    for diagnostic in &analysis.diagnostics {
        let span = diagnostic.primary.span;
        assert!(
            text.is_char_boundary(span.start as usize) && text.is_char_boundary(span.end as usize),
            "{diagnostic:?}"
        );
    }
    let text = "experiment \"日本\" { seed = 1 } // 𝒜𝒜\nlet a = \"é\"\nlet b = unknwon\n";
    let analysis = check("case.mopd", text);
    let diagnostic = analysis
        .diagnostics
        .iter()
        .find(|diagnostic| diagnostic.code == Code::UnknownName)
        .expect("the unknown name");
    assert_eq!(analysis.sources.text(diagnostic.primary.span), "unknwon");
    assert_eq!(analysis.sources.position(FileId(0), diagnostic.primary.span.start), (2, 8));
}
