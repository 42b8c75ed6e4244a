//! Every divergence against its definition in double precision, with probabilities instead of logs and finite
//! differences instead of derivatives; chunks against the whole; the pass against a plain implementation that
//! libtorch differentiates.

mod composed;
mod divergences;
mod listed;
mod mapped;
mod passes;
mod reference;
mod signals;
mod tokens;

use std::sync::LazyLock;

use Role::Student;
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::graph::{Graph, NodeId};
use mopd_plan::{
    self as plan, Axis, DivergenceKind, DivergenceParameter, Formula, Function, Live, Mass, ModelSignal,
    PlainSignal, Role, Schedule, ScheduleLength, Signal, Support,
};
use tch::{Device, Kind};

use super::divergence::Pairing;
use super::summands::StepSummand;
use super::*;
use crate::compiled;
use crate::machine::transfer::to_vec;
use crate::tokenizer::END;

/// A reference case that several trainers were compared on: five tokens, a support of two.
const TEACHER: [f64; 5] = [0.50, 0.25, 0.15, 0.07, 0.03];
const STUDENT: [f64; 5] = [0.30, 0.30, 0.20, 0.15, 0.05];
/// The same with distinct probabilities, so that what is most probable is well defined.
const DISTINCT: [f64; 5] = [0.32, 0.28, 0.20, 0.15, 0.05];
/// The token of the completion.
const TAKEN: i64 = 2;
const TEACHER_LOGP: Signal = Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp };
const TOP_2: Support = Support::TopK { role: Role::TEACHER, k: 2 };
const MASSES: [Mass; 4] = [Mass::Renormalized, Mass::Tail, Mass::Generalized, Mass::Raw];

fn kl(left: Role, right: Role, support: Support, mass: Mass) -> plan::Divergence {
    plan::Divergence::between(DivergenceKind::Kl, left, right, support, mass)
}

/// The compiled form of `call`, in the language.
fn called(call: &str) -> DivergenceKind {
    kinds_of(&[call]).swap_remove(0)
}

/// The same for several calls, by the real compiler, with the standard library and some declarations.
fn kinds_of(calls: &[&str]) -> Vec<DivergenceKind> {
    let terms: String =
        calls.iter().enumerate().map(|(at, call)| format!("  term t{at} = live {call}\n")).collect();
    let text = format!(
        "experiment \"t\" {{ seed = 1 }}\n\
         domain d {{ prompts = \"d.jsonl\", reward = exact_match }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 32, tokenizer = bytes }}\n\
         model other = sft(base, on: d) {{ target = answer, steps = 2, batch = 2, lr = 1e-3 }}\n\
         teacher one = other\n\
         route {{ else -> one }}\n\
         divergence generated(u) = u ^ 2 - u\n\
         divergence itakura_saito(p || q) = p / q - log(p / q) - 1\n\
         divergence written(u) = u * log(u)\n\
         divergence backwards(p || q) = q * (log(q) - log(p))\n\
         divergence weighed(p || q) = detached(log(p / q)) * p\n\
         divergence cross_entropy(p || q) = -q * log(p)\n\
         objective o {{\n{terms}  reduce = mean(token, over: batch)\n}}\n\
         model student = distill(base) {{ objective = o, rollout = sample(n: 1, temperature: 1, max_tokens: 8), \
         prompts = 2, steps = 10, lr = 1e-3 }}\n"
    );
    let plan = compiled::plan(text);
    let train = compiled::train(&plan, "student");
    let live = train.objective.live.iter().map(|live| match &live.primitive {
        Live::Divergence(divergence) => divergence.kind.clone(),
        other => panic!("{other:?}"),
    });
    let kinds: Vec<DivergenceKind> = live.collect();
    assert_eq!(kinds.len(), calls.len(), "each is another one");
    kinds
}

/// The summand of an entry, and the linear term that `generalized` adds, in double precision.
type Reference = Box<dyn Fn(f64, f64) -> [f64; 2] + Send + Sync>;

/// Every divergence with its definition.
static KINDS: LazyLock<Vec<(DivergenceKind, Reference)>> = LazyLock::new(|| {
    let kl = |a: f64, b: f64| a * (a / b).ln();
    let jsd = move |beta: f64, scale: f64| -> Reference {
        Box::new(move |p, q| {
            let m = beta * p + (1.0 - beta) * q;
            [(beta * kl(p, m) + (1.0 - beta) * kl(q, m)) * scale, 0.0]
        })
    };
    let skew = move |lambda: f64| -> Reference {
        Box::new(move |p, q| {
            let m = lambda * p + (1.0 - lambda) * q;
            [kl(p, m), m - p]
        })
    };
    let alpha = |a: f64| -> Reference {
        Box::new(move |p, q| [(p.powf(a) * q.powf(1.0 - a) - a * p - (1.0 - a) * q) / (a * (a - 1.0)), 0.0])
    };
    let of = |reference: fn(f64, f64) -> [f64; 2]| -> Reference { Box::new(reference) };
    let cases: Vec<(&str, Reference)> = vec![
        ("kl(student || teacher)", of(|p, q| [p * (p / q).ln(), q - p])),
        ("jsd(student, teacher, beta: 0.5)", jsd(0.5, 1.0)),
        ("jsd(student, teacher, beta: 0.1)", jsd(0.1, 1.0)),
        ("jsd(student, teacher, beta: 0.01, normalized: true)", jsd(0.01, 1.0 / (0.01 * 0.99))),
        ("jsd(student, teacher, beta: 0.8, normalized: true)", jsd(0.8, 1.0 / (0.8 * (1.0 - 0.8)))),
        ("skew(student || teacher, lambda: 0.1)", skew(0.1)),
        ("skew(student || teacher, lambda: 0.02)", skew(0.02)),
        ("skew(student || teacher, lambda: 0.7)", skew(0.7)),
        ("tv(student, teacher)", of(|p, q| [(p - q).abs() / 2.0, 0.0])),
        ("chi2(student || teacher)", of(|p, q| [(p - q).powi(2) / q, 0.0])),
        ("hellinger(student, teacher)", of(|p, q| [(p.sqrt() - q.sqrt()).powi(2) / 2.0, 0.0])),
        ("triangular(student, teacher)", of(|p, q| [(p - q).powi(2) / (p + q), 0.0])),
        ("alpha(student || teacher, alpha: 0.5)", alpha(0.5)),
        ("alpha(student || teacher, alpha: -1)", alpha(-1.0)),
        ("alpha(student || teacher, alpha: 2)", alpha(2.0)),
        ("alpha(student || teacher, alpha: 1)", of(|p, q| [p * (p / q).ln() - p + q, 0.0])),
        ("sorted_l1(student, teacher)", of(|p, q| [(p - q).abs() / 2.0, 0.0])),
        // u^2 - u, whose derivative is 1 at 1.
        ("generated(student || teacher)", of(|p, q| [q * ((p / q).powi(2) - p / q), q - p])),
        ("itakura_saito(student || teacher)", of(|p, q| [p / q - (p / q).ln() - 1.0, 0.0])),
        ("backwards(student || teacher)", of(|p, q| [q * (q / p).ln(), p - q])),
    ];
    let kinds = kinds_of(&cases.iter().map(|(call, _)| *call).collect::<Vec<&str>>());
    zip_equal(kinds, cases).map(|(kind, (_, reference))| (kind, reference)).collect()
});

fn kinds() -> Vec<DivergenceKind> {
    KINDS.iter().map(|(kind, _)| kind.clone()).collect()
}

fn supports() -> Vec<Support> {
    let top = |role, k| Support::TopK { role, k };
    let nucleus = |role, p| Support::Nucleus { role, p };
    let mut supports: Vec<Support> =
        [1, 2, 4].iter().flat_map(|&k| [top(Student, k), top(Role::TEACHER, k)]).collect();
    supports.extend([
        Support::Full,
        Support::Sampled,
        nucleus(Role::TEACHER, 0.7),
        nucleus(Student, 0.9),
        Support::Union { of: vec![top(Role::TEACHER, 1), Support::Sampled, top(Student, 2)] },
        Support::Intersection { of: vec![top(Role::TEACHER, 3), nucleus(Student, 0.75), Support::Full] },
    ]);
    supports
}

fn rows(probabilities: &[[f64; 5]]) -> Tensor {
    let logits: Vec<f32> = probabilities.iter().flatten().map(|p| p.ln() as f32).collect();
    Tensor::from_slice(&logits).view([-1, 5])
}

fn given(student: Tensor, teacher: Option<Tensor>, targets: &[i64], place: Option<Place>) -> Vocabulary {
    let others = teacher.map(|teacher| (Role::TEACHER, vec![Logits::Given(teacher)])).into_iter().collect();
    Vocabulary::new(
        place.unwrap_or(Place::cpu()),
        &Tensor::from_slice(targets),
        Logits::Given(student),
        others,
        Some((Student, 2.0)),
        &[END],
    )
}

/// The CPU with these sizes of chunks and blocks, in elements, and of kept gradients, in bytes.
fn in_parts(chunk: i64, block: i64, kept: usize) -> Place {
    let mut place = Place::cpu();
    (place.sizes.chunk, place.sizes.block, place.sizes.kept) = (chunk, block, kept);
    place
}

fn batch(tokens: usize) -> Batch {
    let layout = Layout {
        sequence_of_token: vec![0; tokens],
        group_of_sequence: vec![0],
        groups: 1,
        ..Layout::default()
    };
    Batch { layout, step: 3, steps: 10, ..Batch::default() }
}

/// Value, and gradient with respect to the student's logits, of one token.
fn value_and_gradient(live: &Live, student: &[f64; 5], teacher: &[f64; 5]) -> (f64, Vec<f64>) {
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let vocabulary = given(rows(&[*student]), Some(rows(&[*teacher])), &[TAKEN], None);
    let value = &vocabulary.values(&[Quantity::Primitive(parameters.primitive(live).unwrap().unwrap())])[0];
    assert_eq!((value.size(), value.kind()), (vec![1], Kind::Float));
    let mut gradient = Vec::new();
    let adjoint = Tensor::from_slice(&[2.0f32]);
    vocabulary.gradient(&[(parameters.primitive(live).unwrap().unwrap(), adjoint)], |rows| {
        gradient = to_vec(&rows.whole().1)
    });
    (value.double_value(&[0]), gradient.into_iter().map(|g| f64::from(g) / 2.0).collect())
}

fn of_divergence(spec: &plan::Divergence, student: &[f64; 5], teacher: &[f64; 5]) -> (f64, Vec<f64>) {
    value_and_gradient(&Live::Divergence(spec.clone()), student, teacher)
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|x| x.exp()).sum();
    logits.iter().map(|x| x.exp() / total).collect()
}

#[track_caller]
fn close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (a, b) in got.iter().zip(expected) {
        assert!((a - b).abs() < tolerance, "{got:?} {expected:?}");
    }
}

#[track_caller]
fn assert_equals_its_definition(spec: &plan::Divergence, student: &[f64; 5]) {
    let got = of_divergence(spec, student, &TEACHER);
    let expected = reference::value_and_gradient(spec, student, &TEACHER);
    let scale = expected.1.iter().fold(expected.0.abs().max(1.0), |most, g| most.max(g.abs()));
    assert!((got.0 - expected.0).abs() < 2e-6 * scale, "{spec:?}: {got:?} {expected:?}");
    for (a, b) in got.1.iter().zip(&expected.1) {
        assert!((a - b).abs() < 3e-6 * scale, "{spec:?}: {got:?} {expected:?}");
    }
}

/// Pseudo-random logits, `[tokens, vocabulary]`.
fn logits(tokens: i64, vocabulary: i64, seed: f32) -> Tensor {
    let values: Vec<f32> =
        (0..tokens * vocabulary).map(|i| ((i as f32 * 0.713 + seed) * 12.9898).sin() * 4.0).collect();
    Tensor::from_slice(&values).view([tokens, vocabulary])
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}
