//! Gradients of parts of the loss: they sum to the step's gradient, equal the reference in double precision,
//! and do not change the step.

use std::collections::BTreeMap;

use mopd_plan::{GradientAlignment, GradientPartition, Producer};

use super::super::hooks::{AlignedGradients, GradientPass, StepHook, columns};
use super::*;
use crate::compiled;

/// An objective with two terms. Tests fill in own data, the reduction and a setting of the stage.
const TEXT: &str = r#"
experiment "aligned" { seed = 1 }
domain copy { prompts = "copy.jsonl", reward = exact_match, share = 1/2 }
domain flip { prompts = "flip.jsonl", reward = exact_match, share = 1/2 }
model base = llama { layers = 2, width = 8, heads = 2, context = 64, tokenizer = bytes }
teacher big = base
route { else -> big }
objective both {
  term near    = live kl(student || teacher)
  term imitate = -0.3 * live student.logp OWN
  reduce       = REDUCE
}
model student = distill(base) {
  objective = both
  rollout   = data(answer)
  prompts   = 7
  steps     = 4
  lr        = 1e-2
  SETTING
}
"#;
const PLAIN: &str = "mean(token) then mean(sequence)";

fn planned(own: &str, reduce: &str, setting: &str) -> Train<Objective> {
    let text = TEXT.replace("OWN", own).replace("REDUCE", reduce).replace("SETTING", setting);
    compiled::train(&compiled::plan(text), "student").clone()
}

fn numbers(gradient: &crate::model::Gradient) -> Vec<f32> {
    to_vec(&gradient.part(0..gradient.parameters()))
}

/// Gradients with their names.
type Named = Vec<(String, Vec<f32>)>;

/// The first step's gradient of the trained parameters, the parts' gradients, their columns, the rollouts.
fn first(stage: &Stage) -> (Vec<f32>, Named, BTreeMap<String, f64>, Rollouts) {
    let mut trainer = Trainer::new(stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let EvaluatedBatch { batch, outputs, gradient, pass, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
    let mut alignment = AlignedGradients::new(stage.train.options.alignment.unwrap());
    let pass = GradientPass {
        scoring: &trainer.scoring(0),
        pass: &pass.expect("it is due"),
        rollouts: &rollouts,
        batch: &batch,
        outputs: &outputs,
        trained: &|of| trainer.student.gradient(of),
    };
    alignment.after_gradient(&pass).unwrap();
    let of_parts = alignment.gradients;
    let each = of_parts.iter().map(|(name, gradient)| (name.clone(), numbers(gradient))).collect();
    let gradient = numbers(&trainer.student.trained.gradient(gradient));
    (gradient, each, columns(of_parts), rollouts)
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    zip_equal(one, other).map(|(one, other)| one * other).sum()
}

const NEAR: Terms = |student, teacher, _| {
    (student.exp() * (student - teacher)).sum_dim_intlist([-1].as_slice(), false, Kind::Double)
};
const IMITATE: Terms = |student, _, taken| -0.3 * student.gather(1, taken, false).squeeze_dim(1);

/// Each term's gradient, the norms and the cosine against double precision; in micro-batches too.
#[test]
fn terms_have_the_references_gradients() {
    let (fixture, models) = (Fixture::new(), models(true));
    let train = planned("", PLAIN, "gradient_alignment = gradient_alignment(every: 2 steps)");
    assert_eq!(
        train.options.alignment,
        Some(GradientAlignment { between: GradientPartition::Terms, every: 2 })
    );
    assert_eq!(train.aligned(), 2);
    let mut stage = fixture.stage(&train, ROUTED, &models);
    for micro_batch in [None, Some(3)] {
        stage.micro_batch = micro_batch;
        let (_, each, columns, rollouts) = first(&stage);
        let [near, imitate] =
            [NEAR, IMITATE].map(|terms| expected(&stage, &rollouts.sequences, &models, terms).1);
        for ((name, got), (known, expected)) in
            zip_equal(&each, [("near", near.as_slice()), ("imitate", imitate.as_slice())])
        {
            assert_eq!(name, known);
            assert!(apart(got, expected) < 1e-5, "{name}: {:e}", apart(got, expected));
        }
        let [of_near, of_imitate] = [&near, &imitate].map(|own| dot(own, own).sqrt());
        let cosine = dot(&near, &imitate) / of_near / of_imitate;
        let names: Vec<&str> = columns.keys().map(String::as_str).collect();
        assert_eq!(names, ["alignment.near.imitate", "grad_norm.imitate", "grad_norm.near"]);
        assert!(cosine.abs() > 0.01 && cosine.abs() < 0.99, "{cosine} tells nothing apart");
        for (name, expected) in [
            ("alignment.near.imitate", cosine),
            ("grad_norm.near", of_near),
            ("grad_norm.imitate", of_imitate),
        ] {
            assert!((columns[name] - expected).abs() < 1e-5 * expected.abs(), "{name}: {}", columns[name]);
        }
    }
}

/// For several reductions and trained parameters, in micro-batches too: the gradients of terms, and those of
/// domains, sum to the step's gradient.
#[test]
fn term_gradients_sum_to_the_step_gradient() {
    let (fixture, models) = (Fixture::new(), models(true));
    let balanced = "mean(token, over: batch) by domain { target = 1/2, clamp = 0.05..=20 }";
    for (own, reduce) in [
        ("", PLAIN),
        ("", balanced),
        ("{ when = position < 3 }", PLAIN),
        ("{ when = position < 3 }", "mean(token, among: when) then mean(sequence, among: when)"),
        ("{ weight = 2, reduce = mean(token, over: batch) }", "sum(token) then mean(sequence)"),
    ] {
        for (between, names) in [("terms", ["near", "imitate"]), ("domains", ["copy", "flip"])] {
            for trained in
                ["", "train_only = [attention]", "adapter = lora(rank: 2, alpha: 4, targets: [query])"]
            {
                let compared = format!("gradient_alignment(every: 1, between: {between})");
                let train = planned(own, reduce, &format!("gradient_alignment = {compared}\n  {trained}"));
                let mut stage = fixture.stage(&train, ROUTED, &models);
                for micro_batch in [None, Some(2)] {
                    stage.micro_batch = micro_batch;
                    let (whole, each, ..) = first(&stage);
                    assert_eq!(each.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names);
                    let whole: Vec<f64> = whole.into_iter().map(f64::from).collect();
                    let [(_, one), (_, other)] = each.as_slice() else { panic!("two parts") };
                    let sum: Vec<f32> = zip_equal(one, other).map(|(one, other)| one + other).collect();
                    let far = apart(&sum, &whole);
                    assert!(far < 2e-5, "{reduce}, {own}, {between}, {trained}, {micro_batch:?}: {far:e}");
                    assert!(one.iter().chain(other).any(|number| *number != 0.0));
                }
            }
        }
    }
}

/// Weights and all other metrics have the same bits with and without it. Only due steps have its columns.
#[test]
fn gradient_alignment_changes_no_weights_or_metrics() {
    let (fixture, models) = (Fixture::new(), models(true));
    for between in ["terms", "domains"] {
        let compared = format!("gradient_alignment = gradient_alignment(every: 2, between: {between})");
        let (with, without) = (planned("", PLAIN, &compared), planned("", PLAIN, ""));
        for micro_batch in [None, Some(3)] {
            let run = |train: &Train<Objective>| {
                let stage = Stage { micro_batch, ..fixture.stage(train, ROUTED, &models) };
                let (weights, rows) = trained_to_the_end(&stage);
                let rows: Vec<StepMetrics> = rows.into_iter().map(StepMetrics::without_times).collect();
                (weights, rows)
            };
            let ((weights, mut rows), (known, plain)) = (run(&with), run(&without));
            assert!(weights == known, "{between}, {micro_batch:?}");
            assert!(rows.iter().all(|row| row.alignment.len() == if row.step % 2 == 0 { 3 } else { 0 }));
            rows.iter_mut().for_each(|row| row.alignment.clear());
            assert_eq!(rows, plain, "{between}, {micro_batch:?}");
        }
    }
}

/// Terms with completions of their own are compared like others; a domain's gradient sums over all parts.
#[test]
fn parts_of_a_stage_are_compared() {
    let (fixture, models) = (Fixture::new(), models(true));
    for (between, names) in [("terms", ["near", "imitate"]), ("domains", ["copy", "flip"])] {
        let setting = format!("gradient_alignment = gradient_alignment(every: 1, between: {between})");
        let mut train = planned("{ data = data(answer) }", PLAIN, &setting);
        assert_eq!((train.own_data.len(), train.aligned()), (1, 2));
        let own = &mut train.own_data[0];
        own.rollout = Rollout::new(5, Producer::data("answer"));
        let stage = fixture.stage(&train, ROUTED, &models);
        let own = train.own_parts();
        let stages = stage.parts(&own);
        let mut trainer = Trainer::with(&stages, None, None).unwrap();
        let mut record = Record::default();
        let rollouts = trainer.rollouts_of(0).unwrap();
        let each: Vec<Vec<f64>> = (0..2)
            .map(|part| {
                let found = trainer.evaluate(part, &rollouts[part], 0).unwrap();
                numbers(&found.gradient).into_iter().map(f64::from).collect()
            })
            .collect();
        trainer.update(rollouts, Instant::now(), 0, &mut record).unwrap();
        for row in &record.rows {
            let norms = names.map(|name| row.alignment[&format!("grad_norm.{name}")]);
            let cosine = row.alignment[&format!("alignment.{}.{}", names[0], names[1])];
            // |a + b|^2 = |a|^2 + |b|^2 + 2 |a| |b| cos
            let [one, other] = norms;
            let whole = (one * one + other * other + 2.0 * one * other * cosine).sqrt();
            assert!((whole / row.gradient_norm - 1.0).abs() < 1e-5, "{between}: {whole}");
            if between == "terms" {
                let [first, second] = [0, 1].map(|part| dot(&each[part], &each[part]).sqrt());
                assert!((one / first - 1.0).abs() < 1e-5 && (other / second - 1.0).abs() < 1e-5);
            }
        }
    }
}

/// Vectors with known angles. A gradient that is 0 has a norm but no cosine.
#[test]
fn angles_are_known_and_what_is_zero_has_none() {
    let whole = |name: &str, numbers: &[f32]| {
        (name.to_owned(), crate::model::Gradient::whole(Tensor::from_slice(numbers), Place::cpu()))
    };
    let found = columns(vec![
        whole("a", &[3.0, 4.0, 0.0]),
        whole("b", &[-6.0, -8.0, 0.0]),
        whole("c", &[0.0, 0.0, 1e-30]),
        whole("d", &[0.0; 3]),
    ]);
    let named = |name: &str| found.get(name).copied();
    assert_eq!(
        (named("grad_norm.a"), named("grad_norm.b"), named("grad_norm.d")),
        (Some(5.0), Some(10.0), Some(0.0))
    );
    assert_eq!((named("alignment.a.b"), named("alignment.a.c")), (Some(-1.0), Some(0.0)));
    assert!((named("grad_norm.c").unwrap() / 1e-30 - 1.0).abs() < 1e-6);
    assert_eq!((found.len(), named("alignment.a.d")), (4 + 3, None));
}
