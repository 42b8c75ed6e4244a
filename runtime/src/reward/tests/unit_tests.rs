//! Tests of rewards that run completions as programs, in real processes.

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
    verifier.judge(&inputs, &uncancellable()).unwrap()
}

fn passes(tests: &str, completion: &str) -> bool {
    let verdict = verdicts(&of(60.0), tests, &[completion]).remove(0);
    assert!(verdict.reward == 0.0 || verdict.reward == 1.0);
    verdict.reward == 1.0
}

const TESTS: &str = "assert add(1, 2) == 3\nassert add('a', 'b') == 'ab'\n";

#[test]
fn code_that_passes_the_tests_is_right() {
    let add = "def add(a, b):\n    return a + b\n";
    let completions = [
        add.to_owned(),
        format!("Here it is:\n```python\n{add}```\nIt adds."),
        format!("First:\n```python\nadd = None\n```\nBetter:\n```py\n{add}\n```"),
        format!("```python\n{add}"),
        format!("```python\r\n{}```", add.replace('\n', "\r\n")),
        // Completions that are wrong.
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

/// A completion that ends its process, or looks for what decides, has not passed: it runs in another process
/// than the tests, which is started before they are read.
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
        "import sys, os; f = sys._getframe(1).f_locals; open(f['end'], 'w').write(f['mark']); os._exit(0)",
        "open('../tests.py', 'w').write('')",
        "import os; os.kill(os.getppid(), 15)",
        // Completions that look for the tests, or for the way to the judge.
        "import gc, os\nfor found in gc.get_objects():\n    \
         if isinstance(found, dict) and 'tests' in found: \
         found.clear()\nos._exit(0)",
        "add = lambda a, b: eval(open('../tests.py').read().split('== ')[1 + isinstance(a, str)].split()[0])",
        "import os\nfor file in range(3, 20):\n    try: os.write(file, \
        b'\\x09\\0\\0\\0\\0\\0\\0\\0[\"ready\"]')\n    except OSError: pass",
        "add = exit",
        "import sys, types\nadd = types.ModuleType('unittest.__main__')",
        // Objects that are equal to anything.
        "class Equal:\n    __eq__ = lambda *args: True\nadd = lambda a, b: Equal()",
        "class Equal(str):\n    __eq__ = lambda *args: True\nadd = lambda a, b: Equal()",
        "class add(int):\n    __eq__ = lambda *args: True\n    __new__ = lambda *args: int.__new__(add)",
        // Changes of what tests use.
        "import unittest, sys, os\nunittest.main = sys.exit = os._exit = lambda *args: None\n\
         def add(a, b): \
        return 4",
        "AssertionError = None\ndef add(a, b): return 4",
        // Completions that redefine names of the harness.
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
    for completion in [
        "def add(a, b): return 4",
        "def add(a, b):\n    import sys\n    sys.exit(0)",
        "import unittest\nunittest.TestCase.assertEqual = lambda *args: None\ndef add(a, b): return 4",
        "import unittest\nunittest.main = lambda *args: None\ndef add(a, b): return 4",
        "class unittest:\n    main = TestCase = object\ndef add(a, b): return 4",
    ] {
        assert!(!passes(case, completion), "{completion}");
    }
    let each = "assert all(add(place, 1) == place + 1 for place in range(3))";
    assert!(passes(each, "def add(a, b): return a + b"));
    assert!(
        !passes(
            each,
            "all = lambda values: True\n\
     def add(a, b): return 4"
        ),
        "tests mean Python's `all`"
    );
}

/// Code and tests are in two processes, and most tests don't notice.
#[test]
fn tests_use_what_the_code_defines() {
    for (tests, completion) in [
        // Changed arguments, and results that are arguments.
        (
            "x = [[3], [1]]\ny = x[0]\nassert f(x) is y and x == [[1], [3, 4]]",
            "def f(x):\n    x.sort()\n    x[1].append(4)\n    return x[1]",
        ),
        (
            "d, s, b = {}, {1}, bytearray(b'a')\nf(d, s, b)\nassert (d, s, b) == ({1: [2]}, {1, 2}, b'ab')",
            "def f(d, s, b):\n    d.setdefault(1, []).append(2)\n    s.add(2)\n    b += b'b'",
        ),
        // Numbers of any size, and values of the standard library.
        (
            "assert f(2) == 10 ** 5000 and abs(f(0) - 1) < 1e-9 and f(-1) != f(-1)",
            "def f(n): return {2: 10 ** 5000, 0: 1 + 1e-12}.get(n, float('nan'))",
        ),
        (
            "import datetime, fractions\nday = datetime.date(2020, 1, 1)\n\
          assert f(day) == {day: fractions.Fraction(1, 3), 'k': range(2)} and g('aab') == {'a': 2, 'b': 1}",
            "from fractions import Fraction\nimport collections\ndef f(day): return {day: Fraction(1, 3), \
            'k': range(2)}\ng = collections.Counter",
        ),
        // Objects with methods, operators and attributes.
        (
            "s = Stack()\ns.push(1)\nassert len(s) == 1 and s.items == [1] and isinstance(s, Stack) and 1 \
            in s",
            "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): \
            self.items.append(x)\n    def __len__(self): return len(self.items)\n    def __iter__(self): \
            return iter(self.items)",
        ),
        (
            "assert V(1) + V(2) == V(3) != V(4) and V(1) * 2 == V(2) and str(V(1)) == 'V(1)'",
            "class V:\n    def __init__(self, a): self.a = a\n    \
             def __eq__(self, other): return self.a == \
            other.a\n    def __add__(self, other): return V(self.a + other.a)\n    def __mul__(self, by): \
            return V(self.a * by)\n    def __repr__(self): return f'V({self.a})'",
        ),
        (
            "assert f() == (1, 2) and f().x == 1 and Color(1) is Color.RED",
            "import collections, enum\nP = collections.namedtuple('P', 'x y')\ndef f(): return P(1, 2)\n\
          class Color(enum.Enum):\n    RED = 1",
        ),
        // Standard input and output that the tests replace.
        (
            "import contextlib, io, sys\nwritten = io.StringIO()\nsys.stdin = io.StringIO('4')\n\
             with contextlib.redirect_stdout(written): f()\nassert written.getvalue() == '8\\n'",
            "def f(): print(2 * int(input()))",
        ),
        // Generators, exceptions, functions and objects of the tests.
        ("assert list(f(3)) == [0, 1, 2] and next(f(1)) == 0", "def f(n): yield from range(n)"),
        (
            "try:\n    f()\nexcept Low as error:\n    assert str(error) == 'low' and error.by == 3\n\
             else:\n    \
            assert 0",
            "class Low(ValueError):\n    by = None\ndef f():\n    error = Low('low')\n    \
             error.by = 3\n    \
            raise error",
        ),
        ("assert f(lambda x: x + 1, [1, 2]) == [2, 3]", "def f(of, xs): return list(map(of, xs))"),
        (
            "class Node:\n    def __init__(self, value, next=None): self.value, self.next = value, \
            next\nnode, values = f(Node(1, Node(2))), []\nwhile node:\n    values.append(node.value)\n    \
            node = node.next\nassert values == [2, 1]",
            "def f(node, last=None):\n    while node: node.next, last, node = last, node, node.next\n    \
            return last",
        ),
        // Global variables and modules.
        (
            "f()\nf()\nassert count == 2 and math.isclose(root(2) ** 2, 2)",
            "import math\ncount, root = 0, math.sqrt\ndef f():\n    global count\n    count += 1",
        ),
    ] {
        assert!(passes(tests, completion), "{tests}");
    }
    // An object of the tests is no way into their process.
    for reach in
        ["of.__globals__.clear()", "of.__globals__['add'] = None", "setattr(of, '__code__', f.__code__)"]
    {
        let completion = format!("def f(of):\n    {reach}\n    return True");
        assert!(!passes("def inner(): pass\nassert f(inner)", &completion), "{reach}");
    }
}

/// A task may ask for a function with the name of one of Python's own.
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
    assert_eq!((verdict.reward, verdict.feedback.unwrap().as_str()), (0.0, "it did not end within 1 s"));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!passes("pass", "x = bytearray(8 << 30)"));
    assert!(passes("pass", "x = bytearray(64 << 20)"));
    assert!(!passes("pass", "f = open('large', 'wb')\nfor _ in range(300): f.write(bytes(1 << 20))"));
    // Output of any length is discarded.
    assert!(passes("pass", "for _ in range(200): print('x' * 1_000_000)"));
}

#[test]
fn solutions_run_in_empty_folders_and_their_children_are_ended() {
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
    let error = of(1.0).judge(&[input], &uncancellable()).unwrap_err();
    assert_eq!(error.to_string(), "the data has no text `tests` for the prompt \"add\"");
    let reward = plan::Reward::UnitTests { field: "tests".to_owned(), time_limit_seconds: 0.0 };
    let error = Verifier::new(&reward, Path::new(".")).err().unwrap();
    assert_eq!(error.to_string(), "the tests of a reward cannot work with a time limit of 0 s");
}
