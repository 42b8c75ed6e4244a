//! Environments that are classes of Python: an instance for each episode, what it gets and may return, and
//! messages about mistakes.

use super::*;

/// A folder with `rooms/shop.py`.
struct Class {
    folder: TempDir,
    environment: Environment,
}

impl Class {
    fn new(text: &str, limit: f64) -> Class {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("rooms")).unwrap();
        fs::write(folder.path().join("rooms/shop.py"), text).unwrap();
        let (file, class) = ("rooms/shop.py".to_owned(), "Shop".to_owned());
        let program = EnvironmentProgram::Python { file, class };
        let environment = Environment::new(&program, limit, folder.path()).unwrap();
        Class { folder, environment }
    }

    /// Plays two episodes side by side with these turns.
    fn play(&self, turns: &[StudentTurn], is_chat: bool) -> Result<Vec<Vec<Reply>>, EnvironmentError> {
        let record = json!({ "answer": 7 });
        let start = |index: u64| Start {
            seed: index,
            domain: "sums",
            prompt: "3 + 4",
            record: record.as_object().unwrap(),
            row: row(),
        };
        let mut episodes: Vec<Episode> = (0..2).map(|index| Episode::new(start(index), is_chat)).collect();
        let control = Control::new(std::io::sink());
        self.environment.answer(&mut episodes, &control)?;
        for turn in turns {
            for episode in episodes.iter_mut().filter(|episode| !episode.done()) {
                episode.act(turn.clone());
            }
            self.environment.answer(&mut episodes, &control)?;
        }
        self.environment.end(&episodes);
        Ok(episodes.into_iter().map(|episode| episode.replies).collect())
    }

    /// The message and the help for a failure with these turns.
    fn fails(&self, turns: &[&str]) -> (String, String) {
        let error = self.play(&texts(turns), false).unwrap_err();
        (error.to_string(), error.help())
    }
}

fn texts(turns: &[&str]) -> Vec<StudentTurn> {
    turns.iter().map(|text| StudentTurn { text: (*text).to_owned(), ..StudentTurn::default() }).collect()
}

/// It may print, start programs and import files beside its own. `reset` gets what it names.
#[test]
fn each_episode_has_an_instance() {
    let text = "import os, sys
import words
class Shop:
    made = 0
    def __init__(self):
        Shop.made += 1
    def reset(self, record, *, seed, domain='none'):
        print('resetting'); os.system('echo loud'); assert sys.stdin.read() == ''
        self.heard = []
        return words.first(domain, record['answer'], seed)
    def step(self, turn):
        self.heard.append(turn)
        return ','.join(self.heard), 0.25, len(self.heard) == 2, {'form': 0.5 if turn == 'a' else 0}
";
    let class = Class::new(text, 60.0);
    let words = "def first(*all): return ' '.join(map(str, all))";
    fs::write(class.folder.path().join("rooms/words.py"), words).unwrap();
    let expected = |seed: u32| {
        let part = |part: f64| vec![("form".to_owned(), part)];
        vec![
            reply(&format!("sums 7 {seed}"), None, false),
            Reply { parts: part(0.5), ..reply("a", Some(0.25), false) },
            Reply { parts: part(0.0), ..reply("a,b", Some(0.25), true) },
        ]
    };
    assert_eq!(class.play(&texts(&["a", "b"]), false).unwrap(), [expected(0), expected(1)]);
    // All by one process.
    assert_eq!(class.play(&texts(&["a"]), false).unwrap()[1], expected(1)[..2]);
    assert_eq!(class.environment.take_warnings(), [] as [&str; 0]);
}

/// In a conversation, a turn is a message, and the reply may be messages. `truncated` is given to a `step`
/// that takes it. A function that makes the object is as good as a class. Rewards may be left out.
#[test]
fn turns_of_conversations_are_messages() {
    let text = "class Room:
    def reset(self, **given):
        assert sorted(given) == ['domain', 'prompt', 'record', 'seed'], given
        return [{'role': 'user', 'content': given['prompt']}]
    def step(self, message, truncated):
        if truncated: return None, None, True
        return [{'role': 'tool', 'content': message['tool_calls'][0]['function']['name']}], None, False
def Shop(): return Room()
";
    let message =
        json!({ "role": "assistant", "content": "", "tool_calls": [{ "function": { "name": "price" } }] });
    let asks = StudentTurn { calls: 1, message: Some(message), ..StudentTurn::default() };
    let cut = StudentTurn { truncated: true, ..asks.clone() };
    let observed = |role: &str, content: &str| {
        Some(Observation::Messages(json!([{ "role": role, "content": content }]).into()))
    };
    let plain = |observation, done| Reply { observation, reward: None, parts: Vec::new(), done };
    let expected =
        [plain(observed("user", "3 + 4"), false), plain(observed("tool", "price"), false), plain(None, true)];
    assert_eq!(Class::new(text, 60.0).play(&[asks, cut], true).unwrap()[1], expected);
}

#[test]
fn an_exception_is_told_with_its_place() {
    let text = "def number(text):
    return int(text)

class Shop:
    def reset(self): pass
    def step(self, turn): return '?', 0.1 * number(turn), False
";
    let class = Class::new(text, 60.0);
    let (message, help) = class.fails(&["1", "one"]);
    assert_eq!(
        message,
        "the environment `rooms/shop.py:Shop` failed for the prompt \"3 + 4\" (sums.jsonl:3), turn 2: ValueError: \
         invalid literal for int() with base 10: 'one' (rooms/shop.py, line 2, in number)"
    );
    assert!(help.contains("shop.py\", line 6, in step") && help.contains("    return int(text)"), "{help}");
    assert_eq!(class.environment.take_warnings(), [] as [&str; 0], "it is not restarted for that");
}

#[test]
fn mistakes_of_the_class_are_named_with_the_way_out() {
    let class = |reset: &str, step: &str| {
        format!("class Shop:\n    def reset(self): return {reset}\n    def step(self, turn): return {step}\n")
    };
    let step = |given: &str| class("None", given);
    for (text, said) in [
        ("class Other: pass".to_owned(), "NameError: rooms/shop.py has no class `Shop`"),
        ("class Shop(".to_owned(), "SyntaxError: "),
        ("import no_such_module".to_owned(), "ModuleNotFoundError: No module named 'no_such_module'"),
        ("class Shop: pass".to_owned(), "`Shop` has no method `reset`"),
        ("class Shop:\n    def reset(self): pass".to_owned(), "`Shop` has no method `step`"),
        ("class Shop:\n    def __init__(self, seed): pass".to_owned(), "TypeError: "),
        (
            "class Shop:\n    def reset(self, size): pass\n    def step(self, turn): pass".to_owned(),
            "`Shop.reset(size)` can't be called: missing a required argument: 'size'",
        ),
        (
            "class Shop:\n    def reset(self): pass\n    def step(self): pass".to_owned(),
            "`Shop.step()` can't be called: too many positional arguments",
        ),
        (class("('x', {})", "None"), "`reset` returned ('x', {}) as the observation, which is not a text"),
        (step("'x'"), "`step` returned 'x', which is not `observation, reward, done`"),
        (step("'x', 0.5, False, False, {}"), "`step` returned ('x', 0.5, False, False, {}), which is not"),
        (step("3, 0.5, False"), "`step` returned 3 as the observation, which is not a text"),
        (step("'x', '0.5', False"), "`step` returned '0.5' as the reward, which is not a number"),
        (step("'x', float('nan'), False"), "`step` returned nan as the reward, which is not a number"),
        (step("'x', 0.5, 1"), "`step` returned 1 as done, which is not True or False"),
        (step("'x', 0.5, False, 0.5"), "`step` returned 0.5 as parts of the reward, which is no dictionary"),
        (step("'x', 0.5, False, {'form': None}"), "`step` returned None as the part `form`"),
        (step("[{'role': {1}}], 0.5, False"), "the messages can't be written as JSON"),
    ] {
        let (message, help) = Class::new(&text, 60.0).fails(&["a"]);
        assert!(message.contains(said), "{text}: {message}");
        let written = ["def reset(self, seed, record)", "`observation, reward, done`", "shop.py", "File"];
        assert!(help.is_empty() || written.iter().any(|way| help.contains(way)), "{text}: {help}");
    }
    // What the conversation's rules forbid.
    let (message, help) = Class::new(&step("None, 0.5, False"), 60.0).fails(&["a"]);
    assert!(message.contains("no `observation`, although the episode is not `done`"), "{message}");
    assert!(message.contains("(sums.jsonl:3), turn 1"), "{message}");
    assert!(help.starts_with("`step` returns `observation, reward, done`"), "{help}");
}

/// As for programs: a process that dies is replaced and hears all turns again; one that hangs is killed.
#[test]
fn a_process_that_dies_or_hangs_is_replaced() {
    let text = "import os, time
open('starts', 'a').write('x')
class Shop:
    def reset(self, seed): self.said = f'{seed}'
    def step(self, turn):
        if turn == 'die' and len(open('starts').read()) == 1: os._exit(3)
        if turn == 'hang': time.sleep(60)
        self.said += turn
        return self.said, 0.25, False
";
    let class = Class::new(text, 60.0);
    let replies = class.play(&texts(&["a", "die", "b"]), false).unwrap();
    assert_eq!(replies[1][3], reply("1adieb", Some(0.25), false));
    let warnings = class.environment.take_warnings();
    assert_eq!(warnings, ["the environment `rooms/shop.py:Shop` ended (exit status 3) and was restarted"]);
    let (message, _) = Class::new(text, 1.0).fails(&["hang"]);
    assert!(
        message.contains("no response within its time limit of 1 s for the prompt \"3 + 4\""),
        "{message}"
    );
    assert!(message.contains("(sums.jsonl:3), turn 1; restarting it did not help"), "{message}");
    let differs = text.replace("self.said += turn", "self.said += turn + open('starts').read()");
    let (message, _) = Class::new(&differs, 60.0).fails(&["a", "die"]);
    assert!(message.contains("the reply differs from the one before the restart"), "{message}");
}
