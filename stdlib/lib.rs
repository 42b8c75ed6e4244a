//! The standard library of mopd: many small `.mopd` files under virtual `std:` paths, so that spans and go-to-definition
//! work in them as in any other file.

/// Module name and text of every file, in alphabetical order.
pub const MODULES: &[(&str, &str)] = &[
    ("baselines", include_str!("baselines.mopd")),
    ("drpo", include_str!("drpo.mopd")),
    ("gkd", include_str!("gkd.mopd")),
    ("mimo", include_str!("mimo.mopd")),
    ("nemotron", include_str!("nemotron.mopd")),
    ("opd", include_str!("opd.mopd")),
    ("rl", include_str!("rl.mopd")),
    ("sft", include_str!("sft.mopd")),
    ("tip", include_str!("tip.mopd")),
];

/// The path that people see and the text of `std.<name>`.
pub fn module(name: &str) -> Option<(String, &'static str)> {
    MODULES.iter().find(|(module, _)| *module == name).map(|(module, text)| (format!("std:{module}.mopd"), *text))
}
