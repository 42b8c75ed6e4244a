//! Teachers that lie.

use std::sync::Mutex;

use mopd_plan::{Answers, Engine, Secret, Served};
use serde_json::{Map, Value, json};
use tch::Tensor;

use super::super::super::own::{self, SentBatch, SentTensor};
use super::super::super::{CancelToken, ScoredSequence, ServedScores, Server};
use super::world::{
    Fake, OTHER_TEACHER, Reply, STUDENT, TEACHER, TOKENIZER, drawn, entries, logps, number, ok, random,
    single,
};
use super::{Outcome, judge, of_today, outcomes};
use crate::control::Control;
use crate::random::Uniforms;
use crate::tokenizer::Token;

/// A position of an answer: a token with its log-probability and rank, and the most probable tokens.
#[derive(Clone, Debug)]
struct Position {
    token: Token,
    logp: f64,
    rank: u64,
    list: Vec<(Token, f64)>,
}

/// An answer about a sequence, before it is written in a dialect.
#[derive(Clone, Debug)]
struct Answer {
    ids: Vec<Token>,
    /// Of all tokens but the first.
    positions: Vec<Position>,
    model: String,
    version: Option<String>,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Form {
    engine: Engine,
    answers: Answers,
    ranks: bool,
}

const K: u32 = 5;
const FORMS: [Form; 8] = [
    Form { engine: Engine::Vllm, answers: Answers::Sampled, ranks: true },
    Form { engine: Engine::Vllm, answers: Answers::Sampled, ranks: false },
    Form { engine: Engine::Vllm, answers: Answers::TopK(K), ranks: true },
    Form { engine: Engine::Vllm, answers: Answers::TopK(K), ranks: false },
    Form { engine: Engine::Vllm, answers: Answers::Distribution, ranks: false },
    Form { engine: Engine::Sglang, answers: Answers::Sampled, ranks: false },
    Form { engine: Engine::Sglang, answers: Answers::TopK(K), ranks: false },
    Form { engine: Engine::Mopd, answers: Answers::Distribution, ranks: false },
];

/// When a server lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// In all answers.
    Always,
    /// From an answer in the middle of the run on.
    Later,
    /// About one of three requests, and again if it is repeated.
    Sometimes,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Constant(f64),
    Factor(f64),
    Offset(f64),
    Probability,
    LostSign,
    AtLeast(f64),
    Noise(f64),
    Shifted(i64),
    Reversed,
    Permuted,
    Stuck,
    PreviousAnswer,
    ListPermuted,
    ListReversed,
    OtherIdsInList,
    ListTooShort,
    ListTooLong,
    EntryTwice,
    OtherModel(u64),
    OtherPrompt,
    OtherVersion,
    OtherName,
    EchoChanged,
    PositionMissing,
    NotFinite,
}

use Kind::*;

const KINDS: [Kind; 43] = [
    Constant(0.0),
    Constant(-0.01),
    Constant(-0.1),
    Constant(-1.0),
    Constant(-5.0),
    Constant(-20.0),
    Factor(std::f64::consts::LOG10_E),
    Factor(0.5),
    Factor(std::f64::consts::LOG2_E),
    Factor(2.0),
    Offset(0.1),
    Offset(0.5),
    Offset(2.0),
    Offset(-0.5),
    Offset(-2.0),
    Probability,
    LostSign,
    AtLeast(-1.0),
    AtLeast(-0.1),
    Noise(0.3),
    Noise(1.0),
    Noise(3.0),
    Shifted(1),
    Shifted(-1),
    Shifted(2),
    Reversed,
    Permuted,
    Stuck,
    PreviousAnswer,
    ListPermuted,
    ListReversed,
    OtherIdsInList,
    ListTooShort,
    ListTooLong,
    EntryTwice,
    OtherModel(OTHER_TEACHER),
    OtherModel(STUDENT),
    OtherPrompt,
    OtherVersion,
    OtherName,
    EchoChanged,
    PositionMissing,
    NotFinite,
];

fn honest(model: u64, ids: &[Token], k: usize) -> Answer {
    let position = |place: usize| {
        let all = logps(model, &ids[..place]);
        let logp = all[ids[place] as usize];
        let mut list: Vec<(Token, f64)> = (0..).zip(all.iter().copied()).collect();
        list.sort_by(|one, other| other.1.total_cmp(&one.1));
        let rank = 1 + all.iter().filter(|other| **other > logp).count() as u64;
        list.truncate(k);
        Position { token: ids[place], logp, rank, list }
    };
    Answer {
        ids: ids.to_vec(),
        positions: (1..ids.len()).map(position).collect(),
        model: "teacher".to_owned(),
        version: Some("v1".to_owned()),
    }
}

fn each(answer: &mut Answer, change: &mut dyn FnMut(f64) -> f64) {
    for position in &mut answer.positions {
        position.logp = change(position.logp);
        let own = position.token;
        for (id, logp) in &mut position.list {
            *logp = if *id == own { position.logp } else { change(*logp) };
        }
    }
}

/// Moves the numbers of positions to others; tokens keep their places.
fn moved(answer: &mut Answer, from: &dyn Fn(usize, usize) -> usize) {
    let old = answer.positions.clone();
    for (place, position) in answer.positions.iter_mut().enumerate() {
        let from = &old[from(place, old.len()) % old.len()];
        (position.logp, position.rank) = (from.logp, from.rank);
        position.list.clone_from(&from.list);
        // A list whose own entry contradicts would be noticed at once.
        let own = position.token;
        if let Some(entry) = position.list.iter_mut().find(|(id, _)| *id == own) {
            position.logp = entry.1;
        }
    }
}

impl Kind {
    fn apply(self, answer: &mut Answer, previous: Option<&Answer>, random: &mut Uniforms, k: usize) {
        let last = answer.positions.len() - 1;
        match self {
            Constant(value) => each(answer, &mut |_| value),
            Factor(factor) => each(answer, &mut |logp| factor * logp),
            Offset(by) => each(answer, &mut |logp| logp + by),
            Probability => each(answer, &mut f64::exp),
            LostSign => each(answer, &mut f64::abs),
            AtLeast(least) => each(answer, &mut |logp| logp.max(least)),
            Noise(deviation) => {
                each(answer, &mut |logp| (logp + deviation * random.normals()[0]).min(0.0));
                answer
                    .positions
                    .iter_mut()
                    .for_each(|of| of.list.sort_by(|one, other| other.1.total_cmp(&one.1)));
            }
            Shifted(by) => moved(answer, &|place, len| (place as i64 + by).rem_euclid(len as i64) as usize),
            Reversed => moved(answer, &|place, len| len - 1 - place),
            Permuted => {
                let order =
                    crate::random::permutation(super::world::random(random.below(1 << 20) as u64), last + 1);
                moved(answer, &|place, _| order[place] as usize);
            }
            Stuck => moved(answer, &|_, _| 0),
            PreviousAnswer => {
                let Some(previous) = previous else { return };
                for (position, other) in answer.positions.iter_mut().zip(previous.positions.iter().cycle()) {
                    (position.logp, position.rank) = (other.logp, other.rank);
                    position.list.clone_from(&other.list);
                    if let Some((_, logp)) = position.list.iter().find(|(id, _)| *id == position.token) {
                        position.logp = *logp;
                    }
                }
            }
            ListPermuted | ListReversed => {
                for position in &mut answer.positions {
                    let values: Vec<f64> = position.list.iter().map(|(_, logp)| *logp).collect();
                    let len = values.len();
                    for (place, (id, logp)) in position.list.iter_mut().enumerate() {
                        let from = if self == ListReversed { len - 1 - place } else { (place + 1) % len };
                        *logp = values[from];
                        if *id == position.token {
                            position.logp = *logp;
                        }
                    }
                }
            }
            OtherIdsInList => {
                for position in &mut answer.positions {
                    for (id, _) in &mut position.list {
                        if *id != position.token {
                            *id = (*id + 1 + Token::from(*id + 1 == position.token)) % entries() as Token;
                        }
                    }
                    position.list.dedup_by_key(|(id, _)| *id);
                }
            }
            ListTooShort => answer.positions[last].list.truncate(k.saturating_sub(1)),
            ListTooLong => answer.positions[last].list.extend([(250, -18.0), (251, -19.0)]),
            EntryTwice => {
                let list = &mut answer.positions[last].list;
                if let [.., one, other] = list.as_mut_slice() {
                    other.0 = one.0;
                }
            }
            OtherModel(model) => {
                let other = honest(model, &answer.ids, k);
                answer.positions = other.positions;
            }
            OtherPrompt => {
                let mut ids = answer.ids.clone();
                ids[0] = (ids[0] + 1) % 250;
                let other = honest(TEACHER, &ids, k);
                answer.positions = other.positions;
            }
            OtherVersion => answer.version = Some("v2".to_owned()),
            OtherName => answer.model = "another".to_owned(),
            EchoChanged => answer.ids[0] = (answer.ids[0] + 1) % 250,
            PositionMissing => drop(answer.positions.pop()),
            NotFinite => answer.positions[last].logp = f64::NAN,
        }
    }

    /// The same for last hidden states, as far as it is something that can happen to them.
    fn apply_to_rows(
        self,
        rows: &mut Vec<Vec<f32>>,
        previous: Option<&[Vec<f32>]>,
        random: &mut Uniforms,
    ) -> bool {
        let all = |rows: &mut Vec<Vec<f32>>, change: &mut dyn FnMut(f32) -> f32| {
            rows.iter_mut().flatten().for_each(|value| *value = change(*value));
        };
        match self {
            Constant(0.0) => all(rows, &mut |_| 0.0),
            Noise(deviation) => {
                all(rows, &mut |value| value + (deviation * random.normals()[0]) as f32);
            }
            Shifted(1) => rows.rotate_left(1),
            Shifted(_) => rows.rotate_right(1),
            Reversed => rows.reverse(),
            Permuted => {
                let order = crate::random::permutation(
                    super::world::random(random.below(1 << 20) as u64),
                    rows.len(),
                );
                let old = rows.clone();
                order
                    .iter()
                    .enumerate()
                    .for_each(|(place, from)| rows[place].clone_from(&old[*from as usize]));
            }
            PreviousAnswer => {
                let Some(previous) = previous else { return true };
                let previous = previous.iter().cycle();
                rows.iter_mut().zip(previous).for_each(|(row, other)| row.clone_from(other));
            }
            OtherModel(_) => {
                rows.iter_mut().for_each(|row| row.reverse());
            }
            PositionMissing => drop(rows.pop()),
            NotFinite => rows[0][3] = f32::NAN,
            OtherVersion => {}
            _ => return false,
        }
        true
    }
}

fn written(form: Form, answer: &Answer, start: usize) -> Value {
    let Answer { ids, positions, model, version } = answer;
    let entry = |logp: f64, rank: u64| {
        let rank = if form.ranks { json!(rank) } else { Value::Null };
        json!({ "logprob": number(logp), "rank": rank })
    };
    if form.engine == Engine::Vllm {
        let of = |position: &Position| {
            let mut of: Map<String, Value> = Map::new();
            of.insert(position.token.to_string(), entry(position.logp, position.rank));
            for ((id, logp), rank) in position.list.iter().zip(1..) {
                if *id != position.token {
                    of.insert(id.to_string(), entry(*logp, rank));
                }
            }
            Value::Object(of)
        };
        let all: Vec<Value> = std::iter::once(Value::Null).chain(positions.iter().map(of)).collect();
        return json!({
            "model": model, "system_fingerprint": version,
            "choices": [{ "prompt_token_ids": ids, "prompt_logprobs": all, "text": "", "finish_reason": "length" }],
        });
    }
    let own = positions.iter().skip(start).map(|of| json!([number(of.logp), of.token, null]));
    let own: Vec<Value> = std::iter::once(json!([null, ids[start], null])).chain(own).collect();
    let list = positions
        .iter()
        .skip(start)
        .map(|of| -> Value { of.list.iter().map(|(id, value)| json!([number(*value), id, null])).collect() });
    let list: Vec<Value> = std::iter::once(Value::Null).chain(list).collect();
    json!({ "meta_info": {
        "prompt_tokens": ids.len(), "weight_version": version, "finish_reason": { "type": "length" },
        "input_token_logprobs": own, "input_top_logprobs": list,
    } })
}

const WIDTH: usize = 16;

fn row(prefix: &[Token]) -> Vec<f32> {
    let all = logps(TEACHER, prefix);
    (0..WIDTH).map(|place| (all[place] + 5.0) as f32).collect()
}

/// What a lying server remembers.
#[derive(Default)]
struct Memory {
    answers: u64,
    previous: Option<Answer>,
    rows: Option<Vec<Vec<f32>>>,
}

#[derive(Clone, Copy, Debug)]
struct Lie {
    form: Form,
    kind: Option<Kind>,
    when: When,
}

/// Answers before a lie that begins later: those of the first step; and where a step is one answer.
const BEFORE: u64 = 30;
const BEFORE_BATCH: u64 = 5;

impl Lie {
    fn is_told(self, answers: u64, body: &[u8]) -> bool {
        match self.when {
            When::Always => true,
            When::Later if self.form.engine == Engine::Mopd => answers >= BEFORE_BATCH,
            When::Later => answers >= BEFORE,
            When::Sometimes => blake3::hash(body).as_bytes()[0].is_multiple_of(3),
        }
    }

    fn start(self) -> Fake {
        let memory: Mutex<Memory> = Mutex::default();
        Fake::start(move |path, body| self.answer(&memory, path, body))
    }

    fn answer(self, memory: &Mutex<Memory>, path: &str, body: &[u8]) -> Reply {
        match path {
            "/v1/models" => return ok(&json!({ "data": [{ "id": "teacher", "root": "/models/teacher" }] })),
            "/model_info" => {
                return ok(&json!({ "model_path": "/models/teacher", "weight_version": "v1" }));
            }
            own::MODEL => return ok(&json!({ "model": "teacher", "weights": "w1" })),
            own::LM_HEAD => {
                let head =
                    Tensor::ones([entries() as i64, WIDTH as i64], (tch::Kind::Float, tch::Device::Cpu));
                return (200, SentTensor::from_tensor(&head).write("lm_head", "w1", &[]));
            }
            _ => {}
        }
        let asked: Value = serde_json::from_slice(body).unwrap();
        let mut memory = memory.lock().unwrap();
        let told = self.is_told(memory.answers, body);
        memory.answers += 1;
        let mut random = random(memory.answers);
        let kind = self.kind.filter(|_| told);
        if path == own::HIDDEN {
            let batch: SentBatch = serde_json::from_value(asked).unwrap();
            let of = |sequence: &own::SentSequence| {
                let ids = [sequence.prompt.as_slice(), &sequence.completion].concat();
                (sequence.prompt.len()..ids.len()).map(|place| row(&ids[..place])).collect::<Vec<_>>()
            };
            let honest: Vec<Vec<f32>> = batch.sequences.iter().flat_map(of).collect();
            let (mut rows, mut weights) = (honest.clone(), "w1");
            if let Some(kind) = kind {
                kind.apply_to_rows(&mut rows, memory.rows.as_deref(), &mut random);
                weights = if kind == OtherVersion { "w2" } else { "w1" };
            }
            memory.rows = Some(honest);
            let shape = [rows.len() as i64, WIDTH as i64];
            let tensor = Tensor::from_slice(&rows.concat()).view(shape);
            return (200, SentTensor::from_tensor(&tensor).write("hidden", weights, body));
        }
        let field = if self.form.engine == Engine::Vllm { "prompt" } else { "input_ids" };
        let ids: Vec<Token> = serde_json::from_value(asked[field].clone()).unwrap();
        let k = match (asked["prompt_logprobs"].as_i64(), asked["top_logprobs_num"].as_u64()) {
            (Some(-1), _) => entries(),
            (Some(k), _) => k as usize,
            (None, k) => k.unwrap_or(0) as usize,
        };
        let honest = honest(TEACHER, &ids, k);
        let mut answer = honest.clone();
        if let Some(kind) = kind {
            kind.apply(&mut answer, memory.previous.as_ref(), &mut random, k);
        }
        memory.previous = Some(honest);
        ok(&written(self.form, &answer, asked["logprob_start_len"].as_u64().unwrap_or(0) as usize))
    }
}

const STEPS: u64 = 3;

/// The sequences of a step: some prompts, several completions of each by the student.
fn step(step: u64) -> (Vec<ScoredSequence>, Vec<Vec<f32>>) {
    let mut random = random(1000 + step);
    let (mut readings, mut all) = (Vec::new(), Vec::new());
    for prompt in 0..6 {
        let prompt = vec![97 + prompt, 98 + step as Token, 99];
        for _ in 0..4 {
            let (completion, logps) = drawn(STUDENT, &prompt, 7, &mut random);
            readings.push(ScoredSequence { prompt: prompt.clone(), completion, scored: None });
            all.push(single(logps));
        }
    }
    (readings, all)
}

/// Runs a few steps as a stage does, up to the confirmation before a checkpoint.
fn run(lie: &Lie) -> Outcome {
    let (fake, control) = (lie.start(), Control::new(Vec::new()));
    let served = Served {
        engine: lie.form.engine,
        url: Secret::Text(fake.url.clone()),
        model: "teacher".to_owned(),
        answers: lie.form.answers,
        key: None,
    };
    let cancel = CancelToken::new(&control);
    let train = || -> crate::failure::Result<Option<String>> {
        let server = Server::open(&served, &control)?;
        server.try_out(&TOKENIZER, &control)?;
        for number in 0..STEPS {
            let (readings, sampler) = step(number);
            let scores = server.score(std::slice::from_ref(&readings), entries(), cancel)?;
            if let ServedScores::Listed(listed) = &scores {
                for (index, ((reading, listed), sampler)) in
                    readings.iter().zip(listed).zip(&sampler).enumerate()
                {
                    let own: Vec<f32> = listed.tokens.iter().map(|entries| entries[0].1).collect();
                    server.test_draws(index, &reading.completion, &own, sampler)?;
                }
            }
        }
        server.confirm(cancel)?;
        Ok(None)
    };
    Outcome::of(lie, train(), undetectable(lie))
}

/// The lies that the book names as impossible to tell from the truth.
fn undetectable(lie: &Lie) -> Option<&'static str> {
    let whole = lie.form.answers == Answers::Distribution;
    let listed = lie.form.answers != Answers::Sampled;
    match lie.kind? {
        OtherModel(_) | OtherPrompt if lie.when == When::Always => Some("another model from the start"),
        Constant(-5.0 | -20.0) | Factor(_) | Offset(-0.5 | -2.0) if lie.when == When::Always => {
            Some("too low from the start")
        }
        ListPermuted | ListReversed | OtherIdsInList
            if lie.when == When::Always && !lie.form.ranks && (whole || lie.form.engine != Engine::Mopd) =>
        {
            Some("another model from the start")
        }
        // Its rank is as possible as that of its own token, and there is no list that contradicts it.
        Shifted(-1) if lie.when == When::Always && (!lie.form.ranks || !listed) => {
            Some("the number of the token before, from the start, with short completions")
        }
        Stuck if lie.when == When::Always => Some("too low from the start"),
        kind if lie.when == When::Sometimes && is_missed_in_single_answers(lie.form.engine, kind) => {
            Some("single answers without a sequence that begins alike")
        }
        _ => None,
    }
}

/// Of lies in some answers, those that only a sequence with the same beginning shows: numbers that are too
/// low or another model's, values of other entries, and rows of hidden states, which have no order or sum.
fn is_missed_in_single_answers(engine: Engine, kind: Kind) -> bool {
    match engine {
        Engine::Mopd => {
            matches!(kind, Noise(_) | Shifted(_) | Reversed | Permuted | PreviousAnswer | OtherModel(_))
        }
        Engine::Vllm | Engine::Sglang => match kind {
            // What these change depends on the order in which parallel requests arrive: some are caught.
            Noise(_) | Permuted | PreviousAnswer => true,
            Constant(value) => value <= -5.0,
            Factor(factor) => factor > 1.0,
            Offset(by) => by < 0.0,
            Stuck | ListPermuted | ListReversed | OtherModel(_) | OtherPrompt => true,
            _ => false,
        },
    }
}

/// Whether a lie changes anything in this dialect.
fn applies(lie: &Lie) -> bool {
    let Some(kind) = lie.kind else { return true };
    if lie.form.engine == Engine::Mopd {
        return kind.apply_to_rows(&mut vec![row(&[1]), row(&[2])], None, &mut random(0));
    }
    let lists = lie.form.answers != Answers::Sampled;
    match kind {
        ListPermuted | ListReversed | OtherIdsInList | ListTooShort | EntryTwice => lists,
        ListTooLong => lists || lie.form.engine == Engine::Vllm,
        // A version that never changes is none.
        OtherVersion => lie.when != When::Always,
        OtherName | EchoChanged => lie.form.engine == Engine::Vllm,
        _ => true,
    }
}

#[test]
fn honest_teachers_pass_in_every_dialect() {
    for form in FORMS {
        let outcome = run(&Lie { form, kind: None, when: When::Always });
        assert_eq!(outcome.error, None, "{form:?}");
    }
}

#[test]
fn no_lie_of_a_teacher_is_trained_on_but_those_that_the_book_names() {
    let whens = [When::Always, When::Later, When::Sometimes];
    let lies: Vec<Lie> = FORMS
        .into_iter()
        .flat_map(|form| KINDS.into_iter().map(move |kind| (form, kind)))
        .flat_map(|(form, kind)| whens.map(|when| Lie { form, kind: Some(kind), when }))
        .filter(applies)
        .collect();
    assert!(lies.len() > 700, "{} lies", lies.len());
    judge(&outcomes(&of_today(lies), run));
}
