//! The standard library of mopd: many small `.mopd` files under virtual `std:` paths, so that spans and
//! go-to-definition work in them as in any other file.

#![forbid(unsafe_code)]

/// Module name and text of every file, in alphabetical order.
pub const MODULES: &[(&str, &str)] = &[
    ("aligndistil", include_str!("aligndistil.mopd")),
    ("atesd", include_str!("atesd.mopd")),
    ("baselines", include_str!("baselines.mopd")),
    ("brts", include_str!("brts.mopd")),
    ("caopd", include_str!("caopd.mopd")),
    ("ccopd", include_str!("ccopd.mopd")),
    ("compass", include_str!("compass.mopd")),
    ("cross_tokenizer", include_str!("cross_tokenizer.mopd")),
    ("d_opsd", include_str!("d_opsd.mopd")),
    ("dagger", include_str!("dagger.mopd")),
    ("decoupling", include_str!("decoupling.mopd")),
    ("deepseek", include_str!("deepseek.mopd")),
    ("dgrpo", include_str!("dgrpo.mopd")),
    ("distillm", include_str!("distillm.mopd")),
    ("divergences", include_str!("divergences.mopd")),
    ("dn_mopd", include_str!("dn_mopd.mopd")),
    ("dopd", include_str!("dopd.mopd")),
    ("dp_opd", include_str!("dp_opd.mopd")),
    ("draft_opd", include_str!("draft_opd.mopd")),
    ("dress", include_str!("dress.mopd")),
    ("drpo", include_str!("drpo.mopd")),
    ("effopd", include_str!("effopd.mopd")),
    ("erpd", include_str!("erpd.mopd")),
    ("estimators", include_str!("estimators.mopd")),
    ("g_opd", include_str!("g_opd.mopd")),
    ("gkd", include_str!("gkd.mopd")),
    ("hy_embodied", include_str!("hy_embodied.mopd")),
    ("kd", include_str!("kd.mopd")),
    ("kimi", include_str!("kimi.mopd")),
    ("lightning_opd", include_str!("lightning_opd.mopd")),
    ("mad", include_str!("mad.mopd")),
    ("many_faces", include_str!("many_faces.mopd")),
    ("mgsd", include_str!("mgsd.mopd")),
    ("mimo", include_str!("mimo.mopd")),
    ("minillm", include_str!("minillm.mopd")),
    ("nemotron", include_str!("nemotron.mopd")),
    ("omniopd", include_str!("omniopd.mopd")),
    ("opcod", include_str!("opcod.mopd")),
    ("opd", include_str!("opd.mopd")),
    ("opdlm", include_str!("opdlm.mopd")),
    ("open_mopd", include_str!("open_mopd.mopd")),
    ("opsd", include_str!("opsd.mopd")),
    ("pipo", include_str!("pipo.mopd")),
    ("prism", include_str!("prism.mopd")),
    ("prune_opd", include_str!("prune_opd.mopd")),
    ("raft", include_str!("raft.mopd")),
    ("renio", include_str!("renio.mopd")),
    ("rl", include_str!("rl.mopd")),
    ("rpd", include_str!("rpd.mopd")),
    ("scope", include_str!("scope.mopd")),
    ("sft", include_str!("sft.mopd")),
    ("skd", include_str!("skd.mopd")),
    ("sod", include_str!("sod.mopd")),
    ("soda", include_str!("soda.mopd")),
    ("sparse_to_dense", include_str!("sparse_to_dense.mopd")),
    ("spd", include_str!("spd.mopd")),
    ("strong_teacher", include_str!("strong_teacher.mopd")),
    ("tcod", include_str!("tcod.mopd")),
    ("tip", include_str!("tip.mopd")),
    ("trd", include_str!("trd.mopd")),
    ("uni_opd", include_str!("uni_opd.mopd")),
    ("v_zero", include_str!("v_zero.mopd")),
    ("video_opd", include_str!("video_opd.mopd")),
    ("vision_opd", include_str!("vision_opd.mopd")),
    ("vla_opd", include_str!("vla_opd.mopd")),
    ("vopd", include_str!("vopd.mopd")),
    ("vpd", include_str!("vpd.mopd")),
    ("zppo", include_str!("zppo.mopd")),
];

/// The path that people see and the text of `std.<name>`.
pub fn module(name: &str) -> Option<(String, &'static str)> {
    MODULES
        .iter()
        .find(|(module, _)| *module == name)
        .map(|(module, text)| (format!("std:{module}.mopd"), *text))
}

/// What the library offers: a line `module name` for every public item.
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

/// The text of a module of the library, or under `std` itself what [`index`] lists: what a checker asks its
/// host for.
pub fn source(path: &[&str]) -> Option<(String, String)> {
    match path {
        ["std"] => Some(("std:".to_owned(), index().to_owned())),
        ["std", name] => module(name).map(|(path, text)| (path, text.to_owned())),
        _ => None,
    }
}
