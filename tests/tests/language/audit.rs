//! Tests of the gradient audit: gradients that are exactly 0, wrong signs, and gradients without one of their
//! parts.

use mopd_compiler::audit::{AuditedObjective, ObjectiveUse, audit, diagnostics, of_experiment, of_file};
use mopd_experiment::Objective;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::{SourceFile, Span};
use mopd_tests::standard;

const SETUP: &str = r#"experiment "found" { seed = 1 }
domain sort { prompts = "sort.jsonl", reward = exact_match }
model base = llama { layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }
model expert = grpo(base, on: sort) { steps = 10, prompts = 8, samples = 4, max_tokens = 16, lr = 1e-3 }
"#;

const STAGE: &str = r#"model student = distill(base) {
  objective = o, rollout = sample(n: 4, temperature: 1, max_tokens: 16), prompts = 8, steps = 10, lr = 1e-3
}
"#;

const REDUCE: &str = "reduce = mean(token) then mean(sequence)";

/// An objective with these lines before its `reduce`.
fn objective(body: &str) -> Objective {
    let text = format!("objective o(first: teacher, second: teacher) {{\n{body}\n{REDUCE}\n}}\n");
    let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text }, &|_| None);
    match analysis.objectives.into_iter().next() {
        Some(named) => named.objective,
        None => panic!("{body}: {:?}", analysis.diagnostics),
    }
}

/// The audit's lines on the single term of such an objective.
fn says(body: &str) -> Vec<String> {
    audit(&objective(body), &ObjectiveUse::unknown()).terms[0].lines()
}

/// The diagnostics of an experiment with these lines, first those of the checker.
fn checked(teachers: &str, body: &str, stage: &str) -> Vec<Diagnostic> {
    let text = format!("{SETUP}{teachers}objective o {{\n{body}\n{REDUCE}\n}}\n{stage}");
    let entry = SourceFile { path: "a.mopd".into(), text };
    mopd_lang::analyse_audited(entry, &standard, &[], &diagnostics).diagnostics
}

fn codes(found: &[Diagnostic]) -> Vec<Code> {
    found.iter().map(|diagnostic| diagnostic.code).collect()
}

/// The audit's lines on the objective `o` of an experiment without errors.
fn audited(teachers: &str, body: &str) -> Vec<String> {
    audited_in(teachers, body, STAGE)
}

fn audited_in(teachers: &str, body: &str, stage: &str) -> Vec<String> {
    let text = format!("{SETUP}{teachers}objective o {{\n{body}\n{REDUCE}\n}}\n{stage}");
    let analysis = mopd_lang::analyse(SourceFile { path: "a.mopd".into(), text }, &standard);
    let experiment = analysis.experiment.unwrap_or_else(|| panic!("{body}: {:?}", analysis.diagnostics));
    let own = |audited: &AuditedObjective| audited.audit.objective == "o";
    of_experiment(&experiment).into_iter().find(own).expect("it is used").audit.terms[0].lines()
}

const ONE: &str = "teacher one = expert\nroute { else -> one }\n";
const NOW: &str = "teacher now = self\nroute { else -> now }\n";
const NOTHING: &str = "carries no signal: the mean gradient is exactly 0";

#[test]
fn a_teacher_that_is_the_student_teaches_nothing() {
    for (teachers, value) in [
        (NOW, "live kl(teacher || student)"),
        (NOW, "live kl(student || teacher)"),
        (NOW, "1e6 * live jsd(student, teacher, beta: 0.3)"),
        (NOW, "live tv(student, teacher)"),
        (NOW, "live hellinger(student, teacher)"),
        (NOW, "live chi2(student || teacher)"),
        (NOW, "(student.logp - teacher.logp) * live student.logp"),
        (NOW, "(live student.logp - teacher.logp)^2 / 2"),
        (
            "teacher now = self\nteacher also = self\nteacher star = logits(now) + 0.5 * (logits(now) - \
             logits(also))\nroute { else -> star }\n",
            "live kl(teacher || student)",
        ),
        (
            "teacher now = self\nteacher also = self\nteacher star = mixture([now, also], weights: \
             equal)\nroute { else -> star }\n",
            "live kl(teacher || student)",
        ),
        (
            "teacher now = self\nteacher also = self\nteacher star = sum([now, also], weights: \
             equal)\nroute { else -> star }\n",
            "live kl(teacher || student)",
        ),
        (ONE, "live kl(student || detached(student))"),
        (ONE, "live kl(detached(student) || student)"),
        (ONE, "live kl(student || detached(blend(teacher: 0, student: 1)))"),
        (ONE, "live jsd(student, detached(blend(teacher: 0, student: 1)), beta: 0.2)"),
    ] {
        let found = checked(teachers, &format!("term t = {value}"), STAGE);
        assert!(codes(&found).iter().all(|code| *code != Code::UnknownName), "{value}: {found:?}");
        if found.is_empty() {
            assert_eq!(audited(teachers, &format!("term t = {value}")), [NOTHING], "{teachers}{value}");
            panic!("`check` passes {value}");
        }
        assert!(
            found.iter().any(|diagnostic| matches!(diagnostic.code, Code::ZeroGradient | Code::OutOfRange)),
            "{value}: {found:?}"
        );
    }
}

/// The same forms with another model in place of the student.
#[test]
fn a_teacher_that_differs_from_the_student_teaches() {
    let behind = "`teacher` is composed of other models: this is 0.50 * grad KL(student || one)";
    for (teachers, behind) in [
        ("teacher now = self { temperature = 0.5 }\nroute { else -> now }\n", None),
        (
            "teacher one = expert\nteacher now = self\nteacher star = logits(now) + 0.5 * (logits(one) - \
             logits(now))\nroute { else -> star }\n",
            Some(behind),
        ),
    ] {
        let found = checked(teachers, "term t = live kl(student || teacher)", STAGE);
        assert!(!codes(&found).contains(&Code::ZeroGradient), "{teachers}: {found:?}");
        let said = audited(teachers, "term t = live kl(student || teacher)");
        let expected = ["follows 1.00 * grad KL(student || teacher)"].into_iter().chain(behind);
        assert_eq!(said, expected.collect::<Vec<&str>>(), "{teachers}");
    }
    let found =
        checked(ONE, "term t = live kl(student || detached(blend(teacher: 0.1, student: 0.9)))", STAGE);
    assert!(found.is_empty(), "{found:?}");
}

/// A mixture with the student has the gradient of a Jensen-Shannon divergence, whether it is a side or a
/// teacher, and a pool of teachers that of a sum.
#[test]
fn what_is_behind_a_mixture_is_named() {
    let blend = |share: &str, rest: &str| {
        let term = format!("term t = live kl(student || detached(blend(teacher: {share}, student: {rest})))");
        audited(ONE, &term)
    };
    assert_eq!(blend("0.5", "0.5"), ["follows 2.00 * grad JSD(teacher, student)"]);
    assert_eq!(blend("0.2", "0.8"), ["follows 1.25 * grad jsd(teacher, student, beta: 0.2)"]);
    for (teacher, value, behind) in [
        ("mixture([now, one], weights: equal)", "kl(student || teacher)", "2.00 * grad JSD(one, student)"),
        (
            "mixture([now, one], weights: [0.6, 0.4])",
            "kl(student || teacher)",
            "1.67 * grad jsd(one, student, beta: 0.4)",
        ),
        (
            "geometric([one, two], weights: [0.25, 0.75])",
            "kl(student || teacher)",
            "0.25 * grad KL(student || one) + 0.75 * grad KL(student || two)",
        ),
        (
            "mixture([one, two], weights: [0.25, 0.75])",
            "kl(teacher || student)",
            "0.25 * grad KL(one || student) + 0.75 * grad KL(two || student)",
        ),
    ] {
        let teachers = format!(
            "model other = grpo(base, on: sort) {{ steps = 12, prompts = 8, samples = 4, max_tokens = 16, lr = 1e-3 }}\n\
             teacher one = expert\nteacher two = other\nteacher now = self\nteacher star = {teacher}\n\
             route {{ else -> star }}\n"
        );
        let said = audited(&teachers, &format!("term t = live {value}"));
        let behind = format!("`teacher` is composed of other models: this is {behind}");
        assert_eq!(said, [format!("follows 1.00 * grad KL({}", &value[3..]), behind], "{teacher}");
    }
    // The weight of a prefix comes from the condition that has it.
    let stage = STAGE.replace("prompts = 8", "prompts = 8, filter = mean(correct, over: group) < 1");
    let said = audited_in(ONE, "term t = live kl(student || teacher)", &stage);
    assert!(said[0].starts_with("follows w * grad KL(student || teacher)"), "{said:?}");
    assert_eq!(said[1], "w comes from the stage's `filter = mean(correct, over: group) < 1`");
    let said = says("select = position >= 1\nterm t = live kl(student || teacher)");
    assert!(said.contains(&"w comes from `select = position >= 1`".to_owned()), "{said:?}");
}

/// A weight inside a formula (`x * y`) gives the same verdict as the same weight as a setting.
#[test]
fn a_weight_in_the_formula_keeps_the_sign() {
    let gap = "(teacher.logp - student.logp)";
    for weight in [
        "exp(teacher.logp)",
        "(0 - student.logp)",
        "abs(teacher.logp)",
        "where(in_nucleus(teacher, p: 0.7), 2, 1)",
    ] {
        let outside = says(&format!("weight = {weight}\nterm t = -{gap} * live student.logp"));
        for inside in [
            format!("-{weight} * {gap} * live student.logp"),
            format!("-({weight} * {gap}) * live student.logp"),
            format!("-({weight} * {gap} * live student.logp)"),
            format!("{gap} * -{weight} * live student.logp"),
        ] {
            let found = says(&format!("term t = {inside}"));
            let (_, told) = outside[0].split_once("it would").unwrap_or_else(|| panic!("{}", outside[0]));
            assert!(found[0].ends_with(told), "{inside}: {} and {}", found[0], outside[0]);
            assert!(told.starts_with(" follow 1.00 * grad KL(student || teacher)"), "{told}");
        }
        let found = says(&format!("term t = {weight} * {gap} * live student.logp"));
        assert!(found[0].contains("would follow -1.00 * grad KL(student || teacher)"), "{found:?}");
    }
    // A constant stays in the term and is not a weight.
    let found = says(&format!("term t = -0.25 * exp(teacher.logp) * {gap} * live student.logp"));
    assert!(found[0].contains("would follow 0.25 * grad KL(student || teacher)"), "{found:?}");
    // A negative factor keeps its sign, just as a minus does.
    let found = says(&format!("term t = student.logp * {gap} * live student.logp"));
    assert!(found[0].contains("would follow 1.00 * grad KL(student || teacher)"), "{found:?}");
}

#[test]
fn a_filter_and_a_weight_per_prefix_are_told_apart() {
    let gap = "(student.logp - teacher.logp)";
    for body in [
        format!(
            "weight = student.entropy\nterm t = where(exp(teacher.logp) > 0.2, 1, 0) * {gap} * live \
             student.logp"
        ),
        format!("select = in_nucleus(teacher, p: 0.7)\nterm t = student.entropy * {gap} * live student.logp"),
        format!("term t = student.entropy * in_nucleus(teacher, p: 0.7) * {gap} * live student.logp"),
    ] {
        let found = says(&body);
        assert!(found[0].starts_with("biased: without "), "{body}: {found:?}");
        assert!(found[0].contains("grad KL(student || teacher)"), "{body}: {found:?}");
    }
}

#[test]
fn one_minus_a_weight_is_one_weight() {
    for value in [
        "(1 - linear(0 -> 1) * student.top1) * live kl(student || teacher) + 0.1 * student.top1 * live \
         kl(teacher || student)",
        "(1 - progress * student.top1) * live kl(student || teacher) + progress * student.top1 * live \
         kl(teacher || student)",
    ] {
        for line in says(&format!("term t = {value}")).iter().filter(|line| line.contains("grad")) {
            assert_eq!(line.matches("KL(student || teacher)").count(), 1, "{value}: {line}");
            assert!(line.contains("w * grad") || line.contains("follows 1.00 * grad"), "{line}");
        }
    }
}

#[test]
fn nobody_is_a_billion_percent_away() {
    for body in [
        "term t = clip(live student.logp - teacher.logp, -0.2, 0.2)",
        "term t = clip(exp(live student.logp - student.logp), 0.999999, 1.000001) * (student.logp - \
         teacher.logp)",
        "term t = min(live student.logp - teacher.logp, 0.1)",
        "select = in_nucleus(teacher, p: 0.7)\nterm t = live student.logp - teacher.logp",
    ] {
        for line in says(body) {
            let digits = line
                .split("% away")
                .next()
                .unwrap_or_default()
                .chars()
                .rev()
                .take_while(char::is_ascii_digit)
                .count();
            assert!(digits <= 3, "{body}: {line}");
        }
    }
}

#[test]
fn a_declared_divergence_is_told_beside_a_known_one() {
    let text = format!(
        "divergence mine(u) = (u - 1)^2 / (u + 1)\nobjective o {{\nterm t = live mine(student || \
         teacher)\n{REDUCE}\n}}\n"
    );
    let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text }, &|_| None);
    let named =
        analysis.objectives.into_iter().next().unwrap_or_else(|| panic!("{:?}", analysis.diagnostics));
    let found = audit(&named.objective, &ObjectiveUse::unknown()).terms[0].lines();
    assert!(found[0].starts_with("follows 1.00 * grad mine("), "{found:?}");
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("nearest with a known name: JSD(teacher, student) (cosine ")),
        "{found:?}"
    );
}

/// A number carried over from the previous step is treated like one of this step: a selection by it keeps
/// some tokens and drops others.
#[test]
fn selection_by_a_carried_number_keeps_some_tokens() {
    let said = says(
        "select = student.entropy > previous(mean(student.entropy, over: batch))\nterm t = live kl(student \
         || teacher)",
    );
    assert!(said[0].starts_with("follows w * grad KL(student || teacher)"), "{said:?}");
    let plain = says(
        "select = student.entropy > mean(student.entropy, over: batch)\nterm t = live kl(student || teacher)",
    );
    assert!(plain[0].starts_with("follows w * grad KL(student || teacher)"), "{plain:?}");
}

#[test]
fn k3_is_told_under_a_filter_and_at_another_temperature() {
    let k3 = "term t = exp(teacher.logp - live student.logp) - 1 - (teacher.logp - live student.logp)";
    let stage = |more: &str, temperature: &str| {
        format!(
            "model student = distill(base) {{\n  objective = o, rollout = sample(n: 4, temperature: \
             {temperature}, max_tokens: 16), prompts = 8, steps = 10, lr = 1e-3{more}\n}}\n"
        )
    };
    for stage in [stage("", "1"), stage("", "0.7"), stage(", filter = mean(reward, over: group) < 1", "1")] {
        assert_eq!(codes(&checked(ONE, k3, &stage)), [Code::OtherGradient], "{stage}");
    }
}

/// In toy models, a nucleus may hold all entries but one: the whole divergence and the truncated one are
/// then one number under two names.
#[test]
fn a_truncated_divergence_has_no_other_gradient() {
    for (support, mass) in [
        ("nucleus(teacher, 0.95)", "tail"),
        ("nucleus(student, 0.95)", "tail"),
        ("nucleus(teacher, 0.99)", "renormalized"),
        ("nucleus(teacher, 0.99)", "generalized"),
    ] {
        for stage in [STAGE.to_owned(), STAGE.replace("temperature: 1,", "temperature: 0.7,")] {
            let body = format!("term t = live kl(student || teacher, support: {support}, mass: {mass})");
            let found = checked(ONE, &body, &stage);
            assert!(!codes(&found).contains(&Code::OtherGradient), "{body}: {found:?}");
        }
    }
}

/// Every piece of a schedule and every value of an alternation is evaluated, also of a composed teacher's.
#[test]
fn a_schedule_is_evaluated_at_its_turns() {
    let long = |steps: &str| STAGE.replace("steps = 10", &format!("steps = {steps}"));
    let said = |teachers: &str, weight: &str| {
        let body = format!("weight = {weight}\nterm t = live kl(student || teacher)");
        audited_in(teachers, &body, &long("101"))
    };
    let line = |phase: &str, times: &str| format!("{phase}: follows {times} * grad KL(student || teacher)");
    let none = |phase: &str| format!("{phase}: {NOTHING}");
    let three = ["at the start", "in the middle", "at the end"];
    let mut told = said(ONE, "alternate([0, 1], every: 1)");
    told.sort();
    let mut expected: Vec<String> = three.iter().map(|phase| none(phase)).collect();
    expected.push(line("at step 1", "1.00"));
    expected.sort();
    assert_eq!(told, expected);
    let told = said(ONE, "alternate([1, -1], every: 1)");
    assert!(told.contains(&line("at step 1", "-1.00")), "{told:?}");
    let told = said(ONE, "piecewise([0 -> 1, 10 -> -1, 45 -> 1])");
    assert!(told.contains(&line("at step 10", "-1.00")), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("at step 45")), "{told:?}");
    let told = said(ONE, "piecewise([0 -> 0, 60 -> 1, 80 -> 0])");
    assert!(told.contains(&line("at step 60", "1.00")), "{told:?}");
    // On average over both steps the student is led to the teacher.
    let body = "weight = alternate([-1, 3], every: 1)\nterm t = live kl(student || teacher)";
    assert_eq!(codes(&checked(ONE, body, &long("101"))), []);
    // A schedule without a turn needs no further step.
    assert_eq!(said(ONE, "linear(1 -> 2)").len(), 3);
    let ramp = "teacher one = expert\nteacher now = self\nteacher ramp = logits(now) + w * (logits(one) - \
                logits(now)) where w = piecewise([0 -> 0, 60 -> 1, 80 -> 0])\nroute { else -> ramp }\n";
    assert_eq!(codes(&checked(ramp, "term t = live kl(student || teacher)", &long("101"))), []);
    let told = audited_in(ramp, "term t = live kl(student || teacher)", &long("101"));
    assert!(told.contains(&line("at step 60", "1.00")), "{told:?}");
}

/// At every step, tokens are drawn and scored at the temperature of the step. An objective with a temperature
/// of its own is on-policy only while that is the temperature of sampling.
#[test]
fn a_temperature_that_changes_is_that_of_the_step() {
    let gap = "term t = -(teacher.logp - student.logp) * live student.logp";
    let stage = STAGE.replace("temperature: 1,", "temperature: piecewise([0 -> 2, 3 -> 1, 7 -> 0.5]),");
    let mut told = audited_in(ONE, gap, &stage);
    told.retain(|line| !line.starts_with("`reduce` depends on the length"));
    told.sort();
    let kl = "follows 1.00 * grad KL(student || teacher)";
    let end = format!("at the end: {kl} at temperature 0.5");
    let start = format!("at the start: {kl} at temperature 2");
    assert_eq!(told, [end, start, format!("in the middle: {kl}")]);
    let told = audited_in(ONE, &format!("temperature = 1\n{gap}"), &stage);
    assert!(told.contains(&format!("in the middle: {kl}")), "{told:?}");
    assert!(!told.iter().any(|line| line.starts_with(&format!("at the end: {kl}"))), "{told:?}");
}

/// Where a condition or a bound acts only between models that are far apart, a gradient of 0 says nothing.
#[test]
fn a_case_that_toy_models_seldom_choose_is_not_audited() {
    let said = audited(
        ONE,
        "term t = where(teacher.top1 > 0.9, student.logp - teacher.logp, 0.01) * live student.logp",
    );
    assert!(said[0].starts_with("not audited: its mean gradient is 0 only while"), "{said:?}");
}

#[test]
fn a_wrong_sign_is_told() {
    let gap = "(teacher.logp - student.logp)";
    for body in [
        format!("term t = {gap} * live student.logp"),
        format!("term t = clip({gap}, -5, 5) * live student.logp"),
        format!("weight = student.entropy\nterm t = {gap} * live student.logp"),
        format!("select = in_nucleus(teacher, p: 0.7)\nterm t = {gap} * live student.logp"),
        "term t = -live kl(student || teacher)".into(),
        "term t = -0.1 * live jsd(teacher, student, beta: 0.5)".into(),
        "term t = -live kl(teacher || student, support: top_k(teacher, 16), mass: tail)".into(),
        "term t = (progress - 1) * live kl(student || teacher)".into(),
        "term t = reward * live student.logp\nterm u = live kl(student || teacher)".into(),
    ] {
        let found = checked(ONE, &body, STAGE);
        assert!(codes(&found).contains(&Code::WrongSign), "{body}: {found:?}");
    }
    for body in [
        format!("term t = -{gap} * live student.logp"),
        "term t = live kl(student || teacher)".into(),
        // Weights whose sign varies with token, step or prefix are not reported as wrong.
        "term t = (2 * progress - 1) * live kl(student || teacher)".into(),
        "term t = 1.25 * live kl(student || teacher) - 0.25 * live kl(student || detached(blend(teacher: \
         0.5, student: 0.5)))"
            .into(),
        format!("term t = -(reward + {gap}) * live student.logp"),
    ] {
        let found = checked(ONE, &body, STAGE);
        assert!(!codes(&found).contains(&Code::WrongSign), "{body}: {found:?}");
    }
}

#[test]
fn terms_without_gradient_are_reported() {
    let gap = "(teacher.logp - student.logp)";
    for (body, code) in [
        ("term t = 0 * live kl(student || teacher)".to_owned(), Code::ZeroGradient),
        ("weight = 0\nterm t = live kl(student || teacher)".to_owned(), Code::ZeroGradient),
        ("term t = linear(0 -> 0) * live kl(student || teacher)".to_owned(), Code::ZeroGradient),
        ("term t = live skew(student || teacher, lambda: 1)".to_owned(), Code::OutOfRange),
        (format!("term t = -clip({gap}, 0, 0) * live student.logp"), Code::ZeroGradient),
        ("term t = clip(live kl(student || teacher), 0, 0)".to_owned(), Code::ZeroGradient),
        ("term t = min(live kl(student || teacher), -1)".to_owned(), Code::ZeroGradient),
        (
            format!(
                "select = top_fraction(student.entropy, keep: 0, over: batch)\nterm t = -{gap} * live \
                 student.logp"
            ),
            Code::NeverHolds,
        ),
        ("select = student.top1 > 1\nterm t = live kl(student || teacher)".to_owned(), Code::NeverHolds),
        ("select = student.entropy < 0\nterm t = live kl(student || teacher)".to_owned(), Code::NeverHolds),
        ("select = teacher.logp > 0\nterm t = live kl(student || teacher)".to_owned(), Code::NeverHolds),
        ("select = reward > 1\nterm t = live kl(student || teacher)".to_owned(), Code::NeverHolds),
        (
            "select = position < 5 and position > 10\nterm t = live kl(student || teacher)".to_owned(),
            Code::NeverHolds,
        ),
        (
            "select = correct and not correct\nterm t = live kl(student || teacher)".to_owned(),
            Code::NeverHolds,
        ),
        // The stage's completions have at most 16 tokens.
        ("select = position >= 16\nterm t = live kl(student || teacher)".to_owned(), Code::NeverHolds),
        ("select = length > 16\nterm t = live kl(student || teacher)".to_owned(), Code::NeverHolds),
    ] {
        let found = checked(ONE, &body, STAGE);
        assert_eq!(codes(&found), [code], "{body}: {found:?}");
    }
    for body in [
        // However small, this is a gradient.
        "weight = exp(-length)\nterm t = live kl(student || teacher)".to_owned(),
        "weight = linear(0 -> 1)\nterm t = live kl(student || teacher)".to_owned(),
        "select = student.top1 > 0.99\nterm t = live kl(student || teacher)".to_owned(),
        "select = position >= 5 and position <= 5\nterm t = live kl(student || teacher)".to_owned(),
        "select = reward >= 1\nterm t = live kl(student || teacher)".to_owned(),
        "select = correct and not truncated\nterm t = live kl(student || teacher)".to_owned(),
        "select = position >= 15\nterm t = live kl(student || teacher)".to_owned(),
        "select = length >= 16\nterm t = live kl(student || teacher)".to_owned(),
        "term t = live skew(student || teacher, lambda: 0.1)".to_owned(),
        format!("term t = -clip({gap}, -1, 1) * live student.logp"),
        "term t = relu(live kl(student || teacher) - 5)".to_owned(),
    ] {
        let found = checked(ONE, &body, STAGE);
        assert!(found.is_empty(), "{body}: {found:?}");
    }
}

/// A coefficient from outside that switches off one of several terms is not reported. If it switches off all
/// terms, it is an error.
#[test]
fn a_term_switched_off_beside_others_is_no_mistake() {
    let objective = "objective o(beta: number) {\nterm t = live kl(student || teacher)\nterm u = beta * \
                     live kl(teacher || student)\n";
    let text = |stage: &str| format!("{SETUP}{ONE}{objective}{REDUCE}\n}}\n{stage}");
    let found = |text: String| {
        mopd_lang::analyse_audited(SourceFile { path: "a.mopd".into(), text }, &standard, &[], &diagnostics)
            .diagnostics
    };
    assert_eq!(found(text(&STAGE.replace("objective = o", "objective = o(beta: 0)"))), []);
    let found =
        checked(ONE, "term t = live kl(student || teacher)\nterm u = 0 * live kl(teacher || student)", STAGE);
    assert_eq!(codes(&found), [Code::ZeroGradient]);
    assert!(found[0].severity == mopd_lang::diag::Severity::Warning);
}

#[test]
fn a_teacher_that_only_adds_is_told() {
    let data =
        STAGE.replace("sample(n: 4, temperature: 1, max_tokens: 16), prompts = 8", "data(answer), batch = 8");
    let found = checked(ONE, "term t = teacher.logp - live student.logp", &data);
    assert_eq!(codes(&found), [Code::NoTeacherSignal], "{found:?}");
    let found = checked(ONE, "term t = exp(teacher.logp) * -live student.logp", &data);
    assert!(!codes(&found).contains(&Code::NoTeacherSignal), "{found:?}");
}

/// The stage with another setting.
fn stage_with(setting: &str) -> String {
    STAGE.replace("lr = 1e-3", &format!("lr = 1e-3, {setting}"))
}

fn stage_on(rollout: &str) -> String {
    STAGE.replace("sample(n: 4, temperature: 1, max_tokens: 16)", rollout)
}

/// The length of a completion is sampled, so a penalty per token has a gradient.
#[test]
fn a_penalty_on_the_length_is_a_term_like_others() {
    assert_eq!(says("term t = length * live student.logp")[0], "follows 1.00 * grad the expected length");
    let center = "term t = 0.01 * center(length, over: group) * live student.logp";
    assert!(says(center)[0].ends_with("* grad the expected length"), "{:?}", says(center));
    let cost = says("term t = -(reward - 0.1 * length) * live student.logp");
    assert_eq!(
        cost[0],
        "mixture: follows 0.10 * grad the expected length + 1.00 * grad minus the expected reward"
    );
    let normalised = says("term t = -reward / length * live student.logp");
    assert!(
        normalised[0]
            .starts_with("biased: without `length` it would follow 1.00 * grad minus the expected reward"),
        "{normalised:?}"
    );
    for body in [
        center,
        "term t = length * live student.logp",
        "term t = remaining * live student.logp",
        "term t = length * live student.logp { when = position > 5 }",
        "term t = -(reward - 0.1 * length) * live student.logp",
        "term t = -center(reward - 0.01 * length, over: group) * live student.logp",
        "term t = -reward / length * live student.logp",
    ] {
        let found = checked(ONE, body, STAGE);
        assert!(found.is_empty(), "{body}: {found:?}");
    }
}

/// Completions of at most one token all have the same length.
#[test]
fn completions_of_one_token_have_one_length() {
    let stage = STAGE.replace("max_tokens: 16", "max_tokens: 1");
    let found = checked(ONE, "term t = length * live student.logp", &stage);
    assert_eq!(codes(&found), [Code::ZeroGradient], "{found:?}");
}

#[test]
fn a_student_that_sees_a_template_is_not_the_one_on_the_plain_prompt() {
    let hinted = "template hinted = \"{prompt}\\nHint: {hint}\"\n";
    let (plain, sees) =
        (format!("{hinted}{NOW}"), format!("{hinted}{NOW}").replace("= self", "= self { sees = hinted }"));
    let value = "term t = live kl(student || teacher)";
    for (teachers, stage, silent) in [
        (&plain, STAGE.to_owned(), true),
        (&plain, stage_with("sees = hinted"), false),
        (&sees, STAGE.to_owned(), false),
        (&sees, stage_with("sees = hinted"), true),
    ] {
        let found = codes(&checked(teachers, value, &stage));
        assert_eq!(found.contains(&Code::ZeroGradient), silent, "{teachers}{stage}");
        if !silent {
            assert_eq!(
                audited_in(teachers, value, &stage),
                ["follows 1.00 * grad KL(student || teacher)"],
                "{teachers}{stage}"
            );
        }
    }
}

/// The same for a model that learns in turns with others.
#[test]
fn a_model_trained_in_turns_sees_its_template() {
    let found = |guide: &str| {
        let step = |name: &str, objective: &str| {
            format!(
                "step s_{name} {{ updates = {name}, objective = {objective}, rollout = sample(n: 1, temperature: 1, \
                 max_tokens: 16) }}\n"
            )
        };
        let stage = format!(
            "template hinted = \"{{prompt}}\\nHint: {{hint}}\"\nteacher one = expert\nteacher now = self\n\
             objective follow {{\nterm t = live kl(student || one)\n{REDUCE}\n}}\nmodel pair = train {{\nsteps = \
             10\nprompts = 8\ndomains = domains\nlr = 1e-4\ntrains policy = base\ntrains guide = {guide}\n{}{}}}\n",
            step("policy", "follow"),
            step("guide", "o"),
        );
        codes(&checked("", "term t = live kl(student || now)", &stage))
    };
    assert_eq!(found("base"), [Code::ZeroGradient]);
    assert_eq!(found("base { sees = hinted }"), []);
}

#[test]
fn epochs_are_any_number_of_steps() {
    let stage = |steps: &str| {
        format!(
            "model student = sft(base, on: sort) {{ objective = o, target = answer, steps = {steps}, batch = 1, lr \
             = 1e-3 }}\n"
        )
    };
    for (condition, steps, never) in [
        ("step >= 1000", "30 epochs", false),
        ("step >= 999", "30 epochs", false),
        ("step >= 900", "900", true),
        ("step >= 899", "900", false),
        ("step < 0", "30 epochs", true),
    ] {
        let found =
            checked("", &format!("term t = -live student.logp {{ when = {condition} }}"), &stage(steps));
        assert_eq!(codes(&found).contains(&Code::NeverHolds), never, "{condition}, {steps}: {found:?}");
        assert!(!codes(&found).contains(&Code::ZeroGradient), "{condition}, {steps}: {found:?}");
    }
    let piece = "term t = alternate([0, 0, 0, 1], every: 1000 steps) * -live student.logp";
    let found = checked("", piece, &stage("30 epochs"));
    assert!(found.is_empty(), "{found:?}");
}

/// A number that is 0 in the first step, or wherever the audit evaluates it, need not stay 0.
#[test]
fn a_number_that_the_run_moves_is_no_zero() {
    let kl = "live kl(student || teacher)";
    let domains =
        "(mean(kl(student || teacher), over: domain) / mean(kl(student || teacher), over: batch) - 1)";
    for factor in [
        "(loss - 1)",
        "turn",
        "(vocab_size - 5)",
        "(vocab_size - 4)",
        domains,
        "alternate([0, 1], every: 1 steps)",
    ] {
        let found =
            checked(ONE, &format!("term t = {factor} * {kl}"), &STAGE.replace("steps = 10", "steps = 61"));
        assert!(found.is_empty(), "{factor}: {found:?}");
    }
    let state = |value: &str| format!("state price = 0 then price + 1\nterm t = price * {value}");
    let found = checked(ONE, &state(kl), STAGE);
    assert!(found.is_empty(), "{found:?}");
    let said = audited(ONE, &state(kl));
    assert!(
        said[0].ends_with("* grad KL(student || teacher)") && said[0].starts_with("follows "),
        "{said:?}"
    );
    assert!(
        said[1].starts_with("with price = ")
            && said[1].ends_with(
                ", which changes during the \
        run"
            ),
        "{said:?}"
    );
    let said = audited(ONE, &format!("term t = {domains} * {kl}"));
    assert!(said[0].starts_with("follows w * grad KL(student || teacher)"), "{said:?}");
    // The teacher is the student itself, so the gradient is 0 for any coefficient.
    assert_eq!(codes(&checked(NOW, &state(kl), STAGE)), [Code::ZeroGradient]);
    assert_eq!(
        codes(&checked(ONE, "term t = loss * (live student.logp - live student.logp)", STAGE)),
        [Code::ZeroGradient]
    );
}

/// Only in the first pass over its rollouts is the student the policy that sampled them.
#[test]
fn a_trust_region_is_for_the_later_passes() {
    for value in [
        "0.5 * (live ratio - 1)^2",
        "live kl(sampler || student)",
        "(student.logp - sampler.logp) * live ratio",
    ] {
        let body = format!("term t = {value}");
        assert_eq!(codes(&checked(ONE, &body, STAGE)), [Code::ZeroGradient], "{value}");
        let found = checked(ONE, &body, &stage_with("passes = 2"));
        assert!(!codes(&found).contains(&Code::ZeroGradient), "{value}: {found:?}");
    }
    let body = "term t = -clip(teacher.logp - sampler.logp, -5, 5) * live ratio\nterm u = -0.1 * live \
                student.logp";
    assert!(codes(&checked(ONE, body, STAGE)).contains(&Code::ZeroGradient));
    let found = checked(ONE, body, &stage_with("passes = 4"));
    let severe = |found: &&Diagnostic| found.severity == mopd_lang::diag::Severity::Error;
    assert!(!found.iter().any(|found| severe(&found)), "{found:?}");
    // A later mini-batch was drawn by an earlier student, too.
    for value in ["0.5 * (live ratio - 1)^2", "(student.logp - sampler.logp) * live ratio"] {
        let found = checked(ONE, &format!("term t = {value}"), &stage_with("mini_batches = 2"));
        assert!(!codes(&found).contains(&Code::ZeroGradient), "{value}: {found:?}");
    }
    // In the first pass, single tokens have a gradient, which is noise.
    let own = "sample(n: 1, temperature: 1, max_tokens: 16)";
    let twice = stage_on(&format!("mix(0.5, {own}, {own})")).replace("lr = 1e-3", "lr = 1e-3, passes = 2");
    let found = checked(ONE, "term t = -live student.logp", &twice);
    let zero = found.iter().find(|found| found.code == Code::ZeroGradient).expect("it is told");
    assert_eq!(zero.severity, mopd_lang::diag::Severity::Warning);
    assert!(zero.message.contains("in the first of 2 passes"), "{zero:?}");
    let said = audited_in(ONE, "term t = live kl(sampler || student)", &stage_with("passes = 2"));
    assert_eq!(
        said,
        [
            "carries no signal: the mean gradient is exactly 0",
            "in later updates: follows 1.00 * grad KL(old || student)"
        ]
    );
}

/// A term may have no gradient for one of several sources of tokens, but not for all.
#[test]
fn a_term_is_silent_where_all_its_tokens_are() {
    let own = "sample(n: 1, temperature: 1, max_tokens: 16)";
    let found = |rollout: &str| checked(ONE, "term t = -live student.logp", &stage_on(rollout));
    let some = found(&format!("mix(0.5, {own}, data(answer))"));
    assert_eq!(codes(&some), [Code::ZeroGradient]);
    assert_eq!(some[0].severity, mopd_lang::diag::Severity::Warning);
    assert!(some[0].message.ends_with("on tokens that the student drew"), "{some:?}");
    let none = found(&format!("mix(0.5, {own}, sample(n: 1, temperature: 1, max_tokens: 8))"));
    assert_eq!(codes(&none), [Code::ZeroGradient]);
    assert_eq!(none[0].severity, mopd_lang::diag::Severity::Error);
    // The objective's second stage has no other source. Of a warning and an error, the error is reported.
    let (first, second) =
        (stage_on(&format!("mix(0.5, {own}, data(answer))")), stage_on("mix(0.5, OWN, OWN)"));
    let second = second.replace("OWN", own).replace("model student", "model again");
    let both = checked(ONE, "term t = -live student.logp", &format!("{first}{second}"));
    assert!(both.iter().any(|found| found.severity == mopd_lang::diag::Severity::Error), "{both:?}");
}

#[test]
fn a_filter_is_a_part_of_what_is_trained_on() {
    let gap = "term t = -(teacher.logp - student.logp) * live student.logp";
    let filtered = |filter: &str| audited_in(ONE, gap, &stage_with(&format!("filter = {filter}")));
    let said = filtered("mean(reward, over: group) < 1");
    assert!(
        said[0].starts_with("biased: without `filter` it would follow 1.00 * grad KL(student || teacher)"),
        "{said:?}"
    );
    // These completions choose prompts and are not trained on.
    let tried = format!("{ONE}rollout tried = from(one, n: 4, temperature: 1, max_tokens: 16)\n");
    let stage = stage_with("filter = mean(reward, over: group, on: tried) < 1");
    assert_eq!(audited_in(&tried, gap, &stage)[0], "follows 1.00 * grad KL(student || teacher)");
}

#[test]
fn token_numbers_of_a_group_are_told_as_whole_completions() {
    let mean =
        says("let gap = teacher.logp - student.logp\nterm t = -mean(gap, over: group) * live student.logp");
    assert_eq!(
        mean[0],
        "by length: follows 0.25 * grad KL(student || teacher) of whole completions in completions of 2 tokens, \
         follows 0.17 * grad KL(student || teacher) of whole completions in those of 3"
    );
    assert!(mean[1].starts_with("where lengths differ: no named divergence"), "{mean:?}");
    let scaled = says("term t = live kl(student || teacher) / log(vocab_size)");
    assert_eq!(scaled, ["follows 0.62 * grad KL(student || teacher)", "vocab_size is 5 here"]);
}

#[test]
fn objectives_that_no_stage_uses_are_audited() {
    let text = format!(
        "{SETUP}{ONE}objective o {{\nterm t = live kl(student || teacher)\n{REDUCE}\n}}\nobjective unused \
         {{\nterm t = live kl(teacher || student)\n{REDUCE}\n}}\n{STAGE}"
    );
    let analysis = mopd_lang::analyse(SourceFile { path: "a.mopd".into(), text }, &standard);
    let found: Vec<(String, Vec<String>)> =
        of_file(&analysis).into_iter().map(|audited| (audited.audit.objective, audited.models)).collect();
    let used = |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, models)| models.len());
    assert_eq!([used("grpo_loss"), used("o"), used("unused")], [Some(1), Some(1), Some(0)], "{found:?}");
    let text = format!("objective own {{\nterm t = live kl(teacher || student)\n{REDUCE}\n}}\n");
    let library = mopd_lang::analyse(SourceFile { path: "a.mopd".into(), text }, &standard);
    assert_eq!(of_file(&library).len(), 1, "it is not public");
}

/// The spans of all diagnostics are inside their files.
#[test]
fn diagnostics_point_at_what_is_wrong() {
    let found = checked(ONE, "select = student.top1 > 1\nterm t = live kl(student || teacher)", STAGE);
    let Span { start, end, .. } = found[0].primary.span;
    let text = format!("{SETUP}{ONE}objective o {{\nselect = student.top1 > 1\n");
    assert_eq!(&text[start as usize..end as usize], "student.top1 > 1");
}

/// An objective with another `reduce`: the audit's lines.
fn reduced_by(reduce: &str, body: &str) -> Vec<String> {
    let text = format!("objective o {{\n{body}\nreduce = {reduce}\n}}\n");
    let analysis = mopd_lang::analyse(SourceFile { path: "o.mopd".into(), text }, &|_| None);
    let named = analysis.objectives.into_iter().next();
    let named = named.unwrap_or_else(|| panic!("{body}: {:?}", analysis.diagnostics));
    audit(&named.objective, &ObjectiveUse::unknown()).terms[0].lines()
}

const TURNS: &str = "`reduce` depends on the length";

/// A mean over each completion's tokens turns the gradient of sampled numbers, because the drawn tokens
/// decide the length. It only weighs the prefixes of a divergence that is differentiated itself. Sums, and
/// means over a large batch, divide by a constant.
#[test]
fn a_reduce_that_divides_by_the_length_is_told() {
    let sampled = "term t = (student.logp - teacher.logp) * live student.logp";
    let reward = "term t = -(reward - leave_one_out(reward, over: group)) * live student.logp";
    let whole = "term t = live kl(student || teacher)";
    let turned =
        |reduce: &str, body: &str| reduced_by(reduce, body).iter().any(|line| line.starts_with(TURNS));
    for body in [sampled, reward] {
        let found = reduced_by("mean(token) then mean(sequence)", body);
        assert!(found[0].starts_with("follows 1.00 * grad "), "{found:?}");
        assert!(found.iter().any(|line| line.starts_with(TURNS)), "{body}: {found:?}");
        for reduce in
            ["mean(token, over: batch)", "sum(token) then mean(sequence)", "sum(token, over: batch) / 8192"]
        {
            assert!(!turned(reduce, body), "{reduce}: {body}");
        }
    }
    assert!(turned("mean(token, over: group) then mean(group)", sampled));
    for reduce in ["mean(token) then mean(sequence)", "mean(token, over: batch)"] {
        assert!(!turned(reduce, whole), "{reduce}");
    }
    // One number per completion, spread over its tokens, counts as often as there are tokens.
    let spread = "term t = -reward * sum(live student.logp, over: sequence)";
    assert!(turned("mean(token, over: batch)", spread));
    assert!(!turned("mean(sequence)", spread));
    assert!(!turned("mean(token) then mean(sequence)", spread));
}

/// What is left of a score without a factor, where each completion's tokens are averaged, is a pull on its
/// length.
#[test]
fn a_pull_on_the_length_is_told() {
    let found = reduced_by("mean(token) then mean(sequence)", "term t = -live student.logp");
    let line = "on tokens that the student drew: carries no signal: the mean gradient is exactly 0";
    let place = found.iter().position(|known| known == line).unwrap_or_else(|| panic!("{found:?}"));
    assert!(found[place + 1].ends_with("what is left is a pull on the length"), "{found:?}");
    let found = reduced_by("sum(token) then mean(sequence)", "term t = -live student.logp");
    assert!(!found.iter().any(|line| line.contains("length")), "{found:?}");
}

/// A mean inside of the term: its factor is that of one length, and where lengths differ it has no name.
#[test]
fn a_mean_over_a_completion_is_no_factor_where_lengths_differ() {
    let gap = "(student.logp - teacher.logp)";
    let found = says(&format!("term t = mean({gap}, over: sequence) * live student.logp"));
    assert!(found[0].starts_with("by length: "), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("where lengths differ: ")), "{found:?}");
    let found = says(&format!("term t = sum({gap}, over: sequence) * live student.logp"));
    assert_eq!(found[0], "follows 1.00 * grad KL(student || teacher) of whole completions");
    assert!(!found.iter().any(|line| line.starts_with("where lengths differ")), "{found:?}");
}

/// A state is tried at several values: a bound or a difference may choose another gradient there.
#[test]
fn a_state_is_audited_at_several_values() {
    let (seek, cover) = ("live kl(student || teacher)", "live kl(teacher || student)");
    let follows = |what: &str| format!("follows 1.00 * grad KL({what})");
    let found = says(&format!("state price = 1 then price + 1\nterm t = where(price > 3, {seek}, {cover})"));
    assert!(found[0].starts_with("with price = 1: ") && found[0].ends_with(&follows("teacher || student")));
    let later = |line: &String| {
        line.starts_with("with price = 3.375: ") && line.ends_with(&follows("student || teacher"))
    };
    assert!(found.iter().any(later), "{found:?}");
    // The sign turns.
    let found = says(&format!("state price = 0 then price + 1\nterm t = (price - 2) * {seek}"));
    assert_eq!(found[0], "with price = 0: follows -2.00 * grad KL(student || teacher)");
    assert!(
        found.iter().any(|line| line.contains(": follows 0.25 * grad KL(student || teacher)")),
        "{found:?}"
    );
    // Where only the size changes, one value is enough.
    let found = says(&format!("state beta = 0.5 then beta * 1.1\nterm t = beta * {seek}"));
    assert_eq!(
        found,
        ["follows 0.50 * grad KL(student || teacher)", "with beta = 0.5, which changes during the run"]
    );
    // A value that the state can't have is not tried.
    let found = says(&format!(
        "state beta = 0.5 then clip(beta * 1.1, 0.1, 1)\nterm t = where(beta > 2, {cover}, {seek})"
    ));
    assert!(!found.iter().any(|line| line.contains("teacher || student")), "{found:?}");
    // Neither sign is wrong.
    let body = format!("state price = 0 then price + 1\nterm t = (price - 2) * {seek}");
    assert!(!codes(&checked(ONE, &body, STAGE)).contains(&Code::WrongSign));
    let body = format!("state price = 1 then price + 1\nterm t = -price * {seek}");
    assert!(codes(&checked(ONE, &body, STAGE)).contains(&Code::WrongSign));
}

/// A ladder is evaluated at each of its values.
#[test]
fn a_ladder_is_audited_at_each_value() {
    let ladder = "ladder([1, 2, -1, 2, 1], advance_if: loss < 1, every: 5 steps)";
    let body = format!("term t = {ladder} * live kl(student || teacher)");
    let found = audited_in(ONE, &body, &STAGE.replace("steps = 10", "steps = 100"));
    assert!(found.iter().any(|line| line.contains("follows -1.00 * grad")), "{found:?}");
}

/// A case that the usual toy models never choose is tested in others; if none of these chooses it, a line
/// says so.
#[test]
fn a_case_that_is_not_tried_is_told() {
    let (seek, cover) = ("live kl(student || teacher)", "live kl(teacher || student)");
    // Teachers of the usual toy models are never that sure.
    let found = says(&format!("term t = where(teacher.top1 > 0.9, {cover}, {seek})"));
    assert_eq!(found[0], "follows 1.00 * grad KL(student || teacher)");
    assert!(
        found[1].starts_with("`teacher.top1 > 0.9` never holds in most toy models; where it does: ")
            && found[1].contains("KL(teacher || student)"),
        "{found:?}"
    );
    let same = says(&format!("term t = where(teacher.top1 > 0.9, 2 * {seek}, {seek})"));
    assert!(
        same[1].contains("where it does: follows ") && same[1].contains("KL(student || teacher)"),
        "{same:?}"
    );
    // No toy model reaches this one.
    let found = says(&format!("term t = where(teacher.top1 > 0.9999999, {cover}, {seek})"));
    assert!(found[1].ends_with("never holds here: where it does, nothing was tested"), "{found:?}");
    let found = says(&format!("term t = {seek} {{ when = student.entropy < 50 }}"));
    assert_eq!(found[1], "`student.entropy < 50` always holds here: where it does not, nothing was tested");
}

/// Neutral factors and summands change neither a verdict nor a normal form.
#[test]
fn neutral_factors_change_nothing() {
    let form = |body: &str| format!("{:?}", mopd_compiler::normal_form(&objective(body), None));
    for (plain, same) in [
        ("term t = -reward * live student.logp", "term t = -(1 * reward) * live student.logp"),
        ("term t = -reward * live student.logp", "term t = -(reward * 1 / 1) * live student.logp"),
        ("term t = live kl(student || teacher)", "term t = 1 * live kl(student || teacher)"),
        ("term t = live kl(student || teacher)", "term t = 0 + live kl(student || teacher) - 0"),
        ("term t = live kl(student || teacher)", "term t = (3 - 2) * live kl(student || teacher)^1"),
    ] {
        assert_eq!(says(plain), says(same), "{same}");
        assert_eq!(form(plain), form(same), "{same}");
    }
}

/// In later updates from a batch an earlier student drew the tokens.
#[test]
fn later_updates_are_judged() {
    let gap = "(student.logp - teacher.logp)";
    let kl = "follows 1.00 * grad KL(student || teacher)";
    for (value, told) in [
        ("live kl(student || teacher)".to_owned(), kl.to_owned()),
        (format!("{gap} * live ratio"), kl.to_owned()),
        (format!("ratio * {gap} * live student.logp"), kl.to_owned()),
        (
            "(sampler.logp - teacher.logp) * live ratio".to_owned(),
            format!("mixture: {kl} - 1.00 * grad KL(student || old)"),
        ),
        (format!("{gap} * clip(live ratio, 0.8, 1.2)"), "its bounds act: ".to_owned()),
        (format!("ratio^2 * {gap} * live student.logp"), "24% away from the gradient of fresh".to_owned()),
    ] {
        let body = format!("term t = {value}");
        for setting in ["passes = 2", "mini_batches = 2"] {
            let said = audited_in(ONE, &body, &stage_with(setting));
            let line = said.iter().find_map(|line| line.strip_prefix("in later updates: "));
            assert!(line.is_some_and(|line| line.starts_with(&told)), "{value}: {said:?}");
        }
        // One update has no later one. Without a stage, only what differs is told.
        let said = audited(ONE, &body);
        assert!(!said.iter().any(|line| line.starts_with("in later updates")), "{value}: {said:?}");
        let alone = says(&body).iter().any(|line| line.starts_with("in later updates"));
        assert_eq!(alone, told != kl, "{value}");
    }
}

/// What a statistic of few peers does to the gradient is told with its size in a larger batch.
#[test]
fn a_bias_of_few_peers_is_told_with_more_of_them() {
    let gap = "(teacher.logp - student.logp)";
    for (body, trend) in [
        (format!("term t = -zscore({gap}, over: batch, deviation: sample) * live student.logp"), "vanishes"),
        (format!("term t = -center({gap}, over: batch) * live student.logp"), "vanishes"),
        (
            format!(
                "select = student.logp > mean(student.logp, over: batch)\nterm t = -{gap} * live student.logp"
            ),
            "does not vanish",
        ),
    ] {
        let said = says(&body);
        let ends = format!("this {trend} with the size of the batch");
        assert!(said.iter().any(|line| line.ends_with(&ends)), "{body}: {said:?}");
    }
    let exact = says("term t = -(reward - mean(reward, over: group)) * live student.logp");
    assert!(!exact.iter().any(|line| line.contains("compares across")), "{exact:?}");
}

/// A coefficient of 0 beside a condition is called so, and not taken for the condition.
#[test]
fn the_reason_of_a_zero_is_told() {
    let kl = "live kl(student || teacher)";
    let found = says(&format!("select = student.entropy > 0.5\nterm t = 0 * {kl}"));
    assert!(found[0].ends_with(NOTHING), "{found:?}");
    assert!(found.iter().any(|line| line.ends_with("is 0, whatever is drawn")), "{found:?}");
    let found = says(&format!("select = student.entropy > 0.5\nterm t = linear(0 -> 1) * {kl}"));
    assert!(found[0].ends_with(&format!("at the start: {NOTHING}")), "{found:?}");
    assert!(found.iter().any(|line| line == "`linear(0 -> 1)` is 0 here"), "{found:?}");
    let found = says(&format!("select = student.entropy > 0.5\nweight = 0 * student.entropy\nterm t = {kl}"));
    assert!(found[0].ends_with(NOTHING), "{found:?}");
    let found = says(&format!("select = teacher.top1 > 0.999\nterm t = {kl}"));
    assert_eq!(found[0], "not audited: `teacher.top1 > 0.999` holds for no token in toy models this small");
}

/// One objective's error leaves the verdicts and the warnings of the others.
#[test]
fn an_error_of_one_objective_silences_no_other() {
    let other =
        "objective other {\nterm t = -live kl(student || teacher)\nreduce = mean(token, over: batch)\n}\n";
    let second = STAGE.replace("model student", "model second").replace("objective = o", "objective = other");
    let found = checked(ONE, "term t = live student.logp - teacher.logp", &format!("{STAGE}{other}{second}"));
    assert_eq!(codes(&found), [Code::ZeroGradient, Code::WrongSign], "{found:?}");
}
