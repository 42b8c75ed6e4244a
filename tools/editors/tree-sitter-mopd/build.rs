//! The parser, generated and compiled: `grammar.js` by Node, and all else without it.

use std::env;
use std::path::PathBuf;

use tree_sitter_generate::{OptLevel, generate_parser_in_directory};

/// The version of the tables that the program `tree-sitter` makes if not asked for another.
const ABI: usize = 15;

fn main() {
    println!("cargo::rerun-if-changed=grammar.js");
    println!("cargo::rerun-if-changed=src/scanner.c");
    println!("cargo::rerun-if-changed=tree-sitter.json");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut warnings = Vec::new();
    let made = generate_parser_in_directory(
        &here,
        Some(&out),
        None::<PathBuf>,
        ABI,
        None,
        Some("node"),
        true,
        OptLevel::default(),
        &mut warnings,
    );
    if let Err(error) = made {
        panic!("grammar.js makes no parser: {error}");
    }
    cc::Build::new()
        .include(&out)
        .file(out.join("parser.c"))
        .file(here.join("src/scanner.c"))
        .warnings(false)
        .compile("tree-sitter-mopd");
}
