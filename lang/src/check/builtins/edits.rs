//! Built-in edits of a rollout's completions.

use super::declare::builtins;
use super::types::{Condition, Count, Dependencies, Formula, Program, Rewriting, Seconds, Whole};

builtins! { Edit: EditName, EditCall {
    /// Replaces a pattern in the completions by another text; `{_}` matches any text, other braces are
    /// numbers.
    #[usage = "rewrite(\"Confidence: {_}\" -> \"Confidence: {mean(correct, over: group)}\")"]
    rewrite => Rewrite { change: Rewriting },

    /// Leaves out completions for which the condition does not hold.
    #[usage = "keep(correct)"]
    keep => Keep { condition: Condition },

    /// Resamples a completion until the condition holds; keeps the last attempt if it never does.
    #[usage = "retry(until: correct, at_most: 8)"]
    retry => Retry { until: Condition, at_most: Count },

    /// Of the completions of a prompt, the `of` with the largest number.
    #[usage = "best(reward, of: 1)"]
    best => Best { x: Formula, of: Count },

    /// Trains only on the first turns, this many. Episodes are played to their end.
    #[usage = "first_turns(1 + floor(step / 5))"]
    first_turns => FirstTurns { turns: Whole },

    /// The first turns, this many or `all_but` the last, are the expert's, from the field `expert_turns` of
    /// the data, a list of texts; the student continues from there.
    #[usage = "expert_turns(3)"]
    expert_turns => ExpertTurns { turns: Option<Whole>, all_but: Option<Whole> },

    /// Passes completions through a program of yours, which answers each with another text, or leaves it out:
    /// one JSON object per line in, one out. They are off-policy afterwards. `time_limit` is in seconds, for
    /// the completions of a batch. Results are computed again when a source file in the script's folder
    /// changes, or a file or folder of `depends`.
    #[usage = "through(\"python3 edit.py\")"]
    through => Through { command: Program, time_limit: Seconds = 600.0, depends: Option<Dependencies> },
}}
