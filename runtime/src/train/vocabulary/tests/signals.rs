//! Signals, which have no gradient.

use super::*;

#[test]
fn signals_equal_their_definitions() {
    let batch = batch(2);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    // A permutation of the teacher's, so that the two share two of their three most probable tokens.
    let turned = [0.03, 0.50, 0.25, 0.15, 0.07];
    let vocabulary = given(rows(&[turned, [0.2; 5]]), Some(rows(&[TEACHER, TEACHER])), &[TAKEN, 0], None);
    let values = |signal: Signal| {
        let quantity = parameters.quantity(&signal).unwrap().expect("it comes from distributions");
        to_vec(&vocabulary.values(&[quantity])[0]).into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let entropy = -TEACHER.iter().map(|p| p * p.ln()).sum::<f64>();
    close(
        &values(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
        &[0.15f64.ln(), 0.5f64.ln()],
        1e-6,
    );
    close(&values(Signal::Of { role: Student, part: ModelSignal::Entropy }), &[entropy, 5.0f64.ln()], 1e-6);
    close(&values(Signal::Of { role: Student, part: ModelSignal::Top1 }), &[0.5, 0.2], 1e-6);
    close(&values(Signal::Of { role: Role::TEACHER, part: ModelSignal::Rank }), &[3.0, 1.0], 0.0 + 1e-9);
    close(&values(Signal::Overlap { left: Student, right: Role::TEACHER, k: 3 })[..1], &[2.0 / 3.0], 1e-6);
    close(&values(Signal::Overlap { left: Student, right: Role::TEACHER, k: 9 }), &[1.0, 1.0], 1e-6);
    close(&values(Signal::Mass { role: Student, support: TOP_2 }), &[0.53, 0.4], 1e-6);
    close(&values(Signal::Mass { role: Student, support: Support::Full }), &[1.0, 1.0], 1e-6);
    close(&values(Signal::InNucleus { role: Role::TEACHER, p: 0.74 }), &[0.0, 1.0], 1e-9);
    close(&values(Signal::InNucleus { role: Role::TEACHER, p: 0.76 }), &[1.0, 1.0], 1e-9);
    let nucleus = |role, p| Support::Nucleus { role, p };
    close(&values(Signal::SupportSize { support: nucleus(Role::TEACHER, 0.76) }), &[3.0, 3.0], 1e-9);
    // Equal entries are all in or all out.
    close(&values(Signal::SupportSize { support: nucleus(Student, 0.3) }), &[1.0, 5.0], 1e-9);
    close(&values(Signal::SupportSize { support: TOP_2 }), &[2.0, 2.0], 1e-9);
    let sampler = Signal::Divergence(kl(Student, Role::Sampler, Support::Full, Mass::Raw));
    assert!(values(sampler)[0] > 1e-3);
    assert!(parameters.quantity(&Signal::Plain(PlainSignal::Reward)).unwrap().is_none());
}

#[test]
fn parameters_move_with_the_run_and_with_the_token() {
    let at_this_step = Schedule::Linear { from: 0.1, to: 0.9, over: ScheduleLength::Run }.at(3, 10);
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
    let rewarded = |rest: bool| {
        let mut graph = Graph::default();
        let reward = graph.signal(PlainSignal::Reward);
        let one = graph.constant(Axis::Run, 1.0);
        let value = if rest { graph.apply(Function::Subtract, &[one, reward]) } else { reward };
        DivergenceParameter::Formula(Box::new(Formula { graph, value }))
    };
    let blended = |share: DivergenceParameter, rest: DivergenceParameter| plan::Divergence {
        right: plan::Distribution::Blend(vec![(share, Role::TEACHER), (rest, Student)]),
        ..kl(Role::TEACHER, Student, Support::Full, Mass::Raw)
    };
    let spec = blended(rewarded(false), rewarded(true));
    assert_eq!(spec.signals(), [Signal::Plain(PlainSignal::Reward)]);
    let layout = Layout {
        sequence_of_token: vec![0, 1, 1],
        group_of_sequence: vec![0, 0],
        groups: 1,
        ..Layout::default()
    };
    let batch = Batch {
        layout,
        signals: vec![(Signal::Plain(PlainSignal::Reward), vec![0.5, 0.75])],
        ..Batch::default()
    };
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let quantity = Quantity::Primitive(Primitive::Divergence(parameters.divergence(&spec).unwrap()));
    let vocabulary =
        given(rows(&[DISTINCT; 3]), Some(rows(&[TEACHER; 3])), &[TAKEN; 3], Some(in_parts(5, 10, 0)));
    let got: Vec<f64> = to_vec(&vocabulary.values(&[quantity])[0]).into_iter().map(f64::from).collect();
    let expected = [0.5, 0.75, 0.75].map(|share| {
        of_divergence(
            &blended(DivergenceParameter::Number(share), DivergenceParameter::Number(1.0 - share)),
            &DISTINCT,
            &TEACHER,
        )
        .0
    });
    close(&got, &expected, 1e-6);
}

/// The reward of the token's sequence, as a parameter of a divergence.
fn reward() -> DivergenceParameter {
    let mut graph = Graph::default();
    let value = graph.signal(PlainSignal::Reward);
    DivergenceParameter::Formula(Box::new(Formula { graph, value }))
}

/// Two sequences, of one token and of two, with a reward each.
fn rewarded(rewards: [f32; 2]) -> Batch {
    let layout = Layout {
        sequence_of_token: vec![0, 1, 1],
        group_of_sequence: vec![0, 0],
        groups: 1,
        ..Layout::default()
    };
    Batch { layout, signals: vec![(Signal::Plain(PlainSignal::Reward), rewards.into())], ..Batch::default() }
}

/// Values and gradients of each token against double precision, with the numbers of the token.
#[test]
fn parameters_and_temperatures_per_token_are_those_of_the_token() {
    let calls = [
        ("jsd(student, teacher, beta: SHARE)", [0.5, 0.1]),
        ("jsd(student, teacher, beta: SHARE, normalized: true)", [0.01, 0.8]),
        ("skew(student || teacher, lambda: SHARE)", [0.1, 0.7]),
        ("alpha(student || teacher, alpha: SHARE)", [0.5, 2.0]),
        ("tv(student, teacher)", [1.0, 2.5]),
        ("kl(student || teacher)", [1.0, 2.5]),
    ];
    let supports = [Support::Full, TOP_2, Support::Nucleus { role: Role::TEACHER, p: 0.7 }];
    let mut compared = 0;
    for (call, numbers) in calls {
        let moving = call.contains("SHARE");
        let kind = called(&call.replace("SHARE", "1 * reward"));
        for (support, mass) in supports.iter().flat_map(|support| MASSES.map(|mass| (support, mass))) {
            for tempered in [false, true] {
                if !moving && !tempered {
                    continue;
                }
                let of_kind = |kind: DivergenceKind, temperature: DivergenceParameter| {
                    let between =
                        plan::Divergence::between(kind, Student, Role::TEACHER, support.clone(), mass);
                    plan::Divergence { temperature, ..between }
                };
                let spec = of_kind(kind.clone(), if tempered { reward() } else { 1.0.into() });
                assert_eq!(spec.signals(), [Signal::Plain(PlainSignal::Reward)]);
                let batch = rewarded(numbers.map(|number| number as f32));
                let parameters = Parameters { batch: &batch, device: Device::Cpu };
                let primitive = || Primitive::Divergence(parameters.divergence(&spec).unwrap());
                for kept in [0, 1 << 20] {
                    let pass = given(
                        rows(&[DISTINCT; 3]),
                        Some(rows(&[TEACHER; 3])),
                        &[TAKEN; 3],
                        Some(in_parts(5, 10, kept)),
                    );
                    let values = to_vec(&pass.values(&[Quantity::Primitive(primitive())])[0]);
                    let adjoint = Tensor::from_slice(&[2.0f32, -1.0, 0.5]);
                    let mut gradient = [0.0; 15];
                    pass.gradient(&[(primitive(), adjoint)], |rows| {
                        let (first, grad) = rows.whole();
                        let grad = to_vec(&grad);
                        let from = 5 * first as usize;
                        gradient[from..from + grad.len()].copy_from_slice(&grad);
                    });
                    for (token, (number, adjoint)) in
                        zip_equal([0, 1, 1].map(|sequence: usize| numbers[sequence]), [2.0, -1.0, 0.5])
                            .enumerate()
                    {
                        let constant = called(&call.replace("SHARE", &number.to_string()));
                        let temperature = if tempered { number } else { 1.0 };
                        let constant = of_kind(constant, temperature.into());
                        let (value, by_logits) =
                            reference::value_and_gradient(&constant, &DISTINCT, &TEACHER);
                        close(&[f64::from(values[token])], &[value], 3e-6 * value.abs().max(1.0));
                        let got: Vec<f64> = gradient[5 * token..5 * token + 5]
                            .iter()
                            .map(|partial| f64::from(*partial) / adjoint)
                            .collect();
                        let scale = by_logits.iter().fold(1.0f64, |most, partial| most.max(partial.abs()));
                        close(&got, &by_logits, 5e-6 * scale);
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, (4 * 2 + 2) * 3 * 4 * 2 * 3);
}

/// A parameter of one number for the whole step, such as a state, takes the same code as a constant.
#[test]
fn a_parameter_outside_its_bounds_is_an_error() {
    let of = |call: &str, rewards: [f32; 2], temperature: DivergenceParameter| {
        let kind = called(call);
        let between = plan::Divergence::between(kind, Student, Role::TEACHER, Support::Full, Mass::Raw);
        let batch = rewarded(rewards);
        let parameters = Parameters { batch: &batch, device: Device::Cpu };
        let spec = plan::Divergence { temperature, ..between };
        parameters.divergence(&spec).map(drop).map_err(|error| error.to_string())
    };
    let jsd = "jsd(student, teacher, beta: 1 * reward)";
    assert_eq!(of(jsd, [0.0, 1.0], 1.0.into()), Ok(()));
    assert_eq!(
        of(jsd, [0.5, 1.25], 1.0.into()),
        Err("`beta` of a divergence is 1.25 at a token; it must be from 0 to 1: hold it with `clip(...)`"
            .into())
    );
    assert!(of(jsd, [0.5, f32::NAN], 1.0.into()).unwrap_err().contains("NaN"));
    let kl = "kl(student || teacher)";
    assert_eq!(of(kl, [0.5, 3.0], reward()), Ok(()));
    assert!(of(kl, [0.5, 0.0], reward()).unwrap_err().contains("must be above 0"));
    let mean = called("jsd(student, teacher, beta: 1 * mean(reward, over: batch))");
    let between = plan::Divergence::between(mean, Student, Role::TEACHER, Support::Full, Mass::Raw);
    let batch = rewarded([0.25, 0.75]);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let divergence = parameters.divergence(&between).unwrap();
    assert!(matches!(
        divergence.pairing,
        Pairing::Entrywise(StepSummand::Jsd { beta: 0.5, normalized: false })
    ));
}

/// Numbers per token that are no valid shares are an error, for values and gradients.
#[test]
fn the_shares_of_a_blend_are_looked_at_token_by_token() {
    let of = |shares: &dyn Fn(&mut Graph, NodeId) -> [NodeId; 2], rewards: [f32; 2]| {
        let parts = [0, 1].map(|part| {
            let mut graph = Graph::default();
            let reward = graph.signal(PlainSignal::Reward);
            let value = shares(&mut graph, reward)[part];
            DivergenceParameter::Formula(Box::new(Formula { graph, value }))
        });
        let [left, right] = parts;
        let spec = plan::Divergence {
            right: plan::Distribution::Blend(vec![(left, Role::TEACHER), (right, Student)]),
            ..kl(Role::TEACHER, Student, Support::Full, Mass::Raw)
        };
        let layout = Layout {
            sequence_of_token: vec![0, 1, 1],
            group_of_sequence: vec![0, 0],
            groups: 1,
            ..Layout::default()
        };
        let batch = Batch {
            layout,
            signals: vec![(Signal::Plain(PlainSignal::Reward), rewards.into())],
            ..Batch::default()
        };
        let parameters = Parameters { batch: &batch, device: Device::Cpu };
        let divergence = parameters.divergence(&spec).map_err(|error| error.to_string())?;
        let quantity = Quantity::Primitive(Primitive::Divergence(divergence));
        let vocabulary =
            given(rows(&[DISTINCT; 3]), Some(rows(&[TEACHER; 3])), &[TAKEN; 3], Some(in_parts(5, 10, 0)));
        Ok::<Vec<f32>, String>(to_vec(&vocabulary.values(&[quantity])[0]))
    };
    let rest = |graph: &mut Graph, reward: NodeId| {
        let one = graph.constant(Axis::Run, 1.0);
        [reward, graph.apply(Function::Subtract, &[one, reward])]
    };
    let twice = |_: &mut Graph, reward: NodeId| [reward, reward];
    assert!(of(&rest, [0.0, 1.0]).is_ok());
    assert!(of(&twice, [0.5, 0.5]).is_ok());
    let error = of(&rest, [0.5, 1.25]).unwrap_err();
    let said = "the shares of the blend of `teacher` and `student` are 1.250000 and -0.250000 at a token, \
                together 1.000000";
    assert!(error.starts_with(said), "{error}");
    let error = of(&twice, [0.5, 0.25]).unwrap_err();
    assert!(error.contains("are 0.250000 and 0.250000 at a token, together 0.500000"), "{error}");
    assert!(of(&rest, [0.5, f32::NAN]).unwrap_err().contains("NaN"));
    // A rounding error is accepted, and gives a finite value.
    let rounded = of(&rest, [0.5, 1.0 + 1e-6]).unwrap();
    assert!(rounded.iter().all(|value| value.is_finite()), "{rounded:?}");
}
