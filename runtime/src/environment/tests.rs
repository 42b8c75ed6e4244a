//! Valid replies of an environment, and error messages for invalid ones. Programs are real processes.

mod python;

use std::fs;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::failure::Error;

/// An environment whose program is Python text in a folder of its own.
struct ToyEnvironment {
    folder: TempDir,
    environment: Environment,
}

/// Defines `requests()`, which yields one request a line, and `reply(...)`; counts the starts.
const PRELUDE: &str = "import json, os, sys, time
def requests():
    for line in sys.stdin:
        open('asked', 'a').write(line)
        yield json.loads(line)
def reply(request, **what):
    print(json.dumps({'id': request['id'], **what}), flush=True)
open('starts', 'a').write('x')
starts = len(open('starts').read())
";

/// Two turns with a reward for each.
const PLAYS: &str = "turns = {}
for request in requests():
    id = request['id']
    if 'end' in request:
        continue
    if 'action' not in request:
        turns[id] = 0
        reply(request, observation=f\"{request['domain']}, {request['record']['answer']}\")
        continue
    turns[id] += 1
    if request['action'] == 'die' and starts == 1:
        sys.exit('out of lives')
    if request['action'] == 'hang' and starts == 1:
        time.sleep(60)
    reply(request, observation=f\"{request['action']}!\", reward=0.25, done=turns[id] == 2)
";

impl ToyEnvironment {
    fn new(text: &str, limit: f64) -> ToyEnvironment {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("env.py"), format!("{PRELUDE}{text}")).unwrap();
        let environment = Environment::new(&command("python3 env.py"), limit, folder.path()).unwrap();
        ToyEnvironment { folder, environment }
    }

    /// Plays two episodes side by side with these actions.
    fn play(&self, actions: &[&str]) -> Result<Vec<Vec<Reply>>, EnvironmentError> {
        let record = json!({ "answer": 7 });
        let record = record.as_object().unwrap();
        let start = |index: u64| Start { seed: index, domain: "sums", prompt: "3 + 4", record, row: row() };
        let mut episodes: Vec<Episode> = (0..2).map(|index| Episode::new(start(index), false)).collect();
        let control = Control::new(std::io::sink());
        self.environment.answer(&mut episodes, &control)?;
        for action in actions {
            for episode in episodes.iter_mut().filter(|episode| !episode.done()) {
                episode.act(StudentTurn { text: (*action).to_owned(), ..StudentTurn::default() });
            }
            self.environment.answer(&mut episodes, &control)?;
        }
        self.environment.end(&episodes);
        episodes.iter().try_for_each(|episode| self.environment.reward(episode).map(|_| ()))?;
        Ok(episodes.into_iter().map(|episode| episode.replies).collect())
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

fn command(text: &str) -> EnvironmentProgram {
    EnvironmentProgram::Command(text.to_owned())
}

fn row() -> (&'static Path, RowPlace) {
    (Path::new("sums.jsonl"), RowPlace::Line(3))
}

fn reply(observation: &str, reward: Option<f64>, done: bool) -> Reply {
    Reply { observation: Some(Observation::Text(observation.to_owned())), reward, parts: Vec::new(), done }
}

fn played() -> Vec<Vec<Reply>> {
    let first = reply("sums, 7", None, false);
    vec![vec![first, reply("a!", Some(0.25), false), reply("b!", Some(0.25), true)]; 2]
}

#[test]
fn one_process_plays_episodes_side_by_side() {
    let world = ToyEnvironment::new(PLAYS, 60.0);
    assert_eq!(world.play(&["a", "b"]).unwrap(), played());
    assert_eq!(world.play(&["a", "b"]).unwrap(), played());
    assert_eq!(world.file("starts"), "x");
    let asked = world.file("asked");
    let lines: Vec<&str> = asked.lines().take(3).collect();
    assert_eq!(
        lines,
        [
            r#"{"id":0,"seed":0,"domain":"sums","prompt":"3 + 4","record":{"answer":7}}"#,
            r#"{"id":1,"seed":1,"domain":"sums","prompt":"3 + 4","record":{"answer":7}}"#,
            r#"{"id":0,"action":"a"}"#,
        ]
    );
    assert!(!asked.contains("end"), "it has ended them itself");
    // An episode that is not continued is ended, without a reply.
    world.play(&["a"]).unwrap();
    world.play(&["a", "b"]).unwrap();
    assert!(world.file("asked").contains("{\"id\":4,\"end\":true}\n"), "{}", world.file("asked"));
}

/// A sum of decimal fractions that is exactly 1 counts as 1 (`correct`), for rewards and for their parts.
#[test]
fn rewards_that_add_up_to_a_whole_number_are_that_number() {
    let environment = Environment::new(&command("true"), 1.0, ".".as_ref()).unwrap();
    let record = json!({});
    let start =
        Start { seed: 0, domain: "sums", prompt: "3 + 4", record: record.as_object().unwrap(), row: row() };
    let reward = |given: &[f64]| {
        let mut episode = Episode::new(start, false);
        episode.replies = given.iter().map(|of| reply("x", Some(*of), false)).collect();
        for (reply, part) in episode.replies.iter_mut().zip(given) {
            reply.parts = vec![("fine".to_owned(), *part)];
        }
        let of_parts = environment.reward_parts(&episode, &[]).map(|parts| parts[0].1);
        let sum = environment.reward(&episode).map(Option::unwrap);
        assert_eq!(sum.is_ok(), of_parts.is_ok());
        sum.inspect(|sum| assert_eq!(*sum, of_parts.unwrap()))
    };
    for (given, sum) in [
        (&[0.7, 0.2, 0.1][..], 1.0),
        (&[0.1, 0.2, 0.7], 1.0),
        (&[0.3, -0.1, -0.1, -0.1], 0.0),
        (&[0.1, 0.2, -0.3], 0.0),
        (&[0.5, 0.25], 0.75),
        (&[1.0 - 1e-8], 1.0 - 1e-8),
        (&[1e-8], 1e-8),
    ] {
        assert_eq!(reward(given).unwrap(), sum, "{given:?}");
    }
    assert!(reward(&[1.0 + 1e-8]).is_err() && reward(&[-1e-8]).is_err() && reward(&[f64::NAN]).is_err());
}

/// A new process gets all requests of the episodes that are not over; the only sign of it is a warning.
#[test]
fn a_process_that_dies_or_hangs_is_replaced_once() {
    for (action, limit, how) in
        [("die", 60.0, "ended (exit status 1)"), ("hang", 1.5, "took longer than its limit of 1.5 s")]
    {
        let world = ToyEnvironment::new(PLAYS, limit);
        let again = world.play(&["a", action]).unwrap();
        let expected = format!("{action}!");
        assert_eq!(again[1][1..], [reply("a!", Some(0.25), false), reply(&expected, Some(0.25), true)]);
        assert_eq!((again[0] == again[1], world.file("starts").len()), (true, 2));
        let warning = format!("the environment `python3 env.py` {how} and was restarted");
        assert_eq!(world.environment.take_warnings(), [warning]);
    }
    let world = ToyEnvironment::new("for request in requests(): sys.exit('out of lives')", 60.0);
    let error = world.play(&[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the environment `python3 env.py` ended (exit status 1) before it replied for the prompt \"3 + 4\" \
         (sums.jsonl:3), before the first turn; restarting it did not help"
    );
    assert_eq!(error.help(), "the last lines of its standard error:\nout of lives");
    assert!(matches!(Error::from(error), Error::Failed(_)));
    let began = Instant::now();
    let error = ToyEnvironment::new("time.sleep(60)", 0.5).play(&[]).unwrap_err();
    assert!(error.to_string().contains("returned no response within its time limit of 0.5 s"), "{error}");
    assert!(error.help().starts_with("raise `time_limit`"), "{}", error.help());
    assert!(began.elapsed().as_secs() < 30);
    let absent = Environment::new(&command("no-such-program"), 5.0, ".".as_ref()).unwrap();
    let world = ToyEnvironment { environment: absent, ..ToyEnvironment::new("", 1.0) };
    let error = world.play(&[]).unwrap_err();
    assert!(error.help().contains("no-such-program: not found"), "{}", error.help());
}

/// Replies may differ if the program reads the clock or draws its own random numbers.
#[test]
fn another_reply_after_a_restart_is_refused() {
    let unlike = PLAYS.replace("{request['action']}!", "{request['action']}{starts}!");
    let error = ToyEnvironment::new(&unlike, 60.0).play(&["a", "die"]).unwrap_err();
    assert!(error.to_string().contains("the reply differs from the one before the restart"), "{error}");
    assert!(error.help().contains("With the same seed, the same actions must have the same replies"));
}

#[test]
fn nonsense_is_quoted_with_what_is_wrong() {
    let first = |said: &str| format!("for request in requests():\n    {said}\n");
    let then = |said: &str| {
        format!(
            "for request in requests():\n    if 'action' not in request:\n        reply(request)\n    else:\n        \
             {said}\n"
        )
    };
    for (program, actions, why) in [
        (first("print('seven', flush=True)"), 0, "not JSON; the line was \"seven\""),
        (first("print('{}', flush=True)"), 0, "no `id` that is a whole number"),
        (first("print('{\"id\": 9}', flush=True)"), 0, "an `id` that no request has"),
        (first("reply({'id': 0})"), 0, "a second reply for one request"),
        (first("reply(request, observation=3)"), 0, "an `observation` that is not a text"),
        (first("reply(request, error=5)"), 0, "an `error` that is not a text"),
        (first("reply(request, reward=1)"), 0, "a `reward` before the first action"),
        (first("reply(request, done=True)"), 0, "`done` before the first action"),
        (first("reply(request, done='no')"), 0, "a `done` that is not true or false"),
        (then("reply(request)"), 1, "no `observation`, although the episode is not `done`"),
        (then("reply(request, observation='')"), 1, "no `observation`, although the episode is not `done`"),
        (then("reply(request, done=True, reward='all')"), 1, "a `reward` that is not a number"),
        (then("reply(request, done=True, parts={'a': 1})"), 1, "`parts` without a `reward`"),
        (
            then("reply(request, done=True, reward=1, parts=[1])"),
            1,
            "`parts` that are not an object of numbers",
        ),
        (
            then("reply(request, done=True, reward=1, parts={'a': 'all'})"),
            1,
            "`parts` that are not an object of numbers",
        ),
        (
            then("reply(request, observation='x', **({'reward': 0.5} if request['id'] else {}))"),
            1,
            "a `reward`, although earlier episodes had none",
        ),
        (
            then("reply(request, observation='x', **({} if request['id'] else {'reward': 0.5}))"),
            1,
            "no `reward`, although earlier episodes had one",
        ),
    ] {
        let error = ToyEnvironment::new(&program, 60.0).play(&["a", "b"][..actions]).unwrap_err();
        let expected = format!("the environment `python3 env.py` returned invalid output: {why}");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.help().contains("messages belong on standard error"));
        // Where the line says which episode it is for.
        if !["not JSON", "no `id`", "an `id`", "an `error`"].iter().any(|unknown| why.starts_with(unknown)) {
            let turn = match actions {
                _ if why.starts_with("a second reply") => "",
                0 => ", before the first turn",
                _ => ", turn 1",
            };
            let row = format!(", for the prompt \"3 + 4\" (sums.jsonl:3){turn}; the line was");
            assert!(error.to_string().contains(&row), "{error}");
        }
    }
    let error =
        ToyEnvironment::new(&then("reply(request, done=True, reward=2)"), 60.0).play(&["a"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the environment `python3 env.py` returned rewards with a sum of 2 for the prompt \"3 + 4\" \
         (sums.jsonl:3); the sum must be from 0 to 1"
    );
    let penalty = then(
        "reply(request, done=request['action'] == 'b', observation='x', reward=0.6 if request['action'] == 'b' else -0.1)",
    );
    ToyEnvironment::new(&penalty, 60.0).play(&["a", "b"]).expect("half a point");
}

#[test]
fn parts_of_rewards_are_sums_by_their_names() {
    let of = |parts: &[(&str, f64)]| {
        let parts = parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect();
        Reply { observation: None, reward: Some(0.0), parts, done: false }
    };
    let world = ToyEnvironment::new("", 60.0);
    let record = Map::new();
    let start = Start { seed: 0, domain: "d", prompt: "sort", record: &record, row: row() };
    let parts = |replies: Vec<Reply>, read: &[&str]| {
        let read: Vec<String> = read.iter().map(|name| (*name).to_owned()).collect();
        let episode = Episode { replies, ..Episode::new(start, false) };
        world.environment.reward_parts(&episode, &read).map_err(|error| error.to_string())
    };
    let replies = || vec![of(&[]), of(&[("form", 0.25)]), of(&[("length", 0.125), ("form", 0.5)])];
    assert_eq!(
        parts(replies(), &["form"]),
        Ok(vec![("form".to_owned(), 0.75), ("length".to_owned(), 0.125)])
    );
    assert_eq!(
        parts(replies(), &["form", "key"]).unwrap_err(),
        "the environment `python3 env.py` returned a reward without the part `key` for the prompt \"sort\" \
         (sums.jsonl:3); the objective reads this part"
    );
    assert_eq!(
        parts(vec![of(&[("form", 0.75)]), of(&[("form", 0.75)])], &[]).unwrap_err(),
        "the environment `python3 env.py` returned parts `form` of rewards with a sum of 1.5 for the prompt \
         \"sort\" (sums.jsonl:3); the sum must be from 0 to 1"
    );
}

#[test]
fn waiting_for_a_reply_ends_when_the_job_is_stopped() {
    let world = ToyEnvironment::new("time.sleep(60)", 60.0);
    let control = Control::new(std::io::sink());
    control.interrupt();
    let record = Map::new();
    let start = Start { seed: 0, domain: "d", prompt: "p", record: &record, row: row() };
    let error = world.environment.answer(&mut [Episode::new(start, false)], &control).unwrap_err();
    assert_eq!(error, EnvironmentError::Stopped);
    assert!(matches!(Error::from(error), Error::Interrupted));
    assert!(Environment::new(&command("python3 env.py"), 0.0, ".".as_ref()).is_err());
}
