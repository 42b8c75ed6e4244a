//! Built-in rollouts, the sources of the tokens that an objective scores. Each is declared with its arguments
//! and read in `rollouts/calls.rs`; its properties are in `experiment/rollouts/kinds.rs`.

use super::declare::builtins;
use super::types::{
    Author, Condition, Count, Dependencies, Drawn, Environment, Field, Formula, Fraction, Kept, Positive,
    Rollout, Schedule, Seconds, Secret, Share, StartWeights, Stop, Temperature, Template, Text, Whole,
};

builtins! { Rollout: RolloutName, RolloutCall {
    /// The student's own completions, `n` of each prompt, fresh at every step. With `heads` it generates that
    /// many tokens at once, and keeps those after the first if their confidence reaches `accept`. A
    /// completion ends after the first text of `stop`.
    #[usage = "sample(n: 1, temperature: 1.0, max_tokens: 24)"]
    sample => Sample {
        n: Count,
        temperature: Temperature,
        max_tokens: Whole,
        top_p: Option<Fraction>,
        top_k: Option<Count>,
        repetition_penalty: Option<Positive>,
        heads: Option<Count<2>>,
        accept: Option<Fraction>,
        stop: Option<Stop>,
    },

    /// The student's own completions, sampled by a server. Before a step that draws, the weights are sent as
    /// files: `push` is a folder that both can access. With `every: 4 steps` they are sent only when the
    /// server's are that old, so completions come from weights up to three updates old. `key` is the key that
    /// the server requires.
    #[usage = "sampled_by(\"mopd\", url: \"http://gpu:8000\", model: \"m\", push: \"w\", sample(...))"]
    sampled_by => SampledBy {
        engine: Text,
        url: Secret,
        model: Text,
        push: Text,
        of: Drawn,
        key: Option<Secret>,
        every: Count = 1,
    },

    /// A teacher's completions: `n` of each prompt at every step, or `sequences` in total, generated once
    /// before the first step.
    #[usage = "from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)"]
    from => From {
        teacher: Author,
        sequences: Option<Count>,
        temperature: Option<Temperature>,
        max_tokens: Option<Whole>,
        n: Option<Count>,
        top_p: Option<Fraction>,
        top_k: Option<Count>,
        sees: Option<Template>,
        stop: Option<Stop>,
    },

    /// A field of the data as the completion.
    #[usage = "data(answer)"]
    data => Data { field: Field },

    /// Each sequence from the first rollout with probability `share`, otherwise from the second.
    #[usage = "mix(0.5, sample(...), data(answer))"]
    mix => Mix { share: Schedule, first: Rollout, second: Rollout },

    /// Each token is drawn from a mixture with the weight `alpha` for the teacher and the rest for the
    /// student.
    #[usage = "token_mix(0.2, sample(...))"]
    token_mix => TokenMix { alpha: Share, of: Drawn },

    /// The student proposes each token; a token outside the teacher's `top_k` is replaced by one that the
    /// teacher draws.
    #[usage = "interleave(top_k: 25, sample(...))"]
    interleave => Interleave { top_k: Count, of: Drawn },

    /// A teacher rewrites the student's draft.
    #[usage = "refine(by: teacher, of: sample(...), sees: draft_shown)"]
    refine => Refine { by: Author, of: Drawn, sees: Option<Template> },

    /// The completions of a model as it is before the run, generated once.
    #[usage = "snapshot(start, sample(...))"]
    snapshot => Snapshot { model: StartWeights, of: Drawn },

    /// A `share` of every batch comes from earlier rollouts, or from their prompts with new completions.
    /// `while` is the condition to enter and stay, `order` the priority: the smallest first, by default the
    /// oldest.
    #[usage = "replay(sample(...), capacity: 10_000, share: 0.25)"]
    replay => Replay {
        of: Rollout,
        capacity: Count,
        share: Share,
        keeps: Option<Kept>,
        condition "while": Option<Condition>,
        order: Option<Formula>,
    },

    /// The student drafts `block` tokens at a time, the teacher accepts them up to the first that it rejects,
    /// and writes the next one. A draft is a row of its own from the token that was rejected on: `accepted`
    /// and `offset` tell both apart.
    #[usage = "speculative(block: 16, sample(...))"]
    speculative => Speculative { block: Count, of: Drawn },

    /// A class of Python or a program of yours responds to each of the student's turns, `at_most` in an
    /// episode; a program reads and writes one JSON object per line. `max_tokens` is that of a turn.
    /// `time_limit` is in seconds, for one response. Results are computed again when a source file in the
    /// folder of the class or script changes, or a file or folder of `depends`.
    #[usage = "turns(python(\"shop.py:Shop\"), at_most: 30, sample(...))"]
    turns => Turns {
        environment: Environment,
        at_most: Whole,
        of: Drawn,
        time_limit: Seconds = 30.0,
        depends: Option<Dependencies>,
    },

    /// Blocks of `block` tokens, each filled over `steps` denoising steps.
    #[usage = "denoise(steps: 4, block: 4, sample(...))"]
    denoise => Denoise { steps: Count, block: Count, of: Drawn },

    /// New prompts, which the student completes: a template shows what it wrote of a prompt before, and what
    /// a teacher answers. A prompt for which something of that is missing keeps the completions that it has.
    #[usage = "derived(compare_answers, from: sample(...))"]
    derived => Derived { template: Template, from: Drawn },

    /// For each prompt, the first rollout that has a completion.
    #[usage = "first_of(tried |> keep(correct), hinted)"]
    first_of => FirstOf { first: Rollout, second: Rollout, third: Option<Rollout>, fourth: Option<Rollout> },

    /// One prompt for each turn of a recorded trajectory, with the turns before it.
    #[usage = "each_turn(data(trajectory), sample(...))"]
    each_turn => EachTurn { history: Rollout, of: Drawn },
}}
