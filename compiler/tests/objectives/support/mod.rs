//! The standard library, for experiments that tests write.

use mopd_lang::source::SourceFile;

pub fn library(module: &[&str]) -> Option<SourceFile> {
    let ["std", name] = module else { return None };
    let path = format!("{}/../stdlib/{name}.mopd", env!("CARGO_MANIFEST_DIR"));
    Some(SourceFile { path: format!("std:{name}.mopd"), text: std::fs::read_to_string(path).ok()? })
}
