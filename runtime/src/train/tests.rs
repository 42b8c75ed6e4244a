//! Steps against a plain implementation in double precision: one sequence at a time, every tensor whole, derivatives by libtorch.

use std::path::Path;
use std::sync::Arc;

use mopd_compiler::plan::{
    AdamW, Execution, Length, Mass, ModelId, Objective, Origin, Prefixes, Recipe, Reward, Role, Schedule, Support, Teacher, Train, Trainable,
};
use tch::{Device, Kind, Tensor};

use super::objective::objectives::{direct, mopd};
use super::*;
use crate::data::Dataset;
use crate::model::tests::{lively, tiny};
use crate::model::{Token, layout, to_vec};

/// Two domains of ragged answers.
struct World {
    folder: tempfile::TempDir,
    prompts: Vec<Prompts>,
    verifier: Verifier,
    control: Control,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut prompts = Vec::new();
        for name in ["copy", "flip"] {
            let mut text = String::new();
            for index in 0..8usize {
                let prompt: String = "prompt".chars().cycle().skip(index).take(1 + (index * 5) % 9).collect();
                let answer: String = "abcdefg".chars().cycle().skip(index).take(1 + (index * 3) % 7).collect();
                text += &format!("{{\"prompt\": \"{name}{prompt}\", \"answer\": \"{answer}\"}}\n");
            }
            let path = folder.path().join(format!("{name}.jsonl"));
            std::fs::write(&path, text).unwrap();
            prompts.push(load(&path));
        }
        let verifier = Verifier::new(&Reward::ExactMatch { field: "answer".into() }, Path::new(".")).unwrap();
        World { folder, prompts, verifier, control: Control::new(Vec::new()) }
    }

    /// Models: 0 is where the student starts, 1 and 2 are teachers.
    fn stage<'a>(&'a self, train: &'a Train<Objective>, teachers: [Teacher; 2], models: &[Arc<Weights>]) -> Stage<'a> {
        assert!(self.folder.path().exists());
        let source = |index: usize| Source {
            name: ["copy", "flip"][index],
            origin: Origin(0),
            share: 0.5,
            teacher: Some(format!("teacher{index}")),
            teacher_model: Some(teachers[index]),
            reference: Some(ModelId(0)),
            prompts: &self.prompts[index],
            verifier: &self.verifier,
        };
        Stage {
            name: "student",
            seed: 1,
            stream: 2,
            train,
            steps: 4,
            sources: vec![source(0), source(1)],
            start: models[0].clone(),
            models: models.iter().enumerate().map(|(id, weights)| (ModelId(id as u32), weights.clone())).collect(),
            micro_batch: None,
            device: Device::Cpu,
            control: &self.control,
        }
    }
}

fn load(path: &Path) -> Prompts {
    let dataset = Dataset::load(path, &[crate::data::Field::text("answer")]).unwrap();
    let tokens = dataset.records.iter().map(|record| crate::data::tokenizer::Tokenizer::Bytes.prompt(&record.prompt)).collect();
    Prompts { dataset, tokens }
}

fn train(objective: Objective, passes: u32) -> Train<Objective> {
    Train {
        recipe: Recipe::Distill,
        start: ModelId(0),
        mixture: Vec::new(),
        teachers: Vec::new(),
        references: Vec::new(),
        prefixes: Prefixes::Data { field: "answer".into(), batch: 7 },
        passes,
        filter: None,
        objective,
        trainable: Trainable::default(),
        optimizer: AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: 1.0 },
        length: Length::Steps(4),
        learning_rate: Schedule::Constant { value: 1e-2 },
        ema: None,
        execution: Execution::default(),
    }
}

fn models(tied: bool) -> Vec<Arc<Weights>> {
    let config = crate::model::Config { tied, ..tiny() };
    (0..3).map(|seed| Arc::new(lively(&config, seed))).collect()
}

/// A model in double precision, its parameters as leaves in the order of the layout.
struct Reference {
    weights: Arc<Weights>,
    leaves: Vec<(String, Tensor)>,
}

impl Reference {
    fn new(weights: &Arc<Weights>) -> Reference {
        let leaf = |entry: &crate::model::Entry| {
            let shape: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
            let leaf = Tensor::from_slice(&weights.of(entry)).to_kind(Kind::Double).view(shape.as_slice()).set_requires_grad(true);
            (entry.name.clone(), leaf)
        };
        Reference { weights: weights.clone(), leaves: layout(&weights.config).iter().map(leaf).collect() }
    }

    fn part(&self, name: &str) -> &Tensor {
        let name = format!("{name}.weight");
        &self.leaves.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Log-probabilities at the completion's places, `[tokens, vocabulary]`.
    fn logps(&self, prompt: &[Token], completion: &[Token]) -> Tensor {
        let config = &*self.weights.config;
        let tokens: Vec<Token> = prompt.iter().chain(&completion[..completion.len() - 1]).copied().collect();
        let (length, heads) = (tokens.len() as i64, config.heads as i64);
        let groups = config.key_value_heads as i64;
        let width = config.head_width as i64;
        let norm = |x: &Tensor, scale: &Tensor| {
            let mean = x.square().mean_dim([-1].as_slice(), true, Kind::Double);
            x / (mean + config.norm.epsilon).sqrt() * scale
        };
        let rotate = |x: &Tensor| {
            let half = width / 2;
            let pair = Tensor::arange(half, (Kind::Double, Device::Cpu)) * (-2.0 / width as f64);
            let angle = Tensor::arange(length, (Kind::Double, Device::Cpu)).unsqueeze(1)
                * Tensor::from(config.rope.theta).pow(&pair).unsqueeze(0);
            let (cos, sin) = (angle.cos().unsqueeze(1), angle.sin().unsqueeze(1));
            let (a, b) = (x.narrow(2, 0, half), x.narrow(2, half, half));
            Tensor::cat(&[&a * &cos - &b * &sin, &b * &cos + &a * &sin], 2)
        };
        let mut x = self.part("model.embed_tokens").index_select(0, &Tensor::from_slice(&tokens));
        for layer in 0..config.layers {
            let part = |name: &str| self.part(&format!("model.layers.{layer}.{name}"));
            let normed = norm(&x, part("input_layernorm"));
            let project = |name: &str, count: i64| normed.matmul(&part(name).tr()).view([length, count, width]);
            let query = rotate(&project("self_attn.q_proj", heads));
            let repeat = |x: &Tensor| x.repeat_interleave_self_int(heads / groups, 1, None);
            let key = repeat(&rotate(&project("self_attn.k_proj", groups)));
            let value = repeat(&project("self_attn.v_proj", groups));
            let scores = query.transpose(0, 1).matmul(&key.permute([1, 2, 0])) / (width as f64).sqrt();
            let future = Tensor::ones([length, length], (Kind::Bool, Device::Cpu)).triu(1);
            let attended =
                scores.masked_fill(&future, f64::NEG_INFINITY).softmax(-1, Kind::Double).matmul(&value.transpose(0, 1));
            x = &x + attended.transpose(0, 1).reshape([length, -1]).matmul(&part("self_attn.o_proj").tr());
            let normed = norm(&x, part("post_attention_layernorm"));
            let inner = normed.matmul(&part("mlp.gate_proj").tr()).silu() * normed.matmul(&part("mlp.up_proj").tr());
            x = &x + inner.matmul(&part("mlp.down_proj").tr());
        }
        let x = norm(&x, self.part("model.norm"));
        let matrix = self.part(if config.tied { "model.embed_tokens" } else { "lm_head" });
        let first = prompt.len() as i64 - 1;
        x.narrow(0, first, length - first).matmul(&matrix.tr()).log_softmax(-1, Kind::Double)
    }

    /// d loss / d parameters, in the order of the layout.
    fn gradient(&self, loss: &Tensor) -> Vec<f64> {
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|(_, leaf)| leaf).collect();
        let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
        let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.reshape([-1])).collect();
        Vec::try_from(&Tensor::cat(&flat, 0)).unwrap()
    }
}

/// The terms of one sequence, `[tokens]`: of the student's log-probabilities, the teacher's, and the tokens taken.
type Terms = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

/// The objectives, each with its formula.
fn objectives() -> Vec<(Objective, Terms)> {
    let top = Support::TopK { role: Role::Teacher, k: 8 };
    vec![
        (mopd(1.0), |student, teacher, taken| {
            let (s, t) = (student.gather(1, taken, false).squeeze_dim(1), teacher.gather(1, taken, false).squeeze_dim(1));
            -(t - s.detach()).clamp(-1.0, 1.0) * s
        }),
        (direct(top, Mass::Generalized), |student, teacher, _| {
            let (_, support) = teacher.topk(8, -1, true, false);
            let (s, t) = (student.gather(1, &support, false), teacher.gather(1, &support, false));
            (s.exp() * (&s - &t) - s.exp() + t.exp()).sum_dim_intlist([-1].as_slice(), false, Kind::Double)
        }),
        (direct(Support::Full, Mass::Raw), |student, teacher, _| {
            (student.exp() * (student - teacher)).sum_dim_intlist([-1].as_slice(), false, Kind::Double)
        }),
    ]
}

/// Mean over tokens, then over sequences.
fn expected(stage: &Stage, sequences: &Sequences, models: &[Arc<Weights>], terms: Terms) -> (f64, Vec<f64>) {
    let student = Reference::new(&models[0]);
    let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
    let losses: Vec<Tensor> = sequences
        .list
        .iter()
        .map(|sequence| {
            let prompt = &stage.sources[sequence.source].prompts.tokens[sequence.record];
            let teacher = teachers[sequence.source].logps(prompt, &sequence.completion).detach();
            let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
            terms(&student.logps(prompt, &sequence.completion), &teacher, &taken).mean(Kind::Double)
        })
        .collect();
    let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
    (loss.double_value(&[]), student.gradient(&loss))
}

const ROUTED: [Teacher; 2] = [Teacher::Model(ModelId(1)), Teacher::Model(ModelId(2))];

/// The first step's loss, gradient and sequences.
fn first_step<'a>(stage: &'a Stage<'a>) -> (f64, Vec<f32>, Rollouts) {
    let mut trainer = Trainer::new(stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap();
    let Evaluated { outputs, gradient, .. } = trainer.evaluate(&rollouts, 0).map_err(|(error, _)| error).unwrap();
    (f64::from(outputs.get(stage.train.objective.loss)[0]), to_vec(&gradient), rollouts)
}

/// The largest difference, as a share of the largest that is expected.
fn apart(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs()).fold(0.0, f64::max) / largest
}

/// Sequences of 2 to 8 tokens behind prompts of 6 to 14; tied and untied; every division into micro-batches.
#[test]
fn loss_and_gradient_equal_the_reference_however_the_batch_is_divided() {
    let world = World::new();
    for tied in [true, false] {
        let models = models(tied);
        for (objective, terms) in objectives() {
            let name = objective.name.clone();
            let train = train(objective, 1);
            let mut stage = world.stage(&train, ROUTED, &models);
            let (_, _, rollouts) = first_step(&stage);
            let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
            let lengths: Vec<usize> = rollouts.sequences.list.iter().map(|sequence| sequence.completion.len()).collect();
            assert!(lengths.iter().max() > lengths.iter().min(), "{lengths:?}");
            for micro_batch in [None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), Some(100)] {
                stage.micro_batch = micro_batch;
                let (got_loss, got, _) = first_step(&stage);
                assert!((got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0), "{name}, {micro_batch:?}: {got_loss} {loss}");
                let apart = apart(&got, &gradient);
                assert!(apart < 1e-5, "{name}, {micro_batch:?}, tied {tied}: {apart:e}");
            }
        }
    }
}
