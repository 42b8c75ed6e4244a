//! The values of objectives, compared with formulas written out by hand.

use mopd_expr::batch::{Batch, Layout};
use mopd_expr::interpret::interpret;
use mopd_expr::jit::Program;
use mopd_lang::diag::{Code, Diagnostic};

use super::*;
use crate::lower::normal_form::normal_form;
use crate::lower::objective::StageRequest;

/// Two groups of two sequences, of 3, 1, 2 and 2 tokens.
pub const SEQUENCE: [usize; 8] = [0, 0, 0, 1, 2, 2, 3, 3];
const TOKENS: [f64; 4] = [3.0, 1.0, 2.0, 2.0];
pub const STUDENT: [f32; 8] = [-1.0, -0.25, -7.0, -2.0, -0.5, -3.0, -1.5, -0.125];
const TEACHER: [f32; 8] = [-0.5, -9.0, -0.75, -2.0, -1.5, -0.25, -1.25, -6.0];
const SAMPLER: [f32; 8] = [-1.25, -0.25, -6.5, -2.5, -0.5, -2.75, -1.5, -0.5];
const ENTROPY: [f32; 8] = [0.5, 1.5, 2.0, 0.25, 1.25, 3.0, 0.75, 2.5];
const REFERENCE: [f32; 8] = [-1.5, -0.5, -6.0, -2.25, -0.75, -2.0, -1.0, -0.25];
/// The preferred sequence of each group.
pub const CHOSEN: [f32; 4] = [1.0, 0.0, 0.0, 1.0];
const REWARD: [f32; 4] = [1.0, 0.0, 0.25, 0.75];

pub fn batch() -> Batch {
    let layout = Layout {
        sequence_of_token: SEQUENCE.iter().map(|sequence| *sequence as u32).collect(),
        group_of_sequence: vec![0, 0, 1, 1],
        groups: 2,
        ..Layout::default()
    };
    let logp =
        |role, values: [f32; 8]| (plan::Signal::Of { role, part: plan::ModelSignal::Logp }, values.to_vec());
    let signals = vec![
        logp(plan::Role::Student, STUDENT),
        logp(plan::Role::TEACHER, TEACHER),
        logp(plan::Role::Sampler, SAMPLER),
        logp(plan::Role::REFERENCE, REFERENCE),
        (plan::Signal::Chosen, CHOSEN.to_vec()),
        (plan::Signal::Of { role: plan::Role::Student, part: plan::ModelSignal::Entropy }, ENTROPY.to_vec()),
        (plan::Signal::Plain(plan::PlainSignal::Reward), REWARD.to_vec()),
        (plan::Signal::Plain(plan::PlainSignal::Length), TOKENS.map(|length| length as f32).to_vec()),
        (plan::Signal::Plain(plan::PlainSignal::Position), vec![0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 0.0, 1.0]),
    ];
    Batch { layout, signals, live: vec![STUDENT.to_vec()], step: 0, steps: 10, ..Batch::default() }
}

/// A stage with this rollout.
fn stage(rollout: Rollout) -> Train {
    Train { rollout, ..train(Recipe::Distill, &[0], student(4, 8), nll()) }
}

fn lower(objective: &Objective) -> Result<plan::Objective, Box<Diagnostic>> {
    lower_with(objective, &[])
}

pub fn lower_with(objective: &Objective, read_losses: &[String]) -> Result<plan::Objective, Box<Diagnostic>> {
    lower_by_term(objective, read_losses, false)
}

pub fn lower_by_term(
    objective: &Objective,
    read_losses: &[String],
    each_term: bool,
) -> Result<plan::Objective, Box<Diagnostic>> {
    let (_, origins) = sources();
    let request = StageRequest {
        temperature: 1.0.into(),
        vocabulary: None,
        read_losses,
        each_term,
        normal_form: normal_form(objective, Some(&stage(Rollout::new(student(4, 8).0, HERE)))),
        fused: true,
    };
    super::super::objective::lower(objective, request, super::super::Origins::new(&origins))
}

pub fn lowered(objective: &Objective) -> plan::Objective {
    lower(objective).expect("the objective is sound")
}

/// Checks that interpreter and compiled program both compute `expected` for `node`.
#[track_caller]
pub fn assert_values(objective: &plan::Objective, node: mopd_expr::graph::NodeId, expected: &[f64]) {
    assert_values_with(objective, node, expected, &[]);
}

/// [`assert_values`] with further given numbers.
#[track_caller]
pub fn assert_values_with(
    objective: &plan::Objective,
    node: mopd_expr::graph::NodeId,
    expected: &[f64],
    given: &[(plan::Signal, Vec<f32>)],
) {
    let outputs = objective.outputs();
    assert!(outputs.contains(&node));
    let mut batch = batch();
    batch.signals.extend_from_slice(given);
    let reference = interpret(&objective.graph, &outputs, &batch).expect("the batch has everything");
    let program = Program::compile(&objective.graph, &outputs).expect("compiles");
    let compiled = program.run(&batch).expect("the batch has everything");
    assert_eq!(reference.get(node).len(), expected.len());
    for (index, expected) in expected.iter().enumerate() {
        let (reference, compiled) = (reference.get(node)[index], compiled.get(node)[index]);
        assert!((reference - expected).abs() < 1e-12, "element {index}: {reference} is not {expected}");
        assert!(
            (f64::from(compiled) - expected).abs() < 1e-5,
            "element {index}: {compiled} is not {expected}"
        );
    }
}

pub fn per_token(value: impl Fn(usize) -> f64) -> Vec<f64> {
    (0..SEQUENCE.len()).map(value).collect()
}

/// Mean over tokens, then over sequences.
fn sequence_means(values: &[f64]) -> f64 {
    values.iter().zip(SEQUENCE).map(|(value, sequence)| value / TOKENS[sequence] / 4.0).sum()
}

/// MOPD (arXiv:2606.30406, eqs. 2-4): the advantage is the clipped log-ratio, the gradient that of -A log p.
#[test]
fn mopd_is_the_policy_gradient_of_the_clipped_log_ratio() {
    let objective = lowered(&mopd(5.0));
    let advantage = |token: usize| f64::from(TEACHER[token] - STUDENT[token]).clamp(-5.0, 5.0);
    let term = per_token(|token| -advantage(token) * f64::from(STUDENT[token]));
    assert_values(&objective, objective.terms[0].value, &term);
    assert_values(&objective, objective.loss, &[sequence_means(&term)]);
    assert_eq!(objective.live[0].primitive, plan::Live::Logp);
    let adjoint = per_token(|token| -advantage(token) / TOKENS[SEQUENCE[token]] / 4.0);
    assert_values(&objective, objective.live[0].adjoint, &adjoint);
    assert_values(&objective, objective.signal, &per_token(|token| advantage(token).abs()));
    let clipped = per_token(|token| f64::from((TEACHER[token] - STUDENT[token]).abs() > 5.0));
    assert_eq!(clipped.iter().sum::<f64>(), 3.0);
    assert_values(&objective, objective.clipped.expect("there is a clip"), &clipped);
    assert_eq!(objective.selected, None);
    assert!(
        objective.reads(plan::Role::TEACHER)
            && objective.reads(plan::Role::Student)
            && !objective.reads(plan::Role::Sampler)
    );
}

/// GRPO (arXiv:2402.03300, eq. 3) without a reference model: the clipped ratio is differentiated by the
/// compiler.
#[test]
fn grpo_passes_gradient_where_the_clip_is_not_the_minimum() {
    let objective = lowered(&grpo());
    let advantage = |sequence: usize| {
        let (a, b) = (f64::from(REWARD[sequence / 2 * 2]), f64::from(REWARD[sequence / 2 * 2 + 1]));
        let mean = (a + b) / 2.0;
        let deviation = ((a - mean).powi(2) + (b - mean).powi(2)).sqrt();
        (f64::from(REWARD[sequence]) - mean) / (deviation + 1e-4)
    };
    let ratio = |token: usize| f64::from(STUDENT[token] - SAMPLER[token]).exp();
    let term = per_token(|token| {
        let (ratio, advantage) = (ratio(token), advantage(SEQUENCE[token]));
        -(ratio * advantage).min(ratio.clamp(0.8, 1.28) * advantage)
    });
    assert_values(&objective, objective.loss, &[sequence_means(&term)]);
    // No gradient where the ratio has already moved beyond the bound in the direction of the advantage.
    let derivative = |token: usize| {
        let (ratio, advantage) = (ratio(token), advantage(SEQUENCE[token]));
        let beyond = (advantage > 0.0 && ratio > 1.28) || (advantage < 0.0 && ratio < 0.8);
        if beyond { 0.0 } else { -advantage * ratio }
    };
    let stopped = (0..8).filter(|token| derivative(*token) == 0.0).count();
    assert!((1..8).contains(&stopped), "{stopped} tokens are beyond the bound");
    let adjoint = per_token(|token| derivative(token) / TOKENS[SEQUENCE[token]] / 4.0);
    assert_values(&objective, objective.live[0].adjoint, &adjoint);
    assert_values(&objective, objective.signal, &per_token(|token| derivative(token).abs()));
    assert!(objective.reads(plan::Role::Sampler) && !objective.reads(plan::Role::TEACHER));
}

/// `dpo`, as the checker makes it.
pub fn dpo(beta: f64) -> Objective {
    let data = |field: &str| Rollout::new(RolloutSource::Data { field: field.into() }, HERE);
    let kind = PreferenceKind::Dpo { beta: number(beta) };
    let preference = Preference { kind, chosen: data("chosen"), rejected: data("rejected"), on: None };
    let live = formula(FormulaKind::Live(Live::Preference(preference.into())), Axis::Group, true);
    objective(live, by_steps(vec![step(Axis::Group, Axis::Batch)]))
}

/// For each group, log student / reference summed over the chosen sequence minus the same sum over the
/// rejected one.
fn margins(selected: [f64; 8]) -> [f64; 2] {
    let mut margins = [0.0; 2];
    for token in 0..8 {
        let sign = if CHOSEN[SEQUENCE[token]] == 1.0 { 1.0 } else { -1.0 };
        margins[SEQUENCE[token] / 2] += sign * selected[token] * f64::from(STUDENT[token] - REFERENCE[token]);
    }
    margins
}

/// DPO (arXiv:2305.18290, eq. 7): the mean over pairs, and its gradient, -beta * sigmoid(-beta * margin) for
/// tokens of the chosen.
#[test]
fn dpo_compares_the_two_completions_of_a_pair() {
    // The last is so large that the exponential of a margin overflows f32.
    for beta in [0.1, 1.0, 200.0] {
        let mut objective = dpo(beta);
        let mut selected = [1.0; 8];
        for selects in [false, true] {
            if selects {
                let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
                objective.select = Some(apply(Function::Greater, [&entropy, &number(0.6)]));
                selected = ENTROPY.map(|entropy| f64::from(u8::from(entropy > 0.6)));
            }
            let objective = lowered(&objective);
            let pairs = margins(selected).map(|margin| -(beta * margin));
            let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
            // The loss of a pair without a selected token would not count; here each has some.
            let loss = pairs.iter().map(|x| softplus(*x) / 2.0).sum::<f64>();
            assert!(loss < 1e4);
            let scale = loss.max(1.0);
            let reference = interpret(&objective.graph, &objective.outputs(), &batch()).unwrap();
            assert!((reference.get(objective.loss)[0] - loss).abs() < 1e-12 * scale, "{loss}");
            let derivative = per_token(|token| {
                let sign = if CHOSEN[SEQUENCE[token]] == 1.0 { 1.0 } else { -1.0 };
                let certainty = 1.0 / (1.0 + (-pairs[SEQUENCE[token] / 2]).exp());
                -beta * certainty * sign * selected[token] / 2.0
            });
            let program = Program::compile(&objective.graph, &objective.outputs()).unwrap();
            let compiled = program.run(&batch()).unwrap();
            for (token, expected) in derivative.iter().enumerate() {
                assert!(
                    (reference.get(objective.live[0].adjoint)[token] - expected).abs()
                        < 1e-12 * beta.max(1.0)
                );
                assert!(
                    (f64::from(compiled.get(objective.live[0].adjoint)[token]) - expected).abs()
                        < 2e-5 * beta.max(1.0)
                );
            }
            assert!(objective.reads(plan::Role::REFERENCE) && !objective.reads(plan::Role::Sampler));
        }
    }
}

/// Where training starts from the reference, every margin is 0, and every pair's weight is half of beta.
#[test]
fn dpo_has_its_gradient_where_the_student_is_the_reference() {
    let objective = lowered(&dpo(0.5));
    let same =
        (plan::Signal::Of { role: plan::Role::REFERENCE, part: plan::ModelSignal::Logp }, STUDENT.to_vec());
    let mut batch = batch();
    batch.signals.retain(|(signal, _)| *signal != same.0);
    batch.signals.push(same);
    let compiled = Program::compile(&objective.graph, &objective.outputs()).unwrap().run(&batch).unwrap();
    assert!((f64::from(compiled.get(objective.loss)[0]) - 2f64.ln()).abs() < 1e-6);
    for (token, derivative) in compiled.get(objective.live[0].adjoint).iter().enumerate() {
        let sign = if CHOSEN[SEQUENCE[token]] == 1.0 { 1.0 } else { -1.0 };
        assert!((derivative + sign * 0.5 * 0.5 / 2.0).abs() < 1e-6, "{derivative}");
    }
}

#[test]
fn likelihood_weighs_every_token_alike() {
    let objective = lowered(&nll());
    assert_values(&objective, objective.loss, &[STUDENT.iter().map(|logp| -f64::from(*logp) / 8.0).sum()]);
    assert_values(&objective, objective.live[0].adjoint, &[-1.0 / 8.0; 8]);
    assert_values(&objective, objective.signal, &[1.0; 8]);
    assert_eq!(objective.clipped, None);
}

/// Where a divergence is live, agreement gives no signal, whatever the weight.
#[test]
fn the_signal_of_a_divergence_is_its_weighted_value() {
    let mut weighted = mopd_top_k();
    weighted.weight = Some(signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy }));
    let objective = lowered(&weighted);
    // The batch's live values stand for the divergences.
    assert_values(
        &objective,
        objective.signal,
        &per_token(|token| f64::from(ENTROPY[token] * STUDENT[token]).abs()),
    );
}

/// Means are conditional: over the selected tokens of a sequence, then over the sequences that have any.
#[test]
fn selection_gives_conditional_means() {
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let mut selective = mopd(5.0);
    selective.select = Some(apply(Function::Greater, [&entropy, &number(0.6)]));
    selective.weight = Some(entropy);
    let objective = lowered(&selective);
    // Sequence 0 has tokens 1 and 2, sequence 1 none, sequences 2 and 3 both of theirs.
    let selected = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    assert_values(&objective, objective.selected.expect("there is a select"), &selected);
    let advantage = |token: usize| f64::from(TEACHER[token] - STUDENT[token]).clamp(-5.0, 5.0);
    let coefficient = |token: usize| -advantage(token) * f64::from(ENTROPY[token]) * selected[token];
    let loss = (0..8).map(|token| coefficient(token) * f64::from(STUDENT[token]) / 2.0 / 3.0).sum();
    assert_values(&objective, objective.loss, &[loss]);
    assert_values(&objective, objective.live[0].adjoint, &per_token(|token| coefficient(token) / 2.0 / 3.0));
    assert_values(&objective, objective.signal, &per_token(|token| coefficient(token).abs()));
    let term = per_token(|token| -advantage(token) * f64::from(STUDENT[token]));
    assert_values(&objective, objective.terms[0].value, &term);
}

/// A formula has one meaning in `select`, in a weight and in a term. Statistics and reductions include tokens
/// that `select` leaves out, unless they have `among: selected`.
#[test]
fn a_formula_means_the_same_beside_a_select() {
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let relative = apply(Function::Divide, [&entropy, &reduce(Reduction::Mean, &entropy, Axis::Batch)]);
    let mut selective = nll();
    selective.select = Some(apply(Function::Greater, [&relative, &number(1.0)]));
    selective.weight = Some(relative);
    let objective = lowered(&selective);
    // The mean entropy of all tokens is 1.46875: tokens 1, 2, 5 and 7 are above it.
    let selected = [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0];
    assert_values(&objective, objective.selected.expect("there is a select"), &selected);
    let expected = |mean: f64| per_token(|token| -f64::from(ENTROPY[token]) / mean / 4.0 * selected[token]);
    assert_values(&objective, objective.live[0].adjoint, &expected(1.46875));
    assert!(objective.normal_form.token_allocation.contains("; statistics over all trained tokens;"));

    // `among: selected`
    let narrowed = |operand: &Formula, over, among: &Formula| {
        let (operand, among) = (operand.clone(), Some(among.clone()));
        formula(
            FormulaKind::Reduce { reduction: Reduction::Mean, operand, among, on: None, fraction: None },
            over,
            false,
        )
    };
    let chosen = signal(PlainSignal::Selected);
    selective.weight = Some(apply(Function::Divide, [&entropy, &narrowed(&entropy, Axis::Batch, &chosen)]));
    let objective = lowered(&selective);
    assert_values(&objective, objective.live[0].adjoint, &expected((1.5 + 2.0 + 3.0 + 2.5) / 4.0));
    assert!(objective.normal_form.token_allocation.contains("; statistics over the selected tokens;"));

    // A mean of means over all sequences, and over those with a selected token, which sequence 1 has not.
    let level = reduce(Reduction::Mean, &entropy, Axis::Sequence);
    let some = reduce(Reduction::Any, &chosen, Axis::Sequence);
    let narrowed_level = narrowed(&entropy, Axis::Sequence, &chosen);
    for (mean, expected) in [
        (reduce(Reduction::Mean, &level, Axis::Batch), (4.0 / 3.0 + 0.25 + 4.25 / 2.0 + 3.25 / 2.0) / 4.0),
        (narrowed(&level, Axis::Batch, &some), (4.0 / 3.0 + 4.25 / 2.0 + 3.25 / 2.0) / 3.0),
        (narrowed(&narrowed_level, Axis::Batch, &some), ((1.5 + 2.0) / 2.0 + 3.0 + 2.5) / 3.0),
    ] {
        selective.weight = Some(mean);
        let objective = lowered(&selective);
        let adjoint = per_token(|token| -expected / 4.0 * selected[token]);
        assert_values(&objective, objective.live[0].adjoint, &adjoint);
    }
}

/// The maximum of the batch, tokens above a quantile, ranks, shares: of all trained tokens, or of the
/// selected ones.
#[test]
fn statistics_beside_a_select_run_over_all_trained_tokens() {
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let mut selective = nll();
    selective.select = Some(apply(Function::Less, [&entropy, &number(2.0)]));
    let selected = ENTROPY.map(|entropy| entropy < 2.0);
    let among = |among: Option<Formula>| FormulaKind::Statistic {
        statistic: Statistic::Minmax,
        operand: entropy.clone(),
        over: Axis::Batch,
        among,
        fraction: None,
    };
    for (among, largest) in [(among(None), 3.0), (among(Some(signal(PlainSignal::Selected))), 1.5)] {
        selective.weight = Some(formula(among, Axis::Token, false));
        let objective = lowered(&selective);
        let share = |token: usize| (f64::from(ENTROPY[token]) - 0.25) / (largest - 0.25);
        let adjoint = per_token(|token| if selected[token] { -share(token) / 5.0 } else { 0.0 });
        assert_values(&objective, objective.live[0].adjoint, &adjoint);
    }
}

/// Prune-OPD (the recipe in the standard library): a weight that falls with a running sum up to the token.
#[test]
fn scans_run_along_all_trained_tokens() {
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let scan = FormulaKind::Scan { scan: Scan::Sum, operand: entropy.clone(), over: Axis::Sequence };
    let mut selective = nll();
    selective.select = Some(apply(Function::Greater, [&entropy, &number(0.6)]));
    selective.weight = Some(formula(scan, Axis::Token, false));
    let objective = lowered(&selective);
    let running = [0.0, 2.0, 4.0, 0.0, 1.25, 4.25, 0.75, 3.25];
    assert_values(&objective, objective.live[0].adjoint, &per_token(|token| -running[token] / 6.0));
}

/// VPD's preferences (the recipe in the standard library): a loss per completion, for some completions.
#[test]
fn a_condition_per_sequence_leaves_a_loss_per_sequence() {
    let surprise = reduce(Reduction::Sum, &live(Live::Part(ModelSignal::Logp)), Axis::Sequence);
    let among_when = ReduceStep { among_when: true, ..step(Axis::Sequence, Axis::Batch) };
    let mut judged = objective(apply(Function::Softplus, [&surprise]), by_steps(vec![among_when]));
    judged.terms[0].when = Some(apply(Function::Greater, [&signal(PlainSignal::Reward), &number(0.5)]));
    let objective = lowered(&judged);
    let sum = |sequence: usize| -> f64 {
        (0..8).filter(|token| SEQUENCE[*token] == sequence).map(|token| f64::from(STUDENT[token])).sum()
    };
    let judged = |sequence: usize| REWARD[sequence] > 0.5;
    let losses: Vec<f64> =
        (0..4).filter(|sequence| judged(*sequence)).map(|sequence| sum(sequence).exp().ln_1p()).collect();
    assert_eq!(losses.len(), 2);
    assert_values(&objective, objective.loss, &[(losses[0] + losses[1]) / 2.0]);
    let adjoint = |token: usize| {
        let sequence = SEQUENCE[token];
        if judged(sequence) { 0.5 / (1.0 + (-sum(sequence)).exp()) } else { 0.0 }
    };
    assert_values(&objective, objective.live[0].adjoint, &per_token(adjoint));
}

/// The loss of each of two terms without weights, where weights and a condition apply, and one has its own
/// reduction.
#[test]
fn the_loss_of_a_term_is_without_weights() {
    let mut both = nll();
    both.weight = Some(number(3.0));
    both.terms[0].weight = Some(number(5.0));
    let unsure = apply(
        Function::Greater,
        [&signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy }), &number(0.6)],
    );
    let own = live(Live::Part(ModelSignal::Logp));
    both.terms.push(Term { when: Some(unsure), reduce: Some(sequence_mean()), ..term("own", own) });
    let names: Vec<String> = both.terms.iter().map(|term| term.name.clone()).collect();
    let objective = lower_with(&both, &names).unwrap();
    let [first, own] = objective.term_losses.as_slice() else { panic!("{:?}", objective.term_losses) };
    assert_eq!([&first.term, &own.term], [&names[0], "own"]);
    let student = per_token(|token| f64::from(STUDENT[token]));
    let first_loss = -student.iter().sum::<f64>() / 8.0;
    let unsure = |token: usize| if ENTROPY[token] > 0.6 { student[token] } else { 0.0 };
    let own_loss = sequence_means(&per_token(unsure));
    assert_values(&objective, first.loss, &[first_loss]);
    assert_values(&objective, own.loss, &[own_loss]);
    assert_values(&objective, objective.loss, &[15.0 * first_loss + 3.0 * own_loss]);
    assert!(lowered(&both).term_losses.is_empty(), "nobody reads them");
}

#[test]
fn carried_number_is_an_output_of_the_graph() {
    let mean = reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Batch);
    let memory = FormulaKind::Memory { memory: Memory::Previous, operand: mean };
    let mut remembering = nll();
    remembering.weight = Some(formula(memory, Axis::Batch, false));
    let objective = lowered(&remembering);
    let [(memory, source)] = objective.graph.carried(&objective.outputs())[..] else {
        panic!("one number is carried")
    };
    // At the first step, the carried number is that of the step itself.
    assert_values(&objective, source, &[0.5]);
    assert_values(&objective, objective.live[0].adjoint, &[-0.5 / 8.0; 8]);
    let later = Batch { carried: [(memory, 4.0)].into(), ..batch() };
    let adjoint = objective.live[0].adjoint;
    assert_eq!(
        interpret(&objective.graph, &[adjoint], &later).expect("the batch has everything").get(adjoint),
        [-0.5; 8]
    );
}

/// A random choice is the same wherever it is read; another formula is another choice.
#[test]
fn a_random_choice_is_the_same_wherever_it_is_read() {
    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let sample = || statistic(Statistic::SampleWithoutReplacement { keep: 0.5 }, &entropy, Axis::Batch);
    let (chosen, other) = (sample(), sample());
    let mut selective = nll();
    selective.select = Some(chosen.clone());
    selective.weight = Some(apply(Function::Add, [&chosen, &other]));
    let objective = lowered(&selective);
    let signals = objective.graph.signals(&objective.outputs());
    let draws: Vec<&plan::Signal> =
        signals.iter().filter(|signal| matches!(signal, plan::Signal::Uniform { .. })).collect();
    assert_eq!(
        draws,
        [0, 1].map(|draw| plan::Signal::Uniform { draw, axis: Axis::Token }).iter().collect::<Vec<_>>()
    );
}

/// In G-OPD at scale 1 the reference cancels, and a coefficient of 0 removes what it multiplies.
#[test]
fn cancelled_operands_are_not_computed() {
    let beyond = |scale: f64| {
        let scaled = apply(Function::Subtract, [&logp(Role::Teacher), &logp(Role::Sampler)]);
        let scaled = if scale == 1.0 { scaled } else { apply(Function::Multiply, [&number(scale), &scaled]) };
        apply(
            Function::Subtract,
            [&scaled, &apply(Function::Subtract, [&logp(Role::Student), &logp(Role::Sampler)])],
        )
    };
    let of = |advantage: Formula| {
        lowered(&objective(
            apply(Function::Multiply, [&advantage, &live(Live::Part(ModelSignal::Logp))]),
            token_mean(),
        ))
    };
    assert!(of(beyond(1.25)).reads(plan::Role::Sampler));
    let plain = of(beyond(1.0));
    assert!(plain.reads(plan::Role::TEACHER) && !plain.reads(plan::Role::Sampler));
    let off = apply(Function::Multiply, [&number(0.0), &logp(Role::Sampler)]);
    assert!(!of(apply(Function::Add, [&logp(Role::Teacher), &off])).reads(plan::Role::Sampler));
    let mut both = nll();
    let divergence = Live::Divergence(divergence(DivergenceKind::Kl, Support::Full));
    both.terms.push(term("off", apply(Function::Multiply, [&number(0.0), &live(divergence)])));
    let both = lowered(&both);
    assert!(both.live.len() == 1 && !both.reads(plan::Role::TEACHER));
}

/// Gradient through a reduction inside a term reaches every token of it.
#[test]
fn a_live_mean_spreads_its_gradient() {
    let mean = reduce(Reduction::Mean, &live(Live::Part(ModelSignal::Logp)), Axis::Sequence);
    let advantage = signal(PlainSignal::Reward);
    let term = apply(Function::Multiply, [&apply(Function::Negate, [&advantage]), &mean]);
    let objective = lowered(&objective(term, sequence_mean()));
    let adjoint = per_token(|token| -f64::from(REWARD[SEQUENCE[token]]) / TOKENS[SEQUENCE[token]] / 4.0);
    assert_values(&objective, objective.live[0].adjoint, &adjoint);
    assert_values(&objective, objective.signal, &per_token(|token| f64::from(REWARD[SEQUENCE[token]])));
    let term = per_token(|token| {
        let tokens = (0..8).filter(|other| SEQUENCE[*other] == SEQUENCE[token]);
        let sum: f64 = tokens.map(|other| f64::from(STUDENT[other])).sum();
        -f64::from(REWARD[SEQUENCE[token]]) * sum / TOKENS[SEQUENCE[token]]
    });
    assert_values(&objective, objective.terms[0].value, &term);
}

#[test]
fn several_terms_add_up_and_share_primitives() {
    let mut both = mopd(5.0);
    both.terms.push(term("imitate", nll().terms[0].value.clone()));
    let objective = lowered(&both);
    assert_eq!(objective.live.len(), 1);
    let coefficient = |token: usize| -f64::from(TEACHER[token] - STUDENT[token]).clamp(-5.0, 5.0) - 1.0;
    let adjoint = per_token(|token| coefficient(token) / TOKENS[SEQUENCE[token]] / 4.0);
    assert_values(&objective, objective.live[0].adjoint, &adjoint);
    assert_values(&objective, objective.terms[1].value, &per_token(|token| -f64::from(STUDENT[token])));
}

#[test]
fn shared_parts_are_lowered_once() {
    let mut shared = live(Live::Part(ModelSignal::Logp));
    for _ in 0..60 {
        shared = apply(Function::Tanh, [&apply(Function::Add, [&shared, &shared])]);
    }
    let objective = lowered(&objective(shared, sequence_mean()));
    assert!(objective.graph.len() < 1000, "{} nodes", objective.graph.len());
}

#[test]
fn normal_forms_say_what_the_papers_say() {
    let form = lowered(&mopd(5.0)).normal_form;
    assert_eq!(form.prefixes, "student rollouts (8 per prompt, temperature 1)");
    assert_eq!(form.sequence_selection, "all");
    assert_eq!(
        form.token_allocation,
        "all tokens; mean over the tokens of each sequence, then mean over the sequences of the batch"
    );
    assert_eq!((form.support.as_str(), form.mass.as_str()), ("sampled token", "none"));
    assert_eq!((form.divergence.as_str(), form.evaluation.as_str()), ("sampled log-ratio", "sampled at y_t"));
    assert_eq!((form.shaping.as_str(), form.realisation.as_str()), ("clip ±5", "score"));

    let form = lowered(&grpo()).normal_form;
    assert_eq!((form.divergence.as_str(), form.realisation.as_str()), ("reward", "surrogate (ratio)"));
    assert_eq!(form.shaping, "zscore over group, clip to [0.8, 1.28], min");

    let form = lowered(&nll()).normal_form;
    assert_eq!((form.divergence.as_str(), form.shaping.as_str()), ("likelihood", "none"));
    assert_eq!(form.token_allocation, "all tokens; mean over the tokens of the batch");

    let form = lowered(&mopd_top_k()).normal_form;
    assert_eq!((form.support.as_str(), form.mass.as_str()), ("top_k(teacher, 64)", "generalized"));
    assert_eq!(
        (form.divergence.as_str(), form.evaluation.as_str()),
        ("KL(student || teacher)", "exact over the support")
    );
    assert_eq!(form.realisation, "direct");

    let entropy = signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let top = statistic(Statistic::TopFraction { keep: 0.5 }, &entropy, Axis::Batch);
    let custom =
        apply(Function::Multiply, [&apply(Function::Tanh, [&entropy]), &live(Live::Part(ModelSignal::Logp))]);
    let mut custom = objective(custom, token_mean());
    custom.select = Some(top);
    custom.weight = Some(apply(Function::Subtract, [&number(1.0), &entropy]));
    let form = lowered(&custom).normal_form;
    assert_eq!((form.divergence.as_str(), form.shaping.as_str()), ("custom expression", "tanh"));
    assert_eq!(
        form.token_allocation,
        "tokens where top_fraction(student.entropy, keep: 0.5, over: batch); weight 1 - student.entropy; \
         mean over the tokens of the batch"
    );

    // The sampler is the student as it was when it wrote the tokens.
    let advantage = apply(Function::Subtract, [&logp(Role::Teacher), &logp(Role::Sampler)]);
    let negated = apply(Function::Negate, [&advantage]);
    let form =
        lowered(&objective(apply(Function::Multiply, [&negated, &live_ratio()]), token_mean())).normal_form;
    assert_eq!(
        (form.divergence.as_str(), form.realisation.as_str()),
        ("sampled log-ratio", "surrogate (ratio)")
    );

    let mean = reduce(
        Reduction::Mean,
        &apply(Function::Subtract, [&live(Live::Part(ModelSignal::Logp)), &logp(Role::Sampler)]),
        Axis::Sequence,
    );
    let sequence_ratio =
        apply(Function::Multiply, [&signal(PlainSignal::Reward), &apply(Function::Exp, [&mean])]);
    let form = lowered(&objective(sequence_ratio, sequence_mean())).normal_form;
    assert_eq!(
        (form.divergence.as_str(), form.realisation.as_str()),
        ("reward", "surrogate (sequence ratio)")
    );

    custom.select = Some(signal(PlainSignal::Correct));
    let form = lowered(&custom).normal_form;
    assert_eq!(form.sequence_selection, "where correct");
}

/// Objectives that can't be lowered have a normal form, too: gradient through a statistic, an incomplete
/// `reduce`, no stage.
#[test]
fn objectives_that_cannot_be_lowered_have_a_normal_form() {
    let ranked = statistic(Statistic::Minmax, &live(Live::Part(ModelSignal::Logp)), Axis::Batch);
    let mut odd =
        objective(apply(Function::Multiply, [&signal(PlainSignal::Reward), &ranked]), sequence_mean());
    odd.reduce = Some(by_steps(vec![step(Axis::Token, Axis::Sequence)]));
    assert!(lower(&odd).is_err());
    let form = normal_form(&odd, None);
    assert_eq!(form.prefixes, "the stage's choice");
    assert_eq!(form.token_allocation, "all tokens; mean over the tokens of each sequence");
    assert_eq!((form.divergence.as_str(), form.shaping.as_str()), ("reward", "minmax over batch"));
    assert_eq!(form.realisation, "surrogate (custom expression)");

    let detached = normal_form(&objective(signal(PlainSignal::Reward), token_mean()), None);
    assert_eq!((detached.divergence.as_str(), detached.realisation.as_str()), ("none", "none"));
}

/// Each summand has its own factors.
#[test]
fn a_coefficient_is_what_its_own_summand_multiplies() {
    let ratio = apply(Function::Subtract, [&logp(Role::Teacher), &logp(Role::Student)]);
    let policy = apply(Function::Multiply, [&ratio, &live(Live::Part(ModelSignal::Logp))]);
    let exact = apply(Function::Multiply, [&signal(PlainSignal::Reward), &mopd_top_k().terms[0].value]);
    let form = normal_form(&objective(apply(Function::Subtract, [&policy, &exact]), token_mean()), None);
    assert_eq!(form.divergence, "sampled log-ratio + KL(student || teacher)");
    assert_eq!(form.realisation, "score + direct");
    assert_eq!(form.support, "sampled token + top_k(teacher, 64)");
}

/// The code of the only diagnostic, the text at its place, and its message.
fn refused(objective: &Objective) -> (Code, String, String) {
    let found = lower(objective).expect_err("the objective is unsound");
    let (sources, _) = sources();
    (found.code, sources.text(found.primary.span).to_string(), found.message.clone())
}

#[test]
fn live_without_derivative_is_refused_at_its_place() {
    let ranked = statistic(Statistic::Minmax, &live(Live::Part(ModelSignal::Logp)), Axis::Batch);
    let (code, place, message) = refused(&objective(ranked, token_mean()));
    assert_eq!((code, place.as_str()), (Code::NotDifferentiable, "formula"));
    assert_eq!(message, "`minmax` of something `live` has no derivative");

    let compared = apply(Function::Greater, [&live(Live::Part(ModelSignal::Logp)), &number(-1.0)]);
    assert_eq!(refused(&objective(compared, token_mean())).0, Code::NothingLive);
    assert_eq!(refused(&objective(logp(Role::Student), token_mean())).0, Code::NothingLive);

    // The reason is the condition, which a size of the plan decides, not the term.
    let never = apply(Function::Less, [&number(1.0), &number(0.0)]);
    let mut empty = nll();
    empty.terms[0].when = Some(never.clone());
    let (code, _, message) = refused(&empty);
    assert_eq!((code, message.as_str()), (Code::NeverHolds, "`when` never holds: nothing is trained on"));
    let mut empty = nll();
    empty.select = Some(never);
    assert_eq!(refused(&empty).0, Code::NeverHolds);

    let mut weighted = nll();
    weighted.weight = Some(live(Live::Part(ModelSignal::Logp)));
    assert_eq!(refused(&weighted).0, Code::LiveOutsideTerm);
}

#[test]
fn reduce_that_does_not_end_in_one_number_is_refused() {
    let mut per_sequence = mopd(5.0);
    per_sequence.reduce = Some(by_steps(vec![step(Axis::Token, Axis::Sequence)]));
    let (code, place, message) = refused(&per_sequence);
    assert_eq!((code, place.as_str()), (Code::MissingReduce, "everything"));
    assert_eq!(message, "the `reduce` of `objective` ends in one number per sequence, not in one number");

    let mut out_of_order = mopd(5.0);
    out_of_order.reduce =
        Some(by_steps(vec![step(Axis::Sequence, Axis::Batch), step(Axis::Token, Axis::Sequence)]));
    assert_eq!(refused(&out_of_order).0, Code::AxisMismatch);
    let upwards = reduce(Reduction::Mean, &number(1.0), Axis::Batch);
    let upwards = apply(Function::Multiply, [&upwards, &live(Live::Part(ModelSignal::Logp))]);
    assert_eq!(refused(&objective(upwards, token_mean())).0, Code::AxisMismatch);
    let infinite = apply(Function::Multiply, [&number(f64::INFINITY), &live(Live::Part(ModelSignal::Logp))]);
    assert_eq!(refused(&objective(infinite, token_mean())).0, Code::OutOfRange);
    let mut empty = nll();
    empty.terms.clear();
    assert_eq!(refused(&empty).0, Code::MissingTerm);
}

/// The trained policy is the student at its sampling temperature. Where others wrote, or pairs are compared,
/// it is the student at 1. A setting overrides both.
#[test]
fn the_temperature_is_that_of_the_policy() {
    let sampled = |temperature| {
        let RolloutSource::Sample(sampling) = student(4, 8).0 else { panic!("the student samples") };
        let temperature = number(temperature);
        Rollout::new(RolloutSource::Sample(Sampling { temperature, ..sampling }), HERE)
    };
    let data = Rollout::new(RolloutSource::Data { field: "answer".into() }, HERE);
    assert_eq!(
        [0.6, 1.0, 0.0].map(|temperature| grpo().temperature_on(&sampled(temperature))),
        [0.6, 1.0, 1.0].map(Temperature::from)
    );
    assert_eq!(nll().temperature_on(&data), 1.0.into());
    assert_eq!(dpo(0.1).temperature_on(&sampled(0.6)), 1.0.into());
    let said = Objective { temperature: Some(1.0), ..grpo() };
    assert_eq!(said.temperature_on(&sampled(0.6)), 1.0.into());
    let form = normal_form(&grpo(), Some(&stage(sampled(0.6))));
    assert_eq!(form.evaluation, "sampled at y_t, at temperature 0.6");
    assert_eq!(normal_form(&grpo(), Some(&stage(sampled(1.0)))).evaluation, "sampled at y_t");
    let mut cools = sampled(1.0);
    let RolloutSource::Sample(sampling) = &mut cools.source else { panic!("the student samples") };
    sampling.temperature = schedule(Schedule::Linear { from: 1.0, to: 0.5, over: ScheduleLength::Run });
    let form = normal_form(&grpo(), Some(&stage(cools)));
    assert_eq!(form.evaluation, "sampled at y_t, at temperature linear(1 -> 0.5)");
}
