//! Random numbers for objectives that select at random.

use mopd_expr::batch::Batch;
use mopd_plan::{Axis, Objective, Signal};

use crate::random::Purpose;
use crate::train::stage::StageKeys;

/// Adds the uniform numbers of every draw in the objective. They depend on seed, stage, step and position in
/// the batch only.
pub fn add_uniforms(keys: StageKeys, objective: &Objective, step: u32, batch: &mut Batch) {
    for signal in objective.graph.signals(&objective.outputs()) {
        let Signal::Uniform { draw, axis } = signal else { continue };
        let key = keys.key(Purpose::Select, u64::from(draw) << 32 | u64::from(step));
        let values = match axis {
            // A sequence's numbers do not depend on how long the others are.
            Axis::Token => {
                let sequences = batch.layout.sequence_of_token.chunk_by(|one, next| one == next);
                let values = sequences.flat_map(|tokens| {
                    let mut uniforms = key.row(tokens[0], 0);
                    std::iter::repeat_with(move || uniforms.uniform()).take(tokens.len())
                });
                values.map(below_one).collect()
            }
            _ => (0..batch.layout.len(axis))
                .map(|index| below_one(key.row(index as u32, 0).uniform()))
                .collect(),
        };
        batch.signals.push((signal, values));
    }
}

/// A uniform number in single precision, below 1: rounding alone could give 1.
fn below_one(uniform: f64) -> f32 {
    (uniform as f32).min(1.0f32.next_down())
}
