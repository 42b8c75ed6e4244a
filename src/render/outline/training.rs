//! A training stage: its teachers, its rollouts, its optimizer, and its objective in normal form.

use mopd_experiment::formula::{Adaptive, Formula, FormulaKind};
use mopd_experiment::{
    Adapter, BatchSize, ChangedElements, Checkpointing, DomainId, Experiment, Extrapolation,
    GradientAlignment, GradientPartition, Guard, GuardAction, Keep, Length, ModelId, Optimizer, Panel,
    Private, RolloutSource, Sampling, Schedule, ScheduleLength, SelfCopy, Share, Teacher, TeacherChoice,
    TeacherId, TeacherWeights, Temperature, Train, TrainOptions, Trainable, Validation, WeightFilter,
    powers_up_to,
};
use mopd_plan::NormalForm;

use super::{OutlineRows, beside, formula, joined};
use crate::figures::{count, percent, setting};
use crate::output::counted;

/// The objective's name and the slots of its normal form.
pub fn objective(train: &Train) -> OutlineRows {
    let mut rows = vec![("objective", train.objective.name.clone())];
    rows.extend(slots(&normal_form(train)));
    rows
}

fn normal_form(train: &Train) -> NormalForm {
    mopd_compiler::normal_form(&train.objective, Some(train))
}

pub fn training(train: &Train, experiment: &Experiment) -> OutlineRows {
    let domain = |id: DomainId| experiment.domain(id).name.as_str();
    let share = |share: &Share| format!("{} {}", domain(share.domain), percent(share.share));
    // An epoch contains every prompt of every domain once: shares have no effect.
    let by_prompts = matches!(train.length, Length::Epochs(_)) && train.mixture.len() > 1;
    let domains = match train.rollout.source {
        RolloutSource::From { .. } => joined(&train.mixture, share),
        _ if by_prompts => {
            format!(
                "{}, all prompts of each",
                joined(&train.mixture, |share: &Share| domain(share.domain).to_owned())
            )
        }
        _ => joined(&train.mixture, share),
    };
    let mut rows = vec![("domains", domains)];
    if !train.teachers.is_empty() {
        let choice = |choice: &TeacherChoice| {
            let when =
                choice.when.as_ref().map(|when| format!(" where {}", formula(when))).unwrap_or_default();
            format!(
                "{}{when} -> {}",
                domain(choice.domain),
                teacher(experiment.teacher(choice.teacher), experiment)
            )
        };
        rows.push(("teachers", joined(&train.teachers, choice)));
    }
    if !train.reference.is_empty() {
        let one = |(id, model): &(DomainId, ModelId)| {
            format!("{} -> {}", domain(*id), experiment.model(*model).name)
        };
        rows.push(("reference", joined(&train.reference, one)));
    }
    rows.extend(panels(train, experiment).map(|panel| ("panel", panel)));
    rows.extend(beside::rows(train, experiment));
    rows.extend(train.learned(&experiment.teachers).iter().filter_map(learned).map(|text| ("learned", text)));
    if let Some(template) = &train.sees {
        rows.push(("student sees", template.name.clone()));
    }
    let parts = train.parts();
    let tokens_of = |part: &Train| match &part.objective.terms[..] {
        _ if parts.len() == 1 => tokens(part),
        terms => {
            format!("{} on {}", joined(terms, |term| format!("`{}`", term.name)), tokens(&on_its_own(part)))
        }
    };
    rows.push(("tokens from", parts.iter().map(tokens_of).collect::<Vec<String>>().join("; ")));
    let by = [("filter", &train.filter), ("priority", &train.priority), ("shares", &train.shares)];
    for (name, by) in by {
        rows.extend(by.as_ref().map(|by| (name, formula(by))));
    }
    if train.chooses_prompts() {
        let again =
            train.refresh.map(|steps| format!(", and again every {}", counted(steps as usize, "step")));
        rows.push(("prompts chosen", format!("before the first step{}", again.unwrap_or_default())));
    }
    let passes = match (train.options.updates_per_batch(), train.options.passes, train.options.mini_batches) {
        (1, ..) => String::new(),
        (updates, _, 1) => format!(", {updates} updates from each batch"),
        (updates, 1, _) => format!(", {updates} updates from each batch, one for each mini-batch"),
        (updates, passes, parts) => {
            format!(", {updates} updates from each batch: {passes} passes over {parts} mini-batches")
        }
    };
    let (length, rate) = (length(train), rate(&train.learning_rate));
    rows.push(("training", format!("{length}{passes}, learning rate {rate}")));
    rows.push(("optimizer", optimizer(train)));
    rows.extend(weights(&train.trainable, experiment).map(|weights| ("trained weights", weights)));
    rows.extend(train.options.ema.map(|rate| {
        let no_adapter = match train.trainable {
            Trainable::Adapter(_) => "; no `adapter/`: an average of merged weights is not an adapter",
            _ => "",
        };
        ("output", format!("moving average of the weights, decay {}{no_adapter}", setting(rate)))
    }));
    rows.extend(execution(train).map(|execution| ("execution", execution)));
    rows.extend(train.options.validation.as_ref().map(|settings| ("validation", validation(settings))));
    rows.extend(train.guards.iter().map(|guard| ("guard", self::guard(guard, experiment))));
    rows.extend(train.options.alignment.as_ref().map(|of| ("gradient alignment", alignment(of, train))));
    rows.extend(further(&train.options).map(|options| ("options", options)));
    if let Some(extrapolation) = &train.extrapolation {
        rows.push(("extrapolation", self::extrapolation(extrapolation, train.length, experiment)));
    }
    rows
}

/// The options that no other row tells, as written.
fn further(options: &TrainOptions) -> Option<String> {
    const TOLD: &[&str] =
        &["passes", "mini_batches", "private", "ema", "validate", "gradient_alignment", "execution"];
    let changed = options.changed().into_iter().filter(|(name, _)| !TOLD.contains(&name.as_str()));
    let further: Vec<String> = changed.map(|(name, value)| format!("{name} = {value}")).collect();
    (!further.is_empty()).then(|| further.join(", "))
}

/// `200 steps`
fn length(train: &Train) -> String {
    match train.length {
        Length::Steps(steps) => counted(steps as usize, "step"),
        Length::Epochs(epochs) if matches!(train.rollout.source, RolloutSource::From { .. }) => {
            counted(epochs as usize, "epoch")
        }
        Length::Epochs(epochs) if train.mixture.len() > 1 => {
            format!("{}, each prompt of each domain once an epoch", counted(epochs as usize, "epoch"))
        }
        Length::Epochs(epochs) => format!("{}, each prompt once an epoch", counted(epochs as usize, "epoch")),
    }
}

/// The parts of a step that are computed at a time, if not all at once.
fn execution(train: &Train) -> Option<String> {
    let at_once = train.options.execution.micro_batch;
    let at_once = at_once.map(|sequences| format!("{} at once", counted(sequences as usize, "sequence")));
    let recomputed = match train.options.execution.checkpointing {
        Checkpointing::None => None,
        Checkpointing::Layers(layers) => {
            Some(format!("{} recomputed in the backward pass", counted(layers as usize, "layer")))
        }
        Checkpointing::All => Some("every layer recomputed in the backward pass".to_owned()),
    };
    let parts: Vec<String> = [at_once, recomputed].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn validation(Validation { target, every, rows }: &Validation) -> String {
    let rows = match rows {
        Some(rows) => format!("the first {} of each domain", counted(*rows as usize, "validation row")),
        None => "the validation rows".to_owned(),
    };
    format!("loss on `{target}` of {rows}, every {}", counted(*every as usize, "step"))
}

fn alignment(GradientAlignment { between, every }: &GradientAlignment, train: &Train) -> String {
    let count = match between {
        GradientPartition::Terms => train.objective.terms.len(),
        GradientPartition::Domains => train.mixture.len(),
    };
    let every = counted(*every as usize, "step");
    format!("gradients of {count} {} compared every {every}: {count} more in memory", between.name())
}

/// `entropy < 0.1 on math, for 10 steps: a warning`
fn guard(guard: &Guard, experiment: &Experiment) -> String {
    let Guard { condition, steps, on, action, origin: _ } = guard;
    let on = on.map(|domain| format!(" on {}", experiment.domain(domain).name)).unwrap_or_default();
    let held = if *steps == 1 {
        String::new()
    } else {
        format!(" for {} in a row", counted(*steps as usize, "step"))
    };
    let then = match action {
        GuardAction::Warn => "a warning".to_owned(),
        GuardAction::Stop => "the stage stops without a result".to_owned(),
        GuardAction::LowerRate { by } => format!("the learning rate is multiplied by {}", setting(*by)),
    };
    format!("{}{on}{held}: {then}", formula(condition))
}

/// The share of a slot that teachers see, if the run learns it.
fn learned(share: &Formula) -> Option<String> {
    let FormulaKind::Adaptive(Adaptive::Learned { gain, hold, discount, lr }) = &share.0.kind else {
        return None;
    };
    Some(format!(
        "the share of a slot that is shown: sampled every {} from a Beta distribution, which is trained at \
         learning rate {} to raise {}, discounted by {} per step",
        counted(*hold as usize, "step"),
        setting(*lr),
        formula(gain),
        setting(*discount)
    ))
}

/// The panels of a stage's teachers, and the most text that they write.
fn panels<'a>(train: &Train, experiment: &'a Experiment) -> impl Iterator<Item = String> + 'a {
    let asked = train.named_teachers();
    let of_stage = move |panel: &&Panel| panel.members.iter().any(|member| asked.contains(member));
    experiment.panels.iter().filter(of_stage).map(|panel| {
        let Panel { name, members, rounds, sees, confidence, max_tokens, temperature, origin: _ } = panel;
        let speaker = |member: &TeacherId| match &experiment.teacher(*member).weights {
            TeacherWeights::Panelist { speaker, .. } => speaker.name().to_owned(),
            _ => experiment.teacher(*member).name.clone(),
        };
        let sees = sees.as_ref().map(|template| format!(" with {}", template.name)).unwrap_or_default();
        let stated = confidence.map_or_else(String::new, |(low, high)| {
            format!(", each states a confidence from {low} to {high}")
        });
        let most = u64::from(*rounds) * members.len() as u64 * u64::from(*max_tokens);
        let drawn = match temperature {
            0.0 => "greedy".to_owned(),
            temperature => format!("temperature {}", setting(*temperature)),
        };
        format!(
            "{name}: {} of {}{sees}, {drawn}, at most {} a turn and {} a prompt{stated}",
            counted(*rounds as usize, "round"),
            joined(members, speaker),
            counted(*max_tokens as usize, "token"),
            count(most),
        )
    })
}

/// The steps of the extrapolation, its factor, the benchmark, and the number of evaluations.
fn extrapolation(extrapolation: &Extrapolation, length: Length, experiment: &Experiment) -> String {
    let Extrapolation { factor, rounds, powers_of, judged_by, weights, origin: _ } = extrapolation;
    let judge = &experiment.benchmarks[judged_by.0 as usize].name;
    let moved = match weights.as_slice() {
        [] => String::new(),
        weights => format!(" of {}", joined(weights, |group| group.name().to_owned())),
    };
    let candidates = counted(*rounds as usize, "candidate");
    let evaluations = match length {
        Length::Steps(steps) => {
            let times = u64::from(powers_up_to(*powers_of, steps)) * (1 + u64::from(*rounds));
            format!("; `{judge}` is evaluated up to {}", counted(times as usize, "time"))
        }
        Length::Epochs(_) => String::new(),
    };
    format!(
        "after steps that are powers of {powers_of}, extends the change{moved} since the last such step by \
         factor {}, up to {candidates}, while `{judge}` improves{evaluations}",
        setting(*factor)
    )
}

/// A part of a stage as a separate stage.
fn on_its_own(part: &Train) -> Train {
    let mut part = part.clone();
    part.objective.terms.iter_mut().for_each(|term| term.data = None);
    part
}

/// Which weights a stage changes, if not all.
fn weights(trainable: &Trainable, experiment: &Experiment) -> Option<String> {
    let listed = |filters: &[WeightFilter]| {
        joined(filters, |filter| match filter {
            WeightFilter::Group(group) => group.name().to_owned(),
            WeightFilter::Layers { first, last } => format!("layers {first} to {last}"),
            WeightFilter::Changed(ChangedElements { after, before, beyond }) => {
                let [after, before] = [after, before].map(|id| &experiment.model(*id).name);
                format!("elements in which `{after}` and `{before}` differ by more than {}", setting(*beyond))
            }
        })
    };
    match trainable {
        Trainable::Adapter(adapter) => Some(self::adapter(adapter)),
        Trainable::Weights { only: None, except } if except.is_empty() => None,
        Trainable::Weights { only: None, except } => Some(format!("all but {}", listed(except))),
        Trainable::Weights { only: Some(only), except } if except.is_empty() => Some(listed(only)),
        Trainable::Weights { only: Some(only), except } => {
            Some(format!("{}, but not {}", listed(only), listed(except)))
        }
    }
}

fn adapter(adapter: &Adapter) -> String {
    let dropout =
        if adapter.dropout > 0.0 { format!(", dropout {}", setting(adapter.dropout)) } else { String::new() };
    let layers =
        adapter.layers.map(|(first, last)| format!(" of layers {first} to {last}")).unwrap_or_default();
    let targets = joined(&adapter.targets, |target| target.name().to_owned());
    let (kind, rank, alpha) = (adapter.kind.name(), adapter.rank, setting(adapter.alpha));
    format!("{kind} of rank {rank}, alpha {alpha}{dropout}, on {targets}{layers}")
}

/// `specialist[sort] = expert[sort]`, `insider = self.ema(0.99), sees hint`
fn teacher(teacher: &Teacher, experiment: &Experiment) -> String {
    let weights = match &teacher.weights {
        TeacherWeights::Model(model) => experiment.model(*model).name.clone(),
        TeacherWeights::Student(SelfCopy::Current) => "self".to_owned(),
        TeacherWeights::Student(SelfCopy::Initial) => "self.initial".to_owned(),
        TeacherWeights::Student(SelfCopy::Ema { rate }) => format!("self.ema({})", setting(*rate)),
        TeacherWeights::Student(SelfCopy::Every { steps }) => format!("self.every({steps} steps)"),
        TeacherWeights::Trained { member } => format!("{member}, trained together"),
        TeacherWeights::Served { engine, model, .. } => format!("served({engine:?}, model: {model:?})"),
        TeacherWeights::Composed { logits, .. } => {
            joined(logits, |part| format!("{} * logits({})", formula(&part.weight), part.role.name()))
                .replace(", ", " + ")
        }
        TeacherWeights::Pooled { pool, members } => {
            format!(
                "{}({})",
                pool.name(),
                joined(members, |part| format!("{} {}", percent(part.weight), part.role.name()))
            )
        }
        TeacherWeights::Panelist { speaker, .. } => format!("{} in a panel", speaker.name()),
        TeacherWeights::Parameter => teacher.name.clone(),
    };
    let of = if weights == teacher.name { String::new() } else { format!(" = {weights}") };
    let sees = teacher.sees.as_ref().map(|template| format!(", sees {}", template.name)).unwrap_or_default();
    let temperature = match teacher.temperature {
        1.0 => String::new(),
        temperature => format!(", at temperature {}", setting(temperature)),
    };
    format!("{}{of}{sees}{temperature}", teacher.name)
}

fn tokens(train: &Train) -> String {
    let size = match train.size {
        BatchSize::Prompts(prompts) => counted(prompts as usize, "prompt"),
        BatchSize::Sequences(sequences) => counted(sequences as usize, "sequence"),
    };
    // A step trains on one mini-batch.
    let each = if train.options.mini_batches > 1 { "a batch" } else { "a step" };
    let edits = |text: String| {
        train.rollout.edits.iter().fold(text, |text, edit| format!("{text}, then {}", edit.name()))
    };
    match &train.rollout.source {
        RolloutSource::Data { field } => edits(format!("the data field `{field}`, {size} {each}")),
        RolloutSource::Sample(sampling) => {
            edits(format!("the student: {size} {each}, {}", samples(sampling)))
        }
        RolloutSource::From { teacher, sequences: Some(sequences), sampling, .. } => {
            let whose = if teacher.name() == "teacher" { "the routed teachers" } else { teacher.name() };
            let kept = match train.keep {
                Keep::All => "",
                Keep::Correct => ", the correct ones only",
            };
            let made = count(u64::from(*sequences));
            let batch = size.trim_end_matches(" sequences").trim_end_matches(" sequence");
            edits(format!("{whose}, once: {made} sequences{kept}, {}; {batch} {each}", samples(sampling)))
        }
        RolloutSource::EachTurn { .. } => {
            let (count, prompts) = size.split_once(' ').unwrap_or((&size, ""));
            let of = if prompts == "prompt" { "trajectory" } else { "trajectories" };
            format!("{}; all turns of {count} {of} {each}", normal_form(train).prefixes)
        }
        // Layered rollouts are shown as in the normal form.
        _ => format!("{}; {size} {each}", normal_form(train).prefixes),
    }
}

pub fn samples(sampling: &Sampling) -> String {
    let most = [
        sampling.top_p.map(|p| format!(", top_p {}", setting(p))),
        sampling.top_k.map(|k| format!(", top_k {k}")),
        sampling.repetition_penalty.map(|penalty| format!(", repetition penalty {}", setting(penalty))),
        sampling.heads.map(|heads| format!(", {} heads, accept {}", heads.heads, setting(heads.accept))),
        stops(&sampling.stop),
    ];
    let most: String = most.into_iter().flatten().collect();
    format!(
        "{}{most}, at most {} tokens",
        drawn(sampling.n, &sampling.temperature()),
        formula(&sampling.max_tokens)
    )
}

pub fn stops(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| format!(", up to {}", joined(texts, |text| format!("{text:?}"))))
}

pub fn drawn(n: u32, temperature: &Temperature) -> String {
    let at = match temperature {
        Temperature::Constant(0.0) => return "greedy".to_owned(),
        Temperature::Constant(value) => setting(*value),
        scheduled => scheduled.to_string(),
    };
    format!("{} each at temperature {at}", counted(n as usize, "sample"))
}

fn optimizer(train: &Train) -> String {
    if let Some(Private { clip, epsilon, delta }) = train.options.private {
        return format!(
            "private AdamW, each example's gradient at most {}, epsilon {}, delta {}",
            setting(clip),
            setting(epsilon),
            setting(delta),
        );
    }
    match &train.optimizer {
        Optimizer::AdamW(adam) => format!(
            "AdamW, betas {} {}, epsilon {}, weight decay {}, gradient norm at most {}",
            setting(adam.beta1),
            setting(adam.beta2),
            setting(adam.epsilon),
            setting(adam.weight_decay),
            setting(adam.clip_norm),
        ),
        Optimizer::Sgd(sgd) => {
            format!(
                "SGD, momentum {}, gradient norm at most {}",
                setting(sgd.momentum),
                setting(sgd.clip_norm)
            )
        }
    }
}

fn rate(rate: &Formula) -> String {
    match &rate.0.kind {
        FormulaKind::Number(value) => setting(*value),
        FormulaKind::Schedule(schedule) => self::schedule(schedule),
        _ => formula(rate),
    }
}

fn schedule(schedule_: &Schedule) -> String {
    let over = |over: &ScheduleLength| match over {
        ScheduleLength::Run => String::new(),
        ScheduleLength::Steps(steps) => format!(" over {steps} steps"),
        ScheduleLength::Share(share) => format!(" over {} of the run", percent(*share)),
    };
    match schedule_ {
        Schedule::Constant { value } => setting(*value),
        Schedule::Linear { from, to, over: by } => {
            format!("linear {} -> {}{}", setting(*from), setting(*to), over(by))
        }
        Schedule::Cosine { from, to, over: by } => {
            format!("cosine {} -> {}{}", setting(*from), setting(*to), over(by))
        }
        Schedule::Exponential { from, to, over: by } => {
            format!("exponential {} -> {}{}", setting(*from), setting(*to), over(by))
        }
        Schedule::Piecewise { pieces } => {
            joined(pieces, |(step, value)| format!("{} from step {step}", setting(*value)))
        }
        Schedule::Alternate { values, every } => {
            format!("{}, alternating every {every} steps", joined(values, |value| setting(*value)))
        }
        Schedule::Warmup { steps, then } => format!("warm-up over {steps} steps, then {}", schedule(then)),
    }
}

/// The slots of a normal form, indented below the objective's name.
pub fn slots(form: &NormalForm) -> OutlineRows {
    vec![
        ("  prefixes", form.prefixes.clone()),
        ("  sequence selection", form.sequence_selection.clone()),
        ("  token allocation", form.token_allocation.clone()),
        ("  support", form.support.clone()),
        ("  mass", form.mass.clone()),
        ("  divergence", form.divergence.clone()),
        ("  evaluation", form.evaluation.clone()),
        ("  shaping", form.shaping.clone()),
        ("  realisation", form.realisation.clone()),
        ("  terms", form.terms.clone()),
    ]
}
