//! A lower bound of the time that a step of on-policy distillation takes on a machine, from the shapes of its
//! models.
//!
//! A step is a list of phases, each of which begins when the one before is done. A phase takes at least as
//! long as its products at the machine's best rate, and at least as long as its reads and writes at the rate
//! of memory: `max(flops / rate, bytes / memory)`, the roofline model (Williams, Waterman and Patterson 2009,
//! doi:10.1145/1498765.1498785). Only work is counted that no program can leave out without computing
//! something else:
//!
//! - Layers: `2 N` operations for a token, where `N` is the number of weights in all matrices of the layers
//!   that the token uses (of experts, the chosen ones).
//! - Attention: `4 heads head_dim s` in every layer for a token that attends to `s`, itself included.
//! - The LM head, of `V = vocabulary width` weights: `2 V` for each token that is predicted.
//! - The student's forward pass is counted once, while it writes: the activations that its gradient needs can
//!   be saved then. Logits of all tokens can't, so they are computed again for the divergence.
//! - The backward pass of a layer has two products for each one forward, for the input and for the matrix;
//!   with an adapter, one for the input, and two for each of the adapter's. The LM head likewise.
//! - Weights are read once a phase, though a program whose rows don't all fit in the caches reads them more
//!   often.
//! - Keys and values of all earlier tokens are read for each token that is written.
//! - AdamW reads and writes the weight and both moments, all in single precision, and reads the gradient: 28
//!   bytes a weight, and 26 if models compute in half precision, whose 16 bits are a half of the weight and
//!   not a copy of it.
//!
//! Not counted: norms, activation functions, softmax, sampling, embeddings, activations that leave the
//! caches, and memory traffic of gradients. So the floor can't be reached, except by a small model, which may
//! even be below it: its weights stay in the caches and need not come from memory.

use std::path::Path;

use mopd_plan::events::{Event, FailureKind, FloorJob, Phase, StepPart};
use mopd_plan::{Adapter, AdapterKind, Dtype, Producer, Role, Stage, Trainable};

use super::machine::{self, ProductShape};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::model::{Config, EntryKind, Weights, layout};
use crate::prepare::{ReadContext, model_specs, prepare, trained};
use crate::schedule;
use crate::store::Store;
use crate::train::SourceTeachers;

/// The tokens of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTokens {
    /// Number of sequences; those of one group share their prompt.
    pub sequences: f64,
    pub groups: f64,
    /// Mean tokens of a prompt, and of a completion.
    pub prompt: f64,
    pub completion: f64,
}

impl StepTokens {
    /// Tokens of a sequence that go through a model: the last one is only predicted.
    fn length(&self) -> f64 {
        self.prompt + self.completion - 1.0
    }

    fn predicted(&self) -> f64 {
        self.sequences * self.completion
    }
}

/// Numbers of weights in a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Matrices {
    /// In the layers, those that one token uses.
    used: f64,
    /// In the layers, outside of experts.
    plain: f64,
    /// In all experts.
    experts: f64,
    /// Experts in a layer divided by those that a token uses; 1 if there are none.
    choices: f64,
    output: f64,
}

impl Matrices {
    fn new(config: &Config) -> Matrices {
        let (mut plain, mut experts) = (0.0, 0.0);
        for entry in layout(config) {
            let of_layer = entry.kind == EntryKind::Matrix && entry.name.starts_with("model.layers.");
            match of_layer {
                true if entry.name.contains(".experts.") => experts += entry.len() as f64,
                true => plain += entry.len() as f64,
                false => {}
            }
        }
        let choices =
            config.experts.as_ref().map_or(1.0, |experts| experts.count as f64 / experts.per_token as f64);
        let output = (config.vocabulary * config.width) as f64;
        Matrices { used: plain + experts / choices, plain, experts, choices, output }
    }

    /// Weights that are read if `tokens` tokens go through the layers together.
    fn read(&self, tokens: f64) -> f64 {
        // Each token may choose other experts, until all are chosen.
        self.plain + self.experts * (tokens / self.choices).min(1.0)
    }
}

/// Operations of attention in all layers for the tokens at positions `from..to`. Those of the gated delta
/// rule are left out: they are few beside the products with matrices.
fn attention(config: &Config, from: f64, to: f64) -> f64 {
    let width = (config.heads * config.head_dim) as f64;
    config.attention_layers().map(|layer| 4.0 * width * seen(from, to, layer.window)).sum()
}

/// The sum of the tokens that each token at positions `from..to` attends to, itself included.
fn seen(from: f64, to: f64, window: Option<usize>) -> f64 {
    let up_to = |count: f64| {
        let window = window.map_or(count, |window| (window as f64).min(count));
        window * (window + 1.0) / 2.0 + (count - window) * window
    };
    up_to(to) - up_to(from)
}

/// The weights of a student that are trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdatedWeights {
    /// All weights, with this many numbers.
    Weights { numbers: f64 },
    /// An adapter with this many numbers.
    Adapter { numbers: f64 },
}

/// The phases of writing the completions of a step.
pub fn rollout_phases(student: &Config, tokens: &StepTokens, dtype: Dtype) -> Vec<Phase> {
    let StepTokens { sequences, groups, prompt, completion } = *tokens;
    let (bytes, own) = (bytes_of(dtype), Matrices::new(student));
    let phase = |name: &str, times: f64, flops: f64, bytes: f64| Phase {
        part: StepPart::Rollout,
        name: name.to_owned(),
        times,
        flops,
        bytes,
    };
    let prompts = groups * prompt;
    let mut phases = vec![phase(
        "the prompts",
        1.0,
        2.0 * prompts * own.used + groups * (attention(student, 0.0, prompt) + 2.0 * own.output),
        bytes * (own.read(prompts) + own.output),
    )];
    // The pass over the prompt gives the first token of a completion.
    let written = (completion - 1.0).max(0.0);
    if written > 0.0 {
        let key_value = 2.0 * (student.key_value_heads * student.head_dim) as f64;
        let cached: f64 = student
            .attention_layers()
            .map(|layer| key_value * seen(prompt, tokens.length(), layer.window))
            .sum();
        phases.push(phase(
            "one more token for every sequence",
            written,
            sequences
                * (2.0 * (own.used + own.output) + attention(student, prompt, tokens.length()) / written),
            bytes * (own.read(sequences) + own.output + sequences * cached / written)
                + sequences * student.state_bytes() as f64,
        ));
    }
    phases
}

/// Bytes of a weight.
fn bytes_of(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float32 => 4.0,
        Dtype::Bfloat16 => 2.0,
    }
}

/// The phases of a step. `teachers` are the models that score, each with its fraction of the sequences.
pub fn phases(
    student: &Config,
    teachers: &[(&Config, f64)],
    tokens: &StepTokens,
    updated: UpdatedWeights,
    dtype: Dtype,
) -> Vec<Phase> {
    let sequences = tokens.sequences;
    let (bytes, own) = (bytes_of(dtype), Matrices::new(student));
    let phase = |part, name: &str, times: f64, flops: f64, bytes: f64| Phase {
        part,
        name: name.to_owned(),
        times,
        flops,
        bytes,
    };
    let mut phases = rollout_phases(student, tokens, dtype);
    let forward = |config: &Config, matrices: &Matrices, share: f64| {
        let layers = 2.0 * tokens.length() * matrices.used + attention(config, 0.0, tokens.length());
        share * (sequences * layers + 2.0 * tokens.predicted() * matrices.output)
    };
    for (config, share) in teachers {
        let matrices = Matrices::new(config);
        let read = matrices.read(share * sequences * tokens.length()) + matrices.output;
        phases.push(phase(
            StepPart::Scoring,
            "a teacher",
            1.0,
            forward(config, &matrices, *share),
            bytes * read,
        ));
    }
    let through = forward(student, &own, 1.0);
    let read = own.read(sequences * tokens.length()) + own.output;
    let logits = 2.0 * tokens.predicted() * own.output;
    phases.push(phase(StepPart::Scoring, "the student's logits", 1.0, logits, bytes * own.output));

    let (back, numbers) = match updated {
        UpdatedWeights::Weights { numbers } => (2.0 * through, numbers),
        // Attention has no weights: its backward pass has two products for each one in any case.
        UpdatedWeights::Adapter { numbers } => {
            let attended = sequences * attention(student, 0.0, tokens.length());
            (through + attended + 4.0 * sequences * tokens.length() * numbers, numbers)
        }
    };
    phases.push(phase(StepPart::Update, "the backward pass", 1.0, back, bytes * read));
    phases.push(phase(StepPart::Update, "AdamW", 1.0, 0.0, numbers * (24.0 + bytes)));
    phases
}

/// The number of an adapter's weights, including DoRA's magnitudes, one per row.
fn numbers(adapter: &Adapter, config: &Config) -> f64 {
    let rank = adapter.rank as usize;
    let adapted = layout(config).into_iter().filter(|entry| {
        let within = match (adapter.layers, entry.layer) {
            (Some((first, last)), Some(layer)) => (first..=last).contains(&layer),
            (None, layer) => layer.is_some(),
            (Some(_), None) => false,
        };
        within && entry.is_adapted(&adapter.targets)
    });
    let magnitudes = |rows: usize| if adapter.kind == AdapterKind::Dora { rows } else { 0 };
    adapted.map(|entry| rank * (entry.shape[0] + entry.shape[1]) + magnitudes(entry.shape[0])).sum::<usize>()
        as f64
}

/// Measures the machine and counts the work of the first distillation stage. Emits one event.
pub fn floor(job: &FloorJob, place: Place, control: &Control) -> Result<()> {
    let plan = &job.run.plan;
    let base = Path::new(&job.run.base);
    let wrong = |message: &str| Error::new(FailureKind::Runtime, message);
    let tasks = schedule::tasks(plan);
    let places =
        ReadContext { base, notes: &Store::notes(Path::new(&job.run.store)), cache: None, store: None };
    let specs = model_specs(plan, places)?;
    let (domains, _) = prepare(plan, &schedule::stages(&tasks), &specs, places)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let widths = schedule::threads(&tasks, &specs, cores);
    let distills = tasks.iter().zip(widths).find_map(|(task, width)| match task.work {
        schedule::Work::Stage(id) => match &plan.experiment.model(id).stage {
            Stage::Train(train) => Some((id, train, width)),
            _ => None,
        },
        schedule::Work::Evaluate { .. } => None,
    });
    let (id, train, threads) =
        distills.ok_or_else(|| wrong("nothing is trained, so that there is nothing to count"))?;
    let (Producer::Student(student), []) = (&train.rollout.producer, train.own_data.as_slice()) else {
        return Err(wrong("what is counted is training on the student's own rollouts"));
    };
    if train.options.mini_batches > 1 {
        return Err(wrong("what is counted is steps that train on whole batches, without `mini_batches`"));
    }
    let sampling = &student.sampling;
    let spec = &specs[id.0 as usize];
    let student = &*spec.config;

    let (mut length, mut sum) = (0.0, 0.0);
    let mut teachers: Vec<(&Config, usize, f64)> = Vec::new();
    for share in &train.mixture {
        let data = trained(&domains[share.domain.0 as usize], train)?;
        let lengths = data.tokens(&spec.tokenizer)?;
        let mean = lengths.lengths().sum::<usize>() as f64 / lengths.len().max(1) as f64;
        length += share.share * mean;
        sum += share.share;
        if train.objective.reads(Role::TEACHER) {
            let route = SourceTeachers::new(train, share.domain, &data.dataset)?;
            for (teacher, part) in route.teachers().iter().zip(route.shares(data.dataset.len())) {
                let Some(model) = teacher.weights.model() else { continue };
                let own = share.share * part;
                match teachers.iter_mut().find(|(_, known, _)| *known == model.0 as usize) {
                    Some((_, _, part)) => *part += own,
                    None => teachers.push((&specs[model.0 as usize].config, model.0 as usize, own)),
                }
            }
        }
    }
    let groups = f64::from(train.rollout.groups);
    let tokens = StepTokens {
        sequences: groups * f64::from(sampling.n.max(1)),
        groups,
        prompt: length / sum,
        completion: job.completion.unwrap_or(f64::from(sampling.max_tokens)).max(1.0),
    };
    let updated = match &train.trainable {
        Trainable::Weights { only: None, except } if except.is_empty() => {
            UpdatedWeights::Weights { numbers: Weights::parameters(student) as f64 }
        }
        Trainable::Weights { .. } => {
            return Err(wrong("what is counted is training of all weights, or of an adapter"));
        }
        Trainable::Adapter(adapter) => UpdatedWeights::Adapter { numbers: numbers(adapter, student) },
    };
    // A step has no more teachers than prompts.
    teachers.truncate(groups as usize);
    let parts: f64 = teachers.iter().map(|(_, _, part)| part).sum();
    let teachers: Vec<(&Config, f64)> =
        teachers.iter().map(|(config, _, part)| (*config, part / parts)).collect();
    let phases = phases(student, &teachers, &tokens, updated, plan.experiment.dtype);

    tch::set_num_threads(threads as i32);
    let rates = machine::rates(ProductShape::new(student, place), threads, place, control)?;
    control.emit(&Event::MeasuredFloor { rates, phases, prompt: tokens.prompt, threads: threads as u32 });
    Ok(())
}

#[cfg(test)]
mod tests {
    use mopd_plan::Projection;

    use super::*;
    use crate::model::tests::tiny;
    use crate::model::{Experts, GatedDelta, LayerAttention};

    /// Width 4, two heads of 2 that share keys and values, MLP width 6, vocabulary 10, 2 layers, tied. A
    /// layer has 16 + 8 + 8 + 16 weights in attention and 3 x 24 in the MLP: 120. All layers have 240, the
    /// LM head 40, and five normalisations 20.
    fn small() -> Config {
        let (width, heads, key_value_heads, head_dim, hidden, vocabulary) = (4, 2, 1, 2, 6, 10);
        Config { width, heads, key_value_heads, head_dim, intermediate_size: hidden, vocabulary, ..tiny() }
    }

    /// Two samples of one prompt: 4 tokens of each sequence go through a model, 2 are predicted.
    const TOKENS: StepTokens = StepTokens { sequences: 2.0, groups: 1.0, prompt: 3.0, completion: 2.0 };

    fn counted(phases: &[Phase]) -> Vec<(StepPart, f64, f64, f64)> {
        phases.iter().map(|phase| (phase.part, phase.times, phase.flops, phase.bytes)).collect()
    }

    #[test]
    fn a_step_is_counted_by_hand() {
        use StepPart::{Rollout, Scoring, Update};
        let config = small();
        let updated = UpdatedWeights::Weights { numbers: Weights::parameters(&config) as f64 };
        let phases = phases(&config, &[(&config, 1.0)], &TOKENS, updated, Dtype::Float32);
        let weights = 4.0 * 280.0;
        let expected = [
            // 3 tokens x 480; 1 + 2 + 3 attended positions of 16, in 2 layers; one prediction of 80.
            (Rollout, 1.0, 1440.0 + 192.0 + 80.0, weights),
            // 2 sequences x (480 + 80 + 4 attended positions of 16 in 2 layers); keys and values of 4 tokens,
            // 2 + 2 numbers in each layer.
            (Rollout, 1.0, 2.0 * (560.0 + 128.0), weights + 4.0 * 2.0 * 32.0),
            // 2 sequences x (4 x 480 + 10 attended positions of 16 in 2 layers) and 4 predictions.
            (Scoring, 1.0, 2.0 * (1920.0 + 320.0) + 320.0, weights),
            // 4 predictions of 80, of the LM head's 40 numbers.
            (Scoring, 1.0, 320.0, 4.0 * 40.0),
            (Update, 1.0, 9600.0, weights),
            (Update, 1.0, 0.0, 28.0 * 300.0),
        ];
        assert_eq!(counted(&phases), expected);
    }

    #[test]
    fn half_precision_halves_what_is_read_and_not_what_is_trained() {
        let config = small();
        let of = |dtype| {
            phases(&config, &[(&config, 1.0)], &TOKENS, UpdatedWeights::Weights { numbers: 300.0 }, dtype)
        };
        let (single, half) = (of(Dtype::Float32), of(Dtype::Bfloat16));
        for (single, half) in single.iter().zip(&half).take(5) {
            assert_eq!((half.flops, half.bytes), (single.flops, single.bytes / 2.0), "{}", half.name);
        }
        assert_eq!((single[5].bytes, half[5].bytes), (28.0 * 300.0, 26.0 * 300.0));
    }

    #[test]
    fn teachers_share_the_sequences_and_not_the_weights() {
        let config = small();
        let updated = UpdatedWeights::Weights { numbers: 300.0 };
        let one = phases(&config, &[(&config, 1.0)], &TOKENS, updated, Dtype::Float32);
        let four = phases(&config, &[(&config, 0.25); 4], &TOKENS, updated, Dtype::Float32);
        let scoring = |phases: &[Phase], of: fn(&Phase) -> f64| -> f64 {
            phases.iter().filter(|phase| phase.name == "a teacher").map(of).sum()
        };
        assert_eq!(scoring(&one, |phase| phase.flops), scoring(&four, |phase| phase.flops));
        assert_eq!(4.0 * scoring(&one, |phase| phase.bytes), scoring(&four, |phase| phase.bytes));
    }

    #[test]
    fn an_adapter_saves_the_way_back_to_the_weights() {
        let config = small();
        let targets = vec![Projection::Query, Projection::Down];
        let adapter = |kind, layers| Adapter {
            kind,
            rank: 3,
            alpha: 6.0,
            targets: targets.clone(),
            layers,
            dropout: 0.0,
        };
        // The query projection is 4 x 4, the down projection 4 x 6.
        assert_eq!(numbers(&adapter(AdapterKind::Lora, None), &config), 2.0 * 3.0 * (8.0 + 10.0));
        assert_eq!(numbers(&adapter(AdapterKind::Lora, Some((1, 1))), &config), 3.0 * (8.0 + 10.0));
        assert_eq!(numbers(&adapter(AdapterKind::Dora, None), &config), 2.0 * (3.0 * (8.0 + 10.0) + 8.0));
        let phases =
            phases(&config, &[], &TOKENS, UpdatedWeights::Adapter { numbers: 108.0 }, Dtype::Float32);
        let update: Vec<f64> =
            phases.iter().filter(|phase| phase.part == StepPart::Update).map(|phase| phase.flops).collect();
        // As much as the student's forward pass, attention once more, and two products of 2 x 108 for each of
        // 8 tokens.
        assert_eq!(update, [4800.0 + 640.0 + 8.0 * 4.0 * 108.0, 0.0]);
        assert_eq!(phases.last().map(|phase| phase.bytes), Some(28.0 * 108.0));
    }

    #[test]
    fn a_window_bounds_what_is_seen() {
        assert_eq!(seen(0.0, 5.0, None), 15.0);
        assert_eq!(seen(0.0, 5.0, Some(2)), 1.0 + 2.0 + 2.0 + 2.0 + 2.0);
        assert_eq!(seen(3.0, 5.0, Some(4)), 4.0 + 4.0);
        assert_eq!(seen(1.0, 3.0, Some(9)), 2.0 + 3.0);
        let mut config = small();
        config.attention[1] = LayerAttention { window: Some(2), rotary: true };
        assert_eq!(attention(&config, 0.0, 5.0), 16.0 * (15.0 + 9.0));
    }

    #[test]
    fn layers_without_attention_read_a_state_in_place_of_keys_and_values() {
        let layers = vec![true, false];
        let delta = GatedDelta {
            key_heads: 1,
            value_heads: 2,
            key_head_dim: 3,
            value_head_dim: 5,
            convolution: 4,
            layers,
        };
        let config = Config { gated_delta: Some(delta), ..small() };
        assert_eq!(attention(&config, 0.0, 5.0), attention(&small(), 0.0, 5.0) / 2.0);
        // Two heads of 3 x 5, and three inputs of 16 channels.
        assert_eq!(config.state_bytes(), 4 * (2 * 15 + 3 * 16));
    }

    #[test]
    fn expert_weights_are_read_only_for_routed_tokens() {
        let experts = Experts {
            count: 4,
            per_token: 2,
            intermediate_size: 5,
            normalised: true,
            layers: vec![true, true],
            clamped: None,
        };
        let config = Config { experts: Some(experts), ..small() };
        // Attention 48 and the router 4 x 4 in each layer; an expert has 3 x 20.
        let matrices = Matrices::new(&config);
        assert_eq!((matrices.plain, matrices.experts), (128.0, 480.0));
        assert_eq!(matrices.used, 128.0 + 240.0);
        // One token reads two experts of a layer, two tokens may need all four.
        assert_eq!(
            [1.0, 2.0, 9.0].map(|tokens| matrices.read(tokens)),
            [128.0 + 240.0, 128.0 + 480.0, 128.0 + 480.0]
        );
    }
}
