//! Everything that can be wrong with the data of a plan, found before the first step: files, fields, lengths, rewards.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{
    self, Comparison, Completions, DataSource, Domain, DomainId, ModelId, Origin, Plan, Prefixes, Sampling, Stage, Train,
};

use crate::data::chat::{self, ChatError, Example};
use crate::data::tokenizer::{self, Tokenizer, difference};
use crate::data::{self, Dataset, Field, Lists, Longest, Problem, Request, overlap};
use crate::failure::{Error, Result};
use crate::load::{self, Loaded};
use crate::model::{Config, Token, Weights};
use crate::reward::Verifier;
use crate::schedule::columns;
use crate::warm::Warm;

/// Where to look.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// Folder that paths are relative to.
    pub base: &'a Path,
    /// Folder to remember hashes in; see [`crate::content::hash`].
    pub notes: &'a Path,
    /// What jobs before this one have read.
    pub warm: Option<&'a Warm>,
}

/// A domain with its data. Only what the plan's work reads is loaded.
pub struct DomainData {
    pub id: DomainId,
    pub name: String,
    /// The domain in the source: what its verifier does wrong is shown there.
    pub origin: Origin,
    pub verifier: Verifier,
    /// Longest completion, in tokens.
    pub limit: Option<u32>,
    pub train: Option<Arc<Prompts>>,
    pub tests: Option<Arc<Prompts>>,
}

/// Data and its prompts as tokens, as the models that read them tokenise.
pub struct Prompts {
    pub dataset: Dataset,
    /// By the hash of the tokenizer.
    encoded: Mutex<Vec<(String, Arc<Lists<Token>>)>>,
}

/// The field of a row that is its whole conversation: training on it is training on all of the assistant's turns.
const MESSAGES: &str = "messages";

impl Prompts {
    fn load(places: Places, source: &DataSource, domain: &Domain, fields: &[Field], whole: bool) -> Result<Arc<Prompts>> {
        let Places { base, notes, warm } = places;
        let fields: Vec<Field> = fields.iter().filter(|field| field.name != MESSAGES).copied().collect();
        let request = Request { source, format: &domain.format, fields: &fields, whole, notes: Some(notes) };
        let read = || Ok(Prompts::new(Dataset::read(base, request)?));
        match warm {
            None => read().map(Arc::new),
            Some(warm) => {
                let files = || data::files(base, source).unwrap_or_default();
                warm.prompts(&format!("{} {request:?}", base.display()), files, read)
            }
        }
    }

    pub fn new(dataset: Dataset) -> Prompts {
        Prompts { dataset, encoded: Mutex::default() }
    }

    /// What a model is asked, row by row.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Arc<Lists<Token>>> {
        let hash = tokenizer.hash();
        // Held while they are made, so that stages side by side make them once. A panic leaves the list as it was.
        let mut encoded = self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tokens)) = encoded.iter().find(|(known, _)| *known == hash) {
            return Ok(tokens.clone());
        }
        let tokens = Arc::new(self.dataset.lists(|row| self.prompt(tokenizer, row))?);
        encoded.push((hash, tokens.clone()));
        Ok(tokens)
    }

    fn prompt(&self, tokenizer: &Tokenizer, row: usize) -> Result<Vec<Token>> {
        let tokens = match self.dataset.conversation(row) {
            None => tokenizer.prompt(self.dataset.prompt(row)).map_err(ChatError::from),
            Some(conversation) => chat::prompt(tokenizer, conversation),
        };
        match tokens {
            // A token is predicted from those before it.
            Ok(tokens) if tokens.is_empty() => Err(self.dataset.error(row, Problem::NoTokens).into()),
            Ok(tokens) => Ok(tokens),
            Err(error) => Err(self.dataset.error(row, Problem::Chat { error: Box::new(error) }).into()),
        }
    }

    /// A row to imitate: its prompt and a field, or its conversation.
    pub fn example(&self, tokenizer: &Tokenizer, row: usize, field: &str) -> Result<Example> {
        let missing = || Problem::MissingField { field: field.to_owned(), meant: None, present: Vec::new() };
        let answer = || self.dataset.text(row, field).ok_or_else(|| Error::from(self.dataset.error(row, missing())));
        let wrong = |error: ChatError| Error::from(self.dataset.error(row, Problem::Chat { error: Box::new(error) }));
        let Some(conversation) = self.dataset.conversation(row) else {
            let completion = tokenizer.completion(self.dataset.prompt(row), answer()?);
            let completion = completion.map_err(|error| wrong(error.into()))?;
            return Ok(Example::new(self.prompt(tokenizer, row)?, completion));
        };
        let conversation = if field == MESSAGES { conversation } else { conversation.asked().answered(answer()?) };
        chat::example(tokenizer, &conversation).map_err(wrong)
    }

    /// Whether a model reads these prompts by a template that writes the day.
    pub fn asks_date(&self, tokenizer: &Tokenizer) -> bool {
        self.dataset.is_chat() && tokenizer.templates().iter().any(|template| template.asks_date())
    }

    fn longest_prompt(&self, tokenizer: &Tokenizer) -> Result<Longest> {
        Ok(Longest::of(&self.dataset, None, self.tokens(tokenizer)?.lengths()))
    }

    /// The longest sequence of fine-tuning on a field.
    fn longest_example(&self, tokenizer: &Tokenizer, field: &str) -> Result<Longest> {
        let lengths = self.dataset.lists(|row| {
            let example = self.example(tokenizer, row, field)?;
            Ok::<_, Error>(vec![(example.prompt.len() + example.completion.len()) as Token])
        })?;
        let lengths = (0..lengths.len()).map(|row| lengths.get(row)[0] as usize);
        Ok(Longest::of(&self.dataset, Some(field), lengths))
    }
}

/// What is known of a model before its weights are.
#[derive(Clone)]
pub struct Form {
    pub config: Arc<Config>,
    pub tokenizer: Arc<Tokenizer>,
    /// Where the model is not made but read: its weights, which stay in their files.
    pub loaded: Option<Loaded>,
}

/// The form of every model: that of the weights it descends from.
pub fn forms(plan: &Plan, places: Places) -> Result<Vec<Form>> {
    let Places { base, notes, .. } = places;
    let mut forms: Vec<Form> = Vec::new();
    for model in &plan.experiment.models {
        let inherited = |from: &ModelId| {
            let form = forms.get(from.0 as usize).ok_or_else(|| {
                Error::new(FailureKind::Runtime, format!("the plan uses a model before it makes it: `{}`", model.name))
            })?;
            Ok::<Form, Error>(Form { loaded: None, ..form.clone() })
        };
        let form = match &model.stage {
            Stage::Initialise(architecture) => {
                let tokenizer = match &architecture.tokenizer {
                    plan::Tokenizer::Bytes => Tokenizer::Bytes,
                    plan::Tokenizer::File(path) => {
                        let loaded = tokenizer::Pretrained::load(&data::beside(base, path));
                        Tokenizer::Pretrained(loaded.map_err(|error| Error::from(error).at(model.origin))?)
                    }
                };
                let config = Config { vocabulary: tokenizer.vocabulary(), ..Config::of(architecture) };
                config.check().map_err(|problem| {
                    Error::new(FailureKind::Runtime, format!("`{}`: {problem}", model.name)).at(model.origin)
                })?;
                Form { config: Arc::new(config), tokenizer: Arc::new(tokenizer), loaded: None }
            }
            Stage::Load(pretrained) => {
                let loaded = load::load(pretrained, base, notes).map_err(|error| error.at(model.origin))?;
                let Weights { config, tokenizer, .. } = loaded.weights.clone();
                Form { config, tokenizer, loaded: Some(loaded) }
            }
            Stage::Train(train) => inherited(&train.start)?,
            Stage::Merge(merge) => match merge.base.iter().chain(&merge.models).next() {
                Some(from) => inherited(from)?,
                None => return Err(Error::new(FailureKind::Runtime, "a merge of no models").at(model.origin)),
            },
        };
        forms.push(form);
    }
    Ok(forms)
}

/// Loads and checks what `stages` and the plan's comparisons read. Answers the domains, in the plan's order, and warnings.
pub fn prepare(plan: &Plan, stages: &[ModelId], forms: &[Form], places: Places) -> Result<(Vec<DomainData>, Vec<String>)> {
    let mut domains = Vec::new();
    let mut warnings = Vec::new();
    for (index, domain) in plan.experiment.domains.iter().enumerate() {
        let id = DomainId(index as u32);
        let loaded = load(plan, id, domain, stages, places).map_err(|error| error.at(domain.origin))?;
        if let (Some(train), Some(tests)) = (&loaded.train, &loaded.tests) {
            warnings.extend(overlap(&train.dataset, &tests.dataset).map(|overlap| overlap.to_string()));
        }
        domains.push(loaded);
    }
    if let Some(warm) = places.warm {
        warm.forget_unused();
    }
    for id in stages {
        let model = plan.experiment.model(*id);
        if let Stage::Train(train) = &model.stage {
            check_training(train, *id, &domains, forms).map_err(|error| error.at(model.origin))?;
        }
    }
    for comparison in &plan.experiment.comparisons {
        check_evaluation(comparison, &domains, forms).map_err(|error| error.at(comparison.origin))?;
    }
    Ok((domains, warnings))
}

fn load(plan: &Plan, id: DomainId, domain: &Domain, stages: &[ModelId], places: Places) -> Result<DomainData> {
    let verifier = Verifier::new(&domain.reward, places.base)?;
    let mut fields: Vec<Field> = verifier.needed().into_iter().collect();
    let whole = verifier.reads_rows();
    let tests = match &domain.tests {
        Some(tests) if plan.experiment.comparisons.iter().any(|comparison| comparison.domains.contains(&id)) => {
            Some(Prompts::load(places, tests, domain, &fields, whole)?)
        }
        _ => None,
    };
    let mut trained_on = false;
    for stage in stages {
        if let Stage::Train(train) = &plan.experiment.model(*stage).stage
            && train.mixture.iter().any(|share| share.domain == id)
        {
            trained_on = true;
            for field in train.prefixes.fields() {
                if !fields.iter().any(|known| known.name == field) {
                    fields.push(Field::text(field));
                }
            }
        }
    }
    let train = if trained_on { Some(Prompts::load(places, &domain.prompts, domain, &fields, whole)?) } else { None };
    let (name, limit) = (domain.name.clone(), domain.limit);
    Ok(DomainData { id, name, origin: domain.origin, verifier, limit, train, tests })
}

fn check_training<O>(train: &Train<O>, model: ModelId, domains: &[DomainData], forms: &[Form]) -> Result<()> {
    let form = |model: ModelId| &forms[model.0 as usize];
    let context = |model: ModelId| form(model).config.context as u32;
    let tokenizer = &form(model).tokenizer;
    if train.mixture.is_empty() {
        return Err(Error::new(FailureKind::Runtime, "a stage trains on no domain"));
    }
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let prompts = trained(data)?;
        let rollouts = |sampling: &Sampling, context| {
            prompts.longest_prompt(tokenizer)?.fits(sampling.max_tokens(data.limit), context).map_err(Error::from)
        };
        match &train.prefixes {
            Prefixes::Data { field, .. } => prompts.longest_example(tokenizer, field)?.fits(0, context(model))?,
            Prefixes::Student { sampling, .. } => rollouts(sampling, context(model))?,
            Prefixes::Teacher { sampling, .. } => {
                let teacher = train.teachers.iter().find(|choice| choice.domain == share.domain);
                let teacher = teacher.and_then(|choice| choice.teacher.model()).unwrap_or(model);
                rollouts(sampling, context(model).min(context(teacher)))?;
            }
            Prefixes::Pairs { chosen, rejected, .. } => {
                for side in [chosen, rejected] {
                    let writer = match side {
                        Completions::Model { model, .. } => *model,
                        Completions::Teacher { .. } => {
                            let teacher = train.teachers.iter().find(|choice| choice.domain == share.domain);
                            teacher.and_then(|choice| choice.teacher.model()).unwrap_or(model)
                        }
                        Completions::Data { .. } | Completions::Student { .. } => model,
                    };
                    match side {
                        Completions::Data { field } => prompts.longest_example(tokenizer, field)?.fits(0, context(model))?,
                        Completions::Student { sampling }
                        | Completions::Teacher { sampling }
                        | Completions::Model { sampling, .. } => {
                            rollouts(sampling, context(model).min(context(writer)))?;
                        }
                    }
                }
            }
        }
        // Whoever scores reads the same sequences.
        let teachers = train.teachers.iter().filter(|choice| choice.domain == share.domain);
        let teachers = teachers.filter_map(|choice| Some((format!("the teacher `{}`", choice.name), choice.teacher.model()?)));
        let references = train.references.iter().filter(|choice| choice.domain == share.domain);
        let references = references.map(|choice| ("the reference".to_owned(), choice.reference));
        for (name, other) in teachers.chain(references) {
            let (student, other) = (form(model), form(other));
            if let Some(difference) = difference(tokenizer, &other.tokenizer) {
                let message = format!("{name} has another tokenizer than its student: {difference}");
                return Err(Error::new(FailureKind::Runtime, message).help(difference.help()));
            }
            let (own, needed) = (other.config.context, student.config.context);
            if own < needed {
                let message = format!("{name} has a context of {own} tokens, less than its student's {needed}");
                return Err(Error::new(FailureKind::Context, message).help("give it at least the student's context"));
            }
        }
    }
    Ok(())
}

/// The training data of a domain that some stage trains on.
pub fn trained(data: &DomainData) -> Result<&Prompts> {
    data.train.as_deref().ok_or_else(|| Error::new(FailureKind::Runtime, format!("the data of `{}` was not loaded", data.name)))
}

/// The test data of a domain that some comparison has as a column.
pub fn tested(data: &DomainData) -> Result<&Prompts> {
    data.tests.as_deref().ok_or_else(|| {
        Error::new(FailureKind::Data, format!("the domain `{}` has no tests, but a comparison evaluates it", data.name))
            .help("give the domain `tests = \"...\"`, a file laid out like its prompts")
    })
}

fn check_evaluation(comparison: &Comparison, domains: &[DomainData], forms: &[Form]) -> Result<()> {
    for (model, domain) in columns(comparison) {
        let (data, form) = (&domains[domain.0 as usize], &forms[model.0 as usize]);
        let longest = tested(data)?.longest_prompt(&form.tokenizer)?;
        longest.fits(comparison.evaluation.sampling.max_tokens(data.limit), form.config.context as u32)?;
    }
    Ok(())
}
