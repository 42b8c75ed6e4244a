//! The divergences of the standard library that every gradient is compared with.

use std::rc::Rc;

use mopd_experiment::formula::{DivergenceKind, FormulaKind, Live};
use mopd_lang::analyse;
use mopd_lang::source::SourceFile;

/// A divergence of the standard library that every gradient is compared with.
pub(super) struct StandardDivergence {
    pub name: &'static str,
    /// The separator of its sides.
    pub between: &'static str,
    /// Whether the student is on the left.
    pub reversed: bool,
    pub kind: DivergenceKind,
}

/// The divergence of a call, which is known everywhere.
pub(super) fn called(call: &str) -> DivergenceKind {
    let text = format!("objective o {{\n term all = live {call}\n reduce = mean(token, over: batch)\n}}\n");
    let analysis = analyse(SourceFile { path: "known.mopd".into(), text }, &|_| None);
    let value = &analysis.objectives[0].objective.terms[0].value;
    let FormulaKind::Live(Live::Divergence(divergence)) = &value.0.kind else {
        unreachable!("the term is a divergence")
    };
    divergence.kind.clone()
}

pub(super) fn standard() -> Rc<Vec<StandardDivergence>> {
    type KnownCall = (&'static str, &'static str, bool, &'static str);
    const KNOWN: [KnownCall; 5] = [
        ("TV", ", ", false, "tv(teacher, student)"),
        ("squared Hellinger", ", ", false, "hellinger(teacher, student)"),
        ("chi2", " || ", false, "chi2(teacher || student)"),
        ("chi2", " || ", true, "chi2(student || teacher)"),
        ("JSD", ", ", false, "jsd(teacher, student, beta: 0.5)"),
    ];
    fn known((name, between, reversed, call): &KnownCall) -> StandardDivergence {
        StandardDivergence { name, between, reversed: *reversed, kind: called(call) }
    }
    thread_local! {
        static STANDARD: Rc<Vec<StandardDivergence>> = Rc::new(KNOWN.iter().map(known).collect());
    }
    STANDARD.with(Rc::clone)
}
