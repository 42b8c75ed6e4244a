//! What the audit adds to a check: terms that teach nothing, and losses that are not what they seem.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::{Experiment, Objective, Origin, Stage, Term, Train};
use mopd_lang::source::Span;

use super::Use;
use super::drawn::Drawn;
use super::judge::{Inquiry, Known};
use super::program::View;

/// Findings about the objectives of a sound experiment, as its stages use them. `origins` is what its [`Origin`]s point into.
pub fn findings(experiment: &Experiment, origins: &[Span]) -> Vec<Diagnostic> {
    findings_while(experiment, origins, &|| true)
}

/// The same, as far as it comes until `go_on` says no.
pub fn findings_while(experiment: &Experiment, origins: &[Span], go_on: &dyn Fn() -> bool) -> Vec<Diagnostic> {
    let mut looking = Looking { origins, go_on, seen: Vec::new(), found: Vec::new() };
    for model in &experiment.models {
        match &model.stage {
            Stage::Train(train) => looking.at(train),
            Stage::Joint(joint) => joint.steps.iter().for_each(|step| looking.at(&step.train)),
            _ => {}
        }
    }
    looking.found
}

struct Looking<'a> {
    origins: &'a [Span],
    go_on: &'a dyn Fn() -> bool,
    /// Families of stages share their terms.
    seen: Vec<(&'a Objective, usize, Drawn, bool)>,
    found: Vec<Diagnostic>,
}

impl<'a> Looking<'a> {
    fn at(&mut self, train: &'a Train) {
        // A filter looks at what was drawn: what is 0 on average need not be so among what is left.
        if train.filter.is_some() {
            return;
        }
        let usage = Use::of(train);
        for (place, term) in train.objective.terms.iter().enumerate() {
            let (rollout, kept) = match &term.data {
                Some(data) => (data.as_ref(), false),
                None => (&train.rollout, usage.kept),
            };
            for drawn in Drawn::of(rollout) {
                let again = self
                    .seen
                    .iter()
                    .any(|(known, term, how, only)| (*term, how, *only) == (place, &drawn, kept) && **known == train.objective);
                if again || matches!(drawn, Drawn::Unknown { .. }) || !(self.go_on)() {
                    continue;
                }
                let view = || View::of(&train.objective, term, kept);
                if self.is_zero(&view, &drawn, usage.steps) {
                    self.zero(term, rollout.origin, &drawn);
                } else if drawn.is_on_policy(view().scored_at(&drawn)) {
                    self.misleading(&view, &drawn, usage.steps, term);
                }
                self.seen.push((&train.objective, place, drawn, kept));
            }
        }
    }

    /// Single tokens pull, and all of them together don't: in the middle of the run, at its start and at its end.
    fn is_zero(&self, view: &dyn Fn() -> View<'a>, drawn: &Drawn, steps: u32) -> bool {
        let moments: &[u32] = if view().moves() { &[steps / 2, 0, steps.saturating_sub(1)] } else { &[0] };
        let mut moves = false;
        for step in moments {
            match Inquiry::of(view(), drawn, (*step, steps)).and_then(|inquiry| inquiry.vanishes()) {
                // A coefficient that is 0 for a while is a coefficient, and no mistake.
                Ok((true, moved)) => moves |= moved,
                _ => return false,
            }
        }
        moves
    }

    fn zero(&mut self, term: &Term, rollout: Origin, drawn: &Drawn) {
        let text = "the mean gradient of this term is exactly 0, over everything that can be drawn";
        let finding = Diagnostic::error(Code::ZeroGradient, self.span(term.origin), text)
            .label("each token pulls, and together they cancel")
            .because(self.span(rollout), format!("these are {}", drawn.text()))
            .help("multiply by what is known of the token itself, or differentiate a divergence: `live kl(student || teacher)`");
        self.add(finding);
    }

    /// The value is an estimate of one divergence and the gradient is another one's.
    fn misleading(&mut self, view: &dyn Fn() -> View<'a>, drawn: &Drawn, steps: u32, term: &Term) {
        let Ok(inquiry) = Inquiry::of(view(), drawn, (steps / 2, steps)) else { return };
        let Some((value, gradient)) = inquiry.misleading() else { return };
        let text = format!("the value of this term estimates {value}, its gradient is that of {gradient}");
        let finding = Diagnostic::warning(Code::OtherGradient, self.span(term.origin), text)
            .label("whoever watches this loss sees something else than what is learnt")
            .help(format!(
                "write the divergence that is meant, `live kl(...)`; if {gradient} is, say so: `// allow(other-gradient): why`"
            ));
        self.add(finding);
    }

    fn span(&self, origin: Origin) -> Span {
        self.origins[origin.0 as usize]
    }

    fn add(&mut self, finding: Diagnostic) {
        if !self.found.iter().any(|known| known.code == finding.code && known.primary == finding.primary) {
            self.found.push(finding);
        }
    }
}

impl Inquiry<'_> {
    /// The divergence that the mean value is a multiple of, and the other one that the gradient follows.
    fn misleading(&self) -> Option<(String, String)> {
        if !self.is_one_token() {
            return None;
        }
        // The two directions of each, in a few worlds: hardly any term comes as far as being compared with all the others.
        let named = self.candidates();
        let directions = named.iter().take_while(|named| named.name.starts_with("KL(")).count();
        let worlds = self.worlds();
        let first = &worlds[..worlds.len().min(2)];
        self.estimated(&self.within(first).ok()?, &named[..directions], first)?;
        let usual = self.usual().ok()?;
        let value = self.estimated(&usual, &named[..directions], &worlds)?;
        let known = Known::of(&named, &worlds, self.block()).ok()?;
        let gradient = known.single(&usual.gradient)?;
        (gradient != named[value].name).then(|| (named[value].name.clone(), gradient))
    }
}
