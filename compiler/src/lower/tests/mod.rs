//! Experiments written by hand, from the types that the checker fills.

mod alignment;
mod balance;
mod blocks;
mod comparisons;
mod curriculum;
mod derived;
mod domains;
mod drafts;
mod elements;
mod expressions;
mod extrapolation;
mod feedback;
mod guards;
mod keys;
mod learned;
mod objectives;
mod options;
mod own_data;
mod panels;
mod plans;
mod recorded;
mod refusals;
mod scores;
mod second_heads;
mod states;
mod validation;

use mopd_experiment::formula::*;
use mopd_experiment::*;
use mopd_lang::source::{FileId, SourceFile, Sources, Span};
use mopd_plan::{self as plan, Plan};

/// Formulas of the tests have origin 1, everything else has origin 0.
pub fn sources() -> (Sources, Vec<Span>) {
    let mut sources = Sources::default();
    let file = sources.add(SourceFile { path: "test.mopd".into(), text: "everything formula".into() });
    assert_eq!(file, FileId(0));
    (sources, vec![Span::new(file, 0, 10), Span::new(file, 11, 18)])
}

/// The messages of an experiment that can't be compiled.
pub fn refusals_of(experiment: &Experiment) -> Vec<String> {
    let (sources, origins) = sources();
    let found = super::compile(experiment, &origins, &sources, true).expect_err("it can't run");
    found.into_iter().map(|diagnostic| diagnostic.message).collect()
}

pub const HERE: Origin = Origin(0);

pub fn formula(kind: FormulaKind, axis: Axis, live: bool) -> Formula {
    Formula::new(kind, Unit::Number, axis, live, Origin(1))
}

pub fn number(value: f64) -> Formula {
    formula(FormulaKind::Number(value), Axis::Run, false)
}

pub fn signal(signal: impl Into<Signal>) -> Formula {
    let signal = signal.into();
    let axis = signal.axis();
    formula(FormulaKind::Signal(signal), axis, false)
}

pub fn logp(role: Role) -> Formula {
    signal(Signal::Of { role, part: ModelSignal::Logp })
}

pub fn live(primitive: Live) -> Formula {
    formula(FormulaKind::Live(primitive), Axis::Token, true)
}

pub fn apply<const N: usize>(function: Function, operands: [&Formula; N]) -> Formula {
    let axis = operands.iter().map(|operand| operand.axis()).max().expect("functions have operands");
    let live = operands.iter().any(|operand| operand.live());
    formula(FormulaKind::Apply { function, operands: operands.map(Formula::clone).into() }, axis, live)
}

pub fn reduce(reduction: Reduction, operand: &Formula, over: Axis) -> Formula {
    formula(
        FormulaKind::Reduce { reduction, operand: operand.clone(), among: None, on: None, fraction: None },
        over,
        operand.live(),
    )
}

pub fn statistic(statistic: Statistic, operand: &Formula, over: Axis) -> Formula {
    formula(
        FormulaKind::Statistic { statistic, operand: operand.clone(), over, among: None, fraction: None },
        operand.axis(),
        operand.live(),
    )
}

/// `live ratio`, as the checker spells it.
pub fn live_ratio() -> Formula {
    apply(
        Function::Exp,
        [&apply(Function::Subtract, [&live(Live::Part(ModelSignal::Logp)), &logp(Role::Sampler)])],
    )
}

pub fn step(elements: Axis, over: Axis) -> ReduceStep {
    ReduceStep { operation: Reduction::Mean, elements, over, among_when: false }
}

pub fn by_steps(steps: Vec<ReduceStep>) -> Reduce {
    Reduce { steps, denominator: None, balance: None, origin: HERE }
}

/// `mean(token) then mean(sequence)`
pub fn sequence_mean() -> Reduce {
    by_steps(vec![step(Axis::Token, Axis::Sequence), step(Axis::Sequence, Axis::Batch)])
}

/// `mean(token, over: batch)`
pub fn token_mean() -> Reduce {
    by_steps(vec![step(Axis::Token, Axis::Batch)])
}

pub fn term(name: &str, value: Formula) -> Term {
    Term { name: name.into(), value, when: None, weight: None, reduce: None, data: None, origin: HERE }
}

pub fn objective(value: Formula, reduce: Reduce) -> Objective {
    let terms = vec![term("term", value)];
    Objective {
        name: "objective".into(),
        terms,
        select: None,
        weight: None,
        temperature: None,
        reduce: Some(reduce),
        lets: Vec::new(),
        states: Vec::new(),
        origin: HERE,
    }
}

/// `-clip(teacher.logp - student.logp, -at, at) * live student.logp`
pub fn mopd(at: f64) -> Objective {
    let ratio = apply(Function::Subtract, [&logp(Role::Teacher), &logp(Role::Student)]);
    let advantage = apply(Function::Clip, [&ratio, &number(-at), &number(at)]);
    let negated = apply(Function::Negate, [&advantage]);
    objective(apply(Function::Multiply, [&negated, &live(Live::Part(ModelSignal::Logp))]), sequence_mean())
}

/// `-min(live ratio * advantage, clip(live ratio, 0.8, 1.28) * advantage)`
pub fn grpo() -> Objective {
    let advantage = statistic(
        Statistic::Zscore { deviation: Deviation::Sample, epsilon: 1e-4 },
        &signal(PlainSignal::Reward),
        Axis::Group,
    );
    let ratio = live_ratio();
    let plain = apply(Function::Multiply, [&ratio, &advantage]);
    let clipped = apply(Function::Clip, [&ratio, &number(0.8), &number(1.28)]);
    let clipped = apply(Function::Multiply, [&clipped, &advantage]);
    let least = apply(Function::Minimum, [&plain, &clipped]);
    objective(apply(Function::Negate, [&least]), sequence_mean())
}

/// `-live student.logp`
pub fn nll() -> Objective {
    objective(apply(Function::Negate, [&live(Live::Part(ModelSignal::Logp))]), token_mean())
}

/// `live kl(student || teacher, support: top_k(teacher, 64), mass: generalized)`
pub fn mopd_top_k() -> Objective {
    let support = Support::TopK { role: Role::Teacher, k: 64 };
    objective(live(Live::Divergence(divergence(DivergenceKind::Kl, support))), sequence_mean())
}

/// A divergence of the student from the teacher.
pub fn divergence(kind: DivergenceKind, support: Support) -> Divergence {
    let (left, right) = (Distribution::Role(Role::Student), Distribution::Role(Role::Teacher));
    let mass = Mass::Generalized;
    Divergence { kind, left, right, support, mass, temperature: 1.0.into(), clip_each: None }
}

pub fn file(path: &str) -> DataSource {
    DataSource::file(path, HERE)
}

fn domain(name: &str, share: f64) -> Domain {
    Domain {
        name: name.into(),
        prompts: file(&format!("{name}.train.jsonl")),
        tests: Some(file(&format!("{name}.test.jsonl"))),
        validation: None,
        columns: vec![],
        format: None,
        reward: Reward::ExactMatch { field: "answer".into() },
        share,
        limit: None,
        origin: HERE,
    }
}

fn train(
    recipe: Recipe,
    mixture: &[u32],
    (source, size): (RolloutSource, BatchSize),
    objective: Objective,
) -> Train {
    let share = 1.0 / mixture.len() as f64;
    let learning_rate = Schedule::Cosine { from: 1e-3, to: 1e-4, over: ScheduleLength::Run };
    Train {
        recipe,
        start: ModelId(1),
        mixture: mixture.iter().map(|id| Share { domain: DomainId(*id), share }).collect(),
        teachers: vec![],
        reference: vec![],
        sees: None,
        options: TrainOptions::default(),
        origins: OptionOrigins { private: HERE, validation: HERE, alignment: HERE },
        rollout: Rollout::new(source, HERE),
        size,
        keep: Keep::All,
        filter: None,
        priority: None,
        refresh: None,
        shares: None,
        objective,
        optimizer: Optimizer::AdamW(AdamW {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
        }),
        length: Length::Steps(10),
        learning_rate: schedule(learning_rate),
        extrapolation: None,
        trainable: Trainable::default(),
        guards: Vec::new(),
    }
}

pub fn schedule(schedule: Schedule) -> Formula {
    formula(FormulaKind::Schedule(schedule), Axis::Run, false)
}

fn student(prompts: u32, n: u32) -> (RolloutSource, BatchSize) {
    let sampling = Sampling {
        n,
        temperature: number(1.0),
        max_tokens: number(16.0),
        top_p: None,
        top_k: None,
        repetition_penalty: None,
        heads: None,
        stop: vec![],
    };
    (RolloutSource::Sample(sampling), BatchSize::Prompts(prompts))
}

fn teacher(name: &str, weights: TeacherWeights) -> Teacher {
    Teacher {
        name: name.into(),
        weights,
        sees: None,
        temperature: 1.0,
        answers: Capability::Distribution,
        foreign: false,
        align: Alignment::Positions,
        reveals: None,
        feedback: None,
        origin: HERE,
    }
}

/// Models by index: base, start, expert[add], expert[sort], student, average.
pub fn experiment() -> Experiment {
    let architecture = Architecture {
        family: Family::Llama,
        layers: 3,
        width: 96,
        heads: 4,
        key_value_heads: 2,
        intermediate_size: 256,
        context: 64,
        tokenizer: TokenizerSpec::Bytes,
        tied: true,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        initial_deviation: 0.02,
    };
    let data = (RolloutSource::Data { field: "demonstration".into() }, BatchSize::Sequences(32));
    let start = Train { start: ModelId(0), ..train(Recipe::Sft, &[0, 1], data, nll()) };
    let expert = |domain| train(Recipe::Grpo, &[domain], student(4, 8), grpo());
    let choice =
        |id| TeacherChoice { domain: DomainId(id), when: None, teacher: TeacherId(id), origin: Origin(0) };
    let distilled = Train {
        teachers: vec![choice(0), choice(1)],
        ..train(Recipe::Distill, &[0, 1], student(64, 1), mopd(5.0))
    };
    let average = Merge { method: MergeMethod::Average, base: None, models: vec![ModelId(2), ModelId(3)] };
    let train = |train| Stage::Train(Box::new(train));
    let models = [
        ("base", Stage::Initialise(architecture)),
        ("start", train(start)),
        ("expert[add]", train(expert(0))),
        ("expert[sort]", train(expert(1))),
        ("student", train(distilled)),
        ("average", Stage::Merge(average)),
    ];
    let row = |label: &str, models: [u32; 2]| Row { label: label.into(), models: models.map(ModelId).into() };
    let comparison = Comparison {
        name: "table".into(),
        rows: vec![
            row("start", [1, 1]),
            row("expert", [2, 3]),
            row("student", [4, 4]),
            row("average", [5, 5]),
        ],
        domains: vec![DomainId(0), DomainId(1)],
        benchmarks: vec![],
        normalized: Some(Normalized { zero: vec![ModelId(1); 2], one: vec![ModelId(2), ModelId(3)] }),
        seeds: 1,
        evaluation: Evaluation {
            samples: 8,
            temperature: 1.0,
            max_tokens: 16,
            top_p: None,
            top_k: None,
            stop: vec![],
            prompts: None,
        },
        metrics: vec![],
        budget: None,
        origin: HERE,
    };
    Experiment {
        name: "test".into(),
        seed: 1,
        out: None,
        device: None,
        dtype: None,
        gpu: GpuArithmetic::default(),
        domains: vec![domain("add", 0.5), domain("sort", 0.5)],
        teachers: vec![
            teacher("specialist[add]", TeacherWeights::Model(ModelId(2))),
            teacher("specialist[sort]", TeacherWeights::Model(ModelId(3))),
        ],
        panels: vec![],
        models: models.map(|(name, stage)| Model { name: name.into(), stage, origin: HERE }).into(),
        benchmarks: vec![],
        comparisons: vec![comparison],
        sweep: vec![],
        marks: Vec::new(),
    }
}

pub fn compiled(experiment: &Experiment) -> Plan {
    let (sources, origins) = sources();
    super::compile(experiment, &origins, &sources, true).expect("the experiment is sound")
}
