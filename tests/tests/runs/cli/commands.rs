//! `mopd plan`, `audit`, `new`, `doctor` and `sample`.

use super::{GOOD, Place};

#[test]
fn a_plan_shows_stages_objectives_and_cost() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let said = place.mopd(&["plan", "a.mopd"]).is(0, &[]);
    for part in [
        "tiny: 4 stages, 1 domain, seed 1, plan ",
        "├─ base = llama",
        "├─ start = sft(base)",
        "├─ student = distill(start)",
        "sort -> one = expert",
        "divergence",
        "realisation",
        "tokens",
        "├─ compare \"tiny\"",
        "└─ total: at most ",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let order: Vec<usize> =
        ["base =", "start =", "student ="].iter().filter_map(|name| said.out.find(name)).collect();
    assert!(order.len() == 3 && order.is_sorted(), "{}", said.out);
}

/// A valid program that this version can't run is shown, then refused by name.
#[test]
fn a_plan_that_is_refused_shows_what_is_known() {
    let running = "objective running {\n  term pull = cumsum(where(masked, teacher.logp - student.logp, \
                   0), over: sequence) * live student.logp\n  reduce = mean(token, over: batch)\n}\n";
    let place =
        Place::with(&[("a.mopd", &format!("{}\n{running}", GOOD.replace("mopd(clip_at: 5)", "running()")))]);
    let refusal = ["error[not-supported-yet]", "the signal `masked` is not supported yet", "a.mopd:26"];
    assert!(place.mopd(&["check", "a.mopd"]).is(1, &[]).out.contains(refusal[1]));
    let said = place.mopd(&["plan", "a.mopd"]).is(1, &refusal);
    for part in [
        "tiny: 4 stages, 1 domain, seed 1, can't be run",
        "objective            running",
        "shaping            cumsum over sequence",
        "no keys and no costs",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    assert_eq!(place.mopd(&["plan", "--format", "json", "a.mopd"]).is(1, &refusal).out, "");
    place.mopd(&["run", "a.mopd"]).is(1, &refusal);
}

#[test]
fn a_library_shows_its_public_objectives() {
    let own =
        "objective hidden {\n  term pull = -live student.logp\n  reduce = mean(token, over: batch)\n}\n";
    let place = Place::with(&[(
        "own.mopd",
        &format!("{own}\n/// Imitation. And more.\npub {}", own.replace("hidden", "shown")),
    )]);
    let said = place.mopd(&["plan", "own.mopd"]).is(0, &[]);
    assert!(said.out.starts_with("own.mopd: 1 public objective\n\nshown()\n  Imitation.\n"), "{}", said.out);
    let said = place.mopd(&["plan", "std.tip"]).is(0, &[]);
    for part in [
        "std:tip.mopd: ",
        "tip(keep: fraction = 0.5)\n  Tokens where the student is unsure",
        "KL(student || teacher)",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let list = place.mopd(&["plan", "--format", "json", "std.tip"]).is(0, &[]).json();
    assert_eq!(list[0]["name"], "tip");
    assert_eq!(list[0]["normal_form"]["realisation"], "direct");
    place.mopd(&["plan", "std.tpi"]).is(2, &["error[unknown-module]", "did you mean `std.tip`?"]);
    place.mopd(&["run", "std.tip"]).is(1, &["error[missing-experiment]"]);
}

#[test]
fn an_audit_says_what_each_term_follows() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let said = place.mopd(&["audit", "a.mopd"]).is(0, &[]);
    for part in [
        "mopd: trains student\n",
        "follows 1.00 * grad KL(student || teacher)",
        "nll: trains start",
        "grad KL(data || student)",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let list = place.mopd(&["audit", "--format", "json", "std.estimators"]).is(0, &[]).json();
    let of = |name: &str| {
        list.as_array()
            .and_then(|list| list.iter().find(|audit| audit["objective"] == name))
            .expect("it is audited")
    };
    let diagnostic = &of("k3")["terms"][0]["findings"][0];
    assert_eq!(
        (&diagnostic["verdict"], &diagnostic["parts"][0]["of"]),
        (&"follows".into(), &"KL(teacher || student)".into())
    );
    assert_eq!(diagnostic["value_estimates"], "KL(student || teacher)");
    // A term without gradient also stops plan and run. The checker itself does not know this form.
    let direct = "objective direct {\n  term pull = exp(live student.logp - teacher.logp) / \
                  exp(student.logp - teacher.logp)\n  reduce = mean(token, over: batch)\n}\n";
    std::fs::write(
        place.path("k1.mopd"),
        format!("{}\n{direct}", GOOD.replace("mopd(clip_at: 5)", "direct()")),
    )
    .expect("a file");
    for command in ["audit", "check", "plan", "run"] {
        let refusal = "[zero-gradient]: the mean gradient of this term is exactly 0";
        let said = place.mopd(&[command, "k1.mopd"]);
        assert!(said.out.contains(refusal) || said.err.contains(refusal), "{command}: {said:?}");
        said.is(1, &[]);
    }
    place.mopd(&["audit", "std.tpi"]).is(2, &["error[unknown-module]", "did you mean `std.tip`?"]);
}

#[test]
fn marks_are_listed_and_change_no_plan() {
    let steps = "steps = 2,";
    assert!(GOOD.contains(steps));
    let marked = GOOD.replacen(steps, "steps = 2 @unpublished(\"ours\"),", 1);
    let place = Place::with(&[("a.mopd", GOOD), ("marked.mopd", &marked)]);
    let said = place.mopd(&["plan", "marked.mopd"]).is(0, &[]);
    assert!(
        said.out.contains("unpublished          steps of ") && said.out.contains(": ours"),
        "{}",
        said.out
    );
    let first_line = |out: &str| out.lines().next().map(str::to_owned);
    assert_eq!(first_line(&said.out), first_line(&place.mopd(&["plan", "a.mopd"]).is(0, &[]).out));
}

#[test]
fn plan_prints_json_for_programs() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let plan = place.mopd(&["plan", "--format", "json", "a.mopd"]).is(0, &[]).json();
    assert_eq!(plan["experiment"]["name"], "tiny");
    assert_eq!(plan["experiment"]["seed"], 1);
    assert_eq!(plan["stages"].as_array().map(Vec::len), Some(4));
    let again = place.mopd(&["plan", "--format", "json", "--set", "seed=7", "a.mopd"]).is(0, &[]).json();
    assert_eq!(again["experiment"]["seed"], 7);
}

/// `--set OBJECTIVE.PARAMETER=...` comes before the default and before the argument of every call, wherever
/// it is written.
#[test]
fn a_parameter_of_an_objective_is_set_in_every_call() {
    let objective = "\
objective mine(scale: real = 1, most: nats = 5) {
  let gap  = clip(teacher.logp - student.logp, -most, most)
  term all = -scale * gap * live student.logp
  reduce   = mean(token, over: batch)
}
stage taught(o: objective) = distill(start) {
  objective = o, rollout = sample(n: 1, temperature: 1.0, max_tokens: 8), prompts = 2, steps = 2, lr = 1e-3
}
";
    let text = |call: &str| {
        let text = GOOD.replace("mopd(clip_at: 5)", call).replace("use std.opd.mopd\n", "");
        let last = format!("model last = taught({call})\n");
        text.replace("[start, student]", "[start, student, last]").replace("compare ", &(last + "compare "))
            + objective
    };
    let place = Place::new();
    let keys = |call: &str, set: &[&str]| {
        place.write("a.mopd", &text(call));
        let set = set.iter().flat_map(|value| ["--set", *value]);
        let arguments: Vec<&str> =
            ["plan", "--format", "json"].into_iter().chain(set).chain(["a.mopd"]).collect();
        let plan = place.mopd(&arguments).is(0, &[]).json();
        let stages = plan["stages"].as_array().expect("stages");
        stages.iter().map(|stage| stage["key"].as_str().expect("a key").to_owned()).collect::<Vec<_>>()
    };
    let written = keys("mine(scale: 3)", &[]);
    assert_ne!(written, keys("mine", &[]));
    for call in ["mine", "mine()", "mine(scale: 2)", "mine(2)"] {
        assert_eq!(keys(call, &["mine.scale=3"]), written, "{call}");
    }
    assert_eq!(keys("mine(most: 4)", &["mine.scale=3", "mine.most=5"]), written);
    // A schedule, as in an argument.
    assert_eq!(keys("mine", &["mine.scale=linear(0 -> 1)"]), keys("mine(linear(0 -> 1))", &[]));
    // A mistake is reported where the value is written.
    place.write("a.mopd", &text("mine(2)"));
    place
        .mopd(&["plan", "--set", "mine.scale=true", "a.mopd"])
        .is(1, &["expected a number", "--set mine.scale"]);
}

/// `--set OWNER.SETTING=...` gives the plan of the file with that setting, whether the file has it or not.
#[test]
fn a_setting_is_set_as_if_it_were_written() {
    let other = "stage taught(rate: real) = distill(start) {
  objective = mopd(clip_at: 5), rollout = sample(n: 1, temperature: 1.0, max_tokens: 8), prompts = 2, steps = 2, lr = rate
}
";
    let last = "model last = taught(1e-3)\ncompare ";
    let good = GOOD.replace("compare ", last).replace("[start, student]", "[start, student, last]") + other;
    let place = Place::with(&[("a.mopd", &good)]);
    let plan = |set: &[&str]| {
        let set = set.iter().flat_map(|value| ["--set", *value]);
        let arguments: Vec<&str> =
            ["plan", "--format", "json"].into_iter().chain(set).chain(["a.mopd"]).collect();
        let mut plan = place.mopd(&arguments).is(0, &[]).json();
        // The places of what was set are elsewhere.
        plan.as_object_mut().expect("a plan").remove("origins");
        plan
    };
    for (set, written, edited) in [
        ("student.lr=cosine(2e-3 -> 1e-4)", "  lr        = 1e-3", "  lr        = cosine(2e-3 -> 1e-4)"),
        ("student.objective=mopd(clip_at: 3)", "= mopd(clip_at: 5)\n", "= mopd(clip_at: 3)\n"),
        ("student.passes=2", "  prompts   = 2\n", "  prompts   = 2\n  passes = 2\n"),
        ("base.width=32", "width = 16", "width = 32"),
        ("expert.samples=4", "samples = 2, max_tokens = 8, lr", "samples = 4, max_tokens = 8, lr"),
        ("last.rate=3e-3", "taught(1e-3)", "taught(rate: 3e-3)"),
        ("sort.reward=numeric", "reward = exact_match", "reward = numeric"),
        ("tiny.samples=3", "student, last], samples = 2", "student, last], samples = 3"),
        ("experiment.dtype=bfloat16", "{ seed = 1 }", "{ seed = 1, dtype = bfloat16 }"),
    ] {
        place.write("a.mopd", &good);
        let set = plan(&[set]);
        place.write("a.mopd", &good.replacen(written, edited, 1));
        assert_ne!(good.replacen(written, edited, 1), good, "{written}");
        assert_eq!(set["stages"], plan(&[])["stages"], "{edited}");
        assert_eq!(set["tables"], plan(&[])["tables"], "{edited}");
    }
}

#[test]
fn a_value_for_a_name_that_is_not_there() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let said = |set: &str, said: &[&str]| {
        place.mopd(&["plan", "--set", set, "a.mopd"]).is(1, said);
        let checked = place.mopd(&["check", "--set", set, "a.mopd"]).is(1, &["1 error"]).out;
        assert!(said.iter().all(|said| checked.contains(said)), "{checked}");
    };
    said("sead=7", &["error[", "sead"]);
    said("studnet.lr=1", &["declares no `studnet` with settings", "did you mean `student.lr`?"]);
    said("student.lrr=1", &["error[unknown-key]", "--set student.lrr", "it has: objective"]);
    said("student.steps=\"two\"", &["error[type-mismatch]", "--set student.steps"]);
}

#[test]
fn a_new_experiment_checks_cleanly() {
    let place = Place::new();
    let said = place.mopd(&["new", "pilot"]).is(0, &[]);
    assert_eq!(said.out, "pilot/pilot.mopd\n");
    place.mopd(&["check", "pilot/pilot.mopd"]).is(0, &["ok: pilot: 6 models, 2 domains, 1 table"]);
    place.mopd(&["plan", "pilot/pilot.mopd"]).is(0, &[]);
    for file in ["sort.train", "sort.test", "reverse.train", "reverse.test"] {
        let text = place.read(&format!("pilot/data/{file}.jsonl"));
        for line in text.lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(
                ["prompt", "answer", "demonstration"].iter().all(|field| line[field].is_string()),
                "{file}: {line}"
            );
        }
    }
    assert!(place.read("pilot/README.md").contains("mopd run pilot.mopd"));
}

/// The examples as they are in `examples/`, with their data files.
#[test]
fn examples_of_the_book_check_cleanly() {
    let place = Place::new();
    let examples = mopd_tests::root().join("examples");
    let data = [
        ("quickstart", "quickstart"),
        ("literature", "quickstart"),
        ("lookup", "lookup"),
        ("agent", "agent"),
        ("real", "real"),
    ];
    for (name, data) in data {
        let said = place.mopd(&["new", "--example", name, &format!("my-{name}")]).is(0, &[]);
        let file = format!("my-{name}/{name}.mopd");
        assert_eq!(said.out, format!("{file}\n"));
        if name == "real" {
            // Its model is not part of it; the file says how to fetch it.
            let said = place.mopd(&["check", &file]).is(1, &["1 error"]);
            assert!(said.out.contains("error[missing-file]: there is no my-real/model/"), "{said:?}");
        } else {
            place.mopd(&["check", &file]).is(0, &["ok: "]);
        }
        let mut paths = mopd_tests::files(&examples.join(data), "");
        paths.retain(|path| !path.to_string_lossy().contains("__pycache__"));
        paths.push(examples.join(format!("{name}.mopd")));
        for path in paths {
            let below = path.strip_prefix(&examples).expect("an example's file").display();
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            assert!(place.read(&format!("my-{name}/{below}")) == text, "{below}");
        }
    }
}

#[test]
fn a_new_experiment_overwrites_nothing() {
    let place = Place::with(&[("pilot/mine.txt", "mine")]);
    place.mopd(&["new", "pilot"]).is(2, &["error[already-there]", "nothing was written"]);
    assert_eq!(std::fs::read_dir(place.path("pilot")).expect("a folder").count(), 1);
    place.write("file", "x");
    place.mopd(&["new", "file"]).is(2, &["error[already-there]"]);
    place.mopd(&["new", "a name"]).is(2, &["error[bad-name]"]);
    place.mopd(&["new", ".."]).is(2, &["error[bad-name]"]);
}

#[test]
fn a_machine_without_a_worker() {
    let place = Place::new();
    let said = place.mopd(&["doctor"]).is(1, &[]);
    for part in ["worker    missing", "./x build", "MOPD_WORKER", "cores", "store     0 B"] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let found = place.mopd(&["doctor", "--format", "json"]).is(1, &[]).json();
    assert!(found["worker"].is_null() && found["missing"][0]["help"].is_string(), "{found}");
}

#[test]
fn a_machine_with_a_worker() {
    let place = Place::with(&[(".mopd/store/a/b", "12345")]);
    place.worker("assert job == {'job': 'probe'}\nready()");
    let said = place.mopd_with_worker(&["doctor"]).is(0, &[]);
    for part in ["libtorch  2.11.0", "device    cpu", "of which the worker uses 2", "store     5 B"] {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    place.worker("say('ready', versions={'mopd': '9.9.9', 'libtorch': '2'}, device='cpu', threads=2)");
    let said = place.mopd_with_worker(&["doctor"]).is(1, &[]);
    assert!(said.out.contains("mopd-worker is version 9.9.9"), "{said:?}");
    place.worker("sys.exit(127)");
    let said = place.mopd_with_worker(&["doctor"]).is(1, &[]);
    assert!(said.out.contains("exit status 127"), "{said:?}");
}

#[test]
fn sample_prints_completions_of_a_checkpoint() {
    let place = Place::with(&[("m/model.safetensors", ""), ("m/config.json", "{}")]);
    place.worker(
        r#"
assert job == {"job": "sample", "model": {"source": "hugging_face", "name": "m", "revision": None}, "prompts": [{"prompt": "sort ba="}], "chat": False, "system": None, "n": 2, "temperature": 0.5, "max_tokens": 9, "seed": 3}, job
ready()
say("sample", prompt=0, text="ab", tokens=3, finished=True, logp=-0.25)
say("sample", prompt=0, text="b\u001b[2Ja", tokens=9, finished=False, logp=-4.0)
say("finished", seconds=0.1, peak_memory=1)
"#,
    );
    let arguments = [
        "sample",
        "m",
        "--prompt",
        "sort ba=",
        "-n",
        "2",
        "--temperature",
        "0.5",
        "--max-tokens",
        "9",
        "--seed",
        "3",
    ];
    let said = place.mopd_with_worker(&arguments).is(0, &[]);
    assert_eq!(
        said.out,
        "  1  ab  (3 tokens, log-probability -0.25)\n  2  b\\u001b[2Ja  (9 tokens, cut off, log-probability \
         -4.00)\n"
    );
    let list = place.mopd_with_worker(&[&arguments[..], &["--format", "json"]].concat()).is(0, &[]).json();
    assert_eq!(list[0], serde_json::json!({"text": "ab", "tokens": 3, "finished": true, "logp": -0.25}));
    assert_eq!(list[1]["text"], "b\u{1b}[2Ja");
}

#[test]
fn prompts_come_from_files_and_pipes() {
    let place = Place::with(&[("m/model.safetensors", ""), ("m/config.json", "{}")]);
    place.worker(
        r#"
json.dump(job, open("job.json", "w"))
ready()
for place in range(len(job["prompts"])):
    for sample in range(job["n"]):
        say("sample", prompt=place, text="x" * (1 + sample), tokens=1 + sample, finished=True, logp=-0.5)
say("finished", seconds=0.1, peak_memory=1)
"#,
    );
    let job = || -> serde_json::Value { serde_json::from_str(&place.read("job.json")).expect("a job") };
    place.write(
        "p.jsonl",
        "{\"prompt\": \"a\", \"answer\": 1}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n",
    );
    let arguments = ["sample", "m", "--chat", "--system", "Be short.", "--prompts", "p.jsonl", "-n", "2"];
    let said = place.mopd_with_worker(&arguments).is(0, &[]).out;
    // The worker reads a line as it reads a row of a data set.
    let prompts = serde_json::json!([
        {"line": "{\"prompt\": \"a\", \"answer\": 1}"},
        {"line": "{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}"},
    ]);
    assert_eq!(
        (&job()["prompts"], &job()["chat"], &job()["system"]),
        (&prompts, &true.into(), &"Be short.".into())
    );
    assert!(said.starts_with("a\n  1  x  (1 token, log-probability -0.50)\n  2  xx  (2 tokens"), "{said}");
    let lines = place.mopd_with_worker(&[&arguments[..], &["--format", "json"]].concat()).is(0, &[]).out;
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0]["prompt"], "a");
    assert_eq!(lines[1]["messages"], serde_json::json!([{"role": "user", "content": "b"}]));
    assert_eq!(lines[1]["completions"][1]["text"], "xx");

    let mut piped = place.with_worker(&["sample", "m", "--prompt", "-"]);
    piped.stdin(std::fs::File::open(place.path("p.jsonl")).expect("a file"));
    assert!(piped.output().expect("mopd starts").status.success());
    assert_eq!(job()["prompts"][0]["prompt"], place.read("p.jsonl").as_str());

    place
        .mopd(&["sample", "m", "--prompts", "p.jsonl"])
        .is(2, &["line 3 of p.jsonl has `messages`", "`--chat`"]);
    place.write("bad.jsonl", "{\"text\": 1}\n");
    place
        .mopd(&["sample", "m", "--prompts", "bad.jsonl"])
        .is(2, &["line 1 of bad.jsonl has no string `prompt`"]);
    place.mopd(&["sample", "m", "--prompt", "a", "--system", "b"]).is(2, &["--chat"]);
    place.mopd(&["sample", "m"]).is(2, &["--prompt"]);
}

/// On a terminal the text of a single completion is shown while it is written, and only once.
#[test]
fn a_completion_is_shown_while_it_is_written() {
    let place = Place::with(&[("m/model.safetensors", ""), ("m/config.json", "{}")]);
    place.worker(
        r#"
ready()
for text in ["", "one", " two\nth"]:
    say("sample_written", prompt=0, tokens=1, most=9, text=text)
say("sample", prompt=0, text="one two\nthree", tokens=3, finished=True, logp=-0.5)
say("finished", seconds=0.1, peak_memory=1)
"#,
    );
    let inner = place.with_worker(&["--color", "never", "sample", "m", "--prompt", "x", "-n", "1"]);
    let shown = "  1  one two\n     three  (3 tokens, log-probability -0.50)\n";
    let mut terminal = std::process::Command::new("python3");
    terminal.args(["-c", "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"]);
    terminal.arg(inner.get_program()).args(inner.get_args()).stdin(std::process::Stdio::null());
    terminal.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.current_dir(inner.get_current_dir().expect("a folder"));
    let out = terminal.output().expect("python3 starts").stdout;
    assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", "\n"), shown);
    // If standard output is not a terminal, it is printed as a whole.
    assert_eq!(place.mopd_with_worker(&["sample", "m", "--prompt", "x", "-n", "1"]).is(0, &[]).out, shown);
}

#[test]
fn sample_refuses_folders_without_a_checkpoint() {
    let place = Place::with(&[("m/model.safetensors", "")]);
    place
        .mopd(&["sample", "none", "--prompt", "x"])
        .is(2, &["error[no-checkpoint]: there is no folder none", "a GGUF file", "OWNER/NAME"]);
    place.mopd(&["sample", "m", "--prompt", "x", "--temperature", "-1"]).is(2, &["0 or more"]);
    place.mopd(&["sample", "m", "--prompt", "x"]).is(2, &["it has no config.json"]);
    place.write("m/config.json", "{}");
    place.mopd(&["sample", "m", "--prompt", "x"]).is(2, &["error[no-worker]", "./x build", "MOPD_WORKER"]);
    place.worker(
        "say('failed', kind='runtime', message='the checkpoint is damaged', help='train again', \
         origin=None, stage=None, seed=None, step=None)\nsys.exit(1)",
    );
    place
        .mopd_with_worker(&["sample", "m", "--prompt", "x"])
        .is(1, &["error[runtime]: the checkpoint is damaged", "help: train again"]);
    place.worker("os.kill(os.getpid(), signal.SIGKILL)");
    place.mopd_with_worker(&["sample", "m", "--prompt", "x"]).is(1, &["error[worker-died]", "memory"]);
}

#[test]
fn a_measurement_says_of_what_it_is_and_what_came_out() {
    let place = Place::new();
    let brief = ["bench", "check", "--runs", "2", "--keystrokes", "4", "--edits", "2"];
    let said = place.mopd(&brief).is(0, &[]);
    for part in
        ["lines", "bytes", "five errors", "2 runs: median", "4 keystrokes: p99", "ms |", "after 2 edits more"]
    {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    let figures = place.mopd(&[&brief[..], &["--json"]].concat()).is(0, &[]).json();
    assert!(figures["check"]["file"]["lines"].as_u64().is_some_and(|lines| lines >= 500), "{figures}");
    assert!(figures["keystroke"]["file"]["lines"].as_u64().is_some_and(|lines| lines >= 5_000), "{figures}");
    assert_eq!(
        (&figures["check"]["milliseconds"]["count"], &figures["memory"]["edits"]),
        (&2.into(), &2.into())
    );
    assert_eq!(std::fs::read_dir(place.path(".")).expect("a folder").count(), 0, "nothing is left behind");
    let expr = place.mopd(&["bench", "expr", "--tokens", "1000", "--runs", "2", "--json"]).is(0, &[]).json();
    assert_eq!(expr["sizes"][0]["tokens"], 1000);
    for way in ["memory_pass", "compiled_one_thread", "compiled", "interpreted"] {
        assert!(expr["sizes"][0][way].as_f64().is_some_and(|time| time > 0.0), "{expr}");
    }
    place.mopd(&["bench", "expr", "--tokens", "1000", "--runs", "1"]).is(0, &[]);
    place.mopd(&["bench", "expr", "--tokens", "0"]).is(2, &["--tokens"]);
    place.mopd(&["bench", "distill", "student"]).is(2, &["TEACHER"]);
    place.mopd(&["bench", "distill", "student", "teacher"]).is(2, &["error[no-worker]"]);
    place.mopd(&["bench", "distill", "student", "teacher", "--steps", "1"]).is(2, &["--steps"]);
    place.mopd(&["bench", "chek"]).is(2, &["error[unknown-command]", "mopd bench check"]);
    place.mopd(&["bench", "check", "--runs", "0"]).is(2, &["--runs"]);
}

/// The book's page of commands names every option that `--help` has, in the row of its command.
#[test]
fn the_book_has_every_option_of_every_command() {
    let place = Place::new();
    let page = std::fs::read_to_string(mopd_tests::root().join("book/src/commands.md")).expect("the page");
    let options = |words: &[&str]| -> Vec<String> {
        let help = place.mopd(&[words, &["--help"]].concat()).is(0, &[]).out;
        let words =
            help.lines().filter(|line| line.trim_start().starts_with('-')).flat_map(str::split_whitespace);
        // An option with an optional value is written `--name[=<VALUE>]`.
        let name = |word: &str| word.split('[').next().unwrap_or(word).to_owned();
        let mut found: Vec<String> = words.filter(|word| word.starts_with("--")).map(name).collect();
        found.retain(|option| {
            // Options of all commands have a table of their own.
            let common = ["--help", "--version", "--color", "--quiet", "--verbose", "--log-file"];
            option.trim_matches('-').len() > 1 && !common.contains(&option.as_str())
        });
        found
    };
    let commands = "new check fmt plan audit run watch report ls compare delta export import explain sample eval serve rewards setup doctor lsp expr \
                    try completions man";
    let benches =
        ["check", "distill", "divergence", "expr", "generate", "watch"].map(|what| vec!["bench", what]);
    let caches = ["list", "verify", "prune"].map(|what| vec!["cache", what]);
    let mut seen = 0;
    for words in commands.split(' ').map(|command| vec![command]).chain(benches).chain(caches) {
        let head = if words[0] == "cache" { "cache".to_owned() } else { words.join(" ") };
        let mut rows = page.lines().filter(|line| line.starts_with(&format!("| `mopd {head}")));
        let row = rows.next().unwrap_or_else(|| panic!("`mopd {head}` has no row"));
        for option in options(&words) {
            assert!(
                row.contains(&option),
                "`{option}` of `mopd {}` is not in its row: {row}",
                words.join(" ")
            );
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} options were found");
}

/// The examples of `--help` that need no file of the user's work.
#[test]
fn the_examples_of_help_that_need_no_file_work() {
    let place = Place::new();
    let mut tried = 0;
    for command in ["check", "plan", "audit", "expr", "explain"] {
        let help = place.mopd(&[command, "--help"]).is(0, &[]).out;
        for line in
            help.lines().map(str::trim).filter(|line| line.starts_with("mopd ") && !line.contains(['|', '>']))
        {
            // The text after three blanks explains the example.
            let example = line.split("   ").next().expect("a first part").trim();
            let words: Vec<&str> = example.split(' ').skip(1).collect();
            if words.iter().any(|word| word.ends_with(".mopd")) {
                continue;
            }
            place.mopd(&words).is(0, &[]);
            tried += 1;
        }
    }
    assert!(tried >= 5, "only {tried} examples were found");
}

/// `mopd expr`: the graph, the input of the code generator, and the instructions.
#[test]
fn expr_shows_what_becomes_of_a_weight() {
    let source = "\
objective capped(most: ratio = 5) {
  weight = clip(exp(teacher.logp - student.logp), 0, most)
  term imitate = -live student.logp
  reduce = mean(token) then mean(sequence)
}
";
    let place = Place::with(&[("a.mopd", source), ("broken.mopd", "objective {")]);
    let graph = place.mopd(&["expr", "a.mopd", "capped.weight"]).is(0, &[]).out;
    assert!(graph.contains("exp %") && graph.contains("; weight is %"), "{graph}");
    assert!(
        !graph.contains("live 0")
            && place.mopd(&["expr", "a.mopd", "capped"]).is(0, &[]).out.contains("live 0")
    );
    let clif = place.mopd(&["expr", "a.mopd", "capped.weight", "--emit", "clif"]).is(0, &[]).out;
    assert!(clif.contains("; for each token:") && clif.contains("f32x4"), "{clif}");
    let assembly = place.mopd(&["expr", "a.mopd", "capped.imitate", "--emit", "asm"]).is(0, &[]).out;
    assert!(assembly.contains("block0:"), "{assembly}");
    // An imported objective is shown from the file that declares it.
    place.write("imports.mopd", GOOD);
    place.mopd(&["expr", "imports.mopd", "mopd"]).is(2, &["it is imported: name the file `std.opd`"]);
    place.mopd(&["expr", "std.opd", "mopd"]).is(0, &[]);
    place.mopd(&["expr", "a.mopd", "caped"]).is(2, &["error[unknown-name]", "did you mean `capped`?"]);
    place
        .mopd(&["expr", "a.mopd", "capped.select"])
        .is(2, &["error[unknown-name]", "it has: weight, imitate"]);
    place.mopd(&["expr", "broken.mopd", "capped"]).is(1, &["error"]);
}

/// The kernel's own answer to a write when no space is left.
#[test]
fn results_that_standard_output_has_no_space_for_are_no_success() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    for arguments in [["fmt", "-"].as_slice(), &["plan", "a.mopd", "--format", "json"]] {
        let mut command = place.command(arguments);
        command.stdin(std::fs::File::open(place.path("a.mopd")).expect("it was written"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is always there");
        let output = command.stdout(full).output().expect("mopd starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("error[can't-write]: can't write standard output: the disk is full"), "{said}");
    }
}
