//! `mopd fmt`.

use std::io::Write;
use std::process::Stdio;

use super::{GOOD, Place, Said};

/// The same experiment, badly laid out.
fn careless() -> String {
    GOOD.replace("  ", "\t").replace(" = ", "=").replace('\n', " \r\n")
}

#[test]
fn files_are_formatted_in_place_and_named() {
    let place = Place::with(&[
        ("a.mopd", GOOD),
        ("b/c.mopd", &careless()),
        ("b/.store/d.mopd", "let  x=1"),
        ("b/e.txt", "let  x=1"),
    ]);
    let said = place.mopd(&["fmt", "a.mopd", "b"]).is(0, &[]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("b/c.mopd\n", ""));
    assert_eq!(place.read("b/c.mopd"), GOOD);
    assert_eq!(place.read("b/.store/d.mopd"), "let  x=1");
    assert_eq!(place.mopd(&["fmt", "."]).is(0, &[]).out, "");
    let left: Vec<_> = std::fs::read_dir(place.path("b")).expect("a folder").collect();
    assert_eq!(left.len(), 3, "nothing is left beside the files: {left:?}");
}

/// A report shows the text that was run, and sweeps store one for each of their runs.
#[test]
fn fmt_skips_sources_stored_in_runs() {
    let kept = [
        "runs/tiny/source.mopd",
        "runs/tiny/modules/parts.mopd",
        "runs/tiny/previous/source.mopd",
        "runs/many/source.mopd",
    ];
    let mut files = vec![("a.mopd", GOOD), ("runs/tiny/plan.json", "{}"), ("runs/many/sweep.json", "{}")];
    files.extend(kept.map(|name| (name, "let  x=1")));
    files.push(("runs/tiny/mine.mopd", "let  x=1"));
    let place = Place::with(&files);
    // TensorBoard's event files have the same extension, and are not text.
    let events = place.path("runs/tiny/tensorboard/student-seed1/events.out.tfevents.0.mopd");
    std::fs::create_dir_all(events.parent().expect("a folder")).expect("a folder");
    std::fs::write(&events, b"\xff\xfe\0").expect("an event file");
    assert_eq!(place.mopd(&["fmt", "."]).is(0, &[]).out, "./runs/tiny/mine.mopd\n");
    for name in kept {
        assert_eq!(place.read(name), "let  x=1", "{name}");
    }
    // A file that is named on the command line is formatted.
    assert_eq!(place.mopd(&["fmt", kept[0]]).is(0, &[]).out, "runs/tiny/source.mopd\n");
}

#[test]
fn the_plan_is_the_same_afterwards() {
    let place = Place::with(&[("a.mopd", &careless())]);
    let hash = || place.mopd(&["plan", "--format", "json", "a.mopd"]).is(0, &[]).json()["hash"].clone();
    let before = hash();
    assert_eq!(place.mopd(&["fmt", "a.mopd"]).is(0, &[]).out, "a.mopd\n");
    assert!(before.is_string());
    assert_eq!(hash(), before);
}

#[test]
fn checking_changes_nothing() {
    let place = Place::with(&[("a.mopd", GOOD), ("b.mopd", &careless())]);
    let said = place.mopd(&["fmt", "--check", "."]).is(1, &[]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("./b.mopd\n", ""));
    assert_eq!(place.read("b.mopd"), careless());
    assert_eq!(place.mopd(&["fmt", "--check", "a.mopd"]).is(0, &[]).out, "");
}

#[test]
fn a_syntax_error_is_reported_and_the_rest_formatted() {
    let place = Place::with(&[("a.mopd", "let  a=1\nlet  b = = 2\n")]);
    let said = place.mopd(&["fmt", "a.mopd"]).is(1, &["a.mopd:2:10: error[syntax]: "]);
    assert_eq!(said.out, "a.mopd\n");
    assert_eq!(place.read("a.mopd"), "let a = 1\nlet  b = = 2\n");
    assert_eq!(place.mopd(&["fmt", "a.mopd"]).is(1, &["error[syntax]"]).out, "");
}

#[test]
fn standard_input_goes_to_standard_output() {
    let place = Place::new();
    let format = |arguments: &[&str], text: &str| {
        let mut command = place.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mopd starts");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("mopd reads");
        Said::of(child.wait_with_output().expect("it ends"))
    };
    assert_eq!(format(&["fmt", "-"], &careless()).is(0, &[]).out, GOOD);
    assert_eq!(format(&["fmt", "--check", "-"], &careless()).is(1, &[]).out, "-\n");
    assert_eq!(format(&["fmt", "--check", "-"], GOOD).is(0, &[]).out, "");
    assert_eq!(format(&["fmt", "-"], "let  a=(\n").is(1, &["-:1:8: error[syntax]"]).out, "let  a=(\n");
    place.mopd(&["fmt", "-", "a.mopd"]).is(2, &["`-` cannot be combined"]);
}

#[test]
fn fmt_unreadable_or_unwritable_file_exits_with_2() {
    let place = Place::with(&[("a.mopd", &careless()), ("empty/b.txt", "")]);
    std::fs::write(place.path("latin.mopd"), b"// caf\xe9\n").expect("a file");
    let said = place
        .mopd(&["fmt", "none.mopd", "latin.mopd", "a.mopd"])
        .is(2, &["can't read none.mopd", "error[not-text]"]);
    assert_eq!(said.out, "a.mopd\n", "the others are formatted all the same");
    place.mopd(&["fmt", "empty"]).is(2, &["there is no .mopd file in empty"]);
    place.mopd(&["fmt"]).is(2, &["<PATH>"]);

    place.write("fixed.mopd", &careless());
    let file = place.path("fixed.mopd");
    let mut permissions = std::fs::metadata(&file).expect("a file").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&file, permissions).expect("permissions");
    place.mopd(&["fmt", "fixed.mopd"]).is(2, &["can't write fixed.mopd: permission denied"]);
    assert_eq!(place.read("fixed.mopd"), careless());
}

#[test]
fn a_link_and_the_permissions_of_its_file_stay() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::with(&[("far/a.mopd", &careless())]);
    let far = place.path("far/a.mopd");
    std::fs::set_permissions(&far, std::fs::Permissions::from_mode(0o640)).expect("permissions");
    std::os::unix::fs::symlink(&far, place.path("a.mopd")).expect("a link");
    place.mopd(&["fmt", "a.mopd"]).is(0, &[]);
    assert_eq!(place.read("far/a.mopd"), GOOD);
    assert!(place.path("a.mopd").is_symlink());
    assert_eq!(std::fs::metadata(&far).expect("a file").permissions().mode() & 0o777, 0o640);
}
