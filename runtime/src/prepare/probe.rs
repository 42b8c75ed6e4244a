//! Checks that rewards and environments answer, by calling each once before anything is trained. Otherwise a
//! failure would show only after the first rollouts of its stage, or, if only a table uses it, at the end of
//! the run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mopd_plan::producers::Producer;
use mopd_plan::{self as plan, DomainId, EnvironmentProgram, ModelId, Plan, Served, Stage, Train};
use serde_json::{Map, Value};

use super::load::look as look_for_model;
use super::{DomainData, ReadContext, load, programs, turns};
use crate::control::Control;
use crate::data::{self, Dataset, RowPlace, overlap};
use crate::environment::{Environment, Episode, Start};
use crate::failure::{Error, Result};
use crate::remote::Server;
use crate::remote::sampling::SamplingServer;
use crate::reward::RewardInput;
use crate::tokenizer::PretrainedTokenizer;

/// The field whose text is the completion for a record, if the record has it.
const ANSWER: &str = "answer";

/// Asks the verifier of a domain to judge a completion for each of two records, from the tests if there are
/// any. One record alone would not reveal a function that returns one result however many it is given. The
/// completion is the record's answer, or else its prompt, since no model can write one yet.
pub fn ask(data: &DomainData, control: &Control) -> Result<()> {
    if data.verifier.is_none() {
        return Ok(());
    }
    let read = data.tests.iter().chain(&data.train).chain(turns(data)).chain(&data.validation);
    let Some(prompts) = read.into_iter().next() else { return Ok(()) };
    let dataset: &Dataset = &prompts.dataset;
    let rows = 0..dataset.len().min(2);
    let records: Vec<_> = rows.map(|row| (dataset.prompt(row), dataset.object(row))).collect();
    let inputs = records.iter().map(|(prompt, record)| {
        let completion = record.get(ANSWER).and_then(|answer| answer.as_str()).unwrap_or(prompt);
        RewardInput { prompt, completion, record }
    });
    let asked = data.verifier.judge(&inputs.collect::<Vec<_>>(), control);
    for warning in data.verifier.take_warnings() {
        control.warn(warning);
    }
    asked.map(|_| ()).map_err(|error| Error::from(error).at(data.origin))
}

/// The first row that a domain trains on.
pub struct FirstRow {
    domain: String,
    prompt: String,
    record: Map<String, Value>,
    file: PathBuf,
    place: RowPlace,
    is_chat: bool,
}

impl FirstRow {
    pub fn find(data: &DomainData) -> Option<FirstRow> {
        let dataset = &data.train.as_ref()?.dataset;
        let (file, place) = dataset.place(0);
        Some(FirstRow {
            domain: data.name.clone(),
            prompt: dataset.prompt(0).to_owned(),
            record: dataset.object(0),
            file: file.to_owned(),
            place,
            is_chat: dataset.is_chat(),
        })
    }
}

/// Pairs of an environment and a domain for which it has begun an episode.
pub type BegunEnvironments<'a> = BTreeSet<(&'a EnvironmentProgram, DomainId)>;

/// Begins an episode in each environment of a stage for the first row of each domain that it trains on, and
/// ends it: an action would need a model. `rows` has an entry for each domain of the plan.
pub fn begin<'a, O>(
    train: &'a Train<O>,
    base: &Path,
    rows: &[Option<FirstRow>],
    begun: &mut BegunEnvironments<'a>,
    control: &Control,
) -> Result<()> {
    for turns in train.producers().flat_map(Producer::environments) {
        let domains = train.mixture.iter().map(|share| share.domain);
        let domains = domains.filter(|domain| begun.insert((&turns.environment, *domain)));
        let mut episodes: Vec<Episode> = Vec::new();
        for row in domains.filter_map(|domain| rows[domain.0 as usize].as_ref()) {
            let (domain, prompt, record) = (&row.domain, &row.prompt, &row.record);
            let from = (row.file.as_path(), row.place);
            episodes.push(Episode::new(Start { seed: 0, domain, prompt, record, row: from }, row.is_chat));
        }
        if episodes.is_empty() {
            continue;
        }
        let environment = Environment::new(&turns.environment, turns.time_limit_seconds, base)?;
        let answered = environment.answer(&mut episodes, control);
        environment.take_warnings().into_iter().for_each(|warning| control.warn(warning));
        answered?;
        environment.end(&episodes);
    }
    Ok(())
}

/// Reads everything of a plan except its models, whose existence it checks, and calls its verifiers,
/// environments and servers once. Passes each problem to `found` as soon as it is known, in the plan's
/// order. Returns the warnings.
pub fn look(
    plan: &Plan,
    stages: &[ModelId],
    places: ReadContext,
    control: &Control,
    mut found: impl FnMut(Error),
) -> Result<Vec<String>> {
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    for (domain, id) in plan.experiment.domains.iter().zip(0..) {
        control.check()?;
        rows.push(None);
        let read = load(plan, DomainId(id), domain, stages, None, places, &mut warnings);
        let read = read.map_err(|error| error.at(domain.origin));
        let checked = read.and_then(|data| {
            for train in data.train.iter().chain(turns(&data)) {
                for held_out in data.tests.iter().chain(&data.validation) {
                    warnings
                        .extend(overlap(&train.dataset, &held_out.dataset).map(|found| found.to_string()));
                }
            }
            rows[id as usize] = FirstRow::find(&data);
            ask(&data, control)
        });
        match checked {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => found(error),
        }
    }
    let mut servers: Vec<&Served> = Vec::new();
    let mut named: BTreeSet<&str> = BTreeSet::new();
    let mut begun = BegunEnvironments::new();
    for model in &plan.experiment.models {
        if let Stage::Initialise(architecture) = &model.stage
            && let plan::TokenizerSpec::File(path) = &architecture.tokenizer
            && named.insert(path)
            && let Err(error) = PretrainedTokenizer::load(&data::path_as_written(places.base, path))
        {
            found(Error::from(error).at(model.origin));
        }
        if let Stage::Load(pretrained) = &model.stage
            && let Err(error) = look_for_model(&pretrained.source, places.base)
        {
            found(error.at(model.origin));
        }
        for train in model.stage.trains() {
            for served in train.served() {
                if servers.contains(&served) {
                    continue;
                }
                servers.push(served);
                match Server::open(served, control) {
                    Ok(_) => {}
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => found(error.at(model.origin)),
                }
            }
            for asked in train.sampled_by() {
                match SamplingServer::new(&asked.server, places.base)
                    .and_then(|server| server.identify(control))
                {
                    Ok(_) => {}
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => found(error.at(model.origin)),
                }
            }
            let programs = programs(train, places.base);
            match programs.and_then(|_| begin(train, places.base, &rows, &mut begun, control)) {
                Ok(()) => {}
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => found(error.at(model.origin)),
            }
        }
    }
    Ok(warnings)
}
