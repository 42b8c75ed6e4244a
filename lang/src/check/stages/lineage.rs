//! The lineage of weights: which checkpoints a model descends from, and whether teacher and student share
//! one.

use rustc_hash::FxHashSet;

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::formula::Role;
use mopd_experiment::{
    Alignment, Architecture, DomainId, Model, ModelId, Pretrained, PretrainedSource, Stage, TeacherChoice,
    TeacherId, TeacherWeights, TokenizerSpec, Train,
};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::builtins::types::SaidOrigin;
use crate::check::declarations::{Declarations, ExperimentParts};

/// The stages that produced some weights, each with the domains that it trained on.
type Stages = Vec<(ModelId, Vec<DomainId>)>;

/// How a teacher's weights relate to the student's, as far as the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Descent {
    /// Both descend from a common checkpoint.
    Shared,
    /// Some weights were made elsewhere, and the file does not say how.
    Unknown,
    /// All of them begin in this file, at different random weights.
    Apart,
}

/// Adds to `found` the models at which the chains of stages behind `model` begin: random, loaded, or a
/// parameter. Each model is visited once, however many merges lead to it.
fn collect_roots(parts: &ExperimentParts, model: ModelId, found: &mut Vec<ModelId>) {
    let (mut seen, mut waiting) = (FxHashSet::default(), vec![model]);
    while let Some(model) = waiting.pop() {
        if !seen.insert(model) {
            continue;
        }
        match &parts.model(model).stage {
            Stage::Initialise(_) | Stage::Parameter => add(found, model),
            // The same file or name twice is one checkpoint.
            Stage::Load(pretrained) => {
                let same = |other: &Model| match &other.stage {
                    Stage::Load(known) => known == pretrained,
                    _ => false,
                };
                let first = parts.models.iter().position(same).map_or(model, |index| ModelId(index as u32));
                add(found, first);
            }
            Stage::Train(train) => waiting.push(train.start),
            Stage::Merge(merge) => {
                waiting.extend(merge.models.iter().rev());
                waiting.extend(merge.base);
            }
            Stage::Joint(joint) => waiting.push(joint.members[0].start),
            Stage::Member { joint, member } => {
                if let Stage::Joint(joint) = &parts.model(*joint).stage {
                    waiting.push(joint.members[*member].start);
                }
            }
        }
    }
}

fn descent_of_model(parts: &ExperimentParts, model: ModelId, start: ModelId) -> Descent {
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    collect_roots(parts, model, &mut theirs);
    collect_roots(parts, start, &mut ours);
    // The lineage of a parameter is checked where a caller gives it a value.
    let open = |root: &ModelId| parts.model(*root).stage == Stage::Parameter;
    if theirs.iter().any(|root| ours.contains(root)) || theirs.iter().chain(&ours).any(open) {
        return Descent::Shared;
    }
    let made_here = |root: &ModelId| matches!(parts.model(*root).stage, Stage::Initialise(_));
    if theirs.iter().chain(&ours).all(made_here) { Descent::Apart } else { Descent::Unknown }
}

fn descent(parts: &ExperimentParts, teacher: TeacherId, start: ModelId) -> Descent {
    let mut descent = Descent::Shared;
    for part in
        made_of(parts, teacher, |part| matches!(parts.said_origins.get(&part), Some((SaidOrigin::Same, _))))
    {
        descent = descent.max(match &parts.teacher(part).weights {
            TeacherWeights::Model(model) => descent_of_model(parts, *model, start),
            TeacherWeights::Served { model, .. } => {
                let mut ours = Vec::new();
                collect_roots(parts, start, &mut ours);
                let named = |root: &ModelId| match &parts.model(*root).stage {
                    Stage::Load(Pretrained {
                        source: PretrainedSource::HuggingFace { name, .. }, ..
                    }) => name == model,
                    _ => false,
                };
                let open = ours.iter().any(|root| parts.model(*root).stage == Stage::Parameter);
                if open || ours.iter().any(named) { Descent::Shared } else { Descent::Unknown }
            }
            _ => Descent::Shared,
        });
    }
    descent
}

/// A teacher and the teachers it is made of, each once, in the order of the text. A part for which
/// `vouched` holds is left out, with the parts it is made of.
fn made_of(
    parts: &ExperimentParts,
    teacher: TeacherId,
    vouched: impl Fn(TeacherId) -> bool,
) -> Vec<TeacherId> {
    let (mut seen, mut found, mut waiting) = (FxHashSet::default(), Vec::new(), vec![teacher]);
    while let Some(teacher) = waiting.pop() {
        if !seen.insert(teacher) {
            continue;
        }
        found.push(teacher);
        let parts: Vec<&Role> = match &parts.teacher(teacher).weights {
            TeacherWeights::Composed { logits, .. } => logits.iter().map(|part| &part.role).collect(),
            TeacherWeights::Pooled { members, .. } => members.iter().map(|part| &part.role).collect(),
            TeacherWeights::Panelist { speaker, .. } => vec![speaker],
            _ => Vec::new(),
        };
        waiting.extend(parts.into_iter().rev().filter_map(|role| match role {
            // A teacher's own `origin = same` holds for everything that is made of it.
            Role::Named { teacher, .. } if !vouched(*teacher) => Some(*teacher),
            _ => None,
        }));
    }
    found
}

/// The names of the checkpoints that a model descends from, for messages.
fn root_name(parts: &ExperimentParts, model: ModelId) -> String {
    let mut roots = Vec::new();
    collect_roots(parts, model, &mut roots);
    let names: Vec<String> = roots.iter().map(|root| format!("`{}`", parts.model(*root).name)).collect();
    names.join(" and ")
}

/// Whether a teacher whose distribution is learnt from has the student's origin, or declares another one.
pub fn check_lineage(
    declarations: &mut Declarations,
    teacher: TeacherId,
    train: &Train,
    stage: Span,
) -> bool {
    let said = declarations.parts.said_origins.get(&teacher).copied();
    let descent = descent(&declarations.parts, teacher, train.start);
    let (name, declared) = (
        declarations.parts.teacher(teacher).name.clone(),
        declarations.span(declarations.parts.teacher(teacher).origin),
    );
    let ours = root_name(&declarations.parts, train.start);
    match (descent, said) {
        (Descent::Shared, Some((SaidOrigin::Foreign, place))) => {
            let text = format!(
                "the teacher `{name}` is marked `origin = foreign`, but descends from {ours}, as the \
                 student does"
            );
            declarations.report(
                Diagnostic::error(Code::ForeignTeacher, place, text)
                    .note(stage, "trained here")
                    .help("remove `origin = foreign`: it would hide a foreign teacher later"),
            );
            false
        }
        (Descent::Apart, Some((SaidOrigin::Same, place))) => {
            let text = format!("the teacher `{name}` does not descend from {ours}, where the student begins");
            declarations.report(
                Diagnostic::error(Code::ForeignTeacher, place, text)
                    .note(stage, "trained here")
                    .help("write `origin = foreign` if that is meant"),
            );
            false
        }
        (Descent::Shared, _) | (Descent::Unknown, Some((SaidOrigin::Same, _))) => true,
        (Descent::Apart | Descent::Unknown, Some((SaidOrigin::Foreign, _))) => {
            declarations.report(
                Diagnostic::warning(
                    Code::ForeignTeacher,
                    declared,
                    format!("the teacher `{name}` has another origin than the student"),
                )
                .label("trained from another checkpoint than the student")
                .note(stage, "trained here")
                .help(
                    "where this was measured, a stronger teacher of foreign origin lost most of the \
                     gain, and a direct top-k loss collapsed within 20 steps (arXiv:2606.30406): watch \
                     the divergence at the first steps",
                ),
            );
            true
        }
        (descent, None) => {
            let text = match descent {
                Descent::Apart => {
                    format!("the teacher `{name}` does not descend from {ours}, where the student begins")
                }
                _ => format!(
                    "it is not known whether the teacher `{name}` descends from {ours}, where the \
                    student begins"
                ),
            };
            let help = match descent {
                Descent::Apart => {
                    "train it from the student's start, or write `{ origin = foreign }` after it"
                }
                _ => {
                    "write `{ origin = same }` after it if it was trained from that checkpoint, `{ \
                     origin = foreign }` if not"
                }
            };
            declarations.report(
                Diagnostic::error(Code::ForeignTeacher, declared, text)
                    .note(stage, "trained here")
                    .help(help),
            );
            false
        }
    }
}

/// Adds to `found` the stages that made a model's weights, each with the domains that it trained on.
fn stages_of(parts: &ExperimentParts, model: ModelId, found: &mut Stages) {
    if found.iter().any(|(known, _)| *known == model) {
        return;
    }
    let domains = |train: &Train| train.mixture.iter().map(|share| share.domain).collect::<Vec<DomainId>>();
    match &parts.model(model).stage {
        Stage::Initialise(_) | Stage::Parameter | Stage::Load(_) => {}
        Stage::Train(train) => {
            found.push((model, domains(train)));
            stages_of(parts, train.start, found);
        }
        Stage::Merge(merge) => {
            found.push((model, Vec::new()));
            merge.base.iter().chain(&merge.models).for_each(|model| stages_of(parts, *model, found));
        }
        Stage::Joint(joint) => {
            found.push((model, joint.steps.iter().flat_map(|step| domains(&step.train)).collect()));
            joint.members.iter().for_each(|member| stages_of(parts, member.start, found));
        }
        Stage::Member { joint, .. } => stages_of(parts, *joint, found),
    }
}

/// Warns of a domain that is routed to a specialist of other domains while the route has a teacher
/// trained on it: the arms may be mixed up. Stages common to all teachers of the route, such as a shared
/// fine-tuning, do not count.
pub fn warn_of_misrouted_domains(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) {
    let mut teachers: Vec<TeacherId> = Vec::new();
    for choice in &train.teachers {
        if !teachers.contains(&choice.teacher) {
            teachers.push(choice.teacher);
        }
    }
    let mut stages: Vec<(TeacherId, Stages)> = Vec::new();
    for teacher in teachers {
        let mut found = Vec::new();
        if let TeacherWeights::Model(model) = &declarations.parts.teacher(teacher).weights {
            stages_of(&declarations.parts, *model, &mut found);
        }
        stages.push((teacher, found));
    }
    let common =
        |stage: &ModelId| stages.iter().all(|(_, found)| found.iter().any(|(known, _)| known == stage));
    let learnt: Vec<(TeacherId, Vec<DomainId>)> = stages
        .iter()
        .map(|(teacher, found)| {
            let own = found
                .iter()
                .filter(|(stage, _)| !common(stage))
                .flat_map(|(_, domains)| domains.iter().copied());
            (*teacher, own.collect())
        })
        .collect();
    for TeacherChoice { domain, teacher, origin, .. } in
        train.teachers.iter().filter(|choice| choice.when.is_none())
    {
        let own = learnt.iter().find(|(known, _)| known == teacher).map_or(&[][..], |(_, domains)| domains);
        if own.is_empty() || own.contains(domain) {
            continue;
        }
        let Some((other, _)) = learnt.iter().find(|(_, domains)| domains.contains(domain)) else {
            continue;
        };
        let (chosen, other) = (declarations.parts.teacher(*teacher), declarations.parts.teacher(*other));
        let name = &declarations.parts.domain(*domain).name;
        let text = format!("the domain `{name}` is routed to `{}`, which was not trained on it", chosen.name);
        let diagnostic = Diagnostic::warning(Code::MisroutedDomain, declarations.span(*origin), text)
            .label("trained on other domains")
            .note(declarations.span(other.origin), format!("`{}` was trained on `{name}`", other.name))
            .note(settings.span, "routed for this stage")
            .help(format!(
                "route `{name}` to `{}`, or say why not: `// allow(misrouted-domain): ...`",
                other.name
            ));
        declarations.report(diagnostic);
        return;
    }
}

/// The tokenizer of a model, where the file says it.
fn tokenizer_of(parts: &ExperimentParts, model: ModelId) -> Option<&TokenizerSpec> {
    parts.architecture(model).map(|architecture| &architecture.tokenizer)
}

/// Whether the tokens of a teacher that is read as `role` are the student's.
pub fn check_vocabulary(
    declarations: &mut Declarations,
    teacher: TeacherId,
    role: &Role,
    train: &Train,
    settings: &BlockSettings,
) -> bool {
    // A teacher that reads the student's ids with another vocabulary has no distribution that means
    // anything.
    if declarations.parts.teacher(teacher).align == Alignment::Tokens || !train.objective.reads(role) {
        return true;
    }
    for speaker in made_of(&declarations.parts, teacher, |_| false) {
        let TeacherWeights::Model(model) = declarations.parts.teacher(speaker).weights else { continue };
        if declarations.parts.teacher(speaker).align == Alignment::Tokens {
            continue;
        }
        let (Some(theirs), Some(ours)) =
            (tokenizer_of(&declarations.parts, model), tokenizer_of(&declarations.parts, train.start))
        else {
            continue;
        };
        if theirs == ours {
            continue;
        }
        let text = format!(
            "the teacher `{}` has another tokenizer than the student",
            declarations.parts.teacher(teacher).name
        );
        let label = format!("{} here, {} in the student", tokenizer_text(theirs), tokenizer_text(ours));
        let declared = declarations.span(declarations.parts.teacher(teacher).origin);
        declarations.report(
            Diagnostic::error(Code::VocabularyMismatch, declared, text)
                .label(label)
                .note(settings.span, "trained here")
                .help(
                    "write `{ align = tokens }` after it, and compare by text: with `sorted_l1`, or on `support: \
                     matched`",
                ),
        );
        return false;
    }
    true
}

fn add(found: &mut Vec<ModelId>, model: ModelId) {
    if !found.contains(&model) {
        found.push(model);
    }
}

pub fn tokenizer_text(tokenizer: &TokenizerSpec) -> String {
    match tokenizer {
        TokenizerSpec::Bytes => "`bytes`".into(),
        TokenizerSpec::File(path) => format!("{path:?}"),
    }
}

/// Why two models' weights do not correspond element by element, or `None` where they do or where the
/// file does not tell: the shape and tokenizer of loaded weights are known only from their files.
pub fn unlike(parts: &ExperimentParts, one: ModelId, other: ModelId) -> Option<String> {
    let (shape, others) = (parts.architecture(one)?, parts.architecture(other)?);
    let [one, other] = [one, other].map(|model| &parts.model(model).name);
    if shape.tokenizer != others.tokenizer {
        let tokenizers = [shape, others].map(|shape| tokenizer_text(&shape.tokenizer));
        let [own, theirs] = tokenizers;
        return Some(format!("`{one}` and `{other}` have different tokenizers: {own} and {theirs}"));
    }
    // The standard deviation of the random initialisation says nothing about the shape.
    let others = Architecture { initial_deviation: shape.initial_deviation, ..others.clone() };
    (*shape != others).then(|| format!("`{one}` and `{other}` have different shapes"))
}
