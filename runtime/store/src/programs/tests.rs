use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// A folder with these files.
fn folder(files: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    folder
}

fn of(command: &str, folder: &TempDir) -> CommandSources {
    CommandSources::find(command, &[], folder.path()).unwrap()
}

fn names(command: &str, folder: &TempDir) -> Vec<String> {
    of(command, folder).names().map(str::to_owned).collect()
}

#[test]
fn modules_beside_a_script_count_and_data_does_not() {
    let folder = folder(&[
        "verify.py",
        "rules/math.py",
        "rules/text.sh",
        "train.jsonl",
        "config.json",
        ".git/hook.py",
        "__pycache__/x.py",
    ]);
    let expected = ["rules/math.py", "rules/text.sh", "verify.py"];
    assert_eq!(names("python3 verify.py", &folder), expected);
    let before = of("python3 verify.py", &folder).hash();
    fs::write(folder.path().join("train.jsonl"), "other").unwrap();
    assert_eq!(of("python3 verify.py", &folder).hash(), before);
    fs::write(folder.path().join("rules/math.py"), "other").unwrap();
    assert_ne!(of("python3 verify.py", &folder).hash(), before);
}

#[test]
fn every_way_to_name_a_file_is_seen() {
    let folder = folder(&[
        "v/verify.py",
        "v/lib.py",
        "rules.json",
        "v/rules.json",
        "pkg/judge/main.py",
        "pkg/other.py",
    ]);
    assert_eq!(
        names("python3 v/verify.py --rules=rules.json", &folder),
        ["rules.json", "v/lib.py", "v/verify.py"]
    );
    assert_eq!(names("RULES=rules.json true", &folder), ["rules.json"]);
    assert_eq!(names("true '--rules' \"rules.json\"; exit", &folder), ["rules.json"]);
    // After `cd`, words are relative to the new folder.
    let found = names("cd v && python3 verify.py rules.json", &folder);
    assert!(
        ["v/lib.py", "verify.py", "rules.json"].iter().all(|name| found.contains(&(*name).to_owned())),
        "{found:?}"
    );
    fs::write(folder.path().join("v/rules.json"), "{}").unwrap();
    let of_v = of("cd v && python3 verify.py rules.json", &folder);
    let rules = folder.path().join("v/rules.json");
    assert!(of_v.hashed.iter().any(|file| file.path == rules), "{:?}", of_v.hashed);
    // Imports are followed from where Python finds the module.
    assert!(names("python3 -m pkg.judge", &folder).contains(&"pkg/other.py".to_owned()));
    assert!(of("python3 -m installed", &folder).unseen[0].contains("installed module `installed`"));
    assert_eq!(names("true", &folder), Vec::<String>::new());
    // Commands within a command, and folders.
    assert!(names("bash -c 'cd v && python3 verify.py'", &folder).contains(&"v/lib.py".to_owned()));
    fs::write(folder.path().join("my rules.json"), "{}").unwrap();
    assert!(names("true 'my rules.json'", &folder).contains(&"my rules.json".to_owned()));
    for command in ["python3 pkg", "PYTHONPATH=pkg/judge python3 -m main", "python3 v/verify.py --with=pkg/"]
    {
        let found = of(command, &folder);
        assert!(found.names().any(|name| name == "pkg/judge/main.py"), "{command}: {found:?}");
        assert!(found.unseen[0].contains("besides sources"), "{command}: {found:?}");
    }
    assert_eq!(names("cd / && ls . / /tmp", &folder), Vec::<String>::new());
    for word in ["$HOME/verify.py", "rules/*.json", "~/verify.py", "`which judge`"] {
        let said = of(&format!("python3 {word}"), &folder).unseen;
        assert!(said[0].starts_with("files that the shell substitutes for"), "{word}: {said:?}");
    }
}

/// Neither relative nor absolute paths say where the experiment is.
#[test]
fn the_hash_does_not_depend_on_where_it_lies() {
    let files = ["verify.py", "lib/a.py", "rules.json"];
    let (one, other) = (folder(&files), folder(&files));
    let found = |command: &str, lib: &str, folder: &TempDir| {
        let at = |text: &str| text.replace("HERE", &folder.path().display().to_string());
        CommandSources::find(&at(command), &[at(lib)], folder.path()).unwrap()
    };
    let hash = |command: &str, lib: &str, folder: &TempDir| found(command, lib, folder).hash();
    let relative = ("python3 verify.py", "lib");
    let absolute = ("cd HERE && PYTHONPATH=HERE/lib python3 HERE/verify.py -r=HERE/rules.json", "HERE/lib");
    for (command, lib) in [relative, absolute] {
        assert_eq!(hash(command, lib, &one), hash(command, lib, &other), "{command}");
    }
    let (command, lib) = absolute;
    let found = found(command, lib, &one);
    assert_eq!(found.names().collect::<Vec<_>>(), ["lib/a.py", "rules.json", "verify.py"]);
    assert!(found.files.iter().all(|(name, _)| !name.starts_with('/')));
    assert_ne!(hash(&format!("{command} --strict"), lib, &one), hash(command, lib, &one), "its arguments");
    fs::write(other.path().join("rules.json"), "{}").unwrap();
    assert_ne!(hash(command, lib, &one), hash(command, lib, &other), "its files");
    let before = hash("python3 verify.py", "lib", &other);
    fs::rename(other.path().join("lib/a.py"), other.path().join("lib/b.py")).unwrap();
    assert_ne!(before, hash("python3 verify.py", "lib", &other), "another name is imported by another name");
}

#[test]
fn declared_dependencies_of_a_command_are_hashed() {
    let folder = folder(&["verify.py", "rules.json", "lists/words.txt"]);
    let depends = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        CommandSources::find("python3 verify.py", &paths, folder.path())
    };
    let found = depends(&["rules.json", "lists/"]).unwrap();
    assert_eq!(found.names().collect::<Vec<_>>(), ["lists/words.txt", "rules.json", "verify.py"]);
    let problem = depends(&["rule.json"]).unwrap_err().to_string();
    assert!(problem.contains("rule.json") && problem.contains("there is no such file"), "{problem}");
    assert!(depends(&["/dev/zero"]).unwrap_err().to_string().contains("it is a device"));
}

/// The user named the folder, so nothing in it may be changed unnoticed.
#[test]
fn every_file_of_a_declared_folder_counts() {
    let deep = format!("rules/{}end.txt", "d/".repeat(20));
    let files = ["verify.py", "rules/.bonus.json", "rules/venv/a.txt", "rules/.git/b", "rules/c.bin", &deep];
    let folder = folder(&files);
    let hash = || CommandSources::find("verify.py", &["rules/".to_owned()], folder.path()).unwrap().hash();
    for file in &files[1..] {
        let before = hash();
        fs::write(folder.path().join(file), "other").unwrap();
        assert_ne!(hash(), before, "{file}");
    }
    // A program that is run writes these.
    let before = hash();
    fs::create_dir(folder.path().join("rules/__pycache__")).unwrap();
    fs::write(folder.path().join("rules/__pycache__/a.pyc"), "").unwrap();
    assert_eq!(hash(), before);
    // A link selects a folder whose files are listed anyway.
    fs::create_dir_all(folder.path().join("rules/d2")).unwrap();
    let link = folder.path().join("rules/used");
    symlink("d", &link).unwrap();
    let before = hash();
    fs::remove_file(&link).unwrap();
    symlink("d2", &link).unwrap();
    assert_ne!(hash(), before);
    symlink("..", folder.path().join("rules/up")).unwrap();
    hash();
    fs::create_dir(folder.path().join("rules/many")).unwrap();
    for index in 0..=ENTRIES_AT_MOST {
        fs::write(folder.path().join(format!("rules/many/{index}")), "").unwrap();
    }
    let problem = CommandSources::find("verify.py", &["rules".to_owned()], folder.path()).unwrap_err();
    let problem = problem.to_string();
    assert!(problem.contains("more than 20000 files and folders; name the files"), "{problem}");
}

#[test]
fn dependency_search_ends_with_symlink_cycles_and_many_files() {
    let folder = folder(&["v/verify.py", "elsewhere/lib.py"]);
    let at = |name: &str| folder.path().join(name);
    symlink("..", at("v/up")).unwrap();
    symlink("../elsewhere", at("v/lib")).unwrap();
    symlink("nowhere.py", at("v/gone.py")).unwrap();
    symlink("../elsewhere/lib.py", at("v/file.py")).unwrap();
    let found = names("python3 v/verify.py", &folder);
    assert_eq!(found, ["v/file.py", "v/lib/lib.py", "v/verify.py"]);
    for index in 0..=WalkScope::Sources.limits().0 {
        fs::write(at(&format!("v/{index}.py")), "").unwrap();
    }
    let crowded = of("python3 v/verify.py", &folder);
    assert_eq!(crowded.names().collect::<Vec<_>>(), ["v/verify.py"]);
    assert!(crowded.unseen[0].contains("other files of v (more than 1000 files)"), "{:?}", crowded.unseen);
}
