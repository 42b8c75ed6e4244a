//! Lists the modules of the library: every `.mopd` file of this folder, in alphabetical order.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=.");
    let folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    let files = fs::read_dir(&folder).expect("the crate's folder").map(|entry| entry.expect("a file").path());
    let mut modules: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "mopd")).collect();
    modules.sort();
    let mut list = "&[\n".to_owned();
    for path in &modules {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a module's name is a word");
        writeln!(list, "    ({name:?}, include_str!({path:?})),").expect("a text takes it");
    }
    list.push_str("]\n");
    fs::write(Path::new(&out).join("modules.rs"), list).expect("cargo's folder can be written to");
}
