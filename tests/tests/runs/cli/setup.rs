//! Where libtorch is found, and the message if there is none. No test downloads anything.

use std::path::PathBuf;
use std::process::Command;

use crate::cli::{Place, Said};

const FOLDER: &str = "cache/libtorch-2.11.0-cpu";

/// A worker's script that reports its library path, and the caller's.
const SAYS_PATHS: &str = r#"
paths = [os.environ.get(name) for name in ("LD_LIBRARY_PATH", "MOPD_LIBRARY_PATH")]
say("ready", versions={"mopd": "VERSION", "libtorch": "2.11.0"}, device=str(paths), threads=2)
"#;

/// The command as on a machine without libtorch.
fn bare(mut command: Command, place: &Place) -> Command {
    for name in ["LIBTORCH", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command.env("MOPD_CACHE", place.path("cache"));
    command
}

fn said(mut command: Command) -> Said {
    Said::of(command.output().expect("mopd starts"))
}

fn place() -> Place {
    let place = Place::new();
    place.worker(&SAYS_PATHS.replace("VERSION", env!("CARGO_PKG_VERSION")));
    place
}

#[test]
fn a_worker_is_told_where_libtorch_is() {
    let place = place();
    let doctor = || bare(place.with_worker(&["doctor"]), &place);
    let without = said(doctor()).is(0, &[]).out;
    assert!(without.contains("[None, None]"), "{without}");

    place.write(&format!("{FOLDER}/lib/libtorch_cpu.so"), "a library");
    let found = said(doctor()).is(0, &[]).out;
    let lib = place.path(FOLDER).join("lib").display().to_string();
    assert!(found.contains(&format!("['{lib}', '']")), "{found}");
    assert!(found.contains(&format!("libtorch  2.11.0, {}", place.path(FOLDER).display())), "{found}");

    place.write("own/lib/libtorch_cpu.so", "a library");
    let mut own = doctor();
    own.env("LIBTORCH", place.path("own")).env("LD_LIBRARY_PATH", "/theirs");
    let own = said(own).is(0, &[]).out;
    let lib = place.path("own/lib").display().to_string();
    assert!(own.contains(&format!("['{lib}:/theirs', '/theirs']")), "{own}");
}

#[test]
fn a_variable_that_names_no_libtorch_is_an_error() {
    let place = place();
    let mut command = bare(place.with_worker(&["setup"]), &place);
    command.env("LIBTORCH", place.path("nothing"));
    said(command).is(2, &["error[no-libtorch]", "nothing, which has no lib/libtorch_cpu.so"]);
}

#[test]
fn a_worker_without_its_libraries() {
    let place = Place::new();
    place.worker("print('libtorch_cpu.so: cannot open shared object file', file=sys.stderr)\nsys.exit(127)");
    let doctor = || bare(place.with_worker(&["doctor"]), &place);
    let found = said(doctor()).is(1, &["cannot open shared object file"]).out;
    for part in
        ["can't load its libraries", "`mopd setup` downloads libtorch 2.11.0", "pip install torch==2.11.0"]
    {
        assert!(found.contains(part), "no {part:?} in {found}");
    }
    place.write(&format!("{FOLDER}/lib/libtorch_cpu.so"), "a library");
    let found = said(doctor()).is(1, &[]).out;
    assert!(found.contains("the line above names what is missing beside it"), "{found}");
}

#[test]
fn a_set_up_machine_is_left_alone() {
    let place = place();
    place.write(&format!("{FOLDER}/lib/libtorch_cpu.so"), "a library");
    let setup = said(bare(place.command(&["setup"]), &place)).is(0, &["is here already"]);
    assert_eq!(setup.out.trim_end(), place.path(FOLDER).display().to_string());

    // The download script uses the same folder.
    let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/setup/libtorch.py"));
    let mut python = Command::new("python3");
    python.arg("-S").arg(script);
    let found = said(bare(python, &place)).is(0, &[]);
    assert_eq!(found.out, setup.out);
}

/// What an interrupted copy or a full disk left is fetched again.
#[test]
fn a_cut_libtorch_is_not_here_already() {
    let place = place();
    place.write(&format!("{FOLDER}/lib/libtorch_cpu.so"), "");
    place.write("bin/python3", "#!/bin/sh\necho fetched\n");
    use std::os::unix::fs::PermissionsExt;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path("bin/python3"), executable).expect("permissions");
    let mut command = bare(place.command(&["setup"]), &place);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", place.path("bin").display()));
    let setup = said(command).is(0, &["is not used: lib/libtorch_cpu.so is cut"]);
    assert_eq!(setup.out, "fetched\n");

    // The download script agrees, and begins again: without pip it says so.
    let script = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/setup/libtorch.py"));
    let mut python = Command::new("python3");
    python.arg("-S").arg(script).env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", place.path("none"));
    said(bare(python, &place)).is(1, &["lib/libtorch_cpu.so is cut", "could not fetch"]);
    assert!(!place.path(FOLDER).exists());
}

/// The download, with a Python that only reports its arguments.
#[test]
fn the_set_up_hands_program_and_checksums_to_python() {
    let place = place();
    place.write(
        "bin/python3",
        "#!/bin/sh\necho \"$1 $2\"; echo \"$3\" | grep -c sha256:; grep -c require-hashes\n",
    );
    use std::os::unix::fs::PermissionsExt;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path("bin/python3"), executable).expect("permissions");
    let setup = |words: &[&str]| {
        let mut command = bare(place.command(words), &place);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", place.path("bin").display()));
        said(command).is(0, &[])
    };
    // With a GPU, the whole torch is downloaded.
    let usual = if std::path::Path::new("/dev/nvidia0").exists() { "fetch-cuda" } else { "fetch" };
    assert_eq!(setup(&["setup"]).out, format!("- {usual}\n3\n1\n"));
    assert_eq!(setup(&["setup", "--cuda"]).out, "- fetch-cuda\n3\n1\n");
    // Then a libtorch for the CPU alone is not enough, and one with CUDA is.
    place.write(&format!("{FOLDER}/lib/libtorch_cpu.so"), "a library");
    assert_eq!(setup(&["setup", "--cuda"]).out, "- fetch-cuda\n3\n1\n");
    let folder = "cache/libtorch-2.11.0-cuda/torch";
    for library in ["libtorch_cpu.so", "libtorch_cuda.so"] {
        place.write(&format!("{folder}/lib/{library}"), "a library");
    }
    let found = setup(&["setup", "--cuda"]).out;
    assert_eq!(found.trim_end(), place.path(folder).display().to_string());

    std::fs::remove_dir_all(place.path("cache")).expect("a folder");
    place.write("bin/python3", "#!/bin/sh\necho 'no route to host' >&2; exit 1\n");
    let mut command = bare(place.command(&["setup"]), &place);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", place.path("bin").display()));
    said(command).is(1, &["no route to host", "error[no-libtorch]", "continues with the missing files"]);
}
