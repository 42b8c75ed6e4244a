mod datasets;
mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::*;

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

fn hub(cache: &Path, endpoint: &str, offline: bool) -> Hub {
    Hub { cache: cache.to_owned(), offline, endpoint: endpoint.to_owned(), token: None }
}

/// Makes a snapshot as `huggingface_hub` does: links to blobs, and a branch that points to the commit.
fn cached(cache: &Path, commit: &str, files: &[&str]) {
    let repository = cache.join("models--org--tiny");
    let snapshot = repository.join("snapshots").join(commit);
    for folder in [&snapshot, &repository.join("refs"), &repository.join("blobs")] {
        fs::create_dir_all(folder).unwrap();
    }
    for file in files {
        let blob = format!("{commit}-{file}");
        fs::write(repository.join("blobs").join(&blob), "{}").unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&blob), snapshot.join(file)).unwrap();
    }
    fs::write(repository.join("refs/main"), commit).unwrap();
}

fn message(error: &Error) -> (String, String) {
    let Error::Failed(failure) = error else { panic!("interrupted") };
    (failure.message.clone(), failure.help.clone().unwrap_or_default())
}

#[test]
fn a_folder_beside_the_source_comes_first() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir_all(base.path().join("org/tiny")).unwrap();
    cached(&base.path().join("cache"), FIRST, &["config.json", "model.safetensors"]);
    let hub = hub(&base.path().join("cache"), "http://unused", true);
    let found = hub.find("org/tiny", None, base.path()).unwrap();
    assert_eq!(found, ModelFolder { folder: base.path().join("org/tiny"), commit: None });
    let (text, help) = message(&hub.find("org/tiny", Some("main"), base.path()).unwrap_err());
    assert!(text.contains("has no revision `main`") && help.contains("leave `revision` out"), "{text}");
    // Relative to another folder, the name is the repository.
    let found = hub.find("org/tiny", None, &base.path().join("cache")).unwrap();
    assert_eq!(found.commit.as_deref(), Some(FIRST));
}

#[test]
fn the_cache_answers_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path(), "http://unused", true);
    let find = |revision: Option<&str>| hub.find("org/tiny", revision, Path::new("/nowhere"));
    let (text, help) = message(&find(None).unwrap_err());
    assert!(
        text.starts_with(
            "there is no folder /nowhere/org/tiny, and org/tiny (revision main) is not in the cache "
        ) && help.contains("HF_HUB_OFFLINE"),
        "{text}"
    );
    cached(folder.path(), FIRST, &["config.json"]);
    assert!(message(&find(None).unwrap_err()).0.contains("only in part"));
    cached(folder.path(), SECOND, &["config.json", "model.safetensors"]);
    for revision in [None, Some("main"), Some(SECOND)] {
        let found = find(revision).unwrap();
        assert_eq!(found.commit.as_deref(), Some(SECOND));
        assert!(found.folder.join("model.safetensors").exists());
    }
    assert!(find(Some(FIRST)).is_err());
    assert!(find(Some("v2")).is_err());
}

#[test]
fn names_and_revisions_stay_in_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(folder.path(), "http://unused", true);
    for name in ["../secret", "a/b/c", "a//b", "", ".", "org/", "o rg/tiny", "org/..", "org/a..b"] {
        let (text, _) = message(&hub.find(name, None, Path::new("/nowhere")).unwrap_err());
        assert!(text.contains("names no repository"), "{name}: {text}");
    }
    // A folder of a similar name is suggested.
    std::fs::create_dir_all(folder.path().join("models/small-135m")).unwrap();
    let (_, help) = message(&hub.find("./models/smal-135m", None, folder.path()).unwrap_err());
    assert_eq!(help, "did you mean `./models/small-135m`?");
    for revision in ["../../x", "/etc/passwd", "", "a b", "."] {
        let (text, _) = message(&hub.find("org/tiny", Some(revision), Path::new("/nowhere")).unwrap_err());
        assert!(text.contains("is not a revision"), "{revision}: {text}");
    }
}

/// A hub with one repository. Returns its address and the log of requests.
fn serve(
    files: BTreeMap<&'static str, &'static str>,
    commit: &'static str,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(request) = lines.next() else { continue };
            let range = lines.take_while(|line| !line.is_empty()).find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                (name.eq_ignore_ascii_case("range")).then(|| value.trim_start_matches("bytes=").to_owned())
            });
            let path = request.split(' ').nth(1).unwrap().to_owned();
            log.lock().unwrap().push(path.clone());
            let listings = ["/api/models/org/tiny/revision/main", "/api/datasets/org/tiny/revision/main"];
            let body = if listings.contains(&path.as_str()) {
                let siblings: Vec<_> =
                    files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
                Some(serde_json::json!({ "sha": commit, "siblings": siblings }).to_string())
            } else {
                let file = path.strip_prefix("/datasets").unwrap_or(&path);
                let file = file.strip_prefix(&format!("/org/tiny/resolve/{commit}/"));
                file.and_then(|file| files.get(file)).map(|text| (*text).to_owned())
            };
            let answer = match (body, range) {
                (None, _) => {
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
                }
                (Some(body), None) => {
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    )
                }
                (Some(body), Some(range)) => {
                    let (first, last) = range.split_once('-').unwrap();
                    let first: usize = first.parse().unwrap();
                    let last = last.parse().unwrap_or(body.len() - 1);
                    let etag = blake3::hash(body.as_bytes()).to_hex();
                    format!(
                        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes \
                         {first}-{last}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nConnection: \
                         close\r\n\r\n{}",
                        last + 1 - first,
                        body.len(),
                        &body[first..=last]
                    )
                }
            };
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (endpoint, asked)
}

#[test]
fn model_of_the_hub_is_pinned_and_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let files = BTreeMap::from([
        ("config.json", "{\"model_type\": \"llama\"}"),
        ("tokenizer.json", "{}"),
        ("README.md", "not needed"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", "one"),
        ("model-00002-of-00002.safetensors", "two"),
    ]);
    let (endpoint, asked) = serve(files, FIRST);
    let found = hub(folder.path(), &endpoint, false).find("org/tiny", None, Path::new("/nowhere")).unwrap();
    assert_eq!(found.commit.as_deref(), Some(FIRST));
    assert_eq!(fs::read_to_string(found.folder.join("model-00002-of-00002.safetensors")).unwrap(), "two");
    assert_eq!(fs::read_to_string(found.folder.join("tokenizer.json")).unwrap(), "{}");
    assert!(!found.folder.join("README.md").exists());
    let requests = asked.lock().unwrap().len();
    // Now it is in the cache, under the name of its branch and of its commit.
    for revision in [None, Some(FIRST)] {
        let again =
            hub(folder.path(), &endpoint, true).find("org/tiny", revision, Path::new("/nowhere")).unwrap();
        assert_eq!(again, found);
    }
    assert_eq!(asked.lock().unwrap().len(), requests);
}

/// Whatever the reader of a folder looks at is fetched, so that the same model gives the same prompts.
#[test]
fn a_model_of_the_hub_is_the_same_as_in_a_folder() {
    let cache = tempfile::tempdir().unwrap();
    let fixtures = crate::tokenizer::tests::fixtures().join("smollm");
    let text = |name: &str| &*fs::read_to_string(fixtures.join(name)).unwrap().leak();
    let files = BTreeMap::from([
        ("config.json", "{\"model_type\": \"llama\", \"eos_token_id\": 2}"),
        ("tokenizer.json", text("tokenizer.json")),
        ("tokenizer_config.json", text("tokenizer_config.json")),
        ("chat_template.jinja", "{{ messages[0].content }}<|im_end|>"),
        ("additional_chat_templates/tool_use.jinja", "tools: {{ messages[0].content }}<|im_end|>"),
        ("additional_chat_templates/README.md", "not needed"),
        ("additional_chat_templates/deeper/other.jinja", "not needed"),
        ("mopd.json", "{}"),
        ("model.safetensors", "weights"),
    ]);
    let own = tempfile::tempdir().unwrap();
    for (name, text) in &files {
        let path = own.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let (endpoint, asked) = serve(files, FIRST);
    let find = |endpoint: &str, offline| {
        hub(cache.path(), endpoint, offline).find("org/tiny", None, Path::new("/nowhere"))
    };
    let found = find(&endpoint, false).unwrap().folder;
    let read = |folder: &Path| TokenizerFiles::read(folder).unwrap();
    assert_eq!(read(&found).files, read(own.path()).files);
    assert!(read(&found).find("additional_chat_templates/tool_use.jinja").is_some());
    assert!(found.join("mopd.json").exists(), "it says that a model has the tokenizer of bytes");
    let asked = asked.lock().unwrap().clone();
    assert!(!asked.iter().any(|path| path.contains("README") || path.contains("deeper")), "{asked:?}");
    // An adapter is refused as in a folder, before its weights are fetched.
    let cache = tempfile::tempdir().unwrap();
    let with_adapter = BTreeMap::from([
        ("config.json", "{}"),
        ("adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}"),
        ("model.safetensors", "weights"),
    ]);
    let (endpoint, asked) = serve(with_adapter, FIRST);
    let (text, _) = message(
        &hub(cache.path(), &endpoint, false).find("org/tiny", None, Path::new("/nowhere")).unwrap_err(),
    );
    assert!(text.contains("holds an adapter (LoRA) beside the model"), "{text}");
    assert!(!asked.lock().unwrap().iter().any(|path| path.ends_with("safetensors")));
    // One alone is a model, with what it has beside it.
    let cache = tempfile::tempdir().unwrap();
    let alone = BTreeMap::from([
        ("adapter_config.json", "{\"base_model_name_or_path\": \"org/base\"}"),
        ("adapter_model.safetensors", "weights"),
        ("README.md", "not needed"),
    ]);
    let (endpoint, _) = serve(alone, FIRST);
    let find = |offline| hub(cache.path(), &endpoint, offline).find("org/tiny", None, Path::new("/nowhere"));
    let found = find(false).unwrap().folder;
    assert!(found.join("adapter_model.safetensors").exists() && !found.join("README.md").exists());
    assert_eq!(find(true).unwrap().folder, found);
}

#[test]
fn hub_errors_have_a_help_text() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(BTreeMap::from([("config.json", "{}"), ("pytorch_model.bin", "x")]), FIRST);
    let find = |endpoint: &str, name: &str| {
        message(&hub(folder.path(), endpoint, false).find(name, None, Path::new("/nowhere")).unwrap_err())
    };
    let (text, help) = find(&endpoint, "org/absent");
    assert!(text.contains("404") && help.contains("spelling"), "{text}");
    let (text, help) = find(&endpoint, "org/tiny");
    assert!(text.contains("has no safetensors files") && help.contains("save_pretrained"), "{text}");
    // Nothing listens on that port.
    let (text, help) = find("http://127.0.0.1:9", "org/tiny");
    assert!(
        text.contains("cannot be fetched from http://127.0.0.1:9") && help.contains("without a network"),
        "{text}"
    );
}
