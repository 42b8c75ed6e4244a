//! Turns in conversations: the environment gets and returns messages, and what the chat template writes
//! between the student's turns is read, not trained on.

use std::collections::HashMap;

use mopd_plan::EnvironmentProgram;
use mopd_plan::producers::Turns;
use serde_json::{Value, json};

use super::super::batches::Batches;
use super::conversations::conversations;
use super::*;
use crate::tokenizer::chat::{self, Conversation};
use crate::tokenizer::json::Json;

/// A program that replies as a user, or with a text, up to three times; it writes down all that it reads.
const PROGRAM: &str = "import json, sys
log = open('asked', 'a')
turns = {}
for line in sys.stdin:
    request = json.loads(line)
    print(line.strip(), file=log, flush=True)
    id = request['id']
    if 'end' in request:
        continue
    if 'action' not in request:
        turns[id] = 0
        print(json.dumps({'id': id, 'messages': [{'role': 'user', 'content': 'begin'}]} if id % 2 else {'id': id}),
            flush=True)
        continue
    turns[id] += 1
    said = f'{len(request[\"message\"][\"content\"])}, and?'
    what = {'messages': [{'role': 'user', 'content': said}]} if turns[id] == 1 else {'observation': said}
    print(json.dumps({'id': id, **what, 'reward': 0.25, 'done': turns[id] == 3}), flush=True)
";

/// A row's messages.
type Messages = Vec<Value>;

/// The sequences of a step, the requests that the program got, and the messages of each sequence's row.
fn drawn(program: &str, sampling: Sampling) -> Result<(Vec<Sequence>, Vec<Value>, Vec<Messages>)> {
    let (fixture, weights) = conversations();
    std::fs::write(fixture.folder.path().join("env.py"), program).unwrap();
    let turns = Turns {
        environment: EnvironmentProgram::Command("python3 env.py".to_owned()),
        time_limit_seconds: 60.0,
        depends: Vec::new(),
        at_most: Schedule::Constant { value: 5.0 }.into(),
        first_turns: None,
        expert_turns: None,
        sampling,
    };
    let train = Train { rollout: Rollout::new(8, Producer::Turns(Box::new(turns))), ..train(mopd(1.0), 1) };
    let stage = fixture.stage(&train, ROUTED, &weights);
    let models = Models::new(&stage).unwrap();
    let mut batches = Batches::new(&stage, &models, None)?;
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    let list = batches.next(&stage, &student, &models, 0)?.list;
    let prompts = list.iter().map(|sequence| {
        let file = ["copy.chat.jsonl", "flip.chat.jsonl"][sequence.source];
        let rows = std::fs::read_to_string(fixture.folder.path().join(file)).unwrap();
        let row: Value = serde_json::from_str(rows.lines().nth(sequence.record).unwrap()).unwrap();
        row["messages"].as_array().unwrap().clone()
    });
    let prompts = prompts.collect();
    let asked = std::fs::read_to_string(fixture.folder.path().join("asked")).unwrap_or_default();
    Ok((list, asked.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), prompts))
}

/// Turns that end at a frequent letter: a random model hardly ever writes an end token.
fn ending() -> Sampling {
    let stop = ["a", "e", "o", " "].map(str::to_owned).to_vec();
    Sampling { stop, ..Sampling::new(2, 1.0, 12) }
}

#[test]
fn an_episode_is_the_conversation_that_the_template_writes() {
    let (list, asked, rows) = drawn(PROGRAM, ending()).unwrap();
    let tokenizer = crate::tokenizer::tests::pretrained("smollm");
    let template = &tokenizer.templates()[0];
    let mut episodes: HashMap<u64, Vec<&Value>> = HashMap::new();
    for request in asked.iter().filter(|request| request.get("end").is_none()) {
        episodes.entry(request["id"].as_u64().unwrap()).or_default().push(request);
    }
    let mut ids: Vec<&u64> = episodes.keys().collect();
    ids.sort();
    assert_eq!((ids.len(), list.len()), (16, 16));
    let (mut cut, mut whole) = (0, 0);
    for ((id, sequence), mut messages) in zip_equal(zip_equal(ids, &list), rows) {
        let requests = &episodes[id];
        let asked = messages.iter().rposition(|message| message["role"] != "assistant").unwrap();
        messages.truncate(asked + 1);
        if id % 2 == 1 {
            messages.push(json!({ "role": "user", "content": "begin" }));
        }
        let chat = |messages: &[Value]| Conversation::new(&Json::from(json!(messages)), None).unwrap();
        let before = chat::prompt_text(&tokenizer, chat(&messages)).unwrap();
        let actions = &requests[1..];
        assert_eq!(sequence.completion.turns().count(), actions.len());
        for (turn, action) in sequence.completion.turns().zip(actions) {
            let tokens = &sequence.completion[turn];
            assert_eq!(action["action"], tokenizer.as_read(tokens).unwrap());
            assert_eq!(action["message"], json!({ "role": "assistant", "content": action["action"] }));
            messages.push(action["message"].clone());
            let said = format!("{}, and?", action["action"].as_str().unwrap().chars().count());
            messages.push(json!({ "role": "user", "content": said }));
        }
        // The reply to the last turn is not part of the episode.
        messages.pop();
        let truncated = actions.last().unwrap().get("truncated").is_some();
        let count = messages.len();
        let text = template.render(&chat(&messages), count, false).unwrap();
        let prompt = sequence.prompt.clone().unwrap_or_else(|| tokenizer.encode(&before).unwrap());
        let read = tokenizer.as_read(&[&*prompt, &*sequence.completion].concat()).unwrap();
        // Stop texts leave the end token out.
        assert_eq!(format!("{read}<|im_end|>\n"), text);
        assert!(read.starts_with(&before));
        assert_eq!(sequence.truncated, truncated || actions.len() < 3);
        assert_eq!(sequence.reward, Some(0.25 * actions.len() as f64));
        assert_eq!(sequence.completion.logps().unwrap().len(), sequence.completion.trained());
        (cut, whole) = (cut + usize::from(truncated), whole + usize::from(actions.len() == 3));
    }
    assert!(cut > 0 && whole > 4, "{cut} cut off, {whole} whole");
}

/// What the program says is checked, and named with its line.
#[test]
fn replies_that_are_no_messages() {
    let reply = |what: &str| {
        format!(
            "import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if 'end' not in request:
        print(json.dumps({{'id': request['id'], **({what} if 'action' in request else {{}})}}), flush=True)
"
        )
    };
    for (what, error) in [
        ("{'messages': 'so'}", "a conversation must be a list of messages; found"),
        ("{'messages': []}", "the conversation has no messages"),
        ("{'messages': [{'role': 'tools', 'content': 'a'}]}", "did you mean `tool`?"),
        ("{'messages': [{'role': 'user'}]}", "message 1 has no `content`"),
        ("{'messages': [{'role': 'assistant', 'content': 'a'}]}", "whose turns the student writes"),
        ("{'messages': [{'role': 'user', 'content': 'a'}], 'observation': 'b'}", "both an `observation` and"),
        ("{'observation': 3}", "an `observation` that is not a text"),
        ("{}", "no `observation`, although the episode is not `done`"),
    ] {
        let found = drawn(&reply(what), ending()).map(|_| ()).unwrap_err().to_string();
        assert!(found.contains(error), "{what}: {found}");
    }
}
