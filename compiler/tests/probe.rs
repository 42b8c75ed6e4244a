use mopd_compiler::audit::{Use, audit};
use mopd_lang::source::SourceFile;
fn load(module: &[&str]) -> Option<SourceFile> {
    let ["std", name] = module else { return None };
    let path = format!("{}/../stdlib/{name}.mopd", env!("CARGO_MANIFEST_DIR"));
    Some(SourceFile { path: format!("std:{name}.mopd"), text: std::fs::read_to_string(path).ok()? })
}
#[test]
fn probe() {
    let mut names: Vec<String> = match std::env::var("PROBE") { Ok(f) => vec![f], Err(_) => std::fs::read_dir(format!("{}/../stdlib", env!("CARGO_MANIFEST_DIR"))).unwrap().filter_map(|e| { let p = e.unwrap().path(); (p.extension()? == "mopd").then(|| p.display().to_string()) }).collect() };
    names.sort();
    for file in names {
        let text = std::fs::read_to_string(&file).unwrap();
        let analysis = mopd_lang::analyse(SourceFile { path: file.clone(), text }, &load);
        for d in &analysis.diagnostics { println!("{:?} {}", d.code, d.message); }
        println!("=== {}", file.rsplit('/').next().unwrap());
        for named in &analysis.objectives {
            let start = std::time::Instant::now();
            let found = audit(&named.objective, &Use::unknown());
            let took = start.elapsed();
            println!("{} [{:?}]", named.objective.name, took);
            for term in &found.terms { for finding in &term.findings { for line in finding.lines() { println!("    {}: {line}", term.term); } } }
        }
    }
}
