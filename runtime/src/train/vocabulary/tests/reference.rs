//! The definitions of divergences, for one token.

use super::*;

pub fn number(parameter: &DivergenceParameter) -> f64 {
    match parameter {
        DivergenceParameter::Number(value) => *value,
        DivergenceParameter::Formula(_) => panic!("the reference knows numbers"),
    }
}

pub fn support(support: &Support, of: &dyn Fn(Role) -> Vec<f64>) -> Vec<usize> {
    let order = |role| {
        let by = of(role);
        let mut order: Vec<usize> = (0..5).collect();
        order.sort_by(|a, b| by[*b].total_cmp(&by[*a]));
        (order, by)
    };
    let among =
        |parts: &[Support]| -> Vec<Vec<usize>> { parts.iter().map(|part| self::support(part, of)).collect() };
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
        // Both have the same vocabulary.
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
        let temperature = spec.temperature.constant().expect("a number");
        side_of(side, &|role| of(role, temperature))
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

/// The value and the gradient by finite differences, in which supports and detached sides stay fixed.
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
            Role::Old | Role::Scorer(_) => unreachable!("no divergence here reads it"),
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
