//! All signals and live primitives of a step.

use mopd_expr::batch::Batch;
use mopd_plan::{ModelSignal, Role, Signal};

use super::compose::compose;
use super::context::Scoring;
use super::data_signals::of_data;
use super::logits::{logits_of, shared};
use super::panels;
use super::pass::ScoringPass;
use super::runs::runs;
use crate::failure::Result;
use crate::train::rollouts::Rollouts;
use crate::train::sequences::Sequences;
use crate::train::views::available;

/// The signals that diagnostics read at every step, besides those of the objective.
pub const STUDENT_LOGP: Signal = Signal::Of { role: Role::Student, part: ModelSignal::Logp };
pub const TEACHER_LOGP: Signal = Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp };
pub const STUDENT_ENTROPY: Signal = Signal::Of { role: Role::Student, part: ModelSignal::Entropy };

/// Computes everything that the objective's graph and the diagnostics read at this step.
pub fn score(scoring: &Scoring, rollouts: &Rollouts, step: u32) -> Result<(Batch, ScoringPass)> {
    let objective = &scoring.stage.train.objective;
    let sequences = &rollouts.sequences;
    // The other models first, so that their weights are freed before the student's activations are computed.
    let (mut others, mut spans) = (Vec::new(), Vec::new());
    for (index, role) in scoring.roles.iter().copied().enumerate() {
        let known =
            rollouts.known.borrow().iter().find(|(of, _)| *of == role).map(|(_, logits)| shared(logits));
        let last = index + 1 == scoring.roles.len();
        let logits = match known {
            Some(known) => known,
            None => {
                let (logits, of_role) = logits_of(scoring, role, rollouts, step, last)?;
                spans.extend(of_role);
                logits
            }
        };
        others.push((role, logits));
    }
    scoring.models.release();

    let Scoring { stage, model, models, .. } = *scoring;
    let recorded = scoring.recorded.signals(stage.packing(), model, models, sequences, stage.control)?;
    let mut forward = ScoringPass::new(scoring, rollouts, others, spans)?;
    let layout = sequences.layout.clone();
    let mut signals = of_data(scoring.stage.train, &scoring.stage.sources, sequences)?;
    signals.extend(rollouts.old.borrow().iter().cloned());
    signals.extend(recorded);
    signals.extend(scoring.losses.signals());
    signals.extend(scoring.tags.iter().flat_map(|tags| tags.signals(&scoring.stage.sources, sequences)));
    for signal in objective.signals().into_iter().chain(scoring.stage.train.scorers.signals()) {
        if signals.iter().any(|(known, _)| *known == signal) {
            continue;
        }
        if let Some(values) = panels::signal(&scoring.stage.train.panels, &signal, sequences) {
            signals.push((signal, values));
        } else if let Signal::Available { role } = signal {
            signals.push((signal, availability(scoring, role, sequences)?));
        }
    }
    let mut batch = Batch { layout, signals, step, steps: scoring.stage.steps, ..Batch::default() };
    compose(scoring, sequences, &mut forward, &mut batch)?;
    forward.read_rest(objective)?;
    let mut wanted = objective.graph.signals(&objective.outputs());
    // Parameters of divergences read these signals, so they are computed first.
    forward.read(&objective.signals_inside(), &[], objective, sequences, &mut batch)?;
    wanted.extend([STUDENT_LOGP, STUDENT_ENTROPY]);
    if scoring.roles.contains(&Role::TEACHER) && !scoring.models.own_tokens(Role::TEACHER) {
        wanted.push(TEACHER_LOGP);
    }
    forward.read(&wanted, &objective.live, objective, sequences, &mut batch)?;
    Ok((batch, forward))
}

/// Computes numbers of the student alone.
pub fn score_student(
    scoring: &Scoring,
    rollouts: &Rollouts,
    signals: &[Signal],
    step: u32,
) -> Result<(Batch, ScoringPass)> {
    let Rollouts { sequences, .. } = rollouts;
    scoring.models.release();
    let forward = ScoringPass::new(scoring, rollouts, Vec::new(), Vec::new())?;
    let layout = sequences.layout.clone();
    let mut batch = Batch { layout, step, steps: scoring.stage.steps, ..Batch::default() };
    forward.read(signals, &[], &scoring.stage.train.objective, sequences, &mut batch)?;
    Ok((batch, forward))
}

/// 1 for each sequence for which a role has everything that it reads, otherwise 0: `[sequences]`.
fn availability(scoring: &Scoring, role: Role, sequences: &Sequences) -> Result<Vec<f32>> {
    let mut values = vec![0.0; sequences.list.len()];
    for run in runs(scoring, role, sequences)? {
        let view = run.scored.and_then(|scored| scoring.models.sees(scored));
        for member in run.members.filter(|_| run.scored.is_some()) {
            values[member] = f32::from(u8::from(available(view, sequences, member)?));
        }
    }
    Ok(values)
}
