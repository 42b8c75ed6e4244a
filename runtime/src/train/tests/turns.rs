//! Turns with a program between them: the student's tokens are trained on, observations are only read.

use mopd_expr::graph::Graph;
use mopd_plan::producers::{ExpertTurns, Turns};
use mopd_plan::{AdaptiveSchedule, Axis, EnvironmentProgram, Formula, Function, Live, ScheduleLength};

use super::super::batches::Batches;
use super::super::objective::objectives::objective;
use super::*;
use crate::rollout::Sequence;

/// A program whose episodes have one to four turns, by their seed. `more` is added to replies to actions.
pub(super) fn environment(more: &str) -> String {
    format!(
        "import json, random, sys
episodes = {{}}
for line in sys.stdin:
    request = json.loads(line)
    id = request['id']
    if 'end' in request:
        del episodes[id]
        continue
    if 'action' in request:
        episode = episodes[id]
        episode['left'] -= 1
        text = ''.join(episode['draw'].choice('xyz') for _ in range(episode['draw'].randint(1, 4)))
        reply = {{'observation': text, 'done': episode['left'] == 0, {more}}}
        if reply['done']:
            del episodes[id]
    else:
        draw = random.Random(request['seed'])
        episodes[id] = {{'draw': draw, 'left': draw.randint(1, 4), 'start': request}}
        reply = {{}}
    print(json.dumps({{'id': id, **reply}}), flush=True)
"
    )
}

/// The log-probabilities at sampling over all tokens; 0 at observations.
fn logps_over_all(sequence: &Sequence) -> Vec<f32> {
    sequence.completion.over_all(&sequence.completion.logps().unwrap())
}

pub(super) fn turns(at_most: impl Into<AdaptiveSchedule>, sampling: Sampling) -> Producer {
    Producer::Turns(Box::new(Turns {
        environment: EnvironmentProgram::Command("python3 env.py".to_owned()),
        time_limit_seconds: 60.0,
        depends: Vec::new(),
        at_most: at_most.into(),
        first_turns: None,
        expert_turns: None,
        sampling,
    }))
}

/// The same producer with other settings.
fn edited(producer: Producer, change: impl FnOnce(&mut Turns)) -> Producer {
    let Producer::Turns(mut turns) = producer else { panic!("turns") };
    change(&mut turns);
    Producer::Turns(turns)
}

/// 1 + floor(step / 2)
fn grown() -> Formula {
    let mut graph = Graph::default();
    let (step, two) = (graph.signal(PlainSignal::Step), graph.constant(Axis::Run, 2.0));
    let half = graph.apply(Function::Divide, &[step, two]);
    let (half, one) = (graph.apply(Function::Floor, &[half]), graph.constant(Axis::Run, 1.0));
    let value = graph.apply(Function::Add, &[half, one]);
    Formula { value: graph.broadcast(value, Axis::Group), graph }
}

/// A program that replies with the length of each action; done after six actions.
pub(super) const HEARD: &str = "import json, sys
heard = {}
for line in sys.stdin:
    request = json.loads(line)
    id = request['id']
    if 'end' in request:
        continue
    reply = {}
    if 'action' in request:
        heard[id] = heard.get(id, 0) + 1
        reply = {'observation': '[' + str(len(request['action'])) + ']', 'done': heard[id] == 6}
    print(json.dumps({'id': id, **reply}), flush=True)
";

/// Turns in HEARD after the data's recorded turns, except the last 1 + floor(step / 2) of these.
pub(super) fn behind_an_expert() -> Producer {
    edited(turns(constant(2.0), Sampling::new(2, 1.0, 3)), |turns| {
        turns.environment = EnvironmentProgram::Command("python3 heard.py".to_owned());
        turns.expert_turns = Some(ExpertTurns::AllBut(grown()));
    })
}

fn constant(value: f64) -> Schedule {
    Schedule::Constant { value }
}

/// The sequences of each step with this program, or the first error.
fn drawn(program: &str, producer: Producer, change: impl Fn(&mut Stage)) -> Result<Vec<Vec<Sequence>>> {
    let (fixture, weights) = (Fixture::new(), models(true));
    for name in ["env.py", "heard.py"] {
        std::fs::write(fixture.folder.path().join(name), program).unwrap();
    }
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(8, producer);
    let mut stage = fixture.stage(&train, ROUTED, &weights);
    change(&mut stage);
    let models = Models::new(&stage).unwrap();
    let mut batches = Batches::new(&stage, &models, None)?;
    let student = Decoder::trainable(&stage.start, stage.place, stage.kind);
    (0..stage.steps).map(|step| Ok(batches.next(&stage, &student, &models, step)?.list)).collect()
}

fn lists(program: &str, producer: Producer) -> Vec<Vec<Sequence>> {
    drawn(program, producer, |_| {}).unwrap()
}

fn told(sequence: &Sequence) -> String {
    let written = sequence.completion.mask().unwrap_or(vec![true; sequence.completion.len()]);
    let told = sequence.completion.iter().zip(written).filter(|(_, written)| !written);
    told.map(|(token, _)| char::from(u8::try_from(*token).expect("a byte"))).collect()
}

/// The completions, log-probabilities and rewards equal those of plain samples.
#[test]
fn one_turn_without_a_reward_is_a_sample() {
    let program = "import json, sys
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({'id': request['id'], 'done': 'action' in request}), flush=True)
";
    let sampling = || Sampling::new(3, 1.0, 6);
    let ended = |sequence: &Sequence| Sequence { truncated: false, ..sequence.clone() };
    let samples = lists("", Producer::student(sampling()));
    let samples: Vec<Vec<Sequence>> = samples.iter().map(|list| list.iter().map(ended).collect()).collect();
    assert!(lists(program, turns(constant(5.0), sampling())) == samples);
}

#[test]
fn environment_replies_are_context_and_not_trained_on() {
    let of_run = lists(&environment("'reward': 0.25"), turns(constant(3.0), Sampling::new(2, 1.0, 3)));
    let student = Reference::new(&models(true)[0]);
    let (fixture, weights, train) = (Fixture::new(), models(true), train(mopd(1.0), 1));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut several = 0;
    for sequence in of_run.iter().flatten() {
        let (count, lengths): (usize, Vec<usize>) = (
            sequence.completion.turns().count(),
            sequence.completion.turns().map(|turn| turn.len()).collect(),
        );
        assert!(count <= 3 && lengths.iter().all(|length| *length <= 3), "{lengths:?}");
        assert_eq!(sequence.reward, Some(0.25 * count as f64), "the sum of those of its turns");
        assert_eq!(!sequence.completion.is_whole(), count > 1);
        assert!(told(sequence).chars().all(|letter| "xyz".contains(letter)), "{:?}", told(sequence));
        several += usize::from(count > 1);
        // The student wrote its tokens after everything that precedes them.
        let logps = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
        for place in sequence.completion.turns().flatten() {
            let expected = logps.double_value(&[place as i64, sequence.completion[place]]);
            let recorded = f64::from(logps_over_all(sequence)[place]);
            assert!((recorded - expected).abs() < 1e-4, "{recorded} {expected}");
        }
        assert_eq!(sequence.completion.logps().unwrap().len(), sequence.completion.trained());
    }
    assert!(several > 20, "{several}");
    // Samples of a prompt have the same seed: while both episodes last, they get the same observations.
    for pair in of_run.iter().flat_map(|list| list.chunks(2)) {
        assert_eq!((told(&pair[0]), pair[0].truncated), (told(&pair[1]), pair[1].truncated));
    }
    assert!(of_run.iter().flatten().any(|sequence| sequence.truncated), "four turns are more than three");
    let worlds: Vec<String> = of_run.iter().flatten().map(told).collect();
    assert!(worlds.iter().any(|told| *told != worlds[0]), "each prompt of each step has a seed of its own");
    // Every turn has its own random numbers.
    let alike = |sequence: &&Sequence| {
        let turns: Vec<&[Token]> =
            sequence.completion.turns().map(|turn| &sequence.completion[turn]).collect();
        turns.len() > 1 && turns[0] == turns[1]
    };
    assert!(of_run.iter().flatten().filter(alike).count() < several / 2);
}

/// Loss and gradient against float64, in micro-batches too.
#[test]
fn loss_and_gradient_of_turns_equal_the_reference() {
    let (fixture, models) = (Fixture::new(), models(false));
    std::fs::write(fixture.folder.path().join("env.py"), environment("")).unwrap();
    for (objective, terms) in objectives() {
        let name = objective.name.clone();
        let mut train = train(objective, 1);
        train.rollout = Rollout::new(4, turns(constant(3.0), Sampling::new(2, 1.0, 3)));
        let mut stage = fixture.stage(&train, ROUTED, &models);
        let (_, _, rollouts) = first_step(&stage);
        let list = &rollouts.sequences.list;
        let turns = rollouts.sequences.layout.turns.as_ref().expect("some have several");
        assert_eq!(
            turns.parent.len(),
            list.iter().map(|sequence| sequence.completion.turns().count()).sum::<usize>()
        );
        assert_eq!(rollouts.sequences.layout.len(Axis::Turn), turns.parent.len());
        let (loss, gradient) = expected(&stage, &rollouts.sequences, &models, terms);
        for micro_batch in [None, Some(3)] {
            stage.micro_batch = micro_batch;
            let (got_loss, got, _) = first_step(&stage);
            let apart = apart(&got, &gradient);
            assert!((got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0), "{name}: {got_loss} {loss}");
            assert!(apart < 1e-5, "{name}: {apart:e}");
        }
    }
}

/// -(reward.turn - 0.1) * live student.logp
fn paid_by_turn() -> Objective {
    objective("paid", Live::Logp, |graph, logp| {
        let (paid, expected) = (graph.signal(PlainSignal::TurnReward), graph.constant(Axis::Token, 0.1));
        let more = graph.apply(Function::Subtract, &[expected, paid]);
        (graph.apply(Function::Multiply, &[more, logp]), None)
    })
}

/// Each token has the reward of its turn, also where only first turns are trained on: loss and gradient
/// against float64.
#[test]
fn reward_of_a_turn_is_that_of_its_tokens() {
    let (fixture, models) = (Fixture::new(), models(false));
    // 0.05 for the first turn, 0.1 for the second, and so on: at most 0.5 in all.
    let count = "episode['turn'] = episode.get('turn', 0) + 1; text = ''.join";
    let program = environment("'reward': 0.05 * episode['turn']").replace("text = ''.join", count);
    std::fs::write(fixture.folder.path().join("env.py"), program).unwrap();
    for first in [None, Some(grown())] {
        let mut train = train(paid_by_turn(), 1);
        let played = turns(constant(4.0), Sampling::new(2, 1.0, 3));
        train.rollout = Rollout::new(4, edited(played, |turns| turns.first_turns = first.clone()));
        let mut stage = fixture.stage(&train, ROUTED, &models);
        let (_, _, rollouts) = first_step(&stage);
        let list = &rollouts.sequences.list;
        let most = list.iter().map(|sequence| sequence.completion.turns().count()).max();
        assert_eq!(most, if first.is_some() { Some(1) } else { Some(4) });
        let student = Reference::new(&models[0]);
        let losses = list.iter().map(|sequence| {
            let stored = serde_json::to_string(sequence).unwrap();
            assert_eq!(serde_json::from_str::<Sequence>(&stored).unwrap(), *sequence);
            let turns = sequence.completion.turns().enumerate();
            let weights = turns.flat_map(|(turn, tokens)| vec![0.1 - 0.05 * (turn + 1) as f64; tokens.len()]);
            let weights = Tensor::from_slice(&weights.collect::<Vec<f64>>());
            let trained: Vec<i64> = sequence.completion.trained_indices().map(|index| index as i64).collect();
            let all = student.logps(sequence.prompt(&stage.sources), &sequence.completion);
            let taken = all.gather(1, &Tensor::from_slice(&sequence.completion).unsqueeze(1), false);
            let own = taken.squeeze_dim(1).index_select(0, &Tensor::from_slice(&trained));
            (weights * own).mean(Kind::Double)
        });
        let loss = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
        let gradient = student.gradient(&loss);
        let loss = loss.double_value(&[]);
        for micro_batch in [None, Some(3)] {
            stage.micro_batch = micro_batch;
            let (got_loss, got, _) = first_step(&stage);
            assert!((got_loss - loss).abs() < 2e-6 * loss.abs().max(1.0), "{got_loss} {loss}");
            assert!(apart(&got, &gradient) < 1e-5, "{:e}", apart(&got, &gradient));
        }
    }
}

/// An environment without rewards has none for a turn either.
#[test]
fn a_turn_without_a_reward_is_named() {
    let (fixture, models) = (Fixture::new(), models(false));
    std::fs::write(fixture.folder.path().join("env.py"), environment("")).unwrap();
    let mut train = train(paid_by_turn(), 1);
    train.rollout = Rollout::new(4, turns(constant(3.0), Sampling::new(2, 1.0, 3)));
    let stage = fixture.stage(&train, ROUTED, &models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let error = trainer.evaluate(0, &rollouts, 0).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("`reward.turn`") && error.contains("the environment gives no rewards"), "{error}");
}

/// If the environment gives no reward, the domain's verifier judges the student's last turn.
#[test]
fn verifier_of_the_domain_judges_the_last_turn() {
    let judge = Reward::Regex { pattern: "^.$".to_owned(), field: String::new() };
    let verifier = Verifier::new(&judge, Path::new(".")).unwrap();
    let (fixture, weights) = (Fixture { verifier, ..Fixture::new() }, models(true));
    std::fs::write(fixture.folder.path().join("env.py"), environment("")).unwrap();
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(8, turns(constant(3.0), Sampling::new(2, 1.0, 2)));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let (_, _, rollouts) = first_step(&stage);
    let tokenizer = &stage.start.tokenizer;
    let (mut right, mut wrong) = (0, 0);
    for sequence in &rollouts.sequences.list {
        let last = sequence.completion.turns().last().unwrap();
        let text = tokenizer.decode(&sequence.completion[last]).unwrap();
        let expected = text.chars().count() == 1 && text != "\n";
        assert_eq!(sequence.reward, Some(f64::from(u8::from(expected))), "{text:?}");
        *(if expected { &mut right } else { &mut wrong }) +=
            usize::from(sequence.completion.turns().count() > 1);
    }
    assert!(wrong > 0, "{right} right, {wrong} wrong");
}

/// Each step equals the step of a run with that number of turns alone.
#[test]
fn number_of_turns_follows_its_schedule() {
    let grows = Schedule::Linear { from: 1.0, to: 4.0, over: ScheduleLength::Run };
    let sampling = || Sampling::new(1, 1.0, 2);
    let program = environment("'reward': 0.1");
    let of_run = lists(&program, turns(grows, sampling()));
    for (step, most) in [1, 2, 3, 3].into_iter().enumerate() {
        let alone = lists(&program, turns(constant(f64::from(most)), sampling()));
        assert!(alone[step] == of_run[step], "step {step}");
    }
}

/// An episode is cut off where it would exceed the context or the domain's limit.
#[test]
fn episode_is_cut_off_at_the_context_limit() {
    let long = environment("'reward': 0.1").replace("randint(1, 4)))", "randint(6, 9)))");
    let of_run = lists(&long, turns(constant(9.0), Sampling::new(1, 1.0, 4)));
    let (fixture, weights, train) = (Fixture::new(), models(true), train(mopd(1.0), 1));
    let stage = fixture.stage(&train, ROUTED, &weights);
    for sequence in of_run.iter().flatten() {
        let tokens = sequence.prompt(&stage.sources).len() + sequence.completion.len();
        assert!(tokens <= stage.start.config.context, "{tokens}");
    }
    assert!(of_run.iter().flatten().any(|sequence| sequence.truncated));
    let limited = |stage: &mut Stage| stage.sources.iter_mut().for_each(|source| source.limit = Some(5));
    let program = environment("'reward': 0.1");
    let of_run = drawn(&program, turns(constant(9.0), Sampling::new(1, 1.0, 4)), limited).unwrap();
    let trained: Vec<usize> = of_run.iter().flatten().map(|sequence| sequence.completion.trained()).collect();
    assert!(trained.iter().all(|tokens| *tokens <= 5) && trained.contains(&5), "{trained:?}");
    // An observation that leaves no room for the first turn is an error.
    let first = program.replace("reply = {}", "reply = {'observation': 'x' * 40}");
    let error = drawn(&first, turns(constant(9.0), Sampling::new(1, 1.0, 4)), |_| {}).unwrap_err();
    assert!(error.to_string().contains("leave no room in the context of 32"), "{error}");
}

/// An observation before the first turn belongs to the prompt, not to the completion.
#[test]
fn a_first_observation_is_a_part_of_the_prompt() {
    let program =
        environment("'reward': 0.1").replace("reply = {}", "reply = {'observation': '>' * (1 + id % 3)}");
    let of_run = lists(&program, turns(constant(2.0), Sampling::new(2, 1.0, 2)));
    for sequence in of_run.iter().flatten() {
        let prompt = sequence.prompt.as_ref().expect("a prompt of its own");
        assert_eq!(prompt.last(), Some(&Token::from(b'>')));
        assert!(!told(sequence).contains('>'));
    }
}

/// A completion is cut after its first turns; its reward is still that of all turns.
#[test]
fn the_first_turns_alone_are_trained_on() {
    let program = environment("'reward': 0.25");
    let all = || turns(constant(4.0), Sampling::new(2, 1.0, 3));
    let first = lists(&program, edited(all(), |turns| turns.first_turns = Some(grown())));
    let mut shorter = 0;
    for (step, (list, whole)) in zip_equal(first, lists(&program, all())).enumerate() {
        for (sequence, whole) in zip_equal(list, whole) {
            let kept: Vec<_> = whole.completion.turns().take(1 + step / 2).collect();
            let end = kept.last().unwrap().end;
            assert_eq!(*sequence.completion, whole.completion[..end]);
            assert_eq!(logps_over_all(&sequence), logps_over_all(&whole)[..end]);
            assert_eq!(sequence.completion.turns().collect::<Vec<_>>(), kept);
            assert_eq!(!sequence.completion.is_whole(), kept.len() > 1);
            assert_eq!((sequence.reward, sequence.truncated), (whole.reward, whole.truncated));
            shorter += usize::from(end < whole.completion.len());
        }
    }
    assert!(shorter > 10, "{shorter}");
}

/// The expert's turns and the observations after them come before the student's turns, and are not trained
/// on.
#[test]
fn a_student_goes_on_where_an_expert_was() {
    let of_run = lists(HEARD, behind_an_expert());
    let student = Reference::new(&models(true)[0]);
    let (fixture, weights, train) = (Fixture::new(), models(true), train(mopd(1.0), 1));
    let stage = fixture.stage(&train, ROUTED, &weights);
    let mut played = [0; 3];
    for (step, sequence) in
        of_run.iter().enumerate().flat_map(|(step, list)| list.iter().map(move |sequence| (step, sequence)))
    {
        let expert = &["k", "lm", "n"][..sequence.record % 4];
        let before = &expert[..expert.len().saturating_sub(1 + step / 2)];
        let mut prompt = stage.sources[sequence.source].tokens.get(sequence.record).to_vec();
        for turn in before {
            prompt.extend(stage.start.tokenizer.completion("", turn).unwrap());
            prompt.extend(stage.start.tokenizer.encode(&format!("[{}]", turn.len())).unwrap());
        }
        assert_eq!(sequence.prompt(&stage.sources), prompt, "step {step}, record {}", sequence.record);
        assert_eq!(sequence.prompt.is_some(), !before.is_empty());
        assert!(sequence.completion.turns().count() == 2 && sequence.truncated);
        played[before.len()] += 1;
        let logps = student.logps(&prompt, &sequence.completion);
        for place in sequence.completion.turns().flatten() {
            let expected = logps.double_value(&[place as i64, sequence.completion[place]]);
            let recorded = f64::from(logps_over_all(sequence)[place]);
            assert!((recorded - expected).abs() < 1e-4, "{recorded} {expected}");
        }
    }
    assert!(played.iter().all(|played| *played > 2), "{played:?}");
    // If fewer turns were recorded than requested, all of them are played.
    let three = |turns: &mut Turns| {
        let mut graph = Graph::default();
        let value = graph.constant(Axis::Group, 2.0);
        turns.expert_turns = Some(ExpertTurns::First(Formula { graph, value }));
    };
    for sequence in lists(HEARD, edited(behind_an_expert(), three)).iter().flatten() {
        let plain = stage.sources[sequence.source].tokens.get(sequence.record).len();
        let before = sequence.prompt(&stage.sources).len() - plain;
        assert_eq!(before, [0, 5, 11, 11][sequence.record % 4]);
    }
    let over = drawn(&HEARD.replace("== 6", "== 1"), behind_an_expert(), |_| {}).unwrap_err();
    assert!(
        over.to_string().contains(
            "during the expert's turns, before the student's first \
        turn"
        ),
        "{over}"
    );
    let untouched = |stage: &mut Stage| stage.environments = Environments::Untouched;
    let of_trial = drawn("", behind_an_expert(), untouched).unwrap();
    assert!(of_trial.iter().flatten().all(|sequence| (1..=2).contains(&sequence.completion.turns().count())));
}

/// A trial does not run the program.
#[test]
fn a_trial_plays_without_the_environment() {
    let untouched = |stage: &mut Stage| stage.environments = Environments::Untouched;
    let of_run = drawn("", turns(constant(3.0), Sampling::new(1, 1.0, 2)), untouched).unwrap();
    for sequence in of_run.iter().flatten() {
        assert_eq!(sequence.completion.turns().count(), 3);
        assert_eq!(
            sequence.completion.len() - sequence.completion.trained(),
            4,
            "observations as long as turns"
        );
    }
}
