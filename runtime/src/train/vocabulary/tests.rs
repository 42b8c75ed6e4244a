//! Every divergence against its definition in double precision, with probabilities instead of logs and finite
//! differences instead of derivatives; chunks against the whole; the pass against a plain implementation that
//! libtorch differentiates.

mod composed;

use std::sync::LazyLock;

use mopd_compiler::expr::batch::{Batch, Layout};
use mopd_compiler::expr::graph::Graph;
use mopd_compiler::plan::{
    self, DivergenceKind, Formula, Live, Mass, Over, Parameter, Role, Schedule, Signal, Support,
};
use mopd_lang::source::SourceFile;
use tch::Kind;

use super::divergence::Pairing;
use super::summands::Summand;
use super::*;
use crate::model::to_vec;
use crate::tokenizer::END;
use Role::Student;

/// A reference case that several trainers were compared on: five tokens, a support of two.
const TEACHER: [f64; 5] = [0.50, 0.25, 0.15, 0.07, 0.03];
const STUDENT: [f64; 5] = [0.30, 0.30, 0.20, 0.15, 0.05];
/// The same with distinct probabilities, so that what is most probable is well defined.
const DISTINCT: [f64; 5] = [0.32, 0.28, 0.20, 0.15, 0.05];
/// The token taken.
const TAKEN: i64 = 2;
const TOP_2: Support = Support::TopK { role: Role::TEACHER, k: 2 };
const MASSES: [Mass; 4] = [Mass::Renormalized, Mass::Tail, Mass::Generalized, Mass::Raw];

fn kl(left: Role, right: Role, support: Support, mass: Mass) -> plan::Divergence {
    plan::Divergence::between(DivergenceKind::Kl, left, right, support, mass)
}

/// What `call`, in the language, is compiled to.
fn called(call: &str) -> DivergenceKind {
    kinds_of(&[call]).swap_remove(0)
}

/// By language and compiler, with the standard library's text and some declarations.
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
    let entry = SourceFile { path: "t.mopd".into(), text };
    let standard = |module: &[&str]| mopd_std::source(module).map(|(path, text)| SourceFile { path, text });
    let analysis = mopd_lang::analyse(entry, &standard);
    assert!(!analysis.has_errors(), "{:?}", analysis.diagnostics);
    let experiment = analysis.experiment.as_ref().unwrap();
    let plan = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).unwrap();
    let student = plan.experiment.models.iter().find(|model| model.name == "student").unwrap();
    let plan::Stage::Train(train) = &student.stage else { panic!("the student is trained") };
    let live = train.objective.live.iter().map(|live| match &live.primitive {
        Live::Divergence(divergence) => divergence.kind.clone(),
        other => panic!("{other:?}"),
    });
    let kinds: Vec<DivergenceKind> = live.collect();
    assert_eq!(kinds.len(), calls.len(), "each is another one");
    kinds
}

/// An entry's summand, and what is added to it with `generalized`, in double precision.
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

fn given(student: Tensor, teacher: Option<Tensor>, targets: &[i64], sizes: Option<Sizes>) -> Vocabulary {
    let others = teacher.map(|teacher| (Role::TEACHER, vec![Logits::Given(teacher)])).into_iter().collect();
    let mut vocabulary = Vocabulary::new(
        &Tensor::from_slice(targets),
        Logits::Given(student),
        others,
        Some((Student, 2.0)),
        END,
    );
    vocabulary.sizes = sizes.unwrap_or(vocabulary.sizes);
    vocabulary
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
    let value = &vocabulary.values(&[Quantity::Primitive(parameters.primitive(live).unwrap())])[0];
    assert_eq!((value.size(), value.kind()), (vec![1], Kind::Float));
    let mut gradient = Vec::new();
    let adjoint = Tensor::from_slice(&[2.0f32]);
    vocabulary.gradient(&[(parameters.primitive(live).unwrap(), adjoint)], |rows| {
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

/// The definition, of one token.
mod reference {
    use super::*;

    pub fn number(parameter: &Parameter) -> f64 {
        match parameter {
            Parameter::Number(value) => *value,
            Parameter::Formula(_) => panic!("the reference knows numbers"),
        }
    }

    pub fn support(support: &Support, of: &dyn Fn(Role) -> Vec<f64>) -> Vec<usize> {
        let order = |role| {
            let by = of(role);
            let mut order: Vec<usize> = (0..5).collect();
            order.sort_by(|a, b| by[*b].total_cmp(&by[*a]));
            (order, by)
        };
        let among = |parts: &[Support]| -> Vec<Vec<usize>> {
            parts.iter().map(|part| self::support(part, of)).collect()
        };
        match support {
            Support::Full => (0..5).collect(),
            Support::Sampled => vec![TAKEN as usize],
            Support::TopK { role, k } => order(*role).0[..(*k as usize).min(5)].to_vec(),
            Support::Nucleus { role, p } => {
                let (order, by) = order(*role);
                let mut spent = 0.0;
                order
                    .into_iter()
                    .take_while(|&entry| {
                        let before = spent;
                        spent += by[entry];
                        before < *p
                    })
                    .collect()
            }
            // Both have one vocabulary.
            Support::Matched { .. } => (0..5).collect(),
            Support::Unmatched { .. } => Vec::new(),
            Support::Union { of } => {
                (0..5).filter(|entry| among(of).iter().any(|part| part.contains(entry))).collect()
            }
            Support::Intersection { of } => {
                (0..5).filter(|entry| among(of).iter().all(|part| part.contains(entry))).collect()
            }
        }
    }

    fn summand(kind: &DivergenceKind, p: f64, q: f64, generalized: bool) -> f64 {
        let (_, reference) = KINDS.iter().find(|(known, _)| known == kind).expect("it has a reference");
        let [value, linear] = reference(p, q);
        value + if generalized { linear } else { 0.0 }
    }

    pub fn divergence(spec: &plan::Divergence, of: &dyn Fn(Role, f64) -> Vec<f64>) -> f64 {
        let side = |side: &plan::Distribution| -> Vec<f64> {
            fn side_of(side: &plan::Distribution, of: &dyn Fn(Role) -> Vec<f64>) -> Vec<f64> {
                match side {
                    plan::Distribution::Role(role) => of(*role),
                    plan::Distribution::Detached(inner) => side_of(inner, of),
                    plan::Distribution::Blend(parts) => (0..5)
                        .map(|v| parts.iter().map(|(weight, role)| number(weight) * of(*role)[v]).sum())
                        .collect(),
                }
            }
            side_of(side, &|role| of(role, spec.temperature))
        };
        let entries = support(&spec.support, &|role| of(role, 1.0));
        let kept = |full: Vec<f64>| -> (Vec<f64>, f64) {
            let on: Vec<f64> = entries.iter().map(|entry| full[*entry]).collect();
            let rest = (0..5).filter(|entry| !entries.contains(entry)).map(|entry| full[entry]).sum();
            (on, rest)
        };
        let ((mut p, p_rest), (mut q, q_rest)) = (kept(side(&spec.left)), kept(side(&spec.right)));
        let whole = entries.len() == 5;
        if spec.mass == Mass::Renormalized && !whole {
            for side in [&mut p, &mut q] {
                let total: f64 = side.iter().sum();
                side.iter_mut().for_each(|x| *x /= total);
            }
        }
        if spec.kind == DivergenceKind::SortedL1 {
            p.sort_by(|a, b| b.total_cmp(a));
            q.sort_by(|a, b| b.total_cmp(a));
        }
        if spec.mass == Mass::Tail && !whole {
            p.push(p_rest);
            q.push(q_rest);
        }
        let generalized = spec.mass == Mass::Generalized;
        let bound = spec.clip_each.unwrap_or(f64::INFINITY);
        p.iter().zip(&q).map(|(p, q)| summand(&spec.kind, *p, *q, generalized).min(bound)).sum()
    }

    /// Supports and detached sides stay where they are while the student moves.
    pub fn value_and_gradient(
        spec: &plan::Divergence,
        student: &[f64; 5],
        teacher: &[f64; 5],
    ) -> (f64, Vec<f64>) {
        let logits: Vec<f64> = student.iter().map(|p| p.ln()).collect();
        finite_differences(&logits, |moved| {
            let at = |logits: &[f64], temperature: f64| {
                softmax(&logits.iter().map(|x| x / temperature).collect::<Vec<_>>())
            };
            let teacher: Vec<f64> = teacher.iter().map(|p| p.ln()).collect();
            let of = |role, temperature| match role {
                Student => at(moved, temperature),
                Role::TEACHER => at(&teacher, temperature),
                Role::Sampler => at(&logits, 2.0 * temperature),
                Role::Scorer(_) => unreachable!("no divergence here reads it"),
            };
            divergence(spec, &of)
        })
    }

    pub fn finite_differences(logits: &[f64], value: impl Fn(&[f64]) -> f64) -> (f64, Vec<f64>) {
        let gradient = (0..logits.len()).map(|i| {
            let at = |delta: f64| {
                let mut moved = logits.to_vec();
                moved[i] += delta;
                value(&moved)
            };
            (at(1e-6) - at(-1e-6)) / 2e-6
        });
        (value(logits), gradient.collect())
    }
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

#[test]
fn published_numbers() {
    let on = |spec: plan::Divergence| of_divergence(&spec, &STUDENT, &TEACHER);
    let (reverse, gradient) = on(kl(Student, Role::TEACHER, Support::Full, Mass::Raw));
    close(&[reverse], &[0.098847], 1e-6);
    close(&gradient, &[-0.18290, 0.02504, 0.03777, 0.09949, 0.02060], 1e-5);
    let (forward, gradient) = on(kl(Role::TEACHER, Student, Support::Full, Mass::Raw));
    close(&[forward], &[0.098006], 1e-6);
    close(&gradient, &[-0.20, 0.05, 0.05, 0.08, 0.02], 1e-6);
    close(&[on(kl(Student, Role::TEACHER, TOP_2, Mass::Generalized)).0], &[0.051449], 1e-6);
    let of = |kind, left, right| plan::Divergence::between(kind, left, right, Support::Full, Mass::Raw);
    let (_, gradient) = on(of(called("tv(student, teacher)"), Student, Role::TEACHER));
    close(&gradient.iter().map(|g| 2.0 * g).collect::<Vec<_>>(), &[-0.42, 0.18, 0.12, 0.09, 0.03], 1e-6);
    let jsd = |beta, normalized| {
        let call = format!("jsd(student, teacher, beta: {beta}, normalized: {normalized})");
        on(of(called(&call), Role::TEACHER, Student)).0
    };
    close(&[jsd(0.5, false), jsd(0.001, false), jsd(0.01, false)], &[0.024269, 0.000098, 0.00097], 1e-6);
    // Continuous up to both ends, where the other one is 0.
    close(
        &[jsd(0.0, true), jsd(1e-6, true), jsd(1.0, true), jsd(1.0 - 1e-6, true)],
        &[forward, forward, reverse, reverse],
        2e-6,
    );

    let far = [0.62, 0.30, 0.05, 0.02, 0.01];
    let on = |mass| of_divergence(&kl(Role::TEACHER, Student, TOP_2, mass), &far, &TEACHER).0;
    close(&[on(Mass::Raw), on(Mass::Tail)], &[-0.153136, 0.131722], 1e-6);
}

#[test]
fn truncated_divergences_where_student_equals_teacher() {
    let at = |left, right, mass| of_divergence(&kl(left, right, TOP_2, mass), &TEACHER, &TEACHER).1;
    // A truncated divergence pulls mass into its support or pushes it out; the generalised one stands still.
    let pull = [-0.125, -0.0625, 0.1125, 0.0525, 0.0225];
    close(&at(Role::TEACHER, Student, Mass::Raw), &pull, 1e-6);
    close(&at(Student, Role::TEACHER, Mass::Raw), &pull.map(|g| -g), 1e-6);
}

/// Not almost: an optimiser that normalises gradients makes full steps of what rounding leaves.
#[test]
fn where_student_equals_teacher_there_is_no_gradient() {
    let number = Parameter::Number;
    let blend = plan::Distribution::Blend(vec![(number(0.25), Role::TEACHER), (number(0.75), Student)]);
    let blended = plan::Divergence { left: blend, ..kl(Student, Role::TEACHER, TOP_2, Mass::Tail) };
    let (value, gradient) = of_divergence(&blended, &TEACHER, &TEACHER);
    assert!(value == 0.0 && gradient.iter().all(|g| *g == 0.0), "{value} {gradient:?}");
    for kind in kinds() {
        for (left, right) in [(Student, Role::TEACHER), (Role::TEACHER, Student)] {
            for support in supports() {
                for mass in [Mass::Generalized, Mass::Tail, Mass::Renormalized] {
                    let spec = plan::Divergence::between(kind.clone(), left, right, support.clone(), mass);
                    let (value, gradient) = of_divergence(&spec, &TEACHER, &TEACHER);
                    // An author's generator need not be 0 at 1 to the last bit; this one is.
                    assert!(
                        value == 0.0 && gradient.iter().all(|g| *g == 0.0),
                        "{spec:?}: {value} {gradient:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_kind_equals_its_definition() {
    for kind in kinds() {
        for (left, right) in [(Student, Role::TEACHER), (Role::TEACHER, Student), (Student, Role::Sampler)] {
            for support in supports() {
                for mass in MASSES {
                    let spec = plan::Divergence::between(kind.clone(), left, right, support.clone(), mass);
                    assert_equals_its_definition(&spec, &DISTINCT);
                }
            }
        }
    }
}

#[test]
fn temperatures_bounds_and_blends_equal_their_definitions() {
    let number = Parameter::Number;
    let blend = |share| {
        plan::Distribution::Blend(vec![(number(share), Role::TEACHER), (number(1.0 - share), Student)])
    };
    let detached = |side| plan::Distribution::Detached(Box::new(side));
    let role = plan::Distribution::Role;
    let sides = [
        (role(Student), role(Role::TEACHER)),
        (role(Role::TEACHER), blend(0.1)),
        (blend(0.3), role(Student)),
        (role(Student), detached(role(Role::TEACHER))),
    ];
    for kind in kinds() {
        for (left, right) in &sides {
            for support in [Support::Full, TOP_2, Support::Nucleus { role: Role::TEACHER, p: 0.7 }] {
                for mass in MASSES {
                    for (temperature, clip_each) in
                        [(1.0, None), (2.5, None), (1.0, Some(0.0117)), (0.5, Some(0.0313))]
                    {
                        let spec = plan::Divergence {
                            kind: kind.clone(),
                            left: left.clone(),
                            right: right.clone(),
                            support: support.clone(),
                            mass,
                            temperature,
                            clip_each,
                        };
                        assert_equals_its_definition(&spec, &DISTINCT);
                    }
                }
            }
        }
    }
}

/// The likelier part of a blend may have no weight at all.
#[test]
fn a_blend_whose_likelier_part_has_no_weight_is_the_other_part() {
    let sharp = [1.0 - 4e-30, 1e-30, 1e-30, 1e-30, 1e-30];
    let of = |left| plan::Divergence { left, ..kl(Student, Role::TEACHER, Support::Full, Mass::Raw) };
    let number = Parameter::Number;
    let blend = plan::Distribution::Blend(vec![(number(0.0), Role::TEACHER), (number(1.0), Student)]);
    let (got, expected) = (
        of_divergence(&of(blend), &sharp, &TEACHER),
        of_divergence(&of(plan::Distribution::Role(Student)), &sharp, &TEACHER),
    );
    close(&[got.0], &[expected.0], 1e-6);
    close(&got.1, &expected.1, 1e-6);
}

/// What a detached side holds of the student is a constant: the gradient is that of a teacher with these
/// probabilities.
#[test]
fn no_gradient_flows_through_a_detached_side() {
    let number = Parameter::Number;
    let mixed: [f64; 5] = std::array::from_fn(|v| 0.9 * TEACHER[v] + 0.1 * DISTINCT[v]);
    for kind in kinds() {
        let blend = plan::Distribution::Blend(vec![(number(0.9), Role::TEACHER), (number(0.1), Student)]);
        let plain = plan::Divergence::between(kind, Student, Role::TEACHER, TOP_2, Mass::Tail);
        let detached =
            plan::Divergence { right: plan::Distribution::Detached(Box::new(blend)), ..plain.clone() };
        let (got, expected) =
            (of_divergence(&detached, &DISTINCT, &TEACHER), of_divergence(&plain, &DISTINCT, &mixed));
        close(&[got.0], &[expected.0], 1e-6);
        close(&got.1, &expected.1, 2e-6);
    }
}

#[test]
fn a_generator_of_ones_own_is_the_divergence_that_it_generates() {
    let own = called("written(student || teacher)");
    // Far beyond what the ratio of two probabilities has room for in single precision.
    let far = [1.0 - 4e-30, 1e-30, 1e-30, 1e-30, 1e-30];
    for student in [DISTINCT, far] {
        for (left, right) in [(Student, Role::TEACHER), (Role::TEACHER, Student)] {
            for mass in MASSES {
                let of = |kind| {
                    of_divergence(
                        &plan::Divergence::between(kind, left, right, TOP_2, mass),
                        &student,
                        &TEACHER,
                    )
                };
                let (got, expected) = (of(own.clone()), of(DivergenceKind::Kl));
                close(&[got.0], &[expected.0], 1e-5);
                close(&got.1, &expected.1, 1e-5);
            }
        }
    }
}

/// What is detached has the value and no gradient: `detached(log(p / q)) * p` is the KL divergence, and its
/// gradient that of the log-ratio as an advantage, which is the KL divergence's own over whole distributions;
/// on a part of them it lacks the linear term.
#[test]
fn no_gradient_flows_through_what_is_detached_in_a_summand() {
    let weighed = called("weighed(student || teacher)");
    for (support, mass) in [(Support::Full, Mass::Raw), (TOP_2, Mass::Tail), (TOP_2, Mass::Generalized)] {
        let of = |kind| {
            let spec = plan::Divergence::between(kind, Student, Role::TEACHER, support.clone(), mass);
            of_divergence(&spec, &DISTINCT, &TEACHER)
        };
        let (got, expected) = (of(weighed.clone()), of(DivergenceKind::Kl));
        close(&[got.0], &[expected.0], 1e-6);
        close(&got.1, &expected.1, 2e-6);
    }
    let raw = plan::Divergence::between(weighed.clone(), Student, Role::TEACHER, TOP_2, Mass::Raw);
    let (value, gradient) = of_divergence(&raw, &DISTINCT, &TEACHER);
    let ratio = |entry: usize| (DISTINCT[entry] / TEACHER[entry]).ln();
    let sum: f64 = (0..2).map(|entry| DISTINCT[entry] * ratio(entry)).sum();
    let expected: Vec<f64> =
        (0..5).map(|entry| DISTINCT[entry] * (if entry < 2 { ratio(entry) } else { 0.0 } - sum)).collect();
    close(&[value], &[sum], 1e-6);
    close(&gradient, &expected, 2e-6);
    // The student's side is the right one: all of the left is a constant.
    let spec = plan::Divergence::between(weighed, Role::TEACHER, Student, Support::Full, Mass::Raw);
    let (_, gradient) = of_divergence(&spec, &DISTINCT, &TEACHER);
    assert!(gradient.iter().all(|grad| grad.abs() < 1e-7), "{gradient:?}");
}

/// What is no divergence is what it says: nothing is added to it, nothing is made 0.
#[test]
fn a_score_that_is_no_divergence_is_computed_as_it_is_written() {
    let cross_entropy = called("cross_entropy(student || teacher)");
    let of = |student: &[f64; 5]| {
        let spec = plan::Divergence::between(
            cross_entropy.clone(),
            Student,
            Role::TEACHER,
            Support::Full,
            Mass::Raw,
        );
        of_divergence(&spec, student, &TEACHER)
    };
    for student in [DISTINCT, TEACHER] {
        let (value, gradient) = of(&student);
        let expected: f64 = -(0..5).map(|entry| TEACHER[entry] * student[entry].ln()).sum::<f64>();
        close(&[value], &[expected], 1e-6);
        let expected: Vec<f64> = (0..5).map(|entry| student[entry] - TEACHER[entry]).collect();
        close(&gradient, &expected, 1e-6);
    }
}

/// By what they are, not by what they are called.
#[test]
fn known_divergences_have_kernels() {
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let of = |call: &str| {
        let spec = plan::Divergence::between(called(call), Student, Role::TEACHER, Support::Full, Mass::Raw);
        let divergence = parameters.divergence(&spec).unwrap();
        let is_reversed = divergence.left.parts[0].1 == Role::TEACHER;
        match divergence.pairing {
            Pairing::Entrywise(Summand::Kl) => format!("kl {is_reversed}"),
            Pairing::Entrywise(Summand::Skew { lambda }) => format!("skew {lambda} {is_reversed}"),
            Pairing::Entrywise(Summand::Jsd { beta, normalized }) => format!("jsd {beta} {normalized}"),
            Pairing::Entrywise(Summand::Compiled(_)) => "compiled".to_owned(),
            Pairing::Sorted => "sorted".to_owned(),
        }
    };
    for (call, expected) in [
        ("kl(student || teacher)", "kl false"),
        ("written(student || teacher)", "kl false"),
        ("backwards(student || teacher)", "kl true"),
        ("skew(student || teacher, lambda: 0.1)", "skew 0.1 false"),
        ("jsd(student, teacher, beta: 0.1)", "jsd 0.1 false"),
        ("jsd(student, teacher, beta: 0.1, normalized: true)", "jsd 0.1 true"),
        ("jsd(student, teacher, beta: 0, normalized: true)", "kl false"),
        ("jsd(student, teacher, beta: linear(0 -> 1), normalized: true)", "jsd 0.3 true"),
        ("weighed(student || teacher)", "compiled"),
        ("hellinger(student, teacher)", "compiled"),
        ("sorted_l1(student, teacher)", "sorted"),
    ] {
        assert_eq!(of(call), expected, "{call}");
    }
}

#[test]
fn a_support_of_the_whole_vocabulary_has_no_tail() {
    let top = |k| Support::TopK { role: Role::TEACHER, k };
    let everything = Support::Union { of: vec![top(3), Support::Nucleus { role: Student, p: 1.0 }] };
    for support in [top(5), top(64), everything] {
        for mass in [Mass::Renormalized, Mass::Tail, Mass::Generalized, Mass::Raw] {
            let (value, gradient) =
                of_divergence(&kl(Student, Role::TEACHER, support.clone(), mass), &STUDENT, &TEACHER);
            close(&[value], &[0.098847], 1e-6);
            close(&gradient, &[-0.18290, 0.02504, 0.03777, 0.09949, 0.02060], 1e-5);
        }
    }
}

#[test]
fn a_tail_of_almost_nothing_stays_finite() {
    let sharp = [1.0 - 4e-30, 1e-30, 1e-30, 1e-30, 1e-30];
    let (value, gradient) = of_divergence(
        &kl(Student, Role::TEACHER, Support::TopK { role: Role::TEACHER, k: 1 }, Mass::Tail),
        &sharp,
        &TEACHER,
    );
    close(&[value], &[2.0f64.ln()], 1e-6);
    assert!(gradient.iter().all(|g| g.is_finite()));
}

#[test]
fn an_empty_support_compares_nothing() {
    let top = |role, k| Support::TopK { role, k };
    let none = Support::Intersection { of: vec![top(Role::TEACHER, 1), Support::Sampled] };
    for mass in MASSES {
        for kind in kinds() {
            let spec = plan::Divergence::between(kind, Student, Role::TEACHER, none.clone(), mass);
            let (value, gradient) = of_divergence(&spec, &STUDENT, &TEACHER);
            close(&[value], &[0.0], 1e-6);
            close(&gradient, &[0.0; 5], 1e-6);
        }
    }
}

#[test]
fn losses_that_are_no_divergence() {
    let logits: Vec<f64> = DISTINCT.iter().map(|p| p.ln()).collect();
    let check = |live: Live, value: &dyn Fn(&[f64]) -> f64| {
        let (got, expected) = (
            value_and_gradient(&live, &DISTINCT, &TEACHER),
            reference::finite_differences(&logits, |moved| value(&softmax(moved))),
        );
        close(&[got.0], &[expected.0], 1e-6);
        close(&got.1, &expected.1, 2e-6);
    };
    check(Live::Logp, &|p| p[TAKEN as usize].ln());
    check(Live::Likelihood { of: Role::TEACHER }, &|p| -p[0].ln());
    // The teacher's order is that of the vocabulary.
    let ranking =
        |p: &[f64], k: usize| (0..k).map(|i| p[i..k].iter().sum::<f64>().ln() - p[i].ln()).sum::<f64>();
    check(Live::Ranking { role: Role::TEACHER, k: 3 }, &|p| ranking(p, 3));
    check(Live::Ranking { role: Role::TEACHER, k: 9 }, &|p| ranking(p, 5));
}

#[test]
fn signals() {
    let batch = batch(2);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    // Another order of the same numbers, so that the two share two of their three most probable tokens.
    let turned = [0.03, 0.50, 0.25, 0.15, 0.07];
    let vocabulary = given(rows(&[turned, [0.2; 5]]), Some(rows(&[TEACHER, TEACHER])), &[TAKEN, 0], None);
    let values = |signal: Signal| {
        let quantity = parameters.quantity(&signal).unwrap().expect("it comes from distributions");
        to_vec(&vocabulary.values(&[quantity])[0]).into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let entropy = -TEACHER.iter().map(|p| p * p.ln()).sum::<f64>();
    close(&values(Signal::Logp { role: Role::TEACHER }), &[0.15f64.ln(), 0.5f64.ln()], 1e-6);
    close(&values(Signal::Entropy { role: Student }), &[entropy, 5.0f64.ln()], 1e-6);
    close(&values(Signal::Top1 { role: Student }), &[0.5, 0.2], 1e-6);
    close(&values(Signal::Rank { role: Role::TEACHER }), &[3.0, 1.0], 0.0 + 1e-9);
    close(&values(Signal::Overlap { left: Student, right: Role::TEACHER, k: 3 })[..1], &[2.0 / 3.0], 1e-6);
    close(&values(Signal::Overlap { left: Student, right: Role::TEACHER, k: 9 }), &[1.0, 1.0], 1e-6);
    close(&values(Signal::Mass { role: Student, support: TOP_2 }), &[0.53, 0.4], 1e-6);
    close(&values(Signal::Mass { role: Student, support: Support::Full }), &[1.0, 1.0], 1e-6);
    close(&values(Signal::InNucleus { role: Role::TEACHER, p: 0.74 }), &[0.0, 1.0], 1e-9);
    close(&values(Signal::InNucleus { role: Role::TEACHER, p: 0.76 }), &[1.0, 1.0], 1e-9);
    let nucleus = |role, p| Support::Nucleus { role, p };
    close(&values(Signal::SupportSize { support: nucleus(Role::TEACHER, 0.76) }), &[3.0, 3.0], 1e-9);
    // Equals go in together.
    close(&values(Signal::SupportSize { support: nucleus(Student, 0.3) }), &[1.0, 5.0], 1e-9);
    close(&values(Signal::SupportSize { support: TOP_2 }), &[2.0, 2.0], 1e-9);
    let sampler = Signal::Divergence(kl(Student, Role::Sampler, Support::Full, Mass::Raw));
    assert!(values(sampler)[0] > 1e-3);
    assert!(parameters.quantity(&Signal::Reward).unwrap().is_none());
}

#[test]
fn parameters_move_with_the_run_and_with_the_token() {
    let at_this_step = Schedule::Linear { from: 0.1, to: 0.9, over: Over::Run }.at(3, 10);
    let of = |call: &str| {
        let kind = called(call);
        of_divergence(
            &plan::Divergence::between(kind, Student, Role::TEACHER, TOP_2, Mass::Raw),
            &DISTINCT,
            &TEACHER,
        )
    };
    for call in ["skew(student || teacher, lambda: SHARE)", "alpha(student || teacher, alpha: SHARE)"] {
        let moving = of(&call.replace("SHARE", "linear(0.1 -> 0.9)"));
        assert_eq!(moving, of(&call.replace("SHARE", &at_this_step.to_string())));
    }

    // The share of each token is the reward of its sequence.
    let mut graph = Graph::default();
    let value = graph.signal(Signal::Reward);
    let share = Parameter::Formula(Box::new(Formula { graph, value }));
    let blended = |share: Parameter, rest: Parameter| plan::Divergence {
        right: plan::Distribution::Blend(vec![(share, Role::TEACHER), (rest, Student)]),
        ..kl(Role::TEACHER, Student, Support::Full, Mass::Raw)
    };
    let spec = blended(share, Parameter::Number(0.25));
    assert_eq!(spec.signals(), [Signal::Reward]);
    let layout = Layout {
        sequence_of_token: vec![0, 1, 1],
        group_of_sequence: vec![0, 0],
        groups: 1,
        ..Layout::default()
    };
    let batch = Batch { layout, signals: vec![(Signal::Reward, vec![0.5, 0.75])], ..Batch::default() };
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let quantity = Quantity::Primitive(Primitive::Divergence(parameters.divergence(&spec).unwrap()));
    let vocabulary = given(
        rows(&[DISTINCT; 3]),
        Some(rows(&[TEACHER; 3])),
        &[TAKEN; 3],
        Some(Sizes { chunk: 5, block: 10, kept: 0 }),
    );
    let got: Vec<f64> = to_vec(&vocabulary.values(&[quantity])[0]).into_iter().map(f64::from).collect();
    let expected = [0.5, 0.75, 0.75].map(|share| {
        of_divergence(&blended(Parameter::Number(share), Parameter::Number(0.25)), &DISTINCT, &TEACHER).0
    });
    close(&got, &expected, 1e-6);
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

/// Values and gradients by libtorch's own differentiation, over whole tensors.
fn plain(spec: &plan::Divergence, student: &Tensor, teacher: &Tensor, adjoint: &Tensor) -> (Tensor, Tensor) {
    let student = student.detach().set_requires_grad(true);
    let (p, q) = (student.log_softmax(-1, Kind::Float), teacher.log_softmax(-1, Kind::Float));
    let (l, r) = if spec.left == plan::Distribution::Role(Student) { (p, q) } else { (q, p) };
    let summands = match &spec.kind {
        DivergenceKind::Entrywise(_) => {
            let beta: f64 = 0.3;
            let m = (&l + beta.ln()).logaddexp(&(&r + (1.0 - beta).ln()));
            l.exp() * (&l - &m) * beta + r.exp() * (&r - &m) * (1.0 - beta)
        }
        _ => l.exp() * (&l - &r),
    };
    let values = summands.sum_dim_intlist([-1].as_slice(), false, Kind::Float);
    let [gradient] = Tensor::run_backward(&[(&values * adjoint).sum(Kind::Float)], &[&student], false, false)
        .try_into()
        .unwrap();
    (values.detach(), gradient)
}

fn chunked(
    spec: &plan::Divergence,
    student: &Tensor,
    teacher: &Tensor,
    adjoint: &Tensor,
    sizes: Option<Sizes>,
) -> (Tensor, Tensor) {
    let tokens = student.size()[0] as usize;
    let batch = batch(tokens);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let primitive = || Primitive::Divergence(parameters.divergence(spec).unwrap());
    let vocabulary = given(student.copy(), Some(teacher.shallow_clone()), &vec![0; tokens], sizes);
    let [_, mut values] = vocabulary.read(&[], &[primitive()]);
    let values = values.swap_remove(0);
    let mut blocks = Vec::new();
    vocabulary.gradient(&[(primitive(), adjoint.shallow_clone())], |rows| {
        let (first, rows) = rows.whole();
        assert_eq!(first, blocks.iter().map(|block: &Tensor| block.size()[0]).sum::<i64>());
        blocks.push(rows.copy());
    });
    (values, Tensor::cat(&blocks, 0))
}

#[test]
fn chunks_that_do_not_divide_the_tokens_equal_the_whole_and_the_plain_version() {
    let (tokens, vocabulary) = (37, 1003);
    let (student, teacher) = (logits(tokens, vocabulary, 1.0), logits(tokens, vocabulary, 2.0));
    let adjoint = Tensor::linspace(-1.0, 2.0, tokens, (Kind::Float, Device::Cpu));
    for kind in [DivergenceKind::Kl, called("jsd(student, teacher, beta: 0.3)")] {
        for (left, right) in [(Student, Role::TEACHER), (Role::TEACHER, Student)] {
            let spec = plan::Divergence::between(kind.clone(), left, right, Support::Full, Mass::Raw);
            let whole = chunked(&spec, &student, &teacher, &adjoint, None);
            let plain = plain(&spec, &student, &teacher, &adjoint);
            assert!(
                largest_difference(&whole.0, &plain.0) < 5e-6,
                "{}",
                largest_difference(&whole.0, &plain.0)
            );
            assert!(
                largest_difference(&whole.1, &plain.1) < 1e-6,
                "{}",
                largest_difference(&whole.1, &plain.1)
            );
            for (chunk, block) in [(1, 1), (1, 8), (5, 8), (8, 16), (5, 100), (36, 37)] {
                let sizes = Sizes { chunk: chunk * vocabulary, block: block * vocabulary + 1, kept: 0 };
                let parts = chunked(&spec, &student, &teacher, &adjoint, Some(sizes));
                assert_eq!(parts.0, whole.0, "{chunk} {block}");
                assert_eq!(parts.1, whole.1, "{chunk} {block}");
            }
        }
    }
}

/// From hidden states, with two teachers: gradients of hidden states and of the LM head.
#[test]
fn projected_logits_give_the_gradients_of_the_plain_version() {
    let (tokens, width, vocabulary) = (23, 8, 57);
    let (hidden, matrix) = (logits(tokens, width, 0.5) * 0.2, logits(vocabulary, width, 3.0) * 0.2);
    let teacher =
        |tokens, seed| (logits(tokens, width, seed) * 0.2, logits(vocabulary, width, seed + 1.0) * 0.2);
    let teacher = [teacher(9, 7.0), teacher(14, 9.0)];
    let spec = kl(Student, Role::TEACHER, Support::Full, Mass::Raw);
    let adjoint = Tensor::linspace(0.5, 2.0, tokens, (Kind::Float, Device::Cpu));

    let leaves = [&hidden, &matrix].map(|leaf| leaf.detach().set_requires_grad(true));
    let student = leaves[0].matmul(&leaves[1].tr());
    let teachers = teacher.each_ref().map(|(hidden, matrix)| hidden.matmul(&matrix.tr()));
    let (p, q) =
        (student.log_softmax(-1, Kind::Float), Tensor::cat(&teachers, 0).log_softmax(-1, Kind::Float));
    let values = (p.exp() * (&p - &q)).sum_dim_intlist([-1].as_slice(), false, Kind::Float);
    let expected = Tensor::run_backward(&[(&values * &adjoint).sum(Kind::Float)], &leaves, false, false);

    let batch = batch(tokens as usize);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let primitive = || Primitive::Divergence(parameters.divergence(&spec).unwrap());
    for (block, kept) in [(4, 0), (4, 1 << 20), (100, 0), (7, 14)] {
        let teacher = teacher.iter().map(|(hidden, matrix)| Logits::projected(hidden, matrix)).collect();
        let targets = Tensor::zeros([tokens], (Kind::Int64, Device::Cpu));
        let mut pass = Vocabulary::new(
            &targets,
            Logits::projected(&hidden, &matrix),
            vec![(Role::TEACHER, teacher)],
            None,
            0,
        );
        pass.sizes =
            Sizes { chunk: 3 * vocabulary, block: block * vocabulary, kept: kept * 4 * vocabulary as usize };
        let [_, mut got] = pass.read(&[], &[primitive()]);
        let got = got.swap_remove(0);
        assert!(largest_difference(&got, &values) < 5e-6, "{block}: {}", largest_difference(&got, &values));
        let live = [(primitive(), adjoint.shallow_clone())];
        let (grad_hidden, grad_lm_head) = pass.projected_gradient(&live, &hidden, &matrix);
        let grad_lm_head = grad_lm_head.rows(0..vocabulary);
        assert!(largest_difference(&grad_hidden, &expected[0]) < 5e-6);
        assert!(largest_difference(&grad_lm_head, &expected[1]) < 2e-5);
    }
}

/// Gradients that were kept and gradients that are made again: of one primitive and of two, where some tokens
/// have no share, one of them with a gradient that is infinite.
#[test]
fn what_is_kept_between_the_passes_changes_no_gradient() {
    let (tokens, width, vocabulary) = (13, 8, 57);
    let divergence = plan::Divergence::between(
        called("chi2(student || teacher)"),
        Student,
        Role::TEACHER,
        Support::Full,
        Mass::Raw,
    );
    let batch = batch(tokens as usize);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let adjoints = [[0.0, 1.5, -0.5], [2.0, 0.0, 0.25]].map(|three: [f32; 3]| {
        let values: Vec<f32> =
            (0..tokens).map(|token| if token == 5 { 0.0 } else { three[token as usize % 3] }).collect();
        Tensor::from_slice(&values)
    });
    for (kind, near) in [(Kind::Float, 1e-6), (Kind::BFloat16, 2e-2)] {
        let [hidden, of_teacher] = [0.5, 7.0].map(|seed| logits(tokens, width, seed) * 0.2);
        // The teacher is certain of one entry of the sixth token.
        let _ = of_teacher.narrow(0, 5, 1).g_mul_scalar_(1e4);
        let [hidden, of_teacher] = [hidden, of_teacher].map(|hidden| hidden.to_kind(kind));
        let matrix = (logits(vocabulary, width, 3.0) * 0.2).to_kind(kind);
        for count in [1, 2] {
            let gradients = |kept: usize| {
                let teacher = vec![(Role::TEACHER, vec![Logits::projected(&of_teacher, &matrix)])];
                let targets = Tensor::zeros([tokens], (Kind::Int64, Device::Cpu));
                let mut pass =
                    Vocabulary::new(&targets, Logits::projected(&hidden, &matrix), teacher, None, 0);
                pass.sizes = Sizes { chunk: 3 * vocabulary, block: 4 * vocabulary, kept };
                let live = || {
                    let divergence = Primitive::Divergence(parameters.divergence(&divergence).unwrap());
                    [divergence, Primitive::Logp].into_iter().take(count).collect::<Vec<Primitive>>()
                };
                pass.read(&[], &live());
                assert_eq!(pass.kept.borrow().len(), if kept == 0 { 0 } else { 4 });
                let live: Vec<_> =
                    live().into_iter().zip(adjoints.iter().map(Tensor::shallow_clone)).collect();
                let (grad_hidden, grad_lm_head) = pass.projected_gradient(&live, &hidden, &matrix);
                [grad_hidden, grad_lm_head.rows(0..vocabulary)].map(|gradient| gradient.to_kind(Kind::Double))
            };
            for (kept, again) in gradients(1 << 20).iter().zip(&gradients(0)) {
                let relative = ((kept - again).norm() / again.norm()).double_value(&[]);
                assert!(relative < near, "{kind:?} {count}: {relative:e}");
            }
        }
    }
}

#[test]
fn logits_in_half_precision_are_computed_with_in_single() {
    let (student, teacher) =
        (logits(6, 301, 1.0).to_kind(Kind::BFloat16), logits(6, 301, 1.01).to_kind(Kind::BFloat16));
    let adjoint = Tensor::ones([6], (Kind::Float, Device::Cpu));
    for temperature in [1.0, 3.0] {
        for kind in [DivergenceKind::Kl, called("jsd(student, teacher, beta: 0.5)")] {
            let spec = plan::Divergence {
                temperature,
                ..plan::Divergence::between(kind, Student, Role::TEACHER, Support::Full, Mass::Raw)
            };
            let half = chunked(&spec, &student, &teacher, &adjoint, None);
            let single =
                chunked(&spec, &student.to_kind(Kind::Float), &teacher.to_kind(Kind::Float), &adjoint, None);
            assert_eq!(half.0, single.0);
            assert_eq!((half.1.kind(), &half.1), (Kind::BFloat16, &single.1.to_kind(Kind::BFloat16)));
            assert!(half.0.min().double_value(&[]) > 0.0);
        }
    }
}

/// A token that is not selected costs nothing, and its infinities stay where they are.
#[test]
fn no_gradient_comes_from_a_token_without_a_share() {
    let teacher = rows(&[TEACHER, TEACHER]);
    let _ = teacher.get(1).fill_(f64::NAN);
    let adjoint = Tensor::from_slice(&[1.0f32, 0.0]);
    let spec = kl(Student, Role::TEACHER, Support::Full, Mass::Raw);
    let sizes = Some(Sizes { chunk: 5, block: 10, kept: 0 });
    let (values, gradient) = chunked(&spec, &rows(&[STUDENT, STUDENT]), &teacher, &adjoint, sizes);
    assert!(values.get(1).isnan().int64_value(&[]) == 1);
    close(
        &to_vec(&gradient.get(0)).into_iter().map(f64::from).collect::<Vec<_>>(),
        &[-0.18290, 0.02504, 0.03777, 0.09949, 0.02060],
        1e-5,
    );
    assert_eq!(to_vec(&gradient.get(1)), [0.0; 5]);
}

/// However many models' tokens are in a block, one matrix at a time is in memory.
#[test]
fn a_matrix_leaves_behind_its_last_token() {
    let rows = |from: i64, tokens: i64| {
        (Tensor::arange(tokens * 3, (Kind::Float, Device::Cpu)) + from).view([tokens, 3])
    };
    let matrices: Vec<Fetched> = (0..4).map(|seed| Fetched::new(move || rows(seed, 5), None)).collect();
    let parts: Vec<Logits> = matrices
        .iter()
        .map(|matrix| Logits::Projected {
            hidden: rows(7, 2),
            matrix: Matrix::Fetched(matrix.clone()),
            softcap: None,
        })
        .collect();
    let held = || matrices.iter().map(|matrix| matrix.held.borrow().is_some()).collect::<Vec<bool>>();
    let whole = rows_of(&parts, 0, 8, None);
    assert_eq!(held(), [false; 4]);
    // The second model's other token comes with the next block.
    let first = rows_of(&parts, 0, 3, None);
    assert_eq!(held(), [false, true, false, false]);
    let second = rows_of(&parts, 3, 5, None);
    assert_eq!(held(), [false; 4]);
    assert_eq!(to_vec(&Tensor::cat(&[first, second], 0)), to_vec(&whole));
    for (part, matrix) in matrices.iter().enumerate() {
        let expected = rows(7, 2).linear::<&Tensor>(&matrix.get(), None);
        assert_eq!(to_vec(&whole.narrow(0, 2 * part as i64, 2)), to_vec(&expected));
    }
}

/// A policy at a temperature: log-probabilities of the token taken are at it, and so is what the sampler is
/// compared with; entropies and divergences of models are not. Against the definition in double precision;
/// the order of the primitives is nobody's business.
#[test]
fn log_probabilities_are_at_the_temperature_of_the_policy() {
    const POLICY: f64 = 0.6;
    /// The token that ends a completion here.
    const LAST: Token = 4;
    let logits = DISTINCT.map(f64::ln);
    let at = |logits: &[f64], temperature: f64| {
        softmax(&logits.iter().map(|x| x / temperature).collect::<Vec<f64>>())
    };
    let teacher = TEACHER.map(f64::ln);
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    // The sampler drew at 0.6 from the student's own logits, as at the first step on fresh completions.
    let vocabulary = || {
        let others = vec![(Role::TEACHER, vec![Logits::Given(rows(&[TEACHER]))])];
        let student = Logits::Given(rows(&[DISTINCT]));
        Vocabulary::new(&Tensor::from_slice(&[TAKEN]), student, others, Some((Student, POLICY)), LAST)
            .at(POLICY)
    };
    let value = |signal: &Signal| {
        f64::from(to_vec(&vocabulary().values(&[parameters.quantity(signal).unwrap().unwrap()])[0])[0])
    };
    let taken = TAKEN as usize;
    for (role, logits) in [(Student, logits), (Role::TEACHER, teacher), (Role::Sampler, logits)] {
        assert!((value(&Signal::Logp { role }) - at(&logits, POLICY)[taken].ln()).abs() < 1e-6, "{role:?}");
        assert!(
            (value(&Signal::EndLogp { role }) - at(&logits, POLICY)[LAST as usize].ln()).abs() < 1e-6,
            "{role:?}"
        );
    }
    let entropy = |p: &[f64]| -p.iter().map(|p| p * p.ln()).sum::<f64>();
    assert!((value(&Signal::Entropy { role: Student }) - entropy(&DISTINCT)).abs() < 1e-6);
    let full = |left, right| kl(left, right, Support::Full, Mass::Raw);
    assert!(
        value(&Signal::Divergence(full(Student, Role::Sampler))).abs() < 1e-7,
        "fresh completions: nothing has moved"
    );
    let between = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
    let with_teacher = between(&at(&teacher, POLICY), &at(&logits, POLICY));
    assert!((value(&Signal::Divergence(full(Role::TEACHER, Role::Sampler))) - with_teacher).abs() < 1e-6);
    assert!(
        (value(&Signal::Divergence(full(Student, Role::TEACHER))) - between(&DISTINCT, &TEACHER)).abs()
            < 1e-6
    );

    // 2 log p(taken) at 0.6, plus 3 KL(student || teacher) at 1, plus 5 KL(sampler || student): of a sampler
    // that has been left behind.
    let loss = |moved: &[f64]| {
        2.0 * at(moved, POLICY)[taken].ln()
            + 3.0 * between(&at(moved, 1.0), &at(&teacher, 1.0))
            + 5.0 * between(&at(&teacher, POLICY), &at(moved, POLICY))
    };
    let (_, expected) = reference::finite_differences(&logits, loss);
    let exact = Live::Divergence(full(Student, Role::TEACHER));
    let left_behind = Live::Divergence(full(Role::Sampler, Student));
    let live = [(Live::Logp, 2.0f32), (exact, 3.0), (left_behind, 5.0)];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut vocabulary = vocabulary();
        vocabulary.others.push((Role::Sampler, vec![Logits::Given(rows(&[TEACHER]))]));
        vocabulary.sampler = Some((Role::Sampler, POLICY));
        let live: Vec<_> = order
            .iter()
            .map(|index| {
                (parameters.primitive(&live[*index].0).unwrap(), Tensor::from_slice(&[live[*index].1]))
            })
            .collect();
        let mut gradient = Vec::new();
        vocabulary.gradient(&live, |rows| gradient = to_vec(&rows.whole().1));
        let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
        close(&gradient, &expected, 1e-5);
    }
}

/// Ids that no token has, in the middle of the vocabulary: all is as in a vocabulary without them, whatever
/// their logits would be.
#[test]
fn ids_without_a_token_have_no_probability() {
    let (tokens, width, entries) = (6, 8, 23);
    let absent: [Token; 3] = [0, 9, 10];
    let there: Vec<i64> = (0..entries).filter(|id| !absent.contains(id)).collect();
    let compact = |tensor: &Tensor| tensor.index_select(0, &Tensor::from_slice(&there));
    let [hidden, of_teacher] = [0.5, 7.0].map(|seed| logits(tokens, width, seed) * 0.4);
    let matrix = logits(entries, width, 3.0) * 0.4;
    let _ = matrix.narrow(0, 9, 2).g_mul_scalar_(10.0);
    let batch = batch(tokens as usize);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let adjoint = Tensor::from_slice(&(0..tokens).map(|token| 0.5 + token as f32).collect::<Vec<f32>>());
    for (kind, temperature) in kinds().into_iter().flat_map(|kind| [(kind.clone(), 1.0), (kind, 3.0)]) {
        let mut spec = plan::Divergence::between(kind, Student, Role::TEACHER, Support::Full, Mass::Raw);
        spec.temperature = temperature;
        let read = |matrix: &Tensor, absent: &[Token], target: i64| {
            let teacher = vec![(Role::TEACHER, vec![Logits::projected(&of_teacher, matrix)])];
            let targets = Tensor::full([tokens], target, (Kind::Int64, Device::Cpu));
            let pass = Vocabulary::new(&targets, Logits::projected(&hidden, matrix), teacher, None, 0)
                .without(absent);
            let live = || [Primitive::Divergence(parameters.divergence(&spec).unwrap()), Primitive::Logp];
            let [signals, values] =
                pass.read(&[Quantity::Entropy(Student), Quantity::Logp(Role::TEACHER)], &live());
            let live: Vec<_> = live().into_iter().map(|live| (live, adjoint.shallow_clone())).collect();
            let (grad_hidden, grad_lm_head) = pass.projected_gradient(&live, &hidden, matrix);
            let grad_lm_head = grad_lm_head.rows(0..matrix.size()[0]);
            (signals.into_iter().chain(values).chain([grad_hidden]).collect::<Vec<Tensor>>(), grad_lm_head)
        };
        let (got, grad_lm_head) = read(&matrix, &absent, there[5]);
        let (expected, of_tokens) = read(&compact(&matrix), &[], 5);
        for (got, expected) in got.iter().zip(&expected).chain([(&compact(&grad_lm_head), &of_tokens)]) {
            let size = expected.abs().max().double_value(&[]).max(1.0);
            assert!(
                largest_difference(got, expected) < 1e-4 * size,
                "{:?}: {}",
                spec.kind,
                largest_difference(got, expected) / size
            );
        }
        assert_eq!(
            grad_lm_head.index_select(0, &Tensor::from_slice(&absent)).abs().max().double_value(&[]),
            0.0
        );
    }
}

/// Most logits of models in bf16 have equals: which of them belong is no accident.
#[test]
fn of_equals_the_lower_id_comes_first() {
    use super::support::largest;
    let reference = |row: &[f32], k: usize| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        order[..k.min(row.len())].iter().map(|id| *id as i64).collect::<Vec<i64>>()
    };
    let mut random = 12345u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for (entries, values) in [(1, 1), (5, 1), (7, 2), (50, 3), (1000, 4), (1000, 1000)] {
        // Large and small, and masked entries, which are as small as can be.
        let row = |next: &mut dyn FnMut(u64) -> u64| -> Vec<f32> {
            (0..entries)
                .map(|_| match next(values + 1) {
                    0 => f32::NEG_INFINITY,
                    value => value as f32 / 2.0 - 3.0,
                })
                .collect()
        };
        let rows: Vec<Vec<f32>> = (0..8).map(|_| row(&mut next)).collect();
        let tensor = Tensor::from_slice(&rows.concat()).view([8, entries]);
        for k in [1, 2, 3, entries - 1, entries, entries + 5].into_iter().filter(|k| *k > 0) {
            let got = largest(&tensor, k);
            let wanted: Vec<i64> = rows.iter().flat_map(|row| reference(row, k as usize)).collect();
            assert_eq!(
                Vec::<i64>::try_from(got.contiguous().view([-1])).unwrap(),
                wanted,
                "{entries} entries, {values} values, k = {k}"
            );
        }
    }
    // What is no number is seen, not left out.
    let odd = Tensor::from_slice(&[1.0f32, 2.0, f32::NAN, 1.0, 1.0]).view([1, 5]);
    assert_eq!(Vec::<i64>::try_from(largest(&odd, 3).view([-1])).unwrap(), [2, 1, 0]);
}

#[test]
fn supports_of_equals() {
    const EQUAL: [f64; 5] = [0.1, 0.3, 0.1, 0.3, 0.2];
    let vocabulary = given(rows(&[EQUAL]), Some(rows(&[[0.2; 5]])), &[TAKEN], None);
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let value = |signal: Signal| {
        let quantity = parameters.quantity(&signal).unwrap().expect("it comes from distributions");
        to_vec(&vocabulary.values(&[quantity])[0]).into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let top = |role, k| Support::TopK { role, k };
    // Of the teacher's five equals the first two; of the student's, 1 and 3, then 4, then 0.
    close(&value(Signal::Mass { role: Student, support: top(Role::TEACHER, 2) }), &[0.4], 1e-6);
    close(&value(Signal::Mass { role: Student, support: top(Student, 1) }), &[0.3], 1e-6);
    close(&value(Signal::Mass { role: Role::TEACHER, support: top(Student, 4) }), &[0.8], 1e-6);
    close(&value(Signal::Overlap { left: Role::TEACHER, right: Student, k: 2 }), &[0.5], 1e-6);
    // Nuclei have no order: equals go in together. Nor do ranks: equals have the best of theirs.
    close(&value(Signal::SupportSize { support: Support::Nucleus { role: Student, p: 0.25 } }), &[2.0], 1e-9);
    close(&value(Signal::Rank { role: Student }), &[4.0], 1e-9);
    close(&value(Signal::Top1 { role: Student }), &[0.3], 1e-6);
}
