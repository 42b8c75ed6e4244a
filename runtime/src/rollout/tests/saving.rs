//! Tests of the activations that generation saves.

use super::*;
use crate::model::GeneratedActivations;

/// The activations saved while rows enter, are preempted and end equal those of a forward pass over the
/// completions, also for several samples of a prompt and for completions that end at once.
#[test]
fn activations_are_those_of_the_completions() {
    let weights = decoder_weights(1.5);
    for kind in [Kind::Float, Kind::BFloat16] {
        let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
        let prompts: Vec<Vec<Token>> = (0..40).map(|i| made_up(1 + i * 7 % 50, i)).collect();
        let (sampling, key) = (Sampling::new(3, 1.0, 70), Key::new(1, 2, Purpose::Rollout, 3));
        let page = page_layout(&decoder.config, kind).bytes();
        let mut of_budgets = Vec::new();
        for pages in [usize::MAX / page / 2, 70, 0] {
            let mut activations = GeneratedActivations::new(0);
            let budget = MemoryBudget(pages * page + 30 * 4 * decoder.config.vocabulary);
            let mut request = RolloutRequest::new(&requests(&prompts), &sampling, key);
            request.prompts[2].limit = Some(1);
            let batch = ContinuousBatch::new(&decoder, 1, budget).unwrap().saving(&mut activations);
            let (completions, took) = batch.run(request, &uncancellable(), &mut |_| Ok(())).unwrap();
            assert_eq!(took.preempted > 0, pages == 70, "{took:?}");
            assert!(completions.iter().any(|completion| completion.tokens.len() == 1));
            let of_prompts = prompts.iter().flat_map(|prompt| [prompt; 3]);
            let batch = PackedBatch::new(
                of_prompts
                    .zip(&completions)
                    .map(|(prompt, completion)| (prompt.as_slice(), completion.tokens.as_slice())),
                Device::Cpu,
            );
            let found = activations.into_trace(&decoder, &batch).expect("all were generated").hidden;
            let apart = (&found - decoder.hidden(&batch)).abs().max().double_value(&[]);
            assert!(apart < if kind == Kind::Float { 1e-4 } else { 0.2 }, "{kind:?}: {apart}");
            of_budgets.push(found);
        }
        assert!(
            of_budgets.iter().all(|found| found.equal(&of_budgets[0])),
            "{kind:?}: it follows the budget"
        );
    }
}
