//! Tests of reward commands, as real processes.

use super::*;

/// Feedback that a command gives with its number, and that a built-in rule gives.
#[test]
fn verdicts_carry_feedback() {
    let fields = record(json!({ "answer": "abc" }));
    let answers = ["abc", "x"].map(|completion| RewardInput { prompt: "p", completion, record: &fields });
    let said = |verifier: &Verifier| -> Vec<Option<String>> {
        let verdicts = verifier.judge(&answers, &uncancellable()).unwrap();
        verdicts.into_iter().map(|verdict| verdict.feedback).collect()
    };
    let rule = built_in(plan::Reward::ExactMatch { field: "answer".to_owned() });
    assert_eq!(said(&rule), ["correct", "wrong"].map(|word| Some(word.to_owned())));
    let program = "for request in requests():
    words = {'feedback': 'too short'} if request['completion'] == 'x' else {}
    print(json.dumps({'id': request['id'], 'reward': 0, **words}), flush=True)
";
    assert_eq!(said(&Program::new(program, 60.0, 8).verifier), [None, Some("too short".to_owned())]);
}

/// A reply that is neither a reward nor an error is reported.
#[test]
fn replies_that_are_half_wrong_are_quoted() {
    for (said, why) in [
        (
            "'error': 5, 'reward': 0.5",
            "an `error` that is not a text; the line was \"{\\\"id\\\": 0, \\\"error\\\": 5, ",
        ),
        ("'error': {'code': 1}, 'reward': 0.5", "an `error` that is not a text; the line was "),
        ("'reward': 0.5, 'feedback': 5", "a `feedback` that is not a text; the line was "),
        ("'reward': 0.5, 'feedback': ['a']", "a `feedback` that is not a text; the line was "),
    ] {
        let text =
            format!("for r in requests():\n    print(json.dumps({{'id': r['id'], {said}}}), flush=True)\n");
        let error = Program::new(&text, 60.0, 4).judge(1).unwrap_err().to_string();
        assert!(error.contains(&format!("returned invalid output: {why}")), "{error}");
    }
    let text = "for r in requests():
    print(json.dumps({'id': r['id'], 'reward': 0.5, 'error': None, 'feedback': None}), flush=True)
";
    assert_eq!(Program::new(text, 60.0, 4).judge(1).unwrap(), [0.5]);
}

#[test]
fn a_command_sees_the_whole_request_and_runs_once() {
    let text = "for r in requests():
    assert sorted(r) == ['completion', 'id', 'left', 'prompt', 'record'], r
    assert r['left'] == [2, 1, 0, 3, 2, 1, 0, 3, 2, 1, 0, 1, 0][r['id']], r
    assert r['record'] == {'prompt': 'p', 'answer': 3}, r
    assert r['prompt'][1:] == r['completion'][1:], r
    reply(r['id'], int(r['prompt'][1:]) / 10)
";
    let program = Program::new(text, 60.0, 4);
    assert_eq!(program.starts(), 0, "no process before it is needed");
    assert_eq!(program.judge(3).unwrap(), [0.0, 0.1, 0.2]);
    assert_eq!(program.judge(10).unwrap(), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]);
    assert_eq!(program.judge(0).unwrap(), [] as [f64; 0]);
    assert_eq!(program.starts(), 1);
    assert_eq!(program.verifier.take_warnings(), [] as [&str; 0]);
}

#[test]
fn answers_may_come_in_any_order_and_with_more_fields() {
    let text = "for r in requests():
    first, second, third = r, json.loads(sys.stdin.readline()), json.loads(sys.stdin.readline())
    print(json.dumps({'reward': 1, 'note': 'last', 'id': third['id']}), flush=True)
    reply(first['id'], 0)
    reply(second['id'], 0.5)
";
    let program = Program::new(text, 60.0, 3);
    assert_eq!(program.judge(6).unwrap(), [0.0, 0.5, 1.0, 0.0, 0.5, 1.0]);
}

#[test]
fn a_slow_command_within_its_limit_is_fine() {
    let text = "for r in requests():
    time.sleep(0.3)
    reply(r['id'], 1)
";
    // The time limit is per batch: three batches of one may take longer in total.
    let program = Program::new(text, 30.0, 1);
    assert_eq!(program.judge(3).unwrap(), [1.0; 3]);
    assert_eq!(program.verifier.take_warnings(), [] as [&str; 0]);
}

#[test]
fn a_huge_batch_does_not_fill_the_pipes() {
    // Each answer is longer than its request, is written at once, and comes with as much on standard error:
    // in both directions many times a pipe's buffer.
    let text = "for r in requests():
    print('y' * 2000, file=sys.stderr)
    print(json.dumps({'id': r['id'], 'reward': 0.25, 'note': 'x' * 2000}), flush=True)
";
    let program = Program::new(text, 300.0, 5000);
    assert_eq!(program.judge(5000).unwrap(), vec![0.25; 5000]);
}

#[test]
fn a_command_that_reads_all_before_it_answers_gets_all() {
    let text = "batch = []
for r in requests():
    batch.append(r)
    if len(batch) == 5000:
        for r in batch: reply(r['id'], 0.75)
";
    let program = Program::new(text, 300.0, 5000);
    assert_eq!(program.judge(5000).unwrap(), vec![0.75; 5000]);
}

#[test]
fn a_crash_is_repaired_once_and_reported() {
    let text = "for r in requests():
    if starts == 1 and r['prompt'] == 'p2': sys.exit(3)
    reply(r['id'], 1)
";
    let program = Program::new(text, 60.0, 4);
    assert_eq!(program.judge(6).unwrap(), [1.0; 6]);
    assert_eq!(program.starts(), 2);
    let warnings = program.verifier.take_warnings();
    assert_eq!(warnings, ["the reward command `python3 judge.py` ended (exit status 3) and was restarted"]);
    assert_eq!(program.verifier.take_warnings(), [] as [&str; 0]);
}

#[test]
fn a_second_crash_is_an_error_with_the_last_words() {
    let text = "for n in range(100): print('line', n, file=sys.stderr)
for r in requests():
    if r['prompt'] == 'p2': raise ValueError('cannot judge this')
    reply(r['id'], 1)
";
    let program = Program::new(text, 60.0, 4);
    let error = program.judge(6).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the reward command `python3 judge.py` ended (exit status 1) before it judged the prompt \"p2\"; \
         restarting it did not help"
    );
    let help = error.help();
    assert!(help.ends_with("\nValueError: cannot judge this"), "{help}");
    assert!(!help.contains("line 90\n"), "only the last lines: {help}");
    assert_eq!(program.starts(), 2);
}

#[test]
fn a_signal_is_told_from_an_exit() {
    let program = Program::new("os.kill(os.getpid(), 11)", 60.0, 4);
    let message = program.judge(1).unwrap_err().to_string();
    // Some shells stay between us and the program, and report a signal as 128 + 11.
    assert!(message.contains("(killed by signal 11)") || message.contains("(exit status 139)"), "{message}");
}

#[test]
fn half_a_line_before_a_crash_is_a_crash() {
    let text = "for r in requests():
    print('{\"id\": 0, \"rew', end='', flush=True)
    sys.exit(4)
";
    let message = Program::new(text, 60.0, 1).judge(1).unwrap_err().to_string();
    assert!(message.contains("ended (exit status 4)"), "{message}");
}

#[test]
fn an_unknown_program_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let command = "no-such-judge --fast".to_owned();
    let reward = plan::Reward::Command {
        command,
        time_limit_seconds: 60.0,
        batch: 1,
        depends: Vec::new(),
        range: Default::default(),
    };
    let fields = record(json!({}));
    let answers = [RewardInput { prompt: "p0", completion: "c0", record: &fields }];
    let error = Verifier::new(&reward, folder.path()).unwrap().judge(&answers, &uncancellable()).unwrap_err();
    assert!(error.to_string().contains("`no-such-judge --fast` ended (exit status 127)"), "{error}");
    assert!(error.help().contains("no-such-judge"), "{}", error.help());

    let elsewhere = folder.path().join("gone");
    let error = Verifier::new(&reward, &elsewhere).unwrap().judge(&answers, &uncancellable()).unwrap_err();
    let wanted = format!(
        "the reward command `no-such-judge --fast` could not be started in {}: No such",
        elsewhere.display()
    );
    assert!(error.to_string().starts_with(&wanted), "{error}");
}

#[test]
fn a_hang_is_killed_with_its_children_and_named() {
    let text = "import subprocess
child = subprocess.Popen(['sleep', '1000'])
open('child', 'w').write(str(child.pid))
for r in requests():
    if r['prompt'] == 'p1':
        print('thinking', file=sys.stderr, flush=True)
        time.sleep(1000)
    reply(r['id'], 1)
";
    let program = Program::new(text, 5.0, 2);
    let error = program.judge(3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the reward command `python3 judge.py` returned 1 of 2 rewards within its time limit of 5 s; \
         restarting it did not help; the first prompt without a reward is \"p1\""
    );
    assert!(error.help().ends_with("thinking"), "{}", error.help());
    assert_eq!(
        program.verifier.take_warnings(),
        ["the reward command `python3 judge.py` took longer than its limit of 5 s and was restarted"]
    );
    assert_eq!(program.starts(), 2);
    assert!(vanishes(&program.process("pid")));
    assert!(vanishes(&program.process("child")), "children of a hung command die with it");
}

/// A judge may take longer than the ten seconds that `docker stop` waits.
#[test]
fn a_job_that_is_to_stop_waits_for_no_judge() {
    let program = Program::new("for r in requests(): time.sleep(1000)\n", 1000.0, 2);
    let control = Control::new(std::io::sink());
    let outcome = std::thread::scope(|scope| {
        let judging = scope.spawn(|| program.judge_until(3, &control));
        while program.starts() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        control.interrupt();
        judging.join().unwrap()
    });
    assert_eq!(outcome, Err(RewardError::Stopped));
    assert!(vanishes(&program.process("pid")));
    assert!(matches!(crate::failure::Error::from(RewardError::Stopped), crate::failure::Error::Interrupted));
}

/// Processes in a session of their own are killed too, whether their parent is alive or not.
#[test]
fn children_that_left_the_group_die_with_the_command() {
    let text = "import subprocess
child = subprocess.Popen(['sleep', '1000'], start_new_session=True)
open('child', 'w').write(str(child.pid))
orphan = subprocess.run(['sh', '-c', 'setsid sleep 1000 >/dev/null 2>&1 & echo $!'], capture_output=True, \
                text=True).stdout
open('orphan', 'w').write(orphan.strip())
for r in requests(): reply(r['id'], 1)
";
    let program = Program::new(text, 60.0, 2);
    assert_eq!(program.judge(2).unwrap(), [1.0; 2]);
    let left = [program.process("child"), program.process("orphan")];
    assert!(left.iter().all(|process| process.join("stat").exists()));
    drop(program.verifier);
    assert!(left.iter().all(|process| vanishes(process)));
}

#[test]
fn a_hang_that_a_restart_cures_is_a_warning() {
    let text = "for r in requests():
    if starts == 1: time.sleep(1000)
    reply(r['id'], 0.5)
";
    let program = Program::new(text, 5.0, 2);
    assert_eq!(program.judge(2).unwrap(), [0.5; 2]);
    assert_eq!(program.verifier.take_warnings().len(), 1);
}

/// Otherwise restarts would fill the log of a long run.
#[test]
fn restarts_are_counted_and_said_ever_more_rarely() {
    let text = "for asked, r in enumerate(requests()):
    if asked > 1: sys.exit(3)
    reply(r['id'], 0.5)
";
    let program = Program::new(text, 60.0, 2);
    for _ in 0..8 {
        assert_eq!(program.judge(2).unwrap(), [0.5; 2]);
    }
    let said = "the reward command `python3 judge.py` ended (exit status 3) and was restarted";
    let of = |times: u32| format!("{said} ({times} times so far)");
    assert_eq!(program.verifier.take_warnings(), [said.to_owned(), of(2), of(4)]);
}

#[test]
fn a_command_that_never_reads_is_a_hang() {
    // More than a pipe's buffer, so that writing blocks.
    let program = Program::new("time.sleep(1000)", 1.0, 10_000);
    let message = program.judge(10_000).unwrap_err().to_string();
    assert!(message.contains("returned 0 of 10000 rewards within its time limit of 1 s"), "{message}");
}

#[test]
fn invalid_output_is_quoted() {
    let cases = [
        ("print('Loading the model')", "not JSON", "Loading the model"),
        ("print('[1, 2]')", "no `id` that is a whole number", "[1, 2]"),
        ("print('{\"reward\": 1}')", "no `id` that is a whole number", "{\\\"reward\\\": 1}"),
        ("reply(r['id'] + 7, 1)", "an `id` that no request has", "{\\\"id\\\": 7, \\\"reward\\\": 1}"),
        (
            "reply(r['id'], 1); reply(r['id'], 1)",
            "a second reward for one `id`",
            "{\\\"id\\\": 0, \\\"reward\\\": 1}",
        ),
        ("print(json.dumps({'id': r['id']}))", "no `reward`", "{\\\"id\\\": 0}"),
        (
            "reply(r['id'], 1.5)",
            "a `reward` that is not a number from 0 to 1",
            "{\\\"id\\\": 0, \\\"reward\\\": 1.5}",
        ),
        (
            "reply(r['id'], -0.1)",
            "a `reward` that is not a number from 0 to 1",
            "{\\\"id\\\": 0, \\\"reward\\\": -0.1}",
        ),
        (
            "reply(r['id'], 'yes')",
            "a `reward` that is not a number from 0 to 1",
            "{\\\"id\\\": 0, \\\"reward\\\": \\\"yes\\\"}",
        ),
        (
            "reply(r['id'], True)",
            "a `reward` that is not a number from 0 to 1",
            "{\\\"id\\\": 0, \\\"reward\\\": true}",
        ),
        ("reply(r['id'], float('nan'))", "not JSON", "{\\\"id\\\": 0, \\\"reward\\\": NaN}"),
    ];
    for (statement, why, line) in cases {
        let program =
            Program::new(&format!("for r in requests():\n    {statement}; sys.stdout.flush()\n"), 60.0, 2);
        let error = program.judge(2).unwrap_err();
        let wanted = format!(
            "the reward command `python3 judge.py` returned invalid output: {why}; the line was \
                \"{line}\""
        );
        assert_eq!(error.to_string(), wanted, "{statement}");
        assert!(error.help().contains("messages belong on standard error"), "{}", error.help());
        assert_eq!(program.starts(), 1, "invalid output is not worth a restart");
    }
}

#[test]
fn a_range_of_any_number_is_one_that_is_asked_for() {
    let judge = |range| {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{PRELUDE}for r in requests(): reply(r['id'], -3.5 if r['id'] else 12)\n");
        fs::write(folder.path().join("judge.py"), text).unwrap();
        let command = "python3 judge.py".to_owned();
        let reward =
            plan::Reward::Command { command, time_limit_seconds: 60.0, batch: 8, depends: Vec::new(), range };
        let verifier = Verifier::new(&reward, folder.path()).unwrap();
        Program { folder, verifier }.judge(2)
    };
    assert_eq!(judge(plan::RewardRange::Any).unwrap(), [12.0, -3.5]);
    let error = judge(plan::RewardRange::Unit).unwrap_err();
    assert!(error.to_string().contains("a `reward` that is not a number from 0 to 1"), "{error}");
    assert!(error.help().contains("`range: any`"), "{}", error.help());
    // With `range: any` it must still be a number.
    assert!(verdict(&json!({ "reward": "high" }), plan::RewardRange::Any).is_err());
    assert!(verdict(&json!({ "reward": null }), plan::RewardRange::Any).is_err());
}

#[test]
fn an_answer_to_an_earlier_batch_is_not_taken_for_this_one() {
    let text = "for r in requests():
    reply(r['id'], 1)
    if r['id'] == 1: reply(0, 0)
";
    let program = Program::new(text, 60.0, 1);
    let message = program.judge(3).unwrap_err().to_string();
    assert!(
        message.contains("an `id` that no request has; the line was \"{\\\"id\\\": 0, \\\"reward\\\": 0}\""),
        "{message}"
    );
}

#[test]
fn endless_output_without_a_line_end_is_invalid() {
    let text = "for r in requests():
    while True: sys.stdout.write('z' * 65536)
";
    let message = Program::new(text, 60.0, 1).judge(1).unwrap_err().to_string();
    assert!(message.contains("returned invalid output: not JSON; the line was \"zzz"), "{message}");
    assert!(message.len() < 300, "{}", message.len());
    // No more of an overlong line is read than that.
    let text = "for r in requests():
    written = 0
    while written < 1 << 30:
        written += os.write(1, b'z' * 65536)
        with open('written', 'w') as count: count.write(str(written))
";
    let program = Program::new(text, 60.0, 1);
    assert!(program.judge(1).is_err());
    let written: u64 = fs::read_to_string(program.folder.path().join("written")).unwrap().parse().unwrap();
    assert!(written < 4 << 20, "{written}");
}

#[test]
fn dropping_the_verifier_ends_the_process() {
    let text = "for r in requests(): reply(r['id'], 1)
open('goodbye', 'w').write('x')
";
    let program = Program::new(text, 60.0, 1);
    program.judge(1).unwrap();
    let process = program.process("pid");
    assert!(process.exists());
    let Program { folder, verifier } = program;
    drop(verifier);
    assert!(folder.path().join("goodbye").exists(), "its input was closed and it was left to end by itself");
    assert!(vanishes(&process));
    // A process that does not end by itself is killed, with its children.
    let text = "import subprocess
child = subprocess.Popen(['sleep', '1000'])
open('child', 'w').write(str(child.pid))
for r in requests(): reply(r['id'], 1)
time.sleep(1000)
";
    let program = Program::new(text, 60.0, 1);
    program.judge(1).unwrap();
    let (process, child) = (program.process("pid"), program.process("child"));
    let Program { folder: _folder, verifier } = program;
    drop(verifier);
    assert!(vanishes(&process));
    assert!(vanishes(&child));
}

#[test]
fn threads_judge_side_by_side() {
    // Each process answers only once two have started, so one process behind a lock would run into its limit.
    let text = "for r in requests():
    while len(open('starts').read()) < 2: time.sleep(0.01)
    reply(r['id'], int(r['prompt'][1:]) / 10)
";
    let program = Program::new(text, 60.0, 3);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| program.judge(7).unwrap())).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        }
    });
    // Both processes are kept.
    program.judge(2).unwrap();
    assert_eq!(program.starts(), 2);
}

#[test]
fn impossible_settings_are_refused() {
    for (limit, batch, wanted) in [
        (0.0, 1, "a time limit of 0 s"),
        (-1.0, 1, "a time limit of -1 s"),
        (f64::NAN, 1, "a time limit of NaN s"),
        (1.0, 0, "batches of 0"),
    ] {
        let reward = plan::Reward::Command {
            command: "cat".to_owned(),
            time_limit_seconds: limit,
            batch,
            depends: Vec::new(),
            range: Default::default(),
        };
        let error = Verifier::new(&reward, Path::new(".")).err().unwrap();
        assert_eq!(error.to_string(), format!("the reward command `cat` cannot work with {wanted}"));
    }
}
