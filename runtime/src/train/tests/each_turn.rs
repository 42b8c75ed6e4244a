//! `each_turn`: the student's turns in recorded trajectories.

use mopd_plan::producers::EachTurn;

use super::super::batches::Batches;
use super::super::objective::objectives::nll;
use super::resume::ends_the_same_wherever_it_is_cut;
use super::*;
use crate::random::{Key, Purpose};
use crate::rollout::{Prompt, Sequence, rollout};

const N: u32 = 2;

fn each_turn(n: u32) -> Producer {
    let of = Producer::student(Sampling::new(n, 1.0, 6));
    Producer::EachTurn(Box::new(EachTurn { trajectory: "trajectory".to_owned(), of }))
}

/// Two domains of eight trajectories with one to three turns.
fn trajectories() -> Fixture {
    let mut fixture = Fixture::new();
    for (index, name) in ["copy", "flip"].into_iter().enumerate() {
        let row = |row: usize| {
            let said = |role: &str, from: usize| {
                let text: String = "abcdefg".chars().cycle().skip(from).take(1 + (from * 3) % 4).collect();
                serde_json::json!({"role": role, "content": text})
            };
            let turn = |turn: usize| {
                let asks = if turn == 0 { "user" } else { "tool" };
                [said(asks, row + 2 * turn), said("assistant", row + turn + index)]
            };
            let messages: Vec<serde_json::Value> = (0..1 + (row + index) % 3).flat_map(turn).collect();
            format!("{}\n", serde_json::json!({ "trajectory": messages }))
        };
        let path = fixture.folder.path().join(format!("{name}.turns.jsonl"));
        std::fs::write(&path, (0..8).map(row).collect::<String>()).unwrap();
        let source = DataSource::file(path.to_str().expect("a temporary folder has a plain name"));
        let fields = [Field::trajectory("trajectory")];
        let request = DatasetRequest {
            source: &source,
            format: &PromptFormat::Text,
            fields: &fields,
            whole: false,
            routes: &[],
            numbers: &[],
            notes: None,
        };
        fixture.prompts[index] = Prompts::new(Dataset::read(Path::new("."), request).unwrap());
    }
    fixture
}

fn trained(objective: Objective, n: u32) -> Train<Objective> {
    Train { rollout: Rollout::new(5, each_turn(n)), ..train(objective, 1) }
}

fn drawn(stage: &Stage) -> Vec<Sequences> {
    let models = Models::new(stage).unwrap();
    let mut batches = Batches::new(stage, &models, None).unwrap();
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    (0..stage.steps).map(|step| batches.next(stage, &student, &models, step).unwrap()).collect()
}

/// A group has all turns of a trajectory in order, each with all its samples. The student writes each turn
/// after the recorded history.
#[test]
fn a_group_has_the_turns_of_a_trajectory() {
    let (fixture, weights, train) = (trajectories(), models(true), trained(mopd(1.0), N));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    let mut visited = vec![0; 16];
    for (step, sequences) in drawn(&stage).iter().enumerate() {
        assert_eq!(sequences.layout.groups, 5);
        let mut seen = [0; 2];
        for (number, group) in sequences.groups().enumerate() {
            let (source, dataset) = (group[0].source, &stage.sources[group[0].source].prompts.dataset);
            let draw = (0..dataset.draws()).find(|draw| dataset.of_draw(*draw).start == group[0].record);
            let draw = draw.expect("a group begins with a trajectory's first turn");
            visited[8 * source + draw] += 1;
            seen[source] += 1;
            let records: Vec<usize> = group.iter().map(|sequence| sequence.record).collect();
            let wanted: Vec<usize> = dataset.of_draw(draw).flat_map(|record| [record; N as usize]).collect();
            assert_eq!(records, wanted);
            let key = Key::new(stage.seed, stage.stream, Purpose::Rollout, step as u64);
            for (place, sequence) in group.iter().enumerate() {
                let text = stage.start.tokenizer.prompt(dataset.prompt(sequence.record)).unwrap();
                assert_eq!(sequence.prompt(&stage.sources), text);
                assert!(sequence.reward.is_none() && sequence.completion.is_whole());
                let prompt = Prompt { tokens: &text, id: number as u32, sample: place as u32, limit: None };
                let alone = Sampling::new(1, 1.0, 6);
                let own = rollout(&student, &[prompt], &alone, key, stage.budget, stage.control).unwrap();
                assert_eq!(*sequence.completion, own[0].tokens);
                assert_eq!(sequence.completion.logps().unwrap().len(), sequence.completion.len());
            }
        }
        assert!(seen.iter().all(|groups| *groups > 0));
    }
    // Every trajectory comes once before any comes twice: 20 groups, 16 trajectories.
    assert!(visited.iter().all(|times| (1..=2).contains(times)), "{visited:?}");
}

/// Groups of different sizes: loss and gradient equal the reference.
#[test]
fn loss_and_gradient_of_turns_equal_the_reference() {
    let (fixture, weights) = (trajectories(), models(true));
    let likelihood: (Objective, Terms) =
        (nll(), |student, _, taken| -student.gather(1, taken, false).squeeze_dim(1));
    for (objective, terms) in objectives().into_iter().chain([likelihood]) {
        let name = objective.name.clone();
        let train = trained(objective, N);
        let mut stage = fixture.stage(&train, ROUTED, &weights);
        let (_, _, rollouts) = first_step(&stage);
        let sizes: Vec<usize> = rollouts.sequences.groups().map(<[Sequence]>::len).collect();
        assert!(sizes.iter().any(|size| *size != sizes[0]), "{sizes:?}");
        let (loss, gradient) = expected(&stage, &rollouts.sequences, &weights, terms);
        for micro_batch in [None, Some(3)] {
            stage.micro_batch = micro_batch;
            let (got_loss, got, _) = first_step(&stage);
            assert!((got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0), "{name}: {got_loss} {loss}");
            let apart = apart(&got, &gradient);
            assert!(apart < 1e-5, "{name}: {apart:e}");
        }
    }
}

#[test]
fn an_epoch_visits_every_trajectory_once() {
    let (fixture, weights) = (trajectories(), models(true));
    let train = Train { length: Length::Epochs(1), ..trained(mopd(1.0), 1) };
    let stage = fixture.stage(&train, ROUTED, &weights);
    let sequences = drawn(&stage);
    let mut rows: Vec<(usize, usize)> =
        sequences.iter().flat_map(|step| &step.list).map(|one| (one.source, one.record)).collect();
    let first: Vec<usize> = sequences.iter().map(|step| step.layout.groups as usize).collect();
    assert_eq!(first, [5, 5, 5, 1]);
    rows.sort_unstable();
    let all = |source: usize| (0..stage.sources[source].prompts.dataset.len()).map(move |row| (source, row));
    assert_eq!(rows, all(0).chain(all(1)).collect::<Vec<_>>());
}

#[test]
fn a_stage_of_trajectories_ends_the_same_wherever_it_was_cut() {
    let (fixture, weights) = (trajectories(), models(false));
    let mut train = trained(mopd(1.0), N);
    train.options.passes = 2;
    for kind in [Kind::Float, Kind::BFloat16] {
        let stage = Stage { kind, steps: 5, ..fixture.stage(&train, ROUTED, &weights) };
        ends_the_same_wherever_it_is_cut("turns of trajectories", &stage);
    }
}
