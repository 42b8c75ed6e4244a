//! Plans written by hand: the runtime's tests need neither the language nor the compiler's front half.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mopd_plan::events::{Event, Job, Predict, RunJob};
use mopd_plan::*;

mod objectives;
pub use objectives::*;
mod outcomes;
pub use outcomes::*;

pub fn tiny() -> Architecture {
    Architecture {
        family: Family::Llama,
        layers: 2,
        width: 32,
        heads: 4,
        key_value_heads: 2,
        intermediate_size: 64,
        context: 32,
        tokenizer: TokenizerSpec::Bytes,
        tied: true,
        rope_theta: 10_000.0,
        norm_epsilon: 1e-5,
        initial_deviation: 0.1,
    }
}

/// The settings of a training stage; domains have equal shares.
pub struct Training<'a> {
    pub start: ModelId,
    pub domains: &'a [DomainId],
    /// One per domain, or none.
    pub teachers: &'a [ModelId],
    pub rollout: Rollout,
    pub objective: Objective,
    pub steps: u32,
    pub learning_rate: f64,
}

/// A plan under construction.
pub struct Builder {
    pub plan: Plan,
}

impl Builder {
    pub fn new() -> Builder {
        let experiment = Experiment {
            name: "test".into(),
            seed: 1,
            out: None,
            device: None,
            dtype: Dtype::Float32,
            gpu: GpuArithmetic::default(),
            domains: vec![],
            models: vec![],
            comparisons: vec![],
            marks: vec![],
        };
        let places = vec![SourcePlace { file: "test.mopd".into(), start: 0, end: 1 }];
        Builder { plan: Plan { schema: SCHEMA, hash: "hash".into(), experiment, stages: vec![], places } }
    }

    /// Reads `NAME.train.jsonl` and `NAME.test.jsonl`.
    pub fn domain(&mut self, name: &str, share: f64) -> DomainId {
        self.plan.experiment.domains.push(Domain {
            name: name.into(),
            prompts: DataSource::file(format!("{name}.train.jsonl")),
            tests: Some(DataSource::file(format!("{name}.test.jsonl"))),
            validation: None,
            format: PromptFormat::Text,
            reward: Reward::ExactMatch { field: "answer".into() },
            share,
            limit: None,
            origin: Origin(0),
        });
        DomainId(self.plan.experiment.domains.len() as u32 - 1)
    }

    pub fn model(&mut self, name: &str, stage: Stage<Objective>) -> ModelId {
        let id = self.plan.experiment.models.len() as u32;
        let key = serde_json::to_string(&(&stage, id)).expect("a stage is plain data");
        // Not the compiler's content key, but unique within a plan: ids identify inputs.
        let cost = Cost { flops: Some(f64::from(id)), ..Cost::default() };
        let [content_key, own_settings] = [key.clone(), key.clone()];
        self.plan.stages.push(StageFacts {
            key,
            content_key,
            own_settings,
            stream: u64::from(id),
            cost,
            allowed_schedules: Vec::new(),
        });
        self.plan.experiment.models.push(Model { name: name.into(), stage, origin: Origin(0) });
        ModelId(id)
    }

    fn shares(&self, domains: &[DomainId]) -> Vec<Share> {
        domains.iter().map(|&domain| Share { domain, share: 1.0 / domains.len() as f64 }).collect()
    }

    pub fn train(&mut self, name: &str, recipe: Recipe, training: Training) -> ModelId {
        let Training { start, domains, teachers, rollout, objective, steps, learning_rate } = training;
        let choice = |(&domain, &teacher): (&DomainId, &ModelId)| TeacherChoice {
            domain,
            when: None,
            name: format!("teacher{}", domain.0),
            teacher: Teacher::Model(teacher),
            sees: None,
            own_tokens: false,
        };
        let routed = domains.iter().zip(teachers).map(choice).collect();
        let train = Train {
            recipe,
            start,
            mixture: self.shares(domains),
            sees: None,
            scorers: Scorers::new(routed, [], Vec::new()),
            panels: Vec::new(),
            feedback: Vec::new(),
            rollout,
            options: TrainOptions::default(),
            filter: None,
            curriculum: None,
            shares: None,
            objective,
            own_data: Vec::new(),
            trainable: Trainable::default(),
            optimizer: Optimizer::AdamW(AdamW {
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.0,
                clip_norm: 1.0,
            }),
            length: Length::Steps(steps),
            learning_rate: Schedule::Constant { value: learning_rate }.into(),
            guards: Vec::new(),
            extrapolation: None,
        };
        self.model(name, Stage::Train(Box::new(train)))
    }

    pub fn compare(&mut self, domains: &[DomainId], rows: &[(&str, ModelId)], seeds: u32, n: u32) {
        let rows = rows
            .iter()
            .map(|(label, model)| Row { label: (*label).into(), models: vec![*model; domains.len()] });
        let column = |domain: &DomainId| TableColumn {
            domain: *domain,
            evaluation: Evaluation { sampling: sampling(n), prompts: None },
            metrics: Vec::new(),
        };
        self.plan.experiment.comparisons.push(Comparison {
            name: "table".into(),
            rows: rows.collect(),
            columns: domains.iter().map(column).collect(),
            normalized: None,
            seeds,
            origin: Origin(0),
        });
    }
}

pub fn sampling(n: u32) -> Sampling {
    Sampling::new(n, 1.0, 8)
}

/// Copying and reversing two letters: enough to learn something in a few steps.
pub fn write_data(folder: &Path) {
    let letters = "abcdef";
    for (name, part, from) in
        [("copy", "train", 0), ("copy", "test", 1), ("flip", "train", 0), ("flip", "test", 1)]
    {
        let mut text = String::new();
        for (index, (a, b)) in letters.chars().flat_map(|a| letters.chars().map(move |b| (a, b))).enumerate()
        {
            if index % 4 == 3 && from == 0 || index % 4 != 3 && from == 1 {
                continue;
            }
            let answer: String =
                if name == "copy" { [a, b].iter().collect() } else { [b, a].iter().collect() };
            text += &format!("{{\"prompt\": \"{name} {a}{b}=\", \"answer\": \"{answer}\"}}\n");
        }
        std::fs::write(folder.join(format!("{name}.{part}.jsonl")), text).unwrap();
    }
}

pub fn job(plan: &Plan, folder: &Path, out: &str) -> RunJob {
    let path =
        |name: &str| folder.join(name).to_str().expect("temporary folders have plain names").to_owned();
    RunJob {
        plan: plan.clone(),
        base: path(""),
        store: path("store"),
        out: path(out),
        fresh: false,
        from: Vec::new(),
        checkpoint_every: None,
        forks: Vec::new(),
        workers: Some(2),
        engine: None,
        predict: Predict::Full,
    }
}

/// The worker as `mopd` starts it.
pub fn start(job: &Job) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mopd-worker"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the worker starts");
    let text = serde_json::to_string(job).expect("a job is plain data");
    let mut input = child.stdin.take().expect("it is piped");
    writeln!(input, "{text}").expect("the worker reads its job");
    // It stays open as long as the test runs: a worker whose input ends stops.
    std::mem::forget(input);
    child
}

/// All events of a job, and its exit status.
pub fn finish(mut child: Child) -> (Vec<Event>, i32) {
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    let events =
        output.lines().map(|line| serde_json::from_str(&line.unwrap()).expect("every line is an event"));
    let events = events.collect();
    (events, child.wait().unwrap().code().expect("the worker exits by itself"))
}

pub fn run(job: &RunJob) -> (Vec<Event>, i32) {
    finish(start(&Job::Run(Box::new(job.clone()))))
}
