//! Tests of the difference between plans, on edits of the quickstart.

use mopd_plan::Plan;
use mopd_plan::difference::{NamedPlan, PlanDifference, difference, of_families};

const TEXT: &str = include_str!("../../../examples/quickstart.mopd");

fn plan(text: &str) -> Plan {
    let analysis = mopd_tests::check("quickstart.mopd", text);
    let experiment =
        analysis.experiment.as_ref().unwrap_or_else(|| panic!("{}", mopd_tests::listing(&analysis)));
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).expect("it can run")
}

/// Applies edits to the quickstart: pairs of a text in it and its replacement.
fn edited(edits: &[(&str, &str)]) -> PlanDifference {
    let mut text = TEXT.to_owned();
    for (old, new) in edits {
        assert!(text.contains(old), "{old}");
        text = text.replace(old, new);
    }
    difference(&plan(TEXT), &plan(&text))
}

fn said(edits: &[(&str, &str)]) -> Vec<String> {
    edited(edits).items.iter().map(ToString::to_string).collect()
}

#[test]
fn edits_without_meaning_are_no_difference() {
    assert!(edited(&[]).is_empty());
    assert!(
        edited(&[
            ("// One budget rule", "// Another"),
            ("  prompts   = 24\n", "  prompts = 8*3 // as before\n")
        ])
        .is_empty()
    );
}

#[test]
fn difference_in_the_last_stages_objective() {
    let found = edited(&[("clip_at: 5", "clip_at: 3")]);
    assert_eq!(
        found.items.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["objective of `student_sampled`: clip ±5 -> ±3"]
    );
    assert_eq!(found.reruns, ["student_sampled"]);
    assert!(found.summary().starts_with("1 of "), "{}", found.summary());
    assert_eq!(
        said(&[("mopd_top_k(k: 64)", "mopd_top_k(k: 32)")]),
        ["objective of `student`: top_k 64 -> 32"]
    );
}

#[test]
fn a_states_values_are_said_by_its_name() {
    let objective = |first: &str, by: &str| {
        TEXT.replace("objective = mopd(clip_at: 5)", "objective = mine").replace(
            "experiment \"quickstart\"",
            &format!(
                "objective mine {{\n  state heat = {first} then {by} * heat + mean(student.entropy, over: batch)\n  \
                 term t = live kl(student || teacher) / heat\n  reduce = mean(token, over: batch)\n}}\n\
                 experiment \"quickstart\""
            ),
        )
    };
    let before = plan(&objective("1", "0.5"));
    let said = |first: &str, by: &str| {
        let found = difference(&before, &plan(&objective(first, by)));
        found.items.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(said("1", "0.5").is_empty());
    let whole = |text: &str| format!("objective of `student_sampled`: {text}");
    assert_eq!(said("2", "0.5"), [whole("the first value of state `heat` 1 -> 2")]);
    assert_eq!(said("1", "0.75"), [whole("state `heat` 0.5 -> 0.75")]);
}

#[test]
fn difference_in_a_ladder_is_listed() {
    let climbed = |bound: &str, every: &str| {
        let ladder = format!(
            "schedule longer = ladder([4, 8], advance_if: mean(student.entropy, over: batch) < {bound}, \
             every: {every} steps)"
        );
        let text =
            TEXT.replace("temperature: 1.0, max_tokens: longest", "temperature: 1.0, max_tokens: longer");
        plan(&format!("{text}\n{ladder}\n"))
    };
    let before = climbed("2", "5");
    let said = |bound: &str, every: &str| {
        let found = difference(&before, &climbed(bound, every));
        found.items.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(said("2", "5").is_empty());
    let whole =
        |text: &str| ["student", "student_sampled"].map(|stage| format!("objective of `{stage}`: {text}"));
    assert_eq!(said("2", "10"), whole("how often `advance_if` is looked at every 5 steps -> every 10 steps"));
    assert_eq!(said("3", "5"), whole("`advance_if` 2 -> 3"));
}

#[test]
fn another_objective_is_said_by_its_slots() {
    let found = said(&[("objective = mopd_top_k(k: 64)", "objective = mopd(clip_at: 5)")]);
    let [said] = found.as_slice() else { panic!("{found:?}") };
    assert!(said.starts_with("objective of `student`: support "), "{said}");
    assert!(said.contains("shaping "), "{said}");
}

#[test]
fn difference_in_settings_and_schedules() {
    let found = edited(&[("steps     = 160", "steps     = 200"), ("1e-3 -> 0", "2e-3 -> 0")]);
    let student = found
        .items
        .iter()
        .find(|item| item.name == "student")
        .expect("the student trains longer")
        .to_string();
    assert!(student.contains("steps 160 -> 200"), "{student}");
    assert!(
        student.contains(
            "lr warmup(10 steps, then: linear(0.001 -> 0)) -> warmup(10 steps, then: linear(0.002 -> 0))"
        ),
        "{student}"
    );
    assert!(!found.reruns.contains(&"start".to_owned()), "{:?}", found.reruns);
    assert!(found.reruns.contains(&"expert[sort]".to_owned()), "{:?}", found.reruns);
}

/// The order of a domain's arms matters, so they are reported in the order of the text.
#[test]
fn a_route_by_data_is_said_in_its_order() {
    let route = "route { for d in domains: domain == d -> specialist[d] }";
    let routed =
        |arms: &str| format!("route {{\n  {arms}\n  for d in domains: domain == d -> specialist[d]\n}}");
    let hard = routed("domain == sort and data.level > 3 -> specialist[reverse]");
    let harder = routed("domain == sort and data.level > 4 -> specialist[reverse]");
    let student = |found: &[String]| {
        found.iter().find(|item| item.starts_with("`student`")).expect("another route").clone()
    };
    assert_eq!(
        student(&said(&[(route, &hard)])),
        "`student`: teacher.sort expert[sort] -> data.level > 3 -> expert[reverse], else -> expert[sort]"
    );
    let plans = [hard, harder].map(|route_by_data| plan(&TEXT.replace(route, &route_by_data)));
    let found: Vec<String> = difference(&plans[0], &plans[1]).items.iter().map(ToString::to_string).collect();
    assert_eq!(
        student(&found),
        "`student`: teacher.sort data.level > 3 -> expert[reverse], else -> expert[sort] -> data.level > 4 \
         -> expert[reverse], else -> expert[sort]"
    );
}

/// The share of a slot that a teacher sees, if the run learns it.
#[test]
fn a_share_that_is_learned() {
    let text = "experiment \"t\" { seed = 1 }\n\
                domain d { prompts = \"d.jsonl\", reward = exact_match }\n\
                model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }\n\
                template begun(exposure: fraction) = \"{first(answer, exposure)}?\"\n\
                teacher insider(exposure: fraction) = self { sees = begun(exposure) }\n\
                objective o {\n\
                  term a = live kl(student || teacher)\n\
                  reduce = mean(token) then mean(sequence)\n\
                }\n\
                rollout probe = data(answer)\n\
                schedule shown = learned(\n\
                  gain: previous(loss) - loss + 0.1 * mean(student.logp, over: batch, on: probe),\n\
                  hold: 2 steps, discount: 0.5,\n\
                )\n\
                model student = distill(base) {\n\
                  objective = o, prompts = 5, steps = 10, lr = 1e-3\n\
                  rollout = sample(n: 2, temperature: 1, max_tokens: 6)\n\
                  route { else -> insider(shown) }\n\
                }\n";
    let said = |old: &str, new: &str| -> Vec<String> {
        assert!(text.contains(old), "{old}");
        let found = difference(&plan(text), &plan(&text.replace(old, new)));
        assert_eq!(found.reruns, ["student"]);
        found.items.iter().map(ToString::to_string).collect()
    };
    let of = |changes: &str| vec![format!("objective of `student`: {changes}")];
    assert_eq!(said("hold: 2", "hold: 3"), of("hold of `learned` 2 -> 3"));
    assert_eq!(said("discount: 0.5", "discount: 0.6"), of("discount of `learned` 0.5 -> 0.6"));
    assert_eq!(said("discount: 0.5", "discount: 0.5, lr: 0.2"), of("lr of `learned` 0.1 -> 0.2"));
    assert_eq!(said("0.1 *", "0.2 *"), of("the gain of `learned` 0.1 -> 0.2"));
    assert_eq!(said("data(answer)", "data(solution)"), of("the gain of `learned`, field answer -> solution"));
    let [fixed] = &said("insider(shown)", "insider(0.5)")[..] else { panic!("one stage") };
    assert!(fixed.starts_with("`student`: teacher.d.sees first share learned, "), "{fixed}");
    assert!(
        fixed.contains("; objective of `student`: `learned` to raise ") && fixed.ends_with(" -> none"),
        "{fixed}"
    );
}

/// The choice of prompts and their order.
#[test]
fn difference_in_a_curriculum() {
    let text = "experiment \"t\" { seed = 1 }\n\
                domain d { prompts = \"d.jsonl\", reward = exact_match }\n\
                model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }\n\
                teacher one = base\n\
                objective o { term a = live kl(student || teacher)\n reduce = mean(token) then mean(sequence) }\n\
                rollout tried = from(one, n: 4, temperature: 1, max_tokens: 6)\n\
                model student = distill(base) {\n\
                  objective = o, prompts = 5, steps = 10, lr = 1e-3\n\
                  rollout = sample(n: 2, temperature: 1, max_tokens: 6)\n\
                  route { else -> one }\n\
                  filter = mean(reward, over: group, on: tried) >= 0.5\n\
                  priority = mean(reward, over: group, on: tried) - mean(reward, over: group)\n\
                  refresh = 4\n\
                }\n";
    let said = |old: &str, new: &str| -> Vec<String> {
        assert!(text.contains(old), "{old}");
        let found = difference(&plan(text), &plan(&text.replace(old, new)));
        assert_eq!(found.reruns, ["student"]);
        found.items.iter().map(ToString::to_string).collect()
    };
    let of = |changes: &str| vec![format!("`student`: choice of prompts.{changes}")];
    assert_eq!(said("refresh = 4", "refresh = 5"), of("refresh 4 -> 5"));
    assert_eq!(said(">= 0.5", ">= 0.25"), of("filter (measured[0] >= 0.5) -> (measured[0] >= 0.25)"));
    assert_eq!(said("n: 4", "n: 8"), of("measured[0].n 4 -> 8"));
    assert_eq!(
        said(" - mean(reward, over: group)\n", "\n"),
        of("priority (measured[0] - mean(reward)) -> measured[0]")
    );
}

#[test]
fn an_early_stage_takes_those_behind_it_along() {
    let found = edited(&[("steps  = 700", "steps  = 600")]);
    assert_eq!(
        found.items.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["`start`: steps 700 -> 600"]
    );
    assert_eq!(found.reruns.len(), found.stages - 1, "all but the initial weights: {:?}", found.reruns);
}

#[test]
fn a_name_is_a_name() {
    let found = edited(&[
        ("model start =", "model begin ="),
        ("(start", "(begin"),
        ("    start,", "    begin,"),
        ("zero: start", "zero: begin"),
    ]);
    assert!(found.reruns.is_empty(), "{:?}", found.reruns);
    let said: Vec<String> = found.items.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["`begin` was called `start`"], "and so is its row of the table");
}

#[test]
fn data_tables_and_the_seed() {
    assert_eq!(said(&[("seed = 1 }", "seed = 2 }")]), ["the experiment: seed 1 -> 2"]);
    let found = said(&[("quickstart/sort.train.jsonl", "quickstart/other.jsonl")]);
    assert_eq!(found, ["domain `sort`: prompts.path quickstart/sort.train.jsonl -> quickstart/other.jsonl"]);
    let found = said(&[("seeds       = 3", "seeds       = 5"), ("samples     = 8", "samples     = 4")]);
    assert_eq!(found, ["table `merging three specialists`: samples 8 -> 4, seeds 3 -> 5"]);
    let found = said(&[("    weight_average(expert),\n", "")]);
    assert!(found.iter().any(|item| item == "`weight_average` is gone"), "{found:?}");
}

#[test]
fn numbers_inside_expressions_are_found() {
    let own = |weight: &str| {
        format!(
            "{}\nobjective o {{\n  weight = {weight}\n  term t = live kl(student || teacher)\n  reduce = \
             mean(token, over: batch)\n}}\n",
            TEXT.replace("objective = mopd_top_k(k: 64)", "objective = o")
        )
    };
    let found = difference(&plan(&own("0.25 + teacher.top1")), &plan(&own("0.75 + teacher.top1")));
    let said: Vec<String> = found.items.iter().map(ToString::to_string).collect();
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(said.contains("0.25") && said.contains("0.75"), "{said}");
    assert_eq!(found.reruns, ["student"]);
}

/// The runs of a sweep: a name and edits of the quickstart for each.
fn family(runs: &[(&str, &[(&str, &str)])]) -> Vec<(String, Plan)> {
    let text = |edits: &[(&str, &str)]| {
        edits.iter().fold(TEXT.to_owned(), |text, (old, new)| {
            assert!(text.contains(old), "{old}");
            text.replace(old, new)
        })
    };
    runs.iter().map(|(name, edits)| ((*name).to_owned(), plan(&text(edits)))).collect()
}

fn of(before: &[(String, Plan)], after: &[(String, Plan)]) -> (Vec<String>, PlanDifference) {
    fn plans(family: &[(String, Plan)]) -> Vec<NamedPlan<'_>> {
        family.iter().map(|(name, plan)| NamedPlan { name: name.clone(), plan }).collect()
    }
    let found = of_families(&plans(before), &plans(after));
    (found.items.iter().map(ToString::to_string).collect(), found)
}

/// A result depends on the seed and the arithmetic, which are not in a stage's key.
#[test]
fn another_seed_or_arithmetic_reruns_every_stage() {
    let found = edited(&[("seed = 1", "seed = 2")]);
    assert_eq!(found.items.len(), 1, "{:?}", found.items);
    assert_eq!((found.reruns.len(), found.stages), (found.stages, found.stages), "{}", found.summary());
    let found = edited(&[("seed = 1", "seed = 1, dtype = bfloat16")]);
    assert_eq!(found.reruns.len(), found.stages, "{}", found.summary());
    let both = |edits: &[(&str, &str)]| of(&family(&[("", &[])]), &family(&[("", edits)])).1;
    let found = both(&[("seed = 1", "seed = 2")]);
    assert_eq!(found.reruns.len(), found.stages, "{}", found.summary());
}

/// A table over more seeds trains its models with those that are not there yet.
#[test]
fn more_seeds_rerun_what_a_table_needs() {
    let seeds = |text: &str, seeds: u32| {
        let line = text.lines().find(|line| line.contains("seeds")).expect("a table over seeds").to_owned();
        let (head, tail) = line.split_once("seeds").expect("it has the word");
        let rest = tail.trim_start_matches(|c: char| c == ' ' || c == '=' || c.is_ascii_digit());
        plan(&text.replace(&line, &format!("{head}seeds = {seeds}{rest}")))
    };
    let (one, three) = (seeds(TEXT, 1), seeds(TEXT, 3));
    assert!(!difference(&one, &three).reruns.is_empty());
    assert!(difference(&three, &one).reruns.is_empty());
}

#[test]
fn settings_have_the_names_of_the_language() {
    let found = said(&[("samples = 8", "samples = 9")]);
    assert!(found.iter().any(|item| item.contains("samples 8 -> 9")), "{found:?}");
    assert!(found.iter().all(|item| !item.contains(" n 8 ->")), "{found:?}");
}

#[test]
fn another_formula_is_said_in_full() {
    let objective = |term: &str| {
        let text = TEXT.replace("objective = mopd(clip_at: 5)", "objective = mine").replace(
            "experiment \"quickstart\"",
            &format!(
                "objective mine {{\n  term t = {term}\n  reduce = mean(token, over: batch)\n}}\n\
                 experiment \"quickstart\""
            ),
        );
        plan(&text)
    };
    let [before, after] =
        ["", "2 * "].map(|factor| objective(&format!("{factor}live kl(student || teacher)")));
    let found: Vec<String> = difference(&before, &after).items.iter().map(ToString::to_string).collect();
    let kl = "live kl(student || teacher, support: full)";
    assert_eq!(found, [format!("objective of `student_sampled`: terms {kl} -> 2 * {kl}")]);
}

#[test]
fn shared_change_of_a_sweep_is_counted_once() {
    let steps = |steps| ("steps     = 160", steps);
    let bounds = [("clip_at=1", "clip_at: 1"), ("clip_at=5", "clip_at: 5")];
    let swept = |edit: (&'static str, &'static str)| {
        let runs = bounds.map(|(name, bound)| (name, [("clip_at: 5", bound), edit]));
        family(&runs.each_ref().map(|(name, edits)| (*name, edits.as_slice())))
    };
    let before = swept(steps("steps     = 160"));
    assert!(of(&before, &before).1.is_empty());
    let (said, found) = of(&before, &swept(steps("steps     = 200")));
    assert!(said.contains(&"`student`: steps 160 -> 200".to_owned()), "{said:?}");
    assert!(said.iter().all(|item| !item.contains('[')), "{said:?}");
    // One objective is shared by all runs; the other differs from run to run.
    assert!(found.reruns.contains(&"student".to_owned()), "{:?}", found.reruns);
    for run in ["clip_at=1", "clip_at=5"] {
        assert!(found.reruns.contains(&format!("student_sampled [{run}]")), "{:?}", found.reruns);
    }
    assert_eq!(found.stages, before[0].1.stages.len() + 1, "one stage is there twice");
}

#[test]
fn runs_that_come_go_and_change_their_name() {
    let (one, five, seven) = ([("clip_at: 5", "clip_at: 1")], [], [("clip_at: 5", "clip_at: 7")]);
    let runs = |runs: &[(&str, &[(&str, &str)])]| family(runs);
    let before = runs(&[("bound=1", &one), ("bound=5", &five)]);
    let (said, found) = of(&before, &runs(&[("bound=1", &one), ("bound=7", &seven)]));
    assert_eq!(said, ["run `bound=7` is new", "run `bound=5` is gone"]);
    assert_eq!(found.reruns, ["student_sampled [bound=7]"]);
    let (said, found) = of(&before, &runs(&[("limit=1", &one), ("limit=5", &five)]));
    assert_eq!(said, ["run `limit=1` was called `bound=1`", "run `limit=5` was called `bound=5`"]);
    assert!(found.reruns.is_empty() && !found.is_empty(), "its tables have other names");
    let (said, _) = of(&before, &runs(&[("bound=5", &five), ("bound=1", &one)]));
    assert_eq!(said, ["the experiment: order of runs bound=1; bound=5 -> bound=5; bound=1"]);
    let alone = runs(&[("", &five)]);
    let (said, found) = of(&alone, &before);
    assert_eq!(said, ["run `bound=1` is new", "run `bound=5` was the run without a sweep"]);
    assert_eq!(found.reruns, ["student_sampled [bound=1]"]);
    assert_eq!(
        of(&before, &alone).0,
        ["the run without a sweep was called `bound=5`", "run `bound=1` is gone"]
    );
    // A change in a single run is reported for that run.
    let faster = ("1e-3 -> 0", "2e-3 -> 0");
    let edited = runs(&[("bound=1", &[one[0], faster]), ("bound=5", &five)]);
    assert!(
        of(&before, &edited).0.iter().all(|item| item.ends_with(" [bound=1]")),
        "{:?}",
        of(&before, &edited).0
    );
}
