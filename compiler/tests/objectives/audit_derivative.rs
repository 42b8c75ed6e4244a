//! The gradient audit and the compiler differentiate independently: the audit by dual numbers over whole
//! formulas, the compiler symbolically, node by node of a graph. Where both apply, they must agree.

use mopd_compiler::audit::{ToyModel, expected};
use mopd_experiment as checked;
use mopd_experiment::formula;
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::interpret::interpret;
use mopd_lang::source::SourceFile;
use mopd_plan::{self as plan, ModelSignal, Role, Signal, Stage};

const TEACHER: [f64; 5] = [0.50, 0.25, 0.15, 0.07, 0.03];
const STUDENT: [f64; 5] = [0.30, 0.30, 0.20, 0.15, 0.05];
const OLD: [f64; 5] = [0.25, 0.30, 0.20, 0.15, 0.10];
const SAMPLER: [f64; 5] = [0.20, 0.35, 0.15, 0.20, 0.10];

/// Everything that a term of one live log-probability can be made of, at least once.
const VALUES: &[&str] = &[
    "(student.logp - teacher.logp) * live student.logp",
    "-(teacher.logp - sampler.logp) * live ratio",
    "(live student.logp - teacher.logp)^2 / 2",
    "exp(teacher.logp - live student.logp) - 1 - (teacher.logp - live student.logp)",
    "abs(live student.logp - teacher.logp)",
    "tanh(live student.logp - teacher.logp) * student.entropy",
    "sigmoid(live student.logp - sampler.logp) * log1p(teacher.top1)",
    "relu(live student.logp - teacher.logp + 0.1)",
    "sqrt(1 + (live student.logp - teacher.logp)^2)",
    "log(1 + exp(live student.logp - teacher.logp)) / (1 + exp(teacher.logp))",
    "-min(live ratio * (teacher.logp - student.logp), clip(live ratio, 0.8, 1.2) * (teacher.logp - \
     student.logp))",
    "max(live ratio, 0.9) * (student.logp - teacher.logp)",
    "clip(live student.logp - teacher.logp, -0.3, 0.3) * live ratio",
    "where(teacher.logp > student.logp, -live student.logp, 0.5 * live student.logp)",
    "-(teacher.logp - sampler.logp) * live ratio + abs(teacher.logp - sampler.logp) * exp(sampler.logp) * \
     (live ratio - 1)^2 / 25",
];

struct Both {
    checked: checked::Objective,
    planned: plan::Objective,
}

fn compiled(value: &str) -> Both {
    let text = format!(
        r#"experiment "e" {{ seed = 1 }}
domain sort {{ prompts = "sort.jsonl", reward = exact_match }}
model base = llama {{ layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }}
model expert = grpo(base, on: sort) {{ steps = 10, prompts = 8, samples = 4, max_tokens = 16, lr = 1e-3 }}
teacher one = expert
route {{ else -> one }}
objective o {{
  weight = 0.5 + teacher.top1
  select = teacher.logp > -3
  term t = {value}
  reduce = sum(token, over: batch)
}}
model student = distill(base) {{
  objective = o, rollout = sample(n: 4, temperature: 1, max_tokens: 16), prompts = 8, steps = 10, lr = 1e-3
}}
"#
    );
    let analysis = mopd_lang::analyse(SourceFile { path: "e.mopd".into(), text }, &crate::support::library);
    let experiment =
        analysis.experiment.as_ref().unwrap_or_else(|| panic!("{value}: {:?}", analysis.diagnostics));
    let plan = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false)
        .unwrap_or_else(|findings| panic!("{value}: {findings:?}"));
    let planned =
        plan.experiment.models.into_iter().find(|model| model.name == "student").expect("it is declared");
    let Stage::Train(planned) = planned.stage else { panic!("the student is trained") };
    let checked = experiment.models.iter().find(|model| model.name == "student").expect("it is declared");
    let checked::Stage::Train(checked) = &checked.stage else { panic!("the student is trained") };
    Both { checked: checked.objective.clone(), planned: planned.objective }
}

/// The mean over the sampler's tokens of the graph's derivative times the score.
fn by_graph(objective: &plan::Objective) -> Vec<f64> {
    let outputs = objective.outputs();
    let of = |role: Role| match role {
        Role::Student => STUDENT,
        Role::TEACHER => TEACHER,
        Role::Old => OLD,
        Role::Sampler => SAMPLER,
        Role::Scorer(_) => unreachable!("no objective here reads it"),
    };
    let mut gradient = vec![0.0; 5];
    for token in 0..5 {
        let worth = |signal: &Signal| match signal {
            Signal::Of { role, part: ModelSignal::Logp } => of(*role)[token].ln(),
            Signal::Of { role, part: ModelSignal::Entropy } => {
                -of(*role).iter().map(|p| p * p.ln()).sum::<f64>()
            }
            Signal::Of { role, part: ModelSignal::Top1 } => of(*role).into_iter().fold(0.0, f64::max),
            other => panic!("{other:?} is not among the values"),
        };
        let signals = objective
            .graph
            .signals(&outputs)
            .into_iter()
            .map(|signal| (signal.clone(), vec![worth(&signal) as f32]));
        let batch = Batch {
            layout: Layout {
                sequence_of_token: vec![0],
                group_of_sequence: vec![0],
                groups: 1,
                ..Layout::default()
            },
            signals: signals.collect(),
            live: vec![vec![STUDENT[token].ln() as f32]; objective.live.len()],
            step: 0,
            steps: 10,
            ..Batch::default()
        };
        let values = interpret(&objective.graph, &outputs, &batch).expect("everything is given");
        let derivative: f64 = objective.live.iter().map(|live| values.get(live.adjoint)[0]).sum();
        for (entry, sum) in gradient.iter_mut().enumerate() {
            let score = if entry == token { 1.0 } else { 0.0 } - STUDENT[entry];
            *sum += SAMPLER[token] * derivative * score;
        }
    }
    gradient
}

#[test]
fn dual_numbers_and_symbolic_derivative_agree() {
    let toy = ToyModel::from_distributions(&STUDENT, &TEACHER)
        .with(formula::Role::Old, &OLD)
        .with(formula::Role::Sampler, &SAMPLER);
    let mut moved = 0;
    for value in VALUES {
        let both = compiled(value);
        let audit = expected(&both.checked, 0, &toy).unwrap_or_else(|why| panic!("{value}: {why}")).gradient;
        let graph = by_graph(&both.planned);
        // The graph's numbers come in single precision.
        let agree = audit.iter().zip(&graph).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(agree, "{value}: {audit:?} {graph:?}");
        moved += usize::from(audit.iter().any(|derivative| derivative.abs() > 1e-3));
    }
    assert_eq!(moved, VALUES.len());
}
