//! Converts teachers: models of the run, models on servers, and teachers composed of others.

use super::template::{view_of_panel, view_with_numbers};
use crate::lower::refusal::{FormulaContext, NamedScorer, Origins};
use mopd_experiment::formula::{Formula, ModelSignal, Role, WeightedRole};
use mopd_experiment::{self as checked, Alignment, Capability, PanelId, SelfCopy, TeacherId, TeacherWeights};
use mopd_lang::source::Span;
use mopd_plan::{
    self as plan, Answers, Composition, DivergenceParameter, Engine, Member, ModelId, Pool, Served,
    StudentCopy, TeacherChoice, View,
};

use super::{Converted, Diagnostic, data, divergence, filter, formula, refused};

/// One arm of a stage's route.
pub fn choice(
    choice: &checked::TeacherChoice,
    train: &checked::Train,
    teachers: &[checked::Teacher],
    origins: Origins,
) -> Result<TeacherChoice, Vec<Diagnostic>> {
    let checked::TeacherChoice { domain, when, teacher: id, .. } = choice;
    let scorer = NamedScorer { teacher: *id, bare: false };
    let mut refusals = Vec::new();
    let when = when
        .as_ref()
        .map(|when| data::formula(when, "a route by anything but the data of a prompt", origins))
        .transpose();
    let when = when.map_err(|refusal| refusals.push(*refusal)).ok();
    let name = &teachers[id.0 as usize].name;
    let executable =
        executable(scorer, teachers, train, origins).map_err(|found| refusals.extend(found)).ok();
    match (when, executable) {
        (Some(when), Some(ExecutableTeacher { teacher, sees, own_tokens })) => {
            Ok(TeacherChoice { domain: *domain, when, name: name.clone(), teacher, sees, own_tokens })
        }
        _ => Err(refusals),
    }
}

/// A teacher in the plan's form: see [`TeacherChoice`].
pub struct ExecutableTeacher {
    pub teacher: plan::Teacher,
    pub sees: Option<View>,
    pub own_tokens: bool,
}

pub fn executable(
    scorer: NamedScorer,
    teachers: &[checked::Teacher],
    train: &checked::Train,
    origins: Origins,
) -> Result<ExecutableTeacher, Vec<Diagnostic>> {
    let mut refusals = Vec::new();
    let teacher = &teachers[scorer.teacher.0 as usize];
    if let TeacherWeights::Panelist { panel, speaker } = &teacher.weights {
        return panelist(teacher, *panel, speaker, teachers, train, origins);
    }
    let own_tokens = teacher.align == Alignment::Tokens;
    let weights = weights_of(teacher, train.start, origins, &mut refusals);
    let weights = weights.filter(|_| refusals.is_empty()).ok_or(refusals)?;
    if scorer.bare || teacher.temperature == 1.0 {
        let sees = match weights {
            // The prompts are its members'.
            plan::Teacher::Composed(_) => None,
            _ => sees(scorer.teacher, teacher, train, origins).map_err(|refusal| vec![*refusal])?,
        };
        return Ok(ExecutableTeacher { teacher: weights, sees, own_tokens });
    }
    let at = origins.span(teacher.origin);
    if weights.composition().is_some_and(|composition| composition.pool == Pool::Sum) {
        return Err(vec![*refused(at, "a `sum` of teachers with its own temperature")]);
    }
    // Logits divided by a temperature: a composition of the teacher without it, with a factor.
    let bare = origins.roles.place(NamedScorer { bare: true, ..scorer });
    let role = plan::Role::named(bare.expect("a teacher with a temperature is scored without it"));
    let members = vec![Member { weight: DivergenceParameter::Number(1.0 / teacher.temperature), role }];
    let teacher = plan::Teacher::Composed(Composition { pool: Pool::Logits, members });
    Ok(ExecutableTeacher { teacher, sees: None, own_tokens })
}

/// A member of a panel, which is a model that reads the discussion.
fn panelist(
    teacher: &checked::Teacher,
    panel: PanelId,
    speaker: &Role,
    teachers: &[checked::Teacher],
    train: &checked::Train,
    origins: Origins,
) -> Result<ExecutableTeacher, Vec<Diagnostic>> {
    let at = origins.span(teacher.origin);
    let refused = |construct: String| vec![*refused(at, construct)];
    let Role::Named { teacher: id, name } = speaker else {
        return Err(refused(format!("the role `{}` in a panel (`debate`)", speaker.name())));
    };
    let known = &teachers[id.0 as usize];
    if let TeacherWeights::Panelist { .. } = known.weights {
        return Err(refused("a panel (`debate`) of a panel's members".to_owned()));
    }
    let scorer = NamedScorer { teacher: *id, bare: false };
    let ExecutableTeacher { teacher: weights, sees, own_tokens } =
        executable(scorer, teachers, train, origins)?;
    if known.sees.is_some() || known.temperature != 1.0 || weights.composition().is_some() {
        let what = "has its own template or temperature or is composed of other teachers";
        return Err(refused(format!("a panel (`debate`) with the member `{name}`, which {what}")));
    }
    if own_tokens {
        return Err(refused(format!(
            "a panel (`debate`) with the member `{name}`, which has another \
            tokenizer"
        )));
    }
    let place = origins.roles.panels.iter().position(|known| *known == panel);
    let place = place.expect("its panel is one of the stage's") as u32;
    let sees = match &teacher.sees {
        Some(template) => view_of_panel(template, place, at, origins).map(Some),
        None => Ok(sees),
    };
    let sees = sees.map_err(|refusal| vec![*refusal])?;
    Ok(ExecutableTeacher { teacher: weights, sees, own_tokens })
}

/// The template of a teacher. The student's template is not used: by default teachers read the plain prompt.
fn sees(
    id: TeacherId,
    teacher: &checked::Teacher,
    train: &checked::Train,
    origins: Origins,
) -> Converted<Option<View>> {
    match &teacher.sees {
        Some(template) => {
            let what = format!("a number in the template `{}`", template.name);
            let number = |number: &Formula| filter::of_rewards(number, &what, origins);
            let feedback =
                origins.roles.feedback.iter().position(|known| *known == id).map(|place| place as u32);
            view_with_numbers(template, feedback, origins.span(teacher.origin), origins, &number).map(Some)
        }
        None => Ok(train.sees.as_ref().map(|_| View::of_prompt())),
    }
}

fn weights_of(
    teacher: &checked::Teacher,
    start: ModelId,
    origins: Origins,
    refusals: &mut Vec<Diagnostic>,
) -> Option<plan::Teacher> {
    let at = origins.span(teacher.origin);
    refusals.extend(unsupported(teacher).into_iter().map(|construct| *refused(at, construct)));
    let converted = match &teacher.weights {
        TeacherWeights::Model(model) => Ok(plan::Teacher::Model(*model)),
        // The weights before the first step are those that the stage starts from.
        TeacherWeights::Student(SelfCopy::Initial) => Ok(plan::Teacher::Model(start)),
        TeacherWeights::Student(SelfCopy::Current) => Ok(plan::Teacher::Student(StudentCopy::Current)),
        TeacherWeights::Student(SelfCopy::Ema { rate }) => {
            Ok(plan::Teacher::Student(StudentCopy::Average { rate: *rate }))
        }
        TeacherWeights::Student(SelfCopy::Every { steps }) => {
            Ok(plan::Teacher::Student(StudentCopy::Every { steps: *steps }))
        }
        TeacherWeights::Trained { member } => {
            let (members, current) = origins.learner.map_or((&[][..], 0), |own| (own.members, own.index));
            match members.iter().position(|learner| learner.name == *member) {
                Some(own) if own == current => Ok(plan::Teacher::Student(StudentCopy::Current)),
                Some(other) => {
                    Ok(plan::Teacher::Learner { learner: other as u32, start: members[other].start })
                }
                None => Err(refused(at, "a teacher that is trained in another stage")),
            }
        }
        TeacherWeights::Served { engine, url, model, key } => {
            let engine = Engine::named(engine).expect("the checker knows the engines");
            answers_of(engine, teacher.answers, at).map(|answers| {
                let (url, model, key) = (url.clone(), model.clone(), key.clone());
                plan::Teacher::Served(Box::new(Served { engine, url, model, answers, key }))
            })
        }
        TeacherWeights::Composed { logits, .. } => composed(logits, origins).map(plan::Teacher::Composed),
        TeacherWeights::Pooled { pool, members } => {
            pooled(*pool, members, origins.at(teacher.origin)).map(plan::Teacher::Composed)
        }
        TeacherWeights::Panelist { .. } => unreachable!("it is the weights of whoever speaks"),
        TeacherWeights::Parameter => {
            Err(refused(at, format!("the teacher `{}` without weights", teacher.name)))
        }
    };
    converted.map_err(|refusal| refusals.push(*refusal)).ok()
}

/// The settings of a teacher that are not supported with its weights.
fn unsupported(teacher: &checked::Teacher) -> Vec<&'static str> {
    // `answers` of local weights only limits what objectives may read. The checker has checked that, and
    // `foreign`.
    let checked::Teacher {
        name: _,
        weights,
        sees,
        // Part of the composition of the weights.
        temperature,
        answers: _,
        foreign: _,
        align,
        reveals,
        // Belongs to the stage; see `feedback`.
        feedback: _,
        origin: _,
    } = teacher;
    let mut constructs = Vec::new();
    let of_others = matches!(weights, TeacherWeights::Composed { .. } | TeacherWeights::Pooled { .. });
    if of_others && sees.is_some() {
        constructs.push("`sees` of a teacher that is composed of other teachers");
    }
    if reveals.is_some() {
        constructs.push("a teacher that sees positions which a denoising student has not filled yet");
    }
    match (align, weights) {
        (Alignment::Positions, _) => {}
        (Alignment::Tokens, _) if of_others || *temperature != 1.0 => {
            constructs.push(
                "a teacher with `align = tokens` that is composed of other teachers or has its own \
                    temperature",
            );
        }
        (Alignment::Tokens, TeacherWeights::Served { .. }) => {
            constructs.push("a teacher on a server (`served`) with `align = tokens`");
        }
        (Alignment::Tokens, TeacherWeights::Trained { .. }) => {
            constructs.push("a teacher with `align = tokens` that is trained in the same stage");
        }
        (Alignment::Tokens, _) => {}
        (Alignment::Shifted, _) => constructs.push("a teacher whose positions are shifted by one"),
    }
    constructs
}

/// The capability of a teacher on a server. Refused if servers of that engine do not have it.
fn answers_of(engine: Engine, answers: Capability, at: Span) -> Converted<Answers> {
    let Some(known) = Answers::from_capability(answers) else {
        return Err(refused(at, "a teacher on a server that only writes (`answers: text`)"));
    };
    let (name, whole) = (engine.name(), known == Answers::Distribution);
    let cannot = |what: String, help: &str| Err(Box::new(refused(at, what).help(help)));
    match engine {
        Engine::Sglang if whole => cannot(
            format!("`answers: dist` of `served({name:?})`"),
            "SGLang lists entries: `answers: top_k(20)`, or `sampled`",
        ),
        Engine::Mopd if !whole => cannot(
            format!("`answers: {answers}` of `served({name:?})`"),
            "`mopd serve` answers whole distributions: `answers: dist`; by its other dialects, `\"vllm\"` \
             and `\"sglang\"`, it answers less",
        ),
        _ => Ok(known),
    }
}

/// A linear combination of logits.
fn composed(logits: &[WeightedRole], origins: Origins) -> Converted<Composition> {
    let member = |part: &WeightedRole| {
        let at = origins.at(part.weight.0.origin);
        let weight = divergence::parameter(&part.weight, at)?;
        if weight.signals().iter().any(|signal| signal.roles().contains(&plan::Role::TEACHER)) {
            return Err(refused(at, "a factor of logits that reads the routed teacher"));
        }
        let reads = |wanted: ModelSignal| {
            let is_wanted =
                |signal: &plan::Signal| matches!(signal, plan::Signal::Of { part, .. } if *part == wanted);
            weight.signals().iter().any(is_wanted)
        };
        if reads(ModelSignal::StatedConfidence) {
            return Err(refused(at, "a factor of logits that reads a stated confidence"));
        }
        if reads(ModelSignal::Correct) {
            return Err(refused(at, "a factor of logits that reads what another model gets right"));
        }
        Ok(Member { weight, role: self::member(&part.role, at)? })
    };
    let members = logits.iter().map(member).collect::<Converted<_>>()?;
    Ok(Composition { pool: Pool::Logits, members })
}

fn pooled(pool: checked::Pool, members: &[WeightedRole<f64>], at: FormulaContext) -> Converted<Composition> {
    let pool = match pool {
        checked::Pool::Mixture => Pool::Mixture,
        checked::Pool::Geometric => Pool::Logits,
        checked::Pool::Sum => Pool::Sum,
    };
    let member = |part: &WeightedRole<f64>| {
        Ok(Member { weight: DivergenceParameter::Number(part.weight), role: self::member(&part.role, at)? })
    };
    Ok(Composition { pool, members: members.iter().map(member).collect::<Converted<_>>()? })
}

fn member(role: &Role, at: FormulaContext) -> Converted<plan::Role> {
    match role {
        Role::Student | Role::Named { .. } => formula::role(role, at),
        Role::Teacher | Role::Old | Role::Sampler | Role::Reference => {
            Err(refused(at, format!("a teacher that is composed of the role `{}`", role.name())))
        }
    }
}
