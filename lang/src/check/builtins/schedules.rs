//! Schedules: numbers over training time.

use super::declare::builtins;
use super::types::{
    Arrow, Condition, Count, Formula, Fraction, Numbers, Over, Pieces, Positive, Real, Schedule,
};

builtins! { Schedule: ScheduleName, ScheduleCall {
    /// The same number at every step.
    #[usage = "constant(1e-3)"]
    constant => Constant { value: Real },

    /// Linear from one number to the other, constant afterwards.
    #[usage = "linear(0 -> 1, over: 100 steps)"]
    linear => Linear { range: Arrow, over: Option<Over> },

    /// Half a cosine from one number to the other, constant afterwards.
    #[usage = "cosine(1e-3 -> 1e-4)"]
    cosine => Cosine as Linear,

    /// From one number to the other by a constant factor per step; both are positive.
    #[usage = "exponential(1e-3 -> 1e-5)"]
    exponential => Exponential as Linear,

    /// Pairs of a step and the value from that step on; the first step is 0.
    #[usage = "piecewise([0 -> 1e-3, 100 -> 1e-4])"]
    piecewise => Piecewise { pieces: Pieces },

    /// Cycles through the values, each for `every` steps.
    #[usage = "alternate([0, 1], every: 10 steps)"]
    alternate => Alternate { values: Numbers, every: Count },

    /// Rises linearly from 0 over this many steps, then follows another schedule, which starts there.
    #[usage = "warmup(20 steps, then: 1e-3)"]
    warmup => Warmup { steps: Count, then: Schedule },

    /// Starts with the first value, and moves to the next when the condition holds after a step; `every` sets
    /// how often it is tested.
    #[usage = "ladder([1024, 2048], advance_if: mean(student.entropy, over: batch) >= 0.4)"]
    ladder => Ladder { values: Numbers, advance_if: Condition, every: Count = 1 },

    /// A number from 0 to 1, drawn every `hold` steps from a Beta distribution that is trained to raise
    /// `gain`, discounted by `discount` per step. `lr` is how far that moves; the default is ours.
    #[usage = "learned(gain: previous(loss) - loss, hold: 10 steps)"]
    learned => Learned { gain: Formula, hold: Count, discount: Fraction = 1.0, lr: Positive = 0.1 },
}}
