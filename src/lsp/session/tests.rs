use lsp_server::Request;

use super::*;

/// A partial result is an error: a rename would leave the other files unchanged.
#[test]
fn the_files_of_a_folder_are_all_read_or_none_are() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("parts.mopd"), "pub let half = 0.5\n").unwrap();
    for name in ["a", "b"] {
        let text = "use\tparts.{half}\nlet x = half\n";
        std::fs::write(folder.path().join(format!("{name}.mopd")), text).unwrap();
    }
    let intake = Arc::new(MessageQueue::default());
    let params = json!({ "rootUri": format!("file://{}", folder.path().display()) });
    let mut session = Session::new(EditorClient::from_initialize(&params), Arc::clone(&intake));
    assert_eq!(session.closed_naming("half").map(|analyses| analyses.len()), Ok(2));
    session.patience = Duration::ZERO;
    intake.put(Notification::new("textDocument/didChange".to_owned(), json!({})).into());
    assert_eq!(session.closed_naming("half").err(), Some(RefreshInterruption::Changed));
    intake.next();
    session.most_time = Duration::ZERO;
    assert_eq!(session.closed_naming("half").err(), Some(RefreshInterruption::OutOfTime));
}

/// The messages that a refresh queues.
fn refreshed(session: &mut Session) -> usize {
    assert_eq!(session.refresh(), RefreshOutcome::Whole);
    session.take_messages().len()
}

#[test]
fn refresh_publishes_only_after_a_change() {
    let mut session = Session::new(EditorClient::from_initialize(&json!({})), Arc::default());
    let uri: Uri = "untitled:a".parse().unwrap();
    session.open(uri.clone(), 1, "let a = nowhere\n".to_owned());
    assert_eq!(refreshed(&mut session), 1);
    // It would be published again if it was looked at.
    session.published = Published::default();
    assert_eq!(refreshed(&mut session), 0);
    session.saved(&uri);
    assert_eq!(refreshed(&mut session), 1);
}

#[test]
fn plan_is_made_once_until_the_text_or_an_import_changes() {
    let folder = tempfile::tempdir().unwrap();
    let uri = |name: &str| uri::of_path(&folder.path().join(name)).unwrap();
    let mut session = Session::new(EditorClient::from_initialize(&json!({})), Arc::default());
    let text = "use parts.count\n\nexperiment \"e\" { seed = 1 }\n\ndomain d { prompts = \"p.jsonl\", \
                reward = exact_match }\nmodel base = llama { layers = 1, width = 32, heads = 2, \
                context = 64, tokenizer = bytes }\nmodel tuned = sft(base, on: d) { target = answer, steps = count, batch = 1, lr = 1e-3 }\n";
    session.open(uri("a.mopd"), 1, text.to_owned());
    session.open(uri("parts.mopd"), 1, "pub let count = 2\n".to_owned());
    refreshed(&mut session);
    let plan = |session: &Session| session.document(&uri("a.mopd")).unwrap().plan().map(std::ptr::from_ref);
    let first = plan(&session);
    assert!(first.is_some());
    assert_eq!(plan(&session), first);
    let change = |text: &str| -> Vec<TextDocumentContentChangeEvent> {
        serde_json::from_value(json!([{ "text": text }])).unwrap()
    };
    session.change(&uri("parts.mopd"), 2, change("pub let third = 0.3\n"));
    refreshed(&mut session);
    assert!(plan(&session).is_none(), "it imports what is gone");
    session.change(&uri("a.mopd"), 2, change(&text.replace("use parts.count", "let count = 2")));
    refreshed(&mut session);
    assert!(plan(&session).is_some());
}

#[test]
fn what_is_cancelled_is_not_answered_from_half_a_check() {
    let intake = Arc::new(MessageQueue::default());
    let request = Request::new(1.into(), "textDocument/hover".to_owned(), json!({}));
    intake.put(request.into());
    intake.next();
    let session = Session::new(EditorClient::from_initialize(&json!({})), Arc::clone(&intake));
    let keep_going = session.patience();
    assert!(keep_going());
    intake.put(Notification::new("$/cancelRequest".to_owned(), json!({ "id": 1 })).into());
    std::thread::sleep(PATIENCE);
    assert!(!keep_going());
}
