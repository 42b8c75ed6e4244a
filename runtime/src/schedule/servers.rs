//! Probes the servers of a plan for `mopd doctor FILE`: their identities, and whether a run could use them.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, FailureKind, ServerReport, ServersJob};
use mopd_plan::producers::SampledBy;
use mopd_plan::{ModelId, Objective, Plan, Producer, RolloutServer, Served, Train};

use super::preflight::check_schema;
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::prepare::{ReadContext, model_specs};
use crate::remote::StudentIdentity;
use crate::remote::probe::{Findings, TIME_LIMIT, probe_sampling, probe_teacher};
use crate::store::Store;

/// Time limit of all probes, which run in parallel: the ids of a large vocabulary take hundreds of
/// requests.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of checks whether the job is to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Clone, PartialEq)]
enum ProbedServer {
    Teacher(Served),
    Rollouts(RolloutServer),
}

/// A server, the start model of its student, and the report that says which teacher needs it.
struct ServerProbe {
    server: ProbedServer,
    start: ModelId,
    /// The longest completion that it reads or writes. The data, and so the longest prompt, is not read.
    completion: u32,
    report: ServerReport,
}

/// Reports the identity and the supported requests of each server of a plan.
pub fn servers(job: &ServersJob, control: &Control) -> Result<()> {
    let plan = &job.run.plan;
    check_schema(plan)?;
    let (base, store) = (Path::new(&job.run.base), Path::new(&job.run.store));
    let places = ReadContext { base, notes: &Store::notes(store), cache: None, store: None };
    let specs = match job.read_models.then(|| model_specs(plan, places)).transpose() {
        Ok(specs) => specs,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        // The servers can be probed nonetheless.
        Err(Error::Failed(failure)) => {
            control.emit(&Event::Refused(*failure));
            None
        }
    };
    let (done, ended) = channel();
    let asked = asked(plan);
    let mut findings = Vec::new();
    for (place, ServerProbe { server, start, completion, report }) in asked.into_iter().enumerate() {
        let found = Arc::new(Findings::new(report));
        findings.push((found.clone(), false));
        let spec = specs.as_ref().map(|specs| &specs[start.0 as usize]);
        let tokenizer = spec.map(|spec| spec.tokenizer.clone());
        // A prompt has a token at least.
        let longest = completion as usize + 1;
        let (base, done, dtype) = (base.to_owned(), done.clone(), plan.experiment.dtype);
        // A thread that takes too long is not joined: the process ends without it.
        thread::spawn(move || {
            let student = tokenizer.as_ref();
            let student = student.map(|tokenizer| StudentIdentity { tokenizer, longest, dtype });
            match &server {
                ProbedServer::Teacher(served) => probe_teacher(served, student, TIME_LIMIT, &found),
                ProbedServer::Rollouts(server) => {
                    probe_sampling(server, &base, student, TIME_LIMIT, &found);
                }
            }
            done.send(place)
        });
    }
    drop(done);
    let until = Instant::now() + SERVER_TIMEOUT;
    while Instant::now() < until {
        control.check()?;
        match ended.recv_timeout(POLL_INTERVAL) {
            Ok(place) => findings[place].1 = true,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    for (found, ended) in findings {
        let mut report = found.report_so_far();
        if !ended {
            let message = format!(
                "the server {} did not answer within {} s",
                report.url.as_deref().unwrap_or_default(),
                SERVER_TIMEOUT.as_secs()
            );
            let slow = Error::new(FailureKind::Model, message).help("read its log: it may be overloaded");
            if let Error::Failed(slow) = slow {
                report.problems.push(*slow);
            }
        }
        control.emit(&Event::ServerFound { report: Box::new(report) });
    }
    Ok(())
}

/// The servers of a plan, once for each pair of teacher and start model.
fn asked(plan: &Plan) -> Vec<ServerProbe> {
    let mut all: Vec<ServerProbe> = Vec::new();
    let mut add = |server: ProbedServer, train: &Train<Objective>, (stage, teacher): (&str, Option<&str>)| {
        let start = train.start;
        let drawn = train.producers().flat_map(Producer::drawn);
        let completion = drawn.map(|(_, sampling)| sampling.max_tokens).max().unwrap_or(0);
        let same = |known: &&mut ServerProbe| {
            known.server == server && known.start == start && known.report.teacher.as_deref() == teacher
        };
        if let Some(known) = all.iter_mut().find(same) {
            known.completion = known.completion.max(completion);
            if !known.report.stages.iter().any(|known| known == stage) {
                known.report.stages.push(stage.to_owned());
            }
            return;
        }
        let (engine, model, asked) = match &server {
            ProbedServer::Teacher(served) => (served.engine, served.model.clone(), Some(served.answers)),
            ProbedServer::Rollouts(server) => (server.engine, server.model.clone(), None),
        };
        let report = ServerReport::unasked(stage, teacher, engine, &model);
        all.push(ServerProbe { server, start, completion, report: ServerReport { asked, ..report } });
    };
    for model in &plan.experiment.models {
        for train in model.stage.trains() {
            let choices = train.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
            for (choice, served) in choices.filter_map(|choice| Some((choice, choice.teacher.served()?))) {
                let of = (model.name.as_str(), Some(choice.name.as_str()));
                add(ProbedServer::Teacher(served.clone()), train, of);
            }
            for SampledBy { server, .. } in train.sampled_by() {
                add(ProbedServer::Rollouts(server.clone()), train, (&model.name, None));
            }
        }
    }
    all
}
