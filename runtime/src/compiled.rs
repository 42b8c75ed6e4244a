//! Compiles the program text of a unit test to a plan, with the standard library.

use mopd_lang::source::SourceFile;
use mopd_plan::{Model, Objective, Plan, Stage, Train};

pub fn plan(text: impl Into<String>) -> Plan {
    let entry = SourceFile { path: "test.mopd".to_owned(), text: text.into() };
    let standard = |path: &str| {
        mopd_std::source(path).map(|text| SourceFile { path: path.to_owned(), text: text.to_owned() })
    };
    let analysis = mopd_lang::analyse(entry, &standard);
    assert!(!analysis.has_errors(), "{:?}", analysis.diagnostics);
    let experiment = analysis.experiment.as_ref().unwrap();
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).unwrap()
}

/// The training stage of the model named `model`.
#[track_caller]
pub fn train<'p>(plan: &'p Plan, model: &str) -> &'p Train<Objective> {
    let found = plan.experiment.models.iter().find(|known| known.name == model);
    let Some(Model { stage: Stage::Train(train), .. }) = found else {
        panic!("no model `{model}` is trained")
    };
    train
}
