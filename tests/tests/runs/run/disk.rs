//! Full and read-only disks, for real: a small file system, mounted where only the run sees it. If this user
//! may not mount one, the tests are skipped with a note.

use std::fs;
use std::process::{Command, Output, Stdio};

use super::{Bench, assert_says, text, walk};

/// The arguments of `unshare` with which this user can mount: as the current user, or as root of a namespace.
/// None if it can't.
fn mounting() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [&["-m"], &["-r", "-m"]];
    let works = |way: &&[&str]| {
        let mut command = Command::new("unshare");
        command.args(*way).args(["sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt && umount /mnt"]);
        command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    };
    let way = WAYS.into_iter().find(|way| works(way));
    if way.is_none() {
        mopd_tests::skipped("this user may not mount a file system (`unshare -r -m`)");
    }
    way
}

/// Runs a shell script in the folder. In it `mopd` is the program under test, and mounts end with the script.
/// None if nothing can be mounted.
fn script(bench: &Bench, script: &str) -> Option<Output> {
    let script = format!("set -e\nmopd() {{ \"$MOPD\" \"$@\"; }}\n{script}");
    let mut command = Command::new("unshare");
    command.args(mounting()?).args(["sh", "-c", &script]).env("MOPD", mopd_tests::mopd());
    Some(command.current_dir(bench.folder.path()).stdin(Stdio::null()).output().expect("unshare starts"))
}

/// Two stages that train one after the other, larger than all else that is written.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.edit("tiny.mopd", "width = 32", "width = 64");
    bench
}

/// The parts of a script's output, which are divided by lines `--`.
fn parts(output: &Output) -> Vec<String> {
    text(output).split("--\n").map(str::to_owned).collect()
}

/// The disk fills up at different points: at the first model, at a checkpoint, at the end of a stage. Each
/// time no finished result is lost, no partial file remains, and with room again the run ends with the
/// weights of an uninterrupted one.
#[test]
fn a_store_that_fills_up_keeps_what_is_whole_and_goes_on_with_room() {
    let bench = bench();
    let expected = bench.tables("expected", &[]);
    let student = bench.student("expected");
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    fs::create_dir(bench.path(".mopd")).expect("a folder");
    let mut finished = Vec::new();
    for size in ["100k", "400k", "800k", "1300k"] {
        let out = format!("out-{size}");
        let tried = script(
            &bench,
            &format!(
                "mount -t tmpfs -o size={size} tmpfs .mopd
                mopd run tiny.mopd --out {out} --checkpoint-every 0s 2>&1 && exit 9
                echo --
                mopd cache verify 2>&1
                mopd cache list --format json
                echo --
                mount -o remount,size=64m .mopd
                mopd run tiny.mopd --out {out} 2>&1"
            ),
        );
        let Some(tried) = tried else { return };
        assert!(tried.status.success(), "{size}: {}", text(&tried));
        let parts = parts(&tried);
        let why = match size {
            "100k" => ["error[storage]: the disk has no space for the result of `", "free for .mopd/store"],
            _ => ["error[storage]: cannot write .mopd/store/", "the disk is full"],
        };
        assert_says(&parts[0], &[why[0], why[1], "free some space and run again"]);
        if size == "400k" {
            assert_says(&parts[0], &["warning: the disk of .mopd/store may become full"]);
        }
        assert!(parts[1].contains(" 0 damaged"), "{size}: {}", parts[1]);
        assert!(!parts[1].contains("leftover"), "{size}: half of something stayed: {}", parts[1]);
        finished.push(parts[1].matches("\"kind\":\"result\"").count());
        assert!(!parts[2].contains("warning: a"), "{size}: something was damaged: {}", parts[2]);
        assert!(bench.student(&out) == student, "{size}: other weights");
        let results = fs::read(bench.path(&out).join("results.json")).expect("results.json");
        let results: serde_json::Value = serde_json::from_slice(&results).expect("JSON");
        assert_eq!(results["tables"], expected, "{size}");
    }
    assert!(
        finished[0] == 0 && finished.iter().any(|count| *count > 1),
        "the disk was full at other moments: {finished:?}"
    );
}

/// A stage resumes from its last checkpoint; the one before is only for the case that it is damaged, and is
/// deleted if the result needs the room.
#[test]
fn a_finished_stage_has_the_room_of_its_older_checkpoint() {
    let bench = bench();
    fs::create_dir(bench.path(".mopd")).expect("a folder");
    // Room for two checkpoints of the first stage, at three times its size each, beside the model that it
    // begins with.
    let tried = script(
        &bench,
        "mount -t tmpfs -o size=2100k tmpfs .mopd
        mopd run tiny.mopd --format json --checkpoint-every 0s --workers 1 || true",
    );
    let Some(tried) = tried else { return };
    let said = text(&tried);
    assert!(said.contains(r#""event":"checkpoint","stage":"start","seed":1"#), "{said}");
    assert!(!said.contains("no checkpoint of `start`"), "there was no room for two: {said}");
    assert!(said.contains(r#""event":"stage_finished","stage":"start""#), "{said}");
}

/// Data that can be made again takes no room that a result needs: of four batches of scores one fits
/// (656 KiB), the others give warnings, and that one is deleted for the student (153 KiB).
#[test]
fn scores_give_way_to_a_result_where_the_disk_is_full() {
    let bench = Bench::new();
    bench.write(
        "scored.mopd",
        r#"use std.opd.mopd
experiment "scored" { seed = 1 }
domain long { prompts = "long.jsonl", reward = exact_match }
model base  = llama { layers = 1, width = 32, heads = 2, context = 64, tokenizer = bytes }
model large = llama { layers = 14, width = 256, heads = 4, context = 64, tokenizer = bytes }
teacher one = large { origin = foreign }
route { else -> one }
model student = distill(base) {
  objective = mopd(clip_at: 5)
  rollout   = data(answer)
  batch     = 16
  steps     = 6
  lr        = 1e-3
}
"#,
    );
    let row =
        |row: u32| format!("{{\"prompt\": \"row {row:02}=\", \"answer\": \"{}\"}}\n", "abcdefgh".repeat(5));
    bench.write("long.jsonl", &(0..64).map(row).collect::<String>());
    fs::create_dir(bench.path(".mopd")).expect("a folder");
    let tried = script(
        &bench,
        "mount -t tmpfs -o size=120m tmpfs .mopd
        mopd run scored.mopd --out expected
        mopd cache list
        echo --
        for entry in .mopd/store/*; do
            case $entry in *.scores) rm -r $entry;; esac
            if grep -qs student $entry/checksums.json; then rm -r $entry; fi
        done
        head -c 120m /dev/zero > .mopd/filling || true
        truncate -s -780K .mopd/filling
        mopd run scored.mopd --out out 2>&1
        echo --
        mopd cache verify 2>&1
        mopd cache list",
    );
    let Some(tried) = tried else { return };
    assert!(tried.status.success(), "{}", text(&tried));
    let parts = parts(&tried);
    assert_says(&parts[0], &["scores of large for student, seed 1", "MiB"]);
    assert_says(
        &parts[1],
        &["warning: the scores of large for student, seed 1 cannot be stored", "the disk is full"],
    );
    assert!(
        parts[2].contains(" 0 damaged") && !parts[2].contains("scores of") && !parts[2].contains("cut off"),
        "{}",
        parts[2]
    );
    assert!(bench.student("out") == bench.student("expected"));
}

#[test]
fn a_store_that_can_only_be_read_is_named_before_anything_is_read() {
    let bench = bench();
    bench.tables("first", &[]);
    let before = walk(&bench.path(".mopd"));
    let tried = script(
        &bench,
        "mount --bind .mopd .mopd; mount -o remount,bind,ro .mopd
        mopd run tiny.mopd --out second && exit 9
        echo --
        mopd cache verify 2>&1
        mopd cache list
        echo --
        mopd cache prune --older-than 0s 2>&1 && exit 9
        echo --
        mopd report first
        mopd sample first/models/student-seed1 --prompt copy: -n 1 --max-tokens 2
        echo --",
    );
    let Some(tried) = tried else { return };
    assert!(tried.status.success(), "{}", text(&tried));
    let parts = parts(&tried);
    let why = "the file system is read-only";
    assert_says(
        &text(&tried),
        &["error[storage]: cannot write .mopd/store: ", why, "run in a folder that you can write to"],
    );
    assert!(parts[1].contains(" 0 damaged") && parts[1].contains("student, seed 1"), "{}", parts[1]);
    assert_says(&parts[2], &[why]);
    assert!(bench.path("first/report.html").is_file());
    assert_eq!(walk(&bench.path(".mopd")), before);
}

/// A result that is computed again replaces the stored one when it is complete, and not if that fails.
#[test]
fn a_result_that_cannot_be_computed_again_stays() {
    let bench = bench();
    bench.tables("out", &[]);
    let mut command = Command::new("sh");
    // Fewer bytes than a model's file has.
    let run = "ulimit -f 200; exec \"$MOPD\" run tiny.mopd --predict never --out other --from student";
    command.args(["-c", run]);
    command.env("MOPD", mopd_tests::mopd()).current_dir(bench.folder.path()).stdin(Stdio::null());
    let failed = command.output().expect("sh starts");
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    assert_says(&text(&failed), &["error[storage]: cannot write .mopd/store/", "the limit of file sizes"]);
    let again = bench.run(&["--out", "out", "--format", "json"]);
    assert_says(&text(&again), &[r#""event":"stage_kept","stage":"student""#]);
    let left = walk(&bench.path(".mopd/store"));
    assert!(!left.iter().any(|path| path.to_string_lossy().contains(".new")), "{left:?}");
}

/// On another file system a model is a copy, which is not made again where it is equal.
#[test]
fn a_copied_model_is_left_alone_by_a_rerun() {
    let bench = bench();
    fs::create_dir(bench.path("out")).expect("a folder");
    let tried = script(
        &bench,
        "mount -t tmpfs -o size=64m tmpfs out
        mopd run tiny.mopd --out out/run --predict never
        echo --
        stat -c '%i %n' out/run/models/*/*
        echo --
        mopd run tiny.mopd --out out/run --predict never
        echo --
        stat -c '%i %n' out/run/models/*/*
        echo --
        truncate -s -1 out/run/models/student-seed1/model.safetensors
        mopd run tiny.mopd --out out/run --predict never
        stored=$(dirname $(grep -l 'student, seed 1' .mopd/store/*/checksums.json))
        cmp out/run/models/student-seed1/model.safetensors $stored/model.safetensors",
    );
    let Some(tried) = tried else { return };
    assert!(tried.status.success(), "{}", text(&tried));
    let parts = parts(&tried);
    assert!(parts[1].contains("model.safetensors") && parts[1] == parts[3], "{} {}", parts[1], parts[3]);
}

/// Copies need space on their own disk, which is looked at before anything is trained, also by a dry run. A
/// model that is there already needs none.
#[test]
fn a_disk_of_results_that_is_too_small_is_named_before_a_stage_begins() {
    let bench = bench();
    fs::create_dir(bench.path("out")).expect("a folder");
    let tried = script(
        &bench,
        "mount -t tmpfs -o size=100k tmpfs out
        mopd run tiny.mopd --out out/run --predict never --dry-run 2>&1 && exit 9
        echo --
        mopd run tiny.mopd --out out/run --predict never --format json 2>&1 && exit 9
        echo --
        mount -o remount,size=1m out
        mopd run tiny.mopd --out out/run --predict never 2>&1 || true
        echo --
        mount -o remount,size=64m out
        mopd run tiny.mopd --out out/run --predict never 2>&1
        free=$(df -k --output=avail out | tail -1)
        head -c $((free - 60))k /dev/zero > out/filling
        echo --
        mopd run tiny.mopd --out out/run --predict never --dry-run 2>&1",
    );
    let Some(tried) = tried else { return };
    assert!(tried.status.success(), "{}", text(&tried));
    let parts = parts(&tried);
    let refusal = ["error[storage]: the disk has no space for the model of `", "are free for out/run"];
    for part in &parts[..2] {
        let plain = part.replace(r#""kind":"storage","message":""#, "error[storage]: ");
        assert_says(&plain, &[refusal[0], refusal[1], "name another folder with `--out`"]);
        assert!(!part.contains("stage_started"), "{part}");
    }
    assert_says(&parts[2], &["warning: the disk of out/run may become full", "of models; finished stages"]);
    assert!(!parts[3].contains("warning: the disk"), "{}", parts[3]);
    assert!(parts[4].contains("results in out/run"), "{}", parts[4]);
}

/// If results can't be written, those of an earlier run in the folder stay complete and unchanged.
#[test]
fn results_that_cannot_be_written_leave_those_of_before() {
    let bench = bench();
    bench.tables("out", &[]);
    let all = |bench: &Bench| {
        let files = ["plan.json", "source.mopd", "results.json", "metrics.parquet", "rewards.parquet"];
        files.map(|file| fs::read(bench.path("out").join(file)).expect("a result"))
    };
    let before = all(&bench);
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 7");
    let tried = script(
        &bench,
        "mount --bind out out; mount -o remount,bind,ro out
        mopd run tiny.mopd --out out && exit 9
        umount out
        cp -r out copy
        mount -t tmpfs -o size=1m tmpfs out
        cp -r copy/plan.json copy/source.mopd copy/results.json copy/metrics.parquet copy/rewards.parquet out
        head -c 2m /dev/zero > out/filling || true
        mopd run tiny.mopd --out out && exit 9
        cp -r out full",
    );
    let Some(tried) = tried else { return };
    assert!(tried.status.success(), "{}", text(&tried));
    assert_says(
        &text(&tried),
        &[
            "can't write out/.lock: the file system is read-only",
            "`--out DIR` sets another folder for results",
            "can't write out/source.mopd: the disk is full",
        ],
    );
    assert!(all(&bench) == before);
    for file in ["plan.json", "source.mopd", "results.json"] {
        assert!(
            fs::read(bench.path("full").join(file)).expect("a result")
                == fs::read(bench.path("out").join(file)).expect("it")
        );
    }
}

/// `mopd cache prune` must work on a full disk.
#[test]
fn a_full_store_can_be_pruned() {
    let bench = bench();
    bench.tables("out", &[]);
    fs::remove_dir_all(bench.path("out")).expect("removable");
    fs::rename(bench.path(".mopd"), bench.path("kept")).expect("renamed");
    fs::create_dir(bench.path(".mopd")).expect("a folder");
    let tried = script(
        &bench,
        "mount -t tmpfs -o size=8m tmpfs .mopd; cp -r kept/. .mopd
        head -c 20m /dev/zero > .mopd/filling || true
        mopd cache prune --keep-under 0 2>&1
        mopd cache list 2>&1",
    );
    let Some(tried) = tried else { return };
    assert!(tried.status.success(), "{}", text(&tried));
    assert_says(&text(&tried), &["the store is empty"]);
}

/// By default the system kills a program that exceeds the limit on file sizes; ours reports what it could not
/// write.
#[test]
fn a_limit_for_files_is_told_as_a_full_disk_is() {
    let bench = bench();
    let limited = |kibibytes: u32| {
        let script = format!("ulimit -f {kibibytes}; \"$MOPD\" run tiny.mopd --predict never");
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("MOPD", mopd_tests::mopd());
        command.current_dir(bench.folder.path()).stdin(Stdio::null()).output().expect("bash starts")
    };
    // With 4 KiB the plan is too large, with 100 KiB the models are.
    for kibibytes in [4, 100] {
        let output = limited(kibibytes);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{}", text(&output));
        assert_says(&text(&output), &["the file would exceed the limit of file sizes"]);
        if kibibytes == 100 {
            let said = ["error[storage]: cannot write", "model.safetensors", "raise the limit of file sizes"];
            assert_says(&text(&output), &said);
        }
    }
    bench.tables("out", &[]);
}
