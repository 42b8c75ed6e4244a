//! Rows that are turns of recorded trajectories.

use mopd_plan::{DataFormula, DataNode};

use super::*;

const CHAT: PromptFormat = PromptFormat::Chat { system: None };
const FIELDS: &[Field] = &[
    Field { name: "trajectory", kind: FieldKind::Trajectory },
    Field { name: "hint", kind: FieldKind::Text },
];

fn said(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

/// Trajectories of one turn; of three, the second with two messages; of one after a system message, followed
/// by a user's.
fn lines() -> String {
    let [user, assistant, tool] = ["user", "assistant", "tool"];
    [
        json!({"hint": "h0", "level": 0, "trajectory": [said(user, "2+2?"), said(assistant, "4")]}),
        json!({"hint": "h1", "level": 1, "prompt": "not read", "trajectory": [
            said(user, "find it"), said(assistant, "look"), said(tool, "nothing"), said(assistant, "hm"),
            said(assistant, "look again"), said(tool, "there"), said(assistant, "found"),
        ]}),
        json!({"hint": "h2", "level": 2, "trajectory": [
            said("system", "be brief"), said(user, "sort ba"), said(assistant, "ab"), said(user, "thanks"),
        ]}),
    ]
    .map(|line| format!("{line}\n"))
    .concat()
}

fn read_as(
    content: &str,
    format: &PromptFormat,
    change: impl Fn(&mut DataSource),
) -> Result<Dataset, DataError> {
    let (_folder, path) = file(content);
    let mut source = DataSource::file(path.to_str().unwrap());
    change(&mut source);
    let level = DataFormula { nodes: vec![DataNode::Field { field: "level".to_owned() }] };
    let (routes, numbers) = ([vec![level.clone()]], [level]);
    Dataset::read(
        Path::new("."),
        DatasetRequest {
            source: &source,
            format,
            fields: FIELDS,
            whole: true,
            routes: &routes,
            numbers: &numbers,
            notes: None,
        },
    )
}

fn trajectories(format: &PromptFormat) -> Dataset {
    read_as(&lines(), format, |_| {}).unwrap()
}

#[test]
fn each_turn_is_a_row_with_the_messages_before_it() {
    let data = trajectories(&PromptFormat::Text);
    let prompts: Vec<&str> = (0..data.len()).map(|row| data.prompt(row)).collect();
    assert_eq!(
        prompts,
        [
            "2+2?",
            "find it",
            "find it\nlook\nnothing",
            "find it\nlook\nnothing\nhm\nlook again\nthere",
            "be brief\nsort ba",
        ]
    );
    assert!(!data.is_chat());
    assert_eq!(data.draws(), 3);
    assert_eq!([0, 1, 2].map(|draw| data.of_draw(draw)), [0..1, 1..4, 4..5]);
    let hints: Vec<&str> = (0..5).map(|row| data.text(row, "hint").unwrap()).collect();
    assert_eq!(hints, ["h0", "h1", "h1", "h1", "h2"]);
    assert_eq!(data.text(0, "trajectory"), None);
    let level = DataFormula { nodes: vec![DataNode::Field { field: "level".to_owned() }] };
    assert_eq!(data.numbers(&level).unwrap(), [0.0, 1.0, 1.0, 1.0, 2.0]);
    assert_eq!(data.arms(&[level]).unwrap(), [1, 0, 0, 0, 0]);
    assert_eq!((data.place(3).1, data.place(4).1), (RowPlace::Line(2), RowPlace::Line(3)));
    assert_eq!(data.object(3)["hint"], "h1");
    assert_eq!(data.object(3)["trajectory"].as_array().unwrap().len(), 7);
}

#[test]
fn a_chat_template_gets_the_messages() {
    let data = trajectories(&CHAT);
    let prompts: Vec<&str> = (0..data.len()).map(|row| data.prompt(row)).collect();
    assert_eq!(prompts, ["2+2?", "find it", "nothing", "there", "sort ba"], "what was said last");
    let roles = |row: usize| {
        data.conversation(row).unwrap().roles().map(|role| format!("{role:?}")).collect::<Vec<_>>()
    };
    assert_eq!(roles(2), ["User", "Assistant", "Tool"]);
    assert_eq!(roles(3), ["User", "Assistant", "Tool", "Assistant", "Assistant", "Tool"]);
    assert_eq!(roles(4), ["System", "User"]);
    // The prompt of a row ends with its history.
    assert_eq!(data.conversation(3).unwrap().asked().roles().len(), 6);
    let system = PromptFormat::Chat { system: Some("be kind".to_owned()) };
    let data = trajectories(&system);
    let roles = |row: usize| {
        data.conversation(row).unwrap().roles().map(|role| format!("{role:?}")).collect::<Vec<_>>()
    };
    assert_eq!(
        (roles(0), roles(4)),
        (vec!["System".to_owned(), "User".to_owned()], vec!["System".to_owned(), "User".to_owned()])
    );
}

#[test]
fn limits_count_trajectories_and_the_hash_is_of_its_own() {
    let data = read_as(&lines(), &PromptFormat::Text, |source| source.limit = Some(2)).unwrap();
    assert_eq!((data.draws(), data.len()), (2, 4));
    // The same trajectories as JSON text in a field.
    let all = lines();
    let kept = all.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["trajectory"] = Value::from(row["trajectory"].to_string());
        format!("{row}\n")
    });
    let kept = read_as(&kept.collect::<String>(), &PromptFormat::Text, |_| {}).unwrap();
    let all = trajectories(&PromptFormat::Text);
    assert!((0..5).all(|row| kept.prompt(row) == all.prompt(row)));
    let plain = blake3::hash(lines().as_bytes()).to_hex().to_string();
    assert_ne!(all.hash, plain, "as prompts, the file has other tokens");
    assert_ne!(all.hash, data.hash);
}

#[test]
fn trajectories_without_turns_are_refused() {
    let wrong = |trajectory: Value, format: &PromptFormat| {
        let good = json!({"hint": "", "level": 0, "trajectory": [said("user", "a"), said("assistant", "b")]});
        let bad = json!({"hint": "", "level": 0, "trajectory": trajectory});
        let error = read_as(&format!("{good}\n{bad}\n"), format, |_| {}).unwrap_err();
        let message = error.to_string();
        assert!(error.help().len() > 20);
        message.split_once(".jsonl").unwrap().1.to_owned()
    };
    let text = &PromptFormat::Text;
    assert_eq!(
        wrong(json!([said("user", "a")]), text),
        ":2: the trajectory in `trajectory` has no message with the role `assistant`, so there is no turn \
        to train on"
    );
    assert_eq!(
        wrong(json!([said("assistant", "b"), said("user", "a"), said("assistant", "b")]), text),
        ":2: the trajectory in `trajectory` begins with the assistant, so its first turn has no prompt"
    );
    assert_eq!(
        wrong(json!(7), text),
        ":2: the field `trajectory` must be a list of messages, or its JSON as text; found the number 7"
    );
    assert_eq!(
        wrong(json!("a b"), text),
        ":2: the field `trajectory` must be a list of messages, or its JSON as text; found the string \"a b\""
    );
    assert_eq!(wrong(json!([]), text), ":2: the conversation has no messages");
    assert!(
        wrong(json!([said("user", "a"), said("asistant", "b")]), text).contains("did you mean `assistant`?")
    );
    let called = json!([
        said("user", "a"),
        {"role": "assistant", "content": null, "tool_calls": []},
        said("tool", "c"),
        said("assistant", "b"),
    ]);
    assert_eq!(
        wrong(called.clone(), text),
        ":2: the trajectory in `trajectory` has a message 2 whose `content` is not a string, but prompts \
        are plain text here"
    );
    let row = json!({"hint": "", "level": 0, "trajectory": called});
    assert_eq!(read_as(&format!("{row}\n"), &CHAT, |_| {}).unwrap().len(), 2);
    let missing = read_as("{\"hint\": \"\", \"level\": 0, \"trajektory\": []}\n", text, |_| {}).unwrap_err();
    assert!(missing.to_string().contains("the field `trajectory` is missing"), "{missing}");
    assert_eq!(missing.help(), "did you mean `trajektory`?");
}
