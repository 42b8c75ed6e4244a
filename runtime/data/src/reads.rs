//! What a run reads of the data of a plan.

use std::collections::BTreeSet;
use std::path::Path;

use mopd_plan::producers::Producer;
use mopd_plan::{
    DataFormula, DataSource, Domain, DomainId, Model, ModelId, Objective, Origin, Plan, PromptFormat,
    RewardFacts, Train, View,
};

use crate::error::{DataError, DataProblem};
use crate::experts;
use crate::reading::ReadRow;
use crate::request::{DatasetRequest, Field, FieldKind, MESSAGES};

/// The models that a run makes, with those that they are made from: those of its tables, or all where there
/// is no table.
pub fn made(plan: &Plan) -> Vec<ModelId> {
    let experiment = &plan.experiment;
    let mut open: Vec<ModelId> = match experiment.comparisons.as_slice() {
        [] => (0..experiment.models.len() as u32).map(ModelId).collect(),
        tables => tables.iter().flat_map(|table| table.evaluations()).map(|(model, _)| model).collect(),
    };
    let mut made = BTreeSet::new();
    while let Some(id) = open.pop() {
        if made.insert(id) {
            open.extend(experiment.model(id).stage.inputs());
        }
    }
    made.into_iter().collect()
}

/// What some stages read of the rows of a domain, and tables of its tests.
pub struct DomainReads<'p> {
    pub prompts: Option<RowsRead<'p>>,
    /// The prompts in turns, for each field with trajectories.
    pub turns: Vec<(&'p str, RowsRead<'p>)>,
    pub tests: Option<RowsRead<'p>>,
    pub validation: Option<RowsRead<'p>>,
}

/// What is read of the rows of a source.
pub struct RowsRead<'p> {
    source: &'p DataSource,
    format: &'p PromptFormat,
    fields: Vec<Field<'p>>,
    whole: bool,
    routes: Vec<Vec<DataFormula>>,
    numbers: Vec<DataFormula>,
    /// The fields that a stage asks for, with its place in the source.
    asked: Vec<(&'p str, Origin)>,
    /// Whether an expert plays turns that every row has.
    experts: bool,
}

impl<'p> DomainReads<'p> {
    pub fn of(plan: &'p Plan, id: DomainId, stages: &[ModelId]) -> DomainReads<'p> {
        let domain = &plan.experiment.domains[id.0 as usize];
        let trains: Vec<(Origin, &Train<Objective>)> =
            stages.iter().flat_map(|stage| trains_of(plan.experiment.model(*stage))).collect();
        let reward = domain.reward.facts();
        let judged = needed(&reward);
        let plays = trains.iter().flat_map(|(_, train)| train.producers());
        // The programs of rollouts get whole rows too.
        let whole = reward.reads_rows || plays.into_iter().any(|producer| !producer.programs().is_empty());
        let is_column = plan
            .experiment
            .comparisons
            .iter()
            .any(|comparison| comparison.columns.iter().any(|column| column.domain == id));
        let judges = |train: &Train<Objective>| {
            train.extrapolation.as_ref().is_some_and(|extrapolation| extrapolation.judged_by == id)
        };
        let evaluated = is_column || trains.iter().any(|(_, train)| judges(train));
        let tests = domain.tests.as_ref().filter(|_| evaluated);
        let of_domain: Vec<(Origin, &Train<Objective>)> = trains
            .into_iter()
            .filter(|(_, train)| train.mixture.iter().any(|share| share.domain == id))
            .collect();
        let trained = |trajectory: Option<&'p str>| {
            let stages: Vec<_> =
                of_domain.iter().copied().filter(|(_, train)| train.trajectory() == trajectory).collect();
            (!stages.is_empty()).then(|| RowsRead::trained(domain, id, &stages, &judged, trajectory, whole))
        };
        let mut turns: Vec<(&str, RowsRead)> = Vec::new();
        for field in of_domain.iter().filter_map(|(_, train)| train.trajectory()) {
            if turns.iter().all(|(known, _)| *known != field) {
                turns.extend(trained(Some(field)).map(|read| (field, read)));
            }
        }
        DomainReads {
            prompts: trained(None),
            turns,
            tests: tests.map(|tests| RowsRead { whole, ..RowsRead::new(domain, tests, judged.clone()) }),
            validation: RowsRead::validated(domain, &of_domain),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RowsRead<'p>> {
        let turns = self.turns.iter().map(|(_, read)| read);
        self.prompts.iter().chain(turns).chain(&self.tests).chain(&self.validation)
    }
}

impl<'p> RowsRead<'p> {
    fn new(domain: &'p Domain, source: &'p DataSource, mut fields: Vec<Field<'p>>) -> RowsRead<'p> {
        // The messages are the prompt.
        fields.retain(|field| field.name != MESSAGES || field.kind == FieldKind::Trajectory);
        RowsRead {
            source,
            format: &domain.format,
            fields,
            whole: false,
            routes: Vec::new(),
            numbers: Vec::new(),
            asked: Vec::new(),
            experts: false,
        }
    }

    /// The rows that some stages train on; in turns, where a field with trajectories is given. Nobody judges
    /// turns, so what the verifier reads is in none of those.
    fn trained(
        domain: &'p Domain,
        id: DomainId,
        stages: &[(Origin, &'p Train<Objective>)],
        judged: &[Field<'p>],
        trajectory: Option<&'p str>,
        whole: bool,
    ) -> RowsRead<'p> {
        let (mut routes, mut numbers): (Vec<Vec<DataFormula>>, Vec<DataFormula>) = Default::default();
        let mut fields: Vec<Field> = match trajectory {
            None => judged.to_vec(),
            Some(field) => vec![Field::trajectory(field)],
        };
        let mut asked: Vec<(&str, Origin)> = Vec::new();
        for (origin, train) in stages {
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
            let recorded = train.objective.recorded();
            for field in of_data.chain(shown).chain(written).chain(recorded) {
                let known = |known: &Field| known.name == field && known.kind != FieldKind::Trajectory;
                if !fields.iter().any(known) {
                    fields.push(Field::text(field));
                    asked.push((field, *origin));
                }
            }
        }
        let environments = stages.iter().flat_map(|(_, train)| train.producers());
        let mut environments = environments.flat_map(Producer::environments);
        RowsRead {
            whole,
            routes,
            numbers,
            asked,
            experts: environments.any(|turns| turns.expert_turns.is_some()),
            ..RowsRead::new(domain, &domain.prompts, fields)
        }
    }

    /// The validation rows of a domain, where a stage reads them.
    fn validated(domain: &'p Domain, stages: &[(Origin, &'p Train<Objective>)]) -> Option<RowsRead<'p>> {
        let (mut fields, mut asked): (Vec<Field>, Vec<(&str, Origin)>) = Default::default();
        for (origin, train) in stages {
            let Some(validation) = &train.options.validation else { continue };
            let shown = train.sees.iter().flat_map(View::fields);
            for field in std::iter::once(validation.target.as_str()).chain(shown) {
                if !fields.iter().any(|known| known.name == field) {
                    fields.push(Field::text(field));
                    asked.push((field, *origin));
                }
            }
        }
        let source = domain.validation.as_ref().filter(|_| !fields.is_empty())?;
        Some(RowsRead { asked, ..RowsRead::new(domain, source, fields) })
    }

    pub fn source(&self) -> &'p DataSource {
        self.source
    }

    /// The request, in which `notes` is a folder for remembered hashes.
    pub fn request<'a>(&'a self, notes: Option<&'a Path>) -> DatasetRequest<'a> {
        let RowsRead { source, format, fields, whole, routes, numbers, .. } = self;
        DatasetRequest { source, format, fields, whole: *whole, routes, numbers, notes }
    }

    /// The place of the stage whose mistake an error is: it asked for a field that is missing.
    pub fn asker(&self, error: &DataError) -> Option<Origin> {
        let missing = error.missing_field()?;
        // Rows have columns, stages ask for fields.
        let asked = |(field, _): &&(&str, Origin)| *field == missing || self.source.column(field) == missing;
        self.asked.iter().find(asked).map(|(_, origin)| *origin)
    }

    /// Checks what a run needs of a row beyond its fields.
    pub(crate) fn fits(&self, row: &ReadRow) -> Result<(), DataProblem> {
        match &row.whole {
            Some(whole) if self.experts => experts::check(&experts::record(whole)),
            _ => Ok(()),
        }
    }
}

/// That a step asks for more prompts than there are, usually a slip in a number: it gets some of them several
/// times.
pub fn more_than_rows<O>(stage: &str, train: &Train<O>, rows: u64) -> Option<String> {
    let groups = train.rollout.groups;
    (u64::from(groups) > rows).then(|| {
        let asked = train.rollout.producer.kind().groups_setting(groups);
        let rows = if rows == 1 { "one row".to_owned() } else { format!("{rows} rows") };
        format!(
            "`{stage}`: {asked} in a step, but its data has {rows}: some rows are used several times in one \
             step"
        )
    })
}

/// What a model trains, each with its place in the source.
fn trains_of(model: &Model<Objective>) -> impl Iterator<Item = (Origin, &Train<Objective>)> {
    model.stage.trains().into_iter().map(|train| (model.origin, train))
}

/// The fields that every row must have that is judged.
pub fn needed<'r>(reward: &RewardFacts<'r>) -> Vec<Field<'r>> {
    let mut fields: Vec<Field> = Vec::new();
    for read in &reward.fields {
        let kind = if read.is_number { FieldKind::Number } else { FieldKind::Text };
        match fields.iter_mut().find(|known| known.name == read.name) {
            // A number is the stronger requirement.
            Some(known) if read.is_number => known.kind = kind,
            Some(_) => {}
            None => fields.push(Field { name: read.name, kind }),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use mopd_plan::{Reward, RewardPart};

    use super::*;

    #[test]
    fn rewards_need_the_fields_that_they_compare() {
        let field = || "answer".to_owned();
        let text = || Reward::ExactMatch { field: field() };
        let number = || Reward::Numeric { field: field(), tolerance: 0.0 };
        let regex = |pattern: &str| Reward::Regex { pattern: pattern.to_owned(), field: field() };
        let tests = || Reward::UnitTests { field: "tests".to_owned(), time_limit_seconds: 1.0 };
        let schema = || Reward::JsonSchema { schema: "person.json".to_owned() };
        let command = || Reward::Command {
            command: "judge".to_owned(),
            time_limit_seconds: 1.0,
            batch: 1,
            depends: Vec::new(),
            range: Default::default(),
        };
        let of = |rewards: Vec<Reward>| {
            let part = |(index, reward)| RewardPart { name: format!("p{index}"), weight: 0.5, reward };
            Reward::Parts { parts: rewards.into_iter().enumerate().map(part).collect() }
        };
        let group = r"(?:answer is (?<answer>\w+))|skip";
        for (reward, fields, whole) in [
            (text(), vec![Field::text("answer")], false),
            (number(), vec![Field::number("answer")], false),
            (regex("^[0-9]+$"), vec![], false),
            (regex(group), vec![Field::text("answer")], false),
            (tests(), vec![Field::text("tests")], false),
            (schema(), vec![], false),
            (command(), vec![], true),
            (of(vec![text(), tests(), text()]), vec![Field::text("answer"), Field::text("tests")], false),
            // A field that is read as a number can also be read as text.
            (of(vec![text(), number()]), vec![Field::number("answer")], false),
            (of(vec![number(), text()]), vec![Field::number("answer")], false),
            (of(vec![text(), command()]), vec![Field::text("answer")], true),
        ] {
            let facts = reward.facts();
            assert_eq!((needed(&facts), facts.reads_rows), (fields, whole), "{reward:?}");
        }
    }
}
