//! Servers of rollouts that lie.

use std::path::{Path, PathBuf};

use mopd_plan::{Dtype, Engine, RolloutServer, Sampling, Secret};
use serde_json::{Value, json};

use super::super::super::own;
use super::super::super::push::{PushedWeights, canary};
use super::super::super::sampling::{RolloutBatch, SamplingServer, SentRollouts};
use super::super::gap::{self, ComparedCompletion};
use super::world::{
    Fake, OTHER_TEACHER, Reply, STUDENT, TOKENIZER, drawn, entries, logps, number, of_completion, ok, random,
    single,
};
use super::{Outcome, judge, of_today, outcomes};
use crate::control::Control;
use crate::failure::Error;
use crate::random::{Key, Purpose, Uniforms};
use crate::rollout::{Completion, Prompt, RolloutRequest};
use crate::tokenizer::Token;

/// A completion, before it is written in a dialect.
#[derive(Clone, Debug)]
struct Written {
    prompt: Vec<Token>,
    tokens: Vec<Token>,
    logps: Vec<f64>,
    truncated: bool,
    version: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Constant(f64),
    Factor(f64),
    Offset(f64),
    Probability,
    LostSign,
    Noise(f64),
    Shifted,
    Reversed,
    OtherTokens(usize),
    TokensShifted,
    OtherModel,
    Tempered(f64),
    EndInside,
    CutWithoutEnd,
    SaysStop,
    SaysLength,
    TooLong,
    Empty,
    OneNumberLess,
    OneNumberMore,
    NotFinite,
    UnknownToken,
    OtherVersion,
    OtherPromptRead,
    Same,
    Greedy,
    MostProbableOnly(f64),
}

use Kind::*;

const KINDS: [Kind; 44] = [
    Constant(0.0),
    Constant(-0.1),
    Constant(-1.0),
    Constant(-3.0),
    Constant(-20.0),
    Factor(std::f64::consts::LOG10_E),
    Factor(0.5),
    Factor(0.9),
    Factor(std::f64::consts::LOG2_E),
    Factor(2.0),
    Offset(0.1),
    Offset(0.5),
    Offset(2.0),
    Offset(-0.1),
    Offset(-0.5),
    Offset(-2.0),
    Probability,
    LostSign,
    Noise(0.1),
    Noise(0.3),
    Noise(1.0),
    Shifted,
    Reversed,
    OtherTokens(1),
    OtherTokens(3),
    OtherTokens(100),
    TokensShifted,
    OtherModel,
    Tempered(0.5),
    Tempered(2.0),
    EndInside,
    CutWithoutEnd,
    SaysStop,
    SaysLength,
    TooLong,
    Empty,
    OneNumberLess,
    OneNumberMore,
    NotFinite,
    UnknownToken,
    OtherVersion,
    OtherPromptRead,
    Same,
    Greedy,
];
const NUCLEUS: Kind = MostProbableOnly(0.9);

const MOST: usize = 24;

/// Draws from the student's distribution, changed.
fn redrawn(
    prompt: &[Token],
    change: &dyn Fn(&[f64]) -> Vec<f64>,
    random: &mut Uniforms,
) -> (Vec<Token>, Vec<f64>) {
    let (mut whole, mut numbers) = (prompt.to_vec(), Vec::new());
    while numbers.len() < MOST && (numbers.is_empty() || !TOKENIZER.is_end(whole[whole.len() - 1])) {
        let true_ones = logps(STUDENT, &whole);
        let changed = change(&true_ones);
        let total: f64 = changed.iter().map(|logp| logp.exp()).sum();
        let mut left = random.uniform() * total;
        let id = changed.iter().position(|logp| {
            left -= logp.exp();
            left < 0.0
        });
        let id = id.unwrap_or(0);
        numbers.push(true_ones[id]);
        whole.push(id as Token);
    }
    (whole.split_off(prompt.len()), numbers)
}

impl Kind {
    fn apply(self, written: &mut Written, random: &mut Uniforms) {
        let Written { prompt, tokens, logps: numbers, truncated, version } = written;
        let len = tokens.len();
        let mut each = |change: &mut dyn FnMut(f64) -> f64| {
            numbers.iter_mut().for_each(|logp| *logp = change(*logp));
        };
        match self {
            Constant(value) => each(&mut |_| value),
            Factor(factor) => each(&mut |logp| factor * logp),
            Offset(by) => each(&mut |logp| logp + by),
            Probability => each(&mut f64::exp),
            LostSign => each(&mut f64::abs),
            Noise(deviation) => each(&mut |logp| (logp + deviation * random.normals()[0]).min(0.0)),
            Shifted => numbers.rotate_left(1),
            Reversed => numbers.reverse(),
            OtherTokens(count) => {
                for token in tokens.iter_mut().take(count.min(len.saturating_sub(1))) {
                    *token = (*token + 1) % 250;
                }
            }
            TokensShifted => tokens[..len - 1].rotate_left(usize::from(len > 2)),
            OtherModel => *numbers = of_completion(OTHER_TEACHER, prompt, tokens),
            Tempered(temperature) => {
                let all = |whole: &[Token]| {
                    let hot: Vec<f64> = logps(STUDENT, whole).iter().map(|logp| logp / temperature).collect();
                    let total = hot.iter().map(|logp| logp.exp()).sum::<f64>().ln();
                    hot.into_iter().map(|logp| logp - total).collect::<Vec<_>>()
                };
                let whole = [prompt.as_slice(), tokens].concat();
                for (place, number) in numbers.iter_mut().enumerate() {
                    *number = all(&whole[..prompt.len() + place])[tokens[place] as usize];
                }
            }
            EndInside => tokens[0] = TOKENIZER.ends()[0],
            CutWithoutEnd => {
                tokens.truncate(len / 2);
                numbers.truncate(len / 2);
                *truncated = true;
            }
            SaysStop => *truncated = false,
            SaysLength => *truncated = true,
            TooLong => {
                tokens.extend(vec![97; MOST]);
                numbers.extend(vec![-3.0; MOST]);
                *truncated = true;
            }
            Empty => (tokens.clear(), numbers.clear()).0,
            OneNumberLess => drop(numbers.pop()),
            OneNumberMore => numbers.push(-1.0),
            NotFinite => numbers[len - 1] = f64::NAN,
            UnknownToken => tokens[0] = entries() as Token + 3,
            OtherVersion => "w2".clone_into(version),
            OtherPromptRead => {
                prompt[0] = (prompt[0] + 1) % 250;
                (*tokens, *numbers) = drawn(STUDENT, prompt, MOST, random);
                *truncated = !TOKENIZER.is_end(tokens[tokens.len() - 1]);
            }
            Same => {
                (*tokens, *numbers) = drawn(STUDENT, prompt, MOST, &mut super::world::random(5));
                *truncated = !TOKENIZER.is_end(tokens[tokens.len() - 1]);
            }
            Greedy | MostProbableOnly(_) => {
                let kept = |all: &[f64]| {
                    let mut order: Vec<usize> = (0..all.len()).collect();
                    order.sort_by(|one, other| all[*other].total_cmp(&all[*one]));
                    let share = if let MostProbableOnly(share) = self { share } else { 0.0 };
                    let mut mass = 0.0;
                    let mut changed = vec![f64::NEG_INFINITY; all.len()];
                    for id in order {
                        changed[id] = all[id];
                        mass += all[id].exp();
                        if mass >= share {
                            break;
                        }
                    }
                    changed
                };
                (*tokens, *numbers) = redrawn(prompt, &kept, random);
                *truncated = !TOKENIZER.is_end(tokens[tokens.len() - 1]);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Lie {
    engine: Engine,
    kind: Option<Kind>,
    /// One of how many completions it is told about.
    one_of: u64,
    /// The weights are those of an earlier step, so only ratios are tested.
    stale: bool,
}

impl Lie {
    fn completion(self, prompt: &[Token], seed: u64) -> Written {
        let mut random = random(seed);
        let (tokens, numbers) = drawn(STUDENT, prompt, MOST, &mut random);
        let truncated = !TOKENIZER.is_end(tokens[tokens.len() - 1]);
        let mut written =
            Written { prompt: prompt.to_vec(), tokens, logps: numbers, truncated, version: "w1".to_owned() };
        let told = super::world::random(seed ^ 0xF00).below(self.one_of as usize) == 0;
        if let Some(kind) = self.kind.filter(|_| told) {
            kind.apply(&mut written, &mut random);
        }
        written
    }

    fn answer(self, path: &str, body: &[u8]) -> Reply {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let ids = |value: &Value| serde_json::from_value::<Vec<Token>>(value.clone()).unwrap();
        match path {
            "/v1/models" => ok(&json!({ "data": [{ "id": "student" }] })),
            "/model_info" | "/weight_info" => ok(&json!({ "weight_version": "w1", "model_path": "w1" })),
            own::MODEL => ok(&json!({ "model": "student", "weights": "w1" })),
            "/v1/completions" => {
                let ids = ids(&asked["prompt"]);
                let numbers = of_completion(STUDENT, &ids[..1], &ids[1..]);
                let entries = numbers
                    .iter()
                    .zip(&ids[1..])
                    .map(|(logp, id)| json!({ id.to_string(): { "logprob": logp, "rank": null } }));
                let all: Vec<Value> = std::iter::once(Value::Null).chain(entries).collect();
                ok(
                    &json!({ "model": "student", "choices": [{ "prompt_token_ids": ids, "prompt_logprobs": all }] }),
                )
            }
            "/generate" if asked["sampling_params"]["max_new_tokens"] == json!(0) => {
                let ids = ids(&asked["input_ids"]);
                let numbers = of_completion(STUDENT, &ids[..1], &ids[1..]);
                let entries = numbers.iter().zip(&ids[1..]).map(|(logp, id)| json!([logp, id, null]));
                let all: Vec<Value> = std::iter::once(json!([null, ids[0], null])).chain(entries).collect();
                ok(&json!({ "meta_info": { "prompt_tokens": ids.len(), "input_token_logprobs": all } }))
            }
            "/generate" => {
                let seed = asked["sampling_params"]["sampling_seed"].as_u64().unwrap();
                let asked_prompt = ids(&asked["input_ids"]);
                let Written { tokens, logps, truncated, version, .. } = self.completion(&asked_prompt, seed);
                let list: Vec<Value> = logps
                    .iter()
                    .enumerate()
                    .map(|(place, logp)| json!([number(*logp), tokens.get(place), null]))
                    .collect();
                ok(&json!({ "output_ids": tokens, "meta_info": {
                    "prompt_tokens": asked_prompt.len(), "completion_tokens": tokens.len(), "weight_version": version,
                    "finish_reason": { "type": if truncated { "length" } else { "stop" } },
                    "output_token_logprobs": list,
                } }))
            }
            "/inference/v1/generate" => {
                let seed = asked["sampling_params"]["seed"].as_u64().unwrap();
                let Written { prompt, tokens, logps, truncated, version } =
                    self.completion(&ids(&asked["token_ids"]), seed);
                let list: Vec<Value> = logps
                    .iter()
                    .enumerate()
                    .map(|(place, logp)| json!({ "token_id": tokens.get(place), "logprob": number(*logp) }))
                    .collect();
                ok(&json!({ "prompt_token_ids": prompt, "choices": [{
                    "token_ids": tokens, "finish_reason": if truncated { "length" } else { "stop" },
                    "weight_versions": [{ "version": version }], "logprobs": { "content": list },
                }] }))
            }
            own::ROLLOUTS => {
                let batch: RolloutBatch = serde_json::from_value(asked).unwrap();
                let n = batch.sampling.n;
                let mut weights = "w1".to_owned();
                let mut completions = Vec::new();
                for prompt in &batch.prompts {
                    for sample in 0..n {
                        let seed = u64::from(prompt.id * n + sample) + 5000;
                        let Written { tokens, logps, truncated, version, .. } =
                            self.completion(&prompt.tokens, seed);
                        if version != "w1" {
                            weights = version;
                        }
                        let logps = single(logps);
                        completions.push(Completion { tokens, logps, truncated, ..Completion::default() });
                    }
                }
                (200, SentRollouts::new(completions, weights, body).bytes())
            }
            // Weights that are sent change nothing here.
            _ => ok(&json!({ "success": true })),
        }
    }
}

/// Samples a step and compares it as the trainer does.
fn run(lie: &Lie) -> Outcome {
    let lie = *lie;
    let fake = Fake::start(move |path, body| lie.answer(path, body));
    let server = RolloutServer {
        engine: lie.engine,
        url: Secret::Text(fake.url.clone()),
        model: "student".to_owned(),
        push: std::env::temp_dir().to_str().unwrap().to_owned(),
        key: None,
    };
    let control = Control::new(Vec::new());
    let sample = || -> crate::failure::Result<Option<String>> {
        let server = SamplingServer::new(&server, Path::new("/"))?;
        let prompts: Vec<Vec<Token>> = (0..6).map(|prompt| vec![97 + prompt, 98, 99]).collect();
        let asked: Vec<Prompt> = prompts
            .iter()
            .enumerate()
            .map(|(id, tokens)| Prompt { tokens, id: id as u32, sample: 0, limit: None })
            .collect();
        let rollout = RolloutRequest::new(
            &asked,
            &Sampling::new(8, 1.0, MOST as u32),
            Key::new(1, 2, Purpose::Rollout, 3),
        );
        let reading = canary(&TOKENIZER)?;
        let pushed = PushedWeights {
            folder: PathBuf::from("/nowhere/w1"),
            content: "w1".to_owned(),
            of: "step 0".to_owned(),
            canary: single(of_completion(STUDENT, &reading.prompt, &reading.completion)),
        };
        let completions = server.sample(|| Ok(pushed), &rollout, &TOKENIZER, 0.05, &control)?;
        let compared: Vec<ComparedCompletion> = completions
            .iter()
            .enumerate()
            .map(|(index, completion)| ComparedCompletion {
                index,
                group: index as u32 / 8,
                tokens: completion.tokens.clone(),
                trainer: single(of_completion(STUDENT, &prompts[index / 8], &completion.tokens)),
                sampler: completion.logps.clone(),
                same_weights: !lie.stale,
            })
            .collect();
        gap::check(&compared, gap::tolerance(lie.engine, Dtype::Float32))
            .map_err(|what| Error::new(mopd_plan::events::FailureKind::Model, what))?;
        Ok(accepted(lie, &compared))
    };
    Outcome::of(&lie, sample(), undetectable(&lie))
}

/// Whether the completions that were accepted are true, since a server that was asked again did not lie.
fn accepted(lie: Lie, compared: &[ComparedCompletion]) -> Option<String> {
    let draws = matches!(lie.kind, Some(Greedy | Same | MostProbableOnly(_)));
    let gap = gap::SamplerGap::of(compared.iter().flat_map(ComparedCompletion::pairs))?;
    (lie.kind.is_some() && !draws && gap.max < 1e-4).then(|| "what was accepted is true".to_owned())
}

/// The lies that the book names as impossible to tell from the truth.
fn undetectable(lie: &Lie) -> Option<&'static str> {
    match lie.kind? {
        MostProbableOnly(_) => Some("other draws with true numbers"),
        Noise(_) | Reversed | TokensShifted | OtherTokens(_) | Tempered(_) | OtherPromptRead if lie.stale => {
            Some("with earlier weights, numbers whose mean ratio is near 1")
        }
        Offset(-0.1 | 0.1) | Noise(0.1) if lie.one_of > 1 => Some("a gap within the tolerance"),
        _ => None,
    }
}

#[test]
fn honest_rollouts_pass_in_every_dialect() {
    for engine in Engine::ALL {
        for stale in [false, true] {
            let outcome = run(&Lie { engine, kind: None, one_of: 1, stale });
            assert_eq!(outcome.error, None, "{engine:?}");
        }
    }
}

#[test]
fn no_lie_of_a_server_of_rollouts_is_trained_on_but_those_that_the_book_names() {
    let lies: Vec<Lie> = Engine::ALL
        .into_iter()
        .flat_map(|engine| KINDS.into_iter().chain([NUCLEUS]).map(move |kind| (engine, kind)))
        .flat_map(|(engine, kind)| {
            [(1, false), (5, false), (1, true)].map(|(one_of, stale)| Lie {
                engine,
                kind: Some(kind),
                one_of,
                stale,
            })
        })
        .collect();
    assert!(lies.len() > 300, "{} lies", lies.len());
    judge(&outcomes(&of_today(lies), run));
}
