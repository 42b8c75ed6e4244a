//! Divergences between next-token distributions, per token. With a live student they are differentiated by libtorch, exactly
//! over the support; every other distribution is a constant.

use mopd_compiler::plan::{Divergence, DivergenceKind, Mass, Role, Support};
use tch::{Kind, Tensor};

/// The divergence at each row. `distribution` gives a role's log-probabilities, `[tokens, vocabulary]`; whether gradient
/// flows is up to that tensor. The result is `[tokens]`, in nats (total variation: a probability).
///
/// The support is chosen on detached values: it is not differentiated through. Where it is the whole vocabulary, nothing is
/// outside it and all kinds of mass agree.
pub fn divergence(divergence: &Divergence, distribution: impl Fn(Role) -> Tensor) -> Tensor {
    let left = distribution(divergence.left);
    let right = distribution(divergence.right);
    let vocabulary = left.size()[1];
    let (left, right, mass) = match divergence.support {
        Support::TopK { role, k } if i64::from(k) < vocabulary => {
            let (_, support) = distribution(role).detach().topk(i64::from(k), -1, true, false);
            let on_support = |full: &Tensor| {
                let part = full.gather(-1, &support, false);
                match divergence.mass {
                    Mass::Renormalized => &part - part.logsumexp([-1], true),
                    Mass::Tail => Tensor::cat(&[part, outside(full, &support)], -1),
                    Mass::Generalized | Mass::Raw => part,
                }
            };
            (on_support(&left), on_support(&right), divergence.mass)
        }
        // The extra terms sum to zero here, but they make the gradient exactly zero where left = right; without them rounding
        // leaves a little, which AdamW would blow up to full steps.
        _ => (left, right, Mass::Generalized),
    };
    match divergence.kind {
        DivergenceKind::Kl => {
            let (p, q) = (left.exp(), right.exp());
            let summands = &p * (&left - &right);
            // f-divergences between unnormalised measures need `- p + q`; over all entries the extra terms cancel
            // (arXiv:2606.30406, eq. 5).
            sum(&if mass == Mass::Generalized { summands - p + q } else { summands })
        }
        DivergenceKind::Jsd { beta } => {
            let mixture = (&left + beta.ln()).logaddexp(&(&right + (1.0 - beta).ln()));
            // The generalised terms of both halves, beta * (m - p) + (1 - beta) * (m - q), sum to zero.
            sum(&(left.exp() * (&left - &mixture))) * beta + sum(&(right.exp() * (&right - &mixture))) * (1.0 - beta)
        }
        // Stationary at equality on any support: there is nothing to add to the generalised form.
        DivergenceKind::TotalVariation => sum(&(left.exp() - right.exp()).abs()) * 0.5,
    }
}

/// Log of the probability outside the support, `[tokens, 1]`. Summed over the complement rather than taken from 1, where
/// all digits would cancel.
fn outside(full: &Tensor, support: &Tensor) -> Tensor {
    full.scatter_value(-1, support, f64::NEG_INFINITY).logsumexp([-1], true)
}

fn sum(summands: &Tensor) -> Tensor {
    summands.sum_dim_intlist(-1, false, Kind::Float)
}

/// Entropy of each row of log-probabilities, in nats.
pub fn entropy(logps: &Tensor) -> Tensor {
    -sum(&(logps.exp() * logps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Student, Teacher};

    /// A reference case that several trainers were compared on: five tokens, a support of two.
    const TEACHER: [f64; 5] = [0.50, 0.25, 0.15, 0.07, 0.03];
    const STUDENT: [f64; 5] = [0.30, 0.30, 0.20, 0.15, 0.05];
    const TOP_2: Support = Support::TopK { role: Teacher, k: 2 };

    fn spec(kind: DivergenceKind, left: Role, right: Role, support: Support, mass: Mass) -> Divergence {
        Divergence { kind, left, right, support, mass }
    }

    /// Value, and gradient with respect to the student's logits.
    fn value_and_gradient(spec: &Divergence, student: &[f64; 5], teacher: &[f64; 5]) -> (f64, Vec<f64>) {
        let row = |p: &[f64; 5]| Tensor::from_slice(&p.map(|p| p.ln() as f32)).view([1, 5]);
        let logits = row(student).set_requires_grad(true);
        let live = logits.log_softmax(-1, Kind::Float);
        let constant = row(teacher).log_softmax(-1, Kind::Float);
        let value = divergence(spec, |role| if role == Student { live.shallow_clone() } else { constant.shallow_clone() });
        assert_eq!(value.size(), [1]);
        let gradient = Tensor::run_backward(&[value.sum(Kind::Float)], &[&logits], false, false);
        (value.double_value(&[0]), gradient[0].iter_f64())
    }

    trait IterF64 {
        fn iter_f64(&self) -> Vec<f64>;
    }

    impl IterF64 for Tensor {
        fn iter_f64(&self) -> Vec<f64> {
            crate::model::to_vec(self).into_iter().map(f64::from).collect()
        }
    }

    /// The same from the definition, in f64, with probabilities instead of logs and finite differences.
    fn reference(spec: &Divergence, student: &[f64; 5], teacher: &[f64; 5]) -> (f64, Vec<f64>) {
        let softmax = |logits: &[f64]| {
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            logits.iter().map(|x| x.exp() / total).collect::<Vec<f64>>()
        };
        let value = |logits: &[f64]| {
            let student = softmax(logits);
            let pick = |role| if role == Student { student.clone() } else { teacher.to_vec() };
            let (mut p, mut q) = (pick(spec.left), pick(spec.right));
            let mut generalized = false;
            if let Support::TopK { role, k } = spec.support {
                let by = pick(role);
                let mut order: Vec<usize> = (0..5).collect();
                order.sort_by(|a, b| by[*b].total_cmp(&by[*a]));
                let kept = |x: &[f64]| order[..k as usize].iter().map(|&i| x[i]).collect::<Vec<f64>>();
                (p, q) = (kept(&p), kept(&q));
                let (sum_p, sum_q): (f64, f64) = (p.iter().sum(), q.iter().sum());
                match spec.mass {
                    Mass::Renormalized => {
                        p.iter_mut().for_each(|x| *x /= sum_p);
                        q.iter_mut().for_each(|x| *x /= sum_q);
                    }
                    Mass::Tail => {
                        p.push(1.0 - sum_p);
                        q.push(1.0 - sum_q);
                    }
                    Mass::Generalized => generalized = spec.kind == DivergenceKind::Kl,
                    Mass::Raw => {}
                }
            }
            let summand = |(p, q): (&f64, &f64)| match spec.kind {
                DivergenceKind::Kl => p * (p / q).ln() + if generalized { q - p } else { 0.0 },
                DivergenceKind::Jsd { beta } => {
                    let m = beta * p + (1.0 - beta) * q;
                    beta * p * (p / m).ln() + (1.0 - beta) * q * (q / m).ln()
                }
                DivergenceKind::TotalVariation => (p - q).abs() / 2.0,
            };
            p.iter().zip(&q).map(summand).sum::<f64>()
        };
        let logits: Vec<f64> = student.iter().map(|p| p.ln()).collect();
        let gradient = (0..5)
            .map(|i| {
                let at = |delta: f64| {
                    let mut moved = logits.clone();
                    moved[i] += delta;
                    value(&moved)
                };
                (at(1e-6) - at(-1e-6)) / 2e-6
            })
            .collect();
        (value(&logits), gradient)
    }

    #[track_caller]
    fn close(got: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() < tolerance, "{got:?} {expected:?}");
        }
    }

    #[test]
    fn published_numbers() {
        let kl = |left, right, support, mass| spec(DivergenceKind::Kl, left, right, support, mass);
        let on = |spec: Divergence| value_and_gradient(&spec, &STUDENT, &TEACHER);
        let (reverse, gradient) = on(kl(Student, Teacher, Support::Full, Mass::Raw));
        close(&[reverse], &[0.098847], 1e-6);
        close(&gradient, &[-0.18290, 0.02504, 0.03777, 0.09949, 0.02060], 1e-5);
        let (forward, gradient) = on(kl(Teacher, Student, Support::Full, Mass::Raw));
        close(&[forward], &[0.098006], 1e-6);
        close(&gradient, &[-0.20, 0.05, 0.05, 0.08, 0.02], 1e-6);
        close(&[on(kl(Student, Teacher, TOP_2, Mass::Generalized)).0], &[0.051449], 1e-6);
        let (_, gradient) = on(spec(DivergenceKind::TotalVariation, Student, Teacher, Support::Full, Mass::Raw));
        close(&gradient.iter().map(|g| 2.0 * g).collect::<Vec<_>>(), &[-0.42, 0.18, 0.12, 0.09, 0.03], 1e-6);
        let jsd = |beta| on(spec(DivergenceKind::Jsd { beta }, Teacher, Student, Support::Full, Mass::Raw)).0;
        close(&[jsd(0.5), jsd(0.001), jsd(0.01)], &[0.024269, 0.000098, 0.00097], 1e-6);

        let far = [0.62, 0.30, 0.05, 0.02, 0.01];
        let on = |mass| value_and_gradient(&kl(Teacher, Student, TOP_2, mass), &far, &TEACHER).0;
        close(&[on(Mass::Raw), on(Mass::Tail)], &[-0.153136, 0.131722], 1e-6);
    }

    #[test]
    fn gradients_where_student_equals_teacher() {
        let at = |left, right, mass| {
            let spec = spec(DivergenceKind::Kl, left, right, TOP_2, mass);
            value_and_gradient(&spec, &TEACHER, &TEACHER).1
        };
        // A truncated divergence pulls mass into its support or pushes it out; the generalised one stands still.
        let pull = [-0.125, -0.0625, 0.1125, 0.0525, 0.0225];
        close(&at(Teacher, Student, Mass::Raw), &pull, 1e-6);
        close(&at(Student, Teacher, Mass::Raw), &pull.map(|g| -g), 1e-6);
        for mass in [Mass::Generalized, Mass::Tail, Mass::Renormalized] {
            close(&at(Student, Teacher, mass), &[0.0; 5], 1e-6);
            close(&at(Teacher, Student, mass), &[0.0; 5], 1e-6);
        }
    }

    #[test]
    fn every_kind_equals_its_definition() {
        let kinds = [
            DivergenceKind::Kl,
            DivergenceKind::Jsd { beta: 0.5 },
            DivergenceKind::Jsd { beta: 0.1 },
            DivergenceKind::TotalVariation,
        ];
        let supports = [1, 2, 4].map(|k| [Student, Teacher].map(|role| Support::TopK { role, k })).concat();
        for kind in kinds {
            for (left, right) in [(Student, Teacher), (Teacher, Student)] {
                for support in supports.iter().chain([&Support::Full]) {
                    for mass in [Mass::Renormalized, Mass::Tail, Mass::Generalized, Mass::Raw] {
                        let spec = spec(kind.clone(), left, right, support.clone(), mass);
                        // The student's probabilities are made distinct, so that its top k is well defined.
                        let student = [0.32, 0.28, 0.20, 0.15, 0.05];
                        let got = value_and_gradient(&spec, &student, &TEACHER);
                        let expected = reference(&spec, &student, &TEACHER);
                        assert!((got.0 - expected.0).abs() < 1e-6, "{spec:?}: {got:?} {expected:?}");
                        close(&got.1, &expected.1, 2e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn a_support_of_the_whole_vocabulary_has_no_tail() {
        for k in [5, 64] {
            let support = Support::TopK { role: Teacher, k };
            for mass in [Mass::Renormalized, Mass::Tail, Mass::Generalized, Mass::Raw] {
                let spec = spec(DivergenceKind::Kl, Student, Teacher, support.clone(), mass);
                close(&[value_and_gradient(&spec, &STUDENT, &TEACHER).0], &[0.098847], 1e-6);
            }
        }
    }

    #[test]
    fn a_tail_of_almost_nothing_stays_finite() {
        let sharp = [1.0 - 4e-30, 1e-30, 1e-30, 1e-30, 1e-30];
        let support = Support::TopK { role: Teacher, k: 1 };
        let spec = spec(DivergenceKind::Kl, Student, Teacher, support, Mass::Tail);
        let (value, gradient) = value_and_gradient(&spec, &sharp, &TEACHER);
        close(&[value], &[2.0f64.ln()], 1e-6);
        assert!(gradient.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn entropy_of_known_distributions() {
        let uniform = Tensor::from_slice(&[0.25f32.ln(); 4]).view([1, 4]);
        close(&entropy(&uniform).iter_f64(), &[4.0f64.ln()], 1e-6);
    }
}
