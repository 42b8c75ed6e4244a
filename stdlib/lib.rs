//! The standard library of mopd: many small `.mopd` files under virtual `std:` paths, so that spans and
//! go-to-definition work in them as in any other file.

#![forbid(unsafe_code)]

/// Module name and text of every file, in alphabetical order. `build.rs` lists them.
pub const MODULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// The displayed path and the text of the module `std.<name>`.
pub fn module(name: &str) -> Option<(String, &'static str)> {
    MODULES
        .iter()
        .find(|(module, _)| *module == name)
        .map(|(module, text)| (format!("std:{module}.mopd"), *text))
}

/// The index of the library: a line `module name` for every public item.
pub fn index() -> &'static str {
    static INDEX: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let mut index = String::new();
        for (module, text) in MODULES {
            for line in text.lines().filter_map(|line| line.strip_prefix("pub ")) {
                let name = line.split_once(' ').map_or("", |(_, rest)| rest);
                let name =
                    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
                index.push_str(module);
                index.push(' ');
                index.push_str(name);
                index.push('\n');
            }
        }
        index
    });
    &INDEX
}

/// The text at a displayed path: `std:opd.mopd` is a module of the library, `std:` is its [`index`]. The
/// checker asks its host for these.
pub fn source(path: &str) -> Option<&'static str> {
    match path.strip_prefix("std:")? {
        "" => Some(index()),
        file => module(file.strip_suffix(".mopd")?).map(|(_, text)| text),
    }
}
