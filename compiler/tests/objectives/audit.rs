//! Tests of the gradient audit through its public interface: reference numbers for estimators and truncated
//! divergences, and the verdicts on them.
//!
//! Numbers without their own source are for one pair of distributions over five tokens, the teacher's and the
//! student's below, with gradients with respect to the student's logits.

use mopd_compiler::audit::{
    Audit, ExpectedGradient, ObjectiveUse, Sampler, ToyModel, Verdict, audit, expected,
};
use mopd_experiment::formula::Role;
use mopd_experiment::{Objective, TeacherId};
use mopd_lang::source::SourceFile;

const TEACHER: [f64; 5] = [0.50, 0.25, 0.15, 0.07, 0.03];
const STUDENT: [f64; 5] = [0.30, 0.30, 0.20, 0.15, 0.05];
const REVERSE: [f64; 5] = [-0.18290, 0.02504, 0.03777, 0.09949, 0.02060];
const FORWARD: [f64; 5] = [-0.20, 0.05, 0.05, 0.08, 0.02];

/// An objective with these lines before its `reduce`.
fn objective(body: &str) -> Objective {
    let text = format!(
        "objective o(first: teacher, second: teacher) {{\n{body}\nreduce = mean(token, over: batch)\n}}\n"
    );
    let entry = SourceFile { path: "o.mopd".into(), text };
    let analysis = mopd_lang::analyse(entry, &|_| None);
    match analysis.objectives.into_iter().next() {
        Some(named) => named.objective,
        None => panic!("{body}: {:?}", analysis.diagnostics),
    }
}

fn term(value: &str) -> Objective {
    objective(&format!("term t = {value}"))
}

fn at(value: &str, student: &[f64], teacher: &[f64]) -> ExpectedGradient {
    expected(&term(value), 0, &ToyModel::from_distributions(student, teacher))
        .unwrap_or_else(|why| panic!("{value}: {why}"))
}

fn here(value: &str) -> ExpectedGradient {
    at(value, &STUDENT, &TEACHER)
}

fn close(found: &[f64], known: &[f64], within: f64) {
    assert_eq!(found.len(), known.len());
    assert!(
        found.iter().zip(known).all(|(found, known)| (found - known).abs() <= within),
        "{found:?} is not {known:?}"
    );
}

fn audited(value: &str) -> Audit {
    audit(&term(value), &ObjectiveUse::unknown())
}

/// The verdict on the one term, for tokens that the student samples.
fn verdict(value: &str) -> String {
    audited(value).terms[0].findings[0].verdict.text()
}

fn says(value: &str, expected: &str) {
    assert_eq!(verdict(value), expected, "{value}");
}

#[test]
fn both_directions_have_the_known_values_and_gradients() {
    let reverse = here("live kl(student || teacher)");
    close(&[reverse.value], &[0.098847], 1e-6);
    close(&reverse.gradient, &REVERSE, 1e-5);
    let forward = here("live kl(teacher || student)");
    close(&[forward.value], &[0.098006], 1e-6);
    close(&forward.gradient, &FORWARD, 1e-12);
}

#[test]
fn k1_differentiated_has_no_gradient() {
    for k1 in [
        "live student.logp - teacher.logp",
        "-(teacher.logp - live student.logp)",
        "-log(exp(teacher.logp) / exp(live student.logp))",
    ] {
        close(&here(k1).gradient, &[0.0; 5], 1e-15);
        says(k1, "carries no signal: the mean gradient is exactly 0");
    }
    // Its value is a good estimate all the same, which is how it goes unseen.
    close(&[here("live student.logp - teacher.logp").value], &[0.098847], 1e-6);
}

#[test]
fn k2_k3_and_the_absolute_value_follow_what_they_are_known_to() {
    let d = "(live student.logp - teacher.logp)";
    let (k2, k3) = (format!("{d}^2 / 2"), format!("exp(-{d}) - 1 + {d}"));
    close(&here(&k2).gradient, &REVERSE, 1e-5);
    close(&here(&k3).gradient, &FORWARD, 1e-12);
    close(&here(&format!("abs{d}")).gradient, &[-0.42, 0.18, 0.12, 0.09, 0.03], 1e-12);
    says(&k2, "follows 1.00 * grad KL(student || teacher)");
    says(&k3, "follows 1.00 * grad KL(teacher || student)");
    says(&format!("abs{d}"), "follows 2.00 * grad TV(teacher, student)");
    let audit = audited(&k3);
    assert_eq!(
        audit.terms[0].findings[0].misleads(),
        Some(("KL(student || teacher)", "KL(teacher || student)"))
    );
    assert_eq!(audited(&k2).terms[0].findings[0].misleads(), None);
}

/// The table of estimators and realisations: direct, and as a factor of the score.
#[test]
fn every_estimator_is_told_by_its_gradient() {
    let d = "(student.logp - teacher.logp)";
    let live = "(live student.logp - teacher.logp)";
    says(live, "carries no signal: the mean gradient is exactly 0");
    says(&format!("{d} * live student.logp"), "follows 1.00 * grad KL(student || teacher)");
    says(&format!("{live}^2 / 2"), "follows 1.00 * grad KL(student || teacher)");
    let squared = verdict(&format!("{d}^2 / 2 * live student.logp"));
    assert!(squared.starts_with("no named divergence"), "{squared}");
    says(&format!("exp(-{live}) - 1 + {live}"), "follows 1.00 * grad KL(teacher || student)");
    says(
        &format!("(exp(-{d}) - 1 + {d}) * live student.logp"),
        "mixture: follows 1.00 * grad KL(student || teacher) - 1.00 * grad KL(teacher || student)",
    );
    says("live kl(student || teacher)", "follows 1.00 * grad KL(student || teacher)");
    says("live kl(teacher || student)", "follows 1.00 * grad KL(teacher || student)");
}

#[test]
fn off_policy_the_estimators_need_their_weight() {
    let sampler = [0.10, 0.20, 0.20, 0.20, 0.30];
    // A later update: the student that drew the tokens is the one before these updates.
    let toy = || {
        let toy = ToyModel::from_distributions(&STUDENT, &TEACHER);
        toy.with(Role::Old, &sampler).with(Role::Sampler, &sampler)
    };
    let on = |value: &str| expected(&term(value), 0, &toy()).expect("it can be enumerated").gradient;
    let k2 = "(live student.logp - teacher.logp)^2 / 2";
    close(&on(&format!("ratio * ({k2})")), &REVERSE, 1e-5);
    assert!((on(k2)[0] - REVERSE[0]).abs() > 0.01);
    // k1 is not 0 there, and no more the divergence's than before.
    let k1 = on("live student.logp - teacher.logp");
    let score: Vec<f64> = sampler.iter().zip(&STUDENT).map(|(drawn, own)| drawn - own).collect();
    close(&k1, &score, 1e-12);
    close(&on("-(teacher.logp - student.logp) * live ratio"), &REVERSE, 1e-5);
    // Somebody else drew them: the ratio to the student before the updates does not correct for that.
    let elsewhere = ToyModel::from_distributions(&STUDENT, &TEACHER).with(Role::Sampler, &sampler);
    let on = |value: &str| expected(&term(value), 0, &elsewhere).expect("it can be enumerated").gradient;
    assert!((on(&format!("ratio * ({k2})"))[0] - REVERSE[0]).abs() > 0.01);
    close(&on(&format!("exp(student.logp - sampler.logp) * ({k2})")), &REVERSE, 1e-5);
}

const TOP_2: &str = "support: top_k(teacher, 2)";

#[test]
fn a_partial_sum_pulls_even_where_student_and_teacher_agree() {
    let pull = [-0.125, -0.0625, 0.1125, 0.0525, 0.0225];
    let agreed = |value: &str| at(value, &TEACHER, &TEACHER).gradient;
    close(&agreed(&format!("live kl(teacher || student, {TOP_2}, mass: raw)")), &pull, 1e-12);
    close(
        &agreed(&format!("live kl(student || teacher, {TOP_2}, mass: raw)")),
        &pull.map(|derivative| -derivative),
        1e-12,
    );
    for mass in ["generalized", "tail", "renormalized"] {
        for sides in ["teacher || student", "student || teacher"] {
            let value = format!("live kl({sides}, {TOP_2}, mass: {mass})");
            close(&agreed(&value), &[0.0; 5], 1e-15);
            assert_eq!(audited(&value).terms[0].findings[0].stationary_at_teacher, Some(true), "{value}");
        }
    }
    let generalized = here(&format!("live kl(student || teacher, {TOP_2}, mass: generalized)"));
    close(&[generalized.value], &[0.051449], 1e-6);
    let raw = audited(&format!("live kl(student || teacher, {TOP_2}, mass: raw)"));
    assert_eq!(raw.terms[0].findings[0].stationary_at_teacher, Some(false));
}

/// arXiv:2605.11182: the bare reverse sum is the one with a detached logarithm, which is the generalized one,
/// plus the student's mass on the support.
#[test]
fn the_bare_reverse_sum_also_moves_mass() {
    let gradient = |mass: &str| here(&format!("live kl(student || teacher, {TOP_2}, mass: {mass})")).gradient;
    // The mass of the first two tokens, 0.6: its derivative is p (1 - 0.6) inside and -0.6 p outside.
    let mass: Vec<f64> =
        STUDENT.iter().enumerate().map(|(entry, p)| p * if entry < 2 { 0.4 } else { -0.6 }).collect();
    let difference: Vec<f64> =
        gradient("raw").iter().zip(gradient("generalized")).map(|(raw, own)| raw - own).collect();
    close(&difference, &mass, 1e-12);
}

#[test]
fn a_divergence_as_an_advantage_teaches_nothing() {
    for sides in ["student || teacher", "teacher || student"] {
        for support in [TOP_2, "support: top_k(student, 2)"] {
            let value = format!("kl({sides}, {support}, mass: raw) * live student.logp");
            close(&here(&value).gradient, &[0.0; 5], 1e-15);
            says(&value, "carries no signal: the mean gradient is exactly 0");
        }
    }
}

#[test]
fn a_bound_on_a_negative_sum_deletes_its_gradient() {
    let student = [0.62, 0.30, 0.05, 0.02, 0.01];
    let on = |value: &str| at(value, &student, &TEACHER);
    let sum = |mass: &str| format!("live kl(teacher || student, {TOP_2}, mass: {mass})");
    close(&[on(&sum("raw")).value, on(&sum("tail")).value], &[-0.153136, 0.131722], 1e-6);
    close(&[on("live kl(teacher || student)").value], &[0.132308], 1e-6);
    let bounded = on(&format!("max({}, 0)", sum("raw")));
    assert_eq!(bounded.value, 0.0);
    assert!(bounded.gradient.iter().all(|derivative| *derivative == 0.0));
}

/// A logarithm of a probability is what it is, however small that is: a declared divergence is the built-in
/// one of the same formula.
#[test]
fn declared_divergences_of_tiny_probabilities_are_the_known_ones() {
    let (some, tiny) = ([0.25, 0.25, 0.25, 0.25 - 1e-3, 1e-3], [0.4, 0.3, 0.2, 0.1, 1e-200]);
    for (formula, known) in [
        ("p * log(p / q)", "live kl(student || teacher)"),
        ("p * (log(p) - log(q))", "live kl(student || teacher)"),
        ("p * log(p / (0.5 * p + 0.5 * q))", "live kl(student || blend(student: 0.5, teacher: 0.5))"),
    ] {
        let text = format!(
            "divergence own(p || q) = {formula}\nobjective o {{\nterm t = live own(student || teacher)\n\
             reduce = mean(token, over: batch)\n}}\n"
        );
        let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text }, &|_| None);
        let own = analysis.objectives.first().unwrap_or_else(|| panic!("{:?}", analysis.diagnostics));
        for (student, teacher) in [(some, tiny), (tiny, some), (tiny, tiny)] {
            let found = expected(&own.objective, 0, &ToyModel::from_distributions(&student, &teacher))
                .expect("a number");
            let known = at(known, &student, &teacher);
            close(&[found.value], &[known.value], 1e-12);
            close(&found.gradient, &known.gradient, 1e-12);
        }
    }
    // By hand: an entry of 1e-3 against one of 1e-200.
    let known = at("live kl(student || teacher)", &some, &tiny);
    let by_hand: f64 = some.iter().zip(&tiny).map(|(p, q)| p * (p.ln() - q.ln())).sum();
    close(&[known.value], &[by_hand], 1e-12);
}

#[test]
fn a_support_that_holds_everything_has_no_tail() {
    let whole = here("live kl(teacher || student)");
    for k in [5, 8] {
        for mass in ["tail", "renormalized", "generalized", "raw"] {
            let same =
                here(&format!("live kl(teacher || student, support: top_k(teacher, {k}), mass: {mass})"));
            close(&[same.value], &[whole.value], 1e-15);
            close(&same.gradient, &whole.gradient, 1e-15);
        }
    }
}

#[test]
fn a_renormalized_support_is_blind_to_its_mass() {
    // Twice as much on the support, in the same proportion: nothing changes.
    let more = [0.45, 0.45, 0.05, 0.03, 0.02];
    let value = format!("live kl(student || teacher, {TOP_2}, mass: renormalized)");
    close(&[here(&value).value], &[at(&value, &more, &TEACHER).value], 1e-15);
    let gradient = here(&value).gradient;
    close(&[gradient[0] + gradient[1], gradient[2], gradient[3], gradient[4]], &[0.0; 4], 1e-15);
    // On one entry both sides are 1. The checker refuses it where it is written so; here the support is found
    // to be one entry.
    let one = here("live kl(student || teacher, support: nucleus(teacher, 0.4), mass: renormalized)");
    assert_eq!((one.value, one.gradient), (0.0, vec![0.0; 5]));
}

#[test]
fn the_jensen_shannon_family_vanishes_at_its_ends() {
    let usual = |beta: f64| here(&format!("live jsd(teacher, student, beta: {beta})")).value;
    close(&[usual(0.001)], &[0.000098], 1e-6);
    close(&[usual(0.01)], &[0.00097], 1e-5);
    // With the weights of the two parts exchanged it goes over into the forward divergence.
    let exchanged = |beta: f64| {
        let rest = 1.0 - beta;
        here(&format!(
            "{rest} * live skew(teacher || student, lambda: {beta}) + {beta} * live skew(student || \
             teacher, lambda: {rest})"
        ))
        .value
    };
    close(&[exchanged(0.001)], &[0.097703], 1e-6);
    close(&[exchanged(0.5), usual(0.5)], &[0.024269; 2], 1e-6);
    // So does the one that is divided by beta * (1 - beta), at both ends.
    let normalized =
        |beta: f64| here(&format!("live jsd(teacher, student, beta: {beta}, normalized: true)")).gradient;
    close(&normalized(1e-7), &FORWARD, 1e-5);
    close(&normalized(1.0 - 1e-7), &REVERSE, 2e-5);
}

#[test]
fn families_meet_where_they_should() {
    let same = |one: &str, other: &str, factor: f64| {
        let (one, other) = (here(one), here(other));
        close(&[one.value], &[other.value * factor], 1e-6);
        close(
            &one.gradient,
            &other.gradient.iter().map(|derivative| derivative * factor).collect::<Vec<f64>>(),
            1e-6,
        );
    };
    same("live alpha(teacher || student, alpha: 2)", "live chi2(teacher || student)", 0.5);
    same("live alpha(teacher || student, alpha: 0.5)", "live hellinger(teacher, student)", 4.0);
    same("live alpha(teacher || student, alpha: 1.0000001)", "live kl(teacher || student)", 1.0);
    same("live alpha(teacher || student, alpha: 0.0000001)", "live kl(student || teacher)", 1.0);
    // Each of them stands still at the teacher on a support that is not everything.
    for divergence in [
        "hellinger(student, teacher",
        "alpha(student || teacher, alpha: 0.3",
        "chi2(student || teacher",
        "skew(student || teacher, lambda: 0.2",
    ] {
        let value = format!("live {divergence}, {TOP_2}, mass: generalized)");
        close(&at(&value, &TEACHER, &TEACHER).gradient, &[0.0; 5], 1e-12);
    }
}

#[test]
fn gradient_through_the_advantage_cancels_the_teacher() {
    let other = [0.10, 0.20, 0.30, 0.15, 0.25];
    for (value, detached) in [
        ("live student.logp - teacher.logp", false),
        ("(student.logp - teacher.logp) * live student.logp", true),
    ] {
        let [one, two] = [TEACHER, other].map(|teacher| at(value, &STUDENT, &teacher).gradient);
        let same = one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-15);
        assert_eq!(same, !detached, "{value}");
    }
}

#[test]
fn three_ways_to_pool_teachers_are_three_objectives() {
    let second = [0.05, 0.15, 0.40, 0.10, 0.30];
    let role = |index: u32, name: &str| Role::Named { teacher: TeacherId(index), name: name.into() };
    let objective = |value: &str| objective(&format!("term t = {value}"));
    let sample = objective("live kl(student || first) + live kl(student || second)");
    // The parameters' teachers as the checker numbers them.
    let named: Vec<Role> = sample.terms[0]
        .value
        .parts()
        .iter()
        .flat_map(|part| match &part.0.kind {
            mopd_experiment::formula::FormulaKind::Live(live) => live.roles(),
            _ => Vec::new(),
        })
        .filter(|role| matches!(role, Role::Named { .. }))
        .collect();
    let find =
        |name: &str| named.iter().find(|role| role.name() == name).cloned().unwrap_or_else(|| role(0, name));
    let toy = |student: &[f64], pooled: &[f64]| {
        ToyModel::from_distributions(student, pooled)
            .with(find("first"), &TEACHER)
            .with(find("second"), &second)
    };
    let geometric = {
        let product: Vec<f64> = TEACHER.iter().zip(&second).map(|(a, b)| (a * b).sqrt()).collect();
        let sum: f64 = product.iter().sum();
        product.into_iter().map(|p| p / sum).collect::<Vec<f64>>()
    };
    let gradient = |value: &str| {
        expected(&objective(value), 0, &toy(&STUDENT, &geometric))
            .unwrap_or_else(|why| panic!("{value}: {why}"))
            .gradient
    };
    let far = |a: &[f64], b: &[f64]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-3);
    let (reverse_sum, reverse_mean) = (
        gradient("0.5 * live kl(student || first) + 0.5 * live kl(student || second)"),
        gradient("live kl(student || blend(first: 0.5, second: 0.5))"),
    );
    let reverse_geometric = gradient("live kl(student || teacher)");
    assert!(far(&reverse_sum, &reverse_mean));
    // A sum of reverse divergences is the one to the geometric mean, up to its normaliser; a sum of forward
    // ones that from the mean.
    close(&reverse_sum, &reverse_geometric, 1e-12);
    let (forward_sum, forward_mean, forward_geometric) = (
        gradient("0.5 * live kl(first || student) + 0.5 * live kl(second || student)"),
        gradient("live kl(blend(first: 0.5, second: 0.5) || student)"),
        gradient("live kl(teacher || student)"),
    );
    close(&forward_sum, &forward_mean, 1e-12);
    assert!(far(&forward_sum, &forward_geometric));
}

#[test]
fn a_baseline_must_not_read_the_token() {
    let with =
        |baseline: &str| verdict(&format!("-(teacher.logp - student.logp + {baseline}) * live student.logp"));
    for blind in [
        "kl(student || teacher)",
        "kl(student || teacher, support: top_k(student, 2), mass: renormalized)",
        "student.entropy",
    ] {
        assert_eq!(with(blind), "follows 1.00 * grad KL(student || teacher)", "{blind}");
    }
    let reads = with("kl(student || teacher, support: sampled, mass: tail)");
    assert!(
        reads.starts_with(
            "biased: without `kl(student || teacher, support: sampled, mass: tail)` it would follow 1.00 * \
             grad KL(student || teacher)"
        ),
        "{reads}"
    );
}

#[test]
fn masks_and_weights_bias_only_where_they_read_the_token() {
    let with =
        |lines: &str| audit(&objective(lines), &ObjectiveUse::unknown()).terms[0].findings[0].verdict.clone();
    let term = "term t = (student.logp - teacher.logp) * live student.logp";
    match with(&format!("weight = student.entropy\n{term}")) {
        Verdict::Weighted { of, least, most } => {
            assert!(of == "KL(student || teacher)" && 0.0 < least && least < most)
        }
        other => panic!("{other:?}"),
    }
    match with(&format!("select = in_nucleus(teacher, p: 0.7)\n{term}")) {
        Verdict::Biased { of, by, distance, cosine } => {
            assert_eq!(
                (of.text().as_str(), by.as_str()),
                ("follows 1.00 * grad KL(student || teacher)", "`select`")
            );
            assert!(distance > 0.01 && cosine < 0.9999);
        }
        other => panic!("{other:?}"),
    }
    // A divergence that is differentiated itself does not care which token was drawn.
    match with("select = in_nucleus(teacher, p: 0.7)\nterm t = live kl(student || teacher)") {
        Verdict::Weighted { of, .. } => assert_eq!(of, "KL(student || teacher)"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn audit_discount_sets_how_much_later_tokens_count() {
    let with = |discount: &str| {
        verdict(&format!(
            "reward_to_go(student.logp - teacher.logp, discount: {discount}, over: sequence) * live \
             student.logp"
        ))
    };
    assert_eq!(with("0"), "follows 1.00 * grad KL(student || teacher)");
    assert_eq!(with("1"), "follows 1.00 * grad KL(student || teacher) of whole completions");
    // Of two tokens 1 - 0.75 and 0.75 of these two are the gradient. Of three no factors are, because the
    // weights 1, 0.75 and 0.75^2 are no sum of multiples of 1, 0, 0 and of 1, 1, 1.
    let discounted = with("0.75");
    assert!(
        discounted.starts_with("no named divergence (nearest: KL(student || teacher) of whole completions"),
        "{discounted}"
    );
}

#[test]
fn factors_that_depend_on_the_length_are_told_for_two_lengths() {
    let gap = "(student.logp - teacher.logp)";
    says(
        &format!("mean({gap}, over: sequence) * live student.logp"),
        "by length: follows 0.50 * grad KL(student || teacher) of whole completions in completions of 2 \
         tokens, follows 0.33 * grad KL(student || teacher) of whole completions in those of 3",
    );
    says(
        &format!("sum({gap}, over: sequence) * live student.logp"),
        "follows 1.00 * grad KL(student || teacher) of whole completions",
    );
}

/// Two samples of three tokens from a vocabulary of seven have too many outcomes.
#[test]
fn an_audit_says_where_it_has_seen_one_length_only() {
    let body = "let share = mean(reward, over: group)\nterm t = share * live kl(student || teacher, support: \
                union(top_k(student, 8), top_k(teacher, 8), sampled), mass: tail) { when = position == 0 }";
    let found = &audit(&objective(body), &ObjectiveUse::unknown()).terms[0].findings[0];
    let note = "only completions of 2 tokens are enumerated here";
    assert!(found.notes.iter().any(|known| known == note), "{found:?}");
}

/// Joined supports may hold most of a small vocabulary. A single entry outside of them is as good as a tail.
#[test]
fn a_truncated_divergence_is_told_from_the_whole_one() {
    let most = "union(top_k(student, 8), top_k(teacher, 8), sampled)";
    for (support, mass) in
        [(most, "tail"), (most, "raw"), ("top_k(teacher, 4)", "tail"), ("nucleus(teacher, 0.999)", "tail")]
    {
        let divergence = format!("kl(student || teacher, support: {support}, mass: {mass})");
        says(&format!("live {divergence}"), &format!("follows 1.00 * grad {divergence}"));
        let first = objective(&format!("term t = live {divergence} {{ when = position == 0 }}"));
        let found = &audit(&first, &ObjectiveUse::unknown()).terms[0].findings[0];
        let Verdict::Weighted { of, .. } = &found.verdict else { panic!("{:?}", found.verdict) };
        assert_eq!(*of, divergence);
        if mass == "raw" {
            assert_eq!(found.stationary_at_teacher, Some(false), "{divergence}");
        }
    }
}

#[test]
fn rewards_are_told_from_teachers() {
    says(
        "-(reward - leave_one_out(reward, over: group)) * live student.logp",
        "follows 1.00 * grad minus the expected reward",
    );
    // The own sample is in the mean: of three here, a third of the gradient is lost.
    says(
        "-(reward - mean(reward, over: group)) * live student.logp",
        "follows 0.67 * grad minus the expected reward",
    );
    let mixed = verdict(
        "-(teacher.logp - student.logp + 0.5 * zscore(reward, over: group, deviation: sample)) * live \
         student.logp",
    );
    assert!(
        mixed
            .starts_with("mixture: follows 1.00 * grad KL(student || teacher), and a part without a teacher"),
        "{mixed}"
    );
}

#[test]
fn a_schedule_is_looked_at_three_times() {
    let audit = audited(
        "linear(0 -> 1) * live kl(student || teacher) + (1 - progress) * live kl(teacher || student)",
    );
    let found: Vec<String> = audit.terms[0].findings.iter().map(|finding| finding.verdict.text()).collect();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0], "follows 1.00 * grad KL(teacher || student)");
    assert_eq!(
        found[1],
        "mixture: follows 0.50 * grad KL(student || teacher) + 0.50 * grad KL(teacher || student)"
    );
}

#[test]
fn audit_names_constructs_that_toy_models_lack() {
    for (value, why) in [
        ("live gaussian_kl(teacher || student)", "`gaussian_kl` is between continuous actions"),
        ("live mse(student.mean, teacher.mean)", "`mse` is between numbers"),
        ("where(masked, 1, 0) * live kl(student || teacher)", "`masked` is about denoising steps"),
        ("live kl(student || teacher, support: matched, mass: raw)", "which entries two vocabularies share"),
    ] {
        match &audited(value).terms[0].findings[0].verdict {
            Verdict::NotAudited { why: told } => assert!(told.starts_with(why), "{value}: {told}"),
            other => panic!("{value}: {other:?}"),
        }
    }
}

#[test]
fn an_audit_reads_the_same_as_json() {
    let json = serde_json::to_value(audited("live kl(student || teacher)")).expect("plain data");
    let finding = &json["terms"][0]["findings"][0];
    assert_eq!(
        (finding["verdict"].as_str(), finding["parts"][0]["of"].as_str()),
        (Some("follows"), Some("KL(student || teacher)"))
    );
    assert_eq!(finding["stationary_at_teacher"].as_bool(), Some(true));
}

/// Where the student draws at a temperature, the policy that is trained is the student at that temperature:
/// log-ratios follow the divergence there, whole divergences are what they say, and what was on policy at 1
/// is on policy still.
#[test]
fn a_temperature_of_the_rollout_is_that_of_the_log_ratios() {
    let drawn =
        |temperature: f64| Sampler::Student { temperature: temperature.into(), top_p: None, top_k: None };
    let on = |objective: &Objective, temperature| {
        let usage =
            ObjectiveUse { samplers: vec![drawn(temperature)], steps: Some(100), ..ObjectiveUse::unknown() };
        audit(objective, &usage).terms[0].findings[0].verdict.text()
    };
    let mopd = term("-(teacher.logp - student.logp) * live student.logp");
    let surrogate = term("-(teacher.logp - sampler.logp) * live ratio");
    let exact = term("live kl(student || teacher)");
    assert_eq!(on(&mopd, 1.0), "follows 1.00 * grad KL(student || teacher)");
    for objective in [&mopd, &surrogate] {
        assert_eq!(on(objective, 0.6), "follows 1.00 * grad KL(student || teacher) at temperature 0.6");
    }
    assert_eq!(on(&exact, 0.6), "follows 1.00 * grad KL(student || teacher)");
    // The policy may be scored at 1 whatever it samples at: then these tokens are somebody else's.
    let at_1 = objective("temperature = 1\nterm t = -(teacher.logp - student.logp) * live student.logp");
    assert!(!on(&at_1, 0.6).contains("KL(student || teacher)"), "{}", on(&at_1, 0.6));
    assert_eq!(on(&at_1, 1.0), "follows 1.00 * grad KL(student || teacher)");
}
