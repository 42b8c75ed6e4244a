//! The standard library of mopd: many small `.mopd` files under virtual `std:` paths, so that spans and go-to-definition
//! work in them as in any other file.

/// Module name and text of every file, in alphabetical order.
pub const MODULES: &[(&str, &str)] = &[
    ("baselines", include_str!("baselines.mopd")),
    ("brts", include_str!("brts.mopd")),
    ("caopd", include_str!("caopd.mopd")),
    ("ccopd", include_str!("ccopd.mopd")),
    ("d_opsd", include_str!("d_opsd.mopd")),
    ("dopd", include_str!("dopd.mopd")),
    ("drpo", include_str!("drpo.mopd")),
    ("effopd", include_str!("effopd.mopd")),
    ("g_opd", include_str!("g_opd.mopd")),
    ("gkd", include_str!("gkd.mopd")),
    ("lightning_opd", include_str!("lightning_opd.mopd")),
    ("many_faces", include_str!("many_faces.mopd")),
    ("mimo", include_str!("mimo.mopd")),
    ("nemotron", include_str!("nemotron.mopd")),
    ("omniopd", include_str!("omniopd.mopd")),
    ("opcod", include_str!("opcod.mopd")),
    ("opd", include_str!("opd.mopd")),
    ("opdlm", include_str!("opdlm.mopd")),
    ("opsd", include_str!("opsd.mopd")),
    ("prune_opd", include_str!("prune_opd.mopd")),
    ("renio", include_str!("renio.mopd")),
    ("rl", include_str!("rl.mopd")),
    ("scope", include_str!("scope.mopd")),
    ("sft", include_str!("sft.mopd")),
    ("spd", include_str!("spd.mopd")),
    ("strong_teacher", include_str!("strong_teacher.mopd")),
    ("tcod", include_str!("tcod.mopd")),
    ("tip", include_str!("tip.mopd")),
    ("uni_opd", include_str!("uni_opd.mopd")),
    ("vopd", include_str!("vopd.mopd")),
    ("vpd", include_str!("vpd.mopd")),
    ("zppo", include_str!("zppo.mopd")),
];

/// The path that people see and the text of `std.<name>`.
pub fn module(name: &str) -> Option<(String, &'static str)> {
    MODULES.iter().find(|(module, _)| *module == name).map(|(module, text)| (format!("std:{module}.mopd"), *text))
}
