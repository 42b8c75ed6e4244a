//! Conversations of several turns: users' messages and the template's text are read, and never trained on.

use mopd_expr::derivative::adjoints;
use mopd_plan::{Axis, Live, Reduction};

use super::super::objective::objectives::nll;
use super::*;
use crate::data::MESSAGES;
use crate::model::Config;
use crate::tokenizer::tests::pretrained;

/// Conversations of one to three turns in two domains, as a chat template renders them.
pub(super) fn conversations() -> (Fixture, Vec<Arc<Weights>>) {
    let mut fixture = Fixture::new();
    for (index, name) in ["copy", "flip"].into_iter().enumerate() {
        let mut text = String::new();
        for row in 0..8usize {
            let turns = 1 + (row + index) % 3;
            let messages: Vec<serde_json::Value> = (0..turns)
                .flat_map(|turn| {
                    let said = |from: usize| {
                        "abcdefg".chars().cycle().skip(from).take(1 + (from * 3) % 5).collect::<String>()
                    };
                    let (user, assistant) = (said(row + turn), said(2 * row + turn + index));
                    [
                        serde_json::json!({"role": "user", "content": user}),
                        serde_json::json!({"role": "assistant", "content": assistant}),
                    ]
                })
                .collect();
            text += &format!("{}\n", serde_json::json!({ "messages": messages }));
        }
        let path = fixture.folder.path().join(format!("{name}.chat.jsonl"));
        std::fs::write(&path, text).unwrap();
        let source = DataSource::file(path.to_str().expect("a temporary folder has a plain name"));
        let format = PromptFormat::Chat { system: None };
        let request = DatasetRequest {
            source: &source,
            format: &format,
            fields: &[],
            whole: false,
            routes: &[],
            numbers: &[],
            notes: None,
        };
        fixture.prompts[index] = Prompts::new(Dataset::read(Path::new("."), request).unwrap());
    }
    let config = Config { vocabulary: 563, context: 256, ..tiny() };
    let tokenizer = Arc::new(pretrained("smollm"));
    let model = |seed| {
        let weights = random_model(&config, seed);
        Arc::new(Weights::new(weights.config.clone(), tokenizer.clone(), weights.values().into_owned()))
    };
    (fixture, (0..3).map(model).collect())
}

fn on_conversations(objective: Objective) -> Train<Objective> {
    Train { rollout: Rollout::new(7, Producer::data(MESSAGES)), ..train(objective, 1) }
}

fn several_turns(sequences: &Sequences) -> bool {
    sequences.list.iter().any(|sequence| !sequence.completion.is_whole())
}

/// Fine-tuning, a sampled objective and exact ones.
#[test]
fn loss_and_gradient_of_conversations_equal_the_reference() {
    let (fixture, models) = conversations();
    let fine_tuning: (Objective, Terms) =
        (nll(), |student, _, taken| -student.gather(1, taken, false).squeeze_dim(1));
    for (objective, terms) in objectives().into_iter().chain([fine_tuning]) {
        let name = objective.name.clone();
        let train = on_conversations(objective);
        let mut stage = fixture.stage(&train, ROUTED, &models);
        let (_, _, rollouts) = first_step(&stage);
        assert!(several_turns(&rollouts.sequences));
        let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
        for micro_batch in [None, Some(1), Some(3)] {
            stage.micro_batch = micro_batch;
            let (got_loss, got, _) = first_step(&stage);
            assert!(
                (got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0),
                "{name}, {micro_batch:?}: {got_loss} {loss}"
            );
            let apart = apart(&got, &gradient);
            assert!(apart < 1e-5, "{name}, {micro_batch:?}: {apart:e}");
        }
    }
}

/// Diagnostics that exact objectives do not read: log-probabilities of the tokens that the assistant wrote.
#[test]
fn diagnostics_of_conversations_are_of_their_own_tokens() {
    let (fixture, models) = conversations();
    let train = on_conversations(direct(Support::Full, Mass::Raw));
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let list = rollouts.sequences.list.clone();
    let mut record = Record::default();
    trainer.update(vec![rollouts], Instant::now(), 0, &mut record).unwrap();
    let student = Reference::new(&models[0]);
    for (domain, row) in record.rows.iter().enumerate() {
        let teacher = Reference::new(&models[domain + 1]);
        let (mut sum, mut tokens) = (0.0, 0.0);
        for sequence in list.iter().filter(|sequence| sequence.source == domain) {
            let logps =
                |model: &Reference| model.logps(sequence.prompt(&stage.sources), &sequence.completion);
            let (student, teacher) = (logps(&student), logps(&teacher));
            for (place, token) in sequence.completion.iter().enumerate() {
                if sequence.completion.trained_indices().any(|index| index == place) {
                    let at = [place as i64, *token];
                    sum += student.double_value(&at) - teacher.double_value(&at);
                    tokens += 1.0;
                }
            }
        }
        let got = row.divergence.unwrap();
        assert!((got - sum / tokens).abs() < 1e-5, "{}: {got} {}", row.domain, sum / tokens);
        assert!(
            (row.length.unwrap() * list.iter().filter(|sequence| sequence.source == domain).count() as f64
                - tokens)
                .abs()
                < 1e-9
        );
    }
    // The token log shows the assistant's text only.
    for sample in &record.tokens.samples {
        let text: String = sample.tokens.iter().map(|token| token.text.as_str()).collect();
        assert!(!text.contains("user") && !text.contains("im_start"), "{text:?}");
        assert!(text.ends_with("<|im_end|>"), "the end of the turn has a name: {text:?}");
        // The prompt has all earlier turns with the template's marks, and the assistant's header.
        let prompt = &sample.prompt;
        assert!(prompt.contains("<|im_start|>user\n"), "{prompt:?}");
        assert!(prompt.contains("<|im_end|>") && prompt.ends_with("<|im_start|>assistant\n"), "{prompt:?}");
        assert_eq!(sample.prompt_left_out, Some(0));
        // The user's words are a part of it, where one message is the prompt of the data.
        let words = sample.prompt_text.as_deref().unwrap_or_default();
        assert!(prompt.contains(words) && !words.contains("<|im_"), "{words:?}");
    }
}

/// A mean over turns differs from one over sequences if sequences have several turns.
#[test]
fn turns_are_those_of_the_assistant() {
    let (fixture, models) = conversations();
    let mut objective = nll();
    let value = objective.terms[0].value;
    let by_turn = objective.graph.reduce(Reduction::Mean, value, Axis::Turn, None);
    objective.loss = objective.graph.reduce(Reduction::Mean, by_turn, Axis::Batch, None);
    let live = objective.live[0].primitive.clone();
    assert!(matches!(live, Live::Logp));
    objective.live[0].adjoint =
        adjoints(&mut objective.graph, objective.loss, &[mopd_expr::graph::LiveId(0)]).unwrap()[0];
    let train = on_conversations(objective);
    let stage = fixture.stage(&train, ROUTED, &models);
    let (loss, _, rollouts) = first_step(&stage);
    assert!(several_turns(&rollouts.sequences));
    let student = Reference::new(&models[0]);
    let mut turns: Vec<f64> = Vec::new();
    for sequence in &rollouts.sequences.list {
        let logps = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
        let written = sequence.completion.mask().unwrap_or(vec![true; sequence.completion.len()]);
        let mut place = 0;
        for turn in written.chunk_by(|one, next| one == next) {
            let of_turn = place..place + turn.len();
            place = of_turn.end;
            if turn[0] {
                let logp = |place: usize| logps.double_value(&[place as i64, sequence.completion[place]]);
                turns.push(-of_turn.clone().map(logp).sum::<f64>() / of_turn.len() as f64);
            }
        }
    }
    assert!(turns.len() > rollouts.sequences.list.len());
    let expected = turns.iter().sum::<f64>() / turns.len() as f64;
    assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
}
