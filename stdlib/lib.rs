//! The standard library of mopd: many small `.mopd` files under virtual `std:` paths, so that spans and go-to-definition
//! work in them as in any other file.

/// Module name and text of every file, in alphabetical order.
pub const MODULES: &[(&str, &str)] = &[
    ("aligndistil", include_str!("aligndistil.mopd")),
    ("atesd", include_str!("atesd.mopd")),
    ("baselines", include_str!("baselines.mopd")),
    ("compass", include_str!("compass.mopd")),
    ("cross_tokenizer", include_str!("cross_tokenizer.mopd")),
    ("dagger", include_str!("dagger.mopd")),
    ("decoupling", include_str!("decoupling.mopd")),
    ("deepseek", include_str!("deepseek.mopd")),
    ("dgrpo", include_str!("dgrpo.mopd")),
    ("distillm", include_str!("distillm.mopd")),
    ("dn_mopd", include_str!("dn_mopd.mopd")),
    ("dp_opd", include_str!("dp_opd.mopd")),
    ("draft_opd", include_str!("draft_opd.mopd")),
    ("dress", include_str!("dress.mopd")),
    ("drpo", include_str!("drpo.mopd")),
    ("erpd", include_str!("erpd.mopd")),
    ("estimators", include_str!("estimators.mopd")),
    ("gkd", include_str!("gkd.mopd")),
    ("hy_embodied", include_str!("hy_embodied.mopd")),
    ("kd", include_str!("kd.mopd")),
    ("kimi", include_str!("kimi.mopd")),
    ("mad", include_str!("mad.mopd")),
    ("mgsd", include_str!("mgsd.mopd")),
    ("mimo", include_str!("mimo.mopd")),
    ("minillm", include_str!("minillm.mopd")),
    ("nemotron", include_str!("nemotron.mopd")),
    ("opd", include_str!("opd.mopd")),
    ("open_mopd", include_str!("open_mopd.mopd")),
    ("pipo", include_str!("pipo.mopd")),
    ("prism", include_str!("prism.mopd")),
    ("raft", include_str!("raft.mopd")),
    ("rl", include_str!("rl.mopd")),
    ("rpd", include_str!("rpd.mopd")),
    ("sft", include_str!("sft.mopd")),
    ("skd", include_str!("skd.mopd")),
    ("sod", include_str!("sod.mopd")),
    ("soda", include_str!("soda.mopd")),
    ("sparse_to_dense", include_str!("sparse_to_dense.mopd")),
    ("tip", include_str!("tip.mopd")),
    ("trd", include_str!("trd.mopd")),
    ("v_zero", include_str!("v_zero.mopd")),
    ("video_opd", include_str!("video_opd.mopd")),
    ("vision_opd", include_str!("vision_opd.mopd")),
    ("vla_opd", include_str!("vla_opd.mopd")),
];

/// The path that people see and the text of `std.<name>`.
pub fn module(name: &str) -> Option<(String, &'static str)> {
    MODULES.iter().find(|(module, _)| *module == name).map(|(module, text)| (format!("std:{module}.mopd"), *text))
}
