//! Panels: their debates, and the members' scores after these, against double precision.

use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use mopd_plan::views::{Piece, Slot, View};
use mopd_plan::{Panel, Scorer};

use super::producers::sampling;
use super::*;
use crate::compiled;
use crate::model::Config;
use crate::rollout::{Debate, Sequence, TurnSummary};
use crate::tokenizer::Token;

/// `mad_reverse` of the standard library, with a panel of these two teachers.
fn debated(teachers: [Teacher; 2], temperature: f64) -> Train<Objective> {
    let plan = compiled::plan(
        "use std.mad.{mad_reverse, debated}\n\
         experiment \"t\" { seed = 1 }\n\
         domain d { prompts = \"d.jsonl\", reward = exact_match }\n\
         model base = llama { layers = 1, width = 16, heads = 2, context = 64, tokenizer = bytes }\n\
         teacher big = base\n\
         teacher mid = self.initial\n\
         panel duo = debate([big, mid]) { rounds = 2, max_tokens = 3, sees = debated, confidence = integer(0..=100) }\n\
         model student = distill(base) { objective = mad_reverse(duo), rollout = sample(n: 1, temperature: 1, \
         max_tokens: 8), prompts = 5, steps = 10, lr = 1e-3 }\n",
    );
    let Train { objective, mut panels, .. } = compiled::train(&plan, "student").clone();
    panels[0].sampling.temperature = temperature.into();
    let pieces =
        vec![Piece::Slot(Slot::Prompt), Piece::Text("|".to_owned()), Piece::Slot(Slot::Transcript(0))];
    let sees = Some(View { name: "heard".to_owned(), pieces });
    let scorer = |(name, teacher): (&str, Teacher)| Scorer {
        name: name.to_owned(),
        choices: vec![TeacherChoice { sees: sees.clone(), ..choice(teacher) }],
    };
    let scorers = zip_equal(["big", "mid"], teachers).map(scorer).collect();
    Train {
        panels,
        scorers: Scorers::new(Vec::new(), [], scorers),
        rollout: Rollout::new(6, Producer::student(sampling(2))),
        ..train(objective, 1)
    }
}

/// Models with room in their context for a transcript.
pub(super) fn roomy() -> Vec<Arc<Weights>> {
    let config = Config { context: 128, ..tiny() };
    (0..3).map(|seed| Arc::new(random_model(&config, seed))).collect()
}

fn stage_of<'a>(fixture: &'a Fixture, train: &'a Train<Objective>, models: &[Arc<Weights>]) -> Stage<'a> {
    let mut stage = fixture.stage(train, ROUTED, models);
    let members = train.scorers.named().iter().map(|scorer| Some(scorer.choices[0].clone()));
    let scorers: Vec<_> = std::iter::once(None).chain(members).collect();
    stage.sources.iter_mut().for_each(|source| source.scorers.clone_from(&scorers));
    stage
}

fn prompt_of<'a>(stage: &'a Stage, debate: &Debate) -> &'a str {
    stage.sources[debate.prompt.source].prompts.dataset.prompt(debate.prompt.record)
}

/// The most probable tokens up to the end token, as text.
pub(super) fn greedy(model: &Reference, prompt: &str, most: usize) -> String {
    let written = greedy_tokens(model, prompt, most);
    super::super::completions::text_of_at_most(&Tokenizer::Bytes, &written, most).unwrap().trim().to_owned()
}

pub(super) fn greedy_tokens(model: &Reference, prompt: &str, most: usize) -> Vec<Token> {
    let prompt = Tokenizer::Bytes.prompt(prompt).unwrap();
    let mut written: Vec<Token> = Vec::new();
    while written.len() < most {
        let logps = model.logps(&prompt, &[written.as_slice(), &[0]].concat());
        let next = Vec::<i64>::try_from(logps.argmax(-1, false)).unwrap()[written.len()];
        written.push(next);
        if Tokenizer::Bytes.is_end(next) {
            break;
        }
    }
    written
}

/// The members take turns, each after the prompt and the transcript so far. Each prompt has one debate for
/// all its completions.
#[test]
fn a_panel_talks_in_turns() {
    let (fixture, models) = (Fixture::new(), roomy());
    let train = debated(ROUTED, 0.0);
    let stage = stage_of(&fixture, &train, &models);
    let (_, _, rollouts) = first_step(&stage);
    let experts = [1, 2].map(|model| Reference::new(&models[model]));
    let sequences = &rollouts.sequences;
    assert_eq!((sequences.list.len(), sequences.debates.len()), (12, 6));
    for debate in &*sequences.debates {
        let mut transcript = String::new();
        let mut last = [String::new(), String::new()];
        for turn in 0..4 {
            let (member, before) = (turn % 2, format!("{}|{transcript}", prompt_of(&stage, debate)));
            last[member] = greedy(&experts[member], &before, 3);
            let between = if turn == 0 { "" } else { "\n\n" };
            transcript += &format!("{between}Expert {}: {}", member + 1, last[member]);
        }
        assert_eq!(debate.transcript, transcript);
        assert_eq!(
            debate.stances.iter().map(|stance| stance.answered).collect::<Vec<_>>(),
            last.map(|text| !text.is_empty())
        );
    }
}

/// KL(student || teacher) of a sequence in float64, where the teacher has read the transcript.
fn kl(
    student: &Reference,
    teacher: &Reference,
    stage: &Stage,
    (sequence, heard): (&Sequence, &Debate),
) -> Tensor {
    let prompt = prompt_of(stage, heard);
    let tokens = |text: &str| Tokenizer::Bytes.prompt(text).unwrap();
    let own = student.logps(&tokens(prompt), &sequence.completion);
    let behind = format!("{prompt}|{}", heard.transcript);
    let other = teacher.logps(&tokens(&behind), &sequence.completion).detach();
    (own.exp() * (&own - other)).sum_dim_intlist(-1, false, Kind::Double).mean(Kind::Double)
}

/// The softmax of confidence / 100 over the members that answered; equal shares if one of these stated none;
/// all 0 if none answered.
fn shares(stances: &[TurnSummary]) -> Vec<f64> {
    let answered: Vec<&TurnSummary> = stances.iter().filter(|stance| stance.answered).collect();
    let stated: Option<Vec<f64>> =
        answered.iter().map(|stance| Some((stance.confidence? as f64 / 100.0).exp())).collect();
    let share = |stance: &TurnSummary| match (&stated, stance) {
        (_, TurnSummary { answered: false, .. }) => 0.0,
        (Some(all), TurnSummary { confidence: Some(own), .. }) => {
            (*own as f64 / 100.0).exp() / all.iter().sum::<f64>()
        }
        _ => 1.0 / answered.len() as f64,
    };
    stances.iter().map(share).collect()
}

/// Loss and gradient for several combinations of answers and stated confidences.
#[test]
fn members_count_by_their_confidence() {
    let (fixture, models) = (Fixture::new(), roomy());
    let train = debated(ROUTED, 1.0);
    for micro_batch in [None, Some(5)] {
        let stage = Stage { micro_batch, ..stage_of(&fixture, &train, &models) };
        let mut trainer = Trainer::new(&stage).unwrap();
        let mut rollouts = trainer.rollouts_of(0).unwrap().remove(0);
        let said = |confidence| TurnSummary { answered: true, confidence };
        let silent = TurnSummary { answered: false, confidence: None };
        let stances = [
            [said(Some(90)), said(Some(10))],
            [said(None), said(Some(10))],
            [silent, said(Some(10))],
            [silent, said(None)],
            [silent, silent],
            [said(Some(0)), said(Some(100))],
        ];
        let debates: Vec<Debate> = zip_equal(&*rollouts.sequences.debates, stances)
            .map(|(debate, stances)| Debate { stances: stances.into(), ..debate.clone() })
            .collect();
        rollouts.sequences.debates = Rc::from(debates);
        let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
        let loss = f64::from(outputs.get(stage.train.objective.loss)[0]);
        let gradient = to_vec(&gradient.part(0..gradient.parameters()));
        let [student, big, mid] = [0, 1, 2].map(|model| Reference::new(&models[model]));
        let losses = rollouts.sequences.list.iter().map(|sequence| {
            let heard = rollouts.sequences.debate(0, sequence).unwrap();
            let shares = shares(&heard.stances);
            let of = |teacher: &Reference| kl(&student, teacher, &stage, (sequence, heard));
            of(&big) * shares[0] + of(&mid) * shares[1]
        });
        let expected = Tensor::stack(&losses.collect::<Vec<_>>(), 0).mean(Kind::Double);
        assert!((loss - expected.double_value(&[])).abs() < 1e-5, "{loss} {expected:?}");
        let apart = apart(&gradient, &student.gradient(&expected));
        assert!(apart < 1e-4, "{apart:e}");
        // The rows of both domains, whose prompts are counted separately.
        let mut record = Record::default();
        trainer.update(vec![rollouts], std::time::Instant::now(), 0, &mut record).unwrap();
        let sum = |of: fn(&StepMetrics) -> Option<f64>| record.rows.iter().filter_map(of).sum::<f64>();
        assert_eq!((sum(|row| row.unstated), sum(|row| row.unavailable)), (6.0, 6.0));
    }
}

/// Later passes train on the same debate, with teachers that have changed since.
#[test]
fn a_stage_that_was_cut_heard_the_same() {
    let (fixture, models) = (Fixture::new(), roomy());
    let mut train = debated([averages(0), Teacher::Model(ModelId(1))], 1.0);
    train.options.passes = 2;
    let stage = Stage { steps: 5, ..stage_of(&fixture, &train, &models) };
    resume::ends_the_same_wherever_it_is_cut("a debate", &stage);
    // A member's text depends only on step, prompt, round and teacher.
    let mut trainer = Trainer::new(&stage).unwrap();
    let rollouts = trainer.rollouts_of(0).unwrap().remove(0);
    let texts: Vec<&str> =
        rollouts.sequences.debates.iter().map(|debate| debate.transcript.as_str()).collect();
    let mut different = texts.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), texts.len(), "{texts:?}");
}

/// Collects the events.
#[derive(Clone, Default)]
struct CapturedOutput(Arc<Mutex<Vec<u8>>>);

impl Write for CapturedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn missing_confidence_is_warned_about_once() {
    let told = CapturedOutput::default();
    let fixture = Fixture { control: Control::new(told.clone()), ..Fixture::new() };
    let train = debated(ROUTED, 1.0);
    let (_, rows) = trained_to_the_end(&stage_of(&fixture, &train, &roomy()));
    let told = String::from_utf8(told.0.lock().unwrap().clone()).unwrap();
    for name in ["big", "mid"] {
        assert_eq!(told.matches(&format!("`{name}` stated no confidence")).count(), 1, "{told}");
    }
    assert!(told.contains("let the template `heard` ask for"), "{told}");
    for step in 0..4 {
        let rows = rows.iter().filter(|row| row.step == step);
        assert_eq!(rows.filter_map(|row| row.unstated).sum::<f64>(), 12.0);
    }
}

#[test]
fn debate_beyond_the_context_is_an_error() {
    let fixture = Fixture::new();
    let train = debated(ROUTED, 1.0);
    let models = models(true);
    let stage = stage_of(&fixture, &train, &models);
    let error = Trainer::new(&stage).unwrap().rollouts_of(0).err().expect("a context of 32 is too short");
    assert!(error.to_string().contains("more than the context of 32"), "{error}");
}

/// There is no debate if the part's terms read no member.
#[test]
fn no_debate_without_a_term_that_reads_it() {
    let (fixture, models) = (Fixture::new(), roomy());
    let heard = debated(ROUTED, 1.0);
    let train = Train { objective: mopd(1.0), ..heard };
    let stage = stage_of(&fixture, &train, &models);
    let rollouts = Trainer::new(&stage).unwrap().rollouts_of(0).unwrap().remove(0);
    assert!(rollouts.sequences.debates.is_empty());
    assert_eq!(train.panels.iter().map(Panel::tokens).sum::<u32>(), 12);
}
