//! `mopd plan --predict --cluster FILE`: the predicted cost of stages on several machines.

use std::path::Path;

use mopd_compiler::cluster::{Bottleneck, Cluster, StagePrediction, simulate};
use mopd_compiler::export::stage::trained;
use mopd_plan::{Plan, Producer, Stage};

use crate::figures;
use crate::output;
use crate::problem::Problem;

pub fn predict(plan: &Plan, file: &Path) -> Result<(), Problem> {
    let cluster = read(file)?;
    let mut said = 0;
    for (model, named) in trained(plan) {
        // Stages without teachers or with other rollouts are not simulated.
        let Stage::Train(train) = &named.stage else { continue };
        if train.scorers.routed().is_empty() || !matches!(train.rollout.producer, Producer::Student(_)) {
            continue;
        }
        let prediction = simulate(plan, model, &cluster).map_err(|error| {
            let problem = Problem::usage("wrong-cluster", format!("{}: {error}", file.display()));
            match error.help() {
                Some(help) => problem.help(help),
                None => problem,
            }
        })?;
        output::result(&text(&named.name, file, &prediction));
        said += 1;
    }
    if said == 0 {
        let message = "no stage has teachers and completions that the student writes, so none is simulated";
        return Err(Problem::usage("wrong-cluster", message));
    }
    output::note(
        "simulated from operations and bytes, with completions as long as their limits: as good as the rates in the file\n",
    );
    Ok(())
}

fn read(file: &Path) -> Result<Cluster, Problem> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        let reason = mopd_store::files::reason(&error);
        Problem::usage("unreadable-file", format!("can't read {}: {reason}", file.display()))
    })?;
    toml::from_str(&text).map_err(|error| {
        let fault = error.message().to_owned();
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
        Problem::usage("wrong-cluster", format!("{}{place}: {fault}", file.display()))
            .help("the book's page on clusters has a whole file")
    })
}

fn text(stage: &str, file: &Path, prediction: &StagePrediction) -> String {
    let StagePrediction { seconds, steps, uses, bottleneck } = prediction;
    let step = seconds / f64::from((*steps).max(1));
    let mut text = format!(
        "predicted {stage} on {}: {}, {} a step\n",
        file.display(),
        figures::duration(*seconds),
        figures::duration(step)
    );
    for of in uses {
        text += &format!("  {:<16} idle {:>3.0}%\n", of.name, of.idle * 100.0);
    }
    let Bottleneck { name, share, kinds } = bottleneck;
    let kinds: Vec<String> = kinds.iter().map(|of| format!("{} {:.0}%", of.kind, of.share * 100.0)).collect();
    text += &format!("  bottleneck: {name}, {:.0}% of the time ({})\n", share * 100.0, kinds.join(", "));
    text
}
