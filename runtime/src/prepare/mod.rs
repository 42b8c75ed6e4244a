//! Models and data, found and read before anything runs, and everything that can be wrong with them: files,
//! fields, lengths, rewards.

pub mod cache;
pub mod load;
pub mod prompts;

use std::path::Path;
use std::sync::Arc;

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::producers::{self, Writer};
use mopd_compiler::plan::views::Slot;
use mopd_compiler::plan::{
    self, Comparison, DataFormula, DataSource, Domain, DomainId, Evaluation, ModelId, Origin, Panel, Plan,
    Producer, Reward, Role, Stage, Train, View,
};
use mopd_store::programs::Program;

use self::cache::DataCache;
use self::load::Loaded;
use self::prompts::{MESSAGES, Prompts};
use crate::data::{self, Dataset, Field, Problem, Request, overlap};
use crate::environment::{EXPERT_TURNS, recorded};
use crate::failure::{Error, Result};
use crate::model::{Config, Weights};
use crate::quote::quote;
use crate::reward::Verifier;
use crate::store::Store;
use crate::tokenizer::{self, Counterparts, Tokenizer, difference};

/// Where to look.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// Folder that paths are relative to.
    pub base: &'a Path,
    /// Folder to remember hashes in; see [`crate::content::hash`].
    pub notes: &'a Path,
    /// What jobs before this one have read.
    pub cache: Option<&'a DataCache>,
    /// Where tokens outlast a run.
    pub store: Option<&'a Store>,
}

/// A domain with its data. Only what the plan's work reads is loaded.
pub struct DomainData {
    pub id: DomainId,
    pub name: String,
    /// The domain in the source: what its verifier does wrong is shown there.
    pub origin: Origin,
    pub verifier: Verifier,
    /// Where a command judges, a hash of the files that it is made of.
    pub program: Option<String>,
    /// Longest completion, in tokens.
    pub limit: Option<u32>,
    pub train: Option<Arc<Prompts>>,
    pub tests: Option<Arc<Prompts>>,
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
                Error::new(
                    FailureKind::Runtime,
                    format!("the plan uses a model before it makes it: `{}`", model.name),
                )
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
            stage => match stage.start() {
                Some(from) => inherited(&from)?,
                None => return Err(Error::new(FailureKind::Runtime, "a merge of no models").at(model.origin)),
            },
        };
        forms.push(form);
    }
    Ok(forms)
}

/// Loads and checks what `stages` and the plan's comparisons read. Answers the domains, in the plan's order,
/// and warnings.
pub fn prepare(
    plan: &Plan,
    stages: &[ModelId],
    forms: &[Form],
    places: Places,
) -> Result<(Vec<DomainData>, Vec<String>)> {
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
    if let Some(cache) = places.cache {
        cache.forget_unused();
    }
    for id in stages {
        let model = plan.experiment.model(*id);
        for train in model.stage.trains() {
            check_training(train, train.start, &domains, forms).map_err(|error| error.at(model.origin))?;
            if let Some(extrapolation) = &train.extrapolation {
                let data = &domains[extrapolation.judged_by.0 as usize];
                fits(data, &forms[train.start.0 as usize], &extrapolation.evaluation)
                    .map_err(|error| error.at(data.origin))?;
            }
            for share in &train.mixture {
                warnings.extend(idle_arms(
                    &model.name,
                    train,
                    share.domain,
                    &domains[share.domain.0 as usize],
                )?);
            }
        }
    }
    for comparison in &plan.experiment.comparisons {
        check_evaluation(comparison, &domains, forms).map_err(|error| error.at(comparison.origin))?;
    }
    warnings.extend(
        domains
            .iter()
            .flat_map(|data| data.train.iter().chain(&data.tests))
            .flat_map(|prompts| prompts.warnings()),
    );
    Ok((domains, warnings))
}

fn load(
    plan: &Plan,
    id: DomainId,
    domain: &Domain,
    stages: &[ModelId],
    places: Places,
) -> Result<DomainData> {
    let verifier = Verifier::new(&domain.reward, places.base)?;
    let program = match &domain.reward {
        Reward::Command { command, depends, .. } => {
            Some(program(command, depends, places.base, FailureKind::Reward)?)
        }
        Reward::ExactMatch { .. } | Reward::Numeric { .. } | Reward::Regex { .. } => None,
    };
    let trains = || stages.iter().flat_map(|stage| plan.experiment.model(*stage).stage.trains());
    let mut fields: Vec<Field> = verifier.needed().into_iter().collect();
    let plays = |stage: &ModelId| {
        let trains = plan.experiment.model(*stage).stage.trains().into_iter();
        trains.flat_map(Train::producers).any(|producer| !producer.programs().is_empty())
    };
    // The programs of rollouts get them too.
    let whole = verifier.reads_rows() || stages.iter().any(plays);
    let tests = match &domain.tests {
        Some(tests)
            if plan.experiment.comparisons.iter().any(|comparison| comparison.domains.contains(&id))
                || trains().any(|train| judges(train, id)) =>
        {
            Some(rows(places, tests, domain, &fields, (&[], &[]), whole)?)
        }
        _ => None,
    };
    let mut trained_on = false;
    let (mut routes, mut numbers): (Vec<Vec<DataFormula>>, Vec<DataFormula>) = Default::default();
    for train in trains() {
        if train.mixture.iter().any(|share| share.domain == id) {
            trained_on = true;
            let conditions = train.conditions(id);
            if !conditions.is_empty() && !routes.contains(&conditions) {
                routes.push(conditions);
            }
            for (_, number) in train.data_signals() {
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
            }
            let shown = train.views(id).flat_map(View::fields);
            let written = train.producers().flat_map(Producer::fields_of_texts);
            let of_data = train.producers().flat_map(Producer::fields_of_data);
            for field in of_data.chain(shown).chain(written) {
                if !fields.iter().any(|known| known.name == field) {
                    fields.push(Field::text(field));
                }
            }
        }
    }
    let train = if trained_on {
        Some(rows(places, &domain.prompts, domain, &fields, (&routes, &numbers), whole)?)
    } else {
        None
    };
    let (name, limit) = (domain.name.clone(), domain.limit);
    Ok(DomainData { id, name, origin: domain.origin, verifier, program, limit, train, tests })
}

/// Whether a domain's tests decide about the weights of a stage.
fn judges(train: &Train<plan::Objective>, id: DomainId) -> bool {
    train.extrapolation.as_ref().is_some_and(|extrapolation| extrapolation.judged_by == id)
}

/// Of the programs that a stage's rollouts start, a hash of the files that each is made of.
pub fn programs<O>(train: &Train<O>, base: &Path) -> Result<Vec<String>> {
    let of = |started: producers::Program| program(started.command, started.depends, base, started.kind);
    train.producers().flat_map(Producer::programs).map(of).collect()
}

fn program(command: &str, depends: &[String], base: &Path, kind: FailureKind) -> Result<String> {
    let program = Program::of(command, depends, base).map_err(|error| {
        Error::new(kind, error.to_string()).help("paths are relative to the folder of the experiment's file")
    })?;
    Ok(program.hash())
}

/// The rows of a data source, with the fields that are read of them.
fn rows(
    places: Places,
    source: &DataSource,
    domain: &Domain,
    fields: &[Field],
    (routes, numbers): (&[Vec<DataFormula>], &[DataFormula]),
    whole: bool,
) -> Result<Arc<Prompts>> {
    let Places { base, notes, cache, store } = places;
    let fields: Vec<Field> = fields.iter().filter(|field| field.name != MESSAGES).copied().collect();
    let request = Request {
        source,
        format: &domain.format,
        fields: &fields,
        whole,
        routes,
        numbers,
        notes: Some(notes),
    };
    let read = || {
        let prompts = Prompts::new(Dataset::read(base, request)?);
        Ok(match store {
            Some(store) => prompts.kept_in(store.clone(), domain.format.clone()),
            None => prompts,
        })
    };
    match cache {
        None => read().map(Arc::new),
        Some(cache) => {
            let files = || data::files(base, source).unwrap_or_default();
            cache.prompts(&format!("{} {request:?}", base.display()), files, read)
        }
    }
}

/// Tokens that come to a template: a completion, and before it drafts and other completions of as many. A
/// verifier's words are counted when they are there.
fn with_completions(view: &View, completion: u32) -> u32 {
    let shown = view.slots().filter(|slot| matches!(slot, Slot::Draft | Slot::Group(_))).count() as u32;
    completion.saturating_mul(1 + shown)
}

/// Tokens that a panel's words take in a template that shows them, at most.
fn with_debate<O>(train: &Train<O>, view: &View, tokenizer: &Tokenizer) -> Result<u32> {
    let Some(panel) = view.panel().and_then(|panel| train.panels.get(panel as usize)) else { return Ok(0) };
    let before = format!("{}{}", Panel::BETWEEN, Panel::label(panel.members.len()));
    let before = tokenizer.encode(&before)?.len() as u32;
    Ok(panel.turns().saturating_mul(panel.sampling.max_tokens.saturating_add(before)))
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
            None => Problem::missing(field, record.keys().map(String::as_str)),
            Some(found) => Problem::TypeMismatch {
                field: field.to_owned(),
                wanted: "a list of texts, none of them empty, one for each turn of the expert",
                found: quote(&found.to_string()),
            },
        };
        return Err(dataset.error(row, problem).into());
    }
    Ok(())
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
        // Of the student and all that have a role in the domain, the shortest.
        let of_role = |role: Role| {
            let choices = train.scorers.choices(role).iter().filter(|choice| choice.domain == share.domain);
            choices.filter_map(|choice| choice.teacher.form()).map(context).fold(context(model), u32::min)
        };
        let sees = train.sees.as_ref();
        let fields = || train.producers().flat_map(Producer::fields_of_data);
        let drawn = || train.producers().flat_map(Producer::drawn);
        for field in fields() {
            prompts.longest(tokenizer, sees, Some(field))?.fits(0, context(model))?;
        }
        let environments = || train.producers().flat_map(Producer::environments);
        if prompts.dataset.is_chat() && environments().next().is_some() {
            let message =
                format!("`turns` of `{}`, whose prompts are conversations, is not supported yet", data.name);
            return Err(Error::new(FailureKind::Data, message).help(
                "write its prompts as plain text, and what is to stand between turns in the observations",
            ));
        }
        if environments().any(|turns| turns.expert_turns.is_some()) {
            experts(prompts)?;
        }
        for (writer, sampling) in drawn() {
            let shortest = match writer {
                Writer::Student => context(model),
                Writer::Scorer(role) => of_role(role),
                // They may read more than the prompt: see below.
                Writer::Guide(role) | Writer::Editor { editor: role, .. } => of_role(role),
                Writer::Model(writer) => context(model).min(context(writer)),
            };
            let longest = prompts.longest(tokenizer, sees, None)?;
            longest.fits(sampling.max_tokens(data.limit), shortest).map_err(Error::from)?;
        }
        for choice in train.scorers.readers(share.domain) {
            let Some(view) = &choice.sees else { continue };
            let longest = |field| prompts.longest(tokenizer, Some(view), field);
            let context = context(choice.teacher.form().unwrap_or(model));
            let debate = with_debate(train, view, tokenizer)?;
            for field in fields() {
                longest(Some(field))?.with_words(debate).fits(0, context)?;
            }
            for (_, sampling) in drawn() {
                let completion = with_completions(view, sampling.max_tokens(data.limit));
                longest(None)?.with_words(debate).fits(completion, context)?;
            }
        }
        for panel in &train.panels {
            let members = panel.members.iter().flat_map(|role| train.scorers.choices(*role));
            for choice in members.filter(|choice| choice.domain == share.domain) {
                // Where it sees what was said, its last turn is part of that.
                let debate =
                    choice.sees.as_ref().map_or(Ok(0), |view| with_debate(train, view, tokenizer))?;
                let longest = prompts.longest(tokenizer, choice.sees.as_ref().or(sees), None)?;
                let context = context(choice.teacher.form().unwrap_or(model));
                longest.with_words(debate.max(panel.sampling.max_tokens)).fits(0, context)?;
            }
        }
        for (writer, sampling, view) in train.producers().flat_map(Producer::shown) {
            let (Writer::Scorer(role) | Writer::Editor { editor: role, .. }) = writer else { continue };
            let longest = prompts.longest(tokenizer, Some(view), None)?;
            longest.fits(with_completions(view, sampling.max_tokens(data.limit)), of_role(role))?;
        }
        // Whoever scores reads the same completions.
        let scorers = train.scorers.iter().flat_map(|(role, scorer)| {
            let own = scorer.choices.iter().filter(|choice| choice.domain == share.domain);
            own.filter_map(move |choice| {
                let name = match role {
                    Role::REFERENCE => "the reference".to_owned(),
                    _ => format!("the teacher `{}`", choice.name),
                };
                Some((name, choice.teacher.form()?, choice.own_tokens))
            })
        });
        let writers = train
            .producers()
            .flat_map(Producer::models)
            .map(|id| ("the model of the `snapshot`".to_owned(), id, false));
        for (name, other, own_tokens) in scorers.chain(writers) {
            let (student, other) = (form(model), form(other));
            if own_tokens {
                // How long completions get in its tokens is known when they are there.
                Counterparts::new(tokenizer, &other.tokenizer, &name)?;
                prompts.longest_prompt(&other.tokenizer)?.fits(1, other.config.context as u32)?;
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
                return Err(
                    Error::new(FailureKind::Context, message).help("give it at least the student's context")
                );
            }
        }
    }
    Ok(())
}

/// What a route says of a domain's data that is true of none of its rows: usually a slip in a text or a
/// number.
fn idle_arms<O>(stage: &str, train: &Train<O>, domain: DomainId, data: &DomainData) -> Result<Vec<String>> {
    let dataset = &trained(data)?.dataset;
    let taken = dataset.arms(&train.conditions(domain)).unwrap_or_default();
    let conditional =
        train.arms(domain).zip(0..).filter_map(|(arm, index)| Some((arm, arm.when.as_ref()?, index)));
    let idle = conditional.filter(|(.., index)| !taken.contains(index));
    Ok(idle
        .map(|(arm, when, _)| {
            let (domain, rows, when) = (&data.name, dataset.len(), when.text());
            format!(
                "`{stage}`: of the {rows} prompts of `{domain}`, none is routed to `{}` by `{when}`",
                arm.name
            )
        })
        .collect())
}

/// The training data of a domain that some stage trains on.
pub fn trained(data: &DomainData) -> Result<&Prompts> {
    data.train.as_deref().ok_or_else(|| {
        Error::new(FailureKind::Runtime, format!("the data of `{}` was not loaded", data.name))
    })
}

/// The test data of a domain that some comparison has as a column.
pub fn tested(data: &DomainData) -> Result<&Prompts> {
    data.tests.as_deref().ok_or_else(|| {
        Error::new(
            FailureKind::Data,
            format!("the domain `{}` has no tests, but a comparison evaluates it", data.name),
        )
        .help("give the domain `tests = \"...\"`, a file laid out like its prompts")
    })
}

fn check_evaluation(comparison: &Comparison, domains: &[DomainData], forms: &[Form]) -> Result<()> {
    for (model, domain) in comparison.evaluations() {
        fits(&domains[domain.0 as usize], &forms[model.0 as usize], &comparison.evaluation)?;
    }
    Ok(())
}

/// That a model's context has room for every test prompt with its completion.
fn fits(data: &DomainData, form: &Form, evaluation: &Evaluation) -> Result<()> {
    let longest = tested(data)?.longest_prompt(&form.tokenizer)?;
    Ok(longest.fits(evaluation.sampling.max_tokens(data.limit), form.config.context as u32)?)
}
