//! A teacher whose server lists some entries, and a local one in the same step: both against the definition
//! in double precision.

use super::*;

/// The teacher's log-probabilities of the token's entry and of its two most probable ones.
fn listed() -> Logits {
    let entry = |id: i64| (id, TEACHER[id as usize].ln() as f32);
    Logits::Listed(Listed::new(&[vec![entry(TAKEN), entry(0), entry(1)]], 5, Device::Cpu))
}

/// Logits of the local teacher; a constant does not change them.
fn at_hand() -> Logits {
    Logits::Given(rows(&[TEACHER]) + 3.0)
}

fn mixed() -> Vocabulary {
    let others = vec![(Role::TEACHER, vec![listed(), at_hand()])];
    let targets = Tensor::from_slice(&[TAKEN, TAKEN]);
    Vocabulary::new(Place::cpu(), &targets, Logits::Given(rows(&[STUDENT, STUDENT])), others, None, &[END])
}

#[test]
fn divergences_on_listed_tokens_equal_the_reference() {
    let batch = batch(2);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let directions = [(Student, Role::TEACHER), (Role::TEACHER, Student)];
    // The tail of a list is not known well enough: the compiler refuses it.
    let masses = MASSES.into_iter().filter(|mass| *mass != Mass::Tail);
    for support in [TOP_2, Support::Sampled, Support::TopK { role: Role::TEACHER, k: 1 }] {
        for (mass, (left, right)) in masses.clone().flat_map(|mass| directions.map(|of| (mass, of))) {
            let spec = kl(left, right, support.clone(), mass);
            let (value, gradient) = reference::value_and_gradient(&spec, &STUDENT, &TEACHER);
            let live = Live::Divergence(spec.clone());
            let primitive = || parameters.primitive(&live).unwrap().unwrap();
            let values = to_vec(&mixed().values(&[Quantity::Primitive(primitive())])[0]);
            let adjoint = Tensor::from_slice(&[1.0f32, 1.0]);
            let mut found = Vec::new();
            mixed().gradient(&[(primitive(), adjoint)], |rows| found.extend(to_vec(&rows.whole().1)));
            for token in 0..2 {
                let own: Vec<f64> =
                    found[token * 5..token * 5 + 5].iter().map(|grad| f64::from(*grad)).collect();
                assert!((f64::from(values[token]) - value).abs() < 1e-5, "{spec:?}: {values:?} {value}");
                close(&own, &gradient, 1e-5);
            }
        }
    }
}

#[test]
fn numbers_of_a_token_come_from_its_list() {
    let asked = [
        Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp },
        Signal::Of { role: Role::TEACHER, part: ModelSignal::Top1 },
        Signal::Mass { role: Role::TEACHER, support: TOP_2 },
        Signal::Overlap { left: Student, right: Role::TEACHER, k: 2 },
    ];
    let found = mixed().values(&asked.each_ref().map(Quantity::Signal));
    let expected = [TEACHER[TAKEN as usize].ln(), TEACHER[0], TEACHER[0] + TEACHER[1], 1.0];
    for (found, expected) in found.iter().zip(expected) {
        let found: Vec<f64> = to_vec(found).into_iter().map(f64::from).collect();
        close(&found, &[expected, expected], 1e-6);
    }
}

/// A part of a list has the rows of its tokens.
#[test]
fn a_list_is_cut_by_tokens() {
    let of = |place: usize| vec![(place as i64, -(place as f32) - 0.5), (4, -2.0)];
    let whole = Listed::new(&[of(0), of(1), vec![(2, -0.25)]], 5, Device::Cpu);
    let part = whole.part(1, 2);
    assert_eq!((whole.tokens(), part.tokens()), (3, 2));
    assert_eq!(to_vec(&part.rows(0, 2)), to_vec(&whole.rows(1, 2)));
    let last = to_vec(&whole.rows(2, 1));
    assert!(last[2] == -0.25 && last.iter().filter(|logp| **logp > ABSENT / 2.0).count() == 1, "{last:?}");
}
