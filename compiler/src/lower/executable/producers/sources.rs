//! Converts the sources of rollouts. A source with others inside converts these first.

use std::rc::Rc;

use mopd_experiment::formula::Role as CheckedRole;
use mopd_experiment::{self as checked, BatchSize, Edit, Heads, ModelId, Origin, RolloutSource};
use mopd_lang::source::Span;
use mopd_plan::producers::{
    EachTurn, FirstOf, Guidance, Guided, Model, PrecomputedRollouts, Refine, Replay, SampledBy, Speculative,
    Teacher, Turns, first_of_each,
};
use mopd_plan::{Axis, Engine, Keep, Producer, RolloutServer, Sampling, Signal};

use super::edits::{edit_inside, edit_name, other_edits};
use super::sampling::{samples, samples_once, sampling, sampling_once};
use super::{OfCompletions, derived, producer};
use crate::lower::executable::schedules::adaptive_schedule;
use crate::lower::executable::template;
use crate::lower::refusal::{Converted, Origins, refused, role};

/// The source of a rollout, as the runtime executes it.
pub(super) fn source(
    rollout: &checked::Rollout,
    keep: Keep,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let (origin, at) = (rollout.origin, origins.span(rollout.origin));
    let name = rollout.source.name();
    match &rollout.source {
        RolloutSource::Data { field } => Ok(Producer::data(field)),
        RolloutSource::Sample(of) => student(of, origin, origins),
        RolloutSource::SampledBy { server, of, every } => sampled_by(server, *every, of, origin, origins),
        RolloutSource::From { teacher, sees, sequences, sampling } => {
            let once = sequences.map(|sequences| PrecomputedRollouts { sequences, keep });
            from_teacher(teacher, sees.as_deref(), sampling, once, origin, origins)
        }
        RolloutSource::Snapshot { model, of } => snapshot(*model, of, true, origins),
        RolloutSource::Mix { share, first, second } => mix(share, [first, second], origins, of_completions),
        RolloutSource::Replay(replay) => replayed(replay, at, origins, of_completions),
        RolloutSource::Turns(turns) => with_turns(turns, rollout, origins, of_completions),
        RolloutSource::TokenMix { alpha, of } => {
            let alpha = adaptive_schedule(alpha, "an `alpha` of a `token_mix`", origins)?;
            guided(Guidance::TokenMix { alpha }, of, name, origins)
        }
        RolloutSource::Interleave { top_k, of } => {
            guided(Guidance::Interleave { top_k: *top_k }, of, name, origins)
        }
        RolloutSource::Refine { by, sees, of } => refine(by, sees.as_deref(), of, origin, origins),
        RolloutSource::FirstOf { choices } => first_of(choices, origins, of_completions),
        RolloutSource::Derived { template, of } => {
            derived::executable(template, of, origin, origins, of_completions)
        }
        RolloutSource::Speculative { .. } | RolloutSource::EachTurn { .. } => {
            Err(refused(at, format!("the rollout `{name}` inside another one")))
        }
        RolloutSource::Parameter { name, .. } => {
            Err(refused(at, format!("the rollout `{name}`, a parameter without a value")))
        }
        RolloutSource::Denoise { .. } => Err(refused(at, format!("the rollout `{name}`"))),
    }
}

/// With `heads` it may sample two tokens per step.
fn student(of: &checked::Sampling, origin: checked::Origin, origins: Origins) -> Converted<Producer> {
    let accept = match of.heads {
        None => None,
        Some(Heads { heads: 2, accept }) => Some(accept),
        Some(_) => return Err(refused(origins.span(origin), "sampling with more than two output heads")),
    };
    let one = checked::Sampling { heads: None, ..of.clone() };
    Ok(Producer::student(Sampling { accept, ..sampling(&one, origins, origin)? }))
}

/// Rollouts of teachers, generated before the first step if `once` is set.
pub(super) fn from_teacher(
    writer: &CheckedRole,
    sees: Option<&checked::Template>,
    of: &checked::Sampling,
    once: Option<PrecomputedRollouts>,
    origin: Origin,
    origins: Origins,
) -> Converted<Producer> {
    let sees = sees.map(|shown| template::view(shown, origins.span(origin), origins)).transpose()?;
    let drawn = if once.is_some() { sampling_once } else { sampling };
    let sampling = drawn(of, origins, origin)?;
    let writer = role(writer, origins.at(origin))?;
    Ok(Teacher { writer, sees, once, sampling }.into())
}

pub(super) fn snapshot(
    model: ModelId,
    of: &checked::Rollout,
    once: bool,
    origins: Origins,
) -> Converted<Producer> {
    let sampling = if once { samples_once } else { samples }(of, "snapshot", origins)?;
    Ok(Model { once, model, sampling }.into())
}

fn sampled_by(
    server: &checked::RolloutEngine,
    every: u32,
    of: &checked::Rollout,
    origin: Origin,
    origins: Origins,
) -> Converted<Producer> {
    let at = origins.span(origin);
    let checked::RolloutEngine { engine, url, model, push, key } = server;
    let engine = Engine::named(engine).expect("the checker knows the engines");
    let refuse = |what: &str, help: &str| {
        let refusal = *refused(at, format!("`sampled_by({:?})`{what}", engine.name()));
        Err(Box::new(refusal.help(help.to_owned())))
    };
    let sampling = samples(of, "sampled_by", origins)?;
    if engine != Engine::Mopd {
        // Except at these settings, the server's log-probabilities depend on how it was started.
        if !sampling.temperature.is_one() {
            let what = format!(" at temperature {}", sampling.temperature);
            return refuse(&what, "sample at temperature 1, or by `mopd serve`");
        }
        if !sampling.is_plain() {
            let what = " with `top_k`, `top_p` or `repetition_penalty`";
            return refuse(what, "leave them out, or sample by `mopd serve`");
        }
        if !sampling.stop.is_empty() {
            return refuse(" with `stop`", "end completions by `max_tokens`, or sample by `mopd serve`");
        }
    }
    let (url, model, push, key) = (url.clone(), model.clone(), push.clone(), key.clone());
    let server = RolloutServer { engine, url, model, push, key };
    Ok(SampledBy { server, sampling, every }.into())
}

/// `name` is the word of the rollout.
fn guided(guidance: Guidance, of: &checked::Rollout, name: &str, origins: Origins) -> Converted<Producer> {
    let of = Producer::student(samples(of, name, origins)?);
    Ok(Guided { guidance, of }.into())
}

fn refine(
    by: &CheckedRole,
    sees: Option<&checked::Template>,
    of: &checked::Rollout,
    origin: Origin,
    origins: Origins,
) -> Converted<Producer> {
    let of = Producer::student(samples(of, "refine", origins)?);
    let sees = sees.map(|shown| template::view(shown, origins.span(origin), origins)).transpose()?;
    let by = role(by, origins.at(origin))?;
    Ok(Refine { by, sees, of }.into())
}

/// Converts the source. It must be a stage's own rollout, or a term's. Since a rejected draft is no
/// completion, completions can't be chosen, edited or stored for later.
pub(super) fn speculative(
    block: u32,
    of: &checked::Rollout,
    train: &checked::Train,
    origins: Origins,
) -> Converted<Producer> {
    let rollout = &train.rollout;
    let at = origins.span(rollout.origin);
    if let Some(edit) = rollout.edits.first() {
        return Err(refused(at, format!("the edit `{}` of the rollout `speculative`", edit.name())));
    }
    let of = Producer::student(samples(of, "speculative", origins)?);
    if train.keep != Keep::All {
        return Err(refused(at, "`keep = correct` of the rollout `speculative`"));
    }
    if let Some(filter) = &train.filter {
        return Err(refused(origins.span(filter.0.origin), "a `filter` of the rollout `speculative`"));
    }
    Ok(Speculative { block, rejects: false, of }.into())
}

/// Converts the source. It must be a stage's own rollout: a step then draws trajectories, not prompts, so it
/// can't be combined with other rollouts.
pub(super) fn each_turn(
    history: &checked::Rollout,
    of: &checked::Rollout,
    train: &checked::Train,
    origins: Origins,
) -> Converted<Producer> {
    let rollout = &train.rollout;
    let (at, recorded) = (origins.span(rollout.origin), origins.span(history.origin));
    if let Some(edit) = rollout.edits.first() {
        return Err(refused(at, format!("the edit `{}` of the rollout `each_turn`", edit.name())));
    }
    if let Some(edit) = history.edits.first() {
        return Err(refused(recorded, edit_name(edit)));
    }
    let RolloutSource::Data { field: trajectory } = &history.source else {
        let construct = format!("`each_turn` of trajectories from `{}`", history.source.name());
        return Err((*refused(recorded, construct))
            .help("read them from the data: `data(trajectory)`")
            .into());
    };
    let of = Producer::student(samples(of, "each_turn", origins)?);
    if train.keep != Keep::All {
        return Err(refused(at, "`keep = correct` of the rollout `each_turn`"));
    }
    if let Some(filter) = &train.filter {
        return Err(refused(origins.span(filter.0.origin), "a `filter` of the rollout `each_turn`"));
    }
    if let BatchSize::Sequences(_) = train.size {
        let construct = "a batch of the rollout `each_turn` that is counted in sequences";
        return Err((*refused(at, construct)).help("count trajectories: `prompts = 8`").into());
    }
    Ok(EachTurn { trajectory: trajectory.clone(), of }.into())
}

/// The deepest nesting of mixes. The number of a node in the tree, in 32 bits, selects its random numbers.
const LEVELS: usize = 30;

fn mix(
    share: &checked::formula::Formula,
    [first, second]: [&checked::Rollout; 2],
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let side = |rollout| side(rollout, "mix", origins, of_completions);
    let at = origins.span(share.0.origin);
    let share = adaptive_schedule(share, "a share of a `mix`", origins)?;
    let place = origins.span(second.origin);
    let (first, second) = (side(first)?, side(second)?);
    let groups = [&first, &second].map(|side| side.kind().group());
    if groups[0] != groups[1] {
        let [first, second] = groups;
        return Err(refused(place, format!("a `mix` of groups of {first} and of {second} samples")));
    }
    if [&first, &second].iter().any(|side| levels(side) >= LEVELS) {
        return Err(refused(at, format!("a `mix` of more than {LEVELS} levels")));
    }
    Ok(Producer::mix(share, first, second))
}

/// Converts one of several rollouts among which prompts are divided.
fn side(
    rollout: &checked::Rollout,
    of: &str,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    if let Some(edit) = other_edits(rollout).next() {
        return Err(edit_inside(edit, of, at));
    }
    match producer(rollout, Keep::All, origins, of_completions)? {
        producer if producer.once().is_some() => {
            Err(refused(at, format!("a `{of}` of rollouts that are made once")))
        }
        producer => Ok(producer),
    }
}

/// The depth of the tree of producers, where several inside one count as nested pairs.
fn levels(producer: &Producer) -> usize {
    let inner = producer.kind().inner();
    let most = inner.len().max(2) - 1;
    let level = |(place, inner): (usize, &Producer)| (place + 1).min(most) + levels(inner);
    inner.into_iter().enumerate().map(level).max().unwrap_or(0)
}

fn first_of(
    choices: &[Rc<checked::Rollout>],
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let mut made: Vec<Producer> = Vec::with_capacity(choices.len());
    for choice in choices {
        let at = origins.span(choice.origin);
        let producer = side(choice, "first_of", origins, of_completions)?;
        if producer.all().into_iter().any(|inside| matches!(inside, Producer::FirstOf(_))) {
            return Err(refused(at, "a `first_of` inside another"));
        }
        let (group, first) = (producer.kind().group(), made.first().map(|first| first.kind().group()));
        if let Some(first) = first.filter(|first| *first != group) {
            return Err(refused(at, format!("a `first_of` of groups of {first} and of {group} samples")));
        }
        made.push(producer);
    }
    let mut first_of = FirstOf::new(made);
    let declared: Vec<_> = choices.iter().map(|choice| origins.span(choice.source_origin)).collect();
    let of_settings = first_of.shared();
    let places: Vec<usize> = (0..choices.len()).collect();
    // Data is the same wherever it is declared.
    let is_drawn = |place: usize| !first_of.choices[place].drawn().is_empty();
    let shared = first_of_each(&places, |one, other| {
        of_settings[*one] == of_settings[*other] && (declared[*one] == declared[*other] || !is_drawn(*one))
    });
    if shared != of_settings {
        first_of.same_as = shared.into_iter().map(|index| index as u32).collect();
    }
    Ok(first_of.into())
}

fn replayed(
    replay: &checked::Replay,
    at: Span,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let checked::Replay { capacity, share, keeps, condition, order, of } = replay;
    if let Some(edit) = other_edits(of).next() {
        return Err(edit_inside(edit, "replay", origins.span(of.origin)));
    }
    let inside = producer(of, Keep::All, origins, of_completions)?;
    if inside.once().is_some() || !inside.is_redrawn() {
        return Err(refused(at, "a `replay` of completions that are the same at every step"));
    }
    let share = adaptive_schedule(share, "a share of a `replay`", origins)?;
    let condition = condition
        .as_ref()
        .map(|condition| of_completions(condition, "the `while` of a `replay`", Axis::Group));
    let order = order.as_ref().map(|order| of_completions(order, "the `order` of a `replay`", Axis::Group));
    Ok(Replay {
        of: inside,
        capacity: *capacity,
        share,
        keeps: *keeps,
        condition: condition.transpose()?,
        order: order.transpose()?,
    }
    .into())
}

fn with_turns(
    turns: &checked::Turns,
    rollout: &checked::Rollout,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let checked::Turns { environment, time_limit_seconds, depends, at_most, of } = turns;
    let at = origins.span(of.origin);
    let sampling = samples(of, "turns", origins)?;
    let number = |formula: &checked::formula::Formula, name: &str| {
        let lowered = of_completions(formula, &format!("`{name}`"), Axis::Group)?;
        match lowered.graph.signals(&[lowered.value]).iter().all(Signal::is_of_step) {
            true => Ok(lowered),
            false => Err(refused(at, format!("`{name}` of a number that is not the step's alone"))),
        }
    };
    let (mut first_turns, mut expert_turns) = (None, None);
    for edit in &rollout.edits {
        let twice = match edit {
            Edit::FirstTurns { turns } => first_turns.replace(number(turns, "first_turns")?).is_some(),
            Edit::ExpertTurns { turns } => {
                let number = number(turns.number(), "expert_turns")?;
                expert_turns.replace(turns.with(number)).is_some()
            }
            _ => false,
        };
        if twice {
            return Err(refused(origins.span(rollout.origin), format!("{} twice", edit_name(edit))));
        }
    }
    Ok(Turns {
        environment: environment.clone(),
        time_limit_seconds: *time_limit_seconds,
        depends: depends.clone(),
        at_most: adaptive_schedule(at_most, "an `at_most`", origins)?,
        first_turns,
        expert_turns,
        sampling,
    }
    .into())
}
