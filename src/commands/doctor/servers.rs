//! `mopd doctor FILE`: the servers of an experiment, compared with its requirements.

use std::path::Path;

use mopd_experiment::{Capability, Experiment, TeacherId};
use mopd_expr::jit;
use mopd_lang::Analysis;
use mopd_lang::check::{nearest_form, needed_of};
use mopd_plan::events::{Event, Failure, Job, LONGEST_LIST, ServerReport, ServersJob};
use mopd_plan::{Answers, Engine};

use crate::commands::run::job_of;
use crate::commands::{plan_to_run, report};
use crate::output::{self, Style, hanging, printable};
use crate::problem::Problem;
use crate::{host, paths, worker};

/// The servers of a file, as found.
pub struct ServersFound {
    pub servers: Vec<FoundServer>,
    /// Why students could not be read.
    pub refused: Vec<Failure>,
}

pub struct FoundServer {
    pub report: ServerReport,
    /// The most that the stages need for each token.
    pub needed: Option<Capability>,
}

impl ServersFound {
    pub fn are_usable(&self) -> bool {
        self.refused.is_empty() && self.servers.iter().all(|server| server.report.is_usable())
    }
}

/// Asks each server; `None` where the file is not an experiment, which is reported.
pub fn servers(path: &Path) -> Result<Option<ServersFound>, Problem> {
    let mut analysis = host::analyse_file(path, &[])?;
    let plan = plan_to_run(&mut analysis);
    report(&analysis);
    let (Some(plan), Some(experiment)) = (plan, &analysis.experiment) else { return Ok(None) };
    let fetched = paths::to_fetch(experiment, &host::folder_of(path));
    for name in &fetched {
        output::error(&format!(
            "note: `{name}` must be fetched from the hub first: servers are not compared with students\n"
        ));
    }
    let run = job_of(&plan, path, Path::new("."))?;
    let mut found = ServersFound { servers: Vec::new(), refused: Vec::new() };
    let job = Job::Servers(Box::new(ServersJob { run, read_models: fetched.is_empty() }));
    let failed = |failure: &Failure| Problem::run("servers-not-asked", failure.message.clone());
    let status = worker::ask(&job, failed, |event| match event {
        Event::ServerFound { report } => found.servers.push(FoundServer { report: *report, needed: None }),
        Event::Refused(failure) => found.refused.push(failure),
        _ => {}
    })?;
    if !status.success() {
        return Err(worker::death(status));
    }
    for server in &mut found.servers {
        compare(server, experiment, &analysis);
    }
    Ok(Some(found))
}

/// Adds what is needed of a teacher, and, if its server returns less than requested, the nearest form that
/// works.
fn compare(server: &mut FoundServer, experiment: &Experiment, analysis: &Analysis) {
    let FoundServer { report, needed } = server;
    let named = |name: &String| experiment.teachers.iter().position(|teacher| teacher.name == *name);
    let Some(place) = report.teacher.as_ref().and_then(named) else { return };
    let of = needed_of(experiment, TeacherId(place as u32));
    *needed = of.as_ref().map(|(needed, _)| *needed);
    let (Some(failure), Some(answers)) = (&mut report.falls_short, report.answers) else { return };
    // It did not answer in time, say.
    if report.asked.is_some_and(|asked| asked <= answers) {
        return;
    }
    let enough = of.as_ref().is_none_or(|(needed, _)| *needed <= answers.capability());
    if enough && works_with(answers, place, experiment, analysis) {
        failure.help = Some(format!("write `answers: {answers}`: the experiment needs no more"));
        return;
    }
    let mut help = match (report.engine, report.asked) {
        (Engine::Vllm, Some(Answers::TopK(k))) => format!("start the server with `--max-logprobs {k}`; or "),
        (Engine::Vllm, Some(Answers::Distribution)) => {
            "start the server with `--max-logprobs -1`; or ".to_owned()
        }
        _ => String::new(),
    };
    match of {
        Some((needed, role)) if !enough => {
            help += &format!("write `answers: {answers}`, and ");
            help += &nearest_form(needed, answers.capability(), &role);
        }
        _ => help += "use another server",
    }
    failure.help = Some(help);
}

/// Whether the experiment still has a plan if a teacher returns less: at temperatures other than 1, for
/// example, only whole distributions have one.
fn works_with(answers: Answers, teacher: usize, experiment: &Experiment, analysis: &Analysis) -> bool {
    let mut less = experiment.clone();
    less.teachers[teacher].answers = answers.capability();
    mopd_compiler::compile(&less, &analysis.origins, &analysis.sources, jit::fuses()).is_ok()
}

/// As text for people.
pub fn human(found: &ServersFound, style: Style) -> String {
    let mut out = String::new();
    if found.servers.is_empty() {
        out += "\nno server is named\n";
    }
    for server in &found.servers {
        out += &one(server, style);
    }
    for failure in &found.refused {
        out += &problem(failure, style);
    }
    out
}

fn one(FoundServer { report, needed }: &FoundServer, style: Style) -> String {
    let stages: Vec<String> = report.stages.iter().map(|stage| format!("`{stage}`")).collect();
    let stages = stages.join(", ");
    let title = match &report.teacher {
        Some(teacher) => format!("{teacher}, teacher of {stages}"),
        None => format!("rollouts of {stages}"),
    };
    let url = report.url.as_deref().map_or_else(String::new, |url| format!(" at {url}"));
    let mut rows = vec![("server", format!("{}{url}", report.engine.name()))];
    if report.there {
        let root = report.root.as_ref().map_or_else(String::new, |root| format!(", from {root}"));
        rows.push(("model", format!("{}{root}", report.model)));
        rows.push(("weights", report.weights.clone().unwrap_or_else(|| "not reported".to_owned())));
        rows.push((
            "context",
            report.context.map_or_else(|| "not reported".to_owned(), |tokens| format!("{tokens} tokens")),
        ));
        if report.ids_agree {
            rows.push(("ids", "same as the student's".to_owned()));
        }
        if let Some(asked) = report.asked {
            rows.push(("answers", answers(report, asked, *needed)));
        } else if report.samples {
            rows.push(("answers", "samples and returns log-probabilities".to_owned()));
        }
    }
    let mut out = format!("\n{}\n", style.bold(&printable(&title)));
    for (name, value) in rows {
        out += &format!("  {} {}\n", style.cyan(&format!("{name:9}")), printable(&value));
    }
    for failure in report.falls_short.iter().chain(&report.problems) {
        out += &problem(failure, style);
    }
    out
}

/// `top_k(20) at most; asked is top_k(5), needed is sampled`
fn answers(report: &ServerReport, asked: Answers, needed: Option<Capability>) -> String {
    let most = match report.answers {
        Some(Answers::TopK(k)) if k >= LONGEST_LIST => format!("top_k({k}), larger k not tested"),
        Some(Answers::Distribution) => "dist, everything".to_owned(),
        Some(answers) => format!("{answers} at most"),
        None => "not known".to_owned(),
    };
    let needed = needed.map_or_else(String::new, |needed| format!(", needed is {needed}"));
    format!("{most}; asked is {asked}{needed}")
}

fn problem(failure: &Failure, style: Style) -> String {
    let mut out = format!("{}: {}\n", style.red("problem"), printable(&failure.message));
    if let Some(help) = &failure.help {
        out += &hanging("  help: ", "        ", &printable(help));
    }
    out
}
