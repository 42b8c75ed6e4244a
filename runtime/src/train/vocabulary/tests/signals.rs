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
