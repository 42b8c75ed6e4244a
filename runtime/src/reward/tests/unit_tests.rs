//! Completions that are programs, run with tests in real processes.

use super::*;

fn of(limit: f64) -> Verifier {
    built_in(plan::Reward::UnitTests { field: "tests".to_owned(), time_limit_seconds: limit })
}

fn verdicts(verifier: &Verifier, tests: &str, completions: &[&str]) -> Vec<Judgement> {
    let record = record(json!({ "tests": tests }));
    let inputs: Vec<RewardInput> = completions
        .iter()
        .map(|completion| RewardInput { prompt: "p", completion, record: &record })
        .collect();
    verifier.judge(&inputs, &undisturbed()).unwrap()
}

fn passes(tests: &str, completion: &str) -> bool {
    let verdict = verdicts(&of(60.0), tests, &[completion]).remove(0);
    assert!(verdict.reward == 0.0 || verdict.reward == 1.0);
    verdict.reward == 1.0
}

const TESTS: &str = "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'\n";

#[test]
fn code_that_passes_the_tests_is_right() {
    assert_eq!(of(1.0).needed(), [Field::text("tests")]);
    let add = "def add(a, b):\n    return a + b\n";
    let completions = [
        add.to_owned(),
        format!("Here it is:\n```python\n{add}```\nIt adds."),
        format!("First:\n```python\nadd = None\n```\nBetter:\n```py\n{add}\n```"),
        format!("```python\n{add}"),
        format!("```python\r\n{}```", add.replace('\n', "\r\n")),
        // Wrong ones.
        "def add(a, b):\n    return a - b\n".to_owned(),
        format!("Here it is:\n{add}"),
        format!("```python\n{add}```\nNo:\n```python\nadd = None\n```"),
        format!("```json\n{add}```"),
        String::new(),
        "def add(".to_owned(),
    ];
    let texts: Vec<&str> = completions.iter().map(String::as_str).collect();
    let rewards: Vec<f64> = verdicts(&of(60.0), TESTS, &texts).into_iter().map(|said| said.reward).collect();
    assert_eq!(rewards, [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

/// Who ends the process has passed nothing.
#[test]
fn ways_around_the_tests_give_nothing() {
    for completion in [
        "import sys; sys.exit(0)",
        "quit()",
        "raise SystemExit",
        "import os; os._exit(0)",
        "def add(a, b):\n    import sys\n    sys.exit(0)",
        "def add(a, b):\n    exit()",
        "def add(a, b):\n    import os\n    os._exit(0)",
        "x = '''",
        "add = lambda a, b: a + b\nif False:\n",
        "import threading, os; threading.Timer(0.0, os._exit, [0]).start(); import time; time.sleep(10)",
        "open('../passed', 'w').write('x'); import os; os._exit(0)",
        // Names of the program that runs them.
        "def exec(*args): pass",
        "exec = print",
        "def compile(*args, **names): return 'pass'",
        "def globals(): return {'add': lambda a, b: a + b}",
        "def run(): pass\nimport os; os._exit = print",
        "import builtins; builtins.exec = print",
        "import builtins; builtins.compile = lambda *args, **names: 'pass'",
    ] {
        assert!(!passes(TESTS, completion), "{completion}");
    }
    let case = "import unittest
class Case(unittest.TestCase):
    def test(self):
        self.assertEqual(add(1, 2), 3)
unittest.main()
";
    assert!(passes(case, "def add(a, b): return a + b"));
    for completion in ["def add(a, b): return 4", "def add(a, b):\n    import sys\n    sys.exit(0)"] {
        assert!(!passes(case, completion), "{completion}");
    }
}

/// A task may ask for a function that is called as one of Python's own is.
#[test]
fn solutions_may_have_names_of_python() {
    for (tests, completion) in [
        ("assert compile('a') == 'aa'", "def compile(s): return s + s"),
        ("assert open(2) == 4", "def open(x): return x * x"),
        ("assert exec(2) == 4", "exec = lambda x: x * x"),
        ("assert isinstance(2) == 4", "def isinstance(x): return x * x"),
        ("assert globals(2) == 4", "def globals(x): return x * x"),
        ("assert type(2) == len(4)", "type, len = (lambda x: x), (lambda x: x - 2)"),
        ("assert run(2) == 4", "def run(x): return x * x"),
        ("assert open(2) == 4", "import builtins\nbuiltins.open = lambda x: x * x"),
    ] {
        assert!(passes(tests, completion), "{completion}");
    }
    assert!(passes("assert 'run' not in globals()", ""));
}

#[test]
fn feedback_is_the_end_of_what_was_said() {
    let said = |completion: &str| verdicts(&of(60.0), TESTS, &[completion]).remove(0).feedback.unwrap();
    assert_eq!(said("def add(a, b): return a + b"), "correct");
    let wrong = said("def add(a, b): return 4");
    let start = "Traceback (most recent call last):\n  File \"tests.py\", line 1, in <module>\n    assert add(1, 2) == 3\n";
    assert!(wrong.starts_with(start) && wrong.ends_with("\nAssertionError"), "{wrong}");
    assert_eq!(wrong, said("def add(a, b): return 4"), "nothing of it is of the folder");
    assert_eq!(said("import os; os._exit(0)"), "it ended before the last line of the tests");
    assert!(said("raise ValueError('x' * 100_000)").chars().count() <= 500);
    // Sets of texts have the same order in each process.
    let ordered = || said("raise ValueError(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))");
    assert_eq!(ordered(), ordered());
}

#[test]
fn time_memory_and_files_have_limits() {
    let started = Instant::now();
    let verdict = verdicts(&of(1.0), "pass", &["while True: pass"]).remove(0);
    assert_eq!((verdict.reward, verdict.feedback.unwrap().as_str()), (0.0, "no end within 1 s"));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!passes("pass", "x = bytearray(8 << 30)"));
    assert!(passes("pass", "x = bytearray(64 << 20)"));
    assert!(!passes("pass", "f = open('large', 'wb')\nfor _ in range(300): f.write(bytes(1 << 20))"));
    // What it prints goes nowhere, however much that is.
    assert!(passes("pass", "for _ in range(200): print('x' * 1_000_000)"));
}

#[test]
fn each_runs_in_an_empty_folder_of_its_own_and_ends_with_all_that_it_started() {
    let look = "import os\nassert os.listdir('.') == [] and 'MOPD_PROGRAM' in os.environ\n";
    let write = format!("{look}assert 'CARGO_MANIFEST_DIR' not in os.environ\nopen('mine', 'w').write('x')");
    assert_eq!(
        verdicts(&of(60.0), "pass", &[write.as_str(); 4]).iter().map(|said| said.reward).sum::<f64>(),
        4.0
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("child");
    let start = format!(
        "import subprocess\nchild = subprocess.Popen(['sleep', '1000'], start_new_session=True)\nopen({:?}, \
         'w').write(str(child.pid))",
        path.display().to_string()
    );
    assert!(passes("pass", &start));
    assert!(vanishes(&Path::new("/proc").join(fs::read_to_string(path).unwrap())));
}

#[test]
fn a_job_that_is_to_stop_waits_for_no_tests() {
    let control = Control::new(std::io::sink());
    let record = record(json!({ "tests": "while True: pass" }));
    let input = RewardInput { prompt: "p", completion: "", record: &record };
    let verifier = of(1000.0);
    let outcome = std::thread::scope(|scope| {
        let judging = scope.spawn(|| verifier.judge(&[input; 8], &control));
        std::thread::sleep(Duration::from_millis(300));
        control.interrupt();
        judging.join().unwrap()
    });
    assert_eq!(outcome, Err(RewardError::Stopped));
}

#[test]
fn data_without_tests_and_no_time_are_errors() {
    let record = record(json!({ "tests": ["assert True"] }));
    let input = RewardInput { prompt: "add", completion: "", record: &record };
    let error = of(1.0).judge(&[input], &undisturbed()).unwrap_err();
    assert_eq!(error.to_string(), "the data has no text `tests` for the prompt \"add\"");
    let reward = plan::Reward::UnitTests { field: "tests".to_owned(), time_limit_seconds: 0.0 };
    let error = Verifier::new(&reward, Path::new(".")).err().unwrap();
    assert_eq!(error.to_string(), "the tests of a reward cannot work with a time limit of 0 s");
}
