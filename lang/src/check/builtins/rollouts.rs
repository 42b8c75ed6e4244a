//! Built-in rollouts, the sources of the tokens that an objective scores. Each is declared with its arguments
//! and read below; its properties are in `experiment/rollouts/kinds.rs`.

use super::declare::{Arg, builtins};
use super::types::{
    Author, Condition, Count, Dependencies, Drawn, Field, Formula, Fraction, Kept, Positive, Program,
    Rollout, Schedule, Seconds, Secret, Share, StartWeights, Stop, Temperature, Template, Text, Whole,
};

use crate::check::Checker;
use crate::check::rollouts::SamplingArguments;
use crate::check::values::evaluate::Env;
use crate::diag::{Code, Diagnostic, Reported};
use mopd_experiment::formula::Axis;
use mopd_experiment::{Heads, ReplayContents, RolloutEngine, RolloutSource, Sampling};

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

    /// A program of yours responds to each of the student's turns, `at_most` in an episode: one JSON object
    /// per line in, one out. `max_tokens` is that of a turn. `time_limit` is in seconds, for one response.
    /// Results are computed again when a source file in the script's folder changes, or a file or folder of
    /// `depends`.
    #[usage = "turns(\"python3 env.py\", at_most: 30, sample(...))"]
    turns => Turns {
        environment: Program,
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

impl Checker {
    pub(in crate::check) fn rollout_call(&mut self, call: RolloutCall, env: &Env) -> Option<RolloutSource> {
        Some(match call {
            RolloutCall::Sample(given) => RolloutSource::Sample(self.sample(given, env)?),
            RolloutCall::SampledBy(given) => self.sampled_by(given, env)?,
            RolloutCall::From(given) => self.written_by(given, env)?,
            RolloutCall::Data(given) => RolloutSource::Data { field: self.read(given.field, env)? },
            RolloutCall::Mix(given) => {
                let share = self.share(given.share.expr, "the share", env);
                let (first, second) = (self.read(given.first, env), self.read(given.second, env));
                RolloutSource::Mix { share: share?, first: first?, second: second? }
            }
            RolloutCall::TokenMix(given) => {
                let alpha = self.read(given.alpha, env);
                RolloutSource::TokenMix { of: self.read(given.of, env)?, alpha: alpha? }
            }
            RolloutCall::Interleave(given) => {
                let top_k = self.read(given.top_k, env);
                RolloutSource::Interleave { of: self.read(given.of, env)?, top_k: top_k? }
            }
            RolloutCall::Refine(given) => {
                let (by, of) = (self.read(given.by, env), self.read(given.of, env));
                let sees = self.read(given.sees, env)?;
                RolloutSource::Refine { by: by?, sees, of: of? }
            }
            RolloutCall::Snapshot(given) => {
                let model = self.read(given.model, env);
                RolloutSource::Snapshot { of: self.read(given.of, env)?, model: model? }
            }
            RolloutCall::Replay(given) => self.replay(given, env)?,
            RolloutCall::FirstOf(given) => {
                let FirstOf { first, second, third, fourth, .. } = given;
                let choices: Vec<Option<_>> = [Some(first), Some(second), third, fourth]
                    .into_iter()
                    .flatten()
                    .map(|choice| self.read(choice, env))
                    .collect();
                RolloutSource::FirstOf { choices: choices.into_iter().collect::<Option<_>>()? }
            }
            RolloutCall::EachTurn(given) => {
                let (history, of) = (self.read(given.history, env), self.read(given.of, env));
                RolloutSource::EachTurn { history: history?, of: of? }
            }
            RolloutCall::Speculative(given) => {
                let block = self.read(given.block, env);
                RolloutSource::Speculative { of: self.read(given.of, env)?, block: block? }
            }
            RolloutCall::Turns(given) => {
                let environment = self.read(given.environment, env);
                let (at_most, of) = (self.read(given.at_most, env), self.read(given.of, env));
                let time_limit_seconds = self.read(given.time_limit, env)?;
                let depends = self.read(given.depends, env)?.unwrap_or_default();
                RolloutSource::Turns(mopd_experiment::Turns {
                    environment: environment?,
                    time_limit_seconds,
                    depends,
                    at_most: at_most?,
                    of: of?,
                })
            }
            RolloutCall::Denoise(given) => {
                let (steps, block) = (self.read(given.steps, env), self.read(given.block, env));
                let of = self.read(given.of, env);
                RolloutSource::Denoise { steps: steps?, block: block?, of: of? }
            }
            RolloutCall::Derived(given) => {
                let (template, of) = (self.read(given.template, env), self.read(given.from, env));
                RolloutSource::Derived { template: template?, of: of? }
            }
        })
    }

    fn sampled_by(&mut self, given: SampledBy, env: &Env) -> Option<RolloutSource> {
        let (engine, url) = (self.engine(given.engine, env), self.read(given.url, env));
        let (model, push) = (self.read(given.model, env), self.read(given.push, env));
        let (of, every) = (self.read(given.of, env), self.read(given.every, env));
        let key = match given.key.map(|key| self.server_key(key, env)) {
            Some(key) => Some(key?),
            None => None,
        };
        let server = RolloutEngine { engine: engine?, url: url?, model: model?, push: push?, key };
        Some(RolloutSource::SampledBy { server: server.into(), of: of?, every: every? })
    }

    /// `replay(sample(...), capacity: 10_000, share: 0.25, keeps: prompts, while: ..., order: ...)`
    fn replay(&mut self, given: Replay, env: &Env) -> Option<RolloutSource> {
        let (of, capacity) = (self.read(given.of, env), self.read(given.capacity, env));
        let (share, keeps) = (self.read(given.share, env), self.read(given.keeps, env));
        let condition = match given.condition {
            Some(condition) => self.judged_by(condition.expr, env, true, Axis::Group).map(Some),
            None => Some(None),
        };
        let order = match given.order {
            Some(order) => self.judged_by(order.expr, env, false, Axis::Group).map(Some),
            None => Some(None),
        };
        Some(RolloutSource::Replay(mopd_experiment::Replay {
            capacity: capacity?,
            share: share?,
            keeps: keeps?.unwrap_or(ReplayContents::Rollouts),
            condition: condition?,
            order: order?,
            of: of?,
        }))
    }

    /// `heads: 2, accept: 0.95`: each needs the other.
    fn heads(&mut self, given: &Sample, env: &Env) -> Result<Option<Heads>, Reported> {
        let alone = match (given.heads, given.accept) {
            (None, None) => return Ok(None),
            (Some(heads), Some(accept)) => {
                let (heads, accept) = (self.read(heads, env), self.read(accept, env));
                return match (heads, accept) {
                    (Some(heads), Some(accept)) => Ok(Some(Heads { heads, accept })),
                    _ => Err(Reported),
                };
            }
            (Some(heads), None) => heads.expr,
            (None, Some(accept)) => accept.expr,
        };
        let text = "several heads need to know when a later one is kept";
        self.report(
            Diagnostic::error(Code::MissingArgument, alone.span, text)
                .help("write both: `heads: 2, accept: 0.95`"),
        );
        Err(Reported)
    }

    fn sample(&mut self, given: Sample, env: &Env) -> Option<Sampling> {
        let n = self.read(given.n, env);
        let temperature = self.read(given.temperature, env);
        let max_tokens = self.read(given.max_tokens, env);
        let (top_p, top_k) = (given.top_p.map(Arg::expr), given.top_k.map(Arg::expr));
        let stop = given.stop.map(Arg::expr);
        let sampling = self.sampling(
            SamplingArguments { n, temperature: temperature.clone(), max_tokens, top_p, top_k, stop },
            env,
        );
        let repetition_penalty = self.read(given.repetition_penalty, env)?;
        let heads = self.heads(&given, env).ok()?;
        Some(Sampling { repetition_penalty, heads, ..sampling? })
    }

    /// `from(teacher, sequences: 9600, ...)`: generated once; `from(teacher, n: 1, ...)`: every step.
    fn written_by(&mut self, given: From, env: &Env) -> Option<RolloutSource> {
        let teacher = self.read(given.teacher, env);
        let lacks =
            [(given.temperature.is_none(), "temperature"), (given.max_tokens.is_none(), "max_tokens")];
        for (_, name) in lacks.iter().filter(|(lacks, _)| *lacks) {
            let text = format!("`from` needs `{name}`");
            self.report(
                Diagnostic::error(Code::MissingArgument, given.call.span, text)
                    .label("not given here")
                    .help("write `from(teacher, sequences: 9600, temperature: 1.0, max_tokens: 24)`"),
            );
        }
        if let (Some(sequences), Some(n)) = (given.sequences, given.n) {
            self.report(
                Diagnostic::error(
                    Code::UnknownArgument,
                    n.expr.span,
                    "`n` and `sequences` are two different experiments",
                )
                .note(sequences.expr.span, "made once, so many in all")
                .help("write `n` for fresh completions of every prompt, `sequences` for a fixed set"),
            );
            return None;
        }
        let (temperature, max_tokens) = (given.temperature?, given.max_tokens?);
        let sequences = self.read(given.sequences, env)?;
        let n = self.read(given.n, env).map(|n| n.unwrap_or(1));
        let temperature = self.read(temperature, env);
        let max_tokens = self.read(max_tokens, env);
        let (top_p, top_k) = (given.top_p.map(Arg::expr), given.top_k.map(Arg::expr));
        let stop = given.stop.map(Arg::expr);
        let sampling =
            self.sampling(SamplingArguments { n, temperature, max_tokens, top_p, top_k, stop }, env);
        let sees = self.read(given.sees, env)?;
        Some(RolloutSource::From { teacher: teacher?, sees, sequences, sampling: sampling? })
    }
}
