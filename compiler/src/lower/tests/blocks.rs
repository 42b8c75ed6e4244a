//! Numbers of blocks (runs of tokens that `chunks` chooses), and teachers' continuations from them.

use mopd_expr::batch::{Batch, Layout, TokenPartition};
use mopd_expr::interpret::interpret;
use mopd_expr::jit::Program;

use super::*;

/// Two sequences, of 5 and 2 tokens.
const STUDENT: [f32; 7] = [-1.0, -0.25, -3.0, -2.0, -0.5, -1.5, -0.125];
const ENTROPY: [f32; 7] = [0.5, 3.0, 2.0, 0.25, 1.25, 0.75, 2.5];

fn entropy() -> Formula {
    signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy })
}

fn windows(most: u32) -> Formula {
    statistic(Statistic::Chunks { most, width: 2 }, &entropy(), Axis::Sequence)
}

fn mean_of_block() -> Formula {
    reduce(Reduction::Mean, &logp(Role::Student), Axis::Block)
}

/// `-exp(mean(student.logp, over: block)) * live student.logp`
fn of_blocks() -> Formula {
    let share = apply(Function::Negate, [&apply(Function::Exp, [&mean_of_block()])]);
    apply(Function::Multiply, [&share, &live(Live::Part(ModelSignal::Logp))])
}

fn with(value: Formula, when: Option<Formula>) -> Objective {
    let mut objective = objective(value, by_steps(vec![step(Axis::Token, Axis::Batch)]));
    objective.terms[0].when = when;
    objective
}

fn lowered(objective: &Objective) -> Result<plan::Objective, String> {
    let mut experiment = experiment();
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train.objective = objective.clone();
    let (sources, origins) = sources();
    match super::super::compile(&experiment, &origins, &sources, true) {
        Ok(plan) => {
            let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
            Ok(train.objective.clone())
        }
        Err(found) => Err(found[0].message.clone()),
    }
}

/// Evaluated as in the runtime: first the mask of chosen tokens, then everything.
#[test]
fn a_block_has_the_mean_of_its_own_tokens() {
    let objective = lowered(&with(of_blocks(), Some(windows(2)))).expect("it runs");
    let chosen = objective.chosen.expect("it reads blocks");
    let layout = Layout {
        sequence_of_token: vec![0, 0, 0, 0, 0, 1, 1],
        group_of_sequence: vec![0, 0],
        groups: 1,
        ..Layout::default()
    };
    let signals = vec![
        (plan::Signal::Of { role: plan::Role::Student, part: plan::ModelSignal::Logp }, STUDENT.to_vec()),
        (plan::Signal::Of { role: plan::Role::Student, part: plan::ModelSignal::Entropy }, ENTROPY.to_vec()),
    ];
    let mut batch = Batch { layout, signals, live: vec![STUDENT.to_vec()], steps: 1, ..Batch::default() };
    let outputs = objective.outputs();
    let program = Program::compile(&objective.graph, &outputs).expect("compiles");
    // The largest of the first sequence are tokens 1 and 2, whose windows are one block; of the second, both.
    let is_chosen = program.run(&batch).expect("it has everything").get(chosen).to_vec();
    assert_eq!(is_chosen, [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
    batch.layout.blocks = Some(TokenPartition::of_chosen(&batch.layout, &is_chosen));
    let compiled = program.run(&batch).expect("it has everything");
    let exact = interpret(&objective.graph, &outputs, &batch).expect("it has everything");
    let first = ((-0.25 - 3.0 - 2.0) / 3.0f64).exp();
    let second = ((-1.5 - 0.125) / 2.0f64).exp();
    let share = [0.0, first, first, first, 0.0, second, second];
    let logps = STUDENT.map(f64::from);
    let loss: f64 = -share.iter().zip(logps).map(|(share, logp)| share * logp).sum::<f64>() / 7.0;
    let adjoint: Vec<f64> = share.iter().map(|share| -share / 7.0).collect();
    let term: Vec<f64> = share.iter().zip(logps).map(|(share, logp)| -share * logp).collect();
    let live = &objective.live[0];
    for (node, expected) in
        [(objective.loss, vec![loss]), (live.adjoint, adjoint), (objective.terms[0].value, term)]
    {
        assert_eq!(exact.get(node).len(), expected.len());
        for (index, expected) in expected.iter().enumerate() {
            let (exact, compiled) = (exact.get(node)[index], f64::from(compiled.get(node)[index]));
            assert!((exact - expected).abs() < 1e-12, "element {index}: {exact} is not {expected}");
            assert!((compiled - expected).abs() < 1e-6, "element {index}: {compiled} is not {expected}");
        }
    }
}

#[track_caller]
fn assert_refused(objective: &Objective, construct: &str) {
    assert_eq!(lowered(objective).err(), Some(format!("{construct} is not supported yet")));
}

#[test]
fn numbers_of_blocks_are_of_the_chosen_tokens() {
    let outside = "a number per block in the term `term`, which also applies to tokens outside of blocks,";
    let beside = apply(Function::Multiply, [&of_blocks(), &windows(2)]);
    assert_refused(&with(beside.clone(), None), outside);
    let not = apply(Function::Not, [&windows(2)]);
    assert_refused(&with(of_blocks(), Some(not)), outside);
    let none = "one number per block without a `chunks` that defines the blocks";
    assert_refused(&with(of_blocks(), None), none);
    let several = "one number per block with several `chunks` that define blocks";
    assert_refused(&with(beside, Some(windows(1))), several);
    let whole = reduce(Reduction::Mean, &mean_of_block(), Axis::Sequence);
    let whole = apply(Function::Multiply, [&whole, &live(Live::Part(ModelSignal::Logp))]);
    let together = "combining several blocks, or tokens that may be outside of blocks, into one number";
    assert_refused(&with(whole, Some(windows(2))), together);
    let clipped = apply(Function::Clip, [&mean_of_block(), &number(-1.0), &number(1.0)]);
    let clipped = apply(Function::Multiply, [&clipped, &live(Live::Part(ModelSignal::Logp))]);
    assert_refused(&with(clipped, Some(windows(2))), "`clip` of a number of a block");
}

fn sum_of_blocks() -> Formula {
    reduce(Reduction::Sum, &mean_of_block(), Axis::Batch)
}

/// Only the value of a term may read a number of a block.
#[test]
fn numbers_of_blocks_stand_in_terms() {
    type Change = Box<dyn Fn(&mut Objective)>;
    let changes: [(&str, Change); 6] = [
        (
            "a term's weight",
            Box::new(|of| of.terms[0].weight = Some(apply(Function::Exp, [&mean_of_block()]))),
        ),
        ("a weight", Box::new(|of| of.weight = Some(mean_of_block()))),
        (
            "`select`",
            Box::new(|of| of.select = Some(apply(Function::Less, [&mean_of_block(), &number(0.0)]))),
        ),
        (
            "`when`",
            Box::new(|of| of.terms[0].when = Some(apply(Function::Less, [&mean_of_block(), &number(0.0)]))),
        ),
        (
            "a denominator",
            Box::new(|of| of.reduce.as_mut().expect("there is one").denominator = Some(sum_of_blocks())),
        ),
        (
            "a state",
            Box::new(|of| {
                let next = sum_of_blocks();
                of.states =
                    vec![State { name: "beta".into(), axis: Axis::Run, first: 1.0, next, origin: HERE }];
            }),
        ),
    ];
    for (what, change) in changes {
        let mut objective = with(of_blocks(), Some(windows(2)));
        change(&mut objective);
        let message = "a number per block outside of the value of a term is not supported yet";
        assert_eq!(lowered(&objective).err().as_deref(), Some(message), "{what}");
    }
    // The loss of a step is a number of the step, whatever it depends on.
    let mut objective = with(of_blocks(), Some(windows(2)));
    let next = signal(PlainSignal::Loss);
    objective.states = vec![State { name: "beta".into(), axis: Axis::Run, first: 1.0, next, origin: HERE }];
    lowered(&objective).expect("it runs");
}

/// `-agreement(teacher, samples: samples, by: edit) * live student.logp`
fn agreeing(samples: u32) -> Formula {
    let by = mopd_experiment::formula::Similarity::Edit;
    let agreement = Signal::Agreement {
        role: Role::Named { teacher: TeacherId(1), name: "specialist[sort]".into() },
        samples,
        by,
    };
    let agreement = formula(FormulaKind::Signal(agreement), Axis::Block, false);
    let negated = apply(Function::Negate, [&agreement]);
    apply(Function::Multiply, [&negated, &live(Live::Part(ModelSignal::Logp))])
}

fn student_of(experiment: &mut Experiment) -> &mut Train {
    let Stage::Train(train) = &mut experiment.models[4].stage else { panic!("the student is trained") };
    train
}

fn agreeing_experiment(samples: u32, most: u32) -> Experiment {
    let mut experiment = experiment();
    student_of(&mut experiment).objective = with(agreeing(samples), Some(windows(most)));
    experiment
}

#[test]
fn agreements_are_in_the_plan() {
    let facts = |samples, most| {
        let plan = compiled(&agreeing_experiment(samples, most));
        let stage = &plan.stages[4];
        let plan::Stage::Train(train) = &plan.experiment.models[4].stage else { panic!("it trains") };
        let [agreement] = train.objective.agreements()[..] else { panic!("one is asked") };
        assert_eq!(train.scorers.name(agreement.role), "specialist[sort]");
        assert_eq!((agreement.samples, agreement.blocks, agreement.width), (samples, most, 2));
        assert!(!train.objective.reads(agreement.role), "nobody scores for it");
        (stage.key.clone(), stage.cost.flops.expect("all is known"))
    };
    let (few, many, wide) = (facts(4, 2), facts(8, 2), facts(4, 3));
    assert!(few.0 != many.0 && few.0 != wide.0 && many.0 != wide.0, "all of it is in the key");
    assert!(few.1 < many.1 && few.1 < wide.1, "{} {} {}", few.1, many.1, wide.1);
    // 64 completions in each of 10 steps have 4 more continuations of 2 windows of 2 tokens, by a model with
    // this many parameters.
    let teacher = compiled(&agreeing_experiment(4, 2)).stages[3].cost.parameters.expect("it is known") as f64;
    let more = 2.0 * teacher * 64.0 * 10.0 * 4.0 * 4.0;
    assert!((many.1 - few.1 - more).abs() <= 1e-9 * many.1, "{} {more}", many.1 - few.1);
}

#[test]
fn refuses_unsupported_agreements() {
    let refused = |change: &dyn Fn(&mut Experiment), of: &str| {
        let mut experiment = agreeing_experiment(4, 2);
        change(&mut experiment);
        let expected = format!("`agreement(specialist[sort])` {of} is not supported yet");
        assert_eq!(refusals_of(&experiment), [expected]);
    };
    refused(
        &|of| of.teachers[1].temperature = 0.5,
        "of a teacher that has its own temperature or is \
        composed of other teachers",
    );
    refused(&|of| of.teachers[1].align = Alignment::Tokens, "of a teacher with another tokenizer");
    refused(&|of| student_of(of).objective = with(agreeing(0), Some(windows(2))), "with `samples: 0`");
    let none = "one number per block without a `chunks` that defines the blocks";
    assert_refused(&with(agreeing(4), None), none);
}
