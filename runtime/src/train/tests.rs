//! Training steps against a plain implementation in double precision: one sequence at a time, whole tensors,
//! derivatives by libtorch.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mopd_expr::batch::Batch;
use mopd_plan::events::Event;
use mopd_plan::{
    self as plan, AdamW, Adapter, AdapterKind, DataFormula, DataSource, DomainId, Execution, Keep, Length,
    Mass, ModelId, ModelSignal, Objective, Origin, PlainSignal, Producer, Projection, PromptFormat, Recipe,
    Reward, Role, Rollout, Sampling, Schedule, Scorers, Signal, StudentCopy, Support, Teacher, TeacherChoice,
    Train, TrainOptions, Trainable, WeightFilter, WeightGroup,
};
use tch::{Device, Kind, Tensor};

use super::batches::Batches;
use super::master::Master;
use super::models::Models;
use super::objective::objectives::{direct, grpo, mopd};
use super::objective::{Losses, Outputs, States};
use super::part::EvaluatedBatch;
use super::rollouts::Rollouts;
use super::sequences::Sequences;
use super::student::StudentWeights;
use super::trainer::Trainer;
use super::*;
use crate::control::Control;
use crate::data::{Dataset, DatasetRequest, Field};
use crate::environment::Environments;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::model::layout;
use crate::model::tests::{random_model, tiny};
use crate::model::{Decoder, Weights};
use crate::prepare::{DomainData, prompts::Prompts};
use crate::random::{Key, Purpose};
use crate::report::Record;
use crate::report::metrics::StepMetrics;
use crate::reward::Verifier;
use crate::rollout::{MemoryBudget, Sampled, SegmentedTokens, Sequence};
use crate::store::state::{StateTensors, TrainState};
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;
use crate::zip::zip_equal;

mod agreement;
mod alignment;
mod batches;
mod cached_scores;
mod chosen;
mod conversations;
mod copies;
mod curriculum;
mod debate;
mod derived;
mod dialogues;
mod domains;
mod each_turn;
mod elements;
mod engine_steps;
mod extrapolation;
mod feedback;
mod generated;
mod given;
mod guards;
mod guided;
mod half;
mod keep;
mod learned;
mod learners;
mod mini_batches;
mod mixes;
mod other_tokenizer;
mod own_data;
mod padded;
mod places;
mod privacy;
mod producers;
mod ratio;
mod reference;
mod refine;
mod resume;
mod retry;
mod rewrite;
mod routes;
mod said;
mod scalar_head;
mod scorers;
mod second_head;
mod speculative;
mod states;
mod temperature;
mod through;
mod trained;
mod turns;
mod validation;
mod views;
mod writers;

/// Tokens that a model sampled.
fn sampled(tokens: &[Token], logps: Vec<f32>, heads: Option<Vec<u8>>) -> SegmentedTokens {
    let mut completion = SegmentedTokens::default();
    completion.push_trained(tokens, Sampled { logps: Some(logps), heads });
    completion
}

/// Two domains with answers of different lengths.
struct Fixture {
    folder: tempfile::TempDir,
    prompts: Vec<Prompts>,
    verifier: Verifier,
    /// The benchmark of stages that extrapolate.
    judge: DomainData,
    control: Control,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let mut prompts = Vec::new();
        for name in ["copy", "flip"] {
            let mut text = String::new();
            for index in 0..8usize {
                let prompt: String = "prompt".chars().cycle().skip(index).take(1 + (index * 5) % 9).collect();
                let answer: String =
                    "abcdefg".chars().cycle().skip(index).take(1 + (index * 3) % 7).collect();
                let expert = &["k", "lm", "n"][..index % 4];
                text += &format!(
                    "{{\"prompt\": \"{name}{prompt}\", \"answer\": \"{answer}\", \"expert_turns\": {expert:?}}}\n"
                );
            }
            let path = folder.path().join(format!("{name}.jsonl"));
            std::fs::write(&path, text).unwrap();
            prompts.push(load(&path));
        }
        let verifier = Verifier::new(&Reward::ExactMatch { field: "answer".into() }, Path::new(".")).unwrap();
        let path = folder.path().join("quick.jsonl");
        let line = |index: usize| format!("{{\"prompt\": \"{}\", \"answer\": \"a\"}}\n", &"quickly"[index..]);
        std::fs::write(&path, (0..7).map(line).collect::<String>()).unwrap();
        let judge = DomainData {
            id: DomainId(2),
            name: "quick".to_owned(),
            origin: Origin(0),
            verifier: keep::matches(keep::SOME),
            programs: Vec::new(),
            opened: None,
            limit: None,
            train: None,
            turns: Vec::new(),
            tests: Some(Arc::new(load(&path))),
            validation: None,
        };
        Fixture { folder, prompts, verifier, judge, control: Control::new(Vec::new()) }
    }

    /// Model 0 is the student's start and the reference; 1 and 2 are teachers, 2 also the teacher by name.
    fn stage<'a>(
        &'a self,
        train: &'a Train<Objective>,
        teachers: [Teacher; 2],
        models: &[Arc<Weights>],
    ) -> Stage<'a> {
        assert!(self.folder.path().exists());
        let source = |index: usize| Source {
            name: ["copy", "flip"][index],
            origin: Origin(0),
            share: 0.5,
            route: SourceTeachers::all(&named(format!("teacher{index}"), teachers[index].clone())),
            // Some tests have fewer models.
            scorers: [0, 2]
                .map(|model| (model < models.len()).then(|| choice(Teacher::Model(ModelId(model as u32)))))
                .into(),
            prompts: &self.prompts[index],
            tokens: self.prompts[index].tokens(&models[0].tokenizer).unwrap(),
            limit: None,
            verifier: &self.verifier,
        };
        Stage {
            name: "student",
            seed: 1,
            stream: 2,
            secret: Some(NoiseSecret::new(&[7; 32], "student")),
            part: 0,
            train,
            turn: LearnerTurn::ALONE,
            steps: 4,
            guards_from: 0,
            sources: vec![source(0), source(1)].into(),
            start: models[0].clone(),
            models: models
                .iter()
                .enumerate()
                .map(|(id, weights)| (ModelId(id as u32), weights.clone()))
                .collect(),
            models_fit: None,
            budget: MemoryBudget(usize::MAX),
            micro_batch: None,
            recomputed: 0,
            saves_activations: train.saves_activations(&train.rollout),
            judge: train.extrapolation.as_ref().map(|_| &self.judge),
            validation: Vec::new().into(),
            place: Place::cpu(),
            kind: Kind::Float,
            environments: Environments::In(self.folder.path()),
            servers: &crate::remote::NO_SERVERS,
            control: &self.control,
        }
    }
}

/// A teacher for all prompts of a domain.
fn named(name: String, teacher: Teacher) -> TeacherChoice {
    TeacherChoice { domain: DomainId(0), when: None, name, teacher, sees: None, own_tokens: false }
}

fn choice(teacher: Teacher) -> TeacherChoice {
    named("teacher".to_owned(), teacher)
}

fn load(path: &Path) -> Prompts {
    load_with(path, &[])
}

fn load_with(path: &Path, numbers: &[DataFormula]) -> Prompts {
    let source = DataSource::file(path.to_str().expect("a temporary folder has a plain name"));
    let fields = [Field::text("answer")];
    let request = DatasetRequest {
        source: &source,
        format: &PromptFormat::Text,
        fields: &fields,
        whole: true,
        routes: &[],
        numbers,
        notes: None,
    };
    Prompts::new(Dataset::read(Path::new("."), request).unwrap())
}

fn adamw(weight_decay: f64) -> plan::Optimizer {
    plan::Optimizer::AdamW(AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay, clip_norm: 1.0 })
}

/// The options of several updates from each batch.
fn updates(passes: u32, mini_batches: u32) -> TrainOptions {
    TrainOptions { passes, mini_batches, ..TrainOptions::default() }
}

fn train(objective: Objective, passes: u32) -> Train<Objective> {
    Train {
        recipe: Recipe::Distill,
        start: ModelId(0),
        mixture: Vec::new(),
        sees: None,
        scorers: Scorers::none(),
        panels: Vec::new(),
        feedback: Vec::new(),
        rollout: Rollout::new(7, Producer::data("answer")),
        options: updates(passes, 1),
        filter: None,
        curriculum: None,
        shares: None,
        objective,
        own_data: Vec::new(),
        trainable: Trainable::default(),
        optimizer: adamw(0.0),
        length: Length::Steps(4),
        learning_rate: Schedule::Constant { value: 1e-2 }.into(),
        guards: Vec::new(),
        extrapolation: None,
    }
}

fn models(tied: bool) -> Vec<Arc<Weights>> {
    let config = crate::model::Config { tied, ..tiny() };
    (0..3).map(|seed| Arc::new(random_model(&config, seed))).collect()
}

/// A model in double precision, its parameters as leaves in the order of the layout.
struct Reference {
    weights: Arc<Weights>,
    leaves: Vec<(String, Tensor)>,
}

impl Reference {
    fn new(weights: &Arc<Weights>) -> Reference {
        let leaf = |entry: &crate::model::ParameterEntry| {
            let shape: Vec<i64> = entry.shape.iter().map(|size| *size as i64).collect();
            let leaf = Tensor::from_slice(&weights.of(entry))
                .to_kind(Kind::Double)
                .view(shape.as_slice())
                .set_requires_grad(true);
            (entry.name.clone(), leaf)
        };
        Reference { weights: weights.clone(), leaves: layout(&weights.config).iter().map(leaf).collect() }
    }

    fn part(&self, name: &str) -> &Tensor {
        let name = format!("{name}.weight");
        &self.leaves.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Log-probabilities at the completion's positions, `[tokens, vocabulary]`, over the rows that belong to
    /// tokens.
    fn logps(&self, prompt: &[Token], completion: &[Token]) -> Tensor {
        let matrix = self.part(if self.weights.config.tied { "model.embed_tokens" } else { "lm_head" });
        let matrix = matrix.narrow(0, 0, self.weights.tokenizer.vocabulary() as i64);
        self.hidden(prompt, completion).matmul(&matrix.tr()).log_softmax(-1, Kind::Double)
    }

    /// The output of the scalar head before each token of the completion, `[tokens]`.
    fn scalars(&self, prompt: &[Token], completion: &[Token]) -> Tensor {
        self.hidden(prompt, completion).matmul(&self.part("score").view([-1]))
    }

    /// The last hidden states that the completion's tokens are predicted from, `[tokens, width]`.
    fn hidden(&self, prompt: &[Token], completion: &[Token]) -> Tensor {
        let config = &*self.weights.config;
        let tokens: Vec<Token> = prompt.iter().chain(&completion[..completion.len() - 1]).copied().collect();
        let (length, heads) = (tokens.len() as i64, config.heads as i64);
        let groups = config.key_value_heads as i64;
        let width = config.head_dim as i64;
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
            let project =
                |name: &str, count: i64| normed.matmul(&part(name).tr()).view([length, count, width]);
            let query = rotate(&project("self_attn.q_proj", heads));
            let repeat = |x: &Tensor| x.repeat_interleave_self_int(heads / groups, 1, None);
            let key = repeat(&rotate(&project("self_attn.k_proj", groups)));
            let value = repeat(&project("self_attn.v_proj", groups));
            let scores = query.transpose(0, 1).matmul(&key.permute([1, 2, 0])) / (width as f64).sqrt();
            let future = Tensor::ones([length, length], (Kind::Bool, Device::Cpu)).triu(1);
            let attended = scores
                .masked_fill(&future, f64::NEG_INFINITY)
                .softmax(-1, Kind::Double)
                .matmul(&value.transpose(0, 1));
            x = &x + attended.transpose(0, 1).reshape([length, -1]).matmul(&part("self_attn.o_proj").tr());
            let normed = norm(&x, part("post_attention_layernorm"));
            let inner =
                normed.matmul(&part("mlp.gate_proj").tr()).silu() * normed.matmul(&part("mlp.up_proj").tr());
            x = &x + inner.matmul(&part("mlp.down_proj").tr());
        }
        let x = norm(&x, self.part("model.norm"));
        let first = prompt.len() as i64 - 1;
        x.narrow(0, first, length - first)
    }

    /// d loss / d parameters, in the order of the layout.
    fn gradient(&self, loss: &Tensor) -> Vec<f64> {
        let leaves: Vec<&Tensor> = self.leaves.iter().map(|(_, leaf)| leaf).collect();
        // Parameters that the loss does not read have gradient 0.
        let loss = leaves.iter().fold(loss.shallow_clone(), |loss, leaf| loss + leaf.sum(Kind::Double) * 0.0);
        let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
        let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.reshape([-1])).collect();
        Vec::try_from(&Tensor::cat(&flat, 0)).unwrap()
    }
}

/// The terms of one sequence, `[tokens]`, from the student's log-probabilities, the teacher's, and the
/// tokens.
type Terms = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

/// The objectives, each with its formula.
fn objectives() -> Vec<(Objective, Terms)> {
    let top = Support::TopK { role: Role::TEACHER, k: 8 };
    vec![
        (mopd(1.0), |student, teacher, taken| {
            let (s, t) = (
                student.gather(1, taken, false).squeeze_dim(1),
                teacher.gather(1, taken, false).squeeze_dim(1),
            );
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

/// The loss and its gradient in double precision: the mean over tokens, then over sequences.
fn expected(stage: &Stage, sequences: &Sequences, models: &[Arc<Weights>], terms: Terms) -> (f64, Vec<f64>) {
    expected_of(&Reference::new(&models[0]), stage, sequences, models, terms)
}

/// The same of a student whose weights have changed.
fn expected_of(
    student: &Reference,
    stage: &Stage,
    sequences: &Sequences,
    models: &[Arc<Weights>],
    terms: Terms,
) -> (f64, Vec<f64>) {
    let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
    let losses: Vec<Tensor> = sequences
        .list
        .iter()
        .map(|sequence| {
            let prompt = sequence.prompt(&stage.sources);
            // The indices of the completion's trained tokens.
            let places: Vec<i64> = sequence.completion.trained_indices().map(|index| index as i64).collect();
            let places = Tensor::from_slice(&places);
            let taken = Tensor::from_slice(&sequence.completion).index_select(0, &places).unsqueeze(1);
            let logps =
                |model: &Reference| model.logps(prompt, &sequence.completion).index_select(0, &places);
            terms(&logps(student), &logps(&teachers[sequence.source]).detach(), &taken).mean(Kind::Double)
        })
        .collect();
    let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
    (loss.double_value(&[]), student.gradient(&loss))
}

const ROUTED: [Teacher; 2] = [Teacher::Model(ModelId(1)), Teacher::Model(ModelId(2))];

/// The loss, gradient and rollouts of the first step.
fn first_step<'a>(stage: &'a Stage<'a>) -> (f64, Vec<f32>, Rollouts) {
    let mut trainer = Trainer::new(stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
    let gradient = to_vec(&gradient.part(0..gradient.parameters()));
    (f64::from(outputs.get(stage.train.objective.loss)[0]), gradient, rollouts)
}

/// The largest difference, relative to the largest expected value.
fn apart(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs()).fold(0.0, f64::max)
        / largest
}

/// Completions of 2 to 8 tokens after prompts of 6 to 14; tied and untied models; several micro-batch sizes.
#[test]
fn loss_and_gradient_equal_the_reference_however_the_batch_is_divided() {
    let fixture = Fixture::new();
    for tied in [true, false] {
        let models = models(tied);
        for (objective, terms) in objectives() {
            let name = objective.name.clone();
            let train = train(objective, 1);
            let mut stage = fixture.stage(&train, ROUTED, &models);
            let (_, _, rollouts) = first_step(&stage);
            let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
            let lengths: Vec<usize> =
                rollouts.sequences.list.iter().map(|sequence| sequence.completion.len()).collect();
            assert!(lengths.iter().max() > lengths.iter().min(), "{lengths:?}");
            for micro_batch in
                [None, Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), Some(100)]
            {
                stage.micro_batch = micro_batch;
                stage.recomputed = micro_batch.unwrap_or(0) as usize % 3;
                let (got_loss, got, _) = first_step(&stage);
                assert!(
                    (got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0),
                    "{name}, {micro_batch:?}: {got_loss} {loss}"
                );
                let apart = apart(&got, &gradient);
                assert!(apart < 1e-5, "{name}, {micro_batch:?}, tied {tied}: {apart:e}");
            }
        }
    }
}

fn averages(index: usize) -> Teacher {
    Teacher::Student(
        [StudentCopy::Average { rate: 0.75 }, StudentCopy::Every { steps: 2 }, StudentCopy::Current][index],
    )
}

/// The weights after training, and the metrics of all steps.
fn trained_to_the_end(stage: &Stage) -> (Vec<f32>, Vec<StepMetrics>) {
    let finished = super::train(stage, None).map_err(|stopped| stopped.error).unwrap();
    (finished.weights.values().into_owned(), finished.record.rows)
}

/// Two names for one checkpoint are one model. A teacher that stays in memory and one that is loaded at every
/// step give the same bits.
#[test]
fn one_teacher_is_the_same_however_it_is_reached() {
    let fixture = Fixture::new();
    let models = models(true);
    let one = [Teacher::Model(ModelId(1)), Teacher::Model(ModelId(1))];
    let train = train(direct(Support::Full, Mass::Raw), 1);
    let stage = fixture.stage(&train, one, &models[..2]);
    let (expected, _) = trained_to_the_end(&stage);
    // One teacher under two names.
    let shared = [models[0].clone(), models[1].clone(), models[1].clone()];
    let two_names = fixture.stage(&train, ROUTED, &shared);
    assert_eq!(trained_to_the_end(&two_names).0, expected);
    // Freed after every use.
    let mut trainer = Trainer::new(&stage).unwrap();
    trainer.models = Models::one_at_a_time(&stage);
    for step in 0..stage.steps {
        trainer.step(step, &mut Record::default()).unwrap();
    }
    assert_eq!(to_vec(trainer.student.model.flat()), expected);
    // Two teachers, one at a time, against both in memory.
    let both = fixture.stage(&train, ROUTED, &models);
    let (expected, _) = trained_to_the_end(&both);
    let mut trainer = Trainer::new(&both).unwrap();
    trainer.models = Models::one_at_a_time(&both);
    for step in 0..both.steps {
        trainer.step(step, &mut Record::default()).unwrap();
    }
    assert_eq!(to_vec(trainer.student.model.flat()), expected);
}

/// If the student is its own teacher, the divergence is only rounding, here far below 1e-5 nats per token.
#[test]
fn a_student_that_is_its_teacher_diverges_by_rounding_alone() {
    let fixture = Fixture::new();
    let models = models(true);
    let train = train(direct(Support::Full, Mass::Raw), 1);
    let own = [Teacher::Model(ModelId(0)), Teacher::Model(ModelId(0))];
    for (micro_batch, bound) in [(None, 0.0), (Some(2), 1e-6)] {
        let mut stage = fixture.stage(&train, own.clone(), &models);
        stage.micro_batch = micro_batch;
        let (loss, gradient, _) = first_step(&stage);
        assert!(loss.abs() <= bound, "{micro_batch:?}: {loss}");
        let largest = gradient.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        assert!(largest < 1e-6, "{micro_batch:?}: {largest}");
    }
}

/// `vocab_size` is the number of tokens of the student's tokenizer, not of rows of its embedding, some of
/// which are padding. Against double precision: minus entropy / log(tokens) times the log-probability of each
/// token.
#[test]
fn vocab_size_is_that_of_the_student_s_tokenizer() {
    use mopd_plan::{Function, Live};

    let fixture = Fixture::new();
    // Counted in the files: `model.vocab` and the added tokens that are not in it.
    for (name, tokens) in [("llama3", 567.0f64), ("unigram", 556.0)] {
        let tokenizer = crate::tokenizer::tests::pretrained(name);
        let config = crate::model::Config { vocabulary: 600, ..tiny() };
        let start = Weights::initialise(Arc::new(config), Arc::new(tokenizer), 3, 0);
        let models = [Arc::new(start)];
        let objective = super::objective::objectives::objective("normalised", Live::Logp, |graph, logp| {
            let size = graph.signal(PlainSignal::VocabularySize);
            let most = graph.apply(Function::Log, &[size]);
            let entropy = graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
            let share = graph.apply(Function::Divide, &[entropy, most]);
            let weighted = graph.apply(Function::Multiply, &[share, logp]);
            (graph.apply(Function::Negate, &[weighted]), None)
        });
        let train = train(objective, 1);
        let own = [Teacher::Model(ModelId(0)), Teacher::Model(ModelId(0))];
        let stage = fixture.stage(&train, own, &models);
        let mut trainer = Trainer::new(&stage).unwrap();
        let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
        let EvaluatedBatch { batch, outputs, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
        let entropies =
            batch.signal(&Signal::Of { role: Role::Student, part: ModelSignal::Entropy }).unwrap();
        let terms = outputs.get(train.objective.terms[0].value);
        assert!(!terms.is_empty() && terms.len() == entropies.len());
        for ((term, entropy), logp) in terms.iter().zip(entropies).zip(&batch.live[0]) {
            let expected = -f64::from(*entropy) / tokens.ln() * f64::from(*logp);
            assert!((f64::from(*term) - expected).abs() < 1e-5 * expected.abs(), "{name}: {term} {expected}");
        }
    }
}

fn adapter(kind: AdapterKind) -> Adapter {
    let targets =
        vec![Projection::Query, Projection::Value, Projection::Output, Projection::Up, Projection::Down];
    Adapter { kind, rank: 3, alpha: 6.0, dropout: 0.0, targets, layers: None }
}
