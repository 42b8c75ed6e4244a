//! The parts of a stage that differ between recipes: the source of completions, and the objective.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Live, PreferenceKind, Reduction, Unit};
use mopd_experiment::{
    BatchSize, Edit, Keep, ModelId, Objective, Origin, Recipe, Reduce, ReduceStep, Rollout, RolloutSource,
    Share, Term,
};

use crate::check::Checker;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::{DeclaredBlock, Required};
use crate::check::builtins::types::{self, Count};
use crate::check::builtins::vocabulary::{DpoBlock, GrpoBlock, SftBlock};
use crate::check::names::modules::{GRPO_OBJECTIVE, SFT_OBJECTIVE};
use crate::check::rollouts::SamplingArguments;
use crate::check::stages::settings::BlockSettings;
use crate::check::values::evaluate::Env;

/// The parts of a stage that differ between recipes, read before the stage is put together.
pub(in crate::check) struct RecipeParts {
    pub recipe: Recipe,
    pub start: Option<ModelId>,
    pub mixture: Option<Vec<Share>>,
    pub rollout: Option<Rollout>,
    pub size: Option<BatchSize>,
    pub keep: Keep,
    pub objective: Option<Rc<Objective>>,
}

/// The completions of the first term, if every term has its own: the stage then needs no `rollout`.
fn own_completions(objective: &Objective) -> Option<Rollout> {
    let of_term = |term: &Term| {
        let pair = term.value.parts().into_iter().find_map(|part| match &part.0.kind {
            FormulaKind::Live(Live::Preference(preference)) => Some(preference.chosen.clone()),
            _ => None,
        });
        term.data.as_ref().map(|data| Rollout::clone(data)).or(pair)
    };
    let own: Option<Vec<Rollout>> = objective.terms.iter().map(of_term).collect();
    own?.into_iter().next()
}

/// The objective of `dpo`: the mean over the batch of `pair`, one pair of completions for each prompt.
fn preference(pair: Live, origin: Origin) -> Objective {
    let value = Formula::new(FormulaKind::Live(pair), Unit::Nats, Axis::Group, true, origin);
    let term =
        Term { name: "preference".into(), value, when: None, weight: None, reduce: None, data: None, origin };
    let step = ReduceStep {
        operation: Reduction::Mean,
        elements: Axis::Group,
        over: Axis::Batch,
        among_when: false,
    };
    let reduce = Reduce { steps: vec![step], denominator: None, balance: None, origin };
    Objective {
        name: "dpo".into(),
        terms: vec![term],
        select: None,
        weight: None,
        temperature: None,
        reduce: Some(reduce),
        lets: Vec::new(),
        states: Vec::new(),
        origin,
    }
}

/// The settings of `distill` and of a step of `train` that say what is trained on.
pub(in crate::check) struct DistillSettings<'e> {
    pub objective: Required<'e, types::Objective>,
    pub rollout: Option<Arg<'e, types::Rollout>>,
    pub prompts: Option<Arg<'e, Count>>,
    pub batch: Option<Arg<'e, Count>>,
}

impl Checker {
    pub(in crate::check) fn sft(
        &mut self,
        settings: &BlockSettings,
        start: Option<ModelId>,
        mixture: Option<Vec<Share>>,
        env: &Env,
    ) -> RecipeParts {
        let given = SftBlock::of(settings);
        let size = self.size(given.prompts, given.batch.given, settings, "batch", env);
        let objective = given.objective.map(Arg::expr);
        let objective = self.objective_setting(objective, SFT_OBJECTIVE, settings.span, env);
        let mut keep = Keep::All;
        let rollout = match (given.target, given.rollout) {
            (Some(target), None) => {
                if let Some(place) = settings.key_span("keep") {
                    self.report(Diagnostic::error(
                        Code::UnknownKey,
                        place,
                        "`keep` filters rollouts, and the target comes from the data",
                    ));
                }
                let origin = self.origin(target.expr.span);
                let field = self.read(target, env);
                field.map(|field| Rollout::new(RolloutSource::Data { field }, origin))
            }
            (None, Some(rollout)) => {
                let rollout = self.read(rollout, env).map(Rc::unwrap_or_clone);
                let filtered =
                    |rollout: &Rollout| rollout.edits.iter().any(|edit| matches!(edit, Edit::Keep { .. }));
                let read = |rollout: &Rollout| matches!(rollout.source, RolloutSource::Data { .. });
                let said = rollout.as_ref().is_some_and(|rollout| filtered(rollout) || read(rollout));
                match given.keep {
                    Some(word) => self.read(word, env).and_then(|word| {
                        keep = word;
                        rollout
                    }),
                    None if said => rollout,
                    None => {
                        self.report_if_missing(settings, "keep");
                        None
                    }
                }
            }
            (None, None) if settings.broken => None,
            (Some(_), Some(_)) => {
                let (target, rollout) = (settings.place(&["target"]), settings.place(&["rollout"]));
                let diagnostic = Diagnostic::error(
                    Code::UnusedSetting,
                    rollout,
                    "`sft` needs one source of targets, and has both",
                );
                self.report(
                    diagnostic.note(target, "a field of the data is imitated").help("keep one of them"),
                );
                None
            }
            _ => {
                self.report(
                    Diagnostic::error(Code::MissingKey, settings.span, "`sft` needs one source of targets")
                        .help("either `target = field` of the data, or `rollout = from(teacher, ...)`"),
                );
                None
            }
        };
        RecipeParts { recipe: Recipe::Sft, start, mixture, rollout, size, keep, objective }
    }

    pub(in crate::check) fn grpo(
        &mut self,
        settings: &BlockSettings,
        start: Option<ModelId>,
        mixture: Option<Vec<Share>>,
        env: &Env,
    ) -> RecipeParts {
        let given = GrpoBlock::of(settings);
        let size = self.size(given.prompts.given, given.batch, settings, "prompts", env);
        let objective = given.objective.map(Arg::expr);
        let objective = self.objective_setting(objective, GRPO_OBJECTIVE, settings.span, env);
        let rollout = match given.rollout {
            Some(rollout) => {
                for key in ["samples", "max_tokens", "temperature", "top_p", "top_k", "stop"] {
                    if let Some(place) = settings.key_span(key) {
                        self.report(
                            Diagnostic::error(
                                Code::UnusedSetting,
                                place,
                                format!("`{key}` is set by the rollout already"),
                            )
                            .note(rollout.expr.span, "this rollout")
                            .help(format!("remove `{key}`, or write `sample(...)` with it")),
                        );
                    }
                }
                self.read(rollout, env).map(Rc::unwrap_or_clone)
            }
            None => {
                let GrpoBlock { samples, max_tokens, temperature, top_p, top_k, stop, .. } = given;
                let n = self.read(samples, env);
                let max_tokens = self.read(max_tokens, env);
                let place = settings.place(&["samples"]);
                let temperature = match temperature {
                    Some(temperature) => self.read(temperature, env),
                    None => Some(self.constant_temperature(1.0, place)),
                };
                let (top_p, top_k) = (top_p.map(Arg::expr), top_k.map(Arg::expr));
                let stop = stop.map(Arg::expr);
                let given = SamplingArguments { n, temperature, max_tokens, top_p, top_k, stop };
                let sampling = self.sampling(given, env);
                sampling.map(|sampling| Rollout::new(RolloutSource::Sample(sampling), self.origin(place)))
            }
        };
        RecipeParts { recipe: Recipe::Grpo, start, mixture, rollout, size, keep: Keep::All, objective }
    }

    /// The parts of `distill`, and of one step of a `train`.
    pub(in crate::check) fn distill(
        &mut self,
        recipe: Recipe,
        settings: &BlockSettings,
        given: DistillSettings,
        start: Option<ModelId>,
        mixture: Option<Vec<Share>>,
        env: &Env,
    ) -> RecipeParts {
        let size = self.size(given.prompts, given.batch, settings, "prompts", env);
        let objective = self.read(given.objective, env);
        // If every term has its own completions, such as pairs, the stage needs no `rollout`.
        let own = objective.as_ref().and_then(|objective| own_completions(objective));
        let rollout = match (given.rollout, own) {
            (Some(rollout), _) => self.read(rollout, env).map(Rc::unwrap_or_clone),
            (None, Some(own)) => Some(own),
            // The terms of a faulty objective may have had their own completions.
            (None, None) if objective.is_none() && recipe == Recipe::Step => None,
            (None, None) => {
                self.report_if_missing(settings, "rollout");
                None
            }
        };
        RecipeParts { recipe, start, mixture, rollout, size, keep: Keep::All, objective }
    }

    pub(in crate::check) fn dpo(
        &mut self,
        settings: &BlockSettings,
        start: Option<ModelId>,
        mixture: Option<Vec<Share>>,
        env: &Env,
    ) -> RecipeParts {
        let given = DpoBlock::of(settings);
        let size = self.size(given.prompts, given.batch.given, settings, "batch", env);
        let (chosen, rejected) = (self.read(given.chosen, env), self.read(given.rejected, env));
        let beta = self.required_setting(given.beta).and_then(|given| {
            let beta = self.read(given, env)?;
            self.preference_beta(beta, given.expr.span)
        });
        self.report_if_missing(settings, "reference");
        let rollout = chosen.as_deref().cloned();
        let place = settings.place(&["rejected"]);
        let objective = beta.and_then(|beta| {
            let pair = self.preference(PreferenceKind::Dpo { beta }, chosen, rejected, None, place)?;
            Some(Rc::new(preference(pair, self.origin(settings.span))))
        });
        RecipeParts { recipe: Recipe::Dpo, start, mixture, rollout, size, keep: Keep::All, objective }
    }
}
