//! Teachers that are composed of others, against distributions computed in double precision.

use mopd_plan::Pool;

use super::*;

const OTHER: [f64; 5] = [0.10, 0.35, 0.05, 0.30, 0.20];
const THIRD: [f64; 5] = [0.22, 0.18, 0.26, 0.04, 0.30];

/// The token that ends a completion here.
const LAST: Token = 4;

/// The construction of a distribution.
#[derive(Clone, Debug)]
enum Made {
    Of([f64; 5]),
    Sum(Vec<(f64, Made)>),
    Mixture(Vec<(f64, Made)>),
}

use Made::{Mixture, Of, Sum};

impl Made {
    /// The probabilities: products of powers, or weighted sums.
    fn expected(&self) -> [f64; 5] {
        let of = |entry: usize| match self {
            Of(probabilities) => probabilities[entry],
            Sum(parts) => parts.iter().map(|(weight, made)| made.expected()[entry].powf(*weight)).product(),
            Mixture(parts) => parts.iter().map(|(weight, made)| weight * made.expected()[entry]).sum(),
        };
        let raw: [f64; 5] = std::array::from_fn(of);
        let total: f64 = raw.iter().sum();
        raw.map(|p| p / total)
    }

    /// The logits, with constant weights or with one weight per token.
    fn logits(&self, per_token: bool) -> Logits {
        let composed = |pool, parts: &[(f64, Made)]| {
            let part = |(weight, made): &(f64, Made)| ComposedPart {
                weight: match per_token {
                    true => MixtureWeight::PerToken(Tensor::from_slice(&[*weight as f32])),
                    false => MixtureWeight::Number(*weight),
                },
                logits: vec![made.logits(per_token)],
            };
            Logits::Composed(Composed::new(pool, parts.iter().map(part).collect()))
        };
        match self {
            // Logits are determined up to a constant.
            Of(probabilities) => Logits::Given(rows(&[*probabilities]) + 3.5),
            Sum(parts) => composed(Pool::Logits, parts),
            Mixture(parts) => composed(Pool::Mixture, parts),
        }
    }
}

/// Extrapolation beyond a teacher, its mild form, a geometric mean, a temperature, mixtures, and nested ones.
fn kinds_of_teachers() -> Vec<Made> {
    let (teacher, other, third) = (Of(TEACHER), Of(OTHER), Of(THIRD));
    vec![
        Sum(vec![(1.0, teacher.clone()), (0.75, teacher.clone()), (-0.75, other.clone())]),
        Sum(vec![(0.3, teacher.clone()), (0.7, other.clone())]),
        Sum(vec![(1.0 / 2.5, other.clone())]),
        Mixture(vec![(0.2, teacher.clone()), (0.5, other.clone()), (0.3, third.clone())]),
        Mixture(vec![(1.0, third.clone()), (0.0, other.clone())]),
        Sum(vec![
            (0.5, Mixture(vec![(0.4, Sum(vec![(0.8, teacher.clone())])), (0.6, third)])),
            (1.25, Sum(vec![(1.5, teacher), (-0.5, other)])),
        ]),
    ]
}

fn read(made: &Made, per_token: bool) -> Vocabulary {
    let others = vec![(Role::TEACHER, vec![made.logits(per_token)])];
    let student = Logits::Given(rows(&[DISTINCT]));
    Vocabulary::new(
        Place::cpu(),
        &Tensor::from_slice(&[TAKEN]),
        student,
        others,
        Some((Student, 2.0)),
        &[LAST],
    )
}

/// Value and gradient of every kind of divergence, to every kind of teacher.
#[test]
fn divergences_to_composed_teachers_equal_their_definitions() {
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    for made in kinds_of_teachers() {
        let teacher = made.expected();
        for (kind, per_token) in kinds().into_iter().zip([false, true].into_iter().cycle()) {
            for (left, right) in [(Student, Role::TEACHER), (Role::TEACHER, Student)] {
                for (support, mass, temperature) in [
                    (Support::Full, Mass::Raw, 1.0),
                    (Support::Full, Mass::Raw, 2.0),
                    (TOP_2, Mass::Renormalized, 1.0),
                    (Support::TopK { role: Student, k: 3 }, Mass::Tail, 0.7),
                    (Support::Nucleus { role: Role::TEACHER, p: 0.6 }, Mass::Generalized, 1.0),
                ] {
                    let between = plan::Divergence::between(kind.clone(), left, right, support, mass);
                    let spec = plan::Divergence { temperature: temperature.into(), ..between };
                    let (value, gradient) = reference::value_and_gradient(&spec, &DISTINCT, &teacher);
                    let scale = gradient.iter().fold(value.abs().max(1.0), |most, g| most.max(g.abs()));
                    let live = Live::Divergence(spec.clone());
                    let of = || parameters.primitive(&live).unwrap().unwrap();
                    let got = &read(&made, per_token).values(&[Quantity::Primitive(of())])[0];
                    let got = got.double_value(&[0]);
                    assert!((got - value).abs() < 3e-6 * scale, "{made:?} {spec:?}: {got} {value}");
                    let mut grad = Vec::new();
                    let one = Tensor::from_slice(&[1.0f32]);
                    read(&made, per_token).gradient(&[(of(), one)], |rows| grad = to_vec(&rows.whole().1));
                    let grad: Vec<f64> = grad.into_iter().map(f64::from).collect();
                    close(&grad, &gradient, 5e-6 * scale);
                }
            }
        }
    }
}

/// All other signals that read a teacher.
#[test]
fn signals_of_composed_teachers_equal_their_definitions() {
    let batch = batch(1);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    for made in kinds_of_teachers() {
        let p = made.expected();
        let value = |signal: Signal| {
            let quantity = parameters.quantity(&signal).unwrap().expect("it comes from distributions");
            read(&made, true).values(&[quantity])[0].double_value(&[0])
        };
        let is = |signal: Signal, expected: f64| {
            let got = value(signal.clone());
            assert!(
                (got - expected).abs() < 2e-6 * expected.abs().max(1.0),
                "{made:?} {signal:?}: {got} {expected}"
            );
        };
        let (role, taken) = (Role::TEACHER, TAKEN as usize);
        let mut sorted = p;
        sorted.sort_by(|a, b| b.total_cmp(a));
        is(Signal::Of { role, part: ModelSignal::Logp }, p[taken].ln());
        is(Signal::Of { role, part: ModelSignal::EndLogp }, p[LAST as usize].ln());
        is(Signal::Of { role, part: ModelSignal::Entropy }, -p.iter().map(|p| p * p.ln()).sum::<f64>());
        is(Signal::Of { role, part: ModelSignal::Top1 }, sorted[0]);
        is(
            Signal::Of { role, part: ModelSignal::Rank },
            1.0 + p.iter().filter(|other| **other > p[taken]).count() as f64,
        );
        is(Signal::Mass { role, support: TOP_2 }, sorted[0] + sorted[1]);
        let student = Support::TopK { role: Student, k: 3 };
        is(Signal::Mass { role, support: student }, p[0] + p[1] + p[2]);
        let above: f64 = p.iter().filter(|other| **other > p[taken]).sum();
        for bound in [above - 0.01, above + 0.01] {
            is(Signal::InNucleus { role, p: bound }, f64::from(u8::from(above < bound)));
        }
        let likeliest = p.iter().position(|other| *other == sorted[0]).unwrap();
        let live = Live::Likelihood { of: role };
        let live = parameters.primitive(&live).unwrap().unwrap();
        let got = read(&made, false).values(&[Quantity::Primitive(live)])[0].double_value(&[0]);
        assert!((got + DISTINCT[likeliest].ln()).abs() < 1e-6, "{made:?}");
    }
}

/// A role with a model at some tokens and a composition at others, with one weight per token, for all
/// divisions of tokens into blocks and of members into parts.
#[test]
fn tokens_of_a_composition_are_found_wherever_they_stand() {
    let (tokens, width, entries) = (9, 6, 17);
    let of = |seed: f32, tokens: i64| logits(tokens, width, seed) * 0.25;
    let [own, one, other] = [1.0, 2.0, 3.0].map(|seed| logits(entries, width, seed) * 0.25);
    let weights: Vec<f32> = (0..6).map(|token| 0.25 + token as f32).collect();
    let student = of(4.0, tokens);
    // Three tokens of a model, then six of `one + w (one - other)`, whose second half is another model's.
    let (plain, first, second) = (of(5.0, 3), of(6.0, 6), [of(7.0, 2), of(8.0, 4)]);
    let fetched = |lm_head: &Tensor| {
        let lm_head = lm_head.shallow_clone();
        LazyTensor::new(move || lm_head.copy(), None)
    };
    let [of_one, of_other] = [&one, &other].map(fetched);
    let projected = |hidden: &Tensor, lm_head: &LazyTensor| Logits::Projected {
        hidden: hidden.shallow_clone(),
        lm_head: LmHead::Fetched(lm_head.clone()),
        softcap: None,
        scalar_head: None,
    };
    let plus = |sign: f32, more: f32| {
        let weights: Vec<f32> = weights.iter().map(|weight| more + sign * weight).collect();
        MixtureWeight::PerToken(Tensor::from_slice(&weights))
    };
    let composed = Composed::new(
        Pool::Logits,
        vec![
            ComposedPart { weight: plus(1.0, 1.0), logits: vec![projected(&first, &of_one)] },
            ComposedPart {
                weight: plus(-1.0, 0.0),
                logits: vec![projected(&second[0], &of_other), projected(&second[1], &of_one)],
            },
        ],
    );
    let parts = [projected(&plain, &of_other), Logits::Composed(composed)];
    let whole = {
        let w = Tensor::from_slice(&weights).unsqueeze(1).to_kind(Kind::Double);
        let product = |hidden: &Tensor, lm_head: &Tensor| {
            hidden.to_kind(Kind::Double).mm(&lm_head.to_kind(Kind::Double).tr())
        };
        let less = Tensor::cat(&[product(&second[0], &other), product(&second[1], &one)], 0);
        let composed = product(&first, &one) * (&w + 1.0) - less * &w;
        Tensor::cat(&[product(&plain, &other), composed], 0).log_softmax(-1, Kind::Double)
    };
    let targets = Tensor::arange(tokens, (Kind::Int64, Device::Cpu));
    let expected = whole.gather(-1, &targets.unsqueeze(1), false).squeeze_dim(1).to_kind(Kind::Float);
    for block in [1, 2, 3, 4, 5, 9] {
        let others = vec![(Role::TEACHER, parts.iter().map(Logits::share).collect())];
        let place = in_parts(2 * entries, block * entries, 0);
        let student = Logits::projected(&student, &own);
        let vocabulary = Vocabulary::new(place, &targets, student, others, None, &[END]);
        let got = &vocabulary.values(&[Quantity::Signal(&TEACHER_LOGP)])[0];
        let apart = largest_difference(got, &expected);
        // The rounding of single precision, with weights of a few units.
        assert!(apart < 2e-5, "{block}: {apart:e}");
        // No LM head is held after the last token.
        assert!(of_one.held.borrow().is_none() && of_other.held.borrow().is_none(), "{block}");
    }
}

/// Ids that belong to no token have probability 0 in every member, and so in a mixture.
#[test]
fn a_mixture_has_no_probability_where_there_is_no_token() {
    let absent: [Token; 2] = [0, 3];
    let made = |of: [f64; 5]| Logits::Given(rows(&[of]));
    let part =
        |weight: f64, of| ComposedPart { weight: MixtureWeight::Number(weight), logits: vec![made(of)] };
    let pass = |pool: Pool| {
        let teacher = Composed::new(pool, vec![part(0.4, TEACHER), part(0.6, OTHER)]);
        let others = vec![(Role::TEACHER, vec![Logits::Composed(teacher)])];
        Vocabulary::new(Place::cpu(), &Tensor::from_slice(&[TAKEN]), made(DISTINCT), others, None, &[END])
            .without(&absent)
    };
    let there = |of: [f64; 5]| of[TAKEN as usize] / (1.0 - of[0] - of[3]);
    let mixed = 0.4 * there(TEACHER) + 0.6 * there(OTHER);
    let got = pass(Pool::Mixture).values(&[Quantity::Signal(&TEACHER_LOGP)])[0].double_value(&[0]);
    assert!((got - mixed.ln()).abs() < 1e-6, "{got} {}", mixed.ln());
    let power = |entry: usize| TEACHER[entry].powf(0.4) * OTHER[entry].powf(0.6);
    let geometric = power(2) / (power(1) + power(2) + power(4));
    let got = pass(Pool::Logits).values(&[Quantity::Signal(&TEACHER_LOGP)])[0].double_value(&[0]);
    assert!((got - geometric.ln()).abs() < 1e-6, "{got} {}", geometric.ln());
}
