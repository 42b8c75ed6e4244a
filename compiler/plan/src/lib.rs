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
mod engines;
pub mod events;
mod experiment;
mod extrapolation;
mod failures;
mod feedback;
mod guards;
pub mod keys;
mod objective;
mod panels;
mod plan;
pub mod producers;
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
mod train;
pub mod views;
pub mod why;

pub use agreement::Agreement;
pub use alignment::TermGradient;
pub use comparisons::{Comparison, Evaluation, Metric, Normalized, Row, TableColumn};
pub use curriculum::{Curriculum, CurriculumMeaning, CurriculumMeasure};
pub use data::{
    DATA_ENDINGS, DataFault, DataFormula, DataNode, DataSource, DataValue, NullField, is_file_pattern,
    number_of_text, quotas,
};
pub use engines::{
    CompletionsFrom, EngineJob, EngineModel, EngineStage, ExportedRecord, ExportedRewards, RECORDS_FILE,
    REWARDS_FILE,
};
pub use experiment::{Domain, Experiment, Model};
pub use extrapolation::Extrapolation;
pub use feedback::{Feedback, FeedbackMeaning};
pub use guards::{Guard, GuardAction, GuardMeaning, GuardedDomain, Pooling, StepNumber, StepWindow};
pub use objective::{Denominator, LivePrimitive, NormalForm, Objective, State, Term, TermLoss};
pub use panels::{Panel, PanelMeaning};
pub use plan::{Cost, Plan, SCHEMA, SourcePlace, StageFacts};
pub use producers::{Producer, Rollout};
pub use rewards::{
    Reward, RewardFacts, RewardMeaning, RewardPart, RewardProgram, RewardRange, Secret,
    without_absolute_paths,
};
pub use saved_activations::Rounding;
pub use scalar_heads::scalar_heads;
pub use scorers::{Composition, Member, Pool, Scorer, Scorers, StudentCopy, Teacher, TeacherChoice};
pub use second_heads::second_heads;
pub use served::{Answers, Engine, RolloutServer, Served, ServedMeaning};
pub use settings::{
    AdamW, Adapter, AdapterKind, Architecture, ChangedElements, Checkpointing, Device, DomainId, Dtype,
    Execution, Family, FieldColumn, GpuArithmetic, GradientAlignment, GradientPartition, Keep, Length,
    MarkedSetting, Merge, MergeMethod, ModelId, Optimizer, Origin, Pretrained, PretrainedSource, Private,
    Projection, PromptFormat, Recipe, Sampling, Schedule, ScheduleLength, SettingMark, Sgd, Share, StageStep,
    Temperature, TokenizerSpec, TrainOptions, Trainable, Validation, WeightFilter, WeightGroup,
};
pub use stages::{Joint, Learner, Stage};
pub use step_functions::{AdaptiveSchedule, Ladder, Learned, StepFunction, is_of_steps};
pub use train::{OwnData, Train};
pub use views::View;

pub use mopd_experiment::EnvironmentProgram;
pub use mopd_experiment::nearest::{missing_file_help, nearest, nearest_file, unlike_a_path};
pub use mopd_expr::roles::{Role, ScorerId};
pub use mopd_expr::signals::{
    Axis, Deviation, Distribution, Divergence, DivergenceKind, DivergenceParameter, Formula, Function, Live,
    Mass, Memory, ModelSignal, PlainSignal, Reduction, Scan, Signal, Statistic, Summand, SummandParameter,
    Support,
};
