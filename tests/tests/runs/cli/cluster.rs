//! Simulated stages on several machines, with figures that are computed by hand.

use super::{GOOD, Place};

const CLUSTER: &str = r#"
student = "trainer"
teacher = "scorers"
prompt_tokens = 8
vocabulary = 259

[parameters]
start  = 1e6
expert = 4e6

[nodes.a]
gpus = 1
flops = 1e9
memory_bandwidth = 1e12
memory = 1e9

[nodes.b]
gpus = 2
flops = 1e9
memory_bandwidth = 1e12
memory = 1e9

[network]
bandwidth = 1e12
latency = 0.5

[pools.trainer]
node = "a"
gpus = 1

[pools.scorers]
node = "b"
gpus = 1
"#;

/// 2 sequences of 8 tokens behind prompts of 8, 2 steps; the network takes 0.5 s each way and next to nothing
/// for bytes.
/// Rollout: 8 draws of 2 * 1e6 * 2 operations and 2 * 1e6 * 8 * 2 of the prompts: 0.032 + 0.032 s.
/// Scores: 2 * 4e6 * 16 * 2 operations: 0.256 s. Update: 6 * 1e6 * 16 * 2: 0.192 s.
/// A step: 0.064 + 0.5 + 0.256 + 0.5 + 0.192 = 1.512 s.
#[test]
fn a_step_takes_what_its_parts_take() {
    let place = Place::with(&[("a.mopd", GOOD), ("c.toml", CLUSTER)]);
    let said =
        place.mopd(&["plan", "--predict", "--cluster", "c.toml", "a.mopd"]).is(0, &["as good as the rates"]);
    let line = said.out.lines().find(|line| line.starts_with("predicted student on c.toml")).expect("a line");
    assert!(line.contains("3.0 s, 1.5 s a step"), "{line}");
    // 1.256 of 1.512 s are not spent on the trainer, 0.256 s on the scorers, 1 s on the network.
    for part in ["trainer          idle  83%", "scorers          idle  83%", "the network      idle  34%"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let bottleneck = "bottleneck: the network, 66% of the time (requests 33%, answers 33%)";
    assert!(said.out.contains(bottleneck), "{}", said.out);
    // On a single node nothing goes over the network.
    let near = CLUSTER.replace("node = \"a\"", "node = \"b\"");
    place.write("c.toml", &near);
    let said = place.mopd(&["plan", "--predict", "--cluster", "c.toml", "a.mopd"]).is(0, &[]);
    assert!(said.out.contains("1.0 s, 512 ms a step"), "{}", said.out);
    assert!(said.out.contains("the network      idle 100%"), "{}", said.out);
    assert!(
        said.out.contains("bottleneck: scorers") || said.out.contains("bottleneck: trainer"),
        "{}",
        said.out
    );
}

#[test]
fn a_file_that_describes_nothing_is_said() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let fault = |from: &str, to: &str, found: &str| {
        assert!(CLUSTER.contains(from), "{from}");
        place.write("c.toml", &CLUSTER.replace(from, to));
        place
            .mopd(&["plan", "--predict", "--cluster", "c.toml", "a.mopd"])
            .is(2, &["error[wrong-cluster]", found]);
    };
    fault(
        "node = \"b\"",
        "node = \"x\"",
        "the pool `scorers` is on the node `x`, which the file does not \
        define",
    );
    fault(
        "student = \"trainer\"",
        "student = \"x\"",
        "`student` is on the pool `x`, which the file does not define",
    );
    fault("teacher = \"scorers\"\n", "", "the file has no pool for the teacher `one`");
    fault("flops = 1e9\nmemory", "flops = 0\nmemory", "`flops of node a` must be more than 0");
    fault(
        "memory = 1e9\n\n[network]",
        "memory = 1e6\n\n[network]",
        "the weights on the pool `scorers` take 0.0 GB",
    );
    let named = |table: &str, name: &str| format!("[{table}]\n{name}\n\n[nodes.a]");
    for (text, found) in [
        (
            named("teachers", "onee = \"scorers\""),
            "[teachers] names `onee`, but the experiment has no such teacher",
        ),
        (named("teachers", "onee = \"scorers\""), "did you mean `one`?"),
        // Without an adapter, a student has no other number of trained parameters than its model's.
        (
            named("trained", "student = 1e3"),
            "[trained] names `student`, but the experiment has no such stage",
        ),
    ] {
        fault("[nodes.a]", &text, found);
    }
    let strat = "[parameters] names `strat`, but the experiment has no such model, and no such teacher on a \
        server";
    fault("start  = 1e6", "strat = 1e6", strat);
    fault("start  = 1e6", "strat = 1e6", "did you mean `start`?");
    fault("latency = 0.5", "lateness = 0.5", "unknown field `lateness`");
    fault("gpus = 2", "gpus = ", "line ");
    place.mopd(&["plan", "--cluster", "c.toml", "a.mopd"]).is(2, &["--predict"]);
    place.mopd(&["plan", "--predict", "--cluster", "none.toml", "a.mopd"]).is(2, &["can't read none.toml"]);
}

/// Served teachers are like others, except that only the cluster file can give their number of weights.
#[test]
fn served_teachers_are_simulated() {
    let far = r#"served("vllm", url: env("FAR"), model: "m", answers: sampled) { origin = same }"#;
    let served = GOOD.replace("teacher one = expert", &format!("teacher one = {far}"));
    let place = Place::with(&[("a.mopd", &served), ("c.toml", CLUSTER)]);
    let simulate = ["plan", "--predict", "--cluster", "c.toml", "a.mopd"];
    let unknown = "the number of parameters of the served teacher `one` is not known";
    place.mopd(&simulate).is(2, &["error[wrong-cluster]", unknown, "`far = 32e9`"]);
    place.write("c.toml", &CLUSTER.replace("expert = 4e6", "one = 4e6"));
    let said = place.mopd(&simulate).is(0, &[]);
    assert!(said.out.contains("predicted student on c.toml: 3.0 s, 1.5 s a step"), "{}", said.out);
}

/// A trained model has as many parameters as the model that it starts from, which the file gives once.
#[test]
fn a_derived_model_has_the_parameters_of_its_start() {
    let program = "use std.opd.mopd\n\nexperiment \"x\" { seed = 1 }\n\n\
        domain d { prompts = \"sort.jsonl\", format = text, reward = exact_match }\n\n\
        model start = hf(\"organisation/name\")\n\
        model expert = grpo(start, on: d) { steps = 2, prompts = 2, samples = 2, max_tokens = 8, lr = 1e-6 }\n\n\
        teacher one = expert\n\nroute { else -> one }\n\n\
        model student = distill(start) {\n  objective = mopd(clip_at: 5)\n  \
        rollout = sample(n: 1, temperature: 1.0, max_tokens: 8)\n  prompts = 2\n  steps = 2\n  lr = 1e-3\n}\n";
    let place = Place::with(&[("a.mopd", GOOD)]);
    let same = predicted(&place, program, &CLUSTER.replace("expert = 4e6", "expert = 1e6"));
    assert_eq!(predicted(&place, program, &CLUSTER.replace("expert = 4e6\n", "")), same);
    assert_ne!(predicted(&place, program, CLUSTER), same);
    place.write("c.toml", &CLUSTER.replace("start  = 1e6\nexpert = 4e6\n", ""));
    let unknown = "the number of parameters of `start` can only be read from its files";
    place.mopd(&["plan", "--predict", "--cluster", "c.toml", "a.mopd"]).is(2, &[unknown]);
}

/// The cluster with everything on one node, without a network.
fn near() -> String {
    CLUSTER.replace("node = \"a\"", "node = \"b\"")
}

/// The time of a step, as the command prints it.
fn predicted(place: &Place, program: &str, cluster: &str) -> String {
    place.write("a.mopd", program);
    place.write("c.toml", cluster);
    let said = place.mopd(&["plan", "--predict", "--cluster", "c.toml", "a.mopd"]).is(0, &[]);
    let line = said.out.lines().find_map(|line| line.strip_prefix("predicted student on c.toml: "));
    line.unwrap_or_else(|| panic!("{}", said.out)).to_owned()
}

/// With 4 passes a batch serves 4 updates: 0.064 s of rollout and 0.256 s of scores, then 4 times 0.192 s,
/// 1.088 s.
/// Of 6 updates the last two are of a second batch: 0.064 + 0.256 + 2 * 0.192 = 0.704 s. Together 1.792 s, a
/// sixth of which is 299 ms.
#[test]
fn passes_share_a_rollout_and_its_scores() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let passes = |steps: u32, passes: u32| {
        let settings =
            format!("  steps     = {steps}\n  passes    = {passes}\n  lr        = 1e-3\n}}\n\ncompare");
        let text = GOOD.replace("  steps     = 2\n  lr        = 1e-3\n}\n\ncompare", &settings);
        assert_ne!(text, GOOD);
        predicted(&place, &text, &near())
    };
    assert_eq!(passes(2, 1), "1.0 s, 512 ms a step");
    assert_eq!(passes(4, 4), "1.1 s, 272 ms a step");
    assert_eq!(passes(6, 4), "1.8 s, 299 ms a step");
    // A hundred batches and a last one of three updates: 108.8 + 0.896 s.
    assert_eq!(passes(403, 4), "1 min 50 s, 272 ms a step");
}

/// An adapter's gradient goes through the frozen matrices and not to them: 4 operations a number in place of
/// 6, and 6 for each of its own. LoRA of rank 2 on four matrices of 16 by 16 has 256 numbers, next to nothing
/// beside 1e6: 0.064 + 0.256 + 4 * 1e6 * 16 * 2 / 1e9 = 0.448 s.
#[test]
fn an_adapter_saves_gradients_and_moments_of_the_weights() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let adapter =
        "  prompts   = 2\n  adapter   = lora(rank: 2, alpha: 4, targets: [attention])\n  steps     = 2\n";
    let text = GOOD.replace("  prompts   = 2\n  steps     = 2\n", adapter);
    assert_ne!(text, GOOD);
    assert_eq!(predicted(&place, &text, &near()), "896 ms, 448 ms a step");
    // 6 * 5e5 operations more for each of 32 tokens: 0.096 s.
    let trained = |text: &str| text.replace("[nodes.a]", "[trained]\nstudent = 5e5\n\n[nodes.a]");
    assert_eq!(predicted(&place, &text, &trained(&near())), "1.1 s, 544 ms a step");
    // 1e6 weights of 2 bytes, and 16 for each that trains: 18 MB, or 2 and next to nothing.
    let small = CLUSTER.replace("memory = 1e9\n\n[nodes.b]", "memory = 1e7\n\n[nodes.b]");
    place.write("c.toml", &small);
    place.write("a.mopd", GOOD);
    let simulate = ["plan", "--predict", "--cluster", "c.toml", "a.mopd"];
    place.mopd(&simulate).is(2, &["the weights on the pool `trainer` take 0.0 GB"]);
    predicted(&place, &text, &small);
    // 2 + 18 * 0.5 MB.
    place.write("c.toml", &trained(&small));
    place.mopd(&simulate).is(2, &["the weights on the pool `trainer` take 0.0 GB"]);
}

/// The size of an adapter depends on the shapes of the matrices, which only a loaded model's files have.
#[test]
fn the_file_says_how_large_the_adapter_of_a_loaded_model_is() {
    let made = GOOD.lines().find(|line| line.starts_with("model start")).expect("a line");
    let adapter = "  prompts   = 2\n  adapter   = lora(rank: 2, alpha: 4, targets: [attention])\n";
    let loaded = GOOD.replace(made, "model start = hf(\"Qwen/Qwen3-0.6B\")");
    let text = loaded.replace("  prompts   = 2\n", adapter).replace("share = 1 }", "format = chat }");
    let place = Place::with(&[("a.mopd", &text), ("c.toml", &near())]);
    let said = place.mopd(&["plan", "--predict", "--cluster", "c.toml", "a.mopd"]);
    let unknown = "the number of parameters of the adapter of `student` can only be computed from the \
        files of its model";
    said.is(2, &[unknown, "write it under [trained]: `student = 20e6`"]);
    let trained = near().replace("[nodes.a]", "[trained]\nstudent = 5e5\n\n[nodes.a]");
    assert_eq!(predicted(&place, &text, &trained), "1.1 s, 544 ms a step");
}

/// Every model that the objective reads scores, also the reference: 1e6 weights, 2 * 1e6 * 16 * 2 operations,
/// 0.064 s.
#[test]
fn a_reference_scores_on_a_pool_of_its_own_or_with_the_teachers() {
    let objective = "objective held {\n  \
                     let gap = teacher.logp - student.logp - 0.1 * (student.logp - reference.logp)\n  \
                     term pull = -gap * live student.logp\n  reduce = mean(token, over: batch)\n}\n\n\
                     model student = distill(start) {\n  objective = held\n  reference = start\n";
    let text = GOOD
        .replace("model student = distill(start) {\n  objective = mopd(clip_at: 5)\n", objective)
        .replace("use std.opd.mopd\n\n", "");
    let place = Place::with(&[("a.mopd", &text)]);
    assert_eq!(predicted(&place, &text, &near()), "1.2 s, 576 ms a step");
    // The teacher of 4e6 weights scores at the same time: 0.256 s.
    let beside = near().replace("[nodes.a]", "[teachers]\nreference = \"trainer\"\n\n[nodes.a]");
    assert_eq!(predicted(&place, &text, &beside), "1.0 s, 512 ms a step");
}
