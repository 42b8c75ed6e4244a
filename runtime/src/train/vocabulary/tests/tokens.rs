//! The distributions that signals read: their temperature, their tokens, and the order of equal entries.

use super::*;

/// Log-probabilities of completion tokens are at the policy's temperature, and so is the side that is
/// compared with the sampler; entropies, and divergences between models, are not. Against the definition in
/// double precision; the order of the primitives does not matter.
#[test]
fn log_probabilities_are_at_the_temperature_of_the_policy() {
    const POLICY: f64 = 0.6;
    /// The tokens that end a completion here.
    const ENDS: [Token; 2] = [4, 0];
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
        Vocabulary::new(
            Place::cpu(),
            &Tensor::from_slice(&[TAKEN]),
            student,
            others,
            Some((Student, POLICY)),
            &ENDS,
        )
        .at(POLICY)
    };
    let value = |signal: &Signal| {
        f64::from(to_vec(&vocabulary().values(&[parameters.quantity(signal).unwrap().unwrap()])[0])[0])
    };
    let taken = TAKEN as usize;
    let ends = |p: &[f64]| ENDS.map(|end| p[end as usize]).iter().sum::<f64>();
    for (role, logits) in [(Student, logits), (Role::TEACHER, teacher), (Role::Sampler, logits)] {
        assert!(
            (value(&Signal::Of { role, part: ModelSignal::Logp }) - at(&logits, POLICY)[taken].ln()).abs()
                < 1e-6,
            "{role:?}"
        );
        assert!(
            (value(&Signal::Of { role, part: ModelSignal::EndLogp }) - ends(&at(&logits, POLICY)).ln()).abs()
                < 1e-6,
            "{role:?}"
        );
    }
    let entropy = |p: &[f64]| -p.iter().map(|p| p * p.ln()).sum::<f64>();
    assert!(
        (value(&Signal::Of { role: Student, part: ModelSignal::Entropy }) - entropy(&DISTINCT)).abs() < 1e-6
    );
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

    // 2 log p(taken) at 0.6, plus 3 KL(student || teacher) at 1, plus 5 KL(sampler || student), with the
    // sampler at the student's earlier weights, plus 7 log p(ending), plus 11 log p(taken) at 1.7.
    let loss = |moved: &[f64]| {
        2.0 * at(moved, POLICY)[taken].ln()
            + 3.0 * between(&at(moved, 1.0), &at(&teacher, 1.0))
            + 5.0 * between(&at(&teacher, POLICY), &at(moved, POLICY))
            + 7.0 * ends(&at(moved, POLICY)).ln()
            + 11.0 * at(moved, 1.7)[taken].ln()
    };
    let (_, expected) = reference::finite_differences(&logits, loss);
    let exact = Live::Divergence(full(Student, Role::TEACHER));
    let left_behind = Live::Divergence(full(Role::Sampler, Student));
    let live = [(Live::Logp, 2.0f32), (exact, 3.0), (left_behind, 5.0), (Live::EndLogp, 7.0)];
    for order in [[0, 1, 2, 3], [2, 1, 3, 0], [1, 0, 2, 3], [3, 1, 2, 0]] {
        let mut vocabulary = vocabulary();
        vocabulary.others.push((Role::Sampler, vec![Logits::Given(rows(&[TEACHER]))]));
        vocabulary.sampler = Some((Role::Sampler, POLICY));
        let mut live: Vec<_> = order
            .iter()
            .map(|index| {
                (
                    parameters.primitive(&live[*index].0).unwrap().unwrap(),
                    Tensor::from_slice(&[live[*index].1]),
                )
            })
            .collect();
        live.push((Primitive::LogpAt { temperature: 1.7 }, Tensor::from_slice(&[11.0f32])));
        let mut gradient = Vec::new();
        vocabulary.gradient(&live, |rows| gradient = to_vec(&rows.whole().1));
        let gradient: Vec<f64> = gradient.into_iter().map(f64::from).collect();
        close(&gradient, &expected, 1e-5);
    }
}

/// Ids that belong to no token, in the middle of the vocabulary: results equal those of a vocabulary without
/// them, whatever their logits.
#[test]
fn ids_without_a_token_have_no_probability() {
    let (tokens, width, entries) = (6, 8, 23);
    let absent: [Token; 3] = [0, 9, 10];
    let there: Vec<i64> = (0..entries).filter(|id| !absent.contains(id)).collect();
    let compact = |tensor: &Tensor| tensor.index_select(0, &Tensor::from_slice(&there));
    let [hidden, of_teacher] = [0.5, 7.0].map(|seed| logits(tokens, width, seed) * 0.4);
    let lm_head = logits(entries, width, 3.0) * 0.4;
    let _ = lm_head.narrow(0, 9, 2).g_mul_scalar_(10.0);
    let batch = batch(tokens as usize);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let adjoint = Tensor::from_slice(&(0..tokens).map(|token| 0.5 + token as f32).collect::<Vec<f32>>());
    for (kind, temperature) in kinds().into_iter().flat_map(|kind| [(kind.clone(), 1.0), (kind, 3.0)]) {
        let mut spec = plan::Divergence::between(kind, Student, Role::TEACHER, Support::Full, Mass::Raw);
        spec.temperature = temperature.into();
        let read = |lm_head: &Tensor, absent: &[Token], target: i64| {
            let teacher = vec![(Role::TEACHER, vec![Logits::projected(&of_teacher, lm_head)])];
            let targets = Tensor::full([tokens], target, (Kind::Int64, Device::Cpu));
            let pass = Vocabulary::new(
                Place::cpu(),
                &targets,
                Logits::projected(&hidden, lm_head),
                teacher,
                None,
                &[0],
            )
            .without(absent);
            let live = || [Primitive::Divergence(parameters.divergence(&spec).unwrap()), Primitive::Logp];
            let asked = [
                Signal::Of { role: Student, part: ModelSignal::Entropy },
                Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp },
            ];
            let [signals, values] = pass.read(&asked.each_ref().map(Quantity::Signal), &live());
            let live: Vec<_> = live().into_iter().map(|live| (live, adjoint.shallow_clone())).collect();
            let (grad_hidden, grad_lm_head) = pass.projected_gradient(&live, &hidden, lm_head, true);
            let grad_lm_head = grad_lm_head.unwrap().rows(0..lm_head.size()[0]);
            (signals.into_iter().chain(values).chain([grad_hidden]).collect::<Vec<Tensor>>(), grad_lm_head)
        };
        let (got, grad_lm_head) = read(&lm_head, &absent, there[5]);
        let (expected, of_tokens) = read(&compact(&lm_head), &[], 5);
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

/// Most logits of models in bf16 have equal ones: the choice among them is deterministic.
#[test]
fn top_k_of_equal_logits_prefers_the_lower_id() {
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
        // Large and small logits, and masked entries, which have the smallest.
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
    // NaN is chosen, not hidden.
    let odd = Tensor::from_slice(&[1.0f32, 2.0, f32::NAN, 1.0, 1.0]).view([1, 5]);
    assert_eq!(Vec::<i64>::try_from(largest(&odd, 3).view([-1])).unwrap(), [2, 1, 0]);
}

#[test]
fn supports_with_equal_probabilities_prefer_the_lower_id() {
    const EQUAL: [f64; 5] = [0.1, 0.3, 0.1, 0.3, 0.2];
    let vocabulary = given(rows(&[EQUAL]), Some(rows(&[[0.2; 5]])), &[TAKEN], None);
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let value = |signal: Signal| {
        let quantity = parameters.quantity(&signal).unwrap().expect("it comes from distributions");
        to_vec(&vocabulary.values(&[quantity])[0]).into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let top = |role, k| Support::TopK { role, k };
    // The first two of the teacher's five equal entries; for the student 1 and 3, then 4, then 0.
    close(&value(Signal::Mass { role: Student, support: top(Role::TEACHER, 2) }), &[0.4], 1e-6);
    close(&value(Signal::Mass { role: Student, support: top(Student, 1) }), &[0.3], 1e-6);
    close(&value(Signal::Mass { role: Role::TEACHER, support: top(Student, 4) }), &[0.8], 1e-6);
    close(&value(Signal::Overlap { left: Role::TEACHER, right: Student, k: 2 }), &[0.5], 1e-6);
    // Nuclei and ranks do not depend on order: equal entries are all in, and share the best rank.
    close(&value(Signal::SupportSize { support: Support::Nucleus { role: Student, p: 0.25 } }), &[2.0], 1e-9);
    close(&value(Signal::Of { role: Student, part: ModelSignal::Rank }), &[4.0], 1e-9);
    close(&value(Signal::Of { role: Student, part: ModelSignal::Top1 }), &[0.3], 1e-6);
}
