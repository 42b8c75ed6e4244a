//! Composed teachers: their plans, their refusals with places, and training with them.

use std::fs;
use std::process::{Command, Stdio};

use mopd_expr::batch::{Batch, Layout};
use mopd_expr::interpret::interpret;
use mopd_lang::diag::Diagnostic;
use mopd_plan::{Composition, LivePrimitive, ModelId, Objective, Plan, Pool, Role, Stage, Teacher, Train};
use mopd_tests::{check_text, listing};
use serde_json::Value;

/// Two domains with an expert each, the given `items`, and a student of the objective `o` with this text.
fn program(items: &str, objective: &str, rollout: &str) -> String {
    let read = |name: &str| items.contains(name) || objective.contains(name);
    let first = if read("first") { "teacher first = one\n" } else { "" };
    let second = if read("second") { "teacher second = other\n" } else { "" };
    format!(
        r#"use std.rl.grpo_loss

experiment "composed" {{ seed = 1 }}

domain copy {{ prompts = "copy.jsonl", tests = "copy.jsonl", reward = exact_match, share = 1/2 }}
domain last {{ prompts = "last.jsonl", tests = "last.jsonl", reward = exact_match, share = 1/2 }}

model base  = llama {{ layers = 1, width = 32, heads = 2, context = 32, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 8, batch = 8, lr = 5e-3 }}
model one   = sft(start, on: copy) {{ target = answer, steps = 8, batch = 8, lr = 5e-3 }}
model other = sft(start, on: last) {{ target = answer, steps = 8, batch = 8, lr = 5e-3 }}

{first}{second}{items}

objective o {{
  {objective}
  reduce = mean(token) then mean(sequence)
}}

model student = distill(start) {{
  objective = o
  rollout   = {rollout}
  prompts   = 4
  steps     = 3
  lr        = 1e-3
}}

compare "table" {{ models = [start, student], samples = 1, temperature = 1.0, max_tokens = 6 }}
"#
    )
}

const SAMPLED: &str = "sample(n: 1, temperature: 1, max_tokens: 6)";
const FULL: &str = "term follow = live kl(student || teacher)";

fn compiled(text: &str) -> Result<Plan, Vec<Diagnostic>> {
    let analysis = check_text("composed.mopd", text);
    let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", listing(&analysis)));
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false)
}

fn train(plan: &Plan) -> &Train<Objective> {
    let student = plan.experiment.models.iter().find(|model| model.name == "student").expect("a student");
    let Stage::Train(train) = &student.stage else { panic!("the student is trained") };
    train
}

fn key(plan: &Plan) -> String {
    let place = plan.experiment.models.iter().position(|model| model.name == "student").expect("a student");
    plan.stages[place].key.clone()
}

fn planned(items: &str) -> Plan {
    compiled(&program(items, FULL, SAMPLED)).unwrap_or_else(|refusals| panic!("{refusals:?}"))
}

/// Models by name, in the order of the members.
fn members(plan: &Plan, of: &Composition) -> Vec<String> {
    let scorers: Vec<_> = train(plan).scorers.iter().collect();
    let name = |role: Role| {
        let (_, scorer) = scorers.iter().find(|(known, _)| *known == role).expect("a member is a scorer");
        match &scorer.choices[0].teacher {
            Teacher::Model(ModelId(id)) => plan.experiment.models[*id as usize].name.clone(),
            Teacher::Composed(inner) => format!("({})", members(plan, inner).join(", ")),
            Teacher::Student(_) | Teacher::Learner { .. } => "student".to_owned(),
            Teacher::Served(_) => unreachable!("no member is on a server"),
        }
    };
    of.members.iter().map(|member| name(member.role)).collect()
}

#[test]
fn plans_say_what_a_teacher_is_made_of() {
    for (items, pool, made) in [
        ("teacher t = mixture([first, second], weights: [0.25, 0.75])", Pool::Mixture, "one, other"),
        ("teacher t = geometric([first, second], weights: equal)", Pool::Logits, "one, other"),
        (
            "teacher t = logits(first) + 0.5 * (logits(first) - logits(second))",
            Pool::Logits,
            "one, one, other",
        ),
        ("teacher t = one { temperature = 2 }", Pool::Logits, "one"),
        (
            "teacher mild = one { temperature = 2 }\nteacher t = mixture([mild, second], weights: equal)",
            Pool::Mixture,
            "(one), other",
        ),
    ] {
        let plan = planned(&format!("{items}\nroute {{ else -> t }}"));
        for choice in train(&plan).scorers.routed() {
            let Teacher::Composed(composition) = &choice.teacher else { panic!("{choice:?}") };
            assert_eq!(
                (composition.pool, members(&plan, composition).join(", ").as_str()),
                (pool, made),
                "{items}"
            );
        }
        let inputs: Vec<&str> = train_inputs(&plan);
        assert!(inputs.contains(&"one"), "{inputs:?}");
        // A plan is the same after serialisation.
        let text = serde_json::to_string(&plan).expect("a plan is plain data");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("its own text"), plan);
    }
}

fn train_inputs(plan: &Plan) -> Vec<&str> {
    let student = plan.experiment.models.iter().find(|model| model.name == "student").expect("a student");
    student.stage.inputs().into_iter().map(|id| plan.experiment.models[id.0 as usize].name.as_str()).collect()
}

/// Everything that affects the distribution is in the key: members, their order, weights, pool, temperature.
#[test]
fn a_key_knows_what_a_teacher_is_made_of() {
    let teachers = [
        "one",
        "mixture([first, second], weights: [0.25, 0.75])",
        "mixture([second, first], weights: [0.25, 0.75])",
        "mixture([first, second], weights: [0.5, 0.5])",
        "geometric([first, second], weights: [0.25, 0.75])",
        "logits(first) + 0.5 * (logits(first) - logits(second))",
        "logits(first) + linear(0.1 -> 0.5) * (logits(first) - logits(second))",
        "logits(first) + 2 * tv(first, second) * (logits(first) - logits(second))",
        "logits(first) + 3 * tv(first, second) * (logits(first) - logits(second))",
        "one { temperature = 2 }",
        "one { temperature = 3 }",
        "sum([first, second], weights: [1, 2])",
        "sum([first, second], weights: [2, 1])",
    ];
    let keys: Vec<String> = teachers
        .iter()
        .map(|teacher| key(&planned(&format!("teacher t = {teacher}\nroute {{ else -> t }}"))))
        .collect();
    for (place, key) in keys.iter().enumerate() {
        assert!(!keys[..place].contains(key), "{}", teachers[place]);
    }
}

/// A member scores only the prompts of the domains whose teacher it is part of.
#[test]
fn members_are_scored_where_they_are_needed() {
    let plan = planned(
        "teacher t = mixture([first, second], weights: equal)\nroute { domain == copy -> t, else -> second }",
    );
    let named = train(&plan).scorers.named();
    assert_eq!(
        named.iter().map(|scorer| (scorer.name.as_str(), scorer.choices.len())).collect::<Vec<_>>(),
        [("first", 1), ("second", 1)]
    );
    // A weight is a number per token, for all tokens.
    let plan = planned(
        "teacher t = logits(first) + tv(first, second) * logits(second)\nroute { domain == copy -> t, else -> second }",
    );
    assert!(train(&plan).scorers.named().iter().all(|scorer| scorer.choices.len() == 2));
}

/// `sum` becomes part of the objective: a divergence for each member, times its weight.
#[test]
fn a_sum_of_teachers_is_a_sum_of_divergences() {
    let summed = "teacher t = sum([first, second], weights: [0.5, 2])\nroute { else -> t }";
    for (items, by_hand) in [
        (FULL, "term follow = 0.5 * live kl(student || first) + 2 * live kl(student || second)"),
        (
            "term follow = 3 * live kl(student || teacher, support: top_k(teacher, 4), mass: tail)",
            "term follow = 3 * (0.5 * live kl(student || first, support: top_k(first, 4), mass: tail) \
             + 2 * live kl(student || second, support: top_k(second, 4), mass: tail))",
        ),
        (
            "term follow = kl(student || t) * live jsd(student, t, beta: 0.5)",
            "term follow = (0.5 * kl(student || first) + 2 * kl(student || second)) \
             * (0.5 * live jsd(student, first, beta: 0.5) + 2 * live jsd(student, second, beta: 0.5))",
        ),
    ] {
        let plan = |objective: &str| {
            compiled(&program(summed, objective, SAMPLED)).unwrap_or_else(|refusals| panic!("{refusals:?}"))
        };
        let [ours, by_hand] = [items, by_hand].map(plan);
        let (mut ours, mut by_hand) = (computed(train(&ours)), computed(train(&by_hand)));
        // The order of both is arbitrary.
        ours.1.sort_by(|a, b| a.0.cmp(&b.0));
        by_hand.1.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(ours.1.len() == 2 && (ours.0 - by_hand.0).abs() < 1e-12, "{items}: {} {}", ours.0, by_hand.0);
        for ((ours, own), (theirs, gradient)) in ours.1.iter().zip(&by_hand.1) {
            assert_eq!(ours, theirs, "{items}");
            assert!((own - gradient).abs() < 1e-12, "{items}: {own} {gradient}");
        }
    }
}

/// The loss of two tokens, and d loss / d primitive at the second; every divergence has a number of its own.
fn computed(train: &Train<Objective>) -> (f64, Vec<(String, f64)>) {
    let objective = &train.objective;
    // Scorers are identified by name, because their order is arbitrary.
    let text = |value: Value| value.to_string();
    let by_name = |value: Value| {
        let role = |role: Role| text(serde_json::to_value(role).expect("plain data"));
        train.scorers.iter().fold(text(value), |text, (of, scorer)| text.replace(&role(of), &scorer.name))
    };
    let number =
        |name: &str| name.bytes().fold(7u32, |sum, byte| (sum * 31 + u32::from(byte)) % 997) as f32 / 500.0;
    let named = |live: &LivePrimitive| by_name(serde_json::to_value(&live.primitive).expect("plain data"));
    let layout =
        Layout { sequence_of_token: vec![0, 0], group_of_sequence: vec![0], groups: 1, ..Layout::default() };
    let outputs = objective.outputs();
    let signals = objective.graph.signals(&outputs).into_iter();
    let signals = signals.map(|signal| {
        let value = number(&by_name(serde_json::to_value(&signal).expect("plain data")));
        (signal, vec![value, value + 0.25])
    });
    let live = objective.live.iter().map(|live| {
        let value = number(&named(live));
        vec![value, value + 0.5]
    });
    let batch =
        Batch { layout, signals: signals.collect(), live: live.collect(), steps: 1, ..Batch::default() };
    let values = interpret(&objective.graph, &outputs, &batch).expect("the batch has everything");
    let gradients = objective.live.iter().map(|live| (named(live), values.get(live.adjoint)[1]));
    (values.get(objective.loss)[0], gradients.collect())
}

/// Each refusal names the construct, its place, and the way out.
#[test]
fn unsupported_composed_teachers_are_refused_by_name() {
    for (items, objective, rollout, said, at, help) in [
        (
            "teacher t = sum([first, second], weights: equal)\nroute { else -> t }",
            "term follow = -(teacher.logp - student.logp) * live student.logp",
            SAMPLED,
            "`t`, teachers added up by `sum`, outside of a divergence is not supported yet",
            "teacher.logp",
            "`mixture` and `geometric`",
        ),
        (
            "teacher t = sum([first, second], weights: equal)\nroute { domain == copy -> t, else -> first }",
            FULL,
            SAMPLED,
            "a route to `t`, teachers added up by `sum`, for some prompts only is not supported yet",
            "t",
            "route all prompts to it",
        ),
        (
            "teacher t = mixture([first, second], weights: equal)\nroute { else -> t }",
            FULL,
            "from(teacher, n: 1, temperature: 1, max_tokens: 6)",
            "sampling from `t`, which has its own temperature or is composed of other teachers, is not \
            supported yet",
            "from(",
            "sample from one of the teachers",
        ),
        (
            "teacher t = one { temperature = 2 }\nroute { else -> t }",
            FULL,
            "from(teacher, n: 1, temperature: 1, max_tokens: 6)",
            "sampling from `t`, which has its own temperature or is composed of other teachers, is not \
            supported yet",
            "from(",
            "sample from one of the teachers",
        ),
        (
            "teacher t = mixture([first, second], weights: equal)\nroute { else -> t }",
            FULL,
            "token_mix(0.2, sample(n: 1, temperature: 1, max_tokens: 6))",
            "sampling from `t`, which has its own temperature or is composed of other teachers, is not \
            supported yet",
            "token_mix(",
            "route prompts to it",
        ),
        (
            "teacher t = logits(first) + ema(mean(student.entropy, over: batch), rate: 0.9) * logits(second)\nroute { else -> t }",
            FULL,
            SAMPLED,
            "`ema` inside a divergence is not supported yet",
            "ema(",
            "",
        ),
    ] {
        let text = program(items, objective, rollout);
        let refusals = compiled(&text).expect_err(said);
        let found = refusals.iter().find(|refusal| refusal.message == said);
        let found = found.unwrap_or_else(|| panic!("{said}: {refusals:?}"));
        let span = found.primary.span;
        let place = &text[span.start as usize..];
        assert!(
            place.starts_with(at) || text[span.start as usize..span.end as usize].contains(at),
            "{said}: at {}",
            place.lines().next().unwrap_or("")
        );
        let helped = found.help.as_ref().is_some_and(|known| known.contains(help));
        assert!(help.is_empty() || helped, "{said}: {:?}", found.help);
    }
}

/// Trains with every kind of composition: all losses are finite, and weights change.
#[test]
fn composed_teachers_train() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab"];
    for domain in ["copy", "last"] {
        let line = |word: &&str| {
            let answer = if domain == "copy" { word } else { &word[word.len() - 1..] };
            format!("{{\"prompt\": \"{domain}: {word}=\", \"answer\": \"{answer}\"}}\n")
        };
        fs::write(folder.path().join(format!("{domain}.jsonl")), words.iter().map(line).collect::<String>())
            .expect("writing data");
    }
    let teachers = [
        (
            "extrapolated",
            "logits(first) + w * (logits(first) - logits(second)) where w = 2 * tv(first, second) + 1e-3",
            "0.1 / T.w * live kl(student || T)",
        ),
        (
            "growing",
            "logits(first) + linear(0 -> 0.5) * (logits(first) - logits(second))",
            "live kl(T || student, support: top_k(T, 8), mass: tail)",
        ),
        ("mixed", "mixture([first, second], weights: [0.25, 0.75])", "live jsd(student, T, beta: 0.5)"),
        (
            "middle",
            "geometric([first, second], weights: equal)",
            "-(T.logp - student.logp) * live student.logp",
        ),
        ("mild", "one { temperature = 2 }", "T.entropy * live kl(student || T)"),
        ("nested", "mixture([mild, middle], weights: equal)", "live kl(student || T)"),
        ("moving", "logits(first) + 0.5 * logits(moved)", "live kl(student || T)"),
        ("both", "sum([first, second], weights: [0.5, 2])", "live kl(student || T)"),
    ];
    let (mut items, mut models) = ("teacher moved = self.ema(0.9)\n".to_owned(), Vec::new());
    for (name, teacher, term) in teachers {
        items += &format!("teacher {name} = {teacher}\n");
        for (how, of) in [("named", name), ("routed", "teacher")] {
            // `teacher` itself has no bindings.
            let term = if term.contains("T.w") {
                term.replace("T.w", &format!("{name}.w"))
            } else {
                term.to_owned()
            };
            let term = term.replace('T', of);
            let route =
                if how == "routed" { format!("  route = {{ else -> {name} }}\n") } else { String::new() };
            let batches = if how == "routed" { "  passes = 2\n  micro_batch = 2\n" } else { "" };
            items += &format!(
                "objective {name}_{how} {{\n  term follow = {term}\n  reduce = mean(token) then mean(sequence)\n}}\n"
            );
            items += &format!(
                "model {name}_{how}_student = distill(start) {{\n  objective = {name}_{how}\n  rollout = {SAMPLED}\n{}{batches}  prompts = 4\n  steps = 4\n  lr = 1e-3\n}}\n",
                route.replace("route = {", "route {"),
            );
            models.push(format!("{name}_{how}_student"));
        }
    }
    let text = program(&items, "term follow = live kl(student || first)", SAMPLED)
        .replace("models = [start, student]", &format!("models = [start, student, {}]", models.join(", ")));
    fs::write(folder.path().join("composed.mopd"), &text).expect("writing the experiment");
    let output = Command::new(mopd_tests::mopd())
        .current_dir(folder.path())
        .args(["run", "composed.mopd", "--out", "out"])
        .stdin(Stdio::null())
        .output()
        .expect("mopd starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let results: Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/results.json")).expect("results"))
            .expect("JSON");
    assert_eq!(results["tables"][0]["rows"].as_array().expect("rows").len(), models.len() + 2);
    let weights = |model: &str| {
        fs::read(folder.path().join(format!("out/models/{model}-seed1/model.safetensors")))
            .expect("a model's weights")
    };
    let start = weights("start");
    for model in &models {
        assert!(weights(model) != start, "{model} learns nothing");
    }
}
