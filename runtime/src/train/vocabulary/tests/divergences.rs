//! Divergences of one token: values and gradients.

use super::*;

#[test]
fn divergences_equal_published_numbers() {
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
    // Continuous up to both ends.
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
    // A truncated divergence moves mass into or out of its support; the generalized one has gradient 0.
    let pull = [-0.125, -0.0625, 0.1125, 0.0525, 0.0225];
    close(&at(Role::TEACHER, Student, Mass::Raw), &pull, 1e-6);
    close(&at(Student, Role::TEACHER, Mass::Raw), &pull.map(|g| -g), 1e-6);
}

/// Exactly 0: an optimizer that normalises gradients would scale rounding noise to full steps.
#[test]
fn where_student_equals_teacher_there_is_no_gradient() {
    let number = DivergenceParameter::Number;
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
    let number = DivergenceParameter::Number;
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
                            temperature: temperature.into(),
                            clip_each,
                        };
                        assert_equals_its_definition(&spec, &DISTINCT);
                    }
                }
            }
        }
    }
}

/// The likelier part of a blend may have weight 0.
#[test]
fn a_blend_whose_likelier_part_has_no_weight_is_the_other_part() {
    let sharp = [1.0 - 4e-30, 1e-30, 1e-30, 1e-30, 1e-30];
    let of = |left| plan::Divergence { left, ..kl(Student, Role::TEACHER, Support::Full, Mass::Raw) };
    let number = DivergenceParameter::Number;
    let blend = plan::Distribution::Blend(vec![(number(0.0), Role::TEACHER), (number(1.0), Student)]);
    let (got, expected) = (
        of_divergence(&of(blend), &sharp, &TEACHER),
        of_divergence(&of(plan::Distribution::Role(Student)), &sharp, &TEACHER),
    );
    close(&[got.0], &[expected.0], 1e-6);
    close(&got.1, &expected.1, 1e-6);
}

/// The student's part of a detached side is a constant: the gradient is that of a teacher with these
/// probabilities.
#[test]
fn no_gradient_flows_through_a_detached_side() {
    let number = DivergenceParameter::Number;
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
    // The ratio of these probabilities would overflow in single precision.
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

/// A detached factor has a value but no gradient: `detached(log(p / q)) * p` has the KL divergence's value,
/// and the gradient of the log-ratio as an advantage. Over whole distributions that is the KL divergence's
/// own; on a part of them it lacks the linear term.
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
    // The student is the right side; the whole left side is a constant.
    let spec = plan::Divergence::between(weighed, Role::TEACHER, Student, Support::Full, Mass::Raw);
    let (_, gradient) = of_divergence(&spec, &DISTINCT, &TEACHER);
    assert!(gradient.iter().all(|grad| grad.abs() < 1e-7), "{gradient:?}");
}

/// A score that is no divergence is computed as written: no term is added, nothing is set to 0.
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

/// Divergences are recognized by their formula, not by their name.
#[test]
fn known_divergences_have_kernels() {
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let of = |call: &str| {
        let spec = plan::Divergence::between(called(call), Student, Role::TEACHER, Support::Full, Mass::Raw);
        let divergence = parameters.divergence(&spec).unwrap();
        let is_reversed = divergence.left.parts[0].1 == Role::TEACHER;
        match divergence.pairing {
            Pairing::Entrywise(StepSummand::Kl) => format!("kl {is_reversed}"),
            Pairing::Entrywise(StepSummand::Skew { lambda }) => format!("skew {lambda} {is_reversed}"),
            Pairing::Entrywise(StepSummand::Jsd { beta, normalized }) => format!("jsd {beta} {normalized}"),
            Pairing::Entrywise(StepSummand::Compiled(_)) => "compiled".to_owned(),
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
fn losses_other_than_divergences_equal_finite_differences() {
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
    for k in [1, 2, 3, 9] {
        check(Live::Ranking { role: Role::TEACHER, k }, &|p| ranking(p, &[0, 1, 2, 3, 4], k as usize));
    }
}

/// Minus the log-likelihood of drawing the first `k` of `order` in turn, without replacement.
fn ranking(p: &[f64], order: &[usize], k: usize) -> f64 {
    let chance = |i: usize| p[order[i]] / order[i..].iter().map(|entry| p[*entry]).sum::<f64>();
    -(0..k.min(order.len())).map(|i| chance(i).ln()).sum::<f64>()
}

/// The probability that is left last is 4e-17: 1 minus the drawn ones would have no digits.
#[test]
fn ranking_is_exact_where_the_remaining_mass_is_tiny() {
    let sharp = [1.0, 1e-9, 1e-17, 2e-17, 1e-17];
    let got = value_and_gradient(&Live::Ranking { role: Role::TEACHER, k: 3 }, &sharp, &TEACHER);
    close(&[got.0], &[4.0f64.ln()], 1e-6);
    close(&got.1, &[0.0, 0.0, 0.25 - 1.0, 0.5, 0.25], 1e-6);
}

/// Against torch's autograd on the definition, in `references.py`.
#[test]
fn a_ranking_has_the_numbers_of_its_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/methods/numbers/kd.in_order.json");
    let text = std::fs::read_to_string(path).unwrap();
    let known: serde_json::Value = serde_json::from_str(&text).unwrap();
    let completions = known["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|prompt| prompt["completions"].as_array().unwrap());
    let (mut tokens, mut logits) = (0, [Vec::new(), Vec::new()]);
    for completion in completions {
        tokens += completion["tokens"].as_array().unwrap().len();
        for (role, rows) in ["student", "teacher"].into_iter().zip(&mut logits) {
            rows.extend(numbers_of(&completion[role]["logits"]));
        }
    }
    let [student, teacher] = logits.map(|rows| {
        let single: Vec<f32> = rows.into_iter().map(|logit| logit as f32).collect();
        Tensor::from_slice(&single).view([tokens as i64, -1])
    });
    let vocabulary = given(student, Some(teacher), &vec![0; tokens], None);
    let primitive = || Primitive::Ranking { role: Role::TEACHER, k: 3 };
    let value = &vocabulary.values(&[Quantity::Primitive(primitive())])[0];
    close(&[value.mean(Kind::Double).double_value(&[])], &numbers_of(&known["expected"]["loss"]), 1e-6);
    let mut gradient = Vec::new();
    let adjoint = Tensor::full([tokens as i64], 1.0 / tokens as f64, (Kind::Float, Device::Cpu));
    vocabulary.gradient(&[(primitive(), adjoint)], |rows| gradient.extend(to_vec(&rows.whole().1)));
    let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
    close(&gradient, &numbers_of(&known["expected"]["d loss / d logits"]), 1e-6);
}

/// The numbers of nested lists, in order.
fn numbers_of(value: &serde_json::Value) -> Vec<f64> {
    match value {
        serde_json::Value::Array(rows) => rows.iter().flat_map(numbers_of).collect(),
        number => vec![number.as_f64().expect("a file of numbers has numbers")],
    }
}
