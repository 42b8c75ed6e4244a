//! Constructs that this version can't execute, which are refused by name at their place, and constructs that
//! graphs do not have but that are executed nevertheless.

use std::rc::Rc;

use mopd_experiment::EnvironmentProgram;
use mopd_experiment::formula::{Side, SideProbability, Summand, SummandProperties, WeightedRole, detached};
use mopd_expr::summand::Kernel;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::producers::Writer;

use super::objectives::{assert_values, dpo, lowered, per_token};
use super::*;

/// The refusals of the experiment after a change, as messages.
fn refusals(change: impl FnOnce(&mut Experiment)) -> Vec<String> {
    let mut experiment = experiment();
    change(&mut experiment);
    found(&experiment).into_iter().map(|diagnostic| diagnostic.message).collect()
}

fn found(experiment: &Experiment) -> Vec<Diagnostic> {
    let (sources, origins) = sources();
    let found =
        super::super::compile(experiment, &origins, &sources, true).expect_err("it can't be executed");
    assert!(found.iter().all(|diagnostic| diagnostic.code == Code::NotSupported), "{found:?}");
    found
}

/// The student's stage.
fn distilled(experiment: &mut Experiment) -> &mut Train {
    match &mut experiment.models[4].stage {
        Stage::Train(train) => train,
        _ => panic!("the student is trained"),
    }
}

fn supported(construct: &str) -> Vec<String> {
    vec![format!("{construct} is not supported yet")]
}

/// The only refusal of a term that is `value` times `live student.logp`.
#[track_caller]
fn assert_refused(value: Formula, construct: &str) {
    let term = apply(Function::Multiply, [&value, &live(Live::Part(ModelSignal::Logp))]);
    let refused = refusals(|experiment| distilled(experiment).objective = objective(term, sequence_mean()));
    assert_eq!(refused, supported(construct));
}

#[track_caller]
fn assert_live_refused(primitive: Live, construct: &str) {
    let refused =
        refusals(|experiment| distilled(experiment).objective = objective(live(primitive), sequence_mean()));
    assert_eq!(refused, supported(construct));
}

fn entropy() -> Formula {
    signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy })
}

#[test]
fn a_refusal_points_at_the_construct() {
    let mut experiment = experiment();
    let term =
        apply(Function::Multiply, [&signal(PlainSignal::Masked), &live(Live::Part(ModelSignal::Logp))]);
    distilled(&mut experiment).objective = objective(term, sequence_mean());
    let found = found(&experiment);
    let (sources, _) = sources();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].message, "the signal `masked` is not supported yet");
    assert_eq!(sources.text(found[0].primary.span), "formula");
}

#[test]
fn refuses_unsupported_formulas() {
    let mean = reduce(Reduction::Mean, &entropy(), Axis::Batch);
    let ladder = Adaptive::Ladder {
        values: vec![1.0, 2.0],
        advance_if: apply(Function::Less, [&mean, &number(1.0)]),
        every: 1,
    };
    assert_refused(formula(FormulaKind::Adaptive(ladder), Axis::Run, false), "a `ladder` in this place");
    let learned = Adaptive::Learned { gain: number(1.0), hold: 10, discount: 1.0, lr: 0.1 };
    assert_refused(formula(FormulaKind::Adaptive(learned), Axis::Run, false), "a learned schedule");
    assert_refused(
        reduce(Reduction::Mean, &entropy(), Axis::Block),
        "one number per block without a `chunks` that defines the blocks",
    );
    let unset = FormulaKind::Variable("beta".into());
    assert_refused(formula(unset, Axis::Run, false), "`beta` without a value");
}

fn mean_of(of: &Formula) -> Formula {
    reduce(Reduction::Mean, of, Axis::Sequence)
}

#[test]
fn refuses_unsupported_signals_and_roles() {
    for (of, name) in [
        (Signal::Of { role: Role::Teacher, part: ModelSignal::Confidence }, "teacher.confidence"),
        (Signal::Plain(PlainSignal::Masked), "masked"),
    ] {
        assert_refused(signal(of), &format!("the signal `{name}`"));
    }
}

#[test]
fn refuses_unsupported_divergences_and_losses() {
    let of = |kind, support| Live::Divergence(divergence(kind, support));
    assert_live_refused(
        of(DivergenceKind::Gaussian { dimensions: None }, Support::Full),
        "the divergence `gaussian_kl`",
    );
    let blend = |share: Formula| {
        let mut blended = divergence(DivergenceKind::Kl, Support::Full);
        let rest = apply(Function::Subtract, [&number(1.0), &share]);
        blended.left = Distribution::Blend(vec![
            WeightedRole { weight: share, role: Role::Teacher },
            WeightedRole { weight: rest, role: Role::Student },
        ]);
        blended
    };
    let among = "`softmax` inside a divergence";
    assert_live_refused(
        Live::Divergence(blend(statistic(Statistic::Softmax, &entropy(), Axis::Batch))),
        among,
    );
    let inner = blend(signal(Signal::Divergence(blend(entropy()))));
    assert_live_refused(Live::Divergence(inner), "a divergence with its own formulas inside a divergence");
    let [p, _] = entries();
    let own = summand(apply(Function::Multiply, [&p, &entropy()]));
    let beside = "a signal in the divergence `my` that is no parameter of it";
    assert_live_refused(of(own, Support::Full), beside);
    assert_live_refused(Live::Ranking { order: Support::Full }, "`live ranking` of anything but `top_k`");
    assert_live_refused(Live::Part(ModelSignal::Mean), "`live student.mean`");
    assert_live_refused(
        Live::BinaryCrossEntropy { part: ModelSignal::Mean, target: number(1.0) },
        "`live bce`",
    );
    assert_live_refused(
        Live::SquaredError { part: ModelSignal::Mean, target: number(1.0), dimensions: None },
        "`live mse`",
    );
}

/// A ladder may depend on the loss of a term, unless the term is not trained.
#[test]
fn losses_of_terms_that_are_not_trained() {
    let refused = refusals(|experiment| {
        let value = apply(Function::Multiply, [&number(0.0), &live(Live::Part(ModelSignal::Logp))]);
        let own = Rollout::new(RolloutSource::Data { field: "answer".into() }, HERE);
        let objective = &mut distilled(experiment).objective;
        objective.weight = Some(signal(Signal::TermLoss { term: "off".into() }));
        objective.terms.push(Term { data: Some(Rc::new(own)), ..term("off", value) });
    });
    assert_eq!(refused, supported("the signal `loss.off` in a stage that does not train this term"));
}

/// Without a teacher there is no vocabulary to compare with.
#[test]
fn matched_entries_without_a_teacher() {
    for support in [Support::Matched, Support::Union(vec![Support::Sampled, Support::Unmatched])] {
        let size = signal(Signal::SupportSize { support });
        let term = apply(Function::Multiply, [&size, &live(Live::Part(ModelSignal::Logp))]);
        let refused = refusals(|experiment| {
            let train = distilled(experiment);
            train.teachers.clear();
            train.objective = objective(term, sequence_mean());
        });
        assert_eq!(refused, supported("`matched` or `unmatched` where no teacher is routed"));
    }
}

/// Whole spans are known only for the student and the teacher. First tokens have distributions of any role,
/// and beside the teacher's vocabulary without its distribution there is no span.
#[test]
fn whole_spans_of_others_than_the_student() {
    let kl = |[left, right]: [Role; 2], mass| {
        let (left, right) = (Distribution::Role(left), Distribution::Role(right));
        let (kind, support) = (DivergenceKind::Kl, Support::Matched);
        Divergence { kind, left, right, support, mass, temperature: 1.0.into(), clip_each: None }
    };
    let of = |value: Divergence, live_one: Divergence| {
        let value = signal(Signal::Divergence(value));
        let mut experiment = experiment();
        for teacher in &mut experiment.teachers {
            teacher.align = Alignment::Tokens;
        }
        let term = apply(Function::Multiply, [&value, &live(Live::Divergence(live_one))]);
        let train = distilled(&mut experiment);
        train.reference = vec![(DomainId(0), ModelId(1)), (DomainId(1), ModelId(1))];
        train.objective = objective(term, sequence_mean());
        experiment
    };
    let student = || kl([Role::Student, Role::Teacher], Mass::Raw);
    for (sides, beside) in
        [([Role::Sampler, Role::Teacher], "sampler"), ([Role::Teacher, Role::Reference], "reference")]
    {
        let refused = refusals_of(&of(kl(sides.clone(), Mass::Raw), student()));
        let between = "the teacher `specialist[add]`, which has another tokenizer,";
        assert_eq!(refused, supported(&format!("`mass: raw` between `{beside}` and {between}")));
        compiled(&of(kl(sides, Mass::Tail), student()));
    }
    compiled(&of(kl([Role::Student, Role::Reference], Mass::Raw), student()));
}

/// Constants are folded in double precision, objectives computed in single precision.
#[test]
fn numbers_beyond_single_precision() {
    let refused = |factor: f64| {
        let mut experiment = experiment();
        distilled(&mut experiment).objective.weight = Some(number(factor));
        refusals_of(&experiment)
    };
    assert_eq!(refused(1e-76), ["the number 1e-76 is 0 in single precision"]);
    assert_eq!(refused(-1e60), ["the number -1e60 is infinite in single precision"]);
    for factor in [0.0, 1e-40, 3e38] {
        let mut experiment = experiment();
        distilled(&mut experiment).objective.weight = Some(number(factor));
        let (sources, origins) = sources();
        let said = super::super::compile(&experiment, &origins, &sources, true).err().unwrap_or_default();
        assert!(said.iter().all(|said| !said.message.contains("single precision")), "{factor}: {said:?}");
    }
}

#[test]
fn the_ways_to_one_number() {
    let balance = Balance { target: None, follow_gap: 1.0, clamp: None, observe: false, origin: Origin(1) };
    let largest = ReduceStep { operation: Reduction::Maximum, ..step(Axis::Token, Axis::Batch) };
    let refused = refusals(|experiment| {
        distilled(experiment).objective.reduce =
            Some(Reduce { balance: Some(balance), ..by_steps(vec![largest]) });
    });
    assert_eq!(refused, supported("`by domain` of a `max`"));
}

/// Settings that need a step's completions to be a single set.
#[test]
fn beside_terms_with_completions_of_their_own() {
    let source = RolloutSource::Data { field: "answer".into() };
    let data = || Some(Rc::new(Rollout::new(source.clone(), HERE)));
    let refused = |change: &dyn Fn(&mut Train)| {
        refusals(|experiment| {
            let train = distilled(experiment);
            train
                .objective
                .terms
                .push(Term { data: data(), ..term("own", live(Live::Part(ModelSignal::Logp))) });
            change(train);
        })
    };
    let mean = reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Group);
    let filter = apply(Function::Less, [&mean, &number(1.0)]);
    assert_eq!(
        refused(&|train| train.filter = Some(filter.clone())),
        supported("a `filter` together with a term with its own completions")
    );
}

#[test]
fn refuses_unsupported_teachers() {
    let refused = |change: &dyn Fn(&mut Teacher)| refusals(|experiment| change(&mut experiment.teachers[0]));
    let one_by_one = "reading the teacher `specialist[add]`, which has another tokenizer, token by token";
    assert_eq!(refused(&|teacher| teacher.align = Alignment::Tokens), supported(one_by_one));
    let heated = |teacher: &mut Teacher| (teacher.align, teacher.temperature) = (Alignment::Tokens, 2.0);
    let composed = "a teacher with `align = tokens` that is composed of other teachers or has its own \
        temperature";
    assert_eq!(refused(&heated), supported(composed));
    let trained = TeacherWeights::Trained { member: "guide".into() };
    assert_eq!(
        refused(&|teacher| teacher.weights = trained.clone()),
        supported("a teacher that is trained in another stage")
    );
    let served = |answers: Capability| {
        move |teacher: &mut Teacher| {
            let (engine, url, model) = ("vllm".into(), Secret::Text("http://x".into()), "m".into());
            teacher.weights = TeacherWeights::Served { engine, url, model, key: None };
            teacher.answers = answers;
        }
    };
    let writes = "a teacher on a server that only writes (`answers: text`)";
    assert_eq!(refused(&served(Capability::Text)), supported(writes));
    let by_text = |teacher: &mut Teacher| {
        served(Capability::Distribution)(teacher);
        teacher.align = Alignment::Tokens;
    };
    assert_eq!(refused(&by_text), supported("a teacher on a server (`served`) with `align = tokens`"));
    let when = |experiment: &mut Experiment| {
        distilled(experiment).teachers[0].when = Some(signal(PlainSignal::Correct));
    };
    assert_eq!(refusals(when), supported("a route by anything but the data of a prompt"));
    let mut endless = experiment();
    let level = signal(Signal::Data { field: "level".into() });
    distilled(&mut endless).teachers[0].when =
        Some(apply(Function::Greater, [&level, &number(f64::INFINITY)]));
    let (sources, origins) = sources();
    let said = super::super::compile(&endless, &origins, &sources, true).expect_err("JSON has no infinity");
    let said: Vec<(Code, &str)> =
        said.iter().map(|diagnostic| (diagnostic.code, diagnostic.message.as_str())).collect();
    assert_eq!(
        said,
        [(Code::OutOfRange, "a number that data is compared with is inf, which is not a finite number")]
    );
    // A teacher that no stage uses is not refused.
    let mut unused = experiment();
    unused.teachers.push(teacher("later", TeacherWeights::Student(SelfCopy::Current)));
    compiled(&unused);
}

#[test]
fn refuses_unsupported_rollouts() {
    fn rollout(change: impl FnOnce(&mut Train)) -> Vec<String> {
        refusals(|experiment| change(distilled(experiment)))
    }
    let of = || Rc::new(Rollout::new(student(4, 1).0, HERE));
    let denoise = || RolloutSource::Denoise { steps: 4, block: 4, of: of() };
    assert_eq!(rollout(|train| train.rollout.source = denoise()), supported("the rollout `denoise`"));
    let sampled = |change: &dyn Fn(&mut Sampling)| {
        rollout(|train| {
            let RolloutSource::Sample(sampling) = &mut train.rollout.source else {
                panic!("the student samples")
            };
            change(sampling);
        })
    };
    let longer = || apply(Function::Add, [&signal(PlainSignal::Step), &number(8.0)]);
    assert_eq!(
        sampled(&|sampling| sampling.max_tokens = longer()),
        supported("a `max_tokens` that is computed from others")
    );
    // All faults of a rollout are reported at once.
    let retry = || Edit::Retry { until: signal(PlainSignal::Correct), at_most: 8 };
    let edits = vec![Edit::FirstTurns { turns: number(1.0) }, retry()];
    let all = rollout(|train| {
        train.rollout.edits = edits;
        train.rollout.source = denoise();
    });
    assert_eq!(
        all,
        [
            "the edit `first_turns` of a rollout is not supported yet",
            "the rollout `denoise` is not supported yet",
        ]
    );
    let teachers = |sequences| {
        let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
        RolloutSource::From { teacher: Role::Teacher, sees: None, sequences, sampling }
    };
    let answers = || RolloutSource::Data { field: "answer".into() };
    assert_eq!(
        rollout(|train| (train.rollout.source, train.keep) = (answers(), Keep::Correct)),
        supported("`keep = correct` of completions that are not all sampled anew at every step")
    );
    assert_eq!(
        rollout(|train| train.rollout.source = teachers(Some(64))),
        supported("a batch of a teacher's rollouts that is counted in prompts")
    );
    let growing = || schedule(Schedule::Linear { from: 8.0, to: 16.0, over: ScheduleLength::Run });
    let made_once = || {
        let RolloutSource::From { teacher, sees, sequences, mut sampling } = teachers(Some(64)) else {
            panic!("a teacher writes")
        };
        sampling.max_tokens = growing();
        RolloutSource::From { teacher, sees, sequences, sampling }
    };
    assert_eq!(
        rollout(|train| train.rollout.source = made_once()),
        supported("sampling a fixed set of rollouts with a `max_tokens` that changes during the run")
    );
    let cooling = || schedule(Schedule::Linear { from: 1.0, to: 0.5, over: ScheduleLength::Run });
    let cooled = |source: RolloutSource| match source {
        RolloutSource::From { teacher, sees, sequences, sampling } => {
            let sampling = Sampling { temperature: cooling(), ..sampling };
            RolloutSource::From { teacher, sees, sequences, sampling }
        }
        RolloutSource::Sample(sampling) => {
            RolloutSource::Sample(Sampling { temperature: cooling(), ..sampling })
        }
        _ => panic!("it is sampled"),
    };
    let snapshot = RolloutSource::Snapshot {
        model: ModelId(1),
        of: Rc::new(Rollout::new(cooled(student(4, 1).0), HERE)),
    };
    for made_once in [cooled(teachers(Some(64))), snapshot] {
        assert_eq!(
            rollout(|train| train.rollout.source = made_once),
            supported("sampling a fixed set of rollouts with a `temperature` that changes during the run")
        );
    }
    let data = Rollout::new(RolloutSource::Data { field: "answer".into() }, HERE);
    let earlier = RolloutSource::Snapshot { model: ModelId(1), of: Rc::new(data) };
    assert_eq!(
        rollout(|train| train.rollout.source = earlier),
        supported("`snapshot` of the rollout `data`")
    );
    // Teachers' completions that are fresh in each step, counted in prompts, run.
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = teachers(None);
    compiled(&sound);
}

/// Teachers that affect each token that the student samples.
#[test]
fn refuses_unsupported_guides() {
    let of = |source| Rc::new(Rollout::new(source, HERE));
    let said = |source| refusals(|experiment| distilled(experiment).rollout.source = source);
    let mix = |alpha: &Formula, of| RolloutSource::TokenMix { alpha: alpha.clone(), of };
    let inside = mix(&number(0.2), of(student(4, 2).0));
    assert_eq!(
        said(RolloutSource::Interleave { top_k: 25, of: of(inside.clone()) }),
        supported("`interleave` of the rollout `token_mix`")
    );
    let mut edited = (*of(student(4, 2).0)).clone();
    edited.edits = vec![Edit::Keep { condition: signal(PlainSignal::Correct) }];
    assert_eq!(said(mix(&number(0.2), Rc::new(edited))), supported("the edit `keep` of a rollout"));
    let computed = apply(Function::Multiply, [&signal(PlainSignal::Progress), &number(0.2)]);
    assert_eq!(
        said(mix(&computed, of(student(4, 2).0))),
        supported("an `alpha` of a `token_mix` that is computed from others")
    );
    // A mixture's token is drawn from two models: only its log-probability is recorded.
    let mut other = divergence(DivergenceKind::Kl, Support::Full);
    other.right = Distribution::Role(Role::Sampler);
    let far = objective(live(Live::Divergence(other)), token_mean());
    let compared = |source| {
        refusals(|experiment| {
            let train = distilled(experiment);
            (train.rollout.source, train.objective) = (source, far.clone());
        })
    };
    let construct = "reading the whole distribution of the sampler here (two models drew each token)";
    assert_eq!(compared(inside.clone()), supported(construct));
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = inside;
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let writers: Vec<Writer> = train.rollout.producer.drawn().iter().map(|drawn| drawn.0).collect();
    assert_eq!(writers, [Writer::Guide(plan::Role::TEACHER), Writer::Student]);
}

/// A teacher refines the draft that it is shown, and without a draft no template may show one.
#[test]
fn refuses_unsupported_refinements() {
    let template = |name: &str, slots: &[Slot]| {
        let pieces = slots.iter().cloned().map(TemplatePiece::Slot).collect();
        Rc::new(Template { name: name.into(), pieces, origin: HERE })
    };
    let shown = || template("shown", &[Slot::Prompt, Slot::Draft]);
    let of = |source| Rc::new(Rollout::new(source, HERE));
    let refine = |sees, inside| RolloutSource::Refine { by: Role::Teacher, sees, of: of(inside) };
    let said = |source| refusals(|experiment| distilled(experiment).rollout.source = source);
    let blind = supported("`refine` by a teacher whose template has no slot `{draft}`");
    assert_eq!(said(refine(None, student(4, 2).0)), blind);
    assert_eq!(said(refine(Some(template("plain", &[Slot::Prompt])), student(4, 2).0)), blind);
    let inside = RolloutSource::Interleave { top_k: 25, of: of(student(4, 2).0) };
    assert_eq!(said(refine(Some(shown()), inside)), supported("`refine` of the rollout `interleave`"));
    let undrafted = "the template `shown` with the slot `{draft}` for completions that have no draft";
    assert_eq!(refusals(|experiment| experiment.teachers[0].sees = Some(shown())), supported(undrafted));
    assert_eq!(
        refusals(|experiment| distilled(experiment).sees = Some(shown())),
        supported("the slot `{draft}` of the student's template `shown`")
    );
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = refine(Some(shown()), student(4, 2).0);
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let producer = &train.rollout.producer;
    let editor = Writer::Editor { editor: plan::Role::TEACHER, sees: true };
    let writers: Vec<Writer> = producer.drawn().iter().map(|drawn| drawn.0).collect();
    assert_eq!(
        (writers, producer.drafts(), producer.is_redrawn()),
        (vec![editor, Writer::Student], true, true)
    );
    // The teacher's own template serves as well.
    let mut own = experiment();
    own.teachers.iter_mut().for_each(|teacher| teacher.sees = Some(shown()));
    distilled(&mut own).rollout.source = refine(None, student(4, 2).0);
    compiled(&own);
}

/// A program edits a model's completions, of each step or before the first.
#[test]
fn refuses_unsupported_program_edits() {
    let through =
        || Edit::Through { command: "python3 edit.py".into(), time_limit_seconds: 60.0, depends: vec![] };
    let edited = |source: RolloutSource, edits: Vec<Edit>| {
        move |experiment: &mut Experiment| {
            let rollout = &mut distilled(experiment).rollout;
            (rollout.source, rollout.edits) = (source, edits);
        }
    };
    let data = || RolloutSource::Data { field: "answer".into() };
    assert_eq!(
        refusals(edited(data(), vec![through()])),
        supported("the edit `through` of the rollout `data`")
    );
    assert_eq!(
        refusals(edited(student(4, 1).0, vec![through(), through()])),
        supported("the edit `through` of a rollout twice")
    );
    let mut sound = experiment();
    edited(student(4, 2).0, vec![through()])(&mut sound);
    distilled(&mut sound).objective = objective(live(Live::Part(ModelSignal::Logp)), sequence_mean());
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    assert_eq!(train.rollout.producer.programs().len(), 1);
}

/// Completions of a step's prompts can be rewritten. The numbers in the text are of rewards, lengths and the
/// student.
#[test]
fn refuses_unsupported_rewrites() {
    let template = |pieces| Rc::new(Template { name: "rewrite".into(), pieces, origin: HERE });
    let rewrite = |to: TemplatePiece| Edit::Rewrite {
        from: template(vec![TemplatePiece::Text("sure: ".into()), TemplatePiece::Anything]),
        to: template(vec![TemplatePiece::Text("sure: ".into()), to]),
    };
    let correct = || reduce(Reduction::Mean, &signal(PlainSignal::Correct), Axis::Group);
    let edited = |source: RolloutSource, edit: Edit| {
        move |experiment: &mut Experiment| {
            let train = distilled(experiment);
            (train.rollout.source, train.rollout.edits) = (source, vec![edit]);
            train.objective = objective(live(Live::Part(ModelSignal::Logp)), sequence_mean());
        }
    };
    let number = |of: Formula| rewrite(TemplatePiece::Number(of));
    let data = RolloutSource::Data { field: "answer".into() };
    assert_eq!(
        refusals(edited(data, number(correct()))),
        supported("the edit `rewrite` of the rollout `data`")
    );
    assert_eq!(
        refusals(edited(
            student(4, 2).0,
            number(reduce(Reduction::Mean, &logp(Role::Teacher), Axis::Sequence))
        )),
        supported("a number of a `rewrite` that reads more than rewards, lengths and the student")
    );
    assert_eq!(
        refusals(edited(student(4, 2).0, rewrite(TemplatePiece::Slot(Slot::Group(GroupMember::Other))))),
        supported("the slot `{group}` in the text of a `rewrite`")
    );
    let mut sound = experiment();
    edited(student(4, 2).0, number(correct()))(&mut sound);
    compiled(&sound);
    // Teachers are shown numbers of rewards; writers are not.
    let shown = |of: Formula| {
        let pieces = vec![TemplatePiece::Slot(Slot::Prompt), TemplatePiece::Number(of)];
        Some(Rc::new(Template { name: "hint".into(), pieces, origin: HERE }))
    };
    let mut sound = experiment();
    sound.teachers[0].sees = shown(correct());
    distilled(&mut sound).rollout.source = student(4, 2).0;
    compiled(&sound);
    let told = refusals(|experiment| {
        let unsure = reduce(Reduction::Mean, &logp(Role::Student), Axis::Sequence);
        experiment.teachers[0].sees = shown(unsure);
        distilled(experiment).rollout.source = student(4, 2).0;
    });
    assert_eq!(told, supported("a number in the template `hint` that reads what the student says"));
    let told = refusals(|experiment| {
        let train = distilled(experiment);
        (train.sees, train.rollout.source) = (shown(correct()), student(4, 2).0);
    });
    assert_eq!(told, supported("a number in the template `hint` here"));
}

/// Each completion of a step can be attempted again.
#[test]
fn refuses_unsupported_retries() {
    let retry = |at_most| Edit::Retry { until: signal(PlainSignal::Correct), at_most };
    let edited = |source: RolloutSource, edits: Vec<Edit>| {
        move |experiment: &mut Experiment| {
            let train = distilled(experiment);
            (train.rollout.source, train.rollout.edits) = (source, edits);
        }
    };
    let data = || RolloutSource::Data { field: "answer".into() };
    let keep = || Edit::Keep { condition: signal(PlainSignal::Correct) };
    let of = |source, edits| refusals(edited(source, edits));
    assert_eq!(of(data(), vec![retry(2)]), supported("the edit `retry` of the rollout `data`"));
    assert_eq!(
        of(student(4, 2).0, vec![retry(256)]),
        supported("the edit `retry` with more than 255 attempts")
    );
    let behind = "the edit `retry` behind one that leaves completions out";
    assert_eq!(of(student(4, 2).0, vec![keep(), retry(2)]), supported(behind));
    assert_eq!(
        of(student(4, 2).0, vec![retry(2), retry(3)]),
        supported("the edit `retry` of a rollout twice")
    );
    let unsure = reduce(Reduction::Mean, &logp(Role::Teacher), Axis::Sequence);
    let judged = Edit::Retry { until: apply(Function::Less, [&unsure, &number(-2.0)]), at_most: 2 };
    let reads = "a `retry` that reads more than rewards, lengths and the student";
    assert_eq!(of(student(4, 2).0, vec![judged]), supported(reads));
    let mut sound = experiment();
    edited(student(4, 2).0, vec![retry(8), keep()])(&mut sound);
    compiled(&sound);
}

/// A replay buffer needs completions that are drawn in every step.
#[test]
fn refuses_unsupported_replays() {
    let of = |source| Rc::new(Rollout::new(source, HERE));
    let replay = |change: &dyn Fn(&mut RolloutSource)| {
        let mut source = RolloutSource::Replay(mopd_experiment::Replay {
            capacity: 100,
            share: number(0.5),
            keeps: ReplayContents::Rollouts,
            condition: None,
            order: None,
            of: of(student(4, 4).0),
        });
        change(&mut source);
        source
    };
    let said = |change: &dyn Fn(&mut RolloutSource)| {
        refusals(|experiment| distilled(experiment).rollout.source = replay(change))
    };
    let inside = |inside: &RolloutSource| {
        let inside = inside.clone();
        said(&move |source| {
            if let RolloutSource::Replay(mopd_experiment::Replay { of: place, .. }) = source {
                *place = of(inside.clone());
            }
        })
    };
    let same = "a `replay` of completions that are the same at every step";
    assert_eq!(inside(&RolloutSource::Data { field: "answer".into() }), supported(same));
    assert_eq!(
        inside(&RolloutSource::Denoise { steps: 4, block: 4, of: of(student(4, 1).0) }),
        supported("the rollout `denoise`")
    );
    let ordered = |formula: &Formula| {
        let formula = formula.clone();
        said(&move |source| {
            if let RolloutSource::Replay(mopd_experiment::Replay { order, .. }) = source {
                *order = Some(formula.clone());
            }
        })
    };
    assert_eq!(
        ordered(&reduce(Reduction::Mean, &entropy(), Axis::Group)),
        supported("the `order` of a `replay` that reads more than rewards and lengths")
    );
}

/// Each update has only the numbers of its mini-batch. Those of the student's distribution exist for no other
/// prompts, so they are compared within the mini-batch.
#[test]
fn refuses_comparisons_of_a_whole_batch_with_mini_batches() {
    let advantage = |value: &Formula, over: Axis| {
        let statistic = Statistic::Zscore { deviation: Deviation::Sample, epsilon: 1e-4 };
        let kind =
            FormulaKind::Statistic { statistic, operand: value.clone(), over, among: None, fraction: None };
        apply(Function::Multiply, [&formula(kind, value.0.axis, false), &live(Live::Part(ModelSignal::Logp))])
    };
    let with = |term: Formula, mini_batches: u32| {
        let mut experiment = experiment();
        let train = distilled(&mut experiment);
        (train.objective, train.options.mini_batches) = (objective(term, sequence_mean()), mini_batches);
        let (sources, origins) = sources();
        super::super::compile(&experiment, &origins, &sources, true)
            .map_err(|found| found.into_iter().map(|diagnostic| diagnostic.message).collect::<Vec<_>>())
    };
    let reward = signal(PlainSignal::Reward);
    let refused = supported("a comparison of the prompts of a whole batch with several `mini_batches`");
    assert_eq!(with(advantage(&reward, Axis::Batch), 2).unwrap_err(), refused);
    assert_eq!(with(advantage(&reward, Axis::Domain), 2).unwrap_err(), refused);
    let mean = reduce(Reduction::Mean, &reward, Axis::Batch);
    let centred = apply(Function::Subtract, [&reward, &mean]);
    let centred = apply(Function::Multiply, [&centred, &live(Live::Part(ModelSignal::Logp))]);
    assert_eq!(with(centred, 2).unwrap_err(), refused);
    for (term, mini_batches) in [
        (advantage(&reward, Axis::Batch), 1),
        (advantage(&reward, Axis::Group), 2),
        (advantage(&entropy(), Axis::Batch), 2),
    ] {
        assert!(with(term, mini_batches).is_ok());
    }
}

/// A length that the run changes: the condition is part of the objective's graph, and the largest value must
/// fit.
#[test]
fn refuses_unsupported_ladders() {
    let ladder = |advance_if: &Formula| {
        let values = vec![4.0, 16.0, 8.0];
        let ladder = Adaptive::Ladder { values, advance_if: advance_if.clone(), every: 3 };
        formula(FormulaKind::Adaptive(ladder), Axis::Run, false)
    };
    let with = |advance_if: &Formula| {
        let mut experiment = experiment();
        let train = distilled(&mut experiment);
        let RolloutSource::Sample(sampling) = &mut train.rollout.source else {
            panic!("the student samples")
        };
        sampling.max_tokens = ladder(advance_if);
        experiment
    };
    let masked = reduce(Reduction::Mean, &signal(PlainSignal::Masked), Axis::Batch);
    let unsure = apply(Function::Greater, [&reduce(Reduction::Mean, &entropy(), Axis::Batch), &number(0.4)]);
    assert_eq!(
        refusals(|experiment| *experiment = with(&apply(Function::Greater, [&masked, &number(1.0)]))),
        supported("the signal `masked`")
    );
    let plan = compiled(&with(&unsure));
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let [climbed] = train.objective.ladders.as_slice() else { panic!("{:?}", train.objective.ladders) };
    assert_eq!((climbed.every, climbed.values), (3, 3));
    assert!(train.objective.outputs().contains(&climbed.advance_if));
    assert!(train.objective.reads(plan::Role::Student));
    let sampling = train.rollout.producer.sampling().expect("it is drawn");
    assert_eq!((sampling.max_tokens, sampling.at(7, 8, &[0]).max_tokens), (16, 4));
    assert_eq!([1, 2].map(|rungs| sampling.at(0, 8, &[rungs]).max_tokens), [16, 8]);
}

/// A template in place of the prompt runs if a row of the data fills its slots.
#[test]
fn refuses_unsupported_templates() {
    fn shown(pieces: Vec<TemplatePiece>) -> Option<Rc<Template>> {
        Some(Rc::new(Template { name: "hint".into(), pieces, origin: HERE }))
    }
    let refused = |piece: TemplatePiece| {
        refusals(|experiment| experiment.teachers[0].sees = shown(vec![piece.clone()]))
    };
    for (slot, name) in [(Slot::Transcript, "transcript"), (Slot::Completion, "completion")] {
        let construct = format!("the slot `{{{name}}}` of the template `hint`");
        assert_eq!(refused(TemplatePiece::Slot(slot)), supported(&construct));
    }
    let mean = TemplatePiece::Number(mean_of(&entropy()));
    assert_eq!(refused(mean), supported("a number in the template `hint` that reads what the student says"));
    let fading = |slot| TemplatePiece::First {
        slot,
        share: schedule(Schedule::Linear { from: 1.0, to: 0.0, over: ScheduleLength::Run }),
    };
    assert_eq!(
        refusals(|experiment| distilled(experiment).sees = shown(vec![fading(Slot::Prompt)])),
        supported("a template of the student that changes during the run")
    );
    let sampling = || {
        let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
        sampling
    };
    let seen = || shown(vec![TemplatePiece::Slot(Slot::Prompt)]);
    let from = |sees, sequences| RolloutSource::From {
        teacher: Role::Teacher,
        sees,
        sequences,
        sampling: sampling(),
    };
    let mix = || {
        let of = Rc::new(Rollout::new(student(4, 1).0, HERE));
        RolloutSource::TokenMix { alpha: number(0.2), of }
    };
    let guided = refusals(|experiment| {
        experiment.teachers[0].sees = seen();
        distilled(experiment).rollout.source = mix();
    });
    assert_eq!(
        guided,
        supported(
            "a teacher that takes part in sampling each token and reads another prompt than the \
            student"
        )
    );
    let once = refusals(|experiment| {
        let train = distilled(experiment);
        train.size = BatchSize::Sequences(4);
        train.rollout.source = from(shown(vec![fading(Slot::Prompt)]), Some(8));
    });
    assert_eq!(
        once,
        supported(
            "sampling a fixed set of rollouts with a template that changes during the \
        run"
        )
    );
    let undrafted = refusals(|experiment| {
        distilled(experiment).rollout.source = from(shown(vec![TemplatePiece::Slot(Slot::Draft)]), None);
    });
    assert_eq!(
        undrafted,
        supported("the template `hint` with the slot `{draft}` for completions that have no draft")
    );
    // Writers read a template of the rollout, or their own, or the plain prompt where the student sees a
    // template.
    let written = |change: &dyn Fn(&mut Experiment)| {
        let mut experiment = experiment();
        distilled(&mut experiment).rollout.source = from(None, None);
        change(&mut experiment);
        let plan = compiled(&experiment);
        plan.stages.iter().map(|stage| stage.key.clone()).collect::<Vec<_>>()
    };
    let plain = written(&|_| {});
    let behind = |name: &str| {
        let pieces = vec![TemplatePiece::Slot(Slot::Prompt), TemplatePiece::Text("?".into())];
        Some(Rc::new(Template { name: name.into(), pieces, origin: HERE }))
    };
    let of_rollout = |name: &str| {
        let name = name.to_owned();
        written(&move |experiment| distilled(experiment).rollout.source = from(behind(&name), None))
    };
    assert_ne!(plain, of_rollout("hint"));
    assert_eq!(of_rollout("hint"), of_rollout("other"), "a template's name changes no result");
    assert_ne!(plain, written(&|experiment| experiment.teachers[0].sees = seen()));
    assert_ne!(plain, written(&|experiment| distilled(experiment).sees = behind("hint")));
    // The text shown is in the key, the template's name is not.
    let keys = |template: Option<Rc<Template>>| {
        let mut experiment = experiment();
        experiment.teachers[0].sees = template;
        compiled(&experiment).stages.iter().map(|stage| stage.key.clone()).collect::<Vec<_>>()
    };
    let data = |field: &str| shown(vec![TemplatePiece::Slot(Slot::Data(field.into()))]);
    let named = |template: Option<Rc<Template>>, name: &str| {
        template.map(|known| Rc::new(Template { name: name.into(), ..Template::clone(&known) }))
    };
    assert_ne!(keys(None), keys(data("solution")));
    assert_ne!(keys(data("solution")), keys(data("hint")));
    assert_ne!(keys(data("hint")), keys(shown(vec![fading(Slot::Data("hint".into()))])));
    assert_eq!(keys(data("hint")), keys(named(data("hint"), "other")));
    // Teachers do not use the student's template, and read the plain prompt.
    let mut both = experiment();
    distilled(&mut both).sees = data("hint");
    let plan = compiled(&both);
    let train = plan.experiment.models.iter().find_map(|model| match &model.stage {
        plan::Stage::Train(train) if train.sees.is_some() => Some(train),
        _ => None,
    });
    let train = train.expect("one sees a template");
    assert!(train.scorers.routed().iter().all(|choice| choice.sees == Some(plan::View::of_prompt())));
    assert!(plan.stages.iter().zip(keys(None)).any(|(stage, known)| stage.key != known));
}

/// Slots about completions can be filled once completions are drawn and judged. A group may lack a member, so
/// an objective must test `available`.
#[test]
fn refuses_unsupported_templates_of_completions() {
    let shown = |slot: &Slot| {
        let pieces = vec![TemplatePiece::Slot(Slot::Prompt), TemplatePiece::Slot(slot.clone())];
        Some(Rc::new(Template { name: "hint".into(), pieces, origin: HERE }))
    };
    let what = |of: &str| format!("the template `hint`, which shows the outcome of a completion, for {of}");
    let member = Slot::Group(GroupMember::Correct);
    let from = |sees| {
        let RolloutSource::Sample(sampling) = student(4, 2).0 else { panic!("the student samples") };
        RolloutSource::From { teacher: Role::Teacher, sees, sequences: None, sampling }
    };
    let of_teacher = |slot: &Slot, source: RolloutSource| {
        let sees = shown(slot);
        refusals(move |experiment| {
            experiment.teachers[0].sees = sees;
            distilled(experiment).rollout.source = source;
        })
    };
    let data = || RolloutSource::Data { field: "answer".into() };
    assert_eq!(of_teacher(&Slot::Feedback, data()), supported(&what("completions of the data or for pairs")));
    assert_eq!(
        of_teacher(&Slot::Feedback, from(None)),
        supported(&what("the model that samples this completion"))
    );
    let written = refusals(|experiment| {
        distilled(experiment).rollout.source = from(shown(&Slot::Feedback));
    });
    assert_eq!(written, supported(&what("a teacher that samples completions")));
    let of_student = |slot: &Slot, source: RolloutSource| {
        let sees = shown(slot);
        move |experiment: &mut Experiment| {
            let train = distilled(experiment);
            (train.sees, train.rollout.source) = (sees, source);
        }
    };
    assert_eq!(
        refusals(of_student(&Slot::Feedback, student(4, 2).0)),
        supported(&what("the model that samples this completion"))
    );
    assert_eq!(
        refusals(of_student(&member, from(None))),
        supported("the slot `{group}` of the student's template `hint`")
    );
    let mut sound = experiment();
    of_student(&Slot::Feedback, from(None))(&mut sound);
    compiled(&sound);
    // A teacher whose template can't be filled for every completion.
    let asked = |value: Formula, experiment: &mut Experiment| {
        experiment.teachers[0].sees = shown(&member);
        distilled(experiment).rollout.source = student(4, 2).0;
        distilled(experiment).objective = objective(value, sequence_mean());
    };
    let read = || apply(Function::Multiply, [&logp(Role::Teacher), &live(Live::Part(ModelSignal::Logp))]);
    let name = "an objective that reads `teacher` without testing `available`, although a slot of the \
        template `hint` may be empty";
    assert_eq!(refusals(|experiment| asked(read(), experiment)), supported(name));
    let available = signal(Signal::Available { role: Role::Teacher });
    let guarded = apply(Function::Where, [&available, &read(), &number(0.0)]);
    let mut sound = experiment();
    asked(guarded, &mut sound);
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let signals = train.objective.graph.signals(&train.objective.outputs());
    assert!(signals.contains(&plan::Signal::Available { role: plan::Role::TEACHER }), "{signals:?}");
}

/// A `mix` runs where both sides draw groups of one size for the prompts of a step.
#[test]
fn refuses_unsupported_mixes() {
    let of = |source| Rc::new(Rollout::new(source, HERE));
    let sampled = |n| of(student(4, n).0);
    let from = |sequences| {
        let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
        of(RolloutSource::From { teacher: Role::Teacher, sees: None, sequences, sampling })
    };
    let data = || of(RolloutSource::Data { field: "answer".into() });
    let mix = |share, first, second| RolloutSource::Mix { share, first, second };
    let said = |source| refusals(|experiment| distilled(experiment).rollout.source = source);
    let half = || number(0.5);
    assert_eq!(said(mix(half(), sampled(2), data())), supported("a `mix` of groups of 2 and of 1 samples"));
    assert_eq!(
        said(mix(half(), sampled(1), from(Some(64)))),
        supported("a `mix` of rollouts that are made once")
    );
    let mut edited = (*sampled(1)).clone();
    edited.edits = vec![Edit::Retry { until: signal(PlainSignal::Correct), at_most: 8 }];
    assert_eq!(
        said(mix(half(), Rc::new(edited), data())),
        supported("the edit `retry` of a rollout inside `mix`")
    );
    let other = of(RolloutSource::Denoise { steps: 4, block: 4, of: sampled(1) });
    assert_eq!(said(mix(half(), sampled(1), other)), supported("the rollout `denoise`"));
    let computed = apply(Function::Multiply, [&signal(PlainSignal::Progress), &half()]);
    assert_eq!(
        said(mix(computed, sampled(1), data())),
        supported("a share of a `mix` that is computed from others")
    );
    let mut sound = experiment();
    let rising = schedule(Schedule::Linear { from: 0.0, to: 1.0, over: ScheduleLength::Run });
    let inside = of(mix(half(), from(None), sampled(1)));
    distilled(&mut sound).rollout.source = mix(rising, inside, data());
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    assert_eq!(train.rollout.producer.drawn().len(), 2);
    assert_eq!(train.rollout.producer.fields_of_data(), ["answer"]);
    assert!(train.rollout.producer.is_redrawn());
}

/// Choices depend on numbers known before a step; tiers have groups of one size.
#[test]
fn refuses_unsupported_choices() {
    let edited =
        |source, edits: &[Edit]| Rc::new(Rollout { edits: edits.to_vec(), ..Rollout::new(source, HERE) });
    let sampled = |n| student(4, n).0;
    let from = |sequences| {
        let RolloutSource::Sample(sampling) = sampled(1) else { panic!("the student samples") };
        RolloutSource::From { teacher: Role::Teacher, sees: None, sequences, sampling }
    };
    let said = |rollout: Rc<Rollout>| {
        refusals(|experiment| distilled(experiment).rollout = Rollout::clone(&rollout))
    };
    let keep = Edit::Keep { condition: signal(PlainSignal::Correct) };
    let taught = mean_of(&signal(Signal::Of { role: Role::Teacher, part: ModelSignal::Logp }));
    assert_eq!(
        said(edited(sampled(2), &[Edit::Best { by: taught, of: 1 }])),
        supported("a `best` that reads more than rewards, lengths and the student")
    );
    assert_eq!(
        said(edited(from(Some(64)), std::slice::from_ref(&keep))),
        ["the edit `keep` of rollouts that are made once is not supported yet",]
    );
    let first_of = |choices| edited(RolloutSource::FirstOf { choices }, &[]);
    let kept = |n| edited(sampled(n), std::slice::from_ref(&keep));
    assert_eq!(
        said(first_of(vec![kept(2), edited(from(None), &[])])),
        supported("a `first_of` of groups of 2 and of 1 samples")
    );
    assert_eq!(
        said(first_of(vec![kept(1), edited(from(Some(64)), &[])])),
        supported("a `first_of` of rollouts that are made once")
    );
    assert_eq!(
        said(first_of(vec![kept(1), first_of(vec![kept(1), kept(1)])])),
        supported("a `first_of` inside another")
    );
    // These run.
    let mut sound = experiment();
    let likeness = mean_of(&signal(Signal::Of { role: Role::Student, part: ModelSignal::Rank }));
    let best = edited(sampled(2), &[keep.clone(), Edit::Best { by: likeness, of: 1 }]);
    let answers = edited(RolloutSource::Data { field: "answer".into() }, &[]);
    distilled(&mut sound).rollout = Rollout::clone(&first_of(vec![best, answers]));
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    assert!(!train.rollout.may_drop() && train.rollout.group() == 1);
}

#[test]
fn refuses_unsupported_stages() {
    let stage = |change: &dyn Fn(&mut Train)| refusals(|experiment| change(distilled(experiment)));
    let mean = |of: &Formula| reduce(Reduction::Mean, of, Axis::Group);
    let uncertain = apply(Function::Greater, [&mean(&mean_of(&entropy())), &number(1.0)]);
    let reads_more = "a `filter` that reads more than rewards and lengths";
    assert_eq!(stage(&|train| train.filter = Some(uncertain.clone())), supported(reads_more));
    let solved = apply(Function::Less, [&mean(&signal(PlainSignal::Reward)), &number(1.0)]);
    let ready = Rollout::new(RolloutSource::Data { field: "answer".into() }, HERE);
    assert_eq!(
        stage(&|train| (train.filter, train.rollout) = (Some(solved.clone()), ready.clone())),
        supported("a `filter` of prompts whose completions are not all sampled anew at every step")
    );
    let adapter = Adapter {
        kind: AdapterKind::Lora,
        rank: 4,
        alpha: 8.0,
        dropout: 0.1,
        targets: Projection::ATTENTION.to_vec(),
        layers: None,
    };
    assert_eq!(
        stage(&|train| train.trainable = Trainable::Adapter(adapter.clone())),
        supported("an adapter with `dropout`")
    );
    let product = apply(Function::Multiply, [&signal(PlainSignal::Loss), &number(1e-3)]);
    assert_eq!(
        stage(&|train| train.learning_rate = product.clone()),
        supported("a learning rate that reads more than `step` and `progress`")
    );
    // The members of a family share one refusal.
    let family = refusals(|experiment| {
        for model in [2, 3] {
            let Stage::Train(train) = &mut experiment.models[model].stage else {
                panic!("experts are trained")
            };
            train.priority = Some(mean(&mean_of(&entropy())));
        }
    });
    assert_eq!(family, supported("a `priority` that reads more than rewards, lengths, data and states"));
}

#[test]
fn the_run_its_domains_and_its_tables() {
    let metrics = vec![Metric::PassAt(8), Metric::Entropy];
    assert_eq!(
        refusals(|experiment| experiment.comparisons[0].metrics = metrics),
        supported("the metric `entropy`")
    );
    let charged = |unit| Some(Budget { unit, teachers_charged: true });
    assert_eq!(
        refusals(|experiment| experiment.comparisons[0].budget = charged(BudgetUnit::Tokens)),
        supported("a comparison at equal `budget = tokens`")
    );
    // A cost known only in the run was not compared before it.
    let unknown = |unit, change: &dyn Fn(&mut Train)| {
        refusals(|experiment| {
            experiment.comparisons[0].budget = charged(unit);
            change(distilled(experiment));
        })
    };
    let said = |unit: &str| {
        supported(&format!(
            "a comparison at equal `budget = {unit}` where only the run shows how many `student` takes"
        ))
    };
    let epochs = |train: &mut Train| train.length = Length::Epochs(2);
    assert_eq!(unknown(BudgetUnit::Steps, &epochs), said("steps"));
    assert_eq!(unknown(BudgetUnit::Sequences, &epochs), said("sequences"));
    let kept = |train: &mut Train| train.keep = Keep::Correct;
    assert!(unknown(BudgetUnit::Sequences, &kept).contains(&said("sequences")[0]));
}

/// Pairs of completions of one prompt, and the possible sources of their sides.
#[test]
fn refuses_unsupported_pairs() {
    let pairs = |change: &dyn Fn(&mut Preference, &mut Train)| {
        refusals(|experiment| {
            let train = distilled(experiment);
            train.objective = dpo(0.1);
            let mut preference = preference(&train.objective);
            change(&mut preference, train);
            let live = FormulaKind::Live(Live::Preference(preference.into()));
            train.objective.terms[0].value = formula(live, Axis::Group, true);
        })
    };
    let rollout = |source| Rollout::new(source, HERE);
    let sampled = |n| rollout(student(4, n).0);
    let from = |sequences| {
        let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
        rollout(RolloutSource::From { teacher: Role::Teacher, sees: None, sequences, sampling })
    };
    assert_eq!(
        pairs(&|pair, _| pair.chosen = sampled(2)),
        supported("a pair that is chosen from several samples (`n` above 1)")
    );
    assert_eq!(
        pairs(&|pair, _| pair.chosen = from(Some(8))),
        supported("rollouts that are made once (`sequences`) as one side of a pair")
    );
    let best = |of| Edit::Best { by: signal(PlainSignal::Reward), of };
    let edited = |edit: Edit| pairs(&move |pair, _| pair.chosen.edits.push(edit.clone()));
    assert_eq!(edited(best(2)), supported("an edit (`best`) of one side of a pair"));
    let keep = Edit::Keep { condition: signal(PlainSignal::Correct) };
    assert_eq!(edited(keep), supported("an edit (`keep`) of one side of a pair"));
    let on_the_final_turn = |pair: &mut Preference, _: &mut Train| {
        (pair.kind, pair.on) = (PreferenceKind::BradleyTerry, Some(NamedSpan::FinalTurn));
    };
    assert_eq!(pairs(&on_the_final_turn), supported("a score on `span.final_turn`"));
    // These run: data, the student, the routed teacher or a named one, a model in its state before the run.
    let mut sound = experiment();
    let train = distilled(&mut sound);
    train.objective = dpo(0.1);
    let mut preference = preference(&train.objective);
    let snapshot = RolloutSource::Snapshot { model: ModelId(3), of: Rc::new(sampled(1)) };
    (preference.chosen, preference.rejected) = (from(None), rollout(snapshot));
    let live = FormulaKind::Live(Live::Preference(preference.into()));
    (train.objective.terms[0].value, train.recipe) = (formula(live, Axis::Group, true), Recipe::Dpo);
    train.reference = vec![(DomainId(0), ModelId(1)), (DomainId(1), ModelId(2))];
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let plan::Rollout { producer: plan::Producer::Pairs(pairs), groups: 64, .. } = &train.rollout else {
        panic!("{:?}", train.rollout)
    };
    let drawn: Vec<Writer> =
        plan::Producer::Pairs(pairs.clone()).drawn().iter().map(|drawn| drawn.0).collect();
    assert_eq!(drawn, [Writer::Scorer(plan::Role::TEACHER), Writer::Model(ModelId(3))]);
    assert_eq!(plan.experiment.models[4].stage.inputs(), [ModelId(1), ModelId(2), ModelId(3)]);
}

/// A score can be read only of a model whose scalar head some stage has trained.
#[test]
fn refuses_scores_without_a_scalar_head() {
    let asked = |role: Role, part: ModelSignal| {
        let read = signal(Signal::Of { role, part });
        let weighed = apply(Function::Multiply, [&read, &live(Live::Part(ModelSignal::Logp))]);
        refusals(|experiment| distilled(experiment).objective = super::objective(weighed, token_mean()))
    };
    let untrained = supported("a scalar head that nothing trains (`student.value`)");
    assert_eq!(asked(Role::Student, ModelSignal::Value), untrained);
    assert_eq!(asked(Role::Student, ModelSignal::Score), untrained);
    let of_teacher = asked(Role::Teacher, ModelSignal::Score);
    let [message] = of_teacher.as_slice() else { panic!("{of_teacher:?}") };
    assert!(
        message.starts_with("a score by `")
            && message.ends_with(", which has no scalar head, is not supported yet"),
        "{message}"
    );
    assert_eq!(asked(Role::Sampler, ModelSignal::Value), supported("the scalar head of the sampler"));

    let fit = || {
        let target = signal(PlainSignal::Reward);
        let fit = live(Live::SquaredError { part: ModelSignal::Value, target, dimensions: None });
        super::objective(fit, token_mean())
    };
    let mut sound = experiment();
    distilled(&mut sound).objective = fit();
    let heads = plan::scalar_heads(&compiled(&sound).experiment.models);
    assert_eq!(heads[4], Some(true), "the student is to learn one");
    assert_eq!(heads[0], Some(false), "{heads:?}");

    // Models are merged weight by weight, so all of them have a head or none.
    let Stage::Merge(merge) = &mut sound.models[5].stage else { panic!("it is merged") };
    merge.models.push(ModelId(4));
    let said = refusals_of(&sound);
    let [message] = said.as_slice() else { panic!("{said:?}") };
    let with = format!("`{}` has a scalar head and `", sound.models[4].name);
    assert!(message.starts_with(&with) && message.contains("` has none: they can't be merged"), "{message}");
    let Stage::Merge(merge) = &mut sound.models[5].stage else { panic!("it is merged") };
    merge.models = vec![ModelId(4)];
    compiled(&sound);
}

fn preference(objective: &Objective) -> Preference {
    match &objective.terms[0].value.0.kind {
        FormulaKind::Live(Live::Preference(preference)) => Preference::clone(preference),
        _ => panic!("it compares pairs"),
    }
}

/// `self.initial` is the model that the stage starts from; a run on the CPU in single precision is the
/// default.
#[test]
fn equivalent_settings_compile_to_the_same_plan() {
    let mut plain = experiment();
    for choice in &mut distilled(&mut plain).teachers {
        choice.teacher = TeacherId(0);
    }
    plain.teachers[0].weights = TeacherWeights::Model(ModelId(1));
    let mut initial = plain.clone();
    initial.teachers[0].weights = TeacherWeights::Student(SelfCopy::Initial);
    initial.device = Some(WithOrigin { value: Device::Cpu, origin: HERE });
    initial.dtype = Some(WithOrigin { value: Dtype::Float32, origin: HERE });
    distilled(&mut initial).size = BatchSize::Sequences(64);
    initial.comparisons[0].metrics = vec![Metric::PassAt(1)];
    assert_eq!(compiled(&plain).hash, compiled(&initial).hash);
}

fn weighted(weight: Formula) -> plan::Objective {
    let mut objective = nll();
    objective.weight = Some(weight);
    lowered(&objective)
}

/// The weight of each token, read off the gradient of the mean over the eight tokens of the batch.
#[track_caller]
fn assert_weights(weight: Formula, expected: [f64; 8]) {
    let objective = weighted(weight);
    assert_values(&objective, objective.live[0].adjoint, &per_token(|token| -expected[token] / 8.0));
}

/// Rewards are 1, 0 in the first group and 0.25, 0.75 in the second; sequences have 3, 1, 2 and 2 tokens.
#[test]
fn truths_are_counted() {
    let good = apply(Function::Greater, [&signal(PlainSignal::Reward), &number(0.5)]);
    let over = |reduction, over| reduce(reduction, &good, over);
    assert_weights(over(Reduction::Count, Axis::Batch), [2.0; 8]);
    assert_weights(over(Reduction::Any, Axis::Group), [1.0; 8]);
    assert_weights(over(Reduction::All, Axis::Group), [0.0; 8]);
    let worst = apply(Function::GreaterEqual, [&signal(PlainSignal::Reward), &number(0.25)]);
    assert_weights(reduce(Reduction::All, &worst, Axis::Group), [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn conditional_reduction_covers_matching_elements() {
    let reward = signal(PlainSignal::Reward);
    let good = apply(Function::Greater, [&reward, &number(0.5)]);
    let mean = FormulaKind::Reduce {
        reduction: Reduction::Mean,
        operand: reward.clone(),
        among: Some(good.clone()),
        on: None,
        fraction: None,
    };
    assert_weights(formula(mean, Axis::Group, false), [1.0, 1.0, 1.0, 1.0, 0.75, 0.75, 0.75, 0.75]);
    // The mean over tokens, by a condition on their sequence: the mean entropy of sequences 0 and 3.
    let entropy = entropy();
    let mean = FormulaKind::Reduce {
        reduction: Reduction::Mean,
        operand: entropy,
        among: Some(good.clone()),
        on: None,
        fraction: None,
    };
    assert_weights(formula(mean, Axis::Batch, false), [(0.5 + 1.5 + 2.0 + 0.75 + 2.5) / 5.0; 8]);
    // `all` of no elements is true.
    let none = apply(Function::Greater, [&reward, &number(2.0)]);
    let all = FormulaKind::Reduce {
        reduction: Reduction::All,
        operand: good,
        among: Some(none),
        on: None,
        fraction: None,
    };
    assert_weights(formula(all, Axis::Batch, false), [1.0; 8]);
}

#[test]
fn statistics_by_composition() {
    let reward = signal(PlainSignal::Reward);
    let of = |kind| statistic(kind, &reward, Axis::Group);
    assert_weights(of(Statistic::Center), [0.5, 0.5, 0.5, -0.5, -0.25, -0.25, 0.25, 0.25]);
    assert_weights(of(Statistic::LeaveOneOut), [0.0, 0.0, 0.0, 1.0, 0.75, 0.75, 0.25, 0.25]);
    // For the only good element the mean of the others is 0; so is the value of elements left out.
    let good = apply(Function::Greater, [&reward, &number(0.5)]);
    let kind = |statistic| FormulaKind::Statistic {
        statistic,
        operand: reward.clone(),
        over: Axis::Group,
        among: Some(good.clone()),
        fraction: None,
    };
    assert_weights(formula(kind(Statistic::LeaveOneOut), Axis::Sequence, false), [0.0; 8]);
    let centered = FormulaKind::Statistic {
        statistic: Statistic::Center,
        operand: reward.clone(),
        over: Axis::Batch,
        among: Some(good),
        fraction: None,
    };
    assert_weights(
        formula(centered, Axis::Sequence, false),
        [0.125, 0.125, 0.125, 0.0, 0.0, 0.0, -0.125, -0.125],
    );
}

#[test]
fn whole_numbers_and_what_remains() {
    let floor =
        apply(Function::Floor, [&apply(Function::Multiply, [&signal(PlainSignal::Reward), &number(3.0)])]);
    assert_weights(floor, [3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 2.0, 2.0]);
    assert_weights(signal(PlainSignal::Remaining), [2.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    // Each completion is one turn.
    assert_weights(signal(Signal::InSpan(NamedSpan::FinalTurn)), [1.0; 8]);
    assert_weights(signal(Signal::Available { role: Role::Teacher }), [1.0; 8]);
}

/// Where a term does not apply it is 0, and such tokens count, except in a step with `among: when`.
#[test]
fn a_term_applies_where_it_says() {
    let good = apply(Function::Greater, [&signal(PlainSignal::Reward), &number(0.5)]);
    let mut partial = nll();
    partial.terms[0].when = Some(good);
    partial.terms[0].weight = Some(number(2.0));
    let objective = lowered(&partial);
    let applies = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
    assert_values(&objective, objective.live[0].adjoint, &per_token(|token| -2.0 * applies[token] / 8.0));
    assert_values(&objective, objective.signal, &per_token(|token| 2.0 * applies[token]));

    // Sequences 0 and 3, of 3 and 2 tokens.
    let mut steps = sequence_mean();
    steps.steps[1].among_when = true;
    partial.reduce = Some(steps);
    let objective = lowered(&partial);
    let lengths = [3.0, 3.0, 3.0, 1.0, 2.0, 2.0, 2.0, 2.0];
    assert_values(
        &objective,
        objective.live[0].adjoint,
        &per_token(|token| -2.0 * applies[token] / lengths[token] / 2.0),
    );
}

/// Each term may have its own reduction, with a denominator.
#[test]
fn terms_reduce_on_their_own() {
    let mut two = nll();
    let sum = ReduceStep { operation: Reduction::Sum, ..step(Axis::Token, Axis::Batch) };
    let mut own = term("second", nll().terms[0].value.clone());
    own.reduce = Some(Reduce { denominator: Some(number(16.0)), ..by_steps(vec![sum]) });
    two.terms.push(own);
    let objective = lowered(&two);
    assert_values(&objective, objective.live[0].adjoint, &[-1.0 / 8.0 - 1.0 / 16.0; 8]);
    assert_eq!(objective.terms.len(), 2);
}

/// The only primitive of an objective.
fn primitive(of: Live) -> plan::Live {
    lowered(&objective(live(of), token_mean())).live.remove(0).primitive
}

/// Numbers inside divergences are constants where possible, otherwise formulas of the step or of the
/// token.
#[test]
fn parameters_of_divergences() {
    let kind = |kind| match primitive(Live::Divergence(divergence(kind, Support::Full))) {
        plan::Live::Divergence(divergence) => divergence.kind,
        other => panic!("{other:?}"),
    };
    let [p, q] = entries();
    // p * log(p / (w * p + (1 - w) * q))
    let skewed = |w: &Formula| {
        let rest = apply(Function::Subtract, [&number(1.0), w]);
        let parts = [(w, &p), (&rest, &q)].map(|(share, side)| apply(Function::Multiply, [share, side]));
        let ratio = apply(Function::Divide, [&p, &apply(Function::Add, [&parts[0], &parts[1]])]);
        summand(apply(Function::Multiply, [&p, &apply(Function::Log, [&ratio])]))
    };
    let at = |kind: &plan::DivergenceKind, step| match kind {
        plan::DivergenceKind::Entrywise(summand) => summand.at((step, 4), &[]).unwrap().recognized().unwrap(),
        other => panic!("{other:?}"),
    };
    let half = kind(skewed(&apply(Function::Divide, [&number(1.0), &number(2.0)])));
    assert_eq!(at(&half, 1).kernel, Kernel::Skew { lambda: 0.5 });
    let moving = kind(skewed(&apply(Function::Multiply, [&signal(PlainSignal::Progress), &number(0.5)])));
    assert_eq!(at(&moving, 2).kernel, Kernel::Skew { lambda: 0.25 });

    let share = apply(Function::Exp, [&apply(Function::Negate, [&entropy()])]);
    let rest = apply(Function::Subtract, [&number(1.0), &share]);
    let mut blended = divergence(DivergenceKind::Kl, Support::Full);
    let blend = Distribution::Blend(vec![
        WeightedRole { weight: share, role: Role::Teacher },
        WeightedRole { weight: rest, role: Role::Sampler },
    ]);
    blended.right = Distribution::Detached(Box::new(blend));
    let plan::Live::Divergence(blended) = primitive(Live::Divergence(blended)) else {
        panic!("a divergence")
    };
    assert_eq!(
        blended.signals(),
        [plan::Signal::Of { role: plan::Role::Student, part: plan::ModelSignal::Entropy }]
    );
    assert_eq!(blended.roles(), [plan::Role::Student, plan::Role::Sampler, plan::Role::TEACHER]);
    assert!(matches!(blended.right, plan::Distribution::Detached(_)));
}

fn entries() -> [Formula; 2] {
    [Side::Left, Side::Right]
        .map(|side| formula(FormulaKind::Entry(SideProbability { side, detached: false }), Axis::Run, false))
}

fn summand(value: Formula) -> DivergenceKind {
    let (name, parameters) = ("my".into(), Vec::new());
    let facts = SummandProperties::UNKNOWN;
    DivergenceKind::Entrywise(Rc::new(Summand {
        name,
        is_sum: false,
        uniform: None,
        directed: true,
        standard: false,
        parameters,
        value,
        facts,
    }))
}

/// q * u log u, u = p / q: its value and its derivatives by both at p = e / 4, q = 1 / 4. `detached` keeps
/// the value and has no derivative.
#[test]
fn a_summand_has_derivatives() {
    use mopd_expr::batch::{Batch, Layout};

    let [p, q] = entries();
    let u = apply(Function::Divide, [&p, &q]);
    let value =
        apply(Function::Multiply, [&q, &apply(Function::Multiply, [&u, &apply(Function::Log, [&u])])]);
    for (of, expected) in [
        (value.clone(), [std::f64::consts::E / 4.0, 2.0, -std::f64::consts::E]),
        (detached(&value), [std::f64::consts::E / 4.0, 0.0, 0.0]),
    ] {
        let own = Live::Divergence(divergence(summand(of), Support::Sampled));
        let plan::Live::Divergence(own) = primitive(own) else { panic!("a divergence") };
        let plan::DivergenceKind::Entrywise(summand) = own.kind else { panic!("a summand") };
        let made = summand.at((0, 1), &[]).unwrap();
        let layout =
            Layout { sequence_of_token: vec![0], group_of_sequence: vec![0], groups: 1, ..Layout::default() };
        let (p, q) = (vec![std::f32::consts::E / 4.0], vec![0.25]);
        let batch = Batch { layout, live: vec![p.clone(), q.clone(), p, q], ..Batch::default() };
        let outputs = [made.value, made.gradients[0], made.gradients[1]];
        let values =
            mopd_expr::interpret::interpret(&made.graph, &outputs, &batch).expect("it reads its sides alone");
        for (node, expected) in outputs.into_iter().zip(expected) {
            assert!((values.get(node)[0] - expected).abs() < 1e-6, "{} {expected}", values.get(node)[0]);
        }
    }
}

#[test]
fn supports_sides_and_losses() {
    let nucleus = Support::Nucleus { role: Role::Teacher, p: 0.9 };
    let union = Support::Union(vec![nucleus, Support::Intersection(vec![Support::Sampled, Support::Full])]);
    let mut checked = divergence(DivergenceKind::SortedL1, union);
    checked.temperature = 2.0.into();
    checked.clip_each = Some(0.1);
    let plan::Live::Divergence(executable) = primitive(Live::Divergence(checked)) else {
        panic!("a divergence")
    };
    let intersection = plan::Support::Intersection { of: vec![plan::Support::Sampled, plan::Support::Full] };
    let nucleus = plan::Support::Nucleus { role: plan::Role::TEACHER, p: 0.9 };
    assert_eq!(executable.support, plan::Support::Union { of: vec![nucleus, intersection] });
    assert_eq!(
        (executable.kind, executable.temperature, executable.clip_each),
        (plan::DivergenceKind::SortedL1, 2.0.into(), Some(0.1))
    );

    assert_eq!(primitive(Live::Part(ModelSignal::EndLogp)), plan::Live::EndLogp);
    assert_eq!(
        primitive(Live::Likelihood { of: Role::Teacher }),
        plan::Live::Likelihood { of: plan::Role::TEACHER }
    );
    let order = Support::TopK { role: Role::Teacher, k: 8 };
    assert_eq!(primitive(Live::Ranking { order }), plan::Live::Ranking { role: plan::Role::TEACHER, k: 8 });
}

#[test]
fn signals_of_distributions() {
    let support = || Support::TopK { role: Role::Teacher, k: 16 };
    let (student, teacher) = (plan::Role::Student, plan::Role::TEACHER);
    let executable = || plan::Support::TopK { role: teacher, k: 16 };
    for (checked, expected) in [
        (
            Signal::Of { role: Role::Student, part: ModelSignal::Rank },
            plan::Signal::Of { role: student, part: plan::ModelSignal::Rank },
        ),
        (
            Signal::Of { role: Role::Teacher, part: ModelSignal::EndLogp },
            plan::Signal::Of { role: teacher, part: plan::ModelSignal::EndLogp },
        ),
        (
            Signal::Overlap { left: Role::Student, right: Role::Teacher, k: 16 },
            plan::Signal::Overlap { left: student, right: teacher, k: 16 },
        ),
        (
            Signal::Mass { role: Role::Student, support: support() },
            plan::Signal::Mass { role: student, support: executable() },
        ),
        (
            Signal::InNucleus { role: Role::Teacher, p: 0.95 },
            plan::Signal::InNucleus { role: teacher, p: 0.95 },
        ),
        (Signal::SupportSize { support: support() }, plan::Signal::SupportSize { support: executable() }),
    ] {
        let objective = weighted(signal(checked));
        assert_eq!(objective.graph.signals(&objective.outputs()), [expected]);
    }
}

/// A named writer is one of the stage's scorers, after those that the objective reads.
#[test]
fn a_teacher_by_name_writes() {
    let mut sound = experiment();
    let train = distilled(&mut sound);
    let RolloutSource::Sample(sampling) = student(4, 1).0 else { panic!("the student samples") };
    let named = |id: u32| Role::Named { teacher: TeacherId(id), name: "one".into() };
    let from = |teacher, sequences| {
        let (sees, sampling) = (None, sampling.clone());
        Rc::new(Rollout::new(RolloutSource::From { teacher, sees, sequences, sampling }, HERE))
    };
    let (first, second) = (from(named(1), None), from(named(0), None));
    train.rollout.source = RolloutSource::Mix { share: number(0.5), first, second };
    let advantage =
        apply(Function::Negate, [&signal(Signal::Of { role: named(0), part: ModelSignal::Logp })]);
    let value = apply(Function::Multiply, [&advantage, &live(Live::Part(ModelSignal::Logp))]);
    train.objective = objective(value, sequence_mean());
    let plan = compiled(&sound);
    let plan::Stage::Train(train) = &plan.experiment.models[4].stage else {
        panic!("the student is trained")
    };
    let writers: Vec<Writer> = train.rollout.producer.drawn().iter().map(|drawn| drawn.0).collect();
    assert_eq!(writers, [1, 0].map(|place| Writer::Scorer(plan::Role::named(place))));
    let models =
        |place| train.scorers.choices(plan::Role::named(place)).iter().map(|choice| choice.teacher.model());
    assert!(models(0).all(|model| model == Some(ModelId(2))) && models(0).count() == 2);
    assert!(models(1).all(|model| model == Some(ModelId(3))) && models(1).count() == 2);
    // Exchanging the writers gives another stage.
    let mut other = sound.clone();
    let rollout = &mut distilled(&mut other).rollout;
    let RolloutSource::Mix { first, second, .. } = &mut rollout.source else { panic!("a mix") };
    std::mem::swap(first, second);
    assert_ne!(compiled(&other).stages[4].key, plan.stages[4].key);
}

/// A program responds to the student, which samples.
#[test]
fn refuses_unsupported_turns() {
    let turns = |change: &dyn Fn(&mut RolloutSource)| {
        let mut source = RolloutSource::Turns(mopd_experiment::Turns {
            environment: EnvironmentProgram::Command("e".into()),
            time_limit_seconds: 30.0,
            depends: vec![],
            at_most: number(3.0),
            of: Rc::new(Rollout::new(student(4, 1).0, HERE)),
        });
        change(&mut source);
        source
    };
    let said = |change: &dyn Fn(&mut RolloutSource)| {
        refusals(|experiment| distilled(experiment).rollout.source = turns(change))
    };
    let inside = |with: &dyn Fn(&mut Rollout)| {
        said(&|source| {
            let RolloutSource::Turns(mopd_experiment::Turns { of, .. }) = source else { panic!("turns") };
            with(Rc::make_mut(of));
        })
    };
    let data = RolloutSource::Data { field: "answer".into() };
    assert_eq!(inside(&|of| of.source = data.clone()), supported("`turns` of the rollout `data`"));
    let longer = || apply(Function::Add, [&signal(PlainSignal::Step), &number(8.0)]);
    let moving = said(&|source| {
        let RolloutSource::Turns(mopd_experiment::Turns { at_most, .. }) = source else { panic!("turns") };
        *at_most = longer();
    });
    assert_eq!(moving, supported("an `at_most` that is computed from others"));
    let edited = |edit: &Edit| {
        refusals(|experiment| {
            let rollout = &mut distilled(experiment).rollout;
            (rollout.source, rollout.edits) = (turns(&|_| {}), vec![edit.clone()]);
        })
    };
    assert_eq!(
        edited(&Edit::Retry { until: signal(PlainSignal::Correct), at_most: 8 }),
        supported("the edit `retry` of the rollout `turns`")
    );
    assert_eq!(
        edited(&Edit::FirstTurns {
            turns: reduce(Reduction::Mean, &signal(PlainSignal::Reward), Axis::Group)
        }),
        supported("`first_turns` of a number that is not the step's alone")
    );
    let twice = refusals(|experiment| {
        let rollout = &mut distilled(experiment).rollout;
        let turns_of = |turns| Edit::ExpertTurns { turns };
        let edits = [ExpertTurns::First(number(2.0)), ExpertTurns::AllBut(number(1.0))].map(turns_of);
        (rollout.source, rollout.edits) = (turns(&|_| {}), edits.into());
    });
    assert_eq!(twice, supported("the edit `expert_turns` of a rollout twice"));
    let sees = refusals(|experiment| {
        let pieces = vec![TemplatePiece::Slot(Slot::Prompt)];
        experiment.teachers[0].sees = Some(Rc::new(Template { name: "shown".into(), pieces, origin: HERE }));
        distilled(experiment).rollout.source = turns(&|_| {});
    });
    assert!(
        sees.iter().any(|said| said.contains("a teacher reads another prompt than its student")),
        "{sees:?}"
    );
    let mut sound = experiment();
    distilled(&mut sound).rollout.source = turns(&|_| {});
    compiled(&sound);
    // Only an environment gives rewards to turns.
    let by_turn = || {
        let paid = apply(
            Function::Multiply,
            [&signal(PlainSignal::TurnReward), &live(Live::Part(ModelSignal::Logp))],
        );
        objective(paid, token_mean())
    };
    distilled(&mut sound).objective = by_turn();
    compiled(&sound);
    assert_eq!(
        refusals(|experiment| distilled(experiment).objective = by_turn()),
        supported("the signal `reward.turn` of completions without an environment")
    );
    let selected = refusals(|experiment| {
        let rollout = &mut distilled(experiment).rollout;
        let paid = reduce(Reduction::Mean, &signal(PlainSignal::TurnReward), Axis::Sequence);
        let condition = apply(Function::Greater, [&paid, &number(0.5)]);
        (rollout.source, rollout.edits) = (turns(&|_| {}), vec![Edit::Keep { condition }]);
    });
    assert!(selected.iter().any(|text| text.contains("that reads more than rewards")), "{selected:?}");
}
