//! Whether the models and the data of a stage fit each other: lengths, tokenizers, turns of experts.

use mopd_plan::events::FailureKind;
use mopd_plan::producers::Writer;
use mopd_plan::{DomainId, ModelId, Objective, Producer, Role, Sampling, Train};

use super::prompts::Prompts;
use super::template_tokens::{AttemptsReader, for_derived, for_feedback, with_completions, with_words};
use super::{DomainData, ModelSpec, trained, validated};
use crate::data::{ContextLength, DataProblem};
use crate::environment::{EXPERT_TURNS, recorded};
use crate::failure::{Error, Result};
use crate::model::change::first_difference;
use crate::model::{FastPath, layout};
use crate::quote::quote;
use crate::tokenizer::{ONE_VOCABULARY, Tokenizer, VocabularyMap, difference, vocabulary_difference};

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
    stage.compares_like_models()?;
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let prompts = trained(data, train)?;
        let domain = StageDomain { stage, domain: share.domain, data, prompts };
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
        let message =
            "sampling with two output heads from a model with sliding attention is not supported yet";
        Err(Error::new(FailureKind::Runtime, message).help("leave `heads` and `accept` out"))
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
        if let Some(validation) = &train.validation {
            let prompts = validated(self.data)?;
            prompts.longest(tokenizer, train.sees.as_ref(), Some(&validation.target))?.fits(0, context)?;
        }
        Ok(())
    }

    /// Of a conversation with an environment.
    fn turns_fit(&self) -> Result<()> {
        let environments = || self.train().producers().flat_map(Producer::environments);
        if self.prompts.dataset.is_chat() && environments().next().is_some() {
            let name = &self.data.name;
            let message =
                format!("`turns` of `{name}`, whose prompts are conversations, is not supported yet");
            return Err(Error::new(FailureKind::Data, message).help(
                "write its prompts as plain text, and put the text between turns into the observations",
            ));
        }
        if environments().any(|turns| turns.expert_turns.is_some()) { experts(self.prompts) } else { Ok(()) }
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

    /// What readers see that have a view of their own.
    fn views_fit(&self) -> Result<()> {
        let (train, tokenizer) = (self.train(), self.stage.tokenizer());
        for choice in train.scorers.readers(self.domain) {
            let Some(view) = &choice.sees else { continue };
            let longest = |field| self.prompts.longest(tokenizer, Some(view), field);
            let context = self.stage.context(choice.teacher.spec_model());
            let words = with_words(train, view, tokenizer)?;
            for field in self.fields() {
                longest(Some(field))?.with_words(words).fits(0, context)?;
            }
            for (_, sampling) in self.drawn() {
                let completion = with_completions(view, sampling.max_tokens(self.data.limit));
                longest(None)?.with_words(words).fits(completion, context)?;
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

    /// Whoever scores reads the completions that the student writes, in its tokens or in their own.
    fn scorers_fit(&self) -> Result<()> {
        let tokenizer = self.stage.tokenizer();
        let scorers = self.train().scorers.iter().flat_map(|(role, scorer)| {
            let own = scorer.choices.iter().filter(|choice| choice.domain == self.domain);
            own.filter_map(move |choice| {
                let name = match role {
                    Role::REFERENCE => "the reference".to_owned(),
                    _ => format!("the teacher `{}`", choice.name),
                };
                Some((name, choice.teacher.spec_model()?, choice.own_tokens))
            })
        });
        let writers = self.train().producers().flat_map(Producer::models);
        let writers = writers.map(|id| ("the model of the `snapshot`".to_owned(), id, false));
        for (name, other, own_tokens) in scorers.chain(writers) {
            let (student, other) = (self.stage.spec(self.stage.model), self.stage.spec(other));
            if own_tokens {
                // How long completions get in its tokens is known when they are there.
                VocabularyMap::new(tokenizer, &other.tokenizer, self.prompts.dataset.is_chat(), &name)?;
                self.prompts.longest_prompt(&other.tokenizer)?.fits(1, other.context())?;
                continue;
            }
            if let Some(difference) = difference(tokenizer, &other.tokenizer) {
                let message = format!("{name} has another tokenizer than its student: {difference}");
                return Err(Error::new(FailureKind::Runtime, message).help(difference.help()));
            }
            let (own, needed) = (other.config.context, student.config.context);
            if own < needed {
                let message =
                    format!("{name} has a context of {own} tokens, less than its student's {needed}");
                return Err(Error::new(FailureKind::Context, message).help(
                    "it needs at least the student's \
                        context",
                ));
            }
        }
        Ok(())
    }
}

fn shorter(one: ContextLength, other: ContextLength) -> ContextLength {
    if other.tokens < one.tokens { other } else { one }
}

/// Whether every row has the turns of an expert.
fn experts(prompts: &Prompts) -> Result<()> {
    let dataset = &prompts.dataset;
    for row in 0..dataset.len() {
        let record = dataset.object(row);
        if recorded(&record).is_some() {
            continue;
        }
        let field = EXPERT_TURNS;
        let problem = match record.get(field) {
            None => DataProblem::missing(field, record.keys().map(String::as_str)),
            Some(found) => DataProblem::TypeMismatch {
                field: field.to_owned(),
                wanted: "a list of texts, none of them empty, one for each turn of the expert",
                found: quote(&found.to_string()),
            },
        };
        return Err(dataset.error(row, problem).into());
    }
    Ok(())
}
