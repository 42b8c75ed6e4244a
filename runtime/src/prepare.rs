//! Everything that can be wrong with the data of a plan, found before the first step: files, fields, lengths, rewards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Comparison, Completions, Domain, DomainId, ModelId, Origin, Plan, Prefixes, Pretrained, Stage, Train};

use crate::data::tokenizer::Tokenizer;
use crate::data::{Dataset, Field, overlap};
use crate::failure::{Error, Result};
use crate::model::{Config, Token};
use crate::reward::Verifier;
use crate::schedule::columns;

/// A domain with its data. Only what the plan's work reads is loaded.
pub struct DomainData {
    pub id: DomainId,
    pub name: String,
    /// The domain in the source: what its verifier does wrong is shown there.
    pub origin: Origin,
    pub verifier: Verifier,
    pub train: Option<Prompts>,
    pub tests: Option<Prompts>,
}

/// A data file and its prompts as tokens.
pub struct Prompts {
    pub dataset: Dataset,
    pub tokens: Vec<Vec<Token>>,
}

impl Prompts {
    fn load(path: &Path, needed: &[Field]) -> Result<Prompts> {
        let dataset = Dataset::load(path, needed)?;
        let tokens = dataset.records.iter().map(|record| Tokenizer::Bytes.prompt(&record.prompt)).collect();
        Ok(Prompts { dataset, tokens })
    }
}

/// A file named in the source, as the author would name it: `sort.jsonl`, not `./sort.jsonl`.
fn beside(base: &Path, name: &str) -> PathBuf {
    if base == Path::new(".") { PathBuf::from(name) } else { base.join(name) }
}

/// The configuration of every model: that of the weights it descends from.
pub fn configs(plan: &Plan) -> Result<Vec<Arc<Config>>> {
    let mut configs: Vec<Arc<Config>> = Vec::new();
    for model in &plan.experiment.models {
        let inherited = |from: &ModelId| {
            configs.get(from.0 as usize).cloned().ok_or_else(|| {
                Error::new(FailureKind::Runtime, format!("the plan uses a model before it makes it: `{}`", model.name))
            })
        };
        let config = match &model.stage {
            Stage::Initialise(architecture) => {
                let config = Config::of(architecture);
                config.check().map_err(|problem| {
                    Error::new(FailureKind::Runtime, format!("`{}`: {problem}", model.name)).at(model.origin)
                })?;
                Arc::new(config)
            }
            Stage::Load(pretrained) => {
                let message = format!("`{}`: this version can't load {}", model.name, described(pretrained));
                return Err(Error::new(FailureKind::Runtime, message).at(model.origin));
            }
            Stage::Train(train) => inherited(&train.start)?,
            Stage::Merge(merge) => match merge.base.iter().chain(&merge.models).next() {
                Some(from) => inherited(from)?,
                None => return Err(Error::new(FailureKind::Runtime, "a merge of no models").at(model.origin)),
            },
        };
        configs.push(config);
    }
    Ok(configs)
}

/// As the author wrote it.
pub fn described(pretrained: &Pretrained) -> String {
    match pretrained {
        Pretrained::HuggingFace { name, .. } => format!("hf({name:?})"),
        Pretrained::Gguf { file } => format!("gguf({file:?})"),
        Pretrained::Checkpoint { folder } => format!("checkpoint({folder:?})"),
    }
}

/// Loads and checks what `stages` and the plan's comparisons read. Answers the domains, in the plan's order, and warnings.
pub fn prepare(plan: &Plan, stages: &[ModelId], configs: &[Arc<Config>], base: &Path) -> Result<(Vec<DomainData>, Vec<String>)> {
    let mut domains = Vec::new();
    let mut warnings = Vec::new();
    for (index, domain) in plan.experiment.domains.iter().enumerate() {
        let id = DomainId(index as u32);
        let loaded = load(plan, id, domain, stages, base).map_err(|error| error.at(domain.origin))?;
        if let (Some(train), Some(tests)) = (&loaded.train, &loaded.tests) {
            warnings.extend(overlap(&train.dataset, &tests.dataset).map(|overlap| overlap.to_string()));
        }
        domains.push(loaded);
    }
    for id in stages {
        let model = plan.experiment.model(*id);
        if let Stage::Train(train) = &model.stage {
            check_training(train, *id, &domains, configs).map_err(|error| error.at(model.origin))?;
        }
    }
    for comparison in &plan.experiment.comparisons {
        check_evaluation(comparison, &domains, configs).map_err(|error| error.at(comparison.origin))?;
    }
    Ok((domains, warnings))
}

fn load(plan: &Plan, id: DomainId, domain: &Domain, stages: &[ModelId], base: &Path) -> Result<DomainData> {
    let verifier = Verifier::new(&domain.reward, base)?;
    let mut fields: Vec<Field> = verifier.needed().into_iter().collect();
    let tests = match &domain.tests {
        Some(tests) if plan.experiment.comparisons.iter().any(|comparison| comparison.domains.contains(&id)) => {
            Some(Prompts::load(&beside(base, &tests.path), &fields)?)
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
    let train = if trained_on { Some(Prompts::load(&beside(base, &domain.prompts.path), &fields)?) } else { None };
    Ok(DomainData { id, name: domain.name.clone(), origin: domain.origin, verifier, train, tests })
}

fn check_training<O>(train: &Train<O>, model: ModelId, domains: &[DomainData], configs: &[Arc<Config>]) -> Result<()> {
    let context = |model: ModelId| configs[model.0 as usize].context as u32;
    if train.mixture.is_empty() {
        return Err(Error::new(FailureKind::Runtime, "a stage trains on no domain"));
    }
    for share in &train.mixture {
        let data = &domains[share.domain.0 as usize];
        let dataset = &trained(data)?.dataset;
        match &train.prefixes {
            Prefixes::Data { field, .. } => dataset.longest_example(field, &Tokenizer::Bytes).fits(0, context(model))?,
            Prefixes::Student { sampling, .. } => {
                dataset.longest_prompt(&Tokenizer::Bytes).fits(sampling.max_tokens, context(model))?
            }
            Prefixes::Teacher { sampling, .. } => {
                let teacher = train.teachers.iter().find(|choice| choice.domain == share.domain);
                let teacher = teacher.and_then(|choice| choice.teacher.model()).unwrap_or(model);
                dataset.longest_prompt(&Tokenizer::Bytes).fits(sampling.max_tokens, context(model).min(context(teacher)))?;
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
                        Completions::Data { field } => {
                            dataset.longest_example(field, &Tokenizer::Bytes).fits(0, context(model))?
                        }
                        Completions::Student { sampling }
                        | Completions::Teacher { sampling }
                        | Completions::Model { sampling, .. } => {
                            let limit = context(model).min(context(writer));
                            dataset.longest_prompt(&Tokenizer::Bytes).fits(sampling.max_tokens, limit)?;
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
            let (student, other) = (&configs[model.0 as usize], &configs[other.0 as usize]);
            if student.vocabulary != other.vocabulary {
                return Err(Error::new(FailureKind::Runtime, format!("{name} has another tokenizer than its student")));
            }
            if other.context < student.context {
                let (own, needed) = (other.context, student.context);
                let message = format!("{name} has a context of {own} tokens, less than its student's {needed}");
                return Err(Error::new(FailureKind::Context, message).help("give it at least the student's context"));
            }
        }
    }
    Ok(())
}

/// The training data of a domain that some stage trains on.
pub fn trained(data: &DomainData) -> Result<&Prompts> {
    data.train.as_ref().ok_or_else(|| Error::new(FailureKind::Runtime, format!("the data of `{}` was not loaded", data.name)))
}

/// The test data of a domain that some comparison has as a column.
pub fn tested(data: &DomainData) -> Result<&Prompts> {
    data.tests.as_ref().ok_or_else(|| {
        Error::new(FailureKind::Data, format!("the domain `{}` has no tests, but a comparison evaluates it", data.name))
            .help("give the domain `tests = \"...\"`, a file laid out like its prompts")
    })
}

fn check_evaluation(comparison: &Comparison, domains: &[DomainData], configs: &[Arc<Config>]) -> Result<()> {
    for (model, domain) in columns(comparison) {
        let longest = tested(&domains[domain.0 as usize])?.dataset.longest_prompt(&Tokenizer::Bytes);
        longest.fits(comparison.evaluation.sampling.max_tokens, configs[model.0 as usize].context as u32)?;
    }
    Ok(())
}
