//! Tests against a server that plays a hostile hub or a broken network.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpStream;

use super::super::fetch::{HubClient, followed};
use super::*;

/// One request.
#[derive(Clone)]
struct Asked {
    path: String,
    headers: Vec<(String, String)>,
}

impl Asked {
    fn header(&self, wanted: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
    }
}

/// Starts a server that listens until the test ends. Returns its address and the log of requests.
fn play(answer: impl Fn(&Asked, &mut TcpStream) + Send + 'static) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let asked = log.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            let headers = lines.take_while(|line| !line.is_empty());
            let headers = headers
                .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.into(), value.into())));
            let request =
                Asked { headers: headers.collect(), path: first.split(' ').nth(1).unwrap().to_owned() };
            // Logged before answering, because the client may look at the log as soon as it has the response.
            asked.lock().unwrap().push(request.clone());
            answer(&request, &mut stream);
        }
    });
    (address, log)
}

fn send(stream: &mut TcpStream, head: &str, body: &[u8]) {
    // The client may close the connection early.
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
}

fn whole(stream: &mut TcpStream, more: &str, body: &[u8]) {
    send(stream, &format!("200 OK\r\nContent-Length: {}{more}", body.len()), body);
}

fn listing(sha: &str, files: &[&str]) -> Vec<u8> {
    let siblings: Vec<_> = files.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
    serde_json::json!({ "sha": sha, "siblings": siblings }).to_string().into_bytes()
}

/// Everything under a folder, relative to it.
fn tree(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path)
            } else {
                found.insert(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found
}

fn find(hub: &Hub) -> Result<ModelFolder> {
    hub.find("org/tiny", None, Path::new("/nowhere"))
}

fn refused(hub: &Hub) -> String {
    message(&find(hub).unwrap_err()).0
}

#[test]
fn no_header_becomes_a_path() {
    let folder = tempfile::tempdir().unwrap();
    // Deep enough that a file written outside the cache is still in `folder`.
    let cache = folder.path().join("a/b/c/cache");
    for evil in ["../../../../evil", "/tmp/mopd-evil", "..", ".", "a/b", "\"../../evil\""] {
        let headers = format!(
            "\r\nETag: {evil}\r\nX-Linked-Etag: {evil}\r\nX-Repo-Commit: {evil}\r\nContent-Disposition: \
             filename={evil}"
        );
        let (address, _) = play(move |asked, stream| {
            let body = if asked.path.starts_with("/api/") {
                listing(FIRST, &["config.json", "model.safetensors", "../../../../evil", "/tmp/mopd-evil"])
            } else {
                b"{}".to_vec()
            };
            whole(stream, &headers, &body);
        });
        let found = find(&hub(&cache, &format!("http://{address}"), false)).unwrap();
        assert_eq!(found.commit.as_deref(), Some(FIRST));
        let written = tree(folder.path());
        let wanted = [
            "refs/main",
            &format!("snapshots/{FIRST}/config.json"),
            &format!("snapshots/{FIRST}/model.safetensors"),
        ];
        let wanted: BTreeSet<_> =
            wanted.iter().map(|name| format!("a/b/c/cache/models--org--tiny/{name}")).collect();
        assert_eq!(written, wanted);
        fs::remove_dir_all(&cache).unwrap();
    }
    assert!(!Path::new("/tmp/mopd-evil").exists());
}

#[test]
fn a_commit_is_a_hash_and_the_one_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(30 << 20);
    for sha in ["../../evil", "/etc", "", "main", "\u{1b}]0;owned\u{7}", &long] {
        let sent = listing(sha, &["config.json"]);
        let (address, _) = play(move |_, stream| whole(stream, "", &sent));
        let text = refused(&hub(folder.path(), &format!("http://{address}"), false));
        assert!(text.contains("which is not a commit of main"), "{text}");
        assert!(text.len() < 400 && !text.contains(char::is_control), "{text}");
    }
    let sent = listing(SECOND, &["config.json"]);
    let (address, _) = play(move |_, stream| whole(stream, "", &sent));
    let hub = hub(folder.path(), &format!("http://{address}"), false);
    assert!(
        message(&hub.find("org/tiny", Some(FIRST), Path::new("/nowhere")).unwrap_err())
            .0
            .contains("is not a commit of 1111")
    );
    assert_eq!(tree(folder.path()), BTreeSet::new());
}

#[test]
fn an_index_names_files_of_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/b/c/cache");
    for evil in ["../../../evil", "/tmp/mopd-evil", "..", "a/b", ""] {
        let index = serde_json::json!({ "weight_map": { "weight": evil } }).to_string().into_bytes();
        let (address, _) = play(move |asked, stream| match asked.path.rsplit('/').next().unwrap() {
            "main" => whole(stream, "", &listing(FIRST, &["config.json", "model.safetensors.index.json"])),
            "config.json" => whole(stream, "", b"{}"),
            _ => whole(stream, "", &index),
        });
        let text = refused(&hub(&cache, &format!("http://{address}"), false));
        assert!(text.contains("is not the name of a file in the same folder"), "{text}");
        assert!(
            tree(folder.path())
                .iter()
                .all(|path| path.starts_with("a/b/c/cache/models--org--tiny/snapshots/"))
        );
        fs::remove_dir_all(&cache).unwrap();
    }
}

#[test]
fn a_token_is_for_its_hub_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (elsewhere, seen_elsewhere) = play(|_, stream| whole(stream, "", b"{}"));
    let target = elsewhere.clone();
    let (home, seen) = play(move |asked, stream| match asked.path.as_str() {
        "/api/models/org/tiny/revision/main" => {
            send(stream, "307 Temporary Redirect\r\nLocation: /moved/here\r\nContent-Length: 0", b"");
        }
        "/moved/here" => {
            whole(stream, "", &listing(FIRST, &["config.json", "model.safetensors", "tokenizer.json"]))
        }
        // Another port of the same machine is another server.
        path if path.ends_with("config.json") => {
            send(stream, &format!("302 Found\r\nLocation: http://{target}/config\r\nContent-Length: 0"), b"");
        }
        path if path.ends_with("tokenizer.json") => {
            send(stream, &format!("302 Found\r\nLocation: //{target}/tokenizer\r\nContent-Length: 0"), b"");
        }
        _ => whole(stream, "", b"{}"),
    });
    let hub = Hub {
        cache: folder.path().to_owned(),
        offline: false,
        endpoint: format!("http://{home}"),
        token: Some("hf_secret".to_owned()),
    };
    // An address without a scheme is refused.
    assert!(refused(&hub).contains("redirects to something that is not an address"));
    let authorization = |log: &Mutex<Vec<Asked>>| -> Vec<Option<String>> {
        log.lock().unwrap().iter().map(|asked| asked.header("authorization").map(str::to_owned)).collect()
    };
    assert_eq!(authorization(&seen), vec![Some("Bearer hf_secret".to_owned()); 4]);
    assert_eq!(authorization(&seen_elsewhere), [None]);
}

#[test]
fn a_password_of_the_address_is_used_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (elsewhere, seen_elsewhere) = play(|_, stream| whole(stream, "", &listing("nonsense", &[])));
    let (home, seen) = play(move |_, stream| {
        send(stream, &format!("302 Found\r\nLocation: http://{elsewhere}/x\r\nContent-Length: 0"), b"");
    });
    let endpoint = format!("http://user:pass%2Fword@{home}/mirror");
    let text = refused(&hub(folder.path(), &endpoint, false));
    assert!(
        text.contains(&format!(", and http://{home}/mirror replied that org/tiny is at \"nonsense\"")),
        "{text}"
    );
    assert_eq!(seen.lock().unwrap()[0].header("authorization"), Some("Basic dXNlcjpwYXNzL3dvcmQ="));
    assert_eq!(seen_elsewhere.lock().unwrap()[0].header("authorization"), None);
    // Neither is the password of an address that can't be parsed or reached.
    for endpoint in [
        "http://user:secret@127.0.0.1:9",
        "user:secret@host",
        "http://user:se/cret@host:x",
        "https://",
        "ftp://secret@h",
    ] {
        let (text, help) = message(&find(&hub(folder.path(), endpoint, false)).unwrap_err());
        assert!(
            !text.contains("secret") && !text.contains("cret@") && !help.contains("secret"),
            "{text} {help}"
        );
    }
}

#[test]
fn redirections_end_and_stay_private() {
    let folder = tempfile::tempdir().unwrap();
    let (address, seen) = play(|asked, stream| {
        send(stream, &format!("302 Found\r\nLocation: {}x\r\nContent-Length: 0", asked.path), b"");
    });
    assert!(
        refused(&hub(folder.path(), &format!("http://{address}"), false))
            .contains("redirects more than 10 times")
    );
    assert_eq!(seen.lock().unwrap().len(), 11);
    let uri = |text: &str| text.parse::<Uri>().unwrap();
    let follow = |location: &str| followed(&uri("https://hub/a"), location).map(|uri| uri.to_string());
    for (location, wanted) in [
        ("/b?c=d", "https://hub/b?c=d"),
        ("https://hub/b", "https://hub/b"),
        ("https://HUB:443/b", "https://HUB:443/b"),
        ("https://other/b", "https://other/b"),
        ("https://x:y@other:8/b", "https://other:8/b"),
        ("https://hub:444/b", "https://hub:444/b"),
    ] {
        assert_eq!(follow(location).unwrap(), wanted);
    }
    for location in [
        "http://hub/b",
        "http://other/b",
        "file:///etc/passwd",
        "ftp://hub/",
        "//other/b",
        "b",
        "",
        "https:///b",
    ] {
        assert!(follow(location).is_err(), "{location}");
    }
}

fn fetched(address: &str, limit: u64, to: &Path) -> Result<Vec<u8>, String> {
    let endpoint = Endpoint::new(&format!("http://{address}")).unwrap();
    let got =
        HubClient::new(&endpoint, None).file(Repository::model("org/tiny"), FIRST, "a file.json", limit, to);
    got.map_err(|trouble| message(&failed(Repository::model("org/tiny"), "main", &endpoint, trouble)).0)?;
    let left = tree(to.parent().unwrap());
    assert_eq!(left.len(), 1, "{left:?}");
    Ok(fs::read(to).unwrap())
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let sent = content.clone();
    let (address, seen) = play(move |asked, stream| {
        let total = sent.len();
        match asked
            .header("range")
            .map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap())
        {
            None => send(stream, &format!("200 OK\r\nContent-Length: {total}"), &sent[..300_000]),
            Some(from) => {
                let head = format!(
                    "206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}\r\nContent-Length: {}",
                    total - 1,
                    total - from
                );
                // The second response is cut short too.
                let end = if from < 400_000 { (from + 150_000).min(total) } else { total };
                send(stream, &head, &sent[from..end]);
            }
        }
    });
    assert_eq!(fetched(&address, u64::MAX, &folder.path().join("f")).unwrap(), content);
    assert_eq!(seen.lock().unwrap()[0].path, format!("/org/tiny/resolve/{FIRST}/a%20file.json"));
    let ranges: Vec<_> = seen.lock().unwrap().iter().map(|asked| asked.header("range").is_some()).collect();
    assert_eq!(ranges, [false, true, true]);
}

#[test]
fn answers_that_do_not_end_or_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let endless = |head: &'static str, piece: &'static [u8]| {
        move |_: &Asked, stream: &mut TcpStream| {
            send(stream, head, b"");
            while stream.write_all(piece).is_ok() {}
        }
    };
    let to = folder.path().join("f");
    let case = |address: &str, wanted: &str| {
        let text = fetched(address, 1000, &to).unwrap_err();
        assert!(text.contains(wanted), "{text}");
        assert!(!to.exists());
    };
    case(
        &play(endless("200 OK\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n")).0,
        "sent more bytes than such a file can have",
    );
    case(&play(endless("200 OK", b"hello")).0, "does not report the length");
    case(&play(endless("200 OK\r\nContent-Length: 99999999999", b"hello")).0, "the file has 95367 MiB");
    case(&play(|_, stream| whole(stream, "\r\nContent-Encoding: br", b"x")).0, "compressed");
    case(
        &play(|_, stream| {
            send(stream, "206 Partial Content\r\nContent-Range: bytes 7-9/10\r\nContent-Length: 3", b"abc")
        })
        .0,
        "another part",
    );
    // A chunked response with an end is accepted.
    let (address, _) = play(|_, stream| {
        send(stream, "200 OK\r\nTransfer-Encoding: chunked", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    });
    assert_eq!(fetched(&address, 1000, &to).unwrap(), b"abc");
    // A list of files that does not end.
    let (address, _) = play(endless("200 OK\r\nTransfer-Encoding: chunked", b"5\r\n     \r\n"));
    assert!(
        refused(&hub(folder.path(), &format!("http://{address}"), false))
            .contains("its reply is larger than 32 MiB")
    );
}

#[test]
fn partial_download_of_another_file_is_discarded() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".a file.json.incomplete"), vec![0; 5000]).unwrap();
    let (address, _) = play(|asked, stream| match asked.header("range") {
        Some(_) => {
            send(stream, "416 Range Not Satisfiable\r\nContent-Range: bytes */3\r\nContent-Length: 0", b"")
        }
        None => whole(stream, "", b"abc"),
    });
    assert_eq!(fetched(&address, 1000, &folder.path().join("f")).unwrap(), b"abc");
}

#[test]
fn two_fetch_a_file_once() {
    let folder = tempfile::tempdir().unwrap();
    let (address, seen) = play(|_, stream| {
        std::thread::sleep(std::time::Duration::from_millis(200));
        whole(stream, "", b"abc");
    });
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let endpoint = Endpoint::new(&format!("http://{address}")).unwrap();
                    HubClient::new(&endpoint, None)
                        .file(Repository::model("org/tiny"), FIRST, "f", 1000, &folder.path().join("f"))
                        .unwrap();
                })
            })
            .collect();
        all.into_iter().for_each(|one| one.join().unwrap());
    });
    assert_eq!(fs::read(folder.path().join("f")).unwrap(), b"abc");
    assert_eq!(seen.lock().unwrap().len(), 1);
    assert_eq!(tree(folder.path()).len(), 1);
}

#[test]
fn server_that_does_not_speak_http_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in [
        &b"\x1b[2J\x00\xff\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nLocation: \xff\xfe\r\n\r\n",
        b"",
        b"HTTP/9.9 xx\r\n\r\n",
    ] {
        let (address, _) = play(move |_, stream| {
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0]);
        });
        let text = refused(&hub(folder.path(), &format!("http://{address}"), false));
        assert!(text.contains("cannot be fetched from") && !text.contains(char::is_control), "{text}");
    }
}
