//! Import of other programs' configurations: each in `tests/import` has its experiment beside it, which is
//! valid.

use std::fs;

use mopd_tests::{files, root};

use super::Place;

const ENDINGS: [&str; 3] = [".py", ".yaml", ".sh"];

#[test]
fn configurations_become_experiments_that_check() {
    let place = Place::new();
    let folder = root().join("tests/import");
    let mut seen = 0;
    for path in ENDINGS.iter().flat_map(|ending| files(&folder, ending)) {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        place.write(&name, &fs::read_to_string(&path).expect("a configuration"));
        let text = place.mopd(&["import", &name]).is(0, &[]).out;
        place.write("imported.mopd", &text);
        let said = checks(&place);
        // The data is missing, and some divergences have known warnings; there must be no other diagnostics.
        let known = [
            "missing-file",
            "truncated-sampling",
            "clipped-ratio",
            "partial-mass",
            "stale-signal",
            "foreign-teacher",
        ];
        for line in said.lines().filter(|line| line.contains("warning[")) {
            assert!(known.iter().any(|code| line.contains(code)), "{name}: {line}");
        }
        let beside = folder.join(format!("{name}.mopd"));
        if std::env::var_os("MOPD_UPDATE").is_some() {
            fs::write(&beside, &text).expect("a file");
        }
        let known = fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(text, known, "{name}: MOPD_UPDATE=1 writes it anew");
        seen += 1;
    }
    assert_eq!(seen, 11);
}

/// Every given setting is used or becomes a comment.
#[test]
fn nothing_is_left_out_silently() {
    let place = Place::new();
    place.write("a.yaml", "beta: 1.0\nmin_p: 0.1\nno_such_setting: 3\nteacher_model_name_or_path: t\n");
    let text = place.mopd(&["import", "a.yaml"]).is(0, &[]).out;
    assert!(text.contains("//   min_p = 0.1: tokens are drawn from another distribution"), "{text}");
    assert!(text.contains("//   no_such_setting = 3: mopd has no such setting"), "{text}");
    assert!(text.contains("live kl(student || teacher)"), "{text}");
}

/// A teacher with another name has another origin, as far as an import can tell; a penalty of repetitions is
/// a setting of `sample`; whether the model thinks is said where it is loaded.
#[test]
fn what_has_a_counterpart_is_written() {
    let text = imported(
        "a.yaml",
        "beta: 1.0\nmodel_name_or_path: s\nteacher_model_name_or_path: t\nmax_steps: 5\nrepetition_penalty: 1.1\n\
         chat_template_kwargs:\n  enable_thinking: false\n",
    );
    assert!(text.contains("teacher large = hf(\"t\") { origin = foreign }"), "{text}");
    assert!(text.contains("repetition_penalty: 1.1)"), "{text}");
    assert!(text.contains("enable_thinking: false"), "{text}");
    let own =
        imported("b.yaml", "beta: 1.0\nmodel_name_or_path: s\nteacher_model_name_or_path: s\nmax_steps: 5\n");
    assert!(own.contains("teacher large = hf(\"s\") { origin = same }"), "{own}");
}

/// The experiment that a file is imported as; asserts that it is valid.
fn imported(name: &str, text: &str) -> String {
    let place = Place::new();
    place.write(name, text);
    let text = place.mopd(&["import", name]).is(0, &[]).out;
    place.write("imported.mopd", &text);
    checks(&place);
    text
}

/// Asserts that the imported experiment lacks nothing but its data. Returns what is said of it.
fn checks(place: &Place) -> String {
    let said = place.mopd(&["check", "--format", "short", "imported.mopd"]).out;
    let errors = said.lines().filter(|line| line.contains("error[") && !line.contains("error[missing-file]"));
    assert_eq!(errors.collect::<Vec<_>>(), Vec::<&str>::new(), "{said}");
    said
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

/// `GKDTrainer.compute_loss` ignores the temperature, `DistillationTrainer` and the asynchronous one use it.
#[test]
fn a_divergence_has_the_temperature_that_trl_gives_it() {
    let gkd = imported("a.yaml", "lmbda: 1.0\nmax_steps: 10\n");
    has(&gkd, &["temperature: 0.9, max_tokens: 128", "live jsd(teacher, student, beta: 0.5)\n"]);
    let both = imported("a.yaml", "temperature: 0.9\nmax_steps: 10\n");
    has(&both, &["temperature: 0.9, max_tokens: 512", "live kl(student || teacher, temperature: 0.9)\n"]);
    let served = imported("a.yaml", "teacher_top_k: 8\ntemperature: 0.9\nteacher_temperature: 2.0\n");
    has(&served, &["temperature: 0.9, max_tokens: 2048", "mass: tail, temperature: 2)\n"]);
}

/// `_narrow_top1_actual_support` and the `prompt_logprobs` of a server, which list the token taken.
#[test]
fn the_asynchronous_trainer_compares_the_entries_that_a_server_lists() {
    let of = |settings: &str| imported("a.yaml", &format!("teacher_top_k: 4\nmax_steps: 5\n{settings}"));
    has(
        &of("beta: 0.0"),
        &["kl(teacher || student, support: union(top_k(teacher, 4), sampled), mass: tail)"],
    );
    let support = "support: union(top_k(teacher, 4), sampled), mass: renormalized)";
    has(&of("beta: 0.0\nadd_tail_bucket: false"), &[support]);
    has(&of("beta: 1.0"), &["kl(student || teacher, support: sampled, mass: tail)"]);
    let support = "beta: 0.3, support: union(top_k(teacher, 1), sampled), mass: tail)";
    has(&of("beta: 0.3"), &[support, "//   teacher_top_k = 4: with `beta` other than 0"]);
    let support = "beta: 0.3, support: union(top_k(teacher, 1), sampled), mass: renormalized)";
    has(&of("beta: 0.3\nadd_tail_bucket: false"), &[support]);
}

#[test]
fn what_cannot_be_read_is_said_with_what_is_written_instead() {
    let text = imported(
        "a.yaml",
        "learning_rate: lots\nbeta: half\nmax_grad_norm: null\nmax_completion_length: null\ntop_k: null\n",
    );
    has(
        &text,
        &[
            "//   learning_rate = \"lots\": could not be read; the engine's default 1e-6 is written",
            "//   beta = \"half\": could not be read; the engine's default 1.0 is written",
            "//   max_completion_length = null: has no counterpart; the engine's default 512 is written",
            "clip_norm: 1e9",
        ],
    );
    assert!(!text.contains("max_grad_norm ="), "{text}");
}

/// A list that is not a pair of numbers must not make the import drop the rest of the optimizer.
#[test]
fn a_part_of_the_optimizer_that_cannot_be_read_leaves_the_others() {
    let optim = "actor_rollout_ref: {actor: {optim: {betas: [0.9], weight_decay: 0.2, clip_grad: 0.5}}}\n";
    let text = imported("a.yaml", optim);
    has(&text, &["betas = [0.9]: could not be read", "weight_decay: 0.2, clip_norm: 0.5)"]);
    // With verl's single sample per prompt, GRPO's advantage is the reward.
    has(&text, &["let advantage = reward\n"]);
}

/// The trainer's own arguments are imported, too.
#[test]
fn arguments_of_the_trainer_are_not_lost() {
    let config = "a = DistillationConfig('o', max_steps=5, **more)\n";
    let trainer = |argument: &str| format!("{config}DistillationTrainer('s', 't', a, {argument})\n");
    let text = imported("a.py", &trainer("peft_config=LoraConfig(r=4)"));
    has(
        &text,
        &["adapter       = lora(rank: 4, alpha: 8, targets: [query, value])", "//   **more: could not be"],
    );
    has(&text, &["hf(\"s\")", "teacher large = hf(\"t\")"]);
    let text = imported("a.py", &trainer("peft_config=made()"));
    has(&text, &["//   peft_config = made(): what adapter the trainer makes could not be read"]);
}

/// A configuration that an engine accepts and the language refuses becomes a valid experiment.
#[test]
fn settings_that_the_language_refuses_are_comments() {
    let loss = "distillation: {enabled: true, teacher_models: {teacher_model: {model_path: t}}, \
                distillation_loss: {loss_mode: k1, use_policy_gradient: true, use_task_rewards: false}}\n";
    let text = imported("a.yaml", &format!("{loss}actor_rollout_ref: {{rollout: {{top_p: 0.95}}}}\n"));
    has(&text, &["//   actor_rollout_ref.rollout.top_p = 0.95: tokens from a part of the distribution"]);
    let text = imported("a.yaml", &format!("{loss}actor_rollout_ref: {{rollout: {{temperature: 0}}}}\n"));
    has(
        &text,
        &["rollout.temperature = 0: a greedy rollout has no distribution to learn from; written as 1"],
    );
    for (setting, written) in [
        ("seed: 1.5", "seed = 42"),
        ("seed: -1", "seed = 42"),
        ("temperature: 0", "temperature: 1,"),
        ("max_grad_norm: 0", "clip_norm: 1e9"),
        ("max_completion_length: 0", "max_tokens: 512"),
        ("per_device_train_batch_size: 0", "prompts       = 8"),
        ("weight_decay: -0.1", "weight_decay: 0,"),
        ("adam_beta2: 1.0", "beta2: 0.999"),
    ] {
        has(&imported("a.yaml", &format!("max_steps: 5\n{setting}\n")), &[written]);
    }
}

/// `get_scheduler` of transformers gives `constant` no warm-up; verl's does.
#[test]
fn the_scheduler_constant_has_no_warm_up_in_transformers() {
    let of = |kind: &str| {
        imported("a.yaml", &format!("lr_scheduler_type: {kind}\nwarmup_steps: 100\nmax_steps: 200\n"))
    };
    has(&of("constant"), &["lr            = 1e-6\n", "//   warmup_steps = 100: the scheduler `constant`"]);
    has(&of("constant_with_warmup"), &["lr            = warmup(100, then: 1e-6)\n"]);
}

#[test]
fn what_is_there_is_not_written_over() {
    let place = Place::new();
    place.write("a.yaml", "beta: 0.0\n");
    place.write("b.mopd", "mine\n");
    place
        .mopd(&["import", "a.yaml", "--out", "b.mopd"])
        .is(2, &["error[already-there]: b.mopd exists already; nothing was written"]);
    assert_eq!(place.read("b.mopd"), "mine\n");
}

#[test]
fn files_without_a_configuration_are_refused() {
    let place = Place::new();
    place.write("a.yaml", "beta: [1, 2\n");
    place.mopd(&["import", "a.yaml"]).is(2, &["error[wrong-configuration]: cannot parse a.yaml as YAML"]);
    for text in ["", "[1, 2]\n", "beta\n"] {
        place.write("e.yaml", text);
        place
            .mopd(&["import", "e.yaml"])
            .is(2, &["error[wrong-configuration]: e.yaml is not a mapping of settings"]);
    }
    place.write("f.yaml", "a: b\n");
    place.mopd(&["import", "f.yaml"]).is(2, &["f.yaml has no settings of verl or TRL"]);
    place.write("b.py", "print(1)  # DistillationConfig(beta=1)\n");
    place.mopd(&["import", "b.py"]).is(2, &["makes no configuration", "DistillationConfig"]);
    place.write("c.toml", "a = 1\n");
    place.mopd(&["import", "c.toml"]).is(2, &["c.toml is not a configuration that `mopd import` reads"]);
    place.write("d.sh", "echo nothing\n");
    place.mopd(&["import", "d.sh"]).is(2, &["has no settings of verl or TRL"]);
    place.mopd(&["import", "none.yaml"]).is(2, &["can't read none.yaml: there is no such file"]);
}

#[test]
fn syntax_errors_are_reported_with_their_line() {
    let place = Place::new();
    let deep = format!("x = {}\n", "(".repeat(100_000));
    let programs = [
        ("a = 1\nargs = GKDConfig(\n    beta=0.5\n    seed=1)\n", "line 4: Expected `,`, found name"),
        ("args = GKDConfig(beta='0.5)\nb = 1\n", "line 1: missing closing quote in string literal"),
        ("args = GKDConfig(beta=0.5\n", "line 1: unexpected EOF"),
        ("if a:\nargs = GKDConfig(beta=0.5)\n", "line 2: Expected an indented block"),
        (&deep, "line 1: an expression is nested too deeply"),
    ];
    for (text, message) in programs {
        place.write("a.py", text);
        let known = format!("error[wrong-configuration]: cannot parse a.py as Python: {message}");
        place.mopd(&["import", "a.py"]).is(2, &[&known]);
    }
    place.write("a.sh", "LR=1\npython3 -m verl.trainer.main_ppo \\\n  trainer.a=\"b \\\n  trainer.c=d\n");
    let known = "error[wrong-configuration]: cannot parse a.sh as a script: line 3: a quote is not closed";
    place.mopd(&["import", "a.sh"]).is(2, &[known]);
}

#[test]
fn an_experiment_is_written_where_it_is_asked() {
    let place = Place::new();
    place.write("a.yaml", "beta: 0.0\nreport_to: wandb\n");
    let said = place.mopd(&["import", "a.yaml", "--out", "b.mopd"]).is(0, &[]);
    assert_eq!(said.out, "");
    assert!(place.read("b.mopd").contains("kl(teacher || student)"));
}

/// `max_new_tokens` is a setting of GKD alone among the three classes.
#[test]
fn a_gkd_configuration_is_known_by_its_settings() {
    let place = Place::new();
    place.write("a.yaml", "teacher_model_name_or_path: big\nmax_new_tokens: 128\nbeta: 0.5\n");
    let said = place.mopd(&["import", "a.yaml"]).is(0, &[]);
    assert!(said.out.contains("GKDConfig") && said.out.contains("max_tokens"), "{}", said.out);
}

/// GRPO's and DPO's `beta` are no part of a divergence between teacher and student.
#[test]
fn a_configuration_of_another_trainer_is_refused() {
    let place = Place::new();
    for (text, trainer, settings) in [
        (
            "reward_funcs: accuracy_reward\nnum_generations: 8\nbeta: 0.04\n",
            "GRPOConfig",
            "num_generations`, `reward_funcs",
        ),
        ("beta: 0.1\nloss_type: sigmoid\nld_alpha: 1.0\n", "DPOConfig", "ld_alpha`, `loss_type"),
        ("lmbda: 1.0\nuse_uld_loss: true\n", "GOLDConfig`: `GKDConfig", "use_uld_loss"),
        ("packing: true\nlearning_rate: 1e-5\n", "SFTConfig`: `DistillationConfig", "packing"),
    ] {
        place.write("a.yaml", text);
        let said =
            place.mopd(&["import", "a.yaml"]).is(2, &["a.yaml is for another trainer of TRL", trainer]);
        assert!(said.err.contains(&format!("has no `{settings}`")), "{}", said.err);
    }
    // GKD is trained as SFT is, and has these settings.
    imported("a.yaml", "lmbda: 1.0\nmax_length: 512\npacking: false\nmax_steps: 10\n");
}

/// A run refuses an adapter with dropout.
#[test]
fn dropout_of_an_adapter_is_left_out() {
    for text in ["use_peft: true\n", "use_peft: true\nlora_dropout: 0.05\n"] {
        let text = imported("a.yaml", &format!("{text}max_steps: 10\n"));
        has(&text, &["//   lora_dropout = 0.05: mopd trains adapters without dropout"]);
        has(&text, &["lora(rank: 16, alpha: 32, targets: [query, value])"]);
    }
}
