//! Checks of `peer.correct`: whether a teacher's own completions are right. The teacher writes as many for
//! each prompt as the group has, with the same settings.

use mopd_lang::diag::Diagnostic;
use mopd_plan::{Objective, Rollout, Scorers, TeacherChoice, View};

use crate::lower::refusal::{Origins, refused};

pub fn refusal(
    objective: &Objective,
    rollout: &Rollout,
    scorers: &Scorers,
    origins: Origins,
) -> Option<Diagnostic> {
    let at = origins.span(objective.origin);
    objective.attempts().into_iter().find_map(|role| {
        let signal = format!("`{}.correct`", scorers.name(role));
        let refuse = |of: &str| Some(*refused(at, format!("{signal} {of}")));
        if let Some(why) = scorers.choices(role).iter().find_map(why_it_cannot_write) {
            return refuse(why);
        }
        // The teacher writes with the settings of this rollout, one completion for each sample.
        let producer = &rollout.producer;
        if !producer.samples_at_each_step() || rollout.may_drop() {
            let help = "sample the stage's completions by `sample(...)`, and keep all of them";
            return Some(
                refuse(
                    "together with completions that are not sampled by `sample(...)` at every \
                step",
                )?
                .help(help),
            );
        }
        None
    })
}

/// The reason why a teacher can't write completions of its own in a step, if there is one.
pub fn why_it_cannot_write(choice: &TeacherChoice) -> Option<&'static str> {
    if choice.teacher.composition().is_some() {
        return Some("of a teacher that has its own temperature or is composed of other teachers");
    }
    if choice.own_tokens {
        return Some("of a teacher with another tokenizer");
    }
    let of_completions = choice.sees.as_ref().is_some_and(View::of_completions);
    of_completions.then_some("of a teacher whose template shows the outcome of a completion")
}
