//! The stage `train`: several models that are trained together, in turns.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::Span;
use crate::syntax::ast::{Block, Expr, ExprKind, Name, Statement};
use mopd_experiment::{
    Joint, JointMember, JointStep, Length, ModelId, Recipe, Stage, Teacher, TeacherWeights,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::DeclaredBlock;
use crate::check::builtins::vocabulary::{self, MemberBlock, StepBlock};
use crate::check::checker::Checker;
use crate::check::declarations::{Declarations, plain_teachers};
use crate::check::read::{read, settings};
use crate::check::reporter::Reporter;
use crate::check::stages::recipes::{self, DistillSettings};
use crate::check::stages::training;
use crate::check::teachers;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// One `trains` statement of a `train`. `member` is `None` where the statement is faulty.
struct TrainsStatement {
    name: String,
    place: Span,
    member: Option<JointMember>,
}

/// `train { trains student = start, step follow { updates = student, ... } }`
pub fn joint(checker: &mut Checker, span: Span, block: Option<&Block>, env: &Env) -> Option<ModelId> {
    let settings = settings::block_settings(checker, block, "train", span, vocabulary::TRAIN, true);
    settings::keep_marks(&mut checker.parts, &settings, &env.model_name);
    let statements = block.map_or(&[][..], |block| &block.statements);
    let trained = statements.iter().filter_map(|statement| match statement {
        Statement::Trains { name, value } => Some((name, value)),
        _ => None,
    });
    let mut members: Vec<TrainsStatement> = Vec::new();
    let mut good = true;
    for (name, value) in trained {
        let member = member(checker, name, value, &members, env);
        good &= member.is_some();
        members.push(TrainsStatement { name: name.text.clone(), place: name.span, member });
    }
    let mut inner = env.clone();
    // A faulty model is bound too, so that uses of its name are not reported as well.
    for TrainsStatement { name, place, member } in &members {
        let weights = TeacherWeights::Trained { member: name.clone() };
        let plain = plain_teachers::plain_teacher(checker, name, weights, *place);
        let sees = member.as_ref().and_then(|member| member.sees.clone());
        let teacher = checker.parts.declare_teacher(Teacher { sees, ..plain });
        inner.bind(name, Value::Teacher(teacher));
    }
    let steps: Vec<(&Name, &Block)> = statements
        .iter()
        .filter_map(|statement| match statement {
            Statement::Step { name, block } => Some((name, block)),
            _ => None,
        })
        .collect();
    for (missing, what) in
        [(members.is_empty(), "trains student = start"), (steps.is_empty(), "step follow { ... }")]
    {
        if missing && !settings.broken {
            let text = format!("`train` needs a `{}`", what.split(' ').next().unwrap_or(what));
            checker.report(
                Diagnostic::error(Code::MissingKey, span, text)
                    .label("not said here")
                    .help(format!("add `{what}`")),
            );
            good = false;
        }
    }
    let mut read: Vec<JointStep> = Vec::new();
    for (index, (name, block)) in steps.iter().enumerate() {
        if let Some((first, _)) = steps[..index].iter().find(|(first, _)| first.text == name.text) {
            let text = format!("two steps are called `{}`", name.text);
            checker.report(
                Diagnostic::error(Code::DuplicateName, name.span, text).note(first.span, "first here"),
            );
            good = false;
            continue;
        }
        match joint_step(checker, name, block, &settings, &members, &inner) {
            Some(step) => read.push(step),
            None => good = false,
        }
    }
    if !good {
        return None;
    }
    let untrained = |index: &usize| !read.iter().any(|step| step.updates == *index);
    if let Some(index) = (0..members.len()).find(untrained) {
        let TrainsStatement { name, place, .. } = &members[index];
        let text = format!("no step updates `{name}`");
        checker.report(
            Diagnostic::error(Code::UntrainedMember, *place, text).label("no step trains it").help(
                "add a `step` with `updates` set to it, or make it a `teacher`: frozen models are roles",
            ),
        );
        return None;
    }
    declare_joint(
        checker,
        members.into_iter().filter_map(|trained| trained.member).collect(),
        read,
        span,
        env,
    )
}

/// Declares the stage and its models. The stage's own value is the first model.
fn declare_joint(
    declarations: &mut Declarations,
    members: Vec<JointMember>,
    steps: Vec<JointStep>,
    span: Span,
    env: &Env,
) -> Option<ModelId> {
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let joint =
        declarations.declare_stage("train", Stage::Joint(Box::new(Joint { members, steps })), span, env);
    let own = declarations.parts.model(joint).name.clone();
    for (member, name) in names.iter().enumerate().skip(1) {
        declarations.declare_model(&format!("{own}.{name}"), Stage::Member { joint, member }, span);
    }
    Some(joint)
}

/// `trains guide = start { sees = feedback_shown }`
fn member(
    checker: &mut Checker,
    name: &Name,
    value: &Expr,
    before: &[TrainsStatement],
    env: &Env,
) -> Option<JointMember> {
    if let Some(TrainsStatement { place: first, .. }) = before.iter().find(|known| known.name == name.text) {
        let text = format!("two models are called `{}`", name.text);
        checker.report(Diagnostic::error(Code::DuplicateName, name.span, text).note(*first, "first here"));
        return None;
    }
    let (start, block) = teachers::split_block(checker, value, env);
    let owner = format!("trains {}", name.text);
    let (_, given) = settings::block::<MemberBlock>(checker, block.as_ref(), &owner, name.span);
    let sees = read(checker, given.sees, env);
    let start =
        training::model_value(checker, &start, &env.named(format!("{}.{}.start", env.model_name, name.text)));
    Some(JointMember {
        name: name.text.clone(),
        start: start?,
        sees: sees?,
        origin: checker.origin(name.span),
    })
}

fn joint_step(
    checker: &mut Checker,
    name: &Name,
    block: &Block,
    around: &BlockSettings,
    members: &[TrainsStatement],
    env: &Env,
) -> Option<JointStep> {
    let mut settings =
        settings::block_settings(checker, Some(block), "step", name.span, vocabulary::STEP, true);
    settings::keep_marks(&mut checker.parts, &settings, &format!("{}.{}", env.model_name, name.text));
    let StepBlock { updates, every, .. } = StepBlock::of(&settings);
    let updates =
        settings::required_setting(checker, updates).and_then(|given| updated(checker, given.expr, members));
    let every = read(checker, every, env);
    settings.inherit(around);
    let StepBlock { objective, rollout, prompts, batch, domains, .. } = StepBlock::of(&settings);
    let mixture = training::mixture(checker, domains.map(Arg::expr), env);
    let start = updates.and_then(|index| members[index].member.as_ref()).map(|member| member.start);
    let parts = recipes::distill(
        checker,
        Recipe::Step,
        &settings,
        DistillSettings { objective, rollout, prompts, batch },
        start,
        mixture,
        env,
    );
    let mut train = training::finish_training(checker, parts, &settings, env);
    if let (Some(every), Some(Length::Steps(steps))) = (every, train.as_ref().map(|train| train.length))
        && every > steps
    {
        checker.report(
            Diagnostic::warning(
                Code::UnfinishedSchedule,
                settings.place(&["every"]),
                format!("the stage ends before the step `{}` updates anything", name.text),
            )
            .label(format!("every {every} steps"))
            .note(settings.place(&["steps"]), format!("the stage has {steps}"))
            .help("give it an interval that is not longer than the stage, or train for longer"),
        );
    }
    let member = updates.and_then(|index| members[index].member.as_ref());
    if let (Some(train), Some(member)) = (&mut train, member) {
        // A model sees its `sees` in every role, hence also as the student.
        train.sees = train.sees.take().or_else(|| member.sees.clone());
    }
    Some(JointStep { name: name.text.clone(), updates: updates?, every: every?, train: train? })
}

/// The index of the model that `updates` names.
fn updated(reporter: &mut Reporter, expr: &Expr, members: &[TrainsStatement]) -> Option<usize> {
    let names: Vec<&str> = members.iter().map(|trained| trained.name.as_str()).collect();
    let ExprKind::Name(name) = &expr.kind else {
        if !matches!(expr.kind, ExprKind::Error) {
            reporter.report(
                Diagnostic::error(
                    Code::TypeMismatch,
                    expr.span,
                    "`updates` names one of the models that are trained",
                )
                .help(format!("one of: {}", names.join(", "))),
            );
        }
        return None;
    };
    if let Some(index) = names.iter().position(|known| known == name) {
        return Some(index);
    }
    let diagnostic =
        Diagnostic::error(Code::UnknownName, expr.span, format!("no model called `{name}` is trained here"));
    reporter.report(match nearest(name, names.iter().copied()) {
        Some(near) => diagnostic.did_you_mean(name, near),
        None => diagnostic.help(format!("trained here: {}", names.join(", "))),
    });
    None
}
