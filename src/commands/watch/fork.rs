//! Forks: with `--fork`, stages that resume from a checkpoint of an earlier version of the text.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use mopd_plan::difference::{ChangeKind, DifferenceKind, ItemChange, difference};
use mopd_plan::events::{Event, Fork};
use mopd_plan::{ModelId, Plan};

use crate::commands::sweep::{Sweep, SweepRun};

/// The settings, besides the objective, that may change during a stage: weights, optimizer state and data
/// position keep their meaning.
const SETTINGS: &[&str] = &["lr", "steps", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm"];

/// The key of a stage in a plan, with a seed. Runs of a sweep that share a stage share its key.
type StageKey = (String, u64);

/// A sweep since its start.
pub struct StartedSweep {
    pub sweep: Rc<Sweep>,
    /// For each member, its stages that did not begin at their first step.
    pub forks: Vec<Vec<Fork>>,
    /// The last checkpoint of each running stage.
    checkpoints: HashMap<StageKey, StageCheckpoint>,
}

struct StageCheckpoint {
    /// Its key in the store.
    key: String,
    step: u32,
}

impl StartedSweep {
    pub fn new(sweep: Rc<Sweep>, forks: Vec<Vec<Fork>>) -> StartedSweep {
        StartedSweep { sweep, forks, checkpoints: HashMap::new() }
    }

    /// Records an event of a member's run.
    pub fn note(&mut self, member: usize, event: &Event) {
        let compiled = self.sweep.members.get(member).and_then(|member| member.compiled.clone());
        let stage = |name: &str, seed: u64| Some((key_of(&compiled.as_ref()?.plan, name)?.to_owned(), seed));
        match event {
            Event::Checkpoint { stage: name, seed, key, step } => {
                if let Some(stage) = stage(name, *seed) {
                    self.checkpoints.insert(stage, StageCheckpoint { key: key.clone(), step: *step });
                }
            }
            Event::StageFinished { stage: name, seed, .. } | Event::StageKept { stage: name, seed } => {
                if let Some(stage) = stage(name, *seed) {
                    self.checkpoints.remove(&stage);
                }
            }
            _ => {}
        }
    }

    /// The forks of the next runs, for each member: forks of these runs in stages that the edit does not
    /// change, since their results have keys of their own; and, if `wanted`, new forks of running stages. A
    /// member that did not exist before has none.
    pub fn forks(&self, next: &Sweep, wanted: bool) -> Vec<Vec<Fork>> {
        let of_member = |member: &SweepRun| {
            let before = self.sweep.members.iter().position(|before| before.name() == member.name())?;
            let was = self.sweep.members[before].compiled.as_ref()?;
            Some(self.forks_of(&was.plan, &self.forks[before], &member.compiled.as_ref()?.plan, wanted))
        };
        next.members.iter().map(|member| of_member(member).unwrap_or_default()).collect()
    }

    fn forks_of(&self, before: &Plan, forks: &[Fork], next: &Plan, wanted: bool) -> Vec<Fork> {
        let edit = difference(before, next);
        let reruns: HashSet<&str> = edit.reruns.iter().map(String::as_str).collect();
        let named = |name: &str| next.experiment.models.iter().any(|model| model.name == name);
        let mut forks: Vec<Fork> = forks
            .iter()
            .filter(|fork| named(&fork.stage) && !reruns.contains(fork.stage.as_str()))
            .cloned()
            .collect();
        if !wanted {
            return forks;
        }
        for ItemChange { kind, name, fate, .. } in &edit.items {
            if *kind == DifferenceKind::Stage && fits(fate) && inputs_stay(next, name, &reruns) {
                let here =
                    self.checkpoints.iter().filter(|((stage, _), _)| key_of(before, name) == Some(stage));
                forks.extend(here.map(|((_, seed), StageCheckpoint { key, step })| Fork {
                    stage: name.clone(),
                    seed: *seed,
                    key: key.clone(),
                    step: *step,
                }));
            }
        }
        forks.sort_by(|a, b| (&a.stage, a.seed).cmp(&(&b.stage, b.seed)));
        forks
    }
}

/// The key in a plan of the stage with this name.
fn key_of<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
    let mut stages = plan.experiment.models.iter().zip(&plan.stages);
    stages.find(|(model, _)| model.name == name).map(|(_, facts)| facts.key.as_str())
}

fn fits(fate: &ChangeKind) -> bool {
    let ChangeKind::Changed { settings, .. } = fate else { return false };
    settings.iter().all(|change| SETTINGS.contains(&change.what.as_str()))
}

fn inputs_stay(plan: &Plan, name: &str, reruns: &HashSet<&str>) -> bool {
    let name_of = |id: &ModelId| plan.experiment.model(*id).name.as_str();
    let stage = plan.experiment.models.iter().find(|model| model.name == name);
    stage.is_some_and(|model| model.stage.inputs().iter().all(|input| !reruns.contains(name_of(input))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
objective closer {
  term t = live kl(student || teacher)
  reduce = mean(token, over: batch)
}
experiment "tiny" { seed = 1 }
domain copy { prompts = "copy.jsonl", tests = "copy.jsonl", reward = exact_match }
model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 1e-3 }
teacher one = start
route { else -> one }
model student = distill(base) {
  objective = closer
  rollout = sample(n: 1, temperature: 1.0, max_tokens: 6), prompts = 8, steps = 6, lr = 1e-3
}
"#;

    const SWEPT: &str = "param scale: real = 1\nsweep { scale in [1, 5] }\nexperiment ";

    fn sweep(text: &str) -> Rc<Sweep> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tiny.mopd");
        std::fs::write(&file, text).expect("a file");
        let checked = crate::commands::sweep::check(&file, &[], &mut |_| ()).expect("it can be read");
        Rc::new(checked.sweep.unwrap_or_else(|| panic!("{:?}", checked.analysis.diagnostics)))
    }

    fn started(text: &str, forks: Vec<Fork>) -> StartedSweep {
        let sweep = sweep(text);
        let forks = sweep.members.iter().map(|_| forks.clone()).collect();
        let mut started = StartedSweep::new(sweep, forks);
        for (stage, step) in [("start", 7), ("student", 3)] {
            started.note(
                0,
                &Event::Checkpoint { stage: stage.into(), seed: 1, key: format!("key of {stage}"), step },
            );
        }
        started
    }

    /// Stages and steps, by member.
    fn forked_by(
        started: &StartedSweep,
        text: &str,
        from: &str,
        to: &str,
        wanted: bool,
    ) -> Vec<Vec<(String, u32)>> {
        assert!(text.contains(from), "{from}");
        let forks = started.forks(&sweep(&text.replace(from, to)), wanted).into_iter();
        forks.map(|forks| forks.into_iter().map(|fork| (fork.stage, fork.step)).collect()).collect()
    }

    fn forked(started: &StartedSweep, from: &str, to: &str, wanted: bool) -> Vec<(String, u32)> {
        let [forks] = forked_by(started, TEXT, from, to, wanted).try_into().expect("one run");
        forks
    }

    #[test]
    fn edits_that_keep_weights_and_data_can_fork() {
        let student = vec![("student".to_owned(), 3)];
        for (from, to) in [
            ("live kl(student || teacher)", "0.5 * live kl(student || teacher)"),
            ("steps = 6, lr = 1e-3", "steps = 6, lr = linear(1e-3 -> 0)"),
            ("steps = 6", "steps = 60"),
        ] {
            assert_eq!(forked(&started(TEXT, Vec::new()), from, to, true), student, "{to}");
            assert!(forked(&started(TEXT, Vec::new()), from, to, false).is_empty(), "nobody asked for it");
        }
        assert!(
            forked(&started(TEXT, Vec::new()), "prompts = 8", "prompts = 4", true).is_empty(),
            "another place in the data"
        );
        let new_teacher = forked(&started(TEXT, Vec::new()), "steps = 20", "steps = 30", true);
        assert_eq!(new_teacher, [("start".to_owned(), 7)], "its teacher is new");
    }

    #[test]
    fn a_finished_stage_is_not_forked_and_a_fork_stays_until_its_stage_changes() {
        let mut done = started(TEXT, Vec::new());
        done.note(
            0,
            &Event::StageFinished { stage: "student".into(), seed: 1, seconds: 1.0, peak_memory: None },
        );
        assert!(forked(&done, "steps = 6", "steps = 60", true).is_empty());
        let fork = Fork { stage: "student".into(), seed: 1, key: "of before".into(), step: 2 };
        let before = StartedSweep::new(sweep(TEXT), vec![vec![fork]]);
        assert_eq!(
            forked(&before, "experiment \"tiny\"", "experiment \"other\"", false),
            [("student".to_owned(), 2)]
        );
        assert!(forked(&before, "steps = 6", "steps = 60", false).is_empty());
    }

    /// The first member was running: stages that it shares with the second one can be forked for both.
    #[test]
    fn members_of_a_sweep_share_the_forks_of_what_they_share() {
        let text = TEXT.replace("experiment ", SWEPT).replace("term t = live kl", "term t = scale * live kl");
        let before = started(&text, Vec::new());
        let fork = |stage: &str, step| (stage.to_owned(), step);
        assert_eq!(
            forked_by(&before, &text, "steps = 20", "steps = 30", true),
            [vec![fork("start", 7)], vec![fork("start", 7)]],
            "it teaches both"
        );
        assert_eq!(
            forked_by(&before, &text, "steps = 6", "steps = 60", true),
            [vec![fork("student", 3)], vec![]]
        );
        assert_eq!(
            forked_by(&before, &text.replace("[1, 5]", "[5, 1, 7]"), "steps = 6", "steps = 60", true),
            [vec![], vec![fork("student", 3)], vec![]],
            "by name, not by place"
        );
    }
}
