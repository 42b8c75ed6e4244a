//! Divergences from a role with another vocabulary, against the definition in double precision.

use std::rc::Rc;

use super::*;
use crate::tokenizer::{TokenBytes, Tokenizer, VocabularyMap};

/// Outside the support, the teacher's tail includes the entries that only the teacher has.
#[test]
fn the_tail_of_a_role_is_all_of_it_outside_the_support() {
    const OTHER: [f64; 6] = [0.3, 0.1, 0.25, 0.15, 0.15, 0.05];
    let bytes = || TokenBytes::new(&Tokenizer::Bytes).unwrap();
    let counterparts = VocabularyMap {
        student: bytes(),
        teacher: bytes(),
        of_student: vec![Some(3), Some(0), None, Some(1), None],
        alone: vec![2, 4, 5],
    };
    let columns = Rc::new(Columns::new(&counterparts, Device::Cpu));
    let pass = || {
        let own = Tensor::from_slice(&OTHER.map(|p| p.ln() as f32)).view([1, 6]);
        let teacher = Logits::Mapped(MappedLogits::new(Logits::Given(own), vec![Some(0)], columns.clone()));
        let others = vec![(Role::TEACHER, vec![teacher])];
        let student = Logits::Given(rows(&[DISTINCT]));
        Vocabulary::new(Place::cpu(), &Tensor::from_slice(&[TAKEN]), student, others, None, &[END])
    };
    // The matched entries in the student's order, then the tail.
    let of_student = |p: &[f64]| [p[0], p[1], p[3], p[2] + p[4]];
    let of_teacher = [OTHER[3], OTHER[0], OTHER[1], OTHER[2] + OTHER[4] + OTHER[5]];
    for (left, right) in [(Student, Role::TEACHER), (Role::TEACHER, Student)] {
        let spec = kl(left, right, Support::Matched { role: Role::TEACHER }, Mass::Tail);
        let value = |logits: &[f64]| {
            let student = of_student(&softmax(logits));
            let (p, q) = if left == Student { (student, of_teacher) } else { (of_teacher, student) };
            p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>()
        };
        let (expected, by_logits) = reference::finite_differences(&DISTINCT.map(f64::ln), value);
        let batch = batch(1);
        let parameters = Parameters { batch: &batch, device: Device::Cpu };
        let primitive = || Primitive::Divergence(parameters.divergence(&spec).unwrap());
        let [_, values] = pass().read(&[], &[primitive()]);
        close(&[f64::from(to_vec(&values[0])[0])], &[expected], 1e-6);
        let mut gradient = Vec::new();
        let live = [(primitive(), Tensor::from_slice(&[1.0f32]))];
        pass().gradient(&live, |rows| gradient = to_vec(&rows.whole().1));
        close(&gradient.into_iter().map(f64::from).collect::<Vec<_>>(), &by_logits, 1e-6);
    }
}
