//! Routes by columns of the data, against the reference and against the same data in one domain per teacher.

use mopd_plan::{DataFormula, DataNode, DomainId, TeacherChoice};

use super::*;
use crate::rollout::Sequence;
use crate::train::batches::ChosenSide;
use crate::train::models::ModelRef;

/// A row of each of these kinds, with prompts and answers of different lengths.
fn rows(folder: &Path, name: &str, kinds: &[&str]) -> Prompts {
    let mut text = String::new();
    for (index, kind) in kinds.iter().enumerate() {
        let prompt: String = "prompt".chars().cycle().skip(index).take(1 + (index * 5) % 9).collect();
        let answer: String = "abcdefg".chars().cycle().skip(index).take(1 + (index * 3) % 7).collect();
        text +=
            &format!("{{\"prompt\": \"{kind}{prompt}\", \"answer\": \"{answer}\", \"kind\": \"{kind}\"}}\n");
    }
    let path = folder.join(format!("{name}.jsonl"));
    std::fs::write(&path, text).unwrap();
    let source = DataSource::file(path.to_str().expect("a temporary folder has a plain name"));
    let fields = [Field::text("answer")];
    let routes = [vec![hard()]];
    let request = DatasetRequest {
        source: &source,
        format: &PromptFormat::Text,
        fields: &fields,
        whole: false,
        routes: &routes,
        numbers: &[],
        notes: None,
    };
    Prompts::new(Dataset::read(Path::new("."), request).unwrap())
}

/// `data.kind == "hard"`
fn hard() -> DataFormula {
    DataFormula { nodes: vec![DataNode::FieldIs { field: "kind".to_owned(), text: "hard".to_owned() }] }
}

/// `domain == ... and data.kind == "hard" -> teacher2`, `domain == ... -> teacher1`
fn by_kind(domain: u32) -> [TeacherChoice; 2] {
    let choice = |when: Option<DataFormula>, model: u32| {
        let teacher = Teacher::Model(ModelId(model));
        TeacherChoice {
            domain: DomainId(domain),
            when,
            name: format!("teacher{model}"),
            teacher,
            sees: None,
            own_tokens: false,
        }
    };
    [choice(Some(hard()), 2), choice(None, 1)]
}

fn source<'a>(
    fixture: &'a Fixture,
    name: &'a str,
    prompts: &'a Prompts,
    route: SourceTeachers,
) -> Source<'a> {
    Source {
        name,
        origin: Origin(0),
        share: 0.5,
        route,
        scorers: vec![Some(choice(Teacher::Model(ModelId(0))))],
        prompts,
        tokens: prompts.tokens(&Tokenizer::Bytes).unwrap(),
        limit: None,
        verifier: &fixture.verifier,
    }
}

fn evaluated(stage: &Stage, list: Vec<Sequence>) -> (f64, Vec<f32>) {
    let trainer = Trainer::new(stage).unwrap();
    let sequences = Sequences::new(list, 1, stage.sources.len());
    let rollouts = Rollouts::new(sequences, stage.step(0));
    let EvaluatedBatch { outputs, gradient, .. } = trainer.evaluate(0, &rollouts, 0).unwrap();
    let gradient = to_vec(&gradient.part(0..gradient.parameters()));
    (f64::from(outputs.get(stage.train.objective.loss)[0]), gradient)
}

/// One domain whose rows a column routes to two teachers, and two domains with a teacher each: without
/// reductions over domains, both are the same step, to the bit.
#[test]
fn a_routed_domain_is_two_domains_with_a_teacher_each() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path();
    let models = models(true);
    let [easy, hard] = [["easy"; 5], ["hard"; 5]];
    let both = rows(folder, "both", &[hard, easy].concat());
    // Rows of different lengths alternate, as in the one file.
    let apart = [rows(folder, "hard", &hard), both_from(folder, &both, 5)];
    for (objective, _) in objectives() {
        let mut train = train(objective, 1);
        train.scorers = Scorers::new(by_kind(0).into(), [], Vec::new());
        let route = SourceTeachers::new(&train, DomainId(0), &both.dataset).unwrap();
        assert_eq!(route.shares(10), [0.5, 0.5]);
        let plain = fixture.stage(&train, ROUTED, &models);
        let one = Stage { sources: vec![source(&fixture, "both", &both, route)].into(), ..plain };
        let alone = |model: u32| {
            SourceTeachers::all(&named(format!("teacher{model}"), Teacher::Model(ModelId(model))))
        };
        let plain = fixture.stage(&train, ROUTED, &models);
        let sources = vec![
            source(&fixture, "hard", &apart[0], alone(2)),
            source(&fixture, "easy", &apart[1], alone(1)),
        ]
        .into();
        let two = Stage { sources, ..plain };
        let examples = |stage: &Stage| -> Vec<Sequence> {
            let mut list = super::super::batches::all_examples(stage.texts(), "answer").unwrap().concat();
            list.sort_by_key(|sequence| stage.sources.section_of(sequence));
            list
        };
        let texts = |list: &[Sequence], stage: &Stage| -> Vec<(Vec<Token>, Vec<Token>)> {
            list.iter()
                .map(|sequence| (sequence.prompt(&stage.sources).to_vec(), sequence.completion.to_vec()))
                .collect()
        };
        let (of_one, of_two) = (examples(&one), examples(&two));
        assert_eq!(texts(&of_one, &one), texts(&of_two, &two));
        assert_eq!(evaluated(&one, of_one), evaluated(&two, of_two), "{}", train.objective.name);
    }
}

/// The rows of a file from `first` on, as a file of their own.
fn both_from(folder: &Path, both: &Prompts, first: usize) -> Prompts {
    let lines = std::fs::read_to_string(&both.dataset.path).unwrap();
    let path = folder.join("rest.jsonl");
    std::fs::write(&path, lines.lines().skip(first).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    load(&path)
}

/// Two domains whose rows alternate between two teachers, so that each teacher has rows of both.
struct Mixed {
    fixture: Fixture,
    prompts: [Prompts; 2],
    train: Train<Objective>,
}

impl Mixed {
    fn new(train: Train<Objective>) -> Mixed {
        let fixture = Fixture::new();
        let kinds = |hard: fn(usize) -> bool| {
            (0..8).map(|row| if hard(row) { "hard" } else { "easy" }).collect::<Vec<_>>()
        };
        let prompts = [
            rows(fixture.folder.path(), "one", &kinds(|row| row % 2 == 1)),
            rows(fixture.folder.path(), "two", &kinds(|row| row % 3 == 0)),
        ];
        let routed = by_kind(0).into_iter().chain(by_kind(1)).collect();
        Mixed { fixture, prompts, train: Train { scorers: Scorers::new(routed, [], Vec::new()), ..train } }
    }

    fn stage(&self, models: &[Arc<Weights>]) -> Stage<'_> {
        let source = |index: usize| {
            let route =
                SourceTeachers::new(&self.train, DomainId(index as u32), &self.prompts[index].dataset)
                    .unwrap();
            source(&self.fixture, ["one", "two"][index], &self.prompts[index], route)
        };
        Stage {
            sources: vec![source(0), source(1)].into(),
            ..self.fixture.stage(&self.train, ROUTED, models)
        }
    }
}

/// Each sequence is scored by its own teacher, in micro-batches too.
#[test]
fn the_data_of_a_prompt_chooses_its_teacher() {
    let models = models(true);
    for (objective, terms) in objectives() {
        let name = objective.name.clone();
        let mut train = train(objective, 1);
        train.rollout = Rollout::new(11, Producer::data("answer"));
        let mixed = Mixed::new(train);
        let mut stage = mixed.stage(&models);
        let (_, _, rollouts) = first_step(&stage);
        let list = &rollouts.sequences.list;
        assert!(list.is_sorted_by_key(|sequence| stage.sources.section_of(sequence)));
        let met: Vec<usize> = (0..4)
            .filter(|section| list.iter().any(|sequence| stage.sources.section_of(sequence) == *section))
            .collect();
        assert_eq!(met, [0, 1, 2, 3]);
        let student = Reference::new(&models[0]);
        let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
        let losses: Vec<Tensor> = list
            .iter()
            .map(|sequence| {
                let prompt = sequence.prompt(&stage.sources);
                let text = stage.sources[sequence.source].prompts.dataset.prompt(sequence.record);
                let teacher = teachers[usize::from(text.starts_with("hard"))]
                    .logps(prompt, &sequence.completion)
                    .detach();
                let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
                terms(&student.logps(prompt, &sequence.completion), &teacher, &taken).mean(Kind::Double)
            })
            .collect();
        let loss = Tensor::stack(&losses, 0).mean(Kind::Double);
        let gradient = student.gradient(&loss);
        let loss = loss.double_value(&[]);
        for micro_batch in [None, Some(1), Some(2), Some(3), Some(100)] {
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

/// Teachers that are freed after every use give the same bits; so does a stage that is resumed from a
/// checkpoint.
#[test]
fn a_routed_stage_is_the_same_however_teachers_are_reached() {
    let models = models(true);
    let mixed = Mixed::new(train(direct(Support::Full, Mass::Raw), 2));
    let stage = mixed.stage(&models);
    let (expected, _) = trained_to_the_end(&stage);
    let mut trainer = Trainer::new(&stage).unwrap();
    trainer.models = Models::one_at_a_time(&stage);
    for step in 0..stage.steps {
        if step == 3 {
            // The state is that between two passes over one batch.
            let state = trainer.state(step, 0.0, Record::default());
            trainer = Trainer::new(&stage).unwrap();
            trainer.restore(&state, RestoreMode::Resume).unwrap();
        }
        trainer.step(step, &mut Record::default()).unwrap();
    }
    assert_eq!(to_vec(trainer.student.model.flat()), expected);
}

/// Each teacher of a domain has a row with the metrics of its own tokens; together they are the whole step.
#[test]
fn diagnostics_are_of_the_teacher_that_judged() {
    let models = models(true);
    let mut train = train(mopd(1.0), 1);
    train.rollout = Rollout::new(16, Producer::data("answer"));
    let mixed = Mixed::new(train);
    let stage = mixed.stage(&models);
    let (_, rows) = trained_to_the_end(&stage);
    let first: Vec<&StepMetrics> = rows.iter().filter(|row| row.step == 0).collect();
    let named: Vec<(&str, &str)> =
        first.iter().map(|row| (row.domain.as_str(), row.teacher.as_deref().unwrap())).collect();
    assert_eq!(named, [("one", "teacher2"), ("one", "teacher1"), ("two", "teacher2"), ("two", "teacher1")]);
    let (_, _, rollouts) = first_step(&stage);
    let student = Reference::new(&models[0]);
    let teachers = [Reference::new(&models[1]), Reference::new(&models[2])];
    let all_tokens: usize = rollouts.sequences.list.iter().map(|sequence| sequence.completion.len()).sum();
    for (section, row) in first.iter().enumerate() {
        let own =
            rollouts.sequences.list.iter().filter(|sequence| stage.sources.section_of(sequence) == section);
        let (mut apart, mut tokens) = (0.0, 0);
        for sequence in own {
            let teacher = &teachers[usize::from(row.teacher.as_deref() == Some("teacher2"))];
            let taken = Tensor::from_slice(&sequence.completion).unsqueeze(1);
            let logp = |of: &Reference| {
                of.logps(sequence.prompt(&stage.sources), &sequence.completion)
                    .gather(1, &taken, false)
                    .sum(Kind::Double)
            };
            apart += (logp(&student) - logp(teacher)).double_value(&[]);
            tokens += sequence.completion.len();
        }
        assert!((row.divergence.unwrap() - apart / tokens as f64).abs() < 1e-5, "{row:?}");
        assert_eq!(row.token_share, tokens as f64 / all_tokens as f64);
    }
    let sum = |share: fn(&StepMetrics) -> f64| first.iter().map(|row| share(row)).sum::<f64>();
    assert!((sum(|row| row.prompt_share) - 1.0).abs() < 1e-12);
    assert!((sum(|row| row.signal_share.unwrap()) - 1.0).abs() < 1e-6);
}

/// Each prompt is completed by its own teacher, with random numbers that do not depend on the teacher.
#[test]
fn routed_teachers_write_what_they_write_alone() {
    let models = models(true);
    let mut settings = train(mopd(1.0), 1);
    settings.rollout = Rollout::new(4, Producer::teacher_once(31, Keep::All, Sampling::new(2, 1.0, 6)));
    let mixed = Mixed::new(settings.clone());
    let written = |stage: &Stage| {
        let found = RefCell::new(Vec::new());
        let keep = |written: &RolloutsBySource| {
            found.replace(written.concat());
            Ok(())
        };
        let cache = RolloutCache { find: &|| Ok(None), keep: &keep };
        Batches::new(stage, &Models::new(stage).unwrap(), Some(&cache)).unwrap();
        found.into_inner()
    };
    let routed = mixed.stage(&models);
    let got = written(&routed);
    assert_eq!(got.len(), 31);
    let alone = [1, 2].map(|model| {
        let mut stage = mixed.stage(&models);
        stage.sources.iter_mut().for_each(|source| {
            source.route = SourceTeachers::all(&named("alone".to_owned(), Teacher::Model(ModelId(model))))
        });
        written(&stage)
    });
    let by_prompt = |list: &[Sequence], source: usize, record: usize| -> Vec<Vec<Token>> {
        let own = list.iter().filter(|sequence| (sequence.source, sequence.record) == (source, record));
        own.map(|sequence| sequence.completion.to_vec()).collect()
    };
    let mut compared = 0;
    for sequence in &got {
        let (source, record) = (sequence.source, sequence.record);
        let hard = routed.sources[source].prompts.dataset.prompt(record).starts_with("hard");
        let (own, expected) =
            (by_prompt(&got, source, record), by_prompt(&alone[usize::from(hard)], source, record));
        // One prompt may lack its last sample, because of the total number of rollouts.
        if own.len() == expected.len() {
            assert_eq!(own, expected);
            compared += 1;
        }
    }
    assert!(compared >= 28, "{compared}");
}

/// Both sides of a pair complete the same prompt, whoever writes them.
#[test]
fn pairs_stay_together_under_a_route() {
    let models = models(true);
    let mut settings = train(mopd(1.0), 1);
    let sampling = || Sampling::new(1, 1.0, 6);
    let teacher = Producer::teacher(sampling());
    settings.rollout = Rollout::new(12, Producer::pairs(teacher, Producer::student(sampling())));
    let mixed = Mixed::new(settings);
    let stage = mixed.stage(&models);
    let mut trainer = Trainer::new(&stage).unwrap();
    let list = trainer.rollouts_of(0).unwrap().remove(0).sequences.list;
    assert_eq!(list.len(), 24);
    for pair in list.chunks(2) {
        assert_eq!((pair[0].source, pair[0].record), (pair[1].source, pair[1].record));
        assert!(pair.iter().map(|side| side.extra::<ChosenSide>().unwrap().0).eq([true, false]));
        // The teacher's recorded log-probabilities equal the reference's.
        let model_ref = trainer.models.model(Role::TEACHER, stage.sources.section_of(&pair[0])).unwrap();
        let hard = stage.sources[pair[0].source].prompts.dataset.prompt(pair[0].record).starts_with("hard");
        assert_eq!(model_ref, ModelRef::Frozen(if hard { 2 } else { 1 }));
        let wrote = Reference::new(&models[if hard { 2 } else { 1 }]);
        let taken = Tensor::from_slice(&pair[0].completion).unsqueeze(1);
        let logps = wrote
            .logps(pair[0].prompt(&stage.sources), &pair[0].completion)
            .gather(1, &taken, false)
            .squeeze_dim(1);
        let logps: Vec<f64> = Vec::try_from(&logps.detach()).unwrap();
        let apart =
            logps.iter().zip(pair[0].completion.logps().unwrap()).map(|(a, b)| (a - f64::from(b)).abs());
        assert!(apart.fold(0.0, f64::max) < 1e-4);
    }
}
