//! The plan: the compiler's output and the runtime's input. Typed, versioned, serialisable. Of the source
//! text it has only a table of places, for messages of failures.

#![forbid(unsafe_code)]

mod agreement;
mod alignment;
mod bench;
pub mod columns;
mod comparisons;
mod curriculum;
mod data;
pub mod deltas;
pub mod difference;
pub mod events;
mod experiment;
mod extrapolation;
mod failures;
mod feedback;
mod guards;
pub mod keys;
mod panels;
pub mod producers;
pub mod refusal;
pub mod results;
mod rewards;
mod roofline;
mod saved_activations;
mod scalar_heads;
mod schedules;
mod scorers;
mod second_heads;
mod served;
mod server_reports;
mod settings;
mod stages;
mod step_functions;
pub mod template;
mod validation;
pub mod views;
pub mod why;

pub use agreement::Agreement;
pub use alignment::{GradientAlignment, GradientPartition, TermGradient};
pub use comparisons::{Comparison, Evaluation, Metric, Normalized, Row, TableColumn};
pub use curriculum::{Curriculum, CurriculumMeaning, CurriculumMeasure, is_of_run};
pub use data::{
    DATA_ENDINGS, DataFault, DataFormula, DataNode, DataSource, DataValue, NullField, is_file_pattern,
    number_of_text, quotas,
};
pub use experiment::{Domain, Experiment, Model};
pub use extrapolation::Extrapolation;
pub use feedback::{Feedback, FeedbackMeaning};
pub use guards::{Guard, GuardAction, GuardMeaning, GuardedDomain, Pooling, StepNumber, StepWindow};
pub use panels::{Panel, PanelMeaning};
pub use producers::{Producer, Rollout};
pub use rewards::{Reward, RewardPart, RewardRange, Secret};
pub use saved_activations::Rounding;
pub use scalar_heads::scalar_heads;
pub use scorers::{Composition, Member, Pool, Scorer, Scorers};
pub use second_heads::second_heads;
pub use served::{Answers, Engine, RolloutServer, Served, ServedMeaning};
pub use settings::{
    AdamW, Adapter, AdapterKind, Architecture, ChangedElements, Checkpointing, Device, DomainId, Dtype,
    Execution, Family, FieldColumn, GpuArithmetic, Keep, Length, MarkedSetting, Merge, MergeMethod, ModelId,
    Optimizer, Origin, OwnData, Pretrained, Private, Projection, PromptFormat, Recipe, Sampling, Schedule,
    ScheduleLength, SettingMark, Sgd, Share, StageStep, StudentCopy, Teacher, TeacherChoice, Temperature,
    TokenizerSpec, Train, Trainable, WeightFilter, WeightGroup,
};
pub use stages::{Joint, Learner, Stage};
pub use step_functions::{
    AdaptiveSchedule, Ladder, Learned, StepFunction, adaptive_schedule, is_of_steps, schedule,
};
pub use validation::Validation;
pub use views::View;

use mopd_expr::graph::{Graph, NodeId, Operation};
pub use mopd_expr::roles::{Role, ScorerId};
pub use mopd_expr::signals::{
    Axis, Deviation, Distribution, Divergence, DivergenceKind, DivergenceParameter, Formula, Function, Live,
    Mass, Memory, Reduction, Scan, Signal, Statistic, Summand, Support,
};
use mopd_expr::signals::{is_run, run};
pub use mopd_lang::diag::{missing_file_help, nearest, nearest_file};
use serde::{Deserialize, Serialize};

/// Raised whenever the meaning of a field changes.
pub const SCHEMA: u32 = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: u32,
    /// Hash of the experiment's meaning, without names of models, comments and layout.
    pub hash: String,
    pub experiment: Experiment<Objective>,
    /// One per model, in the same order.
    pub stages: Vec<StageFacts>,
    /// The places that [`Origin`] indexes.
    pub places: Vec<SourcePlace>,
}

impl Plan {
    pub fn place(&self, origin: Origin) -> Option<&SourcePlace> {
        self.places.get(origin.0 as usize)
    }
}

/// Facts about a stage that the compiler computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageFacts {
    /// Hash of the stage's computation: its settings and the keys of its inputs. Data and seed are added at
    /// run time.
    pub key: String,
    /// [`Self::key`] without the paths of files: the part of its result's key to which the files' content is
    /// added at run time.
    #[serde(default)]
    pub content_key: String,
    /// Hash of the stage's own settings, without its inputs and files. Not part of any key; it distinguishes
    /// a stage that was edited from one whose inputs were.
    #[serde(default)]
    pub own_settings: String,
    /// Selects the stage's random numbers: a hash of its recipe and its lineage, to which the content of its
    /// data is added at run time. Two stages that differ only in objective, reward, optimizer or length draw
    /// the same prompts and the same uniforms, so comparisons are paired.
    pub stream: u64,
    pub cost: Cost,
    /// The schedules that may be longer than a stage in epochs, according to a comment
    /// `// allow(unfinished-schedule): ...`. Not part of any key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_schedules: Vec<Schedule>,
}

/// Predicted cost, an upper bound: every sequence is assumed to be as long as its limits allow. `None` for a
/// number that depends on the files of a model or a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub parameters: Option<u64>,
    /// Trained parameters.
    pub trained: Option<u64>,
    /// The number of sequences that are trained on.
    pub sequences: Option<u64>,
    /// The number of completions that are drawn, where the stage trains on a choice of them (`best`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<u64>,
    pub tokens: Option<u64>,
    pub flops: Option<f64>,
    /// Weights, gradients and optimiser state, in bytes.
    pub memory: Option<u64>,
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlace {
    pub file: String,
    /// Byte offsets, half-open.
    pub start: u32,
    pub end: u32,
}

/// An objective as a graph. The loss to minimise is the node `loss`; its gradient reaches the weights only
/// through the live primitives: d loss / d weights = sum over primitives and tokens of `adjoint` * d
/// primitive / d weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    pub name: String,
    pub graph: Graph,
    /// A single number.
    pub loss: NodeId,
    pub live: Vec<LivePrimitive>,
    pub terms: Vec<Term>,
    /// The losses of terms that some formula of the stage reads in the next step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub term_losses: Vec<TermLoss>,
    /// The gradients of the terms, where the stage compares them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub term_gradients: Vec<TermGradient>,
    /// The denominators of the loss that are known only at a step. Each must be positive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denominators: Vec<Denominator>,
    /// Per token: the sum over live primitives of |d (sum of weighted terms) / d primitive|, before `reduce`,
    /// times the primitive if it is a divergence. This is the signal whose shares are reported: in a policy
    /// gradient the size of the advantage, in a divergence its weighted value.
    pub signal: NodeId,
    /// Per token: 1 where some `clip` of the objective is at its bound. `None` in an objective without
    /// `clip`.
    pub clipped: Option<NodeId>,
    /// Per token: 1 where the token is selected. `None` in an objective without `select`.
    pub selected: Option<NodeId>,
    /// Per token: 1 where the token is in a block. It reads no number of a block, and is evaluated first.
    /// `None` where no number of a block is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<NodeId>,
    /// Per token: the objective's `weight`, times the term's own weight if there is only one term. `None`
    /// without weights.
    #[serde(default)]
    pub weight: Option<NodeId>,
    /// Per token: the factor that `by domain` gives the token's domain, or would give if it only observes. Of
    /// several such reductions it is that of the first. `None` without a balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_weight: Option<NodeId>,
    /// The divisor of the logits of student, teacher and reference in every log-probability of a token taken
    /// or of ending, and in divergences with the sampler on a side.
    #[serde(default = "one", skip_serializing_if = "Temperature::is_one")]
    pub temperature: Temperature,
    /// The ladders that the stage's rollouts depend on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ladders: Vec<Ladder>,
    /// The numbers that are carried from step to step. Signals refer to them by name, in every part of the
    /// stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// The learned number that the teachers' templates depend on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Learned>,
    pub normal_form: NormalForm,
    pub origin: Origin,
}

/// A value of 1 is left out, so that the keys of older plans do not change.
fn one() -> Temperature {
    Temperature::Constant(1.0)
}

impl Objective {
    /// Every node whose value the runtime needs: for training, for reports, and to carry it over to the next
    /// step.
    pub fn outputs(&self) -> Vec<NodeId> {
        let mut outputs = self.results();
        outputs.extend(self.graph.carried(&outputs).into_iter().map(|(_, source)| source));
        outputs
    }

    fn results(&self) -> Vec<NodeId> {
        let adjoints = self.live.iter().map(|live| live.adjoint);
        let terms = self.terms.iter().map(|term| term.value);
        std::iter::once(self.loss)
            .chain(adjoints)
            .chain(terms)
            .chain(self.term_losses.iter().map(|of| of.loss))
            .chain(self.denominators.iter().map(|of| of.value))
            .chain([self.signal])
            .chain(self.clipped)
            .chain(self.selected)
            .chain(self.chosen)
            .chain(self.weight)
            .chain(self.domain_weight)
            .chain(self.ladders.iter().map(|ladder| ladder.advance_if))
            .chain(self.states.iter().map(|state| state.next))
            .chain(self.learned.iter().map(|learned| learned.gain))
            .chain(self.term_gradients.iter().flat_map(|of| of.adjoints.iter().copied()))
            .collect()
    }

    /// All signals that the objective reads, also inside divergences, with repetition.
    pub fn signals(&self) -> Vec<Signal> {
        let signals = self.graph.signals(&self.outputs());
        signals.into_iter().chain(self.signals_inside()).collect()
    }

    /// The signals that numbers inside divergences depend on, with repetition.
    pub fn signals_inside(&self) -> Vec<Signal> {
        self.divergences().iter().flat_map(Divergence::signals).collect()
    }

    /// The divergences that are read as signals, then the live ones.
    pub fn divergences(&self) -> Vec<Divergence> {
        let of_signals = self.graph.signals(&self.outputs()).into_iter().filter_map(|signal| match signal {
            Signal::Divergence(divergence) => Some(divergence),
            _ => None,
        });
        let of_live = self.live.iter().filter_map(|live| match &live.primitive {
            Live::Divergence(divergence) => Some(divergence.clone()),
            _ => None,
        });
        of_signals.chain(of_live).collect()
    }

    /// The fields of the data whose log-probability is read ([`Signal::RecordedLogp`]), each once.
    pub fn recorded(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = Vec::new();
        for (_, node) in self.graph.nodes() {
            if let Operation::Signal { signal: Signal::RecordedLogp { field } } = &node.operation
                && !fields.contains(&field.as_str())
            {
                fields.push(field);
            }
        }
        fields
    }

    /// Whether the objective needs the distribution of a role, besides the student's.
    pub fn reads(&self, role: Role) -> bool {
        let live =
            self.live.iter().any(|live| role == Role::Student || live.primitive.roles().contains(&role));
        live || self.graph.signals(&self.outputs()).iter().any(|signal| signal.roles().contains(&role))
    }
}

/// The denominator of a `reduce`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Denominator {
    /// A single number.
    pub value: NodeId,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LivePrimitive {
    pub primitive: Live,
    /// Per token: d loss / d primitive.
    pub adjoint: NodeId,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Term {
    pub name: String,
    /// Per token, before `weight`, `select` and `reduce`.
    pub value: NodeId,
    pub origin: Origin,
}

impl Train<Objective> {
    /// The numbers of a data row that the stage's objectives and composed teachers read, each once.
    pub fn data_signals(&self) -> Vec<(Signal, DataFormula)> {
        let objectives = self.objectives().flat_map(|(_, objective)| objective.signals());
        let mut found: Vec<(Signal, DataFormula)> = Vec::new();
        for signal in objectives.chain(self.scorers.signals()) {
            if let Some(formula) = DataFormula::of_signal(&signal)
                && !found.iter().any(|(known, _)| *known == signal)
            {
                found.push((signal, formula));
            }
        }
        found
    }

    /// Whether only the student writes, while the other models only score: they write no completions,
    /// attempts, panel discussions, feedback, or texts of derived prompts.
    pub fn only_student_writes(&self) -> bool {
        let by_student = |producer: &Producer| {
            producer.drawn().iter().all(|(writer, _)| *writer == producers::Writer::Student)
        };
        let only_scored = |(_, objective): (&Rollout, &Objective)| {
            objective.attempts().is_empty() && objective.agreements().is_empty()
        };
        self.producers().chain(self.measured()).all(by_student)
            && self.producers().all(|producer| producer.derives().is_empty())
            && self.panels.is_empty()
            && self.feedback.is_empty()
            && self.objectives().all(only_scored)
    }
}

/// A number that is carried from step to step: one for the run, or one for each domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    /// The axis, which is the run or the domain.
    #[serde(default = "run", skip_serializing_if = "is_run")]
    pub axis: Axis,
    /// The value in the first step.
    pub first: f64,
    /// The value in the next step: one number, or one for each domain.
    pub next: NodeId,
    pub origin: Origin,
}

/// A term's loss, without weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermLoss {
    pub term: String,
    /// A single number.
    pub loss: NodeId,
}

/// Slots that make two objectives comparable line by line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NormalForm {
    pub prefixes: String,
    pub sequence_selection: String,
    pub token_allocation: String,
    pub support: String,
    pub mass: String,
    pub divergence: String,
    pub evaluation: String,
    pub shaping: String,
    pub realisation: String,
    /// The formulas of all terms in full: objectives with equal slots are equal. Missing in old plans.
    #[serde(default)]
    pub terms: String,
}
