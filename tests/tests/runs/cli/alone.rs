//! Objectives that no stage uses: what no stage can run is said by `check`, `audit` and `try`.

use super::{GOOD, Place};

const WAITING: &str = r#"/// Waits for denoising.
pub objective waiting(k: count) {
  select      = masked
  term follow = live kl(student || teacher, support: top_k(teacher, k), mass: raw)
  reduce      = mean(token) then mean(sequence)
}
"#;

/// It needs a reference, pairs of samples, and a teacher: stages have them.
const USUAL: &str = r#"pub objective usual(guide: teacher, most: nats) {
  term policy = -zscore(reward, over: group, deviation: sample) * live student.logp
  term near   = live kl(student || reference)
  term seek   = clip(guide.logp - student.logp, -most, most) * live student.logp
  reduce      = mean(token) then mean(sequence)
}
"#;

/// Only completions with an environment have such rewards. No teacher is in it.
const PLAYED: &str = r#"pub objective played {
  term policy = -reward.turn * live student.logp
  reduce      = mean(token) then mean(sequence)
}
"#;

const SAID: [&str; 3] = ["warning[not-supported-yet]", "`masked`", "no stage can run `waiting`"];

#[test]
fn what_no_stage_can_run_is_said_of_the_objective_alone() {
    let both = format!("{GOOD}{WAITING}");
    let place = Place::with(&[("a.mopd", WAITING), ("b.mopd", USUAL), ("c.mopd", &both), ("d.mopd", PLAYED)]);
    for file in ["a.mopd", "c.mopd"] {
        for arguments in [vec!["check", file], vec!["audit", file], vec!["try", file, "waiting"]] {
            let said = place.mopd(&arguments);
            let all = format!("{}{}", said.out, said.err);
            assert!(SAID.iter().all(|part| all.contains(part)), "{arguments:?}: {said:?}");
        }
    }
    let runs = [("b.mopd", "usual"), ("d.mopd", "played")];
    let commands = |(file, name)| [vec!["check", file], vec!["audit", file], vec!["try", file, name]];
    for arguments in runs.into_iter().flat_map(commands) {
        let said = place.mopd(&arguments).is(0, &[]);
        assert!(!format!("{}{}", said.out, said.err).contains("not-supported-yet"), "{said:?}");
    }
}

/// Every objective of the library that some experiment of the methods runs, passes.
#[test]
fn objectives_that_run_are_not_reported() {
    let place = Place::new();
    for module in ["opd", "rl", "gkd", "minillm", "distillm", "tip", "opsd", "ppo", "estimators", "kd", "sft"]
    {
        let said = place.mopd(&["check", &format!("std.{module}")]);
        assert!(!said.out.contains("not-supported-yet"), "{module}: {said:?}");
    }
    for module in ["d_opsd", "compass"] {
        let said = place.mopd(&["check", &format!("std.{module}")]).is(0, &[]);
        assert!(said.out.contains("warning[not-supported-yet]"), "{module}: {said:?}");
    }
}
