//! Gradients of many tokens, for all divisions into chunks and blocks, kept gradients, and half precision.

use half::bf16;

use super::*;
use crate::mapped::{MappedFile, MappedTensor, NumberEncoding};

/// Values and gradients by libtorch's autograd, over whole tensors.
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
    place: Option<Place>,
) -> (Tensor, Tensor) {
    let tokens = student.size()[0] as usize;
    let batch = batch(tokens);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let primitive = || Primitive::Divergence(parameters.divergence(spec).unwrap());
    let vocabulary = given(student.copy(), Some(teacher.shallow_clone()), &vec![0; tokens], place);
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
                let place = in_parts(chunk * vocabulary, block * vocabulary + 1, 0);
                let parts = chunked(&spec, &student, &teacher, &adjoint, Some(place));
                assert_eq!(parts.0, whole.0, "{chunk} {block}");
                assert_eq!(parts.1, whole.1, "{chunk} {block}");
            }
        }
    }
}

/// Gradients of hidden states and of the LM head, with two teachers.
#[test]
fn projected_logits_give_the_gradients_of_the_plain_version() {
    let (tokens, width, vocabulary) = (23, 8, 57);
    let (hidden, lm_head) = (logits(tokens, width, 0.5) * 0.2, logits(vocabulary, width, 3.0) * 0.2);
    let teacher =
        |tokens, seed| (logits(tokens, width, seed) * 0.2, logits(vocabulary, width, seed + 1.0) * 0.2);
    let teacher = [teacher(9, 7.0), teacher(14, 9.0)];
    let spec = kl(Student, Role::TEACHER, Support::Full, Mass::Raw);
    let adjoint = Tensor::linspace(0.5, 2.0, tokens, (Kind::Float, Device::Cpu));

    let leaves = [&hidden, &lm_head].map(|leaf| leaf.detach().set_requires_grad(true));
    let student = leaves[0].matmul(&leaves[1].tr());
    let teachers = teacher.each_ref().map(|(hidden, lm_head)| hidden.matmul(&lm_head.tr()));
    let (p, q) =
        (student.log_softmax(-1, Kind::Float), Tensor::cat(&teachers, 0).log_softmax(-1, Kind::Float));
    let values = (p.exp() * (&p - &q)).sum_dim_intlist([-1].as_slice(), false, Kind::Float);
    let expected = Tensor::run_backward(&[(&values * &adjoint).sum(Kind::Float)], &leaves, false, false);

    let batch = batch(tokens as usize);
    let parameters = Parameters { batch: &batch, device: Device::Cpu };
    let primitive = || Primitive::Divergence(parameters.divergence(&spec).unwrap());
    for (block, kept) in [(4, 0), (4, 1 << 20), (100, 0), (7, 14)] {
        let teacher = teacher.iter().map(|(hidden, lm_head)| Logits::projected(hidden, lm_head)).collect();
        let targets = Tensor::zeros([tokens], (Kind::Int64, Device::Cpu));
        let pass = Vocabulary::new(
            in_parts(3 * vocabulary, block * vocabulary, kept * 4 * vocabulary as usize),
            &targets,
            Logits::projected(&hidden, &lm_head),
            vec![(Role::TEACHER, teacher)],
            None,
            &[0],
        );
        let [_, mut got] = pass.read(&[], &[primitive()]);
        let got = got.swap_remove(0);
        assert!(largest_difference(&got, &values) < 5e-6, "{block}: {}", largest_difference(&got, &values));
        let live = [(primitive(), adjoint.shallow_clone())];
        let (grad_hidden, grad_lm_head) = pass.projected_gradient(&live, &hidden, &lm_head, true);
        let grad_lm_head = grad_lm_head.unwrap().rows(0..vocabulary);
        assert!(largest_difference(&grad_hidden, &expected[0]) < 5e-6);
        assert!(largest_difference(&grad_lm_head, &expected[1]) < 2e-5);
    }
}

/// Kept and recomputed gradients are equal: for one primitive and for two, where some tokens have adjoint 0,
/// one of them with an infinite gradient.
#[test]
fn kept_and_recomputed_gradients_are_equal() {
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
        let lm_head = (logits(vocabulary, width, 3.0) * 0.2).to_kind(kind);
        for count in [1, 2] {
            let gradients = |kept: usize| {
                let teacher = vec![(Role::TEACHER, vec![Logits::projected(&of_teacher, &lm_head)])];
                let targets = Tensor::zeros([tokens], (Kind::Int64, Device::Cpu));
                let place = in_parts(3 * vocabulary, 4 * vocabulary, kept);
                let pass = Vocabulary::new(
                    place,
                    &targets,
                    Logits::projected(&hidden, &lm_head),
                    teacher,
                    None,
                    &[0],
                );
                let live = || {
                    let divergence = Primitive::Divergence(parameters.divergence(&divergence).unwrap());
                    [divergence, Primitive::Logp].into_iter().take(count).collect::<Vec<Primitive>>()
                };
                pass.read(&[], &live());
                assert_eq!(pass.kept.borrow().len(), if kept == 0 { 0 } else { 4 });
                let live: Vec<_> =
                    live().into_iter().zip(adjoints.iter().map(Tensor::shallow_clone)).collect();
                let (grad_hidden, grad_lm_head) = pass.projected_gradient(&live, &hidden, &lm_head, true);
                [grad_hidden, grad_lm_head.unwrap().rows(0..vocabulary)]
                    .map(|gradient| gradient.to_kind(Kind::Double))
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
                temperature: temperature.into(),
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

/// A token that is not selected has gradient 0, even if its own gradient is infinite.
#[test]
fn no_gradient_comes_from_a_token_without_a_share() {
    let teacher = rows(&[TEACHER, TEACHER]);
    let _ = teacher.get(1).fill_(f64::NAN);
    let adjoint = Tensor::from_slice(&[1.0f32, 0.0]);
    let spec = kl(Student, Role::TEACHER, Support::Full, Mass::Raw);
    let place = Some(in_parts(5, 10, 0));
    let (values, gradient) = chunked(&spec, &rows(&[STUDENT, STUDENT]), &teacher, &adjoint, place);
    assert!(values.get(1).isnan().int64_value(&[]) == 1);
    close(
        &to_vec(&gradient.get(0)).into_iter().map(f64::from).collect::<Vec<_>>(),
        &[-0.18290, 0.02504, 0.03777, 0.09949, 0.02060],
        1e-5,
    );
    assert_eq!(to_vec(&gradient.get(1)), [0.0; 5]);
}

/// A block may have tokens of several models, but only one LM head at a time is in memory.
#[test]
fn lm_head_is_freed_after_its_last_token() {
    let rows = |from: i64, tokens: i64| {
        (Tensor::arange(tokens * 3, (Kind::Float, Device::Cpu)) + from).view([tokens, 3])
    };
    let matrices: Vec<LazyTensor> = (0..4).map(|seed| LazyTensor::new(move || rows(seed, 5), None)).collect();
    let parts: Vec<Logits> = matrices
        .iter()
        .map(|lm_head| Logits::Projected {
            hidden: rows(7, 2),
            lm_head: LmHead::Fetched(lm_head.clone()),
            softcap: None,
            scalar_head: None,
        })
        .collect();
    let held = || matrices.iter().map(|lm_head| lm_head.held.borrow().is_some()).collect::<Vec<bool>>();
    let whole = rows_of(Place::cpu(), &parts, 0, 8, None);
    assert_eq!(held(), [false; 4]);
    // The second model's other token is in the next block.
    let first = rows_of(Place::cpu(), &parts, 0, 3, None);
    assert_eq!(held(), [false, true, false, false]);
    let second = rows_of(Place::cpu(), &parts, 3, 5, None);
    assert_eq!(held(), [false; 4]);
    assert_eq!(to_vec(&Tensor::cat(&[first, second], 0)), to_vec(&whole));
    for (part, lm_head) in matrices.iter().enumerate() {
        let expected = rows(7, 2).linear::<&Tensor>(&lm_head.get(), None);
        assert_eq!(to_vec(&whole.narrow(0, 2 * part as i64, 2)), to_vec(&expected));
    }
}

/// An LM head in its file gives the same logits as in memory, to the bit.
#[test]
fn a_matrix_in_its_file_makes_the_same_logits() {
    let (entries, width) = (9000, 96);
    let numbers = |rows: i64, step: f64| {
        let numbers = Tensor::arange(rows * width, (Kind::Double, Device::Cpu)) * step;
        numbers.sin().view([rows, width]).to_kind(Kind::BFloat16)
    };
    let (hidden, lm_head) = (numbers(5, 0.61), numbers(entries, 0.37));
    let bytes: Vec<u8> = to_vec(&lm_head).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    std::fs::write(&path, &bytes).unwrap();
    let file = MappedFile::open(&path).unwrap();
    let stored = |encoding| {
        MappedTensor::new(file.clone(), 0..bytes.len(), encoding, entries as usize, width as usize).unwrap()
    };
    let projected = |lm_head, softcap| {
        let hidden = hidden.shallow_clone();
        Logits::Projected { hidden, lm_head, softcap, scalar_head: None }.rows(Place::cpu(), 1, 4, None)
    };
    let in_file = |place, kind, encoding| LmHeadInFile::new(place, kind, stored(encoding));
    if let Some(in_file) = in_file(Place::cpu(), Kind::BFloat16, NumberEncoding::Bf16) {
        for softcap in [None, Some(3.0)] {
            let found = projected(LmHead::InFile(in_file.clone()), softcap);
            assert!(found.equal(&projected(LmHead::Held(lm_head.shallow_clone()), softcap)));
        }
    }
    // A head that needs conversion is loaded, and so is every head where our own loops may not run.
    for (place, kind, encoding) in [
        (Place::cpu(), Kind::Float, NumberEncoding::Bf16),
        (Place::cpu(), Kind::BFloat16, NumberEncoding::F16),
        (Place::operators(), Kind::BFloat16, NumberEncoding::Bf16),
    ] {
        assert!(in_file(place, kind, encoding).is_none(), "{place:?} {kind:?} {encoding:?}");
    }
}
