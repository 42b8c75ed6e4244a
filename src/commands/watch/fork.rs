//! Stages that go on with another text than they began with, where the author asked for that.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use mopd_compiler::plan::difference::{Fate, Item, Kind, difference};
use mopd_compiler::plan::events::{Event, Fork};
use mopd_compiler::plan::{ModelId, Plan};

use crate::commands::Compiled;

/// What can change under a stage that is at work, beside its objective: what its weights, its optimiser's moments and its place in
/// the data mean stays what it is.
const SETTINGS: &[&str] = &["lr", "steps", "beta1", "beta2", "epsilon", "weight_decay", "clip_norm"];

/// A run, from its begin on.
pub struct Begun {
    pub compiled: Rc<Compiled>,
    /// Its stages that did not begin with their first step.
    pub forks: Vec<Fork>,
    /// The last of each stage and seed that is under way: its key and its step.
    pub checkpoints: HashMap<(String, u64), (String, u32)>,
}

impl Begun {
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Checkpoint { stage, seed, key, step } => {
                self.checkpoints.insert((stage.clone(), *seed), (key.clone(), *step));
            }
            Event::StageFinished { stage, seed, .. } | Event::StageKept { stage, seed } => {
                self.checkpoints.remove(&(stage.clone(), *seed));
            }
            _ => {}
        }
    }

    /// The forks of the next run: those of this one that the edit leaves as they are, for what is made of them is theirs alone; and,
    /// where `wanted`, of what was under way.
    pub fn forks(&self, next: &Compiled, wanted: bool) -> Vec<Fork> {
        let edit = difference(&self.compiled.plan, &next.plan);
        let reruns: HashSet<&str> = edit.reruns.iter().map(String::as_str).collect();
        let named = |name: &str| next.plan.experiment.models.iter().any(|model| model.name == name);
        let mut forks: Vec<Fork> =
            self.forks.iter().filter(|fork| named(&fork.stage) && !reruns.contains(fork.stage.as_str())).cloned().collect();
        if !wanted {
            return forks;
        }
        for Item { kind, name, fate } in &edit.items {
            if *kind == Kind::Stage && fits(fate) && inputs_stay(&next.plan, name, &reruns) {
                let here = self.checkpoints.iter().filter(|((stage, _), _)| stage == name);
                forks.extend(here.map(|((stage, seed), (key, step))| Fork {
                    stage: stage.clone(),
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

fn fits(fate: &Fate) -> bool {
    let Fate::Changed { settings, .. } = fate else { return false };
    settings.iter().all(|change| SETTINGS.contains(&change.what.as_str()))
}

fn inputs_stay(plan: &Plan, name: &str, reruns: &HashSet<&str>) -> bool {
    let name_of = |id: &ModelId| plan.experiment.model(*id).name.as_str();
    let stage = plan.experiment.models.iter().find(|model| model.name == name);
    stage.is_some_and(|model| model.stage.inputs().iter().all(|input| !reruns.contains(name_of(input))))
}

#[cfg(test)]
mod tests {
    use mopd_lang::source::SourceFile;

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
  objective = closer, rollout = sample(n: 1, temperature: 1.0, max_tokens: 6), prompts = 8, steps = 6, lr = 1e-3
}
"#;

    fn compiled(text: &str) -> Rc<Compiled> {
        let analysis = mopd_lang::analyse(SourceFile { path: "tiny.mopd".into(), text: text.into() }, &crate::host::standard);
        let experiment = analysis.experiment.as_ref().unwrap_or_else(|| panic!("{:?}", analysis.diagnostics));
        let plan = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).expect("it can run");
        Rc::new(Compiled { sources: analysis.sources, plan })
    }

    fn begun(forks: Vec<Fork>) -> Begun {
        let mut begun = Begun { compiled: compiled(TEXT), forks, checkpoints: HashMap::new() };
        for (stage, step) in [("start", 7), ("student", 3)] {
            begun.note(&Event::Checkpoint { stage: stage.into(), seed: 1, key: format!("key of {stage}"), step });
        }
        begun
    }

    fn forked(begun: &Begun, from: &str, to: &str, wanted: bool) -> Vec<(String, u32)> {
        assert!(TEXT.contains(from), "{from}");
        let forks = begun.forks(&compiled(&TEXT.replace(from, to)), wanted);
        forks.into_iter().map(|fork| (fork.stage, fork.step)).collect()
    }

    #[test]
    fn what_leaves_weights_and_data_their_meaning_can_be_forked() {
        let student = vec![("student".to_owned(), 3)];
        for (from, to) in [
            ("live kl(student || teacher)", "0.5 * live kl(student || teacher)"),
            ("steps = 6, lr = 1e-3", "steps = 6, lr = linear(1e-3 -> 0)"),
            ("steps = 6", "steps = 60"),
        ] {
            assert_eq!(forked(&begun(Vec::new()), from, to, true), student, "{to}");
            assert!(forked(&begun(Vec::new()), from, to, false).is_empty(), "nobody asked for it");
        }
        assert!(forked(&begun(Vec::new()), "prompts = 8", "prompts = 4", true).is_empty(), "another place in the data");
        assert_eq!(forked(&begun(Vec::new()), "steps = 20", "steps = 30", true), [("start".to_owned(), 7)], "its teacher is new");
    }

    #[test]
    fn a_finished_stage_is_not_forked_and_a_fork_stays_until_its_stage_changes() {
        let mut done = begun(Vec::new());
        done.note(&Event::StageFinished { stage: "student".into(), seed: 1, seconds: 1.0, peak_memory: None });
        assert!(forked(&done, "steps = 6", "steps = 60", true).is_empty());
        let fork = Fork { stage: "student".into(), seed: 1, key: "of before".into(), step: 2 };
        let mut before = begun(vec![fork]);
        before.checkpoints.clear();
        assert_eq!(forked(&before, "experiment \"tiny\"", "experiment \"other\"", false), [("student".to_owned(), 2)]);
        assert!(forked(&before, "steps = 6", "steps = 60", false).is_empty());
    }
}
