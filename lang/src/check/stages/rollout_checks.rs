//! Checks that the completions of a stage have everything that the terms of its objective read.

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{FormulaNode, Role};
use mopd_experiment::{Objective, Rollout, TokensOf};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::objectives::{self, reads_group};
use crate::check::reporter::Reporter;
use crate::check::stages::streams::{
    TermRollout, corrects_for_sampler, draws_greedily, is_score_function, reads_old,
    reads_policy_temperature, reads_sampler, reads_verdict, reshaped, streams, term_reads,
};

/// Whether a teacher writes or selects some of the tokens, independent of the objective.
pub fn rollouts_ask_teacher(objective: &Objective, rollout: &Rollout) -> bool {
    objective.rollouts(rollout).into_iter().any(|rollout| {
        rollout.source.facts().asks_teacher.is_some() || rollout.writers().contains(&&Role::Teacher)
    })
}

/// Whether the completions of every term have what the term reads. Reports the first that lack something.
pub fn check_rollouts(
    reporter: &mut Reporter,
    objective: &Objective,
    rollout: &Rollout,
    settings: &BlockSettings,
) -> bool {
    let streams = streams(objective, rollout);
    let complete = streams.iter().all(|stream| {
        check_someone_samples(reporter, objective, stream, settings)
            && check_sampler_recorded(reporter, objective, stream)
            && check_whole_distribution(reporter, objective, stream)
            && check_one_temperature(reporter, objective, stream)
            && check_group(reporter, objective, stream, settings)
    });
    if complete {
        warn_of_uncorrected_ratio(reporter, objective, &streams);
    }
    complete
}

/// Checks that a reward or the sampler's probability is read of the student's own rollouts only.
fn check_someone_samples(
    reporter: &mut Reporter,
    objective: &Objective,
    &TermRollout { term, rollout }: &TermRollout,
    settings: &BlockSettings,
) -> bool {
    let read = rollout.sampling().is_none();
    let of_teacher = matches!(rollout.source.facts().tokens, TokensOf::By(..)) && term.data.is_none();
    let verdict = read && term_reads(objective, term, reads_verdict);
    let sampler = (read || of_teacher) && term_reads(objective, term, reads_sampler);
    if !verdict && !sampler {
        return true;
    }
    let span = reporter.span(objective.origin);
    reporter.report(
        Diagnostic::error(
            Code::NoRollout,
            settings.span,
            "the objective reads a reward or the sampler, but nothing is rolled out by the student here",
        )
        .note(span, "this objective")
        .help("use it in `grpo` or `distill`, whose prefixes are the student's own rollouts"),
    );
    false
}

/// Checks that the sampling probabilities of a term that reads them were recorded.
fn check_sampler_recorded(
    reporter: &mut Reporter,
    objective: &Objective,
    &TermRollout { term, rollout }: &TermRollout,
) -> bool {
    let Some(why) = rollout.unrecorded().filter(|_| term_reads(objective, term, reads_sampler)) else {
        return true;
    };
    let span = reporter.span(rollout.origin);
    let at = objectives::place_of(reporter, objective, reads_sampler);
    reporter.report(
        Diagnostic::error(
            Code::OffPolicyRatio,
            span,
            "the sampling probabilities of these tokens were not recorded",
        )
        .label(why)
        .note(at, "`sampler` is read here")
        .help(
            "draw the completions with `sample(...)`, or use a term that needs no sampler, such as \
             `live kl(...)`; `old` is the student before these updates, whoever wrote the tokens",
        ),
    );
    false
}

/// Warns of a ratio on tokens that the student did not draw before these updates: it corrects for the
/// updates and not for who drew the tokens.
fn warn_of_uncorrected_ratio(reporter: &mut Reporter, objective: &Objective, streams: &[TermRollout]) {
    let uncorrected = streams.iter().find_map(|&TermRollout { term, rollout }| {
        let why = rollout.drawn_elsewhere()?;
        let uncorrected =
            term_reads(objective, term, reads_old) && !term_reads(objective, term, corrects_for_sampler);
        uncorrected.then_some((rollout, why))
    });
    let Some((rollout, why)) = uncorrected else { return };
    let span = reporter.span(rollout.origin);
    let at = objectives::place_of(reporter, objective, reads_old);
    let help = if rollout.unrecorded().is_some() {
        "the probabilities that these tokens were drawn with are unknown, so nothing can correct for them: \
         draw with `sample(...)`, or use a term that is exact at every prefix, such as `live kl(...)`"
    } else {
        "weight the term, within bounds: `weight = min(exp(old.logp - sampler.logp), 2)`; or write \
         `exp(live student.logp - sampler.logp)` in place of `live ratio`"
    };
    reporter.report(
        Diagnostic::warning(
            Code::OffPolicyRatio,
            span,
            "the ratio does not correct for who drew these tokens",
        )
        .label(why)
        .note(at, "`ratio` and `old` are to the student before the first update from the batch")
        .help(help),
    );
}

/// Checks that a term that weighs tokens by their probability has completions of the whole distribution.
fn check_whole_distribution(
    reporter: &mut Reporter,
    objective: &Objective,
    &TermRollout { term, rollout }: &TermRollout,
) -> bool {
    let reads_policy = |node: &FormulaNode| reads_old(node) || reads_sampler(node);
    let weighs = term_reads(objective, term, reads_policy) || is_score_function(objective, term);
    if weighs && draws_greedily(rollout) {
        let (span, at) = (reporter.span(rollout.origin), reporter.span(term.origin));
        reporter.report(
            Diagnostic::error(Code::OutOfRange, span, "a greedy rollout has no distribution to learn from")
                .label("at temperature 0 every token is certain")
                .note(at, "this term weighs tokens by the probability that they had")
                .help(
                    "write a temperature above 0, 1.0 samples from the model itself; or use a term that is \
                 exact at every prefix, such as `live kl(...)`",
                ),
        );
        return false;
    }
    let Some(sampling) = reshaped(rollout).filter(|_| weighs) else { return true };
    let (title, label, without) = match (sampling.is_full_distribution(), sampling.repetition_penalty) {
        (true, Some(penalty)) => (
            "completions are drawn with a repetition penalty and scored without it",
            format!("`repetition_penalty` = {penalty} makes what is there already less probable"),
            "`repetition_penalty`",
        ),
        _ => {
            let cut = match (sampling.top_p, sampling.top_k) {
                (Some(p), None) => format!("`top_p` = {p}"),
                (None, Some(k)) => format!("`top_k` = {k}"),
                (p, k) => format!("`top_p` = {} and `top_k` = {}", p.unwrap_or(1.0), k.unwrap_or(0)),
            };
            (
                "completions are drawn from a truncated distribution and scored under the whole one",
                format!("{cut} leaves entries out"),
                "`top_p` and `top_k`",
            )
        }
    };
    let (span, at) = (reporter.span(rollout.origin), reporter.span(term.origin));
    reporter.report(
        Diagnostic::error(Code::TruncatedSampling, span, title)
            .label(label)
            .note(at, "this term weighs tokens by the probability that they had")
            .help(format!(
                "draw without {without}, or use a term that is exact at every prefix, such as \
                 `live kl(...)`"
            )),
    );
    false
}

/// Checks that log-probabilities are read of completions of one policy: they are all scored at one
/// temperature.
fn check_one_temperature(
    reporter: &mut Reporter,
    objective: &Objective,
    &TermRollout { term, rollout }: &TermRollout,
) -> bool {
    let states = objective.states.iter().filter(|_| term.data.is_none());
    let read = term_reads(objective, term, reads_policy_temperature)
        || states.into_iter().any(|state| state.next.any(reads_policy_temperature));
    if objective.temperature.is_some() || !read {
        return true;
    }
    let scored_at = rollout.policy_temperature();
    let arms = rollout.arms();
    let Some(other) = arms.into_iter().find(|arm| arm.policy_temperature() != scored_at) else {
        return scored_at.constant().is_some() || check_replayed(reporter, objective, rollout);
    };
    let (span, arm) = (reporter.span(rollout.origin), reporter.span(other.origin));
    let at = objectives::place_of(reporter, objective, reads_policy_temperature);
    let alone = other.policy_temperature();
    reporter.report(
        Diagnostic::error(
            Code::MixedTemperatures,
            span,
            "completions that are drawn at different temperatures would be scored at one",
        )
        .label(format!("all of these would be scored at temperature {scored_at}"))
        .note(arm, format!("the policy that these are drawn from is at temperature {alone}"))
        .note(at, "this log-probability is at the temperature of the trained policy")
        .help(
            "draw all of them at one temperature, or set in the objective at which temperature the \
            policy is trained: `temperature = 1`",
        ),
    );
    false
}

/// Reports a buffer that replays completions of steps with other temperatures than that of the step which
/// scores them. The temperature changes.
fn check_replayed(reporter: &mut Reporter, objective: &Objective, rollout: &Rollout) -> bool {
    if !rollout.replays_completions() {
        return true;
    }
    let span = reporter.span(rollout.origin);
    let at = objectives::place_of(reporter, objective, reads_policy_temperature);
    let text = "replayed completions would be scored at another temperature than they were drawn at";
    reporter.report(
        Diagnostic::error(Code::MixedTemperatures, span, text)
            .label(format!("the temperature changes: {}", rollout.policy_temperature()))
            .note(at, "this log-probability is at the temperature of the trained policy")
            .help(
                "draw at one temperature, replay prompts only (`keeps: prompts`), or set in the \
                objective at which temperature the policy is trained: `temperature = 1`",
            ),
    );
    false
}

/// Checks that an objective that compares within groups has groups of at least two samples.
fn check_group(
    reporter: &mut Reporter,
    objective: &Objective,
    &TermRollout { term, rollout }: &TermRollout,
    settings: &BlockSettings,
) -> bool {
    if !reads_group(objective) || rollout.group() >= 2 {
        return true;
    }
    let span = match &term.data {
        Some(data) => reporter.span(data.origin),
        None => settings.place(&["samples", "rollout"]),
    };
    let place = reporter.span(objective.origin);
    reporter.report(
        Diagnostic::error(
            Code::GroupOfOne,
            span,
            "the samples of one prompt are compared, but there is only one",
        )
        .note(place, "this objective compares within a group")
        .help("draw at least 2 samples of each prompt"),
    );
    false
}
