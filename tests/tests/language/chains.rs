//! Thousands of definitions that refer to each other: long chains are checked and planned, longer ones give a
//! diagnostic, and none crashes. Tests run on stacks of 2 MB, smaller than those of the program.

use mopd_lang::diag::Code;
use mopd_lang::source::SourceFile;
use mopd_tests::{check, listing};

const SETUP: &str = r#"domain d { prompts = "p.jsonl", reward = exact_match }
model base = llama { layers = 1, width = 32, heads = 2, context = 64, tokenizer = bytes }
experiment "e" { seed = 1 }
"#;

fn lines(numbers: std::ops::Range<usize>, line: impl Fn(usize) -> String) -> String {
    numbers.map(|number| line(number) + "\n").collect()
}

/// Asserts that a program is checked, audited and planned without a diagnostic.
fn is_sound(text: &str) {
    let analysis = check("chain.mopd", text);
    assert!(analysis.diagnostics.is_empty(), "{}", listing(&analysis).chars().take(600).collect::<String>());
    if let Some(experiment) = &analysis.experiment {
        let planned = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, true);
        assert!(planned.is_ok(), "{:?}", planned.err());
    }
    for named in &analysis.objectives {
        mopd_compiler::normal_form(&named.objective, None);
    }
}

/// An objective with these `let`s, of which `last` is the weight, and two stages that use it.
fn objective(lets: &str, last: &str) -> String {
    let stage = |name: &str| {
        format!(
            "model {name} = distill(base) {{ objective = o, rollout = sample(n: 2, temperature: 1, \
             max_tokens: 4), prompts = 1, steps = 1, lr = 1e-3 }}\n"
        )
    };
    format!(
        "{SETUP}teacher t = base\nroute {{ else -> t }}\nobjective o {{\n{lets}  weight = {last}\n  term \
         all = live student.logp\n  reduce = mean(token) then mean(sequence)\n}}\n{}{}",
        stage("one"),
        stage("two")
    )
}

#[test]
fn deep_chain_of_lets() {
    is_sound(&("let a0 = 1\n".to_owned() + &lines(1..5_000, |n| format!("let a{n} = a{} + 1", n - 1))));
}

#[test]
fn deep_chain_of_forward_lets() {
    is_sound(&(lines(0..5_000, |n| format!("let a{n} = a{} + 1", n + 1)) + "let a5000 = 1\n"));
}

#[test]
fn deep_chain_of_lets_in_an_objective() {
    let lets = lines(1..4_000, |n| format!("  let a{n} = a{} + 0.5 * student.entropy", n - 1));
    is_sound(&objective(&format!("  let a0 = student.logp - teacher.logp\n{lets}"), "a3999"));
}

/// Few definitions with very many paths through them.
#[test]
fn chain_of_lets_with_exponentially_many_paths() {
    let lets = lines(1..300, |n| format!("  let a{n} = 0.5 * a{} + 0.5 * a{}", n - 1, n - 1));
    is_sound(&objective(&format!("  let a0 = teacher.logp - student.logp\n{lets}"), "a299"));
    let live = lines(1..60, |n| format!("  let a{n} = 0.5 * a{} + 0.5 * a{}", n - 1, n - 1));
    is_sound(&objective(&format!("  let a0 = teacher.logp - student.logp\n{live}"), "a59 * a59"));
}

#[test]
fn deep_chain_of_models_in_either_order() {
    let stage =
        |of: usize| format!("sft(m{of}, on: d) {{ target = answer, steps = 1, batch = 1, lr = 1e-3 }}");
    is_sound(&format!(
        "{SETUP}model m0 = base\n{}",
        lines(1..1_500, |n| format!("model m{n} = {}", stage(n - 1)))
    ));
    is_sound(&format!(
        "{SETUP}{}model m1500 = base\n",
        lines(0..1_500, |n| format!("model m{n} = {}", stage(n + 1)))
    ));
}

/// Few teachers with very many paths to the first: each is visited once.
#[test]
fn deep_chain_of_composed_teachers() {
    for (count, made) in [
        (60, "mixture([A, B], weights: equal)"),
        (60, "geometric([A, B], weights: equal)"),
        (60, "logits(A) + 0.5 * (logits(B) - logits(A))"),
        (2_000, "mixture([A, B], weights: equal)"),
        (2_000, "logits(A) + 0.5 * (logits(B) - logits(A))"),
    ] {
        for first in ["self", "base"] {
            let made =
                |n: usize| made.replace('A', &format!("t{}", n - 1)).replace('B', &format!("t{}", n - 2));
            let text = format!(
                "{SETUP}teacher t0 = {first}\nteacher t1 = base\n{}route {{ else -> t{} }}\nobjective o \
                 {{\n  term all = live kl(student || teacher)\n  reduce = mean(token) then \
                 mean(sequence)\n}}\nmodel one = distill(base) {{ objective = o, rollout = sample(n: 2, \
                 temperature: 1, max_tokens: 4), prompts = 1, steps = 1, lr = 1e-3 }}\n",
                lines(2..count, |n| format!("teacher t{n} = {}", made(n))),
                count - 1
            );
            let analysis = mopd_lang::analyse_audited(
                SourceFile { path: "chain.mopd".into(), text },
                &|_| None,
                &[],
                &mopd_compiler::audit::diagnostics,
            );
            assert!(
                analysis.diagnostics.is_empty(),
                "{}",
                listing(&analysis).chars().take(600).collect::<String>()
            );
        }
    }
}

/// A view of a teacher that is declared further down does not replace it: a route to that teacher still leads
/// to it.
#[test]
fn a_teacher_seen_from_above_stays_itself() {
    let stage = |n: u32| {
        format!("model m{n} = sft(base, on: d) {{ target = answer, steps = {n}, batch = 1, lr = 1e-3 }}\n")
    };
    let rest = "objective o {\n  term all = live kl(student || teacher)\n  reduce = mean(token) then \
                mean(sequence)\n}\nmodel one = distill(base) { objective = o, rollout = sample(n: 2, \
                temperature: 1, max_tokens: 4), prompts = 1, steps = 1, lr = 1e-3 }\n";
    for (teachers, routed) in [
        (
            "teacher view = plain { temperature = 2 }\nteacher plain = m1\nroute {\n  data.hard == \"yes\" \
             -> view\n  else -> plain\n}\n",
            "plain",
        ),
        (
            "teacher view = all[d] { temperature = 2 }\nteacher all[x in domains] = m1\nroute {\n  \
             data.hard == \"yes\" -> view\n  for x in domains: domain == x -> all[x]\n}\n",
            "all[d]",
        ),
        // The same where the view's template does not exist.
        (
            "teacher view = plain { sees = nothing }\nteacher plain = m1\nroute {\n  data.hard == \"yes\" \
             -> view\n  else -> plain\n}\n",
            "plain",
        ),
        (
            "teacher view = mixture([plain, other], weights: equal)\nteacher plain = m1\nteacher other = \
             m2\nroute { else -> view }\n",
            "view",
        ),
    ] {
        let text = format!("{SETUP}{}{}{teachers}{rest}", stage(1), stage(2));
        let analysis = check("view.mopd", &text);
        let Some(experiment) = &analysis.experiment else {
            assert!(teachers.contains("nothing"), "{}", listing(&analysis));
            continue;
        };
        let mopd_experiment::Stage::Train(train) = &experiment.models.last().expect("a stage").stage else {
            panic!("{teachers}")
        };
        let choice = &experiment.teachers[train.teachers.last().expect("a teacher").teacher.0 as usize];
        assert_eq!((choice.name.as_str(), choice.temperature), (routed, 1.0), "{teachers}");
    }
}

/// The same for merges of merges.
#[test]
fn models_merged_of_two_before() {
    let merge = |n: usize| format!("model m{n} = merge([m{}, m{}]) {{ method = average }}", n - 1, n - 2);
    let stage = "sft(base, on: d) { target = answer, steps = 1, batch = 1, lr = 1e-3 }";
    let text = format!(
        "{SETUP}model m0 = {stage}\nmodel m1 = {}\n{}",
        stage.replace("steps = 1", "steps = 2"),
        lines(2..60, merge)
    );
    let teach = "teacher t = m59\nroute { else -> t }\nobjective o {\n  term all = live kl(student || \
                 teacher)\n  reduce = mean(token) then mean(sequence)\n}\nmodel one = distill(base) { \
                 objective = o, rollout = sample(n: 2, temperature: 1, max_tokens: 4), prompts = 1, steps = \
                 1, lr = 1e-3 }\n";
    is_sound(&(text + teach));
}

#[test]
fn too_deep_chain_is_reported_once() {
    let forward = lines(0..10_400, |n| format!("let a{n} = a{} + 1", n + 1)) + "let a10400 = 1\n";
    let lets = lines(1..10_400, |n| format!("  let a{n} = -a{}", n - 1));
    let deep = objective(&format!("  let a0 = student.entropy\n{lets}"), "a10399");
    let schedules = "schedule s0 = linear(0 -> 1)\n".to_owned()
        + &lines(1..100, |n| format!("schedule s{n} = warmup(3, s{})", n - 1));
    for text in [forward, deep, schedules] {
        let analysis = check("chain.mopd", &text);
        let codes: Vec<Code> = analysis.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        assert_eq!(
            codes,
            [Code::NestingTooDeep],
            "{}",
            listing(&analysis).chars().take(600).collect::<String>()
        );
    }
}
