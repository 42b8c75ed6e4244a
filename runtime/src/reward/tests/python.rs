//! Tests of Python functions as verifiers: lists in, numbers out, and messages about failures.

use super::*;

/// A folder with `judge.py`.
struct Function {
    folder: TempDir,
    verifier: Verifier,
}

impl Function {
    fn new(text: &str, limit: f64, batch: u32) -> Function {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("judge")).unwrap();
        fs::write(folder.path().join("judge/verify.py"), text).unwrap();
        let reward = plan::Reward::Python {
            file: "judge/verify.py".to_owned(),
            function: "score".to_owned(),
            time_limit_seconds: limit,
            batch,
            depends: Vec::new(),
            range: Default::default(),
        };
        let verifier = Verifier::new(&reward, folder.path()).unwrap();
        Function { folder, verifier }
    }

    fn judge(&self, completions: &[&str]) -> Result<Vec<Judgement>, RewardError> {
        let record = record(json!({ "prompt": "p", "answer": "ab" }));
        let prompts: Vec<String> = (0..completions.len()).map(|index| format!("p{index}")).collect();
        let answers: Vec<_> = prompts
            .iter()
            .zip(completions)
            .map(|(prompt, completion)| RewardInput { prompt, completion, record: &record })
            .collect();
        self.verifier.judge(&answers, &uncancellable())
    }

    fn rewards(&self, completions: &[&str]) -> Vec<f64> {
        let verdicts = self.judge(completions).unwrap();
        verdicts.into_iter().map(|verdict| verdict.reward).collect()
    }

    /// The message and the help for a failure.
    fn fails(&self, completions: &[&str]) -> (String, String) {
        let error = self.judge(completions).unwrap_err();
        (error.to_string(), error.help())
    }
}

/// The function gets whole batches in order, may print anything, and may import files beside its own.
#[test]
fn a_function_gets_each_batch_as_one_list() {
    let text = "import os, sys
import words
batches = []
def score(batch):
    print('thinking'); os.system('echo loud')
    assert sys.stdin.read() == ''
    batches.append(len(batch))
    assert batch[0].prompt.startswith('p') and batch[0].record['prompt'] == 'p'
    return [(each.completion == each.record['answer'], words.of(batches)) for each in batch]
";
    let function = Function::new(text, 60.0, 3);
    fs::write(function.folder.path().join("judge/words.py"), "def of(batches): return str(batches)").unwrap();
    let said: Vec<_> = function
        .judge(&["ab", "x", "ab", "y"])
        .unwrap()
        .into_iter()
        .map(|verdict| (verdict.reward, verdict.feedback.unwrap_or_default()))
        .collect();
    let expected = [(1.0, "[3]"), (0.0, "[3]"), (1.0, "[3]"), (0.0, "[3, 1]")];
    assert_eq!(said, expected.map(|(reward, words)| (reward, words.to_owned())));
    // All batches are judged by one process.
    assert_eq!(function.judge(&["ab"]).unwrap()[0].feedback.as_deref(), Some("[3, 1, 1]"));
    assert_eq!(function.verifier.take_warnings(), [] as [&str; 0]);
}

#[test]
fn an_exception_is_told_with_its_place() {
    let text = "def number(text):
    return int(text)

def score(batch):
    return [number(each.completion) for each in batch]
";
    let function = Function::new(text, 60.0, 2);
    assert_eq!(function.rewards(&["1", "0"]), [1.0, 0.0]);
    let (message, help) = function.fails(&["1", "0", "1", "one"]);
    assert_eq!(
        message,
        "the reward function `judge/verify.py:score` failed for the prompt \"p2\" and another: ValueError: invalid \
         literal for int() with base 10: 'one' (judge/verify.py, line 2, in number)"
    );
    // Before Python 3.12 a comprehension is a function of its own.
    assert!(help.contains("verify.py\", line 5, in ") && help.contains("    return int(text)"), "{help}");
    let (message, _) = function.fails(&["one"]);
    assert!(message.contains("failed for the prompt \"p0\": ValueError: "), "{message}");
    assert_eq!(function.verifier.take_warnings(), [] as [&str; 0], "it is not restarted for that");
}

#[test]
fn python_errors_name_the_function_or_the_value() {
    for (text, said) in [
        ("def other(batch): pass", "NameError: judge/verify.py has no function `score`"),
        ("score = 3", "NameError: judge/verify.py has no function `score`"),
        ("def score(batch:", "SyntaxError: "),
        (
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module' (judge/verify.py, line 1, in ",
        ),
        ("def score(batch): return [1]", "it returned 1 rewards for 2 completions"),
        ("def score(batch): return [None, 1]", "it returned None, which is not a number, for a completion"),
        ("def score(batch): return ['1', 1]", "it returned '1', which is not a number, for a completion"),
        (
            "def score(batch): return [float('nan')] * 2",
            "it returned nan, which is not a number, for a completion",
        ),
        ("def score(batch): return 1", "it returned 1, which is not a list"),
        ("def score(batch): return {0: 1, 1: 0}", "it returned {0: 1, 1: 0}, which is not a list"),
        (
            "def score(batch): return {0: 1, 1: 0}.keys()",
            "it returned dict_keys([0, 1]), which is not a list",
        ),
        ("def score(batch): return {0, 1}", "it returned {0, 1}, which is not a list"),
        ("def score(batch): return frozenset([0, 1])", "it returned frozenset({0, 1}), which is not a list"),
        ("def score(batch): return bytes(2)", "it returned b'\\x00\\x00', which is not a list"),
        ("def score(batch): return [10**400, 1]", "0000, which is not a number, for a completion"),
        ("def score(batch): return [10**9999, 1]", ", which is not a number, for a completion"),
        (
            "class Odd:\n    def __float__(self): raise RuntimeError\n    def __repr__(self): return 1\n\
             def score(batch): return [Odd(), 1]",
            "it returned a value of type Odd, which is not a number, for a completion",
        ),
        (
            "def score(batch):\n    yield 1\n    yield 1 / 0",
            "ZeroDivisionError: division by zero (judge/verify.py, line 3, in score)",
        ),
        ("import sys\ndef score(batch): sys.exit(3)", "SystemExit: 3 (judge/verify.py, line 2, in score)"),
    ] {
        let (message, _) = Function::new(text, 60.0, 4).fails(&["a", "b"]);
        assert!(message.contains(said), "{text}: {message}");
    }
    let (message, help) = Function::new("def score(batch): return [0, 1.5]", 60.0, 4).fails(&["a", "b"]);
    assert!(message.contains("a `reward` that is not a number from 0 to 1"), "{message}");
    assert!(help.contains("the function gets a list of completions"), "{help}");
    let (_, help) = Function::new("def score(batch): return 1", 60.0, 4).fails(&["a", "b"]);
    assert!(help.contains("returns a list with a number for each"), "{help}");
}

/// As for commands: a process that dies is restarted once, and one that hangs is killed.
#[test]
fn a_process_that_dies_or_hangs_is_restarted() {
    let text = "import os
open('starts', 'a').write('x')
def score(batch):
    if len(open('starts').read()) == 1: os._exit(3)
    return [0.5 for _ in batch]
";
    let function = Function::new(text, 60.0, 4);
    assert_eq!(function.rewards(&["a", "b"]), [0.5, 0.5]);
    assert_eq!(
        function.verifier.take_warnings(),
        ["the reward function `judge/verify.py:score` ended (exit status 3) and was restarted"]
    );
    let text = "import time\ndef score(batch): time.sleep(1000)";
    let (message, help) = Function::new(text, 2.0, 4).fails(&["a", "b"]);
    assert_eq!(
        message,
        "the reward function `judge/verify.py:score` returned 0 of 2 rewards within its time limit of 2 s; \
         restarting it did not help; the first prompt without a reward is \"p0\""
    );
    assert!(help.contains("raise `time_limit`"), "{help}");
}

/// Other programs may also report why they can't judge a completion.
#[test]
fn a_command_may_say_why_it_does_not_judge() {
    let text = "for r in requests():
    if r['prompt'] == 'p1':
        print(json.dumps({'id': r['id'], 'error': 'no such case: 7\\nlook at cases.json'}), flush=True)
    else:
        reply(r['id'], 1)
";
    let error = Program::new(text, 60.0, 4).judge(3).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the reward command `python3 judge.py` failed for the prompt \"p1\": no such case: 7"
    );
    assert_eq!(error.help(), "look at cases.json");
}

/// Functions that were written for TRL and verl are called as they are there.
#[test]
fn signatures_of_other_tools_work() {
    let trl = "def score(prompts, completions, answer, **kwargs):
    assert len(prompts) == len(completions) == len(answer)
    return [float(right in text) for text, right in zip(completions, answer)]
";
    assert_eq!(Function::new(trl, 60.0, 8).rewards(&["ab", "x", "xab"]), [1.0, 0.0, 1.0]);
    let verl = "def score(data_source, solution_str, ground_truth, extra_info=None):
    return {'score': float(ground_truth == solution_str), 'acc': True}
";
    assert_eq!(Function::new(verl, 60.0, 8).rewards(&["ab", "x"]), [1.0, 0.0]);
    // Of a list of our completions it is the name that may be the same.
    let own = "def score(completions): return [each.completion == 'ab' for each in completions]";
    assert_eq!(Function::new(own, 60.0, 8).rewards(&["ab", "x"]), [1.0, 0.0]);
}

/// Where the data has conversations, TRL gives and takes messages.
#[test]
fn conversations_are_messages_to_functions_of_trl() {
    let text = "def score(prompts, completions, **kwargs):
    assert prompts[0] == [{'role': 'user', 'content': 'p'}], prompts
    return [float(messages[0]['content'] == 'ab') for messages in completions]
";
    let function = Function::new(text, 60.0, 8);
    let record = record(json!({ "prompt": [{ "role": "user", "content": "p" }] }));
    let answers = ["ab", "x"].map(|completion| RewardInput { prompt: "p", completion, record: &record });
    let judged = function.verifier.judge(&answers, &uncancellable()).unwrap();
    assert_eq!(judged.iter().map(|judged| judged.reward).collect::<Vec<_>>(), [1.0, 0.0]);
}

#[test]
fn a_function_of_another_signature_is_told_ours() {
    let (message, help) = Function::new("def score(text, truth): return 1.0", 60.0, 8).fails(&["ab"]);
    assert!(
        message.ends_with("TypeError: `score(text, truth)` can't be called with one list of completions"),
        "{message}"
    );
    assert!(help.starts_with("write `def score(batch)`, which gets a list of completions"), "{help}");
}
