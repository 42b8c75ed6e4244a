//! Input that is too large, and machines with hardly any memory or with a wrong clock: an error each, soon.

use std::fs;
use std::process::Command;

use super::{GOOD, Place, Said};

/// `mopd` under a limit of the shell, such as `ulimit -v 400000`.
fn limited(place: &Place, limit: &str, words: &[&str]) -> Said {
    let mopd = place.command(words);
    let mut command = Command::new("sh");
    command.current_dir(place.path("")).args(["-c", &format!("{limit}; exec \"$0\" \"$@\"")]);
    command.arg(mopd.get_program()).args(mopd.get_args());
    for (name, value) in mopd.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Said::of(command.output().expect("sh starts"))
}

#[test]
fn a_source_file_that_is_too_long_is_not_read() {
    let place = Place::new();
    let help = "a source file has at most 256 KiB of text";
    for line in ["\"\n", "'", "\u{200b}\n", "let a = b\n", "\"\"\"\n", "(", "route {\n", "# x\n"] {
        place.write("a.mopd", &line.repeat((10 << 20) / line.len()));
        for words in [&["check", "a.mopd"][..], &["fmt", "a.mopd"], &["plan", "a.mopd"]] {
            place.mopd(words).is(2, &["can't read a.mopd: it is larger than 256 KiB", help]);
        }
    }
    fs::write(place.path("b.mopd"), "use a.x\n").expect("a file");
    place.mopd(&["check", "b.mopd"]).is(2, &["can't read a.mopd: it is larger than 256 KiB"]);
    let standard_input = limited(&place, "cat a.mopd | { exec \"$0\" check -; }; exit", &[]);
    standard_input.is(2, &["can't read standard input: it is longer than 256 KiB", help]);
}

/// Each of these files has a thousand mistakes or a few long ones.
#[test]
fn the_diagnostics_of_a_file_are_bounded() {
    let place = Place::new();
    let lines = |line: &dyn Fn(usize) -> String| (0..1_000).map(line).collect::<Vec<_>>().join("\n");
    let files = [
        lines(&|line| format!("let a{line} = b{line} + c")),
        format!("model m = sft(base, on: d) {{\n{}\n}}", lines(&|line| format!("  k{line} = {line}"))),
        lines(&|line| format!("domain d{line} {{ promts = 1, x = 2 }}")),
        lines(&|_| "\"".to_owned()),
        lines(&|_| "# x".to_owned()),
        format!("let a = {}", lines(&|line| format!("b{line}")).replace('\n', " + ")),
        (0..10).map(|line| format!("let x{line} = {}\n", "n".repeat(20_000))).collect(),
    ];
    for text in files {
        place.write("a.mopd", &text);
        let said = place.mopd(&["check", "a.mopd"]).is(1, &[]);
        assert!(said.out.len() < 300_000, "{}: {}", said.out.len(), &said.out[..500]);
        let listed = place.mopd(&["check", "--format", "json", "a.mopd"]).is(1, &[]);
        let listed = listed.json().as_array().expect("a list").len();
        assert!(listed <= 200, "{listed}");
        let counted = said.out.contains(" more mistakes are not shown; the first of them: ");
        assert_eq!(counted, listed == 200, "{listed}");
    }
}

#[test]
fn a_pipe_is_not_read() {
    let place = Place::new();
    for name in ["a.mopd", "a.yaml", "a.py", "a.sh"] {
        let made = Command::new("mkfifo").arg(place.path(name)).status().expect("mkfifo");
        assert!(made.success());
        let command = if name == "a.mopd" { "check" } else { "import" };
        place.mopd(&[command, name]).is(2, &["it is a pipe, not a regular file"]);
    }
}

/// Less address space than a check needs is an error, and hardly any stack is enough.
#[test]
fn limits_of_memory_and_stack_are_no_bugs() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    for kilobytes in [200_000, 300_000, 400_000, 500_000] {
        for words in [&["check", "a.mopd"][..], &["fmt", "--check", "a.mopd"], &["lsp"], &["ls"]] {
            let said = limited(&place, &format!("ulimit -v {kilobytes}"), words);
            said.is(2, &["error[no-memory]: can't reserve 512 MiB", "`ulimit -v`"]);
        }
    }
    for limit in ["ulimit -s 64", "ulimit -s 256; ulimit -v 2000000", "ulimit -v 1000000"] {
        limited(&place, limit, &["check", "a.mopd"]).is(0, &["ok: tiny"]);
    }
}

#[test]
fn names_of_a_program_that_name_each_other_are_no_values() {
    let place = Place::new();
    let chain = |value: &str| {
        let names =
            (1..60).map(|name| value.replace('N', &name.to_string()).replace('M', &(name - 1).to_string()));
        names.collect::<Vec<_>>().join("\n")
    };
    let sums = format!("x0 = 1.0\n{}", chain("xN = xM + xM"));
    let lists = format!("x0 = 1\n{}", chain("xN = [xM, xM]"));
    let adapters = format!("x0 = LoraConfig(r=8)\n{}", chain("xN = LoraConfig(a=xM, b=xM)"));
    let texts = format!("x0 = '{}'\n{}", "a".repeat(1_000), chain("xN = xM + xM"));
    let both = format!("x0 = {{'a': 1}}\n{}", chain("xN = xM | xM"));
    for (program, given) in [
        ("lr = lr", "learning_rate=lr"),
        ("a = b\nb = a", "learning_rate=a"),
        ("a = a.b", "learning_rate=a"),
        ("a = a['b']", "learning_rate=a"),
        ("a = dict(a=a, **a)", "**a"),
        ("x = LoraConfig(r=x)", "peft_config=x"),
        (&sums, "learning_rate=x59"),
        (&lists, "learning_rate=x59"),
        (&texts, "learning_rate=x59"),
        (&both, "**x59"),
    ] {
        place.write("a.py", &format!("{program}\nargs = GKDConfig(beta=0.5, {given})\n"));
        let imported = place.mopd(&["import", "a.py"]).is(0, &[]);
        assert!(imported.out.contains("beta: 0.5"), "{program}: {}", imported.out);
    }
    // Each of these has two settings, which have two each.
    place.write("a.py", &format!("{adapters}\nargs = GKDConfig(beta=0.5, peft_config=x59)\n"));
    place.mopd(&["import", "a.py"]).is(2, &["settings, more than the 5000"]);
}

#[test]
fn an_expression_of_any_length_is_read_or_refused() {
    let place = Place::new();
    for deep in ["-", "not ", "1+", "lambda: ", "b.c.", "(", "a if b else ", "{1:", "f(", "await ", "*"] {
        place.write("a.py", &format!("a = {}1\nargs = GKDConfig(beta=0.5)\n", deep.repeat(60_000)));
        place.mopd(&["import", "a.py"]).is(2, &["line 1: an expression is nested too deeply"]);
    }
    place.write("a.py", &format!("a = [{}]\nargs = GKDConfig(beta=0.5)\n", "'b' + 1, ".repeat(50_000)));
    place.mopd(&["import", "a.py"]).is(0, &[]);
}

#[test]
fn a_configuration_of_data_is_refused() {
    let place = Place::new();
    let settings = |count: usize| (0..count).map(|number| format!("k{number}: v\n")).collect::<String>();
    place.write("a.yaml", &format!("beta: 0.5\n{}", settings(2_000_000)));
    place.mopd(&["import", "a.yaml"]).is(2, &["can't read a.yaml: it is larger than 1 MiB"]);
    place.write("a.yaml", &format!("beta: 0.5\n{}", settings(6_000)));
    place.mopd(&["import", "a.yaml"]).is(2, &["a.yaml has 6001 settings, more than the 5000"]);
    place.write("a.yaml", &format!("beta: 0.5\nx: {}\n", "a".repeat(900_000)));
    let said = place.mopd(&["import", "a.yaml"]).is(0, &[]);
    assert!(said.out.len() < 10_000, "{}", said.out.len());
}

/// What a source file may not have does not come into one, and no password does.
#[test]
fn control_characters_and_passwords_do_not_come_over() {
    let place = Place::new();
    place.write(
        "a.json",
        "{\"teacher_model_name_or_path\": \"big\\u0001\\u001b\\u202e\", \"max_new_tokens\": 8, \"beta\": 0.5,\n\
         \"run_name\": \"\\u0007\", \"x\": [\"\\u0001\\u0085\"], \"k\\u0002\": \"\\u200b\\u2066\"}",
    );
    place.write(
        "b.yaml",
        "teacher_server_urls: {math: \"http://me:pa55@host:8000\"}\nmax_steps: 5\n\
        teacher_top_k: 4\nhub_token: pa55\nx: \"see https://me:pa55@host and http://host/?api_key=pa55\"\n",
    );
    for name in ["a.json", "b.yaml"] {
        let text = place.mopd(&["import", name]).is(0, &[]).out;
        let odd = |letter: char| {
            letter.is_control() && letter != '\n' || ('\u{2000}'..'\u{2070}').contains(&letter)
        };
        assert!(!text.contains(odd) && !text.contains("\\u"), "{text}");
        assert!(!text.contains("pa55"), "{text}");
        place.write("imported.mopd", &text);
        // Its data is not here.
        let errors = place.mopd(&["check", "imported.mopd"]).out;
        let mut errors = errors.lines().filter(|line| line.starts_with("error["));
        assert!(errors.all(|line| line.starts_with("error[missing-file]")), "{text}");
    }
}

/// A clock before 1970. The library stands in for the system's.
#[test]
fn a_run_works_at_any_time() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.write(
        "clock.c",
        "#include <stdlib.h>\n#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int clock_gettime(clockid_t id, struct timespec *time) {\n\
         int result = syscall(SYS_clock_gettime, id, time);\n\
         if (id == CLOCK_REALTIME) time->tv_sec = atol(getenv(\"CLOCK\"));\n return result;\n}\n",
    );
    let mut compiler = Command::new("cc");
    compiler.current_dir(place.path("")).args(["-shared", "-fPIC", "-o", "clock.so", "clock.c"]);
    assert!(compiler.status().expect("a C compiler").success());
    place.worker("ready()\nsay('finished', seconds=1.0, peak_memory=1)");
    for clock in ["-1000000", "-1", "0", "253402300800", "99999999999999"] {
        let mut run = place.with_worker(&["run", "a.mopd", "--out", clock.trim_start_matches('-')]);
        run.env("LD_PRELOAD", place.path("clock.so")).env("CLOCK", clock);
        let said = Said::of(run.output().expect("mopd starts"));
        assert!(!said.err.contains("bug in mopd") && said.status != Some(101), "{clock}: {said:#?}");
    }
}
