//! One step of distillation against the reference library and its automatic derivatives in float64: the loss,
//! and its derivative by every parameter. Made by `tests/fixtures/steps.py`.

use std::path::PathBuf;

use tch::{Kind, Tensor};

use super::batch;
use super::parity::{load, loss_and_gradient, read};
use crate::machine::place::Place;
use crate::model::*;
use crate::tokenizer::Token;

/// The terms of a batch's tokens, from the student's and the teacher's log-probabilities and the tokens
/// taken.
type Terms = fn(&Tensor, &Tensor, &Tensor) -> Tensor;

const OBJECTIVES: [(&str, Terms); 3] = [
    ("sampled", |student, teacher, taken| {
        let of_taken = |logps: &Tensor| logps.gather(1, &taken.unsqueeze(1), false).squeeze_dim(1);
        let (student, teacher) = (of_taken(student), of_taken(teacher));
        -(teacher - student.detach()).clamp(-1.0, 1.0) * student
    }),
    ("top_k", |student, teacher, _| {
        let (teacher, support) = teacher.topk(12, -1, true, true);
        let student = student.gather(1, &support, false);
        (student.exp() * (&student - &teacher) - student.exp() + teacher.exp()).sum_dim_intlist(
            -1,
            false,
            None::<Kind>,
        )
    }),
    ("full", |student, teacher, _| {
        (student.exp() * (student - teacher)).sum_dim_intlist(-1, false, None::<Kind>)
    }),
];

#[test]
fn a_step_of_distillation_equals_the_reference() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/steps");
    let teacher = load(&folder.join("teacher"));
    for case in ["qwen2", "qwen3_moe", "gemma2", "qwen3_5"] {
        let student = load(&folder.join(case));
        let reference = read(&folder.join(case).join("reference.safetensors"));
        let sequences: Vec<(Vec<Token>, Vec<Token>)> = reference["prompt_length"]
            .iter()
            .enumerate()
            .map(|(index, prompt)| {
                let tokens: Vec<Token> =
                    reference[&format!("tokens.{index}")].iter().map(|token| *token as Token).collect();
                let (prompt, completion) = tokens.split_at(*prompt as usize);
                (prompt.to_vec(), completion.to_vec())
            })
            .collect();
        let packed = batch(&sequences);
        let lengths: Vec<i64> = sequences.iter().map(|(_, completion)| completion.len() as i64).collect();
        // Rounding of the stored numbers and of the rotary tables in f64; in f32 that of everything between.
        for (kind, most) in [(Kind::Double, 2e-6), (Kind::Float, 5e-5)] {
            let scored = {
                let _guard = tch::no_grad_guard();
                Decoder::frozen(&teacher, Place::cpu(), kind).logits(&packed).log_softmax(-1, kind)
            };
            let decoder = Decoder::trainable(&student, Place::cpu(), kind);
            for (objective, terms) in OBJECTIVES {
                let (loss, gradient) = loss_and_gradient(&decoder, &packed, 1, |logits| {
                    let terms = terms(&logits.log_softmax(-1, kind), &scored, &packed.targets);
                    let means: Vec<Tensor> = terms
                        .split_with_sizes(lengths.as_slice(), 0)
                        .iter()
                        .map(|terms| terms.mean(kind))
                        .collect();
                    Tensor::stack(&means, 0).mean(kind)
                });
                let expected = reference[&format!("{objective}.loss")][0];
                assert!(
                    (loss - expected).abs() < most,
                    "{case} {objective} in {kind:?}: {loss}, not {expected}"
                );
                for entry in layout(&student.config) {
                    let expected = Tensor::from_slice(&reference[&format!("{objective}.{}", entry.name)]);
                    let got =
                        gradient.narrow(0, entry.offset as i64, entry.len() as i64).to_kind(Kind::Double);
                    let difference = (got - &expected).norm().double_value(&[]);
                    let size = expected.norm().double_value(&[]);
                    assert!(
                        difference < most * (1.0 + size),
                        "{case} {objective} in {kind:?}: {} is off by {difference} of {size}",
                        entry.name
                    );
                    assert!(size > 1e-6, "{case} {objective}: {} has no gradient", entry.name);
                }
            }
        }
    }
}
