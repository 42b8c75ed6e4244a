//! Numbers that differ from domain to domain, against double precision.

use super::*;
use crate::compiled;

/// A stage on the two domains of the fixture.
fn trained(objective: &str) -> Objective {
    let plan = compiled::plan(format!(
        "experiment \"t\" {{ seed = 1 }}\n\
         domain copy {{ prompts = \"copy.jsonl\", format = text, reward = exact_match, share = 1/2 }}\n\
         domain flip {{ prompts = \"flip.jsonl\", format = text, reward = exact_match, share = 1/2 }}\n\
         model base = llama {{ layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }}\n\
         teacher one = base\n\
         route {{ else -> one }}\n\
         objective o {{ {objective}\n reduce = mean(token) then mean(sequence) }}\n\
         model student = distill(base) {{ objective = o, rollout = data(other), prompts = 5, steps = 10, \
         lr = 1e-3 }}\n"
    ));
    compiled::train(&plan, "student").objective.clone()
}

const BY_DOMAIN: &str = "\
    let beta = match { domain == copy -> 0.1, domain == flip -> 0.5 }\n\
    select = position >= match { domain == flip -> 1, else -> 0 }\n\
    weight = where(domain != copy, 3, 2)\n\
    term near = beta * live kl(teacher || student)\n\
    term imitate = -live student.logp { when = domain == flip and position > 1, \
    weight = where(domain == copy, 9, 0.25) }";

/// The numbers of a domain, by its place: `beta`, the first position that `select` takes, `weight`.
const NUMBERS: [(f64, usize, f64); 2] = [(0.1, 0, 2.0), (0.5, 1, 3.0)];

#[test]
fn a_prompt_has_the_numbers_of_its_domain() {
    let fixture = Fixture::new();
    let weights = models(true);
    let mut steps_with = [0; 2];
    for groups in [5, 1] {
        let objective = trained(BY_DOMAIN);
        let rollout = Rollout::new(groups, Producer::data("answer"));
        let train = Train { rollout, ..train(objective, 1) };
        let stage = fixture.stage(&train, ROUTED, &weights);
        let mut trainer = Trainer::with(std::slice::from_ref(&stage), None, None).unwrap();
        let mut record = Record::default();
        for step in 0..4 {
            let rollouts = trainer.rollouts_of(step).unwrap();
            let EvaluatedBatch { batch, outputs, .. } = trainer.evaluate(0, &rollouts[0], step).unwrap();
            let layout = &batch.layout;
            let domains = layout.domains.as_ref().expect("there are two");
            let sequence = |token: usize| layout.sequence_of_token[token] as usize;
            let domain =
                |token: usize| domains.of_group[layout.group_of_sequence[sequence(token)] as usize] as usize;
            let first =
                |token: usize| layout.sequence_of_token.partition_point(|of| *of < sequence(token) as u32);
            let selected = |token: usize| token - first(token) >= NUMBERS[domain(token)].1;
            let counted = || (0..layout.tokens()).filter(|token| selected(*token));
            let sequences = counted().map(sequence).collect::<std::collections::BTreeSet<usize>>().len();
            let part = |token: usize| {
                let own = counted().filter(|other| sequence(*other) == sequence(token)).count();
                if selected(token) { 1.0 / (own * sequences) as f64 } else { 0.0 }
            };
            let near = |token: usize| {
                let (beta, _, weight) = NUMBERS[domain(token)];
                part(token) * weight * beta
            };
            let imitate = |token: usize| match domain(token) == 1 && token - first(token) > 1 {
                true => -part(token) * 3.0 * 0.25,
                false => 0.0,
            };
            let mut loss = 0.0;
            for (live, values) in zip_equal(&train.objective.live, &batch.live) {
                let is_logp = live.primitive == plan::Live::Logp;
                let adjoint = outputs.get(live.adjoint);
                for (token, value) in values.iter().enumerate() {
                    let factor = if is_logp { imitate(token) } else { near(token) };
                    close(adjoint[token].into(), factor, "a gradient");
                    loss += factor * f64::from(*value);
                    steps_with[domain(token)] += 1;
                }
            }
            assert_eq!(train.objective.live.len(), 2);
            close(outputs.get(train.objective.loss)[0].into(), loss, "the loss");
            trainer.update(rollouts, Instant::now(), step, &mut record).unwrap();
        }
    }
    assert!(steps_with.iter().all(|tokens| *tokens > 20), "{steps_with:?}");
}

fn close(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{what}: {got} is not {expected}");
}
