//! An objective and the completions it is trained on: whether these have what its terms read.

use crate::check::Checker;
use crate::check::objectives::reads_group;
use crate::check::stages::settings::BlockSettings;
use crate::check::stages::streams::{
    Stream, is_score_function, reads_sampler, reads_verdict, reshaped, streams, term_reads,
};
use crate::diag::{Code, Diagnostic};
use crate::experiment::{Objective, Rollout, RolloutSource};
use crate::formula::Role;

impl Checker {
    /// Whether a teacher writes or chooses some of the tokens, whatever the objective says.
    pub(in crate::check) fn rollouts_ask_teacher(&self, objective: &Objective, rollout: &Rollout) -> bool {
        objective.rollouts(rollout).into_iter().any(|rollout| {
            rollout.source.facts().asks_teacher.is_some() || rollout.writers().contains(&&Role::Teacher)
        })
    }

    /// Whether every term is trained on completions that have what it reads.
    pub(in crate::check) fn check_rollouts(
        &mut self,
        objective: &Objective,
        rollout: &Rollout,
        settings: &BlockSettings,
    ) -> bool {
        streams(objective, rollout).into_iter().all(|stream| {
            self.check_someone_samples(objective, &stream, settings)
                && self.check_sampler_recorded(objective, &stream)
                && self.check_whole_distribution(objective, &stream)
                && self.check_group(objective, &stream, settings)
        })
    }

    /// What only the student's own rollouts have: a reward, and the probability of what was drawn.
    fn check_someone_samples(
        &mut self,
        objective: &Objective,
        &Stream { term, rollout }: &Stream,
        settings: &BlockSettings,
    ) -> bool {
        let read = rollout.sampling().is_none();
        let of_teacher = matches!(rollout.source, RolloutSource::From { .. }) && term.data.is_none();
        let verdict = read && term_reads(objective, term, reads_verdict);
        let sampler = (read || of_teacher) && term_reads(objective, term, reads_sampler);
        if !verdict && !sampler {
            return true;
        }
        let place = self.span(objective.origin);
        self.report(
            Diagnostic::error(
                Code::NoRollout,
                settings.span,
                "the objective reads a reward or the sampler, but nothing is rolled out by the student here",
            )
            .note(place, "this objective")
            .help("use it in `grpo` or `distill`, whose prefixes are the student's own rollouts"),
        );
        false
    }

    /// A ratio needs the probabilities with which tokens were drawn.
    fn check_sampler_recorded(&mut self, objective: &Objective, &Stream { term, rollout }: &Stream) -> bool {
        let Some(why) = rollout.unrecorded().filter(|_| term_reads(objective, term, reads_sampler)) else {
            return true;
        };
        let span = self.span(rollout.origin);
        let at = self.place_of(objective, reads_sampler);
        self.report(
            Diagnostic::error(
                Code::OffPolicyRatio,
                span,
                "nobody recorded with which probability these tokens were drawn",
            )
            .label(why)
            .note(at, "`ratio` or `sampler` is read here")
            .help(
                "draw the completions with `sample(...)`, or use a term that needs no sampler, such as \
                 `live kl(...)`",
            ),
        );
        false
    }

    /// A term that weighs tokens by their probability is right for completions of that distribution alone.
    fn check_whole_distribution(
        &mut self,
        objective: &Objective,
        &Stream { term, rollout }: &Stream,
    ) -> bool {
        let weighs = term_reads(objective, term, reads_sampler) || is_score_function(objective, term);
        let Some(sampling) = reshaped(rollout).filter(|_| weighs) else { return true };
        let (title, label, without) = match (sampling.whole(), sampling.repetition_penalty) {
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
        let (span, at) = (self.span(rollout.origin), self.span(term.origin));
        self.report(
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

    /// What is compared within a group needs two of it.
    fn check_group(
        &mut self,
        objective: &Objective,
        &Stream { term, rollout }: &Stream,
        settings: &BlockSettings,
    ) -> bool {
        if !reads_group(objective) || rollout.group() >= 2 {
            return true;
        }
        let span = match &term.data {
            Some(data) => self.span(data.origin),
            None => settings.place(&["samples", "rollout"]),
        };
        let place = self.span(objective.origin);
        self.report(
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
}
