//! `mopd try`: objectives on given numbers.

use std::fs;

use mopd_tests::{files, root};
use serde_json::{Value, json};

use super::Place;

const OBJECTIVE: &str = "\
objective mine(most: nats, scale: real = 1) {
  let gap       = clip(teacher.logp - student.logp, -most, most)
  let advantage = scale * gap + zscore(reward, over: group, deviation: population)

  select       = position < 2
  term imitate = -advantage * live student.logp
  reduce       = mean(token) then mean(sequence)
}
";

fn numbers() -> Value {
    json!({
        "arguments": {"most": 1},
        "prompts": [{"completions": [
            {"student.logp": [-1, -2, -4], "teacher.logp": [-1.5, -0.5, 0], "reward": 1},
            {"student.logp": [-0.25], "teacher.logp": [-0.5], "reward": 0},
        ]}],
    })
}

/// Each file has the results of torch's autograd on the method's formula, in float64
/// (`tests/methods/references.py`): the loss, and its gradient with respect to the student's logits, or to
/// the output of its scalar head.
#[test]
fn every_objective_with_a_reference_has_its_loss_and_its_gradient() {
    let place = Place::new();
    let files = files(&root().join("tests/methods/numbers"), ".json");
    assert!(files.len() >= 60, "only {} references", files.len());
    for path in files {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        // A third part of the name is the first of the terms whose completions the numbers belong to.
        let mut names = name.split('.');
        let (module, objective) = (names.next().expect("a module"), names.next().expect("an objective"));
        let said = place.mopd(&["try", &format!("std.{module}"), objective, &path.to_string_lossy()]);
        let reference: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        let values = reference["expected"].as_object().expect("values by name").len();
        assert!(values >= 2, "{name}: loss and gradient");
        said.is(0, &[&format!("{values} values as expected")]);
        // A gradient of 0 everywhere would agree with any untrained quantity.
        let mut expected = reference["expected"].as_object().expect("values by name").iter();
        let gradient = expected.find(|(name, _)| name.starts_with("d loss / d ")).expect("a gradient").1;
        let moves = |x: &Value| x.as_f64() != Some(0.0);
        let rows = gradient.as_array().expect("rows");
        let moves = |row: &Value| row.as_array().map_or(moves(row), |entries| entries.iter().any(moves));
        assert!(rows.iter().any(moves), "{name}: no token has a gradient");
    }
}

/// The same for small objectives of our own (`tests/constructs/references.py`), to 1e-8 in double precision.
#[test]
fn every_construct_has_its_loss_and_its_gradient() {
    let (place, folder) = (Place::new(), root().join("tests/constructs"));
    let programs = files(&folder, ".mopd");
    let mut wanted: Vec<String> = Vec::new();
    for program in programs {
        let file = program.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&program).expect("a program");
        let names = text.lines().filter_map(|line| line.strip_prefix("pub objective "));
        wanted.extend(names.map(|name| format!("{file}.{}", name.split('(').next().expect("a name"))));
    }
    wanted.sort();
    let numbers = files(&folder.join("numbers"), ".json");
    let mut found: Vec<String> = Vec::new();
    for path in numbers {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let (file, objective) = name.split_once('.').expect("a file and an objective");
        let reference: Value = serde_json::from_slice(&fs::read(&path).expect("a file")).expect("JSON");
        assert_eq!(reference["tolerance"], json!(1e-8), "{name}");
        let expected = reference["expected"].as_object().expect("values by name");
        let flat = expected["d loss / d logits"].as_array().expect("rows").iter();
        let partials: Vec<f64> =
            flat.flat_map(|row| row.as_array().expect("entries")).map(|x| x.as_f64().unwrap()).collect();
        assert!(partials.iter().any(|partial| partial.abs() > 1e-3), "{name}: no gradient");
        let program = folder.join(format!("{file}.mopd"));
        let said = place.mopd(&["try", &program.to_string_lossy(), objective, &path.to_string_lossy()]);
        said.is(0, &[&format!("{} values as expected", expected.len())]);
        found.push(name);
    }
    assert_eq!(found, wanted);
}

#[test]
fn try_matches_results_computed_by_hand() {
    let place = Place::with(&[("a.mopd", OBJECTIVE), ("n.json", &numbers().to_string())]);
    let trial = place.mopd(&["try", "a.mopd", "mine", "n.json", "--format", "json"]).is(0, &[]).json();
    let near = |value: &Value, wanted: &[f64]| {
        let found: Vec<f64> = value.as_array().expect("a list").iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(found.len(), wanted.len(), "{value}");
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{value} is not {wanted:?}");
    };
    let part = |name: &str| {
        let parts = trial["parts"].as_array().expect("parts");
        parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no {name} in {trial}"))
    };
    // Rewards 1 and 0 are 0.5 from their mean, and their standard deviation is 0.5.
    let z = 0.5 / (0.5 + 1e-4);
    near(&part("gap")["f64"], &[-0.5, 1.0, 1.0, -0.25]);
    near(&part("advantage")["f64"], &[z - 0.5, z + 1.0, z + 1.0, -z - 0.25]);
    near(&part("select")["f64"], &[1.0, 1.0, 0.0, 1.0]);
    let gradient = [-(z - 0.5) / 4.0, -(z + 1.0) / 4.0, 0.0, (z + 0.25) / 2.0];
    near(&trial["gradients"][0]["f64"], &gradient);
    near(&trial["gradients"][0]["f32"], &gradient);
    assert_eq!(trial["logits"], Value::Null, "nothing is known of the logits");
    near(&trial["loss"]["f64"], &[((z - 0.5) * 1.0 + (z + 1.0) * 2.0) / 4.0 + (-z - 0.25) * 0.25 / 2.0]);
}

/// Where every log-ratio is 0, so is the spread by which DN-MOPD divides.
#[test]
fn domains_without_spread_have_a_loss_of_zero() {
    let agreed = json!({
        "prompts": [{"domain": "math", "completions": [
            {"student.logp": [-1, -2], "teacher.logp": [-0.5, -1], "sampler.logp": [-0.5, -1], "old.logp": [-1, -2]},
        ]}],
    });
    let place = Place::with(&[("n.json", &agreed.to_string())]);
    let trial =
        place.mopd(&["try", "std.dn_mopd", "dn_mopd", "n.json", "--format", "json"]).is(0, &[]).json();
    assert_eq!(trial["loss"]["f64"], json!([0.0]));
    assert_eq!(trial["gradients"][0]["f32"], json!([0.0, 0.0]));
}

/// The bins of [0, 1]: what is below is in the first, and what is above in the last.
#[test]
fn values_outside_go_to_the_nearest_bin() {
    let objective = "objective mine {\n  let bin = bucket(student.logp + 1.5, 4)\n  \
                     term all = -bin * live student.logp\n  reduce = mean(token, over: batch)\n}\n";
    let numbers = json!({"prompts": [{"completions": [{"student.logp": [-4, -1.5, -0.75, -0.5, -0.25]}]}]});
    let place = Place::with(&[("a.mopd", objective), ("n.json", &numbers.to_string())]);
    let trial = place.mopd(&["try", "a.mopd", "mine", "n.json", "--format", "json"]).is(0, &[]).json();
    let parts = trial["parts"].as_array().expect("parts");
    let bin = parts.iter().find(|part| part["name"] == "bin").expect("the `let`");
    assert_eq!(bin["f64"], json!([0.0, 0.0, 3.0, 3.0, 3.0]));
    assert_eq!(bin["f32"], bin["f64"]);
}

#[test]
fn numbers_to_begin_with_are_enough_for_every_objective_that_can_be_tried() {
    let place = Place::new();
    let mut tried = 0;
    for (module, text) in mopd_std::MODULES {
        for line in text.lines().filter_map(|line| line.strip_prefix("pub objective ")) {
            let objective = line.split(['(', ' ']).next().expect("a name");
            let module = format!("std.{module}");
            let example = place.mopd(&["try", &module, objective]);
            if example.status == Some(1) {
                assert!(example.err.contains("on given numbers is not supported yet"), "{example:#?}");
                continue;
            }
            place.write("n.json", &example.is(0, &[]).out);
            let said = place.mopd(&["try", &module, objective, "n.json"]).is(0, &[]);
            assert!(!said.err.contains("not read"), "{module}.{objective}: {said:#?}");
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} objectives");
}

#[test]
fn a_difference_from_what_is_expected_is_said() {
    let mut numbers = numbers();
    numbers["expected"] = json!({"gap": [-0.5, 1, 1, -0.25], "loss": 7, "advantages": 1});
    let place = Place::with(&[("a.mopd", OBJECTIVE), ("n.json", &numbers.to_string())]);
    place.mopd(&["try", "a.mopd", "mine", "n.json"]).is(
        1,
        &[
            "differs: `loss`: expected 7, found",
            "in f64",
            "in f32",
            "differs: `advantages`: is not an output; the outputs are `loss`, `gap`, `advantage`, \
            `select`",
        ],
    );
    numbers["expected"] = json!({"gap": [-0.5, 1, 1, -0.25]});
    place.write("n.json", &numbers.to_string());
    place.mopd(&["try", "a.mopd", "mine", "n.json"]).is(0, &["1 value as expected"]);
}

/// Numbers above exp(88.7) overflow in single precision.
#[test]
fn try_reports_numbers_that_only_float32_overflows() {
    let objective = "\
objective far {
  let share = exp(teacher.logp - student.logp) * exp(-teacher.logp)

  term imitate = -min(share, 2) * live student.logp
  reduce       = mean(token) then mean(sequence)
}
";
    let numbers = json!({"prompts": [{"completions": [
        {"student.logp": [-1, -2], "teacher.logp": [-0.5, -0.5]},
        {"student.logp": [-1, -100], "teacher.logp": [-0.5, -0.5]},
    ]}]});
    let place = Place::with(&[("a.mopd", objective), ("n.json", &numbers.to_string())]);
    let first = "the compiled code, in f32, has inf for `share` at token 2 of completion 2 of prompt 1 where \
                 the formula has 2.688e43";
    let said = place.mopd(&["try", "a.mopd", "far", "n.json"]).is(1, &[]);
    assert!(said.out.contains(&format!("; {first}; elsewhere it differs by at most ")), "{said:#?}");
    place
        .mopd(&["try", "a.mopd", "far", "n.json", "--format", "json"])
        .is(1, &[&format!("differs: {first}\n")]);
}

/// Loss of one live term on one token, and its gradient with respect to the logits.
fn tried(term: &str, student: Value, teacher: Value) -> (f64, Vec<f64>) {
    let objective =
        format!("objective o {{\n  term t = live {term}\n  reduce = mean(token, over: batch)\n}}\n");
    let numbers = json!({"prompts": [{"completions": [
        {"tokens": [0], "student": student, "teacher": teacher},
    ]}]});
    let place = Place::with(&[("a.mopd", &objective), ("n.json", &numbers.to_string())]);
    let trial = place.mopd(&["try", "a.mopd", "o", "n.json", "--format", "json"]).is(0, &[]).json();
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let row = trial["logits"][0].as_array().expect("a row").iter().map(number).collect();
    (number(&trial["loss"]["f64"][0]), row)
}

#[track_caller]
fn near((loss, row): (f64, Vec<f64>), wanted: f64, gradient: &[f64]) {
    assert!((loss - wanted).abs() <= 1e-6 * wanted.abs().max(1.0), "{loss} is not {wanted}");
    assert_eq!(row.len(), gradient.len(), "{row:?}");
    assert!(row.iter().zip(gradient).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?} is not {gradient:?}");
}

/// The remaining 8e-18 of the probability is in two equal entries, and e^-20000 is 0 in double precision.
#[test]
fn logits_that_are_far_apart_have_finite_numbers() {
    let logits = |row: Value| json!({"logits": [row]});
    let ranking =
        tried("ranking(order: top_k(teacher, 2))", logits(json!([0, 40, 0])), logits(json!([1, 40, 0])));
    near(ranking, 2.0f64.ln(), &[-0.5, 0.0, 0.5]);
    let [first, last] = [json!([1e4, 0, -1e4]), json!([-1e4, 0, 1e4])].map(logits);
    near(tried("kl(teacher || student)", first.clone(), last.clone()), 2e4, &[1.0, 0.0, -1.0]);
    near(tried("nll(teacher)", first.clone(), last.clone()), 2e4, &[1.0, 0.0, -1.0]);
    // Half of the blend is where the teacher has e^-10000; the student's softmax is saturated.
    let blended = "kl(blend(student: 0.5, teacher: 0.5) || teacher, support: top_k(teacher, 1), mass: tail)";
    near(tried(blended, first.clone(), last.clone()), 5e3 - 2.0f64.ln(), &[0.0; 3]);
    near(
        tried("kl(teacher || student, support: top_k(student, 2), mass: tail)", first, last),
        2e4,
        &[1.0, 0.0, -1.0],
    );
}

/// Computed by hand: the teacher's top two have 0.4 and 0.35 in the teacher and 0.3 and 0.2 in the student;
/// the tails are 0.25 and 0.5.
#[test]
fn a_tail_is_compared_with_the_tail_where_the_rest_is_sorted() {
    let (student, teacher) = (json!([[0.3, 0.2, 0.5]]), json!([[0.4, 0.35, 0.25]]));
    let of = "sorted_l1(student, teacher, support: top_k(teacher, 2), mass: tail)";
    let score = [-0.5, -0.5, 0.5];
    let p = [0.3, 0.2, 0.5];
    let mean: f64 = p.iter().zip(score).map(|(p, score)| p * score).sum();
    let gradient: Vec<f64> = p.iter().zip(score).map(|(p, score)| p * (score - mean)).collect();
    near(tried(of, student, teacher), (0.1 + 0.15 + 0.25) / 2.0, &gradient);
}

/// Computed by hand, with a support of all entries: the summands are p log(p / q) - p + q.
#[test]
fn clip_each_keeps_the_generalized_correction() {
    let (p, q) = ([0.3, 0.2, 0.5], [0.4, 0.35, 0.25]);
    let each: Vec<f64> = p.iter().zip(q).map(|(p, q)| p * f64::ln(p / q) - p + q).collect();
    let wanted: f64 = each.iter().map(|x| x.min(0.02)).sum();
    // The last two are above the bound; by p the first has log(p / q).
    let score: Vec<f64> = p.iter().zip(q).map(|(p, q)| f64::ln(p / q)).collect();
    let score = [score[0], 0.0, 0.0];
    let mean: f64 = p.iter().zip(score).map(|(p, score)| p * score).sum();
    let gradient: Vec<f64> = p.iter().zip(score).map(|(p, score)| p * (score - mean)).collect();
    let of = "kl(student || teacher, support: top_k(teacher, 3), mass: generalized, clip_each: 0.02)";
    near(tried(of, json!([p]), json!([q])), wanted, &gradient);
}

#[test]
fn numbers_that_do_not_fit_are_told_with_their_place() {
    let place = Place::with(&[("a.mopd", OBJECTIVE)]);
    let refused = |edit: &dyn Fn(&mut Value), said: &[&str]| {
        let mut numbers = numbers();
        edit(&mut numbers);
        place.write("n.json", &numbers.to_string());
        let status = if said[0].starts_with("error[unknown-name]") { 1 } else { 2 };
        place.mopd(&["try", "a.mopd", "mine", "n.json"]).is(status, said);
    };
    let completion = |numbers: &mut Value, which: usize, key: &str, value: Value| {
        numbers["prompts"][0]["completions"][which][key] = value;
    };
    refused(
        &|numbers| numbers["arguments"] = json!({}),
        &["error[unfit-numbers]", "the parameter `most` has no default"],
    );
    refused(
        &|numbers| numbers["arguments"] = json!({"mots": 1}),
        &["error[unknown-name]", "no objective `mine` of the file has a parameter `mots`", "did you mean"],
    );
    refused(
        &|numbers| completion(numbers, 0, "teacher.logp", json!([1, 2])),
        &["prompt 1, completion 1", "is for 3 tokens", "for 2"],
    );
    refused(
        &|numbers| completion(numbers, 1, "reward", Value::Null),
        &["prompt 1, completion 2: `reward` must be a number, found null"],
    );
    refused(
        &|numbers| drop(numbers["prompts"][0]["completions"][1].as_object_mut().unwrap().remove("reward")),
        &["prompt 1, completion 2: `reward` is missing, but other completions have it"],
    );
    refused(
        &|numbers| {
            for which in 0..2 {
                numbers["prompts"][0]["completions"][which].as_object_mut().unwrap().remove("teacher.logp");
            }
        },
        &["`teacher.logp` is missing: one number per token, or the distributions of `teacher`"],
    );
    refused(&|numbers| numbers["prompts"] = json!([]), &["there is no completion"]);
    refused(&|numbers| numbers["prompts"] = json!(3), &["n.json: invalid type: integer `3`"]);
    place.write("n.json", &numbers().to_string().replace("\"arguments\"", "\"no arguments\""));
    place.mopd(&["try", "a.mopd", "mien", "n.json"]).is(2, &["did you mean `mine`?"]);
    // Unused numbers are not an error: one file may serve several objectives.
    let mut more = numbers();
    completion(&mut more, 0, "reference.logp", json!([-1, -1, -1]));
    place.write("n.json", &more.to_string());
    place.mopd(&["try", "a.mopd", "mine", "n.json"]).is(0, &["note: `reference.logp` is given but not read"]);
}

/// With a teacher of another tokenizer.
#[test]
fn the_entries_that_two_vocabularies_share_are_given() {
    let place = Place::new();
    let gold = ["try", "std.cross_tokenizer", "gold"];
    let mut numbers = place.mopd(&gold).is(0, &[]).json();
    let tried = |numbers: &Value| {
        place.write("n.json", &numbers.to_string());
        place.mopd(&[&gold[..], &["n.json"]].concat())
    };
    // All entries are shared, and the student equals its teacher: the loss is the divergence alone.
    numbers["matched"] = json!([0, 1, 2]);
    for completion in numbers["prompts"][0]["completions"].as_array_mut().expect("a list") {
        completion["teacher"] = completion["student"].clone();
    }
    assert_eq!(tried(&numbers).is(0, &[]).out.lines().next(), Some("loss = 0"));
    numbers["matched"] = json!([0, 3]);
    tried(&numbers).is(2, &["`matched` has 3, which is not one of the 3 entries (counted from 0)"]);
    numbers.as_object_mut().expect("an object").remove("matched");
    tried(&numbers)
        .is(2, &["`size(matched)` is missing", "or in `matched` the entries that both vocabularies have"]);
}

#[test]
fn terms_with_completions_of_their_own_are_tried_apart() {
    let objective = "\
objective two(shown: rollout) {
  state moved = 0 then moved + 1

  term own    = -(1 + moved) * live student.logp
  term rest   = 2 * live kl(student || teacher)
  term taught = -0.5 * live student.logp { data = shown }
  reduce      = mean(token, over: batch)
}
";
    let mut numbers = json!({
        "prompts": [{"completions": [{"student.logp": [-1, -2], "kl(student || teacher)": [0.25, 0.5]}]}],
    });
    let place = Place::with(&[("a.mopd", objective)]);
    let mut said = |terms: Value, status: i32, said: &[&str]| {
        numbers["terms"] = terms;
        place.write("n.json", &numbers.to_string());
        place.mopd(&["try", "a.mopd", "two", "n.json"]).is(status, said)
    };
    let choices = "`\"terms\": [\"own\", \"rest\"]` or `\"terms\": [\"taught\"]`";
    said(json!([]), 2, &["its terms have completions of their own", choices]);
    said(json!(["own"]), 2, &["`terms` must be all those on the same completions", choices]);
    said(json!(["own", "taught"]), 2, &[choices]);
    said(json!(["taughts"]), 2, &[choices]);
    // (1 + 0.5 + 2 + 1) / 2, and (0.5 + 1) / 2.
    let own = said(json!(["rest", "own"]), 0, &[]).out;
    assert!(own.starts_with("loss = 2.25\n") && own.contains("moved.next = 1\n"), "{own}");
    // The numbers of the first part update the states.
    let taught = said(json!(["taught"]), 0, &[]).out;
    assert!(taught.starts_with("loss = 0.75\n") && !taught.contains("moved"), "{taught}");
}

#[test]
fn the_objective_of_a_model_is_tried_as_the_experiment_has_it() {
    let place = Place::with(&[("a.mopd", super::GOOD)]);
    let example = place.mopd(&["try", "a.mopd", "student"]).is(0, &[]).out;
    place.write("n.json", &example);
    let said = place.mopd(&["try", "a.mopd", "student", "n.json"]).is(0, &[]);
    assert!(said.out.contains("d loss / d "), "{said:#?}");
}

/// The temperature of a stage's rollout is that of its log-probabilities, as in a run.
#[test]
fn the_objective_of_a_model_has_the_temperature_of_its_rollout() {
    let objective = |temperature: &str| {
        format!(
            "experiment \"t\" {{ seed = 1 }}\n\
             domain sort {{ prompts = \"sort.jsonl\", reward = exact_match }}\n\
             model base = llama {{ layers = 1, width = 16, heads = 2, context = 32, tokenizer = bytes }}\n\
             model wide = llama {{ layers = 1, width = 32, heads = 2, context = 32, tokenizer = bytes }}\n\
             teacher one = wide {{ origin = foreign }}\nroute {{ else -> one }}\n\
             objective o {{\n  {temperature}\n  term t = -(teacher.logp - student.logp) * live student.logp\n\
             reduce = mean(token) then mean(sequence)\n}}\n\
             model student = distill(base) {{ objective = o, rollout = sample(n: 2, temperature: 0.5, \
             max_tokens: 6), steps = 4, prompts = 4, lr = 1e-3 }}\n"
        )
    };
    let numbers = json!({"prompts": [{"completions": [{
        "tokens": [0, 1],
        "student": [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3]],
        "teacher": [[0.3, 0.2, 0.5], [0.1, 0.8, 0.1]],
    }]}]});
    let place = Place::with(&[
        ("a.mopd", &objective("")),
        ("set.mopd", &objective("temperature = 0.5")),
        ("n.json", &numbers.to_string()),
    ]);
    let tried = |file: &str, name: &str| place.mopd(&["try", file, name, "n.json"]).is(0, &[]).out;
    let of_model = tried("a.mopd", "student");
    assert!(of_model.contains("every logp at temperature 0.5\n"), "{of_model}");
    assert_eq!(of_model, tried("set.mopd", "o"));
    assert!(!tried("a.mopd", "o").contains("temperature"));
}

/// What `when` leaves out has no gradient, though it divides by 0; without `when` the run would stop.
#[test]
fn a_gradient_that_is_not_finite_fails_the_trial() {
    let objective = |block: &str| {
        format!(
            "objective o {{\n  term t = (student.logp - teacher.logp) / position * live student.logp{block}\n\
             reduce = mean(token) then mean(sequence)\n}}\n"
        )
    };
    let numbers = json!({"prompts": [{"completions": [
        {"student.logp": [-1, -2], "teacher.logp": [-0.5, -1]},
    ]}]});
    let place = Place::with(&[
        ("when.mopd", &objective(" { when = position > 0 }")),
        ("all.mopd", &objective("")),
        ("n.json", &numbers.to_string()),
    ]);
    let trial = place.mopd(&["try", "when.mopd", "o", "n.json", "--format", "json"]).is(0, &[]).json();
    assert_eq!(trial["gradients"][0]["f64"], json!([0.0, -0.5]));
    place.mopd(&["try", "all.mopd", "o", "n.json"]).is(1, &["d loss / d student.logp is"]);
}

#[test]
fn the_page_shows_what_comes_out() {
    let page = fs::read_to_string(root().join("book/src/try.md")).expect("the page");
    let block = |language: &str, which: usize| {
        let fence = format!("```{language}\n");
        let blocks = page.split(fence.as_str()).skip(1);
        let block = blocks.map(|rest| rest.split("```").next().expect("a first part")).nth(which);
        block.unwrap_or_else(|| panic!("{language} block {which}")).to_owned()
    };
    let mut numbers: Value = serde_json::from_str(&block("json", 0)).expect("JSON");
    let expected: Value = serde_json::from_str(&block("json", 1)).expect("JSON");
    numbers["expected"] = expected["expected"].clone();
    let place = Place::with(&[("mine.mopd", &block("mopd", 0)), ("numbers.json", &numbers.to_string())]);
    let said = place.mopd(&["try", "mine.mopd", "mine", "numbers.json"]).is(0, &["3 values as expected"]);
    let shown = block("console", 1);
    let (command, shown) = shown.split_once('\n').expect("a command and what it prints");
    assert_eq!(command, "$ mopd try mine.mopd mine numbers.json");
    assert_eq!(said.out, shown);
}
