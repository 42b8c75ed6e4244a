//! Models and data, found and read before anything runs, and everything that can be wrong with them: files,
//! fields, lengths, rewards.

pub mod cache;
pub mod check;
mod configs;
mod doctor;
pub mod load;
mod merges;
mod opened;
pub mod probe;
pub mod prompts;
mod template_tokens;
mod training;
mod unchanged;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::missing_file_help;
use mopd_plan::producers;
use mopd_plan::results::{DataHash, FileHash, RewardFiles};
use mopd_plan::{
    self as plan, Domain, DomainId, ModelId, Origin, Plan, Pretrained, Producer, RewardProgram, Stage, Train,
};
use mopd_store::files::{names_beside, reason};
use mopd_store::places::Checkout;
use mopd_store::programs::CommandSources;
use mopd_store::regular;

use self::cache::DataCache;
use self::check::{check_evaluation, fewer_tests, fits, idle_arms, more_than_rows, unfinished_schedules};
pub use self::configs::configs;
use self::doctor::SearchedRows;
use self::load::{LoadedModel, load_pretrained};
use self::merges::check_merge;
use self::opened::OpenedFiles;
use self::prompts::Prompts;
use self::training::check_training;
pub use self::training::longest_on_servers;
use self::unchanged::HashedFiles;
use crate::data::reads::{DomainReads, RowsRead};
use crate::data::{self, ContextLength, Dataset, LongPrompts, overlap};
use crate::failure::{Error, Result};
use crate::formats::hub::Hub;
use crate::model::{Config, Weights};
use crate::reward::Verifier;
use crate::store::{Store, check_can_be_saved};
use crate::tokenizer::Tokenizer;
use crate::zip::zip_equal;

/// Where to look.
#[derive(Clone, Copy)]
pub struct ReadContext<'a> {
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
    /// What the verifier is made of, as far as files tell.
    pub programs: Vec<ProgramFiles>,
    /// What its functions of Python open, if it has any.
    pub opened: Option<OpenedFiles>,
    /// Longest completion, in tokens.
    pub limit: Option<u32>,
    pub train: Option<Arc<Prompts>>,
    /// The same in turns of recorded trajectories, each by the field that has them.
    pub turns: Vec<(String, Arc<Prompts>)>,
    pub tests: Option<Arc<Prompts>>,
    pub validation: Option<Arc<Prompts>>,
}

/// A program of the author's, or another file that judges, as far as files tell.
#[derive(Clone, Debug)]
pub struct ProgramFiles {
    /// Of all files.
    pub hash: String,
    pub files: Vec<FileHash>,
    /// Those that are read again after they were hashed.
    pub unchanged: HashedFiles,
    /// Descriptions of what may change its answers and has no hash.
    pub unseen: Vec<String>,
}

/// What is known of a model before its weights are.
#[derive(Clone)]
pub struct ModelSpec {
    pub config: Arc<Config>,
    pub tokenizer: Arc<Tokenizer>,
    /// Where the model is not made but read: its weights, which stay in their files.
    pub loaded: Option<LoadedModel>,
    /// Its shape is that of files, its own or those of the model that it began from.
    pub of_files: bool,
}

impl ModelSpec {
    pub fn context(&self) -> ContextLength {
        ContextLength { tokens: self.config.context as u32, fixed: self.of_files }
    }
}

/// The specification of every model: that of the weights it descends from.
pub fn model_specs(plan: &Plan, places: ReadContext) -> Result<Vec<ModelSpec>> {
    let load = |pretrained: &Pretrained| {
        let loaded = load_pretrained(pretrained, places.base, Some(places.notes))?;
        let Weights { config, tokenizer, .. } = loaded.weights.clone();
        Ok(Some(ModelSpec { config, tokenizer, loaded: Some(loaded), of_files: true }))
    };
    let specs: Option<Vec<ModelSpec>> = specs_by(plan, places.base, load)?.into_iter().collect();
    specs.ok_or_else(|| Error::new(FailureKind::Runtime, "a model without a specification"))
}

/// The same without hashing weights, so without what is [loaded](ModelSpec::loaded). `None` where a model
/// must be fetched.
pub fn opened_specs(plan: &Plan, base: &Path) -> Result<Option<Vec<ModelSpec>>> {
    let specs = specs_by(plan, base, |pretrained| {
        let opened = load::open(pretrained, base)?;
        Ok(opened.map(|Weights { config, tokenizer, .. }: Weights| ModelSpec {
            config,
            tokenizer,
            loaded: None,
            of_files: true,
        }))
    })?;
    Ok(specs.into_iter().collect())
}

/// The specifications, where `load` gives that of existing weights.
fn specs_by(
    plan: &Plan,
    base: &Path,
    load: impl Fn(&Pretrained) -> Result<Option<ModelSpec>>,
) -> Result<Vec<Option<ModelSpec>>> {
    let heads = plan::scalar_heads(&plan.experiment.models);
    let second_heads = plan::second_heads(&plan.experiment.models);
    let mut specs: Vec<Option<ModelSpec>> = Vec::new();
    for (model, (head, second)) in zip_equal(&plan.experiment.models, zip_equal(heads, second_heads)) {
        let inherited = |from: &ModelId| {
            let spec = specs.get(from.0 as usize).ok_or_else(|| {
                Error::new(
                    FailureKind::Runtime,
                    format!("the plan uses the model `{}` before it is made", model.name),
                )
            })?;
            Ok::<_, Error>(spec.clone().map(|spec| ModelSpec { loaded: None, ..spec }))
        };
        let spec = match &model.stage {
            Stage::Initialise(architecture) => {
                let (config, tokenizer) = configs::initialised(model, architecture, base)?;
                let (config, tokenizer) = (Arc::new(config), Arc::new(tokenizer));
                Some(ModelSpec { config, tokenizer, loaded: None, of_files: false })
            }
            Stage::Load(pretrained) => load(pretrained).map_err(|error| error.at(model.origin))?,
            stage => match stage.start() {
                Some(from) => inherited(&from)?,
                None => return Err(Error::new(FailureKind::Runtime, "a merge of no models").at(model.origin)),
            },
        };
        let Some(spec) = spec else {
            specs.push(None);
            continue;
        };
        let config = match head {
            Some(true) => Arc::new(Config { scalar_head: true, ..(*spec.config).clone() }),
            Some(false) | None => spec.config,
        };
        let config = match second {
            Some(second_head) if second_head != config.second_head => {
                Arc::new(Config { second_head, ..(*config).clone() })
            }
            _ => config,
        };
        specs.push(Some(ModelSpec { config, ..spec }));
    }
    Ok(specs)
}

/// Loads and checks what `stages` and the plan's comparisons read. Answers the domains, in the plan's order,
/// and warnings.
pub fn prepare(
    plan: &Plan,
    stages: &[ModelId],
    specs: &[ModelSpec],
    places: ReadContext,
) -> Result<(Vec<DomainData>, Vec<String>)> {
    let mut domains = Vec::new();
    let mut warnings = Vec::new();
    for (index, domain) in plan.experiment.domains.iter().enumerate() {
        let id = DomainId(index as u32);
        let readers = prompt_readers(plan, id, specs);
        let loaded = load(plan, id, domain, stages, Some(&readers), places, &mut warnings);
        let loaded = loaded.map_err(|error| error.at(domain.origin))?;
        for train in loaded.train.iter().chain(turns(&loaded)) {
            for held_out in loaded.tests.iter().chain(&loaded.validation) {
                warnings.extend(overlap(&train.dataset, &held_out.dataset).map(|found| found.to_string()));
            }
        }
        domains.push(loaded);
    }
    if let Some(cache) = places.cache {
        cache.forget_unused();
    }
    let mut searched = SearchedRows::new();
    for id in stages {
        let model = plan.experiment.model(*id);
        if !matches!(model.stage, Stage::Load(_)) {
            check_can_be_saved(&specs[id.0 as usize].config).map_err(|error| error.at(model.origin))?;
        }
        check_merge(plan, &model.stage, specs).map_err(|error| error.at(model.origin))?;
        warnings.extend(unfinished_schedules(plan, *id, &domains));
        for train in model.stage.trains() {
            check_training(train, train.start, &domains, specs).map_err(|error| error.at(model.origin))?;
            if let Some(extrapolation) = &train.extrapolation {
                let data = &domains[extrapolation.judged_by.0 as usize];
                fits(data, &specs[train.start.0 as usize], &extrapolation.evaluation)
                    .map_err(|error| error.at(data.origin))?;
            }
            warnings.extend(more_than_rows(&model.name, train, &domains));
            warnings.extend(doctor::warnings(&model.name, train, &domains, specs, &mut searched));
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
        check_evaluation(comparison, &domains, specs).map_err(|error| error.at(comparison.origin))?;
        warnings.extend(fewer_tests(comparison, &domains));
    }
    warnings.extend(
        domains
            .iter()
            .flat_map(|data| data.train.iter().chain(&data.tests).chain(&data.validation).chain(turns(data)))
            .flat_map(|prompts| prompts.warnings()),
    );
    let mut said = BTreeSet::new();
    warnings.retain(|warning| said.insert(warning.clone()));
    Ok((domains, warnings))
}

fn load(
    plan: &Plan,
    id: DomainId,
    domain: &Domain,
    stages: &[ModelId],
    readers: Option<&[Arc<Tokenizer>]>,
    places: ReadContext,
    warnings: &mut Vec<String>,
) -> Result<DomainData> {
    let verifier = Verifier::new(&domain.reward, places.base)?;
    let reward = domain.reward.facts();
    let of = |RewardProgram { command, depends, is_function }: &RewardProgram| {
        let sources = sources(command, depends, places.base, FailureKind::Reward)?;
        let sources = if *is_function { sources.of_function() } else { sources };
        Ok(program(sources, FailureKind::Reward))
    };
    let mut programs: Vec<ProgramFiles> = reward.programs.iter().map(of).collect::<Result<_>>()?;
    for file in reward.files {
        let of_bytes = || regular::hash(&places.base.join(file), u64::MAX);
        let hash = verifier.file_hash(file).map(str::to_owned).map_or_else(of_bytes, Ok);
        let hash = hash.map_err(|error| {
            let error = Error::new(FailureKind::Reward, format!("cannot read {file}: {}", reason(&error)));
            let beside = names_beside(&places.base.join(file)).unwrap_or_default();
            error.help(missing_file_help(file, &beside))
        })?;
        let files = vec![FileHash { name: Checkout::new(places.base).name(file), hash: hash.clone() }];
        // The verifier has read it already.
        let unchanged = HashedFiles::program(FailureKind::Reward, []);
        programs.push(ProgramFiles { hash, files, unchanged, unseen: Vec::new() });
    }
    let calls_functions = reward.programs.iter().any(|program| program.is_function);
    let opened = calls_functions.then(|| OpenedFiles::read(&programs, places.base, places.notes));
    programs.extend(opened.as_ref().and_then(OpenedFiles::changed));
    let reads = DomainReads::of(plan, id, stages);
    let mut rows = |read: &RowsRead| rows(places, domain, read, readers, warnings);
    let mut read = |read: &Option<RowsRead>| read.as_ref().map(&mut rows).transpose();
    let (train, tests, validation) = (read(&reads.prompts)?, read(&reads.tests)?, read(&reads.validation)?);
    let turns = reads.turns.iter().map(|(field, read)| Ok(((*field).to_owned(), rows(read)?)));
    let turns = turns.collect::<Result<_>>()?;
    let (name, limit) = (domain.name.clone(), domain.limit);
    let origin = domain.origin;
    Ok(DomainData { id, name, origin, verifier, programs, opened, limit, train, turns, tests, validation })
}

/// The programs that a stage's rollouts start.
pub fn programs<O>(train: &Train<O>, base: &Path) -> Result<Vec<ProgramFiles>> {
    let of = |started: producers::ProducerProgram| {
        let sources = sources(started.command, started.depends, base, started.kind)?;
        Ok(program(sources, started.kind))
    };
    train.producers().flat_map(Producer::programs).map(of).collect()
}

fn sources(command: &str, depends: &[String], base: &Path, kind: FailureKind) -> Result<CommandSources> {
    CommandSources::find(command, depends, base).map_err(|error| {
        Error::new(kind, error.to_string()).help("paths are relative to the folder of the experiment's file")
    })
}

fn program(program: CommandSources, kind: FailureKind) -> ProgramFiles {
    let file = |(name, hash): (&str, &str)| FileHash { name: name.to_owned(), hash: hash.to_owned() };
    let (hash, files) = (program.hash(), program.files().map(file).collect());
    let unseen = program.unseen;
    ProgramFiles { hash, files, unchanged: HashedFiles::program(kind, program.hashed), unseen }
}

/// The tokenizers of the models that train or are judged on a domain, each once.
fn prompt_readers(plan: &Plan, id: DomainId, specs: &[ModelSpec]) -> Vec<Arc<Tokenizer>> {
    let experiment = &plan.experiment;
    let trains = experiment.models.iter().flat_map(|model| model.stage.trains());
    let students = trains.filter(|train| train.mixture.iter().any(|share| share.domain == id));
    let judged = experiment.comparisons.iter().flat_map(|table| {
        table
            .evaluations()
            .into_iter()
            .filter(|(_, column)| table.columns[*column].domain == id)
            .map(|(model, _)| model)
    });
    let models = students.map(|train| train.start).chain(judged);
    let mut readers: Vec<Arc<Tokenizer>> = models.map(|id| specs[id.0 as usize].tokenizer.clone()).collect();
    readers.sort_by_key(|tokenizer| tokenizer.hash());
    readers.dedup_by_key(|tokenizer| tokenizer.hash());
    readers
}

/// The rows of a domain that a run reads; where their readers are not known, also those whose prompts are too
/// long for them.
fn rows(
    places: ReadContext,
    domain: &Domain,
    read: &RowsRead,
    readers: Option<&[Arc<Tokenizer>]>,
    warnings: &mut Vec<String>,
) -> Result<Arc<Prompts>> {
    let ReadContext { base, notes, cache, store } = places;
    let request = read.request(Some(notes));
    Hub::from_environment().fetch_data(base, request.source)?;
    let make = |without: Option<LongPrompts>| {
        let dataset = Dataset::read_without(base, request, without).map_err(|error| {
            let origin = read.asker(&error);
            origin.into_iter().fold(Error::from(error), Error::at)
        });
        let prompts = Prompts::new(dataset?);
        Ok(match store {
            Some(store) => prompts.cached_in(store.clone(), domain.format.clone()),
            None => prompts,
        })
    };
    let cached = |without: Option<LongPrompts>| match cache {
        None => make(without).map(Arc::new),
        Some(cache) => {
            let files = || data::files(base, request.source).unwrap_or_default();
            cache.prompts(&format!("{} {request:?} {without:?}", base.display()), files, || {
                make(without.clone())
            })
        }
    };
    let all = cached(None)?;
    let (Some(most), Some(readers)) = (request.source.max_prompt_tokens, readers) else { return Ok(all) };
    let long = too_long(&all, most, readers)?;
    if !long.rows.is_empty() {
        warnings.push(format!(
            "{}: {} of {} rows are left out: their prompts have more than {most} tokens",
            all.dataset.path.display(),
            long.rows.len(),
            all.dataset.draws()
        ));
    }
    cached(Some(long))
}

/// The rows with a prompt of more tokens for one of its readers; of a trajectory, with one in any of its
/// turns.
fn too_long(prompts: &Prompts, most: u32, readers: &[Arc<Tokenizer>]) -> Result<LongPrompts> {
    let dataset = &prompts.dataset;
    let mut long = vec![false; dataset.draws()];
    for tokenizer in readers {
        let tokens = prompts.tokens(tokenizer)?;
        for (draw, long) in long.iter_mut().enumerate() {
            *long |= dataset.of_draw(draw).any(|row| tokens.get(row).len() > most as usize);
        }
    }
    let rows = (0..).zip(long).filter_map(|(row, long)| long.then_some(row)).collect();
    let day = prompts.day(readers.iter().map(|tokenizer| &**tokenizer));
    let readers = readers.iter().map(|tokenizer| tokenizer.hash()).chain(day).collect();
    Ok(LongPrompts { rows, most, readers })
}

fn turns(data: &DomainData) -> impl Iterator<Item = &Arc<Prompts>> {
    data.turns.iter().map(|(_, turns)| turns)
}

impl DomainData {
    /// What was read, for whoever asks later whether it was the same.
    pub fn hashes(&self) -> Vec<DataHash> {
        let parts = [("prompts", &self.train), ("tests", &self.tests), ("validation", &self.validation)];
        let hash = |(part, prompts): (&str, &Option<Arc<Prompts>>)| {
            let dataset = &prompts.as_ref()?.dataset;
            Some(DataHash {
                domain: self.name.clone(),
                part: part.to_owned(),
                path: dataset.path.display().to_string(),
                hash: dataset.hash.clone(),
            })
        };
        parts.into_iter().filter_map(hash).collect()
    }

    /// Of what its verifier is made of, a hash; none where no file judges.
    pub fn program(&self) -> Option<String> {
        let hashes: Vec<&str> = self.programs.iter().map(|program| program.hash.as_str()).collect();
        (!hashes.is_empty()).then(|| hashes.join(","))
    }

    /// The files that its verifier is made of, each once.
    pub fn reward_files(&self) -> Option<RewardFiles> {
        let mut files: Vec<FileHash> =
            self.programs.iter().flat_map(|program| program.files.clone()).collect();
        files.sort_by(|one, next| one.name.cmp(&next.name));
        files.dedup();
        (!files.is_empty()).then(|| RewardFiles { domain: self.name.clone(), files })
    }

    /// The rows that a stage trains on.
    pub fn rows_of<O>(&self, train: &Train<O>) -> Option<&Arc<Prompts>> {
        match train.trajectory() {
            None => self.train.as_ref(),
            Some(field) => self.turns.iter().find(|(known, _)| known == field).map(|(_, turns)| turns),
        }
    }
}

/// The training data of a domain that some stage trains on.
pub fn trained<'d, O>(data: &'d DomainData, train: &Train<O>) -> Result<&'d Prompts> {
    data.rows_of(train).map(|prompts| &**prompts).ok_or_else(|| {
        Error::new(FailureKind::Runtime, format!("the data of `{}` was not loaded", data.name))
    })
}

/// The validation rows of a domain that some stage validates on.
pub fn validated(data: &DomainData) -> Result<&Prompts> {
    data.validation.as_deref().ok_or_else(|| {
        Error::new(
            FailureKind::Data,
            format!("the domain `{}` has no validation rows, but a stage validates on them", data.name),
        )
        .help("set `validation = \"...\"` of the domain to a file with the format of its prompts")
    })
}

/// The test data of a domain that some comparison has as a column.
pub fn tested(data: &DomainData) -> Result<&Prompts> {
    data.tests.as_deref().ok_or_else(|| {
        Error::new(
            FailureKind::Data,
            format!("the domain `{}` has no tests, but a comparison evaluates it", data.name),
        )
        .help("set `tests = \"...\"` of the domain to a file with the format of its prompts")
    })
}
