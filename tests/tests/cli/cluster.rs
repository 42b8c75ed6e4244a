//! Stages on several machines: figures that can be reckoned by hand.

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
    // 1.256 / 1.512 are spent elsewhere than on the trainer, 0.256 on the scorers, 1 on the network.
    for part in ["trainer          idle  83%", "scorers          idle  83%", "the network      idle  34%"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let bottleneck = "bottleneck: the network, 66% of the time (requests 33%, answers 33%)";
    assert!(said.out.contains(bottleneck), "{}", said.out);
    // On one node nothing goes over the network.
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
    fault("node = \"b\"", "node = \"x\"", "the pool `scorers` is on `x`, which is no node of the file");
    fault(
        "student = \"trainer\"",
        "student = \"x\"",
        "`student` is on the pool `x`, which the file does not have",
    );
    fault("teacher = \"scorers\"\n", "", "the file has no pool for the teacher `one`");
    fault("flops = 1e9\nmemory", "flops = 0\nmemory", "`flops of node a` must be more than 0");
    fault(
        "memory = 1e9\n\n[network]",
        "memory = 1e6\n\n[network]",
        "the weights on the pool `scorers` take 0.0 GB",
    );
    fault("latency = 0.5", "lateness = 0.5", "unknown field `lateness`");
    fault("gpus = 2", "gpus = ", "line ");
    place.mopd(&["plan", "--cluster", "c.toml", "a.mopd"]).is(2, &["--predict"]);
    place.mopd(&["plan", "--predict", "--cluster", "none.toml", "a.mopd"]).is(2, &["can't read none.toml"]);
}

/// A server is a teacher like any other, but for its weights: the file alone can tell how many they are.
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
