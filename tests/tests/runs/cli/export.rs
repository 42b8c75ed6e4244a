//! Export of stages for engines: the files, and the messages.

use super::{GOOD, Place};

#[test]
fn a_stage_is_written_for_an_engine() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    for (engine, file) in [("verl", "config.yaml"), ("trl", "config.json")] {
        let said = place.mopd(&["export", "--engine", engine, "a.mopd"]).is(0, &["wrote student-"]);
        assert!(said.out.contains("exact        `live student.logp`  (std:opd.mopd:"), "{}", said.out);
        assert!(said.out.contains("approximate  order of the prompts  (a.mopd:"), "{}", said.out);
        let folder = format!("student-{engine}");
        assert_eq!(place.read(&format!("{folder}/COVERAGE.txt")), said.out);
        let objective = place.read(&format!("{folder}/objective.py"));
        assert!(objective.contains("mt.minimum(mt.maximum("), "{objective}");
        let settings = place.read(&format!("{folder}/{file}"));
        assert!(
            settings.contains("max_response_length: 8") || settings.contains("\"max_completion_length\": 8")
        );
        // Two steps of two prompts.
        let rows = place.read(&format!("{folder}/train.jsonl"));
        assert_eq!(rows.lines().count(), 4, "{rows}");
        assert!(rows.lines().all(|line| line.contains("\"teacher\":\"one\"")), "{rows}");
    }
}

/// A construct that an engine lacks stops the export and is named with its place.
#[test]
fn export_refuses_unsupported_constructs_by_name() {
    let text =
        GOOD.replace("  steps     = 2\n  lr        = 1e-3\n", "  steps = 2\n  lr    = 1e-3\n  ema   = 0.9\n");
    assert_ne!(text, GOOD);
    let place = Place::with(&[("a.mopd", &text)]);
    let said = place.mopd(&["export", "--engine", "verl", "a.mopd"]);
    let said = said.is(1, &["nothing was written: verl 0.9.1 cannot express 1 construct of `student`"]);
    assert!(said.out.contains("refused      `ema` of the weights  (a.mopd:"), "{}", said.out);
    assert!(!place.path("student-verl").exists());
    let report =
        place.mopd(&["export", "--engine", "verl", "--report", "--format", "json", "a.mopd"]).is(1, &[]).out;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["coverage"], "refused");
    let lines = report["lines"].as_array().expect("lines");
    assert!(lines.iter().all(|line| line["file"].is_string() && line["line"].is_u64()), "{report:#}");
}

#[test]
fn a_report_needs_no_data_and_a_stage_has_a_name() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    std::fs::remove_file(place.path("sort.jsonl")).expect("it was there");
    place.mopd(&["export", "--engine", "trl", "--report", "a.mopd"]).is(0, &[]);
    place
        .mopd(&["export", "--engine", "trl", "a.mopd"])
        .is(2, &["error[can't-read]: sort.jsonl: there is no such file"]);
    let said = place.mopd(&["export", "--engine", "trl", "--stage", "studnet", "a.mopd"]);
    said.is(2, &["no stage `studnet` that trains", "did you mean `--stage 'student'`?"]);
    place.mopd(&["export", "--engine", "nemo", "a.mopd"]).is(2, &["verl, trl"]);
}

/// Without an engine, an experiment's stages are listed by engines. The default stage is not a baseline after
/// it.
#[test]
fn stages_are_listed_by_engines() {
    let text = format!(
        "{}\nmodel later = sft(base, on: domains) {{\n  rollout = from(teacher, sequences: 4, temperature: 1.0, \
         max_tokens: 4)\n  keep    = all\n  steps   = 1\n  batch   = 2\n  lr      = 1e-3\n}}\n",
        GOOD
    );
    let place = Place::with(&[("a.mopd", &text)]);
    let said = place.mopd(&["export", "a.mopd"]).is(0, &["says what an engine can't express"]);
    let lines: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let of = |stage: &str| lines.iter().find(|line| line[0] == stage).expect("a line")[1..].to_vec();
    assert_eq!(lines[0], ["stage", "export", "to", "verl", "export", "to", "trl", "run", "--engine", "trl"]);
    assert_eq!(of("later"), ["refused", "refused", "exact"], "{}", said.out);
    assert_eq!(of("student"), ["approximate", "approximate", "exact"], "{}", said.out);
    let said = place.mopd(&["export", "--engine", "trl", "a.mopd"]);
    said.is(0, &["wrote student-trl", "are not there yet: `mopd run` makes them"]);
    std::fs::create_dir(place.path("run")).expect("a folder");
    place.mopd(&["export", "run"]).is(2, &["write `--tensorboard` to export its run"]);
}

/// A Python that can't run the engine is found before anything starts.
#[test]
fn a_run_on_an_engine_names_what_its_python_lacks() {
    // The worker is not started.
    let place = Place::with(&[("a.mopd", GOOD), ("no-such-worker", "")]);
    let python = |name: &str, found: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        place.write(name, &format!("#!/bin/sh\necho '{found}'\n"));
        let path = place.path(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        path.display().to_string()
    };
    let with_trl = |trl: &str| {
        format!(
            "{{\"trl\": {trl}, \"torch\": \"2.11.0\", \"transformers\": \"5\", \"accelerate\": \"1\", \
             \"datasets\": \"5\", \"peft\": \"0.19\", \"device\": \"cpu\", \"devices\": \"0\"}}"
        )
    };
    let run = |python: &str, processes: &str| {
        let words = ["run", "--engine", "trl", "--processes", processes, "--python", python, "a.mopd"];
        place.mopd(&words)
    };
    run("/nowhere/python", "1")
        .is(2, &["can't start `/nowhere/python`, the Python with trl", "pip install trl=="]);
    run(&python("none", &with_trl("null")), "1").is(2, &["has no trl", "--python ENV/bin/python"]);
    run(&python("old", &with_trl("\"1.0.0\"")), "1")
        .is(2, &["has trl 1.0.0, and mopd's program is for 1.16.0"]);
    run(&python("silent", "no module"), "1").is(2, &["can't import torch"]);
    let good = python("good", &with_trl("\"1.16.0\""));
    let doctor = |engine: &str| {
        place.worker("ready()");
        place.mopd_with_worker(&["doctor", "--engine", engine, "--python", &good])
    };
    assert!(doctor("trl").is(0, &[]).out.contains("transformers 5, trl 1.16.0, 0 GPUs"));
    let verl = doctor("verl").is(1, &[]).out;
    assert!(verl.contains("has no verl, ray, tensordict, TransferQueue, vllm"), "{verl}");
    let dry = ["run", "--dry-run", "--engine", "trl", "--python", "/nowhere/python", "a.mopd"];
    place.mopd_with_worker(&dry).is(2, &["can't start `/nowhere/python`"]);
    run(&good, "7").is(2, &["completions a step, which 7 processes can't share evenly"]);
    place
        .mopd(&["run", "--engine", "verl", "a.mopd"])
        .is(2, &["`mopd run --engine verl` is not supported yet"]);
    assert!(!place.path("runs/tiny/plan.json").exists(), "nothing has started");
}

/// Checkpoints may be hours of work, and a new program would continue from them.
#[test]
fn an_export_leaves_checkpoints_of_another_program_alone() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let export = || place.mopd(&["export", "--engine", "trl", "a.mopd"]);
    export().is(0, &["wrote student-trl"]);
    let (config, checkpoint) =
        ("student-trl/config.json", "student-trl/checkpoints/checkpoint-5/model.safetensors");
    place.write(config, "as it was");
    std::fs::create_dir_all(place.path("student-trl/checkpoints")).expect("a folder");
    export().is(0, &["wrote student-trl"]);
    place.write(config, "as it was");
    std::fs::create_dir(place.path("student-trl/checkpoints/checkpoint-5")).expect("a folder");
    place.write(checkpoint, "weights");
    export().is(2, &["student-trl/checkpoints has checkpoints of a program", "`--out DIR`"]);
    assert_eq!((place.read(config), place.read(checkpoint)), ("as it was".to_owned(), "weights".to_owned()));
}

/// A stage on these domains, exported for verl.
fn exported(place: &Place, domains: &str, route: &str, length: &str) -> super::Said {
    let text = format!(
        "use std.opd.mopd\n\nexperiment \"x\" {{ seed = 1 }}\n\n{domains}\n\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         model one  = sft(base, on: domains) {{ target = answer, steps = 1, batch = 2, lr = 1e-3 }}\n\
         model two  = sft(base, on: domains) {{ target = answer, steps = 1, batch = 4, lr = 1e-3 }}\n\n\
         teacher first = one\nteacher second = two\n\nroute {{ {route} }}\n\n\
         model student = distill(base) {{\n  objective = mopd(clip_at: 5)\n  \
         rollout = sample(n: 1, temperature: 1.0, max_tokens: 4)\n  prompts = 4\n  {length}\n  \
         lr = 1e-3\n}}\n"
    );
    place.write("x.mopd", &text);
    place.mopd(&["export", "--engine", "verl", "--out", "out", "x.mopd"])
}

/// `(prompt, teacher, record)` of each line, sorted.
fn lines(place: &Place) -> Vec<(String, String, serde_json::Value)> {
    let json = |line: &str| -> serde_json::Value { serde_json::from_str(line).expect("JSON") };
    let records: Vec<_> = place.read("out/records.jsonl").lines().map(json).collect();
    let line = |line: &str| {
        let line = json(line);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let record = &records[line["extra_info"]["record"].as_u64().expect("a number") as usize];
        let prompt = text(&line["prompt"][0]["content"]);
        assert_eq!(record["prompt"], prompt.as_str());
        (prompt, text(&line["teacher"]), record["record"].clone())
    };
    let mut lines: Vec<_> = place.read("out/train.jsonl").lines().map(line).collect();
    lines.sort_by(|one, other| one.0.cmp(&other.0));
    lines
}

/// Conditions compare as in a run: numbers may be texts, and a text may be a number.
#[test]
fn conditions_hold_in_an_export_where_they_hold_in_a_run() {
    let place = Place::new();
    let rows = ["\"1,024\"", "\"5\"", "2", "\"0.5\""].iter().enumerate().map(|(at, level)| {
        format!("{{\"prompt\": \"{at}\", \"answer\": \"a\", \"level\": {level}, \"kind\": {at}}}\n")
    });
    place.write("rows.ndjson", &rows.collect::<String>());
    let domain = "domain d { prompts = \"rows.ndjson\", reward = exact_match }";
    let teachers = |place: &Place| lines(place).into_iter().map(|line| line.1).collect::<Vec<_>>();
    exported(&place, domain, "data.level >= 3 -> first, else -> second", "steps = 1").is(0, &[]);
    assert_eq!(teachers(&place), ["first", "first", "second", "second"]);
    exported(&place, domain, "data.kind == \"3\" -> first, else -> second", "steps = 1").is(0, &[]);
    assert_eq!(teachers(&place), ["second", "second", "second", "first"]);
    let filtered =
        "domain d { prompts = dataset(\"rows.ndjson\", filter: data.level >= 3), reward = exact_match }";
    exported(&place, filtered, "data.kind == \"0\" -> first, else -> second", "steps = 1").is(0, &[]);
    assert_eq!(teachers(&place), ["first", "first", "second", "second"]);
    // NaN is not true.
    exported(&place, domain, "log(0 - data.kind) > 9 -> first, else -> second", "steps = 1").is(0, &[]);
    assert_eq!(teachers(&place), ["second"; 4]);
    for (level, what) in [
        ("\"level\": null", "the field `level` must be a number or a bool; found null"),
        ("\"level\": \"hard\"", "the field `level` must be a number or a bool; found the string \"hard\""),
        ("\"other\": 1", "the field `level` is missing; found `prompt`, `answer`, `other`"),
    ] {
        place.write("rows.ndjson", &format!("{{\"prompt\": \"a\", \"answer\": \"a\", {level}}}\n"));
        let said = exported(&place, domain, "data.level >= 3 -> first, else -> second", "steps = 1");
        said.is(2, &[&format!("rows.ndjson:1: {what}")]);
    }
}

/// An export reads what a run reads: several files, tables of cells, folders with splits.
#[test]
fn an_export_reads_the_files_that_a_run_reads() {
    let place = Place::new();
    let route = "data.answer == \"1\" -> first, else -> second";
    place.write("rows_1.jsonl", "{\"prompt\": \"a\", \"answer\": \"1\"}\n");
    place.write("rows_2.jsonl", "{\"prompt\": \"b\", \"answer\": \"2\"}\n");
    place.write("cells.csv", "prompt,answer\na,1\n\"b\",2\n");
    std::fs::create_dir(place.path("folder")).expect("a folder");
    place.write(
        "folder/train.jsonl",
        "{\"prompt\": \"a\", \"answer\": \"1\"}\n{\"prompt\": \"b\", \"answer\": \"2\"}\n",
    );
    place.write("folder/test.jsonl", "{\"prompt\": \"c\", \"answer\": \"3\"}\n");
    for prompts in ["\"rows_?.jsonl\"", "\"cells.csv\"", "dataset(\"folder\", split: \"train\")"] {
        let domain = format!("domain d {{ prompts = {prompts}, reward = exact_match }}");
        exported(&place, &domain, route, "steps = 1").is(0, &[]);
        let mut rows: Vec<(String, String)> =
            lines(&place).into_iter().map(|(prompt, _, row)| (prompt, row["answer"].to_string())).collect();
        rows.sort();
        rows.dedup();
        let wanted = [("a", "\"1\""), ("b", "\"2\"")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(rows, wanted, "{prompts}");
    }
    place.write("torn.csv", "prompt,answer\n\"a,1\n");
    let domain = "domain d { prompts = \"torn.csv\", reward = exact_match }";
    exported(&place, domain, route, "steps = 1").is(2, &["error[wrong-data]: torn.csv"]);
}

/// The result does not depend on the order of the columns.
#[test]
fn columns_change_places_in_an_export() {
    let place = Place::new();
    place.write("rows.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n");
    for columns in ["answer: question, prompt: answer", "prompt: answer, answer: question"] {
        let domain = format!(
            "domain d {{\n  prompts = \"rows.jsonl\"\n  fields = columns({columns})\n  \
             reward = exact_match\n}}"
        );
        exported(&place, &domain, "data.answer == \"q\" -> first, else -> second", "steps = 1").is(0, &[]);
        for (prompt, teacher, row) in lines(&place) {
            assert_eq!((prompt.as_str(), teacher.as_str()), ("a", "first"), "{columns}");
            assert_eq!(row, serde_json::json!({"prompt": "a", "answer": "q"}), "{columns}");
        }
    }
}

/// An epoch has each row once, whatever the sizes of the domains.
#[test]
fn epochs_of_several_domains_have_each_row_as_often() {
    let place = Place::new();
    for (name, count) in [("d", 2), ("e", 6)] {
        let row = |at| format!("{{\"prompt\": \"{name}{at}\", \"answer\": \"a\"}}\n");
        place.write(&format!("{name}.jsonl"), &(0..count).map(row).collect::<String>());
    }
    let domains = "domain d { prompts = \"d.jsonl\", reward = exact_match, share = 1/2 }\n\
                   domain e { prompts = \"e.jsonl\", reward = exact_match, share = 1/2 }";
    exported(&place, domains, "domain == d -> first, domain == e -> second", "steps = 2 epochs").is(0, &[]);
    let prompts: Vec<String> = lines(&place).into_iter().map(|line| line.0).collect();
    let wanted = ["d0", "d1", "e0", "e1", "e2", "e3", "e4", "e5"];
    assert_eq!(prompts, wanted.iter().flat_map(|prompt| [*prompt; 2]).collect::<Vec<_>>());
}

/// The length of a prompt includes the system message.
#[test]
fn a_system_message_counts_as_prompt() {
    let system = "s".repeat(1000);
    let chat = format!("domain sort {{ format = chat, system = \"{system}\", prompts");
    // The tokenizer `bytes` has no chat template.
    let folder = mopd_tests::root().join("tests/reference/text/llama3");
    let tokenizer = format!("tokenizer = {:?}", folder.display().to_string());
    let with_chat = GOOD.replace("domain sort { prompts", &chat);
    assert_ne!(with_chat, GOOD);
    let text = with_chat.replace("tokenizer = bytes", &tokenizer);
    assert_ne!(text, with_chat);
    let place = Place::with(&[("a.mopd", &text)]);
    place.mopd(&["export", "--engine", "verl", "a.mopd"]).is(0, &[]);
    let settings = place.read("student-verl/config.yaml");
    let length = settings.lines().find_map(|line| line.trim().strip_prefix("max_prompt_length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
    assert!(length > 1000, "{length}");
}

/// verl's teacher servers score at temperature 1, and return the sampled token or the most probable entries.
/// For any other number, the training processes hold the teacher.
#[test]
fn verls_teacher_servers_are_used_where_they_have_the_number() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let gap = "term d = (live student.logp - teacher.logp)^2 / 2";
    let entries = "live kl(teacher || student, support: top_k(teacher, 4), mass: raw";
    let divergence = format!("term d = {entries})");
    let scaled = format!("term d = {entries}, temperature: 0.5)");
    let weighted = format!("{divergence}\n  weight = teacher.top1");
    let both = format!("{divergence}\n  weight = teacher.logp");
    let at_one = format!("temperature = 1\n  {gap}");
    let whole = "term d = live kl(student || teacher)";
    for (objective, temperature, source) in [
        (gap, "1", "sampled"),
        (gap, "0.5", "held"),
        (&at_one, "0.5", "sampled"),
        (&divergence, "1", "entries"),
        (&divergence, "0.5", "entries"),
        (&weighted, "1", "entries"),
        (&scaled, "1", "held"),
        (&both, "1", "held"),
        (whole, "1", "held"),
    ] {
        place.write("x.mopd", &pulled(objective, temperature));
        place.mopd(&["export", "--engine", "verl", "x.mopd"]).is(0, &[]);
        let objective_py = place.read("student-verl/objective.py");
        let settings = place.read("student-verl/config.yaml");
        let of_distillation = settings.split("\ndistillation:\n").nth(1).expect("a table");
        let served = of_distillation.contains("\n  enabled: true\n");
        assert_eq!(served, source != "held", "{objective} at {temperature}: {of_distillation}");
        assert_eq!(objective_py.contains("\nENTRIES = 4\n"), source == "entries", "{objective_py}");
        assert_eq!(objective_py.contains("\nMODELS = {}\n"), source != "held", "{objective_py}");
    }
    place.write("x.mopd", &pulled(gap, "linear(1 -> 0.5)"));
    let said = place.mopd(&["export", "--engine", "verl", "--report", "x.mopd"]).is(1, &[]);
    assert!(said.out.contains("a sampling temperature that changes during the run"), "{}", said.out);
}

/// A stage with this objective, whose rollout has this temperature.
fn pulled(objective: &str, temperature: &str) -> String {
    format!(
        "experiment \"x\" {{ seed = 1 }}\n\n\
         domain d {{ prompts = \"sort.jsonl\", reward = exact_match }}\n\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         model big  = sft(base, on: d) {{ target = answer, steps = 1, batch = 2, lr = 1e-3 }}\n\n\
         teacher one = big\n\nroute {{ else -> one }}\n\n\
         objective pull {{\n  {objective}\n  reduce = mean(token, over: batch)\n}}\n\n\
         model student = distill(base) {{\n  objective = pull\n  \
         rollout = sample(n: 1, temperature: {temperature}, max_tokens: 4)\n  prompts = 1\n  \
         steps = 1\n  lr = 1e-3\n}}\n"
    )
}

/// The plugin sets the learning rate of each update, so that any schedule is that of a run.
#[test]
fn verl_has_the_learning_rates_of_a_run() {
    for rate in ["warmup(3, then: 1e-3)", "cosine(1e-3 -> 2e-3)", "warmup(10, then: linear(1e-6 -> 0))"] {
        let place = Place::with(&[(
            "a.mopd",
            &GOOD.replace("1e-3\n}\n\ncompare", &format!("{rate}\n}}\n\ncompare")),
        )]);
        let said = place.mopd(&["export", "--engine", "verl", "a.mopd"]).is(0, &[]);
        assert!(said.out.contains("exact        `lr`"), "{}", said.out);
        let settings = place.read("student-verl/config.yaml");
        let optim = settings.split("    optim:\n").nth(1).expect("of the actor");
        assert!(optim.contains("lr_scheduler_type: \"constant\""), "{optim}");
        assert!(place.read("student-verl/objective.py").contains("def learning_rate(step, steps):"));
    }
}

/// What Ray gets is written out: verl passes it on without resolving it, and prints it.
#[test]
fn the_environment_of_rays_workers_is_plain_text() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.mopd(&["export", "--engine", "verl", "a.mopd"]).is(0, &[]);
    let settings = place.read("student-verl/config.yaml");
    let table = settings.split("    runtime_env:\n").nth(1).expect("a table").split("\n  timeline").next();
    assert_eq!(
        table.expect("a table").trim_end(),
        "      env_vars:\n        VERL_USE_EXTERNAL_MODULES: \"mopd_verl\"\n      py_executable: null"
    );
    let launch = place.read("student-verl/launch.sh");
    assert!(launch.contains("runtime_env.env_vars") && launch.contains("PYTHONPATH"), "{launch}");
}

/// A step of verl is a batch, which it divides itself; a step of a run is an update.
#[test]
fn verl_divides_a_batch_into_mini_batches() {
    let with = |settings: &str| {
        GOOD.replace(
            "prompts   = 2\n  steps     = 2\n  lr        = 1e-3\n}\n\ncompare",
            &format!("{settings}\n}}\n\ncompare"),
        )
    };
    let divided = "prompts = 4\n  mini_batches = 2\n  steps = 6\n  lr = 1e-3";
    let place = Place::with(&[("a.mopd", &with(divided))]);
    let said = place.mopd(&["export", "--engine", "verl", "a.mopd"]).is(0, &[]);
    assert!(said.out.contains("4 prompts of 1 samples a batch"), "{}", said.out);
    assert!(said.out.contains("approximate  `mini_batches = 2`"), "{}", said.out);
    let settings = place.read("student-verl/config.yaml");
    for line in ["train_batch_size: 4", "ppo_mini_batch_size: 2", "total_training_steps: 3"] {
        assert!(settings.contains(line), "{line}: {settings}");
    }
    assert_eq!(place.read("student-verl/train.jsonl").lines().count(), 3 * 4);
    for (engine, settings, refused) in [
        ("verl", divided.replace("= 4", "= 5"), "`mini_batches = 2`"),
        ("verl", divided.replace("= 6", "= 7"), "`mini_batches = 2`"),
        ("trl", divided.to_owned(), "`mini_batches` above 1"),
    ] {
        place.write("a.mopd", &with(&settings));
        let said = place.mopd(&["export", "--engine", engine, "--report", "a.mopd"]).is(1, &[]);
        assert!(said.out.contains(&format!("refused      {refused}")), "{engine}, {settings}: {}", said.out);
    }
}

/// The rows say which domain a prompt is of. With a single one, there is nothing to say.
#[test]
fn exports_take_numbers_that_differ_by_domain() {
    let program = |on: &str| {
        format!(
            "experiment \"e\" {{ seed = 1 }}\n\
             domain math {{ prompts = \"m.jsonl\", reward = exact_match, share = 1/2 }}\n\
             domain code {{ prompts = \"c.jsonl\", reward = exact_match, share = 1/2 }}\n\
             model base = llama {{ layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }}\n\
             model both = sft(base, on: domains) {{ target = answer, steps = 2, batch = 2, lr = 1e-3 }}\n\
             objective o {{\n  term follow = match {{ domain == math -> 0.1, else -> 0.5 }} * \
             (student.logp - teacher.logp) * live student.logp\n  reduce = mean(token, over: batch)\n}}\n\
             teacher one = both\n\
             route {{ else -> one }}\n\
             model student = distill(base) {{\n  domains = {on}\n  objective = o\n  \
             rollout = sample(n: 1, temperature: 1, max_tokens: 8)\n  prompts = 2\n  steps = 2\n  \
             lr = 1e-3\n}}\n"
        )
    };
    for engine in ["trl", "verl"] {
        let place = Place::with(&[("a.mopd", &program("[math, code]"))]);
        let report = ["export", "--engine", engine, "--report", "--stage", "student", "a.mopd"];
        place.mopd(&report).is(0, &[]);
        place.write("a.mopd", &program("[code]"));
        let said = place.mopd(&report);
        assert!(!said.out.contains("`domain`"), "{engine}: {}", said.out);
    }
}

/// verl's engine computes in bfloat16 unless `mixed_precision` says otherwise, and continues from whatever
/// checkpoint it finds in the folder unless it is told not to.
#[test]
fn verl_is_told_what_it_would_assume() {
    for (dtype, formats) in [("float32", 2), ("bfloat16", 0)] {
        let text = GOOD.replace("{ seed = 1 }", &format!("{{ seed = 1, dtype = {dtype} }}"));
        assert_ne!(text, GOOD);
        let place = Place::with(&[("a.mopd", &text)]);
        place.mopd(&["export", "--engine", "verl", "a.mopd"]).is(0, &[]);
        let settings = place.read("student-verl/config.yaml");
        let given = "mixed_precision:\n        buffer_dtype: \"fp32\"\n        param_dtype: \"fp32\"";
        assert_eq!(settings.matches(given).count(), formats, "{dtype}: {settings}");
        assert!(settings.contains("  resume_mode: \"disable\"\n"), "{settings}");
    }
}

/// A stage that starts from `start` and has the teacher `teacher`.
fn published(start: &str, teacher: &str, settings: &str) -> String {
    format!(
        "use std.opd.mopd\n\nexperiment \"x\" {{ seed = 1 }}\n\n\
         domain sort {{ prompts = \"sort.jsonl\", reward = exact_match, format = chat }}\n\n\
         model start = {start}\nteacher big = {teacher} {{ origin = same }}\n\nroute {{ else -> big }}\n\n\
         model student = distill(start) {{\n  objective = mopd(clip_at: 5)\n  \
         rollout = sample(n: 1, temperature: 1.0, max_tokens: 4)\n  prompts = 1\n  steps = 1\n  \
         lr = 1e-3\n  {settings}\n}}\n"
    )
}

/// The programs of an export run in folders of their own, where a relative path would be another's or, worse,
/// the name of a model on the hub.
#[test]
fn folders_of_models_are_named_from_the_root() {
    let text = published("hf(\"models/start\")", "hf(\"org/model\")", "");
    let place = Place::with(&[("a.mopd", &text)]);
    place.write("models/start/config.json", "{}");
    for (engine, file) in [("verl", "config.yaml"), ("trl", "stage.json")] {
        place.mopd(&["export", "--engine", engine, "a.mopd"]).is(0, &[]);
        let settings = place.read(&format!("student-{engine}/{file}"));
        let folder = place.path("models/start");
        assert!(
            folder.is_absolute() && settings.contains(&format!("\"{}\"", folder.display())),
            "{settings}"
        );
        assert!(settings.contains("\"org/model\""), "{settings}");
    }
}

#[test]
fn verl_is_refused_a_revision_of_a_teacher() {
    let teacher = "hf(\"org/large\", revision: \"989aa7980e4cf806f80c7fef2b1adb7bc71aa306\")";
    let place = Place::with(&[("a.mopd", &published("hf(\"org/model\")", teacher, ""))]);
    let said = place.mopd(&["export", "--engine", "verl", "--report", "a.mopd"]).is(1, &[]);
    assert!(said.out.contains("refused      a revision of a model on the hub, org/large"), "{}", said.out);
    place.mopd(&["export", "--engine", "trl", "a.mopd"]).is(0, &[]);
    assert!(place.read("student-trl/stage.json").contains("989aa7980e4cf806f80c7fef2b1adb7bc71aa306"));
}

/// The initial weights of an adapter are drawn by other generators, and whether a published model has experts
/// is not known here.
#[test]
fn an_adapter_is_approximate_with_its_reasons() {
    let place = Place::new();
    place.write("sort.jsonl", "{\"prompt\": \"a\", \"answer\": \"a\"}\n");
    let reasons = ["are drawn by another generator", "rounded by itself", "PEFT adapts other matrices"];
    for (targets, dtype, said_of) in [
        ("[query, value]", "float32", [true, false, false]),
        ("[query, value]", "bfloat16", [true, true, false]),
        ("[query, gate]", "float32", [true, false, true]),
    ] {
        let settings = format!(
            "adapter = lora(rank: 2, alpha: 4, targets: {targets}), optimizer = adamw(weight_decay: 0.1)"
        );
        let text = published("hf(\"org/model\")", "hf(\"org/large\")", &settings);
        place.write("a.mopd", &text.replacen("seed = 1", &format!("seed = 1, dtype = {dtype}"), 1));
        for engine in ["verl", "trl"] {
            let said = place.mopd(&["export", "--engine", engine, "--report", "a.mopd"]).is(0, &[]);
            let out = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
            let line = out.split("approximate `lora(rank: 2, alpha: 4)`").nth(1).expect("its line");
            let line = line.split(" exact ").next().unwrap_or_default();
            for (reason, is_said) in reasons.iter().zip(said_of) {
                assert_eq!(line.contains(reason), is_said, "{engine} {targets} {dtype}: {line}");
            }
            assert!(out.contains("exact `optimizer = adamw`"), "matrices only: {out}");
        }
    }
}

/// An export is of one run.
#[test]
fn a_run_of_a_sweep_is_selected_for_an_export() {
    let text =
        GOOD.replacen("seed = 1 }", "seed = 1 }\nparam rate: real = 1e-3\nsweep { rate in [1e-3, 2e-3] }", 1);
    let text = text.replace("lr        = 1e-3", "lr        = rate");
    assert!(text.contains("sweep") && text.contains("= rate"));
    let place = Place::with(&[("a.mopd", &text)]);
    place
        .mopd(&["export", "--engine", "trl", "--report", "a.mopd"])
        .is(2, &["error[several-runs]: the file sweeps over `rate`", "select a run", "--set rate=0.001"]);
    place.mopd(&["export", "--engine", "trl", "--report", "--set", "rate=2e-3", "a.mopd"]).is(0, &[]);
}

/// What a verifier gets of a row is what it gets in a run, and relative paths are those of the experiment.
#[test]
fn an_export_has_the_rewards_of_a_run() {
    let place = Place::with(&[(
        "a.mopd",
        &GOOD.replace("reward = exact_match", "reward = python(\"judge.py:score\")"),
    )]);
    let row = "{\"prompt\": \"ba\", \"answer\": \"ab\", \"demonstration\": \"ab\", \"level\": 1e3, \"tags\": [1]}\n";
    place.write("sort.jsonl", &row.repeat(2));
    for (engine, whole) in
        [("trl", "exact        reward of domain `sort`: `python`"), ("verl", "approximate  reward")]
    {
        let said = place.mopd(&["export", "--engine", engine, "--stage", "expert", "a.mopd"]).is(0, &[]);
        assert!(said.out.contains(whole), "{}", said.out);
        let folder = format!("expert-{engine}");
        let rewards: serde_json::Value =
            serde_json::from_str(&place.read(&format!("{folder}/rewards.json"))).expect("JSON");
        let base = std::path::absolute(place.path("")).expect("a path");
        assert_eq!(std::path::Path::new(rewards["base"].as_str().expect("a path")), base);
        assert_eq!(rewards["domains"]["sort"]["file"], "judge.py");
        let records = place.read(&format!("{folder}/records.jsonl"));
        let records: Vec<serde_json::Value> =
            records.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let record = serde_json::from_str::<serde_json::Value>(row).expect("JSON");
        let wanted = serde_json::json!({"domain": "sort", "prompt": "ba", "record": record});
        assert_eq!(records, [wanted.clone(), wanted]);
        let launch = std::process::Command::new("sh")
            .arg(place.path(&folder).join("launch.sh"))
            .env("MOPD", "no-such-mopd")
            .output()
            .expect("sh starts");
        let said = String::from_utf8_lossy(&launch.stderr).into_owned();
        // verl itself is looked for first.
        let cause = if engine == "trl" {
            "there is no no-such-mopd, which computes the rewards"
        } else {
            "launch.sh"
        };
        assert!(!launch.status.success() && said.contains(cause), "{said}");
    }
    // TRL reports no rewards: of an objective that reads none, none are computed.
    place.mopd(&["export", "--engine", "trl", "--out", "expert-trl", "a.mopd"]).is(0, &[]);
    assert!(
        !place.path("expert-trl/rewards.json").exists() && !place.path("expert-trl/records.jsonl").exists()
    );
}

/// The paper's use: teachers by reinforcement learning, also from tests, and a student of them.
#[test]
fn engines_take_the_papers_use() {
    let place = Place::new();
    let text =
        std::fs::read_to_string(mopd_tests::root().join("tests/engines/headline.mopd")).expect("a program");
    place.write("headline.mopd", &text);
    let said = place.mopd(&["export", "headline.mopd"]).is(0, &[]);
    for stage in ["expert[math]", "expert[code]", "student"] {
        let line = said.out.lines().find(|line| line.starts_with(stage)).expect("a line");
        assert!(!line.contains("refused") && line.split_whitespace().count() == 4, "{}", said.out);
    }
}
