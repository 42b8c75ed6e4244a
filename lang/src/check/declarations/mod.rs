//! What the files declare: the names of each file, and the parts of the experiment so far.

pub mod plain_teachers;

use std::ops::{Deref, DerefMut};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::source::Span;
use mopd_experiment::{
    self, Architecture, Benchmark, BenchmarkId, Domain, DomainId, MarkedSetting, Model, ModelId, Objective,
    Panel, Stage, SweepAxis, Teacher, TeacherId, Train,
};

use crate::check::builtins::types::SaidOrigin;
use crate::check::names::candidates::NameCandidates;
use crate::check::names::modules::{ModuleId, Modules};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::MemberKey;

/// The names and parts that checks read and declare. It derefs to the [`Reporter`], so that a check that only
/// reports asks for no more than that.
pub struct Declarations {
    pub reporter: Reporter,
    pub modules: Modules,
    pub parts: ExperimentParts,
    /// The names that unknown ones may have meant.
    pub candidates: NameCandidates,
    pub entry: ModuleId,
    /// Whether the entry file is an experiment, not a library.
    pub has_experiment: bool,
    /// Whether an objective is being checked on its own. Numbers that depend on its parameters may then have
    /// any value.
    pub any_numbers: bool,
}

impl Deref for Declarations {
    type Target = Reporter;

    fn deref(&self) -> &Reporter {
        &self.reporter
    }
}

impl DerefMut for Declarations {
    fn deref_mut(&mut self) -> &mut Reporter {
        &mut self.reporter
    }
}

impl Declarations {
    /// Declares a model, named after the author's binding, or after the stage where there is none.
    pub fn declare_stage(&mut self, stage_name: &str, stage: Stage, span: Span, env: &Env) -> ModelId {
        let name = if env.model_name.is_empty() { stage_name } else { &env.model_name };
        self.declare_model(name, stage, span)
    }

    /// Declares a model. Its name is `wanted`, or a variant of it if that is taken.
    pub fn declare_model(&mut self, wanted: &str, stage: Stage, span: Span) -> ModelId {
        let origin = self.origin(span);
        let name = self.parts.model_names.give(wanted);
        self.parts.models.push(Model { name, stage, origin });
        ModelId(self.parts.models.len() as u32 - 1)
    }
}

/// The parts of the experiment that are known so far.
#[derive(Default)]
pub struct ExperimentParts {
    pub domains: Vec<Domain>,
    pub models: Vec<Model>,
    pub model_names: ModelNames,
    pub teachers: Vec<Teacher>,
    /// For each teacher, whether some route, objective or rollout uses it.
    pub used_teachers: Vec<bool>,
    /// The origins of teachers as the author declared them.
    pub said_origins: SaidOrigins,
    pub panels: Vec<Panel>,
    pub benchmarks: Vec<Benchmark>,
    pub sweep: Vec<SweepAxis>,
    pub objectives: Vec<NamedObjective>,
    pub marks: Vec<MarkedSetting>,
    /// The places of the values that a `with` changes.
    pub changed_models: Vec<Span>,
}

impl ExperimentParts {
    /// The architecture of a model's weights, or `None` where they are loaded or a parameter.
    pub fn architecture(&self, model: ModelId) -> Option<&Architecture> {
        match &self.model(self.first_weights(model)).stage {
            Stage::Initialise(architecture) => Some(architecture),
            _ => None,
        }
    }

    /// The key as it is written in the name of a member: `expert[sort]`.
    pub fn key_text(&self, key: &MemberKey) -> String {
        match key {
            MemberKey::Domain(domain) => self.domain(*domain).name.clone(),
            MemberKey::Teacher(teacher) => self.teacher(*teacher).name.clone(),
            MemberKey::Number(number) => number.to_string(),
            MemberKey::Name(name) => name.to_string(),
        }
    }

    /// Every stage that trains, those inside a `train` included.
    pub fn trains(&self) -> Vec<&Train> {
        let mut found = Vec::new();
        for model in &self.models {
            match &model.stage {
                Stage::Train(train) => found.push(train.as_ref()),
                Stage::Joint(joint) => found.extend(joint.steps.iter().map(|step| &step.train)),
                _ => {}
            }
        }
        found
    }

    /// Whether any model is trained on a domain.
    pub fn is_trained_on(&self, id: DomainId) -> bool {
        let trained = |train: &&Train| train.mixture.iter().any(|share| share.domain == id);
        self.trains().iter().any(trained)
    }

    /// The model at the start of this one's chain of stages: random, loaded or a parameter. Shapes are equal.
    pub fn first_weights(&self, model: ModelId) -> ModelId {
        match &self.model(model).stage {
            Stage::Initialise(_) | Stage::Load(_) | Stage::Parameter => model,
            Stage::Train(train) => self.first_weights(train.start),
            Stage::Merge(merge) => self.first_weights(merge.models[0]),
            Stage::Joint(joint) => self.first_weights(joint.members[0].start),
            Stage::Member { joint, member } => match &self.model(*joint).stage {
                Stage::Joint(joint) => self.first_weights(joint.members[*member].start),
                _ => model,
            },
        }
    }

    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0 as usize]
    }

    pub fn model(&self, id: ModelId) -> &Model {
        &self.models[id.0 as usize]
    }

    pub fn teacher(&self, id: TeacherId) -> &Teacher {
        &self.teachers[id.0 as usize]
    }

    pub fn benchmark(&self, id: BenchmarkId) -> &Benchmark {
        &self.benchmarks[id.0 as usize]
    }

    pub fn declare_teacher(&mut self, teacher: Teacher) -> TeacherId {
        self.teachers.push(teacher);
        self.used_teachers.push(false);
        TeacherId(self.teachers.len() as u32 - 1)
    }
}

/// The names of models, which differ from each other.
#[derive(Default)]
pub struct ModelNames {
    taken: FxHashSet<String>,
}

impl ModelNames {
    /// `wanted`, or a variant of it if that is taken.
    pub fn give(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut number = 2;
        while !self.taken.insert(name.clone()) {
            name = format!("{wanted}.{number}");
            number += 1;
        }
        name
    }
}

/// The declared origin of each teacher, with its place.
pub type SaidOrigins = FxHashMap<TeacherId, (SaidOrigin, Span)>;

/// An objective as its file declares it.
#[derive(Clone, Debug)]
pub struct NamedObjective {
    /// The `///` comment above it.
    pub doc: String,
    pub public: bool,
    /// As written: `clip_at: nats = 5`.
    pub parameters: Vec<String>,
    pub objective: Objective,
}
