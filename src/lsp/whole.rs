//! The experiment and the plan of an open text, which are too slow to assemble at each keystroke: made when a
//! request first needs them, and kept until the text or one of its imports changes.

use std::cell::OnceCell;

use mopd_lang::check::Analysis;
use mopd_plan::Plan;

use super::session::{Document, RefreshInterruption, Session};
use crate::compile::compiled;

#[derive(Default)]
pub struct WholeDocument {
    /// `None` if it took too long.
    analysis: OnceCell<Option<Analysis>>,
    /// `None` if the text can't run.
    plan: OnceCell<Option<Plan>>,
}

impl WholeDocument {
    /// The analysis of `document`, to which this belongs, with its experiment and objectives.
    pub fn analysis(&self, session: &Session, document: &Document) -> Result<&Analysis, RefreshInterruption> {
        if self.analysis.get().is_none() {
            let analysis = session.analyse_whole(document);
            let why = analysis.stopped.then(|| session.interruption());
            if why == Some(RefreshInterruption::Changed) {
                return Err(RefreshInterruption::Changed);
            }
            let _ = self.analysis.set(why.is_none().then_some(analysis));
        }
        self.analysis.get().and_then(Option::as_ref).ok_or(RefreshInterruption::OutOfTime)
    }

    /// The plan of `document`, to which this belongs; `None` if it can't run.
    pub fn plan(&self, session: &Session, document: &Document) -> Result<Option<&Plan>, RefreshInterruption> {
        let analysis = self.analysis(session, document)?;
        let plan = self.plan.get_or_init(|| compiled(analysis)?.ok());
        Ok(plan.as_ref())
    }
}
