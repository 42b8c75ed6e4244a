//! Whether the models and the data of a stage fit each other: lengths, tokenizers, turns of experts.

use mopd_plan::events::FailureKind;
use mopd_plan::producers::Writer;
use mopd_plan::{DomainId, ModelId, Objective, Producer, Projection, Role, Sampling, Train, Trainable, View};

use super::check::turns_end;
use super::prompts::Prompts;
use super::template_tokens::{AttemptsReader, for_derived, for_feedback, with_completions, with_words};
use super::{DomainData, ModelSpec, trained, validated};
use crate::data::{ContextLength, Longest, experts};
use crate::failure::{Error, Result};
use crate::model::change::first_difference;
use crate::model::{FastPath, ParameterEntry, layout};
use crate::tokenizer::{
    ONE_VOCABULARY, Tokenizer, TokenizerDifference, VocabularyMap, difference, scoring_difference,
    vocabulary_difference,
};

/// That what a stage reads fits the models that read it.
pub fn check_training(
    train: &Train<Objective>,
    model: ModelId,
    domains: &[DomainData],
    specs: &[ModelSpec],
) -> Result<()> {
    let stage = StageModels { train, model, specs };
    if train.mixture.is_empty() {
        return Err(Error::new(FailureKind::Runtime, "a stage trains on no domain"));
    }
    stage.has_heads()?;
    stage.has_targets()?;
    stage.compares_like_models()?;
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let prompts = trained(data, train)?;
        let domain = StageDomain { stage, domain: share.domain, data, prompts };
        turns_end(prompts, stage.tokenizer())?;
        domain.fields_fit()?;
        domain.turns_fit()?;
        domain.completions_fit()?;
        domain.views_fit()?;
        domain.panels_fit()?;
        domain.derived_fit()?;
        domain.scorers_fit()?;
    }
    Ok(())
}

/// The longest sequence that servers read or write for a stage, in tokens of its student.
pub fn longest_on_servers(
    train: &Train<Objective>,
    domains: &[DomainData],
    specs: &[ModelSpec],
) -> Result<u32> {
    let stage = StageModels { train, model: train.start, specs };
    let mut longest = 0;
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let prompts = trained(data, train)?;
        let domain = StageDomain { stage, domain: share.domain, data, prompts };
        let mut sequences = domain.sequences()?;
        for choice in train.scorers.readers(share.domain).filter(|choice| choice.teacher.served().is_some()) {
            if let Some(view) = &choice.sees {
                sequences.extend(domain.seen_as(view)?);
            }
        }
        let lengths = sequences.iter().map(|(sequence, completion)| sequence.with_completion(*completion));
        let open = domain.fills_context().then(|| stage.context(None).tokens);
        longest = lengths.chain(open).fold(longest, u32::max);
    }
    Ok(longest)
}

/// A stage and the models of its plan.
#[derive(Clone, Copy)]
struct StageModels<'a> {
    train: &'a Train<Objective>,
    /// The one that it makes.
    model: ModelId,
    specs: &'a [ModelSpec],
}

impl<'a> StageModels<'a> {
    fn spec(&self, model: ModelId) -> &'a ModelSpec {
        &self.specs[model.0 as usize]
    }

    fn tokenizer(&self) -> &'a Tokenizer {
        &self.spec(self.model).tokenizer
    }

    /// Of the model, of the student where there is none.
    fn context(&self, model: Option<ModelId>) -> ContextLength {
        self.spec(model.unwrap_or(self.model)).context()
    }

    fn has_heads(&self) -> Result<()> {
        let runs = || self.spec(self.model).config.runs_on(FastPath::TokenPairs);
        if !self.train.trains_second_head() || runs() {
            return Ok(());
        }
        let message = "sampling with two output heads from a model with sliding attention, or with layers \
                       without attention, is not supported yet";
        Err(Error::new(FailureKind::Runtime, message).help("leave `heads` and `accept` out"))
    }

    /// `targets` of an adapter
    fn has_targets(&self) -> Result<()> {
        let Trainable::Adapter(adapter) = &self.train.trainable else { return Ok(()) };
        let entries = layout(&self.spec(self.model).config);
        let targets = &adapter.targets;
        let is_missing =
            |target: &&Projection| !entries.iter().any(|entry| entry.projections.contains(target));
        if let Some(missing) = targets.iter().find(is_missing) {
            let (name, module) = (missing.name(), missing.module());
            let message = format!("an adapter of `{name}`, but the model has no matrix `{module}`");
            return Err(
                Error::new(FailureKind::Runtime, message).help("name matrices of the model in `targets`")
            );
        }
        // PEFT adapts what is stored, and this is what a folder of the model can hold.
        let is_in_part = |entry: &&ParameterEntry| {
            entry.projections.iter().any(|own| targets.contains(own)) && !entry.is_adapted(targets)
        };
        let Some(entry) = entries.iter().find(is_in_part) else { return Ok(()) };
        let list = |all: &mut dyn Iterator<Item = &Projection>| {
            all.map(|one| format!("`{}`", one.name())).collect::<Vec<_>>().join(", ")
        };
        let named = list(&mut entry.projections.iter().filter(|own| targets.contains(own)));
        let whole = list(&mut entry.projections.iter());
        let module = entry.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or(&entry.name);
        let message = format!("an adapter of {named}, but the model stores {whole} as one matrix `{module}`");
        Err(Error::new(FailureKind::Runtime, message).help("name all of them in `targets`, or none"))
    }

    /// `changed`
    fn compares_like_models(&self) -> Result<()> {
        for other in self.train.trainable.models() {
            let [own, others] = [self.model, other].map(|id| layout(&self.spec(id).config));
            // A stage gives some heads to models that have none.
            let [own, others] = [&own, &others].map(|all| all.iter().filter(|entry| !entry.is_given()));
            let Some((own, others)) = first_difference(own, others) else { continue };
            let message = format!(
                "`changed` compares models with another shape than the student's: {others}, not \
                    {own}"
            );
            return Err(
                Error::new(FailureKind::Runtime, message).help("name models of the student's architecture")
            );
        }
        for other in self.train.trainable.models() {
            let Some(difference) = vocabulary_difference(self.tokenizer(), &self.spec(other).tokenizer)
            else {
                continue;
            };
            let said = difference.between("the student", "one of these");
            let message =
                format!("`changed` compares models with another tokenizer than the student's: {said}");
            return Err(Error::new(FailureKind::Runtime, message).help(ONE_VOCABULARY));
        }
        Ok(())
    }
}

/// One of its domains.
struct StageDomain<'a> {
    stage: StageModels<'a>,
    domain: DomainId,
    data: &'a DomainData,
    /// What it trains on.
    prompts: &'a Prompts,
}

impl<'a> StageDomain<'a> {
    fn train(&self) -> &'a Train<Objective> {
        self.stage.train
    }

    /// Whatever writes completions.
    fn writing(&self) -> impl Iterator<Item = &'a Producer> {
        self.train().producers().chain(self.train().measured())
    }

    /// What models write, and who.
    fn drawn(&self) -> impl Iterator<Item = (Writer, &'a Sampling)> {
        self.writing().flat_map(Producer::drawn)
    }

    /// Those that completions are read from.
    fn fields(&self) -> impl Iterator<Item = &'a str> {
        self.train().producers().flat_map(Producer::fields_of_data)
    }

    /// Of the student and all that have a role in the domain, the shortest.
    fn context_of(&self, role: Role) -> ContextLength {
        let choices = self.train().scorers.choices(role).iter();
        let models = choices
            .filter(|choice| choice.domain == self.domain)
            .filter_map(|choice| choice.teacher.spec_model());
        models.map(|model| self.stage.context(Some(model))).fold(self.stage.context(None), shorter)
    }

    /// Texts of the data, behind their prompts.
    fn fields_fit(&self) -> Result<()> {
        let (train, tokenizer, context) = (self.train(), self.stage.tokenizer(), self.stage.context(None));
        for field in self.fields().chain(train.objective.recorded()) {
            self.prompts.longest(tokenizer, train.sees.as_ref(), Some(field))?.fits(0, context)?;
        }
        if let Some(validation) = &train.options.validation {
            let prompts = validated(self.data)?;
            prompts.longest(tokenizer, train.sees.as_ref(), Some(&validation.target))?.fits(0, context)?;
        }
        Ok(())
    }

    /// Of a conversation with an environment.
    fn turns_fit(&self) -> Result<()> {
        let mut environments = self.train().producers().flat_map(Producer::environments);
        if environments.any(|turns| turns.expert_turns.is_some()) {
            have_experts(self.prompts)
        } else {
            Ok(())
        }
    }

    /// Behind what their writers read.
    fn completions_fit(&self) -> Result<()> {
        let (sees, tokenizer) = (self.train().sees.as_ref(), self.stage.tokenizer());
        for (writer, sampling) in self.drawn() {
            let shortest = match writer {
                Writer::Student => self.stage.context(None),
                // Guides and editors may read more than the prompt: see below.
                Writer::Scorer(role) | Writer::Guide(role) | Writer::Editor { editor: role, .. } => {
                    self.context_of(role)
                }
                Writer::Model(writer) => shorter(self.stage.context(None), self.stage.context(Some(writer))),
            };
            let longest = self.prompts.longest(tokenizer, sees, None)?;
            longest.fits(sampling.max_tokens(self.data.limit), shortest)?;
        }
        for (writer, sampling, view) in self.writing().flat_map(Producer::writer_templates) {
            let (Writer::Scorer(role) | Writer::Editor { editor: role, .. }) = writer else { continue };
            let longest = self.prompts.longest(tokenizer, Some(view), None)?;
            let completions = with_completions(view, sampling.max_tokens(self.data.limit));
            longest.fits(completions, self.context_of(role))?;
        }
        Ok(())
    }

    /// Whether an environment continues completions, up to the student's context.
    fn fills_context(&self) -> bool {
        self.train().producers().flat_map(Producer::environments).next().is_some()
    }

    /// The longest sequences that are trained on, as the student reads them, each with the most tokens of a
    /// completion behind it. Where the stage [fills the context](StageDomain::fills_context), they may be
    /// longer.
    fn sequences(&self) -> Result<Vec<(Longest, u32)>> {
        let (train, tokenizer) = (self.train(), self.stage.tokenizer());
        let longest = |sees, field| self.prompts.longest(tokenizer, sees, field);
        let mut sequences = Vec::new();
        for field in self.fields().chain(train.objective.recorded()) {
            sequences.push((longest(train.sees.as_ref(), Some(field))?, 0));
        }
        for (_, sampling) in self.drawn() {
            sequences.push((longest(train.sees.as_ref(), None)?, sampling.max_tokens(self.data.limit)));
        }
        for AttemptsReader { writer, view, shown, completion } in
            for_derived(train, tokenizer, self.data.limit)?
        {
            if writer.is_none() {
                sequences.push((longest(Some(view), None)?.with_shown(shown), completion));
            }
        }
        Ok(sequences)
    }

    /// The same as whoever sees a view in place of the prompts reads them.
    fn seen_as(&self, view: &View) -> Result<Vec<(Longest, u32)>> {
        let tokenizer = self.stage.tokenizer();
        let longest = |field| self.prompts.longest(tokenizer, Some(view), field);
        let words = with_words(self.train(), view, tokenizer)?;
        let mut sequences = Vec::new();
        for field in self.fields() {
            sequences.push((longest(Some(field))?.with_words(words), 0));
        }
        for (_, sampling) in self.drawn() {
            let completion = with_completions(view, sampling.max_tokens(self.data.limit));
            sequences.push((longest(None)?.with_words(words), completion));
        }
        Ok(sequences)
    }

    /// What readers see that have a view of their own. What a server reads is compared with its context when
    /// it is asked.
    fn views_fit(&self) -> Result<()> {
        let readers = self.train().scorers.readers(self.domain);
        for choice in readers.filter(|choice| choice.teacher.served().is_none()) {
            let Some(view) = &choice.sees else { continue };
            let context = self.stage.context(choice.teacher.spec_model());
            for (sequence, completion) in self.seen_as(view)? {
                sequence.fits(completion, context)?;
            }
        }
        Ok(())
    }

    /// What teachers say to each other, or of what the student wrote.
    fn panels_fit(&self) -> Result<()> {
        let (train, tokenizer) = (self.train(), self.stage.tokenizer());
        for panel in &train.panels {
            let members = panel.members.iter().flat_map(|role| train.scorers.choices(*role));
            for choice in members.filter(|choice| choice.domain == self.domain) {
                // Where it sees what was said, its last turn is part of that.
                let debate = choice.sees.as_ref().map_or(Ok(0), |view| with_words(train, view, tokenizer))?;
                let sees = choice.sees.as_ref().or(train.sees.as_ref());
                let longest = self.prompts.longest(tokenizer, sees, None)?;
                let context = self.stage.context(choice.teacher.spec_model());
                longest.with_words(debate.max(panel.sampling.max_tokens)).fits(0, context)?;
            }
        }
        for (choice, view, words) in for_feedback(train, self.domain, self.data.limit) {
            let longest = self.prompts.longest(tokenizer, view, None)?;
            longest.with_words(words).fits(0, self.stage.context(choice.teacher.spec_model()))?;
        }
        Ok(())
    }

    /// Completions of which others are made.
    fn derived_fit(&self) -> Result<()> {
        let (train, tokenizer) = (self.train(), self.stage.tokenizer());
        for AttemptsReader { writer, view, shown, completion } in
            for_derived(train, tokenizer, self.data.limit)?
        {
            let longest = self.prompts.longest(tokenizer, Some(view), None)?.with_shown(shown);
            let context = writer.map_or(self.stage.context(None), |role| self.context_of(role));
            longest.fits(completion, context)?;
        }
        Ok(())
    }

    /// Whoever scores reads the sequences that are trained on, in the student's tokens or in their own.
    fn scorers_fit(&self) -> Result<()> {
        let tokenizer = self.stage.tokenizer();
        let students = self.stage.context(None);
        let sequences = self.sequences()?;
        let scorers = self.train().scorers.iter().flat_map(|(role, scorer)| {
            let own = scorer.choices.iter().filter(|choice| choice.domain == self.domain);
            own.filter_map(move |choice| {
                let name = match role {
                    Role::REFERENCE => "the reference".to_owned(),
                    _ => format!("the teacher `{}`", choice.name),
                };
                Some((role, name, choice.teacher.spec_model()?, choice))
            })
        });
        let scorers: Vec<_> = scorers.collect();
        let own_tokens: Vec<ModelId> =
            scorers.iter().filter(|(.., choice)| choice.own_tokens).map(|(_, _, id, _)| *id).collect();
        for (role, name, id, choice) in scorers {
            let other = self.stage.spec(id);
            if choice.own_tokens {
                // How long completions get in its tokens is known when they are there.
                VocabularyMap::new(tokenizer, &other.tokenizer, self.prompts.dataset.is_chat(), &name)?;
                self.prompts.longest_prompt(&other.tokenizer)?.fits_scorer(1, other.context(), &name)?;
                continue;
            }
            // What writes for the student, or is read in its own tokens too, needs the same vocabulary.
            let same = self.writes(role) || own_tokens.contains(&id);
            self.reads_tokens(&name, other, if same { difference } else { scoring_difference })?;
            let context = other.context();
            if self.fills_context() && context.tokens < students.tokens {
                let message = format!(
                    "{name} has a context of {} tokens, and the conversations with the environment may \
                     fill its student's {}",
                    context.tokens, students.tokens
                );
                return Err(
                    Error::new(FailureKind::Context, message).help("it needs at least the student's context")
                );
            }
            // Views have been compared.
            for (sequence, completion) in sequences.iter().filter(|_| choice.sees.is_none()) {
                sequence.fits_scorer(*completion, context, &name)?;
            }
        }
        for id in self.train().producers().flat_map(Producer::models) {
            self.reads_tokens("the model of the `snapshot`", self.stage.spec(id), difference)?;
        }
        Ok(())
    }

    /// Whether a role writes completions, or texts within them.
    fn writes(&self, role: Role) -> bool {
        let train = self.train();
        // Of texts that teachers say to each other or of a completion, any of them may be a writer.
        let talks =
            !train.panels.is_empty() || for_feedback(train, self.domain, self.data.limit).next().is_some();
        talks
            || self.drawn().any(|(writer, _)| match writer {
                Writer::Scorer(of) | Writer::Guide(of) => of == role,
                Writer::Editor { editor, .. } => editor == role,
                Writer::Student | Writer::Model(_) => false,
            })
    }

    /// That a model has the student's tokens.
    fn reads_tokens(
        &self,
        name: &str,
        other: &ModelSpec,
        difference: fn(&Tokenizer, &Tokenizer) -> Option<TokenizerDifference>,
    ) -> Result<()> {
        let Some(difference) = difference(self.stage.tokenizer(), &other.tokenizer) else { return Ok(()) };
        let message = format!("{name} has another tokenizer than its student: {difference}");
        Err(Error::new(FailureKind::Runtime, message).help(difference.help()))
    }
}

fn shorter(one: ContextLength, other: ContextLength) -> ContextLength {
    if other.tokens < one.tokens { other } else { one }
}

/// Whether every row has the turns of an expert.
fn have_experts(prompts: &Prompts) -> Result<()> {
    let dataset = &prompts.dataset;
    (0..dataset.len()).try_for_each(|row| {
        experts::check(&dataset.object(row)).map_err(|problem| dataset.error(row, problem).into())
    })
}
