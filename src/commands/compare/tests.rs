use mopd_plan::difference::{ChangeKind, DifferenceKind, ItemChange};
use mopd_plan::results::{ComparedRow, Interval};

use super::*;

fn pair<'a>() -> Pair<'a> {
    let cell = |mean: f64, low, high| {
        Some(ComparedCell { before: 0.5, after: 0.5 + mean, difference: Interval { mean, low, high } })
    };
    let table = ComparedTable {
        name: "merging".into(),
        domains: vec!["a_b".into()],
        rows: vec![
            ComparedRow {
                model: "x|y".into(),
                cells: vec![cell(0.25, 0.125, 0.375), cell(-0.001, -0.25, 0.25), None],
            },
            ComparedRow { model: "z, \"w\"".into(), cells: vec![None, None, None] },
        ],
        same_seeds: true,
        seeds: [2, 2],
        other_tests: Vec::new(),
        other_rewards: Vec::new(),
        other_sampling: Vec::new(),
        one_prompt: Vec::new(),
        only_before: vec!["gone".into()],
        only_after: Vec::new(),
    };
    let meaning = MeaningChange {
        difference: PlanDifference::default(),
        only: [(0, 3); 2],
        inputs: Vec::new(),
        circumstances: vec!["seeds 1 -> 2".into()],
        forked: false,
    };
    Pair { before: "a", after: "b", meaning, common: CommonTables::Some(vec![table]) }
}

fn table<'a>(pair: &'a mut Pair) -> &'a mut ComparedTable {
    let CommonTables::Some(tables) = &mut pair.common else { panic!("no table") };
    &mut tables[0]
}

#[test]
fn the_text_says_what_is_clear() {
    let text = text(&[pair()], Style::PLAIN);
    let expected = "\
a -> b: the same experiment
  seeds 1 -> 2

merging
| model  |                    a_b |                   mean |
|--------|------------------------|------------------------|
| x|y    | +0.25 [+0.12, +0.38] * | +0.00 [-0.25, +0.25]   |
| z, \"w\" |                        |                        |
  difference of means with its 95% interval; prompts and seeds are paired; * marks an interval that excludes 0
  only in the first run: gone
";
    assert_eq!(text, expected);
}

#[test]
fn comparison_under_another_reward_is_unclear() {
    let mut pair = pair();
    table(&mut pair).other_rewards.push("a_b".into());
    let files = vec!["judge.py".into()];
    pair.meaning.inputs.push(InputChange::Reward { domain: "a_b".into(), files });
    let text = text(&[pair], Style::PLAIN);
    let said = "a -> b: the same plan with different data or reward files\n  domain `a_b`: different reward files: judge.py\n";
    assert!(text.starts_with(said), "{text}");
    assert!(text.contains("| +0.25 [+0.12, +0.38]   |") && text.contains("the rewards differ, so"), "{text}");
}

#[test]
fn a_difference_by_other_sampling_or_of_one_prompt_is_unclear() {
    let of = |change: fn(&mut ComparedTable)| {
        let mut pair = pair();
        change(table(&mut pair));
        text(&[pair], Style::PLAIN)
    };
    let sampling = of(|table| table.other_sampling.push("a_b".into()));
    assert!(sampling.contains("[+0.12, +0.38]   |") && sampling.contains("the sampling differs, so"));
    let one = of(|table| table.one_prompt.push("a_b".into()));
    assert!(one.contains("[+0.12, +0.38]   |") && one.contains("with one test prompt, the intervals"));
}

#[test]
fn stages_of_both_runs_count() {
    let summary = |only| MeaningChange { only, ..pair().meaning }.summary();
    let change = |only| {
        let mut meaning = pair().meaning;
        let fate = ChangeKind::Added;
        let item = ItemChange { kind: DifferenceKind::Stage, name: "x".into(), runs: Vec::new(), fate };
        meaning.difference.items.push(item);
        MeaningChange { only, ..meaning }.summary()
    };
    assert_eq!(summary([(0, 3), (0, 3)]), "the same experiment");
    assert_eq!(summary([(1, 3), (1, 3)]), "1 of 3 stages computes something else");
    assert_eq!(change([(0, 3), (0, 3)]), "all 3 stages compute the same");
    assert_eq!(
        change([(1, 3), (2, 4)]),
        "1 of 3 stages is only in the first, 2 of 4 stages only in the second"
    );
    assert_eq!(
        change([(2, 4), (1, 3)]),
        "2 of 4 stages are only in the first, 1 of 3 stages only in the second"
    );
}

#[test]
fn the_run_with_one_seed_is_named() {
    let note = |seeds: [u32; 2]| {
        let mut pair = pair();
        table(&mut pair).seeds = seeds;
        notes(table(&mut pair)).remove(0)
    };
    assert!(note([1, 1]).contains("with one seed, the interval is over prompts alone"));
    assert!(note([3, 1]).contains("the second run has one seed, so the variation between its seeds"));
    assert!(note([1, 3]).contains("the first run has one seed") && !note([3, 3]).contains("one seed"));
}

#[test]
fn every_format_for_people_says_why_there_is_no_table() {
    let common = CommonTables::None { reason: "the two runs have no table with the same name".to_owned() };
    let pairs = [Pair { common, ..pair() }];
    let texts = [text(&pairs, Style::PLAIN), markdown(&pairs), latex(&pairs)];
    assert!(texts.iter().all(|text| text.contains("no table with the same name")), "{texts:?}");
}

#[test]
fn each_format_escapes_what_would_break_it() {
    assert!(markdown(&[pair()]).contains("| x\\|y "));
    let latex = latex(&[pair()]);
    assert!(
        latex.contains("model & a\\_b & mean \\\\\n")
            && latex.contains("$+0.25^{*}$ {\\scriptsize $[+0.12, +0.38]$}"),
        "{latex}"
    );
    assert_eq!(in_latex("50% of \\x^2"), "50\\% of \\textbackslash{}x\\textasciicircum{}2");
    let csv = csv(&[pair()]);
    assert_eq!(quoted("z, \"w\""), "\"z, \"\"w\"\"\"");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[1], "a,b,merging,x|y,a_b,0.5,0.75,0.25,0.125,0.375,true,true");
    assert_eq!(lines.len(), 3);
}
